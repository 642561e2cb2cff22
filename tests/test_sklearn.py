"""The scikit-learn face: scikit-learn's own checks, and that what comes out is what the library
computes.
"""

import itertools
import json
import math
import pickle
import unittest
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from scipy import sparse, stats
from sklearn.base import clone
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.neural_network import BernoulliRBM
from sklearn.pipeline import make_pipeline
from sklearn.utils.estimator_checks import parametrize_with_checks

pytest.importorskip("sklearn", minversion="1.6")  # the estimators need its tags

from benchmarks.speed import RESULTS
from benchmarks.speed import bernoulli_rbm as comparison
from lowland.interop.sklearn import DBN, RBM, EnergyDetector, RBMClassifier

Array = Any

ESTIMATORS = [
    RBM(4, n_iter=3),
    DBN((5, 4), n_iter=3),
    RBMClassifier(10, n_iter=15, learning_rate=0.03),
    EnergyDetector(n_iter=5),
]
EXPECTED_TO_FAIL: dict[str, dict[str, str]] = {}  # none: estimator -> check -> reason
SKIPPED = {
    "check_array_api_input": "scikit-learn runs it only where SCIPY_ARRAY_API is set; the "
    "estimators take NumPy arrays"
}
OF_SCALES = np.array([1.0, 100.0])  # units of the columns of the tables below


@pytest.mark.filterwarnings("ignore:.*rows for calibration cannot promise:UserWarning")
@parametrize_with_checks(
    ESTIMATORS, expected_failed_checks=lambda one: EXPECTED_TO_FAIL.get(type(one).__name__, {})
)
def test_scikit_learns_checks(estimator: Any, check: Any) -> None:
    try:
        check(estimator)
    except unittest.SkipTest:
        name = check.func.__name__
        assert name in SKIPPED, f"{name} is skipped without a reason in the list"
        pytest.skip(SKIPPED[name])


def bits(count: int) -> Array:
    """All states (2^count, count)."""
    return np.array(list(itertools.product((0.0, 1.0), repeat=count)))


def patterns(count: int = 400, seed: int = 0) -> Array:
    """Two opposite patterns of six bits, each bit wrong in one of ten (count, 6)."""
    rng = np.random.RandomState(seed)
    which = rng.rand(count, 1) < 0.5
    return np.abs(
        np.where(which, [1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]) - (rng.rand(count, 6) < 0.1)
    ).astype(float)


def quick(**other: Any) -> RBM:
    return RBM(
        **{"n_components": 4, "n_iter": 40, "learning_rate": 0.3, "random_state": 0, **other}
    )


# ---- restricted machines -------------------------------------------------------------------------


def test_features_and_free_energies_are_those_of_bernoulli_rbm() -> None:
    x = patterns()
    peer = BernoulliRBM(5, n_iter=20, random_state=0).fit(x)
    peer.components_, peer.intercept_hidden_ = (
        50 * peer.components_,
        peer.intercept_hidden_ + np.arange(5),
    )
    rbm = quick(n_components=5, n_iter=1, likelihood=False).fit(x)
    for name, values in (
        ("weight", peer.components_.T),
        ("visible_bias", peer.intercept_visible_),
        ("hidden_bias", peer.intercept_hidden_),
    ):
        getattr(rbm.energy_, name).copy_(torch.from_numpy(np.ascontiguousarray(values)))
    assert np.allclose(rbm.components_, peer.components_, atol=1e-6)
    assert np.allclose(rbm.transform(x), peer.transform(x), atol=1e-6)
    assert np.allclose(rbm.score_samples(x), -peer._free_energy(x), atol=1e-5)


def test_likelihoods_of_binary_columns_add_up_to_one() -> None:
    rbm = quick().fit(patterns())
    assert abs(np.exp(rbm.score_samples(bits(6))).sum() - 1) < 1e-9
    assert rbm.log_z_.method == "enumeration" and rbm.log_z_.certified


def test_likelihoods_of_gaussian_columns_integrate_to_one_in_their_own_units() -> None:
    rng = np.random.RandomState(0)
    x = 100 * np.where(
        rng.rand(500, 1) < 0.3, rng.normal(-2, 0.3, (500, 1)), rng.normal(1, 0.3, (500, 1))
    )
    rbm = RBM(5, n_iter=20, random_state=0).fit(x)
    grid = np.linspace(-1500, 1500, 6001)
    assert rbm.columns_.kind == "gaussian"
    assert (
        abs(np.exp(rbm.score_samples(grid[:, None])).sum() * (grid[1] - grid[0]) - 1)
        < 1e-3 + 5 * rbm.log_z_.error
    )


def test_what_is_learned_is_the_law_of_the_data() -> None:
    x, fresh = patterns(2000), patterns(2000, seed=1)
    share = x.mean(0)
    independent = (fresh * np.log(share) + (1 - fresh) * np.log(1 - share)).sum(1).mean()
    flips = stats.entropy([0.1, 0.9])
    truth = -(math.log(2) + 6 * flips)  # but for the rare states that both patterns reach
    score = quick().fit(x).score(fresh)
    assert independent < truth - 1
    assert truth - 0.1 < score < truth + 0.1


@pytest.mark.parametrize("objective", ["pcd", "cd"])
def test_samples_have_the_probabilities_that_are_scored(objective: str) -> None:
    rbm = quick(objective=objective).fit(patterns())
    probabilities = np.exp(rbm.score_samples(bits(6)))
    found = rbm.sample(4000, steps=60, random_state=1) @ 2 ** np.arange(5, -1, -1)
    counts = np.bincount(found.astype(int), minlength=64)
    order = np.argsort(probabilities)
    seen, expected = (
        np.add.reduceat(values[order], range(0, 64, 4)) for values in (counts, 4000 * probabilities)
    )
    assert expected.min() > 5 and stats.chisquare(seen, expected).pvalue > 1e-4
    assert stats.chisquare(np.roll(seen, 1), expected).pvalue < 1e-12  # the test can fail


def test_gibbs_moves_and_goes_on() -> None:
    rbm, x = quick().fit(patterns()), patterns()
    first, second = rbm.gibbs(x), rbm.gibbs(x)
    assert set(np.unique(first)) <= {0.0, 1.0} and (first != second).any()
    assert (rbm.gibbs(x, random_state=3) == rbm.gibbs(x, random_state=3)).all()


def test_grey_values_are_probabilities_drawn_anew() -> None:
    grey = np.full((500, 3), [0.1, 0.5, 0.9])
    rbm = quick(n_components=2).fit(grey)
    draws = (np.random.RandomState(0).rand(20_000, 3) < grey[0]).astype(float)
    best = sum(stats.entropy([p, 1 - p]) for p in grey[0])
    assert abs(rbm.score(draws) + best) < 0.05
    assert rbm.score(grey) <= rbm.score(draws) + 5 * rbm.score_samples(draws).std() / math.sqrt(
        20_000
    )  # by convexity


def test_every_batch_of_grey_values_is_drawn_anew() -> None:
    grey = np.random.RandomState(0).rand(400, 6)
    session = quick().partial_fit(grey)._sessions[0]
    first, second = (session.batch()[0].numpy() for _ in range(2))
    order = session.batches.order(
        session.batches.epoch - 1
    ).numpy()  # of the second batch, which was a whole epoch
    assert set(np.unique(first)) == {0.0, 1.0} == set(np.unique(second))
    z = (second - grey[order]).sum() / np.sqrt((grey * (1 - grey)).sum())
    assert abs(z) < 5 and abs(second - grey[order]).mean() < 0.4 and (first != second).any()
    assert np.corrcoef(second.ravel(), grey[order].ravel())[0, 1] > 0.5


def test_gaussian_columns_do_not_care_for_their_units() -> None:
    rng = np.random.RandomState(0)
    x = rng.normal(size=(300, 2)) @ [[1.0, 0.5], [0.0, 1.0]]
    here, there = (RBM(3, n_iter=5, random_state=0).fit(table) for table in (x, x * OF_SCALES + 7))
    assert np.allclose(here.transform(x), there.transform(x * OF_SCALES + 7), atol=1e-5)
    assert np.allclose(
        here.score_samples(x) - math.log(100), there.score_samples(x * OF_SCALES + 7), atol=1e-4
    )
    assert np.allclose(
        there.inverse_transform(np.zeros((1, 3))),
        here.inverse_transform(np.zeros((1, 3))) * OF_SCALES + 7,
    )


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"visible": "binary"}, "outside"),
        ({"visible": "relu"}, "visible"),
        ({"n_components": 0}, "n_components"),
        ({"n_iter": 0, "batch_size": 1}, "n_iter"),
        ({"objective": "mle"}, "objective"),
        ({"learning_rate": -1.0}, "learning_rate"),
    ],
)
def test_wrong_parameters_are_refused(parameters: dict[str, Any], words: str) -> None:
    words = "probabilities" if words == "outside" else words
    with pytest.raises(ValueError, match=words):
        quick(**parameters).fit(patterns() - 0.5)


def test_binary_columns_refuse_other_values_later_too() -> None:
    with pytest.raises(ValueError, match="probabilities"):
        quick(n_iter=1).fit(patterns()).transform(patterns() * 2)


def test_random_state_decides_everything() -> None:
    x, before = patterns(), torch.get_rng_state()
    a, b, c = quick(n_iter=2).fit(x), quick(n_iter=2).fit(x), quick(n_iter=2, random_state=1).fit(x)
    assert (a.components_ == b.components_).all() and (
        a.sample(5, steps=3) == b.sample(5, steps=3)
    ).all()
    assert (a.components_ != c.components_).any() and (torch.get_rng_state() == before).all()
    d, e = (quick(n_iter=2, random_state=np.random.RandomState(4)).fit(x) for _ in range(2))
    assert (d.components_ == e.components_).all()


def test_partial_fit_learns_goes_on_and_survives_pickling() -> None:
    x = patterns()
    rbm = quick()
    for part in np.split(np.concatenate([x] * 40), 400):
        rbm.partial_fit(part)
    assert rbm.measure(x).score(x) > -6 * math.log(2) + 0.8
    twin = pickle.loads(pickle.dumps(rbm))
    assert (twin.partial_fit(x[:30]).components_ == rbm.partial_fit(x[:30]).components_).all()
    with pytest.raises(ValueError, match="measure"):
        rbm.score_samples(x)


def test_partial_fit_goes_on_from_fit() -> None:
    x = patterns()
    rbm = quick().fit(x)
    before, chains, scale = (
        rbm.components_.copy(),
        rbm.chains_.copy(),
        np.abs(rbm.components_).max(),
    )
    rbm.partial_fit(x[:50])
    assert 0 < np.abs(rbm.components_ - before).max() < 0.1 * scale
    assert 0 < (rbm.chains_ != chains).mean() < 0.4  # one sweep on, not new noise
    assert rbm.fit(x).log_z_.certified and (rbm.components_ == quick().fit(x).components_).all()


def test_likelihood_can_be_switched_off() -> None:
    x = patterns()
    with_it, without = quick(n_iter=2).fit(x), quick(n_iter=2, likelihood=False).fit(x)
    assert not hasattr(without, "log_z_")
    assert np.allclose(without.score_samples(x), with_it.score_samples(x) + with_it.log_z_.value)


def test_sparse_input_is_as_dense_input() -> None:
    x = patterns()
    dense, thin = quick(n_iter=2).fit(x), quick(n_iter=2).fit(sparse.csr_array(x))
    assert (dense.components_ == thin.components_).all()
    assert (dense.transform(x) == thin.transform(sparse.csr_matrix(x))).all()


@pytest.mark.filterwarnings("ignore:Energies have reached")
def test_what_is_bad_is_said() -> None:
    rng = np.random.RandomState(0)
    with pytest.warns(ConvergenceWarning, match="not finite"):
        RBM(20, visible="gaussian", learning_rate=1e6, n_iter=40, likelihood=False).fit(
            rng.normal(size=(100, 5))
        )


def test_pipeline_grid_search_clone_and_frames() -> None:
    x, y = load_digits(return_X_y=True)
    x, y = x[:400] / 16, y[:400]
    features = quick(n_components=40, n_iter=40, batch_size=20, likelihood=False)
    pipeline = make_pipeline(features, LogisticRegression(max_iter=200))
    search = GridSearchCV(pipeline, {"rbm__learning_rate": [1e-4, 0.3]}, cv=2).fit(x, y)
    assert search.best_params_ == {"rbm__learning_rate": 0.3} and search.best_score_ > 0.75
    by_likelihood = GridSearchCV(quick(n_iter=10), {"learning_rate": [1e-3, 0.3]}, cv=2).fit(
        patterns()
    )
    assert by_likelihood.best_params_ == {"learning_rate": 0.3}
    assert clone(features).get_params() == features.get_params()
    pandas = pytest.importorskip("pandas")
    named = clone(features).set_params(n_iter=1).set_output(transform="pandas")
    frame = named.fit_transform(pandas.DataFrame(x, columns=[f"pixel{i}" for i in range(64)]))
    assert list(frame.columns)[:2] == ["rbm0", "rbm1"] and named.feature_names_in_[0] == "pixel0"


def test_dtype_is_kept() -> None:
    rbm = quick(n_iter=2).fit(patterns().astype(np.float32))
    narrow, wide = (rbm.transform(patterns().astype(dtype)) for dtype in (np.float32, np.float64))
    assert (
        narrow.dtype == np.float32
        and wide.dtype == np.float64
        and np.allclose(narrow, wide, atol=1e-6)
    )


# ---- deep belief nets ----------------------------------------------------------------------------


def test_a_net_of_one_layer_is_a_restricted_machine() -> None:
    x = patterns()
    assert np.allclose(quick().fit(x).score_samples(x), quick_net((4,)).fit(x).score_samples(x))


def quick_net(sizes: tuple[int, ...], **other: Any) -> DBN:
    return DBN(sizes, **{"n_iter": 40, "learning_rate": 0.3, "random_state": 0, **other})


def test_the_bound_of_a_net_is_below_its_likelihood_and_is_the_librarys() -> None:
    x = patterns(200)
    net = quick_net((4, 3)).fit(x)
    energy, hidden = net.energy_.double(), torch.from_numpy(bits(4))
    joint = [
        energy(torch.cat([torch.from_numpy(row).expand(16, 6), hidden], 1)) for row in x
    ]  # all h¹ under each x
    exact = np.array([(-one).logsumexp(0).item() for one in joint]) - net.log_z_.value
    bound = net.score_samples(x)
    theirs = energy.variational_bound(
        torch.from_numpy(x), torch.Generator().manual_seed(0), draws=400
    )
    expected, spread = (
        theirs.value.numpy() - net.log_z_.value,
        theirs.error.numpy() * math.sqrt(400 / 10),
    )
    assert abs((bound - expected).mean()) < 5 * math.sqrt((spread**2).mean() / len(x))
    assert expected.mean() < exact.mean() < expected.mean() + 1
    with torch.no_grad():
        everything = energy(torch.from_numpy(bits(10))).neg().logsumexp(0).item()
    assert abs(everything - net.log_z_.value) < 1e-9


def test_a_net_samples_what_it_learned() -> None:
    x = patterns(1000)
    net = quick_net((8, 6)).fit(x)
    drawn = net.sample(1000, steps=50, random_state=0)
    assert np.abs(np.cov(drawn.T) - np.cov(x.T)).max() < 0.06
    assert np.abs(np.cov(x.T)).min() > 0.1
    assert net.inverse_transform(net.transform(x)).shape == x.shape


def test_a_net_goes_on_layer_by_layer() -> None:
    x = patterns()
    net = quick_net((4, 3)).fit(x)
    before = [machine.weight.clone() for machine in net.machines_]
    net.partial_fit(x[:50])
    moved = [
        float((machine.weight - old).abs().max())
        for machine, old in zip(net.machines_, before, strict=True)
    ]
    assert all(0 < step < 0.2 for step in moved)
    fresh = quick_net((4, 3)).partial_fit(x[:50]).partial_fit(x[50:100])
    assert fresh.transform(x).shape == (400, 3)


def test_a_net_takes_gaussian_columns() -> None:
    rng = np.random.RandomState(0)
    x = rng.normal(size=(300, 2)) * OF_SCALES
    net = DBN((6, 3), n_iter=10, random_state=0).fit(x)
    best = -(1 + math.log(2 * math.pi)) - math.log(100)
    assert best - 0.3 < net.score(x) < best + 0.1
    assert (net.sample(300, steps=20, random_state=0).std(0) / OF_SCALES).min() > 0.5


# ---- the classifier ------------------------------------------------------------------------------


def labelled(count: int = 600, seed: int = 0) -> tuple[Array, Array]:
    rng = np.random.RandomState(seed)
    y = rng.randint(3, size=count)
    return (rng.rand(count, 6) < np.eye(3)[y].repeat(2, 1) * 0.6 + 0.2).astype(float), np.array(
        ["ant", "bee", "cat"]
    )[y]


def test_probabilities_are_those_of_the_joint_energy() -> None:
    x, y = labelled()
    found = RBMClassifier(8, n_iter=3, random_state=0).fit(x, y)
    points = torch.from_numpy(x).float()
    joint = np.stack([found.energy_(points, torch.full((len(x),), k)).numpy() for k in range(3)], 1)
    assert np.allclose(
        found.predict_proba(x), np.exp(-joint) / np.exp(-joint).sum(1, keepdims=True), atol=1e-5
    )
    assert np.allclose(found.predict_log_proba(x), np.log(found.predict_proba(x)))
    assert set(found.chain_labels_) <= {"ant", "bee", "cat"} and found.chains_.shape == (100, 6)


@pytest.mark.parametrize("discriminative", [0.0, 10.0])
def test_the_classifier_is_as_good_as_the_law_allows(discriminative: float) -> None:
    x, y = labelled()
    fresh, truth = labelled(3000, seed=1)
    odds = np.log([[0.8 if i // 2 == k else 0.2 for i in range(6)] for k in range(3)])
    rest = np.log([[0.2 if i // 2 == k else 0.8 for i in range(6)] for k in range(3)])
    best = (
        np.array(["ant", "bee", "cat"])[(fresh @ odds.T + (1 - fresh) @ rest.T).argmax(1)] == truth
    ).mean()
    model = RBMClassifier(8, discriminative=discriminative, n_iter=60, random_state=0).fit(x, y)
    assert best - 0.03 < model.score(fresh, truth) < best + 0.02


def test_one_class_is_refused() -> None:
    with pytest.raises(ValueError, match="2 classes"):
        RBMClassifier().fit(patterns(), np.zeros(400))


# ---- the detector --------------------------------------------------------------------------------


def blob(count: int, seed: int) -> Array:
    return np.random.RandomState(seed).normal(size=(count, 2)) * OF_SCALES + [0, 5]


def test_the_threshold_is_that_of_conformal_p_values() -> None:
    model, fresh = EnergyDetector(n_iter=5, random_state=0).fit(blob(500, 0)), blob(5000, 1)
    fresh[:1000] *= 3
    assert ((model.p_values(fresh) <= 0.05) == (model.predict(fresh) == -1)).all()
    assert (
        model.detector_.predict(model.columns_.to_tensor(fresh)).numpy()
        == (model.predict(fresh) == -1)
    ).all()
    assert np.allclose(model.decision_function(fresh), model.score_samples(fresh) - model.offset_)
    assert len(model.detector_.calibration) == 100


def test_the_promise_is_kept_over_many_calibrations() -> None:
    alarms, sizes = [], (200, 400)
    for seed in range(25):
        model = EnergyDetector(n_iter=1, false_alarms=0.1, calibration=0.5, random_state=seed).fit(
            blob(sizes[0], seed)
        )
        alarms.append((model.predict(blob(sizes[1], 1000 + seed)) == -1).mean())
    promised = int(0.1 * 101) / 101
    error = np.std(alarms, ddof=1) / math.sqrt(len(alarms))
    assert abs(np.mean(alarms) - promised) < 5 * error
    assert error < 0.012  # a threshold at twice the rate would be seen


def test_contamination_is_the_share_of_the_training_rows() -> None:
    x = blob(400, 0)
    model = EnergyDetector(contamination=0.1, n_iter=2, random_state=0).fit(x)
    assert (model.predict(x) == -1).sum() == 40
    with pytest.raises(ValueError, match="contamination='auto'"):
        model.p_values(x)


def test_a_promise_that_cannot_be_kept_is_not_made() -> None:
    with pytest.warns(UserWarning, match="nothing will be called"):
        model = EnergyDetector(n_iter=1, random_state=0).fit(blob(30, 0))
    assert (model.predict(blob(30, 0) * 100) == 1).all() and model.offset_ == -math.inf


def test_the_detector_finds_what_lies_outside() -> None:
    angle = np.random.RandomState(0).rand(800) * 2 * math.pi
    ring = np.stack([np.cos(angle), np.sin(angle)], 1) + 0.05 * np.random.RandomState(1).normal(
        size=(800, 2)
    )
    model = EnergyDetector(
        n_iter=60, objective={"name": "DSM", "sigmas": (0.2,)}, random_state=0
    ).fit(ring)
    hole = np.random.RandomState(2).normal(size=(200, 2)) * 0.1
    assert (
        model.predict(hole) == -1
    ).mean() > 0.9  # in the middle, where means and marginals see nothing
    assert (model.predict(ring) == -1).mean() < 0.12
    untrained = EnergyDetector(n_iter=1, learning_rate=1e-9, random_state=0).fit(ring)
    assert (untrained.predict(hole) == -1).mean() < 0.1


def test_any_recipe_will_do_and_its_sections_can_be_searched() -> None:
    sections = {
        "energy": {"name": "MLP", "hidden": (16,), "quadratic_weight": 1.0},
        "objective": {"name": "PCD", "steps": 3, "buffer_size": 200},
        "sampler": {"name": "MALA", "step_size": 0.2},
        "training": {"steps": 30},
    }
    model = EnergyDetector(**sections, random_state=0).fit(blob(300, 0))
    assert model.energy_.hidden == (16,) and model.history_[-1]["step"] == 30
    assert clone(model).get_params()["energy"] == sections["energy"]
    with pytest.raises(ValueError, match="did you mean 'MLP'"):
        EnergyDetector(energy={"name": "MPL"}).fit(blob(300, 0))


@pytest.mark.parametrize(
    "parameters",
    [{"contamination": 0.7}, {"contamination": "some"}, {"false_alarms": 0}, {"batch_size": 1}],
)
def test_wrong_settings_of_the_detector_are_refused(parameters: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(parameters))):
        EnergyDetector(**parameters).fit(blob(100, 0))


def test_no_warnings_where_all_is_well() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        quick(n_iter=5).fit(patterns())
        EnergyDetector(n_iter=5, random_state=0).fit(blob(300, 0))


# ---- the comparison with BernoulliRBM ------------------------------------------------------------


def test_the_comparison_judges_the_weights_of_bernoulli_rbm() -> None:
    x = patterns().astype(np.float32)
    made = comparison.theirs(x, 5, 0.05, 0, {"learning_rate": 0.1, "batch_size": 10})
    peer = BernoulliRBM(5, n_iter=0, random_state=0).fit(x)
    peer.components_, peer.intercept_visible_ = (
        made.energy.weight.t().numpy(),
        made.energy.visible_bias.numpy(),
    )
    peer.intercept_hidden_ = made.energy.hidden_bias.numpy()
    assert made.passes > 0.1 and made.seconds >= 0.05
    assert np.allclose(made.energy(torch.from_numpy(x)).numpy(), peer._free_energy(x), atol=1e-5)


def test_the_page_of_the_comparison_is_what_its_data_say() -> None:
    record = json.loads((RESULTS / "bernoulli-rbm.json").read_text())
    assert (RESULTS / "bernoulli-rbm.md").read_text() == comparison.markdown(record)
