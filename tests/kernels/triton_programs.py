"""Calls of kernels as runs of Triton's interpreter, with what the checking interpreter gives for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch

from tessera.backends.base import Target
from tessera.backends.triton.program import ProgramSource, bound_sizes, emit_program
from tessera.backends.triton.program_config import programs
from tessera.driver.kernel import Kernel
from tessera.driver.kernel_call import KernelCall, _array, bind_kernel, interpret_kernel
from tessera.frontend.kernel.program import KernelProgram
from tessera.ir.types import BufferType
from tests.backends.triton_runs import Run, launch, padded_strides

TARGET = Target("cuda", "90")


def read(kernel: Kernel, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[KernelProgram, KernelCall, Any]:
    """The program for a call, the call, and every size in it."""
    call = bind_kernel(kernel.spec, kernel.outputs, args, kwargs)
    program, sizes = kernel._program(call)
    return program, call, sizes


def dense(shape: tuple[int, ...]) -> list[int]:
    strides = [1]
    for n in reversed(shape[1:]):
        strides.insert(0, strides[0] * max(n, 1))
    return strides[: len(shape)]


def planned(label: str, kernel: Kernel, *args: Any, padded: bool = False, **kwargs: Any) -> Run:
    """One call; with ``padded`` rows lie further apart than they are long."""
    program, call, sizes = read(kernel, args, kwargs)
    source = emit_program(program.function, sizes, TARGET, kernel.settings)
    buffers: list[dict[str, Any]] = []
    arrays: dict[str, np.ndarray] = {}
    strides = []
    params = {v: name for name, v in program.params.items()}
    for p in program.function.params:
        if not isinstance(p.type, BufferType):
            continue
        shape = tuple(d.evaluate(sizes) for d in p.type.dims)
        by = padded_strides(shape) if padded and shape else dense(shape)
        strides.append(by)
        number, name = str(len(buffers)), params[p]
        given = name in call.tensors and p.type.role != "out"
        if given:
            arrays[number] = _array(call.tensors[name])
        buffers.append({
            "array": number if given else None, "dtype": p.type.dtype.name, "shape": shape,
            "strides": by if padded and given else None, "out": p.type.role == "update",
        })  # fmt: skip
        strides[-1] = by if buffers[-1]["strides"] else dense(shape)
    known = bound_sizes(sizes, strides)
    buffers += memory(source, known)
    scalars = [float(call.values[params[p]]) for p in program.function.params if not isinstance(p.type, BufferType)]
    launches = [launch(b) for b in source.triton.bind(known)]
    job = {"text": source.triton.text, "buffers": buffers, "scalars": scalars, "launches": launches}
    places = {v: n for n, v in enumerate(v for v in program.function.params if isinstance(v.type, BufferType))}
    found = []
    for exact in (True, False):
        made = interpret_kernel(program, call, sizes, exact)
        found.append({places[program.params[n]]: np.asarray(a) for n, a in made.items()})
    wanted = {n: (a, list(places)[n].type.dtype) for n, a in found[0].items()}
    return Run(label, job, arrays, wanted, found[1])


def memory(source: ProgramSource, sizes: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """The buffers that programs have for themselves."""
    for own in source.own:
        count = own.count.evaluate(sizes) * max(programs(own.part, sizes), 1)
        yield {"array": None, "dtype": own.dtype.name, "shape": [count], "strides": None}


def some(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


__all__ = ["TARGET", "planned", "read", "some"]
