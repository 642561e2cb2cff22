"""Means of the logged terms between two rows of the log."""

from collections.abc import Mapping

import torch
from torch import Tensor

from lowland.training.distributed import Team

COUNTED = ("diverged", "lost")  # terms that add up between log rows; the others are averaged


class TermAverages:
    """Running sums of detached scalars, on their device: nothing waits for it until `means`."""

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: dict[str, int] = {}

    def add(self, terms: Mapping[str, Tensor]) -> None:
        """Add one value of each term."""
        for name, value in terms.items():
            zero = torch.zeros((), dtype=torch.float32, device=value.device)
            self._sums[name] = self._sums.get(name, zero) + value
            self._counts[name] = self._counts.get(name, 0) + 1

    def means(self, team: Team) -> dict[str, float]:
        """Return the means over updates and processes, totals of what is counted."""
        if not self._sums:
            return {}
        totals = team.total(torch.stack(list(self._sums.values()))).tolist()
        return {
            name: int(total) if name in COUNTED else total / (self._counts[name] * team.size)
            for name, total in zip(self._sums, totals, strict=True)
        }
