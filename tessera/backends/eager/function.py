"""A function of the tensor dialect executed op by op through torch: any stage, fused regions included."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from tessera.backends.eager.autocast import under
from tessera.backends.eager.dtypes import from_torch_dtype, to_torch_dtype
from tessera.backends.eager.run import Routine
from tessera.diag import DTypeError, ShapeError, TraceError
from tessera.ir.graph import Function, Operand, Value
from tessera.ir.interp.sizes import bind_sizes
from tessera.ir.types import ScalarType, TensorType

Input = torch.Tensor | bool | int | float


def run_function(
    f: Function, inputs: Sequence[Input], *, sizes: Mapping[str, int] | None = None, grad: bool = False
) -> list[torch.Tensor]:
    """The results of a function on torch tensors, and Python numbers for its scalar parameters.

    ``sizes`` binds names that no input has; with ``grad`` autograd records the operations. Raises ShapeError and
    DTypeError for inputs that do not fit the parameters, TraceError (TSR0408) for kernels and for operations that torch
    has no counterpart of.

    >>> from tessera.ir.parser import parse
    >>> f = parse("fn f(x: f32[B, D]) -> f32[B] { %m = amax(x) over [D] : f32[B] return %m }")
    >>> run_function(f, [torch.tensor([[1.0, 5.0], [7.0, 2.0]])])
    [tensor([5., 7.])]
    """
    if f.dialect != "tensor":
        raise TraceError(f"`{f.name}` is a kernel, which torch cannot run", code="TSR0408")
    env = _bind(f, inputs)
    shapes = [(p.name, p.type.dims, tuple(x.shape)) for p, x in env.items() if isinstance(p.type, TensorType)]
    bound = bind_sizes(f, shapes, sizes)
    device = next((x.device for x in env.values() if isinstance(x, torch.Tensor)), None)
    with torch.set_grad_enabled(grad), torch.device(device or "cpu"), under(()):  # the casts are in the IR
        found = Routine.of(f.body, bound).run(env)
        return [_output(x, made) for x, made in zip(f.outputs, found, strict=True)]


def _bind(f: Function, inputs: Sequence[Input]) -> dict[Value, Any]:
    if len(inputs) != len(f.params):
        raise ShapeError(f"`{f.name}` takes {len(f.params)} inputs, not {len(inputs)}", code="TSR0105")
    env: dict[Value, Any] = {}
    for p, x in zip(f.params, inputs, strict=True):
        if isinstance(p.type, ScalarType):
            env[p] = x.item() if isinstance(x, torch.Tensor) else x
            continue
        if not isinstance(x, torch.Tensor):
            raise ShapeError(f"`{p.name}` is {type(x).__name__}, not a tensor", code="TSR0105")
        if from_torch_dtype(x.dtype) is not p.type.dtype:
            raise DTypeError(f"`{p.name}` is {from_torch_dtype(x.dtype)}, not {p.type.dtype}", code="TSR0108")
        env[p] = x
    return env


def _output(x: Operand, value: Any) -> torch.Tensor:
    return value if isinstance(value, torch.Tensor) else torch.tensor(value, dtype=to_torch_dtype(x.type.dtype))
