"""Many functions compiled by the C backend at once, so that a suite of thousands of cases starts few compilers."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from tessera.backends.c import backend as c_backend
from tessera.backends.c.load import SharedObject
from tessera.backends.eager.table import TorchTable
from tessera.driver.variant import lay_out
from tessera.ir.dtype import DType
from tessera.ir.graph import Function, Literal, Value
from tessera.ir.interp.convert import Array
from tessera.ir.interp.sizes import bind_sizes
from tessera.ir.types import ScalarType, TensorType
from tessera.ir.verify import verify
from tessera.passes.base import run_pipeline
from tessera.passes.pipeline import PIPELINE
from tessera.runtime import dispatch
from tessera.runtime.cache import default_cache
from tessera.runtime.keys import content_key, environment_parts
from tessera.schedule.lower import stride_name
from tessera.schedule.plan import Program
from tessera.schedule.schedule import schedule

TABLE = TorchTable()
#: Kernels in one translation unit: enough to share the library's text, few enough to compile side by side.
UNIT = 48


@dataclass
class Compiled:
    """A function ready to run on torch tensors; ``failure`` holds what kept it from getting there."""

    function: Function
    strided: frozenset[str] = frozenset()
    program: Program | None = None
    plan: dispatch.Plan | None = None
    failure: Exception | None = field(default=None, repr=False)

    def __call__(self, inputs: Sequence[Any], sizes: Mapping[str, int] | None = None) -> list[torch.Tensor]:
        """The results for tensors and numbers in the order of the parameters."""
        if self.failure is not None:
            raise self.failure
        assert self.plan is not None
        pairs = list(zip(self.function.params, inputs, strict=True))
        tensors = [x for p, x in pairs if isinstance(p.type, TensorType)]
        numbers = [x for p, x in pairs if isinstance(p.type, ScalarType)]
        shapes = [(p.name, p.type.dims, tuple(x.shape)) for p, x in pairs if isinstance(p.type, TensorType)]
        named = dict(bind_sizes(self.function, shapes, sizes))
        for p, x in pairs:
            if p.name in self.strided:
                named |= {stride_name(p.name, axis): step for axis, step in enumerate(x.stride())}
        return list(dispatch.bind(self.plan, named)(tensors, numbers))


def prepare(function: Function, strided: frozenset[str] = frozenset()) -> Compiled:
    """The function fused and scheduled, verified after every step; a failure is kept for the call."""
    made = Compiled(function, strided)
    try:
        verify(function)
        fused = list(run_pipeline(function, PIPELINE, verify).values())[-1]
        made.program = schedule(fused, strided)
        for kernel in made.program.kernels:
            verify(kernel.function)
    except Exception as error:
        made.failure = error
    return made


def compile_all(made: Sequence[Compiled]) -> None:
    """Give every prepared function its plan, units compiled side by side through the artifact cache."""
    waiting = [m for m in made if m.plan is None and m.failure is None and m.program is not None]
    units: list[list[Compiled]] = [[]]
    for m in waiting:
        assert m.program is not None
        if sum(len(u.program.kernels) for u in units[-1] if u.program) + len(m.program.kernels) > UNIT:
            units.append([])
        units[-1].append(m)
    workers = 1 if "PYTEST_XDIST_WORKER" in os.environ else os.cpu_count() or 1
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(_compile_unit, units))


def _compile_unit(unit: Sequence[Compiled]) -> None:
    """Compile a unit; where that fails, its halves, so that one bad kernel does not take the others with it."""
    try:
        _link(unit)
    except Exception as error:
        if len(unit) == 1:
            unit[0].failure = error
            return
        _compile_unit(unit[: len(unit) // 2])
        _compile_unit(unit[len(unit) // 2 :])


def _link(unit: Sequence[Compiled]) -> None:
    programs = [m.program for m in unit if m.program is not None]
    kernels = [k for p in programs for k in p.kernels]
    library: SharedObject | None = None
    sources: tuple[c_backend.CSource, ...] = ()
    if kernels:
        added = dict.fromkeys(dtype for p in programs for dtype in c_backend.added_dtypes(p))
        native = c_backend.emit(kernels, added=tuple(added))
        key = content_key(*native.key_parts(), *environment_parts())
        packed = default_cache().get_or_build(key, lambda: native.compile(key).pack())
        library = c_backend.CArtifact.unpack(packed).load()
        sources = native.kernels
    at = 0
    for m, p in zip(unit, programs, strict=True):
        count = len(p.kernels)
        m.plan = lay_out(p, sources[at : at + count], library)
        at += count


def torch_dtype(t: DType) -> torch.dtype:
    found = TABLE.from_dtype(t)
    assert isinstance(found, torch.dtype), t
    return found


def to_torch(x: Array, t: DType) -> torch.Tensor:
    """An array of the interpreter as a tensor of the dtype."""
    a = np.ascontiguousarray(np.asarray(x))
    return torch.from_numpy(a.reshape(np.shape(x))).to(torch_dtype(t))


def to_numpy(x: torch.Tensor) -> Array:
    """A tensor as the interpreter holds it: floats in float64."""
    return (x.to(torch.float64) if x.is_floating_point() else x).numpy()


def output_dtype(x: Value | Literal) -> DType:
    return x.type.dtype
