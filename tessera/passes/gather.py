"""The operations of each stream next to each other, in the form in which they become one kernel."""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence, Set
from dataclasses import replace

import networkx as nx

from tessera.ir.dialects.contract import letters
from tessera.ir.graph import Function, Operation, Value, users
from tessera.ir.record import Kind
from tessera.passes.crossing import crossed
from tessera.passes.grouping import is_free
from tessera.passes.hoist import hoist
from tessera.passes.streams import Stream, find_streams


def gather_streams(
    f: Function, library: Container[str] = (), lookups: bool = True, across: bool = False, folds: bool = True,
    sizes: Mapping[str, int] | None = None, integers: bool = True,
) -> tuple[Function, dict[Operation, Stream]]:  # fmt: skip
    """The function with the operations of each stream next to each other and common factors moved behind its sums;
    and for each operation of a stream, the stream. The options are those of ``Fuse``.
    """
    streams = find_streams(f, library, lookups, folds, sizes, integers)
    other = _turned(f, {op for stream in streams for op in stream.ops})
    if other is not f:
        f, streams = other, find_streams(other, library, lookups, folds, sizes, integers)
    if not streams:
        return f, {}
    if across:
        f, streams = crossed(f, streams)
    readers = users(f.body)
    found = [(stream, Stream(_hoisted(f, stream, readers), stream.axes)) for stream in streams]
    return f.with_ops(_ordered(f, found)), {op: new for _, new in found for op in new.ops}


def _turned(f: Function, taken: Set[Operation]) -> Function:
    """The function with the operands of contractions exchanged that no stream has taken, where the last axis of the
    result is one of the first operand: a stream goes along those of the second.
    """

    def turned(op: Operation) -> Operation:
        if op.record.kind is not Kind.CONTRACT or op in taken or "equation" not in op.attrs:
            return op
        left, right, result = letters(op)
        if not result or result[-1] not in left or result[-1] in right:
            return op
        attrs = {**op.attrs, "equation": f"{right},{left}->{result}"}
        return replace(op, operands=op.operands[::-1], attrs=attrs)

    ops = tuple(map(turned, f.ops))
    return f if all(a is b for a, b in zip(ops, f.ops, strict=True)) else f.with_ops(ops)


def _hoisted(f: Function, stream: Stream, readers: Mapping[Value, Sequence[Operation]]) -> tuple[Operation, ...]:
    """The operations of a stream with common factors behind its sums, without what is no longer read."""
    own = set(stream.ops)
    needed = {
        r
        for op in stream.ops
        for r in op.results
        if r in f.outputs or any(reader not in own for reader in readers.get(r, ()))
    }
    out: list[Operation] = []
    for op in reversed(hoist(stream.ops, stream.axes[0])):
        if any(r in needed for r in op.results):
            needed.update(op.inputs)
            out.append(op)
    return tuple(reversed(out))


def _ordered(f: Function, found: Sequence[tuple[Stream, Stream]]) -> tuple[Operation, ...]:
    """All operations, each stream in one piece, in an order in which everything is made before it is read."""
    home = {op: n for n, (old, _) in enumerate(found) for op in old.ops}
    maker = {r: op for op in f.ops for r in op.results}
    for op in f.ops:  # a view of what a stream makes goes with it
        if is_free(op):
            homes = {home[maker[v]] for v in op.inputs if v in maker and maker[v] in home}
            home.update((op, n) for n in homes)
    place = {op: n for n, op in enumerate(f.ops)}
    node = {op: (place[found[home[op]][0].ops[-1]] if op in home else n) for op, n in place.items()}
    graph: nx.DiGraph = nx.DiGraph()
    graph.add_nodes_from(node.values())
    for op in f.ops:
        graph.add_edges_from((node[maker[v]], node[op]) for v in op.inputs if v in maker and node[maker[v]] != node[op])
    views: dict[int, list[Operation]] = {}
    for op, n in home.items():
        if is_free(op):
            views.setdefault(n, []).append(op)
    out: list[Operation] = []
    for n in nx.lexicographical_topological_sort(graph):
        op = f.ops[n]
        if op not in home:
            out.append(op)
            continue
        out.extend(_with_views(found[home[op]][1].ops, views.get(home[op], ())))
    return tuple(out)


def _with_views(ops: Sequence[Operation], views: Sequence[Operation]) -> Iterator[Operation]:
    """The operations, each view as soon as what it is a view of is there."""
    waiting = list(views)
    mine = {r for op in (*ops, *views) for r in op.results}
    done: set[Value] = set()
    for op in ops:
        yield op
        done.update(op.results)
        for view in list(waiting):
            if all(v in done or v not in mine for v in view.inputs):
                waiting.remove(view)
                done.add(view.result)
                yield view
