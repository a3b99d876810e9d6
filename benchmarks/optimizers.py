"""Steps of optimizers with clipping, beside torch's: ``python -m benchmarks.optimizers``.

Participants take turns in one process; a ratio is the median of the ratios of its rounds. Each has parameters,
gradients and states of its own, and each step reads them from memory: they are too large for the caches.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import machine, peers
from benchmarks.speed import interleave
from benchmarks.stats import paired
from tessera import optim
from tessera.driver.progress import Progress

#: Parameters and tensors of the usual run, and of a quick one.
USUAL, QUICK = (10_000_000, 100), (20_000, 10)
MAX_NORM = 1.0
Step = Callable[[], object]


def shapes(total: int, count: int) -> list[tuple[int, ...]]:
    """Shapes of very different sizes, ``total`` elements in all: matrices, and vectors where they are small.

    >>> shapes(1000, 3)
    [(125,), (625,), (250,)]
    """
    weights = [1.0 + (n * 7919 % count) ** 2 for n in range(count)]
    sizes = [max(1, round(total * w / sum(weights))) for w in weights]
    sizes[-1] += total - sum(sizes)
    return [(n // 256, 256) if n >= 16384 else (n,) for n in sizes]


def parameters(sizes: Sequence[tuple[int, ...]], dtype: torch.dtype) -> list[torch.nn.Parameter]:
    """The same parameters and gradients every time."""
    torch.manual_seed(0)
    made = [torch.nn.Parameter(torch.randn(s, dtype=dtype)) for s in sizes]
    for p in made:
        p.grad = torch.randn_like(p) * 0.01
    return made


def steps(sizes: Sequence[tuple[int, ...]], dtype: torch.dtype, compiled: bool) -> dict[str, Step]:
    """A step of AdamW with clipping for everyone who takes part."""

    def beside(options: dict[str, Any], wrap: Callable[[Step], Step] = lambda step: step) -> Step:
        mine = parameters(sizes, dtype)
        optimizer = torch.optim.AdamW(mine, **options)

        def step() -> None:
            torch.nn.utils.clip_grad_norm_(mine, MAX_NORM)
            optimizer.step()

        return wrap(step)

    ours = optim.AdamW(parameters(sizes, dtype), max_norm=MAX_NORM)
    found: dict[str, Step] = {
        "tessera": ours.step, "fused": beside({"fused": True}), "foreach": beside({"foreach": True}),
    }  # fmt: skip
    if compiled:
        found["compile"] = beside({}, torch.compile)
    for step in found.values():
        step()
        step()
    return found


def measure(quick: bool, rounds: int, compiled: bool, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    """Milliseconds of everyone, and what torch's take as multiples of ours."""
    peers.limit_threads()
    total, count = QUICK if quick else USUAL
    calls = steps(shapes(total, count), dtype, compiled)
    with Progress("optimizers", rounds) as progress:
        seconds = interleave(calls, rounds, progress)
    ratios = {who: paired(seconds[who], seconds["tessera"]) for who in calls if who != "tessera"}
    return {
        "elements": total, "tensors": count, "dtype": str(dtype).removeprefix("torch."), "rounds": rounds,
        "ms": {who: 1e3 * statistics.median(times) for who, times in seconds.items()},
        "ratios": {who: [r.median, r.low, r.high] for who, r in ratios.items()},
    }  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """A result as lines of text."""
    head = f"AdamW with clipping, {result['elements']} {result['dtype']} parameters in {result['tensors']} tensors"
    lines = [head, f"  tessera  {result['ms']['tessera']:8.3f} ms"]
    for who, (median, low, high) in result["ratios"].items():
        lines.append(f"  {who:<8} {result['ms'][who]:8.3f} ms  {median:.2f}× ({low:.2f} – {high:.2f})")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; with ``--output`` also write JSON with the machine and the versions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.optimizers", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: few parameters, two rounds")
    parser.add_argument("--rounds", type=int, help="rounds (default: 25, with --quick 2)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--output", type=Path, help="write the result to this file")
    options = parser.parse_args(arguments)
    rounds = options.rounds or (2 if options.quick else 25)
    load = machine.load()
    result = measure(options.quick, rounds, not options.no_compile)
    print(table(result))
    if options.output is not None:
        head = {"commit": machine.commit(), "load": load, "machine": machine.describe(), "versions": machine.versions()}
        options.output.write_text(json.dumps({**head, **result}, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
