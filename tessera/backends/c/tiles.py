"""Tiles in scratch memory, and the loops around what is written for several vectors at once."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of
from tessera.backends.c.source import c_index
from tessera.ir.dim import Dim, product
from tessera.ir.graph import Operation, Value

if TYPE_CHECKING:
    from tessera.backends.c.emit import Emitter

#: An axis and its bounds as C text.
Loop = tuple[str, str, str]


@dataclass(frozen=True)
class Tile:
    """Rows of scratch memory, one for each point of ``axes``; a row has a vector for each of those that go together."""

    offset: Dim
    axes: tuple[str, ...]
    extents: tuple[Dim, ...]
    dtype: str

    @property
    def lane(self) -> str:
        kind = ci.lane(self.dtype)
        return "i32" if kind == "m" else kind


@dataclass
class Tiles:
    """The tiles of one nest. They are shared by its versions for whole and for single vectors."""

    e: Emitter
    width: int
    tiles: dict[Value, Tile] = field(default_factory=dict)
    #: What an axis is counted from in a tile.
    starts: dict[str, str] = field(default_factory=dict)

    def tile(self, v: Value, axes: Sequence[str], extents: Sequence[Dim], dtype: str = "") -> Tile:
        """The tile of a value; made when it is first asked for, for elements of its dtype if no other one is given."""
        if v not in self.tiles:
            e, dtype = self.e, dtype or dtype_of(v)
            width = 8 if ci.lane(dtype) in ("f64", "i64", "u64") else 4
            self.tiles[v] = Tile(e.scratch, tuple(axes), tuple(extents), dtype)
            e.scratch = e.scratch + product(extents) * (self.width * e.lanes * width)
        return self.tiles[v]

    def slot(self, tile: Tile, side: int) -> str:
        """Where the tile has the vector ``side`` of the row at the current point."""
        e, row = self.e, "0"
        for axis, extent in zip(tile.axes, tile.extents, strict=True):
            at, start = e.names[axis], self.starts.get(axis, "0")
            at = at if start == "0" else f"({at} - {start})"
            row = at if row == "0" else f"({row} * ({c_index(extent, e.names)}) + {at})"
        offset = c_index(tile.offset, e.names)
        return f"({tile.lane} *)(mine + {offset}) + ({row} * {len(e.sides)} + {side}) * L"

    def hold(self, v: Value, side: int) -> None:
        tile = self.tiles[v]
        self.e.lines.add(f"t_store_{tile.lane}({self.slot(tile, side)}, {self.e.values[v]});")

    def take(self, v: Value, side: int) -> None:
        tile, name = self.tiles[v], self.e.fresh()
        self.e.values[v] = name
        self.e.lines.add(f"const {ci.vector_type(tile.dtype)} {name} = t_load_{tile.lane}({self.slot(tile, side)});")

    def fetch(self, ops: Sequence[Operation], side: int) -> None:
        """Take what operations after a sweep read of what it left in tiles."""
        for v in dict.fromkeys(v for op in ops for v in op.inputs):
            if v in self.tiles:
                self.take(v, side)

    # -- loops

    @contextmanager
    def loops(self, loops: Sequence[Loop]) -> Iterator[None]:
        """Loops by name, first and last bound; what is computed in them is not known after them."""
        e = self.e
        sides = [dict(s) for s in e.sides]
        for axis, lo, hi in loops:
            name = e.names[axis] = f"i_{axis}"
            e.lines.open(f"for (i64 {name} = {lo}; {name} < {hi}; {name}++)")
        yield
        for _ in loops:
            e.lines.close()
        e.sides = sides

    def walks(self, sweep: Operation) -> list[Loop]:
        names = self.e.names
        rows = zip(sweep.words("axes"), sweep.dims("lo"), sweep.dims("hi"), strict=True)
        return [(a, c_index(lo, names), c_index(hi, names)) for a, lo, hi in rows]

    @contextmanager
    def pieces(self, block: Loop, length: int, once: bool = False) -> Iterator[Loop]:
        """A loop over pieces of a block; gives back the bounds of one. With ``once`` a block of no points has one."""
        axis, lo, hi = block
        e, begin, stop = self.e, self.e.fresh(), self.e.fresh()
        more = f"{begin} < {hi} || {begin} == {lo}" if once else f"{begin} < {hi}"
        e.lines.open(f"for (i64 {begin} = {lo}; {more}; {begin} += {length})")
        e.lines.add(f"const i64 {stop} = x_min({begin} + {length}, {hi});")
        yield axis, begin, stop
        e.lines.close()
