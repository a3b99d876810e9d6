"""Steps in many styles of Python, and of vision."""

# ruff: noqa: E731, F722

from __future__ import annotations

import math
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float

from tessera import Tensor
from tests.corpus.table import correct


class Attn:
    H = 4

    @staticmethod
    def split(x: Any, h: int) -> Any:
        return x.reshape(*x.shape[:-1], h, -1).transpose(-2, -3)


@correct()
def dict_out_again(x: Tensor["B", "D"], w: Tensor["D", "F"]) -> dict[str, Tensor["B", "F"]]:
    h = x @ w
    return {"logits": h, "probs": h.softmax(-1)}


@correct()
def list_out(x: Tensor["B", "S", "D"]) -> list[Tensor["B", "S", "D"]]:
    return [f(x) for f in (torch.relu, torch.tanh, lambda t: t * 2)]


@correct()
def kwonly_again(
    x: Tensor["B", "S", "D"], *, w: Tensor["D"], b: Tensor["D"] | None = None, eps: float = 1e-5
) -> Tensor["B", "S", "D"]:
    mu = x.mean(-1, keepdim=True)
    var = ((x - mu) ** 2).mean(-1, keepdim=True)
    y = (x - mu) / torch.sqrt(var + eps) * w
    if b is not None:
        y = y + b
    return y


@correct()
def closure_scale(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
    def norm(t, dim=-1):
        return t / t.norm(dim=dim, keepdim=True)

    half = x.shape[-1] / 2
    return norm(x) * half**0.5


@correct()
def comprehension_heads(x: Tensor["B", "S", "D"], w: Tensor[4, "D", "K"]) -> Tensor["B", "S", "4*K"]:
    return torch.cat([x @ w[i] for i in range(4)], dim=-1)


@correct()
def unbind_loop(qkv: Tensor["B", "S", 3, "H", "D"]) -> Tensor["B", "H", "S", "D"]:
    q, k, v = qkv.unbind(2)
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)


@correct()
def lambda_apply(x: Tensor["B", "D"], w: Tensor["D", "D"]) -> Tensor["B", "D"]:
    block = lambda h: torch.tanh(h @ w)
    for _ in range(3):
        x = block(x)
    return x


@correct("guarded")
def asserted(x: Tensor["B", "S", "D"], h: int = 4) -> Tensor["B", "S", "4", "D//4"]:
    assert x.shape[-1] % h == 0, "heads"
    return x.unflatten(-1, (h, -1))


@correct()
def early_return(x: Tensor["B", "S", "D"], mode: str = "mean") -> Tensor["B", "D"]:
    if mode == "mean":
        return x.mean(1)
    if mode == "max":
        return x.amax(1)
    return x[:, 0]


@correct()
def literal_mode_again(x: Tensor["B", "D"], act: Literal["relu", "gelu"] = "relu") -> Tensor["B", "D"]:
    return {"relu": F.relu, "gelu": F.gelu}[act](x)


@correct("guarded")
def static_helper(x: Tensor["B", "S", "D"]) -> Tensor["B", "4", "S", "D//4"]:
    return Attn.split(x, Attn.H)


@correct(sizes={"s": 7, "t": 5, "d": 16})
def jax_style(q: Float[torch.Tensor, "*b s d"], k: Float[torch.Tensor, "*b t d"]) -> Float[torch.Tensor, "*b s t"]:
    return torch.einsum("...sd,...td->...st", q, k)


@correct(sizes={"b": 3, "s": 7, "d": 16})
def jax_mask(x: Float[torch.Tensor, "b s d"], m: Bool[torch.Tensor, "b s"]) -> Float[torch.Tensor, "b d"]:
    return torch.where(m[..., None], x, 0.0).sum(1) / m.sum(1, keepdim=True)


@correct()
def patchify_again(x: Tensor["B", "C", "4*H", "4*W"]) -> Tensor["B", "H*W", "16*C"]:
    B, C, H, W = x.shape
    p = 4
    x = x.reshape(B, C, H // p, p, W // p, p)
    x = x.permute(0, 2, 4, 3, 5, 1)
    return x.flatten(3).flatten(1, 2)


@correct()
def vit_cls(x: Tensor["B", "N", "D"], cls: Tensor[1, 1, "D"], pos: Tensor[1, "N+1", "D"]) -> Tensor["B", "N+1", "D"]:
    t = cls.expand(x.shape[0], -1, -1)
    return torch.cat((t, x), dim=1) + pos


@correct()
def pixel_shuffle_manual(x: Tensor["B", "4*C", "H", "W"]) -> Tensor["B", "C", "2*H", "2*W"]:
    B, C4, H, W = x.shape
    r = 2
    x = x.view(B, C4 // (r * r), r, r, H, W)
    return x.permute(0, 1, 4, 2, 5, 3).reshape(B, C4 // (r * r), H * r, W * r)


@correct("guarded")
def unet_block(
    x: Tensor["B", "C", "2*H", "2*W"], skip_w: Tensor["C", "C", 3, 3], up_w: Tensor["C", "2*C", 1, 1]
) -> Tensor["B", "C", "2*H", "2*W"]:
    s = F.relu(F.conv2d(x, skip_w, padding=1))
    d = F.max_pool2d(s, 2)
    u = F.interpolate(d, scale_factor=2, mode="nearest")
    return F.conv2d(torch.cat([s, u], 1), up_w)


@correct("guarded")
def resnet_bottleneck(
    x: Tensor["B", "4*C", "H", "W"],
    w1: Tensor["C", "4*C", 1, 1],
    w2: Tensor["C", "C", 3, 3],
    w3: Tensor["4*C", "C", 1, 1],
    g: Tensor["4*C"],
    b: Tensor["4*C"],
) -> Tensor["B", "4*C", "H", "W"]:
    y = F.relu(F.conv2d(x, w1))
    y = F.relu(F.conv2d(y, w2, stride=1, padding=1))
    y = F.conv2d(y, w3)
    m, v = y.mean((0, 2, 3)), y.var((0, 2, 3), unbiased=False)
    y = (y - m[None, :, None, None]) * torch.rsqrt(v + 1e-5)[None, :, None, None]
    return F.relu(x + y * g.view(1, -1, 1, 1) + b.view(1, -1, 1, 1))


@correct()
def group_norm_reshape(
    x: Tensor["B", "4*C", "H", "W"], w: Tensor["4*C"], eps: float = 1e-5
) -> Tensor["B", "4*C", "H", "W"]:
    n, c, h, wd = x.shape
    g = x.reshape(n, 4, c // 4, h, wd)
    mu = g.mean(dim=(2, 3, 4), keepdim=True)
    var = g.var(dim=(2, 3, 4), keepdim=True, unbiased=False)
    return ((g - mu) / (var + eps).sqrt()).reshape(n, c, h, wd) * w.view(1, c, 1, 1)


@correct()
def window_partition(x: Tensor["B", "4*H", "4*W", "C"]) -> Tensor["B*H*W", 4, 4, "C"]:
    B, H, W, C = x.shape
    ws = 4
    x = x.view(B, H // ws, ws, W // ws, ws, C)
    return x.permute(0, 1, 3, 2, 4, 5).contiguous().view(-1, ws, ws, C)


@correct("guarded")
def im2col(x: Tensor["B", "C", "L"], w: Tensor["O", "C", 3]) -> Tensor["B", "O", "L-2"]:
    cols = x.unfold(2, 3, 1)
    return torch.einsum("bclk,ock->bol", cols, w)


@correct()
def avg_pool_reshape(x: Tensor["B", "C", "4*L"]) -> Tensor["B", "C", "L"]:
    return x.view(*x.shape[:2], -1, 4).mean(-1)


@correct()
def meshgrid_pos(H: int, W: int) -> Tensor["H*W", 2]:
    ys, xs = torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij")
    return torch.stack([ys, xs], dim=-1).reshape(-1, 2)


@correct()
def time_embed(t: Tensor["B"], dim: int = 32) -> Tensor["B", 32]:
    half = dim // 2
    freqs = torch.exp(-math.log(10000) * torch.arange(0, half, dtype=torch.float32) / half)
    args = t[:, None].float() * freqs[None]
    emb = torch.cat([torch.cos(args), torch.sin(args)], dim=-1)
    if dim % 2:
        emb = torch.cat([emb, torch.zeros_like(emb[:, :1])], dim=-1)
    return emb
