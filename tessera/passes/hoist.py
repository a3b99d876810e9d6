"""What all terms of a sum share is multiplied once, after the sum: sum(x / g) is sum(x) / g."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.build import numbered
from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import letters
from tessera.ir.dtype import DType, bool_
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.online import additive
from tessera.ir.record import Kind, Law
from tessera.ir.roles import Role, Roles
from tessera.ir.types import TensorType, Type

#: How many operations behind a sum are looked into for what its terms share. One that is read twice counts twice.
MOST = 512


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
    #: What chooses the points that the tail is for, with the outcome that does; elsewhere the sum's terms are 0.
    chosen: list[tuple[Operand, bool]] = field(default_factory=list)
    visits: int = 0

    def run(self, ops: Sequence[Operation]) -> list[Operation]:
        for op in ops:
            if not (additive(op) and self.roles.folded(op) and self.keeps_place(op)):
                self.out.append(op)
                continue
            self.tail, self.chosen, self.visits = [], [], 0
            core = self.core(op.operands[0])
            if not self.tail:
                self.out.append(op)
                continue
            self.finish(op, self.clone(op, (core, *op.operands[1:]), op.result.type))
        return self.out

    def finish(self, op: Operation, made: Operation) -> None:
        """Apply the tail to a sum; what it ends in is the result of ``op``."""
        kind = op.result.type
        assert isinstance(kind, TensorType)
        some, terms = self.some(op, made), made
        for step, place in self.tail:
            operands = list(step.operands)
            whole = self.cast(made, step.operands[place].type.dtype)
            operands[place] = whole.result
            made = self.clone(step, tuple(operands), TensorType(step.result.type.dtype, kind.dims))
        if some is not None:  # a sum of nothing is 0, whatever it would have been multiplied with
            terms = self.cast(terms, made.result.type.dtype)
            choice = replace(made, record=OPS["where"], attrs={})
            made = self.clone(choice, (some, made.result, terms.result), made.result.type)
        made = self.cast(made, kind.dtype)
        last = self.out.pop()
        assert last is made
        self.out.append(replace(made, results=op.results))
        self.roles.maker[op.result] = self.out[-1]

    def some(self, op: Operation, like: Operation) -> Operand | None:
        """Does a sum have any terms for the tail? None where it always has."""
        dims = op.operands[0].type.dims
        size = dims[self.roles.axis]
        if not self.chosen:
            if size.is_const or all(step.record.law is not Law.QUOTIENT for step, _ in self.tail):
                return None
            test = replace(like, record=OPS["gt"], attrs={})
            return self.clone(test, (Literal(size), Literal(0)), TensorType(bool_, ())).result
        found: Operand | None = None
        for condition, outcome in self.chosen:
            kind = condition.type
            assert isinstance(kind, TensorType)
            if not outcome:
                condition = self.clone(replace(like, record=OPS["logical_not"], attrs={}), (condition,), kind).result
            if kind.dims != dims:
                view = replace(like, record=OPS["expand"], attrs={"shape": dims})
                condition = self.clone(view, (condition,), TensorType(bool_, dims)).result
            if found is not None:
                both = replace(like, record=OPS["logical_and"], attrs={})
                condition = self.clone(both, (found, condition), TensorType(bool_, dims)).result
            found = condition
        assert found is not None
        kept = tuple(ONE if a == self.roles.axis else d for a, d in enumerate(dims))
        fold = replace(like, record=OPS["any"], attrs={"dim": (self.roles.axis,), "keepdim": True})
        return self.clone(fold, (found,), TensorType(bool_, kept)).result

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

    def core(self, x: Operand) -> Operand:
        """``x`` without what all points of a row share, which is put into the tail."""
        op = self.roles.maker.get(x) if isinstance(x, Value) and self.roles[x] is Role.FULL else None
        if op is None or self.visits >= MOST or not op.result.type.dtype.is_float:
            return x
        self.visits += 1
        roles, law = [self.roles[y] for y in op.operands], op.record.law
        if law in (Law.PRODUCT, Law.QUOTIENT):
            places = (0, 1) if law is Law.PRODUCT else (0,)
            for place in places:
                same = op.operands[place].type.dtype is op.result.type.dtype
                if same and roles[place] is Role.FULL and roles[1 - place] is Role.KEPT:
                    inner = self.core(op.operands[place])
                    self.tail.append((op, place))
                    return inner
            return self.through(op, places)
        if law is Law.SAME:
            return self.through(op, (0,))
        if law is Law.CHOICE:
            for place in (1, 2):
                other = op.operands[3 - place]
                if not (isinstance(other, Literal) and other.value == 0 and roles[place] is Role.FULL):
                    continue
                if roles[0] is not Role.KEPT:
                    known = len(self.tail)
                    made = self.through(op, (place,))
                    if len(self.tail) > known:
                        self.chosen.append((op.operands[0], place == 1))
                    return made
                inner = self.core(op.operands[place])
                self.tail.append((op, place))
                return inner
        return x

    def through(self, op: Operation, places: Sequence[int]) -> Operand:
        """The same operation on operands without what they share."""
        operands = list(op.operands)
        for place in places:
            operands[place] = self.core(operands[place])
        if all(a is b for a, b in zip(operands, op.operands, strict=True)):
            return op.result
        return self.clone(op, tuple(operands), op.result.type).result

    def clone(self, op: Operation, operands: tuple[Operand, ...], kind: Type) -> Operation:
        """The operation on other operands, with a value of its own."""
        made = replace(op, operands=operands, results=(Value(numbered(f"{op.result.name}_h", self.names), kind),))
        self.out.append(made)
        self.roles.maker[made.result] = made
        self.roles.of[made.result] = self.roles.role(made)
        return made
