"""Draw docs/front.png, the picture of the README: chains on an energy, samples, a restoration.

python docs/front.py        some minutes of one core
"""

from pathlib import Path

import matplotlib
import torch
from torch import Tensor

import lowland
from lowland.tasks import Mask

matplotlib.use("Agg")
from matplotlib import pyplot

PLACE = Path(__file__).parent / "front.png"


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def chains() -> tuple[Tensor, Tensor, Tensor]:
    """Return an energy on a grid, paths of some chains and draws of many, of the README's sum."""
    ring = lowland.Function(lambda x: 8 * (x.norm(dim=1) - 2).square())
    right = lowland.Function(lambda x: 2 * (x[:, 0] - 2).square())
    both = ring + right
    line = torch.linspace(-3.2, 3.2, 240)
    grid = torch.stack(torch.meshgrid(line, line, indexing="xy"), -1).view(-1, 2)
    start = torch.tensor([[-2.6, 2.2], [-2.4, -2.5], [-0.4, 2.9], [-2.9, 0.2]])
    g = seeded(3)
    paths = [start]
    for _ in range(60):
        paths.append(lowland.sample(both, lowland.MALA(0.008), paths[-1], 1, generator=g).x)
    draws = lowland.sample(
        both, lowland.MALA(0.05), torch.randn(600, 2, generator=g), 300, generator=g
    )
    return both(grid).view(240, 240), torch.stack(paths), draws.x


def samples(name: str, count: int) -> Tensor:
    """Return draws of a shipped run from noise, as its recipe says."""
    return lowland.load(name).sample(count, generator=seeded(1)).x.clamp(0, 1)


def restoration(count: int) -> Tensor:
    """Return rows of truth, what was seen, mean, deviation and three draws, of test digits."""
    model, sigma = lowland.load("mnist"), 0.05
    truth = lowland.load_data("mnist").test.x[8 : 8 + count]
    upper = Mask(torch.arange(28).view(28, 1).expand(28, 28) < 14)
    y = upper.A(truth + sigma * torch.randn(truth.shape, generator=seeded(4)))
    found = model.restore(upper, y, sigma, generator=seeded(5), draws=19)
    doubt = found.std / found.std.amax((1, 2, 3), True)
    rows = [truth, y, found.mean, doubt, *found.draws[:3]]
    return torch.stack(rows, 1).flatten(0, 1).clamp(0, 1)


def tile(x: Tensor, columns: int, gap: int = 3) -> Tensor:
    """Return images (N, 1, H, W) side by side as one picture, ink on paper."""
    padded = torch.nn.functional.pad(1 - x, (gap, gap, gap, gap), value=1.0)
    rows = padded.view(-1, columns, *padded.shape[2:])
    return rows.permute(0, 2, 1, 3).reshape(-1, columns * padded.shape[-1])


def draw() -> None:
    """Write the picture."""
    digits, clothes = samples("mnist", 18), samples("fashion-mnist", 18)
    columns = ["truth", "seen", "mean", "doubt", "three draws of 19"]
    rows = restoration(6)
    energy, paths, points = chains()
    figure, (left, middle, right) = pyplot.subplots(
        1, 3, figsize=(12.4, 4.5), width_ratios=(1, 1, 7 / 6), layout="constrained"
    )
    left.contourf(
        torch.linspace(-3.2, 3.2, 240),
        torch.linspace(-3.2, 3.2, 240),
        energy.clamp(max=60).sqrt(),
        levels=18,
        cmap="Blues",
    )
    left.scatter(points[:, 0], points[:, 1], s=4, color="#d1495b", linewidths=0)
    for k in range(paths.shape[1]):
        left.plot(paths[:, k, 0], paths[:, k, 1], color="#edae49", lw=1.4)
        left.plot(*paths[0, k], "o", color="#edae49", ms=5)
    left.set(xlim=(-3.2, 3.2), ylim=(-3.2, 3.2), aspect="equal")
    left.set_title("chains run down an energy, with noise")
    middle.imshow(tile(torch.cat([digits, clothes]), 6), cmap="gray", vmin=0, vmax=1)
    middle.set_title("samples of two energies, from noise")
    picture = tile(rows, 7)
    right.imshow(picture, cmap="gray", vmin=0, vmax=1)
    right.set_title("upper half seen: what may the digit be?")
    for i, word in enumerate(columns):
        width = picture.shape[1] / 7
        right.text(
            width * (i + 0.5 + (i == 4)),
            picture.shape[0] + 6,
            word,
            ha="center",
            va="top",
            fontsize=9,
        )
    for ax in (left, middle, right):
        ax.set_xticks([])
        ax.set_yticks([])
        for side in ax.spines.values():
            side.set_visible(False)
    figure.savefig(PLACE, dpi=110)


if __name__ == "__main__":
    draw()
