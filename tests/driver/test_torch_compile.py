"""Compiled functions inside of ``torch.compile``: one operation of the graph, or followed where it cannot be one."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter, EagerAndRecordGraphs

import tessera
from tessera import Tensor
from tessera.driver import opaque


@tessera.function
def rms_norm(x: Tensor["B", "D"], w: Tensor["D"], eps: float = 1e-6) -> Tensor["B", "D"]:
    return x * tessera.rsqrt(tessera.mean(x**2, dim=-1, keepdim=True) + eps) * w


@tessera.function
def several(x: Tensor["B", "D"], w: Tensor["D"], *, flip: bool = False) -> Any:
    y = -x * w if flip else x * w
    return y.sum(-1), {"top": y.detach().amax(), "name": "several", "halves": [y.chunk(1)[0] * 2, None]}


def loss(w: Tensor["D"], x: Tensor["B", "D"]) -> Any:
    return ((x * w).sum(-1) ** 2).mean()


gradient = tessera.grad(loss)


def program(x: Any, w: Any) -> Any:
    a = rms_norm(x * 1, w, 1e-3).tanh()
    b, rest = several(a, w, flip=True)
    assert rest["name"] == "several" and rest["halves"][1] is None
    return b.square().sum() + rest["top"] + rest["halves"][0].mean() + gradient(w, x).sum()


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def given(n: int = 3) -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(n)
    return torch.randn(n, 4, generator=make).requires_grad_(), torch.randn(4, generator=make).requires_grad_()


def test_one_graph_with_one_operation_for_each_call() -> None:
    recorder = EagerAndRecordGraphs()
    compiled = torch.compile(program, backend=recorder, fullgraph=True)
    x, w = given()
    torch.testing.assert_close(compiled(x, w), program(x, w))
    (graph,) = recorder.graphs
    called = [n.target for n in graph.graph.nodes if n.op == "call_function"]
    assert called.count(torch.ops.tessera.call) == 3
    assert not any("mean" in str(t) or "rsqrt" in str(t) for t in called[:2])


@pytest.mark.parametrize("dynamic", [False, True])
def test_gradients(dynamic: bool) -> None:
    compiled = torch.compile(program, backend="aot_eager", fullgraph=True, dynamic=dynamic)
    for n in (3, 5):
        x, w = given(n)
        found = torch.autograd.grad(compiled(x, w), (x, w))
        torch.testing.assert_close(found, torch.autograd.grad(program(x, w), (x, w)), rtol=1e-4, atol=1e-5)
    eager = rms_norm.cache_info().eager + several.cache_info().eager
    assert eager == 0


@tessera.function
def bent(x: Tensor["N"], w: Tensor["N"]) -> Tensor["N"]:
    return torch.tanh(x * w) * x


def test_derivatives_of_derivatives() -> None:
    """Where torch records the graph itself; compiled together with its derivative it has no second one, of no code."""

    def curved(x: Any, w: Any) -> Any:
        return bent(x, w * x).sum() + bent(w, x).square().sum()

    def thrice(f: Callable[..., Any], x: torch.Tensor, w: torch.Tensor) -> list[torch.Tensor]:
        found = [f(x, w)]
        for _ in range(3):
            found.append(torch.autograd.grad(found[-1].sum(), x, create_graph=True)[0])
        return [*found, *torch.autograd.grad(found[-1].sum(), (x, w))]

    given = [torch.randn(5, dtype=torch.float64).requires_grad_() for _ in range(2)]
    compiled = torch.compile(curved, backend="eager", fullgraph=True)
    torch.testing.assert_close(thrice(compiled, *given), thrice(curved, *given))
    joint = torch.compile(curved, backend="aot_eager", fullgraph=True)
    with pytest.raises(RuntimeError, match="does not currently support double backward"):
        thrice(joint, *given)


def test_sizes_stay_open() -> None:
    counter = CompileCounter()
    compiled = torch.compile(program, backend=counter, fullgraph=True, dynamic=True)
    for n in (3, 5, 7):
        x, w = given(n)
        torch.testing.assert_close(compiled(x, w), program(x, w))
    assert counter.frame_count == 1


def test_sizes_that_python_asks_for() -> None:
    @tessera.function
    def unrolled(x: Tensor["B", "D"]) -> Tensor["D"]:
        total = x[0] * 0
        for n in range(x.shape[0]):
            total = total + x[n] * n
        return total

    compiled = torch.compile(lambda x: unrolled(x) * 2, backend="aot_eager", fullgraph=True)
    for n in (3, 5, 3):
        x, _ = given(n)
        torch.testing.assert_close(compiled(x), unrolled(x) * 2)


def test_dtypes_follow_the_arguments() -> None:
    compiled = torch.compile(lambda x, w: rms_norm(x, w), backend="aot_eager", fullgraph=True)
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        x, w = (t.detach().to(dtype) for t in given())
        y = compiled(x, w)
        assert y.dtype == dtype
        torch.testing.assert_close(y, rms_norm(x, w))


def test_opcheck() -> None:
    compiled = torch.compile(program, backend="eager", fullgraph=True)
    x, w = given()
    compiled(x, w)
    mine = [(k, s) for k, s in opaque._sites.items() if s.function in (rms_norm, several)]
    assert mine
    for key, site in mine:
        numbers = [1e-3] * site.how.count(opaque.NUMBER)
        torch.library.opcheck(torch.ops.tessera.call.default, ([x, w], numbers, key))
        cotangents = [torch.randn_like(y) for y in site.run([x, w], numbers)]
        plain = [x.detach(), w.detach()]
        torch.library.opcheck(torch.ops.tessera.call_backward.default, (plain, numbers, key, cotangents, [True, False]))


def _shares(x: Tensor["B", "D"]) -> Any:
    return x.mT


def _gives_a_size(x: Tensor["B", "D"]) -> Any:
    return x * 2, x.shape[0]


def _draws(x: Tensor["B", "D"]) -> Any:
    return torch.nn.functional.dropout(x, 0.0)


def _undeclared(x) -> Any:  # type: ignore[no-untyped-def]
    return x * 2


WEIGHT = torch.full((4,), 2.0)


def _captures(x: Tensor["B", "D"]) -> Any:
    return x * WEIGHT


def _takes_a_list(x: list[Tensor["B", "D"]]) -> Any:
    return x[0] * 2


@pytest.mark.parametrize(
    "f", [_shares, _gives_a_size, _draws, _undeclared, _captures, _takes_a_list], ids=lambda f: f.__name__
)
def test_what_is_no_operation_is_followed(f: Callable[..., Any]) -> None:
    own = tessera.function(f)
    recorder = EagerAndRecordGraphs()
    x, _ = given()
    x = [x] if f is _takes_a_list else x  # type: ignore[assignment]
    first = lambda found: found[0] if isinstance(found, tuple) else found  # noqa: E731
    y = first(torch.compile(lambda x: own(x), backend=recorder, fullgraph=True)(x))
    torch.testing.assert_close(y, first(f(x)))
    assert not any("tessera" in str(n.target) for g in recorder.graphs for n in g.graph.nodes)


TRANSFORMS: dict[str, Callable[..., Any]] = {
    "grad": lambda f, x, w: torch.func.grad(lambda x: f(x, w).square().sum())(x),
    "vmap": lambda f, x, w: torch.func.vmap(f, (0, None))(torch.stack([x, 2 * x]), w),
    "jvp": lambda f, x, w: torch.func.jvp(lambda x: f(x, w), (x,), (2 * x,)),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_follow_the_function(name: str) -> None:
    @tessera.function
    def layer(x: Tensor["B", "D"], w: Tensor["D"]) -> Tensor["B", "D"]:
        return torch.softmax(x * w, -1) * x

    x, w = (t.detach() for t in given())
    compiled = torch.compile(lambda x, w: TRANSFORMS[name](layer, x, w), backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x, w), TRANSFORMS[name](layer.eager, x, w), rtol=1e-5, atol=1e-5)
    plain = torch.compile(lambda x, w: layer(x, w) * 2, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(plain(x, w), layer.eager(x, w) * 2)


def test_no_gradients_are_recorded_where_none_are_asked_for() -> None:
    compiled = torch.compile(lambda x, w: rms_norm(x * 1, w), backend="aot_eager", fullgraph=True)
    x, w = given()
    with torch.no_grad():
        assert not compiled(x, w).requires_grad
    with torch.inference_mode():
        assert compiled(x, w).is_inference()
    assert compiled(x, w).requires_grad


def test_export_follows_the_function() -> None:
    class Model(torch.nn.Module):
        def forward(self, x: Any, w: Any) -> Any:
            return rms_norm(x, w) + 1

    x, w = (t.detach() for t in given())
    exported = torch.export.export(Model(), (x, w))
    assert not any("tessera" in str(n.target) for n in exported.graph.nodes)
    torch.testing.assert_close(exported.module()(x, w), rms_norm(x, w) + 1)
