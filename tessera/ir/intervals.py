"""Where along an axis a condition on positions can hold, from the operations that make it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from tessera.diag import ShapeError
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
        """The points of the one and the other; of the one alone where a bound would outgrow the limits of a Dim."""
        try:
            lo = other.lo if self.lo is None else self.lo if other.lo is None else dim_max(self.lo, other.lo)
            hi = other.hi if self.hi is None else self.hi if other.hi is None else dim_min(self.hi, other.hi)
        except ShapeError:
            return replace(self, exact=False)
        return Interval(lo, hi, self.exact and other.exact)

    def hull(self, other: Interval) -> Interval:
        """The points from the first to the last of either; any where a bound would outgrow the limits of a Dim."""
        try:
            lo = None if self.lo is None or other.lo is None else dim_min(self.lo, other.lo)
            hi = None if self.hi is None or other.hi is None else dim_max(self.hi, other.hi)
        except ShapeError:
            return UNKNOWN
        return Interval(lo, hi, self.exact and other.exact)


UNKNOWN = Interval(exact=False)
#: For the comparisons: the one that holds where the other does not.
_OPPOSITE = {Law.LESS: Law.AT_LEAST, Law.AT_LEAST: Law.LESS, Law.AT_MOST: Law.GREATER, Law.GREATER: Law.AT_MOST}
#: How many operations deep a condition is looked into.
DEPTH = 64


def holds(x: Operand, outcome: bool, maker: Mapping[Value, Operation], axis: str) -> Interval:
    """The points of ``axis``, and perhaps others, at which a condition of the tile dialect has the outcome."""
    return _Conditions(maker, axis).holds(x, outcome, DEPTH)


def position(x: Operand, maker: Mapping[Value, Operation]) -> Dim | None:
    """An integer of the tile dialect as an index expression; None where it is none."""
    return _Positions(maker).of(x, DEPTH)


@dataclass
class _Positions:
    """Integers as index expressions. What was looked into is known: operations share their operands."""

    maker: Mapping[Value, Operation]
    known: dict[Value, Dim | None] = field(default_factory=dict)

    def of(self, x: Operand, depth: int) -> Dim | None:
        if isinstance(x, Literal):
            return Dim.of(x.value) if isinstance(x.value, Dim) or type(x.value) is int else None
        if x not in self.known:
            self.known[x] = self.made(x, depth)
        return self.known[x]

    def made(self, x: Value, depth: int) -> Dim | None:
        op = self.maker.get(x)
        if op is None or not depth or not x.type.dtype.is_int:
            return None
        of = op.attrs.get("of")
        if isinstance(of, Dim):
            return of
        parts = [self.of(y, depth - 1) for y in op.operands]
        found = [p for p in parts if p is not None]
        make = _ARITHMETIC.get(op.record.law)
        try:
            return None if make is None or len(found) != len(parts) else make(found)
        except ShapeError:  # beyond the limits of a dimension
            return None


@dataclass
class _Conditions:
    """Where conditions hold along one axis; what was looked into is known."""

    maker: Mapping[Value, Operation]
    axis: str
    known: dict[tuple[Value, bool], Interval] = field(default_factory=dict)
    positions: _Positions = field(init=False)

    def __post_init__(self) -> None:
        self.positions = _Positions(self.maker)

    def holds(self, x: Operand, outcome: bool, depth: int) -> Interval:
        if not isinstance(x, Value):
            return UNKNOWN
        if (x, outcome) not in self.known:
            self.known[x, outcome] = self.made(x, outcome, depth)
        return self.known[x, outcome]

    def made(self, x: Value, outcome: bool, depth: int) -> Interval:
        op = self.maker.get(x)
        if op is None or not depth or not x.type.dtype.is_bool or self.axis not in getattr(x.type, "axes", ()):
            return UNKNOWN
        law = op.record.law
        if law is Law.NOT:
            return self.holds(op.operands[0], not outcome, depth - 1)
        if law in (Law.AND, Law.OR):
            a, b = (self.holds(y, outcome, depth - 1) for y in op.operands)
            return a.both(b) if (law is Law.AND) is outcome else a.hull(b)
        if law in _OPPOSITE or law is Law.EQUAL:
            left, right = (self.positions.of(y, depth - 1) for y in op.operands)
            return UNKNOWN if left is None or right is None else _compared(law, outcome, left - right, self.axis)
        return UNKNOWN


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

