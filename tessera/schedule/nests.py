"""Which loops a region needs: its stored values grouped into nests, with temporaries where one nest is not enough.

A nest has parallel axes and sweeps over further axes. Every reduction in a nest leaves exactly its parallel axes. A
value that breaks this (a reduction of reduced values, a whole-tensor sum, a reduced value read at other positions) is
stored in a temporary by an earlier nest of the same kernel.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tessera.ir.dim import Dim
from tessera.ir.folds import FOLDS, folded_axes
from tessera.ir.graph import Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.types import TensorType


@dataclass(frozen=True, slots=True)
class Signature:
    """The loops of a nest: the dims of the space it runs over, and which of them are folded (empty for a map).

    With a ``chunk`` the folded dims count as one axis that is cut into pieces of so many elements; the piece number is
    then the first parallel axis.
    """

    dims: tuple[Dim, ...]
    folded: tuple[int, ...]
    chunk: int = 0

    @property
    def kept(self) -> tuple[int, ...]:
        return tuple(a for a in range(len(self.dims)) if a not in self.folded)


@dataclass
class NestPlan:
    """Values that one nest stores, in source order."""

    signature: Signature
    level: int
    targets: list[Value] = field(default_factory=list)


@dataclass
class RegionPlan:
    """The nests of a region, in order, and the values that live in temporaries."""

    nests: list[NestPlan]
    temps: list[Value]


class Analysis:
    """Facts about the body of one region, given the set of values that are stored (``stored``).

    The folds in ``across`` are made by the nest that goes along the rows of their operand.
    """

    def __init__(
        self, ops: Iterable[Operation], outputs: Iterable[Value], across: frozenset[Operation] = frozenset()
    ) -> None:
        self.across = across
        self.ops = tuple(ops)
        self.maker: Mapping[Value, Operation] = {r: op for op in self.ops for r in op.results}
        self.outputs = tuple(outputs)
        self.temps: list[Value] = []

    def reductions(self, v: Value) -> list[Operation]:
        """The reductions and scans that ``v`` depends on without passing through a temporary, nearest last."""
        found: dict[Operation, None] = {}
        seen: set[Value] = {v}
        stack = [v]
        while stack:
            u = stack.pop()
            op = self.maker.get(u)
            if op is None or (u in self.temps and u is not v):
                continue
            if op.record.kind in FOLDS:
                found[op] = None
            for x in op.inputs:
                if x not in seen:
                    seen.add(x)
                    stack.append(x)
        order = {op: i for i, op in enumerate(self.ops)}
        return sorted(found, key=order.__getitem__)

    def signature(self, op: Operation) -> Signature:
        """The loops that a reduction or a scan runs over."""
        if op in self.across:
            dims = tuple(op.operands[0].type.dims)
            return Signature(dims, (len(dims) - 1,))
        chunk = op.attrs.get("chunk", 0)
        assert isinstance(chunk, int)
        return Signature(tuple(op.operands[0].type.dims), folded_axes(op), chunk)

    def level(self, v: Value) -> int:
        """How many nests must have run before ``v`` can be computed."""
        seen: set[Value] = {v}
        stack, below = [v], -1
        while stack:
            u = stack.pop()
            op = self.maker.get(u)
            if op is None:
                continue
            if u in self.temps and u is not v:
                below = max(below, self.levels[u])
                continue
            for x in op.inputs:
                if x not in seen:
                    seen.add(x)
                    stack.append(x)
        return below + 1

    def cut(self) -> None:
        """Choose temporaries until every stored value depends on reductions of at most one signature."""
        for op in self.ops:
            if op.record.kind not in FOLDS:
                continue
            mine = self.signature(op)
            operand = op.operands[0]
            if isinstance(operand, Value) and any(self.signature(r) != mine for r in self.reductions(operand)):
                self.store(operand)
        for v in (*self.outputs, *self.temps):
            own = self.maker[v]
            found = self.reductions(v)
            signatures = {self.signature(r) for r in found}
            if len(signatures) < 2:
                continue
            keep = self.signature(own) if own.record.kind in FOLDS else best(signatures, v)
            for r in found:
                if self.signature(r) != keep:
                    for result in r.results:
                        self.store(result)

    def store(self, v: Value) -> None:
        if v in self.maker and v not in self.temps:
            self.temps.append(v)

    def plan(self) -> RegionPlan:
        """Group what is stored into nests that can run one after the other."""
        self.cut()
        self.levels: dict[Value, int] = {}
        targets = list(dict.fromkeys((*self.outputs, *self.temps)))
        order = {r: i for i, op in enumerate(self.ops) for r in op.results}
        targets.sort(key=order.__getitem__)
        nests: list[NestPlan] = []
        for v in targets:
            self.levels[v] = self.level(v)
        # Nests with reductions first: a map over the same space then joins one instead of opening its own.
        for v in sorted(targets, key=lambda v: not self.reductions(v)):
            self.assign(v, nests)
        nests.sort(key=lambda n: (n.level, order[n.targets[0]]))
        return RegionPlan(nests, [t for t in self.temps if t not in self.outputs])

    def assign(self, v: Value, nests: list[NestPlan]) -> None:
        found = self.reductions(v)
        level = self.levels[v]
        if found:
            wanted = self.signature(found[-1])
            for nest in nests:
                if nest.signature == wanted and nest.level == level:
                    nest.targets.append(v)
                    return
            nests.append(NestPlan(wanted, level, [v]))
            return
        dims = tuple(d for d in v.type.dims if d is not ONE)
        for nest in nests:
            space = tuple(d for d in nest.signature.dims if d is not ONE)
            if nest.level == level and space == dims and not nest.signature.folded:
                nest.targets.append(v)
                return
            if nest.level >= level and space == dims:
                nest.targets.append(v)
                return
        assert isinstance(v.type, TensorType)
        nests.append(NestPlan(Signature(v.type.dims, ()), level, [v]))


def best(signatures: Iterable[Signature], v: Value) -> Signature:
    """The signature whose space is that of ``v``; otherwise the largest."""
    dims = tuple(d for d in v.type.dims if d is not ONE)

    def rank(s: Signature) -> tuple[bool, int, tuple[int, ...]]:
        return (tuple(d for d in s.dims if d is not ONE) == dims, len(s.dims), s.folded)

    return max(signatures, key=rank)
