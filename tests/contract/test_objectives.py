"""What every registered objective keeps to."""

import dataclasses
import inspect
import json
import re
from collections.abc import Callable
from functools import cache, wraps
from importlib.util import find_spec
from typing import Any

import pytest
import torch
from torch import Tensor

from contract import checks
from contract.cases import BAD, Case, cases, seeded
from lowland import BlockGibbs, Energy, Langevin, ReplayBuffer, binary, box, real
from lowland.energy import count_classes
from lowland.nets import MLP, RBM, ConvNet, NoiseMLP, PairEnergy
from lowland.objectives import Batch, Context, Loss, Objective, nce
from lowland.registry import build, parameters, spec

LACKING = set() if find_spec("zuko") else {"FlowContrastive"}  # trains a flow of zuko, an extra
CASES = [case for case in cases("objective") if case.name not in LACKING]
every = pytest.mark.parametrize("case", CASES, ids=str)
joint = pytest.mark.parametrize("case", [c for c in CASES if c.needs_classes], ids=str)
contrasting = [
    c
    for c in CASES
    if "l2" in parameters(type(c.build())) and not c.settings and not c.needs_classes
]  # and nothing but the contrast
chained = [c for c in CASES if "steps" in parameters(type(c.build()))]
ROWS = 12
KINDS: dict[str, dict[str, Any]] = {
    "vector": {},
    "classes": {"classes": 4},
    "spectral": {"spectral_norm": True},
    "spectral classes": {"spectral_norm": True, "classes": 4},
    "image": {},
    "image classes": {"classes": 4},
    "noise": {},
    "binary": {},
    "pairs": {},
}


def network(kind: str) -> Energy:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind.startswith("image"):
            return ConvNet(
                box(0.0, 1.0, 1, 8, 8),
                channels=(4,),
                kernels=(3,),
                strides=(2,),
                hidden=8,
                **KINDS[kind],
            )
        if kind == "noise":
            return NoiseMLP(real(3), hidden=(16,), quadratic_weight=0.5)
        if kind == "pairs":
            return PairEnergy(real(3), hidden=(16,), anchors=4)
        if kind == "binary":
            return RBM(binary(6), n_hidden=5, init_std=0.5, centered=False)
        return MLP(real(3), hidden=(16,), quadratic_weight=0.5, **KINDS[kind])


@cache
def takes(name: str, settings: tuple[tuple[str, Any], ...], kind: str) -> bool:
    """Whether an objective takes a network, or refuses it at the door in three clauses."""
    try:
        run(Case("objective", name, dict(settings)).build(), network(kind))
    except ValueError as refusal:
        assert str(refusal).count(";") >= 2, (
            f"{name} refuses a network in other than three clauses: {refusal}"
        )
        return False
    return True


def kinds_for(case: Case) -> list[str]:
    """The networks that an objective takes; each takes some."""
    found = [kind for kind in KINDS if takes(case.name, tuple(case.settings.items()), kind)]
    assert found, f"{case} takes none of the networks here"
    return found


def with_networks(cases: list[Case]) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test of (case, kind) for every case, there with every network that it takes.

    Which those are is found by trying, in the test and not while tests are collected.
    """

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        @wraps(test)
        def with_every_network(case: Case, **more: Any) -> None:
            for kind in kinds_for(case):
                try:
                    test(case, kind, **more)
                except BaseException as error:
                    error.add_note(f"{case} with the network {kind!r}")
                    raise

        asked = inspect.signature(test)
        left = [p for name, p in asked.parameters.items() if name != "kind"]
        vars(with_every_network)["__signature__"] = asked.replace(parameters=left)
        return pytest.mark.parametrize("case", cases, ids=str)(with_every_network)

    return decorate


def run(
    objective: Objective, energy: Energy, seed: int = 0, restart: float = 0.05
) -> tuple[Loss, Tensor, Tensor | None]:
    classes = count_classes(energy)
    if objective.persistent:
        buffer = ReplayBuffer(
            64, energy.domain, generator=seeded(seed + 9), classes=classes, reinit_prob=restart
        )
    else:
        buffer = None
    x = energy.domain.draw(ROWS, seeded(seed + 1))
    with torch.random.fork_rng(), pytest.MonkeyPatch.context() as patch:
        torch.manual_seed(3)
        patch.setattr(nce, "PILOT_DRAWS", 50)  # a rough log Z to begin with does here
        partner = objective.make_partner(energy, energy.domain.draw(200, seeded(8)))
    labels = torch.arange(ROWS) % classes if classes else None
    sampler = Langevin(0.01) if energy.domain.kind != "binary" else BlockGibbs()
    context = Context(seeded(seed), sampler, buffer, partner=partner)
    loss = objective.loss(energy, Batch(x, labels), context)
    return loss, x, labels


networks = with_networks(CASES)


@every
def test_is_a_frozen_dataclass_whose_spec_survives_json(case: Case) -> None:
    objective = case.build()
    assert build("objective", json.loads(json.dumps(spec(objective)))) == objective
    for field in dataclasses.fields(objective):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(objective, field.name, 1)


@every
def test_says_what_it_costs_and_when_to_use_it(case: Case) -> None:
    """The page "Which objective?" is made of these sentences."""
    text = " ".join((inspect.getdoc(type(case.build())) or "").split())
    assert (
        re.search(r"Cost(?: per update)?: \S", text)
        and "Use it " in text
        and re.search(r"https?://", text)
    )


@every
def test_bad_settings_are_refused(case: Case) -> None:
    for name in parameters(type(case.build())):
        for value in BAD.get(name, ()):
            with pytest.raises(ValueError, match=r";.*;"):
                case.build(**{name: value})


@networks
def test_loss_is_a_finite_scalar_and_its_terms_are_detached(case: Case, kind: str) -> None:
    loss, x, _ = run(case.build(), network(kind))
    assert loss.value.shape == () and loss.value.isfinite() and loss.value.requires_grad
    assert loss.terms, "a loss has terms for the log"
    for name, term in loss.terms.items():
        assert term.shape == () and not term.requires_grad and term.isfinite(), name
    assert loss.negatives is None or (
        not loss.negatives.requires_grad and loss.negatives.shape == x.shape
    )


@networks
def test_gradient_reaches_the_weights_only_through_the_loss(case: Case, kind: str) -> None:
    energy = network(kind).eval()
    checks.unsettle(energy)
    energy.eval()
    frozen_before = [p for p in energy.parameters() if not p.requires_grad]
    with checks.no_trace(energy):
        loss, x, _ = run(case.build(), energy)
    assert x.grad is None and not x.requires_grad
    energy.zero_grad()
    loss.value.backward()
    assert all(p.grad is None for p in frozen_before)
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in energy.parameters())
    assert x.grad is None and (loss.negatives is None or loss.negatives.grad is None)


@networks
def test_modes_stay_mixed_while_training(case: Case, kind: str) -> None:
    energy = network(kind)
    checks.unsettle(energy)
    with checks.no_trace(energy, buffers=False):  # the loss's own forward may advance spectral norm
        run(case.build(), energy)


@networks
def test_same_generator_same_loss(case: Case, kind: str) -> None:
    energy = network(kind).eval()
    before = torch.get_rng_state()
    a, b = (run(case.build(), energy)[0] for _ in range(2))
    assert torch.equal(a.value, b.value) and torch.equal(before, torch.get_rng_state())
    assert a.terms.keys() == b.terms.keys() and all(
        torch.equal(a.terms[k], b.terms[k]) for k in a.terms
    )
    assert not torch.equal(a.value, run(case.build(), energy, seed=5)[0].value)


@networks
def test_data_are_left_as_they_were(case: Case, kind: str) -> None:
    energy = network(kind)
    x = run(case.build(), energy)[1]
    assert torch.equal(x, energy.domain.draw(ROWS, seeded(1)))


@pytest.mark.parametrize("l2", [0.0, 0.3])
@with_networks(contrasting)
def test_contrast_is_that_of_data_and_negatives_as_constants(
    case: Case, kind: str, l2: float
) -> None:
    objective = dataclasses.replace(case.build(), l2=l2)
    energy = network(kind).eval()
    loss, x, labels = run(objective, energy)
    negative_labels = labels
    if objective.persistent and labels is not None:
        buffer = ReplayBuffer(64, energy.domain, generator=seeded(9), classes=4)
        negative_labels = buffer.sample(ROWS, seeded(0)).labels
    expected = checks.direct_contrast(energy, x, loss.negatives, l2, labels, negative_labels)
    found = torch.autograd.grad(loss.value, list(energy.parameters()))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    up = energy(x) if labels is None else energy(x, labels)
    torch.testing.assert_close(loss.terms["energy_data"], up.mean().detach())
    torch.testing.assert_close(
        loss.terms["gap"], loss.terms["energy_model"] - loss.terms["energy_data"]
    )


@with_networks(chained)
def test_chains_do_not_advance_spectral_norm(case: Case, kind: str) -> None:
    """One training forward advances the power iteration once, however long the chains are."""
    buffers = []
    for steps in (1, 6):
        energy = network(kind).train()
        run(dataclasses.replace(case.build(), steps=steps), energy)
        buffers.append([b.clone() for b in energy.buffers()])
    assert bool(buffers[0]) or "spectral" not in kind
    assert all(torch.equal(a, b) for a, b in zip(*buffers, strict=True))


@joint
@pytest.mark.parametrize("kind", ["vector", "spectral", "image"])
def test_what_needs_classes_refuses_an_energy_without(case: Case, kind: str) -> None:
    with pytest.raises(ValueError, match=r"needs? .*classes.*;"):
        run(case.build(), network(kind))
