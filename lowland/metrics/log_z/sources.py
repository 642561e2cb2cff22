"""Choose where a bracket begins: draws of the energy, and points to fit a base to."""

import dataclasses
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.energy import Energy, check_points
from lowland.energy.scales import measure_columns
from lowland.metrics.log_z.schedule import default_sampler
from lowland.metrics.log_z.witnesses import explore
from lowland.samplers import Sampler
from lowland.seeds import spawn
from lowland.targets import ExactSampler, Normal, fit_base

FITTED = 2000  # exact draws of the energy that a base is fitted to


class Source(NamedTuple):
    """Source of the reverse draws: draws (chains, *event) and words for them, or None for chains
    to be run; points to fit a base to and to start chains at; dtype of all points."""

    draws: Tensor | None
    words: str
    fit: Tensor | None
    data: Tensor | None
    dtype: torch.dtype


def find_source(
    energy: Energy,
    draws: Tensor | None,
    data: Tensor | None,
    chains: int,
    generator: torch.Generator,
) -> Source:
    """Choose among exact draws, given draws and chains; keep apart what a base is fitted to and
    what is weighed.
    """
    dtype = next(
        (t.dtype for t in (*energy.parameters(), *energy.buffers()) if t.is_floating_point()), None
    )
    for points in (draws, data):
        if points is not None:
            check_points(energy, points)
            dtype = dtype or points.dtype
    dtype = dtype or torch.get_default_dtype()
    data = None if data is None else data.to(dtype)
    if draws is not None:
        x = draws[torch.randperm(len(draws), generator=spawn(generator), device=draws.device)].to(
            dtype
        )
        if len(x) < 20:
            raise ValueError(
                f"{len(x)} draws came; the reverse run needs at least 20; pass more, or leave them "
                "out for chains"
            )
        spare = len(x)
        if data is None and energy.domain.kind != "box":
            spare = max(len(x) // 2, 20)
        count, fit = min(chains, spare), data
        if fit is None and len(x) > count:
            fit = x[count:]
        return Source(x[:count], f"{count} draws given by the caller", fit, data, dtype)
    exact = _draw_exactly(energy, chains, generator)
    if exact is not None:
        fit = data
        if fit is None:
            fit = _draw_exactly(energy, FITTED, generator)
        fit = None if fit is None else fit.to(dtype)
        return Source(exact.to(dtype), "exact draws", fit, data, dtype)
    return Source(None, "", data, data, dtype)


def _draw_exactly(energy: Any, count: int, generator: torch.Generator) -> Tensor | None:
    """Return independent exact draws, where the energy has them; too wide lattices refuse."""
    if not isinstance(energy, ExactSampler):
        return None
    try:
        return energy.draw(count, spawn(generator))
    except ValueError:
        return None


def fit_to_source(energy: Energy, source: Source) -> Any:
    """Fit a base to the points of a source: on the real line a normal law of independent numbers
    where the energy has a path of its own from it, elsewhere what `fit_base` fits.

    Raises ValueError on the real line where there are no points.
    """
    domain = energy.domain
    if not domain.shape and source.fit is not None:
        domain = dataclasses.replace(domain, shape=tuple(source.fit.shape[1:]))
    if domain.kind == "real" and source.fit is None:
        raise ValueError(
            f"{type(energy).__name__} lives on {domain} and came without base, data or draws; log "
            "Z needs a base measure with exact draws and log_z; pass base=Gaussian(...), or data "
            "to fit one to"
        )
    if domain.kind == "real" and source.fit is not None and energy.paths is not None:
        independent = Normal(*measure_columns(source.fit)).to(source.fit.device)
        if energy.paths.path_from(independent, (0.0, 1.0)) is not None:
            return independent  # a path of the energy's own, which may have sweeps of its own
    return fit_base(domain, source.fit)


def explore_modes(
    energy: Energy, sampler: Any, starts: Tensor, generator: torch.Generator
) -> Tensor:
    """Check the modes that a caller names, and return points of each, (K, n, *event)."""
    check_points(energy, starts)
    if isinstance(sampler, Sampler):
        chosen: Sampler = sampler
    else:
        chosen = default_sampler(lambda betas: [energy] * len(betas))
    return explore(energy, chosen, starts, generator)


def cover_modes(source: Source, base: Any, modes: Tensor, generator: torch.Generator) -> Source:
    """Return the source with points of the modes among those that a base is fitted to."""
    parts = [modes]
    if source.fit is not None:
        parts.append(source.fit.to(modes))
    if base is not None:
        parts.append(base.draw(len(modes), generator).to(modes))
    return source._replace(fit=torch.cat(parts))
