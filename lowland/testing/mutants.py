"""The bugs that the checks are known to catch, planted as `mutants.txt` describes them.

>>> MUTANTS[0].bug, MUTANTS[0].seen_by
('noise × 0.97, unknown to the ratio', 'stationarity, ten')
"""

import ast
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

from lowland import samplers
from lowland.testing import bias, exact_checks, geweke, statistical_checks
from lowland.testing.mutation import Mutant
from lowland.testing.targets import TARGETS

HOME = "lowland.samplers."


def check_named(name: str, settings: dict[str, Any]) -> Callable[[Any], float | None]:
    """Return the check that a name such as "stationarity, gaussian" stands for, as f(sampler)."""
    kind, _, detail = name.partition(", ")
    match kind:
        case "stationarity":
            seeds = range(settings.pop("seeds", 1))
            return partial(
                statistical_checks.stationarity, target=TARGETS[detail], seeds=seeds, **settings
            )
        case "enumeration":
            settings = {"count": 5_000} | settings
            return lambda s: statistical_checks.enumeration(s, TARGETS[detail], **settings).z
        case "arrival":
            return partial(statistical_checks.arrival, target=TARGETS[detail])
        case "refuses holes":
            return partial(exact_checks.refuses_holes, hole=detail)
        case "state is fresh":
            return partial(exact_checks.state_is_fresh, kind=detail or "real")
    return CHECKS[kind]


def _temperature_law(sampler: Any) -> float:
    """Run `temperature_law` at the sampler's own temperature and at its step times scale²."""
    (scale, *_) = sampler.inv_mass_sqrt or (1.0,)
    return bias.temperature_law(sampler, sampler.step_size * scale**2, sampler.temperature)


CHECKS: dict[str, Callable[[Any], float | None]] = {
    "temperature law": _temperature_law,
    "order": lambda s: bias.order(s).z(s.order),
    "diffusion law": lambda s: bias.diffusion_law(s, s.step_size),
    "joint": geweke.joint,
    "chains are separate": exact_checks.chains_are_separate,
    "repeats": exact_checks.repeats,
    "gradients as declared": exact_checks.gradients_as_declared,
    "replicas travel": exact_checks.replicas_travel,
}


def build_sampler(call: ast.Call, module: ModuleType) -> Any:
    """Build a sampler from its call, as in `HMC(0.4, 4)`, with the class of a module.

    A sampler among the arguments is lowland's own.
    """
    values = [
        build_sampler(value, samplers) if isinstance(value, ast.Call) else ast.literal_eval(value)
        for value in call.args
    ]
    named = {str(word.arg): ast.literal_eval(word.value) for word in call.keywords}
    name = ast.unparse(call.func).rpartition(".")[2]
    return vars(module)[name](*values, **named)


def _read(text: str) -> Iterator[Mutant]:
    """Yield the bugs of a text in the form of `mutants.txt`."""
    for group in text.split("\n@ ")[1:]:
        head, *bugs = group.strip("\n").split("\n# ")
        place, _, call = head.partition("; ")
        module, _, where = place.partition(".")
        node = ast.parse(call, mode="eval").body
        assert isinstance(node, ast.Call)
        through, _, _ = ast.unparse(node.func).rpartition(".")
        for bug in bugs:
            title, *lines = bug.split("\n")
            words, _, check = title.partition("; ")
            old, new = ("\n".join(x[2:] for x in lines if x[0] == side) for side in "-+")
            parts = check.split(", ")
            settings = {k: int(v) for k, _, v in (p.partition("=") for p in parts) if v}
            name = ", ".join(part for part in parts if "=" not in part)
            yield Mutant(
                words,
                HOME + module,
                where,
                old,
                new,
                partial(build_sampler, node),
                check_named(name, settings),
                name,
                HOME + through if through else None,
            )


MUTANTS: tuple[Mutant, ...] = tuple(
    _read(Path(__file__).with_name("mutants.txt").read_text(encoding="utf-8"))
)
