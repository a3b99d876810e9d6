"""Sums of products: packed operands, and tiles of sums that are kept in registers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of, op_makes_lanes, place, within
from tessera.backends.c.pairs import BLOCK, ROWS, Pairs, mmas
from tessera.backends.c.source import c_index
from tessera.backends.c.stages import varies
from tessera.backends.c.strips import only_behind
from tessera.backends.c.tiles import Loop
from tessera.ir.dialects.tile import INDEX, LOAD, MMA
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import ONE, ZERO

#: Terms that are added one after the other before their sum joins others: long chains of additions round more. The
#: first is for sums of products along axes of their own, the second along the swept axis, the third for other sums.
LONG_CHAIN, CHAIN, SHORT_CHAIN = 128, 32, 16


class Products(Pairs):
    """Writes the sweeps that sum products."""

    def pack(self, sweep: Operation, swept: str) -> None:
        """Bring what varies along the lanes, and is the same for all points of the swept axis, into a tile once."""
        e = self.e
        if self.pair(sweep, swept):
            self.pack_pairs(sweep)
            return
        roots = packed(sweep, swept, e.vector)
        if not roots:
            return
        assert sweep.body is not None
        ops = [op for op in sweep.body.ops if op.record is not MMA and not varies(op.results[0], (swept,))]
        for v in roots:
            self.tile(v, sweep.words("axes"), sweep.dims("hi"))
        *outer, (axis, lo, hi) = self.walks(sweep)
        lying = [op for op in ops if self.lies(op, axis)]
        with self.loops(outer):
            at = e.fresh()
            e.lines.open()
            e.lines.add(f"i64 {at} = {lo};")
            if lying:
                e.lines.open(f"for (; {at} + L <= {hi}; {at} += L)")
                if len(lying) > 1 and self.lie_all(ops, roots, axis):
                    self.turned_rows(ops, roots, (axis, at))
                else:
                    self.squares(ops, lying, roots, (axis, at))
                e.lines.close()
            if not (lying and multiple(lo, hi, e.lanes)):
                e.lines.open(f"for (; {at} < {hi}; {at}++)")
                e.names[axis] = at
                self.fill(ops, roots, [{} for _ in e.sides])
                e.lines.close()
            e.lines.close()

    def squares(
        self, ops: Sequence[Operation], lying: Sequence[Operation], roots: Sequence[Value], at: tuple[str, str]
    ) -> None:
        """L points of the axis ``at`` at once: what lies along it is loaded so, and turned."""
        e, (axis, first) = self.e, at
        e.names[axis] = first
        turned: list[dict[Value, str]] = []
        for _ in e.each():
            mine = {op.result: e.fresh() for op in lying}
            for op in lying:
                (offset,), buffer = op.dims("index"), e.buffer(op)
                step = coefficient(offset, e.vector)
                assert step is not None
                square, count = mine[op.result], "n" if e.partial else "L"
                e.lines.add(f"{ci.vector_type(dtype_of(op.result))} {square}[L];")
                args = f"{square}, {buffer[0]} + {c_index(offset, e.names)}, {c_index(step, e.names)}, {count}"
                lo, hi = within(op, axis, e.vector) or ([], [])
                part = f", {c_index(dim_max(*lo), e.names)}, {c_index(dim_min(*hi), e.names)}" if lo else ""
                e.lines.add(f"t_load_rows_{'within_' if part else ''}{buffer[1]}({args}{part});")
            turned.append(mine)
        row = e.fresh()
        if len(ops) == len(lying):  # then a square can stay in registers
            e.lines.add("#pragma GCC unroll 16")
        e.lines.open(f"for (i64 {row} = 0; {row} < L; {row}++)")
        e.names[axis] = f"({first} + {row})"
        self.fill(ops, roots, [{v: f"{name}[{row}]" for v, name in mine.items()} for mine in turned])
        e.lines.close()

    def lie_all(self, ops: Sequence[Operation], roots: Sequence[Value], axis: str) -> bool:
        """Can operations be carried out with the lanes along ``axis``, a point of the lanes after the other?"""
        own, lanes = {op.result for op in ops}, self.e.vector
        known = all(v in own or not varies(v, (lanes,)) for op in ops for v in op.inputs if op_makes_lanes(v))
        loads = [op for op in ops if op.record is LOAD]
        reads = all(len(op.operands) == 1 and coefficient(place(op)[1], axis) in (ONE, ZERO) for op in loads)
        bounded = all(within(op, axis, lanes) is not None for op in loads)
        kinds = all(op.record in (LOAD, INDEX) or op.record.kind is Kind.MAP for op in ops)
        narrow = all(ci.lane(dtype_of(v)) in ("f32", "i32", "u32") for v in roots)
        return known and reads and bounded and kinds and narrow

    def turned_rows(self, ops: Sequence[Operation], roots: Sequence[Value], at: tuple[str, str]) -> None:
        """L points of the axis ``at`` at once, computed with the lanes along it, and then turned."""
        e, (axis, first), vector, row = self.e, at, self.e.vector, self.e.fresh()
        partial, before, squares = e.partial, [dict(s) for s in e.sides], list[dict[Value, str]]()
        e.names[axis] = first
        for _ in e.each():
            mine, outer, here = {v: e.fresh() for v in roots}, dict(e.values), e.names[vector]
            for v, square in mine.items():
                e.lines.add(f"{ci.vector_type(dtype_of(v))} {square}[L]{' = {}' if partial else ''};")
            e.lines.open(f"for (i64 {row} = 0; {row} < {'n' if partial else 'L'}; {row}++)")
            e.vector, e.partial, e.names[vector] = axis, False, f"({here} + {row})"
            for op in ops:
                e.statement(op)
            for v, square in mine.items():
                e.lines.add(f"{square}[{row}] = {e.values[v]};")
            e.lines.close()
            e.vector, e.partial, e.names[vector], e.values = vector, partial, here, outer
            for square in mine.values():
                e.lines.add(f"t_turn_square((vf32 *){square});")
            squares.append(mine)
        e.lines.add("#pragma GCC unroll 16")
        e.lines.open(f"for (i64 {row} = 0; {row} < L; {row}++)")
        e.names[axis] = f"({first} + {row})"
        for side in e.each():
            e.values.update((v, f"{square}[{row}]") for v, square in squares[side].items())
            for v in roots:
                self.hold(v, side)
        e.lines.close()
        e.sides = before

    def fill(self, ops: Sequence[Operation], roots: Sequence[Value], known: Sequence[dict[Value, str]]) -> None:
        """One row of the tiles of ``roots``, where some of the operations' results are known for each side."""
        e = self.e
        before = [dict(s) for s in e.sides]
        for side in e.each():
            for op in ops:
                if op.result in known[side]:
                    e.values[op.result] = known[side][op.result]
                else:
                    e.statement(op)
            for v in roots:
                self.hold(v, side)
        e.sides = before

    def clear(self, sweep: Operation, swept: str) -> None:
        """Start sums over the swept axis at zero."""
        e = self.e
        for op in mmas(sweep):
            self.tile(op.result, sweep.words("axes"), sweep.dims("hi"))
        with self.loops(self.walks(sweep)):
            for side in e.each():
                for op in mmas(sweep):
                    e.values[op.result] = ci.constant(0, dtype_of(op.result))
                    self.hold(op.result, side)

    def product(self, sweep: Operation, block: Loop) -> None:
        """Sums over axes of the inner sweep, for every point of a block: each goes into a tile."""
        e = self.e
        for op in mmas(sweep):
            self.tile(op.result, (block[0],), (Dim.const(BLOCK),))

        *outer, inner = self.walks(sweep)
        tiles = self.from_tiles(sweep, block[0])
        with self.pieces(inner, LONG_CHAIN, once=True) as piece:  # a sum of nothing is 0

            def end(op: Operation, total: str, side: int) -> None:
                slot, kind = self.slot(self.tiles[op.result], side), self.tiles[op.result].lane
                more = f"{piece[1]} > {inner[1]} ? t_load_{kind}({slot}) + {total} : {total}"
                e.lines.add(f"t_store_{kind}({slot}, {more});")

            narrow = self.narrow(sweep) if self.takes_pairs(sweep) else None
            strips = self.stripped(sweep, block, piece, BLOCK, Dim.const(LONG_CHAIN), narrow)
            with strips, self.crossed(sweep, block, piece, LONG_CHAIN):
                self.registers(sweep, tiles, [block], [*outer, piece], end)

    def sum(self, sweep: Operation, block: Loop) -> None:
        """Sums over the swept axis, for every point of the inner sweep: what a piece gives joins a tile."""
        e = self.e

        def join(op: Operation, total: str, side: int) -> None:
            self.take(op.result, side)
            e.values[op.result] = f"({e.values[op.result]} + {total})"
            self.hold(op.result, side)

        scaled = [op for op in mmas(sweep) if len(op.operands) > 2]
        with self.loops(self.walks(sweep) if scaled else ()):
            for side in e.each():
                for op in scaled:
                    self.take(op.result, side)
                    factor = e.operand(op.operands[2], op.result.type.dtype)
                    args = [e.values[op.result], factor]
                    e.values[op.result] = ci.expression("mul", dtype_of(op.result), args)
                    self.hold(op.result, side)
        rows, tiles = self.walks(sweep), self.from_tiles(sweep, "")
        with self.pieces(block, CHAIN) as piece:
            if len(rows) != 1:
                self.registers(sweep, tiles, rows, [piece], join)
                return
            pitch = ceildiv(sweep.dims("hi")[0], Dim.const(e.lanes)) * e.lanes
            with self.stripped(sweep, piece, rows[0], CHAIN, pitch):
                self.registers(sweep, tiles, rows, [piece], join)

    def from_tiles(self, sweep: Operation, swept: str) -> list[Value]:
        """What the sums of a sweep read from tiles: what was packed, and what was computed point by point."""
        assert sweep.body is not None
        inside = {r for op in sweep.body.ops for r in op.results}
        read = dict.fromkeys(v for op in sweep.body.ops for v in op.inputs if v in self.tiles and v not in inside)
        return [*(packed(sweep, swept, self.e.vector) if swept else ()), *read]

    def registers(
        self, sweep: Operation, tiles: Sequence[Value], rows: Sequence[Loop], summed: Sequence[Loop],
        end: Callable[[Operation, str, int], None],
    ) -> None:  # fmt: skip
        """Sums of products for all points of ``rows``, several of the last of them at once."""
        e = self.e
        with self.loops(rows[:-1]):
            if not rows:
                self.several(sweep, tiles, "", 1, summed, end)
                return
            axis, lo, hi = rows[-1]
            at = e.names[axis] = f"i_{axis}"
            e.lines.open()
            e.lines.add(f"i64 {at} = {lo};")
            left = int(hi) - int(lo) if lo.isdigit() and hi.isdigit() else None
            for many in self.high:
                e.lines.open(f"for (; {at} + {many} <= {hi}; {at} += {many})")
                self.several(sweep, tiles, axis, many, summed, end)
                e.lines.close()
                left = left % many if left is not None else None
                if left == 0:
                    break
            e.lines.close()

    def several(
        self, sweep: Operation, tiles: Sequence[Value], axis: str, many: int, summed: Sequence[Loop],
        end: Callable[[Operation, str, int], None],
    ) -> None:  # fmt: skip
        """The sums of ``many`` rows."""
        e, at = self.e, self.e.names.get(axis, "")
        spots = [(r, w) for r in range(many) for w in range(len(e.sides))]
        totals = {(op, *spot): e.fresh() for op in mmas(sweep) for spot in spots}
        for (op, *_), name in totals.items():
            e.lines.add(f"{ci.vector_type(dtype_of(op.result))} {name} = {{}};")
        before = [dict(s) for s in e.sides]
        pairs = self.takes_pairs(sweep)
        last = summed[-1]
        far = many == self.high[0] and all(op.attrs["over"] == sweep.words("axes") for op in mmas(sweep))
        size = ROWS[e.lanes][0], LONG_CHAIN
        near = self.nearer(sweep, (axis, many), last, size) if far else nullcontext()
        if far and self.awaited:
            self.expect((axis, many), last, self.walks(sweep)[-1][2])
        with self.loops(summed[:-1]), near, self.loops([] if pairs else [last]):
            if pairs:
                self.pair_steps(sweep, (axis, many), last, totals)
            else:
                if many == self.high[0]:
                    self.ask(sweep, (axis, many), last[0])
                self.step(sweep, tiles, axis, many, totals)
        e.sides = before
        for side in e.each():
            for r in range(many):
                if axis:
                    e.names[axis] = f"({at} + {r})" if r else at
                for op in mmas(sweep):
                    end(op, totals[op, r, side], side)
        if axis:
            e.names[axis] = at

    def step(
        self, sweep: Operation, tiles: Sequence[Value], axis: str, many: int,
        totals: dict[tuple[Operation, int, int], str],
    ) -> None:  # fmt: skip
        """One product for each row and vector. What does not vary along the one or the other is computed once."""
        e, at = self.e, self.e.names.get(axis, "")
        values: dict[tuple[int, int], dict[Value, str]] = {}
        for side in e.each():
            for r in range(many):
                for v in tiles:
                    if r == 0 or varies(v, (axis,)):
                        if axis:
                            e.names[axis] = f"({at} + {r})" if r else at
                        self.take(v, side)
                values[r, side] = dict(e.values)
        for v, strip in self.strips.items():
            for r in range(many):
                if axis:
                    e.names[axis] = f"({at} + {r})" if r else at
                name = e.fresh()
                e.lines.add(f"const v{strip.lane} {name} = t_splat_{strip.lane}(*({self.spot(strip)}));")
                for side in range(len(e.sides)):
                    values[r, side][v] = name
        if axis:
            e.names[axis] = at
        known = {*tiles, *self.strips}
        assert sweep.body is not None
        for op in sweep.body.ops:
            if op.record is not MMA and op.result in known:
                continue
            made: dict[tuple[int, int], str] = {}
            for side in e.each():
                outer = e.values
                for r in range(many):
                    e.values = values[r, side]
                    if axis:
                        e.names[axis] = f"({at} + {r})" if r else at
                    if op.record is MMA:
                        total, dtype = totals[op, r, side], op.result.type.dtype
                        a, b = (e.operand(x, dtype) for x in op.operands[:2])
                        e.lines.add(f"{total} = {ci.expression('fma', dtype.name, [a, b, total])};")
                        continue
                    spot = (r if varies(op.result, (axis,)) else 0, side if varies(op.result, (e.vector,)) else 0)
                    if spot not in made and not only_behind(op, sweep, known):
                        self.take_near(op) if op in self.near else e.statement(op)
                        made[spot] = e.values[op.result]
                    if spot in made:
                        e.values[op.result] = made[spot]
                e.values = outer
        if axis:
            e.names[axis] = at


def multiple(lo: str, hi: str, step: int) -> bool:
    """Is nothing left between two bounds when steps have been taken as long as there was room for them?"""
    return lo.isdigit() and hi.isdigit() and (int(hi) - int(lo)) % step == 0


def packed(sweep: Operation, swept: str, vector: str) -> list[Value]:
    """Values that the sums of a sweep read, which vary along the lanes and not along the swept axis."""
    assert sweep.body is not None
    own = {op.result: op for op in sweep.body.ops if op.record is not MMA}
    out: dict[Value, None] = {}
    for op in sweep.body.ops:
        if op.record is MMA or varies(op.results[0], (swept,)):
            for v in op.inputs:
                if v in own and op_makes_lanes(v) and varies(v, (vector,)) and not varies(v, (swept,)):
                    out[v] = None
    return list(out)
