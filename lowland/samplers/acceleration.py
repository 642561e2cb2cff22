"""Cheaper gradients of the same energy: in blocks of chains, in bfloat16, compiled. What `sample`
does with its options.

chunk       gradients are taken of so many chains at a time, so that activations stay in cache (and
            memory is bounded); noise, bits of the generator and results are those of one batch, up
            to the rounding of matrix products
precision   "bfloat16": gradients come from a network run in bfloat16 (autocast), points and noise
            stay float32. A sampler with an accept step still gets float32 energies, so it stays
            exact: its gradient only proposes, and any fixed function of the point may do that.
            Other samplers get a slightly different drift, and say so here. "auto": the faster of
            the two on the device, and float32 energies for every sampler (`samplers.precision`)
compile     gradients by torch.compile, which takes seconds to a minute the first time; if that
            fails, a warning says why and sampling goes on without
"""

import warnings
import weakref
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from lowland.energy import (
    Energy,
    Gibbs,
    Given,
    Latent,
    Learner,
    Paths,
    Wrapper,
    differentiate,
    score_alone,
    source_of,
)
from lowland.energy.capabilities import Condition, ConditionLike
from lowland.energy.gradient import call
from lowland.samplers.precision import check_precision, resolve_precision
from lowland.scalars import read_integer


def accelerate(
    energy: Energy,
    x: Tensor | None = None,
    *,
    precision: str = "float32",
    compile: bool = False,
    chunk: int | None = None,
    exact: bool = True,
) -> Energy:
    """Return the energy with the gradients that the options ask for; itself if they ask for none.

    x (n, *event): points of the batch, which "auto" needs for its timing; exact: energies are
    wanted in the precision of the points, for an accept step. Raises ValueError for a precision
    that is not known, "auto" without points, or a chunk below 1.
    """
    check_precision(precision)
    if precision == "auto":
        if x is None:
            raise ValueError(
                "precision is 'auto' and no points came; what is timed is the gradient at them; "
                "pass x, or 'float32' or 'bfloat16'"
            )
        precision = resolve_precision(precision, energy, x, exact=exact).precision
    if chunk is not None:
        chunk = read_integer("chunk", chunk, least=1)
    if precision == "float32" and not compile and chunk is None:
        return energy
    return Accelerated(energy, precision == "bfloat16", compile, chunk, exact)


class Accelerated(Wrapper):
    """An energy whose gradients come in blocks, in bfloat16 or compiled.

    Everything else is the energy's own; its block Gibbs is compiled too.
    """

    def __init__(
        self, energy: Energy, bf16: bool, compiled: bool, chunk: int | None, exact: bool
    ) -> None:
        super().__init__(energy)
        self.bf16, self.compiled, self.chunk, self.exact = bf16, compiled, chunk, exact

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return call(self.energy, x, c)

    @property
    def gibbs(self) -> Gibbs | None:
        inner = self.energy.gibbs
        if inner is None or inner.sweep is None or not self.compiled:
            return inner
        return replace(inner, sweep=partial(inner.sweep, compiled=True))

    @property
    def paths(self) -> Paths | None:
        return self.energy.paths

    @property
    def latent(self) -> Latent | None:
        return self.energy.latent

    @property
    def condition(self) -> Condition | None:
        return self.energy.condition

    @property
    def learner(self) -> Learner | None:
        return self.energy.learner

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores of x (B, *event)."""
        value, score = self._in_blocks(self._bound(c), x)
        if self.bf16 and self.exact:
            value = call(self.energy, x, c)
        return value.to(x.dtype), score.to(x.dtype)

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return scores alone; in bfloat16 energies of points not evaluated are not computed
        again.
        """
        energy = self._bound(c)
        if self.compiled or self.chunk is not None:
            return self._in_blocks(energy, x)[1].to(x.dtype)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return score_alone(energy, x).to(x.dtype)

    def _bound(self, c: ConditionLike) -> Energy:
        return self.energy if c is None else self.energy.given(c)

    def _in_blocks(self, energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.chunk is None or len(x) <= self.chunk:
            return self._gradient(energy, x)
        rows = torch.arange(len(x), device=x.device).split(self.chunk)
        parts = [self._gradient(energy.index_rows(part), x[part]) for part in rows]
        return torch.cat([value for value, _ in parts]), torch.cat([score for _, score in parts])

    def _gradient(self, energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return (
                _run_compiled(energy, x, self.bf16) if self.compiled else differentiate(energy, x)
            )


Gradient = Callable[..., tuple[Tensor, Tensor]]
_functions: "weakref.WeakKeyDictionary[Energy, dict[bool, Gradient]]" = weakref.WeakKeyDictionary()


def _run_compiled(energy: Energy, x: Tensor, bf16: bool) -> tuple[Tensor, Tensor]:
    """Run `differentiate` compiled: once per energy and precision, remembered as long as the energy
    lives.
    """
    inner: Energy = energy
    condition: tuple[Any, ...] = ()
    if isinstance(energy, Given):
        inner, condition = energy.energy, (energy.rows_for(x),)
    known = _functions.setdefault(source_of(inner), {})
    if bf16 not in known:
        known[bf16] = _compile()
    if known[bf16] is differentiate:
        return differentiate(energy, x)
    try:
        with torch.no_grad():
            return known[bf16](inner, x, *condition)
    except Exception as problem:  # whatever the compiler raises; the same call without it decides
        found = differentiate(energy, x)
        reason = str(problem).strip().partition("\n")[0][:200]
        warnings.warn(
            f"torch.compile failed ({type(problem).__name__}: {reason}); going on without it",
            stacklevel=2,
        )
        known[bf16] = differentiate
        return found


def _compile() -> Gradient:
    """Return a compiled gradient of one energy, which is passed: each call has a view of its own,
    and weights are inputs of what is compiled.
    """

    def both(energy: Energy, x: Tensor, *condition: Any) -> tuple[Tensor, Tensor]:
        def total(x: Tensor) -> tuple[Tensor, Tensor]:
            value = energy(x, *condition)
            return value.sum(), value

        slope, value = torch.func.grad(total, has_aux=True)(x)
        return value, -slope

    return torch.compile(both, dynamic=False)
