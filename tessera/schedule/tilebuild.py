"""Emission of tile operations into the containers of one nest: its own level and its sweeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from tessera.ir.dialects import OPS
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, compute_dtype, f32, f64
from tessera.ir.graph import Attr, Block, Literal, Operand, Operation, Value, attr_key
from tessera.ir.infer import InferContext
from tessera.ir.record import OpRecord
from tessera.ir.types import ScalarType, TensorType, TileType, Type


@dataclass
class Container:
    """A list of operations under construction, with what has been computed in it."""

    axes: tuple[str, ...] = ()
    lo: tuple[Dim, ...] = ()
    hi: tuple[Dim, ...] = ()
    ops: list[Operation] = field(default_factory=list)
    alive: tuple[Dim | None, Dim | None] = (None, None)
    ordered: bool = False
    memo: dict[Any, Value] = field(default_factory=dict)


@dataclass
class TileBuilder:
    """Appends tile operations where their axes allow: values that do not depend on a sweep's axes go before the
    sweep.
    """

    top: Container
    names: dict[str, int]
    sweep: Container | None = None
    #: Sweeps that are open inside the sweep, or without one, outermost first.
    inner: list[Container] = field(default_factory=list)
    #: What scalars alone give, still as precise as Python has it.
    numbers: set[Value] = field(default_factory=set)
    #: What a narrow float has without loss, by the value in its compute dtype.
    exact: dict[Value, DType] = field(default_factory=dict)

    def fresh(self, hint: str) -> str:
        hint = hint[:56]  # room for a number within the 64 characters of a name
        count = self.names.get(hint, -1) + 1
        while count and f"{hint}_{count}" in self.names:
            count += 1
        self.names[hint] = count
        name = f"{hint}_{count}" if count else hint
        self.names.setdefault(name, 0)
        return name

    def container(self, axes: tuple[str, ...]) -> Container:
        for c in reversed(self.inner):
            if any(a in c.axes for a in axes):
                return c
        if self.sweep is not None and any(a in self.sweep.axes for a in axes):
            return self.sweep
        return self.top

    def emit(
        self,
        record: OpRecord,
        operands: tuple[Operand, ...],
        dtype: DType,
        attrs: Mapping[str, Attr] | None = None,
        *,
        axes: tuple[str, ...] = (),
        hint: str = "",
        source: Operation | None = None,
    ) -> Value:
        """One result, computed once per container for equal operands and attributes."""
        attrs = attrs or {}
        for x in operands:
            if isinstance(x, Value) and isinstance(x.type, TileType):
                axes = (*axes, *(a for a in x.type.axes if a not in axes))
        where = self.container(axes)
        key = (record, tuple(id(x) if isinstance(x, Value) else x for x in operands), dtype,
               tuple(sorted((k, attr_key(v)) for k, v in attrs.items())))  # fmt: skip
        for c in (self.top, where):
            if key in c.memo:
                return c.memo[key]
        value = Value(self.fresh(hint or record.name), TileType(dtype, axes))
        span, origin = (source.span, source.origin) if source else (None, "")
        where.ops.append(Operation(record, operands, (value,), attrs, span, origin))
        where.memo[key] = value
        return value

    def cast(self, x: Operand, dtype: DType) -> Operand:
        """``x`` in ``dtype``; a Literal stays one, since an op gives its literals the dtype it computes in."""
        if isinstance(x, Literal) or (x.type.dtype is dtype and isinstance(x.type, TileType)):
            return x
        made = self.emit(OPS["cast"], (x,), dtype, {"dtype": dtype})
        if x.type.dtype.is_float and x.type.dtype is not dtype and compute_dtype(x.type.dtype) is dtype:
            self.exact[made] = x.type.dtype
        return made

    def close_sweep(self) -> None:
        if self.sweep is not None and self.sweep.ops:
            s = self.sweep
            attrs: dict[str, Attr] = {"axes": s.axes, "lo": s.lo, "hi": s.hi}
            if s.alive != (None, None):
                attrs["alive"] = s.alive
            if s.ordered:
                attrs["ordered"] = True
            self.top.ops.append(Operation(OPS["sweep"], (), (), attrs, body=Block(tuple(s.ops))))
        self.sweep = None

    def close_inner(self, pinned: bool = False) -> None:
        """End the innermost open sweep; it stands where the axes that its values depend on have their values, or where
        it was opened if it is ``pinned``.
        """
        s = self.inner.pop()
        values = (v for op in s.ops for v in (*op.inputs, *op.results))
        axes = (a for v in values if isinstance(v.type, TileType) for a in v.type.axes)
        where = self.container(tuple(a for a in axes if a not in s.axes))
        if pinned:
            where = self.inner[-1] if self.inner else self.sweep or self.top
        attrs: dict[str, Attr] = {"axes": s.axes, "lo": s.lo, "hi": s.hi}
        if s.ordered:
            attrs["ordered"] = True
        where.ops.append(Operation(OPS["sweep"], (), (), attrs, body=Block(tuple(s.ops))))


class Expr:
    """A tile value inside a scalar definition: Python's operators emit the intrinsics they mean."""

    __slots__ = ("b", "x")

    def __init__(self, b: Namespace, x: Operand) -> None:
        self.b, self.x = b, x

    def __bool__(self) -> bool:
        raise TypeError("a scalar definition may not branch on a value; use t.where")


def _operators() -> None:
    pairs = {"add": "add", "sub": "sub", "mul": "mul", "truediv": "div", "pow": "pow", "mod": "remainder",
             "floordiv": "floordiv", "and": "bitwise_and", "or": "bitwise_or", "xor": "bitwise_xor",
             "lshift": "shift_left", "rshift": "shift_right"}  # fmt: skip
    for python, name in pairs.items():
        setattr(Expr, f"__{python}__", lambda a, b, n=name: getattr(a.b, n)(a, b))
        setattr(Expr, f"__r{python}__", lambda a, b, n=name: getattr(a.b, n)(b, a))
    for python in ("lt", "le", "gt", "ge", "eq", "ne"):
        setattr(Expr, f"__{python}__", lambda a, b, n=python: getattr(a.b, n)(a, b))
    for python, name in {"neg": "neg", "invert": "bitwise_not", "abs": "abs"}.items():
        setattr(Expr, f"__{python}__", lambda a, n=name: getattr(a.b, n)(a))
    Expr.__hash__ = object.__hash__  # type: ignore[method-assign]


_operators()


@dataclass
class Namespace:
    """The scalar namespace over tile values; see ``ScalarNamespace``."""

    build: TileBuilder
    source: Operation | None = None

    def __getattr__(self, name: str) -> Callable[..., Expr]:
        record = OPS[name]
        arity = sum(p.is_operand for p in record.params)

        def call(*xs: Any, **attrs: Any) -> Expr:
            """Arguments beyond the operands are attributes given by position, as in ``t.cast(x, dtype)``."""
            attrs.update(zip(record.attr_names, xs[arity:], strict=False))
            return Expr(self, self.apply(record, tuple(unwrap(x) for x in xs[:arity]), attrs))

        return call

    def dtype_of(self, x: Expr) -> DType:
        """The dtype in which ``x`` is computed."""
        return literal_dtype((x.x,), f64)

    def is_narrow(self) -> bool:
        """Is what the operation gives rounded to a float of fewer bits than it is computed with?"""
        dtype = self.source.results[0].type.dtype if self.source is not None else f32
        return dtype.is_float and compute_dtype(dtype) is not dtype

    def apply(self, record: OpRecord, xs: tuple[Operand, ...], attrs: Mapping[str, Attr]) -> Operand:
        """One MAP record over tile values: expanded when it has a definition, emitted when it is an intrinsic."""
        if record.define is not None:
            result = record.define(self, *(Expr(self, x) for x in xs), **attrs)
            return unwrap(result)
        if "dtype" in attrs:
            return self.convert(xs[0], attrs["dtype"])  # type: ignore[arg-type]
        key = tuple(sorted(attrs.items()))
        alone = all(self.is_number(x) for x in xs)
        if alone:
            xs = tuple(self.number(x) for x in xs)
        else:
            xs = tuple(self.beside(x, xs) if x in self.build.numbers and x.type.dtype is f64 else x for x in xs)
        meant = dtype = intrinsic_dtype(record, tuple(x.type for x in xs), key)
        wanted = operand_dtypes(record, tuple(x.type for x in xs))
        xs = tuple(x if t is None else self.build.cast(x, t) for x, t in zip(xs, wanted, strict=True))
        xs = tuple(self.weak(x, xs, dtype) for x in xs)
        hint = self.source.results[0].name if self.source is not None and self.source.record is record else ""
        value = self.build.emit(record, xs, dtype, attrs, hint=hint, source=self.source)
        if alone:
            self.build.numbers.add(value)
            return value
        return self.build.cast(value, compute_dtype(meant))

    def is_number(self, x: Operand) -> bool:
        """Is ``x`` a literal, a dynamic scalar, or made of such alone?"""
        return not isinstance(x.type, TileType) or x in self.build.numbers

    def beside(self, x: Operand, xs: tuple[Operand, ...]) -> Operand:
        """What scalars gave, in the dtype of the tensors that it meets."""
        found = next((y.type.dtype for y in xs if not self.is_number(y) and y.type.dtype.is_float), f32)
        return self.build.cast(x, compute_dtype(found))

    def number(self, x: Operand) -> Operand:
        """A dynamic scalar or literal among its like, as Python computes with it: ``1 - beta`` of a dynamic beta
        must not cancel in f32.
        """
        if x in self.build.numbers:
            return x
        dtype = f64 if x.type.dtype.is_float else x.type.dtype
        return self.build.emit(OPS["cast"], (x,), dtype, {"dtype": dtype})

    def weak(self, x: Operand, xs: tuple[Operand, ...], dtype: DType) -> Operand:
        """A dynamic scalar takes the dtype that the op computes in."""
        if isinstance(x, Literal) or not isinstance(x.type, ScalarType):
            return x
        return self.build.cast(x, literal_dtype(xs, dtype))

    def convert(self, x: Operand, dtype: DType) -> Operand:
        """An explicit cast: a narrow float is rounded to and then carried on in its compute dtype."""
        wide = compute_dtype(dtype)
        if isinstance(x, Value) and self.build.exact.get(x) is dtype:
            return x
        if wide is not dtype:
            x = self.build.emit(OPS["cast"], (self.build.cast(x, wide),), dtype, {"dtype": dtype})
        if isinstance(x, Literal):
            return self.build.emit(OPS["cast"], (x,), wide, {"dtype": wide})
        return self.build.cast(x, wide)


def unwrap(x: Any) -> Operand:
    """The operand behind what a definition computes with; Python numbers become literals."""
    if isinstance(x, Expr):
        return x.x
    return x if isinstance(x, Value | Literal) else Literal(x)


def literal_dtype(xs: tuple[Operand, ...], result: DType) -> DType:
    """The dtype that an op's literals and dynamic scalars take: that of its first typed operand that is no mask."""
    for x in xs:
        if isinstance(x, Value) and isinstance(x.type, TileType) and not x.type.dtype.is_bool:
            return x.type.dtype
    return result


def _as_tensor(t: Type) -> Type:
    return TensorType(t.dtype, ()) if isinstance(t, TileType) else t


@lru_cache(maxsize=4096)
def intrinsic_dtype(record: OpRecord, types: tuple[Type, ...], attrs: tuple[tuple[str, Attr], ...]) -> DType:
    """The dtype that an intrinsic gives on operands of these types, by its record's rule."""
    assert record.infer is not None
    if record.operands_as is not None:
        wanted = operand_dtypes(record, types)
        types = tuple(
            TileType(w, ()) if w is not None and isinstance(t, TileType) else t
            for w, t in zip(wanted, types, strict=True)
        )
    (result,) = record.infer(InferContext(), tuple(map(_as_tensor, types)), dict(attrs))
    return result.dtype


@lru_cache(maxsize=4096)
def operand_dtypes(record: OpRecord, types: tuple[Type, ...]) -> tuple[DType | None, ...]:
    """The casts that the record asks of its tile operands, whose dtypes are compute dtypes by now."""
    if record.operands_as is None:
        return (None,) * len(types)
    wanted = record.operands_as(tuple(map(_as_tensor, types)))
    return tuple(w if isinstance(t, TileType) else None for w, t in zip(wanted, types, strict=True))
