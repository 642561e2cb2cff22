"""Views of a module: modules of the same classes on the same storage, with modes and gradient flags
of their own. Chains run on a view, so that sampling changes nothing that another thread, a training
loop or the caller sees.

A view holds no copy of a weight: it follows updates in place. It is made in microseconds per layer
and lives for one call. Hooks, bound methods, closures and lists that a module keeps of its own
parts point into the view; functions that capture a module which is no part of it keep the module.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from types import CellType, FunctionType, MethodType, ModuleType
from typing import TypeVar, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from lowland.domain import Domain

M = TypeVar("M", bound=nn.Module)

SHOWN = "_shown"  # where a view of `freeze` keeps the module that it shows
# what torch keeps of every module and `_fill` sets anew
OWN_STATE = {"training", "_parameters", "_buffers", "_modules"}
PLAIN = {bool, int, float, str, bytes, type(None), set, torch.device, torch.dtype, type, Domain}
MAX_ITEMS = 256  # of a list or dict that is searched for parts of the module
MAX_DEPTH = 3  # of lists, objects and closures inside each other


@contextmanager
def freeze(module: M) -> Iterator[M]:
    """Give a view of a module in eval mode whose weights are constants; the module stays as it is.

    Gradients with respect to points flow through it; weights get none. Whole numbers that a forward
    counts in its module, such as `self.calls += 1`, are added to the module at the end.

    >>> import torch
    >>> net = torch.nn.Sequential(torch.nn.Linear(2, 1), torch.nn.Dropout())
    >>> with freeze(net) as view:
    ...     print(view.training, net.training, view[0].weight.requires_grad)
    False True False
    """
    if SHOWN in module.__dict__:
        yield module
        return
    made = _Copies(constant=True, training=False, own_buffers=False, frozen=True)
    view = made.view_of(module)
    before = made.read_counters()
    try:
        yield view
    finally:
        made.add_counts(before)


@contextmanager
def freeze_all(modules: Sequence[M]) -> Iterator[list[M]]:
    """Give views of several modules as `freeze` does of one; parts that they share stay shared."""
    with freeze(nn.ModuleList(modules)) as views:
        yield cast(list[M], list(views))


def view_module(
    module: M, *, constant: bool, training: bool | None = None, own_buffers: bool = False
) -> M:
    """Return a view of a module.

    constant: whether weights need no gradient; else they are the module's own parameters. training:
    the mode of all parts, None for the present ones. own_buffers: copies of the buffers, so that a
    forward in training mode moves none of the module's.
    """
    return _Copies(constant, training, own_buffers).view_of(module)


def source_of(module: M) -> M:
    """Return the module that a view of `freeze` shows, any other module itself."""
    return cast(M, module.__dict__.get(SHOWN, module))


class _Copies:
    """The parts of a view under construction, by the identity of what they show."""

    def __init__(
        self, constant: bool, training: bool | None, own_buffers: bool, frozen: bool = False
    ) -> None:
        self.constant, self.training, self.own_buffers = constant, training, own_buffers
        self.frozen = frozen
        self.known: dict[int, object] = {}
        self.pairs: list[tuple[nn.Module, nn.Module]] = []

    def view_of(self, module: M) -> M:
        view = self._allocate(module)
        with torch.inference_mode(False):
            for source, made in self.pairs:
                self._fill(source, made)
        return cast(M, view)

    def read_counters(self) -> list[tuple[nn.Module, nn.Module, str, int]]:
        """List the whole numbers that the parts of the view hold: module, view, name, value."""
        return [
            (source, made, name, value)
            for source, made in self.pairs
            for name, value in made.__dict__.items()
            if type(value) is int
        ]

    def add_counts(self, before: list[tuple[nn.Module, nn.Module, str, int]]) -> None:
        """Add to the modules what their views counted since `before`."""
        for source, made, name, value in before:
            now, own = made.__dict__.get(name), source.__dict__.get(name)
            if now is not value and type(now) is int and type(own) is int:
                source.__dict__[name] = own + now - value

    def _allocate(self, module: nn.Module) -> nn.Module:
        """Return the part of the view for a module, still without attributes."""
        found = self.known.get(id(module))
        if isinstance(found, nn.Module):
            return found
        if self.frozen and SHOWN in module.__dict__:
            self.known[id(module)] = module
            return module
        if isinstance(module, torch.jit.ScriptModule):  # its attributes live in C++
            return self._copy_script(module)
        view: nn.Module = object.__new__(type(module))
        self.known[id(module)] = view
        self.pairs.append((module, view))
        for child in module._modules.values():
            if child is not None:
                self._allocate(child)
        return view

    def _copy_script(self, module: nn.Module) -> nn.Module:
        view = module
        if self.constant:
            view = copy.deepcopy(module)
            view.train(module.training if self.training is None else self.training)
        self.known[id(module)] = view
        return view

    def _fill(self, module: nn.Module, view: nn.Module) -> None:
        """Give a part of the view the attributes of its module, in terms of the view."""
        state = dict(module.__dict__)
        for name, value in module.__dict__.items():
            kind = type(value)
            if kind in PLAIN or name in OWN_STATE:
                continue
            if kind is OrderedDict and not value:  # hooks: those of the view are its own
                state[name] = OrderedDict()
            elif kind is not tuple or value:
                own = OrderedDict(value) if kind is OrderedDict else value
                state[name] = self._rebind(own, MAX_DEPTH)
        state["_parameters"] = {
            name: self._show_weight(p) for name, p in module._parameters.items()
        }
        state["_buffers"] = {name: self._show_buffer(b) for name, b in module._buffers.items()}
        state["_modules"] = {
            name: None if child is None else self.known[id(child)]
            for name, child in module._modules.items()
        }
        if self.training is not None:
            state["training"] = self.training
        if self.frozen:
            state[SHOWN] = module
        view.__dict__.update(state)

    def _show_weight(self, weight: nn.Parameter | None) -> nn.Parameter | None:
        if weight is None or not self.constant or is_lazy(weight):
            return weight
        if id(weight) not in self.known:
            # .data, not .detach(): updates in place by another thread must not stop a backward pass
            data = weight.data.clone() if weight.is_inference() else weight.data
            self.known[id(weight)] = nn.Parameter(data, requires_grad=False)
        return cast(nn.Parameter, self.known[id(weight)])

    def _show_buffer(self, buffer: Tensor | None) -> Tensor | None:
        if buffer is None or is_lazy(buffer):
            return buffer
        if id(buffer) not in self.known:
            copied = self.own_buffers or buffer.is_inference()
            self.known[id(buffer)] = buffer.data.clone() if copied else buffer.data
        return cast(Tensor, self.known[id(buffer)])

    def _rebind(self, value: object, depth: int) -> object:
        """Return a value in terms of the view, itself where it holds no part of the module."""
        if isinstance(value, (nn.Module, Tensor)):
            return self.known.get(id(value), value)
        if not depth or type(value) in PLAIN:
            return value
        if isinstance(value, MethodType):
            owner = self._rebind(value.__self__, depth)
            return value if owner is value.__self__ else MethodType(value.__func__, owner)
        if isinstance(value, FunctionType):
            return self._rebind_closure(value, depth)
        if isinstance(value, partial):
            parts = (value.func, value.args, value.keywords)
            func, args, keywords = (self._rebind(part, depth - 1) for part in parts)
            same = all(a is b for a, b in zip((func, args, keywords), parts, strict=True))
            return value if same else partial(func, *args, **keywords)  # type: ignore[misc,arg-type,operator]
        if type(value) in (list, tuple, dict, OrderedDict):
            return self._rebind_items(cast("list[object]", value), depth)
        return self._rebind_attributes(value, depth)

    def _rebind_items(self, value: "list[object]", depth: int) -> object:
        if not 0 < len(value) <= MAX_ITEMS:
            return value
        old = list(value.values()) if isinstance(value, dict) else value
        new = [self._rebind(item, depth - 1) for item in old]
        if all(a is b for a, b in zip(old, new, strict=True)):
            return value
        return type(value)(zip(value, new, strict=True) if isinstance(value, dict) else new)

    def _rebind_closure(self, function: FunctionType, depth: int) -> FunctionType:
        cells = function.__closure__
        if not cells:
            return function
        try:
            old = [cell.cell_contents for cell in cells]
        except ValueError:  # a name that is not bound yet
            return function
        new = [self._rebind(item, depth - 1) for item in old]
        if all(a is b for a, b in zip(old, new, strict=True)):
            return function
        made = FunctionType(
            function.__code__,
            function.__globals__,
            function.__name__,
            function.__defaults__,
            tuple(map(CellType, new)),
        )
        made.__kwdefaults__ = function.__kwdefaults__
        made.__dict__.update(function.__dict__)
        return made

    def _rebind_attributes(self, value: object, depth: int) -> object:
        try:
            state = vars(value)
        except TypeError:
            return value
        if isinstance(value, (type, ModuleType)) or not 0 < len(state) <= MAX_ITEMS:
            return value
        new = {name: self._rebind(item, depth - 1) for name, item in state.items()}
        changed = {name: item for name, item in new.items() if item is not state[name]}
        if not changed:
            return value
        made = copy.copy(value)
        vars(made).update(changed)
        return made
