"""Files that commands write: checked before any work is begun.

A result is a new file. It replaces an older one only with `--force`, never what a command reads,
nothing of a run's own, no folder, link, device or pipe.
"""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from lowland import atomic
from lowland.plain import dump_json
from lowland.systems import expand_home

OUTPUTS = Path("outputs")  # folder of results that nobody named, below the current one
MAX_NAME = 240  # bytes of a name, so that longer ones can be made of it
RUN_SUFFIXES = (".json", ".jsonl", ".safetensors", ".html")  # of files that runs keep


def name_output(image: str | Path, out: str | Path | None, ending: str) -> Path:
    """Return `out`, or outputs/IMAGE-ending.png if it is None: the first such name, counted on
    from -2, that is free. Results do not lie among the pictures that were read.
    """
    if out is not None:
        return Path(out)
    name = f"{Path(image).stem}-{ending}"
    names = [name, *(f"{name}-{i}" for i in range(2, 10_000))]
    paths = [OUTPUTS / f"{name}.png" for name in names]
    return next(p for p in paths if not any(map(os.path.lexists, (p, p.with_suffix(".npz")))))


def check_new(
    targets: Iterable[str | Path],
    read: Sequence[str | Path] = (),
    *,
    force: bool = False,
    own: Path | None = None,
) -> None:
    """Check files that are to be written; leave no trace.

    read: files and folders that the command reads; force: whether older files may be replaced; own:
    a file of a run that the command is there to write. Raises ValueError for a target that may not
    be written, or cannot be.
    """
    paths = [Path(target) for target in targets]
    for path in paths:
        _check_name(path)
        _check_unread(path, read)
    for path in paths:
        check_writable(path)
        if path != own:
            _check_outside_runs(path)
        if path != own and not force and os.path.lexists(path):
            raise ValueError(
                f"{path} exists; results are written to new files; choose another --out, or "
                "replace it with --force (force=True in Python)"
            )


def check_writable(target: Path) -> None:
    """Raise ValueError if a file could not be written at a place, whose folder need not exist."""
    try:
        atomic.check_target(target)
        if target.is_dir():
            raise ValueError(
                f"{target} is a folder; results are written to files; name a file in it"
            )
        folder = target.absolute().parent
        while not os.path.lexists(folder):
            folder = folder.parent
        atomic.check_writable(folder / "x")
    except OSError as error:
        raise describe_refusal(target, error) from None


def make_folder(target: Path) -> Path:
    """Make the folder of a file, and return the file. Raises ValueError where that is refused."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise describe_refusal(target, error) from None
    return target


def describe_refusal(target: Path, error: OSError) -> ValueError:
    """Return an error that says why a file could not be written."""
    return ValueError(
        f"{target} could not be written ({error.strerror or error}); a folder that may be written "
        "to, and room in it, are needed; choose another with --out"
    )


def write_json(target: Path, values: object) -> None:
    """Write plain values as JSON, whole or not at all. Raises ValueError when the disk refuses."""
    try:
        atomic.write_bytes(make_folder(target), dump_json(values, indent=1).encode())
    except OSError as error:
        raise describe_refusal(target, error) from None


def _check_name(path: Path) -> None:
    if str(path).startswith("-"):
        raise ValueError(
            f"{str(path)!r} begins with a dash and would be read as an option; results need a name "
            "that does not; choose another --out"
        )
    if len(os.fsencode(path.name)) > MAX_NAME:
        raise ValueError(
            f"the name {path.name[:20]}... has {len(os.fsencode(path.name))} bytes; at most "
            f"{MAX_NAME} are taken; choose a shorter --out"
        )


def _check_unread(path: Path, read: Sequence[str | Path]) -> None:
    for source in map(Path, read):
        try:
            same = path.resolve() == expand_home(source).resolve() or (
                path.exists() and source.exists() and path.samefile(source)
            )
        except (OSError, ValueError):
            continue  # no file of that name can be read
        if same:
            raise ValueError(
                f"{path} is the file that is read; results are written to other files; choose "
                "another --out"
            )


def _check_outside_runs(path: Path) -> None:
    real = path.parent.resolve() / path.name
    for folder in real.parents:
        if (folder / "recipe.json").is_file():
            inner = real.relative_to(folder).parts
            internal = real.suffix.lower() in RUN_SUFFIXES or len(inner) > 1
            if internal or real.name.startswith("."):
                raise ValueError(
                    f"{path} lies among the files that the run {folder} keeps; results are written "
                    "elsewhere; choose another --out"
                )
