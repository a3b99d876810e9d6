"""Recurrences whose lanes are points of the loops inside a step, where those of the nest do not lie side by side.

A vector of a recurrent network is walked by lanes, and each of the nest's points by itself. Local memory is as it is
declared, and read like any other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of
from tessera.backends.c.fold import Fold, plan_fold
from tessera.backends.c.products import mmas
from tessera.backends.c.recurrent import SIDE_BY_SIDE, Recurrent
from tessera.backends.c.source import c_index
from tessera.backends.c.tiles import Loop
from tessera.ir.dialects.tile import LOAD
from tessera.ir.dim import Dim, ceildiv, product
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Operation, Value, walk
from tessera.ir.record import Kind
from tessera.ir.types import BufferType
from tessera.schedule.plan import ONE

#: Bytes of a cache line, on which each part of local memory begins.
LINE = 64
#: Operations of a sweep up to which several vectors go side by side; more would only take longer to compile.
MOST_SIDE_BY_SIDE = 40


@dataclass
class Within(Recurrent):
    """Writes the body of such a nest."""

    def reserve(self, v: Value) -> None:
        e, kind = self.e, v.type
        assert isinstance(kind, BufferType)
        if not kind.dims:
            super().reserve(v)
            return
        stored = ci.storage(kind.dtype.name)
        for _ in e.each():
            e.values[v] = f"(({stored} *)(mine + {c_index(e.scratch, e.names)}))"
        e.scratch = e.scratch + ceildiv(product(kind.dims) * kind.dtype.bytes, Dim.const(LINE)) * LINE

    def sweep(self, op: Operation) -> None:
        if self.e.vector or op.attrs.get("ordered") or not along_own(op):
            super().sweep(op)
        else:
            self.lanes(op)

    def lanes(self, op: Operation) -> None:
        """A sweep whose last axis is walked by lanes, several vectors side by side."""
        e = self.e
        assert op.body is not None
        before = e.sides
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
        for _ in e.each():
            self.joined(sides, totals, op)

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
