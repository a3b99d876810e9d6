"""Steps of a scan that are taken many at a time, where their algebra allows it and the machine gains by it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dim import product
from tessera.ir.flops import op_flops
from tessera.ir.graph import Block, Function, Note, Operation, Value, walk
from tessera.ir.loop import Loop
from tessera.ir.record import Kind
from tessera.passes.affine import Affine, NotAffine
from tessera.passes.chunks import in_chunks
from tessera.passes.cse import CommonSubexpressions
from tessera.passes.dce import sweep
from tessera.passes.rowwise import NotRowwise

#: What a size that is not known is taken to be, and the number of slices.
USUAL, LONG = 64, 4096


@dataclass(frozen=True, slots=True)
class Speeds:
    """What decides between the forms of a recurrence: arithmetic in a nanosecond that one program does, of elementwise
    work and sums, of products of matrices, and the nanoseconds that it waits for each of these before it goes on.
    ``rows`` are the lengths of chunks that the machine's products are made for; ``narrow`` says that only numbers of 16
    bits have fast ones, so that products of f32 are no reason to take steps together.
    """

    name: str
    plain: float
    products: float
    wait: float
    rows: tuple[int, ...]
    narrow: bool = False


@dataclass(frozen=True, slots=True)
class Work:
    """What one slice takes: arithmetic outside of products of matrices and in them, and how often it waits."""

    plain: float
    products: float
    waits: float

    def time(self, speeds: Speeds) -> float:
        """In nanoseconds."""
        return self.plain / speeds.plain + self.products / speeds.products + self.waits * speeds.wait


#: One core with vectors of 16 floats: in a step and in the sums of a chunk it does about as much.
CPU = Speeds("a processor", 60.0, 60.0, 0.0, (16,))
#: One of the 132 units of a large GPU: what a step leaves is a sum over threads away from the next one.
GPU = Speeds("a GPU", 400.0, 1200.0, 100.0, (16,), narrow=True)


@dataclass(frozen=True, slots=True)
class Chunk:
    """Take several steps of each affine recurrence at a time, as products of matrices (see ``chunks``): ``rows`` of
    them, or as many as are the fastest by ``speeds`` where that is 0.
    """

    name: str = "chunk"
    rows: int = 0
    speeds: Speeds = CPU

    def run(self, f: Function) -> Function:
        found: list[str] = []
        ops: list[Operation] = []
        for op in f.ops:
            if op.record.kind is Kind.CONTROL and op.body is not None and not op.attrs.get("rows"):
                ops.extend(self.rewritten(f, op, found))
            else:
                ops.append(op)
        if not found:
            return f
        changed = len(ops) - len(f.ops)
        text = f"{changed} of {len(found)} scans in chunks" if changed else "no scan in chunks"
        return f.with_ops(tuple(ops)).with_note(Note(self.name, 0.0, text, tuple(found)))

    def rewritten(self, f: Function, op: Operation, found: list[str]) -> tuple[Operation, ...]:
        """The scan, and what comes before it, in the best of its forms; adds a line about it to ``found``."""
        loop, label = Loop.of(op), f"scan %{op.results[-1].name}"
        try:
            affine = Affine.of(loop)
            made = [(n, in_chunks(loop, affine, n, Builder(OPS["cast"], names=_names(f)))) for n in self.lengths()]
        except (NotAffine, NotRowwise) as why:
            found.append(f"{label} step by step: {why}")
            return (op,)
        made = [(n, (marks, _slim(chunks))) for n, (marks, chunks) in made]
        times = {n: work(chunks, affine).time(self.speeds) for n, (_, chunks) in made}
        alone = work(op, affine).time(self.speeds)
        best = min(times, key=times.__getitem__)
        figures = ", ".join(f"{t:.0f} ns in {n} steps at a time" for n, t in times.items())
        reason = f"{alone:.0f} ns a step on {self.speeds.name}, {figures}"
        wide = self.speeds.narrow and any(c.type.dtype.bits > 16 for c in loop.carries)
        reason += ", but only products of narrower numbers are that fast" if wide else ""
        if not self.rows and (wide or times[best] >= alone):
            found.append(f"{label} step by step: {reason}")
            return (op,)
        found.append(f"{label} takes {best} steps at a time: {reason}")
        return dict(made)[best]

    def lengths(self) -> tuple[int, ...]:
        return (self.rows,) if self.rows else self.speeds.rows


def _slim(op: Operation) -> Operation:
    """Without what is computed twice or for nobody."""
    inside = Function("body", Block((op,), (), op.results))
    (shared,) = CommonSubexpressions().run(inside).ops
    assert shared.body is not None
    ops, _ = sweep(shared.body.ops, shared.body.yields)
    return replace(shared, body=replace(shared.body, ops=ops))


def work(op: Operation, affine: Affine) -> Work:
    """What one slice of a scan takes, of one point of the axes that all of its values have, for usual sizes."""
    loop = Loop.of(op)
    sizes = {n: 1 for v in _values(op) for d in v.type.dims for n in d.names()}
    points = 1
    for n, c in enumerate(loop.carries):
        own = {affine.depth[n], *affine.columns[n]}
        sizes.update((name, USUAL) for axis in own for name in c.type.dims[axis].names())
        points = max(points, product(d for axis, d in enumerate(c.type.dims) if axis not in own).evaluate(sizes))
    sizes.update(dict.fromkeys(loop.size.names(), LONG))
    rows = max(loop.rows, 1)
    # Without columns a program has several points instead, which share nothing of what the rows of a chunk have.
    matrices = any(affine.columns)
    share = rows * points if matrices else rows * points / USUAL
    plain, products, waits = _of(loop, sizes, bool(loop.rows) and matrices)
    return Work(plain / share, products / share, waits / rows)


def _of(loop: Loop, sizes: Mapping[str, int], rows: bool) -> tuple[float, float, float]:
    """The same of one step, and how many sums follow on each other in it."""
    plain = products = 0.0
    level: dict[Value, float] = {}
    for op in loop.body.ops:
        before = max((level.get(v, 0.0) for v in op.inputs), default=0.0)
        if op.record.kind is Kind.CONTROL and op.body is not None:
            inner = Loop.of(op)
            more, _, waits = _of(inner, sizes, False)
            count = inner.count.evaluate(sizes)
            plain, before = plain + more * count, before + waits * count
        else:
            flops = float(op_flops(op).evaluate(sizes))
            joins = op.record.kind in (Kind.CONTRACT, Kind.REDUCE)
            if rows and op.record.kind is Kind.CONTRACT:
                products += flops
            else:
                plain += flops
            before += joins
        level.update(dict.fromkeys(op.results, before))
    return plain, products, max([1.0, *level.values()])


def _values(op: Operation) -> list[Value]:
    found = [*op.inputs, *op.results]
    for inner in walk(Block((op,))):
        found += [*inner.inputs, *inner.results]
    return found


def _names(f: Function) -> dict[str, int]:
    """The names that are taken."""
    found = {p.name: 0 for p in f.params}
    for op in walk(f.body):
        found.update((r.name, 0) for r in op.results)
        if op.body is not None:
            found.update((p.name, 0) for p in op.body.params)
    return found
