"""Long jobs in pieces, over any number of processes.

A piece is a function of its number alone and lies in a file of its own once it is done. So the
result is the same on 1, 2 or 4 processes, none of them holds more of it than a piece, and a job
that broke goes on where it was when it is started again. The pieces lie beside the result, in a
hidden folder that goes when the whole file appears.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from lowland.atomic import write_aside, write_bytes
from lowland.trained.files import check_writable
from lowland.training.distributed import Team

PATIENCE = timedelta(days=7)  # of one process for another: pieces take what they take


@dataclass(frozen=True)
class Job:
    """A file `out` that is made in `count` pieces by the processes of a team.

    plan: everything that decides the pieces; those of another plan are thrown away.
    """

    out: Path
    plan: Mapping[str, object]
    count: int
    team: Team

    @property
    def folder(self) -> Path:
        """Return the folder of the pieces, which stands until the file is whole."""
        return self.out.with_name(f".{self.out.name}.pieces")

    def missing(self) -> list[int]:
        """Return the pieces that this process is to make: its share of those that no earlier
        attempt left behind.
        """
        return self.team.on_main(self._begin)[self.team.rank :: self.team.size]

    def _begin(self) -> list[int]:
        check_writable(self.out)
        digest = hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode()).hexdigest()
        plan = self.folder / "plan"
        if not plan.exists() or plan.read_text() != digest:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            write_bytes(self.folder / "plan", digest.encode())
        return [
            number for number in range(self.count) if not (self.folder / f"{number:08d}").exists()
        ]

    def keep(self, number: int, data: bytes) -> None:
        """Write a piece whole or not at all."""
        write_bytes(self.folder / f"{number:08d}", data)

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.count):
            yield (self.folder / f"{number:08d}").read_bytes()

    def finish(self, write: Callable[[Path], object]) -> Path:
        """Wait for all pieces, make the file from them by `write` in the main process, and delete
        them.
        """
        self.team.barrier()
        self.team.on_main(lambda: self._finish(write))
        return self.out

    def _finish(self, write: Callable[[Path], object]) -> None:
        with write_aside(self.out) as aside:
            write(aside)
        shutil.rmtree(self.folder)


def fingerprint(module: torch.nn.Module) -> str:
    """Return the SHA-256 of all weights and buffers."""
    digest = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        digest.update(
            name.encode() + tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()


def write_npy(file: BinaryIO, count: int, parts: Iterator[Tensor]) -> None:
    """Write one array (count, ...) in NumPy's format from parts of it, one at a time in memory."""
    for number, part in enumerate(parts):
        array = part.numpy()
        if number == 0:
            shape = (count, *array.shape[1:])
            header = {
                "descr": np.lib.format.dtype_to_descr(array.dtype),
                "fortran_order": False,
                "shape": shape,
            }
            np.lib.format.write_array_header_1_0(file, header)
        file.write(np.ascontiguousarray(array).tobytes())


def write_npz(path: Path, count: int, arrays: Mapping[str, Callable[[], Iterator[Tensor]]]) -> None:
    """Write several arrays (count, ...) in one .npz file, without a clock in it: equal arrays make
    equal files.
    """
    with zipfile.ZipFile(path, "w") as archive:
        for name, parts in arrays.items():
            with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
                write_npy(cast(BinaryIO, file), count, parts())
