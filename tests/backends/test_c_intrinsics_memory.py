"""Storage formats, casts, loads and stores at the edge of memory, reductions across lanes, random bits."""

from __future__ import annotations

import ctypes
import mmap
import platform
from functools import cache

import numpy as np
import pytest
import torch

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.load import SharedObject, load_shared
from tessera.backends.c.toolchain import CompileOptions, compile_shared
from tests.backends.c_lanes import NUMPY, Kernels, Loop, specials, stratified
from tests.backends.test_c_intrinsics import NATURAL, TARGETS

TORCH = {
    "f64": torch.float64, "f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16,
    "fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2, "int64": torch.int64,
    "int32": torch.int32, "int16": torch.int16, "int8": torch.int8, "uint8": torch.uint8, "bool": torch.bool,
}  # fmt: skip
HALVES = ["bf16", "f16", "fp8_e4m3", "fp8_e5m2"]
INTS = ["int64", "int32", "int16", "int8", "uint8", "uint32", "uint64"]
PUBLIC = '__attribute__((visibility("default"))) int'
by_target = pytest.mark.parametrize("target", TARGETS, ids=lambda t: f"{t[1]}-{t[0]}")


@cache
def casts(lanes: int, march: str) -> Kernels:
    """The conversions that are measured, and rounding to a narrow float in place."""
    pairs = {(h, "f32") for h in HALVES} | {("f32", h) for h in HALVES}
    pairs |= {(a, b) for a in [*INTS, "bool"] for b in [*INTS, "bool", "f32", "f64", "bf16", "f16"]}
    if march == "native":
        pairs |= {(a, b) for a in ("f32", "f64") for b in [*INTS, "bool", "f32", "f64"]} | {("bf16", "f16")}
    loops = {f"{a}_{b}": Loop((a,), b, ci.cast(a, b, "x0")) for a, b in sorted(pairs)}
    rounds = {f"round_{b}": Loop(("f32",), "f32", ci.cast("f32", b, "x0")) for b in HALVES}
    return Kernels(loops | rounds, lanes, march)


def test_every_conversion_compiles() -> None:
    loops = {f"{a}_{b}": Loop((a,), b, ci.cast(a, b, "x0")) for a in NUMPY for b in NUMPY}
    built = Kernels(loops, NATURAL, "native", level=1)
    for a in NUMPY:
        for b in NUMPY:
            one = built.run(f"bool_{a}", np.ones(3, bool))
            back = built.run(f"{b}_bool", built.run(f"{a}_{b}", one))
            assert back.all(), (a, b)


def codes(dtype: str) -> np.ndarray:
    """Every bit pattern of a narrow float."""
    return np.arange(1 << (8 * np.dtype(NUMPY[dtype]).itemsize), dtype=np.uint32).astype(NUMPY[dtype])


def values(dtype: str, patterns: np.ndarray) -> np.ndarray:
    """What torch says the patterns mean, as f32."""
    signed = torch.from_numpy(patterns.view(np.int16 if patterns.itemsize == 2 else np.uint8).copy())
    return signed.view(TORCH[dtype]).float().numpy()


def same(got: np.ndarray, wanted: np.ndarray) -> None:
    np.testing.assert_array_equal(got, wanted)
    if got.dtype.kind == "f":
        real = ~np.isnan(got)
        np.testing.assert_array_equal(np.signbit(got[real]), np.signbit(wanted[real]))


@by_target
@pytest.mark.parametrize("dtype", HALVES)
def test_every_pattern_of_a_narrow_float_reads_as_torch_reads_it(dtype: str, target: tuple[int, str]) -> None:
    patterns = codes(dtype)
    wanted = values(dtype, patterns)
    got = casts(*target).run(f"{dtype}_f32", patterns)
    same(got, wanted)
    back = casts(*target).run(f"f32_{dtype}", got)
    finite = np.isfinite(wanted)
    same(back[finite], patterns[finite])
    assert np.isnan(values(dtype, back[np.isnan(wanted)])).all()


def narrowing_inputs(dtype: str) -> np.ndarray:
    """All exponents, every value of the format, every midpoint of two neighbours and what lies beside it."""
    exact = values(dtype, codes(dtype))
    exact = np.unique(exact[np.isfinite(exact)]).astype(np.float64)
    middle = ((exact[1:] + exact[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(middle, np.float32(s * np.inf)) for s in (-1, 1)]
    return np.concatenate([stratified(np.float32, 40), exact.astype(np.float32), middle, *beside])


@by_target
@pytest.mark.parametrize("dtype", HALVES)
def test_narrowing_rounds_to_the_nearest_even_and_fp8_saturates(dtype: str, target: tuple[int, str]) -> None:
    x = narrowing_inputs(dtype)
    wanted = torch.from_numpy(x).to(TORCH[dtype]).float().numpy()
    if dtype == "fp8_e5m2":  # torch overflows to infinity here, the casting rule saturates
        wanted = np.where(np.isinf(wanted), np.copysign(np.float32(57344), x), wanted)
    built = casts(*target)
    same(values(dtype, built.run(f"f32_{dtype}", x)), wanted)
    same(built.run(f"round_{dtype}", x), wanted)


@pytest.mark.parametrize("source", ["f32", "f64"])
@pytest.mark.parametrize("target", INTS)
def test_floats_to_integers_truncate_and_saturate(source: str, target: str) -> None:
    kind, info = NUMPY[source], np.iinfo(NUMPY[target])
    limits = np.array([info.min, info.max, 2.0**31, 2.0**32, 2.0**63, 2.0**64], kind)
    beside = [np.nextafter(limits, kind(s * np.inf)) for s in (-1, 1)]
    halves = np.arange(-300, 300, dtype=kind) / kind(2)
    x = np.concatenate([specials(kind), stratified(kind, 4), limits, -limits, *beside, halves])
    wanted = [
        0 if np.isnan(v) else info.max if v >= info.max else info.min if v <= info.min else int(v) for v in x.tolist()
    ]
    same(casts(NATURAL, "native").run(f"{source}_{target}", x), np.array(wanted, NUMPY[target]))


@by_target
@pytest.mark.parametrize("source", [*INTS, "bool"])
def test_integers_wrap_and_round_into_floats(source: str, target: tuple[int, str]) -> None:
    rng = np.random.default_rng(1)
    if source == "bool":
        x = rng.integers(0, 2, 41).astype(bool)
    else:
        info = np.iinfo(NUMPY[source])
        some = rng.integers(info.min, info.max, 500, NUMPY[source], endpoint=True)
        x = np.concatenate([some, some >> rng.integers(0, info.bits, 500).astype(some.dtype)])
        x = np.concatenate([x, np.array([info.min, info.max, 0, 1], NUMPY[source])])
    built = casts(*target)
    for to in [*INTS, "bool", "f32", "f64"]:
        same(built.run(f"{source}_{to}", x), x.astype(NUMPY[to]))
    for to in ("bf16", "f16"):
        wanted = torch.from_numpy(x.astype(np.float32)).to(TORCH[to]).float().numpy()
        same(values(to, built.run(f"{source}_{to}", x)), wanted)


def test_floats_to_bool_and_between_widths() -> None:
    x, d = stratified(np.float32, 4), stratified(np.float64, 4)
    built = casts(NATURAL, "native")
    same(built.run("f32_bool", x), x.astype(bool))
    same(built.run("f64_bool", d), d.astype(bool))
    same(built.run("f32_f64", x), x.astype(np.float64))
    with np.errstate(all="ignore"):
        same(built.run("f64_f32", d), d.astype(np.float32))
    same(built.run("bf16_f16", codes("bf16")).astype(np.int64) >> 15, codes("bf16").astype(np.int64) >> 15)


def test_a_bool_in_memory_counts_by_being_nonzero() -> None:
    raw = np.arange(256, dtype=np.uint8)
    assert casts(NATURAL, "native").run("bool_int32", raw.view(np.bool_)).tolist() == [0] + [1] * 255


STORED = {d: ci.storage(d) for d in NUMPY}


@cache
def movers(lanes: int, march: str) -> SharedObject:
    """Copies with every kind of load and store: whole, partial, strided, gathered, streamed."""
    template = """
        PUBLIC part_$ARGS { t_store_part_$(out, n, t_load_part_$(in, n)); return 0; }
        PUBLIC step_$ARGS { t_store_step_part_$(out, step, n, t_load_step_part_$(in, step, n)); return 0; }
        PUBLIC every_$ARGS { t_store_$(out, t_load_step_$(in, step)); return 0; }
        PUBLIC gather_$ARGS {
            const vm live = t_lanes(n);
            t_store_part_$(out, n, t_gather_$(in, t_load_i64(index), live));
            return 0;
        }
        PUBLIC scatter_$ARGS {
            t_scatter_$(out, t_load_i64(index), t_lanes(n), t_load_part_$(in, n));
            return 0;
        }
        PUBLIC stream_$ARGS { t_prefetch(in); t_stream_$(out, t_load_$(in)); t_fence(); return 0; }
    """.replace("ARGS", "($ *out, const $ *in, i64 n, i64 step, const i64 *index)")
    body = [template.replace("$", s) for s in STORED.values()]
    code = "\n".join(body).replace("PUBLIC", PUBLIC)
    options = CompileOptions(openmp=False, march=march)
    return load_shared(compile_shared(ci.library(code, lanes) + code, options=options), "movers", parallel=False)


def move(
    kind: str,
    dtype: str,
    target: tuple[int, str],
    out: int,
    source: int,
    n: int,
    step: int = 1,
    index: int = 0,
) -> None:
    call = movers(*target).entry(f"{kind}_{STORED[dtype]}")
    call(
        ctypes.c_void_p(out),
        ctypes.c_void_p(source),
        ctypes.c_int64(n),
        ctypes.c_int64(step),
        ctypes.c_void_p(index),
    )


def content(dtype: str, count: int) -> np.ndarray:
    """Values that survive a load and a store."""
    if dtype == "bool":
        return np.arange(count) % 3 == 0
    return (np.arange(count) % 100 + 1).astype(NUMPY[dtype])


@by_target
@pytest.mark.parametrize("dtype", NUMPY)
def test_partial_and_strided_moves_touch_only_their_elements(dtype: str, target: tuple[int, str]) -> None:
    lanes = target[0]
    for n in range(1, lanes + 1):
        source, out = content(dtype, 4 * lanes), np.zeros(4 * lanes, NUMPY[dtype])
        move("part", dtype, target, out.ctypes.data, source.ctypes.data, n)
        assert np.array_equal(out[:n], source[:n]) and not out[n:].any()
        out[:] = 0
        move("step", dtype, target, out.ctypes.data, source.ctypes.data, n, 3)
        wanted = np.zeros_like(out)
        wanted[: 3 * n : 3] = source[: 3 * n : 3]
        assert np.array_equal(out, wanted)


@by_target
@pytest.mark.parametrize("dtype", NUMPY)
def test_whole_strided_gathered_and_streamed_moves(dtype: str, target: tuple[int, str]) -> None:
    lanes = target[0]
    source = content(dtype, 4 * lanes)
    space = np.zeros(64 * lanes, np.uint8)
    start = -space.ctypes.data % 64
    out = space[start : start + lanes * source.itemsize].view(source.dtype)
    move("stream", dtype, target, out.ctypes.data, source.ctypes.data, lanes)
    assert np.array_equal(out, source[:lanes])
    move("every", dtype, target, out.ctypes.data, source.ctypes.data, lanes, 2)
    assert np.array_equal(out, source[: 2 * lanes : 2])
    index = np.random.default_rng(0).permutation(4 * lanes)[:lanes].astype(np.int64)
    for n in (1, lanes - 1, lanes):
        far = index.copy()
        far[n:] = 1 << 40  # dead lanes read nothing
        out[:] = 0
        move("gather", dtype, target, out.ctypes.data, source.ctypes.data, n, 1, far.ctypes.data)
        assert np.array_equal(out[:n], source[index[:n]]) and not out[n:].any()
        spread, wanted = np.zeros_like(source), np.zeros_like(source)
        move("scatter", dtype, target, spread.ctypes.data, source.ctypes.data, n, 1, far.ctypes.data)
        wanted[index[:n]] = source[:n]
        assert np.array_equal(spread, wanted)


@pytest.mark.skipif(platform.system() != "Linux", reason="protects a page through libc")
@by_target
@pytest.mark.parametrize("dtype", NUMPY)
def test_partial_moves_stay_inside_the_mapped_page(dtype: str, target: tuple[int, str]) -> None:
    page = mmap.PAGESIZE
    memory = mmap.mmap(-1, 3 * page)
    base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    protect = ctypes.CDLL(None).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    size = np.dtype(NUMPY[dtype]).itemsize
    assert protect(base, page, 0) == 0 and protect(base + 2 * page, page, 0) == 0
    try:
        for n in range(1, target[0] + 1):
            end = base + 2 * page - n * size
            move("part", dtype, target, end, end, n)
            move("step", dtype, target, end, end, n, 1)
            move("part", dtype, target, base + page, base + page, n)
    finally:
        protect(base, 3 * page, mmap.PROT_READ | mmap.PROT_WRITE)


LANE_KINDS = {
    "f32": np.float32,
    "f64": np.float64,
    "i32": np.int32,
    "i64": np.int64,
    "u32": np.uint32,
    "u64": np.uint64,
}


@cache
def reducers(lanes: int, march: str) -> SharedObject:
    body = [
        """
        PUBLIC masks(const u8 *x) { const vm m = t_load_b8(x); return t_any(m) | t_all(m) << 1; }
        PUBLIC philox(u32 *c, u32 k0, u32 k1) {
            vu32 v[4];
            for (int i = 0; i < 4; i++) v[i] = t_splat_u32(c[i]) + (vu32)(T_IOTA * (i == 0));
            t_philox(v, k0, k1);
            for (int i = 0; i < 4; i++) t_store_u32(c + L * i, v[i]);
            return 0;
        }"""
    ]
    for name in ("sum", "prod", "maximum_of", "minimum_of"):
        body += [f"PUBLIC {name}_$($ *out, const $ *x) {{ *out = t_{name}_$(t_load_$(x)); return 0; }}"]
    for name in ("argmax", "argmin"):
        text = f"*out = t_{name}_$(t_load_$(x), t_load_i64(k)); return 0;"
        body += [f"PUBLIC {name}_$(i64 *out, const $ *x, const i64 *k) {{ {text} }}"]
    for k in (1, 2, 4, 8):
        text = f"t_store_$(out, t_turn_$(t_load_$(x), {k})); return 0;"
        body += [f"PUBLIC turn{k}_$($ *out, const $ *x) {{ {text} }}"]
    body = [body[0], *(text.replace("$", t) for text in body[1:] for t in LANE_KINDS)]
    code = "\n".join(body).replace("PUBLIC", PUBLIC)
    options = CompileOptions(openmp=False, march=march)
    return load_shared(compile_shared(ci.library(code, lanes) + code, options=options), "reducers", parallel=False)


def reduce(
    name: str, target: tuple[int, str], x: np.ndarray, out_dtype: type, *more: np.ndarray, count: int = 1
) -> np.ndarray:
    out = np.zeros(count, out_dtype)
    movable = [ctypes.c_void_p(a.ctypes.data) for a in (out, x, *more)]
    reducers(*target).entry(name)(*movable)
    return out if count > 1 else out[0]


@by_target
@pytest.mark.parametrize("lane", LANE_KINDS)
def test_reductions_across_lanes(lane: str, target: tuple[int, str]) -> None:
    lanes, kind = target[0], LANE_KINDS[lane]
    rng = np.random.default_rng(3)
    for _ in range(20):
        x = rng.integers(-5 if lane[0] != "u" else 0, 6, lanes).astype(kind)
        assert reduce(f"sum_{lane}", target, x, kind) == x.sum(dtype=kind)
        assert reduce(f"prod_{lane}", target, x, kind) == x.prod(dtype=kind)
        assert reduce(f"maximum_of_{lane}", target, x, kind) == x.max()
        assert reduce(f"minimum_of_{lane}", target, x, kind) == x.min()
        order = rng.permutation(lanes)  # the index decides between equals, wherever it sits
        position = np.empty(lanes, np.int64)
        position[:] = order
        unshuffled = np.empty_like(x)
        unshuffled[order] = x
        assert reduce(f"argmax_{lane}", target, x, np.int64, position) == unshuffled.argmax()
        assert reduce(f"argmin_{lane}", target, x, np.int64, position) == unshuffled.argmin()
        for k in (j for j in (1, 2, 4, 8) if j < lanes):
            same(reduce(f"turn{k}_{lane}", target, x, kind, count=lanes), np.roll(x, -k))


@by_target
@pytest.mark.parametrize("lane", ["f32", "f64"])
def test_nan_wins_every_extreme(lane: str, target: tuple[int, str]) -> None:
    lanes, kind = target[0], LANE_KINDS[lane]
    k = np.arange(lanes, dtype=np.int64)
    for at in range(lanes):
        x = np.linspace(-1, 1, lanes).astype(kind)
        x[at] = np.nan
        assert np.isnan(reduce(f"maximum_of_{lane}", target, x, kind))
        assert np.isnan(reduce(f"minimum_of_{lane}", target, x, kind))
        assert (
            reduce(f"argmax_{lane}", target, x, np.int64, k) == at == reduce(f"argmin_{lane}", target, x, np.int64, k)
        )
    x[:] = np.nan
    assert reduce(f"argmax_{lane}", target, x, np.int64, k) == 0


@by_target
def test_any_and_all(target: tuple[int, str]) -> None:
    call = reducers(*target).entry("masks")
    for bits, wanted in (([0], 0), ([1], 3), ([0, 1], 1)):
        x = np.resize(np.array(bits, np.uint8), target[0])
        assert call(ctypes.c_void_p(x.ctypes.data)) == wanted


@by_target
@pytest.mark.parametrize(
    ("counter", "key", "wanted"),
    [
        ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)  # fmt: skip
def test_philox_gives_the_published_answers(counter, key, wanted, target: tuple[int, str]) -> None:
    lanes = target[0]
    c = np.zeros(4 * lanes, np.uint32)
    c[:4] = counter
    reducers(*target).entry("philox")(ctypes.c_void_p(c.ctypes.data), *(ctypes.c_uint32(k) for k in key))
    assert tuple(int(v) for v in c[::lanes]) == wanted


CONSTANTS = [
    *(("f32", v) for v in (0.1, 0.0, -0.0, 1e-45, np.inf, -np.inf, np.nan, 3.4028234663852886e38)),
    *(("f64", v) for v in (0.1, -0.0, 5e-324, 1.7976931348623157e308, -np.inf)),
    *(("int64", v) for v in (-(2**63), 2**63 - 1, -1)),
    *(("int32", v) for v in (-(2**31), 2**31 - 1, 0)),
    *(("bf16", 1.5), ("uint64", 2**64 - 1), ("uint32", 2**32 - 1), ("uint8", 255), ("int8", -128)),
    *(("bool", v) for v in (True, False)),
]


def test_constants_are_exact() -> None:
    loops = {f"c{i}": Loop((d,), d, ci.constant(v, d)) for i, (d, v) in enumerate(CONSTANTS)}
    built = Kernels(loops, NATURAL, "native")
    for i, (dtype, value) in enumerate(CONSTANTS):
        got = built.run(f"c{i}", np.zeros(3, NUMPY[dtype]))
        stored = 0x3FC0 if dtype == "bf16" else value
        same(got, np.full(3, stored, NUMPY[dtype]))
