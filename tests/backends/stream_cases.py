"""Programs whose contractions are made and used up in one sweep, in plain tensor code."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

import tessera
from tessera import Tensor
from tessera.ir.graph import Function
from tessera.ir.parser import parse
from tessera.passes.chunk import Chunk
from tessera.passes.pipeline import PASSES, PIPELINE
from tessera.schedule.plan import Program
from tessera.schedule.schedule import schedule

B, H, S, T, D, E, M = "B", "H", "S", "T", "D", "E", "M"
INF = float("inf")
Q, K, V, O = Tensor[B, H, S, D], Tensor[B, H, T, D], Tensor[B, H, T, E], Tensor[B, H, S, E]  # noqa: E741
BF16, F16, F64 = tessera.bf16, tessera.f16, tessera.f64


def far(s: Any) -> Any:
    """Positions of columns, less those of rows."""
    return torch.arange(s.shape[-1])[None, :] - torch.arange(s.shape[-2])[:, None]


@tessera.function
def full(q: Q, k: K, v: V, scale: float) -> O:
    return torch.softmax(q @ k.mT * scale, -1) @ v


@tessera.function
def causal(q: Q, k: K, v: V, scale: float) -> O:
    s = q @ k.mT * scale
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    return torch.softmax(s.masked_fill(j > i, -INF), -1) @ v


@tessera.function
def lower(q: Q, k: Tensor[B, H, S, D], v: Tensor[B, H, S, E]) -> O:
    s = q @ k.mT
    keep = torch.tril(torch.ones(s.shape[-2], s.shape[-1], dtype=torch.bool))
    return torch.softmax(torch.where(keep, s, -INF), -1) @ v


@tessera.function
def sloped(q: Q, k: K, v: V, slopes: Tensor[H]) -> O:
    s = q @ k.mT
    return torch.softmax(s + slopes[:, None, None] * far(s).abs(), -1) @ v


@tessera.function
def window(q: Q, k: K, v: V) -> O:
    s = q @ k.mT
    d = far(s)
    return torch.softmax(s.masked_fill((d > 3) | (d < -9), -INF), -1) @ v


@tessera.function
def behind(q: Q, k: Tensor[B, H, S, D], v: Tensor[B, H, S, E]) -> O:
    s = q @ k.mT
    d = far(s)
    return torch.softmax(s.masked_fill(torch.logical_not((d <= 0) & (d > -11)), -INF), -1) @ v


@tessera.function
def capped(q: Q, k: K, v: V, cap: float) -> O:
    return torch.softmax(torch.tanh(q @ k.mT / cap) * cap, -1) @ v


@tessera.function
def prefix(q: Q, k: K, v: V, lengths: Tensor[B, tessera.int64]) -> O:
    s = q @ k.mT
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    keep = (j <= i) | (j < lengths[:, None, None, None])
    return torch.softmax(s.masked_fill(~keep, -INF), -1) @ v


@tessera.function
def documents(q: Q, k: K, v: V, a: Tensor[B, S, tessera.int64], b: Tensor[B, T, tessera.int64]) -> O:
    other = a[:, None, :, None] != b[:, None, None, :]
    return torch.softmax((q @ k.mT).masked_fill(other, -INF), -1) @ v


@tessera.function
def biased(q: Q, k: K, v: V, bias: Tensor[H, S, T]) -> O:
    return torch.softmax(q @ k.mT + bias, -1) @ v


@tessera.function
def grouped(q: Tensor[B, "G*H", S, D], k: K, v: V, G: int) -> Tensor[B, "G*H", S, E]:
    k, v = k.repeat_interleave(G, 1), v.repeat_interleave(G, 1)
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def dropped(q: Q, k: K, v: V) -> O:
    return torch.nn.functional.dropout(torch.softmax(q @ k.mT, -1), 0.25) @ v


@tessera.function
def logged(q: Q, k: K, v: V) -> tuple[O, Tensor[B, H, S]]:
    s = q @ k.mT
    return torch.softmax(s, -1) @ v, torch.logsumexp(s, -1)


@tessera.function
def narrow(
    q: Tensor[B, H, S, D, BF16], k: Tensor[B, H, T, D, BF16], v: Tensor[B, H, T, E, BF16], scale: float
) -> Tensor[B, H, S, E, BF16]:
    return torch.softmax(q @ k.mT * scale, -1) @ v


@tessera.function
def narrow_causal(
    q: Tensor[B, H, S, D, BF16], k: Tensor[B, H, S, D, BF16], v: Tensor[B, H, S, E, BF16], scale: float
) -> Tensor[B, H, S, E, BF16]:
    s = q @ k.mT * scale
    return torch.softmax(s.masked_fill(far(s) > 0, -INF), -1) @ v


@tessera.function
def single(q: Tensor[B, H, 1, D], k: K, v: V) -> Tensor[B, H, 1, E]:
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def shared(q: Tensor[B, H, 1, D], k: Tensor[B, 1, T, D], v: Tensor[B, 1, T, E]) -> Tensor[B, H, 1, E]:
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def interleaved(q: Tensor[B, S, H, D], k: Tensor[B, T, H, D], v: Tensor[B, T, H, E]) -> Tensor[B, S, H, E]:
    p = torch.softmax(torch.einsum("bshd,bthd->bhst", q, k), -1)
    return torch.einsum("bhst,bthe->bshe", p, v)


@tessera.function
def vocabulary(x: Tensor[S, D], w: Tensor[T, D]) -> Tensor[S]:
    return torch.logsumexp(x @ w.T, -1)


@tessera.function
def likely(x: Tensor[S, D], w: Tensor[T, D], target: Tensor[S, tessera.int64]) -> Tensor[S]:
    s = x @ w.T
    here = torch.arange(s.shape[-1])[None, :] == target[:, None]
    return torch.logsumexp(s, -1) - torch.where(here, s, 0.0).sum(-1)


@tessera.function
def guarded(q: Q, k: K, v: V) -> O:
    s = q @ k.mT
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    keep = j <= i - 2
    p = torch.softmax(torch.where(keep, s, float("-inf")), -1)
    return torch.where(keep, p, 0.0) @ v


@tessera.function
def projected(
    x: Tensor[S, D], a: Tensor[T, D], b: Tensor[T, D], c: Tensor[T, D]
) -> tuple[Tensor[S, T], Tensor[S, T], Tensor[S, T]]:
    return x @ a.T, x @ b.T, x @ c.T


@tessera.function
def twice(q: Q, k: K, v: V, w: Tensor[B, H, T, D]) -> O:
    return torch.softmax(q @ k.mT + q @ w.mT, -1) @ v


@tessera.function
def both(q: Q, k: K, v: V, u: Tensor[B, H, T, D]) -> tuple[O, Tensor[B, H, S, D]]:
    p = torch.softmax(q @ k.mT, -1)
    return p @ v, p @ u


@tessera.function
def unsoft(q: Q, k: K, v: V) -> O:
    return torch.relu(q @ k.mT) @ v


@tessera.function
def nearest(x: Tensor[S, D], w: Tensor[T, D]) -> tuple[Tensor[S], Tensor[S, tessera.int64]]:
    s = x @ w.T
    return s.amax(-1), s.argmax(-1)


@tessera.function
def half(q: Tensor[B, S, D, F16], k: Tensor[B, T, D, F16], v: Tensor[B, T, E, F16]) -> Tensor[B, S, E, F16]:
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def double(q: Tensor[B, S, D, F64], k: Tensor[B, T, D, F64], v: Tensor[B, T, E, F64]) -> Tensor[B, S, E, F64]:
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def rotated(q: Q, k: K, v: V, c: Tensor[S, D], s: Tensor[S, D]) -> O:
    n = q.shape[-1] // 2
    q = q * c + torch.cat([-q[..., n:], q[..., :n]], -1) * s
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def nested(q: Tensor[B, S, M, D], k: Tensor[B, T, M, D], v: Tensor[B, T, E]) -> Tensor[B, S, E]:
    return torch.softmax(torch.einsum("bsmd,btmd->bst", q, k), -1) @ v


@tessera.function
def column(q: Tensor[B, S, D], k: Tensor[B, T, D], v: Tensor[B, T, 1]) -> Tensor[B, S, 1]:
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def outer(q: Tensor[B, S, 1], k: Tensor[B, T, 1], v: Tensor[B, T, E]) -> Tensor[B, S, E]:
    return torch.softmax(q @ k.mT, -1) @ v


@tessera.function
def folds(x: Tensor[S, D], w: Tensor[T, D]) -> tuple[Tensor[S], Tensor[S], Tensor[S], Tensor[S, tessera.bool_]]:
    s = x @ w.T
    return s.amin(-1), s.prod(-1), s.abs().mean(-1), (s > 3).any(-1)


@tessera.function
def limited(q: Q, k: K, v: V, n: Tensor[B, tessera.int32]) -> O:
    s = q @ k.mT
    beyond = torch.arange(s.shape[-1]) >= n[:, None, None, None]
    return torch.softmax(s.masked_fill(beyond, -INF), -1) @ v


@tessera.function
def relative(q: Q, k: K, v: V, bias: Tensor[H, 7]) -> O:
    s = q @ k.mT
    return torch.softmax(s + bias[:, far(s).clamp(-3, 3) + 3], -1) @ v


@tessera.function
def slanted(q: Q, k: K, v: V) -> O:
    s = q @ k.mT
    i, j = torch.arange(s.shape[-2])[:, None], torch.arange(s.shape[-1])[None, :]
    return torch.softmax(s.masked_fill((2 * i - 3 * j > 7) | (j % 3 == 0), -INF), -1) @ v


@tessera.function
def linear(x: Tensor[S, D], w: Tensor[T, D], b: Tensor[T]) -> Tensor[S, T]:
    return torch.nn.functional.gelu(x @ w.T + b)


@tessera.function
def gated(x: Tensor[S, D], w: Tensor[D, T], u: Tensor[D, T]) -> Tensor[S, T]:
    return torch.nn.functional.silu(x @ w) * (x @ u)


@tessera.function
def batched(x: Tensor[B, S, D], w: Tensor[B, D, T]) -> Tensor[B, S, T]:
    return torch.relu(x @ w)


@tessera.function
def narrow_linear(x: Tensor[S, D, BF16], w: Tensor[T, D, BF16], b: Tensor[T, BF16]) -> Tensor[S, T, BF16]:
    return torch.relu(x @ w.T + b)


@tessera.function
def weight_gradient(x: Tensor[D, S], g: Tensor[D, T], w: Tensor[S, T]) -> Tensor[S, T]:
    return w - x.T @ g * 0.5


@tessera.function
def narrow_gelu(x: Tensor[S, D, BF16], w: Tensor[T, D, BF16], b: Tensor[T, BF16]) -> Tensor[S, T, BF16]:
    return torch.nn.functional.gelu(x @ w.T + b, approximate="tanh")


@tessera.function
def narrow_silu(x: Tensor[S, D, BF16], w: Tensor[T, D, BF16]) -> Tensor[S, T, BF16]:
    return torch.nn.functional.silu(x @ w.T)


@tessera.function
def gated_mlp(
    x: Tensor[S, D, BF16], w: Tensor[D, T, BF16], u: Tensor[D, T, BF16], v: Tensor[T, E, BF16], b: Tensor[E, BF16]
) -> Tensor[S, E, BF16]:
    return torch.relu((torch.nn.functional.silu(x @ w) * (x @ u)) @ v + b)


@tessera.function
def narrow_gradient(x: Tensor[D, S, BF16], g: Tensor[D, T, BF16], w: Tensor[S, T, BF16]) -> Tensor[S, T, BF16]:
    return w - x.T @ g * 0.5


@tessera.function
def narrow_scaled(
    x: Tensor[S, D, BF16], r: Tensor[S, 1], s: Tensor[D, BF16], w: Tensor[T, D, BF16], u: Tensor[T, D, BF16],
    v: Tensor[E, T, BF16],
) -> Tensor[S, E, BF16]:  # fmt: skip
    h = x * (r / 3).to(torch.bfloat16) * s
    return torch.nn.functional.silu(h @ w.T) * (h @ u.T) @ v.T


@tessera.function
def narrow_projected(
    x: Tensor[S, D, BF16], a: Tensor[T, D, BF16], b: Tensor[T, D, BF16]
) -> tuple[Tensor[S, T, BF16], Tensor[S, T, BF16]]:
    return torch.relu(x @ a.T), x @ b.T


BOTH = ({"B": 1, "H": 2, "S": 37, "T": 41, "D": 24, "E": 40}, {"B": 2, "H": 1, "S": 1, "T": 70, "D": 24, "E": 20})
SAME = ({**BOTH[0], "T": 37},)
LONG = {"B": 1, "H": 1, "S": 19, "T": 35, "D": 260, "E": 258}
SMALL = ({"B": 1, "S": 19, "T": 37, "D": 12, "E": 10, "M": 3},)
NONE = {"B": 1, "H": 2, "S": 5, "T": 0, "D": 24, "E": 40}
ONE = ({"B": 2, "H": 3, "T": 41, "D": 24, "E": 40},)
EVEN = {"B": 1, "H": 1, "S": 128, "T": 256, "D": 32, "E": 64}


@dataclass(frozen=True)
class Stream:
    """A program, the sizes to run it at, integers that its parameters take (as a range), and numbers; with ``rows``
    its recurrences take as many steps at a time.
    """

    function: Any
    sizes: tuple[Mapping[str, int], ...] = BOTH[:1]
    integers: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    numbers: Mapping[str, float] = field(default_factory=dict)
    strided: frozenset[str] = frozenset()
    rows: int = 0
    #: As ``schedule`` takes it.
    programs: int = 0

    @property
    def name(self) -> str:
        how = f"_by_{self.rows}" if self.rows else "_in_pieces" if self.programs else ""
        return f"{self.function.__name__}{how}"

    @cached_property
    def stages(self) -> tuple[Function, Program]:
        """Before regions are made, and scheduled."""
        before = parse(str(self.function.ir("canonicalize" if self.rows else "dce")))
        if self.rows:
            for step in (Chunk(rows=self.rows), PASSES["cse"], PASSES["dce"]):
                before = step.run(before)
        fuse = next(row.step for row in PIPELINE if row.step.name == "fuse")
        return before, schedule(fuse.run(before), self.strided, programs=self.programs)


CASES = (
    Stream(full, (*BOTH, LONG, EVEN, NONE), numbers={"scale": 0.3}),
    Stream(causal, (*BOTH, EVEN), numbers={"scale": 0.3}),
    Stream(lower, SAME),
    Stream(sloped),
    Stream(window),
    Stream(behind, SAME),
    Stream(capped, numbers={"cap": 3.0}),
    Stream(prefix, integers={"lengths": (5, 20)}),
    Stream(documents, integers={"a": (0, 2), "b": (0, 2)}),
    Stream(biased),
    Stream(grouped, ({**BOTH[0], "G": 2},)),
    Stream(dropped),
    Stream(logged, (*BOTH, EVEN), strided=frozenset("qkv")),
    Stream(narrow, (*BOTH, LONG), numbers={"scale": 0.3}),
    Stream(narrow_causal, SAME, numbers={"scale": 0.3}),
    Stream(single, ONE),
    Stream(shared, ONE),
    Stream(interleaved),
    Stream(vocabulary, (LONG,)),
    Stream(likely, integers={"target": (0, 41)}),
    Stream(guarded),
    Stream(projected, (*SMALL, {"S": 1, "T": 37, "D": 12})),
    Stream(twice),
    Stream(both),
    Stream(unsoft),
    Stream(nearest),
    Stream(half, SMALL),
    Stream(double, SMALL),
    Stream(rotated),
    Stream(nested, SMALL),
    Stream(column, SMALL),
    Stream(outer, SMALL),
    Stream(folds, SMALL),
    Stream(limited, integers={"n": (3, 30)}),
    Stream(relative),
    Stream(slanted),
    Stream(linear, (*SMALL, {"S": 1, "T": 37, "D": 12}, {"S": 70, "T": 130, "D": 80})),
    Stream(gated, SMALL),
    Stream(batched, SMALL),
    Stream(narrow_linear, SMALL),
    Stream(weight_gradient, SMALL),
    Stream(narrow_silu, SMALL),
    Stream(narrow_gelu, (*SMALL, {"S": 70, "T": 136, "D": 80})),
)
#: The last few and many columns: with many the first products go through memory.
COLUMNS = tuple({"S": 19, "D": 24, "T": 40, "E": e} for e in (40, 536))
#: Few results and long sums: two pieces, three that do not fill it, none, and a single row.
LONG_SUMS = tuple({"B": 2, "S": s, "T": 37, "D": d} for s, d in ((20, 400), (19, 641), (5, 300), (1, 500)))
NARROW_SUMS = tuple({"S": s, "T": 37, "D": d} for s, d in ((20, 2064), (19, 2305), (5, 1200), (1, 2100)))
IN_PIECES = (
    *(Stream(f, LONG_SUMS, programs=132) for f in (linear, gated, batched, weight_gradient, projected)),
    Stream(narrow_linear, NARROW_SUMS, programs=132),
    Stream(narrow_projected, (*NARROW_SUMS[1:3], {"S": 270, "T": 37, "D": 72}), programs=132),
    Stream(gated_mlp, COLUMNS, programs=132),
    Stream(narrow_scaled, COLUMNS, programs=132),
    Stream(narrow_gradient, ({"S": 24, "T": 40, "D": 2111},), programs=132),
)
