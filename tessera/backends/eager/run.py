"""One record on torch tensors: by its adapter, by its torch name, or by its definition; never by its own name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from tessera.backends.eager.dtypes import from_torch_dtype, to_torch_dtype
from tessera.backends.eager.names import resolve
from tessera.diag import TesseraError, TraceError
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType
from tessera.ir.graph import Block, Literal, Operand, Operation, Value
from tessera.ir.interp.sizes import concrete
from tessera.ir.loop import steps
from tessera.ir.record import Kind, OpRecord

Number = bool | int | float
#: One operation, from its operands to its results.
Run = Callable[[Sequence[Any]], tuple[torch.Tensor, ...]]
#: The error for an operation that torch has refused, with its operands and the sizes of the call; None to keep torch's.
Refused = Callable[[Operation, Sequence[Any], Mapping[str, int]], "TesseraError | None"]
#: Contractions, convolutions, pools, sorts, scans and solvers keep or choose another order of axes in memory; kernels
#: read rows.
ORDERED = (Kind.CONTRACT, Kind.EXTERN, Kind.SCAN)


def run(
    record: OpRecord, operands: Sequence[torch.Tensor | Number], attrs: Mapping[str, Any]
) -> tuple[torch.Tensor, ...]:
    """The results of a primitive. Operands are tensors or numbers, attributes canonical, sizes among them ints.

    Raises TraceError (TSR0408) for a record that no library call computes, and what torch raises.

    >>> run(OPS["add"], (torch.ones(2), 1.5), {})
    (tensor([2.5000, 2.5000]),)
    """
    found = _callable(record, attrs)(operands)
    return tuple(found) if isinstance(found, tuple | list) else (found,)


def run_op(
    op: Operation, operands: Sequence[torch.Tensor | Number], sizes: Mapping[str, int], refused: Refused | None = None
) -> tuple[torch.Tensor, ...]:
    """The results of an operation of the IR in their declared dtypes; sizes in its attributes are evaluated.
    ``refused`` says better what is wrong with an operation of a step.
    """
    return ready(op, sizes, refused)(operands)


def ready(op: Operation, sizes: Mapping[str, int], refused: Refused | None = None) -> Run:
    """An operation at given sizes, to be run many times; see ``run_op``."""
    if op.body is not None:
        return partial(_control, op, Routine.of(op.body, sizes, refused), sizes)
    call = _callable(op.record, {name: concrete(value, sizes) for name, value in op.attrs.items()})
    wanted = [to_torch_dtype(r.type.dtype) for r in op.results]
    ordered = op.record.kind in ORDERED

    def execute(operands: Sequence[Any]) -> tuple[torch.Tensor, ...]:
        found = call(operands)
        several = found if isinstance(found, tuple | list) else (found,)
        # torch lets rank-0 tensors weigh differently, so that a result may need another dtype
        typed = tuple([x if x.dtype == t else x.to(t) for x, t in zip(several, wanted, strict=True)])
        return tuple(x.contiguous() for x in typed) if ordered else typed

    return execute


def _callable(record: OpRecord, attrs: Mapping[str, Any]) -> Callable[[Sequence[Any]], Any]:
    """What computes a primitive with these attributes from its operands."""
    given = {name: to_torch_dtype(a) if isinstance(a, DType) else a for name, a in attrs.items()}
    eager, function = record.eager, resolve(record.torch[0]) if record.torch else None
    if eager is not None:
        return lambda operands: eager(torch, *operands, **given)
    if function is not None:
        plain = function
        if record.kind is Kind.MAP:
            return lambda operands: call_mixed(plain, operands, given)
        return lambda operands: plain(*operands, **given)
    define = record.define
    if record.kind is Kind.MAP and define is not None:
        return lambda operands: define(TorchNamespace(), *operands, **attrs)
    raise TraceError(f"`{record.name}` has no counterpart in torch", code="TSR0408")


@dataclass(frozen=True)
class _Line:
    """One operation of a routine. ``reads`` has a value, or None and a number; ``done`` is read for the last time."""

    op: Operation
    run: Run
    reads: tuple[tuple[Value | None, Any], ...]
    done: tuple[Value, ...]


@dataclass(frozen=True)
class Routine:
    """A block at given sizes, ready to be run many times. Groups are run through, operation by operation."""

    block: Block
    lines: tuple[_Line, ...]
    yields: tuple[tuple[Value | None, Any], ...]
    sizes: Mapping[str, int]
    refused: Refused | None

    @staticmethod
    def of(block: Block, sizes: Mapping[str, int], refused: Refused | None = None) -> Routine:
        ops = tuple(steps(block))
        last = {v: op for op in ops for v in op.inputs}
        for out in block.yields:
            last.pop(out, None)  # type: ignore[arg-type]
        ending: dict[Operation, list[Value]] = {}
        for v, op in last.items():
            ending.setdefault(op, []).append(v)
        lines = tuple(
            _Line(op, ready(op, sizes, refused), tuple(_source(x, sizes) for x in op.operands),
                  tuple(ending.get(op, ())))
            for op in ops
        )  # fmt: skip
        return Routine(block, lines, tuple(_source(x, sizes) for x in block.yields), sizes, refused)

    def run(self, env: dict[Value, Any]) -> list[Any]:
        """The yielded values; ``env`` has what the block reads, and loses what is read for the last time."""
        for line in self.lines:
            operands = [number if v is None else env[v] for v, number in line.reads]
            try:
                env.update(zip(line.op.results, line.run(operands), strict=True))
            except (IndexError, RuntimeError) as error:
                if self.refused is None or isinstance(error, TesseraError):
                    raise
                raise self.refused(line.op, operands, self.sizes) or error from None
            for v in line.done:
                env.pop(v, None)
        return [number if v is None else env[v] for v, number in self.yields]


def _source(x: Operand, sizes: Mapping[str, int]) -> tuple[Value | None, Any]:
    if isinstance(x, Literal):
        return None, x.value.evaluate(sizes, signed=True) if isinstance(x.value, Dim) else x.value
    return x, None


@dataclass(frozen=True)
class _Rows:
    """What the definition of a control operation asks of tensors."""

    sizes: Mapping[str, int]
    device: torch.device

    def size(self, x: torch.Tensor, axis: int) -> int:
        return x.shape[axis]

    def select(self, x: torch.Tensor, axis: int, n: int) -> torch.Tensor:
        return x.select(axis, n)

    def rows(self, x: torch.Tensor, axis: int, n: int, count: int, reverse: bool) -> torch.Tensor:
        walked = x.flip(axis) if reverse else x
        some = walked.narrow(axis, n * count, min(count, x.shape[axis] - n * count))
        beyond = [count if a == axis else d for a, d in enumerate(x.shape)]
        beyond[axis] -= some.shape[axis]
        return torch.cat([some, some.new_zeros(beyond)], axis)

    def stack(self, rows: Sequence[torch.Tensor], result: Value) -> torch.Tensor:
        if rows:
            return torch.stack(list(rows))
        shape = [d.evaluate(self.sizes) for d in result.type.dims]
        return torch.empty(shape, dtype=to_torch_dtype(result.type.dtype), device=self.device)


def _control(
    op: Operation, routine: Routine, sizes: Mapping[str, int], operands: Sequence[Any]
) -> tuple[torch.Tensor, ...]:
    """A step as often as the operation says. Its results lie in memory of their own, row-major."""
    define, params = op.record.define, routine.block.params
    if define is None:
        raise TraceError(f"`{op.record.name}` has no counterpart in torch", code="TSR0408")
    outside = {v: x for v, x in zip(op.operands, operands, strict=True) if isinstance(v, Value)}

    def step(given: Sequence[Any]) -> list[Any]:
        return routine.run({**outside, **dict(zip(params, given, strict=True))})

    tensors = [x for x in operands if isinstance(x, torch.Tensor)]
    found = define(_Rows(sizes, tensors[0].device), step, op, operands)
    taken = {x.untyped_storage().data_ptr() for x in tensors}
    results = []
    for x in found:
        at = x.untyped_storage().data_ptr()
        results.append(x.clone(memory_format=torch.contiguous_format) if at in taken else x.contiguous())
        taken.add(at)
    return tuple(results)


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
