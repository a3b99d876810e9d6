"""Recurrences as Triton kernels: interpreted and compared with float64, compiled and read."""

from __future__ import annotations

import pytest

from tessera.backends.triton.aot import available
from tests.backends.recurrence_cases import RECURRENCES
from tests.backends.stream_cases import Stream
from tests.backends.test_triton_streams import planned
from tests.backends.triton_runs import Run, execute, judge

pytestmark = pytest.mark.skipif(not available(), reason="Triton is not installed")


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Run]]:
    """All runs of all cases in one process, by case."""
    found = {case.name: list(planned(case)) for case in RECURRENCES}
    execute([r for runs in found.values() for r in runs], tmp_path_factory.mktemp("triton"))
    return found


@pytest.mark.parametrize("case", RECURRENCES, ids=lambda c: c.name)
def test_recurrences_compute_what_the_interpreter_computes(case: Stream, results: dict[str, list[Run]]) -> None:
    assert "recurrence" in [k.form for k in case.stages[1].kernels]
    for run in results[case.name]:
        judge(run)
