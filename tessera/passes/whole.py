"""Block programs whose block sizes nobody gave, as functions on whole tensors.

A loop in blocks of a size that is left to the compiler has one iteration once the size is its extent, and independent
iterations over single positions are dims in front of what they compute. What is left are the operations of the blocks
on whole tensors, which are proved, fused and differentiated like those of any function. Iterations that have to follow
one another, shared memory and parts of outputs have no such form.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from tessera.ir.build import Builder, names_of
from tessera.ir.dialects import OPS
from tessera.ir.dialects.block import CHOOSE, EACH, FETCH, FILLED, LOOP, NUMBER, PUT
from tessera.ir.dialects.calls import Sym
from tessera.ir.dim import Dim
from tessera.ir.dtype import int64
from tessera.ir.facts import Facts
from tessera.ir.graph import Block, Function, Literal, Operand, Operation, Value, dims_in, walk
from tessera.ir.infer import InferContext, Refused
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, TensorType
from tessera.ir.window import SINGLE, Row, read
from tessera.passes.lifted import Lifted, Lifting, Partial

_ZERO, _ONE = Dim.const(0), Dim.const(1)


@dataclass(frozen=True)
class Whole:
    """A program on whole tensors: its function, and the parameters of the program that are its parameters and its
    results, in order; ``added`` are those that it adds to.
    """

    function: Function
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    added: frozenset[Value] = frozenset()


@dataclass(frozen=True)
class _Put:
    """A whole output: the axes that number its single positions, by dim, and the block of every iteration."""

    singles: tuple[tuple[int, str], ...]
    value: Lifted
    op: Operation


def whole(f: Function, free: Collection[str]) -> Whole:
    """A block program on whole tensors; ``free`` are the block sizes that are the compiler's to choose. It serves
    sizes of 1 and more for which its obligations hold. Raises Partial.
    """
    builder = Builder(OPS["cast"], _context(f), [], dict.fromkeys(names_of(f), 0))
    return _Lift(builder, _sizes(f, free)).run(f)


def _sizes(f: Function, free: Collection[str]) -> dict[str, Dim]:
    """What block sizes, and the axes of loops with one iteration, become."""
    found: dict[str, Dim] = {}
    for op in walk(f.body):
        if op.record not in (EACH, LOOP):
            continue
        lo, hi, step = (_dim(op, key).substitute(found) for key in ("lo", "hi", "step"))
        name = str(_dim(op, "step"))
        if name not in free:
            continue
        if name not in found:
            found[name] = step = hi - lo
        if step is not hi - lo:
            raise Partial(f"`{name}` is the step of loops of `{step}` and of `{hi - lo}`", op)
        found[str(op.attrs["axis"])] = lo
    if any(d.names() & (free - found.keys()) for d in found.values()):
        raise Partial("a block size depends on another one", next(iter(f.ops)))
    return found


def _dim(op: Operation, key: str) -> Dim:
    found = op.attrs[key]
    assert isinstance(found, Dim | int)
    return Dim.of(found)


def _context(f: Function) -> InferContext:
    """All sizes of arguments are 1 or more."""
    facts = Facts()
    names = {n for p in f.params if isinstance(p.type, BufferType) for d in p.type.dims for n in d.names()}
    for name in sorted(names):
        facts = facts.with_ge(Dim.name(name), _ONE)
    return InferContext(facts, filled=names)


@dataclass
class _Lift(Lifting):
    """Walks a program. Axes of loops with one iteration are no axes here, but sizes."""

    puts: dict[Value, _Put] = field(default_factory=dict)
    #: What outputs are added up to.
    sums: dict[Value, _Put] = field(default_factory=dict)
    #: What must hold for the operations of a case to count, the values known before it, and what it has instead.
    path: tuple[Lifted, ...] = ()
    outer: frozenset[Value] = frozenset()
    masked: dict[Value, Lifted] = field(default_factory=dict)

    def run(self, f: Function) -> Whole:
        inputs: list[Value] = []
        params: list[Value] = []
        for p in f.params:
            if isinstance(p.type, BufferType) and p.type.role != "in":
                continue
            kind = TensorType(p.type.dtype, p.type.dims) if isinstance(p.type, BufferType) else p.type
            made = Value(p.name, kind)
            inputs.append(p)
            params.append(made)
            self.env[p] = Lifted(made)
        for o in f.obligations:
            left, right = (d.substitute(self.sizes) for d in (o.left, o.right))
            self.builder.context.span = o.span
            if not self.builder.context.holds(o.kind, left, right, o.why):
                raise Partial(f"`{o}` does not hold", f.ops[0])
        self.block(f.body)
        outputs = tuple(p for p in f.params if p in self.puts or p in self.sums)
        results = tuple(self.result(p) for p in outputs)
        obligations = tuple(self.builder.context.obligations.values())
        body = Block(tuple(self.builder.ops), tuple(params), results)
        _complete(f, body)
        whole = Function(f.name, body, "tensor", obligations, span=f.span)
        return Whole(whole, tuple(inputs), outputs, frozenset(self.sums))

    def block(self, block: Block) -> None:
        for op in block.ops:
            self.builder.context.span = op.span
            try:
                rule = _RULES.get(op.record.name)
                if rule is not None:
                    rule(self, op)
                elif op.record.kind in _KINDS:
                    self.compute(op)
                else:
                    raise Partial(f"`{op.origin or op.name}` belongs to blocks", op)
            except Refused as refusal:
                raise Partial(refusal.message, op) from None

    # -- control

    def each(self, op: Operation) -> None:
        """Single positions become an axis; one iteration is its body."""
        axis, (lo, hi, step) = str(op.attrs["axis"]), (self.size(op, key) for key in ("lo", "hi", "step"))
        assert op.body is not None
        if axis in self.sizes or hi - lo is _ONE:
            self.sizes[axis] = lo
            self.block(op.body)
            return
        if lo is not _ZERO or step is not _ONE:
            raise Partial(f"a grid from `{lo}` in steps of `{step}`", op)
        self.axes[axis] = hi
        self.block(op.body)
        del self.axes[axis]

    def loop(self, op: Operation) -> None:
        body, count = op.body, op.attrs["carries"]
        assert body is not None and isinstance(count, int)
        axis, lo, hi = str(op.attrs["axis"]), self.size(op, "lo"), self.size(op, "hi")
        if axis not in self.sizes and hi - lo is not _ONE:
            raise Partial("iterations that follow one another", op)
        self.sizes[axis] = lo
        self.bind(op, body.params, op.operands[:count])
        self.env.update((p, replace(self.env[p], start=True)) for p in body.params)
        self.block(body)
        self.bind(op, op.results, body.yields[bool(op.attrs.get("stops")) :])
        self.env.update((r, replace(self.env[r], start=False, nothing=False)) for r in op.results)

    def size(self, op: Operation, key: str) -> Dim:
        found = _dim(op, key).substitute(self.sizes)
        if found.names() & self.axes.keys() or any(n.startswith("_l") for n in found.names()):
            raise Partial(f"a bound, `{found}`, that is known when the kernel runs", op)
        return found

    def choose(self, op: Operation) -> None:
        """Both cases are computed where sizes do not tell which; lookups of a case count where it is taken."""
        assert op.body is not None
        condition = self.of(op, op.operands[0])
        cases: list[Block] = [c.body for c in op.body.ops if c.body is not None]
        if condition.truth is not None:
            chosen = cases[0 if condition.truth else 1]
            self.block(chosen)
            self.bind(op, op.results, chosen.yields)
            return
        before, path, outer = dict(self.puts), self.path, self.outer
        self.outer = frozenset(self.env)
        other = self.together("logical_not", [condition])
        sides = []
        for case, taken in zip(cases, (condition, other), strict=True):
            self.puts, self.path, self.masked = dict(before), (*path, taken), {}
            self.block(case)
            sides.append(({p: put for p, put in self.puts.items() if p not in before}, case.yields))
        self.puts, self.path, self.outer = before, path, outer
        (left, yes), (right, no) = sides
        for r, a, b in zip(op.results, yes, no, strict=True):
            self.env[r] = self.chosen(condition, *(self.stored(self.of(op, x), r.type) for x in (a, b)))
        for p in dict.fromkeys((*left, *right)):
            if p not in left or p not in right or left[p].singles != right[p].singles:
                raise Partial(f"`{p.name}` is written in one case", op)
            value = self.chosen(condition, left[p].value, right[p].value)
            self.puts[p] = replace(left[p], value=value)

    def chosen(self, condition: Lifted, a: Lifted, b: Lifted) -> Lifted:
        return self.together("where", [condition, a, b])

    def of(self, op: Operation, x: Operand) -> Lifted:
        if not (isinstance(x, Value) and x in self.outer):
            return super().of(op, x)
        if x not in self.masked:
            self.masked[x] = self.safe(super().of(op, x))
        return self.masked[x]

    def safe(self, x: Lifted) -> Lifted:
        """A value in a case: 1 where the case is not taken, so that nothing fails there and no slope is infinite."""
        if isinstance(x.value, Literal) or x.fill is not None or x.value.type.dtype.is_bool:
            return x
        for taken in self.path:
            one = Lifted(Literal(1.0 if x.value.type.dtype.is_float else 1))
            x = replace(self.together("where", [taken, x, one]), span=x.span)
        return x

    # -- memory

    def fetch(self, op: Operation) -> None:
        buffer = op.operands[0]
        assert isinstance(buffer, Value)
        if buffer not in self.env:
            raise Partial(f"`{buffer.name}` is read and written", op)
        kind = buffer.type
        assert isinstance(kind, BufferType)
        rows = self.rows(op)
        x: Any = Sym(self.t, self.value(buffer))
        looked = [self.counted(self.of(op, v)) for v in op.operands[1:]]
        for n, row in enumerate(rows):
            if row.kind != SINGLE:
                x = self.cut(op, x, n, row, kind.dims[n])
        single = {n: row for n, row in enumerate(rows) if row.kind == SINGLE}
        at = {n: self.position(op, row, kind.dims[n], looked) for n, row in single.items()}
        self.env[op.result] = self.safe(self.picked(op, x, at, kind, single))

    def rows(self, op: Operation) -> tuple[Row, ...]:
        rows = read(op.attrs["at"])
        given = ((tuple(d.substitute(self.sizes) for d in r.dims), r.kind) for r in rows)
        return tuple(Row(start, extent, end, kind) for (start, extent, end), kind in given)

    def cut(self, op: Operation, x: Any, n: int, row: Row, size: Dim) -> Any:
        """The part of a dim that a row of a window means, all of which has to lie inside."""
        if row.start is _ZERO and row.extent is size and row.end is size:
            return x
        stop = row.start + row.extent
        if {*row.start.names(), *row.extent.names()} & {*self.axes, *(f"_l{k}" for k in range(len(op.operands)))}:
            raise Partial("a part that begins where the iteration says", op)
        if not self.builder.context.holds("ge", row.end, stop, "inside of the view"):
            raise Partial(f"a part that ends at `{stop}` of `{row.end}`", op)
        return self.t.emit("slice", (x,), dim=n, start=row.start, stop=stop, step=_ONE)

    def position(self, op: Operation, row: Row, size: Dim, looked: Sequence[Lifted]) -> Lifted:
        """A single position as an integer of every iteration."""
        found = self.number_of(op, row.start, {f"_l{n}": x for n, x in enumerate(looked)})
        if isinstance(found.value, Literal) or (self.counts(found, size) and row.end is size):
            return found
        return self.guarded(found, row.end, size)

    def guarded(self, index: Lifted, end: Dim, size: Dim) -> Lifted:
        """An index that may lie outside: 0 where the case that asks for it is not taken, and behind the end of the dim
        where it is negative, as such do not count from there, or behind the end of the view.
        """
        for taken in self.path:
            index = self.together("where", [taken, index, Lifted(Literal(0))])
        outside = self.together("lt", [index, Lifted(Literal(0))])
        if end is not size:
            outside = self.together("logical_or", [outside, self.together("ge", [index, Lifted(Literal(end))])])
        return self.together("where", [outside, Lifted(Literal(size)), index])

    def picked(
        self, op: Operation, x: Any, at: Mapping[int, Lifted], kind: BufferType, rows: Mapping[int, Row]
    ) -> Lifted:  # fmt: skip
        """A tensor at single positions of some dims, the axes of these in front."""
        plain = {n: v.axes[0] for n, v in at.items() if self.counts(v, kind.dims[n])}
        if len(plain) == len(at) and len({*plain.values()}) == len(plain):
            order = [n for a in self.axes for n, b in plain.items() if a == b]
            rest = [n for n in range(kind.rank) if n not in plain]
            return Lifted(self.permuted(x, (*order, *rest)), tuple(plain[n] for n in order))
        if all(isinstance(v.value, Literal) for v in at.values()):
            for n in sorted(at, reverse=True):
                x = self.t.squeeze(self.cut(op, x, n, Row(_start(at[n]), _ONE, rows[n].end), kind.dims[n]), n)
            return Lifted(x.value)
        axes = tuple(a for a in self.axes if any(a in v.axes for v in at.values()))
        dims = tuple(sorted(at))
        shape = tuple(self.axes[a] for a in axes)
        indices = [self.t.expand(self.shown(self.aligned(self.indexed(at[n]), axes, 0)), *shape) for n in dims]
        front = dims == tuple(range(dims[0], dims[0] + len(dims)))
        found = self.t.emit("index", (x, *indices), dims=dims)
        start = dims[0] if front else 0
        moved = range(start, start + len(axes))
        rest = [n for n in range(kind.rank - len(dims) + len(axes)) if n not in moved]
        return Lifted(self.permuted(found, (*moved, *rest)), axes)

    def indexed(self, at: Lifted) -> Lifted:
        """A position as a tensor."""
        return Lifted(self.t.full((), _start(at), dtype=int64).value) if isinstance(at.value, Literal) else at

    def counts(self, at: Lifted, size: Dim) -> bool:
        """Does a position count those of a dim, from the first to the last?"""
        return at.count and self.axes[at.axes[0]] is size

    def put(self, op: Operation) -> None:
        buffer = op.operands[0]
        assert isinstance(buffer, Value)
        kind = buffer.type
        assert isinstance(kind, BufferType)
        adds = bool(op.attrs.get("adds"))
        if buffer in self.puts or kind.role != "out" or (buffer in self.sums and not adds):
            raise Partial(f"`{buffer.name}` is written more than once, or read", op)
        singles: list[tuple[int, str]] = []
        for n, (row, size) in enumerate(zip(self.rows(op), kind.dims, strict=True)):
            name = str(row.start)
            if row.end is not size:
                raise Partial(f"a part of `{buffer.name}` is written", op)
            if row.kind == SINGLE and name in self.axes and self.axes[name] is size:
                singles.append((n, name))
            elif row.start is not _ZERO or (row.extent is not size):
                raise Partial(f"a part of `{buffer.name}` is written", op)
        value = self.of(op, op.operands[1])
        named = [a for _, a in singles]
        if len({*named}) < len(named) or ({*named} != {*self.axes} and not adds):
            raise Partial(f"iterations write to one place of `{buffer.name}`", op)
        if adds:
            self.add(buffer, _Put(tuple(singles), value, op), kind)
            return
        self.puts[buffer] = _Put(tuple(singles), self.stored(value, TensorType(kind.dtype, ())), op)

    def add(self, buffer: Value, put: _Put, kind: BufferType) -> None:
        """Add up what iterations that take part add to one place."""
        value = self.stored(put.value, TensorType(kind.dtype, ()))
        for taken in self.path:
            value = self.together("where", [taken, value, Lifted(Literal(0.0 if kind.dtype.is_float else 0))])
        kept = {a for _, a in put.singles}
        order = [*(a for a in self.axes if a not in kept), *(a for a in self.axes if a in kept)]
        dims = value.value.type.dims[len(value.axes) :]
        x: Any = self.shown(self.aligned(value, order, len(dims)))
        x = self.t.expand(x, *(self.axes[a] for a in order), *dims)
        gone = len(order) - len(kept)
        total = Lifted((self.t.sum(x, tuple(range(gone))) if gone else x).value, tuple(order[gone:]))
        known = self.sums.get(buffer)
        if known is not None and known.singles != put.singles:
            raise Partial(f"`{buffer.name}` is added to in several ways", put.op)
        both = total if known is None else self.together("add", [known.value, total])
        self.sums[buffer] = _Put(put.singles, self.stored(both, TensorType(kind.dtype, ())), put.op)

    def result(self, buffer: Value) -> Operand:
        """An output, its dims in their order."""
        put, kind = self.puts.get(buffer) or self.sums[buffer], buffer.type
        where = {a: n for n, a in put.singles}
        axes = sorted(where, key=lambda a: where[a])
        rest = [n for n in range(kind.rank) if n not in where.values()]
        front = [*(where[a] for a in axes), *rest]
        aligned: Any = self.shown(self.aligned(put.value, axes, len(rest)))
        whole = self.t.expand(aligned, *(kind.dims[n] for n in front))
        return self.permuted(whole, [front.index(n) for n in range(kind.rank)])

    # -- values

    def value(self, x: Value) -> Value:
        found = self.env[x].value
        assert isinstance(found, Value)
        return found

    def number(self, op: Operation) -> None:
        looked = {f"_l{n}": self.counted(self.of(op, x)) for n, x in enumerate(op.operands)}
        self.env[op.result] = self.number_of(op, _dim(op, "of"), looked)

    def filled(self, op: Operation) -> None:
        self.env[op.result] = self.of(op, op.operands[0])


def _complete(f: Function, body: Block) -> None:
    """Refuse a form that asks for what its parameters do not tell, or loses a check of a position."""
    names = {n for p in body.params for d in p.type.dims for n in d.names()}
    wanted = {n for op in body.ops for d in dims_in(op.attrs.values()) for n in d.names()}
    for x in (x for op in body.ops for x in op.operands):
        if isinstance(x, Literal) and isinstance(x.value, Dim):
            wanted |= x.value.names()
    if wanted - names:
        raise Partial(f"`{min(wanted - names)}` is the size of no argument", f.ops[0])
    live = {y for y in body.yields if isinstance(y, Value)}
    for op in reversed(body.ops):
        if live.isdisjoint(op.results):
            if op.record.kind is Kind.INDEX:
                raise Partial("a position that nothing depends on", f.ops[0])
            continue
        live.update(op.inputs)


def _start(at: Lifted) -> Dim:
    """A position that is the same in every iteration."""
    assert isinstance(at.value, Literal) and isinstance(at.value.value, int | Dim)
    return Dim.of(at.value.value)


_KINDS = frozenset({Kind.MAP, Kind.REDUCE, Kind.SCAN, Kind.CONTRACT, Kind.VIEW, Kind.INDEX, Kind.CREATE})
_RULES: Mapping[str, Callable[[_Lift, Operation], None]] = MappingProxyType({
    EACH.name: _Lift.each, LOOP.name: _Lift.loop, CHOOSE.name: _Lift.choose, FETCH.name: _Lift.fetch,
    PUT.name: _Lift.put, NUMBER.name: _Lift.number, FILLED.name: _Lift.filled,
})  # fmt: skip

__all__ = ["Partial", "Whole", "whole"]
