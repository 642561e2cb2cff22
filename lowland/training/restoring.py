"""Check a checkpoint against the session that is to go on from it, before anything is changed."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lowland.run import Checkpoint, RunError
from lowland.training.session import Session

REQUIRED = (
    "processes",
    "domain",
    "batches",
    "rate_factor",
    "step_factor",
    "best",
    "precision",
    "rollbacks",
    "health",
    "log_size",
)
CURE = "restore it, or remove the folder and go on from an older one"


def restore(session: Session, checkpoint: Checkpoint) -> None:
    """Put a session back to a checkpoint, all of whose fields are checked first.

    Raises RunError, the same in every process, that names the file and what does not fit.
    """
    wanted = session.checkpoint(0)
    session.team.on_main(lambda: _check(session, checkpoint, wanted))
    session.restore(checkpoint)


def _check(session: Session, checkpoint: Checkpoint, wanted: Checkpoint) -> None:
    where = f"step-{checkpoint.step:08d}"
    missing = [name for name in REQUIRED if name not in checkpoint.state]
    if missing:
        raise _refuse(f"{where}/state.json", f"{', '.join(missing)} is missing")
    if checkpoint.state["domain"] != wanted.state["domain"]:
        raise _refuse(f"{where}/state.json", "its domain is not that of the energy")
    absent = [stem for stem in wanted.tensors if stem not in checkpoint.tensors]
    if absent:
        raise _refuse(where, f"{absent[0]}.safetensors is missing")
    goes_on = session.continues_draws(checkpoint)
    for stem, tensors in wanted.tensors.items():
        found, file = checkpoint.tensors[stem], f"{where}/{stem}.safetensors"
        if stem == "optimizer":
            _check_moments(session.optimizer, found, file)
        elif stem != "generators" or goes_on:
            _check_tensors(found, tensors, file)
        if stem == "generators" and goes_on:
            _check_generators(session, found, file)
        if stem in ("energy", "ema", "partner", "chains"):
            _check_finite(found, tensors, file)


def _refuse(file: str, problem: str) -> RunError:
    return RunError(f"{file} does not fit the run: {problem}; a checkpoint is used whole; {CURE}")


def _check_tensors(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], file: str) -> None:
    """Raise RunError unless names, shapes and types are those that are wanted."""
    odd = sorted(set(found) ^ set(wanted))
    if odd:
        state = "missing" if odd[0] in wanted else "unknown"
        raise _refuse(file, f"{odd[0]} is {state}")
    for name, tensor in wanted.items():
        _check_like(found[name], tensor.shape, tensor.dtype, name, file)


def _check_like(x: Tensor, shape: torch.Size, dtype: torch.dtype, name: str, file: str) -> None:
    if x.shape != shape or x.dtype != dtype:
        raise _refuse(
            file,
            f"{name} is {_describe(x.shape, x.dtype)} and must be {_describe(shape, dtype)}",
        )


def _describe(shape: torch.Size, dtype: torch.dtype) -> str:
    return f"{str(dtype).removeprefix('torch.')} of shape {tuple(shape)}"


def _check_finite(found: Mapping[str, Tensor], like: Mapping[str, Tensor], file: str) -> None:
    """Raise RunError for values that are not finite where the session's own are."""
    for name, x in found.items():
        if x.is_floating_point() and bool(like[name].isfinite().all() and ~x.isfinite().all()):
            raise _refuse(file, f"{name} holds values that are not finite")


def _check_moments(
    optimizer: torch.optim.Optimizer, found: Mapping[str, Tensor], file: str
) -> None:
    """Raise RunError unless every weight that has moments has all of them, in its shape."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    by_weight: dict[int, set[str]] = {}
    for key, value in found.items():
        index, _, name = key.partition(".")
        if not index.isdecimal() or int(index) >= len(weights) or not name:
            raise _refuse(file, f"{key} is unknown")
        by_weight.setdefault(int(index), set()).add(name)
        weight = weights[int(index)]
        shape = torch.Size() if name == "step" else weight.shape
        _check_like(value, shape, torch.float32 if name == "step" else weight.dtype, key, file)
    every = set().union(*by_weight.values())
    known = {"momentum_buffer"}
    if not isinstance(optimizer, torch.optim.SGD):
        known = {"step", "exp_avg", "exp_avg_sq"}
    if every - known:
        raise _refuse(file, f"{min(every - known)} is no moment of {type(optimizer).__name__}")
    for number, names in by_weight.items():
        if names != (known if every else set()):
            raise _refuse(file, f"{number}.{min(known - names)} is missing")


def _check_generators(session: Session, found: Mapping[str, Tensor], file: str) -> None:
    """Raise RunError for a state that no generator takes."""
    for name, state in found.items():
        kind = session.generators[name.partition(".")[0]].device
        try:
            torch.Generator(kind).set_state(state)
        except (RuntimeError, TypeError, ValueError) as error:
            problem = f"{name} is no state of a generator ({str(error).splitlines()[0]})"
            raise _refuse(file, problem) from None
