"""The golden record: small computations give the numbers that they gave before (see golden/)."""

import platform
from functools import partial

import pytest
from golden.cases import CASES, difference
from golden.draws import run_continuous
from golden.fits import RECIPES, train
from golden.record import read

from lowland import Langevin

RECORD = read()
NUMBERS = RECORD["numbers"]
MACHINE = RECORD["made"]["machine"]
pytestmark = pytest.mark.skipif(
    platform.machine() != MACHINE,
    reason=f"recorded on {MACHINE}: other machines draw other exponential and normal numbers",
)


def test_the_record_holds_every_case_and_no_other() -> None:
    assert NUMBERS.keys() == CASES.keys()


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_record(name: str) -> None:
    case = CASES[name]
    found = case.run()
    off = {
        key: difference({key: found.get(key, [])}, {key: then})
        for key, then in NUMBERS[name].items()
    }
    far = {
        key: f"off by {by:.2g}: {found.get(key)}, recorded {NUMBERS[name][key]}"
        for key, by in off.items()
    }
    wrong = {key: far[key] for key, by in off.items() if not by < case.tolerance.rtol}
    assert not wrong and found.keys() == NUMBERS[name].keys(), (
        wrong,
        case.tolerance,
        RECORD["made"],
    )


def test_planted_changes_are_far_outside_the_tolerances() -> None:
    # noise scaled by 0.97, by 0.9999; a learning rate a hundredth higher; a penalty left out
    _, steps, overrides = RECIPES["pcd"]
    planted = {
        "langevin": [
            partial(run_continuous, Langevin(0.05, 0.8 * scale**2), 20) for scale in (0.97, 0.9999)
        ],
        "fit_pcd": [
            partial(train, "moons", steps, overrides | {"training.learning_rate": 3.03e-3}),
            partial(train, "moons", steps, overrides | {"objective.l2": 0.0}),
        ],
    }
    for name, changed in planted.items():
        for run in changed:
            assert difference(run(), NUMBERS[name]) > 3 * CASES[name].tolerance.rtol, (name, run)
