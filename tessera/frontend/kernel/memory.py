"""What ``tile`` has for loops and memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tessera.diag import DTypeError, ShapeError, TraceError
from tessera.frontend.handles import PoisonHandle, SizeHandle
from tessera.frontend.kernel.session import KernelSession
from tessera.frontend.kernel.values import Context, Iteration, OnChip, Target, View
from tessera.frontend.kernel.windows import shaped, store, update
from tessera.ir.dialects.block import DEBUG_PRINT, SEND, WAIT
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, dtype, f32
from tessera.ir.types import BufferType


def context(k: KernelSession) -> Context:
    """The sizes of the call by name, and the settings of the kernel."""
    return Context(k)


def grid(k: KernelSession, start: Any, stop: Any = None, step: Any = 1) -> Iteration:
    """Independent iterations, in any order: of a stop, or of start, stop and step."""
    return _iteration(k, start, stop, step, True)


def sequential(k: KernelSession, start: Any, stop: Any = None, step: Any = 1) -> Iteration:
    """Iterations one after the other: of a stop, or of start, stop and step."""
    return _iteration(k, start, stop, step, False)


def _iteration(k: KernelSession, start: Any, stop: Any, step: Any, parallel: bool) -> Iteration:
    lo, hi = (0, start) if stop is None else (start, stop)
    by = k.dim(step, "a step")
    if by.is_const and by.value <= 0:
        k.refuse(ShapeError, "TSR0106", f"a loop in steps of {by}", "not positive")
    if not k.is_static(by):
        k.run_time_size(by)
    return Iteration(k.dim(lo, "a bound"), k.dim(hi, "a bound"), by, parallel)


def dtype_of(k: KernelSession, x: Any) -> DType:
    """A dtype as the user names it."""
    if isinstance(x, DType):
        return x
    found = k.table.to_dtype(x)
    try:
        return dtype(x) if found is None else found
    except DTypeError as error:
        k.refuse(DTypeError, error.code, error.message, "no dtype")


def sizes_of(k: KernelSession, shape: Any) -> tuple[Dim, ...]:
    """A shape given as one size or a sequence of them. Sizes are fixed before the kernel runs."""
    dims = tuple(k.dim(x, "a size") for x in (shape if isinstance(shape, tuple | list) else (shape,)))
    for d in dims:
        if not k.is_static(d):
            k.run_time_size(d)
    return dims


def view_of(k: KernelSession, x: Any, name: str) -> View:
    """An argument that must be a view."""
    if not isinstance(x, View):
        kind = "block" if isinstance(x, OnChip) else type(x).__name__
        k.refuse(TraceError, "TSR0404", f"`tile.{name}` of a {kind}", "no view",
                 helps=["the argument is a parameter, shared memory, or a part of one"])  # fmt: skip
    return x


def load(k: KernelSession, view: Any, shape: Any = None, dtype: Any = None, other: Any = None) -> Any:
    """A block of a view; beyond its end `other`, or 0 on which nothing may depend."""
    if isinstance(view, PoisonHandle):
        return view
    whole = view_of(k, view, "load")
    if shape is not None:
        whole = shaped(k, whole, sizes_of(k, shape))
    if other is not None and not isinstance(other, bool | int | float):
        k.refuse(TraceError, "TSR0404", "`other` of `tile.load` that is no number of the source", "no number")
    found = k.fetch(whole, other)
    return found if dtype is None else k.do("cast", found, dtype_of(k, dtype))


def load_broadcast(k: KernelSession, view: Any, dtype: Any = None) -> Any:
    """A block that is aligned with others by the names of its dims."""
    found = load(k, view, dtype=dtype)
    return OnChip(k, found._value, named=True) if isinstance(found, OnChip) else found


def load_vector(k: KernelSession, view: Any, dtype: Any = None, other: Any = None) -> Any:
    """A block of a view with one dim."""
    _vector(k, view, "load_vector")
    return load(k, view, None, dtype, other)


def store_vector(k: KernelSession, view: Any, value: Any) -> None:
    """Write a block with one dim to a view of its shape."""
    _vector(k, view, "store_vector")
    store(k, view, value)


def _vector(k: KernelSession, view: Any, name: str) -> None:
    if not isinstance(view, PoisonHandle) and len(view_of(k, view, name).dims) != 1:
        k.refuse(ShapeError, "TSR0221", f"`tile.{name}` of a view with {len(view.dims)} dims", "not one dim")


def store_block(k: KernelSession, view: Any, value: Any) -> None:
    """Write a block to a view of its shape, cast to the dtype of the view."""
    store(k, view, value)


def atomic_add(k: KernelSession, view: Any, value: Any) -> None:
    """Add a block to a view of its shape, as other iterations may; an output that is left out begins with 0."""
    store(k, view, value, adds=True)


def inplace(k: KernelSession, output: Any, source: Any) -> None:
    """Allow an output to be the tensor that is given for another parameter, which is then as it was for all loads."""
    names = [x.name for x in (output, source) if isinstance(x, View)]
    if len(names) != 2:
        k.refuse(TraceError, "TSR0404", "`tile.inplace` of what is no parameter", "no parameters")
    k.settings["inplace"].add((names[0], names[1]))


def debug_print(k: KernelSession, *values: Any) -> None:
    """Print texts and values; a kernel that does runs in the checking interpreter."""
    texts = [x.replace("{", "{{").replace("}", "}}") if isinstance(x, str) else "{}" for x in values]
    shown = [k.fetch(x) if isinstance(x, View) else x for x in values if not isinstance(x, str)]
    k.emit(DEBUG_PRINT, [_printed(k, x) for x in shown], (), {"text": " ".join(texts)})


def _printed(k: KernelSession, x: Any) -> Any:
    return k.number(x._dim) if isinstance(x, SizeHandle) else k.operand(x)


def load_async(k: KernelSession, source: Any, target: Any) -> None:
    """Begin to copy a view to shared memory."""
    if isinstance(source, PoisonHandle) or isinstance(target, PoisonHandle):
        return
    a, b = view_of(k, source, "load_async"), view_of(k, target, "load_async")
    if not b.is_shared:
        k.refuse(TraceError, "TSR0404", f"`tile.load_async` to `{b.name}`", "no shared memory",
                 helps=["`tile.alloc_shared` makes shared memory"])  # fmt: skip
    if a.dtype is not b.dtype:
        k.refuse(DTypeError, "TSR0301", f"a copy of {a.dtype} to {b.dtype}", "other dtype")
    if len(a.dims) != len(b.dims) or not all(
        k.context.holds("eq", x, y, "copy") for x, y in zip(a.dims, b.dims, strict=True)
    ):
        shapes = [f"[{', '.join(map(str, v.dims))}]" for v in (a, b)]
        k.fault(ShapeError, "TSR0221", f"a copy of {shapes[0]} of `{a.name}` to {shapes[1]} of `{b.name}`")
        return
    looked, rows = k.window((*a.rows, *b.rows))
    k.fetched.add(a.buffer)
    at, to = rows[: len(a.rows)], rows[len(a.rows) :]
    k.emit(SEND, (a.buffer, b.buffer, *looked), (), {"at": at, "to": to})


def wait(k: KernelSession, n: int = 0) -> None:
    """Go on once at most `n` copies are under way."""
    if not isinstance(n, int) or n < 0:
        k.refuse(TraceError, "TSR0404", "`tile.wait` for a number of copies that is not fixed", "no number")
    k.emit(WAIT, (), (), {"pending": n})


def alloc_shared(k: KernelSession, shape: Any, dtype: Any = f32) -> View:
    """Memory that all of one iteration shares, without contents."""
    kind = BufferType(dtype_of(k, dtype), sizes_of(k, shape), "local")
    (value,) = k.emit(LOCAL, (), (kind,), {}, hint="shared")
    return k.base(value, "shared memory")


def named(view: View, name: str) -> View:
    """A view as the user calls it."""
    return replace(view, name=name)


def copy(k: KernelSession, source: Any, target: Any) -> Any:
    """Write a block to a part of shared memory, or of a block from `zeros` or `full`."""
    if isinstance(target, Target):
        return update(k, target.owner, ... if target.key is None else target.key, source)
    store(k, target, source)
    return None


def fill(k: KernelSession, target: Any, value: Any) -> Any:
    """Give every element of shared memory, or of a block from `zeros`, one value."""
    if isinstance(target, Target):
        if target.key is not None:
            return update(k, target.owner, target.key, value)
        made = k.do("full", _given(k, target.owner), value, dtype=target.owner.dtype)
        return update(k, target.owner, ..., made)
    if not isinstance(target, View):
        return None
    store(k, target, k.do("full", tuple(k.given(d) for d in target.dims), value, dtype=target.dtype))
    return None


def _given(k: KernelSession, x: OnChip) -> tuple[Any, ...]:
    return tuple(k.given(d) for d in x.dims)


def zeros(k: KernelSession, shape: Any, dtype: Any = f32) -> Any:
    """A block of zeros."""
    return full(k, shape, 0, dtype)


def full(k: KernelSession, shape: Any, value: Any, dtype: Any = f32) -> Any:
    """A block of one value."""
    dims = sizes_of(k, shape)
    kind = dtype_of(k, dtype)
    if kind.is_float and type(value) is int:
        value = float(value)
    made = k.do("full", tuple(k.given(d) for d in dims), value, dtype=kind)
    if isinstance(made, OnChip):
        made.mutable = True
    return made
