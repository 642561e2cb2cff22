"""The page of `benchmarks.proof.machines`: one row a cell, and what was not tried."""

from typing import Any

from benchmarks.proof.machines_cells import CELLS, SUBSET

Record = dict[str, Any]
SHOWN = ("torch", "numpy", "scipy", "scikit-learn", "pydantic", "tyro", "matplotlib")
INTRODUCTION = """# Other Pythons, other versions, unusual surroundings

`python -m benchmarks.proof.machines` makes a fresh virtual environment for each row of the first
table (pip takes what the index has; nothing is stubbed), installs the wheel of this checkout, and
tries the cells of the second table in it. Deprecations that lowland's own lines cause are errors.

- **import**: every module, in an empty folder; all sources compiled without a warning of syntax.
- **use**: `train` of tiny runs of moons and digits, `resume` from an early checkpoint to the same
  bits, `sample`, `energy`, `report`, `doctor`, `recipes`, and `--help` of every command.
- **tests**: {subset}.
- **every quick test**: `pytest -m "not slow"` on two cores.

A cell that lists no tests ran none; extras taken away one by one are tried by import only. Seconds
tell how long a cell took beside whatever else the machine did, and are no measurement.
"""


def succeeded(record: Record) -> bool:
    """Whether a cell was tried and all of its steps passed."""
    return bool(record["steps"]) and all(step["passed"] for step in record["steps"])


def write_page(results: Record) -> str:
    """Return the page of results in Markdown."""
    cells: dict[str, Record] = results["cells"]
    files = dict.fromkeys(each.partition("::")[0] for each in SUBSET)
    cases = [each.partition("[")[2].rstrip("]") for each in SUBSET if "[" in each]
    subset = f"{', '.join(f'`{each}`' for each in files)}, of the last {', '.join(cases)}"
    parts = [INTRODUCTION.format(subset=subset), "## What was installed\n", *_installed(cells)]
    parts += ["", "## What was tried\n", *_tried(cells), "", "## What was asked of pip\n"]
    for name, record in _first_of_each(cells).items():
        parts.append(f"- {name}: `{record['asked']}`")
    notes = [f"- {name}: {cells[name]['note']}" for name in cells if "note" in cells[name]]
    if notes:
        parts += ["", "## Notes\n", *notes]
    refused = [f"- {name}: {cells[name]['refused']}" for name in cells if "refused" in cells[name]]
    absent = [f"- {name}: {CELLS[name].about}" for name in CELLS if name not in cells]
    parts += ["", "## What was not tried\n", *(refused + absent or ["Nothing of the matrix."])]
    return "\n".join(parts) + "\n"


def _first_of_each(cells: dict[str, Record]) -> dict[str, Record]:
    """Return one record of every environment that was made."""
    found: dict[str, Record] = {}
    for name, record in cells.items():
        if "versions" in record:
            found.setdefault(CELLS[name].environment, record)
    return found


def _installed(cells: dict[str, Record]) -> list[str]:
    rows = [
        f"| environment | Python | {' | '.join(SHOWN)} | C library |",
        f"|---|---|{'---|' * len(SHOWN)}---|",
    ]
    for name, record in _first_of_each(cells).items():
        versions = record["versions"]
        shown = " | ".join(versions.get(package, "") for package in SHOWN)
        library = record["platform"].rpartition("-with-")[2]
        rows.append(f"| {name} | {versions['python']} | {shown} | {library} |")
    return rows


def _tried(cells: dict[str, Record]) -> list[str]:
    rows = ["| cell | environment | what is unusual | outcome | seconds |", "|---|---|---|---|---|"]
    for name, record in cells.items():
        if "refused" in record:
            continue
        cell = CELLS[name]
        outcome = "<br>".join(_say(step) for step in record["steps"])
        seconds = sum(step["seconds"] for step in record["steps"])
        settings = ", ".join(f"`{key}={value}`" for key, value in cell.variables.items())
        about = f"{cell.about}{': ' if settings else ''}{settings}"
        rows.append(f"| {name} | {cell.environment} | {about} | {outcome} | {seconds:.0f} |")
    return rows


def _say(step: Record) -> str:
    said = step["said"].replace("|", "\\|")
    return f"{step['what']}: {said}" if step["passed"] else f"**{step['what']} failed**: {said}"
