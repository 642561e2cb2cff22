"""Data: named sets, folders, arrays and tables, each checked and divided into training, calibration
and test parts.
"""

from lowland.data.batches import Batches
from lowland.data.binarise import binarised, made_binary, settled, toss
from lowland.data.dataset import DataError, Dataset, Split, check_data
from lowland.data.fetch import cache_root, data_roots
from lowland.data.images import load_batch, load_image, save_grid, to_uint8
from lowland.data.sets import available, load_data

__all__ = [
    "Batches",
    "DataError",
    "Dataset",
    "Split",
    "available",
    "binarised",
    "cache_root",
    "check_data",
    "data_roots",
    "load_batch",
    "load_data",
    "load_image",
    "made_binary",
    "save_grid",
    "settled",
    "to_uint8",
    "toss",
]
