"""Critics as energies: what a classifier, or anything else that judges points, adds to an
expression.

    LabelGuidance(f, y)             −log p(y | x)
    DenoisedGuidance(critic, prior)      critic(x − σ² ∇E(x, σ)): what it says of the clean point that an
                                energy of noise expects

The clean point is that of the energy itself. A network inside it that guesses clean points
(`Denoiser.denoised`) is no longer the better guess, once the energy was trained through its
gradient.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor

from lowland.domain import Domain, real
from lowland.energy import Energy, Function, NoiseCondition, count_classes, lift, noise_of
from lowland.samplers.diffusion import denoise
from lowland.tasks.detection.class_scores import logits


class LabelGuidance(Energy):
    """−log p(y | x) of a classifier as an energy: low where x is called y.

    classifier: a function x -> logits (B, K), or an energy with classes; label: y, one for all, one
    per row (B,), or soft ones (B, K), which are probabilities; noisy: the classifier is told the
    noise level, (x, σ) -> logits, which arrives as the condition; one that is not is asked about x
    as it is, at whatever level. A sum of such terms and an energy of noise is an energy of noise.

    Raises ValueError for a label outside 0 ... K − 1, soft ones that are no probabilities, labels
    that do not fit the rows, and what does not classify.

    >>> attribute = LabelGuidance(lambda x: torch.cat([x, -x], 1), 0)
    >>> attribute(torch.tensor([[-3.0], [0.0], [3.0]])).round(decimals=2)
    tensor([6.0000, 0.6900, 0.0000])
    """

    def __init__(
        self, classifier: Any, label: Any, *, noisy: bool = False, domain: Domain | None = None
    ) -> None:
        own = isinstance(classifier, Energy)
        super().__init__(domain or (classifier.domain if own else real()))
        classes = count_classes(classifier) if own else None
        if not callable(classifier) or classes == 0:
            raise ValueError(
                f"a {type(classifier).__name__} without classes was given; a classifier is a "
                "callable x -> logits (B, K) or an energy with classes; pass one of them"
            )
        self.classifier, self.noisy = classifier, noisy
        self.register_rows("label", _labels(label, classes))

    label: Tensor

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        found = (
            self.classifier(x, torch.as_tensor(c).expand(len(x)))
            if self.noisy
            else logits(self.classifier, x)
        )
        log_p, label = torch.log_softmax(found, 1), _labels(self.label, found.shape[1])
        if len(label) not in (1, len(x)):
            raise _uneven(len(label), f"{len(x)} points")
        if label.is_floating_point():
            return -(label.to(log_p) * log_p).sum(1)
        return -log_p.gather(1, label.expand(len(x)).unsqueeze(1)).squeeze(1)

    def index_rows(self, index: Tensor) -> Self:
        if len(self.label) > 1 and len(index) and int(index.max()) >= len(self.label):
            raise _uneven(len(self.label), f"row {int(index.max())} of the points")
        return super().index_rows(index)

    @property
    def condition(self) -> NoiseCondition | None:
        return NoiseCondition() if self.noisy else None


def _uneven(labels: int, rows: str) -> ValueError:
    return ValueError(
        f"{labels} labels met {rows}; an attribute has one label for all or one per row; match them"
    )


def _labels(label: Any, classes: int | None) -> Tensor:
    """Labels (1,) or (B,), or soft ones (1, K) or (B, K)."""
    known = isinstance(label, (int, float, list, tuple, Tensor)) and not isinstance(label, bool)
    rows = torch.as_tensor(label if known else torch.nan)
    if rows.is_floating_point():
        fits = rows.dim() == 2 and rows.numel() > 0 and rows.shape[1] == (classes or rows.shape[1])
        fits = fits and bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)
    else:
        rows = rows.reshape(1) if rows.dim() == 0 else rows
        fits = rows.dim() == 1 and len(rows) > 0 and rows.dtype != torch.bool
    if not fits:
        got = (
            f"{rows.dtype} of shape {tuple(rows.shape)}"
            if isinstance(label, Tensor)
            else repr(label)
        )
        raise ValueError(
            f"labels came as {got}; whole numbers, one for all or one per row, or rows of "
            f"{classes or 'K'} probabilities (B, K) are needed; correct them"
        )
    low, high = (0, 0) if rows.is_floating_point() else (int(rows.min()), int(rows.max()))
    if low < 0 or (classes and high >= classes):
        allowed = f"0 to {classes - 1}" if classes else "0 and above"
        raise ValueError(
            f"labels reach from {low} to {high}; the classifier has classes {allowed}; choose "
            "among them"
        )
    return rows if rows.is_floating_point() else rows.long()


class DenoisedGuidance(Energy):
    """A critic of clean points as one of noisy ones: what it says of the expected clean point
    behind x.

        E_c(x, σ) = critic(x − σ² ∇E(x, σ))

    prior: the energy of noise E, or a function (x, σ) -> energies. A classifier of clean images
    says little of noise; of the clean point behind it, more. Cost: the gradient goes through that
    of the prior, a second derivative. Raises ValueError for a prior that knows no noise level, or
    has one bound, and for a critic of other points. Source: Bansal et al. (2023),
    https://arxiv.org/abs/2302.07121

    >>> normal = lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2)  # N(0, 1) with noise
    >>> DenoisedGuidance(lambda x: x.sum(1), normal)(torch.full((2, 1), 3.0), 1.0)
    tensor([1.5000, 1.5000])
    """

    def __init__(
        self, critic: Energy | Callable[..., Tensor], prior: Energy | Callable[..., Tensor]
    ) -> None:
        prior = lift(prior)
        super().__init__(prior.domain)
        if not (isinstance(prior, Function) or noise_of(prior)):
            raise ValueError(
                f"{type(prior).__name__} knows no noise level, or has one bound; DenoisedGuidance needs an "
                "energy E(x, σ), whose slope tells the clean point behind x; use an energy of "
                "noise, or a critic that is told the noise"
            )
        self.critic, self.prior = lift(critic), prior
        shapes = {shape for shape in (self.critic.domain.shape, prior.domain.shape) if shape}
        if len(shapes) > 1:
            raise ValueError(
                f"the critic judges points of shape {self.critic.domain.shape} and the prior knows "
                f"points of shape {prior.domain.shape}; both see the same points; use a critic "
                "that was trained on points of that shape"
            )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        if c is None:
            raise ValueError(
                "DenoisedGuidance was asked without a noise level; it needs E(x, σ); bind one with "
                "cleaned.given(sigma)"
            )
        level = torch.as_tensor(c, dtype=x.dtype, device=x.device).expand(len(x))
        return self.critic(denoise(self.prior.given(level), x, level))

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition()


def at_level(energy: Energy, sigma: float) -> Energy:
    """Bind a term of a path to a noise level if it takes one, else return it as it is."""
    return energy if noise_of(energy) is None else energy.given(sigma)
