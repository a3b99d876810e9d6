"""The analytic cost of a region: bytes and arithmetic as polynomials in the dims."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tessera.ir.dim import Dim
from tessera.ir.flops import nbytes, op_flops
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind
from tessera.ir.types import TensorType, Type
from tessera.schedule.plan import ZERO, Cost


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
