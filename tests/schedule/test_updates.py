"""Which updates a kernel writes to the parameter itself, which are copied, and which lists are joined."""

from __future__ import annotations

import pytest

from tessera.ir.parser import parse
from tessera.schedule.plan import Program
from tessera.schedule.schedule import schedule
from tests.fuzz.programs import fused


def program(text: str, *, strided: str = "", pieces: str = "", joined: str = "") -> Program:
    return schedule(fused(parse(text)), frozenset(strided), frozenset(pieces), frozenset(joined))


def direct(p: Program) -> list[str]:
    return sorted(v.name for k in p.kernels for _, v in k.updates)


ADD = "fn f(p: f32[N], g: f32[N]) -> f32[N] { %a = add(p, g) : f32[N] return p = %a }"
NORMED = """fn f(p: f32[N], g: f32[N]) -> f32[N] {
  %s = sum(p) over [N] : f32[]
  %m = mul(g, %s)      : f32[N]
  %a = add(p, %m)      : f32[N]
  return p = %a
}"""
RETURNED = "fn f(p: f32[N], g: f32[N]) -> (f32[N], f32[N]) { %a = add(p, g) : f32[N] return %a, p = %a }"
KEPT = "fn f(p: f32[N], g: f32[N]) -> (f32[N], f32[N]) { %a = add(p, g) : f32[N] return p, p = %a }"
FLIPPED = """fn f(p: f32[N], g: f32[N]) -> f32[N] {
  %r = flip(p, dims=(0,)) : f32[N]
  %a = add(%r, g)         : f32[N]
  return p = %a
}"""
LATER = """fn f(p: f32[N], g: f32[N], w: f32[N, N]) -> (f32[N], f32[N]) {
  %a = add(p, g)                       : f32[N]
  %c = cumsum(p, dim=0)                : f32[N]
  %d = mul(%c, g)                      : f32[N]
  return %d, p = %a
}"""
ROWS = """fn f(p: f32[B, D], g: f32[D]) -> f32[B, D] {
  %s = sum(p) over [D] keepdim : f32[B, 1]
  %a = div(p, %s)              : f32[B, D]
  %b = mul(%a, g)              : f32[B, D]
  return p = %b
}"""
SHARED = "fn f(p: f32[N], q: f32[N]) -> (f32[N], f32[N]) { %a = add(p, q) : f32[N] return p = %a, q = %a }"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        (ADD, ["p"]), (NORMED, ["p"]), (RETURNED, ["p"]), (KEPT, []), (FLIPPED, []), (ROWS, ["p"]), (SHARED, []),
    ],
    ids=["map", "sum first", "returned", "old one returned", "read elsewhere", "rows", "two of one"],
)  # fmt: skip
def test_updates_in_place(text: str, wanted: list[str]) -> None:
    made = program(text)
    found = direct(made)
    assert (found == wanted) if text is not SHARED else len(found) <= 1
    assert {v.name for v, _ in made.copied} == {v.name for v in made.function.updates} - set(found)


def test_what_a_later_step_reads_is_not_overwritten() -> None:
    made = program(LATER)
    for n, step in enumerate(made.steps):
        names = {v.name for v in getattr(step, "inputs", ())}
        if n and "p" in names:
            assert direct(made) == [] or all("p" not in [v.name for _, v in k.updates] for k in made.kernels[:n])


def test_strided_parameters_are_copied_to() -> None:
    assert direct(program(ADD, strided="p")) == []
    assert direct(program(ADD, strided="g")) == ["p"]


def test_pieces_are_walked_where_every_kernel_can() -> None:
    for text in (ADD, NORMED):
        made = program(text, pieces="pg")
        assert not made.joined and direct(made) == ["p"] and not made.copied
    assert program(FLIPPED, pieces="pg").joined == {"p"}
    assert program(RETURNED, pieces="pg").joined == frozenset()  # a tensor is returned, and copied to the pieces
    assert program(KEPT, pieces="pg").joined == {"p"}
    assert program(ADD, pieces="pg", joined="pg").joined == {"p", "g"}


def test_pieces_of_other_sizes_do_not_share_a_kernel() -> None:
    text = """fn f(p: f32[N], q: f32[M]) -> (f32[N], f32[M]) {
      %s = sum(p) over [N] : f32[]
      %t = sum(q) over [M] : f32[]
      %a = mul(p, %t)      : f32[N]
      %b = mul(q, %s)      : f32[M]
      return p = %a, q = %b
    }"""
    made = program(text, pieces="pq")
    for k in made.kernels:
        kinds = {v.type.dims for v in k.function.params if getattr(v.type, "pieces", False)}
        assert len(kinds) <= 1
