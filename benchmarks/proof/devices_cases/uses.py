"""Uses: nets and their gradients, tasks, metrics, attacks."""

from collections.abc import Callable
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
    gradients,
    points_on,
    require_device,
)
from benchmarks.proof.devices_cases.draws import boxed, plane, rbm, seeded
from lowland.energy import Energy, noise_of
from lowland.tasks import Mask, generate_by_flow, map_estimate, split_gibbs_sample

SQUARE = lowland.box(0.0, 1.0, 1, 8, 8)
COLOURS = lowland.box(0.0, 1.0, 3, 8, 8)
nets, targets = lowland.nets, lowland.targets
NETS: dict[str, Callable[[], Energy]] = {
    "MLP": lambda: nets.MLP(lowland.real(3), hidden=(12, 12), spectral_norm=True),
    "MLP with classes": lambda: nets.MLP(lowland.real(3), hidden=(12,), classes=3),
    "NoiseMLP": lambda: nets.NoiseMLP(lowland.real(3), hidden=(12,)),
    "EmbeddingMLP": lambda: nets.EmbeddingMLP(lowland.binary(6), hidden=(12,)),
    "DenoiserMLP": lambda: nets.DenoiserMLP(lowland.real(3), hidden=(12,), question=(0,)),
    "NoiseUNet": lambda: nets.NoiseUNet(
        SQUARE, widths=(4, 6), blocks=(1, 1), dense=4, embedding=8, norm="rms"
    ),
    "ConvNet": lambda: nets.ConvNet(SQUARE, channels=(4, 4, 4), hidden=8, spectral_norm=True),
    "IGEBM": lambda: nets.IGEBM(COLOURS, widths=(4, 6), blocks=1),
    "PairEnergy": lambda: nets.PairEnergy(SQUARE, hidden=(12,), features=4),
    "WideResNet": lambda: nets.WideResNet(SQUARE, classes=3, depth=10, width=1),
    "RBM of bits": lambda: rbm(lowland.binary(6)),
    "RBM of classes": lambda: rbm(lowland.categorical(3, 4)),
    "RBM of numbers": lambda: rbm(lowland.real(4), hidden_type="relu"),
    "RBM with labels": lambda: rbm(lowland.binary(6), classes=3),
    "DBM": lambda: nets.DBM(lowland.binary(6), n_hidden=(4, 3), init_std=0.5),
    "DBN": lambda: nets.DBN(lowland.binary(6), n_hidden=(5, 4, 3), init_std=0.5),
    "Gaussian": lambda: targets.Gaussian(mean=(1.0, -1.0)),
    "GaussianMixture": lambda: targets.GaussianMixture(((-1.0, 0.0), (2.0, 0.5)), 0.7),
    "Banana": lambda: targets.Banana(),
    "Funnel": lambda: targets.Funnel(),
    "Ising": lambda: targets.Ising(size=(4, 4), coupling=0.3),
    "Potts": lambda: targets.Potts(size=(4, 4)),
    "mixture": lambda: lowland.mixture(plane(), targets.Gaussian()),
    "algebra": lambda: 0.5 * plane() + targets.Gaussian() / 2.0,
}


def evaluate(name: str, device: torch.device, folder: Path) -> Numbers:
    """Compute energies, scores and gradients of the weights at points."""
    energy = seeded(NETS[name]).to(device)
    x = points_on(device, energy.domain, 8)
    bound = energy.given(torch.full((8,), 0.7, device=device)) if noise_of(energy) else energy
    found: dict[str, Tensor] = {}
    if energy.domain.kind in ("real", "box"):
        value, score = lowland.value_and_score(bound, x)
        found = {"energy": value, "score": score}
    value = bound(x)
    found["value"] = value.detach()
    if value.requires_grad:
        value.sum().backward()
        found |= gradients(energy)
    return require_device(device, found)


def _restore(device: torch.device, folder: Path) -> Numbers:
    prior, mask = boxed().to(device), torch.ones(1, 8, 8, device=device)
    mask[:, 2:5] = 0
    x = points_on(device, SQUARE, 3)
    operator = Mask(mask.bool())
    found: Any = lowland.restore(
        prior,
        operator,
        operator(x),
        0.1,
        lowland.Langevin(0.001),
        generator=generator_on(device),
        steps=4,
        draws=2,
    )
    best = map_estimate(prior, operator, operator(x), 0.1, start=torch.full_like(x, 0.5), steps=5)
    return {"draws": found.draws, "mean": found.mean, "best": best.x}


def _denoise(device: torch.device, folder: Path) -> Numbers:
    net = seeded(NETS["NoiseUNet"]).to(device)
    y = points_on(device, SQUARE, 3)
    found: Any = split_gibbs_sample(
        net,
        lowland.tasks.Identity(),
        y,
        0.2,
        generator=generator_on(device),
        sigma_max=1.0,
        sigma_min=0.1,
        num_levels=2,
        denoise_steps=2,
        draws=2,
    )
    return {"draws": found.draws}


def _flow(device: torch.device, folder: Path) -> Numbers:
    net = seeded(NETS["DenoiserMLP"]).to(device)
    found = generate_by_flow(net, (2.0, 1.0, 0.5), 6, generator=generator_on(device))
    return {"x": found.x}


def _purify(device: torch.device, folder: Path) -> Numbers:
    x = points_on(device, SQUARE, 6)
    found = lowland.purify(boxed().to(device), x, generator=generator_on(device), steps=3)
    return {"x": found}


def _compose(device: torch.device, folder: Path) -> Numbers:
    one, other = plane().to(device), targets.Gaussian().to(device)
    x = points_on(device, lowland.real(2), 40)
    both: Any = lowland.compose([one, other], [x, x])
    return {"energy": both(x), "score": lowland.value_and_score(both, x)[1]}


def _edit(device: torch.device, folder: Path) -> Numbers:
    x = points_on(device, lowland.real(2), 6)
    found: Any = lowland.edit(
        plane().to(device),
        x,
        targets.Gaussian().to(device),
        generator=generator_on(device),
        sampler=lowland.MALA(0.05),
        steps=6,
    )
    between = lowland.interpolate(plane().to(device), x[:2], x[2:4], 5, steps=5, step_size=0.01)
    return {"draws": found.draws, "between": between.points}


def _complete(device: torch.device, folder: Path) -> Numbers:
    x = points_on(device, lowland.real(2), 6)
    known = torch.tensor([True, False], device=device)
    found: Any = lowland.conditional_sample(
        plane().to(device),
        x,
        known,
        generator=generator_on(device),
        sampler=lowland.MALA(0.05),
        steps=6,
        final=2,
    )
    return {"x": found.draws}


def _detect(device: torch.device, folder: Path) -> Numbers:
    x = points_on(device, lowland.real(2), 60)
    detector = lowland.Detector(plane().to(device)).fit(x)
    return {"scores": detector.outlier_scores(3 * x[:8])}


def _attack(device: torch.device, folder: Path) -> Numbers:
    net = seeded(NETS["MLP with classes"]).to(device)
    x, y = points_on(device, lowland.real(3), 16), torch.arange(16, device=device) % 3
    attack = lowland.robustness.PGD(steps=3, bounds=None)
    return {
        "x": attack(lambda at: -net.class_energies(at), x, y, 0.3, generator=generator_on(device))
    }


def _measure(device: torch.device, folder: Path) -> Numbers:
    a = points_on(device, lowland.real(2), 60)
    b, metrics = a[:30] * 1.2 + 0.1, lowland.metrics
    found = {
        "mmd": metrics.mmd(a, b).value,
        "ksd": metrics.ksd(plane().to(device), a).value,
        "frechet": metrics.frechet_distance(a, b),
    }
    return {name: torch.tensor(float(x), device=device) for name, x in found.items()}


TASKS: dict[str, Callable[[torch.device, Path], Numbers]] = {
    "restore": _restore,
    "split Gibbs": _denoise,
    "flow": _flow,
    "purify": _purify,
    "compose": _compose,
    "edit": _edit,
    "complete": _complete,
    "detect": _detect,
    "attack": _attack,
    "metrics": _measure,
}
CASES = [
    *(Case("net", name, partial(evaluate, name), rounding=1e-3) for name in NETS),
    *(Case("task", name, run, rounding=5e-3, share=0.1) for name, run in TASKS.items()),
]
