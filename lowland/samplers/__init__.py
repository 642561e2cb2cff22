"""Samplers move points downhill, with noise. One file per family; `loop` runs them."""

from lowland.samplers.hmc import HMC
from lowland.samplers.kernel import Info, Sampler, State, init, metropolis, normal_like, squared_norm
from lowland.samplers.langevin import MALA, Langevin, ShortRun
from lowland.samplers.loop import Draws, Energies, Frames, Keeper, Moments, Trace, run_chains, sample, tune
from lowland.samplers.paths import anneal, divide_steps, noise_ladder

__all__ = [
    "HMC",
    "MALA",
    "Draws",
    "Energies",
    "Frames",
    "Info",
    "Keeper",
    "Langevin",
    "Moments",
    "Sampler",
    "ShortRun",
    "State",
    "Trace",
    "anneal",
    "divide_steps",
    "init",
    "metropolis",
    "noise_ladder",
    "normal_like",
    "run_chains",
    "sample",
    "squared_norm",
    "tune",
]
