"""Measurements: every operator is linear, its transpose is its transpose, and its map is the one
its name says.
"""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lowland.tasks import (
    BlockAverage,
    Blur,
    Fourier,
    Identity,
    Linear,
    Mask,
    Operator,
    Projection,
    Stride,
)

SHAPE = (2, 8, 12)
FREQUENCIES = torch.rand(8, 12, generator=torch.Generator().manual_seed(3)) < 0.4
KNOWN = torch.rand(8, 12, generator=torch.Generator().manual_seed(4)) < 0.5
OPERATORS: dict[str, Operator] = {
    "identity": Identity(),
    "mask of all channels": Mask(KNOWN),
    "mask": Mask(torch.rand(SHAPE, generator=torch.Generator().manual_seed(5)) < 0.5),
    "means": BlockAverage(4),
    "stride": Stride(2),
    "blur": Blur(1.3),
    "projection": Projection(SHAPE, 30, seed=1),
    "fourier": Fourier(FREQUENCIES),
    "blurred, then thinned": Stride(4) @ Blur(0.8),
    "frequencies of a mask": Fourier(FREQUENCIES) @ Mask(KNOWN),
    "a function": Linear(lambda x: x.flatten(1)[:, ::3] - 0.5 * x.flatten(1)[:, 1::3], SHAPE),
}


def normals(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gap(operator: Operator) -> float:
    """|⟨A x, y⟩ − ⟨x, A_T y⟩| of random points, over the size of either."""
    x = normals((3, *SHAPE), 0)
    y = normals(tuple(operator.A(x).shape), 1)
    forth, back = (operator.A(x) * y).sum(), (x * operator.A_T(y)).sum()
    return float((forth - back).abs() / forth.abs().clamp_min(1.0))


@pytest.mark.parametrize("operator", OPERATORS.values(), ids=list(OPERATORS))
def test_transposes_are_transposes_and_maps_are_linear(operator: Operator) -> None:
    assert gap(operator) < 1e-12
    x, z = normals((3, *SHAPE), 0), normals((3, *SHAPE), 2)
    assert torch.allclose(operator(2 * x - z), 2 * operator(x) - operator(z), atol=1e-12)
    assert operator.A_T(operator.A(x)).shape == x.shape
    assert operator.A(x.float()).dtype == torch.float32 and operator.A(x).dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("means", lambda y: 16 * BlockAverage(4).A_T(y)),  # a mean forth and a sum back
        ("stride", lambda y: Stride(2).A_T(y).roll(1, -1)),
        ("fourier", lambda y: Fourier(FREQUENCIES).A_T(y.flip(1))),  # real for imaginary
    ],
)
def test_wrong_transposes_are_caught(name: str, wrong: Callable[[Tensor], Tensor]) -> None:
    operator = OPERATORS[name]

    class Broken(Operator):
        def A(self, x: Tensor) -> Tensor:
            return operator.A(x)

        def A_T(self, y: Tensor) -> Tensor:
            return wrong(y)

    assert gap(Broken()) > 1e-3


def test_what_the_maps_are() -> None:
    x = normals((2, *SHAPE), 0)
    assert torch.allclose(BlockAverage(2)(x)[0, 1, 1, 2], x[0, 1, 2:4, 4:6].mean())
    assert torch.equal(Stride(4)(x)[:, :, 1, 2], x[:, :, 4, 8])
    assert torch.equal(Mask(KNOWN)(x)[:, 0], torch.where(KNOWN, x[:, 0], 0.0))
    everything = Fourier(torch.ones(8, 12, dtype=torch.bool))
    assert torch.allclose(everything.A_T(everything(x)), x)
    assert torch.allclose(everything(x).square().sum(), x.square().sum())
    dot = torch.zeros(1, 1, 15, 15, dtype=torch.float64)
    dot[0, 0, 7, 7] = 1.0
    smeared = Blur(1.0)(dot)
    assert math.isclose(float(smeared.sum()), 1.0) and torch.allclose(smeared, smeared.mT)
    ratio = float(smeared[0, 0, 7, 8] / smeared[0, 0, 7, 7])
    assert math.isclose(ratio, math.exp(-0.5))


def test_a_blur_is_a_convolution_with_zeros_around() -> None:
    x = normals((2, *SHAPE), 0)
    line = torch.exp(-torch.arange(-4, 5, dtype=torch.float64).square() / (2 * 1.3**2))
    line /= line.sum()
    flat = torch.nn.functional.conv2d(
        x.flatten(0, 1).unsqueeze(1), torch.outer(line, line)[None, None], padding=4
    )
    assert torch.allclose(Blur(1.3)(x), flat.view(x.shape))


@pytest.mark.parametrize(
    ("name", "squared"),
    [
        ("identity", 1.0),
        ("mask", 1.0),
        ("means", 1 / 16),
        ("stride", 1.0),
        ("blur", None),
        ("projection", None),
        ("a function", 1.25),
    ],
)
def test_operators_know_whether_they_are_tight(name: str, squared: float | None) -> None:
    assert OPERATORS[name].tight_constant(normals((2, *SHAPE), 0)) == (
        squared if squared is None else pytest.approx(squared)
    )


def test_projections_belong_to_their_seed_and_keep_lengths_on_average() -> None:
    x = normals((400, *SHAPE), 0)
    operator = OPERATORS["projection"]
    assert torch.equal(operator(x), Projection(SHAPE, 30, seed=1)(x))
    ratio = Projection(SHAPE, 300, seed=2)(x).square().sum(1) / x.flatten(1).square().sum(1)
    assert abs(float(ratio.mean()) - 1) < 5 * math.sqrt(
        2 / 300
    )  # one matrix for all: its own luck does not average out


def test_the_largest_singular_value() -> None:
    matrix = Projection(SHAPE, 30, seed=1)
    rows = matrix.A(torch.eye(math.prod(SHAPE), dtype=torch.float64).view(-1, *SHAPE))
    truth = float(torch.linalg.matrix_norm(rows, 2))
    assert math.isclose(
        matrix.spectral_norm(normals((1, *SHAPE), 3), steps=300), truth, rel_tol=1e-3
    )
    assert math.isclose(BlockAverage(4).spectral_norm(normals((1, *SHAPE), 3)), 0.25, rel_tol=1e-9)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (
            lambda x: Mask(torch.ones(8, 11, dtype=torch.bool))(x),
            r"mask has shape \(8, 11\) .*; .*; make the mask anew",
        ),
        (lambda x: Mask(torch.ones(8, 12))(x), "the mask is torch.float32 .*; .*; pass known.bool"),
        (lambda x: Mask(torch.ones(1, 2, 8, 12, dtype=torch.bool))(x), "mask has shape"),
        (lambda x: BlockAverage(3)(x), "shrinks by 3; .*; pad it"),
        (lambda x: BlockAverage(0), "factor by which .* is 0; .*at least 1; pass"),
        (lambda x: Stride(5)(x), "shrinks by 5"),
        (lambda x: Blur(-1.0), "sigma of a blur is -1.0; .* above 0 .*; pass"),
        (lambda x: Blur(1.0)(x.flatten(1)), r"shape \(192,\); images .*; reshape them"),
        (lambda x: Projection((3,), 2, seed=0)(x), r"made for \(3,\); .*; make a projection"),
        (lambda x: Projection((3,), 0, seed=0), "to 0 numbers .*; .*; correct them"),
        (
            lambda x: Fourier(torch.ones(4, 4, dtype=torch.bool))(x),
            r"chosen for \(4, 4\); .*; choose them",
        ),
        (
            lambda x: Fourier(torch.ones(4, 4)),
            r"frequencies are torch.float32 .*; .*; pass frequencies.bool",
        ),
    ],
)
def test_what_does_not_fit_is_refused(make: Callable[[Tensor], object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(normals((2, *SHAPE), 0))
