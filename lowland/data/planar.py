"""Two-dimensional densities, the toy sets of the field: moons, rings, spirals and others.

Every sampler is shifted and divided by fixed constants, derived here and not measured from the
draw, so that the distribution has mean 0 and mean variance 1 per coordinate: E[x] = 0 and
E|x|² = 2. One number scales both coordinates, so circles stay circles. A density with components
(moons, rings, arms, blobs) has the component as its label.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

Draw = Callable[[int, Generator], tuple[Tensor, Tensor | None]]


@dataclass(frozen=True)
class PlanarDensity:
    """A density in the plane. draw: gives raw points (N, 2) and labels; mean, scale: exact
    constants of that distribution; classes: 0 without labels.
    """

    line: str
    draw: Draw
    mean: tuple[float, float]
    scale: float
    classes: int

    def __call__(self, count: int, generator: Generator) -> tuple[Tensor, Tensor | None]:
        """Draw `count` standardized points (count, 2) and their labels (count,), or None."""
        x, y = self.draw(count, generator)
        return (x - x.new_tensor(self.mean)) / self.scale, y


def _noise(count: int, generator: Generator) -> Tensor:
    return torch.randn(count, 2, generator=generator, dtype=torch.float32)


def _uniform(count: int, generator: Generator) -> Tensor:
    return torch.rand(count, generator=generator, dtype=torch.float32)


def _label(classes: int, count: int, generator: Generator) -> Tensor:
    return torch.randint(classes, (count,), generator=generator)


def _circle(angle: Tensor) -> Tensor:
    return torch.stack((angle.cos(), angle.sin()), 1)


MOON_NOISE = 0.1


def moons(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from two half circles of radius 1: (cos t, sin t) and (1 − cos t, 1/2 − sin t), t
    uniform on [0, π].

    E x₁ = 1/2, Var x₁ = 3/4; E x₂ = 1/4, Var x₂ = 9/16 − 1/π (each plus the noise variance).
    """
    y = _label(2, count, generator)
    upper = _circle(math.pi * _uniform(count, generator))
    lower = upper.new_tensor([1.0, 0.5]) - upper
    return torch.where(y[:, None] == 0, upper, lower) + MOON_NOISE * _noise(count, generator), y


RING_NOISE, RINGS = 0.1, 4


def rings(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from four concentric circles with radii 1, 2, 3, 4 and the same weight.

    E|x|² = (1 + 4 + 9 + 16)/4 plus twice the noise variance.
    """
    y = _label(RINGS, count, generator)
    points = (y + 1)[:, None] * _circle(2 * math.pi * _uniform(count, generator))
    return points + RING_NOISE * _noise(count, generator), y


def checkerboard(count: int, generator: Generator) -> tuple[Tensor, None]:
    """Draw uniformly on the 8 dark squares of a 4 × 4 board over [−2, 2]²: those whose row and
    column number have an even sum.

    Each coordinate alone is uniform on [−2, 2], with variance 4/3.
    """
    column, pair = _label(4, count, generator), _label(2, count, generator)
    corner = torch.stack((column, 2 * pair + column % 2), 1) - 2
    return corner + torch.rand(count, 2, generator=generator, dtype=torch.float32), None


BLOB_NOISE, BLOB_RADIUS = 0.2, 2.0


def eight_gaussians(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from eight normal blobs (sd 0.2) on a circle of radius 2, with the same weight.

    E|x|² = 2² plus twice the noise variance.
    """
    y = _label(8, count, generator)
    return BLOB_RADIUS * _circle(math.pi / 4 * y.float()) + BLOB_NOISE * _noise(count, generator), y


SPIRAL_NOISE, SPIRAL_END = 0.3, 3 * math.pi


def spirals(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from two arms ±t (cos t, sin t) with t = 3π √u, u uniform.

    E|x|² = E t² = (3π)²/2 plus twice the noise variance.
    """
    y = _label(2, count, generator)
    t = SPIRAL_END * _uniform(count, generator).sqrt()
    arm = (1 - 2 * y)[:, None] * t[:, None] * _circle(t)
    return arm + SPIRAL_NOISE * _noise(count, generator), y


PINWHEEL_ARMS, PINWHEEL_RADIAL, PINWHEEL_TANGENTIAL, PINWHEEL_TWIST = 5, 0.3, 0.1, 0.25


def pinwheel(count: int, generator: Generator) -> tuple[Tensor, Tensor]:
    """Draw from five blobs N((1, 0), diag(0.3², 0.1²)), each point turned by its arm's angle +
    e^r/4 with r its first coordinate.

    Turning keeps lengths: E|x|² = 1 + 0.3² + 0.1². Five-fold symmetry makes the covariance round.

    Source: M. Johnson et al., "Composing graphical models with neural networks" (2016),
    https://arxiv.org/abs/1603.06277
    """
    y = _label(PINWHEEL_ARMS, count, generator)
    noise = _noise(count, generator)
    widths = noise.new_tensor([PINWHEEL_RADIAL, PINWHEEL_TANGENTIAL])
    blob = noise * widths + noise.new_tensor([1.0, 0.0])
    angle = 2 * math.pi / PINWHEEL_ARMS * y.float() + PINWHEEL_TWIST * blob[:, 0].exp()
    across = torch.stack((-blob[:, 1], blob[:, 0]), 1)  # the blob, a quarter turn on
    return angle.cos()[:, None] * blob + angle.sin()[:, None] * across, y


def _scale(square: float, noise: float = 0.0) -> float:
    """Return √(E|x − mean|²/2) of a density whose noiseless part has the given E|x − mean|²."""
    return math.sqrt(square / 2 + noise**2)


ORIGIN = (0.0, 0.0)
MOON_SCALE = _scale(0.75 + 9 / 16 - 1 / math.pi, MOON_NOISE)
BLOB_SCALE = _scale(BLOB_RADIUS**2, BLOB_NOISE)
SPIRAL_SCALE = _scale(SPIRAL_END**2 / 2, SPIRAL_NOISE)
PINWHEEL_SCALE = _scale(1 + PINWHEEL_RADIAL**2 + PINWHEEL_TANGENTIAL**2)
PLANAR_DENSITIES = {
    "moons": PlanarDensity("two half circles, labelled", moons, (0.5, 0.25), MOON_SCALE, 2),
    "rings": PlanarDensity(
        "four concentric circles, labelled", rings, ORIGIN, _scale(7.5, RING_NOISE), RINGS
    ),
    "checkerboard": PlanarDensity(
        "uniform on the dark squares of a 4 × 4 board", checkerboard, ORIGIN, _scale(8 / 3), 0
    ),
    "eight-gaussians": PlanarDensity(
        "eight blobs on a circle, labelled", eight_gaussians, ORIGIN, BLOB_SCALE, 8
    ),
    "spirals": PlanarDensity("two spiral arms, labelled", spirals, ORIGIN, SPIRAL_SCALE, 2),
    "pinwheel": PlanarDensity(
        "five twisted arms, labelled", pinwheel, ORIGIN, PINWHEEL_SCALE, PINWHEEL_ARMS
    ),
}
