"""One launch of a block program as one ``@triton.jit`` function: its programs, loops, choices and statements."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.backends.triton.block_parts import grouped
from tessera.backends.triton.expr import bound_parts
from tessera.backends.triton.program_folds import ProgramFolds
from tessera.backends.triton.program_plan import Grid, Part
from tessera.backends.triton.program_products import is_tiles
from tessera.backends.triton.source import KernelFunction, arguments
from tessera.ir.dialects.block import CHOOSE, EACH, FETCH, LOOP, NUMBER, PUT, SEND, WAIT
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim
from tessera.ir.dtype import bool_
from tessera.ir.graph import Block, Operand, Operation, Value, walk
from tessera.ir.record import Kind
from tessera.ir.types import TensorType


@dataclass
class ProgramFunction(ProgramFolds):
    """The state of emitting one function."""

    name: str = ""
    part: Part = field(kw_only=True)
    effects: frozenset[Operation] = frozenset()

    # -- the function as a whole

    def run(self) -> str:
        """The text of the function."""
        self.programs()
        start = len(self.lines.text)
        self.body(self.part.ops)
        self.lines.text[start:start] = ["    " + line for line in self.prelude]
        return self.function().text(self.lines.text or ["    pass"])

    def function(self) -> KernelFunction:
        """The function's name and arguments; complete after ``run``."""
        flags = (*self.even.values(), "WIDE")
        return KernelFunction(self.name, arguments(self.taken, self.exprs.sizes.names), flags, self.looks_up)

    def programs(self) -> None:
        """The positions of the axes in this program, the last axis the fastest, two axes of tiles a group at a time."""
        grid = list(self.part.grid)
        counts = [self.exprs.inner(self.dim(g.count)) for g in grid]
        names = [f"i{n}" for n in range(len(grid))]
        if self.tiled:
            names[-2:], counts[-2:] = ["tile"], [f"({counts[-2]} * {counts[-1]})"]
        if names:
            self.lines.add("program = tl.program_id(0)")
        for n, (name, count) in reversed(list(enumerate(zip(names, counts, strict=True)))):
            self.lines.add(f"{name} = program % {count}" if n else f"{name} = program")
            if n:
                self.lines.add(f"program = program // {count}")
        if self.tiled:
            rows, cols = (self.exprs.inner(self.dim(g.count)) for g in grid[-2:])
            self.lines.text += [f"    {line}" for line in grouped(rows, cols)]
            names[-1:] = ["tile", "strip"]
        for g, name in zip(grid, names, strict=True):
            self.stand(g, name)

    @property
    def tiled(self) -> bool:
        """Are products of matrices formed at tiles of two axes?"""
        stepped = [not (g.step.is_const and g.step.value == 1) for g in self.part.grid[-2:]]
        inside = (o for op in self.part.ops for o in ((op,) if op.body is None else walk(op.body)))
        return len(stepped) == 2 and all(stepped) and any(is_tiles(o, self.makers, self.static) for o in inside)

    def stand(self, g: Grid, number: str) -> None:
        lo, hi, step = (self.dim(e) for e in (g.lo, g.hi, g.step))
        text = f"{number}.to(tl.int64)"
        text += "" if step.is_const and step.value == 1 else f" * {self.exprs.inner(step)}"
        text += "" if lo.is_const and lo.value == 0 else f" + {self.exprs.inner(lo)}"
        self.along(g.axis, self.define("at", text), lo, hi, step)

    def along(self, axis: str, text: str, lo: Dim, hi: Dim, step: Dim) -> None:
        """Where an axis is, and between which bounds."""
        ranges = {n: r for n, r in self.exprs.ranges.items() if n != axis}
        least, most = self.settled(lo, "max"), self.settled(hi, "min")
        if least is not None and most is not None:
            ranges[axis] = (least, most)
            self.steps[axis] = (lo, hi, step)
        self.exprs.axes = {**self.exprs.axes, axis: text}
        self.exprs.ranges = ranges

    def settled(self, e: Dim, kind: str) -> Dim | None:
        """A bound of sizes alone on an expression: the expression itself, or one of those it is the ``min`` of (or the
        ``max``, for a bound from below). None where it depends on what varies.
        """
        return next((p for p in bound_parts(e, kind) if not p.names() & self.exprs.axes.keys()), None)

    # -- statements

    def body(self, ops: Sequence[Operation]) -> None:
        for op in ops:
            if op in self.effects:
                _EFFECTS[op.record.name](self, op)
            elif not self.whole.isdisjoint(op.results):
                self.value(op)

    def value(self, op: Operation) -> None:
        """An operation whose results are blocks."""
        kind = op.record.kind
        if op.record is FETCH:
            self.fetch(op)
        elif op.record is NUMBER:
            self.number(op)
        elif kind is Kind.REDUCE:
            self.reduce(op)
        elif kind is Kind.CONTRACT:
            self.contract(op)
        elif kind in (Kind.SCAN, Kind.EXTERN, Kind.CONTROL, Kind.COLLECTIVE):
            raise self.refuse(op, f"`{op.origin or op.name}`")
        else:
            self.materialise(op)

    def wait(self, op: Operation) -> None:
        """Copies are complete as soon as they have begun."""

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is computed inside is not known after it."""
        kept = self.values, self.memo, self.exprs.axes, self.exprs.ranges, self.lines.depth, self.steps
        self.values, self.memo, self.steps = dict(self.values), dict(self.memo), dict(self.steps)
        self.lines.depth += 1
        yield
        self.values, self.memo, self.exprs.axes, self.exprs.ranges, self.lines.depth, self.steps = kept

    # -- loops

    def bounds_of(self, op: Operation, lookups: Sequence[Operand]) -> tuple[Dim, Dim, Dim]:
        lo, hi, step = (self.looked(self.dim(op.attrs[key]), lookups) for key in ("lo", "hi", "step"))
        return lo, hi, step

    def each(self, op: Operation) -> None:
        """A grid inside of a program: in order, which is one of the orders it may have."""
        assert op.body is not None
        with self.looped(op, op.operands):
            self.body(op.body.ops)

    @contextmanager
    def looped(self, op: Operation, lookups: Sequence[Operand]) -> Iterator[None]:
        """A loop over the positions of an axis."""
        lo, hi, step = self.bounds_of(op, lookups)
        variable = self.fresh("step")
        start, stop, by = (self.bound(e) for e in (lo, hi, step))
        self.lines.add(f"for {variable} in range({start}, {stop}, {by}):")
        with self.scope():
            mark = len(self.lines.text)
            self.along(str(op.attrs["axis"]), self.define("at", f"tl.cast({variable}, tl.int64)"), lo, hi, step)
            yield
            if len(self.lines.text) == mark:
                self.lines.add("pass")

    def bound(self, e: Dim) -> str:
        """A bound of a loop, of 32 bits where positions have no more: loads under way ask for that."""
        text = self.exprs.text(e)
        vary = {n for n in e.names() if n in self.exprs.axes}
        if not vary or not vary <= self.exprs.ranges.keys():
            return text
        self.slopes.append((1, e.substitute({n: self.exprs.ranges[n][1] for n in vary})))
        name = self.fresh("bound")
        self.lines.add(f"{name} = {self.used.note(text)}")
        self.lines.add("if not WIDE:")
        self.lines.add(f"    {name} = tl.cast({name}, tl.int32)")
        return name

    def loop(self, op: Operation) -> None:
        body, count = op.body, op.attrs["carries"]
        assert body is not None and isinstance(count, int)
        names = self.begin(body.params, op.operands[:count])
        self.values.update(zip(body.params, names, strict=True))
        if op.attrs.get("stops"):
            self.stopping(op, body, names, op.operands[count:])
        else:
            with self.looped(op, op.operands[count:]):
                self.body(body.ops)
                self.carry(names, body.params, body.yields)
        self.values.update(zip(op.results, names, strict=True))

    def begin(self, params: Sequence[Value], given: Sequence[Operand]) -> list[str]:
        """Variables that begin as values."""
        names = []
        for p, x in zip(params, given, strict=True):
            assert isinstance(p.type, TensorType)
            name = self.fresh("carry")
            self.lines.add(f"{name} = {self.used.note(self.block(x, p.type))}")
            names.append(name)
        return names

    def carry(self, names: Sequence[str], params: Sequence[Value], yields: Sequence[Operand]) -> None:
        """Give variables their next values, all at once."""
        texts: list[str] = []
        for p, x in zip(params, yields, strict=True):
            assert isinstance(p.type, TensorType)
            text = self.block(x, p.type)
            if text in names and text != names[len(texts)]:
                kept = self.fresh("kept")
                self.lines.add(f"{kept} = {text}")
                text = kept
            texts.append(text)
        for name, text in zip(names, texts, strict=True):
            if name != text:
                self.lines.add(f"{name} = {self.used.note(text)}")

    def stopping(self, op: Operation, body: Block, names: Sequence[str], lookups: Sequence[Operand]) -> None:
        """A loop that a condition ends."""
        lo, hi, step = self.bounds_of(op, lookups)
        start, stop, by = (self.exprs.inner(e) for e in (lo, hi, step))
        at, runs = self.fresh("at"), self.fresh("runs")
        self.lines.add(f"{at} = tl.full([], {start}, tl.int64)")
        self.lines.add(f"{runs} = {at} < {stop}")
        self.lines.add(f"while {runs}:")
        with self.scope():
            self.along(str(op.attrs["axis"]), at, lo, hi, step)
            self.body(body.ops)
            ends = self.block(body.yields[0], _BOOL)
            self.carry(names, body.params, body.yields[1:])
            self.lines.add(f"{at} = {at} + {by}")
            self.lines.add(f"{runs} = ({at} < {stop}) & ~{ends}")

    # -- choices

    def choose(self, op: Operation) -> None:
        assert op.body is not None
        names = [self.fresh("chosen") for _ in op.results]
        condition = self.block(op.operands[0], _BOOL)
        for word, case in zip((f"if {condition}:", "else:"), op.body.ops, strict=True):
            assert case.body is not None
            self.lines.add(word)
            with self.scope():
                mark = len(self.lines.text)
                self.body(case.body.ops)
                for r, name, x in zip(op.results, names, case.body.yields, strict=True):
                    assert isinstance(r.type, TensorType)
                    self.lines.add(f"{name} = {self.used.note(self.block(x, r.type))}")
                if len(self.lines.text) == mark:
                    self.lines.add("pass")
        self.values.update(zip(op.results, names, strict=True))


_BOOL = TensorType(bool_, ())
_EFFECTS: Mapping[str, Callable[[ProgramFunction, Operation], None]] = {
    EACH.name: ProgramFunction.each, LOOP.name: ProgramFunction.loop, CHOOSE.name: ProgramFunction.choose,
    PUT.name: ProgramFunction.put, SEND.name: ProgramFunction.send, WAIT.name: ProgramFunction.wait,
    LOCAL.name: ProgramFunction.local,
}  # fmt: skip

__all__ = ["ProgramFunction"]
