"""The `lowland` command line, built from the signatures and docstrings of `lowland.commands`."""

import io
import json
import os
import sys
import types
from collections.abc import Callable, Mapping
from contextlib import nullcontext, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import Any, Union, get_args, get_origin

from lowland import __version__, commands

PROGRAM = "lowland"
ORDER = (
    "train resume sample energy detect detect_fit bench restore compose edit interpolate predict "
    "purify attack evaluate report recipes doctor"
)
COMMANDS: dict[str, Callable[..., Any]] = {
    name.replace("_", " "): vars(commands)[name] for name in ORDER.split()
}


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Mistakes of the user end in one message on standard error and exit status 2,
    without a traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments:
        print(overview(), file=sys.stderr)
        raise SystemExit(2)
    if arguments[0] in ("-h", "--help", "--version"):
        print(f"{PROGRAM} {__version__}" if arguments[0] == "--version" else overview())
        return
    rank = int(os.environ.get("RANK", 0))  # where torchrun started several, the first one prints
    who = f"{PROGRAM} (process {rank})" if rank else PROGRAM
    try:
        with redirect_stdout(io.StringIO()) if rank else nullcontext():
            status = show(call(arguments))
    except ValueError as error:
        print(f"{who}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            f"\n{PROGRAM}: stopped; `{PROGRAM} resume RUN` goes on from the last checkpoint",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingStoppedError", "WorkerLostError"):
            raise
        print(f"{who}: {error}", file=sys.stderr)
        raise SystemExit(3) from None
    if status:
        raise SystemExit(status)


def overview() -> str:
    """List the commands, each with the first sentence of its docstring."""
    width = min(get_terminal_size().columns, 100)
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Energy-based models that people can trust.", ""]
    for name, command in COMMANDS.items():
        about = (command.__doc__ or "").partition("\n\n")[0]
        head, tail = f"  {name:13}", " " * 15
        lines.append(
            fill(" ".join(about.split()), width, initial_indent=head, subsequent_indent=tail)
        )
    return "\n".join([*lines, "", f"`{PROGRAM} COMMAND --help` lists the options of a command."])


def call(arguments: list[str]) -> Any:
    """Call the command that the arguments name, and return its result."""
    import tyro

    two = " ".join(arguments[:2])
    name = two if two in COMMANDS else arguments[0]
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"`{PROGRAM} --help` lists them"
        raise ValueError(f"there is no command {name!r}; {hint}")
    registry = tyro.constructors.ConstructorRegistry()
    registry.primitive_rule(read_path)
    registry.primitive_rule(read_list)
    with registry:
        return tyro.cli(
            COMMANDS[name],
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


def read_path(info: Any) -> Any:
    """Read `str | Path`, also with None or with what only Python can pass, as one path."""
    from tyro.constructors import PrimitiveConstructorSpec

    if get_origin(info.type) not in (Union, types.UnionType) or Path not in get_args(info.type):
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH",
        instance_from_str=lambda words: Path(words[0]),
        is_instance=lambda value: value is None or isinstance(value, str | Path),
        str_from_instance=lambda value: [str(value)],
    )


def read_list(info: Any) -> Any:
    """Read `tuple[T, ...]` as one word with commas."""
    from tyro.constructors import PrimitiveConstructorSpec

    if info.type_origin is not tuple:
        return None
    kind = get_args(info.type)[0]
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar="A,B",
        instance_from_str=lambda words: split_list(words[0], kind),
        is_instance=lambda value: isinstance(value, tuple),
        str_from_instance=lambda value: [",".join(map(str, value))],
    )


def split_list(text: str, kind: type) -> tuple[Any, ...]:
    """Split "1,2" into (1, 2), each part of a kind."""
    try:
        return tuple(kind(part) for part in text.split(",") if part)
    except ValueError:
        raise ValueError(
            f"{text!r} came; values with commas between are taken; write for example 1,1"
        ) from None
