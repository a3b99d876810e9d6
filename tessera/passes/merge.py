"""Contractions of rows that lie along several axes, as contractions of one axis of rows.

``x[B, S, D] @ w[D, V]``, whose result is then seen as ``[B*S, V]``, is a product of that shape to begin with: a view of
a dense tensor moves nothing, and what follows sees one axis of rows from the operand to the result.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from tessera.ir.build import names_of, numbered
from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim, product
from tessera.ir.graph import Function, Operand, Operation, Value, users
from tessera.ir.record import Kind
from tessera.ir.types import TensorType
from tessera.passes.dce import sweep

_RESHAPE, _CONTRACT = OPS["reshape"], OPS["contract"]


def merged(f: Function) -> Function:
    """The function with one axis instead of the leading ones, for contractions whose first operand or result is seen
    with one axis elsewhere; and without views that only undo each other.
    """
    work = _Merged(f)
    for op in f.ops:
        work.visit(op)
    outputs = tuple(work.now(x) for x in f.outputs)
    return f.with_ops(sweep(work.ops, outputs)[0], outputs) if work.changed else f


@dataclass
class _Merged:
    f: Function
    ops: list[Operation] = field(default_factory=list)
    maker: dict[Value, Operation] = field(default_factory=dict)
    same: dict[Value, Operand] = field(default_factory=dict)
    changed: bool = False

    def __post_init__(self) -> None:
        self.readers = users(self.f.body)
        self.names = names_of(self.f)

    def now(self, x: Operand) -> Operand:
        return self.same.get(x, x) if isinstance(x, Value) else x

    def visit(self, op: Operation) -> None:
        op = op.with_operands(tuple(map(self.now, op.operands)))
        if op.record is _RESHAPE:
            source = self.source(op.operands[0], op.result.type.dims)
            if source is not None:
                self.same[op.result] = source
                self.changed = True
                return
        lead = self.leading(op) if op.record.kind is Kind.CONTRACT else 0
        if lead:
            self.changed = True
            self.merge(op, lead)
        else:
            self.add(op)

    def add(self, op: Operation) -> None:
        self.ops.append(op)
        self.maker.update(dict.fromkeys(op.results, op))

    def source(self, x: Operand, dims: tuple[Dim, ...]) -> Operand | None:
        """What a reshaped value was with these dims, if it was."""
        op = self.maker.get(x) if isinstance(x, Value) else None
        found = op.operands[0] if op is not None and op.record is _RESHAPE else None
        return found if found is not None and found.type.dims == dims else None

    def leading(self, op: Operation) -> int:
        """How many leading axes of a contraction are better one; 0 for none."""
        left, right, result = letters(op)
        x, y = op.operands[0], op.result
        count = 0
        while count < min(len(left), len(result)) and left[count] == result[count] and left[count] not in right:
            if x.type.dims[count] is not y.type.dims[count]:
                break
            count += 1
        if count < 2 or len(set(left)) < len(left):
            return 0
        rows = (product(y.type.dims[:count]),)
        seen = (r for r in self.readers.get(y, ()) if r.record is _RESHAPE)
        whole = self.source(x, (*rows, *x.type.dims[count:])) is not None
        return count if whole or any(r.result.type.dims == (*rows, *y.type.dims[count:]) for r in seen) else 0

    def merge(self, op: Operation, count: int) -> None:
        (left, right, result), (x, w) = letters(op), op.operands
        rows = product(op.result.type.dims[:count])
        flat = self.source(x, (rows, *x.type.dims[count:]))
        flat = self.reshaped(op, x, (rows, *x.type.dims[count:])) if flat is None else flat
        kind = op.result.type
        assert isinstance(kind, TensorType)
        made = Value(numbered(f"{op.result.name}_m", self.names), kind.with_dims((rows, *kind.dims[count:])))
        equation = f"{left[0]}{left[count:]},{right}->{result[0]}{result[count:]}"
        attrs = {"equation": equation, "accumulate_dtype": op.attrs.get("accumulate_dtype")}
        self.add(replace(op, record=_CONTRACT, operands=(flat, w), results=(made,), attrs=attrs))
        self.add(replace(op, record=_RESHAPE, operands=(made,), attrs={"shape": kind.dims}))

    def reshaped(self, op: Operation, x: Operand, dims: tuple[Dim, ...]) -> Value:
        kind = x.type
        assert isinstance(kind, TensorType)
        made = Value(numbered(f"{op.result.name}_m", self.names), kind.with_dims(dims))
        self.add(replace(op, record=_RESHAPE, operands=(x,), results=(made,), attrs={"shape": dims}))
        return made


__all__ = ["merged"]
