"""Discharge what the program needs of its sizes: proved ones go, the rest become guards at the entry of a call."""

from __future__ import annotations

from dataclasses import dataclass, replace

from tessera.diag import Diagnostic, Label, ShapeError
from tessera.ir.facts import Facts
from tessera.ir.graph import Function, Note, Obligation
from tessera.ir.solver import Verdict, judge_divides, judge_eq, judge_ge

_JUDGES = {"eq": judge_eq, "divides": judge_divides, "ge": judge_ge}


@dataclass(frozen=True, slots=True)
class Shapes:
    """Judge every obligation once more, knowing the ones before it: what they imply needs no guard of its own."""

    name: str = "shapes"

    def run(self, f: Function) -> Function:
        facts = Facts()
        guards: list[Obligation] = []
        refuted: list[Diagnostic] = []
        details: list[str] = []
        for o in f.obligations:
            verdict = _JUDGES[o.kind](o.left, o.right, facts)
            if verdict is Verdict.REFUTED and o.verdict == "guarded":
                verdict = Verdict.GUARDED  # the tracer knows that these sizes have no names of their own
            if verdict is Verdict.REFUTED:
                labels = () if o.span is None else (Label(o.span, f"needs {o}", primary=True),)
                refuted.append(Diagnostic("TSR0202", o.why or f"`{o}` never holds", labels, (), ()))
                continue
            details.append(f"{verdict.name.lower()}: {o}")
            if verdict is Verdict.GUARDED:
                guards.append(replace(o, verdict="guarded"))
                facts = learn(facts, o)
        if refuted:
            raise ShapeError.from_diagnostics(refuted)
        if tuple(guards) == f.obligations:
            return f
        proved = len(f.obligations) - len(guards)
        note = Note(self.name, 0.0, f"{proved} proved, {len(guards)} guarded", tuple(details))
        return replace(f, obligations=tuple(guards)).with_note(note)


def learn(facts: Facts, o: Obligation) -> Facts:
    """The facts with what an obligation says."""
    if o.kind == "eq":
        return facts.with_eq(o.left, o.right)
    return facts.with_divides(o.right, o.left) if o.kind == "divides" else facts.with_ge(o.left, o.right)
