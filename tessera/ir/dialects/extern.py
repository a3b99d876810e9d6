"""Whole-tensor library calls: sorting, scatters, convolutions, pooling."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from tessera.ir.derive import Derivative
from tessera.ir.dialects import adjoints
from tessera.ir.dialects.composite_reduce import Extreme
from tessera.ir.dialects.composite_shape import axis_of, rank_of
from tessera.ir.dialects.fits import need_source
from tessera.ir.dialects.index import LONG, need_index, need_integers
from tessera.ir.dialects.reduce import need_elements
from tessera.ir.dialects.rules import torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.shape import Attrs, Types, as_dim, axis_attr
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, int32, int64
from tessera.ir.infer import ONE, Blame, InferContext
from tessera.ir.record import Access, Infer, Kind, OpRecord
from tessera.ir.types import TensorType, Type


def _like(*dtypes: DType | None) -> Infer:
    """Results of the operand's shape, each with its dtype or the operand's own."""

    def infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        if "dim" in attrs:
            ctx.axis(axis_attr(attrs), x.rank)
        return tuple(TensorType(d or x.dtype, x.dims) for d in dtypes)

    return infer


def _record(
    name: str,
    signature: str,
    doc: str,
    infer: Infer,
    reference: Callable[..., Any],
    eager: Callable[..., Any],
    *,
    call_: Callable[..., Any] | None = None,
    torch: Sequence[str] = (),
    methods: tuple[str, ...] | None = None,
    samples_: Any = None,
    as_: Any = None,
    accesses: Any = None,
    adds: Callable[[Attrs], int | None] | None = None,
    derivative: Derivative | None = None,
) -> OpRecord:
    return OpRecord(
        name, Kind.EXTERN, signature, doc, infer, as_, reference=reference, accesses=accesses, adds=adds, call=call_,
        eager=eager, torch=tuple(torch), methods=(name,) if methods is None else methods, samples=samples_,
        derivative=derivative,
    )  # fmt: skip


def _tm(name: str) -> tuple[str, ...]:
    return torch_names(name, "t", "m")


# --- order ------------------------------------------------------------------------------------------------------------


def _order(x: Any, dim: int, descending: bool) -> Any:
    """Stable positions in order; NaN counts as the largest."""
    if not descending:
        return np.argsort(x, axis=dim, kind="stable")
    turned = np.flip(x, dim)
    return x.shape[dim] - 1 - np.flip(np.argsort(turned, axis=dim, kind="stable"), dim)


def _sort_reference(x: Any, *, dim: int, descending: bool) -> Any:
    if x.ndim == 0:
        return x.copy(), np.zeros((), np.int64)
    order = _order(x, dim, descending)
    return np.take_along_axis(x, order, dim), order


def _sort(t: Any, x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return Extreme(*t.emit("sort", (x,), dim=axis_of(t, x, dim), descending=bool(descending)))


def _argsort(t: Any, x: Any, dim: int = -1, descending: bool = False, stable: bool = False) -> Any:
    return _sort(t, x, dim, descending).indices


def _topk_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, k, axis = types[0], as_dim(attrs["k"]), axis_attr(attrs)
    dims = list(x.dims)
    if dims:
        ctx.at_least(dims[axis], k, "TSR0212", f"topk of `{k}` from `{dims[axis]}`", Blame(0, axis, f"`{dims[axis]}`"))
        dims[axis] = k
    return TensorType(x.dtype, tuple(dims)), TensorType(int64, tuple(dims))


def _topk_reference(x: Any, *, k: int, dim: int, largest: bool) -> Any:
    if x.ndim == 0:
        return x.copy(), np.zeros((), np.int64)
    order = np.take(_order(x, dim, largest), np.arange(k), axis=dim)
    return np.take_along_axis(x, order, dim), order


def _topk(t: Any, x: Any, k: Any, dim: int = -1, largest: bool = True, sorted: bool = True) -> Any:
    return Extreme(*t.emit("topk", (x,), k=t.size(k), dim=axis_of(t, x, dim), largest=bool(largest)))


def _kth_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, axis, keep = types[0], axis_attr(attrs), bool(attrs["keepdim"])
    dims = tuple(ONE if n == axis else d for n, d in enumerate(x.dims) if keep or n != axis)
    return TensorType(x.dtype, dims), TensorType(int64, dims)


def _kth_reference(x: Any, *, k: int, dim: int, keepdim: bool) -> Any:
    """k counts from 1; 0 is the lower median, for which any NaN wins, and which is NaN of no elements."""
    if x.ndim == 0:
        return x.copy(), np.zeros((), np.int64)
    if not x.shape[dim]:
        return np.full((1,) * keepdim, np.nan), np.zeros((1,) * keepdim, np.int64)
    order = _order(x, dim, False)
    place = np.full(
        [1 if n == dim else s for n, s in enumerate(x.shape)], (x.shape[dim] + 1) // 2 - 1 if k == 0 else k - 1
    )
    if k == 0:
        nans = np.isnan(np.asarray(x, np.float64))
        place = np.where(nans.any(dim, keepdims=True), x.shape[dim] - nans.sum(dim, keepdims=True), place)
    at = np.take_along_axis(order, place, dim)
    values = np.take_along_axis(x, at, dim)
    return (values, at) if keepdim else (values.squeeze(dim), at.squeeze(dim))


def _kth_eager(torch: Any, x: Any, *, k: int, dim: int, keepdim: bool) -> Any:
    if k:
        return torch.kthvalue(x, k, dim, keepdim)
    if x.ndim == 1 and not x.numel():
        return torch.median(x), torch.zeros((), dtype=torch.int64)
    return torch.median(x, dim, keepdim)


def _kthvalue(t: Any, x: Any, k: int, dim: int = -1, keepdim: bool = False) -> Any:
    axis = axis_of(t, x, dim)
    need_elements(t, x, (axis,), "kthvalue", Dim.const(int(k)))
    return Extreme(*t.emit("kthvalue", (x,), k=int(k), dim=axis, keepdim=bool(keepdim)))


def _of_all_equal(t: Any, x: Any, found: Any) -> Any:
    """An element of x as one that all equal to it share in derivatives."""
    axes = tuple(range(len(t.dims(x))))
    shared = t.emit("amax", (t.where(t.eq(x, found), x, -math.inf),), dim=axes, keepdim=False)
    return t.where(t.eq(shared, found), shared, found)


def _median(t: Any, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
    if dim is None:
        found = t.emit("kthvalue", (t.reshape(x, -1),), k=0, dim=0, keepdim=False)[0]
        return _of_all_equal(t, x, t.detach(found)) if t.dtype_of(x).is_float else found
    axis = axis_of(t, x, dim)
    need_elements(t, x, (axis,), "median")
    return Extreme(*t.emit("kthvalue", (x,), k=0, dim=axis, keepdim=bool(keepdim)))


# --- scatter ----------------------------------------------------------------------------------------------------------


def _scatter_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, index, src = types
    need_integers(ctx, types[:2], 1)
    for number, t in ((1, index), (2, src)):
        if t.rank != x.rank and (number == 1 or (isinstance(t, TensorType) and t.rank)):
            ctx.fail(
                "TSR0215", f"scatter into rank {x.rank} with rank {t.rank}", Blame(number, None, f"has rank {t.rank}")
            )
    axis = ctx.axis(axis_attr(attrs), x.rank)
    for n, (d, i) in enumerate(zip(x.dims, index.dims, strict=False)):
        if n != axis and not ctx.holds("ge", d, i, f"scatter writes `{i}` of `{d}`"):
            ctx.fail("TSR0215", f"index of size `{i}` on dimension `{d}`", Blame(1, n, f"`{i}`"), Blame(0, n, f"`{d}`"))
        if src.rank and not ctx.holds("ge", src.dims[n], i, f"scatter reads `{i}` of `{src.dims[n]}`"):
            ctx.fail("TSR0215", f"index of size `{i}` for values of size `{src.dims[n]}`", Blame(1, n, f"`{i}`"),
                     Blame(2, n, f"`{src.dims[n]}`"))  # fmt: skip
    return (TensorType(x.dtype, x.dims),)


def _scatter_as(types: Sequence[Type]) -> tuple[DType | None, ...]:
    return (None, int64, *(types[0].dtype for _ in types[2:]))


def _scatter_adds(attrs: Attrs) -> int | None:
    return axis_attr(attrs) if attrs["reduce"] == "sum" and attrs["include_self"] else None


_COMBINE: Mapping[str, Callable[[Any, Any], Any]] = {
    "replace": lambda a, b: b, "sum": lambda a, b: a + b, "prod": lambda a, b: a * b, "amax": np.maximum,
    "amin": np.minimum,
}  # fmt: skip


def _scatter_reference(x: Any, index: Any, src: Any, *, dim: int, reduce: str, include_self: bool) -> Any:
    out, counts = np.array(x), np.zeros(np.shape(x), np.int64)
    combine = _COMBINE["sum" if reduce == "mean" else reduce]
    src = np.broadcast_to(src, index.shape) if np.ndim(src) == 0 else src
    for place in np.ndindex(*index.shape):
        to = list(place)
        if to:
            to[dim] = int(index[place])
        at = tuple(to)
        fresh = not include_self and counts[at] == 0
        out[at] = src[place] if fresh else combine(out[at], src[place])
        counts[at] += 1
    if reduce == "mean":
        total = counts + (1 if include_self else 0)
        out = np.where(
            counts > 0, out / np.maximum(total, 1) if out.dtype.kind == "f" else out // np.maximum(total, 1), out
        )
    return out


def _scatter_eager(torch: Any, x: Any, index: Any, src: Any, *, dim: int, reduce: str, include_self: bool) -> Any:
    if reduce == "replace":
        return x.scatter(dim, index, src)
    if not isinstance(src, torch.Tensor) or src.ndim != x.ndim:
        src = torch.as_tensor(src, dtype=x.dtype, device=x.device).expand(index.shape)
    return x.scatter_reduce(dim, index, src, reduce, include_self=include_self)


def _scatter(
    t: Any, x: Any, dim: int, index: Any, src: Any = None, *, value: Any = None, reduce: str | None = None
) -> Any:
    how = {None: "replace", "add": "sum", "multiply": "prod"}[reduce]
    return _scattered(t, x, dim, index, value if src is None else src, how)


def _scattered(t: Any, x: Any, dim: int, index: Any, src: Any, how: str, include_self: bool = True) -> Any:
    need_index(t, index, 2, "scatter")
    if t.is_tensor(src) and t.dtype_of(src) is not t.dtype_of(x):
        t.fail("TSR0301", f"`{t.dtype_of(src)}` scattered into `{t.dtype_of(x)}`",
               Blame(3, None, f"is {t.dtype_of(src)}"), helps=[f"cast it with `.to({t.dtype_of(x)})`"])  # fmt: skip
    if rank_of(t, x) == 0:
        src = t.reshape(src, -1) if t.is_tensor(src) and rank_of(t, src) == 0 else src
        return t.reshape(_scattered(t, t.reshape(x, 1), dim, t.reshape(index, -1), src, how, include_self))
    return t.emit("scatter", (x, index, src), dim=axis_of(t, x, dim), reduce=how, include_self=include_self)


def _scatter_add(t: Any, x: Any, dim: int, index: Any, src: Any) -> Any:
    return _scattered(t, x, dim, index, src, "sum")


def _scatter_reduce(t: Any, x: Any, dim: int, index: Any, src: Any, reduce: str, *, include_self: bool = True) -> Any:
    if reduce == "mean" and t.dtype_of(x).is_bool:
        t.fail("TSR0301", "mean of `bool`", Blame(0, None, "is bool"), helps=["cast it with `.float()`"])
    return _scattered(t, x, dim, index, src, reduce, bool(include_self))


def _along(t: Any, x: Any, dim: int, index: Any, source: Any) -> Any:
    """An index vector laid along one axis and expanded to the shape of the source."""
    axis, rank = axis_of(t, x, dim), rank_of(t, x)
    need_source(t, x, axis, index, source, "an update")
    index = t.reshape(index, -1)
    if rank == 0:
        return index
    return t.expand(t.reshape(index, *(t.dims(index)[0] if n == axis else 1 for n in range(rank))), *t.dims(source))


def _index_add(t: Any, x: Any, dim: int, index: Any, source: Any, *, alpha: Any = 1) -> Any:
    alpha = int(alpha) if isinstance(alpha, float) and not t.dtype_of(x).is_float else alpha
    source = source if isinstance(alpha, int | float) and alpha == 1 else t.mul(source, alpha)
    return _scattered(t, x, dim, _along(t, x, dim, index, source), source, "sum")


def _index_copy(t: Any, x: Any, dim: int, index: Any, source: Any) -> Any:
    need_index(t, index, 2, "index_copy", LONG)
    return _scattered(t, x, dim, _along(t, x, dim, index, source), source, "replace")


def _index_put(t: Any, x: Any, indices: Sequence[Any], values: Any, accumulate: bool = False) -> Any:
    """Elements at index tensors replaced, or added to."""
    dims = t.dims(x)
    key = tuple(slice(None) if e is None else e for e in indices)
    if not accumulate:
        return t.setitem(x, key, values)
    picked = t.getitem(t.reshape(t.arange(t.type_of(x).numel), *dims), key)
    values = t.reshape(t.expand(t.cast(values, t.dtype_of(x)), *t.dims(picked)), -1)
    return t.reshape(_scattered(t, t.reshape(x, -1), 0, t.reshape(picked, -1), values, "sum"), *dims)


def _masked_scatter(t: Any, x: Any, mask: Any, source: Any) -> Any:
    """Both broadcast to a common shape."""
    dims = t.context.broadcast((t.type_of(x), t.type_of(mask)))
    return t.emit("masked_scatter", (t.expand(x, *dims), mask, source))


def _masked_scatter_reference(x: Any, mask: Any, source: Any) -> Any:
    out = np.array(x)
    mask = np.broadcast_to(mask, out.shape)
    out[mask] = np.ravel(source)[: int(mask.sum())]
    return out


# --- search -----------------------------------------------------------------------------------------------------------


def _search_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    rows, x = types
    if rows.rank != 1 and rows.rank != x.rank:
        ctx.fail("TSR0204", f"search in rank {rows.rank} for values of rank {x.rank}",
                 Blame(0, None, f"has rank {rows.rank}"),
                 Blame(1, None, f"has rank {x.rank}"),
                 helps=["the sorted values are a vector, or one row per row of values"])  # fmt: skip
    for n, (a, b) in enumerate(zip(rows.dims[:-1], x.dims, strict=False)):
        ctx.equal(
            a, b, "TSR0215", f"`{a}` sorted rows for `{b}` rows of values", Blame(0, n, f"`{a}`"), Blame(1, n, f"`{b}`")
        )
    return (TensorType(int64, types[1].dims),)


def _search_reference(rows: Any, x: Any, *, right: bool) -> Any:
    side: Literal["left", "right"] = "right" if right else "left"
    if rows.ndim == 1:
        return np.searchsorted(rows, x, side)
    out = np.empty(x.shape, np.int64)
    for place in np.ndindex(*x.shape[:-1]):
        out[place] = np.searchsorted(rows[place], x[place], side)
    return out


def _searchsorted(
    t: Any, sorted_sequence: Any, x: Any, *, out_int32: bool = False, right: bool = False, side: str | None = None,
    sorter: Any = None,
) -> Any:  # fmt: skip
    x = x if t.is_tensor(x) else t.full((), x)
    need_index(t, sorter, 0, "searchsorted", LONG)
    rows = sorted_sequence if sorter is None else t.gather(sorted_sequence, -1, sorter)
    at = t.emit("searchsorted", (rows, x), right=bool(right) or side == "right")
    return t.cast(at, int32) if out_int32 else at


def _bucketize(t: Any, x: Any, boundaries: Any, *, out_int32: bool = False, right: bool = False) -> Any:
    return _searchsorted(t, boundaries, x, out_int32=out_int32, right=right)


def _multinomial(t: Any, x: Any, num_samples: int, replacement: bool = False, **_: Any) -> Any:
    """Without replacement the largest of u**(1/p) (Efraimidis and Spirakis), else the inverse of the running sum."""
    dims = t.dims(x)
    if len(dims) not in (1, 2):
        t.fail("TSR0204", f"weights of rank {len(dims)}", Blame(0, None, f"has rank {len(dims)}, not 1 or 2"))
    if not t.dtype_of(x).is_float:
        t.fail("TSR0301", f"weights of dtype `{t.dtype_of(x)}`", Blame(0, None, f"is {t.dtype_of(x)}"))
    if num_samples < 1:
        t.fail("TSR0212", f"{num_samples} draws", Blame(0))
    p = t.div(x, t.sum(x, -1, True))
    if not replacement:
        keys = t.div(t.log(t.add(t.rand_like(p), 1e-12)), p)
        return t.topk(t.where(t.gt(p, 0.0), keys, -math.inf), num_samples, -1).indices
    total = t.unsqueeze(t.cumsum(p, -1), -2)
    u = t.unsqueeze(t.rand((*dims[:-1], t.size(num_samples))), -1)
    return t.minimum(t.sum(t.cast(t.le(total, u), int64), -1), t.sub(dims[-1], 1))


_X, _M = T(("B", "S", "D")), T(("S", "D"))
_IDX = T((3, "D"), "int64", 5)
_PERM = T(("S",), "int64", "perm")
_SCATTER = "x: tensor, dim: dim, index: tensor, src: tensor"


def _composite(
    name: str,
    signature: str,
    doc: str,
    define: Any,
    samples_: Any,
    torch: Sequence[str] | None = None,
    methods: tuple[str, ...] | None = None,
) -> OpRecord:
    return OpRecord(name, Kind.COMPOSITE, signature, doc, define=define,
                    torch=tuple(_tm(name) if torch is None else torch),
                    methods=(name,) if methods is None else methods, samples=samples_)  # fmt: skip


ORDER_OPS: tuple[OpRecord, ...] = (
    _record("sort", "x: tensor, dim: dim = -1, descending: bool = False",
            "Values in order along an axis, and where they were; stable.",
            _like(None, int64), _sort_reference, lambda torch, x, *, dim,
            descending: torch.sort(x, dim=dim, descending=descending, stable=True),
            call_=_sort, torch=_tm("sort"), samples_=samples(call(_X), call(T(("B", "S"), "int32", 50), 0, True)),
            derivative=adjoints.POSITION),
    _composite("argsort", "x: tensor, dim: dim = -1, descending: bool = False, stable: bool = False",
               "Positions in order along an axis.", _argsort, samples(call(_X), call(_X, 1, True))),
    _composite("msort", "x: tensor", "Values in order along axis 0.", lambda t, x: _sort(t, x, 0).values,
               samples(call(_X))),
    _record("topk", "x: tensor float int, k: size, dim: dim = -1, largest: bool = True",
            "The k largest values along an axis, and where they were.",
            _topk_infer, _topk_reference, lambda torch, x, *, k, dim, largest: torch.topk(x, k, dim, largest),
            call_=_topk, torch=_tm("topk"), samples_=samples(call(_X, 2), call(_X, 3, 1, False)),
            derivative=adjoints.POSITION),
    _record("kthvalue", "x: tensor float int, k: int, dim: dim = -1, keepdim: bool = False",
            "The k-th smallest value along an axis, and where it was.",
            _kth_infer, _kth_reference, _kth_eager, call_=_kthvalue, torch=_tm("kthvalue"),
            samples_=samples(call(_X, 2), call(_X, 3, 1, True)), derivative=adjoints.POSITION),
    _composite("median", "x: tensor float int, dim: dim = None, keepdim: bool = False", "The lower median.", _median,
               samples(call(_X), call(_X, 1))),
    _record("searchsorted", "sorted_sequence: tensor, x: tensor with sorted_sequence float int, *, right: bool = False",
            "Where values would be inserted into sorted ones.",
            _search_infer, _search_reference,
            lambda torch, s, x, *, right: torch.searchsorted(s, x, right=right), call_=_searchsorted,
            torch=("torch.searchsorted",), methods=(),
            samples_=samples(call(T(("S",), "f32", "sorted"), _M), call(T(("S",), "f32", "sorted"), _M, right=True))),
    _composite("bucketize", "x: tensor, boundaries: tensor with x float int, *, right: bool = False",
           "The bucket of each value.",
               _bucketize,
               samples(call(_M, T((4,), "f32", "sorted"))), ("torch.bucketize",), ()),
    _composite("multinomial", "x: tensor, num_samples: int, replacement: bool = False", "Positions drawn by weights.",
               _multinomial,
               samples(call(T(("B", "S"), domain=(0.1, 1.0)), 2), call(T(("B", "S"), domain=(0.1, 1.0)), 9, True))),
)  # fmt: skip

SCATTER_OPS: tuple[OpRecord, ...] = (
    _record("scatter", "x: tensor, index: tensor, src: tensor, dim: dim, reduce: str, include_self: bool",
            "Elements put at positions of one axis; `reduce` says how several at one position combine.",
            _scatter_infer, _scatter_reference, _scatter_eager,
            accesses=lambda attrs: (Access(1, 0, axis_attr(attrs)),), adds=_scatter_adds, call_=_scatter,
            torch=_tm("scatter"),
            as_=_scatter_as, samples_=samples(call(_M, 0, T((3, "D"), "int64", "perm0"), T((3, "D"))),
                             call(_M, 1, T(("S", 2), "int64", "perm"), 1.5)), derivative=adjoints.scatter),
    _composite("scatter_add", _SCATTER, "Elements added at positions of one axis.", _scatter_add,
               samples(call(_M, 0, _IDX, T((3, "D"))))),
    _composite("scatter_reduce", f"{_SCATTER}, reduce: str, *, include_self: bool = True",
               "Elements combined at positions of one axis.", _scatter_reduce,
               samples(call(_M, 0, _IDX, T((3, "D")), "amax"),
                       call(_M, 0, _IDX, T((3, "D")), "mean", include_self=False))),
    _composite("index_add", "x: tensor, dim: dim, index: tensor index, source: tensor like x, *, alpha: tensor = 1",
               "Slices added at positions of one axis.", _index_add,
               samples(call(_X, 1, T((3,), "int64", 5), T(("B", 3, "D"))),
                       call(_M, 0, T((2,), "int64", 5), T((2, "D")), alpha=0.5))),
    _composite("index_copy", "x: tensor, dim: dim, index: tensor long, source: tensor like x",
               "Slices put at positions of one axis.", _index_copy,
               samples(call(_X, 1, T((3,), "int64", "perm"), T(("B", 3, "D"))))),
    _composite("index_put", "x: tensor, indices: any, values: tensor like x, accumulate: bool = False",
               "Elements put at, or added to, index tensors.", _index_put, samples(call(_M, (_PERM,), T(("S", "D"))),
                                   call(_M, (T((3,), "int64", 5),), T((3, "D")), True))),
    _record("masked_scatter", "x: tensor, mask: tensor mask, source: tensor like x",
            "The masked elements replaced by the first ones of another tensor.",
            _like(None), _masked_scatter_reference, lambda torch, x, mask, source: x.masked_scatter(mask, source),
            call_=_masked_scatter, torch=_tm("masked_scatter"),
            samples_=samples(call(_M, T(("S", "D"), "bool", "bool"), T(("S", "D")))),
            as_=lambda types: (None, None, types[0].dtype), derivative=adjoints.masked_scatter),
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (*ORDER_OPS, *SCATTER_OPS)
