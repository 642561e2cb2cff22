"""Plain values written as a TOML document."""

import json
from collections.abc import Mapping
from typing import Any


def to_toml(values: Mapping[str, Any], section: str = "") -> str:
    inner = {
        key: value for key, value in values.items() if isinstance(value, Mapping) or _tables(value)
    }
    lines = [f"{k} = {_literal(v)}" for k, v in values.items() if v is not None and k not in inner]
    text = (
        (f"[{section}]\n" if section and lines else "") + "\n".join(lines) + ("\n" if lines else "")
    )
    for key, value in inner.items():
        name = f"{section}.{key}" if section else key
        for part in value if isinstance(value, list) else [value]:
            table = to_toml(part, name).lstrip("\n")
            text += "\n" + (
                table.replace(f"[{name}]", f"[[{name}]]", 1) if isinstance(value, list) else table
            )
    return text


def _tables(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(isinstance(part, Mapping) for part in value)
    )


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return (
        "[" + ", ".join(map(_literal, value)) + "]"
        if isinstance(value, (list, tuple))
        else repr(value)
    )
