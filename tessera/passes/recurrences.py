"""Which operations a kernel that walks an axis in order takes in, and which its steps need not repeat.

What a step computes of values from outside alone is the same in every step, and is computed once before. What makes
the first carries and the tensors that are walked along, element by element, is computed where it is read, so that it is
never stored.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from tessera.ir.graph import Attr, Function, Operation, Value, users
from tessera.ir.loop import Loop, outer_values, with_body
from tessera.ir.record import Kind
from tessera.passes.grouping import CHEAP_FLOPS, is_free, space


@dataclass(frozen=True, slots=True)
class Recurrence:
    """The operations of one such kernel, in order: the last one has the steps."""

    ops: tuple[Operation, ...]
    form: str = "recurrence"

    @property
    def attrs(self) -> Mapping[str, Attr]:
        return {}


def gather_recurrences(f: Function, taken: Container[Operation]) -> tuple[Function, dict[Operation, Recurrence]]:
    """The function with steps that repeat nothing; and for each operation of a recurrence, the recurrence. What is
    ``taken`` belongs to another kernel already.
    """
    if not any(op.record.kind is Kind.CONTROL for op in f.ops):
        return f, {}
    f = f.with_ops(tuple(made for op in f.ops for made in _lifted(op)))
    readers, maker = users(f.body), {r: op for op in f.ops for r in op.results}
    found = (
        _around(f, op, readers, maker, taken) for op in f.ops if op.record.kind is Kind.CONTROL and op not in taken
    )
    return f, {op: r for r in found for op in r.ops}


def _lifted(op: Operation) -> Iterator[Operation]:
    """An operation; of one with steps first what is the same in each of them, unless it is cheaper than its storing."""
    if op.record.kind is not Kind.CONTROL or op.body is None:
        yield op
        return
    still: dict[Value, Operation | None] = dict.fromkeys(outer_values(op.body))
    for inner in op.body.ops:
        if inner.record.kind is not Kind.RANDOM and inner.body is None and all(v in still for v in inner.inputs):
            still.update(dict.fromkeys(inner.results, inner))
    pending = [o for o in still.values() if o is not None and _is_costly(o)]
    before: set[Operation] = set()
    while pending:
        made = pending.pop()
        before.add(made)
        pending.extend(o for v in made.inputs if (o := still.get(v)) is not None and o not in before)
    yield from (o for o in op.body.ops if o in before)
    inside = tuple(o for o in op.body.ops if o not in before)
    yield with_body(op, replace(op.body, ops=inside)) if before else op


def _is_costly(op: Operation) -> bool:
    if op.record.kind is Kind.MAP:
        return op.record.flops >= CHEAP_FLOPS
    return op.record.kind not in (Kind.VIEW, Kind.CREATE)


def _around(
    f: Function, op: Operation, readers: Mapping[Value, Sequence[Operation]], maker: Mapping[Value, Operation],
    taken: Container[Operation],
) -> Recurrence:  # fmt: skip
    """The recurrence of one operation: elementwise work on what it begins with and walks along, that nothing else
    reads.
    """
    loop, members = Loop.of(op), {op}
    pending = [(x, sorted(map(str, space(x.type)))) for x in (*loop.init, *loop.xs) if isinstance(x, Value)]
    # What the steps read whole they would make again each time.
    kept = {v for v in (*f.outputs, *loop.captured) if isinstance(v, Value)}
    while pending:
        v, dims = pending.pop()
        made = maker.get(v)
        if made is None or made in members or made in taken:
            continue
        if is_free(made):
            pending.extend((x, dims) for x in made.inputs)
        elif made.record.kind is Kind.MAP and _only(made.result, members, readers, kept):
            if made.record.flops >= CHEAP_FLOPS and sorted(map(str, space(made.result.type))) != dims:
                continue  # a view repeats it
            members.add(made)
            pending.extend((x, dims) for x in made.inputs)
    return Recurrence(tuple(o for o in f.ops if o in members))


def _only(
    v: Value, members: Container[Operation], readers: Mapping[Value, Sequence[Operation]], kept: Container[Value]
) -> bool:
    """Is every reader of a value a member, free views looked through, and none of these ``kept``?"""
    pending = [v]
    while pending:
        v = pending.pop()
        if v in kept:
            return False
        for reader in readers.get(v, ()):
            if reader in members:
                continue
            if not is_free(reader):
                return False
            pending.extend(reader.results)
    return True
