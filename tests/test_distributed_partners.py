"""Several processes: what is trained or followed beside the weights of an energy is one and the
same for all.

Partners (generator, flow, log Z), the means that Boltzmann machines keep of the data, images that
grow. One pair of processes does the work and leaves results in a folder.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from contract.ranks import enter, processes
from torch import Tensor

import lowland
from lowland.data import Dataset, load_data
from lowland.run import Run
from lowland.training import distributed as d
from lowland.training import train_recipe
from lowland.training.session import Session
from lowland.training.sharding import full_state_dict

COMMON = {
    "training.batch": 8,
    "training.warmup": 0,
    "training.preflight": "off",
    "training.steps": 6,
}
BITS = {
    "data.name": "digits",
    "data.binarize": "threshold",
    "sampler": {"name": "BlockGibbs"},
    "training.optimizer": "sgd",
}
SMALL = {"energy.hidden": [16], "training.learning_rate": 0.01}
CHAINS = {"name": "PCD", "steps": 1, "buffer_size": 16}
LANGEVIN = {"name": "Langevin", "step_size": 0.05}
PARTNERS: dict[str, dict[str, Any]] = {  # by recipe: an objective with a partner that learns
    "moons-cooperative": SMALL
    | {"objective.steps": 2, "objective.infer_steps": 2, "objective.hidden": [8]},
    "moons-flow": SMALL | {"objective.transforms": 2, "objective.hidden": [8]},
    "moons-nce": SMALL,
}
MACHINES: dict[
    str, dict[str, Any]
] = {  # the energy follows the means of the data; a gradient is made with them
    "RBM": BITS | {"energy": {"name": "RBM", "n_hidden": 12}},
    "DBM": BITS | {"energy": {"name": "DBM", "n_hidden": [12, 6]}},
    "DBN": BITS | {"energy": {"name": "DBN", "n_hidden": [12, 6]}},
}
GROWING: dict[str, Any] = {
    "data.name": "digits",
    "energy.widths": [6, 8],
    "objective": {"name": "CD", "steps": 2},
    "training.progressive_sizes": [4],
    "training.steps": 4,
    "training.batch": 16,
    "training.checkpoint_every": 2,
    "training.log_every": 1,
    "training.keep_checkpoints": 10,
}


@contextmanager
def precise() -> Iterator[None]:
    """Inside: what is built is built in float64, energies and partners of recipes too."""
    torch.set_default_dtype(torch.float64)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lowland.training.build.build_in_float32", nullcontext)
            yield
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def dealt(team: d.Team) -> Iterator[None]:
    """Inside: processes with the same generators get rows of one draw for all of them, as one
    process would make it.
    """

    def part(draw: Callable[..., Tensor], *shape: Any, **more: Any) -> Tensor:
        rows, *rest = shape if isinstance(shape[0], int) else tuple(shape[0])
        return draw(rows * team.size, *rest, **more)[team.shard(rows * team.size)]

    def filled(x: Tensor, *, generator: torch.Generator) -> Tensor:
        return x.copy_(torch.rand(x.shape, generator=generator, dtype=x.dtype))

    with pytest.MonkeyPatch.context() as patch:
        for name in ("randn", "rand"):
            patch.setattr(torch, name, partial(part, getattr(torch, name)))
        patch.setattr(Tensor, "uniform_", filled)
        yield


def session_of(case: str, team: d.Team, **more: Any) -> Session:
    machine = case in MACHINES
    values = COMMON | (MACHINES[case] if machine else PARTNERS[case]) | more
    values |= {"objective": {"name": "CD"}} if machine and "objective" not in more else {}
    recipe = lowland.read_recipe("digits-rbm" if machine else case, values).plain()
    data = _double(
        load_data("digits", binarize="threshold", limit=64)
        if machine
        else load_data("moons", count=200)
    )
    return Session(recipe, data, None, team)


def _double(data: Dataset) -> Dataset:
    return dataclasses.replace(data, train=dataclasses.replace(data.train, x=data.train.x.double()))


def held(session: Session) -> dict[str, Tensor]:
    """Weights, means and averages of a session, and those of its partner."""
    partner = (
        {}
        if session.partner is None
        else {f"partner {n}": t for n, t in full_state_dict(session.partner).items()}
    )
    average = {f"average {n}": t for n, t in session.ema.module.state_dict().items()}
    return {
        n: t.detach().clone()
        for n, t in (full_state_dict(session.energy) | partner | average).items()
    }


def learned(case: str, team: d.Team, sharding: str = "ddp") -> dict[str, Tensor]:
    """What a session holds after five updates in float64, when draws are dealt out."""
    with precise(), pytest.MonkeyPatch.context() as patch:
        one = d.Team.make_generator
        patch.setattr(d.Team, "make_generator", lambda self, *more: one(d.Team(), *more))
        session = session_of(case, team, **{"training.sharding": sharding})
        begun = held(session)
        with dealt(team):
            for _ in range(5):
                session.advance()
    found = held(session)
    kinds = ("partner", "average") if case in PARTNERS else ("average", "offset")
    for kind in kinds:  # the test would prove little of what stood still
        assert any(kind in name and not torch.equal(found[name], begun[name]) for name in found)
    return found


def drawn(case: str, team: d.Team) -> list[dict[str, Tensor]]:
    """What every process holds after five updates with draws and chains of its own, at the
    main process.
    """
    with precise():
        session = session_of(case, team, **({"objective": CHAINS} if case in MACHINES else {}))
        for _ in range(5):
            session.advance()
    return team.gather(held(session))


# ------------------------------------------------------------------------------- what the pair does


def pair(rank: int, ports: list[int], folder: Path) -> None:
    enter(rank, ports[0])
    with d.team() as team:

        def keep(name: str, found: Any) -> None:
            if team.is_main:
                torch.save(found, folder / f"{name}.pt")

        for case in (*PARTNERS, *MACHINES):
            keep(f"{case} ddp", learned(case, team))
            keep(f"{case} drawn", drawn(case, team))
        for case in PARTNERS:
            keep(f"{case} fsdp", learned(case, team, "fsdp"))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lowland.training.session.average_unsynced", lambda *_: None)
            keep("means left alone", drawn("RBM", team))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("lowland.training.session.wrap_step", lambda step, *_: step)
            keep("partner left alone", drawn("moons-cooperative", team))
        _grow(team, folder)


def _grow(team: d.Team, folder: Path) -> None:
    values = lowland.read_recipe("digits-grow", GROWING).plain()
    train_recipe(values, folder / "grown", progress=False)
    for name, source, cut in (
        ("late", "grown", late),
        ("early", "grown", early),
        ("widened", "alone", late),
    ):
        place = team.on_main(
            lambda source=source, name=name, cut=cut: cut(folder / source, folder / name)
        )
        train_recipe(values, place, progress=False)


def late(source: Path, target: Path) -> Path:
    """A copy of a run that stopped halfway through the last size."""
    shutil.copytree(source, target)
    Run(target).keep_checkpoints({0, 2})
    return target


def early(source: Path, target: Path) -> Path:
    """A copy of a run that stopped halfway through the first size."""
    shutil.copytree(source / "size-4", target / "size-4")
    Run(target / "size-4").keep_checkpoints({0, 2})
    return target


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("pair")
    train_recipe(
        lowland.read_recipe("digits-grow", GROWING).plain(), place / "alone", progress=False
    )
    assert processes(pair, place) == [0, 0]
    return place


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert set(a) == set(b)
    return max(float((a[name].double() - b[name].double()).abs().max()) for name in a)


# ------------------------------------------------------------------------------- partners and means


@pytest.mark.parametrize(
    ("case", "sharding"),
    [(c, s) for c in PARTNERS for s in ("ddp", "fsdp")] + [(c, "ddp") for c in MACHINES],
)
def test_partners_and_means_of_two_processes_are_those_of_one(
    folder: Path, case: str, sharding: str
) -> None:
    assert apart(learned(case, d.Team()), torch.load(folder / f"{case} {sharding}.pt")) < 1e-10


@pytest.mark.parametrize("case", [*PARTNERS, *MACHINES])
def test_both_processes_hold_the_same_partner_and_means(folder: Path, case: str) -> None:
    first, second = torch.load(folder / f"{case} drawn.pt")
    assert all(bool(t.isfinite().all()) for t in first.values()) and apart(first, second) == 0


@pytest.mark.parametrize(("case", "part"), [("means", "offset"), ("partner", "partner")])
def test_partners_and_means_that_are_left_alone_are_noticed(
    folder: Path, case: str, part: str
) -> None:
    first, second = torch.load(folder / f"{case} left alone.pt")
    assert apart(*({n: t for n, t in each.items() if part in n} for each in (first, second))) > 1e-4


# ------------------------------------------------------------------------------------------ growing


@pytest.mark.parametrize("name", ["late", "early"])
def test_images_grow_on_two_processes_and_resume_bit_for_bit(folder: Path, name: str) -> None:
    for size in ("size-4", "."):
        whole, again = Run.open(folder / "grown" / size), Run.open(folder / name / size)
        assert again.steps() == whole.steps() == [0, 2, 4]
        ends = [
            {p.name: p.read_bytes() for p in (run.path / "step-00000004").iterdir()}
            for run in (whole, again)
        ]
        assert ends[0] == ends[1]


def test_images_that_grew_on_one_process_go_on_growing_on_two(folder: Path) -> None:
    before, after = (Run.open(folder / "widened").load_checkpoint(step) for step in (2, 4))
    assert after.state["processes"] == 2 and all(
        t.isfinite().all() for t in after.tensors["ema"].values()
    )
    assert any(
        not torch.equal(t, after.tensors["energy"][name])
        for name, t in before.tensors["energy"].items()
    )
    with torch.no_grad():
        assert lowland.load(folder / "widened").energy(load_data("digits").test.x[:5]).shape == (5,)


# ------------------------------------------------------------------------------------- the compiler


def compiling(rank: int, ports: list[int], folder: Path) -> None:
    enter(rank, ports[0])
    with d.team() as team:
        for how, compiled in (("ddp", False), ("ddp", True), ("fsdp", True)):
            more = {
                "training.compile": compiled,
                "training.sharding": how,
                "objective": CHAINS,
                "sampler": LANGEVIN,
            }
            session = Session(
                lowland.read_recipe("moons", COMMON | SMALL | more).plain(),
                load_data("moons", count=200),
                None,
                team,
            )
            for _ in range(5):
                session.advance()
            found = team.gather(held(session))
            if team.is_main:
                torch.save(found, folder / f"{how} {compiled}.pt")


@pytest.mark.slow
def test_compiled_updates_of_two_processes_are_those_of_the_eager_energy(tmp_path: Path) -> None:
    assert processes(compiling, tmp_path) == [0, 0]
    eager = torch.load(tmp_path / "ddp False.pt")[0]
    for how in ("ddp", "fsdp"):
        first, second = torch.load(tmp_path / f"{how} True.pt")
        assert apart(first, second) == 0 and apart(eager, first) < 1e-5, how
