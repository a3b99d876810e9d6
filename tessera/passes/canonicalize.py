"""Local rewrites to one form. The rules stand in the op records; none changes a single bit of any result."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.graph import EMPTY, Function, Literal, Note, Operand, Operation, Value
from tessera.ir.record import Kind, Law
from tessera.ir.types import TensorType
from tessera.passes.nested import rewritten


@dataclass(frozen=True, slots=True)
class Canonicalize:
    """Apply the rewrites of the records and remove views and casts that are the identity.

    A rewrite fires only where the new value has exactly the type of the old one.
    """

    name: str = "canonicalize"

    def run(self, f: Function) -> Function:
        replaced: dict[Value, Operand] = {}
        details: list[str] = []

        def visit(op: Operation) -> Operation | None:
            new = simplify(op)
            if isinstance(new, Operation):
                if new is not op:
                    details.append(f"%{op.results[0].name}: {op.name} -> {new.name}")
                return new
            replaced[op.result] = new
            details.append(f"%{op.result.name}: {op.name} is the identity")
            return None

        body = rewritten(f.body, replaced, lambda: visit)
        if not details:
            return f
        return replace(f, body=body).with_note(Note(self.name, 0.0, f"rewrote {len(details)}", tuple(details)))


def simplify(op: Operation) -> Operation | Operand:
    """The operation in its one form, or the operand that it equals."""
    if len(op.results) != 1 or op.body is not None:
        return op
    if is_identity(op):
        return op.operands[0]
    if op.record.law is Law.CHOICE and op.operands[-1] is op.operands[-2] and op.operands[-1].type == op.result.type:
        return op.operands[-1]
    for rule in op.record.rewrites:
        if not all(_is_constant(op.operands[i], v) for i, v in rule.where):
            continue
        if isinstance(rule.to, int):
            if op.operands[rule.to].type == op.result.type:
                return op.operands[rule.to]
        else:
            name, numbers = rule.to
            operands = tuple(op.operands[i] for i in numbers)
            if all(x.type == op.result.type for x in operands):
                return replace(op, record=OPS[name], operands=operands, attrs=EMPTY)
    return op


def is_identity(op: Operation) -> bool:
    """A cast to the dtype it has, or a view that reads every element where it already stands."""
    if op.operands[:1] == () or op.operands[0].type != op.result.type:
        return False
    if op.record.kind is Kind.MAP:
        return len(op.operands) == 1 and "dtype" in op.attrs
    if op.record.kind is not Kind.VIEW or op.record.pieces is None or len(op.operands) != 1:
        return False
    kind = op.result.type
    assert isinstance(kind, TensorType)
    index = tuple(Dim.name(f"_i{axis}") for axis in range(kind.rank))
    pieces = op.record.pieces(index, [x.type for x in op.operands], kind, op.attrs)
    return len(pieces) == 1 and pieces[0].operand == 0 and pieces[0].index == index and not pieces[0].box


def _is_constant(x: Operand, value: float) -> bool:
    if not isinstance(x, Literal) or not isinstance(x.value, int | float) or x.value is True or x.value != value:
        return False
    return math.copysign(1.0, x.value) == math.copysign(1.0, value)  # x - -0.0 is not x
