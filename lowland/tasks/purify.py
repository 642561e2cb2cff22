"""Purifying: a point that somebody tampered with is carried back to where data lie, before anybody
acts on it.

    langevin   x + σ ξ, then x ← x − h ∇E(x) + √(2hT) ξ, again and again     any energy
    map        towards argmin E(x') + ‖x' − x‖² / 2σ², without noise          any energy
    denoise    x + σ ξ, then down the noise levels to the expected clean point     an energy E(x, σ)

Whether that defends a classifier is for attacks to say that know of it. So every step here can be
differentiated, and `PurifiedClassifier` gives an attacker both gradients there are: through the steps, and
past them. Most published purifiers fell to one of them; a number that was measured without them
means nothing. Source: Grathwohl et al. (2020), https://arxiv.org/abs/1912.03263; Hill, Mitchell &
Zhu (2021), https://arxiv.org/abs/2005.13525; noise and its removal: Nie et al. (2022),
https://arxiv.org/abs/2205.07460
"""

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowland.energy import (
    Energy,
    check_points,
    count_classes,
    frozen,
    lift,
    noise_of,
    score_with_graph,
)
from lowland.samplers import karras_sigmas
from lowland.samplers.diffusion import denoise
from lowland.samplers.kernel import normal_like
from lowland.samplers.loop import check_arguments
from lowland.tasks.detection.class_scores import logits
from lowland.tasks.generate import check_whole

Method = Literal["langevin", "map", "denoise"]
METHODS = ("langevin", "map", "denoise")
SETTINGS = ("method", "steps", "sigma", "step_size", "temperature", "clip")
LAST = 20  # the last of several noise levels is the first divided by this


def purify(
    energy: Energy | Callable[..., Tensor],
    x: Tensor,
    *,
    generator: torch.Generator,
    method: Method = "langevin",
    steps: int = 10,
    sigma: float = 0.0,
    step_size: float = 0.01,
    temperature: float = 1.0,
    clip: float | None = None,
) -> Tensor:
    """Points (B, *event) carried from x towards the data.

    method "langevin": `steps` steps of size h = step_size at a temperature T, after noise of
    deviation sigma (0: none); "map": `steps` proximal steps down E(x') + ‖x' − x‖² / 2 sigma², each
    v = x' − h ∇E(x'), then (v + τ x) / (1 + τ) with τ = h / sigma², so that no sigma is too small;
    the noise plays no part; "denoise", for an energy E(x, σ): noise of deviation sigma, then steps
    = 1: one step to the expected clean point, or down that many levels, x ← D + (σ' / σ) (x − D),
    and a last denoising. clip: bound on every number of ∇E, as `ShortRun` has it. The first two stay in a
    box; denoise clamps nothing.

    If x requires a gradient, so does the result: the chain is then kept for backward, and costs
    memory for every step. Weights get none. The same generator gives the same points either way, up
    to rounding. Cost: a gradient of the energy per step, and its derivative where somebody
    differentiates through it. Raises ValueError for settings that cannot be meant, points outside
    the domain, "denoise" with an energy that knows no noise, and the others with one whose level is
    not bound.

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> far = torch.tensor([[3.0, 0.0]])
    >>> g = torch.Generator().manual_seed(0)
    >>> purify(Gaussian(), far, method="map", sigma=1.0, steps=50, step_size=0.5, generator=g).round(decimals=3)
    tensor([[1.5000, 0.0000]])
    """
    energy = lift(energy)
    check_settings(energy, method, steps, sigma, step_size, temperature, clip)
    check_arguments(steps, generator, x.detach() if isinstance(x, Tensor) else x)
    check_points(energy, x.detach() if isinstance(x, Tensor) else x)
    with frozen(energy):
        if method == "denoise":
            return _denoised(energy, x + sigma * normal_like(x, generator), sigma, steps)
        start = x
        if method == "langevin" and sigma:
            x = energy.domain.reflect(x + sigma * normal_like(x, generator))[0]
        for _ in range(steps):
            slope = -score_with_graph(energy, x)
            slope = slope if clip is None else slope.clamp(-clip, clip)
            if method == "langevin":
                noise = normal_like(x, generator) * math.sqrt(2 * step_size * temperature)
                x = energy.domain.reflect(noise + x - step_size * slope)[0]
            else:
                pull = step_size / sigma**2
                x = energy.domain.project((x - step_size * slope + pull * start) / (1 + pull))
        return x


def _denoised(energy: Energy, x: Tensor, sigma: float, steps: int) -> Tensor:
    levels = [sigma] if steps == 1 else list(karras_sigmas(sigma, sigma / LAST, steps))
    for level, below in pairwise([*levels, 0.0]):
        clean = denoise(
            energy.given(torch.full((len(x),), level, dtype=x.dtype, device=x.device)), x, level
        )
        x = clean + below / level * (x - clean)
    return x


def check_settings(
    energy: Energy,
    method: str = "langevin",
    steps: int = 10,
    sigma: float = 0.0,
    step_size: float = 0.01,
    temperature: float = 1.0,
    clip: float | None = None,
) -> None:
    """Refuse settings of `purify` that cannot be meant, and a method that does not fit the
    energy.
    """
    check_whole(energy)
    least = 1 if method == "denoise" else 0
    sizes = (sigma, step_size, temperature)
    sound = (
        isinstance(steps, int)
        and steps >= least
        and all(isinstance(size, (int, float)) for size in sizes)
    )
    sound = (
        sound
        and step_size > 0
        and temperature >= 0
        and (clip is None or clip > 0)
        and all(map(math.isfinite, sizes))
    )
    if (
        method not in METHODS
        or not sound
        or not (sigma > 0 or (method == "langevin" and sigma == 0))
    ):
        raise ValueError(
            f"purify was given method {method!r}, {steps} steps, sigma {sigma}, step_size "
            f"{step_size}, temperature {temperature} and clip {clip}; the method is one of "
            f"{', '.join(METHODS)}, sizes are above 0, temperature and Langevin's sigma at least "
            "0, and a denoiser takes a step or more; correct them"
        )
    noisy = noise_of(energy) is not None
    if noisy != (method == "denoise"):
        knows = "knows noise levels, and none is bound" if noisy else "knows no noise level"
        raise ValueError(
            f"{type(energy).__name__} {knows}; 'denoise' needs an energy E(x, σ), 'langevin' and "
            "'map' one of x alone; "
            f"{'use denoise, or bind a level with energy.given(sigma)' if noisy else 'use langevin or map'}"
        )


def as_classifier(classifier: Any) -> Callable[[Tensor], Tensor]:
    """Whatever classifies as a function x -> logits (B, K): an energy with classes gives −e(x), a
    callable is as it is.

    Raises ValueError for an energy without classes, and for what cannot be called.

    >>> import torch, lowland
    >>> energy = lowland.nets.MLP(lowland.real(2), hidden=(4,), classes=3)
    >>> as_classifier(energy)(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    if isinstance(classifier, Energy):
        if count_classes(classifier) < 2:
            raise ValueError(
                f"{type(classifier).__name__} has {count_classes(classifier)} classes; a "
                "classifier has two or more; train one with classes, or pass a function x -> "
                "logits"
            )
        return _Logits(classifier)
    if not callable(classifier):
        raise ValueError(
            f"a {type(classifier).__name__} was given; a classifier is a callable x -> logits (B, "
            "K) or an energy with classes; pass one of them"
        )
    return classifier


class _Logits(nn.Module):
    """The logits of an energy with classes: −e(x), or those that it has without its level."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        return logits(self.energy, x)


class PurifiedClassifier(nn.Module):
    """A classifier behind a purifier: x (B, *event) -> logits (B, K), the mean over draws, each
    with fresh noise.

        f̄(x) = (1/D) Σ_d f(purify(x, ξ_d))

    energy, settings: as `purify` takes them; classifier: a callable x -> logits, or an energy with
    classes; draws: D; generator: of the noise, which no two calls share; gradient: what backward
    says of the purifier. "unrolled": the truth, through all of its steps; "identity": that it did
    nothing (backward pass differentiable approximation, BPDA), which an attacker chooses where the
    truth vanishes or is too rough to follow. `with_identity_gradient` is this model with the second: what it
    answers is the same.

    Raises ValueError as `purify` and `as_classifier` do, and for draws below 1, another gradient or an
    unknown setting. Source: BPDA: Athalye, Carlini & Wagner (2018),
    https://arxiv.org/abs/1802.00420

    >>> import torch, lowland
    >>> from lowland.targets import Gaussian
    >>> g = torch.Generator().manual_seed(0)
    >>> model = PurifiedClassifier(Gaussian(), lambda x: torch.cat([x, -x], 1), generator=g, draws=3, steps=2)
    >>> model(torch.ones(5, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        energy: Energy | Callable[..., Tensor],
        classifier: Any,
        *,
        generator: torch.Generator,
        draws: int = 1,
        gradient: Literal["unrolled", "identity"] = "unrolled",
        **settings: Any,
    ) -> None:
        super().__init__()
        unknown = set(settings) - set(SETTINGS)
        if (
            not isinstance(draws, int)
            or draws < 1
            or gradient not in ("unrolled", "identity")
            or unknown
        ):
            raise ValueError(
                f"draws is {draws}, gradient {gradient!r} and the settings "
                f"{', '.join(settings) or 'none'}; at least 1, 'unrolled' or 'identity', and some "
                f"of {', '.join(SETTINGS)} are needed; correct them"
            )
        self.energy, self.classifier = lift(energy), as_classifier(classifier)
        check_settings(self.energy, **settings)
        self.generator, self.draws, self.gradient, self.settings = (
            generator,
            draws,
            gradient,
            settings,
        )

    def purify(self, x: Tensor) -> Tensor:
        """One draw of the purified points (B, *event)."""
        if self.gradient == "unrolled":
            return purify(self.energy, x, generator=self.generator, **self.settings)
        clean = purify(self.energy, x.detach(), generator=self.generator, **self.settings)
        return x + (clean - x).detach() if x.requires_grad else clean

    def forward(self, x: Tensor) -> Tensor:
        found = self.classifier(self.purify(x.repeat(self.draws, *[1] * (x.dim() - 1))))
        return found.view(self.draws, len(x), -1).mean(0)

    def with_identity_gradient(self) -> "PurifiedClassifier":
        """The same model, with the purifier left out of backward."""
        more: dict[str, Any] = {"draws": self.draws, "gradient": "identity", **self.settings}
        return PurifiedClassifier(self.energy, self.classifier, generator=self.generator, **more)
