"""Reads whose position depends on integer data."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tessera.ir.dialects import adjoints
from tessera.ir.dialects.rules import torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.shape import ZERO, Attrs, Index, Types, axis_attr, ints
from tessera.ir.dtype import DType, int32, int64
from tessera.ir.infer import ONE, Blame, InferContext
from tessera.ir.record import Kind, Lookup, OpRecord, Piece
from tessera.ir.types import TensorType, Type

#: What torch takes for positions: everywhere, and where it insists on its default integer.
INDEX_DTYPES: tuple[DType, ...] = (int32, int64)
LONG: tuple[DType, ...] = (int64,)


def need_index(t: Any, index: Any, number: int, what: str, allowed: Sequence[DType] = INDEX_DTYPES) -> None:
    """Refuse an index argument, number ``number`` of the call, of a dtype that torch does not take (TSR0304)."""
    if t.is_tensor(index) and t.dtype_of(index) not in allowed:
        t.fail("TSR0304", f"{what} with an index of dtype `{t.dtype_of(index)}`",
               Blame(number, None, f"is {t.dtype_of(index)}, not {' or '.join(map(str, allowed))}"),
               helps=["cast it with `.long()`"])  # fmt: skip


def positions(t: Any, index: Any, size: Any, wraps: bool = False) -> Any:
    """The index itself, checked while running to lie in an axis of ``size``; negative ones that count from the end
    are replaced where it ``wraps``.
    """
    return t.emit("take" if wraps else "index_select", (t.arange(size), index), dim=0)


def need_integers(ctx: InferContext, types: Sequence[Type], first: int) -> None:
    """Refuse index operands, from number ``first`` on, that are not integers (TSR0304)."""
    for number, t in enumerate(types[first:], first):
        if not t.dtype.is_int:
            helps = ["select with `where`, or reduce with the mask"] if t.dtype.is_bool else ["cast it with `.long()`"]
            ctx.fail(
                "TSR0304",
                f"index of dtype `{t.dtype}`",
                Blame(number, None, f"is {t.dtype}, not an integer"),
                helps=helps,
            )


# --- gather -----------------------------------------------------------------------------------------------------------


def _gather_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, index = types
    need_integers(ctx, types, 1)
    if x.rank != index.rank:
        ctx.fail("TSR0215", f"gather from rank {x.rank} with an index of rank {index.rank}",
                 Blame(1, None, f"has rank {index.rank}"), Blame(0, None, f"has rank {x.rank}"),
                 helps=["the index needs as many dims: `unsqueeze` it"])  # fmt: skip
    axis = ctx.axis(axis_attr(attrs), x.rank)
    for n, (d, i) in enumerate(zip(x.dims, index.dims, strict=True)):
        if n != axis and i is not d:
            if not ctx.holds("ge", d, i, f"gather reads `{i}` of `{d}`"):
                ctx.fail(
                    "TSR0215", f"index of size `{i}` on dimension `{d}`", Blame(1, n, f"`{i}`"), Blame(0, n, f"`{d}`")
                )
            elif i is not ONE and not (i.is_const or d.is_const):
                ctx.equal(d, i, "TSR0215", f"index of size `{i}` on dimension `{d}`", Blame(1, n, f"`{i}`"),
                          Blame(0, n, f"`{d}`"))  # fmt: skip
    return (TensorType(x.dtype, index.dims),)


def _gather_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axis = axis_attr(attrs)
    return (Piece(0, tuple(Lookup(1, tuple(index)) if n == axis else i for n, i in enumerate(index))),)


def _index_as(types: Sequence[Type]) -> tuple[DType | None, ...]:
    return (None, *(int64 if t.dtype.is_int and t.dtype.bits < 32 else None for t in types[1:]))


def _gather(t: Any, x: Any, *given: Any, dim: Any = None, index: Any = None) -> Any:
    """torch's ``gather(x, dim, index)``, or ``gather(x, index, dim)``; without ``dim`` a row lookup."""
    for argument in given:
        dim, index = (dim, argument) if t.is_tensor(argument) else (argument, index)
    need_index(t, index, 2, "gather")
    if dim is None:
        return t.emit("index_select", (x, index), dim=0)
    axis = t.context.axis(int(dim), t.type_of(x).rank)
    if 0 in (t.type_of(x).rank, t.type_of(index).rank) and t.type_of(x).rank + t.type_of(index).rank <= 1:
        shape = t.dims(index)
        return t.reshape(t.emit("gather", (t.reshape(x, -1), t.reshape(index, -1)), dim=0), *shape)
    return t.emit("gather", (x, index), dim=axis)


def _wrapped(torch: Any, index: Any, size: int) -> Any:
    """Negative positions count from the end; others out of range stay so and are refused by torch."""
    index = index.to(torch.int64)
    return torch.where(index < 0, index + size, index)


def _gather_eager(torch: Any, x: Any, index: Any, *, dim: int) -> Any:
    return torch.gather(x, dim, index)


GATHER = OpRecord(
    "gather", Kind.INDEX, "x: tensor, index: tensor, dim: dim",
    "Elements of one axis chosen by an index of the result's shape.",
    _gather_infer, _index_as, pieces=_gather_pieces, call=_gather, eager=_gather_eager,
    torch=torch_names("gather", "t", "m"), methods=("gather",),
    samples=samples(call(T(("B", "S")), 1, T(("B", 3), "int64", 5)),
                    call(T(("S", "D"), "bf16"), 0, T((2, "D"), "int64", 5))),
    derivative=adjoints.gather,
)  # fmt: skip


# --- take and index_select --------------------------------------------------------------------------------------------


def _take_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, index = types
    need_integers(ctx, types, 1)
    axis = ctx.axis(axis_attr(attrs), x.rank)
    return (TensorType(x.dtype, (*x.dims[:axis], *index.dims, *x.dims[axis + 1 :])),)


def _rows(wraps: bool) -> Callable[..., tuple[Piece, ...]]:
    """Slices of one axis, by an index of any rank."""

    def pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
        axis, width = axis_attr(attrs), types[1].rank
        at = tuple(index[axis : axis + width])
        return (Piece(0, (*index[:axis], Lookup(1, at, wraps), *index[axis + width :])),)

    return pieces


def _take(t: Any, x: Any, index: Any, dim: int | None = None) -> Any:
    """Rows of a table by number; without ``dim`` torch's meaning, positions in the flattened tensor."""
    if dim is None:
        need_index(t, index, 1, "take", LONG)
        return t.emit("take", (t.reshape(x, -1), index), dim=0)
    return t.emit("take", (x, index), dim=t.context.axis(int(dim), t.type_of(x).rank))


def _take_eager(torch: Any, x: Any, index: Any, *, dim: int) -> Any:
    return _select_eager(torch, x, _wrapped(torch, index, x.shape[dim]), dim=dim)


def _index_select(t: Any, x: Any, dim: int, index: Any) -> Any:
    """torch's ``index_select``: an index of rank 0 keeps the axis, with one position."""
    rank = t.type_of(index).rank
    if rank > 1:
        t.fail("TSR0215", f"index_select with an index of rank {rank}", Blame(2, None, f"has rank {rank}"),
               helps=["use `take`"])  # fmt: skip
    need_index(t, index, 2, "index_select")
    axis = t.context.axis(int(dim), t.type_of(x).rank)
    index = t.unsqueeze(index, 0) if rank == 0 else index
    if t.type_of(x).rank == 0:
        return t.reshape(t.emit("index_select", (t.reshape(x, 1), index), dim=0))
    return t.emit("index_select", (x, index), dim=axis)


def _select_eager(torch: Any, x: Any, index: Any, *, dim: int) -> Any:
    rows = x.index_select(dim, index.reshape(-1))
    return rows.reshape((*x.shape[:dim], *index.shape, *x.shape[dim + 1 :]))


TAKE = OpRecord(
    "take", Kind.INDEX, "x: tensor, index: tensor, dim: dim",
    "Slices of one axis by number: `x[index]` along that axis; negative numbers count from its end.",
    _take_infer, _index_as, pieces=_rows(True), call=_take, eager=_take_eager, torch=torch_names("take", "t", "m"),
    methods=("take",), samples=samples(call(T(("S", "D")), T(("B", 2), "int64", 9)),
                                       call(T(("S", "D"), "bf16"), T((), "int64", 5))),
    derivative=adjoints.rows(wraps=True),
)  # fmt: skip
INDEX_SELECT = OpRecord(
    "index_select", Kind.INDEX, "x: tensor, dim: dim, index: tensor",
    "Slices of one axis by number, counted from its start.",
    _take_infer, _index_as, pieces=_rows(False), call=_index_select, eager=_select_eager,
    torch=torch_names("index_select", "t", "m"), methods=("index_select",),
    samples=samples(call(T(("B", "S", "D")), 1, T((3,), "int64", 5)), call(T(("S", "D")), 0, T((2,), "int32", 5))),
    derivative=adjoints.rows(wraps=False),
)  # fmt: skip


# --- advanced indexing ------------------------------------------------------------------------------------------------


def _index_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    need_integers(ctx, types, 1)
    x, axes = types[0], ints(attrs["dims"])
    for axis in axes:
        ctx.axis(axis, x.rank)
    together = ctx.broadcast(types[1:], first=1)
    at = _place(axes)
    kept = [d for n, d in enumerate(x.dims) if n not in axes]
    return (TensorType(x.dtype, (*kept[:at], *together, *kept[at:])),)


def _place(axes: tuple[int, ...]) -> int:
    """Where the index dims go: in the place of adjacent axes, else in front (NumPy's rule)."""
    return axes[0] if axes == tuple(range(axes[0], axes[0] + len(axes))) else 0


def _index_pieces(index: Index, types: Sequence[Type], result: TensorType, attrs: Attrs) -> tuple[Piece, ...]:
    axes, x = ints(attrs["dims"]), types[0]
    width = result.rank - (x.rank - len(axes))
    at = _place(axes)
    together, rest = index[at : at + width], iter((*index[:at], *index[at + width :]))
    found: list[Any] = []
    for n in range(x.rank):
        if n in axes:
            number = 1 + axes.index(n)
            dims = types[number].dims
            tail = together[width - len(dims) :]
            found.append(Lookup(number, tuple(ZERO if d is ONE else i for i, d in zip(tail, dims, strict=True)), True))
        else:
            found.append(next(rest))
    return (Piece(0, tuple(found)),)


def _index_eager(torch: Any, x: Any, *indices: Any, dims: tuple[int, ...]) -> Any:
    key: list[Any] = [slice(None)] * x.ndim
    for axis, index in zip(dims, indices, strict=True):
        key[axis] = index.to(torch.int64)
    return x[tuple(key)]


INDEX = OpRecord(
    "index", Kind.INDEX, "x: tensor, indices: tensors, dims: dims",
    "Advanced indexing: several integer tensors, broadcast together, one for each of the listed axes.",
    _index_infer, _index_as, pieces=_index_pieces, eager=_index_eager,
    derivative=adjoints.indexed,
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (GATHER, TAKE, INDEX_SELECT, INDEX)
