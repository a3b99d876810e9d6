"""Calls that are nearly like the one before them, and what the warm path counts and shares."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import tessera
from tessera import Tensor, TraceError
from tessera.driver import bounds
from tessera.ir.parser import parse
from tessera.runtime import dispatch

X = torch.tensor([-1.0, 0.5, 2.0])
FACTOR = torch.ones(3)


@tessera.function
def twice(x: Tensor["N"]) -> Tensor["N"]:
    return x * 2


def test_a_number_where_a_tensor_was_before() -> None:
    with torch.device("cpu"):
        for _ in range(4):
            twice(X)
        with pytest.raises(TraceError, match="is a int"):
            twice(3)  # type: ignore[arg-type]


def test_only_calls_that_were_served_count_as_hits(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * FACTOR

    for _ in range(3):
        f(X)
    before = f.cache_info().hits
    monkeypatch.setitem(globals(), "FACTOR", torch.full((3,), 3.0))
    assert torch.equal(f(X), X * 3.0)
    assert f.cache_info().hits == before
    f(X)
    assert f.cache_info().hits == before + 1


def test_two_threads_measure_the_same_tensors(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one comes in while the other measures."""
    whole: Callable[[torch.Tensor], int] = dispatch.spanned
    needs: list[int] = []

    def interrupted(x: torch.Tensor) -> int:
        monkeypatch.setattr(dispatch, "spanned", whole)
        dispatch.check_storage((X, X), needs)
        return whole(x)

    monkeypatch.setattr(dispatch, "spanned", interrupted)
    dispatch.check_storage((X, X), needs)
    assert needs == [12, 12]
    dispatch.check_storage((X, X), needs)


def test_a_size_beyond_the_dtype_of_an_index() -> None:
    f = parse("fn f(x: f32[N], i: uint8[K]) -> f32[K] { %y = take(x, i, dim=0) : f32[K] return %y }")
    index = torch.tensor([200, 255], dtype=torch.uint8)
    assert bounds.located(f, [torch.ones(300), index], {"N": 300, "K": 2}) is None
    found = bounds.located(f, [torch.ones(201), index], {"N": 201, "K": 2})
    assert found is not None and "index 255 in `i`" in found.message
