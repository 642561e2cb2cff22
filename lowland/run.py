"""The run directory: where everything is written and from where everything is read.

    RUN/recipe.json         the complete recipe, format number, versions
    RUN/data.json           name, classes, sizes and scale of the data, for verbs that run without
                            them
    RUN/log.jsonl           one row per logged step; no clock in it, so equal runs have equal logs
    RUN/time.jsonl          wall-clock seconds per logged step
    RUN/step-00000500/      a checkpoint: *.safetensors, state.json, manifest.json (SHA-256 of each
                            file)
    RUN/evaluation.json     figures; RUN/evaluation.safetensors: the arrays behind the pictures
    RUN/calibration.safetensors, RUN/prior_samples.safetensors: energies that set thresholds, draws of the
    prior for restoration
    RUN/report.html         one self-contained page

A checkpoint is whole or absent: written aside, synced, renamed. Reading verifies it against its
manifest; a damaged one is named and passed over for the newest whole one. Safetensors and JSON
only: nothing is ever unpickled.
"""

import fcntl
import hashlib
import json
import os
import platform
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from lowland.pretrained import shipped, shipped_folder

FORMAT = 1


class RunError(ValueError):
    """A run directory that cannot be used as asked: damaged, of another format, in use, out of
    disk.
    """


class Checkpoint(NamedTuple):
    """tensors: {file stem: {name: tensor}}; state: plain values; step."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: dict[str, Any]


def versions() -> dict[str, str]:
    """Versions of Python and the packages whose arithmetic decides the bits of a run, and the CPU
    threads in use.
    """
    found = {"python": platform.python_version()}
    for package in ("lowland", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"threads": str(torch.get_num_threads())}


class Run:
    """A run directory. Make a new one with `Run.create`, look into one with `Run.open`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, recipe: Mapping[str, Any]) -> "Run":
        """Begin a run. Raises RunError if the directory already holds one."""
        run = cls(path)
        if (run.path / "recipe.json").exists():
            raise RunError(
                f"{run.path} already holds a run; a run is written once; continue it with `lowland "
                f"resume {run.path}` or choose another --run"
            )
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _refused(run.path, error) from error
        run.write_json(
            "recipe.json", {"format": FORMAT, "versions": versions(), "recipe": dict(recipe)}
        )
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """An existing run: a directory, or the name of one that is shipped. Raises RunError if
        there is none, or if it is of another format."""
        run = cls(path)
        if not run.path.exists() and len(run.path.parts) == 1 and run.path.name in shipped():
            run = cls(shipped_folder() / run.path.name)
        if not (run.path / "recipe.json").is_file():
            names = f", or one of the shipped {', '.join(shipped())}" if shipped() else ""
            raise RunError(
                f"{run.path} holds no run: recipe.json is missing; a run directory is "
                f"needed{names}; train one first"
            )
        header = run.header
        if not isinstance(header, dict) or header.get("format") != FORMAT:
            found = header.get("format") if isinstance(header, dict) else None
            written = (
                header.get("versions", {}).get("lowland", "") if isinstance(header, dict) else ""
            )
            raise RunError(
                f"{run.path} is a run of format {found}; this lowland reads format {FORMAT}; "
                f"use the lowland {written} that wrote it"
            )
        return run

    @property
    def header(self) -> dict[str, Any]:
        """recipe.json: format, versions, recipe."""
        return self.read_json("recipe.json")

    @property
    def recipe(self) -> dict[str, Any]:
        """The complete recipe as plain values."""
        return self.header["recipe"]

    def check_versions(self) -> None:
        """Warn if the run was begun with other versions or threads: it goes on, but its bits may
        differ.
        """
        then, now = self.header.get("versions", {}), versions()
        other = [
            f"{name} {then[name]} then, {now[name]} now"
            for name in now
            if then.get(name, now[name]) != now[name]
        ]
        if other:
            warnings.warn(
                f"{self.path} was begun elsewhere ({'; '.join(other)}); bits may differ from there "
                "on",
                stacklevel=2,
            )

    # ---- files -----------------------------------------------------------------------------------

    def write(self, name: str, data: bytes) -> Path:
        """Write a file whole or not at all. Raises RunError when the disk refuses; the old file
        then still stands.
        """
        self._check_own()
        target = self.path / name
        aside = target.with_name(f".{target.name}.tmp")
        try:
            with aside.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            aside.replace(target)
        except OSError as error:
            aside.unlink(missing_ok=True)
            raise _refused(target, error) from error
        return target

    def write_json(self, name: str, values: Any) -> Path:
        """Write plain values as JSON. Non-finite numbers are refused by a ValueError."""
        return self.write(name, json.dumps(values, indent=1, allow_nan=False).encode())

    def read_json(self, name: str) -> Any:
        """Read a JSON file of the run. Raises RunError if it is missing or damaged."""
        try:
            return json.loads((self.path / name).read_text())
        except FileNotFoundError:
            raise RunError(
                f"{self.path / name} is missing; the run needs it; run the verb that writes it"
            ) from None
        except ValueError as error:
            raise RunError(
                f"{self.path / name} is damaged ({error}); it must be JSON; restore or remove it"
            ) from None

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> Path:
        """Write named tensors as one safetensors file."""
        return self.write(name, _dump(tensors))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of the run. Raises RunError if it is missing or damaged."""
        try:
            return load_tensors((self.path / name).read_bytes())
        except FileNotFoundError:
            raise RunError(
                f"{self.path / name} is missing; the run needs it; run the verb that writes it"
            ) from None
        except Exception as error:
            raise RunError(
                f"{self.path / name} is damaged ({error}); it must be safetensors; remove it"
            ) from None

    # ---- log -------------------------------------------------------------------------------------

    def log(self, row: Mapping[str, Any], file: str = "log.jsonl") -> None:
        """Append one row. Non-finite numbers are written as the strings "nan", "inf", "-inf", never
        dropped.
        """
        line = json.dumps({k: _plain_number(v) for k, v in row.items()})
        try:
            with (self.path / file).open("a") as stream:
                stream.write(line + "\n")
        except OSError as error:
            raise _refused(self.path / file, error) from error

    def rows(self, file: str = "log.jsonl") -> list[dict[str, Any]]:
        """All whole rows of a log; a half-written last line, as a kill leaves it, is passed
        over.
        """
        path = self.path / file
        found = []
        for line in path.read_text().splitlines() if path.exists() else []:
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def log_size(self) -> int:
        """Bytes in log.jsonl: what a checkpoint remembers so that resuming can cut the log back to
        it.
        """
        path = self.path / "log.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_log(self, size: int) -> None:
        """Cut log.jsonl back to a size recorded by a checkpoint."""
        path, present = self.path / "log.jsonl", self.log_size()
        if present > size:
            os.truncate(path, size)
        elif present < size:
            warnings.warn(
                f"{path} holds {present} bytes and the checkpoint knew {size}; earlier rows are "
                "lost; training goes on and logs from here",
                stacklevel=2,
            )

    # ---- checkpoints -----------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint aside, sync it, rename it into place. Raises RunError when the disk
        refuses.
        """
        target = self._directory(checkpoint.step)
        if (self.path / "log.jsonl").exists():
            _sync(self.path / "log.jsonl")  # the checkpoint will count on its rows
        return write_whole(target, checkpoint.step, checkpoint.tensors, checkpoint.state)

    def steps(self) -> list[int]:
        """Steps of the checkpoints present, ascending, whole or not."""
        return sorted(int(p.name[5:]) for p in self.path.glob("step-*") if p.name[5:].isdigit())

    def load_checkpoint(self, step: int | None = None) -> Checkpoint:
        """The newest whole checkpoint, or the one asked for. Damaged ones are named in a warning
        and passed over.

        Raises RunError if none is whole.
        """
        problems = []
        for candidate in reversed(self.steps()) if step is None else [step]:
            try:
                checkpoint = self._read(candidate)
            except RunError as error:
                problems.append(str(error))
                continue
            for problem in problems:
                warnings.warn(f"{problem}; using step {candidate} instead", stacklevel=2)
            return checkpoint
        detail = "; ".join(problems) or "there is none"
        raise RunError(
            f"{self.path} has no whole checkpoint ({detail}); one is needed; train the recipe again"
        )

    def _read(self, step: int) -> Checkpoint:
        directory = self._directory(step)
        try:
            manifest = json.loads((directory / "manifest.json").read_bytes())
            if manifest["format"] != FORMAT:
                raise RunError(f"{directory} is of format {manifest['format']}, not {FORMAT}")
            data = {name: (directory / name).read_bytes() for name in manifest["sha256"]}
        except FileNotFoundError as error:
            raise RunError(
                f"{directory} is incomplete: {Path(error.filename).name} is missing"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            if isinstance(error, RunError):
                raise
            raise RunError(f"{directory}/manifest.json is damaged") from None
        for name, digest in manifest["sha256"].items():
            if hashlib.sha256(data[name]).hexdigest() != digest:
                raise RunError(
                    f"{directory / name} is damaged: its checksum differs from the manifest"
                )
        state = json.loads(data.pop("state.json"))
        tensors = {
            name.removesuffix(".safetensors"): load_tensors(content)
            for name, content in data.items()
        }
        return Checkpoint(state.pop("step"), tensors, state)

    def keep_checkpoints(self, steps: set[int]) -> None:
        """Delete all other checkpoints."""
        for step in set(self.steps()) - steps:
            shutil.rmtree(self._directory(step))

    def _check_own(self) -> None:
        if self.path.parent == shipped_folder():
            raise RunError(
                f"{self.path.name} is shipped with lowland and is not written to; it can be "
                f"sampled and scored with; copy {self.path} to a place of your own, or train the "
                "recipe"
            )

    def best_step(self, newest: Checkpoint) -> int:
        """Return the step of the checkpoint that training selected as the best, as the newest one
        says; the newest's own if it selected none.
        """
        best = newest.state.get("best") or {}
        return int(best["step"]) if best and int(best["step"]) in self.steps() else newest.step

    def _directory(self, step: int) -> Path:
        return self.path / f"step-{step:08d}"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for one writer; the lock dies with its process. Raises RunError if another
        process holds it.
        """
        self._check_own()
        with (self.path / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"{self.path} is being written by another process; a run has one writer; wait"
                ) from None
            yield


def write_whole(
    target: Path, step: int, tensors: Mapping[str, Mapping[str, Tensor]], state: Mapping[str, Any]
) -> Path:
    """Write the files of a checkpoint aside, sync them, rename the folder into place. Raises
    RunError when the disk refuses.
    """
    aside = target.with_name(f".{target.name}.tmp")
    files = {f"{stem}.safetensors": _dump(content) for stem, content in tensors.items()}
    files["state.json"] = json.dumps({"step": step, **state}, indent=1).encode()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files["manifest.json"] = json.dumps({"format": FORMAT, "sha256": digests}, indent=1).encode()
    try:
        shutil.rmtree(aside, ignore_errors=True)
        aside.mkdir()
        for name, data in files.items():
            with (aside / name).open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        if target.exists():
            shutil.rmtree(target)
        aside.replace(target)
        _sync(target.parent)
    except OSError as error:
        shutil.rmtree(aside, ignore_errors=True)
        raise _refused(target, error) from error
    return target


def _dump(tensors: Mapping[str, Tensor]) -> bytes:
    return dump_tensors(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    )


def _plain_number(value: Any) -> Any:
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, float) and not torch.isfinite(torch.tensor(value)):
        return str(value)
    return value


def _refused(target: Path, error: OSError) -> RunError:
    return RunError(
        f"{target} could not be written ({error.strerror}); the disk must have room and allow "
        "writing; free some, then `lowland resume` from the last whole checkpoint"
    )


def _sync(path: Path) -> None:
    """Bring a file or directory to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
