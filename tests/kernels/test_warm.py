"""Calls of kernels like the one before, and how much is kept of those that are not."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tile, config, tile
from tessera.ops import kernels as K
from tests.kernels.given import f


@tessera.kernel
def shifted(x: Tile["S", "D"], n: int, y: Tile["S", "D"], twice: bool = False, scale: float = 1.5):
    ctx = tile.context()
    for i in tile.grid(ctx.S):
        row = tile.load(x[i]) * scale + n
        if twice:
            row = row * 2
        tile.store(y[i], row)


def served() -> int:
    """How many calls the latest form has served, however it was found."""
    assert shifted._latest is not None
    return shifted._latest.form[0].cache_info().hits


def test_the_same_call_is_recognised_and_another_is_not() -> None:
    x = f(4, 3)
    ways: tuple[tuple[int, dict[str, Any]], ...] = (
        (1, {}), (2, {}), (1, {"twice": True}), (1, {"twice": 1}), (1, {"scale": 0.5}), (1, {"scale": -0.0}),
    )  # fmt: skip
    for n, more in ways:
        wanted = (x * more.get("scale", 1.5) + n) * (2 if more.get("twice") else 1)
        for _ in range(4):
            assert torch.equal(shifted(x, n, **more), wanted)
        assert shifted._latest is None or "scale" not in more
    for _ in range(4):
        shifted(x, 1)
    before = served()
    for _ in range(3):
        assert torch.equal(shifted(x, 1), x * 1.5 + 1)
    assert served() == before + 3
    for other in (f(2, 3), f(4, 3).double(), f(3, 4).T, f(4, 3)[:0]):
        assert torch.equal(shifted(other, 1), other * 1.5 + 1)


def test_gradients_are_recorded_where_they_are_asked_for() -> None:
    x, w = f(5, 8), f(8)
    leaf = w.clone().requires_grad_()
    for _ in range(3):
        assert not K.rms_norm_kernel(x, w).requires_grad
        y = K.rms_norm_kernel(x, leaf)
        assert y.requires_grad
        with torch.no_grad():
            assert not K.rms_norm_kernel(x, leaf).requires_grad
    (g,) = torch.autograd.grad(y.sum(), leaf)
    torch.testing.assert_close(g, F.rms_norm(x, (8,), None, 1e-6).sum(0))


def test_modes_and_settings_are_seen() -> None:
    x, w = f(5, 8), f(8)
    for _ in range(4):
        y = K.rms_norm_kernel(x, w)
    torch.testing.assert_close(torch.func.vmap(lambda w: K.rms_norm_kernel(x, w))(w.expand(3, 8)), y.expand(3, 5, 8))
    with torch.device("meta"):
        torch.testing.assert_close(K.rms_norm_kernel(x, w), y)
    with config.override(backend="eager"):
        torch.testing.assert_close(K.rms_norm_kernel(x, w), y)


def test_a_derivative_given_later_counts() -> None:
    @tessera.kernel
    def same(x: Tile["N"], y: Tile["N"]):
        tile.store(y, tile.load(x))

    x = f(3).requires_grad_()
    for _ in range(4):
        same(x)
    same.defvjp(lambda x: (same(x.detach()), None), lambda kept, g: (g * 7,))
    (g,) = torch.autograd.grad(same(x).sum(), x)
    assert g.tolist() == [7.0] * 3


def test_of_many_ways_of_calling_the_latest_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    @tessera.kernel
    def heads(x: Tile["S", "H"], y: Tile["H"], n: int = 0):
        for h in range(tile.context().H):
            y[h] = tile.sum(tile.load(x[:, h])) + n

    monkeypatch.setattr(heads._programs, "most", 4)
    for count in (1, 2, 3, 4, 5, 1):
        x = f(3, count)
        torch.testing.assert_close(heads(x), x.sum(0))
    for n in range(5):
        torch.testing.assert_close(heads(x, n=n), x.sum(0) + n)
    assert len(heads._programs) == 4 and len(heads._ways._whole) <= 4 and len(heads._ways._blocks) <= 4
