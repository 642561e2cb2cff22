"""Commands compose, edit, interpolate and predict.

The first three take a .toml file in place of runs: the words of the command, kept, so that it can
be done again. Options change what the file says.
"""

from collections.abc import Mapping
from pathlib import Path

from lowland.devices import AUTO
from lowland.registry import Plain


def compose(
    runs: list[str | Path],
    /,
    *,
    weights: tuple[float, ...] = (),
    labels: tuple[str | int, ...] = (),
    count: int | None = None,
    steps: int | None = None,
    num_levels: int | None = None,
    sigma_max: float | None = None,
    sigma_min: float | None = None,
    out: str | Path | None = None,
    force: bool = False,
    seed: int | None = None,
    device: str = AUTO,
    quiet: bool = False,
) -> Path:
    """Draw from a weighted sum of the energies of runs on one domain, or as a TOML file says.

    A .toml file has runs, weights, labels, ... and [sampler], a sampler of one's own.

    Args:
        runs: Run directories or names of shipped runs; or one .toml file, changed by options.
        weights: One number per run, with commas between; all 1 unless given. A negative one moves
            away.
        labels: One class per run, by name or number, with commas between, -1 for none; beside a run
            of noise it counts as log p(label | clean picture).
        count: How many draws; 64 unless given.
        steps: Steps of the chains, with a run of noise in all down its levels; 400 unless given.
        num_levels: Noise levels on the way down; 18 unless given.
        sigma_max: First noise level; the run's unless given.
        sigma_min: Last noise level; the run's unless given.
        out: File to write: a picture grid (.png) or numbers (.npy, .npz); composed.png unless
            given.
        force: Replace a file that exists.
        seed: Seed of the draws; 0 unless given.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    given = _given(locals(), "runs", "force", "device", "quiet")
    import torch
    from tqdm.auto import tqdm

    from lowland.trained import compose_models, load
    from lowland.trained.files import check_target, write_points
    from lowland.trained.sampling import refuse_standstill
    from lowland.trained.task_files import COMPOSE, read_task
    from lowland.training import cpu_threads

    if len(runs) == 1 and Path(runs[0]).suffix == ".toml":
        given = read_task(runs[0], COMPOSE, ["runs"]) | given
        runs = given.pop("runs")
    given["labels"] = [None if str(label) == "-1" else label for label in given.get("labels", ())]
    target, seed = given.pop("out", "composed.png"), given.pop("seed", 0)
    models = [load(run, device=device) for run in runs]
    read = [*runs, *(model.run.path for model in models)]
    target = check_target(target, models[0].shape, read, force=force)
    g = torch.Generator().manual_seed(seed)
    place, threads = str(models[0].device), cpu_threads(models[0].threads)
    bar = tqdm(desc=place, unit="step", disable=quiet)
    with refuse_standstill(), threads, bar:
        x = compose_models(models, generator=g, progress=bar.update, **given)
    return write_points(target, models[0].inverse_transform(x))


def edit(
    run: str | Path,
    image: str | Path | None = None,
    /,
    *,
    label: int | str | None = None,
    classifier: str | Path | None = None,
    weight: float | None = None,
    proximal_sigma: float | None = None,
    sigma: float | None = None,
    steps: int | None = None,
    draws: int | None = None,
    seed: int | None = None,
    out: str | Path | None = None,
    resize: bool = False,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Path:
    """Move a picture towards a class, or as a TOML file says; write a strip: the picture, then
    draws.

    Args:
        run: Run that says what pictures look like; or a .toml file with run, image, label, ...,
            changed by options.
        image: PNG, JPEG, .npy or .npz.
        label: Class to move towards, by its name or, where names are no numbers, its number.
        classifier: Run that knows classes; the run itself unless given.
        weight: How much the class counts; 1 unless given.
        proximal_sigma: How far an edit may go, per pixel; as far as it likes unless given.
        sigma: With a run of noise: the noise level to which the picture is buried; higher keeps
            less; 0.7 unless given.
        steps: Steps of the chains; 300 unless given.
        draws: How many edits; 4 unless given.
        seed: Seed of the draws; 0 unless given.
        out: Picture to write; outputs/IMAGE-edited.png, counted on, unless given.
        resize: Resize pictures of another size than the run's, which are refused otherwise.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    given = _given(locals(), "run", "resize", "force", "device", "quiet")
    import torch
    from tqdm.auto import tqdm

    from lowland.trained import load
    from lowland.trained.files import check_target, read_points, write_strip
    from lowland.trained.targets import name_output
    from lowland.trained.task_files import EDIT, read_task
    from lowland.training import cpu_threads

    task = run
    if Path(run).suffix == ".toml":
        given = read_task(run, EDIT, ["run", "image", "label"]) | given
        run = given.pop("run")
    if "image" not in given or "label" not in given:
        raise ValueError(
            f"image is {given.get('image')} and --label {given.get('label')}; an edit needs both; "
            "write for example lowland edit mnist four.png --label 9 --classifier mnist-jem"
        )
    model, picture = load(run, device=device), given.pop("image")
    if "classifier" in given:
        given["classifier"] = load(given["classifier"], device=device)
    target = name_output(picture, given.pop("out", None), "edited")
    read = [picture, task, model.run.path]
    check_target(target, model.shape, read, force=force, beside=True)
    x = read_points(model, picture, resize=resize)
    g = torch.Generator().manual_seed(given.pop("seed", 0))
    place = str(model.device)
    with cpu_threads(model.threads), tqdm(desc=place, unit="step", disable=quiet) as bar:
        found = model.edit(x, given.pop("label"), generator=g, progress=bar.update, **given)
    arrays = {"attribute": found.attribute, "before": found.before}
    return write_strip(model, target, [x, *found.draws], arrays)


def interpolate(
    run: str | Path,
    a: str | Path | None = None,
    b: str | Path | None = None,
    /,
    *,
    points: int | None = None,
    sigma: float | None = None,
    steps: int | None = None,
    out: str | Path | None = None,
    resize: bool = False,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Path:
    """Find a path of low energy from one picture to another, or as a TOML file says; write a
    strip, the straight line below it.

    Args:
        run: Run that says what pictures look like; or a .toml file with run, a, b, ..., changed by
            options.
        a: Where the path begins.
        b: Where it ends.
        points: Pictures on the path, both ends included; 9 unless given.
        sigma: With a run of noise: the noise level at which its energy is taken; 0.3 unless given.
        steps: Steps of descent; 300 unless given.
        out: Picture to write; outputs/A-path.png, counted on, unless given.
        resize: Resize pictures of another size than the run's, which are refused otherwise.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    given = _given(locals(), "run", "resize", "force", "device", "quiet")
    import torch
    from tqdm.auto import tqdm

    from lowland.trained import load
    from lowland.trained.files import check_target, read_points, write_points
    from lowland.trained.targets import name_output
    from lowland.trained.task_files import INTERPOLATE, read_task
    from lowland.training import cpu_threads

    task = run
    if Path(run).suffix == ".toml":
        given = read_task(run, INTERPOLATE, ["run", "a", "b"]) | given
        run = given.pop("run")
    if "a" not in given or "b" not in given:
        raise ValueError(
            f"the ends are {given.get('a')} and {given.get('b')}; a path needs two pictures; write "
            "for example lowland interpolate mnist one.png seven.png"
        )
    model, files = load(run, device=device), [given.pop("a"), given.pop("b")]
    target = name_output(files[0], given.pop("out", None), "path")
    read = [*files, task, model.run.path]
    check_target(target, model.shape, read, force=force, beside=True)
    start, end = (read_points(model, file, resize=resize)[:1] for file in files)
    place = str(model.device)
    with cpu_threads(model.threads), tqdm(desc=place, unit="step", disable=quiet) as bar:
        found = model.interpolate(start, end, progress=bar.update, **given)
    count = len(found.points)
    t = torch.linspace(0, 1, count).view(-1, 1, 1, 1, 1)
    straight = start + t * (end - start)
    rows = torch.cat([found.points.cpu().flatten(0, 1), straight.flatten(0, 1)])
    arrays = {
        "energies": found.energies[:, 0],
        "straight": found.straight[:, 0],
        "barrier": found.barrier,
    }
    return write_points(target, model.inverse_transform(rows), count, arrays)


def predict(
    run: str | Path,
    image: str | Path,
    /,
    *,
    given_channels: tuple[int, ...] = (),
    draws: int = 8,
    num_levels: int | None = None,
    steps: int = 500,
    seed: int = 0,
    out: str | Path | None = None,
    resize: bool = False,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Path:
    """Draw the channels of a picture that are not given; write a strip: mean, standard deviation,
    draws.

    Args:
        run: Run that was trained on question and answer as channels of one picture.
        image: PNG, JPEG, .npy or .npz with all channels, what is not given is ignored; or .npy or
            .npz of the given channels alone.
        given_channels: The channels of the question, with commas between; unless given, those that
            the run was trained to be asked.
        draws: How many answers.
        num_levels: With a run of noise: levels on the way down; 20 for a run that was trained to be
            asked, else 60, unless given.
        steps: Steps of the chains, for other runs.
        seed: Seed of the draws.
        out: Picture to write; outputs/IMAGE-answer.png, counted on, unless given.
        resize: Resize pictures of another size than the run's, which are refused otherwise.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    import torch
    from tqdm.auto import tqdm

    from lowland.trained import load
    from lowland.trained.editing import conditioning_channels
    from lowland.trained.files import check_target, read_channels, write_strip
    from lowland.trained.targets import name_output
    from lowland.training import cpu_threads

    model = load(run, device=device)
    channels = conditioning_channels(model, given_channels)
    target = name_output(image, out, "answer")
    check_target(target, model.shape, [image, model.run.path], force=force, beside=True)
    x, g = read_channels(model, image, channels, resize=resize), torch.Generator().manual_seed(seed)
    place = str(model.device)
    with cpu_threads(model.threads), tqdm(desc=place, unit="step", disable=quiet) as bar:
        found = model.predict(
            x,
            channels,
            generator=g,
            draws=draws,
            num_levels=num_levels,
            steps=steps,
            progress=bar.update,
        )
    asked = min(set(range(model.shape[0])) - set(channels))
    shown = [part[:, [asked]] for part in (found.mean, found.std, *found.draws[:6])]
    arrays = {"mean": found.mean, "std": found.std, "draws": found.draws}
    return write_strip(model, target, shown, arrays)


def _given(arguments: Mapping[str, object], *others: str) -> Plain:
    """Return the arguments that were given: not None nor empty, and not among the others."""
    empty = (None, ())
    return {k: v for k, v in arguments.items() if v not in empty and k not in others}
