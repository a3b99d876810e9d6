"""Reductions in Triton, from what a record says of its fold: how an element joins, and how two parts do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tessera.ir.dtype import DType, int64
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.types import TileType
from tessera.schedule.tilebuild import Container, Expr, Namespace, TileBuilder, unwrap


@dataclass(frozen=True)
class Trace:
    """A scalar definition written out: operations over the given values, and the results."""

    ops: tuple[Operation, ...]
    results: tuple[Operand, ...]

    def reads(self, v: Value) -> bool:
        return v in self.results or any(v in op.operands for op in self.ops)


@dataclass(frozen=True)
class FoldPlan:
    """One reduction: the dtypes and start of its state, and its step, merge and finish as traces.

    ``state``, ``other``, ``element`` and ``index`` are the values that the traces read. ``plain`` says
    that a single element is its own state, because the step joins it as ``merge`` joins a part;
    ``additive`` that the state is a sum.
    """

    op: Operation
    dtypes: tuple[DType, ...]
    start: tuple[bool | int | float, ...]
    state: tuple[Value, ...]
    other: tuple[Value, ...]
    element: Value
    index: Value
    step: Trace
    merge: Trace
    finish: Trace
    plain: bool
    additive: bool


def plan_fold(op: Operation) -> FoldPlan:
    """Trace the reduction of ``op``."""
    reduction = op.record.reduction
    assert reduction is not None
    x = op.operands[0]
    assert isinstance(x, Value)
    dtype = x.type.dtype
    dtypes = reduction.state(dtype)
    state = tuple(_value(f"a{n}", t) for n, t in enumerate(dtypes))
    other = tuple(_value(f"b{n}", t) for n, t in enumerate(dtypes))
    element, index = _value("x", dtype), _value("at", int64)
    step = trace(lambda t, *e: reduction.step(t, e[:-2], e[-2], e[-1]), (*state, element, index))
    merge = trace(lambda t, *e: reduction.merge(t, e[: len(state)], e[len(state) :]), (*state, *other))
    finish = trace(lambda t, *e: reduction.finish(t, e), state)
    plain = len(state) == 1 and dtypes[0] is dtype and _same(step, merge, {element: other[0]})
    return FoldPlan(
        op,
        dtypes,
        reduction.init(dtype),
        state,
        other,
        element,
        index,
        step,
        merge,
        finish,
        plain,
        reduction.additive and plain,
    )


def _value(name: str, t: DType) -> Value:
    return Value(name, TileType(t, ()))


def trace(define: Callable[..., Any], args: Sequence[Value]) -> Trace:
    """Run a scalar definition over values and keep what it emits."""
    top = Container()
    namespace = Namespace(TileBuilder(top, {}))
    results = define(namespace, *(Expr(namespace, a) for a in args))
    return Trace(tuple(top.ops), tuple(unwrap(r) for r in results))


def _same(a: Trace, b: Trace, rename: dict[Value, Value]) -> bool:
    """Do two traces do the same, given which value of the one stands for which of the other?"""

    def seen(x: Operand) -> Operand:
        return x if isinstance(x, Literal) else rename.get(x, x)

    if len(a.ops) != len(b.ops):
        return False
    for p, q in zip(a.ops, b.ops, strict=True):
        if p.record is not q.record or tuple(map(seen, p.operands)) != q.operands or dict(p.attrs) != dict(q.attrs):
            return False
        rename = {**rename, p.results[0]: q.results[0]}
    return tuple(map(seen, a.results)) == b.results
