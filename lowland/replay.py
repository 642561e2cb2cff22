"""Chains remember where they got to: the replay buffer of persistent contrastive divergence.

Only points are stored. Energy and score belong to the energy that made them and are computed anew
at every visit.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.domain import Domain


class Visit(NamedTuple):
    """Chains taken out of the buffer: slots (B,), points x (B, *event), labels (B,) or None, fresh
    (B,) bool.
    """

    slots: Tensor
    x: Tensor
    labels: Tensor | None
    fresh: Tensor


class ReplayBuffer:
    """Persistent chains in one tensor on one device: `take` distinct slots, move them, `put` them
    back where they were.

    capacity: number of chains; restart: share of the visited chains that begin anew from the
    domain's starting law. Labels are dealt evenly and stay with their slot: chain and class belong
    together. `age` counts the sampler steps since a chain began anew. Source: Tieleman (2008),
    https://doi.org/10.1145/1390156.1390290; Du & Mordatch (2019), https://arxiv.org/abs/1903.08689

    >>> import torch
    >>> from lowland.domain import box
    >>> g = torch.Generator().manual_seed(0)
    >>> buffer = ReplayBuffer(100, box(0.0, 1.0, 2), generator=g)
    >>> visit = buffer.take(10, g)
    >>> _ = buffer.put(visit, visit.x * 0, steps=20)
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
        restart: float = 0.05,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        if capacity < 1:
            raise ValueError(
                f"capacity is {capacity}; the buffer needs at least one chain; 10000 is a common "
                "choice"
            )
        if not 0 <= restart <= 1:
            raise ValueError(
                f"restart is {restart}; it is a share between 0 and 1; 0.05 is a common choice"
            )
        self.capacity, self.domain, self.classes, self.restart = capacity, domain, classes, restart
        self.x = domain.draw(capacity, generator, dtype=dtype)
        self.age = torch.zeros(capacity, dtype=torch.long, device=self.x.device)
        self.labels = torch.arange(capacity, device=self.x.device) % classes if classes else None

    def __len__(self) -> int:
        return self.capacity

    def take(self, count: int, generator: torch.Generator) -> Visit:
        """Distinct slots, drawn at random; a share of them restarted. Raises ValueError if count
        exceeds the capacity.
        """
        if not 1 <= count <= self.capacity:
            raise ValueError(
                f"{count} chains were asked of a buffer of {self.capacity}; slots must be "
                "distinct; raise the capacity or take fewer"
            )
        device = self.x.device
        if count == self.capacity and not self.restart:  # all go, none begins anew
            slots, fresh = (
                torch.arange(count, device=device),
                torch.zeros(count, dtype=torch.bool, device=device),
            )
            return Visit(slots, self.x, self.labels, fresh)
        slots = torch.randperm(self.capacity, generator=generator, device=device)[:count]
        fresh = torch.rand(count, generator=generator, device=device) < self.restart
        new = self.domain.draw(count, generator, dtype=self.x.dtype)
        x = torch.where(fresh.view(-1, *[1] * (new.dim() - 1)), new, self.x[slots])
        return Visit(slots, x, None if self.labels is None else self.labels[slots], fresh)

    def put(self, visit: Visit, x: Tensor, steps: int, labels: Tensor | None = None) -> int:
        """Write moved points (and labels, if they moved too) back to their slots.

        Returns how many points were not finite: those slots keep their old point.
        """
        finite = (
            x.flatten(1).sum(1).isfinite()
        )  # a sum is finite if all terms are, unless they overflow, and then x has left
        if len(x) == self.capacity and not self.restart and bool(finite.all()):
            self.x, self.age = x.detach(), self.age + steps
            self.labels = labels if self.labels is not None and labels is not None else self.labels
            return 0
        self.x[visit.slots[finite]] = x[finite].detach()
        age = torch.where(visit.fresh, 0, self.age[visit.slots]) + steps
        self.age[visit.slots[finite]] = age[finite]
        if self.labels is not None and labels is not None:
            self.labels[visit.slots[finite]] = labels[finite]
        return int((~finite).sum())

    def renew(self, share: float, generator: torch.Generator) -> int:
        """Begin the oldest chains anew, a share of all (rounded up), in their slots; returns how
        many.
        """
        count = math.ceil(share * self.capacity)
        slots = self.age.argsort(descending=True, stable=True)[:count]
        x = self.x.clone()  # a visit may still hold the old one
        x[slots] = self.domain.draw(count, generator, dtype=x.dtype)
        self.x, self.age = x, self.age.index_fill(0, slots, 0)
        return count

    def state_dict(self) -> dict[str, Tensor]:
        """Tensors that `load_state_dict` restores exactly."""
        labels = {} if self.labels is None else {"labels": self.labels}
        return {"x": self.x, "age": self.age, **labels}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Restore chains. Raises ValueError if the shapes are those of another buffer."""
        if state["x"].shape != self.x.shape:
            raise ValueError(
                f"saved chains have shape {tuple(state['x'].shape)}; this buffer holds "
                f"{tuple(self.x.shape)}; build the buffer with the saved capacity and domain"
            )
        self.x, self.age = state["x"].clone(), state["age"].clone()
        self.labels = state["labels"].clone() if "labels" in state else None
