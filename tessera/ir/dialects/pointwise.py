"""Elementwise operations that are definitions over the intrinsics, written so that their tails stay accurate in f32.

Numbers such as slopes and thresholds are operands: they may be dynamic scalars. A definition gets scalar values that
support Python's operators, and ``t``, the namespace of the intrinsics.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from tessera.ir.derive import parts
from tessera.ir.dialects.rules import ARITHMETIC, FLOATING, DTypeRule, arithmetic, elementwise_record
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dtype import f64
from tessera.ir.record import OpRecord

LOG2E = 1.4426950408889634
SQRT_HALF, _SQRT_HALF_LOW = 0.7071067811865476, -4.833646656726457e-17
_TWO_OVER_SQRT_PI = 1.1283791670955126
#: Exponentials carry 2**34, so that they are normal numbers wherever the result is more than 0.
_UP = 34
_SCALE = 2.0**_UP
#: Above the first, infinity would meet a factor of 0. At the second 2**34 * exp(-x) is 0 in f32.
_LARGE, _ZERO_BEYOND = 1e30, 130.0


def _single(c: float) -> tuple[float, float]:
    """A constant as the nearest f32 number and the rest, so that it means the same in every precision."""
    high = struct.unpack("f", struct.pack("f", c))[0]
    return high, c - high


def _short(c: float, bits: int) -> tuple[float, float]:
    """A constant as a multiple of 2**-bits and the rest."""
    high = round(c * 2.0**bits) / 2.0**bits
    return high, c - high


_LOG2E_HIGH, _LOG2E_LOW = _single(LOG2E)


def _decay(t: Any, x: Any) -> tuple[Any, float]:
    """exp(-|x|) times a power of 2, and that power. In f64 nothing needs one."""
    if t.dtype_of(x) is f64:
        return t.exp(-t.abs(x)), 1.0
    m = t.minimum(t.abs(x), _ZERO_BEYOND)
    power = m * -_LOG2E_HIGH
    return t.exp2_sum(power, t.fma(m, -_LOG2E_LOW, t.fma(m, -_LOG2E_HIGH, -power)), _UP), _SCALE


def _gated(t: Any, x: Any, e: Any, one: float) -> Any:
    """x * e / (1 + e) below 0, and x less that above, where the rounding of the small term hardly counts.

    ``e`` comes multiplied by ``one``: it stays a normal number where the result is a denormal one.
    """
    part = t.minimum(x, _LARGE) * e / (one + e)
    return t.where(x < 0.0, part, x - part)


def _silu(t: Any, x: Any) -> Any:
    return _gated(t, x, *_decay(t, x))


def _mish(t: Any, x: Any) -> Any:
    e, one = _decay(t, x)
    below, above, square = e * (e + 2.0 * one), one * (one + 2.0 * e), 2.0 * e * e
    small = t.minimum(x, _LARGE)
    return t.where(x < 0.0, (small * below) / (below + 2.0 * one * one), x - small * (square / (above + square)))


def _gelu(t: Any, x: Any, *, approximate: str) -> Any:
    double = t.dtype_of(x) is f64
    if approximate == "tanh":
        return _gelu_tanh_double(t, x) if double else _gelu_tanh(t, x)
    if t.is_narrow():
        return _gelu_erf_narrow(t, x)
    return _gelu_erf_double(t, x) if double else _gelu_erf(t, x)


def _polynomial(t: Any, x: Any, coefficients: tuple[float, ...]) -> Any:
    """The polynomial with these coefficients, the constant first, by Horner's rule."""
    y: Any = coefficients[-1]
    for c in reversed(coefficients[:-1]):
        y = t.fma(x, y, c)
    return y


#: The normal tail Q(m) over exp(-m^2 / 2) is r P(m r - 0.4375) with r = 1 / (m + 3.375): a minimax fit on [0, 14.3] by
#: the exchange algorithm (2^-28.6), its coefficients rounded to f32 in turn and the later ones fitted again (2^-26.6).
_TAIL = (
    0.815013587474823, -1.2630122900009155, 1.3317086696624756, -0.811529278755188, 0.05380498990416527,
    0.2945546805858612, -0.08911208808422089, -0.13860444724559784, 0.03996870666742325, 0.06887459009885788,
)  # fmt: skip


def _tail(t: Any, m: Any) -> tuple[Any, Any]:
    """Q(m) over exp(-m^2 / 2) for m from 0 to 20, beyond which the tail is 0 in f32, and what rounding it last lost."""
    r = 1.0 / (m + 3.375)
    u = t.fma(m, r, -0.4375)
    rest = _polynomial(t, u, _TAIL[1:])
    p = t.fma(u, rest, _TAIL[0])
    q = r * p
    return q, t.fma(r, t.fma(u, rest, _TAIL[0] - p), t.fma(r, p, -q))


#: exp(-m^2 / 2) = 2^(-_BELL m^2).
_BELL, _BELL_LOW = _single(0.5 * LOG2E)


def _gelu_erf(t: Any, x: Any) -> Any:
    """x Q(-x). The power of 2 is a sum of two numbers, and only the last operation rounds into the denormal numbers."""
    m = t.minimum(t.abs(x), 20.0)
    square = m * m
    power = square * -_BELL
    low = t.fma(t.fma(m, m, -square), -_BELL, t.fma(square, -_BELL_LOW, t.fma(square, -_BELL, -power)))
    bell = t.exp2_sum(power, low, _UP)
    high, low = _tail(t, m)
    tail = t.fma(high, bell, low * bell)
    below = x < 0.0
    return t.fma(t.where(below, x, -m) * tail, 1.0 / _SCALE, t.where(below, -0.0, x))


#: Q(m) over exp(-m^2 / 2) as a polynomial in 1 / (m + 5) from its first power on, up to 14 (2^-19.6).
_TAIL_FAR = (
    0.0, 0.40175101161003113, 1.777298927307129, 16.567245483398438, -76.99282836914062, 1396.6947021484375,
    -6044.18798828125, 21804.27734375,
)  # fmt: skip


def _gelu_erf_narrow(t: Any, x: Any) -> Any:
    """x Q(-x) to 16 bits, which is more than a narrow float keeps of it."""
    m = t.minimum(t.abs(x), 20.0)
    tail = t.exp(-0.5 * m * m) * _polynomial(t, 1.0 / (m + 5.0), _TAIL_FAR)
    return t.where(x < 0.0, x * tail, x - m * tail)


def _gelu_erf_double(t: Any, x: Any) -> Any:
    """x / 2 * erfc(-x / sqrt 2), the argument corrected for its rounding by one Taylor term."""
    z = x * SQRT_HALF
    low = t.where(t.abs(x) < 80.0, t.fma(x, SQRT_HALF, -z) + x * _SQRT_HALF_LOW, 0.0)
    return 0.5 * x * (t.erfc(-z) + low * (_TWO_OVER_SQRT_PI * t.exp(-z * z)))


def _normal_cdf(t: Any, x: Any) -> Any:
    """The normal distribution function for the slope of GELU. Its exponential is the one of the density."""
    if t.dtype_of(x) is f64:
        return 0.5 * t.erfc(-x * SQRT_HALF)
    tail = t.exp(-0.5 * x * x) * _tail(t, t.minimum(t.abs(x), 20.0))[0]
    return t.where(x < 0.0, tail, 1.0 - tail)


_SQRT_8_OVER_PI = 2.0 * math.sqrt(2.0 / math.pi)
_LINEAR, _LINEAR_LOW = _short(_SQRT_8_OVER_PI * LOG2E, 20)
_CUBIC, _CUBIC_LOW = _single(_SQRT_8_OVER_PI * LOG2E * 0.044715)


def _gelu_tanh(t: Any, x: Any) -> Any:
    """x * sigmoid(u) with u = sqrt(8/pi) * (x + 0.044715 x³): no cancellation, unlike 1 + tanh(u / 2).

    The power of 2 is a sum of two numbers, the second of which collects the rounding errors of the first. It is 0 in
    f32 at 12.
    """
    m = t.minimum(t.abs(x), 12.0)
    square = m * m
    slope = t.fma(_CUBIC, square, _LINEAR)
    power = m * slope
    lost = t.fma(_CUBIC_LOW, square, t.fma(_CUBIC, t.fma(m, m, -square), _LINEAR_LOW))
    low = t.fma(m, t.fma(_CUBIC, square, _LINEAR - slope) + lost, t.fma(m, slope, -power))
    return _gated(t, x, t.exp2_sum(-power, -low, _UP), _SCALE)


def _gelu_tanh_double(t: Any, x: Any) -> Any:
    u = _SQRT_8_OVER_PI * t.fma(0.044715 * x * x, x, x)
    return _gated(t, x, t.exp(-t.abs(u)), 1.0)


def _softplus(t: Any, x: Any, beta: Any, threshold: Any) -> Any:
    z = x * beta
    soft = (t.maximum(z, 0.0) + t.log1p(t.exp(-t.abs(z)))) / beta
    return t.where(z > threshold, x, soft)


def _logsigmoid(t: Any, x: Any) -> Any:
    return t.minimum(x, 0.0) - t.log1p(t.exp(-t.abs(x)))


def _elu(t: Any, x: Any, alpha: Any, scale: Any, input_scale: Any) -> Any:
    return t.where(x > 0, x * scale, (alpha * scale) * t.expm1(x * input_scale))


_SELU_ALPHA = 1.6732632423543772
_SELU_SCALE = 1.0507009873554805


def _selu(t: Any, x: Any) -> Any:
    return t.where(x > 0, _SELU_SCALE * x, (_SELU_SCALE * _SELU_ALPHA) * t.expm1(x))


def _celu(t: Any, x: Any, alpha: Any) -> Any:
    return t.where(x > 0, x, alpha * t.expm1(x / alpha))


def _hardtanh(t: Any, x: Any, min_val: Any, max_val: Any) -> Any:
    return t.minimum(t.maximum(x, min_val), max_val)


def _sixth(t: Any, x: Any) -> Any:
    return t.minimum(t.maximum(x + 3.0, 0.0), 6.0)


def _softshrink(t: Any, x: Any, lambd: Any) -> Any:
    return t.where(x > lambd, x - lambd, t.where(x < -lambd, x + lambd, x * 0.0))


def _hardshrink(t: Any, x: Any, lambd: Any) -> Any:
    return t.where(t.logical_and(x >= -lambd, x <= lambd), 0.0, x)


def _gelu_call(t: Any, x: Any, approximate: str = "none") -> Any:
    if approximate not in ("none", "tanh"):
        t.fail("TSR0301", f"gelu with `approximate={approximate!r}`", helps=['use "none" or "tanh"'])
    return t.emit("gelu", (x,), approximate=approximate)


# --- slopes -----------------------------------------------------------------------------------------------------------

DENSITY = 1.0 / math.sqrt(2.0 * math.pi)


def _silu_slope(t: Any, x: Any) -> Any:
    s = t.sigmoid(x)
    return t.fma(s, x * (1.0 - s), s)


def _mish_slope(t: Any, x: Any) -> Any:
    soft = t.tanh(t.softplus(x))
    return t.fma(x * t.sigmoid(x), (1.0 - soft) * (1.0 + soft), soft)


def _gelu_slope(t: Any, x: Any, approximate: str) -> Any:
    """The distribution function plus x times the density, or the same of the tanh form, as x * sigmoid(u)."""
    if approximate == "none":
        return t.fma(x, DENSITY * t.exp(-0.5 * x * x), t.bell_integral(x))
    u = _SQRT_8_OVER_PI * (x + 0.044715 * (x * x * x))
    s = t.sigmoid(u)
    return t.fma(s, x * ((1.0 - s) * (_SQRT_8_OVER_PI * (1.0 + 3.0 * 0.044715 * (x * x)))), s)


def _elu_part(t: Any, g: Any, y: Any, x: Any, alpha: Any, scale: Any, input_scale: Any) -> Any:
    below = g * (t.exp(t.minimum(x, 0.0) * input_scale) * alpha * scale * input_scale)
    return t.where(t.gt(x, 0), g * scale, below)


def _selu_part(t: Any, g: Any, y: Any, x: Any) -> Any:
    below = g * (_SELU_SCALE * _SELU_ALPHA * t.exp(t.minimum(x, 0.0)))
    return t.where(t.gt(x, 0), g * _SELU_SCALE, below)


def _inside(t: Any, g: Any, x: Any, low: Any, high: Any) -> Any:
    """The cotangent where x lies between two bounds and on neither."""
    return t.where(t.logical_or(t.le(x, low), t.ge(x, high)), 0.0, g)


def _inside_part(t: Any, g: Any, y: Any, x: Any, low: Any, high: Any) -> Any:
    return _inside(t, g, x, low, high)


FLOAT_PARTS = arithmetic("float")


def _f(name: str, doc: str, define: Any, signature: str = "x: tensor", **more: Any) -> OpRecord:
    """A definition that lives in ``torch.nn.functional``."""
    more.setdefault("methods", ())
    return elementwise_record(name, signature, doc, more.pop("rule", FLOAT_PARTS), define,
                              where=more.pop("where", "f"), flops=more.pop("flops", 10), **more)  # fmt: skip


def scalar_sample(*numbers: float) -> Any:
    """Sample calls with these numbers beside a tensor, of two dtypes and of rank 0."""
    return samples(call(T(("B", "D")), *numbers), call(T(("B", "D"), "bf16"), *numbers), call(T(()), *numbers))


OPS: tuple[OpRecord, ...] = (
    _f("relu", "Negative values become 0; NaN stays.", lambda t, x: t.maximum(x, 0), rule=ARITHMETIC, where="tmf",
       methods=("relu",), flops=1,
       dtypes="f32 bf16 int32", d=parts(lambda t, g, y, x: t.where(t.le(y, 0), 0.0, g))),
    _f("relu6", "Values held between 0 and 6.", lambda t, x: t.minimum(t.maximum(x, 0), 6), rule=ARITHMETIC, flops=2,
            d=parts(lambda t, g, y, x: _inside(t, g, x, 0.0, 6.0))),
    _f("silu", "The product x * sigmoid(x), accurate far into the negative tail.", _silu,
            d=parts(lambda t, g, y, x: g * _silu_slope(t, x))),
    _f("mish", "The product x * tanh(softplus(x)).", _mish, d=parts(lambda t, g, y, x: g * _mish_slope(t, x))),
    _f("gelu", "Gaussian error linear unit; `approximate` is \"none\" or \"tanh\".", _gelu,
       "x: tensor, approximate: str = 'none'", call=_gelu_call, flops=30,
       samples=samples(call(T(("B", "D"))), call(T(("B", "D"), "bf16")), call(T(("B", "D")), approximate="tanh")),
            d=parts(lambda t, g, y, x, approximate: g * _gelu_slope(t, x, approximate))),
    _f("bell_integral", "The normal distribution function, with the exponential of its density.", _normal_cdf, where="",
       flops=30, eager=lambda torch, x: torch.special.ndtr(x),
            d=parts(lambda t, g, y, x: g * (DENSITY * t.exp(-0.5 * x * x)))),
    _f("softplus", "The smooth ramp log(1 + exp(beta x)) / beta; x itself above the threshold.", _softplus,
       "x: tensor float, beta: tensor = 1.0, threshold: tensor = 20.0", samples=scalar_sample(2.0),
            d=parts(lambda t, g, y, x, beta, limit: t.where(t.gt(x * beta, limit), g, g * t.sigmoid(x * beta)))),
    _f("logsigmoid", "The logarithm of sigmoid(x).", _logsigmoid, d=parts(lambda t, g, y, x: g * t.sigmoid(-x))),
    _f("elu", "Values above 0 as they are, alpha (exp(x) - 1) below.", _elu,
       "x: tensor float, alpha: tensor = 1.0, scale: tensor = 1.0, input_scale: tensor = 1.0",
       eager=lambda torch, x, alpha, scale, input_scale: torch.where(
           x > 0, x * scale, (alpha * scale) * torch.expm1(x * input_scale)), samples=scalar_sample(1.5),
            d=parts(_elu_part)),
    _f("selu", "Self-normalising elu.", _selu, more=("torch.selu",),
            d=parts(_selu_part)),
    _f("celu", "Values above 0 as they are, alpha (exp(x / alpha) - 1) below.", _celu,
       "x: tensor float, alpha: tensor = 1.0", more=("torch.celu",), samples=scalar_sample(1.5),
            d=parts(lambda t, g, y, x, alpha: t.where(t.gt(x, 0), g, g * t.exp(t.minimum(x, 0.0) / alpha)))),
    _f("hardtanh", "Values held between two bounds.", _hardtanh,
       "x: tensor, min_val: tensor = -1.0, max_val: tensor = 1.0",
       flops=2, samples=scalar_sample(-0.5, 2.0), rule=arithmetic("float int", among=slice(1)),
            d=parts(_inside_part)),
    _f("hardswish", "The product x * relu6(x + 3) / 6.", lambda t, x: x * _sixth(t, x) / 6.0, flops=5,
            d=parts(lambda t, g, y, x: t.where(t.ge(x, 3.0), g, t.where(t.le(x, -3.0), 0.0, g * (x / 3.0 + 0.5))))),
    _f("hardsigmoid", "The ramp relu6(x + 3) / 6.", lambda t, x: _sixth(t, x) / 6.0, flops=4,
            d=parts(lambda t, g, y, x: _inside(t, g / 6.0, x, -3.0, 3.0))),
    _f("leaky_relu", "Values above 0 as they are, a small slope below.", lambda t, x,
       slope: t.where(x > 0, x, x * slope),
       "x: tensor float, negative_slope: tensor = 0.01", flops=2, samples=scalar_sample(0.2),
            d=parts(lambda t, g, y, x, slope: t.where(t.gt(x, 0), g, g * slope))),
    _f("softsign", "The quotient x / (1 + |x|).", lambda t, x: x / (1.0 + t.abs(x)), "x: tensor float int",
       flops=3, rule=FLOATING, d=parts(lambda t, g, y, x: g / t.square(1.0 + t.abs(x)))),
    _f("tanhshrink", "The difference x - tanh(x).", lambda t, x: x - t.tanh(x), "x: tensor float int", rule=FLOATING,
            d=parts(lambda t, g, y, x: g * t.square(t.tanh(x)))),
    _f("softshrink", "Values moved toward 0 by lambd, and 0 in between.", _softshrink,
       "x: tensor float, lambd: tensor = 0.5", flops=4, samples=scalar_sample(0.7),
            d=parts(lambda t, g, y, x, lambd: t.where(t.le(t.abs(x), lambd), 0.0, g))),
    _f("hardshrink", "Values outside [-lambd, lambd] as they are, 0 inside.", _hardshrink,
       "x: tensor float, lambd: tensor = 0.5", flops=3,
       where="ftm", methods=("hardshrink",), samples=scalar_sample(0.7),
            d=parts(lambda t, g, y, x, lambd: t.where(t.le(t.abs(x), lambd), 0.0, g))),
    _f("threshold", "Values above the threshold as they are, `value` elsewhere.",
       lambda t, x, threshold, value: t.where(x <= threshold, value, x),
       "x: tensor float int, threshold: tensor, value: tensor", where="ft", flops=2, samples=scalar_sample(0.5, -1.0),
       rule=DTypeRule(lambda types: (None,) * 3, lambda ctx, types, attrs: types[0].dtype),
            d=parts(lambda t, g, y, x, threshold, value: t.where(t.le(x, threshold), 0.0, g))),
)  # fmt: skip
