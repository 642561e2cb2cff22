"""Strokes of known thickness and slant."""

import math

import pytest
import torch
from torch import Tensor

from benchmarks.quality.attributes import slant, thickness


def bar(width: float, angle: float, size: int = 40) -> Tensor:
    """A bar of so many pixels, leaning to the right by so many degrees, drawn eight times finer and
    averaged.
    """
    axis = (torch.arange(size * 8) + 0.5) / 8 - size / 2
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    a = math.radians(angle)
    across, along = x * math.cos(a) + y * math.sin(a), y * math.cos(a) - x * math.sin(a)
    fine = ((across.abs() <= width / 2) & (along.abs() <= 14)).float()
    return torch.nn.functional.avg_pool2d(fine[None, None], 8)


@pytest.mark.parametrize("width", [2.0, 3.0, 4.5, 6.0])
def test_thickness_of_bars(width: float) -> None:
    found = thickness(torch.cat([bar(width, angle) for angle in (0, 12, 30, 45)]))
    assert (found - width).abs().max() < 0.5 and (found.mean() - width).abs() < 0.3


@pytest.mark.parametrize("angle", [-30.0, -10.0, 0.0, 10.0, 30.0])
def test_slant_of_bars(angle: float) -> None:
    assert abs(slant(bar(1.0, angle)).item() - math.tan(math.radians(angle))) < 0.02


def test_a_ring_of_strokes_has_their_thickness_and_no_slant() -> None:
    axis = torch.arange(40.0) - 19.5
    radius = (axis[:, None].square() + axis.square()).sqrt()
    ring = ((radius - 12).abs() <= 1.5).float()[None, None]
    assert abs(thickness(ring).item() - 3.0) < 0.4 and abs(slant(ring).item()) < 1e-3


def test_grey_level_and_place_do_not_matter() -> None:
    x = bar(3.0, 20.0)
    moved = torch.roll(x, (3, -2), (2, 3))
    assert torch.allclose(thickness(0.4 * x), thickness(x)) and torch.allclose(
        thickness(moved), thickness(x)
    )
    assert torch.allclose(slant(0.4 * x), slant(x), atol=1e-5) and torch.allclose(
        slant(moved), slant(x), atol=1e-5
    )


def test_the_dark_has_neither() -> None:
    dark = torch.zeros(2, 1, 28, 28)
    assert bool(thickness(dark).isnan().all()) and bool(slant(dark).isnan().all())


def test_only_grey_pictures_are_measured() -> None:
    for bad in (
        torch.zeros(1, 3, 8, 8),
        torch.zeros(1, 8, 8),
        torch.zeros(1, 1, 8, 8, dtype=torch.uint8),
    ):
        for measure in (thickness, slant):
            with pytest.raises(
                ValueError,
                match=r"pictures came as .*; strokes are measured on grey ones.*; take one channel",
            ):
                measure(bad)
