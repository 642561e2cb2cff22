"""Damage bytes as disks, editors and strangers do: a small mutator for files."""

import random
from collections.abc import Callable
from pathlib import Path

TOKENS = (
    b"\x00", b"\xff", b"\n", b"\r\n", b",", b";", b'"', b"[", b"]", b"{", b"}", b"nan", b"inf",
    b"-1", b"1e400", b"99999999999999999999", b"true", b"null", b"\xef\xbb\xbf", b"\x1b[31m", b"..",
)  # fmt: skip


def flip(data: bytearray, r: random.Random) -> None:
    """Flip one bit."""
    if data:
        data[r.randrange(len(data))] ^= 1 << r.randrange(8)


def cut(data: bytearray, r: random.Random) -> None:
    """Cut the end off."""
    del data[r.randrange(len(data) + 1) :]


def drop(data: bytearray, r: random.Random) -> None:
    """Take out a few bytes."""
    at = r.randrange(len(data) + 1)
    del data[at : at + r.randint(1, 40)]


def insert(data: bytearray, r: random.Random) -> None:
    """Put in a token that parsers care about."""
    at = r.randrange(len(data) + 1)
    data[at:at] = r.choice(TOKENS)


def repeat(data: bytearray, r: random.Random) -> None:
    """Write a stretch twice."""
    at = r.randrange(len(data) + 1)
    data[at:at] = data[at : at + r.randint(1, 200)]


def change_digit(data: bytearray, r: random.Random) -> None:
    """Make another digit of one: headers and tables hold numbers in text."""
    places = [i for i, byte in enumerate(data[:4000]) if 48 <= byte <= 57]
    if places:
        data[r.choice(places)] = 48 + r.randrange(10)


def empty(data: bytearray, r: random.Random) -> None:
    """Leave nothing."""
    data.clear()


MUTATIONS: tuple[Callable[[bytearray, random.Random], None], ...] = (
    flip, flip, cut, drop, insert, insert, repeat, change_digit, change_digit, empty,
)  # fmt: skip


def mutate(data: bytes, r: random.Random) -> bytes:
    """Return the bytes after one to three mutations."""
    changed = bytearray(data)
    for _ in range(r.choice((1, 1, 1, 2, 3))):
        r.choice(MUTATIONS)(changed, r)
    return bytes(changed)


def mutate_file(path: Path, r: random.Random) -> bool:
    """Damage a file in place; return whether its bytes changed."""
    before = path.read_bytes()
    after = mutate(before, r)
    path.write_bytes(after)
    return after != before
