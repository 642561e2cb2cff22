"""Samplers move points downhill, with noise. One file per family; `loop` runs them, `tuning` adapts
them.
"""

from lowland.samplers.acceleration import accelerate
from lowland.samplers.ais import Weighted, ais, geometric
from lowland.samplers.anneal import (
    Found,
    anneal,
    cooling,
    divide_steps,
    noise_ladder,
    pyramid,
    search,
)
from lowland.samplers.auto import Choice, choose
from lowland.samplers.diffusion import (
    Diffused,
    predictor_corrector,
    preserving,
    probability_flow,
    sigma_ladder,
)
from lowland.samplers.discrete import DMALA, BlockGibbs, GibbsWithGradients
from lowland.samplers.hmc import HMC, leapfrog
from lowland.samplers.kernel import (
    Info,
    Sampler,
    State,
    init,
    metropolis,
    normal_like,
    squared_norm,
    uniform_like,
)
from lowland.samplers.langevin import MALA, Langevin, LeimkuhlerMatthews, ShortRun
from lowland.samplers.loop import Trace, run_chains, sample
from lowland.samplers.nuts import NUTS
from lowland.samplers.recorders import Draws, Energies, Frames, Keeper, Lowest, Moments
from lowland.samplers.recovery import Recovery, recover
from lowland.samplers.tempering import ParallelTempering
from lowland.samplers.tuning import tune
from lowland.samplers.underdamped import GHMC, Underdamped

__all__ = [
    "DMALA",
    "GHMC",
    "HMC",
    "MALA",
    "NUTS",
    "BlockGibbs",
    "Choice",
    "Diffused",
    "Draws",
    "Energies",
    "Found",
    "Frames",
    "GibbsWithGradients",
    "Info",
    "Keeper",
    "Langevin",
    "LeimkuhlerMatthews",
    "Lowest",
    "Moments",
    "ParallelTempering",
    "Recovery",
    "Sampler",
    "ShortRun",
    "State",
    "Trace",
    "Underdamped",
    "Weighted",
    "accelerate",
    "ais",
    "anneal",
    "choose",
    "cooling",
    "divide_steps",
    "geometric",
    "init",
    "leapfrog",
    "metropolis",
    "noise_ladder",
    "normal_like",
    "predictor_corrector",
    "preserving",
    "probability_flow",
    "pyramid",
    "recover",
    "run_chains",
    "sample",
    "search",
    "sigma_ladder",
    "squared_norm",
    "tune",
    "uniform_like",
]
