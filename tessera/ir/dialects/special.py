"""Elementwise operations beside activations: parts of numbers, logarithms of sums, entropies, distributions."""

from __future__ import annotations

import math
from typing import Any

from tessera.ir.derive import Part, cut, parts
from tessera.ir.dialects.pointwise import DENSITY, FLOAT_PARTS, LOG2E, SQRT_HALF, scalar_sample
from tessera.ir.dialects.rules import ANY, ARITHMETIC, FLOATING, elementwise_record
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dtype import f32, f64, int64
from tessera.ir.infer import Blame
from tessera.ir.record import Law, OpRecord, Rewrite


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
    soft = top + t.log1p(t.exp2(-t.abs(x - other))) * LOG2E
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


def _logit_call(t: Any, x: Any, eps: Any = None) -> Any:
    return t.emit("logit", (x, -1.0 if eps is None else eps))


def _logit_eager(torch: Any, x: Any, eps: Any) -> Any:
    return torch.logit(x, None if float(eps) < 0 else float(eps))


def _square(t: Any, x: Any) -> Any:
    return t.emit("square", (t.cast(x, int64) if t.dtype_of(x).is_bool else x,))


def _frac(t: Any, x: Any) -> Any:
    return x - t.trunc(x)


def _logit_part(t: Any, g: Any, y: Any, x: Any, eps: Any) -> Any:
    slope = g / (x * (1.0 - x))
    bounded = t.where(t.logical_or(t.lt(x, eps), t.gt(x, 1.0 - eps)), 0.0, slope)
    return t.where(t.ge(eps, 0.0), bounded, slope)


def _soft_winner(second: bool, scale: float) -> Part:
    def part(t: Any, g: Any, y: Any, x: Any, other: Any) -> Any:
        mine, its = (other, x) if second else (x, other)
        return g * t.where(t.eq(mine, its), 0.5, t.sigmoid((mine - its) * scale))

    return part


def _times_log(shift: float) -> Part:
    def part(t: Any, g: Any, y: Any, x: Any, other: Any) -> Any:
        nothing = t.logical_and(t.eq(x, 0), t.le(other, -shift))
        return t.where(nothing, 0.0, g * (t.log1p(other) if shift else t.log(other)))

    return part


#: Of (a cos a - sin a) / a^2 the coefficients of a, a^3, a^5, …
_SINC_SLOPE = tuple((-1) ** n * 2 * n / math.factorial(2 * n + 1) for n in range(1, 10))


def _sinc_slope(t: Any, x: Any) -> Any:
    """(cos a - sin a / a) / x with a = pi x; near 0, where that cancels, its series."""
    near = t.lt(t.abs(x), 0.25)
    at = t.where(near, 1.0, x)
    angle, small = at * math.pi, t.where(near, x, 0.0) * math.pi
    square, series = small * small, 0.0
    for c in reversed(_SINC_SLOPE):
        series = series * square + c
    return t.where(near, math.pi * small * series, (t.cos(angle) - t.sin(angle) / angle) / at)


def _polygamma(t: Any, x: Any, *, n: int) -> Any:
    """The Euler-Maclaurin sum of n! / (x + k)^(n + 1): ten terms, then the rest in powers of 1 / (x + 10) (DLMF
    5.15.8); the first derivative below one half by reflection (DLMF 5.15.6).
    """
    at = t.where(x < 0.5, 1.0 - x, x) if n == 1 else x
    total: Any = 0.0
    for k in range(10):
        total = total + _inverse(at + float(k), n + 1)
    z = at + 10.0
    rest = (1.0 / n) * _inverse(z, n) + 0.5 * _inverse(z, n + 1)
    for j, bernoulli in enumerate((1 / 6, -1 / 30, 1 / 42, -1 / 30, 5 / 66, -691 / 2730, 7 / 6), 1):
        scale = math.factorial(2 * j + n - 1) / (math.factorial(2 * j) * math.factorial(n))
        rest = rest + (bernoulli * scale) * _inverse(z, 2 * j + n)
    y = (-1.0) ** (n + 1) * math.factorial(n) * (total + rest)
    if n != 1:
        return y
    ratio = math.pi / t.sin(math.pi * x)
    return t.where(x < 0.5, ratio * ratio - y, y)


def _inverse(x: Any, power: int) -> Any:
    y = x
    for _ in range(power - 1):
        y = y * x
    return 1.0 / y


def _polygamma_call(t: Any, n: int, x: Any) -> Any:
    if n < 0:
        t.fail("TSR0301", f"polygamma of order {n}", Blame(0), helps=["orders begin at 0"])
    if n == 0:
        return t.digamma(x)
    kind = t.dtype_of(x) if t.dtype_of(x).is_float else f32
    # Some twenty terms: in f64, so that their sum is rounded once.
    return t.cast(t.emit("polygamma", (t.cast(x, f64),), n=int(n)), kind)


def _with_value_eager(torch: Any, x: Any, value: Any) -> Any:
    if not (torch.is_grad_enabled() and x.requires_grad):
        return torch.broadcast_tensors(x, value)[1].detach()
    made = x + torch.zeros_like(value, requires_grad=False)
    with torch.no_grad():
        made.copy_(value)
    return made


_RADIANS = math.pi / 180.0

OPS: tuple[OpRecord, ...] = (
    elementwise_record("detach", "x: tensor", "The tensor itself, a constant to derivatives.", ANY, lambda t, x: x,
                       rewrites=(Rewrite((), 0),), law=Law.SAME, flops=0, d=cut,
                       eager=lambda torch, x: x.detach()),
    elementwise_record("with_value", "x: tensor, value: tensor like x",
                       "The elements of value; to derivatives it is x, and value a constant.", ANY,
                       lambda t, x, value: value, where="", methods=(), rewrites=(Rewrite((), 1),), flops=0,
                       eager=_with_value_eager,
                       d=parts(lambda t, g, *_: g, None)),
    elementwise_record("polygamma", "n: int, x: tensor", "The n-th derivative of digamma, for x > 0.", FLOATING,
                       _polygamma, call=_polygamma_call, methods=(), where="ts", domain=(0.1, 8.0), flops=200,
                       eager=lambda torch, x, n: torch.polygamma(n, x),
                       samples=samples(call(1, T(("B", "D"), domain=(0.1, 8.0))),
                                       call(3, T(("D",), domain=(0.5, 8.0)))),
                       d=parts(lambda t, g, y, x, n: g * t.polygamma(n + 1, x))),
    elementwise_record("magnitude", "x: tensor", "The square root; its slope at 0 is taken as 0.", FLOATING,
                       lambda t, x: t.sqrt(x), where="", methods=(), domain=(0.0, 8.0), flops=4,
                       eager=lambda torch, x: torch.sqrt(x),
                       d=parts(lambda t, g, y, x: t.where(t.eq(y, 0.0), 0.0, g / (2.0 * y)))),
    elementwise_record("square", "x: tensor", "The product x * x.", ARITHMETIC, lambda t, x: x * x, call=_square,
                       dtypes="f32 bf16 int32 bool", d=parts(lambda t, g, y, x: g * (2.0 * x))),
    elementwise_record("frac", "x: tensor", "The fractional part, x - trunc(x).", FLOAT_PARTS, _frac, flops=2,
            d=parts(lambda t, g, y, x: g)),
    elementwise_record("logit", "x: tensor, eps: tensor = -1.0",
                       "The logarithm of the odds, log(x / (1 - x)); eps keeps x in [eps, 1 - eps].",
                       FLOATING, _logit, call=_logit_call, eager=_logit_eager, domain=(0.02, 0.98), flops=25,
                       more=("torch.special.logit",),
                       samples=samples(call(T(("B", "D"), domain=(0.02, 0.98))), call(T(("B", "D")), 0.1)),
            d=parts(_logit_part)),
    elementwise_record("logaddexp", "x: tensor, other: tensor",
                       "The logarithm of exp(x) + exp(other), without overflow.", FLOAT_PARTS, _logaddexp,
                       flops=24, d=parts(_soft_winner(False, 1.0), _soft_winner(True, 1.0))),
    elementwise_record("logaddexp2", "x: tensor, other: tensor",
                       "The binary logarithm of 2**x + 2**other, without overflow.", FLOAT_PARTS, _logaddexp2,
                       flops=24, d=parts(_soft_winner(False, math.log(2.0)), _soft_winner(True, math.log(2.0)))),
    elementwise_record("xlogy", "x: tensor, other: tensor", "The product x log(other), and 0 where x is 0.", FLOATING,
                       _xlogy,
                       domain=(0.05, 8.0), flops=13, more=("torch.special.xlogy",),
            d=parts(_times_log(0.0), lambda t, g, y, x, o: g * (x / o))),
    elementwise_record("xlog1py", "x: tensor, other: tensor", "The product x log(1 + other), and 0 where x is 0.",
                       FLOATING,
                       _xlog1py,
                       where="s", methods=(), domain=(0.05, 8.0), flops=13,
            d=parts(_times_log(1.0), lambda t, g, y, x, o: g * (x / (o + 1.0)))),
    elementwise_record("entr", "x: tensor", "The entropy term -x log(x).", FLOATING, _entr, where="s", methods=(),
                       domain=(-1.0, 8.0),
                       flops=14, d=parts(lambda t, g, y, x: g * (-1.0 - t.log(x)))),
    elementwise_record("sinc", "x: tensor", "The quotient sin(pi x) / (pi x), and 1 at 0.", FLOATING, _sinc,
                       more=("torch.special.sinc",),
                       flops=14, d=parts(lambda t, g, y, x: g * _sinc_slope(t, x))),
    elementwise_record("ndtr", "x: tensor", "The normal distribution function.", FLOATING,
                       lambda t, x: 0.5 * t.erfc(-x * SQRT_HALF), where="s", methods=(), flops=23,
            d=parts(lambda t, g, y, x: g * (DENSITY * t.exp(-0.5 * x * x)))),
    elementwise_record("ndtri", "x: tensor", "The inverse of ndtr.", FLOATING,
                       lambda t, x: math.sqrt(2.0) * t.erfinv(2.0 * x - 1.0), where="s", methods=(),
                       domain=(0.02, 0.98), dtypes="f32",
                       flops=33, d=parts(lambda t, g, y, x: g * (t.exp(0.5 * y * y) / DENSITY))),
    elementwise_record("heaviside", "x: tensor, values: tensor like x", "A step: 0 below 0, 1 above, `values` at 0.",
                       ARITHMETIC,
                       lambda t, x, values: t.where(x == 0, values, t.where(x > 0, 1, 0)), flops=3),
    elementwise_record("lerp", "x: tensor, end: tensor like x, weight: tensor like x free0",
                       "Linear interpolation, x + weight (end - x).",
                       FLOAT_PARTS, _lerp,
                       flops=6,
                       d=parts(lambda t, g, y, x, e, w: g * (1.0 - w), lambda t, g, y, x, e, w: g * w,
                               lambda t, g, y, x, e, w: g * (e - x))),
    elementwise_record("addcmul",
           "x: tensor, tensor1: tensor, tensor2: tensor with x tensor1 float int, value: tensor = 1",
                       "The sum x + value * tensor1 * tensor2.", ARITHMETIC, lambda t, x, a, b, v: t.fma(v * a, b, x),
                       flops=3,
                       eager=lambda torch, x, a, b, v: torch.addcmul(x, a, b, value=v),
                       samples=samples(call(T(("B", "D")), T(("B", "D")), T(("D",)), value=0.5)),
                       d=parts(lambda t, g, *_: g, lambda t, g, y, x, a, b, v: g * (b * v),
                               lambda t, g, y, x, a, b, v: g * (a * v))),
    elementwise_record("addcdiv", "x: tensor, tensor1: tensor, tensor2: tensor with tensor1 float, value: tensor = 1",
                       "The sum x + value * tensor1 / tensor2.", FLOAT_PARTS, lambda t, x, a, b, v: x + v * (a / b),
                       flops=4,
                       eager=lambda torch, x, a, b, v: torch.addcdiv(x, a, b, value=v),
                       samples=samples(call(T(("B", "D")), T(("B", "D")), T(("D",), domain=(0.5, 2.0)), value=0.5)),
                       d=parts(lambda t, g, *_: g, lambda t, g, y, x, a, b, v: g * v / b,
                               lambda t, g, y, x, a, b, v: -g * v * (a / b) / b)),
    elementwise_record("nan_to_num", "x: tensor, nan: tensor = None, posinf: tensor = None, neginf: tensor = None",
                       "Replace NaN and the infinities by numbers.", FLOATING, _nan_to_num, call=_nan_to_num_call,
                       flops=5,
                       samples=scalar_sample(1.0, 2.0, -2.0),
            d=parts(lambda t, g, y, x, *_: t.where(t.isfinite(x), g, 0.0))),
    elementwise_record("deg2rad", "x: tensor", "Degrees to radians.", FLOATING, lambda t, x: x * _RADIANS,
            d=parts(lambda t, g, y, x: g * _RADIANS)),
    elementwise_record("rad2deg", "x: tensor", "Radians to degrees.", FLOATING, lambda t, x: x * (180.0 / math.pi),
            d=parts(lambda t, g, y, x: g * (180.0 / math.pi))),
)  # fmt: skip
