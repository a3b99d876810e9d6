"""Scalar intrinsics in Triton: one row per intrinsic, a template for each class of operands, helpers where
needed.

Floats are f32 or f64 by the time they get here. Functions are the precise ones that the vendors' math
libraries offer under one name (``libdevice``): the short forms of ``tl.exp``, ``/`` and ``tl.sqrt`` lose
several bits in f32.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from tessera.backends.triton.helpers import HELPERS
from tessera.ir.dtype import DType

#: Triton's names of the element types, as in ``tl.float32``.
TYPES: Mapping[str, str] = MappingProxyType(
    {
        "f64": "float64",
        "f32": "float32",
        "bf16": "bfloat16",
        "f16": "float16",
        "fp8_e4m3": "float8e4nv",
        "fp8_e5m2": "float8e5",
        "int64": "int64",
        "int32": "int32",
        "int16": "int16",
        "int8": "int8",
        "uint8": "uint8",
        "uint32": "uint32",
        "uint64": "uint64",
        "bool": "int1",
    }
)

#: Names of the same types in a kernel's signature.
SIGNATURE: Mapping[str, str] = MappingProxyType(
    {
        "f64": "fp64",
        "f32": "fp32",
        "bf16": "bf16",
        "f16": "fp16",
        "fp8_e4m3": "fp8e4nv",
        "fp8_e5m2": "fp8e5",
        "int64": "i64",
        "int32": "i32",
        "int16": "i16",
        "int8": "i8",
        "uint8": "u8",
        "uint32": "u32",
        "uint64": "u64",
        "bool": "i1",
    }
)


@dataclass(frozen=True, slots=True)
class Row:
    """Templates for f32 operands, for f64, for integers and for bools; an empty one means "as the one
    before".
    """

    f32: str
    f64: str = ""
    ints: str = ""
    bools: str = ""

    def template(self, t: DType) -> str:
        """The template for operands of dtype ``t``."""
        if t.is_float:
            return self.f64 if t.bits == 64 and self.f64 else self.f32
        ints = self.ints or self.f32
        return ints if t.is_int else self.bools or ints


def _same(text: str) -> Row:
    return Row(text)


_INFIX = {
    "add": "+",
    "sub": "-",
    "mul": "*",
    "eq": "==",
    "ne": "!=",
    "lt": "<",
    "le": "<=",
    "gt": ">",
    "ge": ">=",
}
_LOGIC = {
    "bitwise_and": "&",
    "bitwise_or": "|",
    "bitwise_xor": "^",
    "logical_and": "&",
    "logical_or": "|",
    "logical_xor": "^",
}
_LIBRARY = (
    "exp",
    "exp2",
    "expm1",
    "log",
    "log2",
    "log10",
    "log1p",
    "sin",
    "cos",
    "tan",
    "asin",
    "acos",
    "atan",
    "sinh",
    "cosh",
    "tanh",
    "asinh",
    "acosh",
    "atanh",
    "erf",
    "erfc",
    "erfinv",
    "lgamma",
    "trunc",
)
_LIBRARY_PAIRS = ("atan2", "copysign", "hypot", "nextafter")

#: Every intrinsic but ``cast``, which needs both types.
ROWS: Mapping[str, Row] = MappingProxyType(
    {
        **{name: _same(f"{{0}} {sign} {{1}}") for name, sign in (_INFIX | _LOGIC).items()},
        **{name: _same(f"libdevice.{name}({{0}})") for name in _LIBRARY},
        **{name: _same(f"libdevice.{name}({{0}}, {{1}})") for name in _LIBRARY_PAIRS},
        "div": Row("tl.div_rn({0}, {1})", "{0} / {1}"),
        "floordiv": Row("_floordiv({0}, {1})", ints="_int_floordiv({0}, {1})"),
        "trunc_div": Row("libdevice.trunc(tl.div_rn({0}, {1}))", "libdevice.trunc({0} / {1})", "{0} // {1}"),
        "remainder": Row("_remainder({0}, {1})", ints="_int_remainder({0}, {1})"),
        "fmod": Row("libdevice.fmod({0}, {1})", ints="{0} % {1}"),
        "pow": Row("libdevice.pow({0}, {1})", ints="_int_pow({0}, {1})"),
        "minimum": Row(
            "tl.minimum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
            "_minimum({0}, {1})",
            "tl.minimum({0}, {1})",
            "{0} & {1}",
        ),
        "maximum": Row(
            "tl.maximum({0}, {1}, propagate_nan=tl.PropagateNan.ALL)",
            "_maximum({0}, {1})",
            "tl.maximum({0}, {1})",
            "{0} | {1}",
        ),
        "fmin": _same("tl.minimum({0}, {1})"),
        "fmax": _same("tl.maximum({0}, {1})"),
        "exp2_sum": _same("_exp2_sum({0}, {1}, {2})"),
        "fma": Row("tl.fma({0}, {1}, {2})", ints="({0} * {1} + {2})"),
        "neg": _same("-{0}"),
        "abs": _same("tl.abs({0})"),
        "sign": _same("_sign({0})"),
        "floor": _same("tl.floor({0})"),
        "ceil": _same("tl.ceil({0})"),
        "round": _same("libdevice.rint({0})"),
        "sqrt": Row("tl.sqrt_rn({0})", "tl.sqrt({0})"),
        "rsqrt": _same("libdevice.rsqrt({0})"),
        "reciprocal": Row("tl.div_rn(1.0, {0})", "1.0 / {0}"),
        "sigmoid": Row("tl.div_rn(1.0, 1.0 + libdevice.exp(-{0}))", "1.0 / (1.0 + libdevice.exp(-{0}))"),
        "digamma": _same("_digamma({0})"),
        "i0": _same("libdevice.cyl_bessel_i0({0})"),
        "i1": _same("libdevice.cyl_bessel_i1({0})"),
        "i0e": _same("_i0e({0})"),
        "i1e": _same("_i1e({0})"),
        "bitwise_not": _same("~{0}"),
        "logical_not": _same("~{0}"),
        "shift_left": _same("_shift_left({0}, {1})"),
        "shift_right": _same("_shift_right({0}, {1})"),
        "mulhi_u32": _same("tl.umulhi({0}, {1})"),
        "where": _same("tl.where({0}, {1}, {2})"),
        "isnan": _same("{0} != {0}"),
        "isinf": _same('tl.abs({0}) == float("inf")'),
        "isfinite": _same('tl.abs({0}) < float("inf")'),
        "signbit": Row("{0}.to(tl.int32, bitcast=True) < 0", "{0}.to(tl.int64, bitcast=True) < 0", "{0} < 0"),
    }
)

_CALLED = re.compile(r"(?<!\w)(_\w+)\(")


@dataclass
class Used:
    """The helpers that a kernel calls, in the order in which they must be defined."""

    names: dict[str, None] = field(default_factory=dict)

    def note(self, text: str) -> str:
        """Remember the helpers called in an expression; gives the expression back."""
        for name in _CALLED.findall(text):
            if name in HELPERS and name not in self.names:
                self.note(HELPERS[name].partition(":")[2])
                self.names[name] = None
        return text

    def prelude(self) -> list[str]:
        """Definitions of what has been noted."""
        return [f"@triton.jit\n{HELPERS[name].strip()}\n" for name in self.names]


def type_name(t: DType) -> str:
    """``tl.float32``; raises KeyError for a dtype that Triton cannot hold."""
    return f"tl.{TYPES[t.name]}"


def literal(x: bool | int | float, t: DType, alone: bool = False) -> str:
    """A constant of dtype ``t``. ``alone`` makes it a value of its own; beside a typed operand a bare number
    will do.

    >>> from tessera.ir.dtype import f32, f64, int64
    >>> literal(0.1, f32), literal(0.1, f64), literal(float("inf"), f32), literal(2, f32)
    ('0.1', 'tl.full([], 0.1, tl.float64)', 'float("inf")', '2.0')
    """
    if t.is_float:
        value = float(x)
        finite = value == value and abs(value) != float("inf")
        text = repr(value) if finite else f'float("{value}")'
        # A bare float beside an f64 value would first be rounded to f32.
        alone = alone or t.bits == 64
    else:
        text = repr(bool(x) if t.is_bool else int(x))
    return f"tl.full([], {text}, {type_name(t)})" if alone else text


def call(name: str, args: Iterable[str], t: DType) -> str:
    """The expression of an intrinsic over operands of dtype ``t``. Raises KeyError for an intrinsic without
    a row.

    >>> from tessera.ir.dtype import f32, int32
    >>> call("div", ["a", "b"], f32), call("fmod", ["a", "b"], int32)
    ('tl.div_rn(a, b)', 'a % b')
    """
    return ROWS[name].template(t).format(*args)


def cast(x: str, source: DType, to: DType) -> str:
    """An explicit conversion: floats saturate on the way to integers and 8-bit floats, NaN becomes integer
    0.
    """
    if to.is_bool:
        return x if source.is_bool else f"{x} != 0"
    if to.is_int and source.is_float:
        low, high = int(to.min), int(to.max)
        # The first float beyond the range where the last integer is no float.
        above = float(high) + (high >= 1 << 24)
        return f"_float_to_int({x}, {low}, {high}, {float(low)!r}, {above!r}, {type_name(to)})"
    if to.is_fp8:
        return f"_to_fp8({x}, {float(to.max)!r}, {type_name(to)})"
    return f"{x}.to({type_name(to)})"
