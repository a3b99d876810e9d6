"""Parameters: torch's, which learn only where they can."""

from typing import Any

import torch

_LEARNS = (torch.float64, torch.float32, torch.bfloat16, torch.float16, torch.complex64, torch.complex128)


class _AsTorch(type(torch.nn.Parameter)):  # type: ignore[misc]
    """The parameters made here are torch's own, and count as such."""

    def __instancecheck__(cls, instance: object) -> bool:
        return isinstance(instance, torch.nn.Parameter)


class Parameter(torch.nn.Parameter, metaclass=_AsTorch):
    """A tensor of any shape that a module registers as a parameter; what is made is a ``torch.nn.Parameter``.

    ``requires_grad`` is, unless given, whether the dtype is one that is trained: floats of 16 bits and more. Integers
    and fp8 numbers are stored state, which an optimizer would break; torch refuses gradients for integers.

    >>> import torch
    >>> from tessera import nn
    >>> nn.Parameter(torch.ones(2)).requires_grad, nn.Parameter(torch.ones(2, dtype=torch.int8)).requires_grad
    (True, False)
    """

    def __new__(cls, data: torch.Tensor | None = None, requires_grad: bool | None = None) -> Any:
        data = torch.empty(0) if data is None else data
        return torch.nn.Parameter(data, data.dtype in _LEARNS if requires_grad is None else requires_grad)


__all__ = ["Parameter"]
