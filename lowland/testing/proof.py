"""`prove` puts a sampler through everything that it claims, and reports row by row.

What a sampler claims it says itself: `domains`, `adjusted`, `order` (a plain callable is told
them). What it need not keep is not asked: a biased sampler is asked for the order of its bias
instead of its law.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch

from lowland.samplers import Sampler
from lowland.testing import exact_checks, statistical_checks
from lowland.testing.chains import LIMIT, fitted, has_replicas
from lowland.testing.targets import TARGETS, Target

DTYPES = (torch.float32, torch.float64)
ARRIVALS = (
    "gaussian",
    "gamma",
    "exponential",
    "bits",
    "classes",
)  # where 200 steps forget the start
SHAPES = ((exact_checks.SITES,), (1, 8, 8), (3, 4, 4))


class Row(NamedTuple):
    """One check of one sampler: the figure that was found (|z|, if the check is statistical) and
    whether the claim holds.
    """

    check: str
    target: str
    dtype: str
    figure: float | None
    holds: bool
    note: str = ""


@dataclass(frozen=True)
class Report:
    """What `prove` found; printed as a table."""

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
        """The row. What is raised, AssertionError or not, is a failure with its first line for a
        note.
        """
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
    """All checks that apply to a sampler by what it claims; see `prove`. size: count, steps, seeds
    of the statistical ones.
    """
    domains = domains or (sampler.domains if isinstance(sampler, Sampler) else ("real",))
    adjusted = sampler.adjusted if adjusted is None else adjusted
    order = order or (sampler.order if isinstance(sampler, Sampler) else None)
    found: list[Obligation] = []
    if adjusted:
        for dtype in dtypes:
            found += _laws(sampler, domains, TARGETS if targets is None else targets, dtype, size)
    elif order is not None:
        found.append(Obligation("bias order", "humps", "float32", partial(_order, sampler, order)))
    if order == 1 and hasattr(sampler, "temperature"):
        for t in (1.0, 0.5):
            found.append(
                Obligation(
                    "temperature law", f"T = {t}", "float32", partial(_temperature, sampler, t)
                )
            )
    return found + (list(_conduct(sampler, domains)) if isinstance(sampler, Sampler) else [])


def _laws(
    sampler: Any,
    domains: Sequence[str],
    targets: Mapping[str, Target],
    dtype: torch.dtype,
    size: dict[str, Any],
) -> Iterator[Obligation]:
    """Invariance of the law: from exact draws, jointly with data, against enumeration, up to the
    walls.
    """
    replicas, what = has_replicas(sampler), str(dtype).removeprefix("torch.")
    count = size.get("count", 20_000)
    for name, target in targets.items():
        if target.energy.domain.kind not in domains or (replicas and target.hot is None):
            continue
        run = partial(statistical_checks.stationarity, sampler, target, dtype=dtype, **size)
        yield Obligation("stationarity", name, what, run)
        if name in ARRIVALS:
            yield Obligation(
                "arrival",
                name,
                what,
                partial(statistical_checks.arrival, sampler, target, dtype=dtype, count=count // 4),
            )
        if target.states is not None:
            yield Obligation(
                "enumeration", name, what, partial(_enumeration, sampler, target, dtype, size)
            )
    for kind in statistical_checks.MODELS:
        if kind in domains and not replicas:  # replicas start as copies, which is not their law
            yield Obligation(
                "joint",
                kind,
                what,
                partial(statistical_checks.joint, sampler, kind, dtype=dtype, count=count),
            )
    if "box" in domains:
        yield Obligation(
            "walls",
            "exponential",
            what,
            partial(statistical_checks.walls, sampler, dtype=dtype, count=3 * count),
        )


def _enumeration(
    sampler: Any, target: Target, dtype: torch.dtype, size: dict[str, Any]
) -> tuple[float, str]:
    found = statistical_checks.enumeration(
        sampler, target, dtype=dtype, **{k: v for k, v in size.items() if k != "seeds"}
    )
    return abs(found.z), f"total variation {found.variation:.3f}"


def _order(sampler: Any, declared: int) -> tuple[float, str]:
    found = statistical_checks.order(sampler)
    return found.z(declared), f"slope {found.order:.2f} ± {found.error:.2f}, declared {declared}"


def _temperature(sampler: Any, temperature: float) -> float:
    return statistical_checks.temperature_law(
        dataclasses.replace(sampler, temperature=temperature), sampler.step_size, temperature
    )


def _conduct(sampler: Any, domains: Sequence[str]) -> Iterator[Obligation]:
    """What holds bit for bit, on every kind of domain."""
    mine = fitted(sampler, exact_checks.SITES)
    for kind in (k for k in ("real", "binary", "categorical") if k in domains):
        for check in (
            exact_checks.repeats,
            exact_checks.gradients_as_declared,
            exact_checks.state_is_fresh,
            exact_checks.chains_are_separate,
            exact_checks.sampling_leaves_no_trace,
        ):
            yield Obligation(check.__name__.replace("_", " "), kind, "", partial(check, mine, kind))
        for hole in exact_checks.HOLES:
            yield Obligation(
                "refuses holes",
                f"{kind}, {hole}",
                "",
                partial(exact_checks.refuses_holes, mine, hole, kind),
            )
        yield Obligation("any event shape", kind, "", partial(_shapes, sampler, kind))
    if "box" in domains and not hasattr(sampler, "clamp"):
        yield Obligation(
            "stays in its box", "box", "", partial(exact_checks.stays_in_its_box, mine)
        )
    if has_replicas(sampler):
        yield Obligation("replicas travel", "flat", "", partial(exact_checks.replicas_travel, mine))


def _shapes(sampler: Any, kind: str) -> None:
    for shape in SHAPES:
        for rows in (1, 5):
            for dtype in DTYPES:
                exact_checks.any_event_shape(
                    fitted(sampler, torch.Size(shape).numel()), kind, shape, rows, dtype
                )


def prove(
    sampler: Any,
    *,
    name: str = "",
    progress: Callable[[Obligation], object] = lambda obligation: None,
    **claims: Any,
) -> Report:
    """Put a sampler through everything that it claims.

    sampler: one of lowland's kind (`init`, `step`, `gradients`, `domains`, `adjusted`, `order`), or
    any callable move(energy, x, steps, generator) -> x, whose claims are given as keywords:
    domains=("real",), adjusted=True, order=None. Other keywords: targets, dtypes, count (of
    chains), steps, seeds. Takes seconds to minutes.

    >>> import lowland
    >>> from lowland.testing import TARGETS, prove
    >>> report = prove(lowland.MALA(0.2), targets={"gaussian": TARGETS["gaussian"]}, count=2000, seeds=(0,))
    >>> report.holds
    True
    """
    rows = []
    for obligation in obligations(sampler, **claims):
        progress(obligation)
        rows.append(obligation.run())
    return Report(name or str(sampler), tuple(rows))
