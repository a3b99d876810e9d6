"""What the steps of a scan are by algebra, where each carry ``s`` only ever becomes ``a s + k1 u1 + k2 u2 + …``.

One axis of the carry is what reads of it sum over: the depth. A factor ``a`` and the ``k`` differ along it or not, and
depend on nothing that is carried; the ``u`` do not have it, and may depend on reads in any way. Everything else that
happens to a carry is refused, see ``NotAffine``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim
from tessera.ir.graph import Operand, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.loop import Loop
from tessera.ir.record import Kind, Law
from tessera.ir.types import TensorType, Type

#: What an axis runs along: an axis of the carry, by number, or another one, by name. None for an axis of size 1.
Label = int | str
Labels = tuple[Label | None, ...]


class NotAffine(Exception):
    """The steps are no such recurrence; the message says why."""


@dataclass(frozen=True, slots=True)
class Factor:
    """A value of the step that something is multiplied by, and what its axes run along."""

    value: Operand
    labels: Labels


@dataclass(frozen=True, slots=True)
class Part:
    """The product of all ``k`` and all ``u``, added or subtracted; ``number`` tells the parts of a carry apart."""

    number: int
    k: tuple[Factor, ...]
    u: tuple[Factor, ...]
    negative: bool


@dataclass(frozen=True, slots=True)
class Linear:
    """A value that is a carry as the step found it, times ``scale``, plus the parts."""

    carry: int
    labels: Labels
    scale: tuple[Factor, ...] = ()
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """The sum over the depth of a ``Linear`` times ``w``; ``labels`` are those of the result."""

    op: Operation
    linear: Linear
    w: tuple[Factor, ...]
    labels: Labels


@dataclass
class Affine:
    """The steps of a loop as such a recurrence. ``depth`` is the axis that reads of a carry sum over, ``columns`` are
    its axes that only the ``u`` have; ``dependent`` are the values that depend on reads.
    """

    loop: Loop
    maker: Mapping[Value, Operation] = field(default_factory=dict)
    depth: list[int] = field(default_factory=list)
    columns: list[frozenset[int]] = field(default_factory=list)
    linear: dict[Value, Linear] = field(default_factory=dict)
    reads: dict[Value, Read] = field(default_factory=dict)
    dependent: set[Value] = field(default_factory=set)

    @staticmethod
    def of(loop: Loop) -> Affine:
        """Raises NotAffine."""
        found = Affine(loop, {r: op for op in loop.body.ops for r in op.results})
        if not loop.carries:
            raise NotAffine("nothing is carried")
        for n, c in enumerate(loop.carries):
            if not c.type.dtype.is_float:
                raise NotAffine(f"`%{c.name}` is no float")
            depth, columns = found.axes(c)
            found.depth.append(depth)
            found.columns.append(columns)
            found.linear[c] = Linear(n, labels_of(c.type))
        for op in loop.body.ops:
            found.follow(op)
        found.judge()
        return found

    def next(self, carry: int) -> Linear:
        """What a carry becomes."""
        return self.linear[self.loop.next[carry]]  # type: ignore[index]

    def judge(self) -> None:
        for n, v in enumerate(self.loop.next):
            new = self.linear.get(v) if isinstance(v, Value) else None
            if new is None or new.carry != n or new.labels != labels_of(self.loop.carries[n].type):
                raise NotAffine(f"`%{self.loop.carries[n].name}` becomes something else than itself, scaled, and more")
        for y in self.loop.ys:
            if not isinstance(y, Value) or y in self.linear:
                raise NotAffine("all of what is carried is kept at every step")

    # -- axes

    def axes(self, carry: Value) -> tuple[int, frozenset[int]]:
        """The depth of a carry and its columns: axes of nothing that it is multiplied by."""
        at: dict[Value, Labels] = {carry: labels_of(carry.type)}
        depth: set[Label] = set()
        shared: set[Label | None] = set()
        for op in self.loop.body.ops:
            inside = [v for v in op.inputs if v in at]
            if not inside:
                continue
            kind, x = op.record.kind, inside[0]
            if kind is Kind.MAP and op.result.type.dims == x.type.dims:
                at[op.result] = at[x]
                if op.record.law is Law.PRODUCT:
                    others = (y for y in op.operands if y not in at)
                    shared.update(c for y in others for c in aligned(at[x], y.type))
            elif kind is Kind.VIEW and (labels := renamed(op, x, at[x])) is not None:
                at[op.result] = labels
            elif kind is Kind.REDUCE and at[x]:
                depth.update(c for n in op.axes() if (c := at[x][n]) is not None)
            elif kind is Kind.CONTRACT and len(inside) == 1:
                _, other, summed, _ = contraction(op, x, at[x])
                depth |= summed
                shared.update(other.labels)
        if len(depth) != 1:
            raise NotAffine(f"`%{carry.name}` is not read by sums over one of its axes")
        (found,) = depth
        assert isinstance(found, int)
        axes = {n for n in labels_of(carry.type) if isinstance(n, int)}
        return found, frozenset(axes - shared - {found})

    # -- steps

    def follow(self, op: Operation) -> None:
        inside = [v for v in op.inputs if v in self.linear]
        if not inside:
            if any(v in self.dependent for v in op.inputs):
                self.dependent.update(op.results)
            return
        if len(inside) > 1:
            raise NotAffine(f"`{op.name}` of two values that are carried")
        (x,) = inside
        kind, law, held = op.record.kind, op.record.law, self.linear[x]
        if kind is Kind.MAP and op.result.type == x.type and not any(op.attrs.values()):
            others = [y for y in op.operands if y is not x]
            if law is Law.PRODUCT and len(others) == 1:
                self.linear[op.result] = self.scaled(held, others[0])
                return
            if law is Law.SUM or (law is Law.DIFFERENCE and op.operands[0] is x):
                parts = self.parts(held, others[0], law is Law.DIFFERENCE)
                self.linear[op.result] = replace(held, parts=(*held.parts, *parts))
                return
        if kind is Kind.VIEW and (labels := renamed(op, x, held.labels)) is not None:
            self.linear[op.result] = replace(held, labels=labels)
            return
        read = self.read(op, x, held)
        if read is None:
            raise NotAffine(f"`{op.name}` of what is carried is no sum over one axis")
        self.reads[op.result] = read
        self.dependent.add(op.result)

    def free(self, x: Operand) -> Operand:
        """An operand that does not depend on what is carried."""
        if x in self.dependent:
            raise NotAffine("a factor depends on what is carried")
        return x

    def scaled(self, held: Linear, x: Operand) -> Linear:
        factor = Factor(self.free(x), aligned(held.labels, x.type))
        if self.depth[held.carry] in factor.labels or not factor.labels:
            parts = tuple(replace(p, k=(*p.k, factor)) for p in held.parts)
        else:
            parts = tuple(replace(p, u=(*p.u, factor)) for p in held.parts)
        return replace(held, scale=(*held.scale, factor), parts=parts)

    def read(self, op: Operation, x: Value, held: Linear) -> Read | None:
        """A sum over the depth, of the carry alone or of its products with something."""
        depth, kind = self.depth[held.carry], op.record.kind
        if op.result.type.dtype is not x.type.dtype:
            return None
        if kind is Kind.REDUCE:
            reduction = op.record.reduction
            assert reduction is not None
            own = {held.labels[n] for n in op.axes()} - {None}
            if not reduction.adds_up or own != {depth}:
                return None
            keep = bool(op.attrs.get("keepdim"))
            pairs = enumerate(held.labels)
            labels = tuple(None if n in op.axes() else c for n, c in pairs if keep or n not in op.axes())
            return Read(op, held, (), labels)
        if kind is not Kind.CONTRACT or op.attrs.get("accumulate_dtype") not in (None, x.type.dtype):
            return None
        labels, other, summed, alone = contraction(op, x, held.labels)
        if summed != {depth} or alone:
            return None
        return Read(op, held, (replace(other, value=self.free(other.value)),), labels)

    # -- outer products

    def parts(self, held: Linear, x: Operand, negative: bool) -> Iterator[Part]:
        """A value that is added to a carry as a sum of outer products."""
        pending = [(x, aligned(held.labels, x.type), negative)]
        number = len(held.parts)
        while pending:
            v, labels, sign = pending.pop()
            op = self.maker.get(v) if isinstance(v, Value) else None
            sums = op is not None and op.record.kind is Kind.MAP and op.record.law in (Law.SUM, Law.DIFFERENCE)
            if self.mixed(held.carry, v, labels) and sums and op is not None and not any(op.attrs.values()):
                for n, y in enumerate(op.operands):
                    turned = sign != (n == 1 and op.record.law is Law.DIFFERENCE)
                    pending.append((y, aligned(labels, y.type), turned))
                    if aligned(labels, y.type) != labels:
                        raise NotAffine("a sum that broadcasts is added to what is carried")
                continue
            k, u = self.outer(held.carry, v, labels)
            if self.depth[held.carry] not in {c for f in k for c in f.labels}:
                raise NotAffine("what is added to the carry is the same along the axis that reads sum over")
            yield Part(number, k, u, sign)
            number += 1

    def mixed(self, carry: int, v: Operand, labels: Labels) -> bool:
        """Does a value differ along the depth and depend on what only the ``u`` may depend on?"""
        inside = set(labels)
        return self.depth[carry] in inside and (bool(inside & self.columns[carry]) or v in self.dependent)

    def outer(self, carry: int, v: Operand, labels: Labels) -> tuple[tuple[Factor, ...], tuple[Factor, ...]]:
        """A product, taken apart into what differs along the depth and the rest."""
        k: list[Factor] = []
        u: list[Factor] = []
        pending = [Factor(v, labels)]
        while pending:
            f = pending.pop()
            if not self.mixed(carry, f.value, f.labels):
                (k if self.depth[carry] in f.labels else u).append(f)
                continue
            op = self.maker.get(f.value) if isinstance(f.value, Value) else None
            inside = () if op is None else tuple(factors(op, f.labels))
            if not inside:
                raise NotAffine("what is added to the carry is no outer product")
            pending.extend(inside)
        return tuple(k), tuple(u)


def labels_of(t: Type) -> Labels:
    """The labels of a carry's own axes."""
    return tuple(None if d is ONE else n for n, d in enumerate(t.dims))


def aligned(labels: Labels, t: Type) -> Labels:
    """The labels of an operand of a broadcast whose result has ``labels``."""
    tail = labels[len(labels) - t.rank :] if t.rank else ()
    return tuple(None if d is ONE else c for c, d in zip(tail, t.dims, strict=True))


def renamed(op: Operation, x: Value, labels: Labels) -> Labels | None:
    """The labels of a view that only orders axes anew, or adds or drops some of size 1; None for other views."""
    source = _source(op)
    if source is None or source[0] != op.operands.index(x):
        return None
    out: list[Label | None] = [None] * op.result.type.rank
    for n, e in enumerate(source[1]):
        if labels[n] is None:
            continue
        if e is None or op.result.type.dims[e] is not x.type.dims[n]:
            return None
        out[e] = labels[n]
    fresh = [n for n, c in enumerate(out) if c is None and op.result.type.dims[n] is not ONE]
    return None if fresh else tuple(out)


def _source(op: Operation) -> tuple[int, Sequence[int | None]] | None:
    """The operand that a view is a renaming of, and for each of its axes the one of the result; None for size 1."""
    kind = op.result.type
    assert isinstance(kind, TensorType) and op.record.pieces is not None
    names = tuple(Dim.name(f"_i{n}") for n in range(kind.rank))
    pieces = op.record.pieces(names, [x.type for x in op.operands], kind, op.attrs)
    if len(pieces) != 1 or pieces[0].box or not isinstance(pieces[0].operand, int):
        return None
    dims = op.operands[pieces[0].operand].type.dims
    if any(e not in names and d is not ONE for e, d in zip(pieces[0].index, dims, strict=True)):
        return None
    return pieces[0].operand, [names.index(e) if e in names else None for e in pieces[0].index]


def factors(op: Operation, labels: Labels) -> Iterator[Factor]:
    """What a product is the product of, or a view a renaming of; nothing for other operations."""
    kind = op.record.kind
    if kind is Kind.MAP and op.record.law is Law.PRODUCT and not any(op.attrs.values()):
        yield from (Factor(x, aligned(labels, x.type)) for x in op.operands)
    elif kind is Kind.CONTRACT:
        *parts, result = letters(op)
        at = dict(zip(result, labels, strict=True))
        pairs = list(zip(parts, op.operands, strict=True))
        sizes = ((c, d) for part, x in pairs for c, d in zip(part, x.type.dims, strict=True))
        if all(d is ONE for c, d in sizes if c not in at):
            for part, x in pairs:
                dims = zip(part, x.type.dims, strict=True)
                yield Factor(x, tuple(None if d is ONE else at[c] for c, d in dims))
    elif kind is Kind.VIEW and (source := _source(op)) is not None:
        x = op.operands[source[0]]
        axes = zip(source[1], x.type.dims, strict=True)
        yield Factor(x, tuple(None if e is None or d is ONE else labels[e] for e, d in axes))


def contraction(op: Operation, x: Value, labels: Labels) -> tuple[Labels, Factor, set[Label], bool]:
    """Of a contraction of ``x`` with something: the labels of the result, the other factor, the labels that are summed
    over, and whether the other factor has a sum of its own.
    """
    *parts, result = letters(op)
    n = op.operands.index(x)
    own, other, y = parts[n], parts[1 - n], op.operands[1 - n]
    at: dict[str, Label | None] = dict(zip(own, labels, strict=True))
    alone = False
    for c, d in zip(other, y.type.dims, strict=True):
        if d is not ONE and at.get(c) is None:
            at[c] = f"x{c}"
            alone = alone or c not in result
    summed: set[Label] = {label for c in own if c not in result and (label := at[c]) is not None}
    factor = Factor(y, tuple(None if d is ONE else at[c] for c, d in zip(other, y.type.dims, strict=True)))
    return tuple(at.get(c) for c in result), factor, summed, alone


__all__ = ["Affine", "Factor", "Label", "Labels", "Linear", "NotAffine", "Part", "Read"]
