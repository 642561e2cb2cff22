"""Run directories that were damaged, changed, or come from others: the right value, or three
clauses that name the file; and what is derived belongs to the weights and data that it came from.
"""

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import lowland
from lowland import commands, load, read_recipe, train_recipe
from lowland.data import Dataset, Split, binarize_dataset, load_data
from lowland.data.identity import PointHashes, digest_data, find_changes
from lowland.domain import Domain, real
from lowland.energy import Energy
from lowland.nets import MLP
from lowland.run import Run
from lowland.run.changes import compare_recipes
from lowland.trained.scoring import _calibration_energies, load_detector
from lowland.training.identity import HASHES

TINY = {
    "training.steps": 20,
    "training.checkpoint_every": 10,
    "training.batch": 8,
    "training.preflight": "off",
    "energy.hidden": [4],
    "objective.buffer_size": 16,
    "objective.steps": 1,
    "generation.steps": 2,
    "evaluation.samples": 32,
    "data.count": 200,
}
LAST = "step-00000020"


def recipe(**more: Any) -> Any:
    return read_recipe("moons", TINY | {key.replace("__", "."): v for key, v in more.items()})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("runs") / "moons"
    train_recipe(recipe(), path, progress=False)
    return path


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / "run")


def refused(act: Callable[[], object], *named: str) -> str:
    """Expect three clauses that name something; return them."""
    with pytest.raises(ValueError) as found, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        act()
    words = str(found.value)
    assert words.count(";") >= 2, words
    assert all(name in words for name in named), words
    return words


def edit(path: Path, change: Callable[[Any], object]) -> None:
    values = json.loads(path.read_text(encoding="utf-8"))
    change(values)
    path.write_text(json.dumps(values), encoding="utf-8")


def seal(run: Path, step: str = LAST) -> None:
    """Make the manifest agree with the files, as hands or another version would."""
    manifest = json.loads((run / step / "manifest.json").read_text())
    for name in manifest["sha256"]:
        digest = hashlib.sha256((run / step / name).read_bytes()).hexdigest()
        manifest["sha256"][name] = digest
    (run / step / "manifest.json").write_text(json.dumps(manifest))


def more_steps(run: Path) -> None:
    edit(run / "recipe.json", lambda v: v["recipe"]["training"].update(steps=24))


def go_on(run: Path, **more: Any) -> Energy:
    values = read_recipe(run / "recipe.json")
    return train_recipe(values, run, progress=False, **more)


# ---- recipes -------------------------------------------------------------------------------------


def test_plain_values_that_hold_what_training_needs_are_trained_read_back_and_gone_on_with(
    tmp_path: Path,
) -> None:
    whole, data = recipe().plain(), load_data("moons", count=200)
    values = {name: whole[name] for name in ("seed", "objective", "sampler")}
    values["training"] = {"steps": 4, "batch": 8, "preflight": "off"}
    path = tmp_path / "bare"
    Run.create(path, values)
    for steps in (4, 6):
        values["training"] = values["training"] | {"steps": steps}
        train_recipe(values, path, data=data, energy=MLP(data.domain, hidden=(4,)), progress=False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model = load(path, data=data)
        assert (model.name, model.threads, model.latest.step) == ("bare", 0, steps)
    train_recipe(
        values | {"energy": whole["energy"], "data": whole["data"]},
        tmp_path / "named",
        progress=False,
    )
    assert model.marginal(data.test.x).shape == (len(data.test),)
    assert len(model.detector().p_value(data.test.x)) == len(data.test)
    refused(lambda: model.sample(3, generator=torch.Generator()), "[generation.sampler]")


@pytest.mark.parametrize("section", ["name", "generation", "evaluation", "training.threads"])
def test_a_section_that_was_lost_since_training_is_missed(run: Path, section: str) -> None:
    *outer, last = section.split(".")
    edit(run / "recipe.json", lambda v: (v["recipe"][outer[0]] if outer else v["recipe"]).pop(last))
    refused(lambda: load(run), "recipe.json", f"{last} is missing")


EDITS: dict[str, Callable[[Any], object]] = {
    "seed": lambda r: r.update(seed=5),
    "data": lambda r: r["data"].update(name="rings"),
    "count of data": lambda r: r["data"].update(count=300),
    "batch": lambda r: r["training"].update(batch=4),
    "fewer steps": lambda r: r["training"].update(steps=15),
    "optimizer": lambda r: r["training"].update(optimizer="sgd"),
    "rate": lambda r: r["training"].update(learning_rate=1e-2),
    "sizes": lambda r: r["energy"].update(hidden=[8]),
    "a scale of the energy": lambda r: r["energy"].update(scale=2.0),
    "sampler": lambda r: r["sampler"].update(step_size=0.5),
    "objective": lambda r: r.update(objective={"name": "NCE"}),
    "a term": lambda r: r.update(terms=[{"name": "Quadratic"}]),
    "unknown key": lambda r: r["training"].update(stepz=1),
    "another type": lambda r: r["training"].update(batch="many"),
    "a truth value": lambda r: r.update(seed=True),
}


@pytest.mark.parametrize("change", EDITS)
def test_another_recipe_is_refused_on_the_way(run: Path, change: str) -> None:
    before = (run / "data.json").read_bytes(), sorted(run.iterdir())
    edit(run / "recipe.json", lambda v: EDITS[change](v["recipe"]))
    with pytest.raises(ValueError) as found:
        commands.resume(run, quiet=True)
    words = str(found.value)
    assert words.count(";") >= 2 or "mistake" in words, words
    assert before == ((run / "data.json").read_bytes(), sorted(run.iterdir()))


def test_more_steps_are_the_same_run_and_allowed_changes_are_named(run: Path) -> None:
    more_steps(run)
    go_on(run)
    assert Run(run).steps()[-1] == 24 and Run(run).recipe["training"]["steps"] == 24
    edit(run / "recipe.json", lambda v: v["recipe"]["training"].update(batch=4, steps=28))
    refused(lambda: go_on(run), "training.batch was 8 and is 4", "--allow-changes")
    with pytest.warns(UserWarning, match="changed recipe: training.batch was 8 and is 4"):
        go_on(run, allow_changes=True)
    state = Run(run).load_checkpoint().state
    assert Run(run).steps()[-1] == 28 and state["recipe"]["training"]["batch"] == 4


def test_fit_into_a_run_of_another_recipe_is_refused(run: Path) -> None:
    refused(lambda: train_recipe(recipe(seed=1), run, progress=False), "seed was 0 and is 1")
    rings = read_recipe("rings", TINY) if "rings" in lowland.config.recipe_names() else recipe()
    data = load_data("rings", count=200)
    refused(lambda: train_recipe(rings, run, data=data, progress=False), "run")
    assert Run(run).recipe["data"]["name"] == json.loads((run / "data.json").read_text())["name"]


def test_values_are_compared_as_json_has_them() -> None:
    then = {"a": {"b": [1, 2], "c": None}, "d": 1}
    assert not compare_recipes(then, {"a": {"b": (1, 2), "c": None}, "d": 1})
    (change,) = compare_recipes(then, {"a": {"b": [1, 2], "c": None}, "d": True})
    assert str(change) == "d was 1 and is true" and not change.allowed
    assert [c.path for c in compare_recipes(then, {"a": {"b": [1], "e": 0}})] == ["a.b", "a.e", "d"]


def test_an_edited_energy_is_not_used_with_the_old_weights(run: Path) -> None:
    edit(run / "recipe.json", lambda v: v["recipe"]["energy"].update(scale=4.0))
    refused(lambda: load(run), "recipe.json", "energy.scale")


def test_how_a_run_is_used_may_be_edited(run: Path) -> None:
    edit(run / "recipe.json", lambda v: v["recipe"]["generation"].update(steps=3))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(run).recipe["generation"]["steps"] == 3


class Bowl(Energy):
    """An energy of the user's."""

    def __init__(self, domain: Domain) -> None:
        super().__init__()
        self.domain, self.scale = domain, nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.scale * x.square().sum(1)


def test_what_was_trained_is_stored(tmp_path: Path) -> None:
    data = load_data("moons", count=200)
    mine = MLP(data.domain, hidden=(6,), scale=2.0)
    train_recipe(recipe(), tmp_path / "net", data=data, energy=mine, progress=False)
    stored = Run(tmp_path / "net").recipe["energy"]
    assert (stored["name"], stored["hidden"], stored["scale"]) == ("MLP", [6], 2.0)
    x = data.test.x
    assert torch.equal(load(tmp_path / "net").energies(x[:4]).isfinite(), torch.ones(4) > 0)
    refused(lambda: train_recipe(recipe(), tmp_path / "net", progress=False), "energy.hidden")
    train_recipe(recipe(), tmp_path / "own", data=data, energy=Bowl(real(2)), progress=False)
    name = f"{Bowl.__module__}:Bowl"
    stored = Run(tmp_path / "own").recipe["energy"]
    assert (stored["name"], stored["arguments"], stored["num_parameters"]) == (name, {}, 1)
    refused(lambda: load(tmp_path / "own"), name, "code=Bowl", "--import")
    refused(lambda: commands.resume(tmp_path / "own", quiet=True), name)
    refused(lambda: load(tmp_path / "own", energy=mine), name)
    model = load(tmp_path / "own", energy=Bowl(real(2)))
    assert model.energies(x[:4]).shape == (4,) and model.name == "moons"
    assert torch.equal(model.energy.scale, fit_again(tmp_path / "own", data).scale)  # type: ignore[arg-type]


def fit_again(path: Path, data: Dataset) -> Bowl:
    found = train_recipe(recipe(), path, data=data, energy=Bowl(real(2)), progress=False)
    assert isinstance(found, Bowl)
    return found


def test_a_data_set_that_was_passed_is_named(tmp_path: Path) -> None:
    data = load_data("rings", count=200)
    train_recipe(recipe(), tmp_path / "run", data=data, progress=False)
    assert Run(tmp_path / "run").recipe["data"]["name"] == "rings"
    refused(lambda: train_recipe(recipe(), tmp_path / "run", progress=False), "data")
    train_recipe(recipe(training__steps=24), tmp_path / "run", data=data, progress=False)


# ---- data ----------------------------------------------------------------------------------------


def _table(path: Path, x: np.ndarray) -> None:
    if path.suffix == ".csv":
        lines = ["a,b", *(f"{a:.6f},{b:.6f}" for a, b in x)]
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    else:
        np.save(path, x)


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "replaced": lambda x: 1000 + 100 * x[::-1],
    "appended": lambda x: np.r_[x, x[:5] + 0.01],
    "one row less": lambda x: x[:-1],
    "rows in another order": lambda x: x[::-1].copy(),
    "one value changed": lambda x: np.where(np.arange(len(x))[:, None] == 7, x + 0.5, x),
    "scaled": lambda x: 2 * x,
}


@pytest.fixture(scope="module", params=["t.npy", pytest.param("t.csv", marks=pytest.mark.slow)])
def tabled(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a table that is standardized, beside the table."""
    folder = tmp_path_factory.mktemp("tables")
    x = np.random.default_rng(0).normal(size=(200, 2)) * [1, 30] + [5, -300]
    _table(folder / request.param, x.astype(np.float32))
    more = {"data__name": str(folder / request.param), "data__standardize": True}
    train_recipe(recipe(**more, data__count=None), folder / "run", progress=False)
    np.save(folder / "x.npy", x.astype(np.float32))
    return folder


@pytest.mark.parametrize("change", CHANGES)
def test_other_data_are_refused_by_all_that_read_them(
    tabled: Path, change: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(tabled, tmp_path / "copy")
    file = next(p for p in folder.iterdir() if p.stem == "t")
    edit(folder / "run/recipe.json", lambda v: v["recipe"]["data"].update(name=str(file)))
    values = read_recipe(folder / "run/recipe.json")
    _table(file, CHANGES[change](np.load(folder / "x.npy")))
    before = (folder / "run/data.json").read_bytes()
    refused(lambda: train_recipe(values, folder / "run", progress=False), "data of", "trained on")
    for act in (
        lambda: commands.evaluate(folder / "run", quiet=True),
        lambda: load(folder / "run").data,
        lambda: load(folder / "run").detector(),
    ):
        refused(act, "data of", "not those that it was trained on")
    assert before == (folder / "run/data.json").read_bytes()
    with pytest.warns(UserWarning, match="not those that it was trained on"):
        train_recipe(values, folder / "run", progress=False, allow_changes=True)
    assert load(folder / "run").data is not None


def test_moved_files_of_the_same_content_are_the_same_data(tabled: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tabled, tmp_path / "moved")
    file = next(p for p in folder.iterdir() if p.stem == "t")
    file = file.rename(folder / f"other{file.suffix}")
    edit(folder / "run/recipe.json", lambda v: v["recipe"]["data"].update(name=str(file)))
    more_steps(folder / "run")
    go_on(folder / "run")
    assert len(load(folder / "run").data.train) == 140


@pytest.mark.parametrize("method", ["stochastic", "fixed", "threshold"])
def test_digests_know_what_a_binarized_set_was_made_from(method: str) -> None:
    grey = load_data("digits")
    data = binarize_dataset(grey, method)
    assert not find_changes(digest_data(data), binarize_dataset(grey, method))
    x = grey.train.x.clone()
    x[3] = 1 - x[3]
    other = binarize_dataset(_with_train(grey, x), method)
    assert len(find_changes(digest_data(data), other)) == 1


def _with_train(data: Dataset, x: Tensor) -> Dataset:
    values = {name: vars(data)[name] for name in vars(data)}
    return Dataset(**{**values, "train": Split(x, data.train.y)})


def test_digests_pass_over_rounding_and_nothing_else() -> None:
    data = load_data("moons", count=500)
    then = json.loads(json.dumps(digest_data(data)))
    x = data.train.x
    rounded = x * (1 + 1e-7 * torch.randn(x.shape, generator=torch.Generator().manual_seed(0)))
    assert not torch.equal(rounded, x) and not find_changes(then, _with_train(data, rounded))
    moved = x.clone()
    moved[7, 1] += 0.01
    for other in (moved, x.flip(0), x + 1e-3, x * 1.001, x[:-1]):
        values = _with_train(data, other)
        values = _with_train(values, other) if len(other) == len(x) else _cut(data)
        assert find_changes(then, values), other[:2]


def _cut(data: Dataset) -> Dataset:
    values = {name: vars(data)[name] for name in vars(data)}
    return Dataset(**{**values, "train": data.train.take(slice(-1))})


# ---- calibration ---------------------------------------------------------------------------------


def test_calibration_on_training_points_is_recognised(run: Path, tmp_path: Path) -> None:
    model = load(run)
    train, held = model.data.train.x, model.data.calibration.x
    refused(lambda: model.detector(calibration=train), "200 of 200 calibration points")
    half = torch.cat([train[:20], held[:20]])
    refused(lambda: model.detector(calibration=half), "20 of 40")
    for x, count in ((train, 200), (half, 20)):
        np.save(tmp_path / "x.npy", x.numpy())
        calibration = [tmp_path / "x.npy"]
        words = refused(
            lambda: commands.detect_fit(run, calibration=calibration, quiet=True),  # noqa: B023
            "were trained on",
        )
        assert words.startswith(str(count))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.detector(calibration=held)
        model.detector()
    with pytest.warns(UserWarning, match="1 of 41 calibration points were trained on"):
        model.detector(calibration=torch.cat([held, train[:1]]))


def test_data_of_few_values_may_repeat_themselves() -> None:
    g = torch.Generator().manual_seed(0)
    bits = (torch.rand(300, 4, generator=g) > 0.5).float()
    parts = [Split(bits[:200]), Split(bits[200:250]), Split(bits[250:])]
    known = PointHashes.of(Dataset("bits", lowland.binary(4), *parts))
    assert int(known.chance[0]) > 45 and bool(known.find(bits[:200]).all())


def test_standardized_training_points_are_recognised(tabled: Path, tmp_path: Path) -> None:
    x = np.load(tabled / "x.npy")
    if next(p for p in tabled.iterdir() if p.stem == "t").suffix == ".csv":
        x = np.round(x.astype(np.float64), 6)
    np.save(tmp_path / "all.npy", x.astype(np.float32))
    calibration = [tmp_path / "all.npy"]
    refused(
        lambda: commands.detect_fit(tabled / "run", calibration=calibration, quiet=True),
        "calibration points were trained on",
    )


def test_what_is_derived_belongs_to_its_weights(run: Path) -> None:
    """After a kill between training and evaluation the old files stand beside new weights."""
    commands.evaluate(run, quiet=True)
    old = load(run)
    assert json.loads((run / "evaluation.json").read_text())["weights"] == old.digest
    edit(run / "recipe.json", lambda v: v["recipe"]["training"].update(steps=60))
    go_on(run)
    new = load(run)
    assert new.digest != old.digest
    x = new.data.calibration.x
    assert torch.equal(_calibration_energies(new), new.energies(x))
    assert not torch.equal(_calibration_energies(new), old.energies(x))
    page = commands.report(run).read_text()
    assert "evaluation.json was measured with other weights" in page
    commands.evaluate(run, quiet=True)
    assert "other weights" not in commands.report(run).read_text()
    found = old.detector()
    found.save(run / "detector.safetensors")
    refused(lambda: load_detector(new), "detector")


# ---- damage --------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
TEXTS = {
    "list": "[]",
    "number": "3",
    "empty table": "{}",
    "nested": DEEP,
    "text": '"a"',
    "null": "null",
    "nothing": "",
    "cut": '{"format": 1, "rec',
    "binary": b"\x00\xff\x01",
    "key twice": '{"format": 1, "format": 1}',
    "not a number": '{"format": NaN}',
    "too long a number": '{"format": ' + "9" * 9999 + "}",
    "a format of text": '{"format": "1", "recipe": {}}',
    "a recipe of 3": '{"format": 1, "recipe": 3}',
    "versions of 3": '{"format": 2, "versions": 3}',
    "an empty recipe": '{"format": 1, "recipe": {}}',
    "sections of text": '{"format": 1, "recipe": {"name": "x", "energy": "MLP", "data": 3}}',
    "means of text": '{"name": "a", "classes": 0, "mean": "abc", "scale": "x"}',
    "one mean": '{"name": "a", "classes": 0, "mean": [1], "scale": [1]}',
    "a scale of 0": '{"name": "a", "classes": 0, "mean": [1, 1], "scale": [1, 0]}',
}
ACTS: dict[str, Callable[[Path], object]] = {
    "load": load,
    "sample": lambda run: commands.sample(run, count=2, out=run.parent / "x.npy", quiet=True),
    "report": commands.report,
    "resume": lambda run: commands.resume(run, quiet=True),
    "evaluate": lambda run: commands.evaluate(run, quiet=True),
    "strip": lambda run: commands.strip(run, quiet=True),
}


def words_or_value(act: Callable[[], object]) -> str:
    """Expect a value, or three clauses (or a list of mistakes in a recipe); return the words that
    were said.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            act()
        except ValueError as error:
            words = str(error)
            assert words.count(";") >= 2 or "mistake" in words, words
            return words
    return " ".join(str(warning.message) for warning in caught)


QUICK = ("list", "nested", "key twice", "an empty recipe", "sections of text", "one mean")


@pytest.mark.parametrize("text", QUICK)
@pytest.mark.parametrize("file", ["recipe.json", "data.json", f"{LAST}/manifest.json"])
def test_json_that_is_not_what_is_wanted_is_named(run: Path, file: str, text: str) -> None:
    content = TEXTS[text]
    (run / file).write_bytes(content if isinstance(content, bytes) else content.encode())
    for name in ("load", "sample", "report"):
        words = words_or_value(lambda: ACTS[name](run))  # noqa: B023
        if name == "load" and file == "recipe.json":
            assert "recipe.json" in words or "format" in words
        if name == "sample" and file == "data.json":
            assert "data.json" in words


@pytest.mark.slow
@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize(
    "file",
    [
        "recipe.json",
        "data.json",
        f"{LAST}/manifest.json",
        f"{LAST}/state.json",
        "log.jsonl",
        "time.jsonl",
        "evaluation.json",
        "likelihood.json",
    ],
)
def test_every_act_on_damaged_json_ends_in_words(run: Path, file: str, text: str) -> None:
    content = TEXTS[text]
    for name, act in ACTS.items():
        copy = shutil.copytree(run, run.with_name(name))
        (copy / file).write_bytes(content if isinstance(content, bytes) else content.encode())
        if (copy / LAST).is_dir() and file.endswith("state.json"):
            seal(copy)
        words_or_value(lambda: act(copy))  # noqa: B023


UNITS = {"mean": [1.0, 2.0], "scale": [1.0, 3.0], "class_names": ["b", "a"], "kind": "box"}


@pytest.mark.parametrize("field", UNITS)
def test_what_was_edited_in_the_description_of_data_is_noticed(run: Path, field: str) -> None:
    """Energies would be those of other units, verdicts those of other classes."""
    about = json.loads((run / "data.json").read_text())
    (run / "data.json").write_text(json.dumps(about | {"note": "mine"}))
    assert load(run).description["note"] == "mine"  # nothing is computed with it
    twins = {"mean": [0.0, 0.0], "scale": [1.0, 1.0]} if field in ("mean", "scale") else {}
    (run / "data.json").write_text(json.dumps(about | twins | {field: UNITS[field]}))
    words = rf"data.json is damaged: .*{field}.* changed since the run was trained; .*; restore it"
    with pytest.raises(ValueError, match=words):
        _ = load(run).description
    np.save(run.parent / "p.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(ValueError, match=words):
        commands.energy(run, [run.parent / "p.npy"])


@pytest.mark.parametrize("file", ["log.jsonl", "time.jsonl"])
@pytest.mark.parametrize(
    "text", ["[1]\n", "3\n", "{}\n", DEEP, '{"step": "x"}\n', '{"step": 5, "gap": []}\n', "\xff"]
)
def test_lines_that_are_no_rows_are_passed_over(run: Path, file: str, text: str) -> None:
    (run / file).write_text(text + (run / file).read_text())
    commands.report(run)
    assert Run(run).rows(file)[-1]["step"] == 20


def tensors(file: str, change: Callable[[Any], Any]) -> Callable[[Path], None]:
    def apply(run: Path) -> None:
        path = run / LAST / f"{file}.safetensors"
        save_file({k: v.contiguous() for k, v in change(load_file(path)).items()}, path)

    return apply


def state(**changes: Any) -> Callable[[Path], None]:
    def change(values: Any) -> None:
        for name, value in changes.items():
            if value is None:
                values.pop(name)
            else:
                values[name] = value

    return lambda run: edit(run / LAST / "state.json", change)


def rename(t: Any) -> Any:
    return {f"x{k}": v for k, v in t.items()}


UNFIT: dict[str, Callable[[Path], None]] = {
    "ema of another shape": tensors("ema", lambda t: {k: v[:1] for k, v in t.items()}),
    "energy renamed": tensors("energy", rename),
    "energy in half": tensors("energy", lambda t: {k: v.half() for k, v in t.items()}),
    "energy not finite": tensors("energy", lambda t: {k: v * float("nan") for k, v in t.items()}),
    "generators cut": tensors("generators", lambda t: {k: v[:9] for k, v in t.items()}),
    "generators of zeros": tensors("generators", lambda t: {k: v * 0 for k, v in t.items()}),
    "generators in float": tensors("generators", lambda t: {k: v.float() for k, v in t.items()}),
    "a generator missing": tensors("generators", lambda t: dict(list(t.items())[1:])),
    "a moment missing": tensors("optimizer", lambda t: dict(list(t.items())[1:])),
    "a moment renamed": tensors("optimizer", rename),
    "moments of another shape": tensors("optimizer", lambda t: {k: v[None] for k, v in t.items()}),
    "fewer chains": tensors("chains", lambda t: {k: v[:3] for k, v in t.items()}),
    "chains not finite": tensors("chains", lambda t: {**t, "x": t["x"] / 0}),
    "no ages": tensors("chains", lambda t: {"x": t["x"]}),
    "ages in float": tensors("chains", lambda t: {**t, "age": t["age"].float()}),
    "no chains": lambda run: edit(
        run / LAST / "manifest.json", lambda m: m["sha256"].pop("chains.safetensors")
    ),
    "no tensors": lambda run: edit(
        run / LAST / "manifest.json", lambda m: m.update(sha256={"state.json": "0" * 64})
    ),
    "a path in the manifest": lambda run: edit(
        run / LAST / "manifest.json", lambda m: m["sha256"].update({"../recipe.json": "0" * 64})
    ),
    **{f"no {name}": state(**{name: None}) for name in ("health", "batches", "rollbacks")},
    **{f"no {name}": state(**{name: None}) for name in ("rate_factor", "log_size", "domain")},
    "another step": state(step=10),
    "a step of text": state(step="20"),
    "log_size -1": state(log_size=-1),
    "rate_factor of text": state(rate_factor="x"),
    "rate_factor 0": state(rate_factor=0),
    "step_factor -1": state(step_factor=-1.0),
    "batches of a list": state(batches=[1, 2]),
    "batches far out": state(batches={"epoch": 0, "offset": 10**9}),
    "batches of text": state(batches={"epoch": "a", "offset": 0}),
    "rollbacks true": state(rollbacks=True),
    "health of 3": state(health=3),
    "best of a list": state(best=[3]),
    "best of text": state(best={"step": "a"}),
    "a best that is not there": state(best={"step": 7, "value": 0.1, "waited": 0}),
    "precision of a tree": state(precision="tree"),
    "processes 0": state(processes=0),
    "domain of a list": state(domain=[]),
    "domain of another kind": state(domain={"kind": "sphere", "shape": [2]}),
    "domain of 3": state(domain={"kind": "real", "shape": 3}),
    "a huge domain": state(domain={"kind": "real", "shape": [10**9, 10**9]}),
    "a recipe of 3": state(recipe=3),
}


@pytest.mark.parametrize("damage", UNFIT)
def test_a_checkpoint_that_does_not_fit_is_refused_or_passed_over(run: Path, damage: str) -> None:
    """With a manifest that agrees: nothing is restored that was not checked."""
    UNFIT[damage](run)
    if "manifest" not in damage and damage not in ("no tensors",):
        seal(run)
    more_steps(run)
    shutil.rmtree(run / "step-00000010")  # and nothing to fall back on but the start
    said = words_or_value(lambda: go_on(run))
    if damage == "a best that is not there":
        return
    assert LAST in said or "position" in said, said


def test_a_checkpoint_under_another_name_is_not_that_step(run: Path) -> None:
    shutil.copytree(run / "step-00000010", run / "step-00000030")
    with pytest.warns(UserWarning, match="step is 10, another than the folder's.*using step 20"):
        assert load(run).latest.step == 20


def test_names_that_look_like_checkpoints_are_left_alone(run: Path) -> None:
    for name in ("step-²", "step-5", "step-000000005", "step-", "step-x"):
        (run / name).mkdir()
    (run / "step-00000005").write_text("mine")
    (run / "step-00000040").mkdir()
    (run / "step-00000040" / "mine.txt").write_text("mine")
    more_steps(run)
    with pytest.warns(UserWarning, match="step-00000040 is no checkpoint of lowland's"):
        go_on(run)
    assert (run / "step-00000005").read_text() == "mine"
    assert (run / "step-00000040" / "mine.txt").read_text() == "mine"
    assert all((run / name).is_dir() for name in ("step-²", "step-5", "step-x"))
    edit(run / "recipe.json", lambda v: v["recipe"]["training"].update(steps=40))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(lambda: go_on(run), "step-00000040", "move it")
    assert (run / "step-00000040" / "mine.txt").exists()


LINKED = ["recipe.json", "data.json", LAST, f"{LAST}/state.json", f"{LAST}/ema.safetensors"]


@pytest.mark.parametrize("name", LINKED)
def test_links_that_lead_out_of_a_run_are_not_read(run: Path, name: str, tmp_path: Path) -> None:
    (run / name).rename(tmp_path / "outside")
    (run / name).symlink_to(tmp_path / "outside")
    said = words_or_value(lambda: commands.sample(run, count=2, out=tmp_path / "x.npy"))
    assert "link" in said or "no checkpoint of lowland's" in said, said


@pytest.mark.parametrize("name", ["log.jsonl", ".lock", "data.json", "report.html", HASHES])
@pytest.mark.parametrize("plant", ["link", "pipe"])
def test_nothing_is_written_through_what_was_planted(
    run: Path, name: str, plant: str, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    (run / name).unlink(missing_ok=True)
    if plant == "link":
        (run / name).symlink_to(victim)
    else:
        os.mkfifo(run / name)
    more_steps(run)
    words_or_value(lambda: go_on(run))
    words_or_value(lambda: commands.report(run))
    assert victim.read_text() == "precious" and (run / name).lstat().st_nlink == 1


# ---- other promises ------------------------------------------------------------------------------


def test_load_leaves_the_global_generator_where_it_is(run: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    model = load(run)
    model.sample(2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_points_and_numbers_of_other_kinds_are_refused_by_a_model(run: Path) -> None:
    model = load(run)
    x = model.data.test.x
    for wrong in (x[:, :1], x[0], x[:0], x.long(), x.numpy(), x * float("nan")):
        refused(lambda: model.energies(wrong))  # noqa: B023
        refused(lambda: model.log_likelihood(wrong, 1.0))  # noqa: B023
    for wrong in ("a", None, float("nan"), True, [1]):
        refused(lambda: model.log_likelihood(x, wrong), "log_z")  # type: ignore[arg-type] # noqa: B023
    assert model.log_likelihood(x, np.float32(0)).value == model.log_likelihood(x, 0).value


def test_two_trainings_of_one_run_are_not_one(run: Path) -> None:
    with Run(run).lock():
        refused(lambda: go_on(run), "another process")
    go_on(run)


def test_old_checkpoints_keep_weights_alone_and_strip_keeps_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = recipe(objective__buffer_size=4000, training__steps=60)
    train_recipe(values, tmp_path / "run", progress=False)
    run = Run(tmp_path / "run")
    full = [step for step in run.steps() if run.is_full(step)]
    assert full == [50, 60] and set(run.steps()) > set(full)
    assert {p.name for p in (run.path / "step-00000000").iterdir()} == {
        "ema.safetensors",
        "energy.safetensors",
        "manifest.json",
        "state.json",
    }
    x = torch.zeros(1, 2)
    before, old = run.size(), load(run.path, step=0).energies(x)
    kept = load(run.path).energies(x)
    commands.strip(run.path)
    assert run.steps() == [60] and run.size() < before / 3
    assert "held" in capsys.readouterr().err
    assert torch.equal(load(run.path).energies(x), kept) and not torch.equal(old, kept)
    commands.evaluate(run.path, quiet=True)
    longer = recipe(objective__buffer_size=4000, training__steps=70)
    refused(lambda: train_recipe(longer, run.path, progress=False), "weights alone")
    shipped = "digits"
    refused(lambda: commands.strip(shipped, quiet=True), "shipped")


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*looks like.*")
        yield


def resave(path: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Change tensors of a file and keep the words about them."""
    with safe_open(str(path), "pt") as file:
        words = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors)
    save_file(tensors, path, words)


def test_derived_numbers_that_were_changed_are_recognised(run: Path) -> None:
    """A threshold, prior samples and hashes carry a digest of their numbers."""
    commands.evaluate(run, quiet=True)
    for name in ("calibration", "evaluation", "training_points"):
        file = run / f"{name}.safetensors"
        assert Run.open(run).read_tensors(file.name)
        resave(file, lambda d: [t.add_(1) for t in d.values()])
        refused(lambda: Run.open(run).read_tensors(file.name), file.name, "is damaged")  # noqa: B023
    model = load(run)
    refused(lambda: load_detector(model), "calibration.safetensors is damaged")
    held = model.data.calibration.x
    refused(lambda: model.detector(calibration=held), f"{HASHES} is damaged")


def test_derived_numbers_without_a_digest_are_computed_anew(run: Path) -> None:
    model = load(run)
    wrong = {"energies": torch.full((200,), -100.0)}
    save_file(wrong, run / "calibration.safetensors", {"weights": model.digest})
    fresh = model.energies(model.data.calibration.x)
    assert torch.equal(_calibration_energies(model), fresh)


@pytest.mark.parametrize("name", lowland.list_pretrained())
def test_shipped_derived_numbers_carry_a_digest(name: str) -> None:
    for file in ("calibration.safetensors", HASHES):
        shipped = Run.open(name)
        assert shipped.read_about(file)["sha256"] and shipped.read_tensors(file)
