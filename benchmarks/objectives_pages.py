"""What `benchmarks.objectives` measured, as tables, as a gallery of pictures and as the page "Which objective?"."""

from collections import defaultdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.objectives import HASTE, HERE, RUNS, spread
from benchmarks.objectives_words import FAMILIES, folk, said
from lowland.registry import registered
from lowland.run import Run, load

DOCS = Path(__file__).parent.parent / "docs"
Rows = list[dict[str, Any]]


def grouped(rows: Rows, data: str, rate: float = 1.0) -> dict[str, Rows]:
    """Rows of a set at a rate by recipe, the best median first."""
    found: dict[str, Rows] = defaultdict(list)
    for row in rows:
        if row["data"] == data and row["rate"] == rate:
            found[row["recipe"]].append(row)
    return dict(sorted(found.items(), key=lambda item: quality(item[1])))


def quality(rows: Rows) -> float:
    """The figure that orders a table: mean MMD², or Fréchet distance where there is one; infinite for runs that failed."""
    values = [row.get("frechet", row["mmd"]["value"]) if row["finite"] else float("inf") for row in rows]
    return sum(values) / len(values)


def table(rows: Rows, data: str) -> list[str]:
    """One set as a Markdown table: cost, quality at equal time, what haste does."""
    images = data == "digits"
    figure = "Fréchet (features)" if images else "10³ MMD²"
    more = ["classes even", "called with confidence"] if images else ["10 KSD² of test data"]
    hasty = grouped(rows, data, HASTE)
    head = ["recipe", "objective", "ms per update", "updates", figure, *more, f"rate × {HASTE:g}: the same", "rollbacks there"]
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    for name, own in grouped(rows, data).items():
        good, fast = [row for row in own if row["finite"]], hasty.get(name, [])
        cells = [name, own[0]["objective"], spread([row["update_ms"] for row in own], 2), f"{own[0]['updates']:,}"]
        if images:
            cells += [spread([row["frechet"] for row in good], 1)]
            cells += [spread([row[key] for row in good], 2) for key in ("entropy", "confident")]
        else:
            cells += [spread([1000 * row["mmd"]["value"] for row in good], 2)]
            cells += [spread([10 * row["ksd"]["value"] for row in good if "ksd" in row], 2)]
        cells += [_hasty(fast, images), ", ".join(str(row["rollbacks"]) for row in fast) or "–"]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _hasty(rows: Rows, images: bool) -> str:
    if not rows:
        return "–"
    row = rows[0]
    if not row["finite"]:
        return "not finite"
    value = f"{row['frechet']:.1f}" if images else f"{1000 * row['mmd']['value']:.2f}"
    return f"{value} (stopped)" if row["stopped"] else value


def write_pages(rows: Rows) -> None:
    """results/objectives.md, docs/gallery.md with two pictures, docs/which-objective.md."""
    tables = {data: table(rows, data) for data in ("moons", "digits")}
    budgets = {data: sorted({row["budget"] for row in rows if row["data"] == data}) for data in tables}
    seeds = {data: len({row["seed"] for row in rows if row["data"] == data}) for data in tables}
    text = ["# Objectives at equal processor time", "", __doc__ or "", ""]
    for data, lines in tables.items():
        real = [row["frechet_real"] for row in rows if row["data"] == data and "frechet_real" in row]
        note = f" Fréchet distance of real digits from real digits: {real[0]:.1f}." if real else ""
        text += [f"## {data}: {budgets[data]} s of one thread, {seeds[data]} seed(s)", "", note, "", *lines, ""]
    (HERE / "objectives.md").write_text("\n".join(text))
    gallery(rows)
    (DOCS / "which-objective.md").write_text(which_page(rows, tables, budgets, seeds))


def gallery(rows: Rows) -> None:
    """One page with a panel for every recipe."""
    text = [
        "# Gallery",
        "",
        "What every objective makes of two sets at equal processor time, as `python -m benchmarks.objectives` left it (seed 0;",
        "no picture was chosen). [Which objective?](which-objective.md) has the figures.",
        "",
    ]
    for data, draw in (("moons", moons_picture), ("digits", digits_picture)):
        names = list(grouped(rows, data))
        draw(names, DOCS / f"gallery-{data}.png")
        budget = sorted({row["budget"] for row in rows if row["data"] == data})
        text += [f"## {data}: {budget} s of one thread", "", f"![{data}](gallery-{data}.png)", ""]
    (DOCS / "gallery.md").write_text("\n".join(text))


def panels(count: int, columns: int, side: float) -> Any:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines = -(-count // columns)
    figure, axes = pyplot.subplots(lines, columns, figsize=(side * columns, side * 1.12 * lines), squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, list(axes.flat)


def moons_picture(names: list[str], path: Path) -> None:
    """Energy as colour, draws as dots."""
    figure, axes = panels(len(names), 5, 2.0)
    line = torch.linspace(-2.6, 2.6, 120)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(-1, 2)
    for name, ax in zip(names, axes, strict=False):
        folder = RUNS / f"{name}-0-1"
        x = Run(folder).read_tensors("draws.safetensors")["x"]
        energy: Any = load(folder)[0]
        if getattr(energy, "noise", False):
            energy = energy.given(0.15)
        with torch.no_grad():
            values = energy(grid).view(120, 120)
        ax.contourf(line, line, values, levels=values.quantile(torch.linspace(0, 0.7, 12)).unique().tolist(), cmap="viridis")
        ax.scatter(x[:, 0], x[:, 1], s=3, c="white", edgecolors="black", linewidths=0.2)
        ax.set_xlim(-2.6, 2.6), ax.set_ylim(-2.6, 2.6)
        ax.set_title(name, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def digits_picture(names: list[str], path: Path) -> None:
    """Twenty-four draws of each."""
    figure, axes = panels(len(names), 5, 2.0)
    for name, ax in zip(names, axes, strict=False):
        x = Run(RUNS / f"{name}-0-1").read_tensors("draws.safetensors")["x"][:25].clamp(0, 1)
        sheet = x.view(5, 5, 8, 8).permute(0, 2, 1, 3).reshape(40, 40)
        ax.imshow(sheet, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        ax.set_title(name, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def which_page(rows: Rows, tables: dict[str, list[str]], budgets: dict[str, Any], seeds: dict[str, int]) -> str:
    """The page: a short answer, families, the tables, what folk say and what was measured."""
    by = {name: own for data in tables for name, own in grouped(rows, data).items()}
    text = [FAMILIES, ""]
    for data, lines in tables.items():
        text += [f"## Measured: {data}", "", f"{budgets[data]} s of one thread for each, {seeds[data]} seed(s)."]
        text += ["", *lines, ""]
    text += ["## One by one", "", "| objective | cost of an update | use it when |", "|---|---|---|"]
    text += [f"| `{name}` | {cost} | {use} |" for name, (cost, use) in said().items()]
    text += [
        "",
        "Terms that add to any of them are listed as `[[terms]]`: "
        + ", ".join(f"`{name}`" for name in registered("term"))
        + ".",
    ]
    return "\n".join([*text, "", "## What is said, and what was measured", "", *folk(by), ""])
