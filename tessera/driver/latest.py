"""What was used last, as much as may be kept."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Latest(Generic[K, V]):
    """A table of at most ``most`` entries, of which the one that was used longest ago goes first; ``gone`` is told of
    each that goes. Its users take a lock.

    >>> kept = Latest(2)
    >>> for n in (1, 2, 1, 3):
    ...     made = kept.get(n) or kept.put(n, str(n))
    >>> [kept.get(n) for n in (1, 2, 3)]
    ['1', None, '3']
    """

    def __init__(self, most: int, gone: Callable[[V], None] | None = None) -> None:
        self.most, self._gone = most, gone
        self._entries: OrderedDict[K, V] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The entry of a key, which is the latest now; None where there is none."""
        found = self._entries.get(key)
        if found is not None:
            self._entries.move_to_end(key)
        return found

    def put(self, key: K, value: V) -> V:
        """A new entry, which is given back."""
        self._entries[key] = value
        self._entries.move_to_end(key)
        while len(self._entries) > self.most:
            old = self._entries.popitem(last=False)[1]
            if self._gone is not None:
                self._gone(old)
        return value

    def __len__(self) -> int:
        return len(self._entries)


__all__ = ["Latest"]
