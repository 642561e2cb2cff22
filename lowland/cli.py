"""The `lowland` command line, built from the signatures and docstrings of `lowland.commands`."""

import io
import json
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from functools import partial, wraps
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from types import UnionType
from typing import TYPE_CHECKING, Any, NoReturn, Union, get_args, get_origin

from lowland import __version__
from lowland.commands import COMMANDS
from lowland.registry import suggest

if TYPE_CHECKING:
    from tyro.constructors import PrimitiveConstructorSpec, PrimitiveTypeInfo

PROGRAM = "lowland"


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Mistakes of the user end in one message on standard error and exit status 2,
    without a traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        fail(overview(), 2)
    if arguments[0] in ("-h", "--help", "--version"):
        print(f"{PROGRAM} {__version__}" if arguments[0] == "--version" else overview())
        return
    rank = int(os.environ.get("RANK", 0))  # where torchrun started several, the first one prints
    who = f"{PROGRAM} (process {rank})" if rank else PROGRAM
    try:
        with redirect_stdout(io.StringIO()) if rank else nullcontext():
            status = show(call(arguments))
    except ValueError as error:
        fail(f"{who}: {error}", 2)
    except KeyboardInterrupt:
        resume = f"`{PROGRAM} resume RUN` goes on from the last checkpoint"
        fail(f"\n{PROGRAM}: stopped; {resume}", 130)
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingStoppedError", "WorkerLostError"):
            raise
        fail(f"{who}: {error}", 3)
    if status:
        raise SystemExit(status)


def fail(text: str, status: int) -> NoReturn:
    """Print a text on standard error and end with a status."""
    print(text, file=sys.stderr)
    raise SystemExit(status) from None


def overview() -> str:
    """List the commands, each with the first sentence of its docstring."""
    width = min(get_terminal_size().columns, 100)
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Energy-based models that people can trust.", ""]
    for name, command in COMMANDS.items():
        about = " ".join((command.__doc__ or "").partition("\n\n")[0].split())
        lines.append(fill(f"  {name:13}{about}", width, subsequent_indent=" " * 15))
    return "\n".join([*lines, "", f"`{PROGRAM} COMMAND --help` lists the options of a command."])


def call(arguments: list[str]) -> Any:
    """Call the command that the arguments name, and return its result."""
    import tyro

    two = " ".join(arguments[:2])
    name = two if two in COMMANDS else arguments[0]
    if name not in COMMANDS:
        hint = suggest(name, COMMANDS, f"`{PROGRAM} --help` lists them")
        raise ValueError(f"there is no command {name!r}; {hint}")
    command = COMMANDS[name]

    @wraps(command)
    def checked(*positional: Any, **options: Any) -> Any:
        if [] in positional:
            raise ValueError(
                f"a list of `{PROGRAM} {name}` is empty; it takes one or more; see --help"
            )
        return command(*positional, **options)

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(read_argument)
    with registry:
        return tyro.cli(
            checked,
            prog=f"{PROGRAM} {name}",
            args=arguments[len(name.split()) :],
            config=(tyro.conf.UseAppendAction,),
        )


def show(result: Any) -> int:
    """Print the result of a command: a path, a table, or figures as JSON. Returns the exit status,
    1 for a number of outliers above 0.
    """
    if isinstance(result, int):
        return min(result, 1)
    text = json.dumps(result, indent=1) if isinstance(result, Mapping) else str(result)
    print(text.removesuffix("\n"))
    return 0


def read_argument(info: "PrimitiveTypeInfo") -> "PrimitiveConstructorSpec[Any] | None":
    """Read `str | Path`, also with what only Python can pass, as one path, and `tuple[T, ...]` as
    one word with commas; leave other types to tyro.
    """
    from tyro.constructors import PrimitiveConstructorSpec

    kinds = get_args(info.type)
    read: Callable[[str], Any] = Path
    if info.type_origin is tuple:
        read = partial(split_list, kinds[0])
    elif get_origin(info.type) not in (Union, UnionType) or Path not in kinds:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH" if read is Path else "A,B",
        instance_from_str=lambda words: read(words[0]),
        is_instance=lambda value: True,
        str_from_instance=lambda value: [str(value).strip("()")],
    )


def split_list(kind: type, text: str) -> tuple[Any, ...]:
    """Split "1,2" into (1, 2), each part of a kind."""
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise ValueError(
            f"{text!r} came; values with commas between are taken; write for example 1,1"
        ) from None
