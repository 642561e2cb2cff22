"""Training that does not die: fit, health, averaged weights."""

from lowland.training.fit import TrainingStoppedError, fit, lineage, load_recipe_data
from lowland.training.grow import grow
from lowland.training.health import Finding, Limits, diagnose, worst
from lowland.training.layerwise import greedy
from lowland.training.session import cpu_threads
from lowland.training.settings import Training

__all__ = [
    "Finding",
    "Limits",
    "Training",
    "TrainingStoppedError",
    "cpu_threads",
    "diagnose",
    "fit",
    "greedy",
    "grow",
    "lineage",
    "load_recipe_data",
    "worst",
]
