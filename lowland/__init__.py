"""lowland: energy-based models that people can trust. Data live in the lowlands; everything else is
uphill.

Five nouns: an Energy scores points; a Sampler moves them downhill, with noise; a replay buffer
remembers where chains got to; an Objective compares data with samples; a Run is the directory where
it all ends up, and a Model is a run, loaded. The names below are for everyday use; the rest lives
in its room: `lowland.nets`, `lowland.objectives`, `lowland.targets`, `lowland.tasks`, ... Names and
rooms are loaded when first used, so that `import lowland` and `lowland --help` cost nothing.
"""

from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "energy": "Energy Function check_energy energy_values mixture value_and_score",
    "domain": "binary box categorical real",
    "samplers": (
        "DMALA HMC MALA NUTS BlockGibbs Langevin ParallelTempering ShortRun Underdamped sample tune"
    ),
    "replay": "ReplayBuffer",
    "metrics": "ess log_likelihood log_z mcse rhat summary",
    "tasks": "Detector compose conditional_sample edit interpolate purify restore",
    "robustness": "robust_accuracy",
    "data": "load_data",
    "config": "read_recipe",
    "training": "train_recipe",
    "run": "Run",
    "trained": "Model fit load",
    "pretrained": "list_pretrained",
    "commands": "evaluate train",
    "report": "write_report",
    "interop": "to_arviz to_deepinv to_pyod to_pytorch_ood",
}
_home_of = {name: room for room, names in _HOMES.items() for name in names.split()}
_rooms = {module.name for module in iter_modules(__path__) if not module.name.startswith("_")}

__all__ = [*_home_of, "__version__"]


def __getattr__(name: str) -> Any:
    if name in _home_of:
        return getattr(import_module(f"lowland.{_home_of[name]}"), name)
    if name in _rooms:
        return import_module(f"lowland.{name}")
    raise AttributeError(f"module 'lowland' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, *_rooms]


if TYPE_CHECKING:
    from lowland.energy import Energy as Energy
    from lowland.replay import ReplayBuffer as ReplayBuffer
