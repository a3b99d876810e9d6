"""What objects hold, as values that can be compared: a variant must not outlive a change of it."""

from __future__ import annotations

import enum
import sys
import weakref
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache, partial
from itertools import chain
from operator import is_
from types import BuiltinFunctionType, FunctionType, MemberDescriptorType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch

#: Objects inside objects are looked into so deep, and containers up to so many members; beyond, what they are and how
#: many they hold is all that is seen.
DEEPEST, LARGEST = 24, 10_000
#: Bytes of a NumPy array up to which its values are compared.
_ARRAY_BYTES = 64 << 10

_PLAIN = (bool, int, str, bytes, torch.dtype, torch.device, torch.Size, type(None), type(...), range)
_ALONE = (torch.Tensor, FunctionType, BuiltinFunctionType, ModuleType, enum.Enum, torch.Generator)
#: Objects that are made anew wherever they are written, and are what their parts are.
_PARTS: dict[type, Callable[[Any], tuple[Any, ...]]] = {
    slice: lambda x: (x.start, x.stop, x.step),
    partial: lambda x: (x.func, x.args, x.keywords),
    MethodType: lambda x: (x.__func__, x.__self__),
}
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
    if cls is float or cls is complex or issubclass(cls, np.generic):
        return "number"
    if cls in _PARTS:
        return "parts"
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


def fingerprint(x: Any) -> Any:
    """Numbers and texts by value and type, containers and objects by what they hold, tensors and code by identity.

    >>> fingerprint([1, {"a": 2.0}]) == fingerprint([1, {"a": 2.0}]), fingerprint([1]) == fingerprint([True])
    (True, False)
    """
    return _print(x, (), set())


def _print(x: Any, within: tuple[int, ...], seen: set[int]) -> Any:
    """``seen`` are the objects whose contents stand in the fingerprint already: by how many ways they can be reached
    would cost time without end.
    """
    cls: Any = type(x)
    sort = _sort(cls)
    if sort == "plain":
        return (cls, x)
    if sort == "number":  # NaN equals nothing, and 0.0 equals -0.0
        return (cls, repr(x))
    if sort == "alone" or id(x) in within or len(within) > DEEPEST:
        return Same(x)
    if sort == "parts":
        return (cls, *[_print(v, (*within, id(x)), seen) for v in _PARTS[cls](x)])
    if sort in ("map", "sequence", "set"):
        return _contents(x, sort, within, seen)
    if sort == "array":
        small = x.nbytes <= _ARRAY_BYTES and not x.dtype.hasobject
        return (Same(x), x.shape, str(x.dtype), x.tobytes() if small else b"")
    if (within and sort in ("callable", "class")) or id(x) in seen:
        return Same(x)
    seen.add(id(x))
    held = _data_of(x) if sort == "class" else attributes(x)
    inside = (*within, id(x))
    return (Same(x), *[(k, _print(v, inside, seen)) for k, v in held])


def _contents(x: Any, sort: str, within: tuple[int, ...], seen: set[int]) -> Any:
    cls, inside = type(x), (*within, id(x))
    if not x:
        return cls
    if len(x) > LARGEST:
        return (Same(x), len(x))
    # A container is copied first: another thread may be changing it.
    if sort == "map":
        return (cls, *[(_member(k), _print(v, inside, seen)) for k, v in list(x.items())])
    if sort == "set":
        return (cls, frozenset(map(_member, list(x))))
    return (cls, *[_print(v, inside, seen) for v in list(x)])


def _member(x: Any) -> Any:
    return (type(x), x) if type(x) in _PLAIN else (type(x), repr(x)) if type(x) is float else Same(x)


class Snapshot:
    """What an object holds, by identity: a quick way to see that nothing has changed, and no more than that.

    It keeps alive what the object holds, but not the object.
    """

    __slots__ = ("classes", "counts", "empty", "held", "keys", "known", "lengths", "rows", "sets")

    def __init__(self) -> None:
        self.classes: set[type] = set()
        self.empty: list[object] = []
        #: Containers that are looked at in one go, one behind the other: how many members each had, and all of those.
        self.rows: list[Collection[Any]] = []
        self.counts: list[int] = []
        self.held: list[Any] = []
        #: The same for keys that are texts, of which equal ones are the same, compared in a third of the time.
        self.keys: list[Collection[str]] = []
        self.lengths: list[int] = []
        self.known: list[str] = []
        self.sets: list[tuple[set[Any], frozenset[Any]]] = []

    def holds(self) -> bool:
        """Whether everything is as it was."""
        if any(self.empty):
            return False
        try:
            if list(map(len, self.rows)) != self.counts or list(map(len, self.keys)) != self.lengths:
                return False
            if list(chain.from_iterable(self.keys)) != self.known:
                return False
            if not all(map(is_, chain.from_iterable(self.rows), self.held)):
                return False
            return all(members == was for members, was in self.sets)
        except RuntimeError:  # changed by another thread while it is read
            return False

    def note(self, members: Collection[Any]) -> None:
        """Members, in order, each of which has to stay."""
        taken = list(members)
        self.rows.append(members)
        self.counts.append(len(taken))
        self.held += taken

    def note_map(self, x: Mapping[Any, Any]) -> None:
        """Keys and values, through views that follow what happens to the mapping."""
        keys = list(x)
        if all(type(key) is str for key in keys):
            self.keys.append(x.keys())
            self.lengths.append(len(keys))
            self.known += keys
        else:
            self.note(x.keys())
        self.note(x.values())

    def add(self, x: Any, outermost: bool) -> list[Any] | None:
        """Note what an object holds and give it; None where comparing identities would miss a change."""
        cls: Any = type(x)
        sort = _sort(cls)
        if sort in ("plain", "number", "alone") or (sort in ("callable", "class") and not outermost):
            return []
        if sort == "parts":
            return list(_PARTS[cls](x))
        if sort in ("map", "sequence", "set") and not LARGEST >= len(x) > 0:
            self.empty.append(x)
            return None if x else []
        if isinstance(x, dict):
            self.note_map(x)
            return list(x.values())
        if isinstance(x, list):
            self.note(x)
        if isinstance(x, list | tuple | frozenset):
            return list(x)
        if isinstance(x, set) and all(type(member) in _PLAIN for member in x):
            self.sets.append((x, frozenset(x)))
            return []
        return self.add_object(x) if sort in ("object", "callable") else None

    def add_object(self, x: Any) -> list[Any] | None:
        """The attributes of an object, and the data of its classes."""
        kind: Any = type(x)
        members = list(_members(kind))
        if any(isinstance(member, MemberDescriptorType) for _, member in members):
            return None
        classes = [cls for cls in _own(kind) if cls not in self.classes]
        self.classes.update(classes)
        own: dict[str, Any] = getattr(x, "__dict__", {})
        for held in (own, *map(vars, classes)):
            self.note_map(held)
        return [*own.values(), *(member for _, member in members if not hasattr(member, "__get__"))]


def snapshot(x: Any) -> Snapshot | None:
    """A snapshot of what ``fingerprint`` looks at; None of what it could not compare, or would keep alive because it
    holds itself.

    >>> held = {"a": [1]}
    >>> taken = snapshot(held)
    >>> before = taken.holds()
    >>> held["a"].append(2)
    >>> before, taken.holds()
    (True, False)
    """
    taken, todo, seen = Snapshot(), [(x, 0)], {id(x)}
    while todo:
        one, depth = todo.pop()
        inside = taken.add(one, depth == 0)
        if inside is None or any(member is x for member in inside):
            return None
        for member in inside if depth < DEEPEST else ():
            if id(member) not in seen:
                seen.add(id(member))
                todo.append((member, depth + 1))
    return taken


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
