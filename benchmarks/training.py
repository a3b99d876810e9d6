"""The training example beside torch: ``python -m benchmarks.training``.

The same run on every backend, in one process with freed pages reused: in each round everyone does one step, in an order
that rotates. So the losses are compared step by step, and a ratio of times is the median of the ratios of the rounds.
Before that, each backend that compiles does its first step in a process of its own with empty caches; the time is that
from before the start of Python to the end of the step.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import job, machine, peers
from benchmarks.speed import rotated
from benchmarks.stats import paired
from examples.char_lm import data
from examples.char_lm.config import Config
from examples.char_lm.train import Trainer
from tessera.driver.progress import Progress

#: The compiled example, and who it is compared with.
OURS, EAGER, COMPILE = "compiled", "eager", "torch.compile"
#: Rounds before the times count: the first ones compile.
WARM = 3
#: What makes a smoke run small.
SMALL: Mapping[str, int] = {"width": 32, "depth": 1, "heads": 2, "hidden": 64, "context": 16, "batch": 4}


def config_of(backend: str, steps: int, quick: bool) -> Config:
    """The run: the example's own sizes, with a schedule over the measured steps."""
    return Config.of({"backend": backend, "steps": steps, "warmup": steps // 10, **(SMALL if quick else {})})


# -- curves and times


def lockstep(steps: int, backends: Sequence[str], quick: bool) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """The losses and the seconds of every step of every backend."""
    corpus = data.read("")
    trainers = {who: Trainer(config_of(who, steps, quick), corpus) for who in backends}
    losses: dict[str, list[float]] = {who: [] for who in backends}
    seconds: dict[str, list[float]] = {who: [] for who in backends}
    with Progress("steps", steps) as progress:
        for turn in range(steps):
            for who in rotated(backends, turn):
                start = time.perf_counter()
                losses[who].append(trainers[who].step()["loss"])
                seconds[who].append(time.perf_counter() - start)
            progress.step()
    if trainers[OURS].loss.forward.cache_info().eager:
        raise RuntimeError("the compiled example ran eagerly")
    return losses, seconds


def apart(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference of two curves.

    >>> apart([4.0, 2.0], [4.0, 1.0])
    1.0
    """
    return max(abs(a - b) / abs(b) for a, b in zip(one, other, strict=True))


def measure(steps: int, backends: Sequence[str], quick: bool) -> dict[str, Any]:
    """How far the curves are apart, and what the steps of the others take over ours."""
    losses, seconds = lockstep(steps, backends, quick)
    warm = {who: times[WARM:] for who, times in seconds.items()}
    ratios = {who: paired(warm[who], warm[OURS]) for who in backends if who != OURS}
    config = config_of(OURS, steps, quick)
    tokens = config.batch * config.accumulate * config.context
    return {
        "config": asdict(config), "steps": steps, "tokens": tokens,
        "apart": {who: apart(losses[who], losses[EAGER]) for who in backends if who != EAGER},
        "loss": {who: [losses[who][0], losses[who][-1]] for who in backends},
        "ms": {who: 1e3 * statistics.median(times) for who, times in warm.items()},
        "tokens_per_second": {who: tokens / statistics.median(times) for who, times in warm.items()},
        "ratios": {who: [r.median, r.low, r.high] for who, r in ratios.items()},
        "losses": losses, "seconds": seconds,
    }  # fmt: skip


# -- the first step


def first(backend: str, quick: bool) -> None:
    """Do one step and say when it ended, and how much processor time it and its compilers took."""
    peers.limit_threads()
    Trainer(config_of(backend, 200, quick), data.read("")).step()
    ended, spent = time.time(), os.times()
    used = spent.user + spent.system + spent.children_user + spent.children_system
    print(json.dumps({"ended": ended, "cpu": used}))


def cold(backend: str, quick: bool) -> dict[str, float]:
    """Seconds from before the start of Python to the end of the first step with empty caches, and of processor time."""
    with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
        environment = job.environment(job.cache_environment(Path(folder)))
        command = [sys.executable, "-m", "benchmarks.training", "--first", backend, *(["--quick"] if quick else [])]
        start = time.time()
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise job.SectionError("\n".join(done.stderr.strip().splitlines()[-5:]))
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"seconds": found["ended"] - start, "cpu": found["cpu"]}


def table(result: Mapping[str, Any]) -> str:
    """The results as lines of text."""
    lines = [
        f"{'backend':<14} {'ms a step':>10} {'tokens/s':>9}  {'over ours':<22} {'curve':>8}  first step, empty cache"
    ]
    for who, ms in result["ms"].items():
        ratio = result["ratios"].get(who)
        shown = "" if ratio is None else "{:.2f}× ({:.2f} – {:.2f})".format(*ratio)
        far = result["apart"].get(who)
        start = result["first"].get(who)
        said = "" if start is None else f"{start['seconds']:.1f} s, {start['cpu']:.1f} s of processor time"
        lines.append(
            f"{who:<14} {ms:10.1f} {result['tokens_per_second'][who]:9.0f}  {shown:<22} "
            f"{'' if far is None else format(far, '8.1e'):>8}  {said}"
        )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; with ``--output`` also write JSON with the machine and the versions."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: a small model, eight steps")
    parser.add_argument("--steps", type=int, help="steps (default: 200, with --quick 8)")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--no-first", action="store_true", help="leave the first step with empty caches out")
    parser.add_argument("--first", choices=(OURS, EAGER, COMPILE), help=argparse.SUPPRESS)
    parser.add_argument("--output", type=Path, help="write the result to this file")
    options = parser.parse_args(arguments)
    if options.first is not None:
        first(options.first, options.quick)
        return 0
    if not options.quick:
        status = job.once_more("recycled", "benchmarks.training", arguments or sys.argv[1:])
        if status is not None:
            return status
    steps = options.steps or (8 if options.quick else 200)
    if steps <= WARM:
        parser.error(f"at least {WARM + 1} steps are needed")
    peers.limit_threads()
    load, backends = machine.load(), (OURS, EAGER) if options.no_compile else (OURS, EAGER, COMPILE)
    starts = {} if options.no_first else {who: cold(who, options.quick) for who in backends if who != EAGER}
    result = {**measure(steps, backends, options.quick), "first": starts}
    print(table(result))
    if options.output is not None:
        head = machine.heading("training", options.quick, load)
        text = json.dumps({**head, "allocation": "recycled", **result}, indent=2)
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
