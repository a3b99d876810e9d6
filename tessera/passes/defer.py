"""Put what needs no argument that comes late right before the first operation that needs it.

A backward pass computes values again that the forward pass had. In the order of the source all of them would be there
before its first cotangent is used, as many bytes as if they had been kept; each is to be there for its reader alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tessera.ir.graph import Function, Note, Operation


@dataclass(frozen=True, slots=True)
class Defer:
    """Order the operations, or regions, that depend on none of the parameters ``late`` by who needs them; all others
    stay in their order.
    """

    name: str = "defer"
    late: tuple[str, ...] = ()

    def run(self, f: Function) -> Function:
        waiting = set(f.ops) - set(self.depending(f))
        maker = {r: op for op in f.ops for r in op.results}
        placed: dict[Operation, None] = {}
        for op in f.ops:
            pending = [] if op in waiting else [op]
            while pending:
                missing = [maker[v] for v in pending[-1].inputs if v in maker and maker[v] not in placed]
                if missing:
                    pending.extend(reversed(missing))
                else:
                    placed[pending.pop()] = None
        moved = len(waiting.intersection(placed))
        placed.update(dict.fromkeys(f.ops))  # at the end what only the caller reads
        return f.with_ops(tuple(placed)).with_note(Note(self.name, 0.0, f"{moved} where they are first needed"))

    def depending(self, f: Function) -> Iterable[Operation]:
        """The operations behind the parameters ``late``."""
        found = {p for p in f.params if p.name in self.late}
        for op in f.ops:
            if any(v in found for v in op.inputs):
                found.update(op.results)
                yield op
