"""Hostile tables, arrays and labels: each is read rightly, or refused in three clauses."""

from pathlib import Path

import pytest

from lowland.data import DataError, load_data
from lowland.data.classes import sort_classes


def write(path: Path, text: str) -> Path:
    """Write a text table."""
    path.write_bytes(text.encode())
    return path


def refuse(message: str) -> pytest.RaisesExc[DataError]:
    """Expect an error in three clauses."""
    return pytest.raises(DataError, match=rf"(?s){message}.*;.*;|;.*{message}.*;|;.*;.*{message}")


def test_classes_are_sorted_as_people_count() -> None:
    names = ["10", "2", "1", "-1", "1.5", "1e400", "cat 10", "cat 9", "Bee", "bee", "2", "x" * 9]
    assert sort_classes(names) == (
        *("-1", "1", "1.5", "2", "10", "1e400"),
        *("Bee", "bee", "cat 9", "cat 10", "x" * 9),
    )
    assert sort_classes(["x" + "9" * 5000, "x1"]) == ("x1", "x" + "9" * 5000)


@pytest.mark.parametrize("gap", ["", "nan", "NA", "?", "null", "None", "<NA>"])
def test_a_missing_label_is_no_class(tmp_path: Path, gap: str) -> None:
    rows = "".join(f"{i},{i % 2}\n" for i in range(8))
    path = write(tmp_path / "a.csv", f"a,y\n{rows}9,{gap}\n")
    with refuse("1 rows without a label"):
        load_data(path, label="y")


def test_one_number_written_in_two_ways_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", "a,y\n1,1\n2,1.0\n3,2\n4,2\n5,1\n")
    with refuse("labels '1' and '1.0'"):
        load_data(path, label="y")
    path = write(tmp_path / "a.csv", "a,y\n1,+\n2,-\n3,-\n4,+\n5,1e400\n6,2e400\n")
    assert load_data(path, label="y").class_names == ("1e400", "2e400", "+", "-")
