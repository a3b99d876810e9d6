"""Attention as one operation of kernels."""

from __future__ import annotations

from typing import Any

from tessera.diag import ShapeError
from tessera.frontend.kernel import compute, random
from tessera.frontend.kernel.session import KernelSession
from tessera.frontend.kernel.values import OnChip
from tessera.ir.dtype import bool_

_INF = float("inf")


def flash_attention(
    k: KernelSession, q: Any, keys: Any, values: Any, causal: bool = False, dropout: float = 0.0, scale: Any = None,
    mask: Any = None, seed: Any = None,
) -> Any:  # fmt: skip
    """Attention of blocks [B, S, H, D], softmax(scale·Q·Kᵀ + mask)·V; a query with nothing to attend gives 0."""
    given = [compute.block(k, x) for x in (q, keys, values)]
    if not all(isinstance(x, OnChip) for x in given):
        return k.poison
    if any(len(x.dims) != 4 for x in given):
        return k.fault(ShapeError, "TSR0204", "attention on blocks that do not have the dims [B, S, H, D]")
    if dropout and seed is None:
        return k.fault(ShapeError, "TSR0204", "dropout without a seed", helps=["`seed=` says which numbers are drawn"])
    heads, few = given[0].dims[2], given[1].dims[2]
    q, keys, values = (k.do("permute", x, (0, 2, 1, 3)) for x in given)
    if heads is not few:
        keys, values = (k.do("repeat_interleave", x, k.given(heads / few), 1) for x in (keys, values))
    scores = compute.mma(k, q, compute.transpose(k, keys))
    if not isinstance(scores, OnChip):
        return k.poison
    factor = k.do("rsqrt", k.do("cast", k.given(given[0].dims[3]), scores.dtype)) if scale is None else scale
    scores = k.do("mul", scores, factor)
    scores = _masked(k, scores, None if mask is None else compute.block(k, mask), causal)
    top = k.do("amax", scores, (-1,), keepdim=True)
    p = k.do("exp", k.do("sub", scores, k.do("where", k.do("eq", top, -_INF), 0.0, top)))
    total = k.do("sum", p, (-1,), keepdim=True)
    weights = random.dropout(k, p, dropout, seed) if dropout else p
    found = k.do("div", compute.mma(k, weights, values), k.do("where", k.do("eq", total, 0.0), 1.0, total))
    return k.do("permute", found, (0, 2, 1, 3))


def _masked(k: KernelSession, scores: Any, mask: Any, causal: bool) -> Any:
    """Scores plus a mask, or -inf where one of bools does not allow, and behind the last key that a query sees."""
    if mask is not None:
        scores = k.do("where", mask, scores, -_INF) if mask.dtype is bool_ else k.do("add", scores, mask)
    if not causal:
        return scores
    rows, columns = scores.dims[-2:]
    last = k.do("add", compute.positions(k, rows, k.given(columns - rows), 1), 0)
    return k.do("where", k.do("gt", compute.positions(k, columns, 0, 0), last), -_INF, scores)
