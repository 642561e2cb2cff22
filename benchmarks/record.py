"""Records of what was measured: JSON, one record a line, so that a change of one shows as one."""

import json
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"  # a folder for each room: results/ROOM/NAME.{md,json}
RECORD_WIDTH = 1000  # characters; longer records are broken into their parts


def format_record(value: Any, indent: int = 0) -> str:
    """Return a value as JSON; what is flat or short is a record and gets a line of its own."""
    line = json.dumps(value, ensure_ascii=False)
    if len(line) <= RECORD_WIDTH or not _is_nested(value):
        return line
    if isinstance(value, dict):
        rows = [
            f"{json.dumps(key, ensure_ascii=False)}: {format_record(each, indent + 1)}"
            for key, each in value.items()
        ]
        start, end = "{", "}"
    else:
        rows, start, end = [format_record(each, indent + 1) for each in value], "[", "]"
    margin = " " * indent
    return f"{start}\n" + ",\n".join(f"{margin} {row}" for row in rows) + f"\n{margin}{end}"


def write_record(path: Path, value: Any) -> None:
    """Write a value as JSON, one record a line; folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(format_record(value) + "\n", encoding="utf-8")


def read_record(path: Path, default: Any = None) -> Any:
    """Return what a file of JSON holds; the default, if there is one, where there is no file."""
    if default is not None and not path.exists():
        return default
    return json.loads(path.read_text(encoding="utf-8"))


def _is_nested(value: Any) -> bool:
    rows = value.values() if isinstance(value, dict) else value
    return isinstance(value, dict | list) and any(isinstance(row, dict | list) for row in rows)
