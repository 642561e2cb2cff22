"""deepinv on both sides: its physics are our operators, and its own Langevin algorithm runs on our
energies.
"""

import math
import warnings
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, worst

from lowland import HMC, Function, real, restore
from lowland.energy import NoiseCondition
from lowland.interop import DeepinvOperator, to_deepinv
from lowland.tasks import split_gibbs_sample


@pytest.fixture(scope="module")
def deepinv() -> Any:
    if not hasattr(
        torch.ops.torchvision, "nms"
    ):  # a torchvision built for another torch misses its operators
        for name in ("nms", "qnms"):
            torch.library.define(
                f"torchvision::{name}",
                "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
            )
    return pytest.importorskip("deepinv")


SHAPE = (1, 8, 8)
ROUGH = Function(
    lambda x: 0.5 * (x - 0.3).square().flatten(1).sum(1) / 0.25, real(*SHAPE)
)  # N(0.3, 0.5²) pixel by pixel


def physics(deepinv: Any, name: str) -> Any:
    made = {
        "inpainting": lambda: deepinv.physics.Inpainting(SHAPE, mask=torch.eye(8).expand(SHAPE)),
        "blur": lambda: deepinv.physics.Blur(
            deepinv.physics.blur.gaussian_blur(sigma=(1.0, 1.0)), padding="circular"
        ),
        "downsampling": lambda: deepinv.physics.Downsampling(
            SHAPE, factor=2, filter="bicubic", padding="circular"
        ),
    }
    return made[name]()


@pytest.mark.parametrize("name", ["inpainting", "blur", "downsampling"])
def test_its_operators_are_ours(deepinv: Any, name: str) -> None:
    operator = DeepinvOperator(physics(deepinv, name))
    x = torch.randn(3, *SHAPE, generator=seeded())
    y = torch.randn(operator.A(x).shape, generator=seeded(1))
    assert math.isclose(
        float((operator.A(x) * y).sum()),
        float((x * operator.A_T(y)).sum()),
        rel_tol=1e-4,
        abs_tol=1e-4,
    )
    found = restore(
        ROUGH, operator, operator.A(x), 0.2, HMC(0.05, 5), generator=seeded(2), steps=3, draws=2
    )
    assert found.draws.shape == (2, 3, *SHAPE) and bool(found.draws.isfinite().all())


def test_progressive_denoising_runs_on_its_physics(deepinv: Any) -> None:
    def levelled(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        return 0.5 * (x - 0.3).square().flatten(1).sum(1) / (0.25 + sigma.square())

    operator = DeepinvOperator(physics(deepinv, "blur"))
    y = operator.A(torch.full((1, *SHAPE), 1.0))
    more: dict[str, Any] = {"sigma_max": 2.0, "sigma_min": 0.02, "draws": 40}
    found = split_gibbs_sample(
        Function(levelled, real(*SHAPE)), operator, y, 0.02, generator=seeded(), **more
    )
    assert abs(float(operator.A(found.mean).mean()) - 1.0) < 0.05


def test_its_langevin_algorithm_draws_from_the_posterior_under_our_energy(deepinv: Any) -> None:
    """Denoising a Gaussian: the posterior is N((y / s² + 0.3 / 0.25) / λ, 1 / λ) with λ = 1 / s² +
    4, up to the step's bias.
    """
    prior = to_deepinv(ROUGH)
    x = torch.randn(2, *SHAPE, generator=seeded(), requires_grad=True)
    (gradient,) = torch.autograd.grad(prior.fn(x).sum(), x)
    assert torch.allclose(prior.grad(x.detach()), gradient) and prior.explicit_prior
    noise, step, steps = 0.5, 0.004, 4000
    plain = deepinv.physics.Denoising(deepinv.physics.GaussianNoise(noise))
    fidelity = deepinv.optim.L2(sigma=noise)
    y = torch.randn(1, *SHAPE, generator=seeded(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sampler = deepinv.sampling.ULA(
            prior, fidelity, step_size=step, max_iter=steps, thinning=1, clip=None
        )
        mean, variance = sampler(y, plain, seed=0, x_init=y)
    weight = 1 / noise**2 + 4
    exact = (y / noise**2 + 0.3 * 4) / weight
    correlated = (
        steps * 0.8 * step * weight / 2
    ) ** 0.5  # the chain forgets at the rate of step · weight
    away = (mean - exact).flatten() * weight**0.5 * correlated
    assert worst(away.unsqueeze(1).double()) < LIMIT and float(away.abs().max()) < LIMIT
    assert abs(float(variance.mean()) * weight - 1) < 0.1


def test_what_is_no_prior_or_operator_is_refused(deepinv: Any) -> None:
    class Level(Function):
        condition = NoiseCondition()

    with pytest.raises(ValueError, match=r"energy of noise;.*;"):
        to_deepinv(Level(lambda x, sigma: x))
    with pytest.raises(ValueError, match=r"no A_adjoint;.*;"):
        DeepinvOperator(object())
