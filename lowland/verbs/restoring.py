"""restore: images that were measured badly, with a run as prior."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lowland.data import load_batch, load_image, save_grid
from lowland.tasks import Operator, Restoration
from lowland.trained import Model, load
from lowland.trained.restoration import count_steps, operator_of, restoration_settings

HIDDEN = ("lower", "upper", "left", "right", "centre")
SHOWN = 16  # images of a folder in the picture; the numbers hold all


def restore(
    run: str | Path,
    image: str | Path,
    *,
    task: str,
    mask: str = "lower",
    factor: int = 4,
    sigma: float | None = None,
    draws: int | None = None,
    method: str = "sample",
    simulate: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Restore an image, or all of a folder or array, with a run as prior; writes a .png, a row
    each, and .npz beside it.

    image: the measurement; with simulate, clean images, which are measured and given noise first,
    so that the truth is known. What a task measures, `lowland.trained.restoration.MEASUREMENTS`
    says; measurements that are no images come as .npy. mask: what to fill in, one of lower, upper,
    left, right, centre, or a picture whose white pixels are to be filled; sigma: noise of the
    measurement, in units of the data, the recipe's unless given; method: "sample" draws from the
    posterior, "map" finds the most likely image. A row shows the truth if it is known, what was
    observed (laid out as an image by the transpose of the operator), mean, spread from black (sure)
    to white, and three draws.
    """
    s = load(run)
    how = restoration_settings(s)
    operator = operator_of(
        task, s.shape, factor=factor, known=~_hidden(mask, s) if task == "inpaint" else None
    )
    noise = how["sigma"] if sigma is None else sigma
    source = Path(image)
    target = Path(out) if out else source.with_name(f"{source.stem}-{task}.png")
    check_writable(target)
    generator = torch.Generator().manual_seed(seed)
    truth, y = _measured(s, image, operator, noise, simulate, generator)
    with tqdm(
        total=count_steps(s, len(y), draws),
        unit="step",
        disable=not progress or method == "map",
    ) as bar:
        more: dict[str, Any] = {
            "generator": generator,
            "draws": draws,
            "method": method,
            "progress": bar.update,
        }
        answer = s.restore(operator, y, noise, **more)
        bar.update((bar.total or 0) - bar.n)  # where everything was seen, one pass does for all
    return _write_restoration(target, operator, y, answer, truth)


def check_writable(target: Path) -> None:
    """Refuse a file that cannot be written, before anything is computed; its folder is made."""
    aside = target.with_name(f".{target.name}.tmp")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        aside.touch()
        aside.unlink()
    except OSError as error:
        raise ValueError(
            f"{target} could not be written ({error.strerror}); a folder that may be written to, "
            "and room in it, are needed; choose another with --out"
        ) from None


def _measured(
    s: Model,
    image: str | Path,
    operator: Operator,
    sigma: float,
    simulate: bool,
    generator: torch.Generator,
) -> tuple[Tensor | None, Tensor]:
    """The truth, if it is known, and the measurements (B, *measured)."""
    blank = operator.A(torch.ones(1, *s.shape))
    if not simulate:
        seen = load_batch([image], tuple(blank.shape[1:]))[1]
        return None, operator.A(seen) if blank.shape[1:] == s.shape and bool(
            (blank == 0).any()
        ) else seen
    truth = load_batch([image], s.shape)[1]
    y = operator.A(truth)
    kept = (
        operator.A(operator.A_T(torch.randn(y.shape, generator=generator))).abs() > 1e-6
    )  # where a measurement is made at all
    return truth, y + max(sigma, 0.0) * kept * torch.randn(y.shape, generator=generator)


def _hidden(mask: str, s: Model) -> Tensor:
    """True where to fill in."""
    shape = s.shape
    if mask in HIDDEN:
        hidden = torch.zeros(shape, dtype=torch.bool)
        _, h, w = shape
        rows = {
            "lower": slice(h // 2, h),
            "upper": slice(0, h // 2),
            "centre": slice(h // 4, h - h // 4),
        }
        columns = {
            "left": slice(0, w // 2),
            "right": slice(w // 2, w),
            "centre": slice(w // 4, w - w // 4),
        }
        hidden[:, rows.get(mask, slice(None)), columns.get(mask, slice(None))] = True
        return hidden
    if not Path(mask).is_file():
        raise ValueError(
            f"the mask is {mask!r}; it must be {', '.join(HIDDEN)} or a picture; white pixels are "
            "filled in"
        )
    hidden = load_image(mask, (1, *shape[1:]))[0] > 0.5
    if bool(hidden.all()) or not bool(hidden.any()):
        raise ValueError(
            f"{mask} hides all or nothing; a mask needs white and black pixels; white is filled in"
        )
    return hidden.expand(shape)


def _write_restoration(
    target: Path, operator: Operator, y: Tensor, answer: Restoration, truth: Tensor | None
) -> Path:
    import numpy as np

    back = y if y.shape == answer.mean.shape else operator.A_T(y)
    back = (
        back
        if y.shape == answer.mean.shape
        else back / back.flatten(1).amax(1).clamp_min(1e-12).view(-1, 1, 1, 1)
    )
    rows = [
        back,
        answer.mean,
        answer.std / answer.std.amax().clamp_min(1e-12),
        *answer.draws[:3],
    ]
    rows = [back, answer.mean] if len(answer.draws) == 1 else rows
    rows = rows if truth is None else [truth, *rows]
    save_grid(
        torch.stack(rows, 1)[:SHOWN].flatten(0, 1), target.with_suffix(".png"), columns=len(rows)
    )
    arrays = {"observed": y, "mean": answer.mean, "spread": answer.std, "draws": answer.draws}
    arrays |= {} if truth is None else {"truth": truth}
    np.savez(target.with_suffix(".npz"), **{name: x.numpy() for name, x in arrays.items()})  # type: ignore[arg-type]
    return target.with_suffix(".png")
