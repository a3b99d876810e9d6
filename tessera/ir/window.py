"""Windows: which part of a buffer a memory operation of a block program means; see ``dialects/block.py``."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from tessera.ir.dim import Dim
from tessera.ir.graph import Attr

#: What a dim of a window is: a dim of the block, a single position, a dim of the block whose end may lie beyond.
WHOLE, SINGLE, TAIL = 0, 1, 2


@dataclass(frozen=True, slots=True)
class Row:
    """One dim of a buffer in a window: ``extent`` positions from ``start`` on, of which those before ``end`` count.

    >>> [str(d) for d in Row(Dim.of("i"), Dim.const(4), Dim.of("S"), TAIL).dims]
    ['i', '4', 'S']
    """

    start: Dim
    extent: Dim
    end: Dim
    kind: int = WHOLE

    @property
    def attr(self) -> Attr:
        return (self.start, self.extent, self.end, Dim.const(self.kind))

    @property
    def dims(self) -> tuple[Dim, ...]:
        return (self.start, self.extent, self.end)


def read(attr: Attr) -> tuple[Row, ...]:
    """The rows of a window. Raises ValueError for an attribute that is none."""
    return tuple(_rows(attr))


def _rows(attr: Attr) -> Iterator[Row]:
    if not isinstance(attr, tuple):
        raise ValueError("a window is a tuple of rows")
    for row in attr:
        if not isinstance(row, tuple) or len(row) != 4:
            raise ValueError("a row of a window has four sizes")
        start, extent, end, kind = (Dim.of(x) if isinstance(x, int | Dim) else None for x in row)
        if start is None or extent is None or end is None or kind is None or kind.names():
            raise ValueError("a row of a window is made of sizes")
        if kind.value not in (WHOLE, SINGLE, TAIL):
            raise ValueError("a row of a window is of kind 0, 1 or 2")
        yield Row(start, extent, end, kind.value)


def shape(rows: Sequence[Row]) -> tuple[Dim, ...]:
    """The dims of the block that a window gives."""
    return tuple(r.extent for r in rows if r.kind != SINGLE)
