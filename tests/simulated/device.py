"""Simulate a second device, `sim`, on torch's PrivateUse1 key.

A tensor of the device has a true key, device and storage; its bytes lie in CPU memory. DLPack
carries a tensor across without a copy: the capsule's device field is rewritten. Every operation
that torch does not compose of others arrives in `compute`, which refuses mixtures of devices,
counts what would make a CPU wait for a GPU, and runs the CPU's kernel on the same bytes.
"""

import ctypes
from functools import cache

import torch
from torch._ops import OpOverload

from simulated.counting import RECORDS, note
from simulated.generators import borrow, is_of_device

NAME = "sim"
PRIVATE = 12  # kDLExtDev
HOST = 1  # kDLCPU
aten = torch.ops.aten


class State:
    """Hold what may be switched while the device is in use."""

    active = False
    float64 = True
    generator: torch.Generator | None = None


def _relabel(tensor: torch.Tensor, kind: int) -> torch.Tensor:
    """Return a tensor on the same bytes whose device is that of DLPack's number `kind`."""
    capsule = torch._C._to_dlpack(tensor)
    address = _POINTER(capsule, b"dltensor")
    device = (ctypes.c_int32 * 2).from_address(address + 8)
    device[0] = kind
    device[1] = 0
    return torch._C._from_dlpack(capsule)


_POINTER = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER.restype = ctypes.c_void_p
_POINTER.argtypes = [ctypes.py_object, ctypes.c_char_p]


def wrap(tensor: torch.Tensor) -> torch.Tensor:
    """Return the tensor of the device that lies on a CPU tensor's bytes."""
    refuse_double(tensor.dtype)
    return _relabel(tensor, PRIVATE)


def unwrap(tensor: torch.Tensor) -> torch.Tensor:
    """Return the CPU tensor on which a tensor of the device lies."""
    return _relabel(tensor, HOST)


def refuse_double(dtype: torch.dtype | None) -> None:
    """Raise MPS's TypeError where the device plays one without float64."""
    if State.float64 or (dtype or torch.get_default_dtype()) not in (
        torch.float64,
        torch.complex128,
    ):
        return
    raise TypeError(
        "Cannot convert a sim Tensor to float64 dtype as the sim framework doesn't support "
        "float64. Please use float32 instead."
    )


# An op that reads its operands through TensorIterator takes 0-dim CPU tensors on CUDA; so do these.
TAKES_SCALARS = {
    "aten::fill_",
    "aten::masked_fill",
    "aten::masked_fill_",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::index_fill",
    "aten::index_fill_",
    "aten::where",
    "aten::_foreach_mul_",
    "aten::_foreach_add_",
    "aten::lerp",
    "aten::lerp_",
}
TAKES_INDICES = {
    "aten::index",
    "aten::index_put",
    "aten::index_put_",
    "aten::_index_put_impl_",
    "aten::_unsafe_index",
    "aten::_unsafe_index_put",
}
WAITS = {
    "aten::_local_scalar_dense": "item",
    "aten::nonzero": "nonzero",
    "aten::masked_select": "masked_select",
    "aten::_unique": "unique",
    "aten::_unique2": "unique",
    "aten::unique_dim": "unique",
    "aten::unique_consecutive": "unique",
    "aten::unique_dim_consecutive": "unique",
    "aten::equal": "equal",
    "aten::bincount": "bincount",
    "aten::_linalg_eigh": "eigh",
    "aten::_linalg_svd": "svd",
    "aten::linalg_eig": "eig",
    "aten::linalg_lstsq": "lstsq",
}


class Schema:
    """Read once what the fallback must know of an operation."""

    def __init__(self, op: OpOverload) -> None:
        schema = op._schema
        self.name = schema.name
        self.writes = [
            (place, argument.name)
            for place, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ]
        names = [argument.name for argument in schema.arguments]
        self.generator = names.index("generator") if "generator" in names else None
        self.names = names
        self.tensors = [str(argument.type) == "Tensor" for argument in schema.arguments]
        self.scalars = torch.Tag.pointwise in op.tags or self.name in TAKES_SCALARS


read_schema = cache(Schema)


def _collect(values: object, found: list[torch.Tensor]) -> None:
    if isinstance(values, torch.Tensor):
        found.append(values)
    elif isinstance(values, list | tuple):
        for value in values:
            _collect(value, found)
    elif isinstance(values, dict):
        for value in values.values():
            _collect(value, found)


def refuse_mixture(schema: Schema, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Raise as CUDA does where a CPU tensor meets one of the device."""
    tensors: list[torch.Tensor] = []
    given = list(args)
    if schema.name in TAKES_INDICES:
        del given[1]
    _collect(given, tensors)
    _collect(kwargs, tensors)
    written = [
        kwargs[name] if name in kwargs else args[place]
        for place, name in schema.writes
        if name in kwargs or place < len(args)
    ]
    for tensor in tensors:
        if tensor.device.type == NAME:
            continue
        harmless = tensor.dim() == 0 and schema.scalars
        if not harmless or any(tensor is out for out in written):
            raise RuntimeError(
                "Expected all tensors to be on the same device, but found at least two devices, "
                f"{NAME}:0 and {tensor.device}! (in method wrapper_SIM_{schema.name})"
            )


def _is_mask(index: object) -> bool:
    return (
        isinstance(index, torch.Tensor)
        and index.device.type == NAME
        and index.dtype in (torch.bool, torch.uint8)
    )


def count_waits(schema: Schema, args: tuple[object, ...], kwargs: dict[str, object]) -> None:
    """Note an operation after which a CPU has to wait for a GPU."""
    name = schema.name
    if name in WAITS:
        note(WAITS[name])
    elif name in TAKES_INDICES:
        indices = args[1]
        assert isinstance(indices, list | tuple)
        masks = [index for index in indices if _is_mask(index)]
        value = args[2] if len(args) > 2 else None
        filled = isinstance(value, torch.Tensor) and value.numel() == 1 and len(masks) == 1
        if masks and not filled:
            note("boolean index")
        for index in indices:
            if isinstance(index, torch.Tensor) and index.device.type != NAME:
                note("upload")
    elif name == "aten::repeat_interleave" and kwargs.get("output_size") is None:
        note("repeat_interleave")
    elif name == "aten::multinomial":
        replacement = args[2] if len(args) > 2 else kwargs.get("replacement", False)
        if not replacement or args[1] == 1:
            note("multinomial")


def _lower(value: object, twins: dict[int, torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor):
        if value.device.type != NAME:
            return value
        if id(value) not in twins:  # an empty result has to be resized: CPU memory of its own
            spare = value.numel() == 0
            twins[id(value)] = torch.empty_like(value, device="cpu") if spare else unwrap(value)
        return twins[id(value)]
    if isinstance(value, list | tuple):
        return type(value)([_lower(part, twins) for part in value])
    if isinstance(value, torch.device) and value.type == NAME:
        return torch.device("cpu")
    return value


def _raise_result(value: object, originals: dict[int, torch.Tensor]) -> object:
    if isinstance(value, torch.Tensor):
        kept = originals.get(id(value))
        return wrap(value) if kept is None else kept
    if isinstance(value, list | tuple):
        return type(value)([_raise_result(part, originals) for part in value])
    return value


def compute(op: OpOverload, *args: object, **kwargs: object) -> object:
    """Run an operation of the device with the CPU's kernel on the same bytes."""
    schema = read_schema(op)
    refuse_mixture(schema, args, kwargs)
    if RECORDS:
        count_waits(schema, args, kwargs)
    twins: dict[int, torch.Tensor] = {}
    given = [_lower(value, twins) for value in args]
    named = {name: _lower(value, twins) for name, value in kwargs.items()}
    if any(
        wants and isinstance(value, int | float | complex)
        for wants, value in zip(schema.tensors, given, strict=False)
    ):  # a Python number, which the overload for tensors takes from C++ only
        result = op.overloadpacket(*given, **named)
    elif schema.generator is None:
        result = op(*given, **named)
    else:
        result = _draw(op, schema, given, named)
    sources: list[torch.Tensor] = []
    _collect(args, sources)
    _collect(kwargs, sources)
    _keep_writes(schema, args, kwargs, twins)
    originals = {id(twins[id(value)]): value for value in sources if id(value) in twins}
    return _raise_result(result, originals)


def _draw(op: OpOverload, schema: Schema, given: list[object], named: dict[str, object]) -> object:
    assert schema.generator is not None
    generator = named.pop("generator", None)
    if schema.generator < len(given):
        generator = given[schema.generator]
        given[schema.generator] = None
        given = given[: schema.generator]
    generator = generator or State.generator
    assert isinstance(generator, torch.Generator)
    if not is_of_device(generator):
        raise RuntimeError(
            f"Expected a '{NAME}' device type for generator but found '{generator.device.type}'"
        )
    with borrow(generator) as lent:
        return op(*given, **named, generator=lent)


def _keep_writes(
    schema: Schema,
    args: tuple[object, ...],
    kwargs: dict[str, object],
    twins: dict[int, torch.Tensor],
) -> None:
    for place, name in schema.writes:
        out = kwargs.get(name) if place >= len(args) else args[place]
        if isinstance(out, torch.Tensor) and id(out) in twins:
            twin = twins[id(out)]
            if twin.shape != out.shape or twin.data_ptr() != out.data_ptr():
                out.data = wrap(twin)
