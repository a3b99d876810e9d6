"""Two streams over the same products, of which one sums along the rows of the other, as one.

The derivative of an attention sums what is made of the scores along both of their axes, and each of two streams makes
the scores for itself (see ``unshare``). Where rows may follow each other, one of them can do both: what it sums along
its rows is added up in memory, a few rows at a time.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import permutations

from tessera.ir.dialects.contract import letters
from tessera.ir.graph import Function, Operand, Operation, Value, users
from tessera.ir.infer import ONE
from tessera.ir.online import Apart, factors
from tessera.ir.record import Kind, Law
from tessera.ir.roles import Role, Roles, folds_axis
from tessera.passes.cse import key
from tessera.passes.grouping import MAX_OPS, is_free
from tessera.passes.hoist import hoist
from tessera.passes.streams import Stream, keeps_places


def crossed(f: Function, streams: Sequence[Stream]) -> tuple[Function, list[Stream]]:
    """The function and its streams, where two that make the same products are one if one can do the other's work."""
    if len(streams) < 2:
        return f, list(streams)
    source = _Source(f)
    shared: dict[Value, list[Stream]] = {}
    for stream in streams:
        for op in stream.ops:
            if op.record.kind is Kind.CONTRACT:
                shared.setdefault(source.alike[op.result], []).append(stream)
    joins: list[_Join] = []
    taken: set[Operation] = set()
    for several in shared.values():
        pairs = (p for p in permutations(several, 2) if p[0] is not p[1])
        tried = (_Join(source, *p) for p in pairs if taken.isdisjoint((p[0].ops[0], p[1].ops[0])))
        join = min((j for j in tried if j.is_possible()), key=lambda j: len(j.sums), default=None)
        if join is not None:
            taken.update((join.host.ops[0], join.guest.ops[0]))
            joins.append(join)
    if not joins:
        return f, list(streams)
    hosts, guests = {j.host.ops[0]: j for j in joins}, {j.guest.ops[0] for j in joins}
    kept = (s for s in streams if s.ops[0] not in guests)
    made = [hosts[s.ops[0]].stream() if s.ops[0] in hosts else s for s in kept]
    swapped = {old: new for j in joins for old, new in j.swapped.items()}
    gone = {r for j in joins for r in j.gone()}
    return f.with_ops(tuple(swapped.get(op, op) for op in f.ops if gone.isdisjoint(op.results))), made


@dataclass
class _Source:
    """A function: where each operation stands, what makes a value, and the first value that is computed alike."""

    f: Function
    alike: dict[Value, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place = {op: n for n, op in enumerate(self.f.ops)}
        self.maker = {r: op for op in self.f.ops for r in op.results}
        self.readers = users(self.f.body)
        self.alike = {v: v for v in self.f.params}
        seen: dict[Hashable, tuple[Value, ...]] = {}
        for op in self.f.ops:
            self.alike.update((v, v) for v in op.inputs if v not in self.alike)
            operands = tuple(self.alike[x] if isinstance(x, Value) else x for x in op.operands)
            found = op.results if op.body is not None else seen.setdefault(key(op.with_operands(operands)), op.results)
            self.alike.update(zip(op.results, found, strict=True))

    def between(self, ops: Sequence[Operation]) -> Sequence[Operation]:
        """All operations from the first to the last of some."""
        places = [self.place[op] for op in ops]
        return self.f.ops[min(places) : max(places) + 1]


@dataclass
class _Join:
    """A stream that takes in another one, the guest, whose sums go along the rows of the first."""

    source: _Source
    host: Stream
    guest: Stream

    def __post_init__(self) -> None:
        alike = self.source.alike
        self.there = {alike[r]: r for op in self.host.ops for r in op.results}
        self.home = Roles.find(self.host.ops, self.host.axes[0])
        roles = Roles.find(self.guest.ops, self.guest.axes[0])
        self.sums = roles.folds(self.guest.ops)
        # What comes of the guest's sums is left to others.
        own = [op for op in self.guest.ops if roles[op.results[0]] is not Role.OUT or op in self.sums]
        self.again = [op for op in own if all(alike[r] in self.there for r in op.results)]
        self.more = [op for op in own if op not in self.again]

    def is_possible(self) -> bool:
        """Can one kernel do the work of both?"""
        if len(self.host.axes) != 1 or len(self.guest.axes) != 1 or not self.sums or self.host.axes == self.guest.axes:
            return False
        if len(self.host.ops) + len(self.more) > MAX_OPS or not all(map(self.adds_rows, self.sums)):
            return False
        if any(op not in self.sums and op.record.kind in (Kind.CONTRACT, Kind.REDUCE) for op in self.more):
            return False
        return self.is_own() and not self.depend() and self.is_still()

    def adds_rows(self, op: Operation) -> bool:
        """Does an operation of the guest sum products along the innermost rows of the host, with what lies in memory
        as it is read?
        """
        if op.record.kind is not Kind.CONTRACT or not self.lies(op.operands[1]):
            return False
        left, right, _ = letters(op)
        free = right[-1] not in left and op.operands[1].type.dims[-1] is not ONE
        rows = self.home.rows
        return op.operands[0].type.dims == self.home.space and rows is not None and folds_axis(op, rows) and free

    def lies(self, x: Operand) -> bool:
        """Is an operand what no stream makes, but for views and conversions?"""
        while isinstance(x, Value) and x in self.source.maker:
            op = self.source.maker[x]
            if not (is_free(op) and op.operands and keeps_places(op)) and op.record.law is not Law.SAME:
                break
            x = op.operands[0]
        return isinstance(x, Value) and not any(x in op.results for op in (*self.host.ops, *self.guest.ops))

    def is_own(self) -> bool:
        """Does nobody else read what the guest would no longer make?"""
        gone, f = self.gone(), self.source.f
        if any(isinstance(x, Value) and x in gone for x in f.outputs):
            return False
        readers = {op for v in gone for op in self.source.readers.get(v, ())}
        return all(op in self.guest.ops or not gone.isdisjoint(op.results) for op in readers)

    def depend(self) -> bool:
        """Does one of the two need what the other gives?"""
        sides = {**dict.fromkeys(self.host.ops, 0), **dict.fromkeys(self.guest.ops, 1)}
        late: dict[Value, set[int]] = {}
        for op in self.source.between(tuple(sides)):
            found = set[int]().union(*(late.get(v, ()) for v in op.inputs))
            if op in sides and 1 - sides[op] in found:
                return True
            found |= {sides[op]} if op in sides else set()
            late.update(dict.fromkeys(op.results, found))
        return False

    def is_still(self) -> bool:
        """Is what the rows add up no longer changed by what later points of the sweep bring?"""
        ops = hoist(self.stream().ops, self.host.axes[0])
        try:
            factors(ops, Roles.find(ops, self.host.axes[0]))
        except Apart:
            return False
        return True

    def gone(self) -> set[Value]:
        """What the guest no longer makes, and views of that."""
        found = {r for op in self.again for r in op.results}
        for op in self.source.between(self.guest.ops):
            if is_free(op) and not found.isdisjoint(op.inputs):
                found.update(op.results)
        return found

    @cached_property
    def swapped(self) -> dict[Operation, Operation]:
        """What the host takes over, on what the host has made."""
        alike, gone, stays = self.source.alike, self.gone(), dict(self.there)
        for op in self.source.between((*self.host.ops, *self.guest.ops)):
            stays.update((alike[r], r) for r in op.results if alike[r] not in stays and r not in gone)
        return {
            op: op.with_operands(tuple(stays[alike[x]] if x in gone else x for x in op.operands))  # type: ignore[index]
            for op in self.more
        }

    def stream(self) -> Stream:
        return Stream((*self.host.ops, *self.swapped.values()), self.host.axes)
