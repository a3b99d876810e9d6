"""Values of one function under construction: operands, intrinsics, and variables that hold them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera.backends.triton import intrinsics
from tessera.backends.triton.expr import Expressions
from tessera.backends.triton.fold import Trace
from tessera.backends.triton.intrinsics import Used
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32
from tessera.ir.graph import Attr, Literal, Operand, Operation, Value
from tessera.ir.types import ScalarType
from tessera.schedule.tilebuild import literal_dtype

_CAST = OPS["cast"]


@dataclass
class Lines:
    """Source text under construction."""

    depth: int = 0
    text: list[str] = field(default_factory=list)

    def add(self, line: str) -> None:
        self.text.append("    " * self.depth + line)


@dataclass
class Statements:
    """Writes one line an operation. ``names`` are those of buffers and scalars, ``taken`` those in use."""

    names: Mapping[Value, str]
    used: Used
    exprs: Expressions
    lines: Lines = field(default_factory=lambda: Lines(1))
    values: dict[Value, str] = field(default_factory=dict)
    memo: dict[str, str] = field(default_factory=dict)
    taken: dict[str, Value] = field(default_factory=dict)
    counter: int = 0

    def fresh(self, hint: str) -> str:
        self.counter += 1
        return f"{hint}_{self.counter}"

    def define(self, hint: str, text: str) -> str:
        """A variable that holds ``text``; one that already does is used again."""
        found = self.memo.get(text)
        if found is None:
            found = self.memo[text] = self.fresh(hint)
            self.lines.add(f"{found} = {self.used.note(text)}")
        return found

    def expression(self, op: Operation, operands: Sequence[Operand]) -> str:
        """A MAP intrinsic over operands."""
        to = op.result.type.dtype
        if op.record is _CAST:
            return self.used.note(self.cast(operands[0], to))
        t = literal_dtype(tuple(operands), to)
        typed = any(isinstance(x, Value) and not x.type.dtype.is_bool for x in operands)
        texts = [self.text(x, t, alone=not typed) for x in operands]
        return self.used.note(intrinsics.call(op.name, texts, t))

    def cast(self, x: Operand, to: DType) -> str:
        if isinstance(x, Literal):
            return self.text(x, to, alone=True)
        if not isinstance(x.type, ScalarType):
            return intrinsics.cast(self.text(x), x.type.dtype, to)
        # A dynamic scalar comes as f64 or int64, whatever it is called.
        text = self.text(x)
        return f"({text} != 0)" if to.is_bool else f"tl.cast({text}, {intrinsics.type_name(to)})"

    def text(self, x: Operand, t: DType = f32, alone: bool = False) -> str:
        """An operand; a literal takes dtype ``t``, and with ``alone`` becomes a value of its own."""
        if isinstance(x, Literal):
            if isinstance(x.value, Dim):
                return f"tl.cast({self.exprs.text(x.value)}, {intrinsics.type_name(t)})"
            return intrinsics.literal(x.value, t, alone)
        name = self.names.get(x)
        if name is None:
            return self.values[x]
        self.taken[name] = x
        return name

    def inline(self, trace: Trace, given: Mapping[Value, str], starts: Mapping[Value, Literal]) -> list[Operand]:
        """Write out a traced definition. Its lines are not shared: a state changes under its name."""
        self.values.update(given)
        for o in trace.ops:
            operands = tuple(starts.get(x, x) if isinstance(x, Value) else x for x in o.operands)
            name = self.fresh(o.name)
            self.lines.add(f"{name} = {self.expression(o, operands)}")
            self.values[o.result] = name
        return [starts.get(x, x) if isinstance(x, Value) else x for x in trace.results]


def dim(a: Attr) -> Dim:
    """An attribute that is one index expression, alone or in a tuple of one."""
    if isinstance(a, tuple):
        (a,) = a
    assert isinstance(a, Dim)
    return a


def dims(a: Attr) -> list[Dim]:
    """Every Dim in an attribute."""
    if isinstance(a, Dim):
        return [a]
    return [d for x in a for d in dims(x)] if isinstance(a, tuple) else []
