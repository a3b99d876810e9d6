"""A GPU that is none: CPU tensors count as those of a GPU, and "compiled" kernels run their text in the interpreter on
the addresses, numbers and grid that a launch hands over. Only the compiler and the driver are stand-ins.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import triton.language as tl
from triton.runtime.interpreter import TensorHandle

from tessera.backends.base import Target
from tessera.backends.triton.source import Bound
from tessera.driver import devices
from tessera.runtime import gpu

STREAM = 7


class Interpreted:
    """A kernel that runs in the interpreter with the arguments of a launch."""

    function = packed_metadata = None
    launched = 0

    def __init__(self, module: Any, bound: Bound, signature: Mapping[str, str]) -> None:
        self.kernel, self.bound, self.signature = getattr(module, bound.function.name), bound, signature

    def run(self, grid: int, y: int, z: int, stream: int, *rest: Any) -> None:
        function, metadata, launch, before, after, *args = rest
        assert (y, z, stream, function, metadata, launch, before, after) == (1, 1, STREAM, None, None, None, None, None)
        constants = self.bound.constants
        given = [self.value(name, x, constants) for name, x in zip(self.kernel.arg_names, args, strict=True)]
        self.kernel[(grid,)](*given)
        Interpreted.launched += 1

    def value(self, name: str, x: Any, constants: Mapping[str, int]) -> Any:
        """One argument, of the type that the signature promises, after checking what it promises."""
        if name in constants:
            assert x == constants[name], (name, x)
            return x
        kind, _, divides = self.signature[name].partition(":")
        assert not divides or x % 16 == 0, (name, x)
        if kind.startswith("*"):
            pointer = tl.str_to_ty(kind, None)
            return tl.tensor(TensorHandle(np.array([x], np.uint64), pointer), pointer)
        number = {"fp64": (tl.float64, np.float64), "i64": (tl.int64, np.int64), "i32": (tl.int32, np.int32)}
        to, dtype = number[kind]
        return tl.tensor(TensorHandle(np.array([x], dtype), to), to)


def interpreted() -> devices.Accelerator:
    """The GPU that is none."""
    platform = gpu.Platform(
        lambda shape, dtype, device: torch.full(shape, float("nan") if dtype.is_floating_point else 1).to(dtype),
        lambda index: STREAM,
        lambda: 0,
        lambda index: contextlib.nullcontext(),
    )
    return dataclasses.replace(
        devices.ACCELERATORS["cuda"],
        platform=platform,
        target=lambda device: Target("cuda", "90"),
        capturing=lambda: False,
        compile=Interpreted,
    )
