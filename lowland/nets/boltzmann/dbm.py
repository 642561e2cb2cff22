"""The deep Boltzmann machine of two hidden layers, with the first of them summed out.

    E(v, h¹, h²) = −a·v − c·h¹ − d·h² − v·W¹h¹ − h²·W²h¹

v and h² meet h¹ only, so (v, h²) are the visible units of a restricted machine with hidden units
h¹, and

    F(v, h²) = −a·v − d·h² − Σ_j log(1 + exp(c_j + (W¹ᵀv + W²ᵀh²)_j))

is exact. Block Gibbs, annealed importance sampling, the centred gradient and the certificate of log
Z are those of that machine. Only the distribution of h² given data is approximated: mean field
gives a lower bound of log p(v).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.domain import Domain, binary
from lowland.energy import ConditionLike, Energy, Gibbs, Latent, Learner, Paths
from lowland.energy.sizes import read_sizes
from lowland.nets.boltzmann.products import product, rounding
from lowland.nets.boltzmann.rbm import RBM
from lowland.nets.boltzmann.units import coins
from lowland.nets.class_energy import condition_for
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number

Climb = Callable[[Tensor, Tensor], tuple[Tensor, Tensor, Tensor]]


class MeanField(NamedTuple):
    """Probabilities of the first (B, H1) and the second (B, H2) hidden layer."""

    first: Tensor
    second: Tensor


def binary_data(domain: Domain | Plain, name: str) -> Domain:
    """Return the domain of a deep machine's data; ValueError unless binary with an event shape."""
    found = Domain.from_dict(domain) if isinstance(domain, dict) else domain
    if not isinstance(found, Domain) or found.kind != "binary" or not found.shape:
        raise ValueError(
            f"{name} came with data on {found}; its units are binary and it must know how many; "
            "pass for example binary(1, 28, 28), and binarize the data (data.binarize)"
        )
    return found


@register("energy")
class DBM(Energy):
    """Deep Boltzmann machine: the energy F(v, h²), the first hidden layer summed out.

    domain: of the data, binary of any event shape with D numbers, kept as `data_domain`; that of
    the energy is binary(D + H2), v flattened and h² behind it. n_hidden: (H1, H2); init_std:
    standard deviation of the first weights; centered: train along the centred gradient, which makes
    training layer by layer needless; iterations, tolerance: of the mean-field equations.

    Objectives impute data by mean field, and the contrast of F(v, μ²) with chains (v, h²) then
    has the gradient of the variational bound. `lowland.log_z` brackets its log Z. Raises ValueError
    for data that are not binary and sizes that make no machine. Source: Salakhutdinov & Hinton
    (2009), https://proceedings.mlr.press/v5/salakhutdinov09a.html; centered: Montavon & Müller
    (2012), https://doi.org/10.1007/978-3-642-35289-8_33

    >>> import torch, lowland
    >>> from lowland.domain import binary
    >>> dbm = lowland.nets.DBM(binary(6), n_hidden=(4, 3))
    >>> g = torch.Generator().manual_seed(0)
    >>> x = lowland.sample(dbm, lowland.BlockGibbs(), dbm.domain.draw(5, g), 10, generator=g).x
    >>> dbm(x).shape, dbm.visible(x).shape, dbm.variational_bound(dbm.visible(x)).shape
    (torch.Size([5]), torch.Size([5, 6]), torch.Size([5]))
    """

    def __init__(
        self,
        domain: Domain | Plain,
        n_hidden: Sequence[int] = (500, 1000),
        init_std: float = 0.01,
        centered: bool = True,
        iterations: int = 30,
        tolerance: float = 1e-3,
    ) -> None:
        data = binary_data(domain, "a DBM")
        sizes = read_sizes("n_hidden", n_hidden, count=2)
        size = math.prod(data.shape)
        super().__init__(binary(size + sizes[1]))
        self.data_domain, self.size, self.n_hidden = data, size, sizes
        self.iterations = read_integer("iterations", iterations, least=1, most=10_000)
        self.tolerance = read_number("tolerance", tolerance, least=0)
        self.machine = RBM(self.domain, sizes[0], init_std=init_std, centered=centered)
        self.init_std, self.centered = self.machine.init_std, self.machine.centered

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.machine(x, c)

    def visible(self, x: Tensor) -> Tensor:
        """Return the visible units (B, *data event) of points x (B, D + H2)."""
        return x[:, : self.size].reshape(-1, *self.data_domain.shape)

    # ---- the second layer given data -------------------------------------------------------------

    @torch.no_grad()
    def mean_field(self, x: Tensor) -> MeanField:
        """Compute the best independent hidden units given data x (B, *data event).

            μ¹ = σ(c + W¹ᵀv + W²ᵀμ²),        μ² = σ(d + W²μ¹)

        Each is the maximum of the variational bound in one layer given the other, so the bound
        rises and no damping is needed. Starts at the mean activity of data; a row stops when none
        of its μ² moved by more than `tolerance`.
        """
        dtype, size, bias = rounding(x), self.size, self.machine.visible_bias[self.size :]
        weight = self.machine.weight.to(dtype or self.machine.weight.dtype)
        down, up = weight[size:], weight[size:].t().contiguous()
        seen = product(x.flatten(1), weight[:size], dtype).add_(self.machine.hidden_bias)
        second = self.machine.visible_offset[size:].repeat(len(x), 1)

        def climb(second: Tensor, seen: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            below = torch.sigmoid(product(second, down, dtype).add_(seen))
            above = torch.sigmoid(product(below, up, dtype).add_(bias))
            return below, above, (above - second).abs().amax(1) > self.tolerance

        if x.device.type != "cpu":
            return self._climb_all(climb, second, seen)
        first, moving = torch.empty_like(seen), torch.arange(len(x), device=x.device)
        for _ in range(self.iterations):
            below, above, far = climb(second[moving], seen[moving])
            first[moving], second[moving] = below, above
            moving = moving[far]
            if not len(moving):
                break
        return MeanField(first, second)

    def _climb_all(self, climb: Climb, second: Tensor, seen: Tensor) -> MeanField:
        """Make all iterations with all rows, and leave alone those that have stopped: to know which
        these are, the program would have to wait for the device.
        """
        first = torch.empty_like(seen)
        moving = torch.ones(len(seen), 1, dtype=torch.bool, device=seen.device)
        for _ in range(self.iterations):
            below, above, far = climb(second, seen)
            first = torch.where(moving, below, first)
            second = torch.where(moving, above, second)
            moving = moving & far.unsqueeze(1)
        return MeanField(first, second)

    def impute(self, x: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """Append the mean field of the second layer to data x (B, *data event): (v, μ²).

        Shape (B, D + H2). Draws nothing.
        """
        return torch.cat([x.flatten(1), self.mean_field(x).second], 1)

    def sample_latents(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Append a draw of the second layer from its mean field to data x: (v, h²), (B, D + H2)."""
        second = coins(torch.logit(self.mean_field(x).second), generator)
        return torch.cat([x.flatten(1), second], 1)

    def variational_bound(self, x: Tensor) -> Tensor:
        """Return b(v) = −F(v, μ²) + H(μ²), (B,), of data x (B, *data event): log p ≥ b − log Z."""
        completed = self.impute(x)
        second = completed[:, self.size :]
        entropy = torch.special.entr(second) + torch.special.entr(1 - second)
        return entropy.sum(1) - self.machine(completed)

    def marginal(self) -> Energy:
        """Return the energy −variational_bound(x) ≥ −log p(v) − log Z of data, sharing weights."""
        return _OnData(self)

    # ---- capabilities, most of them those of the restricted machine ------------------------------

    @property
    def gibbs(self) -> Gibbs:
        """Return block Gibbs between h¹ and (v, h²)."""
        return self.machine.gibbs

    @property
    def paths(self) -> Paths:
        return self.machine.paths

    @property
    def latent(self) -> Latent:
        return replace(
            self.machine.latent,
            data_domain=self.data_domain,
            visible=self.visible,
            impute=self.impute,
            sample_latents=self.sample_latents,
            marginal=self.marginal,
        )

    @property
    def learner(self) -> Learner:
        return replace(self.machine.learner, init_from_data=self.init_from_data)

    def init_from_data(self, x: Tensor) -> None:
        """Set visible biases and offsets to the means of data x (N, *data event), h² to 0.5."""
        even = x.new_full((1, self.n_hidden[1]), 0.5).expand(len(x), -1)
        self.machine.init_from_data(torch.cat([x.flatten(1), even], 1))


class _OnData(Energy):
    """The negative bound of a deep machine as an energy of data alone."""

    def __init__(self, machine: DBM) -> None:
        super().__init__(machine.data_domain)
        self.machine = machine

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        condition_for(c, 1, x)
        return -self.machine.variational_bound(x)
