"""The page "Which sampler?": truths that are true, a benchmark that runs and sees what is wrong,
figures from the record.
"""

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.guides import RESULTS
from benchmarks.guides import samplers_targets as which_targets
from benchmarks.guides.samplers import (
    CONTINUOUS,
    DISCRETE,
    PAGE,
    Run,
    Size,
    cell,
    held_against,
    measure,
    run,
    steps_of,
)
from benchmarks.guides.samplers_page import (
    WORDS,
    best,
    family,
    figure,
    filled,
    off_by,
    results_page,
    table,
    troubles,
)
from benchmarks.guides.samplers_targets import TARGETS, Target
from lowland.registry import registered
from lowland.samplers import MALA, NUTS, BlockGibbs, Langevin, ParallelTempering


@pytest.fixture(scope="module")
def small() -> dict[str, Any]:
    targets = [which_targets.banana(), which_targets.ising(4, 0.3)]
    found = measure(targets, Size(chains=4, row=40, tuning=20, seeds=(1, 2)))
    about = {"cpu": "a", "torch": "b", "load_average": [0.0]}
    return found | {"command": "c", "date": "d", "seconds": 1, "machine": about, "versions": {}}


def seen(right: bool = True, **other: Any) -> dict[str, Any]:
    """A cell of the table."""
    worst = {"name": "mean of x", "truth": 2.0, "found": 2.0, "z": 0.1}
    rate = {"mean": 50.0, "sd": 1.0}
    common = {
        "sampler": "MALA",
        "adjusted": True,
        "right": right,
        "rhat": 1.0,
        "diverged": 0,
        "worst": worst,
    }
    return {**common, "ess_per_second": rate, "ess_per_1000_gradients": rate} | other


# Truths


def test_the_truths_of_the_lattice_are_those_of_all_its_states() -> None:
    for coupling in (0.2, 0.44):
        target = which_targets.ising(4, coupling)
        every = ((torch.arange(2**16).unsqueeze(1) >> torch.arange(16)) & 1).double().view(-1, 4, 4)
        energies = target.energy(every)
        p = (-energies).softmax(0)
        for truth in target.truths:
            assert (p * truth.function(every, energies)).sum().item() == pytest.approx(
                truth.value, rel=1e-9, abs=1e-9
            )


def exact(target: Target, count: int) -> Tensor:
    """Independent exact draws; of the box by inverting its distribution function."""
    g = torch.Generator().manual_seed(3)
    if target.name == "box":
        rates = torch.linspace(2, 20, 10)
        return -torch.log1p(torch.rand(count, 10, generator=g) * torch.expm1(-rates)) / rates
    return target.energy.draw(count, g)  # type: ignore[operator]


def z_scores(target: Target, x: Tensor) -> list[float]:
    """Of every truth, over independent draws."""
    energies = target.energy(x)
    means = torch.stack([t.function(x, energies).double() for t in target.truths])
    one = Run(0.0, 0.0, 1.0, 1.0, 1.0, 0, means)
    return [t["z"] for t in held_against(target, [one])]


@pytest.mark.parametrize("name", [name for name in TARGETS if name != "ising"])
def test_truths_hold_for_exact_draws_and_not_for_draws_a_little_wider(name: str) -> None:
    target = TARGETS[name]()
    x = exact(target, 100_000)
    assert max(map(abs, z_scores(target, x))) < 5
    wider = x * 1.03 if name != "mixture" else x + 0.03 * (x > 0)
    assert max(map(abs, z_scores(target, wider))) > 5


# The benchmark


def test_a_small_run_measures_every_sampler(small: dict[str, Any]) -> None:
    for target, samplers in zip(small["targets"], (CONTINUOUS, DISCRETE), strict=True):
        assert [c["sampler"] for c in target["cells"]] == list(samplers)
        assert all(min(c["ess"]) >= 1 and min(c["seconds"]) > 0 for c in target["cells"])
        assert target["auto"]["sampler"] in {family(name) for name in samplers}
    assert all(title in results_page(small) for title in (t["title"] for t in small["targets"]))


def test_equal_work_in_a_row() -> None:
    target, size = which_targets.banana(), Size(row=800)
    assert (
        steps_of(MALA(0.1), target, size)
        == 800
        == steps_of(ParallelTempering(MALA(0.1), (1.0, 2.0)), target, size)
    )
    assert steps_of(BlockGibbs(), which_targets.ising(4), size) == 800
    steps = steps_of(NUTS(0.6, 8), target, size)
    assert 0.5 < run(target, NUTS(0.6, 8), steps, 32, 0).gradients / (0.75 * size.row) < 2


def test_what_is_wrong_is_seen_and_gets_no_credit() -> None:
    target = which_targets.gaussian(5, 1 / 2)
    cells = {}
    for sampler in (MALA(0.1), Langevin(0.1)):
        runs = [run(target, sampler, 2000, 32, seed) for seed in (1, 2)]
        cells[type(sampler).__name__] = cell(
            type(sampler).__name__, sampler, target, runs, 0.0, 2000
        )
    exact, biased = cells["MALA"], cells["Langevin"]
    assert exact["right"] and not biased["right"]
    assert biased["worst"]["z"] > 10 and figure(biased["ess_per_second"], biased) == "–"
    known = {t["name"]: t for t in biased["truths"]}["variance of the narrowest axis"]
    assert known["found"] == pytest.approx(
        0.25 / (1 - 0.1 / (2 * 0.25)), rel=0.05
    )  # the law of Langevin with this step
    assert "variance of the narrowest axis off by +2" in troubles(
        biased, {"cells": [exact, biased]}
    )


def test_chains_that_stay_apart_are_not_right() -> None:
    target = which_targets.mixture(2, 12.0)
    stuck = cell("MALA", MALA(0.3), target, [run(target, MALA(0.3), 800, 32, 1)], 0.0, 800)
    assert stuck["rhat"] > 1.3 and not stuck["right"]
    assert figure(stuck["ess_per_second"], stuck).startswith("(")


# The page


def test_figures_are_bracketed_where_draws_are_wrong() -> None:
    good, bad = seen(), seen(right=False)
    assert (
        figure(good["ess_per_second"], good) == "50.0 ± 1.0"
        and figure(bad["ess_per_second"], bad) == "(50.0 ± 1.0)"
    )
    assert (
        best({"cells": [bad, good]}, "ess_per_second") is good
        and best({"cells": [bad]}, "ess_per_second") is None
    )
    assert figure(None, good) == "–"


def test_troubles_are_told_with_their_number() -> None:
    wrong = seen(
        right=False,
        rhat=math.inf,
        diverged=7,
        worst={"name": "mass", "truth": 0.3, "found": 0.15, "z": -9.0},
    )
    assert troubles(wrong, {"cells": [wrong]}) == "mass off by -50 %, R-hat > 100, 7 divergences"
    slow = seen(sampler="HMC", ess_per_second={"mean": 5.0, "sd": 0.1})
    assert (
        troubles(slow, {"cells": [slow, seen()]}) == "right, at 0.1 of the ESS per second of MALA"
    )
    assert troubles(seen(), {"cells": [slow, seen()]}) == ""


def test_errors_are_relative_where_the_truth_is_not_zero() -> None:
    assert (
        off_by({"truth": 4.0, "found": 3.0}) == "-25 %"
        and off_by({"truth": 0.0, "found": 0.5}) == "+0.5"
    )
    assert off_by({"truth": 2.0, "found": 200.0}) == "× 1e+02"


def test_the_table_has_one_row_per_sampler(small: dict[str, Any]) -> None:
    for target in small["targets"]:
        rows = table(target)
        assert len(rows) == 2 + len(target["cells"]) and len({row.count("|") for row in rows}) == 1


def test_measured_parts_are_written_anew(small: dict[str, Any]) -> None:
    page = (
        "top\n<!-- measured -->\nold\n<!-- end of measured -->\nmid\n<!-- failures -->\n<!-- end "
        "of failures -->\nend\n"
    )
    new = filled(page, small)
    assert (
        "old" not in new and new.startswith("top\n") and "\nmid\n" in new and new.endswith("end\n")
    )
    assert filled(new, small) == new


def test_every_sampler_is_on_the_page_and_in_the_benchmark() -> None:
    names = set(registered("sampler"))
    page = PAGE.read_text()
    assert names == {family(name) for name in (*CONTINUOUS, *DISCRETE)} == set(WORDS)
    assert [name for name in sorted(names) if f"**{name}.**" not in page] == []


def test_the_page_says_what_the_record_says() -> None:
    record = json.loads((RESULTS / "samplers.json").read_text())
    assert filled(PAGE.read_text(), record) == PAGE.read_text()
    assert (RESULTS / "samplers.md").read_text() == results_page(record)
