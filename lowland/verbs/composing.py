"""compose · edit · interpolate · predict: trained runs as terms of an expression, and pictures as
where it starts.
"""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm.auto import tqdm

from lowland.data import DataError, load_image, save_grid
from lowland.energy import Energy, Sum, check_normalisable
from lowland.registry import build
from lowland.samplers import Sampler, karras_sigmas
from lowland.tasks import (
    DenoisedGuidance,
    LabelGuidance,
    anneal_composed,
    conditional_sample,
    edit,
    interpolate,
    jump,
    sample_composed,
)
from lowland.trained import Model, load
from lowland.training import cpu_threads
from lowland.verbs.restoring import check_writable

FORMS = (".npy", ".npz", ".png")


def compose_runs(
    runs: Sequence[str | Path],
    *,
    weights: Sequence[float] = (),
    labels: Sequence[int | None] = (),
    count: int = 64,
    steps: int = 400,
    levels: int = 18,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    sampler: Mapping[str, Any] | None = None,
    seed: int = 0,
    out: str | Path = "composed.png",
    progress: bool = True,
) -> Path:
    """Draw from Σ w_k E_k of runs on one domain into a .npy, .npz or .png file, with an accept step
    unless a sampler is named.

    labels: for each run, a class or None; a run with classes and a label counts as E(x, y), and,
    where some run is one of noise and this one is not, as −log p(y | x) asked of the expected clean
    picture. steps: of chains, or in all down the levels.

    Raises ValueError for lists of different lengths, labels out of range, domains or units that
    differ, and what has no normaliser.
    """
    weights, labels = list(weights) or [1.0] * len(runs), list(labels) or [None] * len(runs)
    _check_lists(runs, weights, labels, count, out)
    subjects = [load(run) for run in runs]
    Sum([s.energy for s in subjects])  # refuses different domains
    _check_units(subjects)
    _check_labels(subjects, labels)
    place(out, subjects[0].shape)
    noisy = [s for s in subjects if s.sigmas]
    first, g = subjects[0], torch.Generator().manual_seed(seed)
    chosen: Sampler | None = build("sampler", sampler) if sampler else None
    with (
        cpu_threads(first.recipe["training"]["threads"]),
        tqdm(total=None, unit="step", disable=not progress) as bar,
    ):
        if noisy:
            terms = [
                _term_of_noise(s, y, noisy[0].energy) for s, y in zip(subjects, labels, strict=True)
            ]
            own = noisy[0].sigmas or [1.0, 0.01]
            high, low = (
                max(own) if sigma_max is None else sigma_max,
                min(own) if sigma_min is None else sigma_min,
            )
            whole: Energy = Sum(terms, weights)
            begin = _begun(noisy[0].energy, count, high, g)
            sigmas = karras_sigmas(high, low, levels)
            x = anneal_composed(
                whole, sigmas, begin, steps, generator=g, sampler=chosen, progress=bar.update
            ).x
        else:
            terms = [
                s.marginal if y is None else s.energy.given(y)
                for s, y in zip(subjects, labels, strict=True)
            ]
            whole = Sum(terms, weights)
            check_normalisable(whole)
            start = whole.domain.draw(count, g)
            x = sample_composed(
                whole, start, steps, generator=g, sampler=chosen, progress=bar.update
            ).x
            share = sum(
                w for w in weights if w > 0
            )  # the mean of what the terms expect, where they were trained on noisy data
            x = jump(whole / share, x, first.recipe["generation"]["denoise_sigma"]) if share else x
    return _written(Path(out), first.inverse_transform(x))


def edit_image(
    run: str | Path,
    image: str | Path,
    *,
    label: int,
    classifier: str | Path | None = None,
    weight: float = 1.0,
    pull: float | None = None,
    noise: float = 0.7,
    steps: int = 300,
    draws: int = 4,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Move pictures towards a class: a strip of the picture and its draws, rows if the file holds
    several; numbers beside it.

    classifier: a run with classes, the run itself unless given; noise: for a run of noise, the
    level to which the picture is buried: higher keeps less of it; pull: how far an edit may go, as
    `tasks.edit` takes it.
    """
    s = load(run)
    judge = s if classifier is None else load(classifier)
    _check_labels([judge], [label])
    target = place(_beside(image, out, "edited"), s.shape, [image])
    x, g = _pictures(s, image), torch.Generator().manual_seed(seed)
    attribute: Energy = LabelGuidance(judge.energy, label)
    sigmas: Sequence[float] = ()
    if s.sigmas:
        if not min(s.sigmas) < noise <= max(s.sigmas):
            raise ValueError(
                f"noise is {noise}; the levels of the run go from {max(s.sigmas):g} down to "
                f"{min(s.sigmas):g}, and it lies above the last; 0.7 keeps the outline of digits"
            )
        attribute, sigmas = (
            DenoisedGuidance(attribute, s.energy),
            karras_sigmas(noise, min(s.sigmas), 12),
        )
    energy = s.energy if s.sigmas else s.marginal
    with (
        cpu_threads(s.recipe["training"]["threads"]),
        tqdm(total=None, unit="step", disable=not progress) as bar,
    ):
        found = edit(
            energy,
            x,
            attribute,
            weight=weight,
            proximal_sigma=pull,
            sigmas=sigmas,
            generator=g,
            steps=steps,
            draws=draws,
            progress=bar.update,
        )
    return _strip(
        target, [x, *found.draws], {"attribute": found.attribute, "before": found.before}, s
    )


def interpolate_images(
    run: str | Path,
    a: str | Path,
    b: str | Path,
    *,
    points: int = 9,
    noise: float = 0.3,
    steps: int = 300,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """A strip of pictures from one file to another along a path of low energy; below it, the
    straight line. Numbers beside it.

    noise: the level at which an energy of noise is looked at: smooth enough to have paths.
    """
    s = load(run)
    target = place(_beside(a, out, "path"), s.shape, [a, b])
    if s.sigmas and not 0 < noise <= max(s.sigmas):
        raise ValueError(
            f"noise is {noise}; it is a level above 0 and up to the run's first, "
            f"{max(s.sigmas):g}; 0.3 is usual"
        )
    ends = [_pictures(s, path)[:1] for path in (a, b)]
    energy = s.energy.given(noise) if s.sigmas else s.marginal
    with (
        cpu_threads(s.recipe["training"]["threads"]),
        tqdm(total=steps, unit="step", disable=not progress) as bar,
    ):
        found = interpolate(energy, ends[0], ends[1], points, steps=steps, progress=bar.update)
    t = torch.linspace(0, 1, points).view(-1, 1, 1, 1, 1)
    straight = ends[0] + t * (ends[1] - ends[0])
    rows = torch.cat([found.points.flatten(0, 1), straight.flatten(0, 1)])
    arrays = {
        "energies": found.energies[:, 0],
        "straight": found.straight[:, 0],
        "barrier": found.barrier,
    }
    return _written(target, s.inverse_transform(rows), points, arrays)


def predict_image(
    run: str | Path,
    image: str | Path,
    *,
    known: Sequence[int] = (),
    draws: int = 8,
    levels: int | None = None,
    steps: int = 500,
    seed: int = 0,
    out: str | Path | None = None,
    progress: bool = True,
) -> Path:
    """Draw the channels of pictures that are not known: a strip of mean, spread and draws of each,
    and numbers beside it.

    known: channels of the question; unless given those that the run was trained to be asked
    (`question` of its energy). An array may hold the question's channels alone, in the order of
    known. levels: of noise on the way down; 20 for a run that was trained to be asked, which needs
    no more, else 60, unless given.
    """
    s = load(run)
    own = list(getattr(s.energy, "question", ()))
    known, levels = list(known) or own, levels or (20 if own else 60)
    channels = s.shape[0] if len(s.shape) == 3 else 0
    if not known or not all(0 <= k < channels for k in known) or len(set(known)) >= channels:
        raise ValueError(
            f"the known channels are {list(known)}; the run has channels 0 to {channels - 1}, some "
            "known and some not; name those that the picture tells, for example --known 0,1"
        )
    target = place(_beside(image, out, "answer"), s.shape, [image])
    mask = torch.zeros(channels, 1, 1, dtype=torch.bool)
    mask[list(known)] = True
    x, g = _questions(s, image, known), torch.Generator().manual_seed(seed)
    sigmas = karras_sigmas(max(s.sigmas), min(s.sigmas), levels) if s.sigmas else ()
    energy = s.energy if s.sigmas else s.marginal
    with (
        cpu_threads(s.recipe["training"]["threads"]),
        tqdm(total=None, unit="step", disable=not progress) as bar,
    ):
        method: Any = "denoise" if sigmas else "sample"
        found = conditional_sample(
            energy,
            x,
            mask,
            generator=g,
            method=method,
            sigmas=sigmas,
            draws=draws,
            steps=steps,
            progress=bar.update,
        )
    asked = [k for k in range(channels) if k not in set(known)]
    shown = [part[:, asked[:1]] for part in (found.mean, found.std, *found.draws[:6])]
    arrays = {"mean": found.mean, "spread": found.std, "draws": found.draws}
    return _strip(target, shown, arrays, s)


# ------------------------------------------------------------------------------------------- pieces


def _term_of_noise(s: Model, label: int | None, prior: Any) -> Energy:
    """A run as a term of a path of noise levels."""
    if s.sigmas:
        return s.energy
    if label is None:
        raise ValueError(
            f"{s.recipe['name']} knows no noise level and is composed with a run that does; beside "
            "noise it can only say how likely a label is; give it a label, or leave out the run of "
            "noise"
        )
    return DenoisedGuidance(LabelGuidance(s.energy, label), prior)


def _begun(energy: Any, count: int, sigma: float, g: torch.Generator) -> Tensor:
    own = getattr(energy, "start", None)
    return (
        own(count, sigma, g)
        if own is not None
        else sigma * torch.randn(count, *energy.domain.shape, generator=g)
    )


def _check_lists(
    runs: Sequence[Any],
    weights: Sequence[float],
    labels: Sequence[int | None],
    count: int,
    out: str | Path,
) -> None:
    even = len(runs) == len(weights) == len(labels) and all(map(math.isfinite, weights))
    if not runs or not even or count < 1 or Path(out).suffix not in FORMS:
        raise ValueError(
            f"{len(runs)} runs came with {len(weights)} weights ({', '.join(map(str, weights))}), "
            f"{len(labels)} labels, count {count} and the file {Path(out).name}; one finite weight "
            "and one label for each run, at least 1 draw, and a file that ends in "
            f"{', '.join(FORMS)} are needed; correct them"
        )


def _check_units(subjects: Sequence[Model]) -> None:
    """Runs whose numbers were standardized otherwise would see other points behind the same x."""
    first, *others = [
        {key: s.run.read_json("data.json").get(key) for key in ("mean", "scale")} for s in subjects
    ]
    for s, one in zip(subjects[1:], others, strict=True):
        if one != first:
            raise ValueError(
                f"{s.recipe['name']} and {subjects[0].recipe['name']} were trained on numbers that "
                "were standardized differently; one x must mean the same to all; train them with "
                "one mean and scale, or with standardize = false"
            )


def _check_labels(subjects: Sequence[Model], labels: Sequence[int | None]) -> None:
    for s, label in zip(subjects, labels, strict=True):
        if label is not None and not 0 <= label < s.classes:
            allowed = f"0 to {s.classes - 1}" if s.classes else "none"
            raise ValueError(
                f"label {label} was asked of {s.recipe['name']}; its classes are {allowed}; choose "
                "another"
            )


def _pictures(s: Model, path: str | Path) -> Tensor:
    return s.transform(load_image(path, s.shape))


def _questions(s: Model, path: str | Path, known: Sequence[int]) -> Tensor:
    """Pictures with all channels, or with those of the question alone, beside which nothing is
    known.
    """
    try:
        return _pictures(s, path)
    except DataError as error:
        try:
            part = load_image(path, (len(known), *s.shape[1:]))
        except DataError:
            raise error from None
    whole = torch.zeros(len(part), *s.shape)
    whole[:, list(known)] = part
    return s.transform(whole)


def _beside(image: str | Path, out: str | Path | None, ending: str) -> Path:
    return Path(out) if out else Path(image).with_name(f"{Path(image).stem}-{ending}.png")


def place(out: str | Path, shape: Sequence[int], read: Sequence[str | Path] = ()) -> Path:
    """A file to write, refused at the door: a suffix that does not fit, a folder, what is read,
    what cannot be written.
    """
    target = Path(out)
    if target.suffix not in FORMS or (target.suffix == ".png" and len(shape) != 3):
        raise ValueError(
            f"{target.name} was to hold draws of shape {tuple(shape)}; images are written as .png, "
            ".npy or .npz and vectors as .npy or .npz; choose another name"
        )
    made = {target.resolve(), target.with_suffix(".npz").resolve()}
    if target.is_dir() or made & {Path(path).resolve() for path in read}:
        raise ValueError(
            f"{target} is a folder, or it or {target.with_suffix('.npz').name} beside it is the "
            "file that is read; results are written to new files; choose another name"
        )
    check_writable(target)
    return target


def _strip(target: Path, columns: Sequence[Tensor], arrays: Mapping[str, Tensor], s: Model) -> Path:
    """A row for each picture, a column for each of its versions."""
    return _written(
        target,
        s.inverse_transform(torch.stack(list(columns), 1).flatten(0, 1)),
        len(columns),
        arrays,
    )


def _written(
    target: Path, x: Tensor, columns: int | None = None, arrays: Mapping[str, Tensor] | None = None
) -> Path:
    """Draws as numbers or as a grid, by the suffix; a grid of a strip has its numbers beside it."""
    import numpy as np

    place(target, x.shape[1:])
    target.parent.mkdir(parents=True, exist_ok=True)
    numbers = {"x": x.numpy()} | {name: value.numpy() for name, value in (arrays or {}).items()}
    if target.suffix == ".png":
        save_grid(x, target, columns)
    if target.suffix == ".npy":
        np.save(target, x.numpy())
    elif target.suffix == ".npz" or arrays:
        np.savez(target.with_suffix(".npz"), **numbers)  # type: ignore[arg-type]
    return target
