"""What the speed benchmarks sample from: two image networks, a perceptron, a Gaussian; for torch
and, equal, for JAX.

Rivals and floors get `Perceptron` and `ScaledGaussian`, the least arithmetic that computes the
energy; lowland gets its own `nets.MLP` with the same weights, and for comparison the same plain
module as everybody else.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.langevin import ImageEnergy
from lowland import real
from lowland.nets import MLP
from lowland.targets import Gaussian

DIMENSION, HIDDEN, CONFINE, SCALE = 10, (128, 128), 0.1, 10.0


class Perceptron(nn.Module):
    """(B, d) → (B,):  s · net(x) + a/2 ‖x‖², with the layers of a lowland MLP: the same weights,
    nothing else.
    """

    def __init__(self, source: MLP) -> None:
        super().__init__()
        self.layers, self.scale, self.quadratic_weight = (
            source.net,
            source.scale,
            source.quadratic_weight,
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.layers(x).squeeze(1) + self.quadratic_weight / 2 * x.square().sum(
            1
        )


class ScaledGaussian(nn.Module):
    """(B, d) → (B,):  ½ Σ (x_i / s_i)², scales s from 1 down to `smallest`, evenly in the
    logarithm.
    """

    scales: Tensor
    precision: Tensor

    def __init__(self, dimension: int = 100, smallest: float = 0.1) -> None:
        super().__init__()
        self.register_buffer(
            "scales", torch.logspace(0, torch.tensor(smallest).log10().item(), dimension)
        )
        self.register_buffer("precision", self.scales.square().reciprocal())

    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * (x.square() * self.precision).sum(1)


class _Block(nn.Module):
    """x ↦ shortcut(x) + conv(SiLU(norm(conv(SiLU(norm(x)))))."""

    def __init__(self, into: int, out: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.GroupNorm(8, into),
            nn.SiLU(),
            nn.Conv2d(into, out, 3, padding=1),
            nn.GroupNorm(8, out),
            nn.SiLU(),
            nn.Conv2d(out, out, 3, padding=1),
        )
        self.shortcut = nn.Identity() if into == out else nn.Conv2d(into, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.path(x)


class Residual(nn.Module):
    """(B, 1, 28, 28) → (B,): a residual energy with GroupNorm and SiLU, 1.2 million weights."""

    def __init__(self, scale: float = 100.0) -> None:
        super().__init__()
        self.scale = scale
        self.layers = nn.Sequential(
            nn.Conv2d(1, 64, 4, 2, 1),
            _Block(64, 64),
            nn.AvgPool2d(2),
            _Block(64, 128),
            *[_Block(128, 128) for _ in range(3)],
            nn.GroupNorm(8, 128),
            nn.SiLU(),
        )
        self.head = nn.Linear(128, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * self.head(self.layers(x).sum((2, 3))).squeeze(1)


def ready(net: nn.Module) -> nn.Module:
    """In eval mode with frozen weights, as every contender gets it."""
    return net.eval().requires_grad_(False)


def images(name: str) -> nn.Module:
    torch.manual_seed(0)
    return ready(ImageEnergy() if name == "conv" else Residual())


def perceptron(dimension: int = DIMENSION) -> MLP:
    torch.manual_seed(0)
    mlp = MLP(real(dimension), HIDDEN, quadratic_weight=CONFINE, scale=SCALE)
    ready(mlp)
    return mlp


def to_jax(net: nn.Module) -> Callable[[Any], Any]:
    """The energy of one point for JAX: x (d,) → (), weights copied."""
    import jax
    import jax.numpy as jnp

    if isinstance(net, ScaledGaussian):
        precision = jnp.asarray(net.precision.numpy())
        return lambda x: 0.5 * jnp.sum(x * x * precision)
    if not isinstance(net, Perceptron):
        raise ValueError(
            f"a {type(net).__name__} came; Perceptron and ScaledGaussian have a JAX form; write it "
            "first"
        )
    linear = [layer for layer in net.layers if isinstance(layer, nn.Linear)]
    weights = [
        (jnp.asarray(layer.weight.numpy().T), jnp.asarray(layer.bias.numpy())) for layer in linear
    ]

    def energy(x: Any) -> Any:
        h = x
        for w, b in weights[:-1]:
            h = jax.nn.silu(h @ w + b)
        w, b = weights[-1]
        return net.scale * (h @ w + b)[..., 0] + net.quadratic_weight / 2 * jnp.sum(x * x, -1)

    return energy


def gaussian(net: ScaledGaussian) -> Gaussian:
    """lowland's own Gaussian with the same distribution."""
    size = len(net.scales)
    return Gaussian([0.0] * size, net.scales.double().square().diag().tolist())
