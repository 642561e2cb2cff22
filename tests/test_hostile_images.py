"""Pictures as they come: each is read as every viewer shows it, or refused in three clauses."""

import os
import shutil
import socket
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from lowland.data import DataError, load_batch, load_data, load_image, save_grid
from lowland.data.decoding import MAX_PIXELS, decode
from lowland.data.folders import find_images
from lowland.data.images import load_folder

ORIENTATION = 0x0112
GRADIENT = (np.arange(6)[:, None] * 40 + np.arange(4) * 10).astype(np.uint8)  # 6 high, 4 wide


def chunk(kind: bytes, content: bytes) -> bytes:
    checksum = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + checksum


def raw_png(
    rows: list[bytes], size: tuple[int, int], depth: int, colour: int, *extra: bytes
) -> bytes:
    """A PNG of packed rows, with chunks before the pixels; size is (height, width)."""
    header = struct.pack(">IIBBBBB", size[1], size[0], depth, colour, 0, 0, 0)
    packed = zlib.compress(b"".join(b"\0" + row for row in rows))
    chunks = [chunk(b"IHDR", header), *extra, chunk(b"IDAT", packed), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def refused(path: Path, shape: tuple[int, ...], *words: str) -> None:
    """Refused in three clauses, by the reader of points and by that of folders."""
    with pytest.raises(DataError) as caught:
        load_image(path, shape)
    message = str(caught.value)
    assert message.count(";") >= 2 and all(word in message for word in words), message
    other = path.parent / f"folder-of-{path.name}"
    other.mkdir(exist_ok=True)
    shutil.copy(path, other / path.name)
    with pytest.raises(DataError):
        load_folder(other, None, None)


# ---------------------------------------------------------------------------- metadata and format


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_every_orientation_is_shown_as_viewers_show_it(
    orientation: int, suffix: str, tmp_path: Path
) -> None:
    tag = Image.Exif()
    tag[ORIENTATION] = orientation
    path = tmp_path / f"a{suffix}"
    blocks = np.kron(GRADIENT, np.ones((8, 8), np.uint8))
    Image.fromarray(blocks).save(path, exif=tag, quality=100)
    with Image.open(path) as image:
        right = np.asarray(ImageOps.exif_transpose(image))
    assert right.shape == (blocks.shape if orientation < 5 else blocks.shape[::-1])
    assert np.array_equal(load_image(path, (1, *right.shape))[0, 0] * 255, right)
    assert np.array_equal(load_folder(tmp_path, None, None).images.x[0, 0], right)
    assert load_data_shape(tmp_path) == (1, *right.shape)


def load_data_shape(folder: Path) -> tuple[int, ...]:
    return tuple(load_folder(folder, None, None).images.x.shape[1:])


def test_orientation_that_follows_the_pixels_counts_and_a_damaged_one_does_not(
    tmp_path: Path,
) -> None:
    tag = Image.Exif()
    tag[ORIENTATION] = 6
    whole = raw_png([bytes(row) for row in GRADIENT], GRADIENT.shape, 8, 0)
    end = whole.index(b"IEND") - 4
    late = whole[:end] + chunk(b"eXIf", tag.tobytes()[6:]) + whole[end:]
    (tmp_path / "late.png").write_bytes(late)
    turned = np.rot90(GRADIENT, -1)
    assert np.array_equal(load_image(tmp_path / "late.png", (1, 4, 6))[0, 0] * 255, turned)
    for content in (b"", b"II", b"garbage of no kind", tag.tobytes()[6:-9]):
        early = raw_png(
            [bytes(row) for row in GRADIENT], GRADIENT.shape, 8, 0, chunk(b"eXIf", content)
        )
        (tmp_path / "odd.png").write_bytes(early)
        try:
            found = load_image(tmp_path / "odd.png", (1, 6, 4))[0, 0] * 255
        except DataError as error:  # refused in words is right too
            assert str(error).count(";") >= 2
        else:
            assert np.array_equal(found, GRADIENT)


@pytest.mark.parametrize(("colour", "samples"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_are_refused_in_every_colour_type(
    colour: int, samples: int, tmp_path: Path
) -> None:
    row = np.full((4, samples), 40001, ">u2").tobytes()
    path = tmp_path / "deep.png"
    path.write_bytes(raw_png([row] * 6, (6, 4), 16, colour))
    for channels in (1, 3):
        refused(path, (channels, 6, 4), "16", ".npy")


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"])
def test_every_mode_is_read_as_it_looks(mode: str, tmp_path: Path) -> None:
    picture = Image.fromarray(np.kron(GRADIENT > 100, np.full((8, 8), 255)).astype(np.uint8))
    path = tmp_path / ("a.jpg" if mode in ("CMYK", "YCbCr") else "a.png")
    picture.convert("RGB").convert(mode).save(path)
    for channels in (1, 3):
        found = load_image(path, (channels, 48, 32))[0]
        right = torch.tensor(np.asarray(picture) / 255).expand(channels, -1, -1)
        assert (found - right).abs().max() < 0.03, mode


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_few_bits_is_stretched(depth: int, tmp_path: Path) -> None:
    levels = 1 << depth
    values = np.arange(8) % levels
    bits = "".join(f"{value:0{depth}b}" for value in values)
    row = int(bits, 2).to_bytes(len(bits) // 8, "big")
    path = tmp_path / "a.png"
    path.write_bytes(raw_png([row] * 2, (2, 8), depth, 0))
    right = torch.tensor(values / (levels - 1), dtype=torch.float32)
    assert (load_image(path, (1, 2, 8))[0, 0, 0] - right).abs().max() < 1e-6
    # one grey value is transparent: refused where it is used, nothing where it is not
    used, unused = struct.pack(">H", levels - 1), struct.pack(">H", 200)
    path.write_bytes(raw_png([row] * 2, (2, 8), depth, 0, chunk(b"tRNS", used)))
    if levels - 1 in values:
        refused(path, (1, 2, 8), "transparent", "background")
    if depth == 8:
        path.write_bytes(raw_png([row] * 2, (2, 8), depth, 0, chunk(b"tRNS", unused)))
        assert (load_image(path, (1, 2, 8))[0, 0, 0] - right).abs().max() < 1e-6


def test_transparent_pixels_are_refused_and_opaque_ones_are_not(tmp_path: Path) -> None:
    alpha = np.full((6, 4), 255, np.uint8)
    colours = np.zeros((6, 4, 3), np.uint8)
    for last, is_opaque in ((255, True), (254, False), (0, False)):
        alpha[-1, -1] = last
        made = {
            "rgba.png": Image.fromarray(np.dstack([colours, alpha])),
            "la.png": Image.merge("LA", [Image.fromarray(GRADIENT), Image.fromarray(alpha)]),
        }
        for name, image in made.items():
            image.save(tmp_path / name)
            if is_opaque:
                assert load_image(tmp_path / name, (3, 6, 4)).shape == (1, 3, 6, 4)
            else:
                refused(tmp_path / name, (3, 6, 4), "transparent", "background")
    palette = Image.fromarray(np.eye(6, 4, dtype=np.uint8)).convert("P")
    palette.save(tmp_path / "p.png", transparency=0)
    refused(tmp_path / "p.png", (3, 6, 4), "transparent")
    palette.save(tmp_path / "p.png", transparency=bytes([255, 0]))
    refused(tmp_path / "p.png", (1, 6, 4), "transparent")
    keyed = Image.fromarray(colours)
    keyed.save(tmp_path / "rgb.png", transparency=(0, 0, 0))
    refused(tmp_path / "rgb.png", (3, 6, 4), "transparent")


def test_content_and_name_must_agree(tmp_path: Path) -> None:
    frames = [Image.fromarray(np.roll(GRADIENT, i, 0)) for i in range(3)]
    more = {"save_all": True, "append_images": frames[1:]}
    for kind in ("GIF", "WEBP", "TIFF", "BMP", "PPM", "ICO", "EPS", "PDF"):
        several = more if kind in ("GIF", "WEBP", "TIFF") else {}
        path = tmp_path / f"{kind}.png"
        frames[0].convert("RGB").save(path, format=kind, **several)
        refused(path, (1, 6, 4), "PNG")
    frames[0].save(tmp_path / "a.jpg", format="PNG")
    frames[0].save(tmp_path / "b.png", format="JPEG")
    refused(tmp_path / "a.jpg", (1, 6, 4), "a PNG by its content", "rename")
    refused(tmp_path / "b.png", (1, 6, 4), "a JPEG by its content", "rename")
    frames[0].save(tmp_path / "moves.png", **more)
    refused(tmp_path / "moves.png", (1, 6, 4), "animated, 3 frames")
    (tmp_path / "vector.png").write_text("<svg xmlns='http://www.w3.org/2000/svg'/>")
    refused(tmp_path / "vector.png", (1, 6, 4), "neither PNG nor JPEG")


def test_a_postscript_file_starts_no_ghostscript(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'started'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    path = tmp_path / "cat.png"
    path.write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 6\n%%EndComments\nshowpage\n")
    refused(path, (1, 6, 4), "neither PNG nor JPEG")
    assert not (tmp_path / "started").exists()


def test_a_header_that_promises_too_much_is_refused_before_it_is_unpacked(tmp_path: Path) -> None:
    for side in (int(MAX_PIXELS**0.5) + 1, 30_000, 2**31 - 1):
        path = tmp_path / "bomb.png"
        path.write_bytes(raw_png([b"\0"], (side, side), 1, 0))
        refused(path, (1, 6, 4), "bomb.png")


def test_damaged_files_are_refused_in_words(tmp_path: Path) -> None:
    Image.fromarray(np.kron(GRADIENT, np.ones((8, 8), np.uint8))).save(tmp_path / "whole.jpg")
    whole = {
        "a.png": raw_png([bytes(row) for row in GRADIENT], GRADIENT.shape, 8, 0),
        "a.jpg": (tmp_path / "whole.jpg").read_bytes(),
    }
    rng = np.random.default_rng(0)
    for name, content in whole.items():
        cuts = [content[:n] for n in range(0, len(content) - 12, max(1, len(content) // 40))]
        for _ in range(60):
            damaged = bytearray(content)
            for at in rng.integers(0, len(content), 4):
                damaged[at] = int(rng.integers(256))
            cuts.append(bytes(damaged))
        for cut in cuts:
            (tmp_path / name).write_bytes(cut)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    found = load_image(tmp_path / name, (1, 6, 4), resize=True)
                except DataError as error:
                    assert str(error).count(";") >= 2
                else:
                    assert found.shape == (1, 1, 6, 4)


# ------------------------------------------------------------------------------ sizes and folders


def write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)
    return path


def test_a_picture_of_another_size_is_refused_unless_resizing_is_asked_for(tmp_path: Path) -> None:
    write(tmp_path / "large.png", np.full((512, 512), 9, np.uint8))
    for read in (
        lambda **how: load_image(tmp_path / "large.png", (1, 24, 24), **how),
        lambda **how: load_batch([tmp_path], (1, 24, 24), **how)[1],
    ):
        with pytest.raises(DataError, match=r"is 512 × 512; pictures of 24 × 24 .* --resize"):
            read()
        assert read(resize=True).shape == (1, 1, 24, 24)
    write(tmp_path / "small.png", np.full((24, 24), 9, np.uint8))
    with pytest.raises(DataError, match="pass size="):
        load_data(tmp_path)
    for size in (np.int64(24), (np.int32(24), 24), torch.tensor(24)):
        assert load_folder(tmp_path, size, None).images.x.shape == (2, 1, 24, 24)
    for size in (True, "24", 2.5, (1, 2, 3), 0, 10**9):
        with pytest.raises(DataError, match="size is"):
            load_folder(tmp_path, size, None)


def test_one_bad_file_is_skipped_on_request_and_most_are_not(tmp_path: Path) -> None:
    for i in range(12):
        write(tmp_path / "f" / ("10", "9")[i % 2] / f"{i}.png", np.full((6, 4), 20 * i, np.uint8))
    bad = tmp_path / "f" / "9" / "bad.png"
    bad.write_bytes((tmp_path / "f" / "9" / "1.png").read_bytes()[:-20])
    (tmp_path / "f" / "10" / "empty.png").write_bytes(b"")
    for read in (
        lambda **how: load_data(tmp_path / "f", **how),
        lambda **how: load_batch([tmp_path / "f"], (1, 6, 4), **how),
    ):
        with pytest.raises(DataError, match="cannot be read as an image"):
            read()
        with pytest.warns(UserWarning, match=r"2 of the 14 files .* were skipped") as said:
            read(skip_bad=True)
        assert "bad.png: cannot be read" in str(said[0].message)
        assert "empty.png: cannot be read" in str(said[0].message)
    with pytest.warns(UserWarning, match="skipped"):
        data = load_data(tmp_path / "f", skip_bad=True)
    assert len(data.skipped) == 2 and "bad.png" in data.skipped[1] and "2 files" in data.note
    assert data.class_names == ("9", "10")
    values = (data.train.x[:, 0, 0, 0] * 255).round().long() // 20
    assert data.train.y is not None and torch.equal(1 - values % 2, data.train.y)
    for i in range(13):
        shutil.copy(bad, bad.with_name(f"bad-{i}.png"))
    for read in (
        lambda: load_data(tmp_path / "f", skip_bad=True),
        lambda: load_batch([tmp_path / "f"], (1, 6, 4), skip_bad=True),
    ):
        with pytest.raises(DataError, match=r"15 of the 27 files .* at most 50%"):
            read()


def test_classes_are_in_natural_order_and_stray_files_are_no_classes(tmp_path: Path) -> None:
    for k in range(12):
        for j in range(4):
            write(tmp_path / "f" / str(k) / f"{j}.png", np.full((6, 4), 20 * k + j, np.uint8))
    (tmp_path / "f" / "0" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "f" / ".DS_Store").write_bytes(b"x")
    (tmp_path / "f" / "0" / "._0.png").write_bytes(b"x")
    (tmp_path / "f" / "__MACOSX").mkdir()
    (tmp_path / "a.csv").write_text("a,y\n" + "\n".join(f"{i},{i % 12}" for i in range(48)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        data = load_data(tmp_path / "f")
    assert data.class_names == load_data(tmp_path / "a.csv", label="y").class_names
    values = (data.train.x[:, 0, 0, 0] * 255).round().long() // 20
    assert data.train.y is not None and torch.equal(values, data.train.y)
    (tmp_path / "f" / "twelve").mkdir()
    with pytest.warns(UserWarning, match="twelve in .* hold no images and are no classes"):
        load_data(tmp_path / "f")
    write(tmp_path / "f" / "3" / "deeper" / "0.png", GRADIENT)
    with pytest.raises(DataError, match="folders inside its sub-folders"):
        load_data(tmp_path / "f")


def test_folders_hold_what_they_hold(tmp_path: Path) -> None:
    """Pipes and devices are not waited for, links are followed, loops end, nothing is lost."""
    for i in range(4):
        write(tmp_path / "f" / "x.png" / f"{i}.png", np.full((6, 4), 60 * i, np.uint8))
    write(tmp_path / "elsewhere" / "y.png", GRADIENT)
    (tmp_path / "f" / "linked").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "f" / "linked" / "up").symlink_to(tmp_path / "f")
    names = [str(path.relative_to(tmp_path / "f")) for path in find_images(tmp_path / "f")]
    assert names == [*(f"linked/up/x.png/{i}.png" for i in ()), "linked/y.png"] + [
        f"x.png/{i}.png" for i in range(4)
    ]
    for name, make in odd_entries().items():
        make(tmp_path / "f" / name)
        with pytest.raises(DataError, match=f"{name} is not a file"):
            load_batch([tmp_path / "f"], (1, 6, 4))
        with pytest.warns(UserWarning, match=f"{name}: is not a file"):
            assert len(load_batch([tmp_path / "f"], (1, 6, 4), skip_bad=True)[1]) == 5
        with pytest.raises(DataError, match="is not a file"):
            load_image(tmp_path / "f" / name, (1, 6, 4))
        (tmp_path / "f" / name).unlink()
    (tmp_path / "f" / "x.png" / "z.webp").write_bytes(b"RIFF")
    with pytest.warns(UserWarning, match=r"1 in formats that are not read .*z.webp"):
        find_images(tmp_path / "f")


def odd_entries() -> dict[str, Callable[[Path], None]]:
    def listen(path: Path) -> None:
        os.chdir(path.parent)  # names of sockets are short
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(path.name)

    return {
        "pipe.png": os.mkfifo,
        "dangling.png": lambda path: path.symlink_to(path.parent / "nothing"),
        "device.png": lambda path: path.symlink_to("/dev/zero"),
        "round.png": lambda path: path.symlink_to(path.name),
        "socket.png": listen,
    }


def test_what_lowland_drew_is_not_read_as_data(tmp_path: Path) -> None:
    x = torch.rand(4, 1, 6, 4)
    for i in range(4):
        (tmp_path / "f").mkdir(exist_ok=True)
        save_grid(x[i : i + 1], tmp_path / "f" / f"{i}.png", pixels=1, gap=0)
    save_grid(x, tmp_path / "f" / "samples.png")
    with pytest.warns(UserWarning, match=r"1 written by lowland \(first .*samples.png\)"):
        names, _ = load_batch([tmp_path / "f"], (1, 6, 4))
    assert [Path(name).name for name in names] == [f"{i}.png" for i in range(4)]
    save_grid(x, tmp_path / "g.png")
    with pytest.raises(DataError, match="a grid of 100000000 images"):
        save_grid(torch.empty(1, 1, 28, 28).expand(10**8, -1, -1, -1), tmp_path / "huge.png")


@pytest.mark.parametrize("name", ["a\0.png", "a" * 300 + ".png", "/" + "a/" * 3000 + "a.png"])
def test_names_that_no_file_can_have(name: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not a file"):
        load_image(tmp_path / name, (1, 6, 4))
    with pytest.raises(DataError, match="is not a file"):
        load_batch([tmp_path / name], (1, 6, 4))


def test_a_picture_that_is_not_memory_is_not_called_damaged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhaust(*_: object) -> None:
        raise MemoryError

    path = write(tmp_path / "a.png", GRADIENT)
    monkeypatch.setattr(Image.Image, "convert", exhaust)
    with pytest.raises(MemoryError):
        decode(path, 1, None, str(path))
