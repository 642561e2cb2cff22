"""Cases of samplers and of paths: final points, acceptance and energies of short chains.

Float64 throughout, so that another order of a sum changes the fifteenth digit and no decision.
"""

import math
from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from lowland import (
    DMALA,
    HMC,
    MALA,
    NUTS,
    BlockGibbs,
    Energy,
    Function,
    Langevin,
    ParallelTempering,
    ShortRun,
    Underdamped,
    binary,
    box,
    categorical,
    real,
    sample,
    tune,
)
from lowland.nets import RBM
from lowland.samplers import (
    GHMC,
    ConditionalEnergy,
    Draws,
    Energies,
    GibbsWithGradients,
    LeimkuhlerMatthews,
    Moments,
    Sampler,
    Trace,
    ais,
    anneal,
    diffusion_recovery_sample,
    geometric_path,
    geometric_schedule,
    karras_sigmas,
    multiscale_sample,
    predictor_corrector,
    probability_flow,
    scale_step_sizes,
    simulated_annealing,
    vp_to_ve,
)
from lowland.targets import Gaussian, GaussianMixture, Ising, Potts

from .registry import Numbers, Tolerance, add, case, normal, seeded, summarise, uniform

DOUBLE = Tolerance(1e-6, "float64, short chains, acceptance added up in float32; seen: 3e-15")
CORRELATED = Gaussian((1.0, -1.0, 0.5), ((1.0, 0.8, 0.1), (0.8, 1.5, 0.2), (0.1, 0.2, 0.4)))
SLOPES = torch.tensor([3.0, -2.0, 0.5], dtype=torch.float64)
BOXED = Function(lambda x: (x * SLOPES.to(x)).sum(1) + 0.5 * x[:, 0] * x[:, 1], box(-1.0, 1.0, 3))
LATTICE = Ising((4, 4), 0.3, 0.1)
MIXTURE = GaussianMixture(((-3.0, 0.0), (3.0, 1.0)), 0.7, (1.0, 2.0))
NOISY = Function(lambda x, sigma: 0.5 * x.square().sum(1) / (0.3 + sigma**2), real(3))

CONTINUOUS: dict[str, tuple[Sampler, int]] = {  # with the number of steps
    "langevin": (Langevin(0.05, 0.8), 20),
    "langevin_scaled": (Langevin(0.05, inv_mass_sqrt=(1.0, 1.5, 0.7)), 20),
    "leimkuhler_matthews": (LeimkuhlerMatthews(0.05), 20),
    "short_run": (ShortRun(0.1, 0.3, clip=0.8, clamp=(-0.9, 0.9)), 20),
    "mala": (MALA(0.3), 20),
    "mala_scaled": (MALA(0.3, inv_mass_sqrt=(1.0, 1.5, 0.7)), 20),
    "hmc": (HMC(0.4, 5, jitter=0.2), 10),
    "ghmc": (GHMC(0.4, friction=0.7, num_leapfrog_steps=2), 15),
    "underdamped": (Underdamped(0.3, friction=0.7), 20),
    "nuts": (NUTS(0.4, 5), 6),
    "parallel_tempering": (ParallelTempering(MALA(0.3), (1.0, 2.0, 5.0), (0.3, 0.5, 1.0)), 12),
}
DISCRETE: dict[str, tuple[Sampler, int]] = {
    "block_gibbs": (BlockGibbs(2), 5),
    "dmala": (DMALA(0.7), 20),
    "gibbs_with_gradients": (GibbsWithGradients(), 30),
    "tempered_dmala": (ParallelTempering(DMALA(0.5), (1.0, 2.0, 4.0)), 12),
}


def show(trace: Trace, target: str = "") -> Numbers:
    """Return the numbers of a run of chains, under names that begin with that of the target."""
    return {
        f"{target}points": summarise(trace.x),
        f"{target}energies": summarise(trace.state.energy, shown=0),
        f"{target}acceptance": trace.acceptance.double().mean().item(),
        f"{target}gradients": trace.num_grad_evals,
    }


def run(sampler: Sampler, energy: Energy, x: Tensor, steps: int, target: str = "") -> Numbers:
    """Sample from points with a fixed seed and return the numbers."""
    return show(sample(energy, sampler, x, steps, generator=seeded(1)), target)


def run_continuous(sampler: Sampler, steps: int) -> Numbers:
    """Sample a correlated Gaussian, and a law on a box that leans on its walls."""
    start = normal(16, 3)
    found = run(sampler, CORRELATED, start, steps, "gaussian_")
    return found | run(sampler, BOXED, 0.5 * start.tanh(), steps, "box_")


def run_discrete(sampler: Sampler, steps: int) -> Numbers:
    """Sample a lattice, and the visible units of a restricted Boltzmann machine."""
    found = run(sampler, LATTICE, spins(16, 4, 4), steps, "ising_")
    return found | run(sampler, machine(), spins(16, 8), steps, "rbm_")


def machine() -> RBM:
    """Return a small RBM with fixed weights that couple its units."""
    energy = RBM(binary(8), n_hidden=5).double()
    with torch.no_grad():
        for seed, weights in enumerate(energy.parameters()):
            weights.copy_(0.7 * normal(*weights.shape, seed=seed))
    return energy


def spins(*shape: int) -> Tensor:
    """Draw zeros and ones of a shape, float64."""
    return uniform(*shape).round()


for _name, (_sampler, _steps) in CONTINUOUS.items():
    add(_name, partial(run_continuous, _sampler, _steps), DOUBLE)
for _name, (_sampler, _steps) in DISCRETE.items():
    add(_name, partial(run_discrete, _sampler, _steps), DOUBLE)


@case(DOUBLE)
def block_gibbs_on_potts() -> Numbers:
    """Sample categorical sites by their declared conditionals."""
    lattice = Potts((4, 4), 3, 0.5)
    return run(BlockGibbs(), lattice, (3 * uniform(8, 4, 4)).floor(), 8)


@case(DOUBLE)
def block_gibbs_without_conditionals() -> Numbers:
    """Sample categorical sites one by one, from differences of energies."""
    energy = Function(
        lambda x: 0.5 * (x[:, 1:] - x[:, :-1]).square().sum(1) + 0.2 * x[:, 0], categorical(3, 5)
    )
    return run(BlockGibbs(), energy, (3 * uniform(8, 5)).floor(), 5)


@case(DOUBLE)
def recorders_of_a_run() -> Numbers:
    """Record draws, energies and moments of a run of MALA."""
    recorders = [Draws(4), Energies(), Moments()]
    trace = sample(
        CORRELATED, MALA(0.3), normal(8, 3), 20, generator=seeded(2), recorders=recorders
    )
    moments = trace.records["moments"]
    return {
        "draws": summarise(trace.draws),
        "energies": summarise(trace.records["energies"]),
        "moments": [part.double().sum().item() for part in moments if isinstance(part, Tensor)],
    }


@case(DOUBLE)
def swaps_of_parallel_tempering() -> Numbers:
    """Count swaps and round trips of replicas between two modes."""
    sampler = ParallelTempering(MALA(0.1), (1.0, 3.0, 9.0, 27.0), (0.1, 0.3, 0.9, 2.7))
    trace = sample(MIXTURE, sampler, normal(8, 2), 60, generator=seeded(3))
    tempering = trace.state.tempering
    counts = [tempering.accepted.sum(), tempering.tried.sum(), tempering.round_trips.sum()]
    return show(trace) | {"swaps": [float(count) for count in counts]}


@case(DOUBLE)
def conditional_of_a_noisier_point() -> Numbers:
    """Evaluate and sample the law of a point given a noisier one."""
    law = ConditionalEnergy(CORRELATED, normal(16, 3, seed=4), 0.4)
    return run(MALA(0.05), law, normal(16, 3), 15)


@case(DOUBLE)
def recovery_down_a_ladder() -> Numbers:
    """Draw down noise levels by recovery."""
    sigmas = (3.0, 1.0, 0.3, 0.1)
    found = diffusion_recovery_sample(
        NOISY, sigmas, 3 * normal(16, 3), MALA(0.2), 24, generator=seeded(5)
    )
    return {
        "points": summarise(found.x),
        "acceptance": list(found.acceptance),
        "gradients": found.num_grad_evals,
    }


@case(DOUBLE)
def annealed_importance_sampling() -> Numbers:
    """Estimate a ratio of normalisers along a geometric path."""
    path = geometric_path(Gaussian(), MIXTURE, torch.linspace(0, 1, 12).tolist())
    found = ais(path, MALA(0.3), normal(64, 2), generator=seeded(6), steps=2)
    return {
        "log_ratio": found.log_ratio,
        "error": found.error,
        "ess": found.ess,
        "points": summarise(found.x),
        "acceptance": list(found.acceptance),
        "log_ratios": found.log_ratios.tolist(),
        "gradients": found.num_grad_evals,
    }


@case(DOUBLE)
def annealing_through_temperatures() -> Numbers:
    """Run chains through a falling ladder of temperatures."""
    ladder = (8.0, 4.0, 2.0, 1.0)
    traces = anneal(
        [MIXTURE / t for t in ladder], MALA(0.2), normal(16, 2), 22, generator=seeded(7)
    )
    return show(traces[-1]) | {
        "rates": [trace.acceptance.double().mean().item() for trace in traces]
    }


@case(DOUBLE)
def search_on_a_lattice() -> Numbers:
    """Look for the lowest energy of a frustrated lattice by annealing."""
    found = simulated_annealing(
        Ising((4, 4), -0.5, 0.2), DMALA(1.0), spins(8, 4, 4), 60, generator=seeded(8)
    )
    ladder = [found.temperatures[0], found.temperatures[-1]]
    return {
        "energies": found.energies.tolist(),
        "temperatures": ladder,
        "gradients": found.num_grad_evals,
    }


@case(DOUBLE)
def search_on_the_plane() -> Numbers:
    """Look for the lowest energy of a mixture by annealing, with a step that follows acceptance."""
    ladder = geometric_schedule(4.0, 0.05, 6)
    found = simulated_annealing(
        MIXTURE, MALA(0.3), 3 * normal(8, 2), 30, generator=seeded(9), temperatures=ladder
    )
    return {"points": summarise(found.points), "energies": found.energies.tolist()}


@case(DOUBLE)
def pyramid_of_images() -> Numbers:
    """Sample small images, enlarge them and sample on."""

    def rough(x: Tensor) -> Tensor:
        steps = x.diff(dim=-1).square().flatten(1).sum(1) + x.diff(dim=-2).square().flatten(1).sum(
            1
        )
        return 2 * steps + x.square().flatten(1).sum(1)

    sizes: Sequence[Energy] = [Function(rough, box(-1.0, 1.0, 1, n, n)) for n in (2, 4)]
    start = 0.3 * normal(8, 1, 2, 2).tanh()
    return show(
        multiscale_sample(sizes, MALA(0.05), start, 14, generator=seeded(10), smooth=True)[-1]
    )


@case(DOUBLE)
def flow_down_noise_levels() -> Numbers:
    """Carry noise to data by the ODE of probability flow, in steps of first and second order."""
    sigmas = karras_sigmas(8.0, 0.05, 8)
    path = [NOISY.given(sigma) for sigma in sigmas]
    ends = [
        probability_flow(path, sigmas, 8 * normal(16, 3), order=n, denoise=n == 2).x for n in (1, 2)
    ]
    return {"euler": summarise(ends[0]), "heun": summarise(ends[1]), "sigmas": list(sigmas)}


@case(DOUBLE)
def predictor_and_corrector() -> Numbers:
    """Draw down noise levels by ancestral steps that MALA corrects."""
    sigmas = karras_sigmas(8.0, 0.05, 6)
    path = [NOISY.given(sigma) for sigma in sigmas]
    correctors, start = scale_step_sizes(MALA(0.01), sigmas), 8 * normal(16, 3)
    found = predictor_corrector(
        path, sigmas, start, correctors, 12, generator=seeded(11), denoise=True
    )
    return {
        "points": summarise(found.x),
        "acceptance": list(found.acceptance),
        "gradients": found.num_grad_evals,
    }


@case(DOUBLE)
def path_that_preserves_the_variance() -> Numbers:
    """Turn a variance-preserving path into one that explodes, and follow it."""
    alphas = (0.1, 0.5, 0.9, 0.99)
    path, sigmas = vp_to_ve([CORRELATED / (1 + a) for a in alphas], alphas)
    return {
        "points": summarise(probability_flow(path, sigmas, 10 * normal(16, 3)).x),
        "sigmas": list(sigmas),
    }


# --------------------------------------------------------------------------------- adaptation

TUNED = Tolerance(
    1e-5, "float64, steps that follow acceptance, which is averaged in float32; seen: 8e-8"
)


@case(TUNED)
def tuned_step_sizes() -> Numbers:
    """Adapt step sizes and diagonal metrics on a correlated Gaussian and on a lattice."""
    found: Numbers = {}
    for sampler in (MALA(1.0), HMC(1.0, 4), NUTS(1.0, 4), GHMC(1.0)):
        tuned = tune(CORRELATED, sampler, normal(16, 3), 40, generator=seeded(12))
        found[type(sampler).__name__] = [tuned.step_size, *tuned.inv_mass_sqrt]
    found["DMALA"] = tune(LATTICE, DMALA(1.0), spins(16, 4, 4), 40, generator=seeded(13)).step_size
    return found


@case(TUNED)
def tuned_ladder() -> Numbers:
    """Adapt temperatures and step sizes of parallel tempering between two modes."""
    ladder = ParallelTempering(MALA(0.3), (1.0, 3.0, 9.0, 27.0))
    tuned = tune(MIXTURE, ladder, 3 * normal(16, 2), 120, generator=seeded(14))
    return {"temperatures": list(tuned.temperatures), "step_sizes": list(tuned.step_sizes or ())}


@case(TUNED)
def automatic_choices() -> Numbers:
    """Let the library choose samplers: their places in a list, and their step sizes."""
    names = [
        "BlockGibbs",
        "DMALA",
        "GibbsWithGradients",
        "MALA",
        "HMC",
        "NUTS",
        "ParallelTempering",
    ]
    quadratic = Function(lambda x: -0.4 * (x[:, 1:] * x[:, :-1]).sum(1) + 0.3 * x[:, 0], binary(6))
    chosen: list[float] = []
    sizes: list[float] = []
    for energy, x in (
        (CORRELATED, normal(16, 3)),
        (LATTICE, spins(8, 4, 4)),
        (quadratic, spins(8, 6)),
    ):
        sampler = tune(energy, "auto", x, 40, generator=seeded(15), say=lambda _: None)
        chosen.append(float(names.index(type(sampler).__name__)))
        sizes += [math.log(value) for name, value in vars(sampler).items() if name == "step_size"]
    return {"chosen": chosen, "log_step_sizes": sizes}
