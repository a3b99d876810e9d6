"""Less common compositions: statistics, window views, further splits and reflections, dropout by channel."""

from __future__ import annotations

import math
from typing import Any

from tessera.ir.dialects.composite_reduce import need_float, wide
from tessera.ir.dialects.composite_shape import axis_of, need_rank, rank_of
from tessera.ir.dialects.extern_conv import per_axis
from tessera.ir.dialects.fits import need_one_rank, need_shape, need_source
from tessera.ir.dialects.rules import composite, function_and_method
from tessera.ir.dialects.samples import T, call, samples, size
from tessera.ir.dtype import f32, promote
from tessera.ir.infer import ONE, Blame
from tessera.ir.record import OpRecord


def _sum_to_size(t: Any, x: Any, *sizes: Any) -> Any:
    """x summed over the axes that a broadcast of the given sizes would have stretched."""
    wanted, have = t.sizes(sizes), t.dims(x)
    lead = len(have) - len(wanted)
    over = tuple(range(lead)) + tuple(lead + n for n, w in enumerate(wanted) if w is ONE and have[lead + n] is not ONE)
    return t.reshape(t.sum(x, over, True), *wanted) if over else x


def _by_axis(name: str, axis: int, vector_axis: int | None = None, least: int = 0) -> Any:
    """``hsplit`` and its kin: tensor_split along a fixed axis."""

    def define(t: Any, x: Any, indices_or_sections: Any) -> Any:
        rank = rank_of(t, x)
        if rank < (least or (axis + 1 if vector_axis is None else 1)):
            t.fail("TSR0204", f"{name} of a rank-{rank} tensor", Blame(0, None, f"has rank {rank}"))
        at = vector_axis if rank == 1 and vector_axis is not None else axis
        if isinstance(indices_or_sections, int):
            return t.chunk(x, indices_or_sections, at)
        return t.tensor_split(x, indices_or_sections, at)

    return define


def _diagonal_scatter(t: Any, x: Any, src: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    """x with a diagonal replaced."""
    a, b = axis_of(t, x, dim1), axis_of(t, x, dim2)
    moved = t.movedim(x, (a, b), (-2, -1))
    need_shape(t, src, t.dims(t.diagonal(x, offset, dim1, dim2)), "diagonal_scatter of values")
    rows, columns = t.dims(moved)[-2:]
    i, j = t.unsqueeze(t.arange(rows), 1), t.arange(columns)
    on = t.eq(t.add(i, offset), j)
    place = t.minimum(t.maximum(i if offset >= 0 else t.add(i, offset), 0), t.dims(src)[-1] - 1)
    spread = t.take(src, t.reshape(place, -1), -1)
    return t.movedim(t.where(on, t.unsqueeze(spread, -1), moved), (-2, -1), (a, b))


def _diagflat(t: Any, x: Any, offset: int = 0) -> Any:
    return t.diag_embed(t.reshape(x, -1), offset)


def _linalg_diagonal(t: Any, x: Any, *, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    return t.diagonal(x, offset, dim1, dim2)


def _angle(t: Any, x: Any) -> Any:
    y = x if t.dtype_of(x).is_float else t.cast(x, f32)
    return t.where(t.isnan(y), y, t.mul(t.cast(t.lt(y, 0.0), t.dtype_of(y)), math.pi))


def _fill(t: Any, x: Any, value: Any) -> Any:
    return t.full_like(x, value)


def _zero(t: Any, x: Any) -> Any:
    return t.zeros_like(x)


def _cov(t: Any, x: Any, *, correction: Any = 1, fweights: Any = None, aweights: Any = None) -> Any:
    """Rows are variables, columns observations."""
    if rank_of(t, x) > 2:
        need_rank(t, x, 2, "cov")
    rows = t.reshape(x, 1, -1) if rank_of(t, x) < 2 else x
    kind = t.dtype_of(rows) if t.dtype_of(rows).is_float else f32
    kind = kind if aweights is None else promote(kind, t.dtype_of(aweights))
    rows = wide(t, t.cast(rows, kind))
    if fweights is None and aweights is None:
        centered = scaled = t.sub(rows, t.mean(rows, 1, True))
        n = t.sub(t.full((), t.dims(rows)[1], dtype=t.dtype_of(rows)), correction)
    else:
        scaled, centered, n = _weighted(t, rows, fweights, aweights, correction)
    made = t.cast(t.div(t.matmul(scaled, t.mT(centered)), t.maximum(n, 0.0)), kind)
    return t.reshape(made) if t.dims(rows)[0] is ONE else made


def _weighted(t: Any, rows: Any, repeats: Any, importance: Any, correction: Any) -> tuple[Any, Any, Any]:
    """Rows less their weighted means, weighted and not, and what the sums of their products are divided by.

    ``repeats`` counts observations, ``importance`` weighs them; of the latter the correction takes its mean.
    """
    for number, w in ((2, repeats), (3, importance)):
        if w is not None:
            need_rank(t, w, 1, "cov with weights", number)
            n, m = t.dims(rows)[1], t.dims(w)[0]
            t.context.equal(n, m, "TSR0202", f"`{m}` weights for `{n}` observations", Blame(number, 0, f"`{m}`"))
    if repeats is not None and not t.dtype_of(repeats).is_int:
        t.fail("TSR0301", f"counts of dtype `{t.dtype_of(repeats)}`", Blame(2, None, f"is {t.dtype_of(repeats)}"))
    given = [t.cast(w, t.dtype_of(rows)) for w in (repeats, importance) if w is not None]
    weights = given[0] if len(given) == 1 else t.mul(*given)
    total = t.sum(weights)
    mean = t.div(t.sum(t.mul(rows, weights), 1, True), total)
    centered = t.sub(rows, mean)
    per = correction if importance is None else t.mul(t.div(t.sum(t.mul(weights, given[-1])), total), correction)
    return t.mul(centered, weights), centered, t.sub(total, per)


def _corrcoef(t: Any, x: Any) -> Any:
    c = _cov(t, x)
    if rank_of(t, c) == 0:
        return t.div(c, c)
    deviation = t.sqrt(t.diagonal(c))
    return t.clamp(t.div(t.div(c, t.unsqueeze(deviation, 1)), t.unsqueeze(deviation, 0)), -1.0, 1.0)


def _cumulative_trapezoid(t: Any, y: Any, x: Any = None, *, dx: Any = 1, dim: int = -1) -> Any:
    axis = axis_of(t, y, dim)
    pairs = t.add(t.slice(y, axis, 1, None), t.slice(y, axis, 0, -1))
    if x is not None:
        step = t.diff(x, 1, -1 if rank_of(t, x) == 1 else axis)
        pairs = t.mul(pairs, t.reshape(step, -1, *[1] * (rank_of(t, y) - 1 - axis)) if rank_of(t, x) == 1 else step)
        dx = 1
    return t.mul(t.cumsum(pairs, axis), t.mul(dx, 0.5) if t.is_tensor(dx) else dx * 0.5)


def _mvlgamma(t: Any, x: Any, p: int) -> Any:
    total: Any = p * (p - 1) * 0.25 * math.log(math.pi)
    for n in range(p):
        total = t.add(t.lgamma(t.sub(x, 0.5 * n)), total)
    return total


def _matrix_norm(t: Any, x: Any, ord: Any = "fro", dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    x = x if dtype is None else t.cast(x, dtype)
    need_float(t, x, "matrix_norm")
    rows, columns = (axis_of(t, x, d) for d in dim or (-2, -1))
    if ord == "fro":
        return t.vector_norm(x, 2.0, (rows, columns), keepdim)
    if ord in ("nuc", 2, -2):
        t.not_covered(f"matrix norm {ord}")
    if ord not in (1, -1, math.inf, -math.inf):
        t.fail(
            "TSR0301", f"matrix norm of kind `{ord}`", Blame(None), helps=['use 1, -1, 2, -2, infinity, "fro" or "nuc"']
        )
    summed, kept = (rows, columns) if abs(ord) == 1 else (columns, rows)
    totals = t.sum(t.abs(x), summed, True)
    found = t.maximum(t.amax(totals, kept, True), 0.0) if ord > 0 else t.amin(totals, kept, True)
    return found if keepdim else t.squeeze(found, (rows, columns))


def _linalg_norm(t: Any, x: Any, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
    """A vector norm of everything, of one axis, or a matrix norm of two axes."""
    if ord is None:
        return t.vector_norm(x, 2.0, dim, keepdim, dtype=dtype)
    axes = rank_of(t, x) if dim is None else 1 if isinstance(dim, int) else len(dim)
    if axes == 2:
        return _matrix_norm(t, x, ord, dim, keepdim, dtype=dtype)
    if dim is None:
        need_one_rank(t, x, (1, 2), f"norm of kind `{ord}`")
    return t.vector_norm(x, ord, dim, keepdim, dtype=dtype)


def _local_response_norm(t: Any, x: Any, size: int, alpha: Any = 1e-4, beta: Any = 0.75, k: Any = 1.0) -> Any:
    """Values over a power of the mean square of neighbouring channels."""
    squares = t.mul(x, x)
    rank = rank_of(t, x)
    padded = t.pad(squares, (*[0, 0] * (rank - 2), size // 2, (size - 1) // 2))
    near = t.div(t.sum(t.unfold(padded, 1, size, 1), -1), float(size))
    return t.div(x, t.pow(t.add(t.mul(near, alpha), k), beta))


def _im2col(t: Any, x: Any, kernel_size: Any, dilation: Any = 1, padding: Any = 0, stride: Any = 1) -> Any:
    """Every window of an image as a column."""
    kernel, spread, sides, steps = (per_axis(v, 2) for v in (kernel_size, dilation, padding, stride))
    lone = rank_of(t, x) == 3
    x = t.unsqueeze(x, 0) if lone else x
    x = t.pad(x, (sides[1], sides[1], sides[0], sides[0]))
    for n in range(2):
        wide_window = t.unfold(x, 2 + n, spread[n] * (kernel[n] - 1) + 1, steps[n])
        x = t.slice(wide_window, -1, None, None, spread[n])
    n, c, rows, columns, kh, kw = t.dims(x)
    made = t.reshape(t.permute(x, 0, 1, 4, 5, 2, 3), n, c * kh * kw, rows * columns)
    return t.squeeze(made, 0) if lone else made


def _channel_dropout(t: Any, x: Any, p: Any = 0.5, training: bool = True, inplace: bool = False) -> Any:
    """Whole channels zeroed."""
    if not training or p == 0:
        return x
    need_float(t, x, "dropout")
    dims = t.dims(x)
    kept = t.ge(t.rand((*dims[:2], *[1] * (len(dims) - 2))), p)
    return t.where(kept, t.mul(x, 1.0 / (1.0 - p) if p < 1 else 0.0), 0.0)


def _alpha_dropout(t: Any, x: Any, p: Any = 0.5, training: bool = False, inplace: bool = False) -> Any:
    """Elements set to the value that selu saturates to, then moved back to mean 0 and variance 1."""
    if not training or p == 0:
        return x
    need_float(t, x, "alpha_dropout")
    low = -1.7580993408473766
    a = 1.0 / math.sqrt((1.0 - p) * (1.0 + p * low * low)) if p < 1 else 0.0
    kept = t.ge(t.rand(t.dims(x)), p)
    return t.add(t.mul(t.where(kept, x, low), a), -a * low * p)


def _cartesian_prod(t: Any, *tensors: Any) -> Any:
    for one in tensors:
        need_one_rank(t, one, (1,), "a factor of a product")
    if len(tensors) == 1:
        return tensors[0]
    return t.stack([t.reshape(g, -1) for g in t.meshgrid(*tensors)], 1)


def _index_reduce(t: Any, x: Any, dim: int, index: Any, source: Any, reduce: str, *, include_self: bool = True) -> Any:
    axis, rank = axis_of(t, x, dim), rank_of(t, x)
    need_source(t, x, axis, index, source, "index_reduce")
    along = t.expand(t.reshape(index, *(-1 if n == axis else 1 for n in range(rank))), *t.dims(source))
    return t.scatter_reduce(x, axis, along, source, reduce, include_self=include_self)


def _uniform_fill(t: Any, x: Any, low: Any = 0.0, high: Any = 1.0, **_: Any) -> Any:
    return t.add(t.mul(t.rand_like(x), t.sub(high, low) if t.is_tensor(high) or t.is_tensor(low) else high - low), low)


def _normal_fill(t: Any, x: Any, mean: Any = 0.0, std: Any = 1.0, **_: Any) -> Any:
    return t.add(t.mul(t.randn_like(x), std), mean)


def _exponential_fill(t: Any, x: Any, lambd: Any = 1.0, **_: Any) -> Any:
    return t.div(t.neg(t.log1p(t.neg(t.rand_like(x)))), lambd)


def _bernoulli_fill(t: Any, x: Any, p: Any = 0.5, **_: Any) -> Any:
    return t.cast(t.lt(t.rand(t.dims(x)), p), t.dtype_of(x))


def _adaptive_avg_pool(axes: int) -> Any:
    """Windows of equal size; sizes that do not divide are left to the library."""

    def define(t: Any, x: Any, output_size: Any) -> Any:
        given = output_size if isinstance(output_size, tuple | list) else (output_size,)
        wanted = tuple(given) * axes if len(given) == 1 else tuple(given)
        if len(wanted) != axes or rank_of(t, x) not in (axes + 1, axes + 2):
            t.fail(
                "TSR0204",
                f"pooling of rank {rank_of(t, x)} to {len(wanted)} sizes",
                Blame(0, None, f"has rank {rank_of(t, x)}"),
            )
        if any(isinstance(w, int) and w < 1 for w in wanted):
            t.not_covered("adaptive pooling to nothing")
        first = rank_of(t, x) - axes
        for n, w in enumerate(wanted):
            d = t.dims(x)[first + n]
            if w is None or t.size(w) is d:
                continue
            if t.size(w) is not ONE and (not d.is_const or d.value % t.size(w).value):
                t.not_covered("adaptive pooling to a size that does not divide")
            axis = first + n
            split = t.unflatten(x, axis, (w, -1))
            x = t.mean(split, axis + 1)
        return x

    return define


_M, _X, _IMAGE = T(("S", "D")), T(("B", "S", "D")), T(("B", 4, 6, 8))
_FILL = samples(call(_M))

OPS: tuple[OpRecord, ...] = (
    composite("sum_to_size", "x: tensor, *sizes: size", "Summed over what a broadcast of the sizes would stretch.",
       _sum_to_size,
       ("torch.Tensor.sum_to_size",), samples(call(_X, size("S"), 1), call(_X, size("D"))), ("sum_to_size",)),
    composite("hsplit", "x: tensor, indices_or_sections: any", "Split along axis 1, or 0 of a vector.",
       _by_axis("hsplit", 1, 0), function_and_method("hsplit"),
       samples(call(T(("S", 6)), 3), call(T((6,)), (1, 4))), ("hsplit",)),
    composite("vsplit", "x: tensor, indices_or_sections: any", "Split along axis 0.", _by_axis("vsplit", 0, least=2),
              function_and_method("vsplit"),
       samples(call(T((6, "D")), 3)), ("vsplit",)),
    composite("dsplit", "x: tensor, indices_or_sections: any", "Split along axis 2.", _by_axis("dsplit", 2),
              function_and_method("dsplit"),
       samples(call(T(("S", "D", 6)), (2, 5))), ("dsplit",)),
    composite("diagonal_scatter", "x: tensor, src: tensor, offset: int = 0, dim1: dim = 0, dim2: dim = 1",
       "A diagonal replaced.", _diagonal_scatter,
       function_and_method("diagonal_scatter"), samples(call(T((5, 4)), T((4,))), call(T((4, 5)), T((3,)), -1),
                                        call(T((5, 4)), T((3,)), 1)), ("diagonal_scatter",)),
    composite("diagflat", "x: tensor, offset: int = 0", "The elements on the diagonal of a matrix.", _diagflat,
       function_and_method("diagflat"), samples(call(_M)), ("diagflat",)),
    composite("linalg_diagonal", "x: tensor, *, offset: int = 0, dim1: dim = -2, dim2: dim = -1",
       "The diagonal of the last two axes.", _linalg_diagonal,
       ("torch.linalg.diagonal",), samples(call(_X))),
    composite("angle", "x: tensor", "The angle: 0, or pi for negative numbers.", _angle, function_and_method("angle"),
       samples(call(_M), call(T(("S",), "int32", 5))), ("angle",)),
    composite("real", "x: tensor", "The tensor itself: there are no complex numbers here.", lambda t, x: x,
       (*function_and_method("conj", "conj_physical", "resolve_conj", "resolve_neg"), "torch.real",
        "torch.Tensor.real.__get__"), _FILL,
       ("conj", "conj_physical", "resolve_conj", "resolve_neg", "real")),
    composite("fill", "x: tensor, value: tensor", "One value in the same shape and dtype.", _fill, ("torch.fill",),
       samples(call(_M, 2.0)), ("fill",)),
    composite("zero", "x: tensor", "Zeros in the same shape and dtype.", _zero, (), _FILL, ("zero",)),
    composite("cov", "x: tensor float int, *, correction: any = 1, fweights: tensor? int = None, "
              "aweights: tensor? float = None",
              "Covariances of rows.",
       _cov, function_and_method("cov"),
       samples(call(_M), call(T(("S",)), correction=0),
               call(_M, fweights=T(("D",), "int64", domain=(1, 5)), aweights=T(("D",), domain=(0.1, 0.9)))), ("cov",)),
    composite("corrcoef", "x: tensor float int", "Correlations of rows.", _corrcoef, function_and_method("corrcoef"),
              samples(call(_M)), ("corrcoef",)),
    composite("cumulative_trapezoid",
           "y: tensor float int, x: tensor? float int = None, *, dx: tensor = 1, dim: dim = -1",
       "Running integral by the trapezoidal rule.",
       _cumulative_trapezoid, ("torch.cumulative_trapezoid",),
       samples(call(_M), call(_M, T(("D",))), call(_M, dx=0.5, dim=0))),
    composite("mvlgamma", "x: tensor, p: int", "Logarithm of the multivariate gamma function.", _mvlgamma,
       (*function_and_method("mvlgamma"), "torch.special.multigammaln"),
       samples(call(T(("S", "D"), domain=(2.0, 6.0)), 3)),
       ("mvlgamma",)),
    composite("matrix_norm",
              "x: tensor, ord: any = 'fro', dim: any = None, keepdim: bool = False, *, dtype: dtype = None",
       "A norm of matrices.", _matrix_norm,
       ("torch.linalg.matrix_norm",), samples(call(_X), call(_X, 1), call(_X, -math.inf, (0, 1), True))),
    composite("linalg_norm",
              "x: tensor, ord: any = None, dim: any = None, keepdim: bool = False, *, dtype: dtype = None",
       "A norm of vectors or matrices.",
       _linalg_norm, ("torch.linalg.norm",), samples(call(_X), call(_M, 1), call(_X, 3.0, -1),
                                                     call(_X, "fro", (0, 2)))),
    composite("local_response_norm",
              "x: tensor float int64, size: int, alpha: tensor = 0.0001, beta: tensor = 0.75, k: tensor = 1.0",
       "Values over a power of the mean square of neighbouring channels.", _local_response_norm,
       ("torch.nn.functional.local_response_norm",),
       samples(call(_IMAGE, 3), call(_IMAGE, 2, 1.0, 0.5, 2.0))),
    composite("im2col", "x: tensor float bool, kernel_size: any, dilation: any = 1, padding: any = 0, stride: any = 1",
       "Every window of an image as a column.",
       _im2col, ("torch.nn.functional.unfold",), samples(call(_IMAGE, 2), call(_IMAGE, (2, 3), 2, 1, 2))),
    composite("channel_dropout", "x: tensor, p: any = 0.5, training: bool = True, inplace: bool = False",
       "Whole channels zeroed.", _channel_dropout,
       ("torch.nn.functional.dropout2d", "torch.nn.functional.dropout1d", "torch.nn.functional.dropout3d",
        "torch.feature_dropout"), samples(call(_IMAGE, 0.25))),
    composite("alpha_dropout", "x: tensor, p: any = 0.5, training: bool = False, inplace: bool = False",
       "Dropout that keeps mean and variance under selu.",
       _alpha_dropout, ("torch.nn.functional.alpha_dropout",), samples(call(_M, 0.25, True))),
    composite("cartesian_prod", "*tensors: tensors alike", "Every combination of elements, one a row.", _cartesian_prod,
       ("torch.cartesian_prod",),
       samples(call(T(("S",)), T(("D",))))),
    composite("index_reduce",
              "x: tensor, dim: dim, index: tensor index, source: tensor like x, reduce: str, *, "
              "include_self: bool = True",
       "Slices combined at positions of one axis.", _index_reduce, function_and_method("index_reduce"),
       samples(call(_M, 0, T((3,), "int64", 5), T((3, "D")), "amax"),
               call(_M, 0, T((3,), "int64", 5), T((3, "D")), "prod", include_self=False)), ("index_reduce",)),
    composite("uniform_fill", "x: tensor float, low: tensor = 0.0, high: tensor = 1.0",
           "Uniform numbers in the same shape.",
       _uniform_fill, ("torch.Tensor.uniform_",), _FILL),
    composite("normal_fill", "x: tensor float, mean: tensor = 0.0, std: tensor = 1.0",
           "Normal numbers in the same shape.",
       _normal_fill, ("torch.Tensor.normal_",), _FILL),
    composite("exponential_fill", "x: tensor float, lambd: tensor = 1.0", "Exponential numbers in the same shape.",
       _exponential_fill, ("torch.Tensor.exponential_",), _FILL),
    composite("bernoulli_fill", "x: tensor, p: tensor = 0.5",
              "Ones with one probability, zeros otherwise, in the same shape.",
       _bernoulli_fill, ("torch.Tensor.bernoulli_",), _FILL),
    *(composite(f"adaptive_avg_pool{n}d", "x: tensor, output_size: any", "Means of equal windows.",
                _adaptive_avg_pool(n),
         (f"torch.nn.functional.adaptive_avg_pool{n}d",),
         samples(call(T(("B", 4, *(6, 8, 4)[:n])), 1), call(T(("B", 4, *(6, 8, 4)[:n])), 2))) for n in (1, 2, 3)),
)  # fmt: skip
