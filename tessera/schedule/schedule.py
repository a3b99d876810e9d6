"""A fused function to a program: kernels and library calls in order."""

from __future__ import annotations

from dataclasses import replace

from tessera.ir.dialects.region import BLOCKS, EXTERN, MAP, ROW
from tessera.ir.dim import Dim
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Block, Function, Operation, Value, walk
from tessera.ir.record import Kind
from tessera.schedule.lower import RegionLowering
from tessera.schedule.plan import Added, Blocks, Call, Cut, Kernel, Layouts, Program, Step, Unschedulable, part_values
from tessera.schedule.rows import added_products, block_name, one_block
from tessera.schedule.updates import in_place, reused, scattered


def schedule(
    f: Function,
    strided: frozenset[str] = frozenset(),
    pieces: frozenset[str] = frozenset(),
    joined: frozenset[str] = frozenset(),
    programs: int = 0,
    lined: frozenset[str] = frozenset(),
) -> Program:
    """Lower every region of a fused function. ``strided`` names the parameters that are not dense row-major, of which
    those in ``lined`` are so along their last dim; ``pieces`` those that lie in several dense blocks of memory, of
    which those in ``joined`` are made one block in any case. ``programs`` says how many programs keep the target busy,
    where that asks for cutting long sums into pieces.
    """
    while True:
        layouts = Layouts(strided | joined, pieces - joined, lined)
        steps, cuts = _steps(f, Layouts(strided, pieces - joined, lined), programs)
        steps = in_place(f, steps, layouts)
        found = scattered(steps, f, pieces - joined)
        if not found:
            return Program(f, tuple(steps), f.returned, strided, tuple(cuts), pieces, joined)
        joined |= found


def _steps(f: Function, layouts: Layouts, programs: int) -> tuple[list[Step], list[Cut]]:
    steps: list[Step] = []
    cuts: list[Cut] = []
    for op in f.ops:
        if op.record is EXTERN:
            assert op.body is not None
            steps.extend(Call(inner) for inner in op.body.ops)
            continue
        if op.record is BLOCKS:
            found = _blocks(op, f, f"{f.name}_{len(steps)}", layouts, programs)
            cuts.extend(found.program.cuts)
            steps.append(found)
            continue
        if op.record.kind is not Kind.REGION:
            steps.append(Call(op))
            continue
        steps.extend(_lower(op, f"{f.name}_{len(steps)}", layouts, cuts, programs))
    return steps, cuts


def _blocks(op: Operation, f: Function, name: str, layouts: Layouts, programs: int) -> Blocks:
    """A run by blocks. Products that are added up are left to its end, which adds them to the sum without a copy."""
    along, rows, block = op.attrs["along"], op.attrs["rows"], block_name(f)
    assert isinstance(along, Dim) and isinstance(rows, Dim)
    one, made = one_block(op, f, name, block)
    last = {made[v] for v in added_products(op)}
    products = {o.result: o for o in walk(one.body) if o.body is None and o.results[0] in last}
    parts = tuple(
        made[v] if along in v.type.dims else Added(made[v], products.get(made[v])) for v in op.results
    )  # fmt: skip
    ops = tuple(o for o in one.ops if not any(r in products for r in o.results))
    needed = dict.fromkeys(v for part in parts for v in part_values(part))
    program = schedule(one.with_ops(ops, tuple(needed)), layouts.strided, programs=programs)
    program = replace(program, steps=tuple(reused(program.steps, program.outputs)))
    cut = frozenset(v for v in op.inputs if along in v.type.dims)
    return Blocks(op, program, tuple(op.inputs), cut, op.results, parts, block, along, rows)


def _lower(op: Operation, name: str, layouts: Layouts, cuts: list[Cut], programs: int) -> list[Step]:
    """A kernel; or, when the loops of a region cannot be brought together, one kernel for each of its operations."""
    try:
        return [RegionLowering(op, name, layouts, programs).run()]
    except Unschedulable as failure:
        assert op.body is not None
        if len(op.body.ops) == 1:
            return [Call(op.body.ops[0])]
        cuts.append(Cut(op, str(failure)))
        parts = enumerate(op.body.ops)
        return [s for n, inner in parts for s in _part(inner, f"{name}_{n}", layouts, cuts)]


def _part(op: Operation, name: str, layouts: Layouts, cuts: list[Cut]) -> list[Step]:
    return [Call(op)] if op.record.kind in (Kind.CONTRACT, Kind.CONTROL) else _lower(_alone(op), name, layouts, cuts, 0)


def _alone(op: Operation) -> Operation:
    """A region of one operation."""
    reads = tuple(dict.fromkeys(v for v in op.operands if isinstance(v, Value)))
    record = ROW if op.record.kind in FOLDS else MAP
    return Operation(record, reads, op.results, span=op.span, body=Block((op,)))


__all__ = ["Kernel", "schedule"]
