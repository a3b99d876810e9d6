"""Plain torch code around a contraction that must become one kernel, with what to call it on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor

INF = float("inf")
Q, K, V = Tensor["B", "H", "S", "D"], Tensor["B", "H", "T", "D"], Tensor["B", "H", "T", "E"]
KS, VS = Tensor["B", "H", "S", "D"], Tensor["B", "H", "S", "E"]
OUT, KEPT = Tensor["B", "H", "S", "E"], Tensor["B", "H", "S"]
WIDE = Tensor["B", "H*G", "S", "D"]
Ints = Tensor["N", torch.int64]


def positions(s: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]


@tessera.function
def full(q: Q, k: K, v: V) -> OUT:
    return torch.softmax(q @ k.mT * 0.125, -1) @ v


@tessera.function
def causal(q: Q, k: K, v: V) -> OUT:
    s = q @ k.mT * 0.125
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def causal_tril(q: Q, k: KS, v: VS) -> OUT:
    s = q @ k.transpose(-2, -1) / math.sqrt(64)
    keep = torch.tril(torch.ones(s.shape[-2], s.shape[-1], dtype=torch.bool))
    return F.softmax(s.masked_fill(~keep, -INF), dim=-1) @ v


@tessera.function
def causal_triu_added(q: Q, k: KS, v: VS) -> OUT:
    s = torch.einsum("bhid,bhjd->bhij", q, k) * 0.125
    mask = torch.full((s.shape[-2], s.shape[-1]), -INF).triu(1).to(s.dtype)
    return torch.einsum("bhij,bhje->bhie", torch.softmax(s + mask, -1), v)


@tessera.function
def causal_where(q: Q, k: K, v: V) -> OUT:
    s = q @ k.mT * 0.125
    i, j = positions(s)
    return torch.softmax(torch.where(i >= j, s, -INF), -1) @ v


@tessera.function
def alibi(q: Q, k: K, v: V, slopes: Tensor["H"]) -> OUT:
    s = q @ k.mT * 0.125
    i, j = positions(s)
    return torch.softmax(s - slopes[:, None, None] * (i - j).abs(), -1) @ v


@tessera.function
def window(q: Q, k: KS, v: VS) -> OUT:
    s = q @ k.mT * 0.125
    i, j = positions(s)
    return torch.softmax(torch.where((j <= i) & (i - j < 5), s, -INF), -1) @ v


@tessera.function
def softcap(q: Q, k: K, v: V) -> OUT:
    s = torch.tanh(q @ k.mT * 0.125 / 30) * 30
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def prefix(q: Q, k: K, v: V, n: Tensor["B", torch.int64]) -> OUT:
    s = q @ k.mT * 0.125
    i, j = positions(s)
    keep = (j <= i) | (j < n[:, None, None, None])
    return torch.softmax(s.masked_fill(~keep, -INF), -1) @ v


@tessera.function
def document(q: Q, k: KS, v: VS, doc: Tensor["B", "S", torch.int64]) -> OUT:
    s = q @ k.mT * 0.125
    i, j = positions(s)
    keep = (doc[:, None, :, None] == doc[:, None, None, :]) & (j <= i)
    return torch.softmax(s.masked_fill(~keep, -INF), -1) @ v


@tessera.function
def bias(q: Q, k: K, v: V, b: Tensor["H", "S", "T"]) -> OUT:
    return torch.softmax(q @ k.mT * 0.125 + b, -1) @ v


@tessera.function
def causal_bias(q: Q, k: K, v: V, b: Tensor["H", "S", "T"]) -> OUT:
    s = q @ k.mT * 0.125 + b
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def bool_mask(q: Q, k: K, v: V, m: Tensor["B", 1, "S", "T", torch.bool]) -> OUT:
    s = (q * 0.125) @ k.mT
    return torch.softmax(s.masked_fill(~m, -INF), -1) @ v


@tessera.function
def grouped_repeated(q: WIDE, k: K, v: V, G: int) -> Tensor["B", "H*G", "S", "E"]:
    k, v = k.repeat_interleave(G, 1), v.repeat_interleave(G, 1)
    return torch.softmax(q @ k.mT * 0.125, -1) @ v


@tessera.function
def grouped_expanded(q: WIDE, k: K, v: V, G: int) -> Tensor["B", "H*G", "S", "E"]:
    b, h, t, d = k.shape
    k = k[:, :, None].expand(b, h, G, t, d).reshape(b, h * G, t, d)
    v = v[:, :, None].expand(b, h, G, t, v.shape[-1]).reshape(b, h * G, t, v.shape[-1])
    s = q @ k.mT * 0.125
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def one_key_head(q: Q, k: Tensor["B", 1, "T", "D"], v: Tensor["B", 1, "T", "E"]) -> OUT:
    return torch.softmax(q @ k.mT * 0.125, -1) @ v


@tessera.function
def bottom_right(q: Q, k: K, v: V) -> OUT:
    s = q @ k.mT * 0.125
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i + (s.shape[-1] - s.shape[-2]), -INF), -1) @ v


@tessera.function
def with_lse(q: Q, k: K, v: V) -> tuple[OUT, KEPT]:
    s = q @ k.mT * 0.125
    return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)


@tessera.function
def powers_of_two(q: Q, k: K, v: V) -> OUT:
    s = q @ k.mT * (0.125 * math.log2(math.e))
    p = torch.exp2(s - s.amax(-1, keepdim=True))
    return (p @ v) / p.sum(-1, keepdim=True)


@tessera.function
def deferred(q: Q, k: K, v: V) -> tuple[OUT, KEPT]:
    s = q @ k.mT * 0.125
    m = s.amax(-1, keepdim=True)
    p = torch.exp(s - m)
    total = p.sum(-1, keepdim=True)
    return (p @ v) / total, (m + total.log())[..., 0]


@tessera.function
def heads_inside(
    q: Tensor["B", "S", "H", "D"], k: Tensor["B", "T", "H", "D"], v: Tensor["B", "T", "H", "E"]
) -> Tensor["B", "S", "H*E"]:
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    o = torch.softmax(q @ k.mT * 0.125, -1) @ v
    return o.transpose(1, 2).reshape(o.shape[0], o.shape[2], -1)


@tessera.function
def library(q: Q, k: K, v: V) -> OUT:
    return F.scaled_dot_product_attention(q, k, v)


@tessera.function
def guarded(q: Q, k: K, v: V) -> OUT:
    """Rows without a key give zeros."""
    s = q @ k.mT * 0.125
    i, j = positions(s)
    s = s.masked_fill(j > i - 3, -INF)
    m = s.amax(-1, keepdim=True)
    p = torch.exp(s - torch.where(m == -INF, 0.0, m))
    total = p.sum(-1, keepdim=True)
    return (p @ v) / torch.where(total == 0, 1.0, total)


@tessera.function
def linear_attention(q: Q, k: KS, v: VS) -> OUT:
    s = q @ k.mT
    i, j = positions(s)
    return torch.where(j <= i, s, 0.0) @ v


@tessera.function
def mlp(x: Tensor["N", "D"], up: Tensor["F", "D"], down: Tensor["D", "F"]) -> Tensor["N", "D"]:
    return F.gelu(x @ up.T) @ down.T


@tessera.function
def gated_mlp(
    x: Tensor["N", "D"], gate: Tensor["F", "D"], up: Tensor["F", "D"], down: Tensor["D", "F"]
) -> Tensor["N", "D"]:
    return (F.silu(x @ gate.T) * (x @ up.T)) @ down.T


@tessera.function
def mean_loss(x: Tensor["N", "D"], w: Tensor["C", "D"], t: Ints) -> Tensor[()]:
    return F.cross_entropy(F.linear(x, w), t)


@tessera.function
def losses(x: Tensor["N", "D"], w: Tensor["C", "D"], t: Ints) -> Tensor["N"]:
    logits = x @ w.T
    return torch.logsumexp(logits, -1) - logits.gather(-1, t[:, None])[:, 0]


@tessera.function
def best(x: Tensor["N", "D"], w: Tensor["C", "D"]) -> tuple[Tensor["N"], Ints]:
    """The nearest row of ``w`` and its distance, up to a constant."""
    s = w.square().sum(-1) - 2 * (x @ w.T)
    return s.amin(-1), s.argmin(-1)


@tessera.function
def cosine_sums(x: Tensor["N", "D"], w: Tensor["C", "D"]) -> tuple[Tensor["N"], Tensor["N"]]:
    s = (x @ w.T).sigmoid()
    return s.sum(-1), (s * s).mean(-1)


@dataclass(frozen=True)
class Draw:
    """Sizes, and tensors of these sizes: floats in f64, drawn one after the other."""

    B: int = 2
    H: int = 3
    S: int = 129
    T: int = 150
    D: int = 16
    E: int = 24
    seed: int = 0

    def floats(self, *shape: int, seed: int = 0) -> torch.Tensor:
        random = torch.Generator().manual_seed(1000 * self.seed + seed)
        return torch.randn(shape, generator=random, dtype=torch.float64).float().double()

    def integers(self, top: int, *shape: int) -> torch.Tensor:
        return torch.randint(0, top, shape, generator=torch.Generator().manual_seed(self.seed))

    @property
    def qkv(self) -> tuple[torch.Tensor, ...]:
        return self.q, self.floats(self.B, self.H, self.T, self.D, seed=2), self.floats(self.B, self.H, self.T, self.E)

    @property
    def square(self) -> tuple[torch.Tensor, ...]:
        return self.q, self.floats(self.B, self.H, self.S, self.D, seed=2), self.floats(self.B, self.H, self.S, self.E)

    @property
    def q(self) -> torch.Tensor:
        return self.floats(self.B, self.H, self.S, self.D, seed=1)

    @property
    def x(self) -> torch.Tensor:
        return self.floats(self.S, self.D, seed=4)

    @property
    def w(self) -> torch.Tensor:
        return self.floats(self.T, self.D, seed=5)


def _wide(d: Draw) -> tuple[Any, ...]:
    return d.floats(d.B, d.H * 2, d.S, d.D, seed=6), *d.qkv[1:], 2


def _inside(d: Draw) -> tuple[Any, ...]:
    return (
        d.floats(d.B, d.S, d.H, d.D, seed=1), d.floats(d.B, d.T, d.H, d.D, seed=2), d.floats(d.B, d.T, d.H, d.E),
    )  # fmt: skip


#: Every program, with its arguments.
PROGRAMS: dict[Any, Callable[[Draw], tuple[Any, ...]]] = {
    full: lambda d: d.qkv,
    causal: lambda d: d.qkv,
    causal_tril: lambda d: d.square,
    causal_triu_added: lambda d: d.square,
    causal_where: lambda d: d.qkv,
    alibi: lambda d: (*d.qkv, d.floats(d.H, seed=7).sigmoid()),
    window: lambda d: d.square,
    softcap: lambda d: d.qkv,
    prefix: lambda d: (*d.qkv, d.integers(d.T + 1, d.B)),
    document: lambda d: (*d.square, (torch.arange(d.S) // 7).expand(d.B, d.S).contiguous()),
    bias: lambda d: (*d.qkv, d.floats(d.H, d.S, d.T, seed=7)),
    causal_bias: lambda d: (*d.qkv, d.floats(d.H, d.S, d.T, seed=7)),
    bool_mask: lambda d: (*d.qkv, d.floats(d.B, 1, d.S, d.T, seed=7) > -0.5),
    grouped_repeated: _wide,
    grouped_expanded: _wide,
    one_key_head: lambda d: (d.q, d.qkv[1][:, :1].contiguous(), d.qkv[2][:, :1].contiguous()),
    bottom_right: lambda d: d.qkv,
    with_lse: lambda d: d.qkv,
    powers_of_two: lambda d: d.qkv,
    deferred: lambda d: d.qkv,
    heads_inside: _inside,
    library: lambda d: d.qkv,
    guarded: lambda d: d.qkv,
    linear_attention: lambda d: d.square,
    mlp: lambda d: (d.x, d.w, d.floats(d.D, d.T, seed=8)),
    gated_mlp: lambda d: (d.x, d.w, d.floats(d.T, d.D, seed=7), d.floats(d.D, d.T, seed=8)),
    mean_loss: lambda d: (d.x, d.w, d.integers(max(d.T, 1), d.S)),
    losses: lambda d: (d.x, d.w, d.integers(max(d.T, 1), d.S)),
    best: lambda d: (d.x, d.w),
    cosine_sums: lambda d: (d.x, d.w),
}


def cast(args: tuple[Any, ...], dtype: torch.dtype) -> tuple[Any, ...]:
    """The arguments with every float tensor in the dtype."""
    return tuple(x.to(dtype) if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in args)


def results(found: Any) -> tuple[torch.Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)
