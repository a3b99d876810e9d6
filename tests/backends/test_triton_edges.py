"""Products with work around them in Triton's interpreter at sizes where something is left over, against float64."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tessera
from tessera import Tensor
from tessera.backends.triton.aot import available
from tests.backends.stream_cases import Stream
from tests.backends.test_triton_streams import planned
from tests.backends.triton_runs import Run, execute, judge

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")

BF16 = tessera.bf16


@tessera.function
def plain(x: Tensor["S", "D", BF16], w: Tensor["D", "T", BF16], b: Tensor["T", BF16]) -> Tensor["S", "T", BF16]:
    return torch.relu(x @ w + b)


@tessera.function
def turned(x: Tensor["D", "S", BF16], w: Tensor["T", "D", BF16], r: Tensor["S", "T", BF16]) -> Tensor["S", "T", BF16]:
    return r - x.T @ w.T


@tessera.function
def many(x: Tensor["B", "S", "D", BF16], w: Tensor["B", "D", "T", BF16]) -> Tensor["B", "S", "T", BF16]:
    return torch.relu(x @ w)


@tessera.function
def exact(x: Tensor["S", "D"], w: Tensor["T", "D"]) -> Tensor["S", "T"]:
    return torch.relu(x @ w.T)


def shapes(*sizes: tuple[int, int, int], batch: int = 1) -> tuple[dict[str, int], ...]:
    return tuple({"S": s, "T": t, "D": d, "B": batch} for s, t, d in sizes)


#: One of everything, primes, one past a block, rows that begin at multiples of 16 bytes and rows that do not.
EDGES = shapes(
    (1, 1, 1), (2, 1, 3), (3, 2, 1), (31, 37, 61), (129, 65, 65), (64, 257, 17), (130, 264, 72), (130, 260, 71)
)
#: Few results and long sums, which do not come to whole pieces.
LONG = shapes((16, 40, 2056), (17, 33, 2049), (33, 24, 4100))
CASES = (
    Stream(plain, (*EDGES, *LONG), programs=132),
    Stream(turned, (*EDGES, *LONG), programs=132),
    Stream(many, shapes((1, 3, 5), (65, 31, 67), (24, 40, 2064), batch=3), programs=132),
    Stream(exact, (*shapes((1, 1, 1), (67, 129, 19)), *shapes((17, 33, 385), (5, 7, 1100))), programs=132),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """Every case at all of its sizes, all ways, in one process."""
    found = {case.name: list(planned(case)) for case in CASES}
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("edges"))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_products_at_the_edges(case: Stream, results: dict[str, list[Run]]) -> None:
    for run in results[case.name]:
        judge(run)


def launched(runs: list[Run]) -> Iterator[tuple[str, str]]:
    for run in runs:
        yield from ((run.label, x["function"]) for x in run.job["launches"])


def test_all_ways_were_taken(results: dict[str, list[Run]]) -> None:
    ways = {function.partition("_")[2] for runs in results.values() for _, function in launched(runs)}
    assert {"held", "walked", "streamed"} <= ways
    named = list(launched(results["plain_in_pieces"]))
    read = {label for label, function in named if function.endswith("_streamed")}
    assert any("'D': 72" in label for label in read) and not any("'D': 71" in label for label in read)
    both: dict[str, set[str]] = {}
    for label, function in named:
        both.setdefault(label, set()).add(function.partition("_")[0])
    cut = {label for label, nests in both.items() if len(nests) == 2}
    assert all(any(f"'D': {d}" in label for label in cut) for d in (2056, 2049, 4100))


def test_two_runs_give_the_same_bits(results: dict[str, list[Run]], tmp_path: Path) -> None:
    again: list[Any] = [run for case in CASES for run in planned(case) if "'D': 2056" in run.label]
    execute(again, tmp_path)
    first = {run.label: run for runs in results.values() for run in runs}
    assert len(again) > 2
    for run in again:
        for n, out in run.outs.items():
            np.testing.assert_array_equal(out.view(np.uint8), first[run.label].outs[n].view(np.uint8))
