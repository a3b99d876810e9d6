"""Random programs around a contraction: changes of scores, conditions on positions, folds, a second contraction."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

INF = float("inf")
#: Around rows of registers, vectors and blocks.
SIZES = (1, 1, 2, 5, 7, 16, 33, 37, 64, 65, 100, 127, 128, 129, 130, 200, 257)
DEPTHS = (1, 2, 3, 8, 16, 17, 40)
Tensors = tuple[torch.Tensor, ...]


def layout(rng: random.Random, x: torch.Tensor) -> torch.Tensor:
    kind = rng.random()
    if kind < 0.6:
        return x
    if kind < 0.75:
        return x.mT.contiguous().mT
    if kind < 0.85:
        return torch.stack([x, x], -1)[..., 0]
    if kind < 0.95 and x.ndim == 4:
        return x.transpose(1, 2).contiguous().transpose(1, 2)
    return x[..., :1].expand(x.shape)


def inputs(rng: random.Random, generator: torch.Generator, dtype: torch.dtype) -> list[torch.Tensor]:
    """q, k, v; floats and integers by row and by key; a bias, a mask, lengths, a number for each head."""
    rank = rng.choice((2, 2, 3, 4, 4))
    lead = ((), (rng.choice((1, 2, 3)),), (rng.choice((1, 2)), rng.choice((1, 2, 3))))[rank - 2]
    s = rng.choice(SIZES)
    t = s if rng.random() < 0.35 else rng.choice(SIZES)
    d, e = rng.choice(DEPTHS), rng.choice(DEPTHS)
    keys = (*lead[:-1], 1) if lead and rng.random() < 0.15 else lead

    def floats(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(dtype)

    q, k, v = (layout(rng, x) for x in (floats(*lead, s, d), floats(*keys, t, d), floats(*keys, t, e)))
    rows, columns = (torch.randint(0, 4, (n,), generator=generator) for n in (s, t))
    bias = floats(*rng.choice([(s, t), (1, t), (s, 1), (*lead, s, t), (*lead[-1:], 1, 1)]))
    mask = torch.rand(rng.choice([(s, t), (1, t), (*lead, s, t)]), generator=generator) > 0.3
    lengths = torch.randint(0, t + 1, lead[:1], generator=generator)
    return [q, k, v, floats(s), floats(t), rows, columns, bias, mask, lengths, floats(*lead[-1:]) * 0.3]


@dataclass
class Scores:
    """One random program on such inputs. What is drawn depends on shapes alone."""

    rng: random.Random
    args: Sequence[torch.Tensor]

    def run(self) -> Tensors:
        self.q, self.k, self.v = self.args[:3]
        self.row, self.key, self.rows, self.keys, self.bias, self.mask, self.lengths, self.slopes = self.args[3:]
        z = self.contraction()
        self.s, self.t = z.shape[-2:]
        self.i, self.j = torch.arange(self.s)[:, None], torch.arange(self.t)[None, :]
        for _ in range(self.rng.choice((0, 1, 1, 2, 2, 3, 4))):
            z = self.rng.choice(self.changes(self.rng.choice((0.5, 2.0, -1.0, 3.0))))(z)
        return self.results(z)

    def contraction(self) -> torch.Tensor:
        q, k, scale = self.q, self.k, self.q.shape[-1] ** -0.5
        ways: list[Callable[[], torch.Tensor]] = [
            lambda: q @ k.mT, lambda: q @ k.mT * scale, lambda: (q * scale) @ k.mT, lambda: (k @ q.mT).mT * scale,
            lambda: torch.einsum("...id,...jd->...ij", q, k) * scale,
        ]  # fmt: skip
        return self.rng.choice(ways)()

    def by_head(self, x: torch.Tensor, other: int = 2) -> torch.Tensor:
        return x if x.ndim == 0 else x[(..., *([None] * other))]

    def condition(self, depth: int = 0) -> torch.Tensor:
        """A random condition on positions, and on what memory says about them."""
        i, j, rng, c = self.i, self.j, self.rng, self.rng.randint(-3, 9)
        plain: list[Callable[[], torch.Tensor]] = [
            lambda: j <= i, lambda: j > i, lambda: i - j < c, lambda: j >= i + c, lambda: j <= i + (self.t - self.s),
            lambda: (i - j).abs() <= c, lambda: self.rows[:, None] == self.keys, lambda: self.mask,
            lambda: j < self.by_head(self.lengths, self.q.ndim - 1), lambda: j < c + 1, lambda: i >= c,
            lambda: self.keys > 1, lambda: (self.rows >= 1)[:, None], lambda: i == j, lambda: j + c != 2 * i,
            lambda: (i + j) % 3 == 0, lambda: i // 4 >= j // 4,
            lambda: torch.tril(torch.ones(self.s, self.t, dtype=torch.bool), c),
        ]  # fmt: skip
        if depth == 3 or rng.random() < 0.65:
            return rng.choice(plain)()
        a = self.condition(depth + 1)
        kind = rng.randrange(4)
        if kind == 0:
            return ~a
        b = self.condition(depth + 1)
        return a & b if kind == 1 else a | b if kind == 2 else a ^ b

    def changes(self, c: float) -> list[Callable[[torch.Tensor], torch.Tensor]]:
        fill = self.rng.choice((-INF, -INF, 0.0, -1e4))
        masks: list[Callable[[torch.Tensor], torch.Tensor]] = [
            lambda z: torch.where(self.condition(), z, fill), lambda z: z.masked_fill(self.condition(), fill),
            lambda z: z + torch.where(self.condition(), 0.0, -INF).to(z.dtype), lambda z: z * self.condition(),
            lambda z: torch.where(self.condition(), z, z * 0.5), lambda z: torch.where(self.condition(), -INF, z),
        ]  # fmt: skip
        return [
            *masks, *masks, lambda z: z * c, lambda z: z + c, lambda z: torch.tanh(z / 3) * 3, lambda z: z + self.bias,
            lambda z: z * self.bias, lambda z: z + self.row[:, None], lambda z: z + self.key, lambda z: z * self.key,
            lambda z: z - self.by_head(self.slopes) * (self.i - self.j).abs(), torch.relu, torch.abs, torch.sin,
            lambda z: z.clamp(-2, 2), lambda z: torch.where(z > 0, z, z * 0.1), lambda z: z / (1 + z.abs()), F.silu,
            lambda z: z - self.keys * 0.5, lambda z: z * (self.by_head(self.slopes) + 1),
        ]  # fmt: skip

    def fold(self, z: torch.Tensor, dim: int = -1) -> torch.Tensor:
        folds: list[Callable[[], torch.Tensor]] = [
            lambda: z.sum(dim), lambda: z.amax(dim), lambda: z.logsumexp(dim), lambda: z.argmax(dim),
            lambda: z.mean(dim), lambda: (z > 0).any(dim), lambda: z.amin(dim, keepdim=True),
            lambda: (z > 0.3).sum(dim), lambda: (z * z).sum(dim).sqrt(), lambda: (z > -9).all(dim),
            lambda: z.max(dim)[1], lambda: torch.exp(z - z.amax(dim, keepdim=True)).sum(dim),
            lambda: torch.softmax(z, dim).amax(dim),
        ]  # fmt: skip
        return self.rng.choice(folds)()

    def weights(self, z: torch.Tensor) -> torch.Tensor:
        m = z.amax(-1, keepdim=True)
        ways: list[Callable[[], torch.Tensor]] = [
            lambda: torch.exp2(z - m), lambda: z, lambda: torch.exp(z - z.logsumexp(-1, keepdim=True)),
            lambda: torch.sigmoid(z), lambda: z / (1 + z.abs().sum(-1, keepdim=True)),
            lambda: torch.exp(z - m) * self.key, lambda: torch.exp(z - m) * self.row[:, None],
            lambda: torch.where(self.condition(), torch.exp(z - m), 0.0), lambda: torch.log_softmax(z, -1),
            lambda: torch.nan_to_num(torch.softmax(z, -1)),
        ]  # fmt: skip
        return torch.softmax(z, -1) if self.rng.random() < 0.4 else self.rng.choice(ways)()

    def after(self, o: torch.Tensor) -> torch.Tensor:
        ways: list[Callable[[], torch.Tensor]] = [
            lambda: o * self.row[:, None], lambda: F.gelu(o), lambda: o.sum(-1), lambda: o.mT, lambda: o * 2 + 1,
            lambda: o - o.mean(-1, keepdim=True), lambda: o + o.flip(-2), lambda: torch.where(self.i < 3, o, 0.0),
            lambda: o.flatten(-2), lambda: o / (1e-3 + o.abs()),
        ]  # fmt: skip
        return o if self.rng.random() < 0.5 else self.rng.choice(ways)()

    def results(self, z: torch.Tensor) -> Tensors:
        kind = self.rng.random()
        if kind < 0.5:
            return (self.after(self.weights(z) @ self.v),)
        if kind < 0.6:
            p = self.weights(z)
            return p @ self.v, self.fold(z)
        if kind < 0.7:
            p = self.weights(z)
            return (p @ self.v) / (1 + p.sum(-1, keepdim=True)), self.fold(p)
        if kind < 0.85:
            return self.fold(z), self.fold(z)
        if kind < 0.9:
            return (self.fold(z, -2),)
        if kind < 0.95:
            return z[..., 0], z.logsumexp(-1)
        return (self.after(z),)


def program(seed: int, dtype: torch.dtype) -> tuple[Callable[..., Tensors], list[Any]]:
    """A random function and its arguments."""
    rng = random.Random(seed)
    given = inputs(rng, torch.Generator().manual_seed(seed), dtype)
    state = rng.getstate()

    def body(q, k, v, row, key, rows, keys, bias, mask, lengths, slopes):  # type: ignore[no-untyped-def]
        again = random.Random()
        again.setstate(state)
        return Scores(again, (q, k, v, row, key, rows, keys, bias, mask, lengths, slopes)).run()

    return body, given
