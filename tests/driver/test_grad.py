"""``tessera.grad`` and ``value_and_grad``: against ``torch.func``, compiled, composed, and what they refuse."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch

import tessera
from tessera import DTypeError, ShapeError, Tensor, TesseraError, TraceError
from tessera.diag import CallError

FUNC = torch.func


def loss(w: Tensor["D"], x: Tensor["B", "D"]) -> Any:
    return ((x * w).sum(-1) ** 2).mean()


def net(p: Any, x: Any, y: Any) -> Any:
    out = torch.tanh(x @ p["w1"] + p["b1"]) @ p["rest"][0]
    return ((out - y) ** 2).mean(), {"out": out, "name": "net"}


def scanned(w: Any, xs: Any) -> Any:
    last, _ = tessera.scan(lambda c, row: (torch.tanh(c * w + row), None), torch.zeros(4), xs)
    return last.sum()


def updated(w: Any, x: Any) -> Any:
    y = x * 1.0
    y[0] *= w
    y.add_(w.square())
    return (y * w).sum()


@pytest.fixture
def given() -> tuple[torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(0)
    return torch.randn(4, generator=make), torch.randn(3, 4, generator=make)


def params() -> tuple[Any, torch.Tensor, torch.Tensor]:
    make = torch.Generator().manual_seed(1)
    p = {"w1": torch.randn(4, 8, generator=make), "b1": torch.zeros(8), "rest": [torch.randn(8, 2, generator=make)]}
    return p, torch.randn(3, 4, generator=make), torch.randn(3, 2, generator=make)


@pytest.mark.parametrize("f", [loss, scanned, updated, tessera.function(loss)], ids=["plain", "scan", "update", "own"])
@pytest.mark.parametrize("argnums", [0, 1, -1, (0, 1), (1,)], ids=str)
def test_gradients_are_those_of_torch(f: Any, argnums: Any, given: Any) -> None:
    gradient = tessera.grad(f, argnums)
    want = FUNC.grad(getattr(f, "eager", f), argnums)(*given)
    torch.testing.assert_close(gradient(*given), want, rtol=1e-5, atol=1e-5)
    value, found = tessera.value_and_grad(f, argnums)(*given)
    torch.testing.assert_close((value, found), (f(*given), want), rtol=1e-5, atol=1e-5)
    assert gradient.cache_info().eager == 0


def test_shapes_are_proved_where_the_gradient_is_asked_for() -> None:
    gradient = tessera.grad(loss)
    assert gradient.check().verdict == "proved" and gradient.__name__ == "loss_grad"
    assert "fn loss_grad(w: f32[D], x: f32[B, D]) -> f32[D]" in gradient.ir("fused")


def test_structures_and_something_beside_the_number() -> None:
    p, x, y = params()
    (value, aux), found = tessera.value_and_grad(net, has_aux=True)(p, x, y)
    want, (number, beside) = FUNC.grad_and_value(lambda p, x, y: (net(p, x, y)[0], net(p, x, y)[1]["out"]),
                                                 has_aux=True)(p, x, y)  # fmt: skip
    torch.testing.assert_close(found, want)
    torch.testing.assert_close((value, aux["out"]), (number, beside))
    assert aux["name"] == "net"
    torch.testing.assert_close(tessera.grad(net, has_aux=True)(p, x, y)[0], want)


def test_a_number_among_the_arguments(given: Any) -> None:
    def scaled(w: Tensor["D"], scale: float = 2.0, *, power: int = 2) -> Any:
        return (w**power).sum() * scale

    gradient = tessera.grad(scaled)
    w, _ = given
    for kwargs in ({}, {"scale": 3.0}, {"power": 3}):
        torch.testing.assert_close(gradient(w, **kwargs), FUNC.grad(scaled)(w, **kwargs))


def test_derivatives_of_derivatives(given: Any) -> None:
    third = tessera.grad(tessera.grad(tessera.grad(lambda x: x**4)))
    assert third(torch.tensor(2.0)).item() == 48.0 and third.cache_info().eager == 0

    def penalty(grad: Callable[..., Any]) -> Callable[..., Any]:
        return lambda w, x: (grad(loss)(w, x) ** 2).sum()

    torch.testing.assert_close(tessera.grad(penalty(tessera.grad))(*given), FUNC.grad(penalty(FUNC.grad))(*given))
    assert tessera.grad(lambda x: x * tessera.grad(lambda y: x * y)(x))(torch.tensor(3.0)).item() == 6.0


def test_inside_of_a_function_and_of_blocks_without_gradients(given: Any) -> None:
    @tessera.function(strict=True)
    def step(w: Tensor["D"], x: Tensor["B", "D"]) -> Tensor["D"]:
        with torch.no_grad():
            return w - 0.1 * tessera.grad(loss)(w, x)

    w, x = given
    want = w - 0.1 * FUNC.grad(loss)(w, x)
    torch.testing.assert_close(step(w, x), want)
    with torch.no_grad():
        torch.testing.assert_close(tessera.grad(loss)(w, x), FUNC.grad(loss)(w, x))
        torch.testing.assert_close(step.eager(w, x), want)


def test_the_result_is_differentiable(given: Any) -> None:
    w, x = given[0].requires_grad_(), given[1]
    gradient = tessera.grad(loss)
    for _ in range(3):
        (found,) = torch.autograd.grad(gradient(w, x).square().sum(), w)
        (want,) = torch.autograd.grad(FUNC.grad(loss)(w, x).square().sum(), w)
        torch.testing.assert_close(found, want)
    assert gradient.cache_info().eager == 0


def test_what_runs_eagerly_gives_the_same(given: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    w, x = given
    gradient, both = tessera.grad(loss), tessera.value_and_grad(loss)
    want = FUNC.grad(loss)(w, x)
    with tessera.backend("eager"):
        torch.testing.assert_close(gradient(w, x), want)
        torch.testing.assert_close(both(w, x), (loss(w, x), want))
    stacked = torch.stack([x, 2 * x])
    every = FUNC.vmap(FUNC.grad(loss), (None, 0))(w, stacked)
    torch.testing.assert_close(FUNC.vmap(gradient, (None, 0))(w, stacked), every)


def test_a_method_with_its_object(given: Any) -> None:
    class Scaled:
        def __init__(self) -> None:
            self.by = 2.0

        @tessera.function
        def __call__(self, x: Tensor["D"]) -> Any:
            return (x * x * self.by).sum()

    w, _ = given
    scaled = Scaled()
    gradient = tessera.grad(scaled.__call__)
    torch.testing.assert_close(gradient(w), 4 * w)
    scaled.by = 3.0
    torch.testing.assert_close(gradient(w), 6 * w)


def test_what_helpers_read_is_watched(given: Any) -> None:
    table = {"by": 2.0}

    def helper(x: Any) -> Any:
        return x * table["by"]

    gradient = tessera.grad(lambda x: helper(x).sum())
    assert gradient(given[0])[0].item() == 2.0
    table["by"] = 5.0
    assert gradient(given[0])[0].item() == 5.0


def test_pickle_and_copy(given: Any) -> None:
    gradient = tessera.grad(loss, (0, 1))
    again = pickle.loads(pickle.dumps(gradient))
    torch.testing.assert_close(again(*given), gradient(*given))
    torch.testing.assert_close(copy.deepcopy(gradient)(*given), gradient(*given))


def doubled(w: Tensor["D"]) -> Any:
    return w * 2


def nudged(w: Tensor["D"], y: Tensor["D"]) -> Any:
    return torch.nextafter(w, y).sum()


def counted(w: Tensor["D"]) -> Any:
    return (w > 0).sum()


def by_integers(rows: Tensor["N", tessera.int64], w: Tensor["V"]) -> Any:
    return w[rows].sum()


def writes(w: Tensor["D"]) -> Any:
    w.mul_(2.0)
    return w.sum()


@pytest.mark.parametrize(
    ("ask", "error", "code", "text"),
    [
        (lambda: tessera.grad(doubled), ShapeError, "TSR0220", "w * 2"),
        (lambda: tessera.grad(nudged), TraceError, "TSR0413", "torch.nextafter(w, y)"),
        (lambda: tessera.grad(counted), DTypeError, "TSR0308", "(w > 0).sum()"),
        (lambda: tessera.grad(by_integers), DTypeError, "TSR0308", "tessera.grad(by_integers)"),
        (lambda: tessera.grad(writes), TraceError, "TSR0403", "w.mul_(2.0)"),
        (lambda: tessera.grad(loss, 2), CallError, "TSR0114", "tessera.grad(loss, 2)"),
        (lambda: tessera.grad(loss, True), CallError, "TSR0114", "tessera.grad(loss, True)"),
        (lambda: tessera.grad(loss, has_aux=True), ShapeError, "TSR0220", "loss"),
        (lambda: tessera.grad(loss)(torch.ones(2), torch.ones(3, 4)), ShapeError, "TSR0107", "loss"),
        (lambda: tessera.grad(lambda w: w * 3)(torch.ones(2)), ShapeError, "TSR0220", "w * 3"),
        (lambda: tessera.grad(lambda n, w: w.sum() * n)(2, torch.ones(2)), DTypeError, "TSR0308", "tessera.grad"),
        (lambda: tessera.grad(torch.nn.Linear(2, 1)), TraceError, "TSR0409", "forward"),
    ],
    ids=lambda x: x if isinstance(x, str) and x.startswith("TSR") else "",
)
def test_refusals(ask: Callable[[], Any], error: type[TesseraError], code: str, text: str) -> None:
    with pytest.raises(error) as caught:
        ask()
    assert caught.value.code == code and text in str(caught.value)
