"""Block Gibbs for the Ising model with 64 chains in one machine word (see `checkerboard`).

An update of a colour counts the neighbours that are up, by full adders on words; n = Σ
s_neighbours.

    without a field    with the majority (J < 0: against it), but against it (J < 0: with it)
                       where coin and u < 2σ(−2|J n|); n = 0: coin alone
    with a field       up where u < σ(2 (J n + h))

and u < t is decided for 64 chains at once, digit by digit from the first, with one random word for
each binary digit of u: a chain stays undecided while its digits equal those of its t.

*Eager*: words come from the generator. After `DIGITS` digits the few chains that are undecided draw
a float64 uniform each, so that the probabilities are those of float64.

*Compiled*: one fused kernel. Its words are splitmix64 of a counter, keyed by one draw of the
generator, and never leave the registers. u has 24 digits, so that a probability p becomes a
multiple of 2⁻²⁴, |error| ≤ 2⁻²⁵. Only the first 14 words are hashed; the last ten are the same
words, last first, with the halves of a word exchanged: chain l then looks at digits of chain l ±
32. Each chain by itself has 24 uniform digits; two chains depend on each other only where both need
these digits, in total variation at most Σ_j 2^−(14+j) 2^−(13−j) < 2⁻²³ an update. Source: Zorn,
Herrmann & Rebbi (1981), https://doi.org/10.1016/0010-4655(81)90082-1 (multi-spin coding);
Steele, Lea & Flood (2014), https://doi.org/10.1145/2660193.2660195 (splitmix64)
"""

import warnings
from collections.abc import Callable
from functools import cache, reduce
from operator import or_, xor
from typing import NamedTuple

import torch
from torch import Tensor

from lowland.energy.placement import wide_dtype
from lowland.scalars import read_integer
from lowland.targets.checkerboard import Colour, Degrees, Neighbours, join, pack, split, unpack

DIGITS = 11  # random words before the eager path turns to single chains
HASHED, REUSED = 14, 10  # words of the compiled path
MAX_CACHED_WORDS = 16384  # words a block of rows: what stays in cache

GOLDEN, FIRST, SECOND = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB  # of splitmix64


class Law(NamedTuple):
    """E = −coupling Σ s s' − field Σ s, on a torus or with free boundaries."""

    coupling: float
    field: float
    periodic: bool


def sweep(
    x: Tensor, law: Law, sweeps: int, generator: torch.Generator, *, compiled: bool = False
) -> Tensor:
    """Run block Gibbs sweeps over both colours on points x (B, rows, columns); return new points.

    Raises ValueError when sweeps is negative or the points are not (B, rows, columns).
    """
    sweeps = read_integer("sweeps", sweeps, least=0)
    if x.dim() != 3:
        raise ValueError(
            f"points of shape {tuple(x.shape)} came; a lattice takes points (B, rows, columns); "
            "reshape them"
        )
    if compiled:
        try:
            return _run(x, law, sweeps, generator, _run_compiled)
        except Exception as error:  # whatever a compiler may throw
            why = f"{type(error).__name__}: {error}".split("\n")[0]
            warnings.warn(
                f"the sweep could not be compiled ({why}); compiled=True needs a working "
                "torch.compile; the eager sweep runs",
                stacklevel=3,
            )
    return _run(x, law, sweeps, generator, _run_eager)


Path = Callable[[tuple[Colour, Colour], Law, int, torch.Generator], None]


def _run(x: Tensor, law: Law, sweeps: int, generator: torch.Generator, path: Path) -> Tensor:
    colours = split(pack(x), law.periodic)
    for colour in colours:
        colour.close()
    path(colours, law, sweeps, generator)
    return unpack(join(colours, x.shape[2]), x)


# ---------------------------------------------------------------------------- what both paths share


class Local(NamedTuple):
    """Masks from the neighbours of one colour, words (rows, half · words).

    majority: most are up; fair: as many up as down (both None with a field); classes: sites of
    each of `strengths`; alive: places that hold a site, None if all do.
    """

    majority: Tensor | None
    fair: Tensor | None
    classes: list[Tensor]
    alive: Tensor | None


def strengths(degrees: Degrees, symmetric: bool) -> list[int]:
    """List the values of n = Σ s_neighbours that have a threshold; symmetric: of |n| > 0."""
    found = {2 * up - d for d, _ in degrees for up in range(d + 1)}
    if symmetric:
        found = {abs(n) for n in found} - {0}
    return sorted(found)


def thresholds(law: Law, values: list[int]) -> list[float]:
    """Compute σ(2 (J n + h)) for each n, or 2 σ(−2 |J| n) without a field."""
    n = torch.tensor(values, dtype=torch.float64)
    if law.field == 0:
        return (2 * (-2 * abs(law.coupling) * n).sigmoid()).tolist()
    return (2 * (law.coupling * n + law.field)).sigmoid().tolist()


def _counts(around: Neighbours, left: Tensor) -> list[Tensor]:
    """Mark the sites with 0, 1, 2, 3, 4 neighbours up: two half adders and their sum."""
    side = around.before ^ around.after
    side &= left
    side ^= around.after
    column, both = around.up ^ around.down, around.up & around.down
    level, pair = around.same ^ side, around.same & side
    two, four = column & level, both & pair
    two |= both ^ pair
    odd = column ^ level
    three = odd & two
    return [~(odd | two | four), odd ^ three, two ^ three, three, four]


def _local(around: Neighbours, left: Tensor, degrees: Degrees, symmetric: bool) -> Local:
    counts = _counts(around, left)
    classes: dict[int, Tensor] = {}
    majority: list[Tensor] = []
    for degree, where in degrees:
        for up in range(degree + 1):
            mask = counts[up] if where is None else counts[up] & where
            n = 2 * up - degree
            if n > 0:
                majority.append(mask)
            n = abs(n) if symmetric else n
            classes[n] = classes[n] | mask if n in classes else mask
    marks = [where for _, where in degrees if where is not None]
    alive = reduce(or_, marks) if marks else None
    if not symmetric:
        return Local(None, None, [classes[n] for n in sorted(classes)], alive)
    none = torch.zeros_like(counts[0])
    fair = classes.pop(0, none)
    return Local(
        reduce(or_, majority) if majority else none,
        fair,
        [classes[n] for n in sorted(classes)],
        alive,
    )


def _update(local: Local, below: Tensor, opposed: bool) -> Tensor:
    """Return new spins: up where `below`, or, without a field, the majority flipped where `below`.

    opposed: J < 0, where the outcome without a field is reversed.
    """
    new = below if local.majority is None else below ^ local.majority
    if local.majority is not None and opposed:
        new = ~new
    return new if local.alive is None else new & local.alive


# ----------------------------------------------------------------------------------- the eager path


def _run_eager(
    colours: tuple[Colour, Colour], law: Law, sweeps: int, generator: torch.Generator
) -> None:
    symmetric = law.field == 0
    limits = thresholds(law, strengths(colours[0].degrees, symmetric))
    rows, width = colours[0].spins.shape
    step = max(1, MAX_CACHED_WORDS // width)
    parts = [
        [colour.rows(start, start + step) for start in range(0, rows, step)] for colour in colours
    ]
    for c in (0, 1) * sweeps:
        for part in parts[c]:
            local = _local(part.around, part.left, part.degrees, symmetric)
            part.spins.copy_(_update(local, _below(local, limits, generator), law.coupling < 0))
        colours[c].close()


def _random(words: Tensor, generator: torch.Generator) -> Tensor:
    """Fill with random words; `random_` without bounds never sets the sign bit, the 64th chain."""
    return words.random_(-(2**63), None, generator=generator)


def _below(local: Local, limits: list[float], generator: torch.Generator) -> Tensor:
    """Mark where u < limit of the class, for each chain of each word; `fair` sites toss a coin."""
    classes = local.classes
    word = torch.empty_like(classes[0] if local.fair is None else local.fair)
    numbers = [min(int(limit * 2**DIGITS), 2**DIGITS - 1) for limit in limits]
    if local.fair is None:
        below, left = torch.zeros_like(word), torch.full_like(word, -1)
    else:
        below = _random(word, generator) & local.fair
        left = word ^ below
    if local.alive is not None:
        left &= local.alive
    for k in reversed(range(DIGITS)):
        digit = _random(word, generator)  # all ones where this digit of u is 0
        ones = [mask for mask, number in zip(classes, numbers, strict=True) if number >> k & 1]
        if not ones:
            left &= digit
        elif len(ones) == len(classes):
            digit &= left
            below |= digit
            left ^= digit
        else:
            one = reduce(or_, ones)  # where this digit of the limit is 1
            less = digit & one
            less &= left
            below |= less
            digit ^= one
            left &= digit
    rests = [limit * 2**DIGITS - number for limit, number in zip(limits, numbers, strict=True)]
    _finish(below, left, classes, rests, generator)
    return below


def _finish(
    below: Tensor,
    left: Tensor,
    classes: list[Tensor],
    rests: list[float],
    generator: torch.Generator,
) -> None:
    """Decide the chains `left` over: u < rest, with rest the remainder of the limit after the
    digits.

    One chain of each word at a time, that of its lowest bit; few words hold a second one.
    """
    flat, wide = [mask.view(-1) for mask in classes], wide_dtype(left.device)
    index = left.view(-1).nonzero().squeeze(1)
    rest = left.view(-1).index_select(0, index)
    while len(index):
        lowest = rest & -rest
        limit = torch.full_like(rest, rests[-1], dtype=wide)
        for mask, share in zip(flat[:-1], rests[:-1], strict=True):
            limit = torch.where(mask.index_select(0, index) & lowest != 0, share, limit)
        u = torch.rand(len(index), generator=generator, device=left.device, dtype=wide)
        # a bit that is not yet set: + is |
        below.view(-1).index_add_(0, index, (u < limit) * lowest)
        rest ^= lowest
        more = rest.nonzero().squeeze(1)
        index, rest = index.index_select(0, more), rest.index_select(0, more)


# -------------------------------------------------------------------------------- the compiled path


def _run_compiled(
    colours: tuple[Colour, Colour], law: Law, sweeps: int, generator: torch.Generator
) -> None:
    symmetric = law.field == 0
    limits = thresholds(law, strengths(colours[0].degrees, symmetric))
    rows, width = colours[0].spins.shape
    device = colours[0].spins.device
    digits = _digits(limits, HASHED + REUSED - symmetric).to(device)
    row = torch.arange(rows, device=device).view(-1, 1) * _to_signed(width * GOLDEN)
    place = torch.arange(width, device=device) * _to_signed(GOLDEN)
    key = _random(torch.empty((), dtype=torch.int64, device=device), generator)
    fixed = tuple((colour.left, colour.degrees) for colour in colours)
    sided = (colours[0].framed[1:-1], colours[1].framed[1:-1])
    kernel = _compile()
    for _ in range(sweeps):
        sided = kernel(
            sided, fixed, colours[0].rings, law.coupling < 0, symmetric, row, place, key, digits
        )
        key.add_(_to_signed(2 * rows * width * HASHED * GOLDEN))
    for colour, rows_of_it in zip(colours, sided, strict=True):
        colour.framed[1:-1] = rows_of_it


@cache
def _compile() -> Callable[..., tuple[Tensor, Tensor]]:
    return torch.compile(_kernel, dynamic=False, fullgraph=True)


def _digits(limits: list[float], count: int) -> Tensor:
    """Return words (classes, count): all ones where a binary digit of a rounded limit is 1.

    All rows but the last are xor the last.
    """
    numbers = [min(round(limit * 2**count), 2**count - 1) for limit in limits] or [0]
    places = [*reversed(range(count))]
    table = torch.tensor([[-(number >> k & 1) for k in places] for number in numbers])
    table[:-1] ^= table[-1].clone()
    return table


def _kernel(
    sided: tuple[Tensor, Tensor],
    fixed: tuple[tuple[Tensor, Degrees], ...],
    rings: tuple[bool, bool],
    opposed: bool,
    symmetric: bool,
    row: Tensor,
    place: Tensor,
    key: Tensor,
    digits: Tensor,
) -> tuple[Tensor, Tensor]:
    """Sweep over both colours, framed at the sides only; return new (rows, (half + 2) · words).

    u < t is decided by the first digit in which they differ, so digits go last to first.
    """
    rows, width = len(row), len(place)
    words = (sided[0].shape[1] - width) // 2
    new = list(sided)
    for c, (left, degrees) in enumerate(fixed):
        local = _local(_around(new[1 - c], words, rings[0]), left, degrees, symmetric)
        random = _words(
            row + (key + _to_signed(c * rows * width * HASHED * GOLDEN)) + place, rows * width
        )
        coin = random.pop(0) if symmetric else None
        below = torch.zeros_like(random[0])
        for k in reversed(range(len(random))):
            differ = [
                mask & digit for mask, digit in zip(local.classes[:-1], digits[:-1, k], strict=True)
            ]
            one = reduce(
                xor, differ, digits[-1, k]
            )  # where the limit has a 1: the last class is everywhere else
            below = (below & random[k]) | (one & (below | random[k]))
        if coin is not None and local.fair is not None:
            below = coin & (local.fair | below)
        spins = _update(local, below, opposed)
        before, after = spins[:, -words:], spins[:, :words]
        new[c] = torch.cat(
            [before, spins, after] if rings[1] else [0 * before, spins, 0 * after], 1
        )
    return new[0], new[1]


def _around(sided: Tensor, words: int, ring: bool) -> Neighbours:
    column = sided[:, words:-words]
    up, down = column.roll(1, 0), column.roll(-1, 0)
    if not ring:
        none = torch.zeros_like(column[:1])
        up, down = torch.cat([none, column[:-1]]), torch.cat([column[1:], none])
    return Neighbours(up, down, sided[:, : -2 * words], column, sided[:, 2 * words :])


def _words(counter: Tensor, sites: int) -> list[Tensor]:
    """Return random words at each site, first digit to last; a bit is set where the digit is 0."""
    hashed = [_mix(counter + _to_signed(k * sites * GOLDEN)) for k in range(HASHED)]
    return hashed + [(w << 32) | ((w >> 32) & 0xFFFFFFFF) for w in hashed[: -REUSED - 1 : -1]]


def _mix(z: Tensor) -> Tensor:
    """Apply splitmix64 to a multiple of GOLDEN; masks remove the copies of the sign by `>>`."""
    z = (z ^ ((z >> 30) & (2**34 - 1))) * _to_signed(FIRST)
    z = (z ^ ((z >> 27) & (2**37 - 1))) * _to_signed(SECOND)
    return z ^ ((z >> 31) & (2**33 - 1))


def _to_signed(number: int) -> int:
    """Return the signed 64-bit number with the same last 64 bits."""
    return (number + 2**63) % 2**64 - 2**63
