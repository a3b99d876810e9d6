"""Buffers in pieces: where a kernel may touch one.

Their elements lie in several blocks of memory, so an offset says nothing about an address. A sweep over one axis may
walk them from the first to the last: it goes through the blocks in order, and within one as through any memory.
"""

from __future__ import annotations

from collections.abc import Iterator

from tessera.ir.dialects.tile import LOAD, STORE, SWEEP
from tessera.ir.dim import Dim
from tessera.ir.graph import Function, Operation, Value, walk
from tessera.ir.types import BufferType


def in_pieces(v: object) -> bool:
    """Is a value a buffer in pieces?"""
    return isinstance(v, Value) and isinstance(v.type, BufferType) and v.type.pieces


def astray(f: Function) -> Iterator[tuple[Operation, Value]]:
    """The operations of a kernel that touch a buffer in pieces elsewhere than at the point of a sweep that walks it,
    each with the buffer.
    """
    walked = {op for nest in f.ops if nest.body is not None for sweep in nest.body.ops for op in _walked(sweep)}
    for op in walk(f.body):
        for v in op.inputs:
            if in_pieces(v) and op not in walked:
                yield op, v


def _walked(sweep: Operation) -> Iterator[Operation]:
    """The accesses at the very point of a sweep that can walk pieces: over one axis, with no sweep inside."""
    if sweep.record is not SWEEP or sweep.body is None or sweep.attrs.get("ordered"):
        return
    match sweep.attrs.get("axes"):  # of malformed ones others say what is wrong
        case (str(axis),) if axis.isidentifier() and not any(op.body is not None for op in sweep.body.ops):
            here = (Dim.name(axis),)
        case _:
            return
    for op in sweep.body.ops:
        direct = op.record in (LOAD, STORE) and len(op.operands) == (1 if op.record is LOAD else 2)
        if direct and op.attrs.get("index") == here and not op.attrs.get("guard"):
            yield op
