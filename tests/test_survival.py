"""The grid of short trainings: every way to be dead is seen, a sound run is not; what was run is
not run again.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmarks.proof import survival
from benchmarks.proof.survival_cases import CASES, Case, Trained, plain, start, walk
from lowland.data import Dataset

MOONS, DIGITS = CASES["moons"], CASES["digits"]
TINY = replace(DIGITS, updates=3, steps=2, batch=4, capacity=8, walk=3)


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return DIGITS.data()


class Towards(nn.Module):
    """An energy whose chains go to fixed points: ½ k ‖x − aim‖², the aims one per chain, in
    order.
    """

    def __init__(self, aim: Tensor, k: float = 0.5) -> None:
        super().__init__()
        self.aim, self.k, self.unit = aim, k, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.unit * self.k / 2 * (x - self.aim[: len(x)]).square().flatten(1).sum(1)


def verdict(aim: Tensor, data: Dataset, **more: Any) -> dict[str, Any]:
    return survival.judge(replace(DIGITS, clip=1.0, **more), Towards(aim), data)


def test_samples_of_the_data_are_alive_and_noise_is_not(digits: Dataset) -> None:
    found = verdict(digits.calibration.x, digits)
    assert found["dead"] == "" and abs(found["mmd"]) < 0.1 and 0.5 < found["spread"] < 2
    noise = survival.judge(replace(DIGITS, walk=0), Towards(digits.calibration.x), digits)
    assert noise == {"dead": "no better", "mmd": 1.0, "spread": noise["spread"]}


def test_what_is_not_finite_alike_or_on_the_walls_is_dead(digits: Dataset) -> None:
    alike = digits.train.x.mean(0, keepdim=True).expand(500, -1, -1, -1)
    assert verdict(alike, digits)["dead"] == "alike"
    walls = (
        digits.calibration.x > 0.5
    ).float() * 4 - 1.5  # aims beyond the walls: every pixel black or white
    assert verdict(walls, digits)["dead"] == "walls"
    broken = Towards(alike)
    nn.init.constant_(broken.unit, float("nan"))
    assert survival.judge(DIGITS, broken, digits) == {"dead": "not finite", "mmd": None}


def test_the_walk_is_langevin_of_the_case() -> None:
    """On ½ x² a step is x ← (1 − h) x + noise: the variance after many steps is σ² / (1 − (1 −
    h)²); z over 20,000 chains.
    """
    case = replace(MOONS, step_size=0.3, noise=0.2)
    torch.manual_seed(0)
    x = walk(case, Towards(torch.zeros(20_000, 2), 1.0), start(case, 20_000), 60)
    right = 0.2**2 / (1 - 0.7**2)
    assert abs(x.var().item() / right - 1) < 5 * (2 / x.numel()) ** 0.5
    assert abs(x.mean().item()) < 5 * (right / x.numel()) ** 0.5


def test_the_plain_loop_is_a_likelihood_gradient() -> None:
    """It learns the mean of a Gaussian, which a sign error would drive away from."""

    class Mean(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.mu = nn.Parameter(torch.full((2,), 2.0))

        def forward(self, x: Tensor) -> Tensor:
            return (x - self.mu).square().sum(1) / 2

    case, data = replace(MOONS, step_size=0.1, noise=0.2**0.5, updates=200), MOONS.data()
    torch.manual_seed(0)
    trained = plain(case, Mean(), data, 0.05, 0.0, 0)
    assert (trained.energy.mu - data.train.x.mean(0)).norm() < 0.4  # type: ignore[operator, union-attr]


@pytest.mark.parametrize("contender", ["plain", "lowland"])
def test_a_run_is_recorded_once(contender: str, tmp_path: Path, digits: Dataset) -> None:
    path = tmp_path / "survival.json"
    for _ in range(2):
        survival.again(path, contender, TINY, digits, 1, 0, True)
    (row,) = survival.read(path)
    assert (row["contender"], row["set"], row["factor"], row["regularised"]) == (
        contender,
        "digits",
        1,
        True,
    )
    assert row["updates"] >= 3 and {"dead", "mmd", "seconds"} <= set(row)
    assert json.loads(path.read_text())["cases"].keys() == CASES.keys()


def test_all_contenders_start_from_the_same_network(
    monkeypatch: pytest.MonkeyPatch, digits: Dataset
) -> None:
    seen: list[Tensor] = []

    def spy(case: Case, net: nn.Module, *rest: Any, **more: Any) -> Trained:
        seen.append(torch.cat([p.detach().flatten() for p in net.parameters()]))
        return Trained(net, 0, {})

    monkeypatch.setattr(survival, "CONTENDERS", dict.fromkeys(("plain", "lowland"), spy))
    for contender in ("plain", "lowland"):
        survival.one(contender, TINY, digits, 3, 1, False)
    assert torch.equal(*seen)


def row(contender: str, factor: int, dead: str, mmd: float | None, **more: Any) -> dict[str, Any]:
    key = {"contender": contender, "set": "moons", "factor": factor, "seed": 0, "regularised": True}
    quiet: dict[str, Any] = (
        {"rollbacks": [], "preflight": {}, "stopped": ""} if contender == "lowland" else {}
    )
    return {**key, "dead": dead, "mmd": mmd, "updates": 400, "seconds": 2.0, **quiet, **more}


def test_the_table_counts_the_dead_and_says_what_health_did() -> None:
    act = {"step": 30, "to": 20, "verdict": "diverging", "did": "learning rate × 0.5"}
    rows = [
        row("plain", 1, "", 0.05),
        row("plain", 30, "not finite", None),
        row("plain", 30, "no better", 3.0),
        row("lowland", 30, "", 0.04, rollbacks=[act, act], preflight={"rate": 0.125}),
    ]
    text = "\n".join(survival.table(rows))
    assert "| plain | 2/3 | 0/1 | – | – | 2/2 |" in text and "| lowland | 0/1 |" in text
    assert "- plain: 1 no better, 1 not finite" in text
    assert "| moons | 0.0500 | 0.0500 | 0.0400 (0.0400) |" in text
    assert "| moons × 30 | 1 | 2 | diverging 2 | 0.125 | 0 | 400 |" in text
