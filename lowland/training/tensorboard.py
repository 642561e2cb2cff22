"""Scalars for TensorBoard, beside the log that is always written."""

from pathlib import Path
from typing import Any

from lowland.atomic import check_target
from lowland.training.settings import Row


class Board:
    """Writes rows of numbers into a directory that `tensorboard --logdir` reads; does nothing
    without one.

    Raises ValueError if TensorBoard is wanted and not installed.
    """

    def __init__(self, path: Path | None) -> None:
        self._writer: Any = None
        if path is None:
            return
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise ValueError(
                "training.tensorboard is true and tensorboard is not installed; it is an extra; "
                "run `pip install 'lowland[tensorboard]'`, or set it to false: log.jsonl has the "
                "same numbers"
            ) from None
        check_target(path)
        self._writer = SummaryWriter(str(path))

    def __enter__(self) -> "Board":
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, row: Row) -> None:
        """Write one row of the log: every number under its name."""
        if self._writer is None:
            return
        for name, value in row.items():
            if isinstance(value, (int, float)) and name != "step":
                self._writer.add_scalar(name, value, row["step"])
