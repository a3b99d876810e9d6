"""Memory of one thread that is handed out and taken back while code is written: where blocks lie between kernels."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.backends.c.source import c_index
from tessera.ir.dim import Dim, build_atom
from tessera.ir.graph import Block, Operand, Operation, Value
from tessera.ir.types import BufferType, TensorType
from tessera.schedule.plan import ZERO

#: Bytes of a cache line, at which every slot begins.
LINE = 64
#: Atoms of sizes that divide.
_DIVISIONS = ("//", "%", "ceildiv", "/")


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


def divisors(d: Dim) -> Iterator[Dim]:
    """The sizes that a size expression divides by, constants left out.

    >>> [str(e) for e in divisors(Dim.name("V") // Dim.name("b") + Dim.name("D") // 2)]
    ['b']
    """
    for atom in d.atoms.values():
        for e in atom.args:
            yield from divisors(e)
        if atom.kind in _DIVISIONS and not atom.args[1].is_const:
            yield atom.args[1]
    for base in {base for monomial, _ in d.terms for base, power in monomial if power < 0}:
        yield Dim.name(base) if base not in d.atoms else build_atom(d.atoms[base].kind, d.atoms[base].args)


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
