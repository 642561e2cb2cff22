"""What defences are worth when the attack knows them: energies that purify, a JEM, and classifiers
trained to be robust.

    python -m benchmarks.quality.robustness mnist fashion-mnist
    python -m benchmarks.quality.robustness mnist --again denoise levels     (a row and a curve
    anew, all
                                                                     else as it was published)

MNIST at ε = 0.3 and Fashion-MNIST at ε = 0.1, largest difference, pixels in [0, 1], the first 500
test images (100 for purifiers, whose attacks cost a hundred times as much; the tables say n). Rows:
the same small classifier (`train_classifier`) bare and behind three purifiers (noise, and one jump
to
the clean point that the shipped energy E(x, σ) expects; Langevin and MAP on a noise-free energy
trained by persistent chains), the classifier of a JEM, and two nets of Robust, adversarially
trained and TRADES. A recipe that is not trained yet is trained (minutes each).

A number in the table is accuracy in %, under one attack, and in the column *minimum* under all of
them, image by image, with a 95 % interval. A model with noise is asked 10 times anew at what an
attack found; the share of right answers counts. No setting of any defence was chosen by these test
images. AutoAttack is the reference code (pyautoattack), where it is installed.

Attacks on models without noise: FGSM; PGD, 50 steps, 2 restarts; the same with the margin loss
(CW); aimed at three runners-up; Square, 500 queries; transfer from another net; AutoAttack's
APGD-CE and APGD-T, 50 steps, 9 targets (on MAP: 15 steps, 1 restart, 300 queries, no AutoAttack;
and past the purifier, BPDA). On models with noise, 15 steps each, margin loss: PGD through the
purifier (unrolled), past it (BPDA), both with slopes averaged over 20 calls (EOT); for the jump
also EOT with slopes of the guess of the network inside, which is not what purifies but near it;
transfer from the bare classifier; Square, 300 queries. Purifiers and their attacks are computed in
bfloat16.
"""

import argparse
import time
from collections.abc import Callable
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.machine import circumstances, machine
from benchmarks.quality import RESULTS
from benchmarks.record import read_record, write_record
from lowland import Run, load, load_data, read_recipe, train_recipe
from lowland.data import Split
from lowland.interop import AutoAttack
from lowland.metrics import auroc
from lowland.robustness import (
    PGD,
    AdaptivePGD,
    Attack,
    Square,
    TransferAttack,
    robust_accuracy,
    sanity_checks,
    standard_attacks,
)
from lowland.tasks import PurifiedClassifier, as_classifier
from lowland.training import ImageClassifier, train_classifier

EPSILON = {"mnist": 0.3, "fashion-mnist": 0.1}
SIGMA = {
    "mnist": 0.5,
    "fashion-mnist": 0.25,
}  # of the jump: about twice ε, as the perturbation shall drown in it
FEW, MANY = 100, 500
CALLS, EOT, CLIMB = 10, 20, 15
TRADES = {
    "objective.kind": "trades",
    "objective.beta": 3.0,
    "objective.steps": 3,
    "objective.step_size": 0.6,
    "training.steps": 1200,
}
WALK = {
    "method": "langevin",
    "steps": 4,
    "step_size": 0.1667,
    "temperature": 3e-4,
    "clip": 1.8,
}  # as the energy was trained
PULL = {"method": "map", "steps": 10, "step_size": 0.02, "clip": 30.0}  # and σ = ε
WORDS = {
    "bare": "undefended",
    "jem": "JEM",
    "denoise": "purified, one jump",
    "langevin": "purified, Langevin",
    "map": "purified, MAP",
    "robust": "adversarially trained",
    "trades": "TRADES",
}
WAYS = {"levels": "jump, levels", "walk": "Langevin, steps"}  # accuracy against the number of steps
ANCHORS = (
    "Published under AutoAttack, MNIST, ε = 0.3, large nets: Madry et al. 88.50, TRADES 92.81, "
    "Wong et al. (fast) 82.93."
)


class Half(nn.Module):
    """A model in bfloat16, its logits in float32."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return self.model(x).float()  # type: ignore[no-any-return]

    def with_identity_gradient(self) -> "Half":
        return Half(self.model.with_identity_gradient())


class Guess(nn.Module):
    """The jump with the guess of the network inside in place of the clean point of its energy:
    another way in for attackers.
    """

    def __init__(self, purified: PurifiedClassifier) -> None:
        super().__init__()
        self.energy, self.classifier, self.generator = (
            purified.energy,
            purified.classifier,
            purified.generator,
        )
        self.sigma = purified.settings["sigma"]

    def forward(self, x: Tensor) -> Tensor:
        noisy = x + self.sigma * torch.randn(x.shape, generator=self.generator)
        return self.classifier(self.energy.denoise(noisy, self.sigma))  # type: ignore[no-any-return]


def trained(name: str, changes: dict[str, Any] | None = None, path: str = "") -> Any:
    """The classifier of a recipe, trained now if it has not been."""
    place = Path("runs") / (path or name)
    if not (place / "recipe.json").exists() or not Run.open(place).steps():
        train_recipe(read_recipe(name, changes or {}), place, progress=False)
    return as_classifier(load(place).energy)


class Bench:
    """One data set: its images, the bare classifier, a surrogate, and every defence by name."""

    def __init__(self, data: str, few: int = FEW) -> None:
        self.few, self.data, self.epsilon, self.short = (
            few,
            data,
            EPSILON[data],
            data.removesuffix("-mnist"),
        )
        self.loaded = load_data(data)
        self.test: Split = self.loaded.test.take(slice(MANY))

    @property
    def generator(self) -> torch.Generator:
        """A new one for each row, so that a row measured alone is the row measured with others."""
        return torch.Generator().manual_seed(0)

    @cached_property
    def bare(self) -> ImageClassifier:
        return train_classifier(self.loaded.train, self.loaded.classes, steps=1000, seed=0)

    @cached_property
    def surrogate(self) -> ImageClassifier:
        return train_classifier(self.loaded.train, self.loaded.classes, steps=1000, seed=1)

    def scalar(self) -> Any:
        return load(f"runs/quality-{self.data}-pcd-0").energy

    def purifier(self, energy: Any, **settings: Any) -> Half:
        return Half(
            PurifiedClassifier(
                energy, self.bare, generator=torch.Generator().manual_seed(1), **settings
            )
        )

    def defence(self, name: str) -> Any:
        making: dict[str, Callable[[], Any]] = {
            "bare": lambda: self.bare,
            "jem": lambda: as_classifier(self.jem()),
            "denoise": lambda: self.purifier(
                load(self.data).energy, method="denoise", steps=1, sigma=SIGMA[self.data]
            ),
            "langevin": lambda: self.purifier(self.scalar(), **WALK),
            "map": lambda: self.purifier(self.scalar(), **PULL, sigma=self.epsilon),
            "robust": lambda: trained(f"{self.short}-robust"),
            "trades": lambda: (
                trained("mnist-trades")
                if self.data == "mnist"
                else trained("fashion-robust", TRADES, "fashion-trades")
            ),
        }
        return making[name]()

    def jem(self) -> Any:
        return load("mnist-jem" if self.data == "mnist" else "runs/fashion-jem").energy


def attacks_on(bench: Bench, name: str, model: Any) -> dict[str, Attack]:
    """By name of the defence: those without noise, those with, and the one purifier that draws
    none.
    """
    if name in ("denoise", "langevin"):
        more: dict[str, Any] = {"steps": CLIMB, "loss": "margin", "early_stop": False}
        guess = (
            {"guess-eot": TransferAttack(Half(Guess(model.model)), PGD(**more, eot=EOT))}
            if name == "denoise"
            else {}
        )
        return {
            "transfer": TransferAttack(bench.bare, PGD(steps=100, loss="margin")),
            "pgd": PGD(**more),
            "bpda": TransferAttack(model.with_identity_gradient(), PGD(**more)),
            "eot": PGD(**more, eot=EOT),
            "bpda-eot": TransferAttack(model.with_identity_gradient(), PGD(**more, eot=EOT)),
            **guess,
            "square": Square(300, early_stop=False),
        }
    if name == "map":
        past = model.with_identity_gradient()
        found = standard_attacks(steps=CLIMB, restarts=1, queries=300) | {
            "bpda": TransferAttack(past, PGD(steps=CLIMB, loss="margin"))
        }
        return found | {"transfer": TransferAttack(bench.bare, PGD(steps=100, loss="margin"))}
    found = standard_attacks(steps=50, restarts=2, queries=500) | {
        "transfer": TransferAttack(bench.surrogate, PGD(steps=100, loss="margin"))
    }
    return found | (
        {"autoattack": AutoAttack(("apgd-ce", "apgd-t"), steps=50)}
        if find_spec("pyautoattack")
        else {}
    )


def row(bench: Bench, name: str) -> dict[str, Any]:
    """All attacks on one defence, its sanity checks, and what one answer costs."""
    model, noisy = bench.defence(name), name in ("denoise", "langevin")
    some = bench.test.take(slice(bench.few if name in ("denoise", "langevin", "map") else MANY))
    assert some.y is not None
    calls = CALLS if noisy else 1
    with torch.no_grad():
        began = time.process_time()
        model(some.x[:FEW])
    each = (time.process_time() - began) / len(some.x[:FEW])
    began = time.process_time()
    found = robust_accuracy(
        model,
        some.x,
        some.y,
        bench.epsilon,
        attacks_on(bench, name, model),
        generator=bench.generator,
        evaluations=calls,
        batch=FEW,
        progress=lambda attack: print(
            bench.data, name, attack, f"{time.process_time() - began:.0f} s", flush=True
        ),
    )
    white = PGD(steps=CLIMB if noisy or name == "map" else 40, loss="margin", early_stop=not noisy)
    if name == "map":
        some = some.take(slice(50))
        checks = sanity_checks(
            model,
            some.x,
            some.y,
            bench.epsilon,
            white_box=white,
            black_box=Square(100),
            generator=bench.generator,
        )
    else:
        checks = sanity_checks(
            model,
            some.x,
            some.y,
            bench.epsilon,
            white_box=white,
            found=found,
            evaluations=max(calls // 4, 1),
            generator=bench.generator,
        )
    print(found, *checks, sep="\n", flush=True)
    return {
        **found.to_dict(),
        "milliseconds": 1000 * each,
        "cpu_seconds": time.process_time() - began,
        "sanity": [check._asdict() for check in checks],
    }


def steps_curve(bench: Bench, name: str) -> dict[str, Any]:
    """Accuracy against the number of steps of one of `WAYS`: clean, past the purifier, and through
    it.
    """
    some = bench.test.take(slice(bench.few))
    assert some.y is not None
    jump = {"method": "denoise", "sigma": SIGMA[bench.data]}
    energy, settings = (
        (load(bench.data).energy, jump) if name == "levels" else (bench.scalar(), WALK)
    )
    found: dict[str, Any] = {}
    for count in (1, 2, 4, 8) if name == "levels" else (0, 2, 4, 8, 16):
        model = bench.purifier(energy, **{**settings, "steps": count})
        more: dict[str, Any] = {"steps": 10, "loss": "margin", "early_stop": False}
        attacks = {
            "bpda": TransferAttack(model.with_identity_gradient(), PGD(**more)),
            "unrolled": PGD(**more),
        }
        result = robust_accuracy(
            model,
            some.x,
            some.y,
            bench.epsilon,
            attacks,
            generator=bench.generator,
            evaluations=5,
            batch=FEW,
        )
        found[str(count)] = {key: value.to_dict() for key, value in result.accuracy.items()} | {
            "n": len(some)
        }
        print(
            bench.data,
            name,
            count,
            {key: round(value.value, 3) for key, value in result.accuracy.items()},
            flush=True,
        )
    return found


def detection(bench: Bench) -> dict[str, Any]:
    """AUROC of an energy, clean images against images that fool, under an attack that knows it and
    one that does not.
    """
    some = bench.test.take(slice(2 * FEW))
    assert some.y is not None
    jem, generator = bench.jem(), bench.generator
    watched = {
        "energy by chains, watching the bare classifier": (bench.bare, bench.scalar()),
        "JEM, watching itself": (as_classifier(jem), jem),
    }
    found: dict[str, Any] = {}
    for name, (model, energy) in watched.items():
        attacks = {
            "PGD": PGD(40, loss="margin"),
            "adaptive": AdaptivePGD(60, restarts=2, energy=energy, weights=(0.1, 1.0)),
        }
        for kind, attack in attacks.items():
            points = torch.cat(
                [
                    attack(model, x, y, bench.epsilon, generator=generator)
                    for x, y in zip(some.x.split(FEW), some.y.split(FEW), strict=True)
                ]
            )
            with torch.no_grad():
                fooled = model(points).argmax(1) != some.y
                figure = auroc(energy(some.x).double(), energy(points[fooled]).double())
            found.setdefault(name, {})[kind] = {
                "fooled": float(fooled.double().mean()),
                "auroc": figure.to_dict(),
            }
            print(bench.data, name, kind, found[name][kind], flush=True)
    return found


def kept(place: Path, make: Callable[[], Any] | None) -> Any:
    """What was measured already, or is now; None if it was not and is not to be."""
    if not place.exists() and make is not None:
        write_record(place, make())
    return read_record(place) if place.exists() else None


def cells(one: dict[str, Any], names: list[str]) -> str:
    low, high = one["interval"]
    shown = [
        f"{100 * one['accuracy'][name]['value']:.1f}" if name in one["accuracy"] else "–"
        for name in ["clean", *names]
    ]
    least = (
        f"**{100 * one['accuracy']['minimum']['value']:.1f}** [{100 * low:.1f}, {100 * high:.1f}]"
    )
    return " | ".join([*shown, least, f"{one['count']}", f"{one['milliseconds']:.2f}"])


def page(found: dict[str, Any]) -> list[str]:
    lines: list[str] = []
    for data, rows in found.items():
        names = list(
            dict.fromkeys(name for one in rows["rows"].values() for name in one["accuracy"])
        )
        names = [name for name in names if name not in ("clean", "minimum")]
        lines += [
            f"## {data}, ε = {EPSILON[data]}",
            "",
            "| defence | " + " | ".join(["clean", *names, "minimum", "n", "ms per image"]) + " |",
        ]
        lines += ["|---|" + "---:|" * (len(names) + 4)]
        lines += [f"| {WORDS[name]} | {cells(one, names)} |" for name, one in rows["rows"].items()]
        lines += ["", ANCHORS] if data == "mnist" else []
        if "guess-eot" not in rows["rows"].get("denoise", {"accuracy": ["guess-eot"]})["accuracy"]:
            lines += [
                "",
                "(The jump of this set, here and below, was still to the guess of the network "
                "inside; see `--again`.)",
            ]
        lines += ["", f"### {data}: sanity checks", ""]
        for name, one in rows["rows"].items():
            checks = [
                f"{'holds' if c['holds'] else '**FAILS**'}: {c['name']} ({c['seen']})"
                for c in one["sanity"]
            ]
            lines.append(f"- {WORDS[name]}. " + "; ".join(checks) + ".")
        if not rows["steps"]:
            lines += [
                "",
                "(Other rows and tables of this set are not measured yet; the command adds them.)",
                "",
            ]
            continue
        lines += ["", f"### {data}: accuracy against the number of purification steps", ""]
        lines += [
            "| purifier | steps | clean | BPDA | unrolled | n |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for way, counts in rows["steps"].items():
            for count, got in counts.items():
                shown = " | ".join(
                    f"{100 * got[k]['value']:.1f}" for k in ("clean", "bpda", "unrolled")
                )
                lines.append(f"| {way} | {count} | {shown} | {got.get('n', FEW)} |")
        lines += [
            "",
            "Attacks of 10 steps without averaged slopes, 5 answers each: a standard error is up "
            "to 5 points at n = 100.",
            "Where a column rises with the steps, this short attack got weaker on a longer and "
            "noisier chain; the defence",
            "need not have got stronger.",
            "",
        ]
        lines += [f"### {data}: the energy as a detector of attacks", ""]
        lines += ["| energy | attack | fooled, % | AUROC |", "|---|---|---:|---:|"]
        for name, kinds in rows["detection"].items():
            for kind, got in kinds.items():
                figure = f"{got['auroc']['value']:.3f} ± {got['auroc']['error']:.3f}"
                lines.append(f"| {name} | {kind} | {100 * got['fooled']:.1f} | {figure} |")
        lines.append("")
    return lines


def published() -> dict[str, Any]:
    """By data set and by the name of the part, what the page says now."""
    place = RESULTS / "robustness.json"
    sets = read_record(place, {"found": {}})["found"]
    return {
        data: {
            **one["rows"],
            **{name: one["steps"][way] for name, way in WAYS.items() if way in one["steps"]},
            **({"detection": one["detection"]} if one["detection"] else {}),
        }
        for data, one in sets.items()
    }


def measured(data: str, rows: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """Everything of one data set, or what is on the page with parts of it measured anew."""
    place = Path("runs/robustness") / data
    before = published().get(data, {}) if given.again is not None else {}
    for old in place.glob("*.json"):
        if given.fresh or old.stem in (given.again or ()):
            old.unlink()
    bench = Bench(data, given.few)
    makes: dict[str, Callable[[], Any]] = {
        name: lambda name=name: row(bench, name) for name in rows
    }  # type: ignore[misc]
    makes |= {name: lambda name=name: steps_curve(bench, name) for name in WAYS}  # type: ignore[misc]
    makes |= {"detection": lambda: detection(bench)}
    again = makes if given.again is None else given.again
    found = {
        name: kept(place / f"{name}.json", None if given.finished else make)
        if name in again
        else before.get(name)
        for name, make in makes.items()
    }
    return {
        "rows": {name: found[name] for name in rows if found[name]},
        "steps": {way: found[name] for name, way in WAYS.items() if found[name]},
        "detection": found["detection"] or {},
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", nargs="*", default=list(EPSILON))
    parser.add_argument(
        "--rows", nargs="*", default=list(WORDS), choices=list(WORDS), help="defences to measure"
    )
    parser.add_argument(
        "--fresh", action="store_true", help="measure anew what runs/robustness holds already"
    )
    parser.add_argument(
        "--finished",
        action="store_true",
        help="measure nothing; leave out what runs/robustness does not hold",
    )
    parser.add_argument(
        "--again",
        nargs="*",
        choices=[*WORDS, *WAYS, "detection"],
        help="these anew, all else as published",
    )
    parser.add_argument("--few", type=int, default=FEW, help="images that attacks on purifiers get")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = {data: measured(data, given.rows, given) for data in given.data}
    if given.again is not None:
        place = RESULTS / "robustness.json"
        found = (read_record(place, {"found": {}})["found"]) | found
    command = f"python -m benchmarks.quality.robustness {' '.join(found)}"
    seconds = sum(one["cpu_seconds"] for rows in found.values() for one in rows["rows"].values())
    about = circumstances(command) | {"cpu_seconds": seconds}
    write_record(RESULTS / "robustness.json", about | {"found": found})
    words = (__doc__ or "").split("\n\n", 2)[2].splitlines()
    head = [
        "# What defences are worth when the attack knows them",
        "",
        f"`{command}`, {about['date']}, seed 0",
        "",
        *words,
        "",
    ]
    text = "\n".join(
        [*head, *page(found), f"Machine: {machine()['cpu']}, 1 thread, torch {torch.__version__}."]
    )
    (RESULTS / "robustness.md").write_text(text + "\n")
    print("\n".join(page(found)))


if __name__ == "__main__":
    main()
