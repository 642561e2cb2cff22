"""The restricted Boltzmann machine: visible units that meet only hidden ones.

    E(x, h) = V(x) − hᵀ(c + Wᵀ f(x)) + R(h),        E(x) = V(x) − Σ_j A(c_j + (Wᵀ f(x))_j)

with features f and term V of the visible side (see `visible`), base law e^{−R} and log-partition A
of the hidden units (see `units`). E(x) is the free energy, exact and cheap, so the machine is an
energy like any other; given one side the units of the other are independent, so block Gibbs costs
two matrix products a sweep.

The products f(x) W are remembered for the last few batches that were judged, by identity: what a
sweep ends with, an energy begins with, and neither a training step nor a rung of annealing pays for
the same product twice.
"""

import threading
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from lowland.domain import Domain
from lowland.energy import Energy
from lowland.nets.boltzmann.units import UNITS, HiddenUnits
from lowland.nets.boltzmann.visible import visible_side
from lowland.nets.class_energy import condition_for, pick
from lowland.registry import register


@dataclass
class _Seen:
    """A batch of points, the versions of points and weights when its fields were computed, the
    fields, and Σ_j A of them (B,) once it has been asked for."""

    x: Tensor
    key: tuple[int, ...]
    fields: Tensor
    total: Tensor | None = None


class _Memory(threading.local):
    """The last batches and their fields, newest first, one list per thread; copies of a machine
    start with none.
    """

    def __init__(self) -> None:
        self.seen: list[_Seen] = []

    def __deepcopy__(self, memo: Any) -> "_Memory":
        return _Memory()

    def __reduce__(self) -> Any:
        return _Memory, ()


def rounding(like: Tensor) -> torch.dtype | None:
    """The dtype to which autocast wants the factors of products rounded; None without autocast."""
    kind = like.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None


def product(a: Tensor, b: Tensor, dtype: torch.dtype | None) -> Tensor:
    """a @ b with factors rounded to dtype, added up and returned in the dtype of a.

    On a CPU the library of products rounds factors as it loads them, where torch can ask it to: no
    copies are made.
    """
    if dtype is None:
        return a @ b
    with torch.autocast(a.device.type, enabled=False):
        settings = getattr(torch.backends.mkldnn, "matmul", None)
        if (
            a.device.type != "cpu"
            or settings is None
            or dtype != torch.bfloat16
            or a.dtype != torch.float32
        ):
            return torch.mm(a.to(dtype), b.to(dtype)).to(a.dtype)
        before = settings.fp32_precision
        settings.fp32_precision = "bf16"
        try:
            return a @ b
        finally:
            settings.fp32_precision = before


class _Fields(torch.autograd.Function):
    """f W + c with fields that are known already; backward is that of the product, in bfloat16
    where forward was.
    """

    @staticmethod
    def forward(ctx: Any, f: Tensor, weight: Tensor, bias: Tensor, known: Tensor) -> Tensor:
        ctx.save_for_backward(f, weight)
        ctx.dtype = rounding(f)
        return known.view_as(known)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        f, weight = ctx.saved_tensors
        to_f = product(g, weight.t(), ctx.dtype) if ctx.needs_input_grad[0] else None
        return to_f, product(f.t(), g, ctx.dtype), g.sum(0), None


class _Total(torch.autograd.Function):
    """Σ_j A((f W + c)_j), (B,), with fields and sum that are known already; backward needs the
    means of the units alone.
    """

    @staticmethod
    def forward(
        ctx: Any,
        f: Tensor,
        weight: Tensor,
        bias: Tensor,
        units: HiddenUnits,
        known: Tensor,
        total: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(f, weight, known)
        ctx.units, ctx.dtype = units, rounding(f)
        return total.view_as(total)

    @staticmethod
    def backward(ctx: Any, g: Tensor) -> Any:
        f, weight, known = ctx.saved_tensors
        pulled = ctx.units.mean(known).mul_(g.unsqueeze(1))
        to_f = product(pulled, weight.t(), ctx.dtype) if ctx.needs_input_grad[0] else None
        return to_f, product(f.t(), pulled, ctx.dtype), pulled.sum(0), None, None, None


@register("energy")
class RBM(Energy):
    """Restricted Boltzmann machine: E(x) = V(x) − Σ_j A(c_j + (Wᵀ f(x))_j), the free energy of
    visible units.

    domain: binary, categorical(K) (Potts units) or real (Gaussian units; standardize the data) of
    any event shape; hidden: number of hidden units; units: "bernoulli", or "relu" for normal laws
    cut off at zero; classes: label units, with E(x, y) = E with the label's own weights, labels and
    soft labels as in `ClassEnergy`; spread: standard deviation of the first weights; centred: train
    along the centred gradient (see `precondition`; with SGD: Adam, which rescales every number of
    it, gets the plain one).

    Gaussian with relu units is a density only while the largest singular value of W stays below 1.
    Source: Smolensky (1986); Hinton (2002), https://doi.org/10.1162/089976602760128018; Potts and
    Gaussian units: Welling, Rosen-Zvi & Hinton (2004),
    https://papers.nips.cc/paper/2004/hash/0e900ad84f63618452210ab8baae0218-Abstract.html; labels:
    Larochelle & Bengio (2008), https://doi.org/10.1145/1390156.1390224

    >>> import torch, lowland
    >>> from lowland.domain import binary
    >>> rbm = lowland.nets.RBM(binary(6), hidden=4)
    >>> g = torch.Generator().manual_seed(0)
    >>> x = lowland.sample(rbm, lowland.BlockGibbs(), binary(6).draw(3, g), 10, generator=g).x
    >>> rbm(x).shape, rbm.hidden_mean(x).shape
    (torch.Size([3]), torch.Size([3, 4]))
    """

    apart: ClassVar[bool] = (
        True  # batches are judged one by one at no loss: their products are remembered
    )

    def __init__(
        self,
        domain: Domain | dict[str, Any],
        hidden: int = 500,
        units: str = "bernoulli",
        classes: int = 0,
        spread: float = 0.01,
        centred: bool = True,
    ) -> None:
        super().__init__(domain)
        if units not in UNITS or hidden < 1 or classes < 0 or classes == 1 or not spread >= 0:
            raise ValueError(
                f"units is {units!r}, hidden {hidden}, classes {classes}, spread {spread}; allowed "
                f"are {', '.join(UNITS)}, at least 1, 0 or at least 2, and at least 0; correct them"
            )
        self.visible = visible_side(self.domain)
        self.hidden, self.units, self.classes, self.spread, self.centred = (
            hidden,
            units,
            classes,
            spread,
            centred,
        )
        self.hidden_units = UNITS[units]
        size = self.visible.size
        self.weight = nn.Parameter(torch.randn(size, hidden) * spread)
        self.visible_bias = nn.Parameter(torch.zeros(size))
        self.hidden_bias = nn.Parameter(torch.zeros(hidden))
        if classes:
            self.label_weight = nn.Parameter(torch.randn(classes, hidden) * spread)
            self.label_bias = nn.Parameter(torch.zeros(classes))
        self.sigma: Tensor
        self.visible_offset: Tensor
        self.hidden_offset: Tensor
        self.register_buffer("sigma", torch.ones(size))  # of Gaussian units; 1 for the others
        self.register_buffer("visible_offset", self.visible.rest())
        self.register_buffer("hidden_offset", self.hidden_units.mean(torch.zeros(hidden)))
        self._memory = _Memory()

    # ---- the energy ------------------------------------------------------------------------------

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        term = self.term(x)
        if not self.classes:
            condition_for(c, 1, term)
            return term - self._total(x)
        z = self.fields(x)
        c = condition_for(c, self.classes, z)
        if c is None or c.dim() == 2:
            return pick(self._heads(term, z), c)
        z = z + self.label_weight[c]
        return term - self.label_bias[c] - self.hidden_units.log_partition(z).sum(1)

    def class_energies(self, x: Tensor) -> Tensor:
        """E(x, y) for every label y, (B, classes); (B, 1) without label units."""
        return self._heads(self.term(x), self.fields(x)) if self.classes else self(x).unsqueeze(1)

    def _heads(self, term: Tensor, z: Tensor) -> Tensor:
        under = z.unsqueeze(1) + self.label_weight
        return term.unsqueeze(1) - self.label_bias - self.hidden_units.log_partition(under).sum(2)

    def term(self, x: Tensor) -> Tensor:
        """V(x), (B,): what the visible side has of its own."""
        return self.visible.term(self, self.visible.features(self, x))

    def fields(self, x: Tensor) -> Tensor:
        """c + Wᵀ f(x), (B, hidden), without labels; remembered for the last batches."""
        if x.requires_grad:
            return torch.addmm(self.hidden_bias, self.visible.features(self, x), self.weight)
        known = self._remembered(x).fields
        if torch.is_grad_enabled() and self.weight.requires_grad:
            return _Fields.apply(
                self.visible.features(self, x), self.weight, self.hidden_bias, known
            )
        return known

    def _total(self, x: Tensor) -> Tensor:
        """Σ_j A of the fields, (B,); remembered with them."""
        if x.requires_grad:
            return self.hidden_units.log_partition(self.fields(x)).sum(1)
        seen = self._remembered(x)
        if seen.total is None:
            with torch.no_grad():
                seen.total = self.hidden_units.log_partition(seen.fields).sum(1)
        if torch.is_grad_enabled() and self.weight.requires_grad:
            f = self.visible.features(self, x)
            return _Total.apply(
                f, self.weight, self.hidden_bias, self.hidden_units, seen.fields, seen.total
            )
        return seen.total

    def _fields(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self._times(self.visible.features(self, x), False).add_(self.hidden_bias)

    def visible_fields(self, h: Tensor) -> Tensor:
        """W h, (B, features): what hidden units h (B, hidden) do to the visible ones."""
        if torch.is_grad_enabled() and (h.requires_grad or self.weight.requires_grad):
            return h @ self.weight.t()
        return self._times(h, True)

    def _times(self, a: Tensor, transposed: bool) -> Tensor:
        """a W or a Wᵀ without a graph."""
        return product(a, self.weight.t() if transposed else self.weight, rounding(a))

    def _remembered(self, x: Tensor) -> _Seen:
        if x.is_inference() or self.weight.is_inference():
            return _Seen(x, (), self._fields(x))
        versions = (t._version for t in (x, self.weight, self.hidden_bias, self.sigma))
        key = (*versions, int(torch.is_autocast_enabled(x.device.type)))
        for seen in self._memory.seen:
            if seen.x is x and seen.key == key:
                return seen
        self._memory.seen = [_Seen(x, key, self._fields(x)), *self._memory.seen[:2]]
        return self._memory.seen[0]

    def relaxed(self, z: Tensor, c: Any = None) -> Tensor:
        """Energies (B,) of one-hot floats z (B, *event, K) on a categorical domain."""
        f = z.flatten(1)
        fields = torch.addmm(self.hidden_bias, f, self.weight)
        if self.classes:
            return pick(self._heads(self.visible.term(self, f), fields), c)
        return self.visible.term(self, f) - self.hidden_units.log_partition(fields).sum(1)

    def joint(self, x: Tensor, h: Tensor) -> Tensor:
        """E(x, h) (B,) of visible x (B, *event) and hidden h (B, hidden), for a machine without
        label units.

        Raises ValueError for a machine with label units, or hidden units of another number.
        """
        if self.classes or h.shape != (len(x), self.hidden):
            raise ValueError(
                f"hidden units of shape {tuple(h.shape)} came to a machine of {self.hidden} with "
                f"{self.classes} classes; ({len(x)}, {self.hidden}) and no classes are needed; use "
                "class_energies for labels"
            )
        return self.term(x) + self.hidden_units.base(h).sum(1) - (self.fields(x) * h).sum(1)

    # ---- conditionals and block Gibbs ------------------------------------------------------------

    def hidden_mean(self, x: Tensor, c: Any = None) -> Tensor:
        """E[h | x], (B, hidden): probabilities for Bernoulli units; labels c (B,) sharpen them
        where there are label units.
        """
        z = self.fields(x)
        if self.classes:
            c = condition_for(c, self.classes, z)
            posterior = torch.softmax(-self.class_energies(x), 1) if c is None else c
            if posterior.dim() == 1:
                posterior = one_hot(posterior, self.classes).to(z.dtype)
            means = self.hidden_units.mean(z.unsqueeze(1) + self.label_weight)
            return (posterior.unsqueeze(2) * means).sum(1)
        return self.hidden_units.mean(z)

    def visible_mean(self, h: Tensor) -> Tensor:
        """E[x | h], (B, *event): probabilities if binary, (B, *event, K) if categorical."""
        return self.visible.mean(self, self.visible_fields(h))

    def draw_hidden(self, x: Tensor, generator: torch.Generator, c: Any = None) -> Tensor:
        """h ~ p(h | x), (B, hidden); with label units, under labels c (B,) or labels drawn from p(y
        | x).
        """
        return self._draw_hidden(x, self.fields(x), generator, c)

    def _draw_hidden(self, x: Tensor, z: Tensor, generator: torch.Generator, c: Any) -> Tensor:
        if self.classes:
            c = condition_for(c, self.classes, z)
            z = (
                z
                + self.label_weight[
                    self._draw_labels(-self._heads(self.term(x), z), generator) if c is None else c
                ]
            )
        return self.hidden_units.draw(z, generator)

    @staticmethod
    def _draw_labels(logits: Tensor, generator: torch.Generator) -> Tensor:
        return (logits - torch.empty_like(logits).exponential_(generator=generator).log()).argmax(1)

    def draw_visible(self, h: Tensor, generator: torch.Generator) -> Tensor:
        """x ~ p(x | h), (B, *event)."""
        return self.visible.draw(self, self.visible_fields(h), generator)

    def sweep(
        self,
        x: Tensor,
        sweeps: int,
        generator: torch.Generator,
        beta: float = 1.0,
        compiled: bool = False,
        c: Any = None,
    ) -> Tensor | None:
        """Block Gibbs: h ~ p(h | x), x ~ p(x | h), so many times; None for β ≠ 1: a power of p(x)
        has none (see `tempered`).
        """
        if beta != 1:
            return None
        for i in range(sweeps):
            z = (
                self.fields(x) if i == 0 else self._fields(x)
            )  # points on the way are not seen again
            x = self.draw_visible(self._draw_hidden(x, z, generator, c), generator)
        return x

    # ---- other views of the same machine ---------------------------------------------------------

    @property
    def hidden_side(self) -> Any:
        """The marginal energy of the hidden units, on binary(hidden) with the same Z; None for
        other than Bernoulli units.
        """
        from lowland.nets.boltzmann.tempered import HiddenSide

        return HiddenSide(self) if self.units == "bernoulli" else None

    def bridge(self, base: Energy, betas: Any) -> Any:
        """A path from a product law to the machine whose rungs have block Gibbs of their own; None
        for any other base.

        E_β(x) = (1 − β) E_base(x) + β V(x) − Σ_j [A(β z_j) − (1 − β) A(0)]: the base at 0, the
        machine at 1. Source: Salakhutdinov & Murray (2008), https://doi.org/10.1145/1390156.1390266
        """
        from lowland.nets.boltzmann.tempered import Rung, base_of

        law = base_of(self, base)
        return None if law is None else [Rung(self, law, float(beta)) for beta in betas]

    def tempered(self, betas: Tensor, size: int) -> Any:
        """One energy for R · size rows: block r of rows at inverse temperature β_r on the way from
        independent units.
        """
        from lowland.nets.boltzmann.tempered import Rung, own_base

        return Rung(self, own_base(self), betas.repeat_interleave(size).unsqueeze(1))

    # ---- training --------------------------------------------------------------------------------

    def prepare(self, x: Tensor) -> None:
        """See the training data (N, *event) once, before the first update: biases, scales and
        offsets start at the data's.
        """
        with torch.no_grad():
            self.visible.prepare(self, x)

    def observe(self, x: Tensor, rate: float = 0.01) -> None:
        """Let the offsets of the centred gradient follow the means of data x (B, *event), a small
        step at a time.
        """
        if not self.centred:
            return
        with torch.no_grad():
            z = self.fields(x)
            self.hidden_offset.lerp_(self.hidden_units.mean(z).mean(0), rate)
            self.visible_offset.lerp_(self.visible.features(self, x).mean(0), rate)

    def precondition(self) -> None:
        """Turn the gradients that lie in `.grad` into centred ones, if the machine is to be trained
        so.

        With offsets μ = ⟨f⟩ and λ = ⟨h⟩ of the data, and gradients of the likelihood g_W, g_a, g_c,

            g_W ← g_W − μ g_cᵀ − g_a λᵀ,      g_a ← g_a − g_W λ,      g_c ← g_c − g_Wᵀ μ

        is the direction that the machine with (f − μ)(h − λ) in place of f h would take: it does
        not depend on whether a pixel or its negative is called 1, and weights do not first have to
        learn the means. Source: Montavon & Müller (2012),
        https://doi.org/10.1007/978-3-642-35289-8_33; Melchior, Fischer & Wiskott (2016),
        https://jmlr.org/papers/v17/14-237.html
        """
        if not self.centred or self.weight.grad is None:
            return
        g_w, g_a, g_c = (
            cast(Tensor, p.grad) for p in (self.weight, self.visible_bias, self.hidden_bias)
        )
        mu, lam, before = self.visible_offset, self.hidden_offset, g_c.clone()
        g_w.addr_(mu, before, alpha=-1).addr_(g_a * self.sigma, lam, alpha=-1)
        g_a.sub_(g_w @ lam / self.sigma)
        g_c.sub_(mu @ g_w)
        if self.classes:
            g_u, g_d = cast(Tensor, self.label_weight.grad), cast(Tensor, self.label_bias.grad)
            even = g_d.new_full((self.classes,), 1 / self.classes)
            g_u.addr_(even, before, alpha=-1).addr_(g_d, lam, alpha=-1)
            g_d.sub_(g_u @ lam)
            g_c.sub_(even @ g_u)
