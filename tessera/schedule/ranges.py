"""Index arithmetic that the scheduler needs: positions to coordinates, bounds, and the order of cut points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tessera.ir.dim import Dim
from tessera.ir.dim_range import bounds as _bounds
from tessera.ir.facts import Facts
from tessera.ir.infer import ONE
from tessera.ir.solver import Verdict, judge_ge

_FACTS = Facts()
Ranges = Mapping[str, tuple[Dim, Dim]]


def provably_ge(a: Dim, b: Dim) -> bool:
    """Is a >= b for every size?"""
    return a is b or judge_ge(a, b, _FACTS) is Verdict.PROVED


def bounds(e: Dim, ranges: Ranges) -> tuple[Dim | None, Dim | None]:
    """The least and the greatest value of ``e`` over the ranges (lo inclusive, hi exclusive), where provable."""
    return _bounds(e, ranges)


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
