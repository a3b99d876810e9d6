"""Rewriting a block and the steps of control operations in it, by the same rules."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tessera.ir.graph import Block, Operand, Operation, Value
from tessera.ir.loop import with_body
from tessera.ir.record import Kind

#: What becomes of one operation, whose operands are up to date: another one, or None when its results were replaced.
Visit = Callable[[Operation], Operation | None]


def resolve(replaced: Mapping[Value, Operand], x: Operand) -> Operand:
    """What stands for an operand now."""
    return replaced.get(x, x) if isinstance(x, Value) else x


def rewritten(block: Block, replaced: Mapping[Value, Operand], begin: Callable[[], Visit]) -> Block:
    """The block after each operation went through a visit, with what was replaced put in everywhere.

    ``begin`` gives the visit of one block: what it knows of a block ends with the block. Visits add to ``replaced``.
    An operation with a step is visited after the step.
    """
    visit = begin()
    kept: list[Operation] = []
    for op in block.ops:
        new = op.with_operands(tuple(resolve(replaced, x) for x in op.operands))
        if new.body is not None and new.record.kind is Kind.CONTROL:
            body = rewritten(new.body, replaced, begin)
            if body is not new.body or new is not op:
                new = with_body(new, body)
        made = visit(new)
        if made is not None:
            kept.append(made)
    yields = tuple(resolve(replaced, x) for x in block.yields)
    if tuple(kept) == block.ops and yields == block.yields:
        return block
    return Block(tuple(kept), block.params, yields)
