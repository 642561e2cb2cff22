"""Samplers, paths, recorders and adaptation on a second device: nothing meets a CPU tensor, results
stay there and are those of the CPU, and a step waits for nothing but what the table permits.
"""

import copy
import warnings
from collections.abc import Callable, Sequence

import pytest
import torch
from simulated import Permission, compare_devices, count_per_step, excess
from simulated.permitted import (
    NUTS as NUTS_WAITS,
)
from torch import Tensor

from lowland import (
    MALA,
    BlockGibbs,
    Energy,
    Function,
    box,
    real,
    sample,
)
from lowland.registry import registered
from lowland.samplers import (
    Sampler,
)
from lowland.targets import Gaussian, GaussianMixture, MaxCut, Potts
from lowland.testing import all_samplers

STEPS = 3
CHAINS = 6


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def wavy(x: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1) + 0.3 * x.cos().sum(1) + 0.2 * x[:, 0] * x[:, 1]


def images(x: Tensor) -> Tensor:
    return x.diff(dim=-1).square().flatten(1).sum(1) + x.square().flatten(1).sum(1)


RING = MaxCut(tuple((i, (i + 1) % 6) for i in range(6)))
ENERGIES: dict[str, Energy] = {
    "real": Function(wavy, real(3)),
    "box": Function(wavy, box(-1.0, 1.0, 3)),
    "binary": RING,
    "categorical": Potts((2, 3), 3, 0.5),
}
PLANE = Gaussian((0.0, 1.0), ((1.0, 0.3), (0.3, 0.5)))
MODES = GaussianMixture(((-1.0, 0.0), (2.0, 0.5)), 0.7, (1.0, 2.0))
NOISY = Function(lambda x, sigma: 0.5 * x.square().sum(1) / (0.3 + sigma**2), real(3))


def run_chains(
    energy: Energy, sampler: Sampler, steps: int, device: torch.device, g: torch.Generator
) -> list[Tensor]:
    x = energy.domain.draw(CHAINS, torch.Generator().manual_seed(3)).to(device)
    moved = copy.deepcopy(energy).to(device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a few steps of few chains
        trace = sample(moved, sampler, x, steps, generator=g)
    return [trace.x, trace.state.energy, trace.acceptance, trace.diverged]


def check(
    run: Callable[[int, torch.device, torch.Generator], object],
    sim: torch.device,
    allowed: Sequence[Permission] = (),
    *,
    steps: int = STEPS,
    stay: bool = True,
    tolerance: float = 1e-5,
) -> None:
    """Compare a run with the CPU's, and count what its steps wait for."""
    compare_devices(lambda d, g: run(steps, d, g), sim, stay=stay, tolerance=tolerance)
    grown = count_per_step(lambda n: run(n, sim, torch.Generator(sim).manual_seed(1)), steps)
    assert not excess(grown, steps, allowed), excess(grown, steps, allowed)


FORMS = [
    (name, kind)
    for name, sampler in all_samplers().items()
    for kind in ENERGIES
    if kind in sampler.domains or (kind == "box" and "real" in sampler.domains)
]


@pytest.mark.parametrize(("name", "kind"), FORMS)
def test_every_sampler_runs_there_as_here(name: str, kind: str, sim: torch.device) -> None:
    sampler = all_samplers()[name]
    allowed = [NUTS_WAITS] if "NUTS" in name else []
    check(lambda n, d, g: run_chains(ENERGIES[kind], sampler, n, d, g), sim, allowed)


def test_every_registered_sampler_is_among_them() -> None:
    assert {type(all_samplers()[name]).__name__ for name, _ in FORMS} == set(registered("sampler"))


@pytest.mark.parametrize("kind", ["real", "categorical"])
def test_a_planted_synchronisation_is_found_in_a_sampler(kind: str, sim: torch.device) -> None:
    def nosy(x: Tensor) -> Tensor:
        assert x.sum() < 1e9
        return x.square().sum(1)

    domain = ENERGIES[kind].domain
    energy = Function(nosy, domain)
    sampler = MALA(0.1) if kind == "real" else BlockGibbs()
    with pytest.raises(AssertionError, match="per step: item"):
        check(lambda n, d, g: run_chains(energy, sampler, n, d, g), sim)


def test_planted_mixing_is_found_in_a_sampler(sim: torch.device) -> None:
    forgotten = torch.ones(3)
    energy = Function(lambda x: (x - forgotten).square().sum(1), real(3))
    with pytest.raises(RuntimeError, match="same device"):
        check(lambda n, d, g: run_chains(energy, MALA(0.1), n, d, g), sim)
