"""The contract of expressions: every wrapper by every field of every capability.

Each pair is handed on, and then its values are compared with the truth of the wrapper's own energy
(differences of energies, enumeration, the energy at each label), or it is refused, and the sentence
stands in `REFUSED`. A new wrapper, capability or field fails here until it is in the table.
"""

import copy
import dataclasses
import importlib
import pkgutil
from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
import torch
from contract.cases import seeded
from torch import Tensor, nn

import lowland
from lowland import Energy, Function, Langevin, binary, box, mixture, real, sample
from lowland.energy import (
    Gibbs,
    LabelCondition,
    Latent,
    Learner,
    Mixture,
    NoiseCondition,
    Paths,
    Sum,
    Wrapper,
    count_classes,
    data_domain,
    energy_values,
    labels_of,
    noise_of,
    value_and_score,
)
from lowland.energy.algebra import Combination, Given
from lowland.nets import DBM, IGEBM, MLP, RBM, NoiseMLP, NoiseUNet
from lowland.objectives import PCD, Batch, Context
from lowland.samplers import BlockGibbs, ParallelTempering
from lowland.samplers.acceleration import Accelerated
from lowland.samplers.caching import CachingEnergy
from lowland.samplers.diffusion import Scaled
from lowland.samplers.doors import Witness
from lowland.samplers.recovery import ConditionalEnergy
from lowland.samplers.tempering import Tempered
from lowland.targets import Gaussian, Ising, Potts
from lowland.tasks import generate_by_flow
from lowland.tasks.inverse.posterior import ClampedEnergy

WIDE = torch.float64
ROWS = 4


def shaken(energy: Energy, scale: float = 0.5) -> Energy:
    """Return the energy in float64 with weights that are nowhere zero."""
    energy = energy.double().eval()
    with torch.no_grad():
        for k, p in enumerate(energy.parameters()):
            p.add_(scale * torch.randn(p.shape, generator=seeded(k), dtype=WIDE))
    return energy


ENERGIES: dict[str, Callable[[], Energy]] = {
    "rbm": lambda: shaken(RBM(binary(4), 3)),
    "rbm of classes": lambda: shaken(RBM(binary(4), 3, classes=3)),
    "potts rbm": lambda: shaken(RBM(lowland.categorical(3, 2), 3)),
    "dbm": lambda: shaken(DBM(binary(3), (2, 2))),
    "ising": lambda: Ising((2, 2), 0.3, 0.2),
    "potts": lambda: Potts((2, 2), 3, 0.5, (0.1, 0.0, -0.3)),
    "mlp": lambda: shaken(MLP(real(3), (5,), quadratic_weight=1.0)),
    "igebm of classes": lambda: shaken(IGEBM(box(0.0, 1.0, 1, 8, 8), classes=3), 0.1),
    "unet of noise": lambda: shaken(NoiseUNet(box(0.0, 1.0, 1, 8, 8), (4, 6), (1, 1), 0), 0.1),
    "gaussian": lambda: Gaussian((0.5, -0.5)).double(),
    "function": lambda: Function(lambda x: x.square().flatten(1).sum(1), real(3)),
}


def condition(energy: Energy, rows: int = ROWS) -> Tensor | None:
    """Return a condition that the energy takes, one row per point."""
    if noise_of(energy):
        return torch.linspace(0.2, 0.8, rows, dtype=WIDE)
    return torch.arange(rows) % 3 if labels_of(energy) else None


def bind(energy: Energy) -> Energy | None:
    c = condition(energy)
    return None if c is None else energy.given(c)


def clamp(energy: Energy) -> Energy:
    known = torch.zeros(energy.domain.shape, dtype=torch.bool)
    known.view(-1)[0] = True
    return ClampedEnergy(energy, known, points(energy))


def recover(energy: Energy) -> Energy | None:
    if energy.domain.kind not in ("real", "box"):
        return None
    return ConditionalEnergy(energy, points(energy), 0.5)


def scale(energy: Energy, alpha: float) -> Energy | None:
    if energy.domain.kind not in ("real", "box"):
        return None
    return Scaled(energy, alpha, energy.domain)


WRAPPERS: dict[str, Callable[[Energy], Energy | None]] = {
    "1 e": lambda e: Sum([e], [1.0]),
    "e + 0 f": lambda e: Sum([e, Function(lambda x: x / 0)], [1.0, 0.0]),
    "2 e": lambda e: Sum([e], [2.0]),
    "e + e": lambda e: Sum([e, copy.deepcopy(e)]),
    "mixture(e)": lambda e: Mixture([e], [1.0]),
    "mixture(e, e)": lambda e: Mixture([e, copy.deepcopy(e)], [0.3, 0.7]),
    "e.given(c)": bind,
    "2 e.given(c)": lambda e: None if bind(e) is None else Sum([e.given(condition(e))], [2.0]),
    "e in chunks": lambda e: Accelerated(e, False, False, 3, True),
    "e on a path": CachingEnergy,
    "e at temperatures": lambda e: Tempered(e, torch.tensor([1.0, 0.5], dtype=WIDE), ROWS // 2),
    "e(x)": lambda e: scale(e, 1.0),
    "e(x / 2)": lambda e: scale(e, 0.5),
    "e near a point": recover,
    "e of the hidden": clamp,
}

BOUND = "the condition is bound; an energy takes one"
POWER = "a power of p(x), or another factor, has no block Gibbs of the kind"
SUMMED = "the sum over latent units is not that of the expression"
ENDS = "the path ends at the energy alone"
GONE = "its own start and denoiser are not those of the expression"
MET = "sites of a mixture all meet, so that conditionals do not compose"
MOVED = "points are not the energy's own, so that its sites, units and data are others"
HEADS = "logits up to a constant are those of the energy alone; class_energies serve"

ANY, ONE = "sweep at any beta", "sweep at beta 1"
FIELDS = ("fields", "energy_from")
SUMS = ("impute", "sample_latents", "marginal", "hidden_marginal", "hidden_mean")
LATENT = ("data_domain", "visible", *SUMS)
GIBBS = ("coloring", "conditional", "one_hot_energy", ANY, ONE, *FIELDS)
PATHS = ("path_from", "at_temperatures")
LABELS = ("classes", "class_energies", "class_logits", "ancestral")
NOISE = ("start", "denoised", "conditioning_channels", "target_mask")
LEARNER = ("init_from_data", "update_offsets", "center_gradients")
OWN = ("start", "denoised")

REFUSED: dict[str, dict[tuple[str, ...], str]] = {
    "1 e": {},
    "e + 0 f": {},
    "2 e": {(ONE,): POWER, PATHS: ENDS, SUMS: SUMMED, OWN: GONE},
    "e + e": {(ANY, ONE, *FIELDS): POWER, PATHS: ENDS, SUMS: SUMMED, OWN: GONE},
    "mixture(e)": {},
    "mixture(e, e)": {
        ("coloring", "conditional", ANY, ONE, *FIELDS): MET,
        PATHS: ENDS,
        SUMS: SUMMED,
        OWN: GONE,
    },
    "e.given(c)": {
        (*LABELS, *NOISE): BOUND,
        PATHS: ENDS,
        ("marginal", "hidden_marginal"): SUMMED,
    },
    "2 e.given(c)": {
        (*LABELS, *NOISE): BOUND,
        (ONE,): POWER,
        PATHS: ENDS,
        SUMS: SUMMED,
    },
    "e in chunks": {},
    "e on a path": {(*PATHS, *LATENT, *LABELS, *NOISE, *LEARNER): ENDS},
    "e at temperatures": {
        (ONE,): POWER,
        PATHS: ENDS,
        SUMS: SUMMED,
        OWN: GONE,
        LEARNER: "rows at other temperatures teach nothing",
    },
    "e(x)": {(*GIBBS, *PATHS, *LATENT): MOVED},
    "e(x / 2)": {(*GIBBS, *PATHS, *LATENT, *NOISE, *LEARNER): MOVED},
    "e near a point": {(*GIBBS, *PATHS, *LATENT, *LABELS, *NOISE, *LEARNER): MOVED},
    "e of the hidden": {
        ("one_hot_energy", ANY, ONE, *FIELDS, *PATHS, *LATENT, *LEARNER): MOVED,
        OWN: GONE,
    },
}


def refusal(wrapper: str, field: str) -> str | None:
    return next((why for fields, why in REFUSED[wrapper].items() if field in fields), None)


# ---- what is known, by field ---------------------------------------------------------------------

CAPABILITIES = (Gibbs, Paths, Latent, LabelCondition, NoiseCondition, Learner)


def known(energy: Energy) -> dict[str, Any]:
    """Return the fields of all capabilities that the energy has, by name."""
    parts = (energy.gibbs, energy.paths, energy.latent, energy.condition, energy.learner)
    pairs = [(f.name, getattr(part, f.name)) for part in parts if part for f in fields(part)]
    found = {n: v for n, v in pairs if isinstance(v, Tensor) or v}
    if "sweep" in found:
        found[ANY if found.pop("any_beta", False) else ONE] = found.pop("sweep")
    return found


def fields(part: Any) -> tuple[dataclasses.Field[Any], ...]:
    return dataclasses.fields(part)


# ---- the truth of each field ---------------------------------------------------------------------


def points(energy: Energy, rows: int = ROWS) -> Tensor:
    domain = energy.domain if energy.domain.shape else real(3)
    return domain.draw(rows, seeded(5), dtype=WIDE)


def evaluate(energy: Energy, x: Tensor) -> Tensor:
    """Return the energies of x, under a condition where the energy takes one."""
    c = condition(energy, len(x)) if noise_of(energy) else None
    with torch.no_grad():
        return energy(x) if c is None else energy(x, c)


def values(energy: Energy) -> int:
    return 2 if energy.domain.kind == "binary" else energy.domain.classes


def states(energy: Energy) -> Tensor:
    sites = points(energy)[0].numel()
    every = list(product(range(values(energy)), repeat=sites))
    return torch.tensor(every, dtype=WIDE).view(-1, *energy.domain.shape)


def changed(x: Tensor, *sites: tuple[int, int]) -> Tensor:
    y = x.flatten(1).clone()
    for site, value in sites:
        y[:, site] = value
    return y.view_as(x)


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a.detach(), b.detach(), rtol=1e-9, atol=1e-9)


def check_coloring(w: Energy, value: Tensor, base: Energy) -> None:
    x = points(w)
    assert torch.equal(value.sum(0), torch.ones(x.shape[1:], dtype=torch.long))
    for color in value.flatten(1):
        sites = color.nonzero().flatten().tolist()
        for i, j in [(i, j) for i in sites for j in sites if i < j]:
            cross = [evaluate(w, changed(x, (i, a), (j, b))) for a in (0, 1) for b in (0, 1)]
            close(cross[0] + cross[3], cross[1] + cross[2])


def check_conditional(w: Energy, value: Any, base: Energy) -> None:
    x = points(w)
    logits = value(x)
    for site in range(x[0].numel()):
        table = [-evaluate(w, changed(x, (site, k))) for k in range(values(w))]
        if w.domain.kind == "binary":
            close(logits.flatten(1)[:, site], table[1] - table[0])
        else:
            here = logits.flatten(1, -2)[:, site]
            close(here - here[:, :1], torch.stack(table, 1) - table[0].unsqueeze(1))


def check_one_hot(w: Energy, value: Any, base: Energy) -> None:
    x = points(w)
    z = nn.functional.one_hot(x.long(), values(w)).to(WIDE)
    close(value(z), evaluate(w, x))


def check_sweep(w: Energy, value: Any, base: Energy) -> None:
    """Leaves exp(-E) of each row as it is: counts of states after a sweep from exact draws."""
    every, count = states(w), 20_000
    for row in range(ROWS):
        alone = w.index_rows(torch.tensor([row]))
        p = (-evaluate(alone, every)).softmax(0)
        many = w.index_rows(torch.full((count,), row))
        start = every[torch.multinomial(p, count, replacement=True, generator=seeded(row))]
        sweep = many.gibbs.sweep if many.gibbs else None
        assert sweep is not None
        moved = sweep(start, 1, seeded(7 + row))
        place = values(w) ** torch.arange(every[0].numel() - 1, -1, -1, dtype=WIDE)
        counts = torch.bincount((moved.flatten(1) @ place).long(), minlength=len(every))
        z = (counts - count * p) / (count * p * (1 - p)).sqrt()
        assert z[p * count > 5].abs().max() < 5


def check_fields(w: Energy, value: Any, base: Energy) -> None:
    x = points(w)
    assert w.gibbs is not None and w.gibbs.energy_from is not None and w.gibbs.fields is not None
    close(w.gibbs.energy_from(x, w.gibbs.fields(x)), evaluate(w, x))


def check_path_from(w: Energy, value: Any, base: Energy) -> None:
    start, x = lowland.targets.fit_base(w.domain, points(w, 20)), points(w)
    first, last = value(start.double(), (0.0, 1.0))
    close(evaluate(last, x), evaluate(w, x))
    gap = evaluate(first, x) - evaluate(start, x)
    close(gap, gap.mean().expand_as(gap))


def check_at_temperatures(w: Energy, value: Any, base: Energy) -> None:
    x = points(w, 2)
    both = value(torch.tensor([1.0, 0.5], dtype=WIDE), 2)
    close(evaluate(both, torch.cat([x, x]))[:2], evaluate(w, x))


def check_completion(w: Energy, value: Any, base: Energy) -> None:
    v = data_domain(w).draw(ROWS, seeded(), dtype=WIDE)
    z = value(v, seeded(1))
    assert w.latent is not None and w.latent.visible is not None
    close(w.latent.visible(z), v)
    evaluate(w, z)


def check_hidden_marginal(w: Energy, value: Any, base: Energy) -> None:
    side = value()
    close((-evaluate(side, states(side))).logsumexp(0), (-evaluate(w, states(w))).logsumexp(0))


def check_marginal(w: Energy, value: Any, base: Energy) -> None:
    v = data_domain(w).draw(ROWS, seeded(), dtype=WIDE)
    assert base.latent is not None and base.latent.marginal is not None
    close(evaluate(value(), v), evaluate(base.latent.marginal(), v))


def check_hidden_mean(w: Energy, value: Any, base: Energy) -> None:
    x, c = points(w), None
    c = condition(base) if isinstance(w, Given) else None
    assert base.latent is not None and base.latent.hidden_mean is not None
    close(value(x), base.latent.hidden_mean(x) if c is None else base.latent.hidden_mean(x, c))


def check_class_energies(w: Energy, value: Any, base: Energy) -> None:
    x = points(w)
    with torch.no_grad():
        table = value(x)
        for k in range(count_classes(w)):
            close(table[:, k], w(x, torch.full((len(x),), k)))


def check_class_logits(w: Energy, value: Any, base: Energy) -> None:
    labels, x = labels_of(w), points(w)
    assert labels is not None
    close(value(x).softmax(1), (-labels.class_energies(x)).softmax(1))


def check_start(w: Energy, value: Any, base: Energy) -> None:
    noise = noise_of(base)
    assert noise is not None and noise.start is not None
    close(value(3, 2.0, seeded()), noise.start(3, 2.0, seeded()))


def check_denoised(w: Energy, value: Any, base: Energy) -> None:
    noise, x = noise_of(base), points(w)
    assert noise is not None and noise.denoised is not None
    close(value(x, condition(w)), noise.denoised(x, condition(w)))


def check_learner(name: str) -> Callable[[Energy, Any, Energy], None]:
    def check(w: Energy, value: Any, base: Energy) -> None:
        """Do to the weights and gradients of the energy what its own learner does."""
        other = copy.deepcopy(base)
        inner = [part for part in w.modules() if type(part) is type(base)]
        assert inner[0] is base
        x = data_domain(base).draw(50, seeded(), dtype=WIDE)
        if name == "update_offsets" and base.latent and base.latent.impute:
            x = base.latent.impute(x, seeded())
        for energy in (base, other):
            for k, p in enumerate(energy.parameters()):
                p.grad = torch.randn(p.shape, generator=seeded(k), dtype=WIDE)
        args = () if name == "center_gradients" else (x,)
        before = copy.deepcopy(base.state_dict())
        value(*args)
        getattr(other.learner, name)(*args)
        for p, q in zip(base.parameters(), other.parameters(), strict=True):
            assert torch.equal(p, q) and torch.equal(p.grad, q.grad)  # type: ignore[arg-type]
        for k, tensor in other.state_dict().items():
            assert torch.equal(base.state_dict()[k], tensor)
        base.load_state_dict(before)

    return check


def check_same(name: str) -> Callable[[Energy, Any, Energy], None]:
    def check(w: Energy, value: Any, base: Energy) -> None:
        assert value == known(base)[name]

    return check


def check_visible(w: Energy, value: Any, base: Energy) -> None:
    assert base.latent is not None and base.latent.visible is not None
    close(value(points(w)), base.latent.visible(points(w)))


CHECKS: dict[str, Callable[[Energy, Any, Energy], None]] = {
    "coloring": check_coloring,
    "conditional": check_conditional,
    "one_hot_energy": check_one_hot,
    ANY: check_sweep,
    ONE: check_sweep,
    "fields": check_fields,
    "energy_from": check_fields,
    "path_from": check_path_from,
    "at_temperatures": check_at_temperatures,
    "data_domain": check_same("data_domain"),
    "visible": check_visible,
    "impute": check_completion,
    "sample_latents": check_completion,
    "marginal": check_marginal,
    "hidden_marginal": check_hidden_marginal,
    "hidden_mean": check_hidden_mean,
    "classes": check_same("classes"),
    "class_energies": check_class_energies,
    "class_logits": check_class_logits,
    "ancestral": check_same("ancestral"),
    "start": check_start,
    "denoised": check_denoised,
    "conditioning_channels": check_same("conditioning_channels"),
    "target_mask": lambda w, value, base: close(value, known(base)["target_mask"]),
    **{name: check_learner(name) for name in LEARNER},
}


# ---- the table -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ENERGIES)
@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_every_field_is_handed_on_with_its_truth_or_refused(wrapper: str, name: str) -> None:
    base = ENERGIES[name]()
    w = WRAPPERS[wrapper](base)
    if w is None:
        return
    has = known(w)
    for field in known(base):
        if refusal(wrapper, field):
            assert field not in has, f"{field} is handed on, although: {refusal(wrapper, field)}"
        else:
            assert field in has, f"{wrapper} over {name} lost {field}"
            CHECKS[field](w, has[field], base)
    assert set(has) <= set(known(base)), "an expression can do what its parts cannot"


def test_the_table_names_every_field_of_every_capability() -> None:
    names = {f.name for part in CAPABILITIES for f in fields(part)} - {"sweep", "any_beta"}
    assert names | {ANY, ONE} == set(CHECKS)
    assert {field for refused in REFUSED.values() for key in refused for field in key} <= set(
        CHECKS
    )
    declared = [n for n, v in vars(Energy).items() if isinstance(v, property)]
    assert {"gibbs", "paths", "latent", "condition", "learner"} | {"differentiates"} == set(
        declared
    )


def test_every_wrapper_of_the_library_is_in_the_table() -> None:
    for module in pkgutil.walk_packages(lowland.__path__, "lowland."):
        if "__main__" not in module.name:
            importlib.import_module(module.name)

    def final(cls: type) -> set[type]:
        below = [c for c in cls.__subclasses__() if c.__module__.startswith("lowland.")]
        return set().union(*map(final, below)) if below else {cls}

    built = [wrap(make()) for wrap in WRAPPERS.values() for make in ENERGIES.values()]
    seen = {type(w) for w in built if w is not None}
    assert (final(Wrapper) | final(Combination)) - seen == {Witness}  # lives for a check at a door
    assert set(WRAPPERS) == set(REFUSED)


def test_every_energy_of_the_table_knows_something_and_all_fields_are_seen() -> None:
    seen = {field for make in ENERGIES.values() for field in known(make())}
    rare = {"class_logits", "ancestral", "conditioning_channels", "target_mask"}
    assert set(CHECKS) - rare <= seen


# ---- a wrapper behaves as the energy -------------------------------------------------------------

SAME: dict[str, Callable[[Energy], Energy]] = {
    "1.0 * e": lambda e: 1.0 * e,
    "e / 1": lambda e: e / 1.0,
    "e + 0 * e": lambda e: e + 0 * e,
    "mixture": lambda e: mixture(e),
    "Sum": lambda e: Sum([e], [1.0]),
    "Sum with 0": lambda e: Sum([e, e], [1.0, 0.0]),
    "Mixture": lambda e: Mixture([e], [1.0]),
}


class Counter:
    """How often the fields of machines and the forward passes of networks are computed."""

    def __init__(self, energies: list[Energy], monkeypatch: pytest.MonkeyPatch) -> None:
        self.count = 0
        for part in torch.nn.ModuleList(energies).modules():
            part.register_forward_hook(self.hear)
        compute = RBM.compute_fields

        def counted(machine: RBM, x: Tensor) -> Tensor:
            self.count += 1
            return compute(machine, x)

        monkeypatch.setattr(RBM, "compute_fields", counted)

    def hear(self, *_: Any) -> None:
        self.count += 1


def pcd(energy: Energy) -> Tensor:
    buffer = lowland.ReplayBuffer(8, binary(6), generator=seeded(), reinit_prob=0.0)
    objective = PCD(steps=2, buffer_size=8, num_chains=8, reinit_prob=0.0)
    loss = objective.loss(
        energy, Batch(points(energy).float()), Context(seeded(1), BlockGibbs(), buffer)
    )
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss.value, energy.parameters())])


def flow(energy: Energy) -> Tensor:
    return generate_by_flow(energy, (3.0, 1.0, 0.3), 5, generator=seeded()).x


def chains(sampler: Any, **options: Any) -> Callable[[Energy], Tensor]:
    how = {"precision": "float32"} | options  # a timing would be counted

    def run(energy: Energy) -> Tensor:
        return sample(energy, sampler, points(energy).float(), 5, generator=seeded(), **how).x

    return run


def log_z_of(**options: Any) -> Callable[[Energy], Tensor]:
    def run(energy: Energy) -> Tensor:
        found = lowland.log_z(energy, generator=seeded(), **options)
        return torch.tensor([found.value, found.lower, found.upper])

    return run


def machine() -> Energy:
    return shaken(RBM(binary(6), 4)).float()


USES: dict[str, tuple[Callable[[], Energy], Callable[[Energy], Tensor]]] = {
    "score": (lambda: MLP(real(3), (5,)), lambda e: value_and_score(e, torch.ones(2, 3))[1]),
    "energies": (lambda: MLP(real(3), (5,)), lambda e: energy_values(e, torch.ones(9, 3))),
    "Langevin": (lambda: MLP(real(3), (5,)), chains(Langevin(0.01))),
    "HMC in chunks": (lambda: MLP(real(3), (5,)), chains(lowland.HMC(0.1, 3), chunk=3)),
    "block Gibbs": (machine, chains(BlockGibbs(3))),
    "tempering": (machine, chains(ParallelTempering(BlockGibbs(), (1.0, 2.0, 4.0)))),
    "PCD": (machine, pcd),
    "enumeration": (machine, log_z_of()),
    "own path": (machine, log_z_of(exact=False, chains=20, num_temperatures=20)),
    "flow": (lambda: NoiseMLP(real(3), (5,)), flow),
    "class energies": (
        lambda: MLP(real(3), (5,), classes=3),
        lambda e: labels_of(e).class_energies(torch.ones(2, 3)),  # type: ignore[union-attr]
    ),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("wrapper", SAME)
def test_a_trivial_expression_gives_the_same_at_the_same_cost(
    use: str, wrapper: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, run = USES[use]
    energies = []
    for _ in range(3):  # of the same weights: an objective looks once at each energy it meets
        with torch.random.fork_rng():
            torch.manual_seed(0)
            energies.append(make())
    run(energies.pop())  # the first of its kind in a process is timed in both precisions
    energy, same = energies[0], SAME[wrapper](energies[1])
    counter = Counter(energies, monkeypatch)
    plain, paid = run(energy), counter.count
    torch.testing.assert_close(run(same), plain)
    assert counter.count == 2 * paid


BOWL = Function(lambda x, c=None: x.square().sum(1), real(3))


def test_an_expression_of_energies_of_noise_flows_and_tells_outliers() -> None:
    energy = NoiseMLP(real(3), (5,))
    for whole in (energy + energy, 0.5 * energy, energy + BOWL):
        assert generate_by_flow(whole, (3.0, 1.0, 0.3), 5, generator=seeded()).x.shape == (5, 3)
        detector = lowland.Detector(whole, "multiscale").fit(torch.randn(60, 3, generator=seeded()))
        assert detector.outlier_scores(torch.zeros(2, 3)).isfinite().all()


def test_a_weighted_machine_under_labels_is_sampled() -> None:
    whole = (2.0 * shaken(RBM(binary(4), 3, classes=3))).given(torch.tensor([2]))
    every = states(whole)
    p = (-evaluate(whole, every)).softmax(0)
    start = every[torch.multinomial(p, 4000, replacement=True, generator=seeded())]
    x = sample(whole, BlockGibbs(), start, 2, generator=seeded(1)).x
    z = (x.mean(0) - p @ every) / (p @ every * (1 - p @ every) / 4000).sqrt()
    assert z.abs().max() < 5


def test_a_term_of_weight_zero_is_not_evaluated() -> None:
    infinite = Function(lambda x: x.sum(1) / 0, real(3))
    bowl = Function(lambda x: x.square().sum(1), real(3))
    assert torch.equal((bowl + 0 * infinite)(torch.ones(2, 3)), torch.full((2,), 3.0))
    assert torch.equal((0 * bowl)(torch.ones(2, 3)), torch.zeros(2))


def test_products_are_passed_and_not_remembered() -> None:
    """Weights and points may change behind the back of version counters."""
    rbm, x = shaken(RBM(binary(6), 4)), torch.ones(2, 6, dtype=WIDE)
    rbm(x)
    rbm.weight.data.mul_(2)
    x.data[0] = 0
    close(rbm(x), copy.deepcopy(rbm)(x.clone()))
