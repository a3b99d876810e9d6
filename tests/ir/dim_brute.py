"""Brute force beside the dimension algebra: random expressions with a meaning of their own, and all small sizes."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min
from tessera.ir.facts import Facts

Sizes = Mapping[str, int]


class Undefined(Exception):
    """The expression has no value at these sizes."""


@dataclass(frozen=True)
class Expr:
    """A random expression as a Dim, and its value computed without any algebra."""

    text: str
    dim: Dim
    value: Callable[[Sizes], int]


def _exact(a: int, b: int) -> int:
    if b == 0 or a % b:
        raise Undefined
    return a // b


def _checked(f: Callable[[int, int], int]) -> Callable[[int, int], int]:
    def run(a: int, b: int) -> int:
        if b == 0:
            raise Undefined
        return f(a, b)

    return run


OPERATORS: dict[str, tuple[Callable[[Dim, Dim], Dim], Callable[[int, int], int]]] = {
    "+": (lambda a, b: a + b, lambda a, b: a + b),
    "-": (lambda a, b: a - b, lambda a, b: a - b),
    "*": (lambda a, b: a * b, lambda a, b: a * b),
    "/": (lambda a, b: a / b, _exact),
    "//": (lambda a, b: a // b, _checked(lambda a, b: a // b)),
    "%": (lambda a, b: a % b, _checked(lambda a, b: a % b)),
    "ceildiv": (ceildiv, _checked(lambda a, b: -(-a // b))),
    "min": (dim_min, min),
    "max": (dim_max, max),
}
WEIGHTS = {"+": 6, "-": 3, "*": 6, "/": 4, "//": 3, "%": 2, "ceildiv": 1, "min": 1, "max": 1}


def leaf(rng: random.Random, names: str) -> Expr:
    """A name or a small number."""
    if rng.random() < 0.3:
        n = rng.choice([0, 1, 1, 2, 2, 3, 4, 5])
        return Expr(str(n), Dim.const(n), lambda sizes: n)
    s = rng.choice(names)
    return Expr(s, Dim.name(s), lambda sizes: sizes[s])


def expression(rng: random.Random, names: str, depth: int) -> Expr:
    """A random expression; subexpressions that can have no value at all (``3/2``) are drawn again."""
    if depth == 0 or rng.random() < 0.15:
        return leaf(rng, names)
    for _ in range(20):
        a, b = expression(rng, names, depth - 1), expression(rng, names, rng.randrange(depth))
        kind = rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        build, value = OPERATORS[kind]
        try:
            dim = build(a.dim, b.dim)
        except ShapeError:
            continue
        return Expr(f"({a.text} {kind} {b.text})", dim, _value(value, a, b))
    return leaf(rng, names)


def _value(f: Callable[[int, int], int], a: Expr, b: Expr) -> Callable[[Sizes], int]:
    return lambda sizes: f(a.value(sizes), b.value(sizes))


def assignments(names: str, lo: int, hi: int) -> Iterator[dict[str, int]]:
    """All sizes from lo to hi, both inclusive."""
    for values in product(range(lo, hi + 1), repeat=len(names)):
        yield dict(zip(names, values, strict=True))


def run(f: Callable[[Sizes], int], sizes: Sizes) -> int | None:
    """The value, or None where there is none."""
    try:
        return f(sizes)
    except (ShapeError, Undefined):
        return None


def value_of(dim: Dim) -> Callable[[Sizes], int]:
    """The Dim's own value, negative ones allowed."""
    return dim.evaluator(signed=True)


def divides(den: int, num: int) -> bool:
    return num % den == 0 if den else num == 0


@dataclass(frozen=True)
class Known:
    """Random facts, and a test of sizes against them."""

    facts: Facts
    text: str
    holds: Callable[[Sizes], bool]


def no_facts() -> Known:
    return Known(Facts(), "", lambda sizes: True)


def facts(rng: random.Random, names: str) -> Known:
    """Up to three random facts over the names."""
    known, tests, texts = Facts(), [], []
    for _ in range(rng.randrange(4)):
        kind = rng.choice(["divides", "eq", "ge"])
        a, b = expression(rng, names, 1), expression(rng, names, 1)
        texts.append(f"{a.text} {kind} {b.text}")
        x, y = value_of(a.dim), value_of(b.dim)
        if kind == "divides":
            known = known.with_divides(a.dim, b.dim)
            tests.append(("", _both(x, y, lambda p, q: divides(q, p))))
        elif kind == "eq":
            known = known.with_eq(a.dim, b.dim)
            tests.append(("", _both(x, y, lambda p, q: p == q)))
        else:
            known = known.with_ge(a.dim, b.dim)
            tests.append(("", _both(x, y, lambda p, q: p >= q)))
    checks = [t for _, t in tests]
    return Known(known, "; ".join(texts), lambda sizes: all(t(sizes) for t in checks))


def _both(
    x: Callable[[Sizes], int], y: Callable[[Sizes], int], test: Callable[[int, int], bool]
) -> Callable[[Sizes], bool]:
    def holds(sizes: Sizes) -> bool:
        p, q = run(x, sizes), run(y, sizes)
        return p is not None and q is not None and test(p, q)

    return holds


@dataclass(frozen=True)
class Truth:
    """What brute force says: always over sizes from 0 (None: no size has a value), never over admissible sizes."""

    always: bool | None
    never: bool


def truth(a: Dim, b: Dim, test: Callable[[int, int], bool], known: Known, names: str, top: int) -> Truth:
    """All sizes 0..top for "always", admissible ones 2..top+2 for "never"."""
    x, y = value_of(a), value_of(b)
    always: bool | None = None
    for sizes in assignments(names, 0, top):
        if known.holds(sizes):
            p, q = run(x, sizes), run(y, sizes)
            if p is not None and q is not None:
                always = (always is not False) and test(p, q)
                if not always:
                    break
    free = [n for n in names if n not in known.facts.solved]
    never = True
    for sizes in assignments(names, 2, top + 2):
        if len({sizes[n] for n in free}) == len(free) and known.holds(sizes):
            p, q = run(x, sizes), run(y, sizes)
            if p is not None and q is not None and test(p, q):
                never = False
                break
    return Truth(always, never)
