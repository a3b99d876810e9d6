"""Sizes while running: names bound from the shapes of the inputs, dimension expressions evaluated over
index arrays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.diag import ResourceError, ShapeError
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Attr, Function, Obligation
from tessera.ir.types import BufferType, TensorType

#: Elements of one array, beyond which nothing is allocated.
MOST_ELEMENTS = 1 << 31

Shape = tuple[int, ...]


def bind_sizes(
    f: Function, shapes: Sequence[tuple[str, Sequence[Dim], Shape]], given: Mapping[str, int] | None
) -> dict[str, int]:
    """A size for every name in the shapes of the parameters.

    ``shapes`` gives (parameter name, dims, actual shape). Plain names bind first; every other expression must
    then agree. Raises ShapeError (TSR0105) where a shape does not fit, TSR0107 where a name gets two sizes.
    """
    sizes = dict(given or {})
    for name, dims, shape in shapes:
        if len(dims) != len(shape):
            raise ShapeError(
                f"`{name}` has rank {len(shape)} where {len(dims)} dims are declared", code="TSR0105"
            )
        for d, n in zip(dims, shape, strict=True):
            if d.is_name and sizes.setdefault(str(d), n) != n:
                raise ShapeError(f"`{d}` is {sizes[str(d)]} and, in `{name}`, {n}", code="TSR0107")
    for name, dims, shape in shapes:
        for d, n in zip(dims, shape, strict=True):
            if not d.is_name and size_of(d, sizes) != n:
                raise ShapeError(f"`{d}` is {size_of(d, sizes)}, but `{name}` has {n}", code="TSR0105")
    for o in f.obligations:
        # A name that no parameter has was another name for a size; only who calls the function knows what it was.
        known = all(n in sizes for d in (o.left, o.right) for n in d.names())
        if known and o.verdict != "assumed" and o.verdict != "proved":
            _check(o, sizes)
    return sizes


def _check(o: Obligation, sizes: Mapping[str, int]) -> None:
    left, right = size_of(o.left, sizes), size_of(o.right, sizes)
    if not o.holds(sizes):
        raise ShapeError(
            f"`{o}` does not hold", code="TSR0105", notes=[f"`{o.left}` is {left}, `{o.right}` is {right}"]
        )


def size_of(d: Dim, sizes: Mapping[str, int]) -> int:
    """The value of a size; raises ShapeError (TSR0110) when a name in it is not bound."""
    missing = [n for n in d.names() if n not in sizes]
    if missing:
        raise ShapeError(f"size `{missing[0]}` is not known", code="TSR0110")
    return d.evaluate(sizes)


def shape_of(t: TensorType | BufferType, sizes: Mapping[str, int]) -> Shape:
    """The shape of a type. Raises ResourceError (TSR0608) for more elements than one array may have."""
    shape = tuple(size_of(d, sizes) for d in t.dims)
    check_shape(shape, t.dtype)
    return shape


def check_shape(shape: Shape, t: DType) -> None:
    """Raise ResourceError (TSR0608) for too many elements, ShapeError (TSR0106) for a negative size."""
    total = 1
    for n in shape:
        if n < 0:
            raise ShapeError(f"size {n} is negative", code="TSR0106")
        total *= n
    if total > MOST_ELEMENTS:
        raise ResourceError(
            f"a tensor of {total} elements of {t}", code="TSR0608", notes=[f"the limit is {MOST_ELEMENTS}"]
        )


def concrete(value: Attr, sizes: Mapping[str, int]) -> Any:
    """An attribute with every size replaced by its value."""
    if isinstance(value, Dim):
        return size_of(value, sizes)
    if isinstance(value, tuple):
        return tuple(concrete(v, sizes) for v in value)
    return value
