"""Memory layout of views, symbolically: whether torch's ``reshape`` would share memory or copy."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.ir.dim import Dim
from tessera.ir.graph import Operation

ONE = Dim.const(1)
Strides = tuple[Dim, ...]


def dense(dims: Sequence[Dim]) -> Strides:
    """The strides, in elements, of a row-major block.

    >>> [str(s) for s in dense([Dim.name("B"), Dim.name("S"), Dim.const(4)])]
    ['4*S', '4', '1']
    """
    found: list[Dim] = []
    step = ONE
    for d in reversed(dims):
        found.append(step)
        step = step * d
    return tuple(reversed(found))


def of_view(base: Sequence[Dim], steps: Sequence[Operation]) -> Strides | None:
    """The strides of a view of a dense block; None when they are not known."""
    dims, strides = tuple(base), dense(base)
    for step in steps:
        new = step.result.type.dims
        found = _after(step, dims, strides, new)
        if found is None:
            return None
        dims, strides = new, found
    return strides


def _after(step: Operation, dims: Sequence[Dim], strides: Strides, new: Sequence[Dim]) -> Strides | None:
    attrs = step.attrs
    match step.record.name:
        case "detach":
            return strides
        case "permute":
            return tuple(strides[int(n)] for n in attrs["dims"])  # type: ignore[union-attr,arg-type]
        case "unsqueeze":
            at = int(attrs["dim"])  # type: ignore[arg-type]
            return (*strides[:at], ONE, *strides[at:])
        case "squeeze":
            return tuple(s for n, s in enumerate(strides) if n not in attrs["dim"])  # type: ignore[operator]
        case "slice":
            at, by = int(attrs["dim"]), Dim.of(attrs["step"])  # type: ignore[arg-type]
            return tuple(s * by if n == at else s for n, s in enumerate(strides))
        case "expand":
            lead = len(new) - len(dims)
            zero = Dim.const(0)
            grown = [
                zero if d is ONE and new[lead + n] is not ONE else s
                for n, (d, s) in enumerate(zip(dims, strides, strict=True))
            ]
            return (*([zero] * lead), *grown)
        case "reshape":
            return reshaped(dims, strides, new)
    return None


def reshaped(dims: Sequence[Dim], strides: Strides, new: Sequence[Dim]) -> Strides | None:
    """The strides after a reshape that shares memory; None when it has to copy, or when that depends on sizes.

    Neighbouring dims that lie in one run of memory may be cut anew; runs may not be joined.

    >>> x = [Dim.const(n) for n in (2, 3, 4)]
    >>> reshaped(x, dense(x), [Dim.const(24)]) == (ONE,)
    True
    >>> turned = (Dim.const(4), Dim.const(12), ONE)
    >>> reshaped([x[1], x[0], x[2]], turned, [Dim.const(24)]) is None
    True
    """
    real = [(d, s) for d, s in zip(dims, strides, strict=True) if d is not ONE]
    wanted = [n for n, d in enumerate(new) if d is not ONE]
    found: dict[int, Dim] = {}
    while real:
        size, inner = real.pop()
        run, next_stride = size, inner * size
        while real and real[-1][1] is next_stride:
            size = real.pop()[0]
            run, next_stride = run * size, next_stride * size
        taken, step = ONE, inner
        while wanted and taken is not run:
            at = wanted.pop()
            found[at] = step
            taken, step = taken * new[at], step * new[at]
        if taken is not run:
            return None
    return None if wanted else tuple(found.get(n, ONE) for n in range(len(new)))


def is_dense(dims: Sequence[Dim], strides: Strides | None) -> bool:
    """Whether a view is itself a dense row-major block; the strides of dims of size 1 do not matter."""
    return strides is not None and all(d is ONE or s is t for d, s, t in zip(dims, strides, dense(dims), strict=True))
