"""The pages that `benchmarks.guides.samplers` writes: its record as tables, and as a list of
failures.
"""

import json
import math
import re
from typing import Any

WRONG, APART = 5.0, 1.05  # |z| and R-hat beyond which draws count for nothing
SLOW = 0.2  # of the best sampler's effective draws per second

WORDS = {
    "MALA": "One small step at a time: a random walk along long, narrow valleys, and none across "
    "empty space.",
    "HMC": "The length of its trajectories is a guess, one for all places: short for wide "
    "directions, long for narrow ones.",
    "NUTS": "Dear by the step, most of all where chains in a batch need trees of very different "
    "depth; as local as the others.",
    "GHMC": "Must hardly ever be refused, since a refused chain turns round; so its steps are "
    "small.",
    "ParallelTempering": "Pays for every replica; where nothing has to be crossed, that "
    "buys nothing.",
    "Langevin": "No accept step: whatever its step gets wrong stays wrong, in proportion to the "
    "step.",
    "LeimkuhlerMatthews": "As Langevin, one order better away from bounds; still nothing "
    "tells when the step is too large.",
    "Underdamped": "The same with momentum: good where steps are small, wrong where they are not, "
    "and silent about it.",
    "ShortRun": "Keeps no distribution. At a temperature below 1 it falls into the nearest "
    "valley: for pictures, not for averages.",
    "BlockGibbs": "Needs conditionals in blocks; clusters of many sites still turn slowly.",
    "GibbsWithGradients": "One site a step: a sweep of a picture takes as many gradients as it "
    "has pixels.",
    "DMALA": "Flips many sites at once only while they hardly interact; near order its steps "
    "shrink.",
}
"""What each sampler is bad at, in words; the figures come from the record."""


def family(sampler: str) -> str:
    """ParallelTempering(MALA) → ParallelTempering."""
    return sampler.partition("(")[0]


def off_by(truth: dict[str, Any]) -> str:
    """The error of a found truth: relative where the truth is not 0."""
    error = truth["found"] - truth["truth"]
    if truth["truth"] == 0:
        return f"{error:+.2g}"
    share = 100 * error / truth["truth"]
    return f"{share:+.0f} %" if abs(share) < 1000 else f"× {truth['found'] / truth['truth']:.2g}"


def r_hat(value: float) -> str:
    return f"{value:.2f}" if value < 100 else "> 100"


def z_score(z: float) -> str:
    return f"{z:+.1f}" if abs(z) < 100 else f"{z:+.0e}".replace("e+0", "e").replace("e+", "e")


def figure(value: dict[str, float] | None, cell: dict[str, Any]) -> str:
    """mean ± sd of the effective draws, in brackets if they are not to be trusted, nothing if the
    sampler is biased.
    """
    if value is None or not cell["adjusted"]:
        return "–"
    digits = 0 if value["mean"] >= 100 else 1 if value["mean"] >= 10 else 2
    text = f"{value['mean']:,.{digits}f} ± {value['sd']:,.{digits}f}"
    return text if cell["right"] else f"({text})"


def table(target: dict[str, Any]) -> list[str]:
    """One target as a Markdown table."""
    lines = [
        "| sampler | ESS per second | ESS per 1,000 gradients | R-hat | worst truth: z, off by | "
        "divergences | warm-up, s |",
        "|---|---:|---:|---:|---|---:|---:|",
    ]
    for cell in target["cells"]:
        worst = cell["worst"]
        columns = [
            cell["sampler"] + ("" if cell["adjusted"] else " *"),
            figure(cell["ess_per_second"], cell),
            figure(cell["ess_per_1000_gradients"], cell),
            r_hat(cell["rhat"]),
            f"{worst['name']}: {z_score(worst['z'])}, {off_by(worst)}",
            f"{cell['diverged']:,}" if cell["diverged"] else "",
            f"{cell['tuning_seconds']:.1f} + {cell['discarded_seconds']:.1f}",
        ]
        lines.append("| " + " | ".join(columns) + " |")
    return lines


def best(target: dict[str, Any], key: str) -> dict[str, Any] | None:
    """The cell with the most effective draws of those that are right; None if none is."""
    right = [cell for cell in target["cells"] if cell["adjusted"] and cell["right"] and cell[key]]
    return max(right, key=lambda cell: cell[key]["mean"], default=None)


def tables(record: dict[str, Any]) -> str:
    """The measured part of the page."""
    lines: list[str] = []
    for target in record["targets"]:
        second, gradient, auto = (
            best(target, "ess_per_second"),
            best(target, "ess_per_1000_gradients"),
            target["auto"],
        )
        names = [cell["sampler"] if cell else "none" for cell in (second, gradient)]
        lines += [f"### {target['title']}", "", *table(target), ""]
        lines += [
            f"Most effective draws among those that are right: per second {names[0]}, "
            f"per gradient {names[1]}. "
            f'`tune(energy, "auto", ...)` chose {auto["sampler"]}.',
            "",
        ]
    size = record["size"]
    about = record["machine"]
    longer = (
        ", ".join(
            f"{t['name']} {t['longer']} times as many" for t in record["targets"] if t["longer"] > 1
        )
        or "all targets"
    )
    lines += [
        f"{size['chains']} chains, {size['row']:,} gradient evaluations in a row per run "
        f"({longer}), a quarter of them discarded; tuned in {size['tuning']} steps; seeds "
        f"{', '.join(map(str, size['seeds']))}, mean ± sd. `{record['command']}`, "
        f"{record['date']}, {record['seconds']} s on one core of {about['cpu']}, torch "
        f"{about.get('torch')}, load {about['load_average']}."
    ]
    return "\n".join(lines)


def troubles(cell: dict[str, Any], target: dict[str, Any]) -> str:
    """What is wrong with a cell, in a few words; empty if nothing is."""
    found, worst = [], cell["worst"]
    if abs(worst["z"]) > WRONG:
        found.append(f"{worst['name']} off by {off_by(worst)}")
    if cell["rhat"] > APART and cell["adjusted"]:
        found.append(f"R-hat {r_hat(cell['rhat'])}")
    if cell["diverged"]:
        found.append(f"{cell['diverged']:,} divergences")
    quickest = best(target, "ess_per_second")
    if not found and quickest is not None and cell["adjusted"]:
        share = cell["ess_per_second"]["mean"] / quickest["ess_per_second"]["mean"]
        found += (
            [f"right, at {share:.2g} of the ESS per second of {quickest['sampler']}"]
            if share < SLOW
            else []
        )
    return ", ".join(found)


def failures(record: dict[str, Any]) -> str:
    """One paragraph per sampler: its weakness in words, and where the tables show it."""
    lines = []
    for name, words in WORDS.items():
        shown = []
        for target in record["targets"]:
            cells = [cell for cell in target["cells"] if family(cell["sampler"]) == name]
            for cell in cells:
                inner = f" over {cell['sampler'].partition('(')[2][:-1]}" if len(cells) > 1 else ""
                trouble = troubles(cell, target)
                shown += [f"*{target['name']}*{inner}: {trouble}"] if trouble else []
        lines.append(
            f"- **{name}.** {words} "
            + ("; ".join(shown) + "." if shown else "No trouble on these targets.")
        )
    return "\n".join(lines)


def filled(page: str, record: dict[str, Any]) -> str:
    """The page with its measured parts, between <!-- NAME --> and <!-- end of NAME -->, written
    anew.
    """
    for name, text in (("measured", tables(record)), ("failures", failures(record))):
        first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        assert page.count(first) == page.count(last) == 1, f"the page must have one part {name}"
        before, after = page.partition(first)[0], page.partition(last)[2]
        page = f"{before}{first}\n{text}\n\n{last}{after}"
    return page


def results_page(record: dict[str, Any]) -> str:
    """The record as benchmarks/results/guides/samplers.md."""
    head = (
        "# Which sampler?\n\nHow to read this: docs/which-sampler.md. * is not adjusted: its draws "
        "get no credit.\n"
    )
    details = [
        f"- {target['name']}, {cell['sampler']}: {cell['steps']} steps of "
        f"`{shortened(cell['settings'])}`"
        for target in record["targets"]
        for cell in target["cells"]
    ]
    about = f"machine: {json.dumps(record['machine'])}; versions: {json.dumps(record['versions'])}"
    return "\n".join([head, tables(record), "", "## Settings", "", *details, "", about, ""])


def shortened(settings: str) -> str:
    """Long tuples of numbers by their ends."""

    def ends(found: re.Match[str]) -> str:
        numbers = [float(n) for n in found[1].split(",") if n.strip()]
        shown = [f"{n:.3g}" for n in numbers if math.isfinite(n)]
        return "(" + ", ".join(shown if len(shown) < 8 else [shown[0], "…", shown[-1]]) + ")"

    return re.sub(r"(\d\.\d{4})\d+", r"\1", re.sub(r"\(([-\d., e]+)\)", ends, settings))
