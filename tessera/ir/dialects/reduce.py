"""Reductions that are folds of their own. Everything that can be written with them is a composite."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from tessera.ir.derive import Derivative
from tessera.ir.dialects import adjoints
from tessera.ir.dialects.rules import OperandsAs, axes_of, reduced_dims, torch_names
from tessera.ir.dialects.samples import T, call, samples
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bool_, compute_dtype, int64, uint8
from tessera.ir.graph import Attr
from tessera.ir.infer import ONE, Blame, InferContext
from tessera.ir.record import Infer, Kind, OpRecord, Reduction
from tessera.ir.types import TensorType, Type


def _same(t: DType) -> DType:
    return t


def _reduce_infer(result: Callable[[DType], DType] = _same) -> Infer:
    """Attributes ``dim`` (sorted axes) and ``keepdim``; the dtype follows from the operand's."""

    def infer(ctx: InferContext, types: tuple[Type, ...], attrs: Mapping[str, Attr]) -> tuple[TensorType, ...]:
        axes, keepdim = attrs["dim"], bool(attrs["keepdim"])
        assert isinstance(axes, tuple)
        for axis in axes:
            ctx.axis(int(axis), types[0].rank)  # type: ignore[arg-type]
        dims = reduced_dims(types[0].dims, [int(a) for a in axes], keepdim)  # type: ignore[arg-type]
        return (TensorType(result(types[0].dtype), dims),)

    return infer


def _wide_ints(types: tuple[Type, ...]) -> tuple[DType | None, ...]:
    """Bools and integers add up in int64."""
    t = types[0].dtype
    return (None if t.is_float or t.bits == 64 else int64,)


def _as_bool(types: tuple[Type, ...]) -> tuple[DType | None, ...]:
    return (bool_,)


def fold_call(name: str) -> Callable[..., Any]:
    """``f(x, dim=None, keepdim=False)``: axes from None, an int or a sequence."""

    def define(t: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        axes = axes_of(t.context, dim, t.type_of(x).rank)
        return t.emit(name, (x,), dim=axes, keepdim=bool(keepdim))

    return define


def _sum_call(name: str) -> Callable[..., Any]:
    """As ``fold_call``, with ``dtype``: what the operand is cast to before it is folded, and the result has."""
    plain = fold_call(name)

    def define(t: Any, x: Any, dim: Any = None, keepdim: bool = False, *, dtype: Any = None) -> Any:
        return plain(t, x, dim, keepdim) if dtype is None else t.cast(plain(t, t.cast(x, dtype), dim, keepdim), dtype)

    return define


def _logic_call(name: str) -> Callable[..., Any]:
    """torch answers in bool, but for uint8, its dtype of masks before there was bool."""
    plain = fold_call(name)

    def define(t: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        found = plain(t, x, dim, keepdim)
        return t.cast(found, uint8) if t.dtype_of(x) is uint8 else found

    return define


def _extremum_call(name: str, base: str = "") -> Callable[..., Any]:
    """amax and amin of bools are any and all."""
    plain, logic = fold_call(name), fold_call("any" if (base or name) == "amax" else "all")

    def define(t: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        return (logic if t.dtype_of(x).is_bool else plain)(t, x, dim, keepdim)

    return define


def _of_some(name: str, plain: Callable[..., Any]) -> Callable[..., Any]:
    """The call of a fold that has nothing to give for no elements: along each axis there must be one."""

    def define(t: Any, x: Any, dim: Any = None, keepdim: bool = False) -> Any:
        need_elements(t, x, axes_of(t.context, dim, t.type_of(x).rank), name)
        return plain(t, x, dim, keepdim)

    return define


def need_elements(t: Any, x: Any, axes: Iterable[int], what: str, least: Dim = ONE) -> None:
    """Require elements, one or the number given, along each of the axes (TSR0212)."""
    for axis in axes if t.dims(x) else ():
        d = t.dims(x)[axis]
        if not t.context.always_has(d, least):
            message = f"{what} needs a size of at least {least}, not `{d}`"
            t.context.at_least(d, least, "TSR0212", message, Blame(0, axis, f"`{d}`"))


def peak(t: Any, x: Any, dim: Any) -> Any:
    """The largest value over axes, kept with size 1; unlike that of ``amax`` it is -inf where there are no elements.
    What is shifted by it does not depend on it, so that it is a constant to derivatives.
    """
    return t.detach(t.emit("amax", (x,), dim=axes_of(t.context, dim, t.type_of(x).rank), keepdim=True))


def _arg_call(name: str) -> Callable[..., Any]:
    """The position along one axis, or in the flattened tensor when no axis is given."""

    def define(t: Any, x: Any, dim: int | None = None, keepdim: bool = False) -> Any:
        if t.dtype_of(x).is_bool:
            t.fail("TSR0301", f"{name} of bools", Blame(0, None, "is bool"), helps=["cast it to an integer first"])
        rank = t.type_of(x).rank
        axes = tuple(range(rank)) if dim is None else axes_of(t.context, dim, rank)
        return t.emit(name, (x,), dim=axes, keepdim=bool(keepdim))

    return define


def _arg_reduction(better: Callable[[Any, Any, Any], Any], start: Callable[[DType], float | int]) -> Reduction:
    """The best value so far and where it was; the first of equal ones wins, NaN is better than every number."""

    def beats(t: Any, x: Any, best: Any) -> Any:
        return t.logical_or(better(t, x, best), t.logical_and(x != x, best == best))

    def step(t: Any, state: tuple[Any, ...], x: Any, index: Any) -> tuple[Any, ...]:
        wins = beats(t, x, state[0])
        return t.where(wins, x, state[0]), t.where(wins, index, state[1])

    def merge(t: Any, a: tuple[Any, ...], b: tuple[Any, ...]) -> tuple[Any, ...]:
        # Vector lanes hold interleaved positions, so that among equal values the position decides.
        level = t.logical_and(t.logical_not(beats(t, a[0], b[0])), b[1] < a[1])
        wins = t.logical_or(beats(t, b[0], a[0]), level)
        return t.where(wins, b[0], a[0]), t.where(wins, b[1], a[1])

    return Reduction(
        lambda d: (start(d), 0), step, merge, lambda d: (compute_dtype(d), int64), lambda t, state: (state[1],),
        identity=False,
    )  # fmt: skip


def lowest(t: DType) -> float | int:
    """The identity of maximum: -inf, or the smallest integer."""
    return -math.inf if t.is_float else t.min


def highest(t: DType) -> float | int:
    """The identity of minimum: inf, or the largest integer."""
    return math.inf if t.is_float else t.max


def _fold(
    combine: Callable[[Any, Any, Any], Any], start: Callable[[DType], bool | int | float], additive: bool = False,
    identity: bool = True, rounds: bool = False,
) -> Reduction:
    """One running value, combined with each element."""
    return Reduction(
        lambda d: (start(d),),
        lambda t, state, x, index: (combine(t, state[0], x),),
        lambda t, a, b: (combine(t, a[0], b[0]),),
        lambda d: (compute_dtype(d),),
        additive=additive,
        regroups=True,
        identity=identity,
        rounds=rounds,
    )


def _zero(t: DType) -> int | float:
    return 0.0 if t.is_float else 0


def _one(t: DType) -> int | float:
    return 1.0 if t.is_float else 1


def add_up() -> Reduction:
    """The sum of the elements."""
    return _fold(lambda t, a, x: a + x, _zero, additive=True, rounds=True)


def multiply() -> Reduction:
    """The product of the elements."""
    return _fold(lambda t, a, x: a * x, _one, rounds=True)


def _every_axis_eager(name: str) -> Callable[..., Any]:
    """torch folds one axis a call in prod, any and all, and no axis at all means every one."""

    def run(torch: Any, x: Any, *, dim: tuple[int, ...], keepdim: bool) -> Any:
        for axis in reversed(dim):
            x = getattr(torch, name)(x, dim=axis, keepdim=keepdim)
        return x.clone() if not dim else x

    return run


def _fold_eager(name: str) -> Callable[..., Any]:
    """An empty tuple of axes means "all" to torch and "none" here; extremes of nothing are the identities."""

    def run(torch: Any, x: Any, *, dim: tuple[int, ...], keepdim: bool) -> Any:
        if not dim:
            return x.clone()
        if name != "sum" and not x.numel():
            kept = [1 if n in dim else s for n, s in enumerate(x.shape) if keepdim or n not in dim]
            limits = (torch.finfo if x.is_floating_point() else torch.iinfo)(x.dtype)
            low, high = (-math.inf, math.inf) if x.is_floating_point() else (limits.min, limits.max)
            return torch.full(kept, low if name == "amax" else high, dtype=x.dtype, device=x.device)
        return getattr(torch, name)(x, dim=dim, keepdim=keepdim)

    return run


def _arg_eager(name: str) -> Callable[..., Any]:
    def run(torch: Any, x: Any, *, dim: tuple[int, ...], keepdim: bool) -> Any:
        if len(dim) == 1:
            return getattr(torch, name)(x, dim=dim[0], keepdim=keepdim)
        kept = [n for n in range(x.ndim) if n not in dim]
        moved = torch.permute(x, (*kept, *dim)).reshape(*(x.shape[n] for n in kept), -1)
        found = getattr(torch, name)(moved, dim=-1)
        return found.reshape([1 if n in dim else x.shape[n] for n in range(x.ndim)]) if keepdim else found

    return run


_SIGNATURE = "x: tensor, dim: dims = None, keepdim: bool = False"
_FOLD_SAMPLES = samples(
    call(T(("B", "S", "D"), "f32"), -1), call(T(("B", "S", "D"), "bf16"), 1, True), call(T(("B", "S", "D"), "f32")),
    call(T(("B", "D"), "int32", 9), 0),
)  # fmt: skip
_MULTI = (call(T(("B", "S", "D")), (0, 2)), call(T(("B", "S", "D"), "f32"), dim=(-1, -2), keepdim=True))
_BOOL_SAMPLES = samples(call(T(("B", "S"), "bool", "bool"), 1), call(T(("B", "S"), "bool", "bool")),
                        call(T(("B", "D"), "f32"), 0, True), call(T((), "bool", "bool")))  # fmt: skip


def _reduce(
    name: str,
    doc: str,
    reduction: Reduction,
    call_: Callable[..., Any],
    eager: Callable[..., Any],
    as_: OperandsAs | None = None,
    result: Callable[[DType], DType] = _same,
    samples_: Any = None,
    also: tuple[str, ...] = (),
    derivative: Derivative | None = None,
) -> OpRecord:
    call_ = call_ if reduction.identity else _of_some(name, call_)
    return OpRecord(
        name, Kind.REDUCE, _SIGNATURE, doc, _reduce_infer(result), as_, reduction=reduction, call=call_, eager=eager,
        torch=(*torch_names(name, "t", "m"), *also), methods=(name,), samples=samples_ or _FOLD_SAMPLES,
        derivative=derivative,
    )  # fmt: skip


def _first(
    name: str, doc: str, combine: Callable[[Any, Any, Any], Any], start: Callable[[DType], float | int], plain: str,
    arg: str,
) -> OpRecord:
    """What ``amax`` and ``amin`` are, with the derivative of a value that is read at the position which ``arg`` gives:
    the values of ``max(dim)`` and ``min(dim)``.
    """
    return OpRecord(
        name, Kind.REDUCE, _SIGNATURE, doc, _reduce_infer(), reduction=_fold(combine, start, identity=False),
        call=_of_some(name, _extremum_call(name, plain)), eager=_fold_eager(plain),
        samples=samples(call(T(("B", "S", "D"), "f32"), -1), call(T(("B", "S", "D"), "bf16"), 1, True)),
        derivative=partial(adjoints.first_of_equal, arg),
    )  # fmt: skip


def _with_multi() -> list[Any]:
    return [*_FOLD_SAMPLES(), *_MULTI]


OPS: tuple[OpRecord, ...] = (
    _reduce("sum", "Sum over axes; integers and bools add up in int64.",
            add_up(), _sum_call("sum"), _fold_eager("sum"), _wide_ints, samples_=_with_multi,
            derivative=adjoints.total),
    _reduce("prod", "Product over axes; integers and bools multiply in int64.", multiply(),
            _sum_call("prod"), _every_axis_eager("prod"), _wide_ints, derivative=adjoints.product),
    _reduce("amax", "Largest value over axes; NaN propagates.",
            _fold(lambda t, a, x: t.maximum(a, x), lowest, identity=False),
            _extremum_call("amax"), _fold_eager("amax"), samples_=_with_multi, derivative=adjoints.extreme),
    _reduce("amin", "Smallest value over axes; NaN propagates.",
            _fold(lambda t, a, x: t.minimum(a, x), highest, identity=False),
            _extremum_call("amin"), _fold_eager("amin"), samples_=_with_multi, derivative=adjoints.extreme),
    _first("amax_first", "Largest value over an axis; NaN propagates. Its slope is that of the first of equal ones.",
           lambda t, a, x: t.maximum(a, x), lowest, "amax", "argmax"),
    _first("amin_first", "Smallest value over an axis; NaN propagates. Its slope is that of the first of equal ones.",
           lambda t, a, x: t.minimum(a, x), highest, "amin", "argmin"),
    _reduce("argmax", "Position of the largest value; the first of equal ones, a NaN before numbers.",
            _arg_reduction(lambda t, x, best: x > best, lowest), _arg_call("argmax"), _arg_eager("argmax"),
            result=lambda t: int64),
    _reduce("argmin", "Position of the smallest value; the first of equal ones, a NaN before numbers.",
            _arg_reduction(lambda t, x, best: x < best, highest), _arg_call("argmin"), _arg_eager("argmin"),
            result=lambda t: int64),
    _reduce("any", "At least one is nonzero.", _fold(lambda t, a, x: t.logical_or(a, x), lambda d: False),
            _logic_call("any"), _every_axis_eager("any"), _as_bool, samples_=_BOOL_SAMPLES),
    _reduce("all", "All are nonzero.", _fold(lambda t, a, x: t.logical_and(a, x), lambda d: True),
            _logic_call("all"), _every_axis_eager("all"), _as_bool, samples_=_BOOL_SAMPLES),
)  # fmt: skip
