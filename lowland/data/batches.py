"""Training batches whose position in the data is two whole numbers.

Epoch e visits the data in a permutation that is a function of (seed, e) alone, so (epoch, offset)
is all that a checkpoint has to hold, and a resumed run sees exactly the batches that an
uninterrupted one would have seen.
"""

from typing import Any

import torch
from torch import Tensor

from lowland.data.dataset import Split
from lowland.seeds import make_generator


class Batches:
    """Endless iterator over a split, in a new order each epoch; `next` gives the next examples.

    rank, size: of several processes that divide each batch. All go through the same order, and each
    takes the rank-th of `size` equal pieces of every batch: together they see what one process
    would have seen.

    >>> batches = Batches(Split(torch.arange(5.0)), seed=0)
    >>> first, second = batches.next(3)[0], batches.next(3)[0]
    >>> batches.state_dict()
    {'epoch': 1, 'offset': 1}

    Raises ValueError if the split is empty.
    """

    def __init__(self, split: Split, *, seed: int = 0, rank: int = 0, size: int = 1) -> None:
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
        self.epoch = 0
        self.offset = 0
        self._order: tuple[int, Tensor] | None = None  # the permutation of the current epoch

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
        part = self.split.take(own.to(self.split.x.device))
        return part.x, part.y

    def state_dict(self) -> dict[str, int]:
        """Return the position: {"epoch", "offset"}."""
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
        self.epoch, self.offset = epoch, offset
