"""Sums over the rows of a stream: one iteration takes many rows, one after the other, and adds to memory of its own.

How many iterations share the rows depends on the sizes alone, so results are the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import contracted_dtype
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min, floordiv, product
from tessera.ir.dtype import compute_dtype
from tessera.ir.graph import Attr, Literal, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.types import TensorType
from tessera.schedule.pieces import Pieces

#: Iterations for which there is work, about; the fewest rows of one, and of what their number is a multiple.
PROGRAMS, LEAST, STEP = 16, 256, 32


def row_pieces(space: Sequence[Dim], swept: int) -> Pieces:
    """How the innermost rows of a space are shared out: more pieces where the others are few."""
    *batch, rows = (d for a, d in enumerate(space) if a != swept and d is not ONE)
    few = dim_min(ceildiv(Dim.const(PROGRAMS), dim_max(1, product(batch))), floordiv(rows, LEAST))
    count = dim_max(1, few)
    return Pieces(count, ceildiv(rows, count * STEP) * STEP)


def parts(op: Operation, cut: Pieces) -> Value:
    """What each iteration adds to, for a sum over rows."""
    kind = TensorType(compute_dtype(contracted_dtype(op)), (cut.count, *op.result.type.dims))
    return Value(f"{op.result.name}_parts", kind)


def cleared(op: Operation, part: Value) -> Operation:
    """The operation that gives the memory its zeros."""
    attrs: dict[str, Attr] = {"shape": part.type.dims, "dtype": part.type.dtype}
    return Operation(OPS["full"], (Literal(0.0),), (part,), attrs, op.span, op.origin)


def collected(op: Operation, part: Value) -> Operation:
    """The operation that adds up what the iterations leave."""
    attrs: dict[str, Attr] = {"dim": (0,), "keepdim": False}
    return Operation(OPS["sum"], (part,), (op.result,), attrs, op.span, op.origin)
