"""Correct programs whose sizes or ways the data decides: never refused, run through torch with one warning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor, bool_, int64


def mean_behind_a_mask(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor[()]:
    return x[m].mean()


def selected(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor["K"]:
    return torch.masked_select(x, m)


def positions(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor["K", 2, int64]:
    return m.nonzero()


def experts_one_by_one(x: Tensor["N", "D"], expert: Tensor["N", int64]) -> Tensor["N", "D"]:
    out = torch.zeros_like(x)
    for i in range(3):
        rows = torch.where(expert == i)[0]
        out[rows] = x[rows] * i
    return out


def updated_behind_a_mask(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor["B", "S"]:
    out = x.clone()
    out[m] = -1.0
    out[~m] += x[~m]
    return out


def repeated_by_counts(x: Tensor["N", "D"], counts: Tensor["N", int64]) -> Tensor["L", "D"]:
    return torch.repeat_interleave(x, counts, dim=0)


def classes_by_data(x: Tensor["N", "D"], ids: Tensor["N", int64]) -> Tensor["K"]:
    return F.one_hot(ids).sum(0)


def counted(x: Tensor["N", "D"], ids: Tensor["N", int64]) -> Tensor["K"]:
    return torch.bincount(ids)


def halved_until_small(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor["B", "S"]:
    while x.abs().max() > 1:
        x = x / 2
    return x


def scaled_by_an_item(x: Tensor["B", "S"], m: Tensor["B", "S", bool_]) -> Tensor["B", "S"]:
    if m.any():
        return x * x.max().item()
    return x


def _rows() -> Sequence[torch.Tensor]:
    return torch.randn(5, 4), torch.randint(0, 3, (5,))


def _masked() -> Sequence[torch.Tensor]:
    return torch.randn(5, 4) * 3, torch.rand(5, 4) > 0.5


CASES: Sequence[tuple[Callable[..., Any], Callable[[], Sequence[torch.Tensor]]]] = (
    (mean_behind_a_mask, _masked), (selected, _masked), (positions, _masked), (experts_one_by_one, _rows),
    (updated_behind_a_mask, _masked), (repeated_by_counts, _rows), (classes_by_data, _rows), (counted, _rows),
    (halved_until_small, _masked), (scaled_by_an_item, _masked),
)  # fmt: skip


@pytest.mark.parametrize(("function", "made"), CASES, ids=lambda x: x.__name__)
def test_what_the_data_decides_is_left_to_the_call(
    function: Callable[..., Any], made: Callable[[], Sequence[torch.Tensor]]
) -> None:
    f: Any = tessera.function(function)
    assert f.check().verdict == "deferred", str(f.check())
    args = made()
    with pytest.warns(tessera.TesseraWarning, match="runs eagerly"):
        found = f(*args)
    assert torch.equal(found, function(*args))


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_a_setting_other_than_the_default_may_give_another_result(reduction: str) -> None:
    @tessera.function
    def loss(x: Tensor["B", "D"], y: Tensor["B", "D"], reduction: str = "mean") -> Tensor:
        if reduction not in ("mean", "sum", "none"):
            raise ValueError(reduction)
        each = (x - y).square().sum(-1)
        return each if reduction == "none" else getattr(each, reduction)()

    x, y = torch.randn(2, 3, 4)
    torch.testing.assert_close(loss(x, y, reduction), loss.eager(x, y, reduction))
