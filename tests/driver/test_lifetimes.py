"""What a compiled function keeps alive, and how many variants it makes for one object."""

from __future__ import annotations

import gc
import warnings
import weakref

import pytest
import torch

import tessera
from tessera import Tensor
from tessera.diag import TesseraWarning

TABLE = torch.ones(4)


def test_a_call_that_was_refused_keeps_none_of_its_tensors() -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x if x.sum().item() > 0 else x * 2

    seen = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            x = torch.randn(5)
            f(x)
            seen.append(weakref.ref(x))
            del x
    gc.collect()
    assert [r() for r in seen] == [None] * 3


def test_a_tensor_that_was_replaced_is_let_go(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["N"]) -> Tensor["N"]:
        return x * TABLE

    monkeypatch.setitem(globals(), "TABLE", torch.full((4,), 2.0))
    x, old = torch.ones(4), weakref.ref(TABLE)
    f(x)
    monkeypatch.setitem(globals(), "TABLE", torch.full((4,), 3.0))
    monkeypatch.undo()
    for _ in range(2):
        assert torch.equal(f(x), f.eager(x))
    gc.collect()
    assert old() is None and f.cache_info().variants == 1


class Counter:
    def __init__(self) -> None:
        self.steps = 0
        self.weight = torch.ones(3)

    @tessera.function
    def scaled(self, x: Tensor["N"]) -> Tensor["N"]:
        return x * self.weight * (self.steps + 1)

    @tessera.function
    def refused(self, x: Tensor["N"]) -> Tensor["N"]:
        return x if x.sum().item() > 0 else x * self.steps


def test_one_object_gets_so_many_variants_and_runs_eagerly_then() -> None:
    m, x = Counter(), torch.ones(3)
    for n in range(16):
        m.steps = n
        assert torch.equal(m.scaled(x), m.scaled.eager(x))
    m.steps = 16
    with pytest.warns(TesseraWarning, match="has had 16 values"):
        assert torch.equal(m.scaled(x), m.scaled.eager(x))
    before = Counter.scaled.cache_info()
    other = Counter()
    other.scaled(x)
    m.steps = 5
    m.scaled(x)
    after = Counter.scaled.cache_info()
    assert before.variants == 16 and after.variants == 17 and after.eager == before.eager == 1


def test_a_function_goes_before_the_objects_that_it_was_given() -> None:
    m = Counter()

    @tessera.function
    def f(x: Tensor["N"], counter: Counter) -> Tensor["N"]:
        return x * counter.weight

    f(torch.ones(3), m)
    made = weakref.ref(f.compiled)
    del f
    gc.collect()
    assert made() is None


def test_what_was_made_for_an_object_goes_with_it() -> None:
    gc.collect()
    before = Counter.scaled.cache_info().variants
    weights = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(3):
            m = Counter()
            weights.append(weakref.ref(m.weight))
            for _ in range(3):
                m.scaled(torch.ones(3))
                m.refused(torch.ones(3))
            del m
    gc.collect()
    assert [r() for r in weights] == [None] * 3
    assert Counter.scaled.cache_info().variants == before
    assert not Counter.refused.compiled.refused
