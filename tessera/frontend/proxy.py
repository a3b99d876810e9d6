"""A tensor while tracing: torch's operators and methods, generated from the op records; nothing is computed.

Values never exist here. What needs one (``bool``, ``float``, ``item``, ``numpy`` …) raises TraceError and
says what to write instead.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, NoReturn

from tessera.diag import Diagnostic, Help, Label, TraceError, caller_span
from tessera.frontend import alias, methods
from tessera.frontend.classes import asks
from tessera.frontend.decide import number
from tessera.frontend.handles import PoisonHandle, Stopped, TensorHandle
from tessera.frontend.interop import dispatch
from tessera.frontend.session import Session
from tessera.frontend.size import Shape, no_such_dim
from tessera.ir.dialects.calls import OPERATORS, REFLECTED
from tessera.ir.graph import Value
from tessera.ir.types import ScalarType

#: A check answers for tensors so often in one way through a function: what asks on may be a loop.
MOST_ANSWERS = 8


class Proxy(TensorHandle):
    """One traced tensor. ``shape``, ``dtype``, operators, methods and torch functions behave as on a torch
    tensor.
    """

    __slots__ = ()
    __array_priority__ = 1000
    __array_ufunc__ = None  # NumPy's scalars leave `scalar * tensor` to the tensor
    __hash__ = object.__hash__

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._session.table.tensor_class if asks(sys._getframe(1)) else type(self)

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    # ---- what a tensor is --------------------------------------------------------------------------------

    @property
    def shape(self) -> Shape:
        session = self._session
        dims = self._value.type.dims
        session.shapes_read.append((self._value.name, len(dims)))
        del session.shapes_read[:-4]
        return Shape(session.size(d) for d in dims)

    def size(self, dim: int | None = None) -> Any:
        """All sizes, or one."""
        if dim is None:
            return self.shape
        return self.shape[self._axis(dim)]

    def _axis(self, dim: int) -> int:
        rank = self.ndim
        if not -rank <= dim < rank:
            raise no_such_dim(dim, rank)
        return dim % rank

    @property
    def ndim(self) -> int:
        return self._value.type.rank

    def dim(self) -> int:
        """The rank."""
        return self.ndim

    ndimension = dim

    @property
    def dtype(self) -> Any:
        return self._session.table.from_dtype(self._value.type.dtype)

    @property
    def device(self) -> Any:
        return self._session.device

    def numel(self) -> Any:
        """The number of elements."""
        return self.shape.numel()

    nelement = numel

    def element_size(self) -> int:
        """Bytes of one element."""
        return self._value.type.dtype.bytes

    @property
    def requires_grad(self) -> bool:
        return False

    @property
    def is_sparse(self) -> bool:
        return False

    is_quantized = is_nested = is_mkldnn = is_meta = is_sparse

    @property
    def is_cuda(self) -> bool:
        return getattr(self.device, "type", "cpu") == "cuda"

    @property
    def is_cpu(self) -> bool:
        return getattr(self.device, "type", "cpu") == "cpu"

    @property
    def itemsize(self) -> int:
        return self.element_size()

    @property
    def nbytes(self) -> Any:
        return self.numel() * self.element_size()

    @property
    def real(self) -> Any:
        return alias.same(self)

    @property
    def layout(self) -> Any:
        return methods.setting(self._session, "strided")

    @property
    def grad(self) -> None:
        return None

    @property
    def data(self) -> Any:
        return alias.detached(self)

    def is_floating_point(self) -> bool:
        return self._value.type.dtype.is_float

    def is_complex(self) -> bool:
        return False

    def is_contiguous(self, **_: Any) -> bool:
        return alias.is_dense(self)

    def get_device(self) -> int:
        index = getattr(self.device, "index", None)
        return -1 if index is None else index

    # ---- what has no value yet ---------------------------------------------------------------------------

    def __bool__(self) -> bool:
        error = _unknown(
            self,
            "TSR0401",
            "the truth of a traced tensor is not known",
            "use `tessera.where` for a choice per element; a Python `if` needs a static value",
        )
        session = self._session
        if session.hints is not None or session.path is None or len(session.path.taken) >= MOST_ANSWERS:
            raise error
        session.fail(TraceError, error.diagnostics[0])  # what stands behind it is checked both ways
        return session.path.answer()

    def _read(self, what: str) -> NoReturn:
        raise self._unread(what)

    def _unread(self, what: str) -> TraceError:
        return _unknown(
            self,
            "TSR0402",
            f"{what} of a traced tensor is not known",
            "keep the computation on tensors, or pass the number as an argument",
        )

    def _taken(self, what: str) -> Any:
        """At definition the rest of the function is checked all the same: a number stays a rank-0 tensor."""
        session, error = self._session, self._unread(what)
        if session.hints is not None:
            raise error
        session.fail(TraceError, error.diagnostics[0])
        return self if self.ndim == 0 else session.poison

    def __float__(self) -> float:
        self._read("the number")

    def __int__(self) -> int:
        self._read("the number")

    __index__ = __int__

    def __complex__(self) -> complex:
        self._read("the number")

    def item(self) -> Any:
        """Refused: a traced tensor has no value. Raises TraceError (TSR0402)."""
        return self._taken("the item")

    def tolist(self) -> Any:
        """Refused: a traced tensor has no value. Raises TraceError (TSR0402)."""
        return self._taken("the list")

    def numpy(self, **_: Any) -> Any:
        """Refused: a traced tensor has no value. Raises TraceError (TSR0402)."""
        return self._taken("the array")

    def __array__(self, *_: Any, **__: Any) -> Any:
        self._read("the array")

    def data_ptr(self) -> Any:
        """Refused: a traced tensor has no memory. Raises TraceError (TSR0402)."""
        self._read("the address")

    def __contains__(self, item: object) -> bool:
        raise _unknown(
            self,
            "TSR0401",
            "whether a traced tensor contains a value is not known",
            "use `(x == value).any()`, which is a tensor",
        )

    def __len__(self) -> int:
        if self.ndim == 0:
            raise TypeError("len() of a rank-0 tensor")
        return int(self.shape[0])

    def __iter__(self) -> Iterator[Any]:
        if self.ndim == 0:
            raise TypeError("iteration over a rank-0 tensor")
        return (self[n] for n in range(int(self.shape[0])))

    def __repr__(self) -> str:
        return f"<traced {self._value.name}: {self._value.type}>"

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    # ---- views and updates -------------------------------------------------------------------------------

    def __getitem__(self, key: Any) -> Any:
        return alias.getitem(self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        alias.setitem(self, key, value)

    @property
    def T(self) -> Any:
        return alias.view(self, "t", (), {}, "attribute")

    @property
    def mT(self) -> Any:
        return alias.view(self, "transpose", (-2, -1), {}, "attribute")

    H = mH = mT

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = methods.find(self._session.table, name)
        if found is None:
            raise AttributeError(f"a traced tensor has no attribute `{name}`")
        return partial(found, self)


def _unknown(handle: TensorHandle, code: str, message: str, help_: str) -> TraceError:
    span = caller_span()
    value = handle._value
    labels = () if span is None else (Label(span, f"`{value.name}` is a {value.type}", True),)
    return TraceError.from_diagnostics([Diagnostic(code, message, labels, helps=(Help(help_),))])


def _operator(record: str, swap: bool) -> Callable[..., Any]:
    def method(self: Proxy, *others: Any) -> Any:
        if others and not _is_operand(others[0]):
            return NotImplemented
        session = self._session
        operands = (*others, self) if swap else (self, *others)
        return session.apply(session.table.records[record], operands, {}, "operator")

    return method


def _is_operand(x: Any) -> bool:
    return isinstance(x, TensorHandle) or not isinstance(x, _NO_OPERANDS)


_NO_OPERANDS = (str, bytes, dict, list, tuple, set, type(None))


def _update(record: str) -> Callable[[Any, Any], Any]:
    def method(self: Proxy, other: Any) -> Any:
        return alias.update(self, record, (self, other), {}, "operator")

    return method


for _name, _record in OPERATORS.items():
    setattr(Proxy, _name, _operator(_record, False))
for _name, _record in REFLECTED.items():
    setattr(Proxy, _name, _operator(_record, True))
    setattr(Proxy, "__i" + _name[3:], _update(_record))


class Scalar(Proxy):
    """A Python float whose value is known at the call only. Asked for its value, it specialises the call on
    it.
    """

    __slots__ = ()
    __hash__ = object.__hash__

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return float if asks(sys._getframe(1)) else Scalar

    def __float__(self) -> float:
        return self._session.scalar_value(self)

    def __int__(self) -> int:
        return int(float(self))

    def __bool__(self) -> bool:
        return bool(float(self))

    def __round__(self, digits: int | None = None) -> Any:
        return round(float(self), digits)

    def __repr__(self) -> str:
        return f"<traced {self._value.name}: {self._value.type}>"

    def is_integer(self) -> bool:
        return float(self).is_integer()


def _compared(name: str) -> Callable[[Any, Any], Any]:
    tensors: Callable[[Any, Any], Any] = getattr(Proxy, name)

    def method(self: Scalar, other: Any) -> Any:
        if isinstance(other, int | float | Scalar):
            return getattr(float(self), name)(float(other))
        return tensors(self, other)

    return method


for _name in ("__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(Scalar, _name, _compared(_name))


class Poison(PoisonHandle):
    """What a failed operation gives. Whatever is done with it is poison again, so that one fault is told
    once.

    Where Python itself needs to know something about it, the trace ends with what was found so far.
    """

    __slots__ = ()
    __array_priority__ = 2000
    __hash__ = object.__hash__

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return self._session.table.tensor_class if asks(sys._getframe(1)) else Poison

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        return dispatch(func, args, kwargs or {})

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def __getitem__(self, key: Any) -> Any:
        return self

    def __setitem__(self, key: Any, value: Any) -> None:
        return None

    def __iter__(self) -> Iterator[Any]:
        raise Stopped

    def __len__(self) -> int:
        raise Stopped

    def __bool__(self) -> bool:
        raise Stopped

    def __float__(self) -> float:
        raise Stopped

    def __index__(self) -> int:
        raise Stopped

    __int__ = __index__

    def __contains__(self, item: object) -> bool:
        raise Stopped

    def __repr__(self) -> str:
        return "<result of an operation with an error>"


def _swallow(self: Poison, *_: Any) -> Any:
    return self


for _name in (*OPERATORS, *REFLECTED, *("__i" + n[3:] for n in REFLECTED)):
    setattr(Poison, _name, _swallow)


def make(session: Session, value: Value) -> TensorHandle:
    """The traced object for a value."""
    return (Scalar if isinstance(value.type, ScalarType) else Proxy)(session, value)


__all__ = ["Poison", "Proxy", "Scalar", "make", "number"]
