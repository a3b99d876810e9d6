"""Where a loop over blocks may begin and end: conditions on positions, solved for the position that is walked.

A gate says that points at which a condition is false add nothing. Where the condition compares sums of positions, and
of integers that are the same in all blocks, it holds inside of bounds, and blocks beyond them are left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal as OneOf

from tessera.backends.triton.block_memory import BlockStatements
from tessera.backends.triton.blocks import COLS, ROWS, varying
from tessera.backends.triton.statements import dim
from tessera.ir.dialects.tile import GATE, INDEX
from tessera.ir.dim import Dim
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.schedule.plan import ZERO

#: How many operations of a condition are looked at.
DEPTH = 16

Comparison = OneOf["<", "<=", ">", ">=", "=="]
#: What comparisons mean, and what is true where they are false.
COMPARISONS: Mapping[str, tuple[Comparison, Comparison | None]] = MappingProxyType(
    {"lt": ("<", ">="), "le": ("<=", ">"), "gt": (">", "<="), "ge": (">=", "<"), "eq": ("==", None)}
)
#: What joins conditions: whether both must hold.
JOINS: Mapping[str, bool] = MappingProxyType(
    {"logical_and": True, "bitwise_and": True, "logical_or": False, "bitwise_or": False}
)
NEGATIONS = ("logical_not", "bitwise_not")
#: Sums: the sign of each operand.
SUMS: Mapping[str, tuple[int, ...]] = MappingProxyType({"add": (1, 1), "sub": (1, -1), "neg": (-1,)})


SIGNS: Mapping[str, str] = MappingProxyType({"lt": "<", "le": "<=", "gt": ">", "ge": ">=", "eq": "==", "ne": "!="})
#: How often one position may count in a comparison of 32 bits, and what is far from every point of a tile.
FACTOR, FAR = 1 << 10, 1 << 30


@dataclass(frozen=True, slots=True)
class Reach:
    """Bounds outside of which a condition is false, as text; None where there is none. ``high`` is exclusive."""

    low: str | None = None
    high: str | None = None

    def both(self, other: Reach) -> Reach:
        return Reach(_joined("maximum", self.low, other.low), _joined("minimum", self.high, other.high))

    def either(self, other: Reach) -> Reach:
        low = _joined("minimum", self.low, other.low) if self.low and other.low else None
        return Reach(low, _joined("maximum", self.high, other.high) if self.high and other.high else None)


def _joined(how: str, a: str | None, b: str | None) -> str | None:
    return f"tl.{how}({a}, {b})" if a and b else a or b


def loop_bounds(e: BlockStatements, swept: Operation) -> tuple[str, str]:
    """The bounds of the loop over the blocks of a sweep; what they need is written before it."""
    side = e.layout.by_block[COLS]
    lo, hi = e.exprs.text(side.lo[0]), e.exprs.text(side.hi[0])
    assert swept.body is not None
    solver = _Solver(e, side.axes[0], frozenset(varying(swept)))
    found = Reach()
    for op in swept.body.ops:
        if op.record is GATE:
            (alive,) = op.operands
            found = found.both(solver.reach(alive, True, DEPTH))
    if found.high is not None:
        hi = _integer(e, "stop", f"tl.minimum({found.high}, {hi})")
    if found.low is not None and side.lo[0] is ZERO:
        lo = _integer(e, "first", f"tl.maximum({found.low}, 0) // {COLS} * {COLS}")
    return lo, hi


def narrow_comparison(e: BlockStatements, op: Operation, swept: Operation) -> str | None:
    """A comparison of positions in the current frame with 32 bits a point: what all points share is on one side of it,
    and kept within the range beyond which it alone decides. None for other operations.
    """
    if (op.name not in COMPARISONS and op.name != "ne") or len(e.frame) != 2:
        return None
    solver = _Solver(e, e.layout.by_block[COLS].axes[0], frozenset(varying(swept)))
    a, b = (solver.sum(x, DEPTH) for x in op.operands)
    if a is None or b is None:
        return None
    total = solver.whole(a.plus(b.scaled(-1)))
    if total is None:
        return None
    slopes = {n: coefficient(total, n) for n in total.names() & e.layout.home.keys()}
    if any(c is None or not c.is_const or abs(c.value) > FACTOR for c in slopes.values()):
        return None
    if any(len(e.layout.home[n].axes) > 1 for n in slopes) or {e.layout.home[n] for n in slopes} != set(e.frame):
        return None
    first, second = (
        next((n, c.value) for n, c in slopes.items() if c is not None and e.layout.home[n] is s) for s in e.frame
    )
    apart = f"tl.maximum(tl.cast({e.shared(total)}, tl.int64), -{FAR})"
    shared = e.define("shift", f"tl.minimum({apart}, {FAR}).to(tl.int32)")
    with e.along(()):
        left = e.define("near", _times(first[1], e.lanes_of(first[0])))
        right = e.define("near", f"{_times(-second[1], e.lanes_of(second[0]))} - {shared}")
    return f"{left}[:, None] {SIGNS[op.name]} {right}[None, :]"


def _times(n: int, text: str) -> str:
    return text if n == 1 else f"-{text}" if n == -1 else f"{n} * {text}"


def _integer(e: BlockStatements, hint: str, text: str) -> str:
    name = e.define(hint, text)
    e.lines.add("if not WIDE:")
    e.lines.add(f"    {name} = tl.cast({name}, tl.int32)")
    return name


@dataclass(frozen=True)
class _Sum:
    """``slope`` times the walked position, and multiples of what is the same in all blocks."""

    slope: int = 0
    terms: tuple[tuple[int, Value | Dim], ...] = ()

    def scaled(self, n: int) -> _Sum:
        return _Sum(self.slope * n, tuple((n * m, t) for m, t in self.terms))

    def plus(self, other: _Sum) -> _Sum:
        return _Sum(self.slope + other.slope, self.terms + other.terms)


@dataclass(frozen=True)
class _Solver:
    e: BlockStatements
    axis: str
    variant: frozenset[Value]

    def reach(self, x: Operand, wanted: bool, depth: int) -> Reach:
        """Where ``x`` may have the wanted outcome."""
        op = self.e.layout.maker.get(x) if isinstance(x, Value) else None
        if op is None or not depth:
            return Reach()
        if op.name in NEGATIONS:
            return self.reach(op.operands[0], not wanted, depth - 1)
        if op.name in JOINS:
            a, b = (self.reach(y, wanted, depth - 1) for y in op.operands)
            return a.both(b) if JOINS[op.name] is wanted else a.either(b)
        sign = "==" if op.name == "ne" and not wanted else COMPARISONS.get(op.name, (None, None))[not wanted]
        return Reach() if sign is None else self.compared(op, sign)

    def compared(self, op: Operation, sign: str) -> Reach:
        a, b = (self.sum(x, DEPTH) for x in op.operands)
        if a is None or b is None:
            return Reach()
        left = a.plus(b.scaled(-1))  # compared with 0
        if sign == "==":
            return self.below(left, 1).both(self.below(left.scaled(-1), 1))
        if sign in (">", ">="):
            left = left.scaled(-1)
        return self.below(left, int(sign in ("<=", ">=")))

    def below(self, left: _Sum, more: int) -> Reach:
        """Where ``left < more``."""
        if left.slope == 1:  # position < more - terms
            high = self.extreme(_Sum(0, left.terms).scaled(-1), "max")
            return Reach(high=f"{high} + {more}" if high and more else high)
        if left.slope == -1:  # position > terms - more
            low = self.extreme(_Sum(0, left.terms), "min")
            return Reach(low=f"{low} + {1 - more}" if low and not more else low)
        return Reach()

    def extreme(self, s: _Sum, which: str) -> str | None:
        """The largest or least value of a sum over the points of a program."""
        sides = frozenset[str]()
        for _, t in s.terms:
            sides |= self.e.sides_of(t) if isinstance(t, Dim) else self.e.spread.get(t, frozenset())
        if not sides <= {ROWS}:
            return None
        with self.e.along(sides):
            texts = [self.term(n, t) for n, t in s.terms] or ["0"]
        total = " + ".join(texts)
        return f"tl.{which}({total}, axis=0)" if sides else f"({total})"

    def term(self, n: int, t: Value | Dim) -> str:
        text = self.e.place(t) if isinstance(t, Dim) else self.e.text(t)
        return text if n == 1 else f"{n} * ({text})"

    def sum(self, x: Operand, depth: int) -> _Sum | None:
        """An integer as a sum; None where it is none that is known before the loop."""
        if isinstance(x, Literal):
            if isinstance(x.value, Dim):
                return _Sum(0, ((1, x.value),))
            return _Sum(0, ((1, Dim.const(x.value)),)) if type(x.value) is int else None
        if not x.type.dtype.is_int or not depth:
            return None
        op = self.e.layout.maker.get(x)
        if op is not None and op.record is INDEX:
            return self.place(dim(op.attrs["of"]))
        found = None if op is None else self.combined(op, depth)
        if found is not None or x in self.variant:
            return found
        return _Sum(0, ((1, x),)) if x in self.e.values or x in self.e.names else None

    def combined(self, op: Operation, depth: int) -> _Sum | None:
        if op.name in SUMS:
            total: _Sum | None = _Sum()
            for sign, y in zip(SUMS[op.name], op.operands, strict=True):
                part = self.sum(y, depth - 1)
                total = None if total is None or part is None else total.plus(part.scaled(sign))
            return total
        if op.name == "mul":
            for y, number in (op.operands, tuple(reversed(op.operands))):
                if isinstance(number, Literal) and type(number.value) is int:
                    part = self.sum(y, depth - 1)
                    return None if part is None else part.scaled(number.value)
        return None

    def whole(self, s: _Sum) -> Dim | None:
        """A sum of positions and sizes alone as one expression."""
        total = s.slope * Dim.name(self.axis)
        for n, t in s.terms:
            if not isinstance(t, Dim):
                return None
            total = total + n * t
        return total

    def place(self, e: Dim) -> _Sum | None:
        slope = coefficient(e, self.axis)
        if slope is None or not slope.is_const:
            return None
        return _Sum(slope.value, ((1, e - slope * Dim.name(self.axis)),))
