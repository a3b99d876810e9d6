"""Reverse-mode derivatives: a function becomes one that gives its results and the cotangents of its parameters.

The derivative of an operation stands in its record, the derivative of a scan is a scan the other way; this file only
walks backwards and adds up.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tessera.diag import Diagnostic, Label, TraceError
from tessera.ir.build import Builder
from tessera.ir.derive import Derivative, Point, Undifferentiable, cut, like, zero
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.facts import Facts
from tessera.ir.graph import Block, Function, Note, Obligation, Operand, Operation, Value, walk
from tessera.ir.infer import InferContext
from tessera.ir.loop import Loop, outer_values
from tessera.ir.origin import of_gradient
from tessera.ir.types import TensorType
from tessera.passes.shapes import learn


@dataclass(frozen=True, slots=True)
class Joint:
    """A function with its derivative: ``outputs`` results as before, then the cotangents that there are. ``grads`` has,
    for each parameter of the original function, the number of its output, or None; ``given`` are the numbers of the
    results whose cotangents are parameters, in order, behind the original parameters.
    """

    function: Function
    outputs: int
    grads: tuple[int | None, ...]
    given: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Autodiff:
    """Add a cotangent parameter for every float result, and the cotangents of the parameters ``wrt`` as results.

    Without names these are all float tensors. Raises TraceError (TSR0413) for an operation without a derivative.
    """

    wrt: tuple[str, ...] = ()
    name: str = "autodiff"

    def run(self, f: Function) -> Function:
        return joint(f, self.wrt).function


def is_float(x: Operand) -> bool:
    """May a value have a cotangent?"""
    return isinstance(x, Value) and isinstance(x.type, TensorType) and x.type.dtype.is_float


def joint(f: Function, wrt: Sequence[str] = (), apart: Collection[int] = ()) -> Joint:
    """A function together with its derivative by the parameters of these names, or by all float tensors. The results
    with the numbers ``apart`` get no cotangents.
    """
    wanted = [p for p in f.params if is_float(p) and (not wrt or p.name in wrt)]
    names = dict.fromkeys(_names(f), 0)
    builder = Builder(OPS["cast"], _context(f), [], names)
    walker = _Reverse(builder)
    active, linked = reached(f.ops, wanted), reached(f.ops, wanted, (cut,))
    ops = tuple(walker.kept(op) if op.body is not None and _touched(op, active) else op for op in f.ops)
    given, cotangents = [], []
    for n, y in enumerate(f.outputs):
        if is_float(y) and y in linked and n not in apart:
            assert isinstance(y, Value)
            cotangent = Value(builder.fresh(f"d_{y.name}"), y.type)
            given.append(n)
            cotangents.append(cotangent)
            walker.give(y, cotangent)
    walker.run(ops, active)
    before = _leading(f.ops, linked, [f.outputs[n] for n in given])
    found = [walker.of(p) or (walker.nothing(p) if p in before else None) if p in wanted else None for p in f.params]
    outputs = (*f.outputs, *(g for g in found if g is not None))
    numbers = iter(range(len(f.outputs), len(outputs)))
    grads = tuple(None if g is None else next(numbers) for g in found)
    body = Block((*ops, *builder.ops), (*f.params, *cotangents), outputs)
    text = f"{len(outputs) - len(f.outputs)} cotangents by {len(builder.ops)} operations"
    made = replace(f, body=body, obligations=tuple(builder.context.obligations.values()))
    return Joint(made.with_note(Note("autodiff", 0.0, text)), len(f.outputs), grads, tuple(given))


def append(builder: Builder, mark: int, y: Value, wanted: Sequence[Value]) -> list[Value]:
    """Append to a function under construction the derivative of the number ``y`` by some values, through the operations
    from number ``mark`` on. Raises TraceError (TSR0413) for an operation without a derivative.
    """
    walker = _Reverse(builder)
    active = reached(builder.ops[mark:], wanted)
    ops = [walker.kept(op) if op.body is not None and _touched(op, active) else op for op in builder.ops[mark:]]
    builder.ops[mark:] = ops
    builder.context.span = next((op.span for op in reversed(ops) if y in op.results), None)
    if y in active:
        walker.give(y, walker.t.ones_like(Sym(walker.t, y)).value)
        walker.run(ops, active)
    found = [walker.of(v) for v in wanted]
    return [
        walker.t.zeros_like(Sym(walker.t, v)).value if g is None else g for v, g in zip(wanted, found, strict=True)
    ]


def _names(f: Function) -> Iterable[str]:
    yield from (p.name for p in f.params)
    for op in walk(f.body):
        yield from (r.name for r in op.results)
        if op.body is not None:
            yield from (p.name for p in op.body.params)


def _context(f: Function) -> InferContext:
    """What the function needs of its sizes is known to hold where its derivative is taken."""
    facts, known = Facts(), dict[tuple[str, Any, Any], Obligation]()
    for o in f.obligations:
        known[(o.kind, o.left, o.right)] = o
        facts = learn(facts, o)
    filled = {str(d) for p in f.params for d in p.type.dims if d.is_name}
    return InferContext(facts, known, filled=filled)


def reached(
    ops: Iterable[Operation], wanted: Iterable[Value], without: Collection[Derivative] = (zero, cut)
) -> set[Value]:
    """The float values that depend on some values by way of floats, and not through derivatives of these kinds."""
    active = set(wanted)
    for op in ops:
        if op.record.derivative not in without and _touched(op, active):
            active.update(r for r in op.results if is_float(r))
    return active


def _leading(ops: Sequence[Operation], linked: set[Value], outputs: Iterable[Operand]) -> set[Operand]:
    """The values of ``linked`` that some outputs are computed from; the slope may be 0 everywhere. Which of its
    operands a scan computes with only its derivative says.
    """
    found = set(outputs)
    for op in reversed(ops):
        if op.body is None and op.record.derivative is not cut and any(r in found for r in op.results):
            found.update(v for v in op.inputs if v in linked)
    return found


def _touched(op: Operation, active: set[Value]) -> bool:
    return any(v in active for v in op.inputs)


@dataclass
class _Reverse:
    """One walk backwards; the operations of it are appended to the builder."""

    builder: Builder
    sums: dict[Value, Sym] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.t = Ops(self.builder, OPS)

    def give(self, v: Value, cotangent: Value) -> None:
        """The cotangent of a value to start from."""
        self.sums[v] = Sym(self.t, cotangent) if v not in self.sums else self.t.add(self.sums[v], cotangent)

    def of(self, v: Value) -> Value | None:
        found = self.sums.get(v)
        return None if found is None else found.value

    def nothing(self, v: Value) -> Value:
        """A cotangent of zeros."""
        found: Value = self.t.zeros_like(Sym(self.t, v)).value
        return found

    def run(self, ops: Sequence[Operation], active: set[Value]) -> None:
        for op in reversed(ops):
            cotangents = tuple(self.sums.get(r) for r in op.results)
            needs = tuple(isinstance(x, Value) and x in active for x in op.operands)
            if not any(needs) or all(c is None for c in cotangents):
                continue
            self.builder.context.span = op.span
            self.t.origin = of_gradient(op)
            try:
                parts = self.step(op, cotangents, needs)
            except Undifferentiable as error:
                raise no_derivative(error) from None
            for x, needed, g in zip(op.operands, needs, parts, strict=True):
                if needed and g is not None and isinstance(x, Value):
                    self.add(x, g)

    def step(self, op: Operation, cotangents: tuple[Any, ...], needs: tuple[bool, ...]) -> Sequence[Any]:
        if op.body is not None:
            if op.attrs.get("rows"):  # steps are taken many at a time after derivatives, never before
                raise Undifferentiable(op)
            return _Backwards(self, op, cotangents, needs).parts()
        if op.record.derivative is None:
            raise Undifferentiable(op)
        inputs = tuple(self.symbol(x) for x in op.operands)
        outputs = tuple(Sym(self.t, r) for r in op.results)
        if cotangents[0] is None:  # such as a position beside a value: a float result that nobody reads
            cotangents = (self.t.zeros_like(outputs[0]), *cotangents[1:])
        return op.record.derivative(Point(self.t, op, inputs, outputs, cotangents, needs))

    def symbol(self, x: Operand) -> Any:
        return Sym(self.t, x) if isinstance(x, Value) else x.value

    def add(self, x: Value, g: Any) -> None:
        """One more part of a cotangent. What was repeated to meet others is summed."""
        assert isinstance(x.type, TensorType)
        g = g if isinstance(g, Sym) else self.t.full((), g)
        g = like(self.t, self.t.cast(g, x.type.dtype), x.type)
        known = self.sums.get(x)
        total = g if known is None else self.t.add(known, g)
        if self.builder.ops and total.value in self.builder.ops[-1].results:
            total.value.name = self.builder.fresh(f"d_{x.name}")
        self.sums[x] = total

    # -- scans -----------------------------------------------------------------------------------------------------

    def kept(self, op: Operation) -> Operation:
        """A scan that also stacks the carries that each step begins with."""
        loop = Loop.of(op)
        stacks = tuple(
            Value(self.builder.fresh(f"{p.name}_kept"), TensorType(p.type.dtype, (loop.size, *p.type.dims)))
            for p in loop.carries
        )
        body = replace(loop.body, yields=(*loop.body.yields, *loop.carries))
        return replace(op, results=(*op.results, *stacks), body=body)


@dataclass
class _Backwards:
    """The derivative of a scan: a scan from the other end, which carries the cotangents of the carries and the sums of
    those of what the steps read outside. A step is computed again from the carries that it began with.
    """

    outer: _Reverse
    op: Operation
    cotangents: tuple[Any, ...]
    needs: tuple[bool, ...]

    def parts(self) -> list[Any]:
        t, builder = self.outer.t, self.outer.builder
        loop = Loop.of(self.op)
        carries, count = len(loop.carries), len(loop.body.params)
        own = len(loop.ys) - carries  # the stacks that the user asked for, before the kept carries
        floats = [n for n, p in enumerate(loop.carries) if is_float(p)]
        ys = [n for n in range(own) if self.cotangents[carries + n] is not None]
        read = [n for n, needed in enumerate(self.needs[count:]) if needed]
        scanned = [n for n, needed in enumerate(self.needs[carries:count]) if needed]

        names: dict[Value, Value] = {}
        body = _Body(builder, names)
        start = [self.cotangents[n] if self.cotangents[n] is not None else t.zeros_like(Sym(t, loop.last[n]))
                 for n in floats]  # fmt: skip
        start += [t.zeros_like(Sym(t, loop.captured[n])) for n in read]  # type: ignore[arg-type]
        d_next = [body.param(f"d_{loop.carries[n].name}", loop.carries[n]) for n in floats]
        sums = [body.param(f"d_{loop.captured[n].name}", loop.captured[n]) for n in read]  # type: ignore[union-attr]
        kept = [body.renamed(p) for p in loop.carries]
        slices = [body.renamed(p) for p in loop.slices]
        d_ys = [body.param("d_y", loop.ys[n]) for n in ys]

        front = [t.movedim(Sym(t, x), loop.dim, 0) if loop.dim else Sym(t, x) for x in loop.xs]  # type: ignore[arg-type]
        xs = [*(Sym(t, v) for v in loop.stacks[own:]), *front, *(self.cotangents[carries + n] for n in ys)]
        reverse = body.reverse(loop.body.ops)
        for n, g in zip(floats, d_next, strict=True):
            reverse.begin(loop.next[n], g)
        for n, g in zip(ys, d_ys, strict=True):
            reverse.begin(loop.ys[n], g)
        wrt = [*(loop.carries[n] for n in floats), *(loop.slices[n] for n in scanned)]
        wrt += [loop.captured[n] for n in read]  # type: ignore[misc]
        reverse.finish(wrt)
        after = [reverse.cotangent(loop.carries[n]) for n in floats]
        after += [reverse.plus(g, loop.captured[n]) for n, g in zip(read, sums, strict=True)]
        stacked = [reverse.cotangent(loop.slices[n]) for n in scanned]

        block = Block(tuple(body.ops), (*d_next, *sums, *kept, *slices, *d_ys), (*after, *stacked))
        results = [Value(builder.fresh(g.name), g.type) for g in (*d_next, *sums)]
        results += [
            Value(builder.fresh(f"d_{loop.slices[n].name}"), TensorType(v.type.dtype, (loop.size, *v.type.dims)))
            for n, v in zip(scanned, stacked, strict=True)
        ]
        given = [x.value for x in (*start, *xs)]
        attrs = {"carries": len(start), "dim": 0, "reverse": not loop.reverse}
        operands = (*given, *outer_values(block))
        builder.ops.append(Operation(self.op.record, operands, tuple(results), attrs, self.op.span, t.origin, block))

        found: list[Any] = [None] * len(self.op.operands)
        made = iter([Sym(t, v) for v in results])
        for n in (*floats, *(count + n for n in read)):
            found[n] = next(made)
        for n, part in zip(scanned, made, strict=True):
            found[carries + n] = t.movedim(part, 0, loop.dim) if loop.dim else part
        return found


@dataclass
class _Body:
    """The step of a backward scan under construction: the step itself once more, under other names, and its derivative.
    """

    outer: Builder
    names: dict[Value, Value]

    def __post_init__(self) -> None:
        self.builder = Builder(self.outer.cast, self.outer.context, [], self.outer.names)
        self.ops = self.builder.ops
        self.walker = _Reverse(self.builder)

    def param(self, hint: str, like_: Operand) -> Value:
        return Value(self.builder.fresh(hint), like_.type)

    def renamed(self, v: Value) -> Value:
        made = self.names[v] = Value(self.builder.fresh(v.name), v.type)
        return made

    def now(self, x: Operand) -> Operand:
        return self.names.get(x, x) if isinstance(x, Value) else x

    def copied(self, block: Block) -> Block:
        """A block with its values under other names."""
        params = tuple(self.renamed(p) for p in block.params)
        return Block(tuple(self.copy(op) for op in block.ops), params, tuple(self.now(x) for x in block.yields))

    def copy(self, op: Operation) -> Operation:
        operands = tuple(self.now(x) for x in op.operands)
        body = None if op.body is None else self.copied(op.body)
        return replace(op, operands=operands, results=tuple(self.renamed(r) for r in op.results), body=body)

    def reverse(self, ops: Sequence[Operation]) -> _Body:
        self.forward = tuple(self.copy(op) for op in ops)
        return self

    def begin(self, x: Operand, g: Value) -> None:
        v = self.now(x)
        if isinstance(v, Value):
            self.walker.give(v, g)

    def finish(self, wrt: Sequence[Value]) -> None:
        wanted = [v for v in map(self.now, wrt) if isinstance(v, Value)]
        active = reached(self.forward, wanted)
        before = [self.walker.kept(op) if op.body is not None and _touched(op, active) else op for op in self.forward]
        late = list(self.ops)  # what adding up the first cotangents took
        self.ops[:] = [*before, *late]
        self.walker.run(before, active)

    def cotangent(self, v: Value) -> Value:
        x = self.now(v)
        assert isinstance(x, Value)
        found = self.walker.of(x)
        return self.walker.nothing(x) if found is None else found

    def plus(self, g: Value, v: Operand) -> Value:
        x = self.now(v)
        assert isinstance(x, Value)
        found = self.walker.of(x)
        if found is None:
            return g
        total: Value = self.walker.t.add(Sym(self.walker.t, g), found).value
        return total


def no_derivative(error: Undifferentiable) -> TraceError:
    """TSR0413 at the operation, and the operand, that cotangents do not go through."""
    op = error.op
    name = op.origin or op.name
    which = "" if error.operand is None else f" with respect to operand {error.operand + 1}"
    label = () if op.span is None else (Label(op.span, f"`{name}`, through which a gradient goes", True),)
    return TraceError.from_diagnostics([Diagnostic("TSR0413", f"`{name}` has no derivative{which}", label)])


__all__ = ["Autodiff", "Joint", "append", "is_float", "joint", "reached"]
