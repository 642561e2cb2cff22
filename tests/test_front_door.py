"""The front door as a stranger meets it: a network and data of one's own, and a loop of one's own.

Only public names are used.
"""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowland as ll
from lowland import objectives
from lowland.energy import ConditionLike, Energy, NoiseCondition
from lowland.registry import register, registered


def plane(count: int = 300, seed: int = 0) -> Tensor:
    """Draw points of two interleaved half circles."""
    return ll.load_data("moons", count=max(count, 64), seed=seed).train.x[:count]


def mlp(width: int = 32) -> nn.Sequential:
    """Build a network of the plane, (B, 2) -> (B,)."""
    layers = [nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))


class OfNoise(Energy):
    """An energy E(x, σ) of one's own: `forward` and one property."""

    def __init__(self) -> None:
        super().__init__(ll.real(2))
        self.net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition()

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        sigma = torch.as_tensor(c, dtype=x.dtype).expand(len(x))
        return self.net(torch.cat([x, sigma.log().unsqueeze(1)], 1)) / sigma


def heads(classes: int) -> nn.Sequential:
    """Build a classifier of the plane with smooth logits (B, classes)."""
    return nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, classes))


OF_NOISE = ("MultilevelDSM", "DiffusionRecovery")
OF_LABELS = ("JEM", "Robust", "OutlierExposure")
OF_BITS = ("PseudoLikelihood", "RatioMatching")


def own_energy(name: str) -> tuple[Any, Any]:
    """Return an own energy for an objective, and a batch for it."""
    x = plane(64)
    if name in OF_NOISE:
        return OfNoise(), x
    if name in OF_LABELS:
        return ll.nets.ClassifierEnergy(heads(2), 2, ll.real(2)), (x, torch.arange(64) % 2)
    if name in OF_BITS:
        return ll.Function(mlp(), ll.binary(2)), (x > 0).float()
    if name == "InfoNCE":
        return ll.nets.PairEnergy(ll.real(2)), x
    return mlp(), x


@pytest.mark.parametrize("name", sorted(registered("objective")))
def test_every_objective_takes_the_same_call_in_a_loop_of_ones_own(name: str) -> None:
    torch.manual_seed(0)
    energy, batch = own_energy(name)
    objective = registered("objective")[name]()
    g = torch.Generator().manual_seed(0)
    for _ in range(2):
        energy.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a partner that no optimizer knows
            loss = objective(energy, batch, generator=g)
        loss.value.backward()
        gradients = [p.grad for p in energy.parameters() if p.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)


def test_chains_stay_with_the_energy_between_calls_and_go_with_it() -> None:
    from lowland.objectives import own_loop

    energy, x, g = mlp(), plane(32), torch.Generator().manual_seed(0)
    objective = objectives.PCD(steps=3, buffer_size=64, reinit_prob=0.0)
    for _ in range(4):
        loss = objective(energy, x, generator=g)
    kept = own_loop._kept[energy][objective]
    assert kept.buffer is not None and int(kept.buffer.age.max()) > 3
    assert loss.negatives is not None
    del energy, loss, kept
    assert not [key for key in own_loop._kept if isinstance(key, nn.Sequential)]


def test_a_prepared_context_holds_what_the_objective_needs_and_nothing_else() -> None:
    x, g = plane(64), torch.Generator().manual_seed(0)
    pcd = objectives.PCD(buffer_size=100).prepare(mlp(), x, generator=g)
    assert pcd.sampler is not None and pcd.buffer is not None and pcd.partner is None
    dsm = objectives.DSM().prepare(mlp(), x, generator=g)
    assert (dsm.sampler, dsm.buffer, dsm.partner) == (None, None, None)
    flow = objectives.FlowContrastive(hidden=(8,)).prepare(mlp(), x, generator=g)
    assert list(flow.parameters()) and flow.sampler is None


def test_a_partner_that_no_optimizer_knows_is_said() -> None:
    g = torch.Generator().manual_seed(0)
    with pytest.warns(UserWarning, match=r"partner.*prepare"):
        objectives.NCE()(mlp(), plane(64), generator=g)


def test_a_call_without_a_generator_says_what_to_pass() -> None:
    with pytest.raises(ValueError, match=r"neither a context nor a generator; .*; .*generator=g"):
        objectives.DSM()(mlp(), plane(8))
    context = objectives.DSM().prepare(mlp(), plane(8), generator=torch.Generator())
    with pytest.raises(ValueError, match="holds both; pass the context alone"):
        objectives.DSM()(mlp(), plane(8), context, generator=torch.Generator())


def test_a_cell_that_registers_a_class_may_run_twice() -> None:
    cell = "@register('energy')\nclass Cell(Energy):\n    '''A class of a notebook.'''\n"
    scope: dict[str, Any] = {"register": register, "Energy": Energy, "__name__": "__main__"}
    for _ in range(2):
        exec(cell, scope)
    assert registered("energy")["Cell"] is scope["Cell"]
    with pytest.raises(ValueError, match=r"is taken by lowland.*; one name stands for one class"):
        exec("@register('energy')\nclass MLP(Energy):\n    pass\n", scope)
