"""Objectives: the contrast has the likelihood's gradient, DSM's minimiser is the blurred score,
negatives are what they say.
"""

import copy
import math
from typing import Any

import pytest
import torch
from contract import checks
from contract.cases import seeded
from contract.checks import LIMIT, Bowl, z_scores
from torch import nn

from lowland import Energy, Function, Langevin, ReplayBuffer, box, real
from lowland.nets import MLP
from lowland.objectives import CD, DSM, PCD, Batch, Context, ShortRunML, contrast
from lowland.objectives.contrastive import draw_labels

DOUBLE = torch.float64


def test_contrast_has_the_gradient_of_the_exact_likelihood() -> None:
    # 300 batches of 200 exact negatives of θx²/2; z of the mean difference
    assert checks.likelihood_gradient(contrast) < LIMIT


def test_contrast_has_the_gradient_of_a_likelihood_enumerated_on_a_grid() -> None:
    # a network on 200 points of the line; −log p by enumeration; negatives drawn by their exact
    # probabilities
    torch.manual_seed(0)
    energy, g = MLP(real(1), hidden=(8,), quadratic_weight=0.5).double(), seeded(1)
    grid = torch.linspace(-3, 3, 200, dtype=DOUBLE).unsqueeze(1)
    data = grid[torch.randint(120, 200, (500,), generator=g)]
    weights = list(energy.parameters())
    exact = energy(data).mean() + torch.logsumexp(-energy(grid), 0)
    truth = torch.cat([p.flatten() for p in torch.autograd.grad(exact, weights)])
    probabilities = (-energy(grid)).softmax(0).detach()
    found = []
    for _ in range(200):
        negatives = grid[torch.multinomial(probabilities, 500, replacement=True, generator=g)]
        parts = torch.autograd.grad(contrast(energy, data, negatives).value, weights)
        found.append(torch.cat([p.flatten() for p in parts]))
    rows, moving = torch.stack(found), truth.abs() > 1e-9
    assert z_scores(rows[:, moving], truth[moving]).abs().max() < LIMIT
    assert (
        z_scores(rows[:, moving], 0 * truth[moving]).abs().max() > 20
    )  # and the truth is not nothing


def test_no_gradient_flows_into_the_negatives() -> None:
    negatives = torch.randn(10, 1, generator=seeded(), dtype=DOUBLE).requires_grad_(True)
    contrast(Bowl(1.0), torch.zeros(10, 1, dtype=DOUBLE), negatives).value.backward()
    assert negatives.grad is None


def test_contrast_is_written_out_with_sizes_that_differ_and_l2() -> None:
    energy = Bowl(2.0)
    up, down = torch.ones(4, 1, dtype=DOUBLE), torch.full((6, 1), 2.0, dtype=DOUBLE)
    loss = contrast(energy, up, down, l2=0.1)
    assert loss.value.item() == pytest.approx(1 - 4 + 0.1 * (1 + 16))
    assert loss.terms["gap"].item() == pytest.approx(3) and loss.terms["energy_std"].item() == 0
    with pytest.raises(ValueError, match="one side"):
        contrast(energy, up, down, labels=torch.zeros(4, dtype=torch.long))


def test_classify_adds_the_cross_entropy_of_the_class_posterior() -> None:
    torch.manual_seed(0)
    energy = MLP(real(2), hidden=(8,), classes=3).double()
    x, n = (
        torch.randn(7, 2, generator=seeded(), dtype=DOUBLE),
        torch.randn(5, 2, generator=seeded(1), dtype=DOUBLE),
    )
    y, m = torch.arange(7) % 3, torch.arange(5) % 3
    plain = contrast(energy, x, n, labels=y, negative_labels=m, l2=0.2)
    joint = contrast(energy, x, n, labels=y, negative_labels=m, l2=0.2, ce_weight=0.7)
    table = torch.stack([energy(x, torch.full((7,), k)) for k in range(3)], 1)
    posterior = (-table).exp() / (-table).exp().sum(1, keepdim=True)
    entropy = -posterior[torch.arange(7), y].log().mean()
    torch.testing.assert_close(joint.value, plain.value + 0.7 * entropy, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(
        joint.terms["cross_entropy"], entropy.detach(), rtol=1e-10, atol=1e-10
    )
    assert not joint.terms["cross_entropy"].requires_grad


# -------------------------------------------------------------------- where the negatives come from


def test_cd_starts_at_the_data() -> None:
    x = 5 + torch.randn(20, 2, generator=seeded())
    for steps in (1, 10):
        loss = CD(steps).loss(
            Bowl(1.0, dim=2), Batch(x), Context(seeded(1), sampler=Langevin(1e-10))
        )
        assert (loss.negatives - x).abs().max() < 1e-3 and loss.terms["movement"] < 1e-3


def test_short_run_starts_at_noise() -> None:
    # data at 50; a tiny step leaves the noise where it was drawn: N(0, 1) on the line, U(0, 1) in
    # the box
    bowl = Bowl(1.0, dim=2)
    x = torch.full((5000, 2), 50.0)
    loss = ShortRunML(2).loss(bowl, Batch(x), Context(seeded(1), sampler=Langevin(1e-10)))
    assert (
        z_scores(loss.negatives).abs().max() < LIMIT
        and z_scores(loss.negatives.square(), 1.0).abs().max() < LIMIT
    )
    boxed = Function(nn.Sequential(nn.Linear(2, 1), nn.Tanh(), nn.Flatten(0)), box(0.0, 1.0, 2))
    loss = ShortRunML(2).loss(boxed, Batch(x * 0), Context(seeded(1), sampler=Langevin(1e-12)))
    assert z_scores(loss.negatives, 0.5).abs().max() < LIMIT


def test_pcd_goes_on_where_it_got_to() -> None:
    bowl, g = Bowl(1.0, dim=1), seeded(1)
    buffer = ReplayBuffer(50, real(1), generator=seeded(), reinit_prob=0.0)
    start = buffer.x.clone()
    for _ in range(5):
        PCD(2, 50).loss(
            bowl, Batch(torch.zeros(50, 1)), Context(g, sampler=Langevin(1e-12), buffer=buffer)
        )
    assert (buffer.x - start).abs().max() < 1e-3 and (buffer.age == 10).all()
    with pytest.raises(ValueError, match=r";.*;"):
        PCD().loss(bowl, Batch(torch.zeros(5, 1)), Context(g, sampler=Langevin(0.1)))


def test_pcd_writes_back_to_its_own_slots_and_labels_stay_with_them() -> None:
    checks.pcd_keeps_slots(PCD(steps=3, buffer_size=64))


def test_labels_are_drawn_from_the_posterior_of_their_points() -> None:
    # 40,000 labels at each of two points; binomial errors against softmax(−e)
    torch.manual_seed(0)
    energy, n = MLP(real(2), hidden=(8,), classes=3, scale=4.0), 40_000
    places = torch.tensor([[0.0, 0.0], [1.5, -1.0]])
    checks.unsettle(energy)
    with checks.no_trace(energy):
        labels = draw_labels(energy, places.repeat_interleave(n, 0), seeded(1)).view(2, n)
    posterior = (-energy.eval().class_energies(places)).softmax(1).detach().double()
    assert posterior.max() < 0.99 and posterior.std(1).min() > 0.01
    for drawn, p in zip(labels, posterior, strict=True):
        z = (drawn.bincount(minlength=3) - n * p) / (n * p * (1 - p)).sqrt()
        assert z.abs().max() < LIMIT


def test_pcd_that_resamples_contrasts_and_stores_the_labels_it_drew() -> None:
    torch.manual_seed(0)
    energy = MLP(real(2), hidden=(8,), classes=4, quadratic_weight=1.0, scale=5.0)
    buffer = ReplayBuffer(32, real(2), generator=seeded(), classes=4, reinit_prob=0.0)
    visit = copy.deepcopy(buffer).sample(16, seeded(1))
    x, y = torch.randn(16, 2, generator=seeded(2)), torch.arange(16) % 4
    objective = PCD(steps=2, buffer_size=32, sample_labels=True)
    loss = objective.loss(
        energy, Batch(x, y), Context(seeded(1), sampler=Langevin(0.05), buffer=buffer)
    )
    drawn = buffer.labels[visit.slots]
    assert not torch.equal(drawn, visit.labels)
    expected = contrast(energy, x, loss.negatives, labels=y, negative_labels=drawn)
    torch.testing.assert_close(loss.value, expected.value)
    untouched = torch.ones(32, dtype=torch.bool)
    untouched[visit.slots] = False
    assert torch.equal(buffer.labels[untouched], (torch.arange(32) % 4)[untouched])


def test_terms_of_the_chains_are_what_they_say() -> None:
    energy = Function(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), box(0.0, 1.0, 2))
    x = torch.tensor(
        [[0.0, 0.5], [1.0, 0.9995], [0.3, 0.06], [0.2, 0.04]]
    )  # a twentieth of the width counts as the wall
    loss = CD(1).loss(energy, Batch(x), Context(seeded(), sampler=Langevin(1e-14)))
    assert (
        loss.terms["bound_share"].item() == pytest.approx(4 / 8) and loss.terms["acceptance"] == 1
    )
    far = Bowl(1.0, dim=2)
    loss = CD(1).loss(far, Batch(x), Context(seeded(), sampler=Langevin(0.1)))
    expected = (loss.negatives - x).square().mean(1).sqrt().mean()
    assert (
        loss.terms["movement"].item() == pytest.approx(expected.item())
        and loss.terms["diverged"] == 0
    )


def test_conditional_chains_run_under_the_labels_of_their_rows() -> None:
    """E(x, y) = 50 (x − y)²: CD and ShortRunML chains end at their own label."""

    class Labelled(Energy):
        def __init__(self) -> None:
            super().__init__(real(1))
            self.scale = nn.Parameter(torch.tensor(50.0))

        def forward(self, x: torch.Tensor, c: torch.Tensor | None = None) -> torch.Tensor:
            assert c is not None
            return self.scale * (x.squeeze(1) - c).square()

    y = torch.arange(40) % 4
    for objective in (CD(200), ShortRunML(400)):
        loss = objective.loss(
            Labelled(),
            Batch(torch.zeros(40, 1), y),
            Context(seeded(), sampler=Langevin(0.004, 0.01)),
        )
        assert (loss.negatives.squeeze(1) - y).abs().max() < 0.1


@pytest.mark.parametrize(
    "settings",
    [{"buffer_size": 0}, {"reinit_prob": 1.5}, {"reinit_prob": -0.1}, {"ce_weight": -1.0}],
    ids=str,
)
def test_pcd_refuses_settings_that_mean_nothing(settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        PCD(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("settings", [{"ce_weight": 0.5}, {"sample_labels": True}], ids=str)
@pytest.mark.parametrize("what", ["a function", "no labels", "a network without classes"])
def test_joint_objectives_refuse_an_energy_without_classes_and_data_without_labels(
    settings: dict[str, Any], what: str
) -> None:
    buffer = ReplayBuffer(8, real(1), generator=seeded(), classes=2)
    before = buffer.x.clone()
    energy = {
        "a function": Function(lambda x, c=None: 0.5 * x.square().sum(1), real(1)),
        "a network without classes": MLP(real(1), hidden=(4,)),
        "no labels": MLP(real(1), hidden=(4,), classes=2),
    }[what]
    labels = None if what == "no labels" else torch.zeros(4, dtype=torch.long)
    with pytest.raises(
        ValueError, match=r"ce_weight and sample_labels need labels and an energy with classes;"
    ):
        PCD(1, 8, **settings).loss(
            energy,
            Batch(torch.zeros(4, 1), labels),
            Context(seeded(), sampler=Langevin(0.1), buffer=buffer),
        )
    assert torch.equal(buffer.x, before)


def test_pcd_takes_an_energy_in_double_precision() -> None:
    energy = MLP(real(2), hidden=(4,)).double()
    buffer = ReplayBuffer(20, real(2), generator=seeded(), dtype=DOUBLE, reinit_prob=0.5)
    x = torch.zeros(5, 2, dtype=DOUBLE)
    loss = PCD(2, 20).loss(
        energy, Batch(x), Context(seeded(), sampler=Langevin(0.1), buffer=buffer)
    )
    assert (
        loss.value.dtype == DOUBLE and loss.negatives.dtype == DOUBLE and buffer.x.dtype == DOUBLE
    )


# ---------------------------------------------------------------------------------------------- DSM


@pytest.mark.parametrize(
    "sigmas", [(0.1,), (0.5,), (2.0,), (1.0, 0.3), (2.0, 1.0, 0.5, 0.1)], ids=str
)
def test_dsm_has_no_gradient_and_the_known_value_at_the_blurred_law(
    sigmas: tuple[float, ...],
) -> None:
    # 200 batches of 500; gradient 0 and loss ½ mean 1/(1 + σ²) at E = x² / 2(1 + σ²)
    assert checks.dsm_minimiser(DSM(sigmas)) < LIMIT


@pytest.mark.parametrize("sigma", [0.3, 1.5])
def test_least_squares_on_dsm_find_the_blurred_precision(sigma: float) -> None:
    # the loss is quadratic in θ: a + bθ + cθ²; its minimum from three values on one batch, against
    # 1/(1 + σ²)
    found = []
    for seed in range(100):
        x = torch.randn(1000, 1, generator=seeded(seed), dtype=DOUBLE)
        values = []
        for theta in (0.0, 1.0, 2.0):
            loss = DSM((sigma,)).loss(Bowl(theta), Batch(x), Context(seeded(1000 + seed)))
            values.append(loss.value.item())
        c = (values[2] - 2 * values[1] + values[0]) / 2
        b = values[1] - values[0] - c
        found.append(-b / (2 * c))
    assert abs(z_scores(torch.tensor(found), 1 / (1 + sigma**2)).item()) < LIMIT


def test_dsm_on_images_is_the_mean_over_their_numbers() -> None:
    class Flat(Energy):
        def __init__(self) -> None:
            super().__init__(real(1, 3, 3))
            self.theta = nn.Parameter(torch.tensor(0.4))

        def forward(self, x: torch.Tensor, c: object = None) -> torch.Tensor:
            return self.theta * x.square().flatten(1).sum(1) / 2

    x = torch.randn(6, 1, 3, 3, generator=seeded())
    loss = DSM((0.5,)).loss(Flat(), Batch(x), Context(seeded(2)))
    g = seeded(2)
    torch.randint(1, (6,), generator=g)
    noise = torch.randn(6, 1, 3, 3, generator=g)
    expected = 0.5 * (noise - 0.5 * 0.4 * (x + 0.5 * noise)).square().mean()
    torch.testing.assert_close(loss.value, expected)
    assert loss.negatives is None


def test_several_levels_need_an_energy_of_noise() -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        DSM((1.0, 0.1)).loss(Bowl(1.0), Batch(torch.zeros(3, 1)), Context(seeded()))


def test_dsm_refuses_a_level_that_is_not_a_number() -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        DSM((math.nan,))


def test_dsm_given_a_list_equals_what_its_spec_builds() -> None:
    from lowland.registry import build, spec

    objective = DSM([1.0, 0.1])
    assert build("objective", spec(objective)) == objective and hash(objective)
