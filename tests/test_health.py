"""The training doctor: every way to die is named, a sound run is left in peace."""

import math
from typing import Any

import pytest

from lowland.training.health import Finding, Limits, diagnose, worst


def rows(count: int = 40, **changes: Any) -> list[dict[str, Any]]:
    """Rows of a sound run; a change is a value or a function of the row's index."""
    made = []
    for i in range(count):
        row: dict[str, Any] = {
            "step": 10 * (i + 1),
            "loss": 0.1 * (-1) ** i,
            "gap": 0.2 * (-1) ** i,
            "spread": 1.0,
            "energy_data": 1.0,
            "energy_model": 1.2,
            "gradient_norm": 2.0 + 0.1 * (i % 3),
            "movement": 0.05,
            "border": 0.62,
            "border_data": 0.6,
            "age": 100.0 + i,
            "acceptance": 0.9,
            "diversity": 0.95,
            "fresh_gap": 1.0,
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
        ({"energy_data": -1e7, "spread": 1e7}, "diverging", "bad"),
        ({"gradient_norm": lambda i: 1000.0 if i == 39 else 2.0}, "gradient norm", "warn"),
        ({"movement": 1e-6}, "frozen chains", "warn"),
        ({"acceptance": 1e-4}, "frozen chains", "bad"),
        ({"spread": 1e-6, "gap": 0.0}, "energy collapse", "bad"),
        ({"held_gap": 1.4}, "overfitting", "warn"),
        ({"fresh_gap": -3.0}, "overfitting the buffer", "warn"),
        ({"accuracy": 1.0}, "discriminator won", "warn"),
        ({"diversity": 0.1}, "mode loss", "warn"),
        ({"diversity": 0.01}, "mode loss", "bad"),
        ({"border": 0.93}, "saturated", "warn"),
        ({"border": 0.999, "border_data": 0.1}, "saturated", "bad"),
        ({"age": 0.0}, "buffer age", "warn"),
    ],
)
def test_every_way_to_die_is_named(changes: dict[str, Any], name: str, level: str) -> None:
    found = [finding for finding in diagnose(rows(**changes)) if finding.name == name]
    assert level in {finding.level for finding in found}
    assert all(finding.sentence.endswith(".") and finding.remedy.endswith(".") for finding in found)
    assert all(finding.cure in ("rate", "step", "chains") for finding in found)


def test_data_on_the_walls_are_no_reason_to_complain() -> None:
    assert diagnose(rows(border=0.97, border_data=0.96)) == []


def test_the_first_rows_are_only_asked_for_non_finite_numbers() -> None:
    assert diagnose(rows(5, gap=100.0)) == []
    assert names(diagnose(rows(5, nonfinite=2))) == {"diverging"}
    assert names(diagnose(rows(5, gap=2000.0))) == {"diverging"}  # no sound start looks like this


def test_the_unit_of_energy_does_not_matter() -> None:
    small, large = rows(gap=12.0), rows(gap=1200.0, spread=100.0, fresh_gap=100.0)
    assert names(diagnose(small)) == names(diagnose(large)) == {"discriminator won"}


def test_missing_numbers_leave_their_checks_out() -> None:
    bare = [{"step": 10 * i, "loss": 0.1, "nonfinite": 0} for i in range(40)]
    assert diagnose(bare) == []


def test_only_the_window_counts() -> None:
    history = rows(200, gap=lambda i: 100.0 if i < 150 else 0.0)
    assert diagnose(history) == diagnose(history[-Limits().window - 11 :]) == []


def test_the_function_is_pure() -> None:
    history = rows(gap=20.0)
    copy = [dict(row) for row in history]
    assert diagnose(history) == diagnose(history) and history == copy


def test_worst() -> None:
    warn, bad = (Finding("x", level, "s.", "r.") for level in ("warn", "bad"))
    assert worst([warn]) == "warn" and worst([warn, bad]) == "bad"
