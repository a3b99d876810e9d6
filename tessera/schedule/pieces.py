"""Sums of products in pieces: where the results of a contraction are few tiles and its sums are long, a GPU would stand
idle in large part. The sums are cut, each piece goes to memory of its own, and they are added up in their order.

How many pieces there are depends on the sizes alone, so results are the same bits on every run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence, Set
from dataclasses import dataclass, replace

from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import contracted_dtype, letters
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min, floordiv, product
from tessera.ir.dtype import compute_dtype
from tessera.ir.graph import Attr, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.types import TensorType

#: The length of a piece of a sum is a multiple of this.
STEP = 64


@dataclass(frozen=True, slots=True)
class Work:
    """What sums of products take on a GPU, about, by the bytes of what is multiplied: ``tile`` rows and columns of
    results a program, ``cycles`` for one more product of each. A piece has at least ``least`` products.
    """

    bytes: int
    tile: int
    cycles: int
    least: int

    @property
    def worth(self) -> int:
        """The fewest products of a sum that is cut. Half of it is saved where it is cut once; that must be more than
        what the pieces cost.
        """
        extra = LAUNCH + self.tile**2 * 2 * _FLOAT // MEMORY
        return -(-2 * extra // self.cycles // self.least) * self.least


#: Cycles of a launch, bytes that a program moves in a cycle where all do, and those of a piece's results.
LAUNCH, MEMORY, _FLOAT = 4000, 40, 4
#: Tensor cores take narrow operands only.
WORK = (Work(2, 128, 8, 512), Work(4, 64, 32, 128), Work(8, 32, 32, 128))


@dataclass(frozen=True, slots=True)
class Pieces:
    """A sum in ``count`` pieces of ``size`` products each, the last ones shorter. With fewer than two pieces it stays
    whole.
    """

    count: Dim
    size: Dim


def pieces(op: Operation, programs: int) -> Pieces | None:
    """How a contraction is cut so that about so many programs have work; None where its sum has not one axis."""
    left, right, result = letters(op)
    sizes = dict(zip(left, op.operands[0].type.dims, strict=True))
    summed = [d for c, d in sizes.items() if c not in result and d is not ONE]
    width = max(x.type.dtype.bytes for x in op.operands)
    work = next((w for w in WORK if width <= w.bytes), WORK[-1])
    if len(summed) != 1 or (summed[0].is_const and summed[0].value < work.worth):
        return None
    space = dict(zip(result, op.result.type.dims, strict=True))
    rows, cols = (product(d for c, d in space.items() if c not in other) for other in (right, left))
    batch = product(d for c, d in space.items() if c in left and c in right)
    tiles = batch * ceildiv(rows, Dim.const(work.tile)) * ceildiv(cols, Dim.const(work.tile))
    long = dim_min(floordiv(summed[0], work.worth), 1) * floordiv(summed[0], work.least)
    count = dim_min(floordiv(Dim.const(programs), dim_max(1, tiles)), long)
    return Pieces(count, ceildiv(summed[0], dim_max(1, count) * STEP) * STEP)


def added_up(ops: Sequence[Operation], cut: Pieces) -> tuple[list[Operation], dict[Value, Value]]:
    """The operations with every contraction replaced by the sum of its pieces, which are given beside, by contraction.
    """
    out: list[Operation] = []
    parts: dict[Value, Value] = {}
    for op in ops:
        if op.record.kind is not Kind.CONTRACT:
            out.append(op)
            continue
        v, dtype = op.result, compute_dtype(contracted_dtype(op))
        parts[v] = Value(f"{v.name}_parts", TensorType(dtype, (cut.count, *v.type.dims)))
        attrs: dict[str, Attr] = {"dim": (0,), "keepdim": False}
        out.append(replace(op, record=OPS["sum"], operands=(parts[v],), attrs=attrs))
    return out, parts


def behind(ops: Sequence[Operation], wanted: Iterable[Value], given: Set[Value] = frozenset()) -> list[Operation]:
    """The operations that some values are made by, in order, where others are ``given``."""
    needed = set(wanted)
    out = []
    for op in reversed(ops):
        if not needed.isdisjoint(op.results) and given.isdisjoint(op.results):
            needed.update(op.inputs)
            out.append(op)
    return out[::-1]


def rows_of(op: Operation) -> tuple[int, ...]:
    """The axes of a contraction's result that only its first operand has; none where the last is one of them."""
    left, right, result = letters(op)
    rows = tuple(n for n, c in enumerate(result) if c in left and c not in right)
    return () if len(result) - 1 in rows or op.result.type.dims[-1] is ONE else rows
