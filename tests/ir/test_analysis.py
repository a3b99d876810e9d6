"""Uses, lifetimes and dependence of the operations of a block."""

from __future__ import annotations

from hypothesis import given

from tessera.ir.analysis import Dependence, dead_after, last_uses, use_counts, value_bytes
from tessera.ir.graph import Function, Operation, Value
from tessera.ir.parser import parse
from tests.fuzz.strategies import functions

TEXT = """
fn f(x: bf16[B, D], e: scalar f32) -> f32[B, D] {
  %a = cast(x, dtype=f32)   : f32[B, D]
  %b = exp(%a)              : f32[B, D]
  %c = mul(%b, %b)          : f32[B, D]
  %d = neg(%a)              : f32[B, D]
  map(%d, e) -> %h {
    %g = add(%d, e)         : f32[B, D]
    %h = mul(%g, %d)        : f32[B, D]
  }
  %i = add(%h, %b)          : f32[B, D]
  return %i
}
"""


def names(values: list[Value]) -> set[str]:
    return {v.name for v in values}


def test_how_often_values_are_read() -> None:
    counts = {v.name: n for v, n in use_counts(parse(TEXT).body).items()}
    assert counts == {"x": 1, "a": 2, "b": 3, "d": 3, "e": 2, "g": 1, "h": 1, "i": 1}


def test_where_values_die() -> None:
    f = parse(TEXT)
    last = {v.name: n for v, n in last_uses(f.body).items()}
    assert last == {"x": 0, "a": 3, "b": 5, "d": 4, "e": 4, "g": 4, "h": 5, "i": 6}
    dead = [names(d) for d in dead_after(f.body)]
    assert dead == [{"x"}, set(), {"c"}, {"a"}, {"d", "e", "g"}, {"b", "h"}]


def test_what_depends_on_what() -> None:
    f = parse(TEXT)
    a, b, c, d, group, i = f.ops
    depends = Dependence(f.ops)
    assert depends.depends(i, a) and depends.depends(group, d) and depends.depends(c, b)
    assert not depends.depends(d, b) and not depends.depends(a, i) and not depends.depends(a, a)
    assert depends.convex([a, b]) and depends.convex([c, d]) and depends.convex([])
    assert not depends.convex([a, i])
    assert not depends.convex([d, i])
    assert depends.convex([d, group, i])


def test_bytes_are_polynomials() -> None:
    f = parse(TEXT)
    x, e = f.params
    assert str(value_bytes(x)) == "2*B*D"
    assert str(value_bytes(e)) == "4"
    assert str(value_bytes(f.ops[0].result)) == "4*B*D"


@given(functions())
def test_dependence_is_reachability(f: Function) -> None:
    depends = Dependence(f.ops)
    maker = {r: op for op in f.ops for r in op.results}
    above: dict[Operation, set[Operation]] = {}
    for op in f.ops:
        direct = {maker[v] for v in op.inputs if v in maker}
        above[op] = direct.union(*(above[d] for d in direct))
    for op in f.ops:
        assert {o for o in f.ops if depends.depends(op, o)} == above[op]
