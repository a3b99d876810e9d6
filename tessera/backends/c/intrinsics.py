"""Scalar intrinsics in C: one row each, printed as expressions over vectors of ``L`` lanes.

Every value of a kernel is a GNU C vector with ``L`` lanes, whatever its dtype:

======================================  ==========  ==================================================
dtype                                   value type  held as
======================================  ==========  ==================================================
f32, bf16, f16, fp8_e4m3, fp8_e5m2      ``vf32``    f32; the narrow floats are storage only
f64                                     ``vf64``    f64
int32, int16, int8, uint8               ``vi32``    the value, sign or zero extended, always in range
int64, uint64, uint32                   ``vi64``, ``vu64``, ``vu32``
bool                                    ``vm``      a mask: 32-bit lanes 0 or -1
======================================  ==========  ==================================================

``L`` is 4, 8 or 16. One f32 register is the natural choice (``natural_lanes``). Values of 64-bit lanes then
fill two registers, which every function here handles; a kernel in f64 or int64 alone runs faster with half
of the lanes.

A kernel names what it needs (``t_exp_f32``, ``t_load_bf16``, ``T_SEL`` …) and ``library`` puts the texts in
front: types, then each function that is reachable, in a fixed order. Nothing is included; the flags to
compile with are ``-ffp-contract=off -fno-trapping-math -fwrapv``, and ``-lm``.

Around a kernel's loop the emitter uses, with ``S`` from ``storage``:

- ``t_load_S(p)``, ``t_store_S(p, x)``, ``t_stream_S(p, x)`` (p aligned to the stored vector; ``t_fence()``
  after the last one),
- ``t_load_part_S(p, n)``, ``t_store_part_S(p, n, x)`` for the first ``n`` lanes; other lanes load as zero,
- ``t_load_step_S(p, step)``, ``t_load_step_part_S(p, step, n)``, ``t_store_step_part_S(p, step, n, x)``,
- ``t_gather_S(p, index, live)``, ``t_scatter_S(p, index, live, x)`` with ``index`` a ``vi64``,
- ``t_splat_<lane>(scalar)``, ``constant(value, dtype)``, ``T_IOTA``, ``t_lanes(n)``, ``t_any(m)``,
  ``t_all(m)``, ``t_prefetch(p)``,
- ``t_sum_<lane>(x)``, ``t_prod_``, ``t_maximum_of_``, ``t_minimum_of_``, ``t_argmax_<lane>(x, index)``,
  ``t_argmin_``, and ``t_turn_<lane>(x, k)``, which gives lane i the value of lane (i + k) mod L,
- ``t_dot_pair_S(a, b, c)``, the sum of c and both products of pairs of bf16 or of i16, each pair one ``vu32`` lane,
  with ``t_pair_at(p)``, ``t_pair_of_S(first, second)`` and ``t_load_pairs_S(rows, p, step, n)``, from i8 and u8, too,
- ``t_philox(c, k0, k1)`` on four counters ``vu32 c[4]``.

Division and remainder of integers read two names of the kernel: ``vm t_live``, the lanes that hold elements, and
``int *t_err``, which becomes nonzero when a live lane divides by zero.

>>> expression("add", "f32", ["x", "y"]), expression("exp", "bf16", ["x"])
('(x + y)', 't_exp_f32(x)')
>>> expression("mul", "int8", ["a", "b"]), expression("lt", "f64", ["a", "b"])
('t_wrap_i8(a * b)', 't_lt_f64(a, b)')
>>> "t_exp_tail" in library(expression("exp", "f32", ["x"]), lanes=8)
True
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

from tessera.backends.c.mathlib.texts import Unit, units

# dtype -> (lane, storage suffix)
_DTYPES: Final = {
    "f64": ("f64", "f64"), "f32": ("f32", "f32"), "bf16": ("f32", "bf16"), "f16": ("f32", "f16"),
    "fp8_e4m3": ("f32", "e4m3"), "fp8_e5m2": ("f32", "e5m2"), "int64": ("i64", "i64"),
    "int32": ("i32", "i32"), "int16": ("i32", "i16"), "int8": ("i32", "i8"), "uint8": ("i32", "u8"),
    "uint32": ("u32", "u32"), "uint64": ("u64", "u64"), "bool": ("m", "b8"),
}  # fmt: skip
_SMALL_INTS: Final = ("int16", "int8", "uint8")
_NARROW_FLOATS: Final = ("bf16", "f16", "fp8_e4m3", "fp8_e5m2")
FLOATS: Final = ("f32", "f64")
INTS: Final = ("i32", "i64", "u32", "u64")
_SIGNED: Final = ("i32", "i64")
_WIDE: Final = ("f64", "i64", "u64")
NUMBERS: Final = FLOATS + INTS


@dataclass(frozen=True, slots=True)
class Row:
    """One intrinsic.

    ``forms`` gives per lane kind (``f64 f32 i64 i32 u64 u32 m``) a template over ``{0} {1} {2}``. ``wraps``
    says that the result may leave the range of a small integer and is brought back, ``mask`` that it is a
    bool. ``against_number`` are shorter forms for a second operand that is a number other than NaN.
    """

    name: str
    arity: int
    forms: Mapping[str, str]
    wraps: bool = False
    mask: bool = False
    against_number: Mapping[str, str] = field(default_factory=dict)

    def lanes(self) -> tuple[str, ...]:
        """The lane kinds that the intrinsic exists for."""
        return tuple(self.forms)


def lane(dtype: str) -> str:
    """The lane kind in which ``dtype`` is computed with.

    >>> lane("bf16"), lane("uint8"), lane("bool")
    ('f32', 'i32', 'm')
    """
    return _DTYPES[dtype][0]


def storage(dtype: str) -> str:
    """The C name of ``dtype`` in memory, also the suffix of its loads and stores.

    >>> storage("int64"), storage("fp8_e4m3"), storage("bool")
    ('i64', 'e4m3', 'b8')
    """
    return _DTYPES[dtype][1]


def vector_type(dtype: str) -> str:
    """The C type of a value of ``dtype``: ``L`` lanes.

    >>> vector_type("f16"), vector_type("bool")
    ('vf32', 'vm')
    """
    kind = lane(dtype)
    return "vm" if kind == "m" else f"v{kind}"


def natural_lanes(features: Iterable[str]) -> int:
    """Lanes of one f32 register, from names of CPU features.

    >>> natural_lanes(["avx2", "fma"]), natural_lanes([])
    (8, 4)
    """
    known = {f.lower() for f in features}
    if {"avx512f", "avx512bw", "avx512dq", "avx512vl"} <= known:
        return 16
    return 8 if "avx2" in known else 4


def has_pairs(features: Iterable[str], lanes: int) -> bool:
    """Is ``t_dot_pair_bf16`` with so many lanes one instruction, for a processor with these features?

    >>> has_pairs(["avx512f", "avx512_bf16"], 16), has_pairs(["avx2"], 8)
    (True, False)
    """
    return lanes == 16 and "avx512_bf16" in {f.lower() for f in features}


def _calls(name: str, arity: int, kinds: Sequence[str], extra: str = "") -> dict[str, str]:
    holes = ", ".join(f"{{{i}}}" for i in range(arity))
    return {k: f"t_{name}_{k}({holes}{extra})" for k in kinds}


def _infix(sign: str, kinds: Sequence[str]) -> dict[str, str]:
    return dict.fromkeys(kinds, f"({{0}} {sign} {{1}})")


def _function(name: str, arity: int = 1, kinds: Sequence[str] = FLOATS) -> Row:
    return Row(name, arity, _calls(name, arity, kinds))


def _compare(name: str, sign: str, on_masks: str) -> Row:
    narrow = [k for k in NUMBERS if k not in _WIDE]
    forms = {**_infix(sign, narrow), **_calls(name, 2, _WIDE), "m": f"({{0}} {on_masks} {{1}})"}
    return Row(name, 2, forms, mask=True)


def _divide(name: str, unsigned: str, floats: Mapping[str, str]) -> Row:
    """A division that reports a zero integer divisor; ``unsigned`` names the function for unsigned ones."""
    extra = ", t_live, t_err"
    forms = _calls(name, 2, _SIGNED, extra=extra) | _calls(unsigned, 2, ("u32", "u64"), extra=extra)
    return Row(name, 2, {**floats, **forms}, wraps=True)


def _integral(name: str, mode: int) -> Row:
    forms = {k: f"t_integral_{k}({{0}}, {mode})" for k in FLOATS} | dict.fromkeys(INTS, "{0}")
    return Row(name, 1, forms)


def _arithmetic() -> list[Row]:
    unsigned = dict.fromkeys(("u32", "u64", "m"), "{0}")
    return [
        Row("add", 2, {**_infix("+", NUMBERS), "m": "({0} | {1})"}, wraps=True),
        Row("sub", 2, _infix("-", NUMBERS), wraps=True),
        Row("mul", 2, {**_infix("*", NUMBERS), "m": "({0} & {1})"}, wraps=True),
        Row("div", 2, _infix("/", FLOATS)),
        Row("neg", 1, dict.fromkeys(NUMBERS, "(-{0})"), wraps=True),
        Row("abs", 1, _calls("abs", 1, FLOATS + _SIGNED) | unsigned, wraps=True),
        Row("sign", 1, {**_calls("sign", 1, FLOATS + _SIGNED), **_UNSIGNED_SIGN, "m": "{0}"}),
        Row("reciprocal", 1, {"f32": "(1.0f / {0})", "f64": "(1.0 / {0})"}),
        Row("rsqrt", 1, {"f32": "(1.0f / t_sqrt_f32({0}))", "f64": "(1.0 / t_sqrt_f64({0}))"}),
        Row(
            "maximum",
            2,
            _calls("maximum", 2, NUMBERS) | {"m": "({0} | {1})"},
            against_number=_calls("atleast", 2, ("f32",)),
        ),
        Row(
            "minimum",
            2,
            _calls("minimum", 2, NUMBERS) | {"m": "({0} & {1})"},
            against_number=_calls("atmost", 2, ("f32",)),
        ),
        Row("fmax", 2, _calls("fmax", 2, FLOATS) | _calls("maximum", 2, INTS) | {"m": "({0} | {1})"}),
        Row("fmin", 2, _calls("fmin", 2, FLOATS) | _calls("minimum", 2, INTS) | {"m": "({0} & {1})"}),
        Row("fma", 3, _calls("fma", 3, FLOATS) | dict.fromkeys(INTS, "({0} * {1} + {2})"), wraps=True),
        Row("exp2_sum", 3, _calls("exp2_sum", 3, FLOATS)),
        _divide("floordiv", "trunc_div", _calls("floordiv", 2, FLOATS)),
        _divide("remainder", "fmod", _calls("remainder", 2, FLOATS)),
        _divide("fmod", "fmod", _calls("fmod", 2, FLOATS)),
        _divide("trunc_div", "trunc_div", {k: f"t_integral_{k}({{0}} / {{1}}, 11)" for k in FLOATS}),
        Row("pow", 2, _calls("pow", 2, NUMBERS), wraps=True),
    ]


_UNSIGNED_SIGN: Final = {
    "u32": "((vu32)({0} != 0) & 1)",
    "u64": "((vu64)t_wide_mask(t_ne_u64({0}, (vu64){{}})) & 1)",
}


_UNARY: Final = (
    "sqrt", "exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "sin", "cos", "tan", "asin", "acos",
    "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "erf", "erfc", "erfinv", "lgamma", "digamma",
    "sigmoid", "frac", "i0", "i0e", "i1", "i1e",
)  # fmt: skip
_BINARY: Final = ("atan2", "copysign", "nextafter", "ldexp", "hypot", "logaddexp")
_MODES: Final = {"round": 8, "floor": 9, "ceil": 10, "trunc": 11}


def _functions() -> list[Row]:
    rows = [_function(name) for name in _UNARY] + [_function(name, 2) for name in _BINARY]
    return rows + [_integral(name, mode) for name, mode in _MODES.items()]


def _tests() -> list[Row]:
    zero, one = "((vm){{}})", "(~(vm){{}})"
    exact = dict.fromkeys((*INTS, "m"), zero)
    negative = {"i32": "({0} < 0)", "i64": "t_lt_i64({0}, (vi64){{}})"}
    return [
        _compare("eq", "==", "=="), _compare("ne", "!=", "!="),
        _compare("lt", "<", ">"), _compare("le", "<=", ">="),
        _compare("gt", ">", "<"), _compare("ge", ">=", "<="),
        Row("isnan", 1, _calls("isnan", 1, FLOATS) | exact, mask=True),
        Row("isinf", 1, _calls("isinf", 1, FLOATS) | exact, mask=True),
        Row("isfinite", 1, _calls("isfinite", 1, FLOATS) | dict.fromkeys((*INTS, "m"), one), mask=True),
        Row("signbit", 1, exact | _calls("signbit", 1, FLOATS) | negative, mask=True),
    ]  # fmt: skip


def _logic() -> list[Row]:
    truth = {k: f"t_m_of_{k}({{0}})" for k in NUMBERS} | {"m": "{0}"}
    second = {k: form.replace("{0}", "{1}") for k, form in truth.items()}
    rows = [
        Row(f"logical_{name}", 2, {k: f"({truth[k]} {sign} {second[k]})" for k in truth}, mask=True)
        for name, sign in (("and", "&"), ("or", "|"), ("xor", "^"))
    ]
    whole = (*INTS, "m")
    rows += [Row(f"bitwise_{n}", 2, _infix(s, whole)) for n, s in (("and", "&"), ("or", "|"), ("xor", "^"))]
    return [
        *rows,
        Row("logical_not", 1, {k: f"(~{form})" for k, form in truth.items()}, mask=True),
        Row("bitwise_not", 1, dict.fromkeys(whole, "(~{0})"), wraps=True),
        Row("shift_left", 2, _calls("shl", 2, INTS), wraps=True),
        Row("shift_right", 2, _calls("shr", 2, INTS)),
        Row("where", 3, _calls("where", 3, (*NUMBERS, "m"))),
        Row("mulhi_u32", 2, {"u32": "t_mulhi_u32({0}, {1})"}),
    ]


#: Every intrinsic by name.
INTRINSICS: Final[Mapping[str, Row]] = MappingProxyType(
    {row.name: row for row in (*_arithmetic(), *_functions(), *_tests(), *_logic())}
)


def expression(name: str, dtype: str, args: Sequence[str], against_number: bool = False) -> str:
    """The C expression of an intrinsic on operands of ``dtype`` (for ``where`` that of its second operand).

    ``args`` are C expressions that stand alone: names, calls or parenthesised text. A comparison or test
    gives a mask, anything else a value of ``dtype``; a narrow float is not rounded, see ``cast``. With
    ``against_number`` the second operand is known to be a number in every lane, not NaN. Raises
    KeyError for an intrinsic or a dtype that the table lacks, ValueError for a wrong number of operands.

    >>> expression("floordiv", "int32", ["a", "b"])
    't_floordiv_i32(a, b, t_live, t_err)'
    >>> expression("minimum", "f32", ["a", "b"]), expression("minimum", "f32", ["a", "b"], against_number=True)
    ('t_minimum_f32(a, b)', 't_atmost_f32(a, b)')
    """
    row = INTRINSICS[name]
    if len(args) != row.arity:
        raise ValueError(f"`{name}` takes {row.arity} operands, got {len(args)}")
    forms = {**row.forms, **row.against_number} if against_number else row.forms
    text = forms[lane(dtype)].format(*args)
    if not (row.wraps and dtype in _SMALL_INTS):
        return text
    inner = text[1:-1] if text.startswith("(") and _closes_at_end(text) else text
    return f"t_wrap_{storage(dtype)}({inner})"


def _closes_at_end(text: str) -> bool:
    """Is the first parenthesis closed by the last character?"""
    depth = 0
    for i, c in enumerate(text):
        depth += (c == "(") - (c == ")")
        if depth == 0:
            return i == len(text) - 1
    return False


def cast(source: str, target: str, arg: str) -> str:
    """The C expression that converts a value between dtypes, rounded or wrapped to ``target``.

    Floats round to the nearest, ties to even (8-bit floats saturate, NaN stays); float to integer truncates
    toward zero, saturates, and gives 0 for NaN; integers wrap; to bool means ``!= 0``.

    >>> cast("f32", "bf16", "x"), cast("int64", "int8", "i"), cast("bool", "f32", "m")
    ('t_round_bf16(x)', 't_wrap_i8(t_i32_of_i64(i))', 't_f32_of_m(m)')
    """
    if source == target:
        return arg
    a, b = lane(source), lane(target)
    if b == "m":
        return f"t_m_of_{a}({arg})"
    if target in _NARROW_FLOATS:
        return arg if _holds(source, target) else f"t_round_{storage(target)}({_between(a, 'f32', arg)})"
    if target in _SMALL_INTS:
        if a in FLOATS:
            return f"t_{storage(target)}_of_{a}({arg})"
        inside = _between(a, "i32", arg)
        return inside if a == "m" or _holds(source, target) else f"t_wrap_{storage(target)}({inside})"
    return _between(a, b, arg)


def _holds(source: str, target: str) -> bool:
    """Is every value of ``source`` one of ``target``, both narrow?"""
    return (source, target) in {
        ("uint8", "int16"), ("int8", "int16"), ("fp8_e4m3", "bf16"), ("fp8_e4m3", "f16"),
        ("fp8_e5m2", "bf16"), ("fp8_e5m2", "f16"),
    }  # fmt: skip


def _between(a: str, b: str, arg: str) -> str:
    """From one lane kind to another."""
    if a == b:
        return arg
    if a == "m" and b in ("u32", "u64"):
        return f"((v{b}){_between('m', 'i' + b[1:], arg)})"
    same_width = {("i32", "u32"), ("u32", "i32"), ("i64", "u64"), ("u64", "i64")}
    if (a, b) in same_width:
        return f"((v{b})({arg}))"
    if a in INTS and b in INTS:
        signed = "i32" if a in _WIDE else "i64"
        origin = "i64" if a in _WIDE else a
        text = f"t_{signed}_of_{origin}({_between(a, origin, arg)})"
        return text if b == signed else f"((v{b}){text})"
    return f"t_{b}_of_{a}({arg})"


def constant(value: bool | int | float, dtype: str) -> str:
    """A C vector with ``value`` in every lane.

    >>> constant(1.5, "f32"), constant(-3, "int64"), constant(True, "bool")
    ('t_splat_f32(0x1.8000000000000p+0)', 't_splat_i64(-3ll)', '(~(vm){})')
    """
    kind = lane(dtype)
    if kind == "m":
        return "(~(vm){})" if value else "((vm){})"
    return f"t_splat_{kind}({scalar(value, dtype)})"


def scalar(value: bool | int | float, dtype: str) -> str:
    """A C constant expression for ``value``; floats are written exactly.

    >>> scalar(float("-inf"), "f32"), scalar(7, "uint64")
    ('-__builtin_inf()', '7ull')
    """
    kind = lane(dtype)
    if kind in FLOATS:
        number = float(value)
        if math.isnan(number):
            return '__builtin_nan("")'
        if math.isinf(number):
            return "__builtin_inf()" if number > 0 else "-__builtin_inf()"
        return number.hex()
    bits = 64 if kind in _WIDE else 32
    number = int(value) & ((1 << bits) - 1)
    if kind[0] == "u":
        return f"{number}{'ull' if bits == 64 else 'u'}"
    number -= (number >> (bits - 1)) << bits
    suffix = "ll" if bits == 64 else ""
    return f"(-{-number - 1}{suffix} - 1)" if number == -(1 << (bits - 1)) else f"{number}{suffix}"


#: What the entry of a kernel begins with.
VISIBLE: Final = '__attribute__((visibility("default")))'

#: A function of so many characters is long, and so many uses of one in a kernel are many.
LONG, MANY = 300, 32

_NAME: Final = re.compile(r"\b[tT]_\w+")


def library(code: str, lanes: int) -> str:
    """The types and every function of the table that ``code`` needs, directly or not, in a fixed order.

    Raises ValueError when ``lanes`` is not 4, 8 or 16.
    """
    if lanes not in (4, 8, 16):
        raise ValueError(f"lanes must be 4, 8 or 16, not {lanes}")
    table = units()
    owner = {name: i for i, unit in enumerate(table) for name in unit.defines}
    wanted: set[int] = set()
    pending = {owner[n] for n in _NAME.findall(code) if n in owner}
    while pending:
        i = pending.pop()
        wanted.add(i)
        pending |= {owner[n] for n in table[i].mentions if n in owner} - wanted
    uses: Counter[str] = Counter()
    for kernel in code.split(VISIBLE):
        uses |= Counter(_NAME.findall(kernel))
    texts = [_called(unit, uses) for i, unit in enumerate(table) if unit.always or i in wanted]
    return "\n\n".join([f"#define L {lanes}", *texts]) + "\n"


def _called(unit: Unit, uses: Mapping[str, int]) -> str:
    """The text of a unit, its long functions as calls where inlining all their uses would take a compiler minutes."""
    text = unit.text
    if len(text) > LONG:
        for name in unit.defines:
            # A unit may have a form for each processor, of which a kernel gets one.
            forms = re.findall(rf"^T_FN \w+ {name}\((?:.*\}}$|.*(?:\n[^}}].*)*\n\}})", text, re.MULTILINE)
            if uses.get(name, 0) > MANY and max(map(len, forms), default=0) > LONG:
                text = re.sub(rf"T_FN (\w+ {name}\()", r"static __attribute__((noinline)) \1", text)
    return text
