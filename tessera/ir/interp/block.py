"""Block programs executed one iteration at a time in NumPy, with every access checked.

Bounds, contents, copies under way, iterations that meet in memory and padding that reaches a result are errors with the
place of the operation; see ``watched.py`` and ``padding.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tessera.diag import Label, RaceError, ShapeError, TraceError
from tessera.ir.dialects.block import CASE, CHOOSE, DEBUG_PRINT, EACH, FETCH, FILLED, LOOP, NUMBER, PUT, SEND, WAIT
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim
from tessera.ir.graph import Attr, Block, Function, Operand, Operation, Value, walk
from tessera.ir.interp.convert import Array, holder
from tessera.ir.interp.memory import labels_of
from tessera.ir.interp.padding import Pad, Pads, follow, partly, refuse
from tessera.ir.interp.sizes import check_shape, shape_of
from tessera.ir.interp.tensor import TensorMachine
from tessera.ir.interp.watched import Iterations, Place, Watched, place
from tessera.ir.types import BufferType
from tessera.ir.window import read as read_window

_ONE = Dim.const(1)


@dataclass(frozen=True)
class _Copy:
    """A copy under way."""

    target: Watched
    at: Place
    values: Array


class _Enough(Exception):
    """As many iterations as were asked for have run."""


@dataclass
class BlockMachine:
    """Runs a block program over its buffers. ``sizes`` also holds the values of the axes of the loops around."""

    sizes: dict[str, int]
    buffers: dict[Value, Watched]
    machine: TensorMachine
    iterations: Iterations
    pads: Pads = field(default_factory=dict)
    copies: list[_Copy] = field(default_factory=list)
    #: Blocks that may still be carried out; None for any number.
    left: int | None = None

    def run(self, block: Block) -> None:
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                raise _Enough
        for op in block.ops:
            run = _RUN.get(op.record.name)
            if run is None:
                self.compute(op)
            else:
                run(self, op)

    # -- values

    def compute(self, op: Operation) -> None:
        """An operation of the tensor dialect on blocks."""
        machine = self.machine
        results = [machine.stored(x, r.type) for r, x in zip(op.results, machine.operation(op), strict=True)]
        self.forget(op.results)
        follow(machine, op, self.pads, results)
        machine.env.update(zip(op.results, results, strict=True))

    def forget(self, values: Sequence[Value]) -> None:
        """A value is made anew: what was padding in the iteration before is not."""
        for v in values:
            self.pads.pop(v, None)

    def bind(self, values: Sequence[Value], given: Sequence[Operand]) -> None:
        """Give values those of others, all at once."""
        arrays = [self.machine.stored(self.machine.read(x, v.type.dtype), v.type)
                  for v, x in zip(values, given, strict=True)]  # fmt: skip
        pads = [self.pads.get(x) if isinstance(x, Value) else None for x in given]
        for v, a, pad in zip(values, arrays, pads, strict=True):
            self.machine.env[v] = a
            if pad is None:
                self.pads.pop(v, None)
            else:
                self.pads[v] = pad

    def env(self, lookups: Sequence[Operand]) -> dict[str, int]:
        """Sizes, axes, and the lookups of one operation."""
        found = {f"_l{n}": int(self.machine.read(x, x.type.dtype)) for n, x in enumerate(lookups)}
        return {**self.sizes, **found} if found else self.sizes

    def size(self, d: Attr, env: Mapping[str, int]) -> int:
        return Dim.of(d).evaluate(env, signed=True) if isinstance(d, Dim | int) else 0

    # -- control

    def positions(self, op: Operation, lookups: Sequence[Operand]) -> range:
        env = self.env(lookups)
        lo, hi, step = (self.size(op.attrs[key], env) for key in ("lo", "hi", "step"))
        if step <= 0:
            raise ShapeError(f"a loop in steps of {step}", code="TSR0106", labels=labels_of(op))
        return range(lo, hi, step)

    def each(self, op: Operation) -> None:
        axis, body, iterations = str(op.attrs["axis"]), op.body, self.iterations
        assert body is not None
        first = iterations.count
        for value in self.positions(op, op.operands):
            iterations.begin(axis, value)
            self.sizes[axis] = value
            self.run(body)
            iterations.end(axis)
        self.sizes.pop(axis, None)
        for buffer in self.buffers.values():
            buffer.merge(first, iterations.around[-1])

    def loop(self, op: Operation) -> None:
        axis, body, count = str(op.attrs["axis"]), op.body, op.attrs["carries"]
        assert body is not None and isinstance(count, int)
        self.bind(body.params, op.operands[:count])
        stops = bool(op.attrs.get("stops"))
        for value in self.positions(op, op.operands[count:]):
            self.sizes[axis] = value
            self.run(body)
            stopped = stops and bool(self.machine.read(body.yields[0], body.yields[0].type.dtype))
            self.bind(body.params, body.yields[stops:])
            if stopped:
                break
        self.sizes.pop(axis, None)
        self.bind(op.results, body.params)

    def choose(self, op: Operation) -> None:
        assert op.body is not None
        yes, no = op.body.ops
        chosen = yes if bool(self.machine.read(op.operands[0], op.operands[0].type.dtype)) else no
        assert chosen.body is not None
        self.run(chosen.body)
        self.bind(op.results, chosen.body.yields)

    # -- memory

    def where(self, op: Operation, key: str, buffer: Watched, lookups: Sequence[Operand]) -> Place:
        return place(op, read_window(op.attrs[key]), buffer.name, buffer.data.shape, self.env(lookups))

    def buffer(self, x: Operand) -> Watched:
        assert isinstance(x, Value)
        return self.buffers[x]

    def fetch(self, op: Operation) -> None:
        buffer = self.buffer(op.operands[0])
        at = self.where(op, "at", buffer, op.operands[1:])
        values = buffer.load(op, at)
        self.forget(op.results)
        if not at.whole:
            check_shape(at.full, buffer.type.dtype)
            other = op.attrs.get("other")
            whole: Array = np.full(at.full, 0 if other is None else other, values.dtype)
            whole[at.inner] = values
            if other is None:
                mask = np.ones(at.full, bool)
                mask[at.inner] = False
                self.pads[op.result] = Pad(mask.reshape(at.shape))
            values = whole
        self.machine.env[op.result] = np.array(values).reshape(at.shape)

    def put(self, op: Operation) -> None:
        target, value = op.operands[0], op.operands[1]
        buffer = self.buffer(target)
        at = self.where(op, "at", buffer, op.operands[2:])
        a = np.broadcast_to(self.machine.read(value, value.type.dtype), at.shape).reshape(at.full)
        pad = self.pads.get(value) if isinstance(value, Value) else None
        if pad is not None:
            inside = np.broadcast_to(pad.mask, at.shape).reshape(at.full)[at.inner]
            if inside.any():
                raise refuse(op, pad, inside, buffer.name)
        (buffer.add if op.attrs.get("adds") else buffer.store)(op, at, a[at.inner])

    def local(self, op: Operation) -> None:
        kind = op.result.type
        assert isinstance(kind, BufferType)
        shape = shape_of(kind, self.sizes)
        data, written = np.full(shape, _poison(kind), holder(kind.dtype)), np.zeros(shape, bool)
        self.buffers[op.result] = Watched(op.result.name, kind, data, written, self.machine.exact, self.iterations)

    def send(self, op: Operation) -> None:
        source, target = self.buffer(op.operands[0]), self.buffer(op.operands[1])
        start = self.where(op, "at", source, op.operands[2:])
        to = self.where(op, "to", target, op.operands[2:])
        if start.shape != to.shape:
            raise ShapeError(f"a copy of {list(start.shape)} to {list(to.shape)}", labels=labels_of(op))
        values = np.zeros(start.full, source.data.dtype)
        values[start.inner] = source.load(op, start)
        values = values.reshape(to.full)[to.inner]
        target.begin_copy(op, to)
        self.copies.append(_Copy(target, to, values))

    def wait(self, op: Operation) -> None:
        """Copies are complete in the order in which they began."""
        pending = op.attrs.get("pending") or 0
        assert isinstance(pending, int)
        while len(self.copies) > pending:
            copy = self.copies.pop(0)
            copy.target.end_copy(copy.at, copy.values)

    def number(self, op: Operation) -> None:
        value = self.size(op.attrs["of"], self.env(op.operands))
        self.machine.env[op.result] = np.asarray(value, np.int64)

    def filled(self, op: Operation) -> None:
        x, r = op.operands[0], op.result
        self.bind((r,), (x,))
        if r in self.pads:
            self.pads[r] = partly(op, self.pads[r], self.machine.env[r].shape)

    def debug_print(self, op: Operation) -> None:
        values = [self.machine.stored(self.machine.read(x, x.type.dtype), x.type) for x in op.operands]
        print(str(op.attrs["text"]).format(*values))

    def misplaced(self, op: Operation) -> None:
        raise TraceError(f"`{op.name}` stands alone", code="TSR0408", labels=labels_of(op))


def _poison(kind: BufferType) -> Any:
    return np.nan if kind.dtype.is_float else 0


_RUN: Mapping[str, Callable[[BlockMachine, Operation], None]] = {
    EACH.name: BlockMachine.each, LOOP.name: BlockMachine.loop, CHOOSE.name: BlockMachine.choose,
    CASE.name: BlockMachine.misplaced, FETCH.name: BlockMachine.fetch, PUT.name: BlockMachine.put,
    SEND.name: BlockMachine.send, WAIT.name: BlockMachine.wait, NUMBER.name: BlockMachine.number,
    LOCAL.name: BlockMachine.local, FILLED.name: BlockMachine.filled, DEBUG_PRINT.name: BlockMachine.debug_print,
}  # fmt: skip


def added_to(f: Function) -> frozenset[Value]:
    """The buffers that iterations of a program add to."""
    puts = (op for op in walk(f.body) if op.record is PUT and op.attrs.get("adds"))
    return frozenset(op.operands[0] for op in puts if isinstance(op.operands[0], Value))


def run_program(
    f: Function, given: Mapping[Value, Array], sizes: Mapping[str, int], exact: bool = True, most: int | None = None
) -> dict[Value, Array]:
    """The contents of the buffers that a block program writes, once it has run.

    ``given`` has the scalars and the buffers with contents; other buffers have none and must be written whole, but for
    those that are added to, which begin with 0. After ``most`` iterations of all loops it ends, without an error. With
    ``exact`` floats stay float64 until a cast or a buffer narrows them, else every value is rounded to its dtype.
    Raises BoundsError (TSR0605, TSR0612), RaceError (TSR0610, TSR0613), ResourceError (TSR0608).
    """
    iterations, added = Iterations(), added_to(f)
    bound = dict(sizes)
    buffers: dict[Value, Watched] = {}
    env: dict[Value, Array] = {}
    for p in f.params:
        kind = p.type
        if not isinstance(kind, BufferType):
            env[p] = given[p]
            continue
        shape = shape_of(kind, bound)
        data = given.get(p)
        written = None if data is not None or p in added else np.zeros(shape, bool)
        data = np.zeros(shape, holder(kind.dtype)) if data is None else np.array(data).reshape(shape)
        buffers[p] = Watched(p.name, kind, data, written, exact, iterations)
    machine = BlockMachine(bound, buffers, TensorMachine(bound, exact, env), iterations, left=most)
    made = {p: b for p, b in buffers.items() if b.type.role in ("out", "update")}
    try:
        with np.errstate(all="ignore"):
            machine.run(f.body)
    except _Enough:
        return {p: b.data for p, b in made.items()}
    for p, buffer in made.items():
        if buffer.written is not None and not buffer.written.all():
            index = ", ".join(str(int(n)) for n in np.argwhere(~buffer.written)[0])
            labels = [] if f.span is None else [Label(f.span, "written by this kernel", True)]
            raise RaceError(f"element [{index}] of `{p.name}` is never written", code="TSR0613", labels=labels)
    return {p: b.data for p, b in made.items()}
