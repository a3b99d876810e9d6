"""Views of parts: slice, update of a slice, padding, diagonals, windows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.ir.dialects import adjoints
from tessera.ir.dialects.fits import need_one_rank
from tessera.ir.dialects.rules import torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.shape import ZERO, Attrs, Index, Types, as_dim, dims_of, in_front
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min
from tessera.ir.dtype import DType
from tessera.ir.infer import ONE, Blame, InferContext
from tessera.ir.record import Kind, OpRecord, Piece
from tessera.ir.solver import Verdict, judge_ge
from tessera.ir.types import TensorType, Type


def _int(attrs: Attrs, name: str) -> int:
    value = attrs[name]
    assert isinstance(value, int)
    return value


def slice_size(start: Dim, stop: Dim, step: Dim) -> Dim:
    """Positions from start to stop (which is not before it), every step-th."""
    return stop - start if step is ONE else ceildiv(stop - start, step)


def _bounds(ctx: InferContext, attrs: Attrs, x: Type) -> tuple[int, Dim, Dim, Dim]:
    """Axis, start, stop and step of a slice, checked: 0 <= start <= stop <= size."""
    axis = ctx.axis(_int(attrs, "dim"), x.rank)
    start, stop, step = (as_dim(attrs[n]) for n in ("start", "stop", "step"))
    limit = x.dims[axis]
    where = Blame(0, axis, f"`{limit}`")
    for low, high in ((ZERO, start), (start, stop), (stop, limit)):
        if high is low or judge_ge(high, low, ctx.facts) is Verdict.PROVED:
            continue
        ctx.at_least(high, low, "TSR0212", f"slice [{start}:{stop}] of dimension `{limit}`", where)
    return axis, start, stop, step


def _slice_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = types[0]
    axis, start, stop, step = _bounds(ctx, attrs, x)
    dims = list(x.dims)
    dims[axis] = slice_size(start, stop, step)
    return (TensorType(x.dtype, tuple(dims)),)


def _slice_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axis, start, step = _int(attrs, "dim"), as_dim(attrs["start"]), as_dim(attrs["step"])
    return (Piece(0, tuple(start + i * step if n == axis else i for n, i in enumerate(index))),)


def proved_ge(t: Any, a: Dim, b: Dim) -> bool:
    """Is a >= b for all sizes?"""
    return judge_ge(a, b, t.context.facts) is Verdict.PROVED


def clamp_bound(t: Any, bound: Any, limit: Dim, default: Dim) -> Dim:
    """A slice end as Python means it: None is the default, negative counts from the end, beyond the end is the end.

    -1, 0 and 1 are taken to lie inside a symbolic size,
    so that ``x[1:]`` has size S - 1; the slice then asks for S >= 1.
    """
    if bound is None:
        return default
    at: Dim = t.size(bound)
    if at.is_const:
        if limit.is_const:
            value = at.value + limit.value if at.value < 0 else at.value
            return Dim.const(min(max(value, 0), limit.value))
        if at.value < 0:
            return limit + at.value if at.value == -1 else limit - dim_min(Dim.const(-at.value), limit)
        return at if at.value <= 1 else dim_min(at, limit)
    if proved_ge(t, ZERO, at + 1):
        return limit + at if proved_ge(t, limit + at, ZERO) else limit - dim_min(ZERO - at, limit)
    return at if proved_ge(t, limit, at) else dim_min(at, limit)


def slice_bounds(t: Any, x: Any, axis: int, key: slice) -> tuple[Dim, Dim, Dim]:
    """Start, stop and step of a Python slice of one axis; refuses steps that are not positive (TSR0212)."""
    limit = t.dims(x)[axis]
    step = ONE if key.step is None else t.size(key.step)
    if step.is_const and step.value < 1:
        t.fail("TSR0212", f"slice with step {step}", Blame(0, axis), helps=["use `flip` for the reversed order"])
    start = clamp_bound(t, key.start, limit, ZERO)
    stop = clamp_bound(t, key.stop, limit, limit)
    if start.is_const and stop.is_const and stop.value < start.value:
        stop = start
    return start, stop, step


def _slice(t: Any, x: Any, dim: int = 0, start: Any = None, stop: Any = None, step: Any = None) -> Any:
    axis = t.context.axis(int(dim), t.type_of(x).rank)
    bounds = slice_bounds(t, x, axis, slice(start, stop, step))
    if bounds == (ZERO, t.dims(x)[axis], ONE):
        return x
    return t.emit("slice", (x,), **dict(zip(("dim", "start", "stop", "step"), (axis, *bounds), strict=True)))


def _slice_eager(torch: Any, x: Any, *, dim: int, start: int, stop: int, step: int) -> Any:
    return x[(slice(None),) * dim + (slice(start, stop, step),)]


SLICE = OpRecord(
    "slice", Kind.VIEW, "x: tensor, dim: dim, start: size, stop: size, step: size",
    "Positions start to stop of one axis, every step-th; ends beyond the axis are clamped.",
    _slice_infer, pieces=_slice_pieces, call=_slice, eager=_slice_eager,
    samples=samples(call(T(("B", "S")), 1, 0, 3), call(T(("B", "S")), -1, 1, None, 2),
                    call(T((6, "D"), "bf16"), 0, -3, 99)),
    derivative=adjoints.part,
)  # fmt: skip


# --- slice_update -----------------------------------------------------------------------------------------------------


def _update_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, v = types
    axis, start, stop, step = _bounds(ctx, attrs, x)
    want = list(x.dims)
    want[axis] = slice_size(start, stop, step)
    if v.rank != x.rank:
        ctx.fail(
            "TSR0202",
            f"update of a rank-{x.rank} tensor with a rank-{v.rank} one",
            Blame(1, None, f"has rank {v.rank}"),
        )
    for n, (a, b) in enumerate(zip(want, v.dims, strict=True)):
        ctx.equal(a, b, "TSR0202", f"slice of size `{a}` updated with `{b}`", Blame(1, n, f"`{b}`"))
    return (TensorType(x.dtype, x.dims),)


def _update_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axis = _int(attrs, "dim")
    start, stop, step = (as_dim(attrs[n]) for n in ("start", "stop", "step"))
    inside = tuple((i - start) // step if n == axis else i for n, i in enumerate(index))
    if start is ZERO and stop is result.dims[axis]:
        return (Piece(1, inside),)
    return (Piece(1, inside, ((axis, start, stop),)), Piece(0, tuple(index)))


def _update_eager(torch: Any, x: Any, v: Any, *, dim: int, start: int, stop: int, step: int) -> Any:
    out = x.clone()
    filled = v.repeat_interleave(step, dim).narrow(dim, 0, stop - start) if step > 1 else v
    out[(slice(None),) * dim + (slice(start, stop),)] = filled
    return out


def _first_dtype(types: Sequence[Type]) -> tuple[DType | None, ...]:
    return (None, *(types[0].dtype for _ in types[1:]))


def _slice_update(
    t: Any, x: Any, value: Any, dim: int = 0, start: Any = None, stop: Any = None, step: Any = None
) -> Any:
    """x with a slice replaced by ``value``, which broadcasts; the result keeps the dtype of x."""
    axis = t.context.axis(int(dim), t.type_of(x).rank)
    start, stop, step = slice_bounds(t, x, axis, slice(start, stop, step))
    part = list(t.dims(x))
    part[axis] = slice_size(start, stop, step)
    if not t.is_tensor(value):
        value = t.full((), value, dtype=t.dtype_of(x))
    value = t.expand(t.cast(value, t.dtype_of(x)), *part)
    new = t.emit("slice_update", (x, value), dim=axis, start=start, stop=stop, step=step)
    if step is ONE:
        return new
    along = [1] * len(part)
    along[axis] = t.dims(x)[axis]
    at = t.reshape(t.arange(t.dims(x)[axis]), *along)
    return t.where(t.eq(t.remainder(t.sub(at, start), step), 0), new, x)


SLICE_UPDATE = OpRecord(
    "slice_update", Kind.VIEW, "x: tensor, value: tensor, dim: dim, start: size, stop: size, step: size",
    "The tensor with positions start to stop of one axis taken from another, each element of which covers step "
    "positions.",
    _update_infer, _first_dtype, pieces=_update_pieces, call=_slice_update, eager=_update_eager,
    samples=samples(call(T(("B", "S")), T(("B", 2)), 1, 1, 3), call(T((8, "D")), T((4, "D")), 0, 0, None, 2),
                    call(T(("B", 7), "bf16"), 0.5, 1, 1, 6, 3)),
    derivative=adjoints.update,
)  # fmt: skip


# --- pad --------------------------------------------------------------------------------------------------------------


def _pad_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    low, high, x = dims_of(attrs["low"]), dims_of(attrs["high"]), types[0]
    for n, d in enumerate(x.dims):
        for part in (low[n], high[n]):
            ctx.at_least(part, ZERO, "TSR0212", f"padding of `{part}`", Blame(0, n, f"`{d}`"))
    return (TensorType(x.dtype, tuple(a + d + b for a, d, b in zip(low, x.dims, high, strict=True))),)


def _pad_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    low, high = dims_of(attrs["low"]), dims_of(attrs["high"])
    box = tuple((n, a, a + d) for n, (a, d, b) in enumerate(zip(low, types[0].dims, high, strict=True))
                if not (a is ZERO and b is ZERO))  # fmt: skip
    inside = tuple(i - a for i, a in zip(index, low, strict=True))
    return (Piece(0, inside, box), Piece(1)) if box else (Piece(0, inside),)


def _pad_eager(torch: Any, x: Any, value: Any, *, low: tuple[int, ...], high: tuple[int, ...]) -> Any:
    out = torch.full([a + s + b for a, s, b in zip(low, x.shape, high, strict=True)], 0, dtype=x.dtype, device=x.device)
    out[...] = value
    out[tuple(slice(a, a + s) for a, s in zip(low, x.shape, strict=True))] = x
    return out


PAD_CONSTANT = OpRecord(
    "pad_constant", Kind.VIEW, "x: tensor, value: tensor, low: sizes, high: sizes",
    "The tensor with `low` and `high` elements of one value added at the ends of each axis.",
    _pad_infer, pieces=_pad_pieces, eager=_pad_eager,
    operands_as=lambda types: (None, types[0].dtype),
    lead=in_front("low", "high"), derivative=adjoints.pad,
)  # fmt: skip


def _edge_at(mode: str, i: Dim, n: Dim) -> Dim:
    """The position in an axis of size n that stands at position i, which may lie before or behind it."""
    if mode == "circular":
        return i % n
    if mode == "replicate":
        return dim_min(dim_max(i, ZERO), n - 1)
    last = n - 1
    mirrored = dim_max(i, ZERO - i)
    over = mirrored - last
    return last - dim_max(over, ZERO - over)


def _edge_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    low, high, mode = dims_of(attrs["low"]), dims_of(attrs["high"]), str(attrs["mode"])
    at = tuple(i if a is ZERO and b is ZERO else _edge_at(mode, i - a, d)
               for i, a, b, d in zip(index, low, high, types[0].dims, strict=True))  # fmt: skip
    return (Piece(0, at),)


def _edge_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    limit = {"circular": 0, "reflect": 1, "replicate": None}[str(attrs["mode"])]
    for n, d in enumerate(types[0].dims):
        for part in (dims_of(attrs["low"])[n], dims_of(attrs["high"])[n]):
            if part is not ZERO:
                least = ONE if limit is None else part + limit
                ctx.at_least(
                    d, least, "TSR0212", f"{attrs['mode']} padding of `{part}` on `{d}`", Blame(0, n, f"`{d}`")
                )
    return _pad_infer(ctx, types, attrs)


def _edge_eager(torch: Any, x: Any, *, low: tuple[int, ...], high: tuple[int, ...], mode: str) -> Any:
    for axis, (a, b) in enumerate(zip(low, high, strict=True)):
        if a or b:
            n = x.shape[axis]
            i = torch.arange(-a, n + b, device=x.device)
            at = {"circular": i % n, "replicate": i.clamp(0, n - 1), "reflect": (n - 1) - ((n - 1) - i.abs()).abs()}[
                mode
            ]
            x = x.index_select(axis, at)
    return x


PAD_EDGE = OpRecord(
    "pad_edge", Kind.VIEW, "x: tensor, low: sizes, high: sizes, mode: str",
    'The tensor continued at the ends of each axis: "reflect", "replicate" or "circular".',
    _edge_infer, pieces=_edge_pieces, eager=_edge_eager,
    lead=in_front("low", "high"), derivative=adjoints.pad_edge,
)  # fmt: skip


def _pad(t: Any, x: Any, pad: Sequence[Any], mode: str = "constant", value: Any = None) -> Any:
    """torch's order: pairs from the last axis backwards; a negative number crops."""
    dims = t.dims(x)
    if len(pad) % 2 or len(pad) > 2 * len(dims):
        t.fail("TSR0212", f"{len(pad)} pad sizes for a rank-{len(dims)} tensor",
               Blame(0, None, f"has rank {len(dims)}"),
               helps=["give a pair (before, behind) per axis, from the last axis backwards"])  # fmt: skip
    low, high = [ZERO] * len(dims), [ZERO] * len(dims)
    for k in range(len(pad) // 2):
        axis = len(dims) - 1 - k
        before, behind = t.size(pad[2 * k]), t.size(pad[2 * k + 1])
        crop = [d if d.is_const and d.value < 0 else ZERO for d in (before, behind)]
        if crop != [ZERO, ZERO]:
            t.context.at_least(dims[axis], ZERO - crop[0] - crop[1], "TSR0212",
                               f"`{dims[axis]}` cropped away", Blame(0, axis))  # fmt: skip
            x = t.slice(x, axis, ZERO - crop[0], t.dims(x)[axis] + crop[1])
        low[axis], high[axis] = before - crop[0], behind - crop[1]
    if all(d is ZERO for d in (*low, *high)):
        return x
    if mode == "constant":
        return t.emit("pad_constant", (x, 0 if value is None else value), low=tuple(low), high=tuple(high))
    if mode != "circular" and t.dtype_of(x).is_bool:
        t.fail("TSR0301", f"{mode} padding of `bool`", Blame(0, None, "is bool"), helps=["cast it with `.to(uint8)`"])
    need_one_rank(t, x, (len(pad) // 2 + 1, len(pad) // 2 + 2), f"{mode} padding of {len(pad) // 2} axes")
    return t.emit("pad_edge", (x,), low=tuple(low), high=tuple(high), mode=mode)


PAD = OpRecord(
    "pad", Kind.COMPOSITE, "x: tensor, pad: sizes, mode: str = 'constant', value: tensor? = None",
    "Elements added at the ends of the last axes: a constant, or the tensor reflected, replicated or repeated.",
    define=_pad, torch=("torch.nn.functional.pad",),
    samples=samples(call(T(("B", "S")), (1, 2)), call(T(("B", "S", "D")), (0, 1, 2, 0), "constant", 2.5),
                    call(T(("B", 3, "S")), (2, 1), "reflect"), call(T(("B", 3, "S")), (2, 3), "replicate"),
                    call(T(("B", 3, "S")), (2, 1), "circular"), call(T(("B", 6), "bf16"), (-2, 1))),
)  # fmt: skip


# --- diagonal, windows ------------------------------------------------------------------------------------------------


def _diagonal_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x = types[0]
    if x.rank < 2:
        ctx.fail("TSR0204", f"diagonal of a rank-{x.rank} tensor", Blame(0, None, f"has rank {x.rank}"))
    one, two = ctx.axis(_int(attrs, "dim1"), x.rank), ctx.axis(_int(attrs, "dim2"), x.rank)
    offset = _int(attrs, "offset")
    if one == two:
        ctx.fail("TSR0203", f"diagonal of dim {one} with itself", Blame(0, one))
    rows, columns = x.dims[one], x.dims[two]
    if offset >= 0:
        columns = dim_max(columns - offset, ZERO) if offset else columns
    else:
        rows = dim_max(rows + offset, ZERO)
    length = rows if rows is columns else dim_min(rows, columns)
    return (TensorType(x.dtype, (*(d for n, d in enumerate(x.dims) if n not in (one, two)), length)),)


def _diagonal_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    one, two, offset = (_int(attrs, n) for n in ("dim1", "dim2", "offset"))
    rest, along = iter(index[:-1]), index[-1]
    special = {one: along + max(-offset, 0), two: along + max(offset, 0)}
    return (Piece(0, tuple(special[n] if n in special else next(rest) for n in range(types[0].rank))),)


def _diagonal(t: Any, x: Any, offset: int = 0, dim1: int = 0, dim2: int = 1) -> Any:
    rank = t.type_of(x).rank
    one, two = t.context.axis(int(dim1), rank), t.context.axis(int(dim2), rank)
    return t.emit("diagonal", (x,), offset=int(offset), dim1=one, dim2=two)


DIAGONAL = OpRecord(
    "diagonal", Kind.VIEW, "x: tensor, offset: int = 0, dim1: dim = 0, dim2: dim = 1",
    "The diagonal of two axes, as a new last axis.", _diagonal_infer, pieces=_diagonal_pieces, call=_diagonal,
    torch=torch_names("diagonal", "t", "m"), methods=("diagonal",),
    samples=samples(call(T(("S", "D"))), call(T(("B", "S", "S")), 1, -2, -1), call(T((4, 6, 3)), -1, 0, 2)),
    derivative=adjoints.diagonal,
)  # fmt: skip


def _unfold_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, width, step = types[0], as_dim(attrs["size"]), as_dim(attrs["step"])
    axis = ctx.axis(_int(attrs, "dimension"), x.rank)
    ctx.at_least(x.dims[axis], width, "TSR0212", f"window of `{width}` in dimension `{x.dims[axis]}`", Blame(0, axis))
    dims = list(x.dims)
    dims[axis] = (dims[axis] - width) // step + 1
    return (TensorType(x.dtype, (*dims, width)),)


def _unfold_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axis, step = _int(attrs, "dimension"), as_dim(attrs["step"])
    return (Piece(0, tuple(i * step + index[-1] if n == axis else i for n, i in enumerate(index[:-1]))),)


def _unfold(t: Any, x: Any, dimension: int, size: Any, step: Any) -> Any:
    axis = t.context.axis(int(dimension), t.type_of(x).rank)
    if not t.dims(x):
        return t.reshape(x, t.size(size))
    return t.emit("unfold", (x,), dimension=axis, size=t.size(size), step=t.size(step))


UNFOLD = OpRecord(
    "unfold", Kind.VIEW, "x: tensor, dimension: dim, size: size, step: size",
    "Sliding windows of one axis, as a new last axis.",
    _unfold_infer, pieces=_unfold_pieces, call=_unfold,
    eager=lambda torch, x, *, dimension, size, step: x.unfold(dimension, size, step), torch=("torch.Tensor.unfold",),
    methods=("unfold",), samples=samples(call(T(("B", 9)), 1, 3, 2), call(T((7, "D")), 0, 2, 1)),
    derivative=adjoints.unfold,
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (SLICE, SLICE_UPDATE, PAD_CONSTANT, PAD_EDGE, PAD, DIAGONAL, UNFOLD)
