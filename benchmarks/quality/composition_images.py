"""Digits by identity, thickness and slant: what `benchmarks.quality.composition` trains, draws and
judges on MNIST.

Ten of the forty combinations, one per digit, are held out of *every* training here: all training
images of that digit whose thickness and slant lie on that side of the medians. On the rest are
trained, apart from each other,

    E(x, σ)                 an energy of noisy images that knows no attribute (NoiseUNet,
                            MultilevelDSM)
    −log p_k(y | x, σ)      three small classifiers of noisy images: digit; thickness and slant,
                            each low, middle or high

and composed as E + w Σ_k −log p_k. Beside them one joint model that is told all three attributes,
E(x, σ | y), of the same size, trained for as many updates on the same images; a tenth of them hide
the attributes from it, so that it can be guided without a classifier. A draw succeeds if morphology
(`attributes`) finds thickness and slant in the asked third and a classifier of clean
images, which saw all of MNIST, calls the digit.
"""

from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.quality.attributes import slant, thickness
from lowland import Energy, load_data, read_recipe, train_recipe
from lowland.data import Dataset
from lowland.nets import NoiseUNet

UPDATES, WARM = 20000, 0.9
PRIOR = {
    "energy": {
        "name": "NoiseUNet",
        "widths": [32, 48],
        "blocks": [2, 2],
        "dense": 128,
        "norm": "rms",
    },
    "objective.warmup_fraction": WARM,
    "training.steps": UPDATES,
    "training.checkpoint_every": 500,
    "training.preflight": "off",
}
SIGMAS = (0.18, 1.2)  # centre and spread of ln σ in training, as the recipe has them
KINDS = {"digit": 10, "thickness": 3, "slant": 3}
CUTS = (0.35, 0.65)  # low, middle, high: thirds, nearly
RUNS = Path("runs")


@dataclass(frozen=True)
class Strokes:
    """MNIST with attributes: the data without what is held out; y (N, 3) of its training part:
    digit, thickness, slant; the cuts (2, 2) between low, middle and high; held (10, 3): the
    combinations held out, and as many that are seen.
    """

    data: Dataset
    y: Tensor
    cuts: Tensor
    held: Tensor
    seen: Tensor


def strokes(count: int = 20000) -> Strokes:
    """The first `count` training images of MNIST, measured; held out: digit d with thickness and
    slant by its number.
    """
    data = load_data("mnist")
    part = data.train.take(slice(count))
    assert part.y is not None
    measured = torch.stack([thickness(part.x), slant(part.x)], 1)
    cuts = torch.stack([measured.quantile(q, 0) for q in CUTS], 1)
    side = measured > measured.median(0).values
    held = torch.tensor([[d, 2 * (d % 2), 2 * (d // 2 % 2)] for d in range(10)])
    seen = torch.tensor([[d, 2 * (d % 2), 2 - 2 * (d // 2 % 2)] for d in range(10)])
    wanted = held[part.y]
    out = (side == (wanted[:, 1:] == 2)).all(1)
    levels = (measured.unsqueeze(2) > cuts).sum(2)
    y = torch.cat([part.y.unsqueeze(1), levels], 1)[~out]
    return Strokes(replace(data, train=part.take(~out)), y, cuts, held, seen)


# --------------------------------------------------------------------------------------- the models


def prior(s: Strokes) -> Energy:
    """E(x, σ) of the images that are left, trained once into a run."""
    return train_recipe(
        read_recipe("mnist", PRIOR), RUNS / "composition-prior", data=s.data, progress=False
    )


class NoisyClassifier(nn.Module):
    """Logits (B, K) of noisy images (B, 1, H, W) at noise levels σ (B,)."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        widths = (2, 24, 48, 96)
        convs = [nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.SiLU()) for a, b in pairwise(widths)]
        self.net = nn.Sequential(
            *convs, nn.Flatten(), nn.Linear(96 * 16, 128), nn.SiLU(), nn.Linear(128, classes)
        )

    def forward(self, x: Tensor, sigma: Tensor) -> Tensor:
        wide = sigma.to(x).view(-1, 1, 1, 1)
        z = (x - 0.13) / (wide.square() + 0.1).sqrt()
        return self.net(torch.cat([z, wide.log().expand_as(z) / 4], 1))


def levels_of(count: int, generator: torch.Generator) -> Tensor:
    """Noise levels as in the training of the prior."""
    return (
        torch.tensor(SIGMAS[0]).log() + SIGMAS[1] * torch.randn(count, generator=generator)
    ).exp()


def classifier(s: Strokes, kind: int, seed: int, steps: int = 2000) -> NoisyClassifier:
    """One attribute from noisy images, by cross-entropy (Adam, batch 128, one cosine)."""
    torch.manual_seed(seed)
    net, g = NoisyClassifier(list(KINDS.values())[kind]), torch.Generator().manual_seed(seed)

    def loss(rows: Tensor) -> Tensor:
        x, sigma = s.data.train.x[rows], levels_of(len(rows), g)
        noisy = x + sigma.view(-1, 1, 1, 1) * torch.randn(x.shape, generator=g)
        return F.cross_entropy(net(noisy, sigma), s.y[rows, kind])

    _descend(net, loss, len(s.y), 128, steps, 2e-3, g)
    return net.eval()


class Told(Energy):
    """E(x, σ | y) = ‖x − D(x, σ, y)‖² / 2σ², a `NoiseUNet` whose input has y as 17 more channels;
    rows of zeros: not told.

    c: σ, one per row or for all; y is held by the energy, one row (B, 17) per point, see `about`.
    """

    def __init__(self, like: Any, y: Tensor | None = None, net: nn.Module | None = None) -> None:
        super().__init__(like.domain)
        whole = replace(like.domain, shape=(1 + sum(KINDS.values()), *like.domain.shape[1:]))
        self.net = net or NoiseUNet(whole, like.widths, like.blocks, like.dense, norm=like.norm).net
        self.centre, self.spread, self.like, self.y = like.centre, float(like.spread), [like], y

    def about(self, y: Tensor) -> "Told":
        """The same energy, told of other attributes (B, 3); −1 tells nothing."""
        planes = [
            F.one_hot(y[:, k].clamp(min=0), n) * (y[:, k : k + 1] >= 0)
            for k, n in enumerate(KINDS.values())
        ]
        return Told(self.like[0], torch.cat(planes, 1).float(), self.net)

    def residual(self, x: Tensor, c: Any) -> Tensor:
        """(x − D) / σ."""
        assert self.y is not None
        sigma = torch.as_tensor(c, dtype=x.dtype).expand(len(x)).view(-1, 1, 1, 1)
        radius = (sigma.square() + self.spread**2).sqrt()
        z = (x - self.centre) / radius
        planes = self.y[:, :, None, None].expand(-1, -1, *x.shape[2:])
        return sigma / radius * z - self.spread / radius * self.net(
            torch.cat([z, planes], 1), sigma.flatten().log()
        )[:, :1].to(z)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return 0.5 * self.residual(x, c).square().flatten(1).sum(1)

    def rows(self, index: Tensor) -> "Told":
        assert self.y is not None
        return Told(self.like[0], self.y[index], self.net)


def joint(s: Strokes, like: Any, seed: int = 0, steps: int = UPDATES, warm: float = WARM) -> Told:
    """One model of images and all attributes, trained as the prior was, into a file that is used
    again.
    """
    torch.manual_seed(seed)
    net, g = Told(like), torch.Generator().manual_seed(seed)
    path = RUNS / f"composition-joint-{seed}.safetensors"
    if path.exists():
        from safetensors.torch import load_file

        net.net.load_state_dict(load_file(path))
        return net.eval()
    done = 0

    def loss(rows: Tensor) -> Tensor:
        nonlocal done
        x, sigma = s.data.train.x[rows], levels_of(len(rows), g)
        y = torch.where(torch.rand(len(rows), 1, generator=g) < 0.1, -1, s.y[rows])
        told, wide = net.about(y), sigma.view(-1, 1, 1, 1)
        noise = torch.randn(x.shape, generator=g)
        noisy = (x + wide * noise).requires_grad_(True)
        done += 1
        with torch.autocast("cpu", torch.bfloat16):
            if done < warm * steps:
                error = told.residual(noisy.detach(), sigma) - noise
            else:
                error = (
                    wide
                    * torch.autograd.grad(told(noisy, sigma).sum(), noisy, create_graph=True)[0]
                    - noise
                )
        return 0.5 * ((1 + (wide / 0.3).square()) * error.square()).mean()

    average = torch.optim.swa_utils.AveragedModel(
        net.net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )
    _descend(net, loss, len(s.y), 64, steps, 5e-3, g, average)
    from safetensors.torch import save_file

    net.net = average.module
    save_file({k: v.contiguous() for k, v in net.net.state_dict().items()}, path)
    return net.eval()


def _descend(
    net: nn.Module,
    loss: Any,
    count: int,
    batch: int,
    steps: int,
    rate: float,
    g: torch.Generator,
    average: Any = None,
) -> None:
    optimizer = torch.optim.Adam(net.parameters(), lr=rate, betas=(0.9, 0.99), fused=True)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, total_steps=steps, pct_start=0.1)
    for _ in range(steps):
        value = loss(torch.randint(count, (batch,), generator=g))
        optimizer.zero_grad(set_to_none=True)
        value.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        cycle.step()
        if average is not None:
            average.update_parameters(net.net)


# --------------------------------------------------------------------------------------- the judges


def judged(s: Strokes, judge: Any, x: Tensor, wanted: Tensor) -> dict[str, float]:
    """Shares of pictures with the digit, thickness, slant asked for (N, 3), and all three: of what
    is held out, and seen.
    """
    measured = torch.stack([thickness(x), slant(x)], 1)
    levels = (measured.unsqueeze(2) > s.cuts).sum(2)
    levels[measured.isnan()] = -1
    right = torch.cat([judge.probabilities(x).argmax(1, keepdim=True), levels], 1) == wanted
    right = torch.cat([right, right.all(1, keepdim=True)], 1).double()
    out = (wanted.unsqueeze(1) == s.held).all(2).any(1)
    found = {}
    for part, rows in (("held out", out), ("seen", ~out)):
        for k, what in enumerate(("digit", "thickness", "slant", "all three")):
            if bool(rows.any()):
                found[f"{part}: {what}"] = float(right[rows, k].mean())
    return found


def _test(s: Strokes) -> tuple[Tensor, Tensor]:
    """Test images of MNIST, and their attributes (N, 3)."""
    part = load_data("mnist").test.take(slice(4000))
    assert part.y is not None
    measured = torch.stack([thickness(part.x), slant(part.x)], 1)
    return part.x, torch.cat([part.y.unsqueeze(1), (measured.unsqueeze(2) > s.cuts).sum(2)], 1)


def real(s: Strokes) -> tuple[Tensor, Tensor]:
    """Real test images of the combinations, held out and seen."""
    x, y = _test(s)
    ours = (y.unsqueeze(1) == torch.cat([s.held, s.seen])).all(2).any(1)
    return x[ours], y[ours]


def examples(s: Strokes) -> Tensor:
    """Four real test images of each combination held out, (10, 4, 1, 28, 28), black where there are
    fewer.
    """
    x, y = _test(s)
    found = torch.zeros(len(s.held), 4, *x.shape[1:])
    for row, combination in enumerate(s.held):
        some = x[(y == combination).all(1)][:4]
        found[row, : len(some)] = some
    return found
