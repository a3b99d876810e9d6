"""One nest with an ordered sweep as one ``@triton.jit`` function: a loop over the steps, all else on whole tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera.backends.triton import intrinsics
from tessera.backends.triton.blocks import every, names, varying
from tessera.backends.triton.expr import Expressions, Sizes
from tessera.backends.triton.fold import plan_fold
from tessera.backends.triton.intrinsics import Used
from tessera.backends.triton.recurrence import LANES, Recurrence
from tessera.backends.triton.recurrent_memory import RecurrentMemory
from tessera.ir.dialects.tile import LOOKUP, MMA, STORE
from tessera.ir.dtype import DType
from tessera.ir.graph import Operand, Operation, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import Unschedulable


@dataclass
class RecurrentEmitter(RecurrentMemory):
    """The state of emitting one function. ``variant`` is what differs between steps."""

    variant: set[Value] = field(default_factory=set)
    hoisting: bool = False
    stepping: bool = False

    def run(self) -> str:
        """The text of the function."""
        t = self.plan
        self.programs()
        for op in t.before:
            self.step(op)
        self.variant = varying(t.swept, (*t.cells, *self.checked(), *self.repeated()))
        self.hoisting = True
        self.step(t.swept)
        self.hoisting = False
        self.steps(t.swept)
        for op in t.after:
            self.step(op)
        return self.source()

    def flags(self) -> tuple[str, ...]:
        return (*super().flags(), "STAGES")

    def checked(self) -> list[Value]:
        """Indices that are checked: not before it is known that there is a step."""
        return [op.result for op in every((self.plan.swept,)) if op.record is LOOKUP]

    def repeated(self) -> list[Value]:
        """What an ordered sweep inside the steps gives: it is never the same twice."""
        inside = (o for o in every((self.plan.swept,)) if o is not self.plan.swept and o.attrs.get("ordered"))
        return [r for sweep in inside for o in every((sweep,)) for r in o.results]

    def programs(self) -> None:
        """Which program this is, and where it stands along every side."""
        t = self.plan
        counts = [(a, f"i{n}", self.exprs.text(t.extents[a])) for n, a in enumerate(t.single)]
        counts += [("", "tile", f"tl.cdiv({self.exprs.text(s.extent)}, {s.block})") for s in t.tiled]
        self.numbered(counts)
        for s in t.sides:
            self.stand(s, f"tile * {LANES}" if s.block == LANES else "")

    # -- sweeps

    def step(self, op: Operation) -> None:
        """An operation, or all those of a sweep; at most a few stand inside each other."""
        if op.attrs.get("ordered") and op is not self.plan.swept:
            if self.stepping:
                self.steps(op)
        elif op.body is not None:
            for o in op.body.ops:
                self.step(o)
        elif self.due(op):
            self.statement(op)

    def due(self, op: Operation) -> bool:
        """Has an operation its place here: what is the same in all steps before them, the rest in them?"""
        alike = bool(op.results) and not any(r in self.variant for r in op.results)
        return alike if self.hoisting else not (self.stepping and alike)

    def steps(self, swept: Operation) -> None:
        """The loop over the steps. Local memory that one step leaves for the next keeps its name in all of them."""
        written = [v for v in self.plan.cells if any(o.record is STORE and o.operands[0] is v for o in every((swept,)))]
        held = [v for v in written if v in self.latest]
        for v in held:
            name = self.fresh("held")
            self.lines.add(f"{name} = {self.latest[v]}")
            self.latest[v] = name
        before = dict(self.latest)
        values, memo, depth = dict(self.values), dict(self.memo), self.lines.depth
        (axis,), (lo,), (hi,) = names(swept.attrs["axes"]), swept.dims("lo"), swept.dims("hi")
        bounds = f"{self.exprs.text(lo)}, {self.exprs.text(hi)}"
        inside = self.stepping
        step, stages = self.fresh("step"), "1" if inside else "STAGES"
        self.lines.add(f"for {step} in tl.range({bounds}, num_stages={stages}):")
        self.lines.depth += 1
        self.exprs.axes[axis] = self.fresh("t")
        self.lines.add(f"{self.exprs.axes[axis]} = tl.cast({step}, tl.int64)")
        self.stepping = True
        assert swept.body is not None
        for op in swept.body.ops:
            self.step(op)
        pairs = [(before[v], self.latest[v]) for v in held if self.latest[v] != before[v]]
        if pairs:
            old, new = (", ".join(part) for part in zip(*pairs, strict=True))
            self.lines.add(f"{old} = {new}")
        self.stepping, self.lines.depth = inside, depth
        self.values, self.memo, self.latest = values, memo, before
        del self.exprs.axes[axis]

    # -- operations

    def statement(self, op: Operation) -> None:
        if op.record is MMA:
            self.product(op)
        elif op.record.kind is Kind.REDUCE:
            self.fold(op)
        else:
            super().statement(op)

    def fold(self, op: Operation) -> None:
        """All elements joined, along one side after the other."""
        if len(op.operands) > 1:
            raise Unschedulable(f"`{op.name}` rescales what it folds")
        plan = plan_fold(op)
        over = self.over(op)
        with self.along(self.lies(op.operands) | set(over)) as frame:
            states = self.elements(plan, over)
            order = [s.block for s in frame]
        for block in reversed(over):
            self.joined(plan, states, order.index(block))
            order.remove(block)
        for r, text in zip(op.results, self.finish(plan, states), strict=True):
            self.values[r], self.spread[r] = text, frozenset(order)

    def over(self, op: Operation) -> tuple[str, ...]:
        """The sides that a fold runs over, the slowest first."""
        return tuple(self.layout.home[a].block for a in names(op.attrs["over"]))

    def product(self, op: Operation) -> None:
        """A sum of products: of matrices, or point by point, along one side after the other."""
        if len(op.operands) > 2:
            raise Unschedulable(f"`{op.name}` rescales what it folds")
        own, over = op.attrs["dtype"], self.over(op)
        assert isinstance(own, DType)
        sides = tuple(self.lies((x,)) for x in op.operands)
        if self.plan.dots.get(op) == sides:
            self.matrices(op, *sides)
            return
        with self.along(self.lies(op.operands) | set(over)) as frame:
            a, b = (self.factor(x, own) for x in op.operands)
            order = [s.block for s in frame]
            inside = " & ".join(self.masks(over))
            text = f"tl.where({inside}, {a} * {b}, {intrinsics.literal(0, own)})"
        for block in reversed(over):
            text = f"tl.sum({text}, axis={order.index(block)})"
            order.remove(block)
        self.gives(op.result, op.name, text, [self.layout.by_block[b] for b in order])

    def matrices(self, op: Operation, left: frozenset[str], right: frozenset[str]) -> None:
        """A product of matrices, its sides in the order that tiles have them."""
        a, b = op.operands
        (over,) = self.layout.ordered(left & right)
        first, second = self.layout.ordered(left ^ right)
        if first.block in right:
            a, b = b, a
        a, b = self.sources(a, b)
        texts = []
        for x, wanted in ((a, (first, over)), (b, (over, second))):
            with self.along(s.block for s in wanted) as frame:
                text = self.padded(x, over)
                texts.append(text if frame == wanted else f"tl.trans({text})")
        how = ', input_precision="ieee"' if a.type.dtype.bits == 32 else ""
        self.gives(op.result, op.name, f"tl.dot({', '.join(texts)}{how})", (first, second))

    def factor(self, x: Operand, own: DType) -> str:
        """An operand in the dtype of the sum."""
        return self.text(x, own, alone=True) if x.type.dtype is own else self.cast(x, own)


def recurrent_emitter(
    name: str, layout: Recurrence, params: Mapping[Value, str], used: Used, merges: dict[str, str]
) -> RecurrentEmitter:
    """An emitter at its start."""
    exprs = Expressions(Sizes(), dict(layout.ranges))
    return RecurrentEmitter(params, used, exprs, layout=layout, mode="stepped", name=name, merges=merges)
