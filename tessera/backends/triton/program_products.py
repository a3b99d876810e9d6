"""Which contractions of blocks are products of matrices, and of what dtype their operands can be."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tessera.backends.triton.blocks import EIGHT, NARROW
from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import letters
from tessera.ir.dtype import DType
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind

_CAST = OPS["cast"]
#: The shortest side of a product of matrices, and the shortest that it sums over by bytes of an operand.
LEAST = 16
LEAST_INNER = {1: 32}


def source(x: Value, makers: Mapping[Value, Operation]) -> Value:
    """What a value is a conversion of without loss, where products take that."""
    op = makers.get(x)
    if op is None or op.record is not _CAST or not isinstance(op.operands[0], Value):
        return x
    old, new = op.operands[0].type.dtype, x.type.dtype
    if new.is_float:
        return op.operands[0] if old.name in (*NARROW, *EIGHT) and new.bits > old.bits else x
    return op.operands[0] if new.name == "int32" and old.name == "int8" else x


def factors(op: Operation, makers: Mapping[Value, Operation]) -> tuple[Value, Value]:
    """The operands of a contraction, narrow where they are conversions of narrow ones and can be multiplied as such."""
    a, b = (x for x in op.operands if isinstance(x, Value))
    x, y = source(a, makers), source(b, makers)
    both = {x.type.dtype.name, y.type.dtype.name}
    narrow = x is not a and y is not b and (len(both) == 1 or both <= set(EIGHT))
    return (x, y) if narrow else (a, b)


@dataclass(frozen=True, slots=True)
class Roles:
    """The letters of a contraction by what they are in it."""

    batch: str
    rows: str
    cols: str
    inner: str
    lengths: Mapping[str, int]

    @classmethod
    def of(cls, op: Operation, static: Mapping[str, int]) -> Roles:
        left, right, result = letters(op)
        lengths: dict[str, int] = {}
        for subscripts, x in zip((left, right), op.operands, strict=True):
            for c, d in zip(subscripts, x.type.dims, strict=True):
                lengths[c] = max(lengths.get(c, 1), d.evaluate(static, signed=True))
        both = [c for c in result if c in left and c in right]
        rows = [c for c in result if c in left and c not in right]
        cols = [c for c in result if c in right and c not in left]
        inner = [c for c in dict.fromkeys(left + right) if c not in result]
        return cls("".join(both), "".join(rows), "".join(cols), "".join(inner), lengths)

    def is_tiles(self, t: DType) -> bool:
        """Are these matrices that a product of tiles takes?"""
        parts = (self.rows, self.cols, self.inner)
        plain = not self.batch and all(len(p) == 1 and self.lengths[p] > 1 for p in parts)
        return plain and (t.is_float or t.name == "int8")


def is_tiles(op: Operation, makers: Mapping[Value, Operation], static: Mapping[str, int]) -> bool:
    """Is an operation a product of matrices?"""
    if op.record.kind is not Kind.CONTRACT or not all(isinstance(x, Value) for x in op.operands):
        return False
    return Roles.of(op, static).is_tiles(factors(op, makers)[0].type.dtype)


def least_lengths(
    ops: Iterable[Operation], makers: Mapping[Value, Operation], static: Mapping[str, int]
) -> dict[int, int]:
    """By length of a dim, how many lanes it has at least where products of matrices need that."""
    found: dict[int, int] = {}
    for op in ops:
        if is_tiles(op, makers, static):
            roles = Roles.of(op, static)
            inner = LEAST_INNER.get(factors(op, makers)[0].type.dtype.bytes, LEAST)
            for letters_, least in ((roles.rows + roles.cols, LEAST), (roles.inner, inner)):
                for c in letters_:
                    found[roles.lengths[c]] = max(found.get(roles.lengths[c], least), least)
    return found


__all__ = ["LEAST", "Roles", "factors", "is_tiles", "least_lengths", "source"]
