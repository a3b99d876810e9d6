"""Random numbers in kernels: a function of a seed and of positions, so that a second pass draws the same ones."""

from __future__ import annotations

from typing import Any

from tessera.diag import ShapeError
from tessera.frontend.handles import PoisonHandle
from tessera.frontend.kernel.compute import block
from tessera.frontend.kernel.session import KernelSession
from tessera.frontend.kernel.values import OnChip
from tessera.ir.dim import Dim
from tessera.ir.dtype import f32

_ROUNDS = 10
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85
_WORD = 0xFFFFFFFF
#: The distance of the numbers that are drawn. Where nothing is kept, what is kept is divided by this and not by 0, so
#: that its gradients are numbers.
_LEAST = 2.0**-24
#: Counters of one draw.
_COUNTERS = 4


def dropout(k: KernelSession, x: Any, p: Any, seed: Any, offset: Any = 0) -> Any:
    """``offset`` is the position of the first element, an int for each axis; ints before these are further counters,
    four at most with them, and ones that are left out are 0.
    """
    x = block(k, x)
    if isinstance(x, PoisonHandle):
        return x
    given = tuple(offset) if isinstance(offset, tuple | list) else (offset,)
    rank = len(x.dims)
    if rank > _COUNTERS or len(given) > _COUNTERS:
        return k.fault(ShapeError, "TSR0204", f"dropout at {max(rank, len(given))} positions", helps=["give at most 4"])
    given = (*(0 for _ in range(_COUNTERS - len(given))), *given)
    counters = [_counter(k, x.dims, axis, start) for axis, start in enumerate(given, rank - _COUNTERS)]
    word = _philox(k, counters[::-1], seed)
    unit = k.do("mul", k.do("cast", k.do("shift_right", word, 8), f32), _LEAST)
    share = k.do("maximum", k.do("sub", 1.0, p), _LEAST) if isinstance(p, OnChip) else max(1.0 - p, _LEAST)
    kept = k.do("div", x, share)
    return k.do("where", k.do("ge", unit, p), kept, 0.0)


def _counter(k: KernelSession, dims: tuple[Dim, ...], axis: int, start: Any) -> Any:
    """Positions along an axis of a block, in a shape that broadcasts with it; of no axis, the start alone."""
    if axis < 0:
        return k.do("add", k.do("full", tuple(1 for _ in dims), 0), start)
    line = k.do("add", k.do("arange", k.given(dims[axis])), start)
    return k.do("reshape", line, tuple(k.given(d) if n == axis else 1 for n, d in enumerate(dims)))


def _philox(k: KernelSession, counters: list[Any], seed: Any) -> Any:
    """The first word of Philox 4x32-10 (Salmon et al. 2011) for four counters below 2**32 and a seed of 64 bits.

    Words are kept in int64: the upper half of a product of two is right although its sign is not.
    """

    def word(x: Any) -> Any:
        return k.do("bitwise_and", x, _WORD)

    def high(x: Any) -> Any:
        return word(k.do("shift_right", x, 32))

    def mixed(x: Any, *others: Any) -> Any:
        for one in others:
            x = k.do("bitwise_xor", x, one)
        return x

    whole = k.do("add", k.do("full", (), 0), seed)
    keys = [word(whole), high(whole)]
    c0, c1, c2, c3 = map(word, counters)
    for number in range(_ROUNDS):
        if number:
            keys = [word(k.do("add", key, step)) for key, step in zip(keys, _WEYL, strict=True)]
        left, right = k.do("mul", c0, _MULTIPLIERS[0]), k.do("mul", c2, _MULTIPLIERS[1])
        c0, c2 = mixed(high(right), c1, keys[0]), mixed(high(left), c3, keys[1])
        c1, c3 = word(right), word(left)
    return c0
