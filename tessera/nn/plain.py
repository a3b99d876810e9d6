"""Layers whose torch classes say all there is to say: their ``forward``, compiled."""

import torch

from tessera import Module


class Dropout(torch.nn.Dropout, Module):
    """Zero with probability ``p`` and the rest scaled by 1/(1 - p) while training; nothing otherwise. Any shape."""


class GELU(torch.nn.GELU, Module):
    """``x Φ(x)``, or its approximation by tanh (``approximate="tanh"``). Any shape. Source: arXiv:1606.08415."""


class ReLU(torch.nn.ReLU, Module):
    """``max(x, 0)``. Any shape."""


class SiLU(torch.nn.SiLU, Module):
    """``x σ(x)``. Any shape. Source: arXiv:1702.03118."""


class Tanh(torch.nn.Tanh, Module):
    """``tanh(x)``. Any shape."""


class Sigmoid(torch.nn.Sigmoid, Module):
    """``1 / (1 + exp(-x))``. Any shape."""


class Softmax(torch.nn.Softmax, Module):
    """Exponentials divided by their sum over ``dim``. Any shape."""


class Identity(torch.nn.Identity, Module):
    """What it is given, whatever arguments it was made with."""


class Sequential(torch.nn.Sequential, Module):
    """Modules one after the other, compiled as one function.

    >>> import torch
    >>> from tessera import nn
    >>> net = nn.Sequential(nn.Linear(3, 8), nn.GELU(), nn.Linear(8, 2))
    >>> net(torch.ones(5, 3)).shape, list(net.state_dict())[:2]
    (torch.Size([5, 2]), ['0.weight', '0.bias'])
    """


class CrossEntropyLoss(torch.nn.CrossEntropyLoss, Module):
    """Cross-entropy of logits ``[N, C, ...]`` against classes ``[N, ...]`` or probabilities ``[N, C, ...]``.

    Arguments as ``torch.nn.CrossEntropyLoss``: class weights, ``ignore_index``, ``reduction``, ``label_smoothing``.
    """


class MSELoss(torch.nn.MSELoss, Module):
    """Squares of differences, by ``reduction`` their mean, their sum, or each of them."""


__all__ = [
    "GELU",
    "CrossEntropyLoss",
    "Dropout",
    "Identity",
    "MSELoss",
    "ReLU",
    "Sequential",
    "SiLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]  # fmt: skip
