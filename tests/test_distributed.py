"""Several processes: what two train together is what one trains alone.

One pair of processes does the work of most tests (starting it takes longer than the work) and
leaves results in a folder; the tests look at them and compare with what this process does alone. A
second pair is there to lose a member, and four come to see that nothing holds for two only.
"""

import contextlib
import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.ranks import enter, processes
from torch import Tensor, nn

import lowland
from lowland import cli, commands
from lowland.commands import runs as running
from lowland.data import Batches, Split, load_data
from lowland.registry import build
from lowland.run import Run
from lowland.trained import Model
from lowland.training import distributed as d
from lowland.training import train_recipe
from lowland.training.session import Session
from lowland.training.sharding import full_state_dict, full_tensor

STILL = {"sampler.name": "ShortRun", "sampler.step_size": 0.05, "sampler.noise": 0.0}
EQUAL: dict[
    str, dict[str, Any]
] = {  # nothing is drawn: two processes must find the gradients of one
    "score matching": {"objective.name": "ScoreMatching"},
    "contrast": {"objective.name": "CD", "objective.steps": 2, "objective.l2": 0.1, **STILL},
    "in parts": {"objective.name": "CD", "objective.steps": 2, "training.accumulate": 2, **STILL},
    "images": {
        "data.name": "digits",
        "energy.name": "IGEBM",
        "energy.widths": [4, 8],
        "energy.blocks": 1,
        "objective.name": "CD",
        "objective.steps": 2,
        "training.checkpoint_activations": True,
        **STILL,
    },
}
COMMON = {
    "training.steps": 6,
    "training.batch": 8,
    "training.warmup": 0,
    "training.preflight": "off",
}
SHORT = {
    "training.steps": 40,
    "training.checkpoint_every": 20,
    "training.keep_checkpoints": 10,
    "training.batch": 32,
    "training.preflight": "adjust",
    "objective.buffer_size": 65,
    "generation.steps": 10,
    "evaluation.samples": 32,
}
POPULATION = SHORT | {
    "training.learning_rate": 1e-9,
    "training.batch": 500,
    "objective.buffer_size": 2000,
}
COUNT = 600  # samples in three pieces


class Weighted(lowland.Energy):
    """A perceptron with a scalar weight, which FSDP2 cannot divide, and weights that no loss
    needs.
    """

    def __init__(self, domain: Any) -> None:
        super().__init__(domain)
        self.inner, self.factor, self.idle = (
            lowland.nets.MLP(domain, (16,)),
            nn.Parameter(torch.tensor(1.5)),
            nn.Linear(2, 3),
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.factor * self.inner(x, c)


class Grenade(lowland.Energy):
    """In the second process, the 25th forward pass of training has no finite value, though a
    gradient.
    """

    def __init__(
        self, domain: Any, armed: bool, act: Callable[[], float] = lambda: float("inf")
    ) -> None:
        super().__init__(domain)
        self.inner, self.armed, self.act, self.calls = (
            lowland.nets.MLP(domain, (8,), quadratic_weight=0.1),
            armed,
            act,
            0,
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        value = self.inner(x, c)
        self.calls += self.training and torch.is_grad_enabled()
        return value + self.act() if self.armed and self.training and self.calls == 25 else value


def recipe(**more: Any) -> dict[str, Any]:
    return lowland.read_recipe("moons", more).plain()


def short(**more: Any) -> dict[str, Any]:
    values = SHORT | {key.replace("__", "."): value for key, value in more.items()}
    return recipe(
        **{
            key: value
            for key, value in values.items()
            if key != "objective.buffer_size" or "objective.name" not in values
        }
    )


def exact(case: str, sharding: str, team: d.Team) -> dict[str, Tensor]:
    """Gradients of the first update, and weights and averages after the last, in float64."""
    values = recipe(**{**COMMON, **EQUAL[case], "training.sharding": sharding})
    data = load_data(
        values["data"]["name"], **({"limit": 64} if case == "images" else {"count": 200})
    )
    data = dataclasses.replace(data, train=dataclasses.replace(data.train, x=data.train.x.double()))
    torch.manual_seed(0)
    energy = (
        build("energy", {**values["energy"], "domain": data.domain})
        if case == "images"
        else Weighted(data.domain)
    )
    session = Session(values, data, energy.double(), team)
    session.advance()
    found = {
        f"gradient {n}": full_tensor(p.grad).clone()
        for n, p in energy.named_parameters()
        if p.grad is not None
    }
    for _ in range(5):
        session.advance()
    return (
        found
        | full_state_dict(energy)
        | {"average": torch.cat([p.flatten() for p in session.ema.module.parameters()])}
    )


def restored(values: dict[str, Any], source: Path, team: d.Team) -> dict[str, dict[str, Tensor]]:
    """What a session holds after it was restored from the checkpoint of step 20."""
    session = Session(values, load_data("moons", seed=0), None, team)
    session.restore(Run.open(source).load_checkpoint(20))
    return session.checkpoint(0).tensors


def cut(source: Path, target: Path) -> Path:
    """A copy of a run that stopped at step 20."""
    shutil.copytree(source, target)
    Run(target).keep_checkpoints({0, 20})
    return target


def detonated(team: d.Team, folder: Path, policy: str) -> list[Tensor]:
    """Weights of both processes, in the main process, after one of them has met a loss that is not
    finite.
    """
    data = load_data("moons", count=200)
    values = short(objective__name="CD", training__on_failure=policy)
    torch.manual_seed(0)
    energy = Grenade(data.domain, armed=team.rank == 1)
    train_recipe(values, folder, data=data, energy=energy, progress=False)
    return team.gather(torch.cat([p.detach().flatten() for p in energy.parameters()]))


# ------------------------------------------------------------------------------- what the pair does


def pair(rank: int, ports: list[int], folder: Path) -> None:
    enter(rank, ports[0])
    with d.team() as team:

        def keep(name: str, found: Any) -> None:
            if team.is_main:
                torch.save(found, folder / f"{name}.pt")

        for case in EQUAL:
            for sharding in ("ddp", "fsdp"):
                keep(f"{case} {sharding}", exact(case, sharding, team))
        _runs(team, folder, keep)
        _planted(team, folder, keep)
    _commands(rank, ports[1:], folder)


def _runs(team: d.Team, folder: Path, keep: Callable[[str, Any], None]) -> None:
    train_recipe(short(), folder / "whole", progress=False)
    train_recipe(
        short(), team.on_main(lambda: cut(folder / "whole", folder / "again")), progress=False
    )
    train_recipe(
        short(), team.on_main(lambda: cut(folder / "alone", folder / "widened")), progress=False
    )
    for sharding in ("ddp", "fsdp"):
        values = short(training__sharding=sharding, training__precision="bfloat16")
        energy = train_recipe(values, folder / sharding, progress=False)
        keep(
            f"{sharding} everywhere",
            team.gather(torch.cat([p.flatten() for p in energy.parameters()])),
        )
        keep(
            f"{sharding} restored",
            restored(short(training__sharding=sharding), folder / "alone", team),
        )
    train_recipe(recipe(**POPULATION), folder / "population", progress=False)


def _planted(team: d.Team, folder: Path, keep: Callable[[str, Any], None]) -> None:
    """Bugs, each of which a test has to see."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("lowland.training.session.wrap_step", lambda step, *_: step)
        keep("not averaged", exact("contrast", "ddp", team))
    with pytest.MonkeyPatch.context() as patch:
        one = d.Team.make_generator
        patch.setattr(d.Team, "make_generator", lambda self, *more: one(d.Team(), *more))
        train_recipe(short(training__steps=1), folder / "same generator", progress=False)
    keep("rolled back", detonated(team, folder / "rolled back", "roll-back"))
    keep("agreed", detonated(team, folder / "agreed", "continue"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(d.Team, "all_true", lambda self, flag: flag)
        keep("not agreed", detonated(team, folder / "not agreed", "continue"))


def _commands(rank: int, ports: list[int], folder: Path) -> None:
    """What torchrun would have each process do; evaluation and report, which are long, only say who
    made them.
    """
    run = str(folder / "run")
    sets = [part for key, value in SHORT.items() for part in ("--set", f"{key}={value}")]
    scored = ["energy", run, str(folder / "points.npy"), "--format"]
    commands = [
        ["train", "moons", "--run", run, "--quiet", *sets],
        ["sample", run, "--count", str(COUNT), "--out", str(folder / "two.npz"), "--quiet"],
        *([*scored, form, "--out", str(folder / f"two.{form}")] for form in ("csv", "jsonl")),
    ]
    with (
        (folder / f"said {rank}").open("w") as said,
        contextlib.redirect_stdout(said),
        pytest.MonkeyPatch.context() as patch,
    ):
        for verb in ("evaluate", "report"):
            patch.setattr(
                running, verb, lambda *_, verb=verb, **__: (folder / f"{verb} {rank}").touch()
            )
        for port, command in zip(ports, commands, strict=True):
            enter(rank, port)
            cli.main(command)


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("pair")
    train_recipe(short(), folder / "alone", progress=False)
    np.save(folder / "points.npy", load_data("moons", seed=0, count=4000).train.x.numpy()[:2500])
    assert processes(pair, folder) == [0, 0]
    return folder


def files(run: Path, step: int) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / f"step-{step:08d}").iterdir()}


# ----------------------------------------------------------------------------------------- equality


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    assert set(a) == set(b)
    return max(float((a[name] - b[name]).abs().max()) for name in a)


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_find_the_gradients_and_weights_of_one(
    together: Path, case: str, sharding: str
) -> None:
    found = torch.load(together / f"{case} {sharding}.pt")
    assert any(name.startswith("gradient") for name in found)
    assert apart(exact(case, "ddp", d.Team()), found) < 1e-10


def four(rank: int, ports: list[int], folder: Path) -> None:
    enter(rank, ports[0], 4)
    with d.team() as team:
        for case in EQUAL:
            for sharding in ("ddp", "fsdp"):
                found = exact(case, sharding, team)
                if team.is_main:
                    torch.save(found, folder / f"{case} {sharding}.pt")


@pytest.mark.slow
def test_four_processes_find_the_gradients_and_weights_of_one(tmp_path: Path) -> None:
    assert processes(four, tmp_path, size=4) == [0, 0, 0, 0]
    for case in EQUAL:
        alone = exact(case, "ddp", d.Team())
        for sharding in ("ddp", "fsdp"):
            assert apart(alone, torch.load(tmp_path / f"{case} {sharding}.pt")) < 1e-10, (
                case,
                sharding,
            )


def test_gradients_that_are_not_averaged_are_noticed(together: Path) -> None:
    assert (
        apart(exact("contrast", "ddp", d.Team()), torch.load(together / "not averaged.pt")) > 1e-3
    )


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_all_processes_hold_the_same_average(together: Path, sharding: str) -> None:
    first, second = torch.load(together / f"{sharding} everywhere.pt")
    assert torch.equal(first, second) and bool(first.isfinite().all())


def test_sharded_weights_train_as_whole_ones_do(together: Path) -> None:
    a, b = (Run.open(together / name).load_checkpoint(40).tensors for name in ("ddp", "fsdp"))
    for name, value in a["energy"].items():
        torch.testing.assert_close(
            b["energy"][name], value, rtol=0, atol=2e-3
        )  # bfloat16, 40 updates
    assert {n: t.shape for n, t in a["optimizer"].items()} == {
        n: t.shape for n, t in b["optimizer"].items()
    }


# ---------------------------------------------------------------------------- chains and generators


def chains(run: Path, step: int) -> Tensor:
    return Run.open(run).load_checkpoint(step).tensors["chains"]["x"]


def test_each_process_keeps_chains_of_its_own(together: Path) -> None:
    x = chains(together / "whole", 0)
    assert x.shape == (65, 2) and not (x[:32] == x[32:64]).any()
    assert x[:32].equal(
        chains(together / "alone", 0)[:32]
    )  # the first process draws as a single one does


def test_the_same_generator_everywhere_is_noticed(together: Path) -> None:
    x = chains(together / "same generator", 0)
    assert (x[:32] == x[32:64]).all(1).float().mean() > 0.5


def test_chains_of_two_processes_have_the_law_of_those_of_one(
    together: Path, tmp_path: Path
) -> None:
    """Weights that do not move: means and squares of 2000 chains each, within 5 standard errors,
    and what the log says.
    """
    train_recipe(recipe(**POPULATION), tmp_path / "one", progress=False)
    for power in (1, 2):
        a, b = (
            chains(run, 40).double() ** power for run in (tmp_path / "one", together / "population")
        )
        z = (a.mean(0) - b.mean(0)) / ((a.var(0) + b.var(0)) / len(a)).sqrt()
        assert z.abs().max() < 5
    one, both = (Run.open(run).rows()[-1] for run in (tmp_path / "one", together / "population"))
    assert set(one) == set(both)
    for name in ("energy_data", "energy_model", "movement", "age"):
        assert both[name] == pytest.approx(one[name], rel=0.05, abs=0.02)


# ------------------------------------------------------------------------------------------ saving


def test_two_processes_resume_bit_for_bit(together: Path) -> None:
    assert files(together / "again", 40) == files(together / "whole", 40)
    assert (together / "again" / "log.jsonl").read_bytes() == (
        together / "whole" / "log.jsonl"
    ).read_bytes()
    assert not list((together / "whole").glob(".step*"))


@pytest.mark.parametrize("sharding", ["ddp", "fsdp"])
def test_two_processes_restore_what_one_has_saved(together: Path, sharding: str) -> None:
    saved, found = (
        Run.open(together / "alone").load_checkpoint(20).tensors,
        torch.load(together / f"{sharding} restored.pt"),
    )
    for part in ("energy", "ema", "optimizer", "chains"):
        assert found[part].keys() == saved[part].keys()
        assert all(torch.equal(found[part][name], value) for name, value in saved[part].items()), (
            part
        )


def test_one_process_restores_what_two_have_saved(together: Path) -> None:
    saved, found = (
        Run.open(together / "whole").load_checkpoint(20),
        restored(short(), together / "whole", d.Team()),
    )
    for part in ("energy", "ema", "optimizer", "chains"):
        assert all(
            torch.equal(found[part][name], value) for name, value in saved.tensors[part].items()
        ), part
    assert saved.state["processes"] == 2 and set(saved.tensors["generators"]) == {
        "data",
        "chains",
        "data.1",
        "chains.1",
    }
    again = restored(short(), together / "whole", d.Team())  # new generators, always the same
    assert all(
        torch.equal(again["generators"][name], value) for name, value in found["generators"].items()
    )


def test_runs_go_on_with_another_number_of_processes(together: Path, tmp_path: Path) -> None:
    train_recipe(short(), cut(together / "whole", tmp_path / "narrowed"), progress=False)
    for run in (tmp_path / "narrowed", together / "widened"):
        assert Run.open(run).steps() == [0, 20, 40] and [
            row["step"] for row in Run.open(run).rows()
        ][-4:] == [10, 20, 30, 40]
        assert all(
            t.isfinite().all() for t in Run.open(run).load_checkpoint().tensors["ema"].values()
        )


# ------------------------------------------------------------------------------------------ trouble


def test_what_is_not_finite_in_one_process_is_left_out_or_taken_back_in_all(together: Path) -> None:
    for name in ("agreed", "rolled back"):
        first, second = torch.load(together / f"{name}.pt")
        assert torch.equal(first, second) and bool(first.isfinite().all())
    assert sum(row.get("nonfinite", 0) for row in Run.open(together / "agreed").rows()) == 1
    events = [
        row for row in Run.open(together / "rolled back").rows() if row.get("event") == "rollback"
    ]
    assert [(row["name"], row["to"]) for row in events] == [("diverging", 20)]


def test_processes_that_do_not_agree_are_noticed(together: Path) -> None:
    first, second = torch.load(together / "not agreed.pt")
    assert not torch.equal(first, second)


def leave() -> float:
    os._exit(7)


def bereaved(rank: int, ports: list[int], folder: Path) -> None:
    enter(rank, ports[0])
    data = load_data("moons", count=200)
    energy = Grenade(data.domain, armed=rank == 1, act=leave)
    try:
        train_recipe(
            short(objective__name="CD"), folder / "run", data=data, energy=energy, progress=False
        )
    except d.WorkerLostError as error:
        (folder / "said").write_text(str(error))


def test_a_process_that_dies_ends_the_others_in_words_and_leaves_a_whole_run(
    tmp_path: Path,
) -> None:
    assert processes(bereaved, tmp_path) == [0, 7]  # and not killed after a long wait
    assert "lowland resume" in (tmp_path / "said").read_text()
    run = Run.open(tmp_path / "run")
    assert run.steps() == [0, 20] and run.load_checkpoint().step == 20
    assert not [
        path.name
        for path in run.path.iterdir()
        if path.name.startswith(".") and path.name != ".lock"
    ]


# ----------------------------------------------------------------------------------------- commands


def test_the_commands_of_two_processes_write_once_and_speak_once(together: Path) -> None:
    made = {path.name for path in together.iterdir()}
    assert {"evaluate 0", "report 0"} <= made and not {"evaluate 1", "report 1"} & made
    wanted = [
        together / "run" / "report.html",
        together / "two.npz",
        together / "two.csv",
        together / "two.jsonl",
    ]
    assert (together / "said 0").read_text().split("\n")[:-1] == list(map(str, wanted))
    assert (together / "said 1").read_text() == ""


@pytest.mark.parametrize("suffix", ["npz", "csv", "jsonl"])
def test_results_do_not_depend_on_the_number_of_processes(
    together: Path, tmp_path: Path, suffix: str
) -> None:
    run, out = str(together / "run"), tmp_path / f"one.{suffix}"
    if suffix == "npz":
        cli.main(["sample", run, "--count", str(COUNT), "--out", str(out), "--quiet"])
    else:
        cli.main(
            ["energy", run, str(together / "points.npy"), "--format", suffix, "--out", str(out)]
        )
    assert out.read_bytes() == (together / f"two.{suffix}").read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == [out.name]


def test_a_job_that_broke_goes_on_where_it_was(
    together: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, drawn = Model.sample, []

    def breaks(s: Any, count: int, *more: Any, **options: Any) -> Any:
        drawn.append(count)
        if len(drawn) == 2:
            raise KeyboardInterrupt
        return whole(s, count, *more, **options)

    monkeypatch.setattr(Model, "sample", breaks)
    with pytest.raises(KeyboardInterrupt):
        commands.sample(together / "run", count=COUNT, out=tmp_path / "x.npz", quiet=True)
    assert [path.name for path in tmp_path.iterdir()] == [".x.npz.pieces"]
    commands.sample(together / "run", count=COUNT, out=tmp_path / "x.npz", quiet=True)
    assert (
        drawn == [256, 256, 256, 88]
        and (tmp_path / "x.npz").read_bytes() == (together / "two.npz").read_bytes()
    )
    drawn.clear()
    monkeypatch.setattr(Model, "sample", lambda *more, **options: breaks(*more, **options))
    options = {"count": COUNT, "out": tmp_path / "x.npz", "force": True, "quiet": True}
    with pytest.raises(KeyboardInterrupt):
        commands.sample(together / "run", **options)
    commands.sample(together / "run", seed=1, **options)  # another plan: nothing is taken over
    assert (
        drawn == [256, 256, 256, 256, 88]
        and (tmp_path / "x.npz").read_bytes() != (together / "two.npz").read_bytes()
    )


# ------------------------------------------------------------------------------------------ shares


def test_processes_divide_the_batches_of_one() -> None:
    part = Split(torch.arange(10.0), torch.arange(10))
    one, others = Batches(part, seed=3), [Batches(part, seed=3, rank=r, size=3) for r in range(3)]
    for _ in range(7):
        x, y = one.next(6)
        pieces = [batches.next(6) for batches in others]
        assert torch.equal(torch.cat([p[0] for p in pieces]), x) and all(
            len(p[0]) == 2 for p in pieces
        )
        assert torch.equal(torch.cat([p[1] for p in pieces if p[1] is not None]), y)
        assert all(batches.state_dict() == one.state_dict() for batches in others)


@pytest.mark.parametrize(
    "more", [{"training.batch": 33}, {"objective.num_chains": 9}, {"training.accumulate": 32}]
)
def test_what_cannot_be_divided_is_refused(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"2 processes run; .*; set .*"):
        Session(recipe(**SHORT | more), load_data("moons", count=200), None, d.Team(0, 2))
    with pytest.raises(ValueError, match="batch size is 7 and 2 processes"):
        Batches(Split(torch.arange(9.0)), rank=1, size=2).next(7)
    with pytest.raises(ValueError, match="rank is 2 of 2"):
        Batches(Split(torch.arange(9.0)), rank=2, size=2)


def test_portions_cover_everything_once() -> None:
    for size in (1, 2, 3, 7):
        assert [i for rank in range(size) for i in range(23)[d.Team(rank, size).shard(23)]] == list(
            range(23)
        )
