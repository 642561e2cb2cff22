"""Data: named sets, folders, arrays and tables, each checked and split into training, calibration
and test examples.
"""

from lowland.data.batches import Batches
from lowland.data.binarization import bernoulli_sample, binarize, binarize_dataset, materialize
from lowland.data.dataset import DataError, Dataset, Split, check_data
from lowland.data.fetch import cache_root, data_roots
from lowland.data.grids import save_grid, to_uint8
from lowland.data.images import load_batch, load_image
from lowland.data.load import list_datasets, load_data
from lowland.data.sources import make_dataset

__all__ = [
    "Batches",
    "DataError",
    "Dataset",
    "Split",
    "bernoulli_sample",
    "binarize",
    "binarize_dataset",
    "cache_root",
    "check_data",
    "data_roots",
    "list_datasets",
    "load_batch",
    "load_data",
    "load_image",
    "make_dataset",
    "materialize",
    "save_grid",
    "to_uint8",
]
