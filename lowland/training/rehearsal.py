"""Try before the first update what comes after the last one, on two points and a copy.

Hours of training are lost when the sampler of [generation] has a scale of the wrong length, or when
the calibration part is too small for evaluation.alpha. Here each part of what evaluation will do is
done once, as small as it can be, and everything that fails is told together.
"""

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lowland.data import list_datasets, load_data
from lowland.energy import Energy, freeze, latent_of
from lowland.metrics import alarm_ranks, energy_gap, frechet_distance, mmd, precision_recall
from lowland.nets.generators import Generator
from lowland.registry import build
from lowland.seeds import make_generator
from lowland.tasks import Identity, bind_smallest_sigma, noise_levels, restore, split_gibbs_sample
from lowland.tasks.detection.registry import get_outlier_score
from lowland.tasks.generate import generate_from_recipe
from lowland.training.classifier import ImageClassifier
from lowland.training.session import Session
from lowland.training.settings import Plain

ROWS = 2  # points that are tried
MAX_REFERENCE = 500  # training points to which an outlier score is fitted
SMALL = 100  # examples from which on every metric has enough
RAW = (ValueError, TypeError, ArithmeticError, IndexError, RuntimeError, AssertionError)


def rehearse(session: Session) -> None:
    """Do once, as small as it can be, all that an evaluation of a session's recipe will do.

    Raises ValueError that names every part of the recipe that fails. Draws nothing from the
    session, and changes nothing in it. A recipe without [generation] is not evaluated.
    """
    if not session.recipe.get("generation"):
        return
    energy = copy.deepcopy(session.ema.module).eval()
    parts: dict[str, Callable[[Session, Energy], None]] = {
        "generation": _generate,
        "restoration": _restore,
        "evaluation": _promise,
        "evaluation.outlier_score": _score,
        "evaluation.outliers": _find_outliers,
        "evaluation.samples": _compare,
        "evaluation.classifier_steps": _judge,
    }
    problems = []
    for name, part in parts.items():
        try:
            with _quiet():
                part(session, energy)
        except KeyError:
            continue  # plain values that no `read_recipe` has completed
        except RAW as error:
            problems.append(f"  {name}: {_explain(error)}")
    if problems:
        many = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        lines = [f"the recipe has {many} that would show after training:", *problems]
        raise ValueError("\n".join(lines))


def scores_data(energy: Energy) -> bool:
    """Tell whether an energy, or its marginal, is one of data alone: a deep belief net's is not."""
    latent = latent_of(energy)
    return latent.data_domain is None or latent.marginal is not None


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold warnings back, which speak of two points, and leave torch's own generator alone."""
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        yield


def _explain(error: Exception) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, ValueError) and text.count(";") > 1:
        return text
    return f"it fails on these data ({text[:200]}); lengths and shapes must fit them; correct it"


def _generator(session: Session) -> torch.Generator:
    return make_generator(int(session.recipe["seed"]), "rehearsal", device=session.device)


def _generate(session: Session, energy: Energy) -> None:
    """Draw two samples with few steps."""
    recipe, objective = session.recipe, session.objective
    how = recipe["generation"]
    begin = how.get("start", "noise")
    if begin == "chains" and not objective.persistent:
        raise ValueError(
            f"start is 'chains' and {type(objective).__name__} keeps none; an objective that does "
            "is needed (PCD); use start = 'noise'"
        )
    if begin == "partner" and not isinstance(session.partner, Generator):
        raise ValueError(
            f"start is 'partner' and {type(objective).__name__} trains no generator; an objective "
            "that does is needed (Cooperative); use start = 'noise'"
        )
    levels = len(recipe["objective"].get("sigmas") or ()) or 2
    least = max(len(how.get("temperatures", ())), levels)
    few = {"steps": min(how.get("steps", 1), least), "num_levels": 2}
    small = {**recipe, "generation": {**how, **few}}
    generate_from_recipe(energy, small, ROWS, generator=_generator(session))


def _marginal(session: Session, energy: Energy) -> Energy:
    """Return the energy as a function of x alone, as evaluation reads it."""
    own = latent_of(energy).marginal
    return own() if own else bind_smallest_sigma(energy, noise_levels(energy, session.recipe))


def _restore(session: Session, energy: Energy) -> None:
    """Restore two test images with few steps, if evaluation will."""
    how, data = session.recipe.get("restoration"), session.data
    if not how or not how.get("count") or len(data.domain.shape) != 3:
        return
    if data.domain.kind == "binary":
        return
    x, generator = _points(session, ROWS), _generator(session)
    if how.get("method") == "split-gibbs":
        few: dict[str, Any] = {"draws": 1, "num_levels": 1, "denoise_steps": 1}
        few |= {name: how[name] for name in ("sigma_max", "sigma_min", "precision")}
        split_gibbs_sample(energy, Identity(), x, how["sigma"], generator=generator, **few)
        return
    if how.get("prior_samples") and not session.recipe["generation"].get("sampler"):
        raise ValueError(
            f"prior_samples is {how['prior_samples']} and [generation] has no sampler; prior "
            "samples are drawn by its chains; set prior_samples = 0, or add a sampler"
        )
    temperatures = how.get("temperatures", [1.0])
    restore(
        _marginal(session, energy),
        Identity(),
        x,
        how["sigma"],
        build("sampler", how["sampler"]),
        generator=generator,
        steps=min(how["steps"], len(temperatures)),
        temperatures=temperatures,
        denoise_sigma=how.get("denoise_sigma", 0.0),
    )


def _promise(session: Session, energy: Energy) -> None:
    """Check that the calibration part can promise the rate of false alarms."""
    rate = _evaluation(session).get("alpha")
    if rate is not None and scores_data(energy):
        alarm_ranks(len(session.data.calibration), rate, "marginal", 0.05)


def _score(session: Session, energy: Energy) -> None:
    """Fit the outlier score to some training points, and compute it for two."""
    name = _evaluation(session).get("outlier_score")
    if name is None or not scores_data(energy):
        return
    how, train = get_outlier_score(name), session.data.train
    seen = _marginal(session, energy) if how.reads == "energy" else energy
    reference, labels = _points(session, MAX_REFERENCE, train.x), train.y
    with freeze(seen) as seen:
        statistics = {}
        if how.needs_reference:
            labels = None if labels is None else labels[: len(reference)].to(reference.device)
            statistics = how.fit(seen, reference, labels)
        how.compute(seen, _points(session, ROWS), statistics)


def _find_outliers(session: Session, energy: Energy) -> None:
    """Check that every outlier set has a name that is known, or is a file that can be read."""
    data, root = session.data, session.recipe["data"].get("root")
    for name in _evaluation(session).get("outliers", ()):
        if name not in list_datasets():
            load_data(name, root=root, download=False, binarize=data.binarization or None)


def _compare(session: Session, energy: Energy) -> None:
    """Compute on noise every metric that needs a number of examples, where there are few."""
    count, data = _evaluation(session).get("samples"), session.data
    if count is None or min(count, len(data.test), len(data.train)) >= SMALL:
        return
    generator = _generator(session)
    made, test = (
        torch.randn(n, 2, generator=generator, device=session.device)
        for n in (count, len(data.test))
    )
    test = test[:count]
    mmd(made, test)
    frechet_distance(made, test)
    energy_gap(test[:, 0], made[:, 0])
    if _judged(session):
        rows = min(count, len(data.test), len(data.train))
        precision_recall(made[:rows], test[:rows])


def _judged(session: Session) -> bool:
    """Tell whether a classifier of real images judges the samples."""
    wanted = _evaluation(session).get("classifier_steps")
    return bool(wanted and session.data.classes and len(session.data.domain.shape) == 3)


def _judge(session: Session, energy: Energy) -> None:
    """Ask an untrained classifier of images of this shape for an answer."""
    if _judged(session):
        x = _points(session, ROWS)
        judge = ImageClassifier(tuple(x.shape[1:]), session.data.classes).to(session.device)
        judge.eval().probabilities(x)


def _evaluation(session: Session) -> Plain:
    return session.recipe.get("evaluation") or {}


def _points(session: Session, count: int, x: Tensor | None = None) -> Tensor:
    """Return some test points, or some of x, in the domain of the data."""
    rows = (session.data.test.x if x is None else x)[:count].to(session.device)
    return rows.round() if session.data.domain.kind == "binary" else rows
