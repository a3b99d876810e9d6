"""How a nest with an ordered sweep is laid over programs, and how large it is for given sizes.

A program has a block of points of the vector axis, one of each other parallel axis, and takes the steps one after the
other. Every axis inside a step is a side that is whole in the program; local memory is a tensor in registers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from tessera.backends.base import Target
from tessera.backends.triton.block_config import LEAST, far
from tessera.backends.triton.blocks import Blocks, Side, Sized, bounds_of, every, names, varying
from tessera.backends.triton.rooms import room_of
from tessera.backends.triton.statements import dims
from tessera.backends.triton.tiling import Config, Mode, power
from tessera.ir.dialects.tile import GATE, INDEX, LOAD, LOCAL, MMA, RUNNING, STORE
from tessera.ir.dim import Dim
from tessera.ir.dim_range import simplify_index
from tessera.ir.dtype import f32
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind
from tessera.ir.types import BufferType
from tessera.schedule.plan import ZERO, Unschedulable
from tessera.schedule.ranges import Ranges, delinearize

#: The side of the points of the vector axis.
LANES = "LANES"
#: Registers of the largest tensor of a program that one warp holds well.
WARP_TILE = 1024
#: Lanes of a program: the most, and the fewest where programs are few, without and with axes inside a step.
MOST_LANES, FEWEST_LANES = 128, (32, 8)
#: Programs that keep a large GPU busy.
ENOUGH_PROGRAMS = 264
MOST_WARPS = 16
#: The same where lanes are columns of products of matrices, which more than one warp takes part in.
DOT_TILE, DOT_WARPS, FEWEST_COLUMNS = 8192, 8, 32
#: How many steps read at a time, where there is room.
STAGES = (3, 2)


@dataclass(frozen=True, slots=True)
class Cell:
    """Local memory as a tensor: the side of each of its dims, and whether it differs between lanes."""

    kind: BufferType
    blocks: tuple[str, ...]
    lanes: bool

    @property
    def sides(self) -> frozenset[str]:
        return frozenset((*self.blocks, LANES)) if self.lanes else frozenset(self.blocks)


@dataclass(frozen=True)
class Recurrence(Blocks):
    """A nest laid out; ``swept`` is the ordered sweep, ``walked`` are the axes of others in it. ``cells`` are its local
    memory, ``tiles`` the sides of all tensors that some operation needs, ``dots`` products of matrices by the sides of
    their operands.
    """

    walked: Mapping[str, tuple[Dim, Dim]] = field(default_factory=dict)
    cells: Mapping[Value, Cell] = field(default_factory=dict)
    tiles: frozenset[frozenset[str]] = frozenset()
    dots: Mapping[Operation, tuple[frozenset[str], frozenset[str]]] = field(default_factory=dict)

    @property
    def tiled(self) -> tuple[Side, ...]:
        return tuple(s for s in self.sides if s.block == LANES)

    @property
    def modes(self) -> tuple[Mode, ...]:
        return ("stepped",)

    @cached_property
    def ranges(self) -> Ranges:
        """The bounds of all axes but the one that is walked."""
        whole = {a: (ZERO, n) for a, n in self.extents.items()}
        inside = {a: (lo, hi) for s in self.sides for a, lo, hi in zip(s.axes, s.lo, s.hi, strict=True)}
        return whole | dict(self.walked) | inside

    @cached_property
    def loads(self) -> tuple[tuple[frozenset[str], int, bool], ...]:
        """What a step reads of its own, by pieces of more than one element."""
        varied = varying(self.swept, self.cells)
        own = {(o.operands, o.attrs["index"]): o for o in every((self.swept,)) if o.record is LOAD}
        found = []
        for o in own.values():
            sides = frozenset(self.home[n].block for n in o.dims("index")[0].names() & self.home.keys())
            if sides and o.result in varied and o.operands[0] not in self.cells:
                found.append((sides, max(o.result.type.dtype.bits // 8, 1), True))
        return tuple(found)

    @cached_property
    def carried(self) -> tuple[Cell, ...]:
        """The local memory that one step leaves for the next."""
        parts = (self.before, (self.swept,))
        first, later = ({o.operands[0] for o in every(ops) if o.record is STORE} for ops in parts)
        return tuple(c for v, c in self.cells.items() if v in first & later)

    @cached_property
    def words(self) -> int:
        """Registers an element."""
        found = [c.kind.dtype for c in self.cells.values()]
        found += [o.result.type.dtype for o in every((self.swept,)) if o.record is LOAD]
        return 2 if any(t.bits > 32 for t in found) else 1

    def registers(self, lengths: Mapping[str, int]) -> int:
        """Of the largest tensor, or of all that a step leaves for the next."""
        tiles = [math.prod(lengths[b] for b in tile) for tile in self.tiles]
        held = sum(math.prod(lengths[b] for b in c.sides) for c in self.carried)
        return self.words * max([*tiles, held])


def is_ordered(nest: Operation) -> bool:
    """Has the nest a sweep whose points follow each other?"""
    assert nest.body is not None
    return any(op.attrs.get("ordered") for op in nest.body.ops)


def recurrence(nest: Operation, target: Target) -> Recurrence:
    """Lay a nest with an ordered sweep over programs. Raises Unschedulable for what has no such layout."""
    assert nest.body is not None
    ops = nest.body.ops
    flat = tuple(every(ops))
    found = [n for n, op in enumerate(ops) if op.attrs.get("ordered")]
    ordered = [op for op in flat if op.attrs.get("ordered")]
    if len(found) != 1 or not all(o in tuple(every((ops[found[0]],))) for o in ordered):
        raise Unschedulable("a nest has one ordered sweep, and others in it alone")
    at = found[0]
    if any(len(names(o.attrs["axes"])) != 1 for o in ordered):
        raise Unschedulable("an ordered sweep has one axis")
    odd = next((op for op in flat if op.record in (RUNNING, GATE)), None)
    if odd is not None:
        raise Unschedulable(f"`{odd.name}` has no meaning where sweeps are whole")
    extents = dict(zip(names(nest.attrs["axes"]), bounds_of(nest.attrs["extents"]), strict=True))
    vector = str(nest.attrs["vector"])
    walked = {a: (lo, hi) for o in ordered
              for a, lo, hi in zip(names(o.attrs["axes"]), o.dims("lo"), o.dims("hi"), strict=True)}  # fmt: skip
    sides = _inner_sides(flat, (*extents, *walked))
    if vector in extents:
        sides.append(Side(LANES, (vector,), (ZERO,), (extents[vector],), len(sides)))
    single = tuple(a for a in extents if a != vector)
    maker = {r: o for o in flat for r in o.results}
    del walked[names(ops[at].attrs["axes"])[0]]
    bare = Recurrence(ops[:at], ops[at], ops[at + 1 :], extents, single, tuple(sides), True, target, maker, walked)
    return _spread(bare, flat)


def _inner_sides(flat: Sequence[Operation], scope: Sequence[str]) -> list[Side]:
    """A side for each axis of a sweep inside a step, or before or after the steps."""
    found: dict[str, Side] = {}
    for op in flat:
        if op.body is None or op.attrs.get("ordered"):
            continue
        bounds = zip(names(op.attrs["axes"]), bounds_of(op.attrs["lo"]), bounds_of(op.attrs["hi"]), strict=True)
        for axis, lo, hi in bounds:
            side = Side(f"HELD{len(found)}", (axis,), (lo,), (hi,), len(found))
            old = found.setdefault(axis, side)
            if (old.lo, old.hi) != (side.lo, side.hi):
                raise Unschedulable(f"two sweeps along `{axis}` have different bounds")
            if lo is not ZERO or hi.names() & {*scope, *found}:
                raise Unschedulable(f"the sweep along `{axis}` does not begin at 0, or ends here and there")
    return list(found.values())


def coordinates(t: Recurrence, index: Dim, kind: BufferType) -> tuple[Dim, ...]:
    """The position along each dim of local memory that an index is."""
    if not kind.dims:
        return ()
    return tuple(simplify_index(e, t.ranges) for e in delinearize(index, kind.dims))


def sides_at(t: Recurrence, index: Sequence[Dim], kind: BufferType) -> tuple[str, ...] | None:
    """The sides that the dims of local memory lie along where it is read or written whole; None elsewhere."""
    blocks = []
    for e, size in zip(index, kind.dims, strict=True):
        side = t.home.get(str(e)) if e.is_name else None
        if side is None or side.hi != (size,) or side.block == LANES:
            return None
        blocks.append(side.block)
    return tuple(blocks) if len(set(blocks)) == len(blocks) else None


def _spread(t: Recurrence, flat: Sequence[Operation]) -> Recurrence:
    """The layout with its local memory: along which sides it lies, and all that is computed."""
    cells: dict[Value, Cell] = {}
    for op in flat:
        if op.record is not STORE or not _is_local(op.operands[0]):
            continue
        v = op.operands[0]
        assert isinstance(v, Value) and isinstance(v.type, BufferType)
        blocks = sides_at(t, coordinates(t, op.dims("index")[0], v.type), v.type)
        if blocks is None or op.attrs.get("guard"):
            raise Unschedulable("local memory is written at a part of it")
        cells.setdefault(v, Cell(v.type, blocks, False))
    dots: dict[Operation, tuple[frozenset[str], frozenset[str]]] = {}
    while True:  # what a cell holds may differ between lanes because another one does
        on: dict[Value, frozenset[str]] = {}
        tiles = {c.sides for c in cells.values()}
        for op in flat:
            sides = _follow(t, op, on, cells)
            pair = _matrices(op, on)
            if pair is not None:
                dots[op] = pair
            else:
                tiles.add(sides)
        uneven = {op.operands[0] for op in flat if op.record is STORE and op.operands[0] in cells
                  for x in op.operands[1:2] if isinstance(x, Value) and LANES in on.get(x, ())}  # fmt: skip
        if all(cells[v].lanes for v in uneven):  # type: ignore[index]
            break
        cells = {v: Cell(c.kind, c.blocks, c.lanes or v in uneven) for v, c in cells.items()}
    tiles.update(side for pair in dots.values() for side in (*pair, pair[0] ^ pair[1]))
    return replace(t, cells=cells, tiles=frozenset(tiles), dots=dots)


def _matrices(op: Operation, on: Mapping[Value, frozenset[str]]) -> tuple[frozenset[str], frozenset[str]] | None:
    """The sides of the operands of a product that is one of matrices."""
    if op.record is not MMA or len(op.operands) > 2 or op.attrs["dtype"] is not f32:
        return None
    left, right = (on.get(x, frozenset()) if isinstance(x, Value) else frozenset() for x in op.operands)
    return (left, right) if len(left) == len(right) == 2 and len(left & right) == 1 and _over(op, on) else None


def _over(op: Operation, on: Mapping[Value, frozenset[str]]) -> bool:
    """Does a product of two matrices sum over the one side that both have?"""
    return len(names(op.attrs["over"])) == 1 and len(on[op.results[0]]) == 2


def _is_local(x: object) -> bool:
    return isinstance(x, Value) and isinstance(x.type, BufferType) and x.type.role == "local"


def _follow(
    t: Recurrence, op: Operation, on: dict[Value, frozenset[str]], cells: Mapping[Value, Cell]
) -> frozenset[str]:
    """Note which sides the results of an operation lie along, and give those of what it computes."""
    if op.body is not None or op.record is LOCAL:
        return frozenset()
    sides = frozenset(b for x in op.operands if isinstance(x, Value) for b in on.get(x, ()))
    if op.record in (LOAD, STORE, INDEX):
        read = {n for a in op.attrs.values() for e in dims(a) for n in e.names()}
        sides |= {t.home[n].block for n in read if n in t.home}
        first = op.operands[0] if op.operands else None
        if isinstance(first, Value) and first in cells and cells[first].lanes:
            sides |= {LANES}
    folded = frozenset[str]()
    if op.record is MMA or op.record.kind is Kind.REDUCE:
        folded = frozenset(t.home[a].block for a in names(op.attrs["over"]))
    on.update(dict.fromkeys(op.results, sides - folded))
    return sides | folded


def recurrent_config(t: Recurrence, sizes: Mapping[str, int], wave: int = 32) -> Config:
    """Lanes, warps and grid for given sizes. Raises Unschedulable where one step is too large for registers."""
    extents = {s.block: max(s.extent.evaluate(sizes, signed=True), 0) for s in t.sides}
    multiplied = {b for pair in t.dots.values() for sides in pair for b in sides}
    lengths = {block: max(power(n), LEAST if block in multiplied else 1) for block, n in extents.items()}
    outer, points = t.outer.evaluate(sizes), extents.get(LANES, 1)

    def taken(lanes: int) -> int:
        return t.registers({**lengths, LANES: lanes})

    lanes = min(lengths.get(LANES, 1), MOST_LANES)
    fewest = FEWEST_LANES[len(t.sides) > len(t.tiled)]
    most, least = (WARP_TILE, 1)
    if LANES in multiplied:
        most, least, fewest = DOT_TILE, LEAST, FEWEST_COLUMNS
    while lanes > fewest and (taken(lanes) > most or outer * -(-points // lanes) < ENOUGH_PROGRAMS):
        lanes //= 2
    while lanes > least and taken(lanes) > 2 * most:
        lanes //= 2
    room, at = room_of(t.target), Sized(t, sizes)
    largest = room.shared // 4  # a tensor moves between threads through shared memory
    if taken(lanes) > largest:
        raise Unschedulable(f"a step needs {taken(lanes)} registers at a time, a program has at most {largest}")
    lengths[LANES] = lanes
    more: list[tuple[str, int]] = []
    for s in t.sides:
        extent, block = extents[s.block], lengths[s.block]
        more += [(s.block, block), (s.even, int(extent > 0 and extent % block == 0))]
    ahead = sum(math.prod(lengths[b] for b in sides) * width for sides, width, _ in t.loads)
    more.append(("STAGES", next((n for n in STAGES if n * ahead <= room.shared // 2), 1)))
    more.append(("WIDE", int(any(far(at, block, lengths[block]) for block in extents))))
    warps = max(DOT_WARPS if t.dots else 1, min(MOST_WARPS, power(taken(lanes) // (wave * WARP_TILE // 32))))
    return Config("stepped", 1, lanes, warps, outer * -(-points // lanes), tuple(more))


__all__ = ["LANES", "Cell", "Recurrence", "coordinates", "is_ordered", "recurrence", "recurrent_config", "sides_at"]
