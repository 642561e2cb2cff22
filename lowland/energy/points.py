"""Points that a caller passes: the one door at which they are checked, and the words for those that
an energy cannot take.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from lowland.devices import same_device
from lowland.energy.algebra import Energy


def describe(value: object) -> str:
    """Describe a value for an error message: dtype and shape of a tensor, or the type's name."""
    if isinstance(value, Tensor):
        return f"{value.dtype} of shape {tuple(value.shape)}"
    return type(value).__name__


def check_points(
    energy: Energy, x: Tensor, *, inside: bool = True, empty: bool = False, sent: bool = False
) -> Tensor:
    """Return points (B, *event) without their graph; refuse those that the energy's domain cannot
    hold, for their dtype, event shape, non-finite values, or values outside the walls.

    The one door for points: every public function that takes them calls it. inside: False lets
    finite points outside the walls through, as scores of outliers may want; empty: True lets a
    batch without rows through; sent: True where the caller sends points to the energy's device, so
    that they may lie on any. Memory layout does not matter. Raises ValueError otherwise.

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: x.square().sum(1), lowland.real(2))
    >>> check_points(bowl, torch.zeros(3, 5))
    Traceback (most recent call last):
        ...
    ValueError: points have event shape (5,); the energy takes (2,); reshape them, batch first
    """
    domain = energy.domain
    if isinstance(x, Tensor) and (x.layout != torch.strided or x.is_nested):
        how = "torch.stack(x.unbind())" if x.is_nested else "x.to_dense()"
        raise ValueError(
            f"points came as a {'nested' if x.is_nested else 'sparse'} tensor ({x.layout}); "
            f"energies take dense (strided) ones; convert it with {how}"
        )
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 1:
        raise ValueError(
            f"points came as {describe(x)}; a floating point tensor (B, *event) with B > 0 is "
            f"needed; {_advise_conversion(x)}"
        )
    if not empty and len(x) == 0:
        raise ValueError(
            f"points came as {describe(x)}; a floating point tensor (B, *event) with B > 0 is "
            "needed; convert it so that it has a row at least"
        )
    if 0 in x.shape[1:]:
        raise ValueError(
            f"points have event shape {tuple(x.shape[1:])}, which holds no numbers; an event needs "
            "one at least; check how they were cut"
        )
    if domain.shape and tuple(x.shape[1:]) != domain.shape:
        raise ValueError(
            f"points have event shape {tuple(x.shape[1:])}; the energy takes {domain.shape}; "
            f"{_advise_shape(tuple(x.shape[1:]), domain.shape)}"
        )
    if not sent:
        check_device(energy, x)
    x = x.detach()
    check_finite(x, "points")
    outside = int((~domain.contains(x)).sum()) if inside else 0
    if outside:
        raise ValueError(
            f"{outside} of {len(x)} points lie outside the domain; allowed is {domain}; clamp or "
            "rescale them first"
        )
    return x


def check_device(energy: Energy, x: Tensor) -> None:
    """Raise ValueError if all weights of an energy lie on other devices than the points x."""
    places = dict.fromkeys(weight.device for weight in energy.parameters())
    if places and not any(same_device(place, x.device) for place in places):
        raise ValueError(
            f"points are on {x.device} and the energy on {', '.join(map(str, places))}; both must "
            f"be on one device; move the points with x.to({str(next(iter(places)))!r}), or the "
            f"energy with energy.to({str(x.device)!r})"
        )


def _advise_conversion(x: object) -> str:
    """Say how to make points of a value that is none."""
    if not isinstance(x, Tensor):
        return "convert it with torch.as_tensor(x, dtype=torch.float32)"
    if x.is_floating_point():
        return "convert it, x.unsqueeze(0) is a batch of one point"
    if x.is_complex():
        return "convert it with torch.view_as_real(x), whose coordinates are real"
    if x.dtype == torch.uint8 and x.dim() > 2:
        return "convert it as the data of training were, for pixels as a rule x.float() / 255"
    return "convert it with x.float(), scaled as the data of training were"


def _advise_shape(came: tuple[int, ...], wanted: tuple[int, ...]) -> str:
    """Say how to reshape events: channels last are turned round, others are the caller's affair."""
    if len(wanted) > 1 and came != wanted and (came[-1], *came[:-1]) == wanted:
        order = ", ".join(map(str, (0, len(wanted), *range(1, len(wanted)))))
        return f"channels come first here, use x.permute({order})"
    if came == () and wanted == (1,):
        return "use x.unsqueeze(1)"
    return "reshape them, batch first"


# how torch begins to speak of operands that do not go together
DTYPE_WORDS = ("same dtype", "scalar type", "should be the same", "promot", "input type")
SHAPE_WORDS = (
    "cannot be multiplied",
    "size mismatch",
    "must match the size",
    "must match the existing size",
    "channels, but got",
    "expected input",
    "normalized_shape",
    "is invalid for input",
    "dimension out of range",
    "out of bounds for dimension",
    "should contain",
    "not a matrix",
    "expected 2d",
    "expected 3d",
    "expected 4d",
    "must be 2d",
)


@contextmanager
def explain_mismatch(energy: Energy, x: Tensor) -> Iterator[None]:
    """Raise ValueError in place of torch's error where an energy cannot take points of this dtype
    or shape; other errors of an energy are its own.
    """
    try:
        yield
    except (RuntimeError, IndexError) as error:
        words = str(error).lower()
        dtypes = {p.dtype for p in energy.parameters() if p.is_floating_point()}
        if isinstance(error, RuntimeError) and dtypes and x.dtype not in dtypes:
            raise ValueError(
                f"points are {x.dtype} and the weights of the energy "
                f"{', '.join(sorted(map(str, dtypes)))}; both must be the same; convert the points "
                f"with .to({next(iter(dtypes))}), or the energy"
            ) from error
        reason = str(error).strip().partition("\n")[0][:120]
        if any(part in words for part in SHAPE_WORDS):
            raise ValueError(
                f"points have event shape {tuple(x.shape[1:])} and the energy cannot take them "
                f"({reason}); its layers must fit the points; reshape the points, batch first and "
                "channels before rows and columns"
            ) from error
        if any(part in words for part in DTYPE_WORDS):
            raise ValueError(
                f"points are {x.dtype} and the energy computes in another dtype ({reason}); both "
                "must be the same; convert the points, or the tensors inside the energy"
            ) from error
        raise


def check_finite(values: Tensor, what: str) -> None:
    """Raise ValueError with a count if any row holds a non-finite number."""
    bad = int((~values.isfinite()).unsqueeze(-1).flatten(1).any(1).sum())
    if bad:
        raise ValueError(
            f"{bad} of {len(values)} {what} are not finite; all must be; look for overflow or "
            "missing data"
        )
