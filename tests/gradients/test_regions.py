"""Regions of recomputation that others read from, compare in and sort in: gradients, and gradients of gradients."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera

Region = Callable[[], AbstractContextManager[Any]]


def read_by_the_next(region: Region, x: Any, w: Any) -> Any:
    with region():
        a = torch.relu(x @ w) * x
    with region():
        b = torch.tanh(a @ w) + a
    c = b.sum(0)
    with region():
        return torch.softmax(b * c, -1) @ w


def largest_read_outside(region: Region, x: Any, w: Any) -> Any:
    with region():
        a = x @ w
        m = a.amax(-1, keepdim=True)
        e = torch.exp(a - m)
    return e / (1 + m * m), torch.tanh(m)


def one_result_of_two(region: Region, x: Any, w: Any) -> Any:
    with region():
        a = torch.sort(x @ w, -1).values
        b = torch.cumsum(a, 0)
    with region():
        c = b * torch.tanh(a)
    return c, a.topk(2, -1).values


def normalized_twice(region: Region, x: Any, w: Any) -> Any:
    for _ in range(2):
        with region():
            x = x + F.gelu(F.layer_norm(x, (8,)) @ w) @ w.t()
    return x


def derivatives(f: Callable[..., Any], args: list[torch.Tensor], twice: bool) -> list[torch.Tensor]:
    torch.manual_seed(1)
    made = f(*args)
    made = made if isinstance(made, tuple) else (made,)
    loss = torch.stack([(y * y + y).sum() for y in made]).sum()
    found = torch.autograd.grad(loss, args, create_graph=twice)
    return list(torch.autograd.grad(torch.stack([(g * g).sum() for g in found]).sum(), args)) if twice else list(found)


@pytest.mark.parametrize("twice", [False, True], ids=["once", "twice"])
@pytest.mark.parametrize("body", [read_by_the_next, largest_read_outside, one_result_of_two, normalized_twice])
def test_regions_change_no_gradient(body: Callable[..., Any], twice: bool) -> None:
    torch.manual_seed(0)
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((12, 8), (8, 8))]
    wanted = derivatives(lambda *a: body(nullcontext, *a), args, twice)
    for limit in (None, 0):
        f = tessera.function(lambda *a: body(tessera.checkpoint_region, *a), strict=True, max_saved=limit)
        with tessera.backend("c"):
            found = derivatives(f, args, twice)
        for a, b in zip(found, wanted, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * float(b.abs().max()))


@pytest.mark.parametrize("order", ["sort", "topk"])
def test_a_sum_of_what_was_sorted_has_a_derivative(order: str) -> None:
    """The sum has one of two results of an operation as its factor."""

    @tessera.function(strict=True)
    def shares(x, w):
        y = torch.sort(x @ w, -1).values if order == "sort" else torch.topk(x @ w, 4, -1).values
        return torch.softmax(y, -1) * y, y - y.mean(-1, keepdim=True), (y * y.exp()).sum(-1)

    torch.manual_seed(0)
    args = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((12, 8), (8, 8))]
    for twice in (False, True):
        with tessera.backend("c"):
            found = derivatives(shares, args, twice)
        for a, b in zip(found, derivatives(shares.eager, args, twice), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-8 * float(b.abs().max()))
