"""A fused function to a program: kernels and library calls in order."""

from __future__ import annotations

from tessera.ir.dialects.region import EXTERN, MAP, ROW
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Block, Function, Operation, Value
from tessera.ir.record import Kind
from tessera.schedule.lower import RegionLowering
from tessera.schedule.plan import Call, Cut, Kernel, Program, Step, Unschedulable


def schedule(f: Function, strided: frozenset[str] = frozenset(), programs: int = 0) -> Program:
    """Lower every region of a fused function. ``strided`` names the parameters that are not dense row-major;
    ``programs`` says how many programs keep the target busy, where that asks for cutting long sums into pieces.
    """
    steps: list[Step] = []
    cuts: list[Cut] = []
    for op in f.ops:
        if op.record is EXTERN:
            assert op.body is not None
            steps.extend(Call(inner) for inner in op.body.ops)
            continue
        if op.record.kind is not Kind.REGION:
            steps.append(Call(op))
            continue
        steps.extend(_lower(op, f"{f.name}_{len(steps)}", strided, cuts, programs))
    return Program(f, tuple(steps), f.outputs, strided, tuple(cuts))


def _lower(op: Operation, name: str, strided: frozenset[str], cuts: list[Cut], programs: int = 0) -> list[Step]:
    """A kernel; or, when the loops of a region cannot be brought together, one kernel for each of its operations."""
    try:
        return [RegionLowering(op, name, strided, programs).run()]
    except Unschedulable as failure:
        assert op.body is not None
        if len(op.body.ops) == 1:
            return [Call(op.body.ops[0])]
        cuts.append(Cut(op, str(failure)))
        parts = enumerate(op.body.ops)
        return [s for n, inner in parts for s in _part(inner, f"{name}_{n}", strided, cuts)]


def _part(op: Operation, name: str, strided: frozenset[str], cuts: list[Cut]) -> list[Step]:
    return [Call(op)] if op.record.kind in (Kind.CONTRACT, Kind.CONTROL) else _lower(_alone(op), name, strided, cuts)


def _alone(op: Operation) -> Operation:
    """A region of one operation."""
    reads = tuple(dict.fromkeys(v for v in op.operands if isinstance(v, Value)))
    record = ROW if op.record.kind in FOLDS else MAP
    return Operation(record, reads, op.results, span=op.span, body=Block((op,)))


__all__ = ["Kernel", "schedule"]
