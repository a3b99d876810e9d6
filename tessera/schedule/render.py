"""Dimensions as text of the languages that backends write."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from fractions import Fraction
from math import lcm

from tessera.ir.dim import Dim


def render_index(e: Dim, name: Callable[[str], str], functions: Mapping[str, str], divide: str = "/") -> str:
    """``e`` as an arithmetic expression. ``functions`` spells the atoms ``// % ceildiv min max``; ``divide`` is
    exact division.

    Sums come out flat and parenthesised where they are factors; exponents become repeated factors.

    >>> render_index(Dim.name("B") * 2 + 1, str.lower, {})
    '2 * b + 1'
    """

    def factor(text: str) -> str:
        atom = e.atoms.get(text)
        if atom is None:
            return name(text)
        args = [render_index(a, name, functions, divide) for a in atom.args]
        if atom.kind == "/":
            return f"(({args[0]}) {divide} ({args[1]}))"
        call, text = functions[atom.kind], args[0]
        for other in args[1:]:  # min and max take any number here, two in the languages written
            text = f"{call}({text}, {other})"
        return text

    scale = lcm(*(Fraction(c).denominator for _, c in e.terms)) if e.terms else 1
    under: dict[str, int] = {}
    for monomial, _ in e.terms:
        for base, power in monomial:
            under[base] = max(under.get(base, 0), -power)
    parts: list[str] = []
    for monomial, c in e.terms:
        powers = dict(monomial)
        factors = [factor(b) for b in (*powers, *(u for u in under if u not in powers))
                   for _ in range(powers.get(b, 0) + under.get(b, 0))]  # fmt: skip
        number = int(c * scale)
        if number != 1 or not factors:
            factors.insert(0, str(number) if number >= 0 else f"({number})")
        parts.append(" * ".join(factors))
    above = " + ".join(parts) or "0"
    below = [factor(b) for b, p in under.items() for _ in range(p)] + ([str(scale)] if scale != 1 else [])
    return f"(({above}) {divide} ({' * '.join(below)}))" if below else above
