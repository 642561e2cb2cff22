"""What folk say of objectives, each saying beside what was measured; every number is read from the
record.
"""

import math
import statistics
from typing import Any

Rows = list[dict[str, Any]]


class Record:
    """The rows at the recipe's rate and at one far too large, by recipe, and the figures of real
    data.
    """

    def __init__(self, rows: Rows, real: dict[str, dict[str, Any]]) -> None:
        self.own: dict[str, Rows] = {}
        self.hasty: dict[str, Rows] = {}
        self.real = real
        for row in rows:
            (self.own if row["rate"] == 1.0 else self.hasty).setdefault(row["recipe"], []).append(
                row
            )

    def has(self, *names: str) -> bool:
        """Whether all recipes were measured."""
        return all(name in self.own for name in names)

    def mean(self, name: str, key: str) -> float:
        """The mean of a figure over the seeds of a recipe; not a number where it has none."""
        return statistics.mean(
            math.nan if (value := value_of(row, key)) is None else value for row in self.own[name]
        )

    def quality(self, name: str) -> float:
        """The figure that a recipe is judged by."""
        return self.mean(name, main_figure(self.own[name][0]))

    def ms(self, name: str) -> str:
        """Time of an update, said."""
        return f"{self.mean(name, 'update_ms'):.1f} ms"

    def ranked(self, *names: str) -> str:
        """Recipes by the figure they are judged by, the best first, said."""
        return ", ".join(
            f"`{name}` {shown(self.quality(name), name)}"
            for name in sorted(names, key=self.quality)
        )

    def on(self, data: str) -> list[str]:
        """Recipes on a set."""
        return [name for name, rows in self.own.items() if rows[0]["data"] == data]


def main_figure(row: dict[str, Any]) -> str:
    """Fréchet distance of images, MMD² at a small width of points in the plane."""
    return "frechet" if row["data"] == "digits" else "fine"


def value_of(row: dict[str, Any], key: str) -> float | None:
    """A figure of a row without its error, infinite if the draws were not finite; None if it has
    none.
    """
    if key == main_figure(row) and not row["finite"]:
        return math.inf
    value = row.get(key)
    return value["value"] if isinstance(value, dict) else value


def shown(value: float, name: str) -> str:
    """Fréchet distances in whole numbers, MMD² times 1000."""
    return f"{value:.0f}" if name.startswith("digits") else f"{1000 * value:.2f}"


def rank_correlation(first: list[float], second: list[float]) -> float:
    """Spearman's: that of the ranks."""
    ranks = [[float(sorted(values).index(value)) for value in values] for values in (first, second)]
    return statistics.correlation(*ranks)


def folk(record: Record) -> list[str]:
    """The sayings that the record can answer, as paragraphs."""
    parts = [
        saying(record)
        for saying in (slow, sampler, starts, blows_up, plane, density, detector, bits, joint)
    ]
    return [line for part in parts if part for line in (part, "")]


def slow(r: Record) -> str:
    names = ("moons", "moons-score", "moons-dsm", "moons-denoising")
    if not r.has(*names):
        return ""
    times = r.mean("moons", "update_ms") / r.mean("moons-dsm", "update_ms")
    exact = r.mean("moons", "update_ms") / r.mean("moons-score", "update_ms")
    return (
        '**"Contrastive divergence is slow, score matching is fast."** An update of PCD, ten '
        "chain steps included, takes "
        f"{r.ms('moons')}: {times:.1f} times that of denoising ({r.ms('moons-dsm')}), "
        f"{exact:.1f} times that of score matching "
        f"with the exact trace ({r.ms('moons-score')}). What counts is what the same time buys; "
        "fine MMD² on moons, the best "
        f"first: {r.ranked(*names)} (real data "
        f"{shown(r.real['moons']['fine']['value'], 'moons')}). Drawing has a price as "
        f"well: {_drawing(r, *names)}."
    )


def _drawing(r: Record, *names: str) -> str:
    return ", ".join(f"`{name}` {r.mean(name, 'drawing_seconds'):.1f} s" for name in names)


def sampler(r: Record) -> str:
    plane = ("moons", "moons-nce", "moons-ranking", "moons-flow")
    images = ("digits", "digits-nce", "digits-ranking", "digits-flow")
    if not r.has(*plane, *images):
        return ""
    return (
        '**"Noise contrast needs no sampler, so it is the easy way."** To train, yes: '
        f"{r.ms('moons-nce')} an update beside "
        f"{r.ms('moons')} of PCD. Fine MMD² on moons: {r.ranked(*plane)}. On digits, where noise "
        "is told from data at a "
        f"glance, Fréchet: {r.ranked(*images)}; a flow that learns along costs "
        f"{r.ms('digits-flow')} an update. To draw from "
        f"the energy a sampler is needed all the same."
    )


def starts(r: Record) -> str:
    names = ("moons", "moons-cd", "moons-short", "digits-regularised", "digits-cd", "digits-short")
    if not r.has(*names):
        return ""
    return (
        '**"It hardly matters where the chains start."** Chains that go on (PCD), chains from '
        "the data (CD) and chains from "
        "noise (short runs) use the same step and the same net, and draws begin at noise for "
        "all. Fine MMD² on moons: "
        f"{r.ranked(*names[:3])}. Fréchet on digits: {r.ranked(*names[3:])} "
        "(`digits-regularised` is PCD with terms)."
    )


def blows_up(r: Record) -> str:
    both = [name for name in r.own if name in r.hasty]
    if not both:
        return ""
    figure = {
        name: value_of(r.hasty[name][0], main_figure(r.hasty[name][0])) or 0.0 for name in both
    }
    worse = [name for name in both if figure[name] > 2 * max(r.quality(name), _noise_floor(name))]
    better = [name for name in both if figure[name] < r.quality(name)]
    rolled = [name for name in both if r.hasty[name][0]["rollbacks"]]
    dead = [name for name in both if not r.hasty[name][0]["finite"] or r.hasty[name][0]["stopped"]]
    named = ", ".join(
        f"`{name}` ({shown(r.quality(name), name)} → {shown(figure[name], name)})" for name in worse
    )
    return (
        f'**"Energies blow up unless the rate is tuned."** With ten times the rate, {len(dead)} '
        f"of {len(both)} runs stopped or "
        f"drew numbers that are not finite; health rolled back in {len(rolled)}. The figure more "
        f"than doubled in {len(worse)}"
        f"{': ' + named if worse else ''}. It got better in {len(better)}: the time is short, "
        "and a higher rate gets further "
        "in it. The preflight lowers a rate that its three trial updates find far too large, so "
        "that this is the rate asked "
        "for, not always the rate used. [The grid of runs that "
        "die](../benchmarks/results/proof/survival.md) has the plain loops "
        f"beside it."
    )


def _noise_floor(name: str) -> float:
    """What the figure differs by for nothing."""
    return 10.0 if name.startswith("digits") else 0.0005


def plane(r: Record) -> str:
    pairs = {}
    for name in r.on("moons"):
        objective = r.own[name][0]["objective"]
        twins = [other for other in r.on("digits") if r.own[other][0]["objective"] == objective]
        if twins:
            pairs[name] = min(twins, key=r.quality)
    if len(pairs) < 5:
        return ""
    rho = rank_correlation([r.quality(a) for a in pairs], [r.quality(b) for b in pairs.values()])
    best, worst = (sorted(pairs, key=r.quality)[:3], sorted(pairs.values(), key=r.quality)[:3])
    return (
        f'**"What works in the plane works on images."** Over the {len(pairs)} objectives with a '
        "recipe on both sets, the rank "
        f"correlation of fine MMD² on moons and Fréchet distance on digits is {rho:.2f}. Best on "
        "moons: "
        f"{', '.join(f'`{name}`' for name in best)}; best on digits: "
        f"{', '.join(f'`{name}`' for name in worst)}."
    )


def density(r: Record) -> str:
    names = [name for name in r.on("moons") if not math.isnan(r.mean(name, "ksd"))]
    if len(names) < 5:
        return ""
    rho = rank_correlation(
        [r.quality(name) for name in names], [r.mean(name, "ksd") for name in names]
    )
    by = sorted(names, key=lambda name: r.mean(name, "ksd"))
    listed = ", ".join(f"`{name}` {10 * r.mean(name, 'ksd'):.2f}" for name in by)
    return (
        '**"Good samples mean that the density is right."** The rank correlation of fine MMD² '
        "(draws) and KSD² (the energy at "
        f"held-out data) over {len(names)} recipes is {rho:.2f}. KSD², times 10, the best first: "
        f"{listed}."
    )


def detector(r: Record) -> str:
    names = [name for name in r.on("digits") if not math.isnan(r.mean(name, "outliers"))]
    if len(names) < 5:
        return ""
    rho = rank_correlation(
        [r.quality(name) for name in names], [-r.mean(name, "outliers") for name in names]
    )
    by = sorted(names, key=lambda name: -r.mean(name, "outliers"))
    listed = [f"`{name}` {r.mean(name, 'outliers'):.2f}" for name in by]
    return (
        '**"The better generator is the better detector."** The rank correlation of Fréchet '
        "distance and AUROC (the halves "
        "of two digits, as outliers; 1 if whoever draws better detects better) over "
        f"{len(names)} recipes is {rho:.2f}. "
        f"Best detectors: {', '.join(listed[:4])}; worst: {', '.join(listed[-3:])}."
    )


def bits(r: Record) -> str:
    names = ("digits-rbm", "digits-pl", "digits-rm")
    if not r.has(*names) or "digits, threshold" not in r.real:
        return ""
    return (
        '**"Pseudo-likelihood is as good as likelihood, and cheaper."** One restricted '
        "Boltzmann machine on binary digits, by "
        f"PCD with Gibbs sampling ({r.ms('digits-rbm')} an update), pseudo-likelihood "
        f"({r.ms('digits-pl')}) and ratio matching "
        f"({r.ms('digits-rm')}). Fréchet after the same time: {r.ranked(*names)}; real binary "
        "digits "
        f"{shown(r.real['digits, threshold']['frechet'], 'digits')}."
    )


def joint(r: Record) -> str:
    names = [name for name in r.on("digits") if not math.isnan(r.mean(name, "accuracy"))]
    if len(names) < 2:
        return ""
    listed = ", ".join(f"`{name}` {100 * r.mean(name, 'accuracy'):.1f} %" for name in names)
    both = ("digits", "digits-jem", "digits-regularised")
    labels = (
        f" Labels help the draws as well; Fréchet: {r.ranked(*both)} (`digits-regularised` knows "
        "none)."
        if r.has(*both)
        else ""
    )
    return (
        '**"A model that generates pays with its accuracy."** Accuracy on held-out digits: '
        f"{listed}.{labels} "
        "[JEM on Fashion-MNIST](../benchmarks/results/quality/jem.md) has the figures of larger "
        "nets."
    )
