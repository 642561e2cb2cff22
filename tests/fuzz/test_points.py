"""Points of every shape and type at the doors of energies, samplers, metrics and detectors."""

import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from scipy.spatial.distance import cdist
from sklearn.metrics import roc_auc_score
from torch import Tensor

import lowland
from lowland import metrics
from lowland.registry import parameters, registered
from tests.fuzz.outcomes import explore, judge

MANY = [25, pytest.param(300, marks=pytest.mark.slow)]
DTYPES = (
    torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.uint8, torch.int8,
    torch.int64, torch.bool, torch.complex64,
)  # fmt: skip
ODD = (math.nan, math.inf, -math.inf, 1e30, -1e30, 1e6, 1000.25)


@dataclass(frozen=True)
class Array:
    """An array to be made: numbers from a seed, at an offset, one of them odd."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    seed: int
    offset: float = 0.0
    odd: float | None = None
    whole: bool = False

    def make(self) -> Tensor:
        """Draw the numbers and cast them."""
        g = torch.Generator().manual_seed(self.seed)
        x = torch.randn(self.shape, generator=g, dtype=torch.float64) + self.offset
        if self.whole:
            x = x.mul(40).round().abs()
        if self.odd is not None and x.numel():
            x.view(-1)[self.seed % x.numel()] = self.odd
        if self.dtype in (torch.bool, torch.uint8, torch.int8, torch.int64):
            x = x.nan_to_num(0, 100, 0).clamp(-100, 100).abs()
        return x.to(self.dtype)


def arrays(*shapes: tuple[int, ...]) -> st.SearchStrategy[Array]:
    """Arrays that mostly have one of the right shapes, and mostly usual numbers."""
    sizes = st.lists(st.integers(0, 5), min_size=0, max_size=4).map(tuple)
    return st.builds(
        Array,
        st.one_of(st.sampled_from(shapes), st.sampled_from(shapes), sizes),
        st.one_of(st.sampled_from(DTYPES[:2]), st.sampled_from(DTYPES)),
        st.integers(0, 999),
        st.sampled_from((0.0, 0.0, 1000.0, -1e6)),
        st.one_of(st.none(), st.none(), st.sampled_from(ODD)),
        st.booleans(),
    )


def differ(found: object, wanted: object, tolerance: float = 1e-3) -> str:
    """Say how two arrays of numbers differ, beyond what float32 leaves; "" if they do not."""
    a, b = np.asarray(found, dtype=np.float64), np.asarray(wanted, dtype=np.float64)
    a, b = np.clip(a, -1e38, 1e38), np.clip(b, -1e38, 1e38)  # the range of float32
    if a.shape != b.shape:
        return f"shape {a.shape}, not {b.shape}"
    near = np.allclose(
        a, b, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(b).max(initial=0)))
    )
    return "" if near else f"{a.ravel()[:3]}, not {b.ravel()[:3]}"


@pytest.mark.parametrize("examples", MANY)
def test_energies_of_points(examples: int) -> None:
    energy = lowland.targets.Gaussian((0.0, 1.0, 2.0), np.eye(3).tolist())

    def check(case: Array) -> None:
        x = case.make()

        def find_error(found: Tensor) -> str:
            wide = x.double().numpy()
            if wide.ndim != 2 or wide.shape[1] != 3:
                return f"points {wide.shape} were taken for those of a domain of shape (3,)"
            right = 0.5 * ((wide - np.array([0.0, 1.0, 2.0])) ** 2).sum(1)
            return differ(found, right, 1e-2 if case.dtype.itemsize < 4 else 1e-3)

        judge("energy_values", lambda: lowland.energy_values(energy, x), find_error)

    explore(arrays((4, 3), (1, 3), (0, 3)), check, examples)


NUMBERS = (
    0.1, 0.5, 1, 2, 3, np.float32(0.25), np.int64(2), np.float64(0.3), 0, -1, True, "0.1", None,
    math.nan, math.inf, 1e300, 1e-300, 2.5, 10**30, (1.0, 2.0), [0.5], torch.tensor(0.1), 1j,
)  # fmt: skip


@pytest.mark.parametrize("examples", MANY)
def test_samplers_with_settings_on_points(examples: int) -> None:
    classes = registered("sampler")
    numeric = {
        name: [k for k, p in parameters(cls).items() if k not in ("sampler", "c")]
        for name, cls in classes.items()
    }

    def bowl(x: Tensor) -> Tensor:
        return 0.5 * x.flatten(1).square().sum(1)

    def make(name: str, changes: dict[str, Any]) -> Any:
        needed = {
            k: {"step_size": 0.1, "steps": 2, "leapfrogs": 2}.get(k, 0.5)
            for k, p in parameters(classes[name]).items()
            if p.default is inspect.Parameter.empty
        }
        if "sampler" in needed:
            needed["sampler"] = lowland.MALA(0.1)
        if "temperatures" in needed:
            needed["temperatures"] = (1.0, 2.0)
        return classes[name](**{**needed, **changes})

    def check(case: tuple[str, Array, int, object, object]) -> None:
        name, points, which, value, steps = case
        x = points.make()
        before = x.clone()
        settings = numeric[name]
        changes = {settings[which % len(settings)]: value} if settings and which >= 0 else {}
        binary = name in ("BlockGibbs", "GibbsWithGradients", "DMALA")
        target = lowland.nets.RBM(lowland.domain.binary(3), n_hidden=2) if binary else bowl

        def run() -> Tensor:
            g = torch.Generator().manual_seed(0)
            return lowland.sample(target, make(name, changes), x, steps, generator=g).x

        def find_error(found: Tensor) -> str:
            if not torch.equal(x.nan_to_num(), before.nan_to_num()):
                return "the caller's points were changed"
            if found.shape != x.shape or found.dtype != x.dtype:
                return f"{found.shape} {found.dtype} from {x.shape} {x.dtype}"
            if found.requires_grad or not found.isfinite().all():
                return "the result requires grad, or is not finite"
            return ""

        judge(f"sample, {name}", run, find_error)

    explore(
        st.tuples(
            st.sampled_from(sorted(classes)),
            arrays((4, 3), (1, 3)),
            st.integers(-4, 8),
            st.sampled_from(NUMBERS),
            st.sampled_from((2, 2, 2, 0, np.int64(3), -1, 2.0, "2", True, 10**30)),
        ),
        check,
        examples,
    )


def _psnr(x: np.ndarray, y: np.ndarray) -> float:
    error = ((x - y) ** 2).reshape(len(x), -1).mean(1)
    with np.errstate(divide="ignore"):
        return float(np.mean(-10 * np.log10(error)))


PAIRS: dict[str, tuple[Callable[..., Any], Callable[[np.ndarray, np.ndarray], object]]] = {
    "auroc": (
        lambda x, y: metrics.auroc(x, y).value,
        lambda x, y: roc_auc_score(np.r_[np.zeros(len(x)), np.ones(len(y))], np.r_[x, y]),
    ),
    "nearest": (lambda x, y: metrics.nearest(x, y)[0], lambda x, y: cdist(x, y).min(1)),
    "psnr": (lambda x, y: metrics.psnr(x, y).value, _psnr),
}
SHAPES = {
    "auroc": ((6,), (9,)),
    "nearest": ((6, 3), (9, 3)),
    "psnr": ((3, 1, 5, 5), (3, 1, 5, 5)),
}


@pytest.mark.parametrize("examples", MANY)
@pytest.mark.parametrize("name", sorted(PAIRS))
def test_metrics_of_two_arrays(name: str, examples: int) -> None:
    measure, formula = PAIRS[name]

    def check(case: tuple[Array, Array]) -> None:
        x, y = case[0].make(), case[1].make()

        def find_error(found: object) -> str:
            if x.is_complex() or y.is_complex() or not (x.isfinite().all() and y.isfinite().all()):
                return "numbers that are complex or not finite were measured"
            if x[:1].numel() != y[:1].numel():
                return f"events {tuple(x.shape[1:])} met events {tuple(y.shape[1:])}"
            one, two = x.double().numpy(), y.double().numpy()
            if name == "nearest":
                one, two = one.reshape(len(one), -1), two.reshape(len(two), -1)
            right = formula(one, two)
            return differ(np.nan_to_num(np.asarray(found)), np.nan_to_num(right))

        judge(name, lambda: measure(x, y), find_error)

    one, two = SHAPES[name]
    explore(st.tuples(arrays(one), arrays(two)), check, examples)


@pytest.mark.parametrize("examples", MANY)
def test_p_values_of_detectors(examples: int) -> None:
    def bowl(x: Tensor) -> Tensor:
        return 0.5 * x.flatten(1).square().sum(1)

    def check(case: tuple[Array, Array, object]) -> None:
        fitted, tested, alpha = case[0].make(), case[1].make(), case[2]

        def run() -> tuple[Tensor, Tensor]:
            detector = lowland.Detector(bowl).fit(fitted)
            return detector.p_value(tested), detector.predict(tested, alpha)

        def find_error(found: tuple[Tensor, Tensor]) -> str:
            p, flagged = found
            known = 0.5 * fitted.double().flatten(1).square().sum(1)
            new = 0.5 * tested.double().flatten(1).square().sum(1)
            if fitted.shape[1:] != tested.shape[1:]:
                return f"points {tuple(tested.shape)} after calibration with {tuple(fitted.shape)}"
            room = 1e-3 * known.abs().max()  # ties that float32 may break either way
            upper = (1 + (known >= new[:, None] - room).sum(1)) / (1 + len(known))
            lower = (1 + (known >= new[:, None] + room).sum(1)) / (1 + len(known))
            if not ((p.double() <= upper + 1e-6) & (p.double() >= lower - 1e-6)).all():
                return f"p {p[:3].tolist()}, between {lower[:3].tolist()} and {upper[:3].tolist()}"
            wrong = flagged.bool() != (p <= float(alpha))  # type: ignore[arg-type]
            return "predict contradicts p_value" if wrong.any() else ""

        judge("Detector", run, find_error)

    alphas = (0.1, 0.2, 0.5, np.float32(0.25), 0, 1, True, "0.1", math.nan, -0.1, 1e-9, None)
    explore(
        st.tuples(arrays((30, 2), (99, 2)), arrays((4, 2), (1, 2)), st.sampled_from(alphas)),
        check,
        examples,
    )
