"""What ``tile`` computes on blocks, in terms of the operations of the tensor dialect."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.diag import DTypeError, ShapeError
from tessera.frontend.handles import PoisonHandle
from tessera.frontend.kernel.memory import dtype_of, sizes_of
from tessera.frontend.kernel.session import KernelSession
from tessera.frontend.kernel.values import OnChip, Target, View
from tessera.ir.dialects.block import FILLED
from tessera.ir.dim import Dim, ceildiv
from tessera.ir.dtype import DType, compute_dtype, f32, f64, int32, int64

_INF = float("inf")


def block(k: KernelSession, x: Any) -> Any:
    """An argument as a block: a view is loaded."""
    return k.fetch(x) if isinstance(x, View) else x


def cast(k: KernelSession, x: Any, dtype: Any) -> Any:
    """Each element in another dtype; floats become integers toward zero and saturate."""
    return k.do("cast", x, dtype_of(k, dtype))


def wide(k: KernelSession, x: Any) -> Any:
    """Floats of at most 16 bits as f32."""
    x = block(k, x)
    if isinstance(x, OnChip) and x.dtype.is_float and compute_dtype(x.dtype) is not x.dtype:
        return k.do("cast", x, compute_dtype(x.dtype))
    return x


def _reduced(k: KernelSession, record: str, x: Any, axis: Any) -> Any:
    axes = None if axis is None else (axis,) if isinstance(axis, int) else tuple(axis)
    return k.do(record, x, axes) if axes is not None else k.do(record, x)


def reduce_max(k: KernelSession, x: Any, axis: Any = None) -> Any:
    """The greatest element over an axis, which is dropped, or of all."""
    return _reduced(k, "amax", x, axis)


def reduce_min(k: KernelSession, x: Any, axis: Any = None) -> Any:
    """The smallest element over an axis, which is dropped, or of all."""
    return _reduced(k, "amin", x, axis)


def reduce_sum(k: KernelSession, x: Any, axis: Any = None) -> Any:
    """The sum over an axis, which is dropped, or of all; f32 for narrow floats."""
    return _reduced(k, "sum", wide(k, x), axis)


def reduce_mean(k: KernelSession, x: Any, axis: Any = None) -> Any:
    """The mean over an axis, which is dropped, or of all; f32 for narrow floats."""
    return _reduced(k, "mean", counted(k, wide(k, x), axis), axis)


def counted(k: KernelSession, x: Any, axis: Any = None) -> Any:
    """A block whose lanes along the axes are counted, so that none of them may be padding."""
    if not isinstance(x, OnChip) or not x.dims:
        return x
    rank = len(x.dims)
    axes = range(rank) if axis is None else (axis,) if isinstance(axis, int) else axis
    dims = tuple(sorted(a % rank for a in axes))
    return OnChip(k, k.emit(FILLED, (x._value,), (x._value.type,), {"dim": dims})[0])


def any_of(k: KernelSession, x: Any, axis: Any = None) -> Any:
    """Whether an element is true, over an axis, which is dropped, or of all."""
    return _reduced(k, "any", x, axis)


def all_of(k: KernelSession, x: Any, axis: Any = None) -> Any:
    """Whether every element is true, over an axis, which is dropped, or of all."""
    return _reduced(k, "all", x, axis)


def where(k: KernelSession, condition: Any, a: Any, b: Any) -> Any:
    """Each element of `a` where the condition holds, else of `b`."""
    return k.do("where", condition, a, b)


def clamp(k: KernelSession, x: Any, low: Any = None, high: Any = None) -> Any:
    """Each element, but not below `low` nor above `high`."""
    return k.do("clamp", x, low, high)


def swish(k: KernelSession, x: Any, beta: Any = 1.0) -> Any:
    """x · sigmoid(beta · x) of each element; 0 where x is -inf."""
    x = wide(k, x)
    scaled = x if beta == 1.0 and isinstance(beta, int | float) else k.do("mul", x, beta)
    return k.do("where", k.do("eq", x, -_INF), 0.0, k.do("mul", x, k.do("sigmoid", scaled)))


def arange(k: KernelSession, start: Any, stop: Any = None, dtype: Any = int64) -> Any:
    """The integers below a stop, or from a start on."""
    lo, hi = (Dim.const(0), k.dim(start)) if stop is None else (k.dim(start), k.dim(stop))
    (count,) = sizes_of(k, k.given(hi - lo))
    found = k.do("arange", k.given(count))
    found = found if lo is Dim.const(0) else k.do("add", found, k.given(lo))
    return found if dtype is int64 else k.do("cast", found, dtype_of(k, dtype))


def iota(k: KernelSession, shape: Any, axis: int = 0) -> Any:
    """A block of the positions along one of its axes."""
    dims = sizes_of(k, shape)
    line = k.do("arange", k.given(dims[axis]))
    ones = tuple(k.given(d) if n == axis % len(dims) else 1 for n, d in enumerate(dims))
    return k.do("broadcast_to", k.do("reshape", line, ones), tuple(k.given(d) for d in dims))


def broadcast(k: KernelSession, x: Any, axis: int | None = None) -> Any:
    """An axis of length 1 put back where a reduction dropped it."""
    return block(k, x) if axis is None else k.do("unsqueeze", x, axis)


def transpose(k: KernelSession, x: Any) -> Any:
    """The last two axes swapped."""
    return k.do("transpose", x, -2, -1)


def concat(k: KernelSession, parts: Sequence[Any], axis: int = 0) -> Any:
    """Blocks one behind the other along an axis."""
    return k.do("cat", [block(k, x) for x in parts], axis)


def split(k: KernelSession, x: Any, n: int, axis: int = -1) -> Any:
    """`n` equal parts along an axis."""
    return k.do("chunk", x, n, axis)


def reshape(k: KernelSession, x: Any, shape: Any) -> Any:
    """The same elements, row-major, in another shape; one size may be -1."""
    return k.do("reshape", x, tuple(shape) if isinstance(shape, tuple | list) else (shape,))


def cdiv(k: KernelSession, a: Any, b: Any) -> Any:
    """The quotient of two sizes, rounded up."""
    return k.given(ceildiv(k.dim(a), k.dim(b)))


def mma(k: KernelSession, a: Any, b: Any, acc: Any = None) -> Any:
    """Operands of two float widths meet in the narrower one; then the products are exact in the dtype of the sum."""
    a, b = block(k, a), block(k, b)
    if isinstance(a, PoisonHandle) or isinstance(b, PoisonHandle):
        return k.poison
    kinds = [x.dtype for x in (a, b) if isinstance(x, OnChip)]
    if len(kinds) != 2 or kinds[0].is_float is not kinds[1].is_float or any(t.is_bool for t in kinds):
        names = " and ".join(map(str, kinds)) or "numbers"
        return k.fault(DTypeError, "TSR0301", f"`tile.mma` of {names}", helps=["both blocks are floats, or integers"])
    if kinds[0] is not kinds[1] and kinds[0].is_float:
        narrow = min(kinds, key=lambda t: (t.bits, t.mantissa))
        a, b = (x if x.dtype is narrow else k.do("cast", x, narrow) for x in (a, b))
    total = _sum_dtype(kinds)
    a, b = (x if x.dtype is total else k.do("cast", x, total) for x in (a, b))
    found = k.do("matmul", a, b)
    return found if acc is None else k.do("add", found, acc)


def _sum_dtype(kinds: Sequence[DType]) -> DType:
    if kinds[0].is_float:
        return f64 if all(t is f64 for t in kinds) else f32
    return int64 if any(t.bits > 32 for t in kinds) else int32


def dp4a(k: KernelSession, x: Any, w: Any, acc: Any) -> Any:
    """acc[n] + sum over k of x[k] · w[n, k], in int32."""
    x, w = (k.do("cast", block(k, one), int32) for one in (x, w))
    total = k.do("cast", k.do("sum", k.do("mul", w, x), -1), int32)
    return k.do("add", acc, total)


def positions(k: KernelSession, size: Dim, start: Any, axis: int) -> Any:
    """The positions of a dim from a start on, with an axis of size 1 put in."""
    line = k.do("add", k.do("arange", k.given(size)), start)
    return k.do("unsqueeze", line, axis)


def mask_cols(k: KernelSession, x: Any, start: Any, end: Any, value: float = -_INF) -> Any:
    """Scores with `value` in the columns that stand at or behind `end`."""
    x = block(k, x)
    if isinstance(x, PoisonHandle):
        return x
    columns = k.do("add", k.do("arange", k.given(x.dims[-1])), start)
    return k.do("where", k.do("lt", columns, end), x, value)


def apply_causal_mask(k: KernelSession, scores: Any, q_start: Any, k_start: Any, offset: Any = 0) -> Any:
    """Scores with -inf where k_start + j > q_start + i + offset; the name given has them, too."""
    x = scores.owner if isinstance(scores, Target) else block(k, scores)
    if not isinstance(x, OnChip):
        return x
    if len(x.dims) != 2:
        return k.fault(ShapeError, "TSR0204", f"a causal mask on a block of {len(x.dims)} dims")
    rows = k.do("add", positions(k, x.dims[0], q_start, 1), offset)
    columns = positions(k, x.dims[1], k_start, 0)
    return k.do("where", k.do("gt", columns, rows), -_INF, x)


def rms_norm(k: KernelSession, x: Any, eps: Any, weight: Any = None) -> Any:
    """Each row divided by the root of its mean square, in f32, times the weight."""
    x = wide(k, x)
    square = k.do("mean", counted(k, k.do("mul", x, x), -1), (-1,), keepdim=True)
    found = k.do("mul", x, k.do("rsqrt", k.do("add", square, eps)))
    return found if weight is None else k.do("mul", found, wide(k, weight))


def apply_rope(k: KernelSession, x: Any, cos: Any, sin: Any, interleaved: bool = False) -> Any:
    """The tables are aligned by the names of their dims, as with ``load_broadcast``."""
    x = wide(k, x)
    if isinstance(x, PoisonHandle):
        return x
    tables = [OnChip(k, t._value, named=True) for t in (wide(k, cos), wide(k, sin)) if isinstance(t, OnChip)]
    if len(tables) != 2:
        return k.poison
    if interleaved:
        pairs = k.do("reshape", x, (*(k.given(d) for d in x.dims[:-1]), -1, 2))
        left, right = (k.do("select", pairs, -1, n) for n in (0, 1))
    else:
        left, right = k.do("chunk", x, 2, -1)
    c, s = tables
    first = k.do("sub", k.do("mul", left, c), k.do("mul", right, s))
    second = k.do("add", k.do("mul", left, s), k.do("mul", right, c))
    if not interleaved:
        return k.do("cat", [first, second], -1)
    return k.do("reshape", k.do("stack", [first, second], -1), tuple(k.given(d) for d in x.dims))
