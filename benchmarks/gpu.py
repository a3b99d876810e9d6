"""Everything that needs a GPU, in one command: `python -m benchmarks.gpu`.

Every function of the table is called with tensors on the GPU, as any program would call it. Every result
of its kernels is checked against float64 computed there, calls are timed in turns with eager torch,
`torch.compile`, FlexAttention and the libraries' own, and the kernels are listed with their resources. The result is
a table and a JSON file with date, device and versions. Without a GPU or without Triton the command says so and ends
with status 1.

With `--dry` nothing is measured and no GPU is needed: all of it runs at tiny sizes, with Triton's interpreter in the
place of the device and nothing compiled for the peers.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks import document, facts, gpu_bars, machine
from benchmarks.cases import Sizes
from benchmarks.gpu_attention import Arguments, Compiler
from benchmarks.gpu_cases import GPU_CASES, GpuCase
from benchmarks.peers import Call
from benchmarks.speed import rotated
from benchmarks.stats import paired
from benchmarks.table import number, render
from tessera import ResourceError
from tessera.driver.devices import ACCELERATORS
from tessera.driver.progress import Progress

RESULTS = Path(__file__).resolve().parent / "results"
#: Calls that are timed together, at most: one alone is shorter than the clock's grain. They take about so many
#: milliseconds.
BATCH, BATCH_MS = 20, 20.0
#: Milliseconds that the rounds of one case take in all, about; the fewest rounds.
CASE_MS, LEAST_ROUNDS = 15_000.0, 3
#: What a peer's result may be off by, relative: beyond that it computes something else.
OTHER = 0.05
#: The error over eager's that a case may have; at the sizes of a dry run single roundings decide.
MOST_ERROR, MOST_DRY_ERROR = 1.05, 4.0


@dataclass(frozen=True)
class Place:
    """Where the calls run: torch's name of the device, what makes a peer fast, milliseconds of a number of calls,
    a description for the document, and what leaves the device empty after a case.
    """

    device: str
    compiler: Compiler
    milliseconds: Callable[[Call, int], float]
    describe: Callable[[], Mapping[str, Any]]
    clear: Callable[[], object]


def _events(call: Call, calls: int) -> float:
    """Milliseconds of so many calls on the device, from events around them."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(calls):
        call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop))


def device_description() -> dict[str, str | int | float]:
    """Name, architecture, memory and multiprocessors of the first GPU."""
    properties = torch.cuda.get_device_properties(0)
    return {
        "device": properties.name,
        "target": target_name(),
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "driver": torch.version.cuda or torch.version.hip or "",
    }


def target_name() -> str:
    """The first GPU as a target: `cuda:90`, or `hip:gfx942`."""
    return ACCELERATORS["cuda"].target(torch.device("cuda", 0)).name


def _clear() -> None:
    torch.compiler.reset()
    torch.cuda.empty_cache()


GPU = Place("cuda", torch.compile, _events, device_description, _clear)


# -- what is checked ------------------------------------------------------------------------------


def check(case: GpuCase, arguments: Arguments) -> list[dict[str, Any]]:
    """A row for each result: relative errors against float64, and whether the call really ran compiled.

    `ratio` is Tessera's error over the larger of eager's and that of rounding once; for a single number, whose
    error is chance, over the distance to its neighbour where that is larger still. Without numbers where the results
    are random.
    """
    before = case.function.cache_info().eager
    results = facts.tensors(case.function(*arguments))
    compiled = case.function.cache_info().eager == before
    if not case.compared:
        return [{"case": case.name, "result": n, "tessera": None, "eager": None, "floor": None, "ratio": None,
                 "compiled": compiled} for n in range(len(results))]  # fmt: skip
    ours = [case.part(r) if r.dim() else r for r in results]
    del results
    narrow = case.narrow(arguments)
    eager = facts.tensors(case.eager(*narrow))
    references = facts.tensors(case.eager(*facts.widened(narrow)))
    rows = []
    for place, (reference, one, theirs) in enumerate(zip(references, ours, eager, strict=True)):
        error, other = facts.relative_error(one, reference), facts.relative_error(theirs, reference)
        floor = facts.relative_error(reference.to(one.dtype), reference)
        limit = max(other, floor, torch.finfo(one.dtype).eps if one.numel() == 1 else 0.0)
        rows.append(
            {
                "case": case.name,
                "result": place,
                "tessera": error,
                "eager": other,
                "floor": floor,
                "ratio": error / limit if limit else float(error > 0),
                "compiled": compiled,
            }
        )
    return rows


def disagreeing(case: GpuCase, arguments: Arguments, calls: Mapping[str, Call]) -> dict[str, str]:
    """The participants that compute something else than Tessera, and by how much; none where results are random."""
    if not case.compared or "tessera" not in calls:
        return {}
    ours = facts.tensors(case.function(*arguments))
    said = {}
    for name, call in calls.items():
        if name in ("tessera", "product alone"):
            continue
        for one, other in zip(ours, facts.tensors(call()), strict=False):
            error = facts.relative_error(other, one.double())
            if not error <= OTHER:
                said[name] = f"off by {error:.1e} from tessera"
    return said


def emitted(case: GpuCase, arguments: Arguments) -> list[dict[str, Any]]:
    """A row for each Triton kernel of a case: its form, what is launched and why, and what the compiler says it takes
    on that device.
    """
    lowered = case.function.lower(*arguments, backend="triton")
    runs = {k.name: [line for line in lowered.runs if line.startswith(f"{k.name}: ")] for k in lowered.kernels}
    return [
        {"case": case.name, "kernel": k.name, "form": k.form, "runs": runs[k.name], **k.resources}
        for k in lowered.kernels
    ]


# -- what is timed --------------------------------------------------------------------------------


def prepare(case: GpuCase, arguments: Arguments, compiler: Compiler) -> tuple[dict[str, Call], dict[str, str]]:
    """The calls of those who can run the case, each called once, and why the others cannot."""

    def compile_() -> Call:
        made = compiler(case.plain or case.function.eager)
        device = next(a.device for a in arguments if isinstance(a, torch.Tensor))

        def call() -> object:
            with torch.device(device):
                return made(*arguments)

        return call

    makers: dict[str, Callable[[], Call]] = {
        "tessera": lambda: lambda: case.function(*arguments),
        "eager": lambda: lambda: case.eager(*arguments),
    }
    makers |= {"compile": compile_} if case.compiles else {}
    makers |= case.others(arguments, compiler)
    calls: dict[str, Call] = {}
    failures: dict[str, str] = {}
    for name, make in makers.items():
        try:
            call = make()
            before = case.function.cache_info().eager
            call()
            if name == "tessera" and case.function.cache_info().eager > before:
                raise RuntimeError("ran eagerly, not compiled")
        except Exception as error:
            # A peer that lacks something must not take the others down with it.
            failures[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
        else:
            calls[name] = call
    return calls, failures


def interleave(calls: Mapping[str, Call], rounds: int, milliseconds: Callable[[Call, int], float]) -> dict[str, Any]:
    """Milliseconds of a call, by round, of every participant, in an order that rotates."""
    once = {name: milliseconds(call, 1) for name, call in calls.items()}
    batch = {name: max(1, min(BATCH, int(BATCH_MS / max(t, 1e-3)))) for name, t in once.items()}
    total = sum(once[name] * batch[name] for name in calls)
    rounds = max(min(rounds, LEAST_ROUNDS), min(rounds, int(CASE_MS / max(total, 1e-3))))
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in rotated(list(calls), turn):
            times[name].append(milliseconds(calls[name], batch[name]) / batch[name])
    return times


def speed_row(case: str, times: Mapping[str, Sequence[float]], least: int, flops: int) -> dict[str, Any]:
    """Medians in milliseconds, how many times as long each of the others takes, and what is done a second.

    >>> row = speed_row("rope", {"tessera": [1.0], "eager": [3.0], "copy": [0.9]}, 8_000_000, 0)
    >>> row["ratio"], row["gb_per_s"], row["tflop_per_s"]
    ({'eager': 3.0, 'copy': 0.9}, 8.0, None)
    """
    ours = times["tessera"]
    middle = statistics.median(ours)
    return {
        "case": case,
        "ms": {name: statistics.median(ts) for name, ts in times.items()},
        "ratio": {name: paired(ts, ours).median for name, ts in times.items() if name != "tessera"},
        "gb_per_s": least / middle / 1e6 if least else None,
        "tflop_per_s": flops / middle / 1e9 if flops else None,
        "rounds": len(ours),
    }


def _copy(device: str, moved: int) -> Call:
    source = torch.ones(max(1, moved // 8), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(case: GpuCase, sizes: Sizes, rounds: int, place: Place) -> dict[str, Any]:
    """Everything about one case: `errors`, `kernels`, `speed`, `failures`."""
    arguments = case.make(place.device, sizes)
    found: dict[str, Any] = {"errors": [], "kernels": [], "speed": [], "failures": {}}
    with torch.no_grad():
        calls, failures = prepare(case, arguments, place.compiler)
        found["failures"] = failures
        if "tessera" not in calls:
            return found
        failures |= disagreeing(case, arguments, calls)
        try:
            found["errors"] = check(case, arguments)
            found["kernels"] = emitted(case, arguments)
        except (ResourceError, torch.OutOfMemoryError) as error:
            failures["check"] = str(error).strip().splitlines()[0][:200]
        least, flops = case.least(sizes), case.flops(sizes)
        if least:
            calls["copy"] = _copy(place.device, least)
        times = interleave(calls, rounds, place.milliseconds)
        found["speed"] = [{**speed_row(case.name, times, least, flops), "sizes": dict(sizes)}]
    return found


def tables(doc: Mapping[str, Any]) -> str:
    """The document as tables for a terminal."""
    others = list(dict.fromkeys(name for row in doc["speed"] for name in row["ratio"]))
    speed = [
        [
            row["case"],
            number(row["ms"]["tessera"], ".4f"),
            *(number(row["ratio"].get(name), unit="×") for name in others),
            number(row["gb_per_s"], ".0f"),
            number(row["tflop_per_s"], ".0f"),
        ]
        for row in doc["speed"]
    ]
    errors = [
        [
            row["case"],
            str(row["result"]),
            *(number(row[name], ".1e") for name in ("tessera", "eager", "floor")),
            number(row["ratio"], ".3f"),
            "yes" if row["compiled"] else "no",
        ]
        for row in doc["errors"]
    ]
    head = ["case", "tessera ms", *others, "GB/s", "TFLOP/s"]
    title = "time per call on the GPU, and how many times as long the others take"
    parts = [render(title, head, speed)] if speed else []
    head = ["case", "result", "tessera", "eager", "rounding once", "ratio", "compiled"]
    parts += [render("relative L2 error against float64", head, errors)] if errors else []
    bars = [[bar["bar"], bar["required"], number(bar["value"], ".3g"), bar["verdict"]] for bar in doc["bars"]]
    parts += [render("bars", ["bar", "required", "value", "verdict"], bars)]
    parts += [f"{row['case']} {row['what']}: {row['why']}" for row in doc["failures"]]
    return "\n\n".join(parts)


def run(names: Sequence[str], dry: bool, rounds: int, place: Place) -> document.Document:
    """Measure the named cases where the calls run."""
    doc: document.Document = {
        "schema": document.SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "quick": dry,
        "gpu": dict(place.describe()),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "speed": [],
        "errors": [],
        "kernels": [],
        "failures": [],
    }
    with Progress("GPU", len(names)) as progress:
        for name in names:
            case = GPU_CASES[name]
            found = measure(case, case.dry if dry else case.sizes, rounds, place)
            for key in ("speed", "errors", "kernels"):
                doc[key] += found[key]
            doc["failures"] += [{"case": name, "what": p, "why": why} for p, why in found["failures"].items()]
            place.clear()
            progress.step(name)
    doc["bars"] = gpu_bars.bar_rows(doc)
    return doc


def what_is_missing() -> str:
    """Why nothing can be measured here; empty where it can."""
    if not torch.cuda.is_available():
        return "no GPU: torch finds none on this machine, or was installed without support for it"
    if not ACCELERATORS["cuda"].ready():
        return "no Triton: kernels for the GPU cannot be compiled without it"
    return ""


def interpreted(arguments: Sequence[str]) -> int:
    """The same command in a process whose Triton interprets: it does so from its import on, or not at all."""
    one = dict.fromkeys(("TRITON_INTERPRET", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    command = [sys.executable, "-m", "benchmarks.gpu_dry", *arguments]
    return subprocess.run(command, env={**os.environ, **one}, check=False).returncode


def options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--only", action="append", choices=list(GPU_CASES), metavar="CASE", help="may be repeated")
    parser.add_argument("--dry", action="store_true", help="tiny sizes in the interpreter, without a GPU")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "local" / "gpu.json")
    return parser.parse_args(arguments)


def report(given: argparse.Namespace, place: Place) -> int:
    """Measure, print, write; 1 when a case did not run, or when one is less accurate than eager."""
    doc = run(given.only or list(GPU_CASES), given.dry, given.rounds, place)
    print(tables(doc))
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(doc, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    limit = MOST_DRY_ERROR if given.dry else MOST_ERROR
    good = all(row["compiled"] and (row["ratio"] is None or row["ratio"] <= limit) for row in doc["errors"])
    return 0 if good and not doc["failures"] else 1


def main(arguments: Sequence[str] | None = None) -> int:
    """See `--help`; 1 without a GPU, and as `report`."""
    given = options(arguments)
    if given.dry:
        return interpreted(sys.argv[1:] if arguments is None else arguments)
    missing = what_is_missing()
    if missing:
        print(missing, file=sys.stderr)
        return 1
    return report(given, GPU)


if __name__ == "__main__":
    sys.exit(main())
