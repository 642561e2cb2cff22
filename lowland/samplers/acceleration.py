"""Cheaper gradients of the same energy: in blocks of chains, in bfloat16, compiled. What `sample`
does with its options.

chunk       gradients are taken of so many chains at a time, so that activations stay in cache (and
            memory is bounded); noise, bits of the generator and results are those of one batch, up
            to the rounding of matrix products
precision   "bfloat16": gradients come from a network run in bfloat16 (autocast), points and noise
            stay float32. A sampler with an accept step still gets float32 energies, so it stays
            exact: its gradient only proposes, and any fixed function of the point may do that.
            Other samplers get a slightly different drift, and say so here. "auto": whichever of
            the two is faster on the device (`samplers.precision`)
compile     gradients by torch.compile, which takes seconds to a minute the first time; if that
            fails, a warning says why and sampling goes on without
"""

import warnings
import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lowland.energy import Energy, Given, differentiate, score_alone
from lowland.samplers.precision import resolve_precision


def accelerate(
    energy: Energy,
    *,
    precision: str = "float32",
    compile: bool = False,
    chunk: int | None = None,
    exact: bool = True,
) -> Energy:
    """The energy with the gradients that the options ask for; itself if they ask for nothing.

    exact: energies are wanted in the precision of the points, for an accept step.
    Raises ValueError for a precision that is not known or a chunk below 1.
    """
    device = next((p.device for p in energy.parameters()), torch.device("cpu"))
    precision = resolve_precision(precision, device)
    if chunk is not None and (not isinstance(chunk, int) or chunk < 1):
        raise ValueError(
            f"chunk is {chunk!r}; it is a number of chains, at least 1; leave it out for all at "
            "once"
        )
    if precision == "float32" and not compile and chunk is None:
        return energy
    return Accelerated(energy, precision == "bfloat16", compile, chunk, exact)


class Accelerated(Energy):
    """An energy whose gradients come in blocks, in bfloat16 or compiled; its values by `forward`
    are those of the energy.
    """

    def __init__(
        self, energy: Energy, bf16: bool, compiled: bool, chunk: int | None, exact: bool
    ) -> None:
        super().__init__(energy.domain)
        self.energy = energy
        self.settings = (bf16, compiled, chunk, exact)
        self.bf16, self.compiled, self.chunk, self.exact = self.settings
        self._blocks: dict[int, list[tuple[int, int, Energy]]] = {}

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.energy(x) if c is None else self.energy(x, c)

    def rows(self, index: Tensor) -> "Accelerated":
        return Accelerated(self.energy.rows(index), *self.settings)

    @property
    def colours(self) -> Any:
        return self.energy.colours

    @property
    def conditional(self) -> Any:
        return self.energy.conditional

    @property
    def relaxed(self) -> Any:
        return self.energy.relaxed

    @property
    def sweep(self) -> Any:
        if self.energy.sweep is None:
            return None
        return lambda *args, **options: self.energy.sweep(*args, **options, compiled=self.compiled)

    def analytic(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Energies (B,) and scores of x (B, *event)."""
        value, score = self._in_blocks(x)
        if self.bf16 and self.exact:
            value = self.energy(x)
        return value.to(x.dtype), score.to(x.dtype)

    def slope(self, x: Tensor) -> Tensor:
        """Scores alone: in bfloat16 the energies of points that are not judged are not computed
        again.
        """
        if self.compiled or self.chunk is not None:
            return self._in_blocks(x)[1].to(x.dtype)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return score_alone(self.energy, x).to(x.dtype)

    def _in_blocks(self, x: Tensor) -> tuple[Tensor, Tensor]:
        if self.chunk is None or len(x) <= self.chunk:
            return self._gradient(self.energy, x)
        parts = [self._gradient(energy, x[i:j]) for i, j, energy in self._split(x)]
        return torch.cat([value for value, _ in parts]), torch.cat([score for _, score in parts])

    def _split(self, x: Tensor) -> list[tuple[int, int, Energy]]:
        count, chunk = len(x), self.chunk or len(x)
        if count not in self._blocks:
            bounds = [(i, min(i + chunk, count)) for i in range(0, count, chunk)]
            self._blocks[count] = [
                (i, j, self.energy.rows(torch.arange(i, j, device=x.device))) for i, j in bounds
            ]
        return self._blocks[count]

    def _gradient(self, energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.bf16):
            return _compiled(energy, x, self.bf16) if self.compiled else differentiate(energy, x)


Gradient = Callable[..., tuple[Tensor, Tensor]]
_functions: "weakref.WeakKeyDictionary[Energy, dict[bool, Gradient]]" = weakref.WeakKeyDictionary()


def _compiled(energy: Energy, x: Tensor, bf16: bool) -> tuple[Tensor, Tensor]:
    """differentiate, compiled: once per energy and precision, remembered as long as the energy
    lives.
    """
    inner: Energy = energy
    condition: tuple[Any, ...] = ()
    if isinstance(energy, Given):
        inner, condition = energy.energy, (energy.condition(x),)
    known = _functions.setdefault(inner, {})
    if bf16 not in known:
        known[bf16] = _compile(inner)
    if known[bf16] is differentiate:
        return differentiate(energy, x)
    try:
        with torch.no_grad():
            return known[bf16](x, *condition)
    except Exception as problem:  # whatever the compiler raises; the same call without it decides
        found = differentiate(energy, x)
        reason = str(problem).strip().partition("\n")[0][:200]
        warnings.warn(
            f"torch.compile failed ({type(problem).__name__}: {reason}); going on without it",
            stacklevel=2,
        )
        known[bf16] = differentiate
        return found


def _compile(energy: Energy) -> Gradient:
    held = weakref.ref(energy)  # the dictionary must not keep its own key alive

    def total(x: Tensor, *condition: Any) -> tuple[Tensor, Tensor]:
        value = held()(x, *condition)  # type: ignore[misc]
        return value.sum(), value

    gradient = torch.func.grad(total, has_aux=True)

    def both(x: Tensor, *condition: Any) -> tuple[Tensor, Tensor]:
        slope, value = gradient(x, *condition)
        return value, -slope

    return torch.compile(both, dynamic=False)
