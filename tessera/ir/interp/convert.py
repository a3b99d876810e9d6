"""Element types in NumPy: rounding to narrow floats, wraparound of integers, the rules of an explicit cast.

Floats of every type are kept as float64 arrays whose values are representable in the type where that matters;
integers in their own width (``int4`` in int8); bools as bools.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tessera.ir.dtype import DType

Array = NDArray[Any]

_HOLDER = {
    "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8, "int4": np.int8,
    "uint8": np.uint8, "uint32": np.uint32, "uint64": np.uint64, "bool": np.bool_,
}  # fmt: skip


def holder(t: DType) -> np.dtype[Any]:
    """The NumPy dtype that holds values of ``t``."""
    return np.dtype(np.float64 if t.is_float else _HOLDER[t.name])


def round_to(x: Array, t: DType) -> Array:
    """Float64 values rounded to the nearest of ``t``, ties to even; beyond the largest, infinity (8-bit: the
    largest).

    The grid of a binary format is a power of two times the integers: the exponent of each value, but no
    smaller than that of the smallest normal number, gives the spacing.

    >>> from tessera.ir.dtype import bf16, fp8_e4m3, fp8_e5m2
    >>> [float(round_to(np.array(v), bf16)) for v in (1.00390625, 1.01171875, 3.4e38, -0.0)]
    [1.0, 1.015625, inf, -0.0]
    >>> [float(round_to(np.array(v), fp8_e4m3)) for v in (448.0, 465.0, float("inf"), 2.0**-10)]
    [448.0, 448.0, 448.0, 0.0]
    """
    x = np.asarray(x, np.float64)
    if t.bits == 64:
        return x
    with np.errstate(all="ignore"):
        if t.bits == 32:
            return np.asarray(x.astype(np.float32), np.float64)
        smallest = 2 - 2 ** (t.exponent - 1)
        _, exponent = np.frexp(x)
        step = np.maximum(exponent - 1, smallest) - t.mantissa
        near = np.ldexp(np.rint(np.ldexp(x, -step)), step)
        near = np.where(np.isfinite(x), near, x)
        if t.is_fp8:
            return np.where(np.isnan(near), near, np.clip(near, t.min, t.max))
        return np.where(np.abs(near) > t.max, np.copysign(np.inf, near), near)


def settle(x: Any, t: DType) -> Array:
    """A value in the holder of ``t``: integers wrap around, floats are not rounded."""
    a = np.asarray(x)
    if t.is_float:
        return np.asarray(a, np.float64)
    if t.is_bool:
        return a if a.dtype == np.bool_ else a != 0
    with np.errstate(all="ignore"):
        if a.dtype.kind == "f":
            return truncated(a, t)
        if t.name == "int4":
            return (((a.astype(np.int64) + 8) & 15) - 8).astype(np.int8)
        return a.astype(holder(t))


def truncated(x: Array, t: DType) -> Array:
    """Floats to integers: toward zero, saturating, NaN to 0.

    >>> from tessera.ir.dtype import int8, int64
    >>> truncated(np.array([1.9, -1.9, 300.0, float("nan")]), int8).tolist()
    [1, -1, 127, 0]
    >>> int(truncated(np.array(1e30), int64)) == 2**63 - 1
    True
    """
    low, high = int(t.min), int(t.max)
    with np.errstate(all="ignore"):
        inside = np.trunc(np.where(np.isnan(x), 0.0, x))
        above, below = inside >= float(high), inside <= float(low)
        safe = np.where(above | below, 0.0, inside).astype(holder(t))
    return np.where(above, holder(t).type(high), np.where(below, holder(t).type(low), safe))


def cast(x: Any, to: DType, source: DType | None, exact: bool) -> Array:
    """An explicit cast. With ``exact`` floats lose nothing on the way to a type that is wide enough for
    ``source``.

    Where the source is not known (inside a definition), and from integers, only floats narrower than 32 bits
    round.
    """
    a = np.asarray(x)
    if not to.is_float:
        return settle(a, to)
    wide = np.asarray(a, np.float64)
    if not exact:
        return round_to(wide, to)
    if a.dtype.kind != "f":
        return wide if to.bits >= 32 else round_to(wide, to)
    narrow = to.bits < 32 if source is None else narrows(source, to)
    return round_to(wide, to) if narrow else wide


def narrows(source: DType, to: DType) -> bool:
    """Whether some value of ``source`` is not a value of ``to``."""
    return source.mantissa > to.mantissa or source.exponent > to.exponent
