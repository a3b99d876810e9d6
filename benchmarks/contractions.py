"""Cases around contractions, one table: who takes part in each, and what is measured of them without a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F

from benchmarks import jax_functions, programs
from benchmarks.cases import Sizes
from benchmarks.peers import Call, to_jax

Arguments = tuple[Any, ...]
#: Makes a call; what is compiled or converted for it is made here, or in its first call.
Maker = Callable[[], Call]


@dataclass(frozen=True)
class Contraction:
    """One case: the measured function, its arguments, and further participants by name.

    ``best`` names the participants among which the best peer is looked for: those that compute the same.
    ``compiles`` says whether `torch.compile` takes part: it writes a loop out step by step, for minutes.
    ``others`` gives, for sizes and arguments, the participants beside `tessera`, `eager` and `compile`.
    """

    name: str
    title: str
    function: Any
    arguments: Callable[[Sizes], Arguments]
    others: Callable[[Sizes, Arguments], Mapping[str, Maker]]
    sizes: Sizes
    quick: Sizes
    best: tuple[str, ...] = ("eager", "compile")
    compiles: bool = True

    def make(self, quick: bool = False) -> Arguments:
        """Arguments, the same ones every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(20_250_102)
            return self.arguments(self.quick if quick else self.sizes)

    def participants(self, quick: bool = False) -> dict[str, Maker]:
        """Everyone who takes part; Tessera is the first."""
        arguments = self.make(quick)
        plain = self.function.eager
        makers: dict[str, Maker] = {
            "tessera": lambda: lambda: self.function(*arguments),
            "eager": lambda: lambda: plain(*arguments),
        }
        if self.compiles:
            makers["compile"] = lambda: _compiled(plain, arguments)
        return makers | dict(self.others(self.quick if quick else self.sizes, arguments))


def _compiled(function: Callable[..., object], arguments: Arguments) -> Call:
    compiled = torch.compile(function)
    return lambda: compiled(*arguments)


def _jax(function: Callable[..., object], arguments: Arguments) -> Call:
    import jax

    jitted = jax.jit(function)
    converted = tuple(to_jax(value) for value in arguments)
    return lambda: jax.block_until_ready(jitted(*converted))


def _product(a: torch.Tensor, b: torch.Tensor) -> Call:
    """A product alone, into memory that is there."""
    out = torch.empty(a.shape[0], b.shape[1], dtype=a.dtype)
    return lambda: torch.mm(a, b, out=out)


# -- inputs ---------------------------------------------------------------------------------------


def _heads(s: Sizes) -> Arguments:
    q, k, v = (torch.randn(1, s["H"], s["S"], s["D"]) for _ in range(3))
    return q, k, v, s["D"] ** -0.5


def _weight(*shape: int) -> torch.Tensor:
    return torch.randn(*shape) * shape[-1] ** -0.5


def _layer(s: Sizes) -> Arguments:
    return torch.randn(s["M"], s["K"]), _weight(s["N"], s["K"]), torch.randn(s["N"])


def _int8_layer(s: Sizes) -> Arguments:
    weight = torch.randint(-127, 128, (s["N"], s["K"]), dtype=torch.int8)
    return torch.randn(1, s["K"]), weight, torch.rand(s["N"]) * 0.01


def _mlp(s: Sizes) -> Arguments:
    n, d, f = s["N"], s["D"], s["F"]
    return torch.randn(n, d), _weight(f, d), _weight(f, d), _weight(d, f)


def _block(s: Sizes) -> Arguments:
    d, f = s["D"], s["F"]
    products = (_weight(d, d) for _ in range(4))
    return (torch.randn(1, s["S"], d), torch.rand(d) + 0.5, torch.rand(d) + 0.5, *products,
            _weight(f, d), _weight(f, d), _weight(d, f), s["H"])  # fmt: skip


# -- participants ---------------------------------------------------------------------------------


def _flex(arguments: Arguments) -> Call:
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    q, k, v, scale = arguments
    compiled = torch.compile(flex_attention)

    def before(b: Any, h: Any, i: Any, j: Any) -> Any:
        return i >= j

    mask = create_block_mask(before, None, None, q.shape[2], k.shape[2], device="cpu")
    return lambda: compiled(q, k, v, block_mask=mask, scale=scale)


def _causal_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    return {
        "sdpa": lambda: lambda: F.scaled_dot_product_attention(a[0], a[1], a[2], is_causal=True, scale=a[3]),
        "flex": lambda: _flex(a),
        "jax": lambda: _jax(jax_functions.causal_attention, a),
    }


def _full_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    side = s["P"]
    one, two = torch.randn(side, side), torch.randn(side, side)
    return {
        "sdpa": lambda: lambda: F.scaled_dot_product_attention(a[0], a[1], a[2], scale=a[3]),
        "sgemm": lambda: _product(one, two),
    }


def _window_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    return {"causal": lambda: lambda: programs.causal(*a[:4])}


def _layer_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    return {"mm": lambda: _product(a[0], a[1].T)}


def _mlp_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    def products() -> Call:
        x, g, u, d = a
        calls = _product(x, g.T), _product(x, u.T), _product(torch.randn(s["N"], s["F"]), d.T)
        return lambda: [call() for call in calls]

    return {"three products": products, "jax": lambda: _jax(jax_functions.swiglu_mlp, a)}


def _narrow_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    wide = tuple(x.float() for x in a)
    return {"in f32": lambda: lambda: programs.linear(*wide)}


def _int8_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    x, w, scales = a

    def vector() -> Call:
        weight, row, out = w.float(), x[0], torch.empty(w.shape[0])
        return lambda: torch.mv(weight, row, out=out)

    return {
        "mv in f32": vector,
        "int8pack": lambda: lambda: torch._weight_int8pack_mm(x, w, scales),
    }


def positions(s: Sizes) -> tuple[torch.Tensor, ...]:
    """Queries, keys and values of some heads, of one sequence unless the sizes say of how many."""
    return tuple(torch.randn(s.get("B", 1), s["H"], s["S"], s["D"]) for _ in range(3))


def gated(s: Sizes) -> Arguments:
    """What gated linear attention takes."""
    q, k, v = positions(s)
    return q, k, v, F.logsigmoid(torch.randn_like(q)), s["D"] ** -0.5


def delta(s: Sizes) -> Arguments:
    """What the delta rule takes."""
    q, k, v = positions(s)
    return q, F.normalize(k, dim=-1), v, torch.rand(k.shape[:3]), s["D"] ** -0.5


def _selective(s: Sizes) -> Arguments:
    x, dt = (torch.randn(1, s["S"], s["C"]) for _ in range(2))
    b, c = (torch.randn(1, s["S"], s["N"]) for _ in range(2))
    return x, F.softplus(dt), -torch.rand(s["C"], s["N"]), b, c


def _sorted_scores(s: Sizes) -> Arguments:
    return torch.randn(s["B"], s["N"]).sort(-1, descending=True).values, 0.9


def _softmax_attention(a: Arguments) -> Call:
    q, k, v, scale = a
    later = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool).triu(1)
    return lambda: torch.softmax((q @ k.mT * scale).masked_fill(later, -programs.INF), -1) @ v


def _linear_attention_others(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    return {"softmax": lambda: _softmax_attention(a), "jax": lambda: _jax(jax_functions.linear_attention, a)}


def _in_jax(function: Callable[..., object]) -> Callable[[Sizes, Arguments], Mapping[str, Maker]]:
    return lambda s, a: {"jax": lambda: _jax(function, a)}


def _none(s: Sizes, a: Arguments) -> Mapping[str, Maker]:
    return {}


def _table(*cases: Contraction) -> Mapping[str, Contraction]:
    return MappingProxyType({case.name: case for case in cases})


_SMALL_HEADS = {"H": 2, "S": 48, "D": 16}

CONTRACTIONS: Mapping[str, Contraction] = _table(
    Contraction("causal_attention", "causal attention", programs.causal, _heads, _causal_others,
                {"H": 8, "S": 1024, "D": 64}, _SMALL_HEADS, ("eager", "compile", "sdpa", "flex", "jax")),
    Contraction("full_attention", "full attention", programs.full, _heads, _full_others,
                {"H": 8, "S": 2048, "D": 64, "P": 2048}, {**_SMALL_HEADS, "P": 64}, ("eager", "compile", "sdpa")),
    Contraction("window_attention", "attention to a window", programs.windowed, lambda s: (*_heads(s), s["W"]),
                _window_others, {"H": 8, "S": 4096, "D": 64, "W": 256}, {**_SMALL_HEADS, "W": 8}),
    Contraction("linear_gelu", "linear + bias + GELU", programs.linear_gelu, _layer, _layer_others,
                {"M": 1024, "K": 768, "N": 3072}, {"M": 16, "K": 24, "N": 40}),
    Contraction("swiglu_mlp", "gated MLP", programs.swiglu_mlp, _mlp, _mlp_others,
                {"N": 512, "D": 768, "F": 2048}, {"N": 16, "D": 24, "F": 40}, ("eager", "compile", "jax")),
    Contraction("bf16_linear", "linear + bias, bf16", programs.linear,
                lambda s: tuple(x.bfloat16() for x in _layer(s)), _narrow_others,
                {"M": 512, "K": 768, "N": 3072}, {"M": 16, "K": 24, "N": 40}),
    Contraction("int8_linear", "linear, int8 weights, one row", programs.int8_linear, _int8_layer, _int8_others,
                {"K": 4096, "N": 4096}, {"K": 64, "N": 64}, ("eager", "compile", "int8pack")),
    Contraction("linear_loss", "linear + cross-entropy", programs.linear_loss,
                lambda s: (torch.randn(s["N"], s["D"]), _weight(s["C"], s["D"]), torch.randint(0, s["C"], (s["N"],))),
                _none, {"N": 512, "D": 768, "C": 32_000}, {"N": 16, "D": 24, "C": 300}),
    Contraction("block", "transformer block", programs.block, _block, _none,
                {"S": 512, "D": 768, "F": 2048, "H": 12}, {"S": 16, "D": 48, "F": 40, "H": 3}),
    Contraction("linear_recurrence", "linear attention", programs.linear_attention, _heads, _linear_attention_others,
                {"H": 8, "S": 4096, "D": 64}, _SMALL_HEADS, ("eager", "jax"), compiles=False),
    Contraction("gated_recurrence", "gated linear attention", programs.gated_linear_attention, gated,
                _in_jax(jax_functions.gated_linear_attention), {"H": 8, "S": 2048, "D": 64}, _SMALL_HEADS,
                ("eager", "jax"), compiles=False),
    Contraction("delta_rule", "delta rule", programs.delta_rule, delta, _in_jax(jax_functions.delta_rule),
                {"H": 8, "S": 2048, "D": 64}, _SMALL_HEADS, ("eager", "jax"), compiles=False),
    Contraction("selective_scan", "selective scan", programs.selective_scan, _selective,
                _in_jax(jax_functions.selective_scan), {"S": 2048, "C": 512, "N": 16}, {"S": 20, "C": 40, "N": 4},
                ("eager", "jax"), compiles=False),
    Contraction("top_p", "softmax, sums of prefixes, mask", programs.top_p, _sorted_scores,
                _in_jax(jax_functions.top_p), {"B": 256, "N": 32_000}, {"B": 4, "N": 300},
                ("eager", "compile", "jax")),
)  # fmt: skip

# -- variants of attention ------------------------------------------------------------------------


def _documents(s: int) -> torch.Tensor:
    return (torch.arange(s) // max(1, s // 7))[None]


#: Functions over q, k, v and scale, with what else they take for a number of heads and positions.
ATTENTIONS: Mapping[str, tuple[Any, Callable[[int, int], Arguments]]] = MappingProxyType({
    "full": (programs.full, lambda h, s: ()),
    "causal": (programs.causal, lambda h, s: ()),
    "windowed": (programs.windowed, lambda h, s: (max(2, s // 16),)),
    "alibi": (programs.alibi, lambda h, s: (0.5 ** torch.arange(1, h + 1),)),
    "capped": (programs.capped, lambda h, s: ()),
    "prefix": (programs.prefix, lambda h, s: (torch.tensor([s // 5]),)),
    "documents": (programs.documents, lambda h, s: (_documents(s),)),
    "grouped": (programs.grouped, lambda h, s: ()),
    "with_sums": (programs.with_sums, lambda h, s: ()),
    "dropped": (programs.dropped, lambda h, s: ()),
})  # fmt: skip


def attention_arguments(name: str, heads: int, positions: int, width: int) -> Arguments:
    """Arguments of a variant of attention, the same ones every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_250_103)
        shared = heads // 2 if name == "grouped" else heads
        q = torch.randn(1, heads, positions, width)
        k, v = (torch.randn(1, shared, positions, width) for _ in range(2))
        return q, k, v, width**-0.5, *ATTENTIONS[name][1](heads, positions)
