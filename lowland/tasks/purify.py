"""Adversarial purification: carry points back to the data before they are classified.

    "langevin"   x + σ ξ, then x ← x − h ∇E(x) + √(2hT) ξ, repeatedly                any energy
    "map"        towards argmin E(x') + ‖x' − x‖² / 2σ², without noise               any energy
    "denoise"    x + σ ξ, then down the noise levels to the expected clean point     E(x, σ)

Only attacks that know the purifier tell whether it defends. Every step is therefore differentiable,
and `PurifiedClassifier` offers both gradients: through the steps, and past them. Many published
purifiers were broken by one of the two. Source: Grathwohl et al. (2020),
https://arxiv.org/abs/1912.03263; Hill, Mitchell & Zhu (2021), https://arxiv.org/abs/2005.13525;
noise and its removal: Nie et al. (2022), https://arxiv.org/abs/2205.07460
"""

import math
from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from lowland.energy import (
    Energy,
    check_gradient,
    check_points,
    count_classes,
    freeze,
    lift,
    noise_of,
    score_with_graph,
)
from lowland.registry import suggest
from lowland.samplers import denoise, karras_sigmas
from lowland.samplers.kernel import normal_like
from lowland.samplers.loop import check_arguments
from lowland.scalars import MAX_STEPS, read_integer, read_number
from lowland.tasks.detection.class_scores import Classifier, logits
from lowland.tasks.generate import check_joint

Method = Literal["langevin", "map", "denoise"]
Gradient = Literal["unrolled", "identity"]
PURIFY_METHODS = ("langevin", "map", "denoise")
SETTINGS = ("method", "steps", "sigma", "step_size", "temperature", "clip")
SIGMA_RATIO = 20  # of the first to the last of several noise levels


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
    """Move points x (B, *event) towards the data; return (B, *event).

    method "langevin": `steps` steps of size h = step_size at temperature T, after noise of
    deviation sigma (0: none); "map": `steps` proximal steps on E(x') + ‖x' − x‖² / 2 sigma², each
    v = x' − h ∇E(x'), then (v + τ x) / (1 + τ) with τ = h / sigma²; "denoise", for an energy
    E(x, σ): noise of deviation sigma, then with steps = 1 the expected clean point, else down that
    many levels, x ← D + (σ' / σ) (x − D). clip: bound on the absolute value of every number of ∇E,
    as in `ShortRun`. The first two stay in a box; "denoise" clamps nothing.

    The result requires a gradient if x does; the chain is then kept for backward, which costs
    memory for every step. Weights get no gradient. The same generator gives the same points either
    way, up to rounding. Cost: a gradient of the energy per step, and its derivative in backward.

    Raises ValueError for settings outside their range, points outside the domain, "denoise" with an
    energy without noise levels, and the others with one whose level is not bound.

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> g, far = torch.Generator().manual_seed(0), torch.tensor([[3.0, 0.0]])
    >>> how = {"method": "map", "sigma": 1.0, "steps": 50, "step_size": 0.5}
    >>> purify(Gaussian(), far, generator=g, **how).round(decimals=3)
    tensor([[1.5000, 0.0000]])
    """
    energy = lift(energy)
    steps, sigma, step_size, temperature, clip = read_settings(
        energy, method, steps, sigma, step_size, temperature, clip
    )
    points = x.detach() if isinstance(x, Tensor) else x
    check_arguments(steps, generator, points)
    check_points(energy, points)
    with freeze(energy) as energy:
        if method == "denoise":
            return _denoise_in_steps(energy, x + sigma * normal_like(x, generator), sigma, steps)
        start = x
        if method == "langevin" and sigma:
            x = energy.domain.reflect(x + sigma * normal_like(x, generator))[0]
        for step in range(steps):
            gradient = -score_with_graph(energy, x)
            if step == 0 and not bool(gradient.any()):
                check_gradient(energy, x.detach())
            if clip is not None:
                gradient = gradient.clamp(-clip, clip)
            if method == "langevin":
                noise = normal_like(x, generator) * math.sqrt(2 * step_size * temperature)
                x = energy.domain.reflect(noise + x - step_size * gradient)[0]
            else:
                weight = step_size / sigma**2
                x = energy.domain.project(
                    (x - step_size * gradient + weight * start) / (1 + weight)
                )
        return x


def _denoise_in_steps(energy: Energy, x: Tensor, sigma: float, steps: int) -> Tensor:
    """Denoise points of noise level sigma along `steps` falling levels (DDIM's step)."""
    sigmas = [sigma]
    if steps > 1:
        sigmas = list(karras_sigmas(sigma, sigma / SIGMA_RATIO, steps))
    for level, below in pairwise([*sigmas, 0.0]):
        clean = denoise(energy.given(level), x, level, check=level == sigma)
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
    """Raise ValueError for settings of `purify` out of range, or a method unfit for the energy."""
    read_settings(energy, method, steps, sigma, step_size, temperature, clip)


def read_settings(
    energy: Energy,
    method: str,
    steps: int,
    sigma: float,
    step_size: float,
    temperature: float,
    clip: float | None,
) -> tuple[int, float, float, float, float | None]:
    """Return steps, sigma, step_size, temperature and clip as plain numbers; see `purify`."""
    check_joint(energy)
    if method not in PURIFY_METHODS:
        raise ValueError(
            f"purify was given method {method!r}; it is one of {', '.join(PURIFY_METHODS)}; choose "
            "one"
        )
    least = 1 if method == "denoise" else 0
    steps = read_integer("steps of purify", steps, least=least, most=MAX_STEPS)
    sigma = read_number("sigma of purify", sigma, least=0)
    step_size = read_number("step_size of purify", step_size, above=0)
    temperature = read_number("temperature of purify", temperature, least=0)
    if clip is not None:
        clip = read_number("clip of purify", clip, above=0)
    if method != "langevin" and sigma == 0:
        raise ValueError(
            f"sigma is 0 with the method {method!r}; it needs a width above 0; pass for example "
            "sigma=0.3"
        )
    needs = "'denoise' needs an energy E(x, σ), 'langevin' and 'map' one of x alone"
    noisy, name = noise_of(energy) is not None, type(energy).__name__
    if noisy and method != "denoise":
        raise ValueError(
            f"{name} knows noise levels, and none is bound; {needs}; use denoise, or bind a level "
            "with energy.given(sigma)"
        )
    if method == "denoise" and not noisy:
        raise ValueError(f"{name} knows no noise level; {needs}; use langevin or map")
    return steps, sigma, step_size, temperature, clip


def check_names(settings: Iterable[str]) -> None:
    """Raise ValueError for a setting that `purify` does not have."""
    for name in settings:
        if name not in SETTINGS:
            raise ValueError(
                f"purify has no setting {name!r}; it has {', '.join(SETTINGS)}; "
                f"{suggest(name, SETTINGS, 'choose one of them')}"
            )


def as_classifier(classifier: Classifier) -> Callable[[Tensor], Tensor]:
    """Return a function x -> logits (B, K) of an energy with classes; a callable as it is.

    Raises ValueError for an energy without classes, and for what cannot be called.

    >>> import torch, lowland
    >>> energy = lowland.nets.MLP(lowland.real(2), hidden=(4,), classes=3)
    >>> as_classifier(energy)(torch.zeros(5, 2)).shape
    torch.Size([5, 3])
    """
    if isinstance(classifier, Energy):
        classes = count_classes(classifier)
        if classes < 2:
            raise ValueError(
                f"{type(classifier).__name__} has {classes} classes; a classifier has two or more; "
                "train one with classes, or pass a function x -> logits"
            )
        return _Logits(classifier)
    if not callable(classifier):
        raise ValueError(
            f"a {type(classifier).__name__} was given; a classifier is a callable x -> logits (B, "
            "K) or an energy with classes; pass one of them"
        )
    return classifier


class _Logits(nn.Module):
    """The logits of an energy with classes."""

    def __init__(self, energy: Energy) -> None:
        super().__init__()
        self.energy = energy

    def forward(self, x: Tensor) -> Tensor:
        return logits(self.energy, x)


class PurifiedClassifier(nn.Module):
    """A classifier applied to purified points: x (B, *event) -> logits (B, K), a mean over draws.

        f̄(x) = (1/D) Σ_d f(purify(x, ξ_d))

    energy, settings: as `purify` takes them; classifier: a callable x -> logits, or an energy with
    classes; draws: D; generator: of the noise, new for every call; gradient: of the purifier in
    backward: "unrolled", through all of its steps; "identity", as if it did nothing (backward pass
    differentiable approximation, BPDA), which an attacker uses where the true gradient vanishes or
    is too rough. `with_identity_gradient` returns this model with the second.

    Raises ValueError as `purify` and `as_classifier` do, and for draws below 1, another gradient or
    an unknown setting. Source: BPDA: Athalye, Carlini & Wagner (2018),
    https://arxiv.org/abs/1802.00420

    >>> import torch
    >>> from lowland.targets import Gaussian
    >>> g, classify = torch.Generator().manual_seed(0), lambda x: torch.cat([x, -x], 1)
    >>> model = PurifiedClassifier(Gaussian(), classify, generator=g, draws=3, steps=2)
    >>> model(torch.ones(5, 2)).shape
    torch.Size([5, 4])
    """

    def __init__(
        self,
        energy: Energy | Callable[..., Tensor],
        classifier: Classifier,
        *,
        generator: torch.Generator,
        draws: int = 1,
        gradient: Gradient = "unrolled",
        **settings: Any,
    ) -> None:
        super().__init__()
        draws = read_integer("draws", draws, least=1)
        check_names(settings)
        if gradient not in ("unrolled", "identity"):
            raise ValueError(
                f"gradient is {gradient!r}; it is 'unrolled' or 'identity'; choose one"
            )
        self.energy, self.classifier = lift(energy), as_classifier(classifier)
        check_settings(self.energy, **settings)
        self.generator, self.draws, self.gradient = generator, draws, gradient
        self.settings = settings

    def purify(self, x: Tensor) -> Tensor:
        """Draw purified points (B, *event) once."""
        if self.gradient == "unrolled":
            return purify(self.energy, x, generator=self.generator, **self.settings)
        clean = purify(self.energy, x.detach(), generator=self.generator, **self.settings)
        return x + (clean - x).detach() if x.requires_grad else clean

    def forward(self, x: Tensor) -> Tensor:
        logits = self.classifier(self.purify(x.repeat(self.draws, *[1] * (x.dim() - 1))))
        return logits.view(self.draws, len(x), -1).mean(0)

    def with_identity_gradient(self) -> "PurifiedClassifier":
        """Return the same model with the purifier left out of backward (BPDA)."""
        return PurifiedClassifier(
            self.energy,
            self.classifier,
            generator=self.generator,
            draws=self.draws,
            gradient="identity",
            **self.settings,
        )
