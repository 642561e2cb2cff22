"""Updates that may be skipped, and batches on their way to a device: what a GPU asks of training,
on the CPU.
"""

import pytest
import torch
from torch import nn

from lowland.data import Batches, Split
from lowland.training import optimisation
from lowland.training.optimisation import build_optimizer, optimizer_tensors, step_if
from lowland.training.settings import Training

KINDS = {
    "adam": {},
    "adamw": {"weight_decay": 0.01},
    "sgd": {"optimizer": "sgd"},
    "sgd with momentum": {"optimizer": "sgd", "momentum": 0.9},
}


def _walk(how: dict[str, object], sound: list[bool]) -> dict[str, torch.Tensor]:
    """Return weights and moments after steps, of which those that are not sound bring NaN."""
    torch.manual_seed(0)
    net = nn.Linear(3, 2)
    optimizer = build_optimizer(net, None, 1.0, Training(learning_rate=0.1, **how))
    for number, good in enumerate(sound):
        for weight in net.parameters():
            grad = torch.sin(torch.arange(weight.numel()) + number).view_as(weight)
            weight.grad = grad if good else torch.full_like(weight, torch.nan)
        step_if(optimizer, torch.tensor(good))
    return {**net.state_dict(), **optimizer_tensors(optimizer)}


@pytest.mark.parametrize("how", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("sound", [[True, True, False, True], [False, True, True]])
def test_a_device_whose_kernels_do_not_skip_makes_the_same_steps(
    how: dict[str, object], sound: list[bool], monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = _walk(how, sound)
    assert all(bool(x.isfinite().all()) for x in wanted.values())
    monkeypatch.setattr(optimisation, "SKIPS", ())

    def ignore(optimizer: torch.optim.Optimizer, found_inf: torch.Tensor) -> None:
        raise AssertionError("the kernel was asked to skip")

    monkeypatch.setattr(optimisation, "_step_unless", ignore)
    found = _walk(how, sound)
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=0, atol=0)


def test_momentum_is_zero_after_a_first_step_that_was_skipped() -> None:
    """torch makes the buffer of memory as it happens to be, and the skipped kernel never writes
    it: the steps that follow are those of an optimiser that has not stepped yet."""
    torch.use_deterministic_algorithms(True)  # torch fills memory it does not write with NaN
    try:
        found = _walk(KINDS["sgd with momentum"], [False, True, True])
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(bool(x.isfinite().all()) for x in found.values())


def test_a_batch_under_way_is_not_yet_taken() -> None:
    """Position and order are those of batches that are cut when they are asked for."""
    device = torch.device("meta")  # another than the CPU
    plain = Batches(Split(torch.arange(7.0), torch.arange(7)), seed=3)
    ahead = Batches(Split(torch.arange(7.0), torch.arange(7)), seed=3, device=device)
    for size in (3, 3, 2, 2, 5, 1):
        assert ahead.state_dict() == plain.state_dict()
        ahead.prepare(3)  # of another size than is asked for, in the end
        assert ahead.state_dict() == plain.state_dict()
        x, y = ahead.next(size)
        assert x.device == device and y is not None and y.device == device
        assert x.shape == plain.next(size)[0].shape
    known = ahead.state_dict()
    ahead.prepare(3)
    ahead.load_state_dict(known)
    assert ahead.state_dict() == known and ahead._prepared is None


def test_the_rows_that_are_prepared_are_those_that_come_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[torch.Tensor] = []

    def record(x: torch.Tensor, device: torch.device) -> torch.Tensor:
        if device.type == "meta":
            sent.append(x)
        return x

    monkeypatch.setattr("lowland.data.batches.send", record)
    plain = Batches(Split(torch.arange(7.0)), seed=3)
    ahead = Batches(Split(torch.arange(7.0)), seed=3, device=torch.device("meta"))
    for _ in range(5):
        torch.testing.assert_close(ahead.next(3)[0], plain.next(3)[0], rtol=0, atol=0)
        ahead.prepare(3)
    assert len(sent) == 6  # each batch once, and one that is under way


def test_data_on_the_device_stay_there() -> None:
    x = torch.zeros(5, 2, device="meta")
    batches = Batches(Split(x), seed=0)
    assert batches.device.type == "meta" and batches.next(2)[0].device.type == "meta"
