"""The kernels of models against float64 closed forms on the same rounded inputs, edges included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import BoundsError, ShapeError, Tensor
from tessera.ops import kernels as K
from tests.kernels.given import f, ints

#: Relative and absolute bounds of results that are rounded once, by dtype.
BOUNDS = {
    torch.float64: (1e-12, 1e-12), torch.float32: (1e-5, 1e-6), torch.bfloat16: (2**-8, 1e-6),
    torch.float16: (2**-11, 1e-6),
}  # fmt: skip


def close(found: torch.Tensor, wanted: torch.Tensor, dtype: torch.dtype, atol: float = 0.0) -> None:
    assert found.dtype is dtype
    rtol, least = BOUNDS[dtype]
    torch.testing.assert_close(found.double(), wanted.double(), rtol=rtol, atol=max(least, atol), equal_nan=True)


def unchanged(kernel: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """The result of a kernel, which leaves its inputs alone and is the same to the bit once more."""
    before = [a.clone() if isinstance(a, torch.Tensor) else a for a in args]
    found = kernel(*args, **kwargs)
    for a, b in zip(args, before, strict=True):
        assert not isinstance(a, torch.Tensor) or torch.equal(a.nan_to_num(), b.nan_to_num())
    assert torch.equal(found.nan_to_num(), kernel(*args, **kwargs).nan_to_num())
    return found


# -- rows


def rms(x: torch.Tensor, w: torch.Tensor, eps: float) -> torch.Tensor:
    x, w = x.double(), w.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * w


@pytest.mark.parametrize("dtype", BOUNDS)
@pytest.mark.parametrize("shape", [(0, 5), (1, 1), (31, 7), (32, 13), (33, 257), (2, 3, 16)])
def test_rms_norm(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    x, w = (f(*shape) * 3).to(dtype), f(shape[-1])
    close(unchanged(K.rms_norm_kernel, x, w), rms(x, w, 1e-6), dtype)


def test_rms_norm_at_its_edges() -> None:
    x = f(5, 8)
    x[1], x[2, 3], x[3, 0] = 0, torch.nan, torch.inf
    y = K.rms_norm_kernel(x, torch.ones(8), eps=0.0)
    assert torch.equal(y[1], torch.zeros(8))
    close(y[[0, 4]], rms(x, torch.ones(8), 0.0)[[0, 4]], torch.float32)
    assert y[2].isnan().all() and y[3, 0].isnan() and torch.equal(y[3, 1:], torch.zeros(7))
    assert K.rms_norm_kernel(torch.full((1, 4), 300.0).half(), torch.ones(4)).tolist() == [[1.0] * 4]
    with pytest.raises(ShapeError):
        K.rms_norm_kernel(f(3, 0), f(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [(1, 1, 2), (5, 3, 8), (33, 2, 6)])
def test_rotary_embedding(sizes: tuple[int, int, int], dtype: torch.dtype) -> None:
    s, h, d = sizes
    x, angle = f(2, s, h, d).to(dtype), f(s, d // 2) * 3
    cos, sin = angle.cos(), angle.sin()
    a, b = x.double().chunk(2, -1)
    c, t = cos.double()[:, None], sin.double()[:, None]
    wanted = torch.cat([a * c - b * t, a * t + b * c], -1)
    close(unchanged(K.rotary_embedding_kernel, x, cos, sin), wanted, dtype)
    back = K.rotary_embedding_kernel(K.rotary_embedding_kernel(x.float(), cos, sin), cos, -sin)
    torch.testing.assert_close(back, x.float())


def test_rotary_embedding_of_an_odd_width() -> None:
    with pytest.raises(ShapeError):
        K.rotary_embedding_kernel(f(3, 2, 5), f(3, 2), f(3, 2))


# -- tables


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn])
def test_casted_embedding(dtype: torch.dtype) -> None:
    table, ids = f(11, 7).to(dtype), ints(0, 10, 3, 3)
    out = torch.empty(4, 7)
    K.casted_embedding_kernel(ids, table, out, scale=0.5)
    close(out, table.double()[ids.long()] * 0.5, torch.float32)
    with pytest.raises(BoundsError):
        K.casted_embedding_kernel(ints(11), table.float(), scale=1.0)


def blocks(v: int, d: int, size: int) -> tuple[torch.Tensor, list[Any]]:
    """A table of random blocks, dense and by block rows."""
    g = torch.Generator().manual_seed(3)
    dense, data, columns, scales, ptr = torch.zeros(v, d), [], [], [], [0]
    for r in range(v // size):
        for c in range(d // size):
            if torch.rand((), generator=g) < 0.5:
                block, scale = torch.randn(size, size, generator=g), torch.rand((), generator=g)
                dense[r * size : (r + 1) * size, c * size : (c + 1) * size] = block * scale
                data.append(block)
                columns.append(c)
                scales.append(scale)
        ptr.append(len(columns))
    return dense, [torch.stack(data), ints(*columns), ints(*ptr), torch.stack(scales)]


@pytest.mark.parametrize("size", [1, 4])
def test_sparse_embedding(size: int) -> None:
    dense, stored = blocks(12, 16, size)
    ids = ints(0, 11, 5, 5, 7)
    out = torch.empty(5, 16)
    K.sparse_embedding_kernel(ids, *stored, out)
    close(out, dense[ids.long()], torch.float32)


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 40, 37), (33, 7, 64)])
def test_int8_linear(sizes: tuple[int, int, int]) -> None:
    n, k, o = sizes
    g = torch.Generator().manual_seed(0)
    x, w = (torch.randint(-128, 128, shape, dtype=torch.int8, generator=g) for shape in ((n, k), (o, k)))
    scale, bias = torch.rand(o, generator=g), torch.randn(o, generator=g)
    exact = (x.long() @ w.long().T).double() * 0.01 * scale.double()
    plain, biased, low = torch.empty(n, o), torch.empty(n, o, dtype=torch.bfloat16), torch.empty(n, o, dtype=torch.int8)
    K.int8_linear_kernel(x, w, None, plain, 0.01, scale)
    close(plain, exact, torch.float32)
    K.int8_linear_kernel(x, w, bias, biased, 0.01, scale)
    close(biased, exact + bias.double(), torch.bfloat16, atol=1e-2)
    K.int8_linear_kernel(x, w, bias, low, 0.01, scale, 2.0)
    wanted = ((exact + bias.double()) / 2).round().clamp(-128, 127)
    assert (low.double() - wanted).abs().max() <= 1


# -- losses


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", [(0, 4), (1, 1), (5, 31), (3, 33), (2, 4, 70)])
def test_cross_entropy(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    z = (f(*shape) * 20).to(dtype)
    target = torch.arange(z[..., 0].numel(), dtype=torch.int32).reshape(shape[:-1]) % shape[-1]
    wanted = z.double().logsumexp(-1) - z.double().gather(-1, target.long()[..., None])[..., 0]
    close(unchanged(K.stable_cross_entropy_kernel, z, target), wanted, torch.float32, atol=1e-5)
    close(K.fused_softmax_cross_entropy_kernel(z, target), wanted, torch.float32, atol=1e-5)


def test_cross_entropy_at_its_edges() -> None:
    z = f(4, 10)
    z[0, 3], z[1, :] = -torch.inf, 0.0
    z[2, 1], z[3, 0] = torch.nan, 300.0
    loss = K.stable_cross_entropy_kernel(z, ints(3, -100, 0, 5))
    assert loss[0] == torch.inf and loss[1] == 0 and loss[2].isnan()
    close(loss[3:], (z[3].double().logsumexp(0) - z[3, 5].double())[None], torch.float32)
    close(
        K.stable_cross_entropy_kernel(z[3:], ints(5), vocab_size=7),
        (z[3:, :7].double().logsumexp(1) - z[3:, 5].double()),
        torch.float32,
    )
    with pytest.raises(BoundsError):
        K.fused_softmax_cross_entropy_kernel(z, ints(0, 1, 2, 10))


# -- products


@pytest.mark.parametrize("sizes", [(1, 1, 1), (5, 33, 7), (33, 16, 70)])
def test_swiglu(sizes: tuple[int, int, int]) -> None:
    s, d, hidden = sizes
    x, gate, up, down = f(s, d), f(d, hidden) / d**0.5, f(d, hidden).flip(0) / d**0.5, f(hidden, d) / hidden**0.5
    z = x.double() @ gate.double()
    wanted = (z * torch.sigmoid(1.5 * z) * (x.double() @ up.double())) @ down.double()
    close(unchanged(K.swiglu_fused_kernel, x, gate, up, down, beta=1.5), wanted, torch.float32, atol=1e-5)
    low = [t.bfloat16() for t in (x, gate, up, down)]
    eager = (F.silu(low[0] @ low[1]) * (low[0] @ low[2])) @ low[3]
    z = low[0].double() @ low[1].double()
    exact = (F.silu(z) * (low[0].double() @ low[2].double())) @ low[3].double()
    error, bound = ((y.double() - exact).abs().max() for y in (K.swiglu_fused_kernel(*low), eager))
    assert error <= max(2 * bound, 1e-2)


def attention(q: Any, k: Any, v: Any, allowed: torch.Tensor | None, bias: torch.Tensor | None, scale: float) -> Any:
    s = q.double() @ k.double().mT * scale + (0.0 if bias is None else bias.double())
    if allowed is not None:
        s = s.masked_fill(~allowed, -torch.inf)
    return torch.softmax(s, -1).nan_to_num() @ v.double()


@pytest.mark.parametrize("blocks", [(16, 16), (32, 64)])
@pytest.mark.parametrize("sizes", [(1, 1, 4), (7, 16, 8), (33, 65, 16)])
def test_flash_attention(sizes: tuple[int, int, int], blocks: tuple[int, int]) -> None:
    s, t, d = sizes
    kernel = K.flash_attention_kernel.configure(block_m=blocks[0], block_n=blocks[1])
    q, k, v = f(2, s, d), f(2, t, d).flip(1), f(2, t, d) + 1
    allowed, bias = f(s, t) > 0, f(s, t)
    causal = torch.ones(s, t, dtype=torch.bool).tril(t - s)
    for given, wanted in (
        ({}, attention(q, k, v, None, None, d**-0.5)),
        ({"mask": allowed}, attention(q, k, v, allowed, None, d**-0.5)),
        ({"mask": bias, "scale": 0.0}, attention(q, k, v, None, bias, 0.0)),
        ({"is_causal": True}, attention(q, k, v, causal, None, d**-0.5)),
        ({"is_causal": True, "mask": allowed}, attention(q, k, v, causal & allowed, None, d**-0.5)),
    ):
        close(unchanged(kernel, q, k, v, **given), wanted, torch.float32, atol=1e-5)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("blocks", [{}, {"block_m": 8, "block_n": 16}, {"block_m": 64, "block_n": 5}], ids=str)
def test_flash_attention_leaves_out_what_the_seed_says(blocks: dict[str, int], causal: bool) -> None:
    kernel = K.flash_attention_kernel.configure(**blocks)
    seed, options = torch.tensor([2**40 + 5]), {"dropout_p": 0.25, "is_causal": causal}
    q, k, v = f(2, 20, 8), f(2, 24, 8).flip(1), f(2, 24, 24) + 1
    plain = torch.eye(24).expand(2, 24, 24).contiguous()
    even = kernel(torch.zeros(2, 20, 24), torch.zeros(2, 24, 24), plain, dropout_p=0.25, dropout_seed=seed)
    kept = even > 0
    torch.testing.assert_close(even, kept / 24 / 0.75)
    assert abs(kept.float().mean() - 0.75) < 0.06
    allowed = torch.ones(20, 24, dtype=torch.bool).tril(4) if causal else torch.ones(20, 24, dtype=torch.bool)
    weights = attention(q, k, torch.eye(24)[None], allowed, None, 8**-0.5)
    found = kernel(q, k, v[..., :8].contiguous(), **options, dropout_seed=seed)
    close(found, weights * kept / 0.75 @ v[..., :8].double(), torch.float32, atol=1e-5)
    other = kernel(q, k, v[..., :8].contiguous(), **options, dropout_seed=seed + 1)
    assert not torch.equal(found, other)
    same = tessera.ops.flash_attention(
        *(x[None] for x in (q, k, v[..., :8])), **options, dropout_seed=int(seed)
    )  # fmt: skip
    torch.testing.assert_close(found, same[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("blocks", [{}, {"block_m": 8, "block_n": 16}], ids=str)
def test_flash_attention_gives_the_logarithm_of_its_sums_where_that_is_asked_for(blocks: dict[str, int]) -> None:
    kernel = K.flash_attention_kernel.configure(**blocks)
    q, k, v = f(2, 20, 8), f(2, 24, 8).flip(1), f(2, 24, 8) + 1
    allowed = f(20, 24) > 0
    allowed[3] = False
    out, lse = kernel(q, k, v, mask=allowed, lse=True)
    exact = torch.logsumexp((q.double() @ k.double().mT * 8**-0.5).masked_fill(~allowed, -torch.inf), -1)
    assert lse.dtype is torch.float32 and torch.equal(lse[:, 3], torch.full((2,), -torch.inf))
    torch.testing.assert_close(lse.double(), exact, rtol=1e-6, atol=1e-6)
    assert torch.equal(out, kernel(q, k, v, mask=allowed))
    assert torch.equal(out, kernel(q, k, v, mask=allowed, lse=False))
    given = torch.zeros(2, 20)
    assert torch.equal(kernel(q, k, v, mask=allowed, lse=given), out) and torch.equal(given, lse)
    checked = kernel.check(q, k, v, mask=allowed, lse=True)
    torch.testing.assert_close(checked, (out, lse), rtol=1e-5, atol=1e-6)


def test_both_results_of_flash_attention_have_gradients_and_stand_in_functions() -> None:
    q, k, v = (f(1, 6, 4).roll(n).requires_grad_() for n in range(3))
    out, lse = K.flash_attention_kernel(q, k, v, lse=True)
    scores = q.double() @ k.double().mT / 2
    wanted = (torch.softmax(scores, -1) @ v.double()).square().sum() + torch.logsumexp(scores, -1).square().sum()
    found = torch.autograd.grad(out.square().sum() + lse.square().sum(), (q, k, v))
    for x, y in zip(found, torch.autograd.grad(wanted, (q, k, v)), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-5, atol=1e-6)

    @tessera.function
    def doubled(q: Tensor["N", "S", "D"], k: Tensor["N", "T", "D"], v: Tensor["N", "T", "D"]):
        out, lse = K.flash_attention_kernel(q, k, v, lse=True)
        return out * 2, lse * 2

    args = tuple(x.detach().float() for x in (q, k, v))
    found, wanted = doubled(*args), K.flash_attention_kernel(*args, lse=True)
    torch.testing.assert_close(found, tuple(x * 2 for x in wanted))
    assert doubled.cache_info().eager == 0


def test_flash_attention_that_leaves_out_all_or_nothing() -> None:
    q, k, v = f(2, 7, 8), f(2, 9, 8).flip(1), f(2, 9, 8) + 1
    seed = torch.tensor([3])
    assert not K.flash_attention_kernel(q, k, v, dropout_p=1.0, dropout_seed=seed).any()
    whole = K.flash_attention_kernel(q, k, v)
    assert torch.equal(K.flash_attention_kernel(q, k, v, dropout_seed=seed), whole)
    assert torch.equal(K.flash_attention_kernel(q, k, v, dropout_p=0.9), whole)  # without a seed nothing is drawn
    given = [x.requires_grad_() for x in (q, k, v)]
    for out in (
        K.flash_attention_kernel(*given, dropout_p=1.0, dropout_seed=seed),
        tessera.ops.flash_attention(*(x[None] for x in given), dropout_p=1.0, dropout_seed=3),
    ):
        assert not any(x.any() for x in torch.autograd.grad(out.sum(), given))


def test_the_gradient_of_flash_attention_leaves_out_the_same() -> None:
    q, k, v = (f(1, 6, 4).double().roll(n).requires_grad_() for n in range(3))
    seed = torch.tensor([11])
    assert torch.autograd.gradcheck(
        lambda *x: K.flash_attention_kernel(*x, dropout_p=0.4, dropout_seed=seed), (q, k, v), atol=1e-6
    )


def test_flash_attention_in_bf16() -> None:
    q, k, v = (f(2, 40, 16).bfloat16() for _ in range(3))
    exact = attention(q, k, v, None, None, 0.25)
    found, eager = K.flash_attention_kernel(q, k, v), F.scaled_dot_product_attention(q, k, v)
    assert (found.double() - exact).abs().max() <= max(2 * (eager.double() - exact).abs().max(), 1e-2)


def test_the_reference_of_a_kernel_is_float64() -> None:
    x, w = f(4, 33), f(33)
    found = K.rms_norm_kernel.reference(x.double(), w)["output"]
    torch.testing.assert_close(found, rms(x, w, 1e-6), rtol=1e-13, atol=1e-13)


# -- blocks of a transformer


def attention_block(x: Any, nw: Any, qkv: Any, out: Any, cos: Any, sin: Any, mask: Any, causal: bool) -> Any:
    x, nw, qkv, out, cos, sin = (t.double() for t in (x, nw, qkv, out, cos, sin))
    (s, half), d = cos.shape, x.shape[1]
    few = (qkv.shape[1] - d) // 2
    q, k, v = (rms(x, nw, 1e-6) @ qkv).split([d, few, few], 1)
    q, k, v = (t.view(-1, s, t.shape[1] // (2 * half), 2 * half).transpose(1, 2) for t in (q, k, v))

    def turned(t: torch.Tensor) -> torch.Tensor:
        a, b = t.chunk(2, -1)
        return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)

    seen = torch.ones(s, s, dtype=torch.bool).tril() if causal else torch.ones(s, s, dtype=torch.bool)
    bias = torch.zeros(s, s, dtype=torch.float64).masked_fill(~seen, -torch.inf)
    bias = bias if mask is None else bias.masked_fill(~mask, -torch.inf) if mask.dtype is torch.bool else bias + mask
    o = F.scaled_dot_product_attention(turned(q), turned(k), v, attn_mask=bias, enable_gqa=True)
    return x + o.transpose(1, 2).reshape(x.shape) @ out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "few", "mask", "causal"), [
    (4, 4, None, True), (4, 2, None, False), (2, 1, torch.rand(7, 7).tril(3) > 0.1, False), (2, 2, f(7, 7), True),
])  # fmt: skip
def test_fused_attention_block(heads: int, few: int, mask: Any, causal: bool, dtype: torch.dtype) -> None:
    s, width, d = 7, 6, 6 * heads
    if mask is not None and mask.dtype is torch.bool:
        mask = mask | torch.eye(s, dtype=torch.bool)
    x, qkv, out = f(3 * s, d).to(dtype), (f(d, d + 2 * few * width) / d**0.5).to(dtype), (f(d, d) / d**0.5).to(dtype)
    nw, angle = f(d).abs().to(dtype), f(s, width // 2)
    args = (x, nw, qkv, out, angle.cos(), angle.sin())
    y = K.fused_attention_block_kernel(*args, mask=mask, is_causal=causal)
    wanted = attention_block(*args, mask, causal)
    close(y, wanted, dtype, atol=1e-5 if dtype is torch.float32 else 3e-2)


def test_fused_mlp_block() -> None:
    x, nw = f(9, 12), f(12).abs()
    gate, up, down = f(12, 20) / 3, f(12, 20) / 4, f(20, 12) / 4
    wanted = x.double() + (F.silu(rms(x, nw, 1e-6) @ gate.double()) * (rms(x, nw, 1e-6) @ up.double())) @ down.double()
    close(unchanged(K.fused_mlp_block_kernel, x, nw, gate, up, down), wanted, torch.float32, atol=1e-5)


def test_how_many_launches_blocks_take() -> None:
    """Norm and product; rotated keys; attention with rotated queries; the way out. Of the other the sum of squares,
    and all the rest.
    """
    assert K.fused_mlp_block_kernel.launches() == 2
    assert K.fused_attention_block_kernel.launches() == 5
    report = K.fused_mlp_block_kernel.report(f(9, 12), f(12), f(12, 20), f(12, 20), f(20, 12))
    assert [k.form for k in report.kernels] == ["row", "stream"] and not report.calls
    assert str(report).startswith("fused_mlp_block_kernel: 2 launches, on whole tensors")
