"""Questions about sizes that Python code asks while it is traced: compare two of them, or hand one over as
a number.
"""

from __future__ import annotations

from tessera.diag import caller_span
from tessera.frontend.handles import Deferred
from tessera.frontend.session import Session
from tessera.ir.dim import Dim

#: What `float(size)` gives at definition, where no value exists: shapes rarely depend on it, and a prime
#: betrays itself.
STAND_IN = 7919.0


def holds(session: Session, kind: str, left: Dim, right: Dim) -> bool:
    """Whether ``left kind right`` (``eq ne lt le gt ge``).

    Decided by the solver where it holds, or fails, for all sizes; during a call by the actual sizes, which
    adds a guard; at definition by exploring both answers.
    """
    negated, kind, left, right = _normal(kind, left, right)
    known = session.context.known(kind, left, right)
    if known is not None:
        return known is not negated
    if session.hints is not None:
        actual = session.context.evaluate(kind, left, right)
    elif session.path is not None:
        actual = session.path.answer()
    else:
        raise Deferred(f"{left} {'==' if kind == 'eq' else '>='} {right}", caller_span())
    session.context.assume(kind, left, right, actual, caller_span())
    return actual is not negated


def _normal(kind: str, left: Dim, right: Dim) -> tuple[bool, str, Dim, Dim]:
    """Every comparison as ``eq`` or ``ge``, perhaps negated."""
    if kind in ("eq", "ne"):
        return kind == "ne", "eq", left, right
    if kind in ("ge", "lt"):
        return kind == "lt", "ge", left, right
    return kind == "gt", "ge", right, left


def value(session: Session, dim: Dim) -> int:
    """The number a size is in this call, which the compiled function is then specialised on.

    Raises Deferred at definition, where there is none.
    """
    span = caller_span()
    if session.hints is None:
        session.specialised.setdefault(str(dim), (0, span))
        raise Deferred(str(dim), span)
    actual = session.context.value_of(dim)
    for name in dim.names():
        session.specialised[name] = (session.context.value_of(Dim.name(name)), span)
    session.context.assume("eq", dim, Dim.const(actual), True, span)
    return actual


def number(session: Session, dim: Dim) -> float:
    """A size as a float; at definition a stand-in, so that ``math.sqrt(D)`` does not end the check."""
    if session.hints is None:
        session.guessed = True
        session.specialised.setdefault(str(dim), (0, caller_span()))
        return STAND_IN
    return float(value(session, dim))
