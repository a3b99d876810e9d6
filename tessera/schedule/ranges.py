"""Index arithmetic that the scheduler needs: positions to coordinates, bounds, and the order of cut points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.ir.dim import Dim
from tessera.ir.dim_range import bounds as _bounds
from tessera.ir.facts import Facts
from tessera.ir.infer import ONE
from tessera.ir.solver import Verdict, judge_ge

_FACTS = Facts()
#: How often a bound that depends on further axes is bounded once more.
_ROUNDS = 8
Ranges = Mapping[str, tuple[Dim, Dim]]


def provably_ge(a: Dim, b: Dim) -> bool:
    """Is a >= b for every size?"""
    return a is b or judge_ge(a, b, _FACTS) is Verdict.PROVED


def bounds(e: Dim, ranges: Ranges) -> tuple[Dim | None, Dim | None]:
    """The least and the greatest value of ``e`` over the ranges (lo inclusive, hi exclusive), where provable."""
    return _bounds(e, ranges)


def most(e: Dim, ranges: Ranges) -> Dim | None:
    """A bound of a size that depends neither on axes nor on what is read from memory; None where none is found.

    >>> i, S = Dim.name("i"), Dim.name("S")
    >>> str(most(i * 2, {"i": (Dim.const(0), S)}))
    '2*S - 2'
    """
    for _ in range(_ROUNDS):
        if not e.names() & ranges.keys():
            return None if any(n.startswith("_l") for n in e.names()) else e
        _, high = bounds(e, ranges)
        if high is None or high is e:
            return None
        e = high
    return None


def delinearize(position: Dim, dims: Sequence[Dim]) -> tuple[Dim, ...]:
    """Coordinates in a row-major space of a position along it."""
    out: list[Dim] = []
    inner = ONE
    for number, d in enumerate(reversed(dims)):
        e = position // inner
        out.append(e if number == len(dims) - 1 else e % d)
        inner = inner * d
    return tuple(reversed(out))


def in_order(points: Sequence[Dim]) -> list[Dim] | None:
    """The distinct points from least to greatest; None when some pair cannot be compared."""
    ordered: list[Dim] = []
    for p in dict.fromkeys(points):
        at = 0
        while at < len(ordered) and provably_ge(p, ordered[at]):
            at += 1
        if at < len(ordered) and not provably_ge(ordered[at], p):
            return None
        ordered.insert(at, p)
    return ordered
