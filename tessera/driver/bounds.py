"""Which index was out of range: what a kernel leaves out, found again from the arguments of the call.

A kernel that meets such an index gives back one bit. The values of the index tensors are then computed once more,
operation by operation through torch, and nothing but them: this runs only on the way to an error.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tessera.backends.eager.run import Run, ready
from tessera.diag import BoundsError, Label, TesseraError
from tessera.ir.access import accesses
from tessera.ir.dim import Dim
from tessera.ir.graph import Function, Literal, Operand, Operation, Value, walk
from tessera.ir.record import Access

Sizes = Mapping[str, int]


def located(f: Function, inputs: Sequence[Any], sizes: Sizes) -> BoundsError | None:
    """The error for the first index of a traced function that is out of range; None when none is.

    ``inputs`` are tensors, and numbers for scalar parameters, in the order of the parameters.
    """
    env: dict[Value, Any] = dict(zip(f.params, inputs, strict=True))
    needed = _needed(f.ops)
    makers = {r: op for op in f.ops for r in op.results}
    with torch.no_grad():
        for op in f.ops:
            for a in accesses(op):
                found = _checked(op, a, env[op.operands[a.index]], sizes, makers)  # type: ignore[index]
                if found is not None:
                    return found
            if not needed.isdisjoint(op.results) or _has_steps_that_look_up(op):
                try:
                    results = run_checked(op, [_read(x, env, sizes) for x in op.operands], sizes)
                except BoundsError as found:
                    return found
                except (TesseraError, RuntimeError, ValueError, LookupError, TypeError):
                    return None
                env.update(zip(op.results, results, strict=True))
    return None


def run_checked(op: Operation, operands: Sequence[Any], sizes: Sizes) -> tuple[torch.Tensor, ...]:
    """The results of an operation; as what ``checked`` gives."""
    return checked(op, sizes)(operands)


def checked(op: Operation, sizes: Sizes) -> Run:
    """An operation at given sizes, to be run many times. It raises BoundsError for an index of it, or of what its steps
    do, that is out of range.
    """
    run = ready(op, sizes, refused)

    def execute(operands: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        try:
            return run(operands)
        except (IndexError, RuntimeError) as error:
            raise refused(op, operands, sizes) or error from None

    return execute


def refused(op: Operation, operands: Sequence[Any], sizes: Sizes) -> BoundsError | None:
    """The error for an operation that torch has refused; None when its indices are all in range."""
    for a in accesses(op):
        found = _checked(op, a, operands[a.index], sizes, {})
        if found is not None:
            return found
    return None


def _needed(ops: Sequence[Operation]) -> set[Value]:
    """The values that indices are made from, and the indices."""
    needed: set[Value] = set()
    for op in reversed(ops):
        if not needed.isdisjoint(op.results):
            needed.update(op.inputs)
        needed.update(x for a in accesses(op) if isinstance(x := op.operands[a.index], Value))
        needed.update(op.inputs if _has_steps_that_look_up(op) else ())
    return needed


def _has_steps_that_look_up(op: Operation) -> bool:
    return op.body is not None and any(accesses(inner) for inner in walk(op.body))


def _read(x: Operand, env: Mapping[Value, Any], sizes: Sizes) -> Any:
    if isinstance(x, Literal):
        return x.value.evaluate(sizes, signed=True) if isinstance(x.value, Dim) else x.value
    return env[x]


def _checked(
    op: Operation, a: Access, index: torch.Tensor, sizes: Sizes, makers: Mapping[Value, Operation]
) -> BoundsError | None:
    dim = op.operands[a.table].type.dims[a.axis]
    size, index = dim.evaluate(sizes), index.to(torch.int64)  # a size need not fit the dtype of the index
    bad = (index < (-size if a.wraps else 0)) | (index >= size)
    if not bad.any():
        return None
    value = int(index[bad].reshape(-1)[0])
    name, table = (_origin(op.operands[n], op, makers) for n in (a.index, a.table))
    known = f"dim {a.axis} of `{table}`" if table else "the size"
    symbol = "" if dim.is_const else f"`{dim}`, "
    helps = ["`x[index]` counts negative positions from the end"] if -size <= value < 0 else []
    return BoundsError(
        f"index {value}" + (f" in `{name}`" if name else "") + f" is out of range for a dimension of size {size}",
        labels=() if op.span is None else (Label(op.span, f"{known} is {symbol}{size}", True),),
        helps=helps,
    )  # fmt: skip


def _origin(x: Operand, op: Operation, makers: Mapping[Value, Operation]) -> str:
    """The name of what an operand is made from, behind all that the same call of the user has done to it.

    Empty where the call has made it from nothing else, or from several values.
    """
    while isinstance(x, Value) and x in makers and makers[x].span == op.span and op.span is not None:
        whole = x.type.dtype.is_int
        made = dict.fromkeys(v for v in makers[x].inputs if v.type.dtype.is_int is whole and not v.type.dtype.is_bool)
        if len(made) != 1:
            return ""
        (x,) = made
    return x.name if isinstance(x, Value) else ""
