"""Nests that hold what one step of a sweep leaves for the next: loops as they stand, in the order of the program.

Lanes are points of the nest's innermost axis, several vectors of them side by side, so that no fold crosses lanes and
what is the same for all of them is read once for all vectors. Local memory lies in the thread's scratch memory, small
enough for the nearest cache; what is one element a point is a variable.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import dtype_of
from tessera.backends.c.fold import Fold, plan_fold
from tessera.backends.c.products import SHORT_CHAIN, mmas
from tessera.backends.c.source import c_index
from tessera.backends.c.strips import Strips, behind, elements
from tessera.backends.c.tiles import Loop, Tile
from tessera.ir.dialects.tile import LOAD, LOCAL, MMA, STORE
from tessera.ir.dim import Dim, product
from tessera.ir.graph import Block, Operation, Value, walk
from tessera.ir.record import Kind, Law
from tessera.ir.types import BufferType

#: Vectors of lanes that go through the steps side by side: as many sums as hide the latency of one.
SIDE_BY_SIDE = 4


def _reads(op: Operation) -> Iterator[Value]:
    """What an operation and those inside it read."""
    return (v for inner in walk(Block((op,))) for v in inner.inputs)


def products(ops: Sequence[Operation]) -> dict[Operation, Operation]:
    """For sums of floats the product that is one of their terms and that nothing else reads; of two that with what was
    carried, which is the larger one as a rule.
    """
    readers: dict[Value, int] = {}
    for op in ops:
        for v in _reads(op):
            readers[v] = readers.get(v, 0) + 1
    made = {op.result: op for op in ops if op.record.law is Law.PRODUCT and readers.get(op.result) == 1}
    held = {op.result for op in ops if op.record is LOAD and op.operands[0].type.role == "local"}  # type: ignore[union-attr]
    found: dict[Operation, Operation] = {}
    for op in ops:
        if op.record.law is Law.SUM and op.result.type.dtype.is_float:
            terms = [made[v] for v in op.inputs if v in made and v.type.dtype is op.result.type.dtype]
            if terms:
                found[op] = next((p for p in terms if held.intersection(p.inputs)), terms[0])
    return found


def is_ordered(nest: Operation) -> bool:
    """Has the nest a sweep whose points follow each other?"""
    assert nest.body is not None
    return any(op.attrs.get("ordered") for op in nest.body.ops)


@dataclass
class Recurrent(Strips):
    """Writes the body of such a nest. ``variables`` are the C names of local memory of one element, by side."""

    cells: dict[Value, Tile] = field(default_factory=dict)
    variables: dict[Value, list[str]] = field(default_factory=dict)

    def point(self, nest: Operation) -> None:
        """The body of the nest, for the vectors that go together."""
        assert nest.body is not None
        for op in nest.body.ops:
            self.write(op)

    def write(self, op: Operation) -> None:
        if op.record is LOCAL:
            self.reserve(op.result)
        elif op.body is not None:
            self.sweep(op)
        else:
            for side in self.e.each():
                self.statement(op, side)

    def sweep(self, op: Operation) -> None:
        """A sweep with its folds. Long sums of products are added up in parts, since long chains round more."""
        e = self.e
        assert op.body is not None
        folds = {f: plan_fold(f) for f in op.body.ops if f.record.kind is Kind.REDUCE}
        sides = [{f: self.start(p) for f, p in folds.items()} for _ in e.each()]
        totals = self.zeros(op)
        *outer, last = self.walks(op)
        with self.loops(outer), self.shared(op, last):
            if totals:
                with self.pieces(last, SHORT_CHAIN) as piece:
                    parts = self.zeros(op)
                    self.points(op, piece, sides, parts)
                    for key, total in totals.items():
                        e.lines.add(f"{total} += {parts[key]};")
            else:
                self.points(op, last, sides, {})
        for side in e.each():
            for fold in sides[side].values():
                e.finish(fold, across=False)
            for inner in mmas(op):
                e.values[inner.result] = totals[inner, side]

    def zeros(self, sweep: Operation) -> dict[tuple[Operation, int], str]:
        """A sum that starts at zero for each sum of products of a sweep, and each side."""
        e = self.e
        made = {(op, side): e.fresh() for op in mmas(sweep) for side in range(len(e.sides))}
        for (op, _), name in made.items():
            e.lines.add(f"{ci.vector_type(dtype_of(op.result))} {name} = {{}};")
        return made

    def start(self, fold: Fold) -> Fold:
        mine = replace(fold, names=[])
        self.e.declare(mine)
        return mine

    def points(
        self, op: Operation, loop: Loop, sides: list[dict[Operation, Fold]], totals: dict[tuple[Operation, int], str]
    ) -> None:
        with self.loops([loop]):
            self.splat()
            self.body(op, sides, totals)

    def body(
        self, op: Operation, sides: list[dict[Operation, Fold]], totals: dict[tuple[Operation, int], str]
    ) -> None:
        """What a sweep does at one point, for the vectors that go together."""
        e, needed = self.e, self.needed(op)
        joined = products(needed)
        for inner in needed:
            if inner in joined.values():
                continue
            if inner in joined:
                for _ in e.each():
                    self.add_product(inner, joined[inner])
            elif inner.record is MMA:
                for side in e.each():
                    self.add_to(totals[inner, side], inner)
            elif inner.record.kind is Kind.REDUCE:
                for side in e.each():
                    e.step(sides[side][inner])
            else:
                self.write(inner)

    def add_to(self, total: str, op: Operation) -> None:
        e, dtype = self.e, op.result.type.dtype
        a, b = (e.operand(x, dtype) for x in op.operands)
        text = ci.expression("fma", dtype.name, [a, b, total])
        if e.partial and not e.block:
            text = ci.expression("where", dtype.name, ["t_live", text, total])
        e.lines.add(f"{total} = {text};")

    def add_product(self, op: Operation, product: Operation) -> None:
        """The sum of a product and something else, rounded once."""
        e, dtype = self.e, op.result.type.dtype
        (other,) = (x for x in op.operands if x is not product.result)
        texts = [e.operand(x, dtype) for x in (*product.operands, other)]
        e.define(op.result, ci.expression("fma", dtype.name, texts))

    # -- what is the same for all lanes

    def shared(self, op: Operation, run: Loop) -> AbstractContextManager[None]:
        """What is computed for all lanes alike is computed before the sweep, lanes along it."""
        if not self.e.vector or op.attrs.get("ordered"):
            return nullcontext()
        return self.stripped(op, None, run, 1, op.dims("hi")[-1] - op.dims("lo")[-1] + self.e.lanes)

    def splat(self) -> None:
        e = self.e
        for v, strip in self.strips.items():
            name = e.fresh()
            e.lines.add(f"const v{strip.lane} {name} = t_splat_{strip.lane}(*({self.spot(strip)}));")
            for _ in e.each():
                e.values[v] = name

    def needed(self, sweep: Operation) -> list[Operation]:
        """The operations of a sweep without those that only what was computed before needs."""
        assert sweep.body is not None
        own = elements(sweep)
        rest = {v: op for v, op in own.items() if v not in self.strips}
        inside = set(own.values())
        ends = [v for o in sweep.body.ops if o not in inside for v in _reads(o)]
        alive = behind(ends, rest)
        return [op for op in sweep.body.ops if op not in inside or op in alive]

    # -- local memory

    def reserve(self, v: Value) -> None:
        e, kind = self.e, v.type
        assert isinstance(kind, BufferType)
        if not kind.dims:
            self.variables[v] = [e.fresh() for _ in e.sides]
            for name in self.variables[v]:
                e.lines.add(f"{ci.vector_type(kind.dtype.name)} {name} = {{}};")
            return
        if v not in self.cells:  # shared by the versions for several and for single vectors
            width = 8 if ci.lane(kind.dtype.name) in ("f64", "i64", "u64") else 4
            self.cells[v] = Tile(e.scratch, (), kind.dims, kind.dtype.name)
            e.scratch = e.scratch + product(kind.dims) * (self.width * e.lanes * width)

    def statement(self, op: Operation, side: int) -> None:
        """One operation; local memory is read and written whole vectors at a time."""
        e = self.e
        v = op.operands[0] if op.operands else None
        if op.record not in (LOAD, STORE) or v not in self.cells.keys() | self.variables.keys():
            e.statement(op)
            return
        assert isinstance(v, Value)
        (index,) = op.dims("index")
        if op.record is LOAD:
            name = e.fresh()
            e.values[op.result] = name
            e.lines.add(f"const {ci.vector_type(dtype_of(op.result))} {name} = {self.read(v, index, side)};")
            return
        x = e.operand(op.operands[1], v.type.dtype)
        if v in self.variables:
            e.lines.add(f"{self.variables[v][side]} = {x};")
        else:
            e.lines.add(f"t_store_{self.cells[v].lane}({self.cell(v, index, side)}, {x});")

    def read(self, v: Value, index: Dim, side: int) -> str:
        if v in self.variables:
            return self.variables[v][side]
        return f"t_load_{self.cells[v].lane}({self.cell(v, index, side)})"

    def cell(self, v: Value, index: Dim, side: int) -> str:
        """Where the vector ``side`` of an element lies."""
        e, room = self.e, self.cells[v]
        row, offset = c_index(index, e.names), c_index(room.offset, e.names)
        return f"({room.lane} *)(mine + {offset}) + (({row}) * {self.width} + {side}) * L"
