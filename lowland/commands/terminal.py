"""Text on the terminal: no control characters but those of layout, whatever names hold, and what an
encoding lacks as escapes.
"""

import io
import os
import re
import sys
from collections.abc import Callable
from typing import TextIO

# all control characters but tab, line feed and carriage return, and those that turn text around
CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class PipeClosedError(Exception):
    """The reader of standard output has gone, as `head` goes: no mistake of anybody."""


class OutputError(ValueError):
    """Standard output cannot be written."""


class Terminal(io.TextIOBase):
    """A stream of text that escapes what a terminal would obey, and characters that its encoding
    lacks.

    stream: where to write, None for nowhere; colours: whether codes of colour pass, as the help
    needs them; vital: whether it is an error if the text cannot be written.
    """

    def __init__(self, stream: TextIO | None, *, vital: bool, colours: bool = False) -> None:
        self._stream, self._vital, self.colours = stream, vital, colours

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Return the encoding of the stream."""
        return (self._stream and self._stream.encoding) or "utf-8"

    def writable(self) -> bool:
        """Tell that text can be written."""
        return True

    def isatty(self) -> bool:
        """Tell whether the stream is a terminal."""
        return self._stream is not None and self._stream.isatty()

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        if self._stream is None:
            raise OSError("the stream is closed")
        return self._stream.fileno()

    def write(self, text: str) -> int:
        """Write text, made safe. Raises PipeClosedError or OutputError if the stream is vital."""
        stream = self._stream
        if stream is not None:
            safe = make_safe(text, self.encoding, self.colours)
            self._try(lambda: stream.write(safe))
        return len(text)

    def flush(self) -> None:
        """Bring the text to the stream, if it is not closed. Raises as `write` does."""
        if self._stream is not None and not self._stream.closed:  # Python flushes what it forgets
            self._try(self._stream.flush)

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except OSError as error:
            self._abandon()
            if not self._vital:
                return
            if isinstance(error, BrokenPipeError):
                raise PipeClosedError from None
            raise OutputError(
                f"standard output could not be written ({error.strerror}); results are printed "
                "there, and the rest is lost; make room, or write into a file with --out"
            ) from None

    def _abandon(self) -> None:
        """Send what is still in the buffer of the stream to nowhere, so that Python may end."""
        stream, self._stream = self._stream, None
        if stream is None:
            return
        try:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, stream.fileno())
            os.close(nowhere)
            stream.flush()
        except OSError:
            return


def print_line(text: str) -> None:
    """Print a line on standard error, above progress bars that are shown there."""
    if "tqdm" in sys.modules:
        from tqdm.auto import tqdm

        return tqdm.write(text, file=sys.stderr)
    print(text, file=sys.stderr)


def make_safe(text: str, encoding: str = "utf-8", colours: bool = False) -> str:
    r"""Return text with control characters, and what an encoding lacks, as escapes.

    >>> make_safe("a\x1b]0;owned\x07\n")
    'a\\x1b]0;owned\\x07\n'
    """
    if colours:
        parts = COLOUR.split(text)
        codes = [*COLOUR.findall(text), ""]
        text = "".join(CONTROL.sub(_escape, p) + code for p, code in zip(parts, codes, strict=True))
    else:
        text = CONTROL.sub(_escape, text)
    try:
        return text.encode(encoding, "backslashreplace").decode(encoding)
    except LookupError:
        return text


def _escape(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 256 else f"\\u{code:04x}"
