"""Results written to the memory of the parameters that they update, where nobody would see it too early.

A kernel may write to a parameter instead of to memory of its own when nothing after it reads what the parameter was,
and when it reads every element itself before it writes there: in an earlier nest, or in the same one at the very
position that the store has. Any other result is computed first and copied at the end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from tessera.ir.dialects.tile import ACCUMULATE, STORE
from tessera.ir.graph import Block, Function, Operand, Operation, Value, walk
from tessera.ir.pieces import astray
from tessera.ir.record import Kind
from tessera.ir.types import BufferType
from tessera.schedule.plan import Call, Kernel, Layouts, Step


def in_place(f: Function, steps: Sequence[Step], layouts: Layouts) -> list[Step]:
    """The steps of a program, with kernels that write to the parameters of ``f`` where they can."""
    out = list(steps)
    taken: set[Value] = set()
    views = _views(steps)
    left = [_root(x, views) for x in f.outputs]
    for p, new in f.written:
        made = [n for n, step in enumerate(out) if isinstance(step, Kernel) and new in step.outputs]
        if not made or new in taken or p.name in layouts.strided or p in left:
            continue
        if p.name in layouts.pieces and new in f.returned:
            continue  # what is returned is one tensor
        (n,) = made
        if any(_root(v, views) is p for step in out[n + 1 :] for v in step.inputs):
            continue
        kernel = out[n]
        assert isinstance(kernel, Kernel) and isinstance(new, Value)
        merged = _merged(kernel, p, new, p.name in layouts.pieces)
        if merged is not None and not any(_root(v, views) is p for v in merged.inputs):
            out[n] = merged
            taken.add(new)
    return out


def reused(steps: Sequence[Step], outputs: Sequence[Operand]) -> list[Step]:
    """The steps of a program, with kernels that write a result to the memory of what they are the last to read."""
    out = list(steps)
    views = _views(steps)
    fresh: set[Value] = set()
    last = {_root(v, views): n for n, step in enumerate(steps) for v in step.inputs}
    last.update((_root(x, views), len(steps)) for x in outputs)
    for n, step in enumerate(steps):
        for p in (v for v in step.inputs if v in fresh and last[v] == n):
            kernel = out[n]
            if not isinstance(kernel, Kernel) or p not in kernel.inputs:
                continue
            alike = (v for v in kernel.outputs if v.type == p.type and v not in dict(kernel.updates))
            merged = next((m for v in alike if (m := _merged(kernel, p, v, False)) is not None), None)
            if merged is not None and not any(_root(v, views) is p for v in merged.inputs):
                out[n] = merged
        if isinstance(step, Kernel) or (isinstance(step, Call) and step.op.record.kind is Kind.CONTRACT):
            fresh.update(step.outputs)
    return out


def scattered(steps: Sequence[Step], f: Function, pieces: frozenset[str]) -> frozenset[str]:
    """The parameters in pieces that somebody reads otherwise than by walking them: a kernel, a library, the caller."""
    found: set[str] = set()
    for step in steps:
        if not isinstance(step, Kernel):
            found.update(v.name for v in step.inputs)
            continue
        params = dict(zip(step.function.params, _stands_for(step), strict=False))
        found.update(params[b].name for _, b in astray(step.function))
        found.update(_uneven(step, params))
    found.update(x.name for x in f.outputs if isinstance(x, Value))
    return frozenset(found) & pieces


def _stands_for(kernel: Kernel) -> list[Value]:
    """The value that each buffer of a kernel stands for; of one that is updated, the parameter."""
    updated = dict(kernel.updates)
    return [*kernel.inputs, *(updated.get(v, v) for v in kernel.outputs), *kernel.temps]


def _uneven(kernel: Kernel, params: Mapping[Value, Value]) -> Iterator[str]:
    """The parameters in pieces whose sizes are not those of the first: one sweep walks pieces cut alike."""
    given = [(b.type, v) for b, v in params.items() if isinstance(b.type, BufferType) and b.type.pieces]
    for kind, v in given[1:]:
        if kind.dims != given[0][0].dims:
            yield v.name


def _merged(kernel: Kernel, p: Value, new: Value, pieces: bool) -> Kernel | None:
    """The kernel with one buffer for a parameter and what it becomes; None when it would read what it has written."""
    params = kernel.function.params
    made = params[len(kernel.inputs) + kernel.outputs.index(new)]
    read = params[kernel.inputs.index(p)] if p in kernel.inputs else None
    f = kernel.function if read is None else _readers_first(kernel.function, read, made)
    if not _before(f, read, made):
        return None
    assert isinstance(made.type, BufferType)
    buffer = Value(p.name if read is not None else made.name, replace(made.type, role="update", pieces=pieces))
    swaps = {made: buffer} if read is None else {made: buffer, read: buffer}
    kept = tuple(buffer if x is made else x for x in params if x is not read)
    body = Block(tuple(_swapped(op, swaps) for op in f.ops), kept)
    return replace(
        kernel, function=replace(kernel.function, body=body), inputs=tuple(v for v in kernel.inputs if v is not p),
        updates=(*kernel.updates, (new, p)),
    )  # fmt: skip


def _readers_first(f: Function, read: Value, made: Value) -> Function:
    """A kernel with the nests that read one buffer in front of those that write another, where they may stand there."""
    first: list[Operation] = []
    writing: list[Operation] = []
    for nest in f.ops:
        reads, writes = _touched(nest)
        if not writing and made not in writes:
            first.append(nest)
            continue
        others = [_touched(other) for other in writing]
        if read in reads and made not in writes and not any(
            writes & (its_reads | its_writes) or reads & its_writes for its_reads, its_writes in others
        ):
            first.append(nest)
        else:
            writing.append(nest)
    return replace(f, body=replace(f.body, ops=(*first, *writing)))


def _touched(nest: Operation) -> tuple[set[Value], set[Value]]:
    """The buffers that a nest reads and writes."""
    inner = [] if nest.body is None else list(walk(nest.body))
    writes = {op.operands[0] for op in inner if op.record in (STORE, ACCUMULATE)}
    reads = {v for op in inner if op.record is not STORE for v in op.inputs}
    reads |= {v for op in inner if op.record is STORE for v in op.operands[1:] if isinstance(v, Value)}
    return reads, {v for v in writes if isinstance(v, Value)}


def _before(f: Function, read: Value | None, made: Value) -> bool:
    """Is every element of one buffer read before it is written in the other, whatever the order of the iterations?"""
    if any(nest.attrs.get("when") for nest in f.ops):
        return False  # alternatives: each would have to be looked at by itself
    stored: set[object] = set()
    for nest in f.ops:
        if nest.body is None:
            return False
        if stored and any(read in op.operands for op in walk(nest.body)):
            return False
        places = {op.attrs["index"] for op in walk(nest.body) if op.record is STORE and op.operands[0] is made}
        if not places:
            continue
        for op in walk(nest.body):
            if op.record is STORE and op.operands[0] is made:
                stored.add(nest)
            elif read in op.operands and (nest in stored or places != {op.attrs.get("index")} or len(op.operands) > 1):
                return False
    return True


def _swapped(op: Operation, swaps: Mapping[Value, Value]) -> Operation:
    """An operation on other buffers, and what is inside it: as deep as loops are in loops."""
    operands = tuple(swaps.get(x, x) if isinstance(x, Value) else x for x in op.operands)
    body = op.body
    if body is not None:
        body = replace(body, ops=tuple(_swapped(inner, swaps) for inner in body.ops))
    return replace(op, operands=operands, body=body)


def _views(steps: Sequence[Step]) -> dict[Value, Operand]:
    """What each view among the library calls is a view of."""
    calls = (s.op for s in steps if isinstance(s, Call))
    return {r: op.operands[0] for op in calls if op.record.kind is Kind.VIEW for r in op.results}


def _root(x: Operand, views: Mapping[Value, Operand]) -> Operand:
    while isinstance(x, Value) and x in views:
        x = views[x]
    return x
