"""Sums in float64 against exactly rounded ones: no other judge is better than the dtype itself."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

import tessera
from tests.ops.compare import RATIO


def total(x: torch.Tensor) -> torch.Tensor:
    return x.sum()


def rows(x: torch.Tensor) -> torch.Tensor:
    return x.sum(-1)


def columns(x: torch.Tensor) -> torch.Tensor:
    return x.sum(0)


def mean(x: torch.Tensor) -> torch.Tensor:
    return x.mean(-1)


def squares(x: torch.Tensor) -> torch.Tensor:
    return (x * x).sum(-1)


def exactly(f: Callable[[torch.Tensor], torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """The result of ``f`` rounded once."""
    if f is squares:
        x = x * x
    lists = [x.flatten().tolist()] if f is total else (x.T if f is columns else x).tolist()
    sums = torch.tensor([math.fsum(one) for one in lists], dtype=torch.float64)
    return sums[0] if f is total else sums / x.shape[-1] if f is mean else sums


@pytest.mark.parametrize("shape", [(3, 100_003), (1009, 37), (64, 64), (5, 1)], ids=str)
@pytest.mark.parametrize("f", [total, rows, columns, mean, squares])
def test_a_sum_of_doubles_is_no_further_off_than_eagers(
    f: Callable[[torch.Tensor], torch.Tensor], shape: tuple[int, ...]
) -> None:
    random = torch.Generator().manual_seed(7)
    x = torch.randn(shape, dtype=torch.float64, generator=random)
    x *= torch.rand(shape, dtype=torch.float64, generator=random).mul(12).exp()
    got, eager, exact = tessera.function(f)(x), f(x), exactly(f, x)
    # Where no sum is inexact by more than one rounding there is nothing to compare.
    once = exact.abs().norm() * torch.finfo(torch.float64).eps / 2
    assert (got - exact).norm() <= max(RATIO * (eager - exact).norm(), once)


@pytest.mark.parametrize("dim", [0, -1])
def test_a_carry_does_not_turn_infinities_into_nan(dim: int) -> None:
    inf, nan = math.inf, math.nan
    x = torch.tensor([[1.0, inf, 2.0], [nan, inf, 0.0], [1.0, inf, -1.0]], dtype=torch.float64)

    def f(x: torch.Tensor) -> torch.Tensor:
        return x.sum(dim)

    assert torch.equal(tessera.function(f)(x).nan_to_num(nan=7.0), f(x).nan_to_num(nan=7.0))
    huge = torch.full((40, 40), 1e307, dtype=torch.float64)
    assert torch.equal(tessera.function(f)(huge), torch.full((40,), inf, dtype=torch.float64))
