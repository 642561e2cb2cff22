"""What a trained run is worth, measured on its test part: samples, detection, restoration.

`evaluate` writes evaluation.json (figures) and evaluation.safetensors (the arrays behind the pictures) into the run
directory; the report reads those files and nothing else. Every figure has a standard error where one is known, and every
figure that could flatter stands beside what it must be compared with.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lowland.data import Dataset, load_data
from lowland.domain import Domain
from lowland.energy import Energy, energy_values, value_and_score
from lowland.metrics import class_entropy, energy_gap, false_alarms, frechet_distance, mean, mmd, nearest, psnr, share
from lowland.registry import build
from lowland.run import Run, load
from lowland.samplers import run_chains
from lowland.tasks import Detector, Identity, Mask, bind_noise, even_labels, generate, restore
from lowland.tasks.generate import Generated
from lowland.training import load_recipe_data
from lowland.training.judge import Judge, train_judge

SHOWN = 64  # pictures kept for grids


@dataclass
class Findings:
    """What an evaluation gathers: figures for evaluation.json, arrays for evaluation.safetensors, notes."""

    figures: dict[str, Any] = field(default_factory=dict)
    arrays: dict[str, Tensor] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


@dataclass
class Subject:
    """A trained run with everything needed to examine it. `energy` may take labels; `marginal` is a function of x alone.

    The data set is loaded when first asked for: sampling, scoring and restoring do without it.
    """

    run: Run
    recipe: dict[str, Any]
    energy: Energy
    marginal: Energy
    sampler: Any
    given: Dataset | None = None

    @cached_property
    def data(self) -> Dataset:
        """The data set that the run was trained on."""
        return self.given or load_recipe_data(self.recipe)

    @property
    def shape(self) -> tuple[int, ...]:
        """The event shape."""
        return self.energy.domain.shape

    def standardised(self, x: Tensor) -> Tensor:
        """Values as they stand in a file, as the energy sees them."""
        about = self.run.read_json("data.json")
        return (x - x.new_tensor(about["mean"])) / x.new_tensor(about["scale"]) if about["mean"] else x

    def original(self, x: Tensor) -> Tensor:
        """The inverse of `standardised`."""
        about = self.run.read_json("data.json")
        return x * x.new_tensor(about["scale"]) + x.new_tensor(about["mean"]) if about["mean"] else x

    @property
    def sigmas(self) -> list[float] | None:
        """Noise levels of a run trained by denoising, else None."""
        return self.recipe["objective"].get("sigmas")

    @property
    def classes(self) -> int:
        """Classes that the energy can be asked for; 0 for none."""
        return getattr(self.energy, "classes", 0)


def subject(run: Run, data: Dataset | None = None) -> Subject:
    """Load a run for examination, with averaged weights."""
    energy, sampler, recipe = load(run.path)
    marginal = bind_noise(energy, recipe["objective"].get("sigmas"))
    return Subject(run, recipe, energy, marginal, sampler, data)


def draw(
    s: Subject,
    count: int,
    generator: torch.Generator,
    *,
    labels: Tensor | None = None,
    frames: int = 0,
    progress: Callable[[int], object] | None = None,
) -> Generated:
    """Samples as the recipe's [generation] says, labels dealt evenly unless given."""
    how = s.recipe["generation"]
    labels = labels if labels is not None else even_labels(count, s.classes)
    start = s.energy.domain.draw(count, generator)
    if how["start"] == "chains":
        start, labels = _from_chains(s, count, generator, labels)
    return generate(
        s.energy,
        s.sampler,
        start,
        how["steps"],
        generator=generator,
        labels=labels,
        temperatures=how["temperatures"],
        sigmas=s.sigmas,
        jump_sigma=how["jump"],
        frames=frames,
        progress=progress,
    )


def _from_chains(s: Subject, count: int, generator: torch.Generator, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Starting points among the training chains, old ones only, of the classes asked for."""
    saved = s.run.load_checkpoint().tensors.get("chains")
    if saved is None:
        raise ValueError(
            f"{s.run.path} kept no chains; generation.start = 'chains' needs an objective that does (PCD); use 'noise'"
        )
    x, age = saved["x"], saved["age"]
    usable = age >= age.float().median()
    if labels is None:
        pool = usable.nonzero().flatten()
        chosen = pool[torch.randint(len(pool), (count,), generator=generator)]
        return x[chosen], None
    classes = saved["labels"]
    chosen = torch.empty_like(labels)
    for label in labels.unique():
        pool = (usable & (classes == label)).nonzero().flatten()
        wanted = labels == label
        chosen[wanted] = pool[torch.randint(len(pool), (int(wanted.sum()),), generator=generator)]
    return x[chosen], labels


def prior_bank(s: Subject) -> Tensor | None:
    """Draws of the prior for restoration, made once and kept in the run: chains of training walked on with averaged weights.

    Every 50 steps their states are added until the recipe's [restoration] bank is full. None if the recipe asks for none.
    """
    count = s.recipe["restoration"].get("bank", 0)
    if not count:
        return None
    checkpoint = s.run.load_checkpoint()
    if (s.run.path / "bank.safetensors").exists():
        kept = s.run.read_tensors("bank.safetensors")
        if len(kept["x"]) == count and int(kept["step"]) == checkpoint.step:
            return kept["x"]
    saved = checkpoint.tensors.get("chains")
    if saved is None:
        raise ValueError(f"{s.run.path} kept no chains; restoration.bank needs an objective that does (PCD); set it to 0")
    old = saved["age"] >= saved["age"].float().median()
    x, energy = saved["x"][old], s.energy.given(saved["labels"][old]) if s.classes else s.energy
    walked: list[Tensor] = []
    generator = torch.Generator().manual_seed(int(s.recipe["seed"]) + 3_000_017)  # its own: made or read, the rest is the same
    while sum(map(len, walked)) < count:
        x = run_chains(energy, s.sampler, x, 50, generator=generator).x
        walked.append(x)
    bank = torch.cat(walked)[:count]
    s.run.write_tensors("bank.safetensors", {"x": bank, "step": torch.tensor(checkpoint.step)})
    return bank


def evaluate_run(run: Run, data: Dataset | None = None, say: Callable[[str], object] = lambda _: None) -> dict[str, Any]:
    """Examine a run, write what was found into it, return the figures. `say` hears what is being done."""
    began = time.monotonic()
    s, found = subject(run, data), Findings()
    generator = torch.Generator().manual_seed(int(s.recipe["seed"]) + 2_000_003)
    judge = _judge(s, found, say)
    say("drawing samples")
    made = _samples(s, found, generator, judge)
    say("measuring detection")
    _detection(s, found, generator, made.x)
    restoration = s.recipe.get("restoration")
    if restoration and restoration["count"] and len(s.data.domain.shape) == 3:
        say("restoring test images")
        _restoration(s, found, generator, judge)
    if s.data.domain.shape == (2,):
        _landscape(s, found)
    if s.data.note:
        found.notes.append(s.data.note)
    found.figures |= {"seconds": round(time.monotonic() - began, 1), "notes": found.notes}
    run.write_tensors("evaluation.safetensors", found.arrays)
    run.write_json("evaluation.json", found.figures)
    return found.figures


def _judge(s: Subject, found: Findings, say: Callable[[str], object]) -> Judge | None:
    steps = s.recipe["evaluation"]["judge_steps"]
    if not steps or not s.data.classes or len(s.data.domain.shape) != 3:
        return None
    say("training a judge on real images")
    return train_judge(s.data.train, s.data.classes, steps=steps, seed=0)


def _samples(s: Subject, found: Findings, generator: torch.Generator, judge: Judge | None) -> Generated:
    how, count = s.recipe["generation"], s.recipe["evaluation"]["samples"]
    made = draw(s, count, generator)
    film = draw(s, 8 if len(s.shape) == 3 else 300, generator, frames=11)
    test = s.data.test.x[: max(count, 500)]
    near, which = nearest(made.x, s.data.train.x)
    near_test, _ = nearest(test, s.data.train.x)
    edge = near_test.quantile(0.01)
    flat = [part.flatten(1) for part in (made.x, test[:count])]
    low = energy_values(s.marginal, test)
    figures: dict[str, Any] = {
        "count": count,
        "start": how["start"],
        "steps": how["steps"],
        "sampler": repr(s.sampler),
        "neighbour_ratio": float(near.median() / near_test.median()),
        "copies": int((near < edge).sum()),
        "expected_copies": 0.01 * count,
        "mmd": mmd(flat[0], flat[1]).to_dict(),
        "frechet": {"value": frechet_distance(flat[0], flat[1])},
        "gap": energy_gap(low, energy_values(s.marginal, made.x)).to_dict(),
    }
    if judge is not None:
        figures |= _judged(s, found, judge, made)
    found.figures["samples"] = figures
    found.arrays |= {
        "samples": made.x,
        "data": s.data.train.x[:SHOWN],
        "neighbour_samples": made.x[:16],
        "neighbour_of": s.data.train.x[which[:16]],
        "distances_samples": near,
        "distances_test": near_test,
    }
    if film.film is not None:
        found.arrays |= {"film": film.film, "film_steps": torch.tensor(film.film_steps)}
    if len(s.data.domain.shape) == 1:
        found.arrays["data"] = s.data.train.x[:1000]
    return made


def _judged(s: Subject, found: Findings, judge: Judge, made: Generated) -> dict[str, Any]:
    """What a classifier of real images says of the samples."""
    test = s.data.test
    assert test.y is not None
    sure_test, called_test = judge.probabilities(test.x).max(1)
    right = called_test == test.y
    sure, called = judge.probabilities(made.x).max(1)
    found.arrays["samples_label"] = called
    figures = {
        "judge_test_accuracy": float(right.float().mean()),
        "confident_test": share(int((sure_test > 0.9).sum()), len(sure_test)).to_dict(),
        "confident": share(int((sure > 0.9).sum()), len(sure)).to_dict(),
        "class_entropy": class_entropy(called, s.data.classes),
        "class_counts": torch.bincount(called, minlength=s.data.classes).tolist(),
        "class_names": list(s.data.class_names),
    }
    if made.labels is not None:
        figures["agreement"] = share(int((called == made.labels).sum()), len(called)).to_dict()
    return figures


def shifted(x: Tensor) -> tuple[str, Tensor]:
    """Data moved off their place, as a first kind of outlier: images turned by a quarter, vectors stretched by half."""
    return ("turned 90°", x.rot90(1, (2, 3))) if x.dim() == 4 and x.shape[2] == x.shape[3] else ("stretched 1.5×", 1.5 * x)


def _detection(s: Subject, found: Findings, generator: torch.Generator, samples: Tensor) -> None:
    nominal, test = s.recipe["evaluation"]["nominal"], s.data.test.x
    detector = Detector.calibrate(s.marginal, s.data.calibration.x, nominal)
    s.run.write_tensors("calibration.safetensors", {"energies": detector.calibration})
    rate = detector.check(test)
    name, moved = shifted(test)
    outliers = {"noise": s.data.domain.draw(len(test), generator), name: moved, **_other_sets(s, found)}
    figures: dict[str, Any] = {
        "nominal": nominal,
        "calibration_count": len(s.data.calibration),
        "false_alarm": {"value": rate.value, "low": rate.low, "high": rate.high, "count": rate.points},
        "outliers": {},
    }
    found.arrays |= {
        "energies/train": energy_values(s.marginal, s.data.train.x[:5000]),
        "energies/test": energy_values(s.marginal, test),
        "energies/samples": energy_values(s.marginal, samples),
    }
    for label, x in outliers.items():
        found.arrays[f"energies/{label}"] = energy_values(s.marginal, x)
        compared = detector.compare(test, x)
        figures["outliers"][label] = {k: v.to_dict() for k, v in compared.items()} | {"count": len(x)}
    p, grid = detector.p_values(test), torch.linspace(0.02, 0.5, 25)
    rates = [false_alarms(p, float(g), len(s.data.calibration)) for g in grid]
    for key, column in (("nominal", 0), ("empirical", 1), ("low", 2), ("high", 3)):
        found.arrays[f"alarm_{key}"] = torch.tensor([float(r[column]) for r in rates])
    found.figures["detection"] = figures


def _other_sets(s: Subject, found: Findings) -> dict[str, Tensor]:
    """Test parts of other data sets that the recipe names, where they are at hand and of the same shape."""
    sets = {}
    for name in s.recipe["evaluation"]["outliers"]:
        try:
            x = load_data(name, root=s.recipe["data"].get("root"), download=False).test.x
        except ValueError as error:
            found.notes.append(f"The outlier set {name} was left out: {str(error).splitlines()[0]}")
            continue
        if tuple(x.shape[1:]) == s.data.domain.shape:
            sets[name] = x
        else:
            found.notes.append(f"The outlier set {name} was left out: its images have another shape.")
    return sets


def lower_half_hidden(domain: Domain) -> Tensor:
    """The mask of the standard inpainting task: the upper half is known."""
    known = torch.ones(domain.shape, dtype=torch.bool)
    known[:, domain.shape[1] // 2 :] = False
    return known


def _restoration(s: Subject, found: Findings, generator: torch.Generator, judge: Judge | None) -> None:
    how = s.recipe["restoration"]
    count, sigma = min(how["count"], len(s.data.test)), how["sigma"]
    truth, labels = s.data.test.x[:count], s.data.test.y
    noise = sigma * torch.randn(truth.shape, generator=generator)
    known = lower_half_hidden(s.data.domain)
    settings = restoration_settings(how) | {"bank": prior_bank(s)}
    sampler = build("sampler", how["sampler"])
    tasks: dict[str, Any] = {}
    for task in ("inpaint", "denoise"):
        mask = known if task == "inpaint" else torch.ones_like(known)
        operator = Mask(known) if task == "inpaint" else Identity()
        seen = (truth + noise) * mask
        answer = restore(s.marginal, operator, seen, sigma, sampler, generator=generator, **settings)
        rivals = _baselines(s.data.train.x, seen, known) if task == "inpaint" else {"noisy": seen}
        if task == "inpaint":
            hidden, guess = ~known, {"lowland mean": answer.mean, "lowland one draw": answer.draws[0], **rivals}
            filled = {name: torch.where(known, seen, x).clamp(0, 1) for name, x in guess.items()}
        else:
            hidden, filled = torch.ones_like(known), {"lowland mean": answer.mean, **rivals}
        tasks[task] = {"psnr": {name: psnr(x, truth, mask=hidden).to_dict() for name, x in filled.items()}}
        if judge is not None and labels is not None and task == "inpaint":
            tasks[task]["class_consistency"] = {
                name: mean(judge.probabilities(x).argmax(1) == labels[:count]).to_dict() for name, x in filled.items()
            }
        if task == "inpaint":
            found.arrays |= {"inpaint/mask": known.float(), "inpaint/nearest": rivals["nearest neighbour"][:8]}
        shown = {"original": truth, "observed": seen, "mean": answer.mean, "spread": answer.spread}
        found.arrays |= {f"{task}/{name}": x[:8] for name, x in shown.items()}
        found.arrays[f"{task}/draws"] = answer.draws[:3, :8]
    found.figures["restoration"] = {"count": count, "sigma": sigma, "tasks": tasks}


def restoration_settings(how: dict[str, Any]) -> dict[str, Any]:
    """The recipe's [restoration] as arguments of `restore`."""
    return {"jump_sigma": how["jump"], **{key: how[key] for key in ("steps", "draws", "temperatures")}}


def _baselines(train: Tensor, seen: Tensor, known: Tensor) -> dict[str, Tensor]:
    """What any restoration must beat: the training image nearest in the known pixels, and the mean training image."""
    _, which = nearest(seen * known, train * known)
    return {"nearest neighbour": train[which], "mean image": train.mean(0, keepdim=True).expand_as(seen)}


def _landscape(s: Subject, found: Findings) -> None:
    """Energy on a grid and the field −∇E on a coarser one, for events in the plane."""
    x = s.data.train.x
    low, high = x.min(0).values - 0.75, x.max(0).values + 0.75
    fine, coarse = ([torch.linspace(float(a), float(b), n) for a, b in zip(low, high, strict=True)] for n in (121, 22))
    points = [torch.stack(torch.meshgrid(*axes, indexing="xy"), -1).view(-1, 2) for axes in (fine, coarse)]
    _, field_vectors = value_and_score(s.marginal, points[1])
    found.arrays |= {
        "landscape/x": fine[0],
        "landscape/y": fine[1],
        "landscape/energy": energy_values(s.marginal, points[0]).view(121, 121),
        "field/points": points[1],
        "field/vectors": field_vectors,
    }
