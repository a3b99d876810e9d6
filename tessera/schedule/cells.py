"""Values of one step of a recurrence: slices of what is walked along, local memory, folds of the step."""

from __future__ import annotations

from dataclasses import dataclass, field

from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import compute_dtype
from tessera.ir.graph import Attr, Literal, Operand, Operation, Value
from tessera.ir.loop import Loop
from tessera.ir.types import BufferType
from tessera.schedule.plan import ZERO
from tessera.schedule.pull import Index, Misplaced, Pull, Puller, dense_strides
from tessera.schedule.tilebuild import Namespace


@dataclass(frozen=True, slots=True)
class Slice:
    """A slice of ``whole`` in the step of a loop that is at ``now``."""

    whole: Operand
    loop: Loop
    now: Dim


@dataclass(frozen=True, slots=True)
class Cell:
    """Local memory for a value of the step: ``axes`` are those of the value that it has."""

    buffer: Value
    axes: tuple[int, ...]
    index: Index


@dataclass
class StepPuller(Puller):
    """As ``Puller``, inside one step: slices of what is walked along, carried values, folds of the step."""

    slices: dict[Value, Slice] = field(default_factory=dict)
    cells: dict[Value, Cell] = field(default_factory=dict)
    #: Where the results of folds that leave no axis of the step stand.
    places: dict[Value, Index] = field(default_factory=dict)
    #: The axes that local memory depends on: those of the nest, and inside it the one that is walked.
    scope: tuple[str, ...] = ()

    def value(self, v: Operand, index: Index, partly: bool) -> Pull:
        part = self.slices.get(v) if isinstance(v, Value) else None
        if part is None:
            return (yield from super().value(v, index, partly))
        loop, axis = part.loop, part.loop.dim
        if not loop.rows:
            return (yield (part.whole, (*index[:axis], loop.position(part.now, ZERO), *index[axis:]), partly))
        at = self.simple((loop.position(part.now, index[axis]),))[0]
        inside = (at, ZERO, loop.size)
        known = self.within(*inside) is True
        found = yield (part.whole, (*index[:axis], at, *index[axis + 1 :]), partly or not known)
        if known or self.stored(part.whole):
            return found
        # What is computed has values beyond the end as well.
        names, dtype = Namespace(self.build), part.whole.type.dtype
        zero = Literal(False if dtype.is_bool else 0.0 if dtype.is_float else 0)
        if not isinstance(found, Value):
            found = self.build.emit(OPS["cast"], (found,), dtype, {"dtype": dtype})
        return names.apply(OPS["where"], (self.condition(names, (inside,)), found, zero), {})

    def load(self, v: Value, index: Index, partly: bool) -> Operand:
        cell = self.cells.get(v)
        if cell is None:
            return super().load(v, index, partly)
        kind = cell.buffer.type
        assert isinstance(kind, BufferType)
        if any(e is not own for n, (e, own) in enumerate(zip(index, cell.index, strict=True)) if n not in cell.axes):
            raise Misplaced(v)
        if any(n in self.lookups for e in index for n in e.names()):  # a vector of points has one place in it
            raise Misplaced(v)
        offset = self.offset(cell, index)
        attrs: dict[str, Attr] = {"index": (offset,)}
        own = [index[n] for n in cell.axes]
        if partly and (guard := self.inside(tuple(own), kind.dims)):
            attrs["guard"] = guard
        axes = (*self.scope, *(n for n in self.ranges if n in offset.names() and n not in self.scope))
        raw = self.build.emit(OPS["load"], (cell.buffer,), kind.dtype, attrs, axes=axes, hint=v.name)
        return self.build.cast(raw, compute_dtype(v.type.dtype))

    def offset(self, cell: Cell, index: Index) -> Dim:
        """Where local memory has the element of a value at ``index``."""
        kind = cell.buffer.type
        assert isinstance(kind, BufferType)
        strides = zip(cell.axes, dense_strides(kind.dims), strict=True)
        return self.simple((sum((index[n] * stride for n, stride in strides), ZERO),))[0]

    def reduced(self, v: Value, index: Index) -> Operand:
        if v not in self.folded or index != self.places[v]:
            raise Misplaced(v)
        return self.folded[v]

    def contracted(self, op: Operation, v: Value, index: Index, partly: bool) -> Pull:
        return self.reduced(v, index)
        yield  # as a generator, like what it stands in for


@dataclass(frozen=True, slots=True)
class Target:
    """A value of ``rank`` that a step stores: a carry into ``cell``, or a result as the ``part`` of a buffer."""

    value: Operand
    rank: int
    cell: Cell | None = None
    part: Slice | None = None


__all__ = ["Cell", "Slice", "StepPuller", "Target"]
