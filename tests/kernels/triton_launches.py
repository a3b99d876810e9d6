"""A process that launches kernels as on a GPU, with Triton's interpreter in the place of the device:
``python triton_launches.py``, with TRITON_INTERPRET=1. Prints one JSON object: name to what went wrong. Kernels are
launched in their own blocks, then each kernel of models is called as users call it, on whole tensors where it can be.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator
from typing import Any

import torch

from tessera.backends.triton.program import TritonKernel
from tessera.driver import devices
from tessera.driver.kernel import Kernel
from tessera.driver.kernel_call import as_tensor, interpret_kernel
from tessera.ir.types import BufferType
from tessera.ops import kernels as K
from tests.backends import triton_shim
from tests.backends.triton_device import STREAM, Interpreted, interpreted
from tests.kernels import test_language as L
from tests.kernels.given import f, ints
from tests.kernels.test_models import blocks
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


def models() -> Iterator[tuple[Kernel, tuple[Any, ...], dict[str, Any]]]:
    """A call of each kernel of models."""
    x, w, angle = f(10, 12), f(12), f(5, 3) * 3
    turned = angle.cos(), angle.sin()
    low = torch.arange(-60, 60, dtype=torch.int8)
    q = f(2, 17, 8)
    yield K.rms_norm_kernel, (x, w), {}
    yield K.swiglu_fused_kernel, (x, f(12, 20), f(12, 20).flip(0), f(20, 12)), {"beta": 1.5}
    yield K.rotary_embedding_kernel, (f(2, 5, 3, 6), *turned), {}
    yield K.casted_embedding_kernel, (ints(0, 9, 3, 3), x), {"scale": 0.5}
    yield K.int8_linear_kernel, (low.view(10, 12), low.view(10, 12), f(10), torch.empty(10, 10), 0.1, f(10)), {}
    yield K.sparse_embedding_kernel, (ints(0, 11, 5), *blocks(12, 16, 4)[1], torch.empty(3, 16)), {}
    yield K.stable_cross_entropy_kernel, (x * 9, ints(3, -100, 0, 5, 1, 1, 1, 1, 1, 11)), {}
    yield K.fused_softmax_cross_entropy_kernel, (x * 9, ints(3, 4, 0, 5, 1, 1, 1, 1, 1, 11)), {}
    yield K.flash_attention_kernel, (q, q.flip(1), q + 1), {"is_causal": True}
    block = x, w, f(12, 24) / 3, f(12, 12) / 3, *turned
    yield K.fused_attention_block_kernel, block, {}
    yield K.fused_attention_block_kernel, tuple(t.bfloat16() for t in block[:4]) + turned, {"mask": f(5, 5) > -1}
    yield K.fused_mlp_block_kernel, (x, w, f(12, 20) / 3, f(12, 20).flip(0) / 3, f(20, 12) / 4), {}


def complaint(kernel: Kernel, args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """What is wrong with a call and the same once more; nothing where both are as the checking interpreter says."""
    (wanted,) = kernel.reference(*args, **kwargs).values()
    given = [args[n] for n, p in enumerate(kernel.spec.params) if p.name in kernel.outputs and len(args) > n]
    before = Interpreted.launched
    for _ in range(2):
        made = kernel(*args, **kwargs)
        found = given[0] if made is None else made
        rtol, atol = (2**-6, 3e-2) if found.dtype is torch.bfloat16 else (1e-4, 1e-5)
        if not torch.allclose(found.double(), wanted.double(), rtol=rtol, atol=atol):
            return f"{found} for {wanted}"
    return "" if Interpreted.launched - before >= 2 else "nothing was launched"


def main() -> None:
    triton_shim.install()
    warnings.simplefilter("error")
    made: dict[Any, TritonKernel] = {}
    q = f(2, 17, 8)
    said = {
        "rms": wrong(made, K.rms_norm_kernel, f(5, 7), f(7)),
        "rms again": wrong(made, K.rms_norm_kernel, f(7, 6).T, f(7)),
        "attention": wrong(made, K.flash_attention_kernel, q, q.flip(1), q + 1, is_causal=True),
        "staged": wrong(made, L.staged, f(5, 3)),
        "two grids": wrong(made, twice, f(5)),
    }
    devices.ACCELERATORS["cpu"] = interpreted()
    for kernel, args, kwargs in models():
        name = kernel.spec.name
        said[f"{name} again" if name in said else name] = complaint(kernel, args, kwargs)
    print(json.dumps(said))


if __name__ == "__main__":
    main()
