"""Sums of products of 16 bits, two summed points at a time: processors have instructions that add both products of a
pair.

A pair is one 32-bit lane with two points that follow each other along the innermost summed axis, of bf16 or of
integers that 16 bits hold. The operand that varies along the lanes is packed in pairs, the other one is broadcast as it
lies in memory, or from a strip. Whether a sum takes this form depends on nothing but dtypes and on what varies along
which axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of, place, within
from tessera.backends.c.source import c_index
from tessera.backends.c.stages import varies
from tessera.backends.c.strips import Strip, Strips, behind, elements, runs
from tessera.backends.c.tiles import Loop
from tessera.ir.dialects.math import CAST
from tessera.ir.dialects.tile import LOAD, MMA, STORE
from tessera.ir.dim import Dim, ceildiv
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Operand, Operation, Value
from tessera.schedule.plan import ONE, ZERO

#: Points of a swept axis in one block: the tiles of a block stay in the nearest cache.
BLOCK = 128

#: Rows of a tile of products in registers, and its vectors, by lanes: as many sums as hide the latency of one, and no
#: more than there are registers; then, as long as there are so many rows left, fewer.
ROWS, WIDTH = {16: (8, 3, 1), 8: (4, 1), 4: (4, 1)}, 2
#: The same for a wide tile, which has 32 registers: every element that it broadcasts serves twice as many lanes.
WIDE_ROWS, WIDE = (5, 3, 1), 4

#: How a pair is kept.
PAIR, PAIR_LANE = "uint32", "u32"


@dataclass(frozen=True)
class Halves:
    """The halves of pairs: how they are stored, the dtype of their sums, and the dtypes that they are made of."""

    storage: str
    total: str
    dtypes: tuple[str, ...]


HALVES = (Halves("bf16", "f32", ("bf16",)), Halves("i16", "int32", ("int8", "uint8", "int16")))


@dataclass
class Pairs(Strips):
    """``paired`` has, for each sum of products that takes pairs, the operand that is packed and the broadcast one."""

    paired: dict[Operation, tuple[Value, Value]] = field(default_factory=dict)

    @property
    def high(self) -> tuple[int, ...]:
        """How many rows go together with the vectors at hand; where too few of them are left, how many then."""
        return WIDE_ROWS if len(self.e.sides) == WIDE else ROWS[self.e.lanes]

    def pair(self, sweep: Operation, swept: str) -> bool:
        """Do all sums of a sweep over its own axes take pairs?"""
        if sweep.dims("lo")[-1] != ZERO:
            return False
        for halves in HALVES:
            if halves.storage == "bf16" and not self.e.pairs:
                continue
            found = {op: pair for op in mmas(sweep) if (pair := self.pair_of(sweep, swept, op, halves))}
            if len(found) == len(mmas(sweep)):
                self.paired.update(found)
        return self.takes_pairs(sweep)

    def takes_pairs(self, sweep: Operation) -> bool:
        return all(op in self.paired for op in mmas(sweep))

    def pair_of(self, sweep: Operation, swept: str, op: Operation, halves: Halves) -> tuple[Value, Value] | None:
        """The two operands of a sum as ``paired`` has them."""
        own, lanes, (*outer, inner) = elements(sweep), self.e.vector, sweep.words("axes")
        found = [half(x, own, halves) for x in op.operands]
        if len(found) != 2 or dtype_of(op.result) != halves.total or op.attrs["over"] != sweep.words("axes"):
            return None
        for packed, other in (found, found[::-1]):
            if packed is None or other is None or varies(packed, (swept,)) or varies(other, (lanes,)):
                continue
            both = all(varies(v, (a,)) for v, a in ((packed, lanes), (packed, inner), (other, swept), (other, inner)))
            if both and (self.read_in_place(own[other], inner) or not varies(other, outer)):
                return packed, other
        return None

    def narrow(self, sweep: Operation) -> dict[Value, str]:
        """What the sums of such a sweep broadcast and do not read where it lies, and how it is stored."""
        own, inner = elements(sweep), sweep.words("axes")[-1]
        values = (v for v in self.each_of(sweep, 1) if runs(v, own, inner))
        return {v: halves_of(v).storage for v in values if not self.read_in_place(own[v], inner)}

    def read_in_place(self, op: Operation, inner: str) -> bool:
        """Does a load lie along the summed axis, at a place that no other value is needed for, as pairs do?"""
        plain = op.record is LOAD and len(op.operands) == 1 and not op.attrs.get("guard")
        stored = ci.storage(dtype_of(op.result))
        return plain and stored == halves_of(op.result).storage and coefficient(place(op)[1], inner) is ONE

    def each_of(self, sweep: Operation, which: int) -> list[Value]:
        """The operands that are packed (0) or broadcast (1), each of them once."""
        return list(dict.fromkeys(self.paired[op][which] for op in mmas(sweep)))

    def lies(self, op: Operation, axis: str) -> bool:
        """Does a load or a store have its elements next to each other along ``axis`` rather than along the lanes?"""
        if op.record is LOAD and (len(op.operands) > 1 or within(op, axis, self.e.vector) is None):
            return False
        if op.record not in (LOAD, STORE) or (op.record is STORE and op.attrs.get("guard")):
            return False
        offset, narrow = place(op)[1], ci.lane(op.operands[0].type.dtype.name) not in ("f64", "i64", "u64")
        across = coefficient(offset, self.e.vector)
        lanes = across is not ZERO or op.record is LOAD
        return narrow and lanes and coefficient(offset, axis) is ONE and across not in (None, ONE)

    # -- packing

    def pack_pairs(self, sweep: Operation) -> None:
        """Bring what varies along the lanes into tiles of pairs."""
        e, own = self.e, elements(sweep)
        roots = self.each_of(sweep, 0)
        *extents, last = sweep.dims("hi")
        for v in roots:
            self.tile(v, sweep.words("axes"), [*extents, ceildiv(last, Dim.const(2))], PAIR)
        *outer, (axis, lo, hi) = self.walks(sweep)
        lying = {v: own[v] for v in roots if self.lies(own[v], axis) and not own[v].attrs.get("guard")}
        with self.loops(outer):
            at = e.fresh()
            e.lines.open()
            e.lines.add(f"i64 {at} = {lo};")
            if lying:
                e.lines.open(f"for (; {at} + 2 * L <= {hi}; {at} += 2 * L)")
                self.square_pairs(sweep, lying, roots, (axis, at))
                e.lines.close()
            e.lines.open(f"for (; {at} + 2 <= {hi}; {at} += 2)")
            self.fill_pairs(sweep, roots, (axis, at))
            e.lines.close()
            e.lines.open(f"if ({at} < {hi})")
            self.fill_pairs(sweep, roots, (axis, at), whole=False)
            e.lines.close()
            e.lines.close()

    def square_pairs(
        self, sweep: Operation, lying: dict[Value, Operation], roots: Sequence[Value], at: tuple[str, str]
    ) -> None:
        """L pairs along the axis ``at`` at once: what lies along it is loaded so, and turned."""
        e, (axis, first) = self.e, at
        e.names[axis] = first
        squares: list[dict[Value, str]] = []
        for _ in e.each():
            mine = {v: e.fresh() for v in lying}
            for v, op in lying.items():
                (offset,), buffer = op.dims("index"), e.buffer(op)[0]
                step, count = coefficient(offset, e.vector), "n" if e.partial else "L"
                assert step is not None
                e.lines.add(f"vu32 {mine[v]}[L];")
                pointer, pitch = f"{buffer} + {c_index(offset, e.names)}", c_index(step, e.names)
                e.lines.add(f"t_load_pairs_{ci.storage(dtype_of(v))}({mine[v]}, {pointer}, {pitch}, {count});")
            squares.append(mine)
        row = e.fresh()
        e.lines.open(f"for (i64 {row} = 0; {row} < L; {row}++)")
        known = [{v: f"{name}[{row}]" for v, name in mine.items()} for mine in squares]
        self.fill_pairs(sweep, roots, (axis, f"({first} + 2 * {row})"), known)
        e.lines.close()

    def fill_pairs(
        self, sweep: Operation, roots: Sequence[Value], at: tuple[str, str],
        known: Sequence[dict[Value, str]] = (), whole: bool = True,
    ) -> None:  # fmt: skip
        """One row of the tiles of ``roots``, where some are known for each side; the second half may be left out."""
        e, (axis, first) = self.e, at
        before = [dict(s) for s in e.sides]
        for side in e.each():
            pairs = dict(known[side]) if known else {}
            pairs |= self.pairs_of(sweep, [v for v in roots if v not in pairs], at, whole)
            with self.halved(axis, first):
                for v in roots:
                    e.values[v] = pairs[v]
                    self.hold(v, side)
        e.sides = before

    def pairs_of(
        self, sweep: Operation, wanted: Sequence[Value], at: tuple[str, str], whole: bool
    ) -> dict[Value, str]:  # fmt: skip
        """Some values at a point and at the next one, computed; or the second half is zero."""
        e, own, (axis, first) = self.e, elements(sweep), at
        needed, points = behind(wanted, own), list[dict[Value, str]]()
        for point in (first, f"({first} + 1)")[: 1 + whole]:
            e.names[axis] = point
            for op in own.values():
                if op in needed:
                    e.statement(op)
            points.append({v: e.values[v] for v in wanted})
        rest = points[1] if whole else dict.fromkeys(wanted, "(vu32){}")
        return {v: f"t_pair_of_{halves_of(v).storage}({points[0][v]}, {rest[v]})" for v in wanted}

    @contextmanager
    def halved(self, axis: str, at: str) -> Iterator[None]:
        """While this lasts the axis counts pairs."""
        self.e.names[axis] = f"({at} >> 1)"
        yield
        self.e.names[axis] = at

    # -- sums

    def pair_steps(
        self, sweep: Operation, rows: tuple[str, int], inner: Loop, totals: dict[tuple[Operation, int, int], str]
    ) -> None:
        """All points of ``inner``, two at a time; the last one of an odd number alone."""
        e, (summed, lo, hi) = self.e, inner
        at = f"i_{summed}"
        e.lines.open()
        e.lines.add(f"i64 {at} = {lo};")
        for head, whole in ((f"for (; {at} + 2 <= {hi}; {at} += 2)", True), (f"if ({at} < {hi})", False)):
            e.names[summed] = at
            e.lines.open(head)
            if whole and rows[1] == self.high[0]:
                self.ask(sweep, rows, summed, step=2)
            self.pair_step(sweep, rows, summed, totals, whole)
            e.lines.close()
        e.lines.close()

    def pair_step(
        self, sweep: Operation, rows: tuple[str, int], summed: str,
        totals: dict[tuple[Operation, int, int], str], whole: bool,
    ) -> None:  # fmt: skip
        e, (axis, many), own = self.e, rows, elements(sweep)
        at, lanes, splats = e.names[axis], dict[tuple[Value, int], str](), dict[tuple[Value, int], str]()
        with self.halved(summed, e.names[summed]):
            for side in e.each():
                for v in self.each_of(sweep, 0):
                    self.take(v, side)
                    lanes[v, side] = e.values[v]
        for v in self.each_of(sweep, 1):
            for r in range(many):
                e.names[axis] = f"({at} + {r})" if r else at
                name = splats[v, r] = e.fresh()
                element = self.element(v, own[v], summed, whole)
                e.lines.add(f"const vu32 {name} = t_splat_u32({element});")
        e.names[axis] = at
        for op in mmas(sweep):
            packed, other = self.paired[op]
            for side in range(len(e.sides)):
                for r in range(many):
                    total = totals[op, r, side]
                    args = f"{splats[other, r]}, {lanes[packed, side]}, {total}"
                    e.lines.add(f"{total} = t_dot_pair_{halves_of(other).storage}({args});")

    def element(self, v: Value, op: Operation, summed: str, whole: bool) -> str:
        """The pair of a broadcast operand at the current point, or its last element alone."""
        e, strip = self.e, self.strips.get(v)
        if strip is not None and strip.lane == PAIR_LANE:
            with self.halved(summed, e.names[summed]):
                return f"*({self.spot(strip)})"
        where = self.spot(strip) if strip else self.element_of(op)
        return f"t_pair_at({where})" if whole else f"(u16)*({where})"

    @contextmanager
    def crossed(self, sweep: Operation, block: Loop, piece: Loop, length: int) -> Iterator[None]:
        """While this lasts, what the sums broadcast and does not run along the summed axis is there in strips of pairs
        that run along the swept one.
        """
        e, before, (axis, lo, hi) = self.e, self.strips, piece
        own = elements(sweep)
        values = [v for v in self.each_of(sweep, 1) if not runs(v, own, axis)] if self.takes_pairs(sweep) else []
        for v in values:
            if v not in self.rooms:
                self.rooms[v] = e.scratch
                e.scratch = e.scratch + length // 2 * BLOCK * 4
            strip = Strip(self.rooms[v], (axis, f"({lo} >> 1)", hi), block, Dim.const(BLOCK), PAIR_LANE)
            self.strips = {**self.strips, v: strip}
        if values:
            at = e.fresh()
            e.lines.open()
            e.lines.add(f"i64 {at} = {lo};")
            for head, whole in ((f"for (; {at} + 2 <= {hi}; {at} += 2)", True), (f"if ({at} < {hi})", False)):
                e.lines.open(head)
                self.cross(sweep, values, block, (axis, at), whole)
                e.lines.close()
            e.lines.close()
        yield
        self.strips = before

    def cross(
        self, sweep: Operation, values: Sequence[Value], block: Loop, at: tuple[str, str], whole: bool
    ) -> None:  # fmt: skip
        """One line of such strips, with the lanes along it."""
        e, (swept, lo, hi), row = self.e, block, self.e.fresh()
        state = (e.vector, e.partial, e.values, e.names.get(swept), e.names.get(at[0]))
        e.vector, e.names[swept] = swept, row
        e.lines.add(f"i64 {row} = {lo};")
        with self.own_lanes():
            for head, e.partial in ((f"for (; {row} + L <= {hi}; {row} += L)", False), (f"if ({row} < {hi})", True)):
                e.lines.open(head)
                if e.partial:
                    e.lines.add(f"const int n = (int)({hi} - {row});")
                    e.lines.add("t_live = t_lanes(n);")
                e.values = dict(e.sides[0])
                pairs = self.pairs_of(sweep, values, at, whole)
                with self.halved(*at):
                    for v in values:
                        e.lines.add(f"t_store_u32({self.spot(self.strips[v])}, {pairs[v]});")
                e.lines.close()
        e.vector, e.partial, e.values = state[:3]
        for name, text in ((swept, state[3]), (at[0], state[4])):
            if text is not None:
                e.names[name] = text


def mmas(sweep: Operation) -> list[Operation]:
    """The sums of products of a sweep."""
    assert sweep.body is not None
    return [op for op in sweep.body.ops if op.record is MMA]


def half(x: Operand, own: dict[Value, Operation], halves: Halves) -> Value | None:
    """The value of halves that an operand is, or is converted from."""
    if isinstance(x, Value) and x in own and own[x].record is CAST:
        (x,) = own[x].operands
    return x if isinstance(x, Value) and x in own and dtype_of(x) in halves.dtypes else None


def halves_of(v: Value) -> Halves:
    """The halves that a value is made into."""
    return next(halves for halves in HALVES if dtype_of(v) in halves.dtypes)
