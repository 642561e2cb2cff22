"""Inverse problems, purification and composition of what callers pass by mistake or by right."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowland
from lowland import MALA, Detector, Function, box
from lowland.domain import real
from lowland.metrics import ksd
from lowland.targets import Gaussian
from lowland.tasks import (
    BlockAverage,
    Blur,
    Fourier,
    Identity,
    LabelGuidance,
    Mask,
    Operator,
    Projection,
    PurifiedClassifier,
    Restoration,
    Stride,
    compose,
    conditional_sample,
    edit,
    importance_resample,
    interpolate,
    map_estimate,
    purify,
    restore,
    soft_not,
    split_gibbs_sample,
)
from lowland.tasks.inverse.posterior import ClampedEnergy, Likelihood
from lowland.trained.purification import purification_settings
from tests.test_hostile_metrics import refuse, seeded

IMAGES = torch.rand(2, 3, 8, 12, generator=seeded(0))
OPERATORS: dict[str, Operator] = {
    "identity": Identity(),
    "mask": Mask(torch.rand(8, 12, generator=seeded(1)) > 0.5),
    "average": BlockAverage(2),
    "stride": Stride(2),
    "blur": Blur(1.0),
    "projection": Projection((3, 8, 12), 20, seed=0),
    "fourier": Fourier(torch.rand(8, 12, generator=seeded(2)) > 0.5),
    "composed": BlockAverage(2) @ Blur(1.0),
}
BAD = ("1", True, math.nan, math.inf, None, -1, 1 + 0j, [1.0, 2.0])
Y = torch.ones(1, 2)
IDENTITY, GAUSSIAN = Identity(), Gaussian()
WIDE = {"sigma_max": 5.0, "sigma_min": 0.01}


def noisy(x: Tensor, sigma: Tensor) -> Tensor:
    return 0.5 * x.square().sum(1) / (1 + sigma**2)


NORMAL = Function(noisy, real(2))


# ---- operators ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPERATORS)
def test_operators_are_right_or_refuse_in_every_type(name: str) -> None:
    operator = OPERATORS[name]
    y = operator.A(IMAGES.double())
    x = operator.A_T(y)
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        near = {"rtol": 0.02, "atol": 0.05}
        seen, back = operator.A(IMAGES.to(dtype)), operator.A_T(y.to(dtype))
        assert seen.dtype == back.dtype == dtype
        assert torch.allclose(seen.double(), y, **near) and torch.allclose(back.double(), x, **near)
    for dtype in (torch.uint8, torch.int16, torch.int64, torch.bool, torch.complex64):
        assert "came as" in refuse(lambda dtype=dtype: operator.A((200 * IMAGES).to(dtype)))
        assert "came as" in refuse(lambda dtype=dtype: operator.A_T(y.to(dtype)))
    for bad in (IMAGES.numpy(), IMAGES.tolist(), None, "x", IMAGES[0, 0, 0]):
        refuse(lambda bad=bad: operator.A(bad))
        refuse(lambda bad=bad: operator.A_T(bad))
    assert operator.A(IMAGES[:0]).shape[0] == 0


@pytest.mark.parametrize("name", ["average", "stride", "blur", "projection", "fourier", "mask"])
def test_operators_refuse_other_shapes(name: str) -> None:
    operator = OPERATORS[name]
    wrong = [IMAGES.flatten(1)[:, :7]]
    wrong += [] if name == "mask" else [IMAGES[0], IMAGES.unsqueeze(0)]
    wrong += [] if name == "blur" else [IMAGES[:, :, :7, :11]]
    for x in wrong:
        refuse(lambda x=x: operator.A(x))
    if name in ("projection", "fourier"):
        refuse(lambda: operator.A_T(operator.A(IMAGES)[:, :1]))
        refuse(lambda: operator.A_T(operator.A(IMAGES).flatten(1)[:, :3]))


def test_what_a_mask_hides_may_be_anything() -> None:
    hidden = IMAGES.clone()
    hidden[:, :, ~OPERATORS["mask"].known] = math.nan  # type: ignore[attr-defined]
    assert torch.equal(OPERATORS["mask"](hidden), OPERATORS["mask"](IMAGES))


def test_settings_of_operators_are_numbers() -> None:
    assert BlockAverage(np.int64(2)) == BlockAverage(2) and Blur(np.float32(0.5)) == Blur(0.5)
    seen = Projection((np.int64(2),), np.int64(3), seed=np.uint8(0))(Y)
    assert torch.equal(seen, Projection((2,), 3, seed=0)(Y))
    for bad in (*BAD, 0, 2.5):
        refuse(lambda bad=bad: BlockAverage(bad))
        refuse(lambda bad=bad: Stride(bad))
        refuse(lambda bad=bad: Projection((2,), bad, seed=0))
        if bad != 2.5:
            refuse(lambda bad=bad: Blur(bad))
    for bad in (10**30, 1e300):
        refuse(lambda bad=bad: Blur(bad))
        refuse(lambda bad=bad: Projection((10**6,), bad, seed=0))
    for bad in (None, [True], np.array([True]), torch.ones(2), torch.ones(2, dtype=torch.uint8)):
        refuse(lambda bad=bad: Mask(bad))
        refuse(lambda bad=bad: Fourier(bad))


# ---- restoration -------------------------------------------------------------------------------


def run_restore(prior: Any = GAUSSIAN, operator: Any = IDENTITY, y: Any = Y, **more: Any) -> Any:
    sigma, sampler = more.pop("sigma", 1.0), more.pop("sampler", MALA(0.3))
    return restore(prior, operator, y, sigma, sampler, generator=seeded(0), **{"steps": 5, **more})


def run_map(operator: Any = IDENTITY, y: Any = Y, sigma: Any = 1.0, **more: Any) -> Any:
    return map_estimate(Gaussian(), operator, y, sigma, **{"start": torch.zeros(1, 2), **more})


def run_split(operator: Any = IDENTITY, y: Any = Y, sigma: Any = 1.0, **more: Any) -> Any:
    return split_gibbs_sample(NORMAL, operator, y, sigma, generator=seeded(0), **{**WIDE, **more})


@pytest.mark.parametrize("run", [run_restore, run_map, run_split])
def test_measurements_and_noise_are_read_at_every_door(run: Callable[..., Any]) -> None:
    run(sigma=np.float32(0.5))
    run(sigma=torch.tensor(0.5))
    for bad in BAD:
        assert "sigma is" in refuse(lambda bad=bad: run(sigma=bad))
    for bad in (
        Y * math.nan,
        Y / 0,
        Y.long(),
        Y.to(torch.uint8),
        Y.bool(),
        Y + 0j,
        Y.numpy(),
        [[1.0, 1.0]],
        Y[0],
        Y[:0],
        torch.ones(1, 3),
        torch.ones(1, 1, 2),
        None,
    ):
        refuse(lambda bad=bad: run(y=bad))
    for bad in (
        None,
        "blur",
        3.0,
        lambda x: [1.0],
        lambda x: x + 0j,
        lambda x: x.foo,
        lambda x: x[0],
    ):
        refuse(lambda bad=bad: run(operator=bad))


def test_restore_needs_an_operator_that_chains_can_follow() -> None:
    for cut in (
        lambda x: 2 * x.detach(),
        lambda x: torch.from_numpy(x.detach().numpy()),
        lambda x: x.round() + 0 * x,
        torch.no_grad()(lambda x: x.sum(1, keepdim=True).expand(-1, 2)),
    ):
        assert "no gradient reaches x" in refuse(lambda cut=cut: run_restore(operator=cut))
    run_restore(operator=lambda x: x.square())


def test_operators_that_are_not_linear_or_whose_transpose_is_wrong_are_refused() -> None:
    class Wrong(Identity):
        def A_T(self, y: Tensor) -> Tensor:
            return 3 * y

    for run in (run_map, run_split):
        for bad in (lambda x: x.square(), lambda x: x + 1, lambda x: x.abs(), torch.sin):
            assert "not linear" in refuse(lambda run=run, bad=bad: run(operator=bad))
        for bad in (Wrong(), lambda x: 2 * x.detach()):
            assert "not the transpose" in refuse(lambda run=run, bad=bad: run(operator=bad))


def test_settings_of_restorations_are_numbers() -> None:
    right = run_restore(draws=3, temperatures=(2.0, 1.0)).draws
    found = run_restore(draws=np.int64(3), steps=np.int64(5), temperatures=[np.float32(2), 1])
    assert torch.equal(found.draws, right)
    for bad in (*BAD, 0, 2.5):
        refuse(lambda bad=bad: run_restore(draws=bad))
        refuse(lambda bad=bad: run_map(steps=bad))
        refuse(lambda bad=bad: run_split(draws=bad))
        refuse(lambda bad=bad: run_split(num_levels=bad))
        refuse(lambda bad=bad: run_split(batch=bad))
        if bad != 2.5:
            refuse(lambda bad=bad: run_map(tolerance=bad))
            refuse(lambda bad=bad: run_split(sigma_min=bad))
            refuse(lambda bad=bad: run_restore(temperatures=(bad,)))
        if bad != 0:
            refuse(lambda bad=bad: run_restore(steps=bad))
    for bad in ((), "1", 1.0, None):
        refuse(lambda bad=bad: run_restore(temperatures=bad))
    for bad in (
        torch.zeros(1, 3),
        torch.zeros(2, 2),
        torch.zeros(1, 2).long(),
        Y * math.nan,
        [0.0],
    ):
        refuse(lambda bad=bad: run_restore(start=bad))
        refuse(lambda bad=bad: run_map(start=bad))
    refuse(lambda: importance_resample(Y, Identity(), Y, 0.0, 1, seeded(0)))
    refuse(lambda: Restoration.of(torch.zeros(9, 1, 1)).interval("0.5"))  # type: ignore[arg-type]


def test_prior_samples_far_from_the_origin_are_weighed_right() -> None:
    g = seeded(0)
    x = 1e4 + torch.arange(2000.0).view(-1, 1) / 1000  # exact in float32 to a thousandth
    y = torch.tensor([[1e4 + 0.5]])
    found = x[importance_resample(x, Identity(), y, 0.01, 20, g)[:, 0]] - 1e4
    assert abs(float(found.mean()) - 0.5) < 0.02 and float(found.std()) < 0.05


def test_likelihoods_and_clamped_energies_broadcast_nothing() -> None:
    for x in (torch.zeros(3, 2), torch.zeros(2, 1), torch.zeros(2, 3)):
        refuse(lambda x=x: Likelihood(Identity(), torch.ones(2, 2), 1.0)(x))
    bowl = Function(lambda x: x.square().sum(1), real(3))
    for known in (torch.ones(2, dtype=torch.bool), torch.zeros(3), None):
        refuse(lambda known=known: ClampedEnergy(bowl, known, torch.ones(1, 3)))


def protect(**settings: Any) -> PurifiedClassifier:
    return PurifiedClassifier(GAUSSIAN, lambda x: x, generator=seeded(0), **settings)


def test_tasks_refuse_an_energy_that_cuts_its_gradient() -> None:
    """Without one they would move by noise alone, or not at all, and say nothing."""
    cut, x = Function(lambda x: x.detach().square().sum(1), real(2)), torch.ones(3, 2)
    for use in (
        lambda: map_estimate(cut, Identity(), x, 1.0, start=x),
        lambda: purify(cut, x, generator=seeded(0)),
        lambda: purify(cut, x, generator=seeded(0), method="map", sigma=1.0),
        lambda: interpolate(cut, x, x + 1),
        lambda: ksd(cut, x),
        lambda: Detector(cut, "gradient-norm").fit(x),
        lambda: Detector(cut, "descent").fit(x),
        lambda: run_restore(prior=cut),
        lambda: edit(cut, x, cut, generator=seeded(0)),
    ):
        assert "gradient is" in refuse(use)
    flat = Function(lambda x: 0 * x.sum(1), real(2))
    purify(flat, x, generator=seeded(0))
    interpolate(flat, x, x + 1, steps=1)


# ---- purification --------------------------------------------------------------------------------


def test_settings_of_purification_are_numbers_with_known_names() -> None:
    x, how = torch.zeros(2, 2), {"method": "map", "sigma": 1.0}
    right = purify(Gaussian(), x, generator=seeded(0), steps=3, **how)
    found = purify(
        Gaussian(), x, generator=seeded(0), steps=np.int64(3), method="map", sigma=np.float32(1)
    )
    assert torch.equal(found, right)
    for name in ("steps", "sigma", "step_size", "temperature"):
        for bad in BAD:
            more = how | {name: bad}
            refuse(lambda more=more: purify(Gaussian(), x, generator=seeded(0), **more))
            refuse(
                lambda more=more: PurifiedClassifier(
                    Gaussian(), lambda x: x, generator=seeded(0), **more
                )
            )
    for bad in (x.long(), x * math.nan, x + 0j, x.numpy(), torch.zeros(2, 3), x[:0]):
        refuse(lambda bad=bad: purify(Gaussian(), bad, generator=seeded(0)))
    assert "did you mean 'step_size'" in refuse(lambda: protect(stepsize=0.1))
    for bad in (0, 2.5, True, "1"):
        refuse(
            lambda bad=bad: PurifiedClassifier(
                Gaussian(), lambda x: x, generator=seeded(0), draws=bad
            )
        )


def test_a_run_refuses_settings_of_purification_that_it_does_not_have() -> None:
    model = lowland.load("digits")
    for name, value in (("stepsize", 0.1), ("sgima", None), ("noise", 1)):
        assert f"no setting {name!r}" in refuse(
            lambda name=name, value=value: purification_settings(model, **{name: value})
        )


# ---- composition ---------------------------------------------------------------------------------


def test_compositions_read_weights_levels_and_labels() -> None:
    parts = [Gaussian((0.0, 0.0)), Gaussian((3.0, 0.0))]
    points = [p.draw(100, seeded(0)) for p in parts]
    right = compose(parts, points, (1.0, 0.5))
    for weights in (
        np.array([1.0, 0.5]),
        torch.tensor([1.0, 0.5]),
        [np.float32(1), np.float64(0.5)],
    ):
        assert compose(parts, points, weights).weights == right.weights
    for bad in ([1.0], ["1", 1.0], [math.nan, 1.0], "11", 1.0, [True, 1.0]):
        refuse(lambda bad=bad: compose(parts, points, bad))
    refuse(lambda: compose(parts[0], points[0]))  # type: ignore[arg-type]
    refuse(lambda: compose(parts, [points[0], points[1][:, :1]]))
    refuse(lambda: compose(parts, [points[0], points[1].long()]))
    for bad in BAD[:5]:
        refuse(lambda bad=bad: soft_not(parts[0], bad))
    classify, x = (lambda x: torch.cat([x, -x], 1)), torch.ones(2, 2)
    for label in (1, np.int64(1), np.array([1, 1]), torch.tensor([1, 1]), [1, 1], np.uint8(1)):
        assert torch.equal(LabelGuidance(classify, label)(x), LabelGuidance(classify, 1)(x))
    for bad in (True, "1", ["a"], 1.5, None, -1, [0, 4], [[0.5]], np.bool_(True), 1j):
        refuse(lambda bad=bad: LabelGuidance(classify, bad)(x))


def test_edits_paths_and_conditions_read_their_numbers() -> None:
    x, right = torch.zeros(1, 2), Function(lambda x: -x[:, 0])
    more: dict[str, Any] = {"method": "map", "generator": seeded(0), "steps": 3}
    edit(Gaussian(), x, right, weight=np.float32(1), proximal_sigma=np.float64(1), **more)
    for bad in (*BAD[:4], -1, 0):
        refuse(lambda bad=bad: edit(Gaussian(), x, right, weight=bad, **more))
        refuse(lambda bad=bad: edit(Gaussian(), x, right, proximal_sigma=bad, **more))
        refuse(lambda bad=bad: edit(Gaussian(), x, right, draws=bad, **more))
        refuse(lambda bad=bad: interpolate(Gaussian(), x, x + 1, points=bad))
        refuse(lambda bad=bad: interpolate(Gaussian(), x, x + 1, step_size=bad))
        if bad != 0:
            refuse(lambda bad=bad: interpolate(Gaussian(), x, x + 1, steps=bad))
    interpolate(Gaussian(), x, x + 1, np.int64(3), steps=np.int64(2))
    known = torch.tensor([True, False])

    def fill(x: Any = x, known: Any = known, **more: Any) -> Restoration:
        return conditional_sample(Gaussian(), x, known, generator=seeded(0), **{"steps": 3, **more})

    seen = torch.tensor([[2.0, math.nan]])
    assert torch.equal(fill(seen).mean, fill(torch.tensor([[2.0, 0.0]])).mean)
    for bad in (x.long(), x + 0j, x.numpy(), torch.zeros(1, 3), x * math.nan, x[:0]):
        refuse(lambda bad=bad: fill(bad))
    for bad in (known.float(), known[:1].expand(3), None, [True, False], torch.ones(2).bool()):
        refuse(lambda bad=bad: fill(known=bad))
    for bad in (0, 2.5, "1", True):
        refuse(lambda bad=bad: fill(draws=bad))


def test_images_in_a_box_are_refused_outside_it_and_as_bytes() -> None:
    bowl = Function(lambda x: x.flatten(1).square().sum(1), box(0.0, 1.0, 3, 8, 12))
    for bad in (255 * IMAGES, (255 * IMAGES).to(torch.uint8), IMAGES.permute(0, 2, 3, 1)):
        refuse(lambda bad=bad: purify(bowl, bad, generator=seeded(0)))
        refuse(lambda bad=bad: edit(bowl, bad, bowl, generator=seeded(0)))
