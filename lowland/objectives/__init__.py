"""Objectives compare data with samples. One file per origin of the negatives."""

from lowland.objectives.adversarial import Robust
from lowland.objectives.contrastive import CD, PCD, ShortRunML, contrast
from lowland.objectives.cooperative import Cooperative
from lowland.objectives.denoising import MultilevelDSM
from lowland.objectives.discrepancy import EnergyDiscrepancy, PseudoLikelihood, RatioMatching
from lowland.objectives.improved_cd import ImprovedCD
from lowland.objectives.info_nce import InfoNCE
from lowland.objectives.jem import JEM
from lowland.objectives.loss import Batch, Context, Loss, Objective, Term
from lowland.objectives.matching import EnergyMatching, EquilibriumMatching
from lowland.objectives.nce import NCE, FlowContrastive, RankingNCE
from lowland.objectives.outlier_exposure import OutlierExposure
from lowland.objectives.recovery import DiffusionRecovery
from lowland.objectives.regularizers import EnergyL2, GradientPenalty, HingeMargin, PullAway
from lowland.objectives.score import DSM, ScoreMatching
from lowland.objectives.wake_sleep import WakeSleep

__all__ = [
    "CD",
    "DSM",
    "JEM",
    "NCE",
    "PCD",
    "Batch",
    "Context",
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
    "Objective",
    "OutlierExposure",
    "PseudoLikelihood",
    "PullAway",
    "RankingNCE",
    "RatioMatching",
    "Robust",
    "ScoreMatching",
    "ShortRunML",
    "Term",
    "WakeSleep",
    "contrast",
]
