"""The functional API: eager on torch tensors, with the same rules, names and gradients as inside a traced function."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tessera import functional as tf
from tessera.diag import TesseraError
from tessera.frontend.annotation import Tensor
from tessera.ir.dtype import bf16, int8
from tests.frontend.harness import agrees, checked, only

X = torch.randn(2, 6, generator=torch.Generator().manual_seed(0))


def test_functions_have_names_and_docs() -> None:
    assert len(tf.__all__) > 200
    for name in tf.__all__:
        f = getattr(tf, name)
        assert f.__name__ == name and f.__doc__ and f.__doc__.startswith(f"{name}("), name
    assert tf.softmax.__doc__ is not None and "dim" in tf.softmax.__doc__


@pytest.mark.parametrize(
    ("mine", "theirs"),
    [
        (lambda: tf.softmax(X, axis=-1), lambda: torch.softmax(X, -1)),
        (lambda: tf.mean(X, axis=1, keepdims=True), lambda: X.mean(1, keepdim=True)),
        (lambda: tf.exp(X), lambda: torch.exp(X)),
        (lambda: tf.matmul(X, X.T), lambda: X @ X.T),
        (
            lambda: tf.gather(torch.arange(12.0).reshape(6, 2), torch.tensor([1, 5])),
            lambda: torch.arange(12.0).reshape(6, 2)[[1, 5]],
        ),
        (lambda: tf.gather(X, torch.tensor([[0], [1]]), dim=1), lambda: X.gather(1, torch.tensor([[0], [1]]))),
        (lambda: tf.cast(X, bf16), lambda: X.bfloat16()),
        (lambda: tf.zeros(2, 3, dtype=int8), lambda: torch.zeros(2, 3, dtype=torch.int8)),
        (lambda: tf.zeros((2, 3)), lambda: torch.zeros(2, 3)),
        (lambda: tf.max(X, 1).values, lambda: X.max(1).values),
        (lambda: tf.cat([X, X], dim=1), lambda: torch.cat([X, X], 1)),
        (lambda: tf.where(X > 0, X, 0.0), lambda: torch.where(X > 0, X, 0.0)),
        (lambda: tf.arange(2, 8, 3), lambda: torch.arange(2, 8, 3)),
        (lambda: tf.einsum("ij,kj->ik", X, X), lambda: X @ X.T),
        (lambda: tf.clamp(X, min=0.1), lambda: X.clamp(min=0.1)),
    ],
)
def test_eager_means_torch(mine: Any, theirs: Any) -> None:
    for _ in range(2):  # the second time the shapes are known
        torch.testing.assert_close(mine(), theirs())


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (lambda: tf.chunk(X, 4, dim=1), "TSR0208"),
        (lambda: tf.squeeze(X, 0), "TSR0207"),
        (lambda: tf.matmul(X, X), "TSR0201"),
        (lambda: tf.add(X, torch.ones(5)), "TSR0202"),
        (lambda: tf.mean(torch.arange(3)), "TSR0301"),
    ],
)
def test_eager_has_the_same_rules(call: Any, code: str) -> None:
    with pytest.raises(TesseraError) as caught:
        call()
    assert caught.value.code == code
    assert caught.value.spans[0].file == __file__ and (caught.value.spans[0].text() or "").startswith("tf.")


def test_gradients_flow() -> None:
    x = X.clone().requires_grad_()
    (tf.cast(x, bf16).float().sum() + tf.softmax(x, dim=-1).square().sum()).backward()
    y = X.clone().requires_grad_()
    (y.bfloat16().float().sum() + torch.softmax(y, -1).square().sum()).backward()
    torch.testing.assert_close(x.grad, y.grad)


def rms(x: Tensor["B", "D"], w: Tensor["D"], eps: float = 1e-6) -> Tensor["B", "D"]:
    return x * tf.rsqrt(tf.mean(x**2, dim=-1, keepdim=True) + eps) * w


def reshaped(x: Tensor["B", "D"]) -> Any:
    y = tf.reshape(x * 1, (-1,))
    z = tf.transpose(tf.stack([x, x], dim=0), 0, 1)
    y[0] = 3.0
    return y, z, tf.zeros_like(x), tf.arange(x.shape[1]), tf.full((x.shape[0], 2), 1.5), tf.sum(x, axis=0)


def test_traced_and_eager_agree() -> None:
    agrees(rms, X, torch.ones(6))
    agrees(reshaped, X)
    assert checked(rms).verdict == "proved"


def test_faults_point_at_the_arguments() -> None:
    def f(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Any:
        return tf.maximum(x, other=y)

    found = only(f)
    assert found.code == "TSR0202" and [label.span.text() for label in found.labels] == ["x", "y"]


def test_values_of_a_finished_trace_are_refused() -> None:
    kept: list[Any] = []

    def f(x: Tensor["B"]) -> Any:
        kept.append(x)
        return x

    checked(f)
    for use in (lambda: tf.exp(kept[0]), lambda: kept[0] + 1, lambda: kept[0].sum()):
        with pytest.raises(TesseraError) as caught:
            use()
        assert caught.value.code == "TSR0406"
