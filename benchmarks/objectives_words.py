"""Words for the page "Which objective?": what each class says of itself in its docstring, and what folk say."""

import inspect
import re
import statistics
from typing import Any

from lowland.registry import registered

FAMILIES = """# Which objective?

An objective decides where training gets its second opinion from. None of them needs log Z, and each pays for that
elsewhere.

| family | what the data are compared with | objectives |
|---|---|---|
| negatives from the model | its own chains | `PCD`, `CD`, `ShortRunML`, `ImprovedCD`, `Cooperative`, `DiffusionRecovery` |
| none | the slope and curvature at the data, or noise to be removed | `ScoreMatching`, `DSM`, `MultilevelDSM` |
| negatives from a known law | draws of a noise with a density | `NCE`, `RankingNCE`, `FlowContrastive` |
| data perturbed | neighbours of the data | `EnergyDiscrepancy`, `PseudoLikelihood`, `RatioMatching` |
| transport | straight lines from noise to data | `EnergyMatching`, `EquilibriumMatching` |
| labels | the classes | `JEM`, `OutlierExposure` |
| pairs | other views of the same example | `InfoNCE` |

*In short.* Pictures: `MultilevelDSM`. One density for everything (scores, composition, restoration): `PCD`, or
`EnergyMatching` where its chains do not get going. A normalised energy in few dimensions: `NCE`. Bits: `PseudoLikelihood`,
then `PCD` by Gibbs. A classifier that knows what it does not know: `JEM`.

Every figure below is printed by `python -m benchmarks.objectives run moons`, `... run digits` and `... pages`; each recipe
gets the same processor seconds of one thread, schedules stretched accordingly. *MMD²* is the squared maximum mean
discrepancy between draws and held-out data (0 is perfect; negative values are noise of the estimator). *KSD²* asks of held-
out data whether they come from exp(−E): a small one means that the energy is right and not only its draws. The recipes are
as shipped: they were made by people who knew the sets, once each, with unequal care. [Gallery](gallery.md) shows what came
out."""


def said(kind: str = "objective") -> dict[str, tuple[str, str]]:
    """Of every registered class: what an update costs, and when to use it, in the words of its docstring."""
    return {name: (_after(cls, r"Cost(?: per update)?: "), _after(cls, r"Use it ")) for name, cls in registered(kind).items()}


def _after(cls: type, start: str) -> str:
    """The text from a beginning up to the end of its paragraph, or the next thing that is said."""
    text = re.sub(r"\n(?!\n)\s*", " ", (inspect.getdoc(cls) or "").replace("\n\n", "\0")).replace("\0", "\n\n")
    found = re.search(start + r"(.*?)(?= Source:| Use it | Cost(?: per update)?: |\n\n|$)", text, re.S)
    return found[1].strip() if found else ""


def folk(by: dict[str, list[dict[str, Any]]]) -> list[str]:
    """What is said of objectives, beside what was measured on moons."""

    def ms(name: str) -> float:
        return statistics.median(row["update_ms"] for row in by[name])

    def figure(name: str) -> str:
        return f"{1000 * statistics.mean(row['mmd']['value'] for row in by[name]):.2f}"

    lines = []
    trio = ("moons", "moons-score", "moons-dsm")
    if by.keys() >= set(trio):
        chains, exact, noised = (f"{ms(name):.1f} ms" for name in trio)
        after = ", ".join(figure(name) for name in trio)
        lines += [
            f'*"Contrastive divergence is slow, score matching is fast."* An update of PCD with its chains takes {chains}, of '
            f"exact score matching {exact}, of denoising {noised}. After the same time their 10³ MMD² are {after}.",
            "",
        ]
    return lines
