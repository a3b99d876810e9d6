"""Where a loop over blocks may begin and end, and conditions on positions with few bits a point.

A sweep says where its points are alive, and gates say at which points a condition is false that adds nothing. Both give
bounds for the loop, for those points of the other axes that a program has.
"""

from __future__ import annotations

from collections.abc import Sequence

from tessera.backends.triton import intrinsics
from tessera.backends.triton.block_memory import BlockStatements
from tessera.backends.triton.blocks import COLS, ROWS
from tessera.ir.dialects.tile import GATE
from tessera.ir.dim import Dim
from tessera.ir.dim_range import coefficient
from tessera.ir.dtype import int32
from tessera.ir.graph import Operation, Value
from tessera.ir.intervals import Interval, holds, position
from tessera.ir.record import Law
from tessera.schedule.plan import ZERO

#: Comparisons that moving both operands alike does not change.
COMPARISONS = (Law.LESS, Law.AT_MOST, Law.GREATER, Law.AT_LEAST, Law.EQUAL)
#: How often one position may count in a comparison of 32 bits, and what is far from every point of a tile.
FACTOR, FAR = 1 << 10, 1 << 30


def loop_bounds(e: BlockStatements, swept: Operation) -> tuple[str, str]:
    """The bounds of the loop over the blocks of a sweep; what they need is written before it."""
    side = e.layout.by_block[COLS]
    lo, hi = e.exprs.text(side.lo[0]), e.exprs.text(side.hi[0])
    low, high = _alive(swept)
    for first, end, known in [(low, high, ()), *_gates(e, swept)]:
        stop = None if end is None else _extreme(e, end, known, "max")
        start = None if first is None else _extreme(e, first, known, "min")
        if stop is not None:
            hi = integer(e, "stop", f"tl.minimum({stop}, {hi})")
        if start is not None and side.lo[0] is ZERO:
            lo = integer(e, "first", f"tl.maximum({start}, {lo}) // {COLS} * {COLS}")
    return lo, hi


def _alive(swept: Operation) -> tuple[Dim | None, Dim | None]:
    given = swept.attrs.get("alive")
    if not isinstance(given, tuple):
        return None, None
    low, high = (x if isinstance(x, Dim) else None for x in given)
    return low, high


def _gates(e: BlockStatements, swept: Operation) -> list[tuple[Dim | None, Dim | None, Sequence[Value]]]:
    """Bounds from gates, in which integers that are the same in all blocks stand as ``_l0``, ``_l1``, ..."""
    assert swept.body is not None
    alike = tuple(v for v in e.values if v in e.spread and v.type.dtype.is_int and v in e.layout.maker)
    maker = dict(e.layout.maker)
    for n, v in enumerate(alike):
        if position(v, e.layout.maker) is None:
            maker[v] = Operation(maker[v].record, (), (v,), {"of": Dim.name(f"_l{n}")})
    found: list[tuple[Dim | None, Dim | None, Sequence[Value]]] = []
    for op in swept.body.ops:
        if op.record is GATE:
            within: Interval = holds(op.operands[0], True, maker, e.layout.by_block[COLS].axes[0])
            found.append((within.lo, within.hi, alike))
    return found


def _extreme(e: BlockStatements, at: Dim, known: Sequence[Value], which: str) -> str | None:
    """The largest or least value of an expression over the points of a program; None where it differs along others."""
    sides = e.sides_of(at, known)
    if not sides <= {ROWS}:
        return None
    with e.along(sides):
        text = e.place(at, list(known))
    return f"tl.{which}({text}, axis=0)" if sides else f"({text})"


def integer(e: BlockStatements, hint: str, text: str) -> str:
    """A bound of a loop in a variable, of 32 bits where positions have no more."""
    name = e.define(hint, text)
    e.lines.add("if not WIDE:")
    e.lines.add(f"    {name} = tl.cast({name}, tl.int32)")
    return name


def narrow_comparison(e: BlockStatements, op: Operation) -> str | None:
    """A comparison of positions in the current frame with 32 bits a point: what all points share is on one side of it,
    and kept within the range beyond which it alone decides. None for other operations.
    """
    if op.record.law not in COMPARISONS or len(e.frame) != 2:
        return None
    a, b = (position(x, e.layout.maker) for x in op.operands)
    if a is None or b is None:
        return None
    total = a - b
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
    return intrinsics.call(op.name, (f"{left}[:, None]", f"{right}[None, :]"), int32)


def _times(n: int, text: str) -> str:
    return text if n == 1 else f"-{text}" if n == -1 else f"{n} * {text}"
