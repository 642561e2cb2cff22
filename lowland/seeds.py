"""Random streams: independent generators from a seed and a purpose, or from another generator.

Every draw in the library takes a generator. Where one seed must serve several purposes (epochs,
processes, pieces, parts of an evaluation), each has a stream of its own, so that adding one leaves
the draws of the others as they were.
"""

import zlib

import numpy as np
import torch

from lowland.scalars import read_integer


def make_generator(
    seed: int, *purpose: int | str, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Make a generator that is a function of a seed and a purpose: numbers (an epoch, a rank) and
    names.

    seed: any whole number, of Python or NumPy, of any size. Raises ValueError for other seeds, and
    for purposes below 0.

    >>> a, b, c = (make_generator(0, "restoration", k) for k in (1, 2, 1))
    >>> a.initial_seed() == c.initial_seed() != b.initial_seed()
    True
    """
    whole = read_integer("seed", seed)
    words = [
        zlib.crc32(p.encode()) if isinstance(p, str) else read_integer("a purpose", p, least=0)
        for p in purpose
    ]
    beyond = [] if -(2**63) <= whole < 2**64 else [*divmod(abs(whole), 2**64), int(whole < 0)]
    sequence = np.random.SeedSequence([whole % 2**64, *words, *beyond])
    state = sequence.generate_state(1, np.uint64)
    return torch.Generator(device).manual_seed(int(state[0]) % 2**63)


def spawn(generator: torch.Generator, device: torch.device | str | None = None) -> torch.Generator:
    """Make a generator whose seed is drawn from another one, on its device unless one is given."""
    seed = torch.randint(2**62, (), generator=generator, device=generator.device)
    return torch.Generator(device or generator.device).manual_seed(int(seed))
