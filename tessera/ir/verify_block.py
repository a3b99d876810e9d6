"""The rules of block programs: windows that fit their buffers, loops whose carries keep their types, axes in scope."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from tessera.ir.dialects.block import BLOCK_OPS, CASE, CHOOSE, DEBUG_PRINT, EACH, FETCH, FILLED, LOOP, NUMBER, PUT, SEND
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.graph import Block, Function, Operand, Operation, Value, dims_in
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import BufferType, TensorType
from tessera.ir.window import read, shape

Found = tuple[Operation, str, int | None]

#: The records that have rules here instead of type rules of their own.
BLOCK_FORM: frozenset[OpRecord] = frozenset({*BLOCK_OPS, LOCAL})


def block_problems(f: Function) -> Iterator[Found]:
    """Every broken rule of a block program, as (operation, what is wrong, operand number)."""
    stack: list[tuple[Iterator[Operation], Operation | None]] = [(iter(f.body.ops), None)]
    axes: list[str] = []
    while stack:
        rest, owner = stack[-1]
        op = next(rest, None)
        if op is None:
            stack.pop()
            if owner is not None and owner.record in (EACH, LOOP):
                axes.pop()
            continue
        yield from _operation(op, owner)
        if op.record in (EACH, LOOP):
            axis = op.attrs.get("axis")
            if not isinstance(axis, str) or axis in axes:
                yield op, "a loop has an axis of its own", None
            axes.append(str(axis))
        if op.body is not None:
            stack.append((iter(op.body.ops), op))


def _operation(op: Operation, owner: Operation | None) -> Iterator[Found]:
    cased = owner is not None and owner.record is CHOOSE
    if (op.record is CASE) != cased:
        yield op, f"`{op.name}` stands {'inside' if cased else 'outside of'} a choice", None
    if op.body is None and op.record in (EACH, LOOP, CHOOSE, CASE):
        yield op, f"`{op.name}` has no body", None
        return
    if op.record not in BLOCK_FORM:
        yield from _compute(op)
    elif op.record is EACH:
        yield from _plain(op, 0)
    elif op.record is LOOP:
        yield from _loop(op)
    elif op.record is CHOOSE:
        yield from _choose(op)
    elif op.record in (FETCH, PUT, SEND):
        yield from _memory(op)
    elif op.record is LOCAL:
        yield from _local(op)
    elif op.record is DEBUG_PRINT:
        yield from _results(op, 0)
    elif op.record is NUMBER:
        yield from _results(op, 1)
    elif op.record is FILLED:
        yield from _results(op, 1)
        if not isinstance(op.operands[0].type, TensorType) or [r.type for r in op.results] != [op.operands[0].type]:
            yield op, "`filled` gives the block that it takes", 0


def _compute(op: Operation) -> Iterator[Found]:
    if op.record.kind is Kind.TILE:
        yield op, f"`{op.name}` has no place in a block program", None
    for n, x in enumerate(op.operands):
        if isinstance(x.type, BufferType):
            yield op, f"buffer `{_name(x)}` is no block", n


def _name(x: Operand) -> str:
    return x.name if isinstance(x, Value) else "a number"


def _results(op: Operation, count: int) -> Iterator[Found]:
    if len(op.results) != count:
        yield op, f"`{op.name}` has {count} results, not {len(op.results)}", None


def _plain(op: Operation, count: int) -> Iterator[Found]:
    """A body without parameters that yields nothing."""
    yield from _results(op, count)
    if op.body is not None and (op.body.params or op.body.yields):
        yield op, f"the body of `{op.name}` takes and yields nothing", None


def _loop(op: Operation) -> Iterator[Found]:
    body, count = op.body, op.attrs.get("carries")
    assert body is not None
    if not isinstance(count, int) or not 0 <= count <= len(op.operands):
        yield op, "as many operands as carries are needed", None
        return
    stops = bool(op.attrs.get("stops"))
    sides = (op.operands[:count], body.params, body.yields[stops:], op.results)
    if any(len(side) != count for side in sides):
        yield op, f"{count} carries go in, through the body and out", None
    elif any(not _same(a, b) for side in sides[1:] for a, b in zip(sides[0], side, strict=True)):
        yield op, "a carry changes its type", None
    if stops and not _is_bool(body.yields[:1]):
        yield op, "whether a loop stops is a bool of rank 0", None


def _same(a: Operand, b: Operand) -> bool:
    return isinstance(a, Value) is False or isinstance(b, Value) is False or a.type == b.type


def _is_bool(xs: Sequence[Operand]) -> bool:
    return len(xs) == 1 and xs[0].type.dtype.is_bool and xs[0].type.rank == 0


def _choose(op: Operation) -> Iterator[Found]:
    assert op.body is not None
    cases = op.body.ops
    if not _is_bool(op.operands):
        yield op, "the condition of a choice is a bool of rank 0", 0
    if len(cases) != 2 or op.body.params or op.body.yields:
        yield op, "a choice has two cases and nothing else", None
        return
    for case in cases:
        given: Block | None = case.body
        if given is not None and len(given.yields) != len(op.results):
            yield case, f"a case yields {len(op.results)} values, not {len(given.yields)}", None
        elif given is not None and any(not _same(r, y) for r, y in zip(op.results, given.yields, strict=True)):
            yield case, "the cases of a choice yield values of the same types", None


def _memory(op: Operation) -> Iterator[Found]:
    keys = ("at", "to") if op.record is SEND else ("at",)
    for number, key in enumerate(keys):
        x = op.operands[number]
        kind = x.type
        if not isinstance(kind, BufferType):
            yield op, f"`{op.name}` needs a buffer", number
            continue
        try:
            rows = read(op.attrs[key])
        except ValueError as error:
            yield op, str(error), None
            continue
        if len(rows) != kind.rank:
            yield op, f"a window of {len(rows)} dims on a buffer of {kind.rank}", number
        if (op.record is PUT or key == "to") and kind.role == "in":
            yield op, "an input is not written", number
        if op.record is FETCH and op.result.type != TensorType(kind.dtype, shape(rows)):
            yield op, f"`%{op.result.name}` is {op.result.type}, the window {TensorType(kind.dtype, shape(rows))}", None
    yield from _lookups(op, op.operands[1 if op.record is FETCH else 2 :])
    yield from _results(op, int(op.record is FETCH))


def _lookups(op: Operation, lookups: Sequence[Operand]) -> Iterator[Found]:
    wanted = {n for d in dims_in(op.attrs.values()) for n in d.names() if n.startswith("_l")}
    if not wanted <= {f"_l{n}" for n in range(len(lookups))}:
        yield op, f"{len(lookups)} lookups for {', '.join(sorted(wanted))}", None
    for n, x in enumerate(lookups):
        if x.type.rank or not x.type.dtype.is_int:
            yield op, "a lookup is an integer of rank 0", len(op.operands) - len(lookups) + n


def _local(op: Operation) -> Iterator[Found]:
    yield from _results(op, 1)
    if op.results and not (isinstance(op.result.type, BufferType) and op.result.type.role == "local"):
        yield op, "`local` gives one buffer whose role is local", None
