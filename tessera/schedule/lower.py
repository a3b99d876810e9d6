"""One region to one kernel: nests built from demand, cut where loops must differ, merged where they need not."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import letters
from tessera.ir.dialects.region import RECURRENCE, STREAM
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min, floordiv, product
from tessera.ir.dtype import compute_dtype
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Block, Function, Operation, Value, walk
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.roles import Roles
from tessera.ir.types import BufferType, ScalarType, TensorType
from tessera.schedule.cost import region_cost
from tessera.schedule.merge import merge_axes, vector_axis
from tessera.schedule.nests import Analysis, NestPlan, Signature
from tessera.schedule.pieces import Pieces, added_up, behind, pieces, rows_of
from tessera.schedule.plan import ZERO, Kernel, Layouts, Unschedulable
from tessera.schedule.pull import Index, Misplaced, Puller, Split, dense_strides
from tessera.schedule.ranges import delinearize, in_order
from tessera.schedule.recurrence import RecurrenceLowering
from tessera.schedule.split import split_reductions
from tessera.schedule.stream import StreamLowering
from tessera.schedule.sums import as_sums
from tessera.schedule.tilebuild import Container, TileBuilder

#: Elements of a flat map that one parallel iteration covers: long enough to hide its overhead, short enough to balance.
MAP_CHUNK = 8192
#: Columns of a second product up to which a GPU makes the first one anew for each group of them that a program holds.
COLUMNS = 512
#: How often a nest is built again with one more cut before its shape is declared unschedulable.
ATTEMPTS = 64


_AXIS = re.compile(r"(?:i\d+|c|p|t\d*|k\d*)(_*)")


def axis_mark(ops: Sequence[Operation]) -> str:
    """What must end the names of loop axes so that they differ from every size name: nothing, or underscores."""
    taken = [
        len(m[1])
        for op in ops
        for v in (*op.inputs, *op.results)
        for d in v.type.dims
        for n in d.names()
        if (m := _AXIS.fullmatch(n))
    ]
    return "_" * (max(taken) + 1) if taken else ""


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
    #: Names in nests that are finished.
    taken: dict[str, int] = field(default_factory=dict)

    def run(self) -> Kernel:
        assert self.region.body is not None
        ops = split_reductions(self.region.body.ops)
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
                nests, temps = self.nests(ops, forced, {s: s for s in scalars})
                break
            except Misplaced as e:
                if e.value in forced or not any(e.value in op.results for op in ops):
                    raise Unschedulable(f"%{e.value.name} is read at positions that no loop of the kernel walks") from e
                forced.append(e.value)
        else:
            raise Unschedulable(f"more than {ATTEMPTS} values would have to be stored on the way")
        return self.kernel(nests, temps, inputs, scalars, ops)

    def streams(self, scalars: Mapping[Value, Value]) -> tuple[list[Operation], list[Value]]:
        """A stream; where it has no folds, beside it what runs instead at some sizes: sums along the memory of the
        other operand for a single row, which is not worth bringing that into another form, and sums in pieces where
        there would be too few programs.
        """
        assert self.region.body is not None
        ops, axes = self.region.body.ops, self.region.attrs["axes"]
        assert isinstance(axes, tuple)
        self.taken = {v.name: 0 for v in (*self.buffers.values(), *scalars)}
        stream = self.stream(ops, self.region.results, self.buffers, scalars, axes)
        folds = Roles.find(ops, int(axes[0])).folds(ops)  # type: ignore[arg-type]
        if folds:
            return self.or_apart(stream, folds, scalars)
        first = next(op for op in ops if op.record.kind is Kind.CONTRACT)
        rows = product(first.result.type.dims[int(a)] for a in axes)  # type: ignore[arg-type]
        cut = pieces(first, self.programs) if self.programs else None
        single = self.alternative(as_sums(ops), scalars)
        in_pieces, parts = ([], []) if cut is None else self.in_pieces(cut, scalars)
        one, two = ONE, Dim.const(2)
        ranges: list[tuple[list[Operation], tuple[Dim, Dim | None, Dim | None]]] = []
        if cut is not None and in_pieces and single:
            choice = dim_min(rows - 1, 1) * dim_max(1, dim_min(cut.count, 2))
            ranges = [([stream], (choice, one, two)), (single, (choice, None, one)), (in_pieces, (choice, two, None))]
        elif cut is not None and in_pieces:
            ranges = [([stream], (cut.count, None, two)), (in_pieces, (cut.count, two, None))]
        elif single:
            ranges = [([stream], (rows, two, None)), (single, (rows, None, two))]
        else:
            return [stream], []
        return [replace(n, attrs={**n.attrs, "when": when}) for nests, when in ranges for n in nests], parts

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
        build = TileBuilder(Container(), self.taken)
        memory = {
            v: Value(build.fresh(part.name), BufferType(part.type.dtype, part.type.dims, "temp"))
            for v, part in parts.items()
        }
        self.buffers.update((part, memory[v]) for v, part in parts.items())
        made = self.alternative(behind(after, self.region.results), scalars)
        if not made:
            return [], []
        reads = {v: b for v, b in self.buffers.items() if v not in self.region.results}
        axes = self.region.attrs["axes"]
        assert isinstance(axes, tuple)
        nest = self.stream(before, tuple(parts), {**reads, **memory}, scalars, axes, cut)
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
    ) -> Operation:  # fmt: skip
        mark = axis_mark(ops)
        return StreamLowering(ops, outputs, axes, buffers, scalars, self.taken, mark, cut).run()

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
        pieces = role == "in" and v.name in self.layouts.pieces
        return Value(v.name, BufferType(kind.dtype, kind.dims, role, strides, pieces))

    def nests(
        self, ops: Sequence[Operation], forced: Sequence[Value], scalars: Mapping[Value, Value]
    ) -> tuple[list[Operation], list[Value]]:
        analysis = Analysis(ops, self.region.results)
        for v in forced:
            analysis.store(v)
        plan = analysis.plan()
        buffers = dict(self.buffers)
        for v in plan.temps:
            buffers[v] = self.temp(v)
        # A value may share its name neither with a parameter nor with one of another nest.
        self.names = {**{v.name: 0 for v in (*buffers.values(), *scalars)}, **self.taken}
        out: list[Operation] = []
        done: set[Value] = set()
        for nest in plan.nests:
            builder = NestLowering(nest, analysis, buffers, scalars, frozenset(done), self.names)
            out.append(builder.run())
            done.update(t for t in nest.targets if t in analysis.temps)
        return out, [buffers[v] for v in plan.temps]

    def temp(self, v: Value) -> Value:
        """A temporary, in the dtype that its values are computed in."""
        kind = v.type
        assert isinstance(kind, TensorType)
        dtype = kind.dtype if kind.dtype.is_bool else compute_dtype(kind.dtype)
        return Value(v.name, BufferType(dtype, kind.dims, "temp"))


@dataclass
class NestLowering:
    """Builds one nest: a sweep for each depth of its reductions, the stores where their values are ready."""

    plan: NestPlan
    analysis: Analysis
    buffers: Mapping[Value, Value]
    scalars: Mapping[Value, Value]
    done: frozenset[Value]
    names: dict[str, int]

    def run(self) -> Operation:
        cuts: list[Dim] = []
        splittable = True
        for _ in range(ATTEMPTS):
            saved = dict(self.names)
            try:
                return self.attempt(cuts, splittable)
            except Split as s:
                self.names.clear()
                self.names.update(saved)
                ordered = in_order([*cuts, s.point])
                if ordered is None:
                    splittable = False
                    cuts = []
                else:
                    cuts = ordered
        raise Unschedulable(f"a loop would be cut into more than {ATTEMPTS} parts")

    def attempt(self, cuts: Sequence[Dim], splittable: bool) -> Operation:
        loops = Loops.of(self.plan.signature, axis_mark(self.analysis.ops))
        top = Container()
        build = TileBuilder(top, self.names)
        # A value stored by an earlier nest is loaded; one stored by this nest is computed and shared.
        own = frozenset(v for v in self.buffers if v in self.analysis.maker and v not in self.done)
        pull = Puller(build, self.analysis.maker, self.buffers, self.scalars, loops.kept_index, own)
        pull.ranges.update(loops.ranges)
        depth = self.depths()
        waiting = [v for v in self.plan.targets if not self.is_low(v)]
        for k in range(max(depth.values(), default=-1) + 2):
            folds = [op for op, d in depth.items() if d == k]
            stores = [v for v in waiting if self.depth_of(v, depth) == k]
            self.sweep(pull, loops, folds, stores, cuts if not folds else (), splittable and not folds)
        for v in self.plan.targets:
            if self.is_low(v):
                self.store(pull, v, self.low_index(v, loops))
        build.close_sweep()
        return finish(loops, top)

    def depths(self) -> dict[Operation, int]:
        """For each reduction or scan of this nest, the number of the sweep that it goes along."""
        found: dict[Operation, int] = {}
        cone = list(dict.fromkeys(r for v in self.plan.targets for r in self.analysis.reductions(v)))
        order = {op: i for i, op in enumerate(self.analysis.ops)}
        for op in sorted(cone, key=order.__getitem__):
            operand = op.operands[0]
            found[op] = self.depth_of(operand, found) if isinstance(operand, Value) else 0
        return found

    def depth_of(self, v: Value, depth: Mapping[Operation, int]) -> int:
        """The number of the sweep in which ``v`` is ready: a scan is in its own, a reduction after it."""
        below = (r for r in self.analysis.reductions(v) if r in depth)
        return max((depth[r] + (r.record.kind is Kind.REDUCE) for r in below), default=0)

    def is_low(self, v: Value) -> bool:
        """Is ``v`` a value of the parallel axes only?"""
        s = self.plan.signature
        if not s.folded:
            return False
        op = self.analysis.maker[v]
        if op.record.kind is Kind.REDUCE and self.analysis.signature(op) == s:
            return True
        full = tuple(d for d in s.dims if d is not ONE)
        return tuple(d for d in v.type.dims if d is not ONE) != full

    def low_index(self, v: Value, loops: Loops) -> Index:
        dims = v.type.dims
        at = iter([e for e in loops.kept_index if e is not ZERO])
        want = [d for d in dims if d is not ONE]
        if len(want) != len([e for e in loops.kept_index if e is not ZERO]):
            raise Misplaced(next(iter(self.analysis.reductions(v)[-1].results)))
        return tuple(ZERO if d is ONE else next(at) for d in dims)

    def sweep(
        self, pull: Puller, loops: Loops, folds: Sequence[Operation], stores: Sequence[Value],
        cuts: Sequence[Dim], splittable: bool,
    ) -> None:  # fmt: skip
        if not folds and not stores:
            return
        if not loops.sweep:
            for v in stores:
                self.store(pull, v, loops.index_for(v.type.dims))
            return
        axis = loops.sweep[-1]
        lo, hi = loops.ranges[axis]
        bounds = [lo, *cuts, hi]
        for start, stop in itertools.pairwise(bounds):
            outer = loops.sweep[:-1]
            container = Container(loops.sweep, (*(loops.ranges[a][0] for a in outer), start),
                                  (*(loops.ranges[a][1] for a in outer), stop))  # fmt: skip
            pull.build.sweep = container
            pull.ranges[axis] = (start, stop)
            pull.splittable = axis if splittable else ""
            for op in folds:
                self.fold(pull, op, loops)
            for v in stores:
                self.store(pull, v, loops.index_for(v.type.dims))
            pull.build.close_sweep()
            pull.earlier.append(((container.axes, container.lo, container.hi), container.memo))
        pull.ranges[axis] = (lo, hi)

    def fold(self, pull: Puller, op: Operation, loops: Loops) -> None:
        sweep = pull.build.sweep
        assert sweep is not None
        x = pull.foldable(pull(op.operands[0], loops.index), op.operands[0].type.dtype)
        rows = zip(loops.names, loops.kept_names, loops.extents, strict=True)
        scans = op.record.kind is Kind.SCAN
        axes = tuple(n for n, kept, extent in rows if (extent is not ONE and kept) or (scans and not kept))
        results = pull.fold(op, x, loops.sweep, loops.position, axes)
        for r, value in zip(op.results, results, strict=True):
            if scans:
                sweep.memo[pull.key(r, loops.index)] = value
            else:
                pull.folded[r] = value

    def store(self, pull: Puller, v: Value, index: Index) -> None:
        pull.store(self.buffers[v], pull(v, index), index, self.analysis.maker[v].span)


@dataclass(frozen=True)
class Loops:
    """Axis names of a nest: one for each dim of its space, those in ``sweep`` run inside, the others in parallel.

    ``index`` is the position in the space; ``kept_index`` that of the reductions' results.
    """

    names: tuple[str, ...]
    extents: tuple[Dim, ...]
    kept_names: tuple[bool, ...]
    sweep: tuple[str, ...]
    ranges: dict[str, tuple[Dim, Dim]]
    index: Index
    kept_index: Index
    position: Dim
    dims: tuple[Dim, ...]
    mark: str = ""

    @staticmethod
    def of(s: Signature, mark: str = "") -> Loops:
        """The loops of a signature. ``mark`` ends every axis name, so that none is the name of a size."""
        if s.chunk:
            return Loops._chunked(s, mark)
        names = tuple(f"i{a}{mark}" for a in range(len(s.dims)))
        index = tuple(ZERO if d is ONE else Dim.name(n) for n, d in zip(names, s.dims, strict=True))
        ranges = {n: (ZERO, d) for n, d in zip(names, s.dims, strict=True)}
        sweep = tuple(names[a] for a in s.folded) if s.folded else names[-1:]
        inside = set(sweep)
        folded = list(s.folded)
        strides = dense_strides([s.dims[a] for a in folded])
        position = ZERO
        for a, stride in zip(folded, strides, strict=True):
            position = position + index[a] * stride
        kept = tuple(n not in inside for n in names)
        return Loops(names, s.dims, kept, sweep, ranges, index,
                     tuple(e for e, k in zip(index, kept, strict=True) if k), position, s.dims, mark)  # fmt: skip

    @staticmethod
    def _chunked(s: Signature, mark: str) -> Loops:
        """The folded dims as one axis ``k``, cut into pieces numbered by the parallel axis ``c``."""
        piece, inner = f"c{mark}", f"k{mark}"
        folded = [s.dims[a] for a in s.folded]
        total = product(folded)
        size = Dim.const(s.chunk)
        start = Dim.name(piece) * size
        kept_axes = [a for a in range(len(s.dims)) if a not in s.folded]
        names = (piece, *(f"i{a}{mark}" for a in kept_axes), inner)
        extents = (ceildiv(total, size), *(s.dims[a] for a in kept_axes), total)
        ranges = {n: (ZERO, e) for n, e in zip(names, extents, strict=True)}
        ranges[inner] = (start, dim_min(start + size, total))
        parts = iter(delinearize(Dim.name(inner), folded))
        at = {a: next(parts) for a in s.folded}
        own = {a: ZERO if d is ONE else Dim.name(f"i{a}{mark}") for a, d in enumerate(s.dims)}
        index = tuple(at.get(a, own[a]) for a in own)
        kept_index = (Dim.name(piece), *(index[a] for a in kept_axes))
        kept = tuple(n != inner for n in names)
        return Loops(names, extents, kept, (inner,), ranges, index, kept_index, Dim.name(inner), s.dims, mark)

    def index_for(self, dims: tuple[Dim, ...]) -> Index:
        """The position at which a value of the nest's space, up to dims of size 1, stands."""
        at = iter([e for e, d in zip(self.index, self.dims, strict=True) if d is not ONE])
        return tuple(ZERO if d is ONE else next(at) for d in dims)


def finish(loops: Loops, top: Container) -> Operation:
    """The nest op: axes merged, the vector axis chosen, a flat map cut into pieces that can run in parallel."""
    parallel = [(n, *loops.ranges[n]) for n, kept in zip(loops.names, loops.kept_names, strict=True) if kept]
    parallel = [p for p in parallel if p[2] is not ONE]
    axes, ops, sweep = merge_axes([(n, hi) for n, _, hi in parallel], tuple(top.ops), loops.sweep)
    folds = any(o.record.kind in FOLDS for op in ops if op.body is not None for o in op.body.ops)
    if not axes and not folds:
        axes, ops = chunked(ops, sweep, f"c{loops.mark}")
    names = tuple(n for n, _ in axes)
    extents = tuple(e for _, e in axes)
    attrs: dict[str, Attr] = {"axes": names, "extents": extents, "vector": vector_axis(names, ops)}
    return Operation(OPS["nest"], (), (), attrs, body=Block(ops))


def chunked(
    ops: tuple[Operation, ...], sweep: Sequence[str], piece: str
) -> tuple[list[tuple[str, Dim]], tuple[Operation, ...]]:
    """Cut the sweeps of a nest without parallel axes into pieces of MAP_CHUNK elements, numbered by ``piece``."""
    sweeps = [op for op in ops if op.body is not None]
    if not sweeps or len(sweep) != 1:
        return [], ops
    (total,) = sweeps[-1].dims("hi")
    size = Dim.const(MAP_CHUNK)
    start = Dim.name(piece) * size
    out: list[Operation] = []
    for op in ops:
        if op.body is None:
            out.append(op)
            continue
        (lo,), (hi,) = op.dims("lo"), op.dims("hi")
        first = start if lo is ZERO else _max(lo, start)
        attrs = {**op.attrs, "lo": (first,), "hi": (dim_min(hi, start + size),)}
        out.append(Operation(op.record, op.operands, op.results, attrs, op.span, op.origin, op.body))
    return [(piece, ceildiv(total, size))], tuple(out)


def _max(a: Dim, b: Dim) -> Dim:
    from_neg = dim_min(a * -1, b * -1)
    return from_neg * -1
