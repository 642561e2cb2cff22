"""Lattices of spins packed 64 chains a machine word, split by colour of the checkerboard.

Bit l of word w holds the spin of chain 64 w + l at one site. Sites of one colour lie together,
(rows, half · words): half a row of sites, a few words each. Around them is a frame that repeats the
far side of a periodic lattice, so that every neighbour of a site, which has the other colour, is at
a fixed distance.
"""

from typing import NamedTuple

import torch
from torch import Tensor

LANES = 64  # chains a word

Degrees = tuple[tuple[int, Tensor | None], ...]


class Neighbours(NamedTuple):
    """Views of the other colour, (rows, half · words) each.

    up, down: the rows next to a site; before, same, after: places in its own row.
    """

    up: Tensor
    down: Tensor
    before: Tensor
    same: Tensor
    after: Tensor


class Colour(NamedTuple):
    """One colour of the checkerboard and its neighbours.

    framed: (rows + 2, (half + 2) · words); spins: the view without the frame, (rows, half · words);
    around: neighbours of the other colour; left: (rows, 1), all ones in rows where the neighbours
    in the row are at the same place and before, 0 where at the same place and after; degrees:
    numbers of neighbours, each with a mask of its sites, None for all; rings: whether rows and
    whether columns go round; frame: pairs of a part of the frame and what it repeats, in order.
    """

    framed: Tensor
    spins: Tensor
    around: Neighbours
    left: Tensor
    degrees: Degrees
    rings: tuple[bool, bool]
    frame: tuple[tuple[Tensor, Tensor], ...]

    def rows(self, start: int, stop: int) -> "Colour":
        """Return rows start to stop, without the frame."""
        degrees = tuple((d, None if mask is None else mask[start:stop]) for d, mask in self.degrees)
        around = Neighbours(*(view[start:stop] for view in self.around))
        return self._replace(
            spins=self.spins[start:stop],
            around=around,
            left=self.left[start:stop],
            degrees=degrees,
            frame=(),
        )

    def close(self) -> None:
        """Copy the spins to the frame that repeats them."""
        for part, source in self.frame:
            part.copy_(source)


def applies(size: tuple[int, int], periodic: bool) -> bool:
    """Return True if the lattice has a checkerboard: every ring is even."""
    return not periodic or all(n == 1 or n % 2 == 0 for n in size)


def pack(x: Tensor) -> Tensor:
    """Pack points of 0 and 1 (B, rows, columns) to words (rows, columns, words), zero beyond B."""
    count, rows, columns = x.shape
    words = -(-count // LANES)
    bits = x.flatten(1).bool().view(torch.uint8)
    if count % LANES:
        bits = torch.cat([bits, bits.new_zeros(words * LANES - count, rows * columns)])
    bits = bits.view(words, 8, 8, rows * columns)
    octets = bits[:, :, 0].clone()
    for i in range(1, 8):
        octets.add_(bits[:, :, i], alpha=2**i)
    ordered = octets.permute(2, 0, 1).clone(memory_format=torch.contiguous_format)
    return ordered.view(torch.int64).view(rows, columns, words)


def unpack(words: Tensor, like: Tensor) -> Tensor:
    """Unpack words (rows, columns, words) to points with the chains and dtype of `like`."""
    rows, columns, count = words.shape
    octets = words.view(torch.uint8).view(rows * columns, count, 8).permute(1, 2, 0)
    octets = octets.clone(memory_format=torch.contiguous_format)
    x = like.new_empty(count, 8, 8, rows * columns)
    for i in range(8):
        x[:, :, i] = (octets >> i) & 1
    return x.view(count * LANES, rows, columns)[: len(like)]


def split(words: Tensor, periodic: bool) -> tuple[Colour, Colour]:
    """Split words (rows, columns, words) into two colours.

    Colour c holds column 2k + (c + row) mod 2 of a row at place k.
    """
    rows, columns, count = words.shape
    half = (columns + 1) // 2
    frames = [words.new_zeros(rows + 2, (half + 2) * count) for _ in (0, 1)]
    rings = (periodic and rows > 1, periodic and columns > 1)
    degrees = _degrees(rows, columns, rings, words)
    parity = torch.arange(rows, device=words.device).view(-1, 1) % 2
    colours = []
    for c, (own, other) in enumerate((frames, frames[::-1])):
        spins = own[1:-1, count:-count]
        spins.copy_(_take(words, c))
        marks = tuple(
            (d, None if mask is None else _take(mask.expand(words.shape), c)) for d, mask in degrees
        )
        left, around = (parity + c) % 2 - 1, neighbours(other, count)
        frame = _frame(own, count, rings)
        colours.append(Colour(own, spins, around, left, marks, rings, frame))
    return colours[0], colours[1]


def join(colours: tuple[Colour, Colour], columns: int) -> Tensor:
    """Join two colours to words (rows, columns, words), the inverse of `split`."""
    grids = [colour.spins.unflatten(1, ((columns + 1) // 2, -1)) for colour in colours]
    words = grids[0].new_empty(len(grids[0]), columns, grids[0].shape[2])
    for c, grid in enumerate(grids):
        for parity in (0, 1):
            part = words[parity::2, (c + parity) % 2 :: 2]
            part.copy_(grid[parity::2, : part.shape[1]])
    return words


def _take(words: Tensor, colour: int) -> Tensor:
    """Take the sites of one colour from words (rows, columns, words): (rows, half · words)."""
    rows, columns, count = words.shape
    taken = words.new_zeros(rows, (columns + 1) // 2, count)
    for parity in (0, 1):
        part = words[parity::2, (colour + parity) % 2 :: 2]
        taken[parity::2, : part.shape[1]] = part
    return taken.flatten(1)


def neighbours(framed: Tensor, words: int) -> Neighbours:
    """Return the neighbours of one colour as views of the framed spins of the other."""
    column, row = framed[:, words:-words], framed[1:-1]
    return Neighbours(
        column[:-2], column[2:], row[:, : -2 * words], row[:, words:-words], row[:, 2 * words :]
    )


def _frame(
    framed: Tensor, words: int, rings: tuple[bool, bool]
) -> tuple[tuple[Tensor, Tensor], ...]:
    """List pairs (part of the frame, source) to copy after an update, for sides that are rings."""
    ends = ((framed[0], framed[-2]), (framed[-1], framed[1]))
    sides = (
        (framed[:, :words], framed[:, -2 * words : -words]),
        (framed[:, -words:], framed[:, words : 2 * words]),
    )
    return sides * rings[1] + ends * rings[0]


def _degrees(
    rows: int, columns: int, rings: tuple[bool, bool], like: Tensor
) -> list[tuple[int, Tensor | None]]:
    """List numbers of neighbours, each with a mask of sites (rows, columns, 1), None for all."""
    sides, counts = [], []
    for n, ring in zip((rows, columns), rings, strict=True):
        side = torch.full((n,), 2, device=like.device)
        ends = 2 if ring else 1 - (n == 1)  # neighbours of the first and of the last site
        if not ring:
            side[0] -= 1
            side[-1] -= 1
        sides.append(side)
        counts.append({ends, 2} if n > 2 else {ends})
    found = sorted({a + b for a in counts[0] for b in counts[1]})  # without asking the device
    if len(found) == 1 and columns % 2 == 0:
        return [(found[0], None)]
    degree = (sides[0][:, None] + sides[1]).unsqueeze(2)
    return [(d, -(degree == d).to(like.dtype)) for d in found]
