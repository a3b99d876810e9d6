"""Scans: folds that keep what they have reached at every element of one axis.

A scan is a ``Reduction`` like those of ``reduce``; its result at a position is the fold of all elements up to there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tessera.ir.derive import Derivative
from tessera.ir.dialects import adjoints
from tessera.ir.dialects.composite_reduce import Extreme
from tessera.ir.dialects.composite_shape import axis_of
from tessera.ir.dialects.reduce import add_up, highest, lowest, multiply
from tessera.ir.dialects.rules import FLOATING, OperandsAs, torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dialects.shape import Attrs, Types, axis_attr
from tessera.ir.dtype import DType, compute_dtype, int64
from tessera.ir.infer import InferContext
from tessera.ir.record import Infer, Kind, OpRecord, Reduction
from tessera.ir.types import TensorType, Type


def _like(*dtypes: DType | None) -> Infer:
    """Results of the operand's shape, each with its dtype or the operand's own."""

    def infer(ctx: InferContext, types: Types, attrs: Attrs) -> tuple[TensorType, ...]:
        x = types[0]
        ctx.axis(axis_attr(attrs), x.rank)
        return tuple(TensorType(d or x.dtype, x.dims) for d in dtypes)

    return infer


def _wide_ints(types: Sequence[Type]) -> tuple[DType | None, ...]:
    """Bools and integers add up and multiply in int64."""
    return (None if types[0].dtype.is_float else int64,)


# --- sums and products ------------------------------------------------------------------------------------------------


def _cumulative(name: str) -> Callable[..., Any]:
    def define(t: Any, x: Any, dim: int, *, dtype: Any = None) -> Any:
        found = t.emit(name, (x if dtype is None else t.cast(x, dtype),), dim=axis_of(t, x, dim))
        return found if dtype is None else t.cast(found, dtype)

    return define


def _log_sum_exp() -> Reduction:
    """The largest element so far, and the sum of the exponentials of all relative to it."""

    def merge(t: Any, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        high, low = t.maximum(a[0], b[0]), t.minimum(a[0], b[0])
        # Equal ones may be infinite, and then have no difference.
        shrunk = t.exp(t.where(high == low, 0.0, low - high))
        first = a[0] >= b[0]
        return high, t.where(first, a[1], b[1]) + t.where(first, b[1], a[1]) * shrunk

    return Reduction(
        lambda d: (-math.inf, 0.0),
        lambda t, state, x, index: merge(t, state, (x, 1.0)),
        merge,
        lambda d: (compute_dtype(d), compute_dtype(d)),
        lambda t, state: (state[0] + t.log(state[1]),),
        rounds=True,
        one=lambda t, x, index: (x, 1.0),
    )


# --- running extremes -------------------------------------------------------------------------------------------------


def _running(better: Callable[[Any, Any, Any], Any], start: Callable[[DType], float | int]) -> Reduction:
    """The best so far and where it was: the last of equal ones, and a NaN before every number."""

    def wins(t: Any, x: Any, best: Any) -> Any:
        return t.logical_or(better(t, x, best), t.logical_and(x != x, best == best))

    def step(t: Any, state: tuple[Any, ...], x: Any, index: Any) -> tuple[Any, ...]:
        stays = wins(t, state[0], x)
        return t.where(stays, state[0], x), t.where(stays, state[1], index)

    def merge(t: Any, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        # No elements stand at -1, so that they lose against an element that is as good as the start.
        stays = t.logical_or(wins(t, a[0], b[0]), t.logical_and(t.logical_not(wins(t, b[0], a[0])), a[1] > b[1]))
        return t.where(stays, a[0], b[0]), t.where(stays, a[1], b[1])

    return Reduction(lambda d: (start(d), -1), step, merge, lambda d: (compute_dtype(d), int64))


def _running_reference(best: Callable[[Any, Any], Any]) -> Callable[..., Any]:
    def reference(x: Any, *, dim: int) -> Any:
        if x.ndim == 0:
            return x.copy(), np.zeros((), np.int64)
        moved = np.moveaxis(np.array(x), dim, 0)
        values, at = moved.copy(), np.zeros(moved.shape, np.int64)
        for n in range(1, len(moved)):
            wins = (best(moved[n], values[n - 1]) | np.isnan(moved[n])) & ~(
                np.isnan(values[n - 1]) & ~np.isnan(moved[n])
            )
            values[n] = np.where(wins, moved[n], values[n - 1])
            at[n] = np.where(wins, n, at[n - 1])
        return np.moveaxis(values, 0, dim), np.moveaxis(at, 0, dim)

    return reference


def _running_call(name: str) -> Callable[..., Any]:
    def define(t: Any, x: Any, dim: int) -> Any:
        return Extreme(*t.emit(name, (x,), dim=axis_of(t, x, dim)))

    return define


def _lowest(t: DType) -> bool | float | int:
    return False if t.is_bool else lowest(t)


def _highest(t: DType) -> bool | float | int:
    return True if t.is_bool else highest(t)


# --- records ----------------------------------------------------------------------------------------------------------


def _scan(
    name: str,
    signature: str,
    doc: str,
    infer: Infer,
    reduction: Reduction,
    reference: Callable[..., Any],
    define: Callable[..., Any],
    as_: OperandsAs | None = None,
    more: tuple[Any, ...] = (),
    flops: int = 1,
    derivative: Derivative | None = None,
) -> OpRecord:
    first = (call(T(("B", "S", "D")), -1), call(T(("B", "S"), "bf16"), 0))
    return OpRecord(
        name, Kind.SCAN, signature, doc, infer, as_, reduction=reduction, reference=reference, call=define,
        torch=torch_names(name, "t", "m"), methods=(name,), samples=samples(*first, *more), flops=flops,
        derivative=derivative,
    )  # fmt: skip


OPS: tuple[OpRecord, ...] = (
    _scan("cumsum", "x: tensor, dim: dim", "Sums of all prefixes along an axis.", _like(None), add_up(),
          lambda x, *, dim: np.cumsum(x, dim) if x.ndim else x, _cumulative("cumsum"), _wide_ints,
          (call(T(("B", "S"), "int32", 9), 1),), derivative=adjoints.CUMSUM),
    _scan("cumprod", "x: tensor, dim: dim", "Products of all prefixes along an axis.", _like(None), multiply(),
          lambda x, *, dim: np.cumprod(x, dim) if x.ndim else x, _cumulative("cumprod"), _wide_ints,
            derivative=adjoints.CUMPROD),
    _scan("logcumsumexp", "x: tensor float, dim: dim", "The logsumexp of all prefixes along an axis.", _like(None),
          _log_sum_exp(), lambda x, *, dim: np.logaddexp.accumulate(x, axis=dim) if x.ndim else x.copy(),
          _cumulative("logcumsumexp"), FLOATING.operands_as, flops=24, derivative=adjoints.LOGCUMSUMEXP),
    _scan("cummax", "x: tensor, dim: dim", "Largest values of all prefixes, and where they were.", _like(None, int64),
          _running(lambda t, x, best: x > best, _lowest), _running_reference(lambda a, b: a >= b),
          _running_call("cummax"), flops=2, derivative=adjoints.POSITION),
    _scan("cummin", "x: tensor, dim: dim", "Smallest values of all prefixes, and where they were.",
          _like(None, int64), _running(lambda t, x, best: x < best, _highest),
          _running_reference(lambda a, b: a <= b), _running_call("cummin"), flops=2, derivative=adjoints.POSITION),
)  # fmt: skip
