"""Kernels run as C, against the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tessera.backends.eager.dtypes import to_torch_dtype
from tessera.driver.kernel import Kernel
from tessera.driver.kernel_call import KernelCall, bind_kernel, interpret_kernel
from tessera.driver.native_kernel import NativeKernel
from tessera.frontend.kernel.program import KernelProgram
from tests.kernels.test_models import BOUNDS

_BUILT: dict[int, tuple[KernelProgram, NativeKernel]] = {}


def built(program: KernelProgram) -> NativeKernel:
    """The C of a program, made once."""
    return _BUILT.setdefault(id(program), (program, NativeKernel(program)))[1]


def prepared(kernel: Kernel, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[KernelProgram, KernelCall, Any]:
    call = bind_kernel(kernel.spec, kernel.outputs, args, kwargs)
    program, sizes = kernel._program(call)
    return program, call, sizes


def native(kernel: Kernel, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
    """The outputs of a kernel run as C, by parameter; what is given to be written to is left as it was."""
    program, call, sizes = prepared(kernel, args, kwargs)
    tensors: dict[str, torch.Tensor] = {}
    for name, value in program.params.items():
        if name in call.tensors:
            tensors[name] = call.tensors[name].detach().clone(memory_format=torch.contiguous_format)
        elif value.type.rank or name in program.outputs:
            shape = [d.evaluate(sizes) for d in value.type.dims]
            tensors[name] = torch.zeros(shape, dtype=to_torch_dtype(value.type.dtype))
    numbers = {name: float(call.values[name]) for name in program.params if name not in tensors}
    built(program).run(tensors, numbers, sizes)
    return {name: tensors[name] for name in program.outputs}


def agrees(kernel: Kernel, *args: Any, atol: float = 1e-5, rtol: float | None = None, **kwargs: Any) -> None:
    """The same as in the interpreter, within what one rounding and sums in another order allow; the same to the bit for
    one thread and for two.
    """
    program, call, sizes = prepared(kernel, args, kwargs)
    wanted = interpret_kernel(program, call, sizes, exact=True)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = native(kernel, *args, **kwargs)
        torch.set_num_threads(2)
        found = native(kernel, *args, **kwargs)
    finally:
        torch.set_num_threads(threads)
    for name, x in found.items():
        assert torch.equal(x.view(torch.uint8), alone[name].view(torch.uint8)) or _same(x, alone[name])
        reference = torch.from_numpy(wanted[name])
        if not x.dtype.is_floating_point:
            assert torch.equal(x.to(reference.dtype), reference), name
            continue
        bound, least = BOUNDS.get(x.dtype, (0.07, 0.01))
        if x.dtype.itemsize < 4:  # both sides are rounded
            bound *= 2
        torch.testing.assert_close(
            x.double(), reference.double(), rtol=rtol or bound, equal_nan=True,
            atol=max(least, atol if x.dtype != torch.float64 else 0),
        )  # fmt: skip


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.dim() == 0 and bool((a == b) | ((a != a) & (b != b)))
