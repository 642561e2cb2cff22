"""Choosing a checkpoint: the discrepancies are what they say, the best is kept and returned, and
waiting ends.
"""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import lowland
from lowland.data import load_data
from lowland.metrics import ksd, mmd
from lowland.run import Run
from lowland.targets import Gaussian
from lowland.training import lineage
from lowland.training.selection import Selection, held_gap
from lowland.training.session import Session

QUICK = {
    "training.steps": 120,
    "training.batch": 32,
    "training.checkpoint_every": 20,
    "training.keep_checkpoints": 1,
    "training.select_samples": 64,
    "energy.hidden": [16],
    "objective.steps": 2,
    "objective.buffer_size": 64,
    "generation.steps": 20,
}


def double_loop(energy: Any, x: Tensor, c: float) -> float:
    """KSD² from its definition, pair by pair, with kernel derivatives by automatic
    differentiation.
    """

    def kernel(a: Tensor, b: Tensor) -> Tensor:
        return (1 + (a - b).square().sum() / c**2) ** -0.5

    x = x.double()
    scores = -torch.func.vmap(torch.func.grad(lambda p: energy(p.unsqueeze(0))[0]))(x)
    total = 0.0
    for i in range(len(x)):
        for j in range(len(x)):
            if i != j:
                a, b = x[i], x[j]
                by_a, by_b = torch.func.grad(kernel, 0)(a, b), torch.func.grad(kernel, 1)(a, b)
                trace = torch.func.jacrev(torch.func.grad(kernel, 0), 1)(a, b).trace()
                total += float(
                    scores[i] @ scores[j] * kernel(a, b)
                    + scores[i] @ by_b
                    + scores[j] @ by_a
                    + trace
                )
    return total / (len(x) * (len(x) - 1))


def test_ksd_is_the_double_loop_of_its_definition() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=g, dtype=torch.float64) * 1.3 + 0.4
    energy = Gaussian(torch.zeros(3).double(), torch.diag(torch.tensor([1.0, 2.0, 0.5])).double())
    assert ksd(energy, x, scale=1.7).value == pytest.approx(double_loop(energy, x, 1.7), abs=1e-9)


def test_ksd_is_zero_at_the_law_and_only_there() -> None:
    g = torch.Generator().manual_seed(1)
    x = torch.randn(800, 2, generator=g)
    energy = Gaussian(torch.zeros(2), torch.eye(2))
    right = ksd(energy, x)
    assert abs(right.value) < 5 * right.error
    for wrong in (x + 0.5, x * 1.4, x * 0.7):
        found = ksd(energy, wrong)
        assert found.value > 5 * found.error, "a shift or a scale must be seen"


def test_a_sign_error_in_the_score_would_be_seen() -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(800, 2, generator=g)
    right, upside = (
        lowland.Function(lambda z, sign=sign: sign * z.square().sum(1) / 2) for sign in (1, -1)
    )
    assert abs(ksd(right, x).value) < 5 * ksd(right, x).error
    found = ksd(upside, x)
    assert found.value > 5 * found.error


@pytest.mark.parametrize(
    ("x", "energy", "message"),
    [
        (torch.zeros(1, 2), Gaussian(), "at least 2"),
        (
            torch.zeros(5, 1, 2, 2),
            lowland.nets.MLP(lowland.box(0.0, 1.0, 1, 2, 2), (4,)),
            "Stein's identity",
        ),
    ],
)
def test_ksd_refuses_what_it_cannot_do(x: Tensor, energy: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ksd(energy, x)


def trained(path: Path, **more: Any) -> tuple[Any, list[dict[str, Any]]]:
    energy = lowland.train_recipe(lowland.read_recipe("moons", QUICK | more), path, progress=False)
    return energy, lineage(Run(path).rows())


@pytest.mark.parametrize("criterion", ["mmd", "frechet", "ksd"])
def test_the_best_checkpoint_is_the_smallest_value_and_is_what_comes_back(
    criterion: str, tmp_path: Path
) -> None:
    energy, rows = trained(tmp_path / "run", **{"training.select_by": criterion})
    values = {row["step"]: row[criterion] for row in rows if criterion in row}
    assert list(values) == [20, 40, 60, 80, 100, 120]
    best = min(values, key=values.__getitem__)
    run = Run(tmp_path / "run")
    assert run.load_checkpoint().state["best"]["step"] == best and best in run.steps()
    kept = run.load_checkpoint(best).tensors["ema"]
    assert all(torch.equal(value, kept[name]) for name, value in energy.state_dict().items())
    x = load_data("moons").test.x[:9]
    assert torch.equal(lowland.load(tmp_path / "run").energy(x), energy(x))


def test_the_best_comes_back_where_the_last_is_worse(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([3.0, 1.0, math.inf, 2.0, 1.5, 1.0])  # the first of equals
    monkeypatch.setattr(Selection, "value", lambda self, session: next(script))
    energy, _ = trained(tmp_path / "run", **{"training.select_by": "mmd"})
    run = Run(tmp_path / "run")
    best, last = (run.load_checkpoint(step).tensors["ema"] for step in (40, 120))
    assert all(torch.equal(value, best[name]) for name, value in energy.state_dict().items())
    assert not all(torch.equal(value, last[name]) for name, value in energy.state_dict().items())


def test_patience_ends_a_run_that_gets_no_better(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    script = iter([3.0, 1.0, 2.0, 2.0, 0.5, 0.1])
    monkeypatch.setattr(Selection, "value", lambda self, session: next(script))
    _, rows = trained(tmp_path / "run", **{"training.select_by": "mmd", "training.patience": 2})
    assert rows[-1]["step"] == 80 and Run(tmp_path / "run").load_checkpoint().state["best"] == {
        "step": 40,
        "value": 1.0,
        "waited": 2,
    }
    again = lowland.train_recipe(
        lowland.read_recipe("moons", QUICK | {"training.select_by": "mmd", "training.patience": 2}),
        tmp_path / "run",
    )
    assert (
        lineage(Run(tmp_path / "run").rows())[-1]["step"] == 80 and again is not None
    )  # it does not begin again


def test_selection_does_not_change_what_is_drawn_in_training(tmp_path: Path) -> None:
    trained(tmp_path / "with", **{"training.select_by": "mmd"})
    trained(tmp_path / "without")
    a, b = (Run(tmp_path / name).load_checkpoint(120).tensors for name in ("with", "without"))
    assert torch.equal(a["chains"]["x"], b["chains"]["x"])
    assert all(torch.equal(value, b["energy"][name]) for name, value in a["energy"].items())


def session(name: str = "moons", **more: Any) -> Session:
    values = lowland.read_recipe(
        name, {"training.batch": 16, "objective.buffer_size": 32} | more
    ).plain()
    return Session(values, load_data(name))


def test_mmd_is_that_of_draws_against_held_out_data() -> None:
    one = session(
        **{"training.select_by": "mmd", "training.select_samples": 100, "generation.steps": 5}
    )
    chosen = Selection.of(one)
    assert chosen is not None and torch.equal(chosen.held, one.data.calibration.x[:100])
    assert chosen.value(one) == chosen.value(one) > 0  # the same draws each time
    near = mmd(one.data.test.x[:100], chosen.held)
    assert abs(near.value) < 5 * near.error


@pytest.mark.parametrize("criterion", ["mmd", "ksd"])
def test_what_is_not_finite_is_never_the_best(criterion: str) -> None:
    one = session(
        **{"training.select_by": criterion, "training.select_samples": 32, "generation.steps": 3}
    )
    for p in one.ema.module.parameters():
        p.fill_(math.nan)
    chosen = Selection.of(one)
    assert chosen is not None and chosen.value(one) == math.inf


def test_ksd_is_refused_on_a_box_and_little_data_by_all() -> None:
    with pytest.raises(ValueError, match="it needs a real one"):
        Selection.of(session("digits", **{"training.select_by": "ksd"}))
    one = session(**{"training.select_by": "mmd"})
    one.data = load_data("moons", count=40)
    with pytest.raises(ValueError, match="at least 16"):
        Selection.of(one)


def test_the_held_out_gap_is_in_spreads_of_the_training_energies() -> None:
    one = session()
    energy: Any = one.ema.module
    seen, held = (energy(part.x[:512]).detach() for part in (one.data.train, one.data.calibration))
    assert held_gap(one)["held_gap"] == pytest.approx(
        float((held.mean() - seen.mean()) / seen.std()), abs=1e-4
    )
