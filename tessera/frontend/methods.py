"""Tensor methods beyond those that a record lists: casts, copies, sizes taken from another tensor, updates
in place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, NoReturn

from tessera.diag import Diagnostic, Help, Label, TraceError, caller_span
from tessera.frontend import alias, extern
from tessera.frontend.handles import SizeHandle, TensorHandle
from tessera.frontend.session import Session
from tessera.frontend.table import TorchTable
from tessera.ir.dialects.composite_join import cut_into
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, bf16, bool_, f16, f32, f64, int8, int16, int32, int64, uint8

Method = Callable[..., Any]

_CASTS: Mapping[str, DType] = MappingProxyType({
    "float": f32, "double": f64, "half": f16, "bfloat16": bf16, "long": int64, "int": int32, "short": int16,
    "char": int8, "byte": uint8, "bool": bool_,
})  # fmt: skip


def cast(self: TensorHandle, dtype: DType, name: str = "to") -> Any:
    """The tensor in another dtype; itself when it has it already."""
    if self._value.type.dtype is dtype:
        return self
    return self._session.apply(self._session.table.records["cast"], (self, dtype), {}, "method", name)


def _to(self: TensorHandle, *args: Any, **kwargs: Any) -> Any:
    """``to(dtype)``, ``to(other)``, ``to(device, dtype)``: devices are the caller's matter and change
    nothing.
    """
    table = self._session.table
    if kwargs.get("copy") is True:
        return _clone(_to(self, *args, **{key: given for key, given in kwargs.items() if key != "copy"}))
    for given in (*args, *kwargs.values()):
        if isinstance(given, TensorHandle):
            return cast(self, given._value.type.dtype)
        dtype = given if isinstance(given, DType) else table.to_dtype(given)
        if dtype is not None:
            return cast(self, dtype)
        if table.is_tensor(given):
            return cast(self, table.tensor_type(given).dtype)
    return self


def _clone(self: TensorHandle, **_: Any) -> Any:
    session = self._session
    return session.wrap(session, session.read(self))


def _contiguous(self: TensorHandle, **_: Any) -> Any:
    """An argument is taken to be dense, and may not be in a call: what is returned is made so then."""
    other = alias.same(self) if alias.is_dense(self) else _clone(self)
    other._dense = True
    return other


def _same_device(self: TensorHandle, *_: Any, **__: Any) -> Any:
    return self


def _as(name: str) -> Method:
    """``view_as(other)``: the method of that name with the other's sizes."""

    def method(self: TensorHandle, other: Any) -> Any:
        return alias.view(self, name, (other.shape,), {})

    return method


def _view(self: TensorHandle, *shape: Any) -> Any:
    if (
        len(shape) == 1
        and not isinstance(shape[0], int | tuple | list)
        and (dtype := self._session.table.to_dtype(shape[0]))
    ):
        return extern.call(self._session, "view", (self, dtype), {})
    record = self._session.table.records["reshape"]
    return alias.linked(self, record, (self, *shape), {}, "method", "view")


def _copy(self: TensorHandle, source: Any, non_blocking: bool = False) -> Any:
    """``copy_``: the one update that may narrow its source."""
    if isinstance(source, TensorHandle):
        source = cast(source, self._value.type.dtype, "copy_")
    return _fill(self, source)


def _fill(self: TensorHandle, value: Any) -> Any:
    alias.setitem(self, Ellipsis, value)
    return self


def _zero(self: TensorHandle) -> Any:
    return _fill(self, 0)


def _fill_diagonal(self: TensorHandle, fill_value: Any, wrap: bool = False) -> Any:
    """A matrix with its diagonal overwritten; other ranks and ``wrap`` are left to eager."""
    if self._value.type.rank != 2 or wrap:
        raise TypeError("`fill_diagonal_` of a matrix alone, without `wrap`, has a record")
    session = self._session
    sizes = [session.size(d) for d in self._value.type.dims]
    mask = session.apply(session.table.records["eye"], sizes, {"dtype": bool_}, "method", "fill_diagonal_")
    return alias.update(self, "masked_fill", (self, mask, fill_value), {}, "method", "fill_diagonal_")


def _new_tensor(self: TensorHandle, data: Any, dtype: Any = None, **_: Any) -> Any:
    session = self._session
    dtype = self._value.type.dtype if dtype is None else dtype
    return session.apply(session.table.records["tensor"], (data,), {"dtype": dtype}, "method", "new_tensor")


def _unbind(self: TensorHandle, dim: int = 0) -> Any:
    """The slices of one axis. How many there are is a size that Python needs to know."""
    count = _size(self, dim)
    if count is None:
        return self._session.apply(self._session.table.records["unbind"], (self, dim), {}, "method", "unbind")
    return tuple(alias.view(self, "select", (dim, n), {}) for n in range(int(count)))


def _size(self: TensorHandle, dim: int) -> Any:
    """One size; None where there is no such axis, which the record then says."""
    dims = self._value.type.dims
    if not -len(dims) <= dim < len(dims):
        return None
    return self._session.size(dims[dim])


def _split(self: TensorHandle, split_size: Any = 1, dim: int = 0, **named: Any) -> Any:
    """Parts of one size: their number is known, or is asked of the call; or parts of listed sizes."""
    size = named.get("split_size_or_sections", split_size)
    total = _size(self, dim)
    if total is None or isinstance(size, tuple | list) or isinstance(total, int) or _exact(total, size):
        return alias.view(self, "split", (size, dim), {})
    total, size = int(total), int(size)
    return tuple(
        alias.view(self, "narrow", (dim, start, min(size, total - start)), {})
        for start in range(0, max(total, 1), size)
    )


def _exact(total: Any, size: Any) -> bool:
    """Whether a size is a known multiple of another, or is cut into a known number of parts."""
    if not isinstance(size, int | SizeHandle) or (isinstance(size, int) and size == 0):
        return True
    part = size._dim if isinstance(size, SizeHandle) else Dim.const(size)
    return cut_into(total._dim, part) is not None or (total._dim / part).is_const


def _mutating_setting(self: TensorHandle, *_: Any, **__: Any) -> Any:
    """``requires_grad_`` says nothing about values."""
    return self


def _hook(self: TensorHandle, *_: Any, **__: Any) -> Any:
    _refuse("a hook on the gradient of a traced tensor", "hooked here", "take the tensor as an argument or a result")


def setting(session: Session, name: str) -> Any:
    """A value of the framework that stands for a property every traced tensor has."""
    return session.table.setting(name)


def _type(self: TensorHandle, dtype: Any = None, **_: Any) -> Any:
    return repr(self._value.type) if dtype is None else _to(self, dtype)


def _stride(self: TensorHandle, dim: int | None = None) -> Any:
    _refuse(
        "the strides of a traced tensor are not known", "asked for here",
        "sizes are in `.shape`; memory layout is the compiler's choice",
    )  # fmt: skip


def _refuse(message: str, label: str, help_: str) -> NoReturn:
    span = caller_span()
    labels = () if span is None else (Label(span, label, True),)
    raise TraceError.from_diagnostics([Diagnostic("TSR0402", message, labels, helps=(Help(help_),))])


OWN: Mapping[str, Method] = MappingProxyType({
    **{name: (lambda self, _d=dtype, **_: cast(self, _d)) for name, dtype in _CASTS.items()},
    "to": _to, "type_as": _to, "type": _type, "clone": _clone, "contiguous": _contiguous, "detach": alias.detached,
    "fill_diagonal_": _fill_diagonal, "unbind": _unbind, "split": _split, "unsafe_split": _split,
    "new_tensor": _new_tensor, "cpu": _same_device, "cuda": _same_device,
    "requires_grad_": _mutating_setting, "detach_": alias.detach_here, "retain_grad": _mutating_setting,
    "register_hook": _hook, "view": _view, "view_as": lambda self, other: _view(self, other.shape),
    "reshape_as": _as("reshape"), "expand_as": _as("expand"), "copy_": _copy, "fill_": _fill, "zero_": _zero,
    "stride": _stride,
})  # fmt: skip


def find(table: TorchTable, name: str) -> Method | None:
    """The function behind a method name, taking the tensor first; None when there is none."""
    own = OWN.get(name)
    if own is not None:
        return own
    record = table.by_method(name)
    if record is not None:
        if name in alias.VIEWS:
            return lambda self, *args, **kwargs: alias.linked(self, record, (self, *args), kwargs, "method", name)
        return lambda self, *args, **kwargs: self._session.apply(
            record, (self, *args), drop_settings(table, kwargs), "method", name, table.method(name)
        )
    if name.endswith("_") and not name.endswith("__"):
        known = table.method(name)
        plain = (None if known is None else table.meaning(known)[0]) or table.by_method(name[:-1])
        if plain is not None:
            return lambda self, *args, **kwargs: alias.update(self, plain.name, (self, *args), kwargs, "method", name)
        return _library_update(table, name)
    if table.method(name) is not None:
        return lambda self, *args, **kwargs: extern.method(self, name, args, kwargs)
    return None


def _library_update(table: TorchTable, name: str) -> Method | None:
    """``lgamma_`` of a function without a record: the plain library call, written to the tensor's memory."""
    plain = table.method(name[:-1])
    if plain is None:
        return None

    def method(self: TensorHandle, *args: Any, **kwargs: Any) -> Any:
        return alias.overwrite(self, extern.method(self, name[:-1], args, kwargs), name)

    return method


def drop_settings(table: TorchTable, kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """Keyword arguments without devices, layouts, generators and other things that do not change a result."""
    return {
        key: value
        for key, value in kwargs.items()
        if not (key in _SETTINGS or table.is_setting(value)) or isinstance(value, TensorHandle)
    }


_SETTINGS = frozenset({"device", "layout", "pin_memory", "requires_grad", "memory_format", "non_blocking", "copy"})
