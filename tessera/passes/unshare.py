"""Work that is cheaper done twice than shared: what is made of a product and summed along different axes.

A kernel around a contraction sweeps one axis of its result. Where some sums go along one axis and some along another,
as in the derivative of an attention, one kernel would have to store the whole result for the other. Here each gets its
own copy of the elementwise work and of the products behind it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.build import numbered
from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim
from tessera.ir.graph import Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.types import TensorType

Dims = tuple[Dim, ...]


def unshared(ops: Sequence[Operation], repeatable: Callable[[Operation], bool]) -> tuple[Operation, ...]:
    """The operations with a copy of what leads to sums along a second, third, … axis of the result of a contraction
    that ``repeatable`` allows to be carried out again.
    """
    spaces = dict.fromkeys(
        op.result.type.dims for op in ops if op.record.kind is Kind.CONTRACT and repeatable(op)
    )
    names = {r.name for op in ops for r in op.results} | {v.name for op in ops for v in op.inputs}
    for space in spaces:
        ops = _Space(space, ops, repeatable, names).run()
    return tuple(ops)


@dataclass
class _Space:
    space: Dims
    ops: Sequence[Operation]
    repeatable: Callable[[Operation], bool]
    names: set[str]
    full: dict[Value, Operation] = field(default_factory=dict)

    def run(self) -> Sequence[Operation]:
        self.maker = {r: op for op in self.ops for r in op.results}
        for op in self.ops:
            if self.is_full(op):
                self.full[op.result] = op
        sums: dict[int, list[Operation]] = {}
        for op in self.ops:
            axis = self.summed(op)
            if axis is not None:
                sums.setdefault(axis, []).append(op)
        if len(sums) < 2:
            return self.ops
        place = {op: n for n, op in enumerate(self.ops)}
        behind: dict[Operation, list[Operation]] = {}
        swapped: dict[Operation, Operation] = {}
        for axis in sorted(sums)[:-1]:
            copies = self.copied(sums[axis], place)
            for old, copy in copies:
                behind.setdefault(old, []).append(copy)
            names = {old.result: copy.result for old, copy in copies}
            for op in sums[axis]:
                operands = tuple(names.get(x, x) if isinstance(x, Value) else x for x in op.operands)
                swapped[op] = op.with_operands(operands)
        return [new for op in self.ops for new in (swapped.get(op, op), *behind.get(op, ()))]

    def is_full(self, op: Operation) -> bool:
        """Does an operation give one element for each point of the space, out of products over it?"""
        if len(op.results) != 1 or op.result.type.dims != self.space:
            return False
        if op.record.kind is Kind.CONTRACT:
            return self.repeatable(op) and not any(v in self.full for v in op.inputs)
        return op.record.kind is Kind.MAP and any(v in self.full for v in op.inputs)

    def is_wide(self, op: Operation) -> bool:
        """Is a value made from less, by elementwise work, for more than one row of the space?"""
        if op.record.kind not in (Kind.MAP, Kind.CREATE, Kind.RANDOM, Kind.VIEW) or len(op.results) != 1:
            return False
        return sum(d is not ONE for d in op.result.type.dims) > 1 and set(op.result.type.dims) <= {*self.space, ONE}

    def summed(self, op: Operation) -> int | None:
        """The axis of the space that an operation sums its first operand along."""
        first = op.operands[0] if op.operands else None
        if not isinstance(first, Value) or first not in self.full or op.record.kind not in (Kind.REDUCE, Kind.CONTRACT):
            return None
        if op.record.kind is Kind.REDUCE:
            axes = op.axes()
        else:
            left, _, result = letters(op)
            axes = tuple(n for n, c in enumerate(left) if c not in result)
        return axes[0] if len(axes) == 1 else None

    def copied(self, sums: Sequence[Operation], place: dict[Operation, int]) -> list[tuple[Operation, Operation]]:
        """What leads to some sums, in order, each with its copy; masks and the like, which are as large, too."""
        cone: set[Operation] = set()
        pending = [v for op in sums for v in op.inputs if v in self.full]
        while pending:
            v = pending.pop()
            op = self.full.get(v, self.maker.get(v))
            if op is not None and op not in cone and (v in self.full or self.is_wide(op)):
                cone.add(op)
                pending.extend(op.inputs)
        copies: dict[Value, Value] = {}
        found: list[tuple[Operation, Operation]] = []
        for op in sorted(cone, key=place.__getitem__):
            kind = op.result.type
            assert isinstance(kind, TensorType)
            copies[op.result] = Value(numbered(f"{op.result.name}_u", self.names), kind)
            operands = tuple(copies.get(x, x) if isinstance(x, Value) else x for x in op.operands)
            found.append((op, replace(op, operands=operands, results=(copies[op.result],))))
        return found
