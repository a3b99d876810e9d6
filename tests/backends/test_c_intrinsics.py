"""The C intrinsics against wider arithmetic: errors in ulp, special values, integers, and the table."""

from __future__ import annotations

import re
import shutil
import subprocess
from functools import cache
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.host import host_target
from tessera.backends.c.mathlib.texts import FILES, units
from tessera.backends.c.toolchain import CompileOptions, compile_shared
from tests.backends.c_lanes import NUMPY, Kernels, pairs, row_loop, source, specials, stratified, ulp_error

HOST = host_target()
NATURAL = ci.natural_lanes(HOST.features)
TARGETS = [(NATURAL, "native")]
if HOST.arch in ("x86_64", "amd64"):
    TARGETS += [(8, "x86-64-v3")] if {"avx2", "fma"} <= set(HOST.features) else []
    TARGETS += [(4, "x86-64")]


def _torch(name: str):
    return lambda *xs: getattr(torch, name)(*(torch.from_numpy(x) for x in xs)).numpy()


def _sigmoid(x):
    e = np.exp(-np.abs(x))
    return np.where(x < 0, e, 1) / (1 + e)


def exactly(name: str, x: np.ndarray) -> np.ndarray:
    """The values of a function of mpmath at finite x, to 400 bits and then rounded to f64."""
    with mpmath.workprec(400):
        return np.array([float(getattr(mpmath, name)(mpmath.mpf(float(v)))) for v in x])


UNARY = {
    "exp": np.exp, "exp2": np.exp2, "expm1": np.expm1, "log": np.log, "log2": np.log2, "log10": np.log10,
    "log1p": np.log1p, "sin": np.sin, "cos": np.cos, "tan": np.tan, "asin": np.arcsin, "acos": np.arccos,
    "atan": np.arctan, "sinh": np.sinh, "cosh": np.cosh, "tanh": np.tanh, "asinh": np.arcsinh,
    "acosh": np.arccosh, "atanh": np.arctanh, "sigmoid": _sigmoid, "sqrt": np.sqrt,
    "rsqrt": lambda x: 1 / np.sqrt(x),
    "reciprocal": lambda x: 1 / x, "floor": np.floor, "ceil": np.ceil, "round": np.rint, "trunc": np.trunc,
    "frac": lambda x: x - np.trunc(x), "abs": np.abs, "neg": np.negative,
}  # fmt: skip
ONLY_F64 = {name: _torch(name) for name in ("erf", "erfc", "erfinv", "lgamma", "digamma")}
#: Largest error in ulp; everything not named keeps 0.502.
F32_ULP = {
    "exp": 0.76, "exp2": 0.76, "expm1": 1.1, "log": 0.9, "log1p": 1.1, "tanh": 0.85, "erf": 0.9,
    "sigmoid": 2.3, "rsqrt": 1.5, "erfinv": 0.65, "erfc": 0.51,
}  # fmt: skip
F64_ULP = {"erfc": 5, "erfinv": 4}
BINARY = {"pow": np.power, "atan2": np.arctan2, "hypot": np.hypot, "logaddexp": np.logaddexp}
EXACT = {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide, "fmod": np.fmod,
    "floordiv": _torch("floor_divide"), "trunc_div": lambda a, b: np.trunc(a / b), "maximum": np.maximum,
    "minimum": np.minimum, "fmax": np.fmax, "fmin": np.fmin, "copysign": np.copysign,
    "nextafter": np.nextafter, "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal,
    "gt": np.greater, "ge": np.greater_equal, "logical_and": np.logical_and, "logical_or": np.logical_or,
    "logical_xor": np.logical_xor,
}  # fmt: skip
TESTS = {
    "isnan": np.isnan, "isinf": np.isinf, "isfinite": np.isfinite, "signbit": np.signbit,
    "logical_not": np.logical_not,
}  # fmt: skip


@cache
def kernels(dtype: str, lanes: int, march: str) -> Kernels:
    """Every row of one dtype, compiled once a run."""
    rows = [name for name, row in ci.INTRINSICS.items() if ci.lane(dtype) in row.lanes()]
    return Kernels({name: row_loop(name, dtype) for name in rows}, lanes, march)


@cache
def inputs(dtype: str) -> np.ndarray:
    """Every exponent, a dense middle, and the specials."""
    rng = np.random.default_rng(7)
    kind = NUMPY[dtype]
    middle = [rng.uniform(-10, 10, 20000), rng.uniform(-110, 110, 5000), np.linspace(0.5, 2, 5000)]
    near_one = [1 + rng.uniform(-1e-3, 1e-3, 2000), np.linspace(-1, 1, 3001)]
    every = stratified(kind, 60 if kind is np.float32 else 4)
    return np.concatenate([every, *(m.astype(kind) for m in middle + near_one)])


@cache
def two(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    """Pairs: all of the specials, values of any exponents, and ordinary ones."""
    rng = np.random.default_rng(11)
    kind = NUMPY[dtype]
    a, b = pairs(np.concatenate([specials(kind), np.array([-3.5, 7, 1e-3, -1e-3, 33], kind)]))
    s = stratified(kind, 10 if kind is np.float32 else 2)
    middle = rng.normal(size=(2, 10000)).astype(kind) * 3
    x, y = (np.concatenate([u, rng.permutation(s), m]) for u, m in zip((a, b), middle, strict=True))
    return x, y


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    """Equal as values: NaN where NaN, and zeros of the same sign."""
    assert got.dtype == wanted.dtype
    np.testing.assert_array_equal(got, wanted)
    if got.dtype.kind == "f":
        zero = (got == 0) & (wanted == 0)
        np.testing.assert_array_equal(np.signbit(got[zero]), np.signbit(wanted[zero]))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t[1]}-{t[0]}")
@pytest.mark.parametrize("name", [*UNARY, *ONLY_F64])
def test_f32_functions_keep_their_bound_over_all_exponents(name: str, target: tuple[int, str]) -> None:
    x = inputs("f32")
    got = kernels("f32", *target).run(name, x)
    with np.errstate(all="ignore"):
        reference = {**UNARY, **ONLY_F64}[name](x.astype(np.float64))
    error = ulp_error(got, reference)
    worst = int(error.argmax())
    assert error[worst] <= F32_ULP.get(name, 0.502), (x[worst], got[worst], reference[worst])


@pytest.mark.parametrize(
    "name", ["exp", "exp2", "expm1", "sin", "cos", "tan", "tanh", "erf", "erfc", "sigmoid", "atan"]
)
def test_f32_functions_err_no_more_than_eager(name: str) -> None:
    rng = np.random.default_rng(9)
    for x in (rng.normal(size=40000), rng.uniform(-4, 4, 40000)):
        values = torch.from_numpy(x.astype(np.float32))
        reference = getattr(torch, name)(values.double()).numpy()
        eager = np.linalg.norm(getattr(torch, name)(values).numpy() - reference)
        got = np.linalg.norm(kernels("f32", *TARGETS[-1]).run(name, values.numpy()) - reference)
        assert got <= 1.05 * eager


@pytest.mark.parametrize("name", [*UNARY, *ONLY_F64])
def test_f64_functions_stay_within_two_ulp(name: str) -> None:
    x = inputs("f64")
    got = kernels("f64", NATURAL, "native").run(name, x)
    with np.errstate(all="ignore"):
        reference = UNARY[name](x.astype(np.longdouble)) if name in UNARY else ONLY_F64[name](x)
    if name in ("digamma", "lgamma"):  # near the poles torch is the one that errs
        assert np.array_equal(np.isnan(got), np.isnan(reference))
        return
    error = ulp_error(got, reference)
    worst = int(error.argmax())
    assert error[worst] <= F64_ULP.get(name, 2.0), (x[worst], got[worst], reference[worst])


@pytest.mark.parametrize(("name", "function"), [("digamma", "digamma"), ("lgamma", "loggamma"), ("erfc", "erfc")])
def test_gamma_functions_in_f64(name: str, function: str) -> None:
    rng = np.random.default_rng(2)
    x = np.concatenate([rng.uniform(1e-9, 20, 200), np.exp2(rng.uniform(-60, 4, 60)), [1.0, 2.0, 0.5, 10.0]])
    if name == "digamma":
        x = np.concatenate([x, -rng.uniform(0, 30, 100), [-1 + 2.0**-53, -(2.0**-30), -7 - 2.0**-40]])
    got, reference = kernels("f64", NATURAL, "native").run(name, x), exactly(function, x)
    near_root = np.abs(reference) < (0.0 if name == "erfc" else 0.5)  # there the absolute error counts
    assert np.abs(got - reference)[near_root].max(initial=0) < 1e-14
    assert ulp_error(got[~near_root], reference[~near_root]).max() <= (16 if name == "digamma" else 8)


@pytest.mark.parametrize("name", ["sin", "cos", "tan"])
def test_circular_functions_reduce_the_largest_arguments(name: str) -> None:
    rng = np.random.default_rng(3)
    bits = rng.integers(0x4D800000, 0x7F800000, 400, dtype=np.uint32)
    hard = np.float32([3.4028235e38, 2.0**28, 16367173 * 2.0**72])
    x = np.concatenate([bits.view(np.float32), -bits[:50].view(np.float32), hard])
    got = kernels("f32", NATURAL, "native").run(name, x)
    assert ulp_error(got, exactly(name, x)).max() <= 0.502


@pytest.mark.parametrize("dtype", ["f32", "f64"])
@pytest.mark.parametrize("name", BINARY)
def test_functions_of_two_values(name: str, dtype: str) -> None:
    a, b = two(dtype)
    got = kernels(dtype, NATURAL, "native").run(name, a, b)
    wide = np.float64 if dtype == "f32" else np.longdouble
    with np.errstate(all="ignore"):
        reference = BINARY[name](a.astype(wide), b.astype(wide))
    error = ulp_error(got, reference)
    if name == "logaddexp" and dtype == "f64":  # the sum of a log and a nearly opposite value cancels
        error[np.abs(reference) < 1e-2 * np.maximum(np.abs(a), np.abs(b))] = 0
    worst = int(error.argmax())
    bound = 0.51 if dtype == "f32" else 30 if name == "logaddexp" else 2
    assert error[worst] <= bound, (a[worst], b[worst], got[worst], reference[worst])
    zero = (got == 0) & (reference == 0)
    assert np.array_equal(np.signbit(got[zero]), np.signbit(reference[zero]))


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t[1]}-{t[0]}")
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_exact_operations_on_every_pair_of_specials(dtype: str, target: tuple[int, str]) -> None:
    a, b = two(dtype)
    built = kernels(dtype, *target)
    with np.errstate(all="ignore"):
        for name, function in EXACT.items():
            got, wanted = built.run(name, a, b), function(a, b)
            if name in ("maximum", "minimum", "fmax", "fmin"):  # either zero may win
                np.testing.assert_array_equal(got, wanted, err_msg=name)
            else:
                same(got, wanted)
        for name, function in TESTS.items():
            same(built.run(name, a), function(a))
        same(built.run("sign", a), np.where(np.isnan(a), 0, np.sign(a)).astype(a.dtype) + 0)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_remainder_takes_the_sign_of_the_divisor(dtype: str) -> None:
    a, b = two(dtype)
    with np.errstate(all="ignore"):
        r = np.fmod(a, b)
        wanted = np.where((r != 0) & ((b < 0) != (r < 0)), r + b, r)
    same(kernels(dtype, NATURAL, "native").run("remainder", a, b), wanted)


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_ldexp_rounds_once(dtype: str) -> None:
    kind = NUMPY[dtype]
    powers = np.array([0, 1, -1, 10, -30, 127, -149, -160, 300, -1000, 1023, 2000, -2100], kind)
    values = np.concatenate([specials(kind), np.array([1.1, 3.7], kind)])
    a, n = np.repeat(values, powers.size), np.tile(powers, values.size)
    with np.errstate(all="ignore"):
        same(kernels(dtype, NATURAL, "native").run("ldexp", a, n), np.ldexp(a, n.astype(np.int32)))


@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_fma_keeps_the_exact_product(dtype: str) -> None:
    kind = NUMPY[dtype]
    x = kind(1) + np.finfo(kind).eps * np.arange(1, 40, dtype=kind)
    got = kernels(dtype, NATURAL, "native").run("fma", x, x, -(x * x))
    with mpmath.workprec(200):
        wanted = [float(mpmath.mpf(float(v)) ** 2 - mpmath.mpf(float(kind(v * v)))) for v in x]
    np.testing.assert_array_equal(got, np.array(wanted, kind))


@pytest.mark.parametrize(("lanes", "march"), TARGETS)
@pytest.mark.parametrize("dtype", ["f32", "f64"])
def test_exp2_of_a_sum_never_adds_up_its_parts(dtype: str, lanes: int, march: str) -> None:
    kind = NUMPY[dtype]
    x = np.linspace(-210, 90, 4001).astype(kind)
    low = (np.sin(np.arange(4001.0)) * 1e-4).astype(kind)
    with mpmath.workprec(200):
        wanted = np.array([float(mpmath.mpf(2) ** (mpmath.mpf(float(a)) + mpmath.mpf(float(b)) + 34))
                           for a, b in zip(x, low, strict=True)])  # fmt: skip
    got = kernels(dtype, lanes, march).run("exp2_sum", x, low, np.full_like(x, 34))
    assert ulp_error(got, wanted).max() <= (0.8 if dtype == "f32" else 2.0)


@pytest.mark.parametrize("dtype", ["f32", "f64", "int32", "int64", "int8", "uint8", "uint64", "bool"])
def test_where_takes_either_side_of_every_lane(dtype: str) -> None:
    rng = np.random.default_rng(0)
    kind = NUMPY[dtype]
    a, b = rng.integers(0, 2 if dtype == "bool" else 100, (2, 37)).astype(kind)
    m = rng.integers(0, 2, 37).astype(bool)
    same(kernels(dtype, NATURAL, "native").run("where", m, a, b), np.where(m, a, b))


INT_DTYPES = ["int64", "int32", "int16", "int8", "uint8", "uint32", "uint64"]


@cache
def int_pairs(dtype: str) -> tuple[np.ndarray, np.ndarray]:
    info = np.iinfo(NUMPY[dtype])
    rng = np.random.default_rng(5)
    some = [info.min, info.min + 1, info.max, info.max - 1, 0, 1, 2, 3, 7, 64, 100]
    values = np.array(some + ([-1, -2, -7, -100] if info.min else []), NUMPY[dtype])
    random = rng.integers(info.min, info.max, 300, dtype=NUMPY[dtype], endpoint=True)
    return pairs(np.concatenate([values, random[:20], random % 20]))


@pytest.mark.parametrize("lanes", [NATURAL, 4])
@pytest.mark.parametrize("dtype", INT_DTYPES)
def test_integer_arithmetic_wraps(dtype: str, lanes: int) -> None:
    a, b = int_pairs(dtype)
    built = kernels(dtype, lanes, "native")
    table = {
        "add": np.add, "sub": np.subtract, "mul": np.multiply, "maximum": np.maximum, "minimum": np.minimum,
        "bitwise_and": np.bitwise_and, "bitwise_or": np.bitwise_or, "bitwise_xor": np.bitwise_xor,
        "eq": np.equal, "ne": np.not_equal, "lt": np.less, "le": np.less_equal, "gt": np.greater,
        "ge": np.greater_equal, "logical_xor": np.logical_xor,
    }  # fmt: skip
    with np.errstate(all="ignore"):
        for name, function in table.items():
            same(built.run(name, a, b), function(a, b))
        for name, function in {
            "neg": np.negative,
            "abs": np.abs,
            "sign": np.sign,
            "bitwise_not": np.invert,
        }.items():
            same(built.run(name, a), function(a))
        same(built.run("signbit", a), a < 0)
        assert built.run("isfinite", a).all()


@pytest.mark.parametrize("dtype", INT_DTYPES)
def test_integer_division_rounds_as_named_and_reports_zero(dtype: str) -> None:
    a, b = int_pairs(dtype)
    built = kernels(dtype, NATURAL, "native")
    table = {"floordiv": np.floor_divide, "remainder": np.remainder, "fmod": np.fmod, "trunc_div": None}
    for name, function in table.items():
        got, failed = built.run_flagged(name, a, b)
        assert failed and (got[b == 0] == 0).all()
        x, y = a[b != 0], b[b != 0]
        with np.errstate(all="ignore"):
            wanted = function(x, y) if function else (x - np.fmod(x, y)) // y
        same(built.run(name, x, y), wanted)
    # Lanes past the end never count: five elements, no zero among them.
    assert not built.run_flagged("floordiv", np.full(5, 9), np.full(5, 2))[1]


@pytest.mark.parametrize("dtype", ["int64", "int32", "int8", "uint8"])
def test_shifts_agree_with_torch_for_every_count(dtype: str) -> None:
    a, _ = int_pairs(dtype)
    bits = np.iinfo(a.dtype).bits
    n = np.tile(np.arange(0, bits + 3), a.size)[: a.size].astype(a.dtype)
    built = kernels(dtype, NATURAL, "native")
    x, y = torch.from_numpy(a), torch.from_numpy(n)
    same(built.run("shift_left", a, n), torch.bitwise_left_shift(x, y).numpy())
    same(built.run("shift_right", a, n), torch.bitwise_right_shift(x, y).numpy())


def test_integer_powers() -> None:
    built = kernels("int64", NATURAL, "native")
    base, exponent = pairs(np.arange(-5, 6, dtype=np.int64))
    keep = exponent >= 0
    same(built.run("pow", base[keep], exponent[keep]), base[keep] ** exponent[keep])
    low = built.run("pow", base[~keep], exponent[~keep])
    same(low, np.where(base == 1, 1, np.where(base == -1, np.where(exponent % 2, -1, 1), 0))[~keep])


def test_unsigned_products_in_two_halves() -> None:
    a, b = int_pairs("uint32")
    built = kernels("uint32", NATURAL, "native")
    full = a.astype(np.uint64) * b.astype(np.uint64)
    same(built.run("mulhi_u32", a, b), (full >> 32).astype(np.uint32))


def test_bools_compute_as_masks() -> None:
    a, b = pairs(np.array([False, True]))
    built = kernels("bool", NATURAL, "native")
    table = {
        "lt": a < b,
        "le": a <= b,
        "gt": a > b,
        "ge": a >= b,
        "eq": a == b,
        "ne": a != b,
        "add": a | b,
        "mul": a & b,
    }
    for name, wanted in table.items():
        same(built.run(name, a, b), wanted)
    same(built.run("bitwise_not", a), ~a)


def test_every_function_stands_before_its_use_and_is_defined_once() -> None:
    table = units()
    owner: dict[str, int] = {}
    for i, unit in enumerate(table):
        for name in unit.defines:
            assert name not in owner, name
            owner[name] = i
    for i, unit in enumerate(table):
        for name in unit.mentions:
            assert owner.get(name, -1) < i, (unit.defines, name)
            assert name in owner or not re.search(rf"\b{name}\(", unit.text), (unit.defines, name)


def test_every_row_calls_what_exists() -> None:
    defined = {name for unit in units() for name in unit.defines} | {"t_live", "t_err"}
    for row in ci.INTRINSICS.values():
        for form in row.forms.values():
            assert set(re.findall(r"\b[tT]_\w+", form)) <= defined, row.name
    for a in NUMPY:
        for b in NUMPY:
            assert set(re.findall(r"\b[tT]_\w+", ci.cast(a, b, "x"))) <= defined, (a, b)


def test_texts_are_short_files_without_includes() -> None:
    folder = Path(ci.__file__).parent / "mathlib"
    for name in FILES:
        text = (folder / f"{name}.c").read_text(encoding="utf-8")
        assert "#include" not in text
        assert text.count("\n") <= 500 and max(map(len, text.splitlines())) <= 110, name


def test_a_kernel_gets_only_what_it_uses_and_always_the_same() -> None:
    uses = [ci.expression("add", "f32", "ab"), ci.expression("exp", "f32", "a")]
    text = ci.library("\n".join(uses), 8)
    assert "t_exp_f32" in text and "t_log_f32" not in text and "philox" not in text
    assert text == ci.library("\n".join(reversed(uses)), 8)
    with pytest.raises(ValueError, match="lanes"):
        ci.library("", 5)
    with pytest.raises(ValueError, match="operands"):
        ci.expression("add", "f32", ["x"])


@pytest.mark.skipif(len(TARGETS) < 3 or not shutil.which("objdump"), reason="reads AVX2 code")
@pytest.mark.parametrize("name", ["exp", "tanh", "log", "erf", "sigmoid", "expm1"])
def test_hot_functions_are_packed_code_without_calls(name: str, tmp_path: Path) -> None:
    code = source(name, row_loop(name, "f32"))
    options = CompileOptions(openmp=False, march="x86-64-v3")
    file = tmp_path / "k.so"
    file.write_bytes(compile_shared(ci.library(code, 8) + code, options=options))
    argv = ["objdump", "-d", f"--disassemble=k_{name}", str(file)]
    listing = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    body = [line.split("\t")[-1].split()[0] for line in listing.splitlines() if line.count("\t") == 2]
    assert sum(op.startswith("vfm") and op.endswith("ps") for op in body) > 8
    scalar = [op for op in body if op.endswith("ss") and op != "vbroadcastss"]
    assert not scalar and not any(op.startswith(("call", "vpextr", "vpinsr")) for op in body)


@pytest.mark.parametrize(("name", "order"), [("i0", 0), ("i0e", 0), ("i1", 1), ("i1e", 1)])
def test_bessel_functions(name: str, order: int) -> None:
    x = np.concatenate([np.linspace(-90, 90, 721), [0.0, -0.0, 1e-30, 24.999, 25.001, 600.0, 1e300]])
    with mpmath.workprec(200):
        scale = [mpmath.exp(-abs(mpmath.mpf(v))) if name.endswith("e") else mpmath.mpf(1) for v in x]
        exact = [
            mpmath.besseli(order, mpmath.mpf(v)) * s if abs(v) < 1e10 else None for v, s in zip(x, scale, strict=True)
        ]
    far = {"i0": np.inf, "i1": np.inf}.get(name, 1 / np.sqrt(2 * np.pi * 1e300))
    reference = np.array([far if e is None else float(e) for e in exact])
    got = kernels("f64", NATURAL, "native").run(name, x)
    np.testing.assert_allclose(got, reference, rtol=3e-14)
    assert np.isnan(kernels("f64", NATURAL, "native").run(name, np.array([np.nan]))).all()
