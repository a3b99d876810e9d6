"""Three-valued judgement of what a program needs of its sizes: proved, refuted, or left to a guard at the call.

PROVED holds for every size from 0 that satisfies the facts and gives the forms a value. REFUTED holds for no size
from ``facts.minimum`` (2) with different names unequal. Everything else, and everything not decided, is GUARDED.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum
from functools import lru_cache
from itertools import product as combinations
from math import gcd

from tessera.diag import ShapeError
from tessera.ir import dim_poly as poly
from tessera.ir.dim import ONE, ZERO, Dim
from tessera.ir.dim_poly import Poly
from tessera.ir.facts import Facts, difference
from tessera.ir.solver_canon import canonical
from tessera.ir.solver_sign import Signs
from tessera.ir.solver_system import System
from tessera.ir.solver_witness import divides, equal_sizes

_NO_FACTS = Facts()
_CACHED = 8_192
SMALLEST = 2
MODULI = (2, 3, 4, 5, 7, 8, 9)
MAX_RESIDUES = 600
MAX_CONSTANT = 10**8


class Verdict(Enum):
    """What is known about a need: it holds for all sizes, for none, or that depends on the sizes of a call."""

    PROVED = "proved"
    REFUTED = "refuted"
    GUARDED = "guarded"


def judge_eq(a: Dim, b: Dim, facts: Facts = _NO_FACTS) -> Verdict:
    """Is ``a == b``?

    >>> D, H, K = (Dim.of(n) for n in "DHK")
    >>> [judge_eq(D, x).value for x in (D / 2 + D / 2, H * K, Dim.of(768), D / 2, H, Dim.of(1))]
    ['proved', 'guarded', 'guarded', 'refuted', 'refuted', 'refuted']
    """
    if a is b:
        return Verdict.PROVED
    if facts.empty:
        if a.is_const and b.is_const:
            return Verdict.REFUTED
        if a.is_name or b.is_name:
            other = b if a.is_name else a
            if other.is_name:
                return Verdict.REFUTED
            if other.is_const:
                return Verdict.GUARDED if other.value >= facts.minimum else Verdict.REFUTED
    return _judge_eq(a, b, facts)


def judge_ge(a: Dim, b: Dim, facts: Facts = _NO_FACTS) -> Verdict:
    """Is ``a >= b``?

    >>> S, T = Dim.of("S"), Dim.of("T")
    >>> [judge_ge(x, S).value for x in (S + T, T, S - 1)]
    ['proved', 'guarded', 'refuted']
    """
    if a is b:
        return Verdict.PROVED
    if a.is_const and b.is_const:
        return Verdict.PROVED if a.value >= b.value else Verdict.REFUTED
    return _judge_ge(a, b, facts)


def judge_divides(den: Dim, num: Dim, facts: Facts = _NO_FACTS) -> Verdict:
    """Does ``den`` divide ``num``? (0 divides 0 only.)

    >>> S = Dim.of("S")
    >>> [judge_divides(Dim.of(4), x).value for x in (8 * S, S, 2 * S + 1)]
    ['proved', 'guarded', 'refuted']
    """
    if den.is_const and num.is_const:
        return Verdict.PROVED if divides(den.value, num.value) else Verdict.REFUTED
    if den is num or den is ONE or num is ZERO:
        return Verdict.PROVED
    return _judge_divides(den, num, facts)


@lru_cache(maxsize=_CACHED)
def _judge_eq(a: Dim, b: Dim, facts: Facts) -> Verdict:
    try:
        if facts.empty and _names_something_new(a, b) and equal_sizes(a, b, facts, 2):
            return Verdict.GUARDED
        if _always_equal(a, b, facts):
            return Verdict.PROVED
        if _never_equal(a, b, facts):
            return Verdict.REFUTED
    except ShapeError as error:
        # TSR0106: the facts leave one side without a value. TSR0102: too large to decide.
        return Verdict.REFUTED if error.code == "TSR0106" else Verdict.GUARDED
    return Verdict.GUARDED


def _names_something_new(a: Dim, b: Dim) -> bool:
    """Is one side a plain name that the other side lacks? Then they are not always equal."""
    return (a.is_name and not a.names() <= b.names()) or (b.is_name and not b.names() <= a.names())


def _always_equal(a: Dim, b: Dim, facts: Facts) -> bool:
    system = System.of(facts, (a, b), 0)
    gap, atoms = system.gap(a, b)
    if not gap:
        return True
    for left, right in facts.unsolved:
        known, _ = system.gap(left, right)
        if known and _multiple(gap, known):
            return True
    if not atoms and not facts.at_least:
        return False
    bounds = system.all_bounds(gap)
    return all(Signs(bounds, atoms).positive(p, strict=False) for p in (gap, poly.scaled(gap, (), -1)))


def _multiple(gap: Poly, known: Poly) -> bool:
    m, _ = poly.content(gap)
    return poly.divide(poly.scaled(gap, poly.inverse(m), 1), known) is not None


def _never_equal(a: Dim, b: Dim, facts: Facts) -> bool:
    """Is it certain that no admissible sizes make the sides equal?"""
    system = System.of(facts, (a, b), facts.minimum)
    gap, atoms = system.gap(a, b)
    if not gap:
        return False
    gap = _stripped(gap, system, frozenset(atoms))
    if len(gap) == 1 and () in gap:
        return True
    if not gap:
        return False
    if _indivisible(gap) or any(_too_small_rest(gap, n, system.lo(n)) for n in _names(gap) - atoms.keys()):
        return True
    if equal_sizes(a, b, facts, 4) is not None:
        return False
    bounds = system.all_bounds(gap)
    if any(Signs(bounds, atoms).positive(p) for p in (gap, poly.scaled(gap, (), -1))):
        return True
    roots = _roots(gap, frozenset(atoms), bounds)
    if roots is not None and not roots:
        return True
    if equal_sizes(a, b, facts) is not None:
        return False
    return any(_no_residue(gap, m) for m in MODULI) or _beyond(a, b, facts)


def _stripped(gap: Poly, system: System, atoms: frozenset[str]) -> Poly:
    """The polynomial without factors that are never 0: names from 1, differences of names."""
    while True:
        m = tuple((f, e) for f, e in poly.common(gap) if e > 0 and f not in atoms and system.lo(f) > 0)
        gap = poly.scaled(gap, poly.inverse(m), 1) if m else gap
        for factor in system.apart(gap) if len(gap) > 1 else ():
            quotient = poly.divide(gap, factor)
            if quotient is not None:
                gap = quotient
                break
        else:
            return poly.cleared(gap, {(): 1})[0] if gap else gap


def _indivisible(p: Poly, modulus: int = 0) -> bool:
    """Is the constant no multiple of what divides every other coefficient (and the modulus)?"""
    shared = gcd(modulus, *(int(c) for m, c in p.items() if m))
    return int(p.get((), 0)) % shared != 0 if shared else () in p


def _names(p: Poly) -> set[str]:
    return {f for m in p for f, _ in m}


def _too_small_rest(p: Poly, name: str, least: int) -> bool:
    """Does every term have the factor ``name`` but a constant that is too small to be a multiple of it?"""
    return all((not m) or any(f == name for f, _ in m) for m in p) and 0 < abs(int(p.get((), 0))) < least


def _roots(gap: Poly, atoms: frozenset[str], bounds: dict[str, tuple[int, int | None]]) -> list[int] | None:
    """The integer roots within bounds of a polynomial in one name; None for any other polynomial."""
    names = {f for m in gap for f, _ in m}
    constant = abs(int(gap.get((), 0)))
    if len(names) != 1 or names & atoms or not 0 < constant <= MAX_CONSTANT:
        return None
    (name,) = names
    lo, hi = bounds[name]
    small = [d for d in range(1, int(constant**0.5) + 2) if constant % d == 0]
    near = sorted({x * sign for d in small for x in (d, constant // d) for sign in (1, -1)})
    terms = [(m[0][1] if m else 0, int(c)) for m, c in gap.items()]
    return [x for x in near if x >= lo and (hi is None or x <= hi) and not sum(c * x**e for e, c in terms)]


def _no_residue(p: Poly, modulus: int) -> bool:
    """Is the polynomial non-zero modulo a number, whatever its names and atoms are? False where that is too costly."""
    names = sorted({f for m in p for f, _ in m})
    if modulus ** len(names) > MAX_RESIDUES:
        return False
    terms = [([(names.index(f), e) for f, e in m], int(c)) for m, c in p.items()]
    for values in combinations(range(modulus), repeat=len(names)):
        total = 0
        for factors, c in terms:
            for at, e in factors:
                c *= values[at] ** e
            total += c
        if total % modulus == 0:
            return False
    return True


def _beyond(a: Dim, b: Dim, facts: Facts) -> bool:
    """For one name: none of its small values fits, and beyond those the sides keep apart."""
    names = a.names() | b.names()
    if len(names) != 1 or not facts.empty:
        return False
    (name,) = names
    left, right = a.evaluator(signed=True), b.evaluator(signed=True)
    edge = facts.minimum + 40
    for x in range(facts.minimum, edge):
        try:
            if left({name: x}) == right({name: x}):
                return False
        except ShapeError:
            continue
    raw, atoms = difference(canonical(a), canonical(b))
    bounds = {name: (edge, None)}
    return any(Signs(bounds, atoms).positive(p) for p in (raw, poly.scaled(raw, (), -1)))


@lru_cache(maxsize=_CACHED)
def _judge_ge(a: Dim, b: Dim, facts: Facts) -> Verdict:
    try:
        if _positive(System.of(facts, (a, b), 0), a, b, strict=False):
            return Verdict.PROVED
        if _positive(System.of(facts, (a, b), facts.minimum), b, a, strict=True):
            return Verdict.REFUTED
    except ShapeError as error:
        return Verdict.REFUTED if error.code == "TSR0106" else Verdict.GUARDED
    return Verdict.GUARDED


def _positive(system: System, a: Dim, b: Dim, strict: bool) -> bool:
    """Is a > b (or >=) for all sizes of the system?"""
    left, right = system.reduce(a), system.reduce(b)
    if _above(left, right, system, strict):
        return True
    if not left.atoms and not right.atoms:
        return False
    return any(_above_apart(left, right, system, name, strict) for name in sorted(left.names() | right.names())[:3])


def _above(left: Dim, right: Dim, system: System, strict: bool) -> bool:
    gap = poly.accumulate(dict(left.terms), right.terms, -1)
    return Signs(system.all_bounds(gap), {**left.atoms, **right.atoms}).positive(gap, strict)


def _above_apart(left: Dim, right: Dim, system: System, name: str, strict: bool) -> bool:
    """The same, with the least values of one name put in by themselves: rounding matters most there."""
    least, hi = system.bounds.get(name, (system.low, None))
    beyond = replace(system, bounds={**system.bounds, name: (least + SMALLEST, hi)})
    if not _above(left, right, beyond, strict):
        return False
    try:
        pinned = [(left.substitute({name: x}), right.substitute({name: x})) for x in range(least, least + SMALLEST)]
    except ShapeError:
        return False
    return all(_above(low, high, system, strict) for low, high in pinned)


@lru_cache(maxsize=_CACHED)
def _judge_divides(den: Dim, num: Dim, facts: Facts) -> Verdict:
    try:
        system = System.of(facts, (den, num), 0)
        low, high = system.reduce(den), system.reduce(num)
        if _is_multiple(high, low):
            return Verdict.PROVED
        for n, d in facts.divides:
            if _is_multiple(high, system.reduce(n)) and _is_multiple(system.reduce(d), low):
                return Verdict.PROVED
        system = System.of(facts, (den, num), facts.minimum)
        if _never_divides(system, system.reduce(den), system.reduce(num)):
            return Verdict.REFUTED
    except ShapeError as error:
        return Verdict.REFUTED if error.code == "TSR0106" else Verdict.GUARDED
    return Verdict.GUARDED


def _is_multiple(num: Dim, den: Dim) -> bool:
    """Is num = q·den with a polynomial q over the integers?"""
    n, d = dict(num.terms), dict(den.terms)
    if not n or not d:
        return not n
    if len(d) == 1:
        ((m, c),) = d.items()
        return not poly.split_by(n, m, c)[1]
    n, d, m, c = poly.cleared(n, d)
    quotient = poly.divide(n, d)
    return quotient is not None and all(x.denominator == 1 for x in quotient.values())


def _never_divides(system: System, den: Dim, num: Dim) -> bool:
    if not num.terms or not den.terms:
        return not den.terms and _positive(system, num, ZERO, strict=True)
    atoms = {**den.atoms, **num.atoms}
    n, d, m, _ = poly.cleared(dict(num.terms), dict(den.terms))
    if any(f in atoms or system.lo(f) < 1 for f, _ in m):
        return False
    if len(d) == 1:
        ((k, c),) = d.items()
        n = poly.split_by(n, k, c)[1]
    if not n:
        return False
    factor = int(poly.content(d)[1])
    if factor > 1 and (_indivisible(n, factor) or _no_residue(n, factor)):
        return True
    bounds = system.all_bounds(n | d)

    def above(p: Poly) -> bool:
        return Signs(bounds, atoms).positive(p)

    for sign in (1, -1):
        rest = poly.scaled(n, (), sign)
        if above(rest) and above(poly.accumulate(dict(d), rest.items(), -1)):
            return True
    return False
