"""Methods of objects, and how a decorated function is found and told apart: by name, and by what its arguments hold."""

from __future__ import annotations

import functools
import importlib
import weakref
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tessera.driver.layout import TABLE
from tessera.frontend.binding import Bound, Leaf
from tessera.frontend.check import CheckReport, check


class Method:
    """A compiled method of one object; ``check``, ``ir``, ``lower`` and the others know the object."""

    def __init__(self, function: Any, instance: object) -> None:
        self.__func__, self.__self__ = function, instance
        self.__name__, self.__doc__ = function.fn.__name__, function.fn.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__func__(self.__self__, *args, **kwargs)

    def check(self) -> CheckReport:
        """As ``Function.check``, with what the object holds."""
        return check(self.__func__.spec, TABLE, receiver=self.__self__)

    def ir(self, stage: str = "fused", *args: Any, **kwargs: Any) -> str:
        """As ``Function.ir``."""
        return self.__func__.ir(stage, *self._given(args), **kwargs)

    def _given(self, args: tuple[Any, ...]) -> tuple[Any, ...]:
        return (self.__self__, *args) if args else ()

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.__func__, name)
        if name not in ("eager", "resolve", "lower", "explain", "cost"):
            return found
        if name == "eager":
            return functools.partial(found, self.__self__)
        return lambda *args, **kwargs: found(*self._given(args), **kwargs)

    def __repr__(self) -> str:
        return f"<tessera.function {self.__func__.spec.name} of {self.__self__!r}>"


def by_name(module: str, name: str) -> Any:
    """Find a decorated function again when it is unpickled: by where it is defined, never by its code."""
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def is_plain(leaf: Leaf) -> bool:
    """Is an argument None or a number or text of Python itself, whose value says everything about it?"""
    return leaf.value is None or type(leaf.value) in (int, bool, str, float)


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


#: Objects inside objects that are looked into.
_DEEPEST = 24


def fingerprints(bound: Bound) -> tuple[Any, ...]:
    """What objects given as static arguments hold: a compiled form must not outlive a change of it."""
    return tuple(_fingerprint(leaf.value, ()) for leaf in bound.leaves if leaf.kind == "static" and not is_plain(leaf))


def _fingerprint(x: Any, within: tuple[int, ...]) -> Any:
    """Numbers and texts by value, containers and objects by what they hold, tensors and code by identity."""
    if x is None or isinstance(x, bool | int | float | str):
        return (type(x), x)
    if isinstance(x, torch.Tensor) or id(x) in within or len(within) > _DEEPEST:
        return Same(x)
    inside = (*within, id(x))
    if isinstance(x, Mapping):
        return (type(x), *((k if isinstance(k, str) else Same(k), _fingerprint(v, inside)) for k, v in x.items()))
    if isinstance(x, list | tuple):
        return (type(x), *(_fingerprint(v, inside) for v in x))
    held = getattr(x, "__dict__", None)
    if not held or (within and callable(x) and not isinstance(x, torch.nn.Module)):
        return Same(x)
    return (Same(x), *((k, _fingerprint(v, inside)) for k, v in held.items()))
