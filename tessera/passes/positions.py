"""Functions of positions alone, such as the mask of a causal attention: each reader has its own.

Such a value is cheaper to compute than to read. Shared by the attentions of two layers it would belong to neither, and
be stored, as large as their scores.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from tessera.ir.build import numbered
from tessera.ir.graph import Function, Operand, Operation, Value
from tessera.ir.record import Kind
from tessera.passes.grouping import CHEAP_FLOPS, space

_KINDS = frozenset({Kind.MAP, Kind.VIEW, Kind.CREATE})


def own_positions(f: Function) -> Function:
    """The function with a copy of such values for every reader, where they have two dims or more and little work is
    behind them. What becomes of the first reader's is as it was.
    """
    work = _Positions(f)
    ops = tuple(new for op in f.ops for new in work.visit(op))
    return f.with_ops(ops) if work.changed else f


@dataclass
class _Positions:
    f: Function
    #: What is made of positions alone, and the arithmetic of an element.
    behind: dict[Value, tuple[tuple[Operation, ...], int]] = field(default_factory=dict)
    served: set[Value] = field(default_factory=set)
    changed: bool = False

    def __post_init__(self) -> None:
        self.names = {r.name for op in self.f.ops for r in op.results} | {p.name for p in self.f.params}

    def visit(self, op: Operation) -> Iterator[Operation]:
        if op.record.kind in _KINDS and len(op.results) == 1 and all(v in self.behind for v in op.inputs):
            cone = dict.fromkeys(o for v in op.inputs for o in self.behind[v][0])
            self.behind[op.result] = ((*cone, op), sum(o.record.flops for o in (*cone, op)))
            yield op
            return
        copies: dict[Value, Value] = {}
        for v in dict.fromkeys(op.inputs):
            if self.is_shared(v):
                yield from self.copied(v, copies)
        operands: tuple[Operand, ...] = tuple(copies.get(x, x) if isinstance(x, Value) else x for x in op.operands)
        yield replace(op, operands=operands) if copies else op

    def is_shared(self, v: Value) -> bool:
        """Has a value been read before, which would be stored for that?"""
        if v not in self.behind or len(space(v.type)) < 2 or self.behind[v][1] > CHEAP_FLOPS:
            return False
        if v in self.f.outputs or v not in self.served:
            self.served.add(v)
            return False
        return True

    def copied(self, v: Value, copies: dict[Value, Value]) -> Iterator[Operation]:
        self.changed = True
        for op in self.behind[v][0]:
            if op.result not in copies:
                copies[op.result] = Value(numbered(f"{op.result.name}_p", self.names), op.result.type)
                operands = tuple(copies.get(x, x) if isinstance(x, Value) else x for x in op.operands)
                yield replace(op, operands=operands, results=(copies[op.result],))
