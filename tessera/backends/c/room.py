"""Memory of one thread that is handed out and taken back while code is written: where blocks lie between kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.backends.c.source import c_index
from tessera.ir.dim import Dim
from tessera.ir.graph import Block, Operand, Operation, Value
from tessera.ir.types import BufferType, TensorType
from tessera.schedule.plan import ZERO
from tessera.schedule.ranges import bounds

#: Bytes of a cache line, at which every slot begins.
LINE = 64
#: How often a bound that depends on further axes is bounded once more.
_ROUNDS = 8


@dataclass
class Room:
    """Slots by number. One that is taken back is handed out again where as many bytes are asked for."""

    sizes: list[Dim] = field(default_factory=list)
    free: dict[Dim, list[int]] = field(default_factory=dict)

    def take(self, nbytes: Dim) -> int:
        """A slot of so many bytes."""
        waiting = self.free.get(nbytes)
        if waiting:
            return waiting.pop()
        self.sizes.append(nbytes)
        return len(self.sizes) - 1

    def give(self, slots: Iterable[int]) -> None:
        for n in slots:
            self.free.setdefault(self.sizes[n], []).append(n)

    @property
    def total(self) -> Dim:
        """Bytes that are enough for all slots."""
        return sum((size + LINE for size in self.sizes), ZERO)

    def offsets(self, names: Mapping[str, str]) -> Iterator[str]:
        """Declarations of where the slots begin, and of where the last one ends."""
        at = "0"
        for n, size in enumerate(self.sizes):
            yield f"const i64 o{n} = {at};"
            at = f"o{n} + (({c_index(size, names)} + {LINE - 1}) & ~(i64){LINE - 1})"
        yield f"const i64 behind = {at};"


def most(e: Dim, ranges: Mapping[str, tuple[Dim, Dim]]) -> Dim | None:
    """A bound of a size that does not depend on the axes of loops; None where none is found."""
    for _ in range(_ROUNDS):
        if not e.names() & ranges.keys():
            return e if not any(n.startswith("_l") for n in e.names()) else None
        _, high = bounds(e, ranges)
        if high is None or high is e:
            return None
        e = high
    return None


def last_uses(ops: Sequence[Operation]) -> dict[Value, int]:
    """The number of the last operation that reads each value, those nested in it included."""
    return {v: n for n, op in enumerate(ops) for v in reads(op)}


def reads(op: Operation) -> Iterator[Value]:
    """What an operation of a block program reads, the operations nested in it included; a part reads its operands."""
    yield from op.inputs
    stack: list[Block] = [] if op.body is None else [op.body]
    while stack:
        block = stack.pop()
        yield from (y for y in block.yields if isinstance(y, Value))
        for inner in block.ops:
            yield from inner.inputs
            if inner.body is not None:
                stack.append(inner.body)


def tensor(x: Operand) -> TensorType:
    """The type of a block."""
    assert isinstance(x.type, TensorType)
    return x.type


def buffer(x: Operand) -> tuple[Value, BufferType]:
    """A buffer and its type."""
    assert isinstance(x, Value) and isinstance(x.type, BufferType)
    return x, x.type
