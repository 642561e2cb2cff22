"""Every task, detector, metric, attack and estimator on a second device: nothing meets a tensor of
the CPU, the work is done there, and the numbers are those of the CPU.

The simulated device draws what the CPU draws from the same seed, so results can be compared.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from sklearn.base import clone
from torch import Tensor, nn

import lowland
from lowland import metrics, robustness, tasks
from lowland.domain import box, real
from lowland.energy import Energy
from lowland.interop.sklearn import DBN, RBM, EnergyDetector, RBMClassifier
from lowland.nets import MLP, NoiseMLP
from lowland.samplers import MALA, Langevin
from lowland.tasks.detection import OUTLIER_SCORES

CPU = torch.device("cpu")
SIGMAS = (1.0, 0.3, 0.1)


def seeded(device: torch.device = CPU, seed: int = 0) -> torch.Generator:
    return torch.Generator(device).manual_seed(seed)


@contextmanager
def watch() -> Iterator[set[str]]:
    """Collect the types of the devices of points at which energies are evaluated."""
    seen: set[str] = set()

    def look(module: nn.Module, arguments: tuple[object, ...]) -> None:
        if isinstance(module, Energy) and arguments and isinstance(arguments[0], Tensor):
            seen.add(arguments[0].device.type)

    handle = nn.modules.module.register_module_forward_pre_hook(look)
    try:
        yield seen
    finally:
        handle.remove()


def make(kind: Callable[[], nn.Module], device: torch.device) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval().requires_grad_(False).to(device)


def plane(device: torch.device) -> Energy:
    return make(lambda: MLP(real(2), hidden=(8,)), device)  # type: ignore[return-value]


def noise(device: torch.device) -> Energy:
    return make(lambda: NoiseMLP(real(2), hidden=(8,)), device)  # type: ignore[return-value]


def classes(device: torch.device) -> Energy:
    return make(lambda: MLP(real(2), hidden=(8,), classes=3), device)  # type: ignore[return-value]


def points(count: int = 4, seed: int = 1) -> Tensor:
    return torch.randn(count, 2, generator=seeded(seed=seed))


def agree(here: Tensor, there: Tensor, sim: torch.device) -> None:
    """The result lies on the device and is the CPU's, up to another order of sums."""
    assert there.device == sim
    assert torch.allclose(here, there.cpu(), rtol=1e-3, atol=1e-4)


# ------------------------------------------------------------------------------ tasks

Task = Callable[[torch.device], Tensor]
KNOWN = torch.tensor([True, False])
TASKS: dict[str, Task] = {
    "generate": lambda d: (
        tasks.generate(
            classes(d),
            MALA(0.1),
            points().to(d),
            3,
            generator=seeded(d),
            labels=torch.tensor([0, 1, 2, 0]),
            denoise_sigma=0.1,
        ).x
    ),
    "generate by flow": lambda d: (
        tasks.generate_by_flow(noise(d), SIGMAS, 3, generator=seeded(d)).x
    ),
    "purify by chains": lambda d: tasks.purify(
        plane(d), points().to(d), generator=seeded(d), steps=2, sigma=0.1
    ),
    "purify to a mode": lambda d: tasks.purify(
        plane(d), points().to(d), generator=seeded(d), steps=2, sigma=0.1, method="map"
    ),
    "purify by denoising": lambda d: tasks.purify(
        noise(d), points().to(d), generator=seeded(d), steps=2, sigma=0.3, method="denoise"
    ),
    "restore": lambda d: (
        tasks.restore(
            plane(d),
            tasks.Mask(KNOWN),
            points().to(d),
            0.3,
            MALA(0.1),
            generator=seeded(d),
            steps=2,
            draws=2,
            prior_samples=points(30, seed=2),
        ).draws
    ),
    "restore without noise": lambda d: (
        tasks.restore(
            plane(d),
            tasks.Mask(KNOWN),
            points().to(d),
            0.0,
            MALA(0.1),
            generator=seeded(d),
            steps=2,
        ).draws
    ),
    "split Gibbs": lambda d: (
        tasks.split_gibbs_sample(
            noise(d),
            tasks.Mask(KNOWN),
            points(2).to(d),
            0.3,
            generator=seeded(d),
            sigma_max=1.0,
            sigma_min=0.1,
            num_levels=2,
            denoise_steps=2,
        ).draws
    ),
    "map": lambda d: (
        tasks.map_estimate(
            plane(d), tasks.Mask(KNOWN), points().to(d), 0.3, start=points(seed=3), steps=2
        ).x
    ),
    "compose": lambda d: (
        tasks.sample_composed(
            tasks.compose([plane(d), classes(d)], [points(20).to(d)] * 2),
            points().to(d),
            2,
            generator=seeded(d),
            sampler=MALA(0.1),
        ).x
    ),
    "soft not": lambda d: (plane(d) + tasks.soft_not(classes(d), 0.3))(points().to(d)),
    "compose along noise": lambda d: (
        tasks.anneal_composed(
            noise(d) + noise(d),
            SIGMAS,
            points().to(d),
            3,
            generator=seeded(d),
            sampler=Langevin(0.01),
            final=2,
        ).x
    ),
    "edit": lambda d: (
        tasks.edit(
            plane(d),
            points().to(d),
            tasks.LabelGuidance(classes(d), torch.tensor([0, 1, 2, 1])),
            proximal_sigma=1.0,
            generator=seeded(d),
            sampler=MALA(0.1),
            steps=2,
            draws=2,
        ).draws
    ),
    "edit along noise": lambda d: (
        tasks.edit(
            noise(d),
            points().to(d),
            tasks.DenoisedGuidance(tasks.LabelGuidance(classes(d), 1), noise(d)),
            sigmas=SIGMAS,
            generator=seeded(d),
            sampler=Langevin(0.01),
            steps=2,
        ).draws
    ),
    "interpolate": lambda d: (
        tasks.interpolate(plane(d), points().to(d), points(seed=4), 4, steps=2).points
    ),
    "answer": lambda d: (
        tasks.conditional_sample(
            plane(d),
            points().to(d),
            KNOWN,
            generator=seeded(d),
            sampler=MALA(0.1),
            steps=2,
            draws=2,
        ).draws
    ),
    "answer by descent": lambda d: (
        tasks.conditional_sample(
            plane(d), points().to(d), KNOWN, generator=seeded(d), method="map", steps=2
        ).draws
    ),
    "answer along noise": lambda d: (
        tasks.conditional_sample(
            noise(d),
            points(2).to(d),
            KNOWN,
            generator=seeded(d),
            sampler=Langevin(0.01),
            sigmas=SIGMAS,
            steps=2,
            final=2,
        ).draws
    ),
    "purified classifier": lambda d: tasks.PurifiedClassifier(
        plane(d), classes(d), generator=seeded(d), draws=2, steps=2
    )(points().to(d)),
}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_runs_on_the_device(name: str, sim: torch.device) -> None:
    here = TASKS[name](CPU)
    with watch() as seen:
        there = TASKS[name](sim)
    agree(here, there, sim)
    assert seen <= {sim.type}


@pytest.mark.parametrize(
    "operator",
    [
        tasks.Identity(),
        tasks.Mask(torch.rand(1, 8, 8, generator=seeded()) > 0.5),
        tasks.BlockAverage(2),
        tasks.Stride(2),
        tasks.Blur(1.0),
        tasks.Projection((1, 8, 8), 10, seed=0),
        tasks.Fourier(torch.rand(8, 8, generator=seeded()) > 0.5),
        tasks.Stride(2) @ tasks.Blur(1.0),
    ],
    ids=lambda one: type(one).__name__,
)
def test_operators_go_along_with_their_points(operator: tasks.Operator, sim: torch.device) -> None:
    x = torch.rand(2, 1, 8, 8, generator=seeded())
    y, moved = operator(x), operator.to(sim)
    for one in (operator, moved):
        agree(y, one(x.to(sim)), sim)
        agree(operator.A_T(y), one.A_T(y.to(sim)), sim)
    assert all(t.device == sim for t in vars(moved).values() if isinstance(t, Tensor))


@pytest.mark.parametrize(
    "task", ["purify by chains", "restore", "split Gibbs", "edit", "answer", "generate by flow"]
)
def test_a_generator_of_another_device_is_refused(
    task: str, sim: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(f"{__name__}.seeded", lambda *_, **__: torch.Generator().manual_seed(0))
    with pytest.raises(ValueError, match=r"generator .*cpu.*; .*; .*"):
        TASKS[task](sim)


# ------------------------------------------------------------------------------ detection


def detected(name: str, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Outlier scores, p-values and verdicts of points of the CPU by an energy on a device."""
    reads, energy = OUTLIER_SCORES[name].reads, plane(device)
    if reads == "noise":
        energy = noise(device)
    if reads == "classes" or name in ("ensemble-msp", "mutual-information"):
        energy = classes(device)
    if reads == "terms":
        energy = energy + make(lambda: MLP(real(2), hidden=(4,)), device)
    if name in ("ensemble-msp", "mutual-information"):
        energy = classes(device) + make(lambda: MLP(real(2), hidden=(4,), classes=3), device)
    detector = lowland.Detector(energy, name).fit(points(60), reference=points(40, seed=5))
    x = points(5, seed=6)
    return detector.outlier_scores(x), detector.p_value(x), detector.predict(x, 0.1)


@pytest.mark.parametrize("name", OUTLIER_SCORES)
def test_a_detector_sends_points_to_its_energy(name: str, sim: torch.device) -> None:
    here = detected(name, CPU)
    with watch() as seen:
        there = detected(name, sim)
    agree(here[0], there[0], sim)
    assert torch.equal(here[1], there[1]) and torch.equal(here[2], there[2])
    assert seen <= {sim.type}


@pytest.mark.parametrize("name", ["energy", "background", "mahalanobis", "knn", "multiscale"])
def test_a_detector_works_where_there_is_no_float64(name: str, sim32: torch.device) -> None:
    here, there = detected(name, CPU), detected(name, sim32)
    assert torch.allclose(here[0].double(), there[0].cpu().double(), rtol=1e-3, atol=1e-4)
    assert torch.equal(here[1], there[1])


def test_a_detector_goes_through_a_file_to_another_device(tmp_path, sim: torch.device) -> None:  # type: ignore[no-untyped-def]
    fitted = lowland.Detector(plane(sim), "background").fit(points(60))
    path, x = fitted.save(tmp_path / "detector.safetensors"), points(5, seed=6)
    read = lowland.Detector.load(path, plane(CPU))
    assert torch.equal(read.p_value(x), fitted.p_value(x.to(sim)))


# ------------------------------------------------------------------------------ metrics

A, B = points(40, seed=7), 0.5 + points(40, seed=8)
P = torch.softmax(points(20, seed=9), 1)
Y = (torch.arange(20) % 2).long()
IMAGES = torch.rand(4, 1, 16, 16, generator=seeded(seed=10))
METRICS: dict[str, Callable[[Callable[[Tensor], object]], object]] = {
    "auroc": lambda to: metrics.auroc(to(A[:, 0]), to(B[:, 0])),
    "aupr": lambda to: metrics.aupr(to(A[:, 0]), to(B[:, 0])),
    "separation": lambda to: metrics.separation(
        to(A[:, 0]), to(B[:, 0]), generator=seeded(), draws=5
    ),
    "p-values": lambda to: metrics.p_values(to(A[:, 0]), to(B[:, 0])).tolist(),
    "reliability": lambda to: metrics.reliability(to(P), to(Y)).error,
    "mmd": lambda to: metrics.mmd(to(A), to(B)),
    "Fréchet distance": lambda to: metrics.frechet_distance(to(A), to(B)),
    "precision and recall": lambda to: metrics.precision_recall(to(A), to(B)),
    "two-sample accuracy": lambda to: metrics.two_sample_accuracy(
        to(A), to(B), generator=seeded(), steps=3
    ),
    "nearest": lambda to: metrics.nearest(to(A), to(B))[0].tolist(),
    "nearest of itself": lambda to: metrics.nearest(to(A), to(A), leave_out=True)[0].tolist(),
    "class entropy": lambda to: metrics.class_entropy(to(Y), 2),
    "psnr": lambda to: metrics.psnr(to(IMAGES), to(IMAGES.flip(0))),
    "ssim": lambda to: metrics.ssim(to(IMAGES), to(IMAGES.flip(0))),
    "mean": lambda to: metrics.mean(to(A[:, 0])),
    "energy gap": lambda to: metrics.energy_gap(to(A[:, 0]), to(B[:, 0])),
    "dequantise": lambda to: metrics.dequantise(to(Y), 2, seeded()).sum().item(),
}


def flatten(value: object) -> list[float]:
    if isinstance(value, (list, tuple)):
        return [number for part in value for number in flatten(part)]
    return [float(value)]  # type: ignore[arg-type]


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("device", ["sim", "sim32"])
def test_metrics_take_tensors_of_any_device_and_arrays(
    name: str, device: str, request: pytest.FixtureRequest
) -> None:
    place, metric = request.getfixturevalue(device), METRICS[name]
    here = flatten(metric(lambda x: x))
    assert np.allclose(here, flatten(metric(lambda x: x.to(place))), rtol=1e-6, atol=1e-9)
    assert np.allclose(here, flatten(metric(lambda x: x.numpy())), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("device", ["sim", "sim32"])
def test_metrics_of_an_energy_run_where_it_is(device: str, request: pytest.FixtureRequest) -> None:
    place = request.getfixturevalue(device)
    x = A.to(place)
    there = metrics.ksd(plane(place), x), metrics.log_likelihood(plane(place), x, 0.0)
    here = metrics.ksd(plane(CPU), A), metrics.log_likelihood(plane(CPU), A, 0.0)
    assert here[0].value == pytest.approx(there[0].value, rel=1e-4)
    assert here[1].value == pytest.approx(there[1].value, rel=1e-5)


# ------------------------------------------------------------------------------ attacks


def logits(device: torch.device) -> Callable[[Tensor], Tensor]:
    return tasks.as_classifier(
        make(lambda: MLP(box(0.0, 1.0, 1, 8, 8), hidden=(8,), classes=3), device)  # type: ignore[arg-type]
    )


def test_attacks_run_where_the_classifier_is(sim: torch.device) -> None:
    x = torch.rand(3, 1, 8, 8, generator=seeded())
    y = torch.tensor([0, 1, 2])
    known = robustness.standard_attacks("inf", steps=2, bounds=(0.0, 1.0))
    found = [
        robustness.robust_accuracy(
            logits(d), x.to(d), y.to(d), 0.1, known, generator=seeded(d), evaluations=1
        )
        for d in (CPU, sim)
    ]
    assert all(torch.equal(found[0].correct[name], found[1].correct[name]) for name in known)
    model = logits(sim)
    for points_, labels in ((x, y.to(sim)), (x.to(sim), y)):
        with pytest.raises(ValueError, match=r"on sim:0 .*|.* on cpu; .* one device; move"):
            robustness.PGD(steps=1)(model, points_, labels, 0.1, generator=seeded(sim))
    with pytest.raises(ValueError, match="the generator draws on cpu"):
        robustness.PGD(steps=1)(model, x.to(sim), y.to(sim), 0.1, generator=seeded())


# ------------------------------------------------------------------------------ scikit-learn

TABLE = np.random.RandomState(0).normal(size=(80, 3))
BITS = (np.random.RandomState(0).rand(60, 4) < 0.5).astype(np.float64)
ESTIMATORS = {
    "EnergyDetector": lambda device: EnergyDetector(
        n_iter=2, random_state=0, device=device, false_alarms=0.2
    ),
    "RBM": lambda device: RBM(3, n_iter=2, random_state=0, device=device, n_chains=10),
    "DBN": lambda device: DBN(
        (4, 3), n_iter=1, random_state=0, device=device, n_chains=10, likelihood=False
    ),
    "RBMClassifier": lambda device: RBMClassifier(
        3, n_iter=2, random_state=0, device=device, n_chains=10
    ),
}


@pytest.mark.parametrize("name", ESTIMATORS)
@pytest.mark.parametrize("device", ["sim", "sim32"])
@pytest.mark.filterwarnings("ignore")
def test_estimators_train_on_the_device_and_keep_numpy(
    name: str, device: str, request: pytest.FixtureRequest
) -> None:
    place = request.getfixturevalue(device)
    x, y = (TABLE if name == "EnergyDetector" else BITS), np.arange(len(BITS)) % 2
    labels = (y,) if name == "RBMClassifier" else ()
    estimator = clone(ESTIMATORS[name](str(place)))
    assert estimator.get_params()["device"] == str(place)
    with watch() as seen:
        estimator.fit(x, *labels)
    # scores in float64 are computed on the CPU where the device has none
    assert place.type in seen and (seen == {place.type} or device == "sim32")
    here = clone(ESTIMATORS[name]("cpu")).fit(x, *labels)
    uses = ("predict", "score_samples", "p_values", "transform", "predict_proba", "sample")
    for use in (use for use in uses if hasattr(estimator, use)):
        arguments = (2,) if use == "sample" else (x,)
        mine, other = (getattr(one, use)(*arguments) for one in (estimator, here))
        assert isinstance(mine, np.ndarray) and mine.shape == other.shape
    if name == "EnergyDetector":
        assert np.allclose(estimator.score_samples(x), here.score_samples(x), rtol=1e-2, atol=1e-2)
    for value in vars(estimator).values():
        assert not isinstance(value, Tensor)
    again = pickle.loads(pickle.dumps(estimator)).set_params(device="cpu")
    assert np.allclose(again.predict(x), estimator.predict(x)) if hasattr(again, "predict") else 1


def test_an_estimator_refuses_a_device_that_is_not_there() -> None:
    for estimator in (RBM(2, device="cuda:99"), EnergyDetector(device="nowhere")):
        with pytest.raises(ValueError, match=r"device is .*; here are cpu.*; use 'auto'"):
            estimator.fit(BITS)
