"""Energies and their algebra.

An energy maps points to numbers, low where points are likely:

    p(x) = exp(−E(x)) / Z,      E : (B, *event) → (B,)

Energies form an algebra, and most things people do with several models are expressions in it:

    a + b            both        p ∝ p_a · p_b                 (product of experts; conjunction)
    mixture(a, b)    either      p ∝ w_a e^{−a} + w_b e^{−b}   (sum of unnormalised densities; disjunction)
    w * a, a / T     sharper or flatter: exp(−a / T) is a at temperature T
    a - b, -a        away from b; only together with something that confines
    a.given(c)       the condition bound: a function of x alone. Samplers never see a condition.

One energy has two uses. *Scoring* (`energy_values`) builds no graph. *Sampling* (`value_and_score`) takes gradients with
respect to x only. Both run with the module in eval mode and its weights frozen (`frozen`) and leave no trace on it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from lowland.domain import Domain, real


class Energy(nn.Module):
    """A function from points (B, *event) to energies (B,), with a domain. Subclass it and write `forward(x, c=None)`.

    domain: event shape and support; `real()` without sizes takes every shape.

    >>> import torch, lowland
    >>> bowl = lowland.Function(lambda x: 0.5 * x.square().sum(1))
    >>> (bowl + 2 * bowl)(torch.ones(3, 2))
    tensor([3., 3., 3.])
    """

    def __init__(self, domain: Domain | dict[str, Any] | None = None) -> None:
        super().__init__()
        self.domain = Domain.from_dict(domain) if isinstance(domain, dict) else domain or real()

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        """Energies (B,) of points (B, *event); c is a condition, one per row or one for all."""
        raise NotImplementedError

    def given(self, c: Any) -> "Given":
        """The energy with its condition bound: labels (B,), soft labels (B, K), noise levels, or one value for all."""
        return Given(self, c)

    def __add__(self, other: "Energy") -> "Sum":
        return Sum([self, other]) if isinstance(other, Energy) else NotImplemented

    def __sub__(self, other: "Energy") -> "Sum":
        return Sum([self, other], [1.0, -1.0]) if isinstance(other, Energy) else NotImplemented

    def __mul__(self, weight: float) -> "Sum":
        return Sum([self], [float(weight)]) if isinstance(weight, (int, float)) else NotImplemented

    __rmul__ = __mul__

    def __truediv__(self, temperature: float) -> "Sum":
        if not isinstance(temperature, (int, float)):
            return NotImplemented
        if not temperature > 0:
            raise ValueError(f"the temperature is {temperature}; it must be above 0; use -energy to turn an energy over")
        return Sum([self], [1.0 / temperature])

    def __neg__(self) -> "Sum":
        return Sum([self], [-1.0])


class Function(Energy):
    """Any callable (B, *event) → (B,) as an energy; an nn.Module keeps its weights.

    >>> import torch
    >>> Function(lambda x: x.abs().sum(1))(torch.tensor([[1.0, -2.0]]))
    tensor([3.])
    """

    def __init__(self, function: Callable[..., Tensor], domain: Domain | None = None) -> None:
        if not callable(function):
            raise ValueError(f"a {type(function).__name__} was given; Function takes a callable; pass x -> energies")
        super().__init__(domain)
        self.function = function

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return self.function(x) if c is None else self.function(x, c)


class Sum(Energy):
    """Σ w_k E_k: what `+ − * /` build. Nested sums are flattened, so (a + b) − a / 2 is one sum of three terms.

    Raises ValueError when the domains differ.
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        super().__init__(_common_domain(energies))
        weights = [1.0] * len(energies) if weights is None else list(weights)
        terms: list[Energy] = []
        factors: list[float] = []
        for energy, weight in zip(energies, weights, strict=True):
            if isinstance(energy, Sum):
                terms += [cast(Energy, term) for term in energy.energies]
                factors += [weight * w for w in energy.weights]
            else:
                terms.append(energy)
                factors.append(weight)
        self.energies: nn.ModuleList = nn.ModuleList(terms)
        self.weights: tuple[float, ...] = tuple(factors)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        values = [w * energy(x, c) for energy, w in zip(self.energies, self.weights, strict=True)]
        return torch.stack(values).sum(0) if len(values) > 1 else values[0]


class Mixture(Energy):
    """−log Σ w_k exp(−E_k): a mixture of the *unnormalised* densities.

    A component counts by w_k Z_k, so shift energies by their log Z (or calibrate them) when shares matter.
    """

    def __init__(self, energies: Sequence[Energy], weights: Sequence[float] | None = None) -> None:
        super().__init__(_common_domain(energies))
        self.weights = tuple(weights) if weights is not None else (1.0 / len(energies),) * len(energies)
        if len(self.weights) != len(energies) or min(self.weights) <= 0:
            raise ValueError(
                f"{len(energies)} energies were mixed with the weights {self.weights}; each needs one weight above 0; "
                f"leave the weights out for equal ones"
            )
        self.energies = nn.ModuleList(energies)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        values = torch.stack([energy(x, c) for energy in self.energies])
        shape = (-1,) + (1,) * (values.dim() - 1)
        log_weights = values.new_tensor(self.weights).log().view(shape)
        return -torch.logsumexp(log_weights - values, 0)


def mixture(*energies: Energy, weights: Sequence[float] | None = None) -> Mixture:
    """Either of several energies: −log Σ w_k exp(−E_k). Equal weights unless given.

    >>> import torch
    >>> left, right = (Function(lambda x, m=m: (x - m).square().sum(1)) for m in (-2.0, 2.0))
    >>> both = mixture(left, right)(torch.tensor([[-2.0], [2.0]]))
    >>> bool((both[0] - both[1]).abs() < 1e-6)
    True
    """
    return Mixture(energies, weights)


class Given(Energy):
    """An energy with its condition bound. A tensor with rows must have as many rows as the batch; a number serves all."""

    def __init__(self, energy: Energy, c: Any) -> None:
        super().__init__(energy.domain)
        self.energy = energy
        with torch.inference_mode(False):
            bound = torch.as_tensor(c, dtype=torch.float64) if isinstance(c, float) else torch.as_tensor(c)
            self.register_buffer("c", bound.clone() if bound.is_inference() else bound, persistent=False)

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        if c is not None:
            raise ValueError("a condition was passed to an energy that has one bound; pass x alone; bind only once")
        bound = cast(Tensor, self.c)
        if bound.dim() == 0:
            bound = bound.expand(len(x))
        elif len(bound) == 1:
            bound = bound.expand(len(x), *bound.shape[1:])
        elif len(bound) != len(x):
            raise ValueError(
                f"{len(x)} points met a condition of {len(bound)} rows; the condition needs one row per point or one "
                f"row for all; bind it anew with energy.given(c)"
            )
        return self.energy(x, bound.to(x) if bound.is_floating_point() else bound.to(x.device))


def _common_domain(energies: Sequence[Energy]) -> Domain:
    if not energies:
        raise ValueError("no energy was given; an expression needs at least one; pass energies")
    found = {energy.domain for energy in energies if energy.domain != real()}
    if len(found) > 1:
        raise ValueError(
            f"energies on different domains were combined ({', '.join(map(str, found))}); all must share one domain; "
            f"build them with the same domain"
        )
    return found.pop() if found else real()


def lift(energy: Energy | Callable[..., Tensor]) -> Energy:
    """An energy as it is; any other callable as a `Function`."""
    return energy if isinstance(energy, Energy) else Function(energy)


@contextmanager
def frozen(energy: nn.Module) -> Iterator[None]:
    """Inside: eval mode, no weight requires a gradient. After, also after an exception: everything as it was."""
    modes = [(module, module.training) for module in energy.modules()]
    grads = [(p, p.requires_grad) for p in energy.parameters()]
    try:
        for module, _ in modes:
            module.training = False
        for p, _ in grads:
            p.requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for p, wanted in grads:
            p.requires_grad_(wanted)


def value_and_score(energy: Energy | Callable[..., Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    """Energies (B,) and scores ∇ log p(x) = −∇E(x) (B, *event), both detached. Works inside no_grad and inference_mode.

    The module runs in eval mode with frozen weights and is afterwards as it was.

    >>> import torch
    >>> value_and_score(lambda x: 0.5 * x.square().sum(1), torch.tensor([[1.0, 2.0]]))
    (tensor([2.5000]), tensor([[-1., -2.]]))
    """
    energy = lift(energy)
    with frozen(energy):
        return differentiate(energy, x)


def differentiate(energy: Energy, x: Tensor) -> tuple[Tensor, Tensor]:
    """`value_and_score` for those who have frozen the energy already, as the sampler loop has.

    The *sum* of the energies is differentiated: a mean would divide every gradient by the batch.
    """
    with torch.inference_mode(False), torch.enable_grad():
        leaf = x.clone() if x.is_inference() else x.detach()
        leaf = leaf.requires_grad_(True)
        value = _check_shape(energy(leaf), leaf)
        if not value.requires_grad:  # constant in x, as a sum of no terms may be
            return value.detach(), torch.zeros_like(leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), -gradient  # not in place: the gradient may belong to the energy


def energy_values(energy: Energy | Callable[..., Tensor], x: Tensor, c: Any = None, *, batch_size: int = 1024) -> Tensor:
    """Score points: energies (N,) of x (N, *event), without a graph, in eval mode, in batches.

    c: a condition with N rows, or one value for all. The module is left as it was.

    >>> import torch
    >>> energy_values(lambda x: x.square().sum(1), torch.ones(3, 2))
    tensor([2., 2., 2.])
    """
    energy = lift(energy)
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; it must be at least 1; leave it out for 1024")
    c = _condition_rows(c, x)
    found = []
    with frozen(energy), torch.no_grad():
        for i in range(0, max(len(x), 1), batch_size):
            part = x[i : i + batch_size]
            value = energy(part) if c is None else energy(part, c[i : i + batch_size])
            found.append(_check_shape(value, part))
    return torch.cat(found)


def _condition_rows(c: Any, x: Tensor) -> Tensor | None:
    """The condition with one row per point; a number or a single row is repeated."""
    if c is None:
        return None
    c = torch.as_tensor(c, device=x.device)
    if c.dim() == 0 or len(c) == 1:
        return c.expand(len(x), *c.shape[1:])
    if len(c) != len(x):
        raise ValueError(
            f"{len(x)} points came with a condition of {len(c)} rows; it needs one row per point or one for all; match them"
        )
    return c


def _check_shape(value: Any, x: Tensor) -> Tensor:
    if not isinstance(value, Tensor) or value.shape != (len(x),):
        got = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ValueError(
            f"the energy gave {got} for {len(x)} points; it must give one number per point, shape ({len(x)},); "
            f"sum over the event, for example with .flatten(1).sum(1)"
        )
    return value


def check_energy(energy: Energy | Callable[..., Tensor], x: Tensor, c: Any = None) -> Energy:
    """The public door: lift a callable and make sure that it is an energy. Returns the Energy.

    Checks, on x (B, *event): floating point input of the domain's event shape inside its support, one number per point,
    same device and floating dtype, finite values, and independence: moving one row must not move the energy of another
    (batch norm in training mode and sums over the batch fail here). Weights, buffers and mode stay as they were.

    Raises ValueError in three clauses otherwise.

    >>> import torch
    >>> check_energy(lambda x: x.square().sum(), torch.ones(3, 2))
    Traceback (most recent call last):
        ...
    ValueError: the energy gave () for 3 points; it must give one number per point, shape (3,); sum over the event, ...
    """
    energy = lift(energy)
    check_points(energy, x)
    value = _check_shape(_leaving_buffers(energy, x, c), x)
    check_values(value, x)
    check_independent(energy, x, value, c)
    return energy


def check_values(value: Tensor, x: Tensor) -> None:
    """Refuse energies that are not finite floating point numbers on the device of the points."""
    check_finite(value, "energies")
    if value.device != x.device or not value.is_floating_point():
        raise ValueError(
            f"energies are {value.dtype} on {value.device} for points on {x.device}; they must be floating point on the "
            f"device of the points; move the energy with .to(x.device)"
        )


def check_independent(energy: Energy, x: Tensor, value: Tensor, c: Any = None) -> None:
    """Refuse an energy in which moving the last point moves the energies of others; value: the energies at x."""
    if len(x) < 2:
        return
    moved = torch.cat([x[:-1], energy.domain.elsewhere(x[-1:])])
    again = _leaving_buffers(energy, moved, c)
    if not torch.allclose(value[:-1], again[:-1], rtol=1e-3, atol=1e-4):
        raise ValueError(
            "moving one point changed the energy of another; an energy treats every point by itself; put batch norm in "
            "eval mode or replace it, and sum over the event only"
        )


def _leaving_buffers(energy: Energy, x: Tensor, c: Any) -> Tensor:
    """Energies without a graph, in the module's present mode, its buffers put back as they were."""
    buffers = [(b, b.clone()) for b in energy.buffers()] if any(m.training for m in energy.modules()) else []
    with torch.no_grad():
        try:
            return energy(x) if c is None else energy(x, c)
        finally:
            for buffer, before in buffers:
                buffer.copy_(before)


def check_points(energy: Energy, x: Tensor) -> None:
    """Refuse points that the energy's domain cannot hold: dtype, event shape, non-finite values, outside the walls."""
    domain = energy.domain
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.dim() < 1 or len(x) == 0:
        got = f"{x.dtype} of shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"points came as {got}; a floating point tensor (B, *event) with B > 0 is needed; convert it")
    if domain.shape and tuple(x.shape[1:]) != domain.shape:
        raise ValueError(
            f"points have event shape {tuple(x.shape[1:])}; the energy takes {domain.shape}; reshape them, batch first"
        )
    check_finite(x, "points")
    outside = int((~domain.contains(x)).sum())
    if outside:
        raise ValueError(
            f"{outside} of {len(x)} points lie outside the domain; allowed is {domain}; clamp or rescale them first"
        )


def check_finite(values: Tensor, what: str) -> None:
    """Raise ValueError with a count if any row holds a non-finite number."""
    bad = int((~torch.isfinite(values)).flatten(1).any(1).sum()) if values.dim() > 1 else int((~values.isfinite()).sum())
    if bad:
        raise ValueError(f"{bad} of {len(values)} {what} are not finite; all must be; look for overflow or missing data")


def check_normalisable(energy: Energy) -> None:
    """Refuse −E on an unbounded domain: exp(E) has no normaliser there unless something confines it."""
    negative = isinstance(energy, Sum) and all(w <= 0 for w in energy.weights)
    if negative and energy.domain.kind == "real":
        raise ValueError(
            "a negated energy on an unbounded domain has no normaliser; it needs a confining partner or a box; "
            "add one, for example gaussian - energy, or use domain.box"
        )
