"""Everything that needs a GPU, in one command: `python -m benchmarks.gpu`.

Every function of the table is called with tensors on the GPU, as any program would call it. Every result
of its kernels is checked against float64 computed there, calls are timed in turns with eager torch and
`torch.compile`, and the kernels are listed with their resources. The result is a table and a JSON file with
date, device and versions. Without a GPU or without Triton the command says so and ends with status 1.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks import document, facts, machine, peers
from benchmarks.cases import CASES, Case, Sizes
from benchmarks.progress import Progress
from benchmarks.speed import rotated
from benchmarks.stats import paired
from benchmarks.table import number, render
from tessera import ResourceError
from tessera.driver.devices import ACCELERATORS

RESULTS = Path(__file__).resolve().parent / "results"
#: Calls that are timed together: one alone is shorter than the clock's grain.
_BATCH = 20


def scaled(sizes: Sizes, factor: int) -> dict[str, int]:
    """The sizes with the first one, which counts rows, taken so many times: a GPU needs more of them.

    >>> scaled({"B": 4, "S": 1024, "D": 2048}, 8)
    {'B': 32, 'S': 1024, 'D': 2048}
    """
    first = next(iter(sizes))
    return {**sizes, first: sizes[first] * factor}


def arguments_on(device: str, case: Case, sizes: Sizes) -> tuple[object, ...]:
    """A case's arguments on a device, the same ones every time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(20_250_101)
        made = case.arguments(sizes)
    return tuple(a.to(device) if isinstance(a, torch.Tensor) else a for a in made)


def check(case: Case, arguments: tuple[object, ...]) -> list[dict[str, Any]]:
    """A row for each result: relative errors against float64, and whether the call really ran compiled.

    `ratio` is Tessera's error over the larger of eager's and that of rounding once; for a single number, whose
    error is chance, over the distance to its neighbour where that is larger still.
    """
    before = case.function.cache_info().eager  # type: ignore[attr-defined]
    fused = facts.tensors(case.function(*arguments))
    ran_eagerly = case.function.cache_info().eager > before  # type: ignore[attr-defined]
    references = facts.tensors(case.torch(*facts.widened(arguments)))
    eager = facts.tensors(case.function.eager(*arguments))  # type: ignore[attr-defined]
    rows = []
    for place, (reference, ours, theirs) in enumerate(zip(references, fused, eager, strict=True)):
        error, other = facts.relative_error(ours, reference), facts.relative_error(theirs, reference)
        floor = facts.relative_error(reference.to(ours.dtype), reference)
        limit = max(other, floor, torch.finfo(ours.dtype).eps if ours.numel() == 1 else 0.0)
        rows.append(
            {
                "case": case.name,
                "result": place,
                "tessera": error,
                "eager": other,
                "floor": floor,
                "ratio": error / limit if limit else float(error > 0),
                "compiled": not ran_eagerly,
            }
        )
    return rows


def emitted(case: Case, arguments: tuple[object, ...]) -> list[dict[str, Any]]:
    """A row for each Triton kernel of a case: its form and what the compiler says it takes on that device."""
    lowered = case.function.lower(*arguments, backend="triton")  # type: ignore[attr-defined]
    return [{"case": case.name, "kernel": k.name, "form": k.form, **k.resources} for k in lowered.kernels]


def _milliseconds(call: peers.Call) -> float:
    """Milliseconds of one call on the device, from events around a batch of them."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    call()
    start.record()
    for _ in range(_BATCH):
        call()
    stop.record()
    stop.synchronize()
    return float(start.elapsed_time(stop)) / _BATCH


def interleave(calls: Mapping[str, peers.Call], rounds: int) -> dict[str, list[float]]:
    """Milliseconds per round of every participant, in an order that rotates."""
    times: dict[str, list[float]] = {name: [] for name in calls}
    for turn in range(rounds):
        for name in rotated(list(calls), turn):
            times[name].append(_milliseconds(calls[name]))
    return times


def speed_row(case: str, times: Mapping[str, Sequence[float]], least: int) -> dict[str, Any]:
    """Medians in milliseconds, ratios to each peer, and the share of a copy's speed.

    >>> row = speed_row("rope", {"tessera": [1.0], "eager": [3.0], "copy": [0.9]}, 8_000_000)
    >>> row["eager_ratio"], row["compile_ratio"], row["copy_share"], row["gb_per_s"]
    (3.0, None, 0.9, 8.0)
    """
    row: dict[str, Any] = {"case": case}
    for name in ("tessera", "eager", "compile", "copy"):
        row[f"{name}_ms"] = statistics.median(times[name]) if times.get(name) else None
    ours = times["tessera"]
    for name in ("eager", "compile"):
        row[f"{name}_ratio"] = paired(times[name], ours).median if times.get(name) else None
    row["copy_share"] = paired(times["copy"], ours).median if times.get("copy") else None
    row["gb_per_s"] = least / statistics.median(ours) / 1e6
    return row


def _copy(device: str, moved: int) -> peers.Call:
    source = torch.ones(max(1, moved // 8), device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def measure(case: Case, sizes: Sizes, rounds: int) -> dict[str, Any]:
    """Everything about one case on the GPU: `errors`, `kernels`, `speed`, `failures`."""
    arguments = arguments_on("cuda", case, sizes)
    calls, failures = peers.prepare(("tessera", "eager", "compile"), case, arguments)
    found: dict[str, Any] = {"errors": [], "kernels": [], "speed": [], "failures": failures}
    if "tessera" in calls:
        found["errors"] = check(case, arguments)
        try:
            found["kernels"] = emitted(case, arguments)
        except ResourceError as error:
            failures["kernels"] = str(error).strip().splitlines()[0][:200]
        calls["copy"] = _copy("cuda", case.least(sizes))
        found["speed"] = [speed_row(case.name, interleave(calls, rounds), case.least(sizes))]
    return found


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


def tables(doc: Mapping[str, Any]) -> str:
    """The document as tables for a terminal."""
    speed = [
        [
            row["case"],
            *(number(row[f"{name}_ms"], ".4f") for name in ("tessera", "eager", "compile", "copy")),
            *(number(row[f"{name}_ratio"], unit="×") for name in ("eager", "compile")),
            number(row["gb_per_s"], ".0f"),
            number(row["copy_share"]),
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
    head = [
        "case",
        "tessera ms",
        "eager ms",
        "compile ms",
        "copy ms",
        "to eager",
        "to compile",
        "GB/s",
        "of copy",
    ]
    parts = [render("time per call on the GPU", head, speed)] if speed else []
    head = ["case", "result", "tessera", "eager", "rounding once", "ratio", "compiled"]
    parts += [render("relative L2 error against float64", head, errors)] if errors else []
    parts += [f"{row['case']} {row['what']}: {row['why']}" for row in doc["failures"]]
    return "\n\n".join(parts)


def run(names: Sequence[str], quick: bool, factor: int, rounds: int) -> document.Document:
    """Measure the named cases; needs a GPU."""
    doc: document.Document = {
        "schema": document.SCHEMA,
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "commit": machine.commit(),
        "quick": quick,
        "gpu": device_description(),
        "machine": machine.describe(),
        "versions": machine.versions(),
        "speed": [],
        "errors": [],
        "kernels": [],
        "failures": [],
    }
    with Progress("GPU", len(names)) as progress:
        for name in names:
            case = CASES[name]
            found = measure(case, case.quick if quick else scaled(case.sizes, factor), rounds)
            for key in ("speed", "errors", "kernels"):
                doc[key] += found[key]
            doc["failures"] += [{"case": name, "what": p, "why": why} for p, why in found["failures"].items()]
            progress.step(name)
    return doc


def what_is_missing() -> str:
    """Why nothing can be measured here; empty where it can."""
    if not torch.cuda.is_available():
        return "no GPU: torch finds none on this machine, or was installed without support for it"
    if not ACCELERATORS["cuda"].ready():
        return "no Triton: kernels for the GPU cannot be compiled without it"
    return ""


def main(arguments: Sequence[str] | None = None) -> int:
    """See `--help`; 1 without a GPU, when a case did not run, or when one is less accurate than eager."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=(__doc__ or "").split("\n\n")[1])
    parser.add_argument("--only", action="append", choices=list(CASES), metavar="CASE", help="may be repeated")
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--scale", type=int, default=8, help="how many times the rows of the CPU's sizes")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--output", type=Path, default=RESULTS / "local" / "gpu.json")
    options = parser.parse_args(arguments)
    missing = what_is_missing()
    if missing:
        print(missing, file=sys.stderr)
        return 1
    doc = run(options.only or list(CASES), options.quick, options.scale, options.rounds)
    print(tables(doc))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(doc, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    good = all(row["compiled"] and row["ratio"] <= 1.05 for row in doc["errors"])
    return 0 if good and not doc["failures"] else 1


if __name__ == "__main__":
    sys.exit(main())
