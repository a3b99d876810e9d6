"""Which operations a kernel around a contraction takes in: what would otherwise go through memory as large as the
contraction's result.

From each contraction the operations on its result are followed: elementwise work, folds along one of its axes,
contractions over that axis, and what is made of those. They become one group when nothing of the size of the
contraction's result is read elsewhere, and when the folds can share one sweep (``ir.online``).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import prod

from tessera.diag import ShapeError
from tessera.ir.dialects.contract import extents, letters
from tessera.ir.dim import ZERO, Dim
from tessera.ir.graph import Attr, Function, Operand, Operation, Value, users
from tessera.ir.infer import ONE
from tessera.ir.online import Apart, factors
from tessera.ir.record import Kind, Law
from tessera.ir.roles import Role, Roles, folds_axis
from tessera.ir.types import TensorType
from tessera.passes.grouping import MAX_OPS, POINTWISE, is_free, space
from tessera.passes.hoist import hoist

#: A contraction of at least so many multiplications is faster as a kernel than in a library, where its rows and columns
#: are not few.
ALONE, NARROW = 1 << 21, 8


@dataclass(frozen=True, slots=True)
class Stream:
    """The operations of one such kernel, in order, and the axes of the contraction's result that are swept as one."""

    ops: tuple[Operation, ...]
    axes: tuple[int, ...]
    form: str = "stream"

    @property
    def attrs(self) -> Mapping[str, Attr]:
        return {"axes": self.axes}


def find_streams(
    f: Function, library: Container[str] = (), lookups: bool = True, folds: bool = True,
    sizes: Mapping[str, int] | None = None, integers: bool = True,
) -> list[Stream]:  # fmt: skip
    """The streams of a function; the options are those of ``Fuse``."""
    found: list[Stream] = []
    taken: set[Operation] = set()
    readers = users(f.body)
    place = {op: n for n, op in enumerate(f.ops)}
    maker = {r: op for op in f.ops for r in op.results}
    knots = _Knots(readers, place)
    for number, op in enumerate(f.ops):
        if op.record.kind is Kind.CONTRACT and op not in taken:
            plain = not any(x.type.dtype.name in library for x in op.operands)
            source = _Source(f, number, readers, place, maker, taken, lookups, sizes or {}, integers)
            stream = _around(source, plain, folds)
            if stream is not None and knots.free(stream):
                taken.update(stream.ops)
                found.append(stream)
    return found


@dataclass
class _Knots:
    """What keeps streams from becoming kernels: two of which each reads what the other makes have no order. ``home``
    has of each operation of a stream, and each view of what one makes, all that go with it; ``spans`` has where each
    stream begins and ends.
    """

    readers: Mapping[Value, Sequence[Operation]]
    place: Mapping[Operation, int]
    home: dict[Operation, list[Operation]] = field(default_factory=dict)
    spans: list[tuple[int, int]] = field(default_factory=list)

    def free(self, stream: Stream) -> bool:
        """Does nothing that a stream makes come back to it through the others? Then it is one of them."""
        whole = [*stream.ops]
        for op in whole:  # grows
            whole += (view for view in self.read(op) if is_free(view))
        first, last = (self.place[stream.ops[n]] for n in (0, -1))
        for begin, end in sorted(self.spans):
            last = max(last, end) if begin < last else last
        own, seen = set(whole), set[Operation]()
        pending = [reader for op in whole for reader in self.read(op) if reader not in own]
        while pending:
            op = pending.pop()
            if op in own:
                return False
            if op not in seen and self.place[op] <= last:
                made = self.home.get(op, [op])
                seen.update(made)
                pending.extend(reader for other in made for reader in self.read(other))
        self.home.update(dict.fromkeys(whole, whole))
        self.spans.append((first, self.place[stream.ops[-1]]))
        return True

    def read(self, op: Operation) -> Iterator[Operation]:
        """Who reads what an operation makes."""
        return (reader for r in op.results for reader in self.readers.get(r, ()))


@dataclass(frozen=True)
class _Source:
    """A contraction to grow a stream from: the operation ``number`` of a function, who reads what in it, where each
    operation stands, what other streams have taken, the sizes that are known, and whether integers are taken.
    """

    f: Function
    number: int
    readers: Mapping[Value, Sequence[Operation]]
    place: Mapping[Operation, int]
    maker: Mapping[Value, Operation]
    taken: Set[Operation]
    lookups: bool
    sizes: Mapping[str, int]
    integers: bool

    @property
    def is_large(self) -> bool:
        """Is the contraction a kernel for its own sake? Of floats known sizes say so."""
        op = self.f.ops[self.number]
        if not op.result.type.dtype.is_float:
            return True  # libraries have no fast ones
        if not self.sizes:
            return False
        left, right, result = letters(op)
        try:
            lengths = {c: d.evaluate(self.sizes) for c, d in extents(op).items()}
        except ShapeError:
            return False
        rows, columns = (
            prod(n for c, n in lengths.items() if c in result and (c in left) is mine and (c in right) is not mine)
            for mine in (True, False)
        )
        return rows >= NARROW and columns >= NARROW and prod(lengths.values()) >= ALONE


def _around(source: _Source, plain: bool, folds: bool) -> Stream | None:
    """The stream of one contraction: swept along the last axis that allows folds, else along the axes of its first
    operand alone, so that what is stored is contiguous along the others.
    """
    op = source.f.ops[source.number]
    kind = op.result.type
    if kind.dtype.is_bool or not (kind.dtype.is_float or source.integers):
        return None
    left, right, result = letters(op)
    for axis in reversed(range(kind.rank)) if folds and kind.dtype.is_float else ():
        if kind.dims[axis] is ONE or (result[axis] in left and result[axis] in right):
            continue
        stream = _Growth(source, (axis,)).run(folds=True)
        if stream is not None:
            return stream
    rows = tuple(n for n, c in enumerate(result) if c in left and c not in right)
    if not plain or not rows or all(kind.dims[a] is ONE for a in rows) or result[-1] in left or kind.dims[-1] is ONE:
        return None
    return _Growth(source, rows).run(folds=False)


@dataclass
class _Growth:
    source: _Source
    axes: tuple[int, ...]
    roles: dict[Value, Role] = field(default_factory=dict)
    members: list[Operation] = field(default_factory=list)
    inside: set[Operation] = field(default_factory=set)
    #: What depends on the contraction and is not part of the stream.
    outside: set[Value] = field(default_factory=set)

    @property
    def axis(self) -> int:
        return self.axes[0]

    def __post_init__(self) -> None:
        self.f, self.readers, self.taken = self.source.f, self.source.readers, self.source.taken
        self.number = self.source.number

    def run(self, folds: bool) -> Stream | None:
        start = self.f.ops[self.number]
        self.space = start.result.type.dims
        self.last = self.number
        self.join(start, Role.FULL)
        if not folds:
            self.reach(v for v in start.operands[:1] if isinstance(v, Value))
        number = self.number + 1
        while number <= self.last:  # joining may move the end
            op = self.f.ops[number]
            if not folds and self.is_sibling(start, op):
                self.join(op, Role.FULL)
            else:
                self.visit(op)
            number += 1
        self.trim()
        found = any(self.role_of(op.operands[0]) is Role.FULL and self.folds(op) for op in self.members)
        if found is not folds or (len(self.members) == 1 and not self.source.is_large):
            return None
        if folds and any(self.leaves(v) for v, role in self.roles.items() if role is Role.FULL):
            return None
        ops = tuple(self.before()) + tuple(self.members)
        stream = Stream(tuple(sorted(ops, key=self.source.place.__getitem__)), self.axes)
        try:
            hoisted = hoist(stream.ops, self.axis)
            factors(hoisted, Roles.find(hoisted, self.axis))
        except Apart:
            return None
        return stream

    def is_sibling(self, start: Operation, op: Operation) -> bool:
        """Is ``op`` a contraction of the same first operand into the same space, and not one of what comes of it?"""
        return (
            op.record.kind is Kind.CONTRACT
            and op not in self.taken
            and op.operands[0] is start.operands[0]
            and op.result.type == start.result.type
            and letters(op) == letters(start)
            and not any(v in self.outside or v in self.roles for v in op.inputs)
        )

    def trim(self) -> None:
        """Leave out what others read and can make themselves from something that is stored for them anyway."""
        for op in reversed(self.members[1:]):
            mine = [v for v in op.inputs if self.role_of(v) is not Role.FREE]
            if op.record.kind is not Kind.MAP or op.result in self.f.outputs or not self.leaves(op.result):
                continue
            if any(reader in self.inside for reader in self.readers.get(op.result, ())):
                continue
            if mine and all(self.leaves_besides(v, op) for v in mine):
                self.members.remove(op)
                self.inside.remove(op)
                del self.roles[op.result]

    def leaves_besides(self, v: Value, op: Operation) -> bool:
        """Is ``v`` read outside of the stream, by others than ``op``?"""
        others = [reader for reader in self.readers.get(v, ()) if reader is not op]
        return v in self.f.outputs or any(not is_free(o) and o not in self.inside for o in others)

    def folds(self, op: Operation) -> bool:
        return len(self.axes) == 1 and folds_axis(op, self.axis)

    def role_of(self, x: object) -> Role:
        return self.roles.get(x, Role.FREE) if isinstance(x, Value) else Role.FREE

    def join(self, op: Operation, role: Role) -> None:
        self.members.append(op)
        self.inside.add(op)
        self.roles.update(dict.fromkeys(op.results, role))
        self.reach(op.results)

    def reach(self, values: Iterable[Value]) -> None:
        """Look at operations up to the last that reads one of the values."""
        places = (self.source.place[op] for v in values for op in self.readers.get(v, ()))
        self.last = max(self.last, *places, self.number)

    def visit(self, op: Operation) -> None:
        read = {self.role_of(x) for x in op.operands} - {Role.FREE}
        apart = any(v in self.outside for v in op.inputs)
        if not read and not apart:
            return
        role = None if apart or op in self.taken or len(self.members) >= MAX_OPS else self.role(op, read)
        if role is None:
            self.outside.update(op.results)
        elif is_free(op):
            self.roles[op.result] = role
            self.reach(op.results)
        else:
            self.join(op, role)

    def role(self, op: Operation, read: set[Role]) -> Role | None:
        """The role of an operation that reads values of the stream; None when it cannot be part of it."""
        first, *others = op.operands
        if op.record.kind in (Kind.REDUCE, Kind.CONTRACT):
            if self.role_of(first) is not Role.FULL or any(self.role_of(x) is not Role.FREE for x in others):
                return None
            if not self.folds(op) or first.type.dims != self.space or not self.shares_batch(op):
                return None
            return Role.KEPT if op.record.kind is Kind.REDUCE else Role.OUT
        if op.record.kind not in POINTWISE:
            return None
        if op.record.kind is Kind.INDEX:
            return self.looked_up(op) if self.source.lookups else None
        if is_free(op):
            (role,) = read if len(read) == 1 else (None,)
            return role if role is not Role.FULL and keeps_places(op) else None
        kept = tuple(d for a, d in enumerate(self.space) if a != self.axis)
        dims = op.results[0].type.dims
        if Role.OUT in read:
            sizes = {space(x.type) for x in op.operands if self.role_of(x) is Role.OUT}
            return Role.OUT if Role.FULL not in read and sizes == {space(op.results[0].type)} else None
        if Role.FULL in read:
            return Role.FULL if dims == self.space else None
        if space(op.results[0].type) == space(TensorType(op.results[0].type.dtype, kept)):
            return Role.KEPT
        return Role.FULL if dims == self.space else None

    def shares_batch(self, op: Operation) -> bool:
        """Has the other operand of a contraction over the swept axis none of the space's rows, only its batch?"""
        if op.record.kind is not Kind.CONTRACT:
            return True
        a, b, space = letters(self.f.ops[self.number])
        left, right, _ = letters(op)
        rows = (n for n, c in enumerate(left) if c in right and n != self.axis)
        return all(space[n] in a and space[n] in b for n in rows)

    def looked_up(self, op: Operation) -> Role | None:
        """A value of the space read at one point of each row."""
        first, *others = op.operands
        if self.role_of(first) is not Role.FULL or any(self.role_of(x) is not Role.FREE for x in others):
            return None
        kept = tuple(d for a, d in enumerate(self.space) if a != self.axis and d is not ONE)
        return Role.KEPT if first.type.dims == self.space and space(op.results[0].type) == kept else None

    def leaves(self, v: Value) -> bool:
        """Is ``v`` given back, or read by something that is no part of the stream?"""
        if v in self.f.outputs:
            return True
        for op in self.readers.get(v, ()):
            if is_free(op):
                if self.leaves(op.result):
                    return True
            elif op not in self.inside:
                return True
        return False

    def before(self) -> Iterator[Operation]:
        """Operations that only the stream reads, through which no large tensor needs to go: masks and biases, what is
        read over and over in another form than it lies in, and contractions over the same space.
        """
        ahead = list(self.ahead(frozenset()))
        contractions = [op for op in (*self.members, *ahead) if op.record.kind is Kind.CONTRACT]
        self.inside.difference_update(ahead)
        yield from self.ahead(self.lying(contractions))

    def ahead(self, lying: Set[Value]) -> Iterator[Operation]:
        """The operations behind the members' operands that nothing else reads, up to those that give ``lying``."""
        pending = [x for op in self.members for x in op.operands]
        while pending:
            x = pending.pop()
            op = self.source.maker.get(x) if isinstance(x, Value) else None
            if op is None or op in self.inside or op in self.taken:
                continue
            alike = op.record.kind is Kind.CONTRACT and op.result.type.dims == self.space
            if not alike and op.record.kind not in POINTWISE:
                continue
            if is_free(op):
                pending.extend(op.operands)
            elif not any(r in lying or self.leaves(r) for r in op.results):
                self.inside.add(op)
                yield op
                pending.extend(op.operands)

    def lying(self, contractions: Sequence[Operation]) -> set[Value]:
        """What contractions read from where it lies: it is not made anew for every read. Views are looked through, and
        conversions, which are cheaper than what they make would be to store.
        """
        found: set[Value] = set()
        pending = [x for op in contractions for x in self.parted(op)[1]]
        while pending:
            x = pending.pop()
            made = self.source.maker.get(x) if isinstance(x, Value) else None
            if made is not None and made.record.law is Law.SAME:
                pending.extend(made.operands)
            elif isinstance(x, Value) and x not in found:
                found.add(x)
                pending.extend(made.operands if made is not None and is_free(made) else ())
        return found

    def parted(self, op: Operation) -> tuple[list[Operand], list[Operand]]:
        """The operands of a contraction that are brought into another form once, and those that it reads again for
        every vector of the others, along the swept axis.
        """
        left, right, result = letters(op)
        space = left if self.role_of(op.operands[0]) is Role.FULL else result
        swept = {space[a] for a in self.axes}
        pairs = zip(op.operands, (left, right), strict=True)
        found: tuple[list[Operand], list[Operand]] = ([], [])
        for x, part in pairs:
            found[not swept.isdisjoint(part)].append(x)
        return found


def keeps_places(op: Operation) -> bool:
    """Is a view the whole tensor itself, but for axes of size 1 and repetition? The first part of one is not."""
    kind = op.result.type
    assert isinstance(kind, TensorType) and op.record.pieces is not None
    index = tuple(ZERO if d is ONE else Dim.name(f"_i{axis}") for axis, d in enumerate(kind.dims))
    (piece,) = op.record.pieces(index, [x.type for x in op.operands], kind, op.attrs)
    assert isinstance(piece.operand, int)
    source = op.operands[piece.operand].type.dims
    read = [(e, d) for e, d in zip(piece.index, source, strict=True) if e is not ZERO]
    rest = iter(zip(index, kind.dims, strict=True))
    return all(any(pair == other for other in rest) for pair in read)
