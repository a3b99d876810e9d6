"""Dimensions: expressions over named sizes in a normal form that is kept once: equal forms are one object.

The form is a polynomial whose factors are names and atoms (``//``, ``%``, ``ceildiv``, ``min``, ``max`` and
exact division by a sum). Exact division by anything else is held in rational coefficients and negative
exponents, which is why it cancels: ``(D / 2) * 2`` is ``D``. Such a form has a value only where it is whole.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from weakref import WeakValueDictionary

from tessera.diag import ShapeError
from tessera.ir import dim_limits as limits
from tessera.ir import dim_poly as poly
from tessera.ir.dim_eval import Evaluator, no_value
from tessera.ir.dim_form import INFIX, Form, is_positive
from tessera.ir.dim_poly import Coefficient, Monomial, Poly
from tessera.ir.dim_text import atom_text, term_order
from tessera.ir.forks import renewed

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Atom:
    """A factor that is not a name: ``kind`` is ``//``, ``%``, ``/``, ``ceildiv``, ``min`` or ``max``."""

    kind: str
    args: tuple[Dim, ...]
    depth: int

    def operands(self) -> list[Evaluator]:
        """Evaluators of the operands; these may be negative."""
        return [arg.evaluator(signed=True) for arg in self.args]


def _operator(kind: str, swap: bool = False) -> Callable[[Dim, Dim | int], Dim]:
    def method(self: Dim, other: Dim | int) -> Dim:
        if not isinstance(other, Dim | int):
            return NotImplemented
        return _BINARY[kind](other, self) if swap else _BINARY[kind](self, other)

    return method


class Dim(Form):
    """One dimension expression. Equal forms are the same object: compare with ``is`` (or ``==``).

    >>> D, H = Dim.of("D"), Dim.of("H")
    >>> (D / H) * H is D, D / 2 + D / 2 is D, (4 * D + 3) // 4 is D
    (True, True, True)
    >>> str(D * H + 1), str((D + 1) / 2)
    ('D*H + 1', '(D + 1)/2')
    """

    __slots__ = ()

    _atoms: Mapping[str, Atom]

    def __init__(self) -> None:
        raise TypeError("a Dim is made with Dim.of, Dim.const or Dim.name")

    @property
    def atoms(self) -> Mapping[str, Atom]:
        """The atoms among the factors of ``terms``, by their text."""
        return self._atoms

    # making

    @staticmethod
    def of(x: int | str | Dim) -> Dim:
        """A Dim from a size, a name or a Dim; raises ShapeError (TSR0101) for a string that is no name."""
        if type(x) is Dim:
            return x
        if isinstance(x, str):
            return _name(x)
        if isinstance(x, int):
            return _const(int(x))
        raise TypeError(f"a dimension is an int, a name or a Dim, not {type(x).__name__}")

    @staticmethod
    def const(n: int) -> Dim:
        """A known number."""
        return _const(n)

    @staticmethod
    def name(s: str) -> Dim:
        """A named size: an ASCII identifier of at most 64 characters; raises ShapeError (TSR0101)."""
        return _name(s)

    # arithmetic

    def __add__(self, other: Dim | int) -> Dim:
        if type(other) is Dim:
            return _add(self, other)
        return _add(self, _const(int(other))) if isinstance(other, int) else NotImplemented

    __radd__ = __add__

    def __sub__(self, other: Dim | int) -> Dim:
        if type(other) is Dim:
            return _subtract(self, other)
        return _add(self, _const(-int(other))) if isinstance(other, int) else NotImplemented

    def __rsub__(self, other: Dim | int) -> Dim:
        return _subtract(_const(int(other)), self) if isinstance(other, int) else NotImplemented

    def __neg__(self) -> Dim:
        return _multiply(_const(-1), self)

    def __mul__(self, other: Dim | int) -> Dim:
        if type(other) is Dim:
            return _multiply(self, other)
        return _multiply(self, _const(int(other))) if isinstance(other, int) else NotImplemented

    __rmul__ = __mul__

    __truediv__, __rtruediv__ = _operator("/"), _operator("/", True)
    __floordiv__, __rfloordiv__ = _operator("//"), _operator("//", True)
    __mod__, __rmod__ = _operator("%"), _operator("%", True)
    __pow__, __rpow__ = _operator("**"), _operator("**", True)

    # the form as a whole

    def divisibility_obligations(self) -> tuple[tuple[Dim, Dim], ...]:
        """(numerator, denominator) of every exact division in the form, those inside atoms included.

        >>> [(str(n), str(d)) for n, d in (Dim.of("D") / 2 + 1).divisibility_obligations()]
        [('D', '2')]
        """
        found: dict[tuple[Dim, Dim], None] = {}
        pending = [self]
        while pending:
            dim = pending.pop()
            if not all(c.denominator == 1 and poly.is_integral(m) for m, c in dim._terms):
                found[_as_fraction(dim)] = None
            for atom in dim._atoms.values():
                pending += atom.args
                if atom.kind == "/":
                    found[atom.args[0], atom.args[1]] = None
        return tuple(found)

    def substitute(self, sizes: Mapping[str, Dim | int]) -> Dim:
        """The expression with names replaced, all at once; raises ShapeError (TSR0106)."""
        if self.names().isdisjoint(sizes):
            return self
        try:
            return _rebuild(self, {n: Dim.of(d) for n, d in sizes.items()})
        except ShapeError as error:
            if error.code != "TSR0106":
                raise
            raise no_value(str(self), sizes, self.names(), error.message) from None

    def __reduce__(self) -> tuple[object, ...]:
        return from_poly, (dict(self._terms), dict(self._atoms))


_TABLE: WeakValueDictionary[tuple[tuple[Monomial, Coefficient], ...], Dim] = WeakValueDictionary()
_LOCK = renewed()
_NO_ATOMS: Mapping[str, Atom] = {}


def _intern(terms: tuple[tuple[Monomial, Coefficient], ...], atoms: Mapping[str, Atom]) -> Dim:
    """The one Dim of these terms. The text of an atom names it fully, so the terms alone are the key."""
    found = _TABLE.get(terms)
    if found is not None:
        return found
    fresh = object.__new__(Dim)
    fresh._terms, fresh._atoms = terms, atoms
    fresh._names = fresh._text = fresh._run = fresh._signed = None
    with _LOCK:
        return _TABLE.setdefault(terms, fresh)


def from_poly(p: Poly, atoms: Mapping[str, Atom]) -> Dim:
    """The Dim of a polynomial; raises ShapeError for a constant that is not whole and beyond the limits."""
    for c in p.values():
        if c.numerator.bit_length() + c.denominator.bit_length() > limits.MAX_BITS:
            raise ShapeError("a dimension expression with too large a number", code="TSR0102")
    if len(p) > 1:
        if len(p) > limits.MAX_TERMS:
            raise ShapeError(
                f"a dimension expression with {len(p)} terms, over {limits.MAX_TERMS}", code="TSR0102"
            )
        terms = tuple(sorted(p.items(), key=term_order))
    else:
        terms = tuple(p.items())
        if p.get((), 1).denominator != 1:
            raise ShapeError(f"{p[()]} is not a whole number", code="TSR0106")
    if atoms:
        used = {f for m in p for f, _ in m}
        if len(used & atoms.keys()) != len(atoms):
            atoms = {f: a for f, a in atoms.items() if f in used}
    return _intern(terms, atoms)


def _joined(a: Dim, b: Dim) -> Mapping[str, Atom]:
    if not b._atoms or a._atoms is b._atoms:
        return a._atoms
    return {**a._atoms, **b._atoms} if a._atoms else b._atoms


@lru_cache(maxsize=limits.CACHED)
def _const(n: int) -> Dim:
    return _intern((((), n),), _NO_ATOMS) if n else _intern((), _NO_ATOMS)


@lru_cache(maxsize=limits.CACHED)
def _name(s: str) -> Dim:
    if len(s) > limits.MAX_NAME or not _NAME.fullmatch(s):
        shown = ascii(s if len(s) <= limits.MAX_NAME else s[: limits.MAX_NAME] + "...")
        rule = f"a name is an ASCII identifier of at most {limits.MAX_NAME} characters"
        raise ShapeError(f"{shown} is not a dimension name", code="TSR0101", notes=(rule,))
    return _intern(((((s, 1),), 1),), _NO_ATOMS)


@lru_cache(maxsize=limits.CACHED)
def _add(a: Dim, b: Dim) -> Dim:
    return from_poly(poly.accumulate(dict(a._terms), b._terms), _joined(a, b))


@lru_cache(maxsize=limits.CACHED)
def _subtract(a: Dim, b: Dim) -> Dim:
    return from_poly(poly.accumulate(dict(a._terms), b._terms, -1), _joined(a, b))


@lru_cache(maxsize=limits.CACHED)
def _multiply(a: Dim, b: Dim) -> Dim:
    if not a._terms or not b._terms:
        return ZERO
    if len(a._terms) == 1 == len(b._terms):
        (m, c), (k, d) = a._terms[0], b._terms[0]
        return from_poly({poly.times(m, k): poly.whole(c * d)}, _joined(a, b))
    if len(a._terms) * len(b._terms) > 10 * limits.MAX_TERMS:
        raise ShapeError("a product of dimensions with too many terms", code="TSR0102")
    cancelled = _cancelled(a, b) or _cancelled(b, a)
    return cancelled or from_poly(poly.multiply(dict(a._terms), dict(b._terms)), _joined(a, b))


def _cancelled(a: Dim, b: Dim) -> Dim | None:
    """``a·b`` where ``a`` is one term with an exact quotient whose denominator divides ``b``; else None."""
    if len(a._terms) != 1 or len(b._terms) == 1:
        return None
    m, c = a._terms[0]
    for factor, exponent in m:
        atom = a._atoms.get(factor)
        if atom is None or atom.kind != "/" or exponent < 1:
            continue
        quotient = exact_div(b, atom.args[1])
        if all(x.kind != "/" for x in quotient._atoms.values()):
            return _make_factor(poly.times(m, ((factor, -1),)), c, a._atoms) * (atom.args[0] * quotient)
    return None


@lru_cache(maxsize=limits.CACHED)
def _power(a: Dim | int, exponent: Dim | int) -> Dim:
    a, exponent = Dim.of(a), Dim.of(exponent)
    if not exponent.is_const or exponent.value < 0:
        raise ShapeError(f"`{exponent}` is not an exponent: only numbers from 0 are", code="TSR0101")
    n = exponent.value
    degree, _, _ = a.degree_key()
    bits = max((c.numerator.bit_length() + c.denominator.bit_length() for _, c in a._terms), default=0)
    if max(abs(degree), 1) * n > limits.MAX_DEGREE or bits * n > limits.MAX_BITS:
        raise ShapeError(f"the power {str(n)[:9]} of `{str(a)[:64]}` is too large", code="TSR0102")
    out = ONE
    for bit in bin(n)[2:]:
        out = out * out
        if bit == "1":
            out = out * a
    return out


def _atom(kind: str, args: tuple[Dim, ...]) -> Dim:
    """The Dim that is one atom; raises ShapeError (TSR0102) beyond the limits on nesting and length."""
    depth = 1 + max((a.depth for arg in args for a in arg._atoms.values()), default=0)
    text = atom_text(kind, [(str(arg), _is_bare(arg)) for arg in args], kind in INFIX)
    if depth > limits.MAX_DEPTH or len(text) > limits.MAX_ATOM_TEXT:
        raise ShapeError(f"a dimension nested {depth} deep, {len(text)} characters long", code="TSR0102")
    return _intern(((((text, 1),), 1),), {text: Atom(kind, args, depth)})


def _is_bare(dim: Dim) -> bool:
    """Does the text need no parentheses beside an operator: a name, a number from 0, a call?"""
    if dim.is_const:
        return dim.value >= 0
    inner = _lone(dim)
    return dim.is_name if inner is None else inner.kind not in INFIX


def _as_fraction(dim: Dim) -> tuple[Dim, Dim]:
    """(numerator, denominator) over one denominator; what that divides anyway is left out above."""
    num, den, _, _ = poly.cleared(dict(dim._terms), {(): 1})
    ((m, c),) = den.items()
    _, rest = poly.split_by(num, m, c)
    return from_poly(rest, dim._atoms), from_poly(den, dim._atoms)


def _cleared(a: Dim, b: Dim, what: str) -> tuple[Poly, Dim, Dim]:
    """(n, d, s) with a = s·n, b = s·d, integer coefficients, no common factor, d leading positive."""
    if not b._terms:
        raise ShapeError(f"`{a} {what} 0` divides by zero", code="TSR0106")
    if not a._terms:
        return {}, ONE, b
    n, d, m, c = poly.cleared(dict(a._terms), dict(b._terms))
    atoms = _joined(a, b)
    below = from_poly(d, atoms)
    if below._terms[0][1] < 0:
        return poly.scaled(n, (), -1), -below, _make_factor(m, -c, atoms)
    return n, below, _make_factor(m, c, atoms)


def _make_factor(m: Monomial, c: Coefficient, atoms: Mapping[str, Atom]) -> Dim:
    """One term as a Dim that may be a bare fraction: only ever a factor of something else."""
    return _intern(((m, c),), {f: atoms[f] for f, _ in m if f in atoms})


def _split(n: Poly, d: Dim, atoms: Mapping[str, Atom]) -> tuple[Dim, Dim]:
    """(q, r) with n = q·d + r, taking into q what can be seen to be a multiple of d."""
    if len(d._terms) == 1:
        m, c = d._terms[0]
        quotient, rest = poly.split_by(n, m, c)
        return from_poly(quotient, atoms), from_poly(rest, atoms)
    found = poly.divide(n, dict(d._terms))
    if found is None or any(c.denominator != 1 for c in found.values()):
        return ZERO, from_poly(n, atoms)
    return from_poly(found, atoms), ZERO


def _lone(dim: Dim) -> Atom | None:
    """The atom that this Dim is, if it is one."""
    return dim._atoms.get(dim._terms[0][0][0][0]) if len(dim._atoms) == 1 and str(dim) in dim._atoms else None


@lru_cache(maxsize=limits.CACHED)
def floordiv(a: Dim | int, b: Dim | int) -> Dim:
    """``a // b``, rounded down; raises ShapeError (TSR0106) for the divisor 0."""
    a, b = Dim.of(a), Dim.of(b)
    n, d, _ = _cleared(a, b, "//")
    q, r = _split(n, d, _joined(a, b))
    if not r._terms:
        return q
    if r.is_const and d.is_const:
        return q + r.value // d.value
    inner = _lone(r)
    if inner is not None and is_positive(d):
        if inner.kind == "//":
            return q + floordiv(inner.args[0], inner.args[1] * d)
        if inner.kind == "%" and inner.args[1] is d:
            return q
    return q + _atom("//", (r, d))


@lru_cache(maxsize=limits.CACHED)
def ceildiv(a: Dim | int, b: Dim | int) -> Dim:
    """``a / b`` rounded up; raises ShapeError (TSR0106) for the divisor 0.

    >>> str(ceildiv(Dim.of("D") + 8, 4))
    'ceildiv(D, 4) + 2'
    """
    a, b = Dim.of(a), Dim.of(b)
    n, d, _ = _cleared(a, b, "//")
    q, r = _split(n, d, _joined(a, b))
    if not r._terms:
        return q
    if r.is_const and d.is_const:
        return q - (-r.value // d.value)
    inner = _lone(r)
    if inner is not None and inner.kind == "ceildiv" and is_positive(d):
        return q + ceildiv(inner.args[0], inner.args[1] * d)
    return q + _atom("ceildiv", (r, d))


@lru_cache(maxsize=limits.CACHED)
def mod(a: Dim | int, b: Dim | int) -> Dim:
    """``a % b`` as in Python; raises ShapeError (TSR0106) for the divisor 0."""
    a, b = Dim.of(a), Dim.of(b)
    n, d, scale = _cleared(a, b, "%")
    _, r = _split(n, d, _joined(a, b))
    if not r._terms:
        return ZERO
    if r.is_const and d.is_const:
        return scale * (r.value % d.value)
    inner = _lone(r)
    if inner is not None and inner.kind == "%" and is_positive(d) and _divides_plainly(d, inner.args[1]):
        return scale * mod(inner.args[0], d)
    return scale * _atom("%", (r, d))


def _divides_plainly(d: Dim, n: Dim) -> bool:
    return not _split(dict(n._terms), d, n._atoms)[1]._terms


@lru_cache(maxsize=limits.CACHED)
def exact_div(a: Dim | int, b: Dim | int) -> Dim:
    """``a / b``, where b divides a; raises ShapeError (TSR0106) for divisor 0 and a known remainder."""
    a, b = Dim.of(a), Dim.of(b)
    if not b._terms:
        raise ShapeError(f"`{a}/0` divides by zero", code="TSR0106")
    if not a._terms or b is ONE:
        return a
    atoms = _joined(a, b)
    if len(b._terms) == 1:
        m, c = b._terms[0]
        back = Fraction(1) / c
        return from_poly({poly.times(k, poly.inverse(m)): poly.whole(x * back) for k, x in a._terms}, atoms)
    n, d, _ = _cleared(a, b, "/")
    found = poly.divide(n, dict(d._terms))
    return _atom("/", (from_poly(n, atoms), d)) if found is None else from_poly(found, atoms)


def dim_min(a: Dim | int, *others: Dim | int) -> Dim:
    """The least of dimensions.

    >>> str(dim_min(Dim.of("B"), "A", Dim.of("B") + 1))
    'min(A, B)'
    """
    return _extreme("min", (a, *others))


def dim_max(a: Dim | int, *others: Dim | int) -> Dim:
    """The greatest of dimensions."""
    return _extreme("max", (a, *others))


def _extreme(kind: str, dims: Sequence[Dim | int]) -> Dim:
    """One candidate per non-constant part: those that differ by a number are compared at once."""
    best: dict[Dim, Dim] = {}
    pending = [Dim.of(d) for d in dims]
    while pending:
        dim = pending.pop()
        inner = _lone(dim)
        if inner is not None and inner.kind == kind:
            pending += inner.args
            continue
        shift = dim._terms[-1][1] if dim._terms and not dim._terms[-1][0] else 0
        base = _intern(dim._terms[:-1], dim._atoms) if shift else dim
        other = best.get(base)
        if other is None or ((dim - other).value < 0) == (kind == "min"):
            best[base] = dim
    found = sorted(best.values(), key=Dim.degree_key)
    return found[0] if len(found) == 1 else _atom(kind, tuple(found))


def _rebuild(dim: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """The Dim with names replaced. Recursion is bounded by limits.MAX_DEPTH."""
    if dim.names().isdisjoint(sizes):
        return dim
    # Over one denominator: a single term of (D + 1)/2 may well not be whole.
    num, den, _, _ = poly.cleared(dict(dim._terms), {(): 1})
    factors: dict[str, Dim] = {}
    for f in {f for p in (num, den) for m in p for f, _ in m}:
        atom = dim._atoms.get(f)
        if atom is None:
            factors[f] = sizes.get(f) or _name(f)
        else:
            factors[f] = build_atom(atom.kind, [_rebuild(x, sizes) for x in atom.args])
    return exact_div(_weave(num, factors), _weave(den, factors))


def _weave(p: Poly, factors: Mapping[str, Dim]) -> Dim:
    total = ZERO
    for m, c in p.items():
        total = total + product([_const(int(c)), *(factors[f] ** e for f, e in m)])
    return total


def build_atom(kind: str, args: Sequence[Dim]) -> Dim:
    """The value of an operator over new operands; it may simplify into anything.

    >>> str(build_atom("//", [Dim.of("D") * 4, Dim.of(8)]))
    'D // 2'
    """
    if kind in ("min", "max"):
        return _extreme(kind, args)
    return _BINARY[kind](*args)


def product(dims: Iterable[Dim]) -> Dim:
    """The product of dimensions; 1 for none.

    >>> str(product([Dim.of("B"), Dim.of("S"), Dim.of(2)]))
    '2*B*S'
    """
    out = ONE
    for dim in dims:
        out = _multiply(out, dim)
    return out


ZERO = _const(0)
ONE = _const(1)
_BINARY: Mapping[str, Callable[[Dim | int, Dim | int], Dim]] = {
    "//": floordiv, "%": mod, "/": exact_div, "ceildiv": ceildiv, "**": _power,
}  # fmt: skip
