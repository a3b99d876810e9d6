"""How large the blocks of a block program are where nobody has said so, and how many warps carry them out."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from tessera.backends.base import Target
from tessera.backends.triton.program_locals import forwarded
from tessera.backends.triton.program_plan import Part, bounded, extent, parts
from tessera.backends.triton.program_products import LEAST, factors, is_tiles
from tessera.backends.triton.rooms import ENOUGH_PROGRAMS, room_of
from tessera.backends.triton.source import wave
from tessera.backends.triton.tiling import power
from tessera.diag import ShapeError
from tessera.ir.dialects.block import EACH, FETCH, LOOP
from tessera.ir.dim import Dim
from tessera.ir.graph import Function, Operation, Value, walk
from tessera.ir.types import BufferType, TensorType

#: Elements that a lane may hold of what lives at a time, by what products there are: none, of f32, of narrow dtypes.
ALONE, EXACT, NARROW = 32, 32, 112
#: The longest block where products are formed, and where none are.
LONGEST, LONGEST_ALONE = 128, 2048
#: Bytes of the longest block that products sum over; its length for f32, and where it is a side of others as well.
INNER_BYTES, LONGEST_INNER_EXACT, LONGEST_BOTH, LONGEST_BOTH_EXACT = 128, 16, 64, 32
#: Rows of products for which there are tensor cores that are worth more than further programs.
ENOUGH_ROWS = 64
#: Bytes of a register.
WORD = 4
#: Registers that an element of an operand of products takes where rows do not begin at multiples of 16 elements, with
#: its address and its mask; and how many a lane may have of these and of what else lives.
SCATTERED, MOST_SCATTERED = 4, 208


def makers_of(f: Function) -> dict[Value, Operation]:
    """The operation that gives each value, loops and choices for what they carry."""
    return {r: op for op in walk(f.body) for r in op.results}


def default_blocks(
    f: Function, names: Sequence[str], sizes: Mapping[str, int], target: Target
) -> dict[str, int]:
    """Sizes for blocks that have none yet: powers of two that fill registers and shared memory and no more, and leave
    enough programs. Blocks of products are 16 long at least, others may have single rows.

    ``sizes`` has the other sizes, those of blocks that are given among them.
    """
    f = forwarded(bounded(f))
    makers = makers_of(f)
    limits = _limits(f, makers, {**sizes, **{n: sizes.get(n, LEAST) for n in names}})
    chosen: dict[str, int] = {}
    aligned = _rows_aligned(f, sizes)
    for name in names:
        if name not in sizes:
            least, most = limits.get(name, (1, LONGEST_ALONE))
            chosen[name] = max(least, min(most, _walked(f, name, sizes, most)))
    while True:
        known = {**sizes, **chosen}
        free = [n for n in chosen if chosen[n] > limits.get(n, (1, 0))[0]]
        if not free or _fits(f, known, target, makers, aligned):
            break
        # The longest first; of several the last, which is that of an inner loop.
        longest = max(free, key=lambda n: (chosen[n], n))
        chosen[longest] //= 2
    _enough(f, chosen, sizes, limits.keys())
    return chosen


def _limits(f: Function, makers: Mapping[Value, Operation], sizes: Mapping[str, int]) -> dict[str, tuple[int, int]]:
    """The shortest and the longest that a block may be that has to do with products."""
    inner: set[str] = set()
    outer: set[str] = set()
    exact, width = False, 1
    for op in walk(f.body):
        if is_tiles(op, makers, sizes):
            width = max(width, factors(op, makers)[0].type.dtype.bytes)
            exact = width >= 4
            inner |= {n for x in (op.operands[0].type.dims[-1],) for n in x.names()}
            outer |= {n for d in op.result.type.dims for n in d.names()}
    within = LONGEST_INNER_EXACT if exact else INNER_BYTES // width
    found = dict.fromkeys(outer - inner, (LEAST, LONGEST))
    found |= dict.fromkeys(inner - outer, (LEAST, within))
    return found | dict.fromkeys(inner & outer, (LEAST, LONGEST_BOTH_EXACT if exact else LONGEST_BOTH))


def _walked(f: Function, name: str, sizes: Mapping[str, int], most: int) -> int:
    """The least power of two that covers what is walked in steps of a block, where that is known before the run."""
    found = 1
    for op in walk(f.body):
        if op.record in (EACH, LOOP) and op.attrs["step"] is Dim.name(name):
            lo, hi = (Dim.of(x) if isinstance(x, int | Dim) else None for x in (op.attrs["lo"], op.attrs["hi"]))
            if lo is None or hi is None or not (lo.names() | hi.names()) <= sizes.keys():
                return most
            found = max(found, power(hi.evaluate(sizes, signed=True) - lo.evaluate(sizes, signed=True)))
    return found if found > 1 else most


def _enough(f: Function, chosen: dict[str, int], sizes: Mapping[str, int], dotted: Collection[str]) -> None:
    """Shorter blocks of grids, where there are too few programs to keep a GPU busy."""
    for part in parts(f):
        stepped = [g for g in part.grid if g.step.is_name and str(g.step) in chosen]
        for g in stepped:
            name = str(g.step)
            least = ENOUGH_ROWS if name in dotted else 1
            while chosen[name] > least and 4 * programs(part, {**sizes, **chosen}) < 3 * ENOUGH_PROGRAMS:
                chosen[name] //= 2


def programs(part: Part, sizes: Mapping[str, int]) -> int:
    """How many programs a launch has."""
    count = 1
    for g in part.grid:
        count *= max(g.count.evaluate(sizes, signed=True), 0)
    return count


def warps_for(
    ops: Sequence[Operation], makers: Mapping[Value, Operation], static: Mapping[str, int], target: Target,
    aligned: bool = True,
) -> int:  # fmt: skip
    """Warps of a program, so that each lane has a fair share of the largest block."""
    live = _held(ops, makers, static)
    warps = 4 if live.dots else 1
    while warps < (8 if live.dots else 16) and not live.within(wave(target) * warps, aligned, 2):
        warps *= 2
    return warps


def _fits(
    f: Function, static: Mapping[str, int], target: Target, makers: Mapping[Value, Operation], aligned: bool
) -> bool:
    room = room_of(target)
    try:
        live = _held(f.ops, makers, static, room.stages)
        return live.within(wave(target) * (8 if live.dots else 4), aligned) and live.shared <= room.shared
    except ShapeError:
        return False


def _rows_aligned(f: Function, sizes: Mapping[str, int]) -> bool:
    """Do the rows of matrices begin at multiples of 16 elements, where they are dense?"""
    rows = [p.type.dims[-1] for p in f.params if isinstance(p.type, BufferType) and p.type.rank > 1]
    return all(d.evaluate(sizes, signed=True) % 16 == 0 for d in rows if d.names() <= sizes.keys())


def _held(
    ops: Sequence[Operation], makers: Mapping[Value, Operation], static: Mapping[str, int], stages: int = 1
) -> _Live:
    inside = [o for op in ops for o in ((op,) if op.body is None else (op, *walk(op.body)))]
    widths = [factors(o, makers)[0].type.dtype.bits for o in inside if is_tiles(o, makers, static)]
    found = _Live(makers, static, stages, bool(widths), max(widths, default=0) >= 32)
    found.block(ops, 0, frozenset(), 1)
    return found


@dataclass
class _Live:
    """What lives at a time, by following a program: ``most`` elements in registers, and bytes of the operands of
    products in ``shared`` memory, those of a loop as often as steps of it are under way.
    """

    makers: Mapping[Value, Operation]
    static: Mapping[str, int]
    stages: int
    dots: bool
    exact: bool
    most: int = 1
    shared: int = 0
    loaded: int = 0

    @property
    def per_lane(self) -> int:
        """How many elements a lane may hold."""
        return EXACT if self.exact else NARROW if self.dots else ALONE

    def within(self, lanes: int, aligned: bool, share: int = 1) -> bool:
        """Does it all fit in a share of the registers of so many lanes?"""
        scattered = self.most + (0 if aligned or not self.dots else SCATTERED * self.loaded)
        return self.most <= self.per_lane // share * lanes and scattered <= MOST_SCATTERED * lanes

    def block(
        self, ops: Sequence[Operation], around: int, kept: frozenset[tuple[Dim, ...]], stages: int
    ) -> None:  # fmt: skip
        """``around`` are the elements that loops around carry, ``kept`` the shapes of those."""
        loads = [op.result for op in ops if op.record is FETCH and op.result.type.rank > 1]
        self.loaded = max(self.loaded, sum(_numel(x, self.static) for x in loads))
        self.shared += sum(_numel(x, self.static) * x.type.dtype.bytes * stages for x in loads)
        fed: set[object] = set()
        for op in ops:
            if is_tiles(op, self.makers, self.static):
                fed |= {*factors(op, self.makers), *op.operands}
        for op in ops:
            carries = op.body.params if op.body is not None else ()
            inside = around + sum(_numel(p, self.static) for p in carries)
            # A block in the shape of a carry becomes the next one, and what is multiplied comes from shared memory.
            own = [_numel(r, self.static) * min(r.type.dtype.bytes, WORD) // WORD for r in op.results
                   if r not in fed and not (self.dots and r.type.dims in kept)]  # fmt: skip
            self.most = max(self.most, inside, around + max(own, default=0))
            if op.body is not None:
                steps = self.stages if op.record is LOOP else stages
                self.block(op.body.ops, inside, kept | {p.type.dims for p in carries}, steps)


def _numel(v: object, static: Mapping[str, int]) -> int:
    count = 1
    if isinstance(v, Value) and isinstance(v.type, TensorType):
        for d in v.type.dims:
            count *= power(extent(d, static))
    return count


__all__ = ["default_blocks", "makers_of", "programs", "warps_for"]
