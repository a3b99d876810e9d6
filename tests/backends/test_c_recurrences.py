"""Recurrences in C against the interpreter, for every number of lanes and register width."""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import pytest

import tessera
from tessera.backends.c.emit import CSource, Emitter
from tessera.backends.c.load import load_shared
from tessera.backends.c.toolchain import CompileOptions, compile_shared
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.types import BufferType
from tessera.passes.chunk import Chunk
from tessera.passes.pipeline import PASSES
from tessera.schedule.plan import Kernel
from tessera.schedule.schedule import schedule
from tests.backends.test_c_scan import WIDTHS
from tests.ops.recurrences import PROGRAMS, arguments
from tests.passes.affine_steps import STEPS
from tests.passes.affine_steps import arguments as affine_arguments

NUMPY = {"f32": np.float32, "int64": np.int64, "bool": np.bool_}
SIZES = {"B": 2, "H": 1, "S": 5, "D": 17, "E": 37, "C": 35, "N": 33}
#: Lanes along the nest, along a step, and both ways to fold there; local memory of numbers, indices and bools.
CHOSEN = (
    "gated", "gated_delta", "window", "segments", "normalised", "lstm", "covariance", "best_path", "counted",
    "switched",
)  # fmt: skip
#: Steps that are taken four at a time: sums in sums, loops in loops, rows beyond the end.
IN_CHUNKS = ("retention", "corrected", "twice", "normalised", "backwards", "turned")


def kernel_of(name: str) -> tuple[Kernel, list[np.ndarray]]:
    """The kernel of a program, and its inputs."""
    if name in STEPS:
        args = affine_arguments(STEPS[name], SIZES)
        f = parse(STEPS[name].ir("canonicalize"))
        for step in (Chunk(rows=4), PASSES["cse"], PASSES["dce"], PASSES["fuse"]):
            f = step.run(f)
    else:
        args = arguments(name, SIZES)
        f = parse(tessera.function(PROGRAMS[name][0]).ir("fuse", *args))
    (kernel,) = schedule(f).kernels
    given = dict(zip(f.params, args, strict=True))
    return kernel, [given[v].numpy() for v in kernel.inputs]


def room(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """Memory that begins at a cache line."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


#: Eight lanes are compiled for the processor here in a nightly run only: that makes what x86-64-v3 does of them.
SEEN_TWICE = (8, "native")


@pytest.mark.parametrize(
    ("lanes", "march"),
    [pytest.param(*w, marks=[pytest.mark.nightly] * (w == SEEN_TWICE and len(WIDTHS) > 2)) for w in WIDTHS],
)
def test_a_recurrence_is_what_the_interpreter_says(lanes: int, march: str) -> None:
    kernels = [kernel_of(name) for name in (*CHOSEN, *IN_CHUNKS)]
    sources = [Emitter(k.function, lanes, f"k{n}").run() for n, (k, _) in enumerate(kernels)]
    options = CompileOptions(level=1, openmp=False, march=march, libm=True)
    library = load_shared(compile_shared(CSource.join(sources), options=options, timeout=240.0), "recurrences")
    for name, (kernel, inputs), source in zip((*CHOSEN, *IN_CHUNKS), kernels, sources, strict=True):
        wanted = interpret(kernel.function, [x.astype(np.float64) if x.dtype.kind == "f" else x for x in inputs],
                           sizes=SIZES)  # fmt: skip
        outs = [p.type for p in kernel.function.params if isinstance(p.type, BufferType) and p.type.role == "out"]
        found = [room(w.shape, NUMPY[t.dtype.name]) for w, t in zip(wanted, outs, strict=True)]
        scratch = room((source.scratch.evaluate(SIZES) + 64,), np.uint8)
        given = [a.ctypes.data for a in (*inputs, *found, scratch)]
        given += [0, *(SIZES[n] for n in source.sizes)]
        assert library.entry(source.entry)((ctypes.c_int64 * len(given))(*given)) == 0
        for one, other in zip(found, wanted, strict=True):
            np.testing.assert_allclose(one.astype(other.dtype), other, rtol=2e-4, atol=2e-5, err_msg=name)
