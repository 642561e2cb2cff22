"""Structural similarity: as scikit-image computes it, and by its formula on one window."""

import numpy as np
import pytest
import torch
from contract.cases import seeded

from lowland.metrics import ssim


def pairs(channels: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    x = torch.rand(4, channels, 20, 17, generator=seeded())
    return (x + 0.2 * torch.randn(x.shape, generator=seeded(1))).clamp(0, 1), x


@pytest.mark.parametrize("channels", [1, 3])
def test_it_is_what_scikit_image_says(channels: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    x, truth = pairs(channels)
    settings = {
        "gaussian_weights": True,
        "sigma": 1.5,
        "use_sample_covariance": False,
        "data_range": 1.0,
        "channel_axis": 0,
    }
    theirs = [
        metrics.structural_similarity(a.double().numpy(), b.double().numpy(), **settings)
        for a, b in zip(x, truth, strict=True)
    ]
    found = ssim(x, truth)
    assert found.value == pytest.approx(np.mean(theirs), abs=1e-9)
    assert found.error == pytest.approx(np.std(theirs, ddof=1) / 2, abs=1e-9)


def test_one_window_by_its_formula() -> None:
    x, truth = pairs()
    a, b = (t[:, :, :11, :11].double().numpy() for t in (x, truth))
    line = np.exp(-(np.arange(-5, 6) ** 2) / 4.5)
    window = np.outer(line, line) / line.sum() ** 2
    values = []
    for p, q in zip(a[:, 0], b[:, 0], strict=True):
        m, n = (window * p).sum(), (window * q).sum()
        v, w, c = (
            (window * (p - m) ** 2).sum(),
            (window * (q - n) ** 2).sum(),
            (window * (p - m) * (q - n)).sum(),
        )
        values.append(
            (2 * m * n + 1e-4) * (2 * c + 9e-4) / ((m * m + n * n + 1e-4) * (v + w + 9e-4))
        )
    assert ssim(x[:, :, :11, :11], truth[:, :, :11, :11]).value == pytest.approx(
        np.mean(values), abs=1e-9
    )
    assert ssim(truth, truth).value == pytest.approx(1.0) and ssim(
        255 * x, 255 * truth, peak=255.0
    ).value == pytest.approx(ssim(x, truth).value, abs=1e-6)


def test_what_has_no_window_is_refused() -> None:
    for x, y in (
        (torch.zeros(1, 1, 8, 8),) * 2,
        (torch.zeros(1, 1, 12, 12), torch.zeros(2, 1, 12, 12)),
    ):
        with pytest.raises(ValueError, match=r"sides of 11 or more.*; pad|both the same shape"):
            ssim(x, y)
