"""Operands that are broadcast, brought into floats before: one conversion for each instead of one for every use."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of, place
from tessera.backends.c.source import c_index
from tessera.backends.c.stages import varies
from tessera.backends.c.tiles import Loop, Tiles
from tessera.ir.dialects.tile import LOAD, MMA
from tessera.ir.dim import Dim
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import ONE


@dataclass(frozen=True)
class Strip:
    """Lines of scalars in scratch memory: one for each point of the one loop, if there is one, along the other."""

    offset: Dim
    line: Loop | None
    run: Loop
    pitch: Dim
    lane: str


@dataclass
class Strips(Tiles):
    """``strips`` are those that can be read at the moment; their room is kept by value."""

    strips: dict[Value, Strip] = field(default_factory=dict)
    rooms: dict[Value, Dim] = field(default_factory=dict)

    @contextmanager
    def stripped(
        self, sweep: Operation, line: Loop | None, run: Loop, lines: int, pitch: Dim,
        narrow: Sequence[Value] | None = None,
    ) -> Iterator[None]:  # fmt: skip
        """Compute what a sweep broadcasts, for as long as the block lasts; or the values ``narrow``, which stay as
        narrow as in memory.
        """
        e, before = self.e, self.strips
        self.strips = {}
        roots = narrow
        if roots is None:
            roots = broadcast(sweep, (run[0],) if line is None else (line[0], run[0]), e.vector)
        for v in roots:
            if v not in self.rooms:
                self.rooms[v] = e.scratch
                e.scratch = e.scratch + pitch * (lines * (8 if ci.lane(dtype_of(v)) == "f64" else 4))
        kind = ci.lane if narrow is None else ci.storage
        strips = {v: Strip(self.rooms[v], line, run, pitch, kind(dtype_of(v))) for v in roots}
        if roots:
            self.convert(sweep, strips, line, run)
        self.strips = strips
        yield
        self.strips = before

    def convert(self, sweep: Operation, strips: dict[Value, Strip], line: Loop | None, run: Loop) -> None:
        """Fill the strips, with the lanes along the run."""
        e, (axis, lo, hi) = self.e, run
        state = (e.vector, e.partial, e.values, e.names.get(axis))
        with self.loops([] if line is None else [line]):
            at = e.fresh()
            e.vector, e.names[axis], e.values = axis, at, dict(e.sides[0])
            e.lines.open()
            e.lines.add(f"i64 {at} = {lo};")
            with self.own_lanes():
                for head, partial in ((f"for (; {at} + L <= {hi}; {at} += L)", False), (f"if ({at} < {hi})", True)):
                    e.partial, outer = partial, dict(e.values)
                    e.lines.open(head)
                    if partial:
                        e.lines.add(f"const int n = (int)({hi} - {at});")
                        e.lines.add("t_live = t_lanes(n);")
                    self.run(sweep, strips)
                    e.lines.close()
                    e.values = outer
            e.lines.close()
            e.vector, e.partial, e.values = state[:3]
        if state[3] is not None:
            e.names[axis] = state[3]

    @contextmanager
    def own_lanes(self) -> Iterator[None]:
        """While this lasts all lanes hold elements, whatever is so around it: a gather looks at no others."""
        e = self.e
        kept = e.fresh()
        e.lines.add(f"const vm {kept} = t_live;")
        e.lines.add("t_live = ~(vm){};")
        yield
        e.lines.add(f"t_live = {kept};")

    def run(self, sweep: Operation, strips: dict[Value, Strip]) -> None:
        e, own = self.e, elements(sweep)
        needed = behind(strips, own)
        for op in own.values():
            if op in needed:
                e.statement(op)
                if op.result in strips:
                    strip = strips[op.result]
                    e.lines.add(f"t_store_{strip.lane}({self.spot(strip)}, {e.values[op.result]});")

    def spot(self, strip: Strip) -> str:
        """Where the strip has the element of the current point."""
        e = self.e
        first, *column = (f"({e.names[a]} - {lo})" for a, lo, _ in filter(None, (strip.line, strip.run)))
        offset, pitch = (c_index(d, e.names) for d in (strip.offset, strip.pitch))
        place = f"{first} * ({pitch}) + {column[0]}" if column else first
        return f"({strip.lane} *)(mine + {offset}) + {place}"


def elements(sweep: Operation) -> dict[Value, Operation]:
    """The operations of a sweep that give one element a point, by what they give."""
    assert sweep.body is not None
    kinds = (Kind.MAP, Kind.TILE)
    return {op.result: op for op in sweep.body.ops if op.record.kind in kinds and op.record is not MMA and op.results}


def behind(wanted: Iterable[Value], own: dict[Value, Operation]) -> set[Operation]:
    """The operations among ``own`` that some values need."""
    pending, found = list(wanted), set[Operation]()
    while pending:
        op = own.get(pending.pop())
        if op is not None and op not in found:
            found.add(op)
            pending.extend(op.inputs)
    return found


def broadcast(sweep: Operation, axes: Sequence[str], vector: str) -> list[Value]:
    """What a sweep broadcasts along the lanes and does not read as it lies in memory: for each point of the axes one
    value, computed from loads that are contiguous along the last.
    """
    assert sweep.body is not None
    own = elements(sweep)
    out: dict[Value, None] = {}
    for op in sweep.body.ops:
        if op.record is MMA or not op.results or varies(op.results[0], (vector,)):
            for v in op.inputs:
                plain = v in own and own[v].record is LOAD and ci.storage(dtype_of(v)) in ("f32", "f64")
                both = all(varies(v, (a,)) for a in axes) and not varies(v, (vector,))
                if (
                    v in own
                    and both
                    and not plain
                    and ci.lane(dtype_of(v)) in ("f32", "f64")
                    and runs(v, own, axes[-1])
                ):
                    out[v] = None
    return list(out)


def runs(v: Value, own: dict[Value, Operation], axis: str) -> bool:
    """Are all loads behind ``v`` contiguous along the axis, or the same for all of it?"""
    pending = [v]
    while pending:
        op = own.get(pending.pop())
        if op is None:
            continue
        if op.record is LOAD and (op.attrs.get("guard") or coefficient(place(op)[1], axis) not in (ONE, Dim.const(0))):
            return False
        pending.extend(op.inputs)
    return True
