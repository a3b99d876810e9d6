"""Polynomial arithmetic under dimensions: plain dicts from monomials to rational coefficients.

A monomial is a sorted tuple of (factor, exponent). A factor is a string: a name, or the text of an atom such
as ``ceildiv(D, 2)``, which stands for the atom itself. Negative exponents hold exact division by a product.
Strings and tuples keep hashing and comparing inside the interpreter's C code.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from fractions import Fraction
from math import gcd, lcm

Monomial = tuple[tuple[str, int], ...]
Coefficient = int | Fraction
Poly = dict[Monomial, Coefficient]

#: Exact division by a sum gives up beyond this many term products.
DIVISION_STEPS = 20_000


def whole(c: Coefficient) -> Coefficient:
    """The coefficient as an int where it is one."""
    return c.numerator if c.denominator == 1 else c


def times(a: Monomial, b: Monomial) -> Monomial:
    """The product of two monomials.

    >>> times((("D", 1),), (("B", 1), ("D", -1)))
    (('B', 1),)
    """
    if not a:
        return b
    if not b:
        return a
    powers = dict(a)
    for factor, exponent in b:
        exponent += powers.get(factor, 0)
        if exponent:
            powers[factor] = exponent
        else:
            del powers[factor]
    return tuple(sorted(powers.items()))


def inverse(m: Monomial) -> Monomial:
    """The monomial with every exponent negated."""
    return tuple((factor, -exponent) for factor, exponent in m)


def power(m: Monomial, exponent: int) -> Monomial:
    """The monomial raised to a non-zero exponent."""
    return tuple((factor, e * exponent) for factor, e in m)


def is_integral(m: Monomial) -> bool:
    """Has the monomial no negative exponent?"""
    return all(e > 0 for _, e in m)


def accumulate(into: Poly, terms: Iterable[tuple[Monomial, Coefficient]], scale: Coefficient = 1) -> Poly:
    """Add ``scale`` times the terms to ``into``, in place; zero coefficients disappear."""
    for m, c in terms:
        total = into.get(m, 0) + c * scale
        if total:
            into[m] = whole(total)
        else:
            into.pop(m, None)
    return into


def multiply(a: Mapping[Monomial, Coefficient], b: Mapping[Monomial, Coefficient]) -> Poly:
    """The product of two polynomials."""
    out: Poly = {}
    for m, c in a.items():
        accumulate(out, [(times(m, k), d) for k, d in b.items()], c)
    return out


def scaled(p: Mapping[Monomial, Coefficient], m: Monomial, c: Coefficient) -> Poly:
    """The polynomial times one term."""
    return {times(k, m): whole(d * c) for k, d in p.items()}


def content(p: Mapping[Monomial, Coefficient]) -> tuple[Monomial, Coefficient]:
    """The term (monomial, positive coefficient) to divide by: what is left are coprime integers over 1.

    >>> content({(("D", 1), ("H", -1)): 4, (("D", 1),): 6})
    ((('D', 1), ('H', -1)), 2)
    """
    numerator, denominator = 0, 1
    for c in p.values():
        numerator = gcd(numerator, c.numerator)
        denominator = lcm(denominator, c.denominator)
    return common(p), whole(Fraction(numerator or 1, denominator))


def common(monomials: Iterable[Monomial]) -> Monomial:
    """The greatest common monomial; a factor that some monomial lacks counts there with exponent 0."""
    least: dict[str, int] | None = None
    for m in monomials:
        powers = dict(m)
        if least is None:
            least = powers
            continue
        for factor, e in powers.items():
            if factor not in least and e < 0:
                least[factor] = e
        for factor, e in list(least.items()):
            least[factor] = min(e, powers.get(factor, 0))
    return tuple(sorted((f, e) for f, e in (least or {}).items() if e))


def cleared(a: Poly, b: Poly) -> tuple[Poly, Poly, Monomial, Coefficient]:
    """(n, d, m, c) with a = c·m·n and b = c·m·d, n and d with coprime integer coefficients over 1."""
    m_a, c_a = content(a)
    m_b, c_b = content(b)
    m = common((m_a, m_b))
    c = whole(Fraction(gcd(c_a.numerator * c_b.denominator, c_b.numerator * c_a.denominator),
                       c_a.denominator * c_b.denominator))  # fmt: skip
    if c == 1 and not m:
        return a, b, m, c
    back, factor = inverse(m), 1 / Fraction(c)
    return scaled(a, back, factor), scaled(b, back, factor), m, c


def divide(num: Poly, den: Poly) -> Poly | None:
    """The exact quotient of polynomials without negative exponents, or None when there is none.

    Long division by leading terms in graded order; a remainder cannot vanish later, so the first one ends it.
    """
    variables = sorted({f for p in (num, den) for m in p for f, _ in m})
    place = {f: i for i, f in enumerate(variables)}

    def vector(m: Monomial) -> tuple[int, ...]:
        out = [0] * (len(variables) + 1)
        for f, e in m:
            out[place[f] + 1] = e
            out[0] += e
        return tuple(out)

    rest = {vector(m): Fraction(c) for m, c in num.items()}
    parts = {vector(m): Fraction(c) for m, c in den.items()}
    lead = max(parts)
    quotient: Poly = {}
    for _ in range(DIVISION_STEPS // len(parts) + 1):
        if not rest:
            return quotient
        top = max(rest)
        step = tuple(x - y for x, y in zip(top, lead, strict=True))
        if min(step) < 0:
            return None
        c = rest[top] / parts[lead]
        quotient[tuple((f, e) for f, e in zip(variables, step[1:], strict=True) if e)] = whole(c)
        for v, d in parts.items():
            at = tuple(x + y for x, y in zip(v, step, strict=True))
            left = rest.get(at, Fraction(0)) - c * d
            if left:
                rest[at] = left
            else:
                rest.pop(at, None)
    return None


def split_by(num: Poly, m: Monomial, c: Coefficient) -> tuple[Poly, Poly]:
    """(q, r) with num = q·c·m + r, where q takes the terms that c·m divides exactly.

    A constant is reduced too when c·m is a number, towards zero.
    """
    quotient: Poly = {}
    rest: Poly = {}
    for k, d in num.items():
        step = times(k, inverse(m)) if m else k
        part = Fraction(d) / c
        if is_integral(step) and part.denominator == 1:
            quotient[step] = part.numerator
        elif not k and not m:
            steps = int(part)
            if steps:
                quotient[k] = steps
            rest[k] = whole(d - steps * c)
        else:
            rest[k] = d
    return quotient, rest
