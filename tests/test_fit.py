"""Training: resume equals uninterrupted bit for bit, health acts, bad input is refused before
anything is written.
"""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import lowland
from lowland.data import Dataset, load_data
from lowland.run import Run
from lowland.training import Training, TrainingStoppedError, lineage, train_recipe
from lowland.training.ema import EMA
from lowland.training.session import Session

FAST = {"training.steps": 60, "training.checkpoint_every": 20, "training.keep_checkpoints": 10}
VARIANTS = {
    "moons": (
        "moons",
        {
            "energy.hidden": [32],
            "objective.steps": 5,
            "training.batch": 32,
            "objective.buffer_size": 64,
        },
    ),
    "digits": (
        "digits",
        {"energy.hidden": [64], "training.batch": 16, "objective.buffer_size": 64},
    ),
    "spectral": (
        "digits",
        {
            "energy.name": "ConvNet",
            "energy.channels": [4],
            "energy.kernels": [3],
            "energy.strides": [2],
            "energy.hidden": 8,
            "energy.classes": 10,
            "energy.spectral_norm": True,
            "training.batch": 8,
            "objective.buffer_size": 32,
        },
    ),
    "cd": ("moons", {"objective.name": "CD", "objective.steps": 2, "training.batch": 16}),
    "short run": (
        "moons",
        {"objective.name": "ShortRunML", "objective.steps": 3, "training.batch": 16},
    ),
    "dsm": (
        "moons",
        {
            "objective.name": "DSM",
            "objective.sigmas": [1.0, 0.3],
            "energy.name": "NoiseMLP",
            "training.batch": 16,
        },
    ),
}


def recipe(variant: str, **more: Any) -> lowland.config.Recipe:
    name, overrides = VARIANTS[variant]
    return lowland.read_recipe(name, FAST | overrides | more)


def files(run: Path, step: int) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in (run / f"step-{step:08d}").iterdir()}


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_resumed_from_any_checkpoint_equals_an_uninterrupted_one_byte_for_byte(
    variant: str, tmp_path: Path
) -> None:
    values = recipe(variant)
    train_recipe(values, tmp_path / "whole", progress=False)
    for stop in (0, 20, 40) if variant == "moons" else (20,):
        broken = tmp_path / f"broken-{stop}"
        shutil.copytree(tmp_path / "whole", broken)
        Run(broken).keep_checkpoints({step for step in (0, 20, 40) if step <= stop})
        train_recipe(values, broken, progress=False)
        assert files(broken, 60) == files(tmp_path / "whole", 60), stop
        assert (broken / "log.jsonl").read_bytes() == (
            tmp_path / "whole" / "log.jsonl"
        ).read_bytes()


def test_two_seeds_differ(tmp_path: Path) -> None:
    train_recipe(recipe("moons"), tmp_path / "a", progress=False)
    train_recipe(recipe("moons", seed=1), tmp_path / "b", progress=False)
    assert (
        files(tmp_path / "a", 60)["energy.safetensors"]
        != files(tmp_path / "b", 60)["energy.safetensors"]
    )


def test_a_forgotten_generator_would_be_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The planted bug for the equality above: a resume that leaves one generator where it is."""
    values = recipe("moons")
    train_recipe(values, tmp_path / "whole", progress=False)
    shutil.copytree(tmp_path / "whole", tmp_path / "broken")
    Run(tmp_path / "broken").keep_checkpoints({0, 20})
    whole = Session.restore

    def forgetful(self: Session, checkpoint: Any) -> None:
        state = self.generators["chains"].get_state()
        whole(self, checkpoint)
        self.generators["chains"].set_state(state)

    monkeypatch.setattr(Session, "restore", forgetful)
    train_recipe(values, tmp_path / "broken", progress=False)
    assert files(tmp_path / "broken", 60) != files(tmp_path / "whole", 60)


def test_a_run_killed_at_a_random_moment_resumes_to_the_same_bits(tmp_path: Path) -> None:
    more = {"training.steps": 200, "training.checkpoint_every": 20, "training.keep_checkpoints": 2}
    values = recipe("moons", **more)
    train_recipe(values, tmp_path / "whole", progress=False)
    code = (
        "import sys, json, lowland, torch; torch.set_num_threads(1); "
        "lowland.train_recipe(lowland.read_recipe('moons', json.loads(sys.argv[1])), sys.argv[2], "
        "progress=False)"
    )
    overrides = json.dumps(FAST | VARIANTS["moons"][1] | more)
    child = subprocess.Popen([sys.executable, "-c", code, overrides, str(tmp_path / "broken")])
    log = tmp_path / "broken" / "log.jsonl"
    while child.poll() is None and not (log.exists() and log.stat().st_size > 100):
        time.sleep(0.005)
    time.sleep(0.1)
    child.send_signal(signal.SIGKILL)
    child.wait()
    train_recipe(values, tmp_path / "broken", progress=False)
    assert files(tmp_path / "broken", 200) == files(tmp_path / "whole", 200)
    assert log.read_bytes() == (tmp_path / "whole" / "log.jsonl").read_bytes()


class Grenade(lowland.Energy):
    """An energy that blows up on its n-th training forward pass, and on each one after at a high
    rate.
    """

    def __init__(self, domain: Any, at: int) -> None:
        super().__init__(domain)
        self.inner = lowland.nets.MLP(domain, (8,), quadratic_weight=0.1)
        self.at, self.calls = at, 0

    def forward(self, x: torch.Tensor, c: Any = None) -> torch.Tensor:
        value = self.inner(x, c)
        self.calls += self.training and torch.is_grad_enabled()
        return (
            value * float("nan")
            if self.training and torch.is_grad_enabled() and self.calls == self.at
            else value
        )


def events(run: Path) -> list[dict[str, Any]]:
    return [row for row in Run(run).rows() if "event" in row]


def test_a_non_finite_loss_rolls_back_to_the_last_good_checkpoint_with_a_lower_rate(
    tmp_path: Path,
) -> None:
    data = load_data("moons", count=200)
    values = recipe("cd")
    energy = train_recipe(
        values, tmp_path / "run", data=data, energy=Grenade(data.domain, 33), progress=False
    )
    flight, *acts = events(tmp_path / "run")
    assert flight["event"] == "preflight" and flight["sentences"] == []
    assert [(e["event"], e["name"]) for e in acts] == [
        ("verdict", "diverging"),
        ("rollback", "diverging"),
    ]
    assert acts[1]["to"] == 20 and "learning rate" in acts[1]["did"]
    state = json.loads((tmp_path / "run" / "step-00000060" / "state.json").read_text())
    assert state["rate_factor"] == 0.5 and state["rollbacks"] == 1
    assert all(p.isfinite().all() for p in energy.parameters())


@pytest.mark.parametrize("policy", ["continue", "warn"])
def test_a_non_finite_update_is_never_applied(
    policy: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = load_data("moons", count=200)
    values = recipe("cd", **{"training.on_failure": policy})
    energy = train_recipe(
        values, tmp_path / "run", data=data, energy=Grenade(data.domain, 33), progress=False
    )
    assert sum(row.get("nonfinite", 0) for row in Run(tmp_path / "run").rows()) == 1
    assert all(p.isfinite().all() for p in energy.parameters())
    assert ("not finite" in capsys.readouterr().err) == (policy == "warn")


def test_stop_stops_and_says_why(tmp_path: Path) -> None:
    data = load_data("moons", count=200)
    values = recipe("cd", **{"training.on_failure": "stop"})
    with pytest.raises(
        TrainingStoppedError, match=r"stopped at step 40.*not finite.*newest checkpoint is step 20"
    ):
        train_recipe(
            values, tmp_path / "run", data=data, energy=Grenade(data.domain, 33), progress=False
        )
    assert events(tmp_path / "run")[-1]["event"] == "stop"


def test_a_run_that_cannot_be_saved_by_rolling_back_stops_with_falling_rates(
    tmp_path: Path,
) -> None:
    class Mine(Grenade):
        def forward(self, x: torch.Tensor, c: Any = None) -> torch.Tensor:
            value = self.inner(x, c)
            self.calls += self.training and torch.is_grad_enabled()
            bad = self.training and torch.is_grad_enabled() and self.calls > 30
            return value * float("nan") if bad else value

    data = load_data("moons", count=200)
    with pytest.raises(TrainingStoppedError):
        train_recipe(
            recipe("cd"), tmp_path / "run", data=data, energy=Mine(data.domain, 0), progress=False
        )
    acts = [e["event"] for e in events(tmp_path / "run")]
    assert acts.count("rollback") == Training().max_rollbacks
    rates = [row["rate"] for row in Run(tmp_path / "run").rows() if row.get("nonfinite")]
    assert rates == sorted(rates, reverse=True) and rates[0] > 7 * rates[-1]


def test_what_was_rolled_back_is_not_part_of_the_lineage() -> None:
    rows = [
        {"step": 10},
        {"step": 20},
        {"step": 30},
        {"step": 30, "event": "rollback", "to": 10},
        {"step": 20, "again": 1},
    ]
    assert lineage(rows) == [{"step": 10, "stale": True}, {"step": 20, "again": 1}]


def test_the_run_directory_says_what_was_done_without_a_clock_in_the_log(tmp_path: Path) -> None:
    train_recipe(recipe("moons"), tmp_path / "run", progress=False)
    rows = lineage(Run(tmp_path / "run").rows())
    assert [row["step"] for row in rows] == [10, 20, 30, 40, 50, 60]
    wanted = {
        "loss",
        "gap",
        "energy_data",
        "energy_model",
        "energy_std",
        "gradient_norm",
        "movement",
        "acceptance",
        "age",
    }
    assert all(wanted <= set(row) and "seconds" not in row for row in rows)
    began, *times = Run(tmp_path / "run").rows("time.jsonl")
    assert (began["step"], began["seconds"]) == (0, 0.0)
    assert began["precision"] in ("float32", "bfloat16") and began["reason"]
    assert [row["step"] for row in times] == [
        10,
        20,
        30,
        40,
        50,
        60,
    ]


def test_load_gives_the_averaged_energy_in_eval_mode(tmp_path: Path) -> None:
    trained = train_recipe(recipe("digits"), tmp_path / "run", progress=False)
    model = lowland.load(tmp_path / "run")
    energy, sampler, values = model.energy, model.sampler, model.recipe
    x = load_data("digits").test.x[:9]
    assert torch.equal(energy(x), trained(x)) and not energy.training
    assert sampler == lowland.Langevin(0.0072) and values["name"] == "digits"
    last = lowland.load(tmp_path / "run", weights="energy").energy
    assert not torch.equal(last(x), energy(x))


def bad(data: Dataset, **changes: Any) -> Dataset:
    import dataclasses

    return dataclasses.replace(data, **changes)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"energy.classes": 7}, "7 classes and digits 10"),
        ({"data.name": "checkerboard", "energy.classes": 10}, "no labels"),
        ({"training.device": "cuda"}, "here are cpu"),
        ({"energy.hidden": []}, "hidden has 0"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_is_written(
    more: dict[str, Any], message: str, tmp_path: Path
) -> None:
    if "cuda" in str(more) and torch.cuda.is_available():
        pytest.skip("this machine has CUDA")
    with pytest.raises(ValueError, match=message):
        train_recipe(recipe("digits", **more), tmp_path / "run", progress=False)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "wrong",
    [
        {"steps": 0},
        {"batch": 1},
        {"ema_decay": 1.0},
        {"betas": (0.9, 1.0)},
        {"checkpoint_every": 15},
        {"decay_fraction": 2.0},
    ],
)
def test_settings_that_mean_nothing_are_refused_in_words(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(wrong))} is"):
        Training(**wrong)


def test_the_rate_rises_stays_and_falls() -> None:
    s = Training(steps=100, warmup=10, decay_fraction=0.5, learning_rate=2.0)
    assert s.rate(0) == pytest.approx(0.2) and s.rate(30) == 2.0
    assert s.rate(75) == pytest.approx(1.0) and s.rate(99) == pytest.approx(0.04)


def test_ema_is_the_recurrence(tmp_path: Path) -> None:
    g = torch.Generator().manual_seed(0)
    module = torch.nn.Linear(2, 1)
    ema, expected = EMA(module, 0.9), [p.detach().clone() for p in module.parameters()]
    for step in range(1, 30):
        with torch.no_grad():
            for p in module.parameters():
                p.copy_(torch.randn(p.shape, generator=g))
        ema.update(module, step)
        d = min(0.9, (1 + step) / (10 + step))
        expected = [
            d * old + (1 - d) * new.detach()
            for old, new in zip(expected, module.parameters(), strict=True)
        ]
    for found, right in zip(ema.module.parameters(), expected, strict=True):
        torch.testing.assert_close(found, right)


def test_dequantised_and_noised_data_keep_their_law(tmp_path: Path) -> None:
    """Dequantised digits stay in the box, have 17 steps of width 1/17, and mean + half a step:
    z-scores over 16,000 draws.
    """
    values = recipe(
        "digits",
        **{"training.data_noise_std": 0.0, "training.box_margin": 0.0, "training.dequantise": True},
    ).plain()
    data = load_data("digits")
    session = Session(values, data)
    x = torch.cat([session.batch()[0] for _ in range(250)])
    assert float(x.min()) >= 0 and float(x.max()) <= 1
    residue = (x * 17) % 1
    z = (residue.mean() - 0.5) / (residue.std() / residue.numel() ** 0.5)
    assert abs(z) < 5
    levels = (x * 17).floor() / 16
    assert set(levels.flatten().mul(16).round().int().tolist()) <= set(range(17))
