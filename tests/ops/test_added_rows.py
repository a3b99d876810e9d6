"""Rows added to rows at the positions of an index: as compiled code, for every dtype, layout and number of threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor
from tessera.diag import BoundsError
from tessera.driver.gradient import latest
from tessera.runtime.bound import Bound
from tessera.runtime.rows import Row
from tests.driver.test_tables import bound

I64 = tessera.int64


@tessera.function(strict=True)
def rows(x: Tensor["V", "D"], at: Tensor["N", I64], new: Tensor["N", "D"]) -> Tensor["V", "D"]:
    y = x * 2
    return y.index_add(0, at, new)


@tessera.function(strict=True)
def columns(x: Tensor["B", "V", "D"], at: Tensor["N", I64], new: Tensor["B", "N", "D"]) -> Tensor["B", "V", "D"]:
    return (x * 2).index_add(1, at, new)


@tessera.function(strict=True)
def looked_up(table: Tensor["V", "D"], ids: Tensor["B", "S", I64]) -> Tensor["B", "S", "D"]:
    return F.embedding(ids, table) * 2


def drawn(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(-9, 9, shape, generator=generator).to(dtype)


def positions(size: int, shape: tuple[int, ...], seed: int = 1) -> torch.Tensor:
    return torch.randint(0, max(size, 1), shape, generator=torch.Generator().manual_seed(seed))


def in_order(x: torch.Tensor, at: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """One addition after the other, narrow floats in f32."""
    wide = torch.float32 if x.dtype.itemsize == 2 else x.dtype
    total = x.to(wide)
    for n, place in enumerate(at.tolist()):
        total[place] += new[n].to(wide)
    return total.to(x.dtype)


def is_one_table(found: Bound) -> bool:
    return all(isinstance(step, Row) for step in found.steps)


@pytest.fixture
def threads() -> Iterator[Callable[[int], None]]:
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int32]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("size", "width", "count"), [(7, 40, 90), (300, 131, 50), (70_000, 16, 80), (1, 300, 64)])
def test_rows_are_added_in_order_to_the_bit(dtype: torch.dtype, size: int, width: int, count: int) -> None:
    f = tessera.function(lambda x, at, new: (x * 2).index_add(0, at, new))
    x, at, new = drawn((size, width), dtype), positions(size, (count,)), drawn((count, width), dtype, 2)
    assert torch.equal(f(x, at, new), in_order(x * 2, at, new))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_number_of_threads_changes_no_bit(dtype: torch.dtype, threads: Callable[[int], None]) -> None:
    f = tessera.function(lambda x, at, new: (x * 2).index_add(0, at, new))
    for size, width, count in ((63, 128, 1024), (5, 700, 900), (4000, 64, 3000), (1, 1000, 500)):
        x, at, new = drawn((size, width), dtype), positions(size, (count,)), drawn((count, width), dtype, 2)
        wanted = in_order(x * 2, at, new)
        for n in (1, 2, 3, 8):
            threads(n)
            assert torch.equal(f(x, at, new), wanted), (size, width, count, n)


def test_they_stand_in_a_table_with_kernels() -> None:
    args = drawn((6, 8), torch.float32), positions(6, (5,)), drawn((5, 8), torch.float32)
    found = bound(rows, *args)
    assert is_one_table(found) and len(found.steps) == 2 and len(found.blocks) == 1  # in the memory of `x * 2`
    short = args[0][:, :2].contiguous(), args[1], args[2][:, :2].contiguous()
    assert not is_one_table(bound(rows, *short))
    assert torch.equal(rows(*short), rows.eager(*short))


def test_what_is_read_later_and_arguments_stay_as_they_were() -> None:
    x, at, new = drawn((6, 8), torch.float32), positions(6, (5,)), drawn((5, 8), torch.float32)

    def both(x: torch.Tensor, at: torch.Tensor, new: torch.Tensor) -> Any:
        y = x * 2
        return y.index_add(0, at, new), x.index_add(0, at, new * 3), y.flatten(), torch.softmax(y, -1)

    kept = x.clone()
    found = tessera.function(both)(x, at, new)
    assert torch.equal(x, kept)
    for a, b in zip(found, both(x, at, new), strict=True):
        torch.testing.assert_close(a, b)

    def itself(x: torch.Tensor, at: torch.Tensor) -> Any:
        y = x * 2
        return y.index_add(0, at, y[: at.shape[0]]), y.index_add(0, at, y[1 : at.shape[0] + 1])

    for a, b in zip(tessera.function(itself)(x, at), itself(x, at), strict=True):
        torch.testing.assert_close(a, b)


def test_one_sum_after_the_other() -> None:
    x, at, new = drawn((6, 8), torch.float32), positions(6, (5,)), drawn((5, 8), torch.float32)

    def chain(x: torch.Tensor, at: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
        y = (x * 2).index_add(0, at, new)
        y = y.index_add(0, at + 0, new * 2)
        return torch.softmax(y.index_add(1, torch.arange(5, 0, -1), y[:, :5]), -1)

    torch.testing.assert_close(tessera.function(chain)(x, at, new), chain(x, at, new))


def test_another_axis_and_other_layouts() -> None:
    x, at, new = drawn((3, 6, 20), torch.float32), positions(6, (9,)), drawn((3, 9, 20), torch.float32)
    assert is_one_table(bound(columns, x, at, new))
    turned = new.permute(1, 0, 2).contiguous().permute(1, 0, 2)
    for one in (new, turned, new[:1].expand(3, 9, 20), new.mT.contiguous().mT, new.repeat(1, 1, 2)[..., ::2]):
        for where in (at, torch.stack([at, at], 1)[:, 0], at[:1].expand(9)):
            torch.testing.assert_close(columns(x, where, one), columns.eager(x, where, one))
    each = drawn((3, 9, 20), torch.float32).argsort(1).remainder(6)
    scatter = tessera.function(lambda x, at, new: (x * 2).scatter_add(1, at, new))
    torch.testing.assert_close(scatter(x, each, new), (x * 2).scatter_add(1, each, new))
    fewer = at[None, :4, None].expand(2, 4, 11)
    torch.testing.assert_close(scatter(x, fewer, new), (x * 2).scatter_add(1, fewer, new))


@pytest.mark.parametrize(("v", "d", "n"), [(6, 8, 0), (6, 0, 4), (0, 8, 0), (1, 8, 1), (6, 1, 1), (0, 0, 3)])
def test_without_elements(v: int, d: int, n: int) -> None:
    args = drawn((v, d), torch.float32), positions(v, (n,)), drawn((n, d), torch.float32)
    assert torch.equal(rows(*args), rows.eager(*args))


@pytest.mark.parametrize("wrong", [-1, 6, 2**32, 2**40, -(2**63)])
@pytest.mark.parametrize("count", [1, 5, 4000])
def test_a_position_out_of_range_is_told(wrong: int, count: int) -> None:
    at = positions(6, (count,))
    at[count // 2] = wrong
    with pytest.raises(BoundsError) as caught:
        rows(drawn((6, 8), torch.float32), at, drawn((count, 8), torch.float32))
    (d,) = caught.value.diagnostics
    assert d.message == f"index {wrong} in `at` is out of range for a dimension of size 6"
    (label,) = d.labels
    assert label.text == "dim 0 of `y` is `V`, 6" and "y.index_add(0, at, new)" in str(caught.value)


def gradient(f: Callable[..., torch.Tensor], table: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
    leaf = table.clone().requires_grad_()
    y = f(leaf, *more)
    (found,) = torch.autograd.grad(y, leaf, drawn(tuple(y.shape), y.dtype, 5))
    return found


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("ids", [torch.int64, torch.int32], ids=str)
def test_the_gradient_of_an_embedding(dtype: torch.dtype, ids: torch.dtype, threads: Callable[[int], None]) -> None:
    f = tessera.function(lambda table, ids: F.embedding(ids, table, padding_idx=2) * 2)
    table, where = drawn((11, 48), dtype), positions(11, (4, 300)).to(ids)
    found = gradient(f, table, where)
    wanted = gradient(lambda table: F.embedding(where, table, padding_idx=2) * 2, table.double())
    by_torch = gradient(lambda table: F.embedding(where, table, padding_idx=2) * 2, table)
    assert not found[2].any()
    error, eager = ((x.double() - wanted).abs().max() for x in (found, by_torch))
    assert error <= max(float(eager), float(wanted.abs().max()) * torch.finfo(dtype).eps)
    for n in (1, 2, 5):
        threads(n)
        assert torch.equal(gradient(f, table, where), found)


def test_the_derivative_of_an_embedding_is_one_table() -> None:
    table, ids = drawn((11, 48), torch.float32).requires_grad_(), positions(11, (4, 30))
    looked_up(table, ids).sum().backward()
    found = latest(looked_up.resolve(table, ids).variant)
    assert found is not None
    plan: Any = found.backward.plan()
    steps = Bound(plan, {"V": 11, "D": 48, "B": 4, "S": 30})
    assert is_one_table(steps) and steps.steps[-1].name == "scatter"  # type: ignore[union-attr]


@pytest.mark.parametrize("shape", [(0, 7), (3, 0), (1, 1), (2, 9)])
def test_the_gradient_of_few_or_no_rows(shape: tuple[int, int]) -> None:
    table, ids = drawn((5, 24), torch.float32), positions(5, shape)
    torch.testing.assert_close(gradient(looked_up, table, ids), gradient(looked_up.eager, table, ids))


def test_the_gradient_of_selected_columns_and_of_repeated_reads() -> None:
    x, at = drawn((3, 6, 20), torch.float32), positions(6, (9,))
    picked = tessera.function(lambda x, at: x.index_select(1, at) * 2)
    torch.testing.assert_close(gradient(picked, x, at), gradient(lambda x, at: x.index_select(1, at) * 2, x, at))
    twice = tessera.function(lambda x, at: x[at] * 2 + F.embedding(at, x).sin())
    table = drawn((6, 20), torch.float32)
    wanted = gradient(lambda x, at: x[at] * 2 + F.embedding(at, x).sin(), table, at)
    torch.testing.assert_close(gradient(twice, table, at), wanted)


def test_a_number_that_a_call_gives_is_added_by_the_library() -> None:
    @tessera.function(strict=True)
    def f(x: Tensor["N", "D"], at: Tensor["M", "D", tessera.int64], s: float) -> Tensor["N", "D"]:
        return x.scatter(0, at, s, reduce="add")

    x, at = torch.randn(9, 40), torch.randint(0, 9, (5, 1)).expand(-1, 40).contiguous()
    with tessera.backend("c"):
        torch.testing.assert_close(f(x, at, 1.5), x.scatter(0, at, 1.5, reduce="add"))
