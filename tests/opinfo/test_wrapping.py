"""What torch's samples showed that plain calls did not: devices, variadic and missing arguments of traced functions."""

from __future__ import annotations

import torch

import tessera


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
