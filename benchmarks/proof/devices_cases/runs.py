"""Runs: training from end to end, checkpoints carried from device to device, a killed run that goes
on, a model, runs inside runs.
"""

from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

import lowland
from benchmarks.proof.devices_cases.case import (
    Case,
    Numbers,
    generator_on,
    module_tensors,
    points_on,
    require_device,
)
from benchmarks.proof.devices_cases.draws import seeded
from benchmarks.proof.devices_cases.updates import SMALL, load, read_case
from lowland.data import Dataset
from lowland.energy import Energy
from lowland.run import Run
from lowland.training import (
    Session,
    greedy,
    load_recipe_data,
    train_classifier,
    train_recipe,
)

KILLED_AT = 6  # updates, between two checkpoints


class Killed(BaseException):
    """What ends a run in the middle."""


def fit_case(device: torch.device, run: Path, name: str = "PCD", **overrides: Any) -> Energy:
    """Train a case in a run directory; return its averaged energy."""
    plain, data = read_case(name, device)
    plain["training"] = plain["training"] | overrides
    plain["generation"] = plain["generation"] | {"steps": 4}
    return train_recipe(plain, run, data=data, progress=False)


def checkpoint_tensors(run: Path) -> Numbers:
    """Return every tensor of the newest checkpoint of a run, which are on the CPU."""
    last = Run(run).load_checkpoint(full=True)
    return {f"{stem} {name}": x for stem, part in last.tensors.items() for name, x in part.items()}


def fit(device: torch.device, folder: Path, name: str, **overrides: Any) -> Numbers:
    """Train to the end, with evaluation's rehearsal and health; return the averaged weights."""
    energy = fit_case(device, folder / "run", name, **overrides)
    assert next(energy.parameters()).device.type == device.type, "the energy left its device"
    rows = Run(folder / "run").rows()
    assert rows and all(not row.get("nonfinite") for row in rows), rows
    return module_tensors(energy)


def kill_and_resume(device: torch.device, folder: Path) -> Numbers:
    """Kill a run and resume it; return its last checkpoint, after a comparison, bit for bit, with
    one that was left alone.
    """
    fit_case(device, folder / "whole")
    advance = Session.advance

    def die(session: Session) -> None:
        if session.step == KILLED_AT:
            raise Killed
        advance(session)

    with patch.object(Session, "advance", die), suppress(Killed):
        fit_case(device, folder / "killed")
    assert Run(folder / "killed").steps()[-1] < KILLED_AT
    fit_case(device, folder / "killed")
    whole, killed = (checkpoint_tensors(folder / name) for name in ("whole", "killed"))
    other = [name for name, x in whole.items() if not torch.equal(x, killed[name])]
    assert not other, f"a resumed run differs in {other}"
    return on(device, {k: x for k, x in whole.items() if not k.startswith("generators")})


def carry(device: torch.device, folder: Path, there_first: bool) -> Numbers:
    """Train half of a run on one device and the other half on the other; return the last weights,
    after a check that the second half began with the weights of the first.
    """
    cpu = torch.device("cpu")
    first, second = (device, cpu) if there_first else (cpu, device)
    fit_case(first, folder / "run", steps=4)
    half = checkpoint_tensors(folder / "run")
    plain, data = read_case("PCD", second)
    session = Session(plain, data)
    session.restore(Run(folder / "run").load_checkpoint(full=True))
    for name, x in session.energy.state_dict().items():
        assert torch.equal(x.cpu(), half[f"energy {name}"]), f"{name} changed on the way"
    assert session.buffer is not None
    assert torch.equal(session.buffer.x.cpu(), half["chains x"]), "chains changed on the way"
    energy = fit_case(second, folder / "run", steps=8)
    assert Run(folder / "run").steps()[-1] == 8
    return on(device, module_tensors(energy))


def on(device: torch.device, tensors: Numbers) -> Numbers:
    """Bring tensors to a device."""
    return {name: x.to(device) for name, x in tensors.items()}


class Small(torch.nn.Module):
    """A network of the user's."""

    def __init__(self) -> None:
        super().__init__()
        self.body = torch.nn.Sequential(torch.nn.Linear(2, 12), torch.nn.SiLU())
        self.head = torch.nn.Linear(12, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return energies (B,)."""
        found: Tensor = self.head(self.body(x)).squeeze(1) + x.square().sum(1)
        return found


def fit_own(device: torch.device, folder: Path) -> Numbers:
    """Train a network of one's own, which lies on the device as its data do; go on; score there."""
    net, x = seeded(Small).to(device), points_on(device, lowland.real(2), 200)
    how: dict[str, Any] = {"run": folder / "run", "device": str(device), "progress": False}
    sampler = lowland.Langevin(0.01)
    objective = lowland.objectives.PCD(steps=2, buffer_size=64)
    for steps in (4, 8):
        model = lowland.fit(net, x, objective, sampler=sampler, steps=steps, **how)
    assert next(model.energy.parameters()).device.type == device.type
    return on(device, {"energies": model.energies(x[:8])})


def judge(device: torch.device, folder: Path) -> Numbers:
    """Train a classifier of images, and let it look at some; dropout draws of the device, so only
    the first step, which is that of untrained weights, is compared.
    """
    data = load("digits", None)
    seen = data.train.x[:8].to(device)
    made = train_classifier(data.train, data.classes, steps=2, seed=0, device=device)
    assert next(made.parameters()).device.type == device.type
    assert made.probabilities(seen).isfinite().all()
    untrained = train_classifier(data.train, data.classes, steps=0, seed=0, device=device)
    return require_device(device, {"features": untrained.features(seen)})


@cache
def binary_digits() -> Dataset:
    """Load the digits, black and white."""
    return load_recipe_data(lowland.read_recipe("digits-rbm").plain())


def layerwise(device: torch.device, folder: Path) -> Numbers:
    """Train a deep belief net layer by layer."""
    training = {key.removeprefix("training."): x for key, x in SMALL.items()}
    recipe = {
        "seed": 0,
        "objective": {"name": "CD"},
        "sampler": {"name": "BlockGibbs"},
        "training": training | {"device": str(device), "steps": 4},
    }
    data = binary_digits()
    net = lowland.nets.DBN(data.domain, n_hidden=(8, 6))
    net = greedy(net, recipe, folder / "run", data=data, progress=False)
    weights = dict(net.state_dict())
    return on(device, {name: x for name, x in weights.items() if x.is_floating_point()})


def load_model(device: torch.device, folder: Path) -> Numbers:
    """Train a run, load it onto the device, score and sample there."""
    fit_case(device, folder / "run")
    model = lowland.load(folder / "run", device=str(device))
    assert next(model.energy.parameters()).device.type == device.type
    drawn: Tensor = model.sample(4, generator=generator_on(device)).x
    assert drawn.isfinite().all()
    x = torch.linspace(-1, 1, 20).view(10, 2)
    return on(device, {"energies": model.energies(x), "drawn": drawn})


CASES = [
    Case("run", "fit", partial(fit, name="PCD"), rounding=5e-3, share=0.1),
    Case(
        "run",
        "fit, the best checkpoint chosen",
        partial(fit, name="PCD", select_by="mmd", select_samples=32, steps=4),
        rounding=5e-3,
        share=0.1,
    ),
    Case(
        "run",
        "fit, preflight",
        partial(fit, name="CD", preflight="adjust", accumulate=2),
        rounding=5e-3,
        share=0.1,
    ),
    Case(
        "run",
        "fit, grown",
        partial(fit, name="IGEBM, recomputed", progressive_sizes=[4], steps=4),
        rounding=5e-3,
        share=0.1,
    ),
    Case("run", "killed and resumed", kill_and_resume, alike=False),
    Case("run", "begun there, resumed on the CPU", partial(carry, there_first=True), alike=False),
    Case("run", "begun on the CPU, resumed there", partial(carry, there_first=False), alike=False),
    Case("run", "layer by layer", layerwise, alike=False),
    Case("run", "a network of one's own", fit_own, rounding=5e-3, share=0.15),
    Case("run", "a model", load_model, rounding=5e-3),
    Case("run", "a classifier that judges samples", judge, rounding=5e-3),
]
