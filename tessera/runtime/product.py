"""A sum of products as a batch of matrix products that a BLAS computes where the operands lie."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tessera.runtime.place import Place

#: Sizes and strides are C ints to a BLAS.
LARGEST = 2**31 - 1


@dataclass(frozen=True, slots=True)
class Product:
    """Column-major matrices: ``swapped`` says that the second operand is the first factor. Transposition, m, n, k,
    leading sizes; of each axis of the batch the size, and the bytes from one product to the next of both factors and
    the result.
    """

    swapped: bool
    transposed: tuple[bool, bool]
    sizes: tuple[int, int, int]
    leading: tuple[int, int, int]
    batch: tuple[tuple[int, int, int, int], ...] = ()

    @property
    def work(self) -> int:
        """Multiplications."""
        return math.prod((*self.sizes, *(size for size, *_ in self.batch)))


@dataclass(frozen=True, slots=True)
class _Axes:
    """A tensor with its axes named: the stride of each letter, 0 where it is broadcast."""

    strides: Mapping[str, int]

    def joined(self, letters: Sequence[str], sizes: Mapping[str, int]) -> int | None:
        """The stride of some axes taken as one, the last fastest; None where they are no one axis."""
        step, expected = 0, None
        for c in reversed([c for c in letters if sizes[c] != 1]):
            own = self.strides[c]
            if expected is None:
                step = own
            elif own != expected:
                return None
            expected = own * sizes[c]
        return step


def product(letters: tuple[str, str, str], a: Place, b: Place, result: Place) -> Product | None:
    """The products that give ``result`` from ``a`` and ``b``; None where no call of a BLAS says that.

    >>> import torch
    >>> a, b, c = (Place.dense(n, shape, torch.float32) for n, shape in enumerate([(2, 3), (3, 4), (2, 4)]))
    >>> found = product(("ik", "kj", "ij"), a, b, c)
    >>> found.swapped, found.sizes, found.leading
    (True, (4, 2, 3), (4, 3, 4))
    """
    left, right, out = letters
    sizes = _sizes(letters, (a, b, result))
    alone = [c for c in left + right if c not in out and not (c in left and c in right)]
    if alone or len({*left}) < len(left) or len({*right}) < len(right):
        return None
    x, y, z = (_axes(s, place) for s, place in zip(letters, (a, b, result), strict=True))
    rows, columns = ([c for c in out if c in part and not (c in left and c in right)] for part in (left, right))
    for summed in ([c for c in left if c not in out], [c for c in right if c not in out]):
        over = x.joined(summed, sizes), y.joined(summed, sizes)
        outer = x.joined(rows, sizes), y.joined(columns, sizes), z.joined(rows, sizes), z.joined(columns, sizes)
        if None in over or None in outer:
            continue
        m, n, k = (math.prod(sizes[c] for c in group) for group in (rows, columns, summed))
        found = _matrices((m, n, k), over, outer)  # type: ignore[arg-type]
        if found is not None:
            order = (y, x, z) if found.swapped else (x, y, z)
            batch = [c for c in out if c in left and c in right and sizes[c] != 1]
            apart = [(sizes[c], *(one.strides[c] * result.dtype.itemsize for one in order)) for c in batch]
            return replace(found, batch=tuple(_merged(apart)))
    return None


def _merged(axes: Sequence[tuple[int, ...]]) -> Iterator[tuple[int, int, int, int]]:
    """The axes of a batch, those that are one in every tensor merged."""
    before: tuple[int, ...] | None = None
    for axis in axes:
        if before is not None and all(one == axis[0] * two for one, two in zip(before[1:], axis[1:], strict=True)):
            axis = (before[0] * axis[0], *axis[1:])
        elif before is not None:
            yield before  # type: ignore[misc]
        before = axis
    if before is not None:
        yield before  # type: ignore[misc]


def _matrices(
    sizes: tuple[int, int, int], over: tuple[int, int], outer: tuple[int, int, int, int]
) -> Product | None:  # fmt: skip
    """One product where every group of axes is one, by its stride in each tensor."""
    m, n, k = sizes
    if m == n == 1 or 0 in sizes:
        return None  # torch's dot product is more accurate, and what has no elements is no work
    (sum_a, sum_b), (row_a, column_b, row, column) = over, outer
    swapped = column == 1 and n != 1
    if swapped:
        m, n, sum_a, sum_b, row_a, column_b, row, column = n, m, sum_b, sum_a, column_b, row_a, column, row
    one, two, into = _factor(m, k, row_a, sum_a), _factor(k, n, sum_b, column_b), _factor(m, n, row, column)
    if one is None or two is None or into is None or into[0]:
        return None
    if max(m, n, k, one[1], two[1], into[1]) > LARGEST:
        return None
    return Product(swapped, (one[0], two[0]), (m, n, k), (one[1], two[1], into[1]))


def _factor(rows: int, columns: int, down: int, across: int) -> tuple[bool, int] | None:
    """Whether a matrix with these strides is a transposed column-major one, and its leading size."""
    if columns == 1:
        return (False, rows) if down == 1 or rows == 1 else (True, down) if down >= 1 else None
    if rows == 1:
        return (False, across) if across >= 1 else None
    if down == 1 and across >= rows:
        return False, across
    if across == 1 and down >= columns:
        return True, down
    return None


def _sizes(letters: Sequence[str], places: Sequence[Place]) -> dict[str, int]:
    found: dict[str, int] = {}
    for subscripts, place in zip(letters, places, strict=True):
        for c, size in zip(subscripts, place.shape, strict=True):
            found[c] = max(found.get(c, 1), size) if size else 0
    return found


def _axes(subscripts: str, place: Place) -> _Axes:
    rows = zip(subscripts, place.shape, place.strides, strict=True)
    return _Axes({c: step if size != 1 else 0 for c, size, step in rows})
