"""Whether this thread runs the Python code of a Tessera function as it is, outside of any trace."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

_state = threading.local()


def runs_eagerly() -> bool:
    """Is the code of a Tessera function running on torch tensors?"""
    return getattr(_state, "depth", 0) > 0


@contextmanager
def eagerly() -> Iterator[None]:
    """The block runs the code of a Tessera function."""
    _state.depth = getattr(_state, "depth", 0) + 1
    try:
        yield
    finally:
        _state.depth -= 1
