"""The bfloat16 benchmark: its known law is known, its judges see what is different and pass what is
not.
"""

import json
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.proof import RESULTS
from benchmarks.proof import bfloat16 as bf16_quality
from benchmarks.proof.bfloat16 import (
    CONTROL,
    WAYS,
    Convolved,
    Made,
    distances,
    markdown,
    permutation_p,
    toy,
)


def made(count: int, seed: int, shift: float = 0.0) -> Made:
    g = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % 5
    return Made(torch.randn(count, 4, generator=g) + 3 * labels.unsqueeze(1) + shift, labels, 1.0)


def both(a: Made, b: Made) -> Tensor:
    return torch.cat([a.x, b.x]).double()


def test_the_convolutions_law_is_that_of_its_energy() -> None:
    energy = Convolved()
    values, vectors, mean = energy.distribution()
    curvature = torch.autograd.functional.hessian(
        lambda x: energy(x.view(1, 1, 8, 8)).sum(), mean.float()
    )
    assert torch.allclose(curvature.double(), (vectors * values) @ vectors.T, atol=1e-4)
    x = mean.view(1, 1, 8, 8).float().requires_grad_(True)
    (slope,) = torch.autograd.grad(Convolved()(x).sum(), x)
    assert slope.abs().max() < 1e-4


def test_shuffles_pass_equal_laws_and_see_a_shift() -> None:
    equal = [
        permutation_p(a, b, both(a, b), 3.0)
        for a, b in ((made(100, i), made(100, i + 50)) for i in range(10))
    ]
    assert sum(p < 0.05 for p in equal) <= 3 and max(equal) > 0.3
    a, b = made(100, 1), made(100, 2, shift=1.0)
    assert permutation_p(a, b, both(a, b), 3.0) < 0.01


def test_a_set_that_is_off_is_farther_than_seeds_are() -> None:
    sets = {way: [made(60, seed, shift=float(way == CONTROL)) for seed in range(4)] for way in WAYS}
    found = distances(sets, lambda x: x)
    assert found["bfloat16"]["p"] > 0.01 > found[CONTROL]["p"]
    assert min(found[CONTROL]["mmd"]) > max(found["float32"]["mmd"])


def test_the_known_law_is_drawn_in_both_precisions() -> None:
    for row in toy(200, 60):
        assert max(row["largest |z| of 64 means"], row["largest |z| of 64 variances"]) < 5
        assert abs(row["all variances"]["z"]) < 5


def test_a_wrong_gradient_is_seen_on_the_known_law(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 % off in the gradient alone: Langevin shows it, MALA's accept step puts it right."""

    class Off(Convolved):
        def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = x.detach().requires_grad_(True)
                value = self(leaf)
                (slope,) = torch.autograd.grad(value.sum(), leaf)
            return value.detach(), -0.98 * slope

    monkeypatch.setattr(bf16_quality, "Convolved", Off)
    rows = {(row["sampler"], row["precision"]): row["all variances"] for row in toy(400, 150)}
    assert rows["Langevin", "float32"]["z"] > 5 and abs(rows["MALA", "float32"]["z"]) < 5


def test_the_page_is_that_of_the_record() -> None:
    record = json.loads((RESULTS / "bfloat16.json").read_text())
    assert (RESULTS / "bfloat16.md").read_text() == markdown(record)
