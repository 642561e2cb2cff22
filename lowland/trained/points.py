"""Points in files and folders, read a piece at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from lowland.data.images import IMAGE_SUFFIXES, find_images, load_batch, load_image


@dataclass(frozen=True)
class Points:
    """Points in files and folders, in pieces: several image files, or rows of one array file."""

    pieces: Sequence[tuple[tuple[Path, ...], slice]]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, paths: Sequence[str | Path], shape: tuple[int, ...], size: int) -> "Points":
        """Divide points into pieces of at most `size`. Raises DataError as `load_batch` does."""
        pieces: list[tuple[tuple[Path, ...], slice]] = []
        images: list[Path] = []
        for path in map(Path, paths):
            folder = path.expanduser()
            for file in find_images(folder) if folder.is_dir() else [path]:
                single = file.suffix.lower() in IMAGE_SUFFIXES
                if single:
                    images.append(_present(file, shape))
                if images and (not single or len(images) == size):
                    pieces, images = [*pieces, (tuple(images), slice(None))], []
                if not single:
                    rows = len(load_image(file, shape))
                    pieces += [
                        ((file,), slice(start, start + size)) for start in range(0, rows, size)
                    ]
        if images:
            pieces.append((tuple(images), slice(None)))
        if not pieces:
            load_batch(paths, shape)  # refuses, in words
        return cls(pieces, shape)

    def marks(self) -> list[tuple[str, int, int]]:
        """List name, size and time of every file, to tell whether they are still the same."""
        found = {file: file.expanduser().stat() for files, _ in self.pieces for file in files}
        return [(str(file), about.st_size, about.st_mtime_ns) for file, about in found.items()]

    def load(self, number: int) -> tuple[list[str], Tensor]:
        """Load names and points (N, *shape) of a piece."""
        files, rows = self.pieces[number]
        if rows == slice(None):
            return load_batch(files, self.shape)
        x = load_image(files[0], self.shape)[rows]
        return [f"{files[0]}[{row}]" for row in range(rows.start, rows.start + len(x))], x


def _present(file: Path, shape: tuple[int, ...]) -> Path:
    if not file.expanduser().is_file():
        load_image(file, shape)  # refuses, in words
    return file
