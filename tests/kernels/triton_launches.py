"""A process that launches kernels as on a GPU, with Triton's interpreter in the place of the device:
``python triton_launches.py``, with TRITON_INTERPRET=1. Prints one JSON object: name to what went wrong.
"""

from __future__ import annotations

import json
from typing import Any

import torch

from tessera.backends.triton.program import TritonKernel
from tessera.driver.kernel import Kernel
from tessera.driver.kernel_call import as_tensor, interpret_kernel
from tessera.ir.types import BufferType
from tessera.ops import kernels as K
from tests.backends import triton_shim
from tests.backends.triton_device import STREAM, Interpreted
from tests.kernels import test_language as L
from tests.kernels.given import f
from tests.kernels.triton_cases import twice
from tests.kernels.triton_programs import TARGET, read


def wrong(made: dict[Any, TritonKernel], kernel: Kernel, *args: Any, **kwargs: Any) -> str:
    """What a launch gives that the checking interpreter does not; nothing where they agree."""
    program, call, sizes = read(kernel, args, kwargs)
    launched = made.setdefault(program.function, TritonKernel(program.function, TARGET, kernel.settings, Interpreted))
    wanted = interpret_kernel(program, call, sizes, True)
    tensors, numbers = {}, {}
    for name, v in program.params.items():
        if isinstance(v.type, BufferType):
            blank = as_tensor(wanted[name] * 0, v.type.dtype) if name in program.outputs else None
            tensors[v.name] = call.tensors.get(name, blank)
        else:
            numbers[v.name] = float(call.values[name])
    launched.run(tensors, numbers, sizes, STREAM)
    for name in program.outputs:
        found, exact = tensors[program.params[name].name], as_tensor(wanted[name], program.params[name].type.dtype)
        if not torch.allclose(found.double(), exact.double(), rtol=1e-4, atol=1e-5):
            return f"{name}: {found} for {exact}"
    return ""


def main() -> None:
    triton_shim.install()
    made: dict[Any, TritonKernel] = {}
    q = f(2, 17, 8)
    said = {
        "rms": wrong(made, K.rms_norm_kernel, f(5, 7), f(7)),
        "rms again": wrong(made, K.rms_norm_kernel, f(7, 6).T, f(7)),
        "attention": wrong(made, K.flash_attention_kernel, q, q.flip(1), q + 1, is_causal=True),
        "staged": wrong(made, L.staged, f(5, 3)),
        "two grids": wrong(made, twice, f(5)),
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
