"""Long jobs in pieces, over any number of processes.

A piece is a function of its number alone and lies in a file of its own once it is done. So the
result is the same on 1, 2 or 4 processes, none of them holds more of it than a piece, and a job
that broke goes on where it was when it is started again. The pieces lie beside the result, in a
hidden folder that goes when the whole file appears.

Beside every piece lies the SHA-256 of its number, its content and all that decides the job: one
that was damaged, or belongs to another job, is made again. One process at a time works for an
output.
"""

import hashlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from torch import Tensor

from lowland.atomic import (
    check_target,
    hold_file,
    remove_folder,
    remove_leftovers,
    write_aside,
    write_bytes,
)
from lowland.reading import ReadError, read_bytes
from lowland.systems import HeldError
from lowland.trained.targets import check_writable, make_folder
from lowland.training.distributed import Team

PATIENCE = timedelta(days=7)  # of one process for another: pieces take what they take
MAX_DIGEST = 64  # bytes of a file that holds one


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

    @contextmanager
    def open(self) -> Iterator[list[int]]:
        """Hold the output for this job, and yield the pieces that this process is to make: its
        share of those that no earlier attempt left behind whole.

        Raises ValueError if another job holds it, or the file could not be written.
        """
        with ExitStack() as held:
            missing = self.team.on_main(lambda: self._begin(held))
            yield missing[self.team.rank :: self.team.size]

    def _begin(self, held: ExitStack) -> list[int]:
        check_writable(self.out)
        make_folder(self.out)
        try:
            check_target(self.folder)
            self.folder.mkdir(exist_ok=True)
            held.enter_context(self._lock())
            remove_leftovers(self.out.parent)
            remove_leftovers(self.folder)
            self._drop_others()
        except OSError as error:
            raise self._describe(error) from None
        return [number for number in range(self.count) if self._read(number) is None]

    @contextmanager
    def _lock(self) -> Iterator[None]:
        """Hold the output; the lock dies with its process. Its file lies beside the pieces, whose
        folder can then go while it is held: on Windows no folder with an open file in it can.
        """
        try:
            with hold_file(self.out.with_name(f".{self.out.name}.lock"), self.out, remove=True):
                yield
        except HeldError:
            raise ValueError(
                f"{self.out} is being written by another process; a file has one writer; wait "
                "for it, or choose another --out"
            ) from None

    @property
    def _identity(self) -> str:
        """Return the SHA-256 of all that decides the pieces."""
        return hashlib.sha256(json.dumps(self.plan, sort_keys=True).encode()).hexdigest()

    def _drop_others(self) -> None:
        """Remove what was left behind by a job with another plan."""
        plan = self.folder / "plan"
        with suppress(FileNotFoundError, ReadError):
            if read_bytes(plan, within=self.folder) == self._identity.encode():
                return
        for path in self.folder.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
        write_bytes(plan, self._identity.encode())

    def _place(self, number: int) -> Path:
        return self.folder / f"{number:08d}"

    def _place_digest(self, number: int) -> Path:
        return self.folder / f"sha256-{number:08d}"

    def _digest(self, number: int, data: bytes) -> str:
        return hashlib.sha256(f"{self._identity} {number} ".encode() + data).hexdigest()

    def keep(self, number: int, data: bytes) -> None:
        """Write a piece whole or not at all. Raises ValueError when the disk refuses."""
        try:
            write_bytes(self._place_digest(number), self._digest(number, data).encode())
            write_bytes(self._place(number), data)
        except OSError as error:
            raise self._describe(error) from None

    def _read(self, number: int) -> bytes | None:
        """Read a piece; None if it is missing, damaged or of another job."""
        try:
            data = read_bytes(self._place(number), within=self.folder)
            digest = read_bytes(self._place_digest(number), within=self.folder, most=MAX_DIGEST)
        except (FileNotFoundError, ReadError):
            return None
        return data if digest == self._digest(number, data).encode() else None

    def __iter__(self) -> Iterator[bytes]:
        for number in range(self.count):
            data = self._read(number)
            if data is None:
                raise ValueError(
                    f"piece {number} of {self.out} was damaged or removed while the others were "
                    f"made; all {self.count} in {self.folder} are needed; start the command again: "
                    "it makes that piece anew"
                )
            yield data

    def finish(self, write: Callable[[Path], object]) -> Path:
        """Wait for all pieces, make the file from them by `write` in the main process, and delete
        them.
        """
        self.team.barrier()
        self.team.on_main(lambda: self._finish(write))
        return self.out

    def _finish(self, write: Callable[[Path], object]) -> None:
        try:
            with write_aside(self.out) as aside:
                write(aside)
            remove_folder(self.folder)
        except OSError as error:
            raise self._describe(error) from None

    def _describe(self, error: OSError) -> ValueError:
        """Return an error that says what could not be written, and what stands."""
        return ValueError(
            f"{self.out} could not be written ({error.strerror or error}); a folder that may be "
            f"written to, and room in it, are needed; make room and start the command again: the "
            f"pieces that are done lie in {self.folder} and are not made anew"
        )


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
