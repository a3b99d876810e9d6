"""Where a slope has to be chosen: ties, kinks, zeros, infinities. The choice is torch's, compiled and in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tests.gradients.compiled import gradients

INF, NAN = float("inf"), float("nan")
TIES = [[1.0, 2.0, 2.0, -1.0], [0.0, 0.0, 0.0, 0.0], [3.0, 1.0, 3.0, 3.0]]
KINKS = [-2.0, -1.0, -0.5, -0.0, 0.0, 0.5, 1.0, 2.0, 3.0, -3.0, 6.0]
ZEROS = [[0.0, 0.0], [3.0, 4.0]]
SPECIAL = [-INF, INF, NAN, 0.0, 1.0]

CASES: dict[str, tuple[Callable[..., Any], list[Any]]] = {
    "amax shares": (lambda x: x.amax(-1), [TIES]),
    "amin shares": (lambda x: x.amin(0), [TIES]),
    "max of all shares": (lambda x: x.max(), [TIES]),
    "max along an axis takes one": (lambda x: x.max(-1).values, [TIES]),
    "max kept": (lambda x: torch.max(x, 0, keepdim=True)[0], [TIES]),
    "min along an axis takes one": (lambda x: x.min(-1)[0], [TIES]),
    "median along an axis": (lambda x: x.median(-1).values, [TIES]),
    "median of all shares": (lambda x: x.median(), [TIES]),
    "aminmax": (lambda x: torch.aminmax(x, dim=-1), [TIES]),
    "cummax": (lambda x: torch.cummax(x, -1)[0], [TIES]),
    "sort": (lambda x: torch.sort(x, dim=-1, stable=True)[0], [TIES]),
    "topk": (lambda x: x.topk(2, -1).values, [[[1.0, 5.0, 2.0, -1.0]]]),
    "maximum": (lambda x, y: torch.maximum(x, y), [KINKS, [0.0] * len(KINKS)]),
    "minimum": (lambda x, y: torch.minimum(x, y), [KINKS, KINKS]),
    "relu": (torch.relu, [KINKS]),
    "clamp below": (lambda x: x.clamp(min=0), [KINKS]),
    "clamp both": (lambda x: x.clamp(-1, 1), [KINKS]),
    "hardtanh": (F.hardtanh, [KINKS]),
    "hardswish": (F.hardswish, [KINKS]),
    "relu6": (F.relu6, [KINKS]),
    "leaky_relu": (F.leaky_relu, [KINKS]),
    "elu": (F.elu, [KINKS]),
    "softshrink": (F.softshrink, [KINKS]),
    "abs": (torch.abs, [KINKS]),
    "sign": (torch.sign, [KINKS]),
    "norm": (lambda x: x.norm(dim=-1), [ZEROS]),
    "norm of order 3": (lambda x: torch.linalg.vector_norm(x, 3, -1), [ZEROS]),
    "greatest norm": (lambda x: torch.linalg.vector_norm(x, INF, -1), [TIES]),
    "root of squares": (lambda x: x.square().sum(-1).sqrt(), [ZEROS]),
    "normalize": (lambda x: F.normalize(x, dim=-1), [ZEROS]),
    "std": (lambda x: x.std(-1), [ZEROS]),
    "where beside a logarithm": (lambda x: torch.where(x > 0, x.log(), 0.0), [[-1.0, 0.0, 2.0]]),
    "where": (lambda x, y: torch.where(x > 0, x, y), [KINKS, KINKS]),
    "prod with zeros": (lambda x: x.prod(-1), [[[0.0, 2.0, 3.0], [0.0, 0.0, 3.0], [1.0, 2.0, 3.0]]]),
    "cumprod with zeros": (lambda x: x.cumprod(-1), [[[2.0, 0.0, 3.0], [0.0, 0.0, 3.0], [1.0, 2.0, 3.0]]]),
    "pow": (lambda x: x**2.5, [[0.0, 1.0, 2.0]]),
    "pow of two": (lambda x, y: x**y, [[0.0, 0.0, 2.0], [0.0, 2.0, 0.0]]),
    "sqrt": (torch.sqrt, [[0.0, 1.0]]),
    "logsumexp": (lambda x: x.logsumexp(-1), [[[-INF, 0.0], [1.0, 1.0]]]),
    "softmax masked": (lambda x: torch.softmax(x, -1), [[[-INF, 0.0, 1.0], [-INF, -INF, 2.0]]]),
    "logcumsumexp masked": (lambda x: x.logcumsumexp(-1), [[[0.0, -INF, 1.0], [1.0, 1.0, -INF]]]),
    "xlogy": (torch.xlogy, [[0.0, 1.0, 0.0], [1.0, 2.0, 3.0]]),
    "silu": (F.silu, [SPECIAL[1:]]),
    "sigmoid": (torch.sigmoid, [SPECIAL]),
    "tanh": (torch.tanh, [SPECIAL]),
    "exp": (torch.exp, [SPECIAL]),
    "atan2": (torch.atan2, [[0.0, 1.0, -1.0], [1.0, 0.0, 0.0]]),
    "huber": (lambda x: F.huber_loss(x, torch.zeros_like(x)), [KINKS]),
    "smooth_l1": (lambda x: F.smooth_l1_loss(x, torch.zeros_like(x)), [KINKS]),
    "index twice": (lambda x: x[torch.tensor([0, 0, 2])], [TIES]),
    "max pool": (lambda x: F.max_pool1d(x[None], 2), [TIES]),
}


def written(plain: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A function of torch as a user would call it."""
    return (lambda x: plain(x)) if count == 1 else lambda x, y: plain(x, y)


@pytest.mark.parametrize("name", CASES)
def test_slopes(name: str) -> None:
    plain, data = CASES[name]
    args = [torch.tensor(x, dtype=torch.float64, requires_grad=True) for x in data]
    function = tessera.function(written(plain, len(args)), strict=True)
    with tessera.backend("c"):
        found = gradients(function, args)
    assert not function.cache_info().eager
    for got, want in zip(found, gradients(plain, args), strict=True):
        torch.testing.assert_close(got, want, equal_nan=True)


def test_the_rulings_themselves() -> None:
    """As numbers, so that a change of torch is noticed."""

    def slope(f: Callable[..., Any], *x: float) -> list[float]:
        args = [torch.tensor(v, dtype=torch.float64, requires_grad=True) for v in x]
        with tessera.backend("c"):
            return [g.item() for g in torch.autograd.grad(tessera.function(f, strict=True)(*args), args)]

    assert slope(lambda x: torch.relu(x), 0.0) == [0.0]
    assert slope(lambda x: x.clamp(min=0), 0.0) == [1.0]
    assert slope(lambda x, y: torch.maximum(x, y), 0.0, 0.0) == [0.5, 0.5]
    assert slope(lambda x: x * 2, 0.0) == [2.0]


@pytest.mark.parametrize("name", ["cross_entropy", "nll_loss"])
@pytest.mark.parametrize("weighted", [False, True], ids=["plain", "weighted"])
def test_a_mean_over_no_valid_target(name: str, weighted: bool) -> None:
    """0 / 0, as torch has it, with a gradient of zeros; a sum over none is 0."""
    plain, weight = getattr(F, name), torch.tensor([0.5, 1.0, 2.0]) if weighted else None
    target = torch.full((2,), -100)
    for reduction in ("mean", "sum", "none"):
        x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 1.0, 2.0]], requires_grad=True)
        loss = tessera.function(lambda x, t, r=reduction: plain(x, t, weight=weight, reduction=r), strict=True)
        with tessera.backend("c"):
            found = loss(x, target)
            slopes = torch.autograd.grad(found.sum(), x)
        want = plain(x, target, weight=weight, reduction=reduction)
        assert not loss.cache_info().eager
        assert bool(found.isnan().all()) is (reduction == "mean")
        torch.testing.assert_close(found, want, equal_nan=True)
        torch.testing.assert_close(slopes, torch.autograd.grad(want.sum(), x), equal_nan=True)
