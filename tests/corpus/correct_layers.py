"""Layers, norms and losses."""

# ruff: noqa: F722

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int

import tessera
from tessera import Tensor, bf16, f32, floating, int64
from tests.corpus.table import correct


@correct("proved")
def rms_norm(x: Tensor["B", "S", "D"], weight: Tensor["D"], eps: float = 1e-6) -> Tensor["B", "S", "D"]:
    return x * tessera.rsqrt(tessera.mean(x**2, dim=-1, keepdim=True) + eps) * weight


@correct("proved")
def layer_norm_by_hand(x: Tensor["...", "D"], g: Tensor["D"], b: Tensor["D"]) -> Tensor["...", "D"]:
    mu = x.mean(dim=-1, keepdim=True)
    var = x.var(dim=-1, keepdim=True, unbiased=False)
    return (x - mu) / torch.sqrt(var + 1e-5) * g + b


@correct("proved")
def layer_norm_by_unsqueeze(x: Tensor["B", "S", "D"]) -> Tensor["B", "S", "D"]:
    mu = torch.mean(x, -1).unsqueeze(-1)
    sigma = torch.std(x, -1)[..., None]
    return (x - mu) / (sigma + 1e-6)


@correct("proved")
def residual_layer_norm(
    x: Tensor["B", "S", "D"], r: Tensor["B", "S", "D"], w: Tensor["D"], b: Tensor["D"]
) -> tuple[Tensor["B", "S", "D"], Tensor["B", "S", "D"]]:
    h = x + r
    return F.layer_norm(h, [h.shape[-1]], w, b, eps=1e-5), h


@correct("proved")
def batch_norm_eval(
    x: Tensor["B", "C", "H", "W"], mean: Tensor["C"], var: Tensor["C"], w: Tensor["C"], b: Tensor["C"]
) -> Tensor["B", "C", "H", "W"]:
    scale = w / torch.sqrt(var.abs() + 1e-5)
    return x * scale.view(1, -1, 1, 1) + (b - mean * scale).view(1, -1, 1, 1)


@correct("proved")
def batch_norm_torch(
    x: Tensor["B", "C", "L"], mean: Tensor["C"], var: Tensor["C"], w: Tensor["C"], b: Tensor["C"]
) -> Tensor["B", "C", "L"]:
    return F.batch_norm(x, mean, var.abs(), w, b, training=False)


@correct("proved")
def group_norm(x: Tensor["B", "G*K", "L"], w: Tensor["G*K"], G: int) -> Tensor["B", "G*K", "L"]:
    b, c, n = x.shape
    g = x.reshape(b, G, c // G, n)
    g = (g - g.mean(dim=(2, 3), keepdim=True)) * torch.rsqrt(g.var(dim=(2, 3), keepdim=True, correction=0) + 1e-5)
    return g.reshape(b, c, n) * w[:, None]


@correct("proved")
def instance_norm(x: Tensor["B", "C", "H", "W"]) -> Tensor["B", "C", "H", "W"]:
    mean = x.mean((-2, -1), keepdim=True)
    return (x - mean) * (x.var((-2, -1), keepdim=True) + 1e-5).rsqrt()


@correct("proved")
def softmax_by_hand(x: Tensor["B", "V"]) -> Tensor["B", "V"]:
    shifted = x - x.max(dim=-1, keepdim=True).values
    e = torch.exp(shifted)
    return e / e.sum(dim=-1, keepdim=True)


@correct("proved")
def log_softmax_by_hand(x: Tensor["B", "V"]) -> Tensor["B", "V"]:
    return x - torch.logsumexp(x, dim=-1, keepdim=True)


@correct("proved")
def mlp(x: Tensor["B", "D"], w1: Tensor["F", "D"], b1: Tensor["F"], w2: Tensor["O", "F"]) -> Tensor["B", "O"]:
    hidden = F.relu(F.linear(x, w1, b1))
    return F.linear(hidden, w2)


@correct("proved")
def swiglu(
    x: Tensor["B", "S", "D"], gate: Tensor["D", "F"], up: Tensor["D", "F"], down: Tensor["F", "D"]
) -> Tensor["B", "S", "D"]:
    return (F.silu(x @ gate) * (x @ up)) @ down


@correct("guarded", sizes={"F": 10})
def geglu(x: Tensor["B", "S", "D"], w: Tensor["D", "F"]) -> Tensor["B", "S", "F/2"]:
    value, gate = (x @ w).chunk(2, dim=-1)
    return value * F.gelu(gate, approximate="tanh")


@correct("proved")
def bias_gelu(x: Tensor["B", "S", "D"], bias: Tensor["D"]) -> Tensor["B", "S", "D"]:
    z = x + bias
    return 0.5 * z * (1 + torch.tanh(0.7978845608 * (z + 0.044715 * z**3)))


@correct("proved", ids={"target": 11})
def cross_entropy(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Tensor[()]:
    return F.cross_entropy(logits, target)


@correct("proved", ids={"target": 11})
def cross_entropy_by_hand(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Tensor[()]:
    log_probs = logits - logits.logsumexp(dim=-1, keepdim=True)
    picked = log_probs.gather(1, target.unsqueeze(1)).squeeze(1)
    return -picked.mean()


@correct("proved", ids={"target": 11})
def cross_entropy_of_tokens(logits: Tensor["B", "S", "V"], target: Tensor["B", "S"]) -> Tensor[()]:
    return F.cross_entropy(logits.view(-1, logits.size(-1)), target.view(-1))


@correct("guarded", ids={"tokens": 11})
def next_token_loss(logits: Tensor["B", "S", "V"], tokens: Tensor["B", "S", int64]) -> Tensor[()]:
    shifted = logits[:, :-1, :]
    labels = tokens[:, 1:]
    return F.cross_entropy(shifted.reshape(-1, shifted.shape[-1]), labels.reshape(-1))


@correct("proved", ids={"target": 11})
def label_smoothing(logits: Tensor["N", "V"], target: Tensor["N", int64], eps: float = 0.1) -> Tensor[()]:
    logp = F.log_softmax(logits, dim=-1)
    nll = -logp[torch.arange(logits.shape[0]), target]
    return ((1 - eps) * nll - eps * logp.mean(dim=-1)).mean()


@correct("proved")
def masked_mean(x: Tensor["B", "S", "D"], mask: Tensor["B", "S", bool]) -> Tensor["B", "D"]:
    m = mask.unsqueeze(-1).to(x.dtype)
    return (x * m).sum(dim=1) / m.sum(dim=1).clamp(min=1)


@correct("proved")
def mse(x: Tensor["B", "D"], y: Tensor["B", "D"]) -> Tensor[()]:
    return ((x - y) ** 2).mean()


@correct("proved")
def info_nce(a: Tensor["B", "D"], b: Tensor["B", "D"], temperature: float = 0.07) -> Tensor[()]:
    a = F.normalize(a, dim=-1)
    b = F.normalize(b, dim=-1)
    logits = a @ b.T / temperature
    labels = torch.arange(a.shape[0])
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@correct("proved")
def nt_xent_similarity(a: Tensor["B", "D"], b: Tensor["B", "D"]) -> Tensor["2*B", "2*B"]:
    z = torch.cat([a, b], dim=0)
    z = z / z.norm(dim=1, keepdim=True)
    same = torch.eye(z.shape[0], dtype=torch.bool)
    return (z @ z.t()).masked_fill(same, float("-inf"))


@correct("proved")
def triplet(a: Tensor["B", "D"], p: Tensor["B", "D"], n: Tensor["B", "D"], margin: float = 1.0) -> Tensor[()]:
    near = (a - p).pow(2).sum(-1)
    far = (a - n).pow(2).sum(-1)
    return torch.clamp(near - far + margin, min=0).mean()


@correct("proved")
def distances(x: Tensor["N", "D"], y: Tensor["M", "D"]) -> Tensor["N", "M"]:
    return (x[:, None, :] - y[None, :, :]).square().sum(dim=-1).sqrt()


@correct("proved")
def kl(p: Tensor["B", "V"], q: Tensor["B", "V"]) -> Tensor["B"]:
    return (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)


@correct("proved")
def bce(logits: Tensor["B", "C"], y: Tensor["B", "C"]) -> Tensor[()]:
    return F.binary_cross_entropy_with_logits(logits, y)


@correct("proved")
def adamw(
    p: Tensor["N"], g: Tensor["N"], m: Tensor["N"], v: Tensor["N"], lr: float = 1e-3, wd: float = 0.01
) -> tuple[Tensor["N"], Tensor["N"], Tensor["N"]]:
    m = 0.9 * m + 0.1 * g
    v = (0.999 * v + 0.001 * g * g).abs()
    update = m / (v.sqrt() + 1e-8) + wd * p
    return p - lr * update, m, v


@correct("proved")
def adamw_of_any_shape(
    p: Tensor["..."], g: Tensor["..."], m: Tensor["..."], v: Tensor["..."], step: int = 3
) -> tuple[Tensor["..."], Tensor["..."], Tensor["..."]]:
    m = m.lerp(g, 0.1)
    v = v.mul(0.999).addcmul(g, g, value=0.001).abs()
    hat = m / (1 - 0.9**step)
    return p - 1e-3 * hat / (torch.sqrt(v / (1 - 0.999**step)) + 1e-8), m, v


@correct("proved")
def sgd_momentum(p: Tensor["N", "M"], g: Tensor["N", "M"], buf: Tensor["N", "M"]) -> dict[str, Tensor["N", "M"]]:
    buf = 0.9 * buf + g
    return {"p": p - 0.1 * buf, "buf": buf}


@correct("proved", ids={"ids": 11})
def embed(ids: Tensor["B", "S", int64], table: Tensor["V", "D"], pos: Tensor["S", "D"]) -> Tensor["B", "S", "D"]:
    return F.embedding(ids, table) * 2.0 + pos


@correct("guarded", ids={"ids": 11}, sizes={"M": 9})
def embed_with_slice(
    ids: Tensor["B", "S", int64], table: Tensor["V", "D"], pos: Tensor["M", "D"]
) -> Tensor["B", "S", "D"]:
    s = ids.shape[1]
    return table[ids] + pos[:s]


@correct("proved", ids={"ids": 11})
def tied_logits(ids: Tensor["B", "S", int64], table: Tensor["V", "D"]) -> Tensor["B", "S", "V"]:
    h = table[ids]
    return h @ table.T


@correct("proved", ids={"labels": 5})
def one_hot_loss(logits: Tensor["B", 5], labels: Tensor["B", int64]) -> Tensor["B"]:
    hot = F.one_hot(labels, num_classes=5).float()
    return -(hot * logits.log_softmax(dim=1)).sum(dim=1)


@correct("proved", ids={"target": 11})
def accuracy(logits: Tensor["N", "V"], target: Tensor["N", int64]) -> Tensor[(), f32]:
    return (logits.argmax(dim=-1) == target).float().mean()


@correct("proved", tolerance=2e-2)
def mixed_linear(x: Tensor["B", "D", bf16], w: Tensor["F", "D", bf16], b: Tensor["F", f32]) -> Tensor["B", "F", f32]:
    return (x @ w.mT).float() + b


@correct("proved", tolerance=2e-2)
def norm_in_f32(x: Tensor["B", "D", bf16], w: Tensor["D", bf16]) -> Tensor["B", "D", bf16]:
    h = x.to(torch.float32)
    h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
    return w * h.to(x.dtype)


@correct("proved")
def keeps_any_dtype(x: Tensor["B", "D", floating]) -> Tensor["B", "D", floating]:
    return torch.sigmoid(x) * x


@correct("proved", sizes={"batch": 2, "seq": 3, "dim": 4, "out": 5})
def jax_linear(
    x: Float[torch.Tensor, "batch seq dim"], w: Float[torch.Tensor, "out dim"], b: Float[torch.Tensor, "out"]
) -> Float[torch.Tensor, "batch seq out"]:
    return F.linear(x, w, b)


@correct("proved", ids={"ids": 11}, sizes={"batch": 2, "seq": 3, "vocab": 11, "dim": 4})
def jax_embed(
    ids: Int[torch.Tensor, "batch seq"], table: Float[torch.Tensor, "vocab dim"], keep: Bool[torch.Tensor, "batch seq"]
) -> Float[torch.Tensor, "batch seq dim"]:
    return table[ids] * keep[..., None]


@correct("proved", sizes={"d": 4})
def jax_norm(x: Float[torch.Tensor, "*batch d"], w: Float[torch.Tensor, "d"]) -> Float[torch.Tensor, "*batch d"]:
    return x / x.norm(dim=-1, keepdim=True) * w


@correct("proved")
def drop_path(x: Tensor["B", "S", "D"], keep: Tensor["B", bool]) -> Tensor["B", "S", "D"]:
    return x * keep[:, None, None] / 0.9


@correct("proved")
def layer_scale(x: Tensor["B", "S", "D"], y: Tensor["B", "S", "D"], gamma: Tensor["D"]) -> Tensor["B", "S", "D"]:
    return x + gamma * y


@correct("proved")
def film(x: Tensor["B", "C", "H", "W"], scale: Tensor["B", "C"], shift: Tensor["B", "C"]) -> Tensor["B", "C", "H", "W"]:
    return x * (1 + scale[:, :, None, None]) + shift[..., None, None]


@correct("proved", sizes={"C": 12})
def squeeze_excite(
    x: Tensor["B", "C", "H", "W"], w1: Tensor["C", "C/4"], w2: Tensor["C/4", "C"]
) -> Tensor["B", "C", "H", "W"]:
    s = x.mean(dim=(2, 3))
    s = torch.sigmoid(F.relu(s @ w1) @ w2)
    return x * s.unsqueeze(-1).unsqueeze(-1)
