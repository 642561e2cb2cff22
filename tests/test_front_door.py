"""The front door as a stranger meets it: a network and data of one's own, and a loop of one's own.

Only public names are used.
"""

import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Subset, TensorDataset

import lowland as ll
from lowland import cli, objectives
from lowland.data import make_dataset
from lowland.energy import ConditionLike, Energy, NoiseCondition
from lowland.registry import register, registered
from lowland.training import Event, StopTraining

ROOT = Path(ll.__file__).parents[1]


def plane(count: int = 300, seed: int = 0) -> Tensor:
    """Draw points of two interleaved half circles."""
    return ll.load_data("moons", count=max(count, 64), seed=seed).train.x[:count]


def mlp(width: int = 32) -> nn.Sequential:
    """Build a network of the plane, (B, 2) -> (B,)."""
    layers = [nn.Linear(2, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU()]
    return nn.Sequential(*layers, nn.Linear(width, 1), nn.Flatten(0))


class OfNoise(Energy):
    """An energy E(x, σ) of one's own: `forward` and one property."""

    def __init__(self) -> None:
        super().__init__(ll.real(2))
        self.net = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, 1), nn.Flatten(0))

    @property
    def condition(self) -> NoiseCondition:
        return NoiseCondition()

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        sigma = torch.as_tensor(c, dtype=x.dtype).expand(len(x))
        return self.net(torch.cat([x, sigma.log().unsqueeze(1)], 1)) / sigma


def heads(classes: int) -> nn.Sequential:
    """Build a classifier of the plane with smooth logits (B, classes)."""
    return nn.Sequential(nn.Linear(2, 32), nn.SiLU(), nn.Linear(32, classes))


OF_NOISE = ("MultilevelDSM", "DiffusionRecovery")
OF_LABELS = ("JEM", "Robust", "OutlierExposure")
OF_BITS = ("PseudoLikelihood", "RatioMatching")


def own_energy(name: str) -> tuple[Any, Any]:
    """Return an own energy for an objective, and a batch for it."""
    x = plane(64)
    if name in OF_NOISE:
        return OfNoise(), x
    if name in OF_LABELS:
        return ll.nets.ClassifierEnergy(heads(2), 2, ll.real(2)), (x, torch.arange(64) % 2)
    if name in OF_BITS:
        return ll.Function(mlp(), ll.binary(2)), (x > 0).float()
    if name == "InfoNCE":
        return ll.nets.PairEnergy(ll.real(2)), x
    return mlp(), x


@pytest.mark.parametrize("name", sorted(registered("objective")))
def test_every_objective_takes_the_same_call_in_a_loop_of_ones_own(name: str) -> None:
    torch.manual_seed(0)
    energy, batch = own_energy(name)
    objective = registered("objective")[name]()
    g = torch.Generator().manual_seed(0)
    for _ in range(2):
        energy.zero_grad()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a partner that no optimizer knows
            loss = objective(energy, batch, generator=g)
        loss.value.backward()
        gradients = [p.grad for p in energy.parameters() if p.grad is not None]
        assert gradients and all(gradient.isfinite().all() for gradient in gradients)
        assert any(gradient.any() for gradient in gradients)


def test_chains_stay_with_the_energy_between_calls_and_go_with_it() -> None:
    from lowland.objectives import own_loop

    energy, x, g = mlp(), plane(32), torch.Generator().manual_seed(0)
    objective = objectives.PCD(steps=3, buffer_size=64, reinit_prob=0.0)
    for _ in range(4):
        loss = objective(energy, x, generator=g)
    kept = own_loop._kept[energy][objective]
    assert kept.buffer is not None and int(kept.buffer.age.max()) > 3
    assert loss.negatives is not None
    del energy, loss, kept
    assert not [key for key in own_loop._kept if isinstance(key, nn.Sequential)]


def test_a_prepared_context_holds_what_the_objective_needs_and_nothing_else() -> None:
    x, g = plane(64), torch.Generator().manual_seed(0)
    pcd = objectives.PCD(buffer_size=100).prepare(mlp(), x, generator=g)
    assert pcd.sampler is not None and pcd.buffer is not None and pcd.partner is None
    dsm = objectives.DSM().prepare(mlp(), x, generator=g)
    assert (dsm.sampler, dsm.buffer, dsm.partner) == (None, None, None)
    flow = objectives.FlowContrastive(hidden=(8,)).prepare(mlp(), x, generator=g)
    assert list(flow.parameters()) and flow.sampler is None


def test_a_partner_that_no_optimizer_knows_is_said() -> None:
    g = torch.Generator().manual_seed(0)
    with pytest.warns(UserWarning, match=r"partner.*prepare"):
        objectives.NCE()(mlp(), plane(64), generator=g)


def test_a_call_without_a_generator_says_what_to_pass() -> None:
    with pytest.raises(ValueError, match=r"neither a context nor a generator; .*; .*generator=g"):
        objectives.DSM()(mlp(), plane(8))
    context = objectives.DSM().prepare(mlp(), plane(8), generator=torch.Generator())
    with pytest.raises(ValueError, match="holds both; pass the context alone"):
        objectives.DSM()(mlp(), plane(8), context, generator=torch.Generator())


def test_a_cell_that_registers_a_class_may_run_twice() -> None:
    cell = "@register('energy')\nclass Cell(Energy):\n    '''A class of a notebook.'''\n"
    scope: dict[str, Any] = {"register": register, "Energy": Energy, "__name__": "__main__"}
    for _ in range(2):
        exec(cell, scope)
    assert registered("energy")["Cell"] is scope["Cell"]
    with pytest.raises(ValueError, match=r"is taken by lowland.*; one name stands for one class"):
        exec("@register('energy')\nclass MLP(Energy):\n    pass\n", scope)


# ---- fit -----------------------------------------------------------------------------------------


class Plane(nn.Module):
    """A network of the plane, whose argument is kept as an attribute."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).squeeze(1)


class CNN(nn.Module):
    """A network of small colour images, (B, 3, 8, 8) -> (B,)."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2, padding=1)
        self.head = nn.Linear(64, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.silu(self.conv(x)).flatten(1)).squeeze(1)


SHORT: Any = {"steps": 20, "batch_size": 32, "log_every": 5, "checkpoint_every": 10}
QUICK: Any = {**SHORT, "progress": False, "threads": 1}
CHAINS = objectives.PCD(steps=2, buffer_size=64)


def fit(energy: Any, data: Any, *given: Any, **options: Any) -> ll.Model:
    """Train quickly, in silence."""
    return ll.fit(energy, data, *given, **(QUICK | options))


def rows(model: ll.Model) -> list[dict[str, Any]]:
    return model.run.rows()


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(one, other) for one, other in pairs)


def test_a_network_and_a_tensor_of_images_become_a_model_with_every_use(tmp_path: Path) -> None:
    torch.manual_seed(0)
    images = torch.randint(0, 256, (200, 3, 8, 8), dtype=torch.uint8)
    energy = ll.Function(CNN(), ll.box(0, 1, shape=(3, 8, 8)))
    sampler = ll.Langevin(0.01)
    model = fit(energy, images, CHAINS, sampler=sampler, run=tmp_path / "mine")
    g = torch.Generator().manual_seed(0)
    x = images[:4].float() / 255
    assert model.sample(5, generator=g).x.shape == (5, 3, 8, 8)
    assert model.energies(x).shape == (4,)
    assert model.detector().predict(x, alpha=0.05).shape == (4,)
    mask = torch.ones(3, 8, 8)
    mask[:, 4:] = 0
    operator = ll.tasks.Mask(mask.bool())
    y = operator(x)
    restored = model.restore(operator, y, sigma=0.1, generator=g, draws=2)
    assert restored.mean.shape == x.shape
    assert model.description["num_gray_levels"] == 256


def test_small_images_and_the_plane_train_in_good_health_without_another_word() -> None:
    torch.manual_seed(0)
    images = ll.load_data("digits").train.x
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.SiLU(), nn.Linear(64, 1), nn.Flatten(0))
    for energy, data in ((net, images), (mlp(), plane(2000))):
        options: Any = {"steps": 120, "log_every": 5, "threads": 1, "progress": False}
        model = ll.fit(energy, data, **options)
        logged = [row for row in rows(model) if "health" in row]
        assert {row["health"] for row in logged} == {"good"}
        assert not [row for row in rows(model) if row.get("event") == "rollback"]


def test_the_same_line_goes_on_bit_for_bit_where_a_run_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def line(run: str, **more: Any) -> ll.Model:
        torch.manual_seed(0)
        return fit(Plane(), plane(), CHAINS, run=tmp_path / run, **more)

    class Killed(BaseException):
        pass

    def kill(event: Event) -> None:
        if event.step == 17:
            raise Killed

    whole = line("whole")
    with pytest.raises(Killed):
        line("killed", callbacks=[kill])
    killed = tmp_path / "killed"
    assert ll.Run(killed).steps()[-1] == 10
    monkeypatch.setattr("lowland.registry._trusted", {__name__})
    copy = shutil.copytree(killed, tmp_path / "copy")
    ll.commands.resume(copy, quiet=True, evaluate=False)
    assert same_weights(whole.energy, ll.load(copy).energy)
    again = line("killed")
    assert same_weights(whole.energy, again.energy)
    logs = [(tmp_path / name / "log.jsonl").read_bytes() for name in ("whole", "killed")]
    assert logs[0] == logs[1]
    with pytest.warns(UserWarning, match=r"finished, with 20 of 20 updates: its model"):
        finished = line("whole")
    assert same_weights(whole.energy, finished.energy)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"learning_rate": 0.1}, "learning_rate was 0.001 and is 0.1"),
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"energy": Plane(8)}, "width was 16 and is 8"),
        ({"objective": objectives.CD()}, "'?\"?PCD.*CD"),
        ({"data": plane() + 1}, "are not those that it was trained on"),
        ({"sampler": ll.MALA(0.5)}, "step_size was"),
    ],
)
def test_another_line_is_refused_in_words(
    changed: dict[str, Any], words: str, shared: Path
) -> None:
    line: dict[str, Any] = {"energy": Plane(), "data": plane(), "objective": CHAINS} | changed
    with pytest.raises(ll.run.RunError, match=words):
        fit(**line, run=shared)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run of the own network of the plane."""
    path = tmp_path_factory.mktemp("front") / "plane"
    fit(Plane(), plane(), CHAINS, run=path)
    return path


def test_a_run_knows_its_class_and_arguments_and_is_read_by_code_or_energy(shared: Path) -> None:
    stored = ll.Run(shared).recipe["energy"]
    assert stored["name"] == f"{__name__}:Plane" and stored["arguments"] == {"width": 16}
    by_code, by_energy = ll.load(shared, code=Plane), ll.load(shared, energy=Plane())
    assert same_weights(by_code.energy, by_energy.energy)
    assert torch.equal(by_code.data.test.x, by_energy.data.test.x)
    assert by_code.detector().predict(plane(4), alpha=0.05).shape == (4,)


def test_a_run_says_what_is_missing_and_what_does_not_fit(shared: Path) -> None:
    with pytest.raises(
        ll.run.RunError, match=r"network of your own.*no code.*--import.*code=Plane"
    ):
        ll.load(shared)
    with pytest.raises(ll.run.RunError, match=r"65 parameters and width = 16.*Plane with 33 param"):
        ll.load(shared, energy=Plane(8))
    with pytest.raises(ll.run.RunError, match=r"subclass of torch.nn.Module"):
        ll.load(shared, code=int)


def test_a_class_of_a_notebook_cell_is_said_to_need_its_code(tmp_path: Path) -> None:
    scope: dict[str, Any] = {"nn": nn, "__name__": "__main__"}
    cell = "class Cell(nn.Linear):\n    def forward(self, x): return super().forward(x).squeeze(1)"
    exec(cell, scope)
    fit(scope["Cell"](2, 1), plane(), objectives.DSM(), run=tmp_path / "run")
    with pytest.raises(ll.run.RunError, match=r"no import finds.*script, in a notebook.*code=Cell"):
        ll.load(tmp_path / "run")
    model = ll.load(tmp_path / "run", code=lambda: scope["Cell"](2, 1))
    assert model.energies(plane(3)).shape == (3,)


NETS = """
from torch import nn


class Own(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.width = width
        self.net = nn.Sequential(nn.Linear(2, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, x):
        return self.net(x).squeeze(1)
"""


def test_every_command_reads_a_run_of_a_module_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_nets.py").write_text(NETS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    train = (
        "import lowland as ll, torch\nfrom own_nets import Own\ntorch.manual_seed(0)\n"
        "ll.fit(Own(width=6), torch.randn(300, 2), ll.objectives.DSM(), steps=10, log_every=5, "
        "checkpoint_every=10, run='run', progress=False)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    subprocess.run([sys.executable, "-c", train], check=True, timeout=600, env=environment)
    with pytest.raises(SystemExit):
        cli.main(["sample", "run", "--count", "4", "--out", "a.npy", "--quiet"])
    assert "add --import own_nets" in capsys.readouterr().err
    monkeypatch.syspath_prepend(str(tmp_path))
    cli.main(["sample", "run", "--count", "4", "--out", "a.npy", "--quiet", "--import", "own_nets"])
    assert np.load("a.npy").shape == (4, 2)
    more = ["--set", "generation.steps=5", "--force", "--quiet", "--import", "own_nets"]
    cli.main(["sample", "run", "--count", "4", "--out", "a.npy", *more])
    cli.main(["energy", "run", "a.npy", "--import=own_nets"])
    assert "verdict" in capsys.readouterr().out
    cli.main(["report", "run", "--import", "own_nets"])
    with pytest.raises(SystemExit):
        cli.main(["sample", "run", "--import", "nowhere.nets"])
    assert "no module 'nowhere.nets' can be imported" in capsys.readouterr().err


FRAME = {"a": plane()[:, 0].numpy() * 100 + 7, "b": plane()[:, 1].numpy()}
CLASSES = np.where(plane()[:, 1] > 0, "up", "down")
SOURCES: dict[str, Any] = {
    "array": lambda: plane().numpy(),
    "list": lambda: plane().tolist(),
    "pair": lambda: (plane(), torch.arange(300) % 3),
    "DataFrame": lambda: pd.DataFrame({**FRAME, "kind": CLASSES}),
    "Dataset": lambda: TensorDataset(plane(), torch.arange(300) % 2),
    "Subset": lambda: Subset(TensorDataset(plane()), range(300)),
    "DataLoader": lambda: DataLoader(TensorDataset(plane()), batch_size=64, shuffle=True),
    "iterable": lambda: (plane()[i : i + 50] for i in range(0, 300, 50)),
    "columns": lambda: {"x": plane(), "label": torch.arange(300) % 2},
    "name": lambda: "moons",
}


@pytest.mark.parametrize("name", SOURCES)
def test_data_come_as_people_hold_them_and_the_same_line_finds_them_again(
    name: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"labels": "kind"} if name == "DataFrame" else {}
    options |= {"steps": 5, "checkpoint_every": 5, "run": tmp_path / "run"}
    model = fit(Plane(), SOURCES[name](), objectives.DSM(), **options)
    assert model.energies(plane(3)).shape == (3,)
    with pytest.warns(UserWarning, match="finished"):
        fit(Plane(), SOURCES[name](), objectives.DSM(), **options)  # the same examples, same order
    if name == "DataFrame":
        assert model.description["columns"] == ["a", "b"] and model.description["label"] == "kind"
        assert abs(model.description["mean"][0] - 7) < 50
        back = model.transform(pd.DataFrame(FRAME))
        assert back.std() < 2


def test_labels_train_an_energy_with_classes() -> None:
    energy = ll.nets.ClassifierEnergy(heads(2), 2, ll.real(2))
    y = (plane()[:, 1] > 0).long()
    model = fit(energy, (plane(), y), objectives.JEM(steps=2, buffer_size=64))
    assert model.classes == 2 and "accuracy" in [*rows(model)[-1], *rows(model)[-2]]
    with pytest.raises(ValueError, match="2 classes and the tensor no labels"):
        fit(ll.nets.ClassifierEnergy(heads(2), 2, ll.real(2)), plane(), objectives.JEM())


def test_an_energy_of_noise_and_a_shipped_net_take_the_same_road() -> None:
    g = torch.Generator().manual_seed(0)
    own = fit(OfNoise(), plane())
    assert own.recipe["objective"]["name"] == "MultilevelDSM"
    assert own.sample(4, generator=g).x.shape == (4, 2)
    shipped = fit(ll.nets.MLP(ll.real(2), hidden=(8,)), plane(), CHAINS)
    assert ll.load(shipped.run.path).sample(4, generator=g).x.shape == (4, 2)  # no code needed


def test_callbacks_read_every_moment_and_stop_with_a_checkpoint(tmp_path: Path) -> None:
    seen: list[tuple[str, int]] = []

    def watch(event: Event) -> Any:
        seen.append((event.moment, event.step))
        assert event.steps == 20 and event.health == "good" and event.run.path == tmp_path / "run"
        if event.moment == "log":
            assert event.row["step"] == event.step and "loss" in event.row
        return StopTraining if event.step == 13 else None

    model = fit(Plane(), plane(), CHAINS, run=tmp_path / "run", callbacks=[watch])
    assert [step for moment, step in seen if moment == "update"] == list(range(1, 14))
    assert ("log", 5) in seen and ("checkpoint", 10) in seen and ("checkpoint", 13) in seen
    assert model.run.steps()[-1] == 13
    torch.manual_seed(0)
    ended = fit(Plane(), plane(), CHAINS, run=tmp_path / "run")
    assert ended.run.steps()[-1] == 20

    def halt(event: Event) -> None:
        raise StopTraining

    assert fit(Plane(), plane(), CHAINS, callbacks=[halt]).run.steps()[-1] == 1


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"energy": Plane}, "pass an instance"),
        ({"energy": lambda x: x.sum(1)}, "a network with weights is trained"),
        ({"energy": ll.targets.Gaussian()}, "without weights that learn"),
        ({"objective": objectives.PCD}, "an instance of a Objective is needed"),
        ({"sampler": 0.1}, "an instance of a Sampler is needed"),
        ({"callbacks": print}, "put it in brackets"),
        ({"batch_size": 1000}, "batch_size is 1000 and the tensor has 210"),
        ({"data": 3}, "data is a int"),
        ({"energy": nn.Linear(2, 1)}, "one number per point"),
        ({"energy": Plane().double()}, "weights in float64; .* call .float"),
        ({"energy": nn.LazyLinear(1)}, "lazy layers.* call it once on a batch"),
        ({"energy": ll.Function(Plane(), ll.real(3))}, r"shape \(2,\); the energy takes \(3,\)"),
    ],
)
def test_mistakes_are_named_at_the_door(given: dict[str, Any], words: str, tmp_path: Path) -> None:
    line: dict[str, Any] = {"energy": Plane(), "data": plane(), "objective": CHAINS} | given
    with pytest.raises(ValueError, match=words):
        fit(**line, run=tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_setting_of_another_name_is_suggested() -> None:
    with pytest.raises(TypeError, match="did you mean 'learning_rate'"):
        fit(Plane(), plane(), lr=0.1)


def test_a_model_takes_its_own_samples_and_a_frame() -> None:
    images = ll.load_data("digits").train.x[:200]
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.SiLU(), nn.Linear(8, 1), nn.Flatten(0))
    energy, noisy = ll.Function(net, ll.box(0, 1, 1, 8, 8)), objectives.DSM((0.2,))
    model = fit(energy, images, noisy, steps=20, batch_size=32)
    made = model.sample(16, generator=torch.Generator().manual_seed(0)).x
    assert model.energies(made).isfinite().all()
    assert len(repr(model)) < 300

    points = pd.DataFrame(10 + 5 * plane().numpy(), columns=["a", "b"])
    learned = fit(Plane(), points, noisy, steps=20, batch_size=32)
    mixed = points[["b", "a"]]
    assert torch.equal(learned.energies(mixed), learned.energies(learned.transform(points)))


THIRDS = torch.arange(60) % 3


@pytest.mark.parametrize(
    "labels",
    [THIRDS.unsqueeze(1), torch.eye(3)[THIRDS], THIRDS.double(), np.eye(3, dtype=bool)[THIRDS]],
    ids=["column", "one-hot", "floats", "one-hot array"],
)
def test_a_tuple_of_two_is_examples_and_labels(labels: Any) -> None:
    for x in (torch.randn(60, 3), torch.randn(60, 1), torch.randn(60)):
        made = make_dataset((x, labels), standardize=False)
        assert len(made.train) == 42 and made.classes == 3
    together = make_dataset((torch.arange(60.0).unsqueeze(1), labels), standardize=False)
    assert together.train.y is not None
    assert torch.equal(together.train.x.squeeze(1).long() % 3, together.train.y)


def test_targets_that_are_no_labels_are_refused_or_said() -> None:
    x = torch.randn(60, 3)
    with pytest.raises(ValueError, match=r"shapes \(60, 3\) and \(55,\); a tuple is a pair"):
        make_dataset((x, THIRDS[:55]))
    with pytest.raises(ValueError, match=r"shapes \(60, 3\) and \(60, 3, 2\); a tuple is a pair"):
        make_dataset((x, torch.zeros(60, 3, 2)))
    with pytest.warns(UserWarning, match="no classes and are not used"):
        assert make_dataset((x, x[:, 0])).train.y is None
    gaps = np.ma.masked_equal(np.array([[1.0, -9999.0], [2.0, 3.0]] * 30), -9999.0)
    with pytest.raises(ValueError, match=r"masked array, with 30 masked values; .*filled"):
        make_dataset(gaps)
    unknown = np.ma.masked_equal(THIRDS.numpy(), 2)
    with pytest.raises(ValueError, match="labels are a masked array, with 20 masked values"):
        make_dataset((x, unknown))
