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
        ({"nonfinite": 1}, "non-finite", "bad"),
        ({"loss": math.nan}, "non-finite", "bad"),
        ({"gap": 4.0}, "energy gap", "warn"),
        ({"gap": 20.0}, "energy gap", "bad"),
        ({"gap": -20.0}, "energy gap", "bad"),
        ({"gap": lambda i: 0.2 * max(i - 20, 0)}, "gap drift", "warn"),
        ({"energy_data": -1e7, "spread": 1e7}, "energy magnitude", "bad"),
        ({"gradient_norm": lambda i: 1000.0 if i == 39 else 2.0}, "gradient norm", "warn"),
        ({"movement": 1e-6}, "chain movement", "warn"),
        ({"border": 0.93}, "border", "warn"),
        ({"border": 0.999, "border_data": 0.1}, "border", "bad"),
        ({"age": 0.0}, "buffer age", "warn"),
    ],
)
def test_every_way_to_die_is_named(changes: dict[str, Any], name: str, level: str) -> None:
    found = {finding.name: finding for finding in diagnose(rows(**changes))}
    assert name in found and found[name].level == level
    assert found[name].sentence.endswith(".") and found[name].remedy.endswith(".")


def test_data_on_the_walls_are_no_reason_to_complain() -> None:
    assert diagnose(rows(border=0.97, border_data=0.96)) == []


def test_the_first_rows_are_only_asked_for_non_finite_numbers() -> None:
    assert diagnose(rows(5, gap=1000.0)) == []
    assert names(diagnose(rows(5, nonfinite=2))) == {"non-finite"}


def test_the_unit_of_energy_does_not_matter() -> None:
    small, large = rows(gap=12.0), rows(gap=1200.0, spread=100.0)
    assert names(diagnose(small)) == names(diagnose(large)) == {"energy gap"}


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
