"""Device functions that intrinsics need, as Triton text: what one expression cannot say."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

_FLOORDIV = """
def _floordiv(x, y):
    rest = libdevice.fmod(x, y)
    off = (rest != 0) & ((y < 0) != (rest < 0))
    exact = (x - rest) / y
    exact = tl.where(off, exact - 1, exact)
    down = tl.floor(exact)
    near = tl.where(exact - down > 0.5, down + 1, down)
    return tl.where(y == 0, x / y, near)
"""

_INT_FLOORDIV = """
def _int_floordiv(x, y):
    quotient = x // y
    rest = x - quotient * y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), quotient - 1, quotient)
"""

_REMAINDER = """
def _remainder(x, y):
    rest = libdevice.fmod(x, y)
    return tl.where((rest != 0) & ((y < 0) != (rest < 0)), rest + y, rest)
"""

_INT_REMAINDER = """
def _int_remainder(x, y):
    rest = x % y
    return tl.where((rest != 0) & ((rest < 0) != (y < 0)), rest + y, rest)
"""

# Squares and multiplies; a negative exponent leaves 1, -1 or 0, the reciprocal rounded toward zero.
_INT_POW = """
def _int_pow(x, n):
    base = x + n * 0
    total = base * 0 + 1
    odd = (n & 1) != 0
    left = tl.where(n < 0, n * 0, n) + base * 0
    inverse = tl.where(base == 1, base, tl.where(base + 1 == 0, tl.where(odd, base, base * 0 + 1), base * 0))
    for _ in range(63):
        total = tl.where((left & 1) != 0, total * base, total)
        base = base * base
        left = left >> 1
    return tl.where(n < 0, inverse, total)
"""

_MINIMUM = """
def _minimum(x, y):
    return tl.where((x != x) | (y != y), x + y, tl.minimum(x, y))
"""

_MAXIMUM = """
def _maximum(x, y):
    return tl.where((x != x) | (y != y), x + y, tl.maximum(x, y))
"""

_SIGN = """
def _sign(x):
    return (x > 0).to(x.dtype) - (x < 0).to(x.dtype)
"""

# Whole and fractional part apart, so that no digit of the fraction is lost; large numbers have none.
_EXP2_SUM = """
def _exp2_sum(x, low, exponent):
    whole = libdevice.rint(x)
    part = tl.where(tl.abs(x) < 1e6, x - whole, 0.0)
    return libdevice.exp2(part + low) * libdevice.exp2(whole + exponent)
"""

# Shifts by the width or more give 0, or the sign.
_SHIFT_LEFT = """
def _shift_left(x, n):
    last = x.dtype.primitive_bitwidth - 1
    return tl.where(n > last, x * 0, x << tl.minimum(tl.maximum(n, 0), last).to(x.dtype))
"""

_SHIFT_RIGHT = """
def _shift_right(x, n):
    last = x.dtype.primitive_bitwidth - 1
    return tl.where(n > last, (x >> last) >> 1, x >> tl.minimum(tl.maximum(n, 0), last).to(x.dtype))
"""

# `above` is the first float beyond the range where `high` itself is no float.
_FLOAT_TO_INT = """
def _float_to_int(
    x, low: tl.constexpr, high: tl.constexpr, below: tl.constexpr, above: tl.constexpr, to: tl.constexpr
):
    inside = tl.where((x > below) & (x < above), x, 0.0).to(to)
    return tl.where(x >= above, tl.full([], high, to), tl.where(x <= below, tl.full([], low, to), inside))
"""

_TO_FP8 = """
def _to_fp8(x, most: tl.constexpr, to: tl.constexpr):
    wide = x.to(tl.float32)
    return tl.where(wide > most, most, tl.where(wide < -most, -most, wide)).to(to)
"""

# Reflected to the right half, moved beyond 10, then the asymptotic series (Abramowitz and Stegun 6.3.18),
# all in f64.
_DIGAMMA = """
def _digamma(x):
    wide = x.to(tl.float64)
    left = wide < 0.5
    z = tl.where(left, 1.0 - wide, wide)
    total = z * 0.0
    for _ in range(10):
        small = z < 10.0
        total = tl.where(small, total - 1.0 / z, total)
        z = tl.where(small, z + 1.0, z)
    square = 1.0 / (z * z)
    series = square * (1.0 / 12) - square * square * (1.0 / 120)
    cube = square * square * square
    series += cube * (1.0 / 252) - cube * square * (1.0 / 240) + cube * square * square * (1.0 / 132)
    series -= cube * cube * (691.0 / 32760)
    series += cube * cube * square * (1.0 / 12)
    total = total + libdevice.log(z) - 0.5 / z - series
    turn = wide - libdevice.rint(wide)
    total = tl.where(left, total - 3.141592653589793 / libdevice.tan(3.141592653589793 * turn), total)
    total = tl.where((wide < 0.0) & (turn == 0.0), float("nan"), total)
    return tl.where(wide == 0.0, -libdevice.copysign(1.0 / (wide * 0.0), wide), total).to(x.dtype)
"""

# Terms of the series for large arguments (Abramowitz and Stegun 9.7.1); mu is 4 times the square of the
# order.
_BESSEL_TAIL = """
def _bessel_tail(x, mu: tl.constexpr):
    term = x * 0.0 + 1.0
    total = term
    for k in tl.static_range(1, 9):
        term = term * (((2 * k - 1) * (2 * k - 1) - mu) / (8.0 * k)) / x
        total += term
    return total / tl.sqrt(6.283185307179586 * x)
"""

_I0E = """
def _i0e(x):
    size = tl.abs(x)
    near = tl.where(size < 80.0, size, 0.0)
    far = tl.where(size < 80.0, 80.0, size)
    return tl.where(size < 80.0, libdevice.exp(-near) * libdevice.cyl_bessel_i0(near), _bessel_tail(far, 0))
"""

_I1E = """
def _i1e(x):
    size = tl.abs(x)
    near = tl.where(size < 80.0, size, 0.0)
    far = tl.where(size < 80.0, 80.0, size)
    value = tl.where(size < 80.0, libdevice.exp(-near) * libdevice.cyl_bessel_i1(near), _bessel_tail(far, 4))
    return tl.where(x < 0.0, -value, value)
"""

_HALVES = """
def _halves(x, ROWS: tl.constexpr, COLS: tl.constexpr):
    return tl.split(tl.permute(tl.reshape(x, [ROWS, 2, COLS // 2]), [0, 2, 1]))
"""

# A tile as one, two or four with fewer columns each.
_PARTS = """
def _parts(x, ROWS: tl.constexpr, COLS: tl.constexpr, PART: tl.constexpr):
    if COLS == PART:
        return (x,)
    else:
        left, right = _halves(x, ROWS, COLS)
        if COLS == 2 * PART:
            return left, right
        else:
            first, second = _halves(left, ROWS, COLS // 2)
            third, fourth = _halves(right, ROWS, COLS // 2)
            return first, second, third, fourth
"""

#: Definitions by name. A helper that calls another is found through its text.
HELPERS: Mapping[str, str] = MappingProxyType(
    {
        "_floordiv": _FLOORDIV,
        "_int_floordiv": _INT_FLOORDIV,
        "_remainder": _REMAINDER,
        "_int_remainder": _INT_REMAINDER,
        "_int_pow": _INT_POW,
        "_minimum": _MINIMUM,
        "_maximum": _MAXIMUM,
        "_sign": _SIGN,
        "_exp2_sum": _EXP2_SUM,
        "_shift_left": _SHIFT_LEFT,
        "_shift_right": _SHIFT_RIGHT,
        "_float_to_int": _FLOAT_TO_INT,
        "_to_fp8": _TO_FP8,
        "_digamma": _DIGAMMA,
        "_bessel_tail": _BESSEL_TAIL,
        "_i0e": _I0E,
        "_i1e": _I1E,
        "_halves": _HALVES,
        "_parts": _PARTS,
    }
)
