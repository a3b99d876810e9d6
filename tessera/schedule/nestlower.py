"""One nest: sweeps over the points of its space, in the order in which its reductions depend on each other."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim, ceildiv, dim_min, product
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Block, Literal, Operation, Value, dims_in
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.schedule.merge import merge_axes, vector_axis
from tessera.schedule.nests import Analysis, NestPlan, Signature
from tessera.schedule.plan import ZERO, Unschedulable
from tessera.schedule.pull import Index, Misplaced, Puller, Split, dense_strides
from tessera.schedule.ranges import delinearize, in_order
from tessera.schedule.tilebuild import Container, TileBuilder

#: Elements of a flat map that one parallel iteration covers: long enough to hide its overhead, short enough to balance.
MAP_CHUNK = 8192
#: How often a nest is built again with one more cut before its shape is declared unschedulable.
ATTEMPTS = 64

_AXIS = re.compile(r"(?:i\d+|c|p|t\d*|k\d*)(_*)")


def axis_mark(ops: Sequence[Operation]) -> str:
    """What must end the names of loop axes so that they differ from every size name: nothing, or underscores."""
    dims = [d for op in ops for v in (*op.inputs, *op.results) for d in v.type.dims]
    dims += [x.value for op in ops for x in op.operands if isinstance(x, Literal) and isinstance(x.value, Dim)]
    dims += [d for op in ops for d in dims_in(op.attrs.values())]
    taken = [len(m[1]) for d in dims for n in d.names() if (m := _AXIS.fullmatch(n))]
    return "_" * (max(taken) + 1) if taken else ""


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
