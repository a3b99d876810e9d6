"""Steps of a scan that are taken many at a time, where their algebra allows it and the machine gains by it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.graph import Function, Note, Operation, walk
from tessera.ir.infer import Refused
from tessera.ir.loop import Loop
from tessera.ir.record import Kind
from tessera.passes.affine import Affine, NotAffine
from tessera.passes.chunks import in_chunks
from tessera.passes.dce import sweep
from tessera.passes.rowwise import NotRowwise


@dataclass(frozen=True, slots=True)
class Chunk:
    """Take ``rows`` steps of each affine recurrence at a time, as products of matrices (see ``chunks``)."""

    name: str = "chunk"
    rows: int = 16

    def run(self, f: Function) -> Function:
        found: list[str] = []
        ops: list[Operation] = []
        for op in f.ops:
            if op.record.kind is Kind.CONTROL and op.body is not None and not op.attrs.get("rows"):
                ops.extend(self.rewritten(f, op, found))
            else:
                ops.append(op)
        if not found:
            return f
        return f.with_ops(tuple(ops)).with_note(Note(self.name, 0.0, f"looked at {len(found)} scans", tuple(found)))

    def rewritten(self, f: Function, op: Operation, found: list[str]) -> tuple[Operation, ...]:
        loop, label = Loop.of(op), f"scan %{op.results[-1].name}"
        build = Builder(OPS["cast"], names=_names(f))
        try:
            marks, made = in_chunks(loop, Affine.of(loop), self.rows, build)
        except (NotAffine, NotRowwise) as why:
            found.append(f"{label} stays step by step: {why}")
            return (op,)
        assert made.body is not None
        inside, _ = sweep(made.body.ops, made.body.yields)
        made = replace(made, body=replace(made.body, ops=inside))
        found.append(f"{label} takes {self.rows} steps at a time")
        return marks, made


def _names(f: Function) -> dict[str, int]:
    """The names that are taken."""
    found = {p.name: 0 for p in f.params}
    for op in walk(f.body):
        found.update((r.name, 0) for r in op.results)
        if op.body is not None:
            found.update((p.name, 0) for p in op.body.params)
    return found
