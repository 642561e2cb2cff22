"""Directory of a run: its recipe, files, log, checkpoints and lock."""

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from lowland.atomic import (
    check_target,
    hold_file,
    remove_folder,
    remove_leftovers,
    write_bytes,
)
from lowland.digests import digest_tensors
from lowland.pretrained import list_pretrained, pretrained_folder
from lowland.reading import ReadError, parse_json, read_bytes
from lowland.registry import Plain
from lowland.run.checkpoint import (
    FORMAT,
    Checkpoint,
    RunError,
    disk_error,
    folder_error,
    folder_of,
    is_checkpoint,
    parse_tensors,
    read_checkpoint,
    read_digests,
    read_state,
    step_of,
    tensors_to_bytes,
    write_checkpoint,
)
from lowland.run.description import digest_fields, find_edits
from lowland.run.log import cut_log, parse_rows, sync_log, write_row
from lowland.run.schema import DATA, HEADER, RECIPE, find_problem
from lowland.run.versions import compare_versions, versions
from lowland.systems import HeldError


class Run:
    """Directory of a run. Make a new one with `Run.create`, look into one with `Run.open`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @classmethod
    def create(cls, path: str | Path, recipe: Mapping[str, object]) -> "Run":
        """Begin a run. Raises RunError if the directory already holds one, ValueError for a recipe
        that is no JSON.
        """
        run = cls(path)
        if (run.path / "recipe.json").exists():
            raise RunError(
                f"{run.path} already holds a run; a run is written once; continue it with `lowland "
                f"resume {run.path}` or choose another --run"
            )
        check_target(run.path / "recipe.json")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise folder_error(run.path, error) from error
        run.write_recipe(recipe)
        return run

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open an existing run: a directory, or the name of one that is shipped.

        Raises RunError if there is none, or if it is of another format, or damaged.
        """
        run = cls(path)
        if (
            not run.path.exists()
            and len(run.path.parts) == 1
            and run.path.name in list_pretrained()
        ):
            run = cls(pretrained_folder() / run.path.name)
        if not (run.path / "recipe.json").exists():
            names = ", ".join(list_pretrained()) or "none"
            raise RunError(
                f"{run.path} holds no run: recipe.json is missing; a run directory is needed, or "
                f"one of the shipped {names}; train one first"
            )
        _ = run.header  # refuses, in words
        return run

    @property
    def header(self) -> Plain:
        """Read recipe.json: format, versions, recipe. Raises RunError if it is damaged or of
        another format.
        """
        known = self.read_json("recipe.json")
        if isinstance(known, dict) and known.get("format") != FORMAT:
            then = known.get("versions")
            written = then.get("lowland", "") if isinstance(then, dict) else ""
            raise RunError(
                f"{self.path} is a run of format {str(known.get('format'))[:40]}; this lowland "
                f"reads format {FORMAT}; use the lowland {written} that wrote it"
            )
        problem = find_problem(known, HEADER, HEADER) or find_problem(known["recipe"], RECIPE)
        if problem is not None:
            raise self._damage("recipe.json", problem)
        return known

    @property
    def recipe(self) -> Plain:
        """Return the complete recipe as plain values."""
        return self.header["recipe"]

    @property
    def data(self) -> Plain:
        """Read data.json: what the run knows of its data. Raises RunError if it is missing,
        damaged, or not as it was when the newest checkpoint was written.
        """
        found = self.read_json("data.json")
        problem = find_problem(found, DATA, ["name", "classes", "mean", "scale"])
        if problem is None and len(found["mean"]) != len(found["scale"]):
            problem = "mean and scale are of different lengths"
        if problem is None and 0 in found["scale"]:
            problem = "scale holds 0"
        if problem is not None:
            raise self._damage("data.json", problem)
        edits = find_edits(found, self.newest_state().get("data"))
        if edits:
            raise self._damage("data.json", f"{edits} changed since the run was trained")
        return found

    def _damage(self, name: str, problem: str) -> RunError:
        return RunError(
            f"{self.path / name} is damaged: {problem}; it must be as lowland wrote it; restore it "
            "from a copy, or train the recipe again"
        )

    def write_recipe(self, recipe: Mapping[str, object], begun: object = None) -> None:
        """Write recipe.json: a recipe, and the versions that it was begun with, or of now."""
        about = {"format": FORMAT, "versions": begun or versions(), "recipe": dict(recipe)}
        self.write_json("recipe.json", about)

    def check_versions(self) -> None:
        """Warn if the run was begun with other versions or threads: it goes on, but its bits may
        differ.
        """
        other = compare_versions(self.header.get("versions"))
        if other:
            warnings.warn(
                f"{self.path} was begun elsewhere ({other}); bits may differ from there on",
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
            return parse_json(self._read(name), str(self.path / name))
        except ReadError as error:
            raise RunError(str(error)) from None

    def _read(self, name: str) -> bytes:
        """Read a file of the run. Raises RunError if it is missing, no regular file, or a link
        that leads out of the run.
        """
        path = self.path / name
        try:
            return read_bytes(path, within=self.path)
        except FileNotFoundError:
            raise RunError(
                f"{path} is missing; the run needs it; run the verb that writes it"
            ) from None
        except ReadError as error:
            raise RunError(str(error)) from None
        except OSError as error:
            raise RunError(
                f"{path} could not be read ({error.strerror}); the run needs it; allow reading it"
            ) from None

    def write_tensors(
        self, name: str, tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None
    ) -> Path:
        """Write named tensors as one safetensors file; about: words that `read_about` returns, with
        a digest of the tensors beside them.
        """
        words = {**(about or {}), "sha256": digest_tensors(tensors)}
        return self.write(name, tensors_to_bytes(tensors, words))

    def read_tensors(self, name: str) -> dict[str, Tensor]:
        """Read a safetensors file of the run. Raises RunError if it is missing or damaged, or if
        its numbers are not those that were written; files without a digest are older: believed.
        """
        tensors = parse_tensors(self._read(name), self.path / name)
        if self.read_about(name).get("sha256") not in (None, digest_tensors(tensors)):
            raise RunError(
                f"{self.path / name} is damaged: its numbers are not those that were written; it "
                "must be as lowland wrote it; restore it from a copy, or remove it and run the "
                "verb that writes it"
            )
        return tensors

    def read_about(self, name: str) -> dict[str, str]:
        """Read the words about the tensors in a safetensors file, {} where there are none or no
        such file. Raises RunError if it is damaged.
        """
        if not (self.path / name).exists():
            return {}
        self._read(name)
        try:
            with safe_open(str(self.path / name), "pt") as file:
                return dict(file.metadata() or {})
        except (SafetensorError, OSError, ValueError) as error:
            raise self._damage(name, str(error)[:120]) from None

    # ---- log -------------------------------------------------------------------------------------

    def log(self, row: Mapping[str, object], file: str = "log.jsonl") -> None:
        """Append one row. Non-finite numbers are written as the strings "nan", "inf", "-inf", never
        dropped.
        """
        write_row(self.path / file, row)

    def rows(self, file: str = "log.jsonl") -> list[Plain]:
        """Read all whole rows of a log; what is no row is passed over: a half-written last line, as
        a kill leaves it, or what others wrote.
        """
        if not (self.path / file).exists():
            return []
        return parse_rows(self._read(file), file)

    def log_size(self) -> int:
        """Return the bytes in log.jsonl, which a checkpoint keeps so that resuming can cut it
        back.
        """
        path = self.path / "log.jsonl"
        return path.stat().st_size if path.exists() else 0

    def cut_log(self, size: int) -> None:
        """Cut log.jsonl back to a size recorded by a checkpoint."""
        cut_log(self.path / "log.jsonl", self.log_size(), size)

    # ---- checkpoints -----------------------------------------------------------------------------

    def save_checkpoint(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint aside, sync it, rename it into place. Raises RunError when the disk
        refuses.
        """
        target = self._directory(checkpoint.step)
        with suppress(RunError):  # runs of one's own need no data.json
            known = {"data": digest_fields(self.read_json("data.json"))}
            checkpoint = checkpoint._replace(state={**checkpoint.state, **known})
        if (self.path / "log.jsonl").exists():
            sync_log(self.path / "log.jsonl")  # the checkpoint will count on its rows
        return write_checkpoint(target, checkpoint)

    def steps(self) -> list[int]:
        """List the steps of the checkpoints present, ascending, whole or not; other files and
        folders of such names are passed over.
        """
        found = [step_of(path.name) for path in self._find("step-*") if is_checkpoint(path)]
        return sorted(step for step in found if step is not None)

    def strangers(self) -> list[Path]:
        """List what has the name of a checkpoint and is none of lowland's."""
        return [
            path
            for path in self._find("step-*")
            if step_of(path.name) is not None and not is_checkpoint(path)
        ]

    def _find(self, pattern: str) -> list[Path]:
        return sorted(self.path.glob(pattern))

    def newest_state(self) -> Plain:
        """Read the plain values of the newest whole checkpoint; {} if there is none."""
        for step in reversed(self.steps()):
            with suppress(RunError):
                return read_state(self._directory(step))
        return {}

    def weights_digest(self) -> str | None:
        """Return the SHA-256 of the averaged weights that the run is used with; None without a
        whole checkpoint.
        """
        for step in reversed(self.steps()):
            with suppress(RunError):
                state = read_state(self._directory(step))
                best = self.best_step(Checkpoint(step, {}, state))
                return read_digests(self._directory(best)).get("ema.safetensors")
        return None

    def load_checkpoint(self, step: int | None = None, *, full: bool = False) -> Checkpoint:
        """Read the newest whole checkpoint, or the one asked for.

        full: pass over those that hold weights alone, from which no training goes on.
        Damaged ones are named in a warning and passed over. Raises RunError if none is whole.
        """
        problems = []
        for stranger in self.strangers() if step is None else []:
            problems.append(f"{stranger} is no checkpoint of lowland's, and is left alone")
        for candidate in reversed(self.steps()) if step is None else [step]:
            try:
                checkpoint = read_checkpoint(self._directory(candidate))
                if full and "generators" not in checkpoint.tensors:
                    raise RunError(f"{self._directory(candidate)} holds weights alone")
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
            folder = self._directory(step)
            try:
                remove_folder(folder)
            except OSError as error:
                raise disk_error(folder, error) from error

    def is_full(self, step: int) -> bool:
        """Tell whether a checkpoint holds all that training needs to go on from it."""
        try:
            return "generators.safetensors" in read_digests(self._directory(step))
        except RunError:
            return False

    def size(self) -> int:
        """Return the bytes of all files in the directory."""
        paths = (path for path in self.path.rglob("*") if not path.is_symlink())
        return sum(path.stat().st_size for path in paths if path.is_file())

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
        return best["step"] if best and best["step"] in self.steps() else newest.step

    def _directory(self, step: int) -> Path:
        return self.path / folder_of(step)

    @contextmanager
    def lock(self, *, make: bool = False) -> Iterator[None]:
        """Hold the run for one writer; the lock dies with its process. Raises RunError if another
        process holds it.

        make: the directory, where there is none.
        """
        self._check_own()
        with ExitStack() as held:
            try:
                if make:
                    self.path.mkdir(parents=True, exist_ok=True)
                held.enter_context(hold_file(self.path / ".lock", self.path))
                remove_leftovers(self.path)
            except HeldError:
                raise RunError(
                    f"{self.path} is being written by another process; a run has one writer; wait"
                ) from None
            except OSError as error:
                raise folder_error(self.path, error) from error
            yield
