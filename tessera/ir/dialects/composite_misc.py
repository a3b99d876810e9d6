"""Casts by name, bounds, and small elementwise compositions."""

from __future__ import annotations

from typing import Any

from tessera.ir.dialects.composite_shape import axis_of
from tessera.ir.dialects.fits import need_one_rank, need_shape
from tessera.ir.dialects.rules import composite, function_and_method
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dtype import DType, bf16, bool_, f16, f32, f64, int8, int16, int32, int64, is_dtype_name, uint8
from tessera.ir.infer import ONE, Blame
from tessera.ir.record import OpRecord


def _to(t: Any, x: Any, *args: Any, dtype: Any = None, **_: Any) -> Any:
    """``to(dtype)``, ``to(device, dtype)``, ``to(other)``: devices and layouts are not part of a traced value."""
    for a in args:
        if t.is_tensor(a):
            dtype = t.dtype_of(a)
        elif isinstance(a, DType) or (isinstance(a, str) and is_dtype_name(a)) or a in (bool, int, float):
            dtype = a
    return x if dtype is None else t.cast(x, dtype)


def _cast_to(dtype: DType) -> Any:
    def define(t: Any, x: Any, **_: Any) -> Any:
        return t.cast(x, dtype)

    return define


def _type_as(t: Any, x: Any, other: Any) -> Any:
    return t.cast(x, t.dtype_of(other))


def _clamp(t: Any, x: Any, min: Any = None, max: Any = None) -> Any:
    """Bounds are numbers or tensors; where they cross, the upper one wins."""
    if min is None and max is None:
        t.fail("TSR0301", "clamp without bounds", Blame(0), helps=["give `min`, `max` or both"])
    x = x if min is None else _above(t, x, min)
    return x if max is None else _below(t, x, max)


def _above(t: Any, x: Any, min: Any) -> Any:
    """Not less than a bound, also one that is NaN. What stands on it has the slope of what stands above."""
    return t.where(t.logical_or(t.lt(x, min), t.isnan(min)), min, x) if t.is_tensor(min) else t.maximum(x, min)


def _below(t: Any, x: Any, max: Any) -> Any:
    return t.where(t.logical_or(t.gt(x, max), t.isnan(max)), max, x) if t.is_tensor(max) else t.minimum(x, max)


def _positive(t: Any, x: Any) -> Any:
    return x


def _ldexp(t: Any, x: Any, other: Any) -> Any:
    return t.mul(x, t.exp2(other))


def _float_power(t: Any, x: Any, exponent: Any) -> Any:
    x = t.cast(x, f64) if t.is_tensor(x) else x
    return t.pow(x, t.cast(exponent, f64) if t.is_tensor(exponent) else exponent)


def _rsub(t: Any, x: Any, other: Any, *, alpha: Any = 1) -> Any:
    return t.sub(other, x, alpha=alpha)


def _reflected(name: str) -> Any:
    def define(t: Any, x: Any, other: Any) -> Any:
        return getattr(t, name)(other, x)

    return define


def _prelu(t: Any, x: Any, weight: Any) -> Any:
    rank = t.type_of(x).rank
    need_one_rank(t, weight, (0, 1), "slopes")
    if t.dims(weight) and t.dims(weight)[0] is not ONE:
        need_shape(t, weight, t.dims(x)[1:2] if rank > 1 else (ONE,), "slopes")
    if t.type_of(weight).rank == 1 and rank == 0:
        weight = t.reshape(weight)
    elif t.type_of(weight).rank == 1 and rank > 1:
        weight = t.reshape(weight, -1, *[1] * (rank - 2))
    return t.where(t.gt(x, 0), x, t.mul(weight, x))


def _rrelu(
    t: Any, x: Any, lower: Any = 1.0 / 8, upper: Any = 1.0 / 3, training: bool = False, inplace: bool = False
) -> Any:
    if isinstance(lower, int | float) and isinstance(upper, int | float) and lower > upper:
        t.fail("TSR0212", f"slopes from {lower} to {upper}", Blame(0))
    if not training:
        return t.leaky_relu(x, (lower + upper) / 2)
    slope = t.add(t.mul(t.rand_like(x), upper - lower), lower)
    return t.where(t.ge(x, 0), x, t.mul(x, slope))


def _diff(t: Any, x: Any, n: int = 1, dim: int = -1, prepend: Any = None, append: Any = None) -> Any:
    axis = axis_of(t, x, dim)
    if n < 0:
        t.fail("TSR0212", f"differences of order {n}", Blame(0))
    if n == 0:
        return x
    parts = [p for p in (prepend, x, append) if p is not None]
    x = t.cat(parts, axis)
    for _ in range(n):
        after, before = t.slice(x, axis, 1, None), t.slice(x, axis, 0, -1)
        x = t.logical_xor(after, before) if t.dtype_of(x).is_bool else t.sub(after, before)
    return x


def _trapezoid(t: Any, y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    axis = axis_of(t, y, dim)
    pairs = t.add(t.slice(y, axis, 1, None), t.slice(y, axis, 0, -1))
    if x is None:
        return t.mul(t.sum(pairs, axis), t.mul(dx, 0.5) if t.is_tensor(dx) else dx * 0.5)
    step = t.diff(x, 1, -1 if t.type_of(x).rank == 1 else axis)
    if t.type_of(x).rank == 1:
        step = t.reshape(step, -1, *[1] * (t.type_of(y).rank - 1 - axis))
    return t.mul(t.sum(t.mul(pairs, step), axis), 0.5)


def _equal(t: Any, x: Any, other: Any) -> Any:
    return t.all(t.eq(x, other))


def _isreal(t: Any, x: Any) -> Any:
    return t.emit("full", (True,), shape=t.dims(x), dtype=bool_)


def _isin(t: Any, x: Any, test: Any, *, assume_unique: bool = False, invert: bool = False) -> Any:
    if not t.is_tensor(x):
        x = t.full((), x)
    found = t.eq(x, test) if not t.is_tensor(test) else t.any(t.eq(t.unsqueeze(x, -1), t.reshape(test, -1)), -1)
    return t.logical_not(found) if invert else found


def _mul_fp8(t: Any, x: Any, other: Any, scale_a: Any = None, scale_b: Any = None, scale_out: Any = None) -> Any:
    """The product in f32, rounded and saturated to x's dtype."""
    a, b = t.cast(x, f32), t.cast(other, f32)
    for scale in (scale_a, scale_b):
        a = a if scale is None else t.mul(a, scale)
    y = t.mul(a, b)
    return t.cast(y if scale_out is None else t.div(y, scale_out), t.dtype_of(x))


_X, _V = T(("B", "D")), T(("D",))
_I = T(("B", "D"), "int32", 50)
_CASTS = (("float", f32), ("double", f64), ("half", f16), ("bfloat16", bf16), ("long", int64), ("int", int32),
          ("short", int16),
          ("char", int8), ("byte", uint8), ("bool", bool_))  # fmt: skip

OPS: tuple[OpRecord, ...] = (
    *(composite(f"to_{d.name}", "x: tensor", f"Cast to {d.name}.", _cast_to(d), (f"torch.Tensor.{name}",),
         samples(call(T(("B", "D"), domain=(0.0, 9.0))), call(_I)), (name,)) for name, d in _CASTS),
    composite("to", "x: tensor, *args: any, dtype: dtype = None",
              "Cast to another dtype, or to that of another tensor.", _to,
       ("torch.Tensor.to",), samples(call(_X, "bf16"), call(_X, _I), call(_X))),
    composite("type", "x: tensor, dtype: dtype = None", "Cast to another dtype.", _to, ("torch.Tensor.type",),
       samples(call(_I, "f32"))),
    composite("type_as", "x: tensor, other: tensor", "Cast to the dtype of another tensor.", _type_as,
       ("torch.Tensor.type_as",), samples(call(_X, _I))),
    composite("clamp", "x: tensor, min: tensor? = None, max: tensor? with x min float int = None",
           "Values held between two bounds.", _clamp,
       function_and_method("clamp", "clip"),
       samples(call(_X, -1.0, 1.0), call(_X, min=0.5), call(_X, T(("D",)), T(("D",))), call(_I, 3, 20),
               call(T(("B", "D"), "bf16"), max=1.0)),
       ("clamp", "clip")),
    composite("clamp_min", "x: tensor, min: tensor", "Values held above a bound.", _above,
       function_and_method("clamp_min"), samples(call(_X, 0.0))),
    composite("clamp_max", "x: tensor, max: tensor", "Values held below a bound.", _below,
       function_and_method("clamp_max"), samples(call(_X, 0.0))),
    composite("positive", "x: tensor float int", "The tensor itself.", _positive,
              (*function_and_method("positive"), "torch.Tensor.__pos__"), samples(call(_X))),
    composite("ldexp", "x: tensor, other: tensor", "The product x * 2**other.", _ldexp,
           function_and_method("ldexp"),
       samples(call(_X, T(("D",), "int32", 5)))),
    composite("float_power", "x: tensor, exponent: tensor", "Power in f64.", _float_power,
              function_and_method("float_power"),
       samples(call(T(("B", "D"), domain=(0.1, 4.0)), 2.5), call(_I, 2))),
    composite("rsub", "x: tensor, other: tensor, *, alpha: tensor = 1", "The difference other - alpha x.", _rsub,
       ("torch.rsub", "torch.Tensor.__rsub__"),
       samples(call(_X, _V), call(_X, 2.0, alpha=0.5)), ()),
    *(composite(f"r{name}", "x: tensor, other: tensor", f"The operation `{name}` with its operands exchanged.",
                _reflected(name),
         (f"torch.Tensor.{dunder}",), samples(call(a, b)), ())
      for name, dunder, a, b in (("div", "__rtruediv__", _X, 2.0), ("floordiv", "__rfloordiv__", _X, 2.0),
                                 ("remainder", "__rmod__", _X, 2.0),
                                 ("pow", "__rpow__", _X, 2.0), ("matmul", "__rmatmul__", _X, T((3, "B"))))),
    composite("prelu", "x: tensor float, weight: tensor like x",
           "Values above 0 as they are, a learned slope per channel below.",
              _prelu,
       (*function_and_method("prelu"), "torch.nn.functional.prelu"),
       samples(call(_X, T(("D",))), call(T(("B", "D", 3)), T((1,))))),
    composite("rrelu",
       "x: tensor float, lower: any = 0.125, upper: any = 0.3333333333333333, training: bool = False, "
       "inplace: bool = False",
       "Values above 0 as they are, a random slope below; the mean slope outside of training.", _rrelu,
       ("torch.nn.functional.rrelu", "torch.rrelu"), samples(call(_X)), ()),
    composite("diff", "x: tensor, n: int = 1, dim: dim = -1, prepend: tensor? = None, append: tensor? = None",
       "Differences of neighbours.", _diff,
       function_and_method("diff"), samples(call(_X), call(_X, 2, 1), call(_X, prepend=T(("B", 1))))),
    composite("trapezoid", "y: tensor float int, x: tensor? float int = None, *, dx: tensor = 1, dim: dim = -1",
       "Integral by the trapezoidal rule.", _trapezoid,
       ("torch.trapezoid", "torch.trapz"), samples(call(_X), call(_X, _V), call(_X, dx=0.5, dim=0)), ()),
    composite("equal_all", "x: tensor, other: tensor", "Every element is equal, as a rank-0 bool tensor.", _equal, (),
       samples(call(_X, _X)), ()),
    composite("isreal", "x: tensor", "True: there are no complex numbers here.", _isreal, function_and_method("isreal"),
              samples(call(_X))),
    composite("isin",
           "x: tensor float int, test: tensor float int, *, assume_unique: bool = False, invert: bool = False",
       "Is equal to one of the given values.", _isin,
       ("torch.isin",), samples(call(_I, T((3,), "int32", 50)), call(_I, T((3,), "int32", 50), invert=True)), ()),
    composite("mul_fp8",
       "x: tensor, other: tensor, scale_a: tensor? = None, scale_b: tensor? = None, scale_out: tensor? = None",
       "Product of 8-bit floats, computed in f32 and saturated.", _mul_fp8, (),
       samples(call(T(("B", "D"), "fp8_e4m3"), T(("B", "D"), "fp8_e4m3"))), ()),
)  # fmt: skip
