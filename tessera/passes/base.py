"""What a pass is: a frozen dataclass with a name, options as fields, and ``run(function) -> function``."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from tessera.ir.graph import Function, Note


class Pass(Protocol):
    """A rewriting of one function. Its dataclass fields are its command-line options."""

    @property
    def name(self) -> str: ...

    def run(self, f: Function) -> Function: ...


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the pipeline table: a pass and the reason why it stands where it does."""

    step: Pass
    reason: str


def apply(step: Pass, f: Function, check: Callable[[Function], object] | None = None) -> Function:
    """Run one pass, time it, and make sure that a note of it is left even when it changed nothing."""
    start = time.perf_counter()
    before = len(f.notes)
    out = step.run(f)
    seconds = time.perf_counter() - start
    fresh = out.notes[before:]
    text = "; ".join(n.text for n in fresh) or "nothing to do"
    details = tuple(d for n in fresh for d in n.details)
    kept = out.notes[:before]
    from_to = f"{len(f.ops)} -> {len(out.ops)} ops" if len(f.ops) != len(out.ops) else f"{len(f.ops)} ops"
    out = replace(out, notes=(*kept, Note(step.name, seconds, f"{text} ({from_to})", details)))
    if check is not None:
        check(out)
    return out


def run_pipeline(
    f: Function, rows: Sequence[Row], check: Callable[[Function], object] | None = None
) -> dict[str, Function]:
    """The function after every pass, by pass name and in order; the first entry is ``traced``."""
    stages = {"traced": f}
    for row in rows:
        f = apply(row.step, f, check)
        stages[row.step.name] = f
    return stages
