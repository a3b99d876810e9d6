"""Which operands of an operation hold positions in others, as its record says."""

from __future__ import annotations

from collections.abc import Iterator

from tessera.ir.dim import Dim
from tessera.ir.graph import Operation
from tessera.ir.record import Access, Kind, Lookup
from tessera.ir.types import TensorType


def accesses(op: Operation) -> tuple[Access, ...]:
    """The accesses of an operation, each once: from the pieces of an Index record, or from what an Extern one says.

    >>> from tessera.ir.parser import parse
    >>> f = parse("fn f(x: f32[N], i: int64[K]) -> f32[K] { %y = take(x, i, dim=0) : f32[K] return %y }")
    >>> accesses(f.ops[0])
    (Access(index=1, table=0, axis=0, wraps=True),)
    """
    if op.record.accesses is not None:
        return op.record.accesses(op.attrs)
    return tuple(dict.fromkeys(_of_pieces(op))) if op.record.kind is Kind.INDEX else ()


def _of_pieces(op: Operation) -> Iterator[Access]:
    kind = op.result.type
    assert op.record.pieces is not None and isinstance(kind, TensorType)
    names = [Dim.name(f"_i{n}") for n in range(kind.rank)]
    for piece in op.record.pieces(names, [x.type for x in op.operands], kind, op.attrs):
        for axis, e in enumerate(piece.index):
            if isinstance(e, Lookup) and isinstance(piece.operand, int):
                yield Access(e.operand, piece.operand, axis, e.wraps)
