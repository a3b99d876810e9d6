"""A kernel in its own blocks, compiled: as C for tensors on the CPU, as Triton for those on a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from tessera.backends.base import Target
from tessera.backends.c.host import host_target
from tessera.backends.eager.dtypes import to_torch_dtype
from tessera.backends.triton.program import TritonKernel, emit_program
from tessera.driver import devices
from tessera.driver.inspect import Lowered, LoweredKernel
from tessera.driver.kernel_call import KernelCall
from tessera.driver.native_kernel import NativeKernel
from tessera.frontend.kernel.program import KernelProgram
from tessera.ir.dialects.block import DEBUG_PRINT
from tessera.ir.graph import Value, walk
from tessera.ir.printer import print_function
from tessera.ir.types import BufferType
from tessera.schedule.block_sizes import default_blocks


@dataclass
class BlockKernel:
    """A program that runs as it is written. ``settings`` are the block sizes and launch settings that were given."""

    program: KernelProgram
    settings: Mapping[str, int]
    gpus: dict[torch.device, TritonKernel] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.native = NativeKernel(self.program)
        f = self.program.function
        self.prints = any(op.record is DEBUG_PRINT for op in walk(f.body))
        self.free = tuple(b for b in self.program.blocks if b not in self.settings)

    def prepare(self, device: torch.device) -> None:
        """Compile for the CPU what has not been; for a GPU that is done for each choice of sizes."""
        if device.type not in devices.ACCELERATORS:
            self.native.prepare()

    def run(self, call: KernelCall, sizes: Mapping[str, int]) -> dict[str, torch.Tensor]:
        """The outputs by parameter, in memory of their own. Raises what the program does wrong, ResourceError and
        TraceError for what cannot be compiled.
        """
        like = next(iter(call.tensors.values()), None)
        device = call.device
        tensors = {name: self.place(name, v, call, sizes, like) for name, v in self.program.params.items()
                   if isinstance(v.type, BufferType)}  # fmt: skip
        numbers = {name: float(call.values[name]) for name in self.program.params if name not in tensors}
        if device.type not in devices.ACCELERATORS:
            blocks = default_blocks(self.program.function, sizes, self.free) if self.free else {}
            self.native.run(tensors, numbers, {**sizes, **blocks})
        else:
            gpu = self.gpu(device)
            known = {name: n for name, n in sizes.items() if name not in self.free}
            names = {name: v.name for name, v in self.program.params.items()}
            by_value = {names[name]: x for name, x in tensors.items()}
            named = {names[name]: x for name, x in numbers.items()}
            platform = devices.ACCELERATORS[device.type].platform
            with platform.on(device.index or 0):
                blocks = gpu.blocks(self.free, known)
                gpu.run(by_value, named, {**known, **blocks}, platform.stream(device.index or 0))
        return {name: tensors[name] for name in self.program.outputs}

    def place(
        self, name: str, v: Value, call: KernelCall, sizes: Mapping[str, int], like: torch.Tensor | None
    ) -> torch.Tensor:
        """The memory of a buffer: what is only read as it is given, dense; outputs with what they begin with."""
        given = call.tensors.get(name)
        if name not in self.program.outputs:
            assert given is not None
            return given.detach().contiguous()
        if given is not None:
            return given.detach().clone(memory_format=torch.contiguous_format)
        shape = [d.evaluate(sizes) for d in v.type.dims]
        device = None if like is None else like.device
        return torch.zeros(shape, dtype=to_torch_dtype(v.type.dtype), device=device)

    def gpu(self, device: torch.device) -> TritonKernel:
        """The program for a GPU."""
        if device not in self.gpus:
            there = devices.ACCELERATORS[device.type]
            self.gpus[device] = TritonKernel(
                self.program.function, there.target(device), dict(self.settings), there.compile, there.load,
                there.capturing,
            )  # fmt: skip
        return self.gpus[device]

    def lower(self, backend: str | None, target: Any, sizes: Mapping[str, int] | None) -> Lowered:
        """The text for a backend; that of Triton needs sizes."""
        ir, name = print_function(self.program.function), self.program.function.name
        if backend == "triton" or (backend is None and target is not None and target.kind != "cpu"):
            where = target or Target("cuda", "90")
            gpu = TritonKernel(self.program.function, where, dict(self.settings))
            known = {n: x for n, x in (sizes or {}).items() if n not in self.free}
            made = emit_program(self.program.function, {**known, **gpu.blocks(self.free, known)}, where, self.settings)
            count = len(made.triton.nests)
            return Lowered(where, "triton", (LoweredKernel(name, "blocks", made.triton.text, ir, launches=count),))
        return Lowered(host_target(), "c", (LoweredKernel(name, "blocks", self.native.source, ir),))


__all__ = ["BlockKernel"]
