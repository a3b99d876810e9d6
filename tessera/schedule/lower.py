"""One region to one kernel: nests built from demand, cut where loops must differ, merged where they need not."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.dialects.contract import letters
from tessera.ir.dialects.region import RECURRENCE, STREAM
from tessera.ir.dim import Dim, dim_max, dim_min, floordiv, product
from tessera.ir.dtype import compute_dtype
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Block, Function, Operation, Value, walk
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.roles import Roles
from tessera.ir.types import BufferType, ScalarType, TensorType
from tessera.schedule.across import BLOCK, AcrossLowering, choice, parts_of, sums_across
from tessera.schedule.cost import region_cost
from tessera.schedule.crosswise import cleared, collected, parts, row_pieces
from tessera.schedule.nestlower import ATTEMPTS, NestLowering, axis_mark
from tessera.schedule.nests import Analysis
from tessera.schedule.pieces import Pieces, added_up, behind, pieces, rows_of
from tessera.schedule.plan import Kernel, Layouts, Unschedulable
from tessera.schedule.pull import Misplaced
from tessera.schedule.recurrence import RecurrenceLowering
from tessera.schedule.split import split_reductions
from tessera.schedule.stream import StreamLowering
from tessera.schedule.sums import as_sums
from tessera.schedule.tilebuild import Container, TileBuilder

#: Columns of a second product up to which a GPU makes the first one anew for each group of them that a program holds.
COLUMNS = 512
#: Rows from which on products on a GPU take as long as their arithmetic, and not as long as reading what they share.
MANY_ROWS = 256


def stride_name(tensor: str, axis: int) -> str:
    """The size name under which a kernel reads a stride of a tensor that is not dense."""
    return f"_s{axis}_{tensor}"[:64]


@dataclass
class RegionLowering:
    """The state of lowering one region: which values are stored, and under which buffer."""

    region: Operation
    name: str
    layouts: Layouts
    #: How many programs keep the target busy; 0 where long sums are not worth cutting for that.
    programs: int = 0
    names: dict[str, int] = field(default_factory=dict)
    buffers: dict[Value, Value] = field(default_factory=dict)
    temps: dict[Value, Value] = field(default_factory=dict)
    #: Names in nests that are finished.
    taken: dict[str, int] = field(default_factory=dict)

    def run(self) -> Kernel:
        assert self.region.body is not None
        across = sums_across(self.region.body.ops, self.region.results) if not self.programs else frozenset()
        ops = split_reductions(self.region.body.ops, across, BLOCK)
        inputs = tuple(v for v in self.region.inputs if isinstance(v.type, TensorType))
        scalars = tuple(v for v in self.region.inputs if isinstance(v.type, ScalarType))
        for v in inputs:
            self.buffers[v] = self.buffer(v, "in")
        for v in self.region.results:
            self.buffers[v] = self.buffer(v, "out")
        if self.region.record is STREAM:
            return self.kernel(*self.streams({s: s for s in scalars}), inputs, scalars, self.region.body.ops)
        if self.region.record is RECURRENCE:
            return self.kernel([self.recurrence({s: s for s in scalars})], [], inputs, scalars, self.region.body.ops)
        forced: list[Value] = []
        for _ in range(ATTEMPTS):
            try:
                nests, temps = self.blocks_or_strips(ops, forced, {s: s for s in scalars}, across)
                break
            except Misplaced as e:
                if e.value in forced or not any(e.value in op.results for op in ops):
                    raise Unschedulable(f"%{e.value.name} is read at positions that no loop of the kernel walks") from e
                forced.append(e.value)
        else:
            raise Unschedulable(f"more than {ATTEMPTS} values would have to be stored on the way")
        return self.kernel(nests, temps, inputs, scalars, ops)

    def blocks_or_strips(
        self, ops: Sequence[Operation], forced: Sequence[Value], scalars: Mapping[Value, Value],
        across: frozenset[Operation],
    ) -> tuple[list[Operation], list[Value]]:  # fmt: skip
        """The nests of a region. Columns without folds along the rows are summed by blocks of rows or by strips of
        columns, whichever is better for the sizes.
        """
        self.taken = {}
        nests, temps = self.nests(ops, forced, scalars, parts_of(across, ops))
        whole = () if self.region.body is None else self.region.body.ops
        if not across or any(op.record.kind in FOLDS and op not in across for op in whole):
            return nests, temps
        self.taken = self.names
        strips, _ = self.nests(ops, forced, scalars)
        size, one = choice(next(iter(across))), ONE
        ranges = [(n, (size, None, one)) for n in nests] + [(n, (size, one, None)) for n in strips]
        return [replace(n, attrs={**n.attrs, "when": when}) for n, when in ranges], temps

    def streams(self, scalars: Mapping[Value, Value]) -> tuple[list[Operation], list[Value]]:
        """A stream; where it has no folds, beside it what runs instead at some sizes: sums along the memory of the
        other operand for a single row, which is not worth bringing that into another form, and sums in pieces where
        there would be too few programs.
        """
        assert self.region.body is not None
        ops, axes = self.region.body.ops, self.region.attrs["axes"]
        assert isinstance(axes, tuple)
        self.taken = {v.name: 0 for v in (*self.buffers.values(), *scalars)}
        roles = Roles.find(ops, int(axes[0]))  # type: ignore[arg-type]
        crosses, folds = [op for op in ops if roles.crosses(op)], roles.folds(ops)
        if crosses:
            return self.crossing(crosses, roles, scalars)
        stream = self.stream(ops, self.region.results, self.buffers, scalars, axes)
        if folds:
            return self.or_apart(stream, folds, scalars)
        first = next(op for op in ops if op.record.kind is Kind.CONTRACT)
        rows = product(first.result.type.dims[int(a)] for a in axes)  # type: ignore[arg-type]
        cut = pieces(first, self.programs) if self.programs else None
        single = self.alternative(as_sums(ops), scalars)
        in_pieces, parts = ([], []) if cut is None else self.in_pieces(cut, scalars)
        apart = self.apart(scalars, axes)
        # What runs has a number, from 0 on: the way for a single row, the stream, its parts, and pieces of their sums.
        choice = ONE
        if apart:
            choice = ONE + dim_min(floordiv(rows, Dim.const(MANY_ROWS)), 1)
        if cut is not None and in_pieces:
            choice = dim_max(choice, dim_min(floordiv(cut.count, 2), 1) * 3)
        if single:
            choice = dim_min(rows - 1, 1) * choice
        if choice is ONE:
            return [stream], []
        return [
            replace(n, attrs={**n.attrs, "when": (choice, Dim.const(number), Dim.const(number + 1))})
            for number, nests in ((1, [stream]), (0, single), (2, apart), (3, in_pieces)) for n in nests
        ], parts  # fmt: skip

    def apart(self, scalars: Mapping[Value, Value], axes: tuple[Attr, ...]) -> list[Operation]:
        """A stream for each of several products that only share what they read, for a GPU: the tiles of one alone are
        larger, so that less is read for as many products.
        """
        assert self.region.body is not None
        ops, groups = self.region.body.ops, list[tuple[set[Operation], list[Value]]]()
        for v in self.region.results if self.programs else ():
            mine, values = {op for op in behind(ops, [v]) if op.record.kind is Kind.CONTRACT}, [v]
            for found in [g for g in groups if g[0] & mine]:
                groups.remove(found)
                mine, values = mine | found[0], [*found[1], *values]
            groups.append((mine, values))
        if len(groups) < 2:
            return []
        return [self.stream(behind(ops, vs), tuple(vs), self.buffers, scalars, axes) for _, vs in groups]

    def crossing(
        self, crosses: Sequence[Operation], roles: Roles, scalars: Mapping[Value, Value]
    ) -> tuple[list[Operation], list[Value]]:
        """A stream that also sums over its rows: nests that clear the memory for that, the stream, and nests that add
        up its parts.
        """
        assert self.region.body is not None
        cut = row_pieces(roles.space, roles.axis)
        found = {op: parts(op, cut) for op in crosses}
        memory = self.memory(found.values())
        before, _ = self.nests([cleared(op, v) for op, v in found.items()], (), scalars, outputs=tuple(found.values()))
        self.taken = self.names
        buffers, ops = {**self.buffers, **{op.result: memory[v] for op, v in found.items()}}, self.region.body.ops
        stream = self.stream(ops, self.region.results, buffers, scalars, (roles.axis,), rows=cut)
        results = tuple(op.result for op in crosses)
        after, _ = self.nests([collected(op, v) for op, v in found.items()], (), scalars, outputs=results)
        return [*before, stream, *after], list(memory.values())

    def memory(self, parts: Iterable[Value]) -> dict[Value, Value]:
        """Memory for parts of sums, which nests write to and read from under their names."""
        build = TileBuilder(Container(), self.taken)
        made = {v: Value(build.fresh(v.name), BufferType(v.type.dtype, v.type.dims, "temp")) for v in parts}
        self.buffers.update(made)
        return made

    def or_apart(
        self, stream: Operation, folds: Sequence[Operation], scalars: Mapping[Value, Value]
    ) -> tuple[list[Operation], list[Value]]:
        """A stream that folds, and beside it two products with memory between them, for a GPU and sizes at which the
        first product would be made over and over: once for each group of columns of the second that a program holds.
        """
        assert self.region.body is not None
        ops, second = self.region.body.ops, folds[0]
        between = second.operands[0]
        if not self.programs or len(folds) > 1 or second.record.kind is not Kind.CONTRACT:
            return [stream], []
        assert isinstance(between, Value)
        left, right, _ = letters(second)
        wide = product(d for c, d in zip(right, second.operands[1].type.dims, strict=True) if c not in left)
        made, rest = behind(ops, [between]), behind(ops, self.region.results, frozenset({between}))
        first = next(op for op in made if op.record.kind is Kind.CONTRACT)
        if first in rest or not (rows_of(first) and rows_of(second)) or (wide.is_const and wide.value <= COLUMNS):
            return [stream], []
        long, (dim, *dims) = Dim.const(COLUMNS + 1), between.type.dims
        name = TileBuilder(Container(), self.taken).fresh(f"{between.name}_whole")
        kind = BufferType(between.type.dtype, (dim * dim_min(floordiv(wide, long), 1), *dims), "temp")
        buffers = {**self.buffers, between: Value(name, kind)}
        try:
            apart = [
                self.stream(part, results, buffers, scalars, rows_of(op))
                for part, results, op in ((made, [between], first), (rest, self.region.results, second))
            ]
        except Unschedulable:
            return [stream], []
        ranges = [(stream, (wide, None, long)), *((n, (wide, long, None)) for n in apart)]
        return [replace(n, attrs={**n.attrs, "when": when}) for n, when in ranges], [buffers[between]]

    def alternative(self, ops: Sequence[Operation], scalars: Mapping[Value, Value]) -> list[Operation]:
        """Nests that compute the same another way; none where that needs memory on the way, which would be there at
        any sizes.
        """
        try:
            nests, temps = self.nests(ops, (), scalars)
        except (Misplaced, Unschedulable):
            return []
        self.taken = self.names
        return [] if temps else nests

    def in_pieces(self, cut: Pieces, scalars: Mapping[Value, Value]) -> tuple[list[Operation], list[Value]]:
        """The nest that makes the pieces of the sums, and those that add them up; the memory between them."""
        assert self.region.body is not None
        ops = self.region.body.ops
        after, parts = added_up(ops, cut)
        before = behind(ops, parts)
        if any(op.record.kind is Kind.REDUCE for op in before):
            return [], []
        memory = self.memory(parts.values())
        made = self.alternative(behind(after, self.region.results), scalars)
        if not made:
            return [], []
        reads = {v: b for v, b in self.buffers.items() if v not in self.region.results}
        axes = self.region.attrs["axes"]
        assert isinstance(axes, tuple)
        writes = {v: memory[part] for v, part in parts.items()}
        nest = self.stream(before, tuple(parts), {**reads, **writes}, scalars, axes, cut)
        return [nest, *made], list(memory.values())

    def kernel(
        self, nests: Sequence[Operation], temps: Sequence[Value], inputs: tuple[Value, ...],
        scalars: tuple[Value, ...], ops: Sequence[Operation],
    ) -> Kernel:  # fmt: skip
        params = (*(self.buffers[v] for v in (*inputs, *self.region.results)), *temps, *scalars)
        function = Function(self.name, Block(tuple(nests), params), "tile", span=self.region.span)
        cost = region_cost(inputs, self.region.results, [t.type for t in temps], ops)
        return Kernel(function, self.region.name, inputs, self.region.results, tuple(temps), scalars, cost, self.region)

    def stream(
        self, ops: Sequence[Operation], outputs: Sequence[Value], buffers: Mapping[Value, Value],
        scalars: Mapping[Value, Value], axes: tuple[Attr, ...], cut: Pieces | None = None,
        rows: Pieces | None = None,
    ) -> Operation:  # fmt: skip
        mark = axis_mark(ops)
        rounds = self.programs > 0  # a GPU
        return StreamLowering(ops, outputs, axes, buffers, scalars, self.taken, mark, cut, rows, rounds).run()

    def recurrence(self, scalars: Mapping[Value, Value]) -> Operation:
        assert self.region.body is not None
        ops = self.region.body.ops
        (scan,) = (op for op in ops if op.record.kind is Kind.CONTROL)
        self.taken = {v.name: 0 for v in (*self.buffers.values(), *scalars)}
        mark = axis_mark(list(walk(self.region.body)))
        lowering = RecurrenceLowering(
            scan, ops, self.region.results, self.buffers, scalars, self.taken, mark
        )  # fmt: skip
        return lowering.run()

    def buffer(self, v: Value, role: str) -> Value:
        kind = v.type
        assert isinstance(kind, TensorType)
        strides = None
        if role == "in" and v.name in self.layouts.strided and kind.dims:
            strides = tuple(Dim.name(stride_name(v.name, axis)) for axis in range(kind.rank))
            strides = strides if v.name not in self.layouts.lined else (*strides[:-1], ONE)
        pieces = role == "in" and v.name in self.layouts.pieces
        return Value(v.name, BufferType(kind.dtype, kind.dims, role, strides, pieces))

    def nests(
        self, ops: Sequence[Operation], forced: Sequence[Value], scalars: Mapping[Value, Value],
        across: frozenset[Operation] = frozenset(), outputs: Sequence[Value] = (),
    ) -> tuple[list[Operation], list[Value]]:  # fmt: skip
        analysis = Analysis(ops, outputs or self.region.results, across)
        for v in forced:
            analysis.store(v)
        plan = analysis.plan()
        buffers = dict(self.buffers)
        for v in plan.temps:
            buffers[v] = self.temps[v] = self.temps.get(v) or self.temp(v)
        # A value may share its name neither with a parameter nor with one of another nest.
        self.names = {**{v.name: 0 for v in (*buffers.values(), *scalars)}, **self.taken}
        out: list[Operation] = []
        done: set[Value] = set()
        for nest in plan.nests:
            state = (nest, analysis, buffers, scalars, frozenset(done), self.names)
            sums = [op for op in across if op.result in nest.targets]
            out.append((AcrossLowering(*state, sums) if sums else NestLowering(*state)).run())
            done.update(t for t in nest.targets if t in analysis.temps)
        return out, [buffers[v] for v in plan.temps]

    def temp(self, v: Value) -> Value:
        """A temporary, in the dtype that its values are computed in."""
        kind = v.type
        assert isinstance(kind, TensorType)
        dtype = kind.dtype if kind.dtype.is_bool else compute_dtype(kind.dtype)
        return Value(v.name, BufferType(dtype, kind.dims, "temp"))
