"""Generators: networks from noise to points, partners of an energy and no energies themselves.

    z ~ N(0, I),   x = G(z) + σ ξ

A perceptron makes vectors, transposed convolutions make images. What they give lies in the energy's
box, if it has one, by a sigmoid; on the real line it begins at the mean and the spread of the data.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lowland.domain import Domain
from lowland.energy.scales import flat_columns
from lowland.nets.perceptron import perceptron


class Generator(nn.Module):
    """Network x = G(z) from z (B, latent) to points (B, *event); `draw` adds noise σ.

    x: data (N, *event), whose mean and spread set where G begins; hidden: widths of the perceptron;
    channels: above 0 and for images whose sides are multiples of four, of the last but one layer of
    transposed convolutions.

    >>> import torch, lowland
    >>> box, x = lowland.box(0.0, 1.0, 1, 8, 8), torch.rand(9, 1, 8, 8)
    >>> generator = Generator(box, x, latent=4, channels=4)
    >>> generator.draw(3, torch.Generator().manual_seed(0)).shape
    torch.Size([3, 1, 8, 8])
    """

    def __init__(
        self,
        domain: Domain,
        x: Tensor,
        *,
        latent: int = 8,
        hidden: Sequence[int] = (128, 128),
        channels: int = 0,
        sigma: float = 0.1,
    ) -> None:
        super().__init__()
        self.domain, self.latent, self.sigma = domain, latent, sigma
        shape = domain.shape
        if channels and len(shape) == 3 and not any(side % 4 for side in shape[1:]):
            self.net = _upwards(latent, channels, shape)
        else:
            self.net = nn.Sequential(
                perceptron([latent, *hidden, math.prod(shape)], spectral_norm=False),
                nn.Unflatten(1, shape),
            )
        flat = x.detach().float()
        spread = flat.std(0, correction=0)
        self.register_buffer("mean", flat.mean(0))
        self.register_buffer("spread", torch.where(flat_columns(flat).to(flat.device), 1.0, spread))
        self.mean: Tensor
        self.spread: Tensor

    def forward(self, z: Tensor) -> Tensor:
        out = self.net(z).to(z.dtype)
        if self.domain.kind != "box":
            return self.mean.to(z.dtype) + self.spread.to(z.dtype) * out
        lo, width = self.domain.lo, self.domain.hi - self.domain.lo
        share = ((self.mean.to(z.dtype) - lo) / width).clamp(0.02, 0.98)
        return lo + width * torch.sigmoid(torch.logit(share) + out)

    def latents(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw z (count, latent), standard normal."""
        return torch.randn(
            count, self.latent, generator=generator, device=self.mean.device, dtype=self._dtype()
        )

    def add_noise(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Return x + σ ξ, (B, *event), reflected at the walls of a box."""
        noise = torch.randn(x.shape, generator=generator, device=x.device, dtype=x.dtype)
        return self.domain.reflect(x + self.sigma * noise)[0]

    @torch.no_grad()
    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Draw points (count, *event) with noise."""
        return self.add_noise(self(self.latents(count, generator)), generator)

    def _dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype


def _upwards(latent: int, channels: int, shape: tuple[int, ...]) -> nn.Sequential:
    """Build a decoder (B, latent) → (B, *shape): a linear layer, and sides doubled twice."""
    colours, height, width = shape
    return nn.Sequential(
        nn.Linear(latent, 2 * channels * (height // 4) * (width // 4)),
        nn.Unflatten(1, (2 * channels, height // 4, width // 4)),
        nn.SiLU(),
        nn.ConvTranspose2d(2 * channels, channels, 4, stride=2, padding=1),
        nn.SiLU(),
        nn.ConvTranspose2d(channels, colours, 4, stride=2, padding=1),
    )
