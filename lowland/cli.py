"""The `lowland` command line, built from the signatures and docstrings of `lowland.commands`."""

import io
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from functools import wraps
from pathlib import Path
from shutil import get_terminal_size
from textwrap import fill
from typing import NoReturn

from lowland import __version__
from lowland.commands import COMMANDS
from lowland.commands.arguments import read_argument
from lowland.commands.terminal import PipeClosedError, Terminal, print_line
from lowland.launch import read_launch
from lowland.plain import dump_json
from lowland.registry import import_code, suggest

PROGRAM = "lowland"
MIN_COLUMNS = 40  # on narrower terminals lines are broken by the terminal
PIPE_CLOSED = 141  # exit status, as of programs that SIGPIPE ends


def main(arguments: list[str] | None = None) -> None:
    """Run a command. Mistakes of the user end in one message on standard error and exit status 2,
    without a traceback.

    Whatever is printed goes through `Terminal`, so that no name can steer the terminal.
    """
    if arguments is None:
        arguments = sys.argv[1:]
        _open_missing_streams()
    out, err = Terminal(sys.stdout, vital=True), Terminal(sys.stderr, vital=False)
    with redirect_stdout(out), redirect_stderr(err), _at_least_wide():
        try:
            try:
                _run(arguments)
            finally:
                out.flush()
        except PipeClosedError:
            raise SystemExit(PIPE_CLOSED) from None
        except ValueError as error:  # standard output is full
            fail(f"{PROGRAM}: {error}", 2)


def _run(arguments: list[str]) -> None:
    """Run a command, and print its result or the mistake."""
    if not arguments:
        fail(overview(), 2)
    if arguments[0] == "--version":
        return print(f"{PROGRAM} {__version__}")
    if arguments[0] in ("-h", "--help"):
        return print(overview())
    who = PROGRAM
    try:
        rank = read_launch().rank  # where torchrun started several, the first one prints
        who = f"{PROGRAM} (process {rank})" if rank else PROGRAM
        quiet = rank or "--quiet" in arguments
        with (
            redirect_stdout(io.StringIO()) if rank else nullcontext(),
            warnings_as_lines(who),
            nullcontext() if quiet else log_as_lines(who),
        ):
            status = show(call(_import_code(arguments)))
    except ValueError as error:
        fail(f"{who}: {error}", 2)
    except KeyboardInterrupt:
        fail(f"\n{PROGRAM}: stopped{_advise(arguments)}", 130)
    except OSError as error:
        fail(f"{who}: {_describe_os_error(error)}", 2)
    except (MemoryError, RuntimeError) as error:
        if type(error).__name__ in ("TrainingStoppedError", "WorkerLostError"):
            fail(f"{who}: {error}", 3)
        if not _is_out_of_memory(error):
            raise
        fail(
            f"{who}: the memory does not suffice; all that is asked for at once must fit into it; "
            "ask for less: fewer at a time, smaller sizes",
            2,
        )
    if status:
        raise SystemExit(status)


def _import_code(arguments: list[str]) -> list[str]:
    """Import the modules that --import names, as "--import my_package.nets" or with "=" between,
    and return the other arguments. A module is looked for in the present folder too.
    """
    left, words = [], iter(arguments)
    for word in words:
        name, equals, module = word.partition("=")
        if name != "--import":
            left.append(word)
            continue
        module = module if equals else next(words, "")
        if str(Path.cwd()) not in sys.path:
            sys.path.append(str(Path.cwd()))
        import_code(module)
    return left


def _advise(arguments: list[str]) -> str:
    """Return how to go on with a command that was stopped, as the end of a sentence."""
    if arguments[0] in ("train", "resume"):
        return f"; `{PROGRAM} resume RUN` goes on from the last checkpoint"
    if arguments[0] == "sample" or ("--out" in arguments and arguments[0] == "energy"):
        return "; the same command again goes on where it was"
    return ""


def _describe_os_error(error: OSError) -> str:
    what = error.filename if isinstance(error.filename, str) else "a file"
    return (
        f"{what} could not be used ({error.strerror or error}); files must be there, readable or "
        "writable, and the disk must have room; check path, permissions and room"
    )


def _is_out_of_memory(error: Exception) -> bool:
    """Tell whether an error of Python's or torch's says that memory was refused."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "can't allocate memory" in str(error)
    )


def _open_missing_streams() -> None:
    """Open descriptors 0 to 2 that are closed to nowhere, so that no file gets their place."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)


@contextmanager
def warnings_as_lines(who: str) -> Iterator[None]:
    """Print each warning as one line, without the place in the code that raised it."""
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print_line(f"{who}: {message}")
        yield


@contextmanager
def log_as_lines(who: str) -> Iterator[None]:
    """Print what lowland logs as lines on standard error."""
    import logging  # late: help needs none

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            print_line(self.format(record))

    logger, handler = logging.getLogger("lowland"), Lines()
    handler.setFormatter(logging.Formatter(f"{who}: %(message)s"))
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(before)
        logger.removeHandler(handler)


@contextmanager
def _at_least_wide() -> Iterator[None]:
    """Lay text out for MIN_COLUMNS columns where COLUMNS names fewer."""
    before = os.environ.get("COLUMNS")
    if before is not None and get_terminal_size().columns < MIN_COLUMNS:
        os.environ["COLUMNS"] = str(MIN_COLUMNS)
    try:
        yield
    finally:
        if before is not None:
            os.environ["COLUMNS"] = before


def fail(text: str, status: int) -> NoReturn:
    """Print a text on standard error and end with a status."""
    print(text, file=sys.stderr)
    raise SystemExit(status) from None


def overview() -> str:
    """List the commands, each with the first sentence of its docstring."""
    width = max(MIN_COLUMNS, min(get_terminal_size().columns, 100))
    lines = [f"usage: {PROGRAM} COMMAND ...", "", "Energy-based models that people can trust.", ""]
    for name, command in COMMANDS.items():
        about = " ".join(read_docstring(command).partition("\n\n")[0].split())
        lines.append(fill(f"  {name:13}{about}", width, subsequent_indent=" " * 15))
    notes = [
        f"`{PROGRAM} COMMAND --help` lists the options of a command.",
        f"`{PROGRAM} COMMAND ... --import my_package.nets` first imports a module of yours, for a "
        "run whose network is in it.",
    ]
    wrapped = [fill(note, width) for note in notes]
    return "\n".join([*lines, "", *wrapped])


def read_docstring(command: Callable[..., object]) -> str:
    """Return the docstring of a command, from its source where Python threw it away (-OO)."""
    if command.__doc__ is None:
        import ast
        import inspect
        import textwrap

        with suppress(OSError):
            source = textwrap.dedent(inspect.getsource(command))
            found = ast.parse(source).body[0]
            if isinstance(found, ast.FunctionDef):
                return ast.get_docstring(found) or ""
    return command.__doc__ or ""


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
    command.__doc__ = read_docstring(command)
    terminals = [stream for stream in (sys.stdout, sys.stderr) if isinstance(stream, Terminal)]

    @wraps(command)
    def refuse_empty(*positional: object, **options: object) -> object:
        for terminal in terminals:
            terminal.colours = False  # the help is coloured, and no name
        if [] in positional:
            raise ValueError(
                f"a list of `{PROGRAM} {name}` is empty; it takes one or more; see --help"
            )
        return command(*positional, **options)

    for terminal in terminals:
        terminal.colours = not any("\x1b" in word for word in arguments)
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
