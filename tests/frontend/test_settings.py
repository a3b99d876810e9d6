"""Arguments that choose something, an axis or a word, are right whatever a check takes for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor
from tessera.frontend.words import told_apart


@tessera.function
def loss(x: Tensor["N", "V"], t: Tensor["N", tessera.int64], reduction: str = "mean", smooth: float = 0.0) -> Tensor:
    return F.cross_entropy(x, t, reduction=reduction, label_smoothing=smooth)


@tessera.function
def smooth(x: Tensor["N"], approximate: str = "none") -> Tensor["N"]:
    return F.gelu(x, approximate=approximate) + F.gelu(x, approximate="tanh")


@tessera.function
def divided(x: Tensor["N"], y: Tensor["N"], rounding: str = "floor") -> Tensor["N"]:
    return torch.div(x, y, rounding_mode=rounding)


def test_the_words_of_a_call_are_no_settings() -> None:
    x, t = torch.randn(4, 6), torch.tensor([0, 5, -100, 2])
    for reduction in ("mean", "sum", "none"):
        torch.testing.assert_close(loss(x, t, reduction, 0.1), loss.eager(x, t, reduction, 0.1))
    a, b = torch.randn(9), torch.randn(9)
    torch.testing.assert_close(smooth(a, "tanh"), smooth.eager(a, "tanh"))
    torch.testing.assert_close(divided(a, b, "trunc"), divided.eager(a, b, "trunc"))


def test_a_setting_that_the_code_tells_apart_is_checked() -> None:
    with pytest.raises(tessera.ShapeError, match="TSR0217"):

        @tessera.function
        def pooled(x: Tensor["N", "D"], how: str = "mean") -> Tensor:
            return x.mean(0) if how != "bad" else x + x.sum(1)


def chosen(x: Any, how: str, other: str = "a b") -> Any:
    match how:
        case "one" | "two":
            return x
        case "three" if other == "not this":
            return F.pad(x, (0, 0), mode="nor this")
    if how in ("four", "five") or how == "":
        return (lambda: how == "six")()
    return {"seven": x}[how]


def test_words_that_code_tells_apart() -> None:
    assert sorted(told_apart(chosen, "how")) == ["five", "four", "one", "seven", "six", "three", "two"]
    assert told_apart(chosen, "other") == ("not this",)
    assert told_apart(chosen, "x") == told_apart(len, "x") == ()


AXES: dict[str, Callable[[torch.Tensor, int], Any]] = {
    "sum": lambda x, dim: x.sum(dim=dim),
    "mean": lambda x, dim: x.mean(dim, keepdim=True),
    "amax": lambda x, dim: torch.amax(x, (dim,)),
    "softmax": lambda x, dim: F.softmax(x, dim),
    "unsqueeze": lambda x, dim: x.unsqueeze(dim),
    "transpose": lambda x, dim: x.transpose(dim, -1).flip(dim),
    "cat": lambda x, dim: torch.cat([x, x], dim=dim),
    "stack": lambda x, dim: torch.stack([x, x], dim),
    "index_select": lambda x, dim: x.index_select(dim, torch.tensor([1, 0])),
    "cumsum": lambda x, dim: x.cumsum(dim),
}


@pytest.mark.parametrize("name", AXES)
def test_an_axis_as_an_argument(name: str) -> None:
    make = AXES[name]

    @tessera.function(strict=True)
    def along(x: Tensor["N", "D"], dim: int) -> Any:
        return make(x, dim)

    assert "specialises on `dim`" in str(along.check())
    x = torch.randn(3, 4)
    for dim in (0, 1, -1):
        torch.testing.assert_close(along(x, dim), make(x, dim))
    with pytest.raises(tessera.TesseraError, match="TSR0203"):
        along(x, 5)


def test_an_axis_computed_from_sizes() -> None:
    @tessera.function(strict=True)
    def along(x: Tensor["S", "T"]) -> Any:
        return x.unsqueeze(x.shape[0] - 3)

    for shape in ((3, 4), (4, 4), (3, 5)):
        assert along(torch.ones(shape)).shape == along.eager(torch.ones(shape)).shape


def test_a_number_of_parts_as_an_argument() -> None:
    @tessera.function(strict=True)
    def parts(x: Tensor["N", "D"], n: int) -> Any:
        return x.chunk(n, -1)

    for n in (1, 2, 3):
        assert [p.shape for p in parts(torch.ones(2, 6), n)] == [(2, 6 // n)] * n


def test_a_diagonal_computed_from_sizes_serves_all_sizes() -> None:
    @tessera.function(strict=True)
    def causal(x: Tensor["S", "T"]) -> tuple[Tensor["S", "T"], Tensor["S", "T"]]:
        offset = x.shape[1] - x.shape[0]
        return x.tril(offset), torch.triu(x, offset + 1)

    for shape in ((3, 3), (2, 5), (5, 2), (1, 4)):
        x = torch.randn(shape)
        for got, want in zip(causal(x), causal.eager(x), strict=True):
            assert torch.equal(got, want)
    assert causal.cache_info().variants == 1
