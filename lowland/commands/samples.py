"""Commands sample and energy."""

from pathlib import Path
from typing import Literal

from lowland.devices import AUTO
from lowland.registry import Plain


def sample(
    run: str | Path,
    /,
    *,
    set: list[str] = [],  # noqa: B006
    count: int = 64,
    out: str | Path = Path("samples.png"),
    label: int | str | None = None,
    seed: int = 0,
    force: bool = False,
    device: str = AUTO,
    quiet: bool = False,
) -> Path:
    """Draw samples into a .npy, .npz or .png file.

    The same seed gives the same file on any number of processes. Started again after a break, it
    draws only what is missing.

    Args:
        run: Run directory, or the name of a shipped run.
        set: Change how samples are made, e.g. --set generation.num_levels=30; repeat for more.
        count: How many.
        out: File to write; the suffix chooses numbers (.npy, .npz) or a picture grid (.png).
        label: Class to ask for, by its name or, where names are no numbers, its number; all evenly
            unless given.
        seed: Seed of the draws.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    from dataclasses import replace

    from lowland.config import parse_overrides
    from lowland.trained import load
    from lowland.trained.sampling import sample_to_file
    from lowland.training import cpu_threads

    model, changes = load(run, device=device), parse_overrides(set)
    others = [key for key in changes if not key.startswith("generation.")]
    if others:
        raise ValueError(
            f"sample was told to change {', '.join(others)}; a trained run stays as it was "
            "trained, and only generation.* can be changed; leave out the rest"
        )
    if changes:
        model = replace(model, recipe=_change_generation(model.recipe, changes))
    with cpu_threads(model.threads):
        return sample_to_file(
            model, count, Path(out), label=label, seed=seed, force=force, quiet=quiet
        )


def _change_generation(recipe: Plain, changes: Plain) -> Plain:
    """Return a recipe with changes to its [generation], read strictly. A network and data of the
    user's, which no recipe names, do not matter to that.
    """
    from lowland.config import read_recipe

    read = dict(recipe)
    if ":" in recipe["energy"]["name"]:
        read["energy"] = {"name": "MLP"}
    if "kept" in recipe["data"]:
        read["data"] = {"name": "moons"}
    return {**recipe, "generation": read_recipe(read, changes).plain()["generation"]}


def energy(
    run: str | Path,
    paths: list[Path],
    /,
    *,
    format: Literal["csv", "jsonl"] = "csv",
    out: str | Path | None = None,
    alpha: float | None = None,
    resize: bool = False,
    skip_bad: bool = False,
    force: bool = False,
    device: str = AUTO,
) -> str | Path:
    """Compute energy, p-value and verdict of images, folders of images, .npy, .npz or .csv files.

    Returns the table, or with --out the path of the file, which is written over all processes and
    resumed after a break.

    Args:
        run: Run directory, or the name of a shipped run.
        paths: Files or folders.
        format: Form of the table.
        out: File to write; standard output unless given.
        alpha: False-alarm rate that the verdict keeps to; the recipe's unless given.
        resize: Resize pictures of another size than the run's, which are refused otherwise.
        skip_bad: Leave out files that cannot be read, and list them; at most half of all.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
    """
    from lowland.trained import load
    from lowland.trained.scoring import EnergyTable
    from lowland.trained.targets import check_new
    from lowland.training import cpu_threads

    model = load(run, device=device)
    if out is not None:
        check_new([out], [*paths, model.run.path], force=force)
    with cpu_threads(model.threads):
        table = EnergyTable(model, paths, alpha, resize=resize, skip_bad=skip_bad)
        if out is not None:
            return table.write(Path(out), format)
        return table.text(format)
