"""Training that does not die: recipes, health, averaged weights."""

from lowland.training.callbacks import Event, StopTraining
from lowland.training.classifier import ImageClassifier, train_classifier
from lowland.training.findings import Finding, Limits, worst
from lowland.training.grow import grow, resize_dataset
from lowland.training.health import diagnose
from lowland.training.layerwise import greedy
from lowland.training.loop import TrainingStoppedError, lineage
from lowland.training.recipes import load_recipe_data
from lowland.training.session import Session
from lowland.training.settings import Training
from lowland.training.threads import cpu_threads
from lowland.training.train import train_recipe

__all__ = [
    "Event",
    "Finding",
    "ImageClassifier",
    "Limits",
    "Session",
    "StopTraining",
    "Training",
    "TrainingStoppedError",
    "cpu_threads",
    "diagnose",
    "greedy",
    "grow",
    "lineage",
    "load_recipe_data",
    "resize_dataset",
    "train_classifier",
    "train_recipe",
    "worst",
]
