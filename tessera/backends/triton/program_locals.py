"""Memory on the chip as values: buffers that are only written and read whole are what was written last.

Such a buffer needs no memory, and a copy to it is a load that the compiler may have under way as long as it likes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

from tessera.ir.dialects import OPS
from tessera.ir.dialects.block import CASE, CHOOSE, FETCH, PUT, SEND
from tessera.ir.dialects.tile import LOCAL
from tessera.ir.dim import Dim
from tessera.ir.graph import Attr, Block, Function, Operand, Operation, Value, walk
from tessera.ir.types import BufferType, TensorType
from tessera.ir.window import SINGLE, read, shape
from tessera.schedule.plan import ZERO

_CAST = OPS["cast"]


def forwarded(f: Function) -> Function:
    """The program without the buffers whose every read is of what one write before it has left there."""
    buffers = {op.result for op in walk(f.body) if op.record is LOCAL}
    buffers -= {b for op in walk(f.body) for b in _in_part(op)}
    while buffers:
        made = _Forwarding(frozenset(buffers))
        body = made.block(f.body, {})
        if not made.unknown:
            return replace(f, body=body)
        buffers -= made.unknown
    return f


def _in_part(op: Operation) -> Iterator[Value]:
    """The buffers of which an operation touches a part alone, which it adds to, or that it copies elsewhere."""
    keys = {FETCH: ("at",), PUT: ("at",), SEND: ("at", "to")}.get(op.record, ())
    for x, key in zip(op.operands, keys, strict=False):
        if not isinstance(x, Value) or not isinstance(x.type, BufferType):
            continue
        copied = (op.record is SEND and key == "at") or bool(op.attrs.get("adds"))
        if copied or not _is_whole(op.attrs[key], x.type) or (op.record is not FETCH and _dims(op) != x.type.dims):
            yield x


def _is_whole(window: Attr, kind: BufferType) -> bool:
    rows = read(window)
    return all(r.kind != SINGLE and r.start is ZERO and r.extent is d for r, d in zip(rows, kind.dims, strict=True))


def _dims(op: Operation) -> tuple[Dim, ...]:
    """The shape of what is written."""
    return shape(read(op.attrs["at"])) if op.record is SEND else op.operands[1].type.dims


@dataclass
class _Forwarding:
    """Rewrites blocks; ``unknown`` are the buffers of which a read may be of one write or another."""

    buffers: frozenset[Value]
    unknown: set[Value] = field(default_factory=set)
    renamed: dict[Value, Operand] = field(default_factory=dict)

    def block(self, block: Block, known: Mapping[Value, Operand]) -> Block:
        # Blocks nest as deep as their source does, which is bounded where it is read.
        now = dict(known)
        ops: list[Operation] = []
        for op in block.ops:
            if op.record is LOCAL and op.result in self.buffers:
                continue
            ops += self.operation(self.read(op), now)
        return replace(block, ops=tuple(ops), yields=tuple(self.renamed.get(x, x) if isinstance(x, Value) else x
                                                           for x in block.yields))  # fmt: skip

    def read(self, op: Operation) -> Operation:
        """An operation that reads values in place of buffers."""
        return op.with_operands(tuple(self.renamed.get(x, x) if isinstance(x, Value) else x for x in op.operands))

    def operation(self, op: Operation, now: dict[Value, Operand]) -> list[Operation]:
        """What stands for an operation; ``now`` is what buffers hold."""
        if op.body is not None:
            written = {o.operands[o.record is SEND] for o in walk(op.body) if o.record in (PUT, SEND)}
            kept = {b: x for b, x in now.items() if b not in written}
            inside = now if op.record in (CHOOSE, CASE) else kept
            made = replace(op, body=self.block(op.body, inside))
            now.clear()
            now.update(kept)
            return [made]
        target = op.operands[op.record is SEND] if op.record in (FETCH, PUT, SEND) else None
        if not isinstance(target, Value) or target not in self.buffers:
            return [op]
        if op.record is FETCH:
            held = now.get(target)
            if held is None:
                self.unknown.add(target)
            else:
                self.renamed[op.result] = held
            return []
        return list(self.written(op, target, now))

    def written(self, op: Operation, target: Value, now: dict[Value, Operand]) -> Iterator[Operation]:
        """A value in the dtype of the buffer that it was written to."""
        x = op.operands[1]
        if op.record is SEND:
            source = op.operands[0].type
            x = Value(f"{target.name}_sent", TensorType(source.dtype, target.type.dims))
            operands = (op.operands[0], *op.operands[2:])
            yield replace(op, record=FETCH, operands=operands, results=(x,), attrs={"at": op.attrs["at"]})
        if x.type.dtype is not target.type.dtype:
            kept = Value(f"{target.name}_kept", TensorType(target.type.dtype, target.type.dims))
            yield Operation(_CAST, (x,), (kept,), {"dtype": target.type.dtype}, op.span, op.origin)
            x = kept
        now[target] = x


__all__ = ["forwarded"]
