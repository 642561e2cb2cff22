"""Processes that train together, started by hand: what torchrun does, at the cost of the processes
alone.
"""

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Callable
from typing import Any

import torch

PORTS = 5  # at which the processes of one call may meet, one after another


def enter(rank: int, port: int, size: int = 2) -> None:
    """As torchrun would have it."""
    os.environ.update(
        RANK=str(rank),
        LOCAL_RANK=str(rank),
        WORLD_SIZE=str(size),
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=str(port),
    )
    torch.set_num_threads(1)


def _whole_life(work: Callable[..., None], *given: Any) -> None:
    """The work, and an end as `lowland.__main__` has it: gloo's threads may outlive Python, whose
    end then aborts.
    """
    status = 1
    try:
        work(*given)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def processes(work: Callable[..., None], *more: Any, size: int = 2) -> list[int | None]:
    """Exit codes of processes that do `work(rank, ports, *more)`, a function of a module; ports:
    where they may meet.
    """
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(PORTS)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        ports = [each.getsockname()[1] for each in sockets]
    spawn = torch.multiprocessing.get_context("spawn")
    started = [
        spawn.Process(target=_whole_life, args=(work, rank, ports, *more)) for rank in range(size)
    ]
    for process in started:
        process.start()
    for process in started:
        process.join(600)  # a busy core takes ten times as long as a free one
        process.kill()
        process.join()
    return [process.exitcode for process in started]
