"""Answers against the exact conditional law."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from lowland import MALA, BlockGibbs, Langevin, binary, real
from lowland.energy import Energy, NoiseCondition, energy_values
from lowland.nets import RBM, DenoiserMLP
from lowland.objectives import Batch, Context, MultilevelDSM
from lowland.samplers import karras_sigmas
from lowland.targets import Gaussian, GaussianMixture
from lowland.tasks import (
    Identity,
    anneal_composed,
    conditional_sample,
    edit,
    generate,
    generate_by_flow,
    purify,
    split_gibbs_sample,
)
from lowland.testing import LIMIT, caught, seeded

KNOWN = torch.tensor([True, False])
TWO = GaussianMixture([[0.0, -2.0], [0.0, 2.0], [1.0, 0.0]], 0.5)


def misses(sampler: Any = None, x: float = 0.3, steps: int = 150) -> float:
    """|z| of the answers in bins against p(y | x = 0.3) by quadrature, as Pearson's statistic."""
    g = seeded()
    start = torch.cat([torch.zeros(1, 1), torch.zeros(1, 1)], 1)
    found = conditional_sample(
        TWO,
        torch.tensor([[x, 9.0]]),
        KNOWN,
        generator=g,
        draws=4000,
        steps=steps,
        sampler=sampler or MALA(0.5),
        start=start,
    )
    y = torch.linspace(-6, 6, 2401)[:-1] + 0.0025
    p = (
        torch.softmax(-energy_values(TWO, torch.stack([torch.full_like(y, 0.3), y], 1)).double(), 0)
        .view(24, 100)
        .sum(1)
    )
    counts = torch.histc(found.draws[:, 0, 1], 24, -6, 6).double()
    kept = p * 4000 > 5
    chi = ((counts - 4000 * p).square() / (4000 * p))[kept].sum()
    dof = int(kept.sum()) - 1
    return abs(float((chi - dof) / math.sqrt(2 * dof)))


def test_answers_follow_the_conditional_law() -> None:
    assert misses() < LIMIT


def test_planted_bugs_in_answers_are_seen() -> None:
    assert caught(lambda: misses(Langevin(0.5)))
    assert caught(lambda: misses(x=0.5))
    assert caught(lambda: misses(steps=1))


def test_units_of_a_machine_answer_for_the_others() -> None:
    torch.manual_seed(0)
    rbm = RBM(binary(6), n_hidden=4, init_std=1.0)
    known, x = (
        torch.tensor([True, True, False, True, False, False]),
        torch.tensor([[1.0, 0.0, 0.0, 1.0, 0.0, 0.0]]),
    )
    found = conditional_sample(
        rbm, x, known, generator=seeded(), draws=4000, steps=80, sampler=BlockGibbs()
    ).draws[:, 0]
    assert torch.equal(found[:, known], x[:, known].expand(4000, 3))
    states = torch.cartesian_prod(*[torch.arange(2.0)] * 3)
    whole = x.repeat(8, 1)
    whole[:, ~known] = states
    p = torch.softmax(-energy_values(rbm, whole).double(), 0)
    share = (
        torch.bincount((found[:, ~known].long() * torch.tensor([4, 2, 1])).sum(1), minlength=8)
        / 4000
    )
    assert ((share - p) / (p * (1 - p) / 4000).sqrt()).abs().max() < LIMIT


class Exact(Energy):
    """A Gaussian of question and answer, with noise: every level is known."""

    condition = NoiseCondition()
    covariance = torch.tensor([[1.0, 0.8], [0.8, 1.0]])

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        level = torch.as_tensor(c).to(x).expand(len(x)).square()
        precision = torch.linalg.inv(
            self.covariance.to(x) + level.view(-1, 1, 1) * torch.eye(2).to(x)
        )
        return 0.5 * torch.einsum("bi,bij,bj->b", x, precision, x)


def test_an_energy_of_noise_answers_down_its_levels() -> None:
    levels = karras_sigmas(4.0, 0.01, 20)
    x = torch.tensor([[1.5, 0.0], [-1.0, 7.0]])
    found = conditional_sample(
        Exact(real(2)), x, KNOWN, generator=seeded(), sigmas=levels, draws=500, steps=60
    )
    assert torch.equal(found.draws[..., 0], x[:, 0].expand(500, 2)) and not bool(
        found.std[:, 0].any()
    )
    error = 0.6 / math.sqrt(500)
    assert ((found.mean[:, 1] - 0.8 * x[:, 0]) / error).abs().max() < LIMIT
    assert ((found.std[:, 1] / 0.6 - 1) * math.sqrt(1000)).abs().max() < LIMIT


def test_progressive_answers_hold_the_question() -> None:
    x = torch.tensor([[1.5, 0.0]])
    found = conditional_sample(
        Exact(real(2)),
        x,
        KNOWN,
        generator=seeded(),
        method="denoise",
        sigmas=karras_sigmas(4.0, 0.01, 60),
        draws=200,
    )
    assert (
        torch.equal(found.draws[:, 0, 0], x[:, 0].expand(200))
        and abs(found.mean[0, 1] - 1.2) < 0.25
    )
    with pytest.raises(ValueError, match="method 'denoise' and 0 noise levels"):
        conditional_sample(TWO, x, KNOWN, generator=seeded(), method="denoise")


def answering() -> DenoiserMLP:
    """A net that learned y = sin x + 0.3 ε from pairs (x, y), with noise on y alone."""
    g = seeded(1)
    x = 4 * torch.rand(20000, 1, generator=g) - 2
    pairs = torch.cat([x, x.sin() + 0.3 * torch.randn(20000, 1, generator=g)], 1)
    torch.manual_seed(0)
    energy = DenoiserMLP(real(2), hidden=(64, 64), question=(0,))
    energy.init_from_data(pairs)
    objective, optimizer = (
        MultilevelDSM(warmup_fraction=0.8),
        torch.optim.Adam(energy.parameters(), 3e-3),
    )
    for step in range(1500):
        rows = torch.randint(20000, (256,), generator=g)
        optimizer.param_groups[0]["lr"] = 3e-3 * (1 - step / 1500)
        loss = objective.loss(energy, Batch(pairs[rows]), Context(g, progress=step / 1500)).value
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return energy.requires_grad_(False)


def test_an_energy_with_noise_on_the_answer_alone_learns_the_conditional_law() -> None:
    energy, levels = answering(), karras_sigmas(4.0, 0.02, 40)
    x = torch.tensor([[0.0, 9.0], [1.5, 9.0], [-1.5, 9.0]])
    found = conditional_sample(
        energy, x, KNOWN, generator=seeded(), method="denoise", sigmas=levels, draws=400
    )
    assert torch.equal(found.draws[..., 0], x[:, 0].expand(400, 3)) and not bool(
        found.std[:, 0].any()
    )
    assert (
        found.mean[:, 1] - x[:, 0].sin()
    ).abs().max() < 0.1  # what the net has not learned, and 0.3 / √400
    assert (found.std[:, 1] - 0.3).abs().max() < 0.1
    drawn = generate_by_flow(
        energy, levels, 400, generator=seeded()
    ).x  # answers to questions of the data
    assert bool(torch.isin(drawn[:, 0], energy.examples).all())
    assert (drawn[:, 1] - drawn[:, 0].sin()).square().mean().sqrt() < 0.36
    with pytest.raises(
        ValueError, match=r"another mask came .*; it learned to answer that one alone; pass known"
    ):
        conditional_sample(energy, x, ~KNOWN, generator=seeded(), method="denoise", sigmas=levels)
    g = seeded()
    for whole in (
        lambda: generate(energy, Langevin(0.1), x, 5, generator=g, sigmas=levels),
        lambda: anneal_composed(energy + energy, levels, x, 5, generator=g),
        lambda: edit(energy, x, lambda x: x.sum(1), generator=g, sigmas=levels),
        lambda: purify(energy, x, method="denoise", sigma=0.5, steps=1, generator=g),
        lambda: split_gibbs_sample(
            energy, Identity(), x, 0.1, generator=g, sigma_max=4.0, sigma_min=0.02
        ),
    ):
        with pytest.raises(
            ValueError, match=r"trained to answer the question .*; use tasks.conditional_sample"
        ):
            whole()


def test_descent_gives_one_likely_answer() -> None:
    both = Gaussian((0.0, 0.0), ((1.0, 0.8), (0.8, 1.0)))
    found = conditional_sample(
        both, torch.tensor([[2.0, 0.0]]), KNOWN, generator=seeded(), method="map"
    )
    assert torch.allclose(found.mean, torch.tensor([[2.0, 1.6]]), atol=1e-2)


def test_what_cannot_be_asked_is_refused() -> None:
    x = torch.zeros(1, 2)
    for changed in ({"draws": 0}, {"method": "guess"}, {"sigmas": (1.0, 0.1)}):
        with pytest.raises(
            ValueError,
            match=r"conditional_sample was given .*; draws are at least 1.*; correct them",
        ):
            conditional_sample(TWO, x, KNOWN, generator=seeded(), **changed)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="energy of noise; draws"):
        conditional_sample(Exact(real(2)), x, KNOWN, generator=seeded())
    with pytest.raises(ValueError, match=r"the mask has shape \(3,\)"):
        conditional_sample(TWO, x, torch.tensor([True, False, False]), generator=seeded())
    with pytest.raises(ValueError, match="every number is known"):
        conditional_sample(TWO, x, torch.tensor([True, True]), generator=seeded())
