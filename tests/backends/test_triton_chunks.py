"""Steps of recurrences many at a time as Triton kernels: interpreted and compared with float64, compiled and read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tessera.backends.base import Target
from tessera.backends.triton.aot import Worker, available, compile_aot
from tessera.backends.triton.emit import emit
from tessera.backends.triton.report import instructions
from tests.backends import recurrence_cases as cases
from tests.backends.stream_cases import Stream
from tests.backends.test_triton_recurrences import TARGETS
from tests.backends.test_triton_streams import planned
from tests.backends.triton_runs import Run, execute, judge
from tests.passes.affine_steps import STEPS

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")

ROWS = 16
ODD = {"B": 1, "H": 2, "S": 19, "D": 6, "E": 11}
EVEN = {"B": 1, "H": 1, "S": 32, "D": 16, "E": 32}
NONE = {"B": 1, "H": 1, "S": 0, "D": 4, "E": 5}
CHUNKS = (
    Stream(cases.linear, (ODD, EVEN, NONE), rows=ROWS),
    Stream(cases.gated, (ODD, EVEN), strided=frozenset("qkv"), rows=ROWS),
    Stream(cases.delta, (ODD, EVEN), rows=ROWS),
    Stream(cases.gated_delta, (ODD,), rows=ROWS),
    Stream(cases.narrow, (ODD,), rows=ROWS),
    *(Stream(STEPS[name], (ODD,), rows=ROWS) for name in ("corrected", "twice", "normalised", "backwards", "turned")),
)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """All runs of all cases in one process, by case."""
    found = {case.name: list(planned(case)) for case in CHUNKS}
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("triton"))
    return found


@pytest.mark.parametrize("case", CHUNKS, ids=lambda c: c.name)
def test_chunks_compute_what_the_interpreter_computes(case: Stream, results: dict[str, list[Run]]) -> None:
    assert [k.form for k in case.stages[1].kernels] == ["recurrence"]
    for run in results[case.name]:
        judge(run)


@pytest.fixture(scope="module")
def worker() -> Iterator[Worker]:
    made = Worker()
    yield made
    made.close()


def compiled() -> Iterator[Any]:
    for case in CHUNKS[:4]:
        for target in TARGETS:
            yield pytest.param(case, target, id=f"{case.name}-{target}")


@pytest.mark.parametrize(("case", "target"), tuple(compiled()))
def test_chunks_fit_and_keep_the_precision_of_floats(case: Stream, target: str, worker: Worker) -> None:
    (kernel,) = case.stages[1].kernels
    kind, _, arch = target.partition(":")
    strides = {f"_s{axis}_{v}": 64 ** (3 - axis) for v in "qkv" for axis in range(4)}
    made = emit(kernel, Target(kind, arch))
    sizes = {"B": 4, "H": 16, "S": 2048, "D": 64, "E": 64, **strides}
    (nest,) = compile_aot(made, target, made.bind(sizes), worker=worker).nests
    used, label = nest.resources, f"{nest.bound.config} {nest.resources}"
    assert used["shared"] <= TARGETS[target], label
    if kind == "cuda":  # products of f32 are those of floats: tensor cores would round their factors
        assert not any("MMA" in word for word in instructions(nest.stages["sass"])), label
