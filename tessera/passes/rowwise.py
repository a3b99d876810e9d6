"""The operations of one step, carried out for several rows of steps at once: every value that differs between rows gets
them as a new first axis.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

from tessera.diag import Span
from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.contract import letters
from tessera.ir.dim import Dim
from tessera.ir.graph import Attr, Literal, Operand, Operation, Value
from tessera.ir.infer import ONE, InferContext, Refused
from tessera.ir.record import Kind, OpRecord, Piece
from tessera.ir.types import TensorType


class NotRowwise(Exception):
    """An operation has no form for several rows; the message names it."""


@dataclass
class Rowwise:
    """Appends the operations to a block. ``made`` has by value of the step what stands for it; what is not in it is the
    same for all rows.
    """

    build: Builder
    count: int
    made: dict[Value, Value] = field(default_factory=dict)
    span: Span | None = None

    def emit(self, name: str, *operands: Operand, hint: str = "", **attrs: Attr) -> Value:
        """One operation of one result."""
        (value,) = self.build.emit(OPS[name], operands, attrs, span=self.span, hint=hint)
        return value

    def at(self, x: Operand) -> Operand:
        """What stands for an operand."""
        return self.made.get(x, x) if isinstance(x, Value) else x

    def take(self, op: Operation) -> None:
        """Carry out one operation. Raises NotRowwise."""
        self.span = op.span
        if not any(v in self.made for v in op.inputs):
            if op.record.kind is Kind.RANDOM or op.body is not None:
                raise NotRowwise(f"`{op.name}` in a step")
            self.build.ops.append(op)
            return
        kind = op.record.kind
        if kind is Kind.MAP:
            operands = tuple(self.level(x, op.result.type.rank) for x in op.operands)
            self.give(op, op.record, operands, op.attrs)
        elif kind is Kind.REDUCE:
            dims = tuple(n + 1 for n in op.axes())
            self.give(op, op.record, tuple(map(self.at, op.operands)), {**op.attrs, "dim": dims})
        elif kind is Kind.CONTRACT:
            self.contract(op)
        elif kind is Kind.VIEW:
            operands = tuple(self.spread(x) for x in op.operands)
            self.give(op, op.record, operands, view_of_rows(op, operands, Dim.const(self.count)))
        else:
            raise NotRowwise(f"`{op.name}` in a step")

    def give(self, op: Operation, record: OpRecord, operands: tuple[Operand, ...], attrs: object) -> None:
        names = tuple(r.name for r in op.results)
        results = self.build.emit(record, operands, attrs, span=op.span, hint=names[0])  # type: ignore[arg-type]
        self.made.update(zip(op.results, results, strict=True))

    def level(self, x: Operand, rank: int) -> Operand:
        """An operand of a broadcast, its axes where those of the result are."""
        new = self.at(x)
        if isinstance(new, Value) and new is not x:
            for _ in range(rank - x.type.rank):
                new = self.emit("unsqueeze", new, dim=1)
        return new

    def spread(self, x: Operand) -> Operand:
        """An operand with the axis of rows, whether it differs between them or not."""
        new = self.at(x)
        if new is not x or not isinstance(x.type, TensorType) or isinstance(x, Literal):
            return new
        shape = (Dim.const(self.count), *x.type.dims)
        return self.emit("expand", self.emit("unsqueeze", x, dim=0), shape=shape)

    def contract(self, op: Operation) -> None:
        parts = letters(op)
        row = next(c for c in "rstuvwxyz" if c not in "".join(parts))
        known: dict[str, Dim] = {}
        for part, x in zip(parts, op.operands, strict=False):
            for c, d in zip(part, x.type.dims, strict=True):
                if known.setdefault(c, d) is not d and ONE in (known[c], d):
                    raise NotRowwise(f"`{op.name}` that broadcasts")
        new = [row + part if x in self.made else part for part, x in zip(parts, op.operands, strict=False)]
        attrs = {"equation": f"{new[0]},{new[1]}->{row}{parts[2]}",
                 "accumulate_dtype": op.attrs.get("accumulate_dtype")}  # fmt: skip
        self.give(op, OPS["contract"], tuple(map(self.at, op.operands)), attrs)


def view_of_rows(op: Operation, operands: Sequence[Operand], count: Dim) -> dict[str, Attr]:
    """The attributes with which a view leaves a new first axis alone: those of a few that give, element by element,
    what the view gives in each row. Raises NotRowwise where none does.
    """
    kind = op.result.type
    assert isinstance(kind, TensorType) and op.record.pieces is not None
    wanted = kind.with_dims((count, *kind.dims))
    index = tuple(Dim.name(f"_i{n}") for n in range(wanted.rank))
    given = [x.type for x in op.operands]
    old = op.record.pieces(index[1:], given, kind, op.attrs)
    types = tuple(x.type for x in operands)
    kinds = {p.name: p.kind for p in op.record.params}
    names = tuple(op.attrs)
    for values in product(*(_shifted(op.attrs[n], kinds.get(n, ""), count) for n in names)):
        attrs = dict(zip(names, values, strict=True))
        try:
            assert op.record.infer is not None
            if op.record.infer(InferContext(), types, attrs) != (wanted,):
                continue
            new = op.record.pieces(index, types, wanted, attrs)
        except (Refused, AssertionError, IndexError, ValueError):
            continue
        if [_key(p) for p in new] == [_key(_below(p, index[0])) for p in old]:
            return attrs
    raise NotRowwise(f"`{op.name}` in a step")


def _shifted(value: Attr, kind: str, count: Dim) -> Iterator[Attr]:
    """What an attribute may be beside one more first axis: the same, axes one further, sizes of one axis more."""
    if isinstance(value, tuple):
        if all(isinstance(x, int) for x in value):
            further = tuple(int(x) + 1 for x in value)  # type: ignore[arg-type]
            yield from (further, (0, *further))
        yield from ((count, *value), (0, *value), (1, *value))
    elif isinstance(value, int) and kind == "dim":
        yield value + 1
        return
    yield value


def _below(piece: Piece, row: Dim) -> Piece:
    """A piece of every row: one axis further in the result and in what it reads."""
    box = tuple((axis + 1, lo, hi) for axis, lo, hi in piece.box)
    index = piece.index if isinstance(piece.operand, Literal) else (row, *piece.index)
    return replace(piece, index=index, box=box)


def _key(piece: Piece) -> tuple[object, ...]:
    return piece.operand, tuple(map(str, piece.index)), tuple((a, str(lo), str(hi)) for a, lo, hi in piece.box)


__all__ = ["NotRowwise", "Rowwise", "view_of_rows"]
