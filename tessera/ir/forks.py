"""Locks that a forked child finds open: the thread that held one does not exist there."""

from __future__ import annotations

import os
from threading import Lock


def renewed() -> Lock:
    """A new lock that every child forked from now on finds open; for those that live as long as the process.

    >>> renewed().acquire(blocking=False)
    True
    """
    lock = Lock()
    # The standard library renews its own locks in the same way.
    os.register_at_fork(after_in_child=lock._at_fork_reinit)  # type: ignore[attr-defined]
    return lock
