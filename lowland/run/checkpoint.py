"""Checkpoints: folders of tensors and plain values with a manifest of checksums."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from safetensors.torch import load as load_tensors
from safetensors.torch import save as dump_tensors
from torch import Tensor

from lowland.atomic import write_aside
from lowland.registry import Plain

FORMAT = 1


class RunError(ValueError):
    """A run directory that cannot be used as asked: damaged, of another format, in use, out of
    disk.
    """


class Checkpoint(NamedTuple):
    """Content of a checkpoint: step; tensors {file stem: {name: tensor}}; state, plain values."""

    step: int
    tensors: dict[str, dict[str, Tensor]]
    state: Plain


def write_checkpoint(target: Path, checkpoint: Checkpoint) -> Path:
    """Write a checkpoint into a folder, whole or not at all. Raises RunError when the disk
    refuses.
    """
    step, tensors, state = checkpoint
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


def read_checkpoint(directory: Path) -> Checkpoint:
    """Read and verify a checkpoint. Raises RunError if it is incomplete, damaged or of another
    format.
    """
    try:
        manifest = json.loads((directory / "manifest.json").read_bytes())
        written, digests = manifest["format"], dict(manifest["sha256"])
    except FileNotFoundError:
        raise RunError(f"{directory} is incomplete: manifest.json is missing") from None
    except (ValueError, KeyError, TypeError):
        raise RunError(f"{directory}/manifest.json is damaged") from None
    if written != FORMAT:
        raise RunError(f"{directory} is of format {written}, not {FORMAT}")
    data = {name: _read_verified(directory / name, digest) for name, digest in digests.items()}
    state = json.loads(data.pop("state.json"))
    tensors = {name.removesuffix(".safetensors"): load_tensors(part) for name, part in data.items()}
    return Checkpoint(state.pop("step"), tensors, state)


def _read_verified(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path.parent} is incomplete: {path.name} is missing") from None
    if hashlib.sha256(data).hexdigest() != digest:
        raise RunError(f"{path} is damaged: its checksum differs from the manifest")
    return data


def tensors_to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return named tensors as the bytes of a safetensors file."""
    return dump_tensors(
        {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    )


def disk_error(target: Path, error: OSError) -> RunError:
    """Return the RunError for a file that the disk refused."""
    return RunError(
        f"{target} could not be written ({error.strerror}); the disk must have room and allow "
        "writing; free some, then `lowland resume` from the last whole checkpoint"
    )
