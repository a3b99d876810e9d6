"""Which axes of the values in one step of a recurrence are walked with the same index.

An axis along which a step only ever looks at its own position needs no order: each of its points is a recurrence of
its own. The others are loops inside the step.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim
from tessera.ir.graph import Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.loop import Loop
from tessera.ir.record import Kind, Lookup
from tessera.ir.types import TensorType
from tessera.schedule.plan import Unschedulable

#: One axis of a value.
Spot = tuple[Value, int]
Pair = tuple[Spot, Spot]


@dataclass
class Axes:
    """Classes of axes, each under one of its members; ``inner`` are those that a step folds or reads elsewhere."""

    parent: dict[Spot, Spot] = field(default_factory=dict)
    inner: set[Spot] = field(default_factory=set)

    @staticmethod
    def of(ops: Iterable[Operation], alike: Iterable[tuple[Value, Value]]) -> Axes:
        """The classes of a step's values; ``alike`` are values of which the second is the first, one step later.

        Raises Unschedulable where an operation is none of single elements.
        """
        axes = Axes()
        ops = tuple(ops)
        for a, b in alike:
            for n in range(a.type.rank):
                axes.join((a, n), (b, n))
        marks: list[Spot] = []
        for op in ops:
            for one, other in _links(op, marks):
                axes.join(one, other)
        for v in dict.fromkeys(v for op in ops for v in (*op.inputs, *op.results)):
            marks.extend(axes.twice(v))
        axes.inner = {axes.find(s) for s in marks}
        return axes

    def find(self, spot: Spot) -> Spot:
        root = spot
        while (up := self.parent.get(root, root)) != root:
            root = up
        while (up := self.parent.get(spot, spot)) != root:
            self.parent[spot], spot = root, up
        return root

    def join(self, a: Spot, b: Spot) -> None:
        """Two axes of one size have one index; an axis of size 1 has none."""
        if ONE not in (_size(a), _size(b)):
            self.parent[self.find(b)] = self.find(a)

    def twice(self, v: Value) -> Iterator[Spot]:
        """The axes of a value that share their index with another one of it."""
        found = [self.find((v, n)) for n, d in enumerate(v.type.dims) if d is not ONE]
        return (s for s in found if found.count(s) > 1)

    def classes(self, v: Value) -> list[Spot]:
        """The classes of a value's axes, those of size 1 left out."""
        return [self.find((v, n)) for n, d in enumerate(v.type.dims) if d is not ONE]

    def elsewhere(self, op: Operation) -> Iterator[Spot]:
        """The axes that a view reads elsewhere than at the position of its result."""
        marks: list[Spot] = []
        list(_viewed(op, marks))
        return iter(marks)

    def own(self, v: Value) -> list[int]:
        """The axes of a value that are loops inside the step."""
        return [n for n, d in enumerate(v.type.dims) if d is not ONE and self.find((v, n)) in self.inner]


def _size(spot: Spot) -> Dim:
    v, n = spot
    return v.type.dims[n]


def _links(op: Operation, inner: list[Spot]) -> Iterator[Pair]:
    """The axes that an operation walks together; those that it folds, or reads elsewhere, are added to ``inner``."""
    kind = op.record.kind
    if kind in (Kind.VIEW, Kind.INDEX):
        yield from _viewed(op, inner)
    elif kind is Kind.REDUCE:
        yield from _reduced(op, inner)
    elif kind is Kind.CONTRACT:
        yield from _contracted(op, inner)
    elif kind is Kind.MAP:
        r = op.result
        for x in op.inputs:
            shift = r.type.rank - x.type.rank
            yield from (((r, n + shift), (x, n)) for n in range(x.type.rank))
    elif kind is Kind.CONTROL:
        yield from _looped(op, inner)
    elif kind not in (Kind.CREATE, Kind.RANDOM):
        raise Unschedulable(f"`{op.name}` is a call of its own in every step")


def _looped(op: Operation, inner: list[Spot]) -> Iterator[Pair]:
    """A loop in the step: what it carries, and slices of what it walks along."""
    loop = Loop.of(op)
    if loop.stacks or loop.rows:
        raise Unschedulable(f"`{op.name}` in every step that keeps more than it carries")
    for same in zip(loop.carries, loop.init, loop.last, strict=True):
        first, *others = (v for v in same if isinstance(v, Value))
        yield from (((first, n), (v, n)) for v in others for n in range(v.type.rank))
    for x, part in zip(loop.xs, loop.slices, strict=True):
        if isinstance(x, Value):
            inner.append((x, loop.dim))
            rest = [n for n in range(x.type.rank) if n != loop.dim]
            yield from (((x, n), (part, to)) for to, n in enumerate(rest))


def _reduced(op: Operation, inner: list[Spot]) -> Iterator[Pair]:
    (x,), folded = op.operands, op.axes()
    if not isinstance(x, Value):
        return
    inner.extend((x, n) for n in folded)
    rest = [n for n in range(x.type.rank) if n not in folded]
    for r in op.results:
        at = range(r.type.rank) if not op.attrs.get("keepdim") else rest
        yield from (((r, to), (x, n)) for to, n in zip(at, rest, strict=True))


def _contracted(op: Operation, inner: list[Spot]) -> Iterator[Pair]:
    left, right, result = letters(op)
    at: dict[str, Spot] = {c: (op.result, n) for n, c in enumerate(result)}
    for part, x in zip((left, right), op.operands, strict=True):
        if not isinstance(x, Value):
            continue
        for n, c in enumerate(part):
            if c not in result:
                inner.append((x, n))
            if c in at:
                yield at[c], (x, n)
            at.setdefault(c, (x, n))


def _viewed(op: Operation, inner: list[Spot]) -> Iterator[Pair]:
    """A position that is the result's own along an axis links the two; any other is read elsewhere."""
    kind, record = op.result.type, op.record
    assert isinstance(kind, TensorType) and record.pieces is not None
    names = {f"_i{n}": n for n in range(kind.rank)}
    index = tuple(Dim.name(n) for n in names)

    def follow(x: Operand, axis: int, e: Dim) -> Iterator[Pair]:
        if not isinstance(x, Value) or x.type.dims[axis] is ONE:
            return
        if e.is_name and kind.dims[names[str(e)]] is x.type.dims[axis]:
            yield (op.result, names[str(e)]), (x, axis)
        else:
            inner.append((x, axis))
            inner.extend((op.result, names[n]) for n in e.names() if n in names)

    for piece in record.pieces(index, [x.type for x in op.operands], kind, op.attrs):
        if not isinstance(piece.operand, int):
            continue
        x = op.operands[piece.operand]
        for axis, e in enumerate(piece.index):
            if isinstance(e, Lookup):
                if isinstance(x, Value):
                    inner.append((x, axis))
                for n, part in enumerate(e.index):
                    yield from follow(op.operands[e.operand], n, part)
            else:
                yield from follow(x, axis, e)
