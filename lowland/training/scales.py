"""Say what is odd about the scales of the columns of a data set: a cause of trouble that no setting
of training cures.
"""

import torch

from lowland.data import Dataset

MAX_RATIO = 30.0  # of the largest to the smallest standard deviation of columns
MAX_SCALE = 20.0  # of any of them; and its inverse, at the least
MAX_OFFSET = 20.0  # of the mean of a column from 0, in its standard deviations
MAX_ROWS = 10_000  # looked at
MAX_NAMED = 3


def describe_scales(data: Dataset) -> str:
    """Describe flat columns, columns of very different or odd scales, and those far from 0, in a
    sentence with its cure; empty for images, for data on sites and where nothing is odd.

    >>> import lowland
    >>> describe_scales(lowland.load_data("moons"))
    ''
    """
    if data.domain.kind != "real" or len(data.domain.shape) != 1:
        return ""
    x = data.train.x[:MAX_ROWS].double()
    if len(x) < 2:
        return ""
    mean, std = x.mean(0), x.std(0, correction=0)
    names = data.columns or tuple(str(i) for i in range(x.shape[1]))
    tiny = 1e-9 * torch.maximum(mean.abs(), std.max())
    flat = (std <= tiny).nonzero().flatten().tolist()
    if flat:
        return (
            f"Column {_join(names, flat)} of {data.name} never changes: an energy can fall without "
            "end away from it. Remove it."
        )
    low, high = int(std.argmin()), int(std.argmax())
    far = int((mean.abs() / std).argmax())
    found = ""
    if std[high] > MAX_RATIO * std[low]:
        found = (
            f"column {names[high]} has a standard deviation of {float(std[high]):.3g} and "
            f"{names[low]} one of {float(std[low]):.3g}"
        )
    elif std[high] > MAX_SCALE or std[low] < 1 / MAX_SCALE:
        odd = high if std[high] > MAX_SCALE else low
        found = f"column {names[odd]} has a standard deviation of {float(std[odd]):.3g}"
    elif mean[far].abs() > MAX_OFFSET * std[far]:
        found = (
            f"column {names[far]} has the mean {float(mean[far]):.3g} and a standard deviation of "
            f"{float(std[far]):.3g}"
        )
    if not found:
        return ""
    return (
        f"The columns of {data.name} are not standardized: {found}, while the steps of samplers "
        "and networks are made for 1. Set data.standardize = true."
    )


def _join(names: tuple[str, ...], which: list[int]) -> str:
    shown = ", ".join(names[i] for i in which[:MAX_NAMED])
    return shown + (f" and {len(which) - MAX_NAMED} more" if len(which) > MAX_NAMED else "")
