"""Updates of training: every objective of the registry, the terms, the kinds of energies that
recipes know.
"""

from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

import lowland
from benchmarks.proof.devices_cases.case import Case, Numbers, session_tensors
from lowland.data import Dataset
from lowland.training import Session, load_recipe_data

SMALL: dict[str, Any] = {
    "training.batch": 16,
    "training.warmup": 2,
    "training.threads": 1,
    "training.steps": 8,
    "training.log_every": 4,
    "training.checkpoint_every": 4,
    "training.preflight": "off",
    "training.on_failure": "continue",
    "training.precision": "float32",
}
MLP: dict[str, Any] = {"energy.hidden": [12, 12]}
CHAINS: dict[str, Any] = {"objective.steps": 2}
BUFFER: dict[str, Any] = CHAINS | {"objective.buffer_size": 40}
UNITS: dict[str, Any] = {"energy.n_hidden": 10}
KEPT: dict[str, Any] = {"objective.buffer_size": 32, "objective.num_chains": 16}
DEEP: dict[str, Any] = {"energy.name": "DBM", "energy.n_hidden": [10, 8]}
IMAGES: dict[str, Any] = BUFFER | {
    "energy.name": "ConvNet",
    "energy.channels": [4, 6],
    "energy.kernels": [3, 3],
    "energy.strides": [1, 2],
    "energy.classes": 10,
    "energy.spectral_norm": True,
}
TERMS = [
    {"name": "EnergyL2", "weight": 0.001},
    {"name": "GradientPenalty", "weight": 0.001, "at": "lines", "target": 1.0},
    {"name": "PullAway", "weight": 0.05},
    {"name": "HingeMargin", "weight": 0.1},
]
RECIPES: dict[str, tuple[str, dict[str, Any]]] = {  # recipe, overrides
    "PCD": ("moons", MLP | BUFFER),
    "PCD with labels": ("digits", MLP | BUFFER),
    "PCD, no chain begins anew": ("moons", MLP | BUFFER | {"objective.reinit_prob": 0.0}),
    "CD": ("moons-cd", MLP | CHAINS),
    "Cooperative": ("moons-cooperative", MLP | CHAINS | {"objective.infer_steps": 2}),
    "MultilevelDSM": ("moons-denoising", MLP),
    "EnergyDiscrepancy": ("moons-discrepancy", MLP),
    "DSM": ("moons-dsm", MLP),
    "EquilibriumMatching": ("moons-equilibrium", MLP),
    "OutlierExposure": ("moons-exposure", MLP),
    "FlowContrastive": ("moons-flow", MLP),
    "ImprovedCD": ("moons-improved", MLP | BUFFER),
    "JEM": ("moons-jem", MLP | BUFFER),
    "JEM, attacked": (
        "moons-jem",
        MLP
        | BUFFER
        | {
            "objective.weight_px": 0.0,
            "objective.weight_pxy": 0.3,
            "objective.attack_epsilon": 0.1,
        },
    ),
    "EnergyMatching": ("moons-matching", MLP | BUFFER | {"objective.warmup_fraction": 0.2}),
    "NCE": ("moons-nce", MLP),
    "NCE in a box": ("digits-nce", MLP),
    "RankingNCE": ("moons-ranking", MLP | {"objective.candidates": 32}),
    "DiffusionRecovery": ("moons-recovery", MLP | CHAINS),
    "Robust": ("moons-robust", MLP | CHAINS | {"objective.warmup_fraction": 0.0}),
    "Robust, trades": ("moons-robust", MLP | CHAINS | {"objective.kind": "trades"}),
    "ScoreMatching": ("moons-score", MLP),
    "ScoreMatching, sliced": ("digits-score", MLP),
    "ShortRunML": ("moons-short", MLP | CHAINS),
    "InfoNCE": ("digits-pairs", MLP),
    "PseudoLikelihood": ("digits-pl", UNITS),
    "RatioMatching": ("digits-rm", UNITS),
    "PCD of an RBM": ("digits-rbm", UNITS | KEPT),
    "PCD of a DBM": ("digits-rbm", DEEP | KEPT),
    "WakeSleep": ("digits-wake", {"energy.n_hidden": [10, 8]} | KEPT),
    "terms": ("moons", MLP | BUFFER | {"terms": TERMS}),
    "SGD": ("moons", MLP | BUFFER | {"training.optimizer": "sgd", "training.momentum": 0.5}),
    "ConvNet": ("digits", IMAGES),
    "IGEBM, recomputed": (
        "digits-grow",
        BUFFER
        | {
            "energy.widths": [4, 6],
            "training.progressive_sizes": [],
            "training.checkpoint_activations": True,
        },
    ),
    "NoiseUNet": (
        "digits-denoising",
        {"energy.widths": [4, 6], "energy.blocks": [1, 1], "energy.dense": 4},
    ),
    "tempered chains": (
        "moons",
        MLP
        | BUFFER
        | {
            "sampler": {
                "name": "ParallelTempering",
                "sampler": {"name": "Langevin", "step_size": 0.01},
                "temperatures": [1.0, 2.0],
            }
        },
    ),
}
# losses that are the same for E and E + constant: Adam makes steps of what rounding leaves of the
# gradient of the output's bias, so no bias is compared
WITHOUT_LEVEL = ("EnergyDiscrepancy", "RankingNCE", "ScoreMatching", "DSM", "Matching")
UPDATES = 3


@cache
def load(name: str, binarize: str | None) -> Dataset:
    """Load the data of a recipe once for all its cases."""
    return load_recipe_data(lowland.read_recipe(name).plain())


def read_case(name: str, device: torch.device) -> tuple[dict[str, Any], Dataset]:
    """Return the plain recipe of a case on a device, and its data."""
    recipe, overrides = RECIPES[name]
    values = lowland.read_recipe(recipe, SMALL | {"training.device": str(device)} | overrides)
    plain = values.plain()
    return plain, load(recipe, plain["data"].get("binarize"))


def begin(name: str, device: torch.device) -> Session:
    """Make some updates of a case."""
    session = Session(*read_case(name, device))
    for _ in range(UPDATES):
        session.advance()
    return session


def read(name: str, session: Session) -> Numbers:
    """Return all that the session of a case holds, and its losses."""
    found = session_tensors(session)
    if any(part in name for part in WITHOUT_LEVEL):
        found = {key: x for key, x in found.items() if not key.endswith("bias")}
    row = session.row()
    assert not row["nonfinite"], row
    losses = torch.tensor([row["loss"], row["gradient_norm"]], device=session.device)
    return found | {"losses": losses}


def update(name: str, device: torch.device, folder: Path) -> Numbers:
    """Make some updates of a case; return what the session holds then."""
    return read(name, begin(name, device))


CASES = [Case("update", name, partial(update, name), rounding=5e-3, share=0.1) for name in RECIPES]
