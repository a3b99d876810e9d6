"""Sizes may be called what loop axes are called."""

from __future__ import annotations

import torch

import tessera
from tessera import Tensor


@tessera.function
def softmax(x: Tensor["i0", "k"]) -> Tensor["i0", "k"]:
    return torch.softmax(x, -1)


@tessera.function
def sums(x: Tensor["c", "k"]) -> tuple[Tensor["k"], Tensor[()]]:
    return x.sum(0), (x * 2).sum()


@tessera.function
def shifted(x: Tensor["c", "_l"], y: Tensor["_l"]) -> Tensor["c", "_l"]:
    return x + y


def test_dims_named_like_axes() -> None:
    x = torch.randn(130, 77, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(softmax(x), torch.softmax(x, -1))
    columns, total = sums(x)
    torch.testing.assert_close(columns, x.sum(0))
    torch.testing.assert_close(total, (x * 2).sum())
    torch.testing.assert_close(shifted(x, x[0]), x + x[0])
    assert "i0_" in softmax.ir("tile")
