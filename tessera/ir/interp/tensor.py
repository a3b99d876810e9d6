"""The tensor dialect executed in float64: every kind of operation by its record, none by its name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tessera.diag import BoundsError, Label, TraceError
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Block, Literal, Operand, Operation, Value
from tessera.ir.infer import result_dtype
from tessera.ir.interp.convert import Array, holder, round_to, settle
from tessera.ir.interp.evaluate import over_grid
from tessera.ir.interp.fold import fold
from tessera.ir.interp.namespace import NumpyNamespace
from tessera.ir.interp.sizes import concrete, shape_of
from tessera.ir.loop import outer_values, steps
from tessera.ir.record import Kind, Lookup, OpRecord, Piece
from tessera.ir.types import TensorType, Type


@dataclass
class TensorMachine:
    """Runs blocks of the tensor dialect. ``env`` holds the arrays of the values that are still read."""

    sizes: Mapping[str, int]
    exact: bool = True
    env: dict[Value, Array] = field(default_factory=dict)

    def run(self, block: Block) -> list[Array]:
        """The yielded values. A group of operations is run operation by operation."""
        return self.follow(block, _last_reads(block))

    def follow(self, block: Block, dead: Mapping[Operation, Sequence[Value]]) -> list[Array]:
        """As ``run``, with the values that may be dropped after each operation."""
        for op in steps(block):
            results = self.operation(op)
            for r, x in zip(op.results, results, strict=True):
                self.env[r] = self.stored(x, r.type)
            for v in dead.get(op, ()):
                self.env.pop(v, None)
        return [self.read(x, x.type.dtype) for x in block.yields]

    def stored(self, x: Any, t: Type) -> Array:
        """A result in its dtype's holder and full shape; rounded to the dtype where storage is modelled."""
        assert isinstance(t, TensorType)
        a = settle(x, t.dtype)
        if not self.exact and t.dtype.is_float:
            a = round_to(a, t.dtype)
        shape = shape_of(t, self.sizes)
        return a if a.shape == shape else np.broadcast_to(a, shape)

    def read(self, x: Operand, common: DType) -> Array:
        """An operand's array; a constant takes the dtype that the operation computes in."""
        if isinstance(x, Value):
            return self.env[x]
        value = x.value.evaluate(self.sizes, signed=True) if isinstance(x.value, Dim) else x.value
        return constant(value, common)

    def operation(self, op: Operation) -> Sequence[Any]:
        run = _RUN.get(op.record.kind)
        if run is None:
            raise TraceError(
                f"the interpreter does not run `{op.name}` of kind {op.record.kind.value}", code="TSR0408"
            )
        for r in op.results:
            if isinstance(r.type, TensorType):
                shape_of(r.type, self.sizes)
        with np.errstate(all="ignore"):
            return run(self, op)

    def namespace(self, op: Operation) -> NumpyNamespace:
        first = next((x.type.dtype for x in op.operands), None)
        return NumpyNamespace(first if op.record.define is None else None, self.exact)

    def map(self, op: Operation) -> Sequence[Any]:
        common = result_dtype([x.type for x in op.operands])
        return (apply(op.record, self.namespace(op), [self.read(x, common) for x in op.operands], op.attrs),)

    def reduce(self, op: Operation) -> Sequence[Any]:
        x = op.operands[0]
        axes, keepdim = op.attrs["dim"], op.attrs["keepdim"]
        assert isinstance(axes, tuple) and op.record.reduction is not None
        a = self.read(x, x.type.dtype)
        folded = [int(n) for n in axes]  # type: ignore[arg-type]
        kept = [n for n in range(a.ndim) if n not in folded]
        count = int(np.prod([a.shape[n] for n in folded], dtype=np.int64)) if a.ndim else 1
        rows = a.transpose(*kept, *folded) if a.ndim else a
        rows = rows.reshape(*(a.shape[n] for n in kept), count)
        found = fold(op.record.reduction, x.type.dtype, rows)
        if not keepdim:
            return found
        shape = tuple(1 if n in folded else a.shape[n] for n in range(a.ndim))
        return [np.asarray(r).reshape(shape) for r in found]

    def pieces(self, op: Operation) -> Sequence[Any]:
        assert op.record.pieces is not None
        t = op.result.type
        assert isinstance(t, TensorType)
        names = tuple(Dim.name(f"_i{n}") for n in range(t.rank))
        pieces = op.record.pieces(names, [x.type for x in op.operands], t, op.attrs)
        return (self.assemble(op, t, pieces),)

    def assemble(self, op: Operation, t: TensorType, pieces: Sequence[Piece]) -> Array:
        """Each position from the first piece whose box holds it."""
        shape = shape_of(t, self.sizes)
        env = self.grid(shape)
        if len(pieces) == 1 and not pieces[0].box:
            return np.broadcast_to(self.piece(op, t, pieces[0], env), shape)
        out = np.empty(shape, settle(0, t.dtype).dtype)
        left = np.ones(shape, bool)
        for piece in pieces:
            here = left.copy()
            for axis, lo, hi in piece.box:
                at = np.asarray(env[f"_i{axis}"])
                here &= (at >= over_grid(lo, env)) & (at < over_grid(hi, env))
            points = {
                n: (np.broadcast_to(a, shape)[here] if isinstance(a, np.ndarray) else a)
                for n, a in env.items()
            }
            out[here] = self.piece(op, t, piece, points)
            left &= ~here
        if left.any():
            raise BoundsError(
                f"`{op.name}` leaves {int(left.sum())} elements without a source", labels=_labels(op)
            )
        return out

    def grid(self, shape: tuple[int, ...]) -> dict[str, Any]:
        env: dict[str, Any] = dict(self.sizes)
        for n, size in enumerate(shape):
            env[f"_i{n}"] = np.arange(size, dtype=np.int64).reshape(
                [-1 if k == n else 1 for k in range(len(shape))]
            )
        return env

    def piece(self, op: Operation, t: TensorType, piece: Piece, env: Mapping[str, Any]) -> Array:
        if isinstance(piece.operand, Literal):
            return self.read(piece.operand, t.dtype)
        x = op.operands[piece.operand]
        source = settle(self.read(x, t.dtype), t.dtype)
        index: list[Array] = []
        for axis, e in enumerate(piece.index):
            if isinstance(e, Lookup):
                found = self.looked_up(op, e, source.shape[axis], env)
            else:
                found = checked(over_grid(e, env), source.shape[axis], op)
            index.append(found)
        return np.asarray(source[tuple(index)]) if index else source

    def looked_up(self, op: Operation, e: Lookup, size: int, env: Mapping[str, Any]) -> Array:
        table = op.operands[e.operand]
        values = self.read(table, table.type.dtype)
        at = tuple(checked(over_grid(d, env), values.shape[n], op) for n, d in enumerate(e.index))
        return positions(np.asarray(values[at]), size, op, e.wraps)

    def create(self, op: Operation) -> Sequence[Any]:
        assert op.record.define is not None
        t = op.result.type
        assert isinstance(t, TensorType)
        env = self.grid(shape_of(t, self.sizes))
        index = [env[f"_i{n}"] for n in range(t.rank)]
        scalars = [self.read(x, x.type.dtype) for x in op.operands]
        attrs = {k: self.attribute(v) for k, v in op.attrs.items()}
        return (op.record.define(self.namespace(op), index, t, *scalars, **attrs),)

    def attribute(self, value: Any) -> Any:
        return concrete(value, self.sizes)

    def reference(self, op: Operation) -> Sequence[Any]:
        assert op.record.reference is not None, f"{op.name} has no reference"
        arrays = [self.read(x, x.type.dtype) for x in op.operands]
        for a in op.record.accesses(op.attrs) if op.record.accesses else ():
            arrays[a.index] = positions(arrays[a.index], arrays[a.table].shape[a.axis], op, a.wraps)
        found = op.record.reference(*arrays, **{k: self.attribute(v) for k, v in op.attrs.items()})
        return found if isinstance(found, tuple | list) else (found,)

    def control(self, op: Operation) -> Sequence[Any]:
        """Each step in a machine of its own, which sees what the step reads from outside."""
        body, define = op.body, op.record.define
        assert body is not None and define is not None
        dead, outside = _last_reads(body), {v: self.env[v] for v in outer_values(body)}

        def step(given: Sequence[Array]) -> list[Array]:
            env = {**outside, **dict(zip(body.params, given, strict=True))}
            return TensorMachine(self.sizes, self.exact, env).follow(body, dead)

        found: Sequence[Any] = define(self, step, op, [self.read(x, x.type.dtype) for x in op.operands])
        return found

    def size(self, x: Array, axis: int) -> int:
        return x.shape[axis]

    def select(self, x: Array, axis: int, n: int) -> Array:
        return np.asarray(x[(slice(None),) * axis + (n,)])

    def rows(self, x: Array, axis: int, n: int, count: int, reverse: bool) -> Array:
        walked = np.flip(x, axis) if reverse else x
        some = walked[(slice(None),) * axis + (slice(n * count, (n + 1) * count),)]
        beyond = [(0, count - some.shape[axis] if a == axis else 0) for a in range(x.ndim)]
        return np.asarray(np.pad(some, beyond))

    def stack(self, rows: Sequence[Array], result: Value) -> Array:
        assert isinstance(result.type, TensorType)
        out = np.empty(shape_of(result.type, self.sizes), holder(result.type.dtype))
        for n, row in enumerate(rows):
            out[n] = row
        return out


_RUN: dict[Kind, Callable[[TensorMachine, Operation], Sequence[Any]]] = {
    Kind.MAP: TensorMachine.map,
    Kind.REDUCE: TensorMachine.reduce,
    Kind.VIEW: TensorMachine.pieces,
    Kind.INDEX: TensorMachine.pieces,
    Kind.CREATE: TensorMachine.create,
    Kind.RANDOM: TensorMachine.create,
    Kind.CONTRACT: TensorMachine.reference,
    Kind.SCAN: TensorMachine.reference,
    Kind.EXTERN: TensorMachine.reference,
    Kind.CONTROL: TensorMachine.control,
}


def apply(record: OpRecord, t: NumpyNamespace, xs: Sequence[Any], attrs: Mapping[str, Any]) -> Any:
    """A MAP record on arrays: its definition, or the row of its intrinsic."""
    if record.define is not None:
        return record.define(t, *xs, **attrs)
    return getattr(t, record.name)(*xs, **attrs)


def constant(value: bool | int | float, common: DType) -> Array:
    """A constant in the dtype that an operation computes in; a float stays a float among integers."""
    if isinstance(value, float) or common.is_float:
        return np.asarray(value, np.float64)
    if isinstance(value, bool) or common.is_bool:
        return np.asarray(value) if isinstance(value, bool) else np.asarray(value, np.int64)
    low, bits = int(common.min), common.bits
    return settle(np.asarray((value - low) % (1 << bits) + low), common)


def checked(index: Array, size: int, op: Operation, given: Array | None = None) -> Array:
    """The index itself when it lies inside; raises BoundsError (TSR0605), which tells the ``given`` one, otherwise."""
    bad = (index < 0) | (index >= size)
    if bad.any():
        told = index if given is None else given
        raise BoundsError(f"index {int(told[bad][0])} in a dimension of size {size}", labels=_labels(op))
    return index


def positions(index: Array, size: int, op: Operation, wraps: bool) -> Array:
    """An index read from memory; negative ones count from the end where it ``wraps``. Raises BoundsError (TSR0605)
    outside [0, size), or [-size, size).
    """
    index = index.astype(np.int64)
    return checked(np.where(index < 0, index + size, index) if wraps else index, size, op, index)


def _labels(op: Operation) -> list[Label]:
    return [Label(op.span, f"read by `{op.name}`", primary=True)] if op.span is not None else []


def _last_reads(block: Block) -> dict[Operation, list[Value]]:
    """The values that may be dropped after each operation; what the block yields stays."""
    last: dict[Value, Operation] = {}
    for op in steps(block):
        for v in (*op.inputs, *op.results):
            last[v] = op
    for x in block.yields:
        if isinstance(x, Value):
            last.pop(x, None)
    dead: dict[Operation, list[Value]] = {}
    for v, op in last.items():
        dead.setdefault(op, []).append(v)
    return dead
