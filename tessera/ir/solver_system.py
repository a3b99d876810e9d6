"""Sizes under facts: names replaced until the facts hold by themselves, with bounds for what remains.

``2 divides D`` becomes ``D = 2·t``, ``S >= T`` becomes ``S = T + s``, an equality gives a name away. What the
replacement cannot express is dropped: the system then admits more sizes than the facts do, so "never" and "always"
concluded from it stay true.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from math import gcd

from tessera.ir import dim_poly as poly
from tessera.ir.dim import Atom, Dim
from tessera.ir.dim_poly import Poly
from tessera.ir.facts import Facts, difference, solve_equality
from tessera.ir.solver_canon import canonical

MAX_APART = 8


@dataclass
class System:
    """``reduce`` rewrites a form; ``bounds`` holds least and greatest values of the names that forms then have."""

    facts: Facts
    low: int
    bounds: dict[str, tuple[int, int | None]] = field(default_factory=dict)
    replaced: dict[str, Dim] = field(default_factory=dict)
    names: frozenset[str] = frozenset()
    used: set[str] = field(default_factory=set)

    @staticmethod
    def of(facts: Facts, dims: Sequence[Dim], low: int) -> System:
        """The system of the facts and of what ``dims`` need to have a value, for sizes from ``low``.

        Raises ShapeError (TSR0106) when no sizes satisfy them.
        """
        s = System(facts, low)
        s.used = set().union(*(d.names() for d in dims), *(d.names() for pair in _pairs(facts) for d in pair))
        s.names = frozenset(s.used)
        if low > 0:
            s._free_more()
        values = [*dims, *facts.solved.values()]
        for num, den in (*facts.divides, *(x for d in values for x in d.divisibility_obligations())):
            s._divides(s.reduce(num), s.reduce(den))
        for a, b in facts.at_least:
            s._at_least(s.reduce(a), s.reduce(b))
        for d in dims:
            s._below(d)
        return s

    def reduce(self, d: Dim) -> Dim:
        """The form with everything known put in, in the stronger normal form."""
        d = self.facts.normalise(d)
        return canonical(d.substitute(self.replaced) if self.replaced else d)

    def gap(self, a: Dim, b: Dim) -> tuple[Poly, Mapping[str, Atom]]:
        """``difference`` of the reduced forms."""
        return difference(self.reduce(a), self.reduce(b))

    def lo(self, name: str) -> int:
        return self.bounds.get(name, (self.low, None))[0]

    def all_bounds(self, p: Poly) -> dict[str, tuple[int, int | None]]:
        """Bounds of every name of p, those without facts included."""
        names = {f for m in p for f, _ in m}
        return {n: self.bounds.get(n, (self.low, None)) for n in names | self.used | set(self.bounds)}

    def apart(self, p: Poly) -> Iterator[Poly]:
        """Polynomials over names of p that cannot be 0: the differences of different names."""
        inside = {f for m in p for f, _ in m}
        free = [n for n in sorted(self.names) if n not in self.facts.solved]
        forms = [(self.replaced.get(n) or Dim.name(n)) for n in free]
        near = [d for d in forms if d.names() and d.names() <= inside][:MAX_APART]
        for i, a in enumerate(near):
            for b in near[:i]:
                gap, _ = difference(a, b)
                if any(gap):  # with a name in it: dividing by a number leads nowhere
                    yield gap

    def _free_more(self) -> None:
        """Equalities that give a name away only because no size is 0."""
        for a, b in self.facts.unsolved:
            found = solve_equality(self.reduce(a), self.reduce(b), positive=True)
            if found is not None and found[0] not in self.bounds:
                self._put(*found)

    def _fresh(self, stem: str) -> str:
        number = 0
        while (name := f"_{stem}{number}") in self.used:
            number += 1
        self.used.add(name)
        return name

    def _put(self, name: str, value: Dim) -> None:
        """Replace a name in everything; the caller has set the bounds of the names in ``value``."""
        self.replaced = {n: d.substitute({name: value}) for n, d in self.replaced.items()}
        self.replaced[name] = value
        self.bounds.pop(name, None)

    def _divides(self, num: Dim, den: Dim) -> None:
        """``den`` divides ``num``: num = u·x + k over a number, or x over a product of names."""
        if num.atoms or den.atoms or len(den.terms) != 1 or not num.terms:
            return
        n, d, shared, _ = poly.cleared(dict(num.terms), dict(den.terms))
        if any(e > 0 and self.lo(f) < 1 for f, e in shared):
            return  # where such a size is 0, 0 divides 0 and nothing is said of the rest
        ((m, c),) = d.items()
        if not m:
            self._congruent(n, int(c))
        elif len(n) == 1:
            ((k, u),) = n.items()
            if u == 1 and len(k) == 1 and k[0][1] == 1 and c == 1 and k[0][0] not in self.bounds:
                t = self._fresh("t")
                self.bounds[t] = (1 if self.low > 0 else 0, None)
                self._put(k[0][0], product_dim(m) * Dim.name(t))

    def _congruent(self, n: Poly, c: int) -> None:
        """n = u·x + k is a multiple of c: x = r + c·t."""
        c = abs(c)
        linear = [(m, u) for m, u in n.items() if m]
        if c == 1 or len(linear) != 1:
            return
        ((m, u),) = linear
        if len(m) != 1 or m[0][1] != 1 or u.denominator != 1:
            return
        k = n.get((), 0)
        if gcd(int(u), c) != 1 or k.denominator != 1:
            return
        name = m[0][0]
        r = -int(k) * pow(int(u), -1, c) % c
        lo, hi = self.bounds.get(name, (self.low, None))
        t = self._fresh("t")
        self.bounds[t] = (-((r - lo) // c), None if hi is None else (hi - r) // c)
        self._put(name, Dim.name(t) * c + r)

    def _at_least(self, a: Dim, b: Dim) -> None:
        """a >= b: a name with coefficient 1 on the greater side is the rest plus something."""
        gap, atoms = difference(a, b)
        if atoms or not gap or any(e < 0 for m in gap for _, e in m):
            return
        if len(gap) == 2 and () in gap and self._bounded(gap):
            return
        for m, c in gap.items():
            if c != 1 or len(m) != 1 or m[0][1] != 1:
                continue
            name = m[0][0]
            if name in self.bounds or sum(name in dict(k) for k in gap) != 1:
                continue
            s = self._fresh("s")
            self.bounds[s] = (0, None)
            self._put(name, Dim.name(name) - (a - b) + Dim.name(s))
            return

    def _bounded(self, gap: Poly) -> bool:
        """A lower or upper bound of one name: ``c·x + k >= 0``."""
        ((m, c),) = ((m, c) for m, c in gap.items() if m)
        if len(m) != 1 or m[0][1] != 1:
            return False
        k, name = int(gap[()]), m[0][0]
        lo, hi = self.bounds.get(name, (self.low, None))
        if c > 0:
            lo = max(lo, -(k // int(c)))
        else:
            most = k // -int(c)
            hi = most if hi is None else min(hi, most)
        self.bounds[name] = (lo, hi)
        return True

    def _below(self, d: Dim) -> None:
        """Names in denominators are not 0 where the form has a value."""
        pending = [d]
        while pending:
            form = pending.pop()
            for n in {f for m, _ in form.terms for f, e in m if e < 0 and f not in form.atoms}:
                self._nonzero(n)
            for atom in form.atoms.values():
                pending += atom.args
                if atom.kind not in ("min", "max") and len(atom.args[1].terms) == 1:
                    for f, _ in atom.args[1].terms[0][0]:
                        self._nonzero(f)

    def _nonzero(self, name: str) -> None:
        value = self.replaced.get(name) or self.facts.solved.get(name) or Dim.name(name)
        if len(value.terms) != 1:
            return
        for f, e in value.terms[0][0]:
            lo, hi = self.bounds.get(f, (self.low, None))
            if e > 0 and lo < 1 and f not in value.atoms:
                self.bounds[f] = (1, hi)


def product_dim(m: poly.Monomial) -> Dim:
    """The Dim of a monomial over names."""
    out = Dim.const(1)
    for f, e in m:
        out = out * Dim.name(f) ** e
    return out


def _pairs(facts: Facts) -> Iterator[tuple[Dim, Dim]]:
    yield from facts.divides
    yield from facts.equal
    yield from facts.at_least
