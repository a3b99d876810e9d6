"""The most memory that a program needs at once, for all sizes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tessera.ir.dim import Dim, dim_max, dim_min
from tessera.ir.flops import nbytes
from tessera.ir.graph import Operand, Value
from tessera.ir.record import Kind
from tessera.schedule.plan import ZERO, Blocks, Call, Kernel, Program, Step


def peak(program: Program) -> Dim:
    """Bytes beside the arguments: results stay, and what lies between two steps goes with the last that uses it. No
    plan of the memory can do with less. Scratch memory of kernels and copies that bring views into order are not
    counted.
    """
    roots: dict[Operand, Value] = {}
    made: dict[Value, int] = {}
    last: dict[Value, int] = {}
    for n, step in enumerate(program.steps):
        if isinstance(step, Call) and step.op.record.kind is Kind.VIEW and len(step.op.operands) == 1:
            (source,) = step.inputs
            roots.update((r, roots.get(source, source)) for r in step.outputs)
            continue
        if isinstance(step, Kernel):  # what is written where something else was lies in the memory of that
            roots.update((new, roots.get(p, p)) for new, p in step.updates)
        made.update((v, n) for v in _made(step))
        last.update((roots.get(v, v), n) for v in (*step.inputs, *step.outputs))
    end = len(program.steps)
    last.update((roots.get(x, x), end) for x in program.outputs if isinstance(x, Value))
    change: dict[int, Dim] = {}
    for v, first in made.items():
        change[first] = change.get(first, ZERO) + nbytes(v.type)
        after = max(last.get(v, first), first) + 1
        change[after] = change.get(after, ZERO) - nbytes(v.type)
    for n, step in enumerate(program.steps):
        if isinstance(step, Blocks):  # while it lasts, what one block needs
            inside = peak(step.program).substitute({step.block: dim_min(step.rows, step.along)})
            change[n] = change.get(n, ZERO) + inside
            change[n + 1] = change.get(n + 1, ZERO) - inside
    return _largest(_sums(change))


def _made(step: Step) -> Iterator[Value]:
    """The tensors that a step allocates."""
    if not isinstance(step, Kernel):
        yield from step.outputs
        return
    updated = dict(step.updates)
    yield from (v for v in (*step.outputs, *step.temps) if v not in updated)


def _sums(change: dict[int, Dim]) -> Iterator[Dim]:
    total = ZERO
    for n in sorted(change):
        total = total + change[n]
        yield total


def _largest(found: Iterable[Dim]) -> Dim:
    """The largest of some sizes; those that no assignment makes the largest are left out where that is plain."""
    kept: list[Dim] = []
    for one in dict.fromkeys(found):
        if not any(_covers(other, one) for other in kept):
            kept = [other for other in kept if not _covers(one, other)] + [one]
    return dim_max(*kept) if kept else ZERO


def _covers(a: Dim, b: Dim) -> bool:
    """Is ``a`` at least ``b`` because every term is?"""
    return all(c >= 0 for _, c in (a - b).terms)
