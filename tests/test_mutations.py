"""Planted bugs. Each is put into the library and must be caught by the very check that passes
without it.

A proof by statistics is worth what it would catch: noise × 0.97, a missing accept step, a score
that belongs to the last point. Bugs of samplers are those of lowland.testing.mutants: the real
module with one line changed. Every other entry names a check of contract/checks.py (or one line
that a contract test uses), what is sound and what is broken, as a copy or as a patch of the library
for the time of the check.
"""

import copy
import dataclasses
import math
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from contract import checks
from torch import Tensor

from lowland import MALA, Energy, Function, ReplayBuffer, ShortRun, box, real, sample
from lowland import energy as energies
from lowland.energy import Mixture, Sum
from lowland.objectives import CD, DSM, PCD, Batch, Context, Loss, Objective, contrast
from lowland.samplers import Draws, Info, Moments, State, loop
from lowland.samplers.kernel import metropolis, normal_like, squared_norm
from lowland.testing import (
    LIMIT,
    TARGETS,
    Mutant,
    Probe,
    Target,
    all_samplers,
    caught,
    no_trace,
    sampling_leaves_no_trace,
    seeded,
    stationarity,
    unsettle,
)
from lowland.testing.mutants import MUTANTS

# ---------------------------------------------------------------------- samplers, wrong in one line


def test_there_are_bugs_in_every_family() -> None:
    families = Counter(mutant.family for mutant in MUTANTS)
    assert set(families) == {type(sampler).__name__ for sampler in all_samplers().values()} - {
        "ShortRun"
    }  # its formula is below
    assert len(MUTANTS) >= 80 and min(families.values()) >= 3


CHECKED = {f"{mutant.sound}, {mutant.seen_by}": mutant for mutant in MUTANTS}


@pytest.mark.parametrize("mutant", CHECKED.values(), ids=CHECKED)
def test_sound_sampler_passes_the_checks_that_catch_its_bugs(mutant: Mutant) -> None:
    assert mutant.is_fair(), "the check condemns what is sound"


@pytest.mark.parametrize(
    "mutant", MUTANTS, ids=[f"{m.family}: {m.bug}, {m.seen_by}" for m in MUTANTS]
)
def test_broken_sampler_is_caught(mutant: Mutant) -> None:
    assert mutant.is_caught(), "the bug went unseen"


class Bug(NamedTuple):
    """check(sound) must pass and check(wrong) must be caught."""

    check: Callable[..., Any]
    sound: Any
    wrong: Any


# -------------------------------------------------------------------- bugs patched into the library


def batch_mean(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of the energies is differentiated: every gradient divided by the batch."""
    leaf = x.detach().requires_grad_(True)
    value = energy(leaf)
    (gradient,) = torch.autograd.grad(value.mean(), leaf)
    return value.detach(), -gradient


def uphill(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """The sign of the score."""
    value, score = energies.value_and_score(energy, x)
    return value, -score


def reflect_without_flip(
    self: Any, x: Tensor, momentum: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    return SOUND_REFLECT(self, x)[0], momentum


def reflect_once(
    self: Any, x: Tensor, momentum: Tensor | None = None
) -> tuple[Tensor, Tensor | None]:
    """Only one bounce, then a clamp."""
    y = torch.where(x < self.lo, 2 * self.lo - x, torch.where(x > self.hi, 2 * self.hi - x, x))
    flipped = (
        None
        if momentum is None
        else torch.where((x < self.lo) | (x > self.hi), -momentum, momentum)
    )
    return y.clamp(self.lo, self.hi), flipped


SOUND_REFLECT = type(box(0.0, 1.0, 1)).reflect


def reflection(_: Any = None) -> None:
    checks.wall_count_matches()


def unweighted(self: Mixture, x: Tensor, c: Any = None) -> Tensor:
    values = torch.stack([energy(x, c) for energy in self.energies])
    return -torch.logsumexp(-values, 0)


def difference_as_sum(self: Energy, other: Energy) -> Sum:
    return Sum([self, other])


def times_temperature(self: Energy, temperature: float) -> Sum:
    return Sum([self], [float(temperature)])


def unflattened(self: Sum, energies_: Any, weights: Any = None) -> None:
    """Nested sums are flattened, but the outer weight is lost."""
    Energy.__init__(self, energies_[0].domain)
    weights = [1.0] * len(energies_) if weights is None else list(weights)
    terms, factors = [], []
    for energy, weight in zip(energies_, weights, strict=True):
        terms += list(energy.energies) if isinstance(energy, Sum) else [energy]
        factors += list(energy.weights) if isinstance(energy, Sum) else [weight]
    self.energies, self.weights = torch.nn.ModuleList(terms), tuple(factors)


class Unfrozen:
    """A context that gives the module itself, in the place of `freeze`."""

    def __init__(self, energy: Any) -> None:
        self.energy = energy

    def __enter__(self) -> Any:
        return self.energy

    def __exit__(self, *_: Any) -> None: ...


class LeftInEval(Unfrozen):
    """eval() on the way in, train() on the way out: mixed modes are lost."""

    def __enter__(self) -> Any:
        self.energy.eval()
        return self.energy

    def __exit__(self, *_: Any) -> None:
        self.energy.train()


class AllThawed(LeftInEval):
    """requires_grad is put back to True for all."""

    def __enter__(self) -> Any:
        self.modes = [(m, m.training) for m in self.energy.modules()]
        self.energy.eval()
        self.energy.requires_grad_(False)
        return self.energy

    def __exit__(self, *_: Any) -> None:
        for module, mode in self.modes:
            module.training = mode
        self.energy.requires_grad_(True)


def update_first_slots(self: ReplayBuffer, visit: Any, x: Tensor, steps: int, *_: Any) -> int:
    """Written to the first slots."""
    self.x[: len(x)] = x
    self.age[visit.slots] = torch.where(visit.reinitialized, 0, self.age[visit.slots]) + steps
    return 0


def update_in_wrong_order(self: ReplayBuffer, visit: Any, x: Tensor, steps: int, *_: Any) -> int:
    """The right slots in the wrong order: chains and labels part."""
    self.x[visit.slots.sort().values] = x
    self.age[visit.slots] = torch.where(visit.reinitialized, 0, self.age[visit.slots]) + steps
    return 0


def sample_with_replacement(self: ReplayBuffer, count: int, generator: torch.Generator) -> Any:
    visit = SOUND_SAMPLE(self, count, generator)
    slots = visit.slots.clone()
    slots[1] = slots[0]
    return visit._replace(slots=slots)


def labels_left_behind(self: ReplayBuffer, count: int, generator: torch.Generator) -> Any:
    visit = SOUND_SAMPLE(self, count, generator)
    return visit._replace(labels=None if visit.labels is None else visit.labels.roll(1))


SOUND_SAMPLE = ReplayBuffer.sample


def slots(_: Any = None) -> None:
    checks.buffer_keeps_slots(
        ReplayBuffer(50, real(2), generator=seeded(), classes=5, reinit_prob=0.3), 20
    )


def pcd(_: Any = None) -> None:
    checks.pcd_keeps_slots(PCD(steps=3, buffer_size=64))


def algebra(_: Any = None) -> None:
    checks.algebra_is_right()


def score(_: Any = None) -> None:
    x = torch.randn(6, 2, generator=seeded(), dtype=torch.float64)
    checks.gradient_is_right(Function(lambda x: x.pow(4).sum(1)), x)


def sampled(_: Any = None) -> None:
    sampling_leaves_no_trace(MALA(0.01))


def chains_no_trace(_: Any = None) -> None:
    probe = Probe()
    unsettle(probe)
    with no_trace(probe):
        loop.run_chains(
            probe, MALA(0.01), torch.randn(6, 3, generator=seeded()), 3, generator=seeded()
        )


def moments(_: Any = None) -> None:
    x = torch.randn(5, 2, generator=seeded(), dtype=torch.float64)
    trace = sample(
        lambda x: 0.5 * x.square().sum(1),
        MALA(0.5),
        x,
        9,
        generator=seeded(),
        recorders=[Draws(), Moments()],
    )
    mean, variance, _count = trace.records["moments"]
    torch.testing.assert_close(mean, trace.draws.flatten(0, 1).mean(0))
    torch.testing.assert_close(variance, trace.draws.flatten(0, 1).var(0))


def moments_without_between(self: Any, x: Tensor) -> None:
    """The pooled variance without the spread between batches."""
    x = x.double()
    n, delta = len(x), x.mean(0) - self.mean
    self.squares += (x - x.mean(0)).square().sum(0)
    self.count += n
    self.mean += delta * n / self.count


def short_run(_: Any = None) -> None:
    checks.short_run_formula(ShortRun(0.2, 0.3, clip=0.3, clamp=(-0.5, 0.8)))


def tied_noise(
    self: ShortRun, energy: Energy, state: State, g: torch.Generator
) -> tuple[State, Info]:
    y = (
        state.x
        + self.step_size * state.score.clamp(-0.3, 0.3)
        + math.sqrt(2 * self.step_size) * normal_like(state.x, g)
    )
    return metropolis(state, self.init(energy, y.clamp(-0.5, 0.8)), None, g)


def clipped_by_norm(
    self: ShortRun, energy: Energy, state: State, g: torch.Generator
) -> tuple[State, Info]:
    scale = (0.3 / squared_norm(state.score).sqrt()).clamp(max=1).view(-1, 1)
    y = state.x + self.step_size * state.score * scale + self.noise * normal_like(state.x, g)
    return metropolis(state, self.init(energy, y.clamp(-0.5, 0.8)), None, g)


class Patch(NamedTuple):
    """check() passes, and is caught once `target` is replaced by `wrong`."""

    check: Callable[[], Any]
    target: str
    wrong: Any


PATCHES: dict[str, Patch] = {
    "score: mean for sum": Patch(score, "contract.checks.value_and_score", batch_mean),
    "score: sign": Patch(score, "contract.checks.value_and_score", uphill),
    "reflect: momentum not turned": Patch(
        reflection, "lowland.domain.Domain.reflect", reflect_without_flip
    ),
    "reflect: one bounce only": Patch(reflection, "lowland.domain.Domain.reflect", reflect_once),
    "mixture without weights": Patch(algebra, "lowland.energy.Mixture.forward", unweighted),
    "a − b is a + b": Patch(algebra, "lowland.energy.Energy.__sub__", difference_as_sum),
    "a / T is a · T": Patch(algebra, "lowland.energy.Energy.__truediv__", times_temperature),
    "flattening loses the weight": Patch(algebra, "lowland.energy.Sum.__init__", unflattened),
    "sample does not freeze": Patch(chains_no_trace, "lowland.samplers.loop.freeze", Unfrozen),
    "sample forgets mixed modes": Patch(sampled, "lowland.samplers.loop.freeze", LeftInEval),
    "sample thaws frozen weights": Patch(sampled, "lowland.samplers.loop.freeze", AllThawed),
    "buffer writes to wrong slots": Patch(
        slots, "lowland.replay.ReplayBuffer.update", update_first_slots
    ),
    "buffer writes in wrong order": Patch(
        slots, "lowland.replay.ReplayBuffer.update", update_in_wrong_order
    ),
    "buffer draws a slot twice": Patch(
        slots, "lowland.replay.ReplayBuffer.sample", sample_with_replacement
    ),
    "buffer mixes up labels": Patch(
        slots, "lowland.replay.ReplayBuffer.sample", labels_left_behind
    ),
    "PCD: buffer writes to wrong slots": Patch(
        pcd, "lowland.replay.ReplayBuffer.update", update_first_slots
    ),
    "PCD: buffer writes in wrong order": Patch(
        pcd, "lowland.replay.ReplayBuffer.update", update_in_wrong_order
    ),
    "PCD: chains not written back": Patch(pcd, "lowland.replay.ReplayBuffer.update", lambda *_: 0),
    "moments without the spread between steps": Patch(
        moments, "lowland.samplers.adaptation.RunningMoments.add", moments_without_between
    ),
    "ShortRun: noise tied to the step": Patch(
        short_run, "lowland.samplers.langevin.ShortRun.step", tied_noise
    ),
    "ShortRun: clipped by norm": Patch(
        short_run, "lowland.samplers.langevin.ShortRun.step", clipped_by_norm
    ),
}


@pytest.mark.parametrize("name", PATCHES)
def test_bug_in_the_library_is_caught(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    check, target, wrong = PATCHES[name]
    assert not caught(check), "the check condemns what is sound"
    monkeypatch.setattr(target, wrong)
    assert caught(check), "the bug went unseen"


# ----------------------------------------------------------------------------- energies, objectives


def attached(energy: Any, positives: Tensor, negatives: Tensor) -> Loss:
    """The negatives are not detached."""
    return Loss(energy(positives).mean() - energy(negatives).mean(), {}, negatives)


def upside_down(energy: Any, positives: Tensor, negatives: Tensor) -> Loss:
    return contrast(energy, negatives.detach(), positives)


def summed(energy: Any, positives: Tensor, negatives: Tensor) -> Loss:
    loss = contrast(energy, positives, negatives)
    return loss._replace(value=loss.value * len(positives))


def from_the_data(energy: Any, positives: Tensor, negatives: Tensor) -> Loss:
    """Negatives that are not draws of the model: data with a little noise."""
    return contrast(energy, positives, positives + 0.1 * negatives)


@dataclasses.dataclass(frozen=True)
class BrokenDSM(Objective):
    """DSM written anew with a slot for each mistake."""

    sigmas: tuple[float, ...] = (0.5,)
    sign: float = 1.0
    weigh: bool = True
    pair: bool = True

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        x, generator = batch.x, context.generator
        levels = torch.tensor(self.sigmas, dtype=x.dtype)
        sigma = levels[torch.randint(len(levels), (len(x),), generator=generator)]
        noise = normal_like(x, generator)
        noisy = (x + sigma.view(-1, 1) * noise).requires_grad_(True)
        told = sigma if self.pair else sigma.roll(1)
        values = energy(noisy, told) if len(levels) > 1 else energy(noisy)
        (gradient,) = torch.autograd.grad(values.sum(), noisy, create_graph=True)
        wide = sigma.view(-1, 1) if self.weigh else torch.ones(())
        return Loss(0.5 * (noise - self.sign * wide * gradient).square().mean(), {})


class BatchCoupled(Energy):
    def __init__(self) -> None:
        super().__init__(real(2))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return (x - 0.01 * x.mean(0)).square().sum(1)


class Leaky(Probe):
    """Keeps a running mean of what it sees, in eval mode too: a buffer that moves inside a
    chain.
    """

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(3))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        self.seen.mul_(0.9).add_(0.1 * x.detach().mean(0))
        return super().forward(x)


def buffers_stay(probe: Any) -> None:
    with no_trace(probe):
        sample(probe, MALA(0.01), torch.randn(6, 3, generator=seeded()), 3, generator=seeded())


def rows(energy: Energy) -> None:
    checks.rows_are_independent(energy, torch.randn(9, 2, generator=seeded()))


def wrong_law(target: Target) -> float:
    return stationarity(MALA(0.2), target)


def wider(count: int, g: torch.Generator, dtype: torch.dtype) -> Tensor:
    return 1.03 * TARGETS["gaussian"].energy.draw(count, g, dtype)  # type: ignore[operator]


@dataclasses.dataclass(frozen=True)
class ForgetsRestart(PCD):
    """Chains run under the labels of the data instead of those of their slots."""

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        buffer: Any = context.buffer
        other = copy.copy(buffer)
        other.x, other.labels = buffer.x, torch.zeros_like(buffer.labels)
        return super().loss(energy, batch, dataclasses.replace(context, buffer=other))


@dataclasses.dataclass(frozen=True)
class StartsAtData(PCD):
    """PCD in name, CD in fact."""

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        return CD(self.steps).loss(energy, batch, context)


OTHERS: dict[str, Bug] = {
    "contrast: negatives attached": Bug(checks.likelihood_gradient, contrast, attached),
    "contrast: upside down": Bug(checks.likelihood_gradient, contrast, upside_down),
    "contrast: sum for mean": Bug(checks.likelihood_gradient, contrast, summed),
    "contrast: negatives at the data": Bug(checks.likelihood_gradient, contrast, from_the_data),
    "DSM: sign": Bug(checks.dsm_minimiser, DSM((0.5,)), BrokenDSM((0.5,), sign=-1.0)),
    "DSM: σ forgotten": Bug(checks.dsm_minimiser, DSM((0.5,)), BrokenDSM((0.5,), weigh=False)),
    "DSM: score × 1.05": Bug(checks.dsm_minimiser, DSM((0.5,)), BrokenDSM((0.5,), sign=1.05)),
    "DSM: rows told the wrong level": Bug(
        checks.dsm_minimiser, DSM((1.0, 0.2)), BrokenDSM((1.0, 0.2), pair=False)
    ),
    "PCD: labels of the wrong chains": Bug(
        checks.pcd_keeps_slots, PCD(3, 64), ForgetsRestart(3, 64)
    ),
    "PCD: starts at the data": Bug(checks.pcd_keeps_slots, PCD(3, 64), StartsAtData(3, 64)),
    "energy: rows coupled by one percent": Bug(rows, TARGETS["gaussian"].energy, BatchCoupled()),
    "energy: a buffer moves in eval mode": Bug(buffers_stay, Probe(), Leaky()),
    "target: draws 3% too wide": Bug(
        wrong_law, TARGETS["gaussian"], TARGETS["gaussian"]._replace(draw=wider)
    ),
}


@pytest.mark.parametrize("name", OTHERS)
def test_broken_energy_or_objective_is_caught(name: str) -> None:
    check, sound, wrong = OTHERS[name]
    assert not caught(check, sound), "the check condemns what is sound"
    assert caught(check, wrong), "the bug went unseen"


def test_the_slots_of_the_copies_do_something() -> None:
    """BrokenDSM without a mistake passes: it is the mistake that is caught, not the copy."""
    assert (
        checks.dsm_minimiser(BrokenDSM((0.5,))) < LIMIT
        and checks.dsm_minimiser(BrokenDSM((1.0, 0.2))) < LIMIT
    )
