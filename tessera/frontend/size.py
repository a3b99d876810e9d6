"""A size while tracing: arithmetic stays symbolic, comparisons are decided or explored, and Python may
force a value.
"""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from tessera.diag import Label, ShapeError, caller_span
from tessera.frontend import decide
from tessera.frontend.classes import asks
from tessera.frontend.handles import SizeHandle, TensorHandle
from tessera.ir.dim import Dim


def as_dim(x: object) -> Dim | None:
    """The Dim of a size or a plain int; None for everything else, bool included."""
    if isinstance(x, SizeHandle):
        return x._dim
    if isinstance(x, int) and not isinstance(x, bool):
        return Dim.const(int(x))
    return None


def _arithmetic(name: str, swap: bool) -> Callable[[Any, Any], Any]:
    """``S + 2`` and the like: symbolic for sizes and ints; with a float or a tensor it is tensor
    arithmetic.
    """
    function: Callable[[Any, Any], Any] = getattr(operator, name)

    def method(self: Size, other: Any) -> Any:
        right = as_dim(other)
        if right is None:
            return _mixed(self, other, record, swap)
        left = self._dim
        if swap:
            left, right = right, left
        return self._session.size(function(left, right))

    record = {"floordiv": "floordiv", "mod": "remainder"}.get(name, name)
    return method


def _mixed(size: SizeHandle, other: Any, record: str, swap: bool) -> Any:
    if isinstance(other, TensorHandle) or not isinstance(other, float):
        return NotImplemented
    session = size._session
    args = (other, size) if swap else (size, other)
    return session.apply(session.table.records[record], args, {}, "operator")


def _comparison(kind: str) -> Callable[[Any, Any], Any]:
    def method(self: Size, other: Any) -> Any:
        right = as_dim(other)
        if right is None:
            if isinstance(other, float) and other.is_integer():
                right = Dim.const(int(other))
            else:
                return NotImplemented
        return decide.holds(self._session, kind, self._dim, right)

    return method


class Size(SizeHandle):
    """A size whose value is not known, or must not be looked at.

    It claims the framework's own class of symbolic sizes, so that factories such as ``ones(S, S)`` accept
    it and reach the tracer; Python's ``isinstance`` takes it for an int. Everything that needs the number
    itself (``range(S)``, ``int(S)``, ``math.sqrt(S)``) specialises the call on it.
    """

    __slots__ = ()
    __array_ufunc__ = None

    __add__, __radd__ = _arithmetic("add", False), _arithmetic("add", True)
    __sub__, __rsub__ = _arithmetic("sub", False), _arithmetic("sub", True)
    __mul__, __rmul__ = _arithmetic("mul", False), _arithmetic("mul", True)
    __floordiv__, __rfloordiv__ = _arithmetic("floordiv", False), _arithmetic("floordiv", True)
    __mod__, __rmod__ = _arithmetic("mod", False), _arithmetic("mod", True)
    __lt__, __le__ = _comparison("lt"), _comparison("le")
    __gt__, __ge__ = _comparison("gt"), _comparison("ge")
    __eq__ = _comparison("eq")
    __ne__ = _comparison("ne")

    @property  # type: ignore[misc]
    def __class__(self) -> type:
        return int if asks(sys._getframe(1)) else self._session.table.size_class

    def __hash__(self) -> int:
        return hash(self._dim)

    def __neg__(self) -> Any:
        return self._session.size(Dim.const(0) - self._dim)

    def __pos__(self) -> Any:
        return self

    def __truediv__(self, other: Any) -> Any:
        return _number(self, other, "div", False)

    def __rtruediv__(self, other: Any) -> Any:
        return _number(self, other, "div", True)

    def __pow__(self, other: Any) -> Any:
        if isinstance(other, int) and 0 <= other <= 8:
            power = Dim.const(1)
            for _ in range(other):
                power = power * self._dim
            return self._session.size(power)
        return _number(self, other, "pow", False)

    def __rpow__(self, other: Any) -> Any:
        return _number(self, other, "pow", True)

    def __divmod__(self, other: Any) -> Any:
        return (self // other, self % other)

    def __bool__(self) -> bool:
        return decide.holds(self._session, "ne", self._dim, Dim.const(0))

    def __index__(self) -> int:
        return decide.value(self._session, self._dim)

    def __int__(self) -> int:
        return decide.value(self._session, self._dim)

    def __float__(self) -> float:
        return decide.number(self._session, self._dim)

    def __round__(self, digits: int | None = None) -> Any:
        return self

    def __trunc__(self) -> Any:
        return self

    def __floor__(self) -> Any:
        return self

    def __ceil__(self) -> Any:
        return self

    def __abs__(self) -> Any:
        return self

    def __format__(self, spec: str) -> str:
        return format(str(self._dim), spec if spec.isalnum() is False else "")

    def __str__(self) -> str:
        return str(self._dim)

    def __repr__(self) -> str:
        return str(self._dim)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a traced size cannot be pickled")


def _number(size: SizeHandle, other: Any, record: str, swap: bool) -> Any:
    """``S / 2``, ``S ** -0.5``: a number computed at run time, so that the size itself stays out of the
    compile key.
    """
    if isinstance(other, TensorHandle) or not isinstance(other, int | float | SizeHandle):
        return NotImplemented
    session = size._session
    args = (other, size) if swap else (size, other)
    return session.apply(session.table.records[record], args, {}, "operator")


class Shape(tuple[Any, ...]):
    """The sizes of a traced tensor: ints and ``Size`` objects, with torch's ``numel()``."""

    __slots__ = ()

    def numel(self) -> Any:
        total: Any = 1
        for size in self:
            total = total * size
        return total

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, int) and not -len(self) <= key < len(self):
            raise no_such_dim(key, len(self))
        found = tuple.__getitem__(self, key)
        return Shape(found) if isinstance(key, slice) else found


def no_such_dim(dim: int, rank: int) -> ShapeError:
    """The error for the size of a dim that a tensor does not have (TSR0203)."""
    span = caller_span()
    labels = () if span is None else (Label(span, f"of a tensor with {rank} dims", True),)
    return ShapeError(f"dim {dim} of a tensor with {rank} dims", code="TSR0203", labels=labels)
