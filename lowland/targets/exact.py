"""Lattices solved exactly: log Z and independent draws.

Cut a lattice across its longer side into L slices of w sites. With q states a site and S = q^w
states a slice, the distribution is a product of *transfer matrices*

    T[a, b] = exp(bonds between slices a and b + slice b by itself),      Z = trace T^L (a ring) or
                                                                          vᵀ T^(L−1) 1 (open ends)

with v[a] = exp(slice a by itself). That costs S³ log L, and gives independent draws slice by slice,
because p(b | a, first) ∝ T[a, b] T^(slices left)[b, first]. The Ising model on a torus without a
field needs no matrix: Kaufman's formula holds for every size.
"""

import math
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from lowland.energy.placement import wide_dtype

MAX_SLICE_STATES = 4096  # of a slice: the transfer matrix then takes 128 MB
MAX_TRANSFER_NUMBERS = 2**26  # in the powers of the transfer matrix that draws need: 512 MB

Scaled = tuple[Tensor, Tensor]  # a matrix of largest number 1, and the log of its scale


@runtime_checkable
class ExactSampler(Protocol):
    """An energy with independent exact draws."""

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Return exact draws (count, *event); may raise ValueError where it has none."""
        ...


class Solved(Protocol):
    """An energy whose log Z is known at every inverse temperature."""

    def log_partition(self, beta: Tensor) -> Tensor:
        """Return log Σ exp(−βE) in float64, differentiable in the number beta."""
        ...


def mean_energy(energy: Solved) -> float:
    """Compute the exact mean of E under exp(−E):  ⟨E⟩ = −d/dβ log Σ exp(−βE) at β = 1.

    energy: an Ising or Potts lattice. Raises ValueError where its log Z is not known.

    >>> from lowland.targets import Ising
    >>> round(mean_energy(Ising((128, 128), coupling=0.4)) / 0.4 / 128**2, 5)
    -1.10608
    """
    with torch.inference_mode(False), torch.enable_grad():
        beta = torch.ones((), dtype=torch.float64, requires_grad=True)
        (slope,) = torch.autograd.grad(energy.log_partition(beta), beta)
    return -slope.item()


def kaufman(rows: int, columns: int, coupling: Tensor) -> Tensor:
    """Compute log Z of the Ising model Σ exp(K Σ s_i s_j) on a torus of r rows, n columns, K > 0.

        Z = ½ (2 sinh 2K)^(rn/2) [Π 2cosh(½rγ_odd) + Π 2sinh(½rγ_odd)
                                  + Π 2cosh(½rγ_even) + Π 2sinh(½rγ_even)]
        cosh γ_l = cosh² 2K / sinh 2K − cos(πl/n),    γ_0 = 2K + log tanh K,    l = 0 … 2n−1

    A side of 2 has its bond twice. coupling: K as a float64 number, differentiable.
    Source: Kaufman (1949), https://doi.org/10.1103/PhysRev.76.1232
    """
    s = (2 * coupling).sinh()
    sine = torch.sin(torch.arange(1, 2 * columns, dtype=torch.float64) * (math.pi / (2 * columns)))
    above = (1 - s) * ((1 - s) / s) + 2 * sine.square()  # cosh γ − 1, without cancellation
    x = rows * torch.asinh((above / 2).sqrt())  # ½rγ for l = 1, 2, ..., 2n − 1
    zero = rows / 2 * (2 * coupling + coupling.tanh().log())
    log_cosh, log_sinh = x + torch.log1p((-2 * x).exp()), x + (-torch.expm1(-2 * x)).log()
    even = log_sinh[1::2].sum()
    last = torch.logaddexp(zero, -zero) + log_cosh[1::2].sum()
    terms = torch.stack([log_cosh[::2].sum(), log_sinh[::2].sum(), last, zero + even, even - zero])
    signs = terms.new_tensor([1.0, 1.0, 1.0, 1.0, -1.0])  # 2sinh = exp − exp, which may be negative
    top = terms.max().detach()
    brackets = top + (signs * (terms - top).exp()).sum().log()
    return brackets - math.log(2) + rows * columns / 2 * (2 * s).log()


@dataclass(frozen=True)
class Strip:
    """Rectangular lattice with log-weight Σ_<ij> bond[x_i][x_j] + Σ_i site[x_i].

    size: (rows, columns); periodic: sides of 2 or more close to rings (a ring of 2 has its bond
    twice), a side of 1 has no bonds; bond: (q, q) symmetric; site: (q,). Raises ValueError when a
    slice has too many states.
    """

    size: tuple[int, int]
    periodic: bool
    bond: tuple[tuple[float, ...], ...]
    site: tuple[float, ...]

    def _check(self, numbers: int = 1) -> None:
        width, states = min(self.size), len(self.site) ** min(self.size)
        if states > MAX_SLICE_STATES:
            raise ValueError(
                f"the lattice is {width} sites across, with {states} states; a transfer matrix "
                f"takes at most {MAX_SLICE_STATES}; make the shorter side shorter, or use a sampler"
            )
        if states**2 * numbers > MAX_TRANSFER_NUMBERS:
            raise ValueError(
                f"exact draws of {self.size[0]} × {self.size[1]} sites need {numbers} matrices of "
                f"{states}² numbers; together {MAX_TRANSFER_NUMBERS} numbers are allowed; make a "
                "side shorter, or use a sampler"
            )

    def _slices(self) -> tuple[Tensor, Tensor, Tensor]:
        """Return states of a slice (S, w), their log-weights (S,), bonds between slices (S, S)."""
        width, q = min(self.size), len(self.site)
        bond, site = (torch.tensor(w, dtype=torch.float64) for w in (self.bond, self.site))
        states = torch.cartesian_prod(*[torch.arange(q)] * width).view(-1, width)
        alone = site[states].sum(1) + bond[states[:, :-1], states[:, 1:]].sum(1)
        if self.periodic and width > 1:
            alone = alone + bond[states[:, -1], states[:, 0]]
        between = torch.zeros(1, 1, dtype=torch.float64)
        for _ in range(width):  # an outer sum for each site
            between = (between[:, None, :, None] + bond[:, None, :]).flatten(2).flatten(0, 1)
        return states, alone, between

    @property
    def _ring(self) -> bool:
        return self.periodic and max(self.size) > 1

    def log_partition(self, beta: Tensor) -> Tensor:
        """Return log Σ exp(β · log-weight), differentiable in beta."""
        self._check()
        length = max(self.size)
        _, alone, between = self._slices()
        step = _scaled_exp(beta * (between + alone))
        if self._ring:
            power, log_scale = _power(step, length)
            return power.trace().log() + log_scale
        ends, log_scale = _scaled_exp(beta * alone)
        for _ in range(length - 1):
            ends, log_scale = _product((ends, log_scale), step)
        return ends.sum().log() + log_scale

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw independently and exactly: integers (count, rows, columns)."""
        length = max(self.size)
        self._check(length if self._ring else 1)
        states, alone, between = self._slices()
        step, _ = _scaled_exp(between + alone)
        ends = torch.ones(len(states), 1, dtype=torch.float64)
        if self._ring:
            ends = torch.eye(len(states), dtype=torch.float64)
        after = [ends]  # weights of the slices that are still to come
        for _ in range(length - (not self._ring)):
            after.append(_rescale(step @ after[-1])[0])
        if self._ring:
            start = after.pop().diagonal()
        else:
            start = (alone - alone.max()).exp() * after.pop().squeeze(1)
        chosen = [_choose(start.expand(count, -1), generator)]
        while len(after) > self._ring:
            left = after.pop()
            column = left[:, chosen[0]].T if self._ring else left.T
            chosen.append(_choose(step[chosen[-1]] * column, generator))
        x = states.to(generator.device)[torch.stack(chosen, 1)]
        if self.size[0] >= self.size[1]:
            return x
        return x.transpose(1, 2).contiguous()


def _rescale(matrix: Tensor, log_scale: Tensor | float = 0.0) -> Scaled:
    top = matrix.max().detach()
    return matrix / top, top.log() + log_scale


def _scaled_exp(log_matrix: Tensor) -> Scaled:
    top = log_matrix.max().detach()
    return (log_matrix - top).exp(), top


def _product(a: Scaled, b: Scaled) -> Scaled:
    return _rescale(a[0] @ b[0], a[1] + b[1])


def _power(step: Scaled, exponent: int) -> Scaled:
    """Raise a matrix to a power by repeated squaring."""
    if exponent == 1:
        return step
    half = _power(step, exponent // 2)
    square = _product(half, half)
    if exponent % 2 == 0:
        return square
    return _product(square, step)


def _choose(weights: Tensor, generator: torch.Generator) -> Tensor:
    """Draw an index for each row of weights (count, S), by inversion; never one of weight 0."""
    steps, device = weights.cumsum(1), generator.device
    wide = wide_dtype(device)
    u = torch.rand(len(steps), 1, generator=generator, device=device, dtype=wide).cpu().double()
    found = torch.searchsorted(steps, u * steps[:, -1:], right=True)
    return found.squeeze(1).clamp(max=steps.shape[1] - 1)
