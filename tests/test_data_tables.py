"""Arrays and tables: what they are taken for, how they are divided, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch

from lowland.data import load_data
from lowland.domain import binary, box, real


def save_npy(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def test_array_is_divided_into_disjoint_parts_that_cover_it(tmp_path: Path) -> None:
    path = save_npy(tmp_path / "x.npy", np.arange(200.0).reshape(100, 2))
    data = load_data(path, seed=3)
    assert [len(part) for part in (data.train, data.calibration, data.test)] == [70, 15, 15]
    everything = torch.cat([data.train.x, data.calibration.x, data.test.x])
    assert torch.equal(everything.sort(0).values, torch.arange(200.0).reshape(100, 2))
    assert data.domain == real(2)
    assert torch.equal(load_data(path, seed=3).test.x, data.test.x)
    assert not torch.equal(load_data(path, seed=4).test.x, data.test.x)


def test_standardized_by_the_training_part_alone(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal([5, -100], [0.1, 30], (200, 2))
    path = save_npy(tmp_path / "x.npy", values)
    plain, data = load_data(path), load_data(path, standardize=True)
    assert (
        data.train.x.mean(0).abs().max() < 1e-5
        and (data.train.x.std(0, correction=0) - 1).abs().max() < 1e-5
    )
    np.testing.assert_allclose(data.mean, plain.train.x.double().mean(0), rtol=1e-6)
    assert data.test.x.mean(0).abs().max() > 1e-3  # its own mean was not used
    torch.testing.assert_close(data.unstandardize(data.test.x).float(), plain.test.x)
    torch.testing.assert_close(data.standardize(plain.test.x), data.test.x)
    assert plain.standardize(plain.test.x) is plain.test.x
    save_npy(path, np.c_[values[:, 0], np.ones(200)])
    with pytest.raises(ValueError, match=r"column 1 of .* has one value only"):
        load_data(path, standardize=True)


def test_what_an_array_is_taken_for(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 256, (20, 5, 4)).astype(np.uint8)
    data = load_data(save_npy(tmp_path / "grey.npy", grey))
    assert data.domain == box(0, 1, 1, 5, 4) and data.num_gray_levels == 256
    got = torch.cat([data.train.x, data.calibration.x, data.test.x]) * 255
    assert sorted(map(tuple, got.round().int().flatten(1).tolist())) == sorted(
        map(tuple, grey.reshape(20, -1).tolist())
    )
    assert load_data(save_npy(tmp_path / "f.npy", grey[:, None] / 255.0)).domain == box(
        0, 1, 1, 5, 4
    )
    assert load_data(save_npy(tmp_path / "b.npy", grey > 99)).domain == binary(5, 4)
    assert load_data(save_npy(tmp_path / "v.npy", grey[:, 0, 0])).domain == real(1)
    with pytest.raises(ValueError, match=r"shape \(20, 5, 4, 3\); .* channels first; transpose"):
        load_data(save_npy(tmp_path / "last.npy", np.repeat(grey[..., None], 3, 3)))
    with pytest.raises(ValueError, match=r"values 0 to 25\d; they are floats in \[0, 1\] or uint8"):
        load_data(save_npy(tmp_path / "big.npy", grey[:, None].astype(float)))
    with pytest.raises(ValueError, match="standardize was asked for"):
        load_data(tmp_path / "grey.npy", standardize=True)


def test_npz_has_x_and_may_have_y(tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 4
    np.savez(tmp_path / "a.npz", X=x, y=y)
    data = load_data(tmp_path / "a.npz")
    assert data.classes == 4 and data.train.y is not None
    row = int((torch.tensor(x).float() - data.train.x[0]).abs().sum(1).argmin())
    assert int(data.train.y[0]) == y[row]
    np.savez(tmp_path / "b.npz", data=x)
    with pytest.raises(ValueError, match=r"b.npz has the keys data; it needs x"):
        load_data(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", x=x, y=y[:30])
    with pytest.raises(ValueError, match=r"c.npz has 40 examples and labels of shape \(30,\)"):
        load_data(tmp_path / "c.npz")
    np.savez(tmp_path / "d.npz", x=x, y=y - 2)
    with pytest.raises(ValueError, match=r"d.npz has negative labels \(down to -2\)"):
        load_data(tmp_path / "d.npz")
    np.savez(tmp_path / "e.npz", x=x, y=y / 2)
    with pytest.raises(ValueError, match="labels of type float64"):
        load_data(tmp_path / "e.npz")


@pytest.mark.parametrize("name", ["x.npy", "x.npz"])
def test_pickled_and_broken_arrays_are_refused_by_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    save = np.save if name == "x.npy" else (lambda file, array: np.savez(file, x=array))
    save(path, np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(ValueError, match=f"{name} holds pickled Python objects"):
        load_data(path)
    save(path, np.random.default_rng(0).normal(size=(100, 3)))
    whole = path.read_bytes()
    for content in (whole[:-500], whole[:5], b""):
        path.write_bytes(content)
        with pytest.raises(
            ValueError, match=f"{name} is corrupt or cut short|{name} holds pickled"
        ):
            load_data(path)
    save(path, np.array(["a", "b"]))
    with pytest.raises(ValueError, match="values of type <U1"):
        load_data(path)
    save(path, np.zeros((0, 3)))
    with pytest.raises(ValueError, match="is empty"):
        load_data(path)
    save(path, np.ones((3, 2)))
    with pytest.raises(ValueError, match=r"holds 3 examples; .* need 4"):
        load_data(path)
    save(path, np.ones((30, 2)))
    with pytest.raises(ValueError, match="are the same point"):
        load_data(path)
    save(path, np.where(np.eye(30, 2) > 0, np.nan, 1.0))
    with pytest.raises(
        ValueError, match=f"{name} holds 2 NaN and 0 infinite values in 2 of 30 examples"
    ):
        load_data(path)


def test_a_npy_header_that_promises_terabytes_allocates_nothing(tmp_path: Path) -> None:
    path = save_npy(tmp_path / "x.npy", np.zeros((4, 3)))
    path.write_bytes(
        path.read_bytes().replace(b"(4, 3)", b"(4000000000000, 3)").replace(b" " * 12, b" ", 1)
    )
    with pytest.raises(ValueError, match="corrupt or cut short"):
        load_data(path)


def test_csv_with_header_labels_and_separators(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    rows = [(i, i * 0.5, ("no", "yes")[i % 2]) for i in range(40)]
    path.write_text("a,b,kind\n" + "".join(f"{a},{b},{k}\n" for a, b, k in rows))
    data = load_data(path, label="kind")
    assert (
        data.columns == ("a", "b") and data.class_names == ("no", "yes") and data.domain == real(2)
    )
    assert data.train.y is not None and torch.equal(data.train.y, data.train.x[:, 0].long() % 2)
    assert torch.equal(data.train.x[:, 1] * 2, data.train.x[:, 0])
    path.write_text("".join(f"{a};{b};{k}\n" for a, b, k in rows))
    data = load_data(path, label=-1)
    assert len(data.train) + len(data.calibration) + len(data.test) == 40 and data.classes == 2
    path.write_text("\ufeffa\tb\n" + "".join(f"{a}\t{b}\n" for a, b, _ in rows), encoding="utf-8")
    assert load_data(path).columns == ("a", "b")
    path.write_text("".join(f"{a},{a % 11}\n" for a, _, _ in rows))
    assert load_data(path, label=1).class_names == tuple(
        str(k) for k in range(11)
    )  # 10 after 9, not after 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("a,b\n", "a header and no rows"),
        ("a,b\n1,2\n3\n", "line 3 of .* has 1 cells; the first has 2"),
        ("a,b\n1,2\n3,x\n", "line 3, column 'b': 'x' is not a number"),
        ("a,b\n1,2\n3,\n", "line 3, column 'b': the cell is empty"),
        ("a,b\n1,nan\n3,inf\n", "line 2, column 'b': 'nan' says that the value is missing"),
        ("a,b\n1,2\n3,inf\n", "line 3, column 'b': 'inf' is infinite"),
        (
            "a,kinds\n1,2\n3,4\n",
            "the label column 'kind' is not in .*; it has a, kinds; did you mean 'kinds'",
        ),
    ],
)
def test_csv_refusals_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "t.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_data(path, **({"label": "kind"} if "kinds" in text else {}))


def test_csv_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(bytes(range(128, 256)))
    with pytest.raises(ValueError, match=r"t.csv is not a text table"):
        load_data(tmp_path / "t.csv")
