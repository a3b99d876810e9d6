"""Scans in C against the interpreter: along the lanes and across them, for every number of lanes and register width."""

from __future__ import annotations

import ctypes
import platform

import numpy as np
import pytest

from tessera.backends.c.emit import CSource, Emitter
from tessera.backends.c.load import load_shared
from tessera.backends.c.toolchain import CompileOptions, compile_shared
from tessera.ir.dialects import OPS
from tessera.ir.interp import interpret
from tessera.ir.parser import parse
from tessera.ir.record import Kind

SCANS = [r.name for r in OPS.values() if r.kind is Kind.SCAN]
NUMPY = {"f32": np.float32, "f64": np.float64, "int64": np.int64, "int32": np.int32, "bool": np.bool_}
X86 = platform.machine() in ("x86_64", "AMD64")
#: Lanes, and registers that hold one, two or four values of 64 bits.
WIDTHS = ((4, "x86-64-v2"), (8, "x86-64-v3"), (8, "native"), (16, "native")) if X86 else ((4, "native"), (8, "native"))
#: (rows, columns) on either side of one and of several vectors.
SIZES = ((3, 1), (2, 3), (1, 4), (2, 15), (3, 16), (2, 17), (1, 33), (5, 100), (2, 0), (0, 3), (33, 2), (70, 5))


def kernel(name: str, t: str, vector: str) -> str:
    """The scan of each row; with vector ``i`` rows lie side by side."""
    at = "i*D + j" if vector == "j" else "j*B + i"
    several = name in ("cummax", "cummin")
    outputs = f"y: out {t}[B*D], at: out int64[B*D]" if several else f"y: out {t}[B*D]"
    made = f"%s, %n = {name}" if several else f"%s = {name}"
    types = f"{t}<i, j>, int64<i, j>" if several else f"{t}<i, j>"
    return f"""kernel k(x: in {t}[B*D], {outputs}) {{
      nest(axes=("i",), extents=[B], vector="{vector}") {{
        sweep(axes=("j",), lo=[0], hi=[D]) {{
          %v = load(x, index=[{at}]) : {t}<i, j>
          {made}(%v, over=("j",), position=`j`, dtype={t}) : {types}
          store(y, %s, index=[{at}])
          {f"store(at, %n, index=[{at}])" if several else ""}
        }}
      }}
    }}"""


def cases() -> list[tuple[str, str, str]]:
    floats = [(n, "f32", v) for n in SCANS for v in "ij"] + [("cumsum", "f64", "j"), ("cummin", "f64", "j")]
    return [*floats, ("cumsum", "int64", "j"), ("cummax", "int32", "j"), ("cummin", "bool", "j")]


def drawn(t: str, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Many equal values among them, so that it shows which of them is taken."""
    return (rng.integers(-3, 4, shape) / (2 if t[0] == "f" else 1)).astype(NUMPY[t])


@pytest.mark.parametrize(("lanes", "march"), WIDTHS)
def test_a_scan_is_what_the_interpreter_says(lanes: int, march: str) -> None:
    functions = [parse(kernel(*case)) for case in cases()]
    sources = [Emitter(f, lanes, f"k{n}").run() for n, f in enumerate(functions)]
    options = CompileOptions(level=1, openmp=False, march=march, libm=True)
    library = load_shared(compile_shared(CSource.join(sources), options=options, timeout=240.0), "scans")
    rng = np.random.default_rng(3)
    for (name, t, vector), f, s in zip(cases(), functions, sources, strict=True):
        for rows, columns in SIZES:
            x = drawn(t, (rows, columns), rng)
            if t == "f32" and columns > 4:
                x[0, 3] = (-np.inf, np.inf, np.nan)[columns % 3]
            laid = np.ascontiguousarray(x if vector == "j" else x.T).reshape(-1)
            wanted = interpret(f, [laid.astype(np.float64) if t[0] == "f" else laid], sizes={"B": rows, "D": columns})
            out = [np.zeros(laid.shape, NUMPY[t]), np.zeros(laid.shape, np.int64)][: len(wanted)]
            sizes = {"B": rows, "D": columns}
            given = [a.ctypes.data for a in (laid, *out)]
            given += [0, 0, *(sizes[n] for n in s.sizes)]
            assert library.entry(s.entry)((ctypes.c_int64 * len(given))(*given)) == 0
            for a, b in zip(out, wanted, strict=True):
                rtol = 1e-6 if t == "f32" else 1e-14 if t == "f64" else 0
                np.testing.assert_allclose(
                    a.astype(b.dtype), b, rtol=rtol, atol=rtol, err_msg=f"{name} {t} {vector} {(rows, columns)}"
                )
