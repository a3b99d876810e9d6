"""Tensors that the tests of kernels are given."""

import torch


def f(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(1))


def ints(*values: int) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.int32)
