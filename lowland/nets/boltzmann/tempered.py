"""Other energies made of a restricted Boltzmann machine: its rungs on the way from independent
units, and its hidden side.
"""

import math
from typing import Any

import torch
from torch import Tensor

from lowland.domain import binary
from lowland.energy import Energy
from lowland.nets.boltzmann.rbm import RBM
from lowland.nets.boltzmann.visible import Beta, Law


class Base:
    """A product law as a rung needs it: natural parameters, and the constant that makes its energy
    that of the base.
    """

    def __init__(self, law: Law, constant: float | Tensor = 0.0) -> None:
        self.law, self.constant = law, constant


def base_of(machine: RBM, base: Energy) -> Base | None:
    """The base of a path, if it is a product law of the machine's kind of units."""
    with torch.no_grad():
        law = machine.visible.law_of(machine, base)
        if law is None:
            return None
        x = machine.visible_bias.new_zeros(1, *machine.domain.shape)
        return Base(
            law, base(x) - machine.visible.law_term(law, machine.visible.features(machine, x))
        )


def own_base(machine: RBM) -> Base:
    """Independent units with the means of the data."""
    return Base(machine.visible.own_law(machine))


class Rung(Energy):
    """E_β(x) = (1 − β) E_base(x) + β V(x) − Σ_j [A(β z_j) − (1 − β) A(0)], with one β for all or
    one per row (B, 1).

    Labels are summed over: log (1/K) Σ_y exp(β d_y + Σ_j ...) stands in the place of the sum over
    hidden units.
    """

    def __init__(self, machine: RBM, base: Base, beta: Beta) -> None:
        super().__init__(machine.domain)
        self.machine, self.base, self.beta = machine, base, beta

    def rows(self, index: Tensor) -> "Rung":
        return Rung(
            self.machine,
            self.base,
            self.beta[index] if isinstance(self.beta, Tensor) else self.beta,
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        machine, beta = self.machine, self.beta
        narrow = beta.squeeze(1) if isinstance(beta, Tensor) else beta
        f = machine.visible.features(machine, x)
        value = (machine.visible.law_term(self.base.law, f) + self.base.constant) * (1 - narrow)
        value = value + machine.visible.term(machine, f) * narrow
        at_rest = machine.hidden * machine.hidden_units.at_rest * (1 - narrow)
        return value - self._hidden(machine.fields(x)) + at_rest

    def _hidden(self, z: Tensor) -> Tensor:
        """Σ_j A(β z_j), (B,); with label units, the log of its mean over labels."""
        machine = self.machine
        if not machine.classes:
            return machine.hidden_units.log_partition(z * self.beta).sum(1)
        return self._labels(z).logsumexp(1) - math.log(machine.classes)

    def _labels(self, z: Tensor) -> Tensor:
        """β d_y + Σ_j A(β (z_j + U_yj)), (B, K)."""
        machine = self.machine
        beta = self.beta.unsqueeze(2) if isinstance(self.beta, Tensor) else self.beta
        under = (z.unsqueeze(1) + machine.label_weight) * beta
        return machine.label_bias * self.beta + machine.hidden_units.log_partition(under).sum(2)

    def sweep(
        self,
        x: Tensor,
        sweeps: int,
        generator: torch.Generator,
        beta: float = 1.0,
        compiled: bool = False,
    ) -> Tensor | None:
        """Block Gibbs of the joint law of visible and hidden units at β."""
        if beta != 1:
            return None
        machine = self.machine
        for _ in range(sweeps):
            z = machine.fields(x)
            if machine.classes:
                z = z + machine.label_weight[machine._draw_labels(self._labels(z), generator)]
            h = machine.hidden_units.draw(z * self.beta, generator)
            x = machine.visible.draw(
                machine, machine.visible_fields(h), generator, self.beta, self.base.law
            )
        return x


class HiddenSide(Energy):
    """The hidden units of a machine as the visible ones of another: E(h) = −c·h − log ∫ exp(f·Wh −
    V) dx, with the same Z.

    With label units, log (1/K) Σ_y exp(d_y + U_y·h) is added to what the visible side gives.
    """

    def __init__(self, machine: RBM) -> None:
        super().__init__(binary(machine.hidden))
        self.machine = machine

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        machine = self.machine
        value = -(x @ machine.hidden_bias) - machine.visible.log_partition(
            machine, x @ machine.weight.t()
        )
        if machine.classes:
            labels = x @ machine.label_weight.t() + machine.label_bias
            value = value - labels.logsumexp(1) + math.log(machine.classes)
        return value
