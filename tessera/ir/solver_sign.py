"""Signs of polynomials over bounded whole numbers: how ``>`` and ``>=`` are proved.

Every name is written as its least value plus something that is not negative; a polynomial whose coefficients are then
all non-negative is non-negative itself. Atoms are replaced by linear bounds first. A search over the ways of doing so
is cut off by a budget: False means "not proved".
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import product as combinations
from math import comb

from tessera.ir import dim_poly as poly
from tessera.ir.dim import Atom
from tessera.ir.dim_form import is_positive
from tessera.ir.dim_poly import Monomial, Poly

#: Least and greatest value of a name; None for no upper bound.
Bounds = Mapping[str, tuple[int, int | None]]
STEPS = 60
MAX_EXPONENT = 8


@dataclass
class Signs:
    """Proves signs for one set of bounds and atoms; ``steps`` is the budget left, shared by all subproblems."""

    bounds: Bounds
    atoms: Mapping[str, Atom]
    steps: list[int] = field(default_factory=lambda: [STEPS])
    loose: dict[str, tuple[int, int | None]] = field(default_factory=dict)

    def positive(self, p: Poly, strict: bool = True) -> bool:
        """Is p > 0 (or >= 0 where not ``strict``) for all values within the bounds? Denominators count as positive."""
        self.steps[0] -= 1
        if self.steps[0] < 0:
            return False
        shared = tuple((f, e) for f, e in poly.common(p) if f not in self.atoms) if p else ()
        drop = tuple((f, e) for f, e in shared if self._lo(f) > 0 or (self._lo(f) == 0 and (e < 0 or not strict)))
        p = poly.scaled(p, poly.inverse(drop), 1) if drop else p
        if not p:
            return not strict
        zeros = {f: (1, self._hi(f)) for f, e in drop if e > 0 and self._lo(f) < 1}
        if zeros:  # where such a name is 0, so is p, and >= 0 holds
            return Signs({**self.bounds, **zeros}, self.atoms, self.steps, self.loose).positive(p, strict)
        if all(c < 0 for c in p.values()) and self._plain(p):
            return False
        found = self._outermost(p)
        return self._eliminated(p, found, strict) if found else self._shifted(p, strict)

    def _plain(self, p: Poly) -> bool:
        return not any(f in self.atoms for m in p for f, _ in m)

    def _lo(self, name: str) -> int:
        return self.bounds.get(name, (0, None))[0]

    def _hi(self, name: str) -> int | None:
        return self.bounds.get(name, (0, None))[1]

    def _outermost(self, p: Poly) -> str | None:
        present = {f for m in p for f, _ in m if f in self.atoms and f not in self.loose}
        return max(present, key=lambda f: (self.atoms[f].depth, f), default=None)

    def _eliminated(self, p: Poly, text: str, strict: bool) -> bool:
        atom = self.atoms[text]
        self.atoms = {**self.atoms, **{k: v for arg in atom.args for k, v in arg.atoms.items()}}
        powers = {e for m in p for f, e in m if f == text}
        if min(powers) < 0:
            return False
        if atom.kind in ("min", "max"):
            return self._cases(p, text, atom, strict)
        if powers == {1}:
            slope = {tuple(x for x in m if x[0] != text): c for m, c in p.items() if (text, 1) in m}
            rest = {m: c for m, c in p.items() if (text, 1) not in m}
            if atom.kind == "/":
                return self._cleared(slope, rest, atom, strict)
            for rising in (True, False):
                signed = slope if rising else poly.scaled(slope, (), -1)
                if not self.positive(signed, strict=False):
                    continue
                for bound in self._linear(atom, lower=rising):
                    replaced = poly.accumulate(dict(rest), poly.multiply(slope, bound).items())
                    if self.positive(replaced, strict):
                        return True
                return False
        return self._as_name(p, text, atom, strict)

    def _cases(self, p: Poly, text: str, atom: Atom, strict: bool) -> bool:
        """min and max are one of their operands: p must be positive with each, or with one where p falls or rises."""
        forms = [replaced(p, text, dict(arg.terms)) for arg in atom.args]
        if None in forms:
            return False
        if all(self.positive(form, strict) for form in forms if form is not None):
            return True
        slope = {tuple(x for x in m if x[0] != text): c for m, c in p.items() if (text, 1) in m}
        if any(e != 1 for m in p for f, e in m if f == text):
            return False
        wanted = poly.scaled(slope, (), -1) if atom.kind == "min" else slope
        if not self.positive(wanted, strict=False):
            return False
        return any(self.positive(form, strict) for form in forms if form is not None)

    def _cleared(self, slope: Poly, rest: Poly, atom: Atom, strict: bool) -> bool:
        """An exact quotient n/d with d > 0: multiply by d."""
        num, den = (dict(arg.terms) for arg in atom.args)
        if not self.positive(den):
            return False
        return self.positive(poly.accumulate(poly.multiply(slope, num), poly.multiply(rest, den).items()), strict)

    def _as_name(self, p: Poly, text: str, atom: Atom, strict: bool) -> bool:
        """Forget what the atom is but for its sign."""
        if not all(self.positive(dict(arg.terms), strict=False) for arg in atom.args):
            return False
        self.loose[text] = (0, None)
        done = self.positive(p, strict)
        del self.loose[text]
        return done

    def _linear(self, atom: Atom, lower: bool) -> Iterator[Poly]:
        """Bounds of ``//`` and what is left of ``%`` and ``ceildiv``, from its operands."""
        num, den = atom.args
        if not is_positive(den):
            return
        ((m, c),) = den.terms
        back = (poly.inverse(m), Fraction(1) / c)
        exact = poly.scaled(dict(num.terms), *back)
        slack: Poly = {(): 1, back[0]: -back[1]} if m else {(): 1 - back[1]}
        slack = {k: poly.whole(x) for k, x in slack.items() if x}
        if atom.kind == "//":
            yield poly.accumulate(exact, slack.items(), -1) if lower else exact
        elif atom.kind == "ceildiv":
            yield exact if lower else poly.accumulate(exact, slack.items())
        if lower and self.positive(dict(num.terms), strict=False):
            yield {}

    def _shifted(self, p: Poly, strict: bool) -> bool:
        """The test without atoms: names as least value plus rest, or greatest value minus rest where there is one."""
        names = sorted({f for m in p for f, _ in m})
        if any(e > MAX_EXPONENT or e < 0 for m in p for _, e in m):
            return False
        ways = []
        for n in names:
            lo, hi = self.loose.get(n) or self.bounds.get(n) or (0, None)
            ways.append([(n, lo, 1)] if hi is None else [(n, lo, 1), (n, hi, -1)])
        for way in list(combinations(*ways))[:16]:
            q = p
            for name, at, direction in way:
                q = shifted(q, name, at, direction)
            if all(c > 0 for c in q.values()) and (not strict or () in q):
                return True
        return self._split(p, strict)

    def _split(self, p: Poly, strict: bool) -> bool:
        """One name at its least value, and above it, each by itself."""
        falling = sorted({f for m, c in p.items() if c < 0 for f, _ in m if f not in self.atoms})
        for name in falling:
            lo, hi = self.bounds.get(name, (0, None))
            if lo > 4 or (hi is not None and hi <= lo) or self.steps[0] < 2:
                continue
            if not self.positive(pinned(p, name, lo), strict):
                return False
            return Signs({**self.bounds, name: (lo + 1, hi)}, self.atoms, self.steps, self.loose).positive(p, strict)
        return False


def replaced(p: Poly, factor: str, value: Poly) -> Poly | None:
    """p with a factor replaced; None where it stands in a denominator or with a high exponent."""
    out: Poly = {}
    for m, c in p.items():
        exponent = next((e for f, e in m if f == factor), 0)
        if exponent < 0 or exponent > MAX_EXPONENT:
            return None
        part: Poly = {tuple(x for x in m if x[0] != factor): c}
        for _ in range(exponent):
            part = poly.multiply(part, value)
        poly.accumulate(out, part.items())
    return out


def pinned(p: Poly, name: str, value: int) -> Poly:
    """p at one value of a name that stands in no denominator."""
    out: Poly = {}
    for m, c in p.items():
        exponent = next((e for f, e in m if f == name), 0)
        poly.accumulate(
            out, [(tuple(x for x in m if x[0] != name), c * value**exponent)] if value or not exponent else []
        )
    return out


def shifted(p: Poly, name: str, at: int, direction: int) -> Poly:
    """p with ``name`` replaced by ``at + direction·name``."""
    if not at and direction == 1:
        return p
    out: Poly = {}
    for m, c in p.items():
        exponent = next((e for f, e in m if f == name), 0)
        others: Monomial = tuple(x for x in m if x[0] != name)
        for k in range(exponent + 1):
            factor = comb(exponent, k) * at ** (exponent - k) * direction**k
            if factor:
                poly.accumulate(out, [(poly.times(others, ((name, k),) if k else ()), c * factor)])
    return out
