"""Sums over the rows of a space, made while its rows are gone through one after the other.

The derivative of a norm asks for sums along each row and for sums down all of them. In one nest over blocks of rows
both read the rows once: each block leaves the sums down its rows in local memory, which is as wide as a row, and from
there in one row of the parts that a later nest adds up. The blocks depend on the sizes alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min, floordiv, product
from tessera.ir.folds import FOLDS, folded_axes
from tessera.ir.graph import Attr, Block, Literal, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, TileType
from tessera.schedule.nestlower import Loops, NestLowering, axis_mark
from tessera.schedule.plan import ZERO
from tessera.schedule.pull import Puller
from tessera.schedule.ranges import delinearize
from tessera.schedule.tilebuild import Container, TileBuilder

#: Rows of a block.
BLOCK = 32
#: Columns alone are summed by blocks of rows where rows are not short, yet fit the nearest cache, and there are blocks
#: for all threads; with less arithmetic for an element, and nothing stored of it, by strips of columns in any case.
NARROWEST, WIDEST, FEWEST, HEAVY = 64, 8192, 8 * BLOCK, 8


def sums_across(ops: Sequence[Operation], outputs: Iterable[Value]) -> frozenset[Operation]:
    """The sums over all but the last axis that one nest can make together with everything else that the operations
    compute of the same space; none where something else is folded in another way.
    """
    folds = [op for op in ops if op.record.kind in FOLDS]
    found = [op for op in folds if _is_across(op)]
    if not found:
        return frozenset()
    space = found[0].operands[0].type.dims
    along = [op for op in folds if op not in found]
    if space[-1] is ONE or any(op.operands[0].type.dims != space for op in found):
        return frozenset()
    if any(op.operands[0].type.dims != space or folded_axes(op) != (len(space) - 1,) for op in along):
        return frozenset()
    if any(op.record.kind is Kind.SCAN for op in along):
        return frozenset()
    if _read_again(ops, found, _dense(space)):
        return frozenset()
    stores = any(_dense(v.type.dims) == _dense(space) for v in outputs)
    heavy = sum(op.record.flops for op in ops if op.record.kind is Kind.MAP) >= HEAVY
    return frozenset(found) if along or stores or heavy else frozenset()


def _is_across(op: Operation) -> bool:
    reduction, kind = op.record.reduction, op.operands[0].type
    if op.record.kind is not Kind.REDUCE or reduction is None or kind.rank < 2 or not kind.dtype.is_float:
        return False
    rows = tuple(range(kind.rank - 1))
    dims = kind.dims
    axes = set(folded_axes(op)) | {a for a in rows if dims[a] is ONE}
    return reduction.adds_up and len(op.results) == 1 and axes == set(rows)


def _dense(dims: Iterable[Dim]) -> tuple[Dim, ...]:
    return tuple(d for d in dims if d is not ONE)


def _read_again(ops: Sequence[Operation], found: Iterable[Operation], space: tuple[Dim, ...]) -> bool:
    """Does an element of the space, or one of its rows, depend on a sum over all rows?"""
    late = {r for op in found for r in op.results}
    for op in ops:
        if op not in found and any(v in late for v in op.inputs):
            late.update(op.results)
            if space[0] is space[-1] or any(_dense(r.type.dims) not in ((), space[-1:]) for r in op.results):
                return True
    return False


def parts_of(sums: Iterable[Operation], ops: Iterable[Operation]) -> frozenset[Operation]:
    """The operations that give the parts of these sums, once they have been split."""
    whole = {op.operands[0] for op in sums}
    return frozenset(op for op in ops if op.attrs.get("chunk") == BLOCK and op.operands[0] in whole)


def choice(op: Operation) -> Dim:
    """0 for sizes at which blocks of rows are the better way to sum columns alone, else more."""
    *rows, width = op.operands[0].type.dims

    def reaches(size: Dim, least: int) -> Dim:
        return dim_min(floordiv(size, Dim.const(least)), ONE)

    few, narrow = ONE - reaches(product(rows), FEWEST), ONE - reaches(width, NARROWEST)
    return dim_max(reaches(width, WIDEST + 1), dim_max(few, narrow))


@dataclass
class AcrossLowering(NestLowering):
    """Builds a nest over blocks of rows. ``sums`` are the operations that give the parts, a row for each block."""

    sums: Sequence[Operation] = ()
    cells: dict[Operation, Value] = field(default_factory=dict)

    def attempt(self, cuts: Sequence[Dim], splittable: bool) -> Operation:
        loops, row, block = self.loops()
        top = Container()
        build = TileBuilder(top, self.names)
        own = frozenset(v for v in self.buffers if v in self.analysis.maker and v not in self.done)
        pull = Puller(build, self.analysis.maker, self.buffers, self.scalars, (), own)
        pull.ranges.update(loops.ranges)
        pull.parallel = pull.simple(loops.kept_index)
        self.begin(pull, loops)
        lo, hi = loops.ranges[row]
        build.sweep = Container((row,), (lo,), (hi,), ordered=True)
        self.rows(pull, loops, row)
        build.close_sweep()
        self.end(pull, loops, block)
        attrs: dict[str, Attr] = {"axes": (block,), "extents": (loops.ranges[block][1],), "vector": ""}
        return Operation(OPS["nest"], (), (), attrs, body=Block(tuple(top.ops)))

    def loops(self) -> tuple[Loops, str, str]:
        """The loops, and the names of those over the rows of a block and over the blocks."""
        dims, mark = self.plan.signature.dims, axis_mark(self.analysis.ops)
        row, block, column = f"t{mark}", f"c{mark}", f"i{len(dims) - 1}{mark}"
        sizes = [d for d in dims[:-1] if d is not ONE]
        first, total = Dim.name(block) * Dim.const(BLOCK), product(sizes)
        ranges = {
            block: (ZERO, ceildiv(total, Dim.const(BLOCK))),
            row: (first, dim_min(first + Dim.const(BLOCK), total)),
            column: (ZERO, dims[-1]),
        }
        parts = iter(delinearize(Dim.name(row), sizes))
        at = tuple(ZERO if d is ONE else next(parts) for d in dims[:-1])
        last = ZERO if dims[-1] is ONE else Dim.name(column)
        names = (*(f"i{a}{mark}" for a in range(len(dims) - 1)), column)
        kept = (*(True for _ in at), False)
        loops = Loops(names, dims, kept, (column,), ranges, (*at, last), at, last, dims, mark)
        return loops, row, block

    def begin(self, pull: Puller, loops: Loops) -> None:
        """Local memory for the sums of a block, which start at nothing."""
        build = pull.build
        for op in self.sums:
            kind = BufferType(op.result.type.dtype, loops.extents[-1:], "local")
            self.cells[op] = Value(build.fresh(f"{op.result.name}_held"), kind)
            build.top.ops.append(Operation(OPS["local"], (), (self.cells[op],)))
        with self.along(pull, loops):
            for cell in self.cells.values():
                self.put(pull, loops, cell, pull.foldable(Literal(0.0), cell.type.dtype))

    def rows(self, pull: Puller, loops: Loops, row: str) -> None:
        """Everything that is done with one row."""
        depth = self.depths()
        waiting = [v for v in self.plan.targets if self.analysis.maker[v] not in self.sums and not self.is_low(v)]
        # Beside the last stores, where there are any: folds along the row leave few registers in their own sweeps.
        last = max((self.depth_of(v, depth) for v in waiting), default=0)
        ready = {op: max(self.depth_of(op.operands[0], depth), last) for op in self.sums}  # type: ignore[arg-type]
        for k in range(max(depth.values(), default=-1) + 2):
            folds = [op for op, d in depth.items() if d == k]
            stores = [v for v in waiting if self.depth_of(v, depth) == k]
            sums = [op for op in self.sums if ready[op] == k]
            if not (folds or stores or sums):
                continue
            with self.along(pull, loops, inner=True):
                for op in folds:
                    x = pull.foldable(pull(op.operands[0], loops.index), op.operands[0].type.dtype)
                    made = pull.fold(op, x, loops.sweep, loops.position, (row,))
                    pull.folded.update(zip(op.results, made, strict=True))
                for v in stores:
                    self.store(pull, v, loops.index)
                for op in sums:
                    self.add(pull, loops, op)
        for v in self.plan.targets:
            if self.analysis.maker[v] not in self.sums and self.is_low(v):
                at = iter(pull.parallel)
                self.store(pull, v, tuple(ZERO if d is ONE else next(at) for d in v.type.dims))

    def depths(self) -> dict[Operation, int]:
        return {op: d for op, d in super().depths().items() if op not in self.sums}

    def add(self, pull: Puller, loops: Loops, op: Operation) -> None:
        cell = self.cells[op]
        x = pull.foldable(pull(op.operands[0], loops.index), op.operands[0].type.dtype)
        held = self.get(pull, loops, cell)
        made = pull.build.emit(OPS["add"], (held, pull.build.cast(x, cell.type.dtype)), cell.type.dtype, source=op)
        self.put(pull, loops, cell, made)

    def end(self, pull: Puller, loops: Loops, block: str) -> None:
        """The sums of a block become its row of the parts."""
        with self.along(pull, loops):
            for op, cell in self.cells.items():
                ones = (ZERO,) * (op.result.type.rank - 2)  # axes of one row that are not summed
                index = (Dim.name(block), *ones, loops.index[-1])
                pull.store(self.buffers[op.result], self.get(pull, loops, cell), index, op.span)

    @contextmanager
    def along(self, pull: Puller, loops: Loops, inner: bool = False) -> Iterator[None]:
        """A sweep over the columns, inside the one over the rows or by itself."""
        lo, hi = loops.ranges[loops.sweep[0]]
        container = Container(loops.sweep, (lo,), (hi,))
        if inner:
            pull.build.inner.append(container)
            yield
            pull.build.close_inner(pinned=True)
        else:
            pull.build.sweep = container
            yield
            pull.build.close_sweep()

    def get(self, pull: Puller, loops: Loops, cell: Value) -> Value:
        attrs: dict[str, Attr] = {"index": (loops.index[-1],)}
        made = Value(pull.build.fresh(cell.name), TileType(cell.type.dtype, loops.sweep))
        self.here(pull).ops.append(Operation(OPS["load"], (cell,), (made,), attrs))
        return made

    def put(self, pull: Puller, loops: Loops, cell: Value, x: Value) -> None:
        self.here(pull).ops.append(Operation(OPS["store"], (cell, x), (), {"index": (loops.index[-1],)}))

    @staticmethod
    def here(pull: Puller) -> Container:
        where = pull.build.inner[-1] if pull.build.inner else pull.build.sweep
        assert where is not None
        return where
