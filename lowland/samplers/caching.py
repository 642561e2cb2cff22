"""Energies that keep what their terms gave for the points evaluated last, so that a path whose
energies are weighted sums of the same terms pays for every point once.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple, Self, cast

import torch
from torch import Tensor

from lowland.energy import ConditionLike, Energy, Gibbs, Sum, Wrapper, differentiate, gibbs_of
from lowland.samplers.kernel import per_row


class TermValues(NamedTuple):
    """Points x (B, *event) with the energies (B,) and scores (B, *event), or None, of each term."""

    x: Tensor
    values: Sequence[Tensor]
    scores: Sequence[Tensor] | None


def split_terms(energy: Energy) -> tuple[list[Energy], tuple[float, ...]]:
    """Return terms and weights of an energy as a weighted sum."""
    if isinstance(energy, Sum):
        return [cast(Energy, term) for term in energy.energies], energy.weights
    return [energy], (1.0,)


def weighted_sum(weights: Sequence[float], parts: Sequence[Tensor]) -> Tensor:
    """Compute Σ_t w_t parts[t]; a term of weight 0 counts for nothing, even where it is
    infinite.
    """
    if len(parts) == 1 and weights[0] == 1.0:
        return parts[0]
    active = [(weight, part) for weight, part in zip(weights, parts, strict=True) if weight]
    if not active:
        return torch.zeros_like(parts[0])
    (weight, part), *rest = active
    total = part * weight
    for weight, part in rest:
        total.add_(part, alpha=weight)
    return total


class CachingEnergy(Wrapper):
    """An energy that keeps, for the points it evaluated last, energies and scores of each term."""

    def __init__(self, energy: Energy) -> None:
        super().__init__(energy)
        self.last: TermValues | None = None
        self._split()

    def _split(self) -> None:
        self.terms, self.weights = split_terms(self.energy)
        self.parts = _score_parts(self.terms, self.weights)

    def index_rows(self, index: Tensor) -> Self:
        other = super().index_rows(index)
        if other is not self:
            other._split()
        return other

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        values = [term(x) for term in self.terms]
        self.last = TermValues(x, values, None)
        return weighted_sum(self.weights, values)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        values, scores = zip(*(differentiate(term, x) for term in self.terms), strict=True)
        self.last = TermValues(x, values, scores)
        return weighted_sum(self.weights, values), weighted_sum(self.weights, scores)

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        scores = [part.score(x) for _, part in self.parts]
        return weighted_sum([w for w, _ in self.parts], scores)

    @property
    def gibbs(self) -> Gibbs | None:
        """Return the capability of the energy; energies from known fields are kept too."""
        inner = self.energy.gibbs
        if inner is None or inner.energy_from is None:
            return inner
        if len(self.terms) > 1:  # other terms are kept as well, and need evaluating
            return replace(inner, fields=None, energy_from=None)
        return replace(inner, energy_from=self._energy_from)

    def _energy_from(self, x: Tensor, fields: Tensor) -> Tensor:
        energy_from = gibbs_of(self.terms[0]).energy_from
        assert energy_from is not None
        self.last = TermValues(x, [energy_from(x, fields)], None)
        return weighted_sum(self.weights, self.last.values)

    def look_up(self, before: TermValues | None, x: Tensor) -> TermValues | None:
        """Return the term energies of x if every row equals the last evaluated point or the one
        before, else None.
        """
        new = self.last
        if new is not None and new.x is x:  # as after an exact conditional draw
            return new
        if before is None or new is None or new.x.shape != x.shape:
            return None
        moved, stayed = ((of.x == x).flatten(1).all(1) for of in (new, before))
        if not bool((moved | stayed).all()):
            return None
        values = [torch.where(moved, a, b) for a, b in zip(new.values, before.values, strict=True)]
        if new.scores is None or before.scores is None:
            return TermValues(x, values, None)
        wide = per_row(moved, x)
        scores = [torch.where(wide, a, b) for a, b in zip(new.scores, before.scores, strict=True)]
        return TermValues(x, values, scores)


class PrecomputedEnergy(Energy):
    """An energy at points whose term energies are known: it evaluates nothing."""

    def __init__(self, energy: CachingEnergy, known: TermValues) -> None:
        super().__init__(energy.domain)
        self.weights, self.known = energy.weights, known

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return weighted_sum(self.weights, self.known.values)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        return self(x), weighted_sum(self.weights, cast(Sequence[Tensor], self.known.scores))


def _score_parts(terms: list[Energy], weights: Sequence[float]) -> list[tuple[float, Energy]]:
    """Return the sum for scores alone: terms with a gradient of their own one by one, the others in
    one pass of autograd.
    """
    active = [(w, term) for w, term in zip(weights, terms, strict=True) if w] or [(0.0, terms[0])]
    others = [(w, term) for w, term in active if not term.differentiates]
    if len(others) < 2:
        return active
    own = [(w, term) for w, term in active if term.differentiates]
    return [*own, (1.0, Sum([term for _, term in others], [w for w, _ in others]))]
