"""``torch.autocast`` around and inside of functions: the dtypes of eager, and gradients in those of parameters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as nn

import tessera
from tessera import Tensor

F32 = tessera.f32
ZEROS = torch.zeros(3, 5)
LABELS = torch.zeros(3, dtype=torch.int64)


def _off_inside(x: Any, w: Any) -> Any:
    y = x @ w.mT
    with torch.autocast("cpu", enabled=False):
        z = y.float() @ y.float().mT
    return z @ y.float()


PROGRAMS: dict[str, Callable[..., Any]] = {
    "linear": lambda x, w: nn.linear(x, w),
    "operator": lambda x, w: x @ w.mT + 1,
    "vector": lambda x, w: x @ w[0],
    "einsum": lambda x, w: torch.einsum("bd,fd->bf", x, w),
    "bmm": lambda x, w: torch.bmm(x[None], w.mT[None]),
    "addmm": lambda x, w: torch.addmm(ZEROS, x, w.mT),
    "conv": lambda x, w: nn.conv1d(x[None], w[:3, :3, None]),
    "attention": lambda x, w: nn.scaled_dot_product_attention(x[None], x[None], x[None]) @ w.mT,
    "softmax after": lambda x, w: torch.softmax(x @ w.mT, -1).square(),
    "softmax before": lambda x, w: torch.softmax(x, -1) @ w.mT,
    "gelu": lambda x, w: nn.gelu(x @ w.mT),
    "exp and log": lambda x, w: (x @ w.mT).exp().log(),
    "power": lambda x, w: (x @ w.mT) ** 2,
    "sums": lambda x, w: (x @ w.mT).sum(-1, keepdim=True) * x.mean(),
    "product": lambda x, w: (x @ w.mT).prod(-1),
    "logsumexp": lambda x, w: (x @ w.mT).logsumexp(-1),
    "norm": lambda x, w: nn.rms_norm(x @ w.mT, (5,)),
    "cross entropy": lambda x, w: nn.cross_entropy(x @ w.mT, LABELS),
    "mean square": lambda x, w: nn.mse_loss(x @ w.mT, ZEROS),
    "joined": lambda x, w: torch.cat([x @ w.mT, ZEROS], 1),
    "promoted": lambda x, w: (x @ w.mT)[:, :4] * x,
    "off inside": _off_inside,
}


def given() -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    return torch.randn(3, 4, generator=make).requires_grad_(), torch.randn(5, 4, generator=make).requires_grad_()


#: A program of each kind of treatment: to run low, in float32, in the widest, and as a block inside says.
EACH_KIND = {"linear", "attention", "softmax after", "cross entropy", "joined", "off inside"}


def programs_and_dtypes() -> Iterator[Any]:
    """All programs in bfloat16; in float16, to which the same lists of operations apply, the others are nightly."""
    for name in PROGRAMS:
        yield pytest.param(name, torch.bfloat16, id=f"{name}-bfloat16")
        marks = () if name in EACH_KIND else pytest.mark.nightly
        yield pytest.param(name, torch.float16, id=f"{name}-float16", marks=marks)


@pytest.mark.parametrize(("name", "low"), tuple(programs_and_dtypes()))
def test_dtypes_are_those_of_eager(name: str, low: torch.dtype) -> None:
    f = tessera.function(PROGRAMS[name], strict=True)
    x, w = given()
    plain = f(x, w)
    with torch.autocast("cpu", low):
        y, z = f(x, w), f.eager(x, w)
    assert y.dtype == z.dtype
    size = 4 * torch.finfo(low).eps
    torch.testing.assert_close(y.float(), z.float(), rtol=size, atol=size * z.detach().abs().max().item())
    for g, p in zip(torch.autograd.grad(y.float().sum(), (x, w)), (x, w), strict=True):
        assert g.dtype == p.dtype
    torch.testing.assert_close(f(x, w), plain)  # and the mode left nothing behind
    assert f.cache_info().eager == 0


def test_the_warm_path_sees_the_mode() -> None:
    @tessera.function
    def product(x: Tensor["B", "D"], w: Tensor["F", "D"]) -> Tensor["B", "F"]:
        return x @ w.mT

    x, w = (t.detach() for t in given())
    for _ in range(3):
        for _ in range(3):
            assert product(x, w).dtype == torch.float32
        for low in (torch.bfloat16, torch.float16):
            with torch.autocast("cpu", low):
                for _ in range(3):
                    assert product(x, w).dtype == low
                with torch.autocast("cpu", enabled=False):
                    assert product(x, w).dtype == torch.float32


def test_a_definition_under_autocast_is_checked_without() -> None:
    with torch.autocast("cpu", torch.bfloat16):

        @tessera.function
        def declared(x: Tensor["B", "D", F32], w: Tensor["D", "F", F32]) -> Tensor["B", "F", F32]:
            return x @ w

    assert declared.check().verdict == "proved"


def test_gradients_as_functions_under_autocast() -> None:
    x, w = (t.detach() for t in given())
    with torch.autocast("cpu", torch.bfloat16):
        found = tessera.grad(lambda w: (x @ w.mT).float().square().mean())(w)
        want = torch.func.grad(lambda w: (x @ w.mT).float().square().mean())(w)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, want, rtol=2e-2, atol=2e-2)


def test_scaled_training_with_half_parameters() -> None:
    def train(f: Any) -> tuple[list[float], torch.Tensor]:
        torch.manual_seed(0)
        w = torch.nn.Parameter(0.5 * torch.randn(5, 4))
        x, y = torch.randn(16, 4).half(), torch.randn(16, 5)
        optimizer, scaler = torch.optim.SGD([w], lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**12)
        losses = []
        for _ in range(10):
            optimizer.zero_grad()
            with torch.autocast("cpu", torch.float16):
                loss = f(x, w, y)
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_([w], 1.0)
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.item())
        return losses, w.detach()

    @tessera.function(strict=True)
    def loss(x: Tensor["B", "D"], w: Tensor["F", "D"], y: Tensor["B", "F"]) -> Any:
        return nn.mse_loss(torch.tanh(nn.linear(x, w)), y)

    (found, w), (want, v) = train(loss), train(loss.eager)
    assert found[-1] < found[0]
    torch.testing.assert_close(found, want, rtol=5e-3, atol=5e-3)
    torch.testing.assert_close(w, v, rtol=2e-2, atol=2e-3)


def test_half_parameters_without_autocast() -> None:
    @tessera.function(strict=True)
    def loss(x: Tensor["B", "D"], w: Tensor["F", "D"]) -> Any:
        return nn.linear(x, w).float().square().mean()

    x, w = (t.detach().half() for t in given())
    w.requires_grad_()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    (found,) = torch.autograd.grad(scaler.scale(loss(x, w)), w)
    (want,) = torch.autograd.grad(scaler.scale(loss.eager(x, w)), w)
    assert found.dtype == torch.float16
    torch.testing.assert_close(found, want, rtol=2e-2, atol=1.0)


def test_inside_of_torch_compile() -> None:
    @tessera.function
    def product(x: Tensor["B", "D"], w: Tensor["F", "D"]) -> Tensor["B", "F"]:
        return x @ w.mT

    torch._dynamo.reset()
    x, w = given()

    def program(x: Any, w: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            y = product(x, w)
        return y, product(x, w)

    y, z = torch.compile(program, backend="aot_eager", fullgraph=True)(x, w)
    assert (y.dtype, z.dtype) == (torch.bfloat16, torch.float32)
    for g in torch.autograd.grad(y.float().sum() + z.sum(), (x, w)):
        assert g.dtype == torch.float32
    torch._dynamo.reset()
