"""Regions of a traced function whose values are computed again for a derivative instead of kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tessera.frontend.session import Session
from tessera.ir.origin import in_region


@contextmanager
def region(session: Session) -> Iterator[None]:
    """Every operation that is appended inside of the block stands in one region."""
    ops = session.builder.ops
    start = len(ops)
    try:
        yield
    finally:
        session.regions += 1
        mark = in_region(session.regions)
        ops[start:] = map(mark, ops[start:])
