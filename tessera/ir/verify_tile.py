"""The rules of the tile dialect: nests of sweeps, axes in scope, folds over the sweep they stand in,
memory by role.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from tessera.diag import TesseraError
from tessera.ir.dialects.tile import ACCUMULATE, GATE, LOAD, LOCAL, MMA, NEST, RUNNING, STORE, SWEEP
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32, f64
from tessera.ir.folds import FOLDS
from tessera.ir.graph import Attr, Function, Operation, Value, dims_in
from tessera.ir.infer import InferContext, Refused
from tessera.ir.pieces import astray
from tessera.ir.record import Kind
from tessera.ir.types import BufferType, ScalarType, TensorType, TileType, Type

Found = tuple[Operation, str, int | None]
Bounds = tuple[Attr, Attr, Attr]
ZERO = Dim.const(0)

_AXIS = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_IN_LEVEL = frozenset({Kind.MAP, Kind.REDUCE, Kind.SCAN, Kind.TILE})
#: Attributes of a reduction or a scan inside a sweep: the axes it folds, the position of an element, the state's dtype.
FOLD_ATTRS = frozenset({"over", "position", "dtype"})
#: How deep sweeps may stand inside each other.
MAX_DEPTH = 4


@dataclass
class _Nest:
    """What is in scope in one nest: the sweeps that are open, outermost first; ``made`` says in which sweeps a value
    was made, ``folds`` which sweep completes one that was folded.
    """

    axes: tuple[str, ...]
    #: The axis whose points follow each other.
    walked: str = ""
    open: tuple[Operation, ...] = ()
    made: dict[Value, tuple[Operation, ...]] = field(default_factory=dict)
    folds: dict[Value, Operation] = field(default_factory=dict)
    local: set[Value] = field(default_factory=set)

    @property
    def scope(self) -> tuple[str, ...]:
        return self.axes + tuple(a for s in self.open for a in _names(s.attrs.get("axes")))

    def over(self, axes: Attr) -> Operation | None:
        """The open sweep with these axes."""
        return next((s for s in self.open if s.attrs.get("axes") == axes), None)


def tile_problems(f: Function) -> Iterator[Found]:
    """Every broken rule of a kernel, as (operation, what is wrong, operand number)."""
    for op, v in astray(f):
        yield op, f"`{v.name}` lies in pieces and is not walked by this sweep from one to the next", None
    for op in f.ops:
        if op.record is not NEST or op.body is None:
            yield op, f"`{op.name}` stands outside of every nest", None
            continue
        yield from _axes(op, "extents", ())
        vector, axes = op.attrs.get("vector"), _names(op.attrs.get("axes"))
        if vector and vector not in axes and not any(vector in _names(s.attrs.get("axes")) for s in op.body.ops):
            yield op, f"vector axis `{vector}` is no axis of the nest", None
        when = op.attrs.get("when")
        if when is not None and not _is_range(when):
            yield op, "`when` is a size and two bounds, of which one may be none", None
        walk = _tuple(op.attrs.get("walk"))
        if op.attrs.get("walk") is not None and not (vector in axes[-1:] and len(walk) == 2 and _all_dims(walk)):
            yield op, "`walk` has two bounds of the last axis, which is the vector axis", None
        nest = _Nest(axes, str(vector) if walk else "")
        for inner in op.body.ops:
            if inner.body is not None:
                yield from _sweep(inner, nest)
                bounds = (*_tuple(inner.attrs.get("lo")), *_tuple(inner.attrs.get("hi")))
                if any(isinstance(d, Dim) and vector in d.names() for d in bounds):
                    yield inner, f"the points of one vector along `{vector}` differ in where the sweep ends", None
            else:
                yield from _operation(inner, nest)


def _is_range(a: Attr) -> bool:
    parts = _tuple(a)
    return len(parts) == 3 and isinstance(parts[0], Dim) and all(p is None or isinstance(p, Dim) for p in parts[1:])


def _sweep(op: Operation, nest: _Nest) -> Iterator[Found]:
    if op.record is not SWEEP or op.body is None:
        yield op, f"`{op.name}` stands inside a nest", None
        return
    yield from _axes(op, "hi", nest.scope)
    if op.attrs.get("lo") is not None and len(_tuple(op.attrs["lo"])) != len(_names(op.attrs.get("axes"))):
        yield op, "as many lower bounds as axes are needed", None
    nest.open = (*nest.open, op)
    for inner in op.body.ops:
        if inner.body is None:
            yield from _operation(inner, nest)
        elif len(nest.open) < MAX_DEPTH:
            yield from _sweep(inner, nest)
        else:
            yield inner, f"sweeps inside each other more than {MAX_DEPTH} deep", None
    nest.open = nest.open[:-1]


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
    folds = op.record.kind in FOLDS or op.record is MMA
    whole = nest.over(op.attrs.get("over")) if folds and op.record.kind is not Kind.SCAN else None
    for r in op.results:
        nest.made[r] = nest.open
        if whole is not None:
            nest.folds[r] = whole
        yield from _result(op, r, nest)
    if op.record.kind is Kind.MAP:
        yield from _element(op)
    elif folds:
        yield from _fold(op, nest)
    elif op.record is LOCAL:
        yield from _local(op, nest)
    else:
        yield from _own(op, nest)


def _operand(op: Operation, number: int, x: Value, nest: _Nest) -> Iterator[Found]:
    if isinstance(x.type, BufferType):
        if op.record not in (LOAD, STORE, ACCUMULATE) or number != 0:
            yield op, f"buffer `{x.name}` is no value", number
        elif x.type.role == "local" and x not in nest.local:
            yield op, f"the local memory `%{x.name}` belongs to another nest", number
        return
    if not isinstance(x.type, TileType):
        return
    if x not in nest.made:
        yield op, f"`%{x.name}` belongs to another nest", number
        return
    outside = [a for a in x.type.axes if a not in nest.scope]
    if outside:
        yield op, f"`%{x.name}` depends on `{outside[0]}`, which is not in scope", number
    elif any(a in s and s[a] != here[a] for s in (_bounds(nest.made[x]),) for here in (_bounds(nest.open),)
             for a in x.type.axes if a in here):  # fmt: skip
        yield op, f"`%{x.name}` is read in a sweep of other bounds", number
    ended = next((s for s in nest.made[x] if s.attrs.get("ordered") and s not in nest.open), None)
    if ended is not None:
        yield op, f"`%{x.name}` is gone with the ordered sweep that made it", number
    if nest.folds.get(x) in nest.open and op.record is not RUNNING:
        yield op, f"`%{x.name}` is read before its sweep ends; `running` gives what it has reached", number


def _bounds(sweeps: tuple[Operation, ...]) -> dict[str, Bounds]:
    """For each axis the sweep that walks it, as what it runs over."""
    return {
        a: (s.attrs.get("axes"), s.attrs.get("lo"), s.attrs.get("hi"))
        for s in sweeps
        for a in _names(s.attrs.get("axes"))
    }


def _result(op: Operation, r: Value, nest: _Nest) -> Iterator[Found]:
    if not isinstance(r.type, TileType):
        return
    outside = [a for a in r.type.axes if a not in nest.scope]
    if outside:
        yield op, f"`%{r.name}` depends on `{outside[0]}`, which is not in scope", None
    if op.record.kind is Kind.REDUCE or op.record is MMA:
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
    if not nest.open:
        yield op, f"`{op.name}` folds outside of a sweep", None
        return
    wanted = FOLD_ATTRS - {"position"} if op.record is MMA else FOLD_ATTRS
    if set(op.attrs) != wanted:
        yield op, f"a fold has the attributes {', '.join(sorted(wanted))}", None
        return
    if nest.over(op.attrs["over"]) is None:
        yield op, "a fold runs over the axes of a sweep around it", None
    if not isinstance(op.attrs.get("position", ZERO), Dim) or not isinstance(op.attrs["dtype"], DType):
        yield op, "`position` is an index expression and `dtype` a dtype", None
    plain = 2 if op.record is MMA else 1
    if len(op.operands) not in (plain, plain + 1):
        yield op, f"`{op.name}` folds {plain} operands, and may have a factor", None
    elif len(op.operands) > plain and op.record.reduction is not None and not op.record.reduction.additive:
        yield op, f"what `{op.name}` has folded cannot be multiplied by a factor", plain
    over = nest.over(op.attrs["over"])
    if over is not None and over.attrs.get("ordered"):
        yield op, "an ordered sweep has no folds: what it carries is in local memory", None
    axes = _names(op.attrs["over"])
    if op.record.kind is Kind.SCAN:
        yield from _scan(op, nest, axes)
        return
    for r in op.results:
        if isinstance(r.type, TileType) and any(a in axes for a in r.type.axes):
            yield op, f"`%{r.name}` depends on an axis that is folded", None


def _local(op: Operation, nest: _Nest) -> Iterator[Found]:
    if nest.open:
        yield op, "local memory belongs to the nest, not to a sweep", None
    if len(op.results) != 1 or not isinstance(op.result.type, BufferType) or op.result.type.role != "local":
        yield op, "`local` gives one buffer whose role is local", None
    elif op.result.type.strides is not None or any(d.names() & set(nest.scope) for d in op.result.type.dims):
        yield op, "local memory is dense, and as large for every point", None
    nest.local.update(op.results)


def _scan(op: Operation, nest: _Nest, axes: tuple[str, ...]) -> Iterator[Found]:
    """A scan has its order from one axis, that of the sweep it stands in, and a result for each of its points."""
    if len(axes) != 1 or nest.open[-1].attrs.get("axes") != op.attrs["over"]:
        yield op, f"`{op.name}` goes along the one axis of its own sweep", None
    if len(op.operands) != 1:
        yield op, f"`{op.name}` has one operand", None
    for r in op.results:
        if isinstance(r.type, TileType) and any(a not in r.type.axes for a in axes):
            yield op, f"`%{r.name}` does not depend on the axis that is scanned", None


def _own(op: Operation, nest: _Nest) -> Iterator[Found]:
    """Loads, stores and positions: roles of buffers, number of indices, names in index expressions."""
    first = op.operands[0] if op.operands else None
    kind = first.type if isinstance(first, Value) else None
    if op.record in (LOAD, STORE, ACCUMULATE):
        if not isinstance(kind, BufferType):
            yield op, f"`{op.name}` needs a buffer", 0
            return
        if op.record is not LOAD and kind.role == "in":
            yield op, "an input is not written", 0
        if len(_tuple(op.attrs.get("index"))) not in (1, len(kind.dims)):
            yield op, f"{len(_tuple(op.attrs.get('index')))} indices into {len(kind.dims)} dims", None
        if op.record is LOAD and op.result.type.dtype is not kind.dtype:
            yield op, f"`%{op.result.name}` is {op.result.type.dtype}, the buffer {kind.dtype}", None
        yield from _guard(op)
    if op.record is ACCUMULATE:
        index = {n for d in dims_in(_tuple(op.attrs.get("index"))) for n in d.names()}
        if not nest.walked or op.attrs.get("over") != (nest.walked,) or nest.walked in index or not nest.open:
            yield op, "what is accumulated goes over the axis that the nest walks, inside a sweep", None
    if op.record is RUNNING and (not isinstance(first, Value) or nest.folds.get(first) not in nest.open):
        yield op, "`running` stands in the sweep that folds its operand, after the fold", 0
    if op.record is GATE and not (isinstance(first, Value) and first.type.dtype.is_bool and nest.open):
        yield op, "a gate takes a bool inside a sweep", 0
    wanted = 0 if op.record in (STORE, ACCUMULATE, GATE) else 1
    if len(op.results) != wanted:
        yield op, f"`{op.name}` has {wanted} results", None
    for r in op.results:
        if isinstance(r.type, TileType):
            read = {n for d in dims_in(op.attrs.values()) for n in d.names()} & set(nest.scope)
            missing = sorted(read - set(r.type.axes))
            if missing:
                yield op, f"`%{r.name}` does not depend on `{missing[0]}`, but its index does", None


def _guard(op: Operation) -> Iterator[Found]:
    guard = op.attrs.get("guard")
    if guard is None:
        return
    rows = _tuple(guard)
    if not isinstance(guard, tuple) or not all(isinstance(r, tuple) and len(r) == 3 and _all_dims(r) for r in rows):
        yield op, "a guard is a tuple of (expression, lower bound, upper bound)", None


def _all_dims(items: tuple[Attr, ...]) -> bool:
    return all(isinstance(x, Dim) for x in items)


def _tuple(a: Attr) -> tuple[Attr, ...]:
    return a if isinstance(a, tuple) else ()


def _names(a: Attr) -> tuple[str, ...]:
    return tuple(x for x in _tuple(a) if isinstance(x, str))
