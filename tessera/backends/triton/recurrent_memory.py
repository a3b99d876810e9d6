"""Local memory as tensors in registers: a store is a new tensor under a new name, a load the latest one, turned to the
sides that the reader walks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from tessera.backends.triton import intrinsics
from tessera.backends.triton.block_parts import BlockParts
from tessera.backends.triton.recurrence import LANES, Cell, Recurrence, coordinates, sides_at
from tessera.backends.triton.statements import dims
from tessera.ir.dialects.tile import LOAD, LOCAL, STORE
from tessera.ir.dim import Dim
from tessera.ir.graph import Literal, Operation, Value
from tessera.schedule.plan import Unschedulable


@dataclass
class RecurrentMemory(BlockParts):
    """Statements of a nest with an ordered sweep. ``latest`` are the names of what local memory holds."""

    latest: dict[Value, str] = field(default_factory=dict)
    most = 8

    @property
    def plan(self) -> Recurrence:
        assert isinstance(self.layout, Recurrence)
        return self.layout

    def statement(self, op: Operation) -> None:
        if op.record is LOCAL:
            return
        cell = self.plan.cells.get(op.operands[0]) if op.operands else None  # type: ignore[arg-type]
        if op.record is STORE and cell is not None:
            self.keep(op, cell)
        elif op.record is LOAD and cell is not None:
            self.recall(op, cell)
        else:
            super().statement(op)

    def named(self, hint: str, text: str) -> str:
        """As ``define``, but a name keeps itself."""
        return text if text.isidentifier() else self.define(hint, text)

    # -- writing

    def keep(self, op: Operation, cell: Cell) -> None:
        """A store into local memory: a tensor of all its sides."""
        v, x = op.operands
        assert isinstance(v, Value)
        blocks = sides_at(self.plan, coordinates(self.plan, op.dims("index")[0], cell.kind), cell.kind)
        assert blocks is not None
        to = cell.kind.dtype
        with self.along({*blocks, LANES} if cell.lanes else blocks) as frame:
            same = isinstance(x, Literal) or x.type.dtype is to
            text = self.text(x, to, alone=True) if same else self.cast(x, to)
            on = self.lies([x])
            if not on <= {s.block for s in frame}:
                raise Unschedulable("a value is stored where it has no single element")
            if frame and not on:
                text = f"tl.full({self.shape(frame)}, {text}, {intrinsics.type_name(to)})"
            elif len(on) < len(frame):
                text = f"tl.broadcast_to({text}, {self.shape(frame)})"
            order = [s.block for s in frame]
        renamed = dict(zip(blocks, cell.blocks, strict=True))
        self.latest[v] = self.named("held", self.turned(text, [renamed.get(b, b) for b in order]))

    def turned(self, text: str, blocks: Sequence[str]) -> str:
        """A tensor whose sides are ``blocks``, in the order in which tiles have them."""
        order = [s.block for s in self.layout.ordered(blocks)]
        if order == list(blocks):
            return text
        return f"tl.permute({text}, [{', '.join(str(blocks.index(b)) for b in order)}])"

    # -- reading

    def recall(self, op: Operation, cell: Cell) -> None:
        """A load from local memory."""
        v = op.operands[0]
        assert isinstance(v, Value)
        if len(op.operands) > 1:
            raise Unschedulable(f"the local memory `%{v.name}` is read at places that memory says")
        name = self.latest.get(v)
        if name is None:
            raise Unschedulable(f"the local memory `%{v.name}` is read before it is written")
        index = coordinates(self.plan, op.dims("index")[0], cell.kind)
        tests = op.attrs.get("guard") or ()
        assert isinstance(tests, tuple)
        whole = sides_at(self.plan, index, cell.kind)
        if whole is not None:
            renamed = dict(zip(cell.blocks, whole, strict=True))
            blocks = [renamed.get(s.block, s.block) for s in self.layout.ordered(cell.sides)]
            text = self.turned(name, blocks)
        else:
            t = cell.kind.dtype  # parts are taken of numbers as wide as a register
            wide = name if t.is_float or t.bits >= 32 else self.define("wide", f"{name}.to(tl.int32)")
            text, blocks = self.part(wide, cell, index)
            text = text if wide == name else f"{text}.to({intrinsics.type_name(t)})"
        on = frozenset(blocks)
        if tests:
            reached = on.union(*(self.sides_of(dims(part)[0]) for part in tests))
            with self.along(reached) as frame:
                inside = [t for e, lo, hi in map(dims, tests) for t in self.within(e, lo, hi, ())]
                zero = intrinsics.literal(0, cell.kind.dtype)
                whole_text = self.oriented(self.named("load", text), *on)
                text = f"tl.where({' & '.join(inside)}, {whole_text}, {zero})" if inside else whole_text
                on = frozenset(s.block for s in frame) if inside else on
        self.values[op.result], self.spread[op.result] = self.named("load", text), on

    def part(self, name: str, cell: Cell, index: Sequence[Dim]) -> tuple[str, list[str]]:
        """Elements elsewhere than at the reader's own place: dims along which it needs a single one are folded, then
        those along which it needs another one at each place are gathered. Gives the text and its sides.
        """
        blocks = [s.block for s in self.layout.ordered(cell.sides)]
        own = dict(zip(cell.blocks, index, strict=True))
        kept = {b for b, e in own.items() if self.is_own(b, e) and self.layout.home[str(e)].block == b}
        for block, e in own.items():
            if self.sides_of(e) <= (kept - {block}) | {LANES}:
                name, blocks = self.one(name, blocks, block, e)
        for block, e in own.items():
            if block in blocks and not self.is_own(block, e):
                name = self.elsewhere(name, blocks, block, e)
        made = [self.reader(own[b]) if b in own else b for b in blocks]
        if len(set(made)) < len(made):
            raise Unschedulable("local memory is read along one axis in two ways")
        return self.turned(name, made), made

    def is_own(self, block: str, e: Dim) -> bool:
        """Is a position along a side just that of another axis as long?"""
        side = self.layout.home.get(str(e)) if e.is_name else None
        return side is not None and side.block != LANES and side.hi == self.layout.by_block[block].hi

    def reader(self, e: Dim) -> str:
        """The side inside a step that a position differs along."""
        found = self.sides_of(e) - {LANES}
        if len(found) != 1:
            raise Unschedulable("a position in local memory differs along several axes")
        return next(iter(found))

    def one(self, name: str, blocks: Sequence[str], block: str, e: Dim) -> tuple[str, list[str]]:
        """The element at one position along a side, which is gone afterwards."""
        with self.along({*blocks, *self.sides_of(e)}) as frame:
            order = [s.block for s in frame]
            here = f"{self.oriented(self.places[block].lanes, block)} == {self.place(e)}"
            chosen = f"tl.where({here}, {self.oriented(name, *blocks)}, 0)"
            made = f"tl.sum({chosen}, axis={order.index(block)})"
        order.remove(block)
        return self.define("part", made), order

    def elsewhere(self, name: str, blocks: Sequence[str], block: str, e: Dim) -> str:
        """At each place of a side the element at another position."""
        target = self.reader(e)
        if target in blocks and target != block:
            raise Unschedulable("local memory is read along one axis in two ways")
        if LANES in self.sides_of(e) and LANES not in blocks:
            raise Unschedulable("lanes read different elements of memory that they share")
        (size,) = self.layout.by_block[block].hi
        frame = tuple(self.layout.by_block[target if b == block else b] for b in blocks)
        with self.framed(frame):
            near = f"tl.minimum(tl.maximum({self.place(e)}, 0), {self.exprs.text(size - 1)}).to(tl.int32)"
            at = self.define("at", f"tl.broadcast_to({near}, {self.shape(frame)})")
        return self.define("part", f"tl.gather({name}, {at}, {list(blocks).index(block)})")


__all__ = ["RecurrentMemory"]
