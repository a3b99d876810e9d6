"""Convolutions and pooling: library calls whose sizes follow from windows, strides and paddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from tessera.ir.derive import Point
from tessera.ir.dialects.calls import flat
from tessera.ir.dialects.composite_reduce import Extreme, need_float
from tessera.ir.dialects.composite_shape import need_rank
from tessera.ir.dialects.fits import need_one_rank, need_shape
from tessera.ir.dialects.library_vjp import differentiable
from tessera.ir.dialects.rules import arithmetic
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.shape import Attrs, Types, dims_of, ints
from tessera.ir.dim import Dim, ceildiv, dim_min, product
from tessera.ir.dtype import DType, int64
from tessera.ir.infer import Blame, InferContext
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType, Type

_FLOATS = arithmetic("float int")


def per_axis(value: Any, axes: int) -> tuple[int, ...]:
    """One number for all spatial axes, or one for each."""
    given = tuple(int(v) for v in value) if isinstance(value, tuple | list) else (int(value),)
    return given * axes if len(given) == 1 else given


def windows(ctx: InferContext, x: Type, kernel: Sequence[Dim], attrs: Attrs) -> tuple[Dim, ...]:
    """Sizes after sliding windows over the last axes: (size + 2 padding - dilation (kernel - 1) - 1) // stride + 1.

    With ``ceil_mode`` a last window may reach over the end, if it starts inside the tensor or the padding before it.
    """
    stride, padding, dilation = (ints(attrs[n]) for n in ("stride", "padding", "dilation"))
    out = []
    first = x.rank - len(kernel)
    for n, k in enumerate(kernel):
        d = x.dims[first + n]
        room = d + 2 * padding[n] - dilation[n] * (k - 1) - 1
        ctx.at_least(
            room, Dim.const(0), "TSR0212", f"window of `{k}` in dimension `{d}`", Blame(0, first + n, f"`{d}`")
        )
        if attrs.get("ceil_mode"):
            out.append(dim_min(ceildiv(room, stride[n]) + 1, ceildiv(d + padding[n], stride[n])))
        else:
            out.append(room // stride[n] + 1)
    return tuple(out)


def _check_channels(ctx: InferContext, x: Type, weight: Type, groups: Dim, axis: int) -> None:
    have, want = x.dims[1], weight.dims[axis] * groups
    ctx.equal(have, want, "TSR0201", f"`{have}` channels convolved with weights for `{want}`", Blame(0, 1, f"`{have}`"),
              Blame(1, axis, f"`{weight.dims[axis]}`"))  # fmt: skip


def _conv_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, weight = types[:2]
    if x.rank != weight.rank or x.rank < 3:
        ctx.fail("TSR0204", f"convolution of rank {x.rank} with weights of rank {weight.rank}",
                 Blame(0, None, f"has rank {x.rank}"),
                 Blame(1, None, f"has rank {weight.rank}"))  # fmt: skip
    _check_channels(ctx, x, weight, Dim.of(attrs["groups"]), 1)  # type: ignore[arg-type]
    groups = Dim.of(attrs["groups"])  # type: ignore[arg-type]
    if not groups.is_const or groups.value != 1:
        ctx.divides(groups, weight.dims[0], "TSR0208", f"`{weight.dims[0]}` channels made in `{groups}` groups",
                    Blame(1, 0, f"`{weight.dims[0]}`"))  # fmt: skip
    if len(types) > 2:
        ctx.equal(types[2].dims[0], weight.dims[0], "TSR0202", "bias of another size than the channels", Blame(2, 0))
    return (
        TensorType(
            _FLOATS.result(ctx, types, attrs), (x.dims[0], weight.dims[0], *windows(ctx, x, weight.dims[2:], attrs))
        ),
    )


def _padded(x: Any, padding: Sequence[int], fill: float = 0.0) -> Any:
    lead = [(0, 0)] * (x.ndim - len(padding))
    return np.pad(x, [*lead, *((p, p) for p in padding)], constant_values=fill)


def _patches(x: Any, kernel: Sequence[int], stride: Sequence[int], dilation: Sequence[int]) -> Any:
    """Every window, the window axes last."""
    reach = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True))
    axes = tuple(range(x.ndim - len(kernel), x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, reach, axes)
    steps = (
        *[slice(None)] * (x.ndim - len(kernel)),
        *(slice(None, None, s) for s in stride),
        *(slice(None, None, d) for d in dilation),
    )
    return view[steps]


def _conv_reference(
    x: Any, weight: Any, bias: Any = None, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    patches = _patches(_padded(x, padding), weight.shape[2:], stride, dilation)
    spatial = len(stride)
    n, c = patches.shape[:2]
    grouped = patches.reshape(n, groups, c // groups, *patches.shape[2:])
    kernel = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    s, k = "uvw"[:spatial], "xyz"[:spatial]
    y = np.einsum(f"ngc{s}{k},goc{k}->ngo{s}", grouped, kernel).reshape(
        n, weight.shape[0], *patches.shape[2 : 2 + spatial]
    )
    return y if bias is None else y + bias.reshape(-1, *[1] * spatial)


def _conv_eager(
    torch: Any, x: Any, weight: Any, bias: Any = None, *, stride: Any, padding: Any, dilation: Any, groups: int
) -> Any:
    function = getattr(torch.nn.functional, f"conv{len(stride)}d")
    return function(x, weight, bias, stride, padding, dilation, groups)


def _batched(t: Any, x: Any, axes: int) -> tuple[Any, bool]:
    """x with a batch axis, and whether that was added."""
    lone = t.type_of(x).rank == axes + 1
    x = t.unsqueeze(x, 0) if lone else x
    need_rank(t, x, axes + 2, f"{axes}-dimensional convolution")
    return x, lone


def _conv(axes: int) -> Any:
    def define(
        t: Any,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: Any = 1,
    ) -> Any:
        need_rank(t, weight, axes + 2, f"{axes}-dimensional convolution", 1)
        x, lone = _batched(t, x, axes)
        steps, spread = per_axis(stride, axes), per_axis(dilation, axes)
        if padding == "same":
            if any(s != 1 for s in steps):
                t.fail("TSR0212", f"padding that keeps the size, with steps of {max(steps)}", Blame(0),
                       helps=["give the padding as numbers"])  # fmt: skip
            x, padding = _same(t, x, weight, spread), 0
        sides = per_axis(0 if padding == "valid" else padding, axes)
        need_shape(t, bias, t.dims(weight)[:1], "a bias")
        operands = (x, weight) if bias is None else (x, weight, bias)
        y = t.emit("conv", operands, stride=steps, padding=sides, dilation=spread, groups=groups)
        return t.squeeze(y, 0) if lone else y

    return define


def _same(t: Any, x: Any, weight: Any, dilation: Sequence[int]) -> Any:
    """x padded so that a convolution keeps its size, the odd element at the end."""
    pad: list[Any] = []
    for k, d in zip(reversed(t.dims(weight)[2:]), reversed(dilation), strict=True):
        total = (k - 1) * d
        pad += [total // 2, total - total // 2]
    return t.pad(x, pad)


def _transposed_infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
    x, weight = types[:2]
    groups = Dim.of(attrs["groups"])  # type: ignore[arg-type]
    have, want = x.dims[1], weight.dims[0]
    ctx.equal(have, want, "TSR0201", f"`{have}` channels convolved with weights for `{want}`", Blame(0, 1), Blame(1, 0))
    stride, padding, extra, dilation = (ints(attrs[n]) for n in ("stride", "padding", "output_padding", "dilation"))
    dims = [
        (d - 1) * stride[n] - 2 * padding[n] + dilation[n] * (k - 1) + extra[n] + 1
        for n, (d, k) in enumerate(zip(x.dims[2:], weight.dims[2:], strict=True))
    ]
    return (TensorType(_FLOATS.result(ctx, types, attrs), (x.dims[0], weight.dims[1] * groups, *dims)),)


def _transposed_reference(
    x: Any, weight: Any, bias: Any = None, *, stride: Any, padding: Any, output_padding: Any, dilation: Any, groups: int
) -> Any:
    """Each input element adds its scaled kernel to the output."""
    spatial, kernel = x.shape[2:], weight.shape[2:]
    full = [
        (s - 1) * st + d * (k - 1) + 1 + e
        for s, st, d, k, e in zip(spatial, stride, dilation, kernel, output_padding, strict=True)
    ]
    out = np.zeros((x.shape[0], weight.shape[1] * groups, *full), np.result_type(x, weight))
    per = x.shape[1] // groups
    for g in range(groups):
        rows = slice(g * weight.shape[1], (g + 1) * weight.shape[1])
        part, w = x[:, g * per : (g + 1) * per], weight[g * per : (g + 1) * per]
        for k in np.ndindex(*kernel):
            where = tuple(
                slice(d * i, d * i + (s - 1) * st + 1, st)
                for i, d, s, st in zip(k, dilation, spatial, stride, strict=True)
            )
            out[(slice(None), rows, *where)] += np.einsum("nc...,co->no...", part, w[(slice(None), slice(None), *k)])
    crop = tuple(slice(p, n - p) for p, n in zip(padding, full, strict=True))
    y = out[(slice(None), slice(None), *crop)]
    return y if bias is None else y + bias.reshape(-1, *[1] * len(spatial))


def _transposed_eager(
    torch: Any,
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: Any,
    padding: Any,
    output_padding: Any,
    dilation: Any,
    groups: int,
) -> Any:
    function = getattr(torch.nn.functional, f"conv_transpose{len(stride)}d")
    return function(x, weight, bias, stride, padding, output_padding, groups, dilation)


def _transposed(axes: int) -> Any:
    def define(
        t: Any,
        x: Any,
        weight: Any,
        bias: Any = None,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: Any = 1,
        dilation: Any = 1,
    ) -> Any:
        need_rank(t, weight, axes + 2, f"{axes}-dimensional convolution", 1)
        x, lone = _batched(t, x, axes)
        names = {"stride": stride, "padding": padding, "output_padding": output_padding, "dilation": dilation}
        attrs = {name: per_axis(value, axes) for name, value in names.items()}
        need_shape(t, bias, (t.dims(weight)[1] * t.size(groups),), "a bias")
        operands = (x, weight) if bias is None else (x, weight, bias)
        y = t.emit("conv_transpose", operands, **attrs, groups=groups)
        return t.squeeze(y, 0) if lone else y

    return define


# --- pooling ----------------------------------------------------------------------------------------------------------


def _pool_infer(*dtypes: DType | None) -> Any:
    def infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        kernel = dims_of(attrs["kernel_size"])
        dims = (*x.dims[: x.rank - len(kernel)], *windows(ctx, x, kernel, attrs))
        return tuple(TensorType(d or x.dtype, dims) for d in dtypes)

    return infer


def _pooled(x: Any, fill: float, kernel: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    """The windows of a pooling, what lies outside filled with one value."""
    ends = []
    for size, k, s, p, d in zip(x.shape[-len(kernel) :], kernel, stride, padding, dilation, strict=True):
        room = size + 2 * p - d * (k - 1) - 1
        count = min(-(-room // s) + 1, -(-(size + p) // s)) if ceil_mode else room // s + 1
        ends.append((p, max((count - 1) * s + d * (k - 1) + 1 - size - p, 0)))
    lead = [(0, 0)] * (x.ndim - len(kernel))
    padded = np.pad(x, [*lead, *ends], constant_values=fill)
    return _patches(padded, kernel, stride, dilation)


def _max_pool_reference(x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool) -> Any:
    axes = len(kernel_size)
    low = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    patches = _pooled(x, low, kernel_size, stride, padding, dilation, ceil_mode)
    rows = patches.reshape(*patches.shape[: x.ndim], -1)
    places = np.arange(int(np.prod(x.shape[-axes:]))).reshape((1,) * (x.ndim - axes) + x.shape[-axes:])
    numbered = np.broadcast_to(_pooled(places, -1, kernel_size, stride, padding, dilation, ceil_mode), patches.shape)
    numbers = numbered.reshape(rows.shape)
    best = np.argmax(np.where(numbers >= 0, rows, low), -1)[..., None]
    return np.take_along_axis(rows, best, -1)[..., 0], np.take_along_axis(numbers, best, -1)[..., 0].astype(np.int64)


def _max_pool_eager(
    torch: Any, x: Any, *, kernel_size: Any, stride: Any, padding: Any, dilation: Any, ceil_mode: bool
) -> Any:
    function = getattr(torch.nn.functional, f"max_pool{len(stride)}d")
    return function(x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode, return_indices=True)


def _max_pool_derivative(p: Point) -> tuple[Any, ...]:
    """Each cotangent goes to the position in the plane that its value came from."""
    t, x, axes = p.t, p.inputs[0], len(p.op.dims("kernel_size"))
    lead = t.dims(x)[: len(t.dims(x)) - axes]
    flat = [t.reshape(v, *lead, product(t.dims(v)[len(lead) :])) for v in (p.zeros(0), p.outputs[1], p.g)]
    return (t.reshape(t.scatter_add(flat[0], len(lead), flat[1], flat[2]), *t.dims(x)),)


def _strides(stride: Any, kernel: tuple[int, ...], axes: int) -> tuple[int, ...]:
    return kernel if stride is None or len(flat((stride,))) == 0 else per_axis(stride, axes)


def _max_pool(axes: int) -> Any:
    def define(
        t: Any,
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        dilation: Any = 1,
        ceil_mode: bool = False,
        return_indices: bool = False,
    ) -> Any:
        kernel = per_axis(kernel_size, axes)
        if t.type_of(x).rank != axes + 1:
            need_rank(t, x, axes + 2, f"{axes}-dimensional pooling")
        if axes == 1 and not return_indices:
            need_float(t, x, "max_pool1d")
        values, places = t.emit("max_pool", (x,), kernel_size=kernel, stride=_strides(stride, kernel, axes),
                                padding=per_axis(padding, axes), dilation=per_axis(dilation, axes),
                                ceil_mode=bool(ceil_mode))  # fmt: skip
        return Extreme(values, places) if return_indices else values

    return define


def _avg_pool_reference(
    x: Any,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> Any:
    """Windows that reach over the padded end count what lies inside it."""
    axes = tuple(range(-len(kernel_size), 0))
    total = _pooled(x, 0.0, kernel_size, stride, padding, dilation, ceil_mode).sum(axis=axes)
    if divisor_override is not None:
        return total / divisor_override
    spatial = np.ones(x.shape[-len(kernel_size) :])
    if count_include_pad:
        spatial = _padded(spatial, padding, 1.0)
        inside = _pooled(spatial, 0.0, kernel_size, stride, [0] * len(padding), dilation, ceil_mode)
        inside = inside[tuple(slice(0, n) for n in total.shape[-len(kernel_size) :])]
    else:
        inside = _pooled(spatial, 0.0, kernel_size, stride, padding, dilation, ceil_mode)
    return total / inside.sum(axis=axes)


def _avg_pool_eager(
    torch: Any,
    x: Any,
    *,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    ceil_mode: bool,
    count_include_pad: bool,
    divisor_override: Any,
) -> Any:
    function = getattr(torch.nn.functional, f"avg_pool{len(stride)}d")
    more = () if len(stride) == 1 else (divisor_override,)
    return function(x, kernel_size, stride, padding, ceil_mode, count_include_pad, *more)


def _avg_pool(axes: int) -> Any:
    """The mean of strided windows. Without padding or overhang it is a sum over window axes, else a library call."""

    def define(
        t: Any,
        x: Any,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: Any = None,
    ) -> Any:
        need_one_rank(t, x, (axes + 1, axes + 2), f"{axes}-dimensional pooling")
        sides, kernel = per_axis(padding, axes), per_axis(kernel_size, axes)
        steps = _strides(stride, kernel, axes)
        if divisor_override == 0:
            t.fail("TSR0212", "means of windows over a divisor of 0", Blame(0))
        if ceil_mode or any(sides):
            return t.emit("avg_pool", (x,), kernel_size=kernel, stride=steps, padding=sides, dilation=(1,) * axes,
                          ceil_mode=bool(ceil_mode),
                          count_include_pad=bool(count_include_pad), divisor_override=divisor_override)  # fmt: skip
        first = t.type_of(x).rank - axes
        for n in range(axes):
            x = t.unfold(x, first + n, kernel[n], steps[n])
        total = t.sum(x, tuple(range(-axes, 0)))
        return t.div(total, float(np.prod(kernel)) if divisor_override is None else divisor_override)

    return define


_WEIGHTED = "weight: tensor like x, bias: tensor? like x = None, stride: any = 1, padding: any = 0"
_CONV = f"x: tensor, {_WEIGHTED}, dilation: any = 1, groups: any = 1"
_TRANSPOSED = f"x: tensor float int64, {_WEIGHTED}, output_padding: any = 0, groups: any = 1, dilation: any = 1"
_WINDOW = "kernel_size: any, stride: any = None, padding: any = 0"
_MAX = f"x: tensor float int, {_WINDOW}, dilation: any = 1, ceil_mode: bool = False, return_indices: bool = False"
_AVG = (
    f"x: tensor float int64, {_WINDOW}, ceil_mode: bool = False, count_include_pad: bool = True, "
    "divisor_override: any = None"
)


def _image(axes: int, channels: int = 4) -> T:
    return T(("B", channels, *((7, 6, 5)[:axes])))


def _family(
    name: str, signature: str, doc: str, make: Any, calls: Any, torch: str = "torch.nn.functional.{} torch.{}"
) -> list[OpRecord]:
    return [
        OpRecord(name.format(n), Kind.COMPOSITE, signature, doc, define=make(n), samples=samples(*calls(n)),
                 torch=tuple(p.format(name.format(n)) for p in torch.split()))
        for n in (1, 2, 3)
    ]  # fmt: skip


def _conv_calls(n: int) -> list[Any]:
    weight = T((6, 4, *([3] * n)))
    return [
        call(_image(n), weight),
        call(_image(n), T((6, 2, *([2] * n))), T((6,)), 2, 1, 1, 2),
        call(_image(n), weight, padding="same"),
    ]


def _transposed_calls(n: int) -> list[Any]:
    return [call(_image(n), T((4, 3, *([2] * n)))), call(_image(n), T((4, 2, *([3] * n))), T((4,)), 2, 1, 1, 2)]


CONV = OpRecord(
    "conv", Kind.EXTERN,
    "x: tensor, weight: tensor, bias: tensor? = None, stride: any, padding: any, dilation: any, groups: any",
    "Convolution over the axes after the first two.", _conv_infer, _FLOATS.operands_as, reference=_conv_reference,
    eager=_conv_eager,
)  # fmt: skip
CONV_TRANSPOSE = OpRecord(
    "conv_transpose", Kind.EXTERN,
    "x: tensor, weight: tensor, bias: tensor? = None, stride: any, padding: any, output_padding: any, "
    "dilation: any, groups: any", "Transposed convolution over the axes after the first two.", _transposed_infer,
    _FLOATS.operands_as,
    reference=_transposed_reference, eager=_transposed_eager,
)  # fmt: skip
MAX_POOL = OpRecord(
    "max_pool", Kind.EXTERN, "x: tensor, kernel_size: any, stride: any, padding: any, dilation: any, ceil_mode: bool",
    "The largest value of each window, and its position in the plane.", _pool_infer(None, int64),
    reference=_max_pool_reference,
    eager=_max_pool_eager,
    derivative=_max_pool_derivative,
)  # fmt: skip

AVG_POOL = OpRecord(
    "avg_pool", Kind.EXTERN, "x: tensor, kernel_size: any, stride: any, padding: any, dilation: any, ceil_mode: bool, "
    "count_include_pad: bool, divisor_override: any", "The mean of each window.", _pool_infer(None),
    reference=_avg_pool_reference,
    eager=_avg_pool_eager,
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (
    *differentiable(AVG_POOL),
    *differentiable(CONV),
    *differentiable(CONV_TRANSPOSE),
    MAX_POOL,
    *_family("conv{}d", _CONV, "Convolution.", _conv, _conv_calls),
    *_family("conv_transpose{}d", _TRANSPOSED, "Transposed convolution.", _transposed, _transposed_calls),
    *_family("max_pool{}d", _MAX, "The largest value of each window.", _max_pool,
             lambda n: [call(_image(n), 2), call(_image(n), 3, 2, 1), call(_image(n), 2, 1, 0, 2),
                        call(_image(n), 3, 2, 1, 1, True)]),
    *_family("avg_pool{}d", _AVG, "The mean of each window.", _avg_pool,
             lambda n: [call(_image(n), 2), call(_image(n), 3, 2, 1), call(_image(n), 3, 2, 1, True, False),
                        call(_image(n), 3, 2, 1, True)],
             "torch.nn.functional.{}"),
)  # fmt: skip
