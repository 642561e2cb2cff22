"""Outlier scores against closed forms, and what they refuse."""

import math

import pytest
import torch
from contract.cases import seeded
from sklearn.covariance import EmpiricalCovariance
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn

from lowland import Detector, Energy, Function, box, energy_values, real
from lowland.energy import LabelCondition, NoiseCondition
from lowland.nets import MLP, ClassifierEnergy
from lowland.tasks.detection import class_scores as classes
from lowland.tasks.detection import scores
from lowland.tasks.detection.registry import OUTLIER_SCORES, get_outlier_score

pytestmark = pytest.mark.filterwarnings("ignore:the points look unlike")
ROUND = Function(lambda x: 0.5 * x.square().sum(1), real(2))  # E of N(0, 1): ∇E = x


class Noisy(Energy):
    """E(x, σ) of N(0, 1) with noise: ‖x‖² / 2 (1 + σ²), so ‖∇E‖ = ‖x‖ / (1 + σ²)."""

    condition = NoiseCondition()

    def forward(self, x: Tensor, c: Tensor) -> Tensor:
        return 0.5 * x.square().sum(1) / (1 + c.square())


def net(classes: int = 3) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(
            nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, classes)
        )


def points(count: int = 60, seed: int = 0) -> Tensor:
    return torch.randn(count, 2, generator=seeded(seed))


def score(name: str, energy: Energy, x: Tensor, **settings: float) -> Tensor:
    how = OUTLIER_SCORES[name](**settings)
    return how.compute(energy, x, how.fit(energy, points(200, 9), None))


def test_scores_of_an_energy_are_their_formulas() -> None:
    x, seen = points(), points(200, 9)
    assert torch.equal(score("energy", ROUND, x), energy_values(ROUND, x))
    median = energy_values(ROUND, seen).median()
    assert torch.equal(score("typicality", ROUND, x), (energy_values(ROUND, x) - median).abs())
    assert torch.allclose(score("gradient-norm", ROUND, x), x.norm(dim=1))


def test_descent_walks_steps_of_its_length() -> None:
    x = points() + 3
    length = 4 * 0.05 * math.sqrt(2)
    found = score("descent", ROUND, x, steps=4, step_size=0.05)
    assert torch.allclose(found, 0.5 * (x.norm(dim=1) - length).square(), atol=1e-4)
    walled = Function(lambda x: (x - 2).square().sum(1), box(0.0, 1.0, 2))
    assert torch.allclose(
        score("descent", walled, torch.rand(5, 2), steps=50, step_size=0.2), torch.tensor(2.0)
    )


def test_the_background_is_the_law_of_coordinates() -> None:
    x, seen = points(), points(200, 9)
    law = torch.distributions.Normal(seen.mean(0), seen.std(0, correction=0))
    assert torch.allclose(
        score("background", ROUND, x).float(),
        energy_values(ROUND, x) + law.log_prob(x).sum(1),
        atol=1e-5,
    )


def test_multiscale_is_the_distance_of_log_slopes() -> None:
    """With one more level that sees the same, the logs are collinear: shrinkage keeps the inverse
    finite.
    """
    x, energy = points(), Noisy(real(2))
    how = scores.Multiscale((0.5, 2.0), 0.1)
    learned = how.fit(energy, points(200, 9), None)
    f, seen = (
        torch.stack([(p.norm(dim=1).double() / (1 + s**2)).log() for s in how.sigmas], 1)
        for p in (x, points(200, 9))
    )
    variance = seen[:, 0].var()
    covariance = variance * (torch.ones(2, 2) + (0.1 + 1e-6) * torch.eye(2)).double()
    rest = f - seen.mean(0)
    assert torch.allclose(
        how.compute(energy, x, learned),
        (rest @ torch.linalg.inv(covariance) * rest).sum(1),
        rtol=1e-4,
    )
    with pytest.raises(ValueError, match=r"knows no noise level; .*; pass an energy of noise"):
        how.fit(ROUND, x, None)


def test_ensembles_are_in_the_unit_of_each_member() -> None:
    x, seen = points(), points(200, 9)
    other = Function(lambda x: 100 * x[:, 0].abs() + 7, real(2))
    both = torch.stack([energy_values(e, x) for e in (ROUND, other)], 1)
    known = torch.stack([energy_values(e, seen) for e in (ROUND, other)], 1)
    middle = known.median(0).values
    standard = (both - middle) / (known - middle).abs().median(0).values
    assert torch.allclose(score("ensemble", ROUND + other, x), standard.mean(1), atol=1e-5)
    assert torch.allclose(score("disagreement", ROUND + other, x), standard.std(1), atol=1e-5)
    for wrong in (ROUND, ROUND - other):
        with pytest.raises(
            ValueError, match=r"members or more with weights above 0; write a \+ b \+ c"
        ):
            score("ensemble", wrong, x)


# ------------------------------------------------------------------------------------------ classes


def wrapped(kind: str) -> Energy:
    """The same classifier in three forms: a module that gives logits, a ClassifierEnergy, an energy
    with class logits.
    """
    if kind == "module":
        return Function(net(), real(2))
    return (Apart if kind == "apart" else ClassifierEnergy)(net(), 3, real(2))


class Apart(ClassifierEnergy):
    """A classifier whose logits are known apart from its class energies."""

    @property
    def condition(self) -> LabelCondition:
        return LabelCondition(3, lambda x: self.module(x) * math.nan, class_logits=self.module)


@pytest.mark.parametrize("kind", ["module", "energy", "apart"])
def test_scores_of_classes_are_their_formulas(kind: str) -> None:
    x, energy = points(), wrapped(kind)
    with torch.no_grad():
        f = net()(x).double()
    assert torch.allclose(score("msp", energy, x), -f.log_softmax(1).amax(1))
    assert torch.allclose(score("max-logit", energy, x), -f.amax(1))
    assert torch.allclose(
        score("logit-energy", energy, x, temperature=2.0), -2 * (f / 2).logsumexp(1)
    )
    assert torch.allclose(
        score("odin", energy, x, temperature=1.0, epsilon=0.0), -f.log_softmax(1).amax(1)
    )
    leaf = x.clone().requires_grad_(True)
    (slope,) = torch.autograd.grad((net()(leaf) / 10).log_softmax(1).amax(1).sum(), leaf)
    with torch.no_grad():
        expected = -(net()(x + 0.1 * slope.sign()).double() / 10).log_softmax(1).amax(1)
    assert torch.allclose(
        score("odin", energy, x, temperature=10.0, epsilon=0.1), expected, atol=1e-6
    )


def test_doubt_does_not_tie_where_the_classifier_is_sure() -> None:
    f = torch.tensor([[40.0, 0.0], [60.0, 0.0]])
    assert torch.equal(f.softmax(1)[:, 0], torch.ones(2))  # float32 cannot tell them apart
    low, high = score("msp", Function(lambda x: x), f).flip(0)
    assert 0 < low < high


def test_mahalanobis_is_that_of_scikit_learn() -> None:
    """One class: sklearn's empirical covariance; several: the nearest of the means, by hand."""
    model, x, seen = net(), points(), points(400, 9)
    with torch.no_grad():
        h, known = model[:-1](x).double(), model[:-1](seen).double()
    energy = Function(nn.Sequential(model, nn.Flatten(0)), real(2))
    how = classes.Mahalanobis(shrinkage=1e-9)
    labels = torch.zeros(400, dtype=torch.long)
    ours = how.compute(energy, x, how.fit(energy, seen, labels))
    theirs = EmpiricalCovariance().fit(known.numpy()).mahalanobis(h.numpy())
    assert torch.allclose(ours * 400 / 399, torch.from_numpy(theirs), rtol=2e-2)
    labels = (seen[:, 0] > 0).long()
    found = how.compute(energy, x, how.fit(energy, seen, labels))
    means = torch.stack([known[labels == k].mean(0) for k in (0, 1)])
    tied = (known - means[labels]).T @ (known - means[labels]) / 398
    rest = h.unsqueeze(1) - means
    expected = torch.einsum("nkd,de,nke->nk", rest, torch.linalg.inv(tied), rest).amin(1)
    assert torch.allclose(found, expected, rtol=2e-2)


def test_layers_add_up_and_are_named() -> None:
    energy, x, seen = ClassifierEnergy(net(), 3, real(2)), points(), points(200, 9)

    def of(*layers: str) -> Tensor:
        how = classes.Mahalanobis(layers=layers)
        return how.compute(energy, x, how.fit(energy, seen, None))

    assert torch.allclose(of("module.1", "module.3"), of("module.1") + of("module.3"))
    assert torch.allclose(
        of(), of("module.3")
    )  # without names: what the last linear layer is given
    with pytest.raises(ValueError, match=r"no layer 'module.9'; allowed are module, module.0"):
        of("module.9")
    with pytest.raises(ValueError, match="no layer to read features"):
        score("mahalanobis", ROUND, x)


def test_maps_are_averaged_over_space() -> None:
    conv = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    x = torch.rand(3, 1, 8, 8, generator=seeded(0))
    with torch.no_grad():
        expected = conv[0](x).mean((2, 3))
    assert torch.allclose(
        classes.features(Function(conv), x, ("function.0",))[0].float(), expected, atol=1e-6
    )


def test_neighbours_are_those_of_scikit_learn() -> None:
    model, x, seen = net(), points(), points(200, 9)
    with torch.no_grad():
        h, known = (nn.functional.normalize(model[:-1](p)) for p in (x, seen))
    expected = NearestNeighbors(n_neighbors=7).fit(known.numpy()).kneighbors(h.numpy())[0][:, -1]
    found = score("knn", ClassifierEnergy(model, 3, real(2)), x, neighbours=7)
    assert torch.allclose(found.double(), torch.from_numpy(expected).double(), atol=1e-4)
    with pytest.raises(ValueError, match="200 reference points came for the 300 nearest"):
        score("knn", Function(model), x, neighbours=300)


def test_votes_and_information() -> None:
    x = points()
    members = [
        Function(net(), real(2)),
        Function(lambda x: -2 * net()(x), real(2)),
        Function(lambda x: x @ torch.ones(2, 3)),
    ]
    with torch.no_grad():
        p = torch.stack([m(x).double().softmax(1) for m in members])
    ensemble = members[0] + members[1] + members[2]
    assert torch.allclose(score("ensemble-msp", ensemble, x), -p.mean(0).amax(1).log())
    entropy = -(p * p.log()).sum(2)
    expected = -(p.mean(0) * p.mean(0).log()).sum(1) - entropy.mean(0)
    assert torch.allclose(score("mutual-information", ensemble, x), expected)
    assert bool((score("mutual-information", ensemble, x) >= -1e-12).all())


def test_what_is_no_classifier_is_refused() -> None:
    for name in ("msp", "max-logit", "logit-energy", "odin"):
        with pytest.raises(
            ValueError,
            match=r"a score of classes needs logits \(60, K\) with K >= 2; pass a classifier",
        ):
            score(name, ROUND, points())
        with pytest.raises(ValueError, match="needs logits"):
            score(name, MLP(real(2), hidden=(4,)), points())


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("descent", {"steps": 0}),
        ("descent", {"step_size": -1.0}),
        ("multiscale", {"sigmas": (0.1,)}),
        ("multiscale", {"sigmas": (0.1, -1.0)}),
        ("multiscale", {"shrinkage": 0.0}),
        ("logit-energy", {"temperature": 0.0}),
        ("odin", {"temperature": math.nan}),
        ("odin", {"epsilon": -1.0}),
        ("mahalanobis", {"shrinkage": -1.0}),
        ("knn", {"neighbours": 0}),
    ],
)
def test_settings_out_of_range_are_refused(name: str, settings: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(settings))}.*;.*;"):
        OUTLIER_SCORES[name](**settings)


@pytest.mark.parametrize("name", OUTLIER_SCORES)
def test_every_score_makes_a_detector_that_finds_what_is_far(name: str) -> None:
    """One contract for all: high is an outlier, rows stand alone, weights are left as they were."""
    how = get_outlier_score(name)
    model = net()
    with torch.no_grad():
        model[-1].weight.mul_(20)
    if how.reads == "terms":
        second, third = (nn.Sequential(*net()), Function(lambda x: x.square().sum(1), real(2)))
        energy = (
            Function(model, real(2)) + Function(second, real(2))
            if name in ("ensemble-msp", "mutual-information")
            else ROUND + third
        )
    elif how.reads == "classes":
        energy = ClassifierEnergy(model, 3, real(2))
    else:
        energy = Noisy(real(2)) if how.reads == "noise" else ROUND
    wanted = [p.requires_grad for p in energy.parameters()]
    detector = Detector(energy, name).fit(points(300, 1))
    x = points(50, 2)
    assert torch.allclose(
        detector.outlier_scores(x),
        torch.cat([detector.outlier_scores(row) for row in x.split(7)]),
        atol=1e-5,
    )
    assert [p.requires_grad for p in energy.parameters()] == wanted
    if how.reads in ("energy", "noise") or name == "ensemble":
        far = 6 + points(50, 3).abs()
        called = float(detector.predict(far, 0.05).double().mean())
        assert (
            called > 0.95 or name == "background"
        )  # for which ROUND is the background itself, and nothing is far
