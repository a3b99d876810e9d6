"""Column reductions on either side of the widths at which several vectors go down the rows together."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tessera


def add(x: torch.Tensor) -> torch.Tensor:
    return x.sum(0)


def largest(x: torch.Tensor) -> torch.Tensor:
    return x.amax(0)


def where(x: torch.Tensor) -> torch.Tensor:
    return x.argmax(0)


def spread(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x.var(0), (x - x.mean(0)).abs().amax(0)


def weights(x: torch.Tensor) -> torch.Tensor:
    return x.softmax(0)


def middle(x: torch.Tensor) -> torch.Tensor:
    return x.unflatten(0, (-1, 3)).sum(1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("f", [add, largest, where, spread, weights, middle])
def test_every_width_gives_what_one_column_gives(f: Callable[..., object], dtype: torch.dtype) -> None:
    random = torch.Generator().manual_seed(3)
    x = torch.randn(141, 333, generator=random).to(dtype)
    fused = tessera.function(f)
    whole = fused(x)
    for width in (1, 7, 8, 16, 31, 32, 33, 63, 64, 65, 128, 130):
        part = fused(x[:, :width].contiguous())
        for a, b in zip(*((y,) if isinstance(y, torch.Tensor) else y for y in (part, whole)), strict=True):
            assert torch.equal(a, b[..., :width]), width
    for a, b in zip(*((y,) if isinstance(y, torch.Tensor) else y for y in (whole, f(x))), strict=True):
        torch.testing.assert_close(a, b)
