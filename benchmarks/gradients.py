"""Forward and backward passes beside torch's: ``python -m benchmarks.gradients``.

Each case is called, and the derivative of its result by all its float arguments is taken for a given cotangent. Who
takes part takes turns in one process, with freed pages reused; a ratio is the median of the ratios of its rounds. The
error is the relative L2 distance of all gradients from those of float64, over that of eager torch. Kept is what stays
for the backward pass, the peak the most that is allocated at once, the gradients among it.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import torch.nn.functional as F
from torch.profiler import ProfilerActivity, profile

import tessera
from benchmarks import alone
from benchmarks.speed import interleave
from benchmarks.stats import geometric_mean, paired
from tessera import Tensor, config
from tessera.driver.progress import Progress
from tessera.runtime import memory

Function = Callable[..., torch.Tensor]
#: The cases whose geometric mean is a bar of its own.
SMALL = ("rms_norm", "add_layer_norm", "softmax", "swiglu_gate", "bias_gelu", "rope", "cross_entropy")


# -- the functions -----------------------------------------------------------------------------------------------------


def rms_norm(x: Tensor["N", "D"], w: Tensor["D"]) -> Tensor["N", "D"]:
    """RMSNorm with a weight."""
    return F.rms_norm(x, (x.shape[-1],), w, 1e-6)


def add_layer_norm(x: Tensor["N", "D"], r: Tensor["N", "D"], w: Tensor["D"], b: Tensor["D"]) -> Tensor["N", "D"]:
    """LayerNorm of a sum."""
    return F.layer_norm(x + r, (x.shape[-1],), w, b)


def softmax(x: Tensor["N", "D"]) -> Tensor["N", "D"]:
    """Softmax over rows."""
    return torch.softmax(x, -1)


def swiglu_gate(a: Tensor["N", "D"], b: Tensor["N", "D"]) -> Tensor["N", "D"]:
    """The gate of a SwiGLU layer."""
    return F.silu(a) * b


def bias_gelu(x: Tensor["N", "D"], b: Tensor["D"]) -> Tensor["N", "D"]:
    """GELU after a bias."""
    return F.gelu(x + b)


def rope(x: Tensor["B", "H", "S", "D"], cos: Tensor["S", "D/2"], sin: Tensor["S", "D/2"]) -> Tensor["B", "H", "S", "D"]:
    """Rotary positions, by halves."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def cross_entropy(x: Tensor["N", "V"], t: Tensor["N"]) -> Tensor[()]:
    """The mean cross-entropy of rows of logits."""
    return F.cross_entropy(x, t)


def attention(
    q: Tensor["B", "H", "S", "D"], k: Tensor["B", "H", "S", "D"], v: Tensor["B", "H", "S", "D"]
) -> Tensor["B", "H", "S", "D"]:
    """Causal attention, as its definition says it."""
    i = torch.arange(q.shape[2])
    scores = (q @ k.mT) * 0.125
    return torch.softmax(scores.masked_fill(i[:, None] < i, float("-inf")), -1) @ v


def linear_loss(x: Tensor["N", "D"], w: Tensor["V", "D"], t: Tensor["N"]) -> Tensor[()]:
    """A projection to a vocabulary and its cross-entropy."""
    return F.cross_entropy(x @ w.mT, t)


def block(
    x: Tensor["B", "S", "D"], n1: Tensor["D"], qkv: Tensor["3*D", "D"], out: Tensor["D", "D"], n2: Tensor["D"],
    gate: Tensor["K", "D"], up: Tensor["K", "D"], down: Tensor["D", "K"],
) -> Tensor["B", "S", "D"]:  # fmt: skip
    """A pre-norm transformer block of 12 heads."""
    b, s, d = x.shape
    h = F.rms_norm(x, (d,), n1, 1e-6)
    q, k, v = (part.reshape(b, s, 12, d // 12).transpose(1, 2) for part in (h @ qkv.mT).chunk(3, -1))
    x = x + attention(q, k, v).transpose(1, 2).reshape(b, s, d) @ out.mT
    h = F.rms_norm(x, (d,), n2, 1e-6)
    return x + (F.silu(h @ gate.mT) * (h @ up.mT)) @ down.mT


def _sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=0.125)


# -- cases -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A function with its arguments: shapes of normal numbers, or (count, rows) of labels; ``fixed`` have no gradient.
    A weight's numbers are divided by the root of its last size.
    """

    function: Function
    shapes: tuple[tuple[int, ...], ...]
    labels: tuple[int, int] | None = None
    fixed: int = 0
    also: Mapping[str, Function] | None = None
    weights: int = 0

    def arguments(self, quick: bool) -> list[torch.Tensor]:
        """The same ones every time."""
        torch.manual_seed(0)
        small = {n: n // 8 for shape in self.shapes for n in shape if n >= 512} if quick else {}
        sizes = [tuple(small.get(n, n) for n in shape) for shape in self.shapes]
        made = [torch.randn(s) / (s[-1] ** 0.5 if n >= len(sizes) - self.weights else 1) for n, s in enumerate(sizes)]
        for x in made[: len(made) - self.fixed]:
            x.requires_grad_()
        if self.labels is not None:
            rows, count = (small.get(n, n) for n in self.labels)
            made.append(torch.randint(0, count, (rows,)))
        return made


_N, _D, _K = 4096, 2048, 2048
CASES: Mapping[str, Case] = {
    "rms_norm": Case(rms_norm, ((_N, _D), (_D,))),
    "add_layer_norm": Case(add_layer_norm, ((_N, _D), (_N, _D), (_D,), (_D,))),
    "softmax": Case(softmax, ((_N, _D),)),
    "swiglu_gate": Case(swiglu_gate, ((_N, _D), (_N, _D))),
    "bias_gelu": Case(bias_gelu, ((_N, _D), (_D,))),
    "rope": Case(rope, ((2, 16, 1024, 128), (1024, 64), (1024, 64)), fixed=2),
    "cross_entropy": Case(cross_entropy, ((1024, 32000),), labels=(1024, 32000)),
    "attention": Case(attention, ((1, 8, 1024, 64),) * 3, also={"sdpa": _sdpa}),
    "linear_loss": Case(linear_loss, ((512, 768), (32000, 768)), labels=(512, 32000), weights=1),
    "block": Case(block, ((1, 512, 768), (768,), (2304, 768), (768, 768), (768,), (_K, 768), (_K, 768), (768, _K)),
                  weights=7),
}  # fmt: skip


def pass_of(function: Function, arguments: Sequence[torch.Tensor]) -> Callable[[], tuple[torch.Tensor, ...]]:
    """A call that goes forward and backward; the cotangent is the same every time."""
    leaves = [x for x in arguments if x.requires_grad]
    with torch.no_grad():
        cotangent = torch.randn_like(function(*arguments))
    return lambda: torch.autograd.grad(function(*arguments), leaves, cotangent)


def error(found: Sequence[torch.Tensor], exact: Sequence[torch.Tensor]) -> float:
    """The relative L2 distance of all gradients together."""
    off = sum(float((a.double() - b).square().sum()) for a, b in zip(found, exact, strict=True))
    return (off / sum(float(b.square().sum()) for b in exact)) ** 0.5


def kept(function: Function, arguments: Sequence[torch.Tensor]) -> int:
    """The bytes that torch keeps for the backward pass of a call beside its arguments; memory is counted once."""
    own = {x.untyped_storage().data_ptr() for x in arguments}
    found: dict[int, int] = {}

    def pack(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        held = function(*arguments)
    del held
    return sum(found.values())


def peak(call: Callable[[], object]) -> int:
    """The most bytes that a call has allocated at once, the gradients that it gives among them."""
    memory.default_pool.cache_clear()  # what it hands out again nobody sees
    with config.override(pool=False), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        held = call()
    memory.default_pool.cache_clear()
    del held
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events = [e for e in seen.profiler.kineto_results.events() if e.name() == "[memory]"]
    return max(accumulate(e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())), default=0)


# -- measuring ---------------------------------------------------------------------------------------------------------


def measure(name: str, quick: bool, rounds: int, compiled: bool) -> dict[str, Any]:
    """Milliseconds, errors, and bytes kept and at the peak, of everyone for one case."""
    case = CASES[name]
    arguments = case.arguments(quick)
    ours = tessera.function(case.function)
    functions: dict[str, Function] = {"tessera": ours, "eager": case.function, **(case.also or {})}
    if compiled:
        functions["compile"] = torch.compile(case.function)
    torch.manual_seed(1)
    calls = {}
    for who, function in functions.items():
        torch.manual_seed(1)
        calls[who] = pass_of(function, arguments)
    wide = [x.detach().double().requires_grad_(x.requires_grad) if x.is_floating_point() else x for x in arguments]
    torch.manual_seed(1)
    cotangent = torch.randn_like(case.function(*arguments).detach()).double()
    exact = torch.autograd.grad(case.function(*wide), [x for x in wide if x.requires_grad], cotangent)
    errors = {who: error(call(), exact) for who, call in calls.items()}
    if ours.cache_info().eager:
        raise RuntimeError(f"{name} ran eagerly, not compiled")
    saved = {who: kept(function, arguments) for who, function in functions.items()}
    most = {who: peak(call) for who, call in calls.items()}
    with Progress(name, rounds) as progress:
        seconds = interleave(calls, rounds, progress)
    ratios = {who: paired(seconds[who], seconds["tessera"]) for who in calls if who != "tessera"}
    return {
        "ms": {who: 1e3 * statistics.median(times) for who, times in seconds.items()},
        "ratios": {who: [r.median, r.low, r.high] for who, r in ratios.items()},
        "error": errors, "error_ratio": errors["tessera"] / max(errors["eager"], 1e-30), "kept": saved, "peak": most,
    }  # fmt: skip


def best(row: Mapping[str, Any]) -> float:
    """The time of the best of eager torch and ``torch.compile`` over ours."""
    return min(row["ratios"][who][0] for who in ("eager", "compile") if who in row["ratios"])


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as lines of text."""
    heads = f"{'forward + backward':<16} {'ms':>9}  {'times of others over ours':<40} {'error':>6}"
    lines = [f"{heads}  MB kept and at the peak, others"]
    for name, row in rows.items():
        ratios = "  ".join(f"{who} {r[0]:.2f}×" for who, r in row["ratios"].items())
        memory = {who: f"{n / 1e6:.1f} {row['peak'][who] / 1e6:.1f}" for who, n in row["kept"].items()}
        others = ", ".join(f"{who} {text}" for who, text in memory.items() if who != "tessera")
        lines.append(
            f"{name:<16} {row['ms']['tessera']:9.2f}  {ratios:<40} {row['error_ratio']:6.2f}  "
            f"{memory['tessera']}, {others}"
        )
    small = [best(rows[name]) for name in SMALL if name in rows]
    if small:
        lines.append(f"best of eager and compile, {len(small)} small ones: "
                     f"geometric mean {geometric_mean(small):.2f}×, least {min(small):.2f}×")  # fmt: skip
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; with ``--output`` also write JSON with the machine and the versions."""
    return alone.run("gradients", __doc__, CASES, arguments, _measured, ("--no-compile", "leave torch.compile out"))


def _measured(options: argparse.Namespace) -> Mapping[str, Any]:
    rows = {n: measure(n, options.quick, options.rounds, not options.no_compile) for n in options.cases}
    print(table(rows))
    return {"cases": rows}


if __name__ == "__main__":
    sys.exit(main())
