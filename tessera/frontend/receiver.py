"""The object that a method belongs to: the sizes that it gives to dim names, and what stands for it when it is unknown.

A class says what its objects hold by annotations: ``weight: Tensor["F", "D"]``, ``heads: int``. Where a method is
checked without an object, these are its attributes. A dim name that is an int attribute, or that a declared tensor
attribute has, is the size that the object has there.
"""

from __future__ import annotations

import builtins
import inspect
import sys
import weakref
from collections.abc import Iterable, Mapping
from functools import partial
from types import FunctionType
from typing import Any

from tessera.diag import TesseraError, caller_span
from tessera.diag.span import is_machinery
from tessera.frontend.annotation import Lead, TensorAnnotation
from tessera.frontend.handles import ObjectOf, Storage, TensorHandle
from tessera.frontend.hints import ANY, Hint, hint_of
from tessera.frontend.proxy import Poison, make
from tessera.frontend.session import Session
from tessera.frontend.spec import FunctionSpec
from tessera.ir.dim import Dim
from tessera.ir.dtype import DType, f32
from tessera.ir.types import ScalarType, TensorType, Type

_declared: weakref.WeakKeyDictionary[type, Mapping[str, Hint]] = weakref.WeakKeyDictionary()


def declared(cls: type) -> Mapping[str, Hint]:
    """What a class and those that it derives from say of the attributes of their objects; a text that names what is
    gone says nothing.
    """
    known = _declared.get(cls)
    if known is None:
        found: dict[str, Hint] = {}
        for one in reversed(cls.__mro__):
            scope = {**vars(builtins), **vars(sys.modules.get(one.__module__, builtins)), **vars(one)}
            for name, note in vars(one).get("__annotations__", {}).items():
                try:
                    found[name] = hint_of(note, scope)
                except TesseraError:  # a text that names what is gone
                    found[name] = ANY
        known = _declared[cls] = found
    return known


def receiver_of(spec: FunctionSpec, args: Iterable[Any]) -> Any:
    """The first of the arguments where it is the object that the function is a method of, else None."""
    return next(iter(args), None) if spec.params and spec.params[0].name == "self" else None


def sizes_of(spec: FunctionSpec, receiver: Any) -> dict[str, Dim]:
    """What the object of a method says of the dim names of its parameters."""
    if receiver is None:
        return {}
    found = {name: size_of(receiver, name) for name in spec.dim_names}
    return {name: size for name, size in found.items() if size is not None}


def size_of(receiver: Any, name: str) -> Dim | None:
    """The size that a dim name has by an object: an int attribute, or a dim of a declared tensor attribute."""
    if isinstance(receiver, Receiver):
        return receiver._size(name)
    value = getattr(receiver, name, None)
    if isinstance(value, int) and not isinstance(value, bool):
        return Dim.const(value) if value >= 0 else None
    for attribute, hint in declared(type(receiver)).items():
        a = hint.annotation
        if a is not None and name in a.names:
            size = _read(a, getattr(getattr(receiver, attribute, None), "shape", None), name)
            if size is not None:
                return Dim.const(size)
    return None


def declared_names(receiver: Any) -> frozenset[str]:
    """The dim names that an object's class declares."""
    cls = receiver.cls if isinstance(receiver, ObjectOf) else type(receiver)
    hints = declared(cls)
    sizes = (name for name, hint in hints.items() if hint.type is int)
    return frozenset((*sizes, *(name for hint in hints.values() for a in hint.tensors() for name in a.names)))


def _read(a: TensorAnnotation, shape: Any, name: str) -> int | None:
    """The size of the dim that is this name alone, in a shape that the annotation fits."""
    dims = a.dims or ()
    if shape is None or len(shape) < len(a.fixed) or (a.lead is None and len(shape) != len(dims)):
        return None
    at = next((n for n, d in enumerate(dims) if isinstance(d, Lead)), len(dims))
    for n, d in enumerate(dims):
        if isinstance(d, Dim) and d.is_name and name in d.names():
            return int(shape[n if n < at else n - len(dims)])
    return None


class Receiver(Poison):
    """The unknown object that a method belongs to, when the method is checked without one: it has what its class
    declares, and its class's methods. A tensor that may be None is there, and a bool is False.
    """

    __slots__ = ("_held", "_of")
    __hash__ = object.__hash__

    def __init__(self, session: Session, cls: type | None = None) -> None:
        super().__init__(session)
        self._of = cls
        self._held: dict[str, Any] = {}

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        helper = _method(self._of, name)
        if helper is not None:
            return partial(helper, self)
        if name not in self._held:
            hint = ANY if self._of is None else declared(self._of).get(name, ANY)
            self._held[name] = self._attribute(name, hint)
        return self._held[name]

    def _attribute(self, name: str, hint: Hint) -> Any:
        session, a = self._session, hint.annotation
        if a is not None and a.dims is not None and a.lead is None:
            dims = tuple(d.substitute(session.bindings) for d in a.fixed)
            return self._input(name, TensorType(a.dtype if isinstance(a.dtype, DType) else f32, dims))
        if hint.kind == "scalar" and not hint.optional:
            return self._input(name, ScalarType(session.scalar))
        if hint.type is int:
            return session.size(Dim.name(name).substitute(session.bindings))
        if hint.type is bool:  # what fails for True alone may be an option that goes with others
            return False
        session.specialised.setdefault("self", (0, caller_span()))
        return session.poison

    def _input(self, name: str, type_: Type) -> TensorHandle:
        """An attribute with data: a hidden argument, as it is where there is an object."""
        handle = make(self._session, self._session.builder.param(name, type_))
        handle._storage, handle._step = Storage(handle._value, f"`self.{name}`"), None
        self._session.captures[id(handle)] = (None, handle)
        return handle

    def _size(self, name: str) -> Dim | None:
        known = self._of is not None and name in declared_names(ObjectOf(self._of))
        return Dim.name(name).substitute(self._session.bindings) if known else None


def stand_in(session: Session, given: Any) -> Receiver:
    """What stands for an object of which only the class is known, or nothing."""
    return Receiver(session, given.cls if isinstance(given, ObjectOf) else None)


def _method(cls: type | None, name: str) -> FunctionType | None:
    """The method that a class itself gives to its objects, written in Python; None for anything else. What a class
    leaves to others to write, or a library's, is unknown.
    """
    if cls is None or inspect.isabstract(cls):
        return None
    found = inspect.getattr_static(cls, name, None)
    if not isinstance(found, FunctionType) or is_machinery(found.__code__.co_filename):
        return None
    return None if "NotImplementedError" in found.__code__.co_names else found
