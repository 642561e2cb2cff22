"""What all samplers share: the state of the chains, what a step reports, and the one place that
accepts or refuses.

A sampler is a frozen dataclass with

    init(energy, x) -> State                                  one gradient, or none
    step(energy, state, generator) -> (State, Info)           `gradients` gradients
    gradients: int     gradient evaluations per step          (counted by a test)
    adjusted: bool     leaves exp(−E) invariant for every step size
    order: int | None  of the bias in the step size, for those that are not adjusted; None where
                       there is no law to miss
    domains: tuple     kinds of domain on which it runs
    target: float      acceptance at which it is tuned, for those that are adjusted and have a step
                       size

The state carries energy and score of the current point, so that nothing is paid twice.

A step size is one number, or (inside the library) a tensor (B,) with one per chain. `scale` is a
diagonal preconditioner: one positive number per coordinate of the event, laid flat, in units of x;
moves are made in x / scale, where the law is rounder.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, Protocol, TypeVar, runtime_checkable

import torch
from torch import Tensor

from lowland.energy import Energy, differentiate

CONTINUOUS = ("real", "box")
DISCRETE = ("binary", "categorical")


class State(NamedTuple):
    """Chains: points x (B, *event), their energies (B,) and scores −∇E (B, *event)."""

    x: Tensor
    energy: Tensor
    score: Tensor


class Info(NamedTuple):
    """What a step did, per chain (B,).

    accept (bool); diverged (bool: the proposal was not finite, so it was refused); rate: the
    probability with which it was to be accepted; gradients: how many this chain used, where chains
    differ.
    """

    accept: Tensor
    diverged: Tensor
    rate: Tensor
    gradients: Tensor | None = None


@runtime_checkable
class Sampler(Protocol):
    """The shape of a sampler; see the module docstring. Nothing needs to inherit from it."""

    adjusted: ClassVar[bool]

    @property
    def gradients(self) -> int: ...

    def init(self, energy: Energy, x: Tensor) -> Any: ...

    def step(self, energy: Energy, state: Any, generator: torch.Generator) -> tuple[Any, Info]: ...


def init(energy: Energy, x: Tensor) -> State:
    """The state of chains at x: one gradient."""
    return State(x, *differentiate(energy, x))


def normal_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Standard normal numbers of the shape, dtype and device of x."""
    return torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def uniform_like(x: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform numbers in [0, 1) of the shape, dtype and device of x."""
    return torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype)


def squared_norm(x: Tensor) -> Tensor:
    """‖x_i‖² per row: (B, *event) → (B,)."""
    return x.square().flatten(1).sum(1)


def per_row(value: Any, x: Tensor) -> Any:
    """A tensor (B,) laid out to multiply x (B, *event); a number as it is."""
    return (
        value.view(-1, *[1] * (x.dim() - 1)) if isinstance(value, Tensor) and value.dim() else value
    )


def stride(step_size: Any, scale: Sequence[float] | None, x: Tensor) -> Any:
    """step_size · scale: a number, or a tensor that broadcasts to x (B, *event)."""
    step = per_row(step_size, x)
    if scale is None:
        return step
    if len(scale) != x[0].numel():
        raise ValueError(
            f"scale has {len(scale)} numbers for events of {x[0].numel()}; it needs one per "
            "coordinate, laid flat; correct it, or let tune find it"
        )
    return step * constant(tuple(scale), x.dtype, x.device).view(x.shape[1:])


@lru_cache(maxsize=64)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Settings as a tensor, made once per device: a copy in every step would make a GPU wait."""
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def shifted(x: Tensor, direction: Tensor, stride: Any) -> Tensor:
    """x + stride · direction, in one pass."""
    return (
        torch.addcmul(x, direction, stride)
        if isinstance(stride, Tensor)
        else torch.add(x, direction, alpha=stride)
    )


def positive(what: str, value: Any, *, zero: bool = False) -> None:
    """Raise ValueError unless value is a finite number above 0 (or 0, if allowed); tensors come
    from the library itself.
    """
    if isinstance(value, Tensor):
        return
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        allowed = "at least 0" if zero else "above 0"
        raise ValueError(
            f"{what} is {value}; it must be finite and {allowed}; choose another {what}"
        )


def positive_scale(scale: Sequence[float] | None) -> None:
    """Raise ValueError unless every number of a preconditioner is finite and above 0."""
    if scale is not None and not (len(scale) and all(math.isfinite(s) and s > 0 for s in scale)):
        raise ValueError(
            f"scale is {scale}; it needs finite numbers above 0, one per coordinate; leave it out "
            "for none"
        )


S = TypeVar(
    "S", bound=tuple
)  # a State, or one with more fields, all of them with one row per chain


def metropolis(
    old: S, new: S, log_ratio: Tensor | None, generator: torch.Generator
) -> tuple[S, Info]:
    """Move each chain to its proposal with probability min(1, exp(log_ratio)); the only
    accept/reject in the library.

    log_ratio (B,) = log π(new) q(old|new) − log π(old) q(new|old); None accepts every finite
    proposal and draws nothing. A proposal with a non-finite number anywhere is refused, whatever
    its ratio, and reported as diverged. Every field of the state is chosen row by row.
    """
    finite = _rows_finite(new)
    if log_ratio is None:
        accept, rate = finite, finite.to(new[0].dtype)
        if finite.device.type == "cpu" and bool(
            finite.all()
        ):  # nothing to choose; a GPU is not asked, it would wait
            return new, Info(accept, ~finite, rate)
    else:
        u = uniform_like(log_ratio, generator)
        rate = torch.where(finite, log_ratio.clamp(max=0.0).exp(), 0.0)
        accept = u < rate
    return select(accept, new, old), Info(accept, ~finite, rate)


def select(choice: Tensor, new: S, old: S) -> S:
    """Row by row (B,), every field of one state or of the other."""
    wide: dict[int, Tensor] = {}
    fields = []
    for a, b in zip(new, old, strict=True):
        if a.dim() not in wide:
            wide[a.dim()] = choice.view(-1, *[1] * (a.dim() - 1))
        fields.append(torch.where(wide[a.dim()], a, b))
    return type(old)(*fields)


def _rows_finite(state: tuple[Tensor, ...]) -> Tensor:
    """Rows whose every number is finite: a sum of finite numbers is, unless it overflows, and then
    the chain has left.
    """
    total = sum(part.flatten(1).sum(1) if part.dim() > 1 else part for part in state)
    return torch.isfinite(total)  # type: ignore[arg-type]
