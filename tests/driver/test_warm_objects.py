"""Warm calls of methods, of functions that use tensors from outside, and of those given objects."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import tessera
from tessera import Tensor

X = torch.arange(12.0).reshape(3, 4)


class Scale(nn.Module):
    steps = 1

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.full((width,), 2.0), requires_grad=False)
        self.register_buffer("shift", torch.ones(width))
        self.eps = 0.5
        self.options = {"twice": [False]}
        self.child = nn.Linear(width, width).requires_grad_(False)

    @tessera.function
    def forward(self, x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        y = x * self.weight + self.shift + self.eps + self.child.bias
        if self.options["twice"][0]:
            y = y * 2
        return y * self.steps


def slow_calls(f: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Counts the calls that take the general way."""
    seen: list[int] = []
    whole = type(f)._any_call
    monkeypatch.setattr(type(f), "_any_call", lambda self, *rest: seen.append(1) or whole(self, *rest))
    return seen


def warm(call: Callable[[], torch.Tensor], f: Any, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    call()
    call()
    seen = slow_calls(f, monkeypatch)
    call()
    assert not seen
    return seen


CHANGES: dict[str, Callable[[Scale], object]] = {
    "a number": lambda m: setattr(m, "eps", 7.0),
    "a parameter in place": lambda m: m.weight.mul_(3.0),
    "another parameter": lambda m: setattr(m, "weight", nn.Parameter(torch.full((4,), 5.0), requires_grad=False)),
    "data of a parameter": lambda m: setattr(m.weight, "data", torch.full((4,), 6.0)),
    "another buffer": lambda m: setattr(m, "shift", torch.full((4,), 9.0)),
    "deep inside": lambda m: m.options["twice"].__setitem__(0, True),
    "another container": lambda m: setattr(m, "options", {"twice": [True]}),
    "a child": lambda m: setattr(m, "child", nn.Linear(4, 4).requires_grad_(False)),
    "a parameter of a child": lambda m: m.child.bias.fill_(4.0),
    "the class": lambda m: setattr(type(m), "steps", 3),
    "the dtype": lambda m: m.double(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_warm_method_sees_every_change(change: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scale, "steps", 1)
    m = Scale()
    warm(lambda: m(X), Scale.forward, monkeypatch)
    with torch.no_grad():
        CHANGES[change](m)
    for _ in range(3):
        torch.testing.assert_close(m(X), Scale.forward.eager(m, X))


def test_two_objects_keep_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = Scale(), Scale()
    with torch.no_grad():
        two.weight.fill_(11.0)
    for m in (one, two, one, two):
        torch.testing.assert_close(m(X), Scale.forward.eager(m, X))
    seen = slow_calls(Scale.forward, monkeypatch)
    for m in (one, two):
        torch.testing.assert_close(m(X), Scale.forward.eager(m, X))
    assert not seen


def test_gradients_that_are_wanted_later_are_recorded() -> None:
    m = Scale()
    m.weight.requires_grad_(True)
    with torch.no_grad():
        for _ in range(3):
            assert not m(X).requires_grad
    assert m(X).requires_grad
    with torch.no_grad():
        assert not m(X).requires_grad


def test_an_object_that_is_gone_takes_its_variants_along() -> None:
    m = Scale()
    for _ in range(3):
        m(X)
    found = weakref.ref(m), weakref.ref(m.weight)
    del m
    gc.collect()
    assert [ref() for ref in found] == [None, None]


OUTSIDE = torch.full((4,), 3.0)


@tessera.function
def shifted(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
    return x + OUTSIDE


def test_a_tensor_from_outside_may_change_and_be_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    warm(lambda: shifted(X), shifted, monkeypatch)
    monkeypatch.setitem(globals(), "OUTSIDE", OUTSIDE.clone())
    OUTSIDE.fill_(8.0)
    for _ in range(3):
        assert torch.equal(shifted(X), X + 8.0)
    for other in (torch.full((4,), -1.0), torch.full((1,), -2.0), torch.full((4,), -3, dtype=torch.int64)):
        monkeypatch.setitem(globals(), "OUTSIDE", other)
        for _ in range(3):
            assert torch.equal(shifted(X), X + other)


class Config:
    def __init__(self) -> None:
        self.factor, self.names = 2.0, {"a"}


def test_an_object_as_an_argument(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.function
    def f(x: Tensor["B", "D"], cfg: Config) -> Tensor["B", "D"]:
        return x * cfg.factor if "a" in cfg.names else x

    cfg = Config()
    warm(lambda: f(X, cfg), f, monkeypatch)
    cfg.factor = 5.0
    assert torch.equal(f(X, cfg), X * 5.0)
    cfg.names.clear()
    assert torch.equal(f(X, cfg), X)
