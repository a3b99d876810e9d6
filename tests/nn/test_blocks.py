"""Layers that torch does not have, against what they mean; initial values; functions."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from tessera import ModuleError, ShapeError, nn


def floats(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def rotated(x: torch.Tensor, base: float) -> torch.Tensor:
    """Each pair (i, i + D/2) as a complex number, turned by its angle."""
    half, size = x.shape[-1] // 2, x.shape[-2]
    speeds = base ** (-torch.arange(half, dtype=torch.float64) / half)
    angles = torch.arange(size, dtype=torch.float64)[:, None] * speeds
    pairs = torch.complex(x[..., :half].double(), x[..., half:].double())
    turned = pairs * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], -1)


def attention(layer: Any, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    """The layer in float64, head by head."""
    x = x.double()
    q, k, v, out = (copy.deepcopy(p).double() for p in (layer.q, layer.k, layer.v, layer.out))
    q, k, v = (p.forward.eager(x) for p in (q, k, v))
    size, found = layer.head_dim, []
    for head in range(layer.num_heads):
        shared = head // (layer.num_heads // layer.num_kv_heads)
        mine = q[..., head * size : (head + 1) * size]
        key, value = (y[..., shared * size : (shared + 1) * size] for y in (k, v))
        if layer.rope_base is not None:
            mine, key = rotated(mine, layer.rope_base), rotated(key, layer.rope_base)
        scores = mine @ key.mT / size**0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        if layer.causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        found.append(scores.softmax(-1) @ value)
    return out.forward.eager(torch.cat(found, -1))


@pytest.mark.parametrize(
    "options",
    [
        {"num_heads": 3},
        {"num_heads": 3, "rope_base": 100.0, "causal": False},
        {"num_heads": 6, "num_kv_heads": 2, "rope_base": 10000.0, "bias": True},
        {"num_heads": 2, "num_kv_heads": 1},
    ],
    ids=str,
)
def test_self_attention(options: dict[str, Any]) -> None:
    layer = nn.SelfAttention(12, **options).requires_grad_(False)
    x = floats(2, 5, 12)
    torch.testing.assert_close(layer(x), attention(layer, x).float(), rtol=1e-4, atol=1e-5)
    assert layer.forward.cache_info().eager == 0


@pytest.mark.parametrize("causal", [True, False])
def test_self_attention_with_a_mask(causal: bool) -> None:
    layer = nn.SelfAttention(8, 2, causal=causal).requires_grad_(False)
    x, mask = floats(2, 5, 8), torch.ones(5, 5, dtype=torch.bool)
    mask[:, 2] = False
    wanted = attention(layer, x, mask).float()
    torch.testing.assert_close(layer(x, mask), wanted, rtol=1e-4, atol=1e-5)
    added = torch.zeros(5, 5).masked_fill(~mask, -torch.inf)
    torch.testing.assert_close(layer(x, added), wanted, rtol=1e-4, atol=1e-5)


def test_heads_that_do_not_divide() -> None:
    with pytest.raises(ShapeError) as caught:
        nn.SelfAttention(10, 4)
    assert caught.value.code == "TSR0208" and "4 query heads and 4 key heads of a model of size 10" in str(caught.value)
    with pytest.raises(ShapeError, match="TSR0208"):
        nn.SelfAttention(12, 4, num_kv_heads=3)
    with pytest.raises(ShapeError, match="heads of size 3"):
        nn.SelfAttention(6, 2, rope_base=100.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_swiglu(dtype: torch.dtype) -> None:
    layer, x = nn.SwiGLU(12, bias=True).requires_grad_(False).to(dtype), floats(3, 5, 12).to(dtype)
    wanted = layer.down(F.silu(layer.gate(x)) * layer.up(x))
    torch.testing.assert_close(layer(x), wanted, rtol=2e-2 if dtype is torch.bfloat16 else 1e-4, atol=1e-2)
    assert list(layer.state_dict())[::2] == ["gate.weight", "up.weight", "down.weight"]
    assert [nn.SwiGLU(12, **of).hidden for of in ({}, {"multiple_of": 64}, {"hidden": 7})] == [32, 64, 7]


@pytest.mark.parametrize(("norm", "mlp"), [("rms", "swiglu"), ("layer", "gelu")])
def test_block(norm: str, mlp: str) -> None:
    block = nn.TransformerBlock(12, 2, norm=norm, mlp=mlp, dropout=0.5).requires_grad_(False).eval()
    x = floats(2, 5, 12)
    made = F.rms_norm if norm == "rms" else F.layer_norm
    normed = made(x, (12,), block.norm1.weight, eps=1e-6)
    half = x + attention(block.attn, normed).float()
    normed = made(half, (12,), block.norm2.weight, eps=1e-6)
    m = block.mlp
    inner = F.silu(normed @ m.gate.weight.T) * (normed @ m.up.weight.T) if mlp == "swiglu" else None
    inner = F.gelu(normed @ m.up.weight.T, approximate="tanh") if inner is None else inner
    torch.testing.assert_close(block(x), half + inner @ m.down.weight.T, rtol=1e-4, atol=1e-4)
    assert not torch.equal(block.train()(x), block(x))


def test_a_block_learns() -> None:
    block = nn.TransformerBlock(8, 2)
    x = floats(2, 3, 8).requires_grad_()
    block(x).square().sum().backward()
    assert x.grad is not None and all(p.grad is not None and p.grad.isfinite().all() for p in block.parameters())


def test_unknown_parts() -> None:
    with pytest.raises(ModuleError) as caught:
        nn.TransformerBlock(8, 2, norm="batch")
    assert caught.value.code == "TSR0113" and "`norm` is `batch`" in str(caught.value) and "`rms`" in str(caught.value)


def test_a_model_is_one_program_of_as_many_texts_as_it_has_kinds_of_layers() -> None:
    """Layers of the same sizes share their compiled code."""
    x, counts = floats(2, 3, 8), []
    for depth in (2, 4):
        model = nn.Sequential(*[nn.SwiGLU(8) for _ in range(depth)]).requires_grad_(False)
        native = model.forward.resolve(x).variant.native
        counts.append((len(native.kernels), native.text.count("(const i64 *a)")))
        wanted = x
        for layer in model:
            wanted = layer(wanted)
        torch.testing.assert_close(model(x), wanted)
    assert counts[0][0] < counts[1][0] and counts[0][1] == counts[1][1] <= counts[0][0]


def test_functions() -> None:
    x = floats(3, 5)
    torch.testing.assert_close(nn.swish(x, 2.0), x * torch.sigmoid(2 * x))
    torch.testing.assert_close(nn.swish(x, 0.0), x / 2)
    torch.testing.assert_close(nn.swish(x), F.silu(x))
    torch.testing.assert_close(nn.swish(x, 1e6), F.relu(x), atol=1e-6, rtol=0)
    torch.testing.assert_close(nn.l2_normalize(x, 0), F.normalize(x, dim=0))
    assert torch.equal(nn.l2_normalize(torch.zeros(2, 3)), torch.zeros(2, 3))
    torch.testing.assert_close(nn.log_softmax_stable(x * 1e4), F.log_softmax(x * 1e4, -1))


def test_initial_values() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Embedding(64, 48), nn.TransformerBlock(48, 4, bias=True), nn.Linear(48, 64))
    nn.init.decoder_(model, layers=8)
    table, block, head = model
    for weight in (table.weight, block.attn.q.weight, block.mlp.gate.weight, head.weight):
        assert abs(weight.std() - 0.02) < 0.002 and weight.abs().max() <= 0.06
    for weight in (block.attn.out.weight, block.mlp.down.weight):
        assert abs(weight.std() - 0.02 / 4) < 0.001
    assert not head.bias.any() and block.norm1.weight.eq(1).all()
    assert nn.init.kaiming_uniform_ is torch.nn.init.kaiming_uniform_


def test_rows_left_behind_two_tiles_of_a_product() -> None:
    """Twelve rows are a tile of eight, one of three and one more."""
    layer = nn.SwiGLU(12).requires_grad_(False)
    x = floats(12, 12)
    torch.testing.assert_close(layer(x), layer.down(F.silu(layer.gate(x)) * layer.up(x)), rtol=1e-4, atol=1e-5)
