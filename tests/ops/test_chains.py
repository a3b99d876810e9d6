"""Layouts, axes, views, indices, random numbers and faults, each through the public path."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import combinations
from typing import Any

import pytest
import torch

import tessera
from tessera.diag import TesseraError
from tests.ops.compare import difference


def check(body: Callable[..., Any], *given: Any) -> None:
    """The compiled body against the same Python in torch, in the dtype and in float64."""
    function = tessera.function(strict=True)(body)
    wide = [x.double() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in given]
    got, eager, exact = function(*given), body(*given), body(*wide)
    several = isinstance(got, tuple)
    for g, e, x in zip(*((r if several else (r,)) for r in (got, eager, exact)), strict=True):
        found = difference(g, e, x)
        assert found is None, found


def base(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


LAYOUTS: Mapping[str, Callable[[], torch.Tensor]] = {
    "dense": lambda: base(6, 9),
    "transposed": lambda: base(9, 6).t(),
    "sliced": lambda: base(6, 20)[:, 1:19:2],
    "offset": lambda: base(8, 9)[2:],
    "one row repeated": lambda: base(1, 9).expand(6, 9),
    "one column repeated": lambda: base(6, 1).expand(6, 9),
    "one number repeated": lambda: base(1, 1).expand(6, 9),
    "overlapping": lambda: base(14).as_strided((6, 9), (1, 1)),
    "flipped": lambda: base(6, 9).flip(0, 1),
    "conjugate of real": lambda: base(6, 9).conj(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_gives_the_same(layout: str) -> None:
    x = LAYOUTS[layout]()

    def body(x):  # type: ignore[no-untyped-def]
        return torch.softmax(x * 2.0, -1), (x + x.mean(0)).exp(), x.amax(0)

    check(body, x)


AXES = [axes for n in (1, 2, 3) for axes in combinations(range(3), n)]


@pytest.mark.parametrize("axes", AXES, ids=str)
def test_reductions_over_every_combination_of_axes(axes: tuple[int, ...]) -> None:
    def body(x):  # type: ignore[no-untyped-def]
        kept = x - x.amax(axes, keepdim=True)
        return kept.exp().sum(axes), x.mean(axes, keepdim=True), (kept * 2.0).amin(axes)

    for shape in ((3, 5, 7), (1, 1, 1), (2, 65, 33), (200, 1, 1), (3, 70, 1), (1, 20001, 1), (129, 2, 80)):
        check(body, base(*shape))


@pytest.mark.parametrize("dim", [0, 1, -1, None])
def test_the_first_of_equal_values_wins(dim: int | None) -> None:
    def body(x):  # type: ignore[no-untyped-def]
        return x.argmax(dim), x.argmin(dim)

    x = torch.randint(0, 3, (5, 37, 41), generator=torch.Generator().manual_seed(0)).float()
    check(body, x)
    x[2, 5, 7] = x[2, 30, 3] = float("nan")
    check(body, x)


CHAINS: Mapping[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "cat": (lambda x, y: torch.cat([x * 2, y.exp(), x], 1).relu() + 1, (base(4, 9), base(4, 5))),
    "pad": (lambda x: torch.nn.functional.pad(x.sin(), (2, 3, 1, 0), value=1.5) * 2, (base(4, 9),)),
    "slice update": (lambda x, y: _assigned(x * 1.0, y) + 1, (base(4, 9), base(4, 3))),
    "gather": (lambda x, i: torch.gather(x.exp(), 1, i) * 2, (base(4, 9), torch.arange(12).reshape(4, 3) % 9)),
    "take": (lambda x, i: x[i].softmax(-1), (base(11, 9), torch.tensor([3, -1, 0, 10, 3]))),
    "advanced": (lambda x, i, j: x[i, :, j] + 1, (base(5, 6, 7), torch.tensor([0, 4]), torch.tensor([-1, 2]))),
    "views": (lambda x: x.t().reshape(3, -1).flip(0).unsqueeze(1).expand(3, 2, 12) + 1, (base(6, 6),)),
    "roll": (lambda x: x.roll(2, 0) - x.roll(-1, 1), (base(4, 9),)),
    "split and join": (lambda x: torch.cat([p * 1.0 for p in x.split(3, 1)], 1), (base(4, 9),)),
    "triangle": (lambda x: (x.tril() @ x).triu(1), (base(9, 9),)),
}


def _assigned(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    x[:, 2:5] = y
    return x


@pytest.mark.parametrize("name", CHAINS)
def test_views_and_indices_inside_chains(name: str) -> None:
    check(*CHAINS[name][:1], *CHAINS[name][1])


@pytest.mark.parametrize("size", [0, 1, 2, 7, 8, 9, 31, 33, 4096, 8191, 16385])
def test_sizes_around_a_block(size: int) -> None:
    def body(x):  # type: ignore[no-untyped-def]
        return x.tanh() * 2, x.sum(), x.cumsum(0)

    check(body, base(size))


def test_division_of_integers_by_zero_is_an_error() -> None:
    divide = tessera.function(strict=True)(lambda a, b: a // b)
    a = torch.arange(1, 20)
    assert torch.equal(divide(a, a), a // a)
    with pytest.raises(ZeroDivisionError):
        divide(a, torch.where(a == 13, 0, a))


@pytest.mark.parametrize("bad", [9, -10, 1 << 40])
def test_an_index_out_of_range_is_an_error(bad: int) -> None:
    take = tessera.function(strict=True)(lambda x, i: torch.gather(x, 0, i) * 2)
    x = base(9)
    assert torch.equal(take(x, torch.tensor([0, 8])), x[[0, 8]] * 2)
    with pytest.raises((IndexError, TesseraError)):
        take(x, torch.tensor([0, bad]))


def test_ten_thousand_operations_compile() -> None:
    def body(x):  # type: ignore[no-untyped-def]
        for _ in range(5000):
            x = x * 0.999 + 0.001
        return x

    check(body, base(3, 11))


@pytest.mark.parametrize("flag", [True, False])
def test_a_flag_beside_numbers_counts_as_one_or_zero(flag: bool) -> None:
    def body(x, n):  # type: ignore[no-untyped-def]
        return x * flag, n + flag, flag * n.sum(), torch.where(x > 0, x, flag), n == flag

    check(body, base(3, 5), torch.arange(5))


@pytest.mark.parametrize("body", [lambda x, m: x - m, lambda x, m: m - x, lambda x, m: x - True, lambda x, m: 1 - m])
def test_subtraction_takes_no_bools_as_in_torch(body: Callable[..., Any]) -> None:
    given = torch.arange(5), torch.ones(5, dtype=torch.bool)
    with pytest.raises(RuntimeError):
        body(*given)
    with pytest.raises(TesseraError, match="subtraction with an operand of dtype `bool`"):
        tessera.function(body)(*given)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int32, torch.int64], ids=str)
def test_a_number_beside_small_integers_is_one_of_them(dtype: torch.dtype) -> None:
    def body(x):  # type: ignore[no-untyped-def]
        return x > -1, x == -3, x // -1, x.clamp(-2, 100), x + 300, x < 200, x % -3, x.any(0), x.all(), x * True

    check(body, torch.tensor([[0, 1, 5, 100], [120, 127, 3, 2]], dtype=dtype))
