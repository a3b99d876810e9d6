"""Run a piece of a test in a forked child, with a limit after which the child is killed."""

from __future__ import annotations

import os
import select
import signal
import sys
import traceback
from collections.abc import Callable


def start(task: Callable[[], None]) -> int:
    """Fork and run; the child leaves without running exit handlers. Returns its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        task()
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def finish(child: int, limit: float = 30.0) -> int:
    """The exit status of a child, negative for a signal; it is killed after `limit` seconds."""
    descriptor = os.pidfd_open(child)
    try:
        if not select.select([descriptor], [], [], limit)[0]:
            os.kill(child, signal.SIGKILL)
    finally:
        os.close(descriptor)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(task: Callable[[], None], limit: float = 30.0) -> int:
    """Fork, run, wait: 0 when the task returned, 1 when it raised, -9 when it had to be killed."""
    return finish(start(task), limit)
