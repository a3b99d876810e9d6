"""How large the blocks of a block program are where nobody has said so, and how many warps carry them out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tessera.backends.base import Target
from tessera.backends.triton.block_config import ENOUGH_PROGRAMS, ROOMS, Room
from tessera.backends.triton.program_plan import Part, extent, parts
from tessera.backends.triton.program_products import LEAST, factors, is_tiles
from tessera.backends.triton.tiling import power
from tessera.diag import ShapeError
from tessera.ir.dialects.block import EACH, LOOP
from tessera.ir.dim import Dim
from tessera.ir.graph import Function, Operation, Value, walk
from tessera.ir.types import TensorType

#: Elements that a lane may hold of what lives at a time, by what products there are: none, of f32, of narrow dtypes.
ALONE, EXACT, NARROW = 24, 32, 112
#: The longest block where products are formed, and where none are.
LONGEST, LONGEST_ALONE = 128, 1024
#: The longest block that products sum over.
LONGEST_INNER = 64


def makers_of(f: Function) -> dict[Value, Operation]:
    return {r: op for op in walk(f.body) for r in op.results}


def default_blocks(
    f: Function, names: Sequence[str], sizes: Mapping[str, int], target: Target
) -> dict[str, int]:
    """Sizes for blocks that have none yet: powers of two that fill registers and shared memory and no more, and leave
    enough programs. Blocks of products are 16 long at least, others may have single rows.

    ``sizes`` has the other sizes, those of blocks that are given among them.
    """
    makers = makers_of(f)
    products = [op for op in walk(f.body) if op.operands and _names_of(op) and _is_product(op, makers, names, sizes)]
    dotted = {n for op in products for x in (*op.operands, *op.results) for d in x.type.dims for n in d.names()}
    inner = {n for op in products for n in op.operands[0].type.dims[-1].names()}
    chosen: dict[str, int] = {}
    for name in names:
        if name not in sizes:
            most = LONGEST_INNER if name in inner else LONGEST if name in dotted else LONGEST_ALONE
            least = LEAST if name in dotted else 1
            chosen[name] = max(least, min(most, _walked(f, name, sizes, most)))
    while True:
        known = {**sizes, **chosen}
        free = [n for n in chosen if chosen[n] > (LEAST if n in dotted else 1)]
        if not free or _fits(f, known, target, makers):
            break
        # The longest first; of several the last, which is that of an inner loop.
        longest = max(free, key=lambda n: (chosen[n], n))
        chosen[longest] //= 2
    _enough(f, chosen, sizes, dotted)
    return chosen


def _names_of(op: Operation) -> bool:
    return all(isinstance(x, Value) and isinstance(x.type, TensorType) for x in op.operands)


def _is_product(
    op: Operation, makers: Mapping[Value, Operation], names: Sequence[str], sizes: Mapping[str, int]
) -> bool:
    return is_tiles(op, makers, {**sizes, **{n: sizes.get(n, LEAST) for n in names}})


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


def _enough(f: Function, chosen: dict[str, int], sizes: Mapping[str, int], dotted: set[str]) -> None:
    """Shorter blocks of grids, where there are too few programs to keep a GPU busy."""
    for part in parts(f):
        stepped = [g for g in part.grid if g.step.is_name and str(g.step) in chosen]
        for g in stepped:
            name = str(g.step)
            least = 2 * LEAST if name in dotted else 1
            while chosen[name] > least and 4 * programs(part, {**sizes, **chosen}) < 3 * ENOUGH_PROGRAMS:
                chosen[name] //= 2


def programs(part: Part, sizes: Mapping[str, int]) -> int:
    """How many programs a launch has."""
    count = 1
    for g in part.grid:
        count *= max(g.count.evaluate(sizes, signed=True), 0)
    return count


def warps_for(
    ops: Sequence[Operation], makers: Mapping[Value, Operation], static: Mapping[str, int], target: Target
) -> int:
    """Warps of a program, so that each lane has a fair share of the largest block."""
    lanes = 64 if target.kind == "hip" else 32
    held, per_lane, dots = _held(ops, makers, static)
    warps = 1 if not dots else 4
    most = 8 if dots else 16
    while warps < most and held > per_lane * lanes * warps // (1 if dots else 2):
        warps *= 2
    return warps


def _fits(f: Function, static: Mapping[str, int], target: Target, makers: Mapping[Value, Operation]) -> bool:
    room = ROOMS.get(target.name) or ROOMS[target.kind]
    lanes = 64 if target.kind == "hip" else 32
    try:
        held, per_lane, dots = _held(f.ops, makers, static)
        return held <= per_lane * lanes * (8 if dots else 4) and _under_way(f, makers, static, room) <= room.shared
    except ShapeError:
        return False


def _under_way(f: Function, makers: Mapping[Value, Operation], static: Mapping[str, int], room: Room) -> int:
    """Bytes of the operands of products that lie in shared memory at a time."""
    found = {x for op in walk(f.body) if is_tiles(op, makers, static) for x in factors(op, makers)}
    return sum(_numel(x, static) * x.type.dtype.bytes for x in found) * room.stages


def _held(
    ops: Sequence[Operation], makers: Mapping[Value, Operation], static: Mapping[str, int]
) -> tuple[int, int, bool]:
    """Elements that live at a time: what a loop carries and the largest block beside it; how many a lane may hold."""
    every = list(_every(ops))
    dots = [op for op in every if is_tiles(op, makers, static)]
    carried = 0
    for op in every:
        if op.record is LOOP and op.body is not None:
            carried = max(carried, sum(_numel(p, static) for p in op.body.params))
    fed = {x for op in dots for x in (*factors(op, makers), *op.operands)}
    largest = max((_numel(r, static) for op in every for r in op.results if r not in fed), default=1)
    exact = any(factors(op, makers)[0].type.dtype.bits >= 32 for op in dots)
    return max(carried + (largest if dots else 0), largest), EXACT if exact else NARROW if dots else ALONE, bool(dots)


def _every(ops: Sequence[Operation]) -> Iterator[Operation]:
    for op in ops:
        yield op
        if op.body is not None:
            yield from walk(op.body)


def _numel(v: object, static: Mapping[str, int]) -> int:
    count = 1
    if isinstance(v, Value) and isinstance(v.type, TensorType):
        for d in v.type.dims:
            count *= power(extent(d, static))
    return count


__all__ = ["default_blocks", "makers_of", "programs", "warps_for"]
