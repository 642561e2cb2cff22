"""The run directory: whole or absent, verified on reading, never unpickled."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from lowland.run import Checkpoint, Run, RunError

RECIPE = {"name": "test", "seed": 0}


def checkpoint(step: int) -> Checkpoint:
    g = torch.Generator().manual_seed(step)
    tensors = {
        "energy": {"w": torch.randn(3, 2, generator=g)},
        "generators": {"data": g.get_state()},
    }
    return Checkpoint(step, tensors, {"log_size": 0, "health": "good"})


@pytest.fixture
def run(tmp_path: Path) -> Run:
    made = Run.create(tmp_path / "run", RECIPE)
    for step in (0, 10, 20):
        made.save_checkpoint(checkpoint(step))
    return made


def test_a_checkpoint_comes_back_bit_for_bit(run: Run) -> None:
    found, saved = run.load_checkpoint(), checkpoint(20)
    assert found.step == 20 and found.state == saved.state
    for stem, tensors in saved.tensors.items():
        for name, tensor in tensors.items():
            assert (
                torch.equal(found.tensors[stem][name], tensor)
                and found.tensors[stem][name].dtype == tensor.dtype
            )


@pytest.mark.parametrize(
    "file", ["energy.safetensors", "state.json", "manifest.json", "generators.safetensors"]
)
def test_a_deleted_file_is_named_and_the_last_whole_checkpoint_is_used(run: Run, file: str) -> None:
    (run.path / "step-00000020" / file).unlink()
    with pytest.warns(UserWarning, match=rf"step-00000020.*{file}.*using step 10"):
        assert run.load_checkpoint().step == 10


@pytest.mark.parametrize("file", ["energy.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_damage_is_named_and_the_last_whole_checkpoint_is_used(
    run: Run, file: str, damage: str
) -> None:
    path = run.path / "step-00000020" / file
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    else:
        data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with pytest.warns(UserWarning, match="step-00000020.*(damaged|incomplete|format)"):
        assert run.load_checkpoint().step == 10


def test_an_older_checkpoint_asked_for_by_name_is_not_replaced_in_silence(run: Run) -> None:
    (run.path / "step-00000010" / "energy.safetensors").unlink()
    with pytest.raises(RunError, match=r"no whole checkpoint.*step-00000010 is incomplete"):
        run.load_checkpoint(10)


def test_no_whole_checkpoint_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no whole checkpoint"):
        Run.create(tmp_path / "empty", RECIPE).load_checkpoint()


def test_a_half_written_checkpoint_is_not_seen(run: Run) -> None:
    left = run.path / f".lowland-{os.getpid()}-{0:016x}"  # as of a process of another container
    (left / "step-00000030").mkdir(parents=True)
    (left / "step-00000030" / "energy.safetensors").write_bytes(b"half")
    (left / ".writer").touch()
    mine = run.path / f".lowland-{os.getpid()}-notes"
    mine.mkdir()
    assert run.steps() == [0, 10, 20] and run.load_checkpoint().step == 20
    run.save_checkpoint(checkpoint(30))
    with run.lock():
        assert run.load_checkpoint().step == 30 and not left.exists() and mine.exists()


def test_a_full_disk_is_named_and_leaves_what_was_there(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(
        RunError, match=r"step-00000030 could not be written \(No space left on device\).*resume"
    ):
        run.save_checkpoint(checkpoint(30))
    with pytest.raises(RunError, match="No space left"):
        run.write_json("evaluation.json", {"a": 1})
    monkeypatch.undo()
    assert run.load_checkpoint().step == 20
    assert [p.name for p in run.path.iterdir() if ".lowland" in p.name] == [] and not (
        run.path / "evaluation.json"
    ).exists()


def test_a_run_is_written_once(run: Run) -> None:
    with pytest.raises(RunError, match=r"already holds a run.*lowland resume"):
        Run.create(run.path, RECIPE)


def test_a_run_of_another_format_is_refused_by_name(run: Run) -> None:
    header = run.header | {"format": 99}
    run.write_json("recipe.json", header)
    with pytest.raises(RunError, match=r"format 99.*reads format 1"):
        Run.open(run.path)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[]"])
def test_a_damaged_header_is_refused_in_words(run: Run, content: bytes) -> None:
    (run.path / "recipe.json").write_bytes(content)
    with pytest.raises(RunError):
        Run.open(run.path)


def test_no_run_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="holds no run"):
        Run.open(tmp_path)


def test_a_run_has_one_writer(run: Run) -> None:
    code = f"""
from lowland.run import Run
run = Run.open({str(run.path)!r})
try:
    with run.lock():
        print("taken", flush=True)
except Exception as error:
    print(error, flush=True)
input()
with run.lock():
    print("free")
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None and other.stdout is not None
        with run.lock():
            assert "another process" in other.stdout.readline()
        said, _ = other.communicate("\n", timeout=600)
    assert said.strip() == "free" and other.returncode == 0


def test_logs_keep_non_finite_numbers_and_pass_over_a_half_written_line(run: Run) -> None:
    run.log({"step": 10, "loss": float("nan"), "gap": float("inf")})
    size = run.log_size()
    with (run.path / "log.jsonl").open("a") as stream:
        stream.write('{"step": 20, "lo')
    assert run.rows() == [{"step": 10, "loss": "nan", "gap": "inf"}]
    run.cut_log(size)
    assert (run.path / "log.jsonl").read_text().endswith("}\n")


def test_a_lost_log_is_named_and_does_not_stop_a_resume(run: Run) -> None:
    run.log({"step": 10})
    size = run.log_size()
    (run.path / "log.jsonl").unlink()
    with pytest.warns(UserWarning, match=r"holds 0 bytes and the checkpoint knew \d+"):
        run.cut_log(size)


def test_json_refuses_non_finite_numbers(run: Run) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        run.write_json("evaluation.json", {"auroc": float("nan")})


def test_only_safetensors_and_json_are_written(run: Run) -> None:
    suffixes = {p.suffix for p in run.path.rglob("*") if p.is_file() and p.name != ".lock"}
    assert suffixes == {".json", ".safetensors"}
    assert json.loads((run.path / "step-00000010" / "manifest.json").read_text())["format"] == 1
