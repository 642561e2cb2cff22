"""Guidance: classifiers and other differentiable judges as terms of an energy.

    LabelGuidance(f, y)                −log p(y | x)
    DenoisedGuidance(judge, prior)     judge(x − σ² ∇E(x, σ)): of the expected clean point

The clean point is that of the energy itself. The guess of a network inside it (a denoiser) is worse
once the energy has been trained through its gradient.
"""

from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from lowland.devices import find_device
from lowland.domain import Domain, real
from lowland.energy import Energy, Function, NoiseCondition, count_classes, lift, noise_of
from lowland.energy.points import describe
from lowland.samplers import denoise
from lowland.scalars import Array
from lowland.tasks.detection.class_scores import logits

Labels = int | list[int] | list[list[float]] | Tensor


class LabelGuidance(Energy):
    """The energy −log p(y | x) of a classifier: low where x is classified as y.

    classifier: a function x -> logits (B, K), or an energy with classes; label: y, one for all, one
    per row (B,), or soft labels (B, K), which are probabilities; noisy: the classifier takes the
    noise level, (x, σ) -> logits, as its condition; one that does not is applied to x as it is, at
    whatever level. A sum of such terms and an energy of noise is an energy of noise.

    Raises ValueError for a label outside 0 ... K − 1, soft labels that are no probabilities, labels
    that do not fit the rows, and what does not classify.

    >>> guidance = LabelGuidance(lambda x: torch.cat([x, -x], 1), 0)
    >>> guidance(torch.tensor([[-3.0], [0.0], [3.0]])).round(decimals=2)
    tensor([6.0000, 0.6900, 0.0000])
    """

    label: Tensor

    def __init__(
        self,
        classifier: Energy | Callable[..., Tensor],
        label: Labels,
        *,
        noisy: bool = False,
        domain: Domain | None = None,
    ) -> None:
        classes = None
        if isinstance(classifier, Energy):
            classes, domain = count_classes(classifier), domain or classifier.domain
        super().__init__(domain or real())
        if not callable(classifier) or classes == 0:
            raise ValueError(
                f"a {type(classifier).__name__} without classes was given; a classifier is a "
                "callable x -> logits (B, K) or an energy with classes; pass one of them"
            )
        self.classifier, self.noisy = classifier, noisy
        rows = _as_labels(label, classes)
        if isinstance(classifier, nn.Module):
            rows = rows.to(find_device(classifier) or rows.device)
        self.register_rows("label", rows)
        # known here, so that no device is asked for it in a chain
        self.highest = -1 if rows.is_floating_point() else int(rows.max())

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        if self.noisy:
            values = self.classifier(x, torch.as_tensor(c).expand(len(x)))
        else:
            values = logits(self.classifier, x)
        log_p, label = torch.log_softmax(values, 1), self.label.to(values.device)
        if self.highest >= values.shape[1] or label.shape[1:] not in ((), values.shape[1:]):
            _as_labels(label, values.shape[1])  # refuses, in words
        if len(label) not in (1, len(x)):
            raise _uneven_labels_error(len(label), f"{len(x)} points")
        if label.is_floating_point():
            return -(label.to(log_p) * log_p).sum(1)
        return -log_p.gather(1, label.expand(len(x)).unsqueeze(1)).squeeze(1)

    def index_rows(self, index: Tensor) -> Self:
        if len(self.label) > 1 and len(index) and int(index.max()) >= len(self.label):
            raise _uneven_labels_error(len(self.label), f"row {int(index.max())} of the points")
        return super().index_rows(index)

    @property
    def condition(self) -> NoiseCondition | None:
        return NoiseCondition() if self.noisy else None


def _uneven_labels_error(labels: int, rows: str) -> ValueError:
    return ValueError(
        f"{labels} labels met {rows}; guidance has one label for all or one per row; match them"
    )


def _as_labels(label: Labels, classes: int | None) -> Tensor:
    """Return labels (1,) or (B,) as long, or soft labels (1, K) or (B, K); check them."""
    known = isinstance(label, (int, float, list, tuple, Array)) and not isinstance(label, bool)
    try:
        rows = torch.as_tensor(label if known else torch.nan)
    except (TypeError, ValueError, RuntimeError):
        rows = torch.tensor(torch.nan)
    soft = rows.is_floating_point()
    if not soft and rows.dim() == 0:
        rows = rows.reshape(1)
    if soft:
        fits = rows.dim() == 2 and rows.numel() > 0 and rows.shape[1] == (classes or rows.shape[1])
        fits = fits and bool((rows >= 0).all()) and bool((rows.sum(1) - 1).abs().max() < 1e-3)
    else:
        other = rows.dtype == torch.bool or rows.is_complex()
        fits = rows.dim() == 1 and len(rows) > 0 and not other
    if not fits:
        got = describe(label) if isinstance(label, Tensor) else repr(label)
        raise ValueError(
            f"labels came as {got}; whole numbers, one for all or one per row, or rows of "
            f"{classes or 'K'} probabilities (B, K) are needed; correct them"
        )
    if soft:
        return rows
    low, high = int(rows.min()), int(rows.max())
    if low < 0 or (classes and high >= classes):
        allowed = f"0 to {classes - 1}" if classes else "0 and above"
        raise ValueError(
            f"labels reach from {low} to {high}; the classifier has classes {allowed}; choose "
            "among them"
        )
    return rows.long()


class DenoisedGuidance(Energy):
    """A judge of clean points applied to the expected clean point behind x:

        E_c(x, σ) = judge(x − σ² ∇E(x, σ))

    judge: an energy of clean points, such as `LabelGuidance`; prior: the energy of noise E, or a
    function (x, σ) -> energies. A classifier of clean images is unreliable on noisy ones, but not
    on the clean point behind them. Cost: the gradient goes through that of the prior, a second
    derivative. Raises ValueError for a prior without noise levels, or with one bound, and for a
    judge of other points. Source: Bansal et al. (2023), https://arxiv.org/abs/2302.07121

    >>> normal = lambda x, sigma: 0.5 * x.square().sum(1) / (1 + sigma**2)  # N(0, 1) with noise
    >>> DenoisedGuidance(lambda x: x.sum(1), normal)(torch.full((2, 1), 3.0), 1.0)
    tensor([1.5000, 1.5000])
    """

    def __init__(
        self, judge: Energy | Callable[..., Tensor], prior: Energy | Callable[..., Tensor]
    ) -> None:
        prior = lift(prior)
        super().__init__(prior.domain)
        if not (isinstance(prior, Function) or noise_of(prior)):
            raise ValueError(
                f"{type(prior).__name__} knows no noise level, or has one bound; DenoisedGuidance "
                "needs an energy E(x, σ), whose slope tells the clean point behind x; use an "
                "energy of noise, or a critic that is told the noise"
            )
        self.judge, self.prior = lift(judge), prior
        shapes = {shape for shape in (self.judge.domain.shape, prior.domain.shape) if shape}
        if len(shapes) > 1:
            raise ValueError(
                f"the critic judges points of shape {self.judge.domain.shape} and the prior knows "
                f"points of shape {prior.domain.shape}; both see the same points; use a critic "
                "that was trained on points of that shape"
            )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        if c is None:
            raise ValueError(
                "DenoisedGuidance was asked without a noise level; it needs E(x, σ); bind one with "
                "guidance.given(sigma)"
            )
        sigma = torch.as_tensor(c, dtype=x.dtype, device=x.device).expand(len(x))
        return self.judge(denoise(self.prior.given(sigma), x, sigma, check=False))

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition()


def bind_sigma(energy: Energy, sigma: float) -> Energy:
    """Return an energy of noise bound to a level; other energies as they are."""
    return energy.given(sigma) if noise_of(energy) else energy
