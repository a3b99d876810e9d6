"""Attention and what surrounds it: heads, masks, positions, caches."""

from __future__ import annotations

import math
from typing import Optional

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor, bf16, bool_, f32, int64
from tests.corpus.table import correct


@correct("proved")
def scaled_scores(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Tensor["B", "H", "S", "T"]:
    scale = q.shape[-1] ** -0.5
    return torch.matmul(q, k.transpose(-2, -1)) * scale


@correct("proved")
def plain_attention(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "E"]
) -> Tensor["B", "H", "S", "E"]:
    scores = (q @ k.mT) / math.sqrt(64)
    weights = tessera.softmax(scores, dim=-1)
    return weights @ v


@correct("deferred")
def attention_over_root(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "D"]
) -> Tensor["B", "H", "S", "D"]:
    d = q.size(-1)
    scores = torch.matmul(q, k.transpose(-2, -1)) / math.sqrt(d)
    return torch.matmul(scores.softmax(dim=-1), v)


@correct("proved")
def causal_attention(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"]
) -> Tensor["B", "H", "S", "D"]:
    S = q.shape[2]
    mask = torch.tril(torch.ones(S, S)).bool()
    scores = q @ k.transpose(-1, -2)
    scores = scores.masked_fill(~mask, float("-inf"))
    return torch.softmax(scores, -1) @ v


@correct("proved")
def causal_by_positions(scores: Tensor["B", "H", "S", "T"]) -> Tensor["B", "H", "S", "T"]:
    s, t = scores.shape[-2:]
    rows = torch.arange(s).unsqueeze(-1)
    columns = torch.arange(t).unsqueeze(0)
    return torch.where(rows >= columns, scores, -1e9)


@correct("proved")
def causal_by_triu(scores: Tensor["B", "S", "S"]) -> Tensor["B", "S", "S"]:
    s = scores.shape[-1]
    hidden = torch.triu(torch.full((s, s), float("-inf")), diagonal=1)
    return F.softmax(scores + hidden, dim=-1)


@correct("proved")
def sliding_window(scores: Tensor["B", "H", "S", "S"], window: int = 4) -> Tensor["B", "H", "S", "S"]:
    i = torch.arange(scores.shape[-1])
    distance = i[:, None] - i[None, :]
    allowed = (distance >= 0) & (distance < window)
    return scores.masked_fill(~allowed, -1e4).softmax(-1)


@correct("proved")
def key_padding(scores: Tensor["B", "H", "S", "T"], padding: Tensor["B", "T", bool_]) -> Tensor["B", "H", "S", "T"]:
    return scores.masked_fill(padding[:, None, None, :], -1e9).softmax(dim=-1)


@correct("proved")
def optional_mask(
    scores: Tensor["B", "H", "S", "T"],
    mask: Optional[Tensor["S", "T", bool_]] = None,  # noqa: UP045
) -> Tensor["B", "H", "S", "T"]:
    if mask is not None:
        scores = scores.masked_fill(mask.logical_not(), -1e9)
    return tessera.softmax(scores, dim=-1)


@correct("proved")
def optional_bias(x: Tensor["B", "S", "D"], bias: Tensor["D"] | None = None) -> Tensor["B", "S", "D"]:
    y = F.gelu(x)
    return y if bias is None else y + bias


@correct("proved", sizes={"H": 4, "D": 5})
def multi_head(
    x: Tensor["B", "S", "H*D"],
    wq: Tensor["H*D", "H*D"],
    wk: Tensor["H*D", "H*D"],
    wv: Tensor["H*D", "H*D"],
    wo: Tensor["H*D", "H*D"],
    H: int,
) -> Tensor["B", "S", "H*D"]:
    B, S, E = x.shape
    q = (x @ wq).view(B, S, H, E // H).transpose(1, 2)
    k = (x @ wk).view(B, S, H, E // H).transpose(1, 2)
    v = (x @ wv).view(B, S, H, E // H).transpose(1, 2)
    attended = torch.softmax(q @ k.transpose(-2, -1) * 0.125, dim=-1) @ v
    return attended.transpose(1, 2).contiguous().view(B, S, E) @ wo


@correct("guarded", given={"H": 4})
def heads_from_width(x: Tensor["B", "S", "D"], H: int) -> Tensor["B", "S", "D"]:
    b, s, d = x.shape
    heads = x.reshape(b, s, H, d // H).permute(0, 2, 1, 3)
    weights = torch.softmax(heads @ heads.transpose(-1, -2), dim=-1)
    return (weights @ heads).permute(0, 2, 1, 3).reshape(b, s, d)


@correct("guarded", sizes={"D": 8})
def eight_heads(x: Tensor["B", "S", "D"]) -> Tensor["B", 8, "S", "D/8"]:
    return x.unflatten(-1, (8, -1)).transpose(1, 2)


@correct("proved")
def packed_qkv(x: Tensor["B", "S", "D"], w: Tensor["3*D", "D"]) -> Tensor["B", "S", "D"]:
    q, k, v = F.linear(x, w).chunk(3, dim=-1)
    return torch.softmax(q @ k.mT, dim=-1) @ v


@correct("proved", sizes={"H": 4, "D": 5})
def split_qkv(x: Tensor["B", "S", "D"], w: Tensor["D", "3*D"]) -> Tensor["B", "S", "D"]:
    d = x.shape[-1]
    q, k, v = (x @ w).split([d, d, d], dim=-1)
    return torch.softmax(q @ k.transpose(1, 2), dim=-1) @ v


@correct("proved", sizes={"R": 2})
def grouped_query(
    q: Tensor["B", "G*R", "S", "D"], k: Tensor["B", "G", "T", "D"], v: Tensor["B", "G", "T", "D"], R: int
) -> Tensor["B", "G*R", "S", "D"]:
    k = k.repeat_interleave(R, dim=1)
    v = v.repeat_interleave(R, dim=1)
    return (q @ k.transpose(-2, -1)).softmax(-1) @ v


@correct("proved", sizes={"R": 2})
def grouped_query_by_expand(
    q: Tensor["B", "G*R", "S", "D"], k: Tensor["B", "G", "T", "D"], R: int
) -> Tensor["B", "G*R", "S", "T"]:
    b, g, t, d = k.shape
    k = k[:, :, None, :, :].expand(b, g, R, t, d).reshape(b, g * R, t, d)
    return torch.einsum("bhsd,bhtd->bhst", q, k)


@correct("guarded", sizes={"Hq": 6, "Hkv": 3})
def grouped_query_by_sizes(
    q: Tensor["B", "Hq", "S", "D"], k: Tensor["B", "Hkv", "T", "D"]
) -> Tensor["B", "Hq", "S", "T"]:
    groups = q.shape[1] // k.shape[1]
    k = k.repeat_interleave(groups, dim=1)
    return q @ k.mT


@correct("proved")
def grouped_by_view(q: Tensor["B", "G*R", "S", "D"], k: Tensor["B", "G", "T", "D"]) -> Tensor["B", "G*R", "S", "T"]:
    b, h, s, d = q.shape
    g = k.shape[1]
    scores = q.reshape(b, g, -1, s, d) @ k.unsqueeze(2).mT
    return scores.reshape(b, h, s, k.shape[2])


@correct("guarded")
def rope_half(
    x: Tensor["B", "S", "H", "D"], cos: Tensor["S", 1, "D/2"], sin: Tensor["S", 1, "D/2"]
) -> Tensor["B", "S", "H", "D"]:
    x1, x2 = x.chunk(2, dim=-1)
    return torch.cat([x1 * cos - x2 * sin, x2 * cos + x1 * sin], dim=-1)


@correct("proved")
def rope_rotate_half(
    q: Tensor["B", "H", "S", "D"], cos: Tensor["S", "D"], sin: Tensor["S", "D"]
) -> Tensor["B", "H", "S", "D"]:
    half = q.shape[-1] // 2
    rotated = torch.cat((-q[..., half:], q[..., :half]), dim=-1)
    return q * cos + rotated * sin


@correct("guarded")
def rope_interleaved(
    x: Tensor["B", "S", "H", "2*K"], cos: Tensor["S", "K"], sin: Tensor["S", "K"]
) -> Tensor["B", "S", "H", "2*K"]:
    even, odd = x[..., 0::2], x[..., 1::2]
    c, s = cos[None, :, None, :], sin[None, :, None, :]
    return torch.stack((even * c - odd * s, even * s + odd * c), dim=-1).flatten(-2)


@correct("proved", sizes={"seq_len": 5, "dim": 6})
def rope_tables(
    seq_len: int, dim: int, theta: float = 10000.0
) -> tuple[Tensor["seq_len", "dim/2"], Tensor["seq_len", "dim/2"]]:
    inverse = 1.0 / (theta ** (torch.arange(0, dim, 2).float() / dim))
    angles = torch.outer(torch.arange(seq_len).float(), inverse)
    return angles.cos(), angles.sin()


@correct("proved")
def alibi(scores: Tensor["B", "H", "S", "S"], slopes: Tensor["H"]) -> Tensor["B", "H", "S", "S"]:
    positions = torch.arange(scores.shape[-1])
    distance = positions[None, :] - positions[:, None]
    return (scores + slopes[:, None, None] * distance.float()).softmax(dim=-1)


@correct("proved")
def alibi_bias(H: int, S: int) -> Tensor["H", "S", "S"]:
    slopes = 2.0 ** (-8.0 * torch.arange(1, H + 1) / H)
    i = torch.arange(S)
    return slopes[:, None, None] * (i[None, :] - i[:, None])


@correct("proved")
def append_to_cache(keys: Tensor["B", "H", "T", "D"], new: Tensor["B", "H", 1, "D"]) -> Tensor["B", "H", "T+1", "D"]:
    return torch.cat([keys, new], dim=2)


@correct("proved")
def attend_with_cache(
    q: Tensor["B", "H", "S", "D"],
    k: Tensor["B", "H", "S", "D"],
    v: Tensor["B", "H", "S", "D"],
    past: tuple[Tensor["B", "H", "T", "D"], Tensor["B", "H", "T", "D"]],
) -> tuple[Tensor["B", "H", "S", "D"], Tensor["B", "H", "S+T", "D"], Tensor["B", "H", "S+T", "D"]]:
    keys = torch.cat([past[0], k], dim=-2)
    values = torch.cat([past[1], v], dim=-2)
    out = torch.softmax(q @ keys.mT, dim=-1) @ values
    return out, keys, values


@correct("proved")
def cross_attention_by_einsum(
    x: Tensor["B", "S", "D"], memory: Tensor["B", "T", "E"], wq: Tensor["D", "H", "K"], wk: Tensor["E", "H", "K"],
    wv: Tensor["E", "H", "K"], wo: Tensor["H", "K", "D"],
) -> Tensor["B", "S", "D"]:  # fmt: skip
    q = torch.einsum("bsd,dhk->bhsk", x, wq)
    k = torch.einsum("bte,ehk->bhtk", memory, wk)
    v = torch.einsum("bte,ehk->bhtk", memory, wv)
    scores = torch.einsum("bhsk,bhtk->bhst", q, k)
    return torch.einsum("bhst,bhtk,hkd->bsd", scores.softmax(-1), v, wo)


@correct("proved")
def fused_attention(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "D"]
) -> Tensor["B", "H", "S", "D"]:
    return F.scaled_dot_product_attention(q, k, v)


@correct("proved", tolerance=2e-2)
def attention_in_f32(
    q: Tensor["B", "S", "D", bf16], k: Tensor["B", "T", "D", bf16], v: Tensor["B", "T", "D", bf16]
) -> Tensor["B", "S", "D", bf16]:
    scores = (q.float() @ k.float().transpose(-2, -1)) * 0.25
    weights = torch.softmax(scores, dim=-1).to(v.dtype)
    return weights @ v


@correct("proved")
def logits_soft_cap(scores: Tensor["...", "T"], cap: float = 30.0) -> Tensor["...", "T"]:
    return cap * torch.tanh(scores / cap)


@correct("proved")
def relative_bias(
    scores: Tensor["B", "H", "S", "S"], table: Tensor["2*M-1", "H"], index: Tensor["S", "S", int64]
) -> Tensor["B", "H", "S", "S"]:
    bias = table[index].permute(2, 0, 1)
    return scores + bias.unsqueeze(0)


@correct("proved")
def linear_attention(
    q: Tensor["B", "S", "D"], k: Tensor["B", "S", "D"], v: Tensor["B", "S", "E"]
) -> Tensor["B", "S", "E"]:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    state = torch.einsum("bsd,bse->bde", k, v)
    norm = torch.einsum("bsd,bd->bs", q, k.sum(dim=1))
    return torch.einsum("bsd,bde->bse", q, state) / norm.unsqueeze(-1)


@correct("guarded")
def sinusoidal(x: Tensor["B", "S", "2*K"]) -> Tensor["B", "S", "2*K"]:
    _, S, D = x.shape
    position = torch.arange(S).unsqueeze(1).float()
    div = torch.exp(torch.arange(0, D, 2).float() * (-math.log(10000.0) / 512))
    table = torch.zeros(S, D)
    table[:, 0::2] = torch.sin(position * div)
    table[:, 1::2] = torch.cos(position * div)
    return x + table


@correct("proved")
def document_mask(scores: Tensor["B", "S", "S"], doc: Tensor["B", "S", int64]) -> Tensor["B", "S", "S", f32]:
    same = doc.unsqueeze(-1) == doc.unsqueeze(-2)
    return torch.where(same, scores, torch.full_like(scores, -1e9)).softmax(-1)
