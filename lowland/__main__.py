"""`python -m lowland` is `lowland`."""

import os
import sys

from lowland.cli import main


def ended() -> int:
    """The status with which the command ends."""
    try:
        main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    return 0


if (
    "RANK" in os.environ
    # under torchrun: gloo's threads may outlive Python, whose end then aborts a process that is
    # done
):
    status = ended()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
sys.exit(ended())
