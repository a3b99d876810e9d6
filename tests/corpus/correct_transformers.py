"""Steps of language models: attention, rotary positions, caches, routing, sampling."""

# ruff: noqa: RUF059

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from tessera import Tensor, bf16, int64
from tests.corpus.table import correct


def rotate_half(x: Any) -> Any:
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def apply_rotary(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
    cos = cos.unsqueeze(unsqueeze_dim)
    sin = sin.unsqueeze(unsqueeze_dim)
    return (q * cos) + (rotate_half(q) * sin), (k * cos) + (rotate_half(k) * sin)


def repeat_kv(h: Any, n_rep: int) -> Any:
    b, nkv, s, d = h.shape
    if n_rep == 1:
        return h
    return h[:, :, None, :, :].expand(b, nkv, n_rep, s, d).reshape(b, nkv * n_rep, s, d)


@correct("deferred")
def nano_block(
    x: Tensor["B", "S", "D"], wqkv: Tensor["3*D", "D"], wo: Tensor["D", "D"], n_head: int = 4
) -> Tensor["B", "S", "D"]:
    B, T, C = x.size()
    q, k, v = F.linear(x, wqkv).split(C, dim=2)
    k = k.view(B, T, n_head, C // n_head).transpose(1, 2)
    q = q.view(B, T, n_head, C // n_head).transpose(1, 2)
    v = v.view(B, T, n_head, C // n_head).transpose(1, 2)
    att = (q @ k.transpose(-2, -1)) * (1.0 / math.sqrt(k.size(-1)))
    att = att.masked_fill(torch.tril(torch.ones(T, T)).view(1, 1, T, T) == 0, float("-inf"))
    att = F.softmax(att, dim=-1)
    y = att @ v
    y = y.transpose(1, 2).contiguous().view(B, T, C)
    return F.linear(y, wo)


@correct("deferred", sizes={"B": 3, "S": 7, "D": 16, "H": 4, "G": 2})
def llama_attention(
    q: Tensor["B", "H", "S", "D"],
    k: Tensor["B", "G", "S", "D"],
    v: Tensor["B", "G", "S", "D"],
    cos: Tensor["B", "S", "D"],
    sin: Tensor["B", "S", "D"],
    mask: Tensor["B", 1, "S", "S"] | None = None,
) -> tuple[Tensor["B", "S", "H*D"], Tensor["B", "H", "S", "S"]]:
    q, k = apply_rotary(q, k, cos, sin)
    n = q.shape[1] // k.shape[1]
    k, v = repeat_kv(k, n), repeat_kv(v, n)
    w = torch.matmul(q, k.transpose(2, 3)) / math.sqrt(q.shape[-1])
    if mask is not None:
        w = w + mask[:, :, :, : k.shape[-2]]
    w = nn.functional.softmax(w, dim=-1, dtype=torch.float32).to(q.dtype)
    w = nn.functional.dropout(w, p=0.0, training=False)
    out = torch.matmul(w, v).transpose(1, 2).contiguous()
    return out.reshape(q.shape[0], q.shape[2], -1), w


@correct()
def llama_mlp(
    x: Tensor["B", "S", "D"], g: Tensor["F", "D"], u: Tensor["F", "D"], d: Tensor["D", "F"]
) -> Tensor["B", "S", "D"]:
    return F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d)


@correct()
def llama_rms(x: Tensor["...", "D", bf16], w: Tensor["D", bf16], eps: float = 1e-5) -> Tensor["...", "D", bf16]:
    dt = x.dtype
    h = x.to(torch.float32)
    var = h.pow(2).mean(-1, keepdim=True)
    h = h * torch.rsqrt(var + eps)
    return w * h.to(dt)


@correct(given={"nb": 32, "maxd": 128})
def t5_buckets(rel: Tensor["S", "T", int64], nb: int = 32, maxd: int = 128) -> Tensor["S", "T", int64]:
    nb = nb // 2
    out = (rel > 0).to(torch.long) * nb
    rel = torch.abs(rel)
    exact = nb // 2
    small = rel < exact
    large = exact + (torch.log(rel.float() / exact) / math.log(maxd / exact) * (nb - exact)).to(torch.long)
    large = torch.min(large, torch.full_like(large, nb - 1))
    return out + torch.where(small, rel, large)


@correct()
def t5_bias(table: Tensor["N", "H"], S: int, T: int) -> Tensor[1, "H", "S", "T"]:
    ctx = torch.arange(S, dtype=torch.long)[:, None]
    mem = torch.arange(T, dtype=torch.long)[None, :]
    rel = (mem - ctx).clamp(-3, 3) + 3
    return F.embedding(rel, table).permute([2, 0, 1]).unsqueeze(0)


@correct("guarded")
def mamba_scan(
    u: Tensor["B", "D", "L"],
    delta: Tensor["B", "D", "L"],
    A: Tensor["D", "N"],
    Bm: Tensor["B", "N", "L"],
    C: Tensor["B", "N", "L"],
    skip: Tensor["D"],
    steps: int = 3,
) -> Tensor["B", "D", 3]:
    dA = torch.exp(torch.einsum("bdl,dn->bdln", delta, A))
    dBu = torch.einsum("bdl,bnl,bdl->bdln", delta, Bm, u)
    x = A.new_zeros((u.shape[0], u.shape[1], A.shape[1]))
    ys = []
    for i in range(steps):
        x = dA[:, :, i] * x + dBu[:, :, i]
        ys.append(torch.einsum("bdn,bn->bd", x, C[:, :, i]))
    y = torch.stack(ys, dim=2)
    return y + u[:, :, :steps] * skip.unsqueeze(-1)


@correct()
def mamba_conv(x: Tensor["B", "L", "D"], w: Tensor["D", 1, 4], b: Tensor["D"]) -> Tensor["B", "L", "D"]:
    L = x.shape[1]
    y = F.conv1d(x.transpose(1, 2), w, b, padding=3, groups=x.shape[2])[:, :, :L]
    return F.silu(y).transpose(1, 2)


@correct()
def mamba_split(
    xz: Tensor["B", "L", "2*D"], wdt: Tensor["D", "R"], xp: Tensor["R+2*N", "D"]
) -> tuple[Tensor["B", "L", "D"], Tensor["B", "L", "N"], Tensor["B", "L", "N"]]:
    x, z = xz.chunk(2, dim=-1)
    proj = F.linear(x, xp)
    R = wdt.shape[1]
    N = (xp.shape[0] - R) // 2
    dt, Bm, C = torch.split(proj, [R, N, N], dim=-1)
    return F.softplus(dt @ wdt.T) * torch.sigmoid(z), Bm, C


@correct("guarded")
def mixtral_router(
    x: Tensor["B", "S", "D"], gate: Tensor["E", "D"]
) -> tuple[Tensor["B*S", "E"], Tensor["B*S", 2, int64]]:
    b, s, d = x.shape
    h = x.view(-1, d)
    logits = F.linear(h, gate)
    w = F.softmax(logits, dim=1, dtype=torch.float)
    w, sel = torch.topk(w, 2, dim=-1)
    w /= w.sum(dim=-1, keepdim=True)
    full = torch.zeros(h.shape[0], gate.shape[0]).scatter_(1, sel, w)
    return full, sel


@correct()
def mixtral_dense(
    x: Tensor["N", "D"], w1: Tensor["E", "F", "D"], w2: Tensor["E", "D", "F"], r: Tensor["N", "E"]
) -> Tensor["N", "D"]:
    h = torch.einsum("nd,efd->nef", x, w1)
    y = torch.einsum("nef,edf->ned", F.gelu(h), w2)
    return (y * r.unsqueeze(-1)).sum(dim=1)


@correct("guarded", sizes={"E": 6}, ids={"sel": 6})
def moe_one_hot_mask(sel: Tensor["N", 2, int64], logits: Tensor["N", "E"]) -> Tensor["E", 2, "N", int64]:
    return F.one_hot(sel, num_classes=6).permute(2, 1, 0)


@correct(sizes={"E": 6, "N": 17}, ids={"sel": 6})
def moe_aux(probs: Tensor["N", "E"], sel: Tensor["N", 2, int64]) -> Tensor[()]:
    E = probs.shape[-1]
    mask = F.one_hot(sel, E).float()
    tokens = mask.mean(dim=0)
    return E * torch.sum(tokens * probs.mean(dim=0).unsqueeze(0))


@correct()
def alibi_general(H: int, S: int) -> Tensor["H", 1, "S"]:
    n = 2 ** math.floor(math.log2(8))
    m = 2.0 ** (-8.0 / n)
    m = torch.pow(m, torch.arange(1, 1 + H))
    return m.view(-1, 1, 1) * torch.arange(S)[None, None, :]


@correct("guarded")
def rope_interleaved_again(x: Tensor["B", "S", "H", "D"], theta: float = 10000.0) -> Tensor["B", "S", "H", "D"]:
    assert x.shape[-1] % 2 == 0
    D = x.shape[-1]
    freqs = 1.0 / (theta ** (torch.arange(0, D, 2)[: (D // 2)].float() / D))
    t = torch.arange(x.shape[1])
    ang = torch.outer(t, freqs)
    xr = x.reshape(*x.shape[:-1], -1, 2)
    c, s = ang.cos()[None, :, None], ang.sin()[None, :, None]
    o = torch.stack([xr[..., 0] * c - xr[..., 1] * s, xr[..., 0] * s + xr[..., 1] * c], -1)
    return o.flatten(3)


@correct()
def top_p(logits: Tensor["B", "V"], p: float = 0.9, temperature: float = 0.8) -> Tensor["B", "V"]:
    probs = torch.softmax(logits / temperature, dim=-1)
    ps, idx = torch.sort(probs, dim=-1, descending=True)
    cs = torch.cumsum(ps, dim=-1)
    mask = cs - ps > p
    ps[mask] = 0.0
    ps.div_(ps.sum(dim=-1, keepdim=True))
    return torch.zeros_like(probs).scatter_(-1, idx, ps)


@correct()
def min_p(logits: Tensor["B", "V"], p: float = 0.1) -> Tensor["B", "V"]:
    probs = logits.softmax(-1)
    top, _ = probs.max(dim=-1, keepdim=True)
    return logits.masked_fill(probs < p * top, -float("inf"))


@correct(sizes={"B": 3, "S": 7, "V": 13}, ids={"prev": 13})
def repetition_penalty(logits: Tensor["B", "V"], prev: Tensor["B", "S", int64], pen: float = 1.2) -> Tensor["B", "V"]:
    score = torch.gather(logits, 1, prev)
    score = torch.where(score < 0, score * pen, score / pen)
    return logits.scatter(1, prev, score)


@correct(ids={"beams": 4, "lens": 5})
def beam_reorder_again(
    seqs: Tensor["B", "K", "S", int64], scores: Tensor["B", "K"], beams: Tensor["B", "K", int64]
) -> tuple[Tensor["B", "K", "S", int64], Tensor["B", "K"]]:
    idx = beams.unsqueeze(-1).expand_as(seqs)
    return seqs.gather(1, idx), torch.gather(scores, 1, beams)


@correct(ids={"lens": 5})
def beam_length_norm(scores: Tensor["B", "K"], lens: Tensor["B", "K", int64], alpha: float = 0.6) -> Tensor["B", "K"]:
    return scores / ((5.0 + lens.float()) / 6.0) ** alpha
