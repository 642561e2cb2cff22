"""Capabilities of an energy beyond its values, as five small typed objects.

Every energy has five attributes, each None unless the energy knows better:

    gibbs       Gibbs           discrete sites: coloring, conditionals, sweeps, one-hot energies
    paths       Paths           annealing paths and tempered ensembles of its own
    latent      Latent          units that data do not have
    condition   LabelCondition  class labels, or
                NoiseCondition  a noise level sigma
    learner     Learner         what training asks of it besides gradients

Callables of a capability take a condition `c` last, as `forward` does, unless noted otherwise. This
is all a newcomer may want to override; `composition` composes them for expressions.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.energy.sizes import parameter_dtype

if TYPE_CHECKING:
    from lowland.energy.algebra import Energy

# a condition as a caller may pass it: labels or noise levels, one per row or one for all
ConditionLike = Tensor | float | Sequence[float] | None


class Sweep(Protocol):
    """Block Gibbs: returns points like x after `sweeps` sweeps that keep exp(-beta E) invariant.

    beta: 1 unless the capability says `any_beta`; compiled: by a fused kernel where there is one;
    fields: what `Gibbs.fields` gave for x, if that is known.
    """

    def __call__(
        self,
        x: Tensor,
        sweeps: int,
        generator: torch.Generator,
        *,
        beta: float = 1.0,
        compiled: bool = False,
        fields: Tensor | None = None,
        c: ConditionLike = None,
    ) -> Tensor: ...


@dataclass(frozen=True)
class Gibbs:
    """Conditionals of sites, and block Gibbs.

    coloring: bool (n, *event), each site in one color, sites of one color independent given the
    others; None: a color for each site. conditional(x, c): log-odds (B, *event) on binary domains,
    log-probabilities up to a constant (B, *event, K) on categorical ones; None: by differences of
    energies. one_hot_energy(z, c): energies of floats z (B, *event, K), equal to those of x at
    z = one_hot(x), for samplers that follow gradients on categorical domains. sweep: see `Sweep`;
    any_beta: whether it takes a beta other than 1. fields(x): (B, n), what energy and sweep compute
    first of a point, which `energy_from(x, fields, c)` and `sweep` take so that nothing is computed
    twice; samplers carry it in their state.
    """

    coloring: Tensor | None = None
    conditional: Callable[..., Tensor] | None = None
    one_hot_energy: Callable[..., Tensor] | None = None
    sweep: Sweep | None = None
    any_beta: bool = False
    fields: Callable[[Tensor], Tensor] | None = None
    energy_from: Callable[..., Tensor] | None = None

    @property
    def draws(self) -> bool:
        """Tell whether sites can be drawn without differences of energies."""
        return self.conditional is not None or self.sweep is not None


@dataclass(frozen=True)
class Paths:
    """Annealing paths and tempered ensembles that an energy makes itself.

    path_from(base, betas): energies from a base (beta 0) to this energy (beta 1); None for a base
    from which it has no path. at_temperatures(betas, size): one energy of R * size rows, block r at
    inverse temperature betas[r], this energy itself at 1.
    """

    path_from: Callable[["Energy", Sequence[float]], "list[Energy] | None"]
    at_temperatures: Callable[[Tensor, int], "Energy"]


@dataclass(frozen=True)
class Latent:
    """Units that data do not have, either in the points (`data_domain`) or summed out.

    data_domain: of data, where points hold more units than data do, else None; visible(x): data in
    points x; impute(x, generator): points from data, other units at means or draws;
    sample_latents(x, generator): the same by draws alone; marginal(): an energy of data alone;
    hidden_marginal(): an energy of hidden units alone, with the same Z; hidden_mean(x, c):
    E[h | x] (B, n_hidden).
    """

    data_domain: Domain | None = None
    visible: Callable[[Tensor], Tensor] | None = None
    impute: Callable[[Tensor, torch.Generator], Tensor] | None = None
    sample_latents: Callable[[Tensor, torch.Generator], Tensor] | None = None
    marginal: Callable[[], "Energy"] | None = None
    hidden_marginal: Callable[[], "Energy"] | None = None
    hidden_mean: Callable[..., Tensor] | None = None

    def data_only(self) -> "Latent | None":
        """Return what is left under another energy of the same points: where the data are."""
        if self.data_domain is None:
            return None
        return Latent(data_domain=self.data_domain, visible=self.visible)


@dataclass(frozen=True)
class LabelCondition:
    """`forward(x, c)` takes labels (B,) or soft labels (B, K).

    classes: K; class_energies(x): E(x, y) for every y (B, K); class_logits(x): log p(y | x) up to a
    constant of x, where that is cheaper or more exact than -class_energies; ancestral: p(x | y) is
    best drawn as x from p(x) and y from p(y | x), kept where y fits.
    """

    classes: int
    class_energies: Callable[[Tensor], Tensor]
    class_logits: Callable[[Tensor], Tensor] | None = None
    ancestral: bool = False

    def logits(self, x: Tensor) -> Tensor:
        """Return log p(y | x) up to a constant of x, (B, K)."""
        if self.class_logits is not None:
            return self.class_logits(x)
        return -self.class_energies(x)


@dataclass(frozen=True)
class NoiseCondition:
    """`forward(x, sigma)` takes the standard deviation of noise on x, (B,) or one for all.

    start(count, sigma, generator): draws (count, *event) near the distribution at a large sigma;
    denoised(x, sigma): a guess of the clean points (B, *event); conditioning_channels: entries
    along the first axis of an event that are given rather than modelled; target_mask: bool, True at
    the others, None where all are modelled.
    """

    start: Callable[[int, float, torch.Generator], Tensor] | None = None
    denoised: Callable[..., Tensor] | None = None
    conditioning_channels: tuple[int, ...] = ()
    target_mask: Tensor | None = None


Condition = LabelCondition | NoiseCondition


@dataclass(frozen=True)
class Learner:
    """Calls that training makes on an energy.

    init_from_data(x): called once before the first update with the training data; update_offsets(x,
    fields): let running means follow a batch, `fields` as in `Gibbs` if known; center_gradients():
    turn the gradients in `.grad` into centred ones.
    """

    init_from_data: Callable[[Tensor], None] | None = None
    update_offsets: Callable[..., None] | None = None
    center_gradients: Callable[[], None] | None = None


# ---- questions ----------------------------------------------------------------------------------


def labels_of(energy: "Energy") -> LabelCondition | None:
    """Return the energy's condition if it takes labels."""
    found = energy.condition
    return found if isinstance(found, LabelCondition) else None


def noise_of(energy: "Energy") -> NoiseCondition | None:
    """Return the energy's condition if it takes a noise level."""
    found = energy.condition
    return found if isinstance(found, NoiseCondition) else None


def count_classes(energy: "Energy") -> int:
    """Return the number of classes whose labels the energy takes, 0 without."""
    labels = labels_of(energy)
    if labels is None:
        return 0
    return labels.classes


def given_channels(energy: "Energy") -> tuple[int, ...]:
    """Return the entries along the first axis of an event that the energy is given."""
    noise = noise_of(energy)
    if noise is None:
        return ()
    return noise.conditioning_channels


def draw_start(
    energy: "Energy",
    count: int,
    sigma: float,
    generator: torch.Generator,
    *,
    shape: Sequence[int] = (),
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Draw points (count, *event) to begin at a large noise level: where the energy says, or N(0,
    sigma^2).

    shape: of an event, if the domain leaves it open; dtype: that of the energy unless given.
    """
    dtype = dtype or parameter_dtype(energy)
    noise = noise_of(energy)
    if noise is not None and noise.start is not None:
        return noise.start(count, sigma, generator).to(dtype)
    size, device = (count, *(energy.domain.shape or shape)), generator.device
    return sigma * torch.randn(size, generator=generator, device=device, dtype=dtype)


def gibbs_of(energy: "Energy") -> Gibbs:
    """Return the Gibbs capability of an energy, an empty one if it has none."""
    return energy.gibbs or Gibbs()


def latent_of(energy: "Energy") -> Latent:
    """Return the latent capability of an energy, an empty one if it has none."""
    return energy.latent or Latent()


def learner_of(energy: "Energy") -> Learner:
    """Return the learner capability of an energy, an empty one if it has none."""
    return energy.learner or Learner()


def data_domain(energy: "Energy") -> Domain:
    """Return the domain of data: that of the points, unless these hold more units than data do."""
    return latent_of(energy).data_domain or energy.domain
