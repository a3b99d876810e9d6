"""The scalar namespace over NumPy arrays: one row per intrinsic.

Definitions of records run on it unchanged; their values are float64, integer or bool arrays.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from tessera.ir.dtype import DType, f64
from tessera.ir.interp import special
from tessera.ir.interp.convert import Array, cast, holder, round_to

Row = Callable[..., Any]


def _by_kind(floats: Row, ints: Row) -> Row:
    """One function for floats, another for integers and bools."""

    def run(*xs: Any) -> Any:
        return (floats if any(np.asarray(x).dtype.kind == "f" for x in xs) else ints)(*xs)

    return run


def _int_floordiv(x: Any, y: Any) -> Any:
    return np.floor_divide(x, y)


def _int_trunc_div(x: Any, y: Any) -> Any:
    return np.floor_divide(x - np.fmod(x, y), y)


def _int_pow(x: Any, n: Any) -> Any:
    """Integer powers wrap around; negative exponents give the reciprocal rounded toward zero."""
    x, n = np.broadcast_arrays(np.asarray(x), np.asarray(n))
    positive = np.power(x, np.maximum(n, 0))
    odd = (n & 1).astype(bool)
    inverse = (
        np.where(x == 1, 1, np.where(x == -1, np.where(odd, -1, 1), 0)) if x.dtype.kind == "i" else (x == 1)
    )
    return np.where(n < 0, np.asarray(inverse).astype(x.dtype), positive)


def _sign(x: Any) -> Any:
    return np.where(np.isnan(x), 0.0, np.sign(x))


def _mulhi(x: Any, y: Any) -> Any:
    wide = np.asarray(x).astype(np.uint64) * np.asarray(y).astype(np.uint64)
    return (wide >> np.uint64(32)).astype(np.uint32)


def _bitwise_not(x: Any) -> Any:
    return np.invert(x)


def _shift(function: Row) -> Row:
    """Shifts by the width or more give 0, or the sign."""

    def run(x: Any, places: Any) -> Any:
        x = np.asarray(x)
        bits = x.dtype.itemsize * 8
        beyond = np.asarray(places) >= bits
        inside = function(x, np.minimum(np.maximum(places, 0), bits - 1).astype(x.dtype))
        rest = (
            np.where(x < 0, -1, 0) if function is np.right_shift and x.dtype.kind == "i" else np.zeros_like(x)
        )
        return np.where(beyond, rest.astype(x.dtype), inside)

    return run


def _always(answer: bool) -> Row:
    return lambda x: np.full(np.shape(x), answer)


_LOGICAL = ("logical_and", "logical_or", "logical_xor", "logical_not")
_SAME_NAME = (
    "add", "minimum", "maximum", "fmin", "fmax", "copysign", "hypot", "abs", "sqrt", "exp", "exp2",
    "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "sinh", "cosh", "tanh", "remainder",
    "fmod", "signbit", "where", "bitwise_and", "bitwise_or", "bitwise_xor",
)  # fmt: skip
_OTHER_NAME = {
    "sub": "subtract", "mul": "multiply", "div": "true_divide", "neg": "negative", "eq": "equal",
    "ne": "not_equal", "lt": "less", "le": "less_equal", "gt": "greater", "ge": "greater_equal",
    "asin": "arcsin", "acos": "arccos", "atan": "arctan", "asinh": "arcsinh", "acosh": "arccosh",
    "atanh": "arctanh", "atan2": "arctan2",
}  # fmt: skip
_SPECIAL = ("erf", "erfc", "erfinv", "lgamma", "digamma", "i0", "i0e", "i1", "i1e", "sigmoid")

#: Every intrinsic but ``cast`` and ``nextafter``, which need to know element types.
ROWS: Mapping[str, Row] = MappingProxyType({
    **{name: getattr(np, name) for name in (*_SAME_NAME, *_LOGICAL)},
    **{name: getattr(np, other) for name, other in _OTHER_NAME.items()},
    **{name: getattr(special, name) for name in _SPECIAL},
    "floordiv": _by_kind(np.floor_divide, _int_floordiv),
    "trunc_div": _by_kind(lambda x, y: np.trunc(np.true_divide(x, y)), _int_trunc_div),
    "pow": _by_kind(np.power, _int_pow),
    "sign": _by_kind(_sign, np.sign),
    "floor": np.floor, "ceil": np.ceil, "trunc": np.trunc, "round": np.rint,
    "rsqrt": lambda x: 1.0 / np.sqrt(x),
    "fma": lambda x, y, z: x * y + z,
    "exp2_sum": lambda x, low, exponent: np.exp2(x + low + exponent),
    "reciprocal": lambda x: 1.0 / np.asarray(x, np.float64),
    "bitwise_not": _bitwise_not,
    "shift_left": _shift(np.left_shift), "shift_right": _shift(np.right_shift),
    "mulhi_u32": _mulhi,
    "isnan": _by_kind(np.isnan, _always(False)),
    "isinf": _by_kind(np.isinf, _always(False)),
    "isfinite": _by_kind(np.isfinite, _always(True)),
})  # fmt: skip


def nextafter_in(x: Any, y: Any, t: DType) -> Array:
    """The neighbour of ``x`` toward ``y`` among the values of ``t``."""
    x, y = np.broadcast_arrays(np.asarray(x, np.float64), np.asarray(y, np.float64))
    if t.bits >= 32:
        kind = np.float64 if t.bits == 64 else np.float32
        return np.asarray(np.nextafter(x.astype(kind), y.astype(kind)), np.float64)
    smallest = 2 - 2 ** (t.exponent - 1)
    exponent = np.where(x == 0, smallest, np.frexp(x)[1])
    step = np.ldexp(1.0, np.maximum(exponent - 1, smallest) - t.mantissa)
    # Just below a power of two the grid is twice as fine.
    fine = np.ldexp(1.0, np.maximum(exponent - 2, smallest) - t.mantissa)
    toward_zero = np.abs(x) == np.ldexp(1.0, exponent - 1)
    up = np.where(toward_zero & (x < 0), fine, step)
    down = np.where(toward_zero & (x > 0), fine, step)
    moved = np.where(y > x, x + up, np.where(y < x, x - down, y))
    return np.where(np.isnan(x) | np.isnan(y), np.nan, round_to(moved, t))


class NumpyNamespace:
    """What a definition sees as ``t``. ``source`` is the dtype of the first operand, for casts and
    ``nextafter``.

    With ``exact`` a cast to a type that is wide enough loses nothing, whatever the array holds.

    >>> t = NumpyNamespace()
    >>> float(t.exp(np.float64(0.0))), bool(t.lt(np.int64(1), 2))
    (1.0, True)
    """

    __slots__ = ("exact", "source")

    def __init__(self, source: DType | None = None, exact: bool = True) -> None:
        self.source = source
        self.exact = exact

    def __getattr__(self, name: str) -> Row:
        try:
            return ROWS[name]
        except KeyError:
            raise AttributeError(f"no intrinsic `{name}`") from None

    def dtype_of(self, x: Any) -> DType:
        """The dtype whose numbers ``x`` stands for."""
        return self.source or f64

    def is_narrow(self) -> bool:
        """Whether results are rounded to a narrow float: here they are as exact as can be."""
        return False

    def cast(self, x: Any, dtype: DType) -> Array:
        return cast(x, dtype, self.source, self.exact)

    def nextafter(self, x: Any, y: Any) -> Array:
        source = self.source
        if source is None:
            return np.nextafter(x, y)
        return nextafter_in(x, y, source)

    def full(self, value: Any, t: DType) -> Array:
        """A constant in the holder of ``t``."""
        return np.asarray(value, holder(t))
