"""`python -m lowland` is `lowland`."""

import os
import sys
from contextlib import suppress

from lowland.cli import main


def run_command() -> int:
    """Run the command and return its exit status."""
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


# under torchrun gloo's threads may outlive Python, whose end then aborts a process that is done
if "RANK" in os.environ:
    status = run_command()
    for stream in filter(None, (sys.stdout, sys.stderr)):
        with suppress(OSError):
            stream.flush()
    os._exit(status)
sys.exit(run_command())
