"""Index expressions: simplification, strides and bounds under ranges, against all points of small spaces."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import product

import pytest

from tessera.diag import ShapeError
from tessera.ir.dim import Dim, ceildiv, dim_max, dim_min
from tessera.ir.dim_parse import parse_dim
from tessera.ir.dim_range import Ranges, bounds, coefficient, simplify_index

ZERO = Dim.of(0)
SIZES, AXES = ("B", "S", "D"), ("i", "j", "k")


def upto(**ends: str) -> dict[str, tuple[Dim, Dim]]:
    return {axis: (ZERO, parse_dim(end)) for axis, end in ends.items()}


ROWS = upto(b="B", s="S", d="D", i="N", j="D", k="B*S*D", h="H", e="E", u="4", w="3")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("(i*D + j)//D", "i"),
        ("(i*D + j)%D", "j"),
        ("((b*S + s)*D + d)%D", "d"),
        ("((b*S + s)*D + d)//D%S", "s"),
        ("((b*S + s)*D + d)//(D*S)", "b"),
        ("((b*S + s)*D + d)//(D*S)%B", "b"),
        ("k//(S*D)*S*D + k//D%S*D + k%D", "k"),
        ("k//(S*D)*S*D + k%(S*D)", "k"),
        ("((s*H + h)*E + e)%(H*E)", "h*E + e"),
        ("((s*H + h)*E + e)%(H*E)//E", "h"),
        ("(4*i + u)//12", "i//3"),
        ("(4*i + u)%12", "4*(i%3) + u"),
        ("(s*D + d)//(2*D)", "s//2"),
        ("(12*i + 4*w + u)//4%3", "w"),
        ("k//D//S", "k//(D*S)"),
        ("min(s, S)", "s"),
        ("min(s + 1, S)", "s + 1"),
        ("max(s, 0)", "s"),
        ("(d + D)%D", "d"),
        ("(d + D)//D", "1"),
        ("(D - 1 - d)//D", "0"),
        ("(-1 - d)%D", "D - 1 - d"),
        ("k%(S*D)//D", "k//D%S"),
        ("k%(S*D)%D", "k%D"),
        ("k//(B*S*D)", "0"),
        ("i//2*2 + i%2", "i"),
        ("3*(i//2*2 + i%2) + 1", "3*i + 1"),
        ("(k//D*D + k%D)//(S*D)", "k//(S*D)"),
        ("i//4", "i//4"),
        ("(i - 1)//4", "(i - 1)//4"),
        ("i%D", "i%D"),
        ("x//3", "x//3"),
    ],
)
def test_simplified(text: str, want: str) -> None:
    assert simplify_index(parse_dim(text), ROWS) is parse_dim(want)


def test_a_round_trip_of_reshapes_vanishes() -> None:
    """[B, S, D] -> [B*S, D] -> [B, S*D] -> [B, S, D], as index arithmetic."""
    b, s, d = (Dim.of(n) for n in "bsd")
    B, S, D = (Dim.of(n) for n in "BSD")
    flat = (b * S + s) * D + d
    row, column = simplify_index(flat // D, ROWS), simplify_index(flat % D, ROWS)
    again = row * D + column
    first, second = simplify_index(again // (S * D), ROWS), simplify_index(again % (S * D), ROWS)
    whole = first * S * D + second
    got = [simplify_index(x, ROWS) for x in (whole // (S * D), whole // D % S, whole % D)]
    assert got == [b, s, d]
    assert B.is_name


def test_coefficients() -> None:
    e = parse_dim("i*S*D + j*D + 2*j + k//2 + 7")
    assert coefficient(e, "i") is parse_dim("S*D")
    assert coefficient(e, "j") is parse_dim("D + 2")
    assert coefficient(e, "k") is None
    assert coefficient(e, "x") is ZERO
    assert coefficient(parse_dim("i**2"), "i") is None
    assert coefficient(parse_dim("i/S"), "i") is parse_dim("1/S")
    assert coefficient(parse_dim("(S//2)*i"), "i") is parse_dim("S//2")


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("b*S*D + s*D + d", "0", "B*S*D - 1"),
        ("2*i + 1", "1", "2*N - 1"),
        ("S - 1 - s", "0", "S - 1"),
        ("i//4 + 2*(j%3) - d", "1 - D", "(N - 1)//4 + 4"),
        ("min(i + 4, j)", "0", "min(D - 1, N + 3)"),
        ("max(i - 4, 0)", "0", "max(0, N - 5)"),
        ("S + 3", "S + 3", "S + 3"),
        ("7", "7", "7"),
    ],
)
def test_bounds(text: str, low: str, high: str) -> None:
    assert bounds(parse_dim(text), ROWS) == (parse_dim(low), parse_dim(high))


def test_bounds_of_a_walk_in_chunks() -> None:
    ranges = {"c": (ZERO, parse_dim("ceildiv(N, 256)")), "k": (parse_dim("256*c"), parse_dim("min(256*c + 256, N)"))}
    low, high = bounds(parse_dim("k"), ranges)
    assert low is ZERO and high is parse_dim("min(256*ceildiv(N, 256), N) - 1")
    assert bounds(parse_dim("i*j"), upto(i="N", j="M")) == (ZERO, parse_dim("(N - 1)*(M - 1)"))
    assert bounds(parse_dim("i*(j - 2)"), upto(i="N", j="M")) == (parse_dim("2 - 2*N"), None)


def test_an_axis_that_may_be_negative_proves_nothing() -> None:
    ranges = {"i": (parse_dim("B - 2"), parse_dim("B + 2"))}
    assert simplify_index(parse_dim("max(i, 0)"), ranges) is parse_dim("max(i, 0)")


def extent(rng: random.Random) -> Dim:
    b, s, d = (Dim.of(n) for n in SIZES)
    return rng.choice([b, s, d, s * d, b * 2, s + 1, ceildiv(b, 2), Dim.of(rng.randint(1, 5))])


def index(rng: random.Random, depth: int) -> Dim:
    if depth == 0:
        return rng.choice([Dim.of(rng.choice(AXES)), Dim.of(rng.choice(AXES)), extent(rng), Dim.of(rng.randint(0, 3))])
    a, b = index(rng, depth - 1), index(rng, rng.randrange(depth))
    kind = rng.choice("+++***//%%-mM")
    if kind in "/%":
        return a // extent(rng) if kind == "/" else a % extent(rng)
    if kind in "mM":
        return dim_min(a, b) if kind == "m" else dim_max(a, b)
    return {"+": a + b, "-": a - b, "*": a * b}[kind]


def spans(rng: random.Random) -> dict[str, tuple[Dim, Dim]]:
    starts = [ZERO, ZERO, ZERO, Dim.of(1), Dim.of("B"), Dim.of("B") - 2]
    ranges = {axis: (rng.choice(starts), extent(rng)) for axis in AXES}
    if rng.random() < 0.3:
        ranges["k"] = (2 * Dim.of("i"), dim_min(2 * Dim.of("i") + 2, extent(rng)))
    return ranges


def points(ranges: Ranges, top: int) -> Iterator[dict[str, int]]:
    for sizes in product(range(top + 1), repeat=3):
        stack = [dict(zip(SIZES, sizes, strict=True))]
        for axis in AXES:
            lo, hi = ranges[axis]
            stack = [
                {**at, axis: x}
                for at in stack
                for x in range(lo.evaluate(at, signed=True), hi.evaluate(at, signed=True))
            ]
        yield from stack


@pytest.mark.parametrize("chunk", range(12))
def test_against_all_points(chunk: int) -> None:
    for case in range(12):
        rng = random.Random(chunk * 100 + case)
        ranges = spans(rng)
        e = index(rng, rng.choice([2, 3, 4]))
        simple = simplify_index(e, ranges)
        low, high = bounds(e, ranges)
        before, after = e.evaluator(signed=True), simple.evaluator(signed=True)
        for at in points(ranges, 3):
            try:
                value = before(at)
            except ShapeError:
                continue
            assert after(at) == value, (str(e), str(simple), at)
            assert low is None or low.evaluate(at, signed=True) <= value, (str(e), str(low), at)
            assert high is None or high.evaluate(at, signed=True) >= value, (str(e), str(high), at)
