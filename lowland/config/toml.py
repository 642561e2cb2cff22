"""Plain values written as a TOML document."""

import json
from collections.abc import Mapping

Value = object  # a number, text, bool, None, a list, or a mapping of values


def to_toml(values: Mapping[str, Value], section: str = "", array: bool = False) -> str:
    """Write values as TOML: numbers and texts first, then a table for each mapping inside; None is
    left out.

    section: the name of the table; array: whether it is one of several of that name.
    """
    tables = {key: value for key, value in values.items() if _as_tables(value)}
    lines = [f"{k} = {_literal(v)}" for k, v in values.items() if v is not None and k not in tables]
    if section and lines:
        lines = ["", f"[[{section}]]" if array else f"[{section}]", *lines]
    for key, value in tables.items():
        name = f"{section}.{key}".removeprefix(".")
        for table in _as_tables(value):
            lines.append(to_toml(table, name, isinstance(value, list)).rstrip("\n"))
    return "\n".join(lines) + "\n"


def _as_tables(value: Value) -> list[Mapping[str, Value]]:
    """Return the mappings of which a value consists; none for other values."""
    parts = value if isinstance(value, list) else [value]
    tables = [part for part in parts if isinstance(part, Mapping)]
    if len(tables) != len(parts):
        return []
    return tables


def _literal(value: Value) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_literal, value))}]"
    return repr(value)
