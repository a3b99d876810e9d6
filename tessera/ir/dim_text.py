"""How dimensions are written: text that reads back to the same form."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from fractions import Fraction
from math import lcm

from tessera.ir.dim_poly import Coefficient, Monomial, common, inverse, is_integral, times

Term = tuple[Monomial, Coefficient]


def term_order(term: Term) -> tuple[int, Monomial]:
    """Sort key of terms: higher degree first, then by factors; the constant comes last."""
    return -sum([e for _, e in term[0]]), term[0]


def form_text(terms: Sequence[Term], infix: Collection[str]) -> str:
    """The text of a sum of terms. ``infix`` holds the factors that need parentheses in a product."""
    if not terms:
        return "0"
    groups = _groups(terms)
    pieces = [_fraction(group, over, infix) for over, group in groups]
    pieces.sort(key=lambda piece: piece[0])  # a leading minus only where nothing is added
    (minus, first), *others = pieces
    # A leading minus must not tear an operator apart: -(D // 2) is not (-D) // 2.
    out = [f"-({first})" if minus and first in infix else f"-{first}" if minus else first]
    for minus, text in others:
        out += [" - " if minus else " + ", text]
    return "".join(out)


def _groups(terms: Sequence[Term]) -> list[tuple[Term, list[Term]]]:
    """Terms by their denominator, each group with that denominator as a term of its own.

    A group that is a mere fraction of numbers cannot be read back: then all goes over one denominator.
    """
    found: dict[Term, list[Term]] = {}
    for m, c in terms:
        below = tuple((f, -e) for f, e in m if e < 0)
        above = tuple((f, e) for f, e in m if e > 0) if below else m
        found.setdefault((below, c.denominator), []).append((above, c.numerator))
    if all(d == 1 or below or group[0][0] or len(group) > 1 for (below, d), group in found.items()):
        return list(found.items())
    over = tuple((f, e) for f, e in inverse(common([m for m, _ in terms])) if e > 0)
    scale = lcm(*(c.denominator for _, c in terms))
    whole: list[Term] = [(times(m, over), (Fraction(c) * scale).numerator) for m, c in terms]
    return [((over, scale), sorted(whole, key=term_order))]


def _fraction(group: Sequence[Term], over: Term, infix: Collection[str]) -> tuple[bool, str]:
    """(is it subtracted, its text) of one numerator over one denominator."""
    bottom = product_text(over[0], over[1], infix)
    minus = False
    if len(group) == 1:
        m, c = group[0]
        minus = c < 0
        top = product_text(m, -c if c < 0 else c, infix)
    else:
        top = sum_text(group, infix)
    if bottom == "1":
        return minus, top
    if len(group) > 1 or top in infix:
        top = f"({top})"
    single = len(over[0]) + (over[1] != 1) == 1 and bottom not in infix
    return minus, f"{top}/{bottom}" if single else f"{top}/({bottom})"


def sum_text(terms: Iterable[Term], infix: Collection[str]) -> str:
    """Terms without denominators as a sum, what is added before what is subtracted."""
    ordered = sorted(terms, key=lambda t: (t[1] < 0, *term_order(t)))
    out = ""
    for m, c in ordered:
        text = product_text(m, -c if c < 0 else c, infix)
        if out:
            out += f" - {text}" if c < 0 else f" + {text}"
        elif c < 0:
            out = f"-({text})" if text in infix else f"-{text}"
        else:
            out = text
    return out


def product_text(m: Monomial, c: Coefficient, infix: Collection[str]) -> str:
    """One term without denominators: ``4*D``, ``B*S``, ``(D // 2)*S``."""
    assert is_integral(m)
    if not m:
        return str(c)
    if c == 1 and len(m) == 1 and m[0][1] == 1:
        return m[0][0]
    parts = [] if c == 1 else [str(c)]
    for factor, exponent in m:
        text = f"({factor})" if factor in infix else factor
        parts.append(text if exponent == 1 else f"{text}**{exponent}")
    return "*".join(parts)


def atom_text(kind: str, operands: Iterable[tuple[str, bool]], infix: bool) -> str:
    """An atom over its operands, each given with whether it stands bare beside an operator.

    >>> atom_text("//", [("S + 1", False), ("2", True)], True)
    '(S + 1) // 2'
    """
    if infix:
        join = "/" if kind == "/" else f" {kind} "
        return join.join(text if bare else f"({text})" for text, bare in operands)
    return f"{kind}({', '.join(text for text, _ in operands)})"
