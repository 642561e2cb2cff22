"""Without an optional library the door that needs it says so in words, and every other is open."""

import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import lowland
from lowland.extras import EXTRAS, LibraryError, import_extra
from lowland.nets import noise_models
from lowland.training.tensorboard import Board

ROOT = Path(lowland.__file__).parent.parent
OFFERED = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"][
    "optional-dependencies"
]


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def square(x: torch.Tensor) -> torch.Tensor:
    return x.square().sum(1)


def read_parquet(folder: Path) -> object:
    (folder / "cifar10-jpeg").mkdir()
    for part in ("train", "test"):
        (folder / "cifar10-jpeg" / f"{part}.parquet").touch()
    return lowland.load_data("cifar10-jpeg", root=folder)


def attack_by_library(_: Path) -> object:
    from lowland.interop import AutoAttack

    x = torch.rand(2, 1, 4, 4, generator=seeded())
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16, 4))
    return AutoAttack()(net, x, torch.zeros(2, dtype=torch.long), 0.1, generator=seeded())


DOORS: dict[str, Callable[[Path], object]] = {
    "pyarrow": read_parquet,
    "zuko": lambda _: noise_models.FlowNoise(lowland.real(2), torch.rand(9, 2)),
    "arviz_base": lambda _: lowland.to_arviz(
        lowland.sample(square, lowland.MALA(0.5), torch.zeros(4, 2), 5, generator=seeded(), thin=1)
    ),
    "tensorboard": Board,
    "pytorch_ood": lambda _: lowland.to_pytorch_ood(lowland.tasks.Detector(square)),
    "pyod": lambda _: lowland.to_pyod(square),
    "deepinv": lambda _: lowland.to_deepinv(lowland.targets.Gaussian()),
    "pyautoattack": attack_by_library,
}


class Missing:
    """A finder of modules by which a package, and all that is in it, is not to be found."""

    def __init__(self, package: str, error: Exception) -> None:
        self.package, self.error = package, error

    def find_spec(self, name: str, *_: object) -> ModuleType | None:
        if name.partition(".")[0] == self.package:
            raise self.error
        return None


def take_away(package: str, error: Exception, patch: pytest.MonkeyPatch) -> None:
    """Let the import of a package fail."""
    patch.setattr(sys, "meta_path", [Missing(package, error), *sys.meta_path])
    for name in [name for name in sys.modules if name.partition(".")[0] == package]:
        patch.delitem(sys.modules, name)
    if package == "tensorboard":
        patch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)


def test_every_extra_has_a_door_and_every_library_an_extra() -> None:
    assert set(DOORS) == set(EXTRAS)
    assert {extra.extra for extra in EXTRAS.values()} | {"test", "sklearn"} == set(OFFERED)
    for extra in EXTRAS.values():
        wanted = [line.partition(">")[0].partition("[")[0] for line in OFFERED[extra.extra]]
        assert extra.library in wanted, f"lowland[{extra.extra}] does not bring {extra.library}"


@pytest.mark.parametrize("package", DOORS)
def test_the_door_says_what_is_missing(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take_away(
        package, ModuleNotFoundError(f"No module named {package!r}", name=package), monkeypatch
    )
    with pytest.raises(ValueError, match=r"; .*; ") as caught:
        DOORS[package](tmp_path)
    said = str(caught.value)
    assert EXTRAS[package].library in said and EXTRAS[package].command in said


def test_a_library_that_is_there_but_broken_is_said_to_be(monkeypatch: pytest.MonkeyPatch) -> None:
    take_away("zuko", RuntimeError("compiled against another version"), monkeypatch)
    with pytest.raises(
        LibraryError, match=r"is installed but .*RuntimeError: compiled.*; .*; mend"
    ):
        import_extra("zuko")
    inner: Any = ModuleNotFoundError("No module named 'numba'", name="numba")
    take_away("zuko", inner, monkeypatch)
    with pytest.raises(ImportError, match=r"is installed but .*numba"):
        import_extra("zuko.flows")


def test_estimators_name_the_scikit_learn_they_need(monkeypatch: pytest.MonkeyPatch) -> None:
    from sklearn.utils import validation

    for name in [name for name in sys.modules if name.startswith("lowland.interop.sklearn")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(validation, "validate_data")
    with pytest.raises(
        ImportError, match=r"1.6 or newer .*; .*; run pip install 'lowland\[sklearn\]"
    ):
        import lowland.interop.sklearn  # noqa: F401
