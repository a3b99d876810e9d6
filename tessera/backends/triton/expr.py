"""Index expressions as Triton text. Whatever depends on sizes alone is worked out by the caller and passed
as one argument.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tessera.ir.dim import Atom, Dim, build_atom
from tessera.ir.dim_range import bounds
from tessera.schedule.plan import ONE, ZERO
from tessera.schedule.ranges import provably_ge

Ranges = Mapping[str, tuple[Dim, Dim]]


@dataclass
class Sizes:
    """The size arguments of a function: expressions over size names, in the order in which they were first
    needed.
    """

    names: dict[Dim, str] = field(default_factory=dict)

    def text(self, e: Dim) -> str:
        """A number, or the argument that carries the expression."""
        if e.is_const:
            return str(e.value)
        return self.names.setdefault(e, f"n{len(self.names)}")


@dataclass
class Expressions:
    """Renders Dims. ``axes`` maps loop axes and lookup names to the variables that hold them."""

    sizes: Sizes
    ranges: Ranges
    axes: dict[str, str] = field(default_factory=dict)

    def text(self, e: Dim) -> str:
        """An integer expression; a sum is not put in parentheses.

        >>> r = Expressions(Sizes(), {}, {"r": "i0", "d": "j0"})
        >>> r.text(Dim.name("r") * Dim.name("D") + Dim.name("d") + 1)
        'i0 * n0 + 1 + j0'
        """
        parts, rest = self.parts(e)
        texts = [self.product(factors, scale) for factors, scale in parts]
        if rest is not ZERO or not texts:
            # Before what varies inside a row, so that it joins the row's own address.
            rows = sum(not any(f.startswith("j") for f in factors) for factors, _ in parts)
            texts.insert(rows if rows else len(texts), self.sizes.text(rest))
        return " + ".join(texts).replace(" + -", " - ")

    def inner(self, e: Dim) -> str:
        """As ``text``, in parentheses unless it is one name or number."""
        text = self.text(e)
        return text if text.isidentifier() or text.isdigit() else f"({text})"

    def parts(self, e: Dim) -> tuple[list[tuple[tuple[str, ...], Dim]], Dim]:
        """Terms that involve axes as (factors, size-only scale), and the sum of the others."""
        found: dict[tuple[str, ...], Dim] = {}
        rest = ZERO
        for term in split_terms(e):
            factors, scale = self.factors(term)
            if factors:
                found[factors] = found.get(factors, ZERO) + scale
            else:
                rest = rest + scale
        ordered = sorted(found.items(), key=lambda item: self.order(item[0]))
        return [(f, s) for f, s in ordered if s is not ZERO], rest

    def order(self, factors: tuple[str, ...]) -> int:
        """Parallel axes first: what they give is one address for a whole row."""
        known = list(self.axes.values())
        return min((known.index(f) for f in factors if f in known), default=len(known))

    def factors(self, term: Dim) -> tuple[tuple[str, ...], Dim]:
        """The rendered factors of one term that involve axes, and the product of the others."""
        (monomial, _), *_ = term.terms
        inside: list[str] = []
        outside = term
        for base, power in monomial:
            atom = term.atoms.get(base)
            names = {base} if atom is None else {n for a in atom.args for n in a.names()}
            if not names & self.axes.keys():
                continue
            text = self.axes[base] if atom is None else self.atom(atom)
            inside += [text] * power
            outside = _without(outside, base)
        return tuple(inside), outside

    def atom(self, atom: Atom) -> str:
        if atom.kind in ("min", "max"):
            text = self.text(atom.args[0])
            for arg in atom.args[1:]:
                text = f"tl.{atom.kind}imum({text}, {self.text(arg)})"
            return text
        a, b = atom.args
        if atom.kind == "ceildiv":
            return f"(({self.text(a)} + {self.inner(b - 1)}) // {self.inner(b)})"
        if atom.kind == "/":
            return f"({self.inner(a)} // {self.inner(b)})"
        low, _ = bounds(a, self.ranges)
        if low is not None and provably_ge(low, ZERO):
            return f"({self.inner(a)} {atom.kind} {self.inner(b)})"
        helper = "_int_floordiv" if atom.kind == "//" else "_int_remainder"
        return f"{helper}({self.text(a)}, {self.text(b)})"

    def product(self, factors: Iterable[str], scale: Dim) -> str:
        text = " * ".join(factors)
        if scale is ONE:
            return text
        if scale is Dim.const(-1):
            return f"-{text}"
        return f"{text} * {self.sizes.text(scale)}"


def split_terms(e: Dim) -> list[Dim]:
    """The terms of a sum as Dims of their own."""
    if len(e.terms) < 2:
        return [e] if e.terms else []
    return [_term(e, n) for n in range(len(e.terms))]


def _term(e: Dim, number: int) -> Dim:
    monomial, coefficient = e.terms[number]
    out = Dim.const(1)
    for base, power in monomial:
        factor = _base(e, base)
        for _ in range(abs(power)):
            out = out * factor if power > 0 else out / factor
    return out * coefficient.numerator / coefficient.denominator if monomial else Dim.const(int(coefficient))


def _base(e: Dim, base: str) -> Dim:
    """The factor ``base`` of ``e`` as a Dim."""
    atom = e.atoms.get(base)
    return Dim.name(base) if atom is None else build_atom(atom.kind, atom.args)


def _without(term: Dim, base: str) -> Dim:
    """One term divided by all powers of one of its factors."""
    (monomial, _), *_ = term.terms
    factor = _base(term, base)
    for power in [p for b, p in monomial if b == base]:
        for _ in range(power):
            term = term / factor
    return term


def bound_parts(e: Dim, kind: str) -> tuple[Dim, ...]:
    """What ``e`` is the ``min`` (or ``max``) of; ``e`` itself when it is neither.

    >>> from tessera.ir.dim import dim_min
    >>> sorted(map(str, bound_parts(dim_min(Dim.name("a"), Dim.name("b")), "min")))
    ['a', 'b']
    """
    other = "max" if kind == "min" else "min"
    if len(e.terms) == 1 and len(e.terms[0][0]) == 1:
        ((base, power),), coefficient = e.terms[0]
        atom = e.atoms.get(base)
        if atom is not None and power == 1:
            if coefficient == 1 and atom.kind == kind:
                return tuple(p for a in atom.args for p in bound_parts(a, kind))
            if coefficient == -1 and atom.kind == other:
                return tuple(p for a in atom.args for p in bound_parts(-a, kind))
    return (e,)
