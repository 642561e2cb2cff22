"""Command restore."""

from pathlib import Path
from typing import Literal

from lowland.devices import AUTO


def restore(
    run: str | Path,
    image: str | Path,
    /,
    *,
    task: Literal[
        "denoise", "inpaint", "super-resolve", "subsample", "deblur", "compressed", "fourier"
    ] = "denoise",
    mask: str = "lower",
    factor: int = 4,
    sigma: float | None = None,
    draws: int | None = None,
    method: Literal["sample", "map"] = "sample",
    simulate: bool = False,
    seed: int = 0,
    out: str | Path | None = None,
    resize: bool = False,
    skip_bad: bool = False,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Path:
    """Restore an image that was measured badly; write a picture (observed, mean, standard
    deviation, draws) and its numbers.

    A row for each image shows the truth if it is known, the measurement (laid out as an image by
    the transpose of the operator), mean, standard deviation from black (sure) to white, and three
    draws. The numbers of all images lie beside it as .npz.

    Args:
        run: Run directory, or the name of a shipped run.
        image: PNG, JPEG or .npy: the measurement, or with --simulate clean images; a folder or an
            array of several too.
        task: What was done to the image: noise, parts hidden, means of blocks, pixels left out, a
            blur, random combinations, some frequencies.
        mask: What to fill in: lower, upper, left, right, centre, or a picture whose white pixels
            are to be filled.
        factor: How much was lost: sides of blocks, pixels for each number kept, twice the width of
            the blur.
        sigma: Noise of the measurement, in units of the data; the recipe's unless given; 0 holds
            known pixels exactly (inpaint).
        draws: Posterior draws; the recipe's unless given.
        method: Draws of the posterior, or the most likely image alone.
        simulate: Measure the image first, with noise: it is clean, and the picture shows it beside.
        seed: Seed of the draws.
        out: Picture to write; outputs/IMAGE-TASK.png, counted on, unless given.
        resize: Resize pictures of another size than the measurement's, which are refused otherwise.
        skip_bad: Leave out files that cannot be read, and list them; at most half of all.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    from torch import Generator
    from tqdm.auto import tqdm

    from lowland.trained import load
    from lowland.trained.files import check_target
    from lowland.trained.measurement import (
        hidden_mask,
        operator_of,
        read_measurement,
        write_restoration,
    )
    from lowland.trained.restoration import count_steps, restoration_settings
    from lowland.trained.targets import name_output

    model, target = load(run, device=device), name_output(image, out, task)
    settings = restoration_settings(model, draws=draws)
    known = ~hidden_mask(mask, model.shape, resize=resize) if task == "inpaint" else None
    operator = operator_of(task, model.shape, factor=factor, known=known)
    noise = settings["sigma"] if sigma is None else sigma
    check_target(target, model.shape, [image, mask, model.run.path], force=force, beside=True)
    generator = Generator().manual_seed(seed)
    truth, y = read_measurement(
        image,
        model.shape,
        operator,
        noise,
        simulate,
        generator,
        resize=resize,
        skip_bad=skip_bad,
    )
    total = count_steps(settings, len(y))
    place, hidden = str(model.device), quiet or method == "map"
    with tqdm(total=total, desc=place, unit="step", disable=hidden) as bar:
        answer = model.restore(
            operator,
            y,
            noise,
            generator=generator,
            draws=draws,
            method=method,
            progress=bar.update,
        )
        bar.update(total - bar.n)  # where everything was seen, one pass does for all
    return write_restoration(target, operator, y, answer, truth)
