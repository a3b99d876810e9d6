"""Scans in C: what a fold has reached, at every point of its sweep."""

from __future__ import annotations

from collections.abc import Sequence

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.body import Body
from tessera.backends.c.fold import Fold
from tessera.ir.dtype import DType

#: Operations of a merge that take no longer than moving its result to every lane.
BRIEF = 1


def scan_step(body: Body, fold: Fold, along: bool) -> None:
    """Take one vector in, and define what the scan has reached at its points. ``along`` says that the lanes are
    points of the scanned axis; else every lane goes its own way.
    """
    if along:
        reached = prefixes(body, fold)
    else:
        body.step(fold)
        # The carry changes with the next point, which later statements must not see.
        reached = named(body, fold, fold.names)
    dtypes = [r.type.dtype for r in fold.op.results]
    for r, text in zip(fold.op.results, body.piece(fold.finish, dtypes, reached), strict=True):
        body.define(r, text)


def prefixes(body: Body, fold: Fold) -> list[str]:
    """The state of every lane merged with those before it, in log2(L) steps that each double how far a lane has
    seen, and with what was carried; the last lane is then carried on.
    """
    alone = [ci.constant(x, d.name) for x, d in zip(fold.init, fold.state, strict=True)]
    x = body.operand(fold.op.operands[0], fold.op.operands[0].type.dtype)
    assert fold.one is not None
    reached = named(body, fold, body.piece(fold.one, fold.state, [x, body.positions(fold.position)]))
    reach = 1
    while reach < body.lanes:
        before = [
            f"t_move{reach}_{lane(d)}({a}, {start})"
            for a, d, start in zip(reached, fold.state, alone, strict=True)
        ]
        reached = merged(body, fold, named(body, fold, before), reached)
        reach *= 2
    whole = merged(body, fold, fold.names, reached)
    # What is carried waits for itself: where merging is one operation, merging the ends once more is the shorter way.
    brief = len(fold.merge.ops) <= BRIEF
    ends = [f"t_last_{lane(d)}({a})" for a, d in zip(reached if brief else whole, fold.state, strict=True)]
    carried = merged(body, fold, fold.names, named(body, fold, ends)) if brief else ends
    for name, text in zip(fold.names, carried, strict=True):
        body.lines.add(f"{name} = {text};")
    return whole


def merged(body: Body, fold: Fold, a: Sequence[str], b: Sequence[str]) -> list[str]:
    """The states of two neighbours joined, ``a`` before ``b``."""
    return named(body, fold, body.piece(fold.merge, fold.state, [*a, *b]))


def lane(dtype: DType) -> str:
    """The kind of lanes that hold a state of ``dtype``: a mask moves as the integers that it consists of."""
    kind = ci.lane(dtype.name)
    return "i32" if kind == "m" else kind


def named(body: Body, fold: Fold, texts: Sequence[str]) -> list[str]:
    """Constants that hold a state."""
    names = [body.fresh() for _ in texts]
    for name, d, text in zip(names, fold.state, texts, strict=True):
        body.lines.add(f"const {ci.vector_type(d.name)} {name} = {text};")
    return names
