"""Elementwise arithmetic: the scalar intrinsics that every backend has a row for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from tessera.ir.derive import Part, Point, like, parts, zero
from tessera.ir.dialects.rules import (
    ANY,
    ARITHMETIC,
    BITWISE,
    FLOATING,
    INTEGER,
    DTypeRule,
    arithmetic,
    elementwise_record,
    neutral,
    torch_names,
)
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dtype import DType, bool_, dtype, f32, uint8, uint32
from tessera.ir.graph import Attr
from tessera.ir.infer import ONE, Blame, InferContext, result_dtype
from tessera.ir.record import Kind, Law, OpRecord, Rewrite
from tessera.ir.types import TensorType, Type


def aliases(names: str, where: str = "tm") -> tuple[str, ...]:
    """Dotted torch names of further spellings, given as one string."""
    return tuple(dotted for name in names.split() for dotted in torch_names(name, *where))


def _both_bool(t: Any, x: Any, other: Any) -> bool:
    return t.dtype_of(x).is_bool and t.dtype_of(other).is_bool


def _add(t: Any, x: Any, other: Any, *, alpha: Any = 1) -> Any:
    if _both_bool(t, x, other):
        return t.emit("logical_or", (x, other))
    return t.emit("add", (x, scaled_by(t, x, other, alpha)))


def _sub(t: Any, x: Any, other: Any, *, alpha: Any = 1) -> Any:
    for n, operand in enumerate((x, other)):
        if t.dtype_of(operand).is_bool:
            t.fail("TSR0301", "subtraction with an operand of dtype `bool`", Blame(n, None, "is bool"),
                   helps=["for masks use `^` and `~`; to count, cast to an integer first"])  # fmt: skip
    return t.emit("sub", (x, scaled_by(t, x, other, alpha)))


def scaled_by(t: Any, x: Any, other: Any, alpha: Any) -> Any:
    """``other`` times a number; integers are not scaled by a float (TSR0301)."""
    if _is_one(alpha):
        return other
    if isinstance(alpha, float) and not result_dtype([t.type_of(x), t.type_of(other)]).is_float:
        t.fail("TSR0301", f"alpha of {alpha} for integers", Blame(1, None, f"is {t.dtype_of(other)}"),
               helps=["cast them to a float, or give an integer"])  # fmt: skip
    return t.mul(other, alpha)


def _is_one(x: Any) -> bool:
    return isinstance(x, int | float) and x == 1


def _mul(t: Any, x: Any, other: Any) -> Any:
    return t.emit("logical_and" if _both_bool(t, x, other) else "mul", (x, other))


def _div(t: Any, x: Any, other: Any, *, rounding_mode: str | None = None) -> Any:
    name = {None: "div", "floor": "floordiv", "trunc": "trunc_div"}.get(rounding_mode)
    if name is None:
        t.fail("TSR0301", f"rounding mode `{rounding_mode}`", Blame(None), helps=['use None, "floor" or "trunc"'])
    return t.emit(name, (x, other))


def _either_way(name: str, logic: str) -> Any:
    """The smaller of two bools is their and, the larger their or."""

    def define(t: Any, x: Any, other: Any) -> Any:
        return t.emit(logic if _both_bool(t, x, other) else name, (x, other))

    return define


def _sub_eager(torch: Any, x: Any, other: Any) -> Any:
    """torch takes a number only on the right."""
    if isinstance(x, torch.Tensor):
        return torch.sub(x, other)
    return torch.rsub(other, x) if isinstance(other, torch.Tensor) else torch.tensor(x - other)


def _pow(t: Any, x: Any, exponent: Any) -> Any:
    """Small constant powers are products, so that no backend raises to a power it can multiply."""
    if not t.is_tensor(exponent) and t.is_tensor(x) and isinstance(exponent, int | float):
        if t.dtype_of(x).is_bool and isinstance(exponent, int):
            x = t.cast(x, dtype("int64"))
        if isinstance(exponent, float) and not t.dtype_of(x).is_float:
            x = t.cast(x, f32)
        if exponent == 2:
            return t.emit("mul", (x, x))
        if exponent == 3:
            return t.emit("mul", (t.emit("mul", (x, x)), x))
        if exponent == 1:
            return x
        if exponent == 0.5:
            return t.emit("sqrt", (x,))
        if exponent == -0.5:
            return t.emit("rsqrt", (x,))
        if exponent == -1 and t.dtype_of(x).is_float:
            return t.emit("reciprocal", (x,))
    return t.emit("pow", (x, exponent))


def _whole(name: str) -> Any:
    """Rounding ops leave integers alone."""

    def define(t: Any, x: Any) -> Any:
        return x if t.dtype_of(x).is_int else t.emit(name, (x,))

    return define


def _sign(t: Any, x: Any) -> Any:
    return x if t.dtype_of(x).is_bool else t.emit("sign", (x,))


def _round(t: Any, x: Any, *, decimals: int = 0) -> Any:
    if t.dtype_of(x).is_int:
        return x
    if decimals == 0:
        return t.emit("round", (x,))
    scale = 10.0 ** abs(decimals)
    if decimals > 0:
        return t.div(t.emit("round", (t.mul(x, scale),)), scale)
    return t.mul(t.emit("round", (t.div(x, scale),)), scale)


def _unary(
    name: str,
    doc: str,
    domain: tuple[float, float] = (-4.0, 4.0),
    also: str = "",
    special: str = "",
    rule: DTypeRule = FLOATING,
    where: str = "tm",
    **more: Any,
) -> OpRecord:
    """A one-operand intrinsic. ``also``: other names in torch; ``special``: names in ``torch.special``."""
    more.setdefault("flops", 10 if rule is FLOATING else 1)
    names = (*aliases(also), *aliases(special, "s"), *more.pop("more", ()))
    return elementwise_record(name, "x: tensor", doc, rule, where=where, more=names, domain=domain, **more)


def _binary(
    name: str, doc: str, rule: DTypeRule = ARITHMETIC, also: str = "", where: str = "tm", **more: Any
) -> OpRecord:
    """A two-operand intrinsic."""
    names = (*aliases(also), *more.pop("more", ()))
    methods = more.pop("methods", (name, *also.split()))
    return elementwise_record(
        name,
        more.pop("signature", "x: tensor, other: tensor"),
        doc,
        rule,
        where=where,
        more=names,
        methods=methods,
        **more,
    )


# --- slopes, as torch has them where there is a choice ----------------------------------------------------------------

_LN2, _LN10 = math.log(2.0), math.log(10.0)
_TWO_OVER_SQRT_PI, _HALF_SQRT_PI = 2.0 / math.sqrt(math.pi), 0.5 * math.sqrt(math.pi)


def _shared(t: Any, x: Any, g: Any) -> bool:
    """Is an operand a tensor that is repeated to meet another?"""
    theirs, dims = (t.dims(x), t.dims(g)) if t.is_tensor(x) else ((), ())
    return len(theirs) != len(dims) or any(a is ONE and b is not ONE for a, b in zip(theirs, dims, strict=True))


def _mul_derivative(p: Point) -> tuple[Any, ...]:
    x, other = p.inputs
    if p.op.operands[0] is p.op.operands[1]:  # doubled exactly, where two parts would be rounded and added
        return 2.0 * (p.g * x), None
    return p.g * other if p.needs[0] else None, p.g * x if p.needs[1] else None


def _numerator(t: Any, g: Any, y: Any, x: Any, other: Any) -> Any:
    """One reciprocal for all that a broadcast denominator divides."""
    return g * t.reciprocal(other) if _shared(t, other, g) else g / other


def _denominator(t: Any, g: Any, y: Any, x: Any, other: Any) -> Any:
    """One quotient for all that a broadcast denominator divides."""
    return -like(t, g * y, t.type_of(other)) / other if _shared(t, other, g) else -g * (y / other)


def _pow_base(t: Any, g: Any, y: Any, x: Any, exponent: Any) -> Any:
    less = exponent - 1  # of a number a number, in full precision
    return g * t.where(t.eq(exponent, 0), 0.0, exponent * t.pow(x, less))


def _pow_exponent(t: Any, g: Any, y: Any, x: Any, exponent: Any) -> Any:
    flat = t.logical_and(t.eq(x, 0), t.ge(exponent, 0))
    known = isinstance(x, int | float) and x > 0  # the logarithm of a number in full precision
    return t.where(flat, 0.0, g * (y * (math.log(x) if known else t.log(x))))


def _winner(second: bool, smaller: bool) -> Part:
    """Of two tensors that are equal each gets half. A number is a bound: what stands on it still moves freely, and a
    NaN does not. Where one operand is NaN the other gets nothing, unless that is the result.
    """

    def part(t: Any, g: Any, y: Any, x: Any, other: Any) -> Any:
        mine, its = (other, x) if second else (x, other)
        if not t.is_tensor(its):
            return t.where(t.le(mine, its) if smaller else t.ge(mine, its), g, 0.0)
        level = t.where(t.eq(mine, its), 0.5 * g, g)
        return t.where(t.logical_or(t.eq(mine, y), t.isnan(mine)), level, 0.0)

    return part


def _first_winner(second: bool, smaller: bool) -> Part:
    """Of two that are equal the first gets all, and so it does where the second is NaN."""

    def part(t: Any, g: Any, y: Any, x: Any, other: Any) -> Any:
        first = t.le(x, other) if smaller else t.ge(x, other)
        first = t.logical_or(first, t.isnan(other)) if t.is_tensor(other) else first
        return t.where(first, 0.0, g) if second else t.where(first, g, 0.0)

    return part


def _turn(t: Any, x: Any, other: Any, part: Any) -> Any:
    """Part of a point over its squared distance, and 0 at the origin."""
    square = t.mul(x, x) + t.mul(other, other)
    return t.where(t.eq(square, 0.0), 0.0, part / square)


_DIVISION = arithmetic("float int bool", ints_to=f32)
_FLOATS_ONLY = arithmetic("float")
_POSITIVE = (0.05, 8.0)
_UNIT = (-0.95, 0.95)

ARITHMETIC_OPS: tuple[OpRecord, ...] = (
    _binary("add", "Sum of two tensors; `alpha` scales the second.", law=Law.SUM, call=_add,
            dtypes="f32 bf16 int32 bool", more=("torch.Tensor.__add__", "torch.Tensor.__radd__"),
            d=parts(lambda t, g, *_: g, lambda t, g, *_: g)),
    _binary("sub", "Difference; `alpha` scales the second.", also="subtract", law=Law.DIFFERENCE, call=_sub,
            eager=_sub_eager, dtypes="f32 bf16 int32", more=("torch.Tensor.__sub__",),
            rewrites=(Rewrite(((1, 0),), 0),), d=parts(lambda t, g, *_: g, lambda t, g, *_: -g)),
    _binary("mul", "Product.", also="multiply", law=Law.PRODUCT, call=_mul,
            dtypes="f32 bf16 int32 bool", more=("torch.Tensor.__mul__", "torch.Tensor.__rmul__"),
            rewrites=(Rewrite(((1, 1),), 0), Rewrite(((0, 1),), 1)),
            d=_mul_derivative),
    _binary("div", "True division; integers divide as f32. `rounding_mode` is None, \"floor\" or \"trunc\".", _DIVISION,
            also="divide true_divide", law=Law.QUOTIENT, call=_div, dtypes="f32 bf16 int32", domain=_POSITIVE,
            more=("torch.Tensor.__truediv__", "torch.Tensor.__div__"), rewrites=(Rewrite(((1, 1),), 0),),
            d=parts(_numerator, _denominator)),
    _binary("floordiv", "Quotient rounded toward minus infinity.", where="", methods=("floor_divide",),
            more=(*aliases("floor_divide"), "torch.Tensor.__floordiv__"), dtypes="f32 bf16 int32", domain=(1.0, 9.0),
            d=zero),
    _binary("trunc_div", "Quotient rounded toward zero.", where="", methods=(), dtypes="f32 int32", domain=(1.0, 9.0),
            eager=lambda torch, x, other: torch.div(x, other, rounding_mode="trunc"), d=zero),
    _binary("remainder", "Remainder with the sign of the divisor.", dtypes="f32 bf16 int32", domain=(1.0, 9.0),
            more=("torch.Tensor.__mod__",),
            d=parts(lambda t, g, y, x, o: g, lambda t, g, y, x, o: -g * t.floor(x / o))),
    _binary("fmod", "Remainder with the sign of the dividend.", dtypes="f32 bf16 int32", domain=(1.0, 9.0),
            d=parts(lambda t, g, y, x, o: g, lambda t, g, y, x, o: -g * t.trunc(x / o))),
    _binary("pow", "Power; constant exponents 2, 3, 1, 0.5, -0.5 and -1 become products and roots.",
            signature="x: tensor, exponent: tensor", call=_pow, domain=_POSITIVE, flops=20,
            more=("torch.Tensor.__pow__",), rewrites=(Rewrite(((1, 1),), 0), Rewrite(((1, 2),), ("mul", (0, 0)))),
            d=parts(_pow_base, _pow_exponent)),
    _binary("minimum", "The smaller value; NaN propagates.", call=_either_way("minimum", "logical_and"),
            dtypes="f32 bf16 int32 bool", rewrites=neutral(math.inf),
            d=parts(_winner(False, True), _winner(True, True))),
    _binary("maximum", "The larger value; NaN propagates.", call=_either_way("maximum", "logical_or"),
            dtypes="f32 bf16 int32 bool", rewrites=neutral(-math.inf),
            d=parts(_winner(False, False), _winner(True, False))),
    _binary("fmin", "The smaller value; a NaN loses.", call=_either_way("fmin", "logical_and"),
            dtypes="f32 int32 bool", d=parts(_first_winner(False, True), _first_winner(True, True))),
    _binary("fmax", "The larger value; a NaN loses.", call=_either_way("fmax", "logical_or"), dtypes="f32 int32 bool",
            d=parts(_first_winner(False, False), _first_winner(True, False))),
    _binary("atan2", "Angle of the point (other, x).", FLOATING, also="arctan2", flops=20,
            d=parts(lambda t, g, y, x, o: g * _turn(t, x, o, o), lambda t, g, y, x, o: -g * _turn(t, x, o, x))),
    _binary("copysign", "Magnitude of x with the sign of other.", FLOATING,
            d=parts(lambda t, g, y, x, o: t.where(t.eq(x, 0.0), 0.0, g * (y / x)), None)),
    _binary("hypot", "The length sqrt(x² + other²), without overflow in between.", _FLOATS_ONLY, flops=5,
            d=parts(lambda t, g, y, x, o: g * (x / y), lambda t, g, y, x, o: g * (o / y))),
    _binary("nextafter", "The next representable value from x toward other.", _FLOATS_ONLY, dtypes="f32"),
    _unary("neg", "The negative.", also="negative", rule=ARITHMETIC, dtypes="f32 bf16 int32",
           more=("torch.Tensor.__neg__",), d=parts(lambda t, g, *_: -g)),
    _unary("abs", "The absolute value.", also="absolute", rule=ARITHMETIC, dtypes="f32 bf16 int32",
           more=("torch.Tensor.__abs__",), d=parts(lambda t, g, y, x: g * t.sign(x))),
    _unary("sign", "The sign: -1, 0 or 1.", also="sgn", rule=ARITHMETIC, call=_sign, dtypes="f32 bf16 int32 bool",
           d=zero),
    _unary("floor", "The largest integer not above.", rule=ARITHMETIC, call=_whole("floor"), dtypes="f32 bf16 int32",
           d=zero),
    _unary("ceil", "The smallest integer not below.", rule=ARITHMETIC, call=_whole("ceil"), dtypes="f32 bf16 int32",
           d=zero),
    _unary("trunc", "The integer toward zero.", also="fix", rule=ARITHMETIC, call=_whole("trunc"),
           dtypes="f32 bf16 int32", d=zero),
    _unary("round", "The nearest integer, halves to even; `decimals` rounds at another digit.", special="round",
           rule=ARITHMETIC, call=_round, dtypes="f32 bf16 int32", d=zero),
)  # fmt: skip

FLOAT_OPS: tuple[OpRecord, ...] = (
    _unary("sqrt", "Square root.", (0.0, 8.0), flops=4, d=parts(lambda t, g, y, x: g / (2.0 * y))),
    _unary("rsqrt", "The reciprocal square root, 1 / sqrt(x).", _POSITIVE, flops=4,
           d=parts(lambda t, g, y, x: -0.5 * g * (y * y * y))),
    _unary("reciprocal", "The reciprocal, 1 / x.", _POSITIVE, flops=2, d=parts(lambda t, g, y, x: -g * (y * y))),
    _unary("exp", "The exponential function, e to the power x.", law=Law.POWER, d=parts(lambda t, g, y, x: g * y)),
    _unary("exp2", "The power 2 to the x.", law=Law.POWER, special="exp2",
           d=parts(lambda t, g, y, x: g * (y * _LN2))),
    _unary("expm1", "The difference exp(x) - 1, exact near 0.", special="expm1",
           d=parts(lambda t, g, y, x: g * (y + 1.0))),
    _unary("log", "Natural logarithm.", _POSITIVE, d=parts(lambda t, g, y, x: g / x)),
    _unary("log2", "Logarithm to base 2.", _POSITIVE, d=parts(lambda t, g, y, x: g / (x * _LN2))),
    _unary("log10", "Logarithm to base 10.", _POSITIVE, d=parts(lambda t, g, y, x: g / (x * _LN10))),
    _unary("log1p", "The logarithm log(1 + x), exact near 0.", (-0.9, 8.0), special="log1p",
           d=parts(lambda t, g, y, x: g / (x + 1.0))),
    _unary("sin", "Sine.", d=parts(lambda t, g, y, x: g * t.cos(x))),
    _unary("cos", "Cosine.", d=parts(lambda t, g, y, x: -g * t.sin(x))),
    _unary("tan", "Tangent.", (-1.4, 1.4), d=parts(lambda t, g, y, x: g * (1.0 + y * y))),
    _unary("asin", "Arc sine.", _UNIT, also="arcsin", d=parts(lambda t, g, y, x: g * t.rsqrt(1.0 - x * x))),
    _unary("acos", "Arc cosine.", _UNIT, also="arccos", d=parts(lambda t, g, y, x: -g * t.rsqrt(1.0 - x * x))),
    _unary("atan", "Arc tangent.", also="arctan", d=parts(lambda t, g, y, x: g / (1.0 + x * x))),
    _unary("sinh", "Hyperbolic sine.", d=parts(lambda t, g, y, x: g * t.cosh(x))),
    _unary("cosh", "Hyperbolic cosine.", d=parts(lambda t, g, y, x: g * t.sinh(x))),
    _unary("tanh", "Hyperbolic tangent.", more=("torch.nn.functional.tanh",),
           d=parts(lambda t, g, y, x: g * ((1.0 - y) * (1.0 + y)))),
    _unary("asinh", "Inverse hyperbolic sine.", also="arcsinh", d=parts(lambda t, g, y, x: g * t.rsqrt(1.0 + x * x))),
    _unary("acosh", "Inverse hyperbolic cosine.", (1.0, 8.0), also="arccosh",
           d=parts(lambda t, g, y, x: g * t.rsqrt(x * x - 1.0))),
    _unary("atanh", "Inverse hyperbolic tangent.", _UNIT, also="arctanh",
           d=parts(lambda t, g, y, x: g / (1.0 - x * x))),
    _unary("erf", "Error function.", special="erf", flops=20,
           d=parts(lambda t, g, y, x: g * (_TWO_OVER_SQRT_PI * t.exp(-x * x)))),
    _unary("erfc", "The difference 1 - erf(x), exact for large x.", special="erfc", flops=20,
           d=parts(lambda t, g, y, x: -g * (_TWO_OVER_SQRT_PI * t.exp(-x * x)))),
    _unary("erfinv", "Inverse of erf.", _UNIT, special="erfinv", flops=30,
           d=parts(lambda t, g, y, x: g * (t.exp(y * y) * _HALF_SQRT_PI))),
    _unary("lgamma", "Logarithm of the absolute value of the gamma function.", (0.1, 8.0), special="gammaln", flops=40,
           d=parts(lambda t, g, y, x: g * t.digamma(x))),
    _unary("digamma", "Derivative of lgamma.", (0.1, 8.0), special="psi digamma", flops=40,
           d=parts(lambda t, g, y, x: g * t.polygamma(1, x))),
    _unary("sigmoid", "The logistic function, 1 / (1 + exp(-x)).", special="expit",
           more=("torch.nn.functional.sigmoid",), d=parts(lambda t, g, y, x: g * (y * (1.0 - y)))),
    _unary("i0", "Modified Bessel function of order 0.", special="i0", flops=40,
           d=parts(lambda t, g, y, x: g * t.i1(x))),
    _unary("i0e", "The scaled Bessel function exp(-|x|) * i0(x).", where="s", methods=(), flops=40,
           d=parts(lambda t, g, y, x: g * (t.i1e(x) - t.sign(x) * y))),
    _unary("i1", "Modified Bessel function of order 1.", where="s", methods=(), flops=40,
           d=parts(lambda t, g, y, x: g * (t.i0(x) - t.where(t.eq(x, 0.0), 0.5, y / x)))),
    _unary("i1e", "The scaled Bessel function exp(-|x|) * i1(x).", where="s", methods=(), flops=40,
           d=parts(lambda t, g, y, x: g * (t.i0e(x) - t.where(t.eq(x, 0.0), 0.5, y * (t.sign(x) + 1.0 / x))))),
)  # fmt: skip

_BIT_SAMPLES = samples(
    call(T(("B", "D"), "int32", 64), T(("B", "D"), "int32", 8)),
    call(T(("B", "D"), "uint8", 64), T(("D",), "uint8", 4)),
)
_BITS: dict[str, Any] = {"rule": BITWISE, "dtypes": "int32 bool"}

BIT_OPS: tuple[OpRecord, ...] = (
    _binary("bitwise_and", "And of the bits; for bools, and.", law=Law.AND, **_BITS,
            more=("torch.Tensor.__and__", "torch.Tensor.__rand__")),
    _binary("bitwise_or", "Or of the bits; for bools, or.", law=Law.OR, **_BITS,
            more=("torch.Tensor.__or__", "torch.Tensor.__ror__")),
    _binary("bitwise_xor", "Exclusive or of the bits.", **_BITS,
            more=("torch.Tensor.__xor__", "torch.Tensor.__rxor__")),
    _unary("bitwise_not", "Complement of the bits; for bools, not.", law=Law.NOT, **_BITS,
           more=("torch.Tensor.__invert__",)),
    _binary("shift_left", "Bits moved up by other places.", INTEGER, where="", methods=("bitwise_left_shift",),
            more=(*aliases("bitwise_left_shift"), "torch.Tensor.__lshift__"), samples=_BIT_SAMPLES),
    _binary("shift_right", "Bits moved down by other places; the sign is kept.", INTEGER, where="",
            methods=("bitwise_right_shift",), more=(*aliases("bitwise_right_shift"), "torch.Tensor.__rshift__"),
            samples=_BIT_SAMPLES),
)  # fmt: skip


def _fma_eager(torch: Any, x: Any, other: Any, addend: Any) -> Any:
    """In f64 the product of f32 numbers is exact, so that only the sum is rounded twice."""
    given = [v for v in (x, other, addend) if isinstance(v, torch.Tensor)]
    if not given or not given[0].is_floating_point():
        return x * other + addend
    wide = [v.to(torch.float64) if isinstance(v, torch.Tensor) else v for v in (x, other, addend)]
    return (wide[0] * wide[1] + wide[2]).to(given[0].dtype)


FMA = elementwise_record(
    "fma", "x: tensor, other: tensor, addend: tensor", "The sum x * other + addend, rounded once.", ARITHMETIC,
    where="",
    methods=(), eager=_fma_eager, flops=2, dtypes="f32 int32",
              d=parts(lambda t, g, y, x, o, a: g * o, lambda t, g, y, x, o, a: g * x, lambda t, g, *_: g))  # fmt: skip


def _exp2_sum_eager(torch: Any, x: Any, low: Any, exponent: Any) -> Any:
    given = next(v for v in (x, low, exponent) if isinstance(v, torch.Tensor))
    wide = [v.to(torch.float64) if isinstance(v, torch.Tensor) else v for v in (x, low, exponent)]
    return torch.exp2(wide[0] + wide[1] + wide[2]).to(given.dtype)


EXP2_SUM = elementwise_record(
    "exp2_sum", "x: tensor, low: tensor, exponent: tensor",
    "The power 2 to the x + low + exponent, rounded once: low is small, and exponent a whole number.", FLOATING,
    where="", methods=(), eager=_exp2_sum_eager, flops=12,
    samples=samples(
        call(T(("B", "D")), T(("B", "D"), domain=(-0.001, 0.001)), 3),
        call(T(("B", "D"), domain=(-150.0, 8.0)), 0.0, 34),
    ), d=parts(*(lambda t, g, y, *_: g * (y * _LN2),) * 3))  # fmt: skip


def _u32(types: tuple[Type, ...]) -> tuple[DType | None, ...]:
    return (uint32,) * len(types)


def _mulhi_eager(torch: Any, x: Any, other: Any) -> Any:
    wide = [v.to(torch.int64) if isinstance(v, torch.Tensor) else v for v in (x, other)]
    low, high = (wide[0] & 0xFFFF), (wide[0] >> 16)
    other_low, other_high = (wide[1] & 0xFFFF), (wide[1] >> 16)
    middle = high * other_low + ((low * other_low) >> 16)
    carry = (middle & 0xFFFF) + low * other_high
    return (high * other_high + (middle >> 16) + (carry >> 16)).to(torch.uint32)


MULHI = elementwise_record(
    "mulhi_u32", "x: tensor, other: tensor", "The upper 32 bits of the 64-bit product of two unsigned integers.",
    DTypeRule(_u32, lambda ctx, types, attrs: uint32), where="", methods=(), eager=_mulhi_eager,
    samples=samples(call(T(("B", "D"), "uint32", 1 << 31), T(("B", "D"), "uint32", 1 << 31))),
)  # fmt: skip


def _cast_infer(ctx: InferContext, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> tuple[TensorType, ...]:
    to = attrs["dtype"]
    if not isinstance(to, DType):
        ctx.fail("TSR0301", f"`{to}` is no dtype", Blame(None))
    return (TensorType(to, types[0].dims),)


def _cast(t: Any, x: Any, dtype_: Any) -> Any:
    to = dtype(dtype_)
    return x if t.is_tensor(x) and t.dtype_of(x) is to else t.emit("cast", (x,), dtype=to)


def _cast_eager(torch: Any, x: Any, *, dtype: Any) -> Any:
    """Floats saturate on the way to integers and to 8-bit floats; NaN becomes 0 in integers."""
    x = torch.as_tensor(x)
    if not x.is_floating_point() or dtype is torch.bool:
        return x.to(dtype)
    if dtype.is_floating_point:
        limit = torch.finfo(dtype).max
        return (x.clamp(-limit, limit) if dtype.itemsize == 1 else x).to(dtype)
    low, high = torch.iinfo(dtype).min, torch.iinfo(dtype).max
    wide = x.to(torch.float64)
    inside = wide.nan_to_num(nan=0.0).clamp(low, high)
    exact = torch.where(inside >= float(high), 0.0, inside).to(dtype)
    return torch.where(inside >= float(high), torch.tensor(high, dtype=dtype, device=x.device), exact)


CAST = OpRecord(
    "cast", Kind.MAP, "x: tensor, dtype: dtype",
    "Another element type: to narrower floats by rounding to even, to 8-bit floats and integers saturating, NaN to "
    "integer 0.",
    _cast_infer, call=_cast, eager=_cast_eager, methods=("cast",), law=Law.SAME,
    samples=samples(call(T(("B", "D")), "bf16"), call(T(("B", "D")), "int32"), call(T((), "int64", 9), "f32"),
                    call(T(("B", "D"), "bf16"), "bool")), derivative=parts(lambda t, g, *_, **__: g))  # fmt: skip


def _where_as(types: tuple[Type, ...]) -> tuple[DType | None, ...]:
    return (bool_ if types[0].dtype is uint8 else None, *ANY.operands_as(types[1:]))


def _where_infer(ctx: InferContext, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> tuple[TensorType, ...]:
    if not types[0].dtype.is_bool and types[0].dtype is not uint8:
        ctx.fail("TSR0303", f"condition of dtype `{types[0].dtype}`", Blame(0, None, f"is {types[0].dtype}, not bool"),
                 helps=["compare it first, for example `mask != 0`"])  # fmt: skip
    return (TensorType(result_dtype(types[1:]), ctx.broadcast(types)),)


WHERE = OpRecord(
    "where", Kind.MAP, "condition: tensor, x: tensor, other: tensor",
    "Values of x where the condition holds, of other elsewhere.",
    _where_infer, _where_as, torch=("torch.where",), law=Law.CHOICE,
    samples=samples(
        call(T(("B", "D"), "bool", "bool"), T(("B", "D")), T(("B", "D"))),
        call(T(("D",), "bool", "bool"), T(("B", 1), "bf16"), 0.0),
        call(T(("B", "D"), "bool", "bool"), 1, T((), "int64", 5)),
    ),
    derivative=parts(None, lambda t, g, y, c, *_: t.where(c, g, 0.0), lambda t, g, y, c, *_: t.where(c, 0.0, g)),
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (*ARITHMETIC_OPS, *FLOAT_OPS, *BIT_OPS, FMA, EXP2_SUM, MULHI, CAST, WHERE)
