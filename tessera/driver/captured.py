"""What a variant read of the world around it, and whether that is still so.

A trace reads globals, variables of enclosing functions, and what these hold, once. The variant serves a call only while
it would read the same again. What is read stands in the code of the function and of those that it calls: a chain such
as ``cfg.sizes[0]`` becomes one link for each step, compared by identity. Where an object goes elsewhere as a whole,
what it holds is compared. A tensor is a hidden argument: it may be another one of the same kind.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from operator import getitem
from types import CodeType, FunctionType, MemberDescriptorType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import torch

from tessera.driver.held import attributes, fingerprint, is_constant, of_library
from tessera.frontend.reads import Step, reads_of
from tessera.frontend.trace import Traced

_MISSING: Any = object()
#: Functions found behind one another, before the search is given up.
_MOST_CODE = 10_000
#: Objects whose methods are looked for.
_MOST_OBJECTS = 10_000

Visited = Iterable[tuple[CodeType, Mapping[str, object]]]


@dataclass(frozen=True, slots=True)
class Link:
    """One step of a read: ``get(owner, key)`` gave ``value``. ``kind`` is what a tensor was like."""

    get: Callable[[Any, Any], Any]
    owner: Any
    key: Any
    value: Any
    kind: tuple[object, ...] | None = None
    pinned: bool = True

    def now(self) -> Any:
        """What the step gives now; a mark where it gives nothing any more."""
        try:
            return self.get(self.owner, self.key)
        except (AttributeError, LookupError, TypeError, ValueError):
            return _MISSING

    def admits(self, now: Any) -> bool:
        """Whether a value may stand in the place of the one that was read."""
        if self.kind is not None:
            same = now is self.value or not self.pinned
            return same and isinstance(now, torch.Tensor) and _kind(now) == self.kind
        if now is self.value:
            return True
        return is_constant(now) and is_constant(self.value) and fingerprint(now) == fingerprint(self.value)

    @property
    def name(self) -> str:
        """How the user calls it."""
        return "a variable of an enclosing function" if self.key == "cell_contents" else f"`{self.key}`"


class Watch:
    """The links of one variant, and the objects whose contents it depends on."""

    __slots__ = ("deep", "fast", "links")

    def __init__(self, links: tuple[Link, ...] = (), deep: tuple[tuple[Any, Any], ...] = ()) -> None:
        self.deep = deep
        self._take(links)

    def _take(self, links: tuple[Link, ...]) -> None:
        self.links = links
        self.fast = tuple((link.get, link.owner, link.key, link.value) for link in links)

    def __bool__(self) -> bool:
        return bool(self.links or self.deep)

    def holds(self) -> bool:
        """Whether everything is as it was, in the fewest instructions: tensors are not looked at closely."""
        if not _same(self.fast):
            return self.settle() is not None
        return all(fingerprint(x) == held for x, held in self.deep) if self.deep else True

    def unchanged(self) -> Callable[[], bool]:
        """A question whether every link gives the very object that it gives now."""
        return partial(_same, self.fast)

    def settle(self) -> tuple[Link, ...] | None:
        """The links with what they give now, where the variant still serves; else None."""
        links = self.links
        found = [link.now() for link in links]
        if not all(link.admits(now) for now, link in zip(found, links, strict=True)):
            return None
        if any(fingerprint(x) != held for x, held in self.deep):
            return None
        if any(now is not link.value for now, link in zip(found, links, strict=True)):
            links = tuple(replace(link, value=now) for now, link in zip(found, links, strict=True))
            self._take(links)
        return links

    def changed(self) -> Link | None:
        """The first link that gives something else."""
        return next((link for link in self.links if not link.admits(link.now())), None)


def _same(fast: Iterable[tuple[Callable[[Any, Any], Any], Any, Any, Any]]) -> bool:
    """Does every step give the very object that it gave?"""
    try:
        for get, owner, key, value in fast:
            if get(owner, key) is not value:
                return False
    except (AttributeError, LookupError, TypeError, ValueError):
        return False
    return True


def _kind(x: torch.Tensor) -> tuple[object, ...]:
    return (type(x), x.dtype, x.shape, x.is_contiguous(), x.device, x.layout)


@dataclass
class Reader:
    """Collects the links of a function: its own reads, and those of the functions that it reaches."""

    links: dict[tuple[int, object], Link] = field(default_factory=dict)
    deep: dict[int, tuple[Any, Any]] = field(default_factory=dict)
    written: set[tuple[str, str]] = field(default_factory=set)
    todo: list[tuple[CodeType, Mapping[str, object], tuple[Any, ...]]] = field(default_factory=list)
    seen: set[tuple[int, ...]] = field(default_factory=set)
    names: set[str] = field(default_factory=set)
    objects: list[object] = field(default_factory=list)
    reached: set[int] = field(default_factory=set)
    modules: list[ModuleType] = field(default_factory=list)
    awaited: set[str] = field(default_factory=set)

    def root(self, function: Any, given: Iterable[object] = ()) -> None:
        """Follow the traced function; ``given`` are objects among its arguments, whose methods it may call."""
        code = getattr(function, "__code__", None)
        if code is None:
            return
        self.todo.append((code, function.__globals__, function.__closure__ or ()))
        for name in ("__defaults__", "__kwdefaults__"):
            self._default(function, name)
        self._reach(given)
        self._run()

    def visit(self, visited: Visited) -> None:
        """Follow code that was seen running, of which only the globals are known."""
        self.todo += ((code, globals_, ()) for code, globals_ in visited)
        for name in self.awaited & sys.modules.keys():
            self._whole(self._link(getitem, sys.modules, name))
        self._run()

    def effects(self) -> Link | None:
        """After the trace: forget what the function itself has changed, which is an effect of it and no input. Gives
        what somebody else changed meanwhile: the trace may have seen the one value or the other.
        """
        for at, link in list(self.links.items()):
            if not link.admits(link.now()):
                if not self._own(link):
                    return link
                del self.links[at]
        for key, (x, held) in list(self.deep.items()):
            if fingerprint(x) != held:
                del self.deep[key]
        return None

    def _own(self, link: Link) -> bool:
        """Whether the code that was followed sets what a link reads."""
        if link.key == "cell_contents":
            return any(kind == "free" for kind, _ in self.written)
        if link.get is getattr:
            return ("attr", link.key) in self.written
        return ("global", link.key) in self.written or ("item", "") in self.written

    def watch(self) -> Watch:
        """What was found."""
        owners: dict[int, int] = {}
        for link in self.links.values():
            owners[id(link.value)] = owners.get(id(link.value), 0) + 1
        # Where contents count, a tensor may be reached by a second way.
        free = not self.deep and not self.reached
        links = (
            replace(link, pinned=not free or owners[id(link.value)] > 1) if link.kind is not None else link
            for link in self.links.values()
        )
        return Watch(tuple(links), tuple(self.deep.values()))

    def _run(self) -> None:
        while self.todo and len(self.seen) < _MOST_CODE:
            code, globals_, closure = self.todo.pop()
            key = (id(code), id(globals_), *map(id, closure))
            if key in self.seen:
                continue
            self.seen.add(key)
            self._read(code, globals_, closure)
            fresh = set(code.co_names) - self.names
            self.names |= fresh
            for x in self.objects:
                self._methods(x, fresh)
            for module in self.modules:
                self._members(module, fresh)

    def _read(self, code: CodeType, globals_: Mapping[str, object], closure: tuple[Any, ...]) -> None:
        cells = dict(zip(code.co_freevars, closure, strict=False))
        found = reads_of(code)
        self.written |= found.written
        for read in found.reads:
            if read.kind == "global":
                if read.name in globals_:
                    self._follow(self._link(getitem, globals_, read.name), read.steps)
            elif read.kind == "free":
                if read.name in cells:
                    self._follow(self._link(getattr, cells[read.name], "cell_contents"), read.steps)
            else:
                self._import(read.name, globals_)

    def _import(self, name: str, globals_: Mapping[str, object]) -> None:
        """A module that code imports where it runs; one that the trace imports is followed afterwards."""
        package = globals_.get("__package__")
        if name.startswith("."):
            if not isinstance(package, str) or not package:
                return
            name = importlib.util.resolve_name(name, package)
        if name in sys.modules:
            self._whole(self._link(getitem, sys.modules, name))
        else:
            self.awaited.add(name)

    def _link(self, get: Callable[[Any, Any], Any], owner: Any, key: Any) -> Any:
        at = (id(owner), key)
        known = self.links.get(at)
        if known is not None:
            return known.value
        try:
            value = get(owner, key)
        except (AttributeError, LookupError, TypeError, ValueError):
            return _MISSING
        self.links[at] = Link(get, owner, key, value, _kind(value) if isinstance(value, torch.Tensor) else None)
        return value

    def _follow(self, value: Any, steps: tuple[Step, ...]) -> None:
        """Link what the steps lead to, as far as each is a plain look-up; the last object is taken as a whole."""
        for how, name in steps:
            if value is _MISSING or isinstance(value, torch.Tensor) or is_constant(value):
                return
            if how == "item":
                if type(value) not in (list, dict):
                    break
                value = self._link(getitem, value, name)
                continue
            if isinstance(value, ModuleType | type) and of_library(getattr(value, "__module__", value.__name__)):
                return
            if not isinstance(value, ModuleType) and not self._is_data(value, str(name)):
                break
            value = self._link(getattr, value, name)
        if value is not _MISSING:
            self._whole(value)

    def _is_data(self, x: Any, name: str) -> bool:
        """Whether an attribute is one that is only stored; what a method or a property reads is followed instead."""
        found = inspect.getattr_static(x, name, _MISSING)
        if found is _MISSING:
            return isinstance(x, torch.nn.Module)
        if name in getattr(x, "__dict__", ()) or isinstance(found, MemberDescriptorType):
            return True
        function = found.fget if isinstance(found, property) else _own(found, "__func__") or found
        if hasattr(type(found), "__get__"):
            self._function(function)
            return isinstance(found, staticmethod) or (isinstance(x, type) and isinstance(found, FunctionType))
        return True

    def _whole(self, x: Any) -> None:
        """An object that goes where it is not followed: its contents count, and the functions that it stands for."""
        inner = _own(x, "__func__")
        if isinstance(x, FunctionType):
            self._function(x)
        elif inner is not None and hasattr(x, "__self__"):  # a method of an object, compiled or not
            self._function(inner)
            self._whole(x.__self__)
        elif isinstance(_own(x, "fn"), FunctionType) and of_library(type(x).__module__):
            self._function(x.fn)
        elif isinstance(_own(x, "__wrapped__"), FunctionType):
            self._function(x.__wrapped__)
        elif isinstance(x, partial):
            for part in (x.func, x.args, x.keywords):
                self._whole(part)
        elif isinstance(x, ModuleType):
            if not of_library(x.__name__) and not any(x is known for known in self.modules):
                self.modules.append(x)
                self._members(x, self.names)
        elif not (is_constant(x) or isinstance(x, torch.Tensor | MethodType)):
            self._contents(x)

    def _members(self, module: ModuleType, names: Iterable[str]) -> None:
        """What a module that goes where it is not followed has under the names that the code has."""
        for name in vars(module).keys() & names:
            self._whole(self._link(getattr, module, name))

    def _contents(self, x: Any) -> None:
        if id(x) in self.deep or (isinstance(x, type) and of_library(x.__module__)):
            return
        held = fingerprint(x)
        self.deep[id(x)] = (x, held)
        self._reach((x,))

    def _reach(self, given: Iterable[object]) -> None:
        """Objects that code may get at, one in the other: the functions and modules that they hold, and by the names
        that the code has their methods.
        """
        todo = list(given)
        while todo and len(self.objects) < _MOST_OBJECTS:
            x = todo.pop()
            if isinstance(x, MethodType):
                todo += (x.__func__, x.__self__)
            elif isinstance(x, partial):
                todo += (x.func, *x.args, *x.keywords.values())
            elif isinstance(x, FunctionType | ModuleType):
                self._whole(x)
            elif id(x) not in self.reached and not isinstance(x, torch.Tensor | type):
                self.reached.add(id(x))
                if isinstance(x, Mapping):
                    todo += list(x.values())[:_MOST_OBJECTS]
                elif isinstance(x, list | tuple):
                    todo += x[:_MOST_OBJECTS]
                elif isinstance(x, torch.nn.Module | SimpleNamespace) or not of_library(type(x).__module__):
                    self.objects.append(x)
                    self._methods(x, self.names | {"__call__", "forward"})
                    todo += [value for _, value in attributes(x)]

    def _methods(self, x: object, names: Iterable[str]) -> None:
        """The functions of these names in an object's own classes."""
        for cls in type(x).__mro__:
            if of_library(cls.__module__):
                continue
            for name in names:
                found = vars(cls).get(name)
                self._function(found.fget if isinstance(found, property) else _own(found, "__func__") or found)

    def _function(self, found: Any) -> None:
        """A function that may be called: what it reads counts, and its defaults."""
        function = inspect.unwrap(found) if isinstance(found, FunctionType) else _own(found, "fn")
        for one in (found,) if function is found else (found, function):
            if isinstance(one, FunctionType) and not of_library(one.__module__):
                self.todo.append((one.__code__, one.__globals__, one.__closure__ or ()))
                for name in ("__code__", "__defaults__", "__kwdefaults__"):
                    self._default(one, name)

    def _default(self, function: Any, name: str) -> None:
        """What a function has instead of arguments that are left out."""
        if getattr(function, name) is None:
            return
        value = self._link(getattr, function, name)
        if isinstance(value, dict | tuple):
            self._whole(value)


def _own(x: Any, name: str) -> Any:
    """An attribute that an object or its class holds, else None: ``__getattr__`` may answer for any name, or raise."""
    return None if inspect.getattr_static(x, name, None) is None else getattr(x, name)


def places(traced: Traced, watch: Watch) -> tuple[int, ...]:
    """For each input of a traced function the link that gives the tensor in a call; -1 for all others."""
    links = {id(link.value): n for n, link in enumerate(watch.links) if link.kind is not None and not link.pinned}
    return tuple(links.get(id(i.captured), -1) if i.kind == "capture" else -1 for i in traced.inputs)


def kinds(traced: Traced) -> tuple[tuple[object, ...], ...]:
    """What the captured tensors are like now; a variant serves while that stays so."""
    return tuple(_kind(i.captured) for i in traced.inputs if isinstance(i.captured, torch.Tensor))


__all__ = ["Link", "Reader", "Watch", "kinds", "places"]
