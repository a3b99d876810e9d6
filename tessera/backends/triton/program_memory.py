"""Memory of a block program in Triton: windows as addresses with masks, copies, and buffers of a program's own.

Memory on the chip is memory of the device of which every program has a piece: what Triton offers has no places that
other lanes could write to. Lanes of a program meet at a barrier between what they write and what others of them read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tessera.backends.triton import intrinsics
from tessera.backends.triton.program_frames import Coordinates, Lanes
from tessera.backends.triton.program_plan import ZERO, stored_slabs
from tessera.backends.triton.program_values import ProgramValues
from tessera.ir.dialects.block import PUT, SEND
from tessera.ir.dim import Dim, dim_min, product
from tessera.ir.graph import Operand, Operation, Value
from tessera.ir.types import BufferType, TensorType
from tessera.ir.window import SINGLE, TAIL, Row, read, shape
from tessera.schedule.ranges import provably_ge

#: What GPUs add to memory at once.
_ATOMIC = frozenset({"f16", "bf16", "f32", "f64", "int32", "int64"})


@dataclass
class Address:
    """A window as text: the address of each lane, and which lanes lie inside."""

    pointer: str
    axes: frozenset[int]
    tests: list[str]


def stride(number: int, axis: int) -> Dim:
    """The size that says how far apart elements of a buffer lie along an axis."""
    return Dim.name(f"_s{number}_{axis}")


def is_stride(name: str) -> bool:
    """Is a size one of those that ``stride`` gives?"""
    return name.startswith("_s")


@dataclass
class ProgramMemory(ProgramValues):
    """``shared`` are the buffers that a program both reads and writes, ``even`` the constants that say whether blocks
    fill what they walk along, by its length and theirs; ``own`` the sizes of a program's own buffers.
    """

    shared: frozenset[Value] = field(default_factory=frozenset)
    even: dict[tuple[Dim, int], str] = field(default_factory=dict)
    own: dict[Value, Dim] = field(default_factory=dict)

    # -- windows

    def window(self, op: Operation, key: str, lookups: Sequence[Operand]) -> list[Row]:
        """A window with the values of lookups and of the sizes of blocks in it."""
        return [
            Row(self.looked(r.start, lookups), self.dim(r.extent), self.looked(r.end, lookups), r.kind)
            for r in read(op.attrs[key])
        ]  # fmt: skip

    def inside(self, row: Row, size: Dim, scalars: list[str]) -> Row:
        """A row that begins inside of its buffer: known, or checked."""
        end = row.end if row.end is size or provably_ge(size, row.end) else dim_min(row.end, size)
        reach = end if row.kind == TAIL else end - row.extent + 1
        above, below = self.within(row.start, ZERO, reach)
        # A block that may hang over may begin at 0 of nothing.
        if above and (below or (row.kind == TAIL and row.start is ZERO)):
            return Row(row.start, row.extent, end, row.kind)
        text = self.define("start", f"tl.cast({self.place(row.start)}, tl.int64)")
        fits = f"({text} >= 0) & ({text} < {self.exprs.inner(self.simple(reach))})"
        name = f"_f{len(self.found)}"
        self.found[name] = Lanes(self.checked(text, frozenset(), fits))
        scalars.append(self.define("fits", fits))
        return Row(self.named(name), row.extent, end, row.kind)

    def named(self, name: str) -> Dim:
        self.exprs.axes[name] = self.found[name].text
        return Dim.name(name)

    def address(self, op: Operation, buffer: Value, rows: Sequence[Row], at: Coordinates) -> Address:
        """The lanes of a window at coordinates."""
        kind = buffer.type
        assert isinstance(kind, BufferType)
        number = int(self.names[buffer][1:])
        coordinates = iter(at)
        tests: list[str] = []
        offset, touched = ZERO, frozenset[int]()
        for axis, row in enumerate(rows):
            row = self.inside(row, self.dim(kind.dims[axis]), tests)
            by = stride(number, axis) if buffer not in self.own else product(map(self.dim, kind.dims[axis + 1 :]))
            if row.kind == SINGLE:
                offset = offset + row.start * by
                continue
            e = next(coordinates)
            touched |= self.lanes_of(e)
            tests += self.bounds(row, e)
            offset = offset + (row.start + e) * by
        base = self.text(buffer)
        if buffer in self.own:
            base += f" + tl.program_id(0).to(tl.int64) * {self.exprs.inner(self.own[buffer])}"
        tests += [t.text for t in self.pads(touched | {n for n, size in enumerate(self.frame) if not size})]
        text = self.place(offset)
        pointer = base if text == "0" else f"{base} + {text}".replace("+ -", "- ")
        return Address(pointer, touched, list(dict.fromkeys(tests)))

    def bounds(self, row: Row, e: Dim) -> list[str]:
        """Tests of whether positions along a dim of a block lie in the block and before the end of the window."""
        above, below = self.within(e, ZERO, row.extent)
        tests = [] if above else [f"({self.place(e)} >= 0)"]
        tests += [] if below else [f"({self.place(e)} < {self.exprs.inner(row.extent)})"]
        if row.kind == TAIL:
            text = f"({self.place(row.start + e)} < {self.exprs.inner(self.simple(row.end))})"
            tests.append(self.define("in_bounds", self.evenly(row, text)))
        return tests

    def evenly(self, row: Row, test: str) -> str:
        """A test that a constant settles where whole blocks fill what a loop walks along."""
        known = self.steps.get(str(row.start)) if row.start.is_name else None
        if known is None or known[0] is not ZERO or known[2] is not row.extent:
            return test
        if not row.extent.is_const:
            return test
        key = (row.end, row.extent.value)
        return f"{test} | ({self.even.setdefault(key, f'EVEN{len(self.even)}')} == 1)"

    # -- statements

    def fetched(self, op: Operation, at: Coordinates) -> Lanes:
        buffer = op.operands[0]
        assert isinstance(buffer, Value)
        where = self.address(op, buffer, self.window(op, "at", op.operands[1:]), at)
        given = op.attrs.get("other")
        assert given is None or isinstance(given, bool | int | float)
        other = intrinsics.literal(given or 0, buffer.type.dtype)
        masked = f", mask={' & '.join(where.tests)}, other={other}" if where.tests else ""
        return Lanes(self.define("load", f"tl.load({where.pointer}{masked})"), where.axes)

    def fetch(self, op: Operation) -> None:
        """A block read where it stands."""
        buffer = op.operands[0]
        assert isinstance(buffer, Value)
        self.meet(buffer)
        if buffer in self.shared:
            # What was read before may have changed.
            self.memo = {text: name for text, name in self.memo.items() if not text.startswith("tl.load")}
        self.materialise(op)
        if not op.attrs.get("other"):
            self.zeroed.add(op.result)

    def meet(self, buffer: Value) -> None:
        """The lanes of a program wait for each other where some read what others write."""
        if buffer in self.shared:
            self.lines.add("tl.debug_barrier()")

    def put(self, op: Operation) -> None:
        buffer, x = op.operands[:2]
        assert isinstance(buffer, Value)
        self.meet(buffer)
        rows = self.window(op, "at", op.operands[2:])
        slabs = stored_slabs(op, self.makers, self.static)
        if slabs is None:
            self.store(op, buffer, rows, x)
            return
        inside = [n for n, row in enumerate(rows) if row.kind != SINGLE]
        for slab in slabs:
            n = inside[slab.axis]
            row = rows[n]
            part = Row(row.start + slab.offset, self.dim(slab.value.type.dims[slab.axis]), row.end, row.kind)
            self.store(op, buffer, [*rows[:n], part, *rows[n + 1 :]], slab.value)

    def store(self, op: Operation, buffer: Value, rows: Sequence[Row], x: Operand) -> None:
        with self.framed(self.extents(shape(rows))):
            if isinstance(x, Value) and isinstance(x.type, TensorType):
                lanes = self.read(x, self.broadcast(x, self.identity))
                value = self.converted(lanes.text, x.type.dtype, buffer.type.dtype)
            else:
                value = self.used.note(self.cast(x, buffer.type.dtype))
            self.write(op, buffer, rows, value)

    def write(self, op: Operation, buffer: Value, rows: Sequence[Row], value: str) -> None:
        """Store a text with the lanes of the frame, or one for all of them."""
        where = self.address(op, buffer, rows, self.identity)
        pointer = where.pointer
        if self.frame and not where.axes:
            pointer += f" + tl.zeros({self.shape(self.frame)}, tl.int32)"
        masked = f", mask={' & '.join(where.tests)}" if where.tests else ""
        word = "atomic_add" if op.attrs.get("adds") else "store"
        if word == "atomic_add" and buffer.type.dtype.name not in _ATOMIC:
            raise self.refuse(op, f"atomic sums of {buffer.type.dtype}")
        self.lines.add(f"tl.{word}({pointer}, {self.used.note(value)}{masked})")

    def send(self, op: Operation) -> None:
        """A copy, complete at once."""
        source, target = op.operands[:2]
        assert isinstance(source, Value) and isinstance(target, Value)
        self.meet(source)
        self.meet(target)
        start, to = (self.window(op, key, op.operands[2:]) for key in ("at", "to"))
        if self.extents(shape(start)) != self.extents(shape(to)):
            raise self.refuse(op, "a copy between blocks of two shapes")
        with self.framed(self.extents(shape(to))):
            where = self.address(op, source, start, self.identity)
            zero = intrinsics.literal(0, source.type.dtype)
            masked = f", mask={' & '.join(where.tests)}, other={zero}" if where.tests else ""
            name = self.fresh("load")
            self.lines.add(f"{name} = tl.load({where.pointer}{masked})")
            self.write(op, target, to, self.converted(name, source.type.dtype, target.type.dtype))

    def local(self, op: Operation) -> None:
        """Memory of the program's own: a piece of a buffer that all programs share."""
        kind = op.result.type
        assert isinstance(kind, BufferType)
        self.own[op.result] = product(map(self.dim, kind.dims))


def shared_buffers(ops: Sequence[Operation]) -> frozenset[Value]:
    """The buffers that are both read and written."""
    read_, written = set[Operand](), set[Operand]()
    for op in ops:
        if op.record is SEND:
            read_.add(op.operands[0])
            written.add(op.operands[1])
        elif op.record is PUT:
            written.add(op.operands[0])
        elif op.operands and isinstance(op.operands[0].type, BufferType):
            read_.add(op.operands[0])
    return frozenset(x for x in read_ & written if isinstance(x, Value))


__all__ = ["ProgramMemory", "is_stride", "shared_buffers", "stride"]
