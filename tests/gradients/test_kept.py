"""What a forward pass keeps for the derivative, by default, under a limit and in regions of recomputation."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor
from tessera.driver.gradient import Gradient
from tessera.runtime.bound import Bound
from tessera.runtime.dispatch import Plan
from tests.gradients.compiled import derived

N, D, H = 96, 80, 176
Args = tuple[torch.Tensor, ...]


@pytest.fixture(autouse=True)
def _compiled() -> Any:
    with tessera.backend("c"):
        yield


def gated(x: Tensor["N", "D"], g: Tensor["D", "H"], u: Tensor["D", "H"], w: Tensor["H", "D"]) -> Tensor["N", "D"]:
    rows = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6)
    return x + (F.silu(rows @ g) * (rows @ u)) @ w


def arguments(*more: tuple[int, ...]) -> Args:
    torch.manual_seed(3)
    shapes = ((N, D), (D, H), (D, H), (H, D), *more)
    return tuple((torch.randn(s) / s[-1] ** 0.5).requires_grad_() for s in shapes)


def gradients(f: Callable[..., Any], args: Args) -> list[torch.Tensor]:
    for x in args:
        x.grad = None
    f(*args).square().sum().backward()
    return [x.grad for x in args if x.grad is not None]


def kept(f: Any) -> tuple[Gradient, list[str]]:
    (found,) = derived(f)
    return found, sorted(str(v.type) for v in found.parts.kept)


def close(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert len(found) == len(wanted)
    for a, b in zip(found, wanted, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-5)


def test_what_one_kernel_writes_for_another_is_not_made_twice() -> None:
    f = tessera.function(gated, strict=True)
    args = arguments()
    close(gradients(f, args), gradients(gated, args))
    found, shapes = kept(f)
    # Both products, the gated channels that the third one reads, the rows and their factors.
    assert shapes == ["f32[N, 1]", "f32[N, D]", "f32[N, H]", "f32[N, H]", "f32[N, H]"]
    made = [op.name for op in found.backward.traced.function.ops]
    assert "rsqrt" not in made and made.count("mul") < 20


@pytest.mark.parametrize("limit", [10**9, 4 * N * (2 * H + 1), 4 * N * H, 0])
def test_with_less_room_more_is_computed_again(limit: int) -> None:
    f = tessera.function(gated, strict=True, max_saved=limit)
    args = arguments()
    close(gradients(f, args), gradients(gated, args))
    found, _ = kept(f)
    sizes = {"N": N, "D": D, "H": H}
    assert found.parts.bytes().evaluate(sizes) <= limit


def chain(blocks: int, regions: bool) -> Callable[..., Any]:
    def f(x: Tensor["N", "D"], *weights: Tensor["D", "D"]) -> Tensor["N", "D"]:
        for w in weights[:blocks]:
            with tessera.checkpoint_region() if regions else nullcontext():
                x = x + torch.tanh(torch.tanh(x @ w) @ w)
        return x

    return f


@pytest.mark.parametrize("blocks", [1, 4])
def test_a_region_keeps_what_goes_into_it(blocks: int) -> None:
    args = arguments(*((D, D),) * blocks)
    args = (args[0], *args[4:])
    f = tessera.function(chain(blocks, True), strict=True)
    close(gradients(f, args), gradients(chain(blocks, False), args))
    _, shapes = kept(f)
    assert shapes == ["f32[N, D]"] * (blocks - 1)


def test_what_is_computed_again_is_there_for_its_own_block_alone() -> None:
    """The memory between the steps of the backward pass does not grow with the number of regions."""
    whole = []
    for blocks in (3, 6):
        args = arguments(*((D, D),) * blocks)
        args = (args[0], *args[4:])
        f = tessera.function(chain(blocks, True), strict=True)
        gradients(f, args)
        plan = kept(f)[0].backward.plan()
        assert isinstance(plan, Plan)
        whole.append(Bound(plan, {"N": N, "D": D}).memory().whole)
    assert 0 < whole[1] <= whole[0]


def test_a_region_draws_the_same_numbers_again() -> None:
    def f(x: Tensor["N", "D"], w: Tensor["D", "D"]) -> Tensor["N", "D"]:
        with tessera.checkpoint_region():
            y = F.dropout(torch.tanh(x @ w), 0.5)
        return y

    x, w = torch.randn(N, D, requires_grad=True), torch.eye(D).requires_grad_()
    y = tessera.function(f, strict=True)(x, w)
    y.sum().backward()
    assert x.grad is not None
    dropped = y == 0
    assert 0.3 < dropped.float().mean() < 0.7
    wanted = torch.where(dropped, 0.0, 2 * (1 - torch.tanh(x).square()))
    torch.testing.assert_close(x.grad, wanted, rtol=1e-5, atol=1e-6)
