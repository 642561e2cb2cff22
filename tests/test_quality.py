"""Slow proofs of what shipped recipes promise: minutes each, run with `make slow`."""

from pathlib import Path
from typing import Any

import pytest

from lowland import commands
from lowland.run import Run

pytestmark = pytest.mark.slow


def trained(name: str, folder: Path) -> dict[str, Any]:
    commands.train(name, folder / name, quiet=True)
    return Run.open(folder / name).read_json("evaluation.json")


def test_digits_are_digits_and_not_copies(tmp_path: Path) -> None:
    found = trained("digits", tmp_path)
    samples, inpainting = found["samples"], found["restoration"]["tasks"]["inpaint"]
    assert samples["confident"]["value"] >= 0.9 and samples["class_entropy"] >= 0.9
    assert (
        0.75 < samples["neighbour_ratio"] < 1.3
        and samples["copies"] <= 5 * samples["expected_copies"]
    )
    alarm = found["detection"]["false_alarm"]
    assert alarm["low"] <= alarm["value"] <= alarm["high"]
    ours = inpainting["psnr"]["lowland mean"]["value"]
    assert ours > inpainting["psnr"]["nearest neighbour"]["value"] + 1
    assert ours > inpainting["psnr"]["mean image"]["value"] + 1
    consistency = inpainting["class_consistency"]
    assert consistency["lowland mean"]["value"] > consistency["mean image"]["value"]
    denoised = found["restoration"]["tasks"]["denoise"]["psnr"]
    assert denoised["lowland mean"]["value"] > denoised["noisy"]["value"]


def test_moons_are_learned_to_within_sampling_error(tmp_path: Path) -> None:
    found = trained("moons", tmp_path)
    mmd = found["samples"]["mmd"]
    assert mmd["value"] < 5 * mmd["error"] and 0.8 < found["samples"]["neighbour_ratio"] < 1.25
