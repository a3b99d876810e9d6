"""The rules of the tile dialect: nests of sweeps, axes in scope, folds over the sweep they stand in,
memory by role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tessera.diag import TesseraError
from tessera.ir.dialects.tile import LOAD, NEST, STORE, SWEEP
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32, f64
from tessera.ir.graph import Attr, Function, Operation, Value
from tessera.ir.infer import InferContext, Refused
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, ScalarType, TensorType, TileType, Type

Found = tuple[Operation, str, int | None]
Bounds = tuple[Attr, Attr, Attr]

_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_IN_LEVEL = frozenset({Kind.MAP, Kind.REDUCE, Kind.TILE})
#: Attributes of a reduction inside a sweep: the axes it folds, the position of an element, the state's dtype.
FOLD_ATTRS = frozenset({"over", "position", "dtype"})


@dataclass
class _Nest:
    """What is in scope in one nest; ``made`` says in which sweep a value was made (None: in the nest
    itself).
    """

    axes: tuple[str, ...]
    sweep: Operation | None = None
    made: dict[Value, Operation | None] = field(default_factory=dict)

    @property
    def scope(self) -> tuple[str, ...]:
        return self.axes + (_names(self.sweep.attrs.get("axes")) if self.sweep is not None else ())


def tile_problems(f: Function) -> Iterator[Found]:
    """Every broken rule of a kernel, as (operation, what is wrong, operand number)."""
    for op in f.ops:
        if op.record is not NEST or op.body is None:
            yield op, f"`{op.name}` stands outside of every nest", None
            continue
        yield from _axes(op, "extents", ())
        vector, axes = op.attrs.get("vector"), _names(op.attrs.get("axes"))
        if (
            vector
            and vector not in axes
            and not any(vector in _names(s.attrs.get("axes")) for s in op.body.ops)
        ):
            yield op, f"vector axis `{vector}` is no axis of the nest", None
        nest = _Nest(axes)
        for inner in op.body.ops:
            if inner.body is not None:
                yield from _sweep(inner, nest)
                bounds = (*_tuple(inner.attrs.get("lo")), *_tuple(inner.attrs.get("hi")))
                if any(isinstance(d, Dim) and vector in d.names() for d in bounds):
                    yield inner, f"the points of one vector along `{vector}` differ in where the sweep ends", None
            else:
                yield from _operation(inner, nest)


def _sweep(op: Operation, nest: _Nest) -> Iterator[Found]:
    if op.record is not SWEEP or op.body is None:
        yield op, f"`{op.name}` stands inside a nest", None
        return
    yield from _axes(op, "hi", nest.axes)
    if op.attrs.get("lo") is not None and len(_tuple(op.attrs["lo"])) != len(_names(op.attrs.get("axes"))):
        yield op, "as many lower bounds as axes are needed", None
    nest.sweep = op
    for inner in op.body.ops:
        if inner.body is not None:
            yield inner, f"`{inner.name}` stands inside a sweep", None
        else:
            yield from _operation(inner, nest)
    nest.sweep = None


def _axes(op: Operation, extents: str, taken: tuple[str, ...]) -> Iterator[Found]:
    axes, sizes = op.attrs.get("axes"), op.attrs.get(extents)
    names = _names(axes)
    if not isinstance(axes, tuple) or len(names) != len(axes) or not all(map(_AXIS.fullmatch, names)):
        yield op, "axes are a tuple of names", None
    if len(set(names)) != len(names) or set(names) & set(taken):
        yield op, "an axis is named twice", None
    if len(_tuple(sizes)) != len(names):
        yield op, f"as many `{extents}` as axes are needed", None


def _operation(op: Operation, nest: _Nest) -> Iterator[Found]:
    if op.record.kind not in _IN_LEVEL or op.name in ("nest", "sweep"):
        yield op, f"`{op.name}` has no place in a nest", None
        return
    for number, x in enumerate(op.operands):
        if isinstance(x, Value):
            yield from _operand(op, number, x, nest)
    for r in op.results:
        nest.made[r] = nest.sweep
        yield from _result(op, r, nest)
    if op.record.kind is Kind.MAP:
        yield from _element(op)
    elif op.record.kind is Kind.REDUCE:
        yield from _fold(op, nest)
    else:
        yield from _own(op, nest)


def _operand(op: Operation, number: int, x: Value, nest: _Nest) -> Iterator[Found]:
    if isinstance(x.type, BufferType):
        if op.record not in (LOAD, STORE) or number != 0:
            yield op, f"buffer `{x.name}` is no value", number
        return
    if not isinstance(x.type, TileType):
        return
    if x not in nest.made:
        yield op, f"`%{x.name}` belongs to another nest", number
        return
    outside = [a for a in x.type.axes if a not in nest.scope]
    home = nest.made[x]
    if outside:
        yield op, f"`%{x.name}` depends on `{outside[0]}`, which is not in scope", number
    elif home is not None and home is not nest.sweep:
        inner = _names(home.attrs.get("axes"))
        if any(a in inner for a in x.type.axes) and _bounds(home) != _bounds(nest.sweep):
            yield op, f"`%{x.name}` is read in a sweep of other bounds", number


def _bounds(op: Operation | None) -> Bounds | None:
    return None if op is None else (op.attrs.get("axes"), op.attrs.get("lo"), op.attrs.get("hi"))


def _result(op: Operation, r: Value, nest: _Nest) -> Iterator[Found]:
    if not isinstance(r.type, TileType):
        return
    outside = [a for a in r.type.axes if a not in nest.scope]
    if outside:
        yield op, f"`%{r.name}` depends on `{outside[0]}`, which is not in scope", None
    if op.record.kind is Kind.REDUCE:
        return
    for number, x in enumerate(op.operands):
        if isinstance(x, Value) and isinstance(x.type, TileType):
            missing = [a for a in x.type.axes if a not in r.type.axes]
            if missing:
                yield op, f"`%{r.name}` does not depend on `{missing[0]}`, but its operand does", number


def _element(op: Operation) -> Iterator[Found]:
    """The dtype that the record gives one element."""
    if op.record.infer is None or len(op.results) != 1:
        yield op, f"`{op.name}` has one result", None
        return
    try:
        (wanted,) = op.record.infer(InferContext(), tuple(_as_tensor(x.type) for x in op.operands), op.attrs)
    except Refused as refused:
        yield op, refused.message, next((b.operand for b in refused.blame), None)
        return
    except (
        TesseraError,
        ArithmeticError,
        AssertionError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        yield op, f"`{op.name}` does not take these operands and attributes ({type(error).__name__})", None
        return
    found = op.result.type.dtype
    # What no element takes part in is arithmetic of Python numbers, which may be carried out in f64.
    weak = not any(isinstance(x.type, TileType) for x in op.operands)
    if found is not wanted.dtype and not (weak and found is f64 and wanted.dtype is f32):
        yield op, f"`%{op.result.name}` is {found} where `{op.name}` gives {wanted.dtype}", None


def _as_tensor(t: Type) -> Type:
    return t if isinstance(t, ScalarType) else TensorType(t.dtype, ())


def _fold(op: Operation, nest: _Nest) -> Iterator[Found]:
    if nest.sweep is None:
        yield op, f"`{op.name}` folds outside of a sweep", None
        return
    if set(op.attrs) != FOLD_ATTRS:
        yield op, f"a fold has the attributes {', '.join(sorted(FOLD_ATTRS))}", None
        return
    axes = _names(nest.sweep.attrs.get("axes"))
    if op.attrs["over"] != axes:
        yield op, "a fold runs over the axes of its sweep", None
    if not isinstance(op.attrs["position"], Dim) or not isinstance(op.attrs["dtype"], DType):
        yield op, "`position` is an index expression and `dtype` a dtype", None
    for r in op.results:
        if isinstance(r.type, TileType) and any(a in axes for a in r.type.axes):
            yield op, f"`%{r.name}` depends on an axis that is folded", None


def _own(op: Operation, nest: _Nest) -> Iterator[Found]:
    """Loads, stores and positions: roles of buffers, number of indices, names in index expressions."""
    first = op.operands[0] if op.operands else None
    kind = first.type if isinstance(first, Value) else None
    if op.record in (LOAD, STORE):
        if not isinstance(kind, BufferType):
            yield op, f"`{op.name}` needs a buffer", 0
            return
        if op.record is STORE and kind.role == "in":
            yield op, "an input is not written", 0
        if len(_tuple(op.attrs.get("index"))) not in (1, len(kind.dims)):
            yield op, f"{len(_tuple(op.attrs.get('index')))} indices into {len(kind.dims)} dims", None
        if op.record is LOAD and op.result.type.dtype is not kind.dtype:
            yield op, f"`%{op.result.name}` is {op.result.type.dtype}, the buffer {kind.dtype}", None
        yield from _guard(op)
    wanted = 0 if op.record is STORE else 1
    if len(op.results) != wanted:
        yield op, f"`{op.name}` has {wanted} results", None
    for r in op.results:
        if isinstance(r.type, TileType):
            read = {n for a in op.attrs.values() for n in _dim_names(a)} & set(nest.scope)
            missing = sorted(read - set(r.type.axes))
            if missing:
                yield op, f"`%{r.name}` does not depend on `{missing[0]}`, but its index does", None


def _guard(op: Operation) -> Iterator[Found]:
    guard = op.attrs.get("guard")
    if guard is None:
        return
    rows = _tuple(guard)
    if not isinstance(guard, tuple) or not all(
        isinstance(r, tuple) and len(r) == 3 and _all_dims(r) for r in rows
    ):
        yield op, "a guard is a tuple of (expression, lower bound, upper bound)", None


def _all_dims(items: tuple[Attr, ...]) -> bool:
    return all(isinstance(x, Dim) for x in items)


def _dim_names(a: Attr) -> Iterator[str]:
    """The names in an attribute's size expressions, nested tuples included."""
    pending: list[Attr] = [a]
    while pending:
        item = pending.pop()
        if isinstance(item, tuple):
            pending.extend(item)
        elif isinstance(item, Dim):
            yield from item.names()


def _tuple(a: Attr) -> tuple[Attr, ...]:
    return a if isinstance(a, tuple) else ()


def _names(a: Attr) -> tuple[str, ...]:
    return tuple(x for x in _tuple(a) if isinstance(x, str))
