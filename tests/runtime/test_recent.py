"""Calls that are recognised at once are those that would have been served the same way."""

from __future__ import annotations

import threading

import pytest
import torch

import tessera
from tessera import Tensor


def fresh() -> tessera.Function:
    @tessera.function
    def scaled(x: Tensor["N", "D"], w: Tensor["D"]) -> Tensor["N", "D"]:
        return x * w + 1

    return scaled


def warm(f: tessera.Function, *args: torch.Tensor) -> None:
    for _ in range(4):
        f(*args)
    assert f._recent is not None


X, W = torch.randn(4, 6), torch.randn(6)


def test_other_signatures_are_not_taken_for_the_recent_one() -> None:
    f = fresh()
    warm(f, X, W)
    for x, w in [
        (torch.randn(5, 6), W), (X.double(), W.double()), (torch.randn(6, 4).T, W), (torch.randn(4, 12)[:, ::2], W),
        (X.bfloat16(), W.bfloat16()), (torch.zeros(0, 6), W), (X[:1].expand(4, 6), W), (X, torch.ones(12)[::2]),
        (torch.complex(X, X).conj().imag, W),
    ]:  # fmt: skip
        for _ in range(3):  # bf16 rounds once where torch does twice
            torch.testing.assert_close(f(x, w).double(), (x.double() * w.double() + 1), rtol=1e-2, atol=1e-2)
            assert f(x, w).dtype is x.dtype
    with pytest.raises(tessera.ShapeError):
        f(X, torch.randn(5))
    with pytest.raises(TypeError):
        f(X)
    torch.testing.assert_close(f(X, W), X * W + 1)


def test_settings_modes_and_gradients_are_seen() -> None:
    f = fresh()
    warm(f, X, W)
    with tessera.backend("eager"):
        before = f.cache_info().eager
        f(X, W)
        assert f.cache_info().eager == before + 1
    w = W.clone().requires_grad_()
    for _ in range(3):
        assert f(X, w).requires_grad
        with torch.no_grad():
            assert not f(X, w).requires_grad
    with torch.inference_mode():
        assert f(X, W).is_inference()
    torch.testing.assert_close(torch.vmap(lambda row: f(row, W))(torch.stack([X, X])), torch.stack([X, X]) * W + 1)
    torch.testing.assert_close(torch.func.grad(lambda x: f(x, W).sum())(X), W.expand(4, 6))

    class Seen(torch.overrides.TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Seen.calls += 1
            return func(*args, **(kwargs or {}))

    with Seen():
        f(X, W)
    assert Seen.calls


def test_the_default_dtype_is_seen() -> None:
    @tessera.function
    def half(i: Tensor["N", tessera.int64]) -> torch.Tensor:
        return i * 0.5

    i = torch.arange(3)
    for _ in range(4):
        assert half(i).dtype is torch.float32
    torch.set_default_dtype(torch.float64)
    try:
        assert half(i).dtype is torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert half(i).dtype is torch.float32


def test_one_tensor_given_twice_and_alternating_signatures() -> None:
    @tessera.function
    def both(x: Tensor["N"], y: Tensor["N"]) -> Tensor["N"]:
        return x + y

    x, y = torch.randn(3), torch.randn(7)
    for _ in range(5):
        torch.testing.assert_close(both(x, x), x + x)
        torch.testing.assert_close(both(y, y), y + y)
        torch.testing.assert_close(both(x, x.clone()), x + x)


def test_threads_with_different_signatures() -> None:
    f = fresh()
    wrong: list[str] = []

    def work(n: int) -> None:
        x = torch.full((n, 6), float(n))
        for _ in range(200):
            if not torch.equal(f(x, W), x * W + 1) and not torch.allclose(f(x, W), x * W + 1):
                wrong.append(f"{n}")

    threads = [threading.Thread(target=work, args=(n,)) for n in range(1, 9)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


def test_storage_that_was_freed_is_refused_as_before() -> None:
    f = fresh()
    x = torch.randn(4, 6)
    warm(f, x, W)
    x.untyped_storage().resize_(0)
    with pytest.raises((tessera.TesseraError, RuntimeError)):
        f(x, W)
