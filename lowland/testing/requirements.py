"""Say that a check has failed, also where Python leaves `assert` out (`python -O`)."""

from torch import Tensor


def require(held: bool | Tensor, message: str) -> None:
    """Raise AssertionError with a message unless something held; a tensor of one bool may say so.

    >>> require(1 + 1 == 3, "sums are wrong")
    Traceback (most recent call last):
    AssertionError: sums are wrong
    """
    if not held:
        raise AssertionError(message)
