"""Classifiers and critics as energies: what they say, what they say behind noise, and what is
refused.
"""

import pytest
import torch
from torch import Tensor

from lowland import Function, real
from lowland.energy import Energy, NoiseCondition, noise_of, score_with_graph, value_and_score
from lowland.nets import MLP, DenoiserMLP
from lowland.samplers import denoise
from lowland.targets import Gaussian
from lowland.tasks import (
    Constant,
    DenoisedGuidance,
    Identity,
    LabelGuidance,
    Likelihood,
    edit,
)
from lowland.tasks.composition.guidance import bind_sigma
from lowland.testing import seeded


class Smoothed(Function):
    condition = NoiseCondition()


def takes_noise(energy: Energy) -> bool:
    return noise_of(energy) is not None


def three(x: Tensor) -> Tensor:
    return torch.stack([x[:, 0], -x[:, 0], x[:, 1]], 1)


def test_attributes_take_soft_labels_rows_and_noise() -> None:
    x, label = torch.randn(6, 2, generator=seeded()), torch.tensor([0, 1, 2, 0, 1, 2])
    weight = torch.randn(2, 3, generator=seeded(1))
    hard, soft = (
        LabelGuidance(lambda x: x @ weight, label),
        LabelGuidance(lambda x: x @ weight, torch.eye(3)[label]),
    )
    assert torch.allclose(hard(x), soft(x)) and torch.equal(hard(x, 0.3), hard(x))
    index = torch.tensor([4, 0])
    assert torch.equal(hard.index_rows(index)(x[index]), hard(x)[index])
    told = LabelGuidance(lambda x, sigma: x @ weight / sigma.unsqueeze(1), 2, noisy=True)
    assert torch.allclose(told(x, 2.0), LabelGuidance(lambda x: x @ weight / 2, 2)(x))
    for bad in (3, -1, torch.tensor([0, 3])):
        with pytest.raises(
            ValueError, match=r"labels reach from .*; the classifier has classes .*; choose"
        ):
            LabelGuidance(lambda x: x @ weight, bad)(x[:2])


def test_a_critic_of_clean_points_sees_the_one_that_the_energy_expects() -> None:
    torch.manual_seed(0)
    prior = DenoiserMLP(real(2), hidden=(8,)).double()
    torch.nn.init.normal_(prior.net.layers[-1].weight)  # type: ignore[index, union-attr]
    x = torch.randn(4, 2, generator=seeded(), dtype=torch.float64)
    critic = DenoisedGuidance(lambda x: x.square().sum(1), prior)
    clean = denoise(prior.given(0.5), x, 0.5)
    assert torch.allclose(critic(x, 0.5), clean.square().sum(1)) and not torch.allclose(
        prior.denoise(x, 0.5), clean, atol=0.1
    )
    levels = torch.tensor([0.5, 0.1, 2.0, 1.0], dtype=torch.float64)
    one_by_one = torch.cat([critic(x[i : i + 1], float(levels[i])) for i in range(4)])
    assert torch.allclose(critic(x, levels), one_by_one)
    step = torch.randn(x.shape, generator=seeded(1), dtype=torch.float64)
    score, bound = value_and_score(critic.given(0.5), x)[1], critic.given(0.5)
    numeric = (bound(x + 1e-5 * step) - bound(x - 1e-5 * step)) / 2e-5
    assert torch.allclose((score * step).sum(1), -numeric, rtol=1e-5)


def test_a_critic_of_clean_points_works_with_any_energy_of_noise() -> None:
    normal = Smoothed(lambda x, s: 0.5 * x.square().sum(1) / (1 + s**2), real(1))
    for prior in (
        lambda x, s: 0.5 * x.square().sum(1) / (1 + s**2),
        normal,
        0.5 * normal + 0.5 * normal,
    ):
        assert torch.allclose(
            DenoisedGuidance(lambda x: x.sum(1), prior)(torch.full((2, 1), 3.0), 1.0),
            torch.tensor([1.5, 1.5]),
        )
    places = torch.tensor([[0.0], [5.0]])
    held = DenoiserMLP(real(1), hidden=(4,)) + Likelihood(Identity(), places, 1.0)
    x = torch.randn(2, 1, generator=seeded())
    critic = DenoisedGuidance(lambda x: x.sum(1), held)
    assert torch.allclose(
        critic.index_rows(torch.tensor([1]))(x[1:], 0.5), critic(x, 0.5)[1:], atol=1e-6
    )
    for wrong in (Gaussian(), DenoiserMLP(real(2), hidden=(8,)).given(0.5)):
        with pytest.raises(
            ValueError, match="knows no noise level, or has one bound; DenoisedGuidance needs"
        ):
            DenoisedGuidance(lambda x: x.sum(1), wrong)
    with pytest.raises(
        ValueError,
        match=r"judges points of shape \(2,\) and .* \(1,\); both see the same points; use",
    ):
        DenoisedGuidance(Gaussian(), held)
    with pytest.raises(ValueError, match=r"asked without a noise level; .*; bind one"):
        critic(x)


def test_labels_that_are_none_are_refused_where_they_are_given() -> None:
    """A float is no class and rows of weights are no probabilities: each would have been a number
    without a meaning.
    """
    for label in (
        1.0,
        True,
        "1",
        None,
        torch.tensor(1.0),
        torch.tensor([1.0, 0.0, 0.0]),
        torch.ones(5, 1) * 2,
        torch.ones(5, 3),
        -torch.eye(3),
        torch.full((5, 3), torch.nan),
        torch.tensor([[0, 1]]),
        torch.zeros(0, dtype=torch.long),
        torch.zeros(5, dtype=torch.bool),
    ):
        with pytest.raises(
            ValueError, match=r"labels came as .*; whole numbers, .* are needed; correct them"
        ):
            LabelGuidance(three, label)
    x = torch.randn(5, 2, generator=seeded())
    with pytest.raises(ValueError, match="rows of 3 probabilities"):
        LabelGuidance(three, torch.full((5, 2), 0.5))(x)
    for wrong in ("net", 3, MLP(real(2), hidden=(4,))):
        with pytest.raises(
            ValueError, match=r"without classes was given; a classifier is .*; pass one"
        ):
            LabelGuidance(wrong, 0)
    assert torch.equal(
        LabelGuidance(three, torch.zeros(5, dtype=torch.int32))(x), LabelGuidance(three, 0)(x)
    )


def test_as_many_labels_as_rows_are_needed() -> None:
    x = torch.randn(5, 2, generator=seeded())
    few = LabelGuidance(three, torch.tensor([0, 1]))
    for call in (
        lambda: few(x),
        lambda: few.index_rows(torch.tensor([0, 4])),
        lambda: edit(Gaussian(), x, few, generator=seeded()),
    ):
        with pytest.raises(
            ValueError,
            match=r"2 labels met .*; guidance has one label for all or one per row; match them",
        ):
            call()
    for one in (torch.tensor([1]), torch.tensor([[0.2, 0.3, 0.5]])):  # for all, whatever the rows
        attribute = LabelGuidance(three, one)
        assert torch.equal(attribute.index_rows(torch.tensor([4, 4, 0]))(x[:3]), attribute(x)[:3])


def test_the_gradient_of_a_constant_is_zero_with_and_without_a_graph() -> None:
    x = torch.randn(3, 2, generator=seeded())
    for point in (x, x.clone().requires_grad_()):
        assert torch.equal(score_with_graph(Constant(1.0), point), torch.zeros(3, 2))


def test_levels_and_attributes_bind_together() -> None:
    prior = DenoiserMLP(real(2), hidden=(8,))
    told = LabelGuidance(lambda x, sigma: torch.stack([x[:, 0] / sigma, x[:, 1]], 1), 0, noisy=True)
    whole, x = prior + 2 * told, torch.randn(4, 2, generator=seeded())
    assert torch.allclose(whole.given(0.5)(x), prior(x, 0.5) + 2 * told(x, 0.5))
    assert (
        takes_noise(whole)
        and not takes_noise(whole.given(0.5))
        and not takes_noise(prior.given(0.5) + told)
    )
    plain = Function(lambda x: x.sum(1))
    assert bind_sigma(plain, 0.5) is plain
