"""The deep belief net: a restricted machine on top of directed layers, with recognition weights.

    p(v, h¹, …, h^{L−1}) = p(v | h¹) p(h¹ | h²) … p(h^{L−2} | h^{L−1}) · exp(−F(h^{L−1})) / Z

F and Z are the free energy and the normaliser of the restricted machine on top, whose hidden units
are h^L; the conditionals below are independent coins. The joint distribution has the energy

    E(v, h¹, …, h^{L−1}) = F(h^{L−1}) − Σ_k log p(h^{k−1} | h^k)

with the same Z, and an exact sweep: Gibbs steps in the machine on top, then a pass down.
Recognition q(h^k | h^{k−1}), with weights of its own, stands in for the posterior and gives a
bound:

    log p(v) ≥ E_q[−E(v, h) − log q(h | v)] − log Z
"""

import math
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from lowland.devices import to_float64
from lowland.domain import Domain, binary
from lowland.energy import ConditionLike, Energy, Gibbs, Latent, Learner
from lowland.energy.sizes import check_memory, read_sizes
from lowland.nets.boltzmann.dbm import binary_data
from lowland.nets.boltzmann.rbm import RBM
from lowland.nets.boltzmann.units import coins
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number


class Bound(NamedTuple):
    """A lower bound (B,) up to log Z, a mean over draws, and its standard error (B,)."""

    value: Tensor
    error: Tensor


class Directed(nn.Module):
    """Two layers of coins with weights up (recognition) and down (generation)."""

    def __init__(self, below: int, above: int, init_std: float) -> None:
        super().__init__()
        weight = torch.randn(below, above) * init_std
        self.up_weight, self.up_bias = nn.Parameter(weight), nn.Parameter(torch.zeros(above))
        self.down_weight = nn.Parameter(weight.clone())
        self.down_bias = nn.Parameter(torch.zeros(below))

    def up(self, below: Tensor) -> Tensor:
        """Return log-odds (B, above) of the upper layer given the lower one (B, below)."""
        return (below @ self.up_weight).to(below.dtype) + self.up_bias

    def down(self, above: Tensor) -> Tensor:
        """Return log-odds (B, below) of the lower layer given the upper one (B, above)."""
        return (above @ self.down_weight.t()).to(above.dtype) + self.down_bias


def surprise(x: Tensor, logits: Tensor) -> Tensor:
    """Return −log p(x), (B,), of coins x (B, n) with log-odds (B, n)."""
    return (softplus(logits) - x * logits).sum(1)


def _add(parts: list[Tensor], x: Tensor) -> Tensor:
    """Add up tensors (B,); zeros if there are none."""
    return torch.stack(parts).sum(0) if parts else x.new_zeros(len(x))


def transpose(
    machine: RBM, n_hidden: int | None = None, generator: torch.Generator | None = None
) -> RBM:
    """Exchange the visible and the hidden units of a machine, and return the new machine.

    As the next layer of a stack it is a perfect prior: it keeps the distribution of the data, and
    training it can only raise the bound. n_hidden: hidden units, at least as many as the machine
    has visible ones (the default); those beyond get small random weights (std 0.01), which change
    the distribution little, and need a generator. Raises ValueError for fewer. Source: Hinton,
    Osindero & Teh (2006), https://doi.org/10.1162/neco.2006.18.7.1527
    """
    size = machine.visible.size
    more = (n_hidden or size) - size
    if more < 0 or (more and generator is None):
        raise ValueError(
            f"{n_hidden} hidden units and generator={generator} came for a machine of {size} "
            f"visible units; at least {size}, and a generator for more, are "
            "needed; raise n_hidden or pass a generator"
        )
    weight = machine.weight.detach()
    shape, kind = (machine.n_hidden, more), weight.dtype
    extra = torch.randn(shape, generator=generator, dtype=kind, device=weight.device) * 0.01
    other = RBM(binary(machine.n_hidden), size + more, init_std=0.0, centered=machine.centered)
    pairs = {
        "weight": torch.cat([weight.t(), extra], 1),
        "visible_bias": machine.hidden_bias,
        "hidden_bias": torch.cat([machine.visible_bias.detach(), weight.new_zeros(more)]),
        "visible_offset": machine.hidden_offset,
        "hidden_offset": torch.cat([machine.visible_offset, weight.new_full((more,), 0.5)]),
    }
    other.to(machine.weight).load_state_dict(other.state_dict() | pairs)
    return other


@register("energy")
class DBN(Energy):
    """Deep belief net: the joint energy of the data and all hidden layers but the last.

    domain: of the data, binary of any event shape with D numbers, kept as `data_domain`; that of
    the energy is binary(D + H1 + … + H_{L−1}), v flattened and the layers behind it. n_hidden: (H1,
    …, HL), H_L of the machine on top; init_std: standard deviation of the first weights; centered:
    train the machine on top along the centred gradient.

    `lowland.training.layerwise` trains it layer by layer, the objective `WakeSleep` trains all
    weights together, `classifier` turns it into a network. Its log Z is that of `top`:
    `lowland.log_z(dbn.top, ...)`. Raises ValueError for data that are not binary and sizes that
    make no net. Source: Hinton, Osindero & Teh (2006), https://doi.org/10.1162/neco.2006.18.7.1527

    >>> import torch, lowland
    >>> from lowland.domain import binary
    >>> dbn = lowland.nets.DBN(binary(6), n_hidden=(5, 4, 3))
    >>> g = torch.Generator().manual_seed(0)
    >>> x = dbn.fantasies(8, 10, g)
    >>> x.shape, dbn.variational_bound(x, g).value.shape
    (torch.Size([8, 6]), torch.Size([8]))
    """

    def __init__(
        self,
        domain: Domain | Plain,
        n_hidden: Sequence[int] = (500, 500, 2000),
        init_std: float = 0.01,
        centered: bool = True,
    ) -> None:
        data = binary_data(domain, "a DBN")
        hidden = read_sizes("n_hidden", n_hidden)
        std = read_number("init_std", init_std, least=0)
        sizes = (math.prod(data.shape), *hidden)
        check_memory("DBN", 2 * sum(a * b for a, b in pairwise(sizes)))
        super().__init__(binary(sum(sizes[:-1])))
        self.data_domain, self.n_hidden, self.sizes = data, hidden, sizes
        self.layers = nn.ModuleList(Directed(a, b, std) for a, b in pairwise(sizes[:-1]))
        self.top = RBM(binary(sizes[-2]), sizes[-1], init_std=std, centered=centered)
        self.init_std, self.centered = self.top.init_std, self.top.centered

    # ---- the energy ------------------------------------------------------------------------------

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.generation(x) + self.top(self.split(x)[-1], c)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Split points x (B, D + H1 + …) into layers v (B, D), h¹ (B, H1), …"""
        return x.split(self.sizes[:-1], 1)

    def visible(self, x: Tensor) -> Tensor:
        """Return the visible units (B, *data event) of points x."""
        return self.split(x)[0].reshape(-1, *self.data_domain.shape)

    def generation(self, x: Tensor) -> Tensor:
        """Return −Σ_k log p(h^{k−1} | h^k), (B,)."""
        return _add([surprise(a, layer.down(b)) for layer, a, b in self._links(x)], x)

    def recognition(self, x: Tensor) -> Tensor:
        """Return −log q(h | v) = −Σ_k log q(h^k | h^{k−1}), (B,)."""
        return _add([surprise(b, layer.up(a)) for layer, a, b in self._links(x)], x)

    def _links(self, x: Tensor) -> Iterable[tuple[Directed, Tensor, Tensor]]:
        """Yield the directed layers with the units of points x below and above each."""
        parts = self.split(x)
        return zip(self._layers_below, parts, parts[1:], strict=False)

    @property
    def _layers_below(self) -> list[Directed]:
        return [layer for layer in self.layers if isinstance(layer, Directed)]

    # ---- draws -----------------------------------------------------------------------------------

    @torch.no_grad()
    def sample_latents(self, x: Tensor, generator: torch.Generator) -> Tensor:
        """Draw h ~ q(h | v) for data x (B, *data event), and return (v, h): the pass up."""
        parts = [x.flatten(1)]
        for layer in self._layers_below:
            parts.append(coins(layer.up(parts[-1]), generator))
        return torch.cat(parts, 1)

    @torch.no_grad()
    def descend(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """Draw the layers below h (B, H_{L−1}) from p, and return all of them: the pass down."""
        parts = [h]
        for layer in reversed(self._layers_below):
            parts.insert(0, coins(layer.down(parts[0]), generator))
        return torch.cat(parts, 1)

    def sweep(
        self,
        x: Tensor,
        sweeps: int,
        generator: torch.Generator,
        *,
        beta: float = 1.0,
        compiled: bool = False,
        fields: Tensor | None = None,
        c: ConditionLike = None,
    ) -> Tensor:
        """Run block Gibbs in the machine on top, then draw all layers below from p."""
        h = self.top.sweep(self.split(x)[-1], sweeps, generator, beta=beta)
        return self.descend(h, generator)

    @property
    def gibbs(self) -> Gibbs:
        return Gibbs(sweep=self.sweep)

    @property
    def latent(self) -> Latent:
        """Return the latent units; the hidden marginal is that of h^L, with the same Z."""
        return Latent(
            data_domain=self.data_domain,
            visible=self.visible,
            impute=self.sample_latents,
            sample_latents=self.sample_latents,
            hidden_marginal=self.top.hidden_marginal,
        )

    @property
    def learner(self) -> Learner:
        top = self.top.learner
        offsets = self.update_offsets if self.centered else None
        return Learner(update_offsets=offsets, center_gradients=top.center_gradients)

    def fantasies(self, count: int, steps: int, generator: torch.Generator) -> Tensor:
        """Draw (count, *data event): Gibbs steps on top from even coins, then one pass down."""
        h = self.top.domain.draw(count, generator, dtype=self.top.weight.dtype)
        with torch.no_grad():
            return self.visible(self.descend(self.top.sweep(h, steps, generator), generator))

    # ---- the bound -------------------------------------------------------------------------------

    @torch.no_grad()
    def log_weights(self, x: Tensor, draws: int, generator: torch.Generator) -> Tensor:
        """Return log w = −E(v, h) − log q(h | v), (draws, B), of data x at draws h ~ q(h | v).

        Means of log w bound log p(v) + log Z from below; logs of mean weights do too, and tighter
        (Burda, Grosse & Salakhutdinov 2016, https://arxiv.org/abs/1509.00519).
        """
        drawn = (self.sample_latents(x, generator) for _ in range(draws))
        return torch.stack([self.recognition(z) - self(z) for z in drawn])

    def variational_bound(self, x: Tensor, generator: torch.Generator, draws: int = 10) -> Bound:
        """Estimate b = E_q[−E(v, h) − log q(h | v)], (B,), of data x: log p(v) ≥ b − log Z."""
        found = to_float64(self.log_weights(x, draws, generator))
        return Bound(found.mean(0), found.std(0, correction=int(draws > 1)) / math.sqrt(draws))

    # ---- training --------------------------------------------------------------------------------

    def successor(self, layer: int, below: RBM, generator: torch.Generator) -> RBM | None:
        """Return a start for layer `layer` (from 0), the one below transposed; None if too wide."""
        if self.sizes[layer + 1] < self.sizes[layer - 1]:
            return None
        return transpose(below, self.sizes[layer + 1], generator)

    @torch.no_grad()
    def adopt(self, layer: int, machine: RBM) -> None:
        """Copy a machine's weights to layer `layer`, up and down; ValueError for other sizes."""
        wanted = (self.sizes[layer], self.sizes[layer + 1])
        plain = machine.hidden_type == "bernoulli" and not machine.classes
        if tuple(machine.weight.shape) != wanted or not plain:
            raise ValueError(
                f"a machine of {tuple(machine.weight.shape)} {machine.hidden_type} units with "
                f"{machine.classes} classes came for layer {layer}; it needs {wanted} Bernoulli "
                "units without labels; train an RBM of that size"
            )
        if layer == len(self.layers):
            self.top.load_state_dict(machine.state_dict())
            return
        own = self._layers_below[layer]
        for weight in (own.up_weight, own.down_weight):
            weight.copy_(machine.weight)
        own.up_bias.copy_(machine.hidden_bias)
        own.down_bias.copy_(machine.visible_bias)

    def update_offsets(self, x: Tensor, fields: Tensor | None = None) -> None:
        """Move the offsets of the machine on top towards the means of completed data x."""
        self.top.update_offsets(self.split(x)[-1])

    def classifier(self, classes: int) -> nn.Sequential:
        """Build a network (B, *data event) → logits (B, classes) that starts as the pass up.

        Sigmoid layers have the weights of recognition, the linear head is zero. Train it like any
        network; grey values in [0, 1] may come as means of pixels.

        >>> import torch, lowland
        >>> from lowland.domain import binary
        >>> network = lowland.nets.DBN(binary(6), n_hidden=(5, 4)).classifier(3)
        >>> x, y = torch.eye(6), torch.arange(6) % 3
        >>> optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
        >>> for _ in range(500):
        ...     optimiser.zero_grad()
        ...     torch.nn.functional.cross_entropy(network(x), y).backward()
        ...     optimiser.step()
        >>> (network(x).argmax(1) == y).all().item()
        True
        """
        pairs = [(layer.up_weight, layer.up_bias) for layer in self._layers_below]
        pairs.append((self.top.weight, self.top.hidden_bias))
        steps: list[nn.Module] = [nn.Flatten()]
        with torch.no_grad():
            for weight, bias in pairs:
                linear = nn.Linear(*weight.shape).to(weight)
                linear.weight.copy_(weight.t())
                linear.bias.copy_(bias)
                steps += [linear, nn.Sigmoid()]
            number = read_integer("classes", classes, least=1)
            head = nn.Linear(self.sizes[-1], number).to(weight)
            nn.init.zeros_(head.weight)
            nn.init.zeros_(head.bias)
        return nn.Sequential(*steps, head)
