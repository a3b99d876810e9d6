"""A run by blocks as a program of its own: a size of the whole is the number of rows of a block inside."""

from __future__ import annotations

from dataclasses import replace

from tessera.ir.dim import Dim
from tessera.ir.graph import Attr, Block, Function, Operand, Operation, Value, walk
from tessera.ir.record import Kind
from tessera.ir.types import TensorType


def block_name(f: Function) -> str:
    """A name of a size that a function does not have."""
    types = [*(p.type for p in f.params), *(r.type for op in walk(f.body) for r in op.results)]
    taken = {n for t in types for d in t.dims for n in d.names()}
    return next(name for n in range(len(taken) + 1) if (name := f"rows{n or ''}") not in taken)


def one_block(op: Operation, f: Function, name: str, block: str) -> tuple[Function, dict[Value, Value]]:
    """What a run by blocks does with one of them, as a function of what the run reads; and its values by those of the
    whole. Its outputs are none yet.
    """
    assert op.body is not None
    along, rows = op.attrs["along"], Dim.name(block)
    assert isinstance(along, Dim)
    made: dict[Value, Value] = {}
    params = tuple(_renamed(v, made, along, rows) for v in op.inputs)
    ops = _shortened(op.body.ops, made, along, rows)
    return replace(f, name=name, body=Block(ops, params), updates=(), notes=()), made


def _renamed(v: Value, made: dict[Value, Value], along: Dim, rows: Dim) -> Value:
    known = made.get(v)
    if known is None:
        kind = v.type
        if isinstance(kind, TensorType) and along in kind.dims:
            kind = kind.with_dims(rows if d is along else d for d in kind.dims)
        known = made[v] = Value(v.name, kind)
    return known


def _shortened(ops: tuple[Operation, ...], made: dict[Value, Value], along: Dim, rows: Dim) -> tuple[Operation, ...]:
    """Regions hold operations and nothing deeper."""
    found = []
    for op in ops:
        body = None if op.body is None else Block(_shortened(op.body.ops, made, along, rows))
        operands: tuple[Operand, ...] = tuple(
            _renamed(x, made, along, rows) if isinstance(x, Value) else x for x in op.operands
        )
        attrs = {k: _attr(a, along, rows) for k, a in op.attrs.items()}
        results = tuple(_renamed(r, made, along, rows) for r in op.results)
        found.append(replace(op, operands=operands, results=results, attrs=attrs, body=body))
    return tuple(found)


def _attr(a: Attr, along: Dim, rows: Dim) -> Attr:
    if isinstance(a, tuple):
        return tuple(_attr(x, along, rows) for x in a)
    return rows if a is along else a


def added_products(op: Operation) -> frozenset[Value]:
    """The sums over the rows that are contractions and read by nobody inside: each block is added to them at once."""
    assert op.body is not None
    along = op.attrs["along"]
    alone = [o.body.ops[0] for o in op.body.ops if o.body is not None and len(o.body.ops) == 1]
    read = {v for o in walk(op.body) if o.body is None for v in o.inputs}
    sums = (o.result for o in alone if o.record.kind is Kind.CONTRACT)
    return frozenset(v for v in sums if v not in read and along not in v.type.dims)
