"""Reductions as their records define them: a state for every element, merged pairwise in order."""

from __future__ import annotations

from typing import Any

import numpy as np

from tessera.ir.dtype import DType
from tessera.ir.interp.convert import Array, settle
from tessera.ir.interp.namespace import NumpyNamespace
from tessera.ir.record import Reduction

State = tuple[Array, ...]


def fold(
    reduction: Reduction, t: DType, rows: Array, valid: Array | None = None, index: Array | None = None
) -> list[Array]:
    """The results over the last axis of ``rows``, elements of dtype ``t``.

    Every element makes a state of its own; neighbouring states are merged, left before right, until one is
    left. That is the order of the definition up to grouping, which ``merge`` allows. Where ``valid`` is False
    there is no element; ``index`` gives the positions, by default those along the axis.
    """
    space = NumpyNamespace()
    start, kinds = reduction.init(t), reduction.state(t)
    count = rows.shape[-1]
    at = np.arange(count, dtype=np.int64) if index is None else index
    shape = rows.shape[:-1]
    if count == 0:
        state: State = tuple(np.full(shape, settle(s, k)) for s, k in zip(start, kinds, strict=True))
        return _finish(reduction, space, state, shape)
    first = tuple(settle(s, k) for s, k in zip(start, kinds, strict=True))
    state = _settled(reduction.step(space, first, rows, at), kinds, rows.shape)
    if valid is not None:
        state = tuple(np.where(valid, s, f) for s, f in zip(state, first, strict=True))
    while count > 1:
        even = count - count % 2
        left = tuple(s[..., 0:even:2] for s in state)
        right = tuple(s[..., 1:even:2] for s in state)
        merged = _settled(reduction.merge(space, left, right), kinds, left[0].shape)
        if count % 2:
            merged = tuple(
                np.concatenate([m, s[..., -1:]], axis=-1) for m, s in zip(merged, state, strict=True)
            )
        state = merged
        count = state[0].shape[-1]
    return _finish(reduction, space, tuple(s[..., 0] for s in state), shape)


def prefixes(
    reduction: Reduction, t: DType, rows: Array, valid: Array | None = None, index: Array | None = None
) -> list[Array]:
    """What ``fold`` has reached at each element of the last axis of ``rows``, that element included.

    Every state is merged with the one that ends before it begins, which doubles its reach, until it reaches the first
    element (Hillis and Steele, Data parallel algorithms, Communications of the ACM 29, 1986).
    """
    space = NumpyNamespace()
    kinds, count = reduction.state(t), rows.shape[-1]
    at = np.arange(count, dtype=np.int64) if index is None else index
    first = tuple(settle(s, k) for s, k in zip(reduction.init(t), kinds, strict=True))
    state = _settled(reduction.step(space, first, rows, at), kinds, rows.shape)
    if valid is not None:
        state = tuple(np.where(valid, s, f) for s, f in zip(state, first, strict=True))
    reach = 1
    while reach < count:
        before, behind = (tuple(s[..., part] for s in state) for part in (slice(-reach), slice(reach, None)))
        merged = _settled(reduction.merge(space, before, behind), kinds, before[0].shape)
        state = tuple(np.concatenate([s[..., :reach], m], axis=-1) for s, m in zip(state, merged, strict=True))
        reach *= 2
    return _finish(reduction, space, state, rows.shape)


def _settled(state: Any, kinds: tuple[DType, ...], shape: tuple[int, ...]) -> State:
    return tuple(np.broadcast_to(settle(s, k), shape) for s, k in zip(state, kinds, strict=True))


def _finish(reduction: Reduction, space: NumpyNamespace, state: State, shape: tuple[int, ...]) -> list[Array]:
    with np.errstate(all="ignore"):
        return [np.broadcast_to(np.asarray(r), shape) for r in reduction.finish(space, state)]
