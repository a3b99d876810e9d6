"""Elementwise operations that are definitions over the intrinsics, written so that their tails stay accurate in f32.

Numbers such as slopes and thresholds are operands: they may be dynamic scalars. A definition gets scalar values that
support Python's operators, and ``t``, the namespace of the intrinsics.
"""

from __future__ import annotations

import math
import struct
from typing import Any

from tessera.ir.dialects.rules import ARITHMETIC, FLOATING, DTypeRule, arithmetic, elementwise_record
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dtype import f64, int64
from tessera.ir.record import OpRecord

_LOG2E = 1.4426950408889634
_SQRT_HALF, _SQRT_HALF_LOW = 0.7071067811865476, -4.833646656726457e-17
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


_LOG2E_HIGH, _LOG2E_LOW = _single(_LOG2E)


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


_HALF_HIGH, _HALF_LOW = _single(_SQRT_HALF)
#: -a Q(a) for the normal tail Q, over the density without its constant, around a = 13.125 (|error| < 5e-9).
_TAIL = (-0.3966656307575071, -3.4110878895758634e-4, 3.81647469170989e-5, -3.7718082814025434e-6)


def _gelu_erf(t: Any, x: Any) -> Any:
    """x / 2 * erfc(-x / sqrt 2), the argument corrected for its rounding by one Taylor term.

    Where erfc would be a denormal number and the result is not, the tail is the density times a cubic.
    """
    z = x * _HALF_HIGH
    low = t.where(t.abs(x) < 40.0, t.fma(x, _HALF_HIGH, -z) + x * _HALF_LOW, 0.0)
    half = 0.5 * x
    square = half * x
    density = t.exp(-square)
    body = half * (t.erfc(-z) + low * (_TWO_OVER_SQRT_PI * density))
    d = -13.125 - x
    tail = (density - density * t.fma(half, x, -square)) * (((_TAIL[3] * d + _TAIL[2]) * d + _TAIL[1]) * d + _TAIL[0])
    return t.where(t.logical_and(x < -12.75, x > -13.5), tail, body)


#: The normal tail Q(x) over exp(-x^2 / 2) as a polynomial in 1 / (x + 5) from its first power on, up to 14 (2^-19.6).
_TAIL_FAR = (
    0.40175101161003113, 1.777298927307129, 16.567245483398438, -76.99282836914062, 1396.6947021484375,
    -6044.18798828125, 21804.27734375,
)  # fmt: skip


def _gelu_erf_narrow(t: Any, x: Any) -> Any:
    """x Q(-x) to 16 bits, which is more than a narrow float keeps of it."""
    m = t.minimum(t.abs(x), 20.0)
    r = 1.0 / (m + 5.0)
    p: Any = _TAIL_FAR[-1]
    for c in reversed(_TAIL_FAR[:-1]):
        p = t.fma(r, p, c)
    tail = t.exp(-0.5 * m * m) * (r * p)
    return t.where(x < 0.0, x * tail, x - m * tail)


def _gelu_erf_double(t: Any, x: Any) -> Any:
    """The same, with constants of f64 and no tail of denormal numbers."""
    z = x * _SQRT_HALF
    low = t.where(t.abs(x) < 80.0, t.fma(x, _SQRT_HALF, -z) + x * _SQRT_HALF_LOW, 0.0)
    return 0.5 * x * (t.erfc(-z) + low * (_TWO_OVER_SQRT_PI * t.exp(-z * z)))


_SQRT_8_OVER_PI = 2.0 * math.sqrt(2.0 / math.pi)
_LINEAR, _LINEAR_LOW = _short(_SQRT_8_OVER_PI * _LOG2E, 20)
_CUBIC, _CUBIC_LOW = _single(_SQRT_8_OVER_PI * _LOG2E * 0.044715)


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


def _logit(t: Any, x: Any, eps: Any) -> Any:
    """log(x / (1 - x)); near one half as 2 atanh(2x - 1), where the quotient would round to 1."""
    x = t.where(eps >= 0.0, t.minimum(t.maximum(x, eps), 1.0 - eps), x)
    near = t.abs(x - 0.5) < 0.25
    return t.where(near, 2.0 * t.atanh(t.where(near, 2.0 * x - 1.0, 0.0)), t.log(x / (1.0 - x)))


def _logaddexp(t: Any, x: Any, other: Any) -> Any:
    top = t.maximum(x, other)
    return t.where(t.logical_and(t.isinf(x), x == other), x, top + t.log1p(t.exp(-t.abs(x - other))))


def _logaddexp2(t: Any, x: Any, other: Any) -> Any:
    top = t.maximum(x, other)
    soft = top + t.log1p(t.exp2(-t.abs(x - other))) * _LOG2E
    return t.where(t.logical_and(t.isinf(x), x == other), x, soft)


def _xlogy(t: Any, x: Any, other: Any) -> Any:
    return t.where(t.isnan(other), other, t.where(x == 0, 0.0, x * t.log(other)))


def _xlog1py(t: Any, x: Any, other: Any) -> Any:
    return t.where(t.isnan(other), other, t.where(x == 0, 0.0, x * t.log1p(other)))


def _entr(t: Any, x: Any) -> Any:
    zero_or_less = t.where(x == 0, 0.0, t.where(x < 0, -math.inf, x))
    return t.where(x > 0, -x * t.log(x), zero_or_less)


def _sinc(t: Any, x: Any) -> Any:
    zero = x == 0
    angle = t.where(zero, 1.0, x * math.pi)
    return t.where(zero, 1.0, t.sin(angle) / angle)


def _lerp(t: Any, start: Any, end: Any, weight: Any) -> Any:
    step, near = end - start, t.abs(weight) < 0.5
    return t.fma(step, t.where(near, weight, weight - 1.0), t.where(near, start, end))


def _nan_to_num(t: Any, x: Any, nan: Any, posinf: Any, neginf: Any) -> Any:
    finite = t.where(t.isinf(x), t.where(x > 0, posinf, neginf), x)
    return t.where(t.isnan(x), nan, finite)


def _nan_to_num_call(t: Any, x: Any, nan: Any = None, posinf: Any = None, neginf: Any = None) -> Any:
    kind = t.dtype_of(x)
    if not kind.is_float:
        return x
    high, low = float(kind.max), float(kind.min)
    given = (nan, 0.0), (posinf, high), (neginf, low)
    return t.emit("nan_to_num", (x, *(default if v is None else v for v, default in given)))


def _gelu_call(t: Any, x: Any, approximate: str = "none") -> Any:
    if approximate not in ("none", "tanh"):
        t.fail("TSR0301", f"gelu with `approximate={approximate!r}`", helps=['use "none" or "tanh"'])
    return t.emit("gelu", (x,), approximate=approximate)


def _logit_call(t: Any, x: Any, eps: Any = None) -> Any:
    return t.emit("logit", (x, -1.0 if eps is None else eps))


def _logit_eager(torch: Any, x: Any, eps: Any) -> Any:
    return torch.logit(x, None if float(eps) < 0 else float(eps))


def _square(t: Any, x: Any) -> Any:
    return t.emit("square", (t.cast(x, int64) if t.dtype_of(x).is_bool else x,))


def _frac(t: Any, x: Any) -> Any:
    return x - t.trunc(x)


_FLOAT_PARTS = arithmetic("float")


def _f(name: str, doc: str, define: Any, signature: str = "x: tensor", **more: Any) -> OpRecord:
    """A definition that lives in ``torch.nn.functional``."""
    more.setdefault("methods", ())
    return elementwise_record(name, signature, doc, more.pop("rule", _FLOAT_PARTS), define,
                              where=more.pop("where", "f"), flops=more.pop("flops", 10), **more)  # fmt: skip


def _scalar_sample(*numbers: float) -> Any:
    return samples(call(T(("B", "D")), *numbers), call(T(("B", "D"), "bf16"), *numbers), call(T(()), *numbers))


ACTIVATIONS: tuple[OpRecord, ...] = (
    _f("relu", "Negative values become 0; NaN stays.", lambda t, x: t.maximum(x, 0), rule=ARITHMETIC, where="tmf",
       methods=("relu",), flops=1,
       dtypes="f32 bf16 int32"),
    _f("relu6", "Values held between 0 and 6.", lambda t, x: t.minimum(t.maximum(x, 0), 6), rule=ARITHMETIC, flops=2),
    _f("silu", "The product x * sigmoid(x), accurate far into the negative tail.", _silu),
    _f("mish", "The product x * tanh(softplus(x)).", _mish),
    _f("gelu", "Gaussian error linear unit; `approximate` is \"none\" or \"tanh\".", _gelu,
       "x: tensor, approximate: str = 'none'", call=_gelu_call, flops=30,
       samples=samples(call(T(("B", "D"))), call(T(("B", "D"), "bf16")), call(T(("B", "D")), approximate="tanh"))),
    _f("softplus", "The smooth ramp log(1 + exp(beta x)) / beta; x itself above the threshold.", _softplus,
       "x: tensor float, beta: tensor = 1.0, threshold: tensor = 20.0", samples=_scalar_sample(2.0)),
    _f("logsigmoid", "The logarithm of sigmoid(x).", _logsigmoid),
    _f("elu", "Values above 0 as they are, alpha (exp(x) - 1) below.", _elu,
       "x: tensor float, alpha: tensor = 1.0, scale: tensor = 1.0, input_scale: tensor = 1.0",
       eager=lambda torch, x, alpha, scale, input_scale: torch.where(
           x > 0, x * scale, (alpha * scale) * torch.expm1(x * input_scale)), samples=_scalar_sample(1.5)),
    _f("selu", "Self-normalising elu.", _selu, more=("torch.selu",)),
    _f("celu", "Values above 0 as they are, alpha (exp(x / alpha) - 1) below.", _celu,
       "x: tensor float, alpha: tensor = 1.0", more=("torch.celu",), samples=_scalar_sample(1.5)),
    _f("hardtanh", "Values held between two bounds.", _hardtanh,
       "x: tensor, min_val: tensor = -1.0, max_val: tensor = 1.0",
       flops=2, samples=_scalar_sample(-0.5, 2.0), rule=arithmetic("float int", among=slice(1))),
    _f("hardswish", "The product x * relu6(x + 3) / 6.", lambda t, x: x * _sixth(t, x) / 6.0, flops=5),
    _f("hardsigmoid", "The ramp relu6(x + 3) / 6.", lambda t, x: _sixth(t, x) / 6.0, flops=4),
    _f("leaky_relu", "Values above 0 as they are, a small slope below.", lambda t, x,
       slope: t.where(x > 0, x, x * slope),
       "x: tensor float, negative_slope: tensor = 0.01", flops=2, samples=_scalar_sample(0.2)),
    _f("softsign", "The quotient x / (1 + |x|).", lambda t, x: x / (1.0 + t.abs(x)), "x: tensor float int",
       flops=3, rule=FLOATING),
    _f("tanhshrink", "The difference x - tanh(x).", lambda t, x: x - t.tanh(x), "x: tensor float int", rule=FLOATING),
    _f("softshrink", "Values moved toward 0 by lambd, and 0 in between.", _softshrink,
       "x: tensor float, lambd: tensor = 0.5", flops=4, samples=_scalar_sample(0.7)),
    _f("hardshrink", "Values outside [-lambd, lambd] as they are, 0 inside.", _hardshrink,
       "x: tensor float, lambd: tensor = 0.5", flops=3,
       where="ftm", methods=("hardshrink",), samples=_scalar_sample(0.7)),
    _f("threshold", "Values above the threshold as they are, `value` elsewhere.",
       lambda t, x, threshold, value: t.where(x <= threshold, value, x),
       "x: tensor float int, threshold: tensor, value: tensor", where="ft", flops=2, samples=_scalar_sample(0.5, -1.0),
       rule=DTypeRule(lambda types: (None,) * 3, lambda ctx, types, attrs: types[0].dtype)),
)  # fmt: skip

_RADIANS = math.pi / 180.0

POINTWISE: tuple[OpRecord, ...] = (
    elementwise_record("square", "x: tensor", "The product x * x.", ARITHMETIC, lambda t, x: x * x, call=_square,
                       dtypes="f32 bf16 int32 bool"),
    elementwise_record("frac", "x: tensor", "The fractional part, x - trunc(x).", _FLOAT_PARTS, _frac, flops=2),
    elementwise_record("logit", "x: tensor, eps: tensor = -1.0",
                       "The logarithm of the odds, log(x / (1 - x)); eps keeps x in [eps, 1 - eps].",
                       FLOATING, _logit, call=_logit_call, eager=_logit_eager, domain=(0.02, 0.98), flops=25,
                       more=("torch.special.logit",),
                       samples=samples(call(T(("B", "D"), domain=(0.02, 0.98))), call(T(("B", "D")), 0.1))),
    elementwise_record("logaddexp", "x: tensor, other: tensor",
                       "The logarithm of exp(x) + exp(other), without overflow.", _FLOAT_PARTS, _logaddexp,
                       flops=24),
    elementwise_record("logaddexp2", "x: tensor, other: tensor",
                       "The binary logarithm of 2**x + 2**other, without overflow.", _FLOAT_PARTS, _logaddexp2,
                       flops=24),
    elementwise_record("xlogy", "x: tensor, other: tensor", "The product x log(other), and 0 where x is 0.", FLOATING,
                       _xlogy,
                       domain=(0.05, 8.0), flops=13, more=("torch.special.xlogy",)),
    elementwise_record("xlog1py", "x: tensor, other: tensor", "The product x log(1 + other), and 0 where x is 0.",
                       FLOATING,
                       _xlog1py,
                       where="s", methods=(), domain=(0.05, 8.0), flops=13),
    elementwise_record("entr", "x: tensor", "The entropy term -x log(x).", FLOATING, _entr, where="s", methods=(),
                       domain=(-1.0, 8.0),
                       flops=14),
    elementwise_record("sinc", "x: tensor", "The quotient sin(pi x) / (pi x), and 1 at 0.", FLOATING, _sinc,
                       more=("torch.special.sinc",),
                       flops=14),
    elementwise_record("ndtr", "x: tensor", "The normal distribution function.", FLOATING,
                       lambda t, x: 0.5 * t.erfc(-x * _SQRT_HALF), where="s", methods=(), flops=23),
    elementwise_record("ndtri", "x: tensor", "The inverse of ndtr.", FLOATING,
                       lambda t, x: math.sqrt(2.0) * t.erfinv(2.0 * x - 1.0), where="s", methods=(),
                       domain=(0.02, 0.98), dtypes="f32",
                       flops=33),
    elementwise_record("heaviside", "x: tensor, values: tensor like x", "A step: 0 below 0, 1 above, `values` at 0.",
                       ARITHMETIC,
                       lambda t, x, values: t.where(x == 0, values, t.where(x > 0, 1, 0)), flops=3),
    elementwise_record("lerp", "x: tensor, end: tensor like x, weight: tensor like x free0",
                       "Linear interpolation, x + weight (end - x).",
                       _FLOAT_PARTS, _lerp,
                       flops=6),
    elementwise_record("addcmul",
           "x: tensor, tensor1: tensor, tensor2: tensor with x tensor1 float int, value: tensor = 1",
                       "The sum x + value * tensor1 * tensor2.", ARITHMETIC, lambda t, x, a, b, v: t.fma(v * a, b, x),
                       flops=3,
                       eager=lambda torch, x, a, b, v: torch.addcmul(x, a, b, value=v),
                       samples=samples(call(T(("B", "D")), T(("B", "D")), T(("D",)), value=0.5))),
    elementwise_record("addcdiv", "x: tensor, tensor1: tensor, tensor2: tensor with tensor1 float, value: tensor = 1",
                       "The sum x + value * tensor1 / tensor2.", _FLOAT_PARTS, lambda t, x, a, b, v: x + v * (a / b),
                       flops=4,
                       eager=lambda torch, x, a, b, v: torch.addcdiv(x, a, b, value=v),
                       samples=samples(call(T(("B", "D")), T(("B", "D")), T(("D",), domain=(0.5, 2.0)), value=0.5))),
    elementwise_record("nan_to_num", "x: tensor, nan: tensor = None, posinf: tensor = None, neginf: tensor = None",
                       "Replace NaN and the infinities by numbers.", FLOATING, _nan_to_num, call=_nan_to_num_call,
                       flops=5,
                       samples=_scalar_sample(1.0, 2.0, -2.0)),
    elementwise_record("deg2rad", "x: tensor", "Degrees to radians.", FLOATING, lambda t, x: x * _RADIANS),
    elementwise_record("rad2deg", "x: tensor", "Radians to degrees.", FLOATING, lambda t, x: x * (180.0 / math.pi)),
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (*ACTIVATIONS, *POINTWISE)
