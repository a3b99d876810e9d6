"""Kernels in torch's autograd: with the derivative that they were given, or with none."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from tessera.diag import TraceError
from tessera.driver.kernel_call import KernelCall, call_labels

#: What a kernel gives with what is kept, and the gradients from that.
Derivative = tuple[Callable[..., Any], Callable[..., Any]]


class Undifferentiable(torch.autograd.Function):
    """Keeps a kernel without a derivative from being taken for a constant. Gives the outputs that the call gave, then
    those that it left out.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Any, call: KernelCall, *tensors: torch.Tensor) -> Any:
        ctx.kernel, ctx.at = kernel, call_labels()
        written = [t for name, t in call.tensors.items() if name in kernel.outputs]
        ctx.mark_dirty(*written)
        made = kernel._run(call)
        return (*written, *(() if made is None else made if isinstance(made, tuple) else (made,)))

    @staticmethod
    def backward(ctx: Any, *_: Any) -> Any:
        raise TraceError(
            f"the kernel `{ctx.kernel.spec.name}` has no derivative", code="TSR0413", labels=ctx.at,
            helps=["`kernel.defvjp` gives it one"],
        )  # fmt: skip


class Differentiable(torch.autograd.Function):
    """A kernel with the derivative that it was given."""

    @staticmethod
    def forward(ctx: Any, pair: Any, args: Any, kwargs: Any, *tensors: torch.Tensor) -> Any:
        fwd, ctx.bwd = pair
        found, ctx.saved = fwd(*args, **kwargs)
        ctx.count, ctx.at = len(tensors), call_labels()
        return found

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        found = ctx.bwd(ctx.saved, *grads)
        if not isinstance(found, tuple) or len(found) != ctx.count:
            text = f"a derivative that gives no tuple of {ctx.count} gradients"
            raise TraceError(text, code="TSR0413", labels=ctx.at)
        return (None, None, None, *found)


__all__ = ["Derivative", "Differentiable", "Undifferentiable"]
