"""Errors of images: peak signal-to-noise ratio and structural similarity."""

import numpy as np
import torch
from torch import Tensor

from lowland.energy.points import describe
from lowland.metrics.estimate import Estimate, mean
from lowland.metrics.inputs import Numbers, read_numbers
from lowland.scalars import read_number


def psnr(
    x: Numbers, truth: Numbers, *, mask: Tensor | None = None, peak: float | None = None
) -> Estimate:
    """Return the peak signal-to-noise ratio in dB, 10 log₁₀(peak² / MSE), averaged over images.

    x, truth (N, *event): of any real type, computed in float64; mask (*event), bool: the pixels
    that count; all unless given; peak: the largest value that an image can have, 1 unless given,
    which images of whole numbers must name (255 for 8 bits). An image without error has an infinite
    ratio, and so has the mean. Raises ValueError for shapes that differ, and numbers that are not
    finite.

    >>> truth = torch.tensor([[0, 200]], dtype=torch.uint8)
    >>> round(psnr(255 - truth, truth, peak=255).value, 2)
    1.79
    """
    a, b, where = _read_images(x, truth, mask)
    peak = _read_peak(x, truth, peak)
    squares = (a - b).square()
    weights = where.expand(squares.shape[1:]).to(squares)
    errors = (squares * weights).flatten(1).sum(1) / weights.sum()
    return mean(10 * torch.log10(peak**2 / errors))


def ssim(x: Numbers, truth: Numbers, *, peak: float | None = None) -> Estimate:
    """Return the structural similarity, averaged over images (N, C, H, W); 1 means equal.

        (2 m_x m_y + c₁) (2 s_xy + c₂) / ((m_x² + m_y² + c₁) (s_x² + s_y² + c₂)),
        c = (0.01 peak)², (0.03 peak)²

    with means m, variances and covariance s under a Gaussian window, σ = 1.5 pixels, 11 × 11,
    wherever it fits into the image. peak: as in `psnr`. Source: Wang et al. (2004),
    https://doi.org/10.1109/TIP.2003.819861

    >>> image = torch.rand(3, 1, 16, 16, generator=torch.Generator().manual_seed(0))
    >>> ssim(image, image).value
    1.0
    """
    a, b, _ = _read_images(x, truth, None)
    peak = _read_peak(x, truth, peak)
    if a.dim() != 4 or min(a.shape[2:]) < 11:
        raise ValueError(
            f"images have shape {tuple(a.shape)}; (N, C, H, W) with sides of 11 or more is needed; "
            "pad or enlarge small images"
        )
    line = torch.softmax(
        -torch.arange(-5, 6, dtype=torch.float64, device=a.device).square() / (2 * 1.5**2), 0
    )

    def smooth(image: Tensor) -> Tensor:
        return torch.einsum("nchwij,i,j->nchw", image.unfold(2, 11, 1).unfold(3, 11, 1), line, line)

    ma, mb = smooth(a), smooth(b)
    va, vb, vab = smooth(a * a) - ma * ma, smooth(b * b) - mb * mb, smooth(a * b) - ma * mb
    c1, c2 = (0.01 * peak) ** 2, (0.03 * peak) ** 2
    values = (2 * ma * mb + c1) * (2 * vab + c2) / ((ma * ma + mb * mb + c1) * (va + vb + c2))
    return mean(values.flatten(1).mean(1))


def _read_peak(x: Numbers, truth: Numbers, peak: float | None) -> float:
    """Return the peak; refuse to guess that of images of whole numbers."""
    if peak is not None:
        return read_number("peak", peak, above=0)
    for images in (x, truth):
        dtype = images.dtype if isinstance(images, Tensor) else np.asarray(images).dtype
        if "int" in str(dtype):
            raise ValueError(
                f"images came as {dtype} without a peak; the largest value that they can have is "
                "needed; pass peak=255 for 8 bits, or images as floats in [0, 1]"
            )
    return 1.0


def _read_images(x: Numbers, truth: Numbers, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """Return images and truth (N, *event) in float64 on one device, and a mask of their event."""
    a, b = read_numbers("images", x), read_numbers("the truth", truth)
    b = b.to(a.device)
    if a.shape != b.shape or a.dim() < 2 or a.numel() == 0:
        raise ValueError(
            f"images of shape {tuple(a.shape)} met a truth of {tuple(b.shape)}; both (N, *event), "
            "with an image or more, are needed; give both the same shape"
        )
    where = torch.ones((), dtype=torch.bool) if mask is None else torch.as_tensor(mask)
    sides = zip(reversed(where.shape), reversed(a.shape[1:]), strict=False)
    fits = where.dim() < a.dim() and all(m in (1, side) for m, side in sides)
    if where.dtype != torch.bool or not fits or not bool(where.any()):
        raise ValueError(
            f"the mask is {describe(where)}, true at {int(where.count_nonzero())} places, for "
            f"images of shape {tuple(a.shape)}; a bool of their event shape that is true somewhere "
            "is needed; correct it"
        )
    return a, b, where.to(a.device)
