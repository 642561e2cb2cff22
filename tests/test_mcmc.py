"""MCMC diagnostics against laws with known answers, against arviz-stats, and against their own
source with bugs planted.

Checks take the module, so that `test_planted_bugs` can give them one whose source was changed in
one place.
"""

import math
import subprocess
import sys
import types
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from contract.cases import seeded
from contract.checks import LIMIT, caught, worst
from scipy.stats import norm, rankdata
from torch import Tensor

from lowland import MALA, sample
from lowland.interop import to_arviz
from lowland.metrics import Summary, autocorrelation, ess, mcmc, mcse, rhat, summary
from lowland.samplers import Draws, Energies, ParallelTempering, State, Trace
from lowland.samplers.tempering import TemperedState, Tempering

ROWS: mcmc.Layout = "draws chains ..."
ACROSS: mcmc.Layout = "chains draws ..."
HAS_ORACLE = find_spec("arviz_stats") is not None
oracle_needed = pytest.mark.skipif(
    not HAS_ORACLE, reason="arviz-stats is not installed; it is in the extra `test`"
)
export_needed = pytest.mark.skipif(
    find_spec("arviz_base") is None, reason="arviz-base is not installed; see the extra `test`"
)


def independent(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=seeded(seed), dtype=torch.float64)


def ar1(phi: float, draws: int, chains: int, coordinates: int, seed: int = 0) -> Tensor:
    """x_t = φ x_{t−1} + √(1 − φ²) ε_t from its stationary law N(0, 1): n draws are worth n (1 −
    φ)/(1 + φ).
    """
    x = math.sqrt(1 - phi**2) * independent(draws, chains, coordinates, seed=seed)
    x[0] /= math.sqrt(1 - phi**2)
    for t in range(1, draws):
        x[t] += phi * x[t - 1]
    return x


def lazy(x: Tensor, seed: int = 0) -> Tensor:
    """Chains that stay where they are in 60 % of their steps, as a Metropolis sampler leaves them:
    many ties.
    """
    stay = torch.rand(x.shape, generator=seeded(seed)) < 0.6
    x = x.clone()
    for t in range(1, len(x)):
        x[t] = torch.where(stay[t], x[t - 1], x[t])
    return x


def cauchy(*shape: int, seed: int = 0) -> Tensor:
    return torch.tan(
        math.pi * (torch.rand(*shape, generator=seeded(seed), dtype=torch.float64) - 0.5)
    )


def moved(x: Tensor, by: float, scale: float = 1.0) -> Tensor:
    """The last chain elsewhere, or wider."""
    x = x.clone()
    x[:, -1] = scale * x[:, -1] + by
    return x


# -------------------------------------------------------------------------- checks of known answers


def check_ess(m: Any) -> float:
    """Worst |z| of the mean ESS of 100 coordinates against N (1 − φ)/(1 + φ)."""
    found = []
    for phi in (0.0, 0.5, 0.9):
        values = m.ess(ar1(phi, 4000, 4, 100, seed=1), "mean", layout=ROWS)
        found.append(worst(values.unsqueeze(1), 16000 * (1 - phi) / (1 + phi)))
    return max(found)


def check_calibration(m: Any, kind: str | float = "mean") -> float:
    """|z| of the mean of ((estimate − truth) / MCSE)² over 400 replications, which is 1 if the
    error is what it says.
    """
    truth = {"mean": 0.0, "sd": 1.0}.get(kind) if isinstance(kind, str) else norm.ppf(kind)
    found = []
    for phi in (0.0, 0.8, -0.5):
        x = ar1(phi, 1000, 4, 400, seed=2)
        rows = x.flatten(0, 1)
        value = (
            {"mean": rows.mean(0), "sd": rows.std(0)}[kind]
            if isinstance(kind, str)
            else rows.quantile(kind, 0)
        )
        z = (value - truth) / m.mcse(x, kind, layout=ROWS)
        found.append(worst(z.square().unsqueeze(1), 1.0))
    return max(found)


def check_antithetic(m: Any) -> None:
    """Draws that repel each other are worth more than independent ones, up to N log10 N; their
    squares are not.
    """
    x = ar1(-0.95, 1000, 4, 20)
    assert torch.allclose(
        m.ess(x, "mean", layout=ROWS), torch.tensor(4000 * math.log10(4000), dtype=torch.float64)
    )
    assert (m.ess(x, "sd", layout=ROWS) < 1000).all()
    assert (m.mcse(x, "sd", layout=ROWS) > 1.5 / math.sqrt(2 * 4000)).all()


def check_agreement(m: Any) -> None:
    """Chains of one law agree, and R-hat does not cry wolf."""
    for x in (
        independent(1000, 4, 50),
        cauchy(1000, 4, 50),
        lazy(independent(1000, 4, 50)),
        independent(1000, 1, 50),
    ):
        assert (m.rhat(x, layout=ROWS) < 1.02).all()
        assert (m.rhat(x, layout=ROWS) > 0.999).all()


def check_stuck(m: Any) -> None:
    """Chains in different places, whether they move there or not."""
    places = torch.tensor([-5.0, 5.0]).repeat(6).view(1, 12, 1)
    assert (m.rhat(independent(200, 12, 5) + places, layout=ROWS) > 1.5).all()
    assert (m.ess(independent(200, 12, 5) + places, layout=ROWS) < 20).all()
    assert (m.rhat(places.expand(200, 12, 5), layout=ROWS) > 1e6).all()


def check_drift(m: Any) -> None:
    """All chains drift together, or there is only one: only its halves disagree."""
    for chains in (1, 4):
        x = independent(200, chains, 5) + torch.linspace(-5, 5, 200)[:, None, None]
        assert (m.rhat(x, layout=ROWS) > 1.5).all()


def check_width(m: Any) -> None:
    """Chains agree on the place and not on the width."""
    assert (m.rhat(moved(independent(500, 4, 5), 0.0, 6.0), layout=ROWS) > 1.1).all()


def check_heavy_tails(m: Any) -> None:
    """A chain of four is elsewhere, under tails so heavy that no variance exists; no monotone map
    can hide it.
    """
    x = moved(cauchy(1000, 4, 20), 8.0)
    assert (m.rhat(x, layout=ROWS) > 1.1).all()
    assert torch.equal(m.ess(x, layout=ROWS), m.ess(x.sign() * x.abs().sqrt(), layout=ROWS))


def check_ranks(m: Any) -> None:
    """Normal scores against scipy's ranks with ties."""
    for x in (lazy(ar1(0.5, 60, 3, 4)), (2 * independent(61, 2, 3)).round(), independent(50, 2, 3)):
        part = x.permute(2, 1, 0)
        truth = [
            norm.ppf((rankdata(row.numpy()) - 0.375) / (row.numel() + 0.25))
            for row in part.flatten(1)
        ]
        assert np.allclose(
            m._normal_scores(part).flatten(1), np.stack(truth), rtol=1e-9, atol=1e-12
        )


def check_correlation(m: Any) -> None:
    """Autocorrelations against the sum that defines them, one chain and several in different
    places.
    """
    for x in (ar1(0.7, 90, 1, 3), moved(ar1(0.7, 45, 3, 3), 2.0)):
        centred, n = x - x.mean((0, 1)), len(x)
        total = centred.square().sum((0, 1))
        truth = torch.stack(
            [(centred[: n - t] * centred[t:]).sum((0, 1)) / total for t in range(n)]
        )
        assert torch.allclose(m.autocorrelation(x, n - 1, layout=ROWS), truth, atol=1e-12)


def check_layouts(m: Any) -> None:
    """The two spellings and a trace give the same, in the event's shape; chains may change places,
    draws may not.
    """
    x = ar1(0.9, 200, 12, 6).view(200, 12, 2, 3)
    for f in (m.rhat, m.ess, m.mcse):
        found = f(x, layout=ROWS)
        assert found.shape == (2, 3)
        assert torch.equal(found, f(x.transpose(0, 1), layout=ACROSS))
        assert torch.equal(found, f(trace_of(x)))
        assert torch.allclose(found, f(x.flip(1), layout=ROWS), rtol=1e-9)
        assert torch.allclose(found[1, 2], f(x[:, :, 1, 2], layout=ROWS), rtol=1e-9)
    assert (
        m.ess(x, layout=ROWS) < m.ess(x[torch.randperm(200, generator=seeded(0))], layout=ROWS)
    ).all()


def check_constants(m: Any) -> None:
    """A coordinate that never moves gets nan and leaves the others alone; one of two values keeps
    what exists.
    """
    x = independent(100, 4, 3)
    clean = [f(x, layout=ROWS)[1:] for f in (m.rhat, m.ess, m.mcse)]
    x[..., 0] = 0.1
    for f, others in zip((m.rhat, m.ess, m.mcse), clean, strict=True):
        found = f(x, layout=ROWS)
        assert found[0].isnan() and torch.equal(found[1:], others)
    assert all(f(x, k, layout=ROWS)[0].isnan() for f in (m.ess, m.mcse) for k in ("sd", 0.3))
    assert (
        m.ess(x, "tail", layout=ROWS)[0].isnan()
        and m.autocorrelation(x, 3, layout=ROWS)[:, 0].isnan().all()
    )
    two = torch.tensor([0.0, 1.0, 1.0, 0.0]).repeat(50).view(100, 2)
    assert all(
        f.isfinite()
        for f in (
            m.rhat(two, layout=ROWS),
            m.ess(two, layout=ROWS),
            m.ess(two, "tail", layout=ROWS),
        )
    )


# ------------------------------------------------------------------------------ oracle: arviz-stats

CASES: dict[str, Tensor] = {
    "independent": independent(500, 4, 5),
    "AR(1)": ar1(0.7, 400, 4, 5),
    "slow AR(1)": ar1(0.99, 400, 3, 5),
    "ten draws": ar1(0.3, 10, 3, 5),
    "odd draws": ar1(0.5, 101, 3, 5),
    "odd and few": independent(11, 2, 5),
    "antithetic": ar1(-0.6, 301, 4, 5),
    "strongly antithetic": ar1(-0.95, 300, 2, 5),
    "Cauchy": cauchy(400, 4, 5),
    "one mean elsewhere": moved(ar1(0.5, 300, 4, 5), 2.0),
    "one variance elsewhere": moved(ar1(0.5, 300, 4, 5), 0.0, 5.0),
    "rejections": lazy(ar1(0.5, 333, 4, 5)),
    "few values": (2 * ar1(0.5, 300, 4, 5)).round(),
    "many chains": ar1(0.8, 20, 50, 5),
    "one chain": ar1(0.5, 501, 1, 5),
    "far from zero": 1e6 + ar1(0.5, 300, 4, 5),
}


def arviz(name: str, x: Tensor, method: str, prob: Any = None) -> np.ndarray:
    from arviz_stats.base import array_stats

    more = {} if prob is None else {"prob": prob}
    return getattr(array_stats, name)(x.numpy(), method=method, draw_axis=0, chain_axis=1, **more)


def sd_error(x: Tensor) -> np.ndarray:
    """As in arviz-stats since https://github.com/arviz-devs/arviz-stats/issues/428: before, the ESS
    was that of x itself.
    """
    squares = (x - x.mean((0, 1))).square().numpy()
    m2, m4 = squares.mean((0, 1)), (squares**2).mean((0, 1))
    return np.sqrt((m4 - m2**2) / (4 * m2 * arviz("ess", x, "sd")))


def check_oracle(m: Any, names: tuple[str, ...] = tuple(CASES)) -> None:
    """Everything that arviz-stats knows, to 1e-9 relative (two sums in another order)."""
    for name in names:
        x = CASES[name]
        pairs = [
            *(
                (m.ess(x, kind, layout=ROWS), arviz("ess", x, kind))
                for kind in ("bulk", "mean", "sd")
            ),
            (m.ess(x, "tail", layout=ROWS), arviz("ess", x, "tail", (0.05, 0.95))),
            (m.mcse(x, layout=ROWS), arviz("mcse", x, "mean")),
            (m.mcse(x, "sd", layout=ROWS), sd_error(x)),
            *((m.ess(x, p, layout=ROWS), arviz("ess", x, "quantile", p)) for p in (0.1, 0.5)),
            *(
                (m.mcse(x, p, layout=ROWS), arviz("mcse", x, "quantile", p))
                for p in (0.1, 0.5, 0.95)
            ),
        ]
        if x.shape[1] > 1:  # the oracle gives nan for one chain
            pairs.append((m.rhat(x, layout=ROWS), arviz("rhat", x, "rank")))
        else:
            pairs.append(
                (m.autocorrelation(x, 50, layout=ROWS).T, _arviz_autocorrelation(x)[:, :51])
            )
        for mine, theirs in pairs:
            assert np.allclose(mine.numpy(), theirs, rtol=1e-9, atol=1e-12), name


def _arviz_autocorrelation(x: Tensor) -> np.ndarray:
    from arviz_stats.base import array_stats

    return array_stats.autocorr(x[:, 0].T.numpy())


@oracle_needed
@pytest.mark.parametrize("name", CASES)
def test_agrees_with_arviz_stats(name: str) -> None:
    check_oracle(mcmc, (name,))


# ---------------------------------------------------------------------------------- tests of truths

CHECKS: list[Callable[[Any], Any]] = [
    check_agreement,
    check_stuck,
    check_drift,
    check_width,
    check_heavy_tails,
    check_ranks,
    check_correlation,
    check_layouts,
    check_constants,
    check_antithetic,
]


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_known_answers(check: Callable[[Any], Any]) -> None:
    check(mcmc)


def test_ess_of_ar1_is_what_theory_says() -> None:
    assert check_ess(mcmc) < LIMIT


@pytest.mark.parametrize("kind", ["mean", "sd", 0.1, 0.5])
def test_standard_errors_are_what_they_say(kind: str | float) -> None:
    assert check_calibration(mcmc, kind) < LIMIT


def test_reading_across_flatters() -> None:
    """Why a layout is never guessed: draws taken for chains make slow chains look twenty times as
    good.
    """
    x = ar1(0.97, 1000, 4, 5)
    right, wrong = (
        ess(x, layout=ROWS),
        ess(x.repeat(1, 3, 1), layout=ACROSS),
    )  # twelve chains, so that there are "draws" enough
    assert (wrong / right > 20).all()


# Places in the source of mcmc.py, what a slip would put there, and the check that must see it.
BUGS: list[tuple[str, str, Callable[[Any], Any]]] = [
    ("return torch.cat([x[..., :half], x[..., -half:]], 1)", "return x", check_drift),
    ("x[..., -half:]], 1)", "x[..., half : 2 * half]], 1)", check_oracle),
    ("_normal_scores(part)) for part in", "part) for part in", check_heavy_tails),
    ("_ess(_normal_scores(_halves(x)))", "_ess(_halves(x))", check_heavy_tails),
    (
        "rows = x.flatten(1)\n    ordered",
        "rows = x.flatten(0, 1)\n    ordered",
        check_ranks,
    ),  # ranks within chains
    ("first + last]", "2 * first]", check_ranks),  # ties take the lowest rank
    ("(rank - 3 / 8)", "(rank - 1 / 2)", check_ranks),
    ("return torch.fmax(bulk, width)", "return bulk", check_width),
    ("return torch.fmax(bulk, width)", "return torch.maximum(bulk, width)", check_constants),
    ("return (x - median[:, None, None]).abs()", "return x - median[:, None, None]", check_width),
    ("x.mean(2).var(1), x.var(2)", "x.mean(2).var(1), x.var(2, correction=0)", check_oracle),
    ("[:, :n] / n", "[:, 1 : n + 1] / n", check_correlation),  # lag 1 taken for lag 0
    ("rho = 1 - (within - covariance)", "rho = 1 - (within - covariance.roll(-1, 1))", check_ess),
    (
        "math.log2(2 * n)",
        "math.log2(n)",
        check_correlation,
    ),  # the end of a chain meets its beginning
    ("[:, :n] / n", "[:, :n] / torch.arange(n, 0, -1)", check_correlation),
    ("x - means)", "x - means.mean(1, keepdim=True))", check_oracle),
    ("(covariance[:, :1] + means.var(1))", "covariance[:, :1]", check_stuck),  # chains not compared
    ("within = covariance[:, :1] * n / (n - 1)", "within = covariance[:, :1]", check_oracle),
    ("rho[:, 0] = 1", "pass", check_oracle),
    ("pairs.cummin(1).values", "pairs", check_oracle),  # not made to fall
    ("ended = pairs <= 0", "ended = even <= 0", check_oracle),
    ("(even > 0) | (pairs >= 0)", "(even > 0) & (pairs >= 0)", check_oracle),
    ("2 * summed - 1 + rest", "2 * summed + rest", check_ess),
    (".clamp(min=1 / math.log10(total))", "", check_antithetic),
    ("total = chains * n", "total = n", check_ess),  # not pooled over chains
    ("last = (n - 3) // 2", "last = (n - 2) // 2", check_oracle),
    ("found.masked_fill(_constant(x), math.nan)", "found.nan_to_num(chains * n)", check_constants),
    ("_ess_at(x, p) for p in TAILS", "_ess_at(x, TAILS[0]) for p in TAILS", check_oracle),
    ("(rows.shape[1] - 1) * p) + 1", "rows.shape[1] * p) + 1", check_oracle),
    ("(x <= below[:, None, None])", "(x < below[:, None, None])", check_oracle),
    ("x.flatten(1).std(1) / _ess_mean(x)", "x.std(2).mean(1) / _ess_mean(x)", check_oracle),
    (
        "x.flatten(1).std(1) / _ess_mean(x)",
        "x.flatten(1).std(1) / torch.tensor(float(x[0].numel()))",
        check_calibration,
    ),
    ("variance * _ess_sd(x)", "variance * _ess_mean(x)", check_antithetic),  # arviz-stats 0.8
    ("(4 * variance * _ess_sd", "(2 * variance * _ess_sd", lambda m: check_calibration(m, "sd")),
    ("to(x) * size - 1", "to(x) * size", check_oracle),
    ("for s in (1, -1)", "for s in (2, -2)", lambda m: check_calibration(m, 0.5)),
    ("permute(2, 1, 0)", "permute(2, 0, 1)", check_stuck),  # axes swapped
    ("else x.transpose(0, 1)", "else x", check_layouts),
    ("return x.draws\n", "return x.draws.transpose(0, 1)\n", check_layouts),
    (
        "part - part.mean((1, 2), keepdim=True)",
        "part - part.mean(2, keepdim=True)",
        check_correlation,
    ),
]


def variant(place: str, slip: str) -> types.ModuleType:
    """The module with one place of its source changed."""
    source = Path(mcmc.__file__).read_text(encoding="utf-8")
    assert source.count(place) == 1, f"{place!r} is there {source.count(place)} times"
    module = types.ModuleType("lowland.metrics.mcmc")
    exec(compile(source.replace(place, slip), "mcmc with a bug", "exec"), module.__dict__)
    return module


@pytest.mark.filterwarnings("ignore:var")
@pytest.mark.parametrize(
    ("place", "slip", "check"), BUGS, ids=[f"{place} -> {slip}" for place, slip, _ in BUGS]
)
def test_planted_bugs(place: str, slip: str, check: Callable[[Any], Any]) -> None:
    if check is check_oracle and not HAS_ORACLE:
        pytest.skip("arviz-stats is not installed; it is in the extra `test`")
    assert caught(check, variant(place, slip))


# ------------------------------------------------------------------------- refusals, bounded memory


@pytest.mark.parametrize(
    ("x", "more", "words"),
    [
        (torch.zeros(20, 4, 2), {}, "not guessed"),
        (torch.zeros(20, 4, 2), {"layout": "chains, draws"}, "not guessed"),
        (torch.zeros(20), {"layout": ROWS}, "unsqueeze"),
        (torch.zeros(20, 4, dtype=torch.complex64), {"layout": ROWS}, "real tensor"),
        (np.zeros((20, 4)), {"layout": ROWS}, "ndarray"),
        (torch.zeros(9, 400), {"layout": ROWS}, "9 draws of 400 chains"),
        (torch.zeros(400, 9), {"layout": ACROSS}, "9 draws of 400 chains"),
        (torch.zeros(20, 0), {"layout": ROWS}, "0 chains"),
        (torch.zeros(20, 4, 0), {"layout": ROWS}, "no coordinate"),
    ],
)
def test_what_cannot_be_read_is_refused(x: Any, more: dict[str, Any], words: str) -> None:
    for f in (rhat, ess, mcse, summary, lambda x, **k: autocorrelation(x, 5, **k)):
        with pytest.raises(ValueError, match=words) as error:
            f(x, **more)
        assert str(error.value).count(";") == 2


def test_draws_that_are_not_finite_are_counted() -> None:
    x = independent(50, 4, 3)
    x[3, 1] = math.nan
    x[7, 2, 0] = math.inf
    for y in (x, x[..., 0]):
        with pytest.raises(ValueError, match=r"2 of 200 draws are not finite; .*; "):
            rhat(y, layout=ROWS)


def test_a_trace_is_not_told_its_layout() -> None:
    with pytest.raises(ValueError, match="knows its own layout"):
        rhat(trace_of(independent(50, 4, 3)), layout=ACROSS)
    with pytest.raises(ValueError, match="no draws were recorded"):
        rhat(trace_of(independent(50, 4, 3), records={}))


def test_kinds_and_lags_are_checked() -> None:
    x = independent(50, 4, 3)
    for f in (ess, mcse):
        for kind in ("median", 0.0, 1.0, 2, None):
            with pytest.raises(ValueError, match=f"kind is {kind!r}; .*; "):
                f(x, kind, layout=ROWS)
    for lags in (-1, 50, 2.0):
        with pytest.raises(ValueError, match=r"lags is .*; .*; "):
            autocorrelation(x, lags, layout=ROWS)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64, torch.bool])
def test_any_real_dtype_is_worked_on_in_double(dtype: torch.dtype) -> None:
    x = (3 * ar1(0.5, 100, 4, 3)).clamp(min=0).to(dtype)
    for f in (rhat, ess, mcse):
        found = f(x.clone(), layout=ROWS)
        assert found.dtype == torch.float64 and torch.equal(found, f(x.double(), layout=ROWS))


def test_draws_may_hang_on_a_graph_and_lie_anywhere_in_memory() -> None:
    x = ar1(0.5, 60, 4, 12).view(60, 4, 3, 2, 2)
    scattered = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3).requires_grad_()
    for f in (rhat, ess, mcse, lambda x, **k: mcse(x, 0.5, **k)):
        assert torch.equal(f(scattered, layout=ROWS), f(x, layout=ROWS))


def test_blocks_are_small_and_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = ar1(0.5, 50, 4, 30)
    whole = [
        rhat(x, layout=ROWS),
        ess(x, layout=ROWS),
        mcse(x, 0.5, layout=ROWS),
        autocorrelation(x, 7, layout=ROWS),
    ]
    monkeypatch.setattr(mcmc, "MAX_BLOCK_SIZE", 1000)
    assert {part.shape[0] for part in mcmc._blocks(x)} == {5}
    parts = [
        rhat(x, layout=ROWS),
        ess(x, layout=ROWS),
        mcse(x, 0.5, layout=ROWS),
        autocorrelation(x, 7, layout=ROWS),
    ]
    assert all(torch.allclose(a, b, rtol=1e-12) for a, b in zip(whole, parts, strict=True))


MEMORY = """
import torch
from lowland.metrics import {names}
torch.set_num_threads(1)
peak = lambda: int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) // 1024
x = torch.randn({draws}, {chains}, {coordinates}, generator=torch.Generator().manual_seed(0))
few = x[:, :, :1].clone()
{small}
before = peak()
{work}
print(before, peak())
"""


def peak(names: str, work: str, draws: int, chains: int, coordinates: int) -> tuple[int, int]:
    """Largest resident memory in MiB before and after the work, in a process of its own."""
    if not Path("/proc/self/status").exists():
        pytest.skip(
            "the largest resident memory is read from /proc, which this system does not have"
        )
    small = work.replace("(x", "(few")
    code = MEMORY.format(
        names=names, work=work, small=small, draws=draws, chains=chains, coordinates=coordinates
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=900
    )
    before, after = map(int, done.stdout.split())
    return before, after


def test_memory_is_bounded() -> None:
    """4 million draws in double are 32 MiB a copy, of which R-hat at once needs about ten; a block
    has a quarter of that. The allocator keeps what was freed for a while: 120 to 170 MiB were seen
    with blocks, and 296 without.
    """
    work, size = "rhat(x, layout='draws chains ...')", (256, 8, 2048)
    before, after = peak("rhat", work, *size)
    assert after - before < 220
    before, after = peak("mcmc", f"mcmc.MAX_BLOCK_SIZE = 2**40; mcmc.{work}", *size)
    assert after - before > 220


@pytest.mark.slow
def test_a_large_trace_fits_into_two_gibibytes() -> None:
    """1,000 draws of 64 chains of 3,072 coordinates, themselves 750 MiB in float32."""
    _, after = peak(
        "summary", "print(end=repr(summary(x, layout='draws chains ...'))[:0])", 1000, 64, 3072
    )
    assert after < 2048


# ---------------------------------------------------------------------------------------- summaries


def trace_of(draws: Tensor, **more: Any) -> Trace:
    chains = draws.shape[1]
    fields = {
        "state": State(draws[-1], torch.zeros(chains), draws[-1]),
        "acceptance": torch.full((chains,), 0.6),
        "diverged": torch.zeros(chains, dtype=torch.long),
        "steps": len(draws),
        "num_grad_evals": 0,
        "records": {"draws": draws},
    }
    return Trace(**(fields | more))


def tempered(accepted: list[float], tried: list[float], trips: list[int]) -> TemperedState:
    x = torch.zeros(4, 2)
    counts = (torch.tensor(part) for part in (accepted, tried, trips))
    return TemperedState(x, torch.zeros(4), None, 40, Tempering(*counts, torch.zeros(3, 4)))


def test_a_summary_holds_what_the_functions_say() -> None:
    x = ar1(0.5, 300, 4, 6).view(300, 4, 2, 3)
    for found in (
        summary(trace_of(x)),
        summary(x, layout=ROWS),
        summary(x.transpose(0, 1), layout=ACROSS),
    ):
        assert isinstance(found, Summary) and (found.draws, found.chains) == (300, 4)
        assert torch.allclose(found.mean, x.mean((0, 1))) and torch.allclose(
            found.sd, x.flatten(0, 1).std(0)
        )
        assert torch.equal(found.mcse, mcse(x, layout=ROWS)) and torch.equal(
            found.rhat, rhat(x, layout=ROWS)
        )
        assert torch.equal(found.ess_bulk, ess(x, layout=ROWS)) and torch.equal(
            found.ess_tail, ess(x, "tail", layout=ROWS)
        )
    assert found.acceptance is None and "acceptance" not in repr(found)
    assert "acceptance 0.600 (0.600 to 0.600 by chain), 0 divergences in 300 steps" in repr(
        summary(trace_of(x))
    )


def test_a_sound_run_gets_one_sentence() -> None:
    verdict = summary(trace_of(independent(500, 4, 2))).verdict
    assert len(verdict) == 1 and verdict[0].startswith("nothing to object to (R-hat up to 1.0")


def test_a_summary_of_a_sampled_law() -> None:
    g = seeded(0)
    trace = sample(
        lambda x: 0.5 * x.square().sum(1),
        MALA(0.9),
        torch.randn(4, 2, generator=g),
        4000,
        generator=g,
        thin=1,
    )
    found = summary(trace)
    assert ((found.mean / found.mcse).abs() < LIMIT).all()
    assert ((found.sd - 1) / mcse(trace, "sd")).abs().max() < LIMIT
    assert "nothing to object to" in repr(found)


APART = torch.arange(4.0).view(4, 1) * (
    torch.arange(10) < 3
)  # 4 chains in 4 places, in 3 of 10 coordinates


@pytest.mark.parametrize(
    ("trace", "words"),
    [
        (
            trace_of(independent(500, 4, 10) + APART),
            "R-hat above 1.01 in 3 of 10 coordinates: chains disagree",
        ),
        (trace_of(independent(50, 4, 10)), "ESS below 400 in 10 of 10 coordinates"),
        (
            trace_of(independent(500, 4, 10) * torch.tensor([0.0, 0.0] + [1.0] * 8)),
            "no movement in 2 of 10 coordinates",
        ),
        (
            trace_of((independent(500, 4, 3) < 2.2).double()),
            "no tail to judge in 3 of 3 coordinates",
        ),
        (trace_of(independent(2000, 1, 2)), "one chain: "),
        (
            trace_of(independent(500, 4, 2), diverged=torch.tensor([0, 7, 0, 5])),
            "12 divergences in 2 of 4 chains",
        ),
        (
            trace_of(independent(500, 4, 2), acceptance=torch.tensor([0.5, 0.0, 0.4, 0.6])),
            "1 of 4 chains accepted nothing",
        ),
        (
            trace_of(independent(500, 4, 2), state=tempered([5, 0.05, 5], [9, 9, 9], [1, 0, 0, 0])),
            "between temperatures 1 and 2",
        ),
        (
            trace_of(independent(500, 4, 2), state=tempered([5, 5, 0], [9, 9, 0], [1, 0, 0, 0])),
            "between temperatures 2 and 3",
        ),
        (
            trace_of(independent(500, 4, 2), state=tempered([5, 5], [9, 9], [0, 0, 0, 0])),
            "no round trip",
        ),
    ],
)
def test_what_is_wrong_is_said_and_nothing_else(trace: Trace, words: str) -> None:
    found = summary(trace)
    assert [sentence for sentence in found.verdict if words in sentence]
    assert len(found.verdict) == 1 or words[:5] in (
        "R-hat",
        "ESS b",
        "no ta",
    )  # short or odd runs have more than one fault
    assert all(sentence in repr(found) for sentence in found.verdict)


def test_swaps_and_round_trips_are_reported() -> None:
    found = summary(
        trace_of(independent(500, 4, 2), state=tempered([4, 6], [10, 10], [1, 0, 2, 0]))
    )
    assert found.swap_rates is not None and torch.allclose(
        found.swap_rates, torch.tensor([0.4, 0.6])
    )
    assert "swap rates 0.40 0.60" in repr(found) and "3 round trips, 0.75 per chain" in repr(found)
    assert summary(trace_of(independent(500, 4, 2))).swap_rates is None


def test_a_summary_of_parallel_tempering() -> None:
    g = seeded(0)
    sampler = ParallelTempering(MALA(0.5), (1.0, 2.0, 4.0))
    trace = sample(
        lambda x: 0.5 * x.square().sum(1),
        sampler,
        torch.randn(4, 2, generator=g),
        200,
        generator=g,
        thin=1,
    )
    more = sample(
        lambda x: 0.5 * x.square().sum(1),
        sampler,
        trace.x,
        100,
        generator=g,
        thin=1,
        state=trace.state,
    )
    found = summary(more)
    assert (
        found.swap_rates is not None
        and found.swap_rates.shape == (2,)
        and (found.swap_rates > 0.3).all()
    )
    assert found.round_trips is not None and f"{int(found.round_trips.sum())} round trips" in repr(
        found
    )
    assert "per chain in 300 sweeps" in repr(found) and found.draws == 100


def test_an_image_prints_its_worst_coordinates_first_and_few_of_them() -> None:
    x = independent(100, 4, 28, 28)
    x[..., :3, :] = 0.0  # a border that never moves
    x[:, 0, 9, 20] += 3
    lines = repr(summary(trace_of(x))).splitlines()
    assert len(lines) < 20 and max(map(len, lines)) < 200
    assert lines[2].split("]")[0].strip() == "[9, 20" and "nan" not in lines[2]
    assert any("776 more; all: R-hat up to 1." in line for line in lines)
    assert any("no movement in 84 of 784 coordinates" in line for line in lines)


def test_an_event_without_axes_and_one_that_never_moves_print() -> None:
    assert repr(summary(independent(100, 4), layout=ROWS)).splitlines()[2].split()[0] == "x"
    still = summary(torch.zeros(100, 4, 2), layout=ROWS)
    assert "no movement in 2 of 2 coordinates" in repr(still) and still.sd.tolist() == [0.0, 0.0]


# -------------------------------------------------------------------------------------------- ArviZ


@export_needed
def test_a_trace_goes_to_arviz() -> None:
    g = seeded(0)
    start = torch.randn(3, 2, 2, generator=g)
    trace = sample(
        lambda x: x.square().flatten(1).sum(1),
        MALA(0.3),
        start,
        40,
        generator=g,
        recorders=[Draws(), Energies()],
    )
    tree = to_arviz(trace, "image")
    posterior, stats = tree["posterior"], tree["sample_stats"]
    assert posterior["image"].dims == ("chain", "draw", "image_dim_0", "image_dim_1")
    assert np.array_equal(posterior["image"].values, trace.draws.transpose(0, 1).numpy())
    assert stats["acceptance_rate"].dims == ("chain",) and np.array_equal(
        stats["acceptance_rate"], trace.acceptance
    )
    assert np.array_equal(stats["diverged"], trace.diverged)
    assert stats["lp"].dims == ("chain", "draw") and np.array_equal(
        stats["lp"], -trace.records["energies"].T
    )
    thinned = sample(
        lambda x: x.square().flatten(1).sum(1),
        MALA(0.3),
        start,
        40,
        generator=g,
        recorders=[Draws(2), Energies()],
    )
    assert "lp" not in to_arviz(thinned)["sample_stats"]


@export_needed
@oracle_needed
def test_arviz_reads_it_the_right_way_round() -> None:
    from arviz_stats.base import array_stats

    trace = trace_of(ar1(0.9, 500, 4, 3))
    assert np.allclose(
        array_stats.ess(to_arviz(trace)["posterior"]["x"].values, chain_axis=0, draw_axis=1),
        ess(trace),
    )


def test_without_arviz_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "arviz_base", None)
    with pytest.raises(ImportError, match=r"pip install 'lowland\[arviz\]'"):
        to_arviz(trace_of(independent(20, 4, 2)))
