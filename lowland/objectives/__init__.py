"""Objectives compare data with samples. One file per origin of the negatives."""

from lowland.objectives.contrastive import CD, PCD, Loss, ShortRunML, contrast
from lowland.objectives.cooperative import Cooperative
from lowland.objectives.denoising import MultilevelDSM
from lowland.objectives.discrepancy import EnergyDiscrepancy, PseudoLikelihood, RatioMatching
from lowland.objectives.improved import ImprovedCD
from lowland.objectives.joint import JEM, OutlierExposure
from lowland.objectives.noise import NCE, FlowContrastive, RankingNCE
from lowland.objectives.pairs import InfoNCE
from lowland.objectives.recovery import DiffusionRecovery
from lowland.objectives.regularise import EnergyL2, GradientPenalty, HingeMargin, PullAway
from lowland.objectives.robust import Robust
from lowland.objectives.score import DSM, ScoreMatching
from lowland.objectives.transport import EnergyMatching, EquilibriumMatching
from lowland.objectives.wake_sleep import WakeSleep

__all__ = [
    "CD",
    "DSM",
    "JEM",
    "NCE",
    "PCD",
    "Cooperative",
    "DiffusionRecovery",
    "EnergyDiscrepancy",
    "EnergyL2",
    "EnergyMatching",
    "EquilibriumMatching",
    "FlowContrastive",
    "GradientPenalty",
    "HingeMargin",
    "ImprovedCD",
    "InfoNCE",
    "Loss",
    "MultilevelDSM",
    "OutlierExposure",
    "PseudoLikelihood",
    "PullAway",
    "RankingNCE",
    "RatioMatching",
    "Robust",
    "ScoreMatching",
    "ShortRunML",
    "WakeSleep",
    "contrast",
]
