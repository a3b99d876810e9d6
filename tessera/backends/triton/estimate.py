"""How long a nest of products takes with given blocks: an analytic model of cycles, by which blocks are chosen.

A unit of the GPU (a multiprocessor) carries out the tiles that it gets one after the other, some of them at a time.
Its products, what they read from the cache that all units share, and the wait for it overlap; what becomes of the
products follows. All units together read everything from memory at least once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tessera.backends.triton.blocks import ROWS, Blocks, Sized, names
from tessera.backends.triton.rooms import room_of, units_of
from tessera.backends.triton.tiling import Config

#: Registers and threads of a unit, and registers a lane needs besides its sums: with addresses, with descriptors.
REGISTERS, THREADS, BESIDES = 65536, 2048, (80, 56)
#: Operations on single numbers that a unit carries out in a cycle.
LANES = 64


@dataclass(frozen=True, slots=True)
class Estimate:
    """Cycles with given blocks: ``total``, of which ``products``, reads from the ``near`` cache and the ``wait`` for
    them overlap with each other on one unit, and reads from ``far`` memory on all; ``finish`` follows. A unit takes
    ``rounds`` tiles, ``together`` at a time.
    """

    total: int
    products: int
    near: int
    wait: int
    far: int
    finish: int
    rounds: int
    together: int

    @property
    def limit(self) -> str:
        """What takes longest."""
        found = {
            "products": self.products, "reads from the cache": self.near, "waits for reads": self.wait,
            "reads from memory": self.far, "what becomes of products": self.finish,
        }  # fmt: skip
        return max(found, key=found.__getitem__)

    @property
    def waits(self) -> bool:
        """Would more steps under way make it faster?"""
        return self.wait == max(self.products, self.near, self.wait, self.far, self.finish)


def estimate(at: Sized, c: Config) -> Estimate:
    """The cycles of a nest whose tiles are programs of their own."""
    t = at.layout
    room, units = room_of(t.target), units_of(t.target)
    pace, made = room.pace, {ROWS: 1, **dict(c.more)}
    kind = 0 if t.width <= 2 else 1 if t.width <= 4 else 2
    rate = pace.products[kind] // (1 if kind or c.rows >= pace.full else 2)
    if kind:  # lanes read their factors from shared memory, the fewer for a product the more sums each has
        sums = c.rows * c.cols // lanes_of(t, c)
        rate = max(min(rate, rate * math.isqrt(sums << 8) >> 7), 1)
    products, read, step, whole = 0, 0, 0, 0
    extents = {block: first for block, (first, _) in at.extents.items()}
    inner = {s.block: extents[s.block] for s in t.inner}
    for o in t.products:
        over = {t.home[a].block for a in names(o.attrs["over"]) if a in t.home}
        products += c.rows * c.cols * math.prod(inner[block] for block in over)
    for sides, width, _ in t.loads:
        read += width * math.prod(inner.get(b, made[b]) for b in sides)
        whole += width * math.prod(extents[b] for b in sides)
        if not sides.isdisjoint(inner):
            step += width * math.prod(made[b] for b in sides)
    together = at_a_time(t, c, step)
    rounds = -(-c.grid // units)
    started = -(-rounds // together)
    under_way = max(step * (c.stages - 1), 1)
    busy = rounds * products // rate
    near = rounds * read // pace.near
    wait = started * read * pace.latency // under_way if step else 0
    out = written(t, made)
    finish = rounds * (c.rows * c.cols * max(t.work, 1) // LANES + out // pace.near) + started * pace.latency
    far = max(at.outer, 1) * whole // (pace.far * units)
    unit = max(busy, near, wait) + finish
    total = max(unit, far) + min(unit, far) // 4  # they do not overlap in full
    return Estimate(total, busy, near, wait, far, finish, rounds, together)


def lanes_of(t: Blocks, c: Config) -> int:
    """The lanes of a program."""
    return c.warps * (64 if t.target.kind == "hip" else 32)


def at_a_time(t: Blocks, c: Config, step: int) -> int:
    """How many programs a unit has at a time: as registers, threads and shared memory allow."""
    lanes = lanes_of(t, c)
    sums = c.rows * c.cols * max(len(t.products), 1) // lanes
    besides = BESIDES[c.mode == "streamed"]
    shared = room_of(t.target).shared // max(step * c.stages, 1)
    return max(min(REGISTERS // (lanes * min(sums + besides, 255)), THREADS // lanes, shared, 8), 1)


def written(t: Blocks, made: Mapping[str, int]) -> int:
    """Bytes that a tile writes."""
    return sum(width * math.prod(made[b] for b in sides) for sides, width in t.stores)


__all__ = ["Estimate", "at_a_time", "estimate", "written"]
