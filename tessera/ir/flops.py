"""How much arithmetic operations are and how much memory tensors take, as polynomials in the dims."""

from __future__ import annotations

from tessera.ir.dialects.contract import extents, letters
from tessera.ir.dim import Dim, product
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Operation
from tessera.ir.loop import Loop, steps
from tessera.ir.record import Kind
from tessera.ir.types import Type

_ZERO = Dim.const(0)


def nbytes(t: Type) -> Dim:
    """Bytes of a tensor or buffer in memory."""
    return Dim.const(t.dtype.bytes) * product(t.dims)


def op_flops(op: Operation) -> Dim:
    """Arithmetic operations: per element of the result, or of the operand for a reduction, or per product of a sum of
    products; those of every step of a loop; none for moving data, and none are known of other library calls.
    """
    if op.record.kind is Kind.CONTROL and op.body is not None:
        return Loop.of(op).count * sum((op_flops(inner) for inner in steps(op.body)), _ZERO)
    dims: tuple[Dim, ...]
    if op.record.kind in FOLDS:
        dims = op.operands[0].type.dims
    elif op.record.kind in (Kind.MAP, Kind.RANDOM) and op.results:
        dims = op.results[0].type.dims
    elif op.record.kind is Kind.CONTRACT:
        dims = (*op.results[0].type.dims, *summed(op))
    else:
        return _ZERO
    return Dim.const(op.record.flops) * product(dims)


def summed(op: Operation) -> tuple[Dim, ...]:
    """The sizes that a sum of products goes over: those of the letters that its result lacks."""
    result = letters(op)[-1]
    return tuple(d for c, d in extents(op).items() if c not in result)
