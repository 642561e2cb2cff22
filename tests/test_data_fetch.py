"""Where files are looked for, and downloads from a loopback server."""

import contextlib
import gzip
import hashlib
import os
import shutil
import struct
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

from lowland.data import DataError, cache_root, cifar, data_roots, load_data
from lowland.data.fetch import RemoteFile, fetch, locate


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data root but those of the test, and no proxy in the way of the loopback."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LOWLAND_DATA", raising=False)
    monkeypatch.setenv("no_proxy", "127.0.0.1")


CONTENT = bytes(np.random.default_rng(0).integers(0, 256, 300_000).astype(np.uint8))


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/absent":
            self.send_error(404)
            return
        if self.path.startswith("/to/"):
            self.send_response(302)
            self.send_header("Location", self.path.removeprefix("/to/"))
            self.end_headers()
            return
        body = gzip.compress(CONTENT) if self.path.endswith(".gz") else CONTENT
        self.send_response(200)
        if self.path.startswith(("/odd/", "/endless/", "/slow/")):
            if self.path.startswith("/odd/"):
                self.send_header("Content-Length", self.path.split("/")[2])
            self.end_headers()
            self.send_oddly(body)
            return
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

    def send_oddly(self, body: bytes) -> None:
        """Send the body; behind it zeros for ever, or it a byte at a time."""
        with contextlib.suppress(OSError):
            if self.path.startswith("/slow/"):
                for i in range(600):
                    self.wfile.write(body[i : i + 1])
                    time.sleep(0.05)
            else:
                self.wfile.write(body)
            while self.path.startswith("/endless/"):
                self.wfile.write(bytes(1 << 18))

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(
            target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True
        )
        thread.start()
        yield f"http://127.0.0.1:{http.server_address[1]}"
        http.shutdown()
        thread.join()


def remote(
    *urls: str, sha256: str = hashlib.sha256(CONTENT).hexdigest(), packed: bool = False
) -> RemoteFile:
    return RemoteFile("things", "thing.bin", urls, sha256, packed)


def left_behind() -> list[str]:
    return sorted(
        str(path.relative_to(cache_root())) for path in cache_root().rglob("*") if path.is_file()
    )


def test_a_download_is_whole_checked_and_found_again(server: str, tmp_path: Path) -> None:
    path = locate(remote(f"{server}/thing"))
    assert (
        path == tmp_path / "cache" / "lowland" / "things" / "thing.bin"
        and path.read_bytes() == CONTENT
    )
    assert left_behind() == ["things/thing.bin"]
    assert locate(remote("http://127.0.0.1:9/never-asked")) == path


def test_the_checksum_of_a_packed_file_is_that_of_its_content(server: str) -> None:
    assert (
        gzip.decompress(locate(remote(f"{server}/packed.gz", packed=True)).read_bytes()) == CONTENT
    )


@pytest.mark.parametrize(
    ("page", "options", "message"),
    [
        (
            "thing",
            {"sha256": "0" * 64},
            "the SHA-256 of what was sent is [0-9a-f]{64}; it must be 0000",
        ),
        ("thing", {"packed": True}, "is not a whole gzip file"),
        ("cut", {}, "the transfer stopped after 150000 of 300000 bytes|IncompleteRead"),
        ("absent", {}, "404"),
    ],
)
def test_a_failed_download_leaves_nothing_behind(
    server: str, page: str, options: dict, message: str
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        locate(remote(f"{server}/{page}", **options))
    assert "curl --create-dirs -L -o" in str(caught.value) and f"{server}/{page}" in str(
        caught.value
    )
    assert left_behind() == []


def test_a_second_mirror_is_tried_and_an_old_partial_file_is_no_obstacle(server: str) -> None:
    folder = cache_root() / "things"
    folder.mkdir(parents=True)
    (folder / "thing.bin.part").write_bytes(CONTENT[:1000])
    path = fetch(
        remote(f"{server}/cut", f"{server}/absent", f"{server}/thing"), folder / "thing.bin"
    )
    assert path.read_bytes() == CONTENT
    assert left_behind() == ["things/thing.bin", "things/thing.bin.part"]


def test_without_network_every_place_and_the_command_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOWLAND_DATA", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    (tmp_path / "given").mkdir()
    with pytest.raises(DataError) as caught:
        load_data("mnist", root=tmp_path / "given", download=False)
    message = str(caught.value)
    for place in ("given", "one", "two", "cache/lowland"):
        assert str(tmp_path / place / "mnist" / "train-images-idx3-ubyte.gz") in message
        assert str(tmp_path / place / "mnist" / "raw" / "train-images-idx3-ubyte.gz") in message
    target = cache_root() / "mnist" / "train-images-idx3-ubyte.gz"
    url = "https://ossci-datasets.s3.amazonaws.com/mnist/train-images-idx3-ubyte.gz"
    assert f"curl --create-dirs -L -o {target} {url}" in message and "switched off" in message
    monkeypatch.setattr(
        cifar,
        "ARCHIVE",
        RemoteFile("cifar10", "c.tar.gz", ("http://127.0.0.1:9/c.tar.gz",), "0" * 64),
    )
    with pytest.raises(
        DataError, match=r"could not be downloaded \(http://127.0.0.1:9/c.tar.gz: .*refused"
    ):
        load_data("cifar10")


def test_roots_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOWLAND_DATA", f"{tmp_path / 'one'}:{tmp_path / 'two'}:{tmp_path / 'one'}")
    given = tmp_path / "given"
    with pytest.raises(DataError, match=r"the data root .*given is not a folder"):
        data_roots(given)
    given.mkdir()
    assert data_roots(given) == [
        given,
        tmp_path / "one",
        tmp_path / "two",
        tmp_path / "cache" / "lowland",
    ]
    thing = remote()
    for place in (cache_root(), tmp_path / "two", tmp_path / "one", given):
        (place / "things").mkdir(parents=True)
        (place / "things" / "thing.bin").write_bytes(b"x")
        assert locate(thing, root=given) == place / "things" / "thing.bin"


# ----------------------------------------------------------------------- servers as they may be


@pytest.mark.parametrize("length", ["abc", "-5", "1e9", "", "9" * 40])
def test_a_length_that_is_none_stops_nothing(server: str, length: str) -> None:
    thing = remote(f"{server}/odd/{length}/thing", f"{server}/thing")
    assert locate(thing).read_bytes() == CONTENT


@pytest.mark.parametrize(
    ("page", "options", "message"),
    [
        (
            "endless/thing",
            {"size": len(CONTENT)},
            "bytes and more were sent; thing.bin has at most",
        ),
        (
            "endless/thing.gz",
            {"size": len(CONTENT), "packed": True},
            "and more were sent|more follows its end",
        ),
        ("thing", {"size": 1000}, "has at most 1000"),
        ("packed.gz", {"size": 1000, "packed": True}, "has at most 1000"),
        ("to/file:///etc/hostname", {}, "not allowed"),
        ("to/ftp://127.0.0.1/x", {}, "not one of http or https"),
        ("slow/thing", {}, "bytes came in"),
    ],
)
def test_what_a_server_does_is_bounded(server: str, page: str, options: dict, message: str) -> None:
    thing = RemoteFile(
        "things",
        "thing.bin",
        (f"{server}/{page}", f"{server}/thing.gz" if options.get("packed") else f"{server}/thing"),
        hashlib.sha256(CONTENT).hexdigest(),
        **options,
    )
    target = cache_root() / "things" / "thing.bin"
    alone = RemoteFile("things", "thing.bin", thing.urls[:1], thing.sha256, **options)
    short, long = (1.0, 4.0) if page.startswith("slow/") else (60.0, 60.0)
    with pytest.raises(DataError, match=message) as caught:
        fetch(alone, target, timeout=short)
    assert str(caught.value).count(";") >= 2 and left_behind() == []
    if options.get("size") != 1000:  # the next mirror is asked
        assert fetch(thing, target, timeout=long) == target


@pytest.mark.parametrize("url", ["file:///etc/hostname", "ftp://127.0.0.1/x", "gopher:", ""])
def test_other_schemes_are_not_spoken(url: str, server: str) -> None:
    with pytest.raises(DataError, match="not one of http or https"):
        fetch(remote(url), cache_root() / "x")
    assert locate(remote(url, f"{server}/thing")).read_bytes() == CONTENT


def test_what_dead_downloads_left_is_removed(server: str) -> None:
    folder = cache_root() / "things"
    dead = folder / ".lowland-999999999-0123456789abcdef"
    dead.mkdir(parents=True)
    (dead / "thing.bin").write_bytes(b"half")
    (dead / ".writer").touch()
    (folder / "thing.bin.part").write_bytes(b"half")
    past = time.time() - 7200
    os.utime(folder / "thing.bin.part", (past, past))
    locate(remote(f"{server}/thing"))
    assert left_behind() == ["things/thing.bin"]


# --------------------------------------------------------------------------- where others put them


def write_idx(folder: Path, pack: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for part, count in (("train", 24), ("t10k", 5)):
        for kind, shape in (("images-idx3", (count, 28, 28)), ("labels-idx1", (count,))):
            header = struct.pack(f">{1 + len(shape)}I", 0x0800 + len(shape), *shape)
            content = header + (np.arange(np.prod(shape)) % 10).astype(np.uint8).tobytes()
            name = f"{part}-{kind}-ubyte{'.gz' if pack else ''}"
            (folder / name).write_bytes(gzip.compress(content) if pack else content)


@pytest.mark.parametrize("pack", [True, False])
@pytest.mark.parametrize(
    "place",
    ["mnist", "mnist/raw", "MNIST/raw", "MNIST", "fashion-mnist", "FashionMNIST/raw"],
)
def test_every_layout_is_found(place: str, pack: bool, tmp_path: Path) -> None:
    name = "mnist" if place.lower().startswith("mnist") else "fashion-mnist"
    write_idx(tmp_path / "root" / place, pack)
    roots = [tmp_path / "root", tmp_path / "root" / place]
    for root in roots:
        data = load_data(name, root=root, download=False)
        assert len(data.train) + len(data.calibration) == 24 and len(data.test) == 5
    other = {"mnist": "fashion-mnist", "fashion-mnist": "mnist"}[name]
    with pytest.raises(DataError, match="was not found"):
        load_data(other, root=roots[0], download=False)
    shutil.rmtree(tmp_path / "root")


@pytest.mark.parametrize("sizes", [(2**31, 28, 28), (24, 2**16, 2**16), (0, 28, 28), (25, 28, 28)])
def test_absurd_headers_of_unpacked_files_are_refused(
    sizes: tuple[int, ...], tmp_path: Path
) -> None:
    write_idx(tmp_path / "mnist", False)
    path = tmp_path / "mnist" / "train-images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 0x0803, *sizes) + path.read_bytes()[16:])
    with pytest.raises(DataError, match=path.name) as caught:
        load_data("mnist", root=tmp_path, download=False)
    assert str(caught.value).count(";") >= 2
