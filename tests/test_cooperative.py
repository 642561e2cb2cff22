"""Energy and generator that teach each other: at the truth of Gaussians neither moves, and each
learns from its own part.
"""

import math
from typing import Any

import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, z_scores
from torch import Tensor, nn

from lowland import MALA, Energy, Function, Langevin, binary, box, real
from lowland.nets import MLP, ConvNet
from lowland.nets.generators import Generator
from lowland.objectives import Batch, Context, Cooperative, contrast, cooperative
from lowland.objectives.cooperative import LatentPosterior

DOUBLE = torch.float64
MEAN, SPREAD, SIGMA = 0.7, 1.2, 0.5  # of the data, and the generator's noise
A = math.sqrt(SPREAD**2 - SIGMA**2)  # then a z + b + σ ξ has the law of the data


class Hill(Energy):
    """E = θ (x − m)² / 2."""

    def __init__(self, theta: float, mean: float) -> None:
        super().__init__(real(1))
        self.theta = nn.Parameter(torch.tensor(theta, dtype=DOUBLE))
        self.mean = nn.Parameter(torch.tensor(mean, dtype=DOUBLE))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.theta * (x.squeeze(1) - self.mean).square() / 2


class Line(nn.Module):
    """x = a z + b + σ ξ."""

    latent, sigma, domain = 1, SIGMA, real(1)

    def __init__(self, a: float, b: float) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=DOUBLE))
        self.b = nn.Parameter(torch.tensor(b, dtype=DOUBLE))

    def forward(self, z: Tensor) -> Tensor:
        return self.a * z + self.b

    latents, add_noise, draw = Generator.latents, Generator.add_noise, Generator.draw
    mean = torch.zeros(())

    def _dtype(self) -> torch.dtype:
        return DOUBLE


def gradients(
    a: float = A,
    b: float = MEAN,
    theta: float = SPREAD**-2,
    mean: float = MEAN,
    batches: int = 100,
    rows: int = 300,
    **more: Any,
) -> Tensor:
    """Gradients of the loss in (θ, m, a, b), batch by batch."""
    g, found = seeded(2), []
    settings = {"steps": 3, "sigma": SIGMA, "infer_steps": 12, "infer_step_size": 0.5} | more
    for _ in range(batches):
        energy, line = Hill(theta, mean), Line(a, b)
        x = MEAN + SPREAD * torch.randn(rows, 1, generator=g, dtype=DOUBLE)
        loss = Cooperative(**settings).loss(
            energy, Batch(x), Context(g, sampler=MALA(0.4), partner=line)
        )
        parts = torch.autograd.grad(loss.value, [energy.theta, energy.mean, line.a, line.b])
        found.append(torch.stack(parts))
    return torch.stack(found)


def test_at_the_truth_neither_moves() -> None:
    # exact chains (MALA) leave the law of drafts alone; explanations are draws of p(z | x): all
    # four gradients vanish
    assert z_scores(gradients()).abs().max() < LIMIT


def test_without_explaining_the_generator_would_shrink() -> None:
    # regressing revisions on their own z: d/da of E(x_K − a z)² / 2σ² at the truth is a (1 − ρ) /
    # σ², ρ < 1 what they remember
    found = gradients(infer_steps=0)
    assert z_scores(found[:, 2]) > 20 and z_scores(found[:, [0, 1, 3]]).abs().max() < LIMIT


@pytest.mark.parametrize(
    ("moved", "which", "sign"),
    [
        ({"theta": 1.5}, 0, 1),
        ({"theta": 0.3}, 0, -1),
        ({"mean": 1.5}, 1, 1),
        ({"b": 0.0}, 3, -1),
        ({"b": 1.5}, 3, 1),
    ],
    ids=str,
)
def test_each_is_drawn_to_the_truth(moved: dict[str, float], which: int, sign: int) -> None:
    # long chains make revisions draws of exp(−E); a descent step lowers what is too high and raises
    # what is too low
    found = gradients(batches=30, **{"steps": 30, **moved})
    assert sign * z_scores(found[:, which]) > 20


def test_teaching_with_its_sign_turned_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    right = Line.forward

    def wrong(self: Line, z: Tensor) -> Tensor:
        out = right(self, z)
        return 2 * out.detach() - out  # the same points, the gradient turned

    monkeypatch.setattr(Line, "forward", wrong)
    found = gradients(batches=30, steps=30, b=0.0, infer_steps=0)
    assert z_scores(found[:, 3]) > 20  # away from the revisions


def test_nothing_of_the_generator_hangs_on_drafts_or_revisions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    right, seen = cooperative.run_chains, []

    def watched(energy: Any, sampler: Any, start: Tensor, *args: Any, **options: Any) -> Any:
        trace = right(energy, sampler, start, *args, **options)
        seen.append((type(energy).__name__, start.requires_grad, trace.x.requires_grad))
        return trace

    monkeypatch.setattr(cooperative, "run_chains", watched)
    gradients(batches=1)
    assert seen == [("Hill", False, False), ("LatentPosterior", False, False)]


def test_explanations_are_draws_of_the_posterior() -> None:
    # p(z | x) = N(a (x − b) / (a² + σ²), σ² / (a² + σ²))
    line, x = Line(A, MEAN), torch.full((5000, 1), 1.9, dtype=DOUBLE)
    energy = LatentPosterior(line, x)
    z = cooperative.run_chains(
        energy, MALA(0.1), torch.zeros(5000, 1, dtype=DOUBLE), 60, generator=seeded()
    ).x
    mean, variance = A * (1.9 - MEAN) / SPREAD**2, SIGMA**2 / SPREAD**2
    assert (
        z_scores(z, mean).abs().max() < LIMIT
        and z_scores((z - mean).square(), variance).abs().max() < LIMIT
    )


@pytest.mark.parametrize("channels", [0, 4])
def test_generators_begin_at_the_data_and_stay_in_the_box(channels: int) -> None:
    x = torch.rand(50, 1, 8, 8, generator=seeded()) ** 2
    torch.manual_seed(0)
    generator = Cooperative(latent=4, hidden=(16,), channels=channels).make_partner(
        Function(lambda x: x.flatten(1).sum(1), box(0.0, 1.0, 1, 8, 8)), x
    )
    made = generator.draw(200, seeded(1))
    assert (
        made.shape == (200, 1, 8, 8)
        and generator.domain.contains(made).all()
        and not made.requires_grad
    )
    assert (made.mean(0) - x.mean(0)).abs().mean() < 0.1
    assert torch.equal(made, generator.draw(200, seeded(1))) and not torch.equal(
        made, generator.draw(200, seeded(2))
    )


def test_partner_and_energy_learn_on_images_with_labels_in_bfloat16() -> None:
    torch.manual_seed(0)
    energy = ConvNet(
        box(0.0, 1.0, 1, 8, 8), channels=(4,), kernels=(3,), strides=(2,), hidden=8, classes=3
    )
    x, y = torch.rand(6, 1, 8, 8, generator=seeded()), torch.arange(6) % 3
    objective = Cooperative(steps=2, channels=4, diversity=0.1)
    partner = objective.make_partner(energy, x)
    with torch.autocast("cpu", torch.bfloat16):
        loss = objective.loss(
            energy, Batch(x, y), Context(seeded(1), sampler=Langevin(0.01), partner=partner)
        )
    loss.value.backward()
    for module in (energy, partner):
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in module.parameters())
        assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    assert torch.equal(loss.labels, y)


def test_the_energys_part_is_the_contrast_alone() -> None:
    torch.manual_seed(0)
    energy, x = MLP(real(2), hidden=(8,)), torch.randn(9, 2, generator=seeded())
    objective = Cooperative(steps=2, hidden=(8,))
    partner = objective.make_partner(energy, x)
    loss = objective.loss(
        energy, Batch(x), Context(seeded(1), sampler=Langevin(0.05), partner=partner)
    )
    weights = list(energy.parameters())
    assert loss.negatives is not None
    found = torch.autograd.grad(loss.value, weights)
    for a, b in zip(
        found, torch.autograd.grad(contrast(energy, x, loss.negatives).value, weights), strict=True
    ):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"infer_steps": -1},
        {"sigma": 0.0},
        {"latent": 0},
        {"diversity": -1.0},
        {"hidden": (0,)},
    ],
    ids=str,
)
def test_settings_that_mean_nothing_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r";.*;"):
        Cooperative(**settings)


def test_generators_make_no_bits() -> None:
    bits = Function(lambda x: x.sum(1), binary(2))
    with pytest.raises(ValueError, match=r"binary.*;.*;"):
        Cooperative().loss(bits, Batch(torch.zeros(2, 2)), Context(seeded()))  # type: ignore[arg-type]
