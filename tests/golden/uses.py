"""Cases of tasks, with the trained runs that come with lowland."""

import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate as resize

import lowland
from lowland import (
    MALA,
    Detector,
    Energy,
    Function,
    Langevin,
    box,
    commands,
    compose,
    conditional_sample,
    edit,
    interpolate,
    mixture,
    purify,
    restore,
)
from lowland.robustness import PGD, Square, robust_accuracy
from lowland.samplers import karras_sigmas
from lowland.tasks import (
    BlockAverage,
    LabelGuidance,
    Mask,
    PurifiedClassifier,
    anneal_composed,
    as_classifier,
    map_estimate,
    sample_composed,
    soft_not,
    split_gibbs_sample,
)

from .registry import Numbers, Tolerance, case, normal, seeded, summarise, uniform

DOUBLE = Tolerance(1e-6, "float64, acceptance added up in float32; seen: 1e-8")
NETWORK = Tolerance(1e-4, "float32 networks, few steps; seen: 7e-6")
VERDICTS = Tolerance(1e-4, "counts, and float32 energies; seen: 1e-7")


@cache
def trained(name: str) -> Energy:
    """Return the energy of a run that comes with lowland."""
    return lowland.load(name).energy


@cache
def digits(count: int = 200, size: int = 8) -> Tensor:
    """Return the first test digits (count, 1, size, size), enlarged by interpolation."""
    x = lowland.load_data("digits").test.x[:count]
    return x if size == 8 else resize(x, (size, size), mode="bilinear").clamp(0, 1)


def labels(count: int) -> Tensor:
    """Return the classes of the first test digits."""
    y = lowland.load_data("digits").test.y
    assert y is not None
    return y[:count]


@case(NETWORK)
def energies_of_trained_runs() -> Numbers:
    """Evaluate energies and scores of the shipped runs."""
    found: Numbers = {}
    jobs = {
        "digits": (trained("digits"), digits(6)),
        "mnist-jem": (trained("mnist-jem"), digits(6, 28)),
    }
    jobs |= {name: (trained(name).given(0.3), digits(6, 28)) for name in ("mnist", "fashion-mnist")}
    for name, (energy, x) in jobs.items():
        value, score = lowland.value_and_score(energy, x)
        found[name] = [
            *value.tolist()[:3],
            value.double().mean().item(),
            score.double().norm().item(),
        ]
    found["classes"] = (
        (-trained("mnist-jem").class_energies(digits(6, 28))).log_softmax(1)[:, 3].tolist()
    )
    return found


def draw(name: str, changes: dict[str, Any], count: int = 3) -> Numbers:
    """Draw samples of a shipped run as its recipe says, but for changes of the generation."""
    with tempfile.TemporaryDirectory() as folder:
        path = commands.sample(
            name,
            count=count,
            out=Path(folder) / "x.npy",
            seed=1,
            set=[f"{key}={value}" for key, value in changes.items()],
            quiet=True,
        )
        return {"points": summarise(torch.from_numpy(np.load(path)))}


@case(NETWORK)
def samples_of_digits() -> Numbers:
    """Draw digits by Langevin chains and a last jump."""
    return draw("digits", {"generation.steps": 30})


@case(NETWORK)
def samples_of_mnist() -> Numbers:
    """Draw MNIST digits by probability flow."""
    return draw("mnist", {"generation.num_levels": 5, "generation.precision": "float32"})


@case(NETWORK)
def samples_of_fashion() -> Numbers:
    """Draw Fashion-MNIST articles by probability flow."""
    return draw("fashion-mnist", {"generation.num_levels": 5, "generation.precision": "float32"})


@case(NETWORK)
def samples_of_classes() -> Numbers:
    """Draw MNIST digits of a classifier by short chains."""
    return draw("mnist-jem", {"generation.steps": 10})


@case(VERDICTS)
def verdicts_of_detectors() -> Numbers:
    """Fit detectors by several scores; count what they call among digits, noise, flipped digits."""
    x = digits(260)
    found: Numbers = {}
    for score in ("energy", "typicality", "gradient-norm", "descent", "msp", "logit-energy", "knn"):
        detector = Detector(trained("digits"), score).fit(x[:200], reference=None)
        near, far = x[200:], uniform(20, 1, 8, 8, dtype=torch.float32)
        p = detector.p_value_of_scores(detector.outlier_scores(near))
        called = [
            float(detector.p_value_of_scores(detector.outlier_scores(y)).le(0.1).sum())
            for y in (near, far, near.flip(2))
        ]
        found[score] = [p.mean().item(), *called]
    detector = Detector(trained("digits")).fit(x[:200])
    found["scores"] = summarise(detector.outlier_scores(x[200:]), shown=0)
    found["predicted"] = [
        float(detector.predict(x[200:], 0.1, guarantee=g).sum()) for g in ("marginal", "fdr")
    ]
    return found


@case(NETWORK)
def restored_digits() -> Numbers:
    """Restore digits of which the lower half is hidden, and noisy ones, by chains."""
    x, energy = digits(2), trained("digits")
    mask = torch.ones(1, 8, 8, dtype=torch.bool)
    mask[:, 4:] = False
    sampler, more = Langevin(0.0072), {"steps": 20, "draws": 3, "denoise_sigma": 0.2}
    held = restore(energy, Mask(mask), Mask(mask).A(x), 0.0, sampler, generator=seeded(5), **more)
    noisy = Mask(mask).A(x + 0.1 * normal(*x.shape, dtype=torch.float32))
    bank = digits(100)
    told = restore(
        energy, Mask(mask), noisy, 0.1, sampler, generator=seeded(6), prior_samples=bank, **more
    )
    return {
        "held_mean": summarise(held.mean),
        "held_spread": summarise(held.std),
        "told_mean": summarise(told.mean),
        "told_spread": summarise(told.std),
    }


@case(NETWORK)
def most_likely_digits() -> Numbers:
    """Find the most likely digits behind block averages."""
    operator = BlockAverage(2)
    found = map_estimate(
        trained("digits"), operator, operator(digits(2)), 0.1, start=digits(2), steps=10
    )
    return {"points": summarise(found.x)}


@case(NETWORK)
def restored_down_levels() -> Numbers:
    """Restore MNIST digits of which a part is hidden, down the levels of an energy of noise."""
    x = digits(1, 28)
    mask = torch.ones(1, 28, 28, dtype=torch.bool)
    mask[:, 14:] = False
    more: dict[str, Any] = {
        "sigma_max": 3.0,
        "sigma_min": 0.05,
        "num_levels": 4,
        "denoise_steps": 2,
        "draws": 2,
    }
    found = split_gibbs_sample(
        trained("mnist"), Mask(mask), Mask(mask).A(x), 0.05, generator=seeded(7), **more
    )
    return {"mean": summarise(found.mean), "spread": summarise(found.std)}


@case(NETWORK)
def composed_digits() -> Numbers:
    """Combine classes of digits by AND with units, OR and a bounded NOT, and sample."""
    energy, x = trained("digits"), digits(60)
    three, eight = energy.given(3), energy.given(8)
    both = compose([three, eight], [x, x], [1.0, 0.5])
    either = mixture(three, eight)
    without = eight + soft_not(three, energy(x).median().item())
    found: Numbers = {}
    for name, expression in (("and", both), ("or", either), ("not", without)):
        trace = sample_composed(expression, x[:4], 10, generator=seeded(8), sampler=MALA(0.0005))
        found[name] = [*expression(x[:3]).tolist(), *summarise(trace.x, shown=1)]
    return found


@case(NETWORK)
def guided_samples() -> Numbers:
    """Draw down noise levels under an energy of noise and a classifier."""
    guided = trained("mnist") + 0.5 * LabelGuidance(trained("mnist-jem"), 7)
    sigmas, start = karras_sigmas(1.0, 0.2, 3), normal(2, 1, 28, 28, dtype=torch.float32)
    found = anneal_composed(
        guided, sigmas, start, 3, generator=seeded(9), final=2, sampler=Langevin(0.005)
    )
    return {"points": summarise(found.x)}


@case(NETWORK)
def purified_digits() -> Numbers:
    """Carry noisy digits back to the data by three methods, and classify behind one."""
    x = (digits(3) + 0.1 * normal(3, 1, 8, 8, dtype=torch.float32)).clamp(-0.6, 1.6)
    large, energy, classifier = digits(2, 28), trained("digits"), trained("mnist-jem")
    walk: dict[str, Any] = {"steps": 8, "step_size": 0.005}
    behind = PurifiedClassifier(
        trained("mnist"), classifier, generator=seeded(10), method="denoise", steps=1, sigma=0.3
    )
    return {
        "langevin": summarise(purify(energy, x, generator=seeded(10), sigma=0.1, **walk)),
        "map": summarise(purify(energy, x, generator=seeded(10), method="map", sigma=0.3, **walk)),
        "denoise": summarise(
            purify(
                trained("mnist"), large, generator=seeded(10), method="denoise", steps=2, sigma=0.4
            )
        ),
        "logits": behind(large).flatten()[:6].tolist(),
    }


@case(NETWORK)
def predicted_digits() -> Numbers:
    """Answer with the lower halves of digits, by chains and by descent."""
    known = torch.ones(1, 8, 8, dtype=torch.bool)
    known[:, 4:] = False
    energy, x = trained("digits"), digits(2)
    more: dict[str, Any] = {"start": x.flip(0), "steps": 15}
    drawn = conditional_sample(
        energy, x, known, generator=seeded(11), draws=2, sampler=MALA(0.002), **more
    )
    likely = conditional_sample(energy, x, known, generator=seeded(11), method="map", **more)
    return {
        "mean": summarise(drawn.mean),
        "spread": summarise(drawn.std),
        "likely": summarise(likely.mean),
    }


@case(NETWORK)
def edited_digits() -> Numbers:
    """Move digits towards a class, by chains and by descent; find a path between two."""
    energy, x = trained("digits"), digits(2)
    eight = LabelGuidance(energy, 8)
    more: dict[str, Any] = {"weight": 2.0, "proximal_sigma": 0.5, "generator": seeded(12)}
    drawn = edit(energy, x, eight, steps=15, sampler=MALA(0.002), **more)
    likely = edit(energy, x, eight, steps=15, method="map", **more)
    path = interpolate(energy, x[:1], x[1:], 5, steps=15)
    return {
        "drawn": [*summarise(drawn.draws), *drawn.attribute.flatten().tolist()],
        "likely": [*summarise(likely.draws), *likely.attribute.flatten().tolist()],
        "path": [*path.energies.flatten().tolist(), path.barrier.item()],
        "straight": path.straight.flatten().tolist(),
    }


@case(VERDICTS)
def attacked_digits() -> Numbers:
    """Attack a classifier of digits by gradients and by queries."""
    attacks = {"pgd": PGD(steps=5, bounds=(0.0, 1.0)), "square": Square(queries=20)}
    model, x, y = as_classifier(trained("digits")), digits(60), labels(60)
    found = robust_accuracy(model, x, y, 0.1, attacks, generator=seeded(14))
    moved = attacks["pgd"](model, x[:8], y[:8], 0.1, generator=seeded(15))
    return {
        "accuracy": [found.accuracy["clean"].value, found.minimum.mean().item()],
        "moved": summarise(moved),
    }


@case(DOUBLE)
def composed_laws() -> Numbers:
    """Tune and run chains of an expression on a box."""
    law = Function(lambda x: 3 * x.square().sum(1), box(-1.0, 1.0, 2))
    other = Function(lambda x: -2 * x[:, 0], box(-1.0, 1.0, 2))
    trace = sample_composed(law + 0.5 * other, normal(12, 2).tanh(), 15, generator=seeded(16))
    return {"points": summarise(trace.x), "acceptance": trace.acceptance.double().mean().item()}
