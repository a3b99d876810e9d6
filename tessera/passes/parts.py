"""A block program with its operations on blocks in parts, each of which becomes kernels of its own.

What a memory operation, a condition or a nested block needs is computed just before it, together with all that this
needs and nothing else has needed so far. Functions of the position and views are part of everything that reads them.
Behind this pass a program consists of control, fetches, puts, local memory and numbers, and of parts: a copy from
memory to memory is a fetch and a put, a put gives the dtype and the dims of what it writes to, and what loops and
choices pass on are values.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from tessera.diag import Label, TraceError
from tessera.ir.access import accesses
from tessera.ir.build import names_of, numbered
from tessera.ir.dialects import OPS
from tessera.ir.dialects.block import (
    CASE,
    CHOOSE,
    DEBUG_PRINT,
    EACH,
    FETCH,
    FILLED,
    LOOP,
    NUMBER,
    PART,
    PUT,
    SEND,
    WAIT,
)
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import ZERO, Dim
from tessera.ir.dtype import bool_, int64
from tessera.ir.facts import Facts
from tessera.ir.graph import Attr, Block, Function, Literal, Note, Operand, Operation, Value, dims_in, walk
from tessera.ir.infer import ONE
from tessera.ir.solver import Verdict, judge_ge
from tessera.ir.types import BufferType, ScalarType, TensorType
from tessera.ir.window import read, shape
from tessera.passes.grouping import is_free

_NESTED = frozenset({EACH, LOOP, CHOOSE})


@dataclass(frozen=True, slots=True)
class Parts:
    """Bring the operations on blocks into parts."""

    name: str = "parts"

    def run(self, f: Function) -> Function:
        if any(op.record is PART for op in walk(f.body)):
            return f
        writer = _Writer(names_of(f))
        body = _trimmed(_Body(writer, {}).run(f.body))
        count = sum(op.record is PART for op in walk(body))
        return replace(f, body=body).with_note(Note(self.name, 0.0, f"{count} parts"))


@dataclass
class _Writer:
    """What all blocks of a program share."""

    names: set[str]
    #: What stands in the place of a value from here on.
    now: dict[Value, Operand] = field(default_factory=dict)
    #: Axes of loops whose values may be negative, which sizes never are.
    signed: set[str] = field(default_factory=set)

    def value(self, name: str, kind: TensorType) -> Value:
        return Value(numbered(f"{name}_p", self.names), kind)

    def read(self, x: Operand) -> Operand:
        while isinstance(x, Value) and x in self.now:
            x = self.now[x]
        return x


@dataclass
class _Body:
    """The state of rewriting one block. ``free`` are operations that may stand in any part, by what they give."""

    writer: _Writer
    free: dict[Value, Operation]
    out: list[Operation] = field(default_factory=list)
    #: Operations that nothing has needed so far, by what they give.
    pending: dict[Value, Operation] = field(default_factory=dict)
    #: Free values that lie in memory already.
    placed: set[Value] = field(default_factory=set)

    def run(self, block: Block, kinds: Sequence[TensorType] = ()) -> Block:
        """The block rewritten; it yields values of these types."""
        for op in block.ops:
            self.visit(op.with_operands(tuple(map(self.writer.read, op.operands))))
        last = block.ops[-1] if block.ops else None
        yields: tuple[Operand, ...] = tuple(
            self.value(self.writer.read(y), kind, last) for y, kind in zip(block.yields, kinds, strict=True)
        )
        self.need(yields)
        # What nobody reads is still refused where it is out of bounds.
        self.need(r for op in self.pending.values() if checks(op) for r in op.results)
        return Block(tuple(self.out), block.params, yields)

    def visit(self, op: Operation) -> None:
        record = op.record
        if record is FILLED:
            self.writer.now[op.result] = op.operands[0]
        elif record in _NESTED:
            self.control(op)
        elif record is PUT:
            self.put(op)
        elif record is SEND:
            self.send(op)
        elif record in (FETCH, NUMBER):
            buffers, lookups = (op.operands[:1], op.operands[1:]) if record is FETCH else ((), op.operands)
            self.out.append(op.with_operands((*buffers, *self.lookups(lookups, op))))
        elif record is LOCAL:
            self.out.append(op)
        elif record is DEBUG_PRINT:
            raise _refused(op, "a program that prints")
        elif record is not WAIT:
            self.compute(op)

    # -- operations on blocks

    def compute(self, op: Operation) -> None:
        """An operation that waits until something needs it."""
        signed = self.writer.signed
        if any(not signed.isdisjoint(d.names()) for d in dims_in(op.attrs.values())):
            raise _refused(op, "a block that lies at a position which may be negative")
        op = op.with_operands(tuple(self.unsigned(x, op) for x in op.operands))
        if is_free(op):
            self.free[op.result] = op
        else:
            self.pending.update(dict.fromkeys(op.results, op))

    def unsigned(self, x: Operand, op: Operation) -> Operand:
        """A size expression that may be negative as a value, which is known to nobody beforehand."""
        if not isinstance(x, Literal) or not isinstance(x.value, Dim) or self.writer.signed.isdisjoint(x.value.names()):
            return x
        made = self.writer.value("number", TensorType(int64, ()))
        self.out.append(Operation(NUMBER, (), (made,), {"of": x.value}, op.span))
        return made

    def value(self, x: Operand, kind: TensorType, op: Operation | None) -> Value:
        """An operand as a value of that type in memory."""
        span = None if op is None else op.span
        if isinstance(x, Literal) or isinstance(x.type, ScalarType):
            made = self.writer.value("full", kind)
            attrs: dict[str, Attr] = {"shape": kind.dims, "dtype": kind.dtype}
            self.compute(Operation(OPS["full"], (x,), (made,), attrs, span))
            return made
        if x.type.dtype is not kind.dtype:
            made = self.writer.value(x.name, TensorType(kind.dtype, x.type.dims))
            self.compute(Operation(OPS["cast"], (x,), (made,), {"dtype": kind.dtype}, span))
            x = made
        lead = kind.rank - x.type.rank
        if lead or any(a is ONE is not b for a, b in zip(x.type.dims, kind.dims[lead:], strict=True)):
            made = self.writer.value(x.name, kind)
            self.compute(Operation(OPS["expand"], (x,), (made,), {"shape": kind.dims}, span))
            x = made
        return x

    def need(self, values: Iterable[Operand]) -> None:
        """Compute what waits of these values, as one part."""
        roots = [v for v in dict.fromkeys(values) if isinstance(v, Value) and self.waits(v)]
        if not roots:
            return
        inside: dict[Operation, None] = {}
        stack = list(roots)
        while stack:
            v = stack.pop()
            op = self.pending.get(v) or (None if v in self.placed else self.free.get(v))
            if op is not None and op not in inside:
                inside[op] = None
                stack.extend(op.inputs)
        order = {op: n for n, op in enumerate((*self.free.values(), *dict.fromkeys(self.pending.values())))}
        ops = _ordered(sorted(inside, key=order.__getitem__))
        for op in ops:
            for r in op.results:
                self.pending.pop(r, None)
        self.placed.update(v for v in roots if v in self.free)
        self.out.append(self.part(ops, roots))

    def waits(self, v: Value) -> bool:
        return v in self.pending or (v in self.free and v not in self.placed)

    def part(self, ops: Sequence[Operation], roots: Sequence[Value]) -> Operation:
        """One part. Its results are found once all of the program is there; free ones have names of their own."""
        copies: dict[Value, Operand] = {}
        body: list[Operation] = []
        for op in ops:
            new = op.with_operands(tuple(copies.get(x, x) if isinstance(x, Value) else x for x in op.operands))
            if op.results[0] in self.free and op.result not in roots:
                made = self.writer.value(op.result.name, _tensor(op.result))
                copies[op.result] = made
                new = replace(new, results=(made,))
            body.append(new)
        inside = {r for op in body for r in op.results}
        reads = tuple(dict.fromkeys(v for op in body for v in op.inputs if v not in inside))
        mine = tuple(r for op in body for r in op.results)
        return Operation(PART, reads, mine, span=body[-1].span, body=Block(tuple(body)))

    # -- memory

    def lookups(self, given: Sequence[Operand], op: Operation) -> tuple[Value, ...]:
        found = tuple(self.value(x, TensorType(x.type.dtype, ()), op) for x in given)
        self.need(found)
        return found

    def put(self, op: Operation) -> None:
        buffer, x, *given = op.operands
        assert isinstance(buffer.type, BufferType)
        kind = TensorType(buffer.type.dtype, shape(read(op.attrs["at"])))
        value = self.value(x, kind, op)
        lookups = self.lookups(given, op)
        if op.attrs.get("adds"):
            there, total = self.writer.value("there", kind), self.writer.value("total", kind)
            self.out.append(Operation(FETCH, (buffer, *lookups), (there,), {"at": op.attrs["at"]}, op.span))
            self.compute(Operation(OPS["add"], (there, value), (total,), {}, op.span))
            value = total
        self.need((value,))
        self.out.append(op.with_operands((buffer, value, *lookups)))

    def send(self, op: Operation) -> None:
        """A copy, complete at once."""
        source, target, *given = op.operands
        assert isinstance(source.type, BufferType)
        rows = read(op.attrs["at"])
        value = self.writer.value("copied", TensorType(source.type.dtype, shape(rows)))
        self.visit(Operation(FETCH, (source, *given), (value,), {"at": op.attrs["at"]}, op.span))
        self.visit(Operation(PUT, (target, value, *given), (), {"at": op.attrs["to"]}, op.span))

    # -- control

    def control(self, op: Operation) -> None:
        if op.record is CHOOSE:
            operands: tuple[Value, ...] = (self.value(op.operands[0], TensorType(bool_, ()), op),)
        elif op.record is LOOP:
            assert op.body is not None
            params = op.body.params
            pairs = zip(op.operands, params, strict=False)
            operands = (*(self.value(x, _tensor(p), op) for x, p in pairs),
                        *self.lookups(op.operands[len(params) :], op))  # fmt: skip
        else:
            operands = self.lookups(op.operands, op)
        self.need((*operands, *self.read_inside(op)))
        axis = op.attrs.get("axis")
        if axis is not None and not self.known(op):
            self.writer.signed.add(str(axis))
        self.out.append(replace(op, operands=operands, body=self.nested(op)))
        self.writer.signed.discard(str(axis))

    def known(self, op: Operation) -> bool:
        """Are the values of a loop's axis sizes, which are never negative?"""
        (lo,) = dims_in([op.attrs["lo"]]) if isinstance(op.attrs["lo"], Dim) else (Dim.of(op.attrs["lo"]),)  # type: ignore[arg-type]
        unknown = any(n in self.writer.signed or n.startswith("_l") for n in lo.names())
        return not unknown and judge_ge(lo, ZERO, Facts()) is Verdict.PROVED

    def nested(self, op: Operation) -> Block:
        assert op.body is not None
        if op.record is not CHOOSE:
            kinds = [_tensor(p) for p in op.body.params]
            stops = [TensorType(bool_, ())] if op.attrs.get("stops") else []
            return _Body(self.writer, dict(self.free), placed=set(self.placed)).run(op.body, [*stops, *kinds])
        kinds = [_tensor(r) for r in op.results]
        cases: list[Operation] = []
        for case in op.body.ops:
            assert case.record is CASE and case.body is not None
            body = _Body(self.writer, dict(self.free), placed=set(self.placed)).run(case.body, kinds)
            cases.append(replace(case, body=body))
        return Block(tuple(cases))

    def read_inside(self, op: Operation) -> Iterator[Value]:
        """The values that the body of an operation reads and that wait to be computed, views looked through."""
        assert op.body is not None
        stack = [self.writer.read(x) for x in _reads(op.body)]
        seen: set[Value] = set()
        while stack:
            v = stack.pop()
            if not isinstance(v, Value) or v in seen:
                continue
            seen.add(v)
            if v in self.pending:
                yield v
            elif v in self.free and v not in self.placed:
                stack.extend(self.free[v].operands)


def _reads(block: Block) -> Iterator[Operand]:
    stack = [block]
    while stack:
        b = stack.pop()
        yield from b.yields
        for op in b.ops:
            yield from op.operands
            if op.body is not None:
                stack.append(op.body)


def checks(op: Operation) -> bool:
    """Does an operation look something up, at positions that may be out of bounds?"""
    return any(True for _ in accesses(op))


def _ordered(ops: Sequence[Operation]) -> list[Operation]:
    """The operations, each behind those that it reads."""
    maker = {r: op for op in ops for r in op.results}
    done: dict[Operation, None] = {}
    stack = list(reversed(ops))
    while stack:
        op = stack[-1]
        missing = [maker[v] for v in op.inputs if v in maker and maker[v] not in done]
        if op not in done and missing:
            stack.extend(missing)
            continue
        done[stack.pop()] = None
    return list(done)


def _tensor(v: Value) -> TensorType:
    assert isinstance(v.type, TensorType)
    return v.type


def _refused(op: Operation, what: str) -> TraceError:
    labels = [] if op.span is None else [Label(op.span, "here", True)]
    return TraceError(f"{what} has no kernel", code="TSR0408", labels=labels)


def _trimmed(block: Block) -> Block:
    """The block with only those results of its parts that others read."""
    wanted = {y for y in block.yields if isinstance(y, Value)}
    out: list[Operation] = []
    for op in reversed(block.ops):
        if op.record is PART:
            assert op.body is not None
            inside = {v for o in op.body.ops for v in o.inputs}
            kept = {r for o in op.body.ops if checks(o) for r in o.results if r not in inside}
            op = replace(op, results=tuple(r for r in op.results if r in wanted or r in kept))
        elif op.body is not None:
            wanted.update(v for v in _reads(op.body) if isinstance(v, Value))
            op = replace(op, body=_trimmed(op.body))
        wanted.update(op.inputs)
        out.append(op)
    return Block(tuple(reversed(out)), block.params, block.yields)


__all__ = ["Parts"]
