"""Functions and inputs made from the sample calls of op records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.dialects.samples import SIZES, Size, T
from tessera.ir.dtype import DType
from tessera.ir.graph import Block, Function, Literal, Value
from tessera.ir.interp.convert import Array, round_to, settle
from tessera.ir.record import OpRecord, Sample
from tessera.ir.types import TensorType


@dataclass
class Case:
    """A function of one call, with the sample's tensors as parameters in order."""

    function: Function
    tensors: list[T]
    record: OpRecord
    seeded: bool = False

    def inputs(self, sizes: Mapping[str, int] = SIZES, seed: int = 0) -> list[Array]:
        """Contents for the parameters, already rounded to their dtypes."""
        rng = np.random.default_rng(seed)
        found = [contents(t, self.record, sizes, rng) for t in self.tensors]
        return [*found, np.asarray(1234)] if self.seeded else found


@dataclass
class _Maker:
    ops: Ops
    params: list[Value] = field(default_factory=list)
    tensors: list[T] = field(default_factory=list)

    def argument(self, x: Any) -> Any:
        if isinstance(x, T):
            v = self.ops.builder.param(f"x{len(self.params)}", TensorType(x.type, x.dims))
            self.params.append(v)
            self.tensors.append(x)
            return Sym(self.ops, v)
        if isinstance(x, Size):
            return x.dim()
        if isinstance(x, tuple | list):
            return type(x)(self.argument(y) for y in x)
        return x


def function_of(record: OpRecord, sample: Sample) -> Case:
    """The function that makes the sample's call. Raises whatever the call raises."""
    builder = Builder(OPS["cast"])
    maker = _Maker(Ops(builder, OPS))
    args = [maker.argument(a) for a in sample.args]
    kwargs = {k: maker.argument(v) for k, v in sample.kwargs.items()}
    found = maker.ops.invoke(record, *args, **kwargs)
    outputs = tuple(operand(x) for x in flat(found))
    params = list(maker.params)
    seed = maker.ops._seed
    if isinstance(seed, Value):
        params.append(seed)
    body = Block(tuple(builder.ops), tuple(params), outputs)
    obligations = tuple(builder.context.obligations.values())
    return Case(Function(record.name, body, obligations=obligations), maker.tensors, record, seed is not None)


def flat(x: Any) -> list[Any]:
    return [y for part in x for y in flat(part)] if isinstance(x, tuple | list) else [x]


def operand(x: Any) -> Value | Literal:
    return x.value if isinstance(x, Sym) else x if isinstance(x, Value | Literal) else Literal(x)


def contents(t: T, record: OpRecord, sizes: Mapping[str, int], rng: np.random.Generator) -> Array:
    """An array for a sample tensor: its shape, dtype and kind of content."""
    return narrowed(t.array(rng, record.domain, sizes), t.type)


def narrowed(values: Array, t: DType) -> Array:
    return round_to(np.asarray(values), t) if t.is_float else settle(np.asarray(values), t)


def every_sample() -> list[tuple[str, int, OpRecord, Sample]]:
    """(name, number, record, sample) of every record that has samples."""
    return [(r.name, n, r, s) for r in OPS.values() if r.samples is not None for n, s in enumerate(r.samples())]
