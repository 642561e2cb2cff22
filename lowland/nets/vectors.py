"""Energies of vectors: a multilayer perceptron."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lowland.domain import Domain
from lowland.energy import Energy
from lowland.nets.conditions import pick
from lowland.registry import register


def normalised(layer: nn.Module, wanted: bool) -> nn.Module:
    """The layer with its weight divided by its largest singular value, if wanted.

    The power iteration advances in training mode only; chains run in eval mode, so the target does not move under them,
    and σ = uᵀWv stays in the graph. For convolutions W is the (out, in·k·k) matrix, which bounds the operator only up to
    a factor. Source: Miyato et al. (2018), https://arxiv.org/abs/1802.05957
    """
    return spectral_norm(layer) if wanted else layer


def stretched(x: Tensor, domain: Domain) -> Tensor:
    """x stretched from its box to [−1, 1]; elsewhere as it is. Networks like inputs around zero."""
    if domain.kind != "box":
        return x
    return (x - (domain.lo + domain.hi) / 2) * (2 / (domain.hi - domain.lo))


@register("energy")
class MLP(Energy):
    """Multilayer perceptron energy of an event of any shape (it is flattened).

        E(x, c) = s · net(z)_c + a/2 ‖z‖²,    z = x stretched from its box, if it has one, to [−1, 1]

    hidden: widths of the SiLU layers; classes: heads, 0 for none (see nets.conditions); confine: a, above 0 makes the
    energy normalisable on the real line; scale: s, the unit of energy the network starts from; noise: condition on a
    noise level instead of a class, E(x, σ) = s · net(z, log σ) / σ; spectral: spectral norm on all layers.

    >>> import torch
    >>> from lowland.domain import real
    >>> MLP(real(2), hidden=(8,))(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | dict[str, Any],
        hidden: Sequence[int] = (128, 128),
        classes: int = 0,
        confine: float = 0.0,
        scale: float = 1.0,
        noise: bool = False,
        spectral: bool = False,
    ) -> None:
        super().__init__(domain)
        if not hidden or min(hidden) < 1 or classes < 0 or confine < 0 or (noise and classes):
            raise ValueError(
                f"MLP was given hidden={tuple(hidden)}, classes={classes}, confine={confine}, noise={noise}; widths must "
                f"be positive, the others at least 0, and noise excludes classes; correct them"
            )
        self.hidden, self.classes, self.confine = tuple(hidden), classes, confine
        self.scale = scale
        self.noise, self.spectral = noise, spectral
        widths = [int(torch.tensor(self.domain.shape).prod()) + noise, *hidden]
        layers: list[nn.Module] = []
        for a, b in zip(widths, widths[1:], strict=False):
            layers += [normalised(nn.Linear(a, b), spectral), nn.SiLU()]
        self.net = nn.Sequential(*layers, normalised(nn.Linear(widths[-1], max(classes, 1)), spectral))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        flat = stretched(x, self.domain).flatten(1)
        bowl = self.confine / 2 * flat.square().sum(1)
        if not self.noise:
            return pick(self.scale * self.net(flat), c) + bowl
        if c is None:
            raise ValueError("this energy needs a noise level; it learned E(x, σ); bind one with energy.given(sigma)")
        sigma = torch.as_tensor(c, dtype=x.dtype, device=x.device).expand(len(x))
        heads = self.net(torch.cat([flat, sigma.log().unsqueeze(1)], 1))
        return self.scale * heads.squeeze(1) / sigma + bowl
