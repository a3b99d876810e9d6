"""Plain torch code around contractions, measured as it stands: by eager torch, `torch.compile` and Tessera."""

from typing import Any

import torch
import torch.nn.functional as F

import tessera
from tessera import Tensor

INF = float("inf")
Q, K, V = Tensor["B", "H", "S", "D"], Tensor["B", "H", "T", "D"], Tensor["B", "H", "T", "E"]
OUT = Tensor["B", "H", "S", "E"]


def positions(s: Any) -> tuple[Any, Any]:
    """Numbers of the queries as a column, of the keys as a row."""
    return torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]


@tessera.function
def full(q: Q, k: K, v: V, scale: float) -> OUT:
    """Attention of everything to everything."""
    return torch.softmax(q @ k.mT * scale, -1) @ v


@tessera.function
def causal(q: Q, k: K, v: V, scale: float) -> OUT:
    """Attention to what came before."""
    s = q @ k.mT * scale
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def windowed(q: Q, k: K, v: V, scale: float, width: int) -> OUT:
    """Attention to the last positions only."""
    s = q @ k.mT * scale
    i, j = positions(s)
    return torch.softmax(s.masked_fill((j > i) | (i - j >= width), -INF), -1) @ v


@tessera.function
def alibi(q: Q, k: K, v: V, scale: float, slopes: Tensor["H"]) -> OUT:
    """Scores that fall with the distance."""
    s = q @ k.mT * scale
    i, j = positions(s)
    return torch.softmax(s - slopes[:, None, None] * (i - j).abs(), -1) @ v


@tessera.function
def capped(q: Q, k: K, v: V, scale: float) -> OUT:
    """Causal attention over scores that tanh keeps below 30."""
    s = torch.tanh(q @ k.mT * scale / 30) * 30
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def prefix(q: Q, k: K, v: V, scale: float, n: Tensor["B", torch.int64]) -> OUT:
    """Causal attention that also sees a prefix as a whole."""
    s = q @ k.mT * scale
    i, j = positions(s)
    seen = (j <= i) | (j < n[:, None, None, None])
    return torch.softmax(s.masked_fill(~seen, -INF), -1) @ v


@tessera.function
def documents(
    q: Q, k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "E"], scale: float, doc: Tensor["B", "S", torch.int64]
) -> OUT:
    """Causal attention within documents that stand side by side."""
    s = q @ k.mT * scale
    i, j = positions(s)
    seen = (doc[:, None, :, None] == doc[:, None, None, :]) & (j <= i)
    return torch.softmax(s.masked_fill(~seen, -INF), -1) @ v


@tessera.function
def grouped(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "K", "T", "D"], v: Tensor["B", "K", "T", "E"], scale: float
) -> OUT:
    """Fewer key heads than query heads, causal."""
    groups = q.shape[1] // k.shape[1]
    k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
    s = q @ k.mT * scale
    i, j = positions(s)
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def with_sums(q: Q, k: K, v: V, scale: float) -> tuple[OUT, Tensor["B", "H", "S"]]:
    """Attention and the logarithms of its sums."""
    s = q @ k.mT * scale
    return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)


@tessera.function
def dropped(q: Q, k: K, v: V, scale: float) -> OUT:
    """A fifth of the weights dropped."""
    return F.dropout(torch.softmax(q @ k.mT * scale, -1), 0.2) @ v


@tessera.function
def linear_gelu(x: Tensor["M", "K"], w: Tensor["N", "K"], b: Tensor["N"]) -> Tensor["M", "N"]:
    """A layer with its activation."""
    return F.gelu(F.linear(x, w, b), approximate="tanh")


@tessera.function
def weight_step(x: Tensor["B", "K"], g: Tensor["B", "N"], w: Tensor["K", "N"], rate: float) -> Tensor["K", "N"]:
    """A step down the gradient of a layer's weight, which is a sum over all rows."""
    return w - rate * (x.T @ g)


@tessera.function
def linear(x: Tensor["M", "K"], w: Tensor["N", "K"], b: Tensor["N"]) -> Tensor["M", "N"]:
    """A layer."""
    return F.linear(x, w, b)


@tessera.function
def projections(
    x: Tensor["M", "K"], a: Tensor["N", "K"], b: Tensor["N", "K"], c: Tensor["N", "K"]
) -> tuple[Tensor["M", "N"], Tensor["M", "N"], Tensor["M", "N"]]:
    """Three layers of the same rows, as in attention, each with something of its own."""
    return F.relu(F.linear(x, a)), F.silu(F.linear(x, b)), F.linear(x, c)


@tessera.function
def swiglu_mlp(x: Tensor["N", "D"], g: Tensor["F", "D"], u: Tensor["F", "D"], d: Tensor["D", "F"]) -> Tensor["N", "D"]:
    """A gated MLP, three products."""
    return (F.silu(x @ g.T) * (x @ u.T)) @ d.T


@tessera.function
def int8_linear(x: Tensor["M", "K"], w: Tensor["N", "K", torch.int8], s: Tensor["N"]) -> Tensor["M", "N"]:
    """Weights of eight bits with one scale a row."""
    return (x @ w.to(x.dtype).T) * s


@tessera.function
def linear_loss(x: Tensor["N", "D"], w: Tensor["C", "D"], t: Tensor["N", torch.int64]) -> Tensor[()]:
    """Cross-entropy of a linear layer's results."""
    return F.cross_entropy(F.linear(x, w), t)


def _norm(x: Any, weight: Any) -> Any:
    return x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * weight


@tessera.function
def block(
    x: Tensor["B", "S", "D"], one: Tensor["D"], two: Tensor["D"],
    wq: Tensor["D", "D"], wk: Tensor["D", "D"], wv: Tensor["D", "D"], wo: Tensor["D", "D"],
    g: Tensor["F", "D"], u: Tensor["F", "D"], d: Tensor["D", "F"], heads: int,
) -> Tensor["B", "S", "D"]:  # fmt: skip
    """A pre-norm transformer block as it is written down."""
    b, n, width = x.shape
    h = _norm(x, one)
    q, k, v = (F.linear(h, w).reshape(b, n, heads, width // heads).transpose(1, 2) for w in (wq, wk, wv))
    s = q @ k.mT * (width // heads) ** -0.5
    i, j = positions(s)
    o = torch.softmax(s.masked_fill(j > i, -INF), -1) @ v
    x = x + F.linear(o.transpose(1, 2).reshape(b, n, width), wo)
    h = _norm(x, two)
    return x + F.linear(F.silu(F.linear(h, g)) * F.linear(h, u), d)


# -- recurrences ----------------------------------------------------------------------------------


def _state(q: Any, v: Any) -> Any:
    return torch.zeros(*q.shape[:2], q.shape[3], v.shape[3], dtype=q.dtype)


@tessera.function
def linear_attention(q: Q, k: Q, v: Tensor["B", "H", "S", "E"], scale: float) -> Tensor["B", "H", "S", "E"]:
    """Attention without softmax, as the sum of outer products that it is."""

    def step(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h + k[..., :, None] * v[..., None, :]
        return h, ((q * scale)[..., None, :] @ h)[..., 0, :]

    return tessera.scan(step, _state(q, v), (q, k, v), dim=2)[1]


@tessera.function
def gated_linear_attention(
    q: Q, k: Q, v: Tensor["B", "H", "S", "E"], g: Q, scale: float
) -> tuple[Tensor["B", "H", "S", "E"], Tensor["B", "H", "D", "E"]]:
    """The same with a decay of each row of the state, given as its logarithm."""

    def step(h: Any, x: Any) -> Any:
        q, k, v, g = x
        h = h * g.exp()[..., None] + k[..., :, None] * v[..., None, :]
        return h, ((q * scale)[..., None] * h).sum(-2)

    h, out = tessera.scan(step, _state(q, v), (q, k, v, g), dim=2)
    return out, h


@tessera.function
def delta_rule(
    q: Q, k: Q, v: Tensor["B", "H", "S", "E"], beta: Tensor["B", "H", "S"], scale: float
) -> tuple[Tensor["B", "H", "S", "E"], Tensor["B", "H", "D", "E"]]:
    """Attention whose values replace what their keys held."""

    def step(h: Any, x: Any) -> Any:
        q, k, v, b = x
        new = b[..., None] * (v - (h * k[..., None]).sum(-2))
        h = h + k[..., None] * new[..., None, :]
        return h, torch.einsum("bhd,bhde->bhe", q * scale, h)

    h, out = tessera.scan(step, _state(q, v), (q, k, v, beta), dim=2)
    return out, h


@tessera.function
def selective_scan(
    x: Tensor["B", "S", "C"], dt: Tensor["B", "S", "C"], a: Tensor["C", "N"], b: Tensor["B", "S", "N"],
    c: Tensor["B", "S", "N"],
) -> Tensor["B", "S", "C"]:  # fmt: skip
    """A state space model whose step depends on the input."""

    def step(h: Any, now: Any) -> Any:
        x, dt, b, c = now
        h = torch.exp(dt[..., None] * a) * h + (dt * x)[..., None] * b[:, None, :]
        return h, (h * c[:, None, :]).sum(-1)

    return tessera.scan(step, torch.zeros(x.shape[0], *a.shape, dtype=x.dtype), (x, dt, b, c), dim=1)[1]


@tessera.function
def top_p(scores: Tensor["B", "N"], p: float) -> Tensor["B", "N"]:
    """Sorted scores, those beyond the probability `p` masked."""
    chance = torch.softmax(scores, -1)
    return scores.masked_fill(chance.cumsum(-1) - chance > p, -INF)
