"""Before the first update: a copy of the run flies a few updates at the full rate, and is watched.

The usual first minutes of a run that will die look like this: the first updates change the weights
by a good part of their size and the energies by many times what there is to tell apart, the score
then throws chains across the whole of the data in one step, and nothing comes back. All of it shows
in three updates of a copy, which is thrown away.
"""

import copy
import math
from dataclasses import asdict, dataclass
from typing import Any, cast

import torch
from torch import Tensor

from lowland.energy import value_and_score
from lowland.samplers import Langevin, ShortRun
from lowland.samplers.kernel import HasStepSize
from lowland.training.session import Session

UPDATES, ROWS = 3, 64
FAR = 1.0  # a drift per step, in units of the data's extent, that no chain comes back from
WIDE = 3.0  # noise per step, likewise
STILL = 1e-4  # both per visit, likewise
LEAP = 0.3  # by how much three updates may change the weights, in units of their size
# by how much three updates may widen the spread of the energies, in units of max(spread before, 1)
WILD = 300.0
HALVINGS = 8


@dataclass(frozen=True)
class Flight:
    """What the probe saw. leap: change of the weights in three updates, see `leap`; drift, noise:
    of one sampler step, per number, in units of the data's standard deviation, after the flight
    (NaN without a sampler that has a step size); spread: of the data's energies, before and after;
    sentences: what is to be said; rate, step: factors that were applied to the learning rate and to
    the sampler's step.
    """

    leap: float
    drift: float
    noise: float
    spread_before: float
    spread_after: float
    rate: float
    step: float
    sentences: tuple[str, ...]

    def plain(self) -> dict[str, Any]:
        """Values for the log."""
        return asdict(self) | {"sentences": list(self.sentences)}


def fly(session: Session) -> Flight:
    """Probe the rate and the sampler's step on copies of a session that has not begun, and say what
    is far too large.

    With training.preflight = "adjust" the rate and the step are halved until the copy comes back;
    the factors go into the session, and from there into its checkpoints. Cost: three updates for
    each flight. Draws nothing from the session.
    """
    rate = step = 1.0
    first = seen = _try(session, rate, step)
    for _ in range(HALVINGS if session.settings.preflight == "adjust" else 0):
        if not (seen["wild"] or seen["far"]):
            break
        rate, step = (
            rate * (0.5 if seen["wild"] else 1.0),
            step * (0.5 if seen["far"] and not seen["wild"] else 1.0),
        )
        seen = _try(session, rate, step)
    if rate < 1.0:
        session.lower_rate(rate)
    if step < 1.0:
        session.shorten(step)
    sentences = tuple(_sentences(first, rate, step, session))
    numbers = {
        name: first[name] for name in ("leap", "drift", "noise", "spread_before", "spread_after")
    }
    return Flight(**numbers, rate=rate, step=step, sentences=sentences)


def _try(session: Session, rate: float, step: float) -> dict[str, float]:
    """Fly a copy; what it showed."""
    alone = {
        "warmup": 0,
        "ema_decay": 0.0,
        "compile": False,
        "batch": session.settings.batch // session.team.size,
    }
    recipe = {**session.recipe, "training": {**session.recipe["training"], **alone}}
    one = Session(
        recipe, session.data, cast(Any, copy.deepcopy(session.ema.module).requires_grad_(True))
    )
    one.lower_rate(rate)
    one.shorten(step)
    x = session.data.train.x[:ROWS].to(session.device)
    before, weights = _spread(one, x), [p.detach().clone() for p in one.energy.parameters()]
    for _ in range(UPDATES):
        one.advance()
    lost = one.row()["nonfinite"]
    after = _spread(one, x)
    drift, noise = _moves(one, x)
    change = leap(weights, list(one.energy.parameters()))
    wild = (
        bool(lost)
        or not math.isfinite(after)
        or after > WILD * max(before, 1.0)
        or not change < LEAP
    )
    return {
        "drift": drift,
        "noise": noise,
        "leap": change,
        "spread_before": before,
        "spread_after": after,
        "wild": wild,
        "far": drift > FAR or noise > WIDE,
    }


def leap(before: list[Tensor], after: list[Tensor]) -> float:
    """‖θ' − θ‖ / ‖θ‖ over all matrices, each of them taken to be at least as large as a fresh
    layer's weights.
    """
    moved = size = 0.0
    for old, new in zip(before, after, strict=True):
        if old.dim() > 1:
            moved += (new.detach() - old).square().sum().item()
            size += max(
                old.square().sum().item(), len(old) / 3
            )  # uniform on ±1/√n: n numbers of variance 1/(3 n) a row
    return math.sqrt(moved / size) if size else 0.0


@torch.no_grad()
def _spread(session: Session, x: Tensor) -> float:
    if getattr(session.energy, "noise", False) or session.energy.data_domain is not None:
        return 0.0
    values = session.energy(x.round() if session.energy.domain.kind == "binary" else x)
    return values.float().std(correction=0).item()


def _moves(session: Session, x: Tensor) -> tuple[float, float]:
    """Drift and noise of one sampler step at data, per number, in units of the data's standard
    deviation.
    """
    sampler = session.module.sampler
    continuous = session.energy.domain.kind in ("real", "box") and not getattr(
        session.energy, "noise", False
    )
    if not continuous or not isinstance(sampler, HasStepSize) or len(x) < 2:
        return math.nan, math.nan
    width = x.flatten(1).std(0).mean().clamp_min(1e-6).item()
    score = value_and_score(session.energy, x)[1]
    h, temperature = sampler.step_size, 1.0
    if isinstance(sampler, ShortRun) and sampler.clip is not None:
        score = score.clamp(-sampler.clip, sampler.clip)
    if isinstance(sampler, (Langevin, ShortRun)):
        temperature = sampler.temperature
    noise = math.sqrt(2 * h * temperature)
    return h * score.square().mean().sqrt().item() / width, noise / width


def _sentences(seen: dict[str, float], rate: float, step: float, session: Session) -> list[str]:
    did = {True: "", False: "; training.preflight = 'adjust' would lower it"}
    found = []
    if seen["wild"]:
        found.append(
            f"three updates at the full rate change the weights by {seen['leap']:.2g} of their "
            f"size and the spread of the data's energies from {seen['spread_before']:.2g} to "
            f"{seen['spread_after']:.2g}"
            + (
                f"; the learning rate was multiplied by {rate:g}"
                if rate < 1
                else did[session.settings.preflight == "adjust"]
            )
        )
    if seen["far"]:
        found.append(
            f"one sampler step drifts by {seen['drift']:.2g} and shakes by {seen['noise']:.2g} "
            "standard deviations of the data"
            + (
                f"; the step size was multiplied by {step:g}"
                if step < 1
                else did[session.settings.preflight == "adjust"]
            )
        )
    steps = session.objective.steps
    if max(seen["drift"] * steps, seen["noise"] * math.sqrt(steps)) < STILL:
        found.append(
            f"{steps} sampler steps move chains by less than {STILL:g} standard deviations of "
            "data; raise the step size"
        )
    return found
