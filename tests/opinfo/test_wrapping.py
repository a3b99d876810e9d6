"""What torch's samples and error inputs showed that plain calls did not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera.diag import DTypeError, ShapeError, TesseraError, TraceError


def test_a_traced_tensor_has_a_device() -> None:
    @tessera.function(strict=True)
    def f(x):  # type: ignore[no-untyped-def]
        return x + 1 if x.device.type == "cpu" else x

    assert f(torch.ones(2)).tolist() == [2.0, 2.0]


def test_functions_of_unhinted_variadic_arguments_wait_for_a_call() -> None:
    @tessera.function(strict=True)
    def f(*given):  # type: ignore[no-untyped-def]
        return given[0] * given[1]

    assert f(torch.ones(2), torch.full((2,), 3.0)).tolist() == [3.0, 3.0]


def test_a_function_may_take_no_tensor_at_all() -> None:
    @tessera.function(strict=True)
    def f(*given):  # type: ignore[no-untyped-def]
        return torch.zeros(2, 3) + len(given)

    assert f().tolist() == [[0.0] * 3] * 2


def test_sizes_without_names_may_be_equal_in_a_call() -> None:
    @tessera.function(strict=True)
    def f(condition, x, y):  # type: ignore[no-untyped-def]
        return torch.where(condition, x, y)

    x, y = torch.arange(6.0).reshape(2, 3), torch.zeros(2, 3)
    assert torch.equal(f(x > 2, x, y), torch.where(x > 2, x, y))
    assert torch.equal(strict(lambda x, y: x.reshape_as(y))(x[0], y[0]), x[0])


def strict(fn: Callable[..., Any]) -> Callable[..., Any]:
    return tessera.function(fn, strict=True)


def test_results_are_written_to_the_tensors_given_for_them() -> None:
    @strict
    def f(x):  # type: ignore[no-untyped-def]
        low, high, total = torch.zeros(3), torch.zeros(3), torch.zeros(3, dtype=torch.float64)
        torch.aminmax(x, dim=0, out=(low, high))
        torch.add(low, high, out=total)
        return low, high, total

    low, high, total = f(torch.tensor([[1.0, 5.0, 3.0], [4.0, 2.0, 6.0]]))
    assert low.tolist() == [1.0, 2.0, 3.0] and high.tolist() == [4.0, 5.0, 6.0]
    assert total.tolist() == [5.0, 7.0, 9.0] and total.dtype == torch.float64


@pytest.mark.parametrize(
    "fn",
    [lambda x, out: torch.exp(x, out=out), lambda x, out: torch.aminmax(x, dim=0, out=(out, out))],
    ids=["one", "pair"],
)
def test_arguments_are_not_written_to_as_results(fn: Callable[..., Any]) -> None:
    with pytest.raises(TraceError, match="update of argument `out`"):
        strict(fn)(torch.ones(2, 2), torch.zeros(2))


def test_a_traced_tensor_is_no_list_of_tensors() -> None:
    with pytest.raises(TesseraError):
        strict(lambda x: torch.cat(x))(torch.ones(3, 4))


@pytest.mark.parametrize("fn", [lambda x: x.unbind(2), lambda x: torch.split(x, 1, 2)], ids=["unbind", "split"])
def test_an_axis_that_is_not_there_has_no_parts(fn: Callable[..., Any]) -> None:
    with pytest.raises(ShapeError, match="dim 2 of a rank-2 tensor"):
        strict(fn)(torch.ones(3, 4))


def test_the_last_part_of_an_unsafe_split_may_be_short() -> None:
    parts = strict(lambda x: torch.unsafe_split(x, 2))(torch.arange(5.0))
    assert [p.tolist() for p in parts] == [[0.0, 1.0], [2.0, 3.0], [4.0]]


def test_cross_products_take_the_first_axis_of_three_and_linalg_the_last() -> None:
    x, y = torch.rand(3, 3), torch.rand(3, 3)
    assert torch.allclose(strict(lambda x, y: torch.linalg.cross(x, y))(x, y), torch.linalg.cross(x, y))
    made = strict(lambda: torch.cross(torch.arange(9.0).reshape(3, 3), torch.eye(3)))()
    assert torch.equal(made, torch.cross(torch.arange(9.0).reshape(3, 3), torch.eye(3), dim=0))
    with pytest.raises(ShapeError):
        strict(lambda x, y: torch.linalg.cross(x, y))(torch.ones(5, 3), torch.ones(5, 1))


def test_weighted_covariances_check_their_weights() -> None:
    x, counts, weights = torch.rand(3, 5), torch.tensor([1, 2, 1, 3, 1]), torch.rand(5)
    f = strict(lambda x, counts, weights: torch.cov(x, fweights=counts, aweights=weights))
    assert torch.allclose(f(x, counts, weights), torch.cov(x, fweights=counts, aweights=weights), rtol=1e-5)
    with pytest.raises(ShapeError):
        f(x, counts, torch.rand(1))
    with pytest.raises(DTypeError):
        f(x, weights, weights)


@pytest.mark.parametrize(
    ("fn", "error"),
    [
        (lambda x: torch.flipud(x.sum()), ShapeError),
        (lambda x: x.masked_fill(x > 0, torch.zeros(1)), ShapeError),
        (lambda x: x.scatter(0, torch.zeros(1, 2, dtype=torch.int64), x.double()), DTypeError),
        (lambda x: torch.multinomial(x, 0), ShapeError),
        (lambda x: torch.multinomial(x.long(), 1), DTypeError),
        (lambda x: torch.nn.functional.avg_pool2d(x[None], 2, divisor_override=0), ShapeError),
        (lambda x: torch.nn.functional.huber_loss(x, x, delta=0.0), ShapeError),
        (lambda x: torch.nn.functional.triplet_margin_loss(x, x, x, margin=-1.0), ShapeError),
        (lambda x: torch.nn.functional.rrelu(x, 0.5, 0.25), ShapeError),
        (lambda x: torch.nn.functional.conv1d(x[None], x[None], stride=2, padding="same"), ShapeError),
    ],
    ids=["flipud", "masked_fill", "scatter", "draws", "weights", "avg_pool", "huber", "triplet", "rrelu", "conv"],
)
def test_what_torch_refuses_is_not_computed(fn: Callable[..., Any], error: type[TesseraError]) -> None:
    with pytest.raises(error):
        strict(fn)(torch.ones(2, 2))
