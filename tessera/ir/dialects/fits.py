"""What calls ask of the sizes of a second tensor: those of another one, of a part of it, or less.

Nothing broadcasts here: a parameter of a layer, the source of an update and the targets of a loss have the very sizes
that the first tensor says.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tessera.ir.dim import Dim
from tessera.ir.infer import ONE, Blame, Refused


def need_shape(t: Any, x: Any, dims: Sequence[Dim], what: str) -> None:
    """Refuse a tensor of another rank (TSR0204) or of other sizes (TSR0202) than ``dims``; None is let through."""
    if x is None:
        return
    have = t.dims(x)
    need_one_rank(t, x, (len(dims),), what)
    for axis, (a, b) in enumerate(zip(have, dims, strict=True)):
        _need_size(t, x, axis, a, b, what)


def need_expand(t: Any, x: Any, dims: Sequence[Dim], what: str) -> None:
    """Refuse a tensor that cannot be expanded to ``dims``: TSR0204 for more axes, TSR0202 for another size."""
    if x is None or not t.is_tensor(x):
        return
    have = t.dims(x)
    need_one_rank(t, x, range(len(dims) + 1), what)
    for axis, (a, b) in enumerate(zip(have, dims[len(dims) - len(have) :], strict=True)):
        if a is not ONE:
            _need_size(t, x, axis, a, b, what)


def need_one_rank(t: Any, x: Any, ranks: Sequence[int], what: str) -> None:
    """Refuse a tensor whose rank is not among some (TSR0204)."""
    rank = len(t.dims(x))
    if rank not in ranks:
        words = f"at most {ranks[-1]}" if ranks[0] == 0 and len(ranks) > 2 else " or ".join(map(str, ranks))
        words = f"at least {ranks[0]}" if len(ranks) > 2 and ranks[0] else words
        blame = Blame(0, None, f"has rank {rank}, not {words}")
        raise Refused.about("TSR0204", f"{what} of rank {rank}", (t.operand(x),), (blame,))


def need_source(t: Any, x: Any, axis: int, index: Any, source: Any, what: str) -> None:
    """Refuse an index that is no vector, and a source that is not ``x`` with one slice for each position."""
    need_one_rank(t, index, (0, 1), f"{what} at an index")
    if len(t.dims(x)) and len(t.dims(source)):
        count = t.type_of(index).numel
        need_one_rank(t, source, (len(t.dims(x)),), f"{what} of a source")
        slices = t.dims(source)[axis]
        if not t.context.holds("eq", count, slices, f"{what} of `{slices}` slices at `{count}` positions"):
            raise Refused.about(
                "TSR0215", f"{what} of `{slices}` slices at `{count}` positions", (t.operand(index), t.operand(source)),
                (Blame(0, 0 if t.dims(index) else None, f"`{count}`"), Blame(1, axis, f"`{slices}`")),
            )  # fmt: skip
        need_shape(t, source, [slices if n == axis else d for n, d in enumerate(t.dims(x))], f"{what} of a source")


def _need_size(t: Any, x: Any, axis: int, have: Dim, want: Dim, what: str) -> None:
    message = f"{what} of size `{have}` for `{want}`"
    if not t.context.holds("eq", have, want, message):
        raise Refused.about("TSR0202", message, (t.operand(x),), (Blame(0, axis, f"`{have}`, not `{want}`"),))
