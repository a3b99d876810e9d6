"""What the definitions compute: folds, random words, and accuracy of activations far into their tails."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tessera.backends.eager import run_function
from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.dialects.random import philox, philox_torch
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bf16, dtype, f16, f32, f64
from tessera.ir.graph import Block, Function
from tessera.ir.interp import interpret
from tessera.ir.types import TensorType


def function(act: Callable[[Any, Sym], Any], t: DType = f32) -> Function:
    """A function of one vector."""
    builder = Builder(OPS["cast"])
    ops = Ops(builder, OPS)
    x = Sym(ops, builder.param("x", TensorType(t, (Dim.name("N"),))))
    out = act(ops, x)
    params = (x.value, *([ops._seed] if ops._seed is not None else ()))
    return Function("f", Block(tuple(builder.ops), params, (out.value,)))


# --- folds ------------------------------------------------------------------------------------------------------------


class Words:
    """A scalar namespace over plain Python numbers, for folds."""

    @staticmethod
    def where(c: bool, a: Any, b: Any) -> Any:
        return a if c else b

    @staticmethod
    def logical_or(a: Any, b: Any) -> bool:
        return bool(a or b)

    @staticmethod
    def logical_and(a: Any, b: Any) -> bool:
        return bool(a and b)

    @staticmethod
    def logical_not(a: Any) -> bool:
        return not a

    @staticmethod
    def maximum(a: float, b: float) -> float:
        return a if a != a or a > b else b

    @staticmethod
    def minimum(a: float, b: float) -> float:
        return a if a != a or a < b else b


NAN, INF = float("nan"), float("inf")
ROWS = [
    [1.0, 3.0, 3.0, 2.0], [NAN, 5.0, 1.0, 2.0], [1.0, NAN, NAN, 9.0], [-INF, -INF, -INF, -INF], [INF, -INF, 0.0, -0.0],
    [2.0], [-1.0, -2.0, -3.0, -0.5],
]  # fmt: skip


def fold(name: str, row: list[float], cut: int) -> Any:
    """The fold of a row made in two ranges that are merged."""
    r = OPS[name].reduction
    assert r is not None
    parts = []
    for start, part in ((0, row[:cut]), (cut, row[cut:])):
        state = r.init(f32)
        for n, x in enumerate(part):
            state = r.step(Words, state, x, start + n)
        parts.append(state)
    return r.finish(Words, r.merge(Words, *parts))[0]


@pytest.mark.parametrize("name", ["sum", "prod", "amax", "amin", "argmax", "argmin"])
@pytest.mark.parametrize("row", ROWS, ids=str)
def test_folds_agree_with_torch_wherever_they_are_cut(name: str, row: list[float]) -> None:
    wanted = getattr(torch, name)(torch.tensor(row, dtype=torch.float64), dim=0).item()
    for cut in range(len(row) + 1):
        found = fold(name, row, cut)
        assert found == wanted or (found != found and wanted != wanted), cut


@pytest.mark.parametrize("name", ["any", "all"])
def test_folds_of_bools(name: str) -> None:
    for row in ([True, False], [False, False], [True, True], []):
        r = OPS[name].reduction
        assert r is not None
        state = r.init(dtype("bool"))
        for n, x in enumerate(row):
            state = r.step(Words, state, x, n)
        assert state[0] is {"any": any, "all": all}[name](row)


# --- random numbers ---------------------------------------------------------------------------------------------------

#: Known answers published with the Random123 library: counter, key, result.
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]  # fmt: skip


@pytest.mark.parametrize(("counter", "key", "result"), KNOWN)
def test_philox_gives_the_published_words(counter: Any, key: Any, result: Any) -> None:
    def multiply(x: int, c: int) -> tuple[int, int]:
        return (x * c) >> 32, (x * c) & 0xFFFFFFFF

    assert philox(counter, key, multiply, lambda k, w: (k + w) & 0xFFFFFFFF) == result


def test_the_torch_words_are_the_same() -> None:
    words = philox_torch(torch, 0x299F31D0A4093822, 5, 3)
    for n in range(3):

        def multiply(x: int, c: int) -> tuple[int, int]:
            return (x * c) >> 32, (x * c) & 0xFFFFFFFF

        wanted = philox((n, 0, 5, 0), (0xA4093822, 0x299F31D0), multiply, lambda k, w: (k + w) & 0xFFFFFFFF)
        assert tuple(int(w[n]) for w in words) == wanted


DRAWS: list[tuple[str, Callable[[Any, Sym], Any]]] = [
    ("rand", lambda t, x: t.rand_like(x)),
    ("randn", lambda t, x: t.randn_like(x)),
    ("randint", lambda t, x: t.randint(-3, 17, (Dim.name("N"),))),
    ("two draws", lambda t, x: t.sub(t.rand_like(x), t.rand_like(x))),
    ("bf16", lambda t, x: t.rand(Dim.name("N"), dtype="bf16")),
    ("f64", lambda t, x: t.randn(Dim.name("N"), dtype="f64")),
]


@pytest.mark.parametrize(("name", "act"), DRAWS, ids=[d[0] for d in DRAWS])
def test_draws_are_reproducible_and_the_same_everywhere(name: str, act: Callable[[Any, Sym], Any]) -> None:
    f = function(act)
    x = np.zeros(1000)
    (reference,) = interpret(f, [x, np.asarray(99)], dtype_mode="storage")
    (found,) = run_function(f, [torch.zeros(1000), 99])
    (again,) = run_function(f, [torch.zeros(1000), 99])
    (other,) = run_function(f, [torch.zeros(1000), 100])
    assert torch.equal(found, again) and not torch.equal(found, other)
    np.testing.assert_allclose(found.double().numpy(), reference.astype(np.float64), rtol=1e-5, atol=1e-6)


def test_uniform_and_normal_numbers_have_their_moments() -> None:
    n = torch.zeros(200_000)
    (u,) = run_function(function(lambda t, x: t.rand_like(x)), [n, 7])
    (z,) = run_function(function(lambda t, x: t.randn_like(x)), [n, 7])
    (k,) = run_function(function(lambda t, x: t.randint(0, 10, (Dim.name("N"),))), [n, 7])
    assert u.min() >= 0.0 and u.max() < 1.0
    assert abs(u.mean() - 0.5) < 3e-3 and abs(u.var() - 1 / 12) < 1e-3
    assert abs(z.mean()) < 1e-2 and abs(z.var() - 1.0) < 1e-2 and abs((z**4).mean() - 3.0) < 0.1
    assert torch.bincount(k).min() > 19_000


def test_narrow_uniform_numbers_never_reach_one() -> None:
    for t in (bf16, f16):
        (u,) = run_function(function(lambda ops, x, t=t: ops.rand(Dim.name("N"), dtype=t)), [torch.zeros(100_000), 3])
        assert u.max() < 1.0 and u.min() == 0.0


def test_dropout_keeps_the_mean() -> None:
    (y,) = run_function(function(lambda t, x: t.dropout(x, 0.25)), [torch.ones(100_000), 11])
    assert abs((y == 0).double().mean() - 0.25) < 5e-3
    assert abs(y.mean() - 1.0) < 1e-2


# --- accuracy of elementwise definitions ------------------------------------------------------------------------------


class Rounded:
    """A scalar namespace in f32: every intrinsic correctly rounded from float64, every operation rounded once."""

    def __getattr__(self, name: str) -> Callable[..., Any]:
        exact = getattr(_EXACT, name)

        def apply(*xs: Any, **attrs: Any) -> Any:
            wide = [x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x for x in xs]
            found = np.asarray(exact(*wide, **attrs))
            return found.astype(np.float32) if found.dtype == np.float64 else found

        return apply

    @staticmethod
    def where(c: Any, a: Any, b: Any) -> Any:
        return np.where(c, _single(a), _single(b))


def _single(x: Any) -> Any:
    return np.float32(x) if isinstance(x, float) else x


def _exact_namespace() -> Any:
    from tessera.ir.interp import NumpyNamespace

    return NumpyNamespace()


_EXACT = _exact_namespace()


def spread(low: float = -1e4, high: float = 1e4) -> np.ndarray:
    """f32 numbers of every exponent, both signs."""
    rng = np.random.default_rng(0)
    magnitude = np.ldexp(rng.uniform(1.0, 2.0, 200_000), rng.integers(-60, 14, 200_000))
    x = np.concatenate([magnitude, -magnitude, rng.uniform(-110, 110, 200_000), rng.uniform(-16, 16, 200_000)])
    x = x.astype(np.float32)
    return x[(x >= low) & (x <= high)]


def reference(name: str, x: np.ndarray, **attrs: Any) -> np.ndarray:
    """High precision without the definitions: mpmath-free formulas in float64 that do not cancel."""
    with np.errstate(all="ignore"):
        z = x.astype(np.float64)
        if name == "silu":
            return z * np.exp(np.minimum(z, 0)) / (1 + np.exp(-np.abs(z)))
        if name == "mish":
            e = np.exp(-np.abs(z))
            return z * np.where(z < 0, e * (e + 2) / (e * (e + 2) + 2), (1 + 2 * e) / (1 + 2 * e + 2 * e * e))
        if name == "gelu" and attrs["approximate"] == "none":
            return 0.5 * z * np.asarray(_EXACT.erfc(-z * np.sqrt(0.5)))
        if name == "gelu":
            u = 2 * np.sqrt(2 / np.pi) * (z + 0.044715 * z**3)
            return z * np.exp(np.minimum(u, 0)) / (1 + np.exp(-np.abs(u)))
        if name == "softplus":
            return np.maximum(z, 0) + np.log1p(np.exp(-np.abs(z)))
        if name == "logsigmoid":
            return np.minimum(z, 0) - np.log1p(np.exp(-np.abs(z)))
        if name == "elu":
            return np.where(z > 0, z, np.expm1(z))
        return np.log(z) - np.log1p(-z)


def ulps(found: np.ndarray, wanted: np.ndarray) -> float:
    """The largest error in units of the last place, where the result is a normal number."""
    rounded = wanted.astype(np.float32)
    step = np.spacing(np.abs(rounded)).astype(np.float64)
    normal = np.abs(rounded) >= np.finfo(np.float32).tiny
    return float((np.abs(found.astype(np.float64) - wanted) / step)[normal].max())


ACCURATE: list[tuple[str, tuple[float, ...], dict[str, Any], float]] = [
    ("silu", (), {}, 3.0), ("mish", (), {}, 4.0), ("gelu", (), {"approximate": "none"}, 3.0),
    ("gelu", (), {"approximate": "tanh"}, 4.0), ("softplus", (1.0, 200.0), {}, 2.0), ("logsigmoid", (), {}, 2.0),
    ("elu", (1.0, 1.0, 1.0), {}, 1.0),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "scalars", "attrs", "bound"), ACCURATE, ids=lambda x: str(x) if isinstance(x, str) else ""
)
def test_activations_are_accurate_to_the_last_normal_number(
    name: str, scalars: tuple[float, ...], attrs: dict[str, Any], bound: float
) -> None:
    x = spread()
    define = OPS[name].define
    assert define is not None
    with np.errstate(all="ignore"):
        found = define(Rounded(), x, *scalars, **attrs)
    assert found.dtype == np.float32
    worst = ulps(found, reference(name, x, **attrs))
    assert worst <= bound, worst


@pytest.mark.parametrize("name", ["silu", "mish", "gelu", "softplus", "logsigmoid", "elu", "selu", "relu"])
def test_activations_at_infinity_and_nan(name: str) -> None:
    f = function(lambda t, x: getattr(t, name)(x))
    x = torch.tensor([float("inf"), float("nan"), 0.0, 1e30, -1e30])
    (found,) = interpret(f, [x.double().numpy()])
    wanted = getattr(torch.nn.functional, name)(x.double()).numpy()
    np.testing.assert_array_equal(np.isnan(found), np.isnan(wanted))
    ok = ~np.isnan(wanted)
    np.testing.assert_allclose(found[ok], wanted[ok], rtol=1e-6)


def test_softmax_of_masked_rows_is_nan_and_logsumexp_is_minus_infinity() -> None:
    f = function(lambda t, x: t.softmax(x, 0))
    g = function(lambda t, x: t.logsumexp(x, 0))
    x = torch.full((4,), float("-inf"))
    assert run_function(f, [x])[0].isnan().all()
    assert run_function(g, [x])[0] == float("-inf")


def test_variance_does_not_cancel() -> None:
    f = function(lambda t, x: t.var(x, 0), f32)
    x = torch.randn(4096, generator=torch.Generator().manual_seed(0)) + 1e4
    (found,) = interpret(f, [x.double().numpy()])
    assert abs(found - x.double().var().item()) < 1e-7
    assert abs(run_function(f, [x])[0].item() - found) < 1e-3


def test_casts_saturate() -> None:
    x = torch.tensor([1e9, -1e9, float("nan"), float("inf"), 448.0, 464.0, 1.5, -1.5])
    e4m3 = run_function(function(lambda t, v: t.cast(v, "fp8_e4m3")), [x])[0].float()
    assert e4m3[:2].tolist() == [448.0, -448.0] and e4m3[2].isnan() and e4m3[3:6].tolist() == [448.0, 448.0, 448.0]
    int8 = run_function(function(lambda t, v: t.cast(v, "int8")), [x])[0]
    assert int8.tolist() == [127, -128, 0, 127, 127, 127, 1, -1]
    int64 = run_function(function(lambda t, v: t.cast(v, "int64"), f64), [torch.tensor([1e300, -1e300, 3.7]).double()])[
        0
    ]
    assert int64.tolist() == [2**63 - 1, -(2**63), 3]
