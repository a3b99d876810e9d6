"""Steps of training: optimisers, quantisation, losses, contractions, updates."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from tessera import Tensor, bool_, int8, int64, uint8
from tests.corpus.table import correct


@correct()
def adam(
    p: Tensor["N", "D"], g: Tensor["N", "D"], m: Tensor["N", "D"], v: Tensor["N", "D"], step: int = 3, lr: float = 1e-3
) -> tuple[Tensor["N", "D"], Tensor["N", "D"], Tensor["N", "D"]]:
    b1, b2 = 0.9, 0.999
    m = m.lerp(g, 1 - b1)
    v = (v.abs() * b2).addcmul(g, g, value=1 - b2)
    denom = (v.sqrt() / math.sqrt(1 - b2**step)).add(1e-8)
    return p - lr / (1 - b1**step) * m / denom, m, v


@correct()
def lion(
    p: Tensor["N", "D"], g: Tensor["N", "D"], m: Tensor["N", "D"], lr: float = 1e-4
) -> tuple[Tensor["N", "D"], Tensor["N", "D"]]:
    u = (m * 0.9 + g * 0.1).sign_()
    p = p * (1 - lr * 0.1)
    p = p.add(u, alpha=-1e-4)
    return p, m * 0.99 + g * 0.01


@correct()
def adafactor(
    g: Tensor["N", "D"], r: Tensor["N"], c: Tensor["D"], eps: float = 1e-30
) -> tuple[Tensor["N", "D"], Tensor["N"], Tensor["D"]]:
    u = g.square() + eps
    r = 0.9 * r.abs() + 0.1 * u.mean(dim=-1)
    c = 0.9 * c.abs() + 0.1 * u.mean(dim=-2)
    rf = (r / r.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    cf = c.unsqueeze(-2).rsqrt()
    return torch.mul(rf, cf) * g, r, c


@correct()
def muon(g: Tensor["N", "D"], steps: int = 5) -> Tensor["N", "D"]:
    a, b, c = (3.4445, -4.7750, 2.0315)
    X = g / (g.norm() + 1e-7)
    transposed = g.size(0) > g.size(1)
    if transposed:
        X = X.T
    for _ in range(steps):
        A = X @ X.T
        B = b * A + c * A @ A
        X = a * X + B @ X
    if transposed:
        X = X.T
    return X


@correct()
def ema(
    shadow: dict[str, Tensor["N", "D"]], params: dict[str, Tensor["N", "D"]], decay: float = 0.99
) -> dict[str, Tensor["N", "D"]]:
    return {k: shadow[k] * decay + params[k] * (1 - decay) for k in ("a", "b")}


@correct()
def clip_grad(a: Tensor["N", "D"], b: Tensor["D"], max_norm: float = 1.0) -> tuple[Tensor["N", "D"], Tensor["D"]]:
    total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(g) for g in (a, b)]))
    coef = torch.clamp(max_norm / (total + 1e-6), max=1.0)
    return a * coef, b * coef


@correct()
def quant_rows(w: Tensor["O", "I"]) -> tuple[Tensor["O", "I", int8], Tensor["O", 1]]:
    scale = w.abs().amax(dim=1, keepdim=True) / 127
    q = torch.clamp(torch.round(w / scale), -128, 127).to(torch.int8)
    return q, scale


@correct("guarded")
def pack_int4(q: Tensor["N", "2*K", uint8]) -> Tensor["N", "K", uint8]:
    lo, hi = q[:, ::2] & 0xF, q[:, 1::2] & 0xF
    return lo | (hi << 4)


@correct()
def unpack_int4_again(p: Tensor["N", "K", uint8], scale: Tensor["N"], zero: Tensor["N"]) -> Tensor["N", "2*K"]:
    lo = (p & 0xF).float()
    hi = (p >> 4).float()
    q = torch.stack((lo, hi), dim=-1).view(p.shape[0], -1)
    return (q - zero[:, None]) * scale[:, None]


@correct()
def groupwise(w: Tensor["O", "32*G"]) -> tuple[Tensor["O", "32*G", int8], Tensor["O", "G"]]:
    g = w.reshape(w.shape[0], -1, 32)
    s = g.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 7
    q = (g / s).round().clamp(-8, 7)
    return q.reshape(w.shape).to(torch.int8), s.squeeze(-1)


@correct()
def fake_quant(x: Tensor["B", "D"], scale: Tensor[()], zp: Tensor[()]) -> Tensor["B", "D"]:
    q = torch.clamp(torch.round(x / scale) + zp, 0, 255)
    y = (q - zp) * scale
    return x + (y - x).detach()


@correct()
def int8_dot(
    a: Tensor["M", "K", int8], b: Tensor["K", "N", int8], sa: Tensor["M", 1], sb: Tensor[1, "N"]
) -> Tensor["M", "N"]:
    acc = torch.matmul(a.to(torch.int32), b.to(torch.int32))
    return acc.float() * sa * sb


@correct()
def lora_again(
    x: Tensor["...", "I"], w: Tensor["O", "I"], a: Tensor["R", "I"], b: Tensor["O", "R"], alpha: float = 16.0
) -> Tensor["...", "O"]:
    return F.linear(x, w) + F.linear(F.linear(x, a), b) * (alpha / a.shape[0])


@correct()
def info_nce_again(x: Tensor["N", "D"], y: Tensor["N", "D"], t: float = 0.07) -> Tensor[()]:
    x = F.normalize(x, dim=-1)
    y = F.normalize(y, dim=-1)
    logits = x @ y.T / t
    return (torch.logsumexp(logits, dim=1) - logits.diag()).mean()


@correct()
def clip_loss(x: Tensor["N", "D"], y: Tensor["N", "D"], scale: float = 10.0) -> Tensor[()]:
    logits = scale * x @ y.t()
    labels = torch.arange(x.shape[0], device=x.device)
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.t(), labels)) / 2


@correct()
def triplet_again(a: Tensor["N", "D"], p: Tensor["N", "D"], n: Tensor["N", "D"], margin: float = 1.0) -> Tensor[()]:
    dp = (a - p).pow(2).sum(1)
    dn = (a - n).pow(2).sum(1)
    return F.relu(dp - dn + margin).mean()


@correct(ids={"y": 5})
def batch_hard(x: Tensor["N", "D"], y: Tensor["N", int64]) -> Tensor[()]:
    d = torch.cdist(x, x)
    same = y.unsqueeze(0) == y.unsqueeze(1)
    hp = torch.where(same, d, torch.zeros_like(d)).max(dim=1).values
    hn = d.masked_fill(same, float("inf")).min(dim=1).values
    return F.relu(hp - hn.clamp(max=1e4) + 0.3).mean()


@correct(sizes={"V": 13, "N": 17}, ids={"y": 13})
def smooth_ce(logits: Tensor["N", "V"], y: Tensor["N", int64], eps: float = 0.1) -> Tensor[()]:
    lp = F.log_softmax(logits, dim=-1)
    nll = -lp.gather(dim=-1, index=y.unsqueeze(1)).squeeze(1)
    return ((1 - eps) * nll + eps * -lp.mean(dim=-1)).mean()


@correct(sizes={"B": 3, "S": 7, "V": 13}, ids={"y": 13})
def ce_seq_ok(logits: Tensor["B", "S", "V"], y: Tensor["B", "S", int64]) -> Tensor[()]:
    return F.cross_entropy(logits.transpose(1, 2), y, ignore_index=0, label_smoothing=0.1)


@correct("guarded", sizes={"B": 3, "S": 7, "D": 16, "V": 13}, ids={"y": 13})
def lm_loss(h: Tensor["B", "S", "D"], emb: Tensor["V", "D"], y: Tensor["B", "S", int64]) -> Tensor[()]:
    logits = F.linear(h, emb)
    shift_logits = logits[..., :-1, :].contiguous()
    shift_labels = y[..., 1:].contiguous()
    return F.cross_entropy(shift_logits.view(-1, shift_logits.size(-1)), shift_labels.view(-1))


@correct()
def vae(mu: Tensor["B", "D"], logvar: Tensor["B", "D"], eps: Tensor["B", "D"]) -> tuple[Tensor["B", "D"], Tensor[()]]:
    z = mu + torch.exp(0.5 * logvar) * eps
    kl = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)
    return z, kl.mean()


@correct()
def ddpm_q(
    x0: Tensor["B", "C", "H", "W"], noise: Tensor["B", "C", "H", "W"], ac: Tensor["T"], t: Tensor["B", int64]
) -> Tensor["B", "C", "H", "W"]:
    a = ac.abs().gather(-1, t % ac.shape[0]).reshape(t.shape[0], *((1,) * (len(x0.shape) - 1)))
    return a.sqrt() * x0 + (1 - a).abs().sqrt() * noise


@correct()
def film_again(x: Tensor["B", "C", "H", "W"], e: Tensor["B", "2*C"]) -> Tensor["B", "C", "H", "W"]:
    scale, shift = e[:, :, None, None].chunk(2, dim=1)
    return x * (1 + scale) + shift


@correct()
def pairwise_cos(x: Tensor["N", "D"], y: Tensor["M", "D"]) -> Tensor["N", "M"]:
    return F.cosine_similarity(x[:, None], y[None], dim=-1)


@correct()
def einsum_gqa(
    q: Tensor["B", "S", "G", "R", "D"], k: Tensor["B", "T", "G", "D"], v: Tensor["B", "T", "G", "D"]
) -> Tensor["B", "S", "G*R*D"]:
    s = torch.einsum("bsgrd,btgd->bgrst", q, k)
    o = torch.einsum("bgrst,btgd->bsgrd", s.softmax(-1), v)
    return o.flatten(2)


@correct("guarded")
def shift_right_again(ids: Tensor["B", "S", int64], start: int = 0) -> Tensor["B", "S", int64]:
    out = ids.new_zeros(ids.shape)
    out[..., 1:] = ids[..., :-1].clone()
    out[..., 0] = start
    out.masked_fill_(out == -100, 1)
    return out


@correct()
def swap_halves(x: Tensor["B", "2*D"]) -> Tensor["B", "2*D"]:
    d = x.shape[1] // 2
    y = torch.empty_like(x)
    y[:, :d], y[:, d:] = x[:, d:], x[:, :d]
    return y


@correct()
def bool_assign(x: Tensor["B", "S", "D"], m: Tensor["B", "S", bool_]) -> Tensor["B", "S", "D"]:
    y = x.clone()
    y[~m] = 0.0
    return y


@correct()
def mask_fill_rows(x: Tensor["B", "S", "D"], lens: Tensor["B", int64]) -> Tensor["B", "S", "D"]:
    idx = torch.arange(x.size(1), device=x.device)[None, :] >= lens[:, None]
    return x.masked_fill(idx.unsqueeze(-1), 0)


@correct()
def segment_mean(x: Tensor["N", "D"], seg: Tensor["N", int64], base: Tensor["K", "D"]) -> Tensor["K", "D"]:
    s = seg % base.shape[0]
    tot = torch.zeros_like(base).index_add(0, s, x)
    cnt = torch.zeros(base.shape[0]).index_add(0, s, torch.ones(x.shape[0]))
    return tot / cnt.clamp(min=1).unsqueeze(-1)


@correct()
def bucketized(x: Tensor["N"], edges: Tensor["K"], table: Tensor["K+1", "D"]) -> Tensor["N", "D"]:
    return table[torch.bucketize(x, edges.sort().values)]


@correct()
def cumsum_positions(mask: Tensor["B", "S", int64]) -> Tensor["B", "S", int64]:
    pos = mask.long().cumsum(-1) - 1
    pos.masked_fill_(mask == 0, 1)
    return pos
