"""Changes between the recipe that a run was trained with and another."""

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

# where something is computed or found, not what; data are known by their digests
FREE = {
    "about",
    "data.root",
    "data.name",
    "training.device",
    "training.threads",
    "training.tensorboard",
}
RULE = (
    "a run has one recipe, of which only training.steps may be raised, and where data lie and "
    "updates are computed may change"
)


class Change(NamedTuple):
    """A value of a recipe that is another than it was; None where it is not there."""

    path: str
    then: object
    now: object

    def __str__(self) -> str:
        return f"{self.path} was {_show(self.then)} and is {_show(self.now)}"

    @property
    def allowed(self) -> bool:
        """Tell whether training goes on with it unasked."""
        if self.path == "training.steps":
            whole = isinstance(self.then, int) and isinstance(self.now, int)
            return whole and self.now > self.then  # type: ignore[operator]
        return self.path in FREE


def compare_recipes(then: object, now: object) -> list[Change]:
    """List the values that differ between the plain values of two recipes."""
    return list(_compare(_to_json(then), _to_json(now), ""))


def _compare(then: object, now: object, path: str) -> Iterator[Change]:
    if isinstance(then, dict) and isinstance(now, dict):
        for key in [*then, *(key for key in now if key not in then)]:
            yield from _compare(then.get(key), now.get(key), f"{path}.{key}" if path else key)
    elif then != now or isinstance(then, bool) != isinstance(now, bool):
        yield Change(path or "the recipe", then, now)


def _to_json(values: object) -> Any:
    return json.loads(json.dumps(values, default=str))


def _show(value: object) -> str:
    text = "absent" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
