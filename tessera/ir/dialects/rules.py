"""Shared rules: which dtype an elementwise op computes in, which axes a reduction folds, how records are put together.

A dtype rule is a pair: what each tensor operand is cast to before the op, and the dtype of the result. Literals and
dynamic scalars are weak: they take part in the choice and are never cast.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tessera.ir.derive import Derivative
from tessera.ir.dialects.samples import elementwise
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bool_, f32
from tessera.ir.graph import Attr
from tessera.ir.infer import Blame, InferContext, result_dtype
from tessera.ir.record import Infer, Kind, Law, OpRecord, Rewrite, Sample
from tessera.ir.types import ScalarType, TensorType, Type

OperandsAs = Callable[[tuple[Type, ...]], tuple[DType | None, ...]]
ResultRule = Callable[[InferContext, tuple[Type, ...], Mapping[str, Attr]], DType]


@dataclass(frozen=True, slots=True)
class DTypeRule:
    """What the operands are cast to, and what comes out; ``allowed`` lists the operand classes (``float int bool``)."""

    operands_as: OperandsAs
    result: ResultRule


def neutral(value: float) -> tuple[Rewrite, ...]:
    """With this number on one side, the op gives the other side."""
    return Rewrite(((0, value),), 1), Rewrite(((1, value),), 0)


def dtype_class(t: DType) -> str:
    """``float``, ``int`` (signed or not) or ``bool``."""
    return "float" if t.is_float else "bool" if t.is_bool else "int"


def _fp8_pair(types: Sequence[Type]) -> bool:
    return sum(isinstance(t, TensorType) and t.dtype.is_fp8 for t in types) > 1


def _promoted(types: Sequence[Type], ints_to: DType | None = None) -> DType:
    t = result_dtype(types)
    return t if t.is_float or ints_to is None else ints_to


def _check(ctx: InferContext, types: Sequence[Type], allowed: str) -> None:
    """Refuse operands of a dtype class that the op does not take, and two 8-bit floats."""
    if _fp8_pair(types):
        first, second = [n for n, t in enumerate(types) if isinstance(t, TensorType) and t.dtype.is_fp8][:2]
        ctx.fail(
            "TSR0302", "two 8-bit floats have no common dtype to compute in",
            Blame(first, None, f"is {types[first].dtype}"), Blame(second, None, f"is {types[second].dtype}"),
            helps=["cast one of them to f32 first"],
        )  # fmt: skip
    for number, t in enumerate(types):
        weak = isinstance(t, ScalarType) and "float" in allowed and not t.dtype.is_bool
        if dtype_class(t.dtype) not in allowed and not weak:
            ctx.fail("TSR0301", f"operand of dtype `{t.dtype}` where {_words(allowed)} is needed",
                     Blame(number, None, f"is {t.dtype}"), helps=_dtype_help(t.dtype, allowed))  # fmt: skip


def _words(allowed: str) -> str:
    return " or ".join({"float": "a float", "int": "an integer", "bool": "a bool"}[a] for a in allowed.split())


def _dtype_help(t: DType, allowed: str) -> list[str]:
    if t.is_bool and "int" in allowed.split():
        return ["for masks use `&`, `|`, `^` and `~`; to count, cast to an integer first"]
    return [f"cast it with `.to({'f32' if 'float' in allowed else 'int64' if 'int' in allowed else 'bool'})`"]


def arithmetic(allowed: str = "float int", ints_to: DType | None = None, among: slice = slice(None)) -> DTypeRule:
    """Operands promote to one dtype and the result has it; with ``ints_to`` integers and bools go there first.

    ``among`` selects the operands that take part; the others are left alone.
    """

    def operands_as(types: tuple[Type, ...]) -> tuple[DType | None, ...]:
        chosen = types[among]
        if _fp8_pair(chosen):
            return (None,) * len(types)
        common = _promoted(chosen, ints_to)
        taking_part = range(len(types))[among]
        return tuple(common if n in taking_part else None for n in range(len(types)))

    def result(ctx: InferContext, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> DType:
        _check(ctx, types[among], allowed)
        return _promoted(types[among], ints_to)

    return DTypeRule(operands_as, result)


def comparing(allowed: str = "float int bool") -> DTypeRule:
    """Operands promote to one dtype, the result is bool."""
    inner = arithmetic(allowed)

    def result(ctx: InferContext, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> DType:
        inner.result(ctx, types, attrs)
        return bool_

    return DTypeRule(inner.operands_as, result)


def testing() -> DTypeRule:
    """One float question (integers are asked as f32), the answer is bool."""
    return DTypeRule(FLOATING.operands_as, lambda ctx, types, attrs: bool_)


def masks() -> DTypeRule:
    """Every operand is read as ``x != 0``, the result is bool."""
    return DTypeRule(lambda types: (bool_,) * len(types), lambda ctx, types, attrs: bool_)


#: Floats stay what they are, everything else computes in f32.
FLOATING = arithmetic("float int bool", ints_to=f32)
ARITHMETIC = arithmetic()
ANY = arithmetic("float int bool")
BITWISE = arithmetic("int bool")
INTEGER = arithmetic("int")
COMPARING = comparing()
TESTING = testing()
MASKS = masks()


def map_infer(rule: DTypeRule) -> Infer:
    """Broadcast the shapes, then ask the dtype rule."""

    def infer(ctx: InferContext, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> tuple[TensorType, ...]:
        return (TensorType(rule.result(ctx, types, attrs), ctx.broadcast(types)),)

    return infer


def torch_names(name: str, *where: str) -> tuple[str, ...]:
    """Dotted names under torch.nn.functional (``f``), torch (``t``), torch.Tensor (``m``) and torch.special (``s``)."""
    prefix = {"t": "torch.", "m": "torch.Tensor.", "f": "torch.nn.functional.", "s": "torch.special."}
    return tuple(prefix[w] + name for w in where)


def elementwise_record(
    name: str,
    signature: str,
    doc: str,
    rule: DTypeRule,
    define: Callable[..., Any] | None = None,
    *,
    where: str = "tm",
    more: Iterable[str] = (),
    methods: tuple[str, ...] | None = None,
    call: Callable[..., Any] | None = None,
    eager: Callable[..., Any] | None = None,
    domain: tuple[float, float] = (-4.0, 4.0),
    dtypes: str = "f32 bf16",
    flops: int = 1,
    samples: Callable[[], Iterable[Sample]] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    rewrites: tuple[Rewrite, ...] = (),
    law: Law = Law.NONE,
    d: Derivative | None = None,
) -> OpRecord:
    """A Map record. ``where`` says under which torch modules the same name is found, ``more`` adds dotted names."""
    record = OpRecord(
        name, Kind.MAP, signature, doc, map_infer(rule), rule.operands_as, define, call=call, eager=eager,
        torch=(*torch_names(name, *where), *more), methods=(name,) if methods is None else methods,
        domain=domain, flops=flops, rewrites=rewrites, law=law, derivative=d,
    )  # fmt: skip
    arity = sum(p.is_operand for p in record.params)
    return replace(record, samples=samples or elementwise(arity, dtypes, domain, kwargs or {}))


def composite(
    name: str,
    signature: str,
    doc: str,
    define: Callable[..., Any],
    torch: Sequence[str] = (),
    samples: Callable[[], Iterable[Sample]] | None = None,
    methods: Sequence[str] | None = None,
) -> OpRecord:
    """A Composite record. Without ``methods`` its tensor methods are those that ``torch`` names."""
    if methods is None:
        plain = (n.removeprefix("torch.Tensor.") for n in torch if n.startswith("torch.Tensor."))
        methods = tuple(n.removesuffix(".__get__") for n in plain if not n.startswith("__") and not n.endswith("_"))
    return OpRecord(
        name, Kind.COMPOSITE, signature, doc, define=define, torch=tuple(torch), methods=tuple(methods), samples=samples
    )


def function_and_method(*names: str) -> tuple[str, ...]:
    """``torch.f`` and ``torch.Tensor.f`` for each name."""
    return tuple(dotted for name in names for dotted in torch_names(name, "t", "m"))


def axes_of(ctx: InferContext, dim: object, rank: int) -> tuple[int, ...]:
    """Sorted, non-negative axes from None (all), an int or a sequence of ints.

    Raises through ``ctx``: TSR0203 for an axis out of range or given twice.
    """
    if dim is None:
        return tuple(range(rank))
    given = [dim] if isinstance(dim, int) else list(dim)  # type: ignore[call-overload]
    axes = [ctx.axis(d, rank) for d in given]
    if rank == 0:
        return ()
    if len(set(axes)) != len(axes):
        ctx.fail("TSR0203", f"dim {next(a for a in axes if axes.count(a) > 1)} is named twice", Blame(0))
    return tuple(sorted(axes)) if axes else tuple(range(rank))


def reduced_dims(dims: Sequence[Dim], axes: Sequence[int], keepdim: bool) -> tuple[Dim, ...]:
    """The shape after folding ``axes``."""
    one = Dim.const(1)
    if keepdim:
        return tuple(one if n in axes else d for n, d in enumerate(dims))
    return tuple(d for n, d in enumerate(dims) if n not in axes)
