"""Faults in language models, vision and speech."""

# ruff: noqa: RUF059

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tessera import Tensor, int64
from tests.corpus.table import faulty


@faulty("TSR0213", "new")
def kv_cache_write_turned(
    cache: Tensor["B", "T", "H", "D"], new: Tensor["B", "H", "S", "D"], pos: int
) -> Tensor["B", "T", "H", "D"]:
    out = cache.clone()
    out[:, pos : pos + new.shape[2]] = new
    return out


@faulty("TSR0206", "cache[:, :, 1:]")
def kv_cache_roll_heads(cache: Tensor["B", "H", "T", "D"], new: Tensor["B", 1, "H", "D"]) -> Any:
    return torch.cat((cache[:, :, 1:], new), dim=2)


@faulty("TSR0210", 'Tensor["B", "H", "T", "D"]')
def kv_cache_grown(cache: Tensor["B", "H", "T", "D"], new: Tensor["B", "H", 1, "D"]) -> Tensor["B", "H", "T", "D"]:
    return torch.cat((cache, new), dim=2)


@faulty("TSR0209", "q")
def decode_einsum(q: Tensor["B", "H", 1, "D"], keys: Tensor["B", "T", "H", "D"]) -> Any:
    return torch.einsum("bhqd,bhkd->bhqk", q, keys)


@faulty("TSR0217", "probs")
def moe_no_keepdim(x: Tensor["N", "D"], gate: Tensor["E", "D"]) -> Any:
    probs = F.softmax(F.linear(x, gate), dim=-1)
    return probs / probs.sum(-1)


@faulty("TSR0215", "idx")
def moe_scatter_rank(probs: Tensor["N", "E"], idx: Tensor["N", int64], w: Tensor["N"]) -> Tensor["N", "E"]:
    return torch.zeros_like(probs).scatter(-1, idx, w)


@faulty("TSR0205", "scores + logp")
def beam_flat(scores: Tensor["B", "K", 1], logp: Tensor["B", "K", "V"]) -> Any:
    B, K, V = logp.shape
    return (scores + logp).view(B * V, V).topk(K)


@faulty("TSR0202", "scores")
def beam_scores(scores: Tensor["B", "K"], logp: Tensor["B", "K", "V"]) -> Any:
    return scores + logp


@faulty("TSR0215", "beam")
def beam_reorder_rank(cache: Tensor["B", "K", "T", "D"], beam: Tensor["B", "K", int64]) -> Any:
    return cache.gather(1, beam)


@faulty("TSR0202", "xe")
def rope_outer(x: Tensor["B", "S", "H", "2*K"]) -> Any:
    B, S, H, D = x.shape
    inv = 1.0 / (10000 ** (torch.arange(0, D, 2).float() / D))
    ang = torch.outer(torch.arange(S).float(), inv)
    xe = x[..., ::2]
    return xe * ang.cos()


@faulty("TSR0210", 'Tensor["B", "S", "H", "2*K"]')
def rope_flatten_all(x: Tensor["B", "S", "H", "2*K"]) -> Tensor["B", "S", "H", "2*K"]:
    xe, xo = x[..., ::2], x[..., 1::2]
    return torch.stack((-xo, xe), dim=-1).flatten(-3)


@faulty("TSR0202", "keep[None]")
def window_of_heads(s: Tensor["B", "H", "S", "S"], q: Tensor["B", "S", "H", "D"]) -> Any:
    n = q.size(-2)
    i = torch.arange(n)
    keep = i[:, None] >= i[None]
    return s.masked_fill(keep[None], -1e9)


@faulty("TSR0202", "s")
def optional_bias_rank(s: Tensor["B", "H", "S", "T"], bias: Tensor["H", "S"] | None = None) -> Any:
    if bias is not None:
        s = s + bias
    return s


@faulty("TSR0205", "F.linear(x, w)")
def qkv_three(x: Tensor["B", "S", "D"], w: Tensor["2*D", "D"], heads: int) -> Any:
    B, S, D = x.shape
    return F.linear(x, w).reshape(B, S, 3, heads, D // heads)


@faulty("TSR0201", "y")
def out_proj_unmerged(q: Tensor["B", "H", "S", "K"], v: Tensor["B", "H", "S", "K"], wo: Tensor["H*K", "D"]) -> Any:
    y = F.scaled_dot_product_attention(q, q, v)
    return y @ wo


@faulty("TSR0201", "c")
def mla_up(x: Tensor["B", "S", "D"], down: Tensor["D", "R"], up: Tensor["D", "2*K"]) -> Any:
    c = x @ down
    return c @ up


@faulty("TSR0202", "q / q.norm(dim=-1, keepdim=True)")
def qk_gain(q: Tensor["B", "H", "S", "D"], gain: Tensor["H"]) -> Any:
    return q / q.norm(dim=-1, keepdim=True) * gain


@faulty("TSR0213", "tokens")
def shift_right_whole(tokens: Tensor["B", "S", int64]) -> Any:
    shifted = tokens.new_zeros(tokens.shape)
    shifted[:, 1:] = tokens
    return shifted


@faulty("TSR0202", "torch.arange(x.shape[1])")
def lengths_mask(x: Tensor["B", "S", "D"], lengths: Tensor["B", int64]) -> Any:
    return torch.arange(x.shape[1]) < lengths


@faulty("TSR0202", "x")
def lengths_mask_last(x: Tensor["B", "S", "D"], lengths: Tensor["B", int64]) -> Any:
    mask = torch.arange(x.shape[1])[None, :] < lengths[:, None]
    return x * mask.to(x)


@faulty("TSR0201", "F.linear(x, a)")
def lora_turned(x: Tensor["B", "S", "I"], a: Tensor["R", "I"], b: Tensor["R", "O"]) -> Any:
    return F.linear(F.linear(x, a), b)


@faulty("TSR0202", "F.embedding(ids, word)")
def bert_positions(ids: Tensor["B", "S", int64], word: Tensor["V", "D"], posn: Tensor[64, "D"]) -> Any:
    return F.embedding(ids, word) + posn[torch.arange(ids.size(0))]


@faulty("TSR0202", "g")
def layer_norm_weight(x: Tensor["B", "S", "D"], g: Tensor["S"]) -> Any:
    return F.layer_norm(x, (x.size(-1),), weight=g)


@faulty("TSR0201", "F.silu(gate).mul(up)")
def swiglu_full(x: Tensor["B", "S", "D"], w_in: Tensor["2*F", "D"], w_out: Tensor["D", "2*F"]) -> Any:
    gate, up = F.linear(x, w_in).chunk(2, dim=-1)
    return F.linear(F.silu(gate).mul(up), w_out)


@faulty("TSR0202", "p @ v")
def flash_sum(q: Tensor["S", "D"], k: Tensor["T", "D"], v: Tensor["T", "E"]) -> Any:
    s = q @ k.T
    p = torch.exp(s - s.amax(-1, keepdim=True))
    return (p @ v) / p.sum(0, keepdim=True)


@faulty("TSR0202", "F.conv2d(x, w1, stride=2, padding=1)")
def resnet_skip(x: Tensor["B", "C", "H", "W"], w1: Tensor["C", "C", 3, 3]) -> Any:
    return F.relu(F.conv2d(x, w1, stride=2, padding=1) + x)


@faulty("TSR0206", "low")
def unet_cat(low: Tensor["B", "C", "H", "W"], high: Tensor["B", "E", "2*H", "2*W"]) -> Any:
    return torch.cat([low, high], dim=1)


@faulty("TSR0206", "F.interpolate(low, scale_factor=2)")
def unet_cat_dim(low: Tensor["B", "C", "H", "W"], high: Tensor["B", "E", "2*H", "2*W"]) -> Any:
    return torch.cat([F.interpolate(low, scale_factor=2), high], dim=2)


@faulty("TSR0201", "F.adaptive_avg_pool2d(x, 1)")
def classifier_unflat(x: Tensor["B", "C", "H", "W"], w: Tensor["K", "C"]) -> Any:
    return F.linear(F.adaptive_avg_pool2d(x, 1), w)


@faulty("TSR0216", "cx, cy, w")
def boxes_three(boxes: Tensor["N", 4]) -> Any:
    cx, cy, w = boxes.unbind(-1)
    return cx + cy + w


@faulty("TSR0202", "a[:, :2]")
def iou_no_none(a: Tensor["N", 4], b: Tensor["M", 4]) -> Any:
    return torch.max(a[:, :2], b[:, :2])


@faulty("TSR0202", "area_a")
def iou_union(a: Tensor["N", 4], b: Tensor["M", 4]) -> Any:
    area_a = (a[:, 2] - a[:, 0]) * (a[:, 3] - a[:, 1])
    area_b = (b[:, 2] - b[:, 0]) * (b[:, 3] - b[:, 1])
    return area_a + area_b


@faulty("TSR0212", "boxes")
def box_index(boxes: Tensor["N", 4]) -> Any:
    return boxes[:, 4]


@faulty("TSR0204", "target")
def bce_target(logits: Tensor["B", "C"], target: Tensor["B"]) -> Any:
    return F.binary_cross_entropy_with_logits(logits, target)


@faulty("TSR0205", "x")
def window_wrong(x: Tensor["B", "2*H", "2*W", "C"]) -> Any:
    B, H, W, C = x.shape
    return x.view(B, H // 2, 2, W // 2, C)


@faulty("TSR0210", 'Tensor["B", "2*H", "2*W", "C"]')
def window_reverse_wrong(win: Tensor["B*H*W", 4, "C"], B: int, H: int, W: int) -> Tensor["B", "2*H", "2*W", "C"]:
    x = win.view(B, H, W, 2, 2, -1)
    return x.permute(0, 1, 3, 4, 2, 5).reshape(B, 2 * H, W * 2, -1).transpose(1, 2)


@faulty("TSR0202", "p.sum(3)")
def spatial_axis(p: Tensor["B", "C", "H", "W"]) -> Any:
    xs = torch.linspace(-1, 1, p.shape[3])
    return (p.sum(3) * xs).sum(-1)


@faulty("TSR0202", "x")
def se_no_dims(x: Tensor["B", "C", "H", "W"], w: Tensor["C", "C"]) -> Any:
    return x * torch.sigmoid(x.mean((2, 3)) @ w)


@faulty("TSR0202", "a")
def q_sample_no_view(x0: Tensor["B", "C", "H", "W"], t: Tensor["B", int64], ab: Tensor["L"]) -> Any:
    a = ab.sqrt()[t]
    return a * x0


@faulty("TSR0202", "gate")
def adaln_unsq(x: Tensor["B", "S", "D"], c: Tensor["B", "E"], w: Tensor["3*D", "E"]) -> Any:
    shift, scale, gate = F.linear(F.silu(c), w).chunk(3, dim=1)
    h = x.unsqueeze(0)
    return gate * h + shift


@faulty("TSR0202", "wave.unfold(-1, 400, 160)")
def frames_window(wave: Tensor["B", "L"], win: Tensor[512]) -> Any:
    return wave.unfold(-1, 400, 160) * win


@faulty("TSR0201", "fb")
def mel_order(power: Tensor["B", "F", "T"], fb: Tensor["F", "M"]) -> Any:
    return fb @ power


@faulty("TSR0201", "x")
def conv1d_layout(x: Tensor["B", "T", "D"], w: Tensor["O", "D", 3]) -> Any:
    return F.conv1d(x, w)


@faulty("TSR0202", "torch.logaddexp(alpha, prev)")
def ctc_vocab(alpha: Tensor["B", "S"], logp: Tensor["B", "V"]) -> Any:
    prev = F.pad(alpha, (1, 0))[:, :-1]
    return torch.logaddexp(alpha, prev) + logp


@faulty("TSR0202", "alpha")
def ctc_pad(alpha: Tensor["B", "S"]) -> Any:
    prev = F.pad(alpha, (1, 0))
    return torch.logaddexp(alpha, prev)


@faulty("TSR0202", "best")
def viterbi_add(score: Tensor["B", "K"], trans: Tensor["K", "K"], emit: Tensor["B", "M"]) -> Any:
    best, back = (score.unsqueeze(2) + trans).max(dim=1)
    return best + emit
