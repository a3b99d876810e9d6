"""Every operation of ``tile`` that computes, against torch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F

import tessera
from tessera import Tile, int32, tile
from tessera.frontend.kernel.table import TILE_TABLE
from tests.kernels.given import f

ONE: dict[str, Callable[[Any], Any]] = {
    "exp": torch.exp, "log": lambda x: torch.log(x.abs()), "sqrt": lambda x: x.abs().sqrt(), "abs": torch.abs,
    "rsqrt": lambda x: x.abs().rsqrt(), "tanh": torch.tanh, "erf": torch.erf, "sigmoid": torch.sigmoid,
    "round": torch.round, "swish": F.silu, "transpose": lambda x: x.mT,
}  # fmt: skip
TWO: dict[str, Callable[[Any, Any], Any]] = {
    "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "maximum": torch.maximum,
    "minimum": torch.minimum,
}  # fmt: skip
FOLDS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: x.sum(1), "max": lambda x: x.amax(1), "min": lambda x: x.amin(1), "mean": lambda x: x.mean(1),
    "reduce_sum": lambda x: x.sum(1), "reduce_max": lambda x: x.amax(1), "reduce_min": lambda x: x.amin(1),
    "reduce_mean": lambda x: x.mean(1),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE)
def test_one_operand(name: str) -> None:
    op, positive = getattr(tile, name), name in ("log", "sqrt", "rsqrt")

    @tessera.kernel
    def run(x: Tile[4, 4], y: Tile[4, 4]):
        v = tile.load(x)
        tile.store(y, op(tile.abs(v) if positive else v))

    torch.testing.assert_close(run(f(4, 4)), ONE[name](f(4, 4)))


@pytest.mark.parametrize("name", TWO)
def test_two_operands(name: str) -> None:
    op = getattr(tile, name)

    @tessera.kernel
    def run(a: Tile["N"], b: Tile["N"], y: Tile["N"]):
        tile.store(y, op(tile.load(a), b))

    a, b = f(9), f(9).flip(0) + 3
    torch.testing.assert_close(run(a, b), TWO[name](a, b))


@pytest.mark.parametrize("name", FOLDS)
def test_folds(name: str) -> None:
    for space in (tile, tile.warp) if name.startswith("reduce") else (tile,):
        op = getattr(space, name)

        @tessera.kernel
        def run(x: Tile["S", "D"], y: Tile["S"], op: Any = op):
            tile.store(y, op(tile.load(x), axis=1))

        torch.testing.assert_close(run(f(3, 7)), FOLDS[name](f(3, 7)))


@tessera.kernel
def shapes(x: Tile["S", "D"], a: Tile["S", "D"], b: Tile["D", "S"], c: Tile["2*S", "D"], d: Tile["S*D"]):
    v = tile.load(x)
    left, right = tile.split(v, 2, axis=1)
    tile.store(a, tile.concat([right, left], axis=1))
    tile.store(b, v.mT)
    tile.store(c, tile.concat([v, -v]))
    tile.store(d, tile.reshape(v, -1))


def test_shapes() -> None:
    x = f(3, 4)
    a, b, c, d = shapes(x)
    assert torch.equal(a, torch.cat([x[:, 2:], x[:, :2]], 1)) and torch.equal(b, x.T)
    assert torch.equal(c, torch.cat([x, -x])) and torch.equal(d, x.flatten())


@tessera.kernel
def positions(x: Tile["S", "D"], a: Tile["S", "D"], b: Tile["S", "D"], c: Tile["S", "D"], n: int):
    ctx = tile.context()
    v = tile.load(x)
    tile.store(a, tile.mask_cols(v, 1, n, 0.0))
    tile.store(b, tile.where(tile.iota((ctx.S, ctx.D), 1) < tile.iota((ctx.S, ctx.D), 0), v, tile.full((), 9.0)))
    tile.apply_causal_mask(v, 1, 0)
    tile.store(c, v)


def test_positions() -> None:
    x = f(4, 5)
    a, b, c = positions(x, n=4)
    j, i = torch.arange(5)[None], torch.arange(4)[:, None]
    assert torch.equal(a, torch.where(j + 1 < 4, x, 0.0))
    assert torch.equal(b, torch.where(j < i, x, 9.0))
    assert torch.equal(c, torch.where(j > i + 1, -torch.inf, x))


@tessera.kernel
def integers(x: Tile["K", tessera.int8], w: Tile["N", "K", tessera.int8], y: Tile["N", int32], z: Tile["N", int32]):
    acc = tile.zeros(tile.context().N, int32)
    tile.store(y, tile.dp4a(tile.load(x), tile.load(w), acc))
    row = tile.reshape(tile.load(x), (1, tile.context().K))
    tile.store(z, tile.reshape(tile.mma(row, tile.transpose(w)), tile.context().N))


def test_products_of_integers_are_exact() -> None:
    x, w = (torch.randint(-128, 128, shape, dtype=torch.int8) for shape in ((37,), (5, 37)))
    want = (w.long() @ x.long()).int()
    y, z = integers(x, w)
    assert torch.equal(y, want) and torch.equal(z, want)


@tessera.kernel
def several(x: Tile["S", "D"], y: Tile["S", "D"], any_: Tile["S", tessera.bool_], all_: Tile["S", tessera.bool_]):
    v = tile.load(x)
    tile.store(y, tile.clamp(v, -0.5, 0.5))
    tile.store(any_, tile.any(v > 1.0, axis=1))
    tile.store(all_, tile.all(v > -1.0, axis=1))


def test_clamp_any_all() -> None:
    x = f(6, 4)
    y, any_, all_ = several(x)
    assert torch.equal(y, x.clamp(-0.5, 0.5))
    assert torch.equal(any_, (x > 1).any(1)) and torch.equal(all_, (x > -1).all(1))


def test_rotation_of_pairs() -> None:
    @tessera.kernel
    def rotate(x: Tile["S", "D"], c: Tile["S", "D/2"], s: Tile["S", "D/2"], y: Tile["S", "D"]):
        tile.store(y, tile.apply_rope(tile.load(x), c, s, interleaved=True))

    x, c, s = f(3, 6), f(3, 3), f(3, 3) * 2
    a, b = x[:, ::2], x[:, 1::2]
    want = torch.stack([a * c - b * s, a * s + b * c], -1).flatten(1)
    torch.testing.assert_close(rotate(x, c, s), want)


def test_rows_by_their_root_mean_square() -> None:
    @tessera.kernel
    def norm(x: Tile["S", "D"], w: Tile["D"], y: Tile["S", "D"]):
        tile.store(y, tile.rms_norm(tile.load(x), 1e-6, tile.load(w)))

    x, w = f(3, 8), f(8)
    torch.testing.assert_close(norm(x, w), F.rms_norm(x, (8,), w, 1e-6))


def test_swish_has_no_nan() -> None:
    @tessera.kernel
    def act(x: Tile["N"], y: Tile["N"], beta: float):
        tile.store(y, tile.swish(tile.load(x), beta))

    x = torch.tensor([-torch.inf, -1e30, 0.0, 2.0])
    torch.testing.assert_close(act(x, beta=1.0), torch.tensor([0.0, 0.0, 0.0, 2 * torch.sigmoid(torch.tensor(2.0))]))


def test_every_operation_says_what_it_is() -> None:
    for name, op in TILE_TABLE.items():
        assert op.doc[0].isupper() or op.doc[0] in "xa`", name
        assert op.doc.endswith(".") and repr(op).startswith(f"tile.{name}(")
