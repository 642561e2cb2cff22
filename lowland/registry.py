"""Registry of everything that can be named in a recipe.

A class registered here can be built from plain values (`build`) and turned back into them (`spec`).
The command line, the recipes, the checkpoints and the contract tests all read this list; there is
no second one.

    @register("sampler")
    class Langevin: ...

    build("sampler", {"name": "Langevin", "step_size": 0.01})
    spec(Langevin(0.01))  ->  {"name": "Langevin", "step_size": 0.01, "temperature": 1.0}
"""

import inspect
from collections.abc import Callable, Iterable, Mapping
from difflib import get_close_matches
from importlib import import_module
from typing import Any, Protocol, TypeVar, runtime_checkable

Plain = dict[str, Any]  # plain values by name, as JSON and TOML have them
KINDS = ("energy", "sampler", "objective", "term")
# modules that register
PROVIDERS = ("lowland.nets", "lowland.targets", "lowland.samplers", "lowland.objectives")

_classes: dict[str, dict[str, type]] = {kind: {} for kind in KINDS}
_trusted: set[str] = set()  # modules that the user asked for
T = TypeVar("T")


def suggest(name: str, allowed: Iterable[str], otherwise: str) -> str:
    """Ask for the name that was probably meant, if one is near; else return other advice."""
    near = get_close_matches(name, list(allowed), n=1)
    return f"did you mean {near[0]!r}?" if near else otherwise


def register(kind: str) -> Callable[[type[T]], type[T]]:
    """Return a decorator that makes a class of a kind known under its own name.

    Every constructor parameter must be kept as an attribute of the same name, so that `spec` can
    read it back. The same class may come again, as when a cell of a notebook runs twice: the newer
    one counts. Raises ValueError for another class of a name that is taken.
    """

    def add(cls: type[T]) -> type[T]:
        known = _classes[kind].get(cls.__name__, cls)
        if (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ValueError(
                f"{kind} {cls.__name__} of {cls.__module__} was to be registered; that name is "
                f"taken by {known.__module__}.{known.__qualname__}; one name stands for one class: "
                "choose another"
            )
        _classes[kind][cls.__name__] = cls
        return cls

    return add


def import_code(module: str) -> None:
    """Import a module whose classes runs may then name as "module:Class"; nothing else is imported
    because a file names it. Raises ValueError if there is no such module.

    >>> import_code("my_package.nets")
    Traceback (most recent call last):
    ValueError: no module 'my_package.nets' can be imported (No module named 'my_package'); ...
    """
    try:
        import_module(module)
    except (ImportError, ValueError, TypeError) as error:
        raise ValueError(
            f"no module {module!r} can be imported ({error}); it must be installed, or lie in the "
            "folder where the command runs; write it with dots and without .py, such as "
            "my_package.nets"
        ) from error
    _trusted.add(module)


def find_class(path: str) -> type | None:
    """Return the class "module:Class" if its module was imported by `import_code`, else None."""
    module, _, name = path.partition(":")
    if module not in _trusted:
        return None
    found: object = import_module(module)
    for part in name.split("."):
        found = vars(found).get(part)
        if found is None:
            return None
    return found if isinstance(found, type) else None


def registered(kind: str) -> dict[str, type]:
    """Return all classes of one kind (energy, sampler, objective, term) by name."""
    for module in PROVIDERS:
        import_module(module)
    return dict(_classes[kind])


def parameters(cls: type) -> dict[str, inspect.Parameter]:
    """Return the constructor parameters of a class, without self."""
    return {name: p for name, p in inspect.signature(cls).parameters.items() if name != "self"}


def build(kind: str, values: Mapping[str, object]) -> Any:
    """Construct a registered class from `{"name": ..., **parameters}`.

    A parameter named like a kind takes such values too: the sampler of ParallelTempering. Raises
    ValueError if the name is not registered or a parameter does not belong to it.
    """
    values = dict(values)
    name = values.pop("name", None)
    known = registered(kind)
    if name not in known:
        hint = suggest(str(name), known, "choose one of them")
        raise ValueError(
            f"{kind} {name!r} is not known; registered are {', '.join(sorted(known))}; {hint}"
        )
    allowed = parameters(known[name])
    unknown = sorted(set(values) - set(allowed))
    if unknown:
        raise ValueError(
            f"{kind} {name} was given {', '.join(unknown)}; it takes {', '.join(allowed)}; remove "
            "or rename the rest"
        )
    return known[name](**{key: from_plain(key, value) for key, value in values.items()})


def spec(obj: object) -> Plain:
    """Return the plain values from which `build` makes an equal object."""
    values = {name: getattr(obj, name) for name in parameters(type(obj))}
    if isinstance(obj, DeepMachine):
        values["domain"] = obj.data_domain
    return {"name": type(obj).__name__, **{name: _plain(value) for name, value in values.items()}}


@runtime_checkable
class DeepMachine(Protocol):
    """An object built from the domain of data, whose own domain holds more units."""

    data_domain: object


def nests(cls: type, kind: str) -> bool:
    """Return whether a class takes an object of a kind, under that name: `sampler` a sampler."""
    return kind in parameters(cls)


def from_plain(name: str, value: object) -> object:
    """Return the value of a parameter: an object for one named like a kind, tuples of lists."""
    if name in KINDS and isinstance(value, Mapping):
        return build(name, value)
    if isinstance(value, (list, tuple)):
        return tuple(from_plain("", v) for v in value)
    return value


def _plain(value: object) -> object:
    if any(type(value) is classes.get(type(value).__name__) for classes in _classes.values()):
        return spec(value)
    if hasattr(value, "to_dict"):
        return value.to_dict()
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value
