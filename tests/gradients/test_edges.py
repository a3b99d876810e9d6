"""Where a slope has to be chosen: ties, kinks, zeros, infinities. The choice is torch's, but where a test says why
not.
"""

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
    "clamp by tensors": (lambda x, y: x.clamp(y, y + 1), [KINKS, [0.0] * len(KINKS)]),
    "clamp by crossed bounds": (lambda x, y: x.clamp(y, y - 1), [KINKS, [0.0] * len(KINKS)]),
    "clamp_max by a tensor": (torch.clamp_max, [KINKS, [-0.0] * len(KINKS)]),
    "clamp of what is no number": (lambda x: x.clamp(-1, 1), [SPECIAL]),
    "fmax": (torch.fmax, [[0.0, NAN, 1.0, NAN, 1.0], [0.0, 1.0, NAN, NAN, 0.0]]),
    "fmin": (torch.fmin, [[0.0, NAN, 1.0, NAN, 1.0], [0.0, 1.0, NAN, NAN, 2.0]]),
    "maximum of special ones": (torch.maximum, [SPECIAL, SPECIAL[::-1]]),
    "hardtanh": (F.hardtanh, [KINKS]),
    "hardswish": (F.hardswish, [KINKS]),
    "relu6": (F.relu6, [KINKS]),
    "leaky_relu": (F.leaky_relu, [KINKS]),
    "elu": (F.elu, [KINKS]),
    "softshrink": (F.softshrink, [KINKS]),
    "abs": (torch.abs, [KINKS]),
    "sign": (torch.sign, [KINKS]),
    "threshold": (lambda x: F.threshold(x, 0.5, 2.0), [KINKS]),
    "hardsigmoid": (F.hardsigmoid, [KINKS]),
    "hardshrink": (F.hardshrink, [KINKS]),
    "selu": (F.selu, [KINKS]),
    "celu": (F.celu, [KINKS]),
    "softplus": (F.softplus, [[*KINKS, 30.0, INF, -INF]]),
    "logsigmoid": (F.logsigmoid, [[*KINKS, 200.0, -200.0]]),
    "prelu": (lambda x, y: torch.where(x >= 0, x, y * x), [KINKS, KINKS]),
    "rounded": (lambda x: torch.round(x) + torch.floor(x) + torch.trunc(x) + x, [KINKS]),
    "remainders": (lambda x: torch.remainder(x, 1.0) + torch.fmod(x, 2.0), [KINKS]),
    "copysign": (torch.copysign, [KINKS, KINKS[::-1]]),
    "hypot": (torch.hypot, [[0.0, 3.0, 0.0, -1.0], [0.0, 4.0, 2.0, 0.0]]),
    "reciprocal": (torch.reciprocal, [[0.0, -0.0, INF, 2.0]]),
    "quotient": (lambda x, y: x / y, [[0.0, 1.0, 2.0], [0.0, 0.0, INF]]),
    "log": (torch.log, [[0.0, -1.0, 1.0, INF]]),
    "log1p": (torch.log1p, [[-1.0, 0.0, INF]]),
    "rsqrt": (torch.rsqrt, [[0.0, 1.0, INF]]),
    "acos": (torch.acos, [[-1.0, 0.0, 1.0]]),
    "asin": (torch.asin, [[-1.0, 0.0, 1.0]]),
    "acosh": (torch.acosh, [[1.0, 2.0]]),
    "atanh": (torch.atanh, [[-1.0, 0.0, 1.0]]),
    "sinc": (torch.sinc, [[0.0, 1.0, -2.0]]),
    "erf": (torch.erf, [SPECIAL]),
    "gelu": (F.gelu, [KINKS]),
    "nan_to_num": (torch.nan_to_num, [SPECIAL]),
    "dist": (lambda x, y: torch.dist(x, y), [KINKS, KINKS]),
    "pairwise": (lambda x, y: F.pairwise_distance(x, y, eps=0.0), [ZEROS, ZEROS]),
    "cosine of zero": (lambda x, y: F.cosine_similarity(x, y, -1), [ZEROS, ZEROS[::-1]]),
    "norm of order 1": (lambda x: x.norm(1, dim=-1), [TIES]),
    "least norm": (lambda x: torch.linalg.vector_norm(x, -INF, -1), [TIES]),
    "norm of a matrix": (lambda x: torch.linalg.matrix_norm(x), [[[0.0, 0.0], [0.0, 0.0]]]),
    "norm of all": (lambda x: x.norm(), [[0.0, 0.0]]),
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
    "pow of zero": (lambda x: x**0, [[0.0, 1.0, 2.0]]),
    "pow of one": (lambda x: x**1, [[0.0, -1.0, 2.0]]),
    "pow below one": (lambda x: x**0.5 + x**0.3, [[0.0, 1.0, 2.0]]),
    "negative pow": (lambda x: x**-1, [[0.0, 1.0, -2.0]]),
    "square": (lambda x: x**2, [[0.0, -0.0, -2.0]]),
    "pow of negative ones": (lambda x, y: x**y, [[-2.0, -2.0, -1.0, 0.0], [2.0, 3.0, 0.0, 0.0]]),
    "number to a power": (lambda x: 0.0**x, [[0.0, 1.0, 2.0]]),
    "sqrt": (torch.sqrt, [[0.0, 1.0]]),
    "logsumexp": (lambda x: x.logsumexp(-1), [[[-INF, 0.0], [1.0, 1.0]]]),
    "logsumexp of infinities": (lambda x: x.logsumexp(-1), [[[-INF, -INF], [INF, 0.0], [INF, INF], [INF, -INF]]]),
    "logaddexp": (torch.logaddexp, [[0.0, -INF, INF, 2.0], [-INF, 1.0, 0.0, 2.0]]),
    "softmax of nothing": (lambda x: torch.softmax(x, -1), [[[-INF, -INF, -INF], [0.0, -INF, 1.0]]]),
    "log_softmax of nothing": (lambda x: torch.log_softmax(x, -1), [[[-INF, -INF, -INF], [0.0, -INF, 1.0]]]),
    "softmax, dead rows left out": (
        lambda x: torch.where(torch.isneginf(x).all(-1, keepdim=True), 0.0, torch.softmax(x, -1)),
        [[[-INF, -INF, -INF], [0.0, -INF, 1.0]]],
    ),
    "softmin of infinities": (lambda x: F.softmin(x, -1), [[[INF, 0.0, 1.0]]]),
    "mean of nothing known": (lambda x: x.nanmean(-1) + x.nansum(-1), [[[NAN, 1.0], [2.0, 3.0]]]),
    "var of one": (lambda x: x.var(-1, correction=0), [[[2.0], [0.0]]]),
    "cummin": (lambda x: torch.cummin(x, -1)[0], [TIES]),
    "descending": (lambda x: torch.sort(x, dim=-1, descending=True, stable=True)[0], [TIES]),
    "kthvalue": (lambda x: x.kthvalue(2, -1).values, [[[3.0, 1.0, 2.0], [5.0, 4.0, 6.0]]]),
    "prod of all": (lambda x: x.prod(), [[0.0, 2.0, 3.0]]),
    "prod of many zeros": (lambda x: x.prod(), [[0.0, 0.0, 3.0]]),
    "gathered twice": (lambda x: torch.gather(x, 1, torch.tensor([[0, 0], [1, 1], [2, 2]])), [TIES]),
    "argmax": (lambda x: x * (x.argmax(-1, keepdim=True) + 1), [TIES]),
    "binary_cross_entropy at its ends": (
        lambda x, y: F.binary_cross_entropy(x, y.detach()), [[0.0, 1.0, 0.5, 0.0, 1.0], [0.0, 1.0, 1.0, 1.0, 0.25]]
    ),
    "kl_div at zero": (lambda x, y: F.kl_div(x, y, reduction="sum"), [[0.0, 1.0], [0.0, 0.5]]),
    "l1": (lambda x: F.l1_loss(x, torch.zeros_like(x)), [KINKS]),
    "hinge": (lambda x: F.hinge_embedding_loss(x, torch.sign(x.detach()) + (x.detach() == 0)), [KINKS]),
    "softmax masked": (lambda x: torch.softmax(x, -1), [[[-INF, 0.0, 1.0], [-INF, -INF, 2.0]]]),
    "logcumsumexp masked": (lambda x: x.logcumsumexp(-1), [[[0.0, -INF, 1.0], [1.0, 1.0, -INF]]]),
    "xlogy": (torch.xlogy, [[0.0, 1.0, 0.0], [1.0, 2.0, 3.0]]),
    "silu": (F.silu, [SPECIAL[1:]]),
    "sigmoid": (torch.sigmoid, [SPECIAL]),
    "tanh": (torch.tanh, [SPECIAL]),
    "exp": (torch.exp, [SPECIAL]),
    "atan2": (torch.atan2, [[0.0, 1.0, -1.0, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0, -1.0]]),
    "huber": (lambda x: F.huber_loss(x, torch.zeros_like(x)), [KINKS]),
    "smooth_l1": (lambda x: F.smooth_l1_loss(x, torch.zeros_like(x)), [KINKS]),
    "index twice": (lambda x: x[torch.tensor([0, 0, 2])], [TIES]),
    "max pool": (lambda x: F.max_pool1d(x[None], 2), [TIES]),
}


#: Left to the nightly run, which takes all in float32 as well.
MORE = frozenset({
    "threshold", "hardsigmoid", "hardshrink", "selu", "celu", "softplus", "logsigmoid", "prelu", "rounded",
    "remainders", "copysign", "reciprocal", "quotient", "log", "log1p", "rsqrt", "acos", "asin", "acosh", "atanh",
    "sinc", "erf", "gelu", "nan_to_num", "dist", "pairwise", "cosine of zero", "norm of order 1", "least norm",
    "norm of a matrix", "norm of all", "pow of one", "pow below one", "negative pow", "square",
    "pow of negative ones", "number to a power", "softmin of infinities", "mean of nothing known", "var of one",
    "cummin", "descending", "kthvalue", "prod of all", "prod of many zeros", "gathered twice", "argmax",
    "kl_div at zero", "l1", "hinge", "clamp_max by a tensor", "clamp of what is no number", "fmin",
    "maximum of special ones", "log_softmax of nothing", "softmax, dead rows left out",
})  # fmt: skip


def written(plain: Callable[..., Any], count: int) -> Callable[..., Any]:
    """A function of torch as a user would call it."""
    return (lambda x: plain(x)) if count == 1 else lambda x, y: plain(x, y)


@pytest.mark.parametrize("dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.nightly)], ids=str)
@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.nightly] * (n in MORE)) for n in CASES])
def test_slopes(name: str, dtype: torch.dtype) -> None:
    plain, data = CASES[name]
    args = [torch.tensor(x, dtype=dtype, requires_grad=True) for x in data]
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


def test_where_the_choice_is_another() -> None:
    """Two of negative infinity are equal, and share the slope of their sum; torch has NaN there."""

    @tessera.function(strict=True)
    def total(x, y):
        return torch.logaddexp(x, y)

    x, y = (torch.tensor([-INF], dtype=torch.float64, requires_grad=True) for _ in range(2))
    with tessera.backend("c"):
        assert [g.item() for g in torch.autograd.grad(total(x, y), (x, y))] == [0.5, 0.5]


def test_a_masked_point_gives_nothing_to_the_sums_of_an_attention() -> None:
    """Its weight is 0 also in a row of which nothing is left, where torch's weights are NaN and go to all gradients."""

    @tessera.function(strict=True)
    def attended(q, k, v):
        i, j = torch.arange(q.shape[0])[:, None], torch.arange(k.shape[0])
        scores = (q @ k.mT).masked_fill(j >= i, -INF)
        return torch.softmax(scores, -1) @ v

    q, k, v = (torch.randn(40, 8, dtype=torch.float64).requires_grad_() for _ in range(3))
    with tessera.backend("c"):
        result = attended(q, k, v)
        found = torch.autograd.grad(result[1:].sum(), (q, k, v))
    want = torch.autograd.grad(attended.eager(q, k, v)[1:].sum(), (q, k, v))
    assert result[0].isnan().all() and not result[1:].isnan().any() and want[2].isnan().any()
    whole = torch.autograd.grad(torch.softmax(((q[1:] @ k.mT).tril(-0)).masked_fill(
        torch.arange(40) > torch.arange(39)[:, None], -INF), -1).matmul(v).sum(), v)  # fmt: skip
    assert not any(g.isnan().any() for g in found[2:])
    torch.testing.assert_close(found[2:], whole)


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
