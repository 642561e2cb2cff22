"""The probe before the first update: what is far too large is seen, and cured where that is wanted;
a sane run is let be.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

import lowland
from lowland.data import load_data
from lowland.run import Run
from lowland.training.loop import load_recipe_data
from lowland.training.preflight import MAX_WEIGHT_CHANGE, probe
from lowland.training.session import Session

QUICK = {
    "training.steps": 40,
    "training.checkpoint_every": 20,
    "training.batch": 32,
    "objective.buffer_size": 64,
}


def session(**more: Any) -> Session:
    values = lowland.read_recipe("moons", QUICK | more).plain()
    return Session(values, load_data("moons", count=300))


def state(one: Session) -> list[torch.Tensor]:
    tensors = [*one.energy.parameters(), *one.ema.module.parameters()]
    tensors += [g.get_state() for g in one.generators.values()]
    return [t.detach().clone() for t in tensors] + (
        [] if one.buffer is None else [one.buffer.x.clone()]
    )


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("moons", {"objective.buffer_size": 32}),
        ("digits", {"objective.buffer_size": 32}),
        ("moons-dsm", {}),
        ("digits-rbm", {}),
    ],
)
def test_shipped_recipes_are_let_be(name: str, more: dict[str, Any]) -> None:
    values = lowland.read_recipe(
        name, {**more, "training.batch": 16, "training.preflight": "adjust"}
    ).plain()
    report = probe(Session(values, load_recipe_data(values)))
    assert report.sentences == () and report.rate_factor == report.step_factor == 1.0


def test_the_probe_leaves_the_session_as_it_was() -> None:
    one = session()
    before = state(one)
    probe(one)
    assert all(torch.equal(a, b) for a, b in zip(before, state(one), strict=True)) and one.step == 0


def test_a_rate_that_throws_the_weights_about_is_lowered_until_it_does_not() -> None:
    one = session(**{"training.learning_rate": 0.3, "training.preflight": "adjust"})
    report = probe(one)
    assert (
        report.weight_change > MAX_WEIGHT_CHANGE
        and report.rate_factor < 1
        and report.step_factor == 1
    )
    assert one.rate_factor == report.rate_factor and 0.3 * report.rate_factor > 1e-3
    assert (
        "change the weights" in report.sentences[0]
        and f"multiplied by {report.rate_factor:g}" in report.sentences[0]
    )
    again = session(
        **{"training.learning_rate": 0.3 * report.rate_factor, "training.preflight": "adjust"}
    )
    assert probe(again).sentences == ()
    assert (
        probe(session(**{"training.learning_rate": 0.6 * report.rate_factor})).weight_change
        > MAX_WEIGHT_CHANGE
    )  # and no further than it must


def test_a_warning_changes_nothing() -> None:
    one = session(**{"training.learning_rate": 0.3, "training.preflight": "warn"})
    report = probe(one)
    assert (report.rate_factor, report.step_factor, one.rate_factor, one.step_factor) == (
        1,
        1,
        1,
        1,
    )
    assert "'adjust' would lower it" in report.sentences[0]


def test_a_step_that_throws_chains_across_the_data_is_shortened() -> None:
    one = session(**{"sampler.step_size": 200.0, "training.preflight": "adjust"})
    report = probe(one)
    assert (
        report.noise == pytest.approx(20.0, rel=0.2)
        and report.rate_factor == 1
        and report.step_factor < 1
    )
    assert (
        one.module.sampler.step_size == 200.0 * report.step_factor
        and one.step_factor == report.step_factor
    )  # type: ignore[attr-defined]
    assert (
        math.sqrt(2 * 200.0 * report.step_factor) < 4
        and "standard deviations of the data" in report.sentences[0]
    )


class Cliff(lowland.Energy):
    """From its second update on its unit of energy is a hundred thousand times larger."""

    def __init__(self, domain: Any) -> None:
        super().__init__(domain)
        self.inner, self.calls = lowland.nets.MLP(domain, (8,), quadratic_weight=0.1), 0

    def forward(self, x: torch.Tensor, c: Any = None) -> torch.Tensor:
        self.calls += self.training and torch.is_grad_enabled()
        return self.inner(x) * (1e5 if self.calls > 1 else 1.0)


def test_an_energy_that_explodes_is_seen_whatever_its_weights_do() -> None:
    more = {"training.batch": 32, "objective.buffer_size": 64, "training.preflight": "adjust"}
    data, values = load_data("moons", count=300), lowland.read_recipe("moons", more).plain()
    one = Session(values, data, Cliff(data.domain))
    report = probe(one)
    assert report.weight_change < MAX_WEIGHT_CHANGE and report.energy_std_after > 300 * max(
        report.energy_std_before, 1
    )
    assert report.rate_factor < 1 and "standard deviation" in report.sentences[0]


def test_chains_that_cannot_move_are_named() -> None:
    report = probe(session(**{"sampler.step_size": 1e-14}))
    assert any("move chains by less than" in sentence for sentence in report.sentences)


def test_the_relative_change_is_the_change_of_all_matrices_in_units_of_their_size() -> None:
    from lowland.training.preflight import relative_weight_change

    a, b, bias = (
        torch.randn(4, 9, generator=torch.Generator().manual_seed(0)),
        torch.zeros(3, 2),
        torch.zeros(5),
    )
    size = a.square().sum().item() + 1.0  # a layer of zeros counts as a fresh one: 3 rows, 1/3 each
    assert relative_weight_change([a, b, bias], [a + 0.5, b, bias + 9]) == pytest.approx(
        math.sqrt(36 * 0.25 / size)
    )
    assert relative_weight_change([bias], [bias + 1]) == 0.0
    assert math.isnan(relative_weight_change([a], [a * math.nan]))


def test_a_run_writes_down_what_the_probe_did_and_resumes_with_it(tmp_path: Path) -> None:
    recipe = lowland.read_recipe(
        "moons", {**QUICK, "training.learning_rate": 0.3, "training.preflight": "adjust"}
    )
    lowland.train_recipe(recipe, tmp_path / "run", progress=False)
    run = Run(tmp_path / "run")
    report = next(row for row in run.rows() if row.get("event") == "preflight")
    assert (
        report["rate_factor"] < 1
        and run.load_checkpoint(20).state["rate_factor"] == report["rate_factor"]
    )
    rates = [row["rate"] for row in run.rows() if "rate" in row and "event" not in row]
    assert max(rates) <= 0.3 * report["rate_factor"] * (1 + 1e-6)
    run.keep_checkpoints({20})
    lowland.train_recipe(recipe, tmp_path / "run", progress=False)
    assert run.load_checkpoint(40).state["rate_factor"] == report["rate_factor"]
