"""What is known about sizes while judging: a least size, equalities, divisibilities, inequalities."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache

from tessera.diag import ShapeError
from tessera.ir import dim_poly as poly
from tessera.ir.dim import Atom, Dim, from_poly
from tessera.ir.dim_poly import Monomial, Poly

Pairs = tuple[tuple[Dim, Dim], ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """Assumptions about sizes. ``minimum`` is the least size over which an equality is refuted.

    >>> D, H = Dim.of("D"), Dim.of("H")
    >>> str(Facts().with_eq(D, 64 * H).normalise(D / H))
    '64'
    """

    minimum: int = 2
    divides: Pairs = ()
    equal: Pairs = ()
    at_least: Pairs = ()

    @property
    def empty(self) -> bool:
        """Is nothing known but the least size?"""
        return not (self.divides or self.equal or self.at_least)

    def with_divides(self, num: Dim, den: Dim) -> Facts:
        """Also ``den`` divides ``num``."""
        return replace(self, divides=_added(self.divides, (num, den)))

    def with_eq(self, a: Dim, b: Dim) -> Facts:
        """Also ``a == b``; of two names the second is replaced by the first from here on."""
        return self if a is b else replace(self, equal=_added(self.equal, (a, b)))

    def with_ge(self, a: Dim, b: Dim) -> Facts:
        """Also ``a >= b``."""
        return replace(self, at_least=_added(self.at_least, (a, b)))

    def normalise(self, d: Dim) -> Dim:
        """The dimension with known equalities put in; raises ShapeError (TSR0106) if they leave it no value."""
        return d.substitute(self.solved) if self.equal else d

    @property
    def solved(self) -> Mapping[str, Dim]:
        """Names that equalities give away, with what they stand for."""
        return _solve(self.equal)[0]

    @property
    def unsolved(self) -> Pairs:
        """Equalities that give no name away."""
        return _solve(self.equal)[1]


def _added(known: Pairs, pair: tuple[Dim, Dim]) -> Pairs:
    return known if pair in known else (*known, pair)


@lru_cache(maxsize=1024)
def _solve(equal: Pairs) -> tuple[Mapping[str, Dim], Pairs]:
    """Names eliminated one equality after the other, and the equalities that eliminate none."""
    solved: dict[str, Dim] = {}
    rest: list[tuple[Dim, Dim]] = []
    for pair in equal:
        try:
            a, b = (d.substitute(solved) for d in pair)
            found = solve_equality(a, b)
            if found is None:
                rest.append(pair)
                continue
            name, value = found
            updated = {n: d.substitute({name: value}) for n, d in solved.items()}
        except ShapeError:
            rest.append(pair)
            continue
        solved = {**updated, name: value}
    return solved, tuple(rest)


def solve_equality(a: Dim, b: Dim, positive: bool = False) -> tuple[str, Dim] | None:
    """A name and what it stands for if ``a == b``; None where no name can be freed or nothing is said.

    A plain side is taken first, then the name with the least coefficient. The coefficient is a number, or with
    ``positive`` (no size is 0) also a product of names.
    """
    if a is b:
        return None
    for side, other in ((b, a), (a, b)):
        if side.is_name and not side.names() & other.names():
            return str(side), other
    num, atoms = difference(a, b)
    inner = frozenset[str]().union(*(x.names() for atom in atoms.values() for x in atom.args))
    best: tuple[tuple[int, int, str], Monomial, int] | None = None
    for name in sorted({f for m in num for f, _ in m if f not in atoms and f not in inner}):
        terms = [(m, c) for m, c in num.items() if any(f == name for f, _ in m)]
        m, c = terms[0]
        over = tuple(x for x in m if x[0] != name)
        if len(terms) != 1 or (name, 1) not in m or any(not positive or f in atoms for f, _ in over):
            continue
        cost = (len(over), abs(int(c)), name)
        if best is None or cost < best[0]:
            best = cost, over, int(c)
    if best is None:
        return None
    (_, _, name), over, c = best
    rest = {m: k for m, k in num.items() if all(f != name for f, _ in m)}
    return name, from_poly(rest, atoms) / from_poly({over: -c}, {})


def difference(a: Dim, b: Dim) -> tuple[Poly, Mapping[str, Atom]]:
    """A polynomial with coprime integer coefficients that is 0 just where ``a == b``, and its atoms.

    "Just where" up to sizes of 0 for which a denominator of ``a`` or ``b`` vanishes and so they have no value.
    """
    gap = poly.accumulate(dict(a.terms), b.terms, -1)
    atoms: Mapping[str, Atom] = {**a.atoms, **b.atoms}
    for text, atom in list(atoms.items()):
        if atom.kind == "/":
            gap, atoms = _without_quotient(gap, atoms, text)
    return (poly.cleared(gap, {(): 1})[0] if gap else gap), atoms


def _without_quotient(p: Poly, atoms: Mapping[str, Atom], text: str) -> tuple[Poly, Mapping[str, Atom]]:
    """p times the denominator of an exact quotient that it holds linearly."""
    if any(f == text and e != 1 for m in p for f, e in m):
        return p, atoms
    num, den = atoms[text].args
    slope = {tuple(x for x in m if x[0] != text): c for m, c in p.items() if (text, 1) in m}
    rest = {m: c for m, c in p.items() if (text, 1) not in m}
    raised = poly.accumulate(poly.multiply(slope, dict(num.terms)), poly.multiply(rest, dict(den.terms)).items())
    return raised, {**num.atoms, **den.atoms, **{f: atom for f, atom in atoms.items() if f != text}}
