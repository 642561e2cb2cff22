"""The `lowland` command: verbs, uses of a trained run, resume, recipes and doctor. torch is
imported only by what needs it.
"""

import io
import os
import sys
from contextlib import nullcontext, redirect_stdout
from typing import Any

import tyro

from lowland.cli.bench import Bench
from lowland.cli.compose import Compose, Edit, Interpolate, Predict
from lowland.cli.detect import Detect
from lowland.cli.purify import Attack, Purify
from lowland.cli.restore import Restore
from lowland.cli.runs import Doctor, Evaluate, Recipes, Report, Resume, Train
from lowland.cli.uses import Energy, Sample

__all__ = ["VERBS", "main"]

VERBS = (
    Train,
    Resume,
    Sample,
    Energy,
    Detect,
    Bench,
    Restore,
    Compose,
    Edit,
    Interpolate,
    Predict,
    Purify,
    Attack,
    Evaluate,
    Report,
    Recipes,
    Doctor,
)


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Mistakes of the user end in one message on standard error and exit status 2,
    without a traceback.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if "--version" in arguments[:1]:
        from lowland import __version__

        print(f"lowland {__version__}")
        return
    rank = int(
        os.environ.get("RANK", 0)
    )  # of this process, where torchrun started several: the first one speaks
    who = f"lowland (process {rank})" if rank else "lowland"
    verbs: dict[str, Any] = {cls.__name__.lower(): cls for cls in VERBS}
    chosen: Any = tyro.extras.subcommand_cli_from_dict(
        verbs,
        prog="lowland",
        description="Energy-based models that people can trust.",
        args=arguments,
    )
    try:
        with redirect_stdout(io.StringIO()) if rank else nullcontext():
            chosen.main()
    except ValueError as error:
        print(f"{who}: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "\nlowland: stopped; `lowland resume RUN` goes on from the last checkpoint",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
    except RuntimeError as error:
        if type(error).__name__ not in ("TrainingStoppedError", "WorkerLostError"):
            raise
        print(f"{who}: {error}", file=sys.stderr)
        raise SystemExit(3) from None
