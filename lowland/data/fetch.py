"""Data files: found below the data roots, or downloaded into the cache folder.

A file is looked for below each data root in turn: the root that was given (`--data-root`), those of
`$LOWLAND_DATA` (separated as in `$PATH`), then the cache folder (`$XDG_CACHE_HOME` or `~/.cache`) /
lowland. Only the cache folder is ever written to. A root may be laid out as torchvision lays out
its own, and files may lie there unpacked.

A download is checked and only then written, whole or not at all, so a file that has its name is
whole. The checksum is that of the *content*: for .gz files of the unpacked bytes, because mirrors
pack the same bytes differently. Only http and https are spoken, no more is taken than the file can
have, and a server that sends nothing, or next to nothing, is left.
"""

import hashlib
import http.client
import os
import time
import urllib.error
import urllib.request
import zlib
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from lowland.atomic import check_writable, remove_leftovers, write_bytes
from lowland.data.dataset import DataError
from lowland.systems import expand_home

TIMEOUT_SECONDS = 30.0  # without a byte from the server before a download is given up
MIN_RATE = 4096  # bytes per second, on average after that time
MAX_BYTES = 1 << 28  # of a file whose size is not known
READ_BYTES = 1 << 18
SLACK = 1 << 16  # bytes by which a packed file may be larger than what is in it
OLD_PART_SECONDS = 3600  # after which a .part file is no download under way


@dataclass(frozen=True)
class RemoteFile:
    """A public file: ROOT/folder/file on disk, its mirrors, and the SHA-256 of its content.

    packed: the file is a .gz and the checksum is that of the bytes inside it; size: bytes of its
    content, 0 if they are not known; also: other names of the folder.
    """

    folder: str
    file: str
    urls: tuple[str, ...] = ()
    sha256: str = ""
    packed: bool = False
    size: int = 0
    also: tuple[str, ...] = ()

    @property
    def most_bytes(self) -> int:
        """Return how many bytes of content are taken at most."""
        return self.size or MAX_BYTES


def cache_root() -> Path:
    """Return the folder that downloads go to: ($XDG_CACHE_HOME or ~/.cache)/lowland.

    Raises DataError for a user without a home, as in some containers and jobs.
    """
    named = os.environ.get("XDG_CACHE_HOME")
    try:
        return (expand_home(named) if named else Path.home() / ".cache") / "lowland"
    except RuntimeError:
        raise DataError(
            "downloads go to ~/.cache and this user has no home; a folder that may be written to "
            "is needed; set XDG_CACHE_HOME, or name the folder that holds the data in LOWLAND_DATA"
        ) from None


def data_roots(root: str | Path | None = None) -> list[Path]:
    """Return the folders that are searched, in order: the given root, those of $LOWLAND_DATA, the
    cache folder.

    Raises DataError if the given root is not a folder.
    """
    given = [] if root is None else [expand_home(root)]
    for path in given:
        if not path.is_dir():
            raise DataError(
                f"the data root {path} is not a folder; it must exist; create it or correct the "
                "path"
            )
    listed = filter(None, os.environ.get("LOWLAND_DATA", "").split(os.pathsep))
    found = [*given, *map(expand_home, listed)]
    with suppress(DataError):  # without a home only the others
        found.append(cache_root())
    return list(dict.fromkeys(found))


def locate(remote: RemoteFile, *, root: str | Path | None = None, download: bool = True) -> Path:
    """Find a file below a data root, as ROOT/folder/file or ROOT/folder/raw/file, packed or not, or
    download it into the cache folder; returns its path. A root may be the folder itself.

    Raises DataError with every place that was tried and the command that fetches the file.
    """
    names = dict.fromkeys([remote.file, remote.file.removesuffix(".gz" * remote.packed)])
    candidates = [
        folder / inner / name
        for base in data_roots(root)
        for folder in _name_folders(base, remote)
        for inner in ("", "raw")
        for name in names
    ]
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
    remedy = "name the folder that holds it in $LOWLAND_DATA, or to `train` with --data-root"
    if remote.urls:
        remedy = f"fetch it with\n  curl --create-dirs -L -o {target} {remote.urls[0]}\nor {remedy}"
    else:
        remedy = f"no public address is known for it; {remedy}"
    tried = "".join(f"\n  {path}" for path in candidates)
    raise DataError(
        f"the file {remote.file} of {remote.folder} was not found{problem}; it may be at any of "
        f"these places:{tried}\n{remedy}"
    )


def _name_folders(base: Path, remote: RemoteFile) -> list[Path]:
    """Return the folders below a root, or the root itself, that may hold a file."""
    names = (remote.folder, *remote.also)
    given = base.parent if base.name == "raw" else base
    own = [given] if given.name in names else []
    return [*own, *(base / name for name in names)]


def fetch(remote: RemoteFile, target: Path, *, timeout: float = TIMEOUT_SECONDS) -> Path:
    """Download one file to `target`, trying its mirrors in turn; whole and checked, or not at all.

    timeout: seconds without a byte from the server. Raises DataError if no mirror delivers the
    bytes with the right SHA-256; nothing is left behind then.
    """
    _make_folder(target)
    problems = []
    for url in remote.urls:
        try:
            content = _download(remote, url, timeout)
            _remove_old_parts(target)
            write_bytes(target, content)
            return target
        except (OSError, http.client.HTTPException, ValueError) as error:
            problems.append(f"{url}: {error or type(error).__name__}")
    raise DataError(
        f"{'; '.join(problems)}; one of {len(remote.urls)} addresses must send the whole of "
        f"{remote.file}; try again later, or fetch it by hand"
    )


def _make_folder(target: Path) -> None:
    """Make the folder of a file that is to be downloaded. Raises DataError where that is refused:
    before the download.
    """
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        check_writable(target)
    except OSError as error:
        raise DataError(
            f"{target.parent} could not be written to ({error.strerror}); downloads go there; set "
            "XDG_CACHE_HOME to a folder that may be written to, or put the data into a folder and "
            "name it in LOWLAND_DATA"
        ) from None


class _OnlyHttp(urllib.request.HTTPRedirectHandler):
    """Follow redirections to http and https alone."""

    def redirect_request(
        self,
        req: urllib.request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> urllib.request.Request | None:
        """Return the request of a redirection, or refuse it."""
        _check_scheme(newurl)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _check_scheme(url: str) -> None:
    if not url.lower().startswith(("http://", "https://")):
        raise DataError(
            f"the address {url} is not one of http or https; data are fetched by these alone; use "
            "another mirror"
        )


def _download(remote: RemoteFile, url: str, timeout: float) -> bytes:
    """Return what a mirror sends, checked. Raises DataError for other bytes, more of them than the
    file has, and a server that is too slow; OSError and HTTPException as the transfer does.
    """
    _check_scheme(url)
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler(),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        _OnlyHttp(),
    ):
        opener.add_handler(handler)
    begun, content, check = time.monotonic(), bytearray(), _Check(remote)
    with opener.open(url, timeout=timeout) as response:
        told = response.headers.get("Content-Length", "")
        promised = int(told) if told.isascii() and told.isdigit() and len(told) < 19 else None
        while block := response.read1(READ_BYTES):
            content += block
            check.take(block, len(content))
            spent = time.monotonic() - begun
            if spent > timeout and len(content) < MIN_RATE * (spent - timeout):
                raise DataError(
                    f"only {len(content)} bytes came in {spent:.0f} seconds; {MIN_RATE} per second "
                    "are the least; try again later or use another mirror"
                )
    if promised is not None and len(content) < promised:
        raise DataError(
            f"the transfer stopped after {len(content)} of {promised} bytes; the whole file is "
            "needed; try again"
        )
    check.finish()
    return bytes(content)


class _Check:
    """Size and SHA-256 of a file, taken while it comes; a .gz is unpacked for that."""

    def __init__(self, remote: RemoteFile) -> None:
        self.remote, self.digest, self.count = remote, hashlib.sha256(), 0
        self.unpack = zlib.decompressobj(wbits=31) if remote.packed else None

    def take(self, block: bytes, so_far: int) -> None:
        """Take the next bytes of the file. Raises DataError for too many of them."""
        most = self.remote.most_bytes
        if so_far > most + (SLACK + most // 1000) * self.remote.packed:
            raise self._refuse_size(so_far)
        if self.unpack is None:
            self._count(block)
            return
        try:
            more = not self.unpack.eof
            while more:
                content = self.unpack.decompress(block, READ_BYTES)
                self._count(content)
                block = self.unpack.unconsumed_tail
                more = not self.unpack.eof and bool(block or len(content) == READ_BYTES)
        except zlib.error as error:
            raise self._refuse_gzip(str(error)) from None
        if block or self.unpack.unused_data:
            raise self._refuse_gzip("more follows its end")

    def _count(self, content: bytes) -> None:
        self.count += len(content)
        if self.count > self.remote.most_bytes:
            raise self._refuse_size(self.count)
        self.digest.update(content)

    def finish(self) -> None:
        """Raise DataError unless the file was whole and the right one."""
        if self.unpack is not None and not self.unpack.eof:
            raise self._refuse_gzip("it ends too early")
        found = self.digest.hexdigest()
        if found != self.remote.sha256:
            raise DataError(
                f"the SHA-256 of what was sent is {found}; it must be {self.remote.sha256}; try "
                "again later"
            )

    def _refuse_size(self, count: int) -> DataError:
        return DataError(
            f"{count} bytes and more were sent; {self.remote.file} has at most "
            f"{self.remote.most_bytes}; use another mirror"
        )

    def _refuse_gzip(self, why: str) -> DataError:
        return DataError(
            f"{self.remote.file} is not a whole gzip file ({why}); the whole file is needed; fetch "
            "it again"
        )


def _remove_old_parts(target: Path) -> None:
    """Remove what downloads of this file left behind when they were killed."""
    remove_leftovers(target.parent)
    for path in target.parent.glob(f"{target.name}.*part"):
        with suppress(OSError):
            if time.time() - path.lstat().st_mtime > OLD_PART_SECONDS:
                path.unlink()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
