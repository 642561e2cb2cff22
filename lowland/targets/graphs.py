"""Problems on graphs whose lowest point is the answer, for `samplers.simulated_annealing`."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from lowland.domain import binary
from lowland.energy import ConditionLike, Energy, Gibbs
from lowland.energy.sizes import check_memory, read_numbers
from lowland.registry import register
from lowland.scalars import read_integer


@register("energy")
class MaxCut(Energy):
    """The maximum cut problem:  E(x) = −Σ_{ij} w_ij [x_i ≠ x_j], lowest at the largest cut.

    edges: (i, j) or (i, j, weight), nodes numbered from 0; each pair once. Points x (B, nodes) hold
    0 and 1; between them E is quadratic, so that gradients exist. Declares a coloring and
    conditionals for block Gibbs. Source: Karp (1972), https://doi.org/10.1007/978-1-4684-2001-2_9

    >>> import torch
    >>> square = MaxCut(edges=((0, 1), (1, 2), (2, 3), (3, 0)))
    >>> square(torch.tensor([[0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 1.0, 1.0]]))
    tensor([-4., -2.])
    """

    weights: Tensor
    coloring: Tensor

    def __init__(self, edges: Sequence[Sequence[float]] = ((0, 1), (1, 2), (2, 0))) -> None:
        if isinstance(edges, (str, dict)) or not isinstance(edges, Iterable):
            raise ValueError(
                f"edges is a {type(edges).__name__}; it must be a list of edges (i, j) or "
                "(i, j, weight); pass for example ((0, 1), (1, 2, 0.5))"
            )
        rows = [read_numbers("an edge", edge, 1).tolist() for edge in edges]
        if not all(len(row) in (2, 3) for row in rows):
            raise ValueError(
                f"edges of {sorted({len(row) for row in rows})} numbers came; each is (i, j) or "
                "(i, j, weight); correct them"
            )
        ends = [
            (read_integer("a node", _whole(row[0])), read_integer("a node", _whole(row[1])))
            for row in rows
        ]
        pairs = {frozenset(pair) for pair in ends}
        numbered = all(i != j and min(i, j) >= 0 for i, j in ends)
        if not ends or not numbered or len(pairs) < len(ends):
            raise ValueError(
                f"{len(edges)} edges came with {len(pairs)} different pairs of nodes; each edge "
                "needs two different nodes numbered from 0, and each pair one edge; pass for "
                "example ((0, 1), (1, 2, 0.5))"
            )
        nodes = 1 + max(max(pair) for pair in ends)
        super().__init__(binary(nodes))
        check_memory("MaxCut", nodes**2)
        self.edges = edges
        weights = torch.zeros(nodes, nodes)
        for (i, j), row in zip(ends, rows, strict=True):
            weights[i, j] = weights[j, i] = (*row, 1.0)[2]
        self.register_buffer("weights", weights)
        self.register_buffer("coloring", _color_graph(weights != 0))

    def forward(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        return -((x @ self.weights.to(x.dtype)) * (1 - x)).sum(1)

    @property
    def gibbs(self) -> Gibbs:
        return Gibbs(self.coloring, self.conditional)

    def conditional(self, x: Tensor, c: ConditionLike = None) -> Tensor:
        """Return log p(x_i = 1 | rest) − log p(x_i = 0 | rest) = Σ_j w_ij (1 − 2 x_j).

        Shape (B, nodes).
        """
        return (1 - 2 * x) @ self.weights.to(x.dtype)


def _whole(number: float) -> float | int:
    """Return a float that is a whole number as an int, others as they are."""
    return int(number) if number == int(number) else number


def _color_graph(joined: Tensor) -> Tensor:
    """Color the nodes (colors, nodes) so that no two joined ones share a color: greedily, most
    neighbours first.
    """
    color = torch.full((len(joined),), -1)
    for node in joined.sum(1).argsort(descending=True).tolist():
        taken = set(color[joined[node]].tolist())
        color[node] = next(k for k in range(len(joined)) if k not in taken)
    return torch.stack([color == k for k in range(int(color.max()) + 1)])
