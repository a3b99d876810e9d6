"""Solving a size expression for its one unknown name."""

from __future__ import annotations

from collections.abc import Mapping

from tessera.diag import ShapeError
from tessera.ir.dim import Dim

#: Sizes that are tried for an expression of one unknown that is not linear in it.
_TRIED = 4097


def invert(d: Dim, name: str, have: Dim, bound: Mapping[str, Dim | int]) -> Dim | None:
    """The form of ``name`` for which ``d`` is ``have``, the other names being ``bound``; None when it is
    not linear in it.

    The result may be an exact division, whose remainder the caller has to exclude.

    >>> D = Dim.name("D")
    >>> str(invert(D / 2 + 1, "D", Dim.name("K"), {}))
    '2*K - 2'
    """
    form = d.substitute({n: v for n, v in bound.items() if n in d.names()})
    for _, denominator in form.divisibility_obligations():
        if name in denominator.names():
            return None
        form, have = form * denominator, have * denominator
    x = Dim.name(name)
    try:
        start = form.substitute({name: 0})
        slope = form.substitute({name: x + 1}) - form
        if name in slope.names() or not slope.terms or (form - start) is not slope * x:
            return None
        return (have - start) / slope
    except ShapeError:
        return None


def solve(d: Dim, name: str, size: int, known: Mapping[str, int]) -> int | None:
    """The size of ``name`` that makes an expression equal to ``size``; None when there is none, or more
    than one.

    A linear expression is inverted; any other is tried at small sizes.

    >>> solve(Dim.name("D") * Dim.name("H"), "D", 12, {"H": 3})
    4
    """
    found = invert(d, name, Dim.const(size), known)
    if found is not None:
        return found.value if found.is_const and found.value >= 0 else None
    form = d.substitute({n: v for n, v in known.items() if n in d.names()})
    fits = [n for n in range(_TRIED) if _at(form, name, n) == size]
    return fits[0] if len(fits) == 1 else None


def _at(form: Dim, name: str, n: int) -> int | None:
    try:
        return form.evaluate({name: n}, signed=True)
    except ShapeError:
        return None
