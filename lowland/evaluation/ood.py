"""Comparison of outlier scores on near and far outliers, and on graded shifts of test points.

Nothing here is learned and no setting looks at an outlier: sets are made of the test points
themselves, or are other data. Every cell holds all rank metrics with bootstrap intervals.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.data import DataError, load_data
from lowland.metrics import separation
from lowland.registry import Plain
from lowland.tasks.detection import OUTLIER_SCORES
from lowland.trained import Model

Scorer = Callable[[Tensor], Tensor]
ANGLES = (0.0, 5.0, 10.0, 15.0, 20.0, 30.0, 45.0, 60.0, 90.0)
# standard deviation of noise, in units of the range of the data
STRENGTHS = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
OTHERS = ("digits", "mnist", "fashion-mnist", "cifar10-jpeg")


class OutlierSet(NamedTuple):
    """Outliers: a name, their kind ("near", "far", "held out"), and points x (M, *event)."""

    name: str
    kind: str
    x: Tensor


def outlier_sets(
    x: Tensor, generator: torch.Generator, others: Mapping[str, Tensor] | None = None
) -> list[OutlierSet]:
    """Make outlier sets of test points x (N, *event), and add others (M, *event) by name.

    Images: rotated by 90°, blurred (Gaussian of 1/14 of the height), interpolated (the mean of two
    images), inverted, pixels permuted (by one permutation), uniform noise, Gaussian noise (the mean
    and deviation of the data, in its range), constant (one grey level each). Vectors: stretched by
    1.5, interpolated, turned over in sign, coordinates permuted among points (each keeps its
    distribution), normal noise of twice the deviation, constant.
    """
    near = [
        *_near(x, generator),
        *(OutlierSet(name, "near", points) for name, points in (others or {}).items()),
    ]
    return [*near, *_far(x, generator)]


def _near(x: Tensor, g: torch.Generator) -> list[OutlierSet]:
    between = OutlierSet("interpolated", "near", (x + x[torch.randperm(len(x), generator=g)]) / 2)
    if x.dim() < 4:
        mixed = torch.stack(
            [column[torch.randperm(len(x), generator=g)] for column in x.flatten(1).unbind(1)], 1
        )
        shuffled = OutlierSet("coordinates shuffled", "near", mixed.view_as(x))
        return [
            OutlierSet("stretched 1.5×", "near", x.mean(0) + 1.5 * (x - x.mean(0))),
            between,
            shuffled,
        ]
    near = [OutlierSet("blurred", "near", blur(x, x.shape[2] / 14)), between]
    if x.shape[2] != x.shape[3]:
        return near
    return [OutlierSet("rotated 90°", "near", x.rot90(1, (2, 3))), *near]


def _far(x: Tensor, g: torch.Generator) -> list[OutlierSet]:
    low, high, size = float(x.min()), float(x.max()), x.shape
    noise = x.mean() + x.std() * torch.randn(size, generator=g, dtype=x.dtype)
    level = torch.rand(len(x), *[1] * (x.dim() - 1), generator=g, dtype=x.dtype)
    constant = OutlierSet("constant", "far", (low + (high - low) * level).expand(size).clone())
    if x.dim() < 4:
        loud = x.mean(0) + 2 * x.std(0) * torch.randn(size, generator=g, dtype=x.dtype)
        return [
            OutlierSet("turned over", "far", 2 * x.mean(0) - x),
            OutlierSet("normal noise ×2", "far", loud),
            constant,
        ]
    order = torch.randperm(x[0].numel(), generator=g)
    even = torch.rand(size, generator=g, dtype=x.dtype)
    return [
        OutlierSet("inverted", "far", low + high - x),
        OutlierSet("pixels permuted", "far", x.flatten(1)[:, order].view_as(x)),
        OutlierSet(
            "uniform noise",
            "far",
            low + (high - low) * even,
        ),
        OutlierSet("Gaussian noise", "far", noise.clamp(low, high)),
        constant,
    ]


def blur(x: Tensor, sigma: float) -> Tensor:
    """Blur images (N, C, H, W) by a Gaussian of standard deviation sigma pixels, edges repeated."""
    reach = max(math.ceil(3 * sigma), 1)
    line = torch.exp(-(torch.arange(-reach, reach + 1.0).square()) / (2 * sigma**2)).to(x)
    line, channels = line / line.sum(), x.shape[1]
    padded = F.pad(x, [reach] * 4, mode="replicate")
    rows = F.conv2d(padded, line.view(1, 1, 1, -1).expand(channels, 1, 1, -1), groups=channels)
    return F.conv2d(rows, line.view(1, 1, -1, 1).expand(channels, 1, -1, 1), groups=channels)


def rotate(x: Tensor, degrees: float) -> Tensor:
    """Rotate images (N, C, H, W) about their centre, bilinear, with their darkest value where
    nothing was.
    """
    a = math.radians(degrees)
    matrix = x.new_tensor(
        [[math.cos(a), -math.sin(a), 0.0], [math.sin(a), math.cos(a), 0.0]]
    ).expand(len(x), 2, 3)
    low = x.amin()
    moved = F.grid_sample(
        x - low, F.affine_grid(matrix, list(x.shape), align_corners=False), align_corners=False
    )
    return (moved + low).clamp(low, x.amax())


def make_shifts(x: Tensor, generator: torch.Generator) -> dict[str, list[tuple[float, Tensor]]]:
    """Make graded shifts of points x (N, *event): "rotation" by ANGLES in degrees (images), "noise"
    by STRENGTHS of the range.

    The same noise at every strength. It is cut off at the range of the data.
    """
    low, high = float(x.min()), float(x.max())
    noise = (high - low) * torch.randn(x.shape, generator=generator, dtype=x.dtype)
    graded = {"noise": [(s, (x + s * noise).clamp(low, high)) for s in STRENGTHS]}
    if x.dim() == 4:
        graded = {"rotation": [(a, rotate(x, a)) for a in ANGLES]} | graded
    return graded


def resize_images(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Resize images (N, C, H, W) to another shape (C', H', W') without aliasing, colours
    averaged.
    """
    if tuple(x.shape[2:]) != shape[1:]:
        x = F.interpolate(x, size=shape[1:], mode="bilinear", antialias=True).clamp(
            float(x.min()), float(x.max())
        )
    if x.shape[1] == shape[0]:
        return x
    return x.mean(1, keepdim=True).expand(-1, shape[0], -1, -1).contiguous()


def load_other_data(
    name: str, shape: tuple[int, ...], count: int, root: str | None = None
) -> tuple[dict[str, Tensor], list[str]]:
    """Load the test parts of other image sets that are at hand, in a shape, by name; and a note for
    each that is not.
    """
    found: dict[str, Tensor] = {}
    notes = []
    for other in OTHERS if len(shape) == 3 else ():
        if other.partition("-jpeg")[0] == name.partition("-jpeg")[0]:
            continue
        try:
            data = load_data(other, root=root, download=False)
        except DataError as error:
            notes.append(f"{other} was left out: {str(error).splitlines()[0]}")
            continue
        x = data.test.x[:count]
        label = other if tuple(x.shape[1:]) == shape else f"{other} (resized)"
        found[label] = resize_images(x, shape)
    return found, notes


def list_scores(model: Model) -> list[str]:
    """List the outlier scores that a run can give: of E(x), and of noise levels or classes where it
    has them.
    """
    kinds = {"energy"} | ({"noise"} if model.sigmas else set())
    if model.classes >= 2:
        kinds.add("classes")
    return [name for name, how in OUTLIER_SCORES.items() if how.reads in kinds]


def make_scorers(model: Model, names: Sequence[str] | None = None) -> dict[str, Scorer]:
    """Make a function from points to outlier scores for each score that the run can give, or for
    those named.

    Scores that learn take training points. A score that the network cannot give (no linear layer,
    say) is left out, unless it was asked for by name.
    """
    rows: dict[str, Scorer] = {}
    for name in names or list_scores(model):
        try:
            detector = model.detector(name, model.data.calibration.x[:200])
        except ValueError:
            if names is not None:
                raise
            continue
        rows[name] = detector.outlier_scores
    return rows


def measure_separations(
    rows: Mapping[str, Scorer],
    test: Tensor,
    sets: Sequence[OutlierSet],
    generator: torch.Generator,
    *,
    draws: int = 1000,
    progress: Callable[[str], object] | None = None,
) -> dict[str, Plain]:
    """Measure the `separation` of test points (N, *event) from every set by every scorer.

    Returns {scorer: {set: figures}}.
    """
    found: dict[str, Plain] = {}
    for name, scorer in rows.items():
        inside, found[name] = scorer(test), {}
        for one in sets:
            found[name][one.name] = separation(
                inside, scorer(one.x), generator=generator, draws=draws
            ).to_dict()
            if progress is not None:
                progress(f"{name}: {one.name}")
    return found


def measure_shift_curves(
    rows: Mapping[str, Scorer], test: Tensor, generator: torch.Generator, *, draws: int = 200
) -> Plain:
    """Measure the AUROC of one half of the test points against the other, shifted half.

    Returns {shift: {scorer: [(amount, AUROC interval)]}}. The halves differ, so that at no shift at
    all the AUROC is 0.5 but for chance, and not by pairing.
    """
    half = len(test) // 2
    inside = {name: scorer(test[:half]) for name, scorer in rows.items()}
    found: Plain = {}
    for shift, graded in make_shifts(test[half:], generator).items():
        found[shift] = {name: [] for name in rows}
        for amount, x in graded:
            for name, scorer in rows.items():
                apart = separation(inside[name], scorer(x), generator=generator, draws=draws)
                found[shift][name].append((amount, apart.auroc.to_dict()))
    return found


def table(found: Mapping[str, Mapping[str, Any]], metric: str = "auroc") -> list[str]:
    """Format figures as Markdown: a row for each set, a column for each score; 100 × the metric
    with its interval, and **lost** where the data lose.
    """
    rows = list(found)
    lines = ["| outliers | " + " | ".join(rows) + " |", "|---" * (len(rows) + 1) + "|"]
    for name in next(iter(found.values())):
        cells = []
        for row in rows:
            value = found[row][name][metric]
            lost = " **lost**" if metric == "auroc" and value["high"] < 0.5 else ""
            cells.append(
                f"{100 * value['value']:.1f} [{100 * value['low']:.1f}, "
                f"{100 * value['high']:.1f}]{lost}"
            )
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def list_losses(found: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """List in sentences where a score ranks the data above outliers: the whole interval of its
    AUROC lies below 0.5.
    """
    sentences = []
    for row, cells in found.items():
        lost = [
            f"{name} ({100 * c['auroc']['value']:.0f})"
            for name, c in cells.items()
            if c["auroc"]["high"] < 0.5
        ]
        if lost:
            sentences.append(f"{row} loses against {', '.join(lost)}")
    return sentences


def compare_scores(
    model: Model,
    *,
    count: int = 1000,
    names: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
    progress: Callable[[str], object] | None = None,
) -> Plain:
    """Compare outlier scores of a run on `count` test points against sets that are not its data.

    names: of the scores; all that the run can give unless given. Returns {"found": {score: {set:
    figures}}, "count", "notes", "table": lines of Markdown, "losses": sentences}.
    """
    generator = torch.Generator().manual_seed(seed)
    others, notes = load_other_data(model.data.name, model.shape, count)
    test = model.data.test.x[:count]
    sets = outlier_sets(test, generator, others)
    found = measure_separations(
        make_scorers(model, names), test, sets, generator, draws=draws, progress=progress
    )
    return {
        "found": found,
        "count": len(test),
        "notes": notes,
        "table": table(found),
        "losses": list_losses(found),
    }
