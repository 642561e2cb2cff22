"""A case: a small computation that is made on a device and on the CPU, and compared."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from lowland.domain import Domain
from lowland.replay import ReplayBuffer
from lowland.training import Session

Numbers = dict[str, Tensor]


class Case(NamedTuple):
    """One computation: its name, the room it belongs to, and how it is made on a device in an empty
    folder. It returns tensors on that device.

    rounding: largest difference from the CPU that rounding explains, in units of the largest number
    of a tensor; share: of the rows that may differ by more, where a chain or a ranking decides and
    rounding turns a decision; alike: whether it can be made with the CPU's draws and compared with
    the CPU, or checks by itself all that it can.
    """

    room: str
    name: str
    run: Callable[[torch.device, Path], Numbers]
    rounding: float = 1e-3
    share: float = 0.0
    alike: bool = True

    def __str__(self) -> str:
        return f"{self.room}: {self.name}"


def require_device(device: torch.device, tensors: Mapping[str, Tensor]) -> Numbers:
    """Return the tensors; raise AssertionError unless all of them lie on the device."""
    elsewhere = {name: x.device for name, x in tensors.items() if x.device.type != device.type}
    assert not elsewhere, f"not on {device}: {elsewhere}"
    return dict(tensors)


def module_tensors(module: nn.Module) -> Numbers:
    """Return weights and buffers by name."""
    return dict(module.state_dict())


def gradients(module: nn.Module) -> Numbers:
    """Return the gradients of a module's weights by name."""
    return {f"grad {name}": p.grad for name, p in module.named_parameters() if p.grad is not None}


def buffer_tensors(buffer: ReplayBuffer | None) -> Numbers:
    """Return what a replay buffer holds."""
    return {} if buffer is None else buffer.state_dict()


def session_tensors(session: Session) -> Numbers:
    """Return all that a session moves, and require that it lies on the session's device."""
    found = {f"energy {name}": x for name, x in module_tensors(session.energy).items()}
    found |= {f"ema {name}": x for name, x in module_tensors(session.ema.module).items()}
    if session.partner is not None:
        found |= {f"partner {name}": x for name, x in module_tensors(session.partner).items()}
    found |= {f"chains {name}": x for name, x in buffer_tensors(session.buffer).items()}
    require_device(session.device, found)
    for name, generator in session.generators.items():
        assert generator.device.type == session.device.type, f"{name} draws elsewhere"
    return found


def generator_on(device: torch.device, seed: int = 0) -> torch.Generator:
    """Return a generator of a device."""
    return torch.Generator(device).manual_seed(seed)


def points_on(device: torch.device, domain: Domain, count: int = 32) -> Tensor:
    """Draw points of a domain on the CPU, the same for every device, and bring them there."""
    return domain.draw(count, generator_on(torch.device("cpu"), 7)).to(device)


def compare(wanted: Numbers, found: Numbers, case: Case) -> str:
    """Say how two results of a case differ beyond what it allows; empty if they agree."""
    if wanted.keys() != found.keys():
        return f"they hold other tensors: {sorted(wanted.keys() ^ found.keys())[:3]}"
    for name, x in wanted.items():
        y = found[name].cpu()
        x = x.cpu()
        if x.shape != y.shape or x.dtype != y.dtype:
            return f"{name} is {y.dtype} {tuple(y.shape)}, on the CPU {x.dtype} {tuple(x.shape)}"
        if x.numel() == 0 or torch.equal(x, y):
            continue
        problem = _compare_numbers(x.double(), y.double(), case)
        if problem:
            return f"{name}: {problem}"
    return ""


def _compare_numbers(x: Tensor, y: Tensor, case: Case) -> str:
    if not torch.equal(x.isfinite(), y.isfinite()):
        return "other numbers are finite"
    x, y = x.nan_to_num(posinf=0, neginf=0), y.nan_to_num(posinf=0, neginf=0)
    largest = float(x.abs().max().clamp_min(1e-6))
    far = (x - y).abs() > case.rounding * largest
    rows = far.flatten(1).any(1) if x.dim() > 1 else far.view(-1)
    if float(rows.double().mean()) <= case.share:
        return ""
    worst = float((x - y).abs().max()) / largest
    return f"differs by {worst:.2g} of the largest number in {int(rows.sum())} of {len(rows)} rows"


def merge(parts: Iterable[Numbers]) -> Numbers:
    """Return the tensors of several results, numbered."""
    return {f"{place} {name}": x for place, part in enumerate(parts) for name, x in part.items()}
