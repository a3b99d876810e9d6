"""The interpreter by itself: casts, rounding, wraparound, sizes, limits, folds against their definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, reject
from hypothesis import strategies as st

from tessera.diag import BoundsError, ResourceError, ShapeError
from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DTYPES, DType, bf16, f16, f32, f64, fp8_e4m3, fp8_e5m2, int4, int64
from tessera.ir.graph import Function
from tessera.ir.interp import NumpyNamespace, interpret
from tessera.ir.interp.convert import cast, round_to, settle, truncated
from tessera.ir.interp.evaluate import over_grid
from tessera.ir.interp.fold import fold
from tessera.ir.interp.namespace import ROWS, nextafter_in
from tessera.ir.parser import parse
from tessera.ir.record import Kind, Reduction
from tests.fuzz.strategies import SIZES, functions, inputs_for

TORCH = {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16, "fp8_e4m3": torch.float8_e4m3fn,
         "fp8_e5m2": torch.float8_e5m2}  # fmt: skip
NARROW = [DTYPES[n] for n in TORCH]


def run(text: str, *inputs: object, **options: object) -> list[np.ndarray]:
    return interpret(parse(text), inputs, **options)  # type: ignore[arg-type]


def unary(name: str, x: object, dtype: str = "f64", result: str | None = None) -> np.ndarray:
    out = result or dtype
    a = np.asarray(x)
    dims = ", ".join("NM"[n] for n in range(a.ndim))
    return run(f"fn f(x: {dtype}[{dims}]) -> {out}[{dims}] {{ %y = {name} : {out}[{dims}] return %y }}", a)[0]


# -- rounding and casts


@pytest.mark.parametrize("t", NARROW, ids=str)
def test_every_value_of_a_narrow_float_is_its_own_rounding(t: DType) -> None:
    if t.bits > 16:
        bits = np.random.default_rng(0).integers(0, 2**32, 200_000).astype(np.uint32).view(np.float32)
        values = torch.from_numpy(bits)
    else:
        kind = torch.uint8 if t.bits == 8 else torch.int16
        values = torch.arange(2**t.bits, dtype=torch.int64).to(kind).view(TORCH[t.name])
    exact = values.to(torch.float64).numpy()
    found = round_to(exact, t)
    finite = np.isfinite(exact)
    assert np.array_equal(found[finite], exact[finite])
    assert np.array_equal(np.signbit(found[finite]), np.signbit(exact[finite]))
    assert np.isnan(found[np.isnan(exact)]).all()


@pytest.mark.parametrize("t", [bf16, f16, f32], ids=str)
def test_rounding_is_that_of_torch(t: DType) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal(100_000) * 2.0 ** rng.uniform(
        -160 if t is not f16 else -30, 130 if t is not f16 else 20, 100_000
    )
    x = x.astype(np.float32).astype(np.float64)  # torch rounds f64 to bf16 through f32: start from f32
    want = torch.from_numpy(x.astype(np.float32)).to(TORCH[t.name]).to(torch.float64).numpy()
    assert np.array_equal(round_to(x, t), want)


@pytest.mark.parametrize("t", [fp8_e4m3, fp8_e5m2], ids=str)
def test_eight_bit_floats_saturate(t: DType) -> None:
    limit = float(t.max)
    x = np.array([limit, limit * 1.01, 1e9, math.inf, -math.inf, -1e9, 0.0, -0.0, math.nan])
    found = round_to(x, t)
    assert found[:4].tolist() == [limit] * 4 and found[4:6].tolist() == [-limit] * 2
    assert np.signbit(found[7]) and np.isnan(found[8])
    inside = np.random.default_rng(0).uniform(-limit, limit, 50_000).astype(np.float32)
    want = torch.from_numpy(inside).to(TORCH[t.name]).to(torch.float64).numpy()
    assert np.array_equal(round_to(inside.astype(np.float64), t), want)


def test_specific_roundings_of_e4m3() -> None:
    assert round_to(np.array([448.0, 464.0, 465.0]), fp8_e4m3).tolist() == [448.0] * 3


def test_casts_to_integers_truncate_and_saturate() -> None:
    x = np.array([1.9, -1.9, 127.5, 128.0, 300.0, -129.0, math.inf, -math.inf, math.nan, 1e30])
    assert unary("cast(x, dtype=int8)", x, "f32", "int8").tolist() == [1, -1, 127, 127, 127, -128, 127, -128, 0, 127]
    assert unary("cast(x, dtype=uint8)", x, "f32", "uint8").tolist() == [1, 0, 127, 128, 255, 0, 255, 0, 0, 255]
    assert int(truncated(np.array(9.3e18), int64)) == 2**63 - 1
    assert truncated(np.array([8.0, -9.0, 7.9]), int4).tolist() == [7, -8, 7]


def test_casts_among_integers_wrap() -> None:
    assert unary("cast(x, dtype=int8)", np.array([127, 128, 300, -129]), "int64", "int8").tolist() == [
        127,
        -128,
        44,
        127,
    ]
    assert unary("cast(x, dtype=bool)", np.array([0, 2, -1]), "int64", "bool").tolist() == [False, True, True]
    assert settle(np.array([7, 8, -9, 23]), int4).tolist() == [7, -8, 7, 7]


def test_arithmetic_wraps_in_the_width_of_its_type() -> None:
    assert unary("add(x, 100)", np.array([100], np.int8), "int8").tolist() == [-56]
    assert unary("mul(x, x)", np.array([70_000], np.int32), "int32").tolist() == [605032704]
    assert unary("neg(x)", np.array([-128], np.int8), "int8").tolist() == [-128]
    assert unary("add(x, 300)", np.array([0], np.int8), "int8").tolist() == [44]  # a constant takes the tensor's type


def test_only_casts_to_narrower_floats_round() -> None:
    third = 1 / 3
    assert cast(np.array(third), f32, f64, True) == np.float32(third)
    assert cast(np.array(third), f32, bf16, True) == third
    assert cast(np.array(third), bf16, f32, True) == round_to(np.array(third), bf16)
    assert cast(np.array(third), f16, bf16, True) == round_to(np.array(third), f16)  # f16 lacks exponents that bf16 has
    assert cast(np.array(2**53 + 1), f32, int64, True) == 2.0**53
    assert cast(np.array(257), bf16, int64, True) == 256
    text = "fn f(x: bf16[N]) -> bf16[N] { %y = mul(x, 0.1) : bf16[N] return %y }"
    assert run(text, np.array([1.0]))[0].tolist() == [0.1]
    assert run(text, np.array([1.0]), dtype_mode="storage")[0].tolist() == [0.10009765625]


def test_storage_rounds_inputs_and_every_value() -> None:
    text = "fn f(x: f16[N], e: scalar f16) -> f16[N] { %y = add(x, e) : f16[N] %z = mul(%y, %y) : f16[N] return %z }"
    found = run(text, np.array([0.1, 300.0]), 0.2, dtype_mode="storage")[0]
    a, b = np.float16(0.1), np.float16(0.2)
    assert found[0] == float((a + b) * (a + b)) and found[1] == math.inf
    with pytest.raises(ValueError):
        run(text, np.array([0.1]), 0.2, dtype_mode="f16")


@pytest.mark.parametrize("t", [bf16, f16, fp8_e5m2, f32], ids=str)
def test_nextafter_on_each_grid(t: DType) -> None:
    """There is one step to the neighbour and one back; the values between two neighbours round to one of them."""
    x = round_to(np.random.default_rng(0).uniform(-4, 4, 200), t)
    x = np.concatenate([x, [1.0, -1.0, 2.0, -2.0, 0.0, float(t.tiny), -float(t.tiny)]])
    up = nextafter_in(x, np.full_like(x, np.inf), t)
    assert (up > x).all() and np.array_equal(round_to(up, t), up)
    assert np.array_equal(nextafter_in(up, np.full_like(x, -np.inf), t), x)
    assert np.isin(round_to(x + (up - x) * 0.3, t), np.concatenate([x, up])).all()
    assert nextafter_in(np.array(1.0), np.array(1.0), t) == 1.0
    assert np.isnan(nextafter_in(np.array(np.nan), np.array(1.0), t))


# -- folds


FOLDS = [r for r in OPS.values() if r.kind is Kind.REDUCE]


def in_order(reduction: Reduction, t: DType, rows: np.ndarray) -> list[np.ndarray]:
    """A fold by its definition alone: one element after the other."""
    space, kinds, shape = NumpyNamespace(), reduction.state(t), rows.shape[:-1]

    def settled(state: tuple[object, ...]) -> tuple[np.ndarray, ...]:
        return tuple(np.broadcast_to(settle(s, k), shape) for s, k in zip(state, kinds, strict=True))

    state = settled(reduction.init(t))
    for n in range(rows.shape[-1]):
        state = settled(reduction.step(space, state, rows[..., n], np.int64(n)))
    with np.errstate(all="ignore"):
        return [np.broadcast_to(np.asarray(r), shape) for r in reduction.finish(space, state)]


@pytest.mark.parametrize("record", FOLDS, ids=lambda r: r.name)
@given(data=st.data())
def test_a_fold_is_its_definition(record, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    """Pairwise merging gives what one element after the other gives, up to the rounding of sums."""
    values = st.sampled_from([0.0, 1.0, -2.0, 3.5, 3.5, math.nan, math.inf, -0.0])
    rows = np.array(data.draw(st.lists(st.lists(values, min_size=5, max_size=5), min_size=0, max_size=4))).reshape(
        -1, 5
    )
    rows = rows[:, : data.draw(st.integers(0, 5))]
    assert record.reduction is not None
    for got, want in zip(fold(record.reduction, f32, rows), in_order(record.reduction, f32, rows), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-15)


def test_a_fold_of_nothing_is_its_start() -> None:
    assert run("fn f(x: f32[N]) -> f32[] { %y = sum(x) over [N] : f32[] return %y }", np.zeros(0))[0] == 0.0
    assert run("fn f(x: f32[N]) -> f32[] { %y = amax(x) over [N] : f32[] return %y }", np.zeros(0))[0] == -math.inf


def test_a_fold_over_several_axes_counts_positions_row_major() -> None:
    x = np.arange(24.0).reshape(2, 3, 4)
    x[1, 2, 0] = 100.0
    text = "fn f(x: f32[A, B, C]) -> int64[B] {{ %y = argmax(x) over {} : int64[B] return %y }}"
    assert run(text.format("[A, C]"), x)[0].tolist() == [7, 7, 4]


# -- sizes


def test_names_are_bound_by_the_inputs_and_must_agree() -> None:
    text = "fn f(x: f32[B, D], y: f32[D, 2*B]) -> f32[B, D] { return x }"
    f = parse(text)
    interpret(f, [np.zeros((3, 4)), np.zeros((4, 6))])
    for shapes, code in (
        (((3, 4), (5, 6)), "TSR0107"), (((3, 4), (4, 5)), "TSR0105"),
        (((3, 4), (4,)), "TSR0105"), (((3,), (4, 6)), "TSR0105"),
    ):  # fmt: skip
        with pytest.raises(ShapeError) as caught:
            interpret(f, [np.zeros(s) for s in shapes])
        assert caught.value.code == code
    with pytest.raises(ShapeError):
        interpret(f, [np.zeros((3, 4))])
    with pytest.raises(ShapeError):
        interpret(parse("fn f(e: scalar f32) { }"), [np.zeros(3)])


def test_guards_are_checked() -> None:
    guards = "`4` divides `D` guarded, `D` >= `K` open, `D` == `2*K` guarded"
    text = f"fn f(x: f32[D, K]) -> f32[D, K] where {guards} {{ return x }}"
    interpret(parse(text), [np.zeros((8, 4))])
    for shape in ((6, 3), (4, 8), (8, 3)):
        with pytest.raises(ShapeError) as caught:
            interpret(parse(text), [np.zeros(shape)])
        assert "does not hold" in caught.value.message


def test_a_name_that_no_input_has() -> None:
    text = "fn f() -> f32[B] { %y = full(1.0, shape=[B], dtype=f32) : f32[B] return %y }"
    assert run(text, sizes={"B": 3})[0].tolist() == [1.0, 1.0, 1.0]
    with pytest.raises(ShapeError) as caught:
        run(text)
    assert caught.value.code == "TSR0110"


@pytest.mark.parametrize("shape", ["[4611686018427387904, 4611686018427387904]", "[B, B, B]", "[4294967296]"])
def test_what_is_too_large_is_refused_before_it_is_made(shape: str) -> None:
    text = f"fn f() -> f32{shape} {{ %y = full(1.0, shape={shape}, dtype=f32) : f32{shape} return %y }}"
    with pytest.raises(ResourceError) as caught:
        run(text, sizes={"B": 10**6})
    assert caught.value.code == "TSR0608"


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ShapeError):
        run("fn f() -> f32[B - 4] { %y = full(1.0, shape=[B - 4], dtype=f32) : f32[B - 4] return %y }", sizes={"B": 3})


def test_zero_sized_tensors() -> None:
    text = "fn f(x: f32[B, D]) -> f32[D] { %e = exp(x) : f32[B, D] %y = sum(%e) over [B] : f32[D] return %y }"
    assert run(text, np.zeros((0, 3)))[0].tolist() == [0.0, 0.0, 0.0]
    assert run(text, np.zeros((3, 0)))[0].shape == (0,)


# -- indices


TAKE = "fn f(x: f32[N, D], i: int64[K]) -> f32[K, D] { %y = take(x, i, dim=0) : f32[K, D] return %y }"


def test_indices_from_memory_wrap_once() -> None:
    x = np.arange(6.0).reshape(3, 2)
    assert run(TAKE, x, np.array([0, -1, 2, -3]))[0][:, 0].tolist() == [0.0, 4.0, 4.0, 0.0]


@pytest.mark.parametrize("bad", [3, -4, 2**62])
def test_an_index_outside_is_an_error(bad: int) -> None:
    with pytest.raises(BoundsError) as caught:
        run(TAKE, np.zeros((3, 2)), np.array([0, bad]))
    assert caught.value.code == "TSR0605"
    assert f"index {bad} in a dimension of size 3" in caught.value.message


def test_expressions_over_grids() -> None:
    i, j, n = map(Dim.name, ("i", "j", "n"))
    env = {"i": np.arange(4).reshape(4, 1), "j": np.arange(3).reshape(1, 3), "n": 6}
    for d in (i * n + j, (i * 3 + j) // 2, (i - j) % 3, n / 2 + i, (i * 6 + j * 2) / 2, Dim.of(7)):
        want = [[d.evaluate({"i": a, "j": b, "n": 6}, signed=True) for b in range(3)] for a in range(4)]
        assert np.broadcast_to(over_grid(d, env), (4, 3)).tolist() == want
    with pytest.raises(ShapeError):
        over_grid((i + j) / 2, env)
    with pytest.raises(ShapeError):
        over_grid(n // i, env)


# -- the namespace and whole functions


def test_every_intrinsic_has_a_row() -> None:
    intrinsics = {r.name for r in OPS.values() if r.kind is Kind.MAP and r.define is None}
    assert intrinsics - set(ROWS) == {"cast", "nextafter"}
    with pytest.raises(AttributeError):
        NumpyNamespace().no_such_intrinsic  # noqa: B018


def test_special_values_of_intrinsics() -> None:
    assert unary("sign(x)", np.array([math.nan, -0.0, -2.0])).tolist() == [0.0, 0.0, -1.0]
    assert np.isnan(unary("maximum(x, 1.0)", np.array([math.nan])))
    assert unary("fmax(x, 1.0)", np.array([math.nan])).tolist() == [1.0]
    assert unary("sigmoid(x)", np.array([-800.0, -700.0, 800.0])).tolist() == [0.0, math.exp(-700.0), 1.0]
    assert unary("pow(x, 3)", np.array([-2, 3]), "int64").tolist() == [-8, 27]
    assert unary("pow(x, -1)", np.array([-1, 1, 2]), "int64").tolist() == [-1, 1, 0]
    assert unary("trunc_div(x, 2)", np.array([-3, 3]), "int64").tolist() == [-1, 1]
    assert unary("floordiv(x, 2)", np.array([-3, 3]), "int64").tolist() == [-2, 1]
    assert unary("shift_left(x, 40)", np.array([1], np.int32), "int32").tolist() == [0]
    assert unary("shift_right(x, 40)", np.array([-5, 5], np.int32), "int32").tolist() == [-1, 0]


def test_groups_run_as_their_operations() -> None:
    plain = "fn f(x: f32[B]) -> f32[B] { %a = exp(x) : f32[B] %b = neg(%a) : f32[B] return %b }"
    grouped = "fn f(x: f32[B]) -> f32[B] { map(x) -> %b { %a = exp(x) : f32[B] %b = neg(%a) : f32[B] } return %b }"
    x = np.array([0.5, -1.0])
    assert run(plain, x)[0].tolist() == run(grouped, x)[0].tolist()


def test_constants_and_parameters_as_results() -> None:
    found = run("fn f(x: f32[B]) -> (f32[B], scalar f32, scalar int64) { return x, 2.5, `B*2` }", np.zeros(3))
    assert [a.tolist() for a in found] == [[0.0, 0.0, 0.0], 2.5, 6]


def test_results_do_not_share_memory_with_inputs() -> None:
    x = np.zeros(3)
    (y,) = run("fn f(x: f64[B]) -> f64[B] { return x }", x)
    y[0] = 1.0
    assert x[0] == 0.0


@given(functions(max_ops=8, dressed=False))
def test_generated_functions_run(f: Function) -> None:
    """Every result has the shape and the kind of its type; storage mode gives representable values."""
    for mode in ("f64", "storage"):
        try:
            found = interpret(f, inputs_for(f), sizes=SIZES, dtype_mode=mode)
        except BoundsError:
            reject()
        except ShapeError as error:
            assert "does not hold" in error.message  # a guard that these sizes do not pass
            reject()
        made = {r for op in f.ops for r in op.results}
        for x, a in zip(f.outputs, found, strict=True):
            assert a.shape == tuple(d.evaluate(SIZES) for d in x.type.dims)
            assert (a.dtype.kind == "f") == x.type.dtype.is_float
            if mode == "storage" and x.type.dtype.is_float and x in made:
                assert np.array_equal(round_to(a, x.type.dtype), a, equal_nan=True)
