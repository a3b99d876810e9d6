"""More elements, wider strides and longer programs than 32 bits or a call stack hold."""

from __future__ import annotations

import re
import sys
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor
from tessera.backends.base import Target
from tessera.backends.triton.emit import emit

OVER = (1 << 31) + 8


@tessera.function
def total(x: Tensor["N", tessera.int8]) -> Tensor[(), tessera.int64]:
    return x.sum()


@tessera.function
def sums(x: Tensor["N", "D", tessera.int8]) -> tuple[Tensor["N", tessera.int64], Tensor["D", tessera.int64]]:
    return x.sum(dim=1), x.sum(dim=0)


@tessera.function
def more(x: Tensor["N", "D", tessera.uint8], y: Tensor["N", "D", tessera.uint8]) -> Tensor["N", "D", tessera.uint8]:
    return x + y


@pytest.mark.slow
def test_more_elements_than_32_bits_count() -> None:
    """One byte of memory stands for all of them."""
    assert total(torch.ones(1, dtype=torch.int8).expand(OVER)).item() == OVER
    assert total.cache_info().eager == 0


def test_offsets_beyond_32_bits() -> None:
    """Four GiB of addresses, of which a few pages are touched."""
    whole = torch.empty((1 << 32) + 64, dtype=torch.uint8)
    x = whole.as_strided((5, 16), (1 << 30, 1))
    x.copy_(torch.arange(80).view(5, 16))
    y = torch.full((5, 16), 3, dtype=torch.uint8)
    assert torch.equal(more(x, y), more.eager(x, y))
    assert torch.equal(more(y, x), more.eager(y, x))
    wide = whole.view(torch.int8).as_strided((16, 5), (1, 1 << 30))
    for found, wanted in zip(sums(wide), sums.eager(wide), strict=True):
        assert torch.equal(found, wanted)
    assert more.cache_info().eager == sums.cache_info().eager == 0


@pytest.mark.nightly
def test_results_of_more_elements_than_32_bits_count() -> None:
    x = torch.zeros(2, OVER // 2, dtype=torch.uint8)
    x[1, -3:] = 7
    y = more(x, torch.ones(1, 1, dtype=torch.uint8).expand(x.shape))
    assert y.numel() == OVER and y[1, -4:].tolist() == [1, 8, 8, 8] and y[0, :2].tolist() == [1, 1]


def test_emitted_indices_have_64_bits() -> None:
    variant = sums.resolve(torch.ones(3, 4, dtype=torch.int8)).variant
    kernels = variant.native.text.partition("tessera_0")[2]
    counters = set(re.findall(r"for \((\w+) ", kernels))
    assert counters == {"i64"}
    for kernel in variant.program.kernels:
        source = emit(kernel, Target("cuda", "90"))
        assert {m[1] for m in re.finditer(r"^    (i\d+) = (?!program$).*$", source.text, re.MULTILINE)} <= {
            m[1] for m in re.finditer(r"^    (i\d+) = .*tl\.int64\)$|^    (i\d+) = 0$", source.text, re.MULTILINE)
        }
        (b, *_) = source.bind({"N": 1 << 20, "D": 1 << 20})
        assert b.constants.get("WIDE", 1) in (0, 1)


def chain(length: int) -> Any:
    @tessera.function
    def chain(x: Tensor["N"]) -> Tensor["N"]:
        for _ in range(length // 2):
            x = x * 1.0001
            x = x + 0.25
        return x

    return chain


@pytest.mark.slow
def test_a_chain_of_10_000_operations() -> None:
    """Through every stage and the C compiler, in kernels of bounded length, with the usual limit of recursion."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(1000)
    try:
        f = chain(10_000)
        x = torch.randn(1000)
        y = f(x)
    finally:
        sys.setrecursionlimit(limit)
    assert f.cache_info().eager == 0 and f.cache_info().variants == 1
    wide = f.eager(x.double())
    assert (y.double() - wide).norm() <= 1.05 * (f.eager(x).double() - wide).norm()
    assert 10 <= len(f.resolve(x).variant.program.kernels) <= 40
    assert f.ir("fused").count("\n") > 10_000
