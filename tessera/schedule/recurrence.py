"""A recurrence to one nest: an ordered sweep, whose points leave what they carry in local memory.

Axes along which a step looks at its own position only (see ``steps``) are parallel. The others are sweeps inside the
step: one for all folds and results over the same axes that need nothing of each other, in the order in which the
folds depend on each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import contracted_dtype, letters
from tessera.ir.dim import Dim
from tessera.ir.dim_range import coefficient
from tessera.ir.dtype import compute_dtype
from tessera.ir.graph import Attr, Block, Operand, Operation, Value, walk
from tessera.ir.infer import ONE
from tessera.ir.loop import Loop
from tessera.ir.record import Kind, Law
from tessera.ir.types import BufferType, TileType
from tessera.schedule.cells import Cell, Slice, StepPuller, Target
from tessera.schedule.plan import ZERO, Unschedulable
from tessera.schedule.pull import Guard, Index, Misplaced, dense_offset, dense_strides
from tessera.schedule.steps import Axes, Spot
from tessera.schedule.tilebuild import Container, TileBuilder

#: What joins the elements along an axis of the step.
JOINS = frozenset({Kind.REDUCE, Kind.CONTRACT})


@dataclass
class RecurrenceLowering:
    """Builds the nest of one recurrence: ``scan`` among the operations of its region."""

    scan: Operation
    ops: Sequence[Operation]
    outputs: Sequence[Value]
    buffers: Mapping[Value, Value]
    scalars: Mapping[Value, Value]
    names: dict[str, int]
    mark: str
    axis_names: dict[tuple[Spot, int], str] = field(default_factory=dict)

    def run(self) -> Operation:
        """Raises Unschedulable where a step is not made of single elements."""
        self.loop = loop = Loop.of(self.scan)
        self.flat = tuple(walk(loop.body))
        loops = [loop, *(Loop.of(op) for op in self.flat if op.record.kind is Kind.CONTROL)]
        pairs = [(c, n) for each in loops for c, n in zip(each.carries, each.next, strict=True)]
        self.axes = Axes.of(self.flat, [(c, n) for c, n in pairs if isinstance(n, Value)])
        self.stored = stored_on_the_way(loop, self.axes)
        carries = [c for each in loops for c in each.carries]
        saved = dict(self.names)
        hazards: frozenset[Value] = frozenset()
        while True:
            self.names.clear()
            self.names.update(saved)
            try:
                nest = self.nest(hazards)
            except Misplaced as e:
                message = f"%{e.value.name} is read at positions that no loop of the kernel walks"
                raise Unschedulable(message) from e
            found = frozenset(c for c in carries if c not in hazards and self.is_hazard(c))
            if not found:
                return nest
            hazards |= found

    # -- axes

    def axis(self, root: Spot, number: int) -> str:
        """The loop of a class of axes; a value that has several of one class walks each with a loop of its own."""
        key = (root, number)
        if key not in self.axis_names:
            kind = "k" if root in self.axes.inner else "i"
            of = sum(n.startswith(kind) for n in self.axis_names.values())
            name = self.axis_names[key] = f"{kind}{of}{self.mark}"
            v, n = root
            self.pull.ranges[name] = (ZERO, v.type.dims[n])
        return self.axis_names[key]

    def index(self, v: Operand) -> Index:
        """The position of a value of the step, each axis walked by the loop of its class."""
        if not isinstance(v, Value):
            return ()
        seen: list[Spot] = []
        out: list[Dim] = []
        for n, d in enumerate(v.type.dims):
            if d is ONE:
                out.append(ZERO)
                continue
            root = self.axes.find((v, n))
            out.append(Dim.name(self.axis(root, seen.count(root))))
            seen.append(root)
        return tuple(out)

    def parallel(self) -> list[str]:
        """The loops of the nest: of what is carried; where that is scalars alone, of what is made."""
        for values in (self.loop.carries, [y for y in self.loop.ys if isinstance(y, Value)]):
            ordered = sorted(values, key=lambda v: -v.type.rank)
            roots = dict.fromkeys(r for v in ordered for r in self.axes.classes(v) if r not in self.axes.inner)
            if roots:
                break
        else:
            return []
        for v in self.loop.ys:  # what only a result has is a loop inside the step
            self.axes.inner |= {r for r in (self.axes.classes(v) if isinstance(v, Value) else ()) if r not in roots}
        return [self.axis(r, 0) for r in roots]

    # -- the nest

    def nest(self, hazards: frozenset[Value]) -> Operation:
        self.axis_names.clear()
        self.build = TileBuilder(Container(), self.names)
        loop = self.loop
        made = {r: op for op in (*self.ops, *self.flat) for r in op.results}
        self.pull = StepPuller(self.build, made, dict(self.buffers), self.scalars, (), mark=self.mark)
        self.pull.own = frozenset(v for v in self.buffers if v in made)
        self.outer = tuple(self.parallel())
        self.hazards, self.walked = hazards, 0
        self.touched: dict[Value, Sequence[Operation]] = {}
        self.pull.scope = self.outer
        cells = self.follow(loop)
        self.final(cells)
        ops = tuple(self.build.top.ops)
        vector = lane_axis(self.outer, ops)
        order = sorted(self.outer, key=lambda n: n == vector)
        attrs: dict[str, Attr] = {"axes": tuple(order), "extents": tuple(self.pull.ranges[n][1] for n in order),
                                  "vector": vector}  # fmt: skip
        return Operation(OPS["nest"], (), (), attrs, body=Block(ops))

    def cell(self, v: Value) -> Cell:
        """New local memory for a value, of the axes that are loops inside the step."""
        own = tuple(self.axes.own(v))
        dtype = v.type.dtype if v.type.dtype.is_bool else compute_dtype(v.type.dtype)
        kind = BufferType(dtype, tuple(v.type.dims[n] for n in own), "local")
        buffer = Value(self.build.fresh(f"{v.name}_held"), kind)
        self.build.top.ops.append(Operation(OPS["local"], (), (buffer,)))
        return Cell(buffer, own, self.index(v))

    def fill(self, cell: Cell, carry: Value, init: Operand) -> None:
        """What the carried value is before the first step."""
        index = self.index(carry)
        with_loops = self.open(index)
        shift = carry.type.rank - init.type.rank
        self.put(cell, self.pull(init, index[shift:]), index)
        if with_loops:
            self.build.close_inner(pinned=True)

    def follow(self, loop: Loop) -> list[Cell]:
        """All steps of a loop; gives the memory of what it carries."""
        cells = [self.cell(c) for c in loop.carries]
        fresh = [self.cell(c) if c in self.hazards else cell for c, cell in zip(loop.carries, cells, strict=True)]
        for init, carry, cell in zip(loop.init, loop.carries, cells, strict=True):
            self.fill(cell, carry, init)
        self.hold(zip(loop.carries, cells, strict=True))
        axis = f"t{self.walked or ''}{self.mark}"
        self.walked += 1
        self.pull.ranges[axis] = (ZERO, loop.count)
        now = Dim.name(axis)
        self.pull.slices.update((p, Slice(x, loop, now)) for p, x in zip(loop.slices, loop.xs, strict=True))
        sweep = Container((axis,), (ZERO,), (loop.count,), ordered=True)
        outer, scope = self.build.sweep, self.pull.scope
        self.pull.scope = (*scope, axis)
        if outer is None:
            self.build.sweep = sweep
        else:
            self.build.inner.append(sweep)
        self.step(loop, now, fresh)
        for cell, new in zip(cells, fresh, strict=True):
            if cell is not new:
                self.copy(new, cell)
        self.touched.update((c, sweep.ops) for c in loop.carries)
        if outer is None:
            assert self.build.sweep is sweep
            self.build.close_sweep()
        else:
            self.build.close_inner(pinned=True)
        self.pull.scope = scope
        return cells

    def hold(self, cells: Iterable[tuple[Value, Cell]]) -> None:
        """Read these values from local memory from now on."""
        self.pull.cells.update(found := dict(cells))
        self.pull.buffers = {**self.pull.buffers, **{v: cell.buffer for v, cell in found.items()}}

    def step(self, loop: Loop, now: Dim, fresh: Sequence[Cell]) -> None:
        """What one step computes, folds in the order in which they depend on each other."""
        low, inside = self.targets(loop, now, fresh)
        levels = self.levels(loop)
        joins = [op for op in loop.body.ops if self.is_join(op)]
        depth = {op: max((levels.get(v, 0) for v in op.inputs), default=0) for op in joins}
        ready = {t: levels.get(t.value, 0) for t in inside}  # type: ignore[arg-type]
        last = max([*depth.values(), *ready.values()], default=0)
        if loop.rows:  # the whole step reads what the steps before left
            ready = {t: last if t.cell is not None else n for t, n in ready.items()}
        for n in range(last + 1):
            at = [op for op in joins if depth[op] == n]
            for op in at:
                if op.record.kind is Kind.CONTROL:
                    self.hold(zip(op.results, self.follow(Loop.of(op)), strict=True))
                elif op in self.stored:
                    self.store_value(op)
                elif self.axes.own(op.results[0]):
                    self.stored_fold(op)
            folds = [op for op in at if op.record.kind in JOINS and not self.axes.own(op.results[0])]
            self.sweeps(folds, [t for t in inside if ready[t] == n])
        values = [(t, self.pull(t.value, self.index(t.value))) for t in low]
        for t, x in values:
            self.store(t, x, self.index(t.value))

    def is_join(self, op: Operation) -> bool:
        """Has a value of the step its place before what reads it?"""
        return op.record.kind in JOINS or op.record.kind is Kind.CONTROL or op in self.stored

    def targets(self, loop: Loop, now: Dim, fresh: Sequence[Cell]) -> tuple[list[Target], list[Target]]:
        """What a step stores: without axes inside the step, and with them."""
        types = (c.type for c in loop.carries)
        found = [Target(n, t.rank, cell) for n, t, cell in zip(loop.next, types, fresh, strict=True)]
        for y, r in zip(loop.ys, loop.stacks, strict=True):
            if r in self.outputs:
                rank = r.type.rank - (not loop.rows)
                found.append(Target(y, rank, part=Slice(self.buffers[r], loop, now)))
        inside = [t for t in found if isinstance(t.value, Value) and self.axes.own(t.value)]
        return [t for t in found if t not in inside], inside

    def levels(self, loop: Loop) -> dict[Value, int]:
        """For each value of the step, how many folds after one another are behind it."""
        found: dict[Value, int] = {}
        for op in loop.body.ops:
            level = max((found.get(v, 0) for v in op.inputs), default=0) + self.is_join(op)
            found.update(dict.fromkeys(op.results, level))
        return found

    # -- sweeps inside a step

    def open(self, index: Sequence[Dim]) -> bool:
        """A sweep over the axes of a position that are no loops of the nest; False where there is none."""
        names = [str(e) for e in index if e is not ZERO and str(e) not in self.outer]
        if not names:
            return False
        bounds = [self.pull.ranges[n] for n in names]
        container = Container(tuple(names), tuple(lo for lo, _ in bounds), tuple(hi for _, hi in bounds))
        self.build.inner.append(container)
        return True

    def open_some(self, index: Sequence[Dim]) -> None:
        """The same, of one point where all axes have the size 1."""
        if not self.open(index):
            self.build.inner.append(Container((self.pull.axis(ONE),), (ZERO,), (ONE,)))

    def sweeps(self, folds: Sequence[Operation], stores: Sequence[Target]) -> None:
        """One sweep for all that walk the same axes."""
        groups: dict[frozenset[str], tuple[Index, list[Operation], list[Target]]] = {}
        for op in folds:
            space = self.space(op)
            groups.setdefault(self.inside(space), (space, [], []))[1].append(op)
        for t in stores:
            space = self.index(t.value)
            groups.setdefault(self.inside(space), (space, [], []))[2].append(t)
        for space, ops, targets in groups.values():
            self.open_some(space)
            for op in ops:
                self.fold(op)
            values = [(t, self.pull(t.value, self.index(t.value))) for t in targets]
            for t, x in values:
                self.store(t, x, self.index(t.value))
            self.build.close_inner(pinned=True)

    def inside(self, index: Index) -> frozenset[str]:
        return frozenset(str(e) for e in index if e is not ZERO) - frozenset(self.outer)

    def space(self, op: Operation) -> Index:
        """The position of what a fold folds; for a contraction, of a product."""
        return tuple(self.spots(op).values())

    def spots(self, op: Operation) -> dict[str, Dim]:
        """The loop of each axis of what is folded: by letter for a contraction, else by number."""
        if op.record.kind is Kind.REDUCE:
            return {str(n): e for n, e in enumerate(self.index(op.operands[0]))}
        left, right, result = letters(op)
        at = dict(zip(result, self.index(op.result), strict=True))
        used = [self.axes.find((op.result, n)) for n in range(len(result))]
        for part, x in zip((left, right), op.operands, strict=True):
            for n, (c, d) in enumerate(zip(part, x.type.dims, strict=True)):
                if d is not ONE and isinstance(x, Value) and (c not in at or (at[c] is ZERO and c not in result)):
                    root = self.axes.find((x, n))
                    at[c] = Dim.name(self.axis(root, used.count(root)))
                    used.append(root)
                at.setdefault(c, ZERO)
        return at

    def fold(self, op: Operation) -> None:
        """Fold in the innermost open sweep, over all its axes."""
        at = self.spots(op)
        over = self.build.inner[-1].axes
        kept = tuple(dict.fromkeys((*self.pull.scope, *(a for c in self.build.inner[:-1] for a in c.axes))))
        factors = self.factors(op, at)
        if factors is not None:
            dtype = contracted_dtype(op) if op.record.kind is Kind.CONTRACT else op.result.type.dtype
            a, b = (self.pull(x, index) for x, index in factors)
            self.pull.folded[op.result] = self.pull.mma(op.result, a, b, over, kept, compute_dtype(dtype), op)
        else:
            x = self.number(self.pull(op.operands[0], tuple(at.values())), op.operands[0].type.dtype)
            folded = [at[str(n)] for n in op.axes()]
            strides = dense_strides([op.operands[0].type.dims[n] for n in op.axes()])
            position = sum((e * s for e, s in zip(folded, strides, strict=True)), ZERO)
            self.pull.folded.update(zip(op.results, self.pull.fold(op, x, over, position, kept), strict=True))
        for r in op.results:
            self.pull.places[r] = self.index(r)

    def factors(self, op: Operation, at: Mapping[str, Dim]) -> list[tuple[Operand, Index]] | None:
        """The operands of what a fold multiplies and adds up, each at its position; None where it does not."""
        if op.record.kind is Kind.CONTRACT:
            parts = zip(letters(op)[:2], op.operands, strict=True)
            return [
                (x, tuple(ZERO if d is ONE else at[c] for c, d in zip(part, x.type.dims, strict=True)))
                for part, x in parts
            ]
        x, reduction = op.operands[0], op.record.reduction
        made = self.pull.maker.get(x) if isinstance(x, Value) else None
        assert reduction is not None
        if made is None or made.record.law is not Law.PRODUCT or not reduction.adds_up:
            return None
        kinds = {y.type.dtype for y in made.operands}
        if kinds != {op.result.type.dtype} or not op.result.type.dtype.is_float or len(made.operands) != 2:
            return None
        return [(y, self.pull.aligned(y.type, tuple(at.values()))) for y in made.operands]

    def stored_fold(self, op: Operation) -> None:
        """A fold that leaves axes of the step: a sweep over those around it, and its results in local memory."""
        at = self.spots(op)
        if op.record.kind is Kind.REDUCE:
            kept = [e for n, e in at.items() if int(n) not in op.axes()]
        else:
            kept = [at[c] for c in letters(op)[2]]
        cells = {r: self.cell(r) for r in op.results}
        self.open_some(kept)
        done = {str(e) for e in kept}
        rest = [e for e in self.space(op) if str(e) not in done]
        self.open_some(rest)
        self.fold(op)
        self.build.close_inner(pinned=True)
        for r, cell in cells.items():
            at_kept = iter([e for e in kept if e is not ZERO])
            index = tuple(ZERO if d is ONE else next(at_kept) for d in r.type.dims)
            self.put(cell, self.build.cast(self.pull.folded[r], compute_dtype(r.type.dtype)), index)
        self.build.close_inner(pinned=True)
        self.hold(cells.items())

    def store_value(self, op: Operation) -> None:
        """An elementwise value that is read in other ways than one element after the other, in local memory."""
        cell, index = self.cell(op.result), self.index(op.result)
        self.open_some(index)
        self.put(cell, self.pull(op.result, index), index)
        self.build.close_inner(pinned=True)
        self.hold([(op.result, cell)])

    # -- memory

    def number(self, x: Operand, dtype: object) -> Value:
        """A value per point, even of a constant."""
        if isinstance(x, Value) and x not in self.build.numbers and isinstance(x.type, TileType):
            return x
        wide = compute_dtype(dtype)  # type: ignore[arg-type]
        return self.build.emit(OPS["cast"], (x,), wide, {"dtype": wide})

    def put(self, cell: Cell, x: Operand, index: Index) -> None:
        """Store into local memory, in the innermost open sweep."""
        kind = cell.buffer.type
        attrs: dict[str, Attr] = {"index": (self.pull.offset(cell, index),)}
        operands = (cell.buffer, self.number(x, kind.dtype))
        self.here().ops.append(Operation(OPS["store"], operands, (), attrs, self.scan.span))

    def store(self, t: Target, x: Operand, index: Index) -> None:
        index = (*(ZERO,) * (t.rank - len(index)), *index)
        if t.cell is not None:
            self.put(t.cell, x, index)
            return
        assert t.part is not None and isinstance(t.part.whole, Value)
        loop, now = t.part.loop, t.part.now
        if not loop.rows:
            self.write(t.part.whole, x, (loop.position(now, ZERO), *index))
            return
        at = self.pull.simple((loop.position(now, index[0]),))[0]
        inside = (at, ZERO, loop.size)
        self.write(t.part.whole, x, (at, *index[1:]), () if self.pull.within(*inside) else (inside,))

    def write(self, buffer: Value, x: Operand, index: Index, guard: Guard = ()) -> None:
        """Store a result; what several points of the nest compute alike, the first of them stores."""
        kind = buffer.type
        assert isinstance(kind, BufferType)
        value = self.number(x, kind.dtype)
        offset = dense_offset(kind, index)
        attrs: dict[str, Attr] = {"index": self.pull.simple((offset,))}
        guard = (*guard, *((Dim.name(n), ZERO, ONE) for n in self.outer if n not in offset.names()))
        if guard:
            attrs["guard"] = guard
        self.here().ops.append(Operation(OPS["store"], (buffer, value), (), attrs, self.scan.span))

    def here(self) -> Container:
        return self.build.inner[-1] if self.build.inner else self.build.sweep or self.build.top

    def copy(self, source: Cell, target: Cell) -> None:
        """Local memory to local memory, both of one carry."""
        names = [e for n, e in enumerate(source.index) if n in source.axes]
        with_loops = self.open(names)
        offset = self.pull.offset(source, source.index)
        kind = source.buffer.type
        axes = (*self.pull.scope, *(str(e) for e in names))
        x = self.build.emit(OPS["load"], (source.buffer,), kind.dtype, {"index": (offset,)}, axes=axes)
        self.put(target, x, target.index)
        if with_loops:
            self.build.close_inner(pinned=True)

    def final(self, cells: Sequence[Cell]) -> None:
        """What the last step carried, where it is asked for."""
        for carry, cell, r in zip(self.loop.carries, cells, self.loop.last, strict=True):
            if r in self.outputs:
                with_loops = self.open(cell.index)
                self.write(self.buffers[r], self.pull(carry, cell.index), cell.index)
                if with_loops:
                    self.build.close_inner(pinned=True)

    def is_hazard(self, carry: Value) -> bool:
        """Is a carried value read in a step after it was written, or in the sweep that writes it at another place?"""
        buffer = self.pull.cells[carry].buffer
        written = False
        for op in self.touched[carry]:
            touching = [o for o in walk(Block((op,))) if o.operands and o.operands[0] is buffer]
            places = {o.dims("index") for o in touching if o.name == "store"}
            for o in touching:
                if o.name == "load" and (written or (places and places != {o.dims("index")})):
                    return True
                written = written or o.name == "store"
        return False


def stored_on_the_way(loop: Loop, axes: Axes) -> frozenset[Operation]:
    """The elementwise operations of a step over rows whose results have memory: those that a view reads in another
    order, and those that a product would make again for each of its own points.
    """
    if not loop.rows:
        return frozenset()
    maker = {r: op for op in loop.body.ops for r in op.results}
    found: set[Operation] = set()

    def note(v: Operand) -> None:
        while isinstance(v, Value) and (op := maker.get(v)) is not None:
            if op.record.kind is Kind.MAP:
                found.update({op} if axes.own(v) else ())
            if op.record.kind is not Kind.VIEW or len(op.operands) != 1:
                return
            v = op.operands[0]

    for op in loop.body.ops:
        if op.record.kind is Kind.VIEW and any(True for _ in axes.elsewhere(op)):
            for x in op.operands:
                note(x)
        elif op.record.kind is Kind.CONTRACT:
            classes = {c for v in (*op.inputs, op.result) for c in axes.classes(v)} & axes.inner
            for x in op.inputs:
                if classes - set(axes.classes(x)) or len(axes.own(x)) < len(axes.own(op.result)):
                    note(x)
    return frozenset(found)


def lane_axis(axes: Sequence[str], ops: Sequence[Operation]) -> str:
    """The axis along which most accesses of the ordered sweep are contiguous, the last one among equals; none where
    there is no such access and the sweeps inside have axes of their own for lanes.
    """
    inside = [o for op in ops if op.attrs.get("ordered") for o in walk(Block((op,)))]
    offsets = [
        o.dims("index")[0]
        for o in inside
        if o.name in ("load", "store") and o.operands[0].type.role != "local"  # type: ignore[union-attr]
    ]
    contiguous = {n: sum(coefficient(e, n) is ONE for e in offsets) for n in reversed(axes)}
    best = max(contiguous, key=contiguous.__getitem__, default="")
    deeper = sum(o.body is not None for o in inside) > 1
    return best if contiguous.get(best) or not deeper else ""
