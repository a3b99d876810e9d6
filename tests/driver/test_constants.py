"""Where gradients stop inside of a function: ``detach``, ``data``, blocks without gradients; values as in eager."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

import tessera
from tessera import Tensor

BD, D = Tensor["B", "D"], Tensor["D"]


def method(x: BD, w: D) -> BD:
    y = x * w
    return y + y.detach() * 3 * w


def data(x: BD, w: D) -> BD:
    y = x * w
    return (y.data * y + torch.detach(y) * x).tanh()


def block(x: BD, w: D) -> BD:
    with torch.no_grad():
        y = (x * w).softmax(-1)
    return x * y * w


def own_block(x: BD, w: D) -> BD:
    with tessera.no_grad():
        y = x * w
        with tessera.enable_grad():
            z = (x * x).sum(-1, keepdim=True)
    return x * y + z * w


def set_mode(x: BD, w: D) -> BD:
    with torch.set_grad_enabled(False):
        y = x @ x.mT
    return y @ x + w


@torch.no_grad()
def helper(x: Any) -> Any:
    return torch.exp(x)


def decorated(x: BD, w: D) -> BD:
    return helper(x) * w * x


def updates(x: BD, w: D) -> BD:
    z = x * w
    with torch.no_grad():
        z.mul_(2.0)
        z[0] += 1
    return z * w


def writes(x: BD, w: D) -> BD:
    z = x * w
    z.detach().add_(1.0)
    z.detach()[0].mul_(2.0)
    z[1].detach().sub_(w.detach())
    return z * w


def reads(x: BD, w: D) -> BD:
    z = x * w
    q = z.detach()
    z += x * 0.5
    return q * z + w


def in_place(x: BD, w: D) -> BD:
    z = x * w
    z.detach_()
    return z * x + w


def straight_through(x: BD, w: D) -> BD:
    q = x * w
    return q + (q.round() - q).detach()


def scanned(x: BD, w: D) -> BD:
    with torch.no_grad():
        last, ys = tessera.scan(lambda c, r: (c + r * w, c * r), torch.zeros(4), x)
    return ys * x + last * w


def in_a_step(x: BD, w: D) -> BD:
    last, ys = tessera.scan(lambda c, r: (c.detach() + r * w, c * r), torch.zeros(4), x)
    return ys * x + last * w


def several_results(x: BD, w: D) -> BD:
    with torch.no_grad():
        top, _ = torch.topk(x, 1, dim=-1)
        low, high = torch.aminmax(x)
    return top * x + w * (high - low)


def library(x: BD, w: D) -> BD:
    with torch.no_grad():
        v = torch.linalg.pinv(x.mT @ x + torch.eye(4))
    return x @ v + w


PROGRAMS: list[Callable[..., Any]] = [
    method, data, block, own_block, set_mode, decorated, updates, writes, reads, in_place, straight_through, scanned,
    in_a_step, several_results, library,
]  # fmt: skip


@pytest.fixture(params=PROGRAMS, ids=lambda f: f.__name__)
def function(request: pytest.FixtureRequest) -> Iterator[Any]:
    """Each test compiles for itself: which call came first may not matter."""
    yield tessera.function(request.param, strict=True) if request.param is not library else tessera.function(library)


def _arguments() -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    x, w = torch.randn(3, 4, generator=make), torch.randn(4, generator=make)
    return x.requires_grad_(), w.requires_grad_()


def _gradients(f: Callable[..., Any], x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
    found = torch.autograd.grad(f(x, w).square().sum(), (x, w), allow_unused=True)
    return [torch.zeros_like(p) if g is None else g for g, p in zip(found, (x, w), strict=True)]


def test_gradients_stop_where_eager_stops_them(function: Any) -> None:
    x, w = _arguments()
    torch.testing.assert_close(function(x, w), function.eager(x, w))
    torch.testing.assert_close(_gradients(function, x, w), _gradients(function.eager, x, w))
    assert function.cache_info().eager == 0


def test_a_first_call_without_gradients_decides_nothing(function: Any) -> None:
    x, w = _arguments()
    with torch.no_grad():
        torch.testing.assert_close(function(x, w), function.eager(x, w))
    with torch.inference_mode():
        torch.testing.assert_close(function(x, w), function.eager(x, w))
    torch.testing.assert_close(_gradients(function, x, w), _gradients(function.eager, x, w))
    assert function.cache_info().eager == 0


def test_a_constant_costs_no_operation() -> None:
    kept = tessera.function(block)
    x, w = _arguments()
    kept(x.detach(), w.detach())
    assert "detach" in kept.ir("traced") and "detach" not in kept.ir("fused")


def test_detach_shares_memory_with_a_result() -> None:
    @tessera.function
    def both(x: Tensor["N"]) -> tuple[Tensor["N"], Tensor["N"]]:
        y = x * 2
        return y, y.detach()

    x = torch.randn(4, requires_grad=True)
    y, z = both(x)
    assert y.requires_grad and not z.requires_grad and y.data_ptr() == z.data_ptr()


def test_a_result_given_twice_has_two_gradients() -> None:
    @tessera.function
    def twice(x: Tensor["N"]) -> tuple[Tensor["N"], Tensor["N"]]:
        y = x * 2
        return y, y

    x = torch.randn(4, requires_grad=True)
    for f in (twice, twice.eager):
        a, b = f(x)
        (found,) = torch.autograd.grad((a + 3 * b).sum(), x)
        assert found.tolist() == [8.0] * 4 and a.data_ptr() == b.data_ptr()


def test_inference_mode_inside() -> None:
    @tessera.function(strict=True)
    def inside(x: Tensor["N"]) -> Tensor["N"]:
        with tessera.inference_mode():
            return (x * 2).exp()

    x = torch.randn(4, requires_grad=True)
    assert not inside(x).requires_grad
    torch.testing.assert_close(inside(x), inside.eager(x))


def test_checkpoint_inside_runs() -> None:
    from torch.utils.checkpoint import checkpoint

    @tessera.function
    def kept(x: BD, w: D) -> BD:
        return checkpoint(lambda a: torch.tanh(a * w), x, use_reentrant=False) * 2

    x, w = _arguments()
    with pytest.warns(tessera.TesseraWarning):
        found = _gradients(kept, x, w)
    torch.testing.assert_close(found, _gradients(kept.eager, x, w))
