"""Energies that fail at some points: a batch that raises is evaluated in halves, down to the points
that it fails at, which get NaN for an energy and a score; an accept step refuses those.

A Cholesky factor that does not exist is no reason to end all chains: the energy is infinite there,
and the distribution is that on the points where it is not. Errors of another kind (a TypeError, a
shape that does not fit) are the program's, and go through.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar

import numpy as np
import torch
from torch import Tensor

from lowland.energy import Energy

Parts = tuple[Tensor, ...]  # tensors with one row per point
NUMERICAL = (ArithmeticError, ValueError, RuntimeError)

_starting: ContextVar[bool] = ContextVar("starting", default=False)
_witnesses: ContextVar[list[str] | None] = ContextVar("witnesses", default=None)


@contextmanager
def raise_at_start() -> Iterator[None]:
    """Let every error of the energy through: where chains start, it is a mistake."""
    token = _starting.set(True)
    try:
        yield
    finally:
        _starting.reset(token)


@contextmanager
def collect_errors() -> Iterator[list[str]]:
    """Give a list into which the first error that counted as not finite is written, in words."""
    found: list[str] = []
    token = _witnesses.set(found)
    try:
        yield found
    finally:
        _witnesses.reset(token)


def is_numerical(error: BaseException) -> bool:
    """Tell whether an error may be one of numbers at some points: of linear algebra, arithmetic, or
    of arguments out of range; and not of the program, its memory or its device.
    """
    plain = type(error) in (RuntimeError, ValueError)
    linear = isinstance(error, (torch.linalg.LinAlgError, np.linalg.LinAlgError))
    return plain or linear or isinstance(error, ArithmeticError)


def evaluate_rows(
    evaluate: Callable[[Energy, Tensor], Parts],
    like: Callable[[Tensor], Parts],
    energy: Energy,
    x: Tensor,
    error: Exception,
) -> Parts:
    """Evaluate an energy in halves of points x (B, *event), after a batch of them raised `error`;
    where single points raise it too, return NaN of the shapes of `like`.

    Raises the error itself if it is not of numbers, at the start of chains, and if a half fails in
    another way.
    """
    if not is_numerical(error) or _starting.get():
        raise error
    witnesses = _witnesses.get()
    if witnesses is not None and not witnesses:
        witnesses.append(f"{type(error).__name__}: {_shorten(error)}")
    parts = list(_walk(evaluate, like, energy, x, error))
    return tuple(torch.cat(column) for column in zip(*parts, strict=True))


def _walk(
    evaluate: Callable[[Energy, Tensor], Parts],
    like: Callable[[Tensor], Parts],
    energy: Energy,
    x: Tensor,
    error: Exception,
) -> Sequence[Parts]:
    """Return the parts of points whose batch raised `error`, in order."""
    if len(x) == 1:
        return [tuple(torch.full_like(part, torch.nan) for part in like(x))]
    found: list[Parts] = []
    for rows in torch.arange(len(x), device=x.device).chunk(2):
        half, here = energy.index_rows(rows), x[rows]
        try:
            found.append(evaluate(half, here))
        except NUMERICAL as again:
            if type(again) is not type(error):
                raise error from again
            found.extend(_walk(evaluate, like, half, here, again))
    return found


def _shorten(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:120]
