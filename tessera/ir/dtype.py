"""Element types: names, limits, classes and the promotion lattice.

The lattice is torch's (bool < integers < floats, bf16 with f16 gives f32), extended for the 8-bit floats: they combine
only with Python scalars or with a wider float. Nothing here imports torch; names convert at the edges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tessera.diag import DTypeError


@dataclass(frozen=True, slots=True)
class DType:
    """An element type.

    Attributes: ``name`` (as printed), ``kind`` (``"float" | "int" | "uint" | "bool"``), ``bits``, and for floats
    ``exponent`` and ``mantissa`` (stored bits).

    >>> bf16.bytes, bf16.is_float, int8.max
    (2, True, 127)
    """

    name: str
    kind: str
    bits: int
    exponent: int = 0
    mantissa: int = 0

    def __str__(self) -> str:
        return self.name

    def __repr__(self) -> str:
        return self.name

    @property
    def bytes(self) -> int:
        return max(1, self.bits // 8)

    @property
    def is_float(self) -> bool:
        return self.kind == "float"

    @property
    def is_int(self) -> bool:
        """True for signed and unsigned integers, not for bool."""
        return self.kind in ("int", "uint")

    @property
    def is_bool(self) -> bool:
        return self.kind == "bool"

    @property
    def is_fp8(self) -> bool:
        return self.is_float and self.bits == 8

    @property
    def max(self) -> float | int:
        if self.is_float:
            if self.name == "fp8_e4m3":  # the "fn" format gives up infinities for one more binade
                return 448.0
            return float((2 - 2.0**-self.mantissa) * 2.0 ** (2 ** (self.exponent - 1) - 1))
        return 1 if self.is_bool else 2 ** (self.bits - (self.kind == "int")) - 1

    @property
    def min(self) -> float | int:
        if self.is_float:
            return -self.max
        return -(2 ** (self.bits - 1)) if self.kind == "int" else 0

    @property
    def eps(self) -> float:
        """Distance from 1.0 to the next larger value (floats only)."""
        return 2.0**-self.mantissa

    @property
    def tiny(self) -> float:
        """Smallest positive normal value (floats only)."""
        return 2.0 ** (2 - 2 ** (self.exponent - 1))


f64: Final = DType("f64", "float", 64, 11, 52)
f32: Final = DType("f32", "float", 32, 8, 23)
bf16: Final = DType("bf16", "float", 16, 8, 7)
f16: Final = DType("f16", "float", 16, 5, 10)
fp8_e4m3: Final = DType("fp8_e4m3", "float", 8, 4, 3)
fp8_e5m2: Final = DType("fp8_e5m2", "float", 8, 5, 2)
fp8: Final = fp8_e4m3
int64: Final = DType("int64", "int", 64)
int32: Final = DType("int32", "int", 32)
int16: Final = DType("int16", "int", 16)
int8: Final = DType("int8", "int", 8)
int4: Final = DType("int4", "int", 4)
uint8: Final = DType("uint8", "uint", 8)
uint32: Final = DType("uint32", "uint", 32)
uint64: Final = DType("uint64", "uint", 64)
bool_: Final = DType("bool", "bool", 8)

DTYPES: Final[dict[str, DType]] = {
    t.name: t
    for t in (f64, f32, bf16, f16, fp8_e4m3, fp8_e5m2, int64, int32, int16, int8, int4, uint8, uint32, uint64, bool_)
}
_ALIASES: Final[dict[str, str]] = {
    "fp8": "fp8_e4m3", "float8_e4m3fn": "fp8_e4m3", "float8_e5m2": "fp8_e5m2", "float": "f32", "float32": "f32",
    "double": "f64", "float64": "f64", "half": "f16", "float16": "f16", "bfloat16": "bf16", "long": "int64",
    "int": "int32", "i64": "int64", "i32": "int32", "i16": "int16", "i8": "int8", "short": "int16", "u8": "uint8",
    "bool_": "bool",
}  # fmt: skip


def dtype(x: object) -> DType:
    """The DType meant by ``x``: a DType, a name, a Python type, or any object whose text ends in a known name.

    Raises DTypeError (TSR0103) for anything else.

    >>> dtype("float32"), dtype(int), dtype("torch.bfloat16")
    (f32, int64, bf16)
    """
    if isinstance(x, DType):
        return x
    if x in (bool, int, float):
        return {bool: bool_, int: int64, float: f32}[x]
    text = str(x).removeprefix("torch.").removeprefix("<class 'numpy.").removesuffix("'>")
    found = DTYPES.get(_ALIASES.get(text, text))
    if found is None:
        raise DTypeError(f"unknown dtype `{text}`", code="TSR0103", helps=[f"known: {', '.join(DTYPES)}"])
    return found


def is_dtype_name(text: str) -> bool:
    """Does the text name a dtype, and so cannot name a dimension?"""
    return text in DTYPES or text in _ALIASES


_INT_ORDER: Final = {"uint8": 0, "int8": 1, "int16": 2, "int32": 3, "int64": 4}


def promote(a: DType, b: DType) -> DType:
    """The common dtype of two tensors of the same rank class, by torch's lattice.

    Raises DTypeError (TSR0302) for two different 8-bit floats.

    >>> promote(bf16, f16), promote(int64, bf16), promote(uint8, int8)
    (f32, bf16, int16)
    """
    if a is b:
        return a
    if a.is_bool or b.is_bool:
        return b if a.is_bool else a
    if a.is_float or b.is_float:
        return _promote_float(a, b)
    if "uint64" in (a.name, b.name) or "uint32" in (a.name, b.name):
        return a if a.bits >= b.bits else b
    if "uint8" in (a.name, b.name):
        other = b if a is uint8 else a
        return int16 if other is int8 else other
    return a if _INT_ORDER.get(a.name, 0) >= _INT_ORDER.get(b.name, 0) else b


def _promote_float(a: DType, b: DType) -> DType:
    if not (a.is_float and b.is_float):
        return a if a.is_float else b
    if a.is_fp8 and b.is_fp8:
        raise DTypeError(
            f"`{a}` and `{b}` have no common dtype", code="TSR0302", helps=["cast one of them to f32 first"]
        )
    if a.bits == b.bits:
        return f32
    return a if a.bits > b.bits else b


def category(t: DType) -> int:
    """0 for bool, 1 for integers, 2 for floats: Python scalars and rank-0 tensors promote only across categories."""
    return 0 if t.is_bool else 1 if t.is_int else 2


def compute_dtype(t: DType) -> DType:
    """The dtype in which arithmetic on ``t`` is carried out: narrow floats compute in f32."""
    return f32 if t.is_float and t.bits < 32 else t
