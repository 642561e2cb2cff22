"""Which of several processes this is, as torchrun's environment says."""

import os
from typing import NamedTuple


class Launch(NamedTuple):
    """Place of this process among those that torchrun started: rank from 0, number of processes,
    and rank on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0


def read_launch() -> Launch:
    """Read RANK, WORLD_SIZE and LOCAL_RANK. One process alone unless both of the first are there:
    one of them by itself was set by something else.

    Raises ValueError for values that torchrun does not set.
    """
    if not os.environ.get("RANK") or not os.environ.get("WORLD_SIZE"):
        return Launch()
    texts = [os.environ.get(name) or "0" for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")]
    if all(text.isascii() and text.isdigit() and len(text) < 10 for text in texts):
        found = Launch(*map(int, texts))
        if found.rank < found.size:
            return found
    raise ValueError(
        f"RANK is {texts[0]!r}, WORLD_SIZE {texts[1]!r} and LOCAL_RANK {texts[2]!r} in the "
        "environment; torchrun sets them to whole numbers, the rank below the size; start with "
        "torchrun, or unset them"
    )
