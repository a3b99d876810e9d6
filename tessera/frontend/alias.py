"""Updates without mutation: torch's aliasing rules, kept by an explicit record of who shares memory with
whom.

Tensors that share memory share a ``Storage``: the newest value of the whole, and a version. A view is the
storage and the view operations that lead to it. Writing to a view runs these backwards, which gives a new
whole; every other view notices the new version when it is next read, and is derived again. A tensor without
views costs nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tessera.diag import Diagnostic, DTypeError, Help, Label, ShapeError, TesseraError, TraceError
from tessera.frontend import strides
from tessera.frontend.handles import PoisonHandle, SizeHandle, Storage, TensorHandle
from tessera.frontend.selection import Selection, put_back, selected
from tessera.frontend.session import Call, Session
from tessera.ir.dialects.calls import Sym
from tessera.ir.dtype import category, f32
from tessera.ir.graph import Operation, Value
from tessera.ir.record import Kind, OpRecord
from tessera.ir.types import TensorType

#: torch functions and methods whose result may share memory with their first argument: views, and functions
#: that sometimes give the argument itself.
VIEWS = frozenset({
    "T", "adjoint", "atleast_1d", "atleast_2d", "atleast_3d", "broadcast_to", "chunk", "detach", "diagonal",
    "dropout", "dropout1d", "dropout2d", "dropout3d", "dsplit", "expand", "expand_as", "flatten", "getitem",
    "hsplit", "mT", "moveaxis", "movedim", "narrow", "permute", "positive", "ravel", "reshape", "reshape_as",
    "select", "split", "split_with_sizes", "squeeze", "swapaxes", "swapdims", "t", "tensor_split", "transpose",
    "unbind", "unflatten", "unfold", "unsqueeze", "view", "view_as", "vsplit",
})  # fmt: skip
#: Those that copy when the memory is not laid out right for them.
_MAY_COPY = frozenset({"flatten", "ravel", "reshape", "reshape_as"})
#: Operations that give the memory of their operand without being a view of it to derivatives.
_ALIASES = frozenset({"detach"})
#: View operations that keep a dense row-major block dense.
_DENSE = frozenset({"reshape", "squeeze", "unsqueeze"})


def view(self: TensorHandle, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], form: str = "method") -> Any:
    """A call of a torch view function: its results share memory with ``self``."""
    session = self._session
    record = session.table.by_method(name)
    assert record is not None, name
    return linked(self, record, (self, *args), kwargs, form, name)


def linked(
    self: TensorHandle, record: OpRecord, args: Sequence[Any], kwargs: Mapping[str, Any], form: str, name: str
) -> Any:
    """Apply ``record`` and make every result that is a chain of view operations over ``self`` a view of
    it."""
    session = self._session
    ops = session.builder.ops
    whole = session.read(self)
    mark = len(ops)
    result = session.apply(record, args, kwargs, form, name)
    if name in _MAY_COPY and _copies(self, result):
        return result
    made = {op.results[0]: op for op in ops[mark:] if len(op.results) == 1}
    for one in result if isinstance(result, tuple | list) else (result,):
        if isinstance(one, TensorHandle) and one is not self:
            steps = _steps(one._value, whole, made)
            if steps is not None:
                _share(self, one, steps)
    return result


def _steps(value: Value, whole: Value, made: Mapping[Value, Operation]) -> tuple[Operation, ...] | None:
    """The view operations from ``whole`` to ``value``; None when there is more than that between them."""
    steps: list[Operation] = []
    while value is not whole:
        op = made.get(value)
        if op is None or len(op.operands) != 1:
            return None
        if op.record.kind is not Kind.VIEW and op.record.name not in _ALIASES:
            return None
        steps.append(op)
        (operand,) = op.operands
        if not isinstance(operand, Value):
            return None
        value = operand
    return tuple(reversed(steps))


def _share(base: TensorHandle, new: TensorHandle, steps: tuple[Operation, ...]) -> None:
    storage = _storage(base)
    new._storage, new._version, new._steps = storage, storage.version, base._steps + steps


def _storage(handle: TensorHandle) -> Storage:
    if handle._storage is None:
        handle._storage = Storage(handle._value, step=handle._step)
        handle._version = 0
    return handle._storage


def detached(self: TensorHandle) -> Any:
    """Another name for the same memory, through which no gradient goes (``detach``, ``data``)."""
    record = self._session.table.records["detach"]
    return linked(self, record, (self,), {}, "method", "detach")


def detach_here(self: TensorHandle) -> Any:
    """``detach_``: the tensor itself becomes such a name; its other names stay what they are."""
    other = detached(self)
    if isinstance(other, TensorHandle):
        self._value, self._storage = other._value, other._storage
        self._steps, self._version = other._steps, other._version
    return self


def same(self: TensorHandle) -> Any:
    """Another name for the same memory (``contiguous``, ``real``)."""
    other = self._session.wrap(self._session, self._session.read(self))
    _share(self, other, ())
    return other


def _layout(self: TensorHandle) -> strides.Strides | None:
    """The strides of a traced tensor; results of operations are taken to be dense row-major blocks."""
    base = self._value if self._storage is None else self._storage.value
    return strides.of_view(base.type.dims, self._steps)


def _copies(self: TensorHandle, result: Any) -> bool:
    """Whether a reshape needs memory of its own, because the view's is not laid out for it."""
    found = _layout(self)
    if found is None or not isinstance(result, TensorHandle):
        return True
    return strides.reshaped(self._value.type.dims, found, result._value.type.dims) is None


def is_dense(self: TensorHandle) -> bool:
    """Whether a traced tensor is a dense row-major block."""
    return strides.is_dense(self._value.type.dims, _layout(self))


# ---- reading and writing elements ------------------------------------------------------------------------


def is_basic(key: Any) -> bool:
    """Whether an index uses no tensors, masks or lists: then it is a view."""
    items = key if isinstance(key, tuple) else (key,)
    return all(
        item is None
        or item is Ellipsis
        or isinstance(item, slice | SizeHandle)
        or (isinstance(item, int) and not isinstance(item, bool))
        for item in items
    )


def getitem(self: TensorHandle, key: Any) -> Any:
    """``x[key]``: a view for ints, slices, None and ``...``; a copy for tensors, masks and lists."""
    record = self._session.table.records["getitem"]
    if is_basic(key):
        return linked(self, record, (self, key), {}, "subscript", "getitem")
    found = selected(self, key)
    return self._session.apply(record, (self, key), {}, "subscript", "getitem") if found is None else found


def setitem(self: TensorHandle, key: Any, value: Any) -> None:
    """``x[key] = value``, seen through every view of the same memory."""
    session = self._session
    if isinstance(value, PoisonHandle):
        return
    if isinstance(value, Selection):
        _put_back(self, key, value)
        return
    record = session.table.records["setitem"]
    call = session.site("setitem", "subscript", (self, key, value), {})
    if not _writable(self, call) or not _fits(self, value, call):
        return
    result = session.perform(call, lambda a, k: session.ops.invoke(record, *a, **k))
    if isinstance(result, TensorHandle):
        write(self, result._value, call)


def _put_back(self: TensorHandle, key: Any, selection: Selection) -> None:
    """The end of ``y[m] += …``."""
    session, new = self._session, selection.value
    call = session.site("setitem", "subscript", (self, key, new), {})
    target = self._value.type
    if not _writable(self, call) or not _fits(self, new, call):
        return
    assert isinstance(target, TensorType)
    if new._value.type.dims == target.dims or _same_sizes(session, target, new._value.type, call):
        result = put_back(session, call, selection)
        if isinstance(result, TensorHandle):
            write(self, result._value, call)


def update(
    self: TensorHandle, record: str, args: Sequence[Any], kwargs: Mapping[str, Any], form: str, name: str = ""
) -> Any:
    """``x += y``, ``x.mul_(y)``: the plain operation, cast to x's dtype, written to x's memory. Gives x."""
    session = self._session
    call = session.site(name or record, form, args, kwargs)
    if not _writable(self, call):
        return self
    result = session.perform(call, lambda a, k: session.ops.invoke(session.table.records[record], *a, **k))
    if isinstance(result, PoisonHandle):
        return result
    assign(self, result, call)
    return self


def overwrite(self: TensorHandle, result: Any, name: str) -> Any:
    """Write the result of an operation to the memory of ``self``. Gives ``self``, or poison after an error."""
    call = self._session.site(name, "method", (self,), {})
    if isinstance(result, TensorHandle):
        if _writable(self, call):
            assign(self, result, call)
        return self
    return result


def assign(self: TensorHandle, result: TensorHandle, call: Call) -> None:
    """Make ``result`` the new content of ``self``: dtype of the target, same sizes."""
    session = self._session
    if not _fits(self, result, call):
        return
    target, new = self._value.type, result._value.type
    assert isinstance(target, TensorType) and isinstance(new, TensorType)
    value: Any = Sym(session.ops, result._value)
    if new.dtype is not target.dtype:
        value = session.ops.cast(value, target.dtype)
    if new.dims != target.dims:
        if not _same_sizes(session, target, new, call):
            return
        value = session.ops.expand(value, target.dims)
    write(self, value.value, call)


def _same_sizes(session: Session, target: TensorType, new: TensorType, call: Call) -> bool:
    """Whether a result can be written to a target: an update never changes sizes."""
    lead = target.rank - new.rank
    session.context.span = call.span
    for axis, size in enumerate(new.dims):
        fits = lead >= 0 and (
            (size.is_const and size.value == 1)
            or session.context.holds("eq", target.dims[lead + axis], size, "update in place")
        )
        if not fits:
            _error(
                session,
                call,
                ShapeError,
                "TSR0202",
                f"update in place of [{_sizes(target)}] with [{_sizes(new)}]",
                f"the result is a {new}",
                "an update keeps the sizes of what it writes to",
            )
            return False
    return True


def _sizes(t: TensorType) -> str:
    return ", ".join(map(str, t.dims))


def _fits(self: TensorHandle, value: Any, call: Call) -> bool:
    """torch's rule: a float may not be written to integers, nor a number to bools."""
    target = self._value.type.dtype
    source = f32 if isinstance(value, float) else target
    if isinstance(value, TensorHandle):
        source = value._value.type.dtype
    if category(source) <= category(target) or call.name == "copy_":
        return True
    _error(
        self._session,
        call,
        DTypeError,
        "TSR0301",
        f"`{source}` written to `{target}` in place",
        f"the result is {source}",
        f"cast it with `.to({target})`, or bind a new name",
    )
    return False


def _writable(self: TensorHandle, call: Call) -> bool:
    """Refuse updates of arguments and of memory that one element stands for many in."""
    frozen = "" if self._storage is None else self._storage.frozen
    if frozen:
        _error(
            self._session,
            call,
            TraceError,
            "TSR0403",
            f"update of {frozen}",
            "written here",
            "clone it first, or return the new value; `updates=` of `tessera.function` allows it",
        )
        return False
    if (self._step if self._storage is None else self._storage.step) is not self._session.step:
        _error(
            self._session,
            call,
            TraceError,
            "TSR0412",
            f"update of `{_named(self)}`, which is from outside the step of a scan",
            "written here, in every step",
            "make it a carry: take it as part of the carry, and return what it becomes",
        )
        return False
    if any(step.record.name == "expand" for step in self._steps):
        _error(
            self._session,
            call,
            TraceError,
            "TSR0403",
            "update of an expanded tensor",
            "one element stands for many",
            "clone it first",
        )
        return False
    return True


def _named(self: TensorHandle) -> str:
    """The name of the tensor whose memory a traced one looks at."""
    return (self._value if self._storage is None else self._storage.value).name


def _error(
    session: Session, call: Call, error: type[TesseraError], code: str, message: str, label: str, help_: str
) -> None:
    labels = () if call.span is None else (Label(call.span, label, True),)
    session.fail(error, Diagnostic(code, message, labels, helps=(Help(help_),)))


def write(self: TensorHandle, new: Value, call: Call) -> None:
    """Replace the content of ``self``; the rest of its storage keeps its own."""
    session = self._session
    storage = self._storage
    session.context.span = call.span
    if not session.table.records_gradients and new.type.dtype.is_float:
        new = session.ops.with_value(Sym(session.ops, self._value), Sym(session.ops, new)).value
    if storage is None:
        self._value = new
        return
    wholes = [storage.value]
    for step in self._steps[:-1]:
        wholes.append(session.builder.emit(step.record, (wholes[-1],), step.attrs, span=call.span)[0])
    value = new
    for step, before in zip(reversed(self._steps), reversed(wholes), strict=False):
        value = _undo(session, step, before, value)
    storage.value = value
    storage.version += 1
    self._value, self._version = new, storage.version


def _undo(session: Session, step: Operation, before: Value, after: Value) -> Value:
    """What ``before`` becomes when its view ``step(before)`` is overwritten by ``after``."""
    ops = session.ops
    whole, part = Sym(ops, before), Sym(ops, after)
    name = step.record.name
    if name == "permute":
        order = [int(n) for n in step.attrs["dims"]]  # type: ignore[union-attr,arg-type]
        return ops.permute(part, [order.index(n) for n in range(len(order))]).value
    if name in _DENSE:
        return ops.reshape(part, before.type.dims).value
    if name in _ALIASES:
        return ops.with_value(whole, part).value
    if name == "slice":
        at = step.attrs
        return ops.slice_update(whole, part, at["dim"], at["start"], at["stop"], at["step"]).value
    raise TypeError(f"an update through `{name}` is not supported")


__all__ = ["assign", "getitem", "is_dense", "linked", "same", "setitem", "update", "view", "write"]
