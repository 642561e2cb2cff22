"""Pictures below a folder: which files they are, which are left out, and what classes their
sub-folders name.
"""

import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from lowland.data.classes import sort_classes
from lowland.data.dataset import DataError
from lowland.data.decoding import IMAGE_SUFFIXES
from lowland.data.grids import is_grid

SPLIT_NAMES = {"train", "training", "test", "val", "valid", "validation", "calibration"}
OTHER_PICTURES = (
    ".apng", ".avif", ".bmp", ".eps", ".gif", ".heic", ".heif", ".ico", ".jfif", ".jp2", ".jpe",
    ".pbm", ".pgm", ".pnm", ".ppm", ".ps", ".svg", ".tga", ".tif", ".tiff", ".webp",
)  # fmt: skip
SYSTEM_FOLDERS = {"__MACOSX"}
MAX_LISTED = 20  # folders in one message
MAX_SKIPPED = 0.5  # share of files that may be skipped


@dataclass
class Skipped:
    """Files that cannot be used, with the reason why: refused at once, or kept in a list.

    allowed: whether files may be skipped. reasons: {file: why}, as they are found.
    """

    allowed: bool
    reasons: dict[str, str] = field(default_factory=dict)

    def take(self, path: Path, error: DataError) -> None:
        """Note a file, or raise its error again, with advice, if files may not be skipped."""
        if not self.allowed:
            raise error
        self.reasons[str(path)] = str(error).partition("; ")[0].removeprefix(f"{path} ")

    def judge(self, count: int, where: str) -> None:
        """Warn of what was skipped of `count` files. Raises DataError if that is most of them."""
        if not self.reasons:
            return
        if len(self.reasons) > MAX_SKIPPED * count:
            path, why = next(iter(self.reasons.items()))
            raise DataError(
                f"{len(self.reasons)} of the {count} files of {where} cannot be used (first "
                f"{path}: {why}); at most {MAX_SKIPPED:.0%} may be skipped; look at the "
                "source of the data"
            )
        listed = "".join(f"\n  {path}: {why}" for path, why in self.reasons.items())
        warnings.warn(
            f"{len(self.reasons)} of the {count} files of {where} were skipped:{listed}",
            stacklevel=4,
        )


def is_file(path: Path) -> bool:
    """Tell whether a path is a regular file; names that no file can have are none."""
    try:
        return path.is_file()
    except (OSError, ValueError):
        return False


def is_folder(path: Path) -> bool:
    """Tell whether a path is a folder; names that none can have are none."""
    try:
        return path.is_dir()
    except (OSError, ValueError):
        return False


def find_images(folder: Path) -> list[Path]:
    """Return all PNG and JPEG files below a folder, sorted; links are followed.

    Left out are hidden files and folders, files that are no pictures, and, with a warning, pictures
    in other formats and those that lowland wrote itself. Raises DataError if none is left, or a
    folder cannot be listed.
    """
    files = list(_walk(folder, ()))
    named = sorted(path for path in files if path.suffix.lower() in IMAGE_SUFFIXES)
    own = {path for path in named if is_grid(path)}
    paths = [path for path in named if path not in own]
    other = sorted(path for path in files if path.suffix.lower() in OTHER_PICTURES)
    notes = {"written by lowland": sorted(own), "in formats that are not read": other}
    left = [f"{len(some)} {what} (first {some[0]})" for what, some in notes.items() if some]
    if not paths:
        raise DataError(
            f"{folder} holds no images{' but ' + ', '.join(left) if left else ''}; PNG and JPEG "
            "files are read; check the path or convert them"
        )
    if left:
        warnings.warn(f"pictures in {folder} are left out: {', '.join(left)}", stacklevel=3)
    return paths


def _walk(folder: Path, above: tuple[tuple[int, int], ...]) -> Iterator[Path]:
    """Yield all entries below a folder that are no folders, hidden ones left out."""
    try:
        about = folder.stat()
        entries = sorted(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}); every folder of pictures must be "
            "readable; change its permissions or move it away"
        ) from None
    here = (about.st_dev, about.st_ino)
    if here in above:
        return  # a link to a folder above it
    for path in entries:
        if path.name.startswith(".") or path.name in SYSTEM_FOLDERS:
            continue
        if path.is_dir():
            yield from _walk(path, (*above, here))
        else:
            yield path


def label_by_folder(folder: Path, paths: list[Path]) -> tuple[Tensor | None, tuple[str, ...]]:
    """Return the labels (N,) that the sub-folders name and the names of the classes, in natural
    order; (None, ()) where there are no sub-folders.

    Raises DataError if it cannot be told which folders are labels.
    """
    parts = [path.relative_to(folder).parts[:-1] for path in paths]
    nested = [part[0] for part in parts if part]
    if not nested:
        return None, ()
    if len(nested) < len(parts):
        raise DataError(
            f"{folder} holds {len(parts) - len(nested)} images beside its sub-folders; either all "
            "images are in sub-folders, which are their labels, or none is; move them"
        )
    names = sort_classes(nested)
    if {name.lower() for name in names} <= SPLIT_NAMES:
        raise DataError(
            f"{folder} has the sub-folders {', '.join(names)}; sub-folders are read as labels, not "
            f"as parts; name one of them, for example {folder / names[0]}"
        )
    inner = Counter(part[1:] for part in parts)
    if len(inner) > 1:
        one, other = ("/".join(part) or "itself" for part in list(inner)[:2])
        raise DataError(
            f"{folder} has folders inside its sub-folders ({one} and {other} in {names[0]} and "
            "others); the sub-folders are the labels, and deeper ones could be too; keep one level"
        )
    empty = [
        path.name
        for path in sorted(folder.iterdir())
        if path.is_dir() and path.name not in {*names, *SYSTEM_FOLDERS} and path.name[0] != "."
    ]
    if empty:
        warnings.warn(
            f"{', '.join(empty[:MAX_LISTED])} in {folder} hold no images and are no classes",
            stacklevel=4,
        )
    index = {name: i for i, name in enumerate(names)}
    return torch.tensor([index[name] for name in nested]), names
