"""Which tensors of a call share a block of memory, and where in it each lies: what is not needed at once shares it."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from tessera.runtime import memory

#: How much more memory than without may be in use where all of it is taken at once: as the classes of the pool.
ROOM = 1 / 4
#: How many tensors a block has room for: each is compared with all others.
MOST = 2000
#: Where tensors begin: on a line of the cache.
LINE = 64
K = TypeVar("K", bound=Hashable)


@dataclass(frozen=True, slots=True)
class Life:
    """The bytes of a tensor, and the first and the last step that use it."""

    nbytes: int
    first: int
    last: int


def most(lives: Mapping[K, Life]) -> int:
    """The most bytes that are alive at one step: no plan needs less.

    >>> most({"a": Life(10, 0, 1), "b": Life(20, 1, 2), "c": Life(5, 2, 3)})
    30
    """
    change: dict[int, int] = {}
    for life in lives.values():
        change[life.first] = change.get(life.first, 0) + life.nbytes
        change[life.last + 1] = change.get(life.last + 1, 0) - life.nbytes
    total = top = 0
    for step in sorted(change):
        total += change[step]
        top = max(top, total)
    return top


def placed(lives: Mapping[K, Life]) -> tuple[dict[K, int], int]:
    """Where each tensor begins, in bytes, and the bytes of the whole block. The largest are placed first, each as low
    as those allow that live at the same time.

    >>> placed({"a": Life(64, 0, 1), "b": Life(128, 1, 2), "c": Life(64, 2, 3)})
    ({'b': 0, 'a': 128, 'c': 128}, 192)
    """
    offsets: dict[K, int] = {}
    taken: list[tuple[int, int, int, int]] = []  # begin, end, first, last; by begin
    whole = 0
    for key, life in sorted(lives.items(), key=lambda item: (-item[1].nbytes, item[1].first)):
        need, at = -(-life.nbytes // LINE) * LINE, 0
        for begin, end, first, last in taken:
            if first <= life.last and life.first <= last:
                if begin >= at + need:
                    break
                at = max(at, end)
        offsets[key] = at
        taken.append((at, at + need, life.first, life.last))
        taken.sort()
        whole = max(whole, at + need)
    return offsets, whole


@dataclass
class Memory:
    """Which blocks share one: ``offsets`` in it, ``whole`` its bytes; and ``packed`` those in one that the call gives,
    ``pack`` its bytes. Of the others, ``late`` ones are allocated before the first step that uses them and freed behind
    the last; the rest are there during the whole call.
    """

    offsets: dict[int, int]
    whole: int
    late: frozenset[int]
    packed: dict[int, int] = field(default_factory=dict)
    pack: int = 0

    @staticmethod
    def of(lives: Mapping[int, Life], results: Collection[int], together: Collection[int] = ()) -> Memory:
        """All of what lies between the steps in one block, where that takes no more memory than to allocate and free
        each by itself; else the small ones. ``results`` outlive the call; those ``together`` do it as one block, where
        they are there during the whole call anyway.
        """
        between = {slot: life for slot, life in lives.items() if slot not in results}
        few = len(between) <= MOST
        offsets, whole = placed(between) if few else ({}, 0)
        kept = sum(life.nbytes for slot, life in lives.items() if slot in results)
        late: frozenset[int] = frozenset()
        if not few or whole + kept > most(lives) * (1 + ROOM) + memory.SMALLEST:
            late = frozenset(slot for slot, life in lives.items() if life.nbytes >= memory.SMALLEST or not few)
            offsets, whole = placed({slot: life for slot, life in between.items() if slot not in late})
        at, packed = 0, {}
        for slot in sorted(set(together) - late):
            packed[slot] = at
            at += -(-lives[slot].nbytes // LINE) * LINE
        return Memory(offsets, whole, late, packed, at) if len(packed) > 1 else Memory(offsets, whole, late)
