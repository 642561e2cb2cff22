"""Growing from small images to large: weights carried on, images averaged, runs that are
resumed.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from contract.cases import seeded

from lowland import load, load_data, read_recipe, train_recipe
from lowland.nets import IGEBM
from lowland.run import Run
from lowland.training import Training, grow
from lowland.training.grow import resize_dataset


def recipe(steps: int = 3, **energy: Any) -> dict[str, Any]:
    langevin = {"name": "Langevin", "step_size": 1e-3}
    values = {
        "name": "grown",
        "data": {"name": "digits"},
        "energy": energy
        or {"name": "IGEBM", "widths": [6, 8], "blocks": 1, "spectral_norm": False},
        "objective": {"name": "CD", "steps": 2},
        "sampler": langevin,
        "training": {
            "steps": steps,
            "checkpoint_every": steps,
            "log_every": 1,
            "batch": 16,
            "ema_decay": 0.0,
            "preflight": "off",
        },
        "generation": {"sampler": langevin},
    }
    return read_recipe(values).plain()


def test_images_are_averaged_down() -> None:
    digits = load_data("digits")
    small = resize_dataset(digits, 4)
    assert (
        small.domain.shape == (1, 4, 4) and small.num_gray_levels is None and "4 × 4" in small.name
    )
    torch.testing.assert_close(small.train.x[3, 0, 1, 2], digits.train.x[3, 0, 2:4, 4:6].mean())
    assert torch.equal(small.test.y, digits.test.y) and small.domain.contains(small.test.x).all()
    assert resize_dataset(digits, 8) is digits


def test_each_size_begins_with_the_weights_of_the_last(tmp_path: Path) -> None:
    energy = grow(recipe(), tmp_path, (2, 4, 8), progress=False)
    assert isinstance(energy, IGEBM) and energy.domain.shape == (1, 8, 8)
    for before, after in ((2, 4), (4, 8)):
        ends = Run.open(tmp_path / f"size-{before}").load_checkpoint().tensors["ema"]
        run = Run.open(tmp_path if after == 8 else tmp_path / f"size-{after}")
        starts = run.load_checkpoint(run.steps()[0]).tensors["energy"]
        assert run.steps()[0] == 0 and all(torch.equal(ends[name], starts[name]) for name in ends)
        grown = run.load_checkpoint().tensors["energy"]
        assert any(not torch.equal(grown[name], starts[name]) for name in grown)


def test_a_finished_size_is_read_and_not_repeated(tmp_path: Path) -> None:
    first = grow(recipe(), tmp_path, (4, 8), progress=False)
    log = (tmp_path / "size-4" / "log.jsonl").read_bytes()
    again = grow(recipe(), tmp_path, (4, 8), progress=False)
    assert (tmp_path / "size-4" / "log.jsonl").read_bytes() == log
    x = torch.rand(5, 1, 8, 8, generator=seeded())
    torch.testing.assert_close(first.eval()(x), again.eval()(x))


def test_a_recipe_grows_by_one_word_and_resumes(tmp_path: Path) -> None:
    values = recipe()
    values["training"]["progressive_sizes"] = [2, 4]
    fitted = train_recipe(values, tmp_path / "run", progress=False)
    asked = grow(recipe(), tmp_path / "other", (2, 4, 8), progress=False)
    assert all(
        torch.equal(a, b) for a, b in zip(fitted.parameters(), asked.parameters(), strict=True)
    )
    Run(tmp_path / "run").keep_checkpoints({0})
    again = train_recipe(values, tmp_path / "run", progress=False)
    assert all(
        torch.equal(a, b) for a, b in zip(fitted.parameters(), again.parameters(), strict=True)
    )
    assert load(tmp_path / "run").energy.domain.shape == (1, 8, 8)
    with pytest.raises(ValueError, match=r"training.progressive_sizes is \[2\].*;.*;"):
        train_recipe(
            read_recipe("moons", {"training.progressive_sizes": [2]}),
            tmp_path / "moons",
            progress=False,
        )
    with pytest.raises(ValueError, match="progressive_sizes is"):
        Training(progressive_sizes=(8, 4))


def test_sizes_that_do_not_grow_and_nets_that_cannot_are_refused(tmp_path: Path) -> None:
    for sizes in ((8, 4), (4, 4, 8), (4,), ()):
        with pytest.raises(ValueError, match=r"sizes.*;.*;"):
            grow(recipe(), tmp_path / "a", sizes, progress=False)
    with pytest.raises(ValueError, match=r"2 recipes|1 recipes"):
        grow([recipe()], tmp_path / "b", (4, 8), progress=False)
    with pytest.raises(ValueError, match=r"depend on the size.*;.*;"):
        grow(recipe(name="MLP", hidden=[8]), tmp_path / "c", (4, 8), progress=False)
