"""The matrix of machines: what pip is asked for, how a test run is judged, and the page."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks.proof import machines
from benchmarks.proof.machines_cells import CELLS, DEPENDENCIES, ENVIRONMENTS, NEWEST, ROOT, names
from benchmarks.proof.machines_page import write_page


def test_the_oldest_environment_pins_every_dependency_at_its_bound() -> None:
    oldest = ENVIRONMENTS["oldest"].packages
    pinned = dict(each.split("==") for each in oldest)
    bounds = dict(each.split(">=") for each in DEPENDENCIES)
    assert bounds.items() <= pinned.items()
    assert not any(">" in each for each in oldest)


def test_replaced_packages_are_asked_for_once() -> None:
    for name, bound in (("numpy-1.26", "numpy==1.26.4"), ("torch-2.6", "torch==2.6.0")):
        asked = ENVIRONMENTS[name].packages
        assert sorted(names(list(asked))) == sorted(names(list(NEWEST)))
        assert bound in asked


def test_cells_name_environments_and_tests_that_exist() -> None:
    for name, cell in CELLS.items():
        assert cell.environment in ENVIRONMENTS, name
        assert all((ROOT / path.partition("::")[0]).exists() for path in cell.tests), name
        assert cell.looks or cell.tests or cell.whole, f"{name} tries nothing"


def test_names_of_failed_tests_stand_in_the_summary() -> None:
    said = (
        "F.\nFAILED tests/test_a.py::test_b - assert 0\nERROR tests/test_c.py\n1 failed in 2.0s\n"
    )
    passed, line = machines.judge_tests(1, said)
    assert not passed
    assert line == "1 failed; ERROR tests/test_c.py; FAILED tests/test_a.py::test_b"
    assert machines.judge_tests(0, "..\n===== 2 passed in 0.1s =====\n") == (True, "2 passed")
    assert machines.judge_tests(124, "") == (False, "nothing was printed")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An environment in which pip fails."""

    def call(command: list[str], *_: Any) -> tuple[int, str]:
        return (1, "ERROR: No matching distribution") if "install" in command else (0, "")

    monkeypatch.setattr(machines, "call", call)
    yield tmp_path


def test_what_cannot_be_had_is_said_and_counts_as_not_passed(fake: Path) -> None:
    wheel = fake / "lowland.whl"
    found = machines.try_environment("oldest", ["oldest"], fake, wheel, {"3.11": "python"}, False)
    record = found["oldest"]
    assert "No matching distribution" in record["refused"]
    assert "torch==2.6" in record["refused"]
    assert not machines.succeeded(record)
    assert "No matching distribution" in write_page({"cells": found})


def test_the_page_shows_a_failure_and_what_was_left_out() -> None:
    steps = [
        {"what": "import", "passed": True, "said": "3 of 3 modules", "seconds": 1.0},
        {"what": "use", "passed": False, "said": "ValueError: a | b", "seconds": 2.0},
    ]
    made = {"asked": "pip install x", "versions": {"python": "3.12.1"}, "platform": "Linux-6"}
    record = made | {"steps": steps}
    page = write_page({"cells": {"python-3.12": record}})
    assert "**use failed**: ValueError: a \\| b" in page
    assert "| python-3.12 | 3.12.1 |" in page
    assert f"- oldest: {CELLS['oldest'].about}" in page
