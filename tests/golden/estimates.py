"""Cases of metrics, on laws with known answers: normalisers, convergence, distances of samples."""

from typing import Any

import torch
from torch import Tensor

from lowland import (
    HMC,
    MALA,
    Function,
    binary,
    ess,
    log_likelihood,
    log_z,
    mcse,
    real,
    rhat,
    sample,
)
from lowland.metrics import LogZ, auroc, frechet_distance, ksd, mmd, precision_recall, psnr, ssim
from lowland.nets import RBM
from lowland.targets import Gaussian, GaussianMixture, Ising, fit_base

from .registry import Numbers, Tolerance, case, normal, seeded, uniform

DOUBLE = Tolerance(1e-6, "float64, acceptance added up in float32; seen: 1e-8")
BRACKET = Tolerance(1e-4, "float64, long chains on a schedule that follows them; seen: 3e-7")
BOWL = Function(lambda x: (0.5 * x.square() + 0.1 * x.pow(4)).sum(1) + 0.3 * x.prod(1), real(2))
MODES = GaussianMixture(((-2.0, 0.0), (2.0, 1.0)), 0.8, (1.0, 2.0))


def bracket(found: LogZ) -> list[float]:
    """Return value, error, bounds and verdict of a certificate."""
    return [found.value, found.error, found.lower, found.upper, float(found.certified)]


@case(DOUBLE)
def log_z_by_enumeration() -> Numbers:
    """Add up all states of a lattice and of a restricted Boltzmann machine."""
    machine = RBM(binary(8), n_hidden=5).double()
    with torch.no_grad():
        for seed, weights in enumerate(machine.parameters()):
            weights.copy_(0.7 * normal(*weights.shape, seed=seed))
    found = [log_z(energy, generator=seeded()) for energy in (Ising((3, 4), 0.3, 0.1), machine)]
    data = uniform(20, 8).round()
    likelihood = log_likelihood(machine, data, found[1], binarization="rounded")
    values = [found[0].value, found[1].value]
    return {"log_z": values, "likelihood": [likelihood.value, likelihood.error]}


class Wide(Gaussian):
    """A Gaussian base that is drawn in float64, for annealing magnifies rounding of its start."""

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Draw points (count, d)."""
        return super().draw(count, generator, dtype)


@case(BRACKET)
def log_z_by_annealing() -> Numbers:
    """Bracket log Z with a certificate, from given draws and from chains that start at data."""
    modes, data = Function(lambda x: MODES(x), real(2)), normal(60, 2)
    base = Wide((0.0, 0.0), ((2.0, 0.0), (0.0, 1.0)))
    more: dict[str, Any] = {"base": base, "chains": 40, "num_temperatures": 15, "warm_up": 20}
    told = log_z(BOWL, draws=data, generator=seeded(1), **more)
    chains = log_z(modes, data=data, sampler=MALA(0.3), generator=seeded(2), **more)
    fitted = fit_base(real(2), data)
    return {
        "draws": bracket(told),
        "chains": bracket(chains),
        "fitted_base": fitted(data[:4]).tolist(),
    }


@case(DOUBLE)
def log_z_on_discrete_domains() -> Numbers:
    """Bracket log Z of a lattice by annealing although it can be enumerated."""
    lattice = Ising((4, 4), 0.3, 0.1)
    found = log_z(lattice, chains=30, num_temperatures=20, exact=False, generator=seeded(3))
    return {"annealed": bracket(found), "enumerated": lattice.log_z}


@case(DOUBLE)
def convergence_of_chains() -> Numbers:
    """Compute R-hat, effective sample size and Monte Carlo error of a run."""
    trace = sample(MODES, HMC(0.5, 4), normal(6, 2), 60, generator=seeded(4), thin=1)
    sizes = [ess(trace, kind) for kind in ("bulk", "tail", "mean")]
    return {
        "rhat": rhat(trace).tolist(),
        "ess": torch.cat(sizes).tolist(),
        "mcse": mcse(trace).tolist(),
    }


@case(DOUBLE)
def distances_of_samples() -> Numbers:
    """Compare two samples, a sample with its law, pictures and energies."""
    x, y = normal(80, 2), 1.2 * normal(70, 2, seed=1) + 0.2
    covered, pictures = precision_recall(x, y), uniform(4, 1, 12, 12)
    noisy = (pictures + 0.1 * normal(4, 1, 12, 12)).clamp(0, 1)
    return {
        "samples": [mmd(x, y).value, frechet_distance(x, y), ksd(Gaussian(), x).value],
        "coverage": [covered.precision.value, covered.recall.value],
        "pictures": [psnr(noisy, pictures).value, ssim(noisy, pictures).value],
        "auroc": [auroc(x[:, 0], y[:, 0] + 1).value, auroc(x[:, 0], y[:, 0] + 1).error],
    }
