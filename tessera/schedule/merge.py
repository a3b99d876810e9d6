"""Loop axes: neighbours that every access walks as one become one, and one axis is chosen for the vector lanes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from tessera.ir.dim import Dim
from tessera.ir.dim_range import coefficient
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Block, Operand, Operation, Value, dims_in
from tessera.ir.types import BufferType, TileType
from tessera.schedule.plan import ONE, ZERO

Axes = list[tuple[str, Dim]]


def every_op(ops: Sequence[Operation]) -> Iterator[Operation]:
    """The operations of a nest, those of its sweeps after their owner."""
    for op in ops:
        yield op
        if op.body is not None:
            yield from op.body.ops


def expressions(ops: Sequence[Operation]) -> Iterator[Dim]:
    """Every index expression in a nest, sweep bounds left out."""
    for op in every_op(ops):
        if op.body is None:
            yield from dims_in(op.attrs.values())


def walks_as_one(ops: Sequence[Operation], a: str, b: str, extent: Dim) -> bool:
    """Does every access step along ``a`` by ``extent`` steps of ``b``, and does nothing else look at either?"""
    for e in expressions(ops):
        names = e.names()
        if a not in names and b not in names:
            continue
        step_a, step_b = coefficient(e, a), coefficient(e, b)
        if step_a is None or step_b is None or step_a is not step_b * extent:
            return False
    return all(
        (a in v.type.axes) == (b in v.type.axes)
        for op in every_op(ops)
        for v in op.results
        if isinstance(v.type, TileType)
    )


def merge_axes(
    parallel: Axes, ops: tuple[Operation, ...], sweep: tuple[str, ...]
) -> tuple[Axes, tuple[Operation, ...], tuple[str, ...]]:
    """The parallel axes, the operations and the sweep axes of a nest after all possible joins."""
    at = len(parallel) - 1
    while at > 0:
        (a, size_a), (b, size_b) = parallel[at - 1], parallel[at]
        if walks_as_one(ops, a, b, size_b) and not _in_bounds(ops, a) and not _in_bounds(ops, b):
            ops = join(ops, a)
            parallel[at - 1 : at + 1] = [(b, size_a * size_b)]
        at -= 1
    changed = True
    while changed and len(sweep) > 1:
        changed = False
        for at in range(len(sweep) - 1, 0, -1):
            extent = _whole(ops, sweep[at])
            if (
                extent is not None
                and _whole(ops, sweep[at - 1]) is not None
                and walks_as_one(ops, sweep[at - 1], sweep[at], extent)
            ):
                ops, sweep = _join_sweep(ops, sweep, at, extent), (*sweep[: at - 1], *sweep[at:])
                changed = True
                break
    folds = any(o.record.kind in FOLDS for o in every_op(ops))
    while parallel and len(sweep) == 1 and not folds:
        a, size_a = parallel[-1]
        extent = _whole(ops, sweep[0])
        if extent is None or not walks_as_one(ops, a, sweep[0], extent) or len(ops) != 1:
            break
        ops = join(ops, a)
        ops = tuple(
            replace(op, attrs={**op.attrs, "hi": (size_a * extent,)}) if op.body is not None else op for op in ops
        )
        parallel.pop()
    return parallel, ops, sweep


def _in_bounds(ops: Sequence[Operation], axis: str) -> bool:
    bounds = (op.attrs[key] for op in ops if op.body is not None for key in ("lo", "hi"))
    return any(axis in e.names() for e in dims_in(bounds))


def _whole(ops: Sequence[Operation], axis: str) -> Dim | None:
    """The extent of a sweep axis that every sweep runs over whole, from 0; None otherwise."""
    found: Dim | None = None
    for op in ops:
        if op.body is None:
            continue
        axes, lo, hi = op.attrs["axes"], op.attrs["lo"], op.attrs["hi"]
        assert isinstance(axes, tuple) and isinstance(lo, tuple) and isinstance(hi, tuple)
        at = axes.index(axis)
        if lo[at] is not ZERO or (found is not None and hi[at] is not found):
            return None
        found = hi[at]  # type: ignore[assignment]
    return found


def _join_sweep(ops: tuple[Operation, ...], sweep: tuple[str, ...], at: int, extent: Dim) -> tuple[Operation, ...]:
    out: list[Operation] = []
    for op in join(ops, sweep[at - 1]):
        if op.body is not None:
            lo, hi = list(op.dims("lo")), list(op.dims("hi"))
            hi[at - 1 : at + 1] = [hi[at - 1] * extent]
            lo[at - 1 : at + 1] = [ZERO]
            op = replace(op, attrs={**op.attrs, "lo": tuple(lo), "hi": tuple(hi)})
        out.append(op)
    return tuple(out)


def join(ops: Sequence[Operation], gone: str) -> tuple[Operation, ...]:
    """Rewrite a nest without the axis ``gone``; its neighbour walks what both walked, see ``walks_as_one``."""
    values: dict[Value, Value] = {}

    def value(v: Operand) -> Operand:
        return values.get(v, v) if isinstance(v, Value) else v

    def attr(a: Attr) -> Attr:
        if isinstance(a, Dim):
            return a.substitute({gone: ZERO}) if gone in a.names() else a
        if isinstance(a, tuple):
            return tuple(attr(x) for x in a if x != gone)
        return a

    def one(op: Operation, body: Block | None) -> Operation:
        results = []
        for r in op.results:
            kind = r.type
            if isinstance(kind, TileType) and gone in kind.axes:
                values[r] = Value(r.name, TileType(kind.dtype, tuple(x for x in kind.axes if x != gone)))
            results.append(values.get(r, r))
        attrs: Mapping[str, Attr] = {k: attr(v) for k, v in op.attrs.items()}
        return replace(op, operands=tuple(map(value, op.operands)), results=tuple(results), attrs=attrs, body=body)

    out: list[Operation] = []
    for op in ops:
        body = None if op.body is None else Block(tuple(one(o, None) for o in op.body.ops))
        out.append(one(op, body))
    return tuple(out)


def vector_axis(parallel: Sequence[str], ops: Sequence[Operation]) -> str:
    """The innermost axis, parallel or swept, along which most accesses are contiguous; those in sweeps come first, as
    there are more of them.

    Where a sweep begins and ends must be the same for all points of a vector.
    """
    sweeps = [op for op in ops if op.body is not None]
    bounds = {n for op in sweeps for d in (*op.dims("lo"), *op.dims("hi")) for n in d.names()}
    candidates = [op.words("axes")[-1] for op in sweeps[-1:] if op.words("axes")]
    candidates += [n for n in parallel[-1:] if n not in bounds]
    if not candidates:
        return ""

    def contiguous(among: Iterable[Operation], axis: str) -> int:
        touching = (op for op in among if op.operands and isinstance(op.operands[0].type, BufferType))
        return sum(coefficient(op.dims("index")[0], axis) is ONE for op in touching)

    def score(axis: str) -> tuple[int, int]:
        inner = [op for s in sweeps if s.body is not None for op in s.body.ops]
        return contiguous(inner, axis), contiguous(ops, axis)

    return max(candidates, key=score)
