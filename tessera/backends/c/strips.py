"""Operands that are broadcast, brought into floats before: one conversion for each instead of one for every use."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
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

#: How elements lie in memory that are broadcast from there.
NEAR = ("f32", "f64", "bf16", "i16", "i32")

#: Rows so many bytes apart share their places in the nearest cache.
PAGE = 4096


@dataclass(frozen=True)
class Strip:
    """Lines of scalars in scratch memory: one for each point of the one loop, if there is one, along the other."""

    offset: Dim
    line: Loop | None
    run: Loop
    pitch: Dim
    lane: str


@dataclass(frozen=True)
class Rows:
    """Rows of a load as names in C: where that at ``first`` has its element at ``lo`` of the run, and the elements from
    one row to the next.
    """

    pointer: str
    pitch: str
    axis: str
    first: str
    run: str
    lo: str


@dataclass
class Strips(Tiles):
    """``strips`` and ``near`` rows of loads are those that can be read at the moment; their room is kept by value.
    ``awaited`` are the loads that follow the sums at hand, for each of their points.
    """

    strips: dict[Value, Strip] = field(default_factory=dict)
    near: dict[Operation, Rows] = field(default_factory=dict)
    rooms: dict[Value, Dim] = field(default_factory=dict)
    awaited: Sequence[Operation] = ()

    @contextmanager
    def stripped(
        self, sweep: Operation, line: Loop | None, run: Loop, lines: int, pitch: Dim,
        narrow: Mapping[Value, str] | None = None,
    ) -> Iterator[None]:  # fmt: skip
        """Compute what a sweep broadcasts, for as long as the block lasts; or the values ``narrow``, stored as these
        say.
        """
        e, before = self.e, self.strips
        self.strips = {}
        kinds = narrow
        if kinds is None:
            along_both = (run[0],) if line is None else (line[0], run[0])
            kinds = {v: ci.lane(dtype_of(v)) for v in broadcast(sweep, along_both, e.vector)}
        for v in kinds:
            if v not in self.rooms:
                self.rooms[v] = e.scratch
                e.scratch = e.scratch + pitch * (lines * (8 if ci.lane(dtype_of(v)) == "f64" else 4))
        strips = {v: Strip(self.rooms[v], line, run, pitch, kind) for v, kind in kinds.items()}
        if strips:
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

    @contextmanager
    def nearer(self, sweep: Operation, rows: tuple[str, int], run: Loop, size: tuple[int, int]) -> Iterator[None]:
        """For as long as the block lasts read some rows of what lies along the run from a copy where they are whole
        pages apart: they share so few places of the nearest cache then that they would drive each other out. The copy
        has room for as many rows as ever go together, of some length.
        """
        e, (axis, many), (inner, lo, hi), (most, length) = self.e, rows, run, size
        for op in broadcast_loads(sweep, axis, e.vector):
            step, kind = coefficient(place(op)[1], axis), ci.storage(dtype_of(op.result))
            if step is None or kind not in NEAR or not along(op, inner) or self.is_stripped(op, sweep):
                continue
            if op.result not in self.rooms:
                self.rooms[op.result] = e.scratch
                e.scratch = e.scratch + most * length * op.result.type.dtype.bytes
            found = self.near[op] = Rows(e.fresh(), e.fresh(), axis, e.names[axis], inner, lo)
            source, room, row = c_index(place(op)[1], {**e.names, inner: lo}), e.fresh(), e.fresh()
            e.lines.add(f"const {kind} *{found.pointer} = {e.buffer(op)[0]} + {source};")
            e.lines.add(f"i64 {found.pitch} = {c_index(step, e.names)};")
            e.lines.open(f"if ({found.pitch} * sizeof({kind}) % {PAGE} == 0)")
            e.lines.add(f"{kind} *const {room} = ({kind} *)(mine + {c_index(self.rooms[op.result], e.names)});")
            e.lines.add(
                f"for (i64 {row} = 0; {row} < {many}; {row}++) __builtin_memcpy({room} + {row} * {length}, "
                f"{found.pointer} + {row} * {found.pitch}, ({hi} - {lo}) * sizeof({kind}));"
            )
            e.lines.add(f"{found.pointer} = {room};")
            e.lines.add(f"{found.pitch} = {length};")
            e.lines.close()
        yield
        self.near = {}

    def is_stripped(self, op: Operation, sweep: Operation) -> bool:
        """Is what an operation gives, or what is made of it, read from strips?"""
        return op.result in self.strips or only_behind(op, sweep, self.strips)

    def take_near(self, op: Operation) -> None:
        """Broadcast an element of a near row."""
        name, kind = self.e.fresh(), ci.lane(dtype_of(op.result))
        self.e.values[op.result] = name
        self.e.lines.add(f"const v{kind} {name} = t_splat_{kind}(*({self.element_of(op)}));")

    def ask(self, sweep: Operation, rows: tuple[str, int], inner: str, step: int = 1) -> None:
        """Prefetch what the next rows will read where it lies along what is summed, a line of one of them with every
        ``step`` of it, or along the rows: too many places for the processor to see that they will be needed.
        """
        e, (axis, many) = self.e, rows
        at, k = e.names[axis], e.names[inner]
        row = f"(i64)((u64){k} % {many})" if step == 1 else f"(i64)((u64){k} / {step} % {many})"
        for op in broadcast_loads(sweep, axis, e.vector):
            if self.is_stripped(op, sweep):
                continue
            if along(op, inner):
                line = f"({k} & {-64 // op.result.type.dtype.bytes})"
                names = {**e.names, axis: f"({at} + {many} + {row})", inner: line}
            elif along(op, axis):
                names = {**e.names, axis: f"({at} + {many})"}
            else:
                continue
            e.lines.add(f"t_prefetch({e.buffer(op)[0]} + {c_index(place(op)[1], names)});")

    def expect(self, rows: tuple[str, int], piece: Loop, end: str) -> None:
        """Prefetch what is read point by point of some rows once their sums, of which this is a piece, are at an end:
        a few elements of each of many rows, which the processor does not see to follow each other.
        """
        e, (axis, many) = self.e, rows
        wanted = [op for op in self.awaited if along(op, e.vector) and varies(op.result, (axis,))]
        if e.partial or not wanted:
            return
        row, at = e.fresh(), e.names[axis]
        e.lines.open(f"if ({piece[2]} >= {end}) for (i64 {row} = 0; {row} < {many}; {row}++)")
        for op in wanted:
            for _ in e.each():
                index = c_index(place(op)[1], {**e.names, axis: f"({at} + {row})"})
                e.lines.add(f"t_prefetch_far({e.buffer(op)[0]} + {index});")
        e.lines.close()

    def element_of(self, op: Operation) -> str:
        """The address of the element that a load broadcasts at the current point."""
        e, rows = self.e, self.near.get(op)
        if rows is None:
            return f"{e.buffer(op)[0]} + {c_index(place(op)[1], e.names)}"
        row = f"({e.names[rows.axis]} - {rows.first}) * {rows.pitch}"
        return f"{rows.pointer} + {row} + ({e.names[rows.run]} - {rows.lo})"

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


def broadcast_loads(sweep: Operation, axis: str, vector: str) -> list[Operation]:
    """The loads of a sweep that are the same for all lanes, and others for each row."""
    assert sweep.body is not None
    loads = (op for op in sweep.body.ops if op.record is LOAD and not op.attrs.get("guard") and len(op.operands) == 1)
    return [op for op in loads if varies(op.result, (axis,)) and not varies(op.result, (vector,))]


def along(op: Operation, axis: str) -> bool:
    """Does what a load reads lie along an axis?"""
    return coefficient(place(op)[1], axis) is ONE


def only_behind(op: Operation, sweep: Operation, known: Container[Value]) -> bool:
    """Is ``op`` only there for values that are known without it?"""
    assert sweep.body is not None
    pending, readers = [op.result], 0
    while pending:
        v = pending.pop()
        for o in sweep.body.ops:
            if v in o.inputs:
                readers += 1
                if o.record is MMA:
                    return False
                if o.result not in known:
                    pending.append(o.result)
    return readers > 0


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
