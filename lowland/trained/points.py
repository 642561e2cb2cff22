"""Points in files and folders, read a piece at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from lowland.data.decoding import IMAGE_SUFFIXES
from lowland.data.folders import is_file
from lowland.data.images import list_files, load_batch, load_image
from lowland.data.point_files import PointFile, open_points
from lowland.systems import expand_home

if TYPE_CHECKING:
    from lowland.data.format import Format


@dataclass(frozen=True)
class Points:
    """Points in files and folders, in pieces: several image files, or rows of one array or table.

    Arrays and tables are opened once, and looked at from end to end; a piece holds no more of them
    in memory than its rows.
    """

    pieces: Sequence[tuple[tuple[Path, ...], slice]]
    format: Format
    opened: dict[Path, PointFile] = field(default_factory=dict)
    resize: bool = False

    @classmethod
    def of(
        cls,
        paths: Sequence[str | Path],
        format: Format,
        size: int,
        *,
        resize: bool = False,
        skip_bad: bool = False,
    ) -> Points:
        """Divide points into pieces of at most `size`.

        resize, skip_bad: as `load_batch` takes them, which says what errors are raised.
        """
        pieces: list[tuple[tuple[Path, ...], slice]] = []
        images: list[Path] = []
        opened: dict[Path, PointFile] = {}
        how = {"resize": resize, "skip_bad": skip_bad}
        for file in list_files(paths, format.shape, **how, format=format):
            single = file.suffix.lower() in IMAGE_SUFFIXES
            if single:
                images.append(_present(file, format))
            if images and (not single or len(images) == size):
                pieces, images = [*pieces, (tuple(images), slice(None))], []
            if not single:
                if file not in opened:
                    opened[file] = _open(file, format)
                pieces += [
                    ((file,), slice(start, start + size))
                    for start in range(0, len(opened[file]), size)
                ]
        if images:
            pieces.append((tuple(images), slice(None)))
        return cls(pieces, format, opened, resize)

    def marks(self) -> list[tuple[str, int, int]]:
        """List name, size and time of every file, to tell whether they are still the same."""
        found = {file: expand_home(file).stat() for files, _ in self.pieces for file in files}
        return [(str(file), about.st_size, about.st_mtime_ns) for file, about in found.items()]

    def load(self, number: int) -> tuple[list[str], Tensor]:
        """Load names and points (N, *shape) of a piece, in the units of the files."""
        files, rows = self.pieces[number]
        if rows == slice(None):
            return load_batch(files, self.format.shape, resize=self.resize)
        x = self.opened[files[0]].read(rows.start, rows.stop)
        return [f"{files[0]}[{row}]" for row in range(rows.start, rows.start + len(x))], x


def _open(file: Path, format: Format) -> PointFile:
    path = expand_home(file)
    if not is_file(path) or path.suffix.lower() not in (".npy", ".npz", ".csv"):
        load_image(file, format.shape)  # refuses, in words
    return open_points(path, format)


def _present(file: Path, format: Format) -> Path:
    if not is_file(expand_home(file)):
        load_image(file, format.shape)  # refuses, in words
    return file
