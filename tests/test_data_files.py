"""IDX, CIFAR and image files: bytes in the right places, and what is refused."""

import gzip
import hashlib
import io
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lowland.data import DataError, load_batch, load_data, load_image, save_grid, to_uint8
from lowland.data.cifar import RECORD_BYTES, read_archive, read_parquet
from lowland.data.idx import read_idx
from lowland.domain import box

DRAW = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No data root but those of the test."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("LOWLAND_DATA", raising=False)


# ---------------------------------------------------------------------------------------------- IDX


def idx_bytes(
    values: np.ndarray, shape: tuple[int, ...] | None = None, magic: int | None = None
) -> bytes:
    shape = values.shape if shape is None else shape
    magic = 0x0800 + len(shape) if magic is None else magic
    return struct.pack(f">{1 + len(shape)}I", magic, *shape) + values.astype(np.uint8).tobytes()


def write_idx_set(folder: Path, train: int = 24, test: int = 5) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for part, count in (("train", train), ("t10k", test)):
        written[f"{part}-images"] = DRAW.integers(0, 256, (count, 28, 28)).astype(np.uint8)
        written[f"{part}-labels"] = (np.arange(count) % 10).astype(np.uint8)
        for kind, dims in (("images", 3), ("labels", 1)):
            packed = gzip.compress(idx_bytes(written[f"{part}-{kind}"]))
            (folder / f"{part}-{kind}-idx{dims}-ubyte.gz").write_bytes(packed)
    return written


def test_idx_round_trip_is_exact(tmp_path: Path) -> None:
    values = DRAW.integers(0, 256, (7, 3, 5)).astype(np.uint8)
    path = tmp_path / "x.gz"
    path.write_bytes(gzip.compress(idx_bytes(values)))
    read = read_idx(path, 3)
    assert np.array_equal(read.values.numpy(), values)
    assert read.sha256 == hashlib.sha256(idx_bytes(values)).hexdigest()


IMAGES = DRAW.integers(0, 256, (7, 3, 5))
PACKED = gzip.compress(idx_bytes(IMAGES))
BAD_IDX = {
    "no gzip": (b"hello, this is no gzip", "is corrupt or cut short"),
    "empty": (b"", "ends inside its header"),
    "cut short": (PACKED[:-20], "is corrupt or cut short"),
    "bit flipped": (
        PACKED[:40] + bytes([PACKED[40] ^ 255]) + PACKED[41:],
        "is corrupt or cut short|promises",
    ),
    "header only": (gzip.compress(idx_bytes(IMAGES)[:10]), "ends inside its header"),
    "labels for images": (
        gzip.compress(idx_bytes(np.zeros(40))),
        "magic number 0x00000801; .* 0x00000803",
    ),
    "floats": (gzip.compress(idx_bytes(IMAGES, magic=0x0D03)), "magic number 0x00000d03"),
    "too few": (
        gzip.compress(idx_bytes(IMAGES, (9, 3, 5))),
        "promises 135 bytes and the file holds only 105",
    ),
    "too many": (
        gzip.compress(idx_bytes(IMAGES, (2, 3, 5))),
        "promises 30 bytes and the file holds more",
    ),
    "one byte past a block": (
        gzip.compress(idx_bytes(np.zeros(2**20 + 1), (1, 2**10, 2**10))),
        "file holds more",
    ),
    "no examples": (gzip.compress(idx_bytes(IMAGES[:0])), "holds no examples"),
    "bomb": (
        gzip.compress(idx_bytes(IMAGES, (2**31, 2**31, 2**31))),
        "packed bytes cannot hold them",
    ),
}


@pytest.mark.parametrize("case", BAD_IDX)
def test_bad_idx_files_are_refused_by_name(tmp_path: Path, case: str) -> None:
    content, message = BAD_IDX[case]
    path = tmp_path / "broken.gz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_idx(path, 3)
    assert "broken.gz" in str(caught.value)


@pytest.mark.parametrize("folder", ["mnist", "mnist/raw"])
def test_mnist_parts_come_from_the_right_files(tmp_path: Path, folder: str) -> None:
    written = write_idx_set(tmp_path / folder)
    data = load_data("mnist", root=tmp_path, download=False)
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [20, 4, 5]
    assert np.array_equal((data.test.x * 255).round().numpy()[:, 0], written["t10k-images"])
    pool = torch.cat([data.train.x, data.calibration.x])
    rows = [
        int((torch.tensor(written["train-images"]) / 255 - x).abs().sum((1, 2)).argmin())
        for x in pool
    ]
    assert sorted(rows) == list(range(24))
    assert data.train.y is not None and data.train.y.tolist() == [row % 10 for row in rows[:20]]
    assert (
        "NOT the published files" in data.note
        and data.domain == box(0, 1, 1, 28, 28)
        and data.num_gray_levels == 256
    )
    assert not torch.equal(
        load_data("mnist", root=tmp_path, seed=1).calibration.x, data.calibration.x
    )


def test_mnist_refuses_files_that_do_not_belong_together(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "mnist")
    labels = tmp_path / "mnist" / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx_bytes(np.zeros(23))))
    with pytest.raises(
        DataError, match=r"train-images.* holds 24 images and .*train-labels.* holds 23 labels"
    ):
        load_data("mnist", root=tmp_path)
    labels.write_bytes(gzip.compress(idx_bytes(np.full(24, 11))))
    with pytest.raises(DataError, match=r"20 labels out of range \(11 to 11\)"):
        load_data("mnist", root=tmp_path)
    images = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    images.write_bytes(gzip.compress(idx_bytes(np.zeros((24, 28, 27)))))
    with pytest.raises(DataError, match=r"train-images.* holds images of \(28, 27\)"):
        load_data("mnist", root=tmp_path)


def test_a_partial_file_under_the_real_name_is_refused_by_its_reader(tmp_path: Path) -> None:
    write_idx_set(tmp_path / "mnist")
    images = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    images.write_bytes(images.read_bytes()[:5000])
    with pytest.raises(
        DataError, match=r"train-images-idx3-ubyte.gz is corrupt or cut short.*delete it"
    ):
        load_data("mnist", root=tmp_path)


# -------------------------------------------------------------------------------------------- CIFAR


def write_archive(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def cifar_members(records: int = 4) -> dict[str, bytes]:
    members = {}
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        values = DRAW.integers(0, 256, (records, RECORD_BYTES)).astype(np.uint8)
        values[:, 0] %= 10
        members[name] = values.tobytes()
    return members


def test_cifar_archive_bytes_land_in_the_right_planes(tmp_path: Path) -> None:
    members = cifar_members()
    path = write_archive(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", members)
    train, test = read_archive(path)
    raw = np.frombuffer(members["test_batch.bin"], np.uint8).reshape(4, RECORD_BYTES)
    assert test.y is not None and test.y.tolist() == raw[:, 0].tolist()
    assert (
        int(test.x[1, 2, 3, 5]) == raw[1, 1 + 2 * 1024 + 3 * 32 + 5]
    )  # blue plane, row 3, column 5
    assert len(train) == 20
    data = load_data("cifar10", root=tmp_path, download=False)
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [18, 2, 4]
    assert "NOT the published" in data.note and torch.equal(
        (data.test.x * 255).round().byte(), test.x
    )


def test_cifar_refusals(tmp_path: Path) -> None:
    path = tmp_path / "c.tar.gz"
    members = cifar_members()
    write_archive(path, {"data_batch_1": b"a pickle"})
    with pytest.raises(
        DataError, match=r"c.tar.gz lacks data_batch_1.bin, .*pickle and is never read"
    ):
        read_archive(path)
    write_archive(path, {**members, "data_batch_3.bin": b"x" * 100})
    with pytest.raises(DataError, match=r"data_batch_3.bin in .* has 100 bytes"):
        read_archive(path)
    whole = write_archive(path, members).read_bytes()
    for content in (whole[: len(whole) // 2], b"no archive", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"c.tar.gz is corrupt or cut short"):
            read_archive(path)


def test_cifar_parquet_round_trip(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    images = DRAW.integers(0, 256, (6, 32, 32, 3)).astype(np.uint8)
    cells = [{"bytes": png(image), "path": None} for image in images]
    (tmp_path / "cifar10-jpeg").mkdir()
    for part in ("train", "test"):
        table = pyarrow.table({"img": cells, "label": [0, 1, 2, 3, 4, 9]})
        parquet.write_table(table, tmp_path / "cifar10-jpeg" / f"{part}.parquet")
    read = read_parquet(tmp_path / "cifar10-jpeg" / "train.parquet")
    assert np.array_equal(read.x.permute(0, 2, 3, 1).numpy(), images)
    assert "comparable with nobody's papers" in load_data("cifar10-jpeg", root=tmp_path).note
    broken = tmp_path / "broken.parquet"
    parquet.write_table(pyarrow.table({"img": [{"bytes": b"no image"}], "label": [0]}), broken)
    with pytest.raises(DataError, match=r"image 0 of .*broken.parquet cannot be read as an image"):
        read_parquet(broken)
    parquet.write_table(pyarrow.table({"picture": [1]}), broken)
    with pytest.raises(DataError, match="has the columns picture; it needs img"):
        read_parquet(broken)
    nested = [[0], [1]]
    for labels, message in (
        ([0, None], "label 1 of .* is None"),
        ([], "has 0 rows; 1 to"),
        ([0, 10], "label 1 of .* is 10"),
        ([0.0, 1.5], "label 0 of .* is 0.0"),
        (["0", "1"], "label 0 of .* is '0'"),
        (nested, r"label 0 of .* is \[0\]"),
        ([True, False], "label 0 of .* is True"),
    ):
        parquet.write_table(pyarrow.table({"img": cells[: len(labels)], "label": labels}), broken)
        with pytest.raises(DataError, match=f"{message}.*;.*;|{message}"):
            read_parquet(broken)
    parquet.write_table(pyarrow.table({"img": [None, cells[0]], "label": [0, 1]}), broken)
    with pytest.raises(DataError, match=r"image 0 of .* holds no bytes"):
        read_parquet(broken)
    broken.write_bytes(b"PAR1")
    with pytest.raises(DataError, match=r"broken.parquet cannot be read"):
        read_parquet(broken)


def test_missing_parquet_says_that_it_has_no_address() -> None:
    with pytest.raises(
        DataError,
        match=r"cifar10-jpeg was not found.*\n.*cifar10-jpeg/train.parquet(.|\n)*no public",
    ):
        load_data("cifar10-jpeg")


# ------------------------------------------------------------------------------------------- images


def png(array: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format="PNG")
    return buffer.getvalue()


def write_png(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(array))
    return path


def test_folder_with_labels(tmp_path: Path) -> None:
    for i in range(12):
        write_png(
            tmp_path / ("cat", "dog")[i % 2] / f"{i:02}.png", np.full((4, 6), 10 * i, np.uint8)
        )
    write_png(tmp_path / ".hidden" / "x.png", np.zeros((9, 9), np.uint8))
    data = load_data(tmp_path)
    assert data.domain == box(0, 1, 1, 4, 6) and data.class_names == ("cat", "dog")
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [8, 2, 2]
    value = (data.train.x[:, 0, 0, 0] * 255).round().long() // 10
    assert data.train.y is not None and torch.equal(value % 2, data.train.y)
    assert load_data(tmp_path, channels=3, size=(8, 5)).domain == box(0, 1, 3, 8, 5)


def test_folder_refusals(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no images"):
        load_data(tmp_path)
    for i in range(5):
        write_png(tmp_path / f"{i}.png", np.full((4, 4, 3), 40 * i, np.uint8))
    assert load_data(tmp_path).domain == box(0, 1, 3, 4, 4)
    with pytest.raises(DataError, match="channels is 2; images have 1"):
        load_data(tmp_path, channels=2)
    with pytest.raises(DataError, match="size is 0; it is one positive"):
        load_data(tmp_path, size=0)
    write_png(tmp_path / "wide.png", np.zeros((4, 9, 3), np.uint8))
    with pytest.raises(DataError, match=r"0.png is 4 × 4 and .*wide.png is 4 × 9; .*pass size="):
        load_data(tmp_path)
    assert load_data(tmp_path, size=4).domain == box(0, 1, 3, 4, 4)
    (tmp_path / "wide.png").write_bytes(
        png(DRAW.integers(0, 256, (4, 4, 3)).astype(np.uint8))[:-30]
    )
    with pytest.raises(DataError, match=r"wide.png cannot be read as an image"):
        load_data(tmp_path)
    (tmp_path / "wide.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"wide.png cannot be read as an image"):
        load_data(tmp_path)
    (tmp_path / "wide.png").unlink()
    write_png(tmp_path / "deep.png", np.zeros((4, 4), np.uint16))
    with pytest.raises(DataError, match=r"deep.png has more than 8 bits"):
        load_data(tmp_path)
    (tmp_path / "deep.png").unlink()
    write_png(tmp_path / "sub" / "a.png", np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match="5 images beside its sub-folders"):
        load_data(tmp_path)


def test_train_and_test_folders_are_not_labels(tmp_path: Path) -> None:
    for part in ("train", "test"):
        write_png(tmp_path / part / "a.png", np.zeros((4, 4), np.uint8))
    with pytest.raises(DataError, match="sub-folders test, train; sub-folders are read as labels"):
        load_data(tmp_path)


def test_load_image_follows_the_shape(tmp_path: Path) -> None:
    colours = DRAW.integers(0, 256, (8, 8, 3)).astype(np.uint8)
    path = write_png(tmp_path / "c.png", colours)
    exact = load_image(path, (3, 8, 8))
    assert torch.equal((exact[0] * 255).round().byte(), torch.tensor(colours).permute(2, 0, 1))
    grey = load_image(path, (1, 8, 8))[0, 0] * 255
    luma = torch.tensor(colours, dtype=torch.float32) @ torch.tensor(
        [0.299, 0.587, 0.114]
    )  # ITU-R 601
    assert (grey - luma).abs().max() < 1
    flat = write_png(tmp_path / "flat.png", np.full((50, 30), 77, np.uint8))
    with pytest.raises(DataError, match=r"flat.png is 50 × 30; pictures of 8 × 8 .* --resize"):
        load_image(flat, (1, 8, 8))
    resized = load_image(flat, (1, 8, 8), resize=True)
    assert torch.equal(resized, torch.full((1, 1, 8, 8), 77 / 255))
    with pytest.raises(
        DataError, match=r"c.png is an image; the energy takes events of shape \(5,\)"
    ):
        load_image(path, (5,))
    with pytest.raises(DataError, match="is not a file"):
        load_image(tmp_path / "absent.png", (1, 8, 8))
    (tmp_path / "a.gif").write_bytes(b"GIF")
    with pytest.raises(DataError, match=r"ends in '.gif'"):
        load_image(tmp_path / "a.gif", (1, 8, 8))


def test_load_image_reads_arrays_of_exactly_the_shape(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    values = DRAW.random((3, 8, 8)).astype(np.float32)
    np.save(path, values)
    assert torch.equal(load_image(path, (1, 8, 8))[:, 0], torch.tensor(values))
    assert torch.equal(load_image(path, (3, 8, 8))[0], torch.tensor(values))
    with pytest.raises(
        DataError,
        match=r"x.npy holds an array of shape \(3, 8, 8\); the energy takes .* \(1, 9, 9\)",
    ):
        load_image(path, (1, 9, 9))
    np.save(path, np.full((2, 8, 8), 51, np.uint8))
    assert torch.equal(load_image(path, (1, 8, 8)), torch.full((2, 1, 8, 8), 0.2))
    values[0, 0, 0] = np.nan
    np.save(path, values)
    with pytest.raises(DataError, match=r"x.npy holds 1 NaN"):
        load_image(path, (1, 8, 8))
    (tmp_path / "t.csv").write_text("a,b\n1,2\n3,4\n")
    assert load_image(tmp_path / "t.csv", (2,)).tolist() == [[1, 2], [3, 4]]


def test_load_batch_names_every_point(tmp_path: Path) -> None:
    write_png(tmp_path / "folder" / "b.png", np.full((8, 8), 255, np.uint8))
    write_png(tmp_path / "folder" / "a.png", np.zeros((8, 8), np.uint8))
    np.savez(tmp_path / "x.npz", x=np.full((2, 1, 8, 8), 0.5))
    names, x = load_batch([tmp_path / "folder", tmp_path / "x.npz"], (1, 8, 8))
    assert names == [
        str(tmp_path / "folder" / "a.png"),
        str(tmp_path / "folder" / "b.png"),
        f"{tmp_path / 'x.npz'}[0]",
        f"{tmp_path / 'x.npz'}[1]",
    ]
    assert x[:, 0, 0, 0].tolist() == [0, 1, 0.5, 0.5]
    with pytest.raises(DataError, match="no path was given"):
        load_batch([], (1, 8, 8))


def test_grid_shows_every_pixel_as_a_square(tmp_path: Path) -> None:
    x = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with Image.open(save_grid(x, tmp_path / "g.png", 3)) as image:
        sheet = np.array(image)
    assert sheet.shape == (2 * 66 + 2, 3 * 66 + 2)
    for i in range(5):
        top, left = 2 + 66 * (i // 3), 2 + 66 * (i % 3)
        tile = sheet[top : top + 64, left : left + 64].reshape(8, 8, 8, 8)
        assert (tile == tile[:, :1, :, :1]).all()
        assert np.array_equal(tile[:, 0, :, 0], to_uint8(x[i, 0]).numpy())
    with Image.open(save_grid(torch.rand(4, 3, 100, 90), tmp_path / "c.png")) as image:
        assert image.mode == "RGB" and image.size == (2 * 92 + 2, 2 * 102 + 2)
    with pytest.raises(DataError, match=r"the picture has the shape \(5, 8, 8\)"):
        save_grid(x[:, 0], tmp_path / "g.png", 3)
    with pytest.raises(DataError, match="the picture holds 320 NaN"):
        save_grid(x * float("nan"), tmp_path / "g.png", 3)
    with pytest.raises(DataError, match="the grid has -1 columns"):
        save_grid(x, tmp_path / "g.png", -1)


def test_every_byte_survives_the_way_in_and_out() -> None:
    values = torch.arange(256, dtype=torch.uint8)
    assert torch.equal(to_uint8(values.float() / 255), values)
