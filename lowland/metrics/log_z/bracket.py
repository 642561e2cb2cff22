"""log Z of any energy, between a bound from below and a bound from above.

    log Z = log ∫ exp(−E(x)) dx   (or Σ)

Where every state can be added up, that is done. Elsewhere annealed importance sampling runs from a
base measure to the energy and back again: see `certificate` for what the two allow one to say, and
`schedule` for how the path between is laid out.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import Energy, Paths, Sum, check_normalisable, lift
from lowland.metrics.log_z.certificate import Direction, LogZ, bennett, ends, interval, objections
from lowland.metrics.log_z.enumeration import countable, sum_states
from lowland.metrics.log_z.schedule import Path, Schedule, default_sampler, plan_schedule
from lowland.metrics.log_z.sources import (
    Source,
    cover_modes,
    explore_modes,
    find_source,
    fit_to_source,
)
from lowland.metrics.log_z.witnesses import object_to_modes, object_to_tails
from lowland.metrics.mcmc import rhat
from lowland.samplers import AISResult, Energies, Sampler, ais, run_chains
from lowland.scalars import read_integer, read_number
from lowland.seeds import spawn
from lowland.targets import ExactSampler, Uniform

PILOT = 200  # chains of the pilot run
Progress = Callable[[int], object] | None


def log_z(
    energy: Energy | Callable[..., Tensor],
    *,
    base: Any = None,
    draws: Tensor | None = None,
    data: Tensor | None = None,
    path: Path | Sequence[Energy] | None = None,
    sampler: Any = None,
    chains: int = 200,
    num_temperatures: int = 1000,
    warm_up: int | None = None,
    generator: torch.Generator,
    tolerance: float = 0.5,
    exact: bool | None = None,
    starts: Tensor | None = None,
    progress: Progress = None,
) -> LogZ:
    """Return log Z with a certificate: exact where there are at most 2²⁴ states, else by annealed
    importance sampling both ways.

    base: an energy with exact `draw(count, generator)` and `log_z`; unless given, `fit_base` fits
    one to data, to draws of the energy, or takes the uniform distribution of a bounded domain.
    path: a function of betas in [0, 1] that gives energies from base to energy, or such energies
    themselves, which are then the path; the energy's own (`paths.path_from`) or the geometric path
    unless given. sampler: leaves every distribution of the path invariant; its step size, if it has
    one, is tuned along the path in the pilot run. The reverse run starts at exact draws where the
    energy has `draw`; else at `draws` (N, *event), which the caller answers for (the base is fitted
    to others of them); else at chains that start half at ends of the forward run, drawn by weight,
    and half at data, if there are any, and take warm_up steps (2 · num_temperatures, at least 100,
    unless given). The result says which. chains: of each direction; tolerance: gap in nats up to
    which directions agree, and width of the bracket up to which it is certified; exact: False never
    enumerates, True does or refuses; starts: (K, *event), a point in each mode that you know of:
    short chains look around there, the base is fitted to where they came and to what it would have
    been fitted to (or to draws of the base given, unless a path is given too), and a mode that the
    forward run does not reach is named; progress: called with 1 per energy entered and per step of
    warm-up. What a certificate presumes: see `LogZ`.

    Raises ValueError for an energy without normaliser, a real domain without base, data or draws,
    and energies that are NaN.

    >>> import torch
    >>> from lowland.targets import Gaussian, GaussianMixture
    >>> g = torch.Generator().manual_seed(0)
    >>> size = {"chains": 100, "num_temperatures": 50}
    >>> found = log_z(GaussianMixture(), base=Gaussian(), generator=g, **size)
    >>> found.lower < 0 < found.upper, found.certified
    (True, True)
    """
    energy = lift(energy)
    check_normalisable(energy)
    chains = read_integer("chains", chains)
    num_temperatures = read_integer("num_temperatures", num_temperatures)
    warm_up = read_integer(
        "warm_up", max(2 * num_temperatures, 100) if warm_up is None else warm_up
    )
    tolerance = read_number("tolerance", tolerance, above=0)
    _check(chains, num_temperatures, warm_up, tolerance, generator)
    _check_parts(base, sampler)
    if exact or (exact is None and countable(energy) is not None):
        return _by_enumeration(energy, tolerance, progress)
    source = find_source(energy, draws, data, chains, generator)
    around = None
    if starts is not None:
        around = explore_modes(
            energy, sampler, torch.as_tensor(starts).to(source.dtype), spawn(generator)
        )
        if base is None or path is None:
            source, base = cover_modes(source, base, around.flatten(0, 1), spawn(generator)), None
    if base is None:
        base = fit_to_source(energy, source)
    ladder, words = _path(energy, base, path)
    placed: int | list[float] = num_temperatures
    if path is not None and not callable(path):
        placed = torch.linspace(0, 1, len(path), dtype=torch.float64).tolist()
    dtype = source.dtype
    pilot = base.draw(max(min(chains, PILOT), 50), spawn(generator)).to(dtype)
    if sampler is None:
        sampler = default_sampler(ladder)
    plan = plan_schedule(ladder, sampler, pilot, placed, spawn(generator))
    energies = list(ladder(plan.betas))
    up = ais(
        energies,
        plan.samplers,
        base.draw(chains, spawn(generator)).to(dtype),
        generator=spawn(generator),
        progress=progress,
    )
    started = _reverse_start(energy, source, up, plan, chains, warm_up, generator, progress)
    down = ais(
        energies[::-1],
        plan.samplers[::-1],
        started.x,
        generator=spawn(generator),
        progress=progress,
    )
    doubts = object_to_tails(energy, torch.cat([up.x, started.x]))
    if around is not None:
        doubts += object_to_modes(around, up.x, up.log_weights)
        started = started._replace(rhat=None)  # chains may stay each in its mode
    return _conclude(base, plan, up, down, started, tolerance, words, doubts, spawn(generator))


class _Started(NamedTuple):
    """Start of the reverse run: points x, words for them, and of the chains that made them the
    R-hat of the energy, and by how many standard errors the energies of those from the forward run
    and of those from data differ.
    """

    x: Tensor
    words: str
    rhat: float | None = None
    apart: float | None = None


def _check(
    chains: int, num_temperatures: int, warm_up: int, tolerance: float, generator: torch.Generator
) -> None:
    if not isinstance(generator, torch.Generator):
        raise ValueError(
            f"generator is a {type(generator).__name__}; every draw takes a torch.Generator; "
            f"pass torch.Generator().manual_seed(0)"
        )
    if chains < 20 or num_temperatures < 2 or warm_up < 20 or not tolerance > 0:
        raise ValueError(
            f"chains is {chains}, num_temperatures {num_temperatures}, warm_up {warm_up}, "
            f"tolerance {tolerance}; a bracket needs at least 20 chains, 2 temperatures, 20 steps "
            "of warm-up and a tolerance above 0; 200, 1000, 2000 and 0.5 are the defaults"
        )


def _check_parts(base: object, sampler: object) -> None:
    """Raise ValueError for a base without exact draws, and for what is no sampler."""
    if base is not None and not isinstance(base, ExactSampler):
        raise ValueError(
            f"base is a {type(base).__name__}; it must be an energy with draw(count, generator) "
            "and log_z; pass for example targets.Gaussian(...), or leave it out"
        )
    if sampler is not None and not isinstance(sampler, Sampler):
        raise ValueError(
            f"sampler is {sampler!r}; it must be a sampler such as HMC(0.1, 5); pass one, or leave "
            "it out"
        )


def _by_enumeration(energy: Energy, tolerance: float, progress: Progress) -> LogZ:
    found = sum_states(energy, progress)
    words = f"sum over {found.states:,} {found.side} in {str(found.dtype).removeprefix('torch.')}"
    return LogZ(
        found.value, 0.0, found.value, found.value, "enumeration", words, tolerance=tolerance
    )


def _path(energy: Energy, base: Any, path: Any) -> tuple[Path, str]:
    """Return the path as a function of betas, and in words what it is."""
    if callable(path):
        return path, "the caller's path"
    if path is not None:
        last = len(path) - 1
        return (lambda betas: [path[round(beta * last)] for beta in betas]), "the caller's energies"
    own = energy.paths
    if own is not None and own.path_from(base, (0.0, 1.0)) is not None:
        return partial(_own_path, own, base), "the energy's own bridge"
    if isinstance(base, Uniform):
        return (
            lambda betas: [beta * energy if beta else base for beta in betas]
        ), "inverse temperatures"
    return (lambda betas: [_between(base, energy, beta) for beta in betas]), "geometric path"


def _own_path(paths: Paths, base: Energy, betas: Sequence[float]) -> list[Energy]:
    return cast(list[Energy], paths.path_from(base, betas))


def _between(base: Energy, energy: Energy, beta: float) -> Energy:
    """Return (1 − β) E_base + β E; the base alone at 0, where the energy may be infinite."""
    return Sum([base, energy], [1.0 - beta, beta]) if beta else base


def _reverse_start(
    energy: Energy,
    source: Source,
    up: AISResult,
    plan: Schedule,
    chains: int,
    warm_up: int,
    generator: torch.Generator,
    progress: Progress,
) -> _Started:
    """Return draws of the energy for the reverse run: exact, given, or made by long chains from
    ends of the forward run and data.
    """
    if source.draws is not None:
        return _Started(source.draws, source.words)
    g = spawn(generator)
    data = source.data
    from_data = 0 if data is None else chains // 2
    if not bool(up.log_weights.isfinite().any()):
        raise ValueError(
            f"all of {len(up.x)} chains of the forward run are without weight; the energy must be "
            "finite at some points that the base reaches; pass a base that covers the energy, or "
            "draws"
        )
    picked = torch.multinomial(
        up.log_weights.softmax(0), chains - from_data, replacement=True, generator=g
    )
    starts = [up.x[picked]]
    if data is not None:
        starts.append(data[torch.randint(len(data), (from_data,), generator=g, device=data.device)])
    trace = run_chains(
        energy,
        plan.samplers[-1],
        torch.cat(starts),
        warm_up,
        generator=spawn(generator),
        recorders=Energies(),
        progress=progress,
    )
    late = trace.records["energies"][warm_up // 2 :]
    words = (
        f"{chains} chains after {warm_up} steps, {chains - from_data} of them from ends of the "
        "forward run"
    )
    words += f" and {from_data or 'none'} from data"
    mixing = 1.0  # a constant energy is the same in all chains
    if bool((late != late[0, 0]).any()):
        mixing = rhat(late, layout="draws chains ...").item()
    return _Started(trace.x, words, mixing, _apart(to_float64(late).mean(0), from_data))


def _apart(means: Tensor, from_data: int) -> float | None:
    """Count standard errors between the mean energies (chains,) of chains from forward ends and of
    the last ones, from data.

    Chains that stay each in its mode are as good as others if both ensembles hold the modes in the
    same shares, so it is the two ensembles that are compared, with chains as what is independent.
    """
    ends, data = means[: len(means) - from_data], means[len(means) - from_data :]
    if min(len(ends), len(data)) < 10:
        return None
    difference = (ends.mean() - data.mean()).item()
    if not difference:
        return 0.0
    return difference / (ends.var() / len(ends) + data.var() / len(data)).sqrt().item()


# ---- what it amounts to --------------------------------------------------------------------------


def _conclude(
    base: Any,
    plan: Schedule,
    up: AISResult,
    down: AISResult,
    started: _Started,
    tolerance: float,
    words: str,
    doubts: list[str],
    generator: torch.Generator,
) -> LogZ:
    forward = _direction(up, base.log_z, 1, generator)
    reverse = _direction(down, base.log_z, -1, generator)
    ratio, error = bennett(up.log_weights, down.log_weights)
    middle = base.log_z + ratio, error
    rounding = torch.finfo(up.x.dtype).eps * math.sqrt(len(plan.betas)) * max(abs(middle[0]), 1.0)
    lower, upper = ends(forward, reverse, middle)
    lower, upper = lower - rounding, upper + rounding
    found = objections(forward, reverse, tolerance, rounding, started.rhat, started.apart)
    if not found and not upper - lower <= tolerance:
        found = [
            f"the bracket is {upper - lower:.2f} nats wide, more than {tolerance:g}: more chains "
            "or temperatures narrow it"
        ]
    kernel = plan.samplers[-1]
    return LogZ(
        *middle,
        lower,
        upper,
        "annealed importance sampling",
        f"{words}, {up.moves} moves a chain and direction, thermodynamic length {plan.length:.1f}",
        forward,
        reverse,
        started.words,
        type(base).__name__,
        type(kernel).__name__,
        len(up.log_weights),
        up.moves,
        plan.betas,
        tolerance,
        started.rhat,
        (*found, *doubts),
    )


def _direction(run: AISResult, start: float, sign: int, generator: torch.Generator) -> Direction:
    """Read a run as a statement about log Z. Its curve begins where log Z is known, at the base."""
    error, low, high = interval(run.log_weights, generator)
    value = start + sign * run.log_ratio
    if sign > 0:
        ends, curve = (start + low, start + high), start + run.log_ratios
    else:
        ends, curve = (start - high, start - low), start + run.log_ratios.flip(0) - run.log_ratio
    return Direction(
        value,
        error,
        *ends,
        run.ess,
        sum(run.acceptance) / max(len(run.acceptance), 1),
        to_float64(run.diverged).mean().item() / max(run.moves, 1),
        int((run.log_weights == -math.inf).sum()),
        tuple(curve.tolist()),
    )
