"""Every record on every sample: the traced function, torch tensors for its parameters, and what torch makes of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from tessera.backends.eager import resolve, to_torch_dtype
from tessera.ir.build import Builder
from tessera.ir.dialects import OPS, TENSOR_OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.dialects.samples import SIZES, T, replaced
from tessera.ir.dtype import DType, is_dtype_name
from tessera.ir.dtype import dtype as as_dtype
from tessera.ir.graph import Block, Function, Literal, Value
from tessera.ir.record import OpRecord, Sample
from tessera.ir.types import TensorType


@dataclass(frozen=True)
class Case:
    """A sample of a record, numbered."""

    record: OpRecord
    number: int
    sample: Sample

    @property
    def id(self) -> str:
        return f"{self.record.name}-{self.number}"


CASES = [Case(r, n, s) for r in TENSOR_OPS if r.samples is not None for n, s in enumerate(r.samples())]


def flat(x: Any) -> list[Any]:
    """The members of nested tuples, in order."""
    return [y for part in x for y in flat(part)] if isinstance(x, tuple | list) else [x]


def tensors_of(sample: Sample) -> list[T]:
    found: list[T] = []

    def note(t: T) -> T:
        found.append(t)
        return t

    for x in (*sample.args, *sample.kwargs.values()):
        replaced(x, note, lambda s: s)
    return found


def traced(case: Case, concrete: Mapping[str, int] | None = None) -> Function:
    """The function that makes the sample's call; with ``concrete`` on sizes that are numbers."""
    builder = Builder(OPS["cast"])
    ops = Ops(builder, OPS)
    params: list[Value] = []

    def tensor(t: T) -> Sym:
        dims = t.dims if concrete is None else tuple(d.substitute(concrete) for d in t.dims)
        params.append(builder.param(f"x{len(params)}", TensorType(t.type, dims)))
        return Sym(ops, params[-1])

    args, kwargs = arguments(case.sample, tensor, lambda s: s.dim() if concrete is None else s.value(concrete))
    results = [r.value if isinstance(r, Sym) else Literal(r) for r in flat(ops.invoke(case.record, *args, **kwargs))]
    if isinstance(ops._seed, Value):
        params.append(ops._seed)
    return Function(case.record.name, Block(tuple(builder.ops), tuple(params), tuple(results)))


def arguments(sample: Sample, tensor: Any, size: Any) -> tuple[list[Any], dict[str, Any]]:
    args = [replaced(x, tensor, size) for x in sample.args]
    return args, {key: replaced(x, tensor, size) for key, x in sample.kwargs.items()}


def inputs(case: Case, sizes: Mapping[str, int] = SIZES, seed: int = 0) -> list[torch.Tensor]:
    """Contents for the sample's tensors, in their own dtypes."""
    rng = np.random.default_rng(seed)
    return [
        torch.from_numpy(np.array(t.array(rng, case.record.domain, sizes))).to(to_torch_dtype(t.type))
        for t in tensors_of(case.sample)
    ]


def torch_result(case: Case, given: list[torch.Tensor], sizes: Mapping[str, int] = SIZES) -> Any:
    """What the record's torch function gives for the same call; None where it has none."""
    function = resolve(case.record.torch[0]) if case.record.torch else None
    if function is None:
        return None
    waiting = iter(given)
    args, kwargs = arguments(case.sample, lambda t: next(waiting), lambda s: s.value(sizes))
    return function(*map(_torch_value, args), **{key: _torch_value(x) for key, x in kwargs.items()})


def _torch_value(x: Any) -> Any:
    if isinstance(x, DType) or (isinstance(x, str) and is_dtype_name(x)):
        return to_torch_dtype(as_dtype(x))
    return tuple(map(_torch_value, x)) if type(x) is tuple else x
