"""Compiles C expressions over vectors into loops over arrays, and measures errors in ulp."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from tessera.backends.c import intrinsics as ci
from tessera.backends.c.load import SharedObject, load_shared
from tessera.backends.c.toolchain import CompileOptions, compile_shared

NUMPY = {
    "f64": np.float64, "f32": np.float32, "bf16": np.uint16, "f16": np.uint16, "fp8_e4m3": np.uint8,
    "fp8_e5m2": np.uint8, "int64": np.int64, "int32": np.int32, "int16": np.int16, "int8": np.int8,
    "uint8": np.uint8, "uint32": np.uint32, "uint64": np.uint64, "bool": np.bool_,
}  # fmt: skip


@dataclass(frozen=True)
class Loop:
    """An elementwise kernel: operand dtypes, result dtype, and an expression over x0, x1, x2."""

    operands: tuple[str, ...]
    result: str
    text: str


def row_loop(name: str, dtype: str) -> Loop:
    """The loop that applies one intrinsic."""
    row = ci.INTRINSICS[name]
    operands = ("bool", dtype, dtype) if name == "where" else (dtype,) * row.arity
    return Loop(operands, "bool" if row.mask else dtype, ci.expression(name, dtype, ["x0", "x1", "x2"][: row.arity]))


def source(name: str, loop: Loop) -> str:
    types = [ci.storage(d) for d in loop.operands]
    params = "".join(f"const {t} *p{k}, " for k, t in enumerate(types))
    out = ci.storage(loop.result)

    def body(part: str, count: str) -> str:
        loads = " ".join(
            f"const {ci.vector_type(d)} x{k} = t_load{part}_{t}(p{k} + i{count});"
            for k, (d, t) in enumerate(zip(loop.operands, types, strict=True))
        )
        return f"{loads} t_store{part}_{out}(out + i{count}, {loop.text});"

    return f"""
__attribute__((visibility("default"))) int k_{name}({params}{out} *out, i64 n) {{
    int error = 0, *t_err = &error;
    i64 i = 0;
    for (; i + L <= n; i += L) {{ const vm t_live = ~(vm){{}}; (void)t_live; {body("", "")} }}
    if (i < n) {{ const vm t_live = t_lanes(n - i); (void)t_live; {body("_part", ", n - i")} }}
    return *t_err;
}}
"""


class Kernels:
    """A compiled set of loops."""

    def __init__(self, loops: Mapping[str, Loop], lanes: int, march: str = "native", level: int = 2) -> None:
        self.loops = dict(loops)
        code = "".join(source(name, loop) for name, loop in loops.items())
        options = CompileOptions(level=level, openmp=False, march=march, libm=True)
        data = compile_shared(ci.library(code, lanes) + code, options=options, timeout=120.0)
        self.library: SharedObject = load_shared(data, "intrinsics", parallel=False)

    def run(self, name: str, *arrays: np.ndarray) -> np.ndarray:
        """The result; raises ZeroDivisionError when the kernel reports one."""
        result, failed = self.run_flagged(name, *arrays)
        if failed:
            raise ZeroDivisionError(name)
        return result

    def run_flagged(self, name: str, *arrays: np.ndarray) -> tuple[np.ndarray, bool]:
        loop = self.loops[name]
        held = [np.ascontiguousarray(a, NUMPY[d]) for a, d in zip(arrays, loop.operands, strict=True)]
        out = np.empty(held[0].shape, NUMPY[loop.result])
        pointers = [ctypes.c_void_p(a.ctypes.data) for a in (*held, out)]
        failed = self.library.entry(f"k_{name}")(*pointers, ctypes.c_int64(out.size))
        return out, bool(failed)


def stratified(dtype: type[np.floating], per_exponent: int, seed: int = 0) -> np.ndarray:
    """Random floats of both signs with every exponent equally often, then the specials."""
    rng = np.random.default_rng(seed)
    wide = dtype is np.float64
    bits, mantissa, exponents = (np.uint64, 52, 2047) if wide else (np.uint32, 23, 255)
    e = np.repeat(np.arange(exponents, dtype=bits), per_exponent)
    m = rng.integers(0, 1 << mantissa, e.size, dtype=bits)
    s = rng.integers(0, 2, e.size, dtype=bits)
    values = ((s << bits(mantissa + (11 if wide else 8))) | (e << bits(mantissa)) | m).view(dtype)
    return np.concatenate([values, specials(dtype)])


def specials(dtype: type[np.floating]) -> np.ndarray:
    info = np.finfo(dtype)
    one = [
        0.0,
        0.5,
        1.0,
        2.0,
        3.0,
        4.0,
        1.5,
        2.5,
        10.0,
        100.0,
        np.pi,
        np.pi / 2,
        np.pi / 4,
        88.0,
        89.0,
        104.0,
        1e10,
    ]
    edge = [
        info.max,
        info.tiny,
        info.smallest_subnormal,
        info.eps,
        1 - info.eps / 2,
        1 + info.eps,
        np.inf,
        np.nan,
    ]
    values = np.array(one + edge, dtype)
    return np.concatenate([values, -values])


def pairs(a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every pair of two values."""
    x, y = np.meshgrid(a, a)
    return x.ravel().copy(), y.ravel().copy()


def ulp_error(got: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """The distance from a wider reference in units of the result's last place; NaN positions must agree."""
    with np.errstate(all="ignore"):
        rounded = reference.astype(got.dtype)
        assert np.array_equal(np.isnan(got), np.isnan(rounded)), "NaN in other places"
        finite = np.isfinite(rounded) & np.isfinite(got)
        info = np.finfo(got.dtype)
        size = np.maximum(np.abs(reference[finite]).astype(np.float64), float(info.tiny))
        unit = np.exp2(np.floor(np.log2(size)) - info.nmant)
        error = np.zeros(got.shape)
        error[finite] = np.abs(got[finite].astype(reference.dtype) - reference[finite]).astype(np.float64) / unit
        # An infinity is right where the reference rounds to it, and one step off next to the largest value.
        odd = ~finite & ~np.isnan(rounded)
        edge = (np.abs(reference[odd]) > float(info.max) * (1 - 4 * float(info.eps))) & (
            np.sign(reference[odd]) == np.sign(got[odd]).astype(reference.dtype)
        )
        same = got[odd] == rounded[odd]
        error[odd] = np.where(same, 0.0, np.where(edge, 1.0, np.inf))
    return error
