"""Functions of layers that torch has under another name, or not."""

import torch

import tessera
from tessera import Tensor


@tessera.function
def swish(x: Tensor["..."], beta: float = 1.0) -> Tensor["..."]:
    """``x σ(beta x)`` of any shape: ``x / 2`` for beta 0, SiLU for 1, close to ReLU for large ones.

    Source: Ramachandran, Zoph and Le 2017, arXiv:1710.05941.

    >>> import torch
    >>> from tessera import nn
    >>> nn.swish(torch.tensor([2.0]), beta=0.0).item()
    1.0
    """
    return x * torch.sigmoid(beta * x)


@tessera.function
def l2_normalize(x: Tensor["..."], dim: int = -1, eps: float = 1e-12) -> Tensor["..."]:
    """``x / max(‖x‖₂, eps)`` over ``dim``; zero vectors stay zero. As ``torch.nn.functional.normalize``.

    >>> import torch
    >>> from tessera import nn
    >>> nn.l2_normalize(torch.tensor([3.0, 4.0]))
    tensor([0.6000, 0.8000])
    """
    return torch.nn.functional.normalize(x, 2.0, dim, eps)


@tessera.function
def log_softmax_stable(x: Tensor["..."], dim: int = -1) -> Tensor["..."]:
    """The logarithm of the softmax over ``dim``, from shifted numbers: no finite input overflows.

    >>> import torch
    >>> from tessera import nn
    >>> nn.log_softmax_stable(torch.tensor([1000.0, 0.0])).tolist()
    [0.0, -1000.0]
    """
    return torch.log_softmax(x, dim)


__all__ = ["l2_normalize", "log_softmax_stable", "swish"]
