"""Which folds can follow others in one sweep, and what may be left out of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tessera.ir.graph import Operation
from tessera.ir.online import INF, STILL, Apart, Motion, factors, gates, identity, motions
from tessera.ir.parser import parse
from tessera.ir.roles import Role, Roles

TEXT = """
fn f(q: f32[S, D], k: f32[D, T], v: f32[T, E], b: f32[S, T], c: bool[S, T], g: f32[S, 1], n: scalar f32) -> f32[S, 1] {
  %s = matmul(q, k, accumulate_dtype=none) : f32[S, T]
  __BODY__
  %last = amax(%s) over [T] keepdim : f32[S, 1]
  return %last
}
"""
MAX = "%m = amax(%s) over [T] keepdim : f32[S, 1]"
SHIFTED = f"{MAX} %d = sub(%s, %m) : f32[S, T]"
EXP = f"{SHIFTED} %p = exp(%d) : f32[S, T]"


def read(*lines: str) -> tuple[Sequence[Operation], Roles]:
    f = parse(TEXT.replace("__BODY__", "\n".join(lines)))
    return f.ops, Roles.find(f.ops, 1)


def motion(name: str, *lines: str) -> Motion | None:
    ops, roles = read(*lines)
    return next((m for v, m in motions(ops, roles).items() if v.name == name), None)


def folded(*lines: str, number: int = -2) -> Motion:
    """How the terms of the last fold of the lines move."""
    ops, roles = read(*lines)
    found = factors(ops, roles)
    return found[roles.folds(ops)[number]]


def test_roles() -> None:
    ops, roles = read(
        EXP, "%t = matmul(%p, v, accumulate_dtype=none) : f32[S, E]", "%u = exp(%t) : f32[S, E]",
        "%w = exp(%m) : f32[S, 1]", "%x = neg(b) : f32[S, T]", "%y = sum(%s) over [S] keepdim : f32[1, T]",
        "%z = div(%t, %w) : f32[S, E]",
    )  # fmt: skip
    named = {r.name: roles[r] for op in ops for r in op.results}
    assert named == {
        "s": Role.FULL, "m": Role.KEPT, "d": Role.FULL, "p": Role.FULL, "t": Role.OUT, "u": Role.OUT, "w": Role.KEPT,
        "x": Role.FREE, "y": Role.OUT, "z": Role.OUT, "last": Role.KEPT,
    }  # fmt: skip


def shift(m: Motion | None) -> dict[str, float]:
    assert m is not None and not m.scales
    return {v.name: n for v, n in m.shift}


@pytest.mark.parametrize(
    ("line", "weights"),
    [
        ("%d = sub(%s, %m) : f32[S, T]", {"m": -1.0}),
        ("%d = sub(%m, %s) : f32[S, T]", {"m": 1.0}),
        ("%d = add(%s, %m) : f32[S, T]", {"m": 1.0}),
        ("%a = sub(%s, %m) : f32[S, T] %d = mul(%a, 0.5) : f32[S, T]", {"m": -0.5}),
        ("%a = sub(%s, %m) : f32[S, T] %d = mul(2, %a) : f32[S, T]", {"m": -2.0}),
        ("%a = sub(%s, %m) : f32[S, T] %d = add(%a, %m) : f32[S, T]", {}),
        ("%a = sub(%s, %m) : f32[S, T] %d = where(c, %a, -inf) : f32[S, T]", {"m": -1.0}),
        ("%a = sub(%s, %m) : f32[S, T] %d = add(%a, b) : f32[S, T]", {"m": -1.0}),
    ],
)
def test_what_moves_by_a_shift(line: str, weights: dict[str, float]) -> None:
    assert shift(motion("d", MAX, line)) == weights


@pytest.mark.parametrize(
    "line",
    [
        "%d = mul(%s, %m) : f32[S, T]",
        "%d = div(%s, %m) : f32[S, T]",
        "%d = maximum(%s, %m) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %d = tanh(%a) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %d = where(c, %a, 0.0) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %d = where(c, %a, b) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %b2 = gt(%a, 0.0) : bool[S, T] %d = where(%b2, %s, b) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %d = mul(%a, %a) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %d = abs(%a) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %e = exp(%a) : f32[S, T] %d = add(%e, 1.0) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %e = exp(%a) : f32[S, T] %d = exp(%e) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %e = exp(%a) : f32[S, T] %d = div(1.0, %e) : f32[S, T]",
        "%a = sub(%s, %m) : f32[S, T] %e = exp(%a) : f32[S, T] %d = where(c, %e, 1.0) : f32[S, T]",
    ],
)
def test_what_moves_in_no_way_that_is_known(line: str) -> None:
    assert motion("d", MAX, line) is None


def test_what_stays() -> None:
    assert motion("d", MAX, "%d = mul(%s, b) : f32[S, T]") == STILL
    assert motion("d", "%d = sub(%s, g) : f32[S, T]") == STILL


SUM = "%l = sum(%p) over [T] keepdim : f32[S, 1]"


@pytest.mark.parametrize(
    "line",
    [
        SUM,
        "%r = mul(%p, b) : f32[S, T] %l = sum(%r) over [T] keepdim : f32[S, 1]",
        "%r = where(c, %p, 0.0) : f32[S, T] %l = sum(%r) over [T] keepdim : f32[S, 1]",
        "%r = div(%p, b) : f32[S, T] %l = sum(%r) over [T] keepdim : f32[S, 1]",
        "%l = matmul(%p, v, accumulate_dtype=none) : f32[S, E]",
    ],
)
def test_sums_follow_the_maximum(line: str) -> None:
    (scale,) = folded(EXP, line).scales
    record, moved = scale
    assert record.name == "exp" and [(v.name, n) for v, n in moved] == [("m", -1.0)]


def test_a_sum_can_follow_two_maxima() -> None:
    lines = (EXP, "%h = amax(%w0) over [T] keepdim : f32[S, 1]", "%e = sub(%w0, %h) : f32[S, T]",
             "%o = exp2(%e) : f32[S, T]", "%r = mul(%p, %o) : f32[S, T]",
             "%l = sum(%r) over [T] keepdim : f32[S, 1]")  # fmt: skip
    found = folded("%w0 = mul(%s, b) : f32[S, T]", *lines)
    assert [(r.name, [(v.name, n) for v, n in s]) for r, s in found.scales] == [
        ("exp", [("m", -1.0)]), ("exp2", [("h", -1.0)]),
    ]  # fmt: skip


def test_the_least_is_followed_from_below() -> None:
    found = folded(
        "%m = amin(%s) over [T] keepdim : f32[S, 1] %d = sub(%m, %s) : f32[S, T] %p = exp(%d) : f32[S, T]", SUM
    )
    assert [(v.name, n) for v, n in found.scales[0][1]] == [("m", 1.0)]


APART = {
    "a mean moves both ways": (
        "%m = sum(%s) over [T] keepdim : f32[S, 1]", "%d = sub(%s, %m) : f32[S, T]", "%p = exp(%d) : f32[S, T]", SUM),
    "terms grow with the least": (
        "%m = amin(%s) over [T] keepdim : f32[S, 1]", "%d = sub(%s, %m) : f32[S, T]", "%p = exp(%d) : f32[S, T]", SUM),
    "terms grow with the largest": (
        MAX, "%d = sub(%m, %s) : f32[S, T]", "%p = exp(%d) : f32[S, T]", SUM),
    "a sum of what shifts": (SHIFTED, "%l = sum(%d) over [T] keepdim : f32[S, 1]"),
    "a maximum of what shifts": (SHIFTED, "%l = amax(%d) over [T] keepdim : f32[S, 1]"),
    "a maximum of what scales": (EXP, "%l = amax(%p) over [T] keepdim : f32[S, 1]"),
    "a product of what scales": (EXP, "%l = prod(%p) over [T] keepdim : f32[S, 1]"),
    "a sum of no law": (SHIFTED, "%p = tanh(%d) : f32[S, T]", SUM),
    "a sum of squares of what shifts": (SHIFTED, "%p = mul(%d, %d) : f32[S, T]", SUM),
    "a second exponential": (EXP, "%x = exp(%p) : f32[S, T]", "%l = sum(%x) over [T] keepdim : f32[S, 1]"),
    "a maximum of two that is shifted by a sum": (
        MAX, "%w = sum(%s) over [T] keepdim : f32[S, 1]", "%m2 = maximum(%m, %w) : f32[S, 1]",
        "%d = sub(%s, %m2) : f32[S, T]", "%p = exp(%d) : f32[S, T]", SUM),
}  # fmt: skip


@pytest.mark.parametrize("lines", APART.values(), ids=APART)
def test_what_cannot_follow(lines: Sequence[str]) -> None:
    ops, roles = read(*lines)
    with pytest.raises(Apart) as caught:
        factors(ops, roles)
    assert caught.value.op.results[0].name == "l"


# -- what is left out


def gated(*lines: str) -> list[tuple[str, bool]]:
    ops, roles = read(*lines)
    folds = [op for op in roles.folds(ops) if op.result.name != "last"]
    return [(v.name, alive) for v, alive in gates(ops, roles, folds)]


MASKED = "%a = where(c, %s, -inf) : f32[S, T]"
SOFTMAX = (
    "%m = amax(%a) over [T] keepdim : f32[S, 1]",
    "%d = sub(%a, %m) : f32[S, T]",
    "%p = exp(%d) : f32[S, T]",
    SUM,
)


def test_a_mask_is_a_gate() -> None:
    assert gated(MASKED, *SOFTMAX) == [("c", True)]
    assert gated("%a = where(c, -inf, %s) : f32[S, T]", *SOFTMAX) == [("c", False)]
    assert gated("%x = where(c, -inf, 0.0) : f32[S, T] %a = add(%s, %x) : f32[S, T]", *SOFTMAX) == [("c", False)]
    assert gated("%a = where(c, %s, 0.0) : f32[S, T]", "%l = sum(%a) over [T] keepdim : f32[S, 1]") == [("c", True)]


NO_GATES = {
    "a number that counts": ("%a = where(c, %s, -10000.0) : f32[S, T]", *SOFTMAX),
    "zero under a maximum": ("%a = where(c, %s, 0.0) : f32[S, T]", *SOFTMAX),
    "-inf under a sum": (MASKED, "%l = sum(%a) over [T] keepdim : f32[S, 1]"),
    "a fold that reads all": (MASKED, *SOFTMAX, "%o = sum(%s) over [T] keepdim : f32[S, 1]"),
    "the position of the largest": (MASKED, "%l = argmax(%a) over [T] keepdim : int64[S, 1]"),
    "the position among numbers": (
        "%a = where(c, %s, 0.0) : f32[S, T]", "%l = argmax(%a) over [T] keepdim : int64[S, 1]"),
    "an absolute value": (MASKED, "%a2 = abs(%a) : f32[S, T]", "%l = amax(%a2) over [T] keepdim : f32[S, 1]"),
    "a product with a number of either sign": (
        MASKED, "%a2 = mul(%a, n) : f32[S, T]", "%l = amax(%a2) over [T] keepdim : f32[S, 1]"),
    "a product with a negative number": (
        MASKED, "%a2 = mul(%a, -1.0) : f32[S, T]", "%l = amax(%a2) over [T] keepdim : f32[S, 1]"),
    "the least": (MASKED, "%l = amin(%a) over [T] keepdim : f32[S, 1]"),
}  # fmt: skip


@pytest.mark.parametrize("lines", NO_GATES.values(), ids=NO_GATES)
def test_what_is_no_gate(lines: Sequence[str]) -> None:
    assert gated(*lines) == []


def test_identities() -> None:
    ops, roles = read(EXP, SUM, "%o = amin(%s) over [T] keepdim : f32[S, 1]",
                      "%w = matmul(%p, v, accumulate_dtype=none) : f32[S, E]")  # fmt: skip
    found = {op.result.name: identity(op) for op in roles.folds(ops)}
    assert found == {"m": -INF, "l": 0.0, "o": INF, "w": 0.0, "last": -INF}
