"""A region around a contraction to one nest: the contraction is made and used up block by block, never stored.

The space of the contraction has one axis that is swept. All folds along it share the sweep, those that depend on
others by following them (see ``online``). What the folds leave is finished after the sweep.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import contracted_dtype, letters
from tessera.ir.dim import Dim, ceildiv, dim_min, product
from tessera.ir.dtype import DType, compute_dtype
from tessera.ir.graph import Attr, Block, Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.intervals import Interval, holds
from tessera.ir.online import Apart, Shift, factors, gates, identity
from tessera.ir.record import Kind
from tessera.ir.roles import Role, Roles
from tessera.ir.types import BufferType, TileType
from tessera.schedule.pieces import Pieces
from tessera.schedule.plan import ZERO, Unschedulable
from tessera.schedule.pull import Index, Misplaced, Pull, Puller
from tessera.schedule.ranges import delinearize
from tessera.schedule.tilebuild import Container, Expr, Namespace, TileBuilder, unwrap

#: Points of a sweep without folds that one iteration takes: enough to make up for what each brings into its form.
PIECE = 512


class StreamPuller(Puller):
    """As ``Puller``, inside or after the sweep: what a fold of it has reached, or what it gave."""

    places: Mapping[Value, Index]
    #: For a fold that follows others: the values it follows, and what they are where nothing came.
    follows: Mapping[Value, Sequence[tuple[Value, float]]]
    #: How many points the sweep has.
    extent: Dim
    before = False
    #: The bounds of the sums of products, where they are cut.
    slice: tuple[Dim, Dim] | None = None
    #: Are factors rounded to their dtypes, as the instructions for products of narrow ones take them?
    rounds = False

    def reduced(self, v: Value, index: Index) -> Operand:
        at = tuple(e for e, d in zip(index, v.type.dims, strict=True) if d is not ONE)
        if v not in self.folded or at != self.places[v]:
            raise Misplaced(v)
        fold = self.folded[v]
        sweep = self.build.sweep
        assert isinstance(fold.type, TileType)
        if sweep is None:
            return self.complete(v, fold)
        attrs: dict[str, Attr] = {"before": self.before}
        reached = self.build.emit(OPS["running"], (fold,), fold.type.dtype, attrs, axes=(*fold.type.axes, *sweep.axes))
        start = identity(self.maker[v])
        if self.before or start is None or abs(start) != float("inf"):
            return reached
        # Where nothing but the identity came, any number will do, and a finite one gives no NaN: exp(-inf - 0) = 0.
        t = Namespace(self.build)
        some = t.where(Expr(t, reached) == start, 0.0, Expr(t, reached))
        return unwrap(some)

    def complete(self, v: Value, fold: Value) -> Operand:
        """A fold after the sweep. Where all that came was the identity of a fold that it follows, its terms are
        inf - inf, which the sweep passed over.
        """
        t = Namespace(self.build)
        made = Expr(t, fold)
        for followed, nothing in self.follows.get(v, ()):
            place = iter(self.parallel)
            at = tuple(ZERO if d is ONE else next(place) for d in followed.type.dims)
            missing = t.logical_and(Expr(t, self(followed, at)) == nothing, t.gt(self.extent, 0))
            made = t.where(missing, float("nan"), made)
        return unwrap(made)

    def summed(self, extent: Dim) -> str:
        name = super().summed(extent)
        if self.slice is not None and extent is not ONE:
            lo, hi = self.slice
            self.ranges[name] = (lo, dim_min(extent, hi))
        return name

    def pair(self, a: Operand, b: Operand, dtype: DType, op: Operation) -> list[Operand]:
        if self.rounds:
            a, b = (self.rounded(x, o.type.dtype) for x, o in zip((a, b), op.operands[:2], strict=True))
        return super().pair(a, b, dtype, op)

    def contracted(self, op: Operation, v: Value, index: Index, partly: bool) -> Pull:
        if v in self.places:
            return self.reduced(v, index)
        return (yield from super().contracted(op, v, index, partly))


@dataclass
class StreamLowering:
    """Builds the nest of one stream region. With a ``cut``, what is stored are the pieces of its sums of products; with
    sums over ``rows``, these follow each other in as many pieces. ``rounds`` as in ``StreamPuller``.
    """

    ops: Sequence[Operation]
    outputs: Sequence[Value]
    axes: tuple[Attr, ...]
    buffers: Mapping[Value, Value]
    scalars: Mapping[Value, Value]
    names: dict[str, int]
    mark: str
    cut: Pieces | None = None
    rows: Pieces | None = None
    rounds: bool = False
    free: dict[tuple[Dim, int], str] = field(default_factory=dict)

    def run(self) -> Operation:
        """Raises Unschedulable where a fold cannot follow another."""
        self.axis = int(self.axes[0])  # type: ignore[arg-type]
        self.roles = Roles.find(self.ops, self.axis)
        try:
            self.moves = factors(self.ops, self.roles)
        except Apart as e:
            raise Unschedulable(f"%{e.op.results[0].name} cannot follow the folds before it in one sweep") from e
        self.space = next(op for op in self.ops if self.roles[op.results[0]] is Role.FULL).result.type.dims
        self.extent = product(self.space[a] for a in self.axes)  # type: ignore[index]
        self.index = self.place()
        self.build = TileBuilder(Container(), self.names)
        own = frozenset(v for v in self.buffers if v in self.roles.maker)
        kept = tuple(e for a, e in enumerate(self.index) if a not in self.axes and e is not ZERO)
        self.places: dict[Value, Index] = {}
        self.pull, self.old = (
            StreamPuller(self.build, self.roles.maker, self.buffers, self.scalars, kept, own, mark=self.mark)
            for _ in range(2)
        )
        self.old.before, self.old.era = True, "before"
        self.old.ranges, self.old.lookups, self.old.folded = self.pull.ranges, self.pull.lookups, self.pull.folded
        self.pull.places = self.old.places = self.places
        self.pull.rounds = self.rounds
        self.pull.extent = self.extent
        inf = float("inf")
        self.pull.follows = {
            op.results[0]: [(v, -inf if n < 0 else inf) for _, shift in move.scales for v, n in shift]
            for op, move in self.moves.items()
            if not move.guarded
        }
        return self.nest(kept)

    def place(self) -> Index:
        """A position in the space: one axis for all that are swept, one for each of the others."""
        swept = [self.space[a] for a in self.axes if self.space[a] is not ONE]  # type: ignore[index]
        parts = iter(delinearize(Dim.name(self.name(self.axis)), swept))
        return tuple(
            ZERO if d is ONE else next(parts) if a in self.axes else Dim.name(self.name(a))
            for a, d in enumerate(self.space)
        )

    def name(self, axis: int) -> str:
        return f"i{axis}{self.mark}"

    @property
    def piece(self) -> str:
        """The axis that numbers the pieces of sums, or of rows."""
        return f"p{self.mark}"

    def nest(self, kept: Index) -> Operation:
        parallel = [(self.name(a), d) for a, d in enumerate(self.space) if a not in self.axes and d is not ONE]
        bounds = (ZERO, self.extent)
        if not self.roles.folds(self.ops):  # then there is no reason not to share out the sweep as well
            piece, size = f"c{self.mark}", Dim.const(PIECE)
            parallel.insert(0, (piece, ceildiv(self.extent, size)))
            bounds = (Dim.name(piece) * size, dim_min(Dim.name(piece) * size + size, self.extent))
        if self.cut is not None:
            start = Dim.name(self.piece) * self.cut.size
            parallel.insert(0, (self.piece, self.cut.count))
            self.pull.slice = (start, start + self.cut.size)
        if self.rows is not None:
            self.pull.ranges[self.piece] = (ZERO, self.rows.count)
        self.pull.ranges.update((n, (ZERO, d)) for n, d in parallel)
        self.pull.ranges[self.name(self.axis)] = bounds
        try:
            self.sweep(kept, bounds)
            self.finish()
        except Misplaced as e:
            raise Unschedulable(f"%{e.value.name} is read at positions that no loop of the kernel walks") from e
        attrs: dict[str, Attr] = {}
        if self.rows is not None:
            (last, extent), start = parallel.pop(), Dim.name(self.piece) * self.rows.size
            parallel = [(self.piece, self.rows.count), *parallel, (last, self.rows.size)]
            attrs = {"walk": (start, dim_min(start + self.rows.size, extent))}
        axes = tuple(n for n, _ in parallel)
        attrs = {"axes": axes, "extents": tuple(d for _, d in parallel), "vector": axes[-1] if axes else "", **attrs}
        return Operation(OPS["nest"], (), (), attrs, body=Block(tuple(self.build.top.ops)))

    # -- the sweep

    def sweep(self, kept: Index, bounds: tuple[Dim, Dim]) -> None:
        lo, hi = bounds
        self.build.sweep = Container((self.name(self.axis),), (lo,), (hi,))
        folds = self.roles.folds(self.ops)
        crosses = [op for op in self.ops if self.roles.crosses(op)]
        if not self.stored():
            self.gates((*folds, *crosses))
        for op in folds:
            self.places.update((r, kept) for r in op.results)
            if op.record.kind is Kind.CONTRACT:
                self.contraction(op)
            else:
                self.fold(op)
        for op in crosses:
            self.cross(op)
        for v in self.stored():
            self.store(v, self.index)
        self.build.close_sweep()

    def stored(self) -> list[Value]:
        """Values of the space itself that the region gives."""
        return [v for v in self.outputs if self.roles[v] is Role.FULL]

    def gates(self, folds: Sequence[Operation]) -> None:
        """Bounds for the sweep from conditions on positions, and gates for conditions on more than that."""
        sweep = self.build.sweep
        assert sweep is not None
        found = [
            (x, alive)
            for condition, alive in gates(self.ops, self.roles, folds)
            if isinstance(x := self.pull(condition, Puller.aligned(condition.type, self.index)), Value)
        ]
        maker = {r: op for c in (self.build.top, sweep) for op in c.ops for r in op.results}
        within = Interval()
        for x, alive in found:
            interval = holds(x, alive, maker, sweep.axes[0])
            within = within.both(interval)
            if not interval.exact and isinstance(x.type, TileType) and sweep.axes[0] in x.type.axes:
                t = Namespace(self.build)
                wanted = x if alive else unwrap(t.logical_not(Expr(t, x)))
                sweep.ops.append(Operation(OPS["gate"], (wanted,), ()))
        sweep.alive = (within.lo, within.hi)

    def fold(self, op: Operation) -> None:
        x = self.pull.foldable(self.pull(op.operands[0], self.index), op.operands[0].type.dtype)
        factor = self.factor(op)
        axes = tuple(n for n in self.pull.ranges if n in {m for e in self.pull.parallel for m in e.names()})
        sweep = self.build.sweep
        assert sweep is not None
        results = self.pull.fold(op, x, sweep.axes, self.index[self.axis], axes, factor)
        self.pull.folded.update(zip(op.results, results, strict=True))

    def contraction(self, op: Operation) -> None:
        """A contraction over the swept axis: for each block a sweep over the dims that only its other operand has."""
        x, factor = self.pull(op.operands[0], self.index), self.factor(op)
        y, at = self.other(op)
        dims = zip(letters(op)[2], op.result.type.dims, strict=True)
        self.places[op.result] = tuple(at[c] for c, d in dims if d is not ONE)
        sweep = self.build.sweep
        assert sweep is not None
        kept = tuple(a for a in self.pull.ranges if a not in sweep.axes)
        dtype = compute_dtype(contracted_dtype(op))
        self.pull.folded[op.result] = self.pull.mma(op.result, x, y, sweep.axes, kept, dtype, op, factor)
        self.build.close_inner()

    def cross(self, op: Operation) -> None:
        """A contraction over the rows: for each block the same sweep, in which memory is added to."""
        x = self.pull(op.operands[0], self.index)
        y, at = self.other(op)
        dims, buffer = op.result.type.dims, self.buffers[op.result]
        place = tuple(ZERO if d is ONE else at[c] for c, d in zip(letters(op)[2], dims, strict=True))
        rows = self.roles.rows
        assert rows is not None
        self.pull.accumulate(buffer, x, y, (Dim.name(self.piece), *place), self.index[rows], op)
        self.build.close_inner()

    def other(self, op: Operation) -> tuple[Operand, dict[str, Dim]]:
        """The other operand of a contraction, in a new sweep over the dims that only it has; where each letter is."""
        left, right, _ = letters(op)
        at, dims = dict(zip(left, self.index, strict=True)), op.operands[1].type.dims
        free = {c: d for c, d in zip(right, dims, strict=True) if c not in at and d is not ONE}
        names = {c: self.free_axis(d, n) for n, (c, d) in enumerate(free.items())}
        at.update((c, Dim.name(a)) for c, a in names.items())
        self.build.inner.append(Container(tuple(names.values()), tuple(ZERO for _ in names), tuple(free.values())))
        where = tuple(ZERO if d is ONE else at[c] for c, d in zip(right, dims, strict=True))
        return self.pull(op.operands[1], where), at

    def free_axis(self, extent: Dim, number: int) -> str:
        """The axis for a free dim of the other operand; contractions with equal ones share it, so that what they give
        can be combined.
        """
        key = (extent, number)
        if key not in self.free:
            self.free[key] = self.pull.axis(extent)
        return self.free[key]

    def factor(self, op: Operation) -> tuple[Operand, ...]:
        """What a fold's state is multiplied by when the folds it depends on move; nothing when it depends on none."""
        t = Namespace(self.build)
        factor: Expr | None = None
        for record, shift in self.moves[op].scales:
            step = Expr(t, t.apply(record, (unwrap(self.change(shift)),), {}))
            factor = step if factor is None else t.mul(factor, step)
        # Only what is still zero can be asked to grow without bound.
        return () if factor is None else (unwrap(t.where(t.isinf(factor), 0.0, factor)),)

    def change(self, shift: Shift) -> Expr:
        """How much the kept values have moved with this block, from after it to before it, weighted."""
        t = Namespace(self.build)
        total: Expr | None = None
        for v, n in shift:
            index = Puller.aligned(v.type, self.index)
            new, old = (Expr(t, p(v, index)) for p in (self.pull, self.old))
            moved = t.sub(old, new) if n < 0 else t.sub(new, old)
            moved = moved if abs(n) == 1 else t.mul(moved, abs(n))
            total = moved if total is None else t.add(total, moved)
        assert total is not None
        return total

    # -- after the sweep

    def finish(self) -> None:
        for v in self.outputs:
            role = self.roles[v]
            if role is Role.KEPT:
                at = iter(self.pull.parallel)
                index = tuple(ZERO if d is ONE else next(at, ZERO) for d in v.type.dims)
                if any(d is not ONE for d in v.type.dims) and next(at, None) is not None:
                    raise Misplaced(v)
                self.store(v, index)
            elif role is Role.OUT:
                self.store_out(v)

    def store_out(self, v: Value) -> None:
        """The sweep over the free axes of a contraction, in which what is made of it is stored."""
        place = self.places[self.behind(v)]
        wanted = [d for d in v.type.dims if d is not ONE]
        if len(wanted) != len(place):
            raise Misplaced(v)
        at = iter(place)
        index = tuple(ZERO if d is ONE else next(at) for d in v.type.dims)
        own = [str(e) for e in place if str(e) in self.free.values()]
        if not own:
            self.store(v, index)
            return
        bounds = [self.pull.ranges[a] for a in own]
        self.build.inner.append(Container(tuple(own), tuple(lo for lo, _ in bounds), tuple(hi for _, hi in bounds)))
        self.store(v, index)
        self.build.close_inner()

    def behind(self, v: Value) -> Value:
        """The contraction that ``v`` is made of."""
        pending = [v]
        while pending:
            u = pending.pop()
            if u in self.places and self.roles[u] is Role.OUT:
                return u
            op = self.roles.maker.get(u)
            pending.extend(op.inputs if op is not None else ())
        raise Misplaced(v)

    def store(self, v: Value, index: Index) -> None:
        x = self.pull(v, index)
        buffer = self.buffers[v]
        kind = buffer.type
        assert isinstance(kind, BufferType)
        if not isinstance(x, Value):
            dtype = compute_dtype(kind.dtype)
            x = self.build.emit(OPS["cast"], (x,), dtype, {"dtype": dtype})
        index = index if self.cut is None else (Dim.name(self.piece), *index)
        self.pull.store(buffer, x, index, self.roles.maker[v].span)
