"""How large the blocks of a nest are on one target, for given sizes: a small table, and what must fit where."""

from __future__ import annotations

import math
from collections.abc import Mapping, Set
from dataclasses import replace

from tessera.backends.triton.blocks import COLS, PART, ROWS, Blocks, Side, Sized
from tessera.backends.triton.descriptors import described
from tessera.backends.triton.estimate import at_a_time, estimate, lanes_of, written
from tessera.backends.triton.rooms import ENOUGH_PROGRAMS, ROOMS, Room, room_of, units_of
from tessera.backends.triton.tiling import Config, Mode, power

#: The shortest side that a product of tiles takes.
LEAST = 16
#: By the bytes of an operand (2 or fewer, 4, 8): the longest inner side that is held whole, and the blocks in which
#: longer ones are walked. Without tensor cores a lane holds its operands over the whole side.
HELD_LIMITS, WALKED = (256, 64, 32), (64, 16, 16)
#: Offsets inside a tile have 32 bits below this, for sums of two.
LIMIT = 1 << 30
#: The longest part of a free side in one program.
FREE_LIMIT = 256
#: Points a lane may have, by how many operations each takes: compilers carry one out for all points before the next.
POINTS = ((8, 128), (24, 64))
#: Columns that are finished at a time even where the next tile is read meanwhile.
LEAST_PART = 64
#: Sums of products that a lane may hold; half of them where reads are narrow, which takes registers for addresses.
SUMS = 128
#: What an estimate does not tell apart.
NEARLY = 1.03
#: The sides of results.
BOTH = {ROWS, COLS}


def streamed(t: Blocks, sizes: Mapping[str, int], plain: Config) -> Config | None:
    """The launch with as many programs as the target carries out at a time, which read through descriptors; None where
    matrices do not lie as those need it, or where their inner side is held whole.
    """
    room, held = ROOMS.get(t.target.name), dict(plain.more)
    if room is None or plain.mode != "walked" or min(plain.rows, plain.cols) < 64 or held["WIDE"]:
        return None
    if not described(t, sizes, held):
        return None
    # The next tile is read while this one is finished, which takes registers of its own.
    part = min(max(held[PART] // 2, LEAST_PART), held[PART], plain.cols // 2) if PART in held else 0
    more = tuple((name, part if name == PART else n) for name, n in plain.more)
    found = replace(plain, mode="streamed", more=more)
    deeper = replace(found, stages=found.stages + 1)
    found = deeper if deeper.stages <= room.deepest and fits(t, deeper, room) else found
    together = at_a_time(t, found, under_way(t, found))
    return replace(found, grid=min(plain.grid, units_of(t.target) * together))


def block_config(t: Blocks, sizes: Mapping[str, int]) -> Config:
    """Blocks, warps and grid for given sizes: the first of a table that fit and, where tiles are programs, that an
    estimate says are about the fastest; elsewhere, that leave enough programs.
    """
    at = Sized(t, sizes)
    extents = {block: first for block, (first, _) in at.extents.items()}
    kind = 0 if t.width <= 2 else 1 if t.width <= 4 else 2
    limit = (HELD_LIMITS if t.walks else WALKED)[kind]
    mode: Mode = "walked" if any(power(extents[s.block]) > limit for s in t.inner) else "held"
    room = room_of(t.target)
    most = WALKED[kind] if mode == "walked" else limit
    lengths = {s.block: _length(s, extents[s.block], most) for s in t.sides if s.block not in (ROWS, COLS)}
    table = room.walked if t.walks else room.tiled
    found: dict[Config, int] = {}
    for rows, cols, warps in table[kind]:
        made = {**lengths, ROWS: _clamped(rows, extents.get(ROWS, 1)), COLS: _clamped(cols, extents[COLS])}
        made |= {PART: _part(t, made, warps)} if t.parted else {}
        chosen = _laid_out(at, mode, made, warps, room.stages)
        if not fits(t, chosen, room):
            continue
        if t.parted and not at.aligned and 2 * rows * cols * len(t.products) > SUMS * lanes_of(t, chosen):
            continue
        if t.walks and (4 * chosen.grid >= 3 * ENOUGH_PROGRAMS or rows <= 64):
            return chosen
        for stages in range(room.stages, room.deepest + 1):
            trial = replace(chosen, stages=stages)
            if t.walks or not fits(t, trial, room):
                break
            cycles = estimate(at, trial)
            found[trial] = cycles.total
            if not cycles.waits:
                break
    if not found:
        return chosen
    return next(c for c, n in found.items() if n <= min(found.values()) * NEARLY)


def _length(s: Side, extent: int, most: int) -> int:
    return _clamped(most if s.folded else FREE_LIMIT, extent)


def _clamped(most: int, extent: int) -> int:
    return max(LEAST, min(most, power(extent)))


def fits(t: Blocks, c: Config, room: Room) -> bool:
    """Are the tiles that live at a time few enough for registers, and those under way for shared memory?"""
    made = dict(c.more)
    rows = c.rows if ROWS in t.by_block else 1
    free = sum(made[s.block] for s in t.shared)
    lanes = lanes_of(t, c)
    # The first two tiles of a block share registers; what further folds take lives beside them in part.
    if t.walks and rows * (free + c.cols * t.folded / 2) > room.tiles * lanes:
        return False
    if rows * made.get(PART, c.cols) * (1 if t.walks else _planes(t)) > _points(t.work) * lanes:
        return False
    if t.parted and rows * c.cols * len(t.products) > SUMS * lanes:
        return False
    return under_way(t, c) * c.stages + beside_loop(t, c) <= room.shared


def under_way(t: Blocks, c: Config) -> int:
    """Bytes of shared memory that the tiles of one step of a loop take."""
    made, inner = dict(c.more), {s.block for s in t.inner}
    return sum(
        math.prod(made[b] for b in sides) * width
        for sides, width, varies in t.loads
        if len(sides) == 2 and _anew(t, c, sides, varies, inner)
    )


def beside_loop(t: Blocks, c: Config) -> int:
    """Bytes of shared memory for tiles that are read once, and for what goes through descriptors a part at a time.
    Where tiles are programs of their own, those that no product reads go to registers.
    """
    made, inner = dict(c.more), {s.block for s in t.inner}
    total = 0
    if c.mode == "streamed":
        part = {ROWS: c.rows, **made, COLS: made.get(PART, c.cols)}
        total += written(t, part) + sum(math.prod(part[b] for b in s) * width for s, width, _ in t.loads if s == BOTH)
    for sides, width, varies in t.loads:
        if len(sides) == 2 and not _anew(t, c, sides, varies, inner) and (t.walks or not sides.isdisjoint(inner)):
            total += math.prod(made[b] for b in sides) * width
    return total


def _anew(t: Blocks, c: Config, sides: frozenset[str], varies: bool, inner: Set[str]) -> bool:
    """Does each step of a loop read a tile?"""
    return (varies and t.walks) or (c.mode != "held" and not sides.isdisjoint(inner))


def _part(t: Blocks, lengths: Mapping[str, int], warps: int) -> int:
    """How many columns are finished at a time: all of them, half or a quarter."""
    whole = part = lengths[COLS]
    most = _points(t.work) * warps * (64 if t.target.kind == "hip" else 32)
    while part > max(LEAST, whole // 4) and lengths[ROWS] * part * _planes(t) > most:
        part //= 2
    return part


def _planes(t: Blocks) -> int:
    """How many tiles of results are finished together: of products, and of what is read for them."""
    return len(t.products) + sum(sides == BOTH for sides, *_ in t.loads)


def _points(work: int) -> int:
    return next((n for most, n in POINTS if work <= most), 32)


def laid_out_blocks(
    t: Blocks, sizes: Mapping[str, int], mode: Mode, lengths: Mapping[str, int], warps: int, stages: int
) -> Config:
    """The launch with given blocks."""
    return _laid_out(Sized(t, sizes), mode, lengths, warps, stages)


def _laid_out(at: Sized, mode: Mode, lengths: Mapping[str, int], warps: int, stages: int) -> Config:
    t, grid, parts = at.layout, at.outer, 1
    more: list[tuple[str, int]] = []
    for s in t.sides:
        (extent, last), block = at.extents[s.block], lengths[s.block]
        more += [(s.block, block), (s.even, int(extent > 0 and extent % block == 0 and last % block == 0))]
        if s in t.tiled:
            grid *= -(-extent // block)
        elif s.parts:
            parts = max(parts, -(-extent // block))
    if t.parted:
        more.append((PART, lengths[PART]))
    more.append(("WIDE", int(any(far(at, block, lengths[block]) for block in at.extents))))
    return Config(mode, lengths.get(ROWS, 1), lengths[COLS], warps, grid * parts, tuple(more), stages)


def far(at: Sized, side: str, block: int) -> bool:
    """Do positions along a side, or offsets inside a block of it, need 64 bits?"""
    end, slope = at.reach[side]
    return end + block >= LIMIT or block * slope >= LIMIT
