"""Neighbours: formulas by enumeration, minimisers at the truth, unbiased subsets of sites, one
chunk's graph at a time.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from itertools import product
from typing import Any
from unittest import mock

import pytest
import torch
from contract.cases import seeded
from contract.truths import TRUTHS, Table, at_the_table, drawn_from, law, planted, slopes, states
from torch import Tensor, nn

from lowland import Energy, Function, binary, categorical, real
from lowland.nets import DBM, MLP, RBM
from lowland.objectives import (
    Batch,
    Context,
    EnergyDiscrepancy,
    PseudoLikelihood,
    RatioMatching,
    discrepancy,
)
from lowland.targets import Ising, Potts
from lowland.testing import LIMIT, caught, worst

DOUBLE = torch.float64


class Lattice(Energy):
    """Σ_{i<j} J_ij s_i s_j + Σ h_i s_i over nine spins on a 3 × 3 square, all couplings to
    learn.
    """

    def __init__(self, seed: int = 0, spread: float = 0.4) -> None:
        super().__init__(binary(3, 3))
        g = seeded(seed)
        self.coupling = nn.Parameter(spread * torch.randn(9, 9, generator=g, dtype=DOUBLE).triu(1))
        self.field = nn.Parameter(spread * torch.randn(9, generator=g, dtype=DOUBLE))

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        s = 2 * x.flatten(1) - 1
        return (s @ self.coupling.triu(1) * s).sum(1) + s @ self.field


def machine(seed: int = 0) -> Energy:
    """A restricted Boltzmann machine of six bits."""
    torch.manual_seed(seed)
    rbm = RBM(binary(6), 4, init_std=0.8).double()
    nn.init.normal_(rbm.visible_bias, std=0.5)
    return rbm


def table(classes: int, sites: int, seed: int = 7) -> Table:
    domain = binary(sites) if classes == 2 else categorical(classes, sites)
    return Table(domain, torch.randn(classes**sites, generator=seeded(seed), dtype=DOUBLE))


MODELS: dict[str, Callable[[int], Energy]] = {
    "rbm": machine,
    "lattice": Lattice,
    "bits": lambda seed: table(2, 4, seed),
    "classes": lambda seed: table(3, 3, seed),
}


def loss_of(
    objective: Any, energy: Energy, x: Tensor, seed: int = 0, labels: Tensor | None = None
) -> Any:
    return objective.loss(energy, Batch(x, labels), Context(seeded(seed)))


def expected(objective: Any, energy: Energy, p: Tensor) -> Tensor:
    """The exact mean of a loss over a law on all states, one state at a time."""
    return (
        torch.stack([loss_of(objective, energy, x.unsqueeze(0)).value for x in states(energy)]) @ p
    )


def by_tables(energy: Energy, p: Tensor, share: Callable[[Tensor], Tensor]) -> Tensor:
    """Σ_x p(x) Σ_i share(P(x_i | rest)), the conditionals by summing the table of exp(−E)/Z over
    each site in turn.
    """
    values = 2 if energy.domain.kind == "binary" else energy.domain.classes
    sites = math.prod(energy.domain.shape)
    joint = (-energy(states(energy))).softmax(0).view([values] * sites)
    conditional = [joint / joint.sum(i, keepdim=True) for i in range(sites)]
    return sum((p.view_as(joint) * share(c)).sum() for c in conditional)


def pairs() -> list[Any]:
    both = [
        pytest.param(PseudoLikelihood(), lambda c: -c.log(), name, id=f"pl-{name}")
        for name in MODELS
    ]
    bits = [name for name in MODELS if name != "classes"]
    return both + [
        pytest.param(RatioMatching(), lambda c: (1 - c).square(), name, id=f"rm-{name}")
        for name in bits
    ]


@pytest.mark.parametrize(("objective", "share", "model"), pairs())
def test_loss_and_gradient_are_those_of_the_enumerated_formula(
    objective: Any, share: Any, model: str
) -> None:
    energy, p = MODELS[model](0), law(MODELS[model](1))
    found, truth = expected(objective, energy, p), by_tables(energy, p, share)
    torch.testing.assert_close(found, truth, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(slopes(found, energy), slopes(truth, energy), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(("objective", "share", "model"), pairs())
def test_the_gradient_vanishes_at_the_truth_and_only_there(
    objective: Any, share: Any, model: str
) -> None:
    energy = MODELS[model](0)
    assert slopes(expected(objective, energy, law(energy)), energy).abs().max() < 1e-9
    assert slopes(expected(objective, energy, law(MODELS[model](1))), energy).abs().max() > 1e-2


@pytest.mark.parametrize("objective", [PseudoLikelihood(), RatioMatching()], ids=str)
def test_training_on_the_exact_law_finds_it(objective: Any) -> None:
    truth, energy = table(2, 4, 1), table(2, 4, 2)
    p = law(truth)
    optimiser = torch.optim.LBFGS(
        energy.parameters(), max_iter=200, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        value = expected(objective, energy, p)
        value.backward()
        return value

    optimiser.step(closure)
    assert (law(energy) / p - 1).abs().max() < 1e-4


@pytest.mark.parametrize(
    "objective", [PseudoLikelihood(2), RatioMatching(2), PseudoLikelihood(5)], ids=str
)
def test_a_subset_of_sites_is_unbiased(objective: Any) -> None:
    # 400 draws of the sites on one batch; value and gradient against those of all sites
    energy = machine()
    x = energy.domain.draw(5, seeded(1), dtype=DOUBLE)
    whole = loss_of(dataclasses.replace(objective, sites=0), energy, x).value
    found = []
    for seed in range(400):
        value = loss_of(objective, energy, x, seed).value
        found.append(torch.cat([value.detach().view(1), slopes(value, energy)]))
    assert (
        worst(torch.stack(found), torch.cat([whole.detach().view(1), slopes(whole, energy)]))
        < LIMIT
    )
    assert torch.stack(found).std(0).min() > 0


def test_sites_are_different_ones_in_each_row() -> None:
    index, weight = discrepancy._choose_sites(torch.zeros(50, 2, 5), 4, seeded())
    assert (
        weight == 2.5
        and all(len(row.unique()) == 4 for row in index)
        and len(index.unique(dim=0)) > 40
    )


@pytest.mark.parametrize(
    "lattice",
    [Ising((3, 3), 0.3, 0.2), Potts((2, 3), 3, 0.7, (0.1, -0.2, 0.3))],
    ids=["ising", "potts"],
)
@pytest.mark.parametrize("sites", [0, 3])
def test_declared_conditionals_say_the_same_as_energies(lattice: Any, sites: int) -> None:
    x = lattice.domain.draw(7, seeded(), dtype=DOUBLE)
    silent = Function(lattice.forward, lattice.domain)
    told, found = (loss_of(PseudoLikelihood(sites), energy, x) for energy in (lattice, silent))
    torch.testing.assert_close(told.value, found.value)
    assert (
        all(torch.equal(told.terms[name], found.terms[name]) for name in told.terms)
        and told.terms.keys() == found.terms.keys()
    )


def test_labels_are_the_condition() -> None:
    torch.manual_seed(0)
    energy = RBM(binary(5), 4, classes=3, init_std=0.7).double()
    x, y = energy.domain.draw(9, seeded(), dtype=DOUBLE), torch.arange(9) % 3
    for objective in (PseudoLikelihood(), RatioMatching()):
        parts = [loss_of(objective, energy.given(k), x[y == k]).value / 3 for k in range(3)]
        torch.testing.assert_close(loss_of(objective, energy, x, labels=y).value, sum(parts))
    flips = EnergyDiscrepancy(samples=3)
    rows = [flips._perturb(energy, x, g := seeded(4)), flips._perturb(energy, x, g)]
    assert not torch.equal(*rows)
    here = flips._perturb(energy, x, g := seeded(5))
    there = flips._perturb(energy, here.repeat_interleave(3, 0), g).view(9, 3, 5)
    by_hand = [
        torch.log(1 / 3 + (energy(x[i : i + 1], y[i]) - energy(there[i], y[i])).exp().sum() / 3)
        for i in range(9)
    ]
    torch.testing.assert_close(
        loss_of(flips, energy, x, 5, labels=y).value, torch.stack(by_hand).mean()
    )


# ------------------------------------------------------------------------------------------- memory


@pytest.mark.parametrize(
    "objective", [PseudoLikelihood(), RatioMatching(), PseudoLikelihood(7)], ids=str
)
def test_chunks_give_the_same_loss_and_hold_one_graph_at_a_time(objective: Any) -> None:
    torch.manual_seed(0)
    energy = MLP(binary(32), hidden=(64, 64)).double()
    x = energy.domain.draw(4, seeded(), dtype=DOUBLE)
    results, held, largest = [], [], []
    for rows in (8192, 12):
        kept, seen = [0], [0]

        def pack(t: Tensor, kept: list[int] = kept) -> Tensor:
            kept[0] += t.numel()
            return t

        def watch(module: Any, inputs: Any, output: Any, seen: list[int] = seen) -> None:
            seen[0] = max(seen[0], len(inputs[0]))

        hook = energy.net.register_forward_hook(watch)
        with mock.patch.object(discrepancy, "MAX_ROWS", rows):
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
                value = loss_of(objective, energy, x).value
            results.append((value.detach(), slopes(value, energy)))
        hook.remove()
        held.append(kept[0])
        largest.append(seen[0])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)
    assert largest[1] <= 12 < largest[0] and held[1] < held[0] / 3


def test_spectral_norm_takes_chunks() -> None:
    torch.manual_seed(0)
    energy = MLP(binary(12), hidden=(8,), spectral_norm=True).train()
    x = energy.domain.draw(4, seeded())
    with mock.patch.object(discrepancy, "MAX_ROWS", 8):
        value = loss_of(PseudoLikelihood(), energy, x).value
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in energy.parameters())


# ------------------------------------------------------------------------------- energy discrepancy

EVERY = [
    EnergyDiscrepancy(samples=1),
    EnergyDiscrepancy(sigma=1.0, flip=0.3, samples=5),
    EnergyDiscrepancy(sigma=0.1, flip=0.0, samples=3),
]


@pytest.mark.parametrize("objective", EVERY, ids=str)
@pytest.mark.parametrize("check", TRUTHS)
def test_with_w_one_the_minimiser_is_the_truth_for_every_number_of_samples(
    objective: Any, check: str
) -> None:
    assert TRUTHS[check](objective) < LIMIT


@pytest.mark.parametrize("objective", EVERY, ids=str)
@pytest.mark.parametrize("classes", [2, 3])
def test_with_w_one_the_minimiser_is_the_truth_on_discrete_domains(
    objective: Any, classes: int
) -> None:
    assert at_the_table(objective, classes=classes) < LIMIT


@pytest.mark.parametrize("check", TRUTHS)
def test_another_law_is_no_minimiser(check: str) -> None:
    assert TRUTHS[check](EVERY[1], off=1.3) > LIMIT
    assert at_the_table(EVERY[1], off=1.5) > LIMIT


def test_without_w_one_the_minimiser_is_the_truth_only_in_the_limit() -> None:
    few, many = (
        TRUTHS["gaussian"](EnergyDiscrepancy(sigma=1.0, samples=m, stabilise=0.0)) for m in (2, 50)
    )
    assert few > 20 and many < few / 4


def kernel(energy: Energy, flip: float) -> Tensor:
    """q(y | x) for all pairs of states, written out from the number of sites in which they
    differ.
    """
    every = states(energy).flatten(1)
    values = 2 if energy.domain.kind == "binary" else energy.domain.classes
    apart = (every[:, None] != every[None]).sum(2)
    if not flip:
        return (apart == 1).double() / (every.shape[1] * (values - 1))
    return (1 - flip) ** (every.shape[1] - apart) * (flip / (values - 1)) ** apart


def enumerated(energy: Energy, p: Tensor, objective: EnergyDiscrepancy) -> Tensor:
    """The mean of the loss over data, y and x'_1 … x'_M, summed over all of them."""
    q, e, m = kernel(energy, objective.flip), energy(states(energy)), objective.samples
    total = torch.zeros((), dtype=DOUBLE)
    for others in product(range(len(e)), repeat=m):
        chance = p * (q * torch.stack([q[:, k] for k in others]).prod(0)).sum(
            1
        )  # q is symmetric: q[x, y] · Π q[y, x'_j]
        mean = torch.stack([(e - e[k]).exp() for k in others]).sum(0) / m
        total = total + (chance * torch.log(objective.stabilise / m + mean)).sum()
    return total


@pytest.mark.parametrize(("classes", "sites"), [(2, 3), (3, 2)])
@pytest.mark.parametrize("flip", [0.25, 0.0])
@pytest.mark.parametrize(("samples", "stabilise"), [(1, 1.0), (2, 1.0), (2, 0.3), (1, 0.0)])
def test_discrepancy_is_that_of_the_enumerated_formula(
    classes: int, sites: int, flip: float, samples: int, stabilise: float
) -> None:
    # 300 batches of 200 data; value and gradient at a law that is not that of the data
    objective = EnergyDiscrepancy(flip=flip, samples=samples, stabilise=stabilise)
    energy, data = table(classes, sites, 1), table(classes, sites, 2)
    truth, draw, g = enumerated(energy, law(data), objective), drawn_from(data), seeded(3)
    found = []
    for _ in range(300):
        value = objective.loss(energy, Batch(draw(200, g)), Context(g)).value
        found.append(torch.cat([value.detach().view(1), slopes(value, energy)]))
    assert (
        worst(torch.stack(found), torch.cat([truth.detach().view(1), slopes(truth, energy)]))
        < LIMIT
    )


@pytest.mark.parametrize("flip", [0.25, 0.0])
@pytest.mark.parametrize("samples", [1, 2])
def test_the_enumerated_formula_has_no_slope_at_the_truth_if_w_is_one(
    flip: float, samples: int
) -> None:
    energy = table(2, 3)
    at = {
        w: slopes(enumerated(energy, law(energy), EnergyDiscrepancy(0.3, flip, samples, w)), energy)
        for w in (1.0, 0.0)
    }
    assert at[1.0].abs().max() < 1e-12 < 1e-3 < at[0.0].abs().max()


# ----------------------------------------------------------------------------------------- refusals


def test_domains_and_settings_that_mean_nothing_are_refused() -> None:
    g = seeded()
    plane, bits, classes = MLP(real(2), hidden=(4,)), machine(), Potts((2, 2), 3)
    for objective, energy, words in (
        (
            PseudoLikelihood(),
            plane,
            "PseudoLikelihood met a real domain; it is for binary and categorical ones",
        ),
        (RatioMatching(), plane, "RatioMatching met a real domain"),
        (
            RatioMatching(),
            classes,
            "RatioMatching met a categorical domain; it is for binary ones; use PseudoLikelihood",
        ),
    ):
        with pytest.raises(ValueError, match=words):
            loss_of(objective, energy, energy.domain.draw(3, g))
    deep = DBM(binary(6), n_hidden=(4, 3))
    with pytest.raises(ValueError, match="more units than data"):
        loss_of(PseudoLikelihood(), deep, binary(6).draw(3, g))
    with pytest.raises(ValueError, match="one number per point"):
        loss_of(PseudoLikelihood(), Function(lambda x: x, bits.domain), bits.domain.draw(3, g))
    bad: list[Any] = [(PseudoLikelihood, {"sites": -1}), (RatioMatching, {"sites": -2})]
    bad += [
        (EnergyDiscrepancy, s)
        for s in ({"sigma": 0.0}, {"flip": 1.0}, {"samples": 0}, {"stabilise": -1.0})
    ]
    for cls, settings in bad:
        with pytest.raises(ValueError, match=r";.*;"):
            cls(**settings)


# ------------------------------------------------------------------------------------- planted bugs

ED, FAR = EnergyDiscrepancy(0.8, 0.3, 3), "EnergyDiscrepancy"
CONTINUOUS_BUGS = {
    "sign of the difference": (
        f"{FAR}.loss",
        "up.unsqueeze(1) - down",
        "-up.unsqueeze(1) + down",
        "gaussian",
    ),
    "rows and samples mixed up": (
        f"{FAR}.loss",
        "down.view(len(x), self.samples)",
        "down.view(self.samples, len(x)).t()",
        "gaussian",
    ),
    "one perturbation for two": (
        f"{FAR}.loss",
        "here.repeat_interleave",
        "x.repeat_interleave",
        "gaussian",
    ),
    "w / M lost its M": (
        f"{FAR}.loss",
        "math.log(self.stabilise)",
        "math.log(self.stabilise * self.samples)",
        "gaussian",
    ),
    "no reflection at the walls": (
        f"{FAR}._perturb",
        "domain.reflect(",
        "(lambda z: (z, None))(",
        "walls",
    ),
    "a clamp at the walls": (
        f"{FAR}._perturb",
        "domain.reflect(",
        "(lambda z: (z.clamp(-1, 2), None))(",
        "walls",
    ),
}


@pytest.mark.parametrize(
    ("where", "old", "new", "check"), CONTINUOUS_BUGS.values(), ids=CONTINUOUS_BUGS
)
def test_planted_bugs_of_discrepancy_are_seen(where: str, old: str, new: str, check: str) -> None:
    broken = planted("discrepancy", where, old, new).EnergyDiscrepancy(**dataclasses.asdict(ED))
    assert TRUTHS[check](ED) < LIMIT and caught(TRUTHS[check], broken)


def test_a_walk_that_is_not_symmetric_is_seen() -> None:
    broken = planted(
        "discrepancy", f"{FAR}._perturb", "(flat + step) % values", "torch.ones_like(flat)"
    )
    assert caught(at_the_table, broken.EnergyDiscrepancy(0.8, 0.3, 3))


SITE_BUGS = {
    "sign of the ratio": (
        "PseudoLikelihood.loss",
        "own[:, None, None] - others",
        "others - own[:, None, None]",
    ),
    "x itself forgotten": ("PseudoLikelihood.loss", "F.pad(rises, (1, 0))", "rises"),
    "sign of the ratio, squared": (
        "RatioMatching.loss",
        "own[:, None] - flipped.squeeze(2)",
        "flipped.squeeze(2) - own[:, None]",
    ),
    "not squared": ("RatioMatching.loss", ".square()", ""),
    "the same value again": (
        "_change_sites",
        "(old.unsqueeze(2) + others) % values",
        "old.unsqueeze(2) + 0 * others",
    ),
}


@pytest.mark.parametrize(("where", "old", "new"), SITE_BUGS.values(), ids=SITE_BUGS)
def test_planted_bugs_of_ratios_are_seen(where: str, old: str, new: str) -> None:
    broken = planted("discrepancy", where, old, new)
    cases = {"PseudoLikelihood": lambda c: -c.log(), "RatioMatching": lambda c: (1 - c).square()}
    for name in [name for name in cases if where.startswith(("_", name))]:
        energy, p = table(2, 4), law(table(2, 4, 1))
        assert not torch.allclose(
            expected(getattr(broken, name)(), energy, p), by_tables(energy, p, cases[name])
        )
    if not where.startswith("_"):
        energy = table(2, 4)
        objective = getattr(broken, where.partition(".")[0])()
        assert slopes(expected(objective, energy, law(energy)), energy).abs().max() > 1e-3


@pytest.mark.parametrize(
    ("where", "old", "new"),
    [
        ("_choose_sites", "count / sites", "1.0"),
        ("_choose_sites", "uniform_like(x.flatten(1), generator)", "x.flatten(1)"),
        ("PseudoLikelihood.loss", "weight * torch", "torch"),
    ],
)
def test_planted_bugs_of_subsets_are_seen(where: str, old: str, new: str) -> None:
    broken = planted("discrepancy", where, old, new).PseudoLikelihood(2)
    with pytest.raises(AssertionError):
        test_a_subset_of_sites_is_unbiased(broken)


@pytest.mark.parametrize(
    ("lattice", "old", "new"),
    [
        (Ising((3, 3), 0.3, 0.2), "(1 - 2 * flat)", "(2 * flat - 1)"),
        (
            Potts((2, 3), 3, 0.7, (0.1, -0.2, 0.3)),
            "- table.gather(2, own)",
            "+ table.gather(2, own)",
        ),
    ],
    ids=["ising", "potts"],
)
def test_planted_bugs_of_declared_conditionals_are_seen(lattice: Any, old: str, new: str) -> None:
    broken = planted("discrepancy", "_conditional_rises", old, new).PseudoLikelihood
    with (
        mock.patch.object(sys.modules[__name__], "PseudoLikelihood", broken),
        pytest.raises(AssertionError),
    ):
        test_declared_conditionals_say_the_same_as_energies(lattice, 0)
