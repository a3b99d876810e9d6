"""Reductions written in terms of the primitive ones: means, variances, norms, logsumexp, max and min."""

from __future__ import annotations

import math
from collections import namedtuple
from typing import Any

from tessera.ir.dialects.reduce import peak
from tessera.ir.dialects.rules import axes_of, composite, function_and_method, torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dim import Dim
from tessera.ir.dtype import bool_, f32, f64, int64
from tessera.ir.infer import Blame
from tessera.ir.record import OpRecord

#: What max, min, sort and their kin give for one axis, with torch's field names.
Extreme = namedtuple("Extreme", ("values", "indices"))
Range = namedtuple("Range", ("min", "max"))


def need_float(t: Any, x: Any, what: str, number: int = 0) -> None:
    """Refuse integers and bools, in argument ``number``, where torch does (TSR0301)."""
    if not t.dtype_of(x).is_float:
        t.fail("TSR0301", f"{what} of `{t.dtype_of(x)}`", Blame(number, None, f"is {t.dtype_of(x)}, not a float"),
               helps=["cast it with `.float()`"])  # fmt: skip


def axes(t: Any, x: Any, dim: Any) -> tuple[int, ...]:
    """The axes of x that ``dim`` means."""
    return axes_of(t.context, dim, t.type_of(x).rank)


def count(t: Any, x: Any, over: tuple[int, ...]) -> Dim:
    """The number of elements that are folded into one."""
    total = Dim.const(1)
    for axis in over:
        total = total * t.dims(x)[axis]
    return total


def _mean(t: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = x if dtype is None else t.cast(x, dtype)
    need_float(t, x, "mean")
    over = axes(t, x, dim)
    return t.cast(t.div(t.sum(wide(t, x), over, keepdim), count(t, x, over)), t.dtype_of(x))


def wide(t: Any, x: Any) -> Any:
    """Narrow floats continue in f32, so that a chain of steps rounds once."""
    kind = t.dtype_of(x)
    return t.cast(x, f32) if kind.is_float and kind.bits < 32 else x


def centered_squares(t: Any, x: Any, over: tuple[int, ...], keepdim: bool) -> tuple[Any, Any]:
    """Mean (axes kept) and sum of squared distances from it; two passes, since E[x²] - E[x]² cancels."""
    mean = t.div(t.sum(x, over, True), count(t, x, over))
    centered = t.sub(x, mean)
    return mean, t.sum(t.mul(centered, centered), over, keepdim)


def _correction(dim: Any, unbiased: Any, correction: Any) -> tuple[Any, float]:
    """``var(x, False)`` means ``unbiased``; the correction is 1 unless said otherwise."""
    if isinstance(dim, bool):
        dim, unbiased = None, dim
    if correction is None:
        correction = 1 if unbiased is None or unbiased else 0
    return dim, correction


def _moments(t: Any, x: Any, dim: Any, unbiased: Any, correction: Any, keepdim: bool, what: str) -> tuple[Any, Any]:
    need_float(t, x, what)
    dim, correction = _correction(dim, unbiased, correction)
    over = axes(t, x, dim)
    # In f64: the root of a sum of squares is in range where the squares of f32 are not.
    mean, squares = centered_squares(t, t.cast(x, f64), over, keepdim)
    size = count(t, x, over)
    below = t.maximum(t.sub(t.full((), size, dtype=t.dtype_of(squares)), correction), 0.0) if correction else size
    return t.div(squares, below), mean if keepdim else t.squeeze(mean, over) if over else mean


def _var(
    t: Any, x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    return t.cast(_moments(t, x, dim, unbiased, correction, keepdim, "var")[0], t.dtype_of(x))


def _std(
    t: Any, x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    return t.cast(t.magnitude(_moments(t, x, dim, unbiased, correction, keepdim, "std")[0]), t.dtype_of(x))


def _var_mean(
    t: Any, x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    var, mean = _moments(t, x, dim, unbiased, correction, keepdim, "var_mean")
    return t.cast(var, t.dtype_of(x)), t.cast(mean, t.dtype_of(x))


def _std_mean(
    t: Any, x: Any, dim: Any = None, unbiased: Any = None, keepdim: bool = False, *, correction: Any = None
) -> Any:
    var, mean = _moments(t, x, dim, unbiased, correction, keepdim, "std_mean")
    return t.cast(t.magnitude(var), t.dtype_of(x)), t.cast(mean, t.dtype_of(x))


def _logsumexp(t: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    """Shifted by the largest value, or by 0 where that is infinite, so that rows of -inf give -inf."""
    kind = t.dtype_of(x) if t.dtype_of(x).is_float else f32
    x = wide(t, t.cast(x, kind))
    over = axes(t, x, dim)
    top = peak(t, x, over)
    shift = t.where(t.isinf(top), 0.0, top)
    total = t.add(t.log(t.sum(t.exp(t.sub(x, shift)), over, True)), shift)
    return t.cast(total if keepdim or not over else t.squeeze(total, over), kind)


def _norm(t: Any, x: Any, p: Any = 2.0, dim: Any = None, keepdim: bool = False, dtype: Any = None) -> Any:
    """torch.norm: ``p`` is a number, ``"fro"`` or infinity."""
    p = 2.0 if p in ("fro", None) else p
    if isinstance(p, str):
        t.not_covered(f"norm of kind `{p}`")
    return _vector_norm(t, x, p, dim, keepdim, dtype=dtype)


def _vector_norm(t: Any, x: Any, ord: Any = 2.0, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = x if dtype is None else t.cast(x, dtype)
    need_float(t, x, "norm")
    kind, over, x = t.dtype_of(x), axes(t, x, dim), wide(t, x)
    if ord in (math.inf, -math.inf):
        if ord < 0:
            return t.cast(t.amin(t.abs(x), over, keepdim), kind)
        return t.cast(t.maximum(t.amax(t.abs(x), over, keepdim), 0.0), kind)
    if ord == 0:
        return t.cast(t.sum(t.cast(t.ne(x, 0.0), t.dtype_of(x)), over, keepdim), kind)
    if ord == 1:
        return t.cast(t.sum(t.abs(x), over, keepdim), kind)
    if ord == 2:
        return t.cast(t.magnitude(t.sum(t.mul(x, x), over, keepdim)), kind)
    return t.cast(_root(t, t.sum(_powers(t, t.abs(x), ord), over, keepdim), ord), kind)


def _powers(t: Any, x: Any, p: Any) -> Any:
    """x ** p, whose slope at 0 is taken as 0."""
    if isinstance(p, int | float) and p >= 1:
        return t.pow(x, p)
    zero = t.eq(x, 0.0)
    return t.where(zero, 0.0 if p > 0 else math.inf, t.pow(t.where(zero, 1.0, x), p))


def _root(t: Any, x: Any, p: Any) -> Any:
    """x ** (1 / p) of a sum of such powers; where that is of zeros the slope is taken as 0."""
    zero = t.eq(x, 0.0 if p > 0 else math.inf)
    return t.where(zero, 0.0, t.pow(t.where(zero, 1.0, x), 1.0 / p))


def _dist(t: Any, x: Any, other: Any, p: Any = 2.0) -> Any:
    return _vector_norm(t, t.sub(x, other), p)


def _extreme(name: str) -> Any:
    """``max(x)``, ``max(x, other)`` and ``max(x, dim, keepdim)``, as torch tells them apart."""
    fold, arg, pick = f"a{name}", f"arg{name}", f"{name}imum"

    def define(t: Any, x: Any, dim: Any = None, keepdim: bool = False, *, other: Any = None) -> Any:
        other = dim if t.is_tensor(dim) else other
        if other is not None:
            return getattr(t, pick)(x, other)
        if dim is None:
            return getattr(t, fold)(x)
        if t.dtype_of(x).is_bool:
            values, indices = define(t, t.cast(x, int64), dim, keepdim)
            return Extreme(t.cast(values, bool_), indices)
        values = getattr(t, f"{fold}_first")(x, dim, keepdim)
        return Extreme(values, getattr(t, arg)(x, dim, keepdim))

    return define


def _aminmax(t: Any, x: Any, *, dim: Any = None, keepdim: bool = False) -> Any:
    return Range(t.amin(x, dim, keepdim), t.amax(x, dim, keepdim))


def _count_nonzero(t: Any, x: Any, dim: Any = None) -> Any:
    return t.sum(t.ne(x, 0), dim)


def _nansum(t: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    if t.dtype_of(x).is_float:
        x = t.where(t.isnan(x), 0.0, x)
    return t.sum(x, dim, keepdim, dtype=dtype)


def _nanmean(t: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = x if dtype is None else t.cast(x, dtype)
    need_float(t, x, "nanmean")
    valid, y = t.logical_not(t.isnan(x)), wide(t, x)
    total = t.sum(t.where(valid, y, 0.0), dim, keepdim)
    return t.cast(t.div(total, t.sum(t.cast(valid, t.dtype_of(y)), dim, keepdim)), t.dtype_of(x))


def _allclose(t: Any, x: Any, other: Any, rtol: Any = 1e-5, atol: Any = 1e-8, equal_nan: bool = False) -> Any:
    """A rank-0 bool tensor; the truth value itself exists only outside traced code."""
    return t.all(t.isclose(x, other, rtol, atol, equal_nan))


def _trace(t: Any, x: Any) -> Any:
    if t.type_of(x).rank != 2:
        t.fail(
            "TSR0204", f"trace of a rank-{t.type_of(x).rank} tensor", Blame(0, None, f"has rank {t.type_of(x).rank}")
        )
    return t.sum(t.diagonal(x))


def _rms(t: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
    y = wide(t, x)
    return t.cast(t.sqrt(t.mean(t.mul(y, y), dim, keepdim)), t.dtype_of(x))


_X, _H = T(("B", "S", "D")), T(("B", "S", "D"), "bf16")
_AXIS = (call(_X, -1), call(_H, 1, True), call(_X))
_DIMS = "x: tensor, dim: dims = None, keepdim: bool = False"
_MOMENT = "x: tensor, dim: dims = None, unbiased: any = None, keepdim: bool = False, *, correction: any = None"
_MOMENTS = samples(call(_X, -1), call(_H, (0, 1)), call(_X, 2, correction=0, keepdim=True), call(_X, False), call(_X))
_EXTREMES = samples(call(_X), call(_X, -1), call(_H, 1, True), call(_X, T(("D",))), call(T(("B", "S"), "int32", 9), 0),
                    call(T(("B", "S"), "bool", "bool"), 1))  # fmt: skip

OPS: tuple[OpRecord, ...] = (
    composite("mean", f"{_DIMS}, *, dtype: dtype = None", "Mean over axes; floats only.", _mean,
              function_and_method("mean"),
       samples(*_AXIS, call(_X, (0, 2)), call(T(("B", "S"), "int32", 9), 0, dtype="f32"))),
    composite("var", _MOMENT, "Variance over axes, in two passes; divided by n - 1 unless `correction` says otherwise.",
              _var,
       function_and_method("var"), _MOMENTS),
    composite("std", _MOMENT, "Standard deviation over axes.", _std, function_and_method("std"), _MOMENTS),
    composite("var_mean", _MOMENT, "Variance and mean.", _var_mean, ("torch.var_mean",), _MOMENTS, ()),
    composite("std_mean", _MOMENT, "Standard deviation and mean.", _std_mean, ("torch.std_mean",), _MOMENTS, ()),
    composite("logsumexp", _DIMS, "The logarithm of the sum of exp(x), without overflow.", _logsumexp,
       (*torch_names("logsumexp", "t", "m", "s"),), samples(call(_X, -1), call(_H, 1, True), call(_X, (0, 1)))),
    composite("norm", "x: tensor, p: any = 2.0, dim: dims = None, keepdim: bool = False, dtype: dtype = None",
       "The p-norm of the elements over axes.", _norm, function_and_method("norm"),
       samples(call(_X), call(_X, 1, -1), call(_H, 2.0, (0, 1), True), call(_X, math.inf, 0), call(_X, 3.0, 1))),
    composite("vector_norm",
              "x: tensor, ord: any = 2.0, dim: dims = None, keepdim: bool = False, *, dtype: dtype = None",
       "The p-norm of the elements over axes.", _vector_norm, ("torch.linalg.vector_norm",),
       samples(call(_X, 2.0, -1), call(_X, 0, -1), call(_X, -math.inf, 1)), ()),
    composite("dist", "x: tensor, other: tensor, p: any = 2.0", "The p-norm of the difference.", _dist,
       function_and_method("dist"),
       samples(call(_X, T(("D",))))),
    composite("max", "x: tensor, dim: any = None, keepdim: bool = False, *, other: tensor? = None",
       "The largest element; with an axis values and positions; with a tensor the elementwise maximum.",
       _extreme("max"),
       function_and_method("max"), _EXTREMES),
    composite("min", "x: tensor, dim: any = None, keepdim: bool = False, *, other: tensor? = None",
       "The smallest element; with an axis values and positions; with a tensor the elementwise minimum.",
       _extreme("min"),
       function_and_method("min"), _EXTREMES),
    composite("aminmax", "x: tensor, *, dim: dims = None, keepdim: bool = False", "Smallest and largest element.",
              _aminmax,
       function_and_method("aminmax"), samples(call(_X), call(_X, dim=-1, keepdim=True))),
    composite("count_nonzero", "x: tensor, dim: dims = None", "The number of nonzero elements.", _count_nonzero,
       function_and_method("count_nonzero"), samples(call(_X), call(_X, 1))),
    composite("nansum", f"{_DIMS}, *, dtype: dtype = None", "Sum without the NaNs.", _nansum,
              function_and_method("nansum"),
       samples(*_AXIS)),
    composite("nanmean", f"{_DIMS}, *, dtype: dtype = None", "Mean without the NaNs.", _nanmean,
       function_and_method("nanmean"),
       samples(*_AXIS)),
    composite("allclose",
           "x: tensor, other: tensor like x, rtol: any = 1e-05, atol: any = 1e-08, equal_nan: bool = False",
       "Every element is close; see `isclose`.", _allclose, (), samples(call(_X, _X))),
    composite("trace", "x: tensor float int", "The sum of the diagonal.", _trace, function_and_method("trace"),
       samples(call(T(("S", "D"))))),
    composite("rms", _DIMS, "Root of the mean square over axes.", _rms, (), samples(call(_X, -1))),
)  # fmt: skip
