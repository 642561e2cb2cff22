"""Does the certificate of log Z keep its promise? Coverage on machines whose log Z is known
exactly.

    python -m benchmarks.proof.certificate                    # 300 machines in both precisions;
    writes
                                                        results/proof/certificate.{md,json}
    python -m benchmarks.proof.certificate --machines 24 --out /tmp

Machines: restricted Boltzmann machines of 8 to 20 hidden and 20 to 36 visible units, log Z by
adding up all hidden states in float64. Random ones with weights from gentle to strong; trained ones
(exact gradient ascent on bars and stripes, and on noisy patterns) after few and many updates;
bimodal ones, with two patterns of unequal mass and a barrier between them; needles, one pattern in
a wide plain that weighs as much as all the rest. Each is bracketed twice, 100 chains × 200
temperatures:
from exact draws, and from chains that log_z runs by itself, which see the data of machines that
have some. Beside it stands what is usually done: annealed importance sampling forward alone, 200
chains × 200 temperatures set evenly, value ± 1.96 standard errors.

A row of the continuous table is one distribution with a known log Z, bracketed ten times with other
seeds.
"""

import argparse
import math
import time
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.machine import machine
from benchmarks.proof import RESULTS
from benchmarks.record import write_record
from lowland import BlockGibbs, Energy, binary, box
from lowland.metrics import LogZ, log_z
from lowland.nets import RBM
from lowland.samplers import ais
from lowland.targets import Funnel, Gaussian, GaussianMixture, Ising, Potts, Uniform

CHAINS, NUM_TEMPERATURES = 100, 200
WAYS = ("exact draws", "own chains", "forward alone")
KINDS = ("random", "bars and stripes", "patterns", "bimodal", "needle")
BLIND = "needle, no data"  # what no reverse run from the base's side can find; not among "all"


class Machine(NamedTuple):
    """A machine in float64, what it is in words, and data that it models, if there are any."""

    kind: str
    strength: float
    rbm: RBM
    data: Tensor | None = None


def seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bare(visible: int, hidden: int) -> RBM:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return RBM(binary(visible), n_hidden=hidden, init_std=0.0).double()


def set_to(rbm: RBM, weight: Tensor, visible_bias: Tensor, hidden_bias: Tensor) -> RBM:
    with torch.no_grad():
        for parameter, value in zip(
            (rbm.weight, rbm.visible_bias, rbm.hidden_bias),
            (weight, visible_bias, hidden_bias),
            strict=True,
        ):
            parameter.copy_(value)
    return rbm


def random_machine(strength: float, seed: int) -> RBM:
    """Normal weights of that deviation, biases that centre the units, and some more."""
    g = seeded(seed)
    visible, hidden = 20 + 4 * (seed % 5), 8 + 3 * (seed % 5)
    w = strength * torch.randn(visible, hidden, generator=g, dtype=torch.float64)
    a, b = (torch.randn(n, generator=g, dtype=torch.float64) for n in (visible, hidden))
    return set_to(bare(visible, hidden), w, a - w.sum(1) / 2, b - w.sum(0) / 2)


def bimodal(barrier: float, seed: int) -> RBM:
    """Two patterns, one the other's negative, of masses about 1 : e^tilt, and weights that bind
    every unit to its pattern.
    """
    g = seeded(seed)
    visible, hidden = 24, 8 + 4 * (seed % 4)
    p, q = (
        2.0 * torch.randint(2, (n,), generator=g, dtype=torch.float64) - 1
        for n in (visible, hidden)
    )
    w = (
        barrier
        / hidden
        * torch.outer(p, q)
        * (1 + 0.3 * torch.randn(visible, hidden, generator=g, dtype=torch.float64))
    )
    tilt = 2 * torch.rand(1, generator=g, dtype=torch.float64).item() / visible
    return set_to(bare(visible, hidden), w, tilt * p - w.sum(1) / 2, -w.sum(0) / 2)


def needle(sharpness: float, seed: int) -> RBM:
    """Most states are alike; one pattern, of about the same mass as all others together, is a hole
    that falls off by e^sharpness with every bit: a transition of first order on the way from any
    base.
    """
    g = seeded(seed)
    visible, hidden = 24, 10
    p = torch.randint(2, (visible,), generator=g, dtype=torch.float64)
    w = 0.3 * torch.randn(visible, hidden, generator=g, dtype=torch.float64)
    bias, ratio = (
        torch.zeros(hidden, dtype=torch.float64),
        4 * torch.rand(1, generator=g).item() - 2,
    )
    w[:, 0] = sharpness * (2 * p - 1)
    depth = visible * (math.log(2) - math.log1p(math.exp(-sharpness))) + ratio
    bias[0] = depth - sharpness * p.sum()
    return set_to(bare(visible, hidden), w, -w[:, 1:].sum(1) / 2, bias)


def bars_and_stripes(side: int = 5) -> Tensor:
    """Every picture of full columns, and of full rows."""
    bits = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * side)
    columns = bits.unsqueeze(1).expand(-1, side, -1)
    return torch.cat([columns, columns.transpose(1, 2)]).flatten(1).unique(dim=0)


def noisy_patterns(seed: int, visible: int = 28) -> Tensor:
    """Six random patterns, each bit of which is flipped one time in twenty."""
    g = seeded(seed)
    patterns = torch.randint(2, (6, visible), generator=g, dtype=torch.float64)
    x = patterns[torch.randint(6, (300,), generator=g)]
    return torch.where(torch.rand(x.shape, generator=g) < 0.05, 1 - x, x)


def trained(data: Tensor, hidden: int, updates: int, seed: int) -> RBM:
    """Gradient ascent (Adam, rate 0.05) on the exact log-likelihood: log Z is the sum over hidden
    states.
    """
    rbm, g = bare(data.shape[1], hidden), seeded(seed)
    set_to(
        rbm,
        0.1 * torch.randn(rbm.weight.shape, generator=g, dtype=torch.float64),
        rbm.visible_bias,
        rbm.hidden_bias,
    )
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * hidden)
    optimizer = torch.optim.Adam(rbm.parameters(), lr=0.05)
    for _ in range(updates):
        loss = rbm(data).mean() + (-rbm.hidden_marginal()(states)).logsumexp(0)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return rbm


def machines(count: int) -> Iterator[Machine]:
    """So many machines, the kinds in turn, each from gentle to strong."""
    for i in range(count):
        kind, k = KINDS[i % len(KINDS)], i // len(KINDS)
        if kind == "random":
            strength = (0.3, 0.6, 1.0, 1.5, 2.0, 3.0)[k % 6]
            yield Machine(kind, strength, random_machine(strength, k))
        elif kind == "bimodal":
            barrier = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0)[k % 6]
            yield Machine(kind, barrier, bimodal(barrier, k))
        elif kind == "needle":
            sharpness = (1.2, 2.0, 3.0, 5.0, 8.0, 12.0)[k % 6]
            rbm = needle(sharpness, k)
            yield Machine(kind, sharpness, rbm, exact_draws(rbm, 300, 7000 + k))
            if k < 12:
                yield Machine(BLIND, sharpness, rbm)
        else:
            updates = (25, 50, 100, 200, 300, 400)[k % 6]
            data = bars_and_stripes() if kind == "bars and stripes" else noisy_patterns(k)
            yield Machine(kind, updates, trained(data, 8 + k % 3, updates, k), data)


def exact_draws(rbm: RBM, count: int, seed: int) -> Tensor:
    """h from all its states, then x given h."""
    with torch.no_grad():
        hidden = rbm.n_hidden
        index = torch.arange(2**hidden)
        place = 2 ** torch.arange(hidden)
        logits = torch.cat(
            [
                -rbm.hidden_marginal()(((block[:, None] // place) % 2).double())
                for block in index.split(2**14)
            ]
        )
        chosen = torch.multinomial(
            (logits - logits.max()).exp(), count, replacement=True, generator=seeded(seed)
        )
        return rbm.draw_visible(((chosen[:, None] // place) % 2).double(), seeded(seed + 1))


def judged(found: LogZ, truth: float) -> dict[str, Any]:
    assert found.forward is not None and found.reverse is not None
    return {
        "holds": found.lower <= truth <= found.upper,
        "certified": found.certified,
        "error": found.value - truth,
        "lower": found.lower - truth,
        "upper": found.upper - truth,
        "gap": found.gap,
        "ess": [found.forward.ess, found.reverse.ess],
        "problems": list(found.problems),
    }


def forward_alone(rbm: RBM, dtype: torch.dtype, truth: float, seed: int) -> dict[str, Any]:
    """What is usually done, at the same number of chains moved: temperatures set evenly, from the
    uniform
    distribution.
    """
    base, g = Uniform(rbm.domain), seeded(seed)
    x = base.draw(2 * CHAINS, g, dtype)
    run = ais(
        rbm.path_from(base, torch.linspace(0, 1, NUM_TEMPERATURES + 1).tolist()),
        BlockGibbs(),
        x,
        generator=g,
    )
    error = base.log_z + run.log_ratio - truth
    return {"holds": abs(error) <= 1.96 * run.error, "error": error, "width": 3.92 * run.error}


def study(case: Machine, index: int, dtype: torch.dtype) -> dict[str, Any]:
    """Everything about one machine in one precision."""
    truth = log_z(case.rbm, exact=True, generator=seeded(index)).value
    rbm = bare(case.rbm.domain.shape[0], case.rbm.n_hidden).to(dtype)
    rbm.load_state_dict(case.rbm.state_dict())
    draws = exact_draws(case.rbm, 11 * CHAINS, index).to(dtype)
    data = None if case.data is None else case.data.to(dtype)
    run = {"chains": CHAINS, "num_temperatures": NUM_TEMPERATURES, "exact": False}
    return {
        "machine": index,
        "kind": case.kind,
        "strength": case.strength,
        "visible": rbm.domain.shape[0],
        "hidden": rbm.n_hidden,
        "dtype": str(dtype).removeprefix("torch."),
        "log_z": truth,
        "exact draws": judged(
            log_z(rbm, draws=draws, generator=seeded(1000 + index), **run), truth
        ),
        "own chains": judged(log_z(rbm, data=data, generator=seeded(2000 + index), **run), truth),
        "forward alone": forward_alone(rbm, dtype, truth, 3000 + index),
    }


# ------------------------------------------------------------------------- continuous distributions


def mixture(dim: int, distance: float) -> GaussianMixture:
    """Two of unequal mass, `distance` deviations apart."""
    half = distance / 2 / math.sqrt(dim)
    return GaussianMixture(([-half] * dim, [half] * dim), 1.0, (1.0, 3.0))


def correlated(dim: int) -> Gaussian:
    factor = torch.randn(dim, dim, generator=seeded(dim), dtype=torch.float64) / math.sqrt(dim)
    matrix = factor @ factor.T + 0.1 * torch.eye(dim, dtype=torch.float64)
    return Gaussian([1.0] * dim, ((matrix + matrix.T) / 2).tolist())


class Boxed(Energy):
    """Independent truncated exponentials on a box [0, 1]^d: E(x) = Σ a_i x_i, log Z = Σ log (1 −
    e^−a_i) / a_i.
    """

    def __init__(self, dim: int) -> None:
        super().__init__(box(0.0, 1.0, dim))
        self.slopes = torch.linspace(1.0, 12.0, dim)
        self.log_z = (
            ((-torch.expm1(-self.slopes.double())) / self.slopes.double()).log().sum().item()
        )

    def forward(self, x: Tensor, c: Any = None) -> Tensor:
        return x @ self.slopes.to(x.dtype)

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype = torch.float32
    ) -> Tensor:
        u = torch.rand(count, len(self.slopes), generator=generator, dtype=torch.float64)
        a = self.slopes.double()
        return (-torch.log1p(u * torch.expm1(-a)) / a).clamp(0, 1).to(dtype)


def distributions() -> dict[str, Any]:
    made: dict[str, Any] = {}
    for dim in (2, 10, 50):
        made |= {
            f"Gaussian, correlated, {dim}": correlated(dim),
            f"mixture, 8 deviations, {dim}": mixture(dim, 8.0),
        }
        made |= {f"funnel, {dim}": Funnel(dim), f"box, exponential, {dim}": Boxed(dim)}
    return made | {
        "Ising, 8 × 8": Ising((8, 8), coupling=0.44),
        "Potts, 6 × 6": Potts((6, 6), 3, 0.8),
    }


def continuous(repeats: int, say: Callable[[str], object]) -> list[dict[str, Any]]:
    rows = []
    for name, distribution in distributions().items():
        base = (
            Gaussian(
                [0.0] * distribution.domain.shape[0],
                (4 * torch.eye(distribution.domain.shape[0])).tolist(),
            )
            if distribution.domain.kind == "real"
            else None
        )
        found = [
            log_z(
                distribution,
                base=base,
                chains=CHAINS,
                num_temperatures=400,
                exact=False,
                generator=seeded(i),
            )
            for i in range(repeats)
        ]
        row = {
            "distribution": name,
            "log_z": distribution.log_z,
            "runs": [judged(one, distribution.log_z) for one in found],
        }
        say(f"{name}: {sum(run['holds'] for run in row['runs'])} of {repeats}")
        rows.append(row)
    return rows


# ------------------------------------------------------------------------------------------- tables


def share(rows: list[dict[str, Any]]) -> str:
    held = sum(row["holds"] for row in rows)
    return f"{held} of {len(rows)} ({100 * held / len(rows):.1f} %)" if rows else "–"


def median(values: list[float]) -> str:
    return f"{torch.tensor(values).median().item():.3f}" if values else "–"


def coverage(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| machines | precision | way | log Z inside | certified | inside, of those | median width "
        "| worst error of value |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for kind in ("all", *KINDS, BLIND):
        for dtype in ("float32", "float64"):
            wanted = KINDS if kind == "all" else (kind,)
            chosen = [row for row in rows if row["dtype"] == dtype and row["kind"] in wanted]
            lines += [
                _covered(kind, dtype, way, [row[way] for row in chosen]) for way in WAYS if chosen
            ]
    return "\n".join(lines)


def _covered(kind: str, dtype: str, way: str, found: list[dict[str, Any]]) -> str:
    usual = way == "forward alone"
    sure = [one for one in found if one.get("certified")]
    bold = "**" if sum(one["holds"] for one in found) < 0.95 * len(found) else ""
    cells = [
        kind,
        dtype,
        way,
        f"{bold}{share(found)}{bold}",
        "–" if usual else str(len(sure)),
        share(sure),
    ]
    cells.append(median([one["width"] if usual else one["upper"] - one["lower"] for one in found]))
    cells.append(f"{max(abs(one['error']) for one in found):.2f}")
    return f"| {' | '.join(cells)} |"


def failures(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| machine | kind | strength | hidden | precision | way | log Z lies | certified | what it "
        "said |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        for way in ("exact draws", "own chains"):
            one = row[way]
            if not one["holds"]:
                off = (
                    f"{-one['upper']:.3f} above"
                    if one["upper"] < 0
                    else f"{one['lower']:.3f} below"
                )
                about = [row[key] for key in ("machine", "kind", "strength", "hidden", "dtype")]
                cells = [
                    *about,
                    way,
                    off,
                    one["certified"],
                    "; ".join(one["problems"]) or "nothing",
                ]
                lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines) if len(lines) > 2 else "None."


def continuous_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| distribution, dimensions | log Z | inside | certified | median width | worst error of "
        "value |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        runs = row["runs"]
        widths = median([run["upper"] - run["lower"] for run in runs])
        worst = max(abs(run["error"]) for run in runs)
        sure = sum(run["certified"] for run in runs)
        lines.append(
            f"| {row['distribution']} | {row['log_z']:.3f} | {share(runs)} | {sure} | {widths} | "
            f"{worst:.3f} |"
        )
    return "\n".join(lines)


def page(found: dict[str, Any]) -> str:
    about = found["machine"]
    parts = [
        "# Coverage of the certificate of log Z",
        f"`{found['command']}` on {found['date']}, {about.get('cpu', 'an unknown CPU')}, torch "
        f"{torch.__version__}, {found['seconds']:.0f} s. {found['machines']} machines, {CHAINS} "
        f"chains × {NUM_TEMPERATURES} temperatures in each direction. Promised is 95 %; bold is "
        "below. Own chains "
        "start at ends of the forward run and, for trained machines and needles, at data: what "
        "they never visited no certificate can know, as the last rows show, which are not counted "
        "among all.",
        coverage(found["rows"]),
        "## Every failure",
        failures(found["rows"]),
        "## Distributions with a formula",
        f"From N(0, 4) or the uniform distribution, {CHAINS} chains × 400 temperatures, exact "
        "draws.",
        continuous_table(found["distributions"]),
    ]
    return "\n\n".join(parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--machines", type=int, default=300)
    parser.add_argument("--repeats", type=int, default=10)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    for index, case in enumerate(machines(args.machines)):
        rows += [study(case, index, dtype) for dtype in (torch.float32, torch.float64)]
        held = " ".join(str(sum(row[way]["holds"] for row in rows)) for way in WAYS)
        print(
            f"{index + 1} machines, {time.monotonic() - began:.0f} s; inside, of {len(rows)}: "
            f"{held}",
            flush=True,
        )
    found = {
        "command": "python -m benchmarks.proof.certificate"
        + ("" if args.machines == 300 else f" --machines {args.machines}"),
        "date": date.today().isoformat(),
        "machine": machine(),
        "machines": args.machines,
        "distributions": continuous(args.repeats, print),
        "rows": rows,
        "seconds": time.monotonic() - began,
    }
    write_record(args.out / "certificate.json", found)
    (args.out / "certificate.md").write_text(page(found))
    print(args.out / "certificate.md")


if __name__ == "__main__":
    main()
