"""Rows added to rows of a tensor, each at the position that an index has for it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch

from tessera.runtime.place import Place

#: Rows of fewer bytes are left to the library, which looks at each element by itself.
SHORTEST = 16
#: Positions and the numbers of rows are halves of a number of 64 bits.
MOST = 2**32 - 1


@dataclass(frozen=True, slots=True)
class Added:
    """How many matrices, their rows and the elements of a row, and the rows that are added to each; the elements from
    one added row to the next, from those of one matrix to those of the next, and from one position to the next.
    """

    matrices: int
    size: int
    width: int
    rows: int
    step: int
    apart: int
    along: int

    @property
    def arguments(self) -> tuple[int, ...]:
        """The numbers in the order in which an entry takes them."""
        return self.matrices, self.size, self.width, self.rows, self.step, self.apart, self.along

    @property
    def work(self) -> int:
        """Additions."""
        return self.matrices * self.rows * self.width


def added(axis: int, shape: Sequence[int], index: Place, rows: Place) -> Added | None:
    """How ``rows`` are added to a dense tensor of this shape, along ``axis``, at the positions of ``index``; None where
    not all of a row goes to one position, or to the same one in every matrix, or its elements do not lie side by side.

    >>> index = Place(1, 0, (3, 2), (1, 0), torch.int64)
    >>> added(0, (9, 2), index, Place.dense(2, (3, 2), torch.float32)) is None  # of 8 bytes
    True
    >>> index = Place(1, 0, (3, 40), (1, 0), torch.int64)
    >>> added(0, (9, 40), index, Place.dense(2, (3, 40), torch.float32)).arguments
    (1, 9, 40, 3, 40, 0, 1)
    """
    count = index.shape
    others = [n for n in range(len(shape)) if n != axis]
    if index.dtype is not torch.int64 or len(rows.shape) != len(shape) or any(shape[n] != count[n] for n in others):
        return None
    if any(index.strides[n] and count[n] > 1 for n in others):
        return None
    outer, inner = (_joined((count[n], rows.strides[n]) for n in part) for part in (others[:axis], others[axis:]))
    if outer is None or inner is None or (inner[0] > 1 and inner[1] != 1):
        return None
    if inner[0] * rows.dtype.itemsize < SHORTEST or max(shape[axis], count[axis]) > MOST:
        return None
    step, along = (x.strides[axis] if count[axis] > 1 else 0 for x in (rows, index))
    return Added(outer[0], shape[axis], inner[0], count[axis], step, outer[1], along)


def _joined(axes: Iterable[tuple[int, int]]) -> tuple[int, int] | None:
    """Sizes and strides as those of one axis, the last fastest; None where they are no one axis."""
    count, step = 1, 0
    for size, stride in reversed([*axes]):
        if size == 1:
            continue
        if count > 1 and stride != count * step:
            return None
        count, step = count * size, step if count > 1 else stride
    return count, step
