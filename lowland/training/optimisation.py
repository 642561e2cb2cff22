"""The optimiser of a run: weights of the energy and of its partner, updates that skip what is not
finite.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from lowland.training.settings import Row, Training
from lowland.training.sharding import full_tensor, shard_like


def build_optimizer(
    energy: nn.Module, partner: nn.Module | None, partner_rate: float, settings: Training
) -> torch.optim.Optimizer:
    """Return Adam (with the weight decay apart from the moments) or SGD; a partner has a group of
    its own, without decay.
    """
    groups: list[Row] = [{"params": list(energy.parameters()), "factor": 1.0}]
    if partner is not None:
        groups.append(
            {"params": list(partner.parameters()), "factor": partner_rate, "weight_decay": 0.0}
        )
    groups = [group for group in groups if group["params"]]
    options: Row = {
        "lr": settings.learning_rate,
        "weight_decay": settings.weight_decay,
        "fused": True,
    }
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=settings.momentum, **options)
    kind = torch.optim.AdamW if settings.weight_decay else torch.optim.Adam
    return kind(groups, betas=settings.betas, **options)


def clip_gradients(modules: list[nn.Module], bound: float) -> Tensor:
    """Clip the gradients of each module to a norm of its own; return the first module's norm, not
    finite if any is not.

    bound: 0 for none. Nothing waits for the device.
    """
    learning = [list(module.parameters()) for module in modules]
    norms = [torch.nn.utils.clip_grad_norm_(own, bound or math.inf) for own in learning if own]
    return norms[0] + 0 * sum(norms[1:], torch.zeros_like(norms[0]))


# their fused kernels read found_inf; that of MPS takes it and steps all the same
SKIPS = ("cpu", "cuda", "xpu")


def step_if(optimizer: torch.optim.Optimizer, sound: Tensor) -> None:
    """Step where `sound` (a bool on the device) is true, else leave weights and moments alone,
    without waiting for it.
    """
    _begin_momentum(optimizer)
    if sound.device.type in SKIPS:
        _step_unless(optimizer, (~sound).float())
        return
    before = {id(x): x.detach().clone() for x in _moving(optimizer)}
    optimizer.step()
    with torch.no_grad():
        for x in _moving(optimizer):
            old = before.get(id(x))  # moments begin at zero with the first step
            x.copy_(torch.where(sound, x, torch.zeros_like(x) if old is None else old))


def _step_unless(optimizer: Any, found_inf: Tensor) -> None:
    """Step by the fused kernel, which does nothing where found_inf is 1."""
    optimizer.grad_scale, optimizer.found_inf = None, found_inf
    optimizer.step()
    del optimizer.grad_scale, optimizer.found_inf


def _begin_momentum(optimizer: torch.optim.Optimizer) -> None:
    """Begin the momenta of SGD at zero: the fused kernel would leave them as memory happens to be
    where it skips the first step of all.
    """
    for group in optimizer.param_groups:
        if not group.get("momentum"):
            continue
        for weight in group["params"]:
            state = optimizer.state[weight]
            if weight.grad is not None and state.get("momentum_buffer") is None:
                state["momentum_buffer"] = torch.zeros_like(weight)


def _moving(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    """Return the weights and moments that a step may change."""
    weights = [p for group in optimizer.param_groups for p in group["params"]]
    states = [state.values() for state in optimizer.state.values()]
    return [*weights, *(x for state in states for x in state if isinstance(x, Tensor))]


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return the moments as named tensors."""
    found = optimizer.state_dict()["state"]
    moments = {
        f"{i}.{name}": value
        for i, state in found.items()
        for name, value in state.items()
        if value is not None
    }
    # in one order, so that every process asks for the same one
    return {name: full_tensor(moments[name]) for name in sorted(moments)}


def restore_optimizer(optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Load what `optimizer_tensors` returned, with the memory layout that the optimiser itself
    would have chosen.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    states: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        states.setdefault(int(index), {})[name] = shard_like(value, parameters[int(index)])
    optimizer.load_state_dict(
        {"state": states, "param_groups": optimizer.state_dict()["param_groups"]}
    )
