"""The restricted Boltzmann machine: visible units that meet only hidden ones.

    E(x, h) = V(x) − hᵀ(c + Wᵀ f(x)) + R(h),        E(x) = V(x) − Σ_j A(c_j + (Wᵀ f(x))_j)

with features f and term V of the visible side (see `visible`), base measure e^{−R} and
log-partition A of the hidden units (see `units`). E(x) is the free energy, exact and cheap, so the
machine is an energy like any other; given one side the units of the other are independent, so block
Gibbs costs two matrix products a sweep.

Energy and sweep begin with the same product f(x) W, the fields. `gibbs.fields` computes it,
`gibbs.energy_from` and `gibbs.sweep` take it: samplers carry it in their state, so that neither a
training step nor a temperature of annealing pays for the same product twice.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lowland.domain import Domain
from lowland.energy import ConditionLike, Energy, Gibbs, LabelCondition, Latent, Learner, Paths
from lowland.energy.sizes import check_memory, read_choice, read_flag
from lowland.nets.boltzmann.products import (
    FieldsFunction,
    LogPartitionFunction,
    product,
    rounding,
)
from lowland.nets.boltzmann.tempered import HiddenMarginal, Rung, base_of, own_base
from lowland.nets.boltzmann.units import UNITS
from lowland.nets.boltzmann.visible import visible_side
from lowland.nets.class_energy import condition_for, label_condition, pick
from lowland.registry import Plain, register
from lowland.scalars import read_integer, read_number


@register("energy")
class RBM(Energy):
    """Restricted Boltzmann machine: the free energy E(x) = V(x) − Σ_j A(c_j + (Wᵀ f(x))_j).

    domain: binary, categorical(K) (Potts units) or real (Gaussian units; standardize the data) of
    any event shape; n_hidden: number of hidden units; hidden_type: "bernoulli", or "relu" for
    normal distributions cut off at zero; classes: label units, with E(x, y) = E with the label's
    own weights, labels and soft labels as in `ClassEnergy`; init_std: standard deviation of the
    first weights; centered: train along the centred gradient (see `center_gradients`; with SGD:
    Adam, which rescales every number of it, gets the plain one).

    Gaussian with relu units is a density only while the largest singular value of W stays below 1.
    Source: Smolensky (1986); Hinton (2002), https://doi.org/10.1162/089976602760128018; Potts and
    Gaussian units: Welling, Rosen-Zvi & Hinton (2004),
    https://papers.nips.cc/paper/2004/hash/0e900ad84f63618452210ab8baae0218-Abstract.html; labels:
    Larochelle & Bengio (2008), https://doi.org/10.1145/1390156.1390224

    >>> import torch, lowland
    >>> from lowland.domain import binary
    >>> rbm = lowland.nets.RBM(binary(6), n_hidden=4)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = lowland.sample(rbm, lowland.BlockGibbs(), binary(6).draw(3, g), 10, generator=g).x
    >>> rbm(x).shape, rbm.hidden_mean(x).shape
    (torch.Size([3]), torch.Size([3, 4]))
    """

    def __init__(
        self,
        domain: Domain | Plain,
        n_hidden: int = 500,
        hidden_type: str = "bernoulli",
        classes: int = 0,
        init_std: float = 0.01,
        centered: bool = True,
    ) -> None:
        super().__init__(domain)
        self.n_hidden = read_integer("n_hidden", n_hidden, least=1)
        self.hidden_type = read_choice("hidden_type", hidden_type, UNITS)
        self.classes = read_integer("classes", classes, least=0)
        self.init_std = read_number("init_std", init_std, least=0)
        self.centered = read_flag("centered", centered)
        if self.classes == 1:
            raise ValueError(
                "classes is 1; label units tell at least 2 classes apart, 0 is for none; leave "
                "classes out"
            )
        self.visible = visible_side(self.domain)
        self.hidden_units = UNITS[self.hidden_type]
        size, hidden = self.visible.size, self.n_hidden
        check_memory("a Boltzmann machine", (size + self.classes + 1) * hidden)
        self.weight = nn.Parameter(torch.randn(size, hidden) * self.init_std)
        self.visible_bias = nn.Parameter(torch.zeros(size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        if self.classes:
            self.label_weight = nn.Parameter(torch.randn(self.classes, hidden) * self.init_std)
            self.label_bias = nn.Parameter(torch.zeros(self.classes))
        self.sigma: Tensor
        self.visible_offset: Tensor
        self.hidden_offset: Tensor
        self.register_buffer("sigma", torch.ones(size))  # of Gaussian units; 1 for the others
        if self.domain.kind == "real":
            self.location: Tensor
            self.register_buffer("location", torch.zeros(size))
        self.register_buffer("visible_offset", self.visible.rest())
        self.register_buffer("hidden_offset", self.hidden_units.mean(torch.zeros(hidden)))

    # ---- the energy ------------------------------------------------------------------------------

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        compute = self.fields if x.requires_grad else self.compute_fields
        return self.energy_from(x, compute(x), c)

    def energy_from(self, x: Tensor, fields: Tensor, c: ConditionLike = None) -> Tensor:
        """Return E(x, c) (B,) with fields of x that are known, differentiable in the weights."""
        f = self.visible.features(self, x)
        term = self.visible.term(self, f)
        if not self.classes:
            condition_for(c, 1, term)
            return term - self._log_partition(f, fields)
        z = self._with_graph(f, fields)
        c = condition_for(c, self.classes, z)
        if c is None or c.dim() == 2:
            return pick(self._heads(term, z), c)
        z = z + self.label_weight[c]
        return term - self.label_bias[c] - self.hidden_units.log_partition(z).sum(1)

    def class_energies(self, x: Tensor) -> Tensor:
        """Return E(x, y) for every label y, (B, classes); (B, 1) without label units."""
        if not self.classes:
            return self(x).unsqueeze(1)
        return self._heads(self.term(x), self.fields(x))

    def _heads(self, term: Tensor, z: Tensor) -> Tensor:
        under = z.unsqueeze(1) + self.label_weight
        return term.unsqueeze(1) - self.label_bias - self.hidden_units.log_partition(under).sum(2)

    def term(self, x: Tensor) -> Tensor:
        """Return V(x), (B,), the visible side's own part of the energy."""
        return self.visible.term(self, self.visible.features(self, x))

    def fields(self, x: Tensor) -> Tensor:
        """Return c + Wᵀ f(x), (B, n_hidden), without labels, differentiable in x and weights."""
        f = self.visible.features(self, x)
        if x.requires_grad:
            return torch.addmm(self.hidden_bias, f, self.weight)
        return self._with_graph(f, self.compute_fields(x))

    def compute_fields(self, x: Tensor) -> Tensor:
        """Return c + Wᵀ f(x), (B, n_hidden), without a graph."""
        with torch.no_grad():
            return self._times(self.visible.features(self, x), False).add_(self.hidden_bias)

    def _learns(self) -> bool:
        return torch.is_grad_enabled() and self.weight.requires_grad

    def _with_graph(self, f: Tensor, fields: Tensor) -> Tensor:
        if fields.requires_grad or not self._learns():
            return fields
        return FieldsFunction.apply(f, self.weight, self.hidden_bias, fields)

    def _log_partition(self, f: Tensor, fields: Tensor) -> Tensor:
        """Return Σ_j A of the fields, (B,)."""
        if fields.requires_grad or not self._learns():
            return self.hidden_units.log_partition(fields).sum(1)
        return LogPartitionFunction.apply(
            f, self.weight, self.hidden_bias, self.hidden_units, fields
        )

    def visible_fields(self, h: Tensor) -> Tensor:
        """Return W h, (B, D), the field of hidden units h (B, n_hidden) on the visible ones."""
        if torch.is_grad_enabled() and (h.requires_grad or self.weight.requires_grad):
            return h @ self.weight.t()
        return self._times(h, True)

    def _times(self, a: Tensor, transposed: bool) -> Tensor:
        """Return a W or a Wᵀ without a graph."""
        return product(a, self.weight.t() if transposed else self.weight, rounding(a))

    def one_hot_energy(self, z: Tensor, c: ConditionLike = None) -> Tensor:
        """Return energies (B,) of one-hot floats z (B, *event, K) on a categorical domain."""
        f = z.flatten(1)
        fields = torch.addmm(self.hidden_bias, f, self.weight)
        if self.classes:
            return pick(self._heads(self.visible.term(self, f), fields), c)
        return self.visible.term(self, f) - self.hidden_units.log_partition(fields).sum(1)

    def joint(self, x: Tensor, h: Tensor) -> Tensor:
        """Return E(x, h) (B,) of visible x (B, *event) and hidden h (B, n_hidden).

        Raises ValueError for a machine with label units, or hidden units of another number.
        """
        if self.classes or h.shape != (len(x), self.n_hidden):
            raise ValueError(
                f"hidden units of shape {tuple(h.shape)} came to a machine of {self.n_hidden} with "
                f"{self.classes} classes; ({len(x)}, {self.n_hidden}) and no classes are needed; "
                "use class_energies for labels"
            )
        return self.term(x) + self.hidden_units.base(h).sum(1) - (self.fields(x) * h).sum(1)

    # ---- conditionals and block Gibbs ------------------------------------------------------------

    def hidden_mean(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return E[h | x, c], (B, n_hidden), probabilities for Bernoulli units.

        c: labels (B,) or soft labels (B, K); p(y | x) if None.
        """
        z = self.fields(x)
        if not self.classes:
            return self.hidden_units.mean(z)
        c = condition_for(c, self.classes, z)
        if c is None:
            c = torch.softmax(-self.class_energies(x), 1)
        elif c.dim() == 1:
            c = one_hot(c, self.classes).to(z.dtype)
        means = self.hidden_units.mean(z.unsqueeze(1) + self.label_weight)
        return (c.unsqueeze(2) * means).sum(1)

    def visible_mean(self, h: Tensor) -> Tensor:
        """Return E[x | h], (B, *event): probabilities if binary, (B, *event, K) if categorical."""
        return self.visible.mean(self, self.visible_fields(h))

    def draw_hidden(self, x: Tensor, generator: torch.Generator, c: ConditionLike = None) -> Tensor:
        """Draw h ~ p(h | x, c), (B, n_hidden); c: labels (B,), drawn from p(y | x) if None."""
        return self._draw_hidden(x, self.fields(x), generator, c)

    def _draw_hidden(
        self, x: Tensor, z: Tensor, generator: torch.Generator, c: ConditionLike
    ) -> Tensor:
        if self.classes:
            c = condition_for(c, self.classes, z)
            if c is None:
                c = self._draw_labels(-self._heads(self.term(x), z), generator)
            if c.is_floating_point():
                raise ValueError(
                    "soft labels came to block Gibbs; a mixture of classes has no such sweep; pass "
                    "whole-number labels (B,), or use GibbsWithGradients"
                )
            z = z + self.label_weight[c]
        return self.hidden_units.draw(z, generator)

    @staticmethod
    def _draw_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
        return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(1)

    def draw_visible(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """Draw x ~ p(x | h), (B, *event), given h (B, n_hidden)."""
        return self.visible.draw(self, self.visible_fields(h), generator)

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
        """Run block Gibbs: h ~ p(h | x), x ~ p(x | h), `sweeps` times, from fields of x if known.

        Raises ValueError for β ≠ 1: a power of p(x) has no such sweep (see `paths`).
        """
        if beta != 1:
            raise ValueError(
                f"block Gibbs was asked for at beta {beta}; p(x) to a power has none; use beta = 1 "
                "or paths.at_temperatures"
            )
        for _ in range(read_integer("sweeps", sweeps, least=0)):
            z = self.compute_fields(x) if fields is None else fields
            x, fields = self.draw_visible(self._draw_hidden(x, z, generator, c), generator), None
        return x

    # ---- capabilities ----------------------------------------------------------------------------

    @property
    def gibbs(self) -> Gibbs:
        categorical = self.domain.kind == "categorical"
        return Gibbs(
            one_hot_energy=self.one_hot_energy if categorical else None,
            sweep=self.sweep,
            fields=self.compute_fields,
            energy_from=self.energy_from,
        )

    @property
    def condition(self) -> LabelCondition | None:
        return label_condition(self.classes, self.class_energies)

    @property
    def latent(self) -> Latent:
        marginal = self.hidden_marginal if self.hidden_type == "bernoulli" else None
        return Latent(hidden_marginal=marginal, hidden_mean=self.hidden_mean)

    def hidden_marginal(self) -> Energy:
        """Return the marginal energy of Bernoulli hidden units, on binary(n_hidden), the same Z."""
        return HiddenMarginal(self)

    @property
    def paths(self) -> Paths:
        return Paths(self.path_from, self.at_temperatures)

    def path_from(self, base: Energy, betas: Sequence[float]) -> list[Energy] | None:
        """Return a path from independent units to the machine, each energy with block Gibbs.

        E_β(x) = (1 − β) E_base(x) + β V(x) − Σ_j [A(β z_j) − (1 − β) A(0)]: the base at 0, the
        machine at 1. None for any other base. Source: Salakhutdinov & Murray (2008),
        https://doi.org/10.1145/1390156.1390266
        """
        start = base_of(self, base)
        if start is None:
            return None
        return [Rung(self, start, float(beta)) for beta in betas]

    def at_temperatures(self, betas: Tensor, size: int) -> Energy:
        """Return one energy for R · size rows, block r at β_r on the way from independent units."""
        return Rung(self, own_base(self), betas.repeat_interleave(size).unsqueeze(1))

    @property
    def learner(self) -> Learner:
        if not self.centered:
            return Learner(self.init_from_data)
        return Learner(self.init_from_data, self.update_offsets, self.center_gradients)

    # ---- training --------------------------------------------------------------------------------

    def init_from_data(self, x: Tensor) -> None:
        """Start biases, scales and offsets at those of the training data (N, *event).

        Warns of columns that never change, and of data of another kind than the machine's units.
        """
        with torch.no_grad():
            self.visible.init_from_data(self, x)

    def update_offsets(self, x: Tensor, fields: Tensor | None = None, rate: float = 0.01) -> None:
        """Move the offsets of the centred gradient a step to the means of data x (B, *event)."""
        with torch.no_grad():
            z = self.compute_fields(x) if fields is None else fields
            self.hidden_offset.lerp_(self.hidden_units.mean(z).mean(0), rate)
            self.visible_offset.lerp_(self.visible.features(self, x).mean(0), rate)

    def center_gradients(self) -> None:
        """Turn the gradients that lie in `.grad` into centred ones.

        With offsets μ = ⟨f⟩ and λ = ⟨h⟩ of the data, and gradients of the likelihood g_W, g_a, g_c,

            g_W ← g_W − μ g_cᵀ − g_a λᵀ,      g_a ← g_a − g_W λ,      g_c ← g_c − g_Wᵀ μ

        is the direction that the machine with (f − μ)(h − λ) in place of f h would take: it does
        not depend on whether a pixel or its negative is called 1, and weights do not first have to
        learn the means. Source: Montavon & Müller (2012),
        https://doi.org/10.1007/978-3-642-35289-8_33; Melchior, Fischer & Wiskott (2016),
        https://jmlr.org/papers/v17/14-237.html
        """
        if self.weight.grad is None:
            return
        g_w, g_a = _grad(self.weight), _grad(self.visible_bias)
        g_c = _grad(self.hidden_bias)
        mu, lam, before = self.visible_offset, self.hidden_offset, g_c.clone()
        g_w.addr_(mu, before, alpha=-1).addr_(g_a, lam, alpha=-1)
        g_a.sub_(g_w @ lam)
        g_c.sub_(mu @ g_w)
        if self.classes:
            g_u, g_d = _grad(self.label_weight), _grad(self.label_bias)
            even = g_d.new_full((self.classes,), 1 / self.classes)
            g_u.addr_(even, before, alpha=-1).addr_(g_d, lam, alpha=-1)
            g_d.sub_(g_u @ lam)
            g_c.sub_(even @ g_u)


def _grad(parameter: nn.Parameter) -> Tensor:
    assert parameter.grad is not None, "every parameter of a machine has a gradient, or none has"
    return parameter.grad
