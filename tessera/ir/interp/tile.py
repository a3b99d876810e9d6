"""The tile dialect executed in float64: loop axes become whole array axes, so there are no blocks and no
tails.

A nest runs over the grid of its axes at once, a sweep over that grid times its own axes. Bounds that differ
between iterations become a mask. Memory keeps who wrote what, so a kernel that depends on the order of its
iterations is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tessera.diag import TraceError
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim
from tessera.ir.dtype import int64
from tessera.ir.graph import Attr, Block, Literal, Operand, Operation, Value
from tessera.ir.infer import result_dtype
from tessera.ir.interp.convert import Array, round_to, settle
from tessera.ir.interp.evaluate import over_grid
from tessera.ir.interp.fold import fold, prefixes
from tessera.ir.interp.memory import Memory, Points
from tessera.ir.interp.namespace import NumpyNamespace
from tessera.ir.interp.sizes import check_shape
from tessera.ir.interp.tensor import apply, constant, positions
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, ScalarType, TensorType, Type
from tessera.ir.within import applies


@dataclass(frozen=True)
class Level:
    """The points at which operations run: axes in order, their index arrays, and which points exist (None:
    all).
    """

    axes: tuple[str, ...]
    index: Mapping[str, Array]
    shape: tuple[int, ...]
    mask: Array | None = None
    outer: int = 0
    sweep: int = -1

    def active(self, guard: Array | None) -> Array:
        """A full boolean grid."""
        alive = np.ones(self.shape, bool)
        for part in (self.mask, guard):
            if part is not None:
                alive = alive & part
        return alive


    def points(self, outer: int) -> Iterator[Level]:
        """The points of all axes but the first ``outer`` ones, in order, each a level with lengths of 1 there."""
        for at in np.ndindex(self.shape[outer:]):
            chosen = (..., *(slice(n, n + 1) for n in at))

            def part(a: Array, at: tuple[Any, ...] = chosen) -> Array:
                return np.broadcast_to(a, self.shape)[at]

            index = {name: part(a) for name, a in self.index.items()}
            mask = None if self.mask is None else part(self.mask)
            yield Level(self.axes, index, (*self.shape[:outer], *(1 for _ in at)), mask, self.outer)


@dataclass(frozen=True)
class Held:
    """A value with one array axis for each of ``axes``; an axis it does not depend on has length 1."""

    array: Array
    axes: tuple[str, ...]

    def aligned(self, axes: tuple[str, ...]) -> Array:
        """The array with its axes in the order of ``axes``, length 1 for those it does not have."""
        extra = [n for n, a in enumerate(self.axes) if a not in axes]
        if any(self.array.shape[n] != 1 for n in extra):
            lost = ", ".join(self.axes[n] for n in extra)
            raise TraceError(f"a value of axes {lost} is read outside of them", code="TSR0408")
        kept = [a for a in self.axes if a in axes]
        array = self.array.reshape([n for k, n in enumerate(self.array.shape) if k not in extra])
        order = sorted(range(len(kept)), key=lambda k: axes.index(kept[k]))
        lengths = {a: array.shape[k] for k, a in enumerate(kept)}
        return array.transpose(order).reshape([lengths.get(a, 1) for a in axes])


@dataclass
class TileMachine:
    """Runs the nests of a kernel over its buffers and scalars."""

    sizes: Mapping[str, int]
    buffers: Mapping[Value, Memory]
    scalars: Mapping[Value, Array]
    exact: bool = True
    held: dict[Value, Held] = field(default_factory=dict)
    folds: dict[Value, Operation] = field(default_factory=dict)
    local: dict[Value, Memory] = field(default_factory=dict)
    sweeps: int = 0

    def run(self, block: Block) -> None:
        for op in block.ops:
            for memory in self.buffers.values():
                memory.begin_nest()
            self.held.clear()
            self.local.clear()
            self.nest(op)

    def nest(self, op: Operation) -> None:
        assert op.body is not None
        if not applies(op.attrs.get("when"), self.sizes):
            return
        axes, extents, walk = _names(op.attrs["axes"]), _dims(op.attrs["extents"]), _tuple(op.attrs.get("walk"))
        level = self.deeper(Level((), {}, ()), axes[:-1] if walk else axes, None, extents[:-1] if walk else extents)
        if walk:
            level = self.deeper(level, axes[-1:], walk[:1], walk[1:])
        level = Level(level.axes, level.index, level.shape, level.mask, len(level.axes))
        for inner in op.body.ops:
            if inner.body is not None:
                self.sweep(inner, level)
            else:
                self.operation(inner, level)

    def sweep(self, op: Operation, level: Level) -> None:
        assert op.body is not None
        whole = self.deeper(level, _names(op.attrs["axes"]), op.attrs["lo"], op.attrs["hi"])
        for part in whole.points(len(level.axes)) if op.attrs.get("ordered") else (whole,):
            self.sweeps += 1
            inside = Level(part.axes, part.index, part.shape, part.mask, level.outer, self.sweeps)
            for inner in op.body.ops:
                if inner.body is not None:
                    self.sweep(inner, inside)
                else:
                    self.operation(inner, inside)

    def deeper(self, level: Level, axes: Sequence[str], lo: Attr, hi: Attr) -> Level:
        """The level with further axes; bounds that vary between points give a mask."""
        highs = _dims(hi)
        lows = [Dim.const(0)] * len(highs) if lo is None else _dims(lo)
        mask = level.mask
        for axis, first, stop in zip(axes, lows, highs, strict=True):
            start, end = self.at(first, level), self.at(stop, level)
            low = int(start.min(initial=2**62))
            count = max(int(end.max(initial=low)) - low, 0)
            every = (*level.axes, axis)
            index = {a: x[..., np.newaxis] for a, x in level.index.items()}
            index[axis] = (low + np.arange(count, dtype=np.int64)).reshape((1,) * len(level.axes) + (count,))
            shape = (*level.shape, count)
            check_shape(shape, int64)
            mask = None if mask is None else mask[..., np.newaxis]
            if start.size > 1 or end.size > 1:
                here = (index[axis] >= start[..., np.newaxis]) & (index[axis] < end[..., np.newaxis])
                mask = here if mask is None else mask & here
            level = Level(every, index, shape, mask, level.outer, level.sweep)
        return level

    def at(self, d: Dim, level: Level, extra: Mapping[str, Array] | None = None) -> Array:
        """A size expression at every point of a level, with as many axes as the level has."""
        found = over_grid(d, {**self.sizes, **level.index, **(extra or {})})
        return found.reshape((1,) * (len(level.axes) - found.ndim) + found.shape)

    def operation(self, op: Operation, level: Level) -> None:
        run = _RUN.get(op.name if op.record.kind is Kind.TILE else op.record.kind)
        if run is None:
            raise TraceError(f"the interpreter does not run `{op.name}` in a kernel", code="TSR0408")
        with np.errstate(all="ignore"):
            results = run(self, op, level)
        for r, (x, axes) in zip(op.results, results, strict=op.record is not LOCAL):
            a = settle(x, r.type.dtype)
            if not self.exact and r.type.dtype.is_float:
                a = round_to(a, r.type.dtype)
            self.held[r] = Held(a.reshape((1,) * (len(axes) - a.ndim) + a.shape), axes)

    def read(self, x: Operand, level: Level, common: Any) -> Array:
        if isinstance(x, Literal):
            value = x.value.evaluate(self.sizes, signed=True) if isinstance(x.value, Dim) else x.value
            return constant(value, common)
        if x in self.scalars:
            return self.scalars[x]
        return self.held[x].aligned(level.axes)

    def map(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        types = [_as_tensor(x.type) for x in op.operands]
        common = result_dtype(types)
        space = NumpyNamespace(types[0].dtype if op.record.define is None else None, self.exact)
        return [
            (
                apply(op.record, space, [self.read(x, level, common) for x in op.operands], op.attrs),
                level.axes,
            )
        ]

    def reduce(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        """Fold over the axes of a sweep, or scan along them; points that do not exist add nothing. The sweep is one
        block, so that no factor has anything to multiply.
        """
        assert op.record.reduction is not None
        kind = op.operands[0].type
        position = op.attrs["position"]
        assert isinstance(position, Dim)
        over = _names(op.attrs["over"])
        kept = tuple(a for a in level.axes if a not in over)
        last = [n for n, a in enumerate(level.axes) if a in over]

        def rows(a: Array) -> Array:
            full = np.moveaxis(np.broadcast_to(a, level.shape), last, range(len(kept), len(level.axes)))
            lead = full.shape[: len(kept)]
            return full.reshape(*lead, int(np.prod(full.shape[len(kept) :], dtype=np.int64)))

        x = rows(self.read(op.operands[0], level, kind.dtype))
        valid = None if level.mask is None else rows(level.mask)
        if op.record.kind is Kind.SCAN:
            found = prefixes(op.record.reduction, kind.dtype, x, valid, rows(self.at(position, level)))
            return [(np.moveaxis(r, -1, last[0]), level.axes) for r in found]
        found = fold(op.record.reduction, kind.dtype, x, valid, rows(self.at(position, level)))
        self.folds.update(dict.fromkeys(op.results, op))
        return [(r, kept) for r in found]

    def mma(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        over = _names(op.attrs["over"])
        a, b = (self.read(x, level, x.type.dtype) for x in op.operands[:2])
        products = np.broadcast_to(a * b, level.shape)
        if level.mask is not None:
            products = np.where(level.mask, products, 0)
        self.folds[op.result] = op
        at = tuple(n for n, axis in enumerate(level.axes) if axis in over)
        return [(products.sum(axis=at), tuple(a for a in level.axes if a not in over))]

    def accumulate(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        """The points that are added up are one point here."""
        a, b = (self.read(x, level, x.type.dtype) for x in op.operands[1:])
        at = level.axes.index(_names(op.attrs["over"])[0])
        if not level.shape[at]:
            return []
        total = np.where(level.active(None), np.broadcast_to(a * b, level.shape), 0).sum(axis=at, keepdims=True)
        index = {n: x.take([0], at) for n, x in level.index.items()}
        mask = np.asarray(level.active(None).any(axis=at, keepdims=True))
        one = Level(level.axes, index, total.shape, mask, level.outer, level.sweep)
        points, active = self.offsets(op, one, ())
        memory = self.memory(op.operands[0])
        memory.store(op, points, memory.load(op, points) + total[active])
        return []

    def running(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        """The sweep is one block: before it nothing is folded, after it everything."""
        x = op.operands[0]
        assert isinstance(x, Value)
        if not op.attrs["before"]:
            return [(self.read(x, level, None), level.axes)]
        made = self.folds[x].record.reduction
        start = (0,) if made is None else made.init(self.folds[x].operands[0].type.dtype)
        state = () if made is None else made.finish(NumpyNamespace(), tuple(np.asarray(s) for s in start))
        return [(state[self.folds[x].results.index(x)] if state else np.asarray(0), level.axes)]

    def gate(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        """What may be left out adds nothing, so that nothing needs to be."""
        return []

    def memory(self, x: Operand) -> Memory:
        assert isinstance(x, Value)
        return self.local[x] if x in self.local else self.buffers[x]

    def reserve(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        """Local memory: a part for each iteration."""
        kind = op.result.type
        assert isinstance(kind, BufferType)
        count = int(np.prod([*level.shape, *(d.evaluate(self.sizes) for d in kind.dims)], dtype=np.int64))
        check_shape((count,), kind.dtype)
        self.local[op.result] = Memory.fresh(op.result.name, kind, count, self.exact)
        return []

    def offsets(self, op: Operation, level: Level, lookups: Sequence[Operand]) -> tuple[Points, Array]:
        """The flat element offset at every active point, and which points are active."""
        x = op.operands[0]
        buffer = self.memory(x)
        extra = {f"_l{n}": self.read(x, level, None) for n, x in enumerate(lookups)}
        guard: Array | None = None
        for row in _tuple(op.attrs.get("guard")):
            e, lo, hi = (self.at(d, level, extra) for d in _dims(row))
            guard = (e >= lo) & (e < hi) if guard is None else guard & (e >= lo) & (e < hi)
        index = [self.at(e, level, extra) for e in _dims(op.attrs["index"])]
        dims = [d.evaluate(self.sizes) for d in buffer.type.dims]
        active = level.active(guard)
        offset: Array = np.asarray(0, np.int64)
        if len(index) == 1:
            offset = index[0]
        else:
            for at, n in zip(index, dims, strict=True):
                outside = np.broadcast_to((at < 0) | (at >= n), level.shape) & active
                offset = np.where(outside, -1, offset * n + at)
        iterations = np.arange(int(np.prod(level.shape[: level.outer], dtype=np.int64)), dtype=np.int64)
        iterations = iterations.reshape(level.shape[: level.outer] + (1,) * (len(level.shape) - level.outer))
        if x in self.local:  # each iteration has a part of its own
            count = int(np.prod(dims, dtype=np.int64))
            offset = np.where((offset < 0) | (offset >= count), -1, iterations * count + offset)
        steps = np.arange(int(np.prod(level.shape[level.outer :], dtype=np.int64)), dtype=np.int64)
        steps = steps.reshape((1,) * level.outer + level.shape[level.outer :])
        at, iteration, step = (np.broadcast_to(a, level.shape)[active] for a in (offset, iterations, steps))
        points = Points(at, iteration, step, level.sweep)
        return points, active

    def load(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        memory = self.memory(op.operands[0])
        points, active = self.offsets(op, level, op.operands[1:])
        out = np.zeros(level.shape, memory.data.dtype)
        out[active] = memory.load(op, points)
        return [(out, level.axes)]

    def store(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        memory = self.memory(op.operands[0])
        points, active = self.offsets(op, level, op.operands[2:])
        value = self.read(op.operands[1], level, memory.type.dtype)
        memory.store(op, points, np.broadcast_to(value, level.shape)[active])
        return []

    def position(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        of = op.attrs["of"]
        return [(self.at(of if isinstance(of, Dim) else Dim.const(int(of)), level), level.axes)]  # type: ignore[arg-type]

    def lookup(self, op: Operation, level: Level) -> list[tuple[Any, tuple[str, ...]]]:
        size = op.attrs["size"]
        n = size.evaluate(self.sizes) if isinstance(size, Dim) else int(size)  # type: ignore[arg-type]
        x = self.read(op.operands[0], level, op.operands[0].type.dtype)
        if level.mask is not None:
            x = np.where(level.mask, x, 0)
        return [(positions(np.asarray(x), n, op, bool(op.attrs.get("wraps"))), level.axes)]


_Run = Callable[[TileMachine, Operation, Level], list[tuple[Any, tuple[str, ...]]]]

#: What runs an operation: shared records by kind, the dialect's own by what they are.
_RUN: Mapping[str | Kind, _Run] = {
    Kind.MAP: TileMachine.map,
    Kind.REDUCE: TileMachine.reduce,
    "local": TileMachine.reserve,
    Kind.SCAN: TileMachine.reduce,
    "load": TileMachine.load,
    "store": TileMachine.store,
    "position": TileMachine.position,
    "lookup": TileMachine.lookup,
    "mma": TileMachine.mma,
    "accumulate": TileMachine.accumulate,
    "running": TileMachine.running,
    "gate": TileMachine.gate,
}


def _as_tensor(t: Type) -> Type:
    return t if isinstance(t, ScalarType) else TensorType(t.dtype, ())


def _tuple(attr: Attr) -> tuple[Attr, ...]:
    return attr if isinstance(attr, tuple) else ()


def _names(attr: Attr) -> tuple[str, ...]:
    assert isinstance(attr, tuple)
    return tuple(str(a) for a in attr)


def _dims(attr: Attr) -> tuple[Dim, ...]:
    assert isinstance(attr, tuple)
    return tuple(a if isinstance(a, Dim) else Dim.const(int(a)) for a in attr)  # type: ignore[arg-type]
