"""What objects hold, as values that can be compared: a variant must not outlive a change of it."""

from __future__ import annotations

import enum
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import torch

#: Objects inside objects are looked into so deep, and containers up to so many members; beyond, what they are and how
#: many they hold is all that is seen.
DEEPEST, LARGEST = 24, 10_000
#: Bytes of a NumPy array up to which its values are compared.
_ARRAY_BYTES = 64 << 10

_PLAIN = (bool, int, str, bytes, torch.dtype, torch.device, torch.Size, type(None), type(...), range)
_ALONE = (torch.Tensor, FunctionType, BuiltinFunctionType, MethodType, ModuleType, enum.Enum, torch.Generator)
_LIBRARIES = sys.stdlib_module_names | {"torch", "tessera", "numpy", "jaxtyping", "beartype"}


def of_library(module: object) -> bool:
    """Whether a module, by its name, is Python's, torch's or our own: nobody changes those between two calls."""
    return isinstance(module, str) and module.partition(".")[0] in _LIBRARIES


class Same:
    """An object as part of a key: equal to itself alone, and to nothing once it is gone, though its address may be
    given to another.
    """

    __slots__ = ("number", "ref")

    def __init__(self, x: object) -> None:
        self.number = id(x)
        try:
            self.ref: Callable[[], object] = weakref.ref(x)
        except TypeError:
            self.ref = lambda: x

    def __hash__(self) -> int:
        return self.number

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Same) or self.number != other.number:
            return False
        mine = self.ref()
        return mine is not None and mine is other.ref()


def is_constant(x: object) -> bool:
    """Whether a value can never change in place: numbers, texts, dtypes, and tuples of such."""
    todo = [x]
    while todo:
        one = todo.pop()
        if type(one) is tuple or type(one) is frozenset:
            todo += one
        elif type(one) not in (*_PLAIN, float, complex):
            return False
    return True


@lru_cache(maxsize=4096)
def _sort(cls: type) -> str:
    """How objects of a class are compared: by value, alone, or by what they hold."""
    if cls in _PLAIN:
        return "plain"
    if cls is float or cls is complex:
        return "number"
    if issubclass(cls, _ALONE):
        return "alone"
    for sort, bases in (("map", Mapping), ("sequence", (list, tuple)), ("set", (set, frozenset)), ("class", type)):
        if issubclass(cls, bases):
            return sort
    if hasattr(cls, "__array_interface__"):
        return "array"
    if not issubclass(cls, torch.nn.Module) and any("__call__" in vars(one) for one in cls.__mro__):
        return "alone" if of_library(cls.__module__) else "callable"
    return "object"


def fingerprint(x: Any, within: tuple[int, ...] = ()) -> Any:
    """Numbers and texts by value and type, containers and objects by what they hold, tensors and code by identity.

    >>> fingerprint([1, {"a": 2.0}]) == fingerprint([1, {"a": 2.0}]), fingerprint([1]) == fingerprint([True])
    (True, False)
    """
    cls: Any = type(x)
    sort = _sort(cls)
    if sort == "plain":
        return (cls, x)
    if sort == "number":  # NaN equals nothing, and 0.0 equals -0.0
        return (cls, repr(x))
    if sort == "alone" or id(x) in within or len(within) > DEEPEST:
        return Same(x)
    if sort in ("map", "sequence", "set"):
        return _contents(x, sort, within)
    if sort == "array":
        small = x.nbytes <= _ARRAY_BYTES and not x.dtype.hasobject
        return (Same(x), x.shape, str(x.dtype), x.tobytes() if small else b"")
    if within and sort in ("callable", "class"):
        return Same(x)
    held = _data_of(x) if sort == "class" else attributes(x)
    inside = (*within, id(x))
    return (Same(x), *[(k, fingerprint(v, inside)) for k, v in held])


def _contents(x: Any, sort: str, within: tuple[int, ...]) -> Any:
    cls, inside = type(x), (*within, id(x))
    if not x:
        return cls
    if len(x) > LARGEST:
        return (Same(x), len(x))
    if sort == "map":
        return (cls, *[(_member(k), fingerprint(v, inside)) for k, v in x.items()])
    if sort == "set":
        return (cls, frozenset(map(_member, x)))
    return (cls, *[fingerprint(v, inside) for v in x])


def _member(x: Any) -> Any:
    return (type(x), x) if type(x) in _PLAIN else (type(x), repr(x)) if type(x) is float else Same(x)


def attributes(x: object) -> Iterator[tuple[str, Any]]:
    """What an object holds by name: its own attributes, its slots, and the data of its class."""
    yield from list(getattr(x, "__dict__", {}).items())
    for name, member in _members(type(x)):
        if isinstance(member, MemberDescriptorType):
            try:
                yield name, member.__get__(x)
            except AttributeError:  # a slot that nothing was put in
                continue
        elif not hasattr(member, "__get__"):
            yield name, member


def _data_of(cls: type) -> Iterator[tuple[str, Any]]:
    return ((name, member) for name, member in _members(cls) if not hasattr(member, "__get__"))


def _members(cls: type) -> Iterator[tuple[str, Any]]:
    """The members of a class and of those it derives from, libraries' left out."""
    for one in _own(cls):
        yield from ((name, member) for name, member in list(vars(one).items()) if not name.startswith("__"))


@lru_cache(maxsize=4096)
def _own(cls: type) -> tuple[type, ...]:
    return tuple(one for one in cls.__mro__ if not of_library(one.__module__))
