"""Networks f(z, ln σ) of denoisers: a perceptron for vectors and a U-Net for images."""

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.energy.sizes import check_memory
from lowland.nets.perceptron import perceptron

MAX_BLOCKS = 256  # of residual blocks of one network: plain sense

L = TypeVar("L", bound=nn.Module)


class NoiseMLPDenoiser(nn.Module):
    """f(z, ln σ): a perceptron of the flattened event and waves of ln σ, zero at first."""

    def __init__(self, size: int, hidden: Sequence[int]) -> None:
        super().__init__()
        self.layers = perceptron([size + 17, *hidden, size], spectral_norm=False)
        _zero(self.layers[-1])

    def forward(self, z: Tensor, level: Tensor) -> Tensor:
        return self.layers(torch.cat([z.flatten(1), _waves(level)], 1)).view_as(z)


class UNet(nn.Module):
    """f(z, ln σ): a U-Net from images (B, C, H, W) to images, with half and a quarter of the
    resolution and one shortcut.
    """

    def __init__(
        self,
        shape: Sequence[int],
        widths: Sequence[int],
        blocks: Sequence[int],
        dense: int,
        embedding: int,
        norm: bool,
    ) -> None:
        super().__init__()
        (channels, height, width), (wide, deep) = shape, widths
        layers = 18 * (2 * blocks[0] * wide**2 + blocks[1] * deep**2) + 72 * channels * wide
        layers += embedding * (embedding + 2 * wide * blocks[0] + 2 * deep * blocks[1])
        check_memory("a U-Net", layers + 16 * dense * -(height // -4) * -(width // -4))
        if sum(blocks) > MAX_BLOCKS:
            raise ValueError(
                f"blocks is {tuple(blocks)}; a U-Net has at most {MAX_BLOCKS} residual blocks; ask "
                "for fewer"
            )
        self.told = nn.Sequential(
            nn.Linear(17, embedding), nn.SiLU(), nn.Linear(embedding, embedding), nn.SiLU()
        )
        self.stem = nn.Conv2d(4 * channels, wide, 3, padding=1)
        self.down = nn.ModuleList(_Block(wide, embedding) for _ in range(blocks[0]))
        self.shrink = nn.Conv2d(wide, deep, 2, 2)
        self.middle = nn.ModuleList(_Block(deep, embedding, norm) for _ in range(blocks[1]))
        if dense:
            places = -(height // -4) * -(width // -4)
            seeing = [
                _Mix(places, dense // 2),
                _Dense(deep, places, dense, embedding),
                _Mix(places, dense // 2),
            ]
            half = blocks[1] // 2
            self.middle = nn.ModuleList([*self.middle[:half], *seeing, *self.middle[half:]])
        self.grow = nn.ConvTranspose2d(deep, wide, 2, 2)
        self.up = nn.ModuleList(_Block(wide, embedding) for _ in range(blocks[0]))
        self.out = _zero(nn.Conv2d(wide, 4 * channels, 3, padding=1))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, z: Tensor, level: Tensor) -> Tensor:
        height, width = z.shape[2:]
        told = self.told(_waves(level)).to(z.dtype)
        z = F.pixel_unshuffle(F.pad(z, (0, -width % 4, 0, -height % 4)), 2)
        h = self.stem(z.contiguous(memory_format=torch.channels_last))
        for block in self.down:
            h = block(h, told)
        passed, h = h, self.shrink(h)
        for block in self.middle:
            h = block(h, told)
        h = self.grow(h) + passed
        for block in self.up:
            h = block(h, told)
        return F.pixel_shuffle(self.out(_silu(h)), 2)[:, :, :height, :width]


class _Block(nn.Module):
    """h ↦ h + conv(silu((1 + scale(σ)) n(conv(silu(h))) + shift(σ))), the identity at first.

    n: the identity, or with `norm` division by the root mean square over channels.
    """

    def __init__(self, width: int, embedding: int, norm: bool = False) -> None:
        super().__init__()
        self.norm = norm
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.film = _zero(nn.Linear(embedding, 2 * width))
        self.second = _zero(nn.Conv2d(width, width, 3, padding=1))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        inner = self.first(_silu(h))
        if self.norm:
            inner = inner * torch.rsqrt(inner.square().mean(1, keepdim=True) + 1e-3)
        scale, shift = self.film(told).to(inner.dtype)[:, :, None, None].chunk(2, 1)
        inner = torch.addcmul(shift, inner, 1 + scale)
        return h + self.second(_silu(inner))


class _Mix(nn.Module):
    """h ↦ h + second(silu(first(h))) over the places of each channel, the identity at first.

    All channels share the weights.
    Source: Tolstikhin et al. (2021), https://arxiv.org/abs/2105.01601
    """

    def __init__(self, places: int, inner: int) -> None:
        super().__init__()
        self.first = nn.Linear(places, inner)
        self.second = _zero(nn.Linear(inner, places))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        return h + self.second(_silu(self.first(h.flatten(2)))).view(h.shape)


class _Dense(nn.Module):
    """h ↦ h + perceptron of all places, `thin` channels of each; the identity at first."""

    def __init__(self, width: int, places: int, dense: int, embedding: int, thin: int = 8) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(width, thin, 1)
        self.first = nn.Linear(thin * places, dense)
        self.film = _zero(nn.Linear(embedding, 2 * dense))
        self.second = nn.Linear(dense, thin * places)
        self.widen = _zero(nn.Conv2d(thin, width, 1))

    def forward(self, h: Tensor, told: Tensor) -> Tensor:
        thin = self.narrow(h)
        inner = self.first(_silu(thin.flatten(1)))
        scale, shift = self.film(told).to(inner.dtype).chunk(2, 1)
        inner = torch.addcmul(shift, inner, 1 + scale)
        return h + self.widen(_silu(self.second(_silu(inner)).view(thin.shape)))


def _zero(layer: L) -> L:
    """Set the parameters of a layer to zero and return it."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)
    return layer


def _waves(level: Tensor) -> Tensor:
    """Embed ln σ (B,) as numbers (B, 17): itself, and sines and cosines of eight wavelengths."""
    angles = level.unsqueeze(1) * torch.arange(1, 9, dtype=level.dtype, device=level.device) / 4
    return torch.cat([level.unsqueeze(1) / 4, angles.sin(), angles.cos()], 1)


def _silu(x: Tensor) -> Tensor:
    return _Silu.apply(x) if torch.is_grad_enabled() else F.silu(x)


class _Silu(torch.autograd.Function):
    """SiLU with its second derivative by hand: autograd takes twice as many passes over memory."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return F.silu(x)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return _SiluSlope.apply(slopes[0], ctx.saved_tensors[0])


class _SiluSlope(torch.autograd.Function):
    """g silu'(x); its slope in x is g silu''(x) = g t (1 − t) (2 + x (1 − 2 t)), t = sigmoid(x)."""

    @staticmethod
    def forward(ctx: Any, slope: Tensor, x: Tensor) -> Tensor:
        ctx.save_for_backward(slope, x)
        return torch.ops.aten.silu_backward(slope, x)

    @staticmethod
    def backward(ctx: Any, *outer: Tensor) -> tuple[Tensor, Tensor]:
        slope, x = ctx.saved_tensors
        t = torch.sigmoid(x)
        bent = torch.ops.aten.sigmoid_backward(outer[0] * slope, t) * torch.addcmul(
            x + 2, x, t, value=-2
        )
        return torch.ops.aten.silu_backward(outer[0], x), bent
