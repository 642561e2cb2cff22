"""The sets that can be named, and the files that can be named instead.

A name means a set of the list below; a path means a folder of images, a .npy or .npz array, or a
.csv table. A path that is spelt like a name is written with a leading "./".
"""

import inspect
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import torch

from lowland.data import cifar
from lowland.data.binarise import binarised
from lowland.data.dataset import DataError, Dataset, Split, check_data, divide
from lowland.data.fetch import Remote, content_sha256, locate
from lowland.data.idx import read_idx
from lowland.data.loading import Kind, Loader, Request
from lowland.data.paths import path_loader
from lowland.data.toys import TOYS
from lowland.domain import box, real

DIGITS_SEED = 8  # fixed, so that the three parts of the digits never depend on the seed of a run
TOY_COUNT = 10_000


def available() -> dict[str, str]:
    """The named sets, each with one line about it."""
    return {name: line for name, (line, _) in _named().items()}


def load_data(
    name: str | Path,
    *,
    root: str | Path | None = None,
    seed: int = 0,
    download: bool = True,
    limit: int | None = None,
    binarise: str | None = None,
    **options: Any,
) -> Dataset:
    """A named set, or the data in a folder or file, checked and divided into three parts.

    root: searched first for files; seed: of the division (and of the draws of a toy); download:
    fetch a missing file into the cache folder; limit: keep at most this many training examples, the
    first of the seeded permutation; binarise: make grey images binary by "threshold", by a
    "stochastic" draw or by one "fixed" draw with the seed (see `binarised`).

    options: `count` for toys; `size`, `channels` for folders; `standardise` for arrays and tables
    with one number per column; `label` (name or position of a column) for tables.

    >>> load_data("digits").domain.shape
    (1, 8, 8)

    Raises DataError (a ValueError) if the name or an option is unknown, a file is missing or cannot
    be trusted.
    """
    if limit is not None and limit < 1:
        raise DataError(
            f"limit is {limit}; it must be at least 1; leave it out to keep all training examples"
        )
    request = Request(root, seed, download, limit)
    named = _named()
    loader = (
        named[str(name)][1] if str(name) in named else path_loader(str(name)) or _unknown(str(name))
    )
    allowed = [
        p.name for p in inspect.signature(loader).parameters.values() if p.kind is p.KEYWORD_ONLY
    ]
    unknown = sorted(set(options) - set(allowed))
    if unknown:
        raise DataError(
            f"{name} was given {', '.join(unknown)}; it takes "
            f"{', '.join(['limit', 'binarise', *allowed])}; remove or rename them"
        )
    dataset = loader(request, **options)
    check_data(dataset)
    if binarise is not None:
        dataset = binarised(dataset, binarise, seed)
        check_data(dataset)
    return dataset


def _unknown(name: str) -> NoReturn:
    near = get_close_matches(name, available(), n=1)
    hint = (
        f"did you mean {near[0]!r}?"
        if near
        else "choose one of them or give the path of a file or folder"
    )
    raise DataError(
        f"data {name!r} is not known; the named sets are {', '.join(available())}; {hint}"
    )


def _named() -> dict[str, tuple[str, Loader]]:
    toys = {name: (f"plane: {toy.line}", _toy_loader(name)) for name, toy in TOYS.items()}
    return {
        "digits": ("1,797 digits of 8 × 8, 17 grey levels, comes with scikit-learn", _digits),
        **toys,
        "mnist": ("70,000 digits of 28 × 28", _idx_loader(MNIST)),
        "fashion-mnist": ("70,000 articles of clothing of 28 × 28", _idx_loader(FASHION)),
        "cifar10": (
            "60,000 colour images of 32 × 32 in 10 classes, from the binary archive",
            _cifar10,
        ),
        "cifar10-jpeg": (
            "CIFAR-10 recompressed as JPEG, from Parquet; not comparable with papers",
            _cifar10_jpeg,
        ),
    }


def _digits(request: Request) -> Dataset:
    """1297/250/250 by one fixed permutation, whatever the seed: results on the digits are
    comparable between runs.
    """
    try:
        bunch = import_module("sklearn.datasets").load_digits()
    except ImportError as error:
        raise DataError(
            "digits come with scikit-learn; it is not installed; pip install scikit-learn"
        ) from error
    whole = Split(
        torch.from_numpy(bunch.images).to(torch.uint8)[:, None],
        torch.from_numpy(bunch.target).long(),
    )
    note = (
        "scikit-learn's 8 × 8 digits (the UCI test part); 1297/250/250 by a fixed permutation that "
        "no seed changes"
    )
    kind = Kind("digits", box(0, 1, 1, 8, 8), 10, tuple("0123456789"), 17, note)
    return kind.build(request, divide(whole, (len(whole) - 500, 250, 250), DIGITS_SEED))


def _toy_loader(name: str) -> Loader:
    toy = TOYS[name]

    def load(request: Request, *, count: int = TOY_COUNT) -> Dataset:
        if count < 5:
            raise DataError(
                f"count is {count}; a toy needs at least 5 points to train on; pass for example "
                f"{TOY_COUNT}"
            )
        generator = torch.Generator().manual_seed(request.seed)
        parts = [Split(*toy(size, generator)) for size in (count, count // 5, count // 5)]
        note = f"drawn with seed {request.seed}; mean 0 and mean variance 1 by fixed constants"
        names = tuple(str(k) for k in range(toy.classes))
        return Kind(name, real(2), toy.classes, names, note=note).build(request, parts)

    return load


@dataclass(frozen=True)
class IdxSet:
    """Four IDX files: their SHA-256 unpacked (images and labels to train on, then to test), and
    their mirrors.
    """

    name: str
    mirrors: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    class_names: tuple[str, ...]

    def remotes(self) -> list[Remote]:
        """The four files, in the order of their checksums."""
        files = [
            f"{part}-{kind}-ubyte.gz"
            for part in ("train", "t10k")
            for kind in ("images-idx3", "labels-idx1")
        ]
        return [
            Remote(
                self.name,
                file,
                tuple(f"{mirror}/{file}" for mirror in self.mirrors),
                digest,
                packed=True,
            )
            for file, digest in zip(files, self.sha256, strict=True)
        ]


MNIST = IdxSet(
    "mnist",
    (
        "https://ossci-datasets.s3.amazonaws.com/mnist",
        "https://storage.googleapis.com/cvdf-datasets/mnist",
    ),
    (
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
    tuple("0123456789"),
)
FASHION = IdxSet(
    "fashion-mnist",
    (
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",
    ),  # this host has no https; the checksum protects
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    (
        "T-shirt",
        "trouser",
        "pullover",
        "dress",
        "coat",
        "sandal",
        "shirt",
        "sneaker",
        "bag",
        "ankle boot",
    ),
)
# The published MD5 is c32a1d4ab5d03f1284b67883e8d87530; this is the SHA-256 that several
# independent projects record for the file with that MD5. It has not been recomputed by us: the
# archive was not at hand.
CIFAR10 = Remote(
    "cifar10",
    "cifar-10-binary.tar.gz",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
)


def _idx_loader(source: IdxSet) -> Loader:
    def load(request: Request) -> Dataset:
        remotes = source.remotes()
        paths = [locate(remote, root=request.root, download=request.download) for remote in remotes]
        train, test = (_idx_part(paths[i], paths[i + 1]) for i in (0, 2))
        found = tuple(digest for _, digests in (train, test) for digest in digests)
        note = _provenance(
            found == source.sha256, "train 5/6, calibration 1/6 of the training files"
        )
        kind = Kind(source.name, box(0, 1, 1, 28, 28), 10, source.class_names, 256, note)
        return kind.build(request, _with_own_test(train[0], test[0], 6, request.seed))

    return load


def _idx_part(images: Path, labels: Path) -> tuple[Split, tuple[str, str]]:
    x, y = read_idx(images, 3), read_idx(labels, 1)
    if tuple(x.values.shape[1:]) != (28, 28):
        raise DataError(
            f"{images} holds images of {tuple(x.values.shape[1:])}; the set has 28 × 28; check the "
            "file"
        )
    if len(x.values) != len(y.values):
        raise DataError(
            f"{images} holds {len(x.values)} images and {labels} holds {len(y.values)} labels; "
            "there must be one each; take both from the same source"
        )
    return Split(x.values[:, None], y.values.long()), (x.sha256, y.sha256)


def _provenance(published: bool, division: str) -> str:
    files = (
        "the published files (SHA-256 agrees)"
        if published
        else "NOT the published files (SHA-256 differs)"
    )
    return f"{files}; {division} by a seeded permutation; own test part"


def _with_own_test(whole: Split, test: Split, share: int, seed: int) -> list[Split]:
    held_out = max(1, len(whole) // share)
    return [*divide(whole, (len(whole) - held_out, held_out), seed), test]


def _cifar10(request: Request) -> Dataset:
    path = locate(CIFAR10, root=request.root, download=request.download)
    whole, test = cifar.read_archive(path)
    published = content_sha256(path, packed=False) == CIFAR10.sha256
    note = _provenance(published, "train 9/10, calibration 1/10 of the training files")
    kind = Kind("cifar10", box(0, 1, *cifar.SHAPE), 10, cifar.CLASS_NAMES, 256, note)
    return kind.build(request, _with_own_test(whole, test, 10, request.seed))


def _cifar10_jpeg(request: Request) -> Dataset:
    files = [Remote("cifar10-jpeg", f"{part}.parquet") for part in ("train", "test")]
    paths = [locate(file, root=request.root, download=False) for file in files]
    whole, test = (cifar.read_parquet(path) for path in paths)
    note = (
        "JPEG-recompressed; comparable with nobody's papers; train 9/10, calibration 1/10 of "
        "train.parquet by a seed"
    )
    kind = Kind("cifar10-jpeg", box(0, 1, *cifar.SHAPE), 10, cifar.CLASS_NAMES, 256, note)
    return kind.build(request, _with_own_test(whole, test, 10, request.seed))
