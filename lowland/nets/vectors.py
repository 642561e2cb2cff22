"""Energies of vectors: a multilayer perceptron."""

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.energy import Energy, NoiseCondition
from lowland.nets.class_energy import ClassEnergy, pick, pick_slopes
from lowland.nets.perceptron import Scratch, heads_and_slopes, perceptron
from lowland.registry import register


def stretched(x: Tensor, domain: Domain) -> Tensor:
    """x stretched from its box to [−1, 1]; elsewhere as it is. Networks like inputs around zero."""
    if domain.kind != "box":
        return x
    return (x - (domain.lo + domain.hi) / 2) * stretch(domain)


def stretch(domain: Domain) -> float:
    """By how much `stretched` does so: 2 / width of a box, else 1."""
    return 2 / (domain.hi - domain.lo) if domain.kind == "box" else 1.0


def flat_size(domain: Domain) -> int:
    """Numbers in an event. Raises ValueError for a domain without an event shape."""
    if not domain.shape:
        raise ValueError(
            "the domain has no event shape; a network needs to know its input; pass for example "
            "real(2)"
        )
    return math.prod(domain.shape)


def check_widths(name: str, hidden: Sequence[int], **others: float) -> None:
    """Refuse sizes that make no network: widths must be positive, the other numbers at least 0."""
    if not hidden or min(hidden) < 1 or not all(0 <= value < math.inf for value in others.values()):
        raise ValueError(
            f"{name} was given widths {tuple(hidden)} and {others}; widths must be positive whole "
            "numbers and the others at least 0; correct them"
        )


@register("energy")
class MLP(ClassEnergy):
    """Multilayer perceptron energy of an event of any shape (it is flattened).

        E(x, c) = s · net(z)_c + a/2 ‖z‖²,    z = x stretched from its box, if it has one, to [−1,
                                              1]

    hidden: widths of the SiLU layers; classes: heads, 0 for none (see nets.conditions);
    quadratic_weight: a, above 0 makes the energy normalisable on the real line; scale: s, the unit
    of energy the network starts from; spectral_norm: spectral norm on all layers.

    >>> import torch
    >>> from lowland.domain import real
    >>> MLP(real(2), hidden=(8,))(torch.zeros(3, 2)).shape
    torch.Size([3])
    """

    def __init__(
        self,
        domain: Domain | dict[str, Any],
        hidden: Sequence[int] = (128, 128),
        classes: int = 0,
        quadratic_weight: float = 0.0,
        scale: float = 1.0,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__(domain)
        check_widths("MLP", hidden, classes=classes, quadratic_weight=quadratic_weight)
        self.hidden, self.classes, self.quadratic_weight = tuple(hidden), classes, quadratic_weight
        self.scale, self.spectral_norm = scale, spectral_norm
        self.net = perceptron([flat_size(self.domain), *hidden, max(classes, 1)], spectral_norm)
        self.scratch = Scratch()

    def class_energies(self, x: Tensor) -> Tensor:
        z = stretched(x, self.domain).flatten(1)
        heads = self.scale * self.net(z)
        return (
            heads + self.quadratic_weight / 2 * z.square().sum(1, keepdim=True)
            if self.quadratic_weight
            else heads
        )

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores of x, the gradient written by hand (nets.perceptron)."""
        value, score = self._by_hand(x, c, heads=True)
        return cast(Tensor, value), score

    def score(self, x: Tensor, c: Any = None) -> Tensor:
        """Return scores without computing energies."""
        return self._by_hand(x, c, heads=False)[1]

    def _by_hand(self, x: Tensor, c: Any, heads: bool) -> tuple[Tensor | None, Tensor]:
        z = stretched(x, self.domain).flatten(1)

        def seed(found: Tensor, rows: slice) -> Tensor:
            return pick_slopes(self.scale * found, c if c is None or c.dim() == 0 else c[rows])

        soft = (
            c is not None and c.dim() == 2
        )  # the bowl is in every head, and soft labels need not add up to one
        widen = -stretch(self.domain)
        found, slopes = heads_and_slopes(
            self.net,
            z,
            seed if self.classes else None,
            self.scratch,
            heads=heads,
            factor=widen * self.scale,
            pull=0.0 if soft else widen * self.quadratic_weight,
        )
        value = None if found is None else pick(self.scale * found, c)
        if self.quadratic_weight:
            bowl = z * c.to(z.dtype).sum(1, keepdim=True) if soft else z
            value = (
                None
                if value is None
                else torch.add(value, (bowl * z).sum(1), alpha=self.quadratic_weight / 2)
            )
            slopes = slopes.add_(bowl, alpha=widen * self.quadratic_weight) if soft else slopes
        return value, slopes.view_as(x)


def noise_levels(c: Any, x: Tensor) -> Tensor:
    """The noise level of every row (B,), from one for all or one each. Raises ValueError for
    none.
    """
    if c is None:
        raise ValueError(
            "this energy needs a noise level; it learned E(x, σ); bind one with energy.given(sigma)"
        )
    return torch.as_tensor(c, dtype=x.dtype, device=x.device).expand(len(x))


@register("energy")
class NoiseMLP(Energy):
    """Multilayer perceptron energy of a point and a noise level, for denoising score matching at
    several levels.

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
        domain: Domain | dict[str, Any],
        hidden: Sequence[int] = (128, 128),
        quadratic_weight: float = 0.0,
        scale: float = 1.0,
    ) -> None:
        super().__init__(domain)
        check_widths("NoiseMLP", hidden, quadratic_weight=quadratic_weight)
        self.hidden, self.quadratic_weight, self.scale = tuple(hidden), quadratic_weight, scale
        self.net = perceptron([flat_size(self.domain) + 1, *hidden, 1], spectral_norm=False)
        self.scratch = Scratch()

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition()

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        z = stretched(x, self.domain).flatten(1)
        sigma = noise_levels(c, x)
        heads = self.net(torch.cat([z, sigma.log().unsqueeze(1)], 1))
        return self.scale * heads.squeeze(1) / sigma + self.quadratic_weight / 2 * z.square().sum(1)

    def value_and_score(self, x: Tensor, c: Any = None) -> tuple[Tensor, Tensor]:
        """Return energies (B,) and scores of x, the gradient written by hand (nets.perceptron)."""
        z = stretched(x, self.domain).flatten(1)
        sigma = noise_levels(c, x)
        told = torch.cat([z, sigma.log().unsqueeze(1)], 1)
        seed = (self.scale / sigma).unsqueeze(1)
        widen = -stretch(self.domain)
        heads, slopes = heads_and_slopes(
            self.net, told, seed, self.scratch, factor=widen, pull=widen * self.quadratic_weight
        )
        value = (cast(Tensor, heads) * seed).squeeze(
            1
        ) + self.quadratic_weight / 2 * z.square().sum(1)
        score = slopes[:, :-1]
        return value, score.reshape(x.shape)
