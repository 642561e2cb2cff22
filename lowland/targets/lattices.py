"""Spins on a rectangle: the Ising and the Potts model, with exact log Z and draws where known.

    Ising   E(x) = −J Σ_<ij> s_i s_j − h Σ_i s_i,      s = 2x − 1,   x ∈ {0, 1}
    Potts   E(x) = −J Σ_<ij> [x_i = x_j] − Σ_i h[x_i],              x ∈ {0, ..., q−1}

<ij> runs over neighbours in rows and columns, each pair once; the inverse temperature is part of J
and h. On a periodic lattice each side of 2 or more closes to a ring (so that a side of 2 has its
bond twice) and a side of 1 has no bonds. An Ising model with coupling J is a Potts model with two
states and coupling 2J, up to a constant.

Both declare what block Gibbs needs (`gibbs`): a coloring, sets of sites without bonds among
themselves (a checkerboard where every ring is even, three colors otherwise), and `conditional(x)`,
the distribution of each site given its neighbours. The Ising model also has its own fast `sweep`;
the Potts model has none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from lowland.domain import binary, categorical
from lowland.energy import ConditionLike, Energy, Gibbs
from lowland.energy.sizes import check_memory, read_flag, read_numbers, read_sizes
from lowland.registry import register
from lowland.scalars import read_integer, read_number
from lowland.targets import multispin
from lowland.targets.checkerboard import applies
from lowland.targets.exact import Strip, kaufman


def color_lattice(size: tuple[int, int], periodic: bool) -> Tensor:
    """Return a color for each site such that neighbours differ: two, or three where a periodic side
    is odd.

    A ring of odd length is colored 0 1 0 1 ... 2; the colors of row and column are added modulo 3
    (or 2).

    >>> color_lattice((3, 4), True)
    tensor([[0, 1, 0, 1],
            [1, 2, 1, 2],
            [2, 0, 2, 0]])
    """
    odd = [periodic and n > 1 and n % 2 == 1 for n in size]
    rows, columns = (torch.arange(n) % 2 for n in size)
    for line, last in zip((rows, columns), odd, strict=True):
        line[-1] += 2 * last
    return (rows[:, None] + columns) % (3 if any(odd) else 2)


def _coloring(size: tuple[int, int], periodic: bool) -> Tensor:
    """Return the sites of each color, bool (colors, rows, columns)."""
    color = color_lattice(size, periodic)
    return torch.stack([color == k for k in color.unique()])


def _bonds(z: Tensor, periodic: bool) -> list[tuple[Tensor, Tensor]]:
    """Return values z (B, rows, columns, ...) at both ends of all bonds, for either direction."""
    ends = []
    for dim in (1, 2):
        n = z.shape[dim]
        if periodic and n > 1:
            ends.append((z, z.roll(-1, dim)))
        else:
            ends.append((z.narrow(dim, 0, n - 1), z.narrow(dim, 1, n - 1)))
    return ends


def _neighbours(z: Tensor, periodic: bool) -> Tensor:
    """Sum values z (B, rows, columns, ...) over the neighbours of each site."""
    total = torch.zeros_like(z)
    for dim in (1, 2):
        n = z.shape[dim]
        if periodic and n > 1:
            total += z.roll(1, dim)
            total += z.roll(-1, dim)
        else:
            total.narrow(dim, 1, n - 1).add_(z.narrow(dim, 0, n - 1))
            total.narrow(dim, 0, n - 1).add_(z.narrow(dim, 1, n - 1))
    return total


def _check_size(size: Sequence[int]) -> tuple[int, int]:
    rows, columns = read_sizes("size", size, count=2)
    check_memory("a lattice", 8 * rows * columns)
    return rows, columns


class Lattice(Energy):
    """Spins on a rectangle with exact log Z and draws by a transfer matrix. Abstract."""

    _solved: tuple[Strip, float] | None = None

    @property
    def _strip(self) -> Strip:
        raise NotImplementedError

    def log_partition(self, beta: Tensor) -> Tensor:
        """Return log Σ exp(−βE) at inverse temperature beta (a float64 number), differentiable."""
        return self._strip.log_partition(beta)

    @property
    def log_z(self) -> float:
        """Return log Σ exp(−E), computed once for every setting. Raises ValueError where it is not
        known.
        """
        if self._solved is None or self._solved[0] != self._strip:
            value = float(self.log_partition(torch.ones((), dtype=torch.float64)))
            self._solved = self._strip, value
        return self._solved[1]

    def draw(
        self, count: int, generator: torch.Generator, dtype: torch.dtype | None = None
    ) -> Tensor:
        """Draw exactly (count, rows, columns). Raises ValueError for lattices that are too wide."""
        count = read_integer("count", count, least=0)
        return self._strip.draw(count, generator).to(dtype or torch.get_default_dtype())


@register("energy")
class Ising(Lattice):
    """The Ising model:  E(x) = −J Σ_<ij> s_i s_j − h Σ_i s_i  with s = 2x − 1.

    size: (rows, columns), both at least 1; coupling: J, above 0 to align neighbours; field: h;
    periodic: a torus, or free boundaries. Points x (B, rows, columns) hold 0 and 1; between them E
    is quadratic, so that gradients exist.

    `log_z` is exact for every torus without a field (J ≥ 0 or even sides), for lattices of at most
    12 sites across, and for J = 0; elsewhere it raises ValueError. `draw` gives exact draws up to
    10 or so sites across. Source: Onsager (1944), https://doi.org/10.1103/PhysRev.65.117

    >>> x = torch.ones(1, 8, 8)
    >>> Ising(coupling=0.5)(x)
    tensor([-64.])
    """

    def __init__(
        self,
        size: Sequence[int] = (8, 8),
        coupling: float = 0.4,
        field: float = 0.0,
        periodic: bool = True,
    ) -> None:
        checked = _check_size(size)
        super().__init__(binary(*checked))
        self.size, self.periodic = checked, read_flag("periodic", periodic)
        self.coupling, self.field = read_number("coupling", coupling), read_number("field", field)
        self._coloring = _coloring(checked, self.periodic)

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        s = 2 * x - 1
        bonds = sum((a * b).sum((1, 2)) for a, b in _bonds(s, self.periodic))
        return -self.coupling * bonds - self.field * s.sum((1, 2))

    @property
    def gibbs(self) -> Gibbs:
        bits = applies(self.size, self.periodic)
        sweep = self.sweep if bits else None
        return Gibbs(self._coloring, self.conditional, sweep=sweep, any_beta=bits)

    def conditional(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return log-odds log p(x_i = 1 | rest) / p(x_i = 0 | rest) = 2 (J Σ s_neighbours + h)."""
        return 2 * (self.coupling * _neighbours(2 * x - 1, self.periodic) + self.field)

    def sweep(
        self,
        x: Tensor,
        sweeps: int,
        generator: torch.Generator,
        *,
        beta: float = 1.0,
        compiled: bool = False,
        fields: Tensor | None = None,
        c: ConditionLike = None,
    ) -> Tensor:
        """Run block Gibbs for βE over both colors of the checkerboard, and return new points.

        x: (B, rows, columns), on a lattice without an odd periodic side; 64 chains share a machine
        word. compiled: by one fused kernel (seconds of compilation for each new lattice size and
        number of words; probabilities are multiples of 2⁻²⁴; falls back with a warning).
        """
        law = multispin.Law(beta * self.coupling, beta * self.field, self.periodic)
        return multispin.sweep(x, law, sweeps, generator, compiled=compiled)

    @property
    def _strip(self) -> Strip:
        j, h = self.coupling, self.field
        return Strip(self.size, self.periodic, ((j, -j), (-j, j)), (-h, h))

    def log_partition(self, beta: Tensor) -> Tensor:
        rows, columns = self.size
        even = rows % 2 == 0 and columns % 2 == 0  # then the sign of J does not matter
        if self.coupling == 0:
            return rows * columns * torch.logaddexp(beta * self.field, -beta * self.field)
        if self.periodic and self.field == 0 and min(self.size) > 1 and (self.coupling > 0 or even):
            return kaufman(rows, columns, beta * abs(self.coupling))
        return super().log_partition(beta)


@register("energy")
class Potts(Lattice):
    """The Potts model:  E(x) = −J Σ_<ij> [x_i = x_j] − Σ_i h[x_i]  with x_i ∈ {0, ..., q−1}.

    size: (rows, columns), both at least 1; states: q, at least 2; coupling: J, above 0 to align
    neighbours; field: one number h for each state, none unless given; periodic: a torus, or free
    boundaries. Points x (B, rows, columns) hold the states as floats; `one_hot_energy`
    takes one-hot vectors (B, rows, columns, q), and is quadratic in them.

    `log_z` is exact while q^width ≤ 4096 (and for J = 0), `draw` a little less far; elsewhere they
    raise ValueError. Source: Wu (1982), https://doi.org/10.1103/RevModPhys.54.235

    >>> Potts(coupling=0.5)(torch.ones(1, 6, 6))
    tensor([-36.])
    """

    levels: Tensor

    def __init__(
        self,
        size: Sequence[int] = (6, 6),
        states: int = 3,
        coupling: float = 0.8,
        field: Sequence[float] | None = None,
        periodic: bool = True,
    ) -> None:
        checked = _check_size(size)
        states = read_integer("states", states, least=2)
        check_memory("Potts", states * checked[0] * checked[1])
        super().__init__(categorical(states, *checked))
        levels = [0.0] * states if field is None else read_numbers("field", field, 1).tolist()
        if len(levels) != states:
            raise ValueError(
                f"{len(levels)} fields came for {states} states; each needs one; leave them out "
                "for none"
            )
        self.size, self.states = checked, states
        self.coupling = read_number("coupling", coupling)
        self.field = None if field is None else tuple(levels)
        self.periodic = read_flag("periodic", periodic)
        self._coloring = _coloring(checked, self.periodic)
        self.register_buffer("levels", torch.tensor(levels, dtype=torch.get_default_dtype()))

    def one_hot(self, x: Tensor) -> Tensor:
        """Return one-hot vectors (B, rows, columns, q) of points x, linear between states."""
        k = torch.arange(self.states, device=x.device, dtype=x.dtype)
        return (1 - (x.unsqueeze(-1) - k).abs()).clamp(min=0)

    def one_hot_energy(self, z: Tensor, c: ConditionLike = None) -> Tensor:
        """Return energies (B,) of one-hot vectors or points between them, (B, rows, columns, q)."""
        bonds = sum((a * b).sum((1, 2, 3)) for a, b in _bonds(z, self.periodic))
        return -self.coupling * bonds - (z @ self.levels.to(z.dtype)).sum((1, 2))

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return self.one_hot_energy(self.one_hot(x))

    @property
    def gibbs(self) -> Gibbs:
        return Gibbs(self._coloring, self.conditional, self.one_hot_energy)

    def conditional(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return log p(x_i = k | rest) = J · (neighbours in state k) + h[k] up to a constant.

        Shape (B, rows, columns, q).
        """
        return self.coupling * _neighbours(self.one_hot(x), self.periodic) + self.levels.to(x.dtype)

    @property
    def _strip(self) -> Strip:
        states = range(self.states)
        bond = tuple(tuple(self.coupling * (i == j) for j in states) for i in states)
        return Strip(self.size, self.periodic, bond, tuple(self.field or (0.0,) * self.states))

    def log_partition(self, beta: Tensor) -> Tensor:
        if self.coupling == 0:
            each = torch.logsumexp(beta * beta.new_tensor(self._strip.site), 0)
            return self.size[0] * self.size[1] * each
        return super().log_partition(beta)
