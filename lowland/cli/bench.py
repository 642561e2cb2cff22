"""Boards: figures of a run beside what they have to be compared with."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro
from tyro.conf import Positional


@dataclass
class Bench:
    """A board of runs: `bench ood RUN...` sets every outlier score of a run against sets near and
    far, with intervals.
    """

    board: Positional[Literal["ood"]]
    """Which board."""
    runs: Positional[list[str]]
    """Run directories, or names of shipped runs."""
    count: int = 1000
    """Test points, and points of each set."""
    scores: Annotated[list[str], tyro.conf.UseAppendAction] = field(default_factory=list)
    """Outlier scores; all that the run can give unless named; repeat for more."""
    draws: int = 1000
    """Of the bootstrap."""
    seed: int = 0
    """Of sets and bootstrap."""
    out: Path | None = None
    """JSON file with all rank metrics of every cell."""
    quiet: bool = False
    """No progress bar."""

    def main(self) -> None:
        import json

        from lowland import verbs

        if self.count < 20:
            raise ValueError(
                f"count is {self.count}; at least 20 points say anything; 1000 is common"
            )
        options = {name: getattr(self, name) for name in ("count", "scores", "draws", "seed")}
        boards = verbs.bench_ood(self.runs, **options, progress=not self.quiet)
        for run, found in boards.items():
            print(f"\n{run}: AUROC in %, 95 % bootstrap interval, {found['count']} test points\n")
            print("\n".join(found["table"]))
            print("\n".join(["", *found["losses"], *found["notes"]]))
        if self.out is not None:
            self.out.write_text(json.dumps(boards, indent=1))
            print(self.out)
