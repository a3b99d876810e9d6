"""Questions about a block that passes and schedulers ask: how often a value is read and for how long, what
depends on what, how many bytes it takes.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tessera.ir.dim import Dim, product
from tessera.ir.graph import Block, Operation, Value, walk
from tessera.ir.types import ScalarType, TileType


def use_counts(block: Block) -> dict[Value, int]:
    """How often each value is read: by operations, nested ones included, and by what the block yields."""
    counts: dict[Value, int] = {}
    for op in walk(block):
        for v in op.inputs:
            counts[v] = counts.get(v, 0) + 1
    for x in block.yields:
        if isinstance(x, Value):
            counts[x] = counts.get(x, 0) + 1
    return counts


def last_uses(block: Block) -> dict[Value, int]:
    """The number of the last operation of the block that reads each value, ``len(block.ops)`` for what it
    yields.

    A group reads what its body reads. Values that nothing reads are absent.
    """
    last: dict[Value, int] = {}
    for number, op in enumerate(block.ops):
        for v in op.inputs:
            last[v] = number
        if op.body is not None:
            for inner in walk(op.body):
                for v in inner.inputs:
                    last[v] = number
    for x in block.yields:
        if isinstance(x, Value):
            last[x] = len(block.ops)
    return last


def dead_after(block: Block) -> list[list[Value]]:
    """For each operation of the block, the values that no later one reads; unread results die where they
    are made.
    """
    last = last_uses(block)
    dead: list[list[Value]] = [[] for _ in block.ops]
    for v, number in last.items():
        if number < len(dead):
            dead[number].append(v)
    for number, op in enumerate(block.ops):
        dead[number].extend(r for r in op.results if r not in last)
    return dead


class Dependence:
    """Which operations of a block depend on which, directly or through others, as bit sets.

    ``ops`` are taken in order, so an operation depends on earlier ones only. Building takes one pass; a
    question takes a shift.
    """

    def __init__(self, ops: Sequence[Operation]) -> None:
        self.ops = tuple(ops)
        self._number = {op: n for n, op in enumerate(self.ops)}
        maker = {r: n for n, op in enumerate(self.ops) for r in op.results}
        self._above: list[int] = []
        for op in self.ops:
            bits = 0
            for v in op.inputs:
                n = maker.get(v)
                if n is not None:
                    bits |= self._above[n] | (1 << n)
            self._above.append(bits)

    def depends(self, later: Operation, earlier: Operation) -> bool:
        """Whether ``later`` needs ``earlier`` to have run."""
        return bool(self._above[self._number[later]] >> self._number[earlier] & 1)

    def convex(self, group: Iterable[Operation]) -> bool:
        """Whether the group can run as one: nothing outside lies on a path from one member to another."""
        members = [self._number[op] for op in group]
        inside = sum(1 << n for n in set(members))
        if not members:
            return True
        for n in range(min(members), max(members)):
            if (
                not inside >> n & 1
                and self._above[n] & inside
                and any(self._above[m] >> n & 1 for m in members)
            ):
                return False
        return True


def value_bytes(v: Value) -> Dim:
    """The bytes that a value takes in dense memory; a block value or a scalar has the size of one element."""
    kind = v.type
    if isinstance(kind, TileType | ScalarType):
        return Dim.const(kind.dtype.bytes)
    return product(kind.dims) * kind.dtype.bytes
