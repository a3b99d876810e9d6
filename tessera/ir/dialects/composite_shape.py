"""Shape operations written with the primitive views: transposes, joins, splits, repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.ir.dialects.calls import flat
from tessera.ir.dialects.rules import composite, function_and_method, torch_names
from tessera.ir.dialects.samples import T, call, samples, size
from tessera.ir.dialects.shape import ZERO
from tessera.ir.dialects.slicing import proved_ge
from tessera.ir.dim import Dim, dim_max, product
from tessera.ir.infer import ONE, Blame
from tessera.ir.record import OpRecord


def rank_of(t: Any, x: Any) -> int:
    """The rank of an argument."""
    return int(t.type_of(x).rank)


def axis_of(t: Any, x: Any, dim: Any, extra: int = 0) -> int:
    """A non-negative axis of x, or of x with ``extra`` more axes."""
    return int(t.context.axis(int(dim), rank_of(t, x) + extra))


def real_axis(t: Any, x: Any, dim: Any) -> int:
    """An axis that has a size: a tensor of rank 0 has none (TSR0203)."""
    if rank_of(t, x) == 0:
        t.fail("TSR0203", f"dim {dim} of a rank-0 tensor", Blame(0, None, "has rank 0"))
    return axis_of(t, x, dim)


def need_rank(t: Any, x: Any, rank: int, what: str, number: int = 0) -> None:
    """Refuse other ranks than one (TSR0204)."""
    if rank_of(t, x) != rank:
        t.fail("TSR0204", f"{what} of a rank-{rank_of(t, x)} tensor",
               Blame(number, None, f"has rank {rank_of(t, x)}, not {rank}"))  # fmt: skip


def _transpose(t: Any, x: Any, dim0: int, dim1: int) -> Any:
    a, b = axis_of(t, x, dim0), axis_of(t, x, dim1)
    order = list(range(rank_of(t, x)))
    if a == b:
        return x
    order[a], order[b] = order[b], order[a]
    return t.emit("permute", (x,), dims=tuple(order))


def _t(t: Any, x: Any) -> Any:
    """The transpose of a matrix; vectors and scalars are left alone, higher ranks refused."""
    return x if rank_of(t, x) < 2 else _T(t, x)


def _T(t: Any, x: Any) -> Any:
    """The transpose of a matrix; other ranks are refused, unlike in torch, which reverses or ignores them."""
    rank = rank_of(t, x)
    if rank != 2:
        t.fail("TSR0204", f"`.T` of a rank-{rank} tensor", Blame(0, None, f"has rank {rank}"),
               helps=["use `.mT` for the last two axes, or `permute`"])  # fmt: skip
    return _transpose(t, x, 0, 1)


def _mT(t: Any, x: Any) -> Any:
    if rank_of(t, x) < 2:
        t.fail("TSR0204", f"`.mT` of a rank-{rank_of(t, x)} tensor", Blame(0, None, f"has rank {rank_of(t, x)}"))
    return _transpose(t, x, -2, -1)


def _movedim(t: Any, x: Any, source: Any, destination: Any) -> Any:
    rank = rank_of(t, x)
    sources = [axis_of(t, x, d) for d in flat((source,))]
    targets = [axis_of(t, x, d) for d in flat((destination,))]
    if len(sources) != len(targets) or len(set(sources)) < len(sources) or len(set(targets)) < len(targets):
        t.fail(
            "TSR0214",
            f"movedim from {tuple(sources)} to {tuple(targets)}",
            Blame(0),
            helps=["name each axis once on both sides"],
        )
    rest = iter(n for n in range(rank) if n not in sources)
    order = tuple(sources[targets.index(n)] if n in targets else next(rest) for n in range(rank))
    return x if order == tuple(range(rank)) else t.emit("permute", (x,), dims=order)


def _view(t: Any, x: Any, *shape: Any) -> Any:
    """reshape, or with a dtype of the same width nothing else than torch's bit cast, which is refused."""
    if len(shape) == 1 and not isinstance(shape[0], int | Dim | tuple | list):
        t.fail(
            "TSR0301",
            "a view of the same bits as another dtype",
            Blame(0),
            helps=["to convert values use `.to(dtype)`"],
        )
    return t.reshape(x, *shape)


def _reshape_as(t: Any, x: Any, other: Any) -> Any:
    return t.reshape(x, *t.dims(other))


def _expand_as(t: Any, x: Any, other: Any) -> Any:
    return t.expand(x, *t.dims(other))


def _flatten(t: Any, x: Any, start_dim: int = 0, end_dim: int = -1) -> Any:
    dims = t.dims(x)
    if not dims:
        return t.reshape(x, 1)
    a, b = axis_of(t, x, start_dim), axis_of(t, x, end_dim)
    if a > b:
        t.fail("TSR0203", f"flatten from dim {a} to dim {b}", Blame(0))
    return x if a == b else t.reshape(x, *dims[:a], product(dims[a : b + 1]), *dims[b + 1 :])


def _unflatten(t: Any, x: Any, dim: int, sizes: Sequence[Any]) -> Any:
    dims, at = t.dims(x), axis_of(t, x, dim)
    given = [s if isinstance(s, int) and s == -1 else t.size(s) for s in flat((sizes,))]
    known = product(tuple(s for s in given if isinstance(s, Dim)))
    if any(isinstance(s, int) for s in given):
        rest = t.context.divides(
            known, dims[at], "TSR0208", f"unflatten of `{dims[at]}` by `{known}`", Blame(0, at, f"`{dims[at]}`")
        )
        given = [rest if isinstance(s, int) else s for s in given]
    else:
        t.context.equal(
            dims[at], known, "TSR0208", f"unflatten of `{dims[at]}` to `{known}`", Blame(0, at, f"`{dims[at]}`")
        )
    return t.emit("reshape", (x,), shape=(*dims[:at], *given, *dims[at + 1 :]))


def _ravel(t: Any, x: Any) -> Any:
    return t.reshape(x, -1)


def _flipped(axis: int) -> Any:
    def define(t: Any, x: Any) -> Any:
        if rank_of(t, x) <= axis:
            t.fail("TSR0204", f"flip of axis {axis} of a rank-{rank_of(t, x)} tensor",
                   Blame(0, None, f"has rank {rank_of(t, x)}"))  # fmt: skip
        return t.flip(x, axis)

    return define


def _narrow(t: Any, x: Any, dim: int, start: Any, length: Any) -> Any:
    at = real_axis(t, x, dim)
    if t.is_tensor(start):
        need_rank(t, start, 0, "narrow from a start", 2)
        if not t.dtype_of(start).is_int:
            t.fail("TSR0301", f"narrow from a `{t.dtype_of(start)}`", Blame(2, None, f"is {t.dtype_of(start)}"))
        first = t.reshape(start)
        first = t.where(t.lt(first, 0), t.add(first, t.dims(x)[at]), first)
        return t.emit("index_select", (x, t.add(first, t.arange(length))), dim=at)
    first, total = t.size(start), t.dims(x)[at]
    first = total + first if first.is_const and first.value < 0 else first
    return t.emit("slice", (x,), dim=at, start=first, stop=first + t.size(length), step=ONE)


def _select(t: Any, x: Any, dim: int, index: Any) -> Any:
    """One position of an axis, which goes away."""
    at = real_axis(t, x, dim)
    total = t.dims(x)[at]
    first = t.size(index)
    place = total + first if first.is_const and first.value < 0 else first
    outside = place.is_const and (place.value < 0 or (total.is_const and place.value >= total.value))
    if outside or not t.context.holds("ge", total, place + 1, f"index {index} of `{total}`"):
        t.fail("TSR0212", f"index {index} of dimension `{total}`", Blame(0, at, f"`{total}`"))
    part = t.emit("slice", (x,), dim=at, start=place, stop=place + 1, step=ONE)
    return t.emit("squeeze", (part,), dim=(at,))


def _broadcast_tensors(t: Any, *tensors: Any) -> Any:
    given = flat(tensors)
    shape = t.context.broadcast([t.type_of(x) for x in given])
    return tuple(t.expand(x, *shape) for x in given)


def _repeat(t: Any, x: Any, *repeats: Any) -> Any:
    """Copies side by side along each axis: an axis of repeats before each, expanded and merged."""
    times, dims = t.sizes(repeats), list(t.dims(x))
    if len(times) < len(dims):
        t.fail("TSR0213", f"repeat of a rank-{len(dims)} tensor by {len(times)} numbers",
               Blame(0, None, f"has rank {len(dims)}"),
               helps=["give a number for every axis, or use `tile`"])  # fmt: skip
    dims = [ONE] * (len(times) - len(dims)) + dims
    moving = [n for n, k in enumerate(times) if k is not ONE]
    if not moving:
        return t.reshape(x, *dims)
    split = [d for n, dim in enumerate(dims) for d in ((ONE, dim) if n in moving else (dim,))]
    wide = [d for n, dim in enumerate(dims) for d in ((times[n], dim) if n in moving else (dim,))]
    merged = [times[n] * dim for n, dim in enumerate(dims)]
    return t.reshape(t.expand(t.reshape(x, *split), *wide), *merged)


def _tile(t: Any, x: Any, *dims: Any) -> Any:
    times = t.sizes(dims)
    return _repeat(t, x, *([ONE] * (rank_of(t, x) - len(times))), *times)


def _repeat_interleave(t: Any, x: Any, repeats: Any, dim: int | None = None, *, output_size: Any = None) -> Any:
    if t.is_tensor(repeats):
        t.fail("TSR0402", "the size of repeat_interleave by a tensor of counts depends on the data", Blame(1))
    if dim is None:
        x, dim = t.reshape(x, -1), 0
    at, k = real_axis(t, x, dim), t.size(repeats)
    dims = t.dims(x)
    wide = t.expand(t.unsqueeze(x, at + 1), *dims[: at + 1], k, *dims[at + 1 :])
    return t.reshape(wide, *dims[:at], dims[at] * k, *dims[at + 1 :])


def _roll(t: Any, x: Any, shifts: Any, dims: Any = None) -> Any:
    """The last ``shift`` positions come first."""
    if dims is None:
        return t.reshape(_roll(t, t.reshape(x, -1), shifts, 0), *t.dims(x))
    pairs = flat((shifts,)), flat((dims,))
    if len(pairs[0]) != len(pairs[1]) or not pairs[0]:
        t.fail("TSR0203", f"{len(pairs[0])} shifts along {len(pairs[1])} dims", Blame(None))
    for shift, dim in zip(*pairs, strict=True):
        at = real_axis(t, x, dim)
        total, k = t.dims(x)[at], t.size(shift)
        if k is ZERO or total is ZERO:
            continue
        if not (proved_ge(t, k, ZERO) and proved_ge(t, total, k)):
            k = k % dim_max(total, ONE)  # an empty axis has nothing to move
        cut = total - k
        x = t.cat([t.emit("slice", (x,), dim=at, start=cut, stop=total, step=ONE),
                   t.emit("slice", (x,), dim=at, start=ZERO, stop=cut, step=ONE)], at)  # fmt: skip
    return x


def _rot90(t: Any, x: Any, k: int = 1, dims: Sequence[int] = (0, 1)) -> Any:
    if len(dims) != 2 or axis_of(t, x, dims[0]) == axis_of(t, x, dims[1]):
        t.fail("TSR0203", f"rot90 in dims {tuple(dims)}", Blame(0), helps=["name two different dims"])
    a, b = dims
    turn = k % 4
    if turn == 0:
        return x
    if turn == 2:
        return t.flip(x, a, b)
    return t.flip(_transpose(t, x, a, b), a if turn == 1 else b)


def _diag(t: Any, x: Any, diagonal: int = 0) -> Any:
    if rank_of(t, x) != 1:
        need_rank(t, x, 2, "diag")
    return t.diagonal(x, diagonal) if rank_of(t, x) == 2 else _diag_embed(t, x, diagonal)


def _diag_embed(t: Any, x: Any, offset: int = 0, dim1: int = -2, dim2: int = -1) -> Any:
    """The last axis laid on the diagonal of two new ones."""
    rank = rank_of(t, x) + 1
    a, b = t.context.axis(int(dim1), rank), t.context.axis(int(dim2), rank)
    n = t.dims(x)[-1] + abs(offset)
    padded = t.pad(x, (abs(offset), 0)) if offset else x
    i, j = t.unsqueeze(t.arange(n), 1), t.arange(n)
    on = t.eq(t.add(i, offset) if offset else i, j)
    zero = False if t.dtype_of(x).is_bool else 0
    made = t.where(on, t.unsqueeze(padded, -2 if offset >= 0 else -1), zero)
    return _movedim(t, made, (-2, -1), (a, b))


def _clone(t: Any, x: Any, **_: Any) -> Any:
    return x


def _contiguous(t: Any, x: Any, memory_format: Any = None) -> Any:
    return x


def _pixel_shuffle(t: Any, x: Any, upscale_factor: int) -> Any:
    *lead, c, h, w = t.dims(x)
    r = int(upscale_factor)
    out = t.context.divides(
        Dim.const(r * r), c, "TSR0208", f"pixel_shuffle of `{c}` channels by {r}", Blame(0, -3, f"`{c}`")
    )
    k = len(lead)
    y = t.permute(t.reshape(x, *lead, out, r, r, h, w), *range(k), k, k + 3, k + 1, k + 4, k + 2)
    return t.reshape(y, *lead, out, h * r, w * r)


def _pixel_unshuffle(t: Any, x: Any, downscale_factor: int) -> Any:
    *lead, c, h, w = t.dims(x)
    r = int(downscale_factor)
    low, wide = (t.context.divides(Dim.const(r), d, "TSR0208", f"pixel_unshuffle of `{d}` by {r}",
                                   Blame(0, n, f"`{d}`"))
                 for n, d in ((-2, h), (-1, w)))  # fmt: skip
    k = len(lead)
    y = t.permute(t.reshape(x, *lead, c, low, r, wide, r), *range(k), k, k + 2, k + 4, k + 1, k + 3)
    return t.reshape(y, *lead, c * r * r, low, wide)


def _channel_shuffle(t: Any, x: Any, groups: int) -> Any:
    n, c, *rest = t.dims(x)
    each = t.context.divides(
        t.size(groups), c, "TSR0208", f"channel_shuffle of `{c}` by {groups}", Blame(0, 1, f"`{c}`")
    )
    return t.reshape(_transpose(t, t.reshape(x, n, t.size(groups), each, *rest), 1, 2), n, c, *rest)


_M, _X, _H = T(("S", "D")), T(("B", "S", "D")), T(("B", "S", 6), "bf16")
_LIST = ((T(("S", "D")), T(("S", "D"))),)

OPS: tuple[OpRecord, ...] = (
    composite("transpose", "x: tensor, dim0: dim, dim1: dim", "Two axes swapped.", _transpose,
       function_and_method("transpose", "swapaxes", "swapdims"),
       samples(call(_X, 0, -1), call(_H, -2, -1)), ("transpose", "swapaxes", "swapdims")),
    composite("t", "x: tensor", "The transpose of a matrix.", _t, function_and_method("t"),
              samples(call(_M), call(T(("S",))))),
    composite("T", "x: tensor", "The transpose of a matrix, and of nothing else.", _T,
       ("torch.Tensor.T.__get__", "torch.Tensor.H.__get__"),
       samples(call(_M)), ("T", "H")),
    composite("mT", "x: tensor", "The last two axes swapped.", _mT,
       ("torch.Tensor.mT.__get__", "torch.adjoint", "torch.Tensor.adjoint",
       "torch.Tensor.mH.__get__"), samples(call(_X)), ("mT", "mH", "adjoint")),
    composite("movedim", "x: tensor, source: dims, destination: dims", "Axes moved to other places.", _movedim,
       function_and_method("movedim", "moveaxis"),
       samples(call(_X, 0, -1), call(_X, (0, 1), (2, 0))), ("movedim", "moveaxis")),
    composite("view", "x: tensor, *shape: size", "Another name of reshape.", _view, ("torch.Tensor.view",),
              samples(call(_X, size("B"), -1))),
    composite("view_as", "x: tensor, other: tensor", "Reshaped to the shape of another tensor.", _reshape_as,
       ("torch.Tensor.view_as", "torch.Tensor.reshape_as"), samples(call(T(("B", 6)), T(("B", 2, 3)))),
       ("view_as", "reshape_as")),
    composite("expand_as", "x: tensor, other: tensor", "Expanded to the shape of another tensor.", _expand_as,
       ("torch.Tensor.expand_as",),
       samples(call(T(("D",)), _X))),
    composite("broadcast_to", "x: tensor, *shape: size", "Another name of expand.", lambda t, x,
              *shape: t.expand(x, *shape),
       function_and_method("broadcast_to"),
       samples(call(T(("D",)), (3, size("D"))))),
    composite("flatten", "x: tensor, start_dim: dim = 0, end_dim: dim = -1", "Adjacent axes merged.", _flatten,
              function_and_method("flatten"),
       samples(call(_X), call(_X, 1), call(T(())))),
    composite("unflatten", "x: tensor, dim: dim, sizes: sizes", "One axis split into several.", _unflatten,
              function_and_method("unflatten"),
       samples(call(_H, -1, (2, 3)), call(_H, 2, (-1, 2)))),
    composite("ravel", "x: tensor", "All axes merged.", _ravel, function_and_method("ravel"), samples(call(_X))),
    composite("narrow", "x: tensor, dim: dim, start: size, length: size", "A run of positions of one axis.", _narrow,
       function_and_method("narrow"),
       samples(call(_H, -1, 2, 3), call(_H, 2, -4, 2))),
    composite("select", "x: tensor, dim: dim, index: size", "One position of an axis, which goes away.", _select,
       function_and_method("select"),
       samples(call(_H, -1, 2), call(_X, 1, -1))),
    composite("broadcast_tensors", "*tensors: tensors", "Tensors expanded to their common shape.", _broadcast_tensors,
       ("torch.broadcast_tensors",), samples(call(T(("S", 1)), T(("D",)))), ()),
    composite("repeat", "x: tensor, *repeats: size", "Copies side by side along each axis.", _repeat,
              ("torch.Tensor.repeat",),
       samples(call(_M, 2, 3), call(_M, (2, 1, size("B"))))),
    composite("tile", "x: tensor, *dims: size", "Copies side by side along the last axes.", _tile,
              function_and_method("tile"),
       samples(call(_M, (2,)), call(T(("S",)), (2, 2)))),
    composite("repeat_interleave", "x: tensor, repeats: size, dim: dim = None, *, output_size: any = None",
       "Every element several times.",
       _repeat_interleave, function_and_method("repeat_interleave"), samples(call(_M, 2, 0), call(_M, 3))),
    composite("roll", "x: tensor, shifts: sizes, dims: dims = None", "Positions moved around along axes.", _roll,
              function_and_method("roll"),
       samples(call(_X, 1, 0), call(_X, (2, -1), (1, 2)), call(_M, 3))),
    composite("rot90", "x: tensor, k: int = 1, dims: any = None",
       "A quarter turn of two axes, k times.", lambda t, x, k=1, dims=None: _rot90(t, x, k, dims or (0, 1)),
       function_and_method("rot90"),
       samples(call(_M), call(_X, 3, (1, 2)), call(_M, 2))),
    composite("fliplr", "x: tensor", "Axis 1 reversed.", _flipped(1), function_and_method("fliplr"),
              samples(call(_M))),
    composite("flipud", "x: tensor", "Axis 0 reversed.", _flipped(0), function_and_method("flipud"),
              samples(call(_M))),
    composite("diag", "x: tensor, diagonal: int = 0", "The diagonal of a matrix, or the matrix of a diagonal.", _diag,
       function_and_method("diag"),
       samples(call(_M), call(T(("S",)), 1), call(T(("S",)), -2))),
    composite("diag_embed", "x: tensor, offset: int = 0, dim1: dim = -2, dim2: dim = -1",
              "The last axis laid on a diagonal.",
       _diag_embed,
       function_and_method("diag_embed"), samples(call(_M), call(_M, 1, 0, 2))),
    composite("clone", "x: tensor", "A copy; values are never shared here.", _clone,
              function_and_method("clone"),
       samples(call(_X))),
    composite("contiguous", "x: tensor, memory_format: any = None",
              "The same tensor; layouts are the compiler's business.",
       _contiguous,
       ("torch.Tensor.contiguous",), samples(call(_X))),
    composite("pixel_shuffle", "x: tensor, upscale_factor: int", "Channels moved into a finer grid.", _pixel_shuffle,
       torch_names("pixel_shuffle", "f", "t"), samples(call(T(("B", 8, 3, 2)), 2)), ()),
    composite("pixel_unshuffle", "x: tensor, downscale_factor: int", "A grid moved into channels.", _pixel_unshuffle,
       torch_names("pixel_unshuffle", "f", "t"), samples(call(T(("B", 2, 4, 6)), 2)), ()),
    composite("channel_shuffle", "x: tensor, groups: int", "Channels of the groups interleaved.", _channel_shuffle,
       ("torch.nn.functional.channel_shuffle", "torch.channel_shuffle"), samples(call(T(("B", 6, 3, 2)), 2)), ()),
)  # fmt: skip
