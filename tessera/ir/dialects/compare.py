"""Comparisons, float tests and logic: everything whose result is bool."""

from __future__ import annotations

from typing import Any

from tessera.ir.dialects.math import aliases
from tessera.ir.dialects.rules import ANY, COMPARING, MASKS, TESTING, DTypeRule, comparing, elementwise_record
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.record import Law, OpRecord


def _compare(
    name: str, doc: str, dunder: str, also: str = "", rule: DTypeRule = COMPARING, law: Law = Law.NONE
) -> OpRecord:
    return elementwise_record(
        name, "x: tensor, other: tensor", doc, rule, more=(*aliases(also), f"torch.Tensor.__{dunder}__"),
        methods=(name, *also.split()), dtypes="f32 bf16 int32 bool", law=law,
    )  # fmt: skip


def _logic(name: str, doc: str, signature: str = "x: tensor, other: tensor", law: Law = Law.NONE) -> OpRecord:
    return elementwise_record(name, signature, doc, MASKS, dtypes="bool f32 int32", law=law)


def _test(name: str, doc: str, define: Any = None, **more: Any) -> OpRecord:
    return elementwise_record(
        name, "x: tensor", doc, TESTING, define, dtypes=more.pop("dtypes", "f32 bf16 int32"), **more
    )


def _isposinf(t: Any, x: Any) -> Any:
    return t.logical_and(t.isinf(x), x > 0)


def _isneginf(t: Any, x: Any) -> Any:
    return t.logical_and(t.isinf(x), x < 0)


def _isclose(t: Any, x: Any, other: Any, rtol: Any, atol: Any, *, equal_nan: bool) -> Any:
    near = t.logical_and(t.abs(x - other) <= atol + t.abs(rtol * other), t.isfinite(other))
    close = t.logical_or(x == other, near)
    return t.logical_or(close, t.logical_and(t.isnan(x), t.isnan(other))) if equal_nan else close


OPS: tuple[OpRecord, ...] = (
    _compare("eq", "Equal.", "eq", law=Law.EQUAL),
    _compare("ne", "Not equal.", "ne", "not_equal"),
    _compare("lt", "Less than.", "lt", "less", law=Law.LESS),
    _compare("le", "At most.", "le", "less_equal", law=Law.AT_MOST),
    _compare("gt", "Greater than.", "gt", "greater", law=Law.GREATER),
    _compare("ge", "At least.", "ge", "greater_equal", law=Law.AT_LEAST),
    _logic("logical_and", "Both are nonzero.", law=Law.AND),
    _logic("logical_or", "At least one is nonzero.", law=Law.OR),
    _logic("logical_xor", "Exactly one is nonzero."),
    _logic("logical_not", "Is zero.", "x: tensor", law=Law.NOT),
    _test("isnan", "Is not a number."),
    _test("isinf", "Is an infinity."),
    _test("isfinite", "Is neither NaN nor an infinity."),
    elementwise_record("signbit", "x: tensor", "The sign bit is set; true for -0.0.",
                       DTypeRule(ANY.operands_as, comparing().result), dtypes="f32 bf16 int32"),
    _test("isposinf", "Is plus infinity.", _isposinf),
    _test("isneginf", "Is minus infinity.", _isneginf),
    elementwise_record(
        "isclose", "x: tensor, other: tensor like x, rtol: tensor = 1e-05, atol: tensor = 1e-08, "
        "equal_nan: bool = False",
        "Within `atol + rtol * |other|`.", comparing("float int"), _isclose, flops=6,
        samples=samples(call(T(("B", "D")), T(("D",))),
                        call(T(("B", "D"), "bf16"), T(("B", 1), "bf16"), rtol=0.5, atol=0.1),
                        call(T(()), T(()), equal_nan=True)),
    ),
)  # fmt: skip
