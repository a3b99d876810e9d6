"""Nests whose sweeps hold sweeps: the swept axis is taken in blocks, and sums of products are kept in registers.

Lanes are points of the innermost parallel axis, so that no fold of the sweep crosses lanes. What one stage of a block
leaves for the next is a tile in scratch memory: a row for each point of the swept axis, ``width`` vectors long. A sum
of products holds ``ROWS`` rows by ``width`` vectors in registers while it walks what is summed; the operand that
varies along the lanes comes from a tile, the other one is broadcast from where it lies.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of
from tessera.backends.c.crosswise import Crosswise
from tessera.backends.c.fold import Fold, plan_fold
from tessera.backends.c.pairs import BLOCK, WIDE, WIDTH, halves_of, mmas
from tessera.backends.c.products import SHORT_CHAIN, multiple
from tessera.backends.c.source import c_index
from tessera.backends.c.stages import Block
from tessera.backends.c.tiles import Loop
from tessera.ir.dialects.tile import LOAD, RUNNING, STORE
from tessera.ir.dim import Dim, dim_max, dim_min
from tessera.ir.dim_range import bounds, coefficient
from tessera.ir.graph import Literal, Operation, dims_in, walk
from tessera.ir.record import Kind

if TYPE_CHECKING:
    from tessera.backends.c.emit import Emitter

#: The first lane's point along the vector axis, in bounds that hold for all lanes.
LANE = Dim.name("_lane")

#: Vectors that go together share what is broadcast to them: one alone has more to do for each of its points, by one
#: part in so many.
ALONE = 16

#: How many pieces of rows an iteration takes, times the number of threads: with more of them fewer, so that all have
#: enough iterations.
GATHERED = 4

#: Sums of more terms than this are not made of wide tiles: what is packed for one is no longer near.
LONGEST = 8192


def is_blocked(nest: Operation) -> bool:
    """Does a sweep of the nest hold another one, or sum products outside of any, as of a single row?"""
    assert nest.body is not None
    sweeps = [op for op in nest.body.ops if op.body is not None]
    return any(mmas(op) or any(inner.body is not None for inner in op.body.ops) for op in sweeps if op.body is not None)


def is_stream(op: Operation) -> bool:
    """Is an operation of a nest a sweep that goes block by block?"""
    inside = () if op.body is None else op.body.ops
    return any(inner.body is not None or inner.record.kind is Kind.REDUCE for inner in inside)


@dataclass
class Blocked(Crosswise):
    """Writes the body of such a nest. Where ``gathered`` is there, an axis and a number, an iteration takes so many of
    the pieces that this axis numbers.
    """

    gathered: tuple[str, str] | None = None

    @staticmethod
    def of(e: Emitter, nest: Operation, lanes: bool) -> Blocked:
        """For a nest whose columns are lanes, or for one that has none."""
        found = Blocked(e, WIDTH if lanes else 1)
        if lanes and found.is_wide(nest):
            found.width = WIDE
        return found

    def is_wide(self, nest: Operation) -> bool:
        """Do sums of products alone need registers, of which there are 32, and are the columns many, as far as that is
        known?
        """
        assert nest.body is not None
        columns, together = self.likely(nest.dims("extents")[-1]), WIDE * self.e.lanes
        even = columns is None or columns % together == 0 or columns >= 8 * together
        if self.e.lanes < 16 or not even or (columns is not None and columns <= 2 * together):
            return False
        plans = [Block.of(op) for op in nest.body.ops if op.body is not None]
        if any(p.folds or p.crosses or p.gates or p.sweep.attrs.get("alive") for p in plans):
            return False
        if not any(p.products for p in plans):  # sums along the sweep keep a tile of all rows, which is large as it is
            return False
        summed = [self.likely(d) for p in plans for sweep in p.products for d in sweep.dims("hi")]
        if any(n is not None and n > LONGEST for n in summed):
            return False
        inner = ((sweep, p.axes[0]) for p in plans for sweep in (*p.products, *p.sums) if sweep.words("axes"))
        return not any(self.pair(sweep, swept) for sweep, swept in inner)

    def likely(self, d: Dim) -> int | None:
        """A size, as far as it is known beforehand."""
        known = self.e.likely
        return d.evaluate(known) if set(d.names()) <= known.keys() else None

    def gather(self, nest: Operation, counts: list[str]) -> None:
        """Let an iteration take several pieces of the rows where there are few threads: what it packs serves them all.
        Such a piece is an axis that is there for the bounds of sweeps alone.
        """
        assert nest.body is not None
        axis, *others = nest.words("axes") or ("",)
        bounds, rest = [], [nest.dims("extents"), nest.attrs.get("walk"), nest.attrs.get("when")]
        for op in walk(nest.body):
            cut = op in nest.body.ops and is_stream(op)
            rest += [a for name, a in op.attrs.items() if not (cut and name in ("lo", "hi"))]
            rest += [x.value for x in op.operands if isinstance(x, Literal)]
            bounds += [*op.dims("lo"), *op.dims("hi")] if cut else []
        cuts = any(axis in d.names() for d in bounds)
        if others and cuts and not any(axis in d.names() for d in dims_in(rest)):
            many = self.e.fresh()
            self.e.lines.add(f"const i64 {many} = x_max({GATHERED} / omp_get_max_threads(), 1);")
            counts[0] = f"x_cdiv({counts[0]}, {many})"
            self.gathered = axis, many

    def piece_names(self, first: bool) -> dict[str, str]:
        """The name of the first or the last of the pieces that an iteration takes."""
        if self.gathered is None:
            return {}
        axis, many = self.gathered
        begin = f"{self.e.names[axis]} * {many}"
        return {axis: f"({begin})" if first else f"({begin} + {many} - 1)"}

    def point(self, nest: Operation) -> None:
        """The body of the nest, for the vectors that go together."""
        assert nest.body is not None
        for op in nest.body.ops:
            if op.body is None:
                for side in self.e.each():
                    self.fetch((op,), side)
                    self.e.statement(op)
            elif is_stream(op):
                self.stream(op)
            elif mmas(op):
                self.alone(op)
            else:
                self.plain(op)

    def is_paired(self, nest: Operation) -> bool:
        """Do all sums of products of a nest take pairs that lie so in memory? Packing costs so little then that it pays
        for a single row.
        """
        assert nest.body is not None
        plans = [Block.of(op) for op in nest.body.ops if op.body is not None]
        found = [self.pair(sweep, plan.axes[0]) for plan in plans for sweep in (*plan.products, *plan.sums)]
        lying = (ci.storage(dtype_of(v)) == halves_of(v).storage for pair in self.paired.values() for v in pair)
        return bool(found) and all(found) and all(lying)

    def plain(self, op: Operation) -> None:
        """A sweep without folds: it reads what the sweeps before it left in tiles. Stores along the innermost axis of
        what lies in other rows for other lanes are made for L points at once.
        """
        e = self.e
        assert op.body is not None
        *outer, (axis, lo, hi) = self.walks(op)
        lying = [inner for inner in op.body.ops if inner.record is STORE and self.lies(inner, axis)]
        if not lying:
            with self.loops(self.walks(op)):
                self.at_point(op, [{} for _ in e.sides])
            return
        with self.loops(outer):
            at = e.fresh()
            e.lines.open()
            e.lines.add(f"i64 {at} = {lo};")
            e.lines.open(f"for (; {at} + L <= {hi}; {at} += L)")
            squares = [{store: e.fresh() for store in lying} for _ in e.each()]
            for store, square in (pair for mine in squares for pair in mine.items()):
                e.lines.add(f"{ci.vector_type(store.operands[0].type.dtype.name)} {square}[L];")
            with self.loops([(axis, at, f"{at} + L")]):
                row = f"[{e.names[axis]} - {at}]"
                self.at_point(op, [{store: square + row for store, square in mine.items()} for mine in squares])
            e.names[axis] = at
            for side in e.each():
                for store, square in squares[side].items():
                    self.store_rows(store, square)
            e.lines.close()
            if not multiple(lo, hi, e.lanes):
                with self.loops([(axis, at, hi)]):
                    self.at_point(op, [{} for _ in e.sides])
            e.lines.close()

    def at_point(self, op: Operation, squares: Sequence[Mapping[Operation, str]]) -> None:
        """A point of such a sweep, where some stores of each side go into squares."""
        e = self.e
        assert op.body is not None
        for side in e.each():
            self.fetch(op.body.ops, side)
            for inner in op.body.ops:
                if inner in squares[side]:
                    text = e.operand(inner.operands[1], inner.operands[0].type.dtype)
                    e.lines.add(f"{squares[side][inner]} = {text};")
                else:
                    e.statement(inner)

    def store_rows(self, store: Operation, square: str) -> None:
        """Store a square of lanes by points, a row for each lane."""
        e, (offset,), (buffer, kind) = self.e, store.dims("index"), self.e.buffer(store)
        step = coefficient(offset, e.vector)
        assert step is not None
        pointer, count = f"{buffer} + {c_index(offset, e.names)}", "n" if e.partial else "L"
        e.lines.add(f"t_store_rows_{kind}({pointer}, {c_index(step, e.names)}, {count}, {square});")

    def alone(self, op: Operation) -> None:
        """Sums of products outside of the blocks, one for each lane."""

        def end(op: Operation, total: str, side: int) -> None:
            self.e.values[op.result] = total

        self.several(op, [], "", 1, self.walks(op), end)

    # -- a sweep in blocks

    def stream(self, op: Operation) -> None:
        """A sweep with folds and sums of products, block by block."""
        e, plan = self.e, Block.of(op)
        (axis,) = op.words("axes")
        for sweep in plan.products:
            self.pack(sweep, axis)
        folds = {f: plan_fold(f) for f in plan.folds}
        sides = [{f: self.start(p) for f, p in folds.items()} for _ in e.each()]
        for sweep in plan.sums:
            self.clear(sweep, axis)
        begin, stop, first, end = (e.fresh() for _ in range(4))
        self.starts[axis] = begin
        names = {**e.names, str(LANE): e.names.get(e.vector, "0")}
        alive = zip(self.alive(op, LANE, len(e.sides)), (True, False), strict=True)
        lo, hi = (c_index(d, {**names, **self.piece_names(is_first)}) for d, is_first in alive)
        e.lines.add(f"const i64 {first} = {lo}, {end} = {hi};")
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

    def together(self, nest: Operation) -> str:
        """Is it less work to take the vectors from here on together, as a further condition in C; nothing where it
        always is. What only some of the lanes need is then computed for all of them.
        """
        assert nest.body is not None
        e = self.e
        both, apart = Dim.const(0), Dim.const(0)
        for op in nest.body.ops:
            if op.attrs.get("alive"):
                both = both + self.width * self.points(op, LANE, self.width)
                for n in range(self.width):
                    apart = apart + self.points(op, LANE + n * e.lanes, 1)
        if both is apart:
            return ""
        names = {**e.names, str(LANE): e.names[e.vector]}
        return f" && {c_index(both * ALONE, names)} <= {c_index(apart * (ALONE + 1), names)}"

    def points(self, op: Operation, at: Dim, vectors: int) -> Dim:
        """How many points of a sweep some vectors need, from that at ``at`` on."""
        lo, hi = self.alive(op, at, vectors)
        return dim_max(hi - lo, 0)

    def alive(self, op: Operation, at: Dim, vectors: int) -> tuple[Dim, Dim]:
        """From where to where points of a sweep add to a fold, for any lane of so many vectors from ``at`` on."""
        (lo,), (hi,), given = op.dims("lo"), op.dims("hi"), op.attrs.get("alive")
        assert given is None or isinstance(given, tuple)
        low, high = given or (None, None)
        ranges = {} if not self.e.vector else {self.e.vector: (at, at + vectors * self.e.lanes)}
        if isinstance(low, Dim):
            least, _ = bounds(low, ranges)
            lo = lo if least is None else dim_max(lo, least)
        if isinstance(high, Dim):
            _, most = bounds(high, ranges)
            hi = hi if most is None else dim_min(hi, most)
        return lo, hi

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
        for sweep in (products := plan.at(number, plan.products)):
            last = sweep is products[-1]
            self.awaited = [op for op in plan.rows(number) if op.record is LOAD] if last else []
            self.product(sweep, block)
        self.awaited = []
        self.rows(plan, number, block, sides)
        for sweep in plan.at(number, plan.sums):
            self.sum(sweep, block)
        for sweep in plan.at(number, plan.crosses):
            self.add_up(sweep, block)

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
