"""Images by the rivals' own recipes, in a given time, to be judged by `benchmarks.quality.images`.

    python -m benchmarks.quality.rival_images ebmkit-recipe   --minutes 30 --threads 2
    python -m benchmarks.quality.rival_images ebmkit-noise    --minutes 30 --threads 2
    python -m benchmarks.quality.rival_images torchebm-matching --minutes 30 --threads 2

    ebmkit-recipe      the settings of its example train_mnist.py: ConvEnergy, persistent chains of
                       60 cold Langevin steps, energy L2, averaged weights; samples are chains of
                       300 steps from noise
    ebmkit-noise       NoiseConditionalConvEnergy by MultiSigmaDenoisingScoreMatching over a ladder
                       of 60 levels; samples by its PredictorCorrector down the ladder
    torchebm-matching  EquilibriumMatchingLoss on a small U-Net of ours (it ships none that is
                       small), implicit field; samples by its GradientDescentSampler over EqMEnergy.
                       A field and no scalar: its strongest on images

The last two run under bfloat16 autocast, as a user could. Training stops at --minutes, counted in
processor time, so that what else the machine does costs a rival nothing; samples are made in parts
of 500 until there are --count, or --sampling-minutes are over. Writes runs/rivals/SET-NAME.npy (N,
1, 28, 28) in [0, 1], a picture and a line of json.
"""

import argparse
import json
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lowland.data import load_data, save_grid

RUNS = Path(__file__).parents[2] / "runs" / "rivals"
PART, SHAPE = 500, (1, 28, 28)
Draw = Callable[[int], Tensor]
Rival = Callable[[Tensor, float], tuple[Draw, int]]


def until(minutes: float, update: Callable[[], Any]) -> int:
    """Update until so many minutes of all its cores are used, whatever else the machine does; how
    often.
    """
    end, count = time.process_time() + 60 * minutes * torch.get_num_threads(), 0
    while time.process_time() < end:
        update()
        count += 1
    return count


def uniform(shape: tuple[int, ...]) -> Tensor:
    return torch.rand(shape) * 2 - 1


def ebmkit_recipe(x: Tensor, minutes: float) -> tuple[Draw, int]:
    import ebm

    energy = ebm.nets.ConvEnergy(in_channels=1, channels=(32, 64, 128))
    sampler = ebm.LangevinDynamics(
        step_size=10.0, noise_scale=0.005, grad_clip=0.01, steps=60, clamp=(-1, 1)
    )
    buffer = ebm.ReplayBuffer(10_000, SHAPE, reinit_prob=0.05, init_fn=uniform)
    loss = ebm.ContrastiveDivergence(sampler, buffer=buffer, energy_reg=1.0)
    trainer = ebm.Trainer(energy, loss, lr=1e-4, ema_decay=0.999, device="cpu")
    updates = 10 * until(minutes, lambda: trainer.fit(x, steps=10, batch_size=128, verbose=False))
    assert trainer.ema is not None
    model = trainer.ema.module.eval()
    return lambda count: sampler.sample(model, uniform((count, *SHAPE)), steps=300), updates


def ebmkit_noise(x: Tensor, minutes: float) -> tuple[Draw, int]:
    import ebm

    sigmas = ebm.geometric_sigmas(8.0, 0.05, 60)
    energy = ebm.nets.NoiseConditionalConvEnergy(in_channels=1, channels=(64, 128, 256))
    loss = ebm.MultiSigmaDenoisingScoreMatching(sigmas)
    trainer = ebm.Trainer(energy, loss, lr=1e-3, ema_decay=0.999, device="cpu", grad_clip_norm=10.0)

    def update() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            trainer.fit(x, steps=10, batch_size=128, verbose=False)

    updates = 10 * until(minutes, update)
    assert trainer.ema is not None
    model = trainer.ema.module.eval()
    sampler = ebm.PredictorCorrector(sigmas, n_corrector=1, snr=0.16)

    def draw(count: int) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            made: Tensor = sampler.sample(model, sigmas[0] * torch.randn(count, *SHAPE))
        return made.float()

    return draw, updates


class Block(nn.Module):
    """x + conv(act(norm(conv(act(norm(x))))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        norms = (nn.GroupNorm(8, width), nn.GroupNorm(8, width))
        first, second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.body = nn.Sequential(norms[0], nn.SiLU(), first, norms[1], nn.SiLU(), second)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class UNet(nn.Module):
    """A field (B, 1, 28, 28) -> the same, on 2x2 blocks of pixels: two scales, about 0.4 M weights;
    t is not looked at.
    """

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.into = nn.Conv2d(4, width, 3, padding=1)
        self.down = nn.Sequential(Block(width), Block(width))
        self.fold = nn.Conv2d(width, 2 * width, 2, stride=2)
        self.deep = nn.Sequential(Block(2 * width), Block(2 * width), Block(2 * width))
        self.unfold = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.up = nn.Sequential(nn.Conv2d(2 * width, width, 1), Block(width), Block(width))
        self.out = nn.Conv2d(width, 4, 3, padding=1)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, x: Tensor, t: Any = None) -> Tensor:
        fine = self.down(self.into(F.pixel_unshuffle(x, 2)))
        coarse = self.unfold(self.deep(self.fold(fine)))
        return F.pixel_shuffle(self.out(self.up(torch.cat([fine, coarse], 1))), 2)


def torchebm_matching(x: Tensor, minutes: float) -> tuple[Draw, int]:
    from torchebm.losses import EquilibriumMatchingLoss
    from torchebm.models import EqMEnergy
    from torchebm.samplers import GradientDescentSampler

    field = UNet()
    loss_of = EquilibriumMatchingLoss(model=field, interpolant="linear", energy_type="none")
    optimizer = torch.optim.Adam(field.parameters(), lr=1e-3)
    mean = torch.optim.swa_utils.AveragedModel(
        field, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999)
    )

    def update() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            loss = loss_of(x[torch.randint(len(x), (128,))])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        mean.update_parameters(field)

    updates = until(minutes, update)
    sampler = GradientDescentSampler(
        EqMEnergy(mean.module.eval(), energy_type="implicit"), step_size=0.01
    )

    def draw(count: int) -> Tensor:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            made: Tensor = sampler.sample(x=torch.randn(count, *SHAPE), n_steps=100)
        return made.float()

    return draw, updates


RIVALS: dict[str, Rival] = {
    "ebmkit-recipe": ebmkit_recipe,
    "ebmkit-noise": ebmkit_noise,
    "torchebm-matching": torchebm_matching,
}


def drawn(draw: Draw, count: int, minutes: float) -> tuple[Tensor, float]:
    """Samples in [0, 1] and the seconds they took: all that were asked for, or what the time
    allows, one part at least.
    """
    began, parts, limit = (
        time.process_time(),
        list[Tensor](),
        60 * minutes * torch.get_num_threads(),
    )
    while sum(len(part) for part in parts) < count and (
        not parts or time.process_time() < began + limit
    ):
        parts.append(((draw(min(PART, count)).detach() + 1) / 2).clamp(0, 1))
    return torch.cat(parts)[:count], (time.process_time() - began) / torch.get_num_threads()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rival", choices=list(RIVALS))
    parser.add_argument("--set", default="mnist", choices=["mnist", "fashion-mnist"])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--sampling-minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", module="torchebm")
    torch.set_num_threads(options.threads)
    torch.manual_seed(options.seed)
    x = 2 * load_data(options.set).train.x - 1
    draw, updates = RIVALS[options.rival](x, options.minutes)
    print(f"{options.rival}: {updates} updates in {options.minutes:g} minutes", flush=True)
    made, seconds = drawn(draw, options.count, options.sampling_minutes)
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / f"{options.set}-{options.rival}"
    np.save(path.with_suffix(".npy"), made.numpy())
    save_grid(made[:64], path.with_suffix(".png"), columns=16, pixels=28)
    said = {
        **vars(options),
        "updates": updates,
        "images": len(made),
        "sampling_seconds": round(seconds, 1),
    }
    path.with_suffix(".json").write_text(json.dumps(said) + "\n")
    print(json.dumps(said))


if __name__ == "__main__":
    main()
