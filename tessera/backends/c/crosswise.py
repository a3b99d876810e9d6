"""What all lanes of a block add up to, added to memory: the lanes go along what is added to instead."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import place
from tessera.backends.c.pairs import ROWS, WIDTH
from tessera.backends.c.products import Products
from tessera.backends.c.source import c_index
from tessera.backends.c.tiles import Loop
from tessera.ir.dialects.tile import ACCUMULATE
from tessera.ir.graph import Operation, Value


@dataclass
class Crosswise(Products):
    """Writes the sweeps that add to memory."""

    #: The axis that the lanes go along elsewhere.
    across: str = ""

    def add_up(self, sweep: Operation, block: Loop) -> None:
        """For every point of a block, the products of its tile row with what lies along the sweep, summed over the
        lanes.
        """
        e, (*outer, (axis, lo, hi)) = self.e, self.walks(sweep)
        count, first = e.fresh(), e.names[e.vector]
        e.lines.open()
        e.lines.add(f"const i64 {count} = {'n' if e.partial else f'{self.width} * L'};")
        with self.loops(outer), self.turned(axis) as at:
            e.lines.add(f"i64 {at} = {lo};")
            for width, partial in ((WIDTH, False), (1, True)):
                test = f"{at} < {hi}" if partial else f"{at} + {width} * L <= {hi}"
                e.lines.open(f"for (; {test}; {at} += {width} * L)")
                if partial:
                    e.lines.add(f"const int n = (int)x_min(L, {hi} - {at});")
                    e.lines.add("t_live = t_lanes(n);")
                e.partial = partial
                self.groups(sweep, block, (axis, at, width), (first, count))
                e.lines.close()
        e.lines.close()

    @contextmanager
    def turned(self, axis: str) -> Iterator[str]:
        """While this lasts the lanes go along ``axis``, whose place is in the variable that this gives."""
        e = self.e
        state = (e.vector, e.partial, e.values, e.names.get(axis))
        at = e.fresh()
        self.across, e.vector, e.names[axis] = e.vector, axis, at
        e.lines.open()
        with self.own_lanes():
            yield at
        e.lines.close()
        e.vector, e.partial, e.values = state[:3]
        if state[3] is not None:
            e.names[axis] = state[3]

    def groups(
        self, sweep: Operation, block: Loop, columns: tuple[str, str, int], lanes: tuple[str, str]
    ) -> None:
        """The points of a block, several at once."""
        e, (swept, begin, stop), row = self.e, block, self.e.fresh()
        e.lines.add(f"i64 {row} = {begin};")
        for many in ROWS[e.lanes]:
            e.lines.open(f"for (; {row} + {many} <= {stop}; {row} += {many})")
            self.group(sweep, [f"({row} + {r})" for r in range(many)], (swept, begin), columns, lanes)
            e.lines.close()

    def group(
        self, sweep: Operation, rows: list[str], swept: tuple[str, str], columns: tuple[str, str, int],
        lanes: tuple[str, str],
    ) -> None:  # fmt: skip
        """Some points of a block: what the lanes add up to for each, in registers, and then in memory."""
        e, (axis, at, width), (first, count) = self.e, columns, lanes
        assert sweep.body is not None
        before, lane, where = e.values, e.fresh(), (self.across, e.names[self.across], e.names[swept[0]])
        sums = [op for op in sweep.body.ops if op.record is ACCUMULATE]
        totals = {(op, row, w): e.fresh() for op in sums for row in rows for w in range(width)}
        for (op, *_), name in totals.items():
            e.lines.add(f"{ci.vector_type(self.kind(op))} {name} = {{}};")
        e.lines.open(f"for (i64 {lane} = 0; {lane} < {count}; {lane}++)")
        e.names[where[0]] = f"({first} + {lane})"
        for w in range(width):
            e.names[axis], e.values = self.column(at, w), dict(before)
            for op in sweep.body.ops:
                if op.record is not ACCUMULATE:
                    e.statement(op)
                    continue
                factor = e.operand(op.operands[2], op.operands[0].type.dtype)
                for row in rows:
                    e.names[swept[0]] = row
                    args = [self.splat(op, lane), factor, totals[op, row, w]]
                    e.lines.add(f"{args[2]} = {ci.expression('fma', self.kind(op), args)};")
        e.names[where[0]] = where[1]
        e.lines.close()
        for (op, row, w), total in totals.items():
            e.names[axis], e.names[swept[0]] = self.column(at, w), row
            buffer, lane_type = e.buffer(op)
            pointer = f"{buffer} + {c_index(place(op)[1], e.names)}"
            part, n = ("_part", ", n") if e.partial else ("", "")
            e.lines.add(f"t_store{part}_{lane_type}({pointer}{n}, t_load{part}_{lane_type}({pointer}{n}) + {total});")
        e.names[axis], e.names[swept[0]], e.values = at, where[2], before

    @staticmethod
    def column(at: str, side: int) -> str:
        return f"({at} + {side} * L)" if side else at

    @staticmethod
    def kind(op: Operation) -> str:
        return op.operands[0].type.dtype.name

    def splat(self, op: Operation, lane: str) -> str:
        """One lane of the tile that the products read, at the current point."""
        v = op.operands[1]
        assert isinstance(v, Value)
        tile = self.tiles[v]
        return ci.cast(tile.dtype, self.kind(op), f"t_splat_{tile.lane}(({self.slot(tile, 0)})[{lane}])")
