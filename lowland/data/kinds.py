"""What numbers in a file are taken for: real vectors, images, zeros and ones, or classes of sites.

The content decides, not the type in which it is stored; where the content allows two readings, what
the energy needs decides; where that is not known either, the file is refused until `kind` is given.

    only 0 and 1          binary; for an energy that moves along gradients, real (or an image)
    only −1 and 1         real for an energy that moves along gradients, else refused
    3 or 4 dimensions     images in [0, 1]: floats as they are, bytes divided by 255
    1 or 2 dimensions     real vectors; whole numbers 0 ... 255 or values within [0, 1] are refused
                          for an energy of discrete sites, which could also mean classes or grey
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from lowland.data.dataset import DataError
from lowland.domain import Domain, binary, box, categorical, real

Array = NDArray[Any]
Kind = Literal["real", "binary", "categorical", "image"]
KINDS: tuple[Kind, ...] = ("real", "binary", "categorical", "image")
CHUNK = 1 << 20  # numbers looked at together
MAX_STATES = 256  # of a categorical site
ADVICE = "say which: kind={} (--set data.kind={})"


@dataclass(frozen=True)
class Content:
    """What the numbers of an array are: their bounds, whether all are whole, whether all are −1 or
    1, whether each row holds a single one.
    """

    least: float
    most: float
    whole: bool
    spins: bool
    one_hot: bool

    @property
    def bits(self) -> bool:
        """Tell whether only 0 and 1 occur."""
        return self.whole and self.least >= 0 and self.most <= 1


@dataclass(frozen=True)
class Reading:
    """How an array is read: the domain, the divisor of its values, the number of grey levels, and
    what was decided, in a sentence, if it was not plain from the type.
    """

    domain: Domain
    divisor: float = 1.0
    num_gray_levels: int | None = None
    note: str = ""


def chunks(x: Array) -> Iterator[Array]:
    """Yield the rows of an array, some at a time."""
    rows = max(1, CHUNK // max(1, math.prod(x.shape[1:])))
    for start in range(0, len(x), rows):
        yield x[start : start + rows]


def inspect_content(parts: Iterable[Array], where: str) -> Content:
    """Look at all numbers of an array, rows of which come in parts (n, ...). Raises DataError, with
    their number, for NaN and infinite values.
    """
    least, most, whole, spins, one_hot = math.inf, -math.inf, True, True, True
    nan = infinite = rows = count = 0
    for part in parts:
        count += len(part)
        if part.dtype.kind == "f":
            finite = np.isfinite(part)
            if not finite.all():
                nan += int(np.isnan(part).sum())
                infinite += int(np.isinf(part).sum())
                rows += int((~finite).reshape(len(part), -1).any(1).sum())
                continue
            whole = whole and bool((part == np.rint(part)).all())
        least, most = min(least, float(part.min())), max(most, float(part.max()))
        spins = spins and bool(((part == 1) | (part == -1)).all())
        one_hot = one_hot and part.ndim > 1 and bool((part.sum(-1) == 1).all())
    if rows:
        raise DataError(
            f"{where} holds {nan} NaN and {infinite} infinite values in {rows} of {count} "
            "examples; every value must be finite; remove or fill in those examples first"
        )
    return Content(least, most, whole, spins and least < most, one_hot)


def read_kind(
    x: Array,
    where: str,
    kind: str | None = None,
    *,
    discrete: bool | None = None,
    graded: bool = False,
) -> Reading:
    """Decide what an array x (N, ...) is taken for, by the rules of this module.

    kind: real, binary, categorical or image; discrete: whether the energy lives on discrete sites,
    None where that is not known; graded: whether values in [0, 1] are known to be grey (as they
    are where they will be binarized). Raises DataError where the kind does not fit or two kinds do.
    """
    content = inspect_content(chunks(x), where)
    if kind is None:
        return _guess(x, where, content, discrete, graded)
    if kind not in KINDS:
        raise DataError(
            f"kind is {kind!r}; data are {', '.join(KINDS[:-1])} or {KINDS[-1]}; choose one, or "
            "leave it out"
        )
    if kind == "image":
        return _read_image(x, where, content)
    shape = x.shape[1:] or (1,)
    if kind == "real":
        return Reading(real(*shape), note="read as real, as kind says")
    if kind == "binary":
        if not content.bits:
            raise _misfit(where, content, "binary", "0 and 1 alone")
        return Reading(binary(*shape), num_gray_levels=2, note="read as binary, as kind says")
    if not content.whole or content.least < 0 or not 1 <= content.most < MAX_STATES:
        raise _misfit(where, content, "categorical", f"whole numbers 0 ... {MAX_STATES - 1}")
    states = int(content.most) + 1
    return Reading(
        categorical(states, *shape), note=f"read as categorical of {states} states, as kind says"
    )


def _misfit(where: str, content: Content, kind: str, allowed: str) -> DataError:
    return DataError(
        f"{where} holds values {content.least:g} to {content.most:g}"
        f"{'' if content.whole else ', not all of them whole'}; kind {kind!r} is for {allowed}; "
        "convert them or choose another kind"
    )


def _guess(x: Array, where: str, content: Content, discrete: bool | None, graded: bool) -> Reading:
    """Return the reading of an array by its content and by what the energy needs."""
    shape = x.shape[1:] or (1,)
    if x.dtype == np.bool_ and discrete is not False:
        return Reading(binary(*shape), num_gray_levels=2)
    if content.spins and discrete is not False:
        raise DataError(
            f"{where} holds −1 and 1 alone, as spins do; sites of energies here are 0 and 1, and "
            "real vectors are the other reading; write (x + 1) / 2, or say kind='real' (--set "
            "data.kind=real)"
        )
    if content.bits and discrete is not False:
        note = "read as binary: every value is 0 or 1 (kind = real takes them for real numbers)"
        if content.one_hot and shape[-1] > 2:
            note += (
                f"; each row of {shape[-1]} holds a single 1: for one class in place of "
                f"{shape[-1]} free bits, save the position of the 1 and set kind = categorical"
            )
        return Reading(binary(*shape), num_gray_levels=2, note=note)
    if x.ndim > 2:
        return _read_image(x, where, content)
    if not discrete or graded:
        bits = "read as real, which the energy needs, although every value is 0 or 1"
        return Reading(real(*shape), note=bits if content.bits else "")
    if content.whole and content.least >= 0 and content.most < MAX_STATES:
        raise DataError(
            f"{where} holds whole numbers {content.least:g} to {content.most:g} for an energy of "
            f"discrete sites; they may be real numbers or {content.most + 1:g} states of each "
            f"site; {ADVICE.format(repr('real'), 'real')}, or categorical"
        )
    if content.least >= 0 and content.most <= 1:
        raise DataError(
            f"{where} holds values within [0, 1] for an energy of discrete sites; they may be grey "
            "(chances of a 1) or real numbers; set binarize (--set data.binarize=stochastic), "
            "standardize, or kind='real'"
        )
    return Reading(real(*shape))


def _read_image(x: Array, where: str, content: Content) -> Reading:
    """Return the reading of images: (N, H, W) or (N, 1 or 3, H, W), in [0, 1] or bytes."""
    shape = (1, *x.shape[1:]) if x.ndim == 3 else x.shape[1:]
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise DataError(
            f"{where} holds an array of shape {x.shape}; images are (N, 1 or 3, height, width), "
            "channels first; transpose it, for example with x.transpose(0, 3, 1, 2), or say "
            "kind='real' (--set data.kind=real)"
        )
    domain = box(0, 1, *shape)
    if content.bits:
        note = "read as images in [0, 1], which the energy needs; every value is 0 or 1"
        return Reading(domain, num_gray_levels=2, note=note)
    if x.dtype == np.uint8:
        return Reading(domain, 255.0, 256)
    if content.least < 0 or content.most > 1:
        raise DataError(
            f"{where} holds images with values {content.least:g} to {content.most:g}; they are "
            "floats in [0, 1] or uint8 of 0 to 255; rescale or convert them"
        )
    return Reading(domain)
