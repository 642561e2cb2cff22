"""Probe a run before its first update: train a copy for a few updates at the full rate, and watch.

The usual first minutes of a run that will die look like this: the first updates change the weights
by a good part of their size and the energies by many times what there is to tell apart, the score
then throws chains across the whole of the data in one step, and nothing comes back. All of it shows
in three updates of a copy, which is thrown away.
"""

import copy
import math
from dataclasses import asdict, dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy import latent_of, noise_of, value_and_score
from lowland.samplers.kernel import HasStepSize
from lowland.samplers.langevin import Langevin, ShortRun
from lowland.training.session import Session
from lowland.training.settings import Row

UPDATES = 3  # of the copy
MAX_PROBE_ROWS = 64  # examples at which energies and chain steps are looked at
MAX_RATE_HALVINGS = 8
MAX_DRIFT = 1.0  # of one sampler step, in standard deviations of the data
MAX_NOISE = 3.0  # likewise
MIN_MOVE = 1e-4  # of both in one visit, likewise
MAX_WEIGHT_CHANGE = 0.3  # by three updates, in units of the weights' size
MAX_GROWTH = 300.0  # of the standard deviation of energies, in units of max(that before, 1)


@dataclass(frozen=True)
class ProbeReport:
    """Findings of the probe.

    weight_change: of three updates, see `relative_weight_change`; drift, noise: of one sampler step
    after them, per number, in units of the data's standard deviation (NaN without a step size);
    energy_std_before, energy_std_after: of the data's energies; sentences: what to tell the user;
    rate_factor, step_factor: applied to the learning rate and to the sampler's step size.
    """

    weight_change: float
    drift: float
    noise: float
    energy_std_before: float
    energy_std_after: float
    rate_factor: float
    step_factor: float
    sentences: tuple[str, ...]

    def plain(self) -> Row:
        """Return the values for the log."""
        return asdict(self) | {"sentences": list(self.sentences)}


class _Trial(NamedTuple):
    """Measurements on one copy; finite: whether every update was applied."""

    weight_change: float
    drift: float
    noise: float
    energy_std_before: float
    energy_std_after: float
    finite: bool

    @property
    def unstable(self) -> bool:
        """Tell whether the rate is far too large."""
        growth = self.energy_std_after / max(self.energy_std_before, 1.0)
        calm = growth <= MAX_GROWTH and self.weight_change < MAX_WEIGHT_CHANGE  # NaN is not
        return not (self.finite and calm)

    @property
    def overshoots(self) -> bool:
        """Tell whether the sampler's step is far too large."""
        return self.drift > MAX_DRIFT or self.noise > MAX_NOISE


def probe(session: Session) -> ProbeReport:
    """Try the rate and the sampler's step on copies of a session that has not begun, and report
    what is far too large.

    With training.preflight = "adjust" rate and step are halved until the copy stays stable; the
    factors go into the session, and from there into its checkpoints. Cost: three updates for each
    trial. Draws nothing from the session.
    """
    rate = step = 1.0
    first = trial = _try(session, rate, step)
    for _ in range(MAX_RATE_HALVINGS):
        if session.settings.preflight != "adjust":
            break
        if trial.unstable:
            rate *= 0.5
        elif trial.overshoots:
            step *= 0.5
        else:
            break
        trial = _try(session, rate, step)
    if rate < 1.0:
        session.lower_rate(rate)
    if step < 1.0:
        session.shorten_step(step)
    numbers = first._asdict()
    del numbers["finite"]
    sentences = tuple(_describe(first, rate, step, session))
    return ProbeReport(**numbers, rate_factor=rate, step_factor=step, sentences=sentences)


def _try(session: Session, rate: float, step: float) -> _Trial:
    """Train a copy with rate and step multiplied by these factors."""
    training = {
        **session.recipe["training"],
        "warmup": 0,
        "ema_decay": 0.0,
        "compile": False,
        "batch": session.settings.batch // session.team.size,
    }
    energy = copy.deepcopy(session.ema.module).requires_grad_(True)
    one = Session({**session.recipe, "training": training}, session.data, energy)
    one.lower_rate(rate)
    one.shorten_step(step)
    x = session.data.train.x[:MAX_PROBE_ROWS].to(session.device)
    before, weights = _energy_std(one, x), [p.detach().clone() for p in one.energy.parameters()]
    for _ in range(UPDATES):
        one.advance()
    finite = not one.row()["nonfinite"]
    after = _energy_std(one, x)
    drift, noise = _step_sizes(one, x)
    change = relative_weight_change(weights, list(one.energy.parameters()))
    return _Trial(change, drift, noise, before, after, finite)


def relative_weight_change(before: list[Tensor], after: list[Tensor]) -> float:
    """Return ‖θ' − θ‖ / ‖θ‖ over all matrices, each taken to be at least as large as a fresh layer.

    A fresh layer is uniform on ±1/√n: n numbers of variance 1/(3 n) a row.
    """
    moved = size = 0.0
    for old, new in zip(before, after, strict=True):
        if old.dim() > 1:
            moved += (new.detach() - old).square().sum().item()
            size += max(old.square().sum().item(), len(old) / 3)
    return math.sqrt(moved / size) if size else 0.0


@torch.no_grad()
def _energy_std(session: Session, x: Tensor) -> float:
    if noise_of(session.energy) or latent_of(session.energy).data_domain is not None:
        return 0.0
    values = session.energy(x.round() if session.energy.domain.kind == "binary" else x)
    return values.float().std(correction=0).item()


def _step_sizes(session: Session, x: Tensor) -> tuple[float, float]:
    """Return drift and noise of one sampler step at data, per number, in units of the data's
    standard deviation.
    """
    sampler = session.module.sampler
    continuous = session.energy.domain.kind in ("real", "box") and not noise_of(session.energy)
    if not continuous or not isinstance(sampler, HasStepSize) or len(x) < 2:
        return math.nan, math.nan
    h = sampler.step_size
    width = x.flatten(1).std(0).mean().clamp_min(1e-6).item()
    score = value_and_score(session.energy, x)[1]
    temperature = sampler.temperature if isinstance(sampler, (Langevin, ShortRun)) else 1.0
    if isinstance(sampler, ShortRun) and sampler.clip is not None:
        score = score.clamp(-sampler.clip, sampler.clip)
    noise = math.sqrt(2 * h * temperature)
    return h * score.square().mean().sqrt().item() / width, noise / width


def _describe(trial: _Trial, rate: float, step: float, session: Session) -> list[str]:
    """Return one sentence for each thing that is far too large or too small."""
    sentences = []
    if trial.unstable:
        sentences.append(
            "three updates at the full rate change the weights by "
            f"{trial.weight_change:.2g} of their size and the standard deviation of the data's "
            f"energies from {trial.energy_std_before:.2g} to {trial.energy_std_after:.2g}"
            + _describe_remedy("learning rate", rate, session)
        )
    if trial.overshoots:
        sentences.append(
            f"one sampler step drifts by {trial.drift:.2g} and shakes by {trial.noise:.2g} "
            "standard deviations of the data" + _describe_remedy("step size", step, session)
        )
    steps = session.objective.steps
    if max(trial.drift * steps, trial.noise * math.sqrt(steps)) < MIN_MOVE:
        sentences.append(
            f"{steps} sampler steps move chains by less than {MIN_MOVE:g} standard deviations of "
            "data; raise the step size"
        )
    return sentences


def _describe_remedy(name: str, factor: float, session: Session) -> str:
    if factor < 1:
        return f"; the {name} was multiplied by {factor:g}"
    if session.settings.preflight == "adjust":
        return ""
    return "; training.preflight = 'adjust' would lower it"
