"""What the derivative of a function becomes: its kernels, what is kept for it, its text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor
from tessera.driver.gradient import Gradient
from tessera.ir.dim import Dim
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.printer import print_function
from tessera.ir.types import TensorType
from tessera.ir.verify import verify
from tessera.schedule.plan import Kernel, Program
from tests.gradients.compiled import check, derived, forms, leaves
from tests.ops.stream_programs import KS, VS, Q, positions


def rms_norm(x: Tensor["N", "D"], w: Tensor["D"]):
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * w


def layer_norm(x: Tensor["N", "D"], w: Tensor["D"], b: Tensor["D"]):
    return F.layer_norm(x, (x.shape[-1],), w, b)


def softmax(x: Tensor["N", "D"]):
    return torch.softmax(x, -1)


def gelu_linear(x: Tensor["N", "D"], w: Tensor["F", "D"], b: Tensor["F"]):
    return F.gelu(F.linear(x, w, b))


def cross_entropy(x: Tensor["N", "D"], t: Tensor["N", torch.int64]):
    return F.cross_entropy(x, t)


def matmul(x: Tensor["N", "D"], w: Tensor["D", "F"]):
    return x @ w


def elementwise(x: Tensor["N", "D"], y: Tensor["N", "D"]):
    return torch.tanh(x * y) + torch.sigmoid(x) * 2.0


def attention(q: Q, k: KS, v: VS):
    s = q @ k.mT * 0.125
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -torch.inf), -1) @ v


@dataclass(frozen=True)
class Built:
    """The forms of the kernels, the shapes that are kept, and those that the backward kernels write."""

    gradient: Gradient
    args: tuple[Any, ...]

    @property
    def forward(self) -> list[str]:
        return forms(self.gradient.forward.program)

    @property
    def backward(self) -> list[str]:
        return sorted(forms(self.gradient.backward.program))

    @property
    def kept(self) -> list[str]:
        return [str(v.type) for v in self.gradient.parts.kept]

    @property
    def written(self) -> list[TensorType]:
        return written(self.gradient.forward.program) + written(self.gradient.backward.program)


def written(program: Program) -> list[TensorType]:
    """The types of all buffers that kernels write, scratch among them."""
    kernels = [s for s in program.steps if isinstance(s, Kernel)]
    return [v.type for k in kernels for v in (*k.outputs, *k.temps) if isinstance(v.type, TensorType)]


def build(plain: Callable[..., Any], *sizes: tuple[int, ...]) -> Built:
    generator = torch.Generator().manual_seed(1)
    args: tuple[Any, ...] = tuple(torch.randn(s, generator=generator, requires_grad=True) for s in sizes)
    if plain is cross_entropy:
        args = (*args, torch.randint(0, sizes[0][1], sizes[0][:1], generator=generator))
    function = tessera.function(plain, strict=True)
    with tessera.backend("c"):
        results = leaves(function(*args))
        torch.autograd.grad(results, [x for x in args if x.requires_grad], [torch.ones_like(y) for y in results])
    (found,) = derived(function)
    return Built(found, args)


SHAPES: dict[Callable[..., Any], tuple[tuple[int, ...], ...]] = {
    rms_norm: ((8, 16), (16,)),
    layer_norm: ((8, 16), (16,), (16,)),
    softmax: ((8, 16),),
    gelu_linear: ((8, 16), (32, 16), (32,)),
    cross_entropy: ((8, 16),),
    matmul: ((8, 16), (16, 4)),
    elementwise: ((8, 16), (8, 16)),
    attention: ((2, 3, 32, 8), (2, 3, 32, 8), (2, 3, 32, 8)),
}


def test_a_norm_keeps_a_number_a_row_and_takes_one_kernel_each_way() -> None:
    found = build(rms_norm, *SHAPES[rms_norm])
    assert found.forward == ["row"] and found.backward == ["row"]
    assert found.kept == ["f32[N, 1]"]
    found = build(layer_norm, *SHAPES[layer_norm])
    assert found.forward == ["row"] and found.backward == ["row"]
    assert found.kept == ["f32[N, 1]", "f32[N, 1]"]


def test_softmax_keeps_no_array() -> None:
    found = build(softmax, *SHAPES[softmax])
    assert (found.forward, found.backward) == (["row"], ["row"])
    assert set(found.kept) <= {"f32[N, 1]"}


def test_an_activation_keeps_what_goes_into_it_once() -> None:
    found = build(gelu_linear, *SHAPES[gelu_linear])
    assert found.forward == ["stream"] and found.kept == ["f32[N, F]"]


def test_a_product_is_kept_rather_than_what_is_made_of_it() -> None:
    def spread(x: Tensor["N", "D"], w: Tensor["D", "V"]) -> Tensor["N"]:
        return torch.logsumexp(x @ w, -1)

    found = build(spread, (8, 16), (16, 40))
    large = [v for v in found.gradient.parts.kept if str(v.type) == "f32[N, V]"]
    assert [v.name for v in large] == ["matmul"]
    assert [str(t) for t in written(found.gradient.forward.program)].count("f32[N, V]") == 0, "the product alone"


def test_scaled_dot_product_attention_goes_back_in_one_stream() -> None:
    def causal(
        q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"]
    ) -> Tensor["B", "H", "S", "D"]:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)

    found = build(causal, *SHAPES[attention])
    assert found.forward == ["stream"]
    assert found.backward.count("stream") == 1 and {"extern", "contract", "matmul"}.isdisjoint(found.backward)
    assert not any(t.dims[-2:] == (Dim.name("S"), Dim.name("S")) for t in found.written)


def test_attentions_of_several_layers_have_a_mask_each() -> None:
    def layers(
        q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"]
    ) -> Tensor["B", "H", "S", "D"]:
        x = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return F.scaled_dot_product_attention(x, k, x, is_causal=True)

    found = build(layers, *SHAPES[attention])
    assert not any(t.dims[-2:] == (Dim.name("S"), Dim.name("S")) for t in found.written)


def test_products_and_elementwise_work_keep_arguments_alone() -> None:
    for plain in (matmul, elementwise):
        assert build(plain, *SHAPES[plain]).kept == []


def test_attention_is_never_an_array_of_scores() -> None:
    found = build(attention, *SHAPES[attention])
    assert found.forward == ["stream"] and found.backward == ["row", "stream"]
    assert set(found.kept) == {"f32[B, H, S, 1]"}
    for t in found.written:
        assert sum(str(d) == "S" for d in t.dims) <= 1, t


@pytest.mark.parametrize("plain", SHAPES, ids=lambda f: f.__name__)
def test_the_text_reads_back_and_the_interpreter_agrees(plain: Callable[..., Any]) -> None:
    built = build(plain, *SHAPES[plain])
    both, parts = built.gradient.joint, built.gradient.parts
    for f in (both.function, parts.forward, parts.backward):
        verify(f, level="full")
        assert parse(print_function(f)) == f
    wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in built.args]
    (y,) = leaves(plain(*wide))
    wrt = [x for x in wide if x.requires_grad]
    g = torch.randn(y.shape, dtype=torch.float64)
    want = torch.autograd.grad(y, wrt, g)
    arrays = [x.detach().numpy() for x in (*wide, g)]
    found = interpret(both.function, arrays, sizes=built.gradient.sizes)
    for n, w in zip((n for n in both.grads if n is not None), want, strict=True):
        np.testing.assert_allclose(found[n], w.numpy(), rtol=1e-6, atol=1e-7)
    made = interpret(parts.forward, arrays[:-1], sizes=built.gradient.sizes)
    known = dict(zip(parts.forward.params, arrays[:-1], strict=True))
    known |= dict(zip(parts.forward.outputs, made, strict=True))
    again = interpret(parts.backward, [*(known[v] for v in parts.saved), arrays[-1]], sizes=built.gradient.sizes)
    for one, other in zip(again, found[both.outputs :], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("plain", [rms_norm, gelu_linear, attention], ids=lambda f: f.__name__)
def test_the_cut_is_the_same_every_time(plain: Callable[..., Any]) -> None:
    texts = {print_function(build(plain, *SHAPES[plain]).gradient.parts.backward).partition("\n")[2] for _ in range(3)}
    assert len(texts) == 1


def variance(x: Tensor["N", "D"]):
    return torch.var(x, -1)


def from_another_mean(x: Tensor["N", "D"], y: Tensor["N", "D"]):
    return (x - y.mean(-1, keepdim=True)).square().sum(-1)


def weighted_distances(x: Tensor["N", "D"], w: Tensor["D"]):
    return ((x - x.mean(-1, keepdim=True)) * w).square().sum(-1)


@pytest.mark.parametrize(
    ("plain", "shapes", "sums"),
    [
        (layer_norm, SHAPES[layer_norm], 2), (variance, ((8, 16),), 0), (from_another_mean, ((8, 16), (8, 16)), 1),
        (weighted_distances, ((8, 16), (16,)), 1),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)  # fmt: skip
def test_distances_from_a_mean_are_not_added_up(
    plain: Callable[..., Any], shapes: tuple[tuple[int, ...], ...], sums: int
) -> None:
    built = build(plain, *shapes)
    made = [op for op in built.gradient.joint.function.ops if op.name == "sum" and op.origin.endswith(".grad")]
    assert len([op for op in made if op.axes() == (1,)]) == sums
    check(tessera.function(plain), built.args)


def test_a_distance_from_a_mean_along_another_axis_is_added_up() -> None:
    def spread(x: Tensor["S", "D"], y: Tensor["B", 1, "D"]) -> Tensor[()]:
        distance = x - x.mean(1, keepdim=True)
        return (distance * y).sum() + (y * y).sum()

    check(tessera.function(spread), (torch.randn(5, 7), torch.randn(3, 1, 7)), eager=spread)
