"""Which checkpoint is the best, by a criterion that means something for an energy: not the loss.

    mmd       maximum mean discrepancy between draws of the model and held-out data (for images, of
              their features)
    frechet   Fréchet distance between the same, on features
    ksd       kernel Stein discrepancy of held-out data from the energy: no draws, real domains only

Draws are made as the recipe's [generation] says, from averaged weights, with a generator that is a
function of seed and step: the run itself draws as if nothing had been selected. Held-out data are
the calibration part. Features of labelled images are the last layer of a classifier of the training
part; others are compared as they are.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from lowland.data import materialize
from lowland.energy import Energy, energy_values, latent_of, noise_of
from lowland.metrics import frechet_distance, ksd, mmd
from lowland.seeds import make_generator
from lowland.tasks import generate_from_recipe
from lowland.training.classifier import train_classifier
from lowland.training.session import Session

HELD = 512


@dataclass
class Selection:
    """criterion: mmd, frechet or ksd; every: updates between judgements; held: (N, *event);
    features: what is compared.
    """

    criterion: str
    every: int
    held: Tensor
    features: Callable[[Tensor], Tensor]

    @classmethod
    def of(cls, session: Session) -> "Selection | None":
        """Build what the settings ask for; None for nothing."""
        settings = session.settings
        if settings.select_by == "none":
            return None
        data = materialize(session.data)
        held = data.calibration.x[: settings.select_samples].to(session.device)
        if len(held) < 16:
            raise ValueError(
                f"training.select_by is {settings.select_by!r} and {data.name} has {len(held)} "
                "held-out examples; at least 16 are needed; take more data, or set "
                "training.select_by = 'none'"
            )
        if settings.select_by == "ksd" and session.energy.domain.kind != "real":
            raise ValueError(
                f"training.select_by is 'ksd' and the domain is {session.energy.domain.kind}; it "
                "needs a real one; use 'mmd'"
            )
        features: Callable[[Tensor], Tensor] = lambda x: x.flatten(1)  # noqa: E731
        if data.classes and len(data.domain.shape) == 3 and settings.select_by != "ksd":
            judge = train_classifier(
                data.train, data.classes, steps=300, seed=0, device=session.device
            )
            features = judge.features
        return cls(
            settings.select_by, settings.select_every or settings.checkpoint_every, held, features
        )

    def judge(self, session: Session) -> dict[str, float]:
        """Judge the averaged weights where it is time, and remember the best in the session; return
        the criterion for the log.
        """
        if session.step % self.every and session.step < session.settings.steps:
            return {}
        value = self.value(session)
        best = session.best
        if not best or value < best["value"]:
            session.best = {"step": session.step, "value": value, "waited": 0}
        else:
            session.best = {**best, "waited": best["waited"] + 1}
        return {self.criterion: value}

    def value(self, session: Session) -> float:
        """Return the criterion for the averaged weights: low is good; infinite if something is not
        finite.
        """
        energy = session.ema.module
        if not all(bool(p.isfinite().all()) for p in energy.parameters()):
            return math.inf
        value = self._evaluate(session, energy)
        return value if math.isfinite(value) else math.inf

    def _evaluate(self, session: Session, energy: Energy) -> float:
        if self.criterion == "ksd":
            return ksd(energy, self.held).value
        seed, step = session.recipe["seed"], session.step
        generator = make_generator(seed, "selection", step, device=session.device)
        count = len(self.held)
        made = generate_from_recipe(energy, session.recipe, count, generator=generator).x
        if not bool(made.isfinite().all()):
            return math.inf
        a, b = self.features(made), self.features(self.held)
        if self.criterion == "mmd":
            return mmd(a, b).value
        return frechet_distance(a, b)


def held_gap(session: Session) -> dict[str, float]:
    """Return how far held-out data lie above training data in the averaged energy, in standard
    deviations; {} where it needs more than x.
    """
    energy = session.ema.module
    plain = (
        energy.domain.kind in ("real", "box")
        and latent_of(energy).data_domain is None
        and noise_of(energy) is None
    )
    parts = [
        part.x[:HELD].to(session.device) for part in (session.data.train, session.data.calibration)
    ]
    if not plain or min(map(len, parts)) < 32:
        return {}
    seen, held = (energy_values(energy, part) for part in parts)
    return {"held_gap": float((held.mean() - seen.mean()) / seen.std().clamp_min(1e-12))}
