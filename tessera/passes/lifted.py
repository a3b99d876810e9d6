"""The blocks of all iterations of a program as one tensor: what is computed on the block of one is computed on it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, int64
from tessera.ir.graph import Literal, Operand, Operation, Value, dims_in, substituted
from tessera.ir.record import Kind, Law
from tessera.ir.solver import Verdict, judge_ge
from tessera.ir.types import TensorType, Type
from tessera.passes.lead import evaluated, led

_ZERO, _ONE = Dim.const(0), Dim.const(1)
#: Comparisons as ``a >= b``: whether of the operands swapped, and whether that must not hold.
_ORDERS: Mapping[Law, tuple[bool, bool]] = MappingProxyType({
    Law.AT_LEAST: (False, False), Law.AT_MOST: (True, False), Law.LESS: (False, True), Law.GREATER: (True, True),
})  # fmt: skip


class Partial(Exception):
    """A program has no form on whole tensors; the message says why, ``at`` where."""

    def __init__(self, why: str, at: Operation) -> None:
        super().__init__(why)
        self.at = at


@dataclass(frozen=True)
class Lifted:
    """A block of every iteration: its first dims are those of the axes, in their order.

    ``count`` says that it is the number of the iteration along its axis, ``span`` between which integers its elements
    lie, the second not included. ``fill`` is the number that all elements are; with ``start`` a loop begins with it.
    """

    value: Operand
    axes: tuple[str, ...] = ()
    count: bool = False
    span: tuple[Dim, Dim] | None = None
    fill: float | None = None
    start: bool = False
    #: It is what a sum begins with, scaled: to a sum it adds nothing.
    nothing: bool = False

    @property
    def empty(self) -> bool:
        """Is it what a sum begins with, to which nothing has been added?"""
        return self.nothing or (self.start and self.fill == 0)

    @property
    def truth(self) -> bool | None:
        """A bool that is known."""
        known = self.value.value if isinstance(self.value, Literal) else None
        return known if isinstance(known, bool) else None


@dataclass
class Lifting:
    """Operations on lifted blocks, appended to a builder. ``axes`` are those around, each with the number of its
    positions, ``sizes`` what block sizes and the axes of loops with one iteration are.
    """

    builder: Builder
    sizes: dict[str, Dim]
    env: dict[Value, Lifted] = field(default_factory=dict)
    axes: dict[str, Dim] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.t = Ops(self.builder, OPS)

    def bind(self, op: Operation, names: Sequence[Value], given: Sequence[Operand]) -> None:
        """Give values what others are; numbers become tensors."""
        found = [self.typed(self.of(op, x), v.type) for v, x in zip(names, given, strict=True)]
        self.env.update(zip(names, found, strict=True))

    def of(self, op: Operation, x: Operand) -> Lifted:
        """An operand of an operation."""
        if isinstance(x, Value):
            return self.env[x]
        return self.number_of(op, x.value, {}) if isinstance(x.value, Dim) else Lifted(x)

    def typed(self, x: Lifted, kind: Type) -> Lifted:
        """A value in the dtype of a type; a number as a tensor of rank 0."""
        if isinstance(x.value, Literal):
            known = isinstance(x.value.value, bool | Dim)
            return x if known else self.filling(x.value.value, kind)
        if x.value.type.dtype is kind.dtype and isinstance(x.value.type, TensorType):
            return x
        made = self.t.cast(Sym(self.t, x.value), kind.dtype).value
        return Lifted(made, x.axes, fill=_kept(x.fill, kind.dtype))

    def counted(self, x: Lifted) -> Lifted:
        """An integer in which positions are computed."""
        if isinstance(x.value, Literal) or x.value.type.dtype is int64:
            return x
        return replace(x, value=self.t.cast(Sym(self.t, x.value), int64).value)

    def filling(self, number: Any, kind: Type) -> Lifted:
        """A block of one number, which no iteration changes."""
        made = self.t.full(tuple(d.substitute(self.sizes) for d in kind.dims), number, dtype=kind.dtype)
        return Lifted(made.value, fill=_kept(_number(number), kind.dtype))

    def stored(self, x: Lifted, kind: Type) -> Lifted:
        found = self.typed(x, kind)
        if isinstance(found.value, Literal):
            return self.filling(found.value.value, TensorType(kind.dtype, ()))
        return found

    def number_of(self, op: Operation, d: Dim, looked: Mapping[str, Lifted]) -> Lifted:
        """The value of a size expression in every iteration."""
        d = d.substitute(self.sizes)
        names = d.names()
        if not names & {*self.axes, *looked}:
            return Lifted(Literal(d), span=(d, d + 1))
        if d.is_name and str(d) in looked:
            return looked[str(d)]
        if d.is_name:
            size = self.axes[str(d)]
            line = self.t.emit("iota", (Literal(0), Literal(1)), size=size, dtype=int64)
            return Lifted(line.value, (str(d),), True, (_ZERO, size))
        dynamic = frozenset((*self.axes, *looked))
        found = evaluated(d, dynamic, lambda e: self.number_of(op, e, looked), lambda n, *xs: self.together(n, xs))
        if found is None:
            raise Partial(f"the position `{d}`", op)
        return found

    def compute(self, op: Operation) -> None:
        """An operation on blocks, on those of all iterations."""
        xs = [self.of(op, x) for x in op.operands]
        known = self.decided(op, xs) or self.begun(op, xs)
        if known is not None:
            self.env[op.result] = known
            return
        xs = self.numbers(op, xs)
        axes = tuple(a for a in self.axes if any(a in x.axes for x in xs))
        attrs = {k: substituted(v, self.sizes) for k, v in op.attrs.items()}
        for d in dims_in(attrs.values()):
            if d.names() & self.axes.keys():
                raise Partial(f"a block of size `{d}`", op)
        made = led(op, attrs, [x.axes for x in xs], tuple(self.axes[a] for a in axes)) if axes else attrs
        if made is None:
            raise Partial(f"`{op.origin or op.name}` with a position that differs between iterations", op)
        rank = max((x.type.rank for x in op.operands), default=0)
        stretched = op.record.kind in (Kind.VIEW, Kind.INDEX)
        operands = [self.spread(x, o.type.rank, axes) if stretched else self.aligned(x, axes, rank)
                    for x, o in zip(xs, op.operands, strict=True)]  # fmt: skip
        results = self.builder.emit(op.record, operands, made, span=op.span, origin=op.origin, hint=op.results[0].name)
        self.env.update((r, self.known(op, xs, y, axes)) for r, y in zip(op.results, results, strict=True))

    def known(self, op: Operation, xs: Sequence[Lifted], y: Value, axes: tuple[str, ...]) -> Lifted:
        """The result of an operation with what is known of its elements."""
        kind, spans = op.record.kind, [x.span for x in xs]
        if kind is Kind.VIEW and len(xs) == 1:
            return replace(xs[0], value=y, axes=axes, count=False)
        if kind is Kind.CREATE:
            counted = [x.value.value for x in xs if isinstance(x.value, Literal)] == [0, 1] and "size" in op.attrs
            size = y.type.dims[0] if counted else _ZERO
            fill = _kept(_fill(xs[0]), y.type.dtype) if len(xs) == 1 else None
            return Lifted(y, axes, span=(_ZERO, size) if counted else None, fill=fill)
        if op.record.law is Law.SAME and len(xs) == 1:
            fill = _kept(xs[0].fill, y.type.dtype)
            return Lifted(y, axes, fill=fill, start=xs[0].start and fill is not None)
        if op.record.law is Law.PRODUCT and any(x.empty for x in xs):
            return Lifted(y, axes, nothing=True)
        if op.record.law is Law.SUM and len(spans) == 2 and spans[0] and spans[1]:
            (a, b), (c, d) = spans[0], spans[1]
            return Lifted(y, axes, span=(a + c, b + d - 1))
        return Lifted(y, axes)

    def begun(self, op: Operation, xs: Sequence[Lifted]) -> Lifted | None:
        """What is added to a sum to which nothing has been added, which may have been scaled."""
        empty = [x.empty for x in xs]
        if op.record.law is not Law.SUM or empty.count(True) != 1:
            return None
        other = empty.index(False)
        return xs[other] if op.operands[other].type == op.result.type else None

    def numbers(self, op: Operation, xs: list[Lifted]) -> list[Lifted]:
        """The operands of a MAP: blocks of one float are numbers where another operand gives the result its type."""
        kind = op.result.type
        pairs = list(zip(xs, op.operands, strict=True))
        if op.record.kind is not Kind.MAP or not any(x.fill is None and o.type == kind for x, o in pairs):
            return xs
        flat = [x.fill is not None and o.type.dtype is kind.dtype and kind.dtype.is_float for x, o in pairs]
        return [Lifted(Literal(x.fill)) if one and x.fill is not None else x for x, one in zip(xs, flat, strict=True)]

    def decided(self, op: Operation, xs: Sequence[Lifted]) -> Lifted | None:
        """What a comparison of positions and sizes, logic of such, or a choice by it comes to, where that is the same
        everywhere and for all sizes of 1 and more.
        """
        law = op.record.law
        if law in _ORDERS and all(x.span is not None for x in xs):
            swapped, below = _ORDERS[law]
            a, b = (xs[n].span for n in ((1, 0) if swapped else (0, 1)))
            assert a is not None and b is not None
            facts = self.builder.context.facts
            if judge_ge(a[0], b[1] - 1, facts) is Verdict.PROVED:  # the least of a, the greatest of b
                return Lifted(Literal(not below))
            if judge_ge(b[0], a[1], facts) is Verdict.PROVED:
                return Lifted(Literal(below))
        known = [x.truth for x in xs]
        if law is Law.NOT and known[0] is not None:
            return Lifted(Literal(not known[0]))
        if law in (Law.AND, Law.OR) and None not in known:
            return Lifted(Literal(all(known) if law is Law.AND else any(known)))
        if law is Law.CHOICE and known[0] is not None:
            chosen = 1 if known[0] else 2
            return xs[chosen] if op.operands[chosen].type == op.result.type else None
        return None

    def permuted(self, x: Any, order: Sequence[int]) -> Value:
        found = x if list(order) == sorted(order) else self.t.emit("permute", (x,), dims=tuple(order))
        made: Value = found.value
        return made

    def together(self, name: str, xs: Sequence[Lifted]) -> Lifted:
        """A MAP on blocks that may belong to different axes."""
        axes = tuple(a for a in self.axes if any(a in x.axes for x in xs))
        rank = max(x.value.type.rank - len(x.axes) for x in xs)
        made = self.t.invoke(OPS[name], *(self.shown(self.aligned(x, axes, rank)) for x in xs))
        return Lifted(made.value, axes)

    def shown(self, x: Operand) -> Any:
        return Sym(self.t, x) if isinstance(x, Value) else x.value

    def aligned(self, x: Lifted, axes: Sequence[str], rank: int) -> Operand:
        """A block with a dim for each of the axes, of size 1 where it does not depend on it, and then ``rank`` dims.
        One that depends on none is as it was: it is broadcast.
        """
        if not x.axes or isinstance(x.value, Literal):
            return x.value
        order = [x.axes.index(a) for a in axes if a in x.axes]
        own = x.value.type.rank - len(x.axes)
        y: Any = Sym(self.t, self.permuted(Sym(self.t, x.value), (*order, *range(len(x.axes), x.value.type.rank))))
        for n, a in enumerate(axes):
            if a not in x.axes:
                y = self.t.unsqueeze(y, n)
        for _ in range(rank - own):
            y = self.t.unsqueeze(y, len(axes))
        found: Operand = y.value
        return found

    def spread(self, x: Lifted, rank: int, axes: Sequence[str]) -> Operand:
        """A block with all of the axes in front, repeated along those on which it does not depend."""
        if isinstance(x.value, Literal) or not rank or not axes:
            return x.value
        y: Any = self.shown(self.aligned(x, axes, rank))
        dims = x.value.type.dims[len(x.axes) :]
        found: Operand = self.t.expand(y, *(self.axes[a] for a in axes), *dims).value
        return found


def _number(x: Any) -> float | None:
    return None if isinstance(x, Dim) else float(x)


def _kept(fill: float | None, dtype: DType) -> float | None:
    """A number that a dtype has: the ones that loops begin with."""
    return fill if fill == 0 or (fill in (-math.inf, math.inf) and dtype.is_float and not dtype.is_fp8) else None


def _fill(x: Lifted) -> float | None:
    """The number that all elements are."""
    return _number(x.value.value) if isinstance(x.value, Literal) else x.fill


__all__ = ["Lifted", "Lifting", "Partial"]
