"""Faults in steps of language models: attention, rotary positions, caches, routing, sampling."""

# ruff: noqa: RUF059

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F

from tessera import Tensor, bf16, f32, int64
from tests.corpus.table import faulty


def rotate_half(x: Any) -> Any:
    x1 = x[..., : x.shape[-1] // 2]
    x2 = x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def apply_rotary(q: Any, k: Any, cos: Any, sin: Any, unsqueeze_dim: int = 1) -> Any:
    cos = cos.unsqueeze(unsqueeze_dim)
    sin = sin.unsqueeze(unsqueeze_dim)
    return (q * cos) + (rotate_half(q) * sin), (k * cos) + (rotate_half(k) * sin)


@faulty("TSR0201", "x")
def nano_qkv_weight(x: Tensor["B", "S", "D"], wqkv: Tensor["D", "3*D"]) -> Any:
    q, k, v = F.linear(x, wqkv).split(x.size(2), dim=2)
    return q @ k.mT @ v


@faulty("TSR0216", "q, k, v")
def nano_two_of_three(x: Tensor["B", "S", "D"], wqkv: Tensor["2*D", "D"]) -> Any:
    B, T, C = x.size()
    q, k, v = F.linear(x, wqkv).split(C, dim=2)
    return q @ k.mT @ v


@faulty("TSR0202", "mask == 0")
def nano_mask_sizes(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    att = q @ k.transpose(-2, -1)
    S = q.size(2)
    mask = torch.tril(torch.ones(S, S)).view(1, 1, S, S)
    return att.masked_fill(mask == 0, float("-inf"))


@faulty("TSR0202", "q")
def llama_rope_no_unsqueeze(
    q: Tensor["B", "H", "S", "D"], cos: Tensor["B", "S", "D"], sin: Tensor["B", "S", "D"]
) -> Any:
    return (q * cos) + (rotate_half(q) * sin)


@faulty("TSR0202", "q")
def llama_rope_dim2(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], cos: Tensor["B", "S", "D"], sin: Tensor["B", "S", "D"]
) -> Any:
    return apply_rotary(q, k, cos, sin, unsqueeze_dim=2)


@faulty("TSR0201", "q")
def llama_matmul_transposed(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    return torch.matmul(q, k.transpose(1, 2)) / math.sqrt(q.shape[-1])


@faulty("TSR0202", "F.silu(F.linear(x, g))")
def llama_mlp_bad(
    x: Tensor["B", "S", "D"], g: Tensor["F", "D"], u: Tensor["2*F", "D"], d: Tensor["D", "F"]
) -> Tensor["B", "S", "D"]:
    return F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d)


@faulty("TSR0305", 'Tensor["...", "D", bf16]')
def llama_rms_widened(x: Tensor["...", "D", bf16], w: Tensor["D", f32], eps: float = 1e-5) -> Tensor["...", "D", bf16]:
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + eps)
    return w * h.to(x.dtype)


@faulty("TSR0217", "h")
def llama_rms_no_keepdim(x: Tensor["B", "S", "D"], eps: float = 1e-5) -> Any:
    h = x.float()
    var = h.pow(2).mean(-1)
    return h * torch.rsqrt(var + eps)


@faulty("TSR0210", 'Tensor[1, "H", "S", "T"]')
def t5_bias_permute(table: Tensor["N", "H"], S: int, T: int) -> Tensor[1, "H", "S", "T"]:
    rel = (torch.arange(T)[None, :] - torch.arange(S)[:, None]).clamp(-3, 3) + 3
    return F.embedding(rel, table).permute(2, 1, 0).unsqueeze(0)


@faulty("TSR0209", "x")
def mamba_wrong_slice(dA: Tensor["B", "D", "L", "N"], C: Tensor["B", "N", "L"]) -> Any:
    x = dA[:, :, 0] * 0
    ys = []
    for i in range(3):
        x = dA[:, :, i] * x
        ys.append(torch.einsum("bdn,bn->bd", x, C[:, i]))
    return torch.stack(ys, dim=2)


@faulty("TSR0210", 'Tensor["B", "L", "D"]')
def mamba_conv_not_cut(x: Tensor["B", "L", "D"], w: Tensor["D", 1, 4], b: Tensor["D"]) -> Tensor["B", "L", "D"]:
    y = F.conv1d(x.transpose(1, 2), w, b, padding=3, groups=x.shape[2])
    return F.silu(y).transpose(1, 2)


@faulty("TSR0201", "x")
def mamba_conv_forgot_transpose(x: Tensor["B", "L", "D"], w: Tensor["D", 1, 4], b: Tensor["D"]) -> Any:
    return F.conv1d(x, w, b, padding=3, groups=w.shape[0])


@faulty("TSR0208", "proj")
def mamba_split_short(
    x: Tensor["B", "L", "D"], xp: Tensor["R+2*N", "D"], wdt: Tensor["D", "R"], bn: Tensor["N"]
) -> Any:
    proj = F.linear(x, xp)
    R, N = wdt.shape[1], bn.shape[0]
    dt, Bm = torch.split(proj, [R, N], dim=-1)
    return dt, Bm


@faulty("TSR0202", "y")
def moe_combine(x: Tensor["N", "D"], w1: Tensor["E", "D", "D"], r: Tensor["N", "E"]) -> Any:
    y = torch.einsum("nd,efd->nef", x, w1)
    return (y * r).sum(dim=1)


@faulty("TSR0304", "sel")
def moe_one_hot_float(sel: Tensor["N", 2, f32], logits: Tensor["N", "E"]) -> Any:
    return F.one_hot(sel, num_classes=8)


@faulty("TSR0202", "mask.float()")
def moe_load_again(sel: Tensor["N", 2, int64], w: Tensor["N", 2]) -> Any:
    mask = F.one_hot(sel, num_classes=8)
    return (mask.float() * w).sum(0)


@faulty("TSR0215", "sel")
def moe_scatter_rank_again(h: Tensor["N", "D"], gate: Tensor["E", "D"]) -> Any:
    w, sel = F.linear(h, gate).max(-1)
    return torch.zeros(h.shape[0], gate.shape[0]).scatter_(1, sel, w)


@faulty("TSR0210", 'Tensor["H", "S", "S"]')
def alibi_one_row(H: int, S: int) -> Tensor["H", "S", "S"]:
    m = torch.pow(0.5, torch.arange(1, 1 + H))
    return m.view(-1, 1, 1) * torch.arange(S)[None, None, :]


@faulty("TSR0202", "xr[..., 0]")
def rope_wrong_axis(x: Tensor["B", "H", "S", 8]) -> Any:
    ang = torch.outer(torch.arange(x.shape[2]), torch.arange(4).float())
    xr = x.reshape(*x.shape[:-1], -1, 2)
    c, s = ang.cos()[None, :, None], ang.sin()[None, :, None]
    return torch.stack([xr[..., 0] * c - xr[..., 1] * s, xr[..., 0] * s + xr[..., 1] * c], -1).flatten(3)


@faulty("TSR0210", 'Tensor["B", "S", "H", "D"]')
def rope_not_flattened(x: Tensor["B", "S", "H", "D"]) -> Tensor["B", "S", "H", "D"]:
    a, b = x[..., ::2], x[..., 1::2]
    return torch.stack((-b, a), dim=-1)


@faulty("TSR0202", "x")
def rope_half_table(x: Tensor["B", "H", "S", 64]) -> Any:
    emb = torch.outer(torch.arange(x.shape[-2]).float(), torch.arange(32).float())
    return x * emb.cos() + rotate_half(x) * emb.sin()


@faulty("TSR0202", "ps.sum(-1, keepdim=True)")
def top_p_mask(logits: Tensor["B", "V"], p: float = 0.9) -> Any:
    ps, idx = torch.sort(logits.softmax(-1), dim=-1, descending=True)
    mask = ps.sum(-1, keepdim=True) - ps.T > p
    return ps.masked_fill(mask, 0.0)


@faulty("TSR0217", "probs")
def min_p_bad(logits: Tensor["B", "V"], p: float = 0.1) -> Any:
    probs = logits.softmax(-1)
    top, _ = probs.max(dim=-1)
    return logits.masked_fill(probs < p * top, -float("inf"))


@faulty("TSR0215", "prev")
def repetition_rank(logits: Tensor["B", "V"], prev: Tensor["S", int64]) -> Any:
    return torch.gather(logits, 1, prev)


@faulty("TSR0213", "beams")
def beam_expand(seqs: Tensor["B", "K", "S", int64], beams: Tensor["B", "K", int64]) -> Any:
    return seqs.gather(1, beams.expand_as(seqs))


@faulty("TSR0305", 'Tensor["B", "K", int64]')
def beam_div(scores: Tensor["B", "K"]) -> Tensor["B", "K", int64]:
    top, flat = scores.topk(2, -1)
    return flat / 3
