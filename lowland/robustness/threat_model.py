"""Threat models: what an attack may do to a classifier, and what is checked before it runs.

An attack is a callable (model, x, labels, epsilon, *, generator) -> x', with model: (B, *event) ->
logits (B, K). Its points lie in the ball ‖x' − x‖ ≤ ε and inside the bounds of the data; a row for
which it finds no adversarial example comes back as the best point seen.

A model that draws noise at every call is attacked with eot = 20 or more: gradients averaged over
that many calls (expectation over transformation; Athalye et al. 2018,
https://arxiv.org/abs/1707.07397).
"""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import Tensor, nn

from lowland.devices import find_device
from lowland.energy import freeze
from lowland.energy.points import describe
from lowland.scalars import read_integer, read_number

Model = Callable[[Tensor], Tensor]
Bounds = tuple[float, float] | None
Norm = Literal["inf", "2"]
Gradient = Literal["full", "zero", "none"]


class Attack(Protocol):
    """An attack: maps points (B, *event) and labels (B,) to points (B, *event) of the ball."""

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor: ...


@dataclass(frozen=True)
class TransferAttack:
    """An attack computed on another model, the surrogate; the model under attack is never called.

    The surrogate is one that an attacker trained, or the same model with another backward pass
    (BPDA: `PurifiedClassifier.with_identity_gradient`). Source: Papernot, McDaniel & Goodfellow
    (2016), https://arxiv.org/abs/1605.07277
    """

    surrogate: Model
    attack: Attack

    def __call__(
        self, model: Model, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        return self.attack(self.surrogate, x, labels, epsilon, generator=generator)


def margin(logits: Tensor, labels: Tensor) -> Tensor:
    """Compute max over k ≠ y of f_k − f_y, (B,), of logits (B, K): above 0 if misclassified.

    >>> margin(torch.tensor([[2.0, 5.0, 1.0]]), torch.tensor([1]))
    tensor([-3.])
    """
    return mask_label(logits, labels).amax(1) - pick_label(logits, labels)


def mask_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return logits (B, K) with −∞ at the label."""
    return logits.scatter(1, labels.unsqueeze(1), -torch.inf)


def pick_label(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the logit (B,) of the label."""
    return logits.gather(1, labels.unsqueeze(1)).squeeze(1)


def distance(x: Tensor, other: Tensor, norm: Norm) -> Tensor:
    """Compute ‖x' − x‖ per row, (B,): the largest difference ("inf"), or the length ("2")."""
    gap = (other - x).flatten(1)
    return gap.norm(dim=1, p=float(norm))


def project_bounds(x: Tensor, bounds: Bounds) -> Tensor:
    """Return the nearest points inside the bounds, or x itself without bounds."""
    return x if bounds is None else x.clamp(*bounds)


def open_rows(rank: Tensor, early_stop: bool) -> Tensor | slice:
    """Return the indices of rows to attack further, with early_stop those with rank ≤ 0; without
    it a slice of all, for which no device is waited for.
    """
    return (rank <= 0).nonzero().flatten() if early_stop else slice(None)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Return values (B,) in a shape that goes with points (B, *event)."""
    return values.view(-1, *[1] * (like.dim() - 1))


@contextmanager
def eval_frozen(model: Model) -> Iterator[Model]:
    """Give a view of a module in eval mode with constant weights; other callables as they are."""
    if not isinstance(model, nn.Module):
        yield model
        return
    with freeze(model) as view:
        yield view


# ------------------------------------------------------------------------------------------- checks


def read_settings(
    attack: object,
    counts: Sequence[str] = (),
    positive: Sequence[str] = (),
    bounds: Bounds = None,
) -> None:
    """Put plain numbers in the place of an attack's counts, of at least 1, and sizes, above 0, and
    of its bounds.
    """
    settings = vars(attack)
    for name in counts:
        object.__setattr__(attack, name, read_integer(name, settings[name], least=1))
    for name in positive:
        object.__setattr__(attack, name, read_number(name, settings[name], above=0))
    object.__setattr__(attack, "bounds", read_bounds(bounds))


def read_bounds(bounds: Bounds) -> Bounds:
    """Return bounds as two plain numbers, or None for none."""
    if bounds is None:
        return None
    pair = tuple(bounds) if isinstance(bounds, Iterable) and not isinstance(bounds, str) else ()
    low, high = map(_read_wall, pair) if len(pair) == 2 else (math.nan, math.nan)
    if not low < high:
        raise ValueError(
            f"bounds are {bounds!r}; two numbers, the lower one first, are needed; pass for "
            "example (0.0, 1.0), or None for points without bounds"
        )
    return low, high


def _read_wall(wall: float) -> float:
    return read_number("one of the bounds", wall)


def check_attack(
    model: Model, x: Tensor, labels: Tensor, epsilon: float, bounds: Bounds = (0.0, 1.0)
) -> int:
    """Raise ValueError for points, labels, ε or a model that no attack can use; return K.

    x (B, *event): finite and inside the bounds; labels (B,): torch.long below K; epsilon: at least
    0; model: gives logits (B, K) with K ≥ 2.
    """
    return inspect_attack(model, x, labels, epsilon, bounds)[0]


def inspect_attack(
    model: Model, x: Tensor, labels: Tensor, epsilon: float, bounds: Bounds = (0.0, 1.0)
) -> tuple[int, Gradient]:
    """Check as `check_attack` does; return K and what gradient reaches the points."""
    _check_points(x, bounds)
    read_number("epsilon", epsilon, least=0)
    _check_devices(model, x, labels)
    classes, gradient = inspect_model(model, x[:2])
    whole = isinstance(labels, Tensor) and labels.dtype == torch.long and labels.shape == (len(x),)
    if not whole or int(labels.min()) < 0 or int(labels.max()) >= classes:
        got = describe(labels)
        if whole:
            got += f", from {int(labels.min())} to {int(labels.max())}"
        raise ValueError(
            f"labels are {got}; torch.long ({len(x)},) from 0 to {classes - 1} are needed; correct "
            "them"
        )
    return classes, gradient


def _check_devices(model: Model, x: Tensor, labels: Tensor) -> None:
    """Raise ValueError unless model, points and labels are on one device."""
    place = find_device(model) if isinstance(model, nn.Module) else None
    places = [x.device, place or x.device]
    if isinstance(labels, Tensor):
        places.append(labels.device)
    if any(place != x.device for place in places):
        raise ValueError(
            f"the points are on {x.device}, the model on {places[1]} and the labels on "
            f"{places[-1]}; an attack computes on one device; move them with "
            f".to({str(places[1])!r})"
        )


def _check_points(x: Tensor, bounds: Bounds) -> None:
    """Raise ValueError unless x is a finite floating point tensor (B, *event) inside the bounds."""
    points = isinstance(x, Tensor) and x.is_floating_point() and x.dim() > 1 and len(x) > 0
    if not points or not bool(x.isfinite().all()):
        raise ValueError(
            f"points came as {describe(x)}; finite floating point numbers (B, *event) with B > 0 "
            "are needed; convert them"
        )
    low, high = x.detach().aminmax()
    if bounds is not None and not (len(bounds) == 2 and bounds[0] <= low <= high <= bounds[1]):
        raise ValueError(
            f"points reach from {low:g} to {high:g}; the bounds are {bounds}; rescale the points, "
            "or pass bounds=None"
        )


def inspect_model(model: Model, x: Tensor) -> tuple[int, Gradient]:
    """Return K of the model's logits for x, and whether a gradient reaches the points: "full",
    "zero" everywhere, or "none".

    Raises ValueError for a model that gives no logits, or that cannot read the points.
    """
    if not callable(model):
        raise ValueError(
            f"the model is a {type(model).__name__}; a classifier is called, x -> logits (B, K); "
            "pass one"
        )
    with eval_frozen(model) as view, torch.inference_mode(False), torch.enable_grad():
        leaf = x.detach().clone().requires_grad_(True)
        try:
            logits = view(leaf)
        except RuntimeError as error:
            reason = (str(error).splitlines() or ["no reason"])[0]
            raise ValueError(
                f"the model failed on points {describe(x)} ({reason}); it must take such points; "
                "convert them, or the model with .to(x.dtype)"
            ) from error
        _check_logits(logits, x)
        return logits.shape[1], _look_for_gradient(logits, leaf)


def _check_logits(logits: object, x: Tensor) -> None:
    """Raise ValueError unless logits are real numbers (B, K) with K ≥ 2, and none of them NaN."""
    got = describe(logits)
    sound = isinstance(logits, Tensor) and logits.dim() == 2 and len(logits) == len(x)
    if isinstance(logits, Tensor) and sound:
        real = not logits.is_complex() and logits.dtype != torch.bool
        sound = real and logits.shape[1] > 1 and not bool(logits.isnan().any())
        got += " with nan" * bool(logits.isnan().any())
    if not sound:
        raise ValueError(
            f"the model gave {got} for {len(x)} points; logits (B, K) with K >= 2 and no nan are "
            "needed; pass a classifier x -> logits"
        )


def _look_for_gradient(logits: Tensor, leaf: Tensor) -> Gradient:
    """Return whether logits (B, K) have a gradient with respect to the points they came from."""
    weights = torch.arange(1.0, logits.shape[1] + 1, dtype=leaf.dtype, device=leaf.device)
    try:
        slope = find_gradient((logits.to(leaf.dtype) * weights).sum(), leaf)
    except RuntimeError:  # an operation without a derivative
        slope = None
    if slope is None:
        return "none"
    return "full" if bool((slope != 0).any()) else "zero"


def find_gradient(loss: Tensor, leaf: Tensor) -> Tensor | None:
    """Return the gradient of a loss with respect to the points, None where the graph is cut."""
    if not loss.requires_grad:
        return None
    return torch.autograd.grad(loss, leaf, allow_unused=True)[0]
