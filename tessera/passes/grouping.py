"""Which operations share a kernel: a greedy partition that never creates a cycle.

Operations are taken in order. Each joins the group of one of its operands when the two fit into one kernel form, and
pulls the groups of its other operands in when those fit as well. Pure views and functions of the position alone cost
nothing to repeat, so they belong to no group: every group that reads one carries its own copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from tessera.ir.dim import Dim, product
from tessera.ir.folds import FOLDS, folded_axes
from tessera.ir.graph import Attr, Function, Operation, Value, users
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.ir.types import TensorType, Type
from tessera.passes.apart import Cause, Obstacle

Space = tuple[Dim, ...]
#: One C function of more statements than this compiles in more than linear time.
MAX_OPS = 512
#: Work that may be repeated for every element of a larger space instead of being stored once.
CHEAP_FLOPS = 4
#: Elements that one thread is soon done with.
SOON_DONE = 16384

POINTWISE = frozenset({Kind.MAP, Kind.VIEW, Kind.INDEX, Kind.CREATE, Kind.RANDOM})

#: Forms whose groups nothing else joins, and why.
CLOSED = {"extern": Obstacle.LIBRARY, "stream": Obstacle.STREAM, "recurrence": Obstacle.RECURRENCE}


def space(t: Type) -> Space:
    """The dims of a value without the literal 1."""
    return tuple(d for d in t.dims if d is not ONE)


def is_free(op: Operation) -> bool:
    """A view that only renames positions, or a function of the position alone: repeating it moves no bytes."""
    if op.record.kind is Kind.CREATE:
        return True
    if op.record.kind is not Kind.VIEW or op.record.pieces is None:
        return False
    kind = op.result.type
    assert isinstance(kind, TensorType)
    index = tuple(Dim.name(f"_i{axis}") for axis in range(kind.rank))
    pieces = op.record.pieces(index, [x.type for x in op.operands], kind, op.attrs)
    return len(pieces) == 1 and isinstance(pieces[0].operand, int) and not pieces[0].box


class Gathered(Protocol):
    """Operations that were found to share a kernel beforehand: its form, and the attributes of its region."""

    @property
    def ops(self) -> tuple[Operation, ...]: ...

    @property
    def form(self) -> str: ...

    @property
    def attrs(self) -> Mapping[str, Attr]: ...


@dataclass
class Group:
    """A kernel in the making. ``kept`` is the space left by its reductions, ``tail`` the one left by reducing that
    again. ``ordered`` says that a scan takes its many elements one after the other, so that only one thread can.
    """

    number: int
    form: str
    space: Space
    kept: Space | None = None
    tail: Space | None = None
    ops: list[int] = field(default_factory=list)
    flops: int = 0
    ordered: bool = False
    #: What sums over all rows of the space leave, where its rows are folded as well.
    columns: Space | None = None

    def adopt(self, other: Group) -> None:
        self.ops = sorted(self.ops + other.ops)
        self.flops += other.flops
        self.kept = other.kept if self.kept is None else self.kept
        self.form = self.form if self.form != "map" else other.form
        self.ordered |= other.ordered
        self.columns = self.columns or other.columns


@dataclass
class Grouping:
    """The state of the partition of one function."""

    f: Function
    #: For operations that belong together (see ``streams`` and ``recurrences``) what they belong to.
    gathered: Mapping[Operation, Gathered] = field(default_factory=dict)
    #: Whether one kernel can fold the rows of a space and add up what it makes down all of them.
    across: bool = False
    groups: dict[int, Group] = field(default_factory=dict)
    home: dict[Value, int] = field(default_factory=dict)
    roots: dict[Value, tuple[Value, ...]] = field(default_factory=dict)
    #: By group, as bit sets of groups: everything that comes before it, and what it reads itself.
    behind: dict[int, int] = field(default_factory=dict)
    reads: dict[int, int] = field(default_factory=dict)
    late: set[Value] = field(default_factory=set)
    readers: Mapping[Value, list[Operation]] = field(default_factory=dict)
    position: dict[int, int] = field(default_factory=dict)
    begun: dict[int, Group] = field(default_factory=dict)

    def run(self) -> Grouping:
        self.readers = users(self.f.body)
        for number, op in enumerate(self.f.ops):
            self.position[id(op)] = number
            if is_free(op):
                self.roots[op.result] = tuple(dict.fromkeys(r for v in op.inputs for r in self.root(v)))
            else:
                self.place(number, op)
        self.merge_siblings()
        while self.merge_neighbours():
            pass
        if self.across:
            self.merge_across()
            while self.merge_neighbours():
                pass
        return self

    def root(self, v: Value) -> tuple[Value, ...]:
        """The stored values that ``v`` is a free function of."""
        return self.roots.get(v, (v,))

    def sources(self, op: Operation) -> Iterator[int]:
        """The groups that ``op`` reads from, latest first."""
        found = {self.home[r] for v in op.inputs for r in self.root(v) if r in self.home}
        return iter(sorted(found, reverse=True))

    def place(self, number: int, op: Operation) -> None:
        sources = list(self.sources(op))
        whole = self.gathered.get(op)
        chosen = None if whole is None else self.begun.get(id(whole))
        if (whole is None and op.record.kind in POINTWISE) or op.record.kind is Kind.REDUCE or scans(op):
            for source in sources:
                group = self.groups[source]
                if len(group.ops) < MAX_OPS and self.acyclic(source, sources) and self.fits(group, op):
                    chosen = group
                    break
        if chosen is None:
            chosen = self.fresh(number, op)
        if whole is not None:
            chosen.form = whole.form
            self.begun[id(whole)] = chosen
        self.join(chosen, number, op, sources)
        for source in sources:
            if source in self.groups and source != chosen.number and chosen.form not in CLOSED:
                self.try_merge(chosen, self.groups[source])

    def fresh(self, number: int, op: Operation) -> Group:
        kind = op.record.kind
        if kind is Kind.REDUCE or scans(op):
            group = Group(number, reduction_form(op), space(op.operands[0].type), left(op))
        elif kind in POINTWISE:
            group = Group(number, "map", space(op.result.type))
        else:
            group = Group(number, "extern", ())
        self.groups[number] = group
        self.behind[number] = self.reads[number] = 0
        return group

    def join(self, group: Group, number: int, op: Operation, sources: Sequence[int]) -> None:
        group.ops.append(number)
        group.flops += work(op)
        group.ordered |= in_order(op)
        for r in op.results:
            self.home[r] = group.number
        if any(r in self.late for v in op.inputs for r in self.root(v)) or (
            group.tail is not None and op.record.kind is Kind.REDUCE and space(op.operands[0].type) == group.kept
        ):
            self.late.update(op.results)
        fresh = 0
        for source in sources:
            if source != group.number:
                fresh |= self.behind[source] | 1 << source
                self.reads[group.number] |= 1 << source
        if number == group.number:  # nothing reads a new group yet
            self.behind[number] = fresh
        else:
            self.depend(group.number, fresh)

    def depend(self, number: int, on: int) -> None:
        """Group ``number`` now also comes after the groups in the bit set ``on``, and so does whatever comes after
        it.
        """
        if on & ~self.behind[number] == 0:
            return
        bit = 1 << number
        for other, before in self.behind.items():
            if other == number or before & bit:
                self.behind[other] = before | on

    def acyclic(self, target: int, sources: Sequence[int]) -> bool:
        bit = 1 << target
        return not any(self.behind[s] & bit for s in sources if s != target)

    def fits(self, group: Group, op: Operation) -> bool:
        if group.form in CLOSED:
            return False
        if (group.ordered or in_order(op)) and group.flops + work(op) > CHEAP_FLOPS:
            return False
        late = any(r in self.late for v in op.inputs for r in self.root(v))
        out = space(op.results[0].type)
        if op.record.kind in FOLDS:
            return not late and self.fits_reduction(group, op, left(op))
        if group.tail is not None and (late or out == group.tail):
            return out == group.tail
        if out == group.space or (group.kept is not None and out == group.kept):
            return True
        return group.kept is None and self.absorbs(group, op, out)

    def fits_reduction(self, group: Group, op: Operation, out: Space) -> bool:
        read = space(op.operands[0].type)
        if group.kept is None:
            if read != group.space:
                return False
            group.kept, group.form = out, reduction_form(op)
            return True
        if read == group.space:
            return out == group.kept
        if read == group.kept and group.tail in (None, out) and len(out) < len(read) and not scans(op):
            group.tail = out
            return True
        return False

    def absorbs(self, group: Group, op: Operation, out: Space) -> bool:
        """May the whole map group be computed inside a kernel over another space, where ``op`` reads it?"""
        if out[: len(group.space)] == group.space:
            group.space = out
            return True
        members = {r for n in group.ops for r in self.f.ops[n].results}
        outputs = {v for v in self.f.outputs if isinstance(v, Value)}
        if len(out) > len(group.space) and group.flops > CHEAP_FLOPS:
            return False
        for v in members:
            if v in outputs or not self.reaches_only(v, op, members):
                return False
        group.space = out
        return True

    def reaches_only(self, v: Value, op: Operation, members: set[Value]) -> bool:
        """Is every reader of ``v``, free views looked through, inside the group or ``op`` itself?"""
        pending = [v]
        while pending:
            for reader in self.readers.get(pending.pop(), ()):
                if reader is op or any(r in members for r in reader.results):
                    continue
                if reader.results[0] not in self.roots:
                    return False
                pending.append(reader.result)
        return True

    def try_merge(self, a: Group, b: Group) -> bool:
        """Join ``b`` into ``a`` when nothing is in the way."""
        if self.obstacle(a, b) is not None:
            return False
        self.merge(a, b)
        return True

    def merge(self, a: Group, b: Group) -> None:
        del self.groups[b.number]
        for n in b.ops:
            for r in self.f.ops[n].results:
                self.home[r] = a.number
        a.adopt(b)
        bit_a, bit_b = 1 << a.number, 1 << b.number
        joined = (self.behind[a.number] | self.behind.pop(b.number)) & ~(bit_a | bit_b)
        self.reads[a.number] = (self.reads[a.number] | self.reads.pop(b.number)) & ~(bit_a | bit_b)
        for other, before in self.behind.items():
            if before & (bit_a | bit_b):
                self.behind[other] = (before & ~bit_b) | bit_a | joined
                if self.reads[other] & bit_b:
                    self.reads[other] = (self.reads[other] & ~bit_b) | bit_a
        self.behind[a.number] = joined

    def obstacle(self, a: Group, b: Group) -> Cause | None:
        """What keeps ``b`` from becoming part of ``a``: they must share a space, and neither may wait for the other
        through a third group.
        """
        for group in (a, b):
            if group.form in CLOSED:
                return Cause(CLOSED[group.form], (self.closing(group),))
        if len(a.ops) + len(b.ops) > MAX_OPS:
            return Cause(Obstacle.SIZE, (len(a.ops) + len(b.ops), MAX_OPS))
        if (a.ordered or b.ordered) and a.flops + b.flops > CHEAP_FLOPS:
            return Cause(Obstacle.ORDER, (a.flops + b.flops,))
        if a.tail is not None or b.tail is not None:
            return Cause(Obstacle.REDUCED)
        if a.space != b.space and not (b.kept is None and (a.space[: len(b.space)] == b.space or self.parts(a, b))):
            repeats = b.kept is None and set(b.space) < set(a.space)
            return Cause(Obstacle.REPEAT if repeats else Obstacle.LOOPS, (b.space, a.space))
        if a.kept is not None and b.kept is not None and a.kept != b.kept:
            return Cause(Obstacle.AXES, (b.kept, a.kept))
        columns = a.columns or b.columns
        if columns is not None and self.waits((*a.ops, *b.ops), columns):
            return Cause(Obstacle.AXES, (columns, a.space))
        between = self.between(a.number, b.number) or self.between(b.number, a.number)
        return None if between is None else Cause(Obstacle.BETWEEN, (f"`{self.f.ops[between.ops[0]].name}`",))

    def parts(self, a: Group, b: Group) -> bool:
        """Are the values of ``b`` parts of those of ``a``, which alone reads them, as the halves of a tensor are?"""
        if a.kept is not None or len(a.space) != len(b.space):
            return False
        members = {r for n in (*a.ops, *b.ops) for r in self.f.ops[n].results}
        own = [r for n in b.ops for r in self.f.ops[n].results]
        return not any(r in self.f.outputs for r in own) and all(
            self.reaches_only(r, self.f.ops[b.ops[0]], members) for r in own
        )

    def closing(self, group: Group) -> str:
        """The name of the operation that keeps others out of a group."""
        ops = [self.f.ops[n] for n in group.ops]
        return next((op for op in ops if op.record.kind is Kind.CONTROL), ops[0]).name

    def between(self, late: int, early: int) -> Group | None:
        """A third group after ``early`` and before ``late``."""
        bit = 1 << early
        rest = self.reads[late] & ~bit
        while rest:  # a way from one to the other ends in a group that the late one reads itself
            last = rest.bit_length() - 1
            if self.behind[last] & bit:
                return self.groups[last]
            rest ^= 1 << last
        return None

    def merge_siblings(self) -> None:
        """Groups that read the same stored value over the same space read it once."""
        readers: dict[Value, list[int]] = {}
        for number, group in self.groups.items():
            for n in group.ops:
                for v in self.f.ops[n].inputs:
                    for r in self.root(v):
                        if self.home.get(r) != number and space(r.type) == group.space:
                            readers.setdefault(r, []).append(number)
        for numbers in readers.values():
            first = next((n for n in numbers if n in self.groups), None)
            for n in dict.fromkeys(numbers):
                if first is not None and n != first and n in self.groups and self.groups[first].form not in CLOSED:
                    self.try_merge(self.groups[first], self.groups[n])

    def merge_neighbours(self) -> bool:
        """Join groups with those they read, where they came to share their loops only after both were decided."""
        merged = False
        for number in sorted(self.groups):
            ops = self.groups[number].ops if number in self.groups else ()
            read = {self.home[r] for n in ops for v in self.f.ops[n].inputs for r in self.root(v) if r in self.home}
            for source in sorted(read - {number}, reverse=True):
                merged |= self.try_merge(self.groups[number], self.groups[source])
        return merged

    def merge_across(self) -> None:
        """Join what folds the rows of a space and what adds up over all of them: both read it once."""
        for rows in [g for g in self.groups.values() if g.form == "row"]:
            for columns in [g for g in self.groups.values() if g.form == "column"]:
                if self.crosses(rows, columns):
                    rows.columns = columns.kept
                    self.merge(rows, columns)

    def crosses(self, rows: Group, columns: Group) -> bool:
        """May one kernel do both?"""
        if rows.space != columns.space or len(rows.ops) + len(columns.ops) > MAX_OPS:
            return False
        *outer, last = rows.space
        if last in outer or rows.kept != tuple(outer) or columns.kept != (last,):
            return False
        if rows.tail or columns.tail or rows.ordered or columns.ordered:
            return False
        if self.between(rows.number, columns.number) or self.between(columns.number, rows.number):
            return False
        return not self.waits((*rows.ops, *columns.ops), columns.kept)

    def waits(self, numbers: Sequence[int], columns: Space) -> bool:
        """Does anything of a row wait for a sum over all of them, or is a fold none that can be made in parts?"""
        late: set[Value] = set()
        for op in (self.f.ops[n] for n in sorted(numbers)):
            if scans(op):
                return True
            down = op.record.kind is Kind.REDUCE and left(op) == columns
            if down and not (op.record.reduction and op.record.reduction.adds_up):
                return True
            if down or any(r in late for v in op.inputs for r in self.root(v)):
                late.update(op.results)
                if any(space(r.type) not in ((), columns) for r in op.results):
                    return True
        return False


def scans(op: Operation) -> bool:
    """Does an operation keep what it has reached along an axis? A single element leaves nothing to go along."""
    if op.record.kind is not Kind.SCAN or not op.operands[0].type.rank:
        return False
    return op.operands[0].type.dims[folded_axes(op)[0]] is not ONE


def work(op: Operation) -> int:
    """Arithmetic per element that could as well stand in another kernel."""
    return 0 if op.record.kind is Kind.SCAN else op.record.flops


def in_order(op: Operation) -> bool:
    """Does a scan leave no loop whose iterations can run at once, though it has, or may have, many elements?"""
    if not scans(op) or left(op):
        return False
    size = product(op.operands[0].type.dims)
    return not (size.is_const and size.value <= SOON_DONE)


def left(op: Operation) -> Space:
    """The space without the axes that a reduction or a scan goes along."""
    axes = folded_axes(op)
    return tuple(d for a, d in enumerate(op.operands[0].type.dims) if a not in axes and d is not ONE)


def reduction_form(op: Operation) -> str:
    """``column`` when the last dim survives the reduction, or is not the one that is scanned; else ``row``."""
    dims = folded_axes(op)
    rank = op.operands[0].type.rank
    return "column" if rank and rank - 1 not in dims and len(dims) < rank else "row"
