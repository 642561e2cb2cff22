"""Planted bugs: a copy of a module with one piece of its source changed.

`mutate` makes a wrong sampler of a right one, of the library or your own; `Mutant.is_caught` says
whether the check that should see the bug does.
"""

import ast
import importlib
import importlib.util
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from importlib.abc import InspectLoader
from types import ModuleType
from typing import Any

from lowland.testing.chains import caught


class _Edited(InspectLoader):
    """A loader of modules whose source is a string."""

    def __init__(self, source: str) -> None:
        self.source = source

    def get_source(self, fullname: str) -> str:
        return self.source


def mutate(
    module: str, where: str, old: str, new: str, *, through: str | None = None
) -> ModuleType:
    """Return a copy of a module in which `old` is `new` inside the class or function `where`.

    through: another module that uses this one; then the copy is that module's, with all names it
    takes from here replaced. Nothing is registered. Raises ValueError unless `old` stands in
    `where` exactly once: then the bug has to be planted anew.
    """
    source = inspect.getsource(importlib.import_module(module))
    part = _segment(source, where)
    if part.count(old) != 1:
        raise ValueError(
            f"{old!r} stands {part.count(old)} times in {where} of {module}; it must stand there "
            "once; plant the bug anew"
        )
    copy = _load(module, source.replace(part, part.replace(old, new)))
    if through is None:
        return copy
    user = _load(through, inspect.getsource(importlib.import_module(through)))
    for name, value in vars(user).items():
        if getattr(value, "__module__", None) == module and hasattr(copy, name):
            setattr(user, name, getattr(copy, name))
    return user


def _segment(source: str, where: str) -> str:
    """Return the source of a class or function, "Class.method" for a method."""
    body: Any = ast.parse(source)
    for name in where.split("."):
        named = (ast.ClassDef, ast.FunctionDef)
        body = next((n for n in body.body if isinstance(n, named) and n.name == name), None)
        if body is None:
            return ""
    return ast.get_source_segment(source, body) or ""


def _load(name: str, source: str) -> ModuleType:
    loader = _Edited(source.replace('@register("sampler")\n', ""))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    copy = importlib.util.module_from_spec(spec)
    loader.exec_module(copy)
    return copy


@dataclass(frozen=True)
class Mutant:
    """A bug, how to plant it, the sampler that suffers from it, and the check that must see it.

    make(module) builds the sampler from the sound or from the mutated module; check(sampler) raises
    or returns a |z|.
    """

    bug: str
    module: str
    where: str
    old: str
    new: str
    make: Callable[[Any], Any]
    check: Callable[[Any], Any]
    seen_by: str
    through: str | None = None

    @property
    def family(self) -> str:
        return type(self.sound).__name__

    @property
    def sound(self) -> Any:
        return self.make(importlib.import_module(self.through or self.module))

    @property
    def wrong(self) -> Any:
        return self.make(mutate(self.module, self.where, self.old, self.new, through=self.through))

    def is_caught(self) -> bool:
        return caught(self.check, self.wrong)

    def is_fair(self) -> bool:
        """Return True if the check lets the sound sampler pass."""
        return not caught(self.check, self.sound)
