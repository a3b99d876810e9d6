"""What a dim rule may ask for: equality, divisibility, broadcasting; and how it fails.

A rule never decides by itself what an undecidable size relation means. It states the need; the context judges it
with the solver, keeps it as an Obligation, and raises when it is refuted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NoReturn

from tessera.diag import DTypeError, ShapeError, Span, TesseraError, TraceError
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, category, promote
from tessera.ir.facts import Facts
from tessera.ir.graph import Obligation, Operand
from tessera.ir.solver import Verdict, judge_divides, judge_eq, judge_ge
from tessera.ir.types import ScalarType, TensorType, Type

ONE = Dim.const(1)


@dataclass(frozen=True, slots=True)
class Blame:
    """What an error is about: operand number (None for the op itself), axis of it, and what to say there."""

    operand: int | None = None
    axis: int | None = None
    text: str = ""


class Refused(Exception):
    """Raised by a rule. The caller, who knows names and spans, turns it into a diagnostic."""

    def __init__(
        self,
        cls: type[TesseraError],
        code: str,
        message: str,
        blame: Sequence[Blame] = (),
        notes: Sequence[str] = (),
        helps: Sequence[str] = (),
    ) -> None:
        super().__init__(message)
        self.cls, self.code, self.message = cls, code, message
        self.blame, self.notes, self.helps = tuple(blame), tuple(notes), tuple(helps)
        self.operands: tuple[Operand, ...] = ()

    @classmethod
    def about(
        cls, code: str, message: str, operands: Sequence[Operand], blame: Sequence[Blame], helps: Sequence[str] = ()
    ) -> Refused:
        """A refusal that says which tensors the blame numbers: a DTypeError for TSR03xx, else a ShapeError."""
        found = cls(DTypeError if code.startswith("TSR03") else ShapeError, code, message, blame, (), helps)
        found.operands = tuple(operands)
        return found


@dataclass
class InferContext:
    """Judges what the rules need. ``obligations`` grows in the order of asking; equal ones are kept once.

    ``filled`` are the names that are sizes of arguments: at least 1, as only tensors with elements are computed on.
    """

    facts: Facts = field(default_factory=Facts)
    obligations: dict[tuple[str, Dim, Dim], Obligation] = field(default_factory=dict)
    span: Span | None = None
    filled: set[str] = field(default_factory=set)

    def fail(
        self, code: str, message: str, *blame: Blame, notes: Sequence[str] = (), helps: Sequence[str] = ()
    ) -> NoReturn:
        """Refuse the op: TSR03xx raises a DTypeError, TSR0402 a TraceError, everything else a ShapeError."""
        cls = DTypeError if code.startswith("TSR03") else TraceError if code == "TSR0402" else ShapeError
        raise Refused(cls, code, message, blame, notes, helps)

    def holds(self, kind: str, left: Dim, right: Dim, why: str = "") -> bool:
        """Record an obligation (``eq``, ``divides``, ``ge``); False when it is refuted, and then nothing is
        recorded.
        """
        if kind == "eq" and left is right:
            return True
        judge = {"eq": judge_eq, "divides": judge_divides, "ge": judge_ge}[kind]
        verdict = judge(left, right, self.facts)
        if verdict is Verdict.REFUTED:
            return False
        if not (left.is_const and right.is_const):
            known = Obligation(kind, left, right, verdict.name.lower(), why, self.span)
            self.obligations.setdefault((kind, left, right), known)
        return True

    def rules_out(self, left: Dim, right: Dim) -> bool:
        """Whether two sizes are never equal; asks nothing of the call."""
        return judge_eq(left, right, self.facts) is Verdict.REFUTED

    def equal(self, left: Dim, right: Dim, code: str, message: str, *blame: Blame, helps: Sequence[str] = ()) -> Dim:
        """Require two sizes to be equal; gives back the one to go on with (a constant or the simpler form)."""
        if not self.holds("eq", left, right, message):
            self.fail(code, message, *blame, helps=helps)
        return right if right.is_const or (right.is_name and not left.is_name and not left.is_const) else left

    def divides(self, den: Dim, num: Dim, code: str, message: str, *blame: Blame, helps: Sequence[str] = ()) -> Dim:
        """Require ``den`` to divide ``num``; gives the exact quotient."""
        if not self.holds("divides", den, num, message):
            self.fail(code, message, *blame, helps=helps)
        return num / den

    def at_least(self, left: Dim, right: Dim, code: str, message: str, *blame: Blame) -> None:
        if not self.holds("ge", left, right, message):
            self.fail(code, message, *blame)

    def always_has(self, size: Dim, least: Dim) -> bool:
        """Whether ``size >= least`` for all arguments that have elements."""
        facts = self.facts
        for name in sorted(size.names() & self.filled):
            facts = facts.with_ge(Dim.name(name), ONE)
        return judge_ge(size, least, facts) is Verdict.PROVED

    def axis(self, dim: int, rank: int, operand: int = 0, code: str = "TSR0203") -> int:
        """A non-negative axis number, or a refusal that says which ones exist."""
        span = max(rank, 1)
        if not -span <= dim < span:
            self.fail(code, f"dim {dim} of a rank-{rank} tensor", Blame(operand, None, f"has rank {rank}"),
                      helps=[f"dims go from {-span} to {span - 1}"])  # fmt: skip
        return dim % span

    def broadcast(self, types: Sequence[Type], first: int = 0) -> tuple[Dim, ...]:
        """The common shape of the operands: missing leading dims and the literal 1 stretch, nothing else does."""
        rank = max((t.rank for t in types), default=0)
        shape: list[Dim] = [ONE] * rank
        source: list[int] = [0] * rank
        for number, t in enumerate(types):
            for axis, size in enumerate(t.dims):
                at = rank - t.rank + axis
                if shape[at] is ONE or shape[at] is size:
                    if size is not shape[at]:
                        shape[at], source[at] = size, number
                elif size is not ONE:
                    shape[at] = self._same(types, shape[at], size, (source[at] + first, number + first), at - rank)
        return tuple(shape)

    def _same(self, types: Sequence[Type], a: Dim, b: Dim, who: tuple[int, int], axis: int) -> Dim:
        where = "last dim" if axis == -1 else f"dim {axis}"
        return self.equal(
            a, b, "TSR0202", f"dimension `{a}` meets `{b}` in a broadcast",
            Blame(who[0], axis, f"`{a}`, {where}"), Blame(who[1], axis, f"`{b}`, {where}"),
        )  # fmt: skip


def result_dtype(types: Sequence[Type]) -> DType:
    """torch's promotion over tensors, rank-0 tensors and weak scalars, in that order of strength."""
    best: DType | None = None
    groups = (
        [t.dtype for t in types if isinstance(t, TensorType) and t.rank],
        [t.dtype for t in types if isinstance(t, TensorType) and not t.rank],
        [t.dtype for t in types if isinstance(t, ScalarType)],
    )
    for group in groups:
        if not group:
            continue
        strongest = group[0]
        for t in group[1:]:
            strongest = promote(strongest, t)
        if best is None or category(strongest) > category(best):
            best = strongest
    assert best is not None, "an op has at least one operand"
    return best
