"""Variants of attention on a GPU: plain code, the same for FlexAttention, and the library's own where it has one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.attention.flex_attention import create_block_mask, flex_attention

from benchmarks.cases import Sizes
from benchmarks.contractions import ATTENTIONS, Arguments, Maker
from benchmarks.peers import Call

#: What makes a function faster: `torch.compile`, or nothing.
Compiler = Callable[[Any], Any]
#: Of a result in float64, one of so many heads is compared.
HEADS = 8


@dataclass(frozen=True)
class Mods:
    """A variant in FlexAttention's terms, made from what the variant takes beside q, k, v and the scale."""

    score: Callable[..., Any] | None = None
    mask: Callable[..., Any] | None = None
    grouped: bool = False
    sums: bool = False


def _before(b: Any, h: Any, i: Any, j: Any) -> Any:
    return i >= j


def _windowed(width: int) -> Mods:
    return Mods(mask=lambda b, h, i, j: (i >= j) & (i - j < width))


def _alibi(slopes: torch.Tensor) -> Mods:
    return Mods(lambda score, b, h, i, j: score - slopes[h] * (i - j).abs())


def _capped() -> Mods:
    return Mods(lambda score, b, h, i, j: torch.tanh(score / 30) * 30, _before)


def _prefix(n: torch.Tensor) -> Mods:
    return Mods(mask=lambda b, h, i, j: (j <= i) | (j < n[b]))


def _documents(doc: torch.Tensor) -> Mods:
    return Mods(mask=lambda b, h, i, j: (doc[b, i] == doc[b, j]) & (j <= i))


#: What has no form here has no such peer: FlexAttention drops nothing.
MODS: Mapping[str, Callable[..., Mods]] = MappingProxyType({
    "full": lambda: Mods(),
    "causal": lambda: Mods(mask=_before),
    "windowed": _windowed,
    "alibi": _alibi,
    "capped": _capped,
    "prefix": _prefix,
    "documents": _documents,
    "grouped": lambda: Mods(mask=_before, grouped=True),
    "with_sums": lambda: Mods(sums=True),
})  # fmt: skip


def _flex(mods: Mods, a: Arguments, compiler: Compiler) -> Call:
    q, k, v, scale = a[:4]
    mask = None
    if mods.mask is not None:
        sizes = q.shape[0], q.shape[1], q.shape[2], k.shape[2]
        mask = create_block_mask(mods.mask, *sizes, device=q.device.type)
    run = compiler(flex_attention)
    more = {"return_lse": True} if mods.sums else {}
    return lambda: run(
        q, k, v, score_mod=mods.score, block_mask=mask, scale=scale, enable_gqa=mods.grouped, **more
    )  # fmt: skip


#: The library's own attention: what it is asked for, by variant.
PLAIN: Mapping[str, Mapping[str, Any]] = MappingProxyType({
    "full": {},
    "causal": {"is_causal": True},
    "grouped": {"is_causal": True, "enable_gqa": True},
    "dropped": {"dropout_p": 0.2},
})  # fmt: skip


def _library(a: Arguments, backends: list[SDPBackend], options: Mapping[str, Any]) -> Call:
    q, k, v, scale = a[:4]

    def call() -> object:
        with sdpa_kernel(backends):
            return F.scaled_dot_product_attention(q, k, v, scale=scale, **options)

    return call


@dataclass(frozen=True)
class Attention:
    """One variant by name: its function, and all that a case needs."""

    name: str

    @property
    def function(self) -> Any:
        return ATTENTIONS[self.name][0]

    @property
    def compared(self) -> bool:
        """Random results are not compared."""
        return self.name != "dropped"

    def arguments(self, s: Sizes) -> Arguments:
        """q, k and v of bf16, the scale, and what the variant takes besides."""
        batch, heads, length, width = (s[n] for n in "BHSD")
        q = torch.randn(batch, heads, length, width)
        shared = heads // 2 if self.name == "grouped" else heads
        k, v = (torch.randn(batch, shared, length, width) for _ in range(2))
        extra = ATTENTIONS[self.name][1](heads, length)
        narrow = (x.bfloat16() if isinstance(x, torch.Tensor) and x.is_floating_point() else x for x in extra)
        return q.bfloat16(), k.bfloat16(), v.bfloat16(), width**-0.5, *narrow

    def others(self, a: Arguments, compiler: Compiler) -> dict[str, Maker]:
        """FlexAttention, the library's fastest, and the one of cuDNN, each where it has the variant."""
        found: dict[str, Maker] = {}
        if self.name in MODS:
            mods = MODS[self.name](*a[4:])
            found["flex"] = lambda: _flex(mods, a, compiler)
        if self.name in PLAIN:
            options = PLAIN[self.name]
            every = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
            found["sdpa"] = lambda: _library(a, every, options)
            if a[0].is_cuda:
                found["cudnn"] = lambda: _library(a, [SDPBackend.CUDNN_ATTENTION], options)
        return found

    def flops(self, s: Sizes) -> int:
        """Those of both products over the pairs that the mask leaves, as attention is usually counted: a causal mask
        leaves half. Masks that depend on data count as if they left all.
        """
        pairs = s["S"] ** 2
        if self.name == "windowed":
            pairs = s["S"] * max(2, s["S"] // 16)
        elif self.name in ("causal", "capped", "grouped"):
            pairs //= 2
        return 4 * s["B"] * s["H"] * s["D"] * pairs

    def narrow(self, a: Arguments) -> Arguments:
        """The same for a few of the heads; those that share keys and values stay together."""
        q, k, v, scale, *rest = a
        groups = q.shape[1] // k.shape[1]
        q = q.unflatten(1, (k.shape[1], groups))[:, ::HEADS].flatten(1, 2)
        rest = [x[::HEADS] if self.name == "alibi" else x for x in rest]
        return q, k[:, ::HEADS], v[:, ::HEADS], scale, *rest

    def part(self, result: torch.Tensor) -> torch.Tensor:
        """What such arguments give, from a whole result."""
        groups = 2 if self.name == "grouped" else 1
        return result.unflatten(1, (result.shape[1] // groups, groups))[:, ::HEADS].flatten(1, 2)


VARIANTS: Mapping[str, Attention] = MappingProxyType({name: Attention(name) for name in ATTENTIONS})
