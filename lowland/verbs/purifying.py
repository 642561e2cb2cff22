"""purify: images carried to where data lie; attack: what is left of a run's classifier when
somebody means it ill.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from lowland.data import load_image, save_grid
from lowland.robustness import (
    PGD,
    Attack,
    Robustness,
    SanityCheck,
    Square,
    TransferAttack,
    robust_accuracy,
    sanity_checks,
    standard_attacks,
)
from lowland.tasks import PurifiedClassifier, as_classifier
from lowland.tasks import purify as purify_task
from lowland.trained import Model, load
from lowland.verbs.composing import place

EOT = 20  # calls over which slopes are averaged where the model draws noise
EVALUATIONS = 10  # calls with fresh noise at what an attack found


def purification(s: Model, **changes: Any) -> dict[str, Any]:
    """How a run purifies: its recipe's [purification], else one jump from the noise level 0.3 for
    an energy E(x, σ), and for others the sampler of its generation from the point itself; then what
    is changed.
    """
    sampler = s.recipe["generation"].get("sampler") or {}
    step = sampler.get("step_size", 0.01)
    cold = (
        sampler["noise"] ** 2 / (2 * step)
        if "noise" in sampler
        else sampler.get("temperature", 1.0)
    )
    walk = {
        "method": "langevin",
        "steps": 10,
        "step_size": step,
        "temperature": cold,
        "clip": sampler.get("clip"),
    }
    noisy = bool(getattr(s.energy, "noise", False))
    settings = s.recipe.get("purification") or (
        {"method": "denoise", "steps": 1, "sigma": 0.3} if noisy else walk
    )
    return settings | {name: value for name, value in changes.items() if value is not None}


def purify(
    run: str | Path,
    images: Sequence[str | Path],
    *,
    out: str | Path | None = None,
    steps: int | None = None,
    sigma: float | None = None,
    method: str | None = None,
    seed: int = 0,
) -> Path:
    """Purify images or rows of files with a run; writes .npy (the points) or a .png grid (each as
    it came, and purified).

    steps, sigma, method: as `lowland.tasks.purify` takes them; the recipe's or the run's own unless
    given.
    """
    s = load(run)
    target = Path(out) if out else Path(images[0]).with_name(f"{Path(images[0]).stem}-purified.png")
    if target.suffix not in (".png", ".npy"):
        raise ValueError(
            f"out is {target}; purified points are written as .png or .npy; choose one of these "
            "suffixes"
        )
    place(target, s.shape, images)
    given = torch.cat([load_image(path, s.shape) for path in images])
    settings = purification(s, steps=steps, sigma=sigma, method=method)
    energy = _scored(s)
    clean = s.inverse_transform(
        purify_task(
            energy, s.transform(given), generator=torch.Generator().manual_seed(seed), **settings
        )
    )
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.suffix == ".npy":
        np.save(target, clean.numpy())
    else:
        save_grid(torch.stack([given, clean], 1).flatten(0, 1).clamp(0, 1), target, columns=2)
    return target


def _scored(s: Model) -> Any:
    """The energy that purifies: of image and noise level where it knows levels, of the image alone
    otherwise.
    """
    return s.energy if getattr(s.energy, "noise", False) else s.marginal


def attack(
    run: str | Path,
    *,
    epsilon: float = 0.3,
    count: int = 200,
    attacks: Sequence[str] = (),
    norm: str = "inf",
    steps: int = 40,
    behind: str | Path | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    progress: bool = True,
) -> tuple[Robustness, list[SanityCheck]]:
    """Attack the classifier of a run, on the first `count` images of its test part; with the sanity
    checks of the attacks.

    attacks: names of `standard_attacks(norm)`, all of them unless given, "pgd" in any case for the checks;
    behind: a run that purifies what the classifier sees. Then attacks know that: fresh noise at
    every call, slopes through the purifier and past it, averaged over 20 calls, and the share of 10
    fresh answers that are right counts. out: JSON.
    """
    s = load(run)
    if out is not None and (Path(out).suffix != ".json" or Path(out).is_dir()):
        raise ValueError(
            f"out is {out}; what attacks left is written as JSON; choose a name that ends in .json"
        )
    if count < 1 or norm not in ("inf", "2"):
        raise ValueError(
            f"count is {count} and norm {norm!r}; at least 1, and 'inf' or '2' are needed; correct "
            "them"
        )
    domain = s.data.domain
    if domain.kind != "box":
        raise ValueError(
            f"the data of {run} lie in {domain}; attacks are on points in a box; attack an image "
            "classifier"
        )
    model, y = as_classifier(s.energy), s.data.test.y
    bounds = (domain.lo, domain.hi)
    if y is None:
        raise ValueError(
            f"the data of {run} have no labels; attacks are on labels; choose a run on labelled "
            "data"
        )
    x, y = s.data.test.x[:count], y[:count]
    known: dict[str, Attack] = standard_attacks(norm, steps=steps, bounds=bounds)  # type: ignore[arg-type]
    white, evaluations = PGD(steps=steps, norm=norm, bounds=bounds), 1  # type: ignore[arg-type]
    if behind is not None:
        known, white, model = _around(model, behind, steps, norm, bounds, seed)
        evaluations = EVALUATIONS
    unknown = set(attacks) - set(known)
    if unknown:
        raise ValueError(
            f"there is no attack {', '.join(sorted(unknown))}; known are {', '.join(known)}; "
            "choose from these"
        )
    chosen = {name: made for name, made in known.items() if not attacks or name in attacks}
    generator = torch.Generator().manual_seed(seed)
    more: dict[str, Any] = {"generator": generator, "bounds": bounds, "evaluations": evaluations}
    with tqdm(total=len(chosen) + 1, unit="attack", disable=not progress) as bar:
        found = robust_accuracy(
            model,
            x,
            y,
            epsilon,
            chosen,
            progress=lambda name: bar.update(),
            **{**more, "norm": norm},
        )
        checks = sanity_checks(
            model,
            x,
            y,
            epsilon,
            white_box=white,
            found=found,
            black_box=_black(norm, bounds, behind, x),
            **more,
        )
        bar.update()
    if out is not None:
        Path(out).parent.mkdir(parents=True, exist_ok=True)
        checked = [check._asdict() for check in checks]
        Path(out).write_text(
            json.dumps(
                {
                    "run": str(run),
                    "behind": behind and str(behind),
                    **found.to_dict(),
                    "sanity": checked,
                }
            )
        )
    return found, checks


def _black(norm: str, bounds: tuple[float, float], behind: Any, x: Tensor) -> Attack | None:
    return (
        Square(300, bounds=bounds, early_stop=behind is None)
        if norm == "inf" and x.dim() == 4
        else None
    )


def _around(
    classifier: Any,
    behind: str | Path,
    steps: int,
    norm: str,
    bounds: tuple[float, float],
    seed: int,
) -> tuple[dict[str, Attack], PGD, PurifiedClassifier]:
    """Attacks that know of the purifier in front of a classifier, the one among them for the
    checks, and both as one model.
    """
    s = load(behind)
    generator = torch.Generator().manual_seed(seed + 1)
    model = PurifiedClassifier(_scored(s), classifier, generator=generator, **purification(s))
    more: dict[str, Any] = {"norm": norm, "bounds": bounds}
    noisy: dict[str, Any] = {
        "steps": max(steps // 2, 1),
        "early_stop": False,
        "loss": "margin",
        **more,
    }
    known: dict[str, Attack] = {
        "transfer": TransferAttack(classifier, PGD(steps=steps, loss="margin", **more)),
        "pgd": PGD(**noisy),
        "bpda": TransferAttack(model.with_identity_gradient(), PGD(**noisy)),
        "eot": PGD(**noisy, eot=EOT),
        "bpda-eot": TransferAttack(model.with_identity_gradient(), PGD(**noisy, eot=EOT)),
    }
    if norm == "inf":
        known["square"] = Square(300, bounds=bounds, early_stop=False)
    return known, PGD(**noisy), model
