"""Accuracy of a run's classifier under attack, with sanity checks of the attacks."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from lowland.registry import Plain
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
from lowland.trained import Model
from lowland.trained.placement import check_one_device, place_points
from lowland.trained.purification import purification_settings, purifying_energy

EOT = 20  # calls over which gradients are averaged where the model draws noise
EVALUATIONS = 10  # calls with fresh noise at each point that an attack found
SQUARE_QUERIES = 300

Norm = Literal["inf", "2"]


def measure_robustness(
    model: Model,
    epsilon: float,
    *,
    count: int = 200,
    attacks: Sequence[str] = (),
    norm: Norm = "inf",
    steps: int = 40,
    purifier: Model | None = None,
    seed: int = 0,
    progress: Callable[[str], object] = lambda _: None,
) -> tuple[Robustness, list[SanityCheck]]:
    """Attack the classifier of a run on the first `count` images of its test part.

    attacks: names of `standard_attacks(norm)`, all of them unless given, "pgd" in any case for the
    checks; purifier: a run that purifies what the classifier sees. Then attacks know of it: fresh
    noise at every call, gradients through the purifier and past it, averaged over 20 calls, and the
    share of 10 fresh answers that are right counts.

    Raises ValueError for data without labels or outside a box, and for unknown attacks.
    """
    if count < 1 or norm not in ("inf", "2"):
        raise ValueError(
            f"count is {count} and norm {norm!r}; at least 1, and 'inf' or '2' are needed; correct "
            "them"
        )
    classifier: Any = as_classifier(model.energy)  # refuses, before data are asked for
    x, y, bounds = _labelled_images(model, count)
    known = standard_attacks(norm, steps=steps, bounds=bounds)
    white = PGD(steps=steps, norm=norm, bounds=bounds)
    evaluations: int | None = None  # as many as the noise of the classifier asks for
    if purifier is not None:
        check_one_device([model, purifier])
        known, white, classifier = _adaptive_attacks(
            classifier, purifier, steps, norm, bounds, seed
        )
        evaluations = EVALUATIONS
    unknown = sorted(set(attacks) - set(known))
    if unknown:
        raise ValueError(
            f"there is no attack {', '.join(unknown)}; known are {', '.join(known)}; choose from "
            "these"
        )
    chosen = {name: one for name, one in known.items() if not attacks or name in attacks}
    more: Plain = {
        "generator": torch.Generator(model.device).manual_seed(seed),
        "bounds": bounds,
        "evaluations": evaluations,
    }
    found = robust_accuracy(classifier, x, y, epsilon, chosen, norm=norm, progress=progress, **more)
    square = Square(SQUARE_QUERIES, bounds=bounds, early_stop=purifier is None)
    checks = sanity_checks(
        classifier,
        x,
        y,
        epsilon,
        white_box=white,
        black_box=square if norm == "inf" and x.dim() == 4 else None,
        found=found,
        **more,
    )
    progress("sanity checks")
    return found, checks


def _labelled_images(model: Model, count: int) -> tuple[Tensor, Tensor, tuple[float, float]]:
    """Return the first test images of a run, their labels, and the bounds of their values."""
    domain, y = model.data.domain, model.data.test.y
    if domain.kind != "box":
        raise ValueError(
            f"the data of {model.name} lie in {domain}; attacks are on points in a box; attack an "
            "image classifier"
        )
    if y is None:
        raise ValueError(
            f"the data of {model.name} have no labels; attacks are on labels; choose a run on "
            "labelled data"
        )
    x = place_points(model, model.data.test.x[:count])
    return x, y[:count].to(model.device), (domain.lo, domain.hi)


def _adaptive_attacks(
    classifier: Any,
    purifier: Model,
    steps: int,
    norm: Norm,
    bounds: tuple[float, float],
    seed: int,
) -> tuple[dict[str, Attack], PGD, PurifiedClassifier]:
    """Make attacks that know of the purifier in front of a classifier; return them, the one for the
    sanity checks, and purifier and classifier as one model.
    """
    purified = PurifiedClassifier(
        purifying_energy(purifier),
        classifier,
        generator=torch.Generator(purifier.device).manual_seed(seed + 1),
        **purification_settings(purifier),
    )
    more: Plain = {"norm": norm, "bounds": bounds, "loss": "margin"}
    noisy = more | {"steps": max(steps // 2, 1), "early_stop": False}
    past = purified.with_identity_gradient()
    known: dict[str, Attack] = {
        "transfer": TransferAttack(classifier, PGD(steps=steps, **more)),
        "pgd": PGD(**noisy),
        "bpda": TransferAttack(past, PGD(**noisy)),
        "eot": PGD(**noisy, eot=EOT),
        "bpda-eot": TransferAttack(past, PGD(**noisy, eot=EOT)),
    }
    if norm == "inf":
        known["square"] = Square(SQUARE_QUERIES, bounds=bounds, early_stop=False)
    return known, PGD(**noisy), purified
