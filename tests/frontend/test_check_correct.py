"""Correct functions: none is refused, and what depends on the sizes is said."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int

from tessera.frontend.annotation import Tensor, floating, integer
from tessera.ir.dtype import bf16, bool_, f32, int64
from tests.frontend.harness import checked, well_formed

CORRECT: dict[Any, str] = {}


def fine(verdict: str) -> Any:
    def keep(f: Any) -> Any:
        CORRECT[f] = verdict
        return f

    return keep


@fine("proved")
def rms_norm(x: Tensor["B", "S", "D"], w: Tensor["D"], eps: float = 1e-6) -> Tensor["B", "S", "D"]:
    return x * torch.rsqrt(torch.mean(x**2, dim=-1, keepdim=True) + eps) * w


@fine("proved")
def layer_norm(x: Tensor["...", "D"], w: Tensor["D"], b: Tensor["D"]) -> Tensor["...", "D"]:
    return F.layer_norm(x, (x.shape[-1],), w, b)


@fine("proved")
def attention(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "T", "D"], v: Tensor["B", "H", "T", "E"]
) -> Tensor["B", "H", "S", "E"]:
    return torch.softmax(q @ k.mT * q.shape[-1] ** -0.5, dim=-1) @ v


@fine("deferred")
def attention_with_math(
    q: Tensor["B", "S", "D"], k: Tensor["B", "T", "D"], v: Tensor["B", "T", "D"]
) -> Tensor["B", "S", "D"]:
    return torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), dim=-1) @ v


@fine("guarded")
def split_heads(x: Tensor["B", "S", "H*K"], w: Tensor["D", "H*K"], H: int) -> Tensor["B", "H", "S", "K"]:
    b, s, e = x.shape
    return x.view(b, s, H, e // H).transpose(1, 2)


@fine("guarded")
def merge(x: Tensor["B", "S", "D"]) -> Tensor["B", "D", "S/2", 2]:
    return x.mT.reshape(x.shape[0], x.shape[2], -1, 2)


@fine("guarded")
def rotary(
    x: Tensor["B", "S", "H", "D"], cos: Tensor["S", 1, "D/2"], sin: Tensor["S", 1, "D/2"]
) -> Tensor["B", "S", "H", "D"]:
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


@fine("proved")
def swiglu(x: Tensor["B", "D"], g: Tensor["F", "D"], u: Tensor["F", "D"], d: Tensor["D", "F"]) -> Tensor["B", "D"]:
    return F.linear(F.silu(F.linear(x, g)) * F.linear(x, u), d)


@fine("proved")
def cross_entropy(x: Tensor["N", "V"], y: Tensor["N"]) -> Tensor[()]:
    return F.cross_entropy(x, y)


@fine("proved")
def embedding(table: Tensor["V", "D"], ids: Tensor["B", "S"]) -> Tensor["B", "S", "D"]:
    return table[ids] + F.embedding(ids, table)


@fine("proved")
def mask_argument(x: Tensor["B", "S"], m: Tensor["B", "S"]) -> Tensor["B", "S"]:
    return x.masked_fill(m, float("-inf")).softmax(-1)


@fine("proved")
def inverted_mask(x: Tensor["B", "S"], m: Tensor["B", "S"]) -> Tensor["B", "S"]:
    return torch.where(~m, x, 0.0)


@fine("proved")
def optional(
    x: Tensor["B", "S"], bias: Tensor["S"] | None = None, m: Tensor["B", "S", bool_] | None = None
) -> Tensor["B", "S"]:
    if bias is not None:
        x = x + bias
    return x if m is None else x * m


@fine("proved")
def flag(x: Tensor["B", "S"], turned: bool, mode: str = "sum") -> Tensor:
    y = x.sum(0) if mode == "sum" else x.mean(0)
    return y if turned else x


@fine("proved")
def two_results(x: Tensor["B", "D"], r: Tensor["B", "D"], w: Tensor["D"]) -> tuple[Tensor["B", "D"], Tensor["B", "D"]]:
    h = x + r
    return F.layer_norm(h, w.shape, w), h


@fine("proved")
def adamw(
    p: Tensor["N"], g: Tensor["N"], m: Tensor["N"], v: Tensor["N"], lr: float, b1: float = 0.9, b2: float = 0.999
) -> tuple[Tensor["N"], Tensor["N"], Tensor["N"]]:
    m = m * b1 + g * (1 - b1)
    v = v * b2 + g * g * (1 - b2)
    return p * (1 - lr * 0.01) - lr * m / (v.sqrt() + 1e-8), m, v


@fine("proved")
def reduction(x: Tensor["B", "S"], y: Tensor["B", "S"]) -> Tensor["B"]:
    return (x - y).square().sum(-1).sqrt() / x.norm(dim=-1).clamp(min=1e-12)


@fine("proved")
def literal_one(x: Tensor["B", "S", 1], y: Tensor["D"]) -> Tensor["B", "S", "D"]:
    return x * y


@fine("proved")
def existential(x: Tensor["B", "S"], y: Tensor["B", "T"]) -> Tensor["B", "L"]:
    return torch.cat([x, y], dim=1)


@fine("proved")
def binding_ints(seq_len: int, dim: int) -> tuple[Tensor["seq_len", "dim"], Tensor["seq_len", "dim"]]:
    t = torch.outer(torch.arange(seq_len).float(), torch.arange(dim).float())
    return t.cos(), t.sin()


@fine("proved")
def masks_of_positions(x: Tensor["B", "S", "S"]) -> Tensor["B", "S", "S"]:
    s = x.shape[-1]
    i = torch.arange(s)
    keep = (i[:, None] >= i[None, :]) & (i[:, None] - i[None, :] < 5)
    return x.masked_fill(~keep, -1e9) + torch.ones(s, s).tril()


@fine("guarded")
def slices(x: Tensor["B", "S"]) -> Any:
    return x[:, 1:] - x[:, :-1], x[..., ::2], x[0], x[:, None]


@fine("guarded")
def declared_multiple(x: Tensor["B", "D"]) -> Tensor["B"]:
    if x.shape[1] % 4 != 0:
        raise ValueError("D must be a multiple of 4")
    return x.unflatten(1, (4, -1)).sum((1, 2))


@fine("proved")
def both_branches(x: Tensor["B", "S"]) -> Tensor["B"]:
    if x.shape[1] > 1024:
        return x.sum(1)
    return x.mean(1)


@fine("deferred")
def unrolled(x: Tensor["B", "S", "D"]) -> Tensor["B", "D"]:
    h = torch.zeros_like(x[:, 0])
    for t in range(x.shape[1]):
        h = torch.tanh(h + x[:, t])
    return h


@fine("guarded")
def updates(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    y = x.clone()
    y += 1
    y[:, 0] = 0.0
    y.mul_(2).clamp_(min=0)
    return y


@fine("proved")
def half(x: Tensor["B", "S", bf16], w: Tensor["S", f32]) -> Tensor["B", "S", f32]:
    return x * w


@fine("proved")
def classes(x: Tensor["B", "S", floating], i: Tensor["B", integer]) -> Tensor["B", 1]:
    return x.gather(1, i[:, None].long())


@fine("proved")
def keeps_dtype(x: Tensor["B", "S"]) -> Tensor["B", "S"]:
    return (x.float() * 2).to(x.dtype)


@fine("proved")
def jax(x: Float[torch.Tensor, "batch seq d"], i: Int[torch.Tensor, "batch"]) -> Float[torch.Tensor, "batch d"]:  # noqa: F722
    return x[torch.arange(x.shape[0]), i]


@fine("proved")
def jax_lead(x: Float[torch.Tensor, "*batch d"], w: Float[torch.Tensor, "e d"]) -> Float[torch.Tensor, "*batch e"]:  # noqa: F722
    return F.linear(x, w)


@fine("proved")
def jax_any(x: Float[torch.Tensor, "... d"]) -> Float[torch.Tensor, "... d"]:  # noqa: F722
    return x - x.amax(-1, keepdim=True)


@fine("proved")
def containers(
    pair: tuple[Tensor["B", "D"], Tensor["D"]], table: dict[str, Tensor["D"]]
) -> dict[str, Tensor["B", "D"]]:
    a, b = pair
    return {"sum": a + b + sum(table.values())}


@fine("proved")
def union_result(x: Tensor["B", "S"], reduce: bool) -> Tensor[()] | Tensor["B", "S"]:
    return x.sum() if reduce else x


@fine("proved")
def argmax(x: Tensor["B", "V"]) -> Tensor["B", int64]:
    _, indices = x.max(dim=-1)
    return indices


@fine("deferred")
def anything(x: Tensor, y: Tensor) -> Tensor:
    return x * y.sum(-1, keepdim=True)


@fine("deferred")
def untyped(x, y):  # type: ignore[no-untyped-def]
    return x @ y


@fine("proved")
def products(x: Tensor["B*S", "D"], y: Tensor["B", "S", "D"]) -> Tensor["B*S", "D"]:
    return x + y.reshape(-1, y.shape[-1]) + y.flatten(0, 1)


@fine("guarded")
def known_multiple(x: Tensor["B", "D"], w: Tensor[768, "F"]) -> Tensor["B", "F"]:
    return x @ w


@fine("proved")
def norm_of_groups(x: Tensor["B", "G*C", "L"], G: int) -> Tensor["B", "G", "C", "L"]:
    y = x.unflatten(1, (G, -1))
    return (y - y.mean((2, 3), keepdim=True)) * torch.rsqrt(y.var((2, 3), keepdim=True) + 1e-5)


@fine("proved")
def outer(x: Tensor["B", "I"], y: Tensor["B", "J"]) -> Tensor["B", "I", "J"]:
    return torch.einsum("bi,bj->bij", x, y) + x[:, :, None] * y[:, None, :]


@pytest.mark.parametrize("f", CORRECT, ids=lambda f: f.__name__)
def test_nothing_is_refused(f: Any) -> None:
    report = checked(f)
    assert report.ok, str(report)
    for traced in report.traced:
        if traced.deferred is None and not traced.findings:
            well_formed(traced)
    assert report.verdict == CORRECT[f] or (CORRECT[f] == "guarded" and report.verdict == "proved"), str(report)


def test_report_lists_what_is_guarded() -> None:
    lines = str(checked(known_multiple)).splitlines()
    assert lines[0] == "known_multiple: guarded for every B, D, F that meets the guards"
    assert any(line.startswith("  guarded  D == 768") and "test_check_correct.py:" in line for line in lines)


def test_a_question_about_sizes_is_followed_both_ways() -> None:
    report = checked(both_branches)
    assert len(report.traced) == 2 and {t.choices[0].holds for t in report.traced} == {True, False}


def test_what_a_function_demands_is_a_guard() -> None:
    assert any("D % 4 == 0" in str(item) and item.verdict == "guarded" for item in checked(declared_multiple).items)


def test_a_size_that_python_needs_is_deferred_with_its_line() -> None:
    (item,) = [item for item in checked(unrolled).items if "specialises" in item.text]
    assert item.text == "specialises on `S`, known at the first call"
    assert item.span is not None and "range(x.shape[1])" in (item.span.source_line() or "")
