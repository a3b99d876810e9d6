"""Concatenations in kernels: what a part asks for is asked for once, however deep they are nested."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tessera


def joined(depth: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A value that is cut and joined again ``depth`` times, and folded over its rows."""

    def body(x):  # type: ignore[no-untyped-def]
        for _ in range(depth):
            x = torch.cat([x[:, :3], x[:, 3:]], 1) * x.tanh()
        return x, x.amax(0)

    return body


def lines(depth: int) -> int:
    x = torch.randn(5, 19)
    return sum(k.source.count("\n") for k in tessera.function(joined(depth)).lower(x).kernels)


def test_nested_joins_take_code_in_proportion_to_their_depth() -> None:
    assert lines(6) - lines(4) < 3 * (lines(4) - lines(2))


def test_differences_of_differences_take_code_in_proportion_to_their_order() -> None:
    """An element is read on as many ways as there are subsets, at no more places than one more than the order."""
    x = torch.randn(5, 40)
    sizes = [len(tessera.function(lambda x, n=n: _padded(x, n)).lower(x).kernels[0].source) for n in (2, 4, 6)]
    assert sizes[2] - sizes[1] < 2.5 * (sizes[1] - sizes[0])


def _padded(x: torch.Tensor, n: int) -> torch.Tensor:
    """What the derivative of a difference of some order does."""
    for _ in range(n):
        x = torch.nn.functional.pad(x, (1, 0)) - torch.nn.functional.pad(x, (0, 1))
    return x


@pytest.mark.parametrize("depth", (1, 3, 6))
def test_nested_joins_are_right(depth: int) -> None:
    x = torch.randn(5, 19)
    for found, expected in zip(tessera.function(strict=True)(joined(depth))(x), joined(depth)(x), strict=True):
        torch.testing.assert_close(found, expected)


def test_parts_that_lie_elsewhere_are_told_apart() -> None:
    def body(x):  # type: ignore[no-untyped-def]
        y = torch.cat([x[:, 4:], x[:, :4]], 1).tanh()
        z = torch.cat([y[:, :9], x[:, 9:]], 1)
        return torch.cat([z[:, 2:7], y], 1).amax(0)

    x = torch.randn(5, 19)
    torch.testing.assert_close(tessera.function(strict=True)(body)(x), body(x))
