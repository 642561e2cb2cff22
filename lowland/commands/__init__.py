"""The commands of `lowland` as functions: the same in Python and in the shell.

Arguments before `/` are positional in the shell, the others are options. Importing this part loads
no torch: a command imports what it needs when it is called. Under torchrun several processes share
the work of train, resume, sample and energy; the first of them writes and prints.
"""

from collections.abc import Callable

from lowland.commands.composition import compose, edit, interpolate, predict
from lowland.commands.detection import bench, detect, detect_fit
from lowland.commands.purification import attack, purify
from lowland.commands.restoration import restore
from lowland.commands.runs import doctor, evaluate, recipes, report, resume, strip, train
from lowland.commands.samples import energy, sample

COMMANDS: dict[str, Callable[..., object]] = {
    "train": train,
    "resume": resume,
    "sample": sample,
    "energy": energy,
    "detect": detect,
    "detect fit": detect_fit,
    "bench": bench,
    "restore": restore,
    "compose": compose,
    "edit": edit,
    "interpolate": interpolate,
    "predict": predict,
    "purify": purify,
    "attack": attack,
    "evaluate": evaluate,
    "report": report,
    "strip": strip,
    "recipes": recipes,
    "doctor": doctor,
}
__all__ = ["COMMANDS", *sorted(command.__name__ for command in COMMANDS.values())]
