"""A contraction as what it is short for: products of everything with everything, and their sum."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import contracted_dtype, letters
from tessera.ir.graph import Attr, Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.types import TensorType


def as_sums(ops: Sequence[Operation]) -> list[Operation]:
    """The operations with every contraction written as views, a product and a sum."""
    return [made for op in ops for made in (_sum(op) if op.record.kind is Kind.CONTRACT else (op,))]


def _sum(op: Operation) -> Iterator[Operation]:
    left, right, result = letters(op)
    summed = "".join(c for c in left if c not in result)
    every, dtype = result + summed, contracted_dtype(op)
    dims = {}
    for part, x in zip((left, right), op.operands, strict=True):
        dims.update({c: d for c, d in zip(part, x.type.dims, strict=True) if d is not ONE or c not in dims})
    factors: list[Operand] = []
    for part, x in zip((left, right), op.operands, strict=True):
        for view in _spread(op, x, part, every):
            yield view
            x = view.result
        factors.append(x)
    product = Value(f"{op.result.name}_products", TensorType(dtype, tuple(dims[c] for c in every)))
    yield replace(op, record=OPS["mul"], operands=tuple(factors), results=(product,), attrs={})
    folded = tuple(range(len(result), len(every)))
    total = op.result if op.result.type.dtype is dtype else Value(f"{op.result.name}_sum", _like(op.result, dtype))
    attrs: dict[str, Attr] = {"dim": folded, "keepdim": False}
    yield replace(op, record=OPS["sum"], operands=(product,), results=(total,), attrs=attrs)
    if total is not op.result:
        yield replace(op, record=OPS["cast"], operands=(total,), attrs={"dtype": op.result.type.dtype})


def _like(v: Value, dtype: object) -> TensorType:
    kind = v.type
    assert isinstance(kind, TensorType)
    return replace(kind, dtype=dtype)  # type: ignore[arg-type]


def _spread(op: Operation, x: Operand, part: str, every: str) -> Iterator[Operation]:
    """Views that bring an operand's axes into the order of ``every``, with axes of size 1 for those it lacks."""
    present = [c for c in every if c in part]
    order: tuple[Attr, ...] = tuple(part.index(c) for c in present)
    kind = x.type
    assert isinstance(kind, TensorType)
    if order != tuple(range(len(part))):
        kind = TensorType(kind.dtype, tuple(kind.dims[int(a)] for a in order))  # type: ignore[arg-type]
        x = Value(f"{op.result.name}_{part}", kind)
        yield replace(op, record=OPS["permute"], operands=_of(op, part), results=(x,), attrs={"dims": order})
    for axis, c in enumerate(every):
        if c not in part:
            kind = TensorType(kind.dtype, (*kind.dims[:axis], ONE, *kind.dims[axis:]))
            view = Value(f"{op.result.name}_{part}{axis}", kind)
            yield replace(op, record=OPS["unsqueeze"], operands=(x,), results=(view,), attrs={"dim": axis})
            x = view


def _of(op: Operation, part: str) -> tuple[Operand, ...]:
    """The operand that has these subscripts."""
    left, _, _ = letters(op)
    return (op.operands[0] if part == left else op.operands[1],)
