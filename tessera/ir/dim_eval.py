"""Dimensions compiled into closures: sizes in, integer out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from math import lcm
from operator import itemgetter
from typing import Protocol

from tessera.diag import ShapeError
from tessera.ir.dim_poly import Coefficient, Monomial, common

Sizes = Mapping[str, int]
Evaluator = Callable[[Sizes], int]
Factor = tuple[Evaluator, int]


class AtomLike(Protocol):
    """What an atom offers here: its operator and evaluators of its operands."""

    @property
    def kind(self) -> str: ...

    def operands(self) -> Sequence[Evaluator]: ...


def no_value(text: str, sizes: Mapping[str, object], names: frozenset[str], why: str) -> ShapeError:
    """TSR0106 for an expression without a value at these sizes."""
    at = ", ".join(f"{n}={sizes[n]}" for n in sorted(names) if n in sizes)
    return ShapeError(f"`{text}` has no value{' with ' + at if at else ''}: {why}", code="TSR0106")


def missing_size(name: str, text: str) -> ShapeError:
    """TSR0110 for an expression evaluated without one of its sizes."""
    return ShapeError(f"no size is known for `{name}` in `{text}`", code="TSR0110")


def checked(run: Evaluator, text: Callable[[], str]) -> Evaluator:
    """The evaluator with negative results refused (TSR0106)."""

    def sized(sizes: Sizes) -> int:
        value = run(sizes)
        if value < 0:
            raise no_value(text(), sizes, frozenset(sizes), f"{value} is negative")
        return value

    return sized


def compile_form(
    terms: Sequence[tuple[Monomial, Coefficient]], atoms: Mapping[str, AtomLike], text: Callable[[], str]
) -> Evaluator:
    """The value of a sum of terms; raises KeyError for a missing name, TSR0106 for a remainder."""
    if not terms:
        return lambda sizes: 0
    if len(terms) == 1:
        m, c = terms[0]
        if not m:
            value = int(c)
            return lambda sizes: value
        if c == 1 and len(m) == 1 and m[0][1] == 1:
            return _factor(m[0][0], atoms)
    below = {f: -e for f, e in common([m for m, _ in terms]) if e < 0}
    scale = lcm(*(c.denominator for _, c in terms))
    sums = []
    for m, c in terms:
        powers = dict(below)
        for f, e in m:
            powers[f] = powers.get(f, 0) + e
        factors = [(_factor(f, atoms), e) for f, e in powers.items() if e]
        sums.append(((Fraction(c) * scale).numerator, factors))
    top = _sum(sums)
    if not below and scale == 1:
        return top
    bottom = _sum([(scale, [(_factor(f, atoms), e) for f, e in below.items()])])
    return _quotient(top, bottom, text)


def _factor(factor: str, atoms: Mapping[str, AtomLike]) -> Evaluator:
    atom = atoms.get(factor)
    return itemgetter(factor) if atom is None else _atom(factor, atom.kind, atom.operands())


def _sum(terms: Sequence[tuple[int, Sequence[Factor]]]) -> Evaluator:
    if len(terms) == 1:
        return _product(*terms[0])
    parts = [_product(c, factors) for c, factors in terms]
    if len(parts) == 2:
        left, right = parts
        return lambda sizes: left(sizes) + right(sizes)
    return lambda sizes: sum([part(sizes) for part in parts])


def _product(c: int, factors: Sequence[Factor]) -> Evaluator:
    flat = [get for get, e in factors for _ in range(e)] if sum(e for _, e in factors) <= 4 else []
    if not factors:
        return lambda sizes: c
    if len(flat) == 1:
        get = flat[0]
        return get if c == 1 else lambda sizes: c * get(sizes)
    if len(flat) == 2:
        left, right = flat
        return lambda sizes: c * left(sizes) * right(sizes)

    def product(sizes: Sizes) -> int:
        total = c
        for get, e in factors:
            value = get(sizes)
            total *= value if e == 1 else value**e
        return total

    return product


def _quotient(top: Evaluator, bottom: Evaluator, text: Callable[[], str]) -> Evaluator:
    def quotient(sizes: Sizes) -> int:
        num, den = top(sizes), bottom(sizes)
        if not den:
            raise no_value(text(), sizes, frozenset(sizes), "it divides by zero")
        value, rest = divmod(num, den)
        if rest:
            raise no_value(text(), sizes, frozenset(sizes), f"{num}/{den} is not a whole number")
        return value

    return quotient


def _atom(text: str, kind: str, operands: Sequence[Evaluator]) -> Evaluator:
    if kind == "min":
        return lambda sizes: min([get(sizes) for get in operands])
    if kind == "max":
        return lambda sizes: max([get(sizes) for get in operands])
    top, bottom = operands
    if kind == "/":
        return _quotient(top, bottom, lambda: text)

    def divide(sizes: Sizes) -> int:
        num, den = top(sizes), bottom(sizes)
        if not den:
            raise no_value(text, sizes, frozenset(sizes), "it divides by zero")
        if kind == "//":
            return num // den
        return num % den if kind == "%" else -(-num // den)

    return divide
