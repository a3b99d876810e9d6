"""A stronger normal form for judging: fewer kinds of atoms, quotients by a number reduced fully.

Printing keeps ``%``, ``ceildiv`` and ``(S - 1) // 8`` as they were written; for judging they are put as ``//``, so that
forms that mean the same meet more often. Every step holds for all integers at which the form has a value.
"""

from __future__ import annotations

from functools import lru_cache

from tessera.ir import dim_poly as poly
from tessera.ir.dim import Atom, Dim, build_atom, dim_min, floordiv, from_poly
from tessera.ir.dim_form import is_positive
from tessera.ir.dim_limits import CACHED
from tessera.ir.dim_poly import Poly


@lru_cache(maxsize=CACHED)
def canonical(d: Dim) -> Dim:
    """The form with ``%``, ``ceildiv`` and two-sided ``max`` expressed by ``//`` and ``min``.

    >>> str(canonical(Dim.of("S") % 4))
    'S - 4*(S // 4)'
    """
    if not d.atoms:
        return d
    # Over one denominator, as single terms of (D % 2 + 1)/2 need not be whole.
    num, den, _, _ = poly.cleared(dict(d.terms), {(): 1})
    factors = {text: _atom(atom) for text, atom in d.atoms.items()}
    return _woven(num, factors) / _woven(den, factors)


def _woven(p: Poly, factors: dict[str, Dim]) -> Dim:
    total = Dim.const(0)
    for m, c in p.items():
        part = from_poly({tuple(x for x in m if x[0] not in factors): c}, {})
        for f, e in m:
            if f in factors:
                part = part * factors[f] ** e
        total = total + part
    return total


def _atom(atom: Atom) -> Dim:
    args = [canonical(x) for x in atom.args]
    if atom.kind == "max" and len(args) == 2:
        return args[0] + args[1] - dim_min(*args)
    if atom.kind not in ("//", "%", "ceildiv"):
        return build_atom(atom.kind, args)
    num, den = args
    if atom.kind == "%":
        return num - den * _floor(num, den)
    if atom.kind == "//":
        return _floor(num, den)
    return _floor(num + den - 1, den) if is_positive(den) else build_atom("ceildiv", args)


def _floor(num: Dim, den: Dim) -> Dim:
    """``num // den`` with the coefficients of ``num`` brought into [0, den) for a number ``den``."""
    if not den.is_const or den.value <= 0 or any(not poly.is_integral(m) for m, _ in num.terms):
        return floordiv(num, den)
    scale = max((c.denominator for _, c in num.terms), default=1)
    if scale != 1:
        return floordiv(num, den)
    quotient: Poly = {m: c // den.value for m, c in num.terms if c // den.value}
    out = from_poly(quotient, num.atoms)
    return out + floordiv(num - out * den, den)
