"""Adapters to deepinv: its physics as our operators, our energies as its priors."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from lowland.energy import Energy, energy_values, lift, noise_of, value_and_score
from lowland.extras import import_extra
from lowland.tasks.inverse.operators import Operator

if TYPE_CHECKING:
    from deepinv.optim import Prior
    from deepinv.physics import LinearPhysics


@dataclass(frozen=True)
class DeepinvOperator(Operator):
    """A linear physics of deepinv as an operator: A and A_adjoint, without its noise; the noise
    level is an argument of the tasks.

    Raises ValueError for a physics without an adjoint. Source: deepinv (2025),
    https://github.com/deepinv/deepinv
    """

    physics: "LinearPhysics"

    def __post_init__(self) -> None:
        if not callable(getattr(self.physics, "A_adjoint", None)):
            raise ValueError(
                f"{type(self.physics).__name__} has no A_adjoint; an operator needs the transpose; "
                "pass a linear physics"
            )

    def A(self, x: Tensor) -> Tensor:
        return self.physics.A(x)

    def A_T(self, y: Tensor) -> Tensor:
        return self.physics.A_adjoint(y)


def to_deepinv(energy: Energy) -> "Prior":
    """Return an energy of x as an explicit `deepinv.optim.Prior`: E as its value, −score as its
    gradient; the noise level is ignored.

    Raises ImportError without deepinv (the extra `inverse`), ValueError for an energy of noise
    whose level is not bound.
    """
    optim = import_extra("deepinv.optim")
    energy = lift(energy)
    if noise_of(energy):
        raise ValueError(
            f"{type(energy).__name__} is an energy of noise; a prior is one of x alone; pass "
            "energy.given(0.1)"
        )

    class EnergyPrior(optim.Prior):  # type: ignore[name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.explicit_prior, self.energy = True, energy

        def fn(self, x: Tensor, *_: object, **__: object) -> Tensor:
            return self.energy(x) if x.requires_grad else energy_values(self.energy, x)

        def grad(self, x: Tensor, *_: object, **__: object) -> Tensor:
            return -value_and_score(self.energy, x)[1]

    return EnergyPrior()
