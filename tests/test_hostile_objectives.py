"""Every objective and term with hostile energies, batches and settings: a right loss, or a
ValueError in three clauses.
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import lowland
from lowland.objectives import CD, DSM, NCE, PCD, Batch, Context, GradientPenalty, ScoreMatching
from lowland.objectives.loss import Loss
from lowland.registry import parameters, registered
from lowland.replay import ReplayBuffer
from tests.contract.checks import seeded

REAL = lowland.real(2)


class Odd(lowland.Energy):
    """An energy of one kind of oddity, with a weight."""

    def __init__(self, kind: str) -> None:
        super().__init__(REAL)
        self.kind, self.weight = kind, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        bowl = 0.5 * self.weight * x.square().sum(1)
        if self.kind == "constant":
            return self.weight.expand(len(x))
        if self.kind == "zero":
            return torch.zeros(len(x))
        if self.kind == "cuts the graph":
            return 0.5 * self.weight * x.detach().square().sum(1)
        if self.kind == "cuts a term":
            return bowl + 0.5 * self.weight * (x.detach() - 1).square().sum(1)
        if self.kind == "linear without weights":
            return x.sum(1)
        if self.kind == "complex":
            return torch.complex(bowl, bowl)
        if self.kind == "float64":
            return bowl.double()
        if self.kind == "a column":
            return bowl.unsqueeze(1)
        if self.kind == "in place":
            return self.weight * x.mul_(2).square().sum(1)
        if self.kind == "floats":
            return [float(e) for e in bowl]  # type: ignore[return-value]
        if self.kind == "NumPy":
            return bowl.detach().numpy()  # type: ignore[return-value]
        return bowl.long() if self.kind == "integers" else bowl


REFUSED = ("complex", "a column", "in place", "floats", "NumPy", "integers")
CUT = ("cuts the graph", "cuts a term")
KINDS = ("constant", "zero", "linear without weights", "float64", *CUT, *REFUSED)
OBJECTIVES = registered("objective")
TERMS = registered("term")


def run(objective: Any, energy: Any, x: Tensor) -> Loss:
    torch.manual_seed(0)
    buffer = None
    if objective.persistent:
        buffer = ReplayBuffer(64, REAL, generator=seeded(9))
    partner = objective.make_partner(energy, torch.randn(200, 2, generator=seeded(8)))
    context = Context(seeded(), lowland.Langevin(0.01), buffer, partner=partner)
    return objective.loss(energy, Batch(x), context)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(OBJECTIVES))
def test_an_objective_takes_an_odd_energy_or_refuses_it_in_words(name: str, kind: str) -> None:
    x, energy = torch.randn(6, 2, generator=seeded(1)), Odd(kind)
    before, objective = x.clone(), OBJECTIVES[name]()
    try:
        loss = run(objective, energy, x)
    except ValueError as error:
        assert re.match(r"^[^;]+(;[^;]+){2,}$", str(error)), error
        if kind not in (*REFUSED, *CUT):  # refused for what it is, not for what it gives
            assert "gradient" not in str(error)
    else:
        assert kind not in REFUSED and (kind not in CUT or not objective.differentiates)
        assert loss.value.shape == () and bool(loss.value.isfinite())
        if kind == "constant":
            loss.value.backward()
    assert torch.equal(x, before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", sorted(TERMS))
def test_a_term_takes_an_odd_energy_or_refuses_it_in_words(name: str, kind: str) -> None:
    x = torch.randn(6, 2, generator=seeded(1))
    loss = Loss(torch.zeros(()), {}, torch.randn(6, 2, generator=seeded(2)))
    try:
        found = TERMS[name]().add(loss, Odd(kind), Batch(x), Context(seeded()))
    except ValueError as error:
        assert str(error).count(";") >= 2, error
    else:
        assert kind not in REFUSED and bool(found.value.isfinite())


def test_losses_of_energies_without_a_slope_are_those_of_a_zero_score() -> None:
    x, context = torch.randn(500, 2, generator=seeded(1)), Context(seeded())
    for energy in (Odd("constant"), Odd("zero")):
        # the noise is all that is left: half its square
        assert abs(DSM().loss(energy, Batch(x), context).value.item() - 0.5) < 0.1
        for method in ("exact", "hutchinson", "sliced"):
            assert ScoreMatching(method=method).loss(energy, Batch(x), context).value.item() == 0
    # a linear energy: ½ ‖1‖² and no curvature
    assert ScoreMatching().loss(Odd("linear without weights"), Batch(x), context).value.item() == 1
    loss = Loss(torch.zeros(()), {})
    assert GradientPenalty(1.0, 1.0).add(loss, Odd("constant"), Batch(x), context).value > 0.99


def test_callables_points_and_generators_are_read_as_they_are_meant() -> None:
    net = nn.Sequential(nn.Linear(2, 4), nn.SiLU(), nn.Linear(4, 1), nn.Flatten(0))
    x = torch.randn(6, 2, generator=seeded(1))
    plain = DSM().loss(net, x, seeded())
    assert torch.equal(
        plain.value, DSM().loss(lowland.Function(net), Batch(x), Context(seeded())).value
    )
    plain.value.backward()
    assert net[0].weight.grad is not None
    assert torch.equal(
        CD().loss(net, (x, None), Context(seeded(), lowland.MALA(0.1))).value.isfinite(),
        torch.tensor(True),
    )


WRONG: dict[str, tuple[Any, Any, Any, str]] = {
    "no energy": (3, torch.zeros(4, 2), seeded(), "for an energy"),
    "a dict": (Odd(""), {"x": torch.zeros(4, 2)}, seeded(), "for a batch"),
    "None": (Odd(""), None, seeded(), "for a batch"),
    "NumPy": (Odd(""), np.zeros((4, 2)), seeded(), "for a batch"),
    "no context": (Odd(""), torch.zeros(4, 2), None, "for its context"),
    "a seed": (Odd(""), torch.zeros(4, 2), 0, "for its context"),
    "integers": (Odd(""), torch.zeros(4, 2).long(), seeded(), "floating point"),
    "no rows": (Odd(""), torch.zeros(0, 2), seeded(), "B > 0"),
    "another width": (Odd(""), torch.zeros(4, 3), seeded(), "event shape"),
    "NaN": (Odd(""), torch.full((4, 2), math.nan), seeded(), "not finite"),
    "labels for a net": (
        nn.Linear(2, 1),
        Batch(torch.zeros(4, 2), torch.zeros(4).long()),
        seeded(),
        "labels",
    ),
    "soft labels": (Odd(""), Batch(torch.zeros(4, 2), torch.ones(4, 3) / 3), seeded(), "argmax"),
    "labels that are numbers": (
        Odd(""),
        Batch(torch.zeros(4, 2), torch.zeros(4)),
        seeded(),
        "labels",
    ),
    "too few labels": (
        Odd(""),
        Batch(torch.zeros(4, 2), torch.zeros(3).long()),
        seeded(),
        "labels",
    ),
    "a class too many": (
        lowland.nets.MLP(REAL, hidden=(4,), classes=3),
        Batch(torch.zeros(4, 2), torch.tensor([0, 1, 2, 3])),
        seeded(),
        "3 classes",
    ),
    "double precision": (
        lowland.nets.MLP(REAL, hidden=(4,)),
        torch.zeros(4, 2).double(),
        seeded(),
        "float64",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_call_of_an_objective_is_refused(name: str) -> None:
    energy, batch, context, words = WRONG[name]
    with pytest.raises(ValueError, match=words) as refused:
        DSM().loss(energy, batch, context)
    assert str(refused.value).count(";") >= 2


def test_what_an_objective_lacks_is_named() -> None:
    x, context = torch.zeros(4, 2), Context(seeded())
    for name in ("NCE", "RankingNCE", "FlowContrastive", "Cooperative"):
        with pytest.raises(ValueError, match=r"no partner;.*make_partner"):
            OBJECTIVES[name]().loss(Odd(""), Batch(x), context)
    with pytest.raises(ValueError, match="no chains"):
        PCD().loss(Odd(""), x, context)
    with pytest.raises(ValueError, match="no sampler"):
        CD().loss(Odd(""), x, context)


@pytest.mark.parametrize("name", sorted({**OBJECTIVES, **TERMS}))
def test_numbers_of_numpy_are_numbers_and_booleans_are_none(name: str) -> None:
    cls = {**OBJECTIVES, **TERMS}[name]
    made = cls()
    for field, parameter in parameters(cls).items():
        value = parameter.default
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            continue
        alike = np.int64(value) if isinstance(value, int) else np.float64(value)
        again = dataclasses.replace(made, **{field: alike})
        assert again == made and type(vars(again)[field]) is type(value), field
        assert dataclasses.replace(made, **{field: torch.tensor(value)}) is not None
        for wrong in (True, "3", math.nan, None, [1], 1j):
            with pytest.raises(ValueError, match=r".*;.*;"):
                dataclasses.replace(made, **{field: wrong})
        if isinstance(value, int) and field not in ("weight", "l2", "kl"):
            with pytest.raises(ValueError, match=r".*;.*;"):
                dataclasses.replace(made, **{field: value + 0.5})


def test_a_partner_is_made_of_a_callable_too() -> None:
    x, net = torch.randn(50, 2, generator=seeded()), nn.Sequential(nn.Linear(2, 1), nn.Flatten(0))
    energy = lowland.Function(net, REAL)
    partner = NCE().make_partner(energy, x)
    assert NCE().loss(energy, x, Context(seeded(), partner=partner)).value.isfinite()
