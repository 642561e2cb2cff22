"""The minimum over attacks, sanity checks that tell a defence from a curtain, the reference
attacks, the command.
"""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import lowland
from lowland import box, cli, commands, load
from lowland.evaluation.robustness import measure_robustness
from lowland.nets import ConvNet
from lowland.robustness import (
    PGD,
    Robustness,
    SanityCheck,
    Square,
    robust_accuracy,
    sanity_checks,
    standard_attacks,
)
from lowland.robustness.accuracy import share_correct, wilson
from lowland.tasks import PurifiedClassifier
from lowland.testing import seeded


class Band(nn.Module):
    """Four classes by the quadrant of two means of an image: smooth, and easy to attack."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x[:, :, :4].flatten(1).mean(1) - 0.5, x[:, :, 4:].flatten(1).mean(1) - 0.5
        return 30 * torch.stack([a + b, a - b, -a + b, -a - b], 1)


@pytest.fixture(scope="module")
def points() -> tuple[Tensor, Tensor]:
    x = torch.rand(200, 1, 8, 8, generator=seeded(0))
    return x, Band()(x).argmax(1)


def fixed(share: float) -> Any:
    """An attack that fools the first rows of every batch by moving them to the other side."""

    def attack(
        model: Any, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        found = x.clone()
        found[: round(share * len(x))] = 1 - found[: round(share * len(x))]
        return found

    return attack


# ------------------------------------------------------------------------- the minimum over attacks


def test_a_row_must_survive_every_attack(points: tuple[Tensor, Tensor]) -> None:
    """Two attacks that fool half of the rows each, not the same half, leave none."""

    def second(
        model: Any, x: Tensor, labels: Tensor, epsilon: float, *, generator: torch.Generator
    ) -> Tensor:
        return torch.cat([x[:100], 1 - x[100:]])

    x, y = points
    found = robust_accuracy(
        Band(), x, y, 1.0, {"first": fixed(0.5), "second": second}, generator=seeded(), batch=200
    )
    shares = {name: estimate.value for name, estimate in found.accuracy.items()}
    assert shares == {"clean": 1.0, "first": 0.5, "second": 0.5, "minimum": 0.0}
    assert found.interval[0] == 0.0 and 0.01 < found.interval[1] < 0.03


def test_what_is_wrong_before_any_attack_is_not_robust(points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    y = y.clone()
    y[:50] = (y[:50] + 1) % 4
    found = robust_accuracy(Band(), x, y, 0.0, {"none": PGD(steps=1)}, generator=seeded())
    assert found.accuracy["minimum"].value == 0.75 and found.accuracy["minimum"].error > 0


def test_batches_do_not_matter(points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    a, b = (
        robust_accuracy(
            Band(), x, y, 0.02, {"it": PGD(random_start=False)}, generator=seeded(), batch=n
        )
        for n in (200, 33)
    )
    assert torch.equal(a.correct["it"], b.correct["it"])


def test_results_merge_print_and_become_json(points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    one = robust_accuracy(
        Band(), x, y, 0.02, {"a": PGD(steps=1, random_start=False)}, generator=seeded()
    )
    two = robust_accuracy(Band(), x, y, 0.02, {"b": PGD()}, generator=seeded())
    both = one.merge(two)
    assert list(both.correct) == ["clean", "a", "b"]
    assert torch.equal(both.minimum, torch.minimum(one.minimum, two.minimum))
    values = json.loads(json.dumps(both.to_dict()))
    assert (
        values["accuracy"]["minimum"]["value"] == both.accuracy["minimum"].value
        and values["count"] == 200
    )
    assert "minimum" in str(both) and both.majority.value == both.accuracy["minimum"].value
    with pytest.raises(ValueError, match=r";.*;"):
        one.merge(robust_accuracy(Band(), x[:50], y[:50], 0.02, {"b": PGD()}, generator=seeded()))


def test_an_interval_covers() -> None:
    """Wilson's interval of 30 trials covers a probability of 0.1 in 95 ± 3 of 100 cases."""
    drawn = (torch.rand(4000, 30, generator=seeded(0)) < 0.1).double().mean(1)
    covered = (
        sum(low <= 0.1 <= high for low, high in (wilson(float(share), 30) for share in drawn))
        / 4000
    )
    assert 0.92 < covered < 0.985


@pytest.mark.parametrize(
    "change",
    [
        {"attacks": {}},
        {"attacks": [PGD()]},
        {"norm": "1"},
        {"evaluations": 1.5},
        {"attacks": {"clean": PGD()}},
        {"attacks": {"minimum": PGD()}},
        {"evaluations": 0},
        {"batch": 0},
        {"epsilon": -0.1},
        {"labels": torch.full((200,), 4)},
        {"x": torch.full((200, 1, 8, 8), 2.0)},
        {"attacks": {"far": fixed(0.5)}},
        {"attacks": {"cut": lambda model, x, y, e, *, generator: x[:, :, 1:]}},
        {"attacks": {"nan": lambda model, x, y, e, *, generator: x * float("nan")}},
    ],
)
def test_bad_input_is_refused(points: tuple[Tensor, Tensor], change: dict[str, Any]) -> None:
    given: dict[str, Any] = {
        "x": points[0],
        "labels": points[1],
        "epsilon": 0.1,
        "attacks": {"it": PGD(steps=1)},
        **change,
    }
    with pytest.raises(ValueError, match=r";.*;"):
        robust_accuracy(
            Band(),
            given.pop("x"),
            given.pop("labels"),
            given.pop("epsilon"),
            given.pop("attacks"),
            generator=seeded(),
            **given,
        )


# ------------------------------------------------------------------------------------ sanity checks


def held(checks: list[SanityCheck]) -> dict[str, bool]:
    return {check.name: check.passed for check in checks}


def test_checks_need_walls(points: tuple[Tensor, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"no bounds; .*; pass two"):
        sanity_checks(Band(), *points, 0.03, bounds=None, generator=seeded())  # type: ignore[arg-type]


def test_an_honest_classifier_passes_all_checks(points: tuple[Tensor, Tensor]) -> None:
    checks = sanity_checks(Band(), *points, 0.03, black_box=Square(100), generator=seeded(0))
    assert len(checks) == 4 and all(held(checks).values()), "\n".join(map(str, checks))
    assert all(str(check).startswith("holds") and "%" in check.evidence for check in checks)


class Shy(Band):
    """The slope is cut off: an attacker who follows it stays where he is, and the classifier is no
    more robust for it.
    """

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return logits.detach() + 0 * x.flatten(1).sum(1, keepdim=True)


def test_a_curtain_fails_them(points: tuple[Tensor, Tensor]) -> None:
    checks = held(
        sanity_checks(
            Shy(),
            *points,
            0.03,
            black_box=Square(200),
            white_box=PGD(random_start=False),
            generator=seeded(0),
        )
    )
    assert (
        not checks["the unbounded attack succeeds"]
        and not checks["black box never beats white box"]
    )
    assert not checks[
        "accuracy falls with epsilon"
    ]  # it is the same at every size, which is no fall


class Half(Band):
    """Slopes hidden from every other image, by the brightness of its last pixel."""

    def forward(self, x: Tensor) -> Tensor:
        logits = super().forward(x)
        return torch.where(x[:, 0, -1, -1:].detach() > 0.5, logits.detach(), logits)


def test_a_curtain_in_front_of_every_other_image_fails_them_too(
    points: tuple[Tensor, Tensor],
) -> None:
    """Accuracy does fall, by half; it does not fall below that of a guess."""
    checks = held(
        sanity_checks(
            Half(),
            *points,
            0.03,
            black_box=Square(50),
            white_box=PGD(random_start=False),
            generator=seeded(0),
        )
    )
    assert not checks["accuracy falls with epsilon"] and not checks["the unbounded attack succeeds"]


def test_steps_that_help_the_defender_are_seen(points: tuple[Tensor, Tensor]) -> None:
    class Tiring(PGD):
        def project(self, x: Tensor, at: Tensor, epsilon: float) -> Tensor:
            return super().project(x, at if self.steps < 10 else x, epsilon)

    checks = held(
        sanity_checks(
            Band(),
            *points,
            0.03,
            black_box=Square(100),
            white_box=Tiring(random_start=False),
            generator=seeded(0),
        )
    )
    assert not checks["more steps never help the defender"]


def test_a_size_that_helps_the_defender_is_seen(points: tuple[Tensor, Tensor]) -> None:
    class Overreaching(PGD):
        def project(self, x: Tensor, at: Tensor, epsilon: float) -> Tensor:
            return super().project(x, at if epsilon <= 0.03 else x, epsilon)

    checks = held(
        sanity_checks(
            Band(),
            *points,
            0.03,
            black_box=Square(100),
            white_box=Overreaching(random_start=False),
            generator=seeded(0),
        )
    )
    assert not checks["accuracy falls with epsilon"] and not checks["the unbounded attack succeeds"]


def test_a_purifier_that_does_nothing_is_worth_nothing(points: tuple[Tensor, Tensor]) -> None:
    x, y = points
    flat = lowland.Function(lambda x: 0 * x.flatten(1).sum(1), box(0.0, 1.0, 1, 8, 8))
    model = PurifiedClassifier(
        flat, Band(), generator=seeded(1), steps=2, step_size=0.01, temperature=0.0
    )
    bare = robust_accuracy(Band(), x, y, 0.03, {"pgd": PGD(random_start=False)}, generator=seeded())
    behind = robust_accuracy(
        model, x, y, 0.03, {"pgd": PGD(random_start=False)}, generator=seeded()
    )
    assert torch.equal(bare.minimum, behind.minimum) and bare.accuracy["minimum"].value < 0.7


def test_answers_are_shares_of_fresh_calls() -> None:
    noise = seeded(0)
    x = torch.zeros(20, 1, 8, 8)

    def coin(x: Tensor) -> Tensor:
        return torch.rand(len(x), 2, generator=noise)

    shares = share_correct(coin, x, torch.zeros(20, dtype=torch.long), evaluations=400, batch=7)
    assert shares.shape == (20,) and abs(float(shares.mean()) - 0.5) < 5 * 0.5 / 8000**0.5
    assert len(set(shares.tolist())) > 3


# ---------------------------------------------------------------------------- the reference attacks


def test_the_reference_attacks_agree_with_ours(points: tuple[Tensor, Tensor]) -> None:
    pytest.importorskip("pyautoattack")
    from lowland.interop.autoattack import AutoAttack

    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.Tanh(), nn.Linear(32, 5))
    x = points[0]
    y = net(x).argmax(1)
    attacks = {**standard_attacks(steps=40, queries=300), "aa": AutoAttack(steps=30, queries=300)}
    before = torch.get_rng_state()
    found = robust_accuracy(net, x, y, 0.02, attacks, generator=seeded(0))
    assert torch.equal(before, torch.get_rng_state())
    ours = (
        torch.stack([share for name, share in found.correct.items() if name != "aa"]).amin(0).mean()
    )
    theirs = found.accuracy["aa"].value
    assert 0.05 < theirs < 0.95 and abs(float(ours) - theirs) < 0.02
    assert all(p.grad is None and p.requires_grad for p in net.parameters())


# --------------------------------------------------------------------------------- the command line


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("robust") / "run"
    lowland.train_recipe(
        lowland.read_recipe(
            "digits-robust", {"training.steps": 60, "training.checkpoint_every": 60}
        ),
        path,
        progress=False,
    )
    return path


def test_a_run_is_attacked(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "it.json"
    said = commands.attack(run, epsilon=0.1, count=20, steps=4, out=out, quiet=True)
    found, checks = measure_robustness(load(run), 0.1, count=20, steps=4)
    assert said == "\n".join(map(str, [found, *checks]))
    assert (
        isinstance(found, Robustness)
        and set(found.correct) == {"clean", *standard_attacks()}
        and len(checks) == 4
    )
    assert found.accuracy["minimum"].value <= min(value.value for value in found.accuracy.values())
    written = json.loads((tmp_path / "new" / "it.json").read_text())
    assert (
        written["accuracy"]["minimum"] == found.accuracy["minimum"].to_dict()
        and len(written["sanity"]) == 4
    )


def test_a_run_behind_a_purifier_is_attacked_by_those_who_know(run: Path) -> None:
    found, _ = measure_robustness(
        load(run),
        0.1,
        count=6,
        steps=2,
        attacks=["transfer", "bpda", "eot"],
        purifier=load("digits"),
    )
    assert set(found.correct) == {"clean", "transfer", "bpda", "eot"} and found.evaluations == 10


def test_the_command_prints_the_minimum_and_the_checks(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(
        [
            "attack",
            str(run),
            "--count",
            "20",
            "--epsilon",
            "0.1",
            "--attacks",
            "fgsm,pgd",
            "--steps",
            "5",
            "--quiet",
        ]
    )
    said = capsys.readouterr().out
    assert all(
        word in said
        for word in ("clean", "fgsm", "pgd", "minimum", "more steps never help the defender")
    )


@pytest.mark.parametrize(
    "options", [["--attacks", "fgms"], ["--epsilon", "-0.1"], ["--count", "0"], ["--steps", "0"]]
)
def test_mistakes_get_one_sentence(
    run: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(["attack", str(run), "--quiet", *options])
    assert stopped.value.code == 2 and capsys.readouterr().err.count(";") >= 2


def test_a_run_that_does_not_classify_is_refused() -> None:
    for name in ("mnist", "moons"):
        if name not in lowland.list_pretrained():
            continue
        with pytest.raises(ValueError, match=r";.*;"):
            commands.attack(name, quiet=True)


def test_an_energy_with_classes_is_attacked_as_it_is() -> None:
    torch.manual_seed(0)
    energy = ConvNet(
        box(0.0, 1.0, 1, 8, 8),
        channels=(4,),
        kernels=(3,),
        strides=(2,),
        hidden=8,
        classes=3,
        scale=30.0,
    )
    from lowland.tasks import as_classifier

    x = torch.rand(60, 1, 8, 8, generator=seeded(0))
    y = as_classifier(energy)(x).argmax(1)
    found = robust_accuracy(as_classifier(energy), x, y, 0.2, {"pgd": PGD()}, generator=seeded())
    assert found.accuracy["clean"].value == 1.0 and found.accuracy["pgd"].value < 0.7


# ------------------------------------------------------------------------------------ the benchmark


def test_rows_are_measured_again_and_the_others_stay_on_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from benchmarks.quality import robustness as page

    def one(value: float) -> dict[str, Any]:
        found = robust_accuracy(
            Band(),
            torch.full((4, 1, 8, 8), value),
            torch.zeros(4).long(),
            0.0,
            {"pgd": PGD(1)},
            generator=seeded(),
        )
        return {**found.to_dict(), "milliseconds": 1.0, "cpu_seconds": 1.0, "sanity": []}

    curve = {"1": {key: {"value": 0.25} for key in ("clean", "bpda", "unrolled")}}
    old = {
        "rows": {name: one(0.9) for name in ("bare", "denoise")},
        "steps": {"Langevin, steps": curve},
        "detection": {},
    }
    (tmp_path / "robustness.json").write_text(
        json.dumps({"found": {"mnist": old, "fashion-mnist": old}})
    )
    monkeypatch.setattr(page, "RESULTS", tmp_path)
    monkeypatch.setattr(page, "Bench", lambda data, few: data)
    monkeypatch.setattr(page, "row", lambda bench, name: one(0.1))
    monkeypatch.setattr("sys.argv", ["robustness", "mnist", "--again", "denoise"])
    monkeypatch.chdir(tmp_path)
    page.main()
    new = json.loads((tmp_path / "robustness.json").read_text())["found"]
    assert new["fashion-mnist"] == old and new["mnist"]["rows"]["bare"] == old["rows"]["bare"]
    assert (
        list(new["mnist"]["rows"]) == ["bare", "denoise"] and new["mnist"]["steps"] == old["steps"]
    )
    clean = [
        new[data]["rows"]["denoise"]["accuracy"]["clean"]["value"]
        for data in ("fashion-mnist", "mnist")
    ]
    assert (
        clean == [1.0, 0.0]
        and "| purified, one jump | 0.0 |" in (tmp_path / "robustness.md").read_text()
    )
