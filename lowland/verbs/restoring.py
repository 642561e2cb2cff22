"""restore: an image that was measured badly, with a run as prior."""

from pathlib import Path

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lowland.data import load_image, save_grid
from lowland.evaluation import Subject, prior_bank, restoration_settings, subject
from lowland.registry import build
from lowland.run import Run
from lowland.tasks import Identity, Mask, Restoration
from lowland.tasks import restore as restore_task

HIDDEN = ("lower", "upper", "left", "right", "centre")


def restore(
    run: str | Path,
    image: str | Path,
    *,
    task: str,
    mask: str = "lower",
    sigma: float | None = None,
    draws: int | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Denoise or inpaint an image with a run as prior; writes a .png strip: observed, mean, spread, three draws.

    mask: what to fill in, one of lower, upper, left, right, centre, or a picture whose white pixels are to be filled;
    sigma: noise of the image, in units of the data; the numbers go beside the picture as .npz.
    """
    s = subject(Run.open(run))
    how = s.recipe.get("restoration")
    if how is None or len(s.shape) != 3:
        raise ValueError(f"{s.recipe['name']} says nothing about restoration; its recipe needs a [restoration] part; add it")
    seen = load_image(image, s.shape)
    known = torch.ones(s.shape, dtype=torch.bool)
    if task == "inpaint":
        known = ~_hidden(mask, s)
        seen = seen * known
    elif task != "denoise":
        raise ValueError(f"the task is {task!r}; lowland restores by 'denoise' or 'inpaint'; choose one")
    generator = torch.Generator().manual_seed(seed)
    settings = restoration_settings(how) | ({} if draws is None else {"draws": draws}) | {"bank": prior_bank(s)}
    with tqdm(total=how["steps"], unit="step", disable=not progress) as bar:
        answer = restore_task(
            s.marginal,
            Mask(known) if task == "inpaint" else Identity(),
            seen,
            sigma if sigma is not None else how["sigma"],
            build("sampler", how["sampler"]),
            generator=generator,
            progress=bar.update,
            **settings,
        )
    target = Path(out) if out else Path(image).with_name(f"{Path(image).stem}-{task}.png")
    return _write_restoration(target, seen, answer)


def _hidden(mask: str, s: Subject) -> Tensor:
    """True where to fill in."""
    shape = s.shape
    if mask in HIDDEN:
        hidden = torch.zeros(shape, dtype=torch.bool)
        _, h, w = shape
        rows = {"lower": slice(h // 2, h), "upper": slice(0, h // 2), "centre": slice(h // 4, h - h // 4)}
        columns = {"left": slice(0, w // 2), "right": slice(w // 2, w), "centre": slice(w // 4, w - w // 4)}
        hidden[:, rows.get(mask, slice(None)), columns.get(mask, slice(None))] = True
        return hidden
    if not Path(mask).is_file():
        raise ValueError(f"the mask is {mask!r}; it must be {', '.join(HIDDEN)} or a picture; white pixels are filled in")
    hidden = load_image(mask, (1, *shape[1:]))[0] > 0.5
    if bool(hidden.all()) or not bool(hidden.any()):
        raise ValueError(f"{mask} hides all or nothing; a mask needs white and black pixels; white is filled in")
    return hidden.expand(shape)


def _write_restoration(target: Path, seen: Tensor, answer: Restoration) -> Path:
    import numpy as np

    target.parent.mkdir(parents=True, exist_ok=True)
    rows = [seen, answer.mean, answer.spread / answer.spread.amax().clamp_min(1e-12), *answer.draws[:3]]
    save_grid(torch.stack(rows, 1).flatten(0, 1), target.with_suffix(".png"), columns=len(rows))
    arrays = {"observed": seen, "mean": answer.mean, "spread": answer.spread, "draws": answer.draws}
    np.savez(target.with_suffix(".npz"), **{name: x.numpy() for name, x in arrays.items()})  # type: ignore[arg-type]
    return target.with_suffix(".png")
