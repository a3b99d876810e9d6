"""Folds that follow each other, in one sweep.

``sum(exp(s - m))`` with ``m = max(s)`` seems to need ``m`` first. But when the maximum reached so far moves from ``m``
to ``m'``, every term folded so far moves by the same factor ``exp(m - m')``, so the sum can follow. Whether terms move
by a common factor, and which, comes from the laws of the operations between (``record.Law``); no pattern is looked
for. (For softmax: Milakov and Gimelshein, "Online normalizer calculation for softmax", 2018.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from tessera.ir.dtype import DType
from tessera.ir.graph import Literal, Operand, Operation, Value
from tessera.ir.record import Kind, Law, OpRecord
from tessera.ir.roles import Role, Roles

#: How much of each kept value is added to a value when the kept values move.
Shift = tuple[tuple[Value, float], ...]


@dataclass(frozen=True, slots=True)
class Motion:
    """How a value moves with the kept values: by ``shift``, or by the factors that ``scales`` give for theirs.

    With ``guarded`` it is 0 at points that a condition leaves out.
    """

    shift: Shift = ()
    scales: tuple[tuple[OpRecord, Shift], ...] = ()
    guarded: bool = field(default=False, compare=False)


STILL = Motion()


def motions(ops: Sequence[Operation], roles: Roles) -> dict[Value, Motion | None]:
    """The motion of every value of the space; None where no law gives one."""
    found: dict[Value, Motion | None] = {}

    def of(x: Operand) -> Motion | None:
        if isinstance(x, Value) and roles[x] is Role.KEPT:
            return Motion(((x, 1.0),)) if roles.follows(x) else STILL
        return found.get(x, STILL) if isinstance(x, Value) else STILL

    for op in ops:
        if roles[op.results[0]] is not Role.FULL:
            continue
        moves = [of(x) for x in op.operands]
        if all(m == STILL for m in moves):
            motion: Motion | None = STILL
        else:
            law = _LAWS.get(op.record.law)
            known = [m for m in moves if m is not None]
            motion = law(op, known) if law is not None and len(known) == len(moves) else None
            if op.record.law is Law.POWER and motion is not None and not _bounded(roles, op, moves[0]):
                motion = None
        found.update(dict.fromkeys(op.results, motion))
    return found


def _add(a: Shift, b: Shift, sign: float) -> Shift:
    total = dict(a)
    for v, n in b:
        total[v] = total.get(v, 0.0) + sign * n
    return tuple((v, n) for v, n in total.items() if n)


def _sum(op: Operation, m: Sequence[Motion], sign: float = 1.0) -> Motion | None:
    if not m[0].scales and not m[1].scales:
        return Motion(_add(m[0].shift, m[1].shift, sign))
    return m[0] if m[0] == m[1] and not m[0].shift else None


def _difference(op: Operation, m: Sequence[Motion]) -> Motion | None:
    return _sum(op, m, -1.0)


def _product(op: Operation, m: Sequence[Motion]) -> Motion | None:
    if not m[0].shift and not m[1].shift:
        return Motion(scales=m[0].scales + m[1].scales, guarded=m[0].guarded or m[1].guarded)
    for moving, number in ((m[0], op.operands[1]), (m[1], op.operands[0])):
        if isinstance(number, Literal) and isinstance(number.value, int | float) and not moving.scales:
            return Motion(tuple((v, n * number.value) for v, n in moving.shift))
    return None


def _quotient(op: Operation, m: Sequence[Motion]) -> Motion | None:
    return m[0] if m[1] == STILL and not m[0].shift else None


def _power(op: Operation, m: Sequence[Motion]) -> Motion | None:
    return None if m[0].scales else Motion(scales=((op.record, m[0].shift),))


def _choice(op: Operation, m: Sequence[Motion]) -> Motion | None:
    """Both moved alike; or one is a number that moving does not change."""
    condition, a, b = m
    if condition != STILL:
        return None
    if a == b:
        return a
    for moving, number in ((a, op.operands[2]), (b, op.operands[1])):
        if isinstance(number, Literal) and isinstance(number.value, int | float):
            if moving.shift and abs(number.value) == INF:
                return moving
            if not moving.shift and number.value == 0:
                return replace(moving, guarded=True)
    return None


def _same(op: Operation, m: Sequence[Motion]) -> Motion | None:
    return m[0]


_LAWS: Mapping[Law, Callable[[Operation, Sequence[Motion]], Motion | None]] = {
    Law.SUM: _sum, Law.DIFFERENCE: _difference, Law.PRODUCT: _product, Law.QUOTIENT: _quotient,
    Law.POWER: _power, Law.CHOICE: _choice, Law.SAME: _same,
}  # fmt: skip


class Apart(Exception):
    """A fold that cannot follow the folds it depends on in one sweep: ``op``."""

    def __init__(self, op: Operation) -> None:
        super().__init__(op)
        self.op = op


def factors(ops: Sequence[Operation], roles: Roles) -> dict[Operation, Motion]:
    """For each fold of the sweep how its terms move, as scales alone. Raises Apart where that is no common factor, or
    one that may grow without bound.
    """
    moves = motions(ops, roles)
    found: dict[Operation, Motion] = {}
    for op in roles.folds(ops):
        x = op.operands[0]
        motion = moves.get(x, STILL) if isinstance(x, Value) else STILL
        if motion is None or motion.shift or (motion.scales and not additive(op)):
            raise Apart(op)
        found[op] = motion
    for op in ops:
        if roles.crosses(op) and moves.get(next(op.inputs), STILL) != STILL:
            raise Apart(op)
    return found


def additive(op: Operation) -> bool:
    """Is a fold a sum, so that a factor of its terms is one of its result?"""
    return op.record.kind is Kind.CONTRACT or bool(op.record.reduction and op.record.reduction.additive)


def _bounded(roles: Roles, op: Operation, motion: Motion | None) -> bool:
    """Does what a power is taken of have in it, with the opposite sign, the very values whose extremum it is shifted
    by? Then no term is above the one at the extremum, and what was folded can only shrink when that moves.
    """
    if motion is None:
        return False
    for v, n in motion.shift:
        fold = _extremum(roles, v)
        if fold is None or identity(fold) != (-INF if n < 0 else INF):
            return False
        if not _has(roles, op.operands[0], fold.operands[0], n < 0):
            return False
    return True


def _extremum(roles: Roles, v: Value) -> Operation | None:
    """The fold that ``v`` is, but for what stands in for it where it is infinite."""
    for _ in range(DEPTH):
        op = roles.maker.get(v)
        if op is None or roles.folded(op):
            return op
        passes = op.record.kind is Kind.VIEW or op.record.law in (Law.SAME, Law.CHOICE)
        moving = [x for x in op.inputs if roles[x] is Role.KEPT and not x.type.dtype.is_bool and roles.follows(x)]
        if not passes or len(moving) != 1:
            return None
        v = moving[0]
    return None


def _has(roles: Roles, x: Operand, wanted: Operand, positive: bool) -> bool:
    """Is ``wanted`` a summand of ``x``, with this sign?"""
    pending = [(x, positive)]
    for _ in range(DEPTH):
        if not pending:
            return False
        v, sign = pending.pop()
        if v is wanted and sign:
            return True
        op = roles.maker.get(v) if isinstance(v, Value) and roles[v] is Role.FULL else None
        if op is None:
            continue
        if op.record.law in (Law.SUM, Law.DIFFERENCE):
            a, b = op.operands
            pending += [(a, sign), (b, sign is (op.record.law is Law.SUM))]
        elif op.record.law is Law.PRODUCT:
            for factor, other in (op.operands, op.operands[::-1]):
                if isinstance(factor, Literal) and isinstance(factor.value, int | float) and factor.value > 0:
                    pending.append((other, sign))
        elif op.record.law in (Law.SAME, Law.CHOICE):
            pending += [(y, sign) for y in op.operands if not y.type.dtype.is_bool]
    return False


#: How many operations deep a value is looked into.
DEPTH = 64


# -- conditions under which nothing is added


@dataclass
class Absence:
    """What the values of the space are where a condition has one outcome, as far as that decides them."""

    roles: Roles
    condition: Value
    outcome: bool
    known: dict[Value, float] = field(default_factory=dict)

    def settle(self, ops: Sequence[Operation]) -> None:
        for op in ops:
            if op.record.kind is Kind.MAP:
                found = self.of(op)
                if found is not None:
                    self.known[op.results[0]] = found

    def number(self, x: Operand) -> float | None:
        if isinstance(x, Literal):
            return float(x.value) if isinstance(x.value, int | float) else None
        return self.known.get(x)

    def of(self, op: Operation) -> float | None:
        """A result that is -inf or 0, whatever finite values the others have."""
        law, xs = op.record.law, op.operands
        a = self.number(xs[0])
        if law is Law.CHOICE:
            if xs[0] is not self.condition:
                both = self.number(xs[1]), self.number(xs[2])
                return both[0] if both[0] == both[1] else None
            return self.number(xs[1] if self.outcome else xs[2])
        if law in (Law.SAME, Law.POWER):
            return a if law is Law.SAME or a is None else (0.0 if a == -INF else None)
        if law not in (Law.SUM, Law.DIFFERENCE, Law.PRODUCT, Law.QUOTIENT):
            return None
        b = self.number(xs[1])
        if law is Law.SUM:
            return -INF if -INF in (a, b) else None
        if law is Law.DIFFERENCE:
            return a if a == -INF else None
        if a == 0 or (law is Law.PRODUCT and b == 0):
            return 0.0
        return a if a == -INF and isinstance(xs[1], Literal) and b is not None and b > 0 else None


INF = float("inf")


def gates(ops: Sequence[Operation], roles: Roles, folds: Sequence[Operation]) -> list[tuple[Value, bool]]:
    """Conditions without which a point adds nothing to any fold, with the outcome that keeps it alive."""
    found: list[tuple[Value, bool]] = []
    conditions = dict.fromkeys(
        op.operands[0] for op in ops if op.record.law is Law.CHOICE and isinstance(op.operands[0], Value)
    )
    for condition in conditions:
        for outcome in (False, True):
            absent = Absence(roles, condition, outcome)
            absent.settle(ops)
            starts = [identity(op) for op in folds]
            given = [absent.number(op.operands[0]) for op in folds]
            if folds and None not in starts and given == starts:
                found.append((condition, not outcome))
    return found


def identity(op: Operation) -> float | None:
    """The element that adds nothing to a fold."""
    if op.record.reduction is None:
        return 0.0
    start = op.record.reduction.init(_dtype(op))
    return float(start[0]) if len(start) == 1 else None


def _dtype(op: Operation) -> DType:
    return op.operands[0].type.dtype
