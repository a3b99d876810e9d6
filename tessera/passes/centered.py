"""Sums of a derivative that are 0: distances from a mean, times what is the same along its axes, add up to nothing.

The derivative of a variance has such a sum, by which a change of the mean would change the squares. It would cost a
sweep over each row, and give no more than the rounding errors of the mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim, product
from tessera.ir.folds import folded_axes
from tessera.ir.graph import Function, Literal, Note, Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.origin import GRAD
from tessera.ir.record import Kind, Law

#: Factors of a product that are looked at.
MOST = 16
#: What has no law and is 0 where its operand is.
_NEG, _EXPAND, _RESHAPE = (OPS[name] for name in ("neg", "expand", "reshape"))


@dataclass(frozen=True, slots=True)
class CenteredSums:
    """Leave out sums of distances from a mean; those of the function itself stay as they were written."""

    name: str = "centered"

    def run(self, f: Function) -> Function:
        work = _Centered()
        ops = tuple(new for op in f.ops if (new := work.visit(op)) is not None)
        if not work.replaced:
            return f
        outputs = tuple(work.now(x) for x in f.outputs)
        return f.with_ops(ops, outputs).with_note(Note(self.name, 0.0, f"left out {len(work.replaced)}"))


@dataclass
class _Centered:
    maker: dict[Value, Operation] = field(default_factory=dict)
    #: What is known to be 0.
    nothing: set[Operand] = field(default_factory=set)
    replaced: dict[Operand, Operand] = field(default_factory=dict)

    def now(self, x: Operand) -> Operand:
        return self.replaced.get(x, x) if isinstance(x, Value) else x

    def made(self, x: Operand) -> Operation | None:
        return self.maker.get(x) if isinstance(x, Value) else None

    def visit(self, op: Operation) -> Operation | None:
        """The operation with what its operands have become; None where one of them stands for its result."""
        new = op.with_operands(tuple(self.now(x) for x in op.operands))
        self.maker.update(dict.fromkeys(new.results, new))
        if not new.origin.endswith(GRAD):
            return new
        law = new.record.law
        if law in (Law.SUM, Law.DIFFERENCE):
            return self.added(new)
        passes = law in (Law.QUOTIENT, Law.SAME) or new.record in (_NEG, _EXPAND, _RESHAPE) or _adds_up(new)
        zero = passes and new.operands[0] in self.nothing
        zero = zero or (law is Law.PRODUCT and not self.nothing.isdisjoint(new.inputs))
        if zero or (_adds_up(new) and self.vanishes(new.operands[0], folded_axes(new))):
            self.nothing.update(new.results)
        return new

    def added(self, op: Operation) -> Operation | None:
        """A sum of two, of which one may be 0."""
        first, second = op.operands
        if second in self.nothing and isinstance(first, Value) and first.type == op.result.type:
            self.replaced[op.result] = first
        elif first in self.nothing and op.record.law is Law.SUM and second.type == op.result.type:
            self.replaced[op.result] = second
        else:
            return op
        return None

    def vanishes(self, x: Operand, axes: Sequence[int]) -> bool:
        """Is a value, summed over some axes, a distance from the mean over them times what is the same along them?"""
        rank, centered, seen = x.type.rank if isinstance(x, Value) else 0, 0, 0
        pending = [x]
        while pending and seen < MOST:
            y, seen = pending.pop(), seen + 1
            if same_along(y, axes, rank):
                continue
            op = self.made(y)
            if op is None:
                return False
            if op.results[0].type.rank == rank and self.is_distance(op, axes):
                centered += 1
            elif op.record.law is Law.PRODUCT:
                pending.extend(op.operands)
            elif op.record is _NEG or (op.record.law is Law.QUOTIENT and same_along(op.operands[1], axes, rank)):
                pending.append(op.operands[0])
            elif op.record is not _EXPAND or not same_along(op.operands[0], axes, rank):
                return False
        return not pending and centered == 1

    def is_distance(self, op: Operation, axes: Sequence[int]) -> bool:
        """Is this ``x`` less the mean of ``x`` over the axes?"""
        if op.record.law is not Law.DIFFERENCE:
            return False
        x, mean = op.operands
        made = self.made(mean)
        if made is not None and made.record is _EXPAND:
            made = self.made(made.operands[0])
        if made is None or made.record.law is not Law.QUOTIENT or not isinstance(x, Value):
            return False
        total, count = made.operands
        summed = self.made(total)
        if summed is None or not _adds_up(summed) or summed.operands[0] is not x:
            return False
        size = product(x.type.dims[a] for a in axes)
        return (
            set(folded_axes(summed)) == set(axes)
            and bool(summed.attrs["keepdim"])
            and isinstance(count, Literal)
            and (count.value == size if isinstance(count.value, Dim) else Dim.const(int(count.value)) == size)
        )


def _adds_up(op: Operation) -> bool:
    reduction = op.record.reduction
    return op.record.kind is Kind.REDUCE and reduction is not None and reduction.adds_up


def same_along(x: Operand, axes: Sequence[int], rank: int) -> bool:
    """Is a factor of a value of some rank the same at all points along these axes?"""
    if not isinstance(x, Value):
        return True
    dims = x.type.dims
    return all(a + len(dims) < rank or dims[a + len(dims) - rank] is ONE for a in axes)
