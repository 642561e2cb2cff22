"""Products with the weights of a Boltzmann machine, and their gradients from fields already known.

A sweep, an energy and a training step need the same product f(x) W. Whoever has computed it passes
it on; the functions here give it the graph it would have had.
"""

from typing import Any

import torch
from torch import Tensor

from lowland.nets.boltzmann.units import HiddenUnits

Gradients = tuple[Tensor | None, ...]


def rounding(like: Tensor) -> torch.dtype | None:
    """Return the dtype that autocast rounds factors of products to; None without autocast."""
    kind = like.device.type
    if not torch.is_autocast_enabled(kind):
        return None
    return torch.get_autocast_dtype(kind)


def product(a: Tensor, b: Tensor, dtype: torch.dtype | None) -> Tensor:
    """Return a @ b with factors rounded to dtype, added up and returned in the dtype of a.

    On a CPU the library of products rounds factors as it loads them: no copies are made.
    """
    if dtype is None:
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        settings = getattr(torch.backends.mkldnn, "matmul", None)  # newer than torch 2.6
        own = a.device.type == "cpu" and (dtype, a.dtype) == (torch.bfloat16, torch.float32)
        if settings is None or not own:
            return torch.mm(a.to(dtype), b.to(dtype)).to(a.dtype)
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            return a @ b
        finally:
            settings.fp32_precision = before


class FieldsFunction(torch.autograd.Function):
    """f W + c with fields that are known already.

    Backward is that of the product, in bfloat16 where forward was.
    """

    @staticmethod
    def forward(ctx: Any, f: Tensor, weight: Tensor, bias: Tensor, known: Tensor) -> Tensor:
        ctx.save_for_backward(f, weight)
        ctx.dtype = rounding(f)
        return known.view_as(known)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        f, weight = ctx.saved_tensors
        to_f = product(g, weight.t(), ctx.dtype) if ctx.needs_input_grad[0] else None
        return to_f, product(f.t(), g, ctx.dtype), g.sum(0), None


class LogPartitionFunction(torch.autograd.Function):
    """Σ_j A((f W + c)_j), (B,), with fields that are known already.

    Backward needs the means of the units alone.
    """

    @staticmethod
    def forward(
        ctx: Any, f: Tensor, weight: Tensor, bias: Tensor, units: HiddenUnits, known: Tensor
    ) -> Tensor:
        ctx.save_for_backward(f, weight, known)
        ctx.units, ctx.dtype = units, rounding(f)
        return units.log_partition(known).sum(1)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Gradients:
        f, weight, known = ctx.saved_tensors
        pulled = ctx.units.mean(known).mul_(g.unsqueeze(1))
        to_f = product(pulled, weight.t(), ctx.dtype) if ctx.needs_input_grad[0] else None
        return to_f, product(f.t(), pulled, ctx.dtype), pulled.sum(0), None, None
