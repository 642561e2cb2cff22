"""Checkpoints: folders of tensors and plain values with a manifest of checksums."""

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from lowland.atomic import write_aside
from lowland.reading import ReadError, parse_json, read_bytes
from lowland.registry import Plain
from lowland.run.schema import MANIFEST, STATE, find_problem

FORMAT = 1
FILE = re.compile(r"[a-z_]+\.safetensors|state\.json")  # what a manifest may name
FOLDER = re.compile(r"step-(\d{8,18})", re.ASCII)
CURE = "remove the folder, and an older checkpoint is used"
NO_DIGESTS: Mapping[str, str] = MappingProxyType({})


class RunError(ValueError):
    """A run directory that cannot be used as asked: damaged, of another format, in use, out of
    disk.
    """


class Checkpoint(NamedTuple):
    """Content of a checkpoint: step; tensors {file stem: {name: tensor}}; state, plain values;
    digests, the SHA-256 of each file that it was read from.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: Plain
    digests: Mapping[str, str] = NO_DIGESTS


def folder_of(step: int) -> str:
    """Return the name of a checkpoint's folder."""
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """Return the step that the name of a folder says; None for other names."""
    found = FOLDER.fullmatch(name)
    if found and folder_of(int(found[1])) == name:
        return int(found[1])
    return None


def write_checkpoint(target: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into a folder, whole or not at all. Raises RunError when the disk
    refuses, and where something else stands there.
    """
    if target.exists() and not is_checkpoint(target):
        raise RunError(
            f"{target} is no checkpoint, or holds files that are not lowland's; training writes "
            "its own there; move it to another place"
        )
    step, tensors, state, _ = checkpoint
    files = {f"{stem}.safetensors": tensors_to_bytes(part) for stem, part in tensors.items()}
    files["state.json"] = json.dumps({"step": step, **state}, indent=1).encode()
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    files["manifest.json"] = json.dumps({"format": FORMAT, "sha256": digests}, indent=1).encode()
    try:
        with write_aside(target) as aside:
            aside.mkdir()
            for name, data in files.items():
                (aside / name).write_bytes(data)
    except OSError as error:
        raise disk_error(target, error) from error
    return target


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder, whole or damaged, holds nothing but files of a checkpoint."""
    if folder.is_symlink() or not folder.is_dir():
        return False
    known = [path.name == "manifest.json" or FILE.fullmatch(path.name) for path in folder.iterdir()]
    return all(known)


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises RunError if it is incomplete, damaged or of another
    format, or stands under another step's name.
    """
    digests = read_digests(directory)
    state = _read_state(directory, digests)
    tensors = {
        name.removesuffix(".safetensors"): parse_tensors(
            _read_verified(directory / name, digest), directory / name
        )
        for name, digest in digests.items()
        if name != "state.json"
    }
    return Checkpoint(state.pop("step"), tensors, state, digests)


def read_state(directory: Path) -> Plain:
    """Read and verify the plain values of a checkpoint, its step among them. Raises RunError as
    `read_checkpoint` does.
    """
    return _read_state(directory, read_digests(directory))


def _read_state(directory: Path, digests: Mapping[str, str]) -> Plain:
    path = directory / "state.json"
    state = _parse(_read_verified(path, digests["state.json"]), path)
    problem = find_problem(state, STATE, ["step"])
    if problem is None and state["step"] != step_of(directory.name):
        problem = f"step is {state['step']}, another than the folder's"
    if problem is not None:
        raise _damage(path, problem)
    return state


def read_digests(directory: Path) -> dict[str, str]:
    """Read the SHA-256 of each file of a checkpoint. Raises RunError as `read_checkpoint` does."""
    if directory.is_symlink():
        raise RunError(
            f"{directory} is a symbolic link; a checkpoint lies in its run; put a copy in its place"
        )
    path = directory / "manifest.json"
    manifest = _parse(_read(path), path)
    if isinstance(manifest, dict) and manifest.get("format", FORMAT) != FORMAT:
        raise RunError(
            f"{directory} is of format {manifest['format']}, not {FORMAT}; this lowland reads "
            f"format {FORMAT}; use the lowland that wrote it"
        )
    problem = find_problem(manifest, MANIFEST, MANIFEST)
    if problem is not None:
        raise _damage(path, problem)
    digests = dict(manifest["sha256"])
    foreign = [name for name in digests if not FILE.fullmatch(name)]
    if foreign or "state.json" not in digests or len(digests) < 2:
        raise _damage(path, "it must name state.json and files of tensors beside it")
    return digests


def _parse(data: bytes, path: Path) -> Plain:
    try:
        return parse_json(data, str(path), CURE)
    except ReadError as error:
        raise RunError(str(error)) from None


def parse_tensors(data: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors in the bytes of a safetensors file. Raises RunError if there are none."""
    try:
        return load_tensors(data)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError) as error:
        raise _damage(path, f"{str(error)[:120]}; it is no safetensors") from None


def _damage(path: Path, problem: str) -> RunError:
    return RunError(f"{path} is damaged: {problem}; {CURE}")


def _read(path: Path) -> bytes:
    try:
        return read_bytes(path, within=path.parents[1])
    except FileNotFoundError:
        raise RunError(
            f"{path.parent} is incomplete: {path.name} is missing; a checkpoint is used whole; "
            f"{CURE}"
        ) from None
    except ReadError as error:
        raise RunError(str(error)) from None
    except OSError as error:
        raise RunError(
            f"{path} could not be read ({error.strerror}); a checkpoint is used whole; {CURE}"
        ) from None


def _read_verified(path: Path, digest: str) -> bytes:
    data = _read(path)
    if hashlib.sha256(data).hexdigest() != digest:
        raise _damage(path, "its checksum differs from the manifest")
    return data


def tensors_to_bytes(
    tensors: Mapping[str, Tensor], about: Mapping[str, str] | None = None
) -> bytes:
    """Return named tensors, and words about them, as the bytes of a safetensors file."""
    plain = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    return dump_tensors(plain, None if about is None else dict(about))


def disk_error(target: Path, error: OSError) -> RunError:
    """Return the RunError for a file that the disk refused."""
    return RunError(
        f"{target} could not be written ({error.strerror}); the disk must have room and allow "
        "writing; free some, then `lowland resume` from the last whole checkpoint"
    )


def folder_error(run: Path, error: OSError) -> RunError:
    """Return the RunError for the directory of a run that cannot be made or written to."""
    return RunError(
        f"{run} could not be written ({error.strerror}); a run needs a folder that may be written "
        "to, and room; choose another --run (run= in Python), or allow writing there"
    )
