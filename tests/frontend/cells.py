"""Sample calls of records with the dtype of one operand replaced: what torch says to them, and what the check says."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch

from tessera import Tensor, TesseraError
from tessera.driver.layout import TABLE
from tessera.frontend.check import check
from tessera.frontend.spec import FunctionSpec
from tessera.ir.dialects.samples import SIZES, Size, T, replaced
from tessera.ir.dtype import DType, is_dtype_name
from tessera.ir.dtype import dtype as as_dtype
from tessera.ir.record import OpRecord, Sample

#: The dtypes that operands are given.
DTYPES = ("f32", "f64", "bf16", "int64", "int32", "uint8", "bool")


@dataclass(frozen=True)
class Cell:
    """A sample call of a record on tensors of these types."""

    record: OpRecord
    number: int
    sample: Sample
    tensors: tuple[T, ...]

    def with_dtype(self, place: int, name: str) -> Cell:
        old = self.tensors[place]
        new = replace(old, dtype=name, fill=2 if old.fill == "bool" and name != "bool" else old.fill)
        return replace(self, tensors=(*self.tensors[:place], new, *self.tensors[place + 1 :]))

    @property
    def where(self) -> str:
        return f"{self.record.name}({', '.join(t.dtype for t in self.tensors)})"


def bases(record: OpRecord) -> Iterator[Cell]:
    """The sample calls that torch and the check take as they are."""
    for number, sample in enumerate(record.samples() if record.samples is not None and record.torch else ()):
        found = tensors_of(sample)
        cell = Cell(record, number, sample, found)
        if found and torch_takes(cell) and check_takes(cell):
            yield cell


def variants(base: Cell, dtypes: Sequence[str] = DTYPES) -> Iterator[Cell]:
    """One operand of another dtype; then all float operands."""
    for place, t in enumerate(base.tensors):
        yield from (base.with_dtype(place, name) for name in dtypes if name != t.dtype)
    floats = [n for n, t in enumerate(base.tensors) if t.type.is_float]
    for name in dtypes if len(floats) > 1 else ():
        cell = base
        for n in floats:
            cell = cell.with_dtype(n, name)
        yield cell


def tensors_of(sample: Sample) -> tuple[T, ...]:
    """The tensors of a sample, in order."""
    found: list[T] = []
    for x in (*sample.args, *sample.kwargs.values()):
        replaced(x, found.append, lambda s: s)
    return tuple(found)


def _called(cell: Cell) -> Callable[..., Any]:
    """The call as a function of its tensors, their types annotated."""
    name = cell.record.torch[0]
    method = name.removeprefix("torch.Tensor.") if name.startswith("torch.Tensor.") else ""
    whole: Any = None if method else reduce(getattr, name.split(".")[1:], torch)

    def f(*xs: Any) -> Any:
        sizes = {n: d for t, x in zip(cell.tensors, xs, strict=True) for n, d in zip(t.shape, x.shape, strict=True)}
        waiting = iter(xs)

        def argument(x: Any) -> Any:
            if isinstance(x, DType) or (isinstance(x, str) and is_dtype_name(x)):
                return TABLE.from_dtype(as_dtype(x))
            if isinstance(x, tuple | list):
                return type(x)(map(argument, x))
            return replaced(x, lambda _: next(waiting), lambda s: _size(s, sizes))

        args = [argument(a) for a in cell.sample.args]
        kwargs = {key: argument(a) for key, a in cell.sample.kwargs.items()}
        return _method(method, args, kwargs) if whole is None else whole(*args, **kwargs)

    notes = {f"x{n}": Tensor[(*(t.shape or ((),)), t.type)] for n, t in enumerate(cell.tensors)}
    f.__annotations__ = notes
    f.__signature__ = inspect.Signature([inspect.Parameter(n, inspect.Parameter.POSITIONAL_OR_KEYWORD) for n in notes])  # type: ignore[attr-defined]
    return f


def _size(s: Size, sizes: dict[Any, Any]) -> Any:
    total = 1
    for factor in s.factors:
        total = total * (sizes[factor] if isinstance(factor, str) else factor)
    return total + s.plus


def _method(name: str, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A tensor method on a copy, or an attribute."""
    if name.endswith(".__get__"):
        return getattr(args[0], name.removesuffix(".__get__"))
    if name == "__getitem__":
        return args[0][args[1]]
    first = args[0].clone() if name.endswith("_") else args[0]
    if name == "__setitem__":
        first[args[1]] = args[2]
        return first
    return getattr(first, name)(*args[1:], **kwargs)


def _tensor(t: T, record: OpRecord, rng: np.random.Generator) -> torch.Tensor:
    values = torch.from_numpy(np.array(t.array(rng, record.domain, SIZES)))
    if t.type.is_bool:
        return values > 0
    if t.type.is_float or isinstance(t.fill, int):
        return values.to(TABLE.from_dtype(t.type))  # type: ignore[call-overload]
    values = values.double().floor()
    return (values.abs() if t.dtype == "uint8" else values).to(TABLE.from_dtype(t.type))  # type: ignore[call-overload]


def torch_takes(cell: Cell) -> bool:
    """Whether torch computes the call, on the CPU."""
    rng = np.random.default_rng(0)
    try:
        _called(cell)(*(_tensor(t, cell.record, rng) for t in cell.tensors))
    except Exception:
        return False
    return True


def check_takes(cell: Cell) -> bool:
    """Whether the check refutes nothing of the call."""
    try:
        return check(FunctionSpec.of(_called(cell)), TABLE).ok
    except TesseraError:
        return False
