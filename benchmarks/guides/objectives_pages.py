"""What `benchmarks.guides.objectives` measured, as tables and as the page "Which objective?"."""

import statistics
from pathlib import Path
from typing import Any

from benchmarks.guides import RESULTS
from benchmarks.guides.objectives_claims import Record, folk, main_figure, shown, value_of
from benchmarks.guides.objectives_gallery import gallery
from benchmarks.guides.objectives_measures import FINE, HASTE
from benchmarks.guides.objectives_words import FAMILIES, FIGURES, HASTY, NEEDS, said
from lowland.registry import registered

DOCS = Path(__file__).parents[2] / "docs"
Rows = list[dict[str, Any]]
COLUMNS: dict[
    str, list[tuple[str, str, float, int]]
] = {  # heading, key of the record, unit, digits
    "moons": [
        ("s", "seconds", 1, 0),
        ("fine MMD²", "fine", 1000, 2),
        ("precision", "precision", 1, 2),
        ("recall", "recall", 1, 2),
        ("KSD²", "ksd", 10, 2),
        ("outliers", "outliers", 1, 2),
        ("s to draw", "drawing_seconds", 1, 1),
    ],
    "digits": [
        ("s", "seconds", 1, 0),
        ("Fréchet", "frechet", 1, 0),
        ("precision", "precision", 1, 2),
        ("recall", "recall", 1, 2),
        ("told apart", "told", 1, 2),
        ("classes even", "entropy", 1, 2),
        ("outliers", "outliers", 1, 2),
        ("s to draw", "drawing_seconds", 1, 1),
    ],
}
NOT_DRAWN = (
    "OutlierExposure",
    "InfoNCE",
    "Robust",
)  # energies that are not made to be sampled from


def spread(values: list[float], unit: float, digits: int) -> str:
    """mean ± sd over the seeds, or the value alone."""
    if not values:
        return "–"
    sd = f" ± {unit * statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{unit * statistics.mean(values):.{digits}f}{sd}"


def table(record: Record, data: str) -> list[str]:
    """One set as a Markdown table: cost, quality at equal time, what haste does; the best first,
    real data above.
    """
    columns, names = COLUMNS[data], sorted(record.on(data), key=record.quality)
    hasty = any(name in record.hasty for name in names)
    head = ["recipe", "objective", "ms per update", "updates", *(title for title, *_ in columns)]
    head += [f"rate × {HASTE:g}", "rollbacks"] if hasty else []
    lines = ["| " + " | ".join(head) + " |", "|---|---|" + "---:|" * (len(head) - 2)]
    for form, figures in record.real.items():
        if form.split(",")[0] == data:
            cells = [
                spread(_values([figures], key), unit, digits) for _, key, unit, digits in columns
            ]
            lines.append(
                "| "
                + " | ".join([f"*real {form}*", "", "", "", *cells, *[""] * (2 * hasty)])
                + " |"
            )
    for name in names:
        rows = record.own[name]
        star = "*" if rows[0]["objective"] in NOT_DRAWN else ""
        cells = [
            name + star,
            rows[0]["objective"],
            spread(_values(rows, "update_ms"), 1, 1),
            f"{rows[0]['updates']:,}",
        ]
        cells += [spread(_values(rows, key), unit, digits) for _, key, unit, digits in columns]
        lines.append(
            "| "
            + " | ".join([*cells, *(_haste(record.hasty.get(name, [])) if hasty else [])])
            + " |"
        )
    return lines


def _values(rows: Rows, key: str) -> list[float]:
    found = [value_of({"data": "", **row, "finite": True}, key) for row in rows]
    return [value for value in found if value is not None]


def _haste(rows: Rows) -> list[str]:
    """The main figure at a rate far too large, and rollbacks."""
    if not rows:
        return ["–", "–"]
    row = rows[0]
    value = (
        shown(value_of(row, main_figure(row)) or 0.0, row["recipe"])
        if row["finite"]
        else "not finite"
    )
    return [f"{value} (stopped)" if row["stopped"] else value, str(row["rollbacks"])]


def measured(record: Record) -> list[str]:
    """The tables with what they are of."""
    text = []
    for data in COLUMNS:
        names = record.on(data)
        if not names:
            continue
        rows = [row for name in names for row in record.own[name]]
        budget, seeds = sorted({row["budget"] for row in rows}), len({row["seed"] for row in rows})
        text += [
            f"### {data}: {' or '.join(f'{b:g}' for b in budget)} s of one thread, {seeds} "
            f"seed{'s' * (seeds > 1)}",
            "",
        ]
        text += [*table(record, data), ""]
        errors = [row["fine"]["error"] for row in rows if "fine" in row]
        if errors:
            text += [
                "The standard error of one fine MMD² is about "
                f"{1000 * statistics.median(errors):.1f} (median).",
                "",
            ]
        if "frechet" in record.real.get(data, {}):
            floor = shown(record.real[data]["frechet"], data)
            text += [
                f"Two sets of real {data} of this size are {floor} apart: below that the figure "
                "tells no more.",
                "",
            ]
        if any(record.own[name][0]["objective"] in NOT_DRAWN for name in names):
            text += ["\\* not made to be drawn from: look at the outliers.", ""]
        text += [
            line
            for name in names
            if "neighbour" in record.own[name][0]
            for line in (_compared(record, name), "")
        ]
    return text


def _compared(record: Record, name: str) -> str:
    share, pixels = (100 * record.mean(name, key) for key in ("neighbour", "neighbour_pixels"))
    return (
        f"`{name}`: the nearest training digit by its features is of the same class for "
        f"{share:.1f} % of held-out digits, by pixels for {pixels:.1f} %."
    )


def write_pages(rows: Rows, real: dict[str, dict[str, Any]]) -> None:
    """results/guides/objectives.md, docs/which-objective.md, docs/gallery.md with its pictures."""
    record = Record(rows, real)
    figures = FIGURES.format(fine=FINE) + (f"\n{HASTY.format(haste=HASTE)}" if record.hasty else "")
    text = [
        "# Objectives at equal processor time",
        "",
        "`python -m benchmarks.guides.objectives`; rows in objectives.json.",
        "",
    ]
    (RESULTS / "objectives.md").write_text("\n".join([*text, figures, "", *measured(record)]))
    (DOCS / "which-objective.md").write_text(which_page(record, figures))
    (DOCS / "gallery.md").write_text(gallery(record, DOCS / "gallery"))


def which_page(record: Record, figures: str) -> str:
    """The page: needs, families, the tables, what folk say and what was measured, costs one by
    one.
    """
    uses = said()
    ordered = [name for _, names in FAMILIES.values() for name in names]
    text = [
        "# Which objective?",
        "",
        "An objective decides what data are compared with. None of them needs log Z, and each pays "
        "for that elsewhere: with",
        "chains, with gradients of gradients, or with an energy that is right only near the data. "
        "Find your need, then look at",
        "what was measured; the [gallery](gallery.md) shows what came out.",
        "",
        "| you want | take | because |",
        "|---|---|---|",
        *(f"| {need} | {take} | {because} |" for need, take, because in NEEDS),
        "",
        "| family | data are compared with | objectives |",
        "|---|---|---|",
        *(
            f"| {family} | {other} | {', '.join(f'`{n}`' for n in names)} |"
            for family, (other, names) in FAMILIES.items()
        ),
        "",
        f"{', '.join(f'`{name}`' for name in registered('term'))} are terms, not objectives: they "
        "add to any of them, as",
        "`[[terms]]` of a recipe (`lowland recipes show digits-regularised`).",
        "",
        "## Measured",
        "",
        "Every shipped recipe on a set got the same seconds of one thread; schedules stretch to "
        "the updates that fit.",
        "The recipes were made by people who knew the sets, with unequal care, and most want more "
        "time than this. One set of",
        "settings each: a loser here may win after tuning. The sets are small, so that all can be "
        "trained in minutes. Other",
        "programs shared the processor, so that a cost below is good to about a third: read "
        "factors, not decimals. What rates",
        "far too large do, with lowland's cures and without, is in [the grid of "
        "runs](../benchmarks/results/proof/survival.md).",
        "",
        figures,
        "",
        *measured(record),
        "## What is said, and what was measured",
        "",
        *folk(record),
        "## One by one",
        "",
        "| objective | cost of an update | use it |",
        "|---|---|---|",
        *(f"| `{name}` | {uses[name][0]} | {uses[name][1]} |" for name in ordered),
        "",
        "This page is written by `python -m benchmarks.guides.objectives pages` from",
        "[the record](../benchmarks/results/guides/objectives.json); no number in it was typed "
        "by hand.",
        "",
    ]
    return "\n".join(text)
