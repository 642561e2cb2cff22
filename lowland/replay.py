"""Replay buffer of persistent contrastive divergence.

Only points are stored. Energy and score belong to the energy that made them and are computed anew
at every visit.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.domain import Domain
from lowland.energy.sizes import check_allocation
from lowland.scalars import read_integer, read_number


class BufferBatch(NamedTuple):
    """Chains sampled from a buffer: slots (B,), points x (B, *event), labels (B,) or None, and
    reinitialized (B,) bool, true of chains that have just begun anew.
    """

    slots: Tensor
    x: Tensor
    labels: Tensor | None
    reinitialized: Tensor


class ReplayBuffer:
    """Replay buffer of persistent chains, in one tensor on one device.

    `sample` distinct slots, move their points, and `update` the slots with what came out. capacity:
    number of chains; reinit_prob: probability with which a sampled chain begins anew from the
    domain's starting distribution. Labels are assigned evenly and stay with their slot: chain and
    class belong together. `age` counts the sampler steps since a chain began anew.
    Source: Tieleman (2008), https://doi.org/10.1145/1390156.1390290; Du & Mordatch (2019),
    https://arxiv.org/abs/1903.08689

    >>> import torch
    >>> from lowland.domain import box
    >>> g = torch.Generator().manual_seed(0)
    >>> buffer = ReplayBuffer(100, box(0.0, 1.0, 2), generator=g)
    >>> batch = buffer.sample(10, g)
    >>> _ = buffer.update(batch, batch.x * 0, steps=20)
    >>> int(buffer.age.max())
    20
    """

    def __init__(
        self,
        capacity: int,
        domain: Domain,
        *,
        generator: torch.Generator,
        classes: int = 0,
        reinit_prob: float = 0.05,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        capacity = read_integer("capacity", capacity, least=1)
        classes = read_integer("classes", classes, least=0)
        reinit_prob = read_number("reinit_prob", reinit_prob, least=0, most=1)
        check_allocation(f"a buffer of {capacity:,} chains", (capacity, *domain.shape), dtype)
        self.capacity, self.domain, self.classes = capacity, domain, classes
        self.reinit_prob = reinit_prob
        self.x = domain.draw(capacity, generator, dtype=dtype)
        self.age = torch.zeros(capacity, dtype=torch.long, device=self.x.device)
        self.labels: Tensor | None = None
        if classes:
            self.labels = torch.arange(capacity, device=self.x.device) % classes

    def __len__(self) -> int:
        return self.capacity

    def sample(self, count: int, generator: torch.Generator) -> BufferBatch:
        """Draw distinct slots at random and reinitialize a share of them. Raises ValueError if
        count exceeds the capacity.
        """
        count = read_integer("count", count)
        if not 1 <= count <= self.capacity:
            raise ValueError(
                f"{count} chains were asked of a buffer of {self.capacity}; slots must be "
                "distinct; raise the capacity or sample fewer"
            )
        device = self.x.device
        if count == self.capacity and not self.reinit_prob:  # all go, none begins anew
            slots = torch.arange(count, device=device)
            none = torch.zeros_like(slots, dtype=torch.bool)
            return BufferBatch(slots, self.x, self.labels, none)
        slots = torch.randperm(self.capacity, generator=generator, device=device)[:count]
        new = torch.rand(count, generator=generator, device=device) < self.reinit_prob
        start = self.domain.draw(count, generator, dtype=self.x.dtype)
        x = torch.where(new.view(-1, *[1] * (start.dim() - 1)), start, self.x[slots])
        return BufferBatch(slots, x, None if self.labels is None else self.labels[slots], new)

    def update(
        self, batch: BufferBatch, x: Tensor, steps: int, labels: Tensor | None = None
    ) -> Tensor:
        """Write moved points (and labels, if they moved too) back to the slots of a batch; return
        how many points were not finite, a number () on the device: those slots keep their old
        point.
        """
        # a sum is finite if all terms are, unless they overflow, and then x has left
        finite, slots, x = x.flatten(1).sum(1).isfinite(), batch.slots, x.detach()
        if len(x) == self.capacity and not self.reinit_prob:  # all, in order; a batch holds the old
            on_cpu = finite.device.type == "cpu"  # a GPU is not asked, it would wait
            if not (on_cpu and bool(finite.all())):
                x = torch.where(finite.view(-1, *[1] * (x.dim() - 1)), x, self.x)
            self.x, self.age = x, torch.where(finite, self.age + steps, self.age)
            if self.labels is not None and labels is not None:
                self.labels = torch.where(finite, labels, self.labels)
            return (~finite).sum()
        age = torch.where(batch.reinitialized, 0, self.age[slots]) + steps
        self.x[slots] = torch.where(finite.view(-1, *[1] * (x.dim() - 1)), x, self.x[slots])
        self.age[slots] = torch.where(finite, age, self.age[slots])
        if self.labels is not None and labels is not None:
            self.labels[slots] = torch.where(finite, labels, self.labels[slots])
        return (~finite).sum()

    def reinit(self, share: float, generator: torch.Generator) -> int:
        """Reinitialize the oldest chains, a share of all (rounded up), in their slots; return how
        many.
        """
        share = read_number("share", share, least=0, most=1)
        count = math.ceil(share * self.capacity)
        slots = self.age.argsort(descending=True, stable=True)[:count]
        x = self.x.clone()  # a batch may still hold the old one
        x[slots] = self.domain.draw(count, generator, dtype=x.dtype)
        self.x, self.age = x, self.age.index_fill(0, slots, 0)
        return count

    def state_dict(self) -> dict[str, Tensor]:
        """Return the tensors that `load_state_dict` restores exactly."""
        state = {"x": self.x, "age": self.age}
        if self.labels is not None:
            state["labels"] = self.labels
        return state

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore chains, on this buffer's device. Raises ValueError if the shapes are those of
        another buffer.
        """
        if state["x"].shape != self.x.shape:
            raise ValueError(
                f"saved chains have shape {tuple(state['x'].shape)}; this buffer holds "
                f"{tuple(self.x.shape)}; build the buffer with the saved capacity and domain"
            )
        own = {name: saved.to(self.x.device, copy=True) for name, saved in state.items()}
        self.x, self.age, self.labels = own["x"], own["age"], own.get("labels")
