"""Existing torch code traces unchanged and means the same: functions, methods, operators, factories, modules."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import tessera
from tessera.frontend.annotation import Tensor
from tests.frontend.harness import agrees, trace_call

X = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
W = torch.randn(5, 4, generator=torch.Generator().manual_seed(1))
M = torch.randn(4, 6, generator=torch.Generator().manual_seed(2))
IDS = torch.tensor([[0, 2, 1], [3, 3, 0]])

Case = tuple[str, Callable[..., Any], tuple[Any, ...]]


def attention(q: Tensor["B", "S", "D"], k: Tensor["B", "S", "D"], v: Tensor["B", "S", "D"]) -> Any:
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])
    mask = torch.tril(torch.ones(q.size(1), q.size(1), dtype=torch.bool))
    scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, dim=-1) @ v


def attention_scale(q: Tensor["B", "S", "D"], k: Tensor["B", "S", "D"]) -> Any:
    scale = q.shape[-1] ** -0.5
    return (torch.einsum("bsd,btd->bst", q, k) * scale).softmax(-1)


def heads(x: Tensor["B", "S", "D"]) -> Any:
    b, s, d = x.shape
    y = x.view(b, s, 2, d // 2).transpose(1, 2)
    return y.transpose(1, 2).contiguous().view(b, s, d) + y.permute(0, 2, 1, 3).reshape(b, s, -1)


def rope(x: Tensor["B", "S", "D"]) -> Any:
    _, s, d = x.shape
    inv = 1.0 / 10000 ** (torch.arange(0, d, 2).float() / d)
    angle = torch.outer(torch.arange(s).float(), inv)
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((a * angle.cos() - b * angle.sin(), a * angle.sin() + b * angle.cos()), -1).flatten(-2)


def dtypes(x: Tensor["B", "S", "D"]) -> Any:
    y = x.to(torch.float64)
    assert y.dtype == torch.float64 and x.dtype is torch.float32
    assert x.is_floating_point() and not x.is_cuda and x.device.type == "cpu"
    z = (x > 0).long().to(x.dtype).type_as(y)
    return y.float() + z + x.double().half().to(x)


def factories(x: Tensor["B", "S", "D"]) -> Any:
    s = x.shape[1]
    a = torch.ones(s, s) + torch.eye(s) + torch.zeros(s, dtype=x.dtype, device=x.device)
    b = torch.full((s, s), 2.0) * torch.arange(s) + torch.linspace(0, 1, 3)
    c = torch.tensor([1.0, 2.0, 3.0]) + torch.tensor(0.5)
    d = x.new_zeros(s, s) + torch.zeros_like(a) + torch.empty_like(a).fill_(1) + torch.ones((s, s))
    return a + b + c + d + torch.triu(torch.ones(s, s), diagonal=1)


def indexing(x: Tensor["B", "S", "D"], ids: Tensor["B", "S"]) -> Any:
    return (
        x[0], x[:, -1], x[..., 0], x[:, None, 1:], x[..., None], x[:, [0, 2]], x[x > 0].shape[0] if False else x.sum(),
        x.gather(2, ids.unsqueeze(-1)), x[:, 0:2][:, 1], x.index_select(1, torch.tensor([2, 0])), x[ids[0, 0] * 0],
    )  # fmt: skip


def reductions(x: Tensor["B", "S", "D"]) -> Any:
    values, indices = x.max(dim=-1)
    best = x.min(1)
    return (
        values, indices, best.values, best.indices, x.mean((0, 1)), x.var(-1), x.std(dim=1, keepdim=True), x.argmax(-1),
        x.norm(dim=-1), x.logsumexp(-1), x.cumsum(1), x.prod(-1), x.amax((1, 2)), x.sum(), torch.any(x > 1, dim=0),
    )  # fmt: skip


def layers(x: Tensor["B", "S", "D"], w: Tensor["F", "D"]) -> Any:
    y = F.linear(x, w)
    y = F.gelu(y, approximate="tanh") + F.relu(y) + F.silu(y) + F.leaky_relu(y, 0.1)
    y = F.layer_norm(y, (y.shape[-1],), eps=1e-6)
    return F.softmax(y, dim=-1), F.log_softmax(y, -1), F.normalize(y, dim=-1), F.dropout(y, 0.5, training=False)


def loss(x: Tensor["B", "S", "D"], ids: Tensor["B", "S"]) -> Any:
    logits = x.reshape(-1, x.shape[-1])
    return (
        F.cross_entropy(logits, ids.reshape(-1)),
        F.mse_loss(x, x * 2),
        F.nll_loss(logits.log_softmax(-1), ids.flatten()),
    )


def joins(x: Tensor["B", "S", "D"]) -> Any:
    a, b = x.chunk(2, dim=-1)
    c, d = torch.split(x, [1, 3], dim=-1)
    return (
        torch.cat([a, b, x], -1), torch.stack([a, b]), torch.cat((c, d), dim=2), x.repeat(1, 2, 1), x.flip(1),
        torch.where(x > 0, x, 0.0), x.roll(1, 1), x.tile(2), x.expand(2, -1, -1, -1), x.unflatten(2, (2, 2)),
    )  # fmt: skip


def numbers(x: Tensor["B", "S", "D"], eps: float = 1e-3, scale: float = 2.0) -> Any:
    return x * scale + eps, (x + eps).clamp(min=-eps), x * (1 - eps), x ** scale.__neg__() if False else -scale * x


def python_sizes(x: Tensor["B", "S", "D"]) -> Any:
    total = x[:, 0]
    for i in range(1, x.shape[1]):
        total = total + x[:, i] * i
    for part in x.unbind(1):
        total = total - part
    parts = [p.sum() for p in x.split(2, dim=1)]
    return total, torch.stack(parts), len(x), x.numel(), x.shape[2] // 2


def library(x: Tensor["B", "S", "D"]) -> Any:
    return (
        torch.special.zeta(x.abs() + 2, 2.0),
        torch.fft.rfft(x).abs() if False else x.lgamma(),
        x.mvlgamma(1) if False else x,
    )


def scalars_of_numpy(x: Tensor["B", "S", "D"]) -> Any:
    import numpy as np

    return x * np.float32(2.0) + np.sqrt(2.0), np.float64(math.pi) * x


def asks_for_classes(x: Tensor["B", "S", "D"], scale: float = 2.0) -> Any:
    """A wrong answer here would be silent: the other branch computes something else."""
    if not isinstance(x, torch.Tensor) or not torch.is_tensor(x):
        return x * 0
    if not isinstance(x.shape[0], int) or not isinstance(scale, float | int) or isinstance(x, list | str):
        return x * 1
    match x:
        case list():
            return x - 1
        case torch.Tensor():
            return x * scale
    return x + 1


def shapes_of_other_tensors(x: Tensor["B", "S", "D"]) -> Any:
    h = x.view(*x.shape[:-1], 2, -1).transpose(-3, -2)
    assert x.shape == (x.size(0), x.size(1), x.size(2)) and len(x.shape) == 3
    return h.flatten(-2), x.new_tensor([1.0]), math.prod(x.shape), x.masked_fill(x > 0, torch.finfo(x.dtype).min)


def any_number(*xs: Tensor["B", "S", "D"], **named: float) -> Any:
    return torch.cat(xs, dim=-1) * named.get("scale", 1.0)


CASES: tuple[tuple[Callable[..., Any], tuple[Any, ...]], ...] = (
    (attention, (X, X + 1, X - 1)), (attention_scale, (X, X * 2)), (heads, (X,)), (rope, (X,)), (dtypes, (X,)),
    (factories, (X,)), (indexing, (X, IDS)), (reductions, (X,)), (layers, (X, W)), (loss, (X, IDS)), (joins, (X,)),
    (numbers, (X,)), (numbers, (X, 0.5)), (python_sizes, (X,)), (library, (X,)), (asks_for_classes, (X,)),
    (shapes_of_other_tensors, (X,)), (any_number, (X, X + 1, X * 2)), (scalars_of_numpy, (X,)),
)  # fmt: skip


@pytest.mark.parametrize(("case", "args"), CASES, ids=lambda v: getattr(v, "__name__", ""))
def test_torch_code_means_the_same(case: Callable[..., Any], args: tuple[Any, ...]) -> None:
    agrees(case, *args)


class Pair(NamedTuple):
    a: Tensor["B", "S", "D"]
    b: Tensor["D"]


@dataclass
class State:
    x: Tensor["B", "S", "D"]
    step: int
    scale: float


def containers(
    pair: tuple[Tensor["B", "S", "D"], Tensor["D"]],
    named: Pair,
    state: State,
    many: list[Tensor["D"]],
    table: dict[str, Tensor["D"]],
) -> Any:
    a, b = pair
    total = a * b + named.a - named.b + state.x * state.scale * state.step
    for t in many:
        total = total + t
    return {"total": total, "named": Pair(named.b, named.a), "list": [table["w"] * 2, (total.sum(), None)], "n": 3}


def test_containers_are_taken_apart_and_put_together() -> None:
    v = torch.arange(4.0)
    agrees(containers, (X, v), Pair(X * 2, v + 1), State(X, 3, 0.5), [v, v * 2], {"w": v})


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4)
        self.up = nn.Linear(4, 6)
        self.register_buffer("shift", torch.ones(6))
        self.act = nn.GELU()

    def forward(self, x: Tensor["B", "S", "D"]) -> Any:
        y = self.act(self.up(self.norm(x))) + self.shift[:6]
        return y * self.up.weight.T.mean() + self.shift.shape[0]


def test_modules_bring_their_tensors_along() -> None:
    block = Block().eval()
    agrees(Block.forward, block, X)
    _, _, found = trace_call(Block.forward, block, X)
    captured = [s.captured for s in found.inputs if s.kind == "capture"]
    assert {id(t) for t in captured} == {
        id(t) for t in (block.norm.weight, block.norm.bias, block.up.weight, block.up.bias, block.shift)
    }


def test_random_numbers_take_a_seed() -> None:
    def noisy(x: Tensor["B", "S", "D"]) -> Any:
        return x + torch.rand_like(x) + torch.randn(x.shape[0], 1, 1)

    _, _, found = trace_call(noisy, X)
    assert [s.kind for s in found.inputs] == ["leaf", "seed"]


def test_ten_thousand_operations_are_no_recursion() -> None:
    def long(x: Tensor["B", "S", "D"]) -> Any:
        for _ in range(5000):
            x = x * 1.0
            x = x + 0.0
        return x

    _, _, found = trace_call(long, X)
    assert len(found.function.ops) == 10_000


def test_attributes_of_memory() -> None:
    @tessera.function(strict=True)
    def described(x: Tensor["N", "M"]) -> Any:
        return x.real * 2, x.nbytes, x.itemsize, x.is_cpu

    x = torch.randn(3, 4)
    got, want = described(x), described.eager(x)
    assert torch.equal(got[0], want[0]) and got[1:] == want[1:] == (48, 4, True)
