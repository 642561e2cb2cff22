"""Composition: expressions against their exact distributions, and unseen combinations of attributes
of digits.

    python -m benchmarks.quality.composition            both parts; models that are trained already
    are used
                                                again
    python -m benchmarks.quality.composition --truth    the first alone, a minute

*Truth.* Products, mixtures, bounded negations and a − w b of two mixtures of Gaussians in the plane
(distribution by quadrature, in 14 × 14 cells) and of two restricted Boltzmann machines with 8
visible units (distribution by adding up 256 states). 4,000 chains of 100 steps; total variation of
their ends from the distribution, beside what as many exact draws show, ± the standard deviation
between three seeds. Corrected: what `tasks.default_sampler` tunes (MALA; DMALA). Unadjusted:
Langevin with the same step, and with a quarter of it; for the machines DMALA's proposal, always
accepted.

*Use.* Digit × thickness × slant on MNIST: `benchmarks/quality/composition_images.py` says what is
trained, held out, and who judges. Draws: 16 noise levels from 4 to 0.02, 64 steps of the corrector
in all, 24 of a tuned final one, then the jump; 5 of each of the ten combinations that are held out,
and of ten that are seen, per seed; seeds differ in classifiers and draws (one prior and one joint
model were trained). Weights w and the length of the classifiers' training were looked at on one
seed. Per cent, ± the standard deviation between seeds. Writes
benchmarks/results/quality/composition.{json,md,png}; in the picture a row per combination held out:
four real images of it, four draws of the composition (w = 4, corrected), four of the joint model
(guided). composition-shipped.png: four real images, then draws of the same composition on the
shipped energy `mnist` (one seed), a prior of an hour instead of twenty minutes.
"""

import argparse
import dataclasses
import math
import time
from collections.abc import Callable
from datetime import date
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import circumstances
from benchmarks.quality import RESULTS
from benchmarks.record import write_record
from lowland import Energy, Langevin, binary, load, load_data, mixture, sample
from lowland.data import save_grid
from lowland.energy import energy_values
from lowland.nets import RBM
from lowland.samplers import DMALA, accelerate, karras_sigmas, metropolis, uniform_like
from lowland.targets import GaussianMixture
from lowland.tasks import LabelGuidance, anneal_composed, default_sampler, soft_not

CHAINS, STEPS, SEEDS = 4000, 100, 3
CELLS, SIDE = 14, 7.0

# ---------------------------------------------------------------------------------------- the truth


def planes() -> dict[str, Energy]:
    ring = GaussianMixture(
        [[2 * math.cos(k * math.pi / 4), 2 * math.sin(k * math.pi / 4)] for k in range(8)], 0.8
    )
    right = GaussianMixture([[1.5, 0.0], [1.5, 1.5]], 0.7)
    return {
        "a + b": ring + right,
        "mixture(a, b)": mixture(ring, right, weights=(1.0, 3.0)),
        "a + soft_not(b, 3)": ring + soft_not(right, 3.0),
        "a - 0.3 b": ring - 0.3 * right,
    }


def machines() -> dict[str, Energy]:
    found = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        rbm = RBM(binary(8), n_hidden=5, init_std=1.0)
        torch.nn.init.normal_(rbm.visible_bias, std=0.5)
        found.append(rbm.eval())
    a, b = found
    level = float(energy_values(b, states()).median())
    return {
        "a + b": a + b,
        "mixture(a, b)": mixture(a, b),
        "a + soft_not(b, median)": a + soft_not(b, level),
        "a - 0.5 b": a - 0.5 * b,
    }


def states() -> Tensor:
    return torch.cartesian_prod(*[torch.arange(2.0)] * 8)


def cell_law(energy: Energy) -> Tensor:
    """Probabilities of the cells of the plane, by quadrature on a grid twelve times finer."""
    fine = CELLS * 12
    axis = (torch.arange(fine, dtype=torch.float64) + 0.5) / fine * 2 * SIDE - SIDE
    p = torch.softmax(
        -energy_values(energy, torch.cartesian_prod(axis, axis), batch_size=fine**2), 0
    )
    return p.view(CELLS, 12, CELLS, 12).sum((1, 3)).flatten()


def cell_of(x: Tensor) -> Tensor:
    place = ((x + SIDE) / (2 * SIDE) * CELLS).long().clamp(0, CELLS - 1)
    return place[:, 0] * CELLS + place[:, 1]


def state_of(x: Tensor) -> Tensor:
    return (x.long() * 2 ** torch.arange(7, -1, -1)).sum(1)


@dataclasses.dataclass(frozen=True)
class Unrefused(DMALA):
    """The proposal of DMALA, always accepted."""

    def step(self, energy: Energy, state: Any, generator: torch.Generator) -> Any:
        flat = state.x.flatten(1)
        flips = uniform_like(flat, generator) < self._log_probabilities(state, flat)[..., 1].exp()
        new = self.init(energy, torch.where(flips, 1 - flat, flat).view_as(state.x))
        return metropolis(state, new, None, generator)


def variations(
    energy: Energy,
    distribution: Tensor,
    place: Callable[[Tensor], Tensor],
    samplers: Callable[..., dict[str, Any]],
) -> Any:
    """Total variation of the ends of chains from the truth, by sampler: one number per seed."""
    found: dict[str, list[float]] = {}
    for seed in range(SEEDS):
        g = torch.Generator().manual_seed(seed)
        start = energy.domain.draw(CHAINS, g)
        start = 2 * start if energy.domain.kind == "real" else start
        for name, sampler in samplers(energy, start[:200], g).items():
            x = sample(energy, sampler, start, STEPS, generator=g).x
            share = torch.bincount(place(x), minlength=len(distribution)).double() / CHAINS
            found.setdefault(name, []).append(float((share - distribution).abs().sum() / 2))
        exact = torch.bincount(
            torch.multinomial(distribution, CHAINS, replacement=True, generator=g),
            minlength=len(distribution),
        ).double()
        found.setdefault("exact draws", []).append(
            float((exact / CHAINS - distribution).abs().sum() / 2)
        )
    return found


def of_the_plane(energy: Energy, few: Tensor, g: torch.Generator) -> dict[str, Any]:
    mala: Any = default_sampler(energy, few, generator=g, steps=100)
    h = mala.step_size
    return {"corrected": mala, "unadjusted": Langevin(h), "unadjusted, h / 4": Langevin(h / 4)}


def of_machines(energy: Energy, few: Tensor, g: torch.Generator) -> dict[str, Any]:
    tuned: Any = default_sampler(energy, few, generator=g, steps=60)
    size = min(tuned.step_size, 1.0) if isinstance(tuned, DMALA) else 1.0
    return {
        "corrected": DMALA(size),
        "unadjusted": Unrefused(size),
        "unadjusted, h / 4": Unrefused(size / 4),
    }


def truth() -> dict[str, dict[str, Any]]:
    found = {
        f"plane: {k}": variations(e, cell_law(e), cell_of, of_the_plane)
        for k, e in planes().items()
    }
    for name, energy in machines().items():
        distribution = torch.softmax(-energy_values(energy, states()).double(), 0)
        found[f"machines: {name}"] = variations(energy, distribution, state_of, of_machines)
    return found


# ------------------------------------------------------------------------------------------ the use

SIGMAS = karras_sigmas(4.0, 0.02, 16)
EACH = 5
COMMAND = "python -m benchmarks.quality.composition"
SHIPPED = "composed on the shipped `mnist` (it saw all combinations), w = 4, corrected"


def drawn(
    path: list[Energy], prior: Any, count: int, seed: int, adjusted: bool = True
) -> tuple[Tensor, list[float]]:
    """Pictures at the end of a path, clamped as a viewer would show them; acceptance by level."""
    g = torch.Generator().manual_seed(seed)
    step = 1.36 * math.prod(prior.domain.shape) ** (-1 / 3) * SIGMAS[-1] ** 2
    fast: list[Energy] = [
        accelerate(energy, precision="bfloat16", exact=adjusted) for energy in path
    ]
    sampler = None if adjusted else Langevin(step)
    found = anneal_composed(
        fast, SIGMAS, prior.start(count, SIGMAS[0], g), 64, generator=g, final=24, sampler=sampler
    )
    return found.x.clamp(0, 1), list(found.acceptance)


def on_shipped(s: Any, judge: Any) -> tuple[dict[str, Any], Tensor]:
    """The same composition, seed 0, on the shipped energy `mnist`, which was trained for longer and
    on all of MNIST: what the classifiers alone generalise to where the prior is good. A record, and
    pictures.
    """
    from benchmarks.quality import composition_images as images

    prior: Any = load("mnist").energy
    wanted = torch.cat([s.held, s.seen]).repeat_interleave(EACH, 0)
    nets = [images.classifier(s, kind, 0, steps=3000) for kind in range(3)]
    terms = [
        LabelGuidance(net, wanted[:, k], noisy=True, domain=prior.domain)
        for k, net in enumerate(nets)
    ]
    whole, start = prior + 4.0 * terms[0] + 4.0 * terms[1] + 4.0 * terms[2], time.process_time()
    x, acceptance = drawn([whole.given(sigma) for sigma in SIGMAS], prior, len(wanted), 0)
    seconds = (time.process_time() - start) / len(wanted)
    sides = [images.examples(s), x[: 10 * EACH].view(10, EACH, 1, 28, 28)]
    record = images.judged(s, judge, x, wanted) | {"acceptance": acceptance, "seconds": seconds}
    return record, torch.cat(sides, 1).flatten(0, 1)


def use() -> tuple[dict[str, list[dict[str, Any]]], Tensor, Tensor]:
    """Success by way of drawing: one record per seed; and the picture."""
    from benchmarks.quality import composition_images as images
    from lowland.training import train_classifier

    s = images.strokes()
    prior: Any = images.prior(s)
    joint = images.joint(s, prior)
    judge = train_classifier(load_data("mnist").train, 10, steps=600)
    wanted = torch.cat([s.held, s.seen]).repeat_interleave(EACH, 0)
    untold = joint.about(torch.full_like(wanted, -1))
    told = joint.about(wanted)
    found: dict[str, list[dict[str, Any]]] = {}
    shown: dict[str, Tensor] = {}
    for seed in range(SEEDS):
        nets = [images.classifier(s, kind, seed, steps=3000) for kind in range(3)]
        terms = [
            LabelGuidance(net, wanted[:, k], noisy=True, domain=prior.domain)
            for k, net in enumerate(nets)
        ]

        def composed(w: float, terms: list[LabelGuidance] = terms) -> Energy:
            return prior + w * terms[0] + w * terms[1] + w * terms[2]

        ways = {
            "composed, w = 1, corrected": (composed(1.0), True),
            "composed, w = 2, corrected": (composed(2.0), True),
            "composed, w = 4, corrected": (composed(4.0), True),
            "composed, w = 4, unadjusted": (composed(4.0), False),
            "one joint model, corrected": (told, True),
            "one joint model, guided (w = 1), corrected": (2.0 * told - 1.0 * untold, True),
        }
        for name, (energy, adjusted) in ways.items():
            start = time.process_time()
            x, acceptance = drawn(
                [energy.given(sigma) for sigma in SIGMAS], prior, len(wanted), seed, adjusted
            )
            record = images.judged(s, judge, x, wanted) | {
                "acceptance": acceptance,
                "seconds": (time.process_time() - start) / len(wanted),
            }
            found.setdefault(name, []).append(record)
            shown.setdefault(name, x)
            print(seed, name, {k: v for k, v in record.items() if k != "acceptance"}, flush=True)
    real, told_of = images.real(s)
    record, more = on_shipped(s, judge)
    found[SHIPPED] = [record]
    found["real images of MNIST's test part"] = [images.judged(s, judge, real, told_of)]
    sides = [
        images.examples(s),
        *(
            shown[name][: 10 * EACH].view(10, EACH, 1, 28, 28)[:, :4]
            for name in (list(ways)[2], list(ways)[5])
        ),
    ]
    return found, torch.cat(sides, 1).flatten(0, 1), more


# --------------------------------------------------------------------------------------- the tables


def spread(values: list[float], digits: int) -> str:
    v = torch.tensor(values, dtype=torch.float64)
    return f"{v.mean():.{digits}f}" + (f" ± {v.std():.{digits}f}" if len(v) > 1 else "")


def truth_table(found: dict[str, dict[str, list[float]]]) -> list[str]:
    names = ["corrected", "unadjusted", "unadjusted, h / 4", "exact draws"]
    lines = ["| expression | " + " | ".join(names) + " |", "|---|" + "---:|" * len(names)]
    return lines + [
        f"| `{key}` | " + " | ".join(spread(row[name], 4) for name in names) + " |"
        for key, row in found.items()
    ]


def use_table(found: dict[str, list[dict[str, Any]]]) -> list[str]:
    columns = [
        f"{part}: {what}"
        for part in ("held out", "seen")
        for what in ("digit", "thickness", "slant", "all three")
    ]
    lines = [
        "| drawn by | " + " | ".join(columns) + " | s a draw |",
        "|---|" + "---:|" * (len(columns) + 1),
    ]
    for name, records in found.items():
        cells = [
            spread([100 * r[c] for r in records], 0) if c in records[0] else "" for c in columns
        ]
        seconds = spread([r["seconds"] for r in records], 2) if "seconds" in records[0] else ""
        lines.append(f"| {name} | " + " | ".join(cells) + f" | {seconds} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--truth", action="store_true", help="the first part alone; prints, and writes nothing"
    )
    only_truth = parser.parse_args().truth
    torch.set_num_threads(1)
    distributions = truth()
    print("\n".join(truth_table(distributions)), flush=True)
    if only_truth:
        return
    found, picture, more = use()
    save_grid(picture, RESULTS / "composition.png", columns=12)
    save_grid(more, RESULTS / "composition-shipped.png", columns=4 + EACH)
    write_record(
        RESULTS / "composition.json",
        circumstances(COMMAND) | {"truth": distributions, "use": found},
    )
    page = written(distributions, found)
    (RESULTS / "composition.md").write_text(page)
    print(page)


def written(distributions: dict[str, Any], found: dict[str, Any]) -> str:
    """The page of results."""
    words = (__doc__ or "").split("\n\n", 2)[2].splitlines()
    lines = [
        "# Composition",
        "",
        f"`{COMMAND}`, {date.today()}",
        "",
        *words,
        "",
        "## Truth: total variation from the exact distribution",
        "",
    ]
    lines += [
        *truth_table(distributions),
        "",
        "## Use: attributes found, %",
        "",
        *use_table(found),
        "",
    ]
    return (
        "\n".join(
            [
                *lines,
                "![draws](composition.png)",
                "",
                "![on the shipped energy](composition-shipped.png)",
            ]
        )
        + "\n"
    )


if __name__ == "__main__":
    main()
