"""What functions and methods read that a compiled function is given, or finds inside of objects."""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor
from tests.driver.test_captured import agrees

X = torch.tensor([-1.0, 0.5, 2.0])
FACTOR = 1.0


def factor() -> float:
    return FACTOR


@functools.cache
def remembered() -> float:
    return FACTOR


class Base:
    def factor(self) -> float:
        return FACTOR


class Derived(Base):
    def factor(self) -> float:
        return super().factor() * 2


class Holder:
    def __init__(self, inner: object) -> None:
        self.inner = {"all": [inner]}

    @tessera.function
    def scaled(self, x: Tensor["N"]) -> Tensor["N"]:
        inner: Any = self.inner["all"][0]
        return x * inner.factor()


DERIVED = Derived()


@tessera.function
def of_a_base(x: Tensor["N"]) -> Tensor["N"]:
    return x * DERIVED.factor()


@tessera.function
def of_a_cache(x: Tensor["N"]) -> Tensor["N"]:
    return x * remembered()


@tessera.function
def of_an_argument(x: Tensor["N"], source: Any = DERIVED) -> Tensor["N"]:
    return x * source.factor()


@tessera.function
def of_a_function(x: Tensor["N"], source: Any = factor) -> Tensor["N"]:
    return x * source()


CALLS: dict[str, tuple[Any, Callable[..., Any]]] = {
    "a method of a base class": (of_a_base, of_a_base),
    "a cached function": (of_a_cache, of_a_cache),
    "a method of an argument": (of_an_argument, of_an_argument),
    "a function in an argument": (of_an_argument, lambda x: of_an_argument(x, SimpleNamespace(factor=factor))),
    "a function as argument": (of_a_function, of_a_function),
    "a partial as argument": (of_a_function, functools.partial(of_a_function, source=functools.partial(factor))),
    "a method as argument": (of_a_function, functools.partial(of_a_function, source=DERIVED.factor)),
    "an object inside an object": (Holder.scaled, Holder(DERIVED).scaled),
}


@pytest.mark.parametrize("name", CALLS)
def test_another_value_is_seen(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    f, call = CALLS[name]
    remembered.cache_clear()
    eager = f.cache_info().eager
    first = call(X)
    for _ in range(2):
        assert torch.equal(call(X), first)
    monkeypatch.setitem(globals(), "FACTOR", 5.0)
    remembered.cache_clear()
    assert torch.equal(call(X), first * 5.0)
    assert f.cache_info().eager == eager


def test_objects_that_are_given_together() -> None:
    """A tensor that is found in two ways stays the one that each of them gives."""
    table = torch.ones(3)
    held = SimpleNamespace(table=table)

    @tessera.function
    def f(x: Tensor["N"], source: Any) -> Tensor["N"]:
        return x * table + source.table

    agrees(f, X, held)
    table = torch.full((3,), 4.0)
    agrees(f, X, held)
