"""Runs of operations that are carried out for one block of rows after the other.

The logits of a language model are larger than everything that they are made from and than everything that is made from
them. Where an operation takes each row by itself, or adds up over rows, a few rows at a time are enough: what is read
inside of the run alone then exists for one block at a time, what has rows is written block by block, and sums over the
rows are added up in the order of the blocks. Each product is still computed once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field, replace

from tessera.ir.build import names_of, numbered
from tessera.ir.dialects.contract import letters
from tessera.ir.dialects.region import BLOCKS
from tessera.ir.dim import Dim, ceildiv, dim_max, product
from tessera.ir.dtype import DType, compute_dtype
from tessera.ir.flops import nbytes, summed
from tessera.ir.folds import FOLDS, folded_axes
from tessera.ir.graph import Block, Function, Note, Operand, Operation, Value, users
from tessera.ir.record import Kind, Lookup
from tessera.ir.types import TensorType
from tessera.passes.grouping import POINTWISE, is_free

#: A value of at least so many bytes is worth the trouble, where blocks have so many rows at least.
LARGE, FEWEST = 16 << 20, 256
#: Beside the largest value those count as large that have this part of its bytes, such as a mask of it.
SHARE = 4
#: There are at most so many blocks: the sums over the rows are read and written once for each.
MOST = 8
#: What no longer exists as a whole is so many times what the blocks are cut from and put together to.
TIMES = 4
#: Sums of products over fewer elements belong to kernels that make them again where they are used.
LONG = 128


@dataclass(frozen=True, slots=True)
class Run:
    """Operations that are carried out block by block of rows, in order, and how many bytes then no longer exist at
    once: what products give and take, and nobody else reads.
    """

    along: Dim
    ops: tuple[Operation, ...]
    bytes: int

    @property
    def rows(self) -> Dim:
        """The rows of a block."""
        return dim_max(Dim.const(FEWEST), ceildiv(self.along, Dim.const(MOST)))


@dataclass(frozen=True, slots=True)
class Blocks:
    """Bring the largest run of a function into a region of its own. ``sizes`` says what is large; without them nothing
    is.
    """

    sizes: tuple[tuple[str, int], ...] = ()
    name: str = "blocks"

    def run(self, f: Function) -> Function:
        found = largest(f, dict(self.sizes)) if self.sizes else None
        if found is None:
            return f
        text = f"{len(found.ops)} operations by blocks of {found.rows} along {found.along}, {found.bytes} bytes less"
        return _written(f, found).with_note(Note(self.name, 0.0, text))


def wide(dtype: DType) -> bool:
    """Has memory as many digits of a float as are computed with?"""
    return dtype.is_float and compute_dtype(dtype) is dtype


def largest(f: Function, sizes: Mapping[str, int]) -> Run | None:
    """The run by which most bytes less exist at once; None where no run is worth it."""
    made = [r for op in f.ops for r in op.results if isinstance(r.type, TensorType)]
    given = set(f.outputs)
    large = [v for v in made if _bytes(v, sizes) >= LARGE and v not in given]
    runs = (_Along(f, d, sizes).run() for d in dict.fromkeys(d for v in large for d in v.type.dims) if not d.is_const)
    return max((r for r in runs if r is not None), key=lambda r: r.bytes, default=None)


def _bytes(v: Value, sizes: Mapping[str, int]) -> int:
    return nbytes(v.type).evaluate(sizes)


@dataclass
class _Along:
    """The search for a run along one size."""

    f: Function
    along: Dim
    sizes: Mapping[str, int]
    readers: Mapping[Value, list[Operation]] = field(default_factory=dict)
    maker: dict[Value, Operation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.readers = users(self.f.body)
        self.maker = {r: op for op in self.f.ops for r in op.results}
        self.given = set(self.f.outputs)

    def run(self) -> Run | None:
        made = {r: _bytes(r, self.sizes) for op in self.f.ops for r in op.results if self.along in r.type.dims}
        least = max(LARGE, max(made.values()) // SHARE)
        large = {r for r, size in made.items() if size >= least}
        core = {op for op in self.f.ops if any(v in large for v in (*op.inputs, *op.results))}
        inside = self.closed(core)
        if not inside or not all(map(self.fits, inside)):
            return None
        products = [op for op in inside if op.record.kind is Kind.CONTRACT]
        if any(op.result in large and self.length(op) <= LONG for op in products):
            return None
        self.join(inside)
        sums = {r for op in inside if self.adds(op) for r in op.results}
        if any(v in sums for op in inside for v in op.inputs):
            return None
        ops = self.with_views(inside)
        given = dict.fromkeys(v for op in ops for v in op.inputs if self.maker.get(v) not in ops)
        left = [r for op in inside for r in op.results if self.is_left(r, inside)]
        edges = [v for v in (*given, *left) if self.along in v.type.dims]
        if any(v.type.dims[0] is not self.along for v in edges):
            return None
        saved = sum(_bytes(v, self.sizes) for v in self.stored(inside) if v not in left)
        if saved < TIMES * sum(_bytes(v, self.sizes) for v in edges) or saved < LARGE:
            return None
        return Run(self.along, tuple(op for op in self.f.ops if op in ops), saved)

    def closed(self, core: set[Operation]) -> set[Operation]:
        """The operations with all that comes after some of them and before others."""
        after, before = set[Value](), {v for op in core for v in op.inputs}
        late: set[Operation] = set()
        for op in self.f.ops:
            if op in core or any(v in after for v in op.inputs):
                late.add(op)
                after.update(op.results)
        inside = set[Operation]()
        for op in reversed(self.f.ops):
            if op in core or any(r in before for r in op.results):
                before.update(op.inputs)
                inside.add(op)
        return inside & late

    def join(self, inside: set[Operation]) -> None:
        """Add what is made of rows, element by element, for these operations alone."""
        for op in reversed(self.f.ops):
            if op in inside or op.record.kind not in POINTWISE or op.record.kind is Kind.RANDOM or is_free(op):
                continue
            if any(self.axis(r) is None for r in op.results) or any(self.is_left(r, inside) for r in op.results):
                continue
            if self.fits(op):
                inside.add(op)

    def with_views(self, inside: set[Operation]) -> set[Operation]:
        """The operations with the free ones of single rows behind them, which are repeated."""
        found, pending = set(inside), [v for op in inside for v in op.inputs]
        while pending:
            op = self.maker.get(pending.pop())
            if op is None or op in found or not is_free(op) or not self.fits(op):
                continue
            found.add(op)
            pending.extend(op.inputs)
        return found

    def is_left(self, v: Value, inside: set[Operation]) -> bool:
        """Does somebody else read a value, also through views?"""
        pending = [v]
        while pending:
            x = pending.pop()
            if x in self.given:
                return True
            for op in self.readers.get(x, ()):
                if op not in inside:
                    if not is_free(op):
                        return True
                    pending.append(op.result)
        return False

    def stored(self, inside: Collection[Operation]) -> set[Value]:
        """What products take and give."""
        products = (op for op in inside if op.record.kind is Kind.CONTRACT)
        found = {v for op in products for v in (*op.inputs, *op.results) if self.along in v.type.dims}
        made = {r for op in inside for r in op.results}
        return found & made

    def length(self, op: Operation) -> int:
        return product(summed(op)).evaluate(self.sizes)

    # -- one row by itself -----------------------------------------------------------------------------------------

    def axis(self, x: Operand) -> int | None:
        """The axis of the rows; None without one, -1 where there is more than one or a size that depends on theirs."""
        if not isinstance(x, Value) or not isinstance(x.type, TensorType):
            return None
        names = frozenset(self.along.names())
        mine = [n for n, d in enumerate(x.type.dims) if d is self.along]
        mixed = any(d is not self.along and names & frozenset(d.names()) for d in x.type.dims)
        return -1 if mixed or len(mine) > 1 else mine[0] if mine else None

    def adds(self, op: Operation) -> bool:
        """Is the result of an operation on rows one without them?"""
        return all(self.axis(r) is None for r in op.results) and any(self.axis(x) is not None for x in op.operands)

    def fits(self, op: Operation) -> bool:
        """Does an operation take each row by itself, or add up over rows?"""
        if any(self.axis(x) == -1 for x in (*op.operands, *op.results)) or op.body is not None:
            return False
        kind = op.record.kind
        if kind in FOLDS:
            if self.axis(op.operands[0]) not in folded_axes(op):
                return True
            reduction = op.record.reduction
            if kind is not Kind.REDUCE or reduction is None or len(op.results) > 1 or op.attrs.get("keepdim"):
                return False
            return reduction.adds_up and wide(op.result.type.dtype)
        if kind is Kind.CONTRACT:
            return self.alike(op) and (self.axis(op.result) is not None or wide(op.result.type.dtype))
        if kind in (Kind.VIEW, Kind.INDEX):
            return self.passes(op)
        if kind is Kind.CREATE:
            return self.axis(op.result) is None
        return kind is Kind.MAP

    def alike(self, op: Operation) -> bool:
        """Have the rows one letter in a contraction?"""
        parts = (*op.operands, op.result)
        found = {s[n] for s, x in zip(letters(op), parts, strict=True) if (n := self.axis(x)) is not None}
        return len(found) <= 1

    def passes(self, op: Operation) -> bool:
        """Does a view read a row of its operands for the same row of its result, and nothing else of them?"""
        kind, record, mine = op.result.type, op.record, self.axis(op.result)
        assert isinstance(kind, TensorType) and record.pieces is not None
        index = tuple(Dim.name(f"_i{n}") for n in range(kind.rank))
        row = index[mine] if mine is not None else None
        for piece in record.pieces(index, [x.type for x in op.operands], kind, op.attrs):
            if any(axis == mine for axis, _, _ in piece.box):
                return False
            if not isinstance(piece.operand, int):
                continue
            for x, places in _read(op, piece.operand, piece.index):
                for axis, e in enumerate(places):
                    if e is not row if axis == self.axis(x) else _names(row) & _names(e):
                        return False
        return True


def _read(
    op: Operation, operand: int, index: tuple[Dim | Lookup, ...]
) -> Iterator[tuple[Operand, tuple[Dim | None, ...]]]:
    """What a piece of a view reads, and where: a place that is looked up is none of the result's."""
    yield op.operands[operand], tuple(None if isinstance(e, Lookup) else e for e in index)
    for e in index:
        if isinstance(e, Lookup):
            yield op.operands[e.operand], tuple(e.index)


def _names(e: Dim | None) -> frozenset[str]:
    return frozenset() if e is None else frozenset(e.names())


def _written(f: Function, found: Run) -> Function:
    """The function with the run in a region, which has its own copies of views that others read, too."""
    inside = set(found.ops)
    after = set[Value]()
    first: list[Operation] = []
    last: list[Operation] = []
    own = {op for op in inside if not is_free(op)}
    for op in f.ops:
        late = op in own or any(v in after for v in op.inputs)
        if late:
            after.update(op.results)
        if op not in own:
            (last if late else first).append(op)
    names, repeated = names_of(f), inside.difference(own, last)
    copies: dict[Value, Value] = {}
    body: list[Operation] = []
    for op in found.ops:
        if op in repeated:
            copies.update((r, Value(numbered(f"{r.name}_b", names), r.type)) for r in op.results)
        operands = tuple(copies.get(x, x) if isinstance(x, Value) else x for x in op.operands)
        body.append(replace(op, operands=operands, results=tuple(copies.get(r, r) for r in op.results)))
    last = [op for op in last if op not in inside]
    made = {r for op in body for r in op.results}
    given = tuple(dict.fromkeys(v for op in body for v in op.inputs if v not in made))
    read = {v for op in last for v in op.inputs} | {v for v in f.outputs if isinstance(v, Value)}
    results = tuple(r for op in body for r in op.results if r in read)
    attrs = {"along": found.along, "rows": found.rows}
    region = Operation(BLOCKS, given, results, attrs, found.ops[-1].span, body=Block(tuple(body)))
    live = {v for op in (region, *last) for v in op.inputs} | {v for v in f.outputs if isinstance(v, Value)}
    kept: list[Operation] = []
    for op in reversed(first):
        if any(r in live for r in op.results):
            kept.append(op)
            live.update(op.inputs)
    return f.with_ops((*reversed(kept), region, *last))


__all__ = ["Blocks", "Run", "largest", "wide"]
