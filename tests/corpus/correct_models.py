"""Steps of language models, graphs, state spaces, optimisers and quantisation."""

# ruff: noqa: E741, RUF059

from __future__ import annotations

import math
from typing import Literal

import torch
import torch.nn.functional as F

from tessera import Tensor, bf16, bool_, f32, int8, int64, uint8
from tests.corpus.table import correct


@correct("guarded", sizes={"T": 16}, given={"pos": 3})
def kv_cache_write(
    cache: Tensor["B", "T", "H", "D"], new: Tensor["B", "S", "H", "D"], pos: int
) -> Tensor["B", "T", "H", "D"]:
    out = cache.clone()
    out[:, pos : pos + new.shape[1]] = new
    return out


@correct("deferred")
def decode_step(
    q: Tensor["B", "H", 1, "D"],
    keys: Tensor["B", "H", "T", "D"],
    values: Tensor["B", "H", "T", "D"],
    k: Tensor["B", "H", 1, "D"],
    v: Tensor["B", "H", 1, "D"],
) -> tuple[Tensor["B", "H", 1, "D"], Tensor["B", "H", "T+1", "D"], Tensor["B", "H", "T+1", "D"]]:
    keys = torch.cat([keys, k], dim=-2)
    values = torch.cat([values, v], dim=-2)
    att = torch.einsum("bhqd,bhkd->bhqk", q, keys) / math.sqrt(q.shape[-1])
    att = att.softmax(dim=-1)
    return torch.einsum("bhqk,bhkd->bhqd", att, values), keys, values


@correct("guarded", sizes={"E": 8})
def moe_topk_route(x: Tensor["N", "D"], gate: Tensor["E", "D"]) -> tuple[Tensor["N", "E"], Tensor[()]]:
    logits = F.linear(x, gate)
    probs = F.softmax(logits, dim=-1, dtype=torch.float32)
    top_w, top_i = torch.topk(probs, 2, dim=-1)
    top_w = top_w / top_w.sum(-1, keepdim=True)
    combine = torch.zeros_like(probs).scatter(-1, top_i, top_w)
    density = (combine > 0).float().mean(0)
    aux = (density * probs.mean(0)).sum() * gate.shape[0]
    return combine, aux


@correct("guarded", sizes={"V": 40, "K": 5})
def top_k_filter(logits: Tensor["B", "V"], k: int = 5) -> Tensor["B", "V"]:
    values, _ = torch.topk(logits, k)
    threshold = values[:, -1:]
    return torch.where(logits < threshold, torch.full_like(logits, -float("inf")), logits)


@correct("guarded")
def nucleus(logits: Tensor["B", "V"], p: float = 0.9) -> Tensor["B", "V"]:
    sorted_logits, order = logits.sort(dim=-1, descending=True)
    cum = sorted_logits.softmax(-1).cumsum(-1)
    remove = cum > p
    remove[:, 1:] = remove[:, :-1].clone()
    remove[:, 0] = False
    removed = remove.scatter(1, order, remove)
    return logits.masked_fill(removed, float("-inf"))


@correct("guarded", sizes={"K": 3, "V": 12})
def beam_step(
    scores: Tensor["B", "K"], logp: Tensor["B", "K", "V"]
) -> tuple[Tensor["B", "K"], Tensor["B", "K", int64], Tensor["B", "K", int64]]:
    B, K, V = logp.shape
    total = (scores[..., None] + logp).view(B, K * V)
    best, flat = total.topk(K, dim=-1)
    return best, torch.div(flat, V, rounding_mode="floor"), flat % V


@correct("proved", ids={"beam": 5})
def beam_reorder(cache: Tensor["B", "K", "T", "D"], beam: Tensor["B", "K", int64]) -> Tensor["B", "K", "T", "D"]:
    index = beam[:, :, None, None].expand(-1, -1, cache.size(2), cache.size(3))
    return cache.gather(1, index)


@correct("guarded")
def rope_complex(x: Tensor["B", "S", "H", "2*K"]) -> Tensor["B", "S", "H", "2*K"]:
    B, S, H, D = x.shape
    inv = 1.0 / (10000 ** (torch.arange(0, D, 2, device=x.device).float() / D))
    ang = torch.outer(torch.arange(S, device=x.device).float(), inv)
    cos, sin = ang.cos()[None, :, None, :], ang.sin()[None, :, None, :]
    xe, xo = x[..., ::2], x[..., 1::2]
    return torch.stack((xe * cos - xo * sin, xe * sin + xo * cos), dim=-1).flatten(-2)


@correct("proved")
def rope_tensor_positions(
    x: Tensor["B", "H", "S", "2*K"], pos: Tensor["B", "S", int64]
) -> Tensor["B", "H", "S", "2*K"]:
    d = x.shape[-1]
    freq = torch.pow(10000.0, -torch.arange(0, d, 2, dtype=torch.float32) / d)
    ang = pos[:, None, :, None].float() * freq
    emb = torch.cat([ang, ang], dim=-1)
    a, b = x.chunk(2, -1)
    return x * emb.cos() + torch.cat((-b, a), -1) * emb.sin()


@correct("proved")
def alibi_bias(S: int, H: int) -> Tensor["H", "S", "S"]:
    slopes = 2 ** (-8.0 * torch.arange(1, H + 1).float() / H)
    pos = torch.arange(S)
    rel = (pos[None, :] - pos[:, None]).abs().neg()
    return slopes.view(H, 1, 1) * rel


@correct("proved", given={"window": 3})
def windowed(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"], window: int
) -> Tensor["B", "H", "S", "D"]:
    S = q.size(-2)
    i = torch.arange(S).unsqueeze(1)
    j = torch.arange(S).unsqueeze(0)
    keep = (j <= i) & (i - j < window)
    s = torch.matmul(q, k.transpose(-1, -2)) * (q.size(-1) ** -0.5)
    s = s.masked_fill(~keep[None, None], torch.finfo(s.dtype).min)
    return s.softmax(-1).matmul(v)


@correct("deferred")
def attention_with_optional(
    q: Tensor["B", "H", "S", "D"],
    k: Tensor["B", "H", "T", "D"],
    v: Tensor["B", "H", "T", "D"],
    mask: Tensor["B", 1, "S", "T", bool_] | None = None,
    bias: Tensor["H", "S", "T"] | None = None,
    scale: float | None = None,
) -> Tensor["B", "H", "S", "D"]:
    scale = scale if scale is not None else 1.0 / math.sqrt(q.shape[-1])
    s = q @ k.mT * scale
    if bias is not None:
        s = s + bias
    if mask is not None:
        s = s.masked_fill(mask.logical_not(), float("-inf"))
    return F.softmax(s, dim=-1) @ v


@correct("guarded", sizes={"H": 4, "D": 8})
def mha_from_weights(
    x: Tensor["B", "S", "D"], qkv_w: Tensor["3*D", "D"], qkv_b: Tensor["3*D"], o_w: Tensor["D", "D"], num_heads: int = 4
) -> Tensor["B", "S", "D"]:
    B, S, D = x.shape
    assert D % num_heads == 0, "width must divide"
    hd = D // num_heads
    qkv = F.linear(x, qkv_w, qkv_b)
    qkv = qkv.reshape(B, S, 3, num_heads, hd).permute(2, 0, 3, 1, 4)
    q, k, v = qkv[0], qkv[1], qkv[2]
    y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    y = y.transpose(1, 2).contiguous().view(B, S, D)
    return F.linear(y, o_w)


@correct("proved")
def mla_down_up(
    x: Tensor["B", "S", "D"], down: Tensor["D", "R"], up: Tensor["R", "2*H*K"], H: int, K: int
) -> tuple[Tensor["B", "H", "S", "K"], Tensor["B", "H", "S", "K"]]:
    c = x @ down
    kv = (c @ up).unflatten(-1, (2, H, K))
    k, v = kv.unbind(2)
    return k.transpose(1, 2), v.transpose(1, 2)


@correct("guarded", ids={"tokens": 11})
def shift_right(tokens: Tensor["B", "S", int64], start: int = 0) -> Tensor["B", "S", int64]:
    shifted = tokens.new_zeros(tokens.shape)
    shifted[:, 1:] = tokens[:, :-1].clone()
    shifted[:, 0] = start
    return shifted


@correct("proved", ids={"tokens": 5})
def padding_positions(tokens: Tensor["B", "S", int64], pad: int = 0) -> Tensor["B", "S", int64]:
    mask = tokens.ne(pad).int()
    return (torch.cumsum(mask, dim=1).type_as(mask) * mask).long() + pad


@correct("proved", ids={"lengths": 6})
def lengths_to_mask(x: Tensor["B", "S", "D"], lengths: Tensor["B", int64]) -> Tensor["B", "S", "D"]:
    mask = torch.arange(x.shape[1], device=lengths.device)[None, :] < lengths[:, None]
    return x * mask.unsqueeze(-1).to(x)


@correct("proved", ids={"lengths": 6})
def last_hidden(x: Tensor["B", "S", "D"], lengths: Tensor["B", int64]) -> Tensor["B", "D"]:
    i = (lengths - 1).clamp(min=0).view(-1, 1, 1).expand(-1, 1, x.size(2))
    return x.gather(1, i).squeeze(1)


@correct("proved")
def lora(
    x: Tensor["B", "S", "I"], w: Tensor["O", "I"], a: Tensor["R", "I"], b: Tensor["O", "R"], alpha: float = 16.0
) -> Tensor["B", "S", "O"]:
    return F.linear(x, w) + (alpha / a.shape[0]) * F.linear(F.linear(x, a), b)


@correct("proved", ids={"edges": 7})
def gcn(x: Tensor["N", "D"], edges: Tensor[2, "M", int64], w: Tensor["D", "F"]) -> Tensor["N", "F"]:
    src, dst = edges
    n = x.size(0)
    deg = torch.zeros(n, dtype=x.dtype).scatter_add(0, dst, torch.ones_like(dst, dtype=x.dtype))
    norm = deg.clamp(min=1).rsqrt()
    msg = (x @ w)[src] * (norm[src] * norm[dst]).unsqueeze(-1)
    return torch.zeros(n, w.size(1)).index_add(0, dst, msg)


@correct("proved", ids={"labels": 3})
def supcon(z: Tensor["N", "D"], labels: Tensor["N", int64]) -> Tensor["N"]:
    labels = labels.contiguous().view(-1, 1)
    mask = torch.eq(labels, labels.T).float()
    logits = z @ z.T
    logits = logits - logits.max(dim=1, keepdim=True)[0].detach()
    eye = torch.eye(z.shape[0])
    mask = mask * (1 - eye)
    denom = (torch.exp(logits) * (1 - eye)).sum(1, keepdim=True)
    logp = logits - torch.log(denom)
    return -(mask * logp).sum(1) / mask.sum(1).clamp(min=1)


@correct("proved")
def gae(rewards: Tensor[5, "B"], values: Tensor[6, "B"], gamma: float = 0.99, lam: float = 0.95) -> Tensor[5, "B"]:
    last = torch.zeros_like(rewards[0])
    out = []
    for t in reversed(range(5)):
        delta = rewards[t] + gamma * values[t + 1] - values[t]
        last = delta + gamma * lam * last
        out.insert(0, last)
    return torch.stack(out)


@correct("proved")
def newton_schulz(g: Tensor["N", "M"], steps: int = 3) -> Tensor["N", "M"]:
    a, b, c = (3.4445, -4.7750, 2.0315)
    x = g / (g.norm() + 1e-7)
    for _ in range(steps):
        A = x @ x.T
        B = b * A + c * A @ A
        x = a * x + B @ x
    return x


@correct("proved")
def asym_quant(
    x: Tensor["N", "K*32", f32],
) -> tuple[Tensor["N", "K", 32, uint8], Tensor["N", "K", 1, f32], Tensor["N", "K", 1, f32]]:
    g = x.unflatten(-1, (-1, 32))
    lo, hi = g.aminmax(dim=-1, keepdim=True)
    s = (hi - lo) / 255
    q = ((g - lo) / s).round().clamp(0, 255).to(torch.uint8)
    return q, s, lo


@correct("proved")
def unpack_int4(p: Tensor["N", "D", uint8]) -> Tensor["N", "2*D", int8]:
    low = (p & 0x0F).to(torch.int8) - 8
    high = (p >> 4).to(torch.int8) - 8
    return torch.stack((low, high), dim=-1).view(p.shape[0], -1)


@correct("proved", ids={"codes": 16})
def nf4_dequant(codes: Tensor["N", "K*16", int64], absmax: Tensor["N", "K"], table: Tensor[16]) -> Tensor["N", "K*16"]:
    n = codes.shape[0]
    v = table[codes].view(n, -1, 16) * absmax[:, :, None]
    return v.flatten(1)


@correct("proved")
def vq(x: Tensor["B", "S", "D"], code: Tensor["K", "D"]) -> tuple[Tensor["B", "S", "D"], Tensor["B", "S", int64]]:
    d = x.pow(2).sum(-1, keepdim=True) - 2 * x @ code.t() + code.pow(2).sum(-1)
    i = d.argmin(dim=-1)
    q = F.embedding(i, code)
    return x + (q - x).detach(), i


@correct("proved")
def gumbel_hard(logits: Tensor["B", "K"], noise: Tensor["B", "K"]) -> Tensor["B", "K"]:
    y = ((logits + noise) / 0.7).softmax(-1)
    i = y.max(-1, keepdim=True)[1]
    hard = torch.zeros_like(logits).scatter_(-1, i, 1.0)
    return hard - y.detach() + y


@correct("proved")
def lstm_two_steps(
    x: Tensor["B", 2, "E"], w: Tensor["4*D", "E+D"], b: Tensor["4*D"], h: Tensor["B", "D"], c: Tensor["B", "D"]
) -> Tensor["B", 2, "D"]:
    outs = []
    for t in range(x.shape[1]):
        z = F.linear(torch.cat([x[:, t], h], dim=-1), w, b)
        i, f, g, o = z.chunk(4, -1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        outs.append(h)
    return torch.stack(outs, dim=1)


@correct("proved")
def ssm_step(
    h: Tensor["B", "D", "N"],
    x: Tensor["B", "D"],
    dt: Tensor["B", "D"],
    A: Tensor["D", "N"],
    Bm: Tensor["B", "N"],
    C: Tensor["B", "N"],
) -> tuple[Tensor["B", "D"], Tensor["B", "D", "N"]]:
    dA = torch.exp(torch.einsum("bd,dn->bdn", F.softplus(dt), -A.abs()))
    dB = torch.einsum("bd,bn->bdn", dt, Bm)
    h = h * dA + x.unsqueeze(-1) * dB
    return torch.einsum("bdn,bn->bd", h, C), h


@correct("proved")
def causal_conv_update(
    x: Tensor["B", "D"], state: Tensor["B", "D", 4], w: Tensor["D", 4]
) -> tuple[Tensor["B", "D"], Tensor["B", "D", 4]]:
    state = torch.roll(state, shifts=-1, dims=-1)
    new = state.clone()
    new[:, :, -1] = x
    return F.silu((new * w).sum(-1)), new


@correct("proved")
def linear_attn(
    q: Tensor["B", "H", "S", "K"], k: Tensor["B", "H", "S", "K"], v: Tensor["B", "H", "S", "D"]
) -> Tensor["B", "H", "S", "D"]:
    q, k = F.elu(q) + 1, F.elu(k) + 1
    kv = torch.einsum("bhsk,bhsd->bhskd", k, v).cumsum(2)
    z = 1 / (torch.einsum("bhsk,bhsk->bhs", q, k.cumsum(-2)) + 1e-6)
    return torch.einsum("bhsk,bhskd,bhs->bhsd", q, kv, z)


@correct("guarded", sizes={"S": 6})
def token_shift(x: Tensor["B", "S", "D"], mu: Tensor["D"]) -> Tensor["B", "S", "D"]:
    prev = F.pad(x, (0, 0, 1, -1))
    return x * mu + prev * (1 - mu)


@correct("guarded", sizes={"H": 6, "W": 8})
def resize_to(x: Tensor["B", "C", "H", "W"], y: Tensor["B", "C", "P", "Q"]) -> Tensor["B", "C", "P", "Q"]:
    return F.interpolate(x, size=y.shape[-2:], mode="bilinear", align_corners=False) + y


@correct("proved")
def upcast(x: Tensor["B", "S", "D", bf16], w: Tensor["D", bf16]) -> Tensor["B", "S", "D", bf16]:
    dt = x.dtype
    h = x.float()
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * h.to(dt)


@correct("proved")
def bucketed(dist: Tensor["S", "T", int64], table: Tensor[32, "H"]) -> Tensor["H", "S", "T"]:
    n = dist.abs()
    small = n < 8
    large = 8 + (torch.log(n.float().clamp(min=1) / 8) / math.log(16) * 8).long()
    b = torch.where(small, n, large.clamp(max=31))
    return F.embedding(b, table).permute(2, 0, 1)


@correct("guarded")
def rel_shift(x: Tensor["B", "H", "S", "2*S-1"]) -> Tensor["B", "H", "S", "S"]:
    b, h, s, l = x.shape
    x = F.pad(x, (1, 0)).view(b, h, l + 1, s)
    return x[:, :, 1:].reshape(b, h, s, l)[..., :s]


@correct("proved")
def tri_index(x: Tensor["B", 6, "D"]) -> Tensor["B", 15]:
    i, j = torch.triu_indices(6, 6, offset=1)
    g = torch.bmm(x, x.mT)
    return g[:, i, j]


@correct("guarded", sizes={"S": 8})
def merge_patches(x: Tensor["B", "2*H", "2*W", "C"], red: Tensor["4*C", "2*C"]) -> Tensor["B", "H*W", "2*C"]:
    B, H, W, C = x.shape
    x0, x1, x2, x3 = x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]
    y = torch.cat([x0, x1, x2, x3], -1).view(B, -1, 4 * C)
    return y @ red


@correct("proved")
def literal_mode(x: Tensor["B", "S"], reduction: Literal["mean", "sum", "none"] = "mean") -> Tensor:
    if reduction == "mean":
        return x.mean()
    if reduction == "sum":
        return x.sum()
    return x


@correct("guarded")
def split_by_half(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
    width = x.shape[-1]
    assert width % 2 == 0
    a, b = x.split(width // 2, dim=-1)
    return torch.cat([-b, a], -1) * x


@correct("guarded", sizes={"D": 9})
def split_by_thirds(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D/3"]:
    a, b, c = torch.split(x, x.shape[-1] // 3, -1)
    return a * b + c


@correct("proved")
def weights_on_demand(q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"], need: bool = False) -> Tensor["B", "S", "D"]:
    weights = (q @ k.mT).softmax(-1)
    return (weights @ k, weights) if need else weights @ k  # type: ignore[return-value]


@correct("proved")
def entries_by_name(x: Tensor["B", "D"], w: dict[str, Tensor["D", "D"]]) -> Tensor["B", "D"]:
    return F.linear(torch.relu(x @ w["a"]), w["b"])


@correct("proved")
def similarity_without_itself(z: Tensor["2*B", "D"], tau: float = 0.5) -> Tensor[()]:
    z = F.normalize(z, dim=1)
    n = z.shape[0]
    sim = torch.mm(z, z.t()) / tau
    sim.fill_diagonal_(-9e15)
    return F.cross_entropy(sim, (torch.arange(n) + n // 2) % n)
