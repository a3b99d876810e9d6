"""Ask a compiler, by running what it makes, whether its arithmetic means what kernels rely on."""

from __future__ import annotations

import ctypes
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields

from tessera.backends.c.load import SharedObject, load_shared
from tessera.backends.c.toolchain import CompileOptions, compile_shared

_SOURCE = """
#define PUBLIC __attribute__((visibility("default"), noinline))
PUBLIC int is_nan(double x) { return x != x; }
PUBLIC int is_nan_builtin(double x) { return __builtin_isnan(x) != 0; }
PUBLIC int is_inf(double x) { return __builtin_isinf(x) != 0; }
PUBLIC int less(double x, double y) { return x < y; }
PUBLIC double relu(double x) { return x < 0.0 ? 0.0 : x; }
PUBLIC double three(double x, double y, double z) { return (x + y) + z; }
PUBLIC double cancel(double x, double y) { return (x + y) - x; }
PUBLIC double contracted(double x, double y, double z) { return x * y + z; }
PUBLIC double quotient(double x, double y) { return x / y; }
PUBLIC double plus_zero(double x) { return x + 0.0; }
PUBLIC double halved(double x) { return x * 0.5; }
PUBLIC float halved_single(float x) { return x * 0.5f; }
PUBLIC double sin_atan(double x) { return __builtin_sin(__builtin_atan(x)); }
PUBLIC int wraps(int x) { return x + 1 < x; }
PUBLIC double total(const double* x, long n) {
  double s = 0;
  for (long i = 0; i < n; i++) s += x[i];
  return s;
}
#if defined(__x86_64__)
PUBLIC unsigned control(void) { return __builtin_ia32_stmxcsr() & 0xffc0u; }
#elif defined(__aarch64__)
PUBLIC unsigned control(void) {
  unsigned long r;
  __asm__ volatile("mrs %0, fpcr" : "=r"(r));
  return (unsigned)r;
}
#else
PUBLIC unsigned control(void) { return 0; }
#endif
"""


@dataclass(frozen=True, slots=True)
class ProbeReport:
    """What held, one field a promise.

    `nan`, `infinity`: they are recognised. `nan_relu`: a NaN passes `x < 0 ? 0 : x`. `nan_functions`:
    sin(atan(NaN)) is NaN. `ordered_sums`: sums are not reassociated. `not_contracted`: a product is
    rounded before it is added to. `true_division`: no reciprocal instead of a quotient. `signed_zero`:
    -0.0 + 0.0 is +0.0, which an optimiser without signed zeros forgets. `denormals`: small numbers are
    not flushed to zero. `wrapping`: signed integers wrap. `control_unchanged`: loading the library left
    the floating-point control register, and Python's own denormals, as they were.
    """

    nan: bool
    infinity: bool
    nan_relu: bool
    nan_functions: bool
    ordered_sums: bool
    not_contracted: bool
    true_division: bool
    signed_zero: bool
    denormals: bool
    wrapping: bool
    control_unchanged: bool

    @property
    def failures(self) -> tuple[str, ...]:
        """The names of the promises that did not hold."""
        return tuple(field.name for field in fields(self) if not getattr(self, field.name))


def probe(options: CompileOptions) -> ProbeReport:
    """Compile a small library and try its arithmetic."""
    data = compile_shared(_SOURCE, options=options)
    flushed_before = _python_flushes()
    first = load_shared(data, "probe", parallel=False)
    control = _function(first, "control", ctypes.c_uint)
    before = control()
    load_shared(data, "probe", parallel=False)
    unchanged = before == control() == _expected_control() and _python_flushes() == flushed_before
    return _try_out(first, unchanged)


def _try_out(library: SharedObject, unchanged: bool) -> ProbeReport:
    def real(name: str, *arguments: float) -> float:
        function = _function(library, name, ctypes.c_double, *[ctypes.c_double] * len(arguments))
        return float(function(*arguments))

    def true(name: str, *arguments: float) -> bool:
        return _function(library, name, ctypes.c_int, *[ctypes.c_double] * len(arguments))(*arguments) != 0

    nan, infinity, tiny = math.nan, math.inf, 5e-324
    single = _function(library, "halved_single", ctypes.c_float, ctypes.c_float)
    single_minimum = 2.0**-126
    values = (ctypes.c_double * 64)(1e16, *[1.0] * 62, -1e16)
    total = _function(library, "total", ctypes.c_double, ctypes.c_void_p, ctypes.c_long)
    wraps = _function(library, "wraps", ctypes.c_int, ctypes.c_int)
    return ProbeReport(
        nan=true("is_nan", nan) and true("is_nan_builtin", nan) and not true("is_nan", 1.0),
        infinity=true("is_inf", infinity) and not true("is_inf", 1.0) and not true("less", nan, 1.0),
        nan_relu=math.isnan(real("relu", nan)),
        nan_functions=math.isnan(real("sin_atan", nan)),
        ordered_sums=real("three", 1e16, -1e16, 1.0) == 1.0
        and real("cancel", 1e16, 1.0) == (1e16 + 1.0) - 1e16
        and total(values, 64) == _in_order(list(values)),
        not_contracted=real("contracted", 1.0 + 2.0**-30, 1.0 - 2.0**-30, -1.0) == 0.0,
        true_division=real("quotient", 5.0, 49.0) == 5.0 / 49.0 and real("quotient", 1.0, 3e-320) == infinity,
        signed_zero=math.copysign(1.0, real("plus_zero", -0.0)) == 1.0,
        denormals=real("halved", 2 * tiny) == tiny
        and real("halved", sys.float_info.min) == sys.float_info.min / 2
        and single(single_minimum) == single_minimum / 2,
        wrapping=wraps(2**31 - 1) == 1,
        control_unchanged=unchanged,
    )


def _in_order(values: list[float]) -> float:
    total = 0.0
    for value in values:
        total += value
    return total


def _python_flushes() -> bool:
    return float("5e-324") * float("1.0") == 0.0


def _expected_control() -> int:
    """The control bits a process starts with: all exceptions masked, round to nearest, no flushing."""
    return 0x1F80 if platform.machine().lower() in ("x86_64", "amd64") else 0


def _function(library: SharedObject, name: str, result: type, *arguments: type) -> Callable[..., float]:
    prototype = ctypes.CFUNCTYPE(result, *arguments)
    return prototype(library.address(name))
