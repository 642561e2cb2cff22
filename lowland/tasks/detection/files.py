"""Files of detectors: safetensors, with the settings and a digest in the header."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save as dump_tensors
from torch import Tensor

from lowland.atomic import write_bytes
from lowland.digests import digest_tensors
from lowland.plain import dump_json
from lowland.reading import parse_json
from lowland.tasks.detection.registry import outlier_score_from_dict
from lowland.tasks.detection.scores import OutlierScore
from lowland.tasks.detection.summary import DataSummary

DETECTOR_FORMAT = 1
LOAD_ERRORS = (OSError, SafetensorError, LookupError, TypeError, AttributeError, ValueError)

Contents = tuple[OutlierScore, DataSummary | None, dict[str, Tensor]]


def write_detector(target: Path, tensors: Mapping[str, Tensor], about: dict[str, Any]) -> Path:
    """Write tensors and plain values into a file. Raises ValueError if it cannot be written."""
    data = {name: t.detach().cpu().contiguous().clone() for name, t in tensors.items()}
    header = dump_json({"format": DETECTOR_FORMAT, "sha256": digest_tensors(data), **about})
    try:
        write_bytes(target, dump_tensors(data, {"detector": header}))
    except OSError as error:
        raise ValueError(
            f"{target} could not be written ({error.strerror}); a path in a folder that exists is "
            "needed, and room on the disk; choose another"
        ) from None
    return target


def read_detector(path: str | Path) -> Contents:
    """Return the score, the data summary and the tensors of a file that `Detector.save` wrote.

    Nothing is unpickled. Raises ValueError for anything else, and for numbers that are not those
    that were written.
    """
    try:
        with safe_open(str(path), "pt") as file:
            about = parse_json((file.metadata() or {})["detector"], str(path))
            names = file.keys()
            tensors = {name: file.get_tensor(name) for name in names}
        made, digest = about["format"], about.get("sha256")
        if made == DETECTOR_FORMAT:
            if digest not in (None, digest_tensors(tensors)):
                raise TypeError("its numbers are not those that were written")
            _ = tensors["calibration"]
            summary = about["summary"] and _summary_from_dict(about["summary"])
            return outlier_score_from_dict(about["outlier_score"]), summary, tensors
    except LOAD_ERRORS as error:
        raise ValueError(
            f"{path} holds no detector ({_one_line(error)}); a file that Detector.save wrote is "
            "needed; fit and save one"
        ) from None
    raise ValueError(
        f"{path} is a detector of format {made}; this lowland reads {DETECTOR_FORMAT}; fit it again"
    )


def _one_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


def _summary_from_dict(values: Mapping[str, Any]) -> DataSummary:
    shape, points = tuple(map(int, values["shape"])), int(values["points"])
    rest = {
        name: (float(pair[0]), float(pair[1]))
        for name, pair in values.items()
        if name not in ("shape", "points")
    }
    return DataSummary(shape, points, **rest)
