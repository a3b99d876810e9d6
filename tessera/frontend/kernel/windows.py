"""Subscripts of views, loads and stores: positions become windows, and shapes are checked where they meet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.diag import DTypeError, Label, ShapeError, TraceError
from tessera.frontend.handles import PoisonHandle, SizeHandle
from tessera.frontend.kernel.session import KernelSession
from tessera.frontend.kernel.values import OnChip, View
from tessera.ir.dialects.block import PUT
from tessera.ir.dim import Dim, dim_min, mod
from tessera.ir.window import SINGLE, TAIL, WHOLE, Row

_ZERO, _ONE = Dim.const(0), Dim.const(1)


def sub_view(session: KernelSession, view: View, key: Any) -> View:
    """``view[key]``: integers, slices without a step, and one ``...``."""
    items = list(key) if isinstance(key, tuple) else [key]
    kept = view.kept
    if any(x is Ellipsis for x in items):
        at = next(n for n, x in enumerate(items) if x is Ellipsis)
        items[at : at + 1] = [slice(None)] * (len(kept) - len(items) + 1)
    if len(items) > len(kept):
        session.refuse(ShapeError, "TSR0212", f"{len(items)} positions in `{view.name}`, which has {len(kept)} dims",
                       f"`{view.name}` has {len(kept)} dims")  # fmt: skip
    rows = list(view.rows)
    for n, item in zip(kept, items, strict=False):
        if item is None:
            session.unsupported("a new axis in a view", "load first; `tile.broadcast` adds an axis to a block")
        rows[n] = _slice(session, rows[n], item) if isinstance(item, slice) else _single(session, rows[n], item)
    return View(view.buffer, tuple(rows), view.name)


def _single(session: KernelSession, row: Row, item: Any) -> Row:
    at = session.dim(item)
    if at.is_const and at.value < 0:
        at = row.extent + at
    if at.is_const and row.extent.is_const and at.value >= row.extent.value:
        session.refuse(ShapeError, "TSR0212", f"position {at} in a dim of {row.extent}", "outside")
    end = row.end if row.kind == WHOLE else dim_min(row.end, row.start + row.extent)
    return Row(row.start + at, _ONE, end, SINGLE)


def _slice(session: KernelSession, row: Row, item: slice) -> Row:
    if item.step is not None:
        session.unsupported("a slice with a step", "take the positions one by one, or reshape what was loaded")
    if item.start is None and item.stop is None:
        return row
    lo = _ZERO if item.start is None else session.dim(item.start)
    hi = row.extent if item.stop is None else session.dim(item.stop)
    if lo.is_const and lo.value < 0:
        lo = row.extent + lo
    if hi.is_const and hi.value < 0:
        hi = row.extent + hi
    if not session.is_static(hi - lo):
        session.run_time_size(hi - lo)
    end = row.end if row.kind == WHOLE else dim_min(row.end, row.start + row.extent)
    return Row(row.start + lo, hi - lo, end, _kind(session, row.start + lo, hi - lo, end))


def _kind(session: KernelSession, start: Dim, extent: Dim, end: Dim) -> int:
    """Whether the end of a slice may lie beyond the view: the last of blocks that stand side by side may."""
    if extent is end and start is _ZERO:
        return WHOLE
    names = start.names()
    if names & session.numbers.keys():
        return WHOLE
    for name in names & session.axes.keys():
        axis = session.axes[name]
        moved = start.substitute({name: Dim.name(name) + axis.step}) - start
        if moved is not extent and mod(moved, extent) is not _ZERO:
            return WHOLE
    return TAIL


def shaped(session: KernelSession, view: View, dims: Sequence[Dim]) -> View:
    """The view cut, or extended, to a block shape that begins where it begins."""
    kept = view.kept
    if len(dims) != len(kept):
        session.refuse(ShapeError, "TSR0221", f"a block of {len(dims)} dims of `{view.name}`, which has {len(kept)}",
                       f"`{view.name}` has {len(kept)} dims")  # fmt: skip
    rows = list(view.rows)
    for n, d in zip(kept, dims, strict=True):
        row = rows[n]
        if d is row.extent:
            continue
        if not session.is_static(d):
            session.run_time_size(d)
        end = row.end if row.kind == WHOLE else dim_min(row.end, row.start + row.extent)
        rows[n] = Row(row.start, d, end, _kind(session, row.start, d, end))
    return View(view.buffer, tuple(rows), view.name)


def store(session: KernelSession, view: Any, value: Any, adds: bool = False) -> None:
    """Write a block to a view of the same shape, or a scalar to one position; or add it to what is there."""
    if isinstance(view, PoisonHandle) or isinstance(value, PoisonHandle):
        return
    if not isinstance(view, View):
        session.refuse(TraceError, "TSR0404", f"a store to a {_called(view)}, which is no view", "no view",
                       helps=["the first argument is a parameter, or a part of one"])  # fmt: skip
    here = session.here
    x = session.fetch(value) if isinstance(value, View) else value
    dims = x.dims if isinstance(x, OnChip) else ()
    if len(dims) != len(view.dims) or not all(
        session.context.holds("eq", a, b, "store") for a, b in zip(dims, view.dims, strict=True)
    ):
        labels = [] if here is None else [Label(here, f"{_shape(dims)} to {_shape(view.dims)}", True)]
        text = f"a block {_shape(dims)} stored to `{view.name}`, which is {_shape(view.dims)} here"
        session.fault(ShapeError, "TSR0221", text, *labels, helps=["a store writes a block of the shape of its view"])
        return
    if isinstance(x, OnChip) and x.dtype.is_float and not view.dtype.is_float:
        session.fault(DTypeError, "TSR0301", f"floats stored to `{view.name}`, which is {view.dtype}",
                      helps=["`tile.cast` says how they become integers"])  # fmt: skip
        return
    for n in view.kept:
        if not session.is_static(view.rows[n].extent):
            session.run_time_size(view.rows[n].extent)
    operand = session.operand(x)
    looked, at = session.window(view.rows)
    session.stored.add(view.buffer)
    session.emit(PUT, (view.buffer, operand, *looked), (), {"at": at, "adds": True} if adds else {"at": at})


def _shape(dims: Sequence[Dim]) -> str:
    return f"[{', '.join(map(str, dims))}]"


def _called(x: Any) -> str:
    return "block" if isinstance(x, OnChip) else "size" if isinstance(x, SizeHandle) else type(x).__name__


def update(session: KernelSession, target: OnChip, key: Any, value: Any) -> Any:
    """A block with a part of it replaced; a position or slice may begin where an integer of the run says."""
    if not target.mutable:
        session.refuse(TraceError, "TSR0403", "an update of a block that is not made by `tile.zeros` or `tile.full`",
                       "not to be written", helps=["`tile.where` makes a block with other values"])  # fmt: skip
    items = key if isinstance(key, tuple) else (key,)
    moving = [n for n, item in enumerate(items) if not _is_fixed(session, item)]
    if not moving:
        made = session.do("setitem", target, key, value)
    elif len(moving) == 1 and all(n in moving or item == slice(None) for n, item in enumerate(items)):
        made = _moved(session, target, moving[0], items[moving[0]], value)
    else:
        session.unsupported("an update at several positions of the run", "write to whole rows or columns")
    if isinstance(made, OnChip):
        made.mutable = True
    return made


def _is_fixed(session: KernelSession, item: Any) -> bool:
    """Whether a position, or both ends of a slice, are the same for the whole run."""
    ends = (item.start, item.stop) if isinstance(item, slice) else (item,)
    return all(not isinstance(x, SizeHandle) or session.is_static(x._dim) for x in ends)


def _moved(session: KernelSession, x: OnChip, axis: int, item: Any, value: Any) -> Any:
    """``x`` with ``value`` at a position, or in a slice, that begins where an integer of the run says."""
    do, size = session.do, session.given(x.dims[axis])
    behind = [1] * (len(x.dims) - axis - 1)
    line = do("reshape", do("arange", size), (size, *behind))
    places = _plain(session, item)
    do("index_select", x, axis, places)  # outside of the block is an error
    if not isinstance(item, slice):
        there = do("eq", line, session.given(session.dim(item)))
        return do("where", there, do("cast", _beside(session, value, axis, x), x.dtype), x)
    lo = session.dim(item.start or 0)
    count = session.given(session.dim(item.stop) - lo)
    offset = do("sub", do("arange", size), session.given(lo))
    spread = do("index_select", _beside(session, value, None, x), axis, do("clamp", offset, 0, do("sub", count, 1)))
    offset = do("reshape", offset, (size, *behind))
    inside = do("logical_and", do("ge", offset, 0), do("lt", offset, count))
    return do("where", inside, do("cast", spread, x.dtype), x)


def _beside(session: KernelSession, value: Any, axis: int | None, x: OnChip) -> Any:
    """A value as a block that can stand beside ``x``; ``axis`` is the one that it does not have."""
    value = session.fetch(value) if isinstance(value, View) else value
    if not isinstance(value, OnChip):
        return session.do("full", (), value, dtype=x.dtype)
    return session.do("unsqueeze", value, axis) if axis is not None and value.dims else value


def part(session: KernelSession, x: OnChip, key: Any) -> Any:
    """A part of a block."""
    return session.do("getitem", x, _plain(session, key))


def _plain(session: KernelSession, key: Any) -> Any:
    """Positions of the run as integers of rank 0, slices from such as lists of positions."""
    if isinstance(key, tuple):
        return tuple(_plain(session, one) for one in key)
    if isinstance(key, slice):
        if all(x is None or session.is_static(session.dim(x)) for x in (key.start, key.stop)):
            return key
        lo = _ZERO if key.start is None else session.dim(key.start)
        if key.stop is None or not session.is_static(session.dim(key.stop) - lo):
            session.run_time_size(lo)
        return session.do("add", session.do("arange", session.given(session.dim(key.stop) - lo)), session.given(lo))
    if isinstance(key, SizeHandle) and not session.is_static(key._dim):
        return OnChip(session, session.number(key._dim))
    return key


__all__ = ["part", "shaped", "store", "sub_view", "update"]
