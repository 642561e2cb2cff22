"""One evaluation of the loss, as a module that several processes can wrap."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowland.energy import Energy
from lowland.objectives.loss import Batch, Context, Loss, Objective, Term
from lowland.replay import ReplayBuffer
from lowland.samplers.kernel import Sampler


class Step(nn.Module):
    """Objective and terms over an energy and, where the objective trains one, its partner (log Z,
    flow, generator).

    Chains run inside `forward`, through the energy itself; the loss is computed in one call. A term
    adds to the loss.
    """

    def __init__(
        self,
        energy: Energy,
        objective: Objective,
        sampler: Sampler | None,
        terms: Sequence[Term],
        partner: nn.Module | None,
    ) -> None:
        super().__init__()
        self.energy, self.partner = energy, partner
        self.objective, self.sampler, self.terms = objective, sampler, tuple(terms)

    def forward(
        self,
        x: Tensor,
        labels: Tensor | None,
        buffer: ReplayBuffer | None,
        generator: torch.Generator,
        progress: float,
    ) -> Loss:
        """Return the loss with all terms. progress: share of the updates that are done."""
        batch = Batch(x, labels)
        context = Context(generator, self.sampler, buffer, progress, self.partner)
        loss = self.objective.loss(self.energy, batch, context)
        for term in self.terms:
            loss = term.add(loss, self.energy, batch, context)
        return loss


def diversity(negatives: Tensor, x: Tensor) -> dict[str, Tensor]:
    """Return the total variance of the negatives, in units of that of the data, for the log: near
    zero when samples are all alike. {} where they cannot be compared.
    """
    if len(negatives) < 2 or negatives.shape[1:] != x.shape[1:]:
        return {}
    usual = x.flatten(1).var(0).sum().clamp_min(1e-12)
    return {"diversity": negatives.detach().flatten(1).var(0).sum() / usual}
