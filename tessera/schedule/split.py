"""Make reductions parallel that would otherwise leave too few independent results.

A sum over everything, or over leading axes, becomes partial sums over fixed pieces and a sum of those. The pieces
depend on the sizes alone, never on the number of threads, so results are the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from tessera.ir.dim import Dim, ceildiv, product
from tessera.ir.dtype import compute_dtype, f32, f64
from tessera.ir.folds import FOLDS, folded_axes
from tessera.ir.graph import Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.types import TensorType

#: Elements of a one-dimensional reduction, and rows of a column reduction, that one iteration folds.
FLAT_CHUNK, ROW_CHUNK = 16384, 64


def split_reductions(
    ops: Iterable[Operation], across: frozenset[Operation] = frozenset(), rows: int = ROW_CHUNK
) -> list[Operation]:
    """The operations with such reductions replaced; those in ``across`` in any case, by parts of so many ``rows``.

    What is already reduced is small, and so is what has only some axes of a larger reduction: they stay whole. So does
    a reduction along the axis of a scan, whose loop is there anyway.
    """
    ops = tuple(ops)
    folded = [op.operands[0].type.dims for op in ops if op.record.kind is Kind.REDUCE]
    scans = (op for op in ops if op.record.kind is Kind.SCAN and op.operands[0].type.rank > 1)
    scanned = {(op.operands[0].type.dims, folded_axes(op)) for op in scans}
    out: list[Operation] = []
    reduced: set[Value] = set()
    for op in ops:
        depends = any(v in reduced for v in op.inputs)
        if depends or op.record.kind in FOLDS:
            reduced.update(op.results)
        if op in across:
            out.extend(_split(op, rows))
            continue
        whole = depends or not _wants_split(op) or _is_minor(op, folded)
        whole = whole or (op.operands[0].type.dims, folded_axes(op)) in scanned
        out.extend((op,) if whole else _split(op))
    return out


def _is_minor(op: Operation, folded: Iterable[tuple[Dim, ...]]) -> bool:
    """Are the axes of a reduction some of those of another?"""
    mine = op.operands[0].type.dims
    return any(len(dims) > len(mine) and all(d in dims for d in mine) for dims in folded)


def _wants_split(op: Operation) -> bool:
    reduction = op.record.reduction
    if op.record.kind is not Kind.REDUCE or reduction is None or len(op.results) != 1:
        return False
    if len(reduction.state(op.result.type.dtype)) != 1 or not reduction.regroups:
        return False
    rank, dims = op.operands[0].type.rank, op.attrs["dim"]
    assert isinstance(dims, tuple)
    extent = product(op.operands[0].type.dims[int(a)] for a in dims)  # type: ignore[arg-type]
    return (
        rank > 0
        and (len(dims) == rank or rank - 1 not in dims)
        and not (extent.is_const and extent.value <= FLAT_CHUNK)
    )


def _split(op: Operation, rows: int = ROW_CHUNK) -> tuple[Operation, ...]:
    kind = op.operands[0].type
    dims = tuple(int(a) for a in op.attrs["dim"])  # type: ignore[union-attr, arg-type]
    name = f"{op.result.name}_parts"
    dtype = op.result.type.dtype
    assert op.record.reduction is not None
    if op.record.reduction.additive and compute_dtype(dtype) is f32:
        dtype = f64  # rounding the parts of a sum would show where they cancel
    kept = [d for a, d in enumerate(kind.dims) if a not in dims]
    if len(dims) == kind.rank and kind.rank > 1:
        parts = Value(name, TensorType(dtype, kind.dims[:-1]))
        first = replace(op, results=(parts,), attrs={**op.attrs, "dim": (kind.rank - 1,), "keepdim": False})
        folded: tuple[int, ...] = tuple(range(kind.rank - 1))
    else:
        chunk = FLAT_CHUNK if len(dims) == kind.rank else rows
        pieces: Dim = ceildiv(product(kind.dims[a] for a in dims), Dim.const(chunk))
        parts = Value(name, TensorType(dtype, (pieces, *kept)))
        first = replace(op, results=(parts,), attrs={**op.attrs, "dim": dims, "keepdim": False, "chunk": chunk})
        folded = (0,)
    second = replace(op, operands=(parts,), attrs={**op.attrs, "dim": folded, "keepdim": False})
    if second.result.type.dims != tuple(d for a, d in enumerate(parts.type.dims) if a not in folded):
        assert all(d is ONE for d in second.result.type.dims if d not in kept)
    return first, second
