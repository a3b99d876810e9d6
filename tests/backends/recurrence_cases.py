"""Recurrences in plain tensor code: a step, and what it carries to the next."""

from __future__ import annotations

from typing import Any

import torch

import tessera
from tessera import Tensor
from tests.backends.stream_cases import BF16, F64, Stream

B, H, S, D, E, N = "B", "H", "S", "D", "E", "N"
Keys, Values, State = Tensor[B, H, S, D], Tensor[B, H, S, E], Tensor[B, H, D, E]
Made = tuple[Tensor[B, H, D, E], Tensor[B, H, S, E]]
Gates, Rows = Tensor[B, H, S], Tensor[B, S, E]


def outer(k: Any, v: Any) -> Any:
    return k.unsqueeze(-1) * v.unsqueeze(-2)


def times(q: Any, h: Any) -> Any:
    return (q.unsqueeze(-2) @ h).squeeze(-2)


@tessera.function
def linear(q: Keys, k: Keys, v: Values, h0: State) -> Made:
    def step(h: Any, x: Any) -> Any:
        q, k, v = x
        h = h + outer(k, v)
        return h, times(q, h)

    return tessera.scan(step, h0, (q, k, v), dim=2)


@tessera.function
def gated(q: Keys, k: Keys, v: Values, g: Keys, h0: State) -> Made:
    def step(h: Any, x: Any) -> Any:
        q, k, v, g = x
        h = h * torch.exp(-torch.exp(g)).unsqueeze(-1) + outer(k, v)
        return h, times(q, h)

    return tessera.scan(step, h0, (q, k, v, g), dim=2)


@tessera.function
def gated_backwards(q: Keys, k: Keys, v: Values, g: Keys, h0: State) -> Made:
    def step(h: Any, x: Any) -> Any:
        q, k, v, g = x
        h = h * torch.sigmoid(g).unsqueeze(-1) + outer(k, v)
        return h, times(q, h)

    return tessera.scan(step, h0, (q, k, v, g), dim=2, reverse=True)


@tessera.function
def delta(q: Keys, k: Keys, v: Values, beta: Gates, h0: State) -> Made:
    def step(h: Any, x: Any) -> Any:
        q, k, v, beta = x
        k = k / torch.sqrt((k * k).sum(-1, keepdim=True) + 1e-6)
        u = (v - times(k, h)) * torch.sigmoid(beta).unsqueeze(-1)
        h = h + outer(k, u)
        return h, times(q, h)

    return tessera.scan(step, h0, (q, k, v, beta), dim=2)


@tessera.function
def gated_delta(q: Keys, k: Keys, v: Values, g: Gates, beta: Gates, h0: State) -> Made:
    def step(h: Any, x: Any) -> Any:
        q, k, v, g, beta = x
        k = k / torch.sqrt((k * k).sum(-1, keepdim=True) + 1e-6)
        h = h * torch.sigmoid(g)[..., None, None]
        u = (v - times(k, h)) * torch.sigmoid(beta).unsqueeze(-1)
        h = h + outer(k, u)
        return h, times(q, h)

    return tessera.scan(step, h0, (q, k, v, g, beta), dim=2)


@tessera.function
def selective(
    x: Rows, dt: Rows, a: Tensor[E, N], b: Tensor[B, S, N], c: Tensor[B, S, N], h0: Tensor[B, E, N]
) -> tuple[Tensor[B, E, N], Tensor[B, S, E]]:
    def step(h: Any, now: Any) -> Any:
        x, dt, b, c = now
        dt = torch.log1p(torch.exp(dt))
        h = torch.exp(-torch.exp(a) * dt.unsqueeze(-1)) * h + (dt * x).unsqueeze(-1) * b.unsqueeze(-2)
        return h, (h * c.unsqueeze(-2)).sum(-1)

    return tessera.scan(step, h0, (x, dt, b, c), dim=1)


@tessera.function
def gates(
    x: Tensor[B, S, 4, D], w: Tensor[D, 4, D], h0: Tensor[B, D], c0: Tensor[B, D]
) -> tuple[Tensor[B, D], Tensor[B, D], Tensor[B, S, D]]:
    def step(carry: Any, x: Any) -> Any:
        h, c = carry
        z = x + torch.einsum("bd,dge->bge", h, w)
        c = torch.sigmoid(z[:, 0]) * c + torch.sigmoid(z[:, 1]) * torch.tanh(z[:, 2])
        h = torch.sigmoid(z[:, 3]) * torch.tanh(c)
        return (h, c), h

    (h, c), out = tessera.scan(step, (h0, c0), x, dim=1)
    return h, c, out


@tessera.function
def elman(x: Tensor[B, S, D], w: Tensor[D, D], h0: Tensor[B, D]) -> Tensor[B, S, D]:
    def step(h: Any, x: Any) -> Any:
        h = torch.tanh(x + h @ w)
        return h, h

    return tessera.scan(step, h0, x, dim=1)[1]


@tessera.function
def normalised(
    q: Keys, k: Keys, v: Values, i: Gates, f: Gates, h0: State, n0: Tensor[B, H, D], m0: Tensor[B, H]
) -> tuple[Tensor[B, H, D, E], Tensor[B, H, D], Tensor[B, H], Tensor[B, H, S, E]]:
    def step(carry: Any, x: Any) -> Any:
        (h, n, m), (q, k, v, i, f) = carry, x
        f = -torch.log1p(torch.exp(-f))
        top = torch.maximum(f + m, i)
        keep, add = torch.exp(f + m - top), torch.exp(i - top)
        h = h * keep[..., None, None] + outer(k * add.unsqueeze(-1), v)
        n = n * keep.unsqueeze(-1) + k * add.unsqueeze(-1)
        scale = torch.maximum((q * n).sum(-1).abs(), torch.exp(-top))
        return (h, n, top), times(q, h) / scale.unsqueeze(-1)

    (h, n, m), out = tessera.scan(step, (h0, n0, m0), (q, k, v, i, f), dim=2)
    return h, n, m, out


@tessera.function
def average(x: Tensor[B, S], alpha: float) -> Tensor[B, S]:
    def step(m: Any, x: Any) -> Any:
        m = m + alpha * (x - m)
        return m, m

    return tessera.scan(step, x[:, 0], x, dim=1)[1]


@tessera.function
def average_rows(x: Rows, w: Tensor[E]) -> tuple[Tensor[B, E], Tensor[B, S, E]]:
    def step(m: Any, x: Any) -> Any:
        m = m + torch.sigmoid(w) * (x - m)
        return m, m

    return tessera.scan(step, torch.zeros(x.shape[0], x.shape[2]), x, dim=1)


@tessera.function
def total(x: Tensor[S], w: Tensor[S]) -> tuple[Tensor[()], Tensor[S]]:
    def step(m: Any, now: Any) -> Any:
        x, w = now
        m = m * w + x
        return m, m

    return tessera.scan(step, torch.zeros(()), (x, w))


@tessera.function
def narrow(
    q: Tensor[B, H, S, D, BF16], k: Tensor[B, H, S, D, BF16], v: Tensor[B, H, S, E, BF16], g: Tensor[B, H, S, D, BF16],
    h0: State,
) -> tuple[Tensor[B, H, D, E], Tensor[B, H, S, E, BF16]]:  # fmt: skip
    def step(h: Any, x: Any) -> Any:
        q, k, v, g = (part.float() for part in x)
        h = h * torch.sigmoid(g).unsqueeze(-1) + outer(k, v)
        return h, times(q, h).bfloat16()

    return tessera.scan(step, h0, (q, k, v, g), dim=2)


@tessera.function
def double(x: Tensor[B, S, D, F64], w: Tensor[D, D, F64], h0: Tensor[B, D, F64]) -> Tensor[B, S, D, F64]:
    def step(h: Any, x: Any) -> Any:
        h = torch.tanh(x + (h.unsqueeze(-1) * w).sum(-2))
        return h, h

    return tessera.scan(step, h0, x, dim=1)[1]


@tessera.function
def counted(
    x: Tensor[B, S, E, tessera.int64], n0: Tensor[B, E, tessera.int64]
) -> tuple[Tensor[B, E, tessera.int64], Tensor[B, S, E, tessera.bool_]]:
    def step(carry: Any, x: Any) -> Any:
        n, seen = carry
        seen = seen | (x > 6)
        n = torch.where(seen, n + x % 7, n - 1)
        return (n, seen), seen

    (n, _), out = tessera.scan(step, (n0, torch.zeros_like(n0, dtype=torch.bool)), x, dim=1)
    return n, out


@tessera.function
def looked(x: Tensor[B, S, E], at: Tensor[B, S, tessera.int64], table: Tensor[N, E]) -> Tensor[B, S, E]:
    def step(m: Any, now: Any) -> Any:
        x, at = now
        m = 0.5 * m + x * table[at]
        return m, m

    return tessera.scan(step, torch.zeros(x.shape[0], x.shape[2]), (x, at), dim=1)[1]


@tessera.function
def rolled(x: Tensor[S, B, D], h0: Tensor[B, D]) -> Tensor[S, B, D]:
    def step(h: Any, x: Any) -> Any:
        h = torch.cat([h[:, 1:], x[:, :1]], -1) * 0.5 + torch.softmax(x, -1)
        return h, h

    return tessera.scan(step, h0, x)[1]


@tessera.function
def swapped(x: Rows, a0: Tensor[B, E], b0: Tensor[B, E]) -> tuple[Tensor[B, E], Tensor[B, E], Tensor[B, S]]:
    def step(carry: Any, x: Any) -> Any:
        a, b = carry
        return (b, a + x * b.sum(-1, keepdim=True)), (a * b).amax(-1)

    (a, b), out = tessera.scan(step, (a0, b0), x, dim=1)
    return a, b, out


@tessera.function
def surrounded(x: Tensor[S, B, D], a: Tensor[D, D], h0: Tensor[B, D, D]) -> tuple[Tensor[B, D, D], Tensor[S, B, D]]:
    def step(h: Any, x: Any) -> Any:
        h = torch.tanh(a @ h @ a.mT + x.unsqueeze(-1))
        return h, h.mT.sum(-1) + torch.diagonal(h, dim1=-2, dim2=-1)

    return tessera.scan(step, h0, x)


@tessera.function
def turned(x: Tensor[S, B, D], h0: Tensor[B, D, D]) -> tuple[Tensor[B, D, D], Tensor[S, B, D]]:
    def step(h: Any, x: Any) -> Any:
        h = h.mT * 0.5 + x.unsqueeze(-1)
        return h, h.sum(-2)

    return tessera.scan(step, h0, x)


@tessera.function
def folds(x: Rows, h0: Tensor[B, E]) -> tuple[Tensor[B, E], Tensor[B, S], Tensor[B, S, tessera.int64]]:
    def step(h: Any, x: Any) -> Any:
        h = torch.softmax(h + x, -1) - torch.flip(x, (-1,)) * h.var(-1, keepdim=True, correction=0)
        return h, (torch.logsumexp(h, -1), torch.argmax(h, -1))

    h, (a, b) = tessera.scan(step, h0, x, dim=1)
    return h, a, b


@tessera.function
def memory(
    x: Tensor[B, S, E], at: Tensor[B, S, tessera.int64], h0: Tensor[B, N, E]
) -> tuple[Tensor[B, N, E], Tensor[B, S, E]]:
    def step(h: Any, now: Any) -> Any:
        x, at = now
        here = (torch.arange(h.shape[1])[None, :] == at[:, None]).unsqueeze(-1)
        h = torch.where(here, 0.5 * h + x[:, None, :], h)
        return h, torch.where(here, h, 0.0).sum(1) - h[:, 0]

    return tessera.scan(step, h0, (x, at), dim=1)


HEADS = ({"B": 2, "H": 2, "S": 5, "D": 6, "E": 11}, {"B": 1, "H": 1, "S": 0, "D": 4, "E": 5})
EVEN = ({"B": 1, "H": 2, "S": 6, "D": 16, "E": 32},)
ROWS = ({"B": 2, "S": 6, "E": 13, "D": 7, "N": 5}, {"B": 1, "S": 1, "E": 1, "D": 1, "N": 1})
RECURRENCES = (
    Stream(linear, HEADS + EVEN),
    Stream(gated, HEADS, strided=frozenset("qkv")),
    Stream(gated_backwards, HEADS[:1]),
    Stream(delta, HEADS),
    Stream(gated_delta, HEADS),
    Stream(selective, ROWS),
    Stream(gates, ROWS),
    Stream(elman, ROWS),
    Stream(normalised, HEADS),
    Stream(average, ROWS, numbers={"alpha": 0.25}),
    Stream(average_rows, ROWS),
    Stream(total, ROWS),
    Stream(narrow, HEADS),
    Stream(double, ROWS),
    Stream(counted, ROWS, integers={"x": (-9, 9), "n0": (-4, 4)}),
    Stream(looked, ROWS, integers={"at": (-1, 1)}),
    Stream(rolled, ROWS[:1]),
    Stream(swapped, ROWS),
    Stream(surrounded, ROWS[:1]),
    Stream(turned, ROWS[:1]),
    Stream(folds, ROWS[:1]),
    Stream(memory, ROWS, integers={"at": (0, 1)}),
)
