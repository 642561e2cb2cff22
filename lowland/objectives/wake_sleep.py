"""Wake-sleep: generative weights learn from recognised data, recognition weights from samples of
the model.
"""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from lowland.energy import Energy
from lowland.objectives.contrastive import CD, PCD
from lowland.objectives.loss import Batch, Context, Loss, Objective
from lowland.objectives.ranges import COUNT, SHARE, WHOLE, check_settings
from lowland.registry import register


@runtime_checkable
class Recognizer(Protocol):
    """An energy with weights down (generation) and up (recognition) its layers."""

    def recognition(self, x: Tensor) -> Tensor:
        """Return −log q(h | v), (B,)."""
        ...

    def generation(self, x: Tensor) -> Tensor:
        """Return −log p(v | h) of the layers below the top, (B,)."""
        ...


@register("objective")
@dataclass(frozen=True)
class WakeSleep(Objective):
    """The up-down algorithm for a deep belief net: every weight learns from a loss of its own.

        wake    h ~ q(h | v) of data v generation: −log p(v | h¹) − … − log p(h^{L−2} | h^{L−1}) on
                                              top: F(h^{L−1}) − F(negatives)
        sleep   (v, h) where chains end recognition: −log q(h¹ | v) − … − log q(h^{L−1} | h^{L−2})

    The generative gradient is that of the bound; the recognition gradient is not, it follows the
    dreams of the model instead. Chains make `steps` steps from the data (contrastive divergence);
    with a buffer_size above 0 from where they last got to, so many at each update as data unless
    `num_chains` says how many (persistent). An energy without recognition weights is contrasted,
    and no more: every other energy has nothing to recognise. Cost per update: that of CD or PCD on
    top, and one pass up and down all layers. Use it when the net is a DBN, after `greedy`. Source:
    Hinton, Osindero & Teh (2006), appendix B, https://doi.org/10.1162/neco.2006.18.7.1527; wake and
    sleep: Hinton, Dayan, Frey & Neal (1995), https://doi.org/10.1126/science.7761831"""

    steps: int = 10
    buffer_size: int = 0
    num_chains: int = 0
    reinit_prob: float = 0.0

    def __post_init__(self) -> None:
        check_settings(self, steps=COUNT, buffer_size=WHOLE, num_chains=WHOLE, reinit_prob=SHARE)
        _ = self._contrastive  # refuses what CD and PCD refuse

    @property
    def _contrastive(self) -> CD | PCD:
        if not self.buffer_size:
            return CD(self.steps)
        return PCD(
            self.steps, self.buffer_size, reinit_prob=self.reinit_prob, num_chains=self.num_chains
        )

    def loss(self, energy: Energy, batch: Batch, context: Context) -> Loss:
        loss = self._contrastive.loss(energy, batch, context)
        if not isinstance(energy, Recognizer) or loss.negatives is None:
            return loss
        # the contrast has −log p(v | h) of dreams too, whose gradient is zero on average: without
        # it, there is less noise
        asleep, unlearnt = (
            energy.recognition(loss.negatives).mean(),
            energy.generation(loss.negatives).mean(),
        )
        terms = {"recognition": asleep.detach(), "generation": unlearnt.detach()}
        return loss._replace(value=loss.value + unlearnt + asleep, terms=loss.terms | terms)
