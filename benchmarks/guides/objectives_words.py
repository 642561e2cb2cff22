"""Words of the page "Which objective?": needs, families, and what each class says of itself in its
docstring.
"""

import inspect
import re

from lowland.registry import registered

NEEDS: list[tuple[str, str, str]] = [
    (
        "pictures, or samples of any kind, that are good",
        "`MultilevelDSM`",
        "No chain runs while it trains; samples come from a few dozen gradients. The energy is one "
        "of point and noise level. [Fashion-MNIST and "
        "MNIST](../benchmarks/results/quality/images.md).",
    ),
    (
        "one density for everything: scores, composition, restoration",
        "`PCD`; `EnergyMatching` where its chains do not get going",
        "The energy is a function of the point alone, and its chains have seen the places that "
        "data do not reach.",
    ),
    (
        "a normalised density in few dimensions",
        "`NCE`, `RankingNCE`",
        "No chains and no gradients in x. Not for images: noise is told from data at a glance, and "
        "then nothing is learned.",
    ),
    (
        "the distribution of smooth data, exactly, in few dimensions",
        "`ScoreMatching`",
        "No noise is added and nothing is sampled.",
    ),
    (
        "binary or categorical data",
        "`PseudoLikelihood` first, then `PCD` by Gibbs sampling",
        "Nothing to tune; chains afterwards repair what conditionals alone leave open.",
    ),
    (
        "a classifier that is also an energy",
        "`JEM`",
        "One network; the cross-entropy sets the levels of the classes, the contrast that of "
        "everything else.",
    ),
    (
        "to find outliers, and no samples",
        "`OutlierExposure`",
        "A classifier is told what is none: cheap and calm.",
    ),
    (
        "a classifier that small changes do not fool",
        "`Robust`",
        "Cross-entropy at the worst point of a ball; [what it is worth under "
        "attack](../benchmarks/results/quality/robustness.md).",
    ),
    (
        "samples in one pass of a network",
        "`Cooperative`",
        "A generator learns along; a few steps of the energy mend its drafts.",
    ),
    (
        "samples by plain descent, and no density",
        "`EquilibriumMatching`",
        "A landscape that lies still at the data; any optimiser walks down it.",
    ),
    (
        "to compare, to retrieve, to cluster",
        "`InfoNCE`",
        "The energy belongs to a pair: low for two views of the same thing.",
    ),
    (
        "gradients in x that are dear or do not exist",
        "`EnergyDiscrepancy`, `NCE`, `PseudoLikelihood`, `RatioMatching`",
        "They need values of the energy only.",
    ),
]

FAMILIES: dict[str, tuple[str, list[str]]] = {
    "negatives from the model": (
        "its own chains",
        ["PCD", "CD", "ShortRunML", "ImprovedCD", "Cooperative", "DiffusionRecovery", "WakeSleep"],
    ),
    "none": (
        "the slope and curvature at the data, or noise to be removed",
        ["ScoreMatching", "DSM", "MultilevelDSM"],
    ),
    "negatives from a known distribution": (
        "draws of a noise with a density",
        ["NCE", "RankingNCE", "FlowContrastive"],
    ),
    "data perturbed": (
        "neighbours of the data",
        ["EnergyDiscrepancy", "PseudoLikelihood", "RatioMatching"],
    ),
    "transport": ("straight lines from noise to data", ["EnergyMatching", "EquilibriumMatching"]),
    "labels": ("the classes", ["JEM", "OutlierExposure", "Robust"]),
    "pairs": ("other views of the same example", ["InfoNCE"]),
}

WITHOUT_PLANE = {
    "PseudoLikelihood": "discrete data only, so there is none in the plane",
    "RatioMatching": "binary data only, so there is none in the plane",
    "WakeSleep": "binary data only, so there is none in the plane",
    "InfoNCE": "pairs of views need something to be viewed: no planar recipe",
}

FIGURES = """\
- *ms per update*, *updates*: processor time of one of the first updates, and how many of these
  fit into the time. *s*: what training took in the end; more where later updates are dearer
  (`EnergyMatching` after its warm-up).
- *fine MMD²*: squared maximum mean discrepancy between draws and held-out data at a width of
  {fine}, times 1000. At the usual median distance a blur of the moons does not show; at this
  width it does. 0 is perfect, below 0 is noise of the estimator.
- *precision*, *recall*: the share of draws that lie among data, and of data that lie among draws
  (k = 3).
- *KSD²*: kernel Stein discrepancy of held-out **data** under the energy, times 10: small if the
  energy is right, whatever its draws are worth. Energies of a noise level have none.
- *Fréchet*: distance between draws and held-out digits on the features of one classifier of real
  digits. *told apart*: how often another tells draws from data by these features (½ is perfect).
  *classes even*: entropy of the classes of the draws, 1 if they are even.
- *outliers*: AUROC of the energy: moons against moons stretched by half, digits against the upper
  half of one on the lower half of another.
- *s to draw*: processor seconds for as many samples as are judged, by the recipe's way of
  drawing."""
HASTY = (
    "- *rate × {haste:g}*: the same figure with {haste:g} times the recipe's rate, and how often "
    "health rolled back."
)


def said(kind: str = "objective") -> dict[str, tuple[str, str]]:
    """Of every registered class: what an update costs, and when to use it, in the words of its
    docstring.
    """
    return {
        name: (_after(cls, r"Cost(?: per update)?: "), _after(cls, r"Use it "))
        for name, cls in registered(kind).items()
    }


def _after(cls: type, start: str) -> str:
    """The text from a beginning up to the end of its paragraph, or the next thing that is said."""
    text = re.sub(r"\n(?!\n)\s*", " ", (inspect.getdoc(cls) or "").replace("\n\n", "\0")).replace(
        "\0", "\n\n"
    )
    found = re.search(
        start + r"(.*?)(?= Source:| Use it | Cost(?: per update)?: |\n\n|$)", text, re.S
    )
    return found[1].strip() if found else ""
