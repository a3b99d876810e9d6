"""How a nest of sweeps inside each other is laid over programs: products of tiles, block after block.

A program has one block of points of one parallel axis and walks the outer sweep in blocks. Axes of inner sweeps are
held whole, or walked as well when they are long. Every value lies along at most two sides of these.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from tessera.backends.base import Target
from tessera.backends.triton.statements import dims
from tessera.backends.triton.tiling import Mode, without_piece, without_units
from tessera.ir.dialects import OPS
from tessera.ir.dialects.tile import GATE, LOAD, MMA, RUNNING, STORE
from tessera.ir.dim import Dim, product
from tessera.ir.dim_range import coefficient
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind
from tessera.ir.types import TileType
from tessera.schedule.plan import ONE, ZERO, Unschedulable

ROWS, COLS = "ROWS", "COLS"
#: The constant that says how many columns are finished at a time.
PART = "PART"
#: A number of a piece beyond all that there are.
BEYOND = 1 << 30
_CAST = OPS["cast"]
#: Floats whose products a GPU forms without loss from the narrow operands.
NARROW = ("bf16", "f16")
#: 8-bit floats are exact in this one.
EIGHT = ("fp8_e4m3", "fp8_e5m2")


@dataclass(frozen=True, slots=True)
class Side:
    """One side of tiles: the axes along it, as one flat axis, and the constant that gives its length in a program.

    Tiles have their sides in the order of ``rank``, so that a product's first operand ends where its second begins.
    ``folded`` says that products sum over it, ``parts`` that programs share it out.
    """

    block: str
    axes: tuple[str, ...]
    lo: tuple[Dim, ...]
    hi: tuple[Dim, ...]
    rank: int
    folded: bool = False
    parts: bool = False

    @property
    def extent(self) -> Dim:
        return product(b - a for a, b in zip(self.lo, self.hi, strict=True))

    @property
    def even(self) -> str:
        """The constant that says whether blocks fill the side."""
        return f"{self.block}_EVEN"


@dataclass(frozen=True)
class Blocks:
    """A nest laid out. ``before`` and ``after`` stand around the sweep that is walked; ``single`` are parallel axes
    with one value in a program. Where nothing is folded over the sweep, it is not walked (``walks``): its blocks are
    programs of their own.
    """

    before: tuple[Operation, ...]
    swept: Operation
    after: tuple[Operation, ...]
    extents: Mapping[str, Dim]
    single: tuple[str, ...]
    sides: tuple[Side, ...]
    walks: bool
    target: Target
    maker: Mapping[Value, Operation] = field(repr=False)

    @cached_property
    def home(self) -> Mapping[str, Side]:
        """The side that each axis lies along."""
        return {a: s for s in self.sides for a in s.axes}

    @cached_property
    def by_block(self) -> Mapping[str, Side]:
        return {s.block: s for s in self.sides}

    def ordered(self, blocks: Iterable[str]) -> tuple[Side, ...]:
        """Sides in the order in which a tile has them."""
        return tuple(sorted((self.by_block[b] for b in blocks), key=lambda s: (s.rank, s.block)))

    @property
    def tiled(self) -> tuple[Side, ...]:
        """The sides whose blocks are programs, without those that are merely shared out."""
        return tuple(s for s in self.sides if s.block == ROWS or (s.block == COLS and not self.walks))

    @property
    def inner(self) -> tuple[Side, ...]:
        """Sides that products inside a block sum over."""
        return tuple(s for s in self.sides if s.folded and s.block != COLS)

    @property
    def shared(self) -> tuple[Side, ...]:
        """Sides that are shared out over programs."""
        return tuple(s for s in self.sides if s.parts)

    @property
    def modes(self) -> tuple[Mode, ...]:
        """``held``: inner sides are whole; ``walked``: they are walked in blocks."""
        return ("held", "walked") if self.inner else ("held",)

    @cached_property
    def products(self) -> tuple[Operation, ...]:
        return tuple(o for o in every((self.swept,)) if o.record is MMA)

    @property
    def outer(self) -> Dim:
        return product(self.extents[a] for a in self.single)

    @cached_property
    def parted(self) -> bool:
        """Are results finished and stored some columns at a time? Fewer registers then hold what becomes of them."""
        sides = [{s.block for a in depends(o.result) if (s := self.home.get(a))} for o in self.products]
        return not self.walks and bool(sides) and all(s == {ROWS, COLS} or COLS not in s for s in sides)

    def along_cols(self, op: Operation) -> bool:
        """Do the results of an operation differ along the columns?"""
        return any(self.home[a].block == COLS for a in depends(*op.results) if a in self.home)

    @cached_property
    def folded(self) -> int:
        """How many different values the walked sweep folds, at least 2."""
        over = self.swept.attrs["axes"]
        folds = [o for o in every((self.swept,)) if o.body is None and o.attrs.get("over") == over]
        kept = {self.original(o.operands[0]) for o in folds}
        return max(len(kept), 2)

    @cached_property
    def work(self) -> int:
        """How many operations a point of a block takes besides its products."""
        assert self.swept.body is not None
        sides = [{s.block for a in depends(*o.results) if (s := self.home.get(a))} for o in self.swept.body.ops
                 if o.record.kind is Kind.MAP]  # fmt: skip
        return sum(len(s) == 2 for s in sides)

    def extents_of(self, s: Side, sizes: Mapping[str, int]) -> tuple[int, int]:
        """How long a side is where every parallel axis is at its first point, which is where it is longest; and up to
        a multiple of the length of a piece how long the last one is, where the side is a piece of a sum.
        """
        at = ({**sizes, **dict.fromkeys(self.single, n)} for n in (0, BEYOND))
        first, last = (s.extent.evaluate(known, signed=True) for known in at)
        return max(first, 0), last

    def original(self, x: object) -> object:
        """What ``x`` is a conversion of."""
        while isinstance(x, Value) and (op := self.maker.get(x)) is not None and op.record is _CAST:
            x = op.operands[0]
        return x

    @cached_property
    def width(self) -> int:
        """Bytes of the widest operand of a product."""
        found = [self.source(x).type.dtype.bits // 8 for o in self.products for x in o.operands[:2]
                 if isinstance(x, Value)]  # fmt: skip
        return max(found, default=4)

    @cached_property
    def loads(self) -> tuple[tuple[frozenset[str], int, bool], ...]:
        """What is read inside the walked sweep: the sides it lies along, bytes an element, and whether every block
        reads it anew.
        """
        varied, found = varying(self.swept), {}
        for o in every((self.swept,)):
            if o.record is LOAD:
                sides = frozenset(self.home[n].block for n in dims(o.attrs["index"])[0].names() & self.home.keys())
                key = (o.operands, o.attrs["index"])
                found[key] = (sides, max(o.result.type.dtype.bits // 8, 1), o.result in varied)
        return tuple(found.values())

    @cached_property
    def stores(self) -> tuple[tuple[frozenset[str], int], ...]:
        """What is written inside the sweep: the sides it lies along, and bytes an element."""
        written = [o for o in every((self.swept,)) if o.record is STORE]
        places = [dims(o.attrs["index"])[0].names() & self.home.keys() for o in written]
        return tuple(
            (frozenset(self.home[n].block for n in at), o.operands[0].type.dtype.bytes)
            for o, at in zip(written, places, strict=True)
        )

    @cached_property
    def slopes(self) -> Mapping[str, tuple[Dim, ...]]:
        """By side, by how much addresses move from one point of it to the next."""
        found: dict[str, dict[Dim, None]] = {}
        for o in every((*self.before, self.swept, *self.after)):
            for e in dims(o.attrs["index"]) if o.record in (LOAD, STORE) else ():
                for axis in e.names() & self.home.keys():
                    step = coefficient(e, axis)
                    if step is not None and not step.names() & self.scope:
                        found.setdefault(self.home[axis].block, {})[step] = None
        return {block: tuple(steps) for block, steps in found.items()}

    @cached_property
    def scope(self) -> frozenset[str]:
        """All axes."""
        return frozenset((*self.extents, *self.home))

    def source(self, x: Value) -> Value:
        """What ``x`` is a mere conversion of from a narrow float, otherwise ``x``."""
        op = self.maker.get(x)
        if op is None or op.record is not _CAST or not isinstance(op.operands[0], Value):
            return x
        below = op.operands[0]
        exact = x.type.dtype.is_float and below.type.dtype.name in (*NARROW, *EIGHT)
        return below if exact and isinstance(below.type, TileType) else x


@dataclass(frozen=True)
class Sized:
    """A nest at given sizes. What it asks of them is computed once, for all the blocks that are tried."""

    layout: Blocks
    sizes: Mapping[str, int]

    @cached_property
    def extents(self) -> Mapping[str, tuple[int, int]]:
        """The extents of each side, as ``Blocks.extents_of`` has them."""
        return {s.block: self.layout.extents_of(s, self.sizes) for s in self.layout.sides}

    @cached_property
    def outer(self) -> int:
        """How many tiles there are for each place along the sides."""
        return self.layout.outer.evaluate(self.sizes)

    @cached_property
    def aligned(self) -> bool:
        """Do the rows of all matrices begin at multiples of 16 elements, if the matrices do?"""
        found = (d.evaluate(self.sizes, signed=True) for steps in self.layout.slopes.values() for d in steps)
        return all(n in (0, 1) or n % 16 == 0 for n in found)

    @cached_property
    def reach(self) -> Mapping[str, tuple[int, int]]:
        """By side, where it ends, and by how much addresses move at most from one point of it to the next."""
        t = self.layout
        last = {**self.sizes, **dict.fromkeys(t.single, BEYOND)}
        ends = {s.block: product(s.hi).evaluate(last, signed=True) for s in t.sides}
        slopes = {b: [abs(d.evaluate(self.sizes, signed=True)) for d in t.slopes.get(b, ())] for b in ends}
        return {block: (end, max(slopes[block], default=0)) for block, end in ends.items()}


def has_blocks(nest: Operation) -> bool:
    """Does a nest need this layout: has it products, or sweeps inside sweeps?"""
    assert nest.body is not None
    inside = [o for s in nest.body.ops if s.body is not None for o in s.body.ops]
    return any(o.body is not None or o.record in (MMA, RUNNING, GATE) for o in inside)


def every(ops: Sequence[Operation]) -> Iterator[Operation]:
    """All operations, those of sweeps after the sweep itself."""
    pending = list(reversed(ops))
    while pending:
        op = pending.pop()
        yield op
        if op.body is not None:
            pending.extend(reversed(op.body.ops))


def blocks(nest: Operation, target: Target) -> Blocks:
    """Lay one nest over programs. Raises Unschedulable where tiles would need more than two sides."""
    assert nest.body is not None
    flat = tuple(_flat(op) for op in nest.body.ops)
    maker = {r: o for o in every(flat) for r in o.results}
    extents = dict(zip(names(nest.attrs["axes"]), bounds_of(nest.attrs["extents"]), strict=True))
    ops, extents = uncut(living(flat), extents)
    found = [n for n, op in enumerate(ops) if op.body is not None and folded_in(op)]
    walks = bool(found)
    found = found or [n for n, op in enumerate(ops) if op.body is not None]
    if len(found) != 1:
        raise Unschedulable("blocks are made of one sweep, and this nest has several")
    at = found[0]
    swept = ops[at]
    row = _rows(swept, tuple(extents))
    sides = [] if row is None else [Side(ROWS, (row,), (ZERO,), (extents[row],), 0)]
    sides += _inner_sides(ops, swept)
    if not walks:
        sides = _tiled(sides, swept)
    single = tuple(a for a in extents if a != row)
    return Blocks(ops[:at], swept, ops[at + 1 :], extents, single, tuple(sides), walks, target, maker)


def uncut(ops: tuple[Operation, ...], extents: Mapping[str, Dim]) -> tuple[tuple[Operation, ...], dict[str, Dim]]:
    """The operations, with sweeps whole that were cut into pieces: programs share them out otherwise."""
    kept = dict(extents)
    for piece in extents:
        whole: list[Operation] = []
        for op in ops:
            inside = [e for o in every((op,)) if o.body is None for e in dims(tuple(o.attrs.values()))]
            reads = {n for e in inside for n in e.names()}
            if op.body is None and piece not in reads | depends(*op.results):
                whole.append(op)
                continue
            if op.body is None or piece in reads or len(bounds_of(op.attrs["lo"])) != 1:
                break
            bounds = without_piece(bounds_of(op.attrs["lo"])[0], bounds_of(op.attrs["hi"])[0], piece)
            if bounds is None:
                break
            whole.append(replace(op, attrs={**op.attrs, "lo": bounds[:1], "hi": bounds[1:]}))
        else:
            ops = tuple(whole)
            del kept[piece]
    return ops, kept


def _tiled(sides: Sequence[Side], swept: Operation) -> list[Side]:
    """The sides of a sweep whose blocks are programs: the one along which more is contiguous comes last."""
    rows, cols = (next((s for s in sides if s.block == b), None) for b in (ROWS, COLS))
    assert cols is not None
    others = [s for s in sides if s not in (rows, cols)]
    cols = replace(cols, folded=False)
    if rows is None:
        return [cols, *others]
    stores = [dims(o.attrs["index"])[0] for o in every((swept,)) if o.record is STORE]
    if sum((coefficient(e, rows.axes[0]) is ONE) - (coefficient(e, cols.axes[0]) is ONE) for e in stores) > 0:
        rows, cols = replace(cols, block=ROWS, rank=0), replace(rows, block=COLS, rank=2)
    return [rows, cols, *others]


def _flat(op: Operation) -> Operation:
    """A sweep without axes of one point, at every depth; they are at most a few deep."""
    if op.body is None:
        return op
    inside = tuple(_flat(o) for o in op.body.ops)
    return without_units(replace(op, body=replace(op.body, ops=inside)))


def folded_in(sweep: Operation) -> bool:
    """Does something fold over the axes of a sweep?"""
    return any(o.attrs.get("over") == sweep.attrs["axes"] for o in every((sweep,)) if o.body is None)


def _rows(swept: Operation, axes: Sequence[str]) -> str | None:
    """The parallel axis that tiles have as a side: the innermost that no product has in both operands."""
    pairs = [[depends(x) for x in o.operands[:2]] for o in every((swept,)) if o.record is MMA]
    for axis in reversed(axes):
        if not any(axis in a and axis in b for a, b in pairs):
            return axis
    return None


def depends(*values: object) -> frozenset[str]:
    """The axes that values depend on."""
    return frozenset(a for x in values if isinstance(x, Value) and isinstance(x.type, TileType) for a in x.type.axes)


def _inner_sides(ops: Sequence[Operation], swept: Operation) -> list[Side]:
    """The sides of the sweeps: the walked one, and each set of axes that sweeps inside or after it run along."""
    folded = {o.attrs["over"] for o in every((swept,)) if o.record is MMA or o.record.kind is Kind.REDUCE}
    found: dict[tuple[str, ...], Side] = {}
    for op in every(ops):
        if op.body is None or not (axes := names(op.attrs["axes"])):
            continue
        lo, hi = bounds_of(op.attrs["lo"]), bounds_of(op.attrs["hi"])
        if op is swept:
            if len(axes) != 1:
                raise Unschedulable("a sweep over several axes at once is not walked in blocks")
            found[axes] = Side(COLS, axes, lo, hi, 2, True)
            continue
        inner = op.attrs["axes"] in folded
        side = Side(f"HELD{len(found)}", axes, lo, hi, 1 if inner else 3, inner, not inner)
        old = found.setdefault(axes, side)
        if (old.lo, old.hi) != (lo, hi):
            raise Unschedulable(f"two sweeps along `{axes[0]}` have different bounds")
        if not lo or (any(e is not ZERO for e in lo) and (len(lo) > 1 or not inner)):
            raise Unschedulable(f"the sweep along `{axes[0]}` does not begin at 0")
    homes = [a for side in found.values() for a in side.axes]
    if len(set(homes)) != len(homes):
        raise Unschedulable("one axis is swept alone and together with others")
    return list(found.values())


def living(ops: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """The operations without those that only gates read."""
    flat = list(every(ops))
    needed: set[Value] = set()
    keep: set[int] = set()
    for op in reversed(flat):
        wanted = op.record is STORE or any(r in needed for r in op.results)
        if op.body is None and wanted:
            keep.add(id(op))
            needed.update(op.inputs)
    return tuple(_kept(op, keep) for op in ops if op.body is not None or id(op) in keep)


def _kept(op: Operation, keep: set[int]) -> Operation:
    if op.body is None:
        return op
    inside = tuple(
        _kept(o, keep) for o in op.body.ops if o.body is not None or id(o) in keep or o.record is GATE
    )
    return replace(op, body=replace(op.body, ops=inside))


def varying(swept: Operation, known: Iterable[Value] = ()) -> set[Value]:
    """What differs between the blocks of a sweep; of some values it is known."""
    axes = set(names(swept.attrs["axes"]))
    out = set(known)
    for op in every((swept,)):
        if op.body is not None:
            continue
        reads = any(n in axes for e in dims(tuple(op.attrs.values())) for n in e.names())
        folds = op.attrs.get("over") == swept.attrs["axes"]
        if reads or folds or op.record in (RUNNING, STORE) or any(x in out for x in op.inputs):
            out.update(op.results)
    return out


def names(a: object) -> tuple[str, ...]:
    """An attribute that is a tuple of axes."""
    assert isinstance(a, tuple)
    return tuple(str(x) for x in a)


def bounds_of(a: object) -> tuple[Dim, ...]:
    """An attribute that is a tuple of sizes."""
    assert isinstance(a, tuple)
    return tuple(Dim.of(x) for x in a)


__all__ = ["COLS", "EIGHT", "LOAD", "NARROW", "ROWS", "Blocks", "Side", "blocks", "every", "has_blocks", "varying"]
