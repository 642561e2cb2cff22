"""The `lowland` command line, built from the signatures and docstrings of `lowland.commands`."""

import io
import os
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import wraps
from shutil import get_terminal_size
from textwrap import fill
from typing import NoReturn

from lowland import __version__
from lowland.commands import COMMANDS
from lowland.commands.arguments import read_argument
from lowland.plain import dump_json
from lowland.registry import suggest

PROGRAM = "lowland"


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Mistakes of the user end in one message on standard error and exit status 2,
    without a traceback.
    """
    if arguments is None:
        arguments = sys.argv[1:]
    if not arguments:
        fail(overview(), 2)
    if arguments[0] == "--version":
        return print(f"{PROGRAM} {__version__}")
    if arguments[0] in ("-h", "--help"):
        return print(overview())
    rank = int(os.environ.get("RANK", 0))  # where torchrun started several, the first one prints
    who = f"{PROGRAM} (process {rank})" if rank else PROGRAM
    try:
        with redirect_stdout(io.StringIO()) if rank else nullcontext(), warnings_as_lines(who):
            status = show(call(arguments))
    except ValueError as error:
        fail(f"{who}: {error}", 2)
    except KeyboardInterrupt:
        resume = f"; `{PROGRAM} resume RUN` goes on from the last checkpoint"
        trains = arguments[0] in ("train", "resume")
        fail(f"\n{PROGRAM}: stopped{resume if trains else ''}", 130)
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingStoppedError", "WorkerLostError"):
            raise
        fail(f"{who}: {error}", 3)
    if status:
        raise SystemExit(status)


@contextmanager
def warnings_as_lines(who: str) -> Iterator[None]:
    """Print each warning as one line, without the place in the code that raised it."""
    usual = warnings.formatwarning
    warnings.formatwarning = lambda message, *_, **__: f"{who}: {message}\n"
    try:
        yield
    finally:
        warnings.formatwarning = usual


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


def call(arguments: list[str]) -> object:
    """Call the command that the arguments name, and return its result."""
    import tyro

    name = " ".join(arguments[:2])
    if name not in COMMANDS:
        name = arguments[0]
    if name not in COMMANDS:
        hint = suggest(name, COMMANDS, f"`{PROGRAM} --help` lists them")
        raise ValueError(f"there is no command {name!r}; {hint}")
    command = COMMANDS[name]

    @wraps(command)
    def refuse_empty(*positional: object, **options: object) -> object:
        if [] in positional:
            raise ValueError(
                f"a list of `{PROGRAM} {name}` is empty; it takes one or more; see --help"
            )
        return command(*positional, **options)

    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(read_argument)
    with registry:
        return tyro.cli(
            refuse_empty,
            prog=f"{PROGRAM} {name}",
            args=arguments[len(name.split()) :],
            config=(tyro.conf.UseAppendAction,),
        )


def show(result: object) -> int:
    """Print the result of a command: a path, a table, or figures as JSON; return the exit status, 1
    for a number of outliers above 0.
    """
    if isinstance(result, int):
        return min(result, 1)
    text = dump_json(result, indent=1) if isinstance(result, Mapping) else str(result)
    print(text.removesuffix("\n"))
    return 0
