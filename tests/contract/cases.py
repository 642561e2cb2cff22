"""Values for the constructors of everything the registry knows; laws to prove samplers against are
in lowland.testing.

A class that is registered tomorrow is built here from the names of its parameters. One with a
required parameter of a name that is not listed fails its contract tests until `VALUES` gains that
name.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland import MALA, Energy, binary, box, real
from lowland.energy import noise_of
from lowland.registry import build, parameters, registered
from lowland.targets import Gaussian
from lowland.testing import TARGETS, Target, seeded  # noqa: F401  (test files import these from here)

VALUES: dict[str, Any] = {  # required parameters by name
    "step_size": 0.15,
    "noise": 0.3,
    "num_leapfrog_steps": 5,
    "steps": 3,
    "buffer_size": 64,
    "sigmas": (0.3,),
    "sigma": 0.3,
    "dimension": 3,
    "size": 4,
    "classes": 3,
    "hidden": (8,),
    "energy": Gaussian(),
    "sampler": MALA(0.2),
    "temperatures": (1.0, 1.7, 3.0),
}
DOMAINS = (real(3), box(0.0, 1.0, 1, 8, 8), binary(6))  # tried in turn for a required `domain`
SMALL: dict[str, dict[str, Any]] = {  # settings that keep a class small or make its case sharper
    "MLP": {"domain": real(3), "hidden": (16, 16)},
    "ConvNet": {"domain": box(0.0, 1.0, 1, 8, 8), "channels": (4, 6, 6), "hidden": 16},
    "NoiseMLP": {"domain": real(3), "hidden": (16, 16)},
    "EmbeddingMLP": {"domain": real(3), "hidden": (16, 16)},
    "WideResNet": {"domain": box(0.0, 1.0, 1, 8, 8), "depth": 10, "width": 1},
    "NoiseUNet": {
        "domain": box(0.0, 1.0, 1, 8, 8),
        "widths": (6, 8),
        "blocks": (1, 1),
        "dense": 6,
        "norm": "rms",
    },
    "IGEBM": {"domain": box(0.0, 1.0, 3, 8, 8), "widths": (6, 8), "blocks": 1},
    "DBM": {"domain": binary(6), "n_hidden": (4, 3), "init_std": 0.5},
    "DBN": {"domain": binary(6), "n_hidden": (5, 4, 3), "init_std": 0.5},
    "Gaussian": {"mean": (1.0, -1.0), "covariance": ((1.0, 0.8), (0.8, 1.5))},
    "GaussianMixture": {
        "means": ((-1.0, 0.0), (2.0, 0.5), (0.0, 1.0)),
        "scale": 0.7,
        "weights": (1.0, 2.0, 3.0),
    },
    "MALA": {"step_size": 0.2},
    "HMC": {"step_size": 0.4, "num_leapfrog_steps": 4},
    "NUTS": {"step_size": 0.4, "max_tree_depth": 4},
    "DMALA": {"step_size": 0.5},
    "Langevin": {"step_size": 0.1},
    "ShortRun": {"step_size": 0.1, "noise": 0.3},
    "CD": {"steps": 3},
    "PCD": {"steps": 3, "buffer_size": 64},
    "RBM": {"domain": binary(6), "n_hidden": 5, "init_std": 0.5},
    "ShortRunML": {"steps": 3},
    "JEM": {"steps": 3, "buffer_size": 64},
}
SWITCHES: dict[str, dict[str, Any]] = {  # one variant each
    "energy": {"classes": 3, "noise": True, "spectral_norm": True, "quadratic_weight": 0.5},
    "objective": {"ce_weight": 0.5, "sample_labels": True},
    "sampler": {},
}
NEEDS_CLASSES = {
    "ce_weight",
    "sample_labels",
    "JEM",
    "OutlierExposure",
    "Robust",
}  # switches and objectives that need labels
BAD: dict[str, tuple[Any, ...]] = {  # settings that nobody can mean, by parameter name
    "step_size": (0.0, -1.0, math.nan, math.inf),
    "noise": (-1.0, math.nan),
    "temperature": (-1.0, math.nan, math.inf),
    "num_leapfrog_steps": (0, -3),
    "friction": (0.0, -1.0, math.nan),
    "jitter": (-0.1, 1.0),
    "depth": (0, 21),
    "sweeps": (0, -1),
    "inv_mass_sqrt": ((), (1.0, 0.0), (1.0, math.nan)),
    "clip": (0.0, -1.0),
    "clamp": ((1.0, 0.0), (0.5, 0.5)),
    "steps": (0, -1),
    "l2": (-1.0, math.nan),
    "sample_labels": (),
    "sigmas": ((), (0.1, 0.0), (-0.1,)),
}


class Case(NamedTuple):
    """One way to build a registered class."""

    kind: str
    name: str
    settings: dict[str, Any]

    def __str__(self) -> str:
        return "-".join([self.name, *self.settings])

    @property
    def needs_classes(self) -> bool:
        return bool(NEEDS_CLASSES & {self.name, *self.settings})

    def build(self, dtype: torch.dtype = torch.float32, **more: Any) -> Any:
        """The object, weights drawn at seed 0. Raises if the constructor cannot be satisfied."""
        cls = registered(self.kind)[self.name]
        required = [n for n, p in parameters(cls).items() if p.default is inspect.Parameter.empty]
        settings = SMALL.get(self.name, {}) | self.settings | more
        missing = [n for n in required if n not in settings and n != "domain"]
        unknown = [n for n in missing if n not in VALUES]
        assert not unknown, (
            f"{self.kind} {self.name} requires {unknown}; add values for them to contract/cases.py"
        )
        settings = {n: VALUES[n] for n in missing} | settings
        with torch.random.fork_rng():
            torch.manual_seed(0)
            if "domain" in required and "domain" not in settings:
                made = _first_domain(self.kind, self.name, settings)
            else:
                made = build(self.kind, {"name": self.name, **settings})
        return made.to(dtype) if isinstance(made, Energy) else made


def _first_domain(kind: str, name: str, settings: dict[str, Any]) -> Any:
    problems = []
    for domain in DOMAINS:
        try:
            made = build(kind, {"name": name, "domain": domain, **settings})
            bound(made)(domain.draw(2, torch.Generator().manual_seed(0)))
            return made
        except (ValueError, RuntimeError) as problem:
            problems.append(f"{domain}: {problem}")
    raise AssertionError(f"{name} takes none of the domains in contract/cases.py: {problems}")


def cases(kind: str) -> list[Case]:
    """Every registered class of a kind, and once more for each switch that its constructor has."""
    found = []
    for name, cls in registered(kind).items():
        found.append(Case(kind, name, {}))
        known = parameters(cls)
        switches = SWITCHES[kind].items()
        found += [
            Case(kind, name, {s: v}) for s, v in switches if s in known and known[s].default != v
        ]
    return found


def where(kind: str, wanted: Callable[[Any], bool]) -> list[Case]:
    """The cases whose object is wanted, and those that cannot be built: their tests shall fail, not
    be left out.
    """

    def keep(case: Case) -> bool:
        try:
            return wanted(case.build())
        except Exception:
            return True

    return [case for case in cases(kind) if keep(case)]


def points(energy: Energy, count: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Starting points of the energy's domain."""
    return energy.domain.draw(count, torch.Generator().manual_seed(seed), dtype=dtype)


def bound(energy: Energy) -> Energy:
    """The energy as a function of x alone: a noise level bound where it needs one."""
    return energy.given(0.7) if noise_of(energy) else energy
