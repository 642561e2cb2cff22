"""Likelihood of a run on its test part, from a bracket of log Z.

The energy measured is that of a point alone: labels are mixed as the energy weighs them. Data are
treated as in training (spread over their grey levels, noised), because that is what the energy is a
density of; the result names the treatment.
"""

import time
from collections.abc import Callable

import torch
from torch import Tensor

from lowland.data.binarization import bernoulli_sample
from lowland.energy import latent_of
from lowland.metrics import LogZ, bits_per_dim, log_likelihood, log_z
from lowland.plain import to_plain
from lowland.registry import Plain
from lowland.seeds import make_generator
from lowland.trained import Model
from lowland.trained.placement import place_points

MAX_EXAMPLES = 10_000  # of each part


def measure_likelihood(
    model: Model,
    *,
    chains: int = 200,
    num_temperatures: int = 1000,
    say: Callable[[str], object] = lambda _: None,
    progress: Callable[[int], object] | None = None,
) -> Plain:
    """Bracket log Z of a run; write likelihood.json and likelihood.safetensors (its course along
    the path) and return the figures.

    progress: called with 1 per temperature of each direction and per step of chains; see `log_z`.
    """
    began = time.monotonic()
    generator = make_generator(model.recipe["seed"], "likelihood", device=model.device)
    train, test = (
        apply_treatment(model, place_points(model, part.x[:MAX_EXAMPLES]), generator)
        for part in (model.data.train, model.data.test)
    )
    say("bracketing log Z: from the base to the energy and back")
    sample_latents = latent_of(model.energy).sample_latents
    whole, seen = model.marginal, train
    if sample_latents is not None:  # the bound lacks the log Z of all units
        whole, seen = model.energy, sample_latents(train, generator)
    found = log_z(
        whole,
        data=seen,
        chains=chains,
        num_temperatures=num_temperatures,
        generator=generator,
        progress=progress,
    )
    say(repr(found))
    binary, how = model.energy.domain.kind == "binary", describe_treatment(model)
    more: Plain = {"binarization" if binary else "dequantisation": how}
    parts = {
        name: log_likelihood(model.marginal, x, found, **more)
        for name, x in (("train", train), ("test", test))
    }
    figures: Plain = {name: _without_log_z(part.to_dict()) for name, part in parts.items()}
    if model.recipe["training"]["dequantise"] and model.data.num_gray_levels and not _noise(model):
        figures["bits_per_dim"] = bits_per_dim(
            parts["test"], levels=model.data.num_gray_levels
        ).to_dict()
    figures |= {
        "log_z": _without_course(found),
        "notes": _notes(model),
        "seconds": round(time.monotonic() - began, 1),
        "weights": model.digest,
        "device": str(model.device),
    }
    model.run.write_tensors("likelihood.safetensors", _course(found), {"weights": model.digest})
    model.run.write_json("likelihood.json", to_plain(figures))
    return figures


def apply_treatment(model: Model, x: Tensor, generator: torch.Generator) -> Tensor:
    """Treat examples as training did: binarize grey values that are probabilities, dequantise
    others, add noise.
    """
    if model.data.binarization == "stochastic":
        return x if bool(model.energy.domain.contains(x).all()) else bernoulli_sample(x, generator)
    how: Plain = {"dtype": x.dtype, "device": x.device}
    if model.recipe["training"]["dequantise"] and model.data.num_gray_levels:
        levels = model.data.num_gray_levels
        x = (x * (levels - 1) + torch.rand(x.shape, generator=generator, **how)) / levels
    if _noise(model):
        noise = _noise(model) * torch.randn(x.shape, generator=generator, **how)
        x, _ = model.energy.domain.reflect(x + noise)
    return x


def describe_treatment(model: Model) -> str:
    """Describe what `apply_treatment` does; of binary data, how they were made binary."""
    if model.energy.domain.kind == "binary":
        return model.data.binarization_note or "binary as stored"
    spread = model.recipe["training"]["dequantise"] and model.data.num_gray_levels
    words = []
    if spread:
        words.append(f"uniform dequantisation of {model.data.num_gray_levels} levels")
    if _noise(model):
        words.append(f"Gaussian noise of {_noise(model):g} added")
    return " and ".join(words) or "data as they are"


def _noise(model: Model) -> float:
    """Return the standard deviation of the noise in the data that the energy is a density of."""
    return float(model.recipe["training"]["data_noise_std"] or min(model.sigmas or [0.0]))


def _notes(model: Model) -> list[str]:
    notes = []
    if latent_of(model.energy).data_domain is not None:
        notes.append(
            "These are lower bounds of the log-likelihood: the energy of data is a variational "
            "bound."
        )
    if model.classes:
        notes.append(
            f"The energy has {model.classes} classes; this is the likelihood of a point without "
            "its label."
        )
    if _noise(model):
        notes.append(
            f"The energy is a density of data with noise {_noise(model):g}; numbers on clean data "
            "cannot be compared."
        )
    return notes


def _without_log_z(values: Plain) -> Plain:
    return {key: value for key, value in values.items() if key != "log_z"}


def _without_course(found: LogZ) -> Plain:
    """Return everything but the long lists, which are in likelihood.safetensors."""
    plain = found.to_dict() | {"betas": []}
    for run in (plain["forward"], plain["reverse"]):
        if run is not None:
            run["curve"] = []
    return plain | {"num_temperatures": found.num_temperatures, "verdict": found.verdict}


def _course(found: LogZ) -> dict[str, Tensor]:
    """Return inverse temperatures and log Z at each, in both directions; {} after enumeration."""
    if found.forward is None or found.reverse is None:
        return {}
    rows = {"betas": found.betas, "forward": found.forward.curve, "reverse": found.reverse.curve}
    return {name: torch.tensor(row, dtype=torch.float64) for name, row in rows.items()}
