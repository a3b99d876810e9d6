"""A compiled function among torch's ways to ask for derivatives: modes, flags, hooks, transforms, threads."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.distributed as dist
from torch.utils.checkpoint import checkpoint

import tessera
from tessera import Tensor

F = torch.func
AF = torch.autograd.functional


@tessera.function(strict=True)
def rms_norm(x: Tensor["B", "D"], w: Tensor["D"]) -> Tensor["B", "D"]:
    return x * tessera.rsqrt(tessera.mean(x**2, dim=-1, keepdim=True) + 1e-6) * w


def given(learns: tuple[bool, bool] = (True, True)) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    x, w = torch.randn(3, 4, generator=make), torch.randn(4, generator=make)
    return x.requires_grad_(learns[0]), w.requires_grad_(learns[1])


def same(use: Callable[[Any], Any]) -> None:
    """What a use of the compiled function gives is what it gives of the eager one."""
    found, want = use(rms_norm), use(rms_norm.eager)
    torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5)


def number(f: Any) -> Callable[..., torch.Tensor]:
    return lambda *args: f(*args).sin().sum()


# ---- transforms: right, compiled or not --------------------------------------------------------------------------

X, W = given((False, False))
XS = torch.stack([X, 2 * X, -X])
TRANSFORMS: dict[str, Callable[[Any], Any]] = {
    "grad": lambda f: F.grad(number(f), (0, 1))(X, W),
    "grad of grad": lambda f: F.grad(lambda x: F.grad(number(f))(x, W).square().sum())(X),
    "vjp": lambda f: F.vjp(f, X, W)[1](torch.ones(3, 4)),
    "jvp": lambda f: F.jvp(f, (X, W), (X, W)),
    "linearize": lambda f: F.linearize(f, X, W)[1](X, W),
    "jacrev": lambda f: F.jacrev(f)(X, W),
    "jacfwd": lambda f: F.jacfwd(f)(X, W),
    "hessian": lambda f: F.hessian(number(f))(X, W),
    "vmap": lambda f: F.vmap(f, (0, None))(XS, W),
    "vmap of grad": lambda f: F.vmap(F.grad(number(f)), (0, None))(XS, W),
    "grad of vmap": lambda f: F.grad(lambda w: F.vmap(f, (0, None))(XS, w).sum())(W),
    "tessera.grad under vmap": lambda f: F.vmap(tessera.grad(number(f)), (0, None))(XS, W),
    "jacobian": lambda f: AF.jacobian(lambda x: f(x, W), X),
    "jacobian at once": lambda f: AF.jacobian(lambda x: f(x, W), X, vectorize=True),
    "jacobian with a graph": lambda f: AF.jacobian(lambda x: f(x, W), given()[0], vectorize=True, create_graph=True),
    "hessian at once": lambda f: AF.hessian(lambda x: number(f)(x, W), X, vectorize=True),
    "jvp by two vjps": lambda f: AF.jvp(lambda x: f(x, W), X, X),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms(name: str) -> None:
    same(TRANSFORMS[name])


def test_several_cotangents_at_once() -> None:
    x, w = given()
    rows = torch.stack([torch.ones(3, 4), X])
    same(lambda f: torch.autograd.grad(f(x, w), (x, w), rows, is_grads_batched=True))


@pytest.mark.parametrize("low", [False, True], ids=["plain", "autocast"])
def test_several_cotangents_of_products_at_once(low: bool) -> None:
    """The passes behind the function are what they were, also under autocast."""

    @tessera.function(strict=True)
    def layer(x: Tensor["B", "D"], w: Tensor["D"]) -> Any:
        return torch.tanh(x @ x.mT + torch.einsum("bd,d->b", x, w))

    x, w = given()
    rows = torch.stack([torch.ones(3, 3), X[:, :3]])
    plain = torch.autograd.grad(layer.eager(x, w), (x, w), rows, is_grads_batched=True)
    slopes = torch.autograd.grad(layer.eager(x, w), (x, w), rows, is_grads_batched=True, create_graph=True)
    second = torch.autograd.grad(slopes[0].square().sum(), (x, w))
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        found = torch.autograd.grad(out := layer(x, w), (x, w), rows.to(out.dtype), is_grads_batched=True)
    tolerance = {"rtol": 5e-2, "atol": 5e-2} if low else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(found, plain, **tolerance)
    y = layer(x, w)
    with torch.autocast("cpu", torch.bfloat16, enabled=low):
        again = torch.autograd.grad(y, (x, w), rows, is_grads_batched=True, create_graph=True)
    torch.testing.assert_close(again, slopes, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.autograd.grad(again[0].square().sum(), (x, w)), second, rtol=1e-4, atol=1e-4)


def test_parameters_given_by_name() -> None:
    class Model(torch.nn.Module):
        def __init__(self, f: Any) -> None:
            super().__init__()
            self.f, self.w = f, torch.nn.Parameter(torch.ones(4))

        def forward(self, x: Any) -> Any:
            return self.f(x, self.w)

    same(lambda f: F.functional_call(Model(f), {"w": W}, (X,)))
    same(lambda f: F.grad(lambda p: F.functional_call(Model(f), p, (X,)).sum())({"w": W})["w"])


def test_tangents_are_never_lost() -> None:
    def forward(f: Any) -> Any:
        with fwd.dual_level():
            return fwd.unpack_dual(f(fwd.make_dual(X, XS[1]), W))

    def over_reverse(f: Any) -> Any:
        x, w = given()
        y = f(x, w)
        with fwd.dual_level():
            (g,) = torch.autograd.grad(y, x, fwd.make_dual(torch.ones(3, 4), X))
            return fwd.unpack_dual(g).tangent

    rms_norm(X, W)
    same(lambda f: tuple(forward(f)))
    same(over_reverse)


# ---- modes and flags ---------------------------------------------------------------------------------------------


def test_flags_and_modes_change_between_calls() -> None:
    every = list(itertools.product([False, True], repeat=2))
    for learns in [*every, *reversed(every), *every]:
        x, w = given(learns)
        y = rms_norm(x, w)
        assert y.requires_grad is any(learns)
        if any(learns):
            y.sin().sum().backward()
            found = x.grad, w.grad
            x.grad = w.grad = None
            rms_norm.eager(x, w).sin().sum().backward()
            for a, b in zip(found, (x.grad, w.grad), strict=True):
                assert (a is None) is (b is None)
                if a is not None:
                    torch.testing.assert_close(a, b)
        for mode in (torch.no_grad(), torch.set_grad_enabled(False), torch.inference_mode()):
            with mode:
                z = rms_norm(x, w)
                assert not z.requires_grad and z.is_inference() is isinstance(mode, torch.inference_mode)
                with torch.enable_grad():
                    if not torch.is_inference_mode_enabled():
                        assert rms_norm(x, w).requires_grad is any(learns)


def test_a_captured_parameter_learns_after_calls_without_gradients() -> None:
    weight = torch.nn.Parameter(torch.full((4,), 2.0))

    @tessera.function
    def scaled(x: Tensor["B", "D"]) -> Tensor["B", "D"]:
        return x * weight

    for _ in range(2):
        with torch.no_grad():
            for _ in range(4):
                assert not scaled(X).requires_grad
        for _ in range(4):
            (g,) = torch.autograd.grad(scaled(X).sum(), weight)
            torch.testing.assert_close(g, X.sum(0))


def test_tensors_of_inference_mode_in_training() -> None:
    with torch.inference_mode():
        x = X * 1
    _, w = given()
    for _ in range(3):
        same(lambda f: torch.autograd.grad(f(X, w).sum(), w))
        same(lambda f: torch.autograd.grad(f(x, w).sum(), w))
    assert not rms_norm(x, W).is_inference()


def test_backward_in_another_thread() -> None:
    x, w = given()

    def use(f: Any) -> Any:
        y, found = number(f)(x, w), []
        thread = threading.Thread(target=lambda: found.append(torch.autograd.grad(y, (x, w))))
        thread.start()
        thread.join()
        return found[0]

    same(use)


def test_second_and_third_derivatives() -> None:
    x, w = given()

    def second(f: Any) -> Any:
        found = torch.autograd.grad(number(f)(x * 2, w * 1), (x, w), create_graph=True)
        total = sum(g.square().sum() for g in found)
        with torch.no_grad():
            return torch.autograd.grad(total, (x, w))

    def third(f: Any) -> Any:
        (a,) = torch.autograd.grad(number(f)(x, w), x, create_graph=True)
        (b,) = torch.autograd.grad(a.square().sum(), x, create_graph=True)
        return torch.autograd.grad(b.sum(), w)

    same(second)
    same(third)


def test_hooks() -> None:
    def use(f: Any) -> Any:
        x, w = given()
        seen: list[Any] = []
        y = f(x, w)
        y.register_hook(lambda g: seen.append(g.clone()) or 2 * g)
        x.register_hook(lambda g: seen.append(g.clone()))
        x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
        y.sum().backward()
        return [*seen, x.grad, w.grad]

    same(use)


def test_accumulation_and_a_graph_kept() -> None:
    def use(f: Any) -> Any:
        x, w = given()
        for _ in range(3):
            number(f)(x, w).backward()
        y = number(f)(x, w)
        first = torch.autograd.grad(y, x, retain_graph=True)
        second = torch.autograd.grad(y, x)
        with pytest.raises(RuntimeError, match="second time"):
            torch.autograd.grad(y, x)
        return [x.grad, w.grad, *first, *second]

    same(use)


def test_saved_tensors_go_through_hooks() -> None:
    x, w = given()
    packed: list[torch.Tensor] = []

    def pack(t: torch.Tensor) -> torch.Tensor:
        packed.append(t)
        return t.clone()

    def use(f: Any) -> Any:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
            y = number(f)(x, w)
        with torch.autograd.graph.save_on_cpu():
            z = number(f)(x, w)
        return torch.autograd.grad(y, (x, w)), torch.autograd.grad(z, (x, w))

    same(use)
    assert packed


@pytest.mark.parametrize("again", [False, True])
def test_checkpoint_around(again: bool) -> None:
    x, w = given()

    def use(f: Any) -> Any:
        y = checkpoint(f, x, w, use_reentrant=False).sin().sum()
        found = torch.autograd.grad(y, (x, w), create_graph=again)
        return torch.autograd.grad(found[0].square().sum(), (x, w)) if again else found

    same(use)


def test_a_change_in_place_between_forward_and_backward_is_seen() -> None:
    x, w = given()
    h = x * 1
    y = rms_norm(h, w)
    h.data.numel()
    h.add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        y.sum().backward()


def test_data_parallel_over_one_process(tmp_path: Path) -> None:
    class Model(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = torch.nn.Parameter(W.clone())

        def forward(self, x: Any) -> Any:
            return rms_norm(x, self.w)

    dist.init_process_group("gloo", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1)
    try:
        model = Model()
        torch.nn.parallel.DistributedDataParallel(model)(X).sin().sum().backward()
    finally:
        dist.destroy_process_group()
    (want,) = torch.autograd.grad(number(rms_norm.eager)(X, model.w), model.w)
    torch.testing.assert_close(model.w.grad, want)
