"""Compose the capabilities of expressions: for each capability a function for sums, one for
mixtures and one for a bound condition.

An expression can do whatever its parts can do. What is None in the result is refused;
`tests/test_capabilities.py` holds the table of wrappers and capabilities.

A term of weight 0 counts for nothing: it is not evaluated, not even where it is infinite. A sum of
one term of weight 1 hands on the very capabilities of that term.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lowland.domain import Domain, real
from lowland.energy.capabilities import (
    Condition,
    ConditionLike,
    Gibbs,
    LabelCondition,
    Latent,
    Learner,
    NoiseCondition,
    Paths,
    gibbs_of,
    labels_of,
)
from lowland.energy.placement import constant
from lowland.scalars import read_number

if TYPE_CHECKING:
    from lowland.energy.algebra import Energy

Bind = Callable[[Tensor], Tensor]  # points (B, *event) to their condition, one row each


def share_domain(domains: Iterable[Domain]) -> Domain:
    """Return the domain of an expression; those of its parts are equal, or real without a shape."""
    domains = list(domains)
    if not domains:
        raise ValueError("no energy was given; an expression needs at least one; pass energies")
    found = {domain for domain in domains if domain != real()}
    if len(found) > 1:
        raise ValueError(
            f"energies on different domains were combined ({', '.join(map(str, found))}); all must "
            "share one domain; build them with the same domain"
        )
    return next(iter(found), real())


class OperandError(TypeError, ValueError):
    """An operand that no expression takes: a TypeError to Python, a ValueError as any mistake."""


def read_factor(what: str, value: object) -> float:
    """Return a number that multiplies or divides an energy; raise OperandError for other values."""
    try:
        return read_number(what, value)
    except ValueError as error:
        raise OperandError(str(error)) from None


def read_condition(c: object) -> Tensor:
    """Return a condition as a tensor; raise ValueError for what is none."""
    try:
        return torch.as_tensor(c, dtype=torch.float64 if isinstance(c, float) else None)
    except (RuntimeError, TypeError, ValueError):
        raise ValueError(
            f"the condition is a {type(c).__name__}; it must be labels (B,), soft labels (B, K) or "
            "noise levels (B,), or one value for all; pass a tensor"
        ) from None


# ---- sums ---------------------------------------------------------------------------------------

Terms = Sequence[tuple["Energy", float]]  # terms of a sum with weights other than 0


def is_single(terms: Terms) -> bool:
    """Tell whether terms are one energy as it is, of weight 1."""
    return len(terms) == 1 and terms[0][1] == 1


def sum_gibbs(terms: Terms) -> Gibbs | None:
    """Compose conditionals of sum w_k E_k: log-odds add up, colorings refine each other.

    Block Gibbs of one term survives a weight other than 1 only if it takes any beta.
    """
    parts = [term.gibbs for term, _ in terms]
    known = [part for part in parts if part is not None]
    if not parts:  # the constant 0
        return Gibbs(one_hot_energy=lambda z, c=None: z.new_zeros(len(z)))
    if len(known) < len(parts):
        return None
    if len(terms) == 1:
        return _scale_gibbs(known[0], terms[0][1])
    weights = [weight for _, weight in terms]
    return Gibbs(
        coloring=_refine([part.coloring for part in known]),
        conditional=_add([part.conditional for part in known], weights),
        one_hot_energy=_add([part.one_hot_energy for part in known], weights),
    )


def _scale_gibbs(gibbs: Gibbs, weight: float) -> Gibbs:
    if weight == 1:
        return gibbs

    def sweep(*args: Any, beta: float = 1.0, **options: Any) -> Tensor:
        assert gibbs.sweep is not None
        return gibbs.sweep(*args, beta=beta * weight, **options)

    return replace(
        gibbs,
        conditional=_add([gibbs.conditional], [weight]),
        one_hot_energy=_add([gibbs.one_hot_energy], [weight]),
        sweep=sweep if gibbs.sweep is not None and gibbs.any_beta else None,
        energy_from=_add([gibbs.energy_from], [weight]),
    )


def _add(
    functions: Sequence[Callable[..., Tensor] | None], weights: Sequence[float]
) -> Callable[..., Tensor] | None:
    """Return the weighted sum of functions of the same arguments; None if one is missing."""
    present = [function for function in functions if function is not None]
    if len(present) < len(functions):
        return None

    def add_values(*args: Any, **options: Any) -> Tensor:
        return add_up(weights, [function(*args, **options) for function in present])

    return add_values


def add_up(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return sum_k w_k values[k]; a single value of weight 1 is returned as it is."""
    weighted = [value if w == 1 else w * value for w, value in zip(weights, values, strict=True)]
    if len(weighted) == 1:
        return weighted[0]
    return torch.stack(weighted).sum(0)


def _refine(colorings: Sequence[Tensor | None]) -> Tensor | None:
    """Return the coarsest coloring that refines all: sites share a color if they do in each."""
    found = colorings[0]
    for other in colorings[1:]:
        if found is None or other is None:
            return None
        pairs = (found.unsqueeze(1) & other.to(found.device)).flatten(0, 1)
        found = pairs[pairs.flatten(1).any(1)]  # asks a GPU once
    return found


def sum_paths(terms: Terms) -> Paths | None:
    """Hand on the paths of a single term of weight 1; any other sum ends elsewhere."""
    if not is_single(terms):
        return None
    return terms[0][0].paths


def sum_latent(terms: Terms) -> Latent | None:
    """Hand on the data in points; means and marginals of latent units only with weight 1."""
    if is_single(terms):
        return terms[0][0].latent
    return _share_data(term for term, _ in terms)


def _share_data(terms: Iterable["Energy"]) -> Latent | None:
    found = [term.latent for term in terms if term.latent is not None]
    known = [latent for latent in found if latent.data_domain is not None]
    if not known or any(latent.data_domain != known[0].data_domain for latent in known):
        return None
    return known[0].data_only()


def sum_condition(terms: Terms) -> Condition | None:
    """Compose the condition of sum w_k E_k, all terms of which are passed the same c.

    Labels: class energies add up, a term without labels counting for every class alike. Noise: one
    term that takes a noise level suffices; `start` and `denoised` of terms are not the sum's.
    """
    conditions = [term.condition for term, _ in terms if term.condition is not None]
    if not conditions:
        return None
    if is_single(terms):
        return conditions[0]
    noise = [part for part in conditions if isinstance(part, NoiseCondition)]
    labels = [part for part in conditions if isinstance(part, LabelCondition)]
    if noise and labels:
        return None
    if noise:
        return share_targets(noise)
    if any(part.classes != labels[0].classes for part in labels):
        return None

    def class_energies(x: Tensor) -> Tensor:
        values = [expand_classes(term, x, labels[0].classes) for term, _ in terms]
        return add_up([w for _, w in terms], values)

    return LabelCondition(labels[0].classes, class_energies)


def share_targets(parts: Sequence[NoiseCondition]) -> NoiseCondition | None:
    """Return the noise condition of an expression; None if its parts are given other channels."""
    first = parts[0]
    if any(part.conditioning_channels != first.conditioning_channels for part in parts):
        return None
    return NoiseCondition(
        conditioning_channels=first.conditioning_channels, target_mask=first.target_mask
    )


def expand_classes(energy: "Energy", x: Tensor, classes: int) -> Tensor:
    """Return E(x, y) for every y (B, K), K times E(x) of an energy without labels."""
    labels = labels_of(energy)
    if labels is None:
        return energy(x).unsqueeze(1).expand(-1, classes)
    return labels.class_energies(x)


def join_learners(terms: Sequence["Energy"]) -> Learner | None:
    """Compose what training asks: each term with a learner is asked in turn."""
    known = [term.learner for term in terms if term.learner is not None]
    if len(known) < 2:
        return next(iter(known), None)
    return Learner(
        _in_turn([part.init_from_data for part in known]),
        _in_turn([part.update_offsets for part in known]),
        _in_turn([part.center_gradients for part in known]),
    )


def _in_turn(calls: Sequence[Callable[..., None] | None]) -> Callable[..., None] | None:
    present = [call for call in calls if call is not None]
    if not present:
        return None

    def call_all(*args: Tensor | None) -> None:
        for call in present:
            call(*args)

    return call_all


# ---- mixtures -----------------------------------------------------------------------------------


def mix(weights: Sequence[float], values: Sequence[Tensor]) -> Tensor:
    """Return -log sum_k w_k exp(-values[k])."""
    stacked = torch.stack(list(values))
    shape = (-1,) + (1,) * (stacked.dim() - 1)
    return -torch.logsumexp(log_weights(weights, stacked).view(shape) - stacked, 0)


def log_weights(weights: Sequence[float], like: Tensor) -> Tensor:
    """Return the logs of weights (K,) in the dtype and on the device of `like`."""
    return constant(tuple(map(float, weights)), like.dtype, like.device).log()


def mix_gibbs(terms: Terms) -> Gibbs | None:
    """Compose one-hot energies; all sites of a mixture meet: conditionals do not compose."""
    if is_single(terms):
        return terms[0][0].gibbs
    parts = [gibbs_of(term).one_hot_energy for term, _ in terms]
    if any(part is None for part in parts):
        return None

    def one_hot_energy(z: Tensor, c: ConditionLike = None) -> Tensor:
        return mix([w for _, w in terms], [part(z, c) for part in parts if part is not None])

    return Gibbs(one_hot_energy=one_hot_energy)


def mix_condition(terms: Terms) -> Condition | None:
    """Compose the condition of a mixture, class by class; as `sum_condition` otherwise."""
    found = sum_condition(terms)
    if not isinstance(found, LabelCondition) or is_single(terms):
        return found

    def class_energies(x: Tensor) -> Tensor:
        values = [expand_classes(term, x, found.classes) for term, _ in terms]
        return mix([w for _, w in terms], values)

    return LabelCondition(found.classes, class_energies)


# ---- a bound condition --------------------------------------------------------------------------


def given_gibbs(gibbs: Gibbs | None, bind: Bind) -> Gibbs | None:
    """Bind the condition of conditionals, one-hot energies and block Gibbs."""
    if gibbs is None:
        return None

    def sweep(x: Tensor, *args: Any, **options: Any) -> Tensor:
        assert gibbs.sweep is not None
        return gibbs.sweep(x, *args, **options, c=bind(x))

    return replace(
        gibbs,
        conditional=bind_last(gibbs.conditional, bind),
        one_hot_energy=bind_last(gibbs.one_hot_energy, bind),
        sweep=None if gibbs.sweep is None else sweep,
        energy_from=bind_last(gibbs.energy_from, bind),
    )


def bind_last(function: Callable[..., Tensor] | None, bind: Bind) -> Callable[..., Tensor] | None:
    """Return the function with its last argument c bound; its first one counts the rows."""
    if function is None:
        return None

    def bind_and_call(x: Tensor, *args: Tensor) -> Tensor:
        return function(x, *args, bind(x))

    return bind_and_call


def given_latent(latent: Latent | None, bind: Bind) -> Latent | None:
    """Bind the condition of hidden means; marginals sum over conditions and are refused."""
    if latent is None:
        return None
    return replace(
        latent,
        marginal=None,
        hidden_marginal=None,
        hidden_mean=bind_last(latent.hidden_mean, bind),
    )
