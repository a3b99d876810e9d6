"""Sizes of names from what is passed: patterns on one side, actual dims on the other.

Plain names are bound from left to right; then, again and again, every expression with one unknown name is inverted
(``D/2`` against 64 gives ``D`` = 128). Nothing is raised: everything that does not fit is collected. Actual dims are
numbers at a call, and forms over the caller's own names where one function calls another. The two sets of names
are kept apart: a name of a pattern never means the caller's name of the same spelling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import EllipsisType

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, from_poly
from tessera.ir.dim_poly import Poly
from tessera.ir.facts import Facts, difference
from tessera.ir.solver import Verdict, judge_divides, judge_eq

_NO_FACTS = Facts()


@dataclass(frozen=True, slots=True)
class DimPattern:
    """One dim of an annotation: of the parameter ``label``, at ``axis``."""

    label: str
    axis: int
    pattern: Dim

    @property
    def place(self) -> str:
        return f"`{self.label}` axis {self.axis}"


@dataclass(frozen=True, slots=True)
class Binding:
    """A name with its size and what gave it: ``S`` = 128, bound by `q` axis 2."""

    name: str
    size: Dim
    source: str

    def __str__(self) -> str:
        return f"`{self.name}` = {self.size}, bound by {self.source}"


@dataclass(frozen=True, slots=True)
class Conflict:
    """A dim that does not fit its pattern.

    ``expected`` is the value of the pattern for the sizes bound so far, None where it has none; ``binding`` is the one
    that the expectation comes from, if it is one; ``reason`` states the fact.
    """

    label: str
    axis: int
    pattern: Dim
    expected: Dim | None
    actual: Dim
    binding: Binding | None
    reason: str

    def __str__(self) -> str:
        return f"`{self.label}` axis {self.axis} is {self.actual}: {self.reason}"


@dataclass(frozen=True, slots=True)
class Need:
    """What must hold at the call for the dims to fit: ``kind`` is ``eq``, or ``divides`` (left divides right)."""

    kind: str
    left: Dim
    right: Dim
    label: str
    axis: int


@dataclass(frozen=True, slots=True)
class Unified:
    """What was found: bindings by name in the order they were made, and what does not fit or is left open."""

    bindings: Mapping[str, Binding]
    conflicts: tuple[Conflict, ...]
    needs: tuple[Need, ...]
    unsolved: tuple[DimPattern, ...]

    @property
    def sizes(self) -> dict[str, Dim]:
        """The size of every bound name."""
        return {name: b.size for name, b in self.bindings.items()}


def unify(
    patterns: Sequence[DimPattern],
    actual: Sequence[int | Dim],
    given: Sequence[Binding] = (),
    facts: Facts = _NO_FACTS,
) -> Unified:
    """Match each pattern with the actual dim at the same place; ``given`` holds names that other arguments bind.

    Raises ValueError when there are not as many dims as patterns.

    >>> from tessera.ir.dim_parse import parse_dim
    >>> pattern = [DimPattern("x", i, parse_dim(t)) for i, t in enumerate(["B*S", "D/2", "S"])]
    >>> {name: str(size) for name, size in unify(pattern, [24, 64, 3]).sizes.items()}
    {'S': '3', 'B': '8', 'D': '128'}
    """
    if len(patterns) != len(actual):
        raise ValueError(f"{len(patterns)} patterns for {len(actual)} dims")
    run = _Run([(p, Dim.of(a)) for p, a in zip(patterns, actual, strict=True)], facts)
    for binding in given:
        run.bindings[binding.name] = binding
    run.bind_names()
    while run.solve_one():
        pass
    run.check()
    conflicts = tuple(c for _, c in sorted(run.conflicts, key=lambda found: found[0]))
    return Unified(run.bindings, conflicts, tuple(run.needs), tuple(run.unsolved))


def align(dims: Sequence[Dim | EllipsisType], rank: int) -> tuple[int, tuple[Dim, ...]] | None:
    """(number of leading axes that ``...`` stands for, dims of the others) for an actual rank; None if it does not fit.

    Raises ValueError for ``...`` anywhere but at the start.

    >>> align([..., Dim.of("D")], 3)
    (2, (Dim(D),))
    """
    if any(d is ... for d in dims[1:]):
        raise ValueError("`...` stands for leading dims: it comes first, once")
    rest = tuple(d for d in dims if not isinstance(d, EllipsisType))
    lead = rank - len(rest)
    fits = lead == 0 if len(rest) == len(dims) else lead >= 0
    return (lead, rest) if fits else None


@dataclass
class _Run:
    """One unification; ``used`` are places that gave a binding, ``failed`` names whose size could not be made out."""

    pairs: list[tuple[DimPattern, Dim]]
    facts: Facts
    bindings: dict[str, Binding] = field(default_factory=dict)
    conflicts: list[tuple[int, Conflict]] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    unsolved: list[DimPattern] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    failed: set[str] = field(default_factory=set)

    def bind_names(self) -> None:
        for at, (p, size) in enumerate(self.pairs):
            if p.pattern.is_name and str(p.pattern) not in self.bindings:
                self._bind(at, str(p.pattern), size)

    def solve_one(self) -> bool:
        """Invert the first expression with one unknown name; False when there is none."""
        for at, (p, size) in enumerate(self.pairs):
            unknown = p.pattern.names() - self.bindings.keys()
            if at in self.used or len(unknown) != 1 or unknown & self.failed:
                continue
            (name,) = unknown
            try:
                found = self._inverted(p.pattern, name, size)
            except ShapeError as error:
                self._fail(at, name, None, error.message)
                return True
            if found is None:
                continue
            if found.is_const and found.value < 0:
                self._fail(at, name, found, f"`{p.pattern}` would need `{name}` = {found}, which is negative")
            elif self._divisible(at, found):
                self._bind(at, name, found)
            else:
                self.failed.add(name)
            return True
        return False

    def check(self) -> None:
        """Compare what is left with the sizes found."""
        for at, (p, size) in enumerate(self.pairs):
            if at in self.used or p.pattern.names() & self.failed:
                continue
            if not p.pattern.names() <= self.bindings.keys():
                self.unsolved.append(p)
                continue
            try:
                expected = p.pattern.substitute(self._sizes())
            except ShapeError as error:
                self._conflict(at, None, error.message)
                continue
            if expected.is_const and expected.value < 0:
                self._conflict(at, expected, f"{self._described(p.pattern, expected)} is negative")
            elif self._divisible(at, expected):
                self._compare(at, expected, size)

    def _compare(self, at: int, expected: Dim, size: Dim) -> None:
        p = self.pairs[at][0]
        verdict = judge_eq(expected, size, self.facts)
        if verdict is Verdict.REFUTED:
            self._conflict(at, expected, f"expected {self._described(p.pattern, expected)}")
        elif verdict is Verdict.GUARDED:
            self._need(Need("eq", expected, size, p.label, p.axis))

    def _divisible(self, at: int, size: Dim) -> bool:
        """Judge the exact divisions in a form over the caller's names; False when one cannot be."""
        p = self.pairs[at][0]
        for num, den in size.divisibility_obligations():
            verdict = judge_divides(den, num, self.facts)
            if verdict is Verdict.REFUTED:
                self._conflict(at, size, f"`{num}` is never a multiple of `{den}`")
                return False
            if verdict is Verdict.GUARDED:
                self._need(Need("divides", den, num, p.label, p.axis))
        return True

    def _need(self, need: Need) -> None:
        if all((n.kind, n.left, n.right) != (need.kind, need.left, need.right) for n in self.needs):
            self.needs.append(need)

    def _sizes(self) -> dict[str, Dim]:
        return {n: b.size for n, b in self.bindings.items()}

    def _bind(self, at: int, name: str, size: Dim) -> None:
        self.bindings[name] = Binding(name, size, self.pairs[at][0].place)
        self.used.add(at)

    def _fail(self, at: int, name: str, expected: Dim | None, reason: str) -> None:
        self._conflict(at, expected, reason)
        self.failed.add(name)

    def _conflict(self, at: int, expected: Dim | None, reason: str) -> None:
        p, size = self.pairs[at]
        origin = next((self.bindings[n] for n in sorted(p.pattern.names()) if n in self.bindings), None)
        found = Conflict(p.label, p.axis, p.pattern, expected, size, origin, reason)
        self.conflicts.append((at, found))
        self.used.add(at)

    def _described(self, pattern: Dim, expected: Dim) -> str:
        history = "; ".join(str(self.bindings[n]) for n in sorted(pattern.names()) if n in self.bindings)
        shown = str(expected) if pattern.is_const else f"`{pattern}` = {expected}"
        return f"{shown} ({history})" if history else shown

    def _inverted(self, pattern: Dim, name: str, size: Dim) -> Dim | None:
        """What ``name`` must be for the pattern to equal ``size``; None where the pattern cannot be inverted.

        Raises ShapeError (TSR0106) when no whole number does.
        """
        # The unknown gets a spelling that the caller does not use.
        taken = size.names().union(*(b.size.names() for b in self.bindings.values()))
        unknown = "_u"
        while unknown in taken:
            unknown += "_"
        known = {n: d for n, d in self._sizes().items() if n in pattern.names()}
        form = pattern.substitute({**known, name: Dim.name(unknown)})
        gap, atoms = difference(form, size)
        if any(unknown in x.names() for atom in atoms.values() for x in atom.args):
            return None
        exponents = {e for m in gap for f, e in m if f == unknown}
        slope: Poly = {
            tuple(x for x in m if x[0] != unknown): -c for m, c in gap.items() if any(f == unknown for f, _ in m)
        }
        rest: Poly = {m: c for m, c in gap.items() if all(f != unknown for f, _ in m)}
        if len(exponents) != 1 or sum(any(f == unknown for f, _ in m) for m in gap) != len(slope):
            return None
        try:
            found = from_poly(rest, atoms) / from_poly(slope, atoms)
        except ShapeError:
            found = None
        (exponent,) = exponents
        if found is not None and exponent != 1:
            found = _root(found, exponent)
            if found is None and not _is_number(rest):
                return None
        if found is None:
            raise ShapeError(f"no size of `{name}` makes `{pattern}` equal to {size}", code="TSR0106")
        return found


def _is_number(p: Poly) -> bool:
    """Is the polynomial a number?"""
    return all(not m for m in p)


def _root(value: Dim, exponent: int) -> Dim | None:
    """The whole number with this power, if there is one."""
    if not value.is_const or value.value < 0 or exponent < 1:
        return None
    near = round(value.value ** (1 / exponent))
    return next((Dim.const(n) for n in (near - 1, near, near + 1) if n >= 0 and n**exponent == value.value), None)
