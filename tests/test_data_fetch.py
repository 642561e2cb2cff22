"""Where files are looked for, and downloads from a loopback server."""

import gzip
import hashlib
import threading
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
        body = gzip.compress(CONTENT) if self.path == "/packed.gz" else CONTENT
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if self.path == "/cut" else body)

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
