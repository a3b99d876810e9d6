"""Sizes that make an equality true: a bounded, deterministic search."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from random import Random

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, from_poly
from tessera.ir.dim_poly import Poly
from tessera.ir.facts import Facts, difference

TRIES = 600
SOLVED = 60
Sizes = dict[str, int]
Test = Callable[[Mapping[str, int]], bool]


@dataclass(frozen=True)
class Rules:
    """What an assignment must satisfy: the facts, different names unequal, every form with a value."""

    free: tuple[str, ...]
    solved: Mapping[str, Dim]
    tests: tuple[Test, ...]
    minimum: int

    @staticmethod
    def of(facts: Facts, dims: Sequence[Dim]) -> Rules:
        """The rules for the names of ``dims`` and of the facts that concern these."""
        names = set().union(*(d.names() for d in dims))
        pairs = [("eq", *p) for p in facts.equal] + [("ge", *p) for p in facts.at_least]
        pairs += [("divides", *p) for p in facts.divides]
        chosen = []
        for _ in range(len(pairs)):
            near = [p for p in pairs if p not in chosen and not (p[1].names() | p[2].names()).isdisjoint(names)]
            if not near:
                break
            chosen += near
            names |= set().union(*(p[1].names() | p[2].names() for p in near))
        solved = {n: d for n, d in facts.solved.items() if n in names}
        names |= set().union(*(d.names() for d in solved.values()))
        tests = tuple(_test(*p) for p in chosen)
        return Rules(tuple(sorted(names - solved.keys())), solved, tests, facts.minimum)

    def completed(self, sizes: Sizes) -> Sizes | None:
        """The assignment with solved names filled in; None when it breaks a rule."""
        if len(set(sizes.values())) != len(sizes):
            return None
        try:
            full = sizes | {n: d.evaluate(sizes) for n, d in self.solved.items()}
            if min(full.values(), default=self.minimum) < self.minimum:
                return None
            return full if all(test(full) for test in self.tests) else None
        except ShapeError:
            return None

    def candidates(self, dims: Sequence[Dim]) -> Iterator[Sizes]:
        """Assignments worth trying: small sizes first, then mixed with numbers that the forms name."""
        count = len(self.free)
        start = self.minimum
        yield dict(zip(self.free, range(start + count - 1, start - 1, -1), strict=True))
        yield dict(zip(self.free, range(start, start + count), strict=True))
        pools = [self.pool(n, dims) for n in self.free]
        if count == 1:
            yield from ({self.free[0]: x} for x in pools[0])
            return
        if count == 2:
            for total in range(2 * start, 2 * start + 24):
                for x in range(start, total - start + 1):
                    yield {self.free[0]: x, self.free[1]: total - x}
        random = Random(count)
        while True:
            yield {
                n: pool[min(int(random.random() ** 2 * len(pool)), len(pool) - 1)]
                for n, pool in zip(self.free, pools, strict=True)
            }

    def pool(self, name: str, dims: Sequence[Dim]) -> list[int]:
        numbers = {abs(x) for d in dims for x in _numbers(d)}
        near = (
            {x + k for x in numbers for k in (-2, -1, 0, 1, 2)} | {2 * x for x in numbers} | {x // 2 for x in numbers}
        )
        found = [*range(self.minimum, self.minimum + 24), *sorted(near), 32, 48, 60, 64, 96, 120, 128, 720]
        return [x for x in dict.fromkeys(found) if x >= self.minimum]


def _numbers(d: Dim) -> Iterator[int]:
    pending = [d]
    while pending:
        form = pending.pop()
        for _, c in form.terms:
            yield c.numerator
            yield c.denominator
        for atom in form.atoms.values():
            pending += atom.args


def _test(kind: str, a: Dim, b: Dim) -> Test:
    left, right = a.evaluator(signed=True), b.evaluator(signed=True)
    if kind == "eq":
        return lambda sizes: left(sizes) == right(sizes)
    if kind == "ge":
        return lambda sizes: left(sizes) >= right(sizes)
    return lambda sizes: divides(right(sizes), left(sizes))


def divides(den: int, num: int) -> bool:
    """Is num a multiple of den? 0 has one multiple, 0."""
    return num % den == 0 if den else num == 0


def equal_sizes(a: Dim, b: Dim, facts: Facts, tries: int = TRIES) -> Sizes | None:
    """Sizes with a == b and not negative that satisfy the facts; None when none was found."""
    rules = Rules.of(facts, (a, b))
    left, right = a.evaluator(), b.evaluator()
    return _first(rules, (a, b), lambda s: left(s) == right(s), _solvers(a, b, facts, rules), tries)


def _first(
    rules: Rules, dims: Sequence[Dim], wanted: Test, solvers: Sequence[tuple[str, Dim]], most: int
) -> Sizes | None:
    for tries, sizes in enumerate(islice(rules.candidates(dims), most)):
        options = [sizes]
        if tries < SOLVED:
            options = [x for name, value in solvers if (x := _solved(sizes, name, value)) is not None] + options
        for option in options:
            full = rules.completed(option)
            if full is None:
                continue
            try:
                if wanted(full):
                    return full
            except ShapeError:
                continue
    return None


def _solved(sizes: Sizes, name: str, value: Dim) -> Sizes | None:
    try:
        return sizes | {name: value.evaluate(sizes)}
    except ShapeError:
        return None


def _solvers(a: Dim, b: Dim, facts: Facts, rules: Rules) -> list[tuple[str, Dim]]:
    """For each name in which ``a - b`` is linear, what it must be."""
    try:
        gap, atoms = difference(facts.normalise(a), facts.normalise(b))
    except ShapeError:
        return []
    inner = frozenset[str]().union(*(x.names() for atom in atoms.values() for x in atom.args))
    out = []
    for name in rules.free:
        if name in inner or any(f == name and e != 1 for m in gap for f, e in m):
            continue
        slope: Poly = {tuple(x for x in m if x[0] != name): -c for m, c in gap.items() if (name, 1) in m}
        rest: Poly = {m: c for m, c in gap.items() if (name, 1) not in m}
        if not slope:
            continue
        try:
            out.append((name, from_poly(rest, atoms) / from_poly(slope, atoms)))
        except ShapeError:
            continue
    return out
