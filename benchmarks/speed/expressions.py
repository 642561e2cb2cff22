"""Cost of an expression of one term: ten uses of Sum([e], [1.0]) and of 1.0 * e against plain e.

    python -m benchmarks.speed.expressions    30 s of a quiet core

An expression hands on what its term knows (block Gibbs, paths, latent units, gradients), so it
should cost what the term costs. The forms run in turn in one process on one thread, e Sum e Sum
..., from the same seeds, and must give the same numbers; a ratio is that of processor times of
neighbours. `1.0 * e` is e itself: its ratio shows the noise of the machine.
"""

import argparse
from collections.abc import Callable
from statistics import median
from time import process_time
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.machine import circumstances, pin
from benchmarks.record import RESULTS, write_record

FORMS, MIN_PAIRS = ("Sum([e], [1.0])", "1.0 * e"), 7


class Use(NamedTuple):
    """An energy, what an expression of it stands in, and what is done with the whole."""

    energy: Any
    run: Callable[[Any], Tensor]
    around: Callable[[Any], Any] = lambda energy: energy


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def build_uses() -> dict[str, Use]:
    import lowland
    from lowland.nets import MLP, RBM
    from lowland.objectives import PCD, Batch, Context
    from lowland.samplers import ais
    from lowland.targets import Gaussian, Ising

    torch.manual_seed(0)
    rbm, small = (RBM(lowland.binary(n), n_hidden=m) for n, m in ((784, 128), (30, 14)))
    net, labelled = MLP(lowland.real(10)), MLP(lowland.real(10), classes=4)
    ising = Ising((64, 64), 0.4)
    gaussian, other = (Gaussian((0.0,) * n, torch.eye(n).tolist()) for n in (20, 10))
    bits, spins = lowland.binary(784).draw(64, seeded(1)), ising.domain.draw(64, seeded(2))
    x, many = torch.randn(256, 10, generator=seeded(3)), torch.randn(5000, 10, generator=seeded(4))
    wide, labels = torch.randn(32, 20, generator=seeded(5)), torch.arange(256) % 4
    mala, gibbs = lowland.MALA(0.1), lowland.BlockGibbs()
    tempered = lowland.ParallelTempering(gibbs, (1.0, 1.5, 2.0, 3.0))

    def run(sampler: Any, start: Tensor, steps: int, **options: Any) -> Callable[[Any], Tensor]:
        return lambda e: lowland.sample(e, sampler, start, steps, generator=seeded(), **options).x

    def weigh(e: Any) -> Tensor:
        return ais([(k + 1) / 60 * e for k in range(60)], mala, x, generator=seeded()).log_weights

    def tune(e: Any) -> Tensor:
        return torch.tensor(lowland.tune(e, mala, x, steps=60, generator=seeded()).step_size)

    def detect(e: Any) -> Tensor:
        return lowland.Detector(e).fit(many).outlier_scores(many.repeat(4, 1))

    def train(e: Any) -> Tensor:
        objective = PCD(steps=1, buffer_size=64, num_chains=64)
        chains = lowland.ReplayBuffer(64, e.domain, generator=seeded())
        context, losses = Context(seeded(), gibbs, chains), []
        for _ in range(20):
            losses.append(objective.loss(e, Batch(bits), context).value)
            losses[-1].backward()
        return torch.stack(losses).detach()

    return {
        "parallel tempering of an RBM": Use(rbm, run(tempered, bits, 10)),
        "log Z of an RBM by enumeration": Use(
            small, lambda e: torch.tensor(lowland.log_z(e, generator=seeded()).value)
        ),
        "BlockGibbs on an Ising lattice": Use(ising, run(lowland.BlockGibbs(20), spins, 10)),
        "MALA on a net, class bound": Use(labelled, run(mala, x, 60), lambda e: e.given(labels)),
        "NUTS on a Gaussian": Use(gaussian, run(lowland.NUTS(0.5), wide, 10)),
        "annealed importance sampling of a net": Use(net, weigh),
        "MALA on a net in chunks": Use(net, run(mala, x, 40, chunk=64)),
        "tune MALA on a net": Use(net, tune),
        "outlier scores of a mixture": Use(net, detect, lambda e: lowland.mixture(e, other)),
        "PCD updates of an RBM": Use(rbm, train),
    }


def measure(name: str, use: Use, pairs: int) -> dict[str, Any]:
    """Return processor seconds of e and both forms, by pairs; raise ValueError if they differ."""
    from lowland.energy import Sum

    plain = use.around(use.energy)
    row: dict[str, Any] = {"use": name}
    for form, energy in zip(FORMS, (Sum([use.energy], [1.0]), 1.0 * use.energy), strict=True):
        inside = use.around(energy)
        expected, found = use.run(plain), use.run(inside)  # a warm-up too
        if not torch.allclose(expected, found, rtol=1e-4, atol=1e-4):
            raise ValueError(f"{form} gave other numbers than e in {name}; it must give the same")
        row[form] = [[time_once(use.run, one) for one in (plain, inside)] for _ in range(pairs)]
    return row


def time_once(run: Callable[[Any], Tensor], energy: Any) -> float:
    start = process_time()
    run(energy)
    return process_time() - start


def format_page(record: dict[str, Any]) -> str:
    lines = [
        "# Cost of an expression of one term",
        "",
        f"`{record['command']}`, {record['date']}",
        "",
    ]
    lines.append("Processor time of the form over that of e: median of pairs [least … most].")
    lines += ["", "| use | e, ms | Sum([e], [1.0]) | 1.0 * e |", "|---|---:|---:|---:|"]
    for row in record["uses"]:
        cells = [row["use"], f"{1000 * median(a for a, _ in row[FORMS[0]]):.0f}"]
        for form in FORMS:
            ratios = [b / a for a, b in row[form]]
            cells.append(f"{median(ratios):.2f} [{min(ratios):.2f} … {max(ratios):.2f}]")
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", record["note"], ""]
    return "\n".join([*lines, *(f"{key}: {value}" for key, value in record["machine"].items()), ""])


def main() -> None:
    parser = argparse.ArgumentParser(description="cost of Sum([e], [1.0]) and 1.0 * e beside e")
    parser.add_argument("--pairs", type=int, default=MIN_PAIRS, help=f"at least {MIN_PAIRS}")
    parser.add_argument("--note", default="", help="what else the machine was doing")
    options = parser.parse_args()
    pin()
    record = circumstances("python -m benchmarks.speed.expressions")
    record |= {"note": options.note, "pairs": max(options.pairs, MIN_PAIRS)}
    record["uses"] = [measure(*use, record["pairs"]) for use in build_uses().items()]
    path, page = RESULTS / "speed" / "expressions.json", format_page(record)
    write_record(path, record)
    path.with_suffix(".md").write_text(page, encoding="utf-8")
    print(page)


if __name__ == "__main__":
    main()
