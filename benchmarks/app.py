"""The command: which sections run, with what, and where the result goes."""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import contraction_document, document, job, machine, peers, report
from benchmarks.cases import CASES
from benchmarks.contractions import CONTRACTIONS
from benchmarks.job import MODES, Job, SectionError
from benchmarks.stats import PEERS

RESULTS = Path(__file__).resolve().parent / "results"
SECTIONS = ("facts", "speed", "latency", "cold")
#: A family of cases of its own, which runs when it is asked for.
FURTHER = ("contractions",)
#: Processes per participant of a cold start. `torch.compile` takes a minute or more in each.
PROCESSES: Mapping[str, int] = {"tessera": 5, "jax": 5, "compile": 1}

_DESCRIPTION = """\
Measure the functions of examples/quickstart.py at sizes of real models, in float32 on two
threads, beside every peer that is installed. Participants take turns in one process; a ratio is
the median of the ratios of its rounds. Memory is measured twice: as installed, and with a C
library that keeps freed pages."""
_EPILOG = """\
examples:
  python -m benchmarks                               everything; minutes
  python -m benchmarks --quick                       small sizes, a few rounds: does it run?
  python -m benchmarks --only softmax --sections speed
  python -m benchmarks --sections contractions       attention, layers, MLPs, a transformer block
  python -m benchmarks --name workstation            keep the result in benchmarks/results/workstation.json"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tessera bench",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run: small sizes, two rounds, one process each")
    parser.add_argument(
        "--only",
        action="append",
        choices=[*CASES, *CONTRACTIONS],
        metavar="CASE",
        help=f"measure this case; may be repeated. Cases: {', '.join(CASES)}; of the section contractions: "
        f"{', '.join(CONTRACTIONS)}",
    )
    parser.add_argument("--rounds", type=_positive, help="rounds of each case (default: 25, with --quick 2)")
    parser.add_argument(
        "--sections",
        type=_names((*SECTIONS, *FURTHER)),
        metavar="LIST",
        help=f"separated by commas; there is also {','.join(FURTHER)} (default: {','.join(SECTIONS)}, or what "
        "--only belongs to)",
    )
    parser.add_argument(
        "--modes",
        type=_names(tuple(MODES)),
        default=tuple(MODES),
        metavar="LIST",
        help=f"of memory allocation (default: {','.join(MODES)})",
    )
    parser.add_argument(
        "--peers",
        type=_names(PEERS),
        metavar="LIST",
        help=f"some of {','.join(PEERS)}, or an empty list (default: those installed)",
    )
    parser.add_argument("--name", help="keep the result under this name in benchmarks/results/")
    parser.add_argument("--output", type=Path, help="write the result to this file instead")
    return parser


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _names(allowed: tuple[str, ...]) -> Callable[[str], tuple[str, ...]]:
    def parse(text: str) -> tuple[str, ...]:
        wanted = tuple(filter(None, (word.strip() for word in text.split(","))))
        unknown = [word for word in wanted if word not in allowed]
        if unknown:
            raise argparse.ArgumentTypeError(f"unknown: {', '.join(unknown)}; there are {', '.join(allowed)}")
        return tuple(name for name in allowed if name in wanted)

    return parse


class Session:
    """The sections of one run: their results so far, and what did not work."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.quick: bool = options.quick
        self.modes: tuple[str, ...] = options.modes
        self.cases = tuple(name for name in CASES if name in (options.only or CASES))
        self.contractions = tuple(name for name in CONTRACTIONS if name in (options.only or CONTRACTIONS))
        chosen: tuple[str, ...] | None = options.peers
        self.peers = tuple(name for name in peers.installed() if chosen is None or name in chosen)
        self.rounds: int = options.rounds or (2 if self.quick else 25)
        self.load = machine.load()
        self.results: dict[str, Any] = {"failures": []}

    def job(self, section: str, label: str) -> Job:
        """A job of this session."""
        cases = self.contractions if section.startswith("contraction") else self.cases
        return Job(section, label, cases, self.peers, self.quick, self.rounds)

    def attempt(self, task: Job, extra: Mapping[str, str]) -> dict[str, Any] | None:
        """The result of a section; None, and a line in the failures, when there is none."""
        started = time.monotonic()
        try:
            result = job.run(task, extra)
        except SectionError as error:
            self._fail(task.section, task.label, str(error))
            return None
        for case, why in result.get("failures", {}).items():
            for what, reason in why.items() if isinstance(why, dict) else [("", why)]:
                self._fail(task.label, f"{case} {what}".strip(), reason)
        print(f"{task.label}: {time.monotonic() - started:.0f} s", file=sys.stderr)
        return result

    def _fail(self, section: str, what: str, why: str) -> None:
        self.results["failures"].append({"section": section, "what": what, "why": why})

    def facts(self, caches: Mapping[str, str]) -> None:
        """Errors, kernels, bytes, variants."""
        if result := self.attempt(self.job("facts", "errors and kernels"), caches):
            self.results["facts"] = result

    def speed(self, caches: Mapping[str, str]) -> None:
        """Times of every case, in every allocation mode."""
        for mode in self.modes:
            task = self.job("speed", f"speed, {report.MODE_NAMES[mode]}")
            if result := self.attempt(task, {**caches, **MODES[mode]}):
                self.results.setdefault("speed", {})[mode] = result

    def latency(self, caches: Mapping[str, str]) -> None:
        """Warm calls."""
        if result := self.attempt(self.job("latency", "warm calls"), caches):
            self.results["latency"] = result

    def cold(self, _: Mapping[str, str]) -> None:
        """First calls: each process with an empty cache is followed by one that finds the cache filled."""
        for participant in ("tessera", *self.peers):
            if participant == "eager":  # compiles nothing
                continue
            for number in range(1 if self.quick else PROCESSES[participant]):
                with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
                    caches = job.cache_environment(Path(folder))
                    for cache in ("empty", "warm"):
                        task = self.job("cold", f"first calls, {participant}, {cache} cache, {number + 1}")
                        if result := self.attempt(task.only(participant), caches):
                            entry = {"participant": participant, "cache": cache, **result}
                            self.results.setdefault("cold", []).append(entry)

    def contraction(self, caches: Mapping[str, str]) -> None:
        """Kernels, memory and errors of the contractions, then their times in every allocation mode."""
        if result := self.attempt(self.job("contraction_facts", "contractions, kernels and memory"), caches):
            self.results["contraction_facts"] = result
        for mode in self.modes:
            task = self.job("contraction_times", f"contractions, {report.MODE_NAMES[mode]}")
            if result := self.attempt(task, {**caches, **MODES[mode]}):
                self.results.setdefault("contractions", {})[mode] = result

    def run(self, sections: Sequence[str]) -> None:
        """Run sections in order. They share private caches, so that what one compiled the next one loads."""
        steps = {
            "facts": self.facts, "speed": self.speed, "latency": self.latency, "cold": self.cold,
            "contractions": self.contraction,
        }  # fmt: skip
        with tempfile.TemporaryDirectory(prefix="tessera-bench-") as folder:
            caches = job.cache_environment(Path(folder))
            for name in sections:
                steps[name](caches)

    def document(self, name: str) -> document.Document:
        """Everything that was measured, with what it was measured on."""
        head = {
            "name": name,
            "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
            "commit": machine.commit(),
            "quick": self.quick,
            "threads": job.THREADS,
            "rounds": self.rounds,
            "load": self.load,
            "machine": machine.describe(),
            "versions": machine.versions(),
        }
        least = {case: CASES[case].least_bytes(self.quick) for case in self.cases}
        doc = document.assemble(head, self.results, least)
        if {"contractions", "contraction_facts"} & set(self.results):
            contraction_document.extend(doc, self.results)
        return doc


def _sections(options: argparse.Namespace) -> tuple[str, ...]:
    """The sections asked for; without any those that the chosen cases belong to."""
    if options.sections is not None:
        return tuple(options.sections)
    if not options.only:
        return SECTIONS
    return (SECTIONS if set(options.only) & set(CASES) else ()) + (
        FURTHER if set(options.only) & set(CONTRACTIONS) else ()
    )


def _target(options: argparse.Namespace) -> Path:
    if options.output is not None:
        return Path(options.output)
    if options.name:
        return RESULTS / f"{options.name}.json"
    return RESULTS / "local" / f"{datetime.datetime.now(datetime.UTC):%Y%m%d-%H%M%S}.json"


def write(doc: document.Document, raw: Mapping[str, Any], target: Path) -> list[Path]:
    """Write the document, every single timing beside it in `raw/`, and the chart; give the paths."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(doc, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    timings = target.parent / "raw" / target.name
    timings.parent.mkdir(exist_ok=True)
    timings.write_text(json.dumps(raw) + "\n", encoding="utf-8")
    drawn = report.chart(doc)
    if drawn:
        target.with_suffix(".svg").write_text(drawn, encoding="utf-8")
    return [target, timings, *([target.with_suffix(".svg")] if drawn else [])]


def main(arguments: Sequence[str] | None = None) -> int:
    """See `--help`. The status is 1 when no section gave a result."""
    options = _parser().parse_args(arguments)
    session = Session(options)
    if session.load > 0.5 and not session.quick:
        print(f"the machine is busy (load {session.load:.1f}): times will say little", file=sys.stderr)
    session.run(_sections(options))
    target = _target(options)
    doc = session.document(target.stem)
    print(report.tables(doc))
    paths = write(doc, session.results, target)
    print("\nwritten:", ", ".join(_shown(path) for path in paths))
    return 0 if set(session.results) - {"failures"} else 1


def _shown(path: Path) -> str:
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)
