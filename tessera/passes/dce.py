"""Drop operations whose results nobody reads."""

from __future__ import annotations

from dataclasses import dataclass

from tessera.ir.graph import Block, Function, Note, Operation, Value, walk


@dataclass(frozen=True, slots=True)
class DeadCode:
    """Dead code elimination, in one backward sweep. Every tensor op is pure, so unread means removable."""

    name: str = "dce"

    def run(self, f: Function) -> Function:
        live: set[Value] = {v for v in f.outputs if isinstance(v, Value)}
        kept: list[Operation] = []
        for op in reversed(f.ops):
            if any(r in live for r in op.results):
                kept.append(op)
                live.update(op.inputs)
                if op.body is not None:
                    live.update(free_values(op.body))
        if len(kept) == len(f.ops):
            return f
        dropped = len(f.ops) - len(kept)
        return f.with_ops(tuple(reversed(kept))).with_note(Note(self.name, 0.0, f"dropped {dropped}"))


def free_values(block: Block) -> set[Value]:
    """What a nested block reads from outside of itself."""
    inside: set[Value] = set(block.params)
    read: set[Value] = {v for v in block.yields if isinstance(v, Value)}
    for op in walk(block):
        inside.update(op.results)
        if op.body is not None:
            inside.update(op.body.params)
        read.update(op.inputs)
    return read - inside
