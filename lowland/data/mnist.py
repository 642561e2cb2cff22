"""MNIST and Fashion-MNIST, from four IDX files each, packed or not."""

from dataclasses import dataclass
from pathlib import Path

from lowland.data.dataset import DataError, Dataset, Split
from lowland.data.fetch import RemoteFile, locate
from lowland.data.idx import read_idx
from lowland.data.loader import LoadOptions, build_dataset, describe_source, keep_test
from lowland.domain import box

FILES = (
    "train-images-idx3-ubyte.gz",
    "train-labels-idx1-ubyte.gz",
    "t10k-images-idx3-ubyte.gz",
    "t10k-labels-idx1-ubyte.gz",
)
# bytes unpacked: 60,000 and 10,000 images of 28 × 28 with 16 bytes before them, labels with 8
SIZES = (47_040_016, 60_008, 7_840_016, 10_008)


@dataclass(frozen=True)
class IdxDataset:
    """Four IDX files of 28 × 28 images: mirrors, SHA-256 unpacked (training images and labels, then
    test images and labels), class names, and the name of torchvision's folder.
    """

    name: str
    mirrors: tuple[str, ...]
    sha256: tuple[str, str, str, str]
    class_names: tuple[str, ...]
    also: tuple[str, ...]

    def remote_files(self) -> list[RemoteFile]:
        """Return the four files, in the order of their checksums."""
        return [
            RemoteFile(
                self.name,
                file,
                tuple(f"{mirror}/{file}" for mirror in self.mirrors),
                digest,
                packed=True,
                size=size,
                also=self.also,
            )
            for file, size, digest in zip(FILES, SIZES, self.sha256, strict=True)
        ]

    def load(self, options: LoadOptions) -> Dataset:
        """Read the files, fetched where they are missing and that is allowed. Raises DataError for
        files that disagree with each other.
        """
        paths = [
            locate(file, root=options.root, download=options.download)
            for file in self.remote_files()
        ]
        whole, digests = _read_split(paths[0], paths[1])
        test, test_digests = _read_split(paths[2], paths[3])
        published = digests + test_digests == self.sha256
        note = describe_source(published, "train 5/6, calibration 1/6 of the training files")
        splits, domain = keep_test(whole, test, 6, options.seed), box(0, 1, 1, 28, 28)
        return build_dataset(options, self.name, domain, splits, self.class_names, 256, note)


def _read_split(images: Path, labels: Path) -> tuple[Split, tuple[str, str]]:
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


MNIST = IdxDataset(
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
    ("MNIST",),
)
FASHION_MNIST = IdxDataset(
    "fashion-mnist",
    # this host has no https; the checksum protects
    ("http://fashion-mnist.s3-website.eu-central-1.amazonaws.com",),
    (
        "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
        "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
        "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
        "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    ),
    (
        "T-shirt", "trouser", "pullover", "dress", "coat",
        "sandal", "shirt", "sneaker", "bag", "ankle boot",
    ),
    ("FashionMNIST",),
)  # fmt: skip
