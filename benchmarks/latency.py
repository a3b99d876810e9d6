"""What a warm call costs when there is almost nothing to compute: the sum of two vectors of eight numbers."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from itertools import repeat
from typing import Any

import torch

import tessera
from benchmarks import jax_functions, peers
from benchmarks.job import Job
from benchmarks.speed import rotated
from tessera import Tensor
from tessera.driver.progress import Progress

#: Calls in a block, and blocks: every participant makes at least 20 000 calls.
BLOCK, BLOCKS = 500, 60
QUICK_BLOCK, QUICK_BLOCKS = 50, 4

Loop = Callable[[int], float]


@tessera.function
def add(x: Tensor["N"], y: Tensor["N"]) -> Tensor["N"]:
    """The sum of two vectors."""
    return x + y


def _plain(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return x + y


def _loop(function: Callable[..., Any], x: Any, y: Any) -> Loop:
    """Seconds of a number of calls, the loop included."""

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in repeat(None, count):
            function(x, y)
        return time.perf_counter() - start

    return run


def _ready_loop(function: Callable[..., Any], x: Any, y: Any) -> Loop:
    """The same for JAX, whose calls may return before the result is there."""

    def run(count: int) -> float:
        start = time.perf_counter()
        for _ in repeat(None, count):
            function(x, y).block_until_ready()
        return time.perf_counter() - start

    return run


def _loops(names: tuple[str, ...]) -> tuple[dict[str, Loop], dict[str, str]]:
    x, y = torch.randn(8), torch.randn(8)
    makers: Mapping[str, Callable[[], Loop]] = {
        "tessera": lambda: _loop(add, x, y),
        "eager": lambda: _loop(_plain, x, y),
        "compile": lambda: _loop(torch.compile(_plain), x, y),
        "jax": lambda: _ready_loop(_jitted(), peers.to_jax(x), peers.to_jax(y)),
    }
    loops, failures = {}, {}
    for name in names:
        try:
            loop = makers[name]()
            loop(20)
        except Exception as error:
            failures[name] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}"
        else:
            loops[name] = loop
    return loops, failures


def _jitted() -> Callable[..., Any]:
    import jax

    jitted: Callable[..., Any] = jax.jit(jax_functions.add)
    return jitted


def run(job: Job) -> dict[str, Any]:
    """Microseconds per call of each block: `{"micros": {name: [..]}, "calls": n, "failures": {..}}`."""
    peers.limit_threads()
    loops, failures = _loops(("tessera", *job.peers))
    size, blocks = (QUICK_BLOCK, QUICK_BLOCKS) if job.quick else (BLOCK, BLOCKS)
    micros: dict[str, list[float]] = {name: [] for name in loops}
    with Progress(job.label, blocks) as progress:
        for turn in range(blocks):
            for name in rotated(list(loops), turn):
                micros[name].append(loops[name](size) / size * 1e6)
            progress.step()
    return {"micros": micros, "calls": size * blocks, "failures": failures}
