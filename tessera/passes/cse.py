"""Share equal values."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace

from tessera.ir.graph import Function, Note, Operand, Operation, Value, attr_key
from tessera.passes.nested import Visit, rewritten


@dataclass(frozen=True, slots=True)
class CommonSubexpressions:
    """Common subexpression elimination by hashing (record, operands, attributes).

    Random ops carry their stream position as an attribute, so two draws never look alike. Operations with a body are
    left alone; inside the step of a scan equal values are shared as well.
    """

    name: str = "cse"

    def run(self, f: Function) -> Function:
        replaced: dict[Value, Operand] = {}
        details: list[str] = []

        def begin() -> Visit:
            seen: dict[Hashable, tuple[Value, ...]] = {}

            def visit(op: Operation) -> Operation | None:
                found = op.results if op.body is not None else seen.setdefault(key(op), op.results)
                if found is op.results:
                    return op
                replaced.update(zip(op.results, found, strict=True))
                details.append(f"%{op.results[0].name} is %{found[0].name}")
                return None

            return visit

        body = rewritten(f.body, replaced, begin)
        if not replaced:
            return f
        return replace(f, body=body).with_note(Note(self.name, 0.0, f"shared {len(replaced)}", tuple(details)))


def key(op: Operation) -> Hashable:
    """Equal for operations that compute the same: record, operands, attributes and types."""
    attrs = tuple(sorted((k, attr_key(v)) for k, v in op.attrs.items()))
    operands = tuple(id(x) if isinstance(x, Value) else x for x in op.operands)
    return (op.record, operands, attrs, tuple(r.type for r in op.results))
