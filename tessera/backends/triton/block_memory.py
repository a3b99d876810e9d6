"""Statements on tiles of blocks: each value lies along some sides of the tile; addresses are a number that a whole tile
shares and an offset inside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import ClassVar

from tessera.backends.triton.blocks import Blocks, Side
from tessera.backends.triton.statements import Statements, dim, dims
from tessera.backends.triton.tiling import Mode
from tessera.ir.dialects.tile import INDEX, LOAD, LOOKUP, STORE
from tessera.ir.dim import Dim
from tessera.ir.dim_range import bounds, coefficient
from tessera.ir.dtype import DType, f32, int64
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.schedule.plan import ONE, ZERO, Unschedulable
from tessera.schedule.ranges import provably_ge


@dataclass(frozen=True, slots=True)
class Place:
    """Where a program stands along a side: the position of its first point (empty: 0), offsets and bounds of all."""

    start: str
    lanes: str
    mask: str
    #: Positions by axis where several axes make the side.
    vectors: Mapping[str, str] = field(default_factory=dict)


@dataclass
class BlockStatements(Statements):
    """``spread`` says along which sides a value lies, ``zeroed`` along which it is 0 beyond the bounds; ``frame`` are
    the sides of the tile that is being written about.
    """

    layout: Blocks = field(kw_only=True)
    mode: Mode = "held"
    places: dict[str, Place] = field(default_factory=dict)
    spread: dict[Value, frozenset[str]] = field(default_factory=dict)
    zeroed: dict[Value, frozenset[str]] = field(default_factory=dict)
    frame: tuple[Side, ...] = ()
    #: The constants of sides of which only a part is written about.
    lengths: dict[str, str] = field(default_factory=dict)
    looks_up: bool = False
    #: How many sides a tile has at most.
    most: ClassVar[int] = 2

    # -- frames

    @contextmanager
    def along(self, blocks: Iterable[str]) -> Iterator[tuple[Side, ...]]:
        """Inside, values are written so that they fit a tile of these sides."""
        found = self.layout.ordered(blocks)
        if len(found) > self.most:
            raise Unschedulable("a value differs along three sides of a tile, which has two")
        with self.framed(found):
            yield found

    @contextmanager
    def framed(self, sides: tuple[Side, ...]) -> Iterator[None]:
        """As ``along``, with the sides in the given order."""
        before, self.frame = self.frame, sides
        yield
        self.frame = before

    def oriented(self, text: str, *blocks: str) -> str:
        """A value that lies along these sides, in the current frame."""
        if not blocks or len(blocks) >= len(self.frame):
            return text
        return f"{text}[{', '.join(':' if s.block in blocks else 'None' for s in self.frame)}]"

    def shape(self, sides: Sequence[Side]) -> str:
        return f"[{', '.join(self.length(s) for s in sides)}]"

    def length(self, s: Side) -> str:
        """The constant that is the length of a tile along a side."""
        return self.lengths.get(s.block, s.block)

    def text(self, x: Operand, t: DType = f32, alone: bool = False) -> str:
        text = super().text(x, t, alone)
        return self.oriented(text, *self.spread.get(x, ())) if isinstance(x, Value) else text

    def lies(self, xs: Iterable[object]) -> frozenset[str]:
        """The sides that some of these values lie along."""
        return frozenset(b for x in xs if isinstance(x, Value) for b in self.spread.get(x, ()))

    def masks(self, blocks: Iterable[str]) -> list[str]:
        """The bounds of sides, in the current frame."""
        return [self.oriented(self.places[s.block].mask, s.block) for s in self.frame if s.block in blocks]

    # -- index expressions

    def sides_of(self, e: Dim, lookups: Sequence[Operand] = ()) -> frozenset[str]:
        """The sides that an index expression differs along; ``_l0`` stands for the first lookup."""
        at = {self.layout.home[n].block for n in e.names() if n in self.layout.home}
        return frozenset(at) | self.lies(v for n, v in enumerate(lookups) if f"_l{n}" in e.names())

    def place(self, e: Dim, lookups: Sequence[Operand] = ()) -> str:
        """An index expression in the current frame: first what all points share."""
        looked = {f"_l{n}": v for n, v in enumerate(lookups)}
        vary = [n for n in sorted(e.names()) if n in self.layout.home or self.lies([looked.get(n)])]
        slopes = {n: coefficient(e, n) for n in vary}
        plain = all(
            c is not None and not c.names() & set(vary) and not self._vectors(n).get(n) for n, c in slopes.items()
        )
        known = dict(self.exprs.axes)
        self.exprs.axes.update({n: self.text(v) for n, v in looked.items()})
        try:
            if not plain:
                self.exprs.axes.update({n: self.position(n) for n in vary if n in self.layout.home})
                return self.exprs.text(e)
            return self._sum(e, slopes, looked)
        finally:
            self.exprs.axes = known

    def _sum(self, e: Dim, slopes: Mapping[str, Dim | None], looked: Mapping[str, Operand]) -> str:
        starts = {n: "" if n in looked else self._place(n).start for n in slopes}
        base = e.substitute({n: ZERO for n, start in starts.items() if not start})
        self.exprs.axes.update({n: start for n, start in starts.items() if start})
        terms = [] if base is ZERO else [self.exprs.text(base)]
        for n, slope in slopes.items():
            assert slope is not None
            lanes = self.text(looked[n]) if n in looked else self.oriented(self._place(n).lanes, self._block(n))
            terms.append(lanes if slope is ONE else f"{lanes} * {self.exprs.inner(slope)}")
        return " + ".join(terms).replace("+ -", "- ") or "0"

    def shared(self, e: Dim) -> str:
        """What an index expression is at the first point of the tile."""
        known = dict(self.exprs.axes)
        starts = {n: self._place(n).start for n in sorted(e.names()) if n in self.layout.home}
        self.exprs.axes.update({n: start for n, start in starts.items() if start})
        text = self.exprs.text(e.substitute({n: ZERO for n, start in starts.items() if not start}))
        self.exprs.axes = known
        return text

    def lanes_of(self, axis: str) -> str:
        """Offsets of the points along an axis from the first."""
        return self._place(axis).lanes

    def position(self, axis: str) -> str:
        """The positions along one axis in the current frame, 64 bits wide."""
        at = self._place(axis)
        text = at.vectors.get(axis) or (f"{at.start} + {at.lanes}" if at.start else at.lanes)
        return self.oriented(self.define("at", f"({text}).to(tl.int64)"), self._block(axis))

    def _block(self, axis: str) -> str:
        return self.layout.home[axis].block

    def _place(self, axis: str) -> Place:
        return self.places[self._block(axis)]

    def _vectors(self, axis: str) -> Mapping[str, str]:
        return self._place(axis).vectors if axis in self.layout.home else {}

    # -- operations

    def statement(self, op: Operation) -> None:
        if op.record is LOAD:
            self.load(op)
        elif op.record is STORE:
            self.store(op)
        elif op.record is LOOKUP:
            self.lookup(op)
        elif op.record is INDEX:
            e = dim(op.attrs["of"])
            with self.along(self.sides_of(e)) as frame:
                self.gives(op.result, "at", f"tl.cast({self.place(e)}, tl.int64)", frame)
        else:
            with self.along(self.lies(op.operands)) as frame:
                self.gives(op.result, op.name, self.expression(op, op.operands), frame)
            if len(op.operands) == 1 and self.layout.source(op.result) is op.operands[0]:
                self.zeroed[op.result] = self.zeroed.get(op.operands[0], frozenset())

    def gives(self, v: Value, hint: str, text: str, frame: Iterable[Side]) -> None:
        self.values[v] = self.define(hint, text)
        self.spread[v] = frozenset(s.block for s in frame)

    def address(self, op: Operation, lookups: Sequence[Operand], wanted: frozenset[str]) -> tuple[str, list[str]]:
        """(pointer, tests) of a load or store in the current frame."""
        offset = dim(op.attrs["index"])
        tests = self.masks(wanted)
        guard = op.attrs.get("guard") or ()
        assert isinstance(guard, tuple)
        for part in guard:
            e, lo, hi = dims(part)
            tests += self.within(e, lo, hi, lookups)
        text = self.place(offset, lookups)
        pointer = self.text(op.operands[0])
        pointer = pointer if text == "0" else f"{pointer} + {text}".replace("+ -", "- ")
        for s in self.frame:
            if s.block not in self.sides_of(offset, lookups):
                ones = [self.length(s) if t is s else "1" for t in self.frame]
                pointer += f" + tl.zeros([{', '.join(ones)}], tl.int32)"
        return self.used.note(pointer), [self.used.note(t) for t in tests]

    def reached(self, op: Operation, lookups: Sequence[Operand]) -> frozenset[str]:
        """The sides of the tile that an access runs over."""
        guard = op.attrs.get("guard") or ()
        assert isinstance(guard, tuple)
        out = self.sides_of(dim(op.attrs["index"]), lookups)
        for part in guard:
            out |= self.sides_of(dims(part)[0], lookups)
        return out

    def within(self, e: Dim, lo: Dim, hi: Dim, lookups: Sequence[Operand]) -> list[str]:
        """Tests of ``lo <= e < hi``, those left out that the ranges of the axes settle."""
        known = not any(n.startswith("_l") for n in e.names())
        low, high = bounds(e, self.exprs.ranges) if known else (None, None)
        text = self.place(e, lookups)
        out = []
        if low is None or not provably_ge(low, lo):
            out.append(f"({text} >= {self.exprs.text(lo)})")
        if high is None or not provably_ge(hi, high + 1):
            out.append(f"({text} < {self.exprs.text(hi)})")
        return out

    def load(self, op: Operation) -> None:
        lookups = op.operands[1:]
        with self.along(self.reached(op, lookups)) as frame:
            sides = frozenset(s.block for s in frame)
            pointer, tests = self.address(op, lookups, sides)
            other = "0.0" if op.result.type.dtype.is_float else "0"
            masked = f", mask={' & '.join(tests)}, other={other}" if tests else ""
            self.gives(op.result, "load", f"tl.load({pointer}{masked})", frame)
            self.zeroed[op.result] = sides

    def store(self, op: Operation) -> None:
        buffer, x = op.operands[:2]
        to = buffer.type.dtype
        with self.along(self.reached(op, op.operands[2:])) as frame:
            sides = frozenset(s.block for s in frame)
            if not self.lies([x]) <= sides:
                raise Unschedulable("a value is stored where it has no single element")
            pointer, tests = self.address(op, op.operands[2:], sides)
            if isinstance(x, Literal):
                value = self.text(x, to, alone=True)
            else:
                value = self.text(x) if x.type.dtype is to else self.cast(x, to)
        # What all parts compute is written by the first.
        tests += ["(part == 0)"] if self.layout.shared and not any(s.parts for s in frame) else []
        masked = f", mask={' & '.join(tests)}" if tests else ""
        self.lines.add(f"tl.store({pointer}, {self.used.note(value)}{masked})")

    def lookup(self, op: Operation) -> None:
        """An index checked, from its end on where it wraps; the check stops a program that is compiled with checks."""
        self.looks_up = True
        n = self.exprs.text(dim(op.attrs["size"]))
        with self.along(self.lies(op.operands)) as frame:
            x = self.text(op.operands[0], int64)
            at = self.define("index", f"tl.where({x} < 0, {x} + {n}, {x})" if op.attrs.get("wraps") else x)
            fits = self.define("fits", f"({at} >= 0) & ({at} < {n})")
            mask = " & ".join(self.masks(s.block for s in frame))
            absent = f" | ~({mask})" if mask else ""
            self.lines.add(f'tl.device_assert({fits}{absent}, "index out of range")')
            self.gives(op.result, "lookup", f"tl.where({fits}, {at}, 0)", frame)
