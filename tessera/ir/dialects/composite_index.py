"""Python's indexing, updates by index, and the named operations that are one of the two."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.ir.dialects.composite_shape import axis_of, need_rank, rank_of
from tessera.ir.dialects.fits import need_one_rank, need_shape
from tessera.ir.dialects.index import LONG, need_index, positions
from tessera.ir.dialects.rules import composite, function_and_method
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.slicing import slice_bounds, slice_size
from tessera.ir.dim import Dim
from tessera.ir.dtype import bool_, uint8
from tessera.ir.infer import ONE, Blame
from tessera.ir.record import OpRecord


def expand_key(t: Any, x: Any, key: Any) -> list[Any]:
    """An index as one entry per axis, plus None entries: the ellipsis spelled out, missing axes as full slices."""
    entries = list(key) if isinstance(key, tuple) else [key]
    rank = rank_of(t, x)
    taken = sum(rank_of(t, e) if _is_mask(t, e) else 1 for e in entries if e is not None and e is not Ellipsis)
    if taken > rank:
        t.fail("TSR0212", f"{taken} indices for a rank-{rank} tensor", Blame(0, None, f"has rank {rank}"))
    dots = [n for n, e in enumerate(entries) if e is Ellipsis]
    if len(dots) > 1:
        t.fail("TSR0212", "two `...` in an index", Blame(0))
    at = dots[0] if dots else len(entries)
    return [*entries[:at], *[slice(None)] * (rank - taken), *entries[at + 1 :]]


def _is_mask(t: Any, e: Any) -> bool:
    """A bool, or bools; torch takes bytes for the same."""
    return isinstance(e, bool) or (t.is_tensor(e) and (t.dtype_of(e).is_bool or t.dtype_of(e) is uint8))


def _as_index(t: Any, e: Any) -> Any:
    """A list of integers means an index tensor."""
    return t.tensor(e) if isinstance(e, list) else e


def need_mask(t: Any, x: Any, mask: Any, axis: int) -> None:
    """A mask has the sizes of the axes that it selects from; nothing broadcasts."""
    own = t.dims(mask) if t.is_tensor(mask) else ()
    for n, (have, size) in enumerate(zip(t.dims(x)[axis:], own, strict=False)):
        t.context.equal(have, size, "TSR0215", f"bool mask of `{size}` for dimension `{have}`",
                        Blame(1, n, f"`{size}`"), Blame(0, axis + n, f"`{have}`"))  # fmt: skip


def _by_mask(t: Any) -> None:
    t.fail("TSR0402", "the number of elements behind a bool mask depends on the data",
           Blame(1, None, "is a bool mask"), helps=["`where` and `masked_fill` keep the size"])  # fmt: skip


def _getitem(t: Any, x: Any, key: Any) -> Any:
    """Integers, slices, ``None``, ``...`` and integer tensors, as in NumPy and torch. The size behind a bool mask
    is known with the data alone."""
    entries = [_as_index(t, e) for e in expand_key(t, x, key)]
    axis, tensors, axes = 0, [], []
    for e in entries:
        if e is None:
            x, axis = t.unsqueeze(x, axis), axis + 1
        elif _is_mask(t, e):
            need_mask(t, x, e, axis)
            _by_mask(t)
        elif isinstance(e, slice):
            x, axis = t.slice(x, axis, e.start, e.stop, e.step), axis + 1
        elif t.is_tensor(e):
            tensors.append(e)
            axes.append(axis)
            axis += 1
        else:
            x = t.select(x, axis, e)
    return _advanced(t, x, tensors, axes) if tensors else x


def _advanced(t: Any, x: Any, tensors: Sequence[Any], axes: Sequence[int]) -> Any:
    for n, index in enumerate(tensors, 1):
        need_index(t, index, n, "indexing")
    if len(tensors) == 1:
        return t.take(x, tensors[0], axes[0])
    return t.emit("index", (x, *tensors), dims=tuple(axes))


def _setitem(t: Any, x: Any, key: Any, value: Any) -> Any:
    """A new tensor: x with the indexed part replaced by ``value``, which broadcasts and is cast to x's dtype."""
    if t.is_tensor(value) and t.dtype_of(value).is_float and not t.dtype_of(x).is_float:
        t.fail("TSR0301", f"assignment of `{t.dtype_of(value)}` to a tensor of `{t.dtype_of(x)}`",
               Blame(2, None, f"is {t.dtype_of(value)}"), helps=["cast the value, or the tensor, first"])  # fmt: skip
    entries = [_as_index(t, e) for e in expand_key(t, x, key)]
    masks = [n for n, e in enumerate(entries) if _is_mask(t, e)]
    if len(masks) == 1 and all(n in masks or e == slice(None) for n, e in enumerate(entries)):
        return _mask_assign(t, x, entries[masks[0]], masks[0], value)
    if masks:
        _by_mask(t)
    if any(t.is_tensor(e) for e in entries):
        return _scatter_assign(t, x, entries, value)
    return _slice_assign(t, x, entries, value)


def _mask_assign(t: Any, x: Any, mask: Any, axis: int, value: Any) -> Any:
    """A number to all elements whose axes from ``axis`` on the mask selects."""
    need_mask(t, x, mask, axis)
    if t.is_tensor(value) and t.type_of(value).rank:
        _by_mask(t)
    if isinstance(value, float) and not t.dtype_of(x).is_float:
        t.fail("TSR0301", f"assignment of {value} to a `{t.dtype_of(x)}` tensor", Blame(0, None, f"is {t.dtype_of(x)}"))
    for _ in range(rank_of(t, x) - axis - rank_of(t, mask)):
        mask = t.unsqueeze(mask, -1)
    return t.masked_fill(x, t.cast(mask, bool_), value)


def _slice_assign(t: Any, x: Any, entries: Sequence[Any], value: Any) -> Any:
    """Nested slices: the innermost is replaced, then each one around it."""
    plan, shape = [], []
    axis = 0
    for e in entries:
        if e is None:
            shape.append(ONE)
            continue
        if isinstance(e, slice):
            bounds = slice_bounds(t, x, axis, e)
            shape.append(slice_size(*bounds))
        else:
            place = t.size(e)
            place = t.dims(x)[axis] + place if place.is_const and place.value < 0 else place
            bounds = (place, place + 1, ONE)
        plan.append((axis, bounds, isinstance(e, slice)))
        axis += 1
    value = t.full((), value, dtype=t.dtype_of(x)) if not t.is_tensor(value) else t.cast(value, t.dtype_of(x))
    value = t.reshape(t.expand(_drop_ones(t, value, len(shape)), *shape), *_kept_shape(t, x, plan))
    full = [p for p in plan if p[1] != (Dim.const(0), t.dims(x)[p[0]], ONE)]
    if not full:
        return value
    levels = [x]
    for at, (start, stop, step), _ in full[:-1]:
        levels.append(t.slice(levels[-1], at, start, stop, step))
    for level, (at, (start, stop, step), _) in zip(reversed(levels), reversed(full), strict=True):
        value = t.slice_update(level, value, at, start, stop, step)
    return value


def _drop_ones(t: Any, value: Any, rank: int) -> Any:
    """torch lets a value have more leading axes of size 1 than the part it goes to."""
    extra = rank_of(t, value) - rank
    return t.squeeze(value, tuple(range(extra))) if extra > 0 else value


def _kept_shape(t: Any, x: Any, plan: Sequence[Any]) -> list[Dim]:
    return [slice_size(*bounds) if is_slice else ONE for _, bounds, is_slice in plan]


def _scatter_assign(t: Any, x: Any, entries: Sequence[Any], value: Any) -> Any:
    """An update at integer tensors: every axis gets its positions, and the elements are put one by one."""
    if any(e is None for e in entries):
        t.fail("TSR0212", "None in an assignment by index tensors", Blame(1), helps=["unsqueeze the value instead"])
    dims = t.dims(x)
    positions = t.reshape(t.arange(t.type_of(x).numel), *dims)
    picked = _getitem(t, positions, tuple(entries))
    value = t.full((), value, dtype=t.dtype_of(x)) if not t.is_tensor(value) else t.cast(value, t.dtype_of(x))
    value = t.reshape(t.expand(value, *t.dims(picked)), -1)
    flat_x = t.reshape(x, -1)
    return t.reshape(t.scatter(flat_x, 0, t.reshape(picked, -1), value), *dims)


def _masked_fill(t: Any, x: Any, mask: Any, value: Any) -> Any:
    if not t.dtype_of(mask).is_bool:
        t.fail("TSR0303", f"mask of dtype `{t.dtype_of(mask)}`", Blame(1, None, f"is {t.dtype_of(mask)}, not bool"),
               helps=["compare it first, for example `mask != 0`"])  # fmt: skip
    if t.is_tensor(value):
        need_rank(t, value, 0, "masked_fill by a tensor", 2)
        value = t.cast(value, t.dtype_of(x))
    elif t.dtype_of(x).is_bool:
        value = bool(value)
    elif isinstance(value, int | float) and t.dtype_of(x).is_int:
        if not t.dtype_of(x).min <= value <= t.dtype_of(x).max:
            t.fail("TSR0301", f"fill of a `{t.dtype_of(x)}` tensor with {value}", Blame(0, None, f"is {t.dtype_of(x)}"))
        value = int(value)
    return t.where(mask, value, x)


def _where_method(t: Any, x: Any, condition: Any, other: Any) -> Any:
    return t.where(condition, x, other)


def _embedding(
    t: Any,
    x: Any,
    weight: Any,
    padding_idx: Any = None,
    max_norm: Any = None,
    norm_type: Any = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Any:
    if max_norm is not None:
        t.not_covered("embedding that renormalises its table")
    if scale_grad_by_freq:
        t.not_covered("embedding whose gradient counts how often a row is read")
    need_rank(t, weight, 2, "embedding from a table", 1)
    need_index(t, x, 0, "embedding")
    found = t.emit("index_select", (weight, x), dim=0)
    if padding_idx is None:
        return found
    padding = padding_idx if padding_idx >= 0 else t.dims(weight)[0] + padding_idx
    return t.where(t.unsqueeze(t.eq(x, padding), -1), t.detach(found), found)


def _take_along_dim(t: Any, x: Any, indices: Any, dim: int | None = None) -> Any:
    """Along an axis torch counts positions modulo its size; in the flattened tensor they must lie inside."""
    if dim is None:
        return t.gather(t.reshape(x, -1), 0, t.reshape(indices, -1))
    need_index(t, indices, 1, "take_along_dim", LONG)
    axis = axis_of(t, x, dim)
    a, b = list(t.dims(x)), list(t.dims(indices))
    if len(a) != len(b):
        t.fail(
            "TSR0215",
            f"take_along_dim from rank {len(a)} with an index of rank {len(b)}",
            Blame(1, None, f"has rank {len(b)}"),
        )
    for n in range(len(a)):
        if n != axis:
            a[n] = b[n] = b[n] if a[n] is ONE else a[n]
    indices = t.remainder(indices, t.dims(x)[axis])
    return t.gather(t.expand(x, *a), axis, t.expand(indices, *b))


def _index_fill(t: Any, x: Any, dim: int, index: Any, value: Any) -> Any:
    """The chosen positions of an axis filled: a position is filled when any index names it."""
    axis, rank = axis_of(t, x, dim), rank_of(t, x)
    if rank == 0:
        return t.reshape(_index_fill(t, t.reshape(x, 1), dim, index, value))
    size = t.dims(x)[axis]
    need_index(t, index, 2, "index_fill", LONG)
    need_one_rank(t, index, (0, 1), "index_fill at an index")
    index = positions(t, t.reshape(index, -1), size, wraps=True)
    hit = t.any(t.eq(t.unsqueeze(t.arange(size), 1), t.unsqueeze(index, 0)), 1)
    return _masked_fill(t, x, t.reshape(hit, *(size if n == axis else 1 for n in range(rank))), value)


def _select_scatter(t: Any, x: Any, src: Any, dim: int, index: Any) -> Any:
    axis = axis_of(t, x, dim)
    place = t.size(index)
    place = t.dims(x)[axis] + place if place.is_const and place.value < 0 else place
    need_shape(t, src, [d for n, d in enumerate(t.dims(x)) if n != axis], "select_scatter of values")
    return t.slice_update(x, t.unsqueeze(src, axis), axis, place, place + 1)


def _slice_scatter(t: Any, x: Any, src: Any, dim: int = 0, start: Any = None, end: Any = None, step: Any = 1) -> Any:
    need_shape(t, src, t.dims(t.slice(x, dim, start, end, step)), "slice_scatter of values")
    return t.slice_update(x, src, dim, start, end, step)


_X, _M = T(("B", "S", "D")), T(("S", "D"))
_MASK = T(("S", "D"), "bool", "bool")
_IDS = T((2, 3), "int64", 4)
_KEYS = (0, -1, slice(1, None), (slice(None), 2), (Ellipsis, 0), (None, slice(None, -1)),
         (slice(None), slice(None, None, 2)),
         (slice(None), None, 1, slice(0, 2)), Ellipsis)  # fmt: skip

OPS: tuple[OpRecord, ...] = (
    composite("getitem", "x: tensor, key: any", "Indexing as Python writes it: `x[key]`.", _getitem,
       ("torch.Tensor.__getitem__",),
       samples(*(call(_X, key) for key in _KEYS), call(_X, (slice(None), _IDS)),
               call(_X, (T((3,), "int64", 2), slice(None), T((3,), "int64", 4))),
               call(_X, (0, slice(None), T((3,), "int64", 4))), call(_M, [0, 2])), ("__getitem__",)),
    composite("setitem", "x: tensor, key: any, value: tensor", "A new tensor with the indexed part replaced.", _setitem,
              (),
       samples(call(_X, (slice(None), 1), 0.5), call(_X, (Ellipsis, slice(0, None, 2)), T(("B", "S", 2))),
               call(_M, _MASK, 0.0),
               call(_X, (slice(None), slice(1, 3), 0), T((2,))), call(_M, T((2,), "int64", "perm"), T((2, "D")))), ()),
    composite("masked_fill", "x: tensor, mask: tensor, value: tensor", "A tensor with `value` where the mask holds.",
              _masked_fill,
       function_and_method("masked_fill"), samples(call(_X, _MASK, -1.0),
                                                     call(T(("S", "D"), "bf16"), _MASK, float("-inf")))),
    composite("where_method", "x: tensor, condition: tensor, other: tensor",
       "The method form of `where`: `x` where the condition holds.",
       _where_method, ("torch.Tensor.where",), samples(call(_M, _MASK, 0.0)), ("where",)),
    composite("embedding",
              "x: tensor, weight: tensor, padding_idx: any = None, max_norm: any = None, norm_type: any = 2.0, "
       "scale_grad_by_freq: bool = False, sparse: bool = False", "Rows of a table by number.", _embedding,
       ("torch.nn.functional.embedding",), samples(call(_IDS, T((4, "D"))),
                                                   call(T(("B",), "int32", 4), T((4, "D"), "bf16"), 1)), ()),
    composite("take_along_dim", "x: tensor, indices: tensor index, dim: dim = None", "Gather with broadcasting.",
              _take_along_dim,
       function_and_method("take_along_dim"), samples(call(_X, T((1, 3, "D"), "int64", 5), 1),
                                                        call(_M, T((3,), "int64", 9)))),
    composite("index_fill", "x: tensor, dim: dim, index: tensor, value: tensor", "Positions of one axis filled.",
              _index_fill,
       function_and_method("index_fill"), samples(call(_X, 1, T((2,), "int64", 5), 2.0))),
    composite("select_scatter", "x: tensor, src: tensor, dim: dim, index: size", "One position of an axis replaced.",
       _select_scatter,
       function_and_method("select_scatter"), samples(call(_X, T(("B", "D")), 1, 2))),
    composite("slice_scatter",
              "x: tensor, src: tensor, dim: dim = 0, start: size = None, end: size = None, step: size = 1",
       "A slice of an axis replaced.", _slice_scatter, function_and_method("slice_scatter"),
       samples(call(_X, T(("B", 2, "D")), 1, 1, 3))),
)  # fmt: skip
