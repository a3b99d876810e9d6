"""How a block program is laid over launches: which loops are grids, and which values are needed in what way."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.backends.triton.program_products import factors, is_tiles
from tessera.ir.dialects.block import CHOOSE, EACH, FETCH, FILLED, LOOP, NUMBER, PUT, SEND, WAIT
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim, ceildiv, dim_min
from tessera.ir.dim_range import simplify_index
from tessera.ir.dtype import bool_
from tessera.ir.graph import Block, Function, Literal, Operand, Operation, Value, walk
from tessera.ir.intervals import holds, position
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, TensorType, TileType
from tessera.schedule.plan import ONE, ZERO

#: Kinds whose elements can be worked out at any position, without those beside them.
_POINTWISE = frozenset({Kind.MAP, Kind.VIEW, Kind.INDEX, Kind.CREATE, Kind.RANDOM})


@dataclass(frozen=True, slots=True)
class Grid:
    """An axis whose positions are programs."""

    axis: str
    lo: Dim
    hi: Dim
    step: Dim

    @property
    def count(self) -> Dim:
        return ceildiv(self.hi - self.lo, self.step)


@dataclass(frozen=True)
class Part:
    """One launch: the axes of its grid, the outermost first, and what each program does."""

    grid: tuple[Grid, ...]
    ops: tuple[Operation, ...]


# -- launches


def parts(f: Function) -> tuple[Part, ...]:
    """The launches of a program, in order.

    What stands outside of grids and has no effects is computed in every program that needs it. Where more is shared
    between what stands side by side, one program does everything, in order.
    """
    found: list[Part] = []
    free: list[Operation] = []
    run: list[Operation] = []
    gone: set[Value] = set()
    for op in f.ops:
        if op.record is EACH:
            found += [Part((), (*free, *run))] if run else []
            free += [o for o in run if not ordered(o)]
            gone.update(r for o in run for r in o.results if ordered(o))
            run = []
        if not gone.isdisjoint(_reads(op)) or (op.record is EACH and _looked_up(op)):
            return (Part((), f.ops),)
        if op.record is EACH:
            found.append(_grid(op, free))
        else:
            (run if run or ordered(op) else free).append(op)
    return (*found, *([Part((), (*free, *run))] if run else ()))


def _grid(op: Operation, free: Sequence[Operation]) -> Part:
    """A nest of grids as far as the inner ones have as many positions everywhere."""
    grid: list[Grid] = []
    ops = list(free)
    while True:
        assert op.body is not None
        grid.append(Grid(str(op.attrs["axis"]), *(_dim(op.attrs[key]) for key in ("lo", "hi", "step"))))
        inside = [o for o in op.body.ops if ordered(o)]
        inner = inside[0] if len(inside) == 1 else None
        axes = {g.axis for g in grid}
        if inner is None or inner.record is not EACH or _looked_up(inner) or _bound_names(inner) & axes:
            return Part(tuple(grid), (*ops, *op.body.ops))
        ops += [o for o in op.body.ops if o is not inner]
        op = inner


def _bound_names(op: Operation) -> set[str]:
    return {n for key in ("lo", "hi", "step") for n in _dim(op.attrs[key]).names()}


def _dim(x: object) -> Dim:
    return x if isinstance(x, Dim) else Dim.of(x) if isinstance(x, int) else ZERO


def _looked_up(op: Operation) -> bool:
    return bool(op.operands)


def _reads(op: Operation) -> set[Value]:
    """Every value that an operation reads, inside of it as well."""
    found = set(op.inputs)
    if op.body is not None:
        for o in walk(op.body):
            found.update(o.inputs)
            if o.body is not None:
                found.update(x for x in o.body.yields if isinstance(x, Value))
        found.update(x for x in op.body.yields if isinstance(x, Value))
    return found


def ordered(op: Operation) -> bool:
    """Must an operation stay where it is, because it writes to memory or reads what is written?"""
    inside = (op,) if op.body is None else (op, *walk(op.body))
    return any(o.record in (PUT, SEND, WAIT, LOCAL, EACH) or _reads_written(o) for o in inside)


def _reads_written(op: Operation) -> bool:
    if op.record is not FETCH:
        return False
    kind = op.operands[0].type
    return isinstance(kind, BufferType) and kind.role != "in"


# -- loops that end early


def bounded(f: Function) -> Function:
    """The program with bounds in place of stops: a loop that stops at the first position at which a condition on
    positions holds, before it does anything else, ends there.
    """
    return replace(f, body=_bounded_block(f.body, {}))


def _bounded_block(block: Block, maker: Mapping[Value, Operation]) -> Block:
    # Blocks nest as deep as their source does, which is bounded where it is read.
    known = dict(maker)
    ops = []
    for op in block.ops:
        known.update(dict.fromkeys(op.results, op))
        if op.body is not None:
            op = replace(op, body=_bounded_block(op.body, known))
            op = _bounded_loop(op, known) if op.record is LOOP and op.attrs.get("stops") else op
        ops.append(op)
    return replace(block, ops=tuple(ops))


def _bounded_loop(op: Operation, maker: Mapping[Value, Operation]) -> Operation:
    body = op.body
    assert body is not None
    if not body.ops or body.ops[-1].record is not CHOOSE or any(map(ordered, body.ops[:-1])):
        return op
    choice = body.ops[-1]
    assert choice.body is not None
    first, second = (case.body for case in choice.body.ops)
    if first is None or second is None or first.ops or body.yields != choice.results:
        return op
    if first.yields != (Literal(True), *body.params) or second.yields[:1] != (Literal(False),):
        return op
    known = {**maker, **{r: o for o in body.ops for r in o.results}}
    end = _first(choice.operands[0], known, str(op.attrs["axis"]))
    if end is None:
        return op
    attrs = {**op.attrs, "hi": dim_min(_dim(op.attrs["hi"]), end), "stops": False}
    return replace(op, attrs=attrs, body=Block((*body.ops[:-1], *second.ops), body.params, second.yields[1:]))


def _first(x: Operand, maker: Mapping[Value, Operation], axis: str) -> Dim | None:
    """The first position from which on a comparison of positions holds; None where there is no such."""
    op = maker.get(x) if isinstance(x, Value) else None
    if op is None or len(op.operands) != 2:
        return None
    sides = [position(y, maker) for y in op.operands]
    known = [Literal(s) for s in sides if s is not None and not any(n.startswith("_l") for n in s.names())]
    if len(known) != 2:
        return None
    shadow = Value("stop", TileType(bool_, (axis,)))
    runs = holds(shadow, False, {shadow: Operation(op.record, tuple(known), (shadow,))}, axis)
    return runs.hi if runs.lo is None and runs.exact else None


# -- what is needed


@dataclass
class Needs:
    """Which values a part needs: ``whole`` ones as blocks that stay in registers, in the order of the program;
    ``effects`` are the operations that are carried out. Others are worked out at single positions, where these are
    read.
    """

    static: Mapping[str, int]
    makers: Mapping[Value, Operation]
    whole: set[Value] = field(default_factory=set)
    indexed: set[Value] = field(default_factory=set)
    effects: set[Operation] = field(default_factory=set)

    def block(self, ops: Sequence[Operation]) -> None:
        """What operations need, the last first: users stand behind makers."""
        for op in reversed(ops):
            if op.body is not None:
                self.control(op)
            elif op.record in (PUT, SEND, WAIT, LOCAL):
                self.effects.add(op)
                slabs = stored_slabs(op, self.makers, self.static)
                self.want(op.inputs if slabs is None else (op.operands[0], *op.operands[2:], *(s.value for s in slabs)))
            elif not self.whole.isdisjoint(op.results):
                self.one(op)
            elif not self.indexed.isdisjoint(op.results):
                self.at(op)

    def want(self, xs: Iterator[Value] | Sequence[Operand]) -> None:
        self.whole.update(x for x in xs if isinstance(x, Value))

    def point(self, xs: Iterator[Value] | Sequence[Operand]) -> None:
        """These are read at positions of their own; what has none, as it is."""
        for x in xs:
            if isinstance(x, Value):
                (self.indexed if x.type.rank else self.whole).add(x)

    def control(self, op: Operation) -> None:
        assert op.body is not None
        bodies = [case.body for case in op.body.ops] if op.record is CHOOSE else [op.body]
        if not ordered(op) and self.whole.isdisjoint(op.results) and self.indexed.isdisjoint(op.results):
            return
        self.effects.add(op)
        self.want(op.operands)
        for body in bodies:
            assert body is not None
            self.want(body.yields)
            self.block(body.ops)

    def one(self, op: Operation) -> None:
        """The operands of an operation whose result is a block."""
        if op.record.kind in (Kind.VIEW, Kind.INDEX) and not self.plain(op):
            self.point(op.operands)
        elif is_tiles(op, self.makers, self.static):
            self.want(factors(op, self.makers))
        else:
            self.want(op.operands)

    def at(self, op: Operation) -> None:
        """The operands of an operation whose result is read at single positions."""
        if op.record.kind in _POINTWISE or op.record is FILLED:
            self.point(op.operands)
        elif op.record in (FETCH, NUMBER) and not ordered(op):
            self.want(op.operands)
        else:
            self.whole.update(op.results)
            self.one(op)

    def plain(self, op: Operation) -> bool:
        """Does a view only order and repeat the axes of its operand?"""
        return axis_map(op, self.static) is not None


def extent(d: Dim, static: Mapping[str, int]) -> int:
    """The value of a dim of a block."""
    return max(d.evaluate(static, signed=True), 0)


def axis_map(op: Operation, static: Mapping[str, int]) -> tuple[int | None, ...] | None:
    """By axis of the operand, the axis of the result along which it lies, None for one of length 1. None as a whole
    where the operation does more than order and repeat axes.
    """
    record, t = op.record, op.result.type
    if record.kind is not Kind.VIEW or record.pieces is None or not isinstance(t, TensorType):
        return None
    names = tuple(Dim.name(f"_i{n}") for n in range(t.rank))
    pieces = record.pieces(names, [x.type for x in op.operands], t, op.attrs)
    if len(pieces) != 1 or pieces[0].box or not isinstance(pieces[0].operand, int):
        return None
    lengths = [extent(d, static) for d in t.dims]
    ranges = {str(name): (ZERO, Dim.const(n)) for name, n in zip(names, lengths, strict=True)}
    index = tuple(simplify_index(e.substitute(dict(static)), ranges) for e in pieces[0].index if isinstance(e, Dim))
    own = [extent(d, static) for d in op.operands[pieces[0].operand].type.dims]
    return mapped(index, own, names, lengths) if len(index) == len(pieces[0].index) else None


def mapped(
    index: Sequence[Dim], own: Sequence[int], names: Sequence[Dim], lengths: Sequence[int]
) -> tuple[int | None, ...] | None:
    """The axes that coordinates are, of those with these names and lengths; None where one is something else."""
    found: list[int | None] = []
    for e, n in zip(index, own, strict=True):
        at = next((k for k, name in enumerate(names) if e is name), None)
        if n == 1:
            found.append(None)
        elif at is None or at in found or lengths[at] != n:
            return None
        else:
            found.append(at)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class Slab:
    """A block that is a part of a larger one, from ``offset`` on along an axis."""

    value: Value
    axis: int
    offset: int


def stored_slabs(op: Operation, makers: Mapping[Value, Operation], static: Mapping[str, int]) -> list[Slab] | None:
    """The blocks that a stored one is put together from, each of them whole; None where it is none such."""
    x = op.operands[1] if op.record is PUT else None
    made = makers.get(x) if isinstance(x, Value) else None
    if made is None or made.record.kind is not Kind.VIEW or made.record.pieces is None:
        return None
    t = made.result.type
    assert isinstance(t, TensorType)
    names = tuple(Dim.name(f"_i{n}") for n in range(t.rank))
    pieces = made.record.pieces(names, [y.type for y in made.operands], t, made.attrs)
    boxes = [p.box for p in pieces[:-1]]
    if not boxes or pieces[-1].box or any(len(box) != 1 or box[0][0] != boxes[0][0][0] for box in boxes):
        return None
    axis, at, found = boxes[0][0][0], 0, list[Slab]()
    for p in pieces:
        y = made.operands[p.operand] if isinstance(p.operand, int) else p.operand
        index = tuple(e.substitute(dict(static)) for e in p.index if isinstance(e, Dim))
        wanted = tuple(name - at if n == axis else name for n, name in enumerate(names))
        if not isinstance(y, Value) or index != wanted:
            return None
        end = at + extent(y.type.dims[axis], static)
        if p.box and [extent(d, static) for d in p.box[0][1:]] != [at, end]:
            return None
        found.append(Slab(y, axis, at))
        at = end
    return found if at == extent(t.dims[axis], static) else None


def static_names(f: Function) -> frozenset[str]:
    """The sizes that blocks have; others are known when the kernel runs."""
    found: set[str] = set()
    for op in walk(f.body):
        for v in op.results:
            if isinstance(v.type, TensorType):
                found.update(n for d in v.type.dims for n in d.names())
        if op.record is SEND:
            found.update(n for row in (*_rows(op, "at"), *_rows(op, "to")) for n in row)
    return frozenset(found)


def _rows(op: Operation, key: str) -> Iterator[frozenset[str]]:
    rows = op.attrs[key]
    assert isinstance(rows, tuple)
    for row in rows:
        assert isinstance(row, tuple)
        yield frozenset(_dim(row[1]).names())


__all__ = ["ONE", "ZERO", "Grid", "Needs", "Part", "axis_map", "bounded", "extent", "mapped", "ordered", "parts",
           "static_names", "stored_slabs"]  # fmt: skip
