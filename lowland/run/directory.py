"""Directory of a run: its recipe, files, log, checkpoints and lock."""

import fcntl
import json
import os
import platform
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load as load_tensors
from torch import Tensor

from lowland.atomic import (
    append_bytes,
    cut_file,
    open_regular,
    remove_folder,
    remove_leftovers,
    sync,
    write_bytes,
)
from lowland.pretrained import list_pretrained, pretrained_folder
from lowland.registry import Plain
from lowland.run.checkpoint import (
    FORMAT,
    Checkpoint,
    RunError,
    disk_error,
    read_checkpoint,
    tensors_to_bytes,
    write_checkpoint,
)


def versions() -> dict[str, str]:
    """List the versions of Python and of packages whose arithmetic decides the bits of a run, and
    the CPU threads in use.
    """
    found = {"python": platform.python_version()}
    for package in ("lowland", "torch", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found | {"threads": str(torch.get_num_threads())}


class Run:
    """Directory of a run. Make a new one with `Run.create`, look into one with `Run.open`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, recipe: Mapping[str, object]) -> "Run":
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
            raise disk_error(run.path, error) from error
        run.write_json(
            "recipe.json", {"format": FORMAT, "versions": versions(), "recipe": dict(recipe)}
        )
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run: a directory, or the name of one that is shipped.

        Raises RunError if there is none, or if it is of another format.
        """
        run = cls(path)
        if (
            not run.path.exists()
            and len(run.path.parts) == 1
            and run.path.name in list_pretrained()
        ):
            run = cls(pretrained_folder() / run.path.name)
        if not (run.path / "recipe.json").is_file():
            names = ", ".join(list_pretrained()) or "none"
            raise RunError(
                f"{run.path} holds no run: recipe.json is missing; a run directory is needed, or "
                f"one of the shipped {names}; train one first"
            )
        known = run.header
        if not isinstance(known, dict):
            known = {}
        if known.get("format") != FORMAT:
            written = known.get("versions", {}).get("lowland", "")
            raise RunError(
                f"{run.path} is a run of format {known.get('format')}; this lowland reads format "
                f"{FORMAT}; use the lowland {written} that wrote it"
            )
        return run

    @property
    def header(self) -> Plain:
        """Read recipe.json: format, versions, recipe."""
        return self.read_json("recipe.json")

    @property
    def recipe(self) -> Plain:
        """Return the complete recipe as plain values."""
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
        try:
            write_bytes(target, data)
        except OSError as error:
            raise disk_error(target, error) from error
        return target

    def write_json(self, name: str, values: object) -> Path:
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
        return self.write(name, tensors_to_bytes(tensors))

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

    def log(self, row: Mapping[str, object], file: str = "log.jsonl") -> None:
        """Append one row. Non-finite numbers are written as the strings "nan", "inf", "-inf", never
        dropped.
        """
        line = json.dumps({k: _plain_number(v) for k, v in row.items()})
        try:
            append_bytes(self.path / file, f"{line}\n".encode())
        except OSError as error:
            raise disk_error(self.path / file, error) from error

    def rows(self, file: str = "log.jsonl") -> list[Plain]:
        """Read all whole rows of a log; a half-written last line, as a kill leaves it, is passed
        over.
        """
        path, found = self.path / file, []
        if not path.exists():
            return []
        for line in path.read_text().splitlines():
            try:
                found.append(json.loads(line))
            except ValueError:
                continue
        return found

    def log_size(self) -> int:
        """Return the bytes in log.jsonl, which a checkpoint keeps so that resuming can cut it
        back.
        """
        path = self.path / "log.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_log(self, size: int) -> None:
        """Cut log.jsonl back to a size recorded by a checkpoint."""
        path, present = self.path / "log.jsonl", self.log_size()
        if present > size:
            cut_file(path, size)
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
            sync(self.path / "log.jsonl")  # the checkpoint will count on its rows
        return write_checkpoint(target, checkpoint)

    def steps(self) -> list[int]:
        """List the steps of the checkpoints present, ascending, whole or not."""
        return sorted(int(p.name[5:]) for p in self.path.glob("step-*") if p.name[5:].isdigit())

    def load_checkpoint(self, step: int | None = None) -> Checkpoint:
        """Read the newest whole checkpoint, or the one asked for.

        Damaged ones are named in a warning and passed over. Raises RunError if none is whole.
        """
        problems = []
        for candidate in reversed(self.steps()) if step is None else [step]:
            try:
                checkpoint = read_checkpoint(self._directory(candidate))
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

    def keep_checkpoints(self, steps: set[int]) -> None:
        """Delete all other checkpoints."""
        for step in set(self.steps()) - steps:
            remove_folder(self._directory(step))

    def _check_own(self) -> None:
        if self.path.parent == pretrained_folder():
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
    def lock(self) -> Iterator[None]:
        """Hold the run for one writer; the lock dies with its process. Raises RunError if another
        process holds it.
        """
        self._check_own()
        with os.fdopen(open_regular(self.path / ".lock", os.O_RDWR | os.O_CREAT)) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError(
                    f"{self.path} is being written by another process; a run has one writer; wait"
                ) from None
            remove_leftovers(self.path)
            yield


def _plain_number(value: object) -> object:
    """Return a tensor of one number as a number, and one that is not finite as a string."""
    if isinstance(value, Tensor):
        value = value.item()
    if isinstance(value, float) and not torch.isfinite(torch.tensor(value)):
        return str(value)
    return value
