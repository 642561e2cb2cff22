"""Purification against closed forms and the library's own samplers; gradients through it; what is
refused; the command.
"""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import lowland
from lowland import Langevin, box, commands, real, sample
from lowland.config import ConfigError, read_recipe
from lowland.energy import Energy, Function, NoiseCondition
from lowland.nets import MLP, ConvNet, NoiseMLP
from lowland.samplers import denoise
from lowland.targets import Gaussian
from lowland.tasks import (
    Constant,
    Identity,
    LabelGuidance,
    PurifiedClassifier,
    as_classifier,
    map_estimate,
    purify,
)
from lowland.testing import LIMIT, seeded

SHIPPED = "digits"


def quiet(energy: Energy) -> Energy:
    """Double precision, no weight that learns."""
    return energy.double().requires_grad_(False).eval()


@pytest.fixture(scope="module")
def boxed() -> Energy:
    torch.manual_seed(0)
    return quiet(
        ConvNet(
            box(0.0, 1.0, 1, 8, 8),
            channels=(4,),
            kernels=(3,),
            strides=(2,),
            hidden=8,
            classes=3,
            scale=20.0,
        )
    )


class NoisyNormal(Energy):
    """Data N(0, 1) under noise: E(x, σ) = ‖x‖² / 2 (1 + σ²), whose expected clean point is x / (1 +
    σ²).
    """

    condition = NoiseCondition()

    def __init__(self) -> None:
        super().__init__(real(2))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return 0.5 * x.square().sum(1) / (1 + torch.as_tensor(c, dtype=x.dtype).square())


# ------------------------------------------------------------------------------------ known answers


def test_langevin_is_the_sampler_of_that_name(boxed: Energy) -> None:
    x = boxed.domain.draw(5, seeded(1), dtype=torch.float64)
    ours = purify(boxed, x, steps=7, step_size=0.02, temperature=0.3, generator=seeded(2))
    torch.testing.assert_close(
        ours,
        sample(boxed, Langevin(0.02, 0.3), x, 7, generator=seeded(2)).x,
        rtol=1e-12,
        atol=1e-12,
    )
    assert bool(boxed.domain.contains(ours).all())


def test_langevin_forgets_where_it_began() -> None:
    # n = 20,000 chains of 60 steps of 0.1 from 3: mean 3 · 0.9^60 = 0.005, variance 1 / (1 − 0.05)
    end = purify(
        Gaussian(), torch.full((20_000, 2), 3.0), steps=60, step_size=0.1, generator=seeded(0)
    ).double()
    assert abs(float(end.mean()) - 3 * 0.9**60) < LIMIT * (1.05 / 40_000) ** 0.5
    assert abs(float(end.var()) - 1 / 0.95) < LIMIT * 1.05 * (2 / 40_000) ** 0.5


def test_map_is_the_closed_form_and_that_of_restoration() -> None:
    x = torch.randn(6, 2, generator=seeded(0), dtype=torch.float64)
    found = purify(
        Gaussian(), x, method="map", sigma=0.5, steps=200, step_size=0.5, generator=seeded()
    )
    torch.testing.assert_close(found, x / (1 + 0.25), atol=1e-9, rtol=0)
    torch.manual_seed(1)
    hills = quiet(MLP(real(2), hidden=(16,), quadratic_weight=1.0))
    peak = map_estimate(hills, Identity(), x, 0.5, start=x, tolerance=1e-10)
    mine = purify(hills, x, method="map", sigma=0.5, steps=400, step_size=0.1, generator=seeded())
    torch.testing.assert_close(mine, peak.x, atol=1e-6, rtol=0)


def test_map_bears_any_width_of_the_pull() -> None:
    x = torch.ones(1, 2)
    near = purify(
        Gaussian(), x, method="map", sigma=1e-4, steps=30, step_size=0.5, generator=seeded()
    )
    torch.testing.assert_close(near, x, atol=1e-6, rtol=0)


def test_a_jump_is_that_of_generation() -> None:
    x = torch.randn(4, 2, generator=seeded(0))
    energy = NoisyNormal()
    found = purify(energy, x, method="denoise", sigma=0.8, steps=1, generator=seeded(3))
    noisy = x + 0.8 * torch.randn(4, 2, generator=seeded(3))
    torch.testing.assert_close(found, denoise(energy.given(0.8), noisy, 0.8))
    torch.testing.assert_close(found, noisy / 1.64)


def test_more_levels_come_nearer_to_the_flow() -> None:
    # The flow of N(0, 1) under noise shrinks x by 1 / √(1 + σ²); a jump by 1 / (1 + σ²).
    x = torch.tensor([[2.0, -1.0]], dtype=torch.float64)
    noisy = x + torch.randn(1, 2, generator=seeded(3), dtype=torch.float64)
    errors = []
    for steps in (1, 10, 300):
        found = purify(
            NoisyNormal(), x, method="denoise", sigma=1.0, steps=steps, generator=seeded(3)
        )
        errors.append(float((found - noisy / 2**0.5).abs().max()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.005


def test_the_clean_point_is_that_of_the_energy_whatever_network_is_inside() -> None:
    """On digits that it never saw the energy's own clean point is more than 1 dB nearer than the
    network's guess.
    """
    energy = lowland.load("mnist").energy
    small = lowland.load_data("digits").calibration.x[:30]
    x = torch.nn.functional.interpolate(small, (20, 20), mode="bilinear")
    x = torch.nn.functional.pad(x, (4, 4, 4, 4))
    noisy = x + 0.3 * torch.randn(x.shape, generator=seeded(1))
    found = purify(energy, x, method="denoise", sigma=0.3, steps=1, generator=seeded(1))
    torch.testing.assert_close(found, denoise(energy.given(0.3), noisy, 0.3))
    with torch.no_grad():
        guess = energy.denoise(noisy, 0.3)
    far, near = ((one - x).square().mean() for one in (guess, found))
    assert near < far / 10**0.1
    with torch.no_grad():
        assert torch.equal(
            purify(energy, x, method="denoise", sigma=0.3, steps=1, generator=seeded(1)), found
        )


def test_an_expression_of_energies_of_noise_denoises() -> None:
    x = torch.randn(4, 2, generator=seeded(0))
    both = NoisyNormal() + 2 * LabelGuidance(lambda x: torch.cat([x, -x], 1), 0)
    found = purify(both, x, method="denoise", sigma=0.8, steps=1, generator=seeded(3))
    noisy = x + 0.8 * torch.randn(4, 2, generator=seeded(3))
    torch.testing.assert_close(found, denoise(both.given(0.8), noisy, 0.8))
    with pytest.raises(
        ValueError, match="Sum knows noise levels, and none is bound; 'denoise' needs"
    ):
        purify(both, x, generator=seeded())


# ---------------------------------------------------------------------------------------- gradients

WAYS: list[dict[str, Any]] = [
    {"method": "langevin", "steps": 3, "step_size": 0.002, "temperature": 0.1, "sigma": 0.05},
    {"method": "langevin", "steps": 2, "step_size": 0.002, "temperature": 0.0, "clip": 1.0},
    {"method": "map", "steps": 3, "step_size": 0.002, "sigma": 0.3},
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: f"{way['method']}-{way.get('clip')}")
def test_the_unrolled_gradient_is_the_slope_of_what_comes_out(
    boxed: Energy, way: dict[str, Any]
) -> None:
    """By central differences, inside the bounds, where the map is smooth."""
    x = 0.4 + 0.2 * torch.rand(2, 1, 8, 8, generator=seeded(1), dtype=torch.float64)
    toward = torch.randn(x.shape, generator=seeded(2), dtype=torch.float64)

    def out(x: Tensor) -> Tensor:
        return (purify(boxed, x, generator=seeded(3), **way).pow(2) * toward).sum()

    leaf = x.clone().requires_grad_()
    (slope,) = torch.autograd.grad(out(leaf), leaf)
    step = 1e-5 * toward
    numeric = (out(x + step) - out(x - step)) / 2e-5
    assert float((slope * toward).sum()) == pytest.approx(float(numeric), rel=1e-4)
    assert not torch.allclose(
        slope, 2 * x * toward, rtol=1e-2
    )  # and it is not that of doing nothing


def test_the_gradient_through_a_denoiser() -> None:
    torch.manual_seed(0)
    energy = quiet(NoiseMLP(real(3), hidden=(16,), quadratic_weight=0.5))
    x = torch.randn(4, 3, generator=seeded(1), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x: purify(energy, x, method="denoise", sigma=0.5, steps=3, generator=seeded(2)),
        x.requires_grad_(),
    )


def test_with_and_without_gradient_the_points_are_the_same_and_no_trace_stays() -> None:
    torch.manual_seed(0)
    energy = MLP(real(2), hidden=(8,)).double().train()
    x = torch.randn(3, 2, generator=seeded(0), dtype=torch.float64)
    plain = purify(energy, x, steps=4, generator=seeded(1))
    leaf = x.clone().requires_grad_()
    kept = purify(energy, leaf, steps=4, generator=seeded(1))
    torch.testing.assert_close(plain, kept.detach())
    kept.sum().backward()
    assert energy.training and all(p.requires_grad and p.grad is None for p in energy.parameters())
    assert not plain.requires_grad and leaf.grad is not None
    with torch.no_grad():
        assert not purify(energy, leaf, steps=4, generator=seeded(1)).requires_grad


def test_a_constant_energy_moves_nothing_with_and_without_gradient() -> None:
    x = torch.randn(3, 2, generator=seeded(0))
    for start in (x, x.clone().requires_grad_()):
        assert torch.equal(
            purify(Constant(1.0), start, steps=3, temperature=0.0, generator=seeded(1)), x
        )


def bend(x: Tensor) -> Tensor:
    return torch.cat([x, x.square(), -x], 1)


def test_past_the_purifier_the_answers_are_the_same_and_the_slope_is_that_of_the_classifier() -> (
    None
):
    x = torch.randn(4, 2, generator=seeded(0))
    full = PurifiedClassifier(Gaussian(), bend, generator=seeded(1), steps=2, step_size=0.3)
    past = PurifiedClassifier(
        Gaussian(), bend, generator=seeded(1), steps=2, step_size=0.3, gradient="identity"
    )
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    logits = full(a)
    torch.testing.assert_close(logits, past(b))
    full.generator, past.generator = seeded(1), seeded(1)
    clean = purify(Gaussian(), x, steps=2, step_size=0.3, generator=seeded(1))
    seed = torch.arange(6.0)
    (own,) = torch.autograd.grad((past(b) * seed).sum(), b)
    leaf = clean.clone().requires_grad_()
    (bare,) = torch.autograd.grad((bend(leaf) * seed).sum(), leaf)
    torch.testing.assert_close(own, bare)
    (through,) = torch.autograd.grad((full(a) * seed).sum(), a)
    torch.testing.assert_close(through, bare * (1 - 0.3) ** 2)  # each step shrinks by 1 − h
    assert (
        full.with_identity_gradient().generator is full.generator
        and full.with_identity_gradient().settings == full.settings
    )


def test_draws_are_averaged_and_fresh_at_every_call() -> None:
    x = torch.zeros(1, 2)
    model = PurifiedClassifier(
        Gaussian(),
        lambda x: torch.cat([x, x], 1),
        generator=seeded(1),
        draws=4000,
        steps=1,
        step_size=0.5,
    )
    first, second = model(x), model(x)
    assert not torch.equal(first, second)
    assert float(first.abs().max()) < LIMIT / 4000**0.5  # one step of 0.5 adds noise of variance 1


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("energy", "settings"),
    [
        (Gaussian(), {"method": "boil"}),
        (Gaussian(), {"steps": -1}),
        (Gaussian(), {"step_size": 0.0}),
        (Gaussian(), {"temperature": -1.0}),
        (Gaussian(), {"sigma": -0.1}),
        (Gaussian(), {"sigma": float("nan")}),
        (Gaussian(), {"sigma": "0.1"}),
        (Gaussian(), {"sigma": None}),
        (Gaussian(), {"generator": None}),
        (Gaussian(), {"clip": 0.0}),
        (Gaussian(), {"method": "map", "sigma": 0.0}),
        (Gaussian(), {"method": "denoise", "sigma": 0.3}),
        (NoisyNormal(), {"method": "langevin"}),
        (NoisyNormal(), {"method": "denoise", "sigma": 0.3, "steps": 0}),
    ],
)
def test_what_cannot_be_meant_is_refused(energy: Energy, settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        purify(energy, torch.zeros(2, 2), **({"generator": seeded()} | settings))


def test_points_outside_and_of_another_shape_are_refused(boxed: Energy) -> None:
    other: Any = [[0.5]]
    for x in (
        torch.full((1, 1, 8, 8), 1.5),
        torch.zeros(1, 1, 7, 8),
        torch.full((1, 1, 8, 8), float("nan")),
        other,
    ):
        with pytest.raises(ValueError, match=r";.*;"):
            purify(boxed, x, generator=seeded())


def test_what_does_not_classify_is_refused() -> None:
    for wrong in (MLP(real(2), hidden=(4,)), Gaussian(), 3):
        with pytest.raises(ValueError, match=r";.*;"):
            as_classifier(wrong)
    for settings in (
        {"draws": 0},
        {"draws": 1.5},
        {"gradient": "none"},
        {"boil": 1},
        {"method": "boil"},
        {"steps": -1},
        {"method": "denoise", "sigma": 0.3},
    ):  # at the door, not at the first call
        with pytest.raises(ValueError, match=r";.*;"):
            PurifiedClassifier(Gaussian(), bend, generator=seeded(), **settings)  # type: ignore[arg-type]


def test_a_plain_function_is_purified() -> None:
    x = purify(
        lambda x: 0.5 * (x - 2).square().sum(1),
        torch.zeros(3, 2),
        steps=200,
        step_size=0.1,
        temperature=0.0,
        generator=seeded(),
    )
    torch.testing.assert_close(x, torch.full((3, 2), 2.0))


def test_logits_of_an_energy_are_those_of_its_classes() -> None:
    energy = lowland.load("mnist-jem").energy
    x = torch.rand(3, 1, 28, 28, generator=seeded(0))
    with torch.no_grad():
        torch.testing.assert_close(
            as_classifier(energy)(x).log_softmax(1),
            (-energy.class_energies(x)).log_softmax(1),
            atol=1e-4,
            rtol=1e-4,
        )
    assert Function(bend) is not None and as_classifier(bend) is bend


# -------------------------------------------------------------------------- recipe and command line


def test_a_recipe_says_how_to_purify() -> None:
    recipe = read_recipe("moons", {"purification.method": "map", "purification.sigma": 0.2}).plain()
    assert recipe["purification"] == {
        "method": "map",
        "steps": 10,
        "sigma": 0.2,
        "step_size": 0.01,
        "temperature": 1.0,
        "clip": None,
    }
    assert read_recipe("moons").plain()["purification"] is None
    with pytest.raises(ConfigError, match="sigma above 0"):
        read_recipe("moons", {"purification.method": "map"})


def test_images_are_purified_into_numbers_and_pictures(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "digit.npy"
    given = np.random.default_rng(0).random((2, 1, 8, 8), dtype=np.float32)
    np.save(image, given)
    out = commands.purify(
        SHIPPED, [image, image], out=tmp_path / "new" / "clean.npy", steps=5, seed=1
    )
    clean = np.load(out)
    assert clean.shape == (4, 1, 8, 8) and not np.allclose(clean[:2], given)
    assert np.array_equal(
        clean,
        np.load(commands.purify(SHIPPED, [image, image], out=tmp_path / "b.npy", steps=5, seed=1)),
    )
    monkeypatch.chdir(tmp_path)
    for name in ("digit-purified.png", "digit-purified-2.png"):
        assert commands.purify(SHIPPED, [image]) == Path("outputs") / name
        assert (tmp_path / "outputs" / name).exists()
    with pytest.raises(ValueError, match=r";.*;"):
        commands.purify(SHIPPED, [image], out=tmp_path / "clean.gif")


def test_the_command_purifies(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from lowland import cli

    image = tmp_path / "digit.npy"
    np.save(image, np.zeros((1, 28, 28), np.float32))
    cli.main(
        [
            "purify",
            "mnist",
            str(image),
            "--sigma",
            "0.2",
            "--steps",
            "2",
            "--out",
            str(tmp_path / "x.png"),
        ]
    )
    assert (
        capsys.readouterr().out.strip() == str(tmp_path / "x.png")
        and (tmp_path / "x.png").stat().st_size > 0
    )
    with pytest.raises(SystemExit):
        cli.main(["purify", "mnist", str(image), "--sigma", "-1"])
    assert capsys.readouterr().err.count(";") >= 2
