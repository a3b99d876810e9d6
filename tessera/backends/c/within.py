"""Recurrences whose lanes are points of the loops inside a step, where those of the nest do not lie side by side.

A vector of a recurrent network is walked by lanes, and each of the nest's points by itself. Local memory is as it is
declared, and read like any other.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of
from tessera.backends.c.fold import Fold, plan_fold
from tessera.backends.c.products import mmas
from tessera.backends.c.recurrent import SIDE_BY_SIDE, Recurrent
from tessera.backends.c.source import c_index
from tessera.backends.c.tiles import Loop
from tessera.ir.dialects.math import CAST
from tessera.ir.dialects.tile import LOAD, STORE
from tessera.ir.dim import Dim, ceildiv, product
from tessera.ir.dim_range import coefficient
from tessera.ir.dtype import f32, f64
from tessera.ir.graph import Operand, Operation, Value, walk
from tessera.ir.record import Kind, Law
from tessera.ir.types import BufferType
from tessera.schedule.plan import ONE

#: Bytes of a cache line, on which each part of local memory begins.
LINE = 64
#: Operations of a sweep up to which several vectors go side by side; more would only take longer to compile.
MOST_SIDE_BY_SIDE = 40


@dataclass
class Within(Recurrent):
    """Writes the body of such a nest."""

    #: The stores of a sweep that add to what lies in local memory, and what they add.
    gains: dict[Operation, Operand] = field(default_factory=dict)

    def reserve(self, v: Value) -> None:
        e, kind = self.e, v.type
        assert isinstance(kind, BufferType)
        if not kind.dims:
            super().reserve(v)
            return
        stored = ci.storage(kind.dtype.name)
        for _ in e.each():
            e.values[v] = f"(({stored} *)(mine + {c_index(e.scratch, e.names)}))"
        e.keeps = True
        e.scratch = e.scratch + ceildiv(product(kind.dims) * kind.dtype.bytes, Dim.const(LINE)) * LINE

    def sweep(self, op: Operation) -> None:
        if self.e.vector or op.attrs.get("ordered") or not along_own(op):
            before, self.e.row = self.e.row, op.words("axes")[-1] if op.attrs.get("ordered") else ""
            super().sweep(op)
            self.e.row = before
        else:
            self.lanes(op)

    def lanes(self, op: Operation) -> None:
        """A sweep whose last axis is walked by lanes, several vectors side by side."""
        e = self.e
        assert op.body is not None
        before, e.span = e.sides, (*op.dims("lo"), *op.dims("hi"))
        inside = list(walk(op.body))
        plain = len(inside) <= MOST_SIDE_BY_SIDE and not any(o.attrs.get("guard") for o in inside)
        e.sides = [dict(before[0]) for _ in range(SIDE_BY_SIDE if plain else 1)]
        folds = {f: plan_fold(f) for f in op.body.ops if f.record.kind is Kind.REDUCE}
        sides = [{f: self.start(p) for f, p in folds.items()} for _ in e.sides]
        totals = self.zeros(op)
        *outer, last = self.walks(op)
        with self.loops(outer):
            for width in self.vectors(last, folding=bool(folds or totals)):
                whole, e.sides = e.sides, e.sides[:width]
                self.body(op, sides, totals)
                e.sides = whole
        e.sides = before
        e.passed(op)
        for _ in e.each():
            self.joined(sides, totals, op)

    def needed(self, sweep: Operation) -> list[Operation]:
        ops = super().needed(sweep)
        if self.e.vector != sweep.words("axes")[-1]:
            return ops
        found = dict(gains(ops, self.e.vector))
        self.gains = {store: rest[-1].operands[0] for store, rest in found.items()}
        absorbed = {op for rest in found.values() for op in rest}
        return [op for op in ops if op not in absorbed]

    def statement(self, op: Operation, side: int) -> None:
        if op not in self.gains:
            super().statement(op, side)
            return
        e, (buffer, kind) = self.e, self.e.buffer(op)
        x = e.operand(self.gains[op], f32)
        part, count = ("_part", "n, ") if e.partial else ("", "")
        e.lines.add(f"t_add_to{part}_{kind}({buffer} + {e.address(op)[0]}, {count}{x});")

    @contextmanager
    def _as_lanes(self, axis: str, name: str, folding: bool) -> Iterator[None]:
        e = self.e
        state = e.vector, e.block, e.partial
        e.vector, e.names[axis], e.block, e.partial = axis, name, not folding, False
        yield
        e.vector, e.block, e.partial = state

    def vectors(self, loop: Loop, folding: bool) -> Iterator[int]:
        """The loops over the vectors of an axis: for each of them how many vectors go together."""
        e, (axis, lo, hi) = self.e, loop
        at = e.fresh()
        e.lines.open()
        e.lines.add(f"i64 {at} = {lo};")
        with self._as_lanes(axis, at, folding):
            kept = [dict(s) for s in e.sides]
            for width in dict.fromkeys((len(kept), 1)):
                e.lines.open(f"for (; {at} + {width} * L <= {hi}; {at} += {width} * L)")
                yield width
                e.lines.close()
                e.sides = [dict(s) for s in kept]
            e.lines.open(f"if ({at} < {hi})")
            e.lines.add(f"const int n = (int)({hi} - {at});")
            e.lines.add("t_live = t_lanes(n);")
            e.partial = True
            yield 1
            e.lines.add("t_live = ~(vm){};")
            e.lines.close()
            e.sides = kept
        e.lines.close()

    def joined(
        self, sides: list[dict[Operation, Fold]], totals: dict[tuple[Operation, int], str], op: Operation
    ) -> None:
        """The folds of all vectors and lanes as one."""
        e = self.e
        for f, fold in sides[0].items():
            for other in sides[1:]:
                self.merge(fold, other[f].names)
            e.finish(fold, across=True)
        for inner in mmas(op):
            first, *rest = (totals[inner, side] for side in range(len(sides)))
            e.lines.add(f"{first} = {' + '.join([first, *rest])};")
            lane, step = ci.lane(dtype_of(inner.result)), e.lanes // 2
            while step:
                e.lines.add(f"{first} += t_turn_{lane}({first}, {step});")
                step //= 2
            e.values[inner.result] = first

    def merge(self, fold: Fold, names: list[str]) -> None:
        """In a block of its own, since what it computes has names of its own."""
        self.e.lines.open()
        self.e.merge(fold, names)
        self.e.lines.close()


def gains(ops: Sequence[Operation], axis: str) -> Iterator[tuple[Operation, tuple[Operation, ...]]]:
    """The stores that put a sum of f64 back to where it came from, with a number of f32 added, neighbours along an axis
    side by side. With each of them the load, the sum and the cast, which nothing else reads.
    """
    maker = {r: op for op in ops for r in op.results}
    uses = Counter(v for op in ops for v in op.inputs)
    for op in ops:
        cell = op.operands[0] if op.record is STORE else None
        if isinstance(cell, Value) and uses[cell] == 2 and cell.type.dtype is f64 and not op.attrs.get("guard"):
            found = _gain(op, maker, uses)
            if found and coefficient(op.dims("index")[0], axis) is ONE:
                yield op, found


def _gain(store: Operation, maker: Mapping[Value, Operation], uses: Counter[Value]) -> tuple[Operation, ...]:
    """The load, the sum and the cast of such a store; nothing where it is none."""

    def made(x: Operand) -> Operation | None:
        return maker.get(x) if isinstance(x, Value) and uses[x] == 1 else None

    add = made(store.operands[1])
    if add is None or add.record.law is not Law.SUM:
        return ()
    load, cast = map(made, add.operands)
    if load is None or load.record is not LOAD or load.operands[0] is not store.operands[0]:
        return ()
    if cast is None or cast.record is not CAST:
        return ()
    same = load.attrs.get("index") == store.attrs.get("index") and not load.attrs.get("guard")
    return (load, add, cast) if same and cast.operands[0].type.dtype is f32 else ()


def along_own(op: Operation) -> bool:
    """Should lanes go along the last axis of a sweep, rather than along that of a sweep in it?"""
    assert op.body is not None
    deeper = [inner for inner in op.body.ops if inner.body is not None]
    if not deeper:
        return True
    offsets = [o.dims("index")[0] for s in deeper for o in (s.body.ops if s.body else ()) if o.record is LOAD]
    own, others = op.words("axes")[-1], {s.words("axes")[-1] for s in deeper}
    along = sum(coefficient(d, own) is ONE for d in offsets)
    return along >= max(sum(coefficient(d, n) is ONE and own in d.names() for d in offsets) for n in others)
