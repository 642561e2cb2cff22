"""Energies of vectors: a multilayer perceptron."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from lowland.domain import Domain
from lowland.energy import Energy
from lowland.nets.conditions import ClassEnergy
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


def perceptron(widths: Sequence[int], spectral: bool) -> nn.Sequential:
    """Linear layers of the given widths with SiLU between them."""
    layers: list[nn.Module] = []
    for a, b in pairwise(widths):
        layers += [normalised(nn.Linear(a, b), spectral), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


def flat_size(domain: Domain) -> int:
    """Numbers in an event. Raises ValueError for a domain without an event shape."""
    if not domain.shape:
        raise ValueError("the domain has no event shape; a network needs to know its input; pass for example real(2)")
    return math.prod(domain.shape)


def check_widths(name: str, hidden: Sequence[int], **others: float) -> None:
    """Refuse sizes that make no network: widths must be positive, the other numbers at least 0."""
    if not hidden or min(hidden) < 1 or not all(0 <= value < math.inf for value in others.values()):
        raise ValueError(
            f"{name} was given widths {tuple(hidden)} and {others}; widths must be positive whole numbers and the others at "
            f"least 0; correct them"
        )


@register("energy")
class MLP(ClassEnergy):
    """Multilayer perceptron energy of an event of any shape (it is flattened).

        E(x, c) = s · net(z)_c + a/2 ‖z‖²,    z = x stretched from its box, if it has one, to [−1, 1]

    hidden: widths of the SiLU layers; classes: heads, 0 for none (see nets.conditions); confine: a, above 0 makes the
    energy normalisable on the real line; scale: s, the unit of energy the network starts from; spectral: spectral norm on
    all layers.

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
        spectral: bool = False,
    ) -> None:
        super().__init__(domain)
        check_widths("MLP", hidden, classes=classes, confine=confine)
        self.hidden, self.classes, self.confine = tuple(hidden), classes, confine
        self.scale, self.spectral = scale, spectral
        self.net = perceptron([flat_size(self.domain), *hidden, max(classes, 1)], spectral)

    def class_energies(self, x: Tensor) -> Tensor:
        z = stretched(x, self.domain).flatten(1)
        heads = self.scale * self.net(z)
        return heads + self.confine / 2 * z.square().sum(1, keepdim=True) if self.confine else heads


@register("energy")
class NoiseMLP(Energy):
    """Multilayer perceptron energy of a point and a noise level, for denoising score matching at several levels.

        E(x, σ) = s · net(z, log σ) / σ + a/2 ‖z‖²,    z as in MLP

    The condition c is σ, one number per row or one for all; bind it with `energy.given(0.1)` before sampling or scoring.

    >>> import torch
    >>> from lowland.domain import real
    >>> NoiseMLP(real(2), hidden=(8,)).given(0.1)(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    noise: ClassVar[bool] = True

    def __init__(
        self,
        domain: Domain | dict[str, Any],
        hidden: Sequence[int] = (128, 128),
        confine: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(domain)
        check_widths("NoiseMLP", hidden, confine=confine)
        self.hidden, self.confine, self.scale = tuple(hidden), confine, scale
        self.net = perceptron([flat_size(self.domain) + 1, *hidden, 1], spectral=False)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        if c is None:
            raise ValueError("this energy needs a noise level; it learned E(x, σ); bind one with energy.given(sigma)")
        z = stretched(x, self.domain).flatten(1)
        sigma = torch.as_tensor(c, dtype=x.dtype, device=x.device).expand(len(x))
        heads = self.net(torch.cat([z, sigma.log().unsqueeze(1)], 1))
        return self.scale * heads.squeeze(1) / sigma + self.confine / 2 * z.square().sum(1)
