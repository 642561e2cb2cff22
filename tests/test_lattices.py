"""Lattices: exact solutions against lists of all states, block Gibbs against exact solutions, and
bugs that must be seen.
"""

import dataclasses
import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.speed import ising as bench
from lowland import Energy, value_and_score
from lowland.registry import build, spec
from lowland.samplers import BlockGibbs
from lowland.targets import Ising, Potts, mean_energy, multispin
from lowland.targets.checkerboard import join, pack, split, unpack
from lowland.targets.lattices import color_lattice
from lowland.testing import LIMIT, caught, mutate, seeded
from lowland.testing.statistical_checks import distance

DOUBLE = torch.float64
SIZES = [(1, 1), (1, 2), (1, 5), (2, 1), (2, 2), (2, 3), (3, 3), (3, 4), (4, 3), (2, 6), (4, 4)]
CRITICAL = math.log(1 + math.sqrt(2)) / 2
Move = Callable[[Tensor, int, torch.Generator], Tensor]


def states(energy: Energy) -> Tensor:
    """All states (S, rows, columns)."""
    k, n = energy.domain.classes or 2, math.prod(energy.domain.shape)
    return torch.cartesian_prod(*[torch.arange(k)] * n).view(-1, *energy.domain.shape).to(DOUBLE)


def law(energy: Energy) -> Tensor:
    """The probabilities of all states, by listing them."""
    return torch.softmax(-energy.double()(states(energy)), 0)


def counts(energy: Energy, x: Tensor) -> Tensor:
    """How often each state was drawn."""
    k, n = energy.domain.classes or 2, math.prod(energy.domain.shape)
    codes = (x.flatten(1).long() * k ** torch.arange(n - 1, -1, -1)).sum(1)
    return torch.bincount(codes, minlength=k**n).to(DOUBLE)


def bonds(size: tuple[int, int], periodic: bool) -> list[tuple[tuple[int, int], tuple[int, int]]]:
    """Every pair of neighbours, one by one."""
    rows, columns = size
    found = []
    for i in range(rows):
        for j in range(columns):
            if i + 1 < rows or (periodic and rows > 1):
                found.append(((i, j), ((i + 1) % rows, j)))
            if j + 1 < columns or (periodic and columns > 1):
                found.append(((i, j), (i, (j + 1) % columns)))
    return found


# ------------------------------------------------------------------------------------- the energies


@pytest.mark.parametrize("size", [(1, 1), (1, 4), (2, 3), (3, 3), (4, 5)])
@pytest.mark.parametrize("periodic", [True, False])
def test_energies_are_sums_over_bonds_and_sites(size: tuple[int, int], periodic: bool) -> None:
    levels = (0.1, -0.5, 0.7)
    ising, potts = Ising(size, 0.7, -0.3, periodic), Potts(size, 3, 0.7, levels, periodic).double()
    x = potts.domain.draw(6, seeded(), dtype=DOUBLE)
    up = ising.domain.draw(6, seeded(1), dtype=DOUBLE)
    pairs = bonds(size, periodic)
    for row, other, value, sum_of_spins in zip(x, up, potts(x), ising(up), strict=True):
        same = sum(float(row[a] == row[b]) for a, b in pairs)
        assert value.item() == pytest.approx(
            -0.7 * same - sum(levels[int(k)] for k in row.flatten()), abs=1e-6
        )
        s = 2 * other - 1
        aligned = sum(float(s[a] * s[b]) for a, b in pairs)
        assert sum_of_spins.item() == pytest.approx(
            -0.7 * aligned + 0.3 * s.sum().item(), abs=1e-12
        )


def test_two_states_of_potts_are_ising_with_half_the_coupling() -> None:
    potts, ising = (
        Potts((3, 4), 2, 0.8, (-0.3, 0.3), periodic=False),
        Ising((3, 4), 0.4, 0.3, periodic=False),
    )
    x = states(ising)
    shift = potts.double()(x) - ising(x)
    torch.testing.assert_close(shift, shift[:1].expand(len(x)), rtol=0, atol=1e-6)
    assert potts.log_z - ising.log_z == pytest.approx(-shift[0].item(), abs=1e-6)


def test_gradients_tell_what_a_change_costs() -> None:
    """Ising is linear in each spin, Potts in each one-hot vector: first differences are exact."""
    ising, potts = Ising((3, 4), 0.4, 0.2), Potts((3, 3), 3, 0.6, (0.0, 0.4, -0.2)).double()
    x = ising.domain.draw(5, seeded(), dtype=DOUBLE)
    value, score = value_and_score(ising, x)
    flipped = x.clone()
    flipped[:, 1, 2] = 1 - x[:, 1, 2]
    torch.testing.assert_close(ising(flipped) - value, -(score * (flipped - x)).sum((1, 2)))
    y = potts.domain.draw(5, seeded(), dtype=DOUBLE)
    z = potts.one_hot(y).requires_grad_(True)
    (gradient,) = torch.autograd.grad(potts.one_hot_energy(z).sum(), z)
    torch.testing.assert_close(potts.one_hot_energy(z), potts(y))
    for k in range(3):
        other = y.clone()
        other[:, 0, 1] = k
        torch.testing.assert_close(
            potts(other) - potts(y), (gradient * (potts.one_hot(other) - z)).sum((1, 2, 3)).detach()
        )


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("size", [*SIZES, (5, 5), (3, 8), (7, 2)])
def test_no_bond_joins_two_sites_of_one_colour(size: tuple[int, int], periodic: bool) -> None:
    colours = Ising(size, periodic=periodic).gibbs.coloring
    assert torch.equal(colours.sum(0), torch.ones(size).long()) and colours.flatten(1).any(1).all()
    assert torch.equal(Potts(size, periodic=periodic).gibbs.coloring, colours)
    assert all(
        not bool((colours[:, a[0], a[1]] & colours[:, b[0], b[1]]).any())
        for a, b in bonds(size, periodic)
    )
    odd = periodic and any(n > 1 and n % 2 for n in size)
    assert len(colours) <= 2 + odd
    assert len(colours) == color_lattice(size, periodic).max() + 1


@pytest.mark.parametrize("periodic", [True, False])
@pytest.mark.parametrize("size", [(1, 3), (2, 3), (3, 3)])
def test_conditionals_are_differences_of_energies(size: tuple[int, int], periodic: bool) -> None:
    for energy in (
        Ising(size, 0.5, 0.3, periodic),
        Potts(size, 3, -0.7, (0.0, 0.3, -0.4), periodic).double(),
    ):
        x = energy.domain.draw(40, seeded(), dtype=DOUBLE)
        logits = energy.conditional(x)
        for i in range(size[0]):
            for j in range(size[1]):
                values = []
                for k in range(energy.domain.classes or 2):
                    y = x.clone()
                    y[:, i, j] = k
                    values.append(-energy(y))
                truth = torch.stack(values, 1)
                found = (
                    logits[:, i, j]
                    if energy.domain.classes
                    else torch.stack([0 * logits[:, i, j], logits[:, i, j]], 1)
                )
                torch.testing.assert_close(found.log_softmax(1), truth.log_softmax(1))


def test_what_is_no_lattice_is_refused_and_specs_survive() -> None:
    bad: list[Callable[[], Any]] = [
        lambda: Ising((3,)),
        lambda: Ising((0, 3)),
        lambda: Ising((2.0, 3)),  # type: ignore[arg-type]
        lambda: Ising(coupling=math.nan),
        lambda: Ising(field=math.inf),
        lambda: Potts(states=1),
        lambda: Potts(field=(1.0, 2.0)),
        lambda: Potts(field=(0.0, 0.0, math.nan)),
        lambda: Ising((4, 4)).sweep(torch.zeros(4, 4), 1, seeded()),
        lambda: Ising((4, 4)).sweep(torch.zeros(1, 4, 4), -1, seeded()),
    ]
    for make in bad:
        with pytest.raises(ValueError, match=r";.*;"):
            make()
    for energy in (
        Ising((4, 6), 0.3, 0.1, False),
        Potts((3, 5), 4, 0.2, (0.0, 1.0, 2.0, 3.0), False),
    ):
        assert spec(build("energy", spec(energy))) == spec(energy)


# ---------------------------------------------------------------------------------- exact solutions


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("periodic", [True, False])
def test_log_z_and_mean_energy_of_ising_by_listing(size: tuple[int, int], periodic: bool) -> None:
    for coupling in (0.0, 0.3, -0.4, CRITICAL, 1.5):
        for field in (0.0, 0.2, -0.7):
            energy = Ising(size, coupling, field, periodic)
            values = energy(states(energy))
            truth = torch.logsumexp(-values, 0).item()
            assert energy.log_z == pytest.approx(truth, abs=1e-10), (coupling, field)
            assert mean_energy(energy) == pytest.approx(
                ((-values - truth).exp() * values).sum().item(), abs=1e-8
            )


@pytest.mark.parametrize(
    ("size", "q"), [((1, 1), 3), ((2, 2), 3), ((2, 3), 3), ((4, 1), 4), ((3, 3), 3), ((2, 3), 5)]
)
@pytest.mark.parametrize("periodic", [True, False])
def test_log_z_and_mean_energy_of_potts_by_listing(
    size: tuple[int, int], q: int, periodic: bool
) -> None:
    for coupling in (0.0, 0.8, -0.5):
        for field in (None, tuple(0.25 * i * i for i in range(q))):
            energy = Potts(size, q, coupling, field, periodic).double()
            values = energy(states(energy))
            truth = torch.logsumexp(-values, 0).item()
            assert energy.log_z == pytest.approx(truth, abs=1e-9), (coupling, field)
            assert mean_energy(energy) == pytest.approx(
                ((-values - truth).exp() * values).sum().item(), abs=1e-8
            )


@pytest.mark.parametrize("size", [(6, 8), (5, 9), (9, 5), (7, 7), (2, 40), (8, 64)])
def test_kaufman_and_the_transfer_matrix_agree(size: tuple[int, int]) -> None:
    one = torch.ones((), dtype=DOUBLE)
    for coupling in (0.01, 0.3, CRITICAL, 0.6, 3.0):
        energy = Ising(size, coupling)
        strip = energy._strip.log_partition(one).item()
        assert energy.log_z == pytest.approx(strip, rel=1e-12)
        if all(n % 2 == 0 for n in size):
            assert Ising(size, -coupling).log_z == energy.log_z
            assert Ising(size, -coupling)._strip.log_partition(one).item() == pytest.approx(
                strip, rel=1e-12
            )


def test_large_lattices_reach_onsager() -> None:
    """u = −coth 2K (1 + (2/π) (2 tanh² 2K − 1) K₁(k)),  k = 2 sinh 2K / cosh² 2K, per site of the
    infinite lattice.
    """
    from scipy.special import ellipk

    for coupling in (0.2, 0.3, 0.6):
        double = 2 * coupling
        k = 2 * math.sinh(double) / math.cosh(double) ** 2
        u = -(1 + 2 / math.pi * (2 * math.tanh(double) ** 2 - 1) * ellipk(k * k)) / math.tanh(
            double
        )
        assert mean_energy(Ising((256, 256), coupling)) / coupling / 256**2 == pytest.approx(
            u, abs=1e-10
        )
    assert mean_energy(Ising((32, 32), 0.3)) / 0.3 / 1024 != pytest.approx(u, abs=1e-3)


def test_exact_solutions_work_without_gradients_and_are_refused_where_unknown() -> None:
    with torch.inference_mode():
        assert mean_energy(Ising((8, 8), 0.3)) == mean_energy(Ising((8, 8), 0.3))
    for energy in (
        Ising((16, 16), field=0.1),
        Ising((16, 16), periodic=False),
        Ising((15, 15), -0.4),
        Potts((9, 9)),
    ):
        with pytest.raises(ValueError, match=r";.*;"):
            _ = energy.log_z
        with pytest.raises(ValueError, match=r";.*;"):
            mean_energy(energy)
        with pytest.raises(ValueError, match=r";.*;"):
            energy.draw(1, seeded())
    with pytest.raises(ValueError, match=r"exact draws.*;.*;"):
        Ising((12, 12)).draw(1, seeded())


DRAWN = [
    Ising((3, 4), 0.4, 0.2),
    Ising((3, 4), 0.4, 0.2, False),
    Ising((4, 3), -0.5, 0.1),
    Ising((1, 5), 0.6),
    Ising((1, 1), 0.6, 0.3),
    Ising((4, 4), 0.35),
    Potts((2, 3), 3, 0.8, (0.0, 0.3, -0.3)),
    Potts((3, 2), 3, 0.8, None, False),
]


@pytest.mark.parametrize("energy", DRAWN, ids=lambda e: f"{type(e).__name__} {e.size} {e.periodic}")
def test_exact_draws_have_the_listed_law(energy: Any) -> None:
    x = energy.draw(60_000, seeded(2))
    assert (
        x.dtype == torch.float32 and x.shape[1:] == energy.size and energy.domain.contains(x).all()
    )
    assert distance(counts(energy, x), law(energy)).z < LIMIT
    if energy.coupling and math.prod(energy.size) > 1:
        wrong = build("energy", spec(energy) | {"coupling": 1.1 * energy.coupling})
        assert distance(counts(energy, x), law(wrong)).z > LIMIT
    assert torch.equal(energy.draw(5, seeded(3)), energy.draw(5, seeded(3)))


@pytest.mark.parametrize(
    "energy",
    [Ising(), Ising((10, 10), 0.5), Ising((40, 6), 0.2, 0.1, False), Potts(), Potts((4, 9), 4)],
)
def test_exact_draws_of_wider_lattices_have_the_exact_energy(energy: Any) -> None:
    values = energy(energy.draw(4000, seeded(4), DOUBLE)).double()
    assert abs(standard(values, mean_energy(energy))) < LIMIT


# -------------------------------------------------------------------------------------- block Gibbs


def standard(values: Tensor, truth: float) -> float:
    """z of the mean of independent values."""
    return ((values.mean() - truth) / (values.std() / math.sqrt(len(values)))).item()


def plain(energy: Any, colours: Tensor | None = None) -> Move:
    """Block Gibbs by conditionals, as any energy gets it."""
    known = build("energy", spec(energy)).gibbs
    slow = dataclasses.replace(known, sweep=None, any_beta=False)
    if colours is not None:
        slow = dataclasses.replace(slow, coloring=colours)
    general = type("Plain", (type(energy),), {"gibbs": slow})(**keywords(energy))

    def move(x: Tensor, sweeps: int, g: torch.Generator) -> Tensor:
        sampler = BlockGibbs(sweeps)
        return sampler.step(general, sampler.init(general, x), g)[0].x

    return move


def keywords(energy: Any) -> dict[str, Any]:
    return {key: value for key, value in spec(energy).items() if key != "name"}


def swept(energy: Ising, path: str = "eager", module: Any = multispin, beta: float = 1.0) -> Move:
    """Block Gibbs by words: "eager", or the kernel of the compiled path, run without a compiler."""
    rule = module.Law(beta * energy.coupling, beta * energy.field, energy.periodic)

    def move(x: Tensor, sweeps: int, g: torch.Generator) -> Tensor:
        return module._run(
            x, rule, sweeps, g, module._run_eager if path == "eager" else module._run_compiled
        )

    return move


@pytest.fixture
def uncompiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(multispin, "_compile", lambda: multispin._kernel)


def fit(
    energy: Any,
    move: Move,
    count: int = 6400,
    burn: int = 30,
    gap: int = 12,
    records: int = 8,
    seed: int = 1,
) -> float:
    """How far chains are from the list of all states, in standard errors; they start at one end."""
    g = seeded(seed)
    x = torch.zeros(count, *energy.size)
    found = torch.zeros_like(law(energy))
    for record in range(records):
        x = move(x, gap if record else burn, g)
        found += counts(energy, x)
    return distance(found, law(energy)).z


SWEPT = [
    Ising((3, 4), 0.4, 0.0, False),
    Ising((3, 4), 0.4, 0.3, False),
    Ising((3, 3), -0.4, 0.1, False),
    Ising((4, 4), 0.35),
    Ising((4, 4), 0.3, 0.2),
    Ising((2, 4), -0.4),
    Ising((4, 2), -0.3, 0.2),
    Ising((1, 6), 0.6),
    Ising((7, 1), 0.6, -0.3, False),
    Ising((1, 1), 0.6),
    Ising((1, 1), 0.6, 0.3),
    Ising((2, 3), 0.0, 0.0, False),
]
EVERY = pytest.mark.parametrize(
    "energy", SWEPT, ids=lambda e: f"{e.size} J {e.coupling} h {e.field} {e.periodic}"
)


@EVERY
@pytest.mark.parametrize("path", ["eager", "hashed"])
def test_sweeps_have_the_listed_law(energy: Ising, path: str, uncompiled: None) -> None:
    assert fit(energy, swept(energy, path)) < LIMIT


@pytest.mark.parametrize(
    "energy",
    [
        SWEPT[1],
        SWEPT[3],
        Ising((3, 3), 0.25, 0.1),
        Ising((3, 2), -0.4),
        Potts((3, 3), 3, 0.6, (0.0, 0.2, -0.2)),
        Potts((2, 3)),
    ],
    ids=lambda e: f"{type(e).__name__} {e.size} {e.periodic}",
)
def test_conditionals_and_colours_have_the_listed_law(energy: Any) -> None:
    assert fit(energy, plain(energy), 2000) < LIMIT


@pytest.mark.parametrize(
    "energy", [Ising((3, 3), 0.3), Potts((3, 3), 3, 0.6)], ids=["Ising", "Potts"]
)
def test_a_wrong_colouring_is_seen(energy: Any) -> None:
    """A checkerboard on an odd torus lets neighbours move at once, and so does one colour for
    all.
    """
    checkerboard = (torch.arange(3)[:, None] + torch.arange(3)) % 2 == 0
    for colours in (
        torch.stack([checkerboard, ~checkerboard]),
        torch.ones(1, 3, 3, dtype=torch.bool),
    ):
        assert fit(energy, plain(energy, colours), 2000) > LIMIT


BUGS = {  # (where, old, new, an energy that suffers)
    "fair lanes follow the majority": ("_below", "& local.fair", "& 0", SWEPT[3]),
    "second adder forgets a carry": ("_counts", "two |= both ^ pair", "two |= both", SWEPT[3]),
    "two contains three": (
        "_counts",
        "odd ^ three, two ^ three, three",
        "odd ^ three, two, three",
        SWEPT[4],
    ),
    "neighbours on the wrong side": (
        "_counts",
        "side &= left",
        "side &= ~left",
        Ising((2, 6), 0.3),
    ),
    "one digit too few": (
        "_below",
        "reversed(range(DIGITS))",
        "reversed(range(1, DIGITS))",
        SWEPT[4],
    ),
    "undecided chains all stay": ("_finish", "(u < limit) * lowest", "0 * lowest", SWEPT[4]),
    "undecided chains with wrong classes": (
        "_finish",
        "& lowest != 0, share",
        "& lowest == 0, share",
        SWEPT[4],
    ),
    "field of the wrong sign": ("thresholds", "n + law.field", "n - law.field", SWEPT[4]),
    "twice the coupling": (
        "thresholds",
        "-2 * abs(law.coupling)",
        "-4 * abs(law.coupling)",
        SWEPT[3],
    ),
    "antiferromagnet aligned": ("_update", "and opposed", "and not opposed", SWEPT[5]),
}


@pytest.mark.parametrize("name", BUGS)
def test_bugs_in_the_eager_path_are_seen(name: str) -> None:
    where, old, new, energy = BUGS[name]
    coarse = mutate("lowland.targets.multispin", where, old, new)
    coarse.DIGITS = (
        4 if "digit" in name or "undecided" in name else coarse.DIGITS
    )  # few digits, so that single chains matter
    sound = mutate("lowland.targets.multispin", where, old, old)
    sound.DIGITS = coarse.DIGITS
    assert fit(energy, swept(energy, module=sound)) < LIMIT
    assert fit(energy, swept(energy, module=coarse)) > LIMIT


HASH_BUGS = {
    "digits from the first to the last": (
        "_kernel",
        "reversed(range(len(random)))",
        "range(len(random))",
    ),
    "colours share their words": ("_kernel", "c * rows * width * HASHED * GOLDEN", "0"),
    "coin forgotten": ("_kernel", "coin & (local.fair | below)", "local.fair | below"),
    "frame not closed": ("_kernel", "if rings[1] else", "if not rings[1] else"),
}


@pytest.mark.parametrize("name", HASH_BUGS)
def test_bugs_in_the_hashed_path_are_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    energy = SWEPT[3]
    where, old, new = HASH_BUGS[name]
    for text in (old, new):
        module = mutate("lowland.targets.multispin", where, old, text)
        monkeypatch.setattr(module, "_compile", lambda module=module: module._kernel)
        assert (fit(energy, swept(energy, "hashed", module)) < LIMIT) == (text == old)


# ----------------------------------------------------------------------------------- large lattices


def lanes(energy: Ising, move: Move, start: str, burn: int, records: int) -> Tensor:
    """Mean energies per spin (128,) of independent chains, each over records 50 sweeps apart."""
    g = seeded(hash_of(energy.coupling, start))
    x = energy.domain.draw(128, g) if start == "hot" else torch.ones(128, *energy.size)
    x = move(x, burn, g)
    values = []
    for _ in range(records):
        x = move(x, 50, g)
        values.append(energy(x).double() / energy.coupling / math.prod(energy.size))
    return torch.stack(values).mean(0)


def hash_of(coupling: float, start: str) -> int:
    return round(100 * coupling) + (start == "hot")


def lane_scores(values: Tensor, truth: float) -> tuple[float, float]:
    """|z| of the mean over all chains, and the worst |z| of the 64 bits of a word; the spread is
    that of the middle half.
    """
    spread = (values.quantile(0.75) - values.quantile(0.25)).item() / 1.349
    z = (values - truth) / spread
    return abs(z.mean().item()) * math.sqrt(len(z)), (
        z.view(-1, 64).mean(0).abs().max() * math.sqrt(len(z) / 64)
    ).item()


@pytest.mark.parametrize("coupling", [0.3, 0.4])
@pytest.mark.parametrize("start", ["hot", "cold"])
def test_the_energy_of_a_large_torus_is_kaufmans(coupling: float, start: str) -> None:
    energy = Ising((64, 64), coupling)
    values = lanes(energy, swept(energy), start, 800, 8)
    truth = mean_energy(energy) / coupling / 4096
    assert max(lane_scores(values, truth)) < LIMIT
    assert (
        values.std() / math.sqrt(128) < 0.002
    )  # sharp enough to see what 63 random bits do: 0.013


def test_the_hashed_energy_of_a_large_torus_is_kaufmans(uncompiled: None) -> None:
    energy = Ising((64, 64), 0.4)
    values = lanes(energy, swept(energy, "hashed"), "cold", 300, 2)
    assert max(lane_scores(values, mean_energy(energy) / 0.4 / 4096)) < LIMIT


def test_the_sign_bit_that_is_never_drawn_is_seen() -> None:
    """`random_()` fills 63 bits: the last chain of each word always follows the majority and
    freezes.
    """
    energy = Ising((64, 64), 0.4)
    wrong = mutate("lowland.targets.multispin", "_random", "-(2**63), None, ", "")
    values = lanes(energy, swept(energy, module=wrong), "hot", 200, 1)
    pooled, worst = lane_scores(values, mean_energy(energy) / 0.4 / 4096)
    assert pooled > LIMIT and worst > LIMIT


def leak(module: Any, path: str = "eager") -> float:
    """The worst |z| of the correlation between the magnetisations of two of 128 chains, over
    records three sweeps apart.
    """
    energy, g, records = Ising((8, 8), 0.15), seeded(5), 500
    x, move = energy.domain.draw(128, g), swept(energy, path, module)
    kept = []
    for _ in range(records):
        x = move(x, 3, g)
        kept.append(x.mean((1, 2)))
    found = torch.corrcoef(torch.stack(kept, 1).double()).fill_diagonal_(0)
    return found.abs().max().item() * math.sqrt(records)


def test_chains_of_a_word_are_independent() -> None:
    shared = "words.random_(-(2**63), None, generator=generator)"
    wrong = mutate(
        "lowland.targets.multispin",
        "_random",
        shared,
        f"{shared}.bitwise_and_(0x5555555555555555).mul_(3)",
    )
    assert leak(multispin) < LIMIT
    assert leak(wrong) > LIMIT


# ------------------------------------------------------------------------------------- random words


def pairs(module: Any) -> float:
    """The worst z of χ² over 3 digits each of two chains, for every chain and six distances; 63
    degrees of freedom.
    """
    words = torch.stack(
        module._words(torch.arange(2**16) * module._to_signed(module.GOLDEN) + 12345, 2**16)[:3]
    )
    worst = 0.0
    for lane in range(64):
        codes = [
            sum(((words[k] >> chain) & 1) << k for k in range(3))
            for chain in (lane, *((lane + d) % 64 for d in DISTANCES))
        ]
        for other in codes[1:]:
            worst = max(
                worst,
                distance(
                    torch.bincount(codes[0] + 8 * other, minlength=64).to(DOUBLE),
                    torch.full((64,), 1 / 64),
                ).z,
            )
    return worst


DISTANCES = (1, 4, 27, 31, 32, 33)


def test_random_words_of_the_hash_are_independent_between_chains() -> None:
    """One multiplication would not do: digits of chains 31 apart then tell of each other."""
    weak = mutate(
        "lowland.targets.multispin",
        "_mix",
        "z = (z ^ ((z >> 30) & (2**34 - 1))) * _to_signed(FIRST)",
        "z = z * 1",
    )
    signed = mutate(
        "lowland.targets.multispin", "_mix", "((z >> 31) & (2**33 - 1))", "(z >> 31)"
    )  # the last bit is 0
    assert pairs(multispin) < LIMIT
    assert pairs(weak) > LIMIT and pairs(signed) > LIMIT


def test_reused_digits_are_uniform_where_they_are_needed() -> None:
    """In chains whose hashed digits are all the same as those of the limit, the last ten digits
    must still be free.
    """

    def score(module: Any) -> float:
        words = module._words(torch.arange(2**16) * module._to_signed(module.GOLDEN) + 99, 2**16)
        assert len(words) == module.HASHED + module.REUSED == 24
        undecided = words[0]
        for k in range(
            1, 8
        ):  # limit 0.1010..., in 8 of the 14 digits so that there are enough chains
            undecided = undecided & (words[6 + k] if k % 2 else ~words[6 + k])
        undecided = undecided & ~words[6]
        bits = [
            torch.stack([((word & undecided) >> lane) & 1 for lane in range(64)]).sum()
            for word in words[14:21]
        ]
        count = sum(((undecided >> lane) & 1).sum().item() for lane in range(64))
        return max(abs(bit.item() - count / 2) / math.sqrt(count / 4) for bit in bits)

    own = mutate("lowland.targets.multispin", "_words", "(w << 32) | ((w >> 32) & 0xFFFFFFFF)", "w")
    assert score(multispin) < LIMIT
    assert score(own) > LIMIT


# ----------------------------------------------------------------------------------------- the door


@pytest.mark.parametrize("count", [1, 63, 64, 65, 130])
@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (4, 6)])
def test_packing_is_undone_by_unpacking(count: int, size: tuple[int, int]) -> None:
    for dtype in (torch.float32, DOUBLE, torch.float16):
        x = Ising(size).domain.draw(count, seeded(), dtype=dtype)
        words = pack(x)
        assert words.shape == (*size, -(-count // 64))
        y = unpack(join(split(words, False), size[1]), x)
        assert torch.equal(x, y) and y.dtype == dtype


@pytest.mark.parametrize("path", ["eager", "hashed"])
def test_sweeps_keep_dtype_and_shape_repeat_with_the_generator_and_leave_x_alone(
    path: str, uncompiled: None
) -> None:
    energy = Ising((6, 8), 0.4, 0.1)
    for count, dtype in ((1, torch.float32), (70, DOUBLE)):
        x = energy.domain.draw(count, seeded(), dtype=dtype)
        before = x.clone()
        a, b = (energy.sweep(x, 3, seeded(1), compiled=path == "hashed") for _ in range(2))
        other = energy.sweep(x, 3, seeded(2), compiled=path == "hashed")
        assert a is not None and torch.equal(a, b) and a.dtype == dtype and a.shape == x.shape
        assert (
            torch.equal(x, before) and not torch.equal(a, other) and energy.domain.contains(a).all()
        )
        assert torch.equal(energy.sweep(x, 0, seeded(), compiled=path == "hashed"), x)


def test_five_sweeps_and_five_are_ten_and_beta_scales_the_energy() -> None:
    energy = Ising((4, 6), 0.8, 0.2)
    x, g = energy.domain.draw(100, seeded()), seeded(1)
    twice = energy.sweep(energy.sweep(x, 5, g), 5, g)
    assert torch.equal(twice, energy.sweep(x, 10, seeded(1)))
    assert torch.equal(
        energy.sweep(x, 4, seeded(2), beta=0.5), Ising((4, 6), 0.4, 0.1).sweep(x, 4, seeded(2))
    )
    cooled = BlockGibbs(4).step(energy / 2.0, BlockGibbs(4).init(energy / 2.0, x), seeded(2))[0].x
    assert torch.equal(cooled, energy.sweep(x, 4, seeded(2), beta=0.5))


def test_lattices_without_a_checkerboard_have_no_fast_sweep() -> None:
    for size in ((3, 4), (4, 5), (1, 3)):
        assert Ising(size).gibbs.sweep is None
        assert Ising(size, periodic=False).gibbs.sweep is not None
    assert Ising((1, 4)).gibbs.sweep is not None and Potts((4, 4)).gibbs.sweep is None


def test_without_a_compiler_the_eager_sweep_runs_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> Any:
        raise RuntimeError("no C++ compiler here")

    monkeypatch.setattr(multispin, "_compile", fail)
    energy = Ising((4, 4), 0.3)
    x = energy.domain.draw(10, seeded())
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler here.*eager"):
        y = energy.sweep(x, 2, seeded(1), compiled=True)
    assert y is not None and energy.domain.contains(y).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        energy.sweep(x, 2, seeded(1))


@pytest.mark.slow
@pytest.mark.parametrize("energy", [SWEPT[1], SWEPT[3]], ids=["free", "torus"])
def test_the_compiled_sweep_has_the_listed_law_and_the_bits_of_its_kernel(
    energy: Ising, monkeypatch: pytest.MonkeyPatch
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        x = energy.sweep(torch.zeros(8192, *energy.size), 2, seeded(3), compiled=True)
    with monkeypatch.context() as patch:
        patch.setattr(multispin, "_compile", lambda: multispin._kernel)
        assert x is not None and torch.equal(
            x, swept(energy, "hashed")(torch.zeros(8192, *energy.size), 2, seeded(3))
        )
    assert fit(energy, swept(energy, "hashed")) < LIMIT


# ------------------------------------------------------------------------------------ the benchmark


def test_the_benchmark_accepts_what_is_right_and_refuses_what_is_not() -> None:
    built = bench.build(32, 128, 20, 200)
    fast, _, slow = built.contenders[:3]
    first, second = (bench.Outcome(c.prepare()(), c.prove()) for c in (fast, slow))
    assert "exact" in built.check(first, first) and "exact" in built.check(first, second)
    task = bench.Task(32, bench.start_of(32, 128, 200), 20)
    early = bench.prove(
        lambda t: bench.lowland_sweep(t._replace(sweeps=t.sweeps - 1), compiled=False), task
    )
    assert caught(refused, built, first, first._replace(proof=early))
    cold = first._replace(result=lambda: first.result() - 0.1)
    assert caught(refused, built, first, cold)


def refused(built: Any, reference: Any, other: Any) -> None:
    try:
        built.check(reference, other)
    except bench.Disagreement as error:
        raise AssertionError(str(error)) from error
