"""One block for the tensors between the steps: where each lies, so that what is not needed at once shares memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import TypeVar

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
