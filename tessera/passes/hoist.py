"""What all terms of a sum share is multiplied once, after the sum: sum(x / g) is sum(x) / g."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import letters
from tessera.ir.dtype import DType, bool_
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.online import additive
from tessera.ir.record import Kind, Law
from tessera.ir.roles import Role, Roles
from tessera.ir.types import TensorType, Type

#: How many operations away from a sum a common factor is looked for.
DEPTH = 64


def hoist(ops: Sequence[Operation], axis: int) -> list[Operation]:
    """The operations of a stream with common factors, and divisions by them, moved behind its sums."""
    names = {r.name for op in ops for r in op.results}
    return _Hoist(Roles.find(ops, axis), names).run(ops)


@dataclass
class _Hoist:
    roles: Roles
    names: set[str]
    out: list[Operation] = field(default_factory=list)
    #: Operations that come after a sum: each with the number of the operand that the sum takes.
    tail: list[tuple[Operation, int]] = field(default_factory=list)

    def run(self, ops: Sequence[Operation]) -> list[Operation]:
        for op in ops:
            if not (additive(op) and self.roles.folded(op) and self.keeps_place(op)):
                self.out.append(op)
                continue
            self.tail = []
            core = self.core(op.operands[0], DEPTH)
            if not self.tail:
                self.out.append(op)
                continue
            self.finish(op, self.clone(op, (core, *op.operands[1:]), op.result.type))
        return self.out

    def finish(self, op: Operation, made: Operation) -> None:
        """Apply the tail to a sum; what it ends in is the result of ``op``."""
        kind = op.result.type
        assert isinstance(kind, TensorType)
        for step, place in self.tail:
            operands = list(step.operands)
            whole = self.cast(made, step.operands[place].type.dtype)
            operands[place] = whole.result
            made = self.clone(step, tuple(operands), TensorType(step.result.type.dtype, kind.dims))
            if step.record.law is Law.QUOTIENT:  # a sum of nothing is 0, whatever it would have been divided by
                made = self.unless_empty(op, made, whole)
        made = self.cast(made, kind.dtype)
        last = self.out.pop()
        assert last is made
        self.out.append(replace(made, results=op.results))
        self.roles.maker[op.result] = self.out[-1]

    def unless_empty(self, op: Operation, made: Operation, whole: Operation) -> Operation:
        """``made`` where the fold has terms, else ``whole``."""
        size = op.operands[0].type.dims[self.roles.axis]
        if size.is_const:
            return made
        test = replace(made, record=OPS["gt"], attrs={})
        some = self.clone(test, (Literal(size), Literal(0)), TensorType(bool_, ()))
        choice = replace(made, record=OPS["where"], attrs={})
        return self.clone(choice, (some.result, made.result, whole.result), made.result.type)

    def cast(self, made: Operation, dtype: DType) -> Operation:
        kind = made.result.type
        assert isinstance(kind, TensorType)
        if kind.dtype is dtype:
            return made
        return self.clone(
            replace(made, record=OPS["cast"], attrs={"dtype": dtype}), (made.result,), TensorType(dtype, kind.dims)
        )

    def keeps_place(self, op: Operation) -> bool:
        """Does the result have the dims of the operand in their order, another or one of size 1 for the folded one?"""
        if op.record.kind is Kind.REDUCE:
            return bool(op.attrs["keepdim"])
        left, _, result = letters(op)
        at = self.roles.axis
        return len(result) == len(left) and result[:at] + result[at + 1 :] == left[:at] + left[at + 1 :]

    def core(self, x: Operand, depth: int) -> Operand:
        """``x`` without what all points of a row share, which is put into the tail."""
        op = self.roles.maker.get(x) if isinstance(x, Value) and self.roles[x] is Role.FULL else None
        if op is None or not depth or not op.result.type.dtype.is_float:
            return x
        roles, law = [self.roles[y] for y in op.operands], op.record.law
        if law in (Law.PRODUCT, Law.QUOTIENT):
            places = (0, 1) if law is Law.PRODUCT else (0,)
            for place in places:
                same = op.operands[place].type.dtype is op.result.type.dtype
                if same and roles[place] is Role.FULL and roles[1 - place] is Role.KEPT:
                    inner = self.core(op.operands[place], depth - 1)
                    self.tail.append((op, place))
                    return inner
            return self.through(op, places, depth)
        if law is Law.SAME:
            return self.through(op, (0,), depth)
        if law is Law.CHOICE:
            for place in (1, 2):
                other = op.operands[3 - place]
                if not (isinstance(other, Literal) and other.value == 0 and roles[place] is Role.FULL):
                    continue
                if roles[0] is not Role.KEPT:
                    return self.through(op, (place,), depth)
                inner = self.core(op.operands[place], depth - 1)
                self.tail.append((op, place))
                return inner
        return x

    def through(self, op: Operation, places: Sequence[int], depth: int) -> Operand:
        """The same operation on operands without what they share."""
        operands = list(op.operands)
        for place in places:
            operands[place] = self.core(operands[place], depth - 1)
        if all(a is b for a, b in zip(operands, op.operands, strict=True)):
            return op.result
        return self.clone(op, tuple(operands), op.result.type).result

    def clone(self, op: Operation, operands: tuple[Operand, ...], kind: Type) -> Operation:
        """The operation on other operands, with a value of its own."""
        made = replace(op, operands=operands, results=(Value(self.fresh(op.result.name), kind),))
        self.out.append(made)
        self.roles.maker[made.result] = made
        self.roles.of[made.result] = self.roles.role(made)
        return made

    def fresh(self, name: str) -> str:
        number = 1
        while f"{name}_h{number}" in self.names:
            number += 1
        self.names.add(f"{name}_h{number}")
        return f"{name}_h{number}"
