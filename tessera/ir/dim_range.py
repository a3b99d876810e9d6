"""Index expressions: Dims over axis names with known ranges, simplified, taken apart, bounded.

An axis that is walked has at least one point, so the sizes that end ranges are at least 1 here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from math import gcd

from tessera.ir import dim_poly as poly
from tessera.ir.dim import ONE, ZERO, Atom, Dim, build_atom, dim_max, dim_min, from_poly
from tessera.ir.dim_form import is_positive, never_negative
from tessera.ir.dim_limits import CACHED
from tessera.ir.dim_poly import Monomial, Poly
from tessera.ir.solver_sign import Signs

ROUNDS = 8


#: Where each axis walks: from the first, up to and without the second. A range may use axes, but not in a circle.
Ranges = Mapping[str, tuple[Dim, Dim]]


def simplify_index(e: Dim, ranges: Ranges) -> Dim:
    """``e`` with ``//``, ``%``, ``min`` and ``max`` resolved where the ranges of its axes allow it.

    >>> i, j, D, N = (Dim.of(x) for x in ("i", "j", "D", "N"))
    >>> ranges = {"i": (Dim.of(0), N), "j": (Dim.of(0), D)}
    >>> str(simplify_index((i * D + j) // D, ranges)), str(simplify_index((i * D + j) % D, ranges))
    ('i', 'j')
    """
    return _simplified(e, tuple(ranges.items())) if e.atoms else e


@lru_cache(maxsize=CACHED)
def _simplified(e: Dim, ranges: tuple[tuple[str, tuple[Dim, Dim]], ...]) -> Dim:
    return _Simplifier(dict(ranges)).form(e)


def coefficient(e: Dim, axis: str) -> Dim | None:
    """The stride of ``e`` along ``axis``: 0 where absent, None where ``e`` is not affine in it.

    >>> str(coefficient(2 * Dim.of("i") * Dim.of("S") + 1, "i"))
    '2*S'
    """
    if any(axis in arg.names() for atom in e.atoms.values() for arg in atom.args):
        return None
    slope: Poly = {}
    for m, c in e.terms:
        for f, exponent in m:
            if f == axis:
                if exponent != 1:
                    return None
                slope[tuple(x for x in m if x[0] != axis)] = c
    return from_poly(slope, e.atoms)


def bounds(e: Dim, ranges: Ranges) -> tuple[Dim | None, Dim | None]:
    """Bounds of ``e`` over the ranges, without axes and both inclusive; None where none is provable.

    They are attained for sums whose axes are independent, and otherwise hold without being the closest.

    >>> i, S = Dim.of("i"), Dim.of("S")
    >>> [str(x) for x in bounds(2 * i + 1, {"i": (Dim.of(0), S)})]
    ['1', '2*S - 1']
    """
    return _bounded(e, tuple(ranges.items())) if not e.is_const else (e, e)


@lru_cache(maxsize=CACHED)
def _bounded(e: Dim, ranges: tuple[tuple[str, tuple[Dim, Dim]], ...]) -> tuple[Dim | None, Dim | None]:
    at = _Simplifier(dict(ranges))
    return at.bound(e, least=True), at.bound(e, least=False)


class _Simplifier:
    """The rules, for one set of ranges."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges
        self.known: dict[str, tuple[int, int | None]] = {}
        self.signless = frozenset(
            axis for axis, (lo, _) in ranges.items() if not lo.is_const and not never_negative(lo)
        )
        for axis, (lo, hi) in ranges.items():
            self.known[axis] = (lo.value if lo.is_const else 0, None)
            if is_positive(hi) and lo.is_const and lo.value >= 0:
                for f, _ in hi.terms[0][0]:
                    self.known.setdefault(f, (1, None))

    # signs and bounds

    def not_negative(self, e: Dim) -> bool:
        """Is e >= 0, for every size and point?"""
        if e.is_const:
            return e.value >= 0
        low = self.bound(e, least=True)
        if low is None:
            return False
        return low.value >= 0 if low.is_const else self._sign(low)

    def _sign(self, e: Dim) -> bool:
        return self.signless.isdisjoint(e.names()) and Signs(self.known, e.atoms).positive(dict(e.terms), strict=False)

    def bound(self, e: Dim, least: bool) -> Dim | None:
        """The least or greatest value, without axes; None where it is not provable."""
        found: Dim | None = e
        for _ in range(4 * len(self.ranges) + 1):
            if found is None:
                return None
            present = [n for n in self.ranges if n in found.names()]
            if not present:
                return found
            inner = frozenset[str]().union(*(a.names() for x in found.atoms.values() for a in x.args))
            if not inner.isdisjoint(present):
                found = self._without_atoms(found, frozenset(present), least)
                continue
            # One whose range mentions others goes first: they are bounded after it.
            free = [n for n in present if not any(n in self._mentioned(o) for o in present)]
            ends = (self._at_end(found, axis, least) for axis in reversed(free or present))
            found = next((end for end in ends if end is not None), None)
        return None

    def _mentioned(self, axis: str) -> frozenset[str]:
        lo, hi = self.ranges[axis]
        return lo.names() | hi.names()

    def _at_end(self, e: Dim, axis: str, least: bool) -> Dim | None:
        step = coefficient(e, axis)
        if step is None:
            return None
        lo, hi = self.ranges[axis]
        if self._step_sign(step):
            return e.substitute({axis: lo if least else hi - 1})
        if self._step_sign(-step):
            return e.substitute({axis: hi - 1 if least else lo})
        return None

    def _step_sign(self, step: Dim) -> bool:
        return step.value >= 0 if step.is_const else self._sign(step)

    def _without_atoms(self, e: Dim, axes: frozenset[str], least: bool) -> Dim | None:
        """Atoms that hold axes, replaced by their bounds."""
        kept: Poly = {}
        total = ZERO
        for m, c in e.terms:
            held = [(f, x) for f, x in m if f in e.atoms and not _names(e.atoms[f]).isdisjoint(axes)]
            if not held:
                kept[m] = c
                continue
            factor = from_poly({tuple(x for x in m if x not in held): c}, e.atoms)
            if len(held) != 1 or held[0][1] != 1 or not factor.names().isdisjoint(axes):
                return None
            rising = self._step_sign(factor)
            if not rising and not self._step_sign(-factor):
                return None
            end = self._atom_bound(e.atoms[held[0][0]], axes, least == rising)
            if end is None:
                return None
            total = total + factor * end
        return total + from_poly(kept, e.atoms)

    def _atom_bound(self, atom: Atom, axes: frozenset[str], least: bool) -> Dim | None:
        if atom.kind in ("min", "max"):
            ends = [self.bound(a, least) for a in atom.args]
            known = [x for x in ends if x is not None]
            if len(known) == len(ends):
                return build_atom(atom.kind, known)
            # Of a minimum any operand's greatest value will do, of a maximum any least one.
            return known[0] if known and (atom.kind == "max") == least else None
        num, den = atom.args
        if atom.kind == "/" or not is_positive(den) or not den.names().isdisjoint(axes):
            return None
        if atom.kind == "%":
            return ZERO if least else den - 1
        end = self.bound(num, least)
        return None if end is None else build_atom(atom.kind, (end, den))

    # rewriting

    def form(self, e: Dim) -> Dim:
        """The whole expression, from the innermost atoms outwards. Depth is bounded by the limits on Dims."""
        if not e.atoms:
            return e
        fresh = {text: self.atom(atom) for text, atom in e.atoms.items()}
        if any(str(d) != text for text, d in fresh.items()):
            e = rebuilt(e, fresh)
        return self._recombined(e)

    def atom(self, atom: Atom) -> Dim:
        args = [self.form(a) for a in atom.args]
        if atom.kind == "//":
            return self.quotient(args[0], args[1])
        if atom.kind == "%":
            return self.remainder(args[0], args[1])
        if atom.kind in ("min", "max"):
            return self._extreme(atom.kind, args)
        return build_atom(atom.kind, args)

    def _extreme(self, kind: str, args: list[Dim]) -> Dim:
        left = list(args)
        for a in args:
            others = [b for b in left if b is not a]
            # a goes where another operand is always at least as extreme.
            if any(self.not_negative(a - b if kind == "min" else b - a) for b in others):
                left.remove(a)
        return dim_min(*left) if kind == "min" else dim_max(*left)

    def quotient(self, num: Dim, den: Dim) -> Dim:
        """``num // den`` for points within the ranges."""
        found = self._split(num, den)
        if found is None:
            return build_atom("//", (num, den))
        q, r, unit, rest = found
        if r is ZERO:
            return q
        if unit is not ONE:
            return q + self.quotient(rest, den / unit)
        inner = _only_atom(r)
        if inner is not None and inner.kind == "%" and _is_multiple(inner.args[1], den):
            return q + self.remainder(self.quotient(inner.args[0], den), inner.args[1] / den)
        return q + build_atom("//", (r, den))

    def remainder(self, num: Dim, den: Dim) -> Dim:
        """``num % den`` for points within the ranges."""
        num = self._unwrapped(num, den)
        found = self._split(num, den)
        if found is None:
            return build_atom("%", (num, den))
        q, r, unit, rest = found
        if r is ZERO:
            return num - q * den
        if unit is not ONE:
            return (r - unit * rest) + unit * self.remainder(rest, den / unit)
        return build_atom("%", (r, den))

    def _unwrapped(self, num: Dim, den: Dim) -> Dim:
        """Drop ``% m`` inside where m is a multiple of ``den``."""
        inside = {
            text: atom.args[0]
            for text, atom in num.atoms.items()
            if atom.kind == "%" and _is_multiple(atom.args[1], den)
        }
        plain = all(
            c.denominator == 1 and all(x > 0 for _, x in m) and sum(f in inside for f, _ in m) <= 1
            for m, c in num.terms
        )
        return rebuilt(num, inside) if inside and plain else num

    def _split(self, num: Dim, den: Dim) -> tuple[Dim, Dim, Dim, Dim] | None:
        """(q, r, unit, rest) with num = q·den + r, r = 0 where what is left lies in [0, den).

        ``unit`` divides den with r = unit·rest + (something in [0, unit)); it is 1 where there is no such divisor.
        None where nothing is known of the sign of ``den``.
        """
        if not is_positive(den) or any(c.denominator != 1 or not poly.is_integral(m) for m, c in num.terms):
            return None
        ((m, c),) = den.terms
        q, r = _parts(num, m, int(c))
        if r is ZERO or self._within(r, den):
            return q, ZERO, ONE, ZERO
        if self._within(r + den, den):
            return q - 1, ZERO, ONE, ZERO
        for k, x in r.terms:
            shared = _shared(k, m)
            unit = from_poly({shared: gcd(int(x), int(c))}, {})
            if unit is ONE or unit is den:
                continue
            rest, small = _parts(r, shared, unit.terms[0][1].numerator)
            if small is ZERO or self._within(small, unit):
                return q, r, unit, rest
        return q, r, ONE, ZERO

    def _within(self, e: Dim, end: Dim) -> bool:
        return self.not_negative(e) and self.not_negative(end - 1 - e)

    def _recombined(self, e: Dim) -> Dim:
        """``den·(num // den) + num % den`` is ``num``."""
        for _ in range(ROUNDS):
            for candidate in self._joins(e):
                if _size(candidate) < _size(e):
                    e = candidate
                    break
            else:
                return e
        return e

    def _joins(self, e: Dim) -> Iterator[Dim]:
        for m, c in e.terms:
            for f, exponent in m:
                atom = e.atoms.get(f)
                if atom is None or atom.kind != "%" or exponent != 1 or c.denominator != 1:
                    continue
                num, den = atom.args
                scale = from_poly({tuple(x for x in m if x[0] != f): c}, e.atoms)
                whole = num - den * self.quotient(num, den)
                yield e + scale * (whole - from_poly({((f, 1),): 1}, e.atoms))


def _size(e: Dim) -> tuple[int, int]:
    return sum(atom.depth for atom in e.atoms.values()), len(e.terms)


def _names(atom: Atom) -> frozenset[str]:
    return frozenset[str]().union(*(a.names() for a in atom.args))


def _only_atom(e: Dim) -> Atom | None:
    return e.atoms.get(str(e))


def _is_multiple(num: Dim, den: Dim) -> bool:
    if len(den.terms) != 1 or not num.terms:
        return False
    m, c = den.terms[0]
    return not poly.split_by(dict(num.terms), m, c)[1]


def _parts(num: Dim, m: Monomial, c: int) -> tuple[Dim, Dim]:
    """(q, r) with num = q·c·m + r."""
    quotient, rest = poly.split_by(dict(num.terms), m, c)
    return from_poly(quotient, num.atoms), from_poly(rest, num.atoms)


def _shared(a: Monomial, b: Monomial) -> Monomial:
    """The greatest common divisor of two monomials without negative exponents."""
    other = dict(b)
    return tuple((f, min(e, other[f])) for f, e in a if f in other)


def rebuilt(e: Dim, atoms: Mapping[str, Dim]) -> Dim:
    """The form with some of its atoms replaced."""
    num, den, _, _ = poly.cleared(dict(e.terms), {(): 1})
    return _woven(num, e, atoms) / _woven(den, e, atoms)


def _woven(p: Poly, e: Dim, atoms: Mapping[str, Dim]) -> Dim:
    total = ZERO
    for m, c in p.items():
        part = from_poly({tuple(x for x in m if x[0] not in atoms): c}, e.atoms)
        for f, exponent in m:
            if f in atoms:
                part = part * atoms[f] ** exponent
        total = total + part
    return total
