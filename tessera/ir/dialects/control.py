"""Operations over other operations: a loop that carries values from step to step.

What a step computes stands in a body with parameters, see ``ir/loop.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from tessera.ir.dim import Dim
from tessera.ir.graph import Literal, Operand, Operation
from tessera.ir.infer import Blame, InferContext
from tessera.ir.loop import Loop, outer_values
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType


def _need_tensor(ctx: InferContext, x: Operand, what: str, number: int | None = None) -> TensorType:
    kind = x.type
    if not isinstance(kind, TensorType) or isinstance(x, Literal):
        ctx.fail("TSR0112", f"{what} is a {kind}, not a tensor", Blame(number, None, f"is a {kind}"))
    return kind


def same_type(ctx: InferContext, a: TensorType, b: TensorType) -> bool:
    """Are two types equal, with sizes that are if the call is a right one?"""
    if a.dtype is not b.dtype or a.rank != b.rank:
        return False
    return all(ctx.holds("eq", x, y, "carry of a scan") for x, y in zip(a.dims, b.dims, strict=True))


def _scan_types(ctx: InferContext, op: Operation) -> tuple[TensorType, ...]:
    """Result types of a scan, after every rule of its form."""
    body, carries = op.body, op.attrs["carries"]
    assert body is not None and isinstance(carries, int)
    count = len(body.params)
    if not 0 <= carries < count:
        ctx.fail("TSR0112", f"{carries} carries among {count} block parameters: nothing is scanned")
    if len(op.operands) < count:
        ctx.fail("TSR0112", f"{count} block parameters for {len(op.operands)} operands")
    if len(body.yields) < carries:
        ctx.fail("TSR0112", f"{len(body.yields)} values are yielded for {carries} carries")
    loop = Loop.of(op)
    for n, (given, param) in enumerate(zip(loop.init, loop.carries, strict=True)):
        _carry(ctx, given, param, loop.next[n], n)
    if loop.rows < 0:
        ctx.fail("TSR0112", f"{loop.rows} slices in a step")
    size = _scanned(ctx, loop, carries)
    read = outer_values(body)
    for n, x in enumerate(loop.captured, count):
        if x not in read or x in loop.captured[: n - count]:
            ctx.fail("TSR0112", "operand that the step does not read", Blame(n, None, "not read"))
    for v in read:
        if v not in loop.captured:
            ctx.fail("TSR0112", f"`%{v.name}` is read in the step and not an operand")
    stacked = [_need_tensor(ctx, y, f"value {n} that a step yields") for n, y in enumerate(loop.ys, carries)]
    for n, t in enumerate(stacked, carries):
        if loop.rows and t.dims[:1] != (Dim.const(loop.rows),):
            ctx.fail("TSR0112", f"value {n} that a step yields is {t}, not one row for each of {loop.rows} slices")
    return (
        *(_need_tensor(ctx, p, "a carry") for p in loop.carries),
        *(t.with_dims((size, *t.dims[bool(loop.rows) :])) for t in stacked),
    )


def _carry(ctx: InferContext, given: Operand, param: Operand, new: Operand, n: int) -> None:
    first, before = _need_tensor(ctx, given, f"carry {n}", n), _need_tensor(ctx, param, f"carry {n}")
    after = _need_tensor(ctx, new, f"carry {n} after a step")
    if not same_type(ctx, first, before):
        ctx.fail("TSR0219", f"carry {n} begins as {first} where its block parameter is {before}", Blame(n))
    if not same_type(ctx, before, after):
        code = "TSR0219" if before.dtype is after.dtype else "TSR0307"
        ctx.fail(code, f"carry {n} is {before} before a step and {after} after it", Blame(n))


def _scanned(ctx: InferContext, loop: Loop, carries: int) -> Dim:
    """The number of steps, which all scanned tensors agree on."""
    size: Dim | None = None
    for n, (x, param) in enumerate(zip(loop.xs, loop.slices, strict=True), carries):
        whole, part = _need_tensor(ctx, x, f"operand {n}", n), _need_tensor(ctx, param, "a slice")
        if not 0 <= loop.dim < whole.rank:
            ctx.fail("TSR0203", f"dim {loop.dim} of a rank-{whole.rank} tensor", Blame(n, None, f"is {whole}"))
        here = whole.dims[loop.dim]
        size = here if size is None else ctx.equal(
            size, here, "TSR0218", f"`{here}` is scanned beside `{size}`", Blame(n, loop.dim, f"`{here}`")
        )  # fmt: skip
        one = (Dim.const(loop.rows),) if loop.rows else ()
        rest = whole.with_dims((*whole.dims[: loop.dim], *one, *whole.dims[loop.dim + 1 :]))
        if not same_type(ctx, rest, part):
            ctx.fail("TSR0112", f"a slice of {whole} is {rest}, and its block parameter {part}", Blame(n))
    assert size is not None
    return size


def _scan(t: Any, step: Callable[[list[Any]], list[Any]], op: Operation, operands: Sequence[Any]) -> list[Any]:
    """One step after the other; the value yielded at a position is stacked at that position, in either direction."""
    loop = Loop.of(op)
    carry = list(operands[: len(loop.carries)])
    xs = operands[len(loop.carries) : len(loop.body.params)]
    made: list[list[Any]] = [[] for _ in loop.stacks]
    count = t.size(xs[0], loop.dim)
    for n in range(-(-count // max(loop.rows, 1))):
        if loop.rows:
            slices = [t.rows(x, loop.dim, n, loop.rows, loop.reverse) for x in xs]
        else:
            slices = [t.select(x, loop.dim, count - 1 - n if loop.reverse else n) for x in xs]
        found = step([*carry, *slices])
        carry = found[: len(carry)]
        for row, y in zip(made, found[len(carry) :], strict=True):
            inside = range(min(loop.rows, count - n * loop.rows))
            row += [t.select(y, 0, r) for r in inside] if loop.rows else [y]
    stacks = [row[::-1] if loop.reverse else row for row in made]
    return [*carry, *(t.stack(row, result) for row, result in zip(stacks, loop.stacks, strict=True))]


SCAN = OpRecord(
    "scan", Kind.CONTROL, "xs: tensors, *, carries: int, dim: int, reverse: bool = False, rows: int = 0",
    "A step repeated along one axis of some tensors: it takes the carries and one slice of each tensor, and gives the "
    "next carries and values that are stacked along a new first axis. With `rows` a step takes as many slices, which "
    "keep their axis, in the order of the steps; those beyond the end are 0, and what it yields has their axis first.",
    infer_body=_scan_types, define=_scan,
)  # fmt: skip

OPS: tuple[OpRecord, ...] = (SCAN,)
