"""Energies of images. No batch norm anywhere: an energy treats every image by itself."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.domain import Domain
from lowland.energy.sizes import MAX_LAYERS, check_memory, read_flag, read_sizes
from lowland.nets.class_energy import ClassEnergy
from lowland.nets.perceptron import normalize_weight
from lowland.nets.vectors import add_bowl, to_unit_box
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number


def image_shape(domain: Domain) -> tuple[int, int, int]:
    """Return (channels, height, width) of the events. Raises ValueError if they are no images."""
    if len(domain.shape) != 3:
        raise ValueError(
            f"the event shape is {domain.shape}; an image energy takes (channels, height, width); "
            "use MLP"
        )
    return domain.shape


@register("energy")
class ConvNet(ClassEnergy):
    """A plain convolutional energy: strided convolutions with SiLU, then a perceptron.

        E(x, c) = s · head(SiLU(linear(features(z))))_c + a/2 ‖z‖²

    z is x mapped from its box to [−1, 1].

    channels, kernels, strides: one entry per convolution (padding is half the kernel, rounded down
    for even ones); hidden: width of the perceptron; classes: heads, 0 for none; quadratic_weight:
    a; scale: s, the unit of energy the network starts from (an energy trained at T = 1 with scale s
    is one trained at T = 1/s without); spectral_norm: spectral norm.

    >>> import torch
    >>> from lowland.domain import box
    >>> net = ConvNet(box(0.0, 1.0, 1, 8, 8), channels=(8, 8), kernels=(3, 3), strides=(1, 2))
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        domain: Domain | Plain,
        channels: Sequence[int] = (32, 64, 64),
        kernels: Sequence[int] = (3, 3, 3),
        strides: Sequence[int] = (1, 2, 2),
        hidden: int = 128,
        classes: int = 0,
        quadratic_weight: float = 0.0,
        scale: float = 1.0,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__(domain)
        self.channels = read_sizes("channels", channels)
        self.kernels = read_sizes("kernels", kernels)
        self.strides = read_sizes("strides", strides)
        if not len(self.channels) == len(self.kernels) == len(self.strides):
            raise ValueError(
                f"ConvNet was given {len(self.channels)} channels, {len(self.kernels)} kernels and "
                f"{len(self.strides)} strides; there must be one of each per layer; make the lists "
                "equally long"
            )
        self.hidden = read_integer("hidden", hidden, least=1)
        self.classes = read_integer("classes", classes, least=0)
        self.quadratic_weight = read_number("quadratic_weight", quadratic_weight, least=0)
        self.scale = read_number("scale", scale, above=0)
        self.spectral_norm = read_flag("spectral_norm", spectral_norm)
        self.features, size = self._convolutions()
        self.linear = self._norm(nn.Linear(size, self.hidden))
        self.head = self._norm(nn.Linear(self.hidden, max(self.classes, 1)))

    def _convolutions(self) -> tuple[nn.Sequential, int]:
        """Build the convolutions, and count the numbers that come out of them.

        Raises ValueError for kernels wider than what is left of the image, and for sizes that this
        machine's memory does not hold.
        """
        into, *size = image_shape(self.domain)
        layers: list[nn.Module] = []
        for out, kernel, stride in zip(self.channels, self.kernels, self.strides, strict=True):
            padding = (kernel - 1) // 2
            check_memory("ConvNet", into * out * kernel**2)
            left, size = size, [(n + 2 * padding - kernel) // stride + 1 for n in size]
            if min(size) < 1:
                raise ValueError(
                    f"a kernel of {kernel} meets images of {left[0]} x {left[1]}; nothing would be "
                    "left of them; make kernels or strides smaller, or leave layers out"
                )
            layers += [self._norm(nn.Conv2d(into, out, kernel, stride, padding)), nn.SiLU()]
            into = out
        flat = into * math.prod(size)
        check_memory("ConvNet", self.hidden * (flat + max(self.classes, 1)))
        features = nn.Sequential(*layers)
        features.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return features, flat

    def _norm(self, layer: nn.Module) -> nn.Module:
        return normalize_weight(layer, self.spectral_norm)

    def class_energies(self, x: Tensor) -> Tensor:
        z = to_unit_box(x, self.domain)
        features = self.features(z.contiguous(memory_format=torch.channels_last)).flatten(1)
        heads = self.scale * self.head(F.silu(self.linear(features)))
        return add_bowl(heads, z, self.quadratic_weight)


class _Residual(nn.Module):
    """Residual block of the IGEBM: x ↦ pool(shortcut(x) + conv(act(conv(act(x)))))."""

    def __init__(self, into: int, out: int, down: bool, spectral_norm: bool) -> None:
        super().__init__()
        self.first = normalize_weight(nn.Conv2d(into, out, 3, padding=1), spectral_norm)
        self.second = normalize_weight(nn.Conv2d(out, out, 3, padding=1), spectral_norm)
        self.shortcut: nn.Module = nn.Identity()
        if into != out:
            self.shortcut = normalize_weight(nn.Conv2d(into, out, 1), spectral_norm)
        self.down = down

    def forward(self, x: Tensor) -> Tensor:
        y = self.shortcut(x) + self.second(F.silu(self.first(F.silu(x))))
        return F.avg_pool2d(y, 2, ceil_mode=True) if self.down else y


@register("energy")
class IGEBM(ClassEnergy):
    """Residual energy after Du & Mordatch (2019): residual blocks, a sum over space, a linear head.

    widths: channels per stage; blocks: residual blocks per stage, the first of which pools by 2
    (but in the first stage); classes: heads, 0 for none; scale: the unit of energy, as in ConvNet;
    spectral_norm: spectral norm on all layers, frozen inside chains. SiLU replaces the original
    leaky ReLU so that the score is smooth. Source: https://arxiv.org/abs/1903.08689

    >>> import torch
    >>> from lowland.domain import box
    >>> IGEBM(box(0.0, 1.0, 3, 32, 32), widths=(8, 16), blocks=1)(torch.zeros(2, 3, 32, 32)).shape
    torch.Size([2])
    """

    def __init__(
        self,
        domain: Domain | Plain,
        widths: Sequence[int] = (64, 128, 128),
        blocks: int = 2,
        classes: int = 0,
        scale: float = 1.0,
        spectral_norm: bool = True,
    ) -> None:
        super().__init__(domain)
        self.widths = read_sizes("widths", widths)
        self.blocks = read_integer("blocks", blocks, least=1, most=MAX_LAYERS)
        self.classes = read_integer("classes", classes, least=0)
        self.scale = read_number("scale", scale, above=0)
        self.spectral_norm = wanted = read_flag("spectral_norm", spectral_norm)
        channels, _, _ = image_shape(self.domain)
        into = self.widths[0]
        pairs = zip((channels, *self.widths), self.widths, strict=False)
        check_memory("IGEBM", sum(9 * (a + self.blocks * b) * b for a, b in pairs))
        layers: list[nn.Module] = [
            normalize_weight(nn.Conv2d(channels, into, 3, padding=1), wanted)
        ]
        for stage, width in enumerate(self.widths):
            for block in range(self.blocks):
                layers.append(_Residual(into, width, stage > 0 and block == 0, wanted))
                into = width
        self.net = nn.Sequential(*layers, nn.SiLU())
        check_memory("IGEBM", into * self.classes)
        self.head = normalize_weight(nn.Linear(into, max(self.classes, 1)), wanted)

    def class_energies(self, x: Tensor) -> Tensor:
        return self.scale * self.head(self.net(to_unit_box(x, self.domain)).sum((2, 3)))
