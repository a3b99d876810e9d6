"""Sums along both axes of the same products, in one stream."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor
from tessera.ir import graph
from tessera.ir.graph import walk
from tessera.ir.interp import interpret
from tessera.schedule.plan import Kernel

Function = Callable[..., torch.Tensor]


def causal(q, k, v):  # type: ignore[no-untyped-def]
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def full(q, k, v):  # type: ignore[no-untyped-def]
    return torch.softmax(q @ k.mT * 0.3, -1) @ v


def shared(q, k, v):  # type: ignore[no-untyped-def]
    k, v = k.repeat_interleave(3, 1), v.repeat_interleave(3, 1)
    return torch.softmax(q @ k.mT, -1) @ v


def linear(q, k, v):  # type: ignore[no-untyped-def]
    return torch.tril(torch.ones(q.shape[-2], k.shape[-2])) * torch.tanh(q @ k.mT) @ v


def turned(q, k, v):  # type: ignore[no-untyped-def]
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    return causal(q, k, v).transpose(1, 2)


def given(q, k, v, bias):  # type: ignore[no-untyped-def]
    return torch.softmax(q @ k.mT + bias, -1) @ v


def gradients(function: Function, args: Sequence[torch.Tensor], weight: torch.Tensor) -> list[torch.Tensor]:
    leaves = [x.detach().clone().requires_grad_() for x in args]
    out = function(*leaves)
    return list(torch.autograd.grad(out, leaves, weight.to(out.dtype)))


def backward(function: Any) -> list[Kernel]:
    (found,) = function.compiled.all()[-1].gradients.values()
    return [s for s in found.backward.program.steps if isinstance(s, Kernel)]


def added(kernels: Sequence[Kernel]) -> int:
    return sum(op.name == "accumulate" for k in kernels for op in walk(k.function.body))


SHAPES = [(2, 3, 64, 16), (4, 6, 33, 7), (2, 3, 130, 40), (2, 3, 700, 33), (3, 3, 2, 5)]


@pytest.mark.parametrize("name", ["causal", "full", "linear", "turned", "shared"])
def test_gradients_are_those_of_float64(name: str) -> None:
    torch.manual_seed(0)
    function = globals()[name]
    compiled = tessera.function(function)
    for batch, heads, rows, width in SHAPES:
        q = torch.randn(batch, heads, rows, width)
        few = heads // 3 if name == "shared" else heads
        k, v = (torch.randn(batch, few, rows, width) for _ in range(2))
        if name == "turned":
            q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))
        weight = torch.randn(q.shape)
        ours = gradients(compiled, (q, k, v), weight)
        exact = gradients(function, [x.double() for x in (q, k, v)], weight)
        eager = gradients(function, (q, k, v), weight)
        for a, t, e in zip(ours, exact, eager, strict=True):
            assert float((a - t).norm()) <= 1.3 * float((e - t).norm()) + 1e-6 * float(t.norm()) + 1e-6
    for found in compiled.compiled.all():
        for gradient in found.gradients.values():
            kernels = gradient.backward.program.kernels
            assert [k.form for k in kernels].count("stream") == 1 and added(kernels) == 1


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_other_floats(dtype: torch.dtype) -> None:
    torch.manual_seed(1)
    args = [torch.randn(2, 3, 75, 24, dtype=dtype) for _ in range(3)]
    weight, compiled = torch.randn(2, 3, 75, 24, dtype=dtype), tessera.function(causal)
    exact = gradients(causal, [x.double() for x in args], weight)
    tolerance = 1e-13 if dtype is torch.float64 else 2 * torch.finfo(dtype).eps
    for a, t in zip(gradients(compiled, args, weight), exact, strict=True):
        assert float((a.double() - t).norm()) <= tolerance * float(t.norm())
    assert added(backward(compiled)) == 1


def test_bits_do_not_depend_on_threads_nor_on_the_run() -> None:
    torch.manual_seed(2)
    # The kernels of the first test here: with a batch of 1 they would be others.
    args, weight = [torch.randn(2, 3, 600, 32) for _ in range(3)], torch.randn(2, 3, 600, 32)
    compiled, before = tessera.function(causal), torch.get_num_threads()
    try:
        found = []
        for count in (1, 2, 2):
            torch.set_num_threads(count)
            found.append(gradients(compiled, args, weight))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_what_the_rows_give_as_a_whole_keeps_two_streams() -> None:
    """The derivative of a bias is as large as the scores, which are stored then."""
    torch.manual_seed(3)
    args = [*(torch.randn(2, 3, 70, 20) for _ in range(3)), torch.randn(70, 70)]
    weight, compiled = torch.randn(2, 3, 70, 20), tessera.function(given)
    exact = gradients(given, [x.double() for x in args], weight)
    for a, t in zip(gradients(compiled, args, weight), exact, strict=True):
        torch.testing.assert_close(a.double(), t, rtol=1e-4, atol=1e-5)
    assert added(backward(compiled)) == 0


def stream() -> Kernel:
    """The stream that adds up over rows, in the derivative of an attention."""

    def typed(
        q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"]
    ) -> Tensor["B", "H", "S", "D"]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    compiled = tessera.function(typed)
    gradients(compiled, [torch.randn(1, 2, 64, 16) for _ in range(3)], torch.randn(1, 2, 64, 16))
    (found,) = (k for k in backward(compiled) if k.form == "stream")
    return found


def test_the_interpreter_agrees_with_the_operations() -> None:
    kernel = stream()
    assert kernel.region.body is not None and not kernel.scalars
    plain = graph.Function("plain", graph.Block(kernel.region.body.ops, kernel.inputs, kernel.region.results))
    generator = np.random.default_rng(4)
    for rows in (1, 5, 300, 600):
        sizes = {"B": 1, "H": 2, "S": rows, "D": 3}
        given = [generator.random([d.evaluate(sizes) for d in v.type.dims]) + 0.5 for v in kernel.inputs]
        found = (interpret(f, given, sizes=sizes) for f in (kernel.function, plain))
        for ours, true in zip(*found, strict=True):
            np.testing.assert_allclose(ours, true, rtol=1e-9, atol=1e-12)


def test_rows_are_shared_out_where_there_are_few_others() -> None:
    (walking,) = (nest for nest in stream().function.ops if nest.attrs.get("walk"))
    for shape, count in (((1, 2, 600), 2), ((1, 2, 4096), 8), ((4, 8, 4096), 1), ((1, 1, 7), 1)):
        pieces, *_, rows = (d.evaluate(dict(zip("BHS", shape, strict=True))) for d in walking.dims("extents"))
        assert pieces == count and rows * pieces >= shape[2] and rows % 32 == 0
