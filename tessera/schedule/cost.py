"""The analytic cost of a region: bytes and arithmetic as polynomials in the dims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tessera.ir.dialects.contract import equation_parts
from tessera.ir.dim import Dim, product
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Operation, Value
from tessera.ir.loop import Loop, steps
from tessera.ir.record import Kind
from tessera.ir.types import TensorType, Type
from tessera.schedule.plan import ZERO, Cost


def nbytes(t: Type) -> Dim:
    """Bytes of a tensor or buffer in memory."""
    total = Dim.const(t.dtype.bytes)
    for d in t.dims:
        total = total * d
    return total


def region_cost(
    inputs: Sequence[Value], outputs: Sequence[Value], temps: Sequence[Type], ops: Iterable[Operation]
) -> Cost:
    """A region reads each input once, writes each output once, and writes and reads each temporary once.

    Rows stay in cache between the sweeps of a nest, so a sweep that reads them again moves nothing. ``least`` is
    inputs plus outputs.
    """
    ops = tuple(ops)
    read = sum((_touched(v, ops) for v in inputs), ZERO)
    written = sum((nbytes(v.type) for v in outputs), ZERO)
    extra = sum((nbytes(t) for t in temps), ZERO)
    flops = sum((op_flops(op) for op in ops), ZERO)
    return Cost(read + extra, written + extra, read + written, flops)


def _touched(v: Value, ops: Sequence[Operation]) -> Dim:
    """Bytes read of an input: all of it, or as many elements as a lookup produces when nothing else reads it."""
    readers = [op for op in ops if v in op.operands]
    sizes: list[Dim] = []
    for op in readers:
        if op.record.kind is not Kind.INDEX or op.operands[0] is not v:
            return nbytes(v.type)
        sizes.append(nbytes(TensorType(v.type.dtype, op.result.type.dims)))
    return sum(sizes, ZERO) if sizes else nbytes(v.type)


def op_flops(op: Operation) -> Dim:
    """Arithmetic operations: per element of the result, or of the operand for a reduction, or per product of a sum of
    products; those of every step of a loop; none for moving data, and none are known of other library calls.
    """
    if op.record.kind is Kind.CONTROL and op.body is not None:
        return Loop.of(op).size * sum((op_flops(inner) for inner in steps(op.body)), ZERO)
    dims: tuple[Dim, ...]
    if op.record.kind in FOLDS:
        dims = op.operands[0].type.dims
    elif op.record.kind in (Kind.MAP, Kind.RANDOM) and op.results:
        dims = op.results[0].type.dims
    elif op.record.kind is Kind.CONTRACT:
        dims = (*op.results[0].type.dims, *_summed(op))
    else:
        return ZERO
    return Dim.const(op.record.flops) * product(dims)


def _summed(op: Operation) -> tuple[Dim, ...]:
    """The sizes that a sum of products goes over: those of an equation's letters that its result lacks, or the last."""
    left = op.operands[0].type.dims
    equation = op.attrs.get("equation")
    if equation is None:
        return left[-1:]
    operands, result = equation_parts(str(equation))
    letters: dict[str, Dim] = {}
    for part, x in zip(operands, op.operands, strict=True):
        letters.update(zip(part, x.type.dims, strict=True))
    return tuple(d for c, d in letters.items() if c not in result)
