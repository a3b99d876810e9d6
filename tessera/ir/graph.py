"""The one IR structure: values, operations, blocks, functions.

Flat and immutable: a block is a tuple of operations in execution order, an operation may carry one nested block, and
every walk is a loop. Passes build new tuples and never edit. Both dialects (``tensor`` and ``tile``) use it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING

from tessera.diag import ShapeError, Span
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bool_, f32, int64
from tessera.ir.types import ScalarType, Type

if TYPE_CHECKING:
    from tessera.ir.record import OpRecord

Attr = None | bool | int | float | str | DType | Dim | tuple["Attr", ...]
EMPTY: Mapping[str, Attr] = MappingProxyType({})


class Value:
    """One SSA value. Identity is equality; ``name`` is unique in its function and comes from the user where
    possible.
    """

    __slots__ = ("__weakref__", "name", "type")

    def __init__(self, name: str, type: Type) -> None:
        self.name = name
        self.type = type

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant operand: a Python number, or a size given as a Dim. Its type is weak (see ScalarType)."""

    value: bool | int | float | Dim

    @property
    def type(self) -> ScalarType:
        if isinstance(self.value, bool):
            return ScalarType(bool_)
        return ScalarType(f32 if isinstance(self.value, float) else int64)

    def __eq__(self, other: object) -> bool:
        # 1 == 1.0 == True in Python, and nan != nan: neither may decide whether two constants are the same.
        return isinstance(other, Literal) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[str, object]:
        v = self.value
        return (type(v).__name__, v.hex() if isinstance(v, float) else v)


Operand = Value | Literal


@dataclass(frozen=True, slots=True, eq=False)
class Operation:
    """One operation. ``origin`` names the composite it was written as (``softmax``), for dumps and messages.

    A region operation (``map``, ``row``, …) carries a ``body`` whose values are visible after it: its ``results`` are
    values defined inside. Control operations have block parameters and yields instead.
    """

    record: OpRecord
    operands: tuple[Operand, ...]
    results: tuple[Value, ...]
    attrs: Mapping[str, Attr] = field(default_factory=lambda: EMPTY)
    span: Span | None = None
    origin: str = ""
    body: Block | None = None

    @property
    def name(self) -> str:
        return self.record.name

    @property
    def result(self) -> Value:
        (value,) = self.results
        return value

    @property
    def inputs(self) -> Iterator[Value]:
        """The operands that are values, literals left out."""
        return (v for v in self.operands if isinstance(v, Value))

    def dims(self, key: str) -> tuple[Dim, ...]:
        """An attribute that holds sizes or index expressions, each as a Dim."""
        found = self.attrs[key]
        assert isinstance(found, tuple), f"`{key}` of {self.name} holds no sizes"
        return tuple(x if isinstance(x, Dim) else Dim.const(int(x)) for x in found)  # type: ignore[arg-type]

    def words(self, key: str) -> tuple[str, ...]:
        """An attribute that holds names."""
        found = self.attrs[key]
        assert isinstance(found, tuple), f"`{key}` of {self.name} holds no names"
        return tuple(map(str, found))

    def axes(self, key: str = "dim") -> tuple[int, ...]:
        """An attribute that holds axis numbers."""
        found = self.attrs[key]
        assert isinstance(found, tuple), f"`{key}` of {self.name} holds no axes"
        return tuple(int(x) for x in found)  # type: ignore[arg-type]

    def with_operands(self, operands: tuple[Operand, ...]) -> Operation:
        return self if operands == self.operands else replace(self, operands=operands)


def dims_in(attrs: Iterable[Attr]) -> Iterator[Dim]:
    """The size expressions in attributes, nested tuples included."""
    pending = [*attrs]
    while pending:
        item = pending.pop()
        if isinstance(item, tuple):
            pending.extend(item)
        elif isinstance(item, Dim):
            yield item


def substituted(a: Attr, sizes: Mapping[str, Dim]) -> Attr:
    """An attribute with names replaced in its size expressions, those in nested tuples included."""
    if isinstance(a, tuple):
        return tuple(substituted(x, sizes) for x in a)
    return a.substitute(sizes) if isinstance(a, Dim) else a


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Operations in order, with parameters and yielded values where the owner is a control operation or a function."""

    ops: tuple[Operation, ...]
    params: tuple[Value, ...] = ()
    yields: tuple[Operand, ...] = ()


@dataclass(frozen=True, slots=True)
class Obligation:
    """Something the program needs of its sizes: ``kind`` is ``eq``, ``divides`` (left divides right) or ``ge``.

    ``verdict`` is ``open`` until the ``shapes`` pass, then ``proved``, ``guarded`` or ``assumed``.
    """

    kind: str
    left: Dim
    right: Dim
    verdict: str = "open"
    why: str = ""
    span: Span | None = field(default=None, compare=False)

    def __str__(self) -> str:
        if self.kind == "divides":
            return f"{self.right} % {self.left} == 0" if self.right.is_name else f"({self.right}) % ({self.left}) == 0"
        return f"{self.left} {'==' if self.kind == 'eq' else '>='} {self.right}"

    def holds(self, sizes: Mapping[str, int]) -> bool:
        """Whether it is true for these sizes; a division that leaves a remainder makes it false."""
        try:
            left, right = self.left.evaluate(sizes, signed=True), self.right.evaluate(sizes, signed=True)
        except ShapeError:
            return False
        if self.kind == "divides":
            return left != 0 and right % left == 0
        return left == right if self.kind == "eq" else left >= right


@dataclass(frozen=True, slots=True)
class Note:
    """What a pass did: the line that opens a dump and that ``explain()`` lists. Not part of a function's equality."""

    stage: str
    seconds: float
    text: str
    details: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Function:
    """A function of a dialect: ``tensor``, ``tile``, or ``block``, which is the tile dialect as kernels are written.

    ``updates`` are parameters whose memory the function writes: the last outputs, as many, are what they become once
    everything is computed.

    ``==`` compares structure: names, types, operations, attributes and obligations; spans and notes are left out.
    """

    name: str
    body: Block
    dialect: str = "tensor"
    obligations: tuple[Obligation, ...] = ()
    notes: tuple[Note, ...] = ()
    span: Span | None = None
    updates: tuple[Value, ...] = ()

    @property
    def params(self) -> tuple[Value, ...]:
        return self.body.params

    @property
    def ops(self) -> tuple[Operation, ...]:
        return self.body.ops

    @property
    def outputs(self) -> tuple[Operand, ...]:
        return self.body.yields

    @property
    def returned(self) -> tuple[Operand, ...]:
        """The outputs without those that parameters become."""
        return self.outputs[: len(self.outputs) - len(self.updates)]

    @property
    def written(self) -> tuple[tuple[Value, Operand], ...]:
        """The parameters that the function writes to, each with what it becomes."""
        return tuple(zip(self.updates, self.outputs[len(self.returned) :], strict=True))

    def with_ops(self, ops: tuple[Operation, ...], outputs: tuple[Operand, ...] | None = None) -> Function:
        return replace(self, body=Block(ops, self.params, self.outputs if outputs is None else outputs))

    def with_note(self, note: Note) -> Function:
        return replace(self, notes=(*self.notes, note))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Function) and fingerprint(self) == fingerprint(other)

    def __hash__(self) -> int:
        return hash((self.name, len(self.ops)))


def walk(block: Block, *, steps: bool = True) -> Iterator[Operation]:
    """Every operation in textual order, the nested ones after their owner; without ``steps``, not those of a body with
    parameters.
    """
    stack: list[Iterator[Operation]] = [iter(block.ops)]
    while stack:
        op = next(stack[-1], None)
        if op is None:
            stack.pop()
            continue
        yield op
        if op.body is not None and (steps or not op.body.params):
            stack.append(iter(op.body.ops))


def users(block: Block) -> dict[Value, list[Operation]]:
    """The operations that read each value, those in groups included; what a step reads, its operation reads."""
    found: dict[Value, list[Operation]] = {}
    for op in walk(block, steps=False):
        for v in op.inputs:
            found.setdefault(v, []).append(op)
    return found


def fingerprint(f: Function) -> tuple[object, ...]:
    """A hashable structural key of a function: equal exactly when the two print alike, spans and notes aside."""
    rows: list[object] = [f.dialect, f.name, f.obligations, tuple((p.name, p.type) for p in f.params)]
    rows.append(tuple(p.name for p in f.updates))
    stack: list[tuple[Block, int]] = [(f.body, 0)]
    while stack:
        block, index = stack.pop()
        if index == len(block.ops):
            rows.append(("end", tuple(map(_operand_key, block.yields))))
            continue
        stack.append((block, index + 1))
        op = block.ops[index]
        rows.append((
            op.name, op.origin, tuple(map(_operand_key, op.operands)), tuple((r.name, r.type) for r in op.results),
            tuple(sorted((k, attr_key(v)) for k, v in op.attrs.items())), op.body is not None,
        ))  # fmt: skip
        if op.body is not None:
            rows.append(tuple((p.name, p.type) for p in op.body.params))
            stack.append((op.body, 0))
    return tuple(rows)


def _operand_key(x: Operand) -> object:
    return x.name if isinstance(x, Value) else x


def attr_key(a: Attr) -> object:
    """A hashable key of an attribute in which 1, 1.0 and True differ and NaN equals itself."""
    if isinstance(a, tuple):
        return ("tuple", *map(attr_key, a))
    return Literal(a)._key() if isinstance(a, bool | int | float | Dim) else (type(a).__name__, str(a))
