"""Scans among other work: how many kernels they take, and that nothing about the values depends on it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tests.ops.compare import difference

Body = Callable[..., Any]
NARROW = (torch.float32, torch.bfloat16, torch.float16)
WHOLE = (torch.int64, torch.int32, torch.uint8, torch.bool)


def drawn(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(7))
    return x > 0.3 if dtype is torch.bool else (x * 3).abs().to(dtype) if dtype is torch.uint8 else (x * 3).to(dtype)


def compiled(body: Body) -> Any:
    return tessera.function(strict=True)(body)


def check(function: Any, *given: torch.Tensor) -> None:
    """The compiled function against the same Python in torch, in the dtype and in float64."""
    wide = [x.double() if x.is_floating_point() else x for x in given]
    got, eager, exact = function(*given), function.eager(*given), function.eager(*wide)
    several = isinstance(eager, tuple)
    for n, row in enumerate(zip(*((r if several else (r,)) for r in (got, eager, exact)), strict=True)):
        found = difference(*row)
        assert found is None, f"result {n}: {found}"


def kernels(function: Any, *given: torch.Tensor) -> int:
    """How many kernels a call runs, library calls counted as well."""
    lowered = function.lower(*given)
    return len(lowered.kernels) + len(lowered.calls)


def every(dim: int) -> Body:
    def body(x):  # type: ignore[no-untyped-def]
        y = x * 0.25
        return x.cumsum(dim), y.cumprod(dim), y.logcumsumexp(dim), *x.cummax(dim), *x.cummin(dim)

    return body


def every_whole(dim: int) -> Body:
    def body(x):  # type: ignore[no-untyped-def]
        return x.cumsum(dim), x.cumprod(dim), *x.cummax(dim), *x.cummin(dim)

    return body


# -- values


SHAPES = ((0, 5), (5, 0), (1, 1), (3, 1), (1, 7), (7, 8), (8, 9), (5, 31), (17, 16), (16, 17), (33, 67), (130, 129))


@pytest.mark.parametrize("dtype", [*NARROW, *WHOLE], ids=str)
@pytest.mark.parametrize("dim", [0, -1])
def test_all_scans_of_a_dtype_share_a_kernel(dim: int, dtype: torch.dtype) -> None:
    function = compiled((every if dtype in NARROW else every_whole)(dim))
    for shape in SHAPES:
        check(function, drawn(*shape, dtype=dtype))
    assert kernels(function, drawn(5, 31, dtype=dtype)) == 1


@pytest.mark.parametrize("dim", [0, -1])
def test_f64(dim: int) -> None:
    """Eager is no better judge of it than we are."""
    function = compiled(every(dim))
    for shape in SHAPES:
        x = drawn(*shape, dtype=torch.float64)
        torch.testing.assert_close(function(x), function.eager(x), rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("dim", [0, 1, 2, 3])
def test_every_axis(dim: int) -> None:
    function = compiled(lambda x: (x.cumsum(dim) * 2.0, x.cummax(dim).indices))
    for shape in ((2, 3, 5, 7), (1, 4, 1, 33), (9, 1, 40, 1), (1, 1, 1, 1), (2, 70, 2, 2), (3, 0, 2, 2)):
        check(function, drawn(*shape))
    assert kernels(function, drawn(2, 3, 5, 7)) == 1


LAYOUTS: Mapping[str, Callable[[], torch.Tensor]] = {
    "transposed": lambda: drawn(37, 21).t(),
    "sliced": lambda: drawn(21, 80)[:, 1:75:2],
    "offset": lambda: drawn(23, 37)[2:],
    "one row repeated": lambda: drawn(1, 37).expand(21, 37),
    "one column repeated": lambda: drawn(21, 1).expand(21, 37),
    "flipped": lambda: drawn(21, 37).flip(0, 1),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout: str) -> None:
    for dim in (0, 1):
        check(compiled(lambda x, dim=dim: (x.cumsum(dim), x.cummin(dim).indices)), LAYOUTS[layout]())


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e4, -1e4], ids=str)
def test_what_is_no_number_goes_on_from_where_it_stands(value: float) -> None:
    for dim in (0, 1):
        function = compiled(every(dim))
        for at in (0, 1, 15, 16, 40):
            x = drawn(44, 44)
            x[at] = value
            x[:, at] = value
            check(function, x)


def test_both_infinities_and_rows_of_one_value() -> None:
    function = compiled(every(1))
    x = drawn(6, 50)
    x[0, 3], x[0, 9] = math.inf, -math.inf
    x[1, 3], x[1, 9] = -math.inf, math.inf
    x[2], x[3], x[4], x[5] = -math.inf, math.inf, math.nan, 2.0
    x[5, 20] = math.nan
    x[5, 30] = -math.nan
    check(function, x)


def test_small_and_large_terms_of_logcumsumexp() -> None:
    function = compiled(lambda x: x.logcumsumexp(-1))
    falling = torch.linspace(1e4, -1e4, 300).repeat(3, 1)
    check(function, torch.cat([falling, falling.flip(1), drawn(3, 300) * 1e-3]))


@pytest.mark.parametrize("dim", [0, 1])
def test_the_last_of_equal_values_is_named(dim: int) -> None:
    function = compiled(lambda x: (*x.cummax(dim), *x.cummin(dim)))
    x = torch.randint(0, 3, (41, 67), generator=torch.Generator().manual_seed(0))
    for t in (torch.float32, torch.int64, torch.int8, torch.bool):
        check(function, x.to(t))
    check(function, torch.where(x == 2, math.nan, x.float()))
    check(function, torch.where(x == 1, 0.0, -0.0))


def test_integers_wrap() -> None:
    function = compiled(lambda x: (x.cumsum(1), x.cumprod(1)))
    check(function, torch.randint(-(2**63), 2**63 - 1, (5, 70), generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("dim", [0, 1])
def test_long_sums_are_as_exact_as_those_of_eager(dim: int) -> None:
    """Eager carries doubles; `difference` asks for its error on tensors that are not small."""
    x = drawn(64, 5000) if dim else drawn(5000, 64)
    check(compiled(lambda x: (x.cumsum(dim), (1.0 + x * 1e-3).cumprod(dim), x.logcumsumexp(dim))), x)


def test_dtype_is_that_of_the_elements() -> None:
    function = compiled(lambda x: (x.cumsum(1, dtype=torch.float64), x.cumsum(1, dtype=torch.int32)))
    check(function, drawn(5, 37, dtype=torch.int32))


def test_a_number_is_its_own_prefix() -> None:
    check(compiled(lambda x: (x.cumsum(0) * 2.0, x.cummax(0).values)), torch.tensor(3.0))


# -- kernels


def keep_first(x):  # type: ignore[no-untyped-def]
    return torch.softmax(x, -1).cumsum(-1) > 0.9


def shares(x):  # type: ignore[no-untyped-def]
    reached = x.exp().cumsum(-1)
    return reached / reached.amax(-1, keepdim=True), reached.mean(-1)


def norm_of_sums(x):  # type: ignore[no-untyped-def]
    return F.layer_norm(x.cumsum(1), (x.shape[1],)) * 2.0


ONE: Mapping[str, Body] = {
    "work before": lambda x: (x.abs().sqrt() * 2.0).cumsum(-1),
    "work after": lambda x: F.gelu(x.cumsum(-1)) + x,
    "work on both sides, down": lambda x: x.sigmoid().cumsum(0).log() * x,
    "a softmax before": keep_first,
    "a reduction after, and a sweep after that": shares,
    "a norm after": norm_of_sums,
    "a reduction beside": lambda x: (x.cumsum(0) / x.sum(0), x.amax(0)),
    "two scans": lambda x: x.cumsum(-1) * (x * 2.0).cummax(-1).values,
    "a scan of a scan": lambda x: x.cumsum(-1).cumsum(-1),
    "two after each other, work between": lambda x: x.cumsum(0).tanh().cumprod(0) + 1.0,
    "from the end": lambda x: x.flip(-1).cumsum(-1).flip(-1) + x,
    "without its own element": lambda x: x.cumsum(-1) - x,
    "moved by one": lambda x: F.pad(x.cumsum(-1)[:, :-1], (1, 0)) * x,
    "its end": lambda x: x * x.cumsum(-1)[:, -1:],
    "positions of a mask": lambda x: (x > 0).cumsum(-1) * (x > 0) - 1,
    "of a part": lambda x: x[:, 3:-2].cumsum(-1),
    "of two tensors in one": lambda x: torch.cat([x, x * 2.0], 1).cumsum(1),
    "of a broadcast": lambda x: torch.ones_like(x).cumsum(-1) * x,
    "trapezoids": lambda x: torch.cumulative_trapezoid(x, dim=-1),
}


@pytest.mark.parametrize("name", ONE)
def test_one_kernel(name: str) -> None:
    function = compiled(ONE[name])
    for shape in ((37, 53), (2, 9), (70, 16), (17, 140)):
        check(function, drawn(*shape))
    assert kernels(function, drawn(37, 53)) == 1


def test_scans_along_other_axes_have_a_kernel_each() -> None:
    function = compiled(lambda x: x.cumsum(0).cumsum(1))
    check(function, drawn(37, 53))
    check(function, drawn(44, 44))
    assert kernels(function, drawn(37, 53)) == 2


def test_what_reads_prefixes_in_another_order_sees_all_of_them() -> None:
    function = compiled(lambda x, at: x.cumsum(1).gather(1, at) + x[:, :5].sum(1, keepdim=True))
    at = torch.randint(0, 53, (37, 5), generator=torch.Generator().manual_seed(0))
    check(function, drawn(37, 53), at)


def test_scores_that_are_scanned_are_no_stream() -> None:
    function = compiled(lambda q, k, v: (q @ k.mT).cumsum(-1) @ v)
    check(function, drawn(20, 8), drawn(33, 8), drawn(33, 12))
    lowered = function.lower(drawn(20, 8), drawn(33, 8), drawn(33, 12))
    assert lowered.calls.count("matmul") == 2 and len(lowered.kernels) == 1


def test_costly_work_beside_a_scan_of_everything_is_left_to_all_threads() -> None:
    function = compiled(lambda x: x.exp().cumsum(0) * 2.0)
    x = drawn(20001) - 9.0
    check(function, x)
    assert kernels(function, x) == 2
    assert "a scan of all elements in order would leave" in str(function.explain(x))
    cheap = compiled(lambda x: (x * 0.5).cumsum(0) + 1.0)
    check(cheap, x)
    assert kernels(cheap, x) == 1


def test_threads_do_not_change_bits() -> None:
    function = compiled(lambda x: (x.cumsum(1), x.cumsum(0), x.flatten().cumsum(0)))
    x = drawn(700, 300)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = function(x)
        torch.set_num_threads(max(before, 2))
        together = function(x)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))
