"""Fingerprints: what counts as the same, and what they cost."""

from __future__ import annotations

import gc
import threading
import weakref
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

import tessera
from tessera import Tensor
from tessera.driver.held import fingerprint, snapshot


class Node:
    def __init__(self) -> None:
        self.near: list[Node] = []
        self.value = 1.0

    def scaled(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.value


NODE = Node()


def test_objects_that_all_know_each_other() -> None:
    """There are more ways through them than could ever be walked."""
    nodes = [Node() for _ in range(30)]
    for node in nodes:
        node.near = [n for n in nodes if n is not node]
    before = fingerprint(nodes[0])
    assert fingerprint(nodes[0]) == before
    nodes[29].value = 2.0
    assert fingerprint(nodes[0]) != before


@pytest.mark.parametrize(
    "make",
    [
        lambda: np.float32(2.5),
        lambda: np.int64(300),
        lambda: np.bool_(True),
        lambda: slice(0, 300),
        lambda: 2.5 + 1j,
        lambda: NODE.scaled,
        lambda: partial(len, [300]),
    ],
    ids=["float32", "int64", "bool", "slice", "complex", "method", "partial"],
)
def test_equal_values_are_one(make: Any) -> None:
    assert fingerprint(make()) == fingerprint(make())
    assert fingerprint([make()]) == fingerprint([make()])


def test_values_that_differ() -> None:
    plain = [1, 1.0, True, 0.0, -0.0, slice(1), slice(1.0)]
    found = [fingerprint(v) for v in (*plain, np.float32(1), np.float64(1), np.int64(1), np.float32(-0.0))]
    assert all(a != b for n, a in enumerate(found) for b in found[:n])


def test_an_equal_number_of_numpy_needs_no_new_variant() -> None:
    @tessera.function
    def f(x: Tensor["N"], k: object = None) -> Tensor["N"]:
        return x * float(k)

    for _ in range(3):
        f(torch.ones(2), np.float32(2.5))
    assert f.cache_info().variants == 1


def test_methods_that_are_given_are_seen_and_let_go() -> None:
    @tessera.function
    def f(x: Tensor["N"], act: Any) -> Tensor["N"]:
        return act(x)

    node, x = Node(), torch.ones(2)
    for value in (2.0, 2.0, 3.0, 2.0):
        node.value = value
        assert torch.equal(f(x, node.scaled), x * value)
        assert torch.equal(f(x, partial(torch.mul, value)), x * value)
    assert f.cache_info().variants == 4 and f.cache_info().eager == 0
    del node
    gc.collect()
    assert f.cache_info().variants == 2


class Chosen:
    """One that calls another object, or itself, through an attribute."""

    def __init__(self, act: Any) -> None:
        self.act = act or self.doubled

    def doubled(self, x: torch.Tensor) -> torch.Tensor:
        return x * 2

    @tessera.function
    def applied(self, x: Tensor["N"]) -> Tensor["N"]:
        return self.act(x)


def test_a_method_in_an_attribute() -> None:
    inner = Node()
    taken = snapshot(Chosen(inner.scaled))
    assert taken is not None and taken.holds()
    inner.value = 2.0
    assert not taken.holds()


@pytest.mark.parametrize("inner", [None, Node().scaled], ids=["its own", "another's"])
def test_an_object_that_holds_a_method_is_let_go(inner: Any) -> None:
    chosen, x = Chosen(inner), torch.ones(2)
    gone = weakref.ref(chosen)
    for _ in range(3):
        chosen.applied(x)
    del chosen
    gc.collect()
    assert gone() is None


def test_a_container_that_another_thread_changes() -> None:
    shared: dict[int, float] = {n: float(n) for n in range(100)}
    members = set(range(100))
    done = threading.Event()

    def work() -> None:
        n = 100
        while not done.is_set():
            shared[n], n = 0.0, n + 1
            members.add(n)
            shared.pop(n - 50, None)
            members.discard(n - 50)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(300):
            fingerprint([shared, members])
    finally:
        done.set()
        thread.join()


def test_a_snapshot_sees_names_that_change_without_their_values() -> None:
    value = object()
    for change in (
        lambda x: x["a"].update(other=x["a"].pop("near")),
        lambda x: (x["a"].pop("near"), x["b"].update(near=value)),
        lambda x: x["b"].update(far=x["b"].pop("far")) or x["b"].update(more=1),
        lambda x: (x["b"].pop(3), x["b"].update({4: value})),
    ):
        held: dict[Any, Any] = {"a": {"near": value}, "b": {"far": value, 3: value}}
        taken = snapshot(held)
        assert taken is not None and taken.holds()
        change(held)
        assert not taken.holds()
