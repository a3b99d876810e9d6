"""Sums of products in C: operands of every layout, rows that share their places in the caches, and who takes what."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor
from tessera.backends.c.host import host_target
from tessera.backends.c.intrinsics import natural_lanes


@tessera.function
def rows_rows(a: Tensor["M", "K"], b: Tensor["N", "K"]) -> Tensor["M", "N"]:
    return torch.relu(a @ b.mT)


@tessera.function
def rows_columns(a: Tensor["M", "K"], b: Tensor["K", "N"]) -> Tensor["M", "N"]:
    return torch.relu(a @ b)


@tessera.function
def columns_columns(a: Tensor["K", "M"], b: Tensor["K", "N"]) -> Tensor["M", "N"]:
    return torch.relu(a.mT @ b)


LAYOUTS = (rows_rows, rows_columns, columns_columns)


def operands(f: tessera.Function, m: int, n: int, k: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    a, b = torch.randn(m, k).to(dtype), torch.randn(k, n).to(dtype)
    return (a.mT.contiguous() if f is columns_columns else a), (b.mT.contiguous() if f is rows_rows else b)


def source(f: tessera.Function, *args: torch.Tensor) -> str:
    (kernel,) = f.lower(*args, backend="c").kernels
    return str(kernel.source)


def relative(x: torch.Tensor, exact: torch.Tensor) -> float:
    return float((x.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("sizes", [(137, 40, 1024), (8, 33, 2048), (9, 16, 3072), (25, 7, 1000)], ids=str)
@pytest.mark.parametrize("f", LAYOUTS, ids=lambda f: f.__name__)
def test_rows_whole_pages_apart(f: tessera.Function, sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    a, b = operands(f, *sizes, dtype)
    eager, exact = f.__wrapped__(a, b), f.__wrapped__(a.double(), b.double())
    allowed = torch.finfo(dtype).eps * (8 if dtype is torch.float64 else 1)  # eager is what is exact there
    assert relative(f(a, b), exact) <= max(1.05 * relative(eager, exact), allowed)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_where_rows_lie_changes_no_bit(dtype: torch.dtype) -> None:
    a, b = operands(rows_rows, 45, 40, 2048, dtype)
    wide = torch.zeros(45, 2048 + 16, dtype=dtype)
    wide[:, :2048] = a
    assert torch.equal(rows_rows(a, b), rows_rows(wide[:, :2048], b))


@pytest.mark.parametrize("f", LAYOUTS, ids=lambda f: f.__name__)
@pytest.mark.parametrize("sizes", [(1030, 70, 300), (2600, 70, 20), (64, 640, 64)], ids=str)
def test_threads_change_no_bit(f: tessera.Function, sizes: tuple[int, int, int]) -> None:
    a, b = operands(f, *sizes, torch.float32)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3, 5):
            torch.set_num_threads(threads)
            found.append(f(a, b))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], x) for x in found[1:])


def test_what_lies_along_the_sum_is_copied_and_what_lies_along_the_rows_is_asked_for() -> None:
    small = {f: source(f, *operands(f, 9, 9, 9, torch.float32)) for f in LAYOUTS}
    copies = {f.__name__: text.count("__builtin_memcpy") for f, text in small.items()}
    assert copies == {"rows_rows": 2, "rows_columns": 2, "columns_columns": 0}  # for one vector and for two
    asked = {f.__name__: set(re.findall(r"t_prefetch\((buf\d .*)\);", text)) for f, text in small.items()}
    assert asked["columns_columns"]
    for ahead in asked["columns_columns"]:  # as many rows as registers hold
        assert re.fullmatch(r"buf0 \+ n\d \* i_k0 \+ \(i_i0 \+ (8|5|4)\)", ahead)


@tessera.function
def gated(a: Tensor["M", "K"], b: Tensor["K", "N"], c: Tensor["M", "N"], d: Tensor["N"]) -> Tensor["M", "N"]:
    return torch.relu(a @ b) * c + d


@pytest.mark.parametrize("m", [1, 4, 5, 11, 128, 133])
@pytest.mark.parametrize("n", [1, 63, 64, 65, 127, 129, 191, 260])
@pytest.mark.parametrize("k", [1, 128, 200])
def test_work_around_products_of_every_width(m: int, n: int, k: int) -> None:
    torch.manual_seed(m + n + k)
    a, b, c, d = torch.randn(m, k), torch.randn(k, n), torch.randn(m, n), torch.randn(n)
    exact = gated.__wrapped__(*(x.double() for x in (a, b, c, d)))
    assert relative(gated(a, b, c, d), exact) <= 5e-7


def test_what_follows_a_product_is_asked_for_while_it_is_summed() -> None:
    text = source(gated, *(torch.ones(s) for s in ((9, 9), (9, 9), (9, 9), (9,))))
    asked = set(re.findall(r"t_prefetch_far\((buf\d) ", text))
    assert asked == {"buf2"}, "what is the same for all rows is near"


def test_constant_columns_say_how_many_vectors_go_together() -> None:
    def at(n: int) -> str:
        @tessera.function
        def f(a: Tensor["M", "K"], b: Tensor["K", n]) -> Tensor["M", n]:
            return torch.relu(a @ b)

        return source(f, torch.ones(9, 9), torch.ones(9, n))

    wide = ["(x_cdiv(" + str(n) + ", 4 * L))" in at(n).split("(n1) * ")[0] for n in (128, 256, 288, 800)]
    assert wide == ([False, True, False, True] if natural_lanes(host_target().features) == 16 else [False] * 4)


@pytest.mark.parametrize("call", [lambda a, b: a.mT @ b, lambda a, b: torch.einsum("km,kn->nm", a, b)])
def test_large_products_of_a_derivative_are_kernels(call: Any) -> None:
    @tessera.function
    def f(a: Tensor["K", "M"], b: Tensor["K", "N"]):
        return call(a, b)

    a, b = (torch.randn(160, n, requires_grad=True) for n in (130, 140))
    seed = torch.randn(call(a, b).shape)
    found = torch.autograd.grad(f(a, b), (a, b), seed)
    exact = torch.autograd.grad(call(a.double(), b.double()), (a, b), seed.double())
    for x, y in zip(found, exact, strict=True):
        torch.testing.assert_close(x, y.float(), rtol=1e-5, atol=1e-4)
    after = str(f.explain(a, b)).split("steps with gradients:")[1]
    assert after.count("(stream,") == 3 and "call   matmul" not in after and "call   contract" not in after


def test_sizes_that_the_text_says_are_none_that_are_known() -> None:
    @tessera.function
    def f(a: Tensor[256, 256], b: Tensor[256, 256]):
        return a @ b

    x = torch.randn(256, 256)
    assert [f.lower(x, x, target=target).calls for target in (None, "cuda:90")] == [("matmul",)] * 2


def test_small_products_of_a_derivative_stay_the_librarys() -> None:
    @tessera.function
    def f(a: Tensor["M", "K"], b: Tensor["K", "N"]):
        return a @ b

    a, b = torch.randn(16, 16, requires_grad=True), torch.randn(16, 16, requires_grad=True)
    f(a, b).sum().backward()
    after = str(f.explain(a, b)).split("steps with gradients:")[1]
    assert "(stream," not in after and "call   matmul" in after
