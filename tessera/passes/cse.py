"""Share equal values."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

from tessera.ir.graph import Function, Note, Operand, Operation, Value, attr_key


@dataclass(frozen=True, slots=True)
class CommonSubexpressions:
    """Common subexpression elimination by hashing (record, operands, attributes).

    Random ops carry their stream position as an attribute, so two draws never look alike. Operations with a body are
    left alone.
    """

    name: str = "cse"

    def run(self, f: Function) -> Function:
        replaced: dict[Value, Value] = {}
        seen: dict[Hashable, tuple[Value, ...]] = {}
        kept: list[Operation] = []
        details: list[str] = []
        for op in f.ops:
            operands = tuple(replaced.get(x, x) if isinstance(x, Value) else x for x in op.operands)
            op = op.with_operands(operands)
            if op.body is not None:
                kept.append(op)
                continue
            found = seen.setdefault(key(op), op.results)
            if found is op.results:
                kept.append(op)
            else:
                replaced.update(zip(op.results, found, strict=True))
                details.append(f"%{op.results[0].name} is %{found[0].name}")
        if not replaced:
            return f
        outputs: tuple[Operand, ...] = tuple(replaced.get(x, x) if isinstance(x, Value) else x for x in f.outputs)
        note = Note(self.name, 0.0, f"shared {len(replaced)}", tuple(details))
        return f.with_ops(tuple(kept), outputs).with_note(note)


def key(op: Operation) -> Hashable:
    """Equal for operations that compute the same: record, operands, attributes and types."""
    attrs = tuple(sorted((k, attr_key(v)) for k, v in op.attrs.items()))
    operands = tuple(id(x) if isinstance(x, Value) else x for x in op.operands)
    return (op.record, operands, attrs, tuple(r.type for r in op.results))
