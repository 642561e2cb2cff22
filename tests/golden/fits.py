"""Cases of training: shipped recipes, a few updates of small nets, on data that are embedded."""

import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import torch

import lowland
from lowland.run import Run

from .registry import Numbers, Tolerance, add

TRAINED = Tolerance(1e-3, "float32 gradients over tens of updates; seen: 6e-5")
SMALL: dict[str, Any] = {  # for every recipe
    "training.batch": 32,
    "training.warmup": 5,
    "training.threads": 1,
    "training.device": "cpu",
    "training.log_every": 10,
    "training.checkpoint_every": 1000,
    "training.preflight": "off",
    "training.on_failure": "continue",
}
MLP: dict[str, Any] = {"energy.hidden": [16, 16]}
CHAINS: dict[str, Any] = {"objective.steps": 4}
BUFFER: dict[str, Any] = CHAINS | {"objective.buffer_size": 100}
UNITS: dict[str, Any] = {"energy.n_hidden": 12}
DOUBLE_BUFFER: dict[str, Any] = {"objective.buffer_size": 64, "objective.num_chains": 32}
DIGITS: dict[str, Any] = {"training.batch": 16}

RECIPES: dict[str, tuple[str, int, dict[str, Any]]] = {  # recipe, updates, overrides
    "pcd": ("moons", 60, MLP | BUFFER),
    "cd": ("moons-cd", 60, MLP | CHAINS),
    "cooperative": ("moons-cooperative", 40, MLP | CHAINS | {"objective.infer_steps": 3}),
    "multilevel_dsm": ("moons-denoising", 100, MLP),
    "energy_discrepancy": ("moons-discrepancy", 100, MLP),
    "dsm": ("moons-dsm", 100, MLP),
    "equilibrium_matching": ("moons-equilibrium", 100, MLP),
    "outlier_exposure": ("moons-exposure", 100, MLP),
    "flow_contrastive": ("moons-flow", 25, MLP),
    "improved_cd": ("moons-improved", 60, MLP | BUFFER),
    "jem": ("moons-jem", 60, MLP | BUFFER),
    "energy_matching": ("moons-matching", 80, MLP | BUFFER | {"objective.arrival_steps": 8}),
    "nce": ("moons-nce", 100, MLP),
    "ranking_nce": ("moons-ranking", 100, MLP | {"objective.candidates": 64}),
    "diffusion_recovery": ("moons-recovery", 60, MLP | CHAINS),
    "robust": ("moons-robust", 80, MLP | {"objective.steps": 3}),
    "trades": ("moons-robust", 40, MLP | {"objective.steps": 3, "objective.kind": "trades"}),
    "score_matching": ("moons-score", 100, MLP),
    "short_run": ("moons-short", 60, MLP | {"objective.steps": 6}),
    "info_nce": ("digits-pairs", 60, MLP),
    "pseudo_likelihood": ("digits-pl", 100, UNITS),
    "ratio_matching": ("digits-rm", 50, UNITS),
    "rbm": ("digits-rbm", 100, UNITS | DOUBLE_BUFFER),
    "wake_sleep": ("digits-wake", 60, {"energy.n_hidden": [12, 10]} | DOUBLE_BUFFER),
    "dbm": ("digits-rbm", 60, {"energy.name": "DBM", "energy.n_hidden": [12, 10]} | DOUBLE_BUFFER),
    "sliced_score_matching": ("digits-score", 60, MLP),
    "digits_with_labels": ("digits", 40, MLP | BUFFER),
    "digits_grown": ("digits-grow", 16, {"energy.widths": [4, 6]} | BUFFER),
    "digits_denoised": (
        "digits-denoising",
        12,
        {"energy.widths": [6, 8], "energy.blocks": [1, 1], "energy.dense": 8},
    ),
    "preflight": ("moons", 20, MLP | BUFFER | {"training.preflight": "adjust"}),
}
ROBUST_JEM = {
    "objective.weight_px": 0.0,
    "objective.weight_pxy": 0.3,
    "objective.attack_epsilon": 0.1,
}
TERMS = [
    {"name": "EnergyL2", "weight": 0.001},
    {"name": "GradientPenalty", "weight": 0.001},
    {"name": "PullAway", "weight": 0.05},
    {"name": "HingeMargin", "weight": 0.1},
]
RECIPES["regularised"] = ("moons", 60, MLP | BUFFER | {"terms": TERMS})
RECIPES["robust_jem"] = ("moons-jem", 60, MLP | BUFFER | ROBUST_JEM)


# Losses that are the same for E and E + constant: Adam moves the bias of the output by what
# rounding leaves of its gradient, so neither the level of the energies nor any bias is compared.
WITHOUT_LEVEL = ("moons-discrepancy", "moons-ranking")


def train(name: str, steps: int, overrides: dict[str, Any]) -> Numbers:
    """Train a recipe for some updates; return losses, gap, energies and norms of the weights."""
    recipe = lowland.read_recipe(name, SMALL | {"training.steps": steps} | overrides)
    with tempfile.TemporaryDirectory() as folder:
        energy = lowland.train_recipe(recipe, Path(folder) / "run", progress=False)
        rows = [row for row in Run.open(Path(folder) / "run").rows() if "loss" in row]
    weights = torch.cat([p.detach().double().flatten() for p in energy.parameters() if p.dim() > 1])
    last = rows[-1]
    kept = (
        ("loss", "gap") if name in WITHOUT_LEVEL else ("loss", "gap", "energy_data", "energy_model")
    )
    return {
        "losses": [rows[0]["loss"], last["loss"]],
        "last": [last[key] for key in kept if key in last],
        "gradient_norm": last["gradient_norm"],
        "weights": [weights.norm().item(), weights.abs().sum().item()],
    }


for _case, _about in RECIPES.items():
    add(f"fit_{_case}", partial(train, *_about), TRAINED)
