"""Commands purify and attack."""

from pathlib import Path
from typing import Literal

from lowland.devices import AUTO


def purify(
    run: str | Path,
    images: list[Path],
    /,
    *,
    method: Literal["langevin", "map", "denoise"] | None = None,
    steps: int | None = None,
    sigma: float | None = None,
    seed: int = 0,
    out: str | Path | None = None,
    resize: bool = False,
    force: bool = False,
    device: str = AUTO,
) -> Path:
    """Move images that were tampered with to where data lie; write a picture (as they came,
    purified) or numbers.

    Args:
        run: Run directory, or the name of a shipped run.
        images: PNG, JPEG, .npy or .npz files.
        method: Way of purifying; the run's own unless given.
        steps: Steps, or noise levels of denoise.
        sigma: Noise added first, or the width of the pull of map.
        seed: Seed of the noise.
        out: File to write, .png or .npy; outputs/IMAGE-purified.png, counted on, unless given.
        resize: Resize pictures of another size than the run's, which are refused otherwise.
        force: Replace a file that exists.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
    """
    import torch

    from lowland.data import load_image
    from lowland.trained import load
    from lowland.trained.files import check_target, write_points
    from lowland.trained.targets import name_output

    model, target = load(run, device=device), name_output(images[0], out, "purified")
    if target.suffix not in (".png", ".npy"):
        raise ValueError(
            f"out is {target}; purified points are written as .png or .npy; choose one of these "
            "suffixes"
        )
    check_target(target, model.shape, [*images, model.run.path], force=force)
    shape, format = model.shape, model.format
    given = torch.cat([load_image(p, shape, resize=resize, format=format) for p in images])
    generator = torch.Generator().manual_seed(seed)
    x = model.purify(
        model.transform(given), generator=generator, method=method, steps=steps, sigma=sigma
    )
    clean = model.inverse_transform(x.cpu())
    if target.suffix == ".npy":
        return write_points(target, clean)
    pairs = torch.stack([given, clean], 1).flatten(0, 1).clamp(0, 1)
    return write_points(target, pairs, columns=2)


def attack(
    run: str | Path,
    /,
    *,
    epsilon: float = 0.3,
    count: int = 200,
    attacks: tuple[str, ...] = (),
    norm: Literal["inf", "2"] = "inf",
    steps: int = 40,
    purifier: str | Path | None = None,
    out: str | Path | None = None,
    force: bool = False,
    seed: int = 0,
    device: str = AUTO,
    quiet: bool = False,
) -> str:
    """Attack the classifier of a run: accuracy under each attack, under the worst of them, and
    sanity checks.

    Args:
        run: Run directory, or the name of a shipped run; its energy knows classes.
        epsilon: Size of the perturbation.
        count: Test images, the first ones.
        attacks: Names with commas between them; all unless given.
        norm: In which epsilon is measured.
        steps: Steps of each attack that climbs; half as many where a purifier draws noise.
        purifier: Run that purifies what the classifier sees; attacks then know of it.
        out: JSON to write.
        force: Replace a file that exists.
        seed: Seed of the attacks.
        device: Where to compute: auto (a GPU if there is one, else the CPU), cpu, cuda, cuda:1,
            mps, xpu.
        quiet: No progress bar.
    """
    from tqdm.auto import tqdm

    from lowland.evaluation.robustness import measure_robustness
    from lowland.trained import load
    from lowland.trained.targets import check_new, write_json

    if out is not None:
        if Path(out).suffix != ".json":
            raise ValueError(
                f"out is {out}; what attacks left is written as JSON; choose a name that ends in "
                ".json"
            )
        check_new([out], [run], force=force)
    model = load(run, device=device)
    with tqdm(desc=str(model.device), unit="attack", disable=quiet) as bar:
        found, checks = measure_robustness(
            model,
            epsilon,
            count=count,
            attacks=attacks,
            norm=norm,
            steps=steps,
            purifier=None if purifier is None else load(purifier, device=device),
            seed=seed,
            progress=lambda _: bar.update(),
        )
    if out is not None:
        sanity = [check._asdict() for check in checks]
        behind = None if purifier is None else str(purifier)
        values = {"run": str(run), "purifier": behind, **found.to_dict(), "sanity": sanity}
        write_json(Path(out), values)
    return "\n".join(map(str, [found, *checks]))
