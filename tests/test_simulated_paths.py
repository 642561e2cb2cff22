"""Callers along a path, adaptation, log Z and figures of chains on a second device: nothing meets a
CPU tensor, numbers are those of the CPU, and a step waits for nothing that the table does not
permit.
"""

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from simulated import Permission, compare_devices, count_per_step, excess, permitted
from torch import Tensor

from lowland import (
    DMALA,
    HMC,
    MALA,
    NUTS,
    BlockGibbs,
    Energy,
    Function,
    ParallelTempering,
    binary,
    box,
    log_z,
    real,
    tune,
)
from lowland.energy import check_normalisable
from lowland.metrics.mcmc import autocorrelation, ess, mcse, rhat
from lowland.samplers import (
    GHMC,
    ais,
    anneal,
    denoise,
    diffusion_recovery_sample,
    geometric_path,
    geometric_schedule,
    karras_sigmas,
    multiscale_sample,
    predictor_corrector,
    probability_flow,
    scale_step_sizes,
    sde_dpm_solver,
    simulated_annealing,
    vp_to_ve,
)
from lowland.targets import Gaussian, GaussianMixture, Ising, MaxCut

PLANE = Gaussian((0.0, 1.0), ((1.0, 0.3), (0.3, 0.5)))
MODES = GaussianMixture(((-1.0, 0.0), (2.0, 0.5)), 0.7, (1.0, 2.0))
NOISY = Function(lambda x, sigma: 0.5 * x.square().sum(1) / (0.3 + sigma**2), real(2))
RING = MaxCut(tuple((i, (i + 1) % 6) for i in range(6)))


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    """Say nothing of a few steps of few chains."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def place(energy: Energy, device: torch.device) -> Energy:
    return copy.deepcopy(energy).to(device)


def noise(device: torch.device, *shape: int) -> Tensor:
    g = torch.Generator().manual_seed(3)
    return torch.randn(*shape, generator=g, dtype=torch.float64).to(device)


def bits(device: torch.device, *shape: int) -> Tensor:
    return (noise(device, *shape) > 0).double()


def rough(x: Tensor) -> Tensor:
    return x.diff(dim=-1).square().flatten(1).sum(1) + x.square().flatten(1).sum(1)


DOOR = "energy/gradient_checks.py"  # once a call, at as many points as it takes to be sure
Run = Callable[[int, torch.device, torch.Generator], object]


def follow(levels: Sequence[float]) -> list[Energy]:
    return [NOISY.given(sigma) for sigma in levels]


def run_ais(n: int, d: torch.device, g: torch.Generator) -> object:
    betas = torch.linspace(0, 1, n + 2).tolist()
    path = geometric_path(Gaussian().to(d), place(MODES, d), betas)
    return vars(ais(path, MALA(0.3), noise(d, 6, 2), generator=g))


def run_ais_on_bits(n: int, d: torch.device, g: torch.Generator) -> object:
    ring = place(RING, d)
    path = [(k / n) * ring for k in range(n + 1)]
    return vars(ais(path, BlockGibbs(), bits(d, 6, 6), generator=g))


def search(n: int, d: torch.device, g: torch.Generator) -> object:
    schedule = geometric_schedule(4.0, 0.5, 2)
    return simulated_annealing(
        place(MODES, d), MALA(0.3), noise(d, 4, 2), 2 * n, generator=g, temperatures=schedule
    )


def search_bits(n: int, d: torch.device, g: torch.Generator) -> object:
    return simulated_annealing(
        place(RING, d), BlockGibbs(), bits(d, 4, 6), 20 * n, generator=g
    ).energies


def enlarge(n: int, d: torch.device, g: torch.Generator) -> object:
    sizes = [Function(rough, box(-1.0, 1.0, 1, side, side)) for side in (2, 4)]
    start = noise(d, 4, 1, 2, 2).tanh()
    return multiscale_sample(sizes, MALA(0.05), start, 2 * n, generator=g, smooth=True)[-1].x


def correct(n: int, d: torch.device, g: torch.Generator) -> object:
    sigmas = karras_sigmas(8.0, 0.05, 3)
    found = predictor_corrector(
        follow(sigmas),
        sigmas,
        8 * noise(d, 4, 2),
        scale_step_sizes(MALA(0.01), sigmas),
        3 * n,
        generator=g,
        denoise=True,
    )
    return vars(found)


def flow(n: int, d: torch.device, g: torch.Generator) -> object:
    sigmas = karras_sigmas(8.0, 0.05, n + 1)
    start = 8 * noise(d, 4, 2)
    ends = [
        probability_flow(follow(sigmas), sigmas, start, order=order, denoise=order == 2).x
        for order in (1, 2)
    ]
    path, levels = vp_to_ve([place(PLANE, d) / (1 + a) for a in (0.1, 0.9)], (0.1, 0.9))
    solved = sde_dpm_solver(NOISY, start, sigmas, generator=g)
    return ends, probability_flow(path, levels, start).x, solved, denoise(path[-1], start, 0.5)


PATHS: dict[str, tuple[Run, list[Permission]]] = {
    "annealed importance sampling": (run_ais, [permitted.AIS]),
    "annealed importance sampling on bits": (run_ais_on_bits, [permitted.AIS]),
    "annealing": (
        lambda n, d, g: [
            trace.x
            for trace in anneal(
                [place(MODES, d) / t for t in (4.0, 1.0)],
                MALA(0.2),
                noise(d, 4, 2),
                2 * n,
                generator=g,
            )
        ],
        [],
    ),
    "simulated annealing": (search, [permitted.ADAPTATION]),
    "simulated annealing on bits": (search_bits, []),
    "multiscale": (enlarge, []),
    "predictor and corrector": (correct, []),
    "probability flow": (flow, []),
    "recovery": (
        lambda n, d, g: vars(
            diffusion_recovery_sample(
                NOISY, (3.0, 0.5, 0.1), 3 * noise(d, 4, 2), MALA(0.2), 2 * n, generator=g
            )
        ),
        [],
    ),
}


@pytest.mark.parametrize("name", PATHS)
def test_paths_run_there_as_here(name: str, sim: torch.device) -> None:
    run, allowed = PATHS[name]
    compare_devices(lambda d, g: run(3, d, g), sim)
    grown = count_per_step(lambda n: run(n, sim, torch.Generator(sim).manual_seed(1)), 3)
    for seen in [found for found in grown if found.file == DOOR]:
        del grown[seen]
    steps = 6 if permitted.ADAPTATION in allowed else 3  # two temperatures
    assert not excess(grown, steps, allowed), excess(grown, steps, allowed)


TUNED: dict[str, Run] = {
    "MALA": lambda n, d, g: vars(tune(place(PLANE, d), MALA(1.0), noise(d, 6, 2), n, generator=g)),
    "HMC": lambda n, d, g: vars(tune(place(PLANE, d), HMC(1.0, 2), noise(d, 6, 2), n, generator=g)),
    "GHMC": lambda n, d, g: vars(tune(place(PLANE, d), GHMC(1.0), noise(d, 6, 2), n, generator=g)),
    "DMALA": lambda n, d, g: vars(tune(place(RING, d), DMALA(1.0), bits(d, 6, 6), n, generator=g)),
    "ladder": lambda n, d, g: list(
        tune(
            place(MODES, d),
            ParallelTempering(MALA(0.3), (1.0, 3.0)),
            noise(d, 6, 2),
            n,
            generator=g,
        ).temperatures
    ),
}


@pytest.mark.parametrize("name", TUNED)
def test_samplers_are_tuned_there_as_here(name: str, sim: torch.device) -> None:
    run = TUNED[name]
    compare_devices(lambda d, g: run(20, d, g), sim)
    grown = count_per_step(lambda n: run(max(n, 20), sim, torch.Generator(sim).manual_seed(1)), 20)
    problems = excess(grown, 20, [permitted.ADAPTATION])
    assert not problems, problems


def test_nuts_is_tuned_there_as_here(sim: torch.device) -> None:
    compare_devices(
        lambda d, g: vars(tune(place(PLANE, d), NUTS(1.0, 2), noise(d, 4, 2), 20, generator=g)), sim
    )


def test_the_automatic_choice_is_the_same_there(sim: torch.device) -> None:
    quadratic = Function(lambda x: -0.4 * (x[:, 1:] * x[:, :-1]).sum(1), binary(3))

    def choose(d: torch.device, g: torch.Generator) -> object:
        return str(tune(quadratic, "auto", bits(d, 4, 3), 20, generator=g, say=lambda _: None))

    here = choose(torch.device("cpu"), torch.Generator().manual_seed(1))
    assert here == choose(sim, torch.Generator(sim).manual_seed(1))


# ---- log Z, figures of chains, checks -----------------------------------------------------------


@pytest.mark.parametrize("name", ["states", "lattice", "draws"])
def test_log_z_is_the_same_there(name: str, sim: torch.device) -> None:
    def estimate(d: torch.device, g: torch.Generator) -> object:
        if name == "states":
            return log_z(place(RING, d), generator=g).value
        if name == "lattice":
            return log_z(Ising((3, 4), 0.3).to(d), generator=g).value
        energy = place(MODES, d)
        found = log_z(
            energy,
            base=place(PLANE, d),
            draws=noise(d, 40, 2),
            chains=20,
            num_temperatures=6,
            generator=g,
        )
        return found.value, found.lower, found.upper

    compare_devices(estimate, sim, tolerance=1e-4)


def test_figures_of_chains_are_the_same_there(sim: torch.device) -> None:
    def figures(d: torch.device, g: torch.Generator) -> object:
        x = noise(d, 40, 3, 2)
        kinds = ("bulk", "tail", 0.5)
        found = [ess(x, kind, layout="draws chains ...") for kind in kinds]
        found += [mcse(x, kind, layout="draws chains ...") for kind in ("mean", "sd", 0.3)]
        found.append(autocorrelation(x, 3, layout="draws chains ..."))
        return [*found, rhat(x, layout="draws chains ...")]

    compare_devices(figures, sim)


def test_figures_of_chains_need_no_float64_there(sim32: torch.device) -> None:
    x = noise(torch.device("cpu"), 40, 3, 2).float()
    there, here = (rhat(part, layout="draws chains ...") for part in (x.to(sim32), x))
    assert here.dtype == torch.float64
    torch.testing.assert_close(there.cpu(), here)


def test_tails_are_looked_at_there_too(sim: torch.device) -> None:
    wide = Gaussian((0.0, 0.0), ((4.0, 0.0), (0.0, 4.0))).to(sim)
    narrow = Gaussian().to(sim)
    check_normalisable(narrow - wide)
    for x in (None, noise(sim, 4, 2)):
        with pytest.raises(ValueError, match="does not rise far out"):
            check_normalisable(wide - narrow, x)


def test_adaptation_needs_no_float64(sim32: torch.device) -> None:
    g = torch.Generator(sim32).manual_seed(0)
    x = noise(torch.device("cpu"), 6, 2).float().to(sim32)
    assert tune(place(PLANE, sim32), MALA(1.0), x, 20, generator=g).step_size > 0
    path = geometric_path(Gaussian().to(sim32), place(PLANE, sim32), (0.0, 0.5, 1.0))
    assert ais(path, MALA(0.3), x, generator=g).log_weights.device == sim32
    assert (
        abs(
            log_z(place(RING, sim32), generator=g).value
            - log_z(RING, generator=torch.Generator()).value
        )
        < 1e-4
    )
