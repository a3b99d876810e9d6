"""What the values of a stream are: a contraction gives a space, one axis of it is swept, folds leave the others."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim
from tessera.ir.graph import Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind


class Role(Enum):
    """Which loops a value lives in."""

    FREE = "free"  # no contraction behind it: read from memory, or made of positions
    FULL = "full"  # one element per point of the space, before the sweep is over
    KEPT = "kept"  # what a fold leaves, and what is made of that
    OUT = "out"  # a contraction over the swept axis: it has an axis of its own instead
    CROSS = "cross"  # a contraction over another axis of the space: all rows add to it


def folds_axis(op: Operation, axis: int) -> bool:
    """Does an operation fold its first operand, a value of the space, along one axis and nothing else?"""
    if op.record.kind is Kind.REDUCE:
        return op.attrs["dim"] == (axis,)
    if op.record.kind is not Kind.CONTRACT:
        return False
    left, _, result = letters(op)
    return [c for c in left if c not in result] == [left[axis]]


@dataclass
class Roles:
    """The roles of all values of a region whose contraction is swept along ``axis``."""

    axis: int
    of: dict[Value, Role] = field(default_factory=dict)
    maker: dict[Value, Operation] = field(default_factory=dict)
    space: tuple[Dim, ...] = ()

    @staticmethod
    def find(ops: Iterable[Operation], axis: int) -> Roles:
        """Assign roles in order. A value that fits none, such as a fold of a fold, counts as OUT."""
        roles = Roles(axis)
        for op in ops:
            role = roles.role(op)
            if role is Role.FULL and not roles.space:
                roles.space = op.result.type.dims
            for r in op.results:
                roles.of[r] = role
                roles.maker[r] = op
        return roles

    def __getitem__(self, x: Operand) -> Role:
        return self.of.get(x, Role.FREE) if isinstance(x, Value) else Role.FREE

    def role(self, op: Operation) -> Role:
        if self.folded(op):
            return Role.KEPT if op.record.kind is Kind.REDUCE else Role.OUT
        if self.crosses(op):
            return Role.CROSS
        read = {self[x] for x in op.operands}
        if op.record.kind in (Kind.REDUCE, Kind.CONTRACT) and read != {Role.FREE}:
            return Role.OUT
        if op.record.kind is Kind.CONTRACT:
            return Role.FULL
        if op.record.kind is Kind.INDEX and self[op.operands[0]] is Role.FULL:
            return Role.KEPT  # one point of each row, made once more
        for role in (Role.OUT, Role.FULL, Role.KEPT):
            if role in read:
                return role
        return Role.FREE

    def folded(self, op: Operation) -> bool:
        """Is ``op`` a fold of the sweep?"""
        if op.record.kind not in (Kind.REDUCE, Kind.CONTRACT):
            return False
        x = op.operands[0]
        alike = op.record.kind is Kind.REDUCE and self[x] is Role.FREE and x.type.dims == self.space
        return (self[x] is Role.FULL or alike) and folds_axis(op, self.axis)

    def crosses(self, op: Operation) -> bool:
        """Does ``op`` sum products of the space along one other axis than the swept one?"""
        if op.record.kind is not Kind.CONTRACT or self[op.operands[0]] is not Role.FULL:
            return False
        rank = op.operands[0].type.rank
        return any(folds_axis(op, axis) for axis in range(rank) if axis != self.axis)

    @property
    def rows(self) -> int | None:
        """The innermost axis of the space that is not swept; None where there is no other."""
        return max((a for a, d in enumerate(self.space) if a != self.axis and d is not ONE), default=None)

    def follows(self, v: Value) -> bool:
        """Does a kept value depend on a fold of the sweep?"""
        pending, seen = [v], set[Value]()
        while pending:
            u = pending.pop()
            op = self.maker.get(u)
            if op is None or u in seen:
                continue
            if self.folded(op):
                return True
            seen.add(u)
            pending.extend(op.inputs)
        return False

    def folds(self, ops: Iterable[Operation]) -> list[Operation]:
        return [op for op in ops if self.folded(op)]
