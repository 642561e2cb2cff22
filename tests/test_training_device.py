"""Training on a device that is not the CPU: the same numbers, nothing stays behind, nothing waits.

The cases are those of `python -m benchmarks.proof.devices`, which repeats them where a GPU is.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from simulated import count_synchronisations
from simulated.permitted import PAIRS, Permission, excess

from benchmarks.proof.devices_cases import draws, runs, updates, uses
from benchmarks.proof.devices_cases.case import Case, compare
from benchmarks.proof.devices_cases.twins import draw_alike
from lowland import transfer
from lowland.data import Batches, Split
from lowland.registry import registered
from lowland.training import Session, train_recipe
from lowland.training.memory import peak_mb

CPU = torch.device("cpu")
# beside the quick ones: minutes on a slow core, or proven elsewhere in the quick suite
SLOW = ("FlowContrastive", "NoiseUNet", "ConvNet", "fit, grown", "fit, preflight")


def mark(cases: list[Case]) -> list[object]:
    """Return the cases as parameters; those that take long are for the slow suite."""
    slow = pytest.mark.slow
    return [
        pytest.param(case, id=case.name, marks=[slow] if case.name in SLOW else [])
        for case in cases
    ]


def check_case(case: Case, device: torch.device, folder: Path) -> None:
    """Fail if a case differs from the CPU, or computes there what it should compute elsewhere."""
    if not case.alike:
        case.run(device, folder / "there")
        return
    with draw_alike(CPU):
        wanted = case.run(CPU, folder / "here")
    with draw_alike(device) as twins:
        found = case.run(device, folder / "there")
    assert not twins.strays, f"products of CPU tensors: {twins.strays}"
    assert {x.device.type for x in found.values()} == {device.type}
    assert not compare(wanted, found, case)


def test_every_objective_and_term_has_a_case() -> None:
    named = [updates.read_case(name, CPU)[0] for name in updates.RECIPES]
    assert {plain["objective"]["name"] for plain in named} == set(registered("objective"))
    terms = {term["name"] for plain in named for term in plain["terms"]}
    assert terms == set(registered("term"))


@pytest.mark.parametrize("name", mark(updates.CASES))
def test_an_update_is_that_of_the_cpu_and_waits_for_nothing(
    name: Case, sim: torch.device, tmp_path: Path
) -> None:
    case = name
    with draw_alike(CPU):
        wanted = case.run(CPU, tmp_path)
    with draw_alike(sim) as twins:
        session = updates.begin(case.name, sim)
        found = updates.read(case.name, session)
    assert not twins.strays, f"products of CPU tensors: {twins.strays}"
    assert not compare(wanted, found, case)
    with count_synchronisations() as record:
        session.advance()
    assert not excess(record.places, 1, [PAIRS])


@pytest.mark.parametrize(
    "name",
    [
        "Cooperative",
        pytest.param("FlowContrastive", marks=pytest.mark.slow),
        "EquilibriumMatching",
        "NCE in a box",
        "PCD of a DBM",
        "JEM",
    ],
)
def test_an_update_needs_no_float64(name: str, sim32: torch.device) -> None:
    session = updates.begin(name, sim32)
    with count_synchronisations() as record:
        session.advance()
    without = Permission("float64", "", "", (("devices.py", "to_float64"),), 20.0)
    scaled = Permission("back again", "", "", (("nets/noise_models.py", "Truncated"),), 20.0)
    assert not excess(record.places, 1, [PAIRS, without, scaled])
    assert all(x.isfinite().all() for x in updates.read(name, session).values())


def test_rectified_units_need_no_float64(sim32: torch.device, tmp_path: Path) -> None:
    case = next(case for case in draws.CASES if case.name == "BlockGibbs, numbers")
    x = case.run(sim32, tmp_path)["x"]
    assert x.device == sim32 and x.isfinite().all()


@pytest.mark.parametrize("case", mark(runs.CASES))
def test_a_run_is_that_of_the_cpu(case: Case, sim: torch.device, tmp_path: Path) -> None:
    check_case(case, sim, tmp_path)


@pytest.mark.parametrize("case", [case for case in uses.CASES if case.room == "net"], ids=str)
def test_a_net_is_that_of_the_cpu(case: Case, sim: torch.device, tmp_path: Path) -> None:
    check_case(case, sim, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case", [*draws.CASES, *(case for case in uses.CASES if case.room == "task")], ids=str
)
def test_draws_and_tasks_of_the_script_run(case: Case, sim: torch.device, tmp_path: Path) -> None:
    check_case(case, sim, tmp_path)


def test_an_update_that_is_not_finite_is_skipped_without_waiting(sim: torch.device) -> None:
    session = updates.begin("PCD", sim)
    before = {name: x.cpu() for name, x in session.energy.state_dict().items()}
    moments = {name: x.cpu() for name, x in session.checkpoint(0).tensors["optimizer"].items()}
    assert session.buffer is not None
    whole = session.batches.split
    session.batches = Batches(
        Split(torch.full_like(whole.x, torch.nan)), seed=0, device=session.device
    )
    with count_synchronisations() as record:
        session.advance()
    assert not record.places, str(record)
    assert session.row()["nonfinite"] == 1
    for name, x in session.energy.state_dict().items():
        assert torch.equal(x.cpu(), before[name]), f"{name} moved"
    for name, x in session.checkpoint(0).tensors["optimizer"].items():
        assert torch.equal(x.cpu(), moments[name]), f"{name} moved"


def test_reading_a_row_waits_twice_and_no_more(sim: torch.device) -> None:
    session = updates.begin("PCD", sim)
    with count_synchronisations() as record:
        session.row()
    assert sum(record.places.values()) <= 2, str(record)


def test_batches_come_from_pinned_memory(
    sim: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next batch is under way while this one is used, and nothing waits for it."""
    monkeypatch.setattr(transfer, "PINNED", (sim.type,))
    pinned: list[torch.Size] = []
    pin = torch.Tensor.pin_memory

    def record_pin(x: torch.Tensor) -> torch.Tensor:
        pinned.append(x.shape)
        return pin(x)

    monkeypatch.setattr(torch.Tensor, "pin_memory", record_pin)
    batches = Batches(Split(torch.arange(20.0).view(10, 2), torch.arange(10)), seed=0, device=sim)
    plain = Batches(Split(torch.arange(20.0).view(10, 2), torch.arange(10)), seed=0)
    with count_synchronisations() as record:
        batches.prepare(4)
        assert pinned == [torch.Size([4, 2]), torch.Size([4])]
        x, y = batches.next(4)
    assert not record.places, str(record)
    assert len(pinned) == 2 and x.device == sim and y is not None
    wanted = plain.next(4)
    assert torch.equal(x.cpu(), wanted[0]) and torch.equal(y.cpu(), wanted[1])


def test_data_on_the_device_are_gathered_there(sim: torch.device) -> None:
    x = torch.arange(20.0).view(10, 2)
    batches, plain = Batches(Split(x.to(sim)), seed=0), Batches(Split(x), seed=0)
    with count_synchronisations() as record:
        found = batches.next(4)[0]
    assert not record.places, str(record)
    assert found.device == sim and torch.equal(found.cpu(), plain.next(4)[0])


@pytest.mark.parametrize("there", [True, False])
def test_data_may_lie_on_a_device(there: bool, sim: torch.device, tmp_path: Path) -> None:
    plain, data = updates.read_case("PCD with labels", sim if there else CPU)
    moved = {
        name: Split(part.x.to(sim), None if part.y is None else part.y.to(sim))
        for name, part in data.splits()
    }
    energy = train_recipe(plain, tmp_path / "run", data=replace(data, **moved), progress=False)
    assert next(energy.parameters()).device.type == (sim.type if there else "cpu")


def test_generators_of_another_kind_of_device_begin_anew(sim: torch.device) -> None:
    """They are a function of seed and step, and the rest of a checkpoint is carried over."""
    plain, data = updates.read_case("PCD", sim)
    there = Session(plain, data)
    there.advance()
    checkpoint = there.checkpoint(0)
    assert checkpoint.state["device"] == sim.type
    again = Session(plain, data)
    again.restore(checkpoint)
    states = [g.get_state() for g in there.generators.values()]
    for state, generator in zip(states, again.generators.values(), strict=True):
        assert torch.equal(state, generator.get_state())
    here = Session(*updates.read_case("PCD", CPU))
    here.restore(checkpoint)
    for state, generator in zip(states, here.generators.values(), strict=True):
        assert generator.device.type == "cpu"
        assert not torch.equal(state, generator.get_state())


def test_memory_is_reported_on_a_device_that_keeps_no_figure(sim: torch.device) -> None:
    assert peak_mb(sim) > 0
