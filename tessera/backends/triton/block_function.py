"""One nest of blocks in one mode as one ``@triton.jit`` function: programs, loops over blocks, products and folds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.backends.triton import intrinsics
from tessera.backends.triton.block_bounds import integer, loop_bounds, narrow_comparison
from tessera.backends.triton.block_parts import BlockParts, grouped
from tessera.backends.triton.blocks import COLS, EIGHT, PART, ROWS, Blocks, Side, every, names, varying
from tessera.backends.triton.descriptors import Descriptor, descriptors, end
from tessera.backends.triton.expr import Expressions, Sizes
from tessera.backends.triton.fold import FoldPlan, plan_fold
from tessera.backends.triton.intrinsics import Used
from tessera.backends.triton.tiling import Mode
from tessera.ir.dialects.tile import GATE, MMA, RUNNING, STORE
from tessera.ir.dtype import DType, f32
from tessera.ir.graph import Operand, Operation, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import ZERO, Unschedulable


@dataclass
class State:
    """What a fold carries through a loop: the variables from one block to the next, and those after this block."""

    op: Operation
    plan: FoldPlan | None
    names: list[str]
    after: list[str]
    sides: frozenset[str]


@dataclass
class Loop:
    """A loop under construction: the line at which it starts, and what it carries."""

    start: int
    depth: int
    states: list[State] = field(default_factory=list)
    declared: list[str] = field(default_factory=list)


#: Writes a product, added to a state where there is one; and the sides of its result.
Product = tuple[Callable[[str], str], Sequence[Side]]


@dataclass
class BlockEmitter(BlockParts):
    """The state of emitting one function."""

    loops: dict[str, Loop] = field(default_factory=dict)
    states: dict[Value, State] = field(default_factory=dict)
    finished: dict[tuple[Value, bool], str] = field(default_factory=dict)
    variant: set[Value] = field(default_factory=set)
    hoisted: bool = False
    #: What products need, where the rest of what differs along the columns follows them part by part.
    early: set[Value] | None = None
    #: How matrices are read, and the names of the descriptors.
    described: Mapping[Operation, Descriptor] = field(default_factory=dict)
    tables: dict[Descriptor, str] = field(default_factory=dict)

    # -- the function as a whole

    def run(self) -> str:
        """The text of the function."""
        self.programs()
        self.early = self.before_products() if self.layout.parted else None
        for op in self.layout.before:
            if self.is_early(op):
                self.step(op)
        self.variant = varying(self.layout.swept)
        self.hoisted = self.layout.walks
        self.walk()
        self.variant, self.hoisted = set(), False
        for op in self.layout.after:
            self.step(op)
        return self.source()

    def programs(self) -> None:
        """Which program this is, and where it stands along every side that is not walked."""
        t = self.layout
        counts = [(a, f"i{n}", self.exprs.text(t.extents[a])) for n, a in enumerate(t.single)]
        tiles = {s.block: f"tl.cdiv({self.exprs.text(s.extent)}, {s.block})" for s in t.tiled}
        self.describe()
        if not t.walks:
            counts.append(("", "tile", " * ".join(tiles.values())))
        elif tiles:
            counts.append(("", "tile", tiles[ROWS]))
        if t.shared:
            parts = [f"tl.cdiv({self.exprs.text(s.extent)}, {s.block})" for s in t.shared]
            most = parts[0]
            for p in parts[1:]:
                most = f"tl.maximum({most}, {p})"
            counts.append(("", "part", most))
        self.numbered(counts, self.mode == "streamed")
        if len(tiles) == 2:
            self.lines.text += ["    " * self.lines.depth + line for line in grouped(tiles[ROWS], tiles[COLS])]
        for s in t.sides:
            if (s.block == COLS and t.walks) or (self.mode != "held" and s in t.inner):
                self.lanes(s)
            else:
                first = s is t.tiled[0] if t.tiled else False
                start = "tile" if first else "strip" if s in t.tiled else "part" if s.parts else ""
                self.stand(s, f"{start} * {s.block}" if start else self.begin(s))

    def describe(self) -> None:
        """The descriptors of the matrices that products read."""
        self.described = descriptors(self.layout) if self.mode == "streamed" else {}
        for d in dict.fromkeys(self.described.values()):
            base = "" if d.base is ZERO else f" + {self.exprs.text(d.base)}"
            shape = ", ".join(self.exprs.text(end(self.layout, s)) for s in (d.rows, d.cols))
            strides = f"{self.exprs.text(d.stride)}, 1"
            blocks = f"{d.rows.block}, {PART if d.finished else d.cols.block}"
            self.tables[d] = self.define(
                "matrix",
                f"tl.make_tensor_descriptor({self.text(d.buffer)}{base}, shape=[{shape}], strides=[{strides}], "
                f"block_shape=[{blocks}])",
            )

    def load(self, op: Operation) -> None:
        """A tile through its descriptor, where it has one."""
        d = self.described.get(op)
        if d is None:
            super().load(op)
            return
        with self.along((d.rows.block, d.cols.block)) as frame:
            at = ", ".join(f"tl.cast({self.places[s.block].start}, tl.int32)" for s in (d.rows, d.cols))
            turned = "" if frame == (d.rows, d.cols) else ".T"
            self.gives(op.result, "load", f"{self.tables[d]}.load([{at}]){turned}", frame)
            self.zeroed[op.result] = frozenset(s.block for s in frame)

    def store(self, op: Operation) -> None:
        """A tile through its descriptor, where it has one."""
        d, x = self.described.get(op), op.operands[1]
        if d is None or not isinstance(x, Value) or self.lies([x]) != {ROWS, COLS}:
            super().store(op)
            return
        to = op.operands[0].type.dtype
        with self.along((ROWS, COLS)):
            value = self.text(x) if x.type.dtype is to else self.cast(x, to)
        at = ", ".join(f"tl.cast({self.places[s.block].start}, tl.int32)" for s in (d.rows, d.cols))
        self.lines.add(f"{self.tables[d]}.store([{at}], {self.used.note(value)})")

    def begin(self, side: Side) -> str:
        """Where a side begins; empty for 0."""
        return "" if side.lo[0] is ZERO else self.exprs.text(side.lo[0])

    # -- sweeps

    def step(self, op: Operation) -> None:
        """An operation outside of loops, or a sweep over sides that are held."""
        if op.body is None:
            self.statement(op)
            return
        for o in op.body.ops:
            self.step(o)

    def walk(self) -> None:
        """The loop over the blocks of the swept side."""
        swept = self.layout.swept
        side = self.layout.by_block[COLS]
        assert swept.body is not None
        if not self.layout.walks:
            self.block(swept)
            return
        self.hoist(swept.body.ops)
        lo, hi = loop_bounds(self, swept)
        with self.loop(side, "start", lo, hi):
            self.block(swept)

    def block(self, swept: Operation) -> None:
        """One block of the swept side."""
        assert swept.body is not None
        for op in swept.body.ops:
            if op.body is not None:
                self.inner(op)
            elif not self.invariant(op) and self.is_early(op):
                self.statement(op)
        if self.layout.parted:
            self.in_parts([op for op in (*self.layout.before, *swept.body.ops) if op.body is None])

    def before_products(self) -> set[Value]:
        """The values that products are made from."""
        needed: set[Value] = set()
        for op in reversed([*self.layout.before, *every((self.layout.swept,))]):
            if op.record is MMA or not needed.isdisjoint(op.results):
                needed.update(op.inputs)
        return needed

    def is_early(self, op: Operation) -> bool:
        """Is an operation written before the products, or where it stands?"""
        late = op.record is STORE or self.layout.along_cols(op)
        return self.early is None or not late or any(r in self.early for r in op.results)

    def in_parts(self, ops: Sequence[Operation]) -> None:
        """What becomes of the products, a few columns at a time: their tiles are taken apart, and all that differs
        along the columns is written for a part of them.
        """
        side, whole = self.layout.by_block[COLS], self.places[COLS]
        kept = dict(self.values), dict(self.memo), dict(self.offsets), dict(self.spread)
        tiles = {}
        for p in self.layout.products:
            if COLS in self.spread[p.result]:
                tiles[p.result] = self.define("parts", f"_parts({self.values[p.result]}, ROWS, COLS, {PART})")
        self.lines.add(f"for part in tl.static_range(COLS // {PART}):")
        self.lines.depth += 1
        self.lengths[COLS] = PART
        del self.offsets[COLS]
        self.stand(side, f"{whole.start} + part * {PART}" if whole.start else f"part * {PART}")
        self.values.update((v, self.define("tile", f"{tile}[part]")) for v, tile in tiles.items())
        for op in ops:
            if op.record is STORE or self.layout.along_cols(op):
                self.statement(op)
        self.lines.depth -= 1
        self.values, self.memo, self.offsets, self.spread = kept
        self.places[COLS] = whole
        del self.lengths[COLS]

    def invariant(self, op: Operation) -> bool:
        """Is an operation the same in all blocks, and so already done?"""
        return self.hoisted and bool(op.results) and not any(r in self.variant for r in op.results)

    def hoist(self, ops: Sequence[Operation]) -> None:
        """What is the same in all blocks, before the loop; not what stands in a loop of its own."""
        for op in ops:
            if op.body is None:
                if self.invariant(op):
                    self.statement(op)
            elif not self.loops_over(op):
                self.hoist(op.body.ops)

    def loops_over(self, sweep: Operation) -> bool:
        """Is an inner sweep walked?"""
        axes = names(sweep.attrs["axes"])
        return self.mode != "held" and bool(axes) and self.layout.home[axes[0]].folded

    def inner(self, sweep: Operation) -> None:
        """A sweep inside the loop, whole or block by block."""
        assert sweep.body is not None
        if not self.loops_over(sweep):
            for op in sweep.body.ops:
                if op.body is not None:
                    self.inner(op)
                elif not self.invariant(op):
                    self.statement(op)
            return
        side = self.layout.home[names(sweep.attrs["axes"])[0]]
        first, end = "0", self.exprs.text(side.extent)
        if start := self.begin(side):
            first, end = integer(self, "first", start), integer(self, "stop", self.exprs.text(side.hi[0]))
        with self.loop(side, "begin", first, end):
            for op in sweep.body.ops:
                if op.body is not None:
                    raise Unschedulable("a sweep stands inside one that is walked block by block")
                self.statement(op)

    @contextmanager
    def loop(self, side: Side, variable: str, lo: str, hi: str) -> Iterator[None]:
        """A loop over blocks. States that folds inside carry are declared before it; what they give is known after."""
        values, memo = dict(self.values), dict(self.memo)
        made = self.loops[side.block] = Loop(len(self.lines.text), self.lines.depth)
        self.lines.add(f"for {variable} in range({lo}, {hi}, {side.block}):")
        self.lines.depth += 1
        self.stand(side, f"tl.cast({variable}, tl.int64)")
        yield
        for s in made.states:
            for name, new in zip(s.names, s.after, strict=True):
                self.lines.add(f"{name} = {new}")
        self.lines.depth = made.depth
        self.lines.text[made.start : made.start] = made.declared
        self.values, self.memo = values, memo
        del self.loops[side.block], self.places[side.block]
        for s in made.states:
            self.complete(s)

    # -- operations

    def statement(self, op: Operation) -> None:
        if op.record is MMA:
            self.product(op)
        elif op.record.kind is Kind.REDUCE:
            self.fold(op)
        elif op.record is RUNNING:
            x = op.operands[0]
            assert isinstance(x, Value)
            self.values[op.result] = self.running(x, bool(op.attrs["before"]))
            self.spread[op.result] = self.states[x].sides
        elif op.record is not GATE and not self.compared(op):
            super().statement(op)

    def compared(self, op: Operation) -> bool:
        """Write a comparison of positions that needs fewer bits than the positions; False for other operations."""
        if op.record.kind is not Kind.MAP:
            return False
        with self.along(self.lies(op.operands)) as frame:
            text = narrow_comparison(self, op)
            if text is not None:
                self.gives(op.result, op.name, text, frame)
        return text is not None

    def running(self, x: Value, before: bool) -> str:
        """What a fold has reached after this block, or before it."""
        s = self.states[x]
        state = s.names if before else s.after
        if s.plan is None:
            return state[0]
        key = (x, before)
        if key not in self.finished:
            self.finished[key] = self.finish(s.plan, state)[s.op.results.index(x)]
        return self.finished[key]

    def complete(self, s: State) -> None:
        """What a fold gives, after its loop."""
        found = s.names if s.plan is None else self.finish(s.plan, s.names)
        for r, text in zip(s.op.results, found, strict=True):
            self.values[r], self.spread[r] = text, s.sides
            self.finished.pop((r, False), None), self.finished.pop((r, True), None)

    def carried(self, loop: Loop, op: Operation, plan: FoldPlan | None, sides: Sequence[Side]) -> State:
        """A state that a loop carries, declared before it."""
        own = op.attrs["dtype"]
        assert isinstance(own, DType)
        dtypes = (own,) if plan is None else plan.dtypes
        starts: Sequence[bool | int | float] = (0.0,) if plan is None else plan.start
        made = [self.fresh(op.name) for _ in dtypes]
        for name, start, t in zip(made, starts, dtypes, strict=True):
            text = intrinsics.literal(start, f32 if t.is_float else t)
            line = f"{name} = tl.full({self.shape(sides)}, {text}, {intrinsics.type_name(t)})"
            loop.declared.append("    " * loop.depth + line)
        s = State(op, plan, made, [], frozenset(x.block for x in sides))
        loop.states.append(s)
        self.states.update(dict.fromkeys(op.results, s))
        return s

    # -- folds

    def fold(self, op: Operation) -> None:
        """The elements of a block joined, then joined to what was folded before."""
        loop = self.loops.get(COLS)
        if loop is None or op.attrs["over"] != self.layout.swept.attrs["axes"]:
            raise Unschedulable(f"`{op.name}` folds an axis that is not walked in blocks")
        plan = plan_fold(op)
        with self.along(self.lies(op.operands[:1]) | {COLS}) as frame:
            block = self.elements(plan, (COLS,))
            axis = [s.block for s in frame].index(COLS)
            rest = [s for s in frame if s.block != COLS]
        self.joined(plan, block, axis)
        s = self.carried(loop, op, plan, rest)
        with self.along(x.block for x in rest):
            state = list(s.names)
            if len(op.operands) > 1:
                state = [self.define("scaled", f"{n} * {self.text(op.operands[1])}") for n in state]
            if plan.additive:
                s.after = [self.define(op.name, f"{a} + {b}") for a, b in zip(state, block, strict=True)]
                return
            given_ = dict(zip((*plan.state, *plan.other), (*state, *block), strict=True))
            results = self.inline(plan.merge, given_, {})
            s.after = [self.text(r, t, alone=True) for r, t in zip(results, plan.dtypes, strict=True)]

    # -- products

    def product(self, op: Operation) -> None:
        """A sum of products over one side: of tiles where each has a side besides it, else point by point."""
        a, b = (x for x in op.operands[:2])
        axes = names(op.attrs["over"])
        over = self.layout.home[axes[0]] if axes else None
        if over is not None and axes != over.axes:
            raise Unschedulable("a product sums over some of the axes that are swept together")
        own = self.lies((a, b)) | ({over.block} if over is not None else set())
        loop = self.loops.get(over.block) if over is not None else None
        if over is not None and len(own) == 3:
            make, rest = self.tiles(op, a, b, over, own)
        else:
            make, rest = self.points(a, b, over, own)
        if loop is None:
            self.gives(op.result, op.name, make(""), rest)
            return
        s = self.carried(loop, op, None, rest)
        with self.along(x.block for x in rest):
            state = s.names[0]
            if len(op.operands) > 2:
                state = self.define("scaled", f"{state} * {self.text(op.operands[2])}")
        s.after = [self.define(op.name, make(state))]

    def points(self, a: Operand, b: Operand, over: Side | None, own: frozenset[str]) -> Product:
        """Products point by point, and their sum along a side."""
        with self.along(own) as frame:
            pair = [self.text(x) if over is None else self.padded(x, over) for x in (a, b)]
            made = f"{pair[0]} * {pair[1]}"
            if over is not None:
                made = f"tl.sum({made}, axis={[s.block for s in frame].index(over.block)})"
        return (lambda state: f"{state} + {made}" if state else made), [s for s in frame if s is not over]

    def tiles(self, op: Operation, a: Operand, b: Operand, over: Side, own: frozenset[str]) -> Product:
        """Products of tiles."""
        first, second = sorted((self.layout.by_block[x] for x in own - {over.block}), key=lambda s: (s.rank, s.block))
        if first.block in self.lies((b,)):
            a, b = b, a
        if second.block in self.lies((a,)) or first.block in self.lies((b,)):
            raise Unschedulable("both operands of a product differ along the same side of a tile")
        a, b = self.sources(a, b)
        texts = []
        for x, sides in ((a, (first, over)), (b, (over, second))):
            with self.along(s.block for s in sides) as frame:
                if frame != sides:
                    raise Unschedulable("the sides of a product do not follow each other")
                text = self.padded(x, over)
                if len(self.lies((x,))) < 2:
                    text = f"tl.broadcast_to({text}, {self.shape(sides)})"
                if x.type.dtype.name in EIGHT:
                    text = f"{text}.to(tl.float16)"
                texts.append(text)
        t = op.result.type.dtype
        exact = ', input_precision="ieee"' if a.type.dtype.bits == 32 else ""
        wide = ", out_dtype=tl.float64" if t.bits == 64 else ""

        def make(state: str) -> str:
            return f"tl.dot({', '.join([*texts, state] if state else texts)}{exact}{wide})"

        return make, [first, second]


def block_emitter(
    name: str, layout: Blocks, mode: Mode, params: Mapping[Value, str], used: Used, merges: dict[str, str]
) -> BlockEmitter:
    """An emitter at its start."""
    ranges = {a: (ZERO, e) for a, e in layout.extents.items()}
    ranges |= {a: (lo, hi) for s in layout.sides for a, lo, hi in zip(s.axes, s.lo, s.hi, strict=True)}
    return BlockEmitter(
        params, used, Expressions(Sizes(), ranges), layout=layout, mode=mode, name=name, merges=merges
    )
