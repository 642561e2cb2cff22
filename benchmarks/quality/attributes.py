"""What a stroke looks like, measured from the picture and by no network: how thick it is, how much
it leans.

A picture is grey values in [0, 1], bright strokes on black. What is measured here never saw a
classifier, so it can judge samples that classifiers helped to draw.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

FINER = 4  # measured on a grid so many times finer: strokes are only a few pixels wide


def thickness(images: Tensor) -> Tensor:
    """How thick strokes are, in pixels: (B,) of pictures (B, 1, H, W).

    Twice the mean distance from the ridge of the stroke to its edge: on a finer grid, what is
    brighter than half of the brightest pixel is ink; the ridge is the ink no nearer to the edge
    than any neighbour. nan where nothing is bright.

    Raises ValueError for anything but grey pictures.
    Source: after Castro et al. (2019), Morpho-MNIST, section 3, https://arxiv.org/abs/1809.10780

    >>> bar = torch.zeros(1, 1, 28, 28)
    >>> bar[:, :, 4:24, 12:15] = 1.0
    >>> thickness(bar).round(decimals=1)
    tensor([2.9000])
    """
    from scipy.ndimage import distance_transform_edt, maximum_filter

    _check(images)
    fine = F.interpolate(images.float(), scale_factor=FINER, mode="bilinear", align_corners=False)
    ink = (fine > fine.amax((2, 3), keepdim=True) / 2).squeeze(1).numpy()
    found = torch.full((len(images),), torch.nan)
    for i, picture in enumerate(ink):
        if picture.any():
            away = distance_transform_edt(picture)
            ridge = picture & (away >= maximum_filter(away, 3))
            found[i] = (
                2 * float(away[ridge].mean()) - 0.5
            ) / FINER  # half a pixel: away counts from centre to centre
    return found


def slant(images: Tensor) -> Tensor:
    """How much strokes lean to the right, as the tangent of the angle from upright: (B,) of
    pictures (B, 1, H, W).

        slant = −μ_xy / μ_yy,      μ: second central moments, grey values as masses, y downwards

    the shear that would leave no correlation between height and place. 0 is upright, 1 leans by
    45°; nan where all is dark.

    Raises ValueError for anything but grey pictures.
    Source: the same paper, https://arxiv.org/abs/1809.10780

    >>> slash = torch.eye(28).flip(1).view(1, 1, 28, 28)
    >>> slant(slash).round(decimals=2)
    tensor([1.])
    """
    _check(images)
    mass = images.squeeze(1).double().clamp(min=0.0)
    total = mass.sum((1, 2))
    y, x = (torch.arange(n, dtype=torch.float64) for n in mass.shape[1:])
    y = y - ((mass.sum(2) @ y) / total).unsqueeze(1)
    x = x - ((mass.sum(1) @ x) / total).unsqueeze(1)
    both = torch.einsum("bhw,bh,bw->b", mass, y, x)
    return (-both / (mass.sum(2) * y.square()).sum(1)).to(images.dtype)


def _check(images: Tensor) -> None:
    if images.dim() != 4 or images.shape[1] != 1 or not images.is_floating_point():
        raise ValueError(
            f"pictures came as {images.dtype} of shape {tuple(images.shape)}; strokes are measured "
            "on grey ones, floats (B, 1, height, width) in [0, 1]; take one channel"
        )
