"""Proof of a sampler: every check that its claims ask for, reported row by row.

A sampler's claims are its `domains`, `adjusted` and `order`. A biased sampler is asked for the
order of its bias instead of its invariant distribution.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from lowland.samplers import Langevin, Sampler, ShortRun
from lowland.samplers.kernel import describe_sampler
from lowland.scalars import read_integer
from lowland.testing import bias, exact_checks, geweke, side_effects, statistical_checks
from lowland.testing.chains import LIMIT, fit_metric, has_replicas
from lowland.testing.targets import TARGETS, Target

DTYPES = (torch.float32, torch.float64)
# where 200 steps forget the start
ARRIVALS = ("gaussian", "gamma", "exponential", "bits", "classes")
SHAPES = ((exact_checks.SITES,), (1, 8, 8), (3, 4, 4))


class Row(NamedTuple):
    """One check of one sampler: its figure, |z| if it is statistical, and if the claim holds."""

    check: str
    target: str
    dtype: str
    figure: float | None
    holds: bool
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Rows of a proof; printed as a table."""

    name: str
    rows: tuple[Row, ...]

    @property
    def holds(self) -> bool:
        return all(row.holds for row in self.rows)

    @property
    def failures(self) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if not row.holds)

    def __repr__(self) -> str:
        head = ("check", "target", "dtype", f"|z| < {LIMIT:g}", "verdict")
        lines = [head, *(_cells(row) for row in self.rows)]
        widths = [max(len(line[i]) for line in lines) for i in range(4)]
        table = [
            "  ".join([*(cell.ljust(w) for cell, w in zip(line, widths, strict=False)), line[4]])
            for line in lines
        ]
        last = f"{self.name}: {len(self.rows) - len(self.failures)} of {len(self.rows)} claims hold"
        return "\n".join([*table, last])


def _cells(row: Row) -> tuple[str, ...]:
    figure = "exact" if row.figure is None else f"{row.figure:.2f}"
    verdict = "holds" if row.holds else "FAILS"
    return (
        row.check,
        row.target,
        row.dtype,
        figure,
        f"{verdict}: {row.note}" if row.note else verdict,
    )


@dataclass(frozen=True)
class Obligation:
    """A check that a sampler has to pass: run it for its row."""

    check: str
    target: str
    dtype: str
    measure: Callable[[], Any]

    def __str__(self) -> str:
        return " ".join(part for part in (self.check, self.target, self.dtype) if part)

    def run(self) -> Row:
        """Return the row; an exception of any kind is a failure, with its first line for a note."""
        here = (self.check, self.target, self.dtype)
        try:
            found = self.measure()
        except Exception as problem:
            return Row(*here, None, False, (str(problem).strip() or repr(problem)).splitlines()[0])
        if found is None:
            return Row(*here, None, True)
        figure, note = found if isinstance(found, tuple) else (found, "")
        return Row(*here, figure, bool(figure < LIMIT), note)


def obligations(
    sampler: Any,
    *,
    domains: Sequence[str] | None = None,
    adjusted: bool | None = None,
    order: int | None = None,
    targets: Mapping[str, Target] | None = None,
    dtypes: Sequence[torch.dtype] = DTYPES,
    **size: Any,
) -> list[Obligation]:
    """Return all checks that a sampler's claims ask for; see `prove`. size: count, steps, seeds."""
    domains = domains or (sampler.domains if isinstance(sampler, Sampler) else ("real",))
    adjusted = sampler.adjusted if adjusted is None else adjusted
    order = order or (sampler.order if isinstance(sampler, Sampler) else None)
    found: list[Obligation] = []
    if adjusted:
        for dtype in dtypes:
            found += _invariance(
                sampler, domains, TARGETS if targets is None else targets, dtype, size
            )
    elif order is not None:
        found.append(Obligation("bias order", "humps", "float32", partial(_order, sampler, order)))
    if isinstance(sampler, Langevin):
        for t in (1.0, 0.5):
            measure = partial(_temperature, sampler, t)
            found.append(Obligation("temperature law", f"T = {t}", "float32", measure))
    if isinstance(sampler, Sampler):
        found += _exact(sampler, domains)
    return found


def _invariance(
    sampler: Any,
    domains: Sequence[str],
    targets: Mapping[str, Target],
    dtype: torch.dtype,
    size: dict[str, Any],
) -> Iterator[Obligation]:
    """Yield checks of invariance: from exact draws, with data, by enumeration, up to the walls."""
    replicas, what = has_replicas(sampler), str(dtype).removeprefix("torch.")
    count = size.get("count", 20_000)
    for name, target in targets.items():
        if target.energy.domain.kind not in domains or (replicas and target.hot is None):
            continue
        run = partial(statistical_checks.stationarity, sampler, target, dtype=dtype, **size)
        yield Obligation("stationarity", name, what, run)
        if name in ARRIVALS:
            arrival = partial(statistical_checks.arrival, dtype=dtype, count=count // 4)
            yield Obligation("arrival", name, what, partial(arrival, sampler, target))
        if target.states is not None:
            listing = partial(_enumeration, sampler, target, dtype, size)
            yield Obligation("enumeration", name, what, listing)
    for kind in geweke.MODELS:
        if kind in domains and not replicas:  # replicas start as copies, not as exact draws
            joint = partial(geweke.joint, sampler, kind, dtype=dtype, count=count)
            yield Obligation("joint", kind, what, joint)
    if "box" in domains:
        walls = partial(statistical_checks.walls, sampler, dtype=dtype, count=3 * count)
        yield Obligation("walls", "exponential", what, walls)


def _enumeration(
    sampler: Any, target: Target, dtype: torch.dtype, size: dict[str, Any]
) -> tuple[float, str]:
    found = statistical_checks.enumeration(
        sampler, target, dtype=dtype, **{k: v for k, v in size.items() if k != "seeds"}
    )
    return abs(found.z), f"total variation {found.variation:.3f}"


def _order(sampler: Any, declared: int) -> tuple[float, str]:
    found = bias.order(sampler)
    return found.z(declared), f"slope {found.order:.2f} ± {found.error:.2f}, declared {declared}"


def _temperature(sampler: Langevin, temperature: float) -> float:
    sampler = sampler.replace(temperature=temperature)
    return bias.temperature_law(sampler, sampler.step_size, temperature)


def _exact(sampler: Sampler, domains: Sequence[str]) -> Iterator[Obligation]:
    """Yield the exact checks, on every kind of domain that the sampler claims."""
    mine = fit_metric(sampler, exact_checks.SITES)
    for kind in (k for k in ("real", "binary", "categorical") if k in domains):
        for check in (
            exact_checks.repeats,
            exact_checks.gradients_as_declared,
            exact_checks.state_is_fresh,
            exact_checks.chains_are_separate,
            side_effects.sampling_leaves_no_trace,
        ):
            yield Obligation(check.__name__.replace("_", " "), kind, "", partial(check, mine, kind))
        for hole in exact_checks.HOLES:
            refusal = partial(exact_checks.refuses_holes, mine, hole, kind)
            yield Obligation("refuses holes", f"{kind}, {hole}", "", refusal)
        yield Obligation("any event shape", kind, "", partial(_shapes, sampler, kind))
    if "box" in domains and not isinstance(sampler, ShortRun):  # which clamps instead
        stays = partial(exact_checks.stays_in_its_box, mine)
        yield Obligation("stays in its box", "box", "", stays)
    if has_replicas(sampler):
        yield Obligation("replicas travel", "flat", "", partial(exact_checks.replicas_travel, mine))


def _shapes(sampler: Sampler, kind: str) -> None:
    for shape in SHAPES:
        for rows in (1, 5):
            for dtype in DTYPES:
                mine = fit_metric(sampler, math.prod(shape))
                exact_checks.any_event_shape(mine, kind, shape, rows, dtype)


def prove(
    sampler: Any,
    *,
    name: str = "",
    progress: Callable[[Obligation], object] = lambda obligation: None,
    **claims: Any,
) -> Report:
    """Check everything that a sampler claims, and report row by row. Takes seconds to minutes.

    sampler: a Sampler, or a callable move(energy, x, steps, generator) -> x, whose claims are given
    as keywords: domains=("real",), adjusted=True, order=None. Other keywords: targets, dtypes,
    count (of chains), steps, seeds.

    >>> import lowland
    >>> from lowland.testing import TARGETS, prove
    >>> some = {"gaussian": TARGETS["gaussian"]}
    >>> prove(lowland.MALA(0.2), targets=some, count=2000, seeds=(0,)).holds
    True
    """
    if isinstance(sampler, type) or not (isinstance(sampler, Sampler) or callable(sampler)):
        raise ValueError(
            f"prove came with {describe_sampler(sampler)}; it needs a sampler, or a function "
            "move(energy, x, steps, generator); pass for example MALA(0.1)"
        )
    if not isinstance(sampler, Sampler) and claims.get("adjusted") is None:
        raise ValueError(
            "a function came without its claims; what it leaves invariant must be said; pass "
            "adjusted=True, or adjusted=False and its order"
        )
    for what in ("count", "steps"):
        if what in claims:
            claims[what] = read_integer(what, claims[what], least=1)
    rows = []
    for obligation in obligations(sampler, **claims):
        progress(obligation)
        rows.append(obligation.run())
    return Report(name or str(sampler), tuple(rows))
