"""Plain random transforms of a batch: of chains between two visits, or of the two views of one
example.

Each takes x (B, *event) and draws one transform per row. Images are (channels, height, width); a
vector knows only noise.

    flip      left to right, half of the rows
    shift     by whole pixels up to an eighth, edges repeated
    rotate    by up to 15 degrees, bilinear
    blur      3 × 3 binomial, half of the rows
    colour    contrast and brightness by up to a fifth
    noise     normal, a tenth of the standard deviation of the batch
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from lowland.domain import Domain
from lowland.samplers.kernel import normal_like, per_row
from lowland.transfer import constants

Transform = Callable[[Tensor, torch.Generator], Tensor]


def _uniform(x: Tensor, generator: torch.Generator) -> Tensor:
    return torch.rand(len(x), generator=generator, device=x.device, dtype=x.dtype)


def _some(x: Tensor, moved: Tensor, generator: torch.Generator, share: float = 0.5) -> Tensor:
    return torch.where(per_row(_uniform(x, generator) < share, x), moved, x)


def _flip(x: Tensor, generator: torch.Generator) -> Tensor:
    return _some(x, x.flip(-1), generator)


def _shift(x: Tensor, generator: torch.Generator) -> Tensor:
    for dim in (2, 3):
        side = x.shape[dim]
        reach = max(1, side // 8)
        moves = torch.randint(-reach, reach + 1, (len(x), 1), generator=generator, device=x.device)
        places = (torch.arange(side, device=x.device) + moves).clamp(0, side - 1)
        x = torch.take_along_dim(
            x, places.view(-1, 1, side, 1) if dim == 2 else places.view(-1, 1, 1, side), dim
        )
    return x


def _rotate(x: Tensor, generator: torch.Generator) -> Tensor:
    angle = math.radians(15) * (2 * _uniform(x, generator) - 1)
    still = torch.zeros_like(angle)
    first = torch.stack([angle.cos(), -angle.sin(), still], 1)
    second = torch.stack([angle.sin(), angle.cos(), still], 1)
    grid = F.affine_grid(torch.stack([first, second], 1), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, padding_mode="border", align_corners=False)


def _blur(x: Tensor, generator: torch.Generator) -> Tensor:
    row = constants([0.25, 0.5, 0.25], x)
    kernel = (row.unsqueeze(1) * row).expand(x.shape[1], 1, 3, 3)
    blurred = F.conv2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), kernel, groups=x.shape[1])
    return _some(x, blurred, generator)


def _colour(x: Tensor, generator: torch.Generator) -> Tensor:
    contrast, brightness = (0.2 * (2 * _uniform(x, generator) - 1) for _ in range(2))
    mean = x.flatten(1).mean(1)
    spread = x.flatten(1).std(1, correction=0)
    return per_row(mean + brightness * spread, x) + per_row(1 + contrast, x) * (
        x - per_row(mean, x)
    )


def _noise(x: Tensor, generator: torch.Generator) -> Tensor:
    return x + 0.1 * x.std(correction=0) * normal_like(x, generator)


TRANSFORMS: dict[str, Transform] = {
    "flip": _flip,
    "shift": _shift,
    "rotate": _rotate,
    "blur": _blur,
    "colour": _colour,
    "noise": _noise,
}


def check_augment(names: Sequence[str]) -> None:
    """Raise ValueError for a transform that is not known."""
    unknown = [name for name in names if name not in TRANSFORMS]
    if unknown:
        raise ValueError(
            f"augment names {', '.join(map(repr, unknown))}; known are {', '.join(TRANSFORMS)}; "
            "correct it"
        )


@torch.no_grad()
def augment(x: Tensor, names: Sequence[str], generator: torch.Generator, domain: Domain) -> Tensor:
    """Apply the named transforms to x (B, *event) in turn, and fold it back into its box.

    Raises ValueError for a transform of images on other events, and on a discrete domain.

    >>> import torch, lowland
    >>> g = torch.Generator().manual_seed(0)
    >>> square = lowland.box(0.0, 1.0, 1, 8, 8)
    >>> augment(torch.rand(2, 1, 8, 8), ("shift", "noise"), g, square).shape
    torch.Size([2, 1, 8, 8])
    """
    flat = [name for name in names if name != "noise" and x.dim() != 4]
    if names and (flat or domain.kind not in ("real", "box")):
        raise ValueError(
            f"augment names {', '.join(names)} for events of shape {tuple(x.shape[1:])} on a "
            f"{domain.kind} domain; pictures (channels, height, width) of real numbers take all, "
            "vectors 'noise' alone; leave out the others"
        )
    for name in names:
        x = TRANSFORMS[name](x, generator)
    if not names:
        return x
    return domain.reflect(x)[0]
