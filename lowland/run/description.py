"""Tell whether data.json of a run still says what it said when its checkpoint was written.

A mean that was changed by hand moves every energy, and a class that was renamed every verdict,
without a trace. So a checkpoint keeps the SHA-256 of each field that is computed with.
"""

import hashlib
import json
from collections.abc import Mapping

FIELDS = (
    *("classes", "class_names", "num_gray_levels", "mean", "scale", "columns", "label", "kind"),
    "binarization",
)


def digest_fields(about: object) -> dict[str, str]:
    """Return the SHA-256 of each field of data.json that is computed with.

    >>> sorted(digest_fields({"mean": [0.5], "note": "of a user"}))
    ['mean']
    """
    if not isinstance(about, Mapping):
        return {}
    texts = {name: json.dumps(about[name], sort_keys=True) for name in FIELDS if name in about}
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}


def find_edits(about: Mapping[str, object], known: object) -> str:
    """Return the names of fields that are others than a checkpoint knows; empty if none is, or if
    the checkpoint of an earlier lowland knows none.

    >>> find_edits({"mean": [0.5]}, digest_fields({"mean": [0.25]}))
    'mean'
    """
    if not isinstance(known, Mapping):
        return ""
    found = digest_fields(about)
    return ", ".join(name for name in FIELDS if found.get(name) != known.get(name))
