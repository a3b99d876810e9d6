"""torch's own operator samples: which record each one is, and the table of differences that are meant.

``samples(op, dtype)`` gives calls as torch receives them, of functions that have a record.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from types import MappingProxyType
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from tessera.backends.eager import from_torch_dtype, resolve, torch_names
from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.dim import Dim
from tessera.ir.graph import Block, Function, Literal, Value
from tessera.ir.record import OpRecord
from tessera.ir.types import TensorType

#: Differences that are decided, by record: codes of refusals, or ``value`` for results that torch leaves undefined.
EXPLAINED: Mapping[str, tuple[frozenset[str], str]] = MappingProxyType({
    name: (frozenset(codes.split()), why)
    for name, codes, why in (
        ("chunk", "TSR0208", "chunks must divide"),
        ("squeeze", "TSR0207", "a named axis must have size 1"),
        ("getitem", "TSR0402", "the size of a masked part depends on the data"),
        ("index_put", "TSR0402", "the size of a masked part depends on the data"),
        ("repeat_interleave", "TSR0402", "the size depends on a tensor of counts"),
        ("one_hot", "TSR0402", "the number of classes depends on the data"),
        ("gather", "TSR0215 TSR0304", "an empty index of another rank or dtype"),
        ("tensordot", "TSR0201", "a contracted axis is never stretched"),
        ("pad", "TSR0212", "an axis cropped to nothing has no edge to repeat"),
        ("T", "TSR0204", "`.T` is for matrices"),
        ("zeros", "value", "`empty` is zeros"),
        ("zeros_like", "value", "`empty_like` is zeros"),
        ("new_zeros", "value", "`new_empty` is zeros"),
        ("sort", "value", "equal elements keep their order"),
        ("argsort", "value", "equal elements keep their order"),
        ("topk", "value", "which of equal elements comes first is open"),
    )
})  # fmt: skip


#: How far into an entry's samples to look: some have more than a thousand, each slow to make.
_REACH = 48


@dataclass(frozen=True)
class Sample:
    """One call of a torch function, what it gave, and the same in float64."""

    record: OpRecord
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: tuple[Any, ...]
    exact: Callable[[], tuple[Any, ...]]


class _Grab(TorchFunctionMode):
    """Notes the first call of a function that has a record."""

    def __init__(self) -> None:
        super().__init__()
        self.found: tuple[Callable[..., Any], tuple[Any, ...], Mapping[str, Any]] | None = None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if self.found is None and func in torch_names():
            self.found = (func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


def flat(x: Any) -> list[Any]:
    return [y for part in x for y in flat(part)] if isinstance(x, tuple | list) else [x]


def record_of(op: Any) -> OpRecord | None:
    """The record of an entry, by the names under which torch has it."""
    for name in (f"torch.{op.name}", f"torch.Tensor.{op.name}"):
        function = resolve(name)
        if function is not None and callable(function) and function in torch_names():
            return torch_names()[function]
    return None


def samples(op: Any, dtype: torch.dtype, most: int) -> Iterator[Sample]:
    """Samples of an entry, spread over the first ``_REACH``; those whose call reaches a function with a record."""
    every = list(islice(op.sample_inputs("cpu", dtype, requires_grad=False), _REACH))
    for sample in every[:: max(1, len(every) // most)][:most]:
        with _Grab() as grab:
            results = op.op(sample.input, *sample.args, **sample.kwargs)
        if grab.found is None or "out" in {k for k, v in grab.found[2].items() if v is not None}:
            continue
        function, args, kwargs = grab.found
        wide = sample.transform(_widened)
        yield Sample(
            torch_names()[function], function, args,
            {k: v for k, v in kwargs.items() if k not in ("out", "inplace")}, tuple(flat(results)),
            lambda wide=wide: tuple(flat(op.op(wide.input, *wide.args, **wide.kwargs))),
        )  # fmt: skip


def _widened(x: Any) -> Any:
    return x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x


def traced(sample: Sample) -> tuple[Function, list[Any]]:
    """The call as a function on concrete sizes, and its inputs. Raises what the record raises."""
    builder = Builder(OPS["cast"])
    ops = Ops(builder, OPS)
    params: list[Value] = []
    inputs: list[Any] = []

    def lower(x: Any) -> Any:
        if isinstance(x, torch.Tensor):
            dims = tuple(map(Dim.const, x.shape))
            params.append(builder.param(f"x{len(params)}", TensorType(from_torch_dtype(x.dtype), dims)))
            inputs.append(x)
            return Sym(ops, params[-1])
        if isinstance(x, torch.dtype):
            return from_torch_dtype(x)
        if isinstance(x, tuple | list):
            return [lower(y) for y in x] if isinstance(x, list) else tuple(lower(y) for y in x)
        return x

    args = [lower(x) for x in sample.args]
    kwargs = {key: lower(x) for key, x in sample.kwargs.items()}
    results = [r.value if isinstance(r, Sym) else Literal(r) for r in flat(ops.invoke(sample.record, *args, **kwargs))]
    if isinstance(ops._seed, Value):
        params.append(ops._seed)
        inputs.append(1)
    return Function("f", Block(tuple(builder.ops), tuple(params), tuple(results))), inputs
