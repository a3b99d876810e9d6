"""The two sections of the contractions: times of everyone in turns, and what needs no clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

import tessera
from benchmarks import facts, peers
from benchmarks.contractions import ATTENTIONS, CONTRACTIONS, Arguments, Contraction, attention_arguments
from benchmarks.job import Job
from benchmarks.peers import Call
from benchmarks.speed import interleave
from tessera.driver.progress import Progress
from tessera.ir.dialects import OPS
from tessera.ir.record import Kind
from tessera.runtime.memory import trim

#: A participant that is left out with a peer, because it needs the same installation.
_WITH = {"eager": "eager", "compile": "compile", "flex": "compile", "jax": "jax"}


def _reason(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip()[:200]}".splitlines()[0]


def prepare(case: Contraction, job: Job) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of those who can run the case, each called once, and why the others cannot."""
    calls: dict[str, Call] = {}
    failed: dict[str, str] = {}
    for name, make in case.participants(job.quick).items():
        if name in _WITH and _WITH[name] not in job.peers:
            continue
        try:
            calls[name] = make()
            calls[name]()
            if name == "tessera" and case.function.cache_info().eager:
                raise RuntimeError("ran eagerly, not compiled")
        except Exception as error:
            # A peer that lacks something must not take the others down with it.
            calls.pop(name, None)
            failed[name] = _reason(error)
    return calls, failed


def times(job: Job) -> dict[str, Any]:
    """Seconds of every round, case and participant: `{"seconds": {case: {name: [..]}}, "failures": {..}}`."""
    peers.limit_threads()
    seconds: dict[str, dict[str, list[float]]] = {}
    failures: dict[str, dict[str, str]] = {}
    with Progress(job.label, job.rounds * len(job.cases)) as progress:
        for name in job.cases:
            calls, failed = prepare(CONTRACTIONS[name], job)
            seconds[name] = interleave(calls, job.rounds, progress)
            if failed:
                failures[name] = failed
    return {"seconds": seconds, "failures": failures}


# -- without a clock ------------------------------------------------------------------------------


def extra_bytes(function: Callable[..., object], arguments: Arguments) -> int:
    """Bytes that the pool had to have for a call, beyond the results: temporaries and what threads work in."""
    function(*arguments)
    trim()
    before = tessera.memory_stats()
    result = function(*arguments)
    after = tessera.memory_stats()
    made = sum(after[key] - before[key] for key in ("in_use", "cached"))
    return max(0, made - sum(t.nbytes for t in facts.tensors(result)))


def _counts(function: Any, arguments: Arguments) -> dict[str, Any]:
    lowered = function.lower(*arguments)
    calls = [name for name in lowered.calls if OPS[name].kind is not Kind.VIEW]
    return {"kernels": len(lowered.kernels), "calls": len(calls), "extra": extra_bytes(function, arguments)}


def errors(function: Any, arguments: Arguments) -> tuple[float, float]:
    """The relative error against float64 over the larger of eager's and of rounding once, and the relative error
    itself, the most of all results.
    """
    wide = facts.tensors(function.eager(*facts.widened(arguments)))
    worst = most = 0.0
    for value, plain, wanted in zip(
        facts.tensors(function(*arguments)), facts.tensors(function.eager(*arguments)), wide, strict=True
    ):
        floor = facts.relative_error(wanted.to(value.dtype), wanted)
        limit = max(facts.relative_error(plain, wanted), floor)
        found = facts.relative_error(value, wanted)
        worst, most = max(worst, found / limit if limit else float(found > 0)), max(most, found)
    return worst, most


def case_row(name: str, quick: bool) -> dict[str, Any]:
    """Kernels, calls, extra bytes and error of one case."""
    case = CONTRACTIONS[name]
    arguments = case.make(quick)
    row = {"case": name, **_counts(case.function, arguments)}
    # All the scores of the long window in float64 take more memory than they tell: the variant below stands for it.
    wide = name == "window_attention" and not quick
    ratio, relative = (None, None) if wide else errors(case.function, arguments)
    return {**row, "error": ratio, "relative": relative}


def attention_row(name: str, quick: bool) -> dict[str, Any]:
    """The same for a variant of attention, and how its extra bytes grow with twice the positions."""
    function = ATTENTIONS[name][0]
    positions, width = (48, 16) if quick else (2048, 64)
    small = _counts(function, attention_arguments(name, 2, positions, width))
    large = _counts(function, attention_arguments(name, 2, 2 * positions, width))
    arguments = attention_arguments(name, 2, 48 if quick else 512, width)
    growth = large["extra"] / small["extra"] if small["extra"] else float(large["extra"] > 0) + 1.0
    return {
        "variant": name,
        **large,
        "extra_half": small["extra"],
        "growth": growth,
        "error": None if name == "dropped" else errors(function, arguments)[0],
    }


def counts(job: Job) -> dict[str, Any]:
    """`{"cases": [..], "attentions": [..], "failures": {what: why}}`; the variants come with any kind of attention."""
    peers.limit_threads()
    variants = tuple(ATTENTIONS) if any("attention" in name for name in job.cases) else ()
    result: dict[str, Any] = {"cases": [], "attentions": [], "failures": {}}
    steps = [("cases", name, case_row) for name in job.cases]
    steps += [("attentions", name, attention_row) for name in variants]
    with Progress(job.label, len(steps)) as progress, torch.no_grad():
        for key, name, measure in steps:
            progress.step(name)
            try:
                result[key].append(measure(name, job.quick))
            except Exception as error:
                result["failures"][name] = _reason(error)
    return result
