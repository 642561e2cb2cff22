"""Data files: found below the data roots, or downloaded into the cache folder.

A file is looked for below each data root in turn: the root that was given (`--data-root`), those of
`$LOWLAND_DATA` (separated as in `$PATH`), then the cache folder (`$XDG_CACHE_HOME` or `~/.cache`) /
lowland. Only the cache folder is ever written to.

A download is checked and only then written, whole or not at all, so a file that has its name is
whole. The checksum is that of the *content*: for .gz files of the unpacked bytes, because mirrors
pack the same bytes differently.
"""

import gzip
import hashlib
import http.client
import os
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from lowland.atomic import write_bytes
from lowland.data.dataset import DataError

TIMEOUT_SECONDS = 30.0  # without a byte from the server before a download is given up


@dataclass(frozen=True)
class RemoteFile:
    """A public file: ROOT/folder/file on disk, its mirrors, and the SHA-256 of its content.

    packed: the file is a .gz and the checksum is that of the bytes inside it.
    """

    folder: str
    file: str
    urls: tuple[str, ...] = ()
    sha256: str = ""
    packed: bool = False


def cache_root() -> Path:
    """Return the folder that downloads go to: ($XDG_CACHE_HOME or ~/.cache)/lowland."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "lowland"


def data_roots(root: str | Path | None = None) -> list[Path]:
    """Return the folders that are searched, in order: the given root, those of $LOWLAND_DATA, the
    cache folder.

    Raises DataError if the given root is not a folder.
    """
    given = [] if root is None else [Path(root).expanduser()]
    for path in given:
        if not path.is_dir():
            raise DataError(
                f"the data root {path} is not a folder; it must exist; create it or correct the "
                "path"
            )
    listed = filter(None, os.environ.get("LOWLAND_DATA", "").split(os.pathsep))
    return list(
        dict.fromkeys([*given, *(Path(part).expanduser() for part in listed), cache_root()])
    )


def locate(remote: RemoteFile, *, root: str | Path | None = None, download: bool = True) -> Path:
    """Find a file below a data root, as ROOT/folder/file or ROOT/folder/raw/file, or download it
    into the cache folder; returns its path.

    Raises DataError with every place that was tried and the command that fetches the file.
    """
    folders = [base / remote.folder for base in data_roots(root)]
    candidates = [folder / inner / remote.file for folder in folders for inner in ("", "raw")]
    for path in candidates:
        if path.is_file():
            return path
    target = cache_root() / remote.folder / remote.file
    problem = "" if download else " (downloading is switched off)"
    if download and remote.urls:
        try:
            return fetch(remote, target)
        except DataError as error:
            problem = f" and could not be downloaded ({error})"
    remedy = "name the folder that holds it with --data-root or $LOWLAND_DATA"
    if remote.urls:
        remedy = f"fetch it with\n  curl --create-dirs -L -o {target} {remote.urls[0]}\nor {remedy}"
    else:
        remedy = f"no public address is known for it; {remedy}"
    tried = "".join(f"\n  {path}" for path in candidates)
    raise DataError(
        f"the file {remote.file} of {remote.folder} was not found{problem}; it may be at any of "
        f"these places:{tried}\n{remedy}"
    )


def fetch(remote: RemoteFile, target: Path, *, timeout: float = TIMEOUT_SECONDS) -> Path:
    """Download one file to `target`, trying its mirrors in turn; whole and checked, or not at all.

    timeout: seconds without a byte from the server. Raises DataError if no mirror delivers the
    bytes with the right SHA-256; nothing is left behind then.
    """
    problems = []
    for url in remote.urls:
        try:
            with urllib.request.urlopen(url, timeout=timeout) as response:
                content = response.read()
            _check(remote, content)
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(target, content)
            return target
        except (OSError, http.client.HTTPException, DataError) as error:
            problems.append(f"{url}: {error or type(error).__name__}")
    raise DataError("; ".join(problems))


def _check(remote: RemoteFile, content: bytes) -> None:
    try:
        found = hashlib.sha256(gzip.decompress(content) if remote.packed else content).hexdigest()
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{remote.file} is not a whole gzip file ({error}); the whole file is needed; fetch it "
            "again"
        ) from error
    if found != remote.sha256:
        raise DataError(
            f"the SHA-256 of what was sent is {found}; it must be {remote.sha256}; try again later"
        )


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
