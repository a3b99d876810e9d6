"""How large the blocks of a nest are on one target, for given sizes: a small table, and what must fit where."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from tessera.backends.triton.blocks import BEYOND, COLS, PART, ROWS, Blocks, Side
from tessera.backends.triton.descriptors import described
from tessera.backends.triton.tiling import Config, Mode, power
from tessera.ir.dim import product

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
#: Sums of products that a lane may hold.
SUMS = 128
#: Programs that keep a large GPU busy; where there are less than three quarters of them, blocks get fewer rows.
ENOUGH_PROGRAMS = 132


#: Rows, columns and warps to try, the fastest first.
Trial = tuple[int, int, int]
_WIDE: tuple[Trial, ...] = ((32, 32, 8), (16, 32, 4), (16, 16, 4))
#: By the bytes of an operand: 2 or fewer, 4, 8. Products of f32 use no tensor cores, and more registers.
_NVIDIA: tuple[tuple[Trial, ...], ...] = (
    ((128, 128, 8), (128, 64, 8), (64, 64, 4), (64, 32, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    ((64, 32, 8), (32, 32, 8), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    _WIDE,
)
_AMD: tuple[tuple[Trial, ...], ...] = (
    ((128, 32, 4), (64, 32, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    ((64, 32, 8), (32, 32, 8), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    _WIDE,
)
#: The same where nothing is folded over the columns.
_NVIDIA_TILED: tuple[tuple[Trial, ...], ...] = (
    ((128, 256, 8), (128, 128, 8), (64, 128, 4), (64, 64, 4), (32, 64, 4), (16, 64, 4), (16, 32, 4), (16, 16, 4)),
    ((64, 64, 8), (32, 64, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    _WIDE,
)
_AMD_TILED: tuple[tuple[Trial, ...], ...] = (
    ((128, 128, 8), (128, 64, 4), (64, 64, 4), (32, 64, 4), (16, 64, 4), (16, 32, 4), (16, 16, 4)),
    ((64, 64, 8), (32, 64, 4), (32, 32, 4), (16, 32, 4), (16, 16, 4)),
    _WIDE,
)


@dataclass(frozen=True, slots=True)
class Room:
    """What one program of a target may use: bytes of shared memory, and f32 elements of its tiles a lane. ``programs``
    are those of the largest size that it carries out at a time.
    """

    shared: int
    tiles: int
    stages: int
    walked: tuple[tuple[Trial, ...], ...]
    tiled: tuple[tuple[Trial, ...], ...]
    programs: int = 0


#: By kind and architecture; the last row of a kind is for those that are not listed.
ROOMS: Mapping[str, Room] = MappingProxyType(
    {
        "cuda:90": Room(232448, 112, 3, _NVIDIA, _NVIDIA_TILED, 132),
        "cuda:100": Room(232448, 112, 3, _NVIDIA, _NVIDIA_TILED, 148),
        "cuda:80": Room(166912, 96, 3, _NVIDIA, _NVIDIA_TILED),
        "cuda": Room(101376, 96, 2, _NVIDIA, _NVIDIA_TILED),
        "hip": Room(65536, 96, 2, _AMD, _AMD_TILED),
    }
)


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
    part = min(held[PART], plain.cols // 2) if PART in held else 0
    more = tuple((name, part if name == PART else n) for name, n in plain.more)
    return replace(plain, mode="streamed", grid=min(plain.grid, room.programs), more=more)


def block_config(t: Blocks, sizes: Mapping[str, int]) -> Config:
    """Blocks, warps and grid for given sizes. Sizes decide only through powers of two and whether blocks fill them."""
    extents = {s.block: t.extents_of(s, sizes)[0] for s in t.sides}
    kind = 0 if t.width <= 2 else 1 if t.width <= 4 else 2
    limit = (HELD_LIMITS if t.walks else WALKED)[kind]
    mode: Mode = "walked" if any(power(extents[s.block]) > limit for s in t.inner) else "held"
    room = ROOMS.get(t.target.name) or ROOMS[t.target.kind]
    most = WALKED[kind] if mode == "walked" else limit
    lengths = {s.block: _length(s, extents[s.block], most) for s in t.sides if s.block not in (ROWS, COLS)}
    table = room.walked if t.walks else room.tiled
    chosen = None
    for rows, cols, warps in table[kind]:
        made = {**lengths, ROWS: _clamped(rows, extents.get(ROWS, 1)), COLS: _clamped(cols, extents[COLS])}
        made |= {PART: _part(t, made, warps)} if t.parted else {}
        chosen = laid_out_blocks(t, sizes, mode, made, warps, room.stages)
        if fits(t, chosen, room) and (4 * chosen.grid >= 3 * ENOUGH_PROGRAMS or rows <= 64):
            break
    assert chosen is not None
    return chosen


def _length(s: Side, extent: int, most: int) -> int:
    return _clamped(most if s.folded else FREE_LIMIT, extent)


def _clamped(most: int, extent: int) -> int:
    return max(LEAST, min(most, power(extent)))


def fits(t: Blocks, c: Config, room: Room) -> bool:
    """Are the tiles that live at a time few enough for registers, and those under way for shared memory?"""
    made = dict(c.more)
    rows = c.rows if ROWS in t.by_block else 1
    free = sum(made[s.block] for s in t.shared)
    lanes = c.warps * (64 if t.target.kind == "hip" else 32)
    # The first two tiles of a block share registers; what further folds take lives beside them in part.
    if t.walks and rows * (free + c.cols * t.folded / 2) > room.tiles * lanes:
        return False
    if rows * made.get(PART, c.cols) * (1 if t.walks else len(t.products)) > _points(t.work) * lanes:
        return False
    if t.parted and rows * c.cols * len(t.products) > SUMS * lanes:
        return False
    shared = 0
    for sides, width, varies in t.loads:
        anew = varies or (c.mode == "walked" and not sides.isdisjoint(s.block for s in t.inner))
        if len(sides) == 2:
            shared += math.prod(made[b] for b in sides) * width * (c.stages if anew else 1)
    return shared <= room.shared


def _part(t: Blocks, lengths: Mapping[str, int], warps: int) -> int:
    """How many columns are finished at a time: all of them, half or a quarter."""
    whole = part = lengths[COLS]
    most = _points(t.work) * warps * (64 if t.target.kind == "hip" else 32)
    while part > max(LEAST, whole // 4) and lengths[ROWS] * part * len(t.products) > most:
        part //= 2
    return part


def _points(work: int) -> int:
    return next((n for most, n in POINTS if work <= most), 32)


def laid_out_blocks(
    t: Blocks, sizes: Mapping[str, int], mode: Mode, lengths: Mapping[str, int], warps: int, stages: int
) -> Config:
    """The launch with given blocks."""
    grid, parts = t.outer.evaluate(sizes), 1
    more: list[tuple[str, int]] = []
    for s in t.sides:
        (extent, last), block = t.extents_of(s, sizes), lengths[s.block]
        more += [(s.block, block), (s.even, int(extent > 0 and extent % block == 0 and last % block == 0))]
        if s in t.tiled:
            grid *= -(-extent // block)
        elif s.parts:
            parts = max(parts, -(-extent // block))
    if t.parted:
        more.append((PART, lengths[PART]))
    more.append(("WIDE", int(any(far(t, s, lengths[s.block], sizes) for s in t.sides))))
    return Config(mode, lengths.get(ROWS, 1), lengths[COLS], warps, grid * parts, tuple(more), stages)


def far(t: Blocks, s: Side, block: int, sizes: Mapping[str, int]) -> bool:
    """Do positions along a side, or offsets inside a block of it, need 64 bits?"""
    slopes = [abs(d.evaluate(sizes, signed=True)) for d in t.slopes.get(s.block, ())]
    end = product(s.hi).evaluate({**sizes, **dict.fromkeys(t.single, BEYOND)}, signed=True)
    return end + block >= LIMIT or block * max(slopes, default=0) >= LIMIT
