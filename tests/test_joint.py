"""Joint objectives: exact gradients of log p(x), log p(x | y) and log p(y | x), labels that stay,
attacks that stay inside.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland import MALA, Energy, Langevin, ReplayBuffer, box, real
from lowland.nets import MLP, ConvNet
from lowland.nets.class_energy import ClassEnergy
from lowland.objectives import JEM, Batch, Context, OutlierExposure
from lowland.objectives.adversarial import attack
from lowland.objectives.augment import augment
from lowland.objectives.labels import accuracy, cross_entropy, hide_labels
from lowland.objectives.outlier_exposure import make_outliers
from lowland.testing import LIMIT, seeded, worst

K, ROWS, BATCHES = 3, 240, 150
GRID = torch.linspace(-14, 14, 4001, dtype=torch.float64).unsqueeze(1)


class Bowls(ClassEnergy):
    """e_k(x) = a_k (x − m_k)² / 2 + b_k in one dimension: p(x) is a mixture of Gaussians, p(x | k)
    one of them.
    """

    def __init__(self) -> None:
        super().__init__(real(1))
        self.classes = K
        self.m = nn.Parameter(torch.tensor([-1.5, 0.3, 2.0], dtype=torch.float64))
        self.a = nn.Parameter(torch.tensor([1.0, 2.0, 0.7], dtype=torch.float64))
        self.b = nn.Parameter(torch.tensor([0.4, -0.3, 0.0], dtype=torch.float64))

    def class_energies(self, x: Tensor) -> Tensor:
        return self.a * (x - self.m).square() / 2 + self.b

    @torch.no_grad()
    def exact(self, labels: Tensor | None, count: int, generator: torch.Generator) -> Tensor:
        """Draws from p(x), or from p(x | labels)."""
        if labels is None:
            weights = torch.exp(-self.b) / self.a.sqrt()
            labels = torch.multinomial(weights, count, replacement=True, generator=generator)
        z = torch.randn(count, 1, generator=generator, dtype=torch.float64)
        return self.m[labels].unsqueeze(1) + z / self.a[labels].sqrt().unsqueeze(1)


def exact_loss(energy: Bowls, x: Tensor, y: Tensor, objective: JEM) -> Tensor:
    """w_py_x (−log p(y | x)) + w_px (−log p(x)) + w_pxy (−log p(x | y)), the integrals by
    quadrature.
    """
    width = float(GRID[1] - GRID[0])
    heads, grid = energy.class_energies(x), energy.class_energies(GRID)
    each = torch.logsumexp(-grid, 0) + torch.log(
        torch.tensor(width, dtype=torch.float64)
    )  # log Z_k
    given = (heads.gather(1, y.unsqueeze(1)).squeeze(1) + each[y]).mean()
    marginal = (torch.logsumexp(each, 0) - torch.logsumexp(-heads, 1)).mean()
    label = F.cross_entropy(-heads, y)
    return (
        objective.weight_py_x * label
        + objective.weight_px * marginal
        + objective.weight_pxy * given
    )


def gradient_error(objective: JEM, batches: int = BATCHES) -> float:
    """Worst |z| of the gradient against the exact one, the chains being exact draws that MALA
    moves, and so keeps exact.
    """
    energy, g, errors = Bowls(), seeded(4), []
    for _ in range(batches):
        y = torch.arange(ROWS) % K
        x = 1.3 * torch.randn(ROWS, 1, generator=g, dtype=torch.float64) + (y - 1).unsqueeze(1)
        buffer = ReplayBuffer(
            ROWS, energy.domain, generator=g, classes=K, reinit_prob=0.0, dtype=torch.float64
        )
        buffer.x = energy.exact(buffer.labels if objective.weight_pxy else None, ROWS, g)
        loss = objective.loss(energy, Batch(x, y), Context(g, sampler=MALA(0.3), buffer=buffer))
        found = torch.autograd.grad(loss.value, list(energy.parameters()))
        truth = torch.autograd.grad(exact_loss(energy, x, y, objective), list(energy.parameters()))
        errors.append(torch.cat(found) - torch.cat(truth))
    found = torch.stack(errors)
    return worst(
        found[:, found.abs().amax(0) > 1e-12]
    )  # the rest agrees exactly: classes counted evenly


MARGINAL = JEM(steps=3, buffer_size=ROWS, weight_px=0.7, weight_py_x=1.3)
GIVEN = JEM(steps=3, buffer_size=ROWS, weight_px=0.0, weight_py_x=0.5, weight_pxy=1.2)


@pytest.mark.parametrize("objective", [MARGINAL, GIVEN], ids=["p(x)", "p(x | y)"])
def test_the_gradient_is_that_of_the_exact_likelihoods(objective: JEM) -> None:
    # n = 150 batches of 240 points and 240 chains
    assert gradient_error(objective) < LIMIT


class TurnedContrast(JEM):
    def _contrast(self, up: Tensor, labels: Tensor, down: Tensor, its: Tensor | None) -> Any:
        value, terms = super()._contrast(up, labels, down, its)
        return -value, terms


class TurnedEntropy(JEM):
    def loss(self, *args: Any, **more: Any) -> Any:
        weight = -self.weight_py_x
        turned = dataclasses.replace(self)
        object.__setattr__(turned, "weight_py_x", weight)
        return JEM.loss(turned, *args, **more)


class LosesLabels(JEM):
    @staticmethod
    def _energies(*args: Any) -> Any:
        *rest, its = args
        return JEM._energies(*rest, its.roll(1))


@pytest.mark.parametrize(
    ("planted", "objective"),
    [
        (TurnedContrast, MARGINAL),
        (TurnedContrast, GIVEN),
        (TurnedEntropy, MARGINAL),
        (TurnedEntropy, GIVEN),
        (LosesLabels, GIVEN),
    ],
)
def test_a_planted_bug_is_seen(planted: type[JEM], objective: JEM) -> None:
    assert gradient_error(planted(**dataclasses.asdict(objective)), batches=40) > LIMIT


# ------------------------------------------------------------------------------------------- labels


def network(classes: int = 4) -> MLP:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return MLP(box(-2.0, 2.0, 2), hidden=(16,), classes=classes)


def batch(labels: Callable[[int], Tensor], rows: int = 24) -> tuple[Tensor, Tensor]:
    return network().domain.draw(rows, seeded(1)), labels(rows)


def even(rows: int) -> Tensor:
    return torch.arange(rows) % 4


def unknown(rows: int) -> Tensor:
    return torch.full((rows,), -1)


def half(rows: int) -> Tensor:
    return torch.where(torch.arange(rows) < rows // 2, even(rows), -1)


def gradients(objective: Any, x: Tensor, y: Tensor, energy: Energy | None = None) -> Tensor:
    energy = energy or network()
    buffer = ReplayBuffer(64, energy.domain, generator=seeded(2), classes=4)
    loss = objective.loss(
        energy, Batch(x, y), Context(seeded(3), sampler=Langevin(0.01), buffer=buffer)
    )
    found = torch.autograd.grad(loss.value, list(energy.parameters()), allow_unused=True)
    return torch.cat([g.flatten() for g in found if g is not None])


def test_chains_keep_their_class_and_walk_under_it() -> None:
    seen: list[Any] = []

    class Spy(MLP):
        analytic = None
        slope = None

        def forward(self, x: Tensor, c: Any = None) -> Tensor:
            seen.append(c)
            return super().forward(x, c)

    energy, g = Spy(box(-2.0, 2.0, 2), hidden=(8,), classes=4), seeded(5)
    buffer = ReplayBuffer(64, energy.domain, generator=g, classes=4, reinit_prob=0.2)
    before, start = buffer.labels.clone(), buffer.x.clone()
    x, y = batch(even)
    aside = ReplayBuffer(64, energy.domain, generator=seeded(6), classes=4)
    first = Context(seeded(6), sampler=Langevin(0.05), buffer=aside)
    GIVEN.loss(energy, Batch(x, y), first)  # which looks at an energy that it has not seen
    seen.clear()
    for _ in range(20):
        loss = GIVEN.loss(energy, Batch(x, y), Context(g, sampler=Langevin(0.05), buffer=buffer))
        assert all(torch.equal(c, loss.labels) for c in seen), (
            "chains ran under labels that are not theirs"
        )
        seen.clear()
        home = (buffer.x.unsqueeze(0) == loss.negatives.unsqueeze(1)).all(2)
        assert (home.sum(1) == 1).all() and torch.equal(before[home.long().argmax(1)], loss.labels)
    assert torch.equal(buffer.labels, before) and torch.equal(
        buffer.labels.bincount(), torch.full((4,), 16)
    )
    assert not torch.equal(buffer.x, start)


def test_chains_of_the_marginal_walk_without_labels() -> None:
    x, y = batch(even)
    buffer = ReplayBuffer(64, network().domain, generator=seeded(), classes=4)
    assert (
        MARGINAL.loss(
            network(), Batch(x, y), Context(seeded(), sampler=Langevin(0.05), buffer=buffer)
        ).labels
        is None
    )


def test_without_labels_only_the_marginal_is_left() -> None:
    x, y = batch(unknown)
    only = dataclasses.replace(MARGINAL, weight_py_x=0.0)
    torch.testing.assert_close(
        gradients(MARGINAL, x, y), gradients(only, x, even(len(x))), rtol=1e-6, atol=1e-7
    )


def test_with_half_the_labels_the_rest_counts_in_the_marginal_alone() -> None:
    x, y = batch(half)
    known = len(x) // 2
    found = gradients(MARGINAL, x, y)
    marginal = gradients(dataclasses.replace(MARGINAL, weight_py_x=0.0), x, y)
    energy = network()
    entropy = F.cross_entropy(-energy.class_energies(x[:known]), y[:known])
    told = torch.cat([g.flatten() for g in torch.autograd.grad(entropy, list(energy.parameters()))])
    torch.testing.assert_close(found, marginal + MARGINAL.weight_py_x * told, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(found, gradients(MARGINAL, x, even(len(x))), rtol=1e-2)


def test_points_without_a_label_have_no_part_in_the_joint_contrast() -> None:
    x, y = batch(half)
    l2 = dataclasses.replace(GIVEN, l2=0.2, num_chains=8)
    torch.testing.assert_close(
        gradients(l2, x, y), gradients(l2, x[: len(x) // 2], y[: len(x) // 2]), rtol=1e-5, atol=1e-6
    )


def test_a_share_of_the_labels_is_told_the_same_every_time() -> None:
    y = even(1000)
    some = hide_labels(y, 0.1, seed=3)
    assert ((some == y) | (some == -1)).all() and (some != -1).sum() == 100
    assert torch.equal(some, hide_labels(y, 0.1, seed=3)) and not torch.equal(
        some, hide_labels(y, 0.1, seed=4)
    )
    assert torch.equal(hide_labels(y, 1.0, 0), y) and torch.equal(
        hide_labels(y, 0.0, 0), unknown(1000)
    )


def test_accuracy_and_entropy_count_the_labelled_rows() -> None:
    heads = torch.tensor([[0.0, 1.0], [2.0, 0.0], [0.0, 9.0]])
    labels = torch.tensor([0, 0, -1])
    assert accuracy(heads, labels) == 0.5
    torch.testing.assert_close(
        cross_entropy(heads, labels), F.cross_entropy(-heads[:2], labels[:2])
    )
    assert accuracy(heads, unknown(3)) == cross_entropy(heads, unknown(3)) == 0


def test_before_its_time_there_is_no_contrast_and_no_chain_moves() -> None:
    x, y = batch(even)
    buffer = ReplayBuffer(64, network().domain, generator=seeded(), classes=4)
    late, before = dataclasses.replace(MARGINAL, warmup_fraction=0.5), buffer.x.clone()
    early = late.loss(
        network(),
        Batch(x, y),
        Context(seeded(), sampler=Langevin(0.1), buffer=buffer, progress=0.4),
    )
    assert early.negatives is None and torch.equal(buffer.x, before)
    assert (
        late.loss(
            network(),
            Batch(x, y),
            Context(seeded(), sampler=Langevin(0.1), buffer=buffer, progress=0.5),
        ).negatives
        is not None
    )
    plain = dataclasses.replace(MARGINAL, weight_px=0.0)
    torch.testing.assert_close(
        gradients(plain, x, y), 1.3 * gradients(dataclasses.replace(plain, weight_py_x=1.0), x, y)
    )


# ------------------------------------------------------------------------------------------ attacks


def robbed(energy: Energy, x: Tensor, y: Tensor, **more: Any) -> Tensor:
    return attack(
        energy,
        x,
        y,
        **{"epsilon": 0.3, "steps": 8, "step_size": 0.1, "generator": seeded(7)} | more,
    )


def rise(energy: Any, x: Tensor, moved: Tensor, y: Tensor) -> float:
    with torch.no_grad():
        return float(
            cross_entropy(energy.class_energies(moved), y)
            - cross_entropy(energy.class_energies(x), y)
        )


@pytest.mark.parametrize("epsilon", [0.05, 0.3])
def test_an_attack_stays_in_the_ball_and_the_box_and_raises_the_loss(epsilon: float) -> None:
    energy, (x, y) = network().double(), batch(even, rows=200)
    x = x.double()
    assert (x.abs() > 2 - epsilon).any(), "no point is near a wall"
    moved = robbed(energy, x, y, epsilon=epsilon, step_size=epsilon / 3)
    assert ((moved - x).abs() <= epsilon + 1e-12).all() and energy.domain.contains(moved).all()
    gained = rise(energy, x, moved, y)
    assert gained > 0 and gained > 3 * abs(
        rise(energy, x, robbed(energy, x, y, epsilon=epsilon, steps=0), y)
    )
    assert (
        rise(energy, x, robbed(energy, x, y, epsilon=epsilon, step_size=-epsilon / 3), y) < 0
    )  # the sign matters
    assert all(p.grad is None for p in energy.parameters()) and not moved.requires_grad


def test_an_attack_needs_a_label() -> None:
    energy, (x, y) = network(), batch(half)
    moved, still = robbed(energy, x, y), robbed(energy, x, y, steps=0)
    changed = (moved != still).any(1)
    assert changed[: len(x) // 2].all() and not changed[len(x) // 2 :].any()


def test_adversarial_training_takes_the_entropy_at_the_moved_points() -> None:
    x, y = batch(even)
    energy = network()
    tough = JEM(
        steps=1,
        buffer_size=64,
        weight_px=0.0,
        attack_epsilon=0.3,
        attack_steps=4,
        attack_step_size=0.1,
    )
    loss = tough.loss(
        energy,
        Batch(x, y),
        Context(
            seeded(7),
            sampler=Langevin(0.1),
            buffer=ReplayBuffer(64, energy.domain, generator=seeded()),
        ),
    )
    moved = attack(energy, x, y, epsilon=0.3, steps=4, step_size=0.1, generator=seeded(7))
    torch.testing.assert_close(loss.value, F.cross_entropy(-energy.class_energies(moved), y))
    assert loss.value > F.cross_entropy(-energy.class_energies(x), y)


def test_augmented_points_are_read_and_the_contrast_takes_data_as_they_are() -> None:
    energy, (x, y) = network(), batch(even)
    noisy = dataclasses.replace(MARGINAL, augment=("noise",), num_chains=10)
    found = gradients(noisy, x, y)
    g = seeded(3)
    buffer = ReplayBuffer(64, energy.domain, generator=seeded(2), classes=4)
    marginal = dataclasses.replace(MARGINAL, weight_py_x=0.0, num_chains=10)
    loss = marginal.loss(
        energy, Batch(x[:10], y[:10]), Context(g, sampler=Langevin(0.01), buffer=buffer)
    )  # the same chains, then
    read = augment(x, ("noise",), g, energy.domain)
    entropy = F.cross_entropy(-energy.class_energies(read), y)
    value = loss.value + MARGINAL.weight_py_x * entropy
    expected = torch.cat(
        [part.flatten() for part in torch.autograd.grad(value, list(energy.parameters()))]
    )
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"rain.*;.*;"):
        JEM(augment=("rain",))


# ----------------------------------------------------------------------------------------- outliers


IMAGES = torch.rand(6, 1, 9, 8, generator=seeded(8))


def test_shuffled_patches_keep_every_pixel_and_no_picture() -> None:
    made = make_outliers(IMAGES, "patches", box(0.0, 1.0, 1, 9, 8), seeded())
    assert torch.equal(made.flatten(1).sort(1).values, IMAGES.flatten(1).sort(1).values)
    assert torch.equal(made[:, :, 8:], IMAGES[:, :, 8:]), "what does not divide stays"
    assert all(
        (a != b).float().mean() > 0.5 for a, b in zip(made[:, :, :8], IMAGES[:, :, :8], strict=True)
    )
    tiles = F.unfold(IMAGES[:, :, :8], 2, stride=2), F.unfold(made[:, :, :8], 2, stride=2)
    assert torch.equal(*(t.transpose(1, 2).sum(2).sort(1).values for t in tiles)), (
        "tiles are kept whole"
    )


def test_shuffled_columns_keep_every_column_and_break_rows() -> None:
    x = torch.randn(50, 2, generator=seeded()) @ torch.tensor([[1.0, 0.9], [0.0, 0.1]])
    made = make_outliers(x, "patches", real(2), seeded())
    assert torch.equal(made.sort(0).values, x.sort(0).values)
    assert abs(torch.corrcoef(made.T)[0, 1]) < 0.5 < torch.corrcoef(x.T)[0, 1]


def test_other_outliers_are_what_they_say() -> None:
    domain = box(0.0, 1.0, 1, 9, 8)
    mixed, noise = (
        make_outliers(IMAGES, "mixtures", domain, seeded()),
        make_outliers(IMAGES, "noise", domain, seeded()),
    )
    pairs = (IMAGES.unsqueeze(1) + IMAGES.unsqueeze(0)).flatten(0, 1) / 2
    assert all((pairs - row).abs().flatten(1).amax(1).min() < 1e-6 for row in mixed)
    assert torch.equal(noise, domain.draw(6, seeded()))


def test_outlier_exposure_is_its_formula() -> None:
    energy, (x, y) = network().double(), batch(even)
    x, objective = x.double(), OutlierExposure(low=-0.1, high=0.2, weight=0.5)
    loss = objective.loss(energy, Batch(x, y), Context(seeded(3)))
    g = seeded(3)
    strange = [
        make_outliers(x, kind, energy.domain, g)[i::3] for i, kind in enumerate(objective.kinds)
    ]
    inside, outside = energy(x), energy(torch.cat(strange))
    hinge = F.relu(inside + 0.1).square().mean() + F.relu(0.2 - outside).square().mean()
    torch.testing.assert_close(
        loss.value, F.cross_entropy(-energy.class_energies(x), y) + 0.5 * hinge
    )


def test_outlier_exposure_puts_outliers_above_data() -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        energy = MLP(box(-2.0, 2.0, 2), hidden=(32,), classes=2)
    objective, g = OutlierExposure(low=-3.0, high=0.0, weight=1.0, kinds=("noise",)), seeded(1)
    optimizer = torch.optim.Adam(energy.parameters(), 1e-2)
    y = torch.arange(100) % 2
    for _ in range(150):
        x = (2.0 * y - 1).unsqueeze(1) + 0.2 * torch.randn(100, 2, generator=g)
        loss = objective.loss(energy, Batch(x, y), Context(g))
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
    assert (
        loss.terms["accuracy"] > 0.99
        and loss.terms["energy_data"] < -2 < -1 < loss.terms["energy_outliers"]
    )


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    "settings",
    [
        {"weight_px": -1.0},
        {"weight_px": 1.0, "weight_pxy": 1.0},
        {"warmup_fraction": 1.5},
        {"buffer_size": 0},
        {"num_chains": 20_000},
        {"reinit_prob": 2.0},
        {"attack_epsilon": -0.1},
        {"attack_epsilon": float("nan")},
        {"attack_steps": 0},
        {"attack_step_size": 0.0},
    ],
    ids=str,
)
def test_settings_that_nobody_can_mean_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        JEM(**settings)


@pytest.mark.parametrize(
    "settings",
    [{"low": 0.0, "high": 0.0}, {"weight": -1.0}, {"kinds": ()}, {"kinds": ("rain",)}],
    ids=str,
)
def test_margins_that_nobody_can_mean_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        OutlierExposure(**settings)


def test_what_has_no_classes_no_labels_or_no_numbers_is_refused() -> None:
    from lowland import binary
    from lowland.nets import RBM

    x, y = batch(even)
    buffer = ReplayBuffer(64, network().domain, generator=seeded())
    context = Context(seeded(), Langevin(0.1), buffer)
    for objective in (JEM(steps=1), OutlierExposure()):
        for energy, labels in ((network(), None), (network(0), y), (RBM(binary(2), 3), y)):
            with pytest.raises(ValueError, match=r";.*;"):
                objective.loss(energy, Batch(x, labels), context)
    with pytest.raises(ValueError, match=r"no chains;.*;"):
        JEM(steps=1).loss(network(), Batch(x, y), Context(seeded(), Langevin(0.1)))
    with pytest.raises(ValueError, match=r"no labels;.*;"):
        GIVEN.loss(network(), Batch(x, y), context)


@pytest.mark.parametrize(
    "objective",
    [JEM(steps=2, buffer_size=64, attack_epsilon=0.1, attack_steps=2), OutlierExposure()],
)
def test_works_in_bfloat16_on_images(objective: Any) -> None:
    energy = ConvNet(
        box(0.0, 1.0, 1, 8, 8), channels=(4,), kernels=(3,), strides=(2,), hidden=8, classes=4
    )
    x = energy.domain.draw(12, seeded())
    buffer = ReplayBuffer(64, energy.domain, generator=seeded(), classes=4)
    values = []
    for half_precision in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=half_precision):
            loss = objective.loss(
                energy, Batch(x, even(12)), Context(seeded(), sampler=Langevin(1e-4), buffer=buffer)
            )
        loss.value.backward()
        assert loss.value.dtype == torch.float32
        values.append(loss.value.detach())
    assert abs(values[0] - values[1]) < 0.05
