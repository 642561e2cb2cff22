"""A second device, `sim`, without hardware: what runs on it would run on a GPU.

Take the fixture `sim` (or `sim32`, which has no float64, like MPS); it is a `torch.device`:

    def test_my_part_runs_on_another_device(sim):
        energy = MyEnergy().to(sim)
        x = torch.randn(8, 2, device=sim, generator=torch.Generator(sim).manual_seed(0))
        assert energy(x).device == sim

- A tensor of the device that meets a CPU tensor raises RuntimeError, as on CUDA; 0-dim CPU
  tensors pass in pointwise operations, CPU indices in `x[index]`.
- A generator belongs to one device, and another device's is refused. Seeded alike,
  `torch.Generator(sim)` draws the same bits as `torch.Generator()`: a result on the device can
  be compared with the CPU's.
- `count_synchronisations()` records what would make the CPU wait for a GPU (`item`, `bool`,
  copies to the CPU, `nonzero`, a boolean index, ...) and which line of lowland asked for it, as
  `record.waits`; blocking copies to the device stand apart as `record.uploads`.
- `count_per_step(run, steps)` runs `run(steps)` and `run(2 * steps)` and returns by place what
  grew: empty if a step costs no synchronisation.
- `torch.sim` and `torch.accelerator` know of the device only inside the fixture. `pin_memory`
  works there. Backward runs in the calling thread. Where torch is too old the fixture skips.

- `compare_devices(run, sim)` runs `run(device, generator)` on both devices and compares all
  numbers in the results.
- `PERMITTED` is the table of synchronisations that a step may cost; `excess(grown, steps,
  [permission, ...])` lists what it does not permit.

    with count_synchronisations() as record:
        run()
    assert not record.waits, record
"""

from simulated.backend import simulate
from simulated.comparison import compare_devices
from simulated.counting import (
    Place,
    Record,
    count_per_step,
    count_synchronisations,
)
from simulated.permitted import PERMITTED, Permission, excess

__all__ = [
    "PERMITTED",
    "Permission",
    "Place",
    "Record",
    "compare_devices",
    "count_per_step",
    "count_synchronisations",
    "excess",
    "simulate",
]
