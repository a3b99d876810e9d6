"""The command line of sections that have a module of their own, such as ``python -m benchmarks.gradients``."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import job, machine, peers


def run(
    section: str, about: str | None, cases: Collection[str], arguments: Sequence[str] | None,
    measure: Callable[[argparse.Namespace], Mapping[str, Any]], *flags: tuple[str, str],
) -> int:  # fmt: skip
    """The command line of a section: ``measure`` is called with its options, in a process that reuses freed pages, and
    gives what is written with ``--output`` beside the machine and the versions. ``flags`` are further ones with what
    they do.
    """
    module = f"benchmarks.{section}"
    parser = argparse.ArgumentParser(prog=f"python -m {module}", description=about)
    parser.add_argument("--cases", default=",".join(cases), help="names, separated by commas")
    parser.add_argument("--quick", action="store_true", help="a smoke run: small sizes, two rounds")
    parser.add_argument("--rounds", type=int, help="rounds (default: 9, with --quick 2)")
    parser.add_argument("--output", type=Path, help="write the result to this file")
    for flag, text in flags:
        parser.add_argument(flag, action="store_true", help=text)
    options = parser.parse_args(arguments)
    options.cases = options.cases.split(",")
    options.rounds = options.rounds or (2 if options.quick else 9)
    unknown = [name for name in options.cases if name not in cases]
    if unknown:
        parser.error(f"no case {', '.join(unknown)}; there are {', '.join(cases)}")
    if not options.quick:
        status = job.once_more("recycled", module, arguments or sys.argv[1:])
        if status is not None:
            return status
    peers.limit_threads()
    load = machine.load()
    result = measure(options)
    if options.output is not None:
        head = machine.heading(section, options.quick, load)
        text = json.dumps({**head, "allocation": "recycled", "rounds": options.rounds, **result}, indent=2)
        options.output.write_text(text + "\n", encoding="utf-8")
    return 0
