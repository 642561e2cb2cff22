"""Where data files are looked for, and how they are fetched.

A file is looked for below each data root in turn: the root that was given (`--data-root`), those of
`$LOWLAND_DATA` (separated as in `$PATH`), then the cache folder (`$XDG_CACHE_HOME` or `~/.cache`) /
lowland. Only the cache folder is ever written to.

A download goes to a temporary file beside its destination, is checked, and only then takes its
name, so a file that has its name is whole. The checksum is that of the *content*: for .gz files of
the unpacked bytes, because mirrors pack the same bytes differently.
"""

import gzip
import hashlib
import http.client
import os
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lowland.data.dataset import DataError

BLOCK = 1 << 20
SECONDS = 30.0  # without a byte from the server before a download is given up


@dataclass(frozen=True)
class Remote:
    """A public file: ROOT/folder/file on disk, its mirrors, and the SHA-256 of its content.

    packed: the file is a .gz and the checksum is that of the bytes inside it.
    """

    folder: str
    file: str
    urls: tuple[str, ...] = ()
    sha256: str = ""
    packed: bool = False


def cache_root() -> Path:
    """The folder that downloads go to: ($XDG_CACHE_HOME or ~/.cache)/lowland."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "lowland"


def data_roots(root: str | Path | None = None) -> list[Path]:
    """The folders that are searched, in order: the given root, those of $LOWLAND_DATA, the cache
    folder.

    Raises DataError if the given root is not a folder.
    """
    given = [] if root is None else [Path(root).expanduser()]
    for path in given:
        if not path.is_dir():
            raise DataError(
                f"the data root {path} is not a folder; it must exist; create it or correct the "
                "path"
            )
    listed = [
        Path(part).expanduser()
        for part in os.environ.get("LOWLAND_DATA", "").split(os.pathsep)
        if part
    ]
    return list(dict.fromkeys([*given, *listed, cache_root()]))


def places(remote: Remote, root: str | Path | None = None) -> list[Path]:
    """Every path at which the file is looked for: ROOT/folder/file and ROOT/folder/raw/file."""
    return [
        base / remote.folder / inner / remote.file
        for base in data_roots(root)
        for inner in ("", "raw")
    ]


def locate(remote: Remote, *, root: str | Path | None = None, download: bool = True) -> Path:
    """The path of a file: found below a data root, or else downloaded into the cache folder.

    Raises DataError with every place that was tried and the command that fetches the file.
    """
    looked = places(remote, root)
    for path in looked:
        if path.is_file():
            return path
    problem = "" if download else " (downloading is switched off)"
    if download and remote.urls:
        try:
            return fetch(remote, cache_root() / remote.folder / remote.file)
        except DataError as error:
            problem = f" and could not be downloaded ({error})"
    tried = "".join(f"\n  {path}" for path in looked)
    raise DataError(
        f"the file {remote.file} of {remote.folder} was not found{problem}; it may be at any of "
        f"these places:{tried}\n{_remedy(remote)}"
    )


def _remedy(remote: Remote) -> str:
    target = cache_root() / remote.folder / remote.file
    other = "name the folder that holds it with --data-root or $LOWLAND_DATA"
    if not remote.urls:
        return f"no public address is known for it; {other}"
    return f"fetch it with\n  curl --create-dirs -L -o {target} {remote.urls[0]}\nor {other}"


def fetch(remote: Remote, destination: Path, *, seconds: float = SECONDS) -> Path:
    """Download one file, trying its mirrors in turn; whole and checked, or not there at all.

    Raises DataError if no mirror delivers the bytes with the right SHA-256. Nothing is left behind
    then.
    """
    problems = []
    for url in remote.urls:
        try:
            return _fetch_from(url, remote, destination, seconds)
        except (OSError, http.client.HTTPException, DataError) as error:
            problems.append(f"{url}: {error or type(error).__name__}")
    raise DataError("; ".join(problems))


def _fetch_from(url: str, remote: Remote, destination: Path, seconds: float) -> Path:
    destination.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=destination.parent, prefix=f"{destination.name}.", suffix=".part"
    )
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            _transfer(url, file, seconds)
            file.flush()
            os.fsync(file.fileno())
        found = content_sha256(temporary, packed=remote.packed)
        if found != remote.sha256:
            raise DataError(
                f"the SHA-256 of what was sent is {found}; it must be {remote.sha256}; try again "
                "later"
            )
        temporary.chmod(0o644)  # mkstemp makes files that only their owner can read
        temporary.replace(destination)
    finally:
        temporary.unlink(missing_ok=True)
    return destination


def _transfer(url: str, file: IO[bytes], seconds: float) -> None:
    with urllib.request.urlopen(url, timeout=seconds) as response:
        promised, received = response.headers.get("Content-Length"), 0
        while block := response.read(BLOCK):
            file.write(block)
            received += len(block)
    if promised is not None and received != int(promised):
        raise DataError(
            f"the transfer stopped after {received} of {promised} bytes; all are needed; try again"
        )


def content_sha256(path: Path, *, packed: bool) -> str:
    """SHA-256 of a file, or of the bytes packed in a .gz file, as 64 hexadecimal digits.

    Raises DataError if a packed file is not whole.
    """
    digest = hashlib.sha256()
    try:
        with gzip.open(path, "rb") if packed else path.open("rb") as file:
            while block := file.read(BLOCK):
                digest.update(block)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(
            f"{path.name} is not a whole gzip file ({error}); delete it; fetch it again"
        ) from error
    return digest.hexdigest()
