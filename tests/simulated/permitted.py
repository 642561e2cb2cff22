"""The synchronisations that are permitted in a step, as data: where, how many, and why.

`docs/devices.md` prints the table; `python -m simulated` (from tests/) writes it there.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulated.counting import Place

PAGE = Path(__file__).parents[2] / "docs" / "devices.md"
BEGIN, END = "<!-- synchronisations: begin -->", "<!-- synchronisations: end -->"


@dataclass(frozen=True)
class Permission:
    """A part of the library that may make the CPU wait in every step.

    part: as the table names it; per_step: how often, in words; why: the reason, in words; places:
    (file, function) of every such line, functions by the beginning of their qualified names; most:
    synchronisations of one step in the tests, at most.
    """

    part: str
    per_step: str
    why: str
    places: tuple[tuple[str, str], ...]
    most: float

    def covers(self, place: Place) -> bool:
        """Tell whether a place is one of this permission's."""
        return any(
            place.file == file and place.function.startswith(function)
            for file, function in self.places
        )


NUTS = Permission(
    "`NUTS`",
    "1, 1 for each leaf of the tree, and 4 to 6 for each doubling",
    "trajectories end when they turn round: chains that are done leave the batch, and how many "
    "are left decides what is computed next",
    (("samplers/nuts.py", ""), ("seeds.py", "spawn")),
    60.0,
)
ADAPTATION = Permission(
    "`tune`, and simulated annealing and brackets of log Z with a step size that follows its "
    "acceptance",
    "1; a few more for each new metric, and every 25 steps of `tune`",
    "dual averaging computes the next step size on the CPU, from the mean acceptance",
    (
        ("samplers/adaptation.py", ""),
        ("samplers/warmup.py", "LadderAdaptation"),
        ("samplers/trial.py", "restart_trapped"),
    ),
    1.5,
)
LATTICES = Permission(
    "block Gibbs on lattices with a checkerboard, not compiled",
    "2 to 4 for each sweep over both colors",
    "64 chains share a machine word; the few that eleven random digits leave undecided are "
    "picked out and decided alone; `compile=True` decides them all in one kernel",
    (("targets/multispin.py", "_finish"),),
    8.0,
)
COLORINGS = Permission(
    "block Gibbs on a sum of energies that declare colorings",
    "2",
    "colors in which no site is left are dropped",
    (("energy/composition.py", "_refine"),),
    4.0,  # an index by a mask asks twice here, once on a GPU
)
SITES = Permission(
    "block Gibbs on an energy that declares a coloring and no conditionals",
    "1",
    "sites of a color are read, to be changed one after the other",
    (("samplers/discrete.py", "list_sites"),),
    1.0,
)
AIS = Permission(
    "annealed importance sampling",
    "1 for each move",
    "energies of the terms of a path are used again where every point is one that was evaluated",
    (("samplers/caching.py", "CachingEnergy.look_up"),),
    1.0,
)
MOMENTS = Permission(
    "the recorder `Moments`, on a device without float64",
    "1",
    "means and variances are added up in float64, on the CPU where the device has none",
    (("devices.py", "to_float64"),),
    1.0,
)
PAIRS = Permission(
    "an update of `EquilibriumMatching` or `EnergyMatching`, which pair noise with data",
    "1, and 1 blocking copy to the device",
    "the optimal assignment of a batch is found on the CPU (`match = false` has none)",
    (("objectives/matching.py", "match_batch"),),
    2.0,
)

PERMITTED: tuple[Permission, ...] = (
    NUTS,
    ADAPTATION,
    LATTICES,
    COLORINGS,
    SITES,
    AIS,
    MOMENTS,
    PAIRS,
)


def excess(grown: Counter[Place], steps: int, allowed: Iterable[Permission] = ()) -> list[str]:
    """Say what is not permitted of synchronisations that `steps` more steps cost: places that no
    permission covers, and permissions that more use is made of than they say.
    """
    permissions = list(allowed)
    problems = [
        f"{count / steps:g} per step: {place}"
        for place, count in grown.items()
        if not any(permission.covers(place) for permission in permissions)
    ]
    for permission in permissions:
        total = sum(count for place, count in grown.items() if permission.covers(place))
        if total > permission.most * steps:
            problems.append(
                f"{total / steps:g} per step of {permission.part}, at most {permission.most:g}"
            )
    return problems


def write_table(permissions: Sequence[Permission] = PERMITTED) -> str:
    """Return the table in Markdown."""
    rows = [f"| {p.part} | {p.per_step} | {p.why} |" for p in permissions]
    return "\n".join(["| part | synchronisations per step | why |", "|---|---|---|", *rows])


def read_page() -> tuple[str, str, str]:
    """Return what stands in the page before, within and behind the markers of the table."""
    before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
    table, _, behind = rest.partition(END)
    return before, table.strip(), behind
