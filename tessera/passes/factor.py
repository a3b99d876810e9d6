"""Derivatives of a number that are computed with the number itself.

A derivative is linear in the cotangent that it begins with. Where that is one number g, every cotangent that follows is
g times what it is for g = 1, which depends on no cotangent: it can be computed by the call, next to the values that it
is made from, and be multiplied later. That pays where operations of the function and of its derivative then run block
by block (see ``blocks``), so that neither the values nor their cotangents are ever there as a whole: what is kept from
the call on are the gradients behind them, which the backward pass would have to give in any case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tessera.ir.build import names_of, numbered
from tessera.ir.dialects import OPS
from tessera.ir.flops import nbytes
from tessera.ir.graph import Attr, Function, Literal, Note, Operand, Operation, Value
from tessera.ir.origin import GRAD, region_of
from tessera.passes.autodiff import Joint, is_float
from tessera.passes.blocks import Run, largest, wide
from tessera.passes.merge import merged


@dataclass(frozen=True, slots=True)
class _Late:
    """A function with its derivative, and those of its operations that depend on the only cotangent."""

    f: Function
    cotangent: Value
    ops: frozenset[Operation]


def early(joint: Joint, sizes: Mapping[str, int]) -> Joint | None:
    """The function with those cotangents for g = 1 that belong to a run by blocks, and their products with g where
    others read them; None where there is no such run, or where what is kept for it is larger than what it saves.
    """
    late = _late(replace(joint, function=merged(joint.function)))
    found = None if late is None else largest(_at_one(late, late.ops), sizes)
    if late is None or found is None:
        return None
    behind = _behind(late, found)
    if not behind or behind >= set(found.ops) or any(region_of(op) for op in found.ops):
        return None
    if any(r.type.dtype is not late.cotangent.type.dtype for op in behind for r in op.results if is_float(r)):
        return None
    scaled, kept = _scaled(late, behind, joint.outputs)
    if sum(nbytes(v.type).evaluate(sizes) for v in kept) >= found.bytes:
        return None
    text = f"{', '.join(v.name for v in kept)} before {late.cotangent.name} is known"
    return replace(joint, function=scaled.with_note(Note("factor", 0.0, text)))


def _late(joint: Joint) -> _Late | None:
    """What depends on the cotangent, where that is one number with room for what is multiplied by it later."""
    f = joint.function
    if len(joint.given) != 1:
        return None
    (g,) = f.params[len(f.params) - 1 :]
    if g.type.dims or not wide(g.type.dtype):
        return None
    reached, ops = {g}, set[Operation]()
    for op in f.ops:
        if any(v in reached for v in op.inputs):
            reached.update(op.results)
            ops.add(op)
    return _Late(f, g, frozenset(ops))


def _at_one(late: _Late, ops: frozenset[Operation] | set[Operation]) -> Function:
    """The function with 1 for the cotangent in some of its operations."""
    one = Value(numbered("one_", names_of(late.f)), late.cotangent.type)
    attrs: dict[str, Attr] = {"shape": (), "dtype": one.type.dtype}
    first = Operation(OPS["full"], (Literal(1.0),), (one,), attrs, origin=f"one{GRAD}")
    swaps: dict[Operand, Operand] = {late.cotangent: one}
    made = (
        op.with_operands(tuple(swaps.get(x, x) for x in op.operands)) if op in ops else op for op in late.f.ops
    )  # fmt: skip
    return late.f.with_ops((first, *made))


def _behind(late: _Late, found: Run) -> set[Operation]:
    """The operations of a run that depend on the cotangent, with everything between this and them. A run is in terms of
    operations with other operands, but with the same results.
    """
    inside = {r for op in found.ops for r in op.results}
    needed: set[Value] = set()
    behind: set[Operation] = set()
    for op in reversed(late.f.ops):
        if op in late.ops and any(r in inside or r in needed for r in op.results):
            behind.add(op)
            needed.update(op.inputs)
    return behind


def _scaled(late: _Late, behind: set[Operation], outputs: int) -> tuple[Function, list[Value]]:
    """The function with some operations for g = 1 and products with g of what others read of them; and what these are
    products of.
    """
    f = _at_one(late, behind)
    names = names_of(f)
    own = {r for op in behind for r in op.results}
    others = [op for op in f.ops if not any(r in own for r in op.results)]
    read = {v for op in others for v in op.inputs} | {v for v in f.outputs[outputs:] if isinstance(v, Value)}
    kept = [r for op in f.ops for r in op.results if r in own and r in read]
    times = {v: Value(numbered(f"{v.name}_g", names), v.type) for v in kept}

    def now(x: Operand) -> Operand:
        return times.get(x, x) if isinstance(x, Value) else x

    ops: list[Operation] = []
    for op in f.ops:
        mine = any(r in own for r in op.results)
        ops.append(op if mine else op.with_operands(tuple(map(now, op.operands))))
        for r in (r for r in op.results if r in times):
            ops.append(Operation(OPS["mul"], (r, late.cotangent), (times[r],), origin=f"mul{GRAD}"))
    given = tuple(now(x) if n >= outputs else x for n, x in enumerate(f.outputs))
    return f.with_ops(tuple(ops), given), kept


__all__ = ["early"]
