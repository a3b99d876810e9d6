"""One nest in one mode as one ``@triton.jit`` function: programs, sweeps and folds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.backends.triton import intrinsics
from tessera.backends.triton.expr import Expressions, Sizes
from tessera.backends.triton.fold import FoldPlan, plan_fold
from tessera.backends.triton.intrinsics import Used
from tessera.backends.triton.memory import POINTS, SWEPT, Memory, Sides, expressions, load_key
from tessera.backends.triton.source import KernelFunction, arguments
from tessera.backends.triton.statements import Statements, dim, dims
from tessera.backends.triton.tiling import Mode, Sweep, Tiling
from tessera.ir.dialects.tile import LOAD
from tessera.ir.dim_range import coefficient
from tessera.ir.dtype import f32
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Literal, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import ONE


@dataclass
class FunctionEmitter(Memory):
    """The state of emitting one function. ``merges`` (text to name) is shared by those of a kernel."""

    name: str = ""
    merges: dict[str, str] = field(default_factory=dict)
    ranges: dict[object, tuple[str, str]] = field(default_factory=dict)
    parts: tuple[str, ...] = ()

    @property
    def tiling(self) -> Tiling:
        return self.sides.tiling

    # -- the function as a whole

    def run(self) -> str:
        """The text of the function."""
        for s in self.tiling.sweeps:
            self.reads.update(load_key(o) for o in s.ops if o.record is LOAD)
        self.programs()
        for step in self.tiling.steps:
            if isinstance(step, Sweep):
                self.sweep(step)
            else:
                self.statement(step)
        return self.function().text(self.lines.text)

    def function(self) -> KernelFunction:
        """The function's name and arguments; complete after ``run``."""
        blocks = ((), ("COLS",), ("ROWS", "COLS"))[self.tiling.sides] + (("WIDE",) if "tile" in self.parts else ())
        return KernelFunction(self.name, arguments(self.taken, self.exprs.sizes.names), blocks, self.looks_up)

    def programs(self) -> None:
        """The values of the parallel axes in this program."""
        t, add = self.tiling, self.lines.add
        counts = {f"i{n}": self.exprs.text(t.extents[a]) for n, a in enumerate(t.single)}
        if t.tiled:
            counts["tile"] = self.tiles(self.exprs.text(t.points), POINTS)
        if self.mode == "tile" and t.span is not None:
            counts["strip"] = self.tiles(self.exprs.text(t.span), SWEPT)
        self.parts = tuple(name for name, count in counts.items() if count != "1")
        if len(self.parts) > 1:
            add("program = tl.program_id(0)")
        for n, name in reversed(list(enumerate(self.parts))):
            if len(self.parts) == 1:
                add(f"{name} = tl.program_id(0)")
            elif n == 0:
                add(f"{name} = program")
            else:
                add(f"{name} = program % {counts[name]}")
                add(f"program = program // {counts[name]}")
        if "tile" in self.parts:
            # Positions of 64 bits are slow to divide, so only where there are so many.
            add("if WIDE:")
            add("    tile = tile.to(tl.int64)")
        for n, a in enumerate(t.single):
            self.exprs.axes[a] = f"i{n}"
            add(f"i{n} = i{n}.to(tl.int64)" if f"i{n}" in self.parts else f"i{n} = 0")
        if t.tiled:
            self.points()

    def tiles(self, extent: str, side: str) -> str:
        return "1" if extent == "1" else f"tl.cdiv({extent}, {self.sides.block(side)})"

    def points(self) -> None:
        """The flat position along the parallel side, taken apart into its axes."""
        t, add = self.tiling, self.lines.add
        block = self.sides.block(POINTS)
        start = f"tile * {block} + " if "tile" in self.parts else ""
        add(f"point = {start}tl.arange(0, {block}){self.sides.broadcast(POINTS)}")
        add(f"{self.sides.points_mask} = point < {self.exprs.text(t.points)}")
        first = len(t.single)
        for n, a in reversed(list(enumerate(t.tiled, first))):
            if n == first:
                add(f"i{n} = point.to(tl.int64)")
                continue
            size = self.exprs.text(t.extents[a])
            add(f"i{n} = (point % {size}).to(tl.int64)")
            add(f"point = point // {size}")
        for n, a in enumerate(t.tiled, first):
            self.exprs.axes[a] = f"i{n}"

    # -- sweeps

    def sweep(self, s: Sweep) -> None:
        ranges = zip(s.lo, s.hi, strict=True)
        self.exprs.ranges = {**self.exprs.ranges, **dict(zip(s.axes, ranges, strict=True))}
        folds = [plan_fold(o) for o in s.ops if o.record.kind in FOLDS]
        self.sides.swept = s.axes[-1]
        if self.mode == "loop":
            self.looped(s, folds)
        else:
            self.whole(s, folds)
        self.sides.swept = self.sides.swept_mask = ""

    def whole(self, s: Sweep, folds: Sequence[FoldPlan]) -> None:
        """One tile of the sweep: all of it when held, the program's strip of it otherwise."""
        found = self.ranges.get(s.range)
        if found is None:
            n = len(self.ranges)
            block = self.sides.block(SWEPT)
            name, mask = f"j{n}", f"in_{block.lower()}" + (f"{n}" if n else "")
            lo = self.exprs.text(s.lo[-1])
            terms = [] if lo == "0" else [lo]
            terms += [f"strip.to(tl.int64) * {block}"] if "strip" in self.parts else []
            terms.append(f"tl.arange(0, {block}){self.sides.broadcast(SWEPT)}{self.wide(s, -1)}")
            self.lines.add(f"{name} = {' + '.join(terms)}")
            self.lines.add(f"{mask} = {name} < {self.exprs.text(s.hi[-1])}")
            found = self.ranges[s.range] = (name, mask)
        self.exprs.axes[s.axes[-1]], self.sides.swept_mask = found
        pending = iter(folds)
        for o in s.ops:
            if o.record.kind is Kind.REDUCE:
                plan = next(pending)
                self.finish(plan, self.alone(plan))
            elif o.record.kind is Kind.SCAN:
                plan = next(pending)
                if o.results[0] not in self.values:  # an earlier sweep has made it
                    self.reached(plan, self.prefixes(plan, self.alone(plan)))
            else:
                self.statement(o)

    def wide(self, s: Sweep, place: int) -> str:
        """A conversion where a position along the sweep is multiplied: products may need 64 bits."""
        axis = s.axes[place]
        for o in s.ops:
            for e in dims(tuple(o.attrs.values())):
                if axis in e.names() and coefficient(e, axis) is not ONE:
                    return ".to(tl.int64)"
        return ""

    def looped(self, s: Sweep, folds: Sequence[FoldPlan]) -> None:
        """The sweep tile by tile, each lane with a state of its own."""
        states = [self.declare(plan) for plan in folds]
        with self.scope():
            for n, (axis, lo, hi) in enumerate(zip(s.axes[:-1], s.lo[:-1], s.hi[:-1], strict=True)):
                self.lines.add(f"for k{n} in range({self.exprs.text(lo)}, {self.exprs.text(hi)}):")
                self.lines.depth += 1
                self.exprs.axes[axis] = f"k{n}"
                if self.wide(s, n):
                    self.lines.add(f"k{n}_wide = tl.cast(k{n}, tl.int64)")
                    self.exprs.axes[axis] = f"k{n}_wide"
            block, hi_text = self.sides.block(SWEPT), self.exprs.text(s.hi[-1])
            self.lines.add(f"for start in range({self.exprs.text(s.lo[-1])}, {hi_text}, {block}):")
            self.lines.depth += 1
            offsets = f"start + tl.arange(0, {block}){self.sides.broadcast(SWEPT)}"
            wide = self.wide(s, -1)
            self.lines.add(f"j0 = ({offsets}){wide}" if wide else f"j0 = {offsets}")
            self.sides.swept_mask = f"in_{block.lower()}"
            self.lines.add(f"{self.sides.swept_mask} = j0 < {hi_text}")
            self.exprs.axes[s.axes[-1]] = "j0"
            self.loop_body(s, folds, states)
        for plan, state in zip(folds, states, strict=True):
            if plan.op.record.kind is Kind.REDUCE:
                self.finish(plan, state)

    def loop_body(self, s: Sweep, folds: Sequence[FoldPlan], states: Sequence[Sequence[str]]) -> None:
        pending = iter(zip(folds, states, strict=True))
        for o in s.ops:
            if o.record.kind is Kind.REDUCE:
                self.step(*next(pending))
            elif o.record.kind is Kind.SCAN:
                self.carry(*next(pending))
            else:
                self.statement(o)
        self.reads.subtract(load_key(o) for o in s.ops if o.record is LOAD)

    @contextmanager
    def scope(self) -> Iterator[None]:
        """What is computed in a loop is not known after it."""
        values, memo, depth = dict(self.values), dict(self.memo), self.lines.depth
        yield
        self.values, self.memo, self.lines.depth = values, memo, depth

    # -- folds

    def declare(self, plan: FoldPlan) -> list[str]:
        """Start values, one a lane, or of a scan one for each line along the sweep."""
        names = []
        shape = self.sides.ones(POINTS) if self.tiling.sides == 2 else "[1]"
        shape = shape if plan.op.record.kind is Kind.SCAN else self.sides.shape
        for start, t in zip(plan.start, plan.dtypes, strict=True):
            name = self.fresh(plan.op.name)
            text = intrinsics.literal(start, f32 if t.is_float else t)
            self.lines.add(f"{name} = tl.full({shape}, {text}, {intrinsics.type_name(t)})")
            names.append(name)
        return names

    def step(self, plan: FoldPlan, state: Sequence[str]) -> None:
        """One element joins the state of its lane."""
        new = self.joined(plan, dict(zip(plan.state, state, strict=True)), {})
        for name, value in zip(state, new, strict=True):
            self.lines.add(f"{name} = tl.where({self.sides.swept_mask}, {value}, {name})")

    def alone(self, plan: FoldPlan) -> list[str]:
        """The state of a single element in each lane, the start state where there is none."""
        starts = {v: Literal(x) for v, x in zip(plan.state, plan.start, strict=True)}
        new = [self.text(plan.op.operands[0])] if plan.plain else self.joined(plan, {}, starts)
        out = []
        for value, start, t in zip(new, plan.start, plan.dtypes, strict=True):
            name = self.fresh(plan.op.name)
            none = intrinsics.literal(start, t)
            self.lines.add(f"{name} = tl.where({self.sides.swept_mask}, {value}, {none})")
            out.append(name)
        return out

    def joined(self, plan: FoldPlan, state: Mapping[Value, str], starts: Mapping[Value, Literal]) -> list[str]:
        """The state after one more element."""
        given = {**state, plan.element: self.text(plan.op.operands[0])}
        if plan.step.reads(plan.index):
            at = self.exprs.text(dim(plan.op.attrs["position"]))
            given[plan.index] = self.define("at", f"tl.cast({at}, tl.int64)")
        results = self.inline(plan.step, given, starts)
        return [self.text(r, t) for r, t in zip(results, plan.dtypes, strict=True)]

    def finish(self, plan: FoldPlan, state: Sequence[str]) -> None:
        """Join the lanes, then make the results of the reduction from the state."""
        side = self.tiling.swept_side
        more = ", keep_dims=True" if self.tiling.sides == 2 else ""
        names = ", ".join(state)
        if plan.additive:
            self.lines.add(f"{names} = tl.sum({names}, axis={side}{more})")
        else:
            self.lines.add(f"{names} = tl.reduce({self.merging(plan, state)}{more})")
        self.reached(plan, state)

    def merging(self, plan: FoldPlan, state: Sequence[str]) -> str:
        """States along the swept side and the function that joins two, as arguments."""
        names = ", ".join(state)
        given = names if len(state) == 1 else f"({names})"
        return f"{given}, {self.tiling.swept_side}, {merge_function(plan, self.used, self.merges)}"

    def prefixes(self, plan: FoldPlan, state: Sequence[str]) -> list[str]:
        """The states of all elements up to each one of the tile."""
        names = [self.fresh(plan.op.name) for _ in state]
        self.lines.add(f"{', '.join(names)} = tl.associative_scan({self.merging(plan, state)})")
        return names

    def carry(self, plan: FoldPlan, state: Sequence[str]) -> None:
        """The states of a tile, joined with what all tiles before it have come to, which it then is part of."""
        alone = self.alone(plan)
        self.reached(plan, self.joint(plan, state, self.prefixes(plan, alone)))
        ends = [self.fresh(plan.op.name) for _ in state]
        self.lines.add(f"{', '.join(ends)} = tl.reduce({self.merging(plan, alone)}, keep_dims=True)")
        for name, text in zip(state, self.joint(plan, state, ends), strict=True):
            self.lines.add(f"{name} = {text}")

    def joint(self, plan: FoldPlan, a: Sequence[str], b: Sequence[str]) -> list[str]:
        """Two states joined, ``a`` before ``b``."""
        merged = self.inline(plan.merge, dict(zip((*plan.state, *plan.other), (*a, *b), strict=True)), {})
        return [self.text(r, t) for r, t in zip(merged, plan.dtypes, strict=True)]

    def reached(self, plan: FoldPlan, state: Sequence[str]) -> None:
        """The results that a state comes to."""
        results = self.inline(plan.finish, dict(zip(plan.state, state, strict=True)), {})
        for r, made in zip(plan.op.results, results, strict=True):
            to = r.type.dtype
            same = isinstance(made, Value) and made.type.dtype is to
            self.values[r] = self.text(made) if same else self.define("cast", self.cast(made, to))


def merge_function(plan: FoldPlan, used: Used, merges: dict[str, str]) -> str:
    """The name of the function that joins two states; equal ones are written once."""
    inner = Statements({}, used, Expressions(Sizes(), {}))
    params = [*(f"a{n}" for n in range(len(plan.state))), *(f"b{n}" for n in range(len(plan.other)))]
    given = dict(zip((*plan.state, *plan.other), params, strict=True))
    results = inner.inline(plan.merge, given, {})
    back = ", ".join(inner.text(r, t, alone=True) for r, t in zip(results, plan.dtypes, strict=True))
    body = "\n".join((f"({', '.join(params)}):", *inner.lines.text, f"    return {back}"))
    return merges.setdefault(body, f"_merge{len(merges)}")


def emitter(
    name: str, tiling: Tiling, mode: Mode, names: Mapping[Value, str], used: Used, merges: dict[str, str]
) -> FunctionEmitter:
    """An emitter at its start."""
    return FunctionEmitter(names, used, expressions(tiling), mode=mode, sides=Sides(tiling), name=name, merges=merges)
