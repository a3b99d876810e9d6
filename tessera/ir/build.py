"""Checked construction: operands in, types inferred, casts made explicit, names kept unique."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera.diag import Span
from tessera.ir.dtype import DType
from tessera.ir.graph import EMPTY, Attr, Block, Function, Literal, Operand, Operation, Value, walk
from tessera.ir.infer import InferContext
from tessera.ir.record import OpRecord
from tessera.ir.types import TensorType, Type


def wrapped(value: int, dtype: DType) -> int:
    """A bool or an integer as a number of ``dtype``; what does not fit an integer dtype wraps around.

    >>> from tessera.ir.dtype import f32, int8, uint8
    >>> wrapped(-1, uint8), wrapped(200, int8), wrapped(True, f32)
    (255, -56, 1)
    """
    if dtype.is_bool:
        return value
    if not dtype.is_int or dtype.bits == 64:
        return int(value)
    low = int(dtype.min)
    return (int(value) - low) % 2**dtype.bits + low


_LEGAL = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


def names_of(f: Function) -> set[str]:
    """The names of all values of a function, those inside of other operations included."""
    return {v.name for v in f.params} | {r.name for op in walk(f.body) for r in op.results}


def numbered(stem: str, names: set[str]) -> str:
    """The stem with the first number that makes it a new name, which joins ``names``.

    >>> numbered("x_r", {"x_r1"})
    'x_r2'
    """
    number = 1
    while f"{stem}{number}" in names:
        number += 1
    names.add(f"{stem}{number}")
    return f"{stem}{number}"


@dataclass
class Builder:
    """Appends operations to a block under construction. Every result gets a unique printable name."""

    cast: OpRecord
    context: InferContext = field(default_factory=InferContext)
    ops: list[Operation] = field(default_factory=list)
    names: dict[str, int] = field(default_factory=dict)

    def fresh(self, hint: str) -> str:
        """A name not used so far: the hint itself, or the hint with a number."""
        base = hint if _LEGAL.fullmatch(hint) else "v"
        count = self.names.get(base)
        if count is None:
            self.names[base] = 0
            return base
        while True:
            count += 1
            name = f"{base[:56]}_{count}"  # within the 64 characters that a name may have
            if name not in self.names:
                self.names[base], self.names[name] = count, 0
                return name

    def param(self, name: str, type: Type) -> Value:
        self.context.filled.update(str(d) for d in type.dims if d.is_name)
        return Value(self.fresh(name), type)

    def emit(
        self,
        record: OpRecord,
        operands: Sequence[Operand],
        attrs: Mapping[str, Attr] = EMPTY,
        *,
        span: Span | None = None,
        origin: str = "",
        hint: str = "",
    ) -> tuple[Value, ...]:
        """Append ``record`` applied to ``operands``; raises ``Refused`` when its rule does not hold."""
        assert record.infer is not None, f"{record.name} is not a primitive"
        self.context.span = span
        types = record.infer(self.context, tuple(x.type for x in operands), attrs)
        results = tuple(Value(self.fresh(hint or record.name), t) for t in types)
        self.ops.append(Operation(record, tuple(operands), results, attrs, span, origin))
        return results

    def call(
        self,
        record: OpRecord,
        operands: Sequence[Operand],
        attrs: Mapping[str, Attr] = EMPTY,
        *,
        span: Span | None = None,
        origin: str = "",
        hint: str = "",
    ) -> tuple[Value, ...]:
        """``emit`` after the casts that the record's ``operands_as`` asks for. ``self.cast`` is the cast record."""
        if record.operands_as is not None:
            self.context.span = span
            wanted = record.operands_as(tuple(x.type for x in operands))
            pairs = zip(operands, wanted, strict=True)
            operands = [x if t is None else self.cast_to(x, t, span, origin) for x, t in pairs]
        return self.emit(record, operands, attrs, span=span, origin=origin, hint=hint)

    def cast_to(self, x: Operand, dtype: DType, span: Span | None, origin: str) -> Operand:
        """A tensor in that dtype; a number as torch reads it beside one: True is 1, and integers wrap."""
        if isinstance(x, Literal):
            return Literal(wrapped(x.value, dtype)) if isinstance(x.value, int) else x
        if not isinstance(x.type, TensorType) or x.type.dtype is dtype:
            return x
        return self.emit(self.cast, (x,), {"dtype": dtype}, span=span, origin=origin)[0]

    def block(self, params: Sequence[Value], yields: Sequence[Operand]) -> Block:
        return Block(tuple(self.ops), tuple(params), tuple(yields))
