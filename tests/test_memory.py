"""Activations computed again: the same gradients to the last bit, less kept, and spectral norm that
does not move twice.
"""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import lowland
from lowland.domain import box
from lowland.energy import value_and_score
from lowland.objectives import Batch, Context
from lowland.run import Run
from lowland.training import train_recipe
from lowland.training.memory import peak_mb, recompute


def net(spectral: bool, blocks: int = 2) -> Any:
    torch.manual_seed(0)
    return (
        lowland.nets.IGEBM(
            box(0.0, 1.0, 1, 8, 8), widths=(4, 8), blocks=blocks, spectral_norm=spectral
        )
        .double()
        .train()
    )


def contrasted(energy: Any, x: Tensor, y: Tensor) -> Tensor:
    return lowland.objectives.contrast(energy, x, y, l2=0.1).value


def matched(energy: Any, x: Tensor, y: Tensor) -> Tensor:
    return (
        lowland.objectives.ScoreMatching(method="sliced")
        .loss(energy, Batch(x), Context(torch.Generator().manual_seed(0)))
        .value
    )


def twice(energy: Any, x: Tensor, y: Tensor) -> Tensor:
    """Two forward passes: the buffers of the first are gone when its gradient is due."""
    return energy(x).mean() - energy(y).square().mean()


LOSSES: list[Callable[[Any, Tensor, Tensor], Tensor]] = [contrasted, matched, twice]


def gradients(energy: Any, loss: Callable[[Any, Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Gradients of a second update: the first has moved the power iterations."""
    x, y = torch.rand(
        2, 5, 1, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    loss(energy, x, y).backward()
    energy.zero_grad()
    loss(energy, x, y).backward()
    return [p.grad for p in energy.parameters() if p.grad is not None] + list(energy.buffers())


@pytest.mark.parametrize("spectral", [False, True])
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_and_buffers_are_those_of_kept_activations(
    loss: Callable[[Any, Tensor, Tensor], Tensor], spectral: bool
) -> None:
    kept, again = net(spectral), net(spectral)
    assert recompute(again) == 4
    for a, b in zip(gradients(kept, loss), gradients(again, loss), strict=True):
        assert torch.equal(a, b)
    x = torch.rand(3, 1, 8, 8, dtype=torch.float64)
    assert torch.equal(value_and_score(kept, x)[1], value_and_score(again, x)[1])


def test_a_block_that_moves_on_when_computed_again_would_be_noticed() -> None:
    """The planted bug: torch's checkpoint alone, under which the power iteration advances twice."""
    kept, naive = net(True), net(True)
    for block in naive.net:
        if list(block.children()):
            block.forward = lambda x, forward=block.forward: checkpoint(
                forward, x, use_reentrant=False
            )
    pairs = zip(gradients(kept, contrasted), gradients(naive, contrasted), strict=True)
    assert any(not torch.equal(a, b) for a, b in pairs)


def kept_bytes(energy: Any, loss: Callable[[Any, Tensor, Tensor], Tensor]) -> int:
    """Bytes that autograd holds on to until the backward pass, weights left out."""
    held: dict[int, int] = {}
    weights = {p.untyped_storage().data_ptr() for p in energy.parameters()}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            held[storage.data_ptr()] = storage.nbytes()
        alive.append(tensor)
        return tensor

    alive: list[Tensor] = []
    x, y = torch.rand(2, 16, 1, 8, 8, dtype=torch.float64)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        _ = loss(energy, x, y)
    return sum(held.values())


def test_less_is_kept() -> None:
    plain, again = net(False, blocks=6), net(False, blocks=6)
    recompute(again)
    assert kept_bytes(again, contrasted) < 0.4 * kept_bytes(plain, contrasted)


def test_a_copy_computes_with_its_own_weights() -> None:
    energy = net(False)
    recompute(energy)
    other = copy.deepcopy(energy)
    x = torch.rand(2, 1, 8, 8, dtype=torch.float64)
    before = energy(x).detach()
    with torch.no_grad():
        other.net[1].first.weight.zero_()
    assert torch.equal(energy(x), before) and not torch.equal(other(x), before)
    assert list(other.state_dict()) == list(net(False).state_dict())


def test_dropout_is_replayed() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.drop = nn.Linear(6, 6, dtype=torch.float64), nn.Dropout(0.5)

        def forward(self, x: Tensor) -> Tensor:
            return self.drop(torch.tanh(self.layer(x)))

    torch.manual_seed(0)
    plain = nn.Sequential(Block(), Block())
    again = copy.deepcopy(plain)
    recompute(again)
    found = []
    for module in (plain, again):
        torch.manual_seed(1)
        module(torch.ones(4, 6, dtype=torch.float64)).square().sum().backward()
        found.append([p.grad for p in module.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_networks_without_blocks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"MLP has no residual blocks; .*; set it to false"):
        recompute(lowland.nets.MLP(lowland.real(2), (8,)))


def test_training_is_the_same_and_says_its_peak(tmp_path: Any) -> None:
    values = {
        "energy.name": "IGEBM",
        "energy.widths": [4],
        "energy.blocks": 1,
        "training.steps": 4,
        "training.batch": 8,
        "training.log_every": 2,
        "training.checkpoint_every": 4,
        "objective.buffer_size": 16,
        "objective.ce_weight": 0.0,
        "objective.sample_labels": False,
        "objective.steps": 2,
    }
    for name, wanted in (("kept", False), ("again", True)):
        recipe = lowland.read_recipe("digits", values | {"training.checkpoint_activations": wanted})
        train_recipe(recipe, tmp_path / name, progress=False)
    a, b = (Run.open(tmp_path / name).load_checkpoint().tensors for name in ("kept", "again"))
    assert all(torch.equal(a["ema"][name], b["ema"][name]) for name in a["ema"])
    rows = Run.open(tmp_path / "again").rows("time.jsonl")[1:]  # the first says how it began
    assert len(rows) == 2 and all(
        50 < row["peak_mb"] <= peak_mb(torch.device("cpu")) + 0.1 for row in rows
    )
