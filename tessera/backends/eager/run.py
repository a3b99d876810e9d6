"""One record on torch tensors: by its adapter, by its torch name, or by its definition; never by its own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from tessera.backends.eager.dtypes import from_torch_dtype, to_torch_dtype
from tessera.backends.eager.names import resolve
from tessera.diag import TraceError
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Block, Literal, Operand, Operation, Value
from tessera.ir.interp.sizes import concrete
from tessera.ir.loop import steps
from tessera.ir.record import Kind, OpRecord

Number = bool | int | float
#: Runs one operation on its operands and the sizes of a call.
RunOp = Callable[[Operation, Sequence[Any], Mapping[str, int]], tuple[torch.Tensor, ...]]
#: Contractions, convolutions, pools, sorts, scans and solvers keep or choose another order of axes in memory; kernels
#: read rows.
_ORDERED = (Kind.CONTRACT, Kind.EXTERN, Kind.SCAN)


def run(
    record: OpRecord, operands: Sequence[torch.Tensor | Number], attrs: Mapping[str, Any]
) -> tuple[torch.Tensor, ...]:
    """The results of a primitive. Operands are tensors or numbers, attributes canonical, sizes among them ints.

    Raises TraceError (TSR0408) for a record that no library call computes, and what torch raises.

    >>> run(OPS["add"], (torch.ones(2), 1.5), {})
    (tensor([2.5000, 2.5000]),)
    """
    given = {name: to_torch_dtype(a) if isinstance(a, DType) else a for name, a in attrs.items()}
    if record.eager is not None:
        found = record.eager(torch, *operands, **given)
    else:
        found = _named(record, operands, given, attrs)
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def run_op(
    op: Operation, operands: Sequence[torch.Tensor | Number], sizes: Mapping[str, int], inner: RunOp | None = None
) -> tuple[torch.Tensor, ...]:
    """The results of an operation of the IR in their declared dtypes; sizes in its attributes are evaluated. ``inner``
    runs the operations of a step.
    """
    if op.body is not None:
        return _control(op, operands, sizes, inner or run_op)
    attrs = {name: concrete(value, sizes) for name, value in op.attrs.items()}
    found = tuple(map(_typed, run(op.record, operands, attrs), op.results))
    return tuple(x.contiguous() for x in found) if op.record.kind in _ORDERED else found


@dataclass(frozen=True)
class Routine:
    """A block ready to be run many times: its operations, and the values that nothing reads after each of them."""

    block: Block
    steps: tuple[tuple[Operation, tuple[Value, ...]], ...]

    @staticmethod
    def of(block: Block) -> Routine:
        """Groups are run through, operation by operation."""
        ops = tuple(steps(block))
        last = {v: op for op in ops for v in op.inputs}
        for out in block.yields:
            last.pop(out, None)  # type: ignore[call-overload]
        ending: dict[Operation, list[Value]] = {}
        for v, op in last.items():
            ending.setdefault(op, []).append(v)
        return Routine(block, tuple((op, tuple(ending.get(op, ()))) for op in ops))

    def run(self, env: dict[Value, Any], sizes: Mapping[str, int], run: RunOp = run_op) -> list[Any]:
        """The yielded values; ``env`` has what the block reads, and loses what is read for the last time."""
        for op, done in self.steps:
            env.update(zip(op.results, run(op, [read(x, env, sizes) for x in op.operands], sizes), strict=True))
            for v in done:
                env.pop(v, None)
        return [read(x, env, sizes) for x in self.block.yields]


def read(x: Operand, env: Mapping[Value, Any], sizes: Mapping[str, int]) -> Any:
    """What an operand is: a tensor, or a number."""
    if isinstance(x, Literal):
        return x.value.evaluate(sizes, signed=True) if isinstance(x.value, Dim) else x.value
    return env[x]


@dataclass(frozen=True)
class _Rows:
    """What the definition of a control operation asks of tensors."""

    sizes: Mapping[str, int]
    device: torch.device

    def size(self, x: torch.Tensor, axis: int) -> int:
        return x.shape[axis]

    def select(self, x: torch.Tensor, axis: int, n: int) -> torch.Tensor:
        return x.select(axis, n)

    def stack(self, rows: Sequence[torch.Tensor], result: Value) -> torch.Tensor:
        if rows:
            return torch.stack(list(rows))
        shape = [d.evaluate(self.sizes) for d in result.type.dims]
        return torch.empty(shape, dtype=to_torch_dtype(result.type.dtype), device=self.device)


def _control(
    op: Operation, operands: Sequence[Any], sizes: Mapping[str, int], run: RunOp
) -> tuple[torch.Tensor, ...]:
    """A step as often as the operation says. Its results lie in memory of their own, row-major."""
    body, define = op.body, op.record.define
    assert body is not None
    if define is None:
        raise TraceError(f"`{op.record.name}` has no counterpart in torch", code="TSR0408")
    routine = Routine.of(body)
    outside = {v: x for v, x in zip(op.operands, operands, strict=True) if isinstance(v, Value)}

    def step(given: Sequence[Any]) -> list[Any]:
        return routine.run({**outside, **dict(zip(body.params, given, strict=True))}, sizes, run)

    tensors = [x for x in operands if isinstance(x, torch.Tensor)]
    found = define(_Rows(sizes, tensors[0].device), step, op, operands)
    taken = {x.untyped_storage().data_ptr() for x in tensors}
    results = []
    for x, r in zip(found, op.results, strict=True):
        x = _typed(x, r)
        at = x.untyped_storage().data_ptr()
        results.append(x.clone(memory_format=torch.contiguous_format) if at in taken else x.contiguous())
        taken.add(at)
    return tuple(results)


def _typed(x: torch.Tensor, r: Value) -> torch.Tensor:
    """torch lets rank-0 tensors weigh differently, so that a result may need another dtype."""
    wanted = to_torch_dtype(r.type.dtype)
    return x if x.dtype == wanted else x.to(wanted)


def _named(record: OpRecord, operands: Sequence[Any], given: Mapping[str, Any], attrs: Mapping[str, Any]) -> Any:
    function = resolve(record.torch[0]) if record.torch else None
    if function is not None:
        return call_mixed(function, operands, given) if record.kind is Kind.MAP else function(*operands, **given)
    if record.kind is Kind.MAP and record.define is not None:
        return record.define(TorchNamespace(), *operands, **attrs)
    raise TraceError(f"`{record.name}` has no counterpart in torch", code="TSR0408")


def call_mixed(function: Callable[..., Any], operands: Sequence[Any], given: Mapping[str, Any]) -> Any:
    """An elementwise call in which some operands are numbers, which not every torch function takes everywhere."""
    if all(isinstance(x, torch.Tensor) for x in operands):
        return function(*operands, **given)
    if isinstance(operands[0], torch.Tensor):
        try:
            return function(*operands, **given)
        except TypeError:
            pass
    return function(*as_tensors(operands), **given)


def as_tensors(operands: Sequence[Any]) -> list[torch.Tensor]:
    """Numbers as rank-0 tensors of the dtype that they take beside the tensors."""
    beside = next((x for x in operands if isinstance(x, torch.Tensor) and x.dtype != torch.bool), None)
    return [x if isinstance(x, torch.Tensor) else _rank0(x, beside) for x in operands]


def _rank0(x: Number, beside: torch.Tensor | None) -> torch.Tensor:
    if beside is None:
        return torch.tensor(x, dtype=torch.float32 if isinstance(x, float) else None)
    fits = not isinstance(x, bool) and (beside.is_floating_point() or not isinstance(x, float))
    return torch.tensor(x, dtype=beside.dtype if fits else None, device=beside.device)


class TorchNamespace:
    """The scalar namespace over torch tensors: one function per MAP record.

    >>> t = TorchNamespace()
    >>> t.where(torch.tensor([True, False]), 1.0, t.exp(torch.zeros(2)))
    tensor([1., 1.])
    """

    __slots__ = ()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        record = OPS.get(name)
        if record is None or record.kind is not Kind.MAP:
            raise AttributeError(f"no elementwise operation `{name}`")

        def apply(*operands: Any, **attrs: Any) -> Any:
            names = record.attr_names
            positional = len(operands) - sum(p.is_operand for p in record.params)
            if positional > 0:
                attrs |= dict(zip(names, operands[-positional:], strict=False))
                operands = operands[:-positional]
            return run(record, operands, attrs)[0]

        return apply

    def dtype_of(self, x: torch.Tensor) -> DType:
        """The dtype of a tensor."""
        return from_torch_dtype(x.dtype)

    def is_narrow(self) -> bool:
        """Every operation rounds its result, so a definition takes its widest form."""
        return False
