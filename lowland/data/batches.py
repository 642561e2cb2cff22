"""Training batches whose position in the data is two whole numbers.

Epoch e visits the data in a permutation that is a function of (seed, e) alone, so (epoch, offset)
is all that a checkpoint has to hold, and a resumed run sees exactly the batches that an
uninterrupted one would have seen.

On a CPU a batch is cut out of the data when it is asked for, and nothing else happens. For any
other device the rows of the next batch are gathered, pinned and sent while the device is still at
work on this one (`prepare`, `lowland.transfer`), so that neither waits for the other. Data that lie
on the device already stay there: only the numbers of the rows are sent. That is the choice for data
that fit beside the model: `Split(x.to("cuda"), y.to("cuda"))`.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from lowland.data.dataset import Split
from lowland.seeds import make_generator
from lowland.transfer import send


class _Prepared(NamedTuple):
    """A batch under way: its size, x and y, and the position in the data before it."""

    size: int
    x: Tensor
    y: Tensor | None
    before: dict[str, int]


class Batches:
    """Endless iterator over a split, in a new order each epoch; `next` gives the next examples.

    rank, size: of several processes that divide each batch. All go through the same order, and each
    takes the rank-th of `size` equal pieces of every batch: together they see what one process
    would have seen. device: where the examples are needed; where they lie unless given.

    >>> batches = Batches(Split(torch.arange(5.0)), seed=0)
    >>> first, second = batches.next(3)[0], batches.next(3)[0]
    >>> batches.state_dict()
    {'epoch': 1, 'offset': 1}

    Raises ValueError if the split is empty.
    """

    def __init__(
        self,
        split: Split,
        *,
        seed: int = 0,
        rank: int = 0,
        size: int = 1,
        device: torch.device | None = None,
    ) -> None:
        if len(split) == 0:
            raise ValueError(
                "the part holds no examples; batches need at least one; give a part with data"
            )
        if not 0 <= rank < size:
            raise ValueError(
                f"the rank is {rank} of {size}; ranks go from 0 to {size - 1}; pass both, or "
                "neither"
            )
        self.split = split
        self.seed = seed
        self.rank, self.size = rank, size
        self.device = device or split.x.device
        self.epoch = 0
        self.offset = 0
        self._order: tuple[int, Tensor] | None = None  # the permutation of the current epoch
        self._prepared: _Prepared | None = None

    def order(self, epoch: int) -> Tensor:
        """Return the permutation (N,) of an epoch, a function of (seed, epoch) alone."""
        if self._order is None or self._order[0] != epoch:
            generator = make_generator(self.seed, epoch)
            self._order = epoch, torch.randperm(len(self.split), generator=generator)
        return self._order[1]

    def next(self, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Return the next x (batch_size, *shape) and y (batch_size,) or None; of several
        processes, this one's piece of them.

        Where an epoch ends inside a batch, the batch is completed from the next epoch. Raises
        ValueError for a batch size that cannot be divided among the processes.
        """
        ready, self._prepared = self._prepared, None
        if ready is not None and ready.size != batch_size:
            self.load_state_dict(ready.before)
            ready = None
        if ready is not None:
            return ready.x, ready.y
        return self._cut(batch_size)

    def prepare(self, batch_size: int) -> None:
        """Begin to send the next batch, where the device is another than the CPU. Raises ValueError
        as `next` does.
        """
        if self._prepared is None and self.device.type != "cpu":
            before = self.state_dict()
            self._prepared = _Prepared(batch_size, *self._cut(batch_size), before)

    def _cut(self, batch_size: int) -> tuple[Tensor, Tensor | None]:
        """Cut the next batch out of the data, and begin to send it."""
        if batch_size < 1:
            raise ValueError(
                f"the batch size is {batch_size}; it must be at least 1; pass for example 128"
            )
        if batch_size % self.size:
            raise ValueError(
                f"the batch size is {batch_size} and {self.size} processes run; each takes an "
                f"equal piece; pass a multiple of {self.size}, for example "
                f"{self.size * max(1, round(batch_size / self.size))}"
            )
        pieces, missing = [], batch_size
        while missing:
            piece = self.order(self.epoch)[self.offset : self.offset + missing]
            pieces.append(piece)
            missing -= len(piece)
            self.offset += len(piece)
            if self.offset == len(self.split):
                self.epoch, self.offset = self.epoch + 1, 0
        own = torch.cat(pieces).view(self.size, -1)[self.rank]
        part = self.split.take(send(own, self.split.x.device))
        return send(part.x, self.device), None if part.y is None else send(part.y, self.device)

    def state_dict(self) -> dict[str, int]:
        """Return the position of what comes next, whatever is under way: {"epoch", "offset"}."""
        if self._prepared is not None:
            return dict(self._prepared.before)
        return {"epoch": self.epoch, "offset": self.offset}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go to a position that `state_dict` gave. Raises ValueError if this part has no such
        position.
        """
        epoch, offset = state.get("epoch"), state.get("offset")
        if not (
            isinstance(epoch, int)
            and isinstance(offset, int)
            and epoch >= 0
            and 0 <= offset < len(self.split)
        ):
            raise ValueError(
                f"the position is {state}; it needs a whole epoch from 0 and an offset of 0 to "
                f"{len(self.split) - 1}; resume with the data that the run began with"
            )
        self.epoch, self.offset, self._prepared = epoch, offset, None
