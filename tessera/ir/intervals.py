"""Where along an axis a condition on positions can hold, from the operations that make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tessera.ir.dim import ONE, Dim, dim_max, dim_min
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.record import Law


@dataclass(frozen=True, slots=True)
class Interval:
    """``lo <= axis < hi``; None is no bound. ``exact`` says that all that decides the condition went into it."""

    lo: Dim | None = None
    hi: Dim | None = None
    exact: bool = True

    def both(self, other: Interval) -> Interval:
        return Interval(
            _either(self.lo, other.lo, dim_max), _either(self.hi, other.hi, dim_min), self.exact and other.exact
        )

    def hull(self, other: Interval) -> Interval:
        return Interval(
            None if self.lo is None or other.lo is None else dim_min(self.lo, other.lo),
            None if self.hi is None or other.hi is None else dim_max(self.hi, other.hi),
            self.exact and other.exact,
        )


UNKNOWN = Interval(exact=False)
#: For the comparisons: the one that holds where the other does not, and with operands exchanged.
_OPPOSITE = {Law.LESS: Law.AT_LEAST, Law.AT_LEAST: Law.LESS, Law.AT_MOST: Law.GREATER, Law.GREATER: Law.AT_MOST}
#: How many operations deep a condition is looked into.
DEPTH = 64


def holds(x: Operand, outcome: bool, maker: Mapping[Value, Operation], axis: str, depth: int = DEPTH) -> Interval:
    """The points of ``axis``, and perhaps others, at which a condition of the tile dialect has the outcome."""
    op = maker.get(x) if isinstance(x, Value) else None
    if op is None or not depth or not x.type.dtype.is_bool or axis not in getattr(x.type, "axes", ()):
        return UNKNOWN
    law = op.record.law
    if law is Law.NOT:
        return holds(op.operands[0], not outcome, maker, axis, depth - 1)
    if law in (Law.AND, Law.OR):
        a, b = (holds(y, outcome, maker, axis, depth - 1) for y in op.operands)
        return a.both(b) if (law is Law.AND) is outcome else a.hull(b)
    if law in _OPPOSITE or law is Law.EQUAL:
        left, right = (position(y, maker, depth - 1) for y in op.operands)
        return UNKNOWN if left is None or right is None else _compared(law, outcome, left - right, axis)
    return UNKNOWN


def position(x: Operand, maker: Mapping[Value, Operation], depth: int = DEPTH) -> Dim | None:
    """An integer of the tile dialect as an index expression; None where it is none."""
    if isinstance(x, Literal):
        return Dim.of(x.value) if isinstance(x.value, Dim) or type(x.value) is int else None
    op = maker.get(x)
    if op is None or not depth or not x.type.dtype.is_int:
        return None
    of = op.attrs.get("of")
    if isinstance(of, Dim):
        return of
    parts = [position(y, maker, depth - 1) for y in op.operands]
    found = [p for p in parts if p is not None]
    make = _ARITHMETIC.get(op.record.law)
    return None if make is None or len(found) != len(parts) else make(found)


_ARITHMETIC = {
    Law.SUM: lambda p: p[0] + p[1],
    Law.DIFFERENCE: lambda p: p[0] - p[1],
    Law.PRODUCT: lambda p: p[0] * p[1],
    Law.SAME: lambda p: p[0],
}


def _compared(law: Law, outcome: bool, e: Dim, axis: str) -> Interval:
    """Where ``e < 0`` and its like hold, for ``e`` of slope 1 or -1 along the axis."""
    slope = coefficient(e, axis)
    if slope is None or not slope.is_const or abs(slope.value) != 1:
        return UNKNOWN
    rest = e.substitute({axis: Dim.const(0)}) * -slope.value  # e compares with 0 as slope * (axis - rest) does
    if law is Law.EQUAL:
        return Interval(rest, rest + ONE) if outcome else UNKNOWN
    law = law if outcome else _OPPOSITE[law]
    below = (law in (Law.LESS, Law.AT_MOST)) is (slope.value > 0)
    open_end = law in (Law.LESS, Law.GREATER)
    if below:
        return Interval(hi=rest if open_end else rest + ONE)
    return Interval(lo=rest + ONE if open_end else rest)


def _either(a: Dim | None, b: Dim | None, join: object) -> Dim | None:
    if a is None or b is None:
        return a if b is None else b
    assert callable(join)
    found = join(a, b)
    assert isinstance(found, Dim)
    return found
