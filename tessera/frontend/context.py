"""Judging sizes during a trace: rigid names by the solver, anonymous sizes by what they are in this call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tessera.diag import ShapeError, Span, TraceError
from tessera.ir.dim import Dim
from tessera.ir.facts import Facts
from tessera.ir.graph import Obligation
from tessera.ir.infer import InferContext
from tessera.ir.solver import Verdict, judge_divides, judge_eq, judge_ge

_JUDGES = {"eq": judge_eq, "divides": judge_divides, "ge": judge_ge}


@dataclass
class TraceContext(InferContext):
    """An ``InferContext`` that knows which names are anonymous, and the actual sizes once there are any.

    ``flexible`` holds the names of sizes that no annotation names: two of them may be equal, and whether
    they are is decided when there are ``hints``; ``numbers`` are those that an int argument gives.
    ``stand_ins`` are numbers that stand for a name during a check. ``open`` lists what could not be decided
    without them. ``choices`` are the answers that Python code was given about sizes; they become guards.
    """

    hints: Mapping[str, int] | None = None
    flexible: set[str] = field(default_factory=set)
    open: list[Obligation] = field(default_factory=list)
    choices: list[Choice] = field(default_factory=list)
    numbers: frozenset[str] = frozenset()
    named: set[str] = field(default_factory=set)
    stand_ins: Mapping[int, str] = field(default_factory=dict)
    refuted: tuple[str, Dim, Dim] | None = None

    def holds(self, kind: str, left: Dim, right: Dim, why: str = "") -> bool:
        """As in ``InferContext``; a relation that would be refuted but concerns anonymous sizes is judged
        by the hints.
        """
        if kind == "eq" and self.stand_ins and self._stands_apart(left, right):
            return False
        if super().holds(kind, left, right, why):
            return True
        names = left.names() | right.names()
        if kind == "eq" and self._follows(left, right):
            self.obligations.setdefault((kind, left, right), Obligation(kind, left, right, "guarded", why, self.span))
            self.facts = self.facts.with_eq(left, right)
            return True
        if self.flexible.isdisjoint(names):
            self.refuted = (kind, left, right)
            return False
        if self.hints is None and kind == "eq" and self._never(left, right):
            self.refuted = (kind, left, right)
            return False
        if self.hints is None:
            self.open.append(Obligation(kind, left, right, "open", why, self.span))
            return True
        if not self.evaluate(kind, left, right):
            self.refuted = (kind, left, right)
            return False
        self.obligations.setdefault((kind, left, right), Obligation(kind, left, right, "guarded", why, self.span))
        if kind == "eq":
            self.facts = self.facts.with_eq(left, right)
        return True

    def rules_out(self, left: Dim, right: Dim) -> bool:
        """Whether two sizes are never equal; names that no annotation gave may be."""
        return self.flexible.isdisjoint(left.names() | right.names()) and super().rules_out(left, right)

    def _follows(self, left: Dim, right: Dim) -> bool:
        """Whether two sizes are equal if the quotients that the code asked about are exact: behind `H // G == 1` the
        names `H` and `G` mean one size wherever `G` divides `H`.
        """
        exact = self.facts
        for c in self.choices:
            for a, b in ((c.left, c.right), (c.right, c.left)):
                atom = a.atoms.get(str(a)) if c.kind == "eq" and c.holds else None
                if atom is not None and atom.kind == "//":
                    exact = exact.with_eq(atom.args[0], b * atom.args[1])
        return exact is not self.facts and judge_eq(left, right, exact) is Verdict.PROVED

    def _never(self, left: Dim, right: Dim) -> bool:
        """Whether an int argument, which may be any size of at least 2, cannot make two sizes equal."""
        if not (left.names() | right.names()) & self.flexible <= self.numbers:
            return False
        sides = (judge_ge(left, right, self.facts), judge_ge(right, left, self.facts))
        return Verdict.REFUTED in sides

    def _stands_apart(self, left: Dim, right: Dim) -> bool:
        """Whether a stand-in number meets another name: these are different sizes."""
        for a, b in ((left, right), (right, left)):
            if a.is_const and a.value in self.stand_ins and b.is_name and self.flexible.isdisjoint(b.names()):
                return True
        return False

    def known(self, kind: str, left: Dim, right: Dim) -> bool | None:
        """Whether ``left kind right`` for all sizes (True), for none (False), or depending on them (None).

        Only what holds without any convention about names counts, because Python code acts on the answer.
        """
        for choice in self.choices:
            if (choice.kind, choice.left, choice.right) == (kind, left, right):
                return choice.holds
        if left is right:
            return True
        if _JUDGES[kind](left, right, self.facts) is Verdict.PROVED:
            return True
        if left.is_const and right.is_const:
            return left.value == right.value if kind == "eq" else left.value >= right.value
        if kind == "eq":
            apart = judge_ge(left, right + 1, self.facts) is Verdict.PROVED
            return False if apart or judge_ge(right, left + 1, self.facts) is Verdict.PROVED else None
        return False if judge_ge(right, left + 1, self.facts) is Verdict.PROVED else None

    def evaluate(self, kind: str, left: Dim, right: Dim) -> bool:
        """Whether the relation holds for the actual sizes."""
        a, b = self.value_of(left), self.value_of(right)
        if kind == "eq":
            return a == b
        return a >= b if kind == "ge" else a != 0 and b % a == 0

    def value_of(self, dim: Dim) -> int:
        """The actual size. Raises TraceError (TSR0406) when it is not known in this call."""
        try:
            return dim.evaluate(self.hints or {}, signed=True)
        except (ShapeError, KeyError):
            raise TraceError(f"the size `{dim}` is not known here", code="TSR0406") from None

    def assume(self, kind: str, left: Dim, right: Dim, holds: bool, span: Span | None) -> None:
        """Go on under an answer that Python code was given, and remember it as a guard."""
        self.choices.append(Choice(kind, left, right, holds, span))
        if kind == "eq" and holds:
            self.facts = self.facts.with_eq(left, right)
        elif kind == "ge":
            self.facts = self.facts.with_ge(left, right) if holds else self.facts.with_ge(right, left + 1)

    def scratch(self) -> InferContext:
        """A context with the same facts for trying an operation out."""
        return TryContext(self.facts, flexible=self.flexible)


@dataclass
class TryContext(InferContext):
    """Judges without consequences: only what holds for all sizes holds."""

    flexible: set[str] = field(default_factory=set)

    def holds(self, kind: str, left: Dim, right: Dim, why: str = "") -> bool:
        return left is right or _JUDGES[kind](left, right, self.facts) is Verdict.PROVED


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer about sizes that the traced code depends on: ``left kind right`` is ``holds``."""

    kind: str
    left: Dim
    right: Dim
    holds: bool
    span: Span | None = None

    def __str__(self) -> str:
        sign = {"eq": ("==", "!="), "ge": (">=", "<")}[self.kind][0 if self.holds else 1]
        return f"{self.left} {sign} {self.right}"

    def true_for(self, sizes: Mapping[str, int]) -> bool:
        """Whether the answer is right for these sizes."""
        a, b = self.left.evaluate(sizes, signed=True), self.right.evaluate(sizes, signed=True)
        return (a == b if self.kind == "eq" else a >= b) is self.holds


__all__ = ["Choice", "Facts", "TraceContext"]
