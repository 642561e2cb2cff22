"""The training doctor: every way to die is named, a sound run is left in peace."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lowland import Energy, read_recipe, train_recipe
from lowland.data import Dataset, Split, load_data
from lowland.domain import box
from lowland.nets import MLP
from lowland.replay import ReplayBuffer
from lowland.run import Run
from lowland.training import TrainingStoppedError, lineage
from lowland.training.findings import Finding, Limits, worst
from lowland.training.health import diagnose


def rows(count: int = 40, **changes: Any) -> list[dict[str, Any]]:
    """Rows of a sound run; a change is a value or a function of the row's index."""
    made = []
    for i in range(count):
        row: dict[str, Any] = {
            "step": 10 * (i + 1),
            "loss": 0.1 * (-1) ** i,
            "gap": 0.2 * (-1) ** i,
            "energy_std": 1.0,
            "energy_data": 1.0,
            "energy_model": 1.2,
            "gradient_norm": 2.0 + 0.1 * (i % 3),
            "movement": 0.05,
            "bound_share": 0.62,
            "data_bound_share": 0.6,
            "age": 100.0 + i,
            "acceptance": 0.9,
            "diversity": 0.95,
            "reinit_gap": 1.0,
            "held_gap": 0.1,
            "nonfinite": 0,
        }
        row |= {key: value(i) if callable(value) else value for key, value in changes.items()}
        made.append(row)
    return made


def names(found: list[Finding]) -> set[str]:
    return {finding.name for finding in found}


def test_a_sound_run_has_no_findings() -> None:
    assert diagnose(rows()) == [] and worst([]) == "good"


@pytest.mark.parametrize(
    ("changes", "name", "level"),
    [
        ({"nonfinite": 1}, "diverging", "bad"),
        ({"loss": math.nan}, "diverging", "bad"),
        ({"gap": 4.0}, "discriminator won", "warn"),
        ({"gap": 20.0}, "discriminator won", "bad"),
        ({"gap": -20.0}, "diverging", "bad"),
        ({"gap": 5000.0}, "diverging", "bad"),
        ({"gap": lambda i: 0.2 * max(i - 20, 0)}, "gap drift", "warn"),
        ({"energy_data": -1e7, "energy_std": 1e7}, "diverging", "bad"),
        ({"cross_entropy": lambda i: 0.9 if i < 37 else 2.3}, "diverging", "bad"),
        ({"gradient_norm": lambda i: 1000.0 if i == 39 else 2.0}, "gradient norm", "warn"),
        ({"movement": 1e-6}, "frozen chains", "warn"),
        ({"acceptance": 1e-4}, "frozen chains", "bad"),
        ({"energy_std": 1e-6, "gap": 0.0}, "energy collapse", "bad"),
        ({"held_gap": 1.4}, "overfitting", "warn"),
        ({"reinit_gap": -3.0}, "overfitting the buffer", "warn"),
        ({"accuracy": 1.0}, "discriminator won", "warn"),
        ({"diversity": 0.1}, "mode loss", "warn"),
        ({"diversity": 0.01}, "mode loss", "bad"),
        ({"bound_share": 0.93}, "saturated", "warn"),
        ({"bound_share": 0.999, "data_bound_share": 0.1}, "saturated", "bad"),
        ({"age": 0.0}, "buffer age", "warn"),
    ],
)
def test_every_way_to_die_is_named(changes: dict[str, Any], name: str, level: str) -> None:
    found = [finding for finding in diagnose(rows(**changes)) if finding.name == name]
    assert level in {finding.level for finding in found}
    assert all(finding.sentence.endswith(".") and finding.remedy.endswith(".") for finding in found)
    assert all(finding.cure in ("rate", "step", "chains") for finding in found)


def test_a_classifier_that_learns_or_is_nearly_sure_is_left_in_peace() -> None:
    assert diagnose(rows(cross_entropy=lambda i: 2.3 * 0.9**i)) == []
    assert diagnose(rows(cross_entropy=lambda i: 0.02 if i < 30 else 0.3)) == []
    assert diagnose(rows(cross_entropy=lambda i: 0.4 + 0.2 * (i % 2))) == []
    assert (
        diagnose(rows(cross_entropy=0.001, accuracy=1.0)) == []
    )  # of labels, not of data against noise


def test_a_classifier_that_forgets_at_once_is_stopped_at_once() -> None:
    assert names(diagnose(rows(15, cross_entropy=lambda i: 1.05 if i < 12 else 2.3026))) == {
        "diverging"
    }


def test_data_on_the_walls_are_no_reason_to_complain() -> None:
    assert diagnose(rows(bound_share=0.97, data_bound_share=0.96)) == []


def test_chains_at_the_walls_are_the_first_to_be_cured_where_something_is_bad() -> None:
    found = diagnose(rows(gap=-20.0, bound_share=0.93))
    assert [(f.name, f.level, f.cure) for f in found[:2]] == [
        ("saturated", "bad", "step"),
        ("diverging", "bad", "rate"),
    ]


def test_the_first_rows_are_only_asked_for_non_finite_numbers() -> None:
    assert diagnose(rows(5, gap=100.0)) == []
    assert names(diagnose(rows(5, nonfinite=2))) == {"diverging"}
    assert names(diagnose(rows(5, gap=2000.0))) == {"diverging"}  # no sound start looks like this


def test_the_unit_of_energy_does_not_matter() -> None:
    small, large = rows(gap=12.0), rows(gap=1200.0, energy_std=100.0, reinit_gap=100.0)
    assert names(diagnose(small)) == names(diagnose(large)) == {"discriminator won"}


def test_missing_numbers_leave_their_checks_out() -> None:
    bare = [{"step": 10 * i, "loss": 0.1, "nonfinite": 0} for i in range(40)]
    assert diagnose(bare) == []


def test_only_the_window_counts() -> None:
    history = rows(200, gap=lambda i: 100.0 if i < 150 else 0.0)
    assert diagnose(history) == diagnose(history[-Limits().window - 11 :]) == []


def test_rows_before_a_cure_say_nothing_of_what_came_after() -> None:
    before = [{**row, "stale": True} for row in rows(gap=20.0)]
    assert (
        diagnose(before) == diagnose(before + rows(4, gap=20.0)) == diagnose(before + rows(5)) == []
    )
    assert names(diagnose(before + rows(5, gap=20.0))) == {
        "discriminator won"
    }  # five rows are enough
    assert names(diagnose([*before, {"step": 1, "loss": math.nan}])) == {
        "diverging"
    }  # one, of what no sound run shows


def test_the_function_is_pure() -> None:
    history = rows(gap=20.0)
    copy = [dict(row) for row in history]
    assert diagnose(history) == diagnose(history) and history == copy


def test_worst() -> None:
    warn, bad = (Finding("x", level, "s.", "r.") for level in ("warn", "bad"))
    assert worst([warn]) == "warn" and worst([warn, bad]) == "bad"


# ---- every cure cures ----------------------------------------------------------------------------

SHORT = {
    "training.steps": 120,
    "training.batch": 32,
    "training.log_every": 1,
    "training.checkpoint_every": 10,
    "training.preflight": "off",
    "training.warmup": 0,
    "energy.hidden": [16],
    "objective.steps": 2,
    "objective.buffer_size": 64,
}


def cured(
    path: Path, name: str = "moons", **more: Any
) -> tuple[Any, list[dict[str, Any]], list[dict[str, Any]]]:
    """A short run with trouble planted: its energy, what was done, and the rows that led to the
    end.
    """
    energy = train_recipe(
        read_recipe(name, SHORT | more), path, data=load_data(name), progress=False
    )
    log = Run(path).rows()
    return energy, [row for row in log if row.get("event") == "rollback"], lineage(log)


def test_a_rate_that_blows_the_energies_up_is_cured_by_going_back_with_a_lower_one(
    tmp_path: Path,
) -> None:
    rate = 30.0  # every one of 4 seeds is bad in 94 to 118 of its 120 rows without a cure
    energy, done, kept = cured(tmp_path / "run", **{"training.learning_rate": rate})
    causes = {"diverging", "discriminator won", "frozen chains"}
    assert done and {act["name"] for act in done} <= causes
    assert kept[-1]["step"] == 120 and kept[-1]["health"] != "bad"
    assert abs(kept[-1]["energy_data"]) < 1e3
    assert all(p.isfinite().all() for p in energy.parameters())
    assert max(row["rate"] for row in kept[-9:]) < rate / 2 ** len(done) * 1.001
    uncured = {"training.learning_rate": rate, "training.on_failure": "continue"}
    _, _, rows_of = cured(tmp_path / "wild", **uncured)
    assert sum(row["health"] == "bad" for row in rows_of) > 60


def test_chains_that_refuse_every_move_are_cured_by_shorter_steps(tmp_path: Path) -> None:
    _, done, kept = cured(
        tmp_path / "run", **{"energy.quadratic_weight": 3.0, "sampler.step_size": 20.0}
    )
    assert done and all(
        act["name"] == "frozen chains" and "sampler step" in act["did"] for act in done
    )
    assert kept[-1]["acceptance"] > 0.01 and kept[0].get("acceptance") is not None
    first = next(row for row in Run(tmp_path / "run").rows() if "acceptance" in row)
    assert first["acceptance"] < 1e-3


class Well(Energy):
    """A well in the middle of the box, which chains with steps above 0.2 leap across, further each
    time.
    """

    def __init__(self, domain: Any) -> None:
        super().__init__(domain)
        self.inner = MLP(domain, (8,))

    def forward(self, x: torch.Tensor, c: Any = None) -> torch.Tensor:
        return self.inner(x) + 5 * (x - 0.5).square().sum(1)


def test_samples_on_the_walls_are_cured_by_shorter_steps(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    parts = [Split((0.5 + 0.1 * torch.randn(200, 4, generator=g)).clamp(0, 1)) for _ in range(3)]
    data = Dataset("cloud", box(0.0, 1.0, 4), *parts)
    sampler = {
        "sampler.name": "ShortRun",
        "sampler.step_size": 1.0,
        "sampler.noise": 0.05,
        "sampler.clamp": [0.0, 1.0],
    }
    train_recipe(
        read_recipe("moons", SHORT | sampler),
        tmp_path / "run",
        data=data,
        energy=Well(data.domain),
        progress=False,
    )
    log = Run(tmp_path / "run").rows()
    done = [row for row in log if row.get("event") == "rollback"]
    assert [act["name"] for act in done][:1] == ["saturated"] and "sampler step × 0.5" in done[0][
        "did"
    ]
    assert (
        lineage(log)[-1]["bound_share"] < 0.05
        and next(row for row in log if "bound_share" in row)["bound_share"] > 0.9
    )


def test_chains_that_are_all_alike_are_cured_by_beginning_half_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = ReplayBuffer.__init__

    def alike(self: ReplayBuffer, *given: Any, **named: Any) -> None:
        made(self, *given, **named)
        self.x = self.x[:1].expand_as(self.x).clone()

    monkeypatch.setattr(ReplayBuffer, "__init__", alike)
    _, done, kept = cured(
        tmp_path / "run", **{"sampler.step_size": 1e-7, "objective.reinit_prob": 0.0}
    )
    assert [act["name"] for act in done] == ["mode loss"] and "32 chains begun anew" in done[0][
        "did"
    ]
    assert kept[29]["diversity"] < 0.01 and kept[-1]["diversity"] > 0.2


def test_trouble_that_comes_back_is_answered_from_further_back(tmp_path: Path) -> None:
    """An energy that is poisoned from its 40th update on: newest checkpoint, half of the way, then
    the start, over and over.
    """

    class Poisoned(MLP):
        calls = 0

        def forward(self, x: torch.Tensor, c: Any = None) -> torch.Tensor:
            self.calls += self.training and torch.is_grad_enabled()
            return super().forward(x, c) * (math.nan if self.training and self.calls > 80 else 1.0)

    data = load_data("moons", count=200)
    with pytest.raises(TrainingStoppedError):
        train_recipe(
            read_recipe("moons", SHORT),
            tmp_path / "run",
            data=data,
            energy=Poisoned(data.domain, (8,)),
        )
    acts = [row for row in Run(tmp_path / "run").rows() if row.get("event") == "rollback"]
    assert [act["to"] for act in acts][2:] == [0] * (len(acts) - 2) and len(acts) == 8
    assert 0 < acts[1]["to"] <= acts[0]["to"] / 2
    assert [act["did"] for act in acts] == [f"learning rate × {0.5**k:g}" for k in range(1, 9)]
