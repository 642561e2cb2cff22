"""Energies of vectors: a multilayer perceptron."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.energy import ConditionLike, Energy, NoiseCondition
from lowland.energy.sizes import read_flag, read_sizes
from lowland.nets.class_energy import ClassEnergy, condition_for, pick, pick_slopes
from lowland.nets.perceptron import Scratch, heads_and_slopes, perceptron
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number


def to_unit_box(x: Tensor, domain: Domain) -> Tensor:
    """Map points x (B, *event) from the domain's box to [−1, 1]; the identity without a box."""
    if domain.kind != "box":
        return x
    return (x - (domain.lo + domain.hi) / 2) * unit_box_factor(domain)


def unit_box_factor(domain: Domain) -> float:
    """Return the slope of `to_unit_box`: 2 / width of a box, else 1."""
    return 2 / (domain.hi - domain.lo) if domain.kind == "box" else 1.0


def add_bowl(heads: Tensor, z: Tensor, weight: float) -> Tensor:
    """Return heads (B, K) + weight/2 ‖z‖², for z (B, *event) in the units of `to_unit_box`."""
    if not weight:
        return heads
    return heads + weight / 2 * z.square().flatten(1).sum(1, keepdim=True)


def flat_size(domain: Domain) -> int:
    """Count the numbers in an event. Raises ValueError for a domain without an event shape."""
    if not domain.shape:
        raise ValueError(
            "the domain has no event shape; a network needs to know its input; pass for example "
            "real(2)"
        )
    return math.prod(domain.shape)


@register("energy")
class MLP(ClassEnergy):
    """Multilayer perceptron energy of an event of any shape (it is flattened).

        E(x, c) = s · net(z)_c + a/2 ‖z‖²,    z = x mapped from its box, if any, to [−1, 1]

    hidden: widths of the SiLU layers; classes: heads, 0 for none (see `class_energy`);
    quadratic_weight: a, above 0 makes the energy normalisable on the real line; scale: s, the unit
    of energy the network starts from; spectral_norm: spectral norm on all layers.

    >>> import torch
    >>> from lowland.domain import real
    >>> MLP(real(2), hidden=(8,))(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | Plain,
        hidden: Sequence[int] = (128, 128),
        classes: int = 0,
        quadratic_weight: float = 0.0,
        scale: float = 1.0,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__(domain)
        self.hidden = read_sizes("hidden", hidden)
        self.classes = read_integer("classes", classes, least=0)
        self.quadratic_weight = read_number("quadratic_weight", quadratic_weight, least=0)
        self.scale = read_number("scale", scale, above=0)
        self.spectral_norm = read_flag("spectral_norm", spectral_norm)
        widths = [flat_size(self.domain), *self.hidden, max(self.classes, 1)]
        self.net = perceptron(widths, self.spectral_norm)
        self.scratch = Scratch()

    def class_energies(self, x: Tensor) -> Tensor:
        z = to_unit_box(x, self.domain).flatten(1)
        return add_bowl(self.scale * self.net(z), z, self.quadratic_weight)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores of x, the gradient written by hand (nets.perceptron)."""
        z = to_unit_box(x, self.domain).flatten(1)
        c = condition_for(c, max(self.classes, 1), z)
        heads, slopes = self._by_hand(z, c, heads=True)
        value = pick(self.scale * heads, c)
        if self.quadratic_weight:
            bowl = (_weigh(z, c) * z).sum(1)
            value = torch.add(value, bowl, alpha=self.quadratic_weight / 2)
        return value, slopes.view_as(x)

    def score(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return scores (B, *event) of x without computing energies."""
        z = to_unit_box(x, self.domain).flatten(1)
        c = condition_for(c, max(self.classes, 1), z)
        return self._by_hand(z, c, heads=False)[1].view_as(x)

    def _by_hand(self, z: Tensor, c: Tensor | None, heads: bool) -> tuple[Tensor, Tensor]:
        """Return heads (B, K) if wanted, and scores (B, D) with the quadratic term."""

        def seed(found: Tensor, rows: slice) -> Tensor:
            return pick_slopes(self.scale * found, c if c is None else c[rows])

        widen = -unit_box_factor(self.domain)
        weight = widen * self.quadratic_weight
        soft = _is_soft(c)  # the bowl is in every head, and soft labels need not add up to one
        found, slopes = heads_and_slopes(
            self.net,
            z,
            seed if self.classes else None,
            self.scratch,
            heads=heads,
            factor=widen * self.scale,
            pull=weight * (not soft),
        )
        if soft and weight:
            slopes.add_(_weigh(z, c), alpha=weight)
        return found, slopes


def _is_soft(c: Tensor | None) -> bool:
    return c is not None and c.dim() == 2


def _weigh(z: Tensor, c: Tensor | None) -> Tensor:
    """Return z (B, D), each row times the sum of its soft labels c (B, K), if such are given."""
    if c is None or c.dim() != 2:
        return z
    return z * c.to(z.dtype).sum(1, keepdim=True)


def noise_levels(c: ConditionLike, x: Tensor) -> Tensor:
    """Expand noise levels c, one for all rows of x or each, to (B,); ValueError for None."""
    if c is None:
        raise ValueError(
            "this energy needs a noise level; it learned E(x, σ); bind one with energy.given(sigma)"
        )
    return torch.as_tensor(c, dtype=x.dtype, device=x.device).expand(len(x))


@register("energy")
class NoiseMLP(Energy):
    """Multilayer perceptron energy of a point and a noise level, for denoising score matching.

        E(x, σ) = s · net(z, log σ) / σ + a/2 ‖z‖²,    z as in MLP

    The condition c is σ, one number per row or one for all; bind it with `energy.given(0.1)` before
    sampling or scoring.

    >>> import torch
    >>> from lowland.domain import real
    >>> NoiseMLP(real(2), hidden=(8,)).given(0.1)(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | Plain,
        hidden: Sequence[int] = (128, 128),
        quadratic_weight: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(domain)
        self.hidden = read_sizes("hidden", hidden)
        self.quadratic_weight = read_number("quadratic_weight", quadratic_weight, least=0)
        self.scale = read_number("scale", scale, above=0)
        self.net = perceptron([flat_size(self.domain) + 1, *self.hidden, 1], spectral_norm=False)
        self.scratch = Scratch()

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition()

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        z = to_unit_box(x, self.domain).flatten(1)
        sigma = noise_levels(c, x)
        heads = self.net(torch.cat([z, sigma.log().unsqueeze(1)], 1))
        return self.scale * heads.squeeze(1) / sigma + self.quadratic_weight / 2 * z.square().sum(1)

    def value_and_score(self, x: Tensor, c: ConditionLike = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores of x, the gradient written by hand (nets.perceptron)."""
        z = to_unit_box(x, self.domain).flatten(1)
        sigma = noise_levels(c, x)
        inputs = torch.cat([z, sigma.log().unsqueeze(1)], 1)
        seed = (self.scale / sigma).unsqueeze(1)
        widen = -unit_box_factor(self.domain)
        heads, slopes = heads_and_slopes(
            self.net, inputs, seed, self.scratch, factor=widen, pull=widen * self.quadratic_weight
        )
        value = (heads * seed).squeeze(1) + self.quadratic_weight / 2 * z.square().sum(1)
        return value, slopes[:, :-1].reshape(x.shape)
