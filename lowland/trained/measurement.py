"""Measurements of images, read from files, and restorations, written to them."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from lowland.data import load_batch, load_image, save_grid
from lowland.data.folders import is_file
from lowland.scalars import read_integer
from lowland.tasks import (
    BlockAverage,
    Blur,
    Fourier,
    Identity,
    Mask,
    Operator,
    Projection,
    Restoration,
    Stride,
)
from lowland.trained.files import write_arrays
from lowland.trained.targets import describe_refusal, make_folder

MAX_PICTURE_ROWS = 16  # images of a folder in the picture; the numbers hold all
REGIONS = ("lower", "upper", "left", "right", "centre")

MEASUREMENTS: dict[str, str] = {
    "denoise": "everything, with noise",
    "inpaint": "what the mask leaves",
    "super-resolve": "means of blocks, FACTOR pixels wide",
    "subsample": "every FACTOR-th pixel of every FACTOR-th row",
    "deblur": "the image smeared by a Gaussian FACTOR / 2 pixels wide",
    "compressed": "one random combination of pixels for every FACTOR pixels",
    "fourier": "one frequency of FACTOR: the low ones, and others at random",
}


def operator_of(
    task: str, shape: tuple[int, ...], *, factor: int = 4, known: Tensor | None = None
) -> Operator:
    """Make the measurement operator of a task on images of a shape (C, H, W); see `MEASUREMENTS`.

    known: for "inpaint", a bool mask of the image's shape, True where pixels were seen. Random
    choices are fixed. Raises ValueError for an unknown task, images that factor does not divide,
    and a mask that is missing or does not fit.
    """
    if task not in MEASUREMENTS:
        first, second, *others = map(repr, MEASUREMENTS)
        names = f"{first} or {second}, or from fewer numbers by {', '.join(others)}"
        raise ValueError(f"the task is {task!r}; lowland restores by {names}; choose one")
    factor = read_integer("the factor", factor, least=1)
    operator = _make_operator(task, shape, factor, known)
    operator.A(torch.zeros(1, *shape))  # refuses a shape that does not fit
    return operator


def _make_operator(
    task: str, shape: tuple[int, ...], factor: int, known: Tensor | None
) -> Operator:
    if task == "inpaint":
        if known is None:
            raise ValueError(
                "no mask came with 'inpaint'; it says what was seen; pass known, a bool of the "
                "image's shape"
            )
        return Mask(known)
    if task == "super-resolve":
        return BlockAverage(factor)
    if task == "subsample":
        return Stride(factor)
    if task == "deblur":
        return Blur(factor / 2)
    if task == "compressed":
        return Projection(shape, max(torch.Size(shape).numel() // factor, 1), seed=0)
    if task == "fourier":
        return Fourier(_choose_frequencies(shape[1], shape[2], factor))
    return Identity()


def _choose_frequencies(height: int, width: int, factor: int) -> Tensor:
    """Choose one frequency in `factor`, half of them the lowest, the others at random with a fixed
    seed. Returns a bool (height, width).
    """
    low = torch.fft.fftfreq(height).square().view(-1, 1) + torch.fft.fftfreq(width).square()
    order, count = low.flatten().argsort(stable=True), max(height * width // factor, 1)
    first, rest = order[: -(-count // 2)], order[-(-count // 2) :]
    g = torch.Generator().manual_seed(0)
    others = rest[torch.randperm(len(rest), generator=g)[: count // 2]]
    chosen = torch.zeros(height * width, dtype=torch.bool)
    chosen[torch.cat([first, others])] = True
    return chosen.view(height, width)


def hidden_mask(mask: str, shape: tuple[int, ...], *, resize: bool = False) -> Tensor:
    """Return a bool of an image's shape (C, H, W), True where to fill in.

    mask: a name of REGIONS, or a picture whose white pixels are to be filled; resize: whether one
    of another size is resized, or refused.
    """
    if mask in REGIONS:
        hidden = torch.zeros(shape, dtype=torch.bool)
        _, h, w = shape
        rows = {"lower": (h // 2, h), "upper": (0, h // 2), "centre": (h // 4, h - h // 4)}
        columns = {"left": (0, w // 2), "right": (w // 2, w), "centre": (w // 4, w - w // 4)}
        hidden[:, slice(*rows.get(mask, (0, h))), slice(*columns.get(mask, (0, w)))] = True
        return hidden
    if not is_file(Path(mask)):
        raise ValueError(
            f"the mask is {mask!r}; it must be {', '.join(REGIONS)} or a picture; white pixels are "
            "filled in"
        )
    hidden = load_image(mask, (1, *shape[1:]), resize=resize)[0] > 0.5
    if bool(hidden.all()) or not bool(hidden.any()):
        raise ValueError(
            f"{mask} hides all or nothing; a mask needs white and black pixels; white is filled in"
        )
    return hidden.expand(shape)


def read_measurement(
    image: str | Path,
    shape: tuple[int, ...],
    operator: Operator,
    sigma: float,
    simulate: bool,
    generator: torch.Generator,
    *,
    resize: bool = False,
    skip_bad: bool = False,
) -> tuple[Tensor | None, Tensor]:
    """Read measurements y (B, *measured) of images of a shape; returns (None, y).

    simulate: the file holds clean images x; returns (x, A x with noise where something was seen);
    resize: pictures of another size are resized; skip_bad: files that cannot be read are left out.
    """
    blank = operator.A(torch.ones(1, *shape, dtype=torch.float32))
    if not simulate:
        seen = load_batch([image], tuple(blank.shape[1:]), resize=resize, skip_bad=skip_bad)[1]
        masks = blank.shape[1:] == shape and bool((blank == 0).any())
        return None, operator.A(seen) if masks else seen
    truth = load_batch([image], shape, resize=resize, skip_bad=skip_bad)[1]
    y = operator.A(truth)
    probe = torch.randn(y.shape, generator=generator, dtype=y.dtype)
    kept = operator.A(operator.A_T(probe)).abs() > 1e-6  # where a measurement is made at all
    return truth, y + max(sigma, 0.0) * kept * torch.randn(
        y.shape, generator=generator, dtype=y.dtype
    )


def write_restoration(
    target: Path, operator: Operator, y: Tensor, answer: Restoration, truth: Tensor | None
) -> Path:
    """Write a restoration as a picture, a row for each image, and its numbers beside it as .npz."""
    y = y.cpu()
    answer = answer.to("cpu")
    std = answer.std / answer.std.amax().clamp_min(1e-12)
    columns = [_as_image(operator, y, answer.mean), answer.mean]
    if len(answer.draws) > 1:
        columns += [std, *answer.draws[:3]]
    arrays = {"observed": y, "mean": answer.mean, "std": answer.std, "draws": answer.draws}
    if truth is not None:
        columns = [truth, *columns]
        arrays["truth"] = truth
    picture = torch.stack(columns, 1)[:MAX_PICTURE_ROWS].flatten(0, 1)
    make_folder(target)
    try:
        save_grid(picture, target.with_suffix(".png"), columns=len(columns))
        write_arrays(target.with_suffix(".npz"), arrays)
    except OSError as error:
        raise describe_refusal(target, error) from None
    return target.with_suffix(".png")


def _as_image(operator: Operator, y: Tensor, like: Tensor) -> Tensor:
    """Return measurements as images: as they are, or transposed back and scaled to at most 1."""
    if y.shape == like.shape:
        return y
    back = operator.A_T(y)
    return back / back.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
