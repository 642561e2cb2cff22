"""Mixtures of energies: either of several, p ∝ Σ w_k exp(−E_k)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from lowland.energy import composition as known
from lowland.energy.algebra import Combination, Energy, lift
from lowland.energy.capabilities import Condition, ConditionLike, Gibbs
from lowland.energy.gradient import by_autograd, call
from lowland.scalars import read_number


class Mixture(Combination):
    """Mixture of *unnormalised* densities, −log Σ w_k exp(−E_k).

    A component counts by w_k Z_k, so shift energies by their log Z (or calibrate them) when shares
    matter.
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        if weights is None:
            weights = (1.0 / max(len(energies), 1),) * len(energies)
        if len(weights) != len(energies) or (energies and min(weights) <= 0):
            raise ValueError(
                f"{len(energies)} energies were mixed with the weights {tuple(weights)}; each "
                "needs one weight above 0; leave the weights out for equal ones"
            )
        super().__init__(energies, weights)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return known.mix(self.weights, [call(energy, x, c) for energy in self.energies])

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies, and scores Σ r_k s_k weighted by p(k | x), if a part knows its own."""
        if not self.differentiates:
            return by_autograd(self, x, c)
        pairs = [call(term.value_and_score, x, c) for term, _ in self.terms]
        values, scores = (torch.stack(found) for found in zip(*pairs, strict=True))
        logs = known.log_weights(self.weights, values).unsqueeze(1) - values
        shares = logs.softmax(0).view(*logs.shape, *[1] * (x.dim() - 1))
        return -logs.logsumexp(0), (shares * scores).sum(0)

    @property
    def gibbs(self) -> Gibbs | None:
        return known.mix_gibbs(self.terms)

    @property
    def condition(self) -> Condition | None:
        if self.bound:
            return None
        return known.mix_condition(self.terms)


def mixture(
    *energies: Energy | Callable[..., Tensor], weights: Sequence[float] | None = None
) -> Energy:
    """Return −log Σ w_k exp(−E_k), either of several energies or callables. Equal weights unless
    given.

    >>> import torch
    >>> from lowland.energy import Function
    >>> left, right = (Function(lambda x, m=m: (x - m).square().sum(1)) for m in (-2.0, 2.0))
    >>> both = mixture(left, right)(torch.tensor([[-2.0], [2.0]]))
    >>> bool((both[0] - both[1]).abs() < 1e-6)
    True
    """
    parts = [lift(energy) for energy in energies]
    if weights is not None:
        weights = [read_number("a weight of a mixture", weight) for weight in weights]
    if len(parts) == 1 and tuple(weights or (1.0,)) == (1.0,):
        return parts[0]
    return Mixture(parts, weights)
