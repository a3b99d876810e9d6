"""Kernels beside functions that compute the same and beside torch: ``python -m benchmarks.kernels``.

The kernels are those of ``tessera.ops.kernels``, with block sizes left to the compiler, and where it says so with given
ones, which makes them run in their own blocks. Who takes part takes turns in one process, with freed pages reused; a
ratio is the median of the ratios of its rounds. The error is the relative L2 distance from float64, over that of eager
torch. Lines are those of code that a user writes, docstrings not among them.
"""

from __future__ import annotations

import argparse
import ast
import inspect
import statistics
import sys
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F

import tessera
from benchmarks import alone, gradients
from benchmarks.speed import interleave
from benchmarks.stats import paired
from tessera.driver.progress import Progress
from tessera.ops import kernels as K

Function = Callable[..., torch.Tensor]


def rope(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary positions of [S, H, D], by halves."""
    a, b = x.chunk(2, -1)
    c, s = cos[:, None], sin[:, None]
    return torch.cat([a * c - b * s, a * s + b * c], -1)


def losses(x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """The cross-entropy of each row."""
    return F.cross_entropy(x, t, reduction="none")


def attention(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The same, as its definition says it."""
    i = torch.arange(q.shape[1])
    scores = (q @ k.mT) * q.shape[2] ** -0.5
    return torch.softmax(scores.masked_fill(i[:, None] < i, float("-inf")), -1) @ v


def sdpa(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """Causal attention of torch."""
    return F.scaled_dot_product_attention(q[None], k[None], v[None], is_causal=True)[0]


@dataclass(frozen=True)
class Case:
    """A kernel, what computes the same in torch, and shapes of normal numbers, or (count, rows) of labels; ``options``
    are further arguments of the kernel, ``blocks`` the sizes with which it is measured once more, ``function`` what is
    compiled as a function where that is not the reference.
    """

    kernel: Any
    reference: Function
    shapes: tuple[tuple[int, ...], ...]
    labels: tuple[int, int] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    blocks: Mapping[str, int] = field(default_factory=dict)
    function: Function | None = None

    def arguments(self, quick: bool) -> list[torch.Tensor]:
        """The same ones every time."""
        torch.manual_seed(0)
        few = {n: n // 8 for shape in self.shapes for n in shape if n >= 512} if quick else {}
        made = [torch.randn([few.get(n, n) for n in shape]) for shape in self.shapes]
        if self.labels is not None:
            count, rows = (few.get(n, n) for n in self.labels)
            made.append(torch.randint(0, count, (rows,)))
        return made


CASES: Mapping[str, Case] = {
    "rms_norm": Case(K.rms_norm_kernel, gradients.rms_norm, ((4096, 2048), (2048,)), blocks={"block_m": 8}),
    "rope": Case(K.rotary_embedding_kernel, rope, ((1024, 16, 128), (1024, 64), (1024, 64)), blocks={"block_m": 8}),
    "cross_entropy": Case(K.stable_cross_entropy_kernel, losses, ((512, 32000),), (32000, 512),
                          blocks={"block_n": 4096}),
    "flash_attention": Case(K.flash_attention_kernel, sdpa, ((8, 1024, 64),) * 3, options={"is_causal": True},
                            blocks={"block_m": 128, "block_n": 128}, function=attention),
}  # fmt: skip


def measure(name: str, quick: bool, rounds: int) -> dict[str, Any]:
    """Milliseconds and errors of everyone for one case."""
    case = CASES[name]
    given = case.arguments(quick)
    fixed = case.kernel.configure(**case.blocks)
    calls: dict[str, Callable[[], torch.Tensor]] = {
        "kernel": lambda: case.kernel(*given, **case.options),
        "blocks": lambda: fixed(*given, **case.options),
        "eager": lambda: case.reference(*given),
    }
    function = tessera.function(case.function or case.reference)
    calls["function"] = lambda: function(*given)
    exact = case.reference(*(x.double() if x.is_floating_point() else x for x in given))
    errors = {who: float((call().double() - exact).norm() / exact.norm()) for who, call in calls.items()}
    with Progress(name, rounds) as progress:
        seconds = interleave(calls, rounds, progress)
    ratios = {who: paired(times, seconds["kernel"]) for who, times in seconds.items() if who != "kernel"}
    return {
        "ms": {who: 1e3 * statistics.median(times) for who, times in seconds.items()},
        "ratios": {who: [r.median, r.low, r.high] for who, r in ratios.items()},
        "error_ratio": {who: errors[who] / max(errors["eager"], 1e-30) for who in ("kernel", "blocks")},
        "launches": case.kernel.report(*given, **case.options).launches,
    }  # fmt: skip


def lines_of(function: Callable[..., Any]) -> int:
    """The lines of code of a function: those on which a statement, or a part of one, stands.

    >>> lines_of(rope)
    4
    """
    tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    spoken = {m for n in ast.walk(tree) if isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant)
              for m in (n, n.value)}  # fmt: skip
    return len({n.lineno for n in ast.walk(tree) if hasattr(n, "lineno") and n not in spoken})


def table(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as lines of text."""
    lines = [f"{'kernel':<16} {'ms':>8}  {'times of others over the kernel':<60} error  launches"]
    for name, row in rows.items():
        ratios = "  ".join(f"{who} {r[0]:.2f}×" for who, r in row["ratios"].items())
        wrong = f"{row['error_ratio']['kernel']:5.2f}"
        lines.append(f"{name:<16} {row['ms']['kernel']:8.2f}  {ratios:<60} {wrong}  {row['launches']}")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; with ``--output`` also write JSON with the machine and the versions."""
    return alone.run("kernels", __doc__, CASES, arguments, _measured)


def _measured(options: argparse.Namespace) -> Mapping[str, Any]:
    rows = {name: measure(name, options.quick, options.rounds) for name in options.cases}
    print(table(rows))
    lines = {name: lines_of(case.kernel.fn) for name, case in CASES.items()}
    print("lines of code:", ", ".join(f"{name} {count}" for name, count in lines.items()))
    return {"cases": rows, "lines": lines}


if __name__ == "__main__":
    sys.exit(main())
