"""The commands as users start them, by torchrun: two processes train, sample and score, and may be
ended on the way.

Two processes train a small energy by score matching, where nothing is drawn; what they leave is
compared with what one does.
"""

import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lowland import cli
from lowland.commands import runs as running
from lowland.run import Run
from lowland.trained import Model, sampling, scoring
from lowland.training import train_recipe

TINY: dict[str, Any] = {
    "energy.hidden": "[16]",
    "training.data_noise_std": 0.0,
    "training.optimizer": "sgd",  # Adam makes a whole step of the last digit of a small gradient
    "training.learning_rate": 0.1,
    "training.steps": 20,
    "training.warmup": 0,
    "training.batch": 16,
    "training.checkpoint_every": 10,
    "training.preflight": "off",
    "generation.steps": 5,
    "evaluation.samples": 32,
}
SETS = [part for key, value in TINY.items() for part in ("--set", f"{key}={value}")]
PIECES = 60  # of a job that is ended as soon as one of them is done


def torchrun(*arguments: str) -> subprocess.Popen[str]:
    """Started as users would; the lonely -- keeps torchrun from taking --run for an option of its
    own.
    """
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "-m",
        "--",
        "lowland",
    ]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("torchrun") / "run"
    job = torchrun("train", "moons-score", "--run", str(run), "--quiet", *SETS)
    said, complaints = job.communicate(timeout=600)
    assert job.returncode == 0, complaints
    assert (
        said.split() == [str(run / "report.html")] and (run / "report.html").exists()
    )  # one of them speaks, and once
    return run


def apart(a: Path, b: Path, step: int = 20) -> float:
    """The largest difference of weights, averages and momenta."""
    one, other = (Run.open(run).load_checkpoint(step).tensors for run in (a, b))
    pairs = [
        (t, other[part][name])
        for part in ("energy", "ema", "optimizer")
        for name, t in one[part].items()
    ]
    return max(float((x.double() - y.double()).abs().max()) for x, y in pairs)


def test_torchrun_trains_what_one_process_trains(trained: Path, tmp_path: Path) -> None:
    train_recipe(Run.open(trained).recipe, tmp_path / "alone", progress=False)
    assert Run.open(trained).load_checkpoint().state["processes"] == 2
    begun, ended = (Run.open(trained).load_checkpoint(step).tensors["energy"] for step in (0, 20))
    assert (
        max(float((ended[name] - begun[name]).abs().max()) for name in begun) > 0.02
    )  # they have learned something
    assert apart(trained, tmp_path / "alone") < 1e-5
    rows = [
        [row for row in Run.open(run).rows() if "loss" in row]
        for run in (trained, tmp_path / "alone")
    ]
    assert [row["loss"] for row in rows[0]] == pytest.approx(
        [row["loss"] for row in rows[1]], rel=1e-4
    )


def test_one_process_resumes_what_two_have_begun(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    shutil.copytree(trained, run)
    Run(run).keep_checkpoints({0, 10})
    for verb in ("evaluate", "report"):
        monkeypatch.setattr(running, verb, lambda *_, **__: None)
    cli.main(["resume", str(run), "--quiet"])
    assert (
        Run.open(run).steps() == [0, 10, 20]
        and Run.open(run).load_checkpoint().state["processes"] == 1
    )
    assert apart(trained, run) < 1e-5


@pytest.mark.slow  # quick: test_killed_runs.py and test_distributed.py break such jobs, no torchrun
@pytest.mark.parametrize("verb", ["sample", "energy"])
def test_a_job_of_two_processes_that_was_ended_goes_on(
    trained: Path, tmp_path: Path, verb: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.save(
        tmp_path / "points.npy",
        np.random.default_rng(0).normal(size=(PIECES * scoring.ENERGY_PIECE, 2)).astype(np.float32),
    )
    options = {
        "sample": ["--quiet", "--count", str(PIECES * sampling.PIECE)],
        "energy": [str(tmp_path / "points.npy")],
    }[verb]
    broken, whole = (
        tmp_path / f"{word}.{'npz' if verb == 'sample' else 'csv'}" for word in ("broken", "whole")
    )
    start = [verb, str(trained), *options, "--out"]

    job, pieces = torchrun(*start, str(broken)), tmp_path / f".{broken.name}.pieces"
    while not any(pieces.glob("0*")):
        assert job.poll() is None, job.communicate()
        time.sleep(0.001)
    job.terminate()
    job.communicate(timeout=600)
    left = len([*pieces.glob("0*")])
    assert job.returncode and 0 < left < PIECES and not broken.exists()

    made, (module, name) = (
        [],
        {"sample": (Model, "sample"), "energy": (scoring, "format_rows")}[verb],
    )
    work = getattr(module, name)
    monkeypatch.setattr(
        module, name, lambda *more, **options: made.append(1) or work(*more, **options)
    )
    cli.main([*start, str(broken)])
    assert len(made) == PIECES - left and not pieces.exists()
    cli.main([*start, str(whole)])
    assert broken.read_bytes() == whole.read_bytes()
