"""Energies that changed since a detector was calibrated, in ways that leave sums of weights, or
move scores by little beside their level.
"""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lowland import Detector, Function
from lowland.nets import ClassifierEnergy
from tests.test_hostile_detectors import bowl, classifier, net, points
from tests.test_hostile_metrics import refuse, seeded


def permute_weights(energy: nn.Module) -> None:
    for p in energy.parameters():
        p.data = p.data.flatten().flip(0).view(p.shape)


def move_buffer(energy: nn.Module) -> None:
    for buffer in energy.buffers():
        buffer.copy_(buffer.flip(0))


class Table(nn.Module):
    """Score points by a table, floating or whole, of their coordinates."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("table", torch.tensor([1, 2, 30], dtype=dtype), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.get_buffer("table")).square().sum(1)


@pytest.mark.parametrize(
    "make", [net, classifier, lambda: Table(torch.long), lambda: Table(torch.float32)]
)
def test_weights_in_another_order_are_other_weights(
    make: Callable[[], nn.Module], tmp_path: Path
) -> None:
    energy = make()
    score = "msp" if isinstance(energy, ClassifierEnergy) else "energy"
    detector = Detector(energy, score, calibration=torch.rand(99, generator=seeded(0)))
    path = detector.save(tmp_path / "d.safetensors")
    again = Detector.load(path, energy)
    again.predict(points(1))
    permute_weights(energy)
    move_buffer(energy)
    for use in (
        lambda: detector.predict(points(1)),
        lambda: again.p_value(points(1)),
        lambda: Detector.load(path, energy),
    ):
        assert "has other weights" in refuse(use)


def test_signs_that_keep_every_sum_are_other_weights() -> None:
    energy = net()
    weight = next(p for p in energy.parameters() if p.dim() == 2)
    weight.data[1] = -weight.data[0]
    detector = Detector(energy, calibration=torch.rand(99, generator=seeded(0)))
    weight.data[:2] *= -1
    assert "has other weights" in refuse(lambda: detector.predict(points(1)))


def test_files_that_hold_sums_of_weights_are_read(tmp_path: Path) -> None:
    energy = net()
    path = Detector(energy, calibration=torch.rand(99)).save(tmp_path / "d.safetensors")
    with safe_open(str(path), "pt") as file:
        about = json.loads(file.metadata()["detector"])
    del about["sha256"]
    tensors = load_file(path)
    found = [
        torch.stack([p.double().sum(), p.double().square().sum()]) for p in energy.parameters()
    ]
    tensors["weights"] = torch.stack(found).detach()
    save_file(tensors, path, {"detector": json.dumps(about)})
    again = Detector.load(path, energy)
    again.predict(points(1))
    permute_weights(energy)
    assert "has other weights" in refuse(lambda: again.predict(points(1)))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("scale", "level"), [(0.5, 1e6), (0.5, -1e6), (1e-14, 0.0), (1e9, 1e12)])
def test_drift_is_judged_by_the_spread_of_scores(
    dtype: torch.dtype, scale: float, level: float, tmp_path: Path
) -> None:
    """A shift that would raise alarms is refused, whatever the level of the scores."""
    shift = [0.0]
    energy = Function(lambda x: scale * bowl(x) + level + shift[0])
    detector = Detector(energy).fit(points(0, dims=1).to(dtype))
    path = detector.save(tmp_path / "d.safetensors")
    for _ in range(2):
        detector.predict(points(1, dims=1).to(dtype))
        Detector.load(path, energy)
    shift[0] = scale * (0.5 if dtype == torch.float64 else 2)
    assert "other scores" in refuse(lambda: detector.predict(points(1, dims=1).to(dtype)))
    assert "other scores" in refuse(lambda: Detector.load(path, energy))
