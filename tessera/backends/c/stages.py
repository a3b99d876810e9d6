"""The order of work within one block of a sweep: what needs a fold of the whole block comes in a later stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tessera.ir.dialects.tile import ACCUMULATE, GATE, MMA, RUNNING
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind
from tessera.ir.types import TileType


def varies(v: Value, axes: Sequence[str]) -> bool:
    """Does a value depend on one of the axes?"""
    return isinstance(v.type, TileType) and any(a in v.type.axes for a in axes)


@dataclass
class Block:
    """The operations of a sweep by stage.

    ``products`` are inner sweeps that sum over axes of their own, ``sums`` those that sum over the swept axis,
    ``crosses`` those that add to memory what all lanes add up to. Within a stage come first the operations that are the
    same for all points of a block, then products, the others point by point, sums, and what is added to memory.
    """

    sweep: Operation
    stage_of: dict[Operation, int] = field(default_factory=dict)
    home: dict[Value, Operation] = field(default_factory=dict)
    same: set[Value] = field(default_factory=set)
    products: list[Operation] = field(default_factory=list)
    sums: list[Operation] = field(default_factory=list)
    crosses: list[Operation] = field(default_factory=list)
    folds: list[Operation] = field(default_factory=list)
    gates: list[Operation] = field(default_factory=list)

    @staticmethod
    def of(sweep: Operation) -> Block:
        block = Block(sweep)
        assert sweep.body is not None
        for op in sweep.body.ops:
            block.add(op)
        block.gates = [g for g in block.gates if block.is_early(next(g.inputs))]
        return block

    @property
    def axes(self) -> tuple[str, ...]:
        return self.sweep.words("axes")

    @property
    def stages(self) -> int:
        return max(self.stage_of.values(), default=-1) + 1

    def add(self, op: Operation) -> None:
        """Take in the next operation."""
        if op.record is GATE:
            self.gates.append(op)
            return
        inside = op.body.ops if op.body is not None else (op,)
        made = {r for o in inside for r in o.results}
        read = [v for o in inside for v in o.inputs if v in self.home and v not in made]
        stage = max((self.stage_of[self.home[v]] for v in read), default=0)
        if op.record is RUNNING:
            stage = 0 if op.attrs["before"] else stage + 1
            self.same.update(op.results)
        elif op.body is not None:
            over_own = any(o.record is MMA and o.attrs["over"] == op.words("axes") for o in inside)
            crosses = any(o.record is ACCUMULATE for o in inside)
            (self.products if over_own else self.crosses if crosses else self.sums).append(op)
            if over_own and any(self.is_row(v) for v in read):
                stage += 1  # products come before what is computed point by point
        elif op.record.kind is Kind.REDUCE:
            self.folds.append(op)
        elif op.record.kind is Kind.MAP and read and all(v in self.same for v in op.inputs if varies(v, self.axes)):
            self.same.update(r for r in op.results if varies(r, self.axes))
        self.stage_of[op] = stage
        self.home.update(dict.fromkeys(made, op))

    def is_row(self, v: Value) -> bool:
        """Is ``v`` computed point by point?"""
        op = self.home.get(v)
        return op is not None and op.body is None and v not in self.same and op.record.kind is not Kind.REDUCE

    def at(self, number: int, ops: Sequence[Operation]) -> list[Operation]:
        return [op for op in ops if self.stage_of[op] == number]

    def reached(self, before: bool) -> list[Operation]:
        """The ``running`` operations that look before the block, or after it."""
        return [op for op in self.stage_of if op.record is RUNNING and op.attrs["before"] is before]

    def constants(self, number: int) -> list[Operation]:
        """What is the same for all points of the block, in a stage; what was reached before it is known already."""
        return [
            op
            for op in self.at(number, list(self.stage_of))
            if op.results and op.results[0] in self.same and not (op.record is RUNNING and op.attrs["before"])
        ]

    def rows(self, number: int) -> list[Operation]:
        """What is computed point by point in a stage, folds included."""
        ops = self.at(number, list(self.stage_of))
        return [op for op in ops if op.body is None and not (op.results and op.results[0] in self.same)]

    def taken(self, number: int) -> list[Value]:
        """Values per point that a stage reads from tiles: those of earlier stages, and its products."""
        mine = set(self.rows(number))
        read = dict.fromkeys(v for op in self.rows(number) for v in op.inputs)
        return [v for v in read if v in self.home and self.home[v] not in mine and self.per_point(v)]

    def kept(self, number: int) -> list[Value]:
        """Values per point that a stage leaves in tiles: for later stages, and for sums."""
        later = {v for n in range(number + 1, self.stages) for op in self.rows(n) for v in op.inputs}
        inner = (*self.sums, *self.products, *self.crosses)
        later |= {v for sweep in inner if sweep.body for op in sweep.body.ops for v in op.inputs}
        return [r for op in self.rows(number) for r in op.results if r in later and self.per_point(r)]

    def per_point(self, v: Value) -> bool:
        return varies(v, self.axes) and v not in self.same

    def is_early(self, v: Value) -> bool:
        """Can ``v`` be computed before anything else of a block, its products included?"""
        made = self.behind(v)
        products = any(self.home[x].body is not None for op in made for x in op.inputs if x in self.home)
        return not products and all(self.stage_of[op] == 0 for op in made)

    def behind(self, v: Value) -> list[Operation]:
        """The operations of the sweep that ``v`` is made by, in order."""
        needed = {v}
        for op in reversed(list(self.stage_of)):
            if any(r in needed for r in op.results):
                needed.update(op.inputs)
        return [op for op in self.stage_of if any(r in needed for r in op.results)]
