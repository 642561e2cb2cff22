"""Multi-level denoising: its minimiser is the blurred law at every level; the U-Net's slopes are
its own; flow arrives.
"""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from contract.truths import planted, slopes
from torch import Tensor, nn

from lowland import Energy, box, read_recipe, real, train_recipe, value_and_score
from lowland.commands import sample
from lowland.energy import NoiseCondition
from lowland.nets import MLP, NoiseMLP, NoiseUNet
from lowland.nets.unet import _silu
from lowland.objectives import Batch, Context, MultilevelDSM
from lowland.run import Run
from lowland.samplers import karras_sigmas
from lowland.tasks import generate_by_flow, generate_from_recipe
from lowland.testing import LIMIT, caught, worst
from lowland.trained import load

DOUBLE = torch.float64
MEAN, VARIANCE = torch.tensor([1.0, -0.5], dtype=DOUBLE), torch.tensor([0.3, 2.0], dtype=DOUBLE)


class Blurred(Energy):
    """Data N(m, v) with noise σ: E(x, σ) = Σ (x − m)² / 2(v + σ²), and the denoiser that belongs to
    it. m and ln v learn.
    """

    def __init__(self) -> None:
        super().__init__(real(2))
        self.mean, self.log_variance = nn.Parameter(MEAN.clone()), nn.Parameter(VARIANCE.log())

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition(denoised=self.denoised)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        sigma = torch.as_tensor(c, dtype=x.dtype).expand(len(x)).unsqueeze(1)
        return 0.5 * ((x - self.mean).square() / (self.log_variance.exp() + sigma**2)).sum(1)

    def denoised(self, x: Tensor, c: Tensor) -> Tensor:
        share = self.log_variance.exp() / (self.log_variance.exp() + c.unsqueeze(1).square())
        return self.mean + share * (x - self.mean)


def data(rows: int, generator: torch.Generator) -> Tensor:
    return MEAN + VARIANCE.sqrt() * torch.randn(rows, 2, generator=generator, dtype=DOUBLE)


def value(
    objective: Any, energy: Energy, x: Tensor, g: torch.Generator, progress: float = 1.0
) -> Tensor:
    return objective.loss(energy, Batch(x), Context(g, progress=progress)).value


def at_the_truth(objective: type, warm: float = 0.0) -> float:
    """The worst |z| over all weights of the gradient, which must vanish at the law of the data."""
    g, energy, made = (
        seeded(0),
        Blurred(),
        objective(sigma_median=0.5, log_sigma_std=1.0, warmup_fraction=warm),
    )
    found = [slopes(value(made, energy, data(400, g), g, progress=0.5), energy) for _ in range(200)]
    return worst(torch.stack(found))


@pytest.mark.parametrize("warm", [0.0, 0.9])
def test_the_gradient_vanishes_at_the_law_of_the_data(warm: float) -> None:
    assert at_the_truth(MultilevelDSM, warm) < LIMIT


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("wide * gradient - noise", "wide * gradient + noise"),
        ("x + wide * noise", "x + 1.1 * wide * noise"),
        ("wide * gradient - noise", "gradient - noise"),
    ],
)
def test_planted_errors_move_the_minimum(old: str, new: str) -> None:
    assert caught(at_the_truth, planted("denoising", "MultilevelDSM.loss", old, new).MultilevelDSM)


def test_warm_and_true_gradient_are_one_loss_where_the_energy_is_that_of_its_denoiser() -> None:
    energy, x = Blurred(), data(64, seeded(1))
    losses = [
        value(MultilevelDSM(warmup_fraction=0.5), energy, x, seeded(2), progress)
        for progress in (0.0, 1.0)
    ]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-9)


def test_only_energies_of_noise_without_labels_and_warmth_with_a_denoiser() -> None:
    x = torch.zeros(4, 3)
    with pytest.raises(ValueError, match=r"without labels;"):
        MultilevelDSM().loss(NoiseMLP(real(3)), Batch(x, torch.zeros(4)), Context(seeded(0)))
    with pytest.raises(ValueError, match=r"tied to no denoiser;"):
        value(MultilevelDSM(warmup_fraction=0.5), NoiseMLP(real(3)), x, seeded(0))
    for bad in (
        {"sigma_median": 0.0},
        {"log_sigma_std": -1.0},
        {"sigma_data": float("nan")},
        {"warmup_fraction": 1.5},
    ):
        with pytest.raises(ValueError, match=r";.*;"):
            MultilevelDSM(**bad)


# -------------------------------------------------------------------------------------- the network


def unet(*shape: int, dtype: torch.dtype = torch.float32) -> NoiseUNet:
    """A small energy whose silent layers speak."""
    torch.manual_seed(0)
    energy = NoiseUNet(box(0.0, 1.0, *shape), widths=(6, 8), blocks=(1, 1), embedding=8, norm="rms")
    for p in energy.parameters():
        nn.init.normal_(p, std=0.2)
    return energy.to(dtype)


def test_silu_has_the_slopes_of_torch_and_a_second_derivative() -> None:
    x = torch.linspace(-6, 6, 25, dtype=DOUBLE, requires_grad=True)
    assert torch.autograd.gradcheck(_silu, x)
    assert torch.autograd.gradgradcheck(_silu, x)
    assert torch.equal(_silu(x), nn.functional.silu(x))


@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 10, 6)])
def test_the_energy_is_half_the_squared_distance_to_its_guess(shape: tuple[int, int, int]) -> None:
    energy = unet(*shape, dtype=DOUBLE)
    x, sigma = (
        torch.rand(5, *shape, generator=seeded(1), dtype=DOUBLE),
        torch.tensor([0.01, 0.1, 0.5, 2.0, 30.0], dtype=DOUBLE),
    )
    wanted = (x - energy.denoise(x, sigma)).square().flatten(1).sum(1) / (2 * sigma**2)
    assert torch.allclose(energy(x, sigma), wanted)


def test_a_question_is_read_without_noise_and_has_no_slope() -> None:
    torch.manual_seed(0)
    energy = NoiseUNet(
        box(0.0, 1.0, 3, 8, 8), widths=(6, 8), blocks=(1, 1), embedding=8, question=(0, 2)
    ).double()
    for p in energy.parameters():
        nn.init.normal_(p, std=0.2)
    data = torch.rand(50, 3, 8, 8, generator=seeded(1), dtype=DOUBLE)
    energy.init_from_data(data)
    x = torch.rand(4, 3, 8, 8, generator=seeded(2), dtype=DOUBLE)
    score = value_and_score(energy.given(0.3), x)[1]
    assert not score[:, [0, 2]].any() and bool(score[:, 1].any())
    other = torch.cat([x[:, :2], x[:, 2:] + 0.5], 1)
    assert not torch.allclose(energy(x, 0.3), energy(other, 0.3))  # but it is read
    far = value_and_score(energy.given(50.0), x)[1] - value_and_score(energy.given(50.0), other)[1]
    assert far.abs().max() * 50 > 1e-3  # at every level
    begun = energy.start(7, 4.0, seeded(3))
    assert all((data[:, [0, 2]] == row[[0, 2]]).flatten(1).all(1).any() for row in begun)
    for bad in ((0, 1, 2), (3,), (-1,), (0, 0)):
        with pytest.raises(ValueError, match=r"the question is \[.*; it is some of 0 to 2.*; name"):
            NoiseUNet(box(0.0, 1.0, 3, 8, 8), question=bad)


def loss_of_answers(objective: Any) -> tuple[float, float]:
    """The loss of a silent net, and what it is by hand: the noise and the weight of the channel
    that is asked alone.
    """
    x, energy = (
        torch.rand(6, 3, 8, 8, generator=seeded(1)),
        NoiseUNet(box(0.0, 1.0, 3, 8, 8), (6, 8), (1, 1), question=(0, 1)),
    )
    energy.init_from_data(x)
    found = value(objective(warmup_fraction=1.0), energy, x, seeded(2), 0.0)
    g = seeded(2)
    sigma = (math.log(0.3) + 1.2 * torch.randn(6, generator=g)).exp()
    noise, s = torch.randn(x.shape, generator=g)[:, 2:], energy.spread
    noisy, wide = x[:, 2:] + sigma.view(-1, 1, 1, 1) * noise, sigma.view(-1, 1, 1, 1)
    clean = energy.centre[2:] + s**2 / (s**2 + wide**2) * (
        noisy - energy.centre[2:]
    )  # a silent net: N(μ, s²)
    error = (noisy - clean) / wide - noise
    wanted = 0.5 * ((1 + (wide / 0.5).square()) * error.square()).mean()
    return found.item(), wanted.item()


def test_the_loss_of_answers_is_that_of_answers_alone() -> None:
    found, wanted = loss_of_answers(MultilevelDSM)
    assert found == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize(
    ("old", "new"), [("noise * asked", "noise"), ("rows.mean() / share", "rows.mean()")]
)
def test_noise_on_the_question_and_a_wrong_share_are_seen(old: str, new: str) -> None:
    found, wanted = loss_of_answers(
        planted("denoising", "MultilevelDSM.loss", old, new).MultilevelDSM
    )
    assert found != pytest.approx(wanted, rel=1e-2)


def test_its_score_is_that_of_finite_differences_and_weights_see_through_it() -> None:
    energy = unet(1, 8, 8, dtype=DOUBLE)
    x, way = (
        torch.rand(3, 1, 8, 8, generator=seeded(1), dtype=DOUBLE),
        torch.randn(3, 1, 8, 8, generator=seeded(2), dtype=DOUBLE),
    )
    bound, h = energy.given(0.3), 1e-5
    _, score = value_and_score(bound, x)
    slope = (bound(x + h * way) - bound(x - h * way)) / (2 * h)
    assert torch.allclose(-(score * way).flatten(1).sum(1), slope, rtol=1e-6)
    weight = energy.net.stem.weight
    objective = MultilevelDSM(sigma_median=0.3)
    found = torch.autograd.grad(value(objective, energy, x, seeded(3)), weight)[0]
    direction = torch.randn(weight.shape, generator=seeded(4), dtype=DOUBLE)
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            weight.add_(sign * h * direction)
        sides.append(value(objective, energy, x, seeded(3)).item())
        with torch.no_grad():
            weight.sub_(sign * h * direction)
    assert float((found * direction).sum()) == pytest.approx(
        (sides[0] - sides[1]) / (2 * h), rel=1e-5
    )


def test_a_new_network_guesses_as_for_a_gaussian_of_the_data() -> None:
    energy = NoiseUNet(box(0.0, 1.0, 1, 8, 8), widths=(4, 4), blocks=(1, 1))
    x = torch.rand(500, 1, 8, 8, generator=seeded(0)).square()
    energy.init_from_data(x)
    assert torch.allclose(energy.centre, x.mean(0))
    assert float(energy.spread) == pytest.approx(float((x - x.mean(0)).std()))
    shrunk = energy.centre + energy.spread**2 / (energy.spread**2 + 0.25) * (x - energy.centre)
    assert torch.allclose(energy.denoise(x, 0.5), shrunk, atol=1e-6)


def test_bfloat16_gives_nearly_the_same_loss_and_finite_gradients() -> None:
    energy, x = unet(1, 8, 8), torch.rand(32, 1, 8, 8, generator=seeded(1))
    full = value(MultilevelDSM(), energy, x, seeded(2))
    with torch.autocast("cpu", torch.bfloat16):
        half = value(MultilevelDSM(), energy, x, seeded(2))
    assert half.dtype == torch.float32
    assert half.item() == pytest.approx(full.item(), rel=0.02)
    assert bool(torch.isfinite(slopes(half, energy)).all())


def test_rows_are_judged_alone() -> None:
    energy, x = unet(1, 8, 8), torch.rand(6, 1, 8, 8, generator=seeded(1))
    assert torch.allclose(energy(x, 0.2)[2], energy(x[2:3], 0.2)[0], rtol=1e-5)


def test_refusals() -> None:
    with pytest.raises(ValueError, match=r"NoiseUNet takes images .*; use DenoiserMLP"):
        NoiseUNet(real(3))
    with pytest.raises(ValueError, match=r"widths is \(8,\); it must be 2 whole numbers"):
        NoiseUNet(box(0.0, 1.0, 1, 8, 8), widths=(8,))
    with pytest.raises(ValueError, match=r"norm is 'batch'; .*; choose one"):
        NoiseUNet(box(0.0, 1.0, 1, 8, 8), norm="batch")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"needs a noise level;"):
        unet(1, 8, 8)(torch.zeros(2, 1, 8, 8))


# --------------------------------------------------------------------------------------------- flow


def arrived(carry: Callable[..., Any]) -> float:
    """The worst |z| of means and variances of a flow along the exact energies of a Gaussian."""
    sigmas = karras_sigmas(100.0, 0.002, 80)
    x = carry(Blurred().double(), sigmas, 8000, generator=seeded(0)).x
    z = (x - MEAN) / VARIANCE.sqrt()
    return worst(torch.cat([z, z.square() - 1], 1))


def test_flow_ends_at_the_law_of_the_data() -> None:
    made = []

    def keep(*args: Any, **more: Any) -> Any:
        made.append(generate_by_flow(*args, **more))
        return made[0]

    assert arrived(keep) < LIMIT
    assert caught(arrived, lambda *_, **__: made[0]._replace(x=0.96 * made[0].x))


def test_a_cold_flow_shrinks_a_gaussian_as_its_equation_says() -> None:
    energy, sigmas, cold = Blurred(), karras_sigmas(30.0, 0.002, 200), 0.8
    found = generate_by_flow(energy, sigmas, 50, generator=seeded(0), temperature=cold).x
    begun = 30.0 * torch.randn(50, 2, generator=seeded(0), dtype=DOUBLE)
    shrunk = (VARIANCE / (VARIANCE + 30.0**2)) ** (1 / (2 * cold))  # dx/dσ = σ (x − m) / T(v + σ²)
    assert torch.allclose(found, MEAN + shrunk * (begun - MEAN), rtol=2e-3, atol=2e-3)


def test_flow_films_what_it_draws_whatever_the_parts() -> None:
    energy, sigmas = Blurred(), karras_sigmas(10.0, 0.01, 9)
    plain = generate_by_flow(energy, sigmas, 10, generator=seeded(0))
    filmed = generate_by_flow(energy, sigmas, 10, generator=seeded(0), frames=5)
    assert plain.trajectory is None
    assert filmed.trajectory is not None
    assert filmed.trajectory_steps == [0, 2, 4, 6, 8]
    assert torch.equal(filmed.trajectory[-1], filmed.x)
    assert torch.allclose(plain.x, filmed.x, atol=1e-6)
    assert (
        generate_by_flow(energy, sigmas, 10, generator=seeded(0), batch=4).x.shape == plain.x.shape
    )
    with pytest.raises(ValueError, match=r"an energy E\(x, σ\)"):
        generate_by_flow(NoiseMLP(real(2)).given(0.1), sigmas, 3, generator=seeded(0))


def recipe(**more: Any) -> Any:
    return read_recipe(
        {
            "name": "small",
            "data": {"name": "digits"},
            "energy": {"name": "NoiseUNet", "widths": [8, 12], "blocks": [1, 1], "embedding": 16},
            "objective": {
                "name": "MultilevelDSM",
                "sigma_median": 0.2,
                "sigma_data": 0.3,
                "warmup_fraction": 0.5,
            },
            "training": {
                "steps": 160,
                "batch": 32,
                "checkpoint_every": 80,
                "warmup": 5,
                "learning_rate": 5e-3,
                "threads": 1,
            },
            "generation": {
                "method": "flow",
                "num_levels": 6,
                "sigma_max": 10.0,
                "precision": "float32",
            },
            "evaluation": {"samples": 16, "classifier_steps": 0},
            **more,
        }
    )


def test_a_recipe_without_a_sampler_trains_samples_and_scores(tmp_path: Path) -> None:
    train_recipe(recipe(), tmp_path / "run", progress=False)
    rows = [row for row in Run.open(tmp_path / "run").rows() if "loss" in row]
    assert sum(row["loss"] for row in rows[-4:]) / 4 < 0.44  # a silent network stands at ½
    made = np.load(sample(tmp_path / "run", count=20, out=tmp_path / "x.npy", quiet=True))
    again = np.load(sample(tmp_path / "run", count=20, out=tmp_path / "y.npy", quiet=True))
    assert made.shape == (20, 1, 8, 8)
    assert np.array_equal(made, again)
    s = load(tmp_path / "run")
    assert s.sampler is None
    assert s.marginal(s.data.test.x[:4]).shape == (4,)
    assert s.sample(3, generator=seeded(0), frames=4).trajectory.shape == (4, 3, 1, 8, 8)  # type: ignore[union-attr]


def test_flow_needs_an_energy_of_noise_and_chains_a_sampler(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no sampler; a \[generation.sampler\] is needed"):
        recipe(generation={"method": "chains"})
    with pytest.raises(ValueError, match=r"the first must be higher"):
        recipe(generation={"method": "flow", "sigma_max": 0.01, "sigma_min": 0.02})
    with pytest.raises(ValueError, match=r"only a way down the levels takes one"):
        read_recipe("moons", {"generation.precision": "bfloat16"})
    plain = read_recipe(
        "moons",
        {"training.steps": 10, "training.checkpoint_every": 10, "generation.method": "flow"},
    )
    no_level = r"knows no noise level;.*use 'chains'"
    with pytest.raises(ValueError, match=no_level):
        train_recipe(plain, tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match=no_level):
        generate_from_recipe(MLP(real(2)), plain.plain(), 3, generator=seeded(0))
