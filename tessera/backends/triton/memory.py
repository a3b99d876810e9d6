"""Loads, stores and lookups: addresses, masks and guards over the sides of a tile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from tessera.backends.triton.expr import Expressions, Sizes
from tessera.backends.triton.statements import Statements, dim, dims
from tessera.backends.triton.tiling import Mode, Tiling
from tessera.ir.dialects.tile import INDEX, LOAD, LOOKUP, STORE
from tessera.ir.dim import Dim
from tessera.ir.dim_range import bounds
from tessera.ir.dtype import int64
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.types import TileType
from tessera.schedule.plan import ZERO
from tessera.schedule.ranges import provably_ge

POINTS, SWEPT = "points", "swept"
_BOTH = frozenset((POINTS, SWEPT))


@dataclass
class Sides:
    """The two sides of a tile in text: the constant that gives each its length, how it broadcasts, its mask.

    ``swept`` is the axis that the current sweep runs along, empty outside of sweeps.
    """

    tiling: Tiling
    swept: str = ""
    swept_mask: str = ""

    def block(self, side: str) -> str:
        return "ROWS" if self.tiling.sides == 2 and self.position(side) == 0 else "COLS"

    def broadcast(self, side: str) -> str:
        if self.tiling.sides < 2:
            return ""
        return ("[:, None]", "[None, :]")[self.position(side)]

    def ones(self, side: str) -> str:
        """The shape of a value that varies along one side only."""
        if self.tiling.sides < 2:
            return "[COLS]"
        return ("[ROWS, 1]", "[1, COLS]")[self.position(side)]

    def position(self, side: str) -> int:
        t = self.tiling
        return t.swept_side if side == SWEPT or t.sides < 2 else 1 - t.swept_side

    @property
    def points_mask(self) -> str:
        return f"in_{self.block(POINTS).lower()}" if self.tiling.tiled else ""

    @property
    def shape(self) -> str:
        return "[ROWS, COLS]" if self.tiling.sides == 2 else "[COLS]"

    def of(self, names: frozenset[str], lookups: Sequence[Operand] = ()) -> frozenset[str]:
        """The sides that an expression over these names varies along; ``_l0`` stands for the first lookup."""
        axes = set(names)
        for n, v in enumerate(lookups):
            if f"_l{n}" in names and isinstance(v, Value) and isinstance(v.type, TileType):
                axes |= set(v.type.axes)
        along = [POINTS] if axes & set(self.tiling.tiled) else []
        return frozenset([*along, SWEPT] if self.swept and self.swept in axes else along)


@dataclass
class Memory(Statements):
    """Statements that touch memory. ``reads`` counts the loads that a looped nest still has before it."""

    mode: Mode = "tile"
    sides: Sides = field(kw_only=True)
    looks_up: bool = False
    reads: Counter[object] = field(default_factory=Counter)

    def statement(self, op: Operation) -> None:
        if op.record is LOAD:
            self.load(op)
        elif op.record is STORE:
            self.store(op)
        elif op.record is LOOKUP:
            self.lookup(op)
        elif op.record is INDEX:
            text = f"tl.cast({self.exprs.text(dim(op.attrs['of']))}, tl.int64)"
            self.values[op.result] = self.define("at", text)
        else:
            self.values[op.result] = self.define(op.name, self.expression(op, op.operands))

    def mask(self, sides: frozenset[str]) -> list[str]:
        """The bounds of the sides, one variable for both where both matter."""
        points = self.sides.points_mask if POINTS in sides else ""
        swept = self.sides.swept_mask if SWEPT in sides else ""
        if points and swept:
            return [self.define("inside", f"{points} & {swept}")]
        return [m for m in (points, swept) if m]

    def address(self, op: Operation, lookups: Sequence[Operand] = ()) -> tuple[str, str]:
        """(pointer, mask) of a load or store."""
        offset = dim(op.attrs["index"])
        self.exprs.axes.update({f"_l{n}": self.text(v) for n, v in enumerate(lookups)})
        sides = wanted = self.sides.of(offset.names(), lookups)
        tests: list[str] = []
        guard = op.attrs.get("guard") or ()
        assert isinstance(guard, tuple)
        for part in guard:
            e, lo, hi = dims(part)
            wanted |= self.sides.of(e.names(), lookups)
            tests += self.within(e, lo, hi)
        text = self.exprs.text(offset)
        for n in range(len(lookups)):
            del self.exprs.axes[f"_l{n}"]
        pointer = self.text(op.operands[0])
        pointer = pointer if text == "0" else f"{pointer} + {text}".replace("+ -", "- ")
        for side in sorted(wanted - sides):
            pointer += f" + tl.zeros({self.sides.ones(side)}, tl.int32)"
        return self.used.note(pointer), self.used.note(" & ".join((*self.mask(wanted), *tests)))

    def within(self, e: Dim, lo: Dim, hi: Dim) -> list[str]:
        """Tests of ``lo <= e < hi``, those left out that the ranges of the axes settle."""
        known = not any(n.startswith("_l") for n in e.names())
        low, high = bounds(e, self.exprs.ranges) if known else (None, None)
        text = self.exprs.text(e)
        out = []
        if low is None or not provably_ge(low, lo):
            out.append(f"({text} >= {self.exprs.text(lo)})")
        if high is None or not provably_ge(hi, high + 1):
            out.append(f"({text} < {self.exprs.text(hi)})")
        return out

    def load(self, op: Operation) -> None:
        pointer, mask = self.address(op, op.operands[1:])
        other = "0.0" if op.result.type.dtype.is_float else "0"
        masked = f", mask={mask}, other={other}" if mask else ""
        self.values[op.result] = self.define("load", f"tl.load({pointer}{masked}{self.eviction(op)})")

    def eviction(self, op: Operation) -> str:
        """What a looped row reads again stays in cache; what is read for the last time may go."""
        t = self.sides.tiling
        if self.mode != "loop" or len(t.sweeps) == 1 or not self.sides.swept:
            return ""
        along = self.sides.of(dim(op.attrs["index"]).names())
        if along != (_BOTH if t.sides == 2 else frozenset((SWEPT,))):
            return ""
        policy = "evict_last" if self.reads[load_key(op)] > 1 else "evict_first"
        return f', eviction_policy="{policy}"'

    def store(self, op: Operation) -> None:
        buffer, x = op.operands
        to = buffer.type.dtype
        pointer, mask = self.address(op)
        if isinstance(x, Literal):
            value = self.text(x, to, alone=True)
        else:
            value = self.text(x) if x.type.dtype is to else self.cast(x, to)
        masked = f", mask={mask}" if mask else ""
        self.lines.add(f"tl.store({pointer}, {self.used.note(value)}{masked})")

    def lookup(self, op: Operation) -> None:
        """An index checked, from its end on where it wraps; the check stops a program that is compiled with checks."""
        self.looks_up = True
        x, n = self.text(op.operands[0], int64), self.exprs.text(dim(op.attrs["size"]))
        at = self.define("index", f"tl.where({x} < 0, {x} + {n}, {x})" if op.attrs.get("wraps") else x)
        fits = self.define("fits", f"({at} >= 0) & ({at} < {n})")
        kind = op.result.type
        assert isinstance(kind, TileType)
        mask = " & ".join(self.mask(self.sides.of(frozenset(kind.axes))))
        absent = f" | ~{mask}" if mask else ""
        self.lines.add(f'tl.device_assert({fits}{absent}, "index out of range")')
        self.values[op.result] = self.define("lookup", f"tl.where({fits}, {at}, 0)")


def load_key(op: Operation) -> object:
    """Two loads with equal keys read the same memory."""
    return (op.operands, op.attrs["index"], op.attrs.get("guard"))


def expressions(tiling: Tiling) -> Expressions:
    """Renders the index expressions of a nest."""
    return Expressions(Sizes(), {a: (ZERO, e) for a, e in tiling.extents.items()})
