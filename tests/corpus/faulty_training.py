"""Faults in steps of training: optimisers, quantisation, losses, contractions, updates."""

# ruff: noqa: RUF059

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

from tessera import Tensor, bool_, f32, int8, int64
from tests.corpus.table import faulty


@faulty("TSR0202", "v")
def adam_bad(p: Tensor["N", "D"], g: Tensor["N", "D"], v: Tensor["N", "D"]) -> Any:
    v = v.addcmul(g, g.T, value=0.01)
    return p - g / v.sqrt()


@faulty("TSR0202", "0.9 * r")
def adafactor_bad(g: Tensor["N", "D"], r: Tensor["N"], c: Tensor["D"]) -> Any:
    u = g.square()
    r = 0.9 * r + 0.1 * u.mean(dim=-2)
    return r


@faulty("TSR0202", "rf")
def adafactor_outer(g: Tensor["N", "D"], r: Tensor["N"], c: Tensor["D"]) -> Any:
    rf, cf = r.rsqrt(), c.rsqrt()
    return torch.mul(rf, cf) * g


@faulty("TSR0201", "X")
def muon_bad(g: Tensor["N", "D"]) -> Any:
    X = g / g.norm()
    A = X @ X.T
    B = A @ A
    return 3.4 * X + X @ B


@faulty("TSR0206", "b")
def clip_stack(a: Tensor["N", "D"], b: Tensor["D"]) -> Any:
    return torch.stack([a, b]).norm()


@faulty("TSR0217", "w")
def quant_rows_bad(w: Tensor["O", "I"]) -> Any:
    scale = w.abs().amax(dim=1) / 127
    return torch.clamp(torch.round(w / scale), -128, 127).to(torch.int8)


@faulty("TSR0305", 'Tensor["O", "I", int8]')
def quant_no_cast(w: Tensor["O", "I", f32]) -> Tensor["O", "I", int8]:
    scale = w.abs().amax(dim=1, keepdim=True) / 127
    return torch.clamp(torch.round(w / scale), -128, 127)


@faulty("TSR0301", "p")
def unpack_float(p: Tensor["N", "K", f32]) -> Any:
    return p & 0xF


@faulty("TSR0217", "g")
def groupwise_bad(w: Tensor["O", "32*G"]) -> Any:
    g = w.reshape(w.shape[0], -1, 32)
    s = g.abs().amax(-1).clamp_min(1e-8) / 7
    return (g / s).round()


@faulty("TSR0207", "s")
def squeeze_no_keep(w: Tensor["O", "I"]) -> Any:
    s = w.abs().amax(-1)
    return s.squeeze(-1)


@faulty("TSR0202", "acc.float()")
def int8_dot_bad(a: Tensor["M", "K", int8], b: Tensor["K", "N", int8], sa: Tensor["M"], sb: Tensor["N"]) -> Any:
    acc = torch.matmul(a.to(torch.int32), b.to(torch.int32))
    return acc.float() * sa * sb


@faulty("TSR0201", "F.linear(x, a)")
def lora_swapped(x: Tensor["...", "I"], a: Tensor["R", "I"], b: Tensor["R", "O"]) -> Any:
    return F.linear(F.linear(x, a), b)


@faulty("TSR0201", "a")
def lora_merge(w: Tensor["O", "I"], a: Tensor["R", "I"], b: Tensor["O", "R"]) -> Any:
    return w + a @ b


@faulty("TSR0201", "x")
def clip_bad(x: Tensor["N", "D"], y: Tensor["N", "D"]) -> Any:
    return x @ y


@faulty("TSR0215", "labels")
def clip_labels_again(x: Tensor["N", "D"], y: Tensor["M", "D"]) -> Any:
    logits = x @ y.t()
    labels = torch.arange(y.shape[0])
    return F.cross_entropy(logits, labels)


@faulty("TSR0202", "torch.logsumexp(logits, dim=0)")
def nce_dim(x: Tensor["N", "D"], y: Tensor["M", "D"]) -> Any:
    logits = x @ y.T
    return (torch.logsumexp(logits, dim=0) - torch.logsumexp(logits, dim=1)).mean()


@faulty("TSR0215", "y")
def smooth_ce_rank(logits: Tensor["N", "V"], y: Tensor["N", int64]) -> Any:
    lp = F.log_softmax(logits, dim=-1)
    return -lp.gather(dim=-1, index=y).mean()


@faulty("TSR0304", "y.unsqueeze(1)")
def smooth_ce_float(logits: Tensor["N", "V"], y: Tensor["N", f32]) -> Any:
    lp = F.log_softmax(logits, dim=-1)
    return -lp.gather(-1, y.unsqueeze(1)).mean()


@faulty("TSR0217", "(1 - eps) * nll")
def smooth_ce_seq(logits: Tensor["B", "S", "V"], y: Tensor["B", "S", int64], eps: float = 0.1) -> Any:
    lp = F.log_softmax(logits, dim=-1)
    nll = -lp.gather(-1, y.unsqueeze(-1))
    return ((1 - eps) * nll + eps * -lp.mean(dim=-1)).mean()


@faulty("TSR0215", "y")
def ce_seq(logits: Tensor["B", "S", "V"], y: Tensor["B", "S", int64]) -> Any:
    return F.cross_entropy(logits, y)


@faulty("TSR0215", "y.view(-1)")
def lm_loss_bad(logits: Tensor["B", "S", "V"], y: Tensor["B", "S", int64]) -> Any:
    return F.cross_entropy(logits[:, :-1].reshape(-1, logits.size(-1)), y.view(-1))


@faulty("TSR0202", "logvar.exp()")
def vae_chunk(h: Tensor["B", "S", "2*D"], eps: Tensor["B", "S", "D"]) -> Any:
    mu, logvar = h.chunk(2, dim=0)
    return mu + logvar.exp() * eps


@faulty("TSR0202", "a.sqrt()")
def ddpm_bad(x0: Tensor["B", "C", "H", "W"], ac: Tensor["T"], t: Tensor["B", int64]) -> Any:
    a = ac[t]
    return a.sqrt() * x0


@faulty("TSR0202", "x")
def film_bad(x: Tensor["B", "C", "H", "W"], e: Tensor["B", "2*C"]) -> Any:
    scale, shift = e.chunk(2, dim=1)
    return x * (1 + scale) + shift


@faulty("TSR0202", "x")
def mse_bad(x: Tensor["B", "D"], y: Tensor["B"]) -> Any:
    return F.mse_loss(x, y)


@faulty("TSR0204", "y")
def bce_bad(x: Tensor["B", 1], y: Tensor["B"]) -> Any:
    return F.binary_cross_entropy_with_logits(x, y)


@faulty("TSR0202", "q")
def kl_bad(x: Tensor["B", "V"], q: Tensor["V", "B"]) -> Any:
    lp = x.log_softmax(-1)
    return F.kl_div(lp, q, reduction="batchmean")


@faulty("TSR0202", "x")
def cos_bad(x: Tensor["B", "D"], y: Tensor["B", "E"]) -> Any:
    return F.cosine_similarity(x, y, dim=-1)


@faulty("TSR0209", "q")
def einsum_gqa_bad(q: Tensor["B", "S", "R", "G", "D"], k: Tensor["B", "T", "G", "D"]) -> Any:
    return torch.einsum("bsgrd,btgd->bgrst", q, k)


@faulty("TSR0209", "q")
def einsum_rank(q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"]) -> Any:
    return torch.einsum("bsd,btd->bst", q, k)


@faulty("TSR0209", "x")
def einsum_diag(x: Tensor["N", "M"]) -> Any:
    return torch.einsum("ii->i", x)


@faulty("TSR0210", 'Tensor["N", "A"]')
def einsum_implicit_order(x: Tensor["N", "D"], w: Tensor["D", "A"]) -> Tensor["N", "A"]:
    return torch.einsum("zd,da", x, w)


@faulty("TSR0213", "ids")
def shift_right_bad(ids: Tensor["B", "S", int64]) -> Any:
    out = ids.new_zeros(ids.shape)
    out[..., 1:] = ids
    return out


@faulty("TSR0213", "rows")
def assign_col(x: Tensor["B", "D"], rows: Tensor["D"]) -> Any:
    out = x.clone()
    out[:, 0] = rows
    return out


@faulty("TSR0215", "m")
def bool_assign_bad(x: Tensor["B", "S", "D"], m: Tensor["B", "T", bool_]) -> Any:
    y = x.clone()
    y[m] = 0.0
    return y


@faulty("TSR0202", "torch.arange(x.size(1))")
def mask_rows_bad(x: Tensor["B", "S", "D"], lens: Tensor["B", int64]) -> Any:
    idx = torch.arange(x.size(1)) >= lens
    return x.masked_fill(idx.unsqueeze(-1), 0)


@faulty("TSR0215", "seg")
def segment_bad(x: Tensor["N", "D"], seg: Tensor["M", int64], base: Tensor["K", "D"]) -> Any:
    return torch.zeros_like(base).index_add(0, seg, x)


@faulty("TSR0216", "src, dst, _")
def gcn_unpack(x: Tensor["N", "D"], edges: Tensor[2, "E", int64]) -> Any:
    src, dst, _ = edges
    return x[src]


@faulty("TSR0204", "edges")
def bucketize_2d(x: Tensor["N"], edges: Tensor["K", 2]) -> Any:
    return torch.bucketize(x, edges)


@faulty("TSR0217", "mask == 0")
def cumsum_bad(mask: Tensor["B", "S", int64]) -> Any:
    pos = mask.sum(-1) - 1
    return pos.masked_fill(mask == 0, 1)
