"""Where a tensor lies when sizes are known: in which block, from which byte on, and how its axes walk there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

import torch

from tessera.runtime.steps import Given, Routine, Sizes


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in the block of slot ``root``, ``offset`` bytes behind its first element; strides in elements."""

    root: int
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: torch.dtype

    @staticmethod
    def dense(root: int, shape: Sequence[int], dtype: torch.dtype) -> Place:
        """A row-major tensor that is a whole block.

        >>> Place.dense(0, (2, 3, 4), torch.float32).strides
        (12, 4, 1)
        """
        steps = [*accumulate([1, *(max(n, 1) for n in shape[:0:-1])], mul)] if shape else []
        return Place(root, 0, tuple(shape), tuple(reversed(steps)), dtype)

    @staticmethod
    def given(root: int, x: Given, sizes: Sizes) -> Place:
        """That of an argument."""
        shape = tuple(f(sizes) for f in x.shape)
        if x.strides is None:
            return Place.dense(root, shape, x.dtype)
        return Place(root, 0, shape, tuple(f(sizes) for f in x.strides), x.dtype)

    @property
    def merged(self) -> tuple[tuple[int, int], ...]:
        """Sizes and strides of as few axes as give the elements in the same order; none of size 1.

        >>> Place(0, 0, (2, 3, 4), (1, 8, 2), torch.float32).merged
        ((2, 1), (12, 2))
        """
        found: list[tuple[int, int]] = []
        for size, step in zip(self.shape, self.strides, strict=True):
            if size == 1:
                continue
            if found and found[-1][1] == size * step:
                found[-1] = (found[-1][0] * size, step)
            else:
                found.append((size, step))
        return tuple(found)

    def of(self, block: torch.Tensor) -> torch.Tensor:
        """The tensor itself, where ``block`` is its root, or bytes that hold the root."""
        at = self.offset // self.dtype.itemsize
        if block.dtype is not self.dtype:
            block = block.view(self.dtype)
        return block.as_strided(self.shape, self.strides, block.storage_offset() + at)

    def seen(self, routine: Routine) -> Place | None:
        """The place of the view that a library makes of the tensor; None where it copies.

        The library is asked, with a tensor that has no memory.
        """
        try:
            x = torch.empty_strided(self.shape, self.strides, dtype=self.dtype, device="meta")
            (y,) = routine([x], ())
        except (RuntimeError, NotImplementedError):
            return None
        if y.dtype is not self.dtype or y.is_neg() or y.is_conj() or _block(x) != _block(y):
            return None
        at = self.offset + int(y.storage_offset()) * y.itemsize
        return Place(self.root, at, tuple(y.shape), y.stride(), y.dtype)


def _block(x: torch.Tensor) -> Any:
    return x.untyped_storage()._cdata
