"""Energies made of a restricted Boltzmann machine: annealing paths and the hidden marginal."""

import math
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from lowland.domain import binary
from lowland.energy import ConditionLike, Energy, Gibbs
from lowland.nets.boltzmann.visible import Law

if TYPE_CHECKING:
    from lowland.nets.boltzmann.rbm import RBM


class Base:
    """Start of a path: a product distribution's natural parameters and its energy's constant."""

    def __init__(self, law: Law, constant: float | Tensor = 0.0) -> None:
        self.law, self.constant = law, constant


def base_of(machine: "RBM", base: Energy) -> Base | None:
    """Convert an energy of independent units of the machine's kind to a base; None otherwise."""
    with torch.no_grad():
        law = machine.visible.law_of(machine, base)
        if law is None:
            return None
        x = machine.visible.origin(machine)
        f = machine.visible.features(machine, x)
        return Base(law, base(x) - machine.visible.law_term(law, f))


def own_base(machine: "RBM") -> Base:
    """Return the base of independent units with the means of the data."""
    return Base(machine.visible.own_law(machine))


class Rung(Energy):
    """E_β(x) = (1 − β) E_base(x) + β V(x) − Σ_j [A(β z_j) − (1 − β) A(0)].

    beta: one for all rows or one for each. Labels are summed over: log (1/K) Σ_y exp(β d_y + Σ_j
    ...) replaces the sum over hidden units.
    """

    beta: Tensor

    def __init__(self, machine: "RBM", base: Base, beta: float | Tensor) -> None:
        super().__init__(machine.domain)
        self.machine, self.base = machine, base
        like = machine.visible_bias
        rows = torch.as_tensor(beta, dtype=like.dtype, device=like.device)
        self.register_rows("beta", rows.view(-1, 1))

    @property
    def gibbs(self) -> Gibbs:
        fields = self.machine.compute_fields
        return Gibbs(sweep=self.sweep, fields=fields, energy_from=self.energy_from)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.energy_from(x, self.machine.fields(x))

    def energy_from(self, x: Tensor, fields: Tensor, c: ConditionLike = None) -> Tensor:
        """Return E_β(x) (B,) with the machine's fields of x."""
        machine, beta = self.machine, self.beta.squeeze(1)
        f = machine.visible.features(machine, x)
        value = (machine.visible.law_term(self.base.law, f) + self.base.constant) * (1 - beta)
        value = value + machine.visible.term(machine, f) * beta
        at_rest = machine.n_hidden * machine.hidden_units.at_rest * (1 - beta)
        return value - self._hidden(fields) + at_rest

    def _hidden(self, z: Tensor) -> Tensor:
        """Return Σ_j A(β z_j), (B,); with label units, the log of the mean over labels."""
        machine = self.machine
        if not machine.classes:
            return machine.hidden_units.log_partition(z * self.beta).sum(1)
        return self._labels(z).logsumexp(1) - math.log(machine.classes)

    def _labels(self, z: Tensor) -> Tensor:
        """Return β d_y + Σ_j A(β (z_j + U_yj)), (B, K)."""
        machine = self.machine
        under = (z.unsqueeze(1) + machine.label_weight) * self.beta.unsqueeze(2)
        return machine.label_bias * self.beta + machine.hidden_units.log_partition(under).sum(2)

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
        """Run block Gibbs of the joint distribution of visible and hidden units at the rung's β."""
        machine = self.machine
        for _ in range(sweeps):
            z = machine.compute_fields(x) if fields is None else fields
            if machine.classes:
                z = z + machine.label_weight[machine._draw_labels(self._labels(z), generator)]
            h = machine.hidden_units.draw(z * self.beta, generator)
            x = machine.visible.draw(
                machine, machine.visible_fields(h), generator, self.beta, self.base.law
            )
            fields = None
        return x


class HiddenMarginal(Energy):
    """Marginal energy of hidden units, with the same Z: E(h) = −c·h − log ∫ exp(f·Wh − V) dx.

    With label units, −log (1/K) Σ_y exp(d_y + U_y·h) is added.
    """

    def __init__(self, machine: "RBM") -> None:
        super().__init__(binary(machine.n_hidden))
        self.machine = machine

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        machine = self.machine
        visible = machine.visible.log_partition(machine, x @ machine.weight.t())
        value = -(x @ machine.hidden_bias) - visible
        if machine.classes:
            labels = x @ machine.label_weight.t() + machine.label_bias
            value = value - labels.logsumexp(1) + math.log(machine.classes)
        return value
