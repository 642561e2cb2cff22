"""Check points, measurements and images that operators are given."""

from collections.abc import Callable

import torch
from torch import Tensor

from lowland.energy.points import describe

HALVES = (torch.float16, torch.bfloat16)  # in which not every operation exists


def check_real(x: Tensor, what: str = "points") -> None:
    """Raise ValueError unless x is a real floating point tensor (B, *event).

    Whole numbers wrap round or lose what an average leaves behind, and are no measurements.
    """
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 2:
        raise ValueError(
            f"{what} came as {describe(x)}; a real floating point tensor, batch first, is needed; "
            "convert with x.float(), pixels as a rule with x.float() / 255"
        )


def check_images(x: Tensor, what: str = "points") -> None:
    """Raise ValueError unless x is a real floating point tensor (B, C, H, W)."""
    check_real(x, what)
    if x.dim() != 4:
        raise ValueError(
            f"a point has shape {tuple(x.shape[1:])}; images (channels, height, width) are needed; "
            "reshape them"
        )


def check_sides(x: Tensor, factor: int) -> None:
    """Raise ValueError unless a factor divides both sides of images x (B, C, H, W)."""
    check_images(x)
    if x.shape[-1] % factor or x.shape[-2] % factor:
        raise ValueError(
            f"an image has {tuple(x.shape[-2:])} pixels and shrinks by {factor}; its sides must be "
            "multiples of that; pad it, or choose another factor"
        )


def check_measurement(y: Tensor, shape: tuple[int, ...]) -> None:
    """Raise ValueError unless measurements y (B, *measured) are real and have a shape."""
    check_real(y, "measurements")
    if tuple(y.shape[1:]) != shape:
        raise ValueError(
            f"a measurement has shape {tuple(y.shape[1:])} and the operator gives {shape}; they "
            "must agree; measure with the operator that is passed"
        )


def in_float32(apply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Apply a function to x in float32 where x is in half precision; return x's own precision."""
    return apply(x.float()).to(x.dtype) if x.dtype in HALVES else apply(x)
