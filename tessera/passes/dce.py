"""Drop operations whose results nobody reads."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from tessera.ir.graph import Block, Function, Note, Operand, Operation, Value, walk
from tessera.ir.loop import Loop, with_body
from tessera.ir.record import Kind


@dataclass(frozen=True, slots=True)
class DeadCode:
    """Dead code elimination, in one backward sweep. Every tensor op is pure, so unread means removable.

    Of a scan, stacks that nobody reads go, carries that neither the result nor anything else of the step depends on,
    and slices that the step does not read.
    """

    name: str = "dce"

    def run(self, f: Function) -> Function:
        kept, _ = sweep(f.ops, f.outputs)
        if kept == f.ops:
            return f
        before, after = (sum(1 for _ in walk(block)) for block in (f.body, Block(kept)))
        text = f"dropped {before - after}" if after < before else "dropped parts of scans"
        return f.with_ops(kept).with_note(Note(self.name, 0.0, text))


def sweep(ops: Iterable[Operation], wanted: Iterable[Operand]) -> tuple[tuple[Operation, ...], set[Value]]:
    """The operations that ``wanted`` needs, and every value that is read then."""
    live: set[Value] = {v for v in wanted if isinstance(v, Value)}
    kept: list[Operation] = []
    for op in reversed(tuple(ops)):
        if any(r in live for r in op.results):
            if op.record.kind is Kind.CONTROL and op.body is not None:
                op = pruned(op, live)
            kept.append(op)
            live.update(op.inputs)
            if op.body is not None and op.record.kind is not Kind.CONTROL:
                live.update(v for inner in walk(op.body) for v in inner.inputs)
    return tuple(reversed(kept)), live


def pruned(op: Operation, live: set[Value]) -> Operation:
    """A scan without what nobody reads; at least one tensor stays, which says how many steps there are."""
    loop = Loop.of(op)
    stacks = [n for n, r in enumerate(loop.stacks) if r in live]
    needed = {n for n, r in enumerate(loop.last) if r in live}
    while True:
        yields = [*(loop.next[n] for n in sorted(needed)), *(loop.ys[n] for n in stacks)]
        ops, read = sweep(loop.body.ops, yields)
        more = {n for n, p in enumerate(loop.carries) if p in read} - needed
        if not more:
            break
        needed |= more
    carries = sorted(needed)
    parts = [n for n, p in enumerate(loop.slices) if p in read] or [0]
    params = (*(loop.carries[n] for n in carries), *(loop.slices[n] for n in parts))
    if ops == loop.body.ops and params == loop.body.params and len(stacks) == len(loop.stacks):
        return op
    results = (*(loop.last[n] for n in carries), *(loop.stacks[n] for n in stacks))
    given = (*(loop.init[n] for n in carries), *(loop.xs[n] for n in parts))
    attrs = {**op.attrs, "carries": len(carries)}
    return with_body(replace(op, results=results, attrs=attrs), Block(ops, params, tuple(yields)), given)
