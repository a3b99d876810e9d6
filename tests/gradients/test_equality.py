"""The slope of an extreme goes to all elements that equal it: what is compared must be what was folded, to the last
digit, also where it is computed once more, by another kernel or for another pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tests.gradients.compiled import derived, gradients

#: Functions whose gradients add up to a known number along the folded axis, and that number.
NARROW: dict[str, tuple[Callable[[Any], Any], int, float]] = {
    "along rows": (lambda x: (x * 1.25 + 0.3).amax(-1), -1, 1.25),
    "along columns": (lambda x: (x * 1.25 + 0.3).amin(0), 0, 1.25),
    "less a mean": (lambda x: ((x - x.mean(-1, keepdim=True)) * 1.25 + x).amax(-1), -1, 1.0),
    "after a product": (lambda x: ((x @ torch.eye(40, dtype=x.dtype)) * 1.25 + 0.3).amax(0), 0, 1.25),
    "median": (lambda x: (x * 1.25 + 0.3).median(-1).values, -1, 1.25),
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.nightly)], ids=str)
@pytest.mark.parametrize("name", NARROW)
def test_shares_of_narrow_floats_add_up(name: str, dtype: torch.dtype) -> None:
    """Between operations a narrow float has more digits than memory keeps of it."""
    plain, axis, whole = NARROW[name]
    x = torch.randn(40, 40, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
    function = tessera.function(strict=True)(lambda x: plain(x))
    with tessera.backend("c"):
        (found,) = torch.autograd.grad(function(x).sum(), x)
    total = found.float().sum(axis)
    torch.testing.assert_close(total, torch.full_like(total, whole), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
def test_what_is_at_least_the_third_largest(dtype: torch.dtype) -> None:
    @tessera.function(strict=True)
    def kept(x):
        y = torch.tanh(x) * 1.1
        return (y >= y.topk(3, -1).values[..., -1:]).sum(-1)

    x = torch.randn(30, 50, generator=torch.Generator().manual_seed(2)).to(dtype)
    with tessera.backend("c"):
        assert int(kept(x).min()) >= 3


def by_hand(q: Any, k: Any, v: Any) -> Any:
    scores = q @ k.mT
    p = torch.exp(scores - scores.amax(-1, keepdim=True))
    return (p / p.sum(-1, keepdim=True)) @ v, scores.amax(-2)


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.nightly)], ids=str)
def test_products_that_are_compared_with_their_extreme(dtype: torch.dtype) -> None:
    """Computed again they would differ in their last digits: they are kept, and where there is less room than that
    takes the comparison is, a byte for each element.
    """
    generator = torch.Generator().manual_seed(3)
    sizes = ((65, 6), (33, 6), (33, 9))
    q, k, v = (torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in sizes)
    exact = gradients(by_hand, [x.detach().double().requires_grad_() for x in (q, k, v)])
    for limit in (None, 65 * 33 * dtype.itemsize):
        function = tessera.function(strict=True, max_saved=limit)(by_hand)
        with tessera.backend("c"):
            found = gradients(function, [q, k, v])
        for got, want in zip(found, exact, strict=True):
            torch.testing.assert_close(got.double(), want, rtol=1e-4, atol=1e-5)
        scores = [y.type for y in derived(function)[0].parts.kept if {"q_0", "k_0"} <= set(map(str, y.type.dims))]
        assert any(t.dtype.is_bool for t in scores) and any(t.dtype.is_float for t in scores) is (limit is None)


def test_a_condition_on_a_score_leaves_out_no_block() -> None:
    """Blocks are left out by what is known before their products are computed."""

    @tessera.function(strict=True)
    def most(q, k):
        return torch.clamp(q @ k.mT, -1, 1).logsumexp(-1)

    q, k = (torch.randn(40, 8, dtype=torch.float64).requires_grad_() for _ in range(2))
    with tessera.backend("c"):
        found = gradients(most, [q, k])
    torch.testing.assert_close(found, gradients(most.eager, [q, k]))


@pytest.mark.parametrize("shape", [(1, 5), (7, 1, 5), (1, 1, 70)])
def test_sums_down_rows_beside_axes_of_one(shape: tuple[int, ...]) -> None:
    @tessera.function(strict=True)
    def both(x):
        return torch.tanh(x).exp(), x.sum(0), x.expand(2, *x.shape)

    x = torch.randn(shape, dtype=torch.float64).requires_grad_()
    with tessera.backend("c"):
        torch.testing.assert_close(both(x), both.eager(x))
        torch.testing.assert_close(gradients(both, [x]), gradients(both.eager, [x]))
