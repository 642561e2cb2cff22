"""Samplers: one file per algorithm; `loop` runs them, `adaptation` and `tuning` set them, `anneal`,
`ais`, `simulated_annealing`, `multiscale`, `diffusion` and `recovery` run them along a path.
"""

from lowland.samplers.acceleration import accelerate
from lowland.samplers.ais import AISResult, ais, geometric_path
from lowland.samplers.anneal import anneal, divide_steps, scale_step_sizes
from lowland.samplers.auto import Choice, choose
from lowland.samplers.defaults import initial_sampler
from lowland.samplers.denoising import denoise, sde_dpm_solver
from lowland.samplers.diffusion import (
    DiffusionResult,
    karras_sigmas,
    predictor_corrector,
    probability_flow,
    vp_to_ve,
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
from lowland.samplers.multiscale import multiscale_sample
from lowland.samplers.nuts import NUTS
from lowland.samplers.recorders import Draws, Energies, Frames, Lowest, Moments, Recorder
from lowland.samplers.recovery import ConditionalEnergy, diffusion_recovery_sample
from lowland.samplers.simulated_annealing import (
    MinimizationResult,
    geometric_schedule,
    simulated_annealing,
)
from lowland.samplers.tempering import ParallelTempering
from lowland.samplers.tuning import tune
from lowland.samplers.underdamped import GHMC, Underdamped

__all__ = [
    "DMALA",
    "GHMC",
    "HMC",
    "MALA",
    "NUTS",
    "AISResult",
    "BlockGibbs",
    "Choice",
    "ConditionalEnergy",
    "DiffusionResult",
    "Draws",
    "Energies",
    "Frames",
    "GibbsWithGradients",
    "Info",
    "Langevin",
    "LeimkuhlerMatthews",
    "Lowest",
    "MinimizationResult",
    "Moments",
    "ParallelTempering",
    "Recorder",
    "Sampler",
    "ShortRun",
    "State",
    "Trace",
    "Underdamped",
    "accelerate",
    "ais",
    "anneal",
    "choose",
    "denoise",
    "diffusion_recovery_sample",
    "divide_steps",
    "geometric_path",
    "geometric_schedule",
    "init",
    "initial_sampler",
    "karras_sigmas",
    "leapfrog",
    "metropolis",
    "multiscale_sample",
    "normal_like",
    "predictor_corrector",
    "probability_flow",
    "run_chains",
    "sample",
    "scale_step_sizes",
    "sde_dpm_solver",
    "simulated_annealing",
    "squared_norm",
    "tune",
    "uniform_like",
    "vp_to_ve",
]
