"""A fused function as kernels alone: what else would be a library call, or a view, is a kernel as well.

Inside a kernel that somebody has written there are no libraries to call: its parts are small, and many threads are in
them at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

from tessera.diag import Label, ResourceError
from tessera.ir.dialects.contract import letters
from tessera.ir.dialects.region import EXTERN, MAP, ROW, STREAM
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Block, Function, Operation, Value
from tessera.ir.infer import ONE
from tessera.ir.record import Kind
from tessera.schedule.plan import Program
from tessera.schedule.schedule import schedule
from tessera.schedule.sums import as_sums


def own_kernels(f: Function, lined: frozenset[str] = frozenset()) -> Program:
    """The kernels of a fused function, of whose parameters those in ``lined`` are dense along their last dim only.

    Raises ResourceError (TSR0604) for an operation that cannot become one.
    """
    regions = [_owned(op) for op in f.ops]
    program = schedule(f.with_ops(tuple(regions)), lined, lined=lined)
    called = {r for call in program.calls for r in call.outputs}
    if called:  # one kernel for each operation of such a region, then
        parts = (_apart(r) if _makes(r, called) else (r,) for r in regions)
        program = schedule(f.with_ops(tuple(op for part in parts for op in part)), lined, lined=lined)
    for call in program.calls:
        raise _refused(call.op)
    return program


def _owned(region: Operation) -> Operation:
    """A region that becomes a kernel."""
    if region.record is not EXTERN:
        return region
    assert region.body is not None
    (op,) = region.body.ops
    if op.record.kind is Kind.VIEW:
        return replace(region, record=MAP)
    if op.record.kind is not Kind.CONTRACT:
        raise _refused(op)
    rows = _rows(op)
    if not rows:
        return _region(as_sums([op]), region.results)
    return replace(region, record=STREAM, attrs={"axes": rows})


def _makes(region: Operation, values: Set[Value]) -> bool:
    assert region.body is not None
    return any(r in values for op in region.body.ops for r in op.results)


def _rows(op: Operation) -> tuple[Attr, ...]:
    """The axes of a product that are its first operand's alone, where it is one of matrices in floats."""
    left, right, result = letters(op)
    dims = op.result.type.dims
    if op.result.type.dtype.is_bool or not dims or result[-1] in left or dims[-1] is ONE:
        return ()
    rows = tuple(n for n, c in enumerate(result) if c in left and c not in right)
    return () if all(dims[n] is ONE for n in rows) else rows


def _apart(region: Operation) -> Iterator[Operation]:
    """A region for every operation of a region."""
    assert region.body is not None
    for op in region.body.ops:
        if op.record.kind not in _KINDS:
            raise _refused(op)
        yield _region(as_sums([op]), op.results)


_KINDS = frozenset({
    Kind.MAP, Kind.VIEW, Kind.INDEX, Kind.CREATE, Kind.RANDOM, Kind.REDUCE, Kind.SCAN, Kind.CONTRACT
})  # fmt: skip


def _region(ops: Sequence[Operation], results: Sequence[Value]) -> Operation:
    inside = {r for op in ops for r in op.results}
    reads = tuple(dict.fromkeys(v for op in ops for v in op.inputs if v not in inside))
    record = ROW if any(op.record.kind in FOLDS for op in ops) else MAP
    return Operation(record, reads, tuple(results), span=ops[-1].span, body=Block(tuple(ops)))


def _refused(op: Operation) -> ResourceError:
    labels = [] if op.span is None else [Label(op.span, "here", True)]
    return ResourceError(f"`{op.origin or op.name}` inside a kernel has no code of its own", code="TSR0604",
                         labels=labels)  # fmt: skip


__all__ = ["own_kernels"]
