"""Devices: how one is picked and refused, and that every use of a run takes place on it."""

import pytest
import torch

import lowland
from lowland import devices
from lowland.devices import (
    check_generator,
    float64_device,
    list_devices,
    pick_device,
    same_device,
    to_float64,
)

# ------------------------------------------------------------------------------ picking


def see(monkeypatch: pytest.MonkeyPatch, *names: str, unusable: str = "") -> None:
    """Let `devices` see devices that are not here; torch cannot use the one named last."""
    monkeypatch.setattr(devices, "list_devices", lambda: ["cpu", *names])
    monkeypatch.setattr(
        devices, "_find_trouble", lambda device: "no kernel" * (str(device) == unusable)
    )


@pytest.mark.parametrize("wrong", ["cuda:99", "meta", "", None, 3, True, "cuda:-1", "CPU", "cpu:1"])
def test_what_is_no_device_of_this_machine_is_refused(wrong: object) -> None:
    with pytest.raises(ValueError, match=r"^device is .*; here are cpu.*; use 'auto', or one of "):
        pick_device(wrong)  # type: ignore[arg-type]


def test_meta_is_refused_as_a_device_of_torch_too() -> None:
    with pytest.raises(ValueError, match=r"^device is .meta.; "):
        pick_device(torch.device("meta"))


@pytest.mark.parametrize(
    ("there", "picked"),
    [
        (["cuda:0", "cuda:1", "mps", "xpu:0"], "cuda:0"),
        (["mps", "xpu:0"], "mps"),
        (["xpu:0"], "xpu:0"),
        (["sim:0"], "cpu"),
        ([], "cpu"),
    ],
)
def test_auto_takes_the_first_that_is_there(
    monkeypatch: pytest.MonkeyPatch, there: list[str], picked: str
) -> None:
    see(monkeypatch, *there)
    assert str(pick_device()) == str(pick_device("auto")) == picked


def test_auto_goes_past_a_device_that_cannot_be_used_and_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    see(monkeypatch, "cuda:0", "mps", unusable="cuda:0")
    with pytest.warns(UserWarning, match="cuda:0 is there and torch cannot use it .no kernel"):
        assert str(pick_device("auto")) == "mps"
    with pytest.raises(ValueError, match=r"sees and cannot use \(no kernel\); .*; use 'auto'"):
        pick_device("cuda")


def test_each_process_of_torchrun_has_a_device_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    see(monkeypatch, "cuda:0", "cuda:1")
    for name, value in (("RANK", "5"), ("WORLD_SIZE", "8"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    assert str(pick_device("auto")) == str(pick_device("cuda")) == "cuda:1"
    assert str(pick_device("cuda:0")) == "cuda:0"
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(ValueError, match=r"process 2 .*; it has 2 .*; start at most 2"):
        pick_device("auto")
    see(monkeypatch, "cuda:0")  # the launcher shows each process one device
    assert str(pick_device("auto")) == "cuda:0"


def test_a_cuda_without_a_usable_driver_is_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    def warn() -> bool:
        import warnings

        warnings.warn("CUDA initialization: the driver is too old", stacklevel=2)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", warn)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert "cuda:0" not in list_devices()
    assert pick_device("auto").type != "cuda"


def test_float64_is_computed_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert float64_device(torch.device("cpu")) == torch.device("cpu")
    assert to_float64(torch.ones(2, dtype=torch.int32)).dtype == torch.float64
    monkeypatch.setattr(devices, "has_float64", lambda device: False)
    assert float64_device(torch.device("mps")) == torch.device("cpu")


def test_a_generator_of_another_device_is_refused() -> None:
    g = torch.Generator()
    check_generator(g, torch.device("cpu"))
    with pytest.raises(ValueError, match=r"draws on cpu .* on cuda:0; .*; pass torch.Generator"):
        check_generator(g, torch.device("cuda:0"))
    assert same_device(torch.device("cuda"), torch.device("cuda:3"))
    assert not same_device(torch.device("cuda:1"), torch.device("cuda:3"))


def test_points_and_energies_of_two_devices_are_told_apart(sim: torch.device) -> None:
    here, there = lowland.nets.MLP(lowland.real(2)), lowland.nets.MLP(lowland.real(2)).to(sim)
    x, g = torch.zeros(4, 2), torch.Generator().manual_seed(0)
    doors = [
        lambda: lowland.sample(there, lowland.MALA(0.1), x, 2, generator=g),
        lambda: lowland.energy_values(there, x),
        lambda: lowland.check_energy(there, x),
        lambda: lowland.purify(there, x, generator=g),
        lambda: lowland.energy_values(here, x.to(sim)),
    ]
    for door in doors:
        with pytest.raises(ValueError, match=r"points are on \w+(:0)? and the energy on .*; move"):
            door()


def test_a_buffer_restores_chains_of_another_device_on_its_own(sim: torch.device) -> None:
    here = lowland.ReplayBuffer(8, lowland.real(2), generator=torch.Generator().manual_seed(0))
    there = lowland.ReplayBuffer(8, lowland.real(2), generator=torch.Generator(sim).manual_seed(1))
    there.load_state_dict(here.state_dict())
    assert there.x.device.type == sim.type and torch.equal(there.x.cpu(), here.x)
    here.load_state_dict(there.state_dict())
    assert here.x.device.type == "cpu" and here.x is not there.x
