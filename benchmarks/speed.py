"""Time per call of every case: all participants in one process, round by round, in an order that rotates."""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import bandwidth, peers
from benchmarks.cases import CASES
from benchmarks.job import Job
from tessera.driver.progress import Progress

#: A turn lasts about this long, in seconds, and takes the median of its calls.
_TURN = 0.02
_MOST_CALLS = 9


def rotated(names: Sequence[str], turn: int) -> list[str]:
    """The names in the order of one round: each round begins with the next one.

    >>> rotated(["a", "b", "c"], 1)
    ['b', 'c', 'a']
    """
    start = turn % len(names) if names else 0
    return [*names[start:], *names[:start]]


def _timed(call: peers.Call) -> float:
    start = time.perf_counter()
    result = call()
    stop = time.perf_counter()
    del result  # freed outside of the timing, for everyone
    return stop - start


def _turn(call: peers.Call, count: int) -> float:
    """Seconds of a call: the median of `count`, after one that brings the caches into its own state."""
    call()
    return statistics.median(_timed(call) for _ in range(count))


def interleave(calls: Mapping[str, peers.Call], rounds: int, progress: Progress) -> dict[str, list[float]]:
    """Seconds per round of every participant."""
    counts = {}
    for name, call in calls.items():
        call()
        counts[name] = max(1, min(_MOST_CALLS, round(_TURN / max(_timed(call), 1e-9))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in rotated(list(calls), turn):
            times[name].append(_turn(calls[name], counts[name]))
        progress.step()
    return times


def run(job: Job) -> dict[str, Any]:
    """Seconds of every round, case and participant, the copy of as many bytes among them.

    The result is `{"seconds": {case: {participant: [..]}}, "failures": {case: {participant: why}},
    "copy": {method: bytes per second}}`.
    """
    peers.limit_threads()
    seconds: dict[str, dict[str, list[float]]] = {}
    failures: dict[str, dict[str, str]] = {}
    with (
        bandwidth.Copier(peers.THREADS) as copier,
        Progress(job.label, job.rounds * len(job.cases)) as progress,
    ):
        speeds = copier.measure(4 << 20 if job.quick else 64 << 20, 3 if job.quick else 15)
        for name in job.cases:
            case = CASES[name]
            arguments = case.make(job.quick)
            calls, failed = peers.prepare(("tessera", *job.peers), case, arguments)
            calls["copy"] = copier.call(bandwidth.best(speeds), case.least_bytes(job.quick))
            seconds[name] = interleave(calls, job.rounds, progress)
            if failed:
                failures[name] = failed
    return {"seconds": seconds, "failures": failures, "copy": speeds}
