"""Derivatives of what is not elementwise: how cotangents go back through folds, views, reads, products and scans.

A view or a read that takes an element several times adds up its cotangents. Where torch has to choose a slope (equal
extremes, products with zeros) the choice here is the same.
"""

from __future__ import annotations

import math
from functools import partial
from typing import Any

from tessera.ir.derive import Derivative, Point, like
from tessera.ir.dim import Dim
from tessera.ir.infer import ONE

ZERO = Dim.const(0)


def _axis(p: Point, name: str = "dim") -> int:
    axis = p.attrs[name]
    assert isinstance(axis, int)
    return axis


def _size(p: Point, name: str) -> Dim:
    size = p.attrs[name]
    assert isinstance(size, Dim | int)
    return Dim.of(size)


# --- folds ------------------------------------------------------------------------------------------------------------


def spread(p: Point, x: Any) -> Any:
    """A value of the folded shape with the folded axes back, of size 1."""
    if p.attrs["keepdim"]:
        return x
    for axis in p.op.axes():
        x = p.t.unsqueeze(x, axis)
    return x


def total(p: Point) -> tuple[Any, ...]:
    """A sum gives its cotangent to all of its terms."""
    return (p.t.expand(spread(p, p.g), *p.t.dims(p.inputs[0])),)


def product(p: Point) -> tuple[Any, ...]:
    """The product of all others: the whole over the element, but for zeros, of which only a single one has a slope."""
    t, x, g, axes = p.t, p.inputs[0], spread(p, p.g), p.op.axes()
    zero = t.eq(x, 0.0)
    zeros = t.sum(t.cast(zero, t.dtype_of(x)), axes, True)
    safe = t.where(zero, 1.0, x)
    rest = t.prod(safe, axes, True) if len(axes) == 1 else _product(t, safe, axes)
    slope = t.where(zero, t.where(t.eq(zeros, 1.0), rest, 0.0), t.where(t.eq(zeros, 0.0), rest / safe, 0.0))
    return (g * slope,)


def _product(t: Any, x: Any, axes: tuple[int, ...]) -> Any:
    return t.emit("prod", (x,), dim=axes, keepdim=True)


def extreme(p: Point) -> tuple[Any, ...]:
    """Shared evenly by all elements that equal the result."""
    t, x = p.t, p.inputs[0]
    best = t.cast(t.eq(x, spread(p, p.outputs[0])), t.dtype_of(x))
    return (best * (spread(p, p.g) / t.sum(best, p.op.axes(), True)),)


def first_of_equal(arg: str, p: Point) -> tuple[Any, ...]:
    """To the element at the position that ``arg``, argmax or argmin, gives."""
    t, x = p.t, p.inputs[0]
    found = spread(p, p.g)
    for axis in p.op.axes():
        dims = t.dims(x)
        at = spread(p, t.emit(arg, (x,), dim=(axis,), keepdim=p.attrs["keepdim"]))
        places = t.reshape(t.arange(dims[axis]), *(d if n == axis else ONE for n, d in enumerate(dims)))
        found = t.where(t.eq(places, at), found, 0.0)
    return (found,)


# --- scans ------------------------------------------------------------------------------------------------------------


def _from_behind(p: Point, x: Any) -> Any:
    """Sums of all suffixes along the scanned axis."""
    t, axis = p.t, _axis(p)
    return t.flip(t.cumsum(t.flip(x, axis), axis), axis)


def _on_axis(derivative: Derivative) -> Derivative:
    """Of rank 0 a scan is the identity."""
    return lambda p: derivative(p) if p.t.dims(p.inputs[0]) else (p.g,)


def running_sum(p: Point) -> tuple[Any, ...]:
    """Each element stands in the sums from its own place on."""
    return (_from_behind(p, p.g),)


def running_product(p: Point) -> tuple[Any, ...]:
    """Up to the first zero the products over the element; at it, the products without it; behind it nothing."""
    t, x, axis = p.t, p.inputs[0], _axis(p)
    zero = t.eq(x, 0.0)
    zeros = t.cumsum(t.cast(zero, t.dtype_of(x)), axis)
    first = t.logical_and(zero, t.eq(zeros, 1.0))
    without = _from_behind(p, p.g * t.cumprod(t.where(first, 1.0, x), axis))
    before = _from_behind(p, p.g * p.outputs[0]) / t.where(zero, 1.0, x)
    return (t.where(first, without, t.where(t.eq(zeros, 0.0), before, 0.0)),)


def running_log_sum(p: Point) -> tuple[Any, ...]:
    """exp(x) times suffix sums of g exp(-y), the positive and the negative parts in logarithms."""
    t, x, y, axis = p.t, p.inputs[0], p.outputs[0], _axis(p)

    def part(g: Any) -> Any:
        some = t.logical_not(t.le(g, 0.0))  # a NaN is not lost
        logs = t.where(some, t.log(t.where(some, g, 1.0)) - y, -math.inf)
        return t.exp(t.flip(t.logcumsumexp(t.flip(logs, axis), axis), axis) + x)

    return (part(p.g) - part(-p.g),)


def at_position(p: Point) -> tuple[Any, ...]:
    """Of results (values, positions) along one axis: each value's cotangent goes to where it was."""
    t, x, axis = p.t, p.inputs[0], _axis(p)
    g, at = p.g, p.outputs[1]
    if len(t.dims(g)) < len(t.dims(x)):
        g, at = t.unsqueeze(g, axis), t.unsqueeze(at, axis)
    return (t.scatter_add(p.zeros(0), axis, at, g),)


CUMSUM, CUMPROD, LOGCUMSUMEXP = map(_on_axis, (running_sum, running_product, running_log_sum))
POSITION = _on_axis(at_position)

# --- views ------------------------------------------------------------------------------------------------------------


def permute(p: Point) -> tuple[Any, ...]:
    """The axes back in their order."""
    order = p.op.axes("dims")
    return (p.t.permute(p.g, *(order.index(n) for n in range(len(order)))) if order else p.g,)


def reshape(p: Point) -> tuple[Any, ...]:
    """The shape back."""
    return (p.t.emit("reshape", (p.g,), shape=p.t.dims(p.inputs[0])),)


def expand(p: Point) -> tuple[Any, ...]:
    """Summed over what was repeated."""
    return (like(p.t, p.g, p.op.operands[0].type),)  # type: ignore[arg-type]


def unsqueeze(p: Point) -> tuple[Any, ...]:
    """The new axis gone."""
    return (p.t.emit("squeeze", (p.g,), dim=(_axis(p),)),)


def squeeze(p: Point) -> tuple[Any, ...]:
    """The axes of size 1 back."""
    g = p.g
    for axis in p.op.axes():
        g = p.t.unsqueeze(g, axis)
    return (g,)


def flip(p: Point) -> tuple[Any, ...]:
    """The order back."""
    return (p.t.flip(p.g, *p.op.axes("dims")),)


def cat(p: Point) -> tuple[Any, ...]:
    """Each tensor gets its part."""
    axis, found, offset = _axis(p), [], ZERO
    for x in p.inputs:
        end = offset + p.t.dims(x)[axis]
        found.append(p.t.emit("slice", (p.g,), dim=axis, start=offset, stop=end, step=ONE))
        offset = end
    return tuple(found)


def part(p: Point) -> tuple[Any, ...]:
    """Of a slice: zeros around it, and between its elements."""
    axis, start, stop, step = _axis(p), *(_size(p, n) for n in ("start", "stop", "step"))
    dims = p.t.dims(p.inputs[0])
    if step is not ONE:
        return (p.t.slice_update(p.zeros(0), p.g, axis, start, stop, step),)
    low, high = [ZERO] * len(dims), [ZERO] * len(dims)
    low[axis], high[axis] = start, dims[axis] - stop
    return (p.t.emit("pad_constant", (p.g, 0.0), low=tuple(low), high=tuple(high)),)


def update(p: Point) -> tuple[Any, ...]:
    """Of a slice that is replaced, each new value standing at ``step`` positions."""
    t, g = p.t, p.g
    axis, start, stop, step = _axis(p), *(_size(p, n) for n in ("start", "stop", "step"))
    nothing = t.zeros_like(p.inputs[1])
    inside = t.emit("slice", (g,), dim=axis, start=start, stop=stop, step=ONE)
    if step is not ONE:
        dims, count = list(t.dims(inside)), t.dims(p.inputs[1])[axis]
        high = [ZERO] * len(dims)
        high[axis] = count * step - dims[axis]
        inside = t.emit("pad_constant", (inside, 0.0), low=(ZERO,) * len(dims), high=tuple(high))
        inside = t.sum(t.reshape(inside, *dims[:axis], count, step, *dims[axis + 1 :]), axis + 1)
    return t.emit("slice_update", (g, nothing), **p.attrs), inside


def pad(p: Point) -> tuple[Any, ...]:
    """What was inside, and of the padding value the sum of the rest."""
    t, g, low = p.t, p.g, p.op.dims("low")
    for axis, (a, d) in enumerate(zip(low, t.dims(p.inputs[0]), strict=True)):
        g = g if t.dims(g)[axis] is d else t.emit("slice", (g,), dim=axis, start=a, stop=a + d, step=ONE)
    return g, (t.sum(p.g) - t.sum(g) if p.needs[1] else None)


def pad_edge(p: Point) -> tuple[Any, ...]:
    """Every position gives its cotangent to the one that it was read from."""
    t, g, x = p.t, p.g, p.inputs[0]
    dims, low, high = t.dims(x), p.op.dims("low"), p.op.dims("high")
    for axis, d in enumerate(dims):
        if low[axis] is ZERO and high[axis] is ZERO:
            continue
        at = t.emit("pad_edge", (t.arange(d),), low=(low[axis],), high=(high[axis],), mode=p.attrs["mode"])
        shape = list(t.dims(g))
        shape[axis] = d
        g = t.index_add(t.zeros(*shape, dtype=t.dtype_of(g)), axis, at, g)
    return (g,)


def diagonal(p: Point) -> tuple[Any, ...]:
    """Zeros beside the diagonal."""
    return (p.t.diagonal_scatter(p.zeros(0), p.g, *(p.attrs[n] for n in ("offset", "dim1", "dim2"))),)


def unfold(p: Point) -> tuple[Any, ...]:
    """What stood in several windows gets the sum."""
    t, g, axis = p.t, p.g, _axis(p, "dimension")
    width, step = _size(p, "size"), _size(p, "step")
    dims = t.dims(g)
    count = dims[axis]
    at = t.add(t.reshape(t.mul(t.arange(count), step), count, 1), t.arange(width))
    g = t.movedim(g, -1, axis + 1)
    g = t.reshape(g, *dims[:axis], count * width, *t.dims(g)[axis + 2 :])
    return (t.index_add(p.zeros(0), axis, t.reshape(at, -1), g),)


# --- reads by index ---------------------------------------------------------------------------------------------------


def gather(p: Point) -> tuple[Any, ...]:
    """Each cotangent goes to where its element was read. Of one element a row that is a choice by position."""
    t, (x, index), axis = p.t, p.inputs, _axis(p)
    dims, read = t.dims(x), t.dims(index)
    if read[axis] is ONE and all(d is e for n, (d, e) in enumerate(zip(dims, read, strict=True)) if n != axis):
        place = t.reshape(t.arange(dims[axis]), *(dims[axis] if n == axis else ONE for n in range(len(dims))))
        return t.where(t.eq(place, index), p.g, 0.0), None
    return p.t.scatter_add(p.zeros(0), _axis(p), p.inputs[1], p.g), None


def rows(wraps: bool) -> Derivative:
    """Slices go back to where they were read; numbers below zero count from the end if the read ``wraps``."""

    def rule(p: Point) -> tuple[Any, ...]:
        t, axis, (x, index) = p.t, _axis(p), p.inputs
        dims, size = t.dims(x), t.dims(x)[axis]
        at = t.reshape(index, -1)
        if wraps:
            at = t.where(t.lt(at, 0), t.add(at, size), at)
        g = t.reshape(p.g, *dims[:axis], t.dims(at)[0], *dims[axis + 1 :])
        return t.index_add(p.zeros(0), axis, at, g), None

    return rule


def indexed(p: Point) -> tuple[Any, ...]:
    """Each cotangent goes to the element that it was read from."""
    t, x, axes = p.t, p.inputs[0], p.op.axes("dims")
    key: list[Any] = [None] * len(t.dims(x))
    for axis, index in zip(axes, p.inputs[1:], strict=True):
        key[axis] = t.cast(index, "int64")
    return t.index_put(p.zeros(0), key, p.g, True), *[None] * len(axes)


# --- writes by index --------------------------------------------------------------------------------------------------


def scatter(p: Point) -> tuple[Any, ...]:
    """Of values put, added, averaged, multiplied, or compared with what was there. Equal extremes share evenly."""
    t, g, axis, (x, index, src) = p.t, p.g, _axis(p), p.inputs
    how, keeps = p.attrs["reduce"], p.attrs["include_self"]
    if how in ("replace", "sum"):
        whole = how == "sum" and keeps
        return g if whole else t.scatter(g, axis, index, value=0.0), None, _taken(p, g) if p.needs[2] else None
    added = partial(t.scatter_add, dim=axis, index=index)
    untouched = t.eq(added(t.zeros_like(x), src=t.ones(*t.dims(index), dtype=x.dtype)), 0.0)
    if how == "mean":
        count = added(t.full_like(x, 1.0 if keeps else 0.0), src=t.ones(*t.dims(index), dtype=x.dtype))
        g = g / t.maximum(count, 1.0)
        return g if keeps else t.where(untouched, g, 0.0), None, _taken(p, g) if p.needs[2] else None
    values = src if len(t.dims(src)) == len(t.dims(x)) else t.expand(src, *t.dims(index))
    values = _cropped(t, values, t.dims(index))
    both = _multiplied if how == "prod" else _compared
    own, others = both(p, values, partial(t.where, untouched, other=0.0) if not keeps else lambda v: v, added)
    return own, None, _padded(t, others, src) if p.needs[2] else None


def _compared(p: Point, values: Any, mine: Any, added: Any) -> tuple[Any, Any]:
    t, x, y = p.t, p.inputs[0], p.outputs[0]
    best = t.cast(t.eq(values, _read(p, y)), x.dtype)
    own = mine(t.cast(t.eq(x, y), x.dtype))
    share = p.g / t.maximum(added(own, src=best), 1.0)
    return share * own, _read(p, share) * best


def _multiplied(p: Point, values: Any, mine: Any, added: Any) -> tuple[Any, Any]:
    """The product of all others, of which a single zero is left out by itself alone; see ``product``."""
    t, x = p.t, p.inputs[0]
    zero, zeros = t.eq(x, 0.0), t.eq(values, 0.0)
    count = added(mine(t.cast(zero, x.dtype)), src=t.cast(zeros, x.dtype))
    one = t.where(zero, 1.0, x)
    whole = t.scatter_reduce(one, _axis(p), p.inputs[1], t.where(zeros, 1.0, values), "prod",
                             include_self=p.attrs["include_self"])  # fmt: skip

    def slope(v: Any, none: Any, total: Any, many: Any) -> Any:
        rest = total / t.where(none, 1.0, v)
        return t.where(t.eq(many, t.cast(none, x.dtype)), rest, 0.0)

    others = _read(p, p.g) * slope(values, zeros, _read(p, whole), _read(p, count))
    return p.g * mine(slope(x, zero, whole, count)), others


def _taken(p: Point, g: Any) -> Any:
    """What the written positions of a cotangent give to the values that were written there."""
    return _padded(p.t, _read(p, g), p.inputs[2])


def _read(p: Point, x: Any) -> Any:
    """What stands at the written positions; an index may be shorter than the axes that it does not index."""
    t, axis, index = p.t, _axis(p), p.inputs[1]
    dims = list(t.dims(index))
    dims[axis] = t.dims(x)[axis]
    return t.gather(_cropped(t, x, tuple(dims)), axis, index)


def _padded(t: Any, g: Any, src: Any) -> Any:
    """Values beyond the index are not read; a single one was read everywhere."""
    dims = t.dims(src)
    if len(dims) != len(t.dims(g)):
        return t.sum(g)
    high = tuple(d - have for d, have in zip(dims, t.dims(g), strict=True))
    low = (ZERO,) * len(dims)
    return g if all(h is ZERO for h in high) else t.emit("pad_constant", (g, 0.0), low=low, high=high)


def _cropped(t: Any, x: Any, dims: tuple[Any, ...]) -> Any:
    for axis, (have, d) in enumerate(zip(t.dims(x), dims, strict=True)):
        x = x if have is d else t.emit("slice", (x,), dim=axis, start=ZERO, stop=d, step=ONE)
    return x


def masked_scatter(p: Point) -> tuple[Any, ...]:
    """The masked places give theirs to the elements that were put there, in order."""
    t, g, (_, mask, source) = p.t, p.g, p.inputs
    mask = t.reshape(t.expand(mask, *t.dims(g)), -1)
    at = t.where(mask, t.sub(t.cumsum(t.cast(mask, "int64"), 0), 1), 0)
    flat = t.where(mask, t.reshape(g, -1), 0.0)
    taken = t.index_add(t.reshape(t.zeros_like(source), -1), 0, at, flat)
    return t.where(t.reshape(mask, *t.dims(g)), 0.0, g), None, t.reshape(taken, *t.dims(source))
