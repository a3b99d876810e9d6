"""Every two regions that feed each other and stayed separate have a reason, and `explain()` prints it."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

import tessera
from tessera import Tensor
from tessera.ir.dialects import OPS
from tessera.ir.graph import Function
from tessera.ir.parser import parse
from tessera.passes.apart import Obstacle
from tessera.passes.fuse import Fuse
from tessera.passes.grouping import MAX_OPS
from tessera.schedule.schedule import schedule
from tests.fuzz.strategies import functions

SIGNATURE = "fn f(x: f32[B, D], w: f32[D, D], v: f32[D]) -> f32"

#: By obstacle: the result's dims, a body, and the line that explains it.
CASES = {
    Obstacle.LIBRARY: (
        "[B, D]", "%a = exp(x) : f32[B, D] %m = matmul(%a, w) : f32[B, D] return %m",
        "map %a -> extern %m apart: `matmul` is a library call of its own",
    ),
    Obstacle.VIEW: (
        "[B, 1, D]", "%a = exp(x) : f32[B, D] %m = unsqueeze(%a, dim=1) : f32[B, 1, D] return %m",
        "map %a -> extern %m apart: `unsqueeze` is a view, which moves nothing",
    ),
    Obstacle.BETWEEN: (
        "[B, D]",
        "%a = exp(x) : f32[B, D] %m, %i = sort(%a, dim=0, descending=false) : f32[B, D], int64[B, D] "
        "%s = add(%a, %m) : f32[B, D] return %s",
        "map %a -> map %s apart: `sort` stands between them",
    ),
    Obstacle.ORDER: (
        "[D]", "%a = exp(v) : f32[D] %s = cumsum(%a, dim=0) : f32[D] return %s",
        "map %a -> row %s apart: a scan of all elements in order would leave 10 operations an element to one thread",
    ),
    Obstacle.STREAM: (
        "[B, D]", "%a = exp(x) : f32[B, D] %m = matmul(%a, w) : f32[B, D] %s = exp(%m) : f32[B, D] return %s",
        "map %a -> stream %s apart: what is made of `matmul` block by block has a kernel of its own",
    ),
    Obstacle.LOOPS: (
        "[B, D]",
        "%a = exp(x) : f32[B, D] %s = slice(%a, dim=1, start=0, stop=1, step=1) : f32[B, 1] "
        "%c = sum(%s) over [B] keepdim : f32[1, 1] %o = add(x, %c) : f32[B, D] return %o",
        "map %a -> column %c apart: the loops differ: [B, D] and [B]",
    ),
    Obstacle.AXES: (
        "[B, D]",
        "%r = sum(x) over [D] keepdim : f32[B, 1] %a = sub(x, %r) : f32[B, D] "
        "%c = sum(%a) over [B] keepdim : f32[1, D] %d = amax(%a) over [D] keepdim : f32[B, 1] "
        "%o = add(%c, %d) : f32[B, D] return %o",
        "row %a -> column %o apart: the reductions leave different dims: [B] and [D]",
    ),
    Obstacle.REDUCED: (
        "[]",
        "%r = amax(x) over [D] : f32[B] %s = sum(%r) over [B] : f32[] %t = add(x, %s) : f32[B, D] "
        "%o = sum(%t) over [B, D] : f32[] return %o",
        "apart: what is reduced twice is complete only when the kernel ends",
    ),
    Obstacle.REPEAT: (
        "[B, D]",
        "%a = tanh(v) : f32[D] %b = exp(%a) : f32[D] %c = add(x, %b) : f32[B, D] return %c",
        "map %b -> map %c apart: computed over [D], it would be repeated for every element of [B, D]",
    ),
    Obstacle.RECURRENCE: (
        "[D]",
        "%m = sum(x) over [D] keepdim : f32[B, 1] %e = mul(x, %m) : f32[B, D] "
        "%t = scan(v, %e, carries=1, dim=0, reverse=false) : f32[D] { ^(c: f32[D], r: f32[D]) "
        "%a = add(c, r) : f32[D] yield %a } return %t",
        "row %m -> recurrence %t apart: the steps of `scan` have a kernel of their own",
    ),
    Obstacle.SIZE: (
        "[B, D]",
        " ".join(f"%x{n} = exp({f'%x{n - 1}' if n else 'x'}) : f32[B, D]" for n in range(MAX_OPS + 1))
        + f" return %x{MAX_OPS}",
        f"map %x{MAX_OPS - 1} -> map %x{MAX_OPS} apart: one kernel would hold {MAX_OPS + 1} operations",
    ),
}  # fmt: skip


def apart(f: Function) -> list[str]:
    return [d for d in Fuse().run(f).notes[-1].details if " apart: " in d]


def test_every_obstacle_has_a_case() -> None:
    assert set(CASES) == set(Obstacle)


@pytest.mark.parametrize("obstacle", CASES, ids=lambda o: o.name.lower())
def test_the_reason_is_named(obstacle: Obstacle) -> None:
    dims, body, line = CASES[obstacle]
    found = apart(parse(f"{SIGNATURE}{dims} {{ {body} }}"))
    assert any(line in one for one in found), found


@settings(max_examples=60)
@given(functions(max_ops=16, dressed=False))
def test_every_pair_has_one_line(f: Function) -> None:
    fused = Fuse().run(f)
    maker = {r: op for op in fused.ops for r in op.results}
    pairs = {(id(maker[v]), id(op)) for op in fused.ops for v in op.inputs if v in maker}
    assert len([d for d in fused.notes[-1].details if " apart: " in d]) == len(pairs)


def test_groups_that_share_their_loops_late_are_joined() -> None:
    """`%c` runs over [B] until `%o` draws it into loops over [B, D]; `%p` has these loops too."""
    f = parse(
        "fn f(x: f32[B, D]) -> (f32[B, D], f32[B, D]) { %p = exp(x) : f32[B, D] "
        "%s = slice(%p, dim=1, start=0, stop=1, step=1) : f32[B, 1] %c = sin(%s) : f32[B, 1] "
        "%o = add(x, %c) : f32[B, D] return %p, %o }"
    )
    assert len(Fuse().run(f).ops) == 1 and not apart(f)


def test_explain_prints_the_reasons() -> None:
    @tessera.function
    def projected(x: Tensor["B", "D"], w: Tensor["D", "K"]) -> Tensor["B", "K"]:
        h = tessera.exp(x)
        return tessera.relu(h @ w)

    text = str(projected.explain())
    assert "map %h -> stream %relu apart: what is made of `matmul` block by block has a kernel of its own" in text


def test_a_region_that_is_no_kernel_says_why() -> None:
    parts = range(70)
    total = " + ".join(f"S{n}" for n in parts)
    f = parse(
        f"fn f({', '.join(f'x{n}: f32[S{n}]' for n in parts)}) -> f32[{total}] {{ "
        f"%c = cat({', '.join(f'x{n}' for n in parts)}, dim=0) : f32[{total}] %e = exp(%c) : f32[{total}] return %e }}"
    )
    (cut,) = schedule(Fuse().run(f)).cuts
    assert str(cut) == "map %e taken apart: a loop would be cut into more than 64 parts"
    assert OPS["cat"] in [op.record for op in cut.region.body.ops]  # type: ignore[union-attr]
