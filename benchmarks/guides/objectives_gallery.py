"""The gallery: a section for each objective, a picture for each recipe that
`benchmarks.guides.objectives` trained.
"""

from pathlib import Path
from typing import Any

import torch

from benchmarks.guides.objectives_claims import Record, main_figure, shown
from benchmarks.guides.objectives_measures import folder
from benchmarks.guides.objectives_words import FAMILIES, WITHOUT_PLANE, said
from lowland.config import recipe_names
from lowland.data import load_data, save_grid
from lowland.nets import PairEnergy
from lowland.trained import Model, load

REACH = 2.6  # the moons are shown on a square of twice this side


def gallery(record: Record, place: Path) -> str:
    """The page; its pictures go to `place`."""
    place.mkdir(exist_ok=True)
    for old in place.glob("*.png"):
        old.unlink()
    shown_data(place)
    uses, abouts = said(), recipe_names()
    text = [
        "# Gallery",
        "",
        "What each objective makes of two sets in the same processor time ([how "
        "much](which-objective.md#measured)): draws of",
        "seed 0, the first ones, none chosen. In the plane the energy is the colour (dark is low), "
        "draws are dots. Written by",
        "`python -m benchmarks.guides.objectives pages`. The command below a picture trains the "
        "recipe as "
        "shipped, which takes longer",
        "than the picture did.",
        "",
        "| two moons: data | digits: data |",
        "|---|---|",
        "| ![data, moons](gallery/data-moons.png) | ![data, digits](gallery/data-digits.png) |",
        "",
    ]
    for family, (other, names) in FAMILIES.items():
        text += [f"## {family[0].upper()}{family[1:]}: {other}", ""]
        for objective in names:
            text += [f"### {objective}", "", f"Use it {uses[objective][1]}", ""]
            own = [name for name in record.own if record.own[name][0]["objective"] == objective]
            own = sorted(own, key=lambda name: (record.own[name][0]["data"] != "moons", name))
            text += pictures(record, own, place, abouts)
            if objective in WITHOUT_PLANE:
                text += [
                    f"({WITHOUT_PLANE[objective][0].upper()}{WITHOUT_PLANE[objective][1:]}.)",
                    "",
                ]
    return "\n".join(text)


def pictures(record: Record, names: list[str], place: Path, abouts: dict[str, str]) -> list[str]:
    """A table with a column for each recipe: picture, figure, words, command."""
    if not names:
        return []
    for name in names:
        picture(folder(name, 0, 1.0), place / f"{name}.png")
    figures = [f"{_said(record, name)}" for name in names]
    rows = (
        [f"![{name}](gallery/{name}.png)" for name in names],
        [abouts[name] for name in names],
        figures,
        [f"`lowland train {name}`" for name in names],
    )
    return [
        "| " + " | ".join(names) + " |",
        "|" + "---|" * len(names),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def _said(record: Record, name: str) -> str:
    row = record.own[name][0]
    words = "Fréchet" if main_figure(row) == "frechet" else "10³ fine MMD²"
    return f"{words} {shown(record.quality(name), name)} after {row['updates']:,} updates"


def picture(path: Path, to: Path) -> None:
    """What a run drew."""
    one = load(path)
    x = one.run.read_tensors("draws.safetensors")["x"]
    if isinstance(one.energy, PairEnergy):
        save_grid(_neighbours(one), to, columns=6, pixels=40)
    elif x.dim() == 4:
        save_grid(x[:36].nan_to_num(0.0).clamp(0, 1), to, columns=6, pixels=40)
    else:
        landscape(to, x[:400], one)


def _neighbours(one: Model) -> Any:
    """Six held-out digits, and right of each its five nearest by the energy of pairs."""
    energy: Any = one.energy
    asked, others = one.data.test.x[:6], one.data.train.x
    with torch.no_grad():
        nearest = energy.pairs(asked, others).topk(5, largest=False).indices
    return torch.cat([asked.unsqueeze(1), others[nearest]], 1).flatten(0, 1)


def landscape(to: Path, x: torch.Tensor, one: Model | None) -> None:
    """Energy as colour, points as dots."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, ax = pyplot.subplots(figsize=(2.6, 2.6))
    if one is not None:
        line = torch.linspace(-REACH, REACH, 120)
        grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(-1, 2)
        with torch.no_grad():
            values = one.marginal(grid).view(120, 120)
        levels = values.quantile(torch.linspace(0, 0.7, 12)).unique().tolist()
        ax.contourf(line, line, values, levels=levels, cmap="viridis")
    ax.scatter(x[:, 0], x[:, 1], s=3, c="white", edgecolors="black", linewidths=0.3)
    ax.set_xlim(-REACH, REACH)
    ax.set_ylim(-REACH, REACH)
    ax.set_axis_off()
    figure.savefig(to, dpi=96, bbox_inches="tight", pad_inches=0.02)
    pyplot.close(figure)


def shown_data(place: Path) -> None:
    """The sets themselves."""
    landscape(place / "data-moons.png", load_data("moons", seed=0).test.x[:400], None)
    save_grid(
        load_data("digits", seed=0).test.x[:36], place / "data-digits.png", columns=6, pixels=40
    )
