"""The pages "Which objective?" and the gallery: every objective is named, links lead somewhere,
figures are the record's.
"""

import json
import re
from pathlib import Path
from typing import Any

import pytest

import lowland
from benchmarks.guides.objectives import RECORD
from benchmarks.guides.objectives_claims import Record, folk, rank_correlation
from benchmarks.guides.objectives_pages import measured, table
from benchmarks.guides.objectives_words import FAMILIES, WITHOUT_PLANE, said
from lowland.config import read_recipe, recipe_names
from lowland.registry import registered

DOCS = Path(lowland.__file__).parent.parent / "docs"
PAGES = ["which-objective.md", "gallery.md"]


@pytest.fixture(scope="module")
def record() -> Record:
    found = json.loads(RECORD.read_text(encoding="utf-8"))
    return Record(found["rows"], found["real"])


def objective_of(recipe: str) -> str:
    return read_recipe(recipe).plain()["objective"]["name"]  # type: ignore[no-any-return]


def broken(text: str, at: Path) -> list[str]:
    """Links and pictures of a page that lead to no file."""
    targets = [
        link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link
    ]
    return [target for target in targets if target and not (at / target).exists()]


@pytest.mark.parametrize("page", PAGES)
def test_every_objective_is_named(page: str) -> None:
    text = (DOCS / page).read_text(encoding="utf-8")
    assert [
        name for name in registered("objective") if not re.search(rf"(`|### ){name}\b", text)
    ] == []


@pytest.mark.parametrize("page", PAGES)
def test_links_and_pictures_exist(page: str) -> None:
    assert broken((DOCS / page).read_text(encoding="utf-8"), DOCS) == []


def test_a_broken_link_is_seen(tmp_path: Path) -> None:
    assert broken("![a](gallery/none.png) [b](https://example.org) [c](#here)", tmp_path) == [
        "gallery/none.png"
    ]


def test_families_hold_each_objective_once() -> None:
    held = [name for _, names in FAMILIES.values() for name in names]
    assert sorted(held) == sorted(registered("objective"))
    assert all(cost and use for cost, use in said().values())


def test_every_objective_has_a_picture_and_a_command() -> None:
    """One in the plane and one on images, but for those that say why not; no picture is left
    over.
    """
    text = (DOCS / "gallery.md").read_text(encoding="utf-8")
    shown = {
        name for name in re.findall(r"\(gallery/([\w-]+)\.png\)", text) if name in recipe_names()
    }
    assert shown == {path.stem for path in (DOCS / "gallery").glob("*.png")} - {
        "data-moons",
        "data-digits",
    }
    assert all(f"`lowland train {name}`" in text for name in shown)
    recipes = {name: read_recipe(name).plain() for name in shown}
    for data in ("moons", "digits"):
        missing = set(registered("objective")) - {
            recipe["objective"]["name"]
            for recipe in recipes.values()
            if recipe["data"]["name"] == data
        }
        assert missing == (set(WITHOUT_PLANE) if data == "moons" else set())


def test_pages_say_what_the_record_says(record: Record) -> None:
    text = (DOCS / "which-objective.md").read_text(encoding="utf-8")
    for line in [*measured(record), *folk(record)]:
        assert line in text
    assert len(folk(record)) >= 2 * 6


# ------------------------------------------------------------------------------ how tables are made


def row(recipe: str, fine: float | None, **other: Any) -> dict[str, Any]:
    common = {
        "data": "moons",
        "objective": "PCD",
        "seed": 0,
        "rate": 1.0,
        "budget": 1.0,
        "update_ms": 2.0,
        "updates": 1000,
    }
    common |= {
        "drawing_seconds": 1.0,
        "seconds": 1.0,
        "rollbacks": 0,
        "stopped": "",
        "finite": True,
    }
    return (
        common
        | {"recipe": recipe}
        | ({} if fine is None else {"fine": {"value": fine, "error": 0.0}})
        | other
    )


def test_a_table_orders_by_quality_and_shows_the_spread() -> None:
    rows = [
        row("a", 0.004),
        row("a", 0.006, seed=1),
        row("b", 0.001),
        row("b", 0.002, rate=10.0, rollbacks=3),
    ]
    rows += [row("c", None, finite=False)]
    lines = table(Record(rows, {"moons": {"fine": {"value": 0.0001, "error": 0.0}}}), "moons")
    assert [line.split(" | ")[0].strip("| ") for line in lines[2:]] == [
        "*real moons*",
        "b",
        "a",
        "c",
    ]
    assert "| 5.00 ± 1.41 |" in lines[4] and "2.00 | 3 |" in lines[3] and "0.10" in lines[2]


def test_a_set_without_rows_has_no_table() -> None:
    assert measured(Record([row("a", 0.1)], {})) and not any(
        "digits" in line for line in measured(Record([row("a", 0.1)], {}))
    )
    assert measured(Record([], {})) == [] and folk(Record([], {})) == []


def test_rank_correlation_is_that_of_ranks() -> None:
    assert rank_correlation([1.0, 2.0, 30.0], [0.1, 0.2, 0.3]) == pytest.approx(1.0)
    assert rank_correlation([1.0, 2.0, 30.0], [0.3, 0.2, 0.1]) == pytest.approx(-1.0)
