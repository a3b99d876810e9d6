"""`python -m benchmarks.child JOB RESULT`: run one section and write its result as JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.job import THREADS, Job


def _limit_cores() -> None:
    """Keep the process, and with it XLA's thread pool, on as many cores as there are threads."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))[:THREADS]
        with contextlib.suppress(OSError):
            os.sched_setaffinity(0, cores)


def _speed(job: Job) -> dict[str, Any]:
    from benchmarks import speed

    return speed.run(job)


def _latency(job: Job) -> dict[str, Any]:
    from benchmarks import latency

    return latency.run(job)


def _cold(job: Job) -> dict[str, Any]:
    from benchmarks import cold

    return cold.run(job)


def _facts(job: Job) -> dict[str, Any]:
    from benchmarks import facts

    return facts.run(job)


def _contraction_times(job: Job) -> dict[str, Any]:
    from benchmarks import contraction_runs

    return contraction_runs.times(job)


def _contraction_facts(job: Job) -> dict[str, Any]:
    from benchmarks import contraction_runs

    return contraction_runs.counts(job)


# Imported by the section that needs it: a cold start must not find the others' modules loaded.
SECTIONS: Mapping[str, Callable[[Job], dict[str, Any]]] = {
    "speed": _speed,
    "latency": _latency,
    "cold": _cold,
    "facts": _facts,
    "contraction_times": _contraction_times,
    "contraction_facts": _contraction_facts,
}


def main(arguments: list[str]) -> None:
    """Run the job in `arguments[0]` and write the result to the file `arguments[1]`."""
    job = Job.loads(arguments[0])
    _limit_cores()
    result = SECTIONS[job.section](job)
    Path(arguments[1]).write_text(json.dumps(result), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
