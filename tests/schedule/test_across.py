"""Sums down all rows in the nest that goes along them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera


def norm_like(x, g):  # type: ignore[no-untyped-def]
    h = x - x.mean(-1, keepdim=True)
    y = h * (h * h).mean(-1, keepdim=True).add(1e-5).rsqrt()
    rows = tuple(range(x.dim() - 1))
    return g - y * (g * y).mean(-1, keepdim=True), (g * y).sum(rows), g.sum(rows)


def stored(x, g):  # type: ignore[no-untyped-def]
    y = torch.tanh(x) * g
    return y, y.sum(tuple(range(x.dim() - 1)))


def low(x, g):  # type: ignore[no-untyped-def]
    m = (x * g).amax(-1)
    return m, torch.exp(x - m.unsqueeze(-1)).sum(tuple(range(x.dim() - 1))) * 2


def waits(x, g):  # type: ignore[no-untyped-def]
    return x.sum(-1), g - (x * g).sum(0)


def middle(x, g):  # type: ignore[no-untyped-def]
    return x.softmax(-1), g.sum(0)


def nests(function: Callable[..., Any], *args: torch.Tensor) -> str:
    return tessera.function(function).ir("tile", *args)


def blocks(text: str) -> int:
    return text.count("local f64") + text.count("local f32")


@pytest.mark.parametrize("shape", [(300, 70), (3, 5), (1, 33), (64, 1), (5, 11, 40), (1, 70, 9), (2, 300, 24)], ids=str)
@pytest.mark.parametrize("function", [norm_like, stored, low, waits], ids=lambda f: f.__name__)
def test_results_are_those_of_torch(function: Callable[..., Any], shape: tuple[int, ...]) -> None:
    x, g = torch.randn(shape), torch.randn(shape)
    exact = function(x.double(), g.double())
    found = tessera.function(strict=True)(function)(x, g)
    for ours, true, eager in zip(found, exact, function(x, g), strict=True):
        assert ours.shape == true.shape
        off = float((ours.double() - true).norm())
        assert off <= 1.5 * float((eager.double() - true).norm()) + 1e-6 * float(true.norm()) + 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_floats(dtype: torch.dtype) -> None:
    x, g = torch.randn(130, 48, dtype=dtype), torch.randn(130, 48, dtype=dtype)
    exact = norm_like(x.double(), g.double())
    for ours, true in zip(tessera.function(strict=True)(norm_like)(x, g), exact, strict=True):
        tolerance = 1e-12 if dtype is torch.float64 else 4 * torch.finfo(dtype).eps
        torch.testing.assert_close(ours.double(), true, rtol=tolerance, atol=tolerance * float(true.abs().max()))


def test_rows_and_columns_are_read_once_by_one_nest() -> None:
    x = torch.randn(300, 64)
    text = nests(norm_like, x, x)
    assert blocks(text) == 2, "a sum for each of the two results that has no rows"
    assert text.count("ordered=true") == 1
    assert len(tessera.function(norm_like).lower(x, x).kernels) == 1
    temps = [line for line in text.splitlines() if ": temp " in line]
    assert len(temps) == 2 and all("temp f64[ceildiv(" in line for line in temps), "no array of the space on the way"


def test_columns_alone_go_by_blocks_where_something_is_stored() -> None:
    x = torch.randn(300, 64)
    assert blocks(nests(stored, x, x)) == 1
    assert blocks(nests(lambda x: x.sum(0), x)) == 0
    assert blocks(nests(lambda x: torch.exp(x).sin().sum(0), x)) == 1


@pytest.mark.parametrize("function", [waits, middle], ids=lambda f: f.__name__)
def test_what_waits_for_a_column_is_another_kernel(function: Callable[..., Any]) -> None:
    x, g = torch.randn(40, 30), torch.randn(40, 30)
    for ours, eager in zip(tessera.function(strict=True)(function)(x, g), function(x, g), strict=True):
        torch.testing.assert_close(ours, eager)


def test_a_square_space_is_no_exception() -> None:
    def both(x, g):  # type: ignore[no-untyped-def]
        y = F.softmax(x, -1) * g
        return y, y.sum(0), (x * y).sum(-1)

    x, g = torch.randn(48, 48), torch.randn(48, 48)
    function = tessera.function(strict=True)(both)
    for ours, eager in zip(function(x, g), both(x, g), strict=True):
        torch.testing.assert_close(ours, eager)


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    x, g = torch.randn(1000, 257), torch.randn(1000, 257)
    function, before = tessera.function(strict=True)(norm_like), torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = function(x, g)
        torch.set_num_threads(2)
        two = function(x, g)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_views_of_other_memory_are_read_where_they_lie() -> None:
    x, g = torch.randn(64, 300).T, torch.randn(300, 128)[:, ::2]
    for ours, eager in zip(tessera.function(strict=True)(norm_like)(x, g), norm_like(x, g), strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-5, atol=1e-4)


def test_a_gpu_keeps_rows_and_columns_apart() -> None:
    x = torch.randn(300, 64)
    names = [k.form for k in tessera.function(norm_like).lower(x, x, target="cuda:90").kernels]
    assert set(names) == {"column", "row"}
