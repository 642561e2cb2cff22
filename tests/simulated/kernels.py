"""Register the operations of the simulated device: most are `compute`, a few need their own."""

from collections.abc import Callable, Iterator

import torch
from torch._ops import OpOverload

from simulated.counting import note
from simulated.device import NAME, aten, compute, refuse_double, unwrap, wrap


def empty(
    size: list[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
    memory_format: torch.memory_format | None = None,
) -> torch.Tensor:
    refuse_double(dtype)
    return wrap(
        torch.empty(
            size, dtype=dtype, memory_format=memory_format or torch.contiguous_format, device="cpu"
        )
    )


def zeros(
    size: list[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    refuse_double(dtype)
    return wrap(torch.zeros(size, dtype=dtype, device="cpu"))


def empty_strided(
    size: list[int],
    stride: list[int],
    *,
    dtype: torch.dtype | None = None,
    layout: torch.layout | None = None,
    device: torch.device | None = None,
    pin_memory: bool | None = None,
) -> torch.Tensor:
    refuse_double(dtype)
    return wrap(torch.empty_strided(size, stride, dtype=dtype, device="cpu"))


def copy_from(
    source: torch.Tensor, target: torch.Tensor, non_blocking: bool = False
) -> torch.Tensor:
    here = source.device.type == NAME
    there = target.device.type == NAME
    if here and not there:
        note("copy to the CPU")
    elif there and not here and not non_blocking:
        note("upload")
    lowered = unwrap(source) if here else source
    (unwrap(target) if there else target).copy_(lowered)
    return target


def resize(
    tensor: torch.Tensor, size: list[int], *, memory_format: torch.memory_format | None = None
) -> torch.Tensor:
    if list(tensor.shape) != list(size):
        tensor.data = wrap(torch.empty(size, dtype=tensor.dtype, device="cpu"))
    return tensor


def convolution(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *rest: object
) -> object:
    return compute(aten.convolution.default, x, weight, bias, *rest)


def convolution_backward(
    gradient: torch.Tensor,
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    transposed: bool,
    output_padding: list[int],
    groups: int,
    mask: list[bool],
) -> object:
    sizes = [weight.shape[1] * groups if transposed else weight.shape[0]]
    return compute(
        aten.convolution_backward.default,
        gradient,
        x,
        weight,
        sizes,
        stride,
        padding,
        dilation,
        transposed,
        output_padding,
        groups,
        mask,
    )


def _relay_view(op: OpOverload) -> Callable[..., object]:
    """Let the CPU's kernel, which touches no data, make the view of a tensor of the device."""
    keys = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)

    def relay(*args: object, **kwargs: object) -> object:
        return op.redispatch(keys, *args, **kwargs)

    return relay


def _overloads() -> Iterator[OpOverload]:
    for name in torch._C._dispatch_get_all_op_names():
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(
            name, "CPU"
        ):
            packet, _, overload = name.removeprefix("aten::").partition(".")
            yield getattr(getattr(aten, packet), overload or "default")


OWN: dict[str, Callable[..., object]] = {
    "aten::empty.memory_format": empty,
    "aten::empty_strided": empty_strided,
    "aten::_efficientzerotensor": zeros,
    "aten::_copy_from": copy_from,
    "aten::resize_": resize,
    "aten::convolution_overrideable": convolution,
    "aten::convolution_backward_overrideable": convolution_backward,
}


def register_kernels() -> list[torch.library.Library]:
    """Register the device's kernels; they live as long as the libraries that are returned."""
    fallback = torch.library.Library("_", "IMPL")
    fallback.fallback(compute, "PrivateUse1")
    autocast = torch.library.Library("_", "IMPL")
    autocast.fallback(torch.library.fallthrough_kernel, "AutocastPrivateUse1")
    kernels = torch.library.Library("aten", "IMPL")
    for name, kernel in OWN.items():
        kernels.impl(name, kernel, "PrivateUse1")
    for op in _overloads():
        name = op.name()
        returns = op._schema.returns
        if name in OWN or not returns:
            continue
        alias = returns[0].alias_info
        if alias is not None and not alias.is_write:
            kernels.impl(name, _relay_view(op), "PrivateUse1")
        else:
            kernels.impl(name, _bind(op), "PrivateUse1")
    kernels.impl("aten::as_strided_", _relay_view(aten.as_strided_.default), "PrivateUse1")
    return [fallback, autocast, kernels]


def _bind(op: OpOverload) -> Callable[..., object]:
    """Return the operation's kernel: that of the CPU, though torch could compose it too."""

    def call(*args: object, **kwargs: object) -> object:
        return compute(op, *args, **kwargs)

    return call
