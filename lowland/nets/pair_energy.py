"""Energies of pairs: two points belong together where their features point the same way.

    E(x, x⁺) = −⟨f(x), f(x⁺)⟩ / τ,      f a network whose output is scaled to length one

The second point is a condition, bound with `energy.given(anchor)`: what is left is an energy of x,
low for what is like the anchor. Without one, x is compared with points of the training data that
the energy remembers.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.domain import Domain
from lowland.energy import ConditionLike, Energy, Learner
from lowland.energy.points import describe
from lowland.energy.sizes import check_memory, read_sizes
from lowland.nets.perceptron import perceptron
from lowland.nets.vectors import flat_size, to_unit_box
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number


@register("energy")
class PairEnergy(Energy):
    """Energy E(x, a) = −⟨f(x), f(a)⟩ / τ of a point and an anchor.

    Without an anchor, the mixture over those remembered:

        E(x) = −log (1/M) Σ_m exp(⟨f(x), f(a_m)⟩ / τ)

    hidden: widths of the perceptron; channels: of convolutions with stride two before it, for
    images; features: length of f; temperature: τ; anchors: M, taken evenly from the data before the
    first update. Energies lie in [−1/τ, 1/τ]: exp(−E) has a normaliser on a box and none on the
    real line. Source: Chen et al. (2020), https://arxiv.org/abs/2002.05709; the energy: van den
    Oord, Li & Vinyals (2018), https://arxiv.org/abs/1807.03748

    >>> import torch, lowland
    >>> pair = PairEnergy(lowland.real(2), hidden=(8,), temperature=0.5)
    >>> x = torch.tensor([[1.0, 2.0], [0.0, 1.0]])
    >>> pair.given(x)(x).round(decimals=3).tolist()
    [-2.0, -2.0]
    """

    def __init__(
        self,
        domain: Domain | Plain,
        hidden: Sequence[int] = (128,),
        channels: Sequence[int] = (),
        features: int = 32,
        temperature: float = 0.1,
        anchors: int = 64,
    ) -> None:
        super().__init__(domain)
        self.hidden = read_sizes("hidden", hidden)
        self.channels = read_sizes("channels", channels, empty=True)
        self.features = read_integer("features", features, least=1)
        self.temperature = read_number("temperature", temperature, above=0)
        self.anchors = read_integer("anchors", anchors, least=1)
        if self.channels and len(self.domain.shape) != 3:
            raise ValueError(
                f"PairEnergy was given channels {self.channels} for events of shape "
                f"{self.domain.shape}; convolutions are for images (channels, height, width); "
                "leave channels out"
            )
        layers: list[nn.Module] = []
        size = flat_size(self.domain)
        check_memory("PairEnergy", size * self.anchors)
        if self.channels:
            width, *sides = self.domain.shape
            for out in self.channels:
                check_memory("PairEnergy", 9 * width * out)
                layers += [nn.Conv2d(width, out, 3, stride=2, padding=1), nn.SiLU()]
                width, sides = out, [(side + 1) // 2 for side in sides]
            size = width * math.prod(sides)
        self.net = nn.Sequential(
            *layers,
            nn.Flatten(),
            perceptron([size, *self.hidden, self.features], spectral_norm=False),
        )
        known = self.domain.draw(self.anchors, torch.Generator().manual_seed(0))
        self.register_buffer("remembered", known)
        self.remembered: Tensor

    @property
    def learner(self) -> Learner:
        return Learner(init_from_data=self.init_from_data)

    def init_from_data(self, x: Tensor) -> None:
        """Remember points of the data x (N, *event), taken evenly."""
        rows = torch.linspace(0, len(x) - 1, self.anchors, device=x.device).long()
        self.remembered.copy_(x[rows])

    def embed(self, x: Tensor) -> Tensor:
        """Return features f(x) (B, features), of length one."""
        return F.normalize(self.net(to_unit_box(x, self.domain)).to(x.dtype), dim=1)

    def pairs(self, x: Tensor, y: Tensor) -> Tensor:
        """Return energies (B, C) of all pairs of x (B, *event) and y (C, *event)."""
        return -self.embed(x) @ self.embed(y).T / self.temperature

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        if c is None:
            pairs = self.pairs(x, self.remembered.to(x.dtype))
            return math.log(self.anchors) - torch.logsumexp(-pairs, 1)
        if not isinstance(c, Tensor) or c.shape != x.shape:
            raise ValueError(
                f"the anchor is {describe(c)} for points {tuple(x.shape)}; each point "
                "needs one of its own shape; bind it with energy.given"
            )
        return -(self.embed(x) * self.embed(c.to(x.dtype))).sum(1) / self.temperature
