"""Streams over short sequences in C: vectors that go together or apart, packed operands made of several loads, results
that are turned before they are stored.
"""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor


@tessera.function
def causal(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"]
) -> Tensor["B", "H", "S", "D"]:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


@tessera.function
def full(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"]
) -> Tensor["B", "H", "S", "D"]:
    return F.scaled_dot_product_attention(q, k, v)


@tessera.function
def window(q: Tensor["H", "S", "D"], k: Tensor["H", "S", "D"], v: Tensor["H", "S", "D"]) -> Tensor["H", "S", "D"]:
    at = torch.arange(q.shape[1])
    behind = at[:, None] - at[None, :]
    scores = torch.where((behind >= 0) & (behind < 20), q @ k.mT, float("-inf"))
    return torch.softmax(scores, -1) @ v


@tessera.function
def turned(
    q: Tensor["B", "S", "64"], k: Tensor["B", "S", "64"], v: Tensor["B", "S", "64"], cos: Tensor["S", "16"],
    sin: Tensor["S", "16"],
) -> Tensor["B", "2", "S", "32"]:  # fmt: skip
    """Attention of two heads whose queries and keys are turned by their positions on the way."""
    (q1, q2), (k1, k2) = (x.unflatten(-1, (2, 32)).transpose(1, 2).chunk(2, -1) for x in (q, k))
    q = torch.cat([q1 * cos - q2 * sin, q2 * cos + q1 * sin], -1)
    k = torch.cat([k1 * cos - k2 * sin, k2 * cos + k1 * sin], -1)
    return F.scaled_dot_product_attention(q, k, v.unflatten(-1, (2, 32)).transpose(1, 2), is_causal=True)


@tessera.function
def beside(x: Tensor["N", "K"], y: Tensor["N", "K"], w: Tensor["M", "2*K"]) -> Tensor["N", "M"]:
    """The rows of two operands side by side, of a size that no vector divides."""
    return torch.relu(torch.cat([x * 2, y], -1) @ w.mT)


@tessera.function
def shifted(x: Tensor["N", "K"]) -> Tensor["N", "K"]:
    """Reads in rows that begin before the lanes do, and end before them."""
    return F.pad(x, (3, 0))[:, :-3] + F.pad(x, (0, 2))[:, 2:]


def worst(got: torch.Tensor, exact: torch.Tensor) -> float:
    return float((got.double() - exact).abs().max()) if exact.numel() else 0.0


def check(f: tessera.Function, *xs: torch.Tensor) -> None:
    """Values and gradients against float64: no further off than eager, or than a rounding of the largest value."""
    exacts = [x.double().requires_grad_() for x in xs]
    eagers, ours = ([x.clone().requires_grad_() for x in xs] for _ in range(2))
    exact, eager, got = f.__wrapped__(*exacts), f.__wrapped__(*eagers), f(*ours)
    g = torch.randn(exact.shape, generator=torch.Generator().manual_seed(1))
    pairs = [(got, eager, exact)]
    for y, inputs in ((exact, exacts), (eager, eagers), (got, ours)):
        y.backward(g.to(y.dtype))
        assert all(x.grad is not None for x in inputs)
    pairs += [(a.grad, b.grad, c.grad) for a, b, c in zip(ours, eagers, exacts, strict=True)]
    for mine, theirs, right in pairs:
        floor = 2e-6 * max(1.0, float(right.detach().abs().max()))
        assert worst(mine.detach(), right.detach()) <= max(1.05 * worst(theirs.detach(), right.detach()), floor)


def randn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("size", [1, 15, 16, 17, 31, 32, 33, 48, 65, 128, 300])
def test_causal_attention_at_sizes_where_vectors_part(size: int) -> None:
    check(causal, *(randn(2, 3, size, 8 + n)[..., :8] for n in range(3)))


@pytest.mark.parametrize("size", [1, 20, 33, 64, 130])
def test_windows_at_sizes_where_vectors_part(size: int) -> None:
    check(window, *(randn(2, size, 4 + n)[..., :4].contiguous() for n in range(3)))


def test_vectors_part_where_a_bound_depends_on_the_lanes_alone() -> None:
    x = randn(1, 2, 40, 8)
    (kernel,) = causal.lower(x, x, x, backend="c").kernels
    assert "<= 17 *" in str(kernel.source)
    (kernel,) = full.lower(x, x, x, backend="c").kernels
    assert "2 * L <=" in str(kernel.source) and "<= 17 *" not in str(kernel.source)


@pytest.mark.parametrize("size", [1, 16, 37, 64])
def test_operands_that_are_turned_on_the_way(size: int) -> None:
    angles = torch.arange(size)[:, None] * 0.1 ** torch.arange(16)
    given = *(randn(2, size, 64 + n)[..., :64].contiguous() for n in range(3)), angles.cos(), angles.sin()
    check(turned, *given)
    assert any("t_load_within_f32(" in str(k.source) for k in turned.lower(*given, backend="c").kernels)


@pytest.mark.parametrize("width", [1, 7, 16, 21, 40])
def test_operands_side_by_side(width: int) -> None:
    check(beside, randn(35, width), randn(35, width + 1)[:, 1:], randn(19, 2 * width))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.int8], ids=str)
@pytest.mark.parametrize("width", [4, 15, 16, 17, 50])
def test_runs_that_are_read_in_part(dtype: torch.dtype, width: int) -> None:
    x = (randn(5, width) * 20).to(dtype)
    assert torch.equal(shifted(x), shifted.__wrapped__(x))
