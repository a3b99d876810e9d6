"""What a call keeps for its derivative lies in one block; only the memory tells."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.autograd.graph import saved_tensors_hooks

import tessera
from tessera import Tensor
from tessera.driver.gradient import Way, latest


@tessera.function(strict=True)
def deep(x: Tensor["B", "D"], w: Tensor["D", "D"], v: Tensor["D", "D"], s: Tensor["D"]) -> Tensor["B", "D"]:
    y = torch.softmax(x @ w, -1)
    z = torch.relu(y @ v) * s
    return torch.softmax(z @ w, -1) @ v


def arguments(rows: int = 300, width: int = 40, seed: int = 0) -> list[torch.Tensor]:
    torch.manual_seed(seed)
    shapes = ((rows, width), (width, width), (width, width), (width,))
    return [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def gradients(given: list[torch.Tensor], f: object = deep, retain: bool = False) -> list[torch.Tensor]:
    y = f(*given)  # type: ignore[operator]
    return list(torch.autograd.grad((y * y).sum(), given, retain_graph=retain))


def close(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> bool:
    return all(torch.allclose(a, b, atol=1e-4, rtol=1e-4) for a, b in zip(found, wanted, strict=True))


def way(y: torch.Tensor) -> Way:
    node = y.grad_fn
    assert node is not None
    return node.way  # type: ignore[no-any-return]


def test_kept_values_lie_in_one_block() -> None:
    given = arguments()
    y = deep(*given)
    gradient = latest(deep.resolve(*given).variant)
    assert gradient is not None and len(gradient.parts.kept) > 2
    places = way(y).places
    assert len(places) > 2
    saved = y.grad_fn.saved_tensors  # type: ignore[union-attr]
    assert saved[0].dtype is torch.uint8 and len(saved) == len(gradient.parts.saved) - len(places) + 1
    for rows in (300, 7, 1, 300):
        given = arguments(rows, seed=rows)
        assert close(gradients(given), gradients(given, deep.eager))


def test_neither_results_nor_gradients_hold_the_block() -> None:
    given = arguments()
    for _ in range(3):
        y = deep(*given)
        assert y.untyped_storage().nbytes() == y.numel() * 8
        for x in torch.autograd.grad(y.square().sum(), given):
            assert x.untyped_storage().nbytes() == x.numel() * 8 and not x._is_view()


def test_the_block_goes_with_the_graph() -> None:
    given = arguments(2000)
    gradients(given)
    gc.collect()
    before = tessera.memory_stats()["in_use"]
    y = deep(*given)
    held = sum(p.shape[0] * 8 for p in way(y).places.values() if p.shape)
    assert tessera.memory_stats()["in_use"] > before + held
    loss = (y * y).sum()
    loss.backward()
    for x in given:
        x.grad = None
    del y
    gc.collect()
    assert tessera.memory_stats()["in_use"] == before
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


def test_a_retained_graph_and_one_changed_in_between() -> None:
    given = arguments()
    wanted = gradients(given, deep.eager)
    y = deep(*given)
    loss = (y * y).sum()
    for retain in (True, True, False):
        assert close(list(torch.autograd.grad(loss, given, retain_graph=retain)), wanted)
    y = deep(*given)
    with torch.no_grad():
        given[2].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


def test_hooks_get_every_value_by_itself() -> None:
    given, seen = arguments(), []
    wanted = gradients(given)

    def pack(x: torch.Tensor) -> torch.Tensor:
        seen.append(x)
        return x.clone()

    with saved_tensors_hooks(pack, lambda x: x):
        found = gradients(given)
    assert close(found, wanted) and all(x.dtype is torch.float64 for x in seen)
    assert close(gradients(given), wanted)


def test_hooks_on_the_block_may_move_it_but_not_change_what_it_is() -> None:
    given = arguments()
    wanted = gradients(given)
    for _ in range(3):
        y = deep(*given)
        y.grad_fn._raw_saved_tensors[0].register_hooks(  # type: ignore[union-attr]
            lambda x: x.numpy(force=True).copy(), torch.from_numpy
        )
        assert close(list(torch.autograd.grad((y * y).sum(), given)), wanted)
    y = deep(*given)
    y.grad_fn._raw_saved_tensors[0].register_hooks(lambda x: x, lambda x: x[:64])  # type: ignore[union-attr]
    with pytest.raises(tessera.TraceError, match="hooks on saved tensors"):
        y.sum().backward()


def test_many_cotangents_at_once_and_second_derivatives() -> None:
    given = arguments(6, 5)
    directions = torch.randn(4, 6, 5, dtype=torch.float64)
    found = torch.autograd.grad(deep(*given), given, directions, is_grads_batched=True)
    wanted = torch.autograd.grad(deep.eager(*given), given, directions, is_grads_batched=True)
    assert close(list(found), list(wanted))
    second = []
    for f in (deep, deep.eager):
        first = torch.autograd.grad(f(*given).square().sum(), given, create_graph=True)
        second.append(list(torch.autograd.grad(torch.stack([g.square().sum() for g in first]).sum(), given)))
    assert close(*second)


@pytest.mark.parametrize("rows", [40, 4000])
def test_views_of_kept_values_and_library_calls(rows: int) -> None:
    @tessera.function(strict=True)
    def sorted_heads(x, w):  # type: ignore[no-untyped-def]
        y = torch.exp(x @ w).reshape(-1, 4, 5).transpose(0, 1)
        z = torch.sort(y * y, -1).values
        return torch.tanh(z) * y, (z * y).sum()

    torch.manual_seed(0)
    given = [torch.randn(rows, 20, requires_grad=True), (torch.randn(20, 20) / 20).requires_grad_()]
    found = []
    for f in (sorted_heads, sorted_heads, sorted_heads.eager):
        a, b = f(*given)
        found.append(list(torch.autograd.grad((a * a).sum() + b, given)))
    assert close(found[0], found[2]) and close(found[1], found[2])
