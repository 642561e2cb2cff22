"""Objectives compare data with samples. One file per origin of the negatives."""

from lowland.objectives.contrastive import CD, PCD, Loss, ShortRunML, contrast
from lowland.objectives.discrepancy import EnergyDiscrepancy, PseudoLikelihood, RatioMatching
from lowland.objectives.joint import JEM, OutlierExposure
from lowland.objectives.noise import NCE, FlowContrastive, RankingNCE
from lowland.objectives.score import DSM, ScoreMatching
from lowland.objectives.transport import EnergyMatching, EquilibriumMatching
from lowland.objectives.wake_sleep import WakeSleep

__all__ = [
    "CD",
    "DSM",
    "JEM",
    "NCE",
    "PCD",
    "EnergyDiscrepancy",
    "EnergyMatching",
    "EquilibriumMatching",
    "FlowContrastive",
    "Loss",
    "OutlierExposure",
    "PseudoLikelihood",
    "RankingNCE",
    "RatioMatching",
    "ScoreMatching",
    "ShortRunML",
    "WakeSleep",
    "contrast",
]
