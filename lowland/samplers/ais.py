"""Annealed importance sampling: ratios of normalisers along a path of energies, in either
direction.

Chains start at exact draws of the first energy and follow the path. Entering an energy weighs the
point, moving under it leaves exp(−E) invariant:

    log w = Σ_k E_k(x_k) − E_{k+1}(x_k),     x_0 ~ exp(−E_0),   x_k moved from x_{k−1} under E_k
    E[w] = Z_last / Z_first      for every path, sampler and number of moves

log w is below log E[w] on average (Jensen): a run from base to target bounds log Z from below, a
run of the reversed path from draws of the target bounds it from above. Source: Neal (2001),
https://arxiv.org/abs/physics/9803008; both directions: Grosse, Ghahramani & Adams (2015),
https://arxiv.org/abs/1511.02543
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from lowland.devices import to_float64
from lowland.energy import (
    Energy,
    Sum,
    check_gradient,
    check_independent,
    check_points,
    check_values,
    freeze_all,
    lift,
)
from lowland.energy.placement import wide_dtype, widen
from lowland.samplers.anneal import one_each
from lowland.samplers.caching import (
    CachingEnergy,
    PrecomputedEnergy,
    TermValues,
    weighted_sum,
)
from lowland.samplers.discrete import BlockGibbs, evaluate_points, fields_for
from lowland.samplers.doors import Witness, check_arguments, check_domain, check_resolution
from lowland.samplers.kernel import Sampler, values_of
from lowland.samplers.loop import count_refused, iterate
from lowland.samplers.rescue import raise_at_start
from lowland.samplers.settings import read_list
from lowland.samplers.tempering import ParallelTempering
from lowland.samplers.underdamped import MovingState

TOTALS_BLOCK = 64  # energies whose weights are added up at once: one by one would cost more


def geometric_path(base: Energy, target: Energy, betas: Sequence[float]) -> list[Energy]:
    """Return the path (1 − β) E_base + β E_target for each β in [0, 1]: geometric means of the two
    densities.

    All its energies are sums of the same terms, which `ais` notices: going from one to the next
    then costs nothing.

    >>> from lowland.targets import Gaussian
    >>> path = geometric_path(Gaussian(), Gaussian((3.0, 0.0)), (0.0, 0.5, 1.0))
    >>> [energy(torch.zeros(1, 2)).item() for energy in path]
    [0.0, 2.25, 4.5]
    """
    base, target, betas = lift(base), lift(target), read_list("betas", betas)
    if len(betas) < 2 or not all(0 <= beta <= 1 for beta in betas):
        raise ValueError(
            f"betas are {list(betas)}; a path needs at least two numbers from 0 (base) to 1 "
            "(target); pass for example torch.linspace(0, 1, 100).tolist()"
        )
    return [Sum([base, target], [1.0 - beta, float(beta)]) for beta in betas]


@dataclass(frozen=True, repr=False)
class AISResult:
    """Points with log weights: x (B, *event), log_weights (B,), float64.

    Expectations under the last energy of the path are Σ w f(x) / Σ w. acceptance: mean rate of the
    moves under each energy between the ends; diverged (B,): refused non-finite proposals; moves,
    num_grad_evals: per chain. log_ratios: log of the mean weight on entering each energy of the
    path, the first one included, where it is 0.
    """

    x: Tensor
    log_weights: Tensor
    acceptance: tuple[float, ...]
    diverged: Tensor
    moves: int
    num_grad_evals: float
    log_ratios: Tensor

    @property
    def log_ratio(self) -> float:
        """Return the log of the mean weight, which estimates log Z_last − log Z_first."""
        return (torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))).item()

    @property
    def error(self) -> float:
        """Return the standard error of log_ratio by the delta method: that of the mean weight over
        the mean weight.
        """
        shares = torch.softmax(self.log_weights, 0) * len(self.log_weights)
        return shares.std().item() / math.sqrt(len(shares)) if len(shares) > 1 else math.inf

    @property
    def ess(self) -> float:
        """Return the effective sample size of the weights, (Σ w)² / Σ w²: from 1 to B."""
        return 1 / torch.softmax(self.log_weights, 0).square().sum().item()

    def __repr__(self) -> str:
        return (
            f"AISResult({len(self.x)} points of {tuple(self.x.shape[1:])}, log Z ratio "
            f"{self.log_ratio:.4f} ± {self.error:.4f}, weights worth {self.ess:.1f} points, "
            f"{self.moves} moves, {self.num_grad_evals:g} gradients{count_refused(self.diverged)})"
        )


def ais(
    path: Sequence[Energy],
    samplers: Sampler | Sequence[Sampler],
    x: Tensor,
    *,
    generator: torch.Generator,
    steps: int = 1,
    progress: Callable[[int], object] | None = None,
) -> AISResult:
    """Estimate log Z_last − log Z_first of a path of energies by annealed importance sampling.

    x (B, *event): exact draws of the first energy. samplers: one for all or one per energy, each of
    which leaves exp(−E) invariant; steps: moves under each energy between the ends (under the ends
    there are none); progress: called with 1 per energy entered. `ais(path[::-1], ...)` from draws
    of the last energy goes back the same way. Cost: the moves, and one gradient to enter each
    energy. The latter is saved where neighbours on the path are weighted sums of the same terms
    (`geometric_path`, or [beta * energy for beta in ...]): every term is evaluated once per point
    (except by NUTS, and by gradients of categorical energies).

    Raises ValueError for a path of fewer than two energies, points or samplers that do not fit it,
    samplers that are not adjusted, parallel tempering, and weights that are not numbers.

    >>> import torch, lowland
    >>> from lowland.targets import Gaussian
    >>> base, target = Gaussian(), Gaussian((1.0, 0.0), ((0.5, 0.0), (0.0, 0.5)))
    >>> g = torch.Generator().manual_seed(0)
    >>> path = geometric_path(base, target, torch.linspace(0, 1, 50).tolist())
    >>> found = ais(path, lowland.MALA(0.3), base.draw(500, g), generator=g)
    >>> abs(found.log_ratio - (target.log_z - base.log_z)) < 0.05, found.num_grad_evals
    (True, 49.0)
    """
    path = [lift(energy) for energy in path]
    kernels = one_each(samplers, path)
    x = x.detach()
    steps = _check(path, kernels, x, steps, generator)
    with freeze_all(path) as path:
        last = CachingEnergy(path[-1])
        _check_weights(last(x).isnan())
        check_independent(Witness(last), x)
        if any(kernel.num_grad_evals for kernel in kernels):
            check_gradient(Witness(path[-1]), x)
        for end in (path[0], path[-1]):
            with torch.no_grad():
                check_resolution(end, x, values_of(end, x))
        walk = _Walk(path[0], kernels[0], x)
        for k in range(1, len(path)):
            walk.enter(path[k], kernels[k])
            if k < len(path) - 1:
                walk.move(steps, generator)
            if progress is not None:
                progress(1)
    return walk.result(steps)


class _Walk:
    """Chains on their way along a path, with their weights and what was paid."""

    def __init__(self, energy: Energy, kernel: Sampler, x: Tensor) -> None:
        self.energy, self.kernel = CachingEnergy(energy), kernel
        with raise_at_start():
            self.state = kernel.init(self.energy, x)
        check_values(self.state.energy, x)
        self.known = self.energy.last
        self.log_weights = torch.zeros(len(x), dtype=wide_dtype(x.device), device=x.device)
        self.diverged = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.num_grad_evals: int | Tensor = kernel.num_init_grad_evals
        self.rates: list[Tensor] = []
        self.totals, self.recent = [self.log_weights.logsumexp(0, keepdim=True)], list[Tensor]()

    def enter(self, energy: Energy, kernel: Sampler) -> None:
        """Multiply each weight by exp(E_k − E_{k+1}) and make E_{k+1} the current energy."""
        old, new, x = self.energy, CachingEnergy(energy), self.state.x
        known = self._known_for(kernel)
        if known is not None and list(map(id, old.terms)) == list(map(id, new.terms)):
            state = kernel.init(PrecomputedEnergy(new, known), x)
            steps = [b - a for a, b in zip(old.weights, new.weights, strict=True)]
            change = weighted_sum(steps, [widen(value) for value in known.values])
        else:
            state = _enter(kernel, new, old, self.state)
            change = widen(state.energy) - widen(self.state.energy)
            self.known = new.last
            self.num_grad_evals += kernel.num_init_grad_evals
        lost = self.log_weights == -math.inf
        self.log_weights = torch.where(lost, -math.inf, self.log_weights - change)
        self.recent.append(self.log_weights)
        if len(self.recent) == TOTALS_BLOCK:
            self._total()
        if isinstance(state, MovingState) and isinstance(self.state, MovingState):
            # its distribution is the same under every energy
            state = state._replace(momentum=self.state.momentum)
        self.energy, self.kernel, self.state = new, kernel, state

    def _known_for(self, kernel: Sampler) -> TermValues | None:
        """Return the known term energies if they are enough for a kernel to start from."""
        if self.known is None or (self.known.scores is None and kernel.num_init_grad_evals):
            return None
        return self.known

    def _total(self) -> None:
        """Add up the weights of the energies entered lately."""
        if self.recent:
            self.totals.append(torch.stack(self.recent).logsumexp(1))
            self.recent = []

    def move(self, steps: int, generator: torch.Generator) -> None:
        """Move the points under the current energy."""
        rate = self.log_weights.new_zeros(())
        moves = iterate(self.energy, self.kernel, self.state, steps, generator)
        for self.state, info in moves:
            self.known = self.energy.look_up(self.known, self.state.x)
            self.diverged += info.diverged
            paid = info.num_grad_evals
            self.num_grad_evals = self.num_grad_evals + (
                self.kernel.num_grad_evals if paid is None else paid
            )
            rate += widen(info.acceptance_prob).mean() / steps
        self.rates.append(rate)

    def result(self, steps: int) -> AISResult:
        _check_weights(self.log_weights.isnan() | (self.log_weights == math.inf))
        self._total()
        return AISResult(
            self.state.x,
            self.log_weights,
            tuple(torch.stack(self.rates).tolist()) if self.rates else (),
            self.diverged,
            steps * len(self.rates),
            float(to_float64(torch.as_tensor(self.num_grad_evals)).mean()),
            torch.cat(self.totals) - math.log(len(self.log_weights)),
        )


def _enter(kernel: Sampler, energy: Energy, old: Energy, state: Any) -> Any:
    """Return the state under another energy; what its block Gibbs begins with is carried on."""
    fields = fields_for(energy, state, old) if isinstance(kernel, BlockGibbs) else None
    if fields is None:
        return kernel.init(energy, state.x)
    with torch.no_grad():
        return evaluate_points(energy, state.x, fields)


def _check_weights(lost: Tensor) -> None:
    if bool(lost.any()):
        raise ValueError(
            f"{int(lost.sum())} of {len(lost)} weights are not numbers; every energy of the path "
            "must be a number, or inf at a point of no weight, wherever chains go; look for "
            "overflow in the energies"
        )


def _check(
    path: Sequence[Energy],
    kernels: Sequence[Any],
    x: Tensor,
    steps: int,
    generator: torch.Generator,
) -> int:
    """Return the steps as a plain int, or raise ValueError for what is no path or does not fit."""
    if len(path) < 2:
        raise ValueError(
            f"the path has {len(path)} energies; a ratio needs at least two; see "
            "geometric_path(base, target, betas)"
        )
    steps = check_arguments(steps, generator, x)
    check_points(path[0], x)
    for energy, kernel in zip(path, kernels, strict=True):
        check_domain(kernel, energy)
        if not kernel.adjusted or isinstance(kernel, ParallelTempering):
            raise ValueError(
                f"{type(kernel).__name__} came to annealed importance sampling; every move must "
                "leave exp(−E) invariant, from a point alone; use MALA, HMC or, on "
                "discrete domains, BlockGibbs"
            )
    return steps
