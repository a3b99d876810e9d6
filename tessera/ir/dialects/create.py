"""Tensors made from the position alone: a constant, a progression, and what is written with them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from tessera.ir.dialects.calls import flat
from tessera.ir.dialects.index import LONG, need_index, positions
from tessera.ir.dialects.samples import T, call, samples, size
from tessera.ir.dialects.shape import Attrs, Types, as_dim, dims_of
from tessera.ir.dim import Dim, ceildiv
from tessera.ir.dtype import DType, bool_, dtype, f32, f64, int64
from tessera.ir.infer import Blame, InferContext
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType

ZERO = Dim.const(0)
#: Arguments of torch's factories that say where a tensor lives, not what it is.
Placement = Any


def attr_dtype(attrs: Attrs) -> DType:
    """The attribute ``dtype``."""
    found = attrs["dtype"]
    assert isinstance(found, DType)
    return found


def checked_sizes(ctx: InferContext, shape: Sequence[Dim]) -> tuple[Dim, ...]:
    """Sizes that are not negative (TSR0106)."""
    for d in shape:
        if d.is_const and d.value < 0:
            ctx.fail("TSR0106", f"size {d} of a new tensor", Blame(None))
    return tuple(shape)


def _full_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    if types[0].rank:
        ctx.fail("TSR0204", f"fill value of rank {types[0].rank}", Blame(0, None, f"has rank {types[0].rank}"))
    return (TensorType(attr_dtype(attrs), checked_sizes(ctx, dims_of(attrs["shape"]))),)


def _full(t: Any, size: Any, fill_value: Any, *, dtype: Any = None, **_: Placement) -> Any:
    return t.emit("full", (fill_value,), shape=t.sizes((size,)), dtype=_dtype(dtype, t.dtype_of(fill_value)))


def _dtype(given: Any, default: DType) -> DType:
    return default if given is None else dtype(given)


def _full_eager(torch: Any, value: Any, *, shape: tuple[int, ...], dtype: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype).expand(shape).clone()
    return torch.full(shape, value, dtype=dtype)


FULL = OpRecord(
    "full", Kind.CREATE, "value: tensor, shape: sizes, dtype: dtype", "A tensor of one value.", _full_infer,
    define=lambda t, index, result, value, *, shape, dtype: t.cast(value, dtype), call=_full, eager=_full_eager,
    torch=("torch.full",),
    samples=samples(call((size("B"), 3), 1.5), call((size("B"),), 2, dtype="bf16"), call((), True), call((2, 3), 7)),
)  # fmt: skip


def _iota_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    return (TensorType(attr_dtype(attrs), checked_sizes(ctx, (as_dim(attrs["size"]),))),)


def _iota_define(
    t: Any, index: Sequence[Any], result: TensorType, start: Any, step: Any, *, size: Any, dtype: Any
) -> Any:
    """start + i * step, for floats in f64 and rounded once."""
    i = t.cast(index[0], f64) if result.dtype.is_float else index[0]
    return t.cast(i * step + start, dtype)


def _iota_eager(torch: Any, start: Any, step: Any, *, size: int, dtype: Any) -> Any:
    i = torch.arange(size, dtype=torch.float64 if dtype.is_floating_point else torch.int64)
    return (i * step + start).to(dtype)


IOTA = OpRecord(
    "iota", Kind.CREATE, "start: tensor, step: tensor, size: size, dtype: dtype",
    "The progression start, start + step, start + 2 step, ….",
    _iota_infer, define=_iota_define, eager=_iota_eager,
    samples=samples(call(0, 1, size("S"), dtype("int64")), call(0.5, 0.25, size("S"), dtype("f32"))),
)  # fmt: skip


# --- composites -------------------------------------------------------------------------------------------------------


def _filled(value: int | float) -> Any:
    def define(t: Any, *size: Any, dtype: Any = None, **_: Placement) -> Any:
        return t.emit("full", (value,), shape=t.sizes(size), dtype=_dtype(dtype, f32))

    return define


def _filled_like(value: int | float) -> Any:
    def define(t: Any, x: Any, *, dtype: Any = None, **_: Placement) -> Any:
        return t.emit("full", (value,), shape=t.dims(x), dtype=_dtype(dtype, t.dtype_of(x)))

    return define


def _new_filled(value: int | float) -> Any:
    def define(t: Any, x: Any, *size: Any, dtype: Any = None, **_: Placement) -> Any:
        return t.emit("full", (value,), shape=t.sizes(size), dtype=_dtype(dtype, t.dtype_of(x)))

    return define


def _full_like(t: Any, x: Any, fill_value: Any, *, dtype: Any = None, **_: Placement) -> Any:
    return t.emit("full", (fill_value,), shape=t.dims(x), dtype=_dtype(dtype, t.dtype_of(x)))


def _new_full(t: Any, x: Any, size: Any, fill_value: Any, *, dtype: Any = None, **_: Placement) -> Any:
    return t.emit("full", (fill_value,), shape=t.sizes((size,)), dtype=_dtype(dtype, t.dtype_of(x)))


def _arange(
    t: Any, *bounds: Any, start: Any = None, end: Any = None, step: Any = 1, dtype: Any = None, **_: Placement
) -> Any:
    """``arange(end)``, ``arange(start, end)``, ``arange(start, end, step)``; numbers or sizes."""
    given = list(bounds)
    if len(given) == 1 and end is None and start is None:
        start, end = 0, given[0]
    else:
        order = [start, end, step]
        for n, value in enumerate(given):
            order[n] = value
        start, end, step = order
    start, end, step = (int(v) if isinstance(v, bool) else v for v in (0 if start is None else start, end, step))
    kind = _dtype(dtype, f32 if any(isinstance(v, float) for v in (start, end, step)) else int64)
    if kind is int64:
        start, end, step = (int(v) if isinstance(v, float) else v for v in (start, end, step))
    return t.emit("iota", (start, step), size=_count(t, start, end, step), dtype=kind)


def _count(t: Any, start: Any, end: Any, step: Any) -> Dim:
    if any(isinstance(v, float) for v in (start, end, step)):
        lo, hi, by = (float(t.static(v)) if not isinstance(v, float) else v for v in (start, end, step))
        if not math.isfinite(hi - lo) or by == 0 or by != by:
            t.fail("TSR0106", f"arange from {lo} to {hi} by {by}", Blame(None))
        count = math.ceil((hi - lo) / by)
        if count < 0:
            t.fail("TSR0106", f"arange from {lo} to {hi} by {by}", Blame(None))
        return Dim.const(count)
    lo, hi, by = t.size(start), t.size(end), t.size(step)
    if not by.is_const or by.value == 0:
        t.fail("TSR0106", f"arange with step `{by}`", Blame(None), helps=["give a step that is a number other than 0"])
    span = hi - lo if by.value > 0 else lo - hi
    if span.is_const and span.value < 0:
        t.fail("TSR0106", f"arange from {lo} to {hi} by {by}", Blame(None))
    return span if abs(by.value) == 1 else ceildiv(span, Dim.const(abs(by.value)))


def _linspace(t: Any, start: Any, end: Any, steps: Any, *, dtype: Any = None, **_: Placement) -> Any:
    """Both halves are counted from their own end, so that start and end are exact."""
    count, kind = t.size(steps), _dtype(dtype, f32)
    if kind.is_int:
        start, end = (int(v) if isinstance(v, float) else v for v in (start, end))
    if count.is_const and count.value <= 1:
        return t.emit("full", (start,), shape=(count,), dtype=kind)
    i = t.emit("iota", (0, 1), size=count, dtype=f64)
    step = t.div(t.sub(t.cast(_scalar(t, end), f64), t.cast(_scalar(t, start), f64)), count - 1)
    up, down = t.add(t.mul(i, step), start), t.sub(end, t.mul(t.sub(count - 1, i), step))
    return t.cast(t.where(t.lt(i, count // 2), up, down), kind)


def _scalar(t: Any, value: Any) -> Any:
    return value if t.is_tensor(value) else t.emit("full", (value,), shape=(), dtype=f64)


def _logspace(t: Any, start: Any, end: Any, steps: Any, base: Any = 10.0, *, dtype: Any = None, **_: Placement) -> Any:
    kind = _dtype(dtype, f32)
    if kind.is_int:
        start, end = (int(v) if isinstance(v, float) else v for v in (start, end))
    return t.cast(t.pow(base, _linspace(t, start, end, steps, dtype=f64)), kind)


def _eye(t: Any, n: Any, m: Any = None, *, dtype: Any = None, **_: Placement) -> Any:
    rows, columns = t.size(n), t.size(n if m is None else m)
    i = t.unsqueeze(t.arange(rows), 1)
    return t.cast(t.eq(i, t.arange(columns)), _dtype(dtype, f32))


def triangle(t: Any, rows: Dim, columns: Dim, diagonal: int | Dim, upper: bool) -> Any:
    """The mask of a triangle: column - row >= diagonal (upper), or <= diagonal."""
    i, j = t.unsqueeze(t.arange(rows), 1), t.arange(columns)
    edge = t.add(i, diagonal) if isinstance(diagonal, Dim) or diagonal else i
    return t.ge(j, edge) if upper else t.le(j, edge)


def _triangle(upper: bool) -> Any:
    def define(t: Any, x: Any, diagonal: int | Dim = 0) -> Any:
        dims = t.dims(x)
        if len(dims) < 2:
            t.fail("TSR0204", f"triangle of a rank-{len(dims)} tensor", Blame(0, None, f"has rank {len(dims)}"))
        zero = False if t.dtype_of(x).is_bool else 0
        step = diagonal if isinstance(diagonal, Dim) else int(diagonal)
        return t.where(triangle(t, dims[-2], dims[-1], step, upper), x, zero)

    return define


def _one_hot(t: Any, x: Any, num_classes: Any = -1) -> Any:
    if not isinstance(num_classes, Dim) and num_classes == -1:
        t.fail("TSR0402", "the number of classes of one_hot depends on the data", Blame(0),
               helps=["give `num_classes`"])  # fmt: skip
    if not t.dtype_of(x).is_int:
        t.fail("TSR0304", f"one_hot of `{t.dtype_of(x)}`", Blame(0, None, f"is {t.dtype_of(x)}, not an integer"))
    need_index(t, x, 0, "one_hot", LONG)
    return t.cast(t.eq(t.unsqueeze(positions(t, x, num_classes), -1), t.arange(num_classes)), int64)


def _tensor(t: Any, data: Any, *, dtype: Any = None, **_: Placement) -> Any:
    """A constant from a number or nested sequences of numbers; f32, int64 or bool by its content."""
    if t.is_tensor(data):
        return data if dtype is None else t.cast(data, dtype)
    shape: list[int] = []
    probe = data
    while isinstance(probe, tuple | list):
        shape.append(len(probe))
        probe = probe[0] if probe else 0.0
    values = [data]
    for _level in shape:
        values = [v for row in values for v in row]
    kind = _dtype(dtype, _widest(t, values))
    parts = [t.emit("full", (v,), shape=(Dim.const(1),) if shape else (), dtype=kind) for v in values]
    if not shape:
        return parts[0]
    flat_ = t.cat(parts) if parts else t.emit("full", (0,), shape=(ZERO,), dtype=kind)
    return flat_ if len(shape) == 1 else t.reshape(flat_, *shape)


def _widest(t: Any, values: Sequence[Any]) -> DType:
    kinds = [t.dtype_of(v) for v in values] or [f32]
    return f32 if any(k.is_float for k in kinds) else bool_ if all(k.is_bool for k in kinds) else int64


def _meshgrid(t: Any, *tensors: Any, indexing: str = "ij") -> Any:
    given = [x if t.dims(x) else t.reshape(x, 1) for x in flat(tensors)]
    dims = [t.dims(x)[0] for x in given]
    order = list(range(len(given)))
    if indexing == "xy" and len(given) > 1:
        order[0], order[1] = 1, 0
    shape = [dims[n] for n in order]
    out = []
    for n, x in enumerate(given):
        along: list[Any] = [1] * len(given)
        along[order.index(n)] = dims[n]
        out.append(t.expand(t.reshape(x, *along), *shape))
    return tuple(out)


_DTYPE = "dtype: dtype = None"


def _composite(
    name: str,
    signature: str,
    doc: str,
    define: Any,
    names: str = "torch.{}",
    methods: tuple[str, ...] = (),
    samples_: Any = None,
) -> OpRecord:
    """A factory: ``names`` are dotted torch names with the record's name put in."""
    torch = tuple(n.format(name) for n in names.split())
    return OpRecord(name, Kind.COMPOSITE, signature, doc, define=define, torch=torch, methods=methods, samples=samples_)


_X = T(("B", 3), "bf16")
_SQUARE = (call(T(("S", "D"))), call(T(("B", 4, 4), "int32", 9), 1), call(T(("S", "D")), -1))

OPS: tuple[OpRecord, ...] = (
    FULL,
    IOTA,
    _composite("zeros", f"*size: size, {_DTYPE}", "A tensor of zeros.", _filled(0), "torch.zeros torch.empty",
               samples_=samples(call(size("B"), 3), call((size("B"), 2), dtype="int32"))),
    _composite("ones", f"*size: size, {_DTYPE}", "A tensor of ones.", _filled(1),
               samples_=samples(call(2, size("B")), call((3,), dtype="bool"))),
    _composite("zeros_like", f"x: tensor, *, {_DTYPE}", "Zeros of the same shape and dtype.", _filled_like(0),
               "torch.zeros_like torch.empty_like", samples_=samples(call(_X), call(_X, dtype="f32"))),
    _composite("ones_like", f"x: tensor, *, {_DTYPE}", "Ones of the same shape and dtype.", _filled_like(1),
               samples_=samples(call(_X))),
    _composite("full_like", f"x: tensor, fill_value: tensor, *, {_DTYPE}", "One value in the same shape and dtype.",
               _full_like,
               samples_=samples(call(_X, 2.5))),
    _composite("new_zeros", f"x: tensor, *size: size, {_DTYPE}", "Zeros of the same dtype.", _new_filled(0),
               "torch.Tensor.{} torch.Tensor.new_empty", ("new_zeros", "new_empty"), samples(call(_X, size("B"), 2))),
    _composite("new_ones", f"x: tensor, *size: size, {_DTYPE}", "Ones of the same dtype.", _new_filled(1),
               "torch.Tensor.{}",
               ("new_ones",), samples(call(_X, (size("B"), 2)))),
    _composite("new_full", f"x: tensor, size: sizes, fill_value: tensor, *, {_DTYPE}", "One value in the same dtype.",
               _new_full,
               "torch.Tensor.{}", ("new_full",), samples(call(_X, (size("B"), 2), 3.0))),
    _composite("arange", "*bounds: size, start: any = None, end: any = None, step: any = 1, dtype: dtype = None",
               "A progression from start (0) up to end, without it.", _arange,
               samples_=samples(call(size("S")), call(1, size("S")), call(0, 10, 3), call(5, 1, -2),
                                call(0.0, 1.0, 0.3),
                                call(4, dtype="f32"))),
    _composite("linspace", f"start: tensor, end: tensor, steps: size, *, {_DTYPE}",
               "Equal steps from start to end, both included.",
               _linspace, samples_=samples(call(-1.0, 2.0, 7), call(0, 1, size("S")), call(3.0, 4.0, 1))),
    _composite("logspace", f"start: tensor, end: tensor, steps: size, base: tensor = 10.0, *, {_DTYPE}",
               "Powers of a base to the numbers of a linspace.", _logspace, samples_=samples(call(-1.0, 2.0, 5))),
    _composite("eye", f"n: size, m: size = None, *, {_DTYPE}", "Ones on the diagonal.", _eye,
               samples_=samples(call(size("S")), call(3, 4, dtype="bool"))),
    _composite("tril", "x: tensor, diagonal: int = 0", "The lower triangle; zeros above.", _triangle(False),
               "torch.{0} torch.Tensor.{0}", ("tril",), samples(*_SQUARE)),
    _composite("triu", "x: tensor, diagonal: int = 0", "The upper triangle; zeros below.", _triangle(True),
               "torch.{0} torch.Tensor.{0}", ("triu",), samples(*_SQUARE)),
    _composite("one_hot", "x: tensor, num_classes: size = -1",
               "Zeros with a 1 at the class number, along a new last axis.", _one_hot,
               "torch.nn.functional.one_hot", samples_=samples(call(T(("B", "S"), "int64", 4), 4))),
    _composite("tensor", f"data: any, *, {_DTYPE}", "A constant from numbers.", _tensor,
               samples_=samples(call(2.5), call([1, 2, 3]), call([[True, False]]), call([[1.0], [2.0]], dtype="bf16"))),
    _composite("meshgrid", "*tensors: tensors alike, indexing: str = 'ij'",
           "Coordinates of a grid, one tensor an axis.",
               _meshgrid,
               samples_=samples(call(T(("S",)), T(("D",)), indexing="ij"),
                                call((T(("S",)), T(("D",))), indexing="xy"))),
)  # fmt: skip
