"""Why two regions stayed separate: the obstacle as a value, and its sentence for ``explain()``."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Obstacle(Enum):
    """What keeps two neighbouring regions from being one kernel; the value is its sentence."""

    LIBRARY = "`{0}` is a library call of its own"
    STREAM = "what is made of `{0}` block by block has a kernel of its own"
    RECURRENCE = "the steps of `{0}` have a kernel of their own"
    VIEW = "`{0}` is a view, which moves nothing"
    SIZE = "one kernel would hold {0} operations, over the limit of {1}"
    REDUCED = "what is reduced twice is complete only when the kernel ends"
    REPEAT = "computed over {0}, it would be repeated for every element of {1}"
    LOOPS = "the loops differ: {0} and {1}"
    AXES = "the reductions leave different dims: {0} and {1}"
    ORDER = "a scan of all elements in order would leave {0} operations an element to one thread"
    BETWEEN = "{0} stands between them"


@dataclass(frozen=True, slots=True)
class Cause:
    """An obstacle with what fills its sentence.

    >>> str(Cause(Obstacle.SIZE, (600, 512)))
    'one kernel would hold 600 operations, over the limit of 512'
    """

    obstacle: Obstacle
    details: tuple[object, ...] = ()

    def __str__(self) -> str:
        return self.obstacle.value.format(*(_shown(d) for d in self.details))


@dataclass(frozen=True, slots=True)
class Apart:
    """A region that another one reads, and why the two are no single kernel. Regions go by form and first result."""

    producer: str
    consumer: str
    cause: Cause

    def __str__(self) -> str:
        return f"{self.producer} -> {self.consumer} apart: {self.cause}"


def _shown(detail: object) -> str:
    return f"[{', '.join(map(str, detail))}]" if isinstance(detail, tuple) else str(detail)
