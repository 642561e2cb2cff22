"""Describe an energy whose class is the user's by plain values, and tell one that is built alike.

    {"name": "my_package.nets:MyCNN", "arguments": {"width": 32}, "num_parameters": 1234,
     "layout": "sha256 of names, shapes and types of its weights and of the classes of its parts"}

The name is that of the network where a `Function` only lifts it. Arguments are those of the
constructor, known where every parameter is kept as an attribute of its name and is plain; else they
are left out.
"""

import hashlib
import inspect
import json
from typing import Any

from torch import nn

from lowland.energy import Energy, Function
from lowland.registry import Plain

MISSING = object()


def describe_own(energy: Energy) -> Plain:
    """Return the plain values of an energy of the user's.

    >>> describe_own(Function(nn.Linear(2, 1)))["name"]
    'torch.nn.modules.linear:Linear'
    """
    core = unwrap(energy)
    about: Plain = {"name": name_of(core)}
    if isinstance(core, nn.Module):
        arguments = read_arguments(core)
        if arguments is not None:
            about["arguments"] = arguments
    return about | {
        "num_parameters": sum(p.numel() for p in energy.parameters()),
        "layout": digest_layout(energy),
    }


def unwrap(energy: Energy) -> object:
    """Return what a `Function` lifts, another energy itself."""
    return energy.function if type(energy) is Function else energy


def name_of(core: object) -> str:
    """Return the import path "module:Class" of a network, or "module:name" of a function."""
    kind = core if inspect.isroutine(core) else type(core)
    return f"{kind.__module__}:{kind.__qualname__}"


def read_arguments(module: nn.Module) -> Plain | None:
    """Return the constructor arguments of a module, but for a domain; None if they are not kept.

    >>> read_arguments(nn.SiLU())
    {'inplace': False}
    """
    try:
        parameters = inspect.signature(type(module)).parameters
    except (TypeError, ValueError):
        return None
    found: dict[str, Any] = {}
    for name, parameter in parameters.items():
        if name == "domain":
            continue
        value = vars(module).get(name, MISSING)
        named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        if value is MISSING or not named:
            return None
        found[name] = value
    try:
        plain = json.loads(json.dumps(found, allow_nan=False))
    except (TypeError, ValueError):
        return None
    return dict(plain)


def digest_layout(energy: nn.Module) -> str:
    """Digest the names, shapes and types of the weights, and the classes of all parts in order: two
    networks of one layout take each other's weights, and differ at most in what `forward` does.
    """
    weights = [
        f"{name} {tuple(x.shape)} {x.dtype}" for name, x in sorted(energy.state_dict().items())
    ]
    parts = [type(module).__name__ for module in energy.modules()]
    return hashlib.sha256("\n".join([*weights, *parts]).encode()).hexdigest()[:16]


def takes_domain(kind: type) -> bool:
    """Tell whether the constructor of a class has a parameter called domain."""
    try:
        return "domain" in inspect.signature(kind).parameters
    except (TypeError, ValueError):
        return False
