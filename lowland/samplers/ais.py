"""Annealed importance sampling: ratios of normalisers along a path of energies, in either
direction.

Chains start at exact draws of the first energy and follow the path. Entering an energy weighs the
point, moving under it leaves its law as it is:

    log w = Σ_k E_k(x_k) − E_{k+1}(x_k),     x_0 ~ exp(−E_0),   x_k moved from x_{k−1} under E_k
    E[w] = Z_last / Z_first      for every path, sampler and number of moves

log w is below log E[w] on average (Jensen): a run from base to target bounds log Z from below, a
run of the reversed path from draws of the target bounds it from above. Source: Neal (2001),
https://arxiv.org/abs/physics/9803008; both directions: Grosse, Ghahramani & Adams (2015),
https://arxiv.org/abs/1511.02543
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Self, cast

import torch
from torch import Tensor, nn

from lowland.energy import (
    Energy,
    Gibbs,
    Sum,
    Wrapper,
    check_independent,
    check_points,
    check_values,
    differentiate,
    frozen,
    gibbs_of,
    lift,
)
from lowland.samplers.anneal import one_each
from lowland.samplers.discrete import BlockGibbs, evaluate_points, fields_for
from lowland.samplers.kernel import Sampler, per_row
from lowland.samplers.loop import check_arguments, check_domain, count_refused, iterate
from lowland.samplers.tempering import ParallelTempering
from lowland.samplers.underdamped import MovingState


def geometric_path(base: Energy, target: Energy, betas: Sequence[float]) -> list[Energy]:
    """The path (1 − β) E_base + β E_target for each β in [0, 1]: geometric means of the two
    densities.

    All its energies are sums of the same terms, which `ais` notices: going from one to the next
    then costs nothing.

    >>> from lowland.targets import Gaussian
    >>> path = geometric_path(Gaussian(), Gaussian((3.0, 0.0)), (0.0, 0.5, 1.0))
    >>> [energy(torch.zeros(1, 2)).item() for energy in path]
    [0.0, 2.25, 4.5]
    """
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
    gradients: per chain. log_ratios: log of the mean weight on entering each energy of the path,
    the first one included, where it is 0.
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
        """log of the mean weight, which estimates log Z_last − log Z_first."""
        return (torch.logsumexp(self.log_weights, 0) - math.log(len(self.log_weights))).item()

    @property
    def error(self) -> float:
        """Standard error of log_ratio by the delta method: that of the mean weight over the mean
        weight.
        """
        shares = torch.softmax(self.log_weights, 0) * len(self.log_weights)
        return shares.std().item() / math.sqrt(len(shares)) if len(shares) > 1 else math.inf

    @property
    def ess(self) -> float:
        """Effective sample size of the weights, (Σ w)² / Σ w²: from 1 to B."""
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
    """Annealed importance sampling from the first energy of a path to the last: log Z_last − log
    Z_first, with its error.

    x (B, *event): exact draws of the first energy. samplers: one for all or one per energy, each of
    which leaves its law as it is; steps: moves under each energy between the ends (under the ends
    there are none); progress: called with 1 per energy entered. `ais(path[::-1], ...)` from draws
    of the last energy goes back the same way. Cost: the moves, and one gradient to enter each
    energy. The latter is saved where neighbours on the path are weighted sums of the same terms
    (`geometric_path`, or [beta * energy for beta in ...]): every term is judged once per point, and what
    it said is carried on. (NUTS, and gradients of categorical energies, do not carry it on and
    pay.)

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
    _check(path, kernels, x, steps, generator)
    with frozen(
        nn.ModuleList(dict.fromkeys(term for energy in path for term in _terms(energy)[0]))
    ):
        last = _Remembering(path[-1])
        _refuse_lost(last(x).isnan())
        check_independent(last, x)
        walk = _Walk(path[0], kernels[0], x)
        for k in range(1, len(path)):
            walk.enter(path[k], kernels[k])
            if k < len(path) - 1:
                walk.move(steps, generator)
            if progress is not None:
                progress(1)
    return walk.result(steps)


class _Known(NamedTuple):
    """Points x (B, *event) and what each term says of them: energies (B,) and scores (B, *event),
    or None.
    """

    x: Tensor
    values: Sequence[Tensor]
    scores: Sequence[Tensor] | None


def _terms(energy: Energy) -> tuple[list[Energy], tuple[float, ...]]:
    """What an energy is a weighted sum of, and the weights."""
    if isinstance(energy, Sum):
        return [cast(Energy, term) for term in energy.energies], energy.weights
    return [energy], (1.0,)


def _parts(terms: list[Energy], weights: Sequence[float]) -> list[tuple[float, Energy]]:
    """The same sum for scores alone: terms that write their gradient by hand one by one, the others
    in one pass of autograd.
    """
    counting = [(w, term) for w, term in zip(weights, terms, strict=True) if w] or [(0.0, terms[0])]
    others = [(w, term) for w, term in counting if not term.differentiates]
    if len(others) < 2:
        return counting
    by_hand = [(w, term) for w, term in counting if term.differentiates]
    return [*by_hand, (1.0, Sum([term for _, term in others], [w for w, _ in others]))]


def _blend(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    """Σ_t w_t parts[t]; a term of weight 0 counts for nothing, even where it is infinite."""
    if len(parts) == 1 and weights[0] == 1.0:
        return parts[0]
    total = None
    for weight, part in zip(weights, parts, strict=True):
        if weight:
            total = part * weight if total is None else total.add_(part, alpha=weight)
    return torch.zeros_like(parts[0]) if total is None else total


class _Remembering(Wrapper):
    """An energy of a path that remembers, of the points it evaluated last, the energies and scores
    of each of its terms.
    """

    def __init__(self, energy: Energy) -> None:
        super().__init__(energy)
        self.seen: _Known | None = None
        self._split()

    def _split(self) -> None:
        self.terms, self.weights = _terms(self.energy)
        self.parts = _parts(self.terms, self.weights)

    def index_rows(self, index: Tensor) -> Self:
        other = super().index_rows(index)
        if other is not self:
            other._split()
        return other

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        values = [term(x) for term in self.terms]
        self.seen = _Known(x, values, None)
        return _blend(self.weights, values)

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        values, scores = zip(*(differentiate(term, x) for term in self.terms), strict=True)
        self.seen = _Known(x, values, scores)
        return _blend(self.weights, values), _blend(self.weights, scores)

    def score(self, x: Tensor, c: Any = None) -> Tensor:
        scores = [part.score(x) for _, part in self.parts]
        return _blend([w for w, _ in self.parts], scores)

    @property
    def gibbs(self) -> Gibbs | None:
        """That of the energy; energies from known fields are remembered too."""
        inner = self.energy.gibbs
        if inner is None or inner.energy_from is None:
            return inner
        if len(self.terms) > 1:  # other terms are remembered as well, and need evaluating
            return replace(inner, fields=None, energy_from=None)
        return replace(inner, energy_from=self._energy_from)

    def _energy_from(self, x: Tensor, fields: Tensor) -> Tensor:
        energy_from = gibbs_of(self.terms[0]).energy_from
        assert energy_from is not None
        self.seen = _Known(x, [energy_from(x, fields)], None)
        return _blend(self.weights, self.seen.values)

    def settled(self, known: _Known | None, x: Tensor) -> _Known | None:
        """What is known of x, each row of which was judged last or is where it was; None if some
        row is neither.
        """
        new = self.seen
        if (
            new is not None and new.x is x
        ):  # as after an exact conditional draw: every row is where it was judged
            return new
        if known is None or new is None or new.x.shape != x.shape:
            return None
        fresh, stayed = ((of.x == x).flatten(1).all(1) for of in (new, known))
        if not bool((fresh | stayed).all()):
            return None
        values = [torch.where(fresh, a, b) for a, b in zip(new.values, known.values, strict=True)]
        if new.scores is None or known.scores is None:
            return _Known(x, values, None)
        wide = per_row(fresh, x)
        return _Known(
            x,
            values,
            [torch.where(wide, a, b) for a, b in zip(new.scores, known.scores, strict=True)],
        )


class _Recalled(Energy):
    """An energy of points that are known: it judges nothing anew."""

    def __init__(self, energy: _Remembering, known: _Known) -> None:
        super().__init__(energy.domain)
        self.weights, self.known = energy.weights, known

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return _blend(self.weights, self.known.values)

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        return self(x), _blend(self.weights, cast(Sequence[Tensor], self.known.scores))


class _Walk:
    """Chains on their way along a path: where they are, what is known of it, what they weigh, what
    it cost.
    """

    def __init__(self, energy: Energy, kernel: Sampler, x: Tensor) -> None:
        self.energy, self.kernel = _Remembering(energy), kernel
        self.state = kernel.init(self.energy, x)
        check_values(self.state.energy, x)
        self.known = self.energy.seen
        self.log_weights = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        self.diverged = torch.zeros(len(x), dtype=torch.long, device=x.device)
        self.num_grad_evals: Any = kernel.num_init_grad_evals
        self.rates: list[Tensor] = []
        self.totals, self.recent = [self.log_weights.logsumexp(0, keepdim=True)], list[Tensor]()

    def enter(self, energy: Energy, kernel: Sampler) -> None:
        """Weigh the points by what the next energy says of them, and stand under it."""
        old, new, x = self.energy, _Remembering(energy), self.state.x
        paid = kernel.num_init_grad_evals
        if self._enough(paid) and list(map(id, old.terms)) == list(map(id, new.terms)):
            known = cast(_Known, self.known)
            state = kernel.init(_Recalled(new, known), x)
            steps = [b - a for a, b in zip(old.weights, new.weights, strict=True)]
            change = _blend(steps, [value.double() for value in known.values])
        else:
            state = _enter(kernel, new, old, self.state)
            change = state.energy.double() - self.state.energy.double()
            self.known = new.seen
            self.num_grad_evals += paid
        self.log_weights = torch.where(
            self.log_weights == -math.inf, -math.inf, self.log_weights - change
        )
        self.recent.append(self.log_weights)
        if len(self.recent) == 64:
            self._total()
        if isinstance(state, MovingState) and isinstance(self.state, MovingState):
            state = state._replace(
                momentum=self.state.momentum
            )  # its law is the same under every energy
        self.energy, self.kernel, self.state = new, kernel, state

    def _total(self) -> None:
        """Add up the weights of the energies entered lately, many at a time: one by one it would
        cost more than moving.
        """
        if self.recent:
            self.totals.append(torch.stack(self.recent).logsumexp(1))
            self.recent = []

    def _enough(self, gradients: int) -> bool:
        """Whether what is known of the points is what a kernel that starts with so many gradients
        wants to know.
        """
        return self.known is not None and (self.known.scores is not None or not gradients)

    def move(self, steps: int, generator: torch.Generator) -> None:
        """Move the points under the present energy."""
        rate = torch.zeros((), dtype=torch.float64, device=self.log_weights.device)
        moves = iterate(self.energy, self.kernel, self.state, steps, generator)
        for self.state, info in moves:
            self.known = self.energy.settled(self.known, self.state.x)
            self.diverged += info.diverged
            paid = info.num_grad_evals
            self.num_grad_evals += self.kernel.num_grad_evals if paid is None else paid
            rate += info.acceptance_prob.double().mean() / steps
        self.rates.append(rate)

    def result(self, steps: int) -> AISResult:
        _refuse_lost(self.log_weights.isnan() | (self.log_weights == math.inf))
        acceptance = tuple(torch.stack(self.rates).tolist()) if self.rates else ()
        paid = float(torch.as_tensor(self.num_grad_evals).double().mean())
        self._total()
        ratios = torch.cat(self.totals) - math.log(len(self.log_weights))
        return AISResult(
            self.state.x,
            self.log_weights,
            acceptance,
            self.diverged,
            steps * len(self.rates),
            paid,
            ratios,
        )


def _enter(kernel: Sampler, energy: Energy, old: Energy, state: Any) -> Any:
    """Return the state under another energy; what its block Gibbs begins with is carried on."""
    fields = fields_for(energy, state, old) if isinstance(kernel, BlockGibbs) else None
    if fields is None:
        return kernel.init(energy, state.x)
    with torch.no_grad():
        return evaluate_points(energy, state.x, fields)


def _refuse_lost(lost: Tensor) -> None:
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
) -> None:
    if len(path) < 2:
        raise ValueError(
            f"the path has {len(path)} energies; a ratio needs at least two; see geometric_path(base, "
            "target, betas)"
        )
    check_arguments(steps, generator, x)
    check_points(path[0], x)
    for energy, kernel in zip(path, kernels, strict=True):
        check_domain(kernel, energy)
        if not kernel.adjusted or isinstance(kernel, ParallelTempering):
            raise ValueError(
                f"{type(kernel).__name__} came to annealed importance sampling; every move must "
                "leave the law of its energy as it is, from a point alone; use MALA, HMC or, on "
                "discrete domains, BlockGibbs"
            )
