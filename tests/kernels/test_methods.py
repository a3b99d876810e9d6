"""Kernels that are methods: tensors of the object are arguments, everything else of it is known before the run."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch

import tessera
from tessera import ShapeError, Tensor, Tile, TraceError, tile
from tests.kernels.given import f


class Norm(torch.nn.Module):
    weight: Tensor["D"]

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(f(width).abs() + 1)
        self.eps = 1e-6
        self.bias: torch.Tensor | None = None

    def scaled(self, x: Any) -> Any:
        return x * tile.load(self.weight)

    @tessera.kernel
    def apply(self, x: Tile["S", "D"], y: Tile["S", "D"]):
        for i in tile.grid(tile.context().S):
            row = tile.load(x[i])
            row = row * tile.rsqrt(tile.mean(row * row) + self.eps)
            if self.bias is not None:
                row = row + tile.load(self.bias)
            tile.store(y[i], self.scaled(row))

    @tessera.function
    def twice(self, x: Tensor["S", "D"]) -> Tensor["S", "D"]:
        return self.apply(x) * 2

    def exact(self, x: torch.Tensor) -> torch.Tensor:
        x = x.double()
        row = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + self.eps)
        return (row + (0 if self.bias is None else self.bias)) * self.weight


def close(found: torch.Tensor, wanted: torch.Tensor) -> None:
    torch.testing.assert_close(found.double(), wanted.double(), rtol=1e-5, atol=1e-6)


def changes(m: Norm) -> Any:
    """A module in one state after the other."""
    yield "new"
    m.eps = 0.5
    yield "another float"
    m.bias = f(8)
    yield "a tensor where was none"
    m.weight = torch.nn.Parameter(f(8) + 3)
    yield "another tensor"
    with torch.no_grad():
        m.weight.mul_(2)
    yield "other values"


def test_what_changes_is_noticed() -> None:
    m, x = Norm(8), f(5, 8)
    blocks = Norm.apply.configure(block_m=16)
    for _ in changes(m):
        for _ in range(2):
            close(m.apply(x), m.exact(x))
            close(m.twice(x), 2 * m.exact(x))
            close(blocks(m, x), m.exact(x))
            close(m.apply.check(x), m.exact(x))
            close(m.apply.reference(x)["y"], m.exact(x))
    assert m.twice.cache_info().eager == 0


def test_gradients_reach_parameters() -> None:
    m, x = Norm(8), f(2, 5, 8).requires_grad_()
    m.bias = torch.nn.Parameter(f(8))
    leaves = [x, m.weight, m.bias]
    cotangent = f(2, 5, 8)
    for _ in range(2):
        found = torch.autograd.grad(m.apply(x), leaves, cotangent)
        wanted = torch.autograd.grad(m.exact(x), leaves, cotangent.double())
        for a, b in zip(found, wanted, strict=True):
            close(a, b)


def test_objects_do_not_share_what_they_hold() -> None:
    wide, narrow = Norm(8), Norm(3)
    other = copy.deepcopy(narrow)
    other.eps = 7.0
    for _ in range(2):
        for m, x in ((wide, f(5, 8)), (narrow, f(5, 3)), (other, f(5, 3))):
            close(m.apply(x), m.exact(x))
    close(pickle.loads(pickle.dumps(narrow)).apply(f(5, 3)), narrow.exact(f(5, 3)))


def test_what_is_said_of_a_method() -> None:
    m, x = Norm(8), f(5, 8)
    assert tessera.parse(m.apply.ir()).name == "apply"
    assert "self_weight: in f32[D]" in m.apply.ir(x)
    assert m.apply.launches() == m.apply.launches(x) == 1
    assert "on whole tensors" in str(m.apply.report(x))
    assert m.apply.source("c") and m.apply.source("c", x) and len(m.apply.lower(x, backend="c").kernels) == 1
    with pytest.raises(AttributeError):
        m.apply.autotune([], [])


def test_dims_of_the_object_unify_with_those_of_the_call() -> None:
    with pytest.raises(ShapeError, match=r"`D` is 9 by `x`, dim 1 and 8 by `self\.weight`, dim 0") as caught:
        Norm(8).apply(f(5, 9))
    assert caught.value.code == "TSR0107"
    m = Norm(8)
    m.bias = f(7)
    with pytest.raises(ShapeError):
        m.apply(f(5, 8))


class Heads:
    H: int

    def __init__(self, heads: int) -> None:
        self.H, self.shifts, self.inner = heads, [1.0, 2.0], Norm(4)
        self.seen = torch.zeros(3)

    @tessera.kernel
    def shifted(self, x: Tile["H*S", "D"], y: Tile["H", "S", "D"]):
        ctx = tile.context()
        rows = tile.reshape(tile.load(x), (ctx.H, ctx.S, ctx.D))
        for shift in self.shifts:
            rows = rows + shift
        tile.store(y, rows * tile.load(self.inner.weight) + self.inner.eps)

    @tessera.kernel
    def count(self, x: Tile["N"]):
        tile.store(self.seen, tile.load(self.seen) + tile.load(x))

    @tessera.kernel
    def unknown(self, x: Tile["N"], y: Tile["N"]):
        tile.store(y, tile.load(x) * self.missing)

    @tessera.kernel.fused
    def in_order(self, x: Tile["N"], y: Tile["N"]):
        for i in tile.range(tile.context().N):
            y[i] = tile.load(x[i])


def test_sizes_containers_and_objects_inside_of_the_object() -> None:
    for heads in (2, 3):
        h, x = Heads(heads), f(6, 4)
        for shift in (2.0, 5.0):
            h.shifts[1] = shift
            wanted = (x.view(heads, -1, 4) + 1 + shift) * h.inner.weight + h.inner.eps
            close(h.shifted(x), wanted)
        h.inner.eps = 3.0
        close(h.shifted(x), wanted + 3.0 - 1e-6)


def test_a_tensor_of_the_object_may_be_written_to() -> None:
    h, x = Heads(2), f(3)
    assert h.count(x) is None
    h.count(x)
    close(h.seen, 2 * x)


def test_what_the_object_does_not_have_is_an_error_with_its_place() -> None:
    h = Heads(2)
    with pytest.raises(TraceError, match=r"`self\.missing` is not known") as caught:
        h.unknown(f(3))
    assert caught.value.code == "TSR0404"
    (label,) = caught.value.diagnostics[0].labels
    assert label.span is not None and label.span.text() == "self.missing"
    h.missing = 2.0  # type: ignore[attr-defined]
    close(h.unknown(f(3)), 2 * f(3))


def test_a_request_for_whole_tensors_is_answered_when_the_object_is_known() -> None:
    with pytest.raises(TraceError, match="no form on whole tensors"):
        Heads(2).in_order(f(3))


class Squared:
    def __init__(self) -> None:
        self.factor, self.calls = torch.tensor([3.0]).requires_grad_(), 0

    @tessera.kernel
    def square(self, x: Tile["N"], y: Tile["N"]):
        for i in tile.range(tile.context().N):
            y[i] = tile.load(x[i]) * tile.load(x[i]) * tile.load(self.factor[0])

    def _kept(self, x: torch.Tensor) -> Any:
        self.calls += 1
        with torch.no_grad():
            return self.square(x), (x, self.factor)

    square.defvjp(_kept, lambda kept, g: (2 * kept[0] * kept[1] * g, (kept[0] ** 2 * g).sum()[None]))


def test_a_method_may_be_given_a_derivative() -> None:
    s, x = Squared(), f(4).requires_grad_()
    s.square(x).sum().backward()
    assert x.grad is not None and s.factor.grad is not None and s.calls == 1
    close(x.grad, 6 * x)
    close(s.factor.grad, (x * x).sum()[None])


def test_a_method_stands_between_graphs_of_torchs_compiler() -> None:
    m, x = Norm(8), f(5, 8)
    found = torch.compile(lambda x: m.apply(x + 1) * 2, backend="eager")(x)
    close(found, 2 * m.exact(x + 1))
