"""The steps of an affine recurrence (see ``affine``), many at a time: what is carried stays as a chunk of steps found
it, beside the outer products of these steps, which are not multiplied out before its end.

A read at row t of a chunk that began with S is ``(w P) S + sum over j < t of (w k') u``: P is the product of the
factors before t, k' is k times those between j and t. Both sums are products of matrices. Where ``u`` depends on reads,
its rows are found one after the other, all else of all rows together.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.build import Builder
from tessera.ir.dialects.control import SCAN
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bool_
from tessera.ir.graph import Block, Literal, Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.loop import Loop, outer_values
from tessera.ir.record import Kind, Law
from tessera.ir.types import TensorType
from tessera.passes.affine import Affine, Factor, Label, Part, Read, labels_of
from tessera.passes.decays import Decays
from tessera.passes.labelled import EARLIER, ROW, Algebra, Laid, order
from tessera.passes.rowwise import NotRowwise

#: One part of one carry.
Key = tuple[int, int]


@dataclass
class Chunk:
    """Writes the step over ``algebra.count`` rows. ``k`` and ``u`` are by part, rows beyond the end 0."""

    affine: Affine
    algebra: Algebra
    carries: Sequence[Value]
    live: Laid
    decays: list[Decays] = field(default_factory=list)
    k: dict[Key, Laid] = field(default_factory=dict)
    u: dict[Key, Laid] = field(default_factory=dict)
    done: set[Operation] = field(default_factory=set)

    def write(self) -> list[Value]:
        """What the step yields."""
        a, loop = self.algebra, self.affine.loop
        new = [self.affine.next(n) for n in range(len(loop.carries))]
        for n, linear in enumerate(new):
            a.dtype = loop.carries[n].type.dtype
            factor = self.factor(linear.scale)
            self.decays.append(Decays(a, factor and self.alive(factor, 1.0)))
            for part in linear.parts:
                self.k[n, part.number] = self.cleared(self.product(part.k, n), part.k)
        late = []
        for n, linear in enumerate(new):
            for part in linear.parts:
                if self.waits(part):
                    late.append((n, part))
                else:
                    self.u[n, part.number] = self.values(n, part)
        if late:
            self.substitute(late)
        carried = [self.carried(n, linear.parts) for n, linear in enumerate(new)]
        self.ensure([y for y in loop.ys if isinstance(y, Value)])
        return [*carried, *(self.row(y) for y in loop.ys)]

    def row(self, y: Operand) -> Value:
        found = self.algebra.spread(y)
        assert isinstance(found, Value)
        return found

    # -- values of the step

    def ensure(self, wanted: Iterable[Value], stop: Iterable[Value] = ()) -> None:
        """Carry out what these values need, reads included."""
        for op in self.behind(wanted, set(stop)):
            if op in self.done:
                continue
            self.done.add(op)
            read = self.affine.reads.get(op.results[0])
            if read is None:
                self.algebra.take(op)
            else:
                self.algebra.made[op.result] = self.read(read)

    def behind(self, wanted: Iterable[Value], stop: set[Value]) -> list[Operation]:
        """The operations that values need, in order; reads need nothing."""
        maker, reads = self.affine.maker, self.affine.reads
        pending, found = list(wanted), set[Operation]()
        while pending:
            v = pending.pop()
            op = maker.get(v)
            if op is None or op in found or v in stop:
                continue
            found.add(op)
            if v in reads:
                pending.extend(x for f in self.behind_read(reads[v]) if isinstance(x := f.value, Value))
            else:
                pending.extend(op.inputs)
        return [op for op in self.affine.loop.body.ops if op in found]

    def behind_read(self, read: Read) -> Iterable[Factor]:
        """The factors that a read needs; parts are known by the time."""
        local = (f for p in read.linear.parts for f in (*p.k, *p.u))
        return (*read.w, *read.linear.scale, *local)

    def factor(self, given: Sequence[Factor]) -> Laid | None:
        self.ensure(f.value for f in given if isinstance(f.value, Value))
        return self.algebra.times(self.algebra.lay(f) for f in given)

    def product(self, given: Sequence[Factor], carry: int) -> Laid:
        """A product of factors; 1 where there is none."""
        found = self.factor(given)
        return self.algebra.filled(1.0, (), (), self.dtype(carry)) if found is None else found

    def dtype(self, carry: int) -> DType:
        return self.affine.loop.carries[carry].type.dtype

    def alive(self, x: Laid, otherwise: float) -> Laid:
        return self.algebra.choose(self.live, x, self.algebra.number(otherwise))

    def cleared(self, x: Laid, of: Sequence[Factor]) -> Laid:
        """0 beyond the end, where slices are."""
        slices, maker = set(self.affine.loop.slices), self.affine.maker

        def is_slice(v: Operand) -> bool:
            while isinstance(v, Value) and v not in slices and (op := maker.get(v)) is not None:
                if len(op.operands) != 1 or (op.record.kind is not Kind.VIEW and op.record.law is not Law.SAME):
                    return False
                v = op.operands[0]
            return v in slices

        return x if of and all(is_slice(f.value) for f in of) else self.alive(x, 0.0)

    def waits(self, part: Part) -> bool:
        return any(f.value in self.affine.dependent for f in part.u)

    def values(self, carry: int, part: Part) -> Laid:
        """The ``u`` of a part with its sign."""
        return self.cleared(self.signed(self.product(part.u, carry), part), part.u)

    def signed(self, x: Laid, part: Part) -> Laid:
        return Laid(self.algebra.emit("neg", x.value), x.labels) if part.negative else x

    # -- reads

    def read(self, read: Read) -> Value:
        """What a read gives in all rows, of the parts whose values are known."""
        a, linear = self.algebra, read.linear
        a.span, a.dtype = read.op.span, read.op.result.type.dtype
        total = self.start(read)
        keep = {c for c in read.labels if c is not None}
        for part in self.affine.next(linear.carry).parts:
            key = linear.carry, part.number
            if key in self.u:
                met = a.sum(self.weights(read, part), self.u[key].as_earlier(), {ROW, *keep})
                total = a.join("add", total, met)
        for part in linear.parts:
            if not self.joins(read, part) and (not self.waits(part) or self.known(part)):
                total = a.join("add", total, self.local(read, part))
        dims = (Dim.const(a.count), *read.op.result.type.dims)
        return a.shaped(total, (ROW, *read.labels), dims)

    def known(self, part: Part) -> bool:
        return all(f.value in self.algebra.made or f.value not in self.affine.dependent for f in part.u)

    def weight(self, read: Read) -> Laid:
        """What a read multiplies the carry by that the step found."""
        found = self.product((*read.w, *read.linear.scale), read.linear.carry)
        return self.whole(found, read.linear.carry)

    def whole(self, x: Laid, carry: int) -> Laid:
        """With rows and depth, even where it differs along neither."""
        a, depth = self.algebra, self.affine.depth[carry]
        dims: dict[Label, Dim] = {ROW: Dim.const(a.count), depth: self.affine.loop.carries[carry].type.dims[depth]}
        for label, d in dims.items():
            if label not in x.labels and d is not ONE:
                x = a.join("mul", x, a.filled(1.0, (label,), (d,), self.dtype(carry)))
        return x

    def start(self, read: Read) -> Laid:
        """A read of what the chunk began with."""
        a, n = self.algebra, read.linear.carry
        carry = self.carries[n]
        before = a.times([self.weight(read), self.decays[n].until[-1]])
        assert before is not None
        return a.sum(before, Laid(carry, labels_of(carry.type)), {ROW, *(c for c in read.labels if c is not None)})

    def joins(self, read: Read, part: Part) -> bool:
        """Is what the step itself adds read like that of the rows before it, so that it needs no sum of its own?"""
        n = read.linear.carry
        deep = any(self.affine.depth[n] in f.labels for f in read.linear.scale)
        deep = deep or self.decays[n].is_deep(self.affine.depth[n])
        return not deep and part in self.affine.next(n).parts and (n, part.number) in self.u

    def weights(self, read: Read, part: Part) -> Laid:
        """How much of the values of an earlier row a row reads."""
        a, n = self.algebra, read.linear.carry
        depth, k = self.affine.depth[n], self.k[n, part.number].as_earlier()
        decays = self.decays[n]
        keep = {c for c in (ROW, EARLIER, *self.weight_labels(read, k)) if c != depth}
        if decays.is_deep(depth) or any(depth in f.labels for f in read.linear.scale):
            w = self.weight(read)

            def pair(until: Laid | None, after: Laid | None) -> Laid:
                left, right = a.times([w, until]), a.times([k, after])
                assert left is not None and right is not None
                return a.sum(left, right, keep)

            return decays.between(pair)
        w = self.whole(self.product(read.w, n), n)
        met = a.sum(w, k, keep)
        scale = self.factor(read.linear.scale)
        if decays.factor is None and scale is None:
            later = "ge" if self.joins(read, part) and part in read.linear.parts else "gt"
            return a.choose(a.join(later, a.rows(), a.rows(EARLIER)), met, a.number(0.0))
        between = decays.between(lambda until, after: a.times([scale, until, after]))
        if self.joins(read, part) and part in read.linear.parts:
            between = a.choose(a.join("eq", a.rows(), a.rows(EARLIER)), a.number(1.0), between)
        return a.join("mul", met, between)

    def weight_labels(self, read: Read, k: Laid) -> set[Label | None]:
        return {c for f in (*read.w, *read.linear.scale) for c in f.labels} | set(k.labels)

    def local(self, read: Read, part: Part) -> Laid:
        """A read of what the step itself has added."""
        a, n = self.algebra, read.linear.carry
        u = self.signed(self.product(part.u, n), part)
        return a.join("mul", self.touch(read, part), u)

    def touch(self, read: Read, part: Part) -> Laid:
        """The sum over the depth of ``w`` and ``k`` of one row."""
        a, n = self.algebra, read.linear.carry
        w, k = self.whole(self.product(read.w, n), n), self.product(part.k, n)
        keep = {c for c in (*w.labels, *k.labels, ROW) if c != self.affine.depth[n]}
        return a.sum(w, k, keep)

    # -- what the chunk leaves

    def carried(self, n: int, parts: Sequence[Part]) -> Value:
        a, carry = self.algebra, self.carries[n]
        a.dtype = carry.type.dtype
        labels = labels_of(carry.type)
        total = Laid(carry, labels)
        decays = self.decays[n]
        scaled = a.times([total, decays.whole])
        assert scaled is not None
        total = scaled
        for part in parts:
            after = a.times([self.k[n, part.number], decays.after[-1]])
            assert after is not None
            made = a.sum(after, self.u[n, part.number], {c for c in labels if c is not None})
            total = a.join("add", total, made, fixed=[c for c in labels if c is not None])
        return a.shaped(total, labels, carry.type.dims)

    # -- rows that need the ones before

    def substitute(self, late: Sequence[tuple[int, Part]]) -> None:
        """Find the values of parts that depend on reads, row after row."""
        found = Substitution(self, late).run()
        for (n, part), v in zip(late, found, strict=True):
            self.u[n, part.number] = v


@dataclass
class Substitution:
    """A scan over the rows of a chunk. It carries the values of the rows so far, 0 in the others."""

    chunk: Chunk
    late: Sequence[tuple[int, Part]]
    #: What is cut into rows, and its rows in the step.
    xs: dict[Value, Value] = field(default_factory=dict)

    def run(self) -> list[Laid]:
        c, outer = self.chunk, self.chunk.algebra
        wanted = [f.value for _, p in self.late for f in p.u if isinstance(f.value, Value)]
        ops = [op for op in c.behind(wanted, set()) if op.results[0] in c.affine.dependent]
        reads = [c.affine.reads[op.result] for op in ops if op.result in c.affine.reads]
        inside = {r for op in ops for r in op.results}
        given = {v for op in ops if op.result not in c.affine.reads for v in op.inputs if v not in inside}
        given |= {v for v in wanted if v not in inside}
        for read in reads:
            given |= {f.value for f in (*read.w, *read.linear.scale) if isinstance(f.value, Value)}
            given |= {f.value for p in read.linear.parts for f in p.k if isinstance(f.value, Value)}
        c.ensure(v for v in given)
        bases = {r: c.read(r) for r in reads}
        weights = {(r, n, p.number): c.weights(r, p) for r in reads for n, p in self.late if n == r.linear.carry}
        touches = {(r, p.number): c.touch(r, p) for r in reads for p in r.linear.parts if c.waits(p)}
        step = Algebra(Builder(outer.build.cast, outer.build.context, [], outer.build.names), outer.count)
        env = {v: self.part(outer.made[v]) for v in given if v in outer.made}
        here = self.part(outer.rows().value)
        live = self.part(c.live.value)
        held = self.held(wanted)
        carries = [Value(outer.build.fresh("rows"), v.type) for v in held]
        step.made = {}
        row = _Row(self, step, env, bases, weights, touches, carries)
        for op in ops:
            row.take(op)
        yields = [row.place(n, p, carry, here, live) for (n, p), carry in zip(self.late, carries, strict=True)]
        body = Block(tuple(step.build.ops), (*carries, *self.xs.values()), tuple(yields))
        results = tuple(Value(outer.build.fresh("corrected"), v.type) for v in held)
        attrs = {"carries": len(held), "dim": 0, "reverse": False}
        given_ = (*held, *self.xs, *outer_values(body))
        outer.build.ops.append(Operation(SCAN, given_, results, attrs, outer.span, body=body))
        return [Laid(v, (ROW, *self.labels(n))) for v, (n, _) in zip(results, self.late, strict=True)]

    def part(self, v: Operand) -> Value:
        """A row of a value, in the step."""
        assert isinstance(v, Value) and isinstance(v.type, TensorType)
        if v not in self.xs:
            kind = v.type.with_dims(v.type.dims[1:])
            self.xs[v] = Value(self.chunk.algebra.build.fresh(f"{v.name}_t"), kind)
        return self.xs[v]

    def labels(self, n: int) -> tuple[Label, ...]:
        """The axes of the values of a carry's parts: all but the depth."""
        depth = self.chunk.affine.depth[n]
        return tuple(c for c in labels_of(self.chunk.affine.loop.carries[n].type) if c is not None and c != depth)

    def held(self, wanted: Sequence[Value]) -> list[Value]:
        a, loop = self.chunk.algebra, self.chunk.affine.loop
        found = []
        for n, _ in self.late:
            kind = loop.carries[n].type
            dims = (Dim.const(a.count), *(kind.dims[c] for c in self.labels(n)))  # type: ignore[index]
            found.append(a.emit("full", Literal(0.0), shape=dims, dtype=kind.dtype))
        return found


@dataclass
class _Row:
    """One row of a substitution."""

    whole: Substitution
    algebra: Algebra
    env: dict[Value, Value]
    bases: dict[Read, Value]
    weights: dict[tuple[Read, int, int], Laid]
    touches: dict[tuple[Read, int], Laid]
    carries: Sequence[Value]

    def take(self, op: Operation) -> None:
        read = self.whole.chunk.affine.reads.get(op.results[0])
        if read is not None:
            self.env[op.result] = self.read(read)
            return
        operands = tuple(self.env.get(x, x) if isinstance(x, Value) else x for x in op.operands)
        if op.body is not None:
            raise NotRowwise(f"`{op.name}` in a step")
        results = tuple(Value(self.algebra.build.fresh(r.name), r.type) for r in op.results)
        self.algebra.build.ops.append(replace(op, operands=operands, results=results))
        self.env.update(zip(op.results, results, strict=True))

    def read(self, read: Read) -> Value:
        a, w = self.algebra, self.whole
        n, keep = read.linear.carry, {c for c in read.labels if c is not None}
        total = Laid(w.part(self.bases[read]), read.labels)
        for (m, p), carry in zip(w.late, self.carries, strict=True):
            if m == n:
                weights = self.cut(self.weights[read, n, p.number])
                total = a.join("add", total, a.sum(weights, Laid(carry, (EARLIER, *w.labels(n))), keep))
        for p in read.linear.parts:
            if w.chunk.waits(p):
                total = a.join("add", total, a.join("mul", self.cut(self.touches[read, p.number]), self.value(n, p)))
        return a.shaped(total, read.labels, read.op.result.type.dims)

    def cut(self, x: Laid) -> Laid:
        """A row of what has rows first."""
        assert isinstance(x.value, Value)
        if ROW not in x.labels:
            return x
        to = order(x.labels)
        return Laid(self.whole.part(self.whole.chunk.algebra.arrange(x, to)), to[1:])

    def value(self, n: int, part: Part) -> Laid:
        """The values of a part in this row."""
        a = self.algebra
        values = [self.env.get(f.value, f.value) if isinstance(f.value, Value) else f.value for f in part.u]
        found = a.times(Laid(v, f.labels) for v, f in zip(values, part.u, strict=True))
        assert found is not None
        return Laid(a.emit("neg", found.value), found.labels) if part.negative else found

    def place(self, n: int, part: Part, carry: Value, here: Value, live: Value) -> Value:
        """The values of the rows so far with those of this one."""
        a = self.algebra
        a.dtype = carry.type.dtype
        labels = self.whole.labels(n)
        found = a.choose(Laid(live, ()), self.value(n, part), a.number(0.0))
        now = a.join("eq", a.rows(EARLIER), Laid(here, ()))
        new = a.choose(now, found, Laid(carry, (EARLIER, *labels)))
        return a.shaped(new, (EARLIER, *labels), carry.type.dims)


def in_chunks(loop: Loop, affine: Affine, rows: int, build: Builder) -> tuple[Operation, Operation]:
    """The scan with ``rows`` of its steps in each of its own, and before it what marks the rows that exist. Raises
    NotRowwise.
    """
    op, first = loop.op, loop.xs[0]
    whole = Builder(build.cast, build.context, [], build.names)
    places = (*(ONE,) * loop.dim, loop.size)
    marks = Algebra(whole, rows, span=op.span).emit("full", Literal(True), hint="exists", shape=places, dtype=bool_)
    algebra = Algebra(Builder(build.cast, build.context, [], build.names), rows, span=op.span)
    carries = [Value(algebra.build.fresh(c.name), c.type) for c in loop.carries]
    params = []
    for x, old in zip((*loop.xs, marks), (*loop.slices, None), strict=True):
        kind = x.type
        assert isinstance(kind, TensorType)
        dims = (*kind.dims[: loop.dim], Dim.const(rows), *kind.dims[loop.dim + 1 :])
        param = Value(algebra.build.fresh(f"{old.name}s" if old else "exist"), kind.with_dims(dims))
        params.append(param)
        turn = (loop.dim, *(n for n in range(kind.rank) if n != loop.dim))
        first = algebra.emit("permute", param, dims=turn) if loop.dim else param
        if old is not None:
            algebra.made[old] = first
    live = algebra.bare(Laid(first, (ROW, *(None,) * loop.dim)))
    yields = Chunk(affine, algebra, carries, live).write()
    body = Block(tuple(algebra.build.ops), (*carries, *params), tuple(yields))
    given = (*loop.init, *loop.xs, marks, *outer_values(body))
    attrs = {**op.attrs, "rows": rows}
    return whole.ops[0], replace(op, operands=given, attrs=attrs, body=body)


__all__ = ["in_chunks"]
