"""Partition a function into regions, each of which becomes one kernel, one library call or one free view."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import networkx as nx

from tessera.ir.build import names_of, numbered
from tessera.ir.dialects.region import BLOCKS, COLUMN, EXTERN, MAP, RECURRENCE, ROW, STREAM
from tessera.ir.graph import Block, Function, Note, Operand, Operation, Value, walk
from tessera.ir.loop import with_body
from tessera.ir.record import Kind
from tessera.passes.apart import Apart, Cause, Obstacle
from tessera.passes.gather import gather_streams
from tessera.passes.grouping import CLOSED, Gathered, Grouping, is_free
from tessera.passes.nested import rewritten
from tessera.passes.positions import own_positions
from tessera.passes.recurrences import gather_recurrences

_RECORDS = {
    "map": MAP, "row": ROW, "column": COLUMN, "stream": STREAM, "recurrence": RECURRENCE, "extern": EXTERN,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Fuse:
    """Grow regions greedily (see ``grouping``) so that the bytes moved between kernels are few, then write them
    down. Plain products of the dtypes in ``library`` stay calls of one, whatever follows them. ``lookups`` says whether
    a kernel may make single points of a contraction once more, for positions that are read from memory, ``across``
    whether one may both fold rows and add up down all of them, ``folds`` whether what one folds of a contraction's
    result may be made and used up block by block, ``integers`` whether contractions of them have kernels. Where
    ``sizes`` are known a large contraction has one for its own sake.
    """

    name: str = "fuse"
    library: tuple[str, ...] = ()
    lookups: bool = True
    across: bool = True
    folds: bool = True
    sizes: tuple[tuple[str, int], ...] = ()
    integers: bool = True

    def run(self, f: Function) -> Function:
        if any(op.record.kind is Kind.REGION and op.record is not BLOCKS for op in f.ops):
            return f
        runs = {op.results: op for op in f.ops if op.record is BLOCKS}
        if not runs:
            return self.fused(f)
        whole = self.fused(f.with_ops(tuple(replace(op, body=None) if op.record is BLOCKS else op for op in f.ops)))
        ops = (self.inside(runs[op.results], op.operands, whole) if op.record is BLOCKS else op for op in whole.ops)
        return whole.with_ops(tuple(ops))

    def inside(self, op: Operation, operands: tuple[Operand, ...], f: Function) -> Operation:
        """A run by blocks, which reads these operands, with its operations in regions, their names apart from all
        others.
        """
        body = op.body
        assert body is not None
        pairs = zip(op.operands, operands, strict=True)
        swaps = {a: b for a, b in pairs if isinstance(a, Value) and isinstance(b, Value)}
        op = replace(op, operands=operands)
        steps = tuple(_swapped(o, swaps) for o in body.ops)
        known = {*f.params, *(r for o in walk(f.body) for r in o.results)}
        names = {v.name for v in known}
        made = self.fused(Function(f.name, Block(steps, tuple(op.inputs), op.results), obligations=f.obligations))
        for v in dict.fromkeys(r for o in walk(made.body) for r in o.results):
            if v not in known and v.name in names:
                v.name = numbered(v.name, names)
            names.add(v.name)
        return replace(op, body=Block(made.ops))

    def fused(self, f: Function) -> Function:
        """The function with its operations in regions; what is a region already stays one."""
        f, streams = gather_streams(
            own_positions(f), self.library, self.lookups, self.across, self.folds, dict(self.sizes), self.integers
        )
        f, recurrences = gather_recurrences(f, streams)
        gathered: dict[Operation, Gathered] = {**streams, **recurrences}
        grouping = Grouping(f, gathered, self.across).run()
        writer = _Writer(f, grouping, gathered)
        ops = writer.write()
        forms = [op.name for op in ops]
        text = ", ".join(f"{forms.count(n)} {n}" for n in _RECORDS if n in forms) or "no region"
        details = (*map(describe, ops), *map(str, writer.apart))
        return f.with_ops(tuple(ops)).with_note(Note(self.name, 0.0, text, details))


def describe(op: Operation) -> str:
    """A region in one line: what is in it and what it gives."""
    inside = ", ".join(o.name for o in op.body.ops) if op.body is not None else op.name
    return f"{op.name} region: {inside} -> {', '.join('%' + r.name for r in op.results)}"


@dataclass
class _Writer:
    f: Function
    grouping: Grouping
    gathered: Mapping[Operation, Gathered]
    names: set[str] = field(default_factory=set)
    apart: list[Apart] = field(default_factory=list)

    def write(self) -> list[Operation]:
        self.names = names_of(self.f)
        self.maker = {r: op for op in self.f.ops for r in op.results}
        needed = self.stored()
        regions: dict[int, Operation] = {}
        for number, group in self.grouping.groups.items():
            record, ops = _RECORDS[group.form], [self.f.ops[n] for n in group.ops]
            regions[number] = ops[0] if ops[0].record is BLOCKS else self.region(record, ops, needed)
        for op in self.f.ops:
            if is_free(op) and op.result in needed:
                kind = EXTERN if op.record.kind is Kind.VIEW else MAP
                regions[self.grouping.position[id(op)]] = self.region(kind, [op], needed, clone=False)
        self.apart = list(self.separate(regions))
        return self.ordered(regions)

    def separate(self, regions: dict[int, Operation]) -> Iterator[Apart]:
        """Every region that another one reads, in the order of the source, with what kept the two apart."""
        maker = {r: n for n, op in regions.items() for r in op.results}
        for consumer, op in sorted(regions.items()):
            for producer in sorted({maker[v] for v in op.inputs if v in maker}):
                yield Apart(_label(regions[producer]), _label(op), self.cause(producer, consumer))

    def cause(self, producer: int, consumer: int) -> Cause:
        groups = self.grouping.groups
        if consumer not in groups:
            return Cause(Obstacle.VIEW, (self.f.ops[consumer].name,))
        if producer not in groups:
            return Cause(CLOSED[groups[consumer].form], (self.grouping.closing(groups[consumer]),))
        cause = self.grouping.obstacle(groups[consumer], groups[producer])
        assert cause is not None, "neighbours with nothing between them"
        return cause

    def stored(self) -> set[Value]:
        """Values that must exist in memory: outputs, what crosses a region boundary, what a library call reads."""
        needed: set[Value] = set()
        pending = [v for v in self.f.outputs if isinstance(v, Value)]
        for group in self.grouping.groups.values():
            members = {r for n in group.ops for r in self.f.ops[n].results}
            for n in group.ops:
                for v in self.f.ops[n].inputs:
                    if group.form == "extern":
                        pending.append(v)
                    else:
                        pending.extend(r for r in self.grouping.root(v) if r not in members)
        while pending:
            v = pending.pop()
            if v not in needed:
                needed.add(v)
                made = self.maker.get(v)
                if made is not None and is_free(made):
                    pending.extend(made.inputs)
        return needed

    def region(self, record: object, ops: list[Operation], needed: set[Value], clone: bool = True) -> Operation:
        assert record in _RECORDS.values()
        members = {r for op in ops for r in op.results}
        copies: dict[Value, Value] = {}
        body: list[Operation] = []
        for op in ops:
            if clone and record is not EXTERN:
                self.copy_free(op.inputs, members, copies, body)
            body.append(_swapped(op, copies))
        inside = {r for op in body for r in op.results}
        reads = dict.fromkeys(v for op in body for v in op.inputs if v not in inside)
        results = tuple(r for op in ops for r in op.results if r in needed)
        if not results:
            results = ops[-1].results
        whole = self.gathered.get(ops[0])
        attrs = {} if whole is None else whole.attrs
        return Operation(record, tuple(reads), results, attrs, ops[-1].span, body=Block(tuple(body)))  # type: ignore[arg-type]

    def copy_free(
        self, wanted: Iterable[Value], members: set[Value], copies: dict[Value, Value], body: list[Operation]
    ) -> None:
        """Put a private copy of every free operation behind ``wanted`` into the region."""
        stack = list(wanted)
        while stack:
            v = stack[-1]
            made = self.maker.get(v)
            if v in copies or v in members or made is None or not is_free(made):
                stack.pop()
                continue
            missing = [u for u in made.inputs if u not in copies and u not in members and self.is_free_value(u)]
            if missing:
                stack.extend(missing)
                continue
            stack.pop()
            copies[v] = Value(numbered(f"{v.name}_r", self.names), v.type)
            operands = tuple(_swap(copies, x) for x in made.operands)
            body.append(replace(made, operands=operands, results=(copies[v],)))

    def is_free_value(self, v: Value) -> bool:
        made = self.maker.get(v)
        return made is not None and is_free(made)

    def ordered(self, regions: dict[int, Operation]) -> list[Operation]:
        """Regions in an order in which everything is made before it is read; ties go to the order of the source."""
        graph: nx.DiGraph = nx.DiGraph()
        maker = {r: n for n, op in regions.items() for r in op.results}
        graph.add_nodes_from(regions)
        for n, op in regions.items():
            graph.add_edges_from((maker[v], n) for v in op.inputs if v in maker)
        return [regions[n] for n in nx.lexicographical_topological_sort(graph)]


def _label(region: Operation) -> str:
    return f"{region.name} %{region.results[0].name}"


def _swapped(op: Operation, copies: Mapping[Value, Value]) -> Operation:
    """An operation that reads the copies, and so do its steps."""
    new = op.with_operands(tuple(_swap(copies, x) for x in op.operands))
    if op.record.kind is not Kind.CONTROL or op.body is None or new is op:
        return new
    return with_body(new, rewritten(op.body, copies, lambda: lambda inner: inner))


def _swap(copies: Mapping[Value, Value], x: Operand) -> Operand:
    return copies.get(x, x) if isinstance(x, Value) else x
