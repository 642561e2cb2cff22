"""One update: what is not finite is skipped without waiting, parts of a batch add up, partners are
trained and kept.
"""

import copy
import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

import lowland
from lowland.data import load_data
from lowland.energy import Energy
from lowland.objectives import Batch, Context, Loss, Objective
from lowland.run import Run
from lowland.training import Training
from lowland.training.build import build_partner
from lowland.training.session import Session
from lowland.training.step import diversity
from lowland.training.tensorboard import Board


@dataclass(frozen=True)
class Plain(Objective):
    """A loss without chance: mean E², times a factor that a test may make NaN."""

    factor: float = 1.0

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        value = self.factor * energy(batch.x).square().mean()
        return Loss(value, {"energy_data": value.detach()})


@dataclass(frozen=True)
class WithPartner(Plain):
    """A learned constant that follows the mean energy; gradients of both parts are their own."""

    partner_rate: float = 10.0

    def make_partner(self, energy: Any, x: Tensor) -> nn.Module:
        made = nn.Linear(1, 1)
        nn.init.normal_(made.weight)
        return made

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        own, partner = super().loss(energy, batch, context), cast(nn.Module, context.partner)
        return own._replace(value=own.value + (partner(torch.ones(1, 1)) - 3).square().sum())


def session(objective: Any = None, **training: Any) -> Session:
    settings = {
        "batch": 32,
        "warmup": 0,
        "decay_fraction": 0.0,
        "steps": 50,
        "grad_clip_norm": 0.0,
        "checkpoint_every": 10,
    }
    values = lowland.read_recipe(
        "moons", {f"training.{k}": v for k, v in (settings | training).items()}
    ).plain()
    one = Session(values, load_data("moons", count=200))
    if objective is not None:
        one.objective = one.module.objective = objective
        one.buffer = None
    return one


def weights(one: Session) -> list[Tensor]:
    return [p.detach().clone() for p in one.energy.parameters()]


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_an_update_that_is_not_finite_leaves_weights_and_moments_alone_and_is_counted(
    optimizer: str,
) -> None:
    one = session(Plain(), optimizer=optimizer, momentum=0.9 if optimizer == "sgd" else 0.0)
    for _ in range(3):
        one.advance()
    before, moments = weights(one), copy.deepcopy(one.optimizer.state_dict()["state"])
    one.module.objective = Plain(float("nan"))
    one.advance()
    assert all(torch.equal(a, b) for a, b in zip(before, weights(one), strict=True))
    for index, state in one.optimizer.state_dict()["state"].items():
        assert all(torch.equal(value, moments[index][name]) for name, value in state.items())
    one.module.objective = Plain()
    one.advance()
    assert not all(torch.equal(a, b) for a, b in zip(before, weights(one), strict=True))
    row = one.row()
    assert row["nonfinite"] == 1 and row["step"] == 5 and one.row()["nonfinite"] == 0


@pytest.mark.parametrize("parts", [2, 8])
def test_the_parts_of_a_batch_add_up_to_its_gradient(parts: int) -> None:
    whole, divided = (
        session(Plain(), accumulate=n, optimizer="sgd", learning_rate=1e-2) for n in (1, parts)
    )
    for _ in range(3):
        whole.advance()
        divided.advance()
    for a, b in zip(weights(whole), weights(divided), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)
    rows = whole.row(), divided.row()
    assert (
        rows[0]["loss"] == pytest.approx(rows[1]["loss"], rel=1e-5)
        and rows[0].keys() == rows[1].keys()
    )
    with pytest.raises(ValueError, match="accumulate is 3"):
        Training(batch=32, accumulate=3)


def partnered(**training: Any) -> Session:
    one = session(**training)
    one.objective = one.module.objective = WithPartner()
    one.buffer = None
    one.partner = build_partner(one.objective, one.energy, one.data, one.settings, one.device, 1)
    one.module.partner = one.partner
    from lowland.training.optimisation import build_optimizer

    one.optimizer = build_optimizer(
        one.energy, one.partner, one.objective.partner_rate, one.settings
    )
    return one


def test_a_partner_is_trained_at_its_own_rate_and_comes_back_from_a_checkpoint() -> None:
    straight, broken = partnered(learning_rate=1e-2), partnered(learning_rate=1e-2)
    assert straight.partner is not None and broken.partner is not None
    for _ in range(5):
        straight.advance()
        broken.advance()
    assert [group["lr"] for group in straight.optimizer.param_groups] == [
        pytest.approx(1e-2),
        pytest.approx(1e-1),
    ]
    checkpoint = broken.checkpoint(0)
    assert set(checkpoint.tensors) >= {"energy", "partner", "optimizer"}
    fresh = partnered(learning_rate=1e-2)
    fresh.restore(checkpoint)
    for _ in range(20):
        straight.advance()
        fresh.advance()
    for a, b in zip(straight.module.parameters(), fresh.module.parameters(), strict=True):
        assert torch.equal(a, b)
    found = sum(p.sum() for p in straight.partner.parameters())
    assert abs(float(found) - 3) < 0.3, "the partner went where its own loss is least"


def test_a_partner_left_out_of_a_checkpoint_would_be_noticed() -> None:
    one, other = partnered(), partnered()
    for _ in range(5):
        one.advance()
    checkpoint = one.checkpoint(0)
    checkpoint.tensors["partner"] = {k: t.clone() for k, t in other.partner.state_dict().items()}  # type: ignore[union-attr]
    fresh = partnered()
    fresh.restore(checkpoint)
    assert not all(
        torch.equal(a, b)
        for a, b in zip(one.module.parameters(), fresh.module.parameters(), strict=True)
    )


def test_what_health_changes_is_in_the_checkpoint() -> None:
    one = session()
    step = one.sampler.step_size
    one.lower_rate(0.25)
    assert one.shorten_step(0.5) and one.module.sampler.step_size == step / 2
    other = session()
    other.restore(one.checkpoint(0))
    assert other.rate_factor == 0.25 and other.module.sampler.step_size == step / 2
    other.advance()
    assert other.row()["rate"] == pytest.approx(0.25 * one.settings.rate(0))
    still = session(lowland.objectives.DSM())
    still.sampler = None
    assert not still.shorten_step(0.5)


def test_renewed_chains_are_the_oldest_and_stay_with_their_labels() -> None:
    g = torch.Generator().manual_seed(0)
    buffer = lowland.ReplayBuffer(100, lowland.real(2), generator=g, classes=4)
    buffer.age = torch.arange(100)
    before, labels = buffer.x.clone(), None if buffer.labels is None else buffer.labels.clone()
    assert buffer.reinit(0.3, g) == 30
    moved = (buffer.x != before).any(1)
    assert torch.equal(moved, torch.arange(100) >= 70) and not buffer.age[70:].any()
    assert labels is not None and torch.equal(buffer.labels, labels)  # type: ignore[arg-type]


def test_diversity_is_the_ratio_of_total_variances() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(4000, 1, 4, 4, generator=g)
    assert float(diversity(2 * x, x)["diversity"]) == pytest.approx(4.0)
    assert float(diversity(x[:1].expand_as(x), x)["diversity"]) < 1e-6


def test_the_rate_falls_along_a_cosine() -> None:
    s = Training(steps=100, warmup=0, decay_fraction=1.0, learning_rate=2.0, schedule="cosine")
    assert (
        s.rate(0) == pytest.approx(2.0) and s.rate(50) == pytest.approx(1.0) and s.rate(99) < 1e-3
    )
    with pytest.raises(ValueError, match="schedule is 'exotic'"):
        dataclasses.replace(s, schedule="exotic")  # type: ignore[arg-type]


def test_tensorboard_is_written_or_missed_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Board(None) as board:
        board.write({"step": 1, "loss": 2.0})
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    with pytest.raises(ValueError, match=r"tensorboard is not installed; it is an extra; run"):
        Board(tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_tensorboard_reads_back_what_was_logged(tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    more = {"training.steps": 20, "training.checkpoint_every": 20, "training.tensorboard": True}
    lowland.train_recipe(lowland.read_recipe("moons", more), tmp_path / "run", progress=False)
    events = accumulator.EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    logged = [row["loss"] for row in Run(tmp_path / "run").rows() if "event" not in row]
    assert [e.value for e in events.Scalars("loss")] == pytest.approx(logged)


SMALL = {"name": "IGEBM", "widths": [6, 8], "blocks": 1, "spectral_norm": False}


def imaged(objective: dict[str, Any], **training: Any) -> Session:
    settings = {"batch": 8, "steps": 20, "checkpoint_every": 10, "log_every": 5, "preflight": "off"}
    over = {"energy": SMALL, "objective": objective} | {
        f"training.{k}": v for k, v in (settings | training).items()
    }
    return Session(lowland.read_recipe("digits", over).plain(), load_data("digits"))


@pytest.mark.slow
def test_compiled_updates_are_those_of_the_eager_energy() -> None:
    contrast = {"name": "PCD", "steps": 2, "buffer_size": 32}
    eager, compiled = imaged(contrast), imaged(contrast, compile=True)
    for _ in range(5):
        eager.advance()
        compiled.advance()
    for a, b in zip(weights(eager), weights(compiled), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_compiling_what_differentiates_gradients_is_refused_in_words() -> None:
    with pytest.raises(
        ValueError, match=r"training.compile is true and DSM differentiates a gradient;.*;"
    ):
        imaged({"name": "DSM"}, compile=True).advance()
