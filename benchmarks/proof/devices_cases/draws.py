"""Draws: every sampler of the registry, adaptation, paths, estimates of log Z."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import lowland
from benchmarks.proof.devices_cases.case import (
    Case,
    Numbers,
    generator_on,
    points_on,
    require_device,
)
from lowland.energy import Energy
from lowland.registry import build
from lowland.samplers import Sampler, ais, geometric_path, multiscale_sample, tune

STEPS = 6


def plane() -> Energy:
    """Return a net in the plane, the same for every device."""
    return seeded(lambda: lowland.nets.MLP(lowland.real(2), hidden=(12, 12), quadratic_weight=0.5))


def boxed() -> Energy:
    """Return a small convolutional net on images."""
    square = lowland.box(0.0, 1.0, 1, 8, 8)
    return seeded(lambda: lowland.nets.ConvNet(square, channels=(4, 4, 4), hidden=8))


def bits() -> Energy:
    """Return a net on bits."""
    return seeded(lambda: lowland.nets.MLP(lowland.binary(6), hidden=(12,)))


def rbm(domain: Any, **options: Any) -> Energy:
    """Return a Boltzmann machine with weights that matter."""
    return seeded(lambda: lowland.nets.RBM(domain, n_hidden=5, init_std=0.5, **options))


def lattice() -> Energy:
    """Return an Ising lattice."""
    return lowland.targets.Ising(size=(4, 4), coupling=0.3)


def seeded(make: Any) -> Any:
    """Make something with the weights of seed 0, and leave torch's generators alone."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        return make()


WALKS: dict[str, tuple[Any, dict[str, Any]]] = {  # energy and sampler
    "Langevin": (plane, {"name": "Langevin", "step_size": 0.05}),
    "Langevin in a box": (boxed, {"name": "Langevin", "step_size": 0.01}),
    "LeimkuhlerMatthews": (plane, {"name": "LeimkuhlerMatthews", "step_size": 0.05}),
    "ShortRun": (boxed, {"name": "ShortRun", "step_size": 0.05, "noise": 0.02, "clip": 0.5}),
    "MALA": (plane, {"name": "MALA", "step_size": 0.05}),
    "HMC": (plane, {"name": "HMC", "step_size": 0.1, "num_leapfrog_steps": 3}),
    "GHMC": (plane, {"name": "GHMC", "step_size": 0.1, "friction": 0.5}),
    "Underdamped": (plane, {"name": "Underdamped", "step_size": 0.1, "friction": 1.0}),
    "NUTS": (plane, {"name": "NUTS", "step_size": 0.3, "max_tree_depth": 3}),
    "ParallelTempering": (
        plane,
        {
            "name": "ParallelTempering",
            "sampler": {"name": "MALA", "step_size": 0.05},
            "temperatures": [1.0, 2.0],
        },
    ),
    "GibbsWithGradients": (bits, {"name": "GibbsWithGradients"}),
    "DMALA": (bits, {"name": "DMALA", "step_size": 0.3}),
    "BlockGibbs, lattice": (lattice, {"name": "BlockGibbs"}),
    "BlockGibbs, bits": (lambda: rbm(lowland.binary(6)), {"name": "BlockGibbs"}),
    "BlockGibbs, classes": (lambda: rbm(lowland.categorical(3, 4)), {"name": "BlockGibbs"}),
    "BlockGibbs, numbers": (
        lambda: rbm(lowland.real(4), hidden_type="relu"),
        {"name": "BlockGibbs"},
    ),
}


def walk(name: str, device: torch.device, folder: Path) -> Numbers:
    """Move chains; return where they end and how they got there."""
    make, sampler = WALKS[name]
    energy = make().to(device)
    start = points_on(device, energy.domain)
    how: Sampler = build("sampler", sampler)
    trace = lowland.sample(energy, how, start, STEPS, generator=generator_on(device))
    found: dict[str, Tensor] = {"x": trace.x, "acceptance": trace.acceptance}
    return require_device(device, found)


def adapt(device: torch.device, folder: Path) -> Numbers:
    """Tune a step size and a metric."""
    energy = plane().to(device)
    start = points_on(device, energy.domain, 64)
    tuned: Any = tune(
        energy, lowland.MALA(0.1), start, 60, generator=generator_on(device), say=_keep_quiet
    )
    return {"step size": torch.tensor(tuned.step_size, device=device)}


def _keep_quiet(sentence: str) -> None:
    """Drop what `tune` says."""


def estimate(device: torch.device, folder: Path) -> Numbers:
    """Estimate log Z by annealed importance sampling."""
    energy = lowland.targets.Gaussian(mean=(1.0, -1.0), covariance=((1.0, 0.5), (0.5, 1.0)))
    energy, base = energy.to(device), lowland.targets.Gaussian().to(device)
    path = geometric_path(base, energy, torch.linspace(0, 1, 8).tolist())
    start = base.draw(64, generator_on(device))
    found = ais(path, lowland.MALA(0.3), start, generator=generator_on(device, 1))
    return require_device(device, {"log weights": found.log_weights})


def grow_images(device: torch.device, folder: Path) -> Numbers:
    """Draw small images and continue on large ones."""
    energies = [
        seeded(lambda: lowland.nets.IGEBM(lowland.box(0.0, 1.0, 1, 4, 4), widths=(4, 6), blocks=1)),
        seeded(lambda: lowland.nets.IGEBM(lowland.box(0.0, 1.0, 1, 8, 8), widths=(4, 6), blocks=1)),
    ]
    moved = [energy.to(device) for energy in energies]
    start = points_on(device, energies[0].domain, 4)
    traces = multiscale_sample(
        moved, lowland.Langevin(0.01), start, 2, generator=generator_on(device)
    )
    return require_device(device, {"x": traces[-1].x})


CASES = [
    # a decision of an accept test or of a site may turn by rounding: a row in ten at the most
    *(Case("draws", name, partial(walk, name), rounding=5e-3, share=0.1) for name in WALKS),
    Case("draws", "tune", adapt, rounding=0.05),
    Case("draws", "annealed importance sampling", estimate, rounding=5e-3, share=0.1),
    Case("draws", "from small to large", grow_images, rounding=5e-3),
]
