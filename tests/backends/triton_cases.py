"""Functions that the Triton tests compile: what they compute, over which parameters, and at which sizes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

from tessera.ir.build import Builder
from tessera.ir.dialects import OPS
from tessera.ir.dialects.calls import Ops, Sym
from tessera.ir.dim import Dim
from tessera.ir.dtype import dtype
from tessera.ir.graph import Function
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import ScalarType, TensorType
from tessera.passes.pipeline import pipeline
from tessera.schedule.plan import Program
from tessera.schedule.schedule import schedule

D, S = Dim.name("D"), Dim.name("S")


@dataclass(frozen=True)
class Case:
    """One function. ``params`` are (name, dtype, dims), or (name, dtype) for a dynamic scalar.

    ``sizes`` are the sizes to run at; ``large`` those at which code is compiled ahead of time.
    No ``large``, no code: such a case is interpreted only. ``strided`` names parameters with padded rows,
    ``values`` gives ranges to draw from or the values themselves. Where a function is ``smooth``, an
    error counts against the typical size of the results.
    """

    name: str
    define: Callable[..., Any]
    params: tuple[tuple[Any, ...], ...]
    sizes: tuple[Mapping[str, int], ...]
    large: Mapping[str, int] | None
    strided: frozenset[str] = frozenset()
    wide: bool = True
    smooth: bool = True
    values: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def stages(self) -> tuple[Function, Function, Program]:
        """Before fusion, after it, and scheduled."""
        builder = Builder(OPS["cast"])
        ops = Ops(builder, OPS)
        values = [
            builder.param(name, TensorType(dtype(t), tuple(map(Dim.of, dims[0]))) if dims else ScalarType(dtype(t)))
            for name, t, *dims in self.params
        ]
        made = self.define(ops, *(Sym(ops, v) for v in values))
        results = made if isinstance(made, tuple) else (made,)
        f = Function(self.name, builder.block(values, [ops.operand(r) for r in results]))
        before = f
        for row in pipeline(integers=False):
            before, f = (f, row.step.run(f)) if row.step.name == "fuse" else (before, row.step.run(f))
        return before, f, schedule(f, self.strided)


def rms_norm(t: Any, x: Any, w: Any, eps: Any) -> Any:
    return x * t.rsqrt(t.mean(x**2, dim=-1, keepdim=True) + eps) * w


def layer_norm(t: Any, x: Any, residual: Any, w: Any, b: Any) -> Any:
    h = x + residual
    centred = h - t.mean(h, dim=-1, keepdim=True)
    variance = t.mean(centred * centred, dim=-1, keepdim=True)
    return centred * t.rsqrt(variance + 1e-5) * w + b, h


def softmax(t: Any, x: Any, dim: int = -1) -> Any:
    e = t.exp(x - t.amax(x, dim=dim, keepdim=True))
    return e / t.sum(e, dim=dim, keepdim=True)


def rope(t: Any, x: Any, c: Any, s: Any) -> Any:
    a, b = t.narrow(x, -1, 0, D / 2), t.narrow(x, -1, D / 2, D / 2)
    return t.cat([a * c - b * s, b * c + a * s], dim=-1)


def cross_entropy(t: Any, x: Any, target: Any) -> Any:
    top = t.amax(x, dim=-1, keepdim=True)
    total = t.log(t.sum(t.exp(x - top), dim=-1, keepdim=True)) + top
    return total - t.gather(x, -1, t.unsqueeze(target, -1))


def adamw(t: Any, p: Any, g: Any, m: Any, v: Any, lr: Any, step: Any) -> Any:
    m = m * 0.9 + g * 0.1
    v = t.abs(v) * 0.999 + g * g * 0.001
    update = (m / step) / (t.sqrt(v / step) + 1e-8)
    return p * (1.0 - lr * 0.01) - lr * update, m, v


def padded(t: Any, x: Any) -> Any:
    return t.pad(x, (1, 2)) * 2.0 + 1.0


def masked_mean(t: Any, x: Any, keep: Any) -> Any:
    return t.sum(t.where(keep, x, 0.0), dim=-1) / t.sum(t.cast(keep, "f32"), dim=-1)


def quantized(t: Any, x: Any) -> Any:
    scale = t.amax(t.abs(x), dim=-1, keepdim=True) / 127.0
    return t.cast(t.round(x / scale), "int8"), scale


def largest_first(t: Any, x: Any) -> Any:
    return t.cumsum(softmax(t, x), -1) > 0.9


def shares(t: Any, x: Any) -> Any:
    reached = t.cumsum(t.exp(x), -1)
    return reached / t.amax(reached, dim=-1, keepdim=True), t.sum(x, dim=-1)


def prefixes(t: Any, x: Any) -> Any:
    return t.logcumsumexp(x, -1), t.cumprod(x * 0.1 + 1.0, -1), t.cummin(x, -1).values


def running_max(t: Any, x: Any) -> Any:
    return tuple(t.cummax(x, -1))


def mask_positions(t: Any, keep: Any) -> Any:
    return t.cumsum(keep, -1) * keep - 1, t.cummax(keep, -1).values


def _intrinsics(kind: Kind = Kind.MAP) -> Iterator[OpRecord]:
    return (r for r in OPS.values() if r.kind is kind and r.define is None and r.name != "cast")


def _inputs(r: OpRecord) -> int:
    return sum(p.is_operand for p in r.params)


def _every(t: Any, names: Iterable[str], *xs: Any) -> tuple[Any, ...]:
    return tuple(t.emit(name, xs) for name in names)


def _unary_cases() -> Iterator[Case]:
    """Every intrinsic of one float, by the range on which it is sampled."""
    ranges: dict[tuple[float, float], list[str]] = {}
    for r in _intrinsics():
        if _inputs(r) == 1 and r.name not in ("bitwise_not", "logical_not"):
            ranges.setdefault(r.domain, []).append(r.name)
    for n, (domain, names) in enumerate(ranges.items()):
        for kind in ("f32", "f64"):
            define = partial(_every_unary, names)
            large = {"N": 4096} if kind == "f32" else None
            yield Case(f"unary_{n}_{kind}", define, (("x", kind, ("N",)),), ({"N": 200},), large, values={"x": domain})


def _every_unary(names: Sequence[str], t: Any, x: Any) -> tuple[Any, ...]:
    return _every(t, names, x)


_FLOAT_PAIRS = (
    "div",
    "floordiv",
    "trunc_div",
    "remainder",
    "fmod",
    "pow",
    "minimum",
    "maximum",
    "fmin",
    "fmax",
    "atan2",
    "copysign",
    "hypot",
    "nextafter",
    "eq",
    "ne",
    "lt",
    "le",
    "gt",
    "ge",
    "add",
    "sub",
    "mul",
)
_INT_PAIRS = (
    "floordiv",
    "trunc_div",
    "remainder",
    "fmod",
    "pow",
    "minimum",
    "maximum",
    "fmin",
    "fmax",
    "bitwise_and",
    "bitwise_or",
    "bitwise_xor",
    "shift_left",
    "shift_right",
    "eq",
    "lt",
    "ge",
    "add",
    "sub",
    "mul",
)
_BOOL_PAIRS = ("logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or", "bitwise_xor", "eq", "lt")


def float_pairs(t: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return (*_every(t, _FLOAT_PAIRS, x, y), t.emit("fma", (x, y, x)))


def int_pairs(t: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return (*_every(t, _INT_PAIRS, x, y), *_every(t, ("neg", "abs", "sign", "bitwise_not", "signbit"), x))


def bool_pairs(t: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return (*_every(t, _BOOL_PAIRS, x, y), *_every(t, ("logical_not", "bitwise_not"), x), t.where(x, 1.0, 2.0))


def high_bits(t: Any, x: Any, y: Any) -> tuple[Any, ...]:
    return _every(t, ("mulhi_u32", "add", "shift_right", "remainder"), x, y)


def special(t: Any, x: Any, y: Any) -> tuple[Any, ...]:
    tests = _every(
        t, ("isnan", "isinf", "isfinite", "signbit", "sign", "round", "floor", "ceil", "trunc", "abs", "sqrt"), x
    )
    casts = (t.cast(x, to) for to in ("int8", "int32", "int64", "uint8", "bool", "bf16", "f16", "fp8_e5m2", "fp8_e4m3"))
    return (*_every(t, _FLOAT_PAIRS[1:12], x, y), *tests, *casts, t.logical_and(x, y))


_INF = float("inf")
_SPECIAL = (
    float("nan"),
    _INF,
    -_INF,
    0.0,
    -0.0,
    1.0,
    -1.0,
    2.5,
    -2.5,
    0.5,
    3.0,
    -3.0,
    300.0,
    -300.0,
    3e9,
    -3e9,
    1e30,
    1e19,
)

_ROWS = ({"B": 3, "S": 2, "D": 37}, {"B": 1, "S": 5, "D": 1}, {"B": 2, "S": 2, "D": 65})
_BIG = {"B": 8, "S": 512, "D": 4096}
_FLAT = ({"B": 3, "D": 37}, {"B": 1, "D": 1}, {"B": 5, "D": 257})
_SUMS = ({"B": 3, "S": 70, "D": 5}, {"B": 1, "S": 1, "D": 1}, {"B": 2, "S": 129, "D": 67})
_BD, _BSD = ("B", "D"), ("B", "S", "D")

#: What a user would write.
FUNCTIONS: tuple[Case, ...] = (
    Case("rms_norm", rms_norm, (("x", "bf16", _BSD), ("w", "f32", ("D",)), ("eps", "f32")), _ROWS, _BIG),
    Case("rms_norm_f32", rms_norm, (("x", "f32", _BSD), ("w", "f32", ("D",)), ("eps", "f32")), _ROWS[:1], _BIG),
    Case(
        "layer_norm",
        layer_norm,
        (("x", "f16", _BD), ("residual", "f16", _BD), ("w", "f32", ("D",)), ("b", "f32", ("D",))),
        _FLAT,
        {"B": 4096, "D": 2048},
    ),
    Case("softmax", softmax, (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 8192}),
    Case(
        "softmax_down",
        lambda t, x: softmax(t, x, 0),
        (("x", "f32", _BD),),
        ({"B": 70, "D": 5}, {"B": 1, "D": 3}),
        {"B": 256, "D": 4096},
    ),
    Case("softmax_strided", softmax, (("x", "bf16", _BD),), _FLAT[:1], {"B": 4096, "D": 1024}, frozenset({"x"})),
    Case(
        "silu_mul",
        lambda t, a, b: t.silu(a) * b,
        (("a", "bf16", _BD), ("b", "bf16", _BD)),
        ({"B": 3, "D": 37}, {"B": 1, "D": 1}, {"B": 1, "D": 1025}),
        {"B": 4096, "D": 4096},
    ),
    Case(
        "bias_gelu",
        lambda t, x, b: t.gelu(x + b),
        (("x", "f32", _BD), ("b", "f32", ("D",))),
        _FLAT,
        {"B": 4096, "D": 4096},
    ),
    # rope
    Case(
        "rope",
        rope,
        (("x", "bf16", ("B", "S", "H", "D")), ("c", "f32", ("S", 1, D / 2)), ("s", "f32", ("S", 1, D / 2))),
        ({"B": 2, "S": 3, "H": 2, "D": 8}, {"B": 1, "S": 1, "H": 1, "D": 2}),
        {"B": 4, "S": 2048, "H": 32, "D": 128},
    ),
    Case(
        "cross_entropy",
        cross_entropy,
        (("x", "f32", ("B", "V")), ("target", "int64", ("B",))),
        ({"B": 5, "V": 37}, {"B": 1, "V": 1}),
        {"B": 4096, "V": 32000},
    ),
    Case(
        "adamw",
        adamw,
        (*((n, "f32", _BD) for n in "pgmv"), ("lr", "f32"), ("step", "f32")),
        _FLAT[:2],
        {"B": 4096, "D": 4096},
    ),
    Case("sum_all", lambda t, x: t.sum(x), (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 4096}),
    Case("sum_flat", lambda t, x: t.sum(x), (("x", "f16", ("D",)),), ({"D": 37}, {"D": 20000}), {"D": 1 << 24}),
    Case(
        "sum_leading",
        lambda t, x: t.sum(x, dim=0),
        (("x", "bf16", _BD),),
        ({"B": 70, "D": 5}, {"B": 1, "D": 1}),
        {"B": 4096, "D": 4096},
    ),
    Case("sum_leading_two", lambda t, x: t.sum(x, dim=(0, 1)), (("x", "f32", _BSD),), _SUMS, _BIG),
    Case("sum_trailing", lambda t, x: t.sum(x, dim=-1), (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 4096}),
    Case("sum_middle", lambda t, x: t.sum(x, dim=1), (("x", "f32", _BSD),), _SUMS, _BIG),
    Case("sum_ends", lambda t, x: t.sum(x, dim=(0, 2)), (("x", "f32", _BSD),), _SUMS, _BIG),
    Case("argmax", lambda t, x: t.argmax(x, dim=-1), (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 4096}),
    Case(
        "any_all",
        lambda t, x: (t.any(x, dim=-1), t.all(x, dim=-1)),
        (("x", "bool", _BD),),
        _FLAT,
        {"B": 4096, "D": 4096},
    ),
    Case(
        "prod",
        lambda t, x: t.prod(x * 0.1 + 1.0, dim=-1),
        (("x", "f32", _BD),),
        _FLAT,
        {"B": 4096, "D": 1024},
    ),
    Case(
        "transpose_add",
        lambda t, x, y: t.permute(x, (1, 0)) + y,
        (("x", "f32", _BD), ("y", "f32", ("D", "B"))),
        _FLAT,
        {"B": 4096, "D": 4096},
        wide=False,
    ),
    Case("padded", padded, (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 4093}, wide=False),
    Case(
        "masked_mean",
        masked_mean,
        (("x", "bf16", _BD), ("keep", "bool", _BD)),
        _FLAT[:1],
        {"B": 4096, "D": 2048},
    ),
    Case("quantized", quantized, (("x", "f32", _BD),), _FLAT[:1], {"B": 4096, "D": 4096}),
    Case(
        "index_rows",
        lambda t, x, at: t.index_select(x, 0, at) * 2.0,
        (("x", "bf16", ("V", "D")), ("at", "int64", ("B",))),
        ({"B": 5, "V": 7, "D": 9},),
        {"B": 4096, "V": 32000, "D": 4096},
    ),
    Case(
        "wrapped_rows",
        lambda t, x, at: t.take(x, at, 0) * 2.0,
        (("x", "bf16", ("V", "D")), ("at", "int64", ("B",))),
        ({"B": 5, "V": 7, "D": 9},),
        {"B": 4096, "V": 32000, "D": 4096},
        values={"at": (-7, 7)},
    ),
    Case("cumsum", lambda t, x: t.cumsum(x, -1), (("x", "bf16", _BD),), _FLAT, {"B": 4096, "D": 4096}),
    Case("cumsum_down", lambda t, x: t.cumsum(x, 0), (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 4096}),
    Case("cumsum_middle", lambda t, x: t.relu(t.cumsum(x, 1)), (("x", "f32", _BSD),), _SUMS, _BIG),
    Case("cumsum_flat", lambda t, x: t.cumsum(x, 0), (("x", "f32", ("D",)),), ({"D": 37}, {"D": 20000}), {"D": 4096}),
    Case("largest_first", largest_first, (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 32000}, smooth=False),
    Case("shares", shares, (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 4096}),
    Case("prefixes", prefixes, (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 1024}),
    Case("running_max", running_max, (("x", "f32", _BD),), _FLAT, {"B": 4096, "D": 1024}),
    Case("mask_positions", mask_positions, (("keep", "bool", _BD),), _FLAT, {"B": 4096, "D": 1024}, wide=False),
    Case("scalar", lambda t, x: t.exp(x) + 1.0, (("x", "f32", ()),), ({},), {}, wide=False),
)

#: Every scalar intrinsic, many to a kernel.
INTRINSICS: tuple[Case, ...] = (
    *_unary_cases(),
    *(
        Case(
            f"float_pairs_{k}",
            float_pairs,
            (("x", k, ("N",)), ("y", k, ("N",))),
            ({"N": 200},),
            {"N": 4096} if k == "f32" else None,
            values={"x": (0.05, 8.0), "y": (1.0, 9.0)},
        )
        for k in ("f32", "f64")
    ),
    *(
        Case(
            f"int_pairs_{k}",
            int_pairs,
            (("x", k, ("N",)), ("y", k, ("N",))),
            ({"N": 200},),
            {"N": 4096} if k == "int32" else None,
            values={"x": (0 if k == "uint8" else -9, 9), "y": (1, 7)},
        )
        for k in ("int32", "int64", "int8", "uint8")
    ),
    Case(
        "int_signs",
        lambda t, x, y: _every(t, ("floordiv", "remainder", "pow"), x, y),
        (("x", "int32", ("N",)), ("y", "int32", ("N",))),
        ({"N": 6},),
        None,
        values={"x": [7, -7, 7, -7, 1, -1], "y": [3, 3, -3, -3, -2, -3]},
    ),
    Case("bool_pairs", bool_pairs, (("x", "bool", ("N",)), ("y", "bool", ("N",))), ({"N": 40},), {"N": 4096}),
    Case(
        "high_bits",
        high_bits,
        (("x", "uint32", ("N",)), ("y", "uint32", ("N",))),
        ({"N": 200},),
        {"N": 4096},
        values={"x": (0, 2**32), "y": (1, 2**31)},
    ),
    Case(
        "special",
        special,
        (("x", "f32", ("N",)), ("y", "f32", ("N",))),
        ({"N": len(_SPECIAL) ** 2},),
        {"N": 4096},
        smooth=False,
        values={"x": list(_SPECIAL) * len(_SPECIAL), "y": [v for v in _SPECIAL for _ in _SPECIAL]},
    ),
)

CASES: tuple[Case, ...] = (*FUNCTIONS, *INTRINSICS)
