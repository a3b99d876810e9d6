"""What a backward pass keeps of the forward pass and what it computes again: a minimum cut over bytes.

Every value that depends on no cotangent may be kept. Keeping one costs its bytes, less where it is in memory anyway (a
parameter or a result); computing one again takes what it is made of, and where the forward pass writes it for another
kernel, reading that and writing it a second time. Sums, library calls and loops are not repeated; a product is where
its result is larger than its operands and each element of it is short work, as scores of an attention are. In a region
of recomputation all is but what others read of it, which is kept if it is needed. Where more would be kept than there
is room for, writing twice counts for nothing; then sums are repeated as well, then all products, then everything.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import networkx as nx

from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim, product
from tessera.ir.flops import nbytes, summed
from tessera.ir.graph import Block, Function, Note, Operation, Value, users
from tessera.ir.origin import region_of
from tessera.ir.record import Kind
from tessera.ir.types import TensorType
from tessera.passes.autodiff import Joint
from tessera.passes.base import Pass
from tessera.passes.grouping import is_free
from tessera.passes.unshare import unshared

#: A contraction over at most so many elements may be repeated in the backward pass: one for each of a batch, such as
#: the scores of heads, or a single one, which has a weight in it as a rule and is repeated at the speed of arithmetic.
SHORT, SHORTER = 128, 64
#: What keeping costs of a value that is in memory anyway, in parts of its bytes; and of one that the forward pass
#: writes in any case, where another value would have to be written for this alone.
THERE, WRITTEN = 1e-6, 0.9


@dataclass(frozen=True, slots=True)
class Split:
    """A function and its derivative as two: ``forward`` gives the results and then ``kept`` values that are neither
    results nor parameters; ``backward`` takes the values ``saved``, then the cotangents, then scalars, and gives the
    cotangents of the parameters.
    """

    forward: Function
    backward: Function
    saved: tuple[Value, ...]
    kept: tuple[Value, ...]

    def consuming(self) -> Function:
        """The backward pass for the last time that it runs: what is kept for a cotangent of the same type alone becomes
        that cotangent, in the same memory.
        """
        f, readers = self.backward, users(self.backward.body)
        pairs: dict[Value, Value] = {}
        for p in self.kept:
            y = p
            while y not in f.outputs and len(readers.get(y, ())) == 1:
                (op,) = readers[y]
                if op.record.kind is not Kind.MAP or op.result.type != p.type or op.operands.count(y) > 1:
                    break
                y = op.result
            if y is not p and y in f.outputs and y not in pairs.values():
                pairs[p] = y
        return replace(f, body=replace(f.body, yields=(*f.outputs, *pairs.values())), updates=tuple(pairs))

    def bytes(self) -> Dim:
        """What is kept for the backward pass beside parameters and results."""
        return sum((nbytes(v.type) for v in self.kept), start=Dim.const(0))


class Effort(IntEnum):
    """What may be computed again, each level more than the one before."""

    CHEAP = 0
    SUMS = 1
    PRODUCTS = 2
    ALL = 3


def split(joint: Joint, sizes: Mapping[str, int], fuse: Pass, limit: int | None = None) -> Split:
    """Cut a function with its derivative in two where least has to be kept and moved at these sizes; at most ``limit``
    bytes are kept, with no more work than that takes. ``fuse`` makes kernels of a function, which shows what the
    forward pass writes in any case.
    """
    least = _split(joint, sizes, Effort.CHEAP)
    found = _split(joint, sizes, Effort.CHEAP, _written(least.forward, fuse))
    for effort in Effort:
        if limit is None or found.bytes().evaluate(sizes) <= limit:
            break
        found = least if effort is Effort.CHEAP else _split(joint, sizes, effort)
    return found


def _written(forward: Function, fuse: Pass) -> frozenset[Value]:
    """What the kernels of a forward pass give: its results, and what one writes for another."""
    return frozenset(r for op in fuse.run(forward).ops for r in op.results)


def _split(
    joint: Joint, sizes: Mapping[str, int], effort: Effort, written: frozenset[Value] = frozenset()
) -> Split:
    f = joint.function
    count = len(f.params) - len(joint.given)
    params, cotangents = f.params[:count], f.params[count:]
    outputs, grads = f.outputs[: joint.outputs], f.outputs[joint.outputs :]
    late = _depending(f.ops, cotangents)
    early = [op for op in f.ops if not any(r in late for r in op.results)]
    read = _read_late(f.ops, late, [g for g in grads if isinstance(g, Value)])
    there = {*params, *(y for y in outputs if isinstance(y, Value))}
    order = {v: n for n, v in enumerate((*params, *(r for op in f.ops for r in op.results)))}
    wanted = sorted((v for v in read if isinstance(v.type, TensorType)), key=order.__getitem__)
    saved = _cut(early, wanted, params, there, written, sizes, effort)
    ordered = tuple(sorted(saved, key=order.__getitem__))
    kept = tuple(v for v in ordered if v not in there)
    forward = _needed(f.ops, (*outputs, *kept), frozenset(params))
    later = _needed(f.ops, grads, frozenset((*ordered, *cotangents)))
    compared = {v for products in _compared(later).values() for v in products}
    backward = unshared(later, lambda op: _repeatable(op, sizes) and not compared.intersection(op.results))
    scalars = tuple(p for p in params if not isinstance(p.type, TensorType))
    size = sum(nbytes(v.type).evaluate(sizes) for v in kept)
    note = Note("remat", 0.0, f"{len(kept)} values of {size} bytes kept: {', '.join(v.name for v in kept) or 'none'}")
    first = replace(f, body=Block(forward, params, (*outputs, *kept)))
    second = replace(f, name=f"{f.name}_grad", body=Block(backward, (*ordered, *cotangents, *scalars), grads),
                     obligations=())  # fmt: skip
    return Split(first.with_note(note), second.with_note(note), ordered, kept)


def _depending(ops: Sequence[Operation], on: Sequence[Value]) -> set[Value]:
    found = set(on)
    for op in ops:
        if any(v in found for v in op.inputs):
            found.update(op.results)
    return found


def _read_late(ops: Sequence[Operation], late: set[Value], grads: Sequence[Value]) -> set[Value]:
    """The early values that the backward pass reads."""
    found = {g for g in grads if g not in late}
    for op in ops:
        if any(r in late for r in op.results):
            found.update(v for v in op.inputs if v not in late)
    return found


def _needed(ops: Sequence[Operation], wanted: Sequence[object], given: frozenset[Value]) -> tuple[Operation, ...]:
    live = {v for v in wanted if isinstance(v, Value)} - given
    kept: list[Operation] = []
    for op in reversed(ops):
        if any(r in live for r in op.results):
            kept.append(op)
            live.update(v for v in op.inputs if v not in given)
    return tuple(reversed(kept))


def _cut(
    ops: Sequence[Operation], read: Sequence[Value], params: Sequence[Value], there: set[Value],
    written: frozenset[Value], sizes: Mapping[str, int], effort: Effort,
) -> set[Value]:  # fmt: skip
    """The values to keep, so that everything in ``read`` can be had from them."""
    graph: nx.DiGraph = nx.DiGraph()
    source, sink = "source", "sink"
    graph.add_node(source)
    graph.add_node(sink)
    border = _border(ops)
    inner = {r for op in ops if region_of(op) and border.isdisjoint(op.results) for r in op.results if r not in there}
    # What is larger than its factors, as scores are, is not kept for having been written.
    spaces = {op.result.type.dims for op in ops if op.record.kind is Kind.CONTRACT and _repeatable(op, sizes)}
    cheaper = {r for op in ops if op.record.kind is Kind.CONTRACT for r in op.results} | written

    def size(v: Value) -> float:
        return float(nbytes(v.type).evaluate(sizes)) + 1.0

    def node(v: Value) -> None:
        if v in inner:
            graph.add_edge((v, "in"), (v, "out"))
            return
        share = THERE if v in there else WRITTEN if v in cheaper else 1.0
        graph.add_edge((v, "in"), (v, "out"), capacity=size(v) * share)

    for p in params:
        if isinstance(p.type, TensorType):
            node(p)
            graph.add_edge(source, (p, "in"))
    # What is kept of a view is what it is a view of, which would stay in memory anyway.
    inner.update(op.result for op in ops if op.record.kind is Kind.VIEW and is_free(op))
    free, alike = _free(ops, border, sizes, effort)
    graph.add_edges_from(((v, "in"), (p, "in")) for v, p in alike)
    for op in ops:
        for r in op.results:
            node(r)
            if op not in free:
                graph.add_edge(source, (r, "in"))
            elif r in written and not region_of(op) and op.record.kind is not Kind.VIEW and r.type.dims not in spaces:
                moved = size(r) + sum(size(v) for v in set(op.inputs) if isinstance(v.type, TensorType))
                graph.add_edge(source, (r, "in"), capacity=moved)
            for v in op.inputs:
                if isinstance(v.type, TensorType):
                    graph.add_edge((v, "out"), (r, "in"))
    for v in read:
        graph.add_edge((v, "out"), sink)
    if not nx.has_path(graph, source, sink):
        return set()
    _, (near, _) = nx.minimum_cut(graph, source, sink)
    return {v for v, side in (n for n in near if isinstance(n, tuple)) if side == "in" and (v, "out") not in near}


def _free(
    ops: Sequence[Operation], border: set[Value], sizes: Mapping[str, int], effort: Effort
) -> tuple[set[Operation], set[tuple[Value, Value]]]:
    """What may be computed again; and pairs of a value that is compared and a product that it is made of: where the
    product is made again, the value is, as what is computed again is compared with nothing kept.
    """
    free: set[Operation] = set()
    compared = _compared(ops)
    for op in ops:
        if region_of(op):
            again = effort is Effort.ALL or border.isdisjoint(op.results)
        else:
            again = _repeatable(op, sizes, effort) and not (op in compared and effort is Effort.CHEAP)
        free.update((op,) if again else ())
    maker = {r: op for op in ops for r in op.results}
    alike: set[tuple[Value, Value]] = set()
    known = -1
    while known < len(free):  # what is no longer kept may show more products
        known = len(free)
        kept = {r for op in ops if op not in free for r in op.results}
        for op in compared:
            if op in free:
                products = compared[op] & _products(op.inputs, maker, kept) - kept
                pairs = set(_between(op, products, ops))
                alike |= pairs
                free.update(maker[v] for v, _ in pairs)
    return free, alike


def _compared(ops: Sequence[Operation]) -> dict[Operation, set[Value]]:
    """The comparisons of values that are made of the same products, such as of all with the largest, with these
    products: computed once more by another kernel one has other last digits, and what was equal is equal no more.
    """
    maker = {r: op for op in ops for r in op.results}
    found: dict[Operation, set[Value]] = {}
    for op in ops:
        inputs = set(op.inputs)
        if op.record.kind is Kind.MAP and op.results[0].type.dtype.is_bool and len(inputs) > 1:
            common = set.intersection(*(_products((v,), maker) for v in inputs))
            if common:
                found[op] = common
    return found


def _products(values: Iterable[Value], maker: Mapping[Value, Operation], kept: Container[Value] = ()) -> set[Value]:
    """The products that values are made of, those behind other products, and behind what is ``kept``, left out."""
    found: set[Value] = set()
    pending, seen = [*values], {*values}
    while pending:
        u = pending.pop()
        op = None if u in kept else maker.get(u)
        if op is None or op.record.kind is Kind.CONTRACT:
            found.update((u,) if op is not None else ())
            continue
        new = [x for x in op.inputs if x not in seen]
        seen.update(new)
        pending.extend(new)
    return found


def _between(op: Operation, products: set[Value], ops: Sequence[Operation]) -> Iterator[tuple[Value, Value]]:
    """What stands between a comparison and each of the products behind it."""
    maker = {r: o for o in ops for r in o.results}
    behind: set[Value] = set()
    pending = list(op.inputs)
    while pending:
        v = pending.pop()
        if v not in behind:
            behind.add(v)
            pending.extend(maker[v].inputs if v in maker else ())
    for p in products:
        ahead = _depending(ops, [p])
        yield from ((v, p) for v in behind & ahead - {p} if isinstance(v.type, TensorType))


def _border(ops: Sequence[Operation]) -> set[Value]:
    """The values of regions of recomputation that anything outside of their region reads; for a view what it shows."""
    maker = {r: op for op in ops for r in op.results}
    found = set()
    for op in ops:
        for v in op.inputs:
            if v in maker and region_of(maker[v]) not in ("", region_of(op)):
                while v in maker and is_free(maker[v]) and maker[v].record.kind is Kind.VIEW:
                    v = next(maker[v].inputs)
                found.add(v)
    return found


def _repeatable(op: Operation, sizes: Mapping[str, int], effort: Effort = Effort.CHEAP) -> bool:
    """May the backward pass carry out an operation of the forward pass once more?"""
    kind = op.record.kind
    if kind in (Kind.MAP, Kind.VIEW, Kind.INDEX, Kind.CREATE, Kind.RANDOM):
        return True
    if kind is not Kind.CONTRACT:
        return effort is Effort.ALL or (effort >= Effort.SUMS and kind in (Kind.REDUCE, Kind.SCAN))
    if effort >= Effort.PRODUCTS:
        return True
    left, right, result = letters(op)
    made = nbytes(op.result.type).evaluate(sizes)
    given = sum(nbytes(v.type).evaluate(sizes) for v in op.inputs)
    length = product(summed(op)).evaluate(sizes)
    batched = any(c in left and c in right for c in result)
    return made > given and length <= (SHORT if batched else SHORTER)
