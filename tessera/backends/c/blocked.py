"""Nests whose sweeps hold sweeps: the swept axis is taken in blocks, and sums of products are kept in registers.

Lanes are points of the innermost parallel axis, so that no fold of the sweep crosses lanes. What one stage of a block
leaves for the next is a tile in scratch memory: a row for each point of the swept axis, ``width`` vectors long. A sum
of products holds ``ROWS`` rows by ``width`` vectors in registers while it walks what is summed; the operand that
varies along the lanes comes from a tile, the other one is broadcast from where it lies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of, op_makes_lanes, place
from tessera.backends.c.fold import Fold, plan_fold
from tessera.backends.c.source import c_index
from tessera.backends.c.stages import Block, varies
from tessera.ir.dialects.tile import LOAD, MMA, RUNNING
from tessera.ir.dim import Dim, dim_max, dim_min, product
from tessera.ir.dim_range import bounds, coefficient
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import ONE

if TYPE_CHECKING:
    from tessera.backends.c.emit import Emitter

#: Points of a swept axis in one block: the tiles of a block stay in the nearest cache.
BLOCK = 128

#: Terms that are added one after the other before their sum joins others: long chains of additions round more. The
#: first is for sums of products along axes of their own, the second along the swept axis, the third for other sums.
LONG_CHAIN, CHAIN, SHORT_CHAIN = 128, 32, 16

#: Rows of a tile of products in registers, and its vectors, by lanes: as many sums as hide the latency of one, and no
#: more than there are registers.
ROWS, WIDTH = {16: 8, 8: 4, 4: 4}, 2

#: The first lane's point along the vector axis, in bounds that hold for all lanes.
LANE = Dim.name("_lane")

Loop = tuple[str, str, str]


def is_blocked(nest: Operation) -> bool:
    """Does a sweep of the nest hold another one?"""
    assert nest.body is not None
    return any(inner.body is not None for op in nest.body.ops if op.body is not None for inner in op.body.ops)


@dataclass(frozen=True)
class Tile:
    """Rows of scratch memory, one for each point of ``axes``; a row is ``width`` vectors."""

    offset: Dim
    axes: tuple[str, ...]
    extents: tuple[Dim, ...]
    dtype: str

    @property
    def lane(self) -> str:
        kind = ci.lane(self.dtype)
        return "i32" if kind == "m" else kind


@dataclass
class Blocked:
    """Writes the body of such a nest. ``tiles`` are shared by its versions for whole and for single vectors."""

    e: Emitter
    width: int
    tiles: dict[Value, Tile] = field(default_factory=dict)
    #: What an axis is counted from in a tile.
    starts: dict[str, str] = field(default_factory=dict)

    def point(self, nest: Operation) -> None:
        """The body of the nest, for the vectors that go together."""
        assert nest.body is not None
        for op in nest.body.ops:
            if op.body is None:
                for side in self.e.each():
                    self.fetch((op,), side)
                    self.e.statement(op)
            elif any(inner.body is not None or inner.record.kind is Kind.REDUCE for inner in op.body.ops):
                self.stream(op)
            elif mmas(op):
                self.alone(op)
            else:
                self.plain(op)

    # -- tiles

    def tile(self, v: Value, axes: Sequence[str], extents: Sequence[Dim]) -> Tile:
        """The tile of a value; made when it is first asked for."""
        if v not in self.tiles:
            e, dtype = self.e, dtype_of(v)
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
        return f"({tile.lane} *)(mine + {offset}) + ({row} * {self.width} + {side}) * L"

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

    def plain(self, op: Operation) -> None:
        """A sweep without folds: it reads what the sweeps before it left in tiles."""
        assert op.body is not None
        with self.loops(self.walks(op)):
            for side in self.e.each():
                self.fetch(op.body.ops, side)
                for inner in op.body.ops:
                    self.e.statement(inner)

    def alone(self, op: Operation) -> None:
        """Sums of products outside of the blocks, one for each lane."""

        def end(op: Operation, total: str, side: int) -> None:
            self.e.values[op.result] = total

        self.several(op, [], "", 1, self.walks(op), end)

    # -- a sweep in blocks

    def stream(self, op: Operation) -> None:
        """A sweep with folds and sums of products, block by block."""
        e, plan = self.e, Block.of(op)
        (axis,), (lo,), (hi,) = op.words("axes"), op.dims("lo"), op.dims("hi")
        for sweep in plan.products:
            self.pack(sweep, axis)
        folds = {f: plan_fold(f) for f in plan.folds}
        sides = [{f: self.start(p) for f, p in folds.items()} for _ in e.each()]
        for sweep in plan.sums:
            self.clear(sweep, axis)
        begin, stop = e.fresh(), e.fresh()
        self.starts[axis] = begin
        first, end = self.alive(op, lo, hi)
        e.lines.open(f"for (i64 {begin} = {first}; {begin} < {end}; {begin} += {BLOCK})")
        e.lines.add(f"const i64 {stop} = x_min({begin} + {BLOCK}, {end});")
        before = [dict(s) for s in e.sides]
        block = (axis, begin, stop)
        for gate in plan.gates:
            self.gate(gate, plan, block)
        for side in e.each():
            for reached in plan.reached(before=True):
                self.reach(reached, sides[side])
        for stage in range(plan.stages):
            self.stage(plan, stage, block, sides)
        e.sides = before
        e.lines.close()
        for side in e.each():
            for fold in sides[side].values():
                e.finish(fold, across=False)

    def alive(self, op: Operation, lo: Dim, hi: Dim) -> tuple[str, str]:
        """From where to where points add to a fold, for any of the lanes."""
        e, given = self.e, op.attrs.get("alive")
        assert given is None or isinstance(given, tuple)
        low, high = given or (None, None)
        ranges = {} if not e.vector else {e.vector: (LANE, LANE + self.width * e.lanes)}
        if isinstance(low, Dim):
            least, _ = bounds(low, ranges)
            lo = lo if least is None else dim_max(lo, least)
        if isinstance(high, Dim):
            _, most = bounds(high, ranges)
            hi = hi if most is None else dim_min(hi, most)
        names = {**e.names, str(LANE): e.names.get(e.vector, "0")}
        first, end = e.fresh(), e.fresh()
        e.lines.add(f"const i64 {first} = {c_index(lo, names)}, {end} = {c_index(hi, names)};")
        return first, end

    def start(self, fold: Fold) -> Fold:
        """A fold with a state of its own. One with a factor is summed block by block, and needs no carry."""
        scaled = len(fold.op.operands) > 1
        mine = replace(fold, names=[], carry="" if scaled else fold.carry)
        self.e.declare(mine)
        return mine

    def reach(self, op: Operation, folds: dict[Operation, Fold]) -> None:
        """The value of ``running``: the fold's result if it ended here."""
        (x,) = op.inputs
        fold = next(f for o, f in folds.items() if x in o.results)
        e = self.e
        saved = dict(e.values)
        e.finish(fold, across=False)
        text, e.values = e.values[x], saved
        name = e.fresh()
        e.values[op.result] = name
        e.lines.add(f"const {ci.vector_type(dtype_of(op.result))} {name} = {text};")

    def gate(self, gate: Operation, plan: Block, block: Loop) -> None:
        """Leave the block out when no point of it is alive."""
        e, alive = self.e, self.e.fresh()
        e.lines.add(f"vm {alive} = {{}};")
        (condition,) = gate.inputs
        with self.loops([block]):
            for _ in e.each():
                for op in plan.behind(condition):
                    e.statement(op)
                e.lines.add(f"{alive} |= {e.values[condition]} & t_live;")
        e.lines.add(f"if (!t_any({alive})) continue;")

    def stage(self, plan: Block, number: int, block: Loop, sides: list[dict[Operation, Fold]]) -> None:
        e = self.e
        for op in plan.constants(number):
            for side in e.each():
                if op.record is RUNNING:
                    self.reach(op, sides[side])
                else:
                    e.statement(op)
        for sweep in plan.at(number, plan.products):
            self.product(sweep, block)
        self.rows(plan, number, block, sides)
        for sweep in plan.at(number, plan.sums):
            self.sum(sweep, block)

    def rows(self, plan: Block, number: int, block: Loop, sides: list[dict[Operation, Fold]]) -> None:
        """The elementwise operations and folds of a stage, point by point."""
        e, ops = self.e, plan.rows(number)
        if not ops:
            return
        summed = [op for op in ops if op in plan.folds and len(op.operands) > 1]
        for v in plan.kept(number):
            self.tile(v, (block[0],), (Dim.const(BLOCK),))
        scope = nullcontext((block, sides)) if not summed else self.chains(block, summed, sides)
        with scope as (part, folds), self.loops([part]):
            for side in e.each():
                for v in plan.taken(number):
                    self.take(v, side)
                for op in ops:
                    if op in plan.folds:
                        e.step(folds[side][op])
                    else:
                        e.statement(op)
                for v in plan.kept(number):
                    self.hold(v, side)

    @contextmanager
    def chains(
        self, block: Loop, summed: Sequence[Operation], sides: list[dict[Operation, Fold]]
    ) -> Iterator[tuple[Loop, list[dict[Operation, Fold]]]]:
        """A block in short pieces, for sums with a factor: each piece is added up by itself."""
        e = self.e
        for side in e.each():
            for op in summed:
                (total,), dtype = sides[side][op].names, sides[side][op].state[0].name
                factor = e.operand(op.operands[-1], op.results[0].type.dtype)
                e.lines.add(f"{total} = {ci.expression('mul', dtype, [total, factor])};")
        with self.pieces(block, SHORT_CHAIN) as piece:
            parts = [{**sides[side], **{op: self.start(sides[side][op]) for op in summed}} for side in e.each()]
            yield piece, parts
            for side in e.each():
                for op in summed:
                    e.lines.add(f"{sides[side][op].names[0]} += {parts[side][op].names[0]};")

    @contextmanager
    def pieces(self, block: Loop, length: int) -> Iterator[Loop]:
        """A loop over pieces of a block; gives back the bounds of one."""
        axis, lo, hi = block
        e, begin, stop = self.e, self.e.fresh(), self.e.fresh()
        e.lines.open(f"for (i64 {begin} = {lo}; {begin} < {hi}; {begin} += {length})")
        e.lines.add(f"const i64 {stop} = x_min({begin} + {length}, {hi});")
        yield axis, begin, stop
        e.lines.close()

    # -- sums of products

    def pack(self, sweep: Operation, swept: str) -> None:
        """Bring what varies along the lanes, and is the same for all points of the swept axis, into a tile once."""
        e = self.e
        roots = packed(sweep, swept, e.vector)
        if not roots:
            return
        assert sweep.body is not None
        for v in roots:
            self.tile(v, sweep.words("axes"), sweep.dims("hi"))
        with self.loops(self.walks(sweep)):
            for side in e.each():
                for op in sweep.body.ops:
                    if op.record is not MMA and not varies(op.results[0], (swept,)):
                        e.statement(op)
                for v in roots:
                    self.hold(v, side)

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
        with self.pieces(inner, LONG_CHAIN) as piece:

            def end(op: Operation, total: str, side: int) -> None:
                slot, kind = self.slot(self.tiles[op.result], side), self.tiles[op.result].lane
                more = f"{piece[1]} > {inner[1]} ? t_load_{kind}({slot}) + {total} : {total}"
                e.lines.add(f"t_store_{kind}({slot}, {more});")

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
        with self.pieces(block, CHAIN) as piece:
            self.registers(sweep, self.from_tiles(sweep, ""), self.walks(sweep), [piece], join)

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
            many = ROWS[e.lanes]
            e.lines.open()
            e.lines.add(f"i64 {at} = {lo};")
            e.lines.open(f"for (; {at} + {many} <= {hi}; {at} += {many})")
            self.several(sweep, tiles, axis, many, summed, end)
            e.lines.close()
            e.lines.open(f"for (; {at} < {hi}; {at}++)")
            self.several(sweep, tiles, axis, 1, summed, end)
            e.lines.close()
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
        with self.loops(summed):
            if many > 1:
                self.ask(sweep, axis, many, summed[-1][0])
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
        if axis:
            e.names[axis] = at
        assert sweep.body is not None
        for op in sweep.body.ops:
            if op.record is not MMA and op.result in tiles:
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
                    if spot not in made and not self.packs(op, sweep, tiles):
                        e.statement(op)
                        made[spot] = e.values[op.result]
                    if spot in made:
                        e.values[op.result] = made[spot]
                e.values = outer
        if axis:
            e.names[axis] = at

    def ask(self, sweep: Operation, axis: str, many: int, inner: str) -> None:
        """Prefetch what the next rows will read where each of them is contiguous along what is summed: too many rows
        for the processor to see that it will be needed.
        """
        e = self.e
        assert sweep.body is not None
        for op in sweep.body.ops:
            if op.record is not LOAD or not varies(op.result, (axis,)) or varies(op.result, (e.vector,)):
                continue
            offset = place(op)[1]
            if op.attrs.get("guard") or len(op.operands) > 1 or coefficient(offset, inner) is not ONE:
                continue
            at, k = e.names[axis], e.names[inner]
            names = {**e.names, axis: f"({at} + {many} + ({k} & {many - 1}))", inner: f"({k} & -16)"}
            e.lines.add(f"t_prefetch({e.buffer(op)[0]} + {c_index(offset, names)});")

    @staticmethod
    def packs(op: Operation, sweep: Operation, tiles: Sequence[Value]) -> bool:
        """Is ``op`` only there for what is read from tiles?"""
        assert sweep.body is not None
        readers = [o for o in sweep.body.ops if op.result in o.inputs]
        return bool(readers) and all(o.record is not MMA and o.result in tiles for o in readers)


def mmas(sweep: Operation) -> list[Operation]:
    """The sums of products of a sweep."""
    assert sweep.body is not None
    return [op for op in sweep.body.ops if op.record is MMA]


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
